"""`erasekit erase`: erase concepts, measure what it cost, and leave a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli import options
from erasekit.cli.console import SCHEMA, ProgressBar, print_json, print_note, speaks, stdout
from erasekit.cli.options import METHOD_PANEL, MODEL_PANEL, OUTPUT_PANEL
from erasekit.concepts import Concept, Erasure
from erasekit.errors import ConfigError, ErasekitError
from erasekit.files import RUN_MARKS, check_output_folder

if TYPE_CHECKING:
    from erasekit.bench.records import Measured
    from erasekit.edits import Edit
    from erasekit.plugin.registry import Registry
    from erasekit.training.checkpoint import Checkpoint
    from erasekit.training.plan import Plan
    from erasekit.training.run_folder import RunFolder

DEFAULT_METHOD, PICTURE = "gumbel", "before-after.png"


def erase(
    context: typer.Context,
    concepts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONCEPT]...", help="What goes, as --concept.", show_default=False),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", "-c", help="What goes; repeat it to erase several together."),
    ] = None,
    kind: options.KindOption = None,
    neutral: Annotated[
        str, typer.Option(help="Prompt the concept is mapped to; empty by default.")
    ] = "",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Keep these, in place of the method's concept space."),
    ] = None,
    method: options.MethodOption = DEFAULT_METHOD,
    scope: Annotated[
        str | None,
        typer.Option(
            help="Parameters that may change: xattn, xattn-kv, noxattn, selfattn, full or "
            "re:PATTERN; follows the kind by default.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Same seed, same machine: same edit.", rich_help_panel=METHOD_PANEL)
    ] = 0,
    assignments: options.SetOption = None,
    config: options.ConfigOption = None,
    model: options.ModelOption = None,
    revision: options.RevisionOption = None,
    device: options.DeviceOption = options.Device.AUTO,
    dtype: options.DtypeOption = options.LoadedAs.FP32,
    precision: Annotated[
        options.Computed | None,
        typer.Option(
            help="What is computed in; trained weights stay fp32. By default that of the weights.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            help="GiB the run may take; switches on what that needs, and says what.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Draw and score before and after.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = True,
    output: options.OutputOption = None,
    overwrite: options.OverwriteOption = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with an interrupted run, or measure one that was not; what it was asked "
            "for is not asked again.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Erase concepts from a model: trains an edit, measures it, and draws before and after."""
    from erasekit.config import parse_assignments
    from erasekit.recipes import read_recipe, shipped_recipes

    registry = options.registry_of(context)
    if resume is not None:
        _resume(registry, resume, device, measure=measure, as_json=as_json)
        return
    texts = [*(concepts or []), *(concept or [])]
    sort: Any = kind.value if kind else None
    kept = tuple(keep or [])
    Erasure(tuple(Concept(text, sort or "object") for text in texts), neutral, kept)  # refuses
    registry.method(method)
    flags = {"scope": scope, "precision": precision and precision.value, "max_memory": max_memory}
    overrides: dict[str, Any] = dict(parse_assignments(assignments or []))
    overrides |= {name: value for name, value in flags.items() if value is not None}
    recipe: Mapping[str, Any] | str | None = config
    if config is not None and config not in shipped_recipes():
        recipe = read_recipe(Path(config))
    name = options.chosen_model(model, revision=revision)
    if output is not None:  # before torch is imported
        check_output_folder(output, overwrite=overwrite, marks=RUN_MARKS)
    from erasekit.training.plan import plan_erasure
    from erasekit.training.run_folder import RunRequest, new_run

    with options.opened(name, registry, device=device, dtype=dtype) as loaded:
        erasure = Erasure(tuple(loaded.concept(text, sort) for text in texts), neutral, kept)
        plan = plan_erasure(loaded, erasure, method, overrides, recipe, seed=seed)
        request = RunRequest(
            loaded.id, loaded.hash, method, erasure, seed, plan.settings, dtype.value
        )
        if not speaks():  # of several processes the main one alone writes, prints and measures
            _train(plan)
            return
        with new_run(output, request, overwrite=overwrite) as folder:
            _finish(_train(plan, folder), plan, folder, measure=measure, as_json=as_json)


def _resume(
    registry: Registry, path: Path, device: options.Device, *, measure: bool, as_json: bool
) -> None:
    """Go on from a run's checkpoint, or measure a run that is finished and was not measured."""
    from erasekit.training.plan import plan_erasure
    from erasekit.training.run_folder import MEASURES, finished_edit, resumed_run

    with ExitStack() as stack:
        run = resumed_run(path, writes=speaks())
        folder, request, checkpoint = stack.enter_context(run)
        if checkpoint is None and (not measure or (folder.path / MEASURES).is_file()):
            raise ConfigError(f"The run {str(path)!r} is finished; there is nothing to resume.")
        opened = options.opened(request.model, registry, device=device, dtype=request.dtype)
        model = stack.enter_context(opened)
        if model.hash != request.base_hash:
            raise ConfigError(
                f"The model {request.model!r} has changed since the run began: it has hash "
                f"{model.hash[:16]}, the run has {request.base_hash[:16]}; start the run anew."
            )
        method, erasure, settings = request.method, request.erasure, request.settings
        plan = plan_erasure(model, erasure, method, settings, seed=request.seed)
        if not speaks():
            _train(plan, None, checkpoint)
            return
        edit = finished_edit(folder.path, registry) if checkpoint is None else None
        edit = edit or _train(plan, folder, checkpoint)
        _finish(edit, plan, folder, measure=measure, as_json=as_json)


def _train(
    plan: Plan, folder: RunFolder | None = None, checkpoint: Checkpoint | None = None
) -> Edit:
    """Train under a progress bar, and write the run into its folder."""
    from erasekit.training.erase import run
    from erasekit.training.trainer import Callback

    class Shown(Callback):
        def on_status(self, text: str) -> None:
            bar.status(text)

        def on_start(self, step: int, total_steps: int) -> None:
            bar.start("Erasing", total_steps)
            bar.advance(step)

        def on_step(self, record: dict[str, Any]) -> None:
            if record["loss"] is not None:
                words = [
                    row["concept"] or row["nearest"] or "" for row in record["adversary"] or ()
                ]
                kept = f"  keeping {', '.join(words)[:40]}" if any(words) else ""
                bar.status(f"loss {record['loss']:.4f}{kept}")
            bar.advance()

    with ProgressBar("Preparing") as bar:
        work = folder.work if folder else None
        edit = run(plan, folder=work, callbacks=[Shown()], resume=checkpoint)
        if folder:
            folder.finish(edit)
    if plan.memory:
        print_note(plan.memory)
    return edit


def _finish(edit: Edit, plan: Plan, folder: RunFolder, *, measure: bool, as_json: bool) -> None:
    """Measure, write the card and the picture, and print.

    Raises:
        Interrupted: Ctrl-C or a signal while measuring; the card is written all the same.
    """
    from erasekit.bench.measure import measure as measure_edit
    from erasekit.files import atomic_write_json, atomic_write_text
    from erasekit.reporting.card import run_card
    from erasekit.reporting.pictures import before_after_sheet, save_png
    from erasekit.reporting.run_table import adversary_uses
    from erasekit.training.run_folder import MEASURES
    from erasekit.training.trainer import StopRequests

    result, measures, stop, stopped, path = None, None, StopRequests(), False, folder.path
    again = f"Measure it with: erasekit erase --resume {shlex.quote(str(path))}"
    if measure:
        try:
            with stop.heard(), ProgressBar("Drawing before and after") as bar:
                result = measure_edit(
                    plan.model, edit, plan.erasure, on_images=bar.advance, on_total=bar.expect
                )
        except KeyboardInterrupt:
            stopped = True
        except ErasekitError as error:
            print_note(f"The edit is saved, but was not measured: {error} {again}")
    folder.check()
    if result:
        save_png(path / PICTURE, before_after_sheet(result))
        measures = result.as_dict()
        atomic_write_json(path / MEASURES, {"schema": SCHEMA, **measures})
    uses = adversary_uses(edit.history, 6)
    atomic_write_text(path / "README.md", run_card(edit.info, measures, uses, edit.history))
    if stopped:
        raise stop.interrupted(
            f"Stopped while measuring; the edit is saved in {str(path)!r}. {again}"
        )
    if as_json:
        found = [vars(use) for use in uses]
        print_json(
            {"folder": str(path), "edit": edit.info, "measures": measures, "adversaries": found}
        )
        return
    _print_result(edit, result, uses, path)


def _print_result(edit: Edit, result: Measured | None, uses: list[Any], folder: Path) -> None:
    from erasekit.reporting.run_table import adversaries_table, measures_tables

    console, info = stdout(), edit.info
    if result is not None:
        console.print(*measures_tables(result.as_dict()), sep="\n")
        for remark in result.remarks:
            print_note(remark)
    if uses:
        console.print(adversaries_table(uses, info, edit.history))
    changed = []
    if edit.tensors or edit.inference is None:
        changed.append(f"Scope {info['config']['scope']}, {len(edit.tensors)} tensors")
    if (part := edit.inference) is not None:
        changed.append(f"{edit.kinds[-1].capitalize()} {part.name!r}, {len(part.tensors)} tensors")
    passes, shown, concept = info["unet_passes"], shlex.quote(str(folder)), info["concepts"][0]
    lines = [
        f"{'; '.join(changed)}; {info['seconds']['total']:.1f} s, {passes['forward']} forward and "
        f"{passes['backward']} backward UNet passes.",
        f"Saved in {folder}",
        *([f"Before and after: {folder / PICTURE}"] if result is not None else []),
        "Next:",
        f"  erasekit generate --edit {shown} --prompt {shlex.quote(concept)}",
        f"  erasekit trace {shown}",
        f"  erasekit export {shown} --to diffusers",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
