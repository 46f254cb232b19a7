"""`erasekit erase`: erase concepts, measure what it cost, and leave a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.console import (
    SCHEMA,
    ProgressBar,
    print_json,
    print_note,
    progress,
    quiet_libraries,
    speaks,
    stdout,
)
from erasekit.cli.options import (
    METHOD_PANEL,
    MODEL_PANEL,
    OUTPUT_PANEL,
    Computed,
    ConfigOption,
    Device,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KindOption,
    LoadedAs,
    MethodOption,
    ModelOption,
    OutputOption,
    OverwriteOption,
    RevisionOption,
    SetOption,
    chosen_model,
    registry_of,
    torch_dtype,
)
from erasekit.concepts import Concept, Erasure
from erasekit.errors import ConfigError, ErasekitError, Interrupted
from erasekit.files import RUN_MARKS, check_output_folder

if TYPE_CHECKING:
    from erasekit.bench.records import Measured
    from erasekit.edits import Edit
    from erasekit.models.loading import LoadedModel
    from erasekit.plugin.registry import Registry
    from erasekit.training.checkpoint import Checkpoint
    from erasekit.training.plan import Plan
    from erasekit.training.run_folder import RunFolder, RunRequest

DEFAULT_METHOD = "gumbel"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("erase", rich_help_panel="Make")(erase)


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
    kind: KindOption = None,
    neutral: Annotated[
        str, typer.Option(help="Prompt the concept is mapped to; empty by default.")
    ] = "",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Keep these, in place of the method's concept space."),
    ] = None,
    method: MethodOption = DEFAULT_METHOD,
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
    assignments: SetOption = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    precision: Annotated[
        Computed | None,
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
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with an interrupted run, or measure one that was not; what it was asked "
            "for is not asked again.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Erase concepts from a model: trains an edit, measures it, and draws before and after."""
    from erasekit.config import parse_assignments
    from erasekit.recipes import read_recipe, shipped_recipes

    registry = registry_of(context)
    if resume is not None:
        _resume(registry, resume, device, measure=measure, as_json=as_json)
        return
    texts = [*(concepts or []), *(concept or [])]
    sort: Any = kind.value if kind else None
    wanted = Erasure(
        tuple(Concept(text, sort or "object") for text in texts), neutral, tuple(keep or [])
    )
    registry.method(method)
    flags = {"scope": scope, "precision": precision and precision.value, "max_memory": max_memory}
    overrides = {
        **parse_assignments(assignments or []),
        **{name: value for name, value in flags.items() if value is not None},
    }
    recipe: Mapping[str, Any] | str | None = config
    if config is not None and config not in shipped_recipes():
        recipe = read_recipe(Path(config))
    name = chosen_model(model, revision=revision)
    if output is not None:  # before torch is imported
        check_output_folder(output, overwrite=overwrite, marks=RUN_MARKS)
    from erasekit.training.plan import plan_erasure
    from erasekit.training.run_folder import RunRequest, new_run

    with quiet_libraries():
        loaded = _load(registry, name, device, dtype)
        erased = tuple(loaded.concept(text, sort) for text in texts)
        erasure = Erasure(erased, wanted.neutral, wanted.keep)
        plan = plan_erasure(loaded, method, erasure, overrides, recipe, seed=seed)
        request = RunRequest(
            loaded.id, loaded.hash, method, erasure, seed, plan.settings, dtype.value
        )
        if not speaks():  # of several processes the main one alone writes, prints and measures
            _train(plan)
            return
        with new_run(output, request, overwrite=overwrite) as folder:
            edit = _train(plan, folder)
            _finish(edit, plan, folder, measure=measure, as_json=as_json)


def _resume(
    registry: Registry, path: Path, device: Device, *, measure: bool, as_json: bool
) -> None:
    """Go on from a run's checkpoint, or measure a run that is finished and was not measured."""
    from erasekit.training.run_folder import MEASURES, finished_edit, resumed_run

    run = resumed_run(path, writes=speaks())
    with run as (folder, request, checkpoint), quiet_libraries():
        if checkpoint is None and (not measure or (folder.path / MEASURES).is_file()):
            raise ConfigError(f"The run {str(path)!r} is finished; there is nothing to resume.")
        plan = _planned(registry, request, device)
        if not speaks():
            _train(plan, None, checkpoint)
            return
        if checkpoint is None:
            edit = finished_edit(folder.path, registry)
        else:
            edit = _train(plan, folder, checkpoint)
        _finish(edit, plan, folder, measure=measure, as_json=as_json)


def _planned(registry: Registry, request: RunRequest, device: Device) -> Plan:
    """The plan of a run that was begun before.

    Raises:
        ConfigError: the model has changed since.
    """
    from erasekit.training.plan import plan_erasure

    model = _load(registry, request.model, device, request.dtype)
    if model.hash != request.base_hash:
        raise ConfigError(
            f"The model {request.model!r} has changed since the run began: it has hash "
            f"{model.hash[:16]}, the run has {request.base_hash[:16]}; start the run anew."
        )
    return plan_erasure(model, request.method, request.erasure, request.settings, seed=request.seed)


def _load(registry: Registry, name: str, device: Device, dtype: str) -> LoadedModel:
    from erasekit.models.loading import choose_device, load_model

    return load_model(name, registry, device=choose_device(device), dtype=torch_dtype(dtype))


def _train(
    plan: Plan, folder: RunFolder | None = None, checkpoint: Checkpoint | None = None
) -> Edit:
    """Train, and write the run into its folder."""
    from erasekit.training.erase import run

    with _progress_callback() as callback:
        work = folder.work if folder else None
        edit = run(plan, folder=work, callbacks=[callback], resume=checkpoint)
        if folder:
            folder.finish(edit)
    if plan.memory:
        print_note(plan.memory)
    return edit


@contextmanager
def _progress_callback() -> Iterator[Any]:
    """A progress bar that hears of the run."""
    from erasekit.training.trainer import Callback

    class Bar(Callback):
        def __init__(self, bar: ProgressBar) -> None:
            self.bar = bar

        def on_status(self, text: str) -> None:
            self.bar.status(text)

        def on_start(self, step: int, total_steps: int) -> None:
            self.bar.start("Erasing", total_steps)
            self.bar.advance(step)

        def on_step(self, record: dict[str, Any]) -> None:
            if record["loss"] is not None:
                self.bar.status(_step_status(record))
            self.bar.advance()

    with progress("Preparing") as bar:
        yield Bar(bar)


def _step_status(record: Mapping[str, Any]) -> str:
    words = ", ".join(a["concept"] or a["nearest"] or "" for a in record["adversary"] or ())
    kept = f"  keeping {words[:40]}" if words else ""
    return f"loss {record['loss']:.4f}{kept}"


def _finish(edit: Edit, plan: Plan, folder: RunFolder, *, measure: bool, as_json: bool) -> None:
    """Measure, write the card and the picture, and print.

    Raises:
        Interrupted: Ctrl-C or a signal while measuring; the card is written all the same.
    """
    from erasekit.files import atomic_write_json, atomic_write_text
    from erasekit.reporting.card import run_card
    from erasekit.reporting.run_table import adversary_uses
    from erasekit.training.run_folder import MEASURES
    from erasekit.training.trainer import StopRequests

    result, stop, stopped, path = None, StopRequests(), False, folder.path
    if measure:
        try:
            with stop.heard():
                result = _measure(edit, plan, folder)
        except KeyboardInterrupt:
            stopped = True
    folder.check()
    measures = result.as_dict() if result else None
    if measures:
        atomic_write_json(path / MEASURES, {"schema": SCHEMA, **measures})
    uses = adversary_uses(edit.history, 6)
    atomic_write_text(path / "README.md", run_card(edit.info, measures, uses, edit.history))
    if stopped:
        error = Interrupted(
            f"Stopped while measuring; the edit is saved in {str(path)!r}. Measure it with: "
            f"erasekit erase --resume {shlex.quote(str(path))}"
        )
        error.exit_code = stop.exit_code
        raise error
    if as_json:
        found = [vars(use) for use in uses]
        print_json(
            {"folder": str(path), "edit": edit.info, "measures": measures, "adversaries": found}
        )
        return
    _print_result(edit, result, uses, path)


def _measure(edit: Edit, plan: Plan, folder: RunFolder) -> Measured | None:
    from erasekit.bench.measure import measure
    from erasekit.reporting.pictures import before_after_sheet, save_png

    try:
        with progress("Drawing before and after") as bar:
            result = measure(
                plan.model, edit, plan.erasure, on_images=bar.advance, on_total=bar.expect
            )
    except ErasekitError as error:
        print_note(
            f"The edit is saved, but was not measured: {error} Measure it with: "
            f"erasekit erase --resume {shlex.quote(str(folder.path))}"
        )
        return None
    folder.check()
    save_png(folder.path / "before-after.png", before_after_sheet(result))
    return result


def _what_it_is(edit: Edit) -> str:
    """What changed, in a few words."""
    words = [f"Scope {edit.info['config']['scope']}, {len(edit.tensors)} tensors"]
    if (part := edit.inference) is not None:
        kind = f"{edit.kinds[-1].capitalize()} {part.name!r}, {len(part.tensors)} tensors"
        words = [*words, kind] if edit.tensors else [kind]
    return "; ".join(words)


def _print_result(edit: Edit, result: Measured | None, uses: list[Any], folder: Path) -> None:
    from erasekit.reporting.run_table import adversaries_table, measures_tables

    console = stdout()
    if result is not None:
        console.print(*measures_tables(result.as_dict()), sep="\n")
        for remark in result.remarks:
            print_note(remark)
    if uses:
        console.print(adversaries_table(uses, edit.info, edit.history))
    seconds, passes = edit.info["seconds"], edit.info["unet_passes"]
    console.print(
        f"{_what_it_is(edit)}; "
        f"{seconds['total']:.1f} s, {passes['forward']} forward and {passes['backward']} backward "
        "UNet passes."
    )
    console.print(f"Saved in {folder}", soft_wrap=True)
    if result is not None:
        console.print(f"Before and after: {folder / 'before-after.png'}", soft_wrap=True)
    shown, concept = shlex.quote(str(folder)), edit.info["concepts"][0]
    console.print(
        f"Next:\n  erasekit generate --edit {shown} --prompt {shlex.quote(concept)}\n"
        f"  erasekit trace {shown}\n  erasekit export {shown} --to diffusers",
        soft_wrap=True,
    )
