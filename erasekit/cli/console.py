"""Prints for every command: results on standard output, progress and complaints on standard error.

Text of others (a model's name, a concept, a path, what a plugin raised) is shown as it is: no part
of it is read as markup or as an emoji code, and no control character of it reaches a terminal.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from erasekit.plugin.manager import stdout_aside

SCHEMA = 1
"""Version of every `--json` output; it grows when a field changes its meaning or goes."""
HEARTBEAT = 10.0
"""Seconds between two lines of progress where standard error is no terminal."""
LONGEST_WORD = 400
"""Characters of a word in a message; of a longer one the beginning is shown."""

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, what turns the direction of text, lone surrogates."""

_results: list[TextIO] = []


def speaks() -> bool:
    """Whether this process may print: of several that work together, the first alone does."""
    return int(os.environ.get("RANK") or 0) == 0 or int(os.environ.get("WORLD_SIZE") or 1) == 1


def plain(text: str) -> str:
    r"""`text` with every character that a terminal would obey written as an escape sequence.

    >>> plain("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


class PlainConsole(Console):
    """A console that reads no text as markup or emoji code; `style=` alone gives colour."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False, quiet=not speaks())

    def render_str(self, text: str, **how: Any) -> Text:
        """`text` as it is to be laid out."""
        return super().render_str(plain(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything that is printed; rich's own control segments stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)


def stdout() -> Console:
    """The console for results."""
    return PlainConsole(_results[-1] if _results else sys.stdout)


def stderr() -> Console:
    """The console for progress, notes and errors."""
    return PlainConsole(sys.stderr)


@contextmanager
def results_apart() -> Iterator[None]:
    """Within the block only `stdout` and `print_json` write to standard output.

    What a library or a plugin prints goes to standard error.
    """
    with stdout_aside() as results:
        _results.append(_results[-1] if _results else results)
        try:
            yield
        finally:
            _results.pop()


def print_error(sentence: str) -> None:
    """One sentence on standard error, never wrapped, so that programs can read it as a line."""
    _remark("Error:", "bold red", sentence)


def print_note(sentence: str) -> None:
    """A remark on standard error that does not stop the command."""
    _remark("Note:", "yellow", sentence)


def _remark(label: str, style: str, sentence: str) -> None:
    line = re.sub(r"\s*\n\s*", " ", sentence.strip())
    line = re.sub(
        rf"\S{{{LONGEST_WORD},}}", lambda w: f"{w[0][:80]}... ({len(w[0]):,} characters)", line
    )
    stderr().print(Text.assemble((label, style), " ", plain(line)), soft_wrap=True)


def print_json(payload: Mapping[str, Any]) -> None:
    """`payload` with `"schema"` first, as JSON on standard output; a NaN becomes null."""
    if speaks():
        value = json_ready({"schema": SCHEMA, **payload})
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        (_results[-1] if _results else sys.stdout).write(text + "\n")


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
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()
) -> Table:
    """A table of plain cells; the columns named in `right` hold numbers."""
    result = Table(
        title=Text(plain(title)),
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for name in columns:
        first, justify = name is columns[0], "right" if name in right else "left"
        result.add_column(
            Text(plain(name)),
            justify=justify,  # type: ignore[arg-type]
            style="cyan" if first else None,
            no_wrap=first,
        )
    for row in rows:
        result.add_row(*(Text(plain(str(cell))) for cell in row))
    return result


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error that something is being done; yields what changes the words."""
    with stderr().status(Text(plain(text))) as status:
        yield lambda words: status.update(Text(plain(words)))


class RateColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """The rate of the last half minute, as "12.3/s"."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class ProgressBar:
    """A bar on standard error with rate and time left; where that is no terminal, a line at times.

    `with ProgressBar("Drawing", 16) as bar: bar.advance(4)`
    """

    def __init__(self, description: str, total: int | None = None, period: float = 30.0) -> None:
        console = stderr()
        self._shown = console.is_terminal and speaks()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[status]}", style="dim", markup=False),
            console=console,
            transient=True,
            disable=not self._shown,
            speed_estimate_period=period,
        )
        self._id = self._progress.add_task(plain(description), total=total, status="")
        self._task = self._progress.tasks[0]
        self._said = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:  # else older versions of rich print an empty line
            self._progress.stop()

    def start(self, description: str, total: int | None) -> None:
        """Begin another stretch of work of `total` units on the same line."""
        self._progress.reset(self._id, description=plain(description), total=total, status="")

    def expect(self, count: int) -> None:
        """`count` more units are to be done."""
        self._progress.update(self._id, total=(self._task.total or 0) + count)

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self._progress.advance(self._id, count)
        self._say()

    def status(self, text: str) -> None:
        """Show `text` behind the bar."""
        self._progress.update(self._id, status=plain(text))
        self._say()

    def _say(self) -> None:
        now = time.monotonic()
        if self._shown or now - self._said < HEARTBEAT:
            return
        self._said, task = now, self._task
        total = "" if task.total is None else f" of {task.total:,.0f}"
        left = "" if task.time_remaining is None else f"{task.time_remaining:.0f} s left"
        words = (f"{task.description}: {task.completed:,.0f}{total}", task.fields["status"], left)
        stderr().print(", ".join(filter(None, words)), soft_wrap=True)


def quiet_libraries() -> AbstractContextManager[None]:
    """Silence the progress bars, log lines and warnings of diffusers and transformers.

    Imports both libraries, so enter it only where a model is about to be loaded.
    """
    from erasekit.models.pipeline_files import quiet

    return quiet(Warning)
