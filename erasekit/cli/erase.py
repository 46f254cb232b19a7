"""`erasekit erase`: erase concepts, measure what it cost, and leave a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.context import (
    DEFAULT_MODEL,
    DEVICE_OPTION,
    DTYPE_OPTION,
    JSON_OPTION,
    MODEL_OPTION,
    REVISION_OPTION,
    LoadedAs,
    registry_of,
)
from erasekit.cli.loading import chosen_model, torch_dtype
from erasekit.cli.output import (
    SCHEMA,
    ProgressBar,
    print_json,
    print_note,
    progress,
    speaks,
    stdout,
)
from erasekit.concepts import KINDS, Concept, Erasure, slug
from erasekit.config import parse_assignments, read_recipe, shipped_recipes
from erasekit.errors import ConfigError, ErasekitError
from erasekit.files import check_output_folder, new_run_folder, writing
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    from erasekit.bench.quick import QuickResult
    from erasekit.edits import Edit
    from erasekit.models.loading import LoadedModel
    from erasekit.training.checkpoint import Checkpoint
    from erasekit.training.plan import Plan
    from erasekit.training.run_folder import RunRequest

DEFAULT_METHOD = "gumbel"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("erase")(erase)


def erase(
    context: typer.Context,
    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", "-c", help="What goes; repeat it to erase several together."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="See `erasekit methods`.")
    ] = DEFAULT_METHOD,
    model: Annotated[str, MODEL_OPTION] = DEFAULT_MODEL,
    revision: Annotated[str | None, REVISION_OPTION] = None,
    neutral: Annotated[
        str, typer.Option(help="Prompt the concept is mapped to; empty by default.")
    ] = "",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Keep these, in place of the method's concept space."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(KINDS)}; by default what the model knows of the concept."),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Parameters that may change; follows the kind by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same edit.")] = 0,
    device: Annotated[str, DEVICE_OPTION] = "auto",
    dtype: Annotated[LoadedAs, DTYPE_OPTION] = LoadedAs.FP32,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, bf16 or fp16: what is computed in; trained weights stay fp32."),
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(help="GiB the run may take; switches on what that needs, and says what."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A hyperparameter, KEY=VALUE; see `erasekit methods show`."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A TOML recipe of hyperparameters: a path, or the name of a shipped one, "
            "such as published or fast."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder; numbered under runs/ by default."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Use the output folder though it is not empty.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with an interrupted run; other options are ignored.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Draw and score before and after.")
    ] = True,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Erase concepts from a model: trains an edit, measures it, and draws before and after."""
    registry = registry_of(context)
    if resume is None:
        overrides: dict[str, Any] = dict(parse_assignments(assignments or []))
        if scope is not None:
            overrides["scope"] = scope
        if precision is not None:
            overrides["precision"] = precision
        if max_memory is not None:
            overrides["max_memory"] = max_memory
        recipe: Mapping[str, Any] | str | None = config
        if config is not None and config not in shipped_recipes():
            recipe = read_recipe(Path(config))
        model = chosen_model(model, revision=revision)
        wanted = _check(registry, method, concept or [], kind, neutral, keep or [])
        if output is not None:
            check_output_folder(output, overwrite=overwrite)
    from erasekit.cli.quiet import quiet_libraries
    from erasekit.models.devices import choose_device
    from erasekit.models.loading import load_model
    from erasekit.training.plan import plan_erasure
    from erasekit.training.run_folder import RunRequest, discard_run, read_interrupted

    place = choose_device(device)
    checkpoint = None
    with quiet_libraries():
        if resume is not None:
            request, checkpoint = read_interrupted(resume)
            loaded = load_model(
                request.model, registry, device=place, dtype=torch_dtype(request.dtype)
            )
            _check_same_model(request, loaded)
            plan = plan_erasure(
                loaded,
                request.method,
                request.erasure,
                request.settings,
                registry=registry,
                seed=request.seed,
            )
        else:
            loaded = load_model(model, registry, device=place, dtype=torch_dtype(dtype))
            kinds = [c.kind if c.kind != "object" else None for c in wanted.erased]
            erased = tuple(
                loaded.concept(c.text, k) for c, k in zip(wanted.erased, kinds, strict=True)
            )
            erasure = Erasure(erased, wanted.neutral, wanted.keep)
            plan = plan_erasure(
                loaded, method, erasure, overrides, recipe, registry=registry, seed=seed
            )
            request = RunRequest(
                loaded.id, loaded.hash, method, erasure, seed, plan.settings, dtype.value
            )
        if not speaks():  # of several processes the main one alone writes, prints and measures
            _train(plan, None, checkpoint)
            return
        folder = (
            resume
            or output
            or new_run_folder(Path("runs"), f"{slug(plan.erasure.label)[:60]}-{slug(method)}")
        )
        existed = folder.exists() and output is not None
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            edit = _train(plan, folder, checkpoint, None if resume else request)
        except ErasekitError:
            if resume is None:
                discard_run(folder, remove_folder=not existed)
            raise
        _finish(edit, loaded, plan.erasure, registry, folder, measure, as_json)


def _check(
    registry: Registry,
    method: str,
    texts: list[str],
    kind: str | None,
    neutral: str,
    keep: list[str],
) -> Erasure:
    """The erasure as typed; everything that needs no model is checked here."""
    registry.method(method)
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"Unknown kind {kind!r}; use {', '.join(KINDS)}.")
    return Erasure(
        tuple(Concept(text, kind or "object") for text in texts),  # type: ignore[arg-type]
        neutral,
        tuple(keep),
    )


def _check_same_model(request: RunRequest, model: LoadedModel) -> None:
    if model.hash != request.base_hash:
        raise ConfigError(
            f"The model {request.model!r} has changed since the run began: it has hash "
            f"{model.hash[:16]}, the run has {request.base_hash[:16]}; start the run anew."
        )


def _train(
    plan: Plan,
    folder: Path | None,
    checkpoint: Checkpoint | None,
    request: RunRequest | None = None,
) -> Edit:
    """Train, and write the run into `folder`; `request` begins a new one there."""
    from erasekit.training.erase import run
    from erasekit.training.run_folder import clear_run, save_run

    if folder and request:
        clear_run(folder)
        request.save(folder)
    with _progress_callback() as callback:
        edit = run(plan, folder=folder, callbacks=[callback], resume=checkpoint)
        if folder:
            save_run(edit, folder)
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
            self.bar.advance()
            if record["loss"] is not None:
                self.bar.status(_step_status(record))

    with progress("Preparing") as bar:
        yield Bar(bar)


def _step_status(record: Mapping[str, Any]) -> str:
    words = ", ".join(a["concept"] or a["nearest"] or "" for a in record["adversary"] or ())
    kept = f"  keeping {words[:40]}" if words else ""
    return f"loss {record['loss']:.4f}{kept}"


def _finish(
    edit: Edit,
    model: LoadedModel,
    erasure: Erasure,
    registry: Registry,
    folder: Path,
    measure: bool,
    as_json: bool,
) -> None:
    """Measure, write the card and the picture, and print."""
    from erasekit.files import atomic_write_json, atomic_write_text
    from erasekit.reporting.adversaries import adversary_uses, top_uses, undecided
    from erasekit.reporting.card import run_card
    from erasekit.training.run_folder import MEASURES

    result = _measure(edit, model, erasure, registry, folder) if measure else None
    measures = result.as_dict() if result else None
    if measures:
        atomic_write_json(folder / MEASURES, {"schema": SCHEMA, **measures})
    uses = top_uses(adversary_uses(edit.history), 6)
    card = run_card(edit.info, measures, uses, undecided(edit.history))
    atomic_write_text(folder / "README.md", card)
    if as_json:
        found = [vars(use) for use in uses]
        print_json(
            {"folder": str(folder), "edit": edit.info, "measures": measures, "adversaries": found}
        )
        return
    _print_result(edit, result, uses, folder)


def _measure(
    edit: Edit, model: LoadedModel, erasure: Erasure, registry: Registry, folder: Path
) -> QuickResult | None:
    from erasekit.bench.quick import quick_measure
    from erasekit.files import atomic_path
    from erasekit.reporting.grids import before_after_grid

    try:
        with progress("Drawing before and after") as bar:
            result = quick_measure(model, edit, erasure, registry, on_images=bar.advance)
    except ErasekitError as error:
        print_note(f"The edit is saved, but was not measured: {error}")
        return None
    with atomic_path(folder / "before-after.png") as temporary:
        before_after_grid(result).save(temporary, format="PNG")
    return result


def _what_it_is(edit: Edit) -> str:
    """What changed, in a few words."""
    words = [f"Scope {edit.info['config']['scope']}, {len(edit.tensors)} tensors"]
    if (part := edit.inference) is not None:
        kind = f"{edit.kinds[-1].capitalize()} {part.name!r}, {len(part.tensors)} tensors"
        words = [*words, kind] if edit.tensors else [kind]
    return "; ".join(words)


def _print_result(edit: Edit, result: QuickResult | None, uses: list[Any], folder: Path) -> None:
    from erasekit.cli.output import table
    from erasekit.reporting.adversaries import heading, undecided
    from erasekit.reporting.tables import quick_table

    console = stdout()
    if result is not None:
        console.print(quick_table(result))
        for remark in result.remarks:
            print_note(remark)
    if uses:
        rows = [(u.erased, u.word, u.steps, f"{u.first} to {u.last}") for u in uses]
        columns = ("erased", "kept beside it", "steps", "when")
        console.print(table(heading(edit.info), columns, rows, right=("steps",)))
    for sentence in undecided(edit.history):
        print_note(sentence)
    seconds, passes = edit.info["seconds"], edit.info["unet_passes"]
    console.print(
        f"{_what_it_is(edit)}; "
        f"{seconds['total']:.1f} s, {passes['forward']} forward and {passes['backward']} backward "
        "UNet passes."
    )
    console.print(f"Saved in {folder}", soft_wrap=True)
    if result is not None:
        console.print(f"Before and after: {folder / 'before-after.png'}", soft_wrap=True)
