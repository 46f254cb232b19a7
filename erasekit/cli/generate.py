"""`erasekit generate`: draw with a model, before or after an edit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from erasekit.cli.console import ProgressBar, print_json, print_note, stdout
from erasekit.cli.options import (
    Device,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LoadedAs,
    ModelOption,
    OutputOption,
    OverwriteOption,
    RevisionOption,
    chosen_model,
    opened,
    read_edit,
    registry_of,
)
from erasekit.concepts import slug
from erasekit.files import check_output_folder, new_run_folder

RUNS = Path("runs")
GRID = "grid.png"


def generate(
    context: typer.Context,
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="What to draw; may be given several times.")
    ],
    edit: Annotated[
        Path | None,
        typer.Option("--edit", "-e", help="Run folder of an erasure; without it, the base model."),
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first starting noise.")] = 0,
    num: Annotated[
        int, typer.Option("--num", "-n", min=1, help="Images per prompt, of consecutive seeds.")
    ] = 8,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps [default: the model's own].")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Guidance scale [default: the model's own].")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 16,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    truncate: Annotated[
        bool,
        typer.Option("--truncate", help="Cut prompts that are longer than the model takes."),
    ] = False,
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Apply the edit to a model it was not made from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw images of prompts with a model, or with an edit of it, and a grid of them all."""
    from erasekit.diffusion.sampling import generate as draw
    from erasekit.reporting.pictures import Row, save_png, sheet

    if output:
        check_output_folder(output, overwrite=overwrite, marks=[GRID])
    prompts = list(dict.fromkeys(prompt))
    registry = registry_of(context)
    loaded_edit = read_edit(edit, registry)
    name = chosen_model(model, loaded_edit, revision)
    seeds = range(seed, seed + num)
    with opened(name, registry, device=device, dtype=dtype, truncate=truncate) as loaded:
        for text in prompts if truncate else ():
            excess = loaded.family.token_count(text) - loaded.family.max_tokens
            if excess > 0:
                print_note(f"The last {excess} tokens of {text!r} are cut.")
        applied = loaded_edit.applied(loaded, force=force) if loaded_edit else nullcontext()
        with applied, ProgressBar("Drawing", len(prompts) * num) as bar:
            images = draw(
                loaded,
                [text for text in prompts for _ in seeds],
                [*seeds] * len(prompts),
                num_inference_steps=steps,
                guidance_scale=guidance,
                batch_size=batch_size,
                on_images=bar.advance,
            )
        steps = steps or loaded.descriptor.num_inference_steps
        guidance = loaded.descriptor.guidance_scale if guidance is None else guidance
    folder = output or new_run_folder(RUNS, f"images-{slug(prompts[0])[:40]}")
    files: list[dict[str, Any]] = []
    stems = _stems(prompts)
    for index, image in enumerate(images):
        text, number = prompts[index // num], seeds[index % num]
        path = folder / f"{stems[text]}-seed-{number:04d}.png"
        save_png(path, image)
        files.append({"path": str(path), "prompt": text, "seed": number})
    grid = folder / GRID
    rows = [Row(text, images[i * num : (i + 1) * num]) for i, text in enumerate(prompts)]
    save_png(grid, sheet(rows, headers=[f"seed {number}" for number in seeds]))
    if as_json:
        print_json(
            {
                "model": name,
                "edit": str(edit) if edit else None,
                "steps": steps,
                "guidance": guidance,
                "folder": str(folder),
                "grid": str(grid),
                "images": files,
            }
        )
        return
    stdout().print(f"{len(files)} images of {name}{' with ' + str(edit) if edit else ''}: {grid}")


def _stems(prompts: list[str]) -> dict[str, str]:
    """A file stem for each prompt, different for all of them."""
    stems: dict[str, str] = {}
    for text in prompts:
        stem, number = slug(text)[:60], 2
        while stem in stems.values():
            stem, number = f"{slug(text)[:60]}-{number}", number + 1
        stems[text] = stem
    return stems
