"""What benchmarks/results/README.md says of the files beside it."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_every_file_has_its_command_and_no_other_is_named() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([^`]+)` \|", text, re.M)
    there = [p.relative_to(RESULTS).as_posix() for p in RESULTS.glob("*/*") if p.is_file()]
    assert sorted(named) == sorted(there)
