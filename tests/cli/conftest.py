"""The command line in this process, and run folders to work on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from erasekit.cli.app import main

SMALL = {"steps": 6, "batch_size": 2, "trajectory_steps": 3, "trajectories": 2}
WORDS = ("church", "castle", "bus", "car", "road", "banana")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.strip().splitlines()
        return line


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("methods", "--json")`: what the command printed and its exit code."""

    def do(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return do


@pytest.fixture(scope="session")
def other_tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shape with other weights."""
    from tests.tiny import build_folder

    return build_folder(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def make_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_run("pgd", "church", "bus")`: a finished run on the tiny model; made once."""
    from erasekit.concepts import Erasure
    from erasekit.models.loading import load_model
    from erasekit.plugin.registry import Registry
    from erasekit.training.erase import erase
    from erasekit.training.run_folder import save_run

    made: dict[Sequence[str], Path] = {}

    def do(method: str, *concepts: str) -> Path:
        key = (method, *concepts)
        if key not in made:
            folder = tmp_path_factory.mktemp(method)
            words = folder / "words.txt"
            words.write_text("\n".join(WORDS), encoding="utf-8")
            settings: dict[str, Any] = dict(SMALL)
            if method not in ("l2", "none", "neutral"):
                settings["concept_space"] = str(words)
            registry = Registry()
            model = load_model(str(tiny_folder), registry)
            erasure = Erasure.of(*concepts)
            edit = erase(model, erasure, method, registry=registry, settings=settings)
            made[key] = folder / "run"
            save_run(edit, made[key])
        return made[key]

    return do
