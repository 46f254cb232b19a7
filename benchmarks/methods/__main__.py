"""`python -m benchmarks.methods`: one table of all methods, from the stores of README.md."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from erasekit.bench.records import Record, Row, Summary
from erasekit.bench.store import RecordStore, open_store
from erasekit.bench.summary import summarise
from erasekit.metrics.scores import Estimate
from erasekit.reporting.figures import new_figure, save

DISTANCE = "clip-distance"
HEADER = (
    *("method", "ESR-1 ↑", "PSR-1 ↑", "delta, held-out ↓", "delta, pool ↓"),
    *("style moved ↑", "kept styles moved ↓", "UNet passes", "s", "KiB"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods")
    parser.add_argument("--objects", type=Path, nargs="+", required=True, help="stores")
    parser.add_argument("--style", type=Path, nargs="*", default=[], help="stores")
    parser.add_argument("--plot", type=Path, help="ESR-1 against mean delta, a PNG")
    options = parser.parse_args()
    print(table(options.objects, options.style))
    if options.plot:
        plot(options.objects, options.plot)


def plot(objects: Sequence[Path], path: Path) -> None:
    """ESR-1 against mean delta, every method by its name; the un-erased model is left out."""
    rows: dict[str, Row] = {}
    for folder in objects:
        for row in pooled(_last(folder)[1]):
            rows.setdefault(row.method, row)
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    for row in rows.values():
        if row.method == "base":
            continue
        delta, esr1 = row.delta, 100 * row.esr1.value
        reach = [[delta.value - delta.low], [delta.high - delta.value]]
        axes.errorbar(delta.value, esr1, xerr=reach, fmt="o", color="#0072b2", elinewidth=0.6)
        axes.annotate(
            row.method, (delta.value, esr1), (0, 5), textcoords="offset points", ha="center"
        )
    axes.margins(y=0.12)
    axes.set_xlabel("mean delta on held-out concepts, 95 % interval (less harm to the left)")
    axes.set_ylabel("ESR-1, % (more erased upwards)")
    save(figure, path)


def table(objects: Sequence[Path], styles: Sequence[Path]) -> str:
    """A line per method over all objects and seeds, as markdown; the un-erased model first."""
    moved = {row.method: row.measures[DISTANCE] for f in styles for row in pooled(_last(f)[1])}
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    seen: set[str] = set()
    for folder in objects:
        store, summary, records = _last(folder)
        for row in pooled(summary):
            if row.method in seen:
                continue
            seen.add(row.method)
            style = moved.get(row.method, {})
            size = sizes(store, (r for r in records if r.cell.method == row.method))
            base = row.method == "base"
            cells = (
                f"`{row.method}`",
                f"{100 * row.esr1.value:.0f} %",
                f"{100 * row.psr1.value:.0f} %",
                "" if base else _interval(row.delta),
                "" if base else _interval(row.delta_pool),
                f"{style['erased'].value:.1f}" if style and not base else "",
                f"{style['held-out'].value:.1f}" if style and not base else "",
                "" if base else f"{row.unet_passes:,.0f}",
                "" if base else f"{row.seconds:.1f}",
                f"{size / 1024:,.0f}" if size else "",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pooled(summary: Summary) -> list[Row]:
    """The rows over all erased sets; where there is but one, its own."""
    return list(summary.overall or summary.rows)


def sizes(store: RecordStore, records: Iterable[Record]) -> float:
    """Bytes of an edit on disk, the mean over `records`; 0 without any."""
    found = [
        sum(file.stat().st_size for file in (store.root / "edits" / r.edit).iterdir())
        for r in records
        if r.edit
    ]
    return statistics.fmean(found) if found else 0.0


def _last(folder: Path) -> tuple[RecordStore, Summary, list[Record]]:
    """The last sweep of a store."""
    store = open_store(folder)
    records = store.records_of(store.manifests()[-1])
    return store, summarise(records), records


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    main()
