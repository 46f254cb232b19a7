"""Plain words: phrases that readers stumbled over stay out of texts and documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUMBLED_OVER = {
    r"kept beside it": "kept concept",
    r"parted by (commas|a comma)": "separated by commas",
    r"with no smaller numbers": "say what is larger",
    r"told? the classes apart": "classifier",
    r"(best is 0|best 0\b)": "0 is best",
    r"which is (not )?saved\. Go on": "checkpoint saved. Resume with",
    r"loss at the same noise": "alignment lost at the same starting noise",
    r"\butili[sz]e": "use",
    r"\bleverag(e|ing)\b": "use",
    r"\bin order to\b": "to",
}
"""What is not to be written, and what to write."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    *(ROOT / "erasekit").rglob("*.py"),
    *(ROOT / "plugins").glob("*/src/**/*.py"),
]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of all that a reader or user of the file sees."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())


@pytest.mark.parametrize(
    "path", [*PAGES, *MODULES], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_words_are_plain(path: Path) -> None:
    found = [
        f"{path.name}:{line}: {match[0]!r}; write: {instead}"
        for line, text in texts(path)
        for phrase, instead in STUMBLED_OVER.items()
        if (match := re.search(phrase, text))
    ]
    assert found == []
