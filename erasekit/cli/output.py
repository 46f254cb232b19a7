"""How commands speak: results on standard output, progress and complaints on standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

SCHEMA = 1
"""Version of every `--json` output; it grows when a field changes its meaning or goes."""


def speaks() -> bool:
    """Whether this process may print: of several that work together, the first alone does."""
    return int(os.environ.get("RANK") or 0) == 0 or int(os.environ.get("WORLD_SIZE") or 1) == 1


def stdout() -> Console:
    """The console for results."""
    return Console(file=sys.stdout, highlight=False, quiet=not speaks())


def stderr() -> Console:
    """The console for progress, notes and errors."""
    return Console(file=sys.stderr, highlight=False, quiet=not speaks())


def print_error(sentence: str) -> None:
    """One sentence on standard error, never wrapped, so that programs can read it as a line."""
    stderr().print(f"[bold red]Error:[/] {escape(sentence)}", soft_wrap=True)


def print_note(sentence: str) -> None:
    """A remark on standard error that does not stop the command."""
    stderr().print(f"[yellow]Note:[/] {escape(sentence)}", soft_wrap=True)


def print_json(payload: Mapping[str, Any]) -> None:
    """`payload` with `"schema"` first, as JSON on standard output; a NaN becomes null."""
    value = json_ready({"schema": SCHEMA, **payload})
    if speaks():
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_ready(value: Any) -> Any:
    """`value` with every float that JSON has no word for (NaN, infinities) replaced by None.

    >>> json_ready({"delta": [1.5, float("nan")]})
    {'delta': [1.5, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(item) for item in value]
    return value


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
) -> Table:
    """A table of plain cells (never read as markup); the columns named in `right` hold numbers."""
    result = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for position, name in enumerate(columns):
        result.add_column(
            name,
            justify="right" if name in right else "left",
            style="cyan" if position == 0 else None,
            no_wrap=position == 0,
        )
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


class RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """The rate of the last half minute, as "12.3/s"."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class ProgressBar:
    """A bar on standard error with rate and time left; silent where that is no terminal.

    Use it as a context manager, or through `progress`.
    """

    def __init__(self, description: str, total: int | None = None) -> None:
        console = stderr()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[status]}", style="dim"),
            console=console,
            transient=True,
            disable=not (console.is_terminal and speaks()),
        )
        self._task = self._progress.add_task(escape(description), total=total, status="")

    def __enter__(self) -> ProgressBar:
        if not self._progress.disable:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._progress.disable:  # else older versions of rich print an empty line
            self._progress.stop()

    def start(self, description: str, total: int | None) -> None:
        """Begin another stretch of work of `total` units on the same line."""
        self._progress.reset(self._task, description=escape(description), total=total, status="")

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self._progress.advance(self._task, count)

    def status(self, text: str) -> None:
        """Show `text` behind the bar."""
        self._progress.update(self._task, status=escape(text))


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[ProgressBar]:
    """`with progress("Drawing", 16) as bar: bar.advance(4)`."""
    with ProgressBar(description, total) as bar:
        yield bar
