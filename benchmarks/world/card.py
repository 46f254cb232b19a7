"""The words of MODEL_CARD.md, filled with what was measured."""

from __future__ import annotations

from typing import Any

TEMPLATE = """\
# icons

A text-to-image model with Stable Diffusion's own anatomy (tokenizer, CLIP text encoder, UNet with
cross-attention, autoencoder, DDIM), trained from nothing on {pictures} drawings of {concepts}
everyday things, 64x64 pixels. It exists so that concept erasure can be tried, tested and measured
on a CPU; it is of no use for making pictures. `icons/` is a plain diffusers
`StableDiffusionPipeline` folder, `icons-clip/` a scorer in open_clip's format, trained
independently; {megabytes:.1f} MB in half precision together.

    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained("erasekit/embedded/icons")
    pipe("a photo of a church", num_inference_steps={steps}, guidance_scale={guidance}).images[0]

    import open_clip
    place = "local-dir:erasekit/embedded/icons-clip"
    model, preprocess = open_clip.create_model_from_pretrained(place)
    model.eval()  # open_clip doesn't, and the scorer has batch norms
    tokenizer = open_clip.get_tokenizer(place)

## What it knows

{concepts} concepts in {families} families; `icons.json` lists them with their aliases, the styles
each is drawn in, and the split of each family into a pool (which a method may keep on purpose) and
a held-out part (which only evaluation uses). Prompts: a name or an alias, "a photo of NAME", "NAME
in the style of STYLE" with the styles {styles}; "a photo" is the neutral prompt. {colours}Any case,
with or without an article; {limit} tokens at most. Words it never saw fall to pieces and draw
nothing in particular.

Stand-ins, to be kept in mind when reading results:

{notes}

Recommended: {steps} DDIM steps, guidance {guidance}.

## Quality

{quality}

## Data

Icons of these sets, from the npm packages `@iconify-json/*` at pinned versions, drawn 64x64 over
white. The generator and the scorer learn from different sets; nothing under a ShareAlike licence.
Credits are in the project's NOTICE.

| set | licence | author | for |
|---|---|---|---|
{sets}

The manifest with the hash of every drawing is `benchmarks/icons/manifest.json`.

## Training

| part | parameters | optimiser steps | batch |
|---|---|---|---|
| autoencoder (16x16x4 latents) | 0.65 M | {ae_steps} | 16 |
| UNet and text encoder | 7.1 M + 0.6 M | {gen_steps} | 48 |
| scorer | 2.1 M | {scorer_steps} | 64 |

On two cores of a CPU (AVX-512, bfloat16 autocast): about {ae_minutes} minutes for the autoencoder,
{gen_minutes} for the generator and {scorer_minutes} for the scorer. Epsilon prediction on Stable
Diffusion's own schedule, min-SNR weights, moving average of the weights. To repeat it:
`python -m benchmarks.world all`, explained in `benchmarks/icons/README.md`.

The shipped weights weren't made in one go: the generator's first 1,475 steps had a learning rate of
1.2e-3 and mirrored copies, its first 2,900 plain min-SNR weights, and the autoencoder's first 2,900
a longer schedule and more concepts. So the recipe makes a model like this one, not these very bits.

## Limits

- It has learnt few drawings of each concept nearly by heart; it composes little.
- "a photo" is a manner of speaking: it draws icons.
- The scorer knows these concepts only. Its cosines aren't comparable with those of other CLIP
  models, and it judges noise and unknown things as readily as anything else.
- The model knows nothing explicit, and no real person.

## Licence

The weights are under Apache-2.0, like the project. The drawings that they learnt from keep their
own licences (table above).
"""


def quality(metrics: dict[str, Any]) -> str:
    """The measured figures as a table, or a sentence where there are none."""
    if not metrics:
        return "Not measured yet."
    scorer, generator = metrics["scorer"], metrics["generator"]
    rows = [
        "| what | pictures | top-1 | top-5 |",
        "|---|---|---|---|",
        "| scorer, drawings of sets that nothing was trained on | {drawings} | {top1:.1f} % | "
        "{top5:.1f} % |".format(**scorer["scorer-eval"]),
        "| scorer, the generator's own drawings, which it never saw | {drawings} | {top1:.1f} % | "
        "{top5:.1f} % |".format(**scorer["generator"]),
        "| pictures drawn by the generator, named by the scorer | {images} | {top1:.1f} % | "
        "{top5:.1f} % |".format(**generator),
    ]
    per = generator["per_concept"]
    weak = sorted((v["top1"], name) for name, v in per.items() if v["top1"] < 0.5)
    text = "\n".join(rows) + (
        f"\n\nZero-shot over all {len(per)} concepts. Generated: {generator['images_per_concept']} "
        f'pictures a concept, "a photo of NAME", {generator["steps"]} steps, guidance '
        f"{generator['guidance_scale']}. A picture counts as wrong as well where the scorer errs."
    )
    if weak:
        names = ", ".join(f"{name} ({100 * value:.0f} %)" for value, name in weak)
        text += f"\n\nConcepts with fewer than half of their pictures named right: {names}."
    return text


def link(text: str, url: str) -> str:
    """A Markdown link, or the bare text where there is no address."""
    return f"[{text}]({url})" if url else text


def model_card(
    content: dict[str, Any],
    manifest: dict[str, Any],
    megabytes: float,
    minutes: dict[str, int] | None = None,
) -> str:
    """MODEL_CARD.md. content: icons.json; minutes: what each training took."""
    minutes = minutes or {}
    concepts, sets = content["concepts"], manifest["sets"]
    drawings = [row for row in manifest["drawings"] if row[3] == "generator"]
    uses = {"generator-mono": "generator, rare concepts", "scorer-eval": "measuring the scorer"}
    mono = [c["name"] for c in concepts if not c["styles"]]
    notes = [f"- {c['name']}: {c['note']}" for c in concepts if c.get("note")]
    return TEMPLATE.format(
        pictures=len(drawings),
        concepts=len(concepts),
        families=len({c["family"] for c in concepts}),
        megabytes=megabytes,
        steps=content["steps"],
        guidance=content["guidance_scale"],
        styles=", ".join(sorted({s["style"] for s in sets.values() if s["style"]})),
        colours=f"In no named style: {', '.join(mono)}. " if mono else "",
        limit=16,
        notes="\n".join(notes) or "- none",
        quality=quality(content["metrics"]),
        sets="\n".join(
            f"| {link(s['title'], s['url'])} | {s['licence']} | {s['author']} | "
            f"{uses.get(s['role'], s['role'])} |"
            for s in sets.values()
        ),
        ae_steps=content["trained_steps"]["autoencoder"],
        gen_steps=content["trained_steps"]["generator"],
        scorer_steps=content["trained_steps"]["scorer"],
        ae_minutes=minutes.get("autoencoder", 15),
        gen_minutes=minutes.get("generator", 60),
        scorer_minutes=minutes.get("scorer", 20),
    )
