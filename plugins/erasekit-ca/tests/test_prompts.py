"""Pairs of prompts, from templates and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasekit.errors import ConfigError
from erasekit_ca.prompts import PromptPair, pair, read_templates


def test_templates_are_separated_by_bars() -> None:
    assert read_templates("{}") == ["{}"]
    assert read_templates(" a photo  of {} | {} at night|") == ["a photo of {}", "{} at night"]


def test_a_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# of robots\na robot in the rain\n\n  two of {} \n", encoding="utf-8")
    assert read_templates(str(file)) == ["a robot in the rain", "two of {}"]


def test_a_slot_takes_either_concept() -> None:
    assert pair("a photo of {}", "robot", "R2D2") == PromptPair(
        "a photo of robot", "a photo of R2D2"
    )


def test_the_anchor_is_replaced_as_a_whole_word() -> None:
    found = pair("Robot and robots, a robot", "robot", r"R2\D2")
    assert found == PromptPair("Robot and robots, a robot", r"R2\D2 and robots, a R2\D2")
    assert pair("a dump  truck", "dump truck", "car").target == "a car"


def test_a_prompt_without_the_concept_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a cat' has neither \{\} nor the anchor 'robot'"):
        pair("a cat", "robot", "R2D2")


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \{\} and is no file"):
        read_templates(str(tmp_path / "missing.txt"))
    with pytest.raises(ConfigError, match="holds no prompt"):
        read_templates("| # {}")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        read_templates(str(tmp_path / "empty.txt"))
