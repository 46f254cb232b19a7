"""Run folders: what was asked, so that an interrupted run can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from erasekit.concepts import Concept, Erasure
from erasekit.edits import HISTORY, INFO, WEIGHTS
from erasekit.errors import ConfigError, EditError
from erasekit.files import atomic_write_json
from erasekit.training.checkpoints import CHECKPOINT, REQUEST, UNPROVEN, Checkpoint
from erasekit.training.erase import ADVERSARIES

MEASURES = "measures.json"
"""What was measured at the end of a run, as `QuickResult.as_dict` gives it."""

RUN_FILES = (
    *(REQUEST, CHECKPOINT, UNPROVEN, WEIGHTS, INFO, ADVERSARIES),
    *(HISTORY, MEASURES, "README.md", "before-after.png"),
)


@dataclass(frozen=True)
class RunRequest:
    """What `erase` was asked for.

    Attributes:
        model: as the user typed it.
        base_hash: hash of that model's weights.
        method: name of the method.
        erasure: what goes and what stays.
        seed: of the run.
        settings: every hyperparameter, resolved.
        dtype: fp32 or fp16, what the weights were loaded in.
    """

    model: str
    base_hash: str
    method: str
    erasure: Erasure
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "fp32"

    def save(self, folder: Path) -> None:
        """Write `request.json`.

        Raises:
            OutputError: it can't be written.
        """
        atomic_write_json(folder / REQUEST, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> RunRequest:
        """Read `request.json`.

        Raises:
            EditError: the folder holds no run, or the file is damaged.
        """
        try:
            data = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
            erasure = data.pop("erasure")
            erased = tuple(
                Concept(c["text"], c["kind"], tuple(c["aliases"])) for c in erasure["erased"]
            )
            keep, withheld = tuple(erasure["keep"]), tuple(erasure.get("withheld", ()))
            return cls(**data, erasure=Erasure(erased, erasure["neutral"], keep, withheld))
        except FileNotFoundError as error:
            raise EditError(
                f"The folder {str(folder)!r} holds no run to resume; name one that `erase` left."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EditError(
                f"The file {str(folder / REQUEST)!r} is damaged ({error}); start the run anew."
            ) from error


def read_interrupted(folder: Path) -> tuple[RunRequest, Checkpoint, list[dict[str, Any]]]:
    """The request, the checkpoint and the history up to it.

    Raises:
        EditError: no run, a damaged one, or one without a checkpoint.
        ConfigError: the run is finished.
    """
    request = RunRequest.load(folder)
    if (folder / INFO).is_file() and not (folder / CHECKPOINT).is_file():
        raise ConfigError(f"The run {str(folder)!r} is finished; there is nothing to resume.")
    path = folder / CHECKPOINT
    if not path.is_file() and (folder / UNPROVEN).is_file():
        path = folder / UNPROVEN  # killed before a step from it was done
    checkpoint = Checkpoint.load(path)
    return request, checkpoint, _history_until(checkpoint.step, folder)


def _history_until(step: int, folder: Path) -> list[dict[str, Any]]:
    """The first `step` records; a line that a killed process left unfinished comes after them.

    Raises:
        EditError: there are fewer.
    """
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()[:step]
    try:
        records = [json.loads(line) for line in lines]
        if [record["step"] for record in records] == list(range(step)):
            return records
    except (ValueError, KeyError, TypeError):
        pass
    raise EditError(
        f"The file {str(folder / HISTORY)!r} lacks some of the {step} steps of its checkpoint; "
        "start the run anew."
    )


def clear_run(folder: Path) -> None:
    """Remove the files of an earlier run from `folder`, and nothing else."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)


def discard_run(folder: Path, *, remove_folder: bool) -> None:
    """Remove what a run that failed early left, unless it holds a checkpoint or an edit."""
    if (folder / CHECKPOINT).exists() or (folder / INFO).exists():
        return
    with suppress(OSError):
        clear_run(folder)
        if remove_folder and not any(folder.iterdir()):
            shutil.rmtree(folder)
