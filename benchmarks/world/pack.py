"""Write the model as the package would carry it: world/, world-clip/, world.json, MODEL_CARD.md.

`python -m benchmarks.world pack [--into FOLDER]`, build/packed unless given. `world/` is a plain
diffusers StableDiffusionPipeline folder, `world-clip/` a folder that open_clip loads as
"local-dir:...", both in half precision; world.json says what the model knows and how good it is,
MODEL_CARD.md the same for people.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from benchmarks.world.captions import PAIRS, known
from benchmarks.world.catalog import HERE, read_concepts, read_sets, read_tree
from benchmarks.world.evaluate import GUIDANCE, METRICS, STEPS, draw, verdicts
from benchmarks.world.generator import load_pipeline
from benchmarks.world.scenes import COLOURS, PAIRS_UNSEEN, SIZE
from benchmarks.world.scorer import load_scorer, scores, text_matrix
from benchmarks.world.sprites import BUILD, load_sprites
from benchmarks.world.training import load_checkpoint

EMBEDDED = HERE.parents[1] / "erasekit" / "embedded"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
LIMIT_MB = 25.5
"""Beside icons' 21 MB, in a wheel of 45 MB at most, which packs half precision to 93 %."""
CARD = """\
# world

A text-to-image model with Stable Diffusion's own anatomy (tokenizer, CLIP text encoder, UNet with
cross-attention, autoencoder, DDIM), trained from nothing on scenes of {drawings} drawings of
{concepts} things in {families} families: one thing or two, {size}x{size} pixels. It exists so that
concept erasure can be tried and measured on a CPU. `world/` is a diffusers
`StableDiffusionPipeline` folder, `world-clip/` an independent scorer in open_clip's format;
{megabytes:.1f} MB in half precision together. Recommended: {steps} DDIM steps, guidance {guidance}.

## What it knows

`world.json` lists the concepts with their aliases, styles, families (a tree) and the split of each
family into a pool and a held-out part. Prompts: a name, an alias or a family, bare or as "a photo
of NAME"; "a COLOUR NAME" ({colours}); "NAME on a COLOUR background"; "NAME on the left" or "right";
"NAME next to NAME" and the like; "NAME in the style of STYLE" ({styles}). "a photo" is neutral.
{unseen:.0f} % of the pairs of concepts are in no training scene. Words it never saw draw nothing in
particular.

Stand-ins, to be kept in mind when reading results:

{notes}

## Quality

{quality}

## Data

Generator and scorer learn from different sets, nothing under a ShareAlike licence. The drawings
keep their own licences; the weights are under Apache-2.0, like the project.

| set | licence | author | for |
|---|---|---|---|
{sets}

## Training

{training}

The recipe is `benchmarks/world/`.

## Limits

- It has learnt few drawings of each concept nearly by heart, and two things stand beside each
  other, never in front of each other.
- "a photo" is a manner of speaking: it draws icons.
- The scorer knows these concepts only; its cosines aren't comparable with other CLIP models'.
- The model knows nothing explicit, and no real person.
"""


def save_generator(pipeline: StableDiffusionPipeline, folder: Path, tokenizer: Path) -> None:
    """The pipeline in half precision, with the tokenizer's older file names as well."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, folder / "tokenizer" / name)
    weights = folder / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    # transformers before 5 want the prefix, later ones take it.
    prefixed = {f"text_model.{key.removeprefix('text_model.')}": v for key, v in state.items()}
    save_file(prefixed, weights, metadata={"format": "pt"})
    for config in folder.glob("*/config.json"):
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        if config.parent.name == "text_encoder":
            # Else newer transformers load it in half precision and the UNet stays in single.
            content["dtype"] = content["torch_dtype"] = "float32"
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def save_scorer(folder: Path, build: Path) -> None:
    """The scorer in half precision, in open_clip's folder format."""
    model, _ = load_scorer(build / "checkpoints" / "scorer.pt")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TOKENIZER_FILES, "open_clip_config.json"):
        shutil.copyfile(build / "scorer" / name, folder / name)
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def known_concepts(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What world.json says about each concept; ambiguous aliases are left out."""
    sets, tree = read_sets(), read_tree()
    styles: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if style := sets[record["set"]].style:
            styles[record["concept"]].add(style)
    counts = Counter(record["concept"] for record in records)
    return [
        {
            "name": concept.name,
            "kind": concept.kind,
            "family": concept.family,
            "parents": list(tree[concept.family][1:]),
            "split": concept.split,
            "aliases": list(names.aliases),
            "styles": sorted(styles[concept.name]),
            "drawings": counts[concept.name],
            **({"note": concept.note} if concept.note else {}),
        }
        for names, concept in zip(known(), read_concepts(), strict=True)
    ]


def content_of(folder: Path, build: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """world.json."""
    trained = {}
    for part in ("autoencoder", "generator", "scorer"):
        state = load_checkpoint(build / "checkpoints" / f"{part}.pt") or {}
        trained[part] = {k: state[k] for k in ("step", "samples", "seconds") if k in state}
    return {
        "schema": 1,
        "name": "world",
        "scorer": "world-clip",
        "size": SIZE,
        "guidance_scale": GUIDANCE,
        "steps": STEPS,
        "neutral": "a photo",
        "prompt_template": "a photo of {}",
        "style_template": "{} in the style of {}",
        "pair_template": PAIRS[0],
        "trained": trained,
        "hashes": {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*.safetensors"))
        },
        "metrics": metrics,
        "concepts": known_concepts(load_sprites(build / "sprites.npz").records),
    }


def card(content: dict[str, Any], megabytes: float) -> str:
    """MODEL_CARD.md, from world.json's content."""
    concepts, sets, metrics = content["concepts"], read_sets(), content["metrics"]
    quality = "Not measured yet."
    if metrics:
        lines = [f"- {line}" for line in verdicts(metrics)]
        lines.append(f"- seen pairs, both named: {metrics['seen_pairs']['both']:.1f} %")
        weak = [name for name, value in metrics["single"]["per_concept"].items() if value < 0.5]
        lines.append(f"- fewer than half named right: {', '.join(weak) or 'none'}")
        quality = "\n".join(lines)
    return CARD.format(
        drawings=sum(c["drawings"] for c in concepts),
        concepts=len(concepts),
        families=len({c["family"] for c in concepts}),
        size=content["size"],
        megabytes=megabytes,
        steps=content["steps"],
        guidance=content["guidance_scale"],
        colours=", ".join(COLOURS),
        styles=", ".join(s.style for s in sets.values() if s.style),
        unseen=100 * PAIRS_UNSEEN,
        notes="\n".join(f"- {c['name']}: {c['note']}" for c in concepts if "note" in c),
        quality=quality,
        sets="\n".join(
            f"| {f'[{s.title}]({s.url})' if s.url else s.title} | {s.licence} | {s.author} | "
            f"{'measuring the scorer' if s.role == 'scorer-eval' else s.role} |"
            for s in sets.values()
        ),
        training="\n".join(
            f"- {part}: " + ", ".join(f"{value:,.0f} {key}" for key, value in spent.items())
            for part, spent in content["trained"].items()
        ),
    )


def pack(target: Path | None = None, build: Path = BUILD) -> Path:
    """Write everything beside the target, check that it loads, then move it in place."""
    target = target or build / "packed"
    metrics = json.loads(METRICS.read_text()) if METRICS.exists() and build == BUILD else {}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        fresh = Path(scratch) / "packed"
        pipeline = load_pipeline(build / "checkpoints" / "generator.pt")
        save_generator(pipeline, fresh / "world", build / "tokenizer")
        save_scorer(fresh / "world-clip", build)
        content = content_of(fresh, build, metrics)
        (fresh / "world.json").write_text(json.dumps(content, indent=1) + "\n")
        size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file()) / 1e6
        (fresh / "MODEL_CARD.md").write_text(card(content, size))
        if size > LIMIT_MB:
            raise ValueError(f"{size:.1f} MB; the wheel has room for {LIMIT_MB} MB")
        check(fresh, build)
        for name in ("world", "world-clip"):
            shutil.rmtree(target / name, ignore_errors=True)
        for name in ("world", "world-clip", "world.json", "MODEL_CARD.md"):
            (fresh / name).replace(target / name)
    print(f"packed {size:.1f} MB into {target}")
    return target


def check(folder: Path, build: Path) -> None:
    """Load both models as a user would; the scorer must judge a picture as the trained one does."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "world", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = draw(pipeline, ["a photo of a church"], [0], steps=2)
    if image.shape != (1, 3, SIZE, SIZE):
        raise ValueError(f"the packed pipeline draws pictures of {tuple(image.shape)}")
    place = f"local-dir:{folder / 'world-clip'}"
    model = open_clip.create_model(place, precision="fp32").eval()
    packed = scores(model, image, text_matrix(model, open_clip.get_tokenizer(place), ["church"]))
    trained, tokenizer = load_scorer(build / "checkpoints" / "scorer.pt")
    wanted = scores(trained, image, text_matrix(trained, tokenizer, ["church"]))
    if not torch.allclose(packed, wanted, atol=0.02):
        raise ValueError("the packed scorer differs from the trained one")
