"""`erasekit trace`: what a run preserved along the way, as a table, curves and pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erasekit.cli.console import ProgressBar, print_json, print_note, stdout
from erasekit.cli.options import (
    Device,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LoadedAs,
    ModelOption,
    RevisionOption,
    chosen_model,
    opened,
    path_option,
    registry_of,
)
from erasekit.files import writing

if TYPE_CHECKING:
    from erasekit.edits import Edit
    from erasekit.models.loading import LoadedModel

PLOT, STRIP = "trace.png", "adversaries.png"
WORDS = 10


def trace(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Run folder of an erasure.")],
    rows: Annotated[int, typer.Option(min=1, help="Steps in the table.")] = 12,
    pictures: Annotated[
        int, typer.Option(min=0, help="Pictures of c_a along the run; 0 draws none.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Starting noise of the pictures.")] = 0,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    output: Annotated[
        Path | None,
        path_option("FOLDER", "Folder for the pictures [default: the run's]."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's history: losses, the concepts it preserved, and what c_a looked like.

    The strip draws the adversarial concept c_a at steps along the run with the base model, from
    one starting noise: a word where the method preserves words, else the embedding itself.
    """
    from erasekit.edits import load_edit
    from erasekit.reporting.figures import plot_history
    from erasekit.reporting.run_table import (
        adversaries_table,
        adversary_uses,
        history_table,
        ranks,
        ranks_table,
        sampled,
    )

    edit = load_edit(run, registry_of(context))
    title = f"{edit.info['method']}: {' + '.join(edit.info['concepts'])}"
    folder = output or run
    strip = None
    if pictures:
        name = chosen_model(model, edit, revision)
        with opened(name, registry_of(context), device=device, dtype=dtype) as loaded:
            strip = _draw_strip(edit, run, folder / STRIP, loaded, pictures, seed)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    plot = folder / PLOT if plot_history(edit.history, folder / PLOT, title) else None
    uses, found = adversary_uses(edit.history, WORDS), ranks(edit.history)
    if as_json:
        print_json(
            {
                "run": str(run),
                "method": edit.info["method"],
                "concepts": edit.info["concepts"],
                "steps": len(edit.history),
                "history": sampled(edit.history, rows),
                "adversaries": [dataclasses.asdict(use) for use in uses],
                "ranks": found,
                "plot": str(plot) if plot else None,
                "strip": str(strip) if strip else None,
            }
        )
        return
    console = stdout()
    if all(record["loss"] is None for record in edit.history):
        print_note("This run has no losses: its method solves for the weights.")
    else:
        console.print(history_table(edit.history, rows, title))
    if uses:
        console.print(adversaries_table(uses, edit.info, edit.history))
    if found:
        console.print(ranks_table(edit.history))
    for path in filter(None, (plot, strip)):
        console.print(str(path), soft_wrap=True, markup=False)


def _draw_strip(
    edit: Edit, run: Path, path: Path, model: LoadedModel, count: int, seed: int
) -> Path | None:
    """Write the strip of pictures; None where the method has no adversarial concept."""
    import torch

    from erasekit.diffusion.sampling import sample
    from erasekit.reporting.pictures import Row, save_png, sheet
    from erasekit.training.run_folder import adversary_snapshots

    erased = edit.info["concepts"]
    snapshots = adversary_snapshots(edit, run, model, count)
    if not snapshots:
        print_note("This method has no adversarial concept, so there is no strip of pictures.")
        return None
    starts = model.family.embed_prompts(erased)
    embeds = torch.cat([starts, torch.stack([s.prompt_embeds.to(starts) for s in snapshots])])
    with ProgressBar("Drawing c_a", len(embeds)) as bar:
        images = sample(model, embeds, [seed] * len(embeds), on_images=bar.advance)
    rows = []
    for index, concept in enumerate(erased):
        own = [(len(erased) + i, s) for i, s in enumerate(snapshots) if s.erased == index]
        captions = [f"erased: {concept}", *(f"{s.step}: {s.caption}" for _, s in own)]
        rows.append(Row("", [images[index], *(images[i] for i, _ in own)], captions))
    title = f"{edit.info['method']}: what was preserved, by step"
    save_png(path, sheet(rows, title=title))
    return path
