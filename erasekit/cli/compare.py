"""`erasekit compare`: what differs between two benches, or between two erasures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.console import ProgressBar, print_json, stdout, table
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
    registry_of,
)
from erasekit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from erasekit.bench.compare import Differences
    from erasekit.bench.records import Record

IMAGES = 4
SHOWN = 10
"""Concepts shown per method and erased set; all are in the JSON."""
FOR_ERASURES = ("images_per_concept", "scorer", "model", "revision", "device", "dtype")
"""Options that say how erasures are measured."""


def compare(
    context: typer.Context,
    run_a: Annotated[Path, typer.Argument(help="Folder of a bench, or of an erasure.")],
    run_b: Annotated[Path, typer.Argument(help="Another of the same sort.")],
    images_per_concept: Annotated[
        int | None,
        typer.Option(min=1, help=f"Starting noises, for erasures only [default: {IMAGES}]."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="For erasures only: a registered scorer, MODEL/TAG or MODEL/FILE of open_clip, or "
            "local-dir:FOLDER [default: the model's]."
        ),
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two runs, B - A, with intervals from the images of both.

    Of two benches the latest sweep of each is held against the other, method by method, from
    what is on disk; they take no other option than --json. Two erasures are drawn and scored
    first, at the same noises, with the model they were made from. Runs that were not measured
    alike are refused.
    """
    from erasekit.bench.compare import compare_benches, compare_pairs
    from erasekit.bench.measure import check_same_erasure, measure_pair
    from erasekit.bench.store import MARKER
    from erasekit.edits import load_edit
    from erasekit.metrics.judges import load_scorer
    from erasekit.metrics.scores import to_json

    benches = [(path / MARKER).is_file() for path in (run_a, run_b)]
    if all(benches):
        for name in FOR_ERASURES:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for erasures; a bench has its images and "
                    "scores already."
                )
        names = (str(run_a), str(run_b))
        found = compare_benches(_records(run_a), _records(run_b), names)
    elif any(benches):
        other = run_b if benches[0] else run_a
        raise ConfigError(f"{str(other)!r} is no bench and the other is; name two of a sort.")
    else:
        registry = registry_of(context)
        a, b = load_edit(run_a, registry), load_edit(run_b, registry)
        check_same_erasure(a, b)
        name = chosen_model(model, a, revision)
        with opened(name, registry, device=device, dtype=dtype) as loaded:
            place = loaded.family.device
            judge = load_scorer(scorer, registry, device=place) if scorer else None
            with ProgressBar("Drawing, before and after each") as bar:
                pairs = measure_pair(
                    loaded,
                    a,
                    b,
                    images_per_concept=images_per_concept or IMAGES,
                    scorer=judge,
                    on_images=bar.advance,
                    on_total=bar.expect,
                )
        found = compare_pairs([pairs])
    if as_json:
        print_json({"a": str(run_a), "b": str(run_b), **to_json(found)})
    else:
        _show(found, run_a, run_b)


def _records(folder: Path) -> Sequence[Record]:
    """The records of the latest sweep of a bench."""
    from erasekit.bench.store import open_store

    store = open_store(folder)
    return store.records_of(store.manifests()[-1])


def _show(found: Differences, run_a: Path, run_b: Path) -> None:
    from erasekit.reporting.table import Number, p_value, with_interval

    console, number, rate = stdout(), Number(2), Number(0, share=True)
    console.print(f"A: {run_a}\nB: {run_b}", soft_wrap=True)
    if not found.differing:
        console.print("No image was scored differently.")
    else:
        columns = ("method", "erased", "seeds", "ESR-1", "delta", "B - A, 95 % interval", "p")
        rows = [
            (
                *(one.method, one.erased, one.seeds, rate(one.esr1), number(one.delta)),
                with_interval(one.delta_difference),
                p_value(one.p_value),
            )
            for one in found.differing
        ]
        console.print(table("", columns, rows, right=columns[2:]))
        console.print(
            "ESR-1 (higher is better) and delta of held-out concepts (lower is better): A, then B.",
            style="dim",
        )
    for one in found.differing:
        console.print(f"\n{one.erased}: {one.verdict}")
        for name, values in one.changed.items():
            a, b = map(_value, values)
            console.print(f"  {name}: {a} → {b}")
        concepts = [
            (c.concept, with_interval(c.difference), p_value(c.p_value)) for c in one.concepts
        ]
        if concepts:
            head = ("concept", "B - A, 95 % interval", "p")
            console.print(table("", head, concepts[:SHOWN], right=head[1:]))
        if len(concepts) > SHOWN:
            console.print(f"and {len(concepts) - SHOWN} more: --json has all.", style="dim")
    for title, names in (
        ("The same in both", found.same),
        ("Only in A", found.only_a),
        ("Only in B", found.only_b),
    ):
        if names:
            console.print(f"{title}: {'; '.join(names)}")


def _value(value: Any) -> str:
    """A setting as users write it, shortened where it is long."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
