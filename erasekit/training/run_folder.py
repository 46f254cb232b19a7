"""Run folders: what was asked, what a run leaves, how it was made, and how it goes on."""

from __future__ import annotations

import json
import platform
import resource
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

import erasekit
from erasekit.concepts import Erasure
from erasekit.edits import HISTORY, INFO, WEIGHTS, Edit, load_tensors, save_tensors
from erasekit.errors import ConfigError, EditError
from erasekit.files import atomic_write_json, atomic_write_text
from erasekit.models.loading import LoadedModel
from erasekit.training.checkpoint import CHECKPOINT, UNPROVEN, Checkpoint

REQUEST, ADVERSARIES = "request.json", "adversary.safetensors"
MEASURES = "measures.json"
"""What was measured at the end of a run, as `QuickResult.as_dict` gives it."""
RUN_FILES = (
    *(REQUEST, CHECKPOINT, UNPROVEN, WEIGHTS, INFO, ADVERSARIES),
    *(HISTORY, MEASURES, "README.md", "before-after.png"),
)
_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")


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
        path = folder / REQUEST
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise EditError(
                f"The folder {str(folder)!r} holds no run to resume; name one that `erase` left."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            fault = f"{where}: {first['msg']}" if where else first["msg"]
            raise EditError(f"The file {str(path)!r} is damaged ({fault}).") from error
        except OSError as error:
            raise EditError(f"The file {str(path)!r} can't be read ({error.strerror}).") from error


def read_interrupted(folder: Path) -> tuple[RunRequest, Checkpoint]:
    """The request and the checkpoint, with the history up to it.

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
    return request, Checkpoint.load(path)


def save_run(edit: Edit, folder: Path) -> None:
    """Write a finished run: edit, history, adversaries; the checkpoint is no longer needed.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in edit.history)
    atomic_write_text(folder / HISTORY, lines)
    if edit.adversaries:
        save_tensors(folder / ADVERSARIES, edit.adversaries)
    edit.save(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)


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


def versions() -> dict[str, str]:
    """Versions of erasekit, Python and what the numbers depend on."""
    found = {"erasekit": erasekit.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def command() -> str:
    """The command line of this process, as one would type it."""
    name = Path(sys.argv[0]).name
    first = "python -m erasekit" if name == "__main__.py" else name
    return " ".join([first, *map(shlex.quote, sys.argv[1:])])


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


@dataclass(frozen=True)
class Snapshot:
    """c_a of one erased concept at one step.

    Attributes:
        step: the outer step.
        erased: index of the erased concept.
        caption: the word it is, or "near WORD" for an embedding that no word names.
        prompt_embeds: [L, D].
    """

    step: int
    erased: int
    caption: str
    prompt_embeds: Tensor


def adversary_snapshots(edit: Edit, folder: Path, model: LoadedModel, count: int) -> list[Snapshot]:
    """c_a at up to `count` steps, evenly spread; empty where the method has no adversary.

    Embeddings that the run has kept are taken as they are. A method that keeps words and no
    embeddings gives the first word of each step.

    Args:
        edit: the run's edit, with its history.
        folder: the run folder.
        model: embeds the words.
        count: steps at most.

    Raises:
        EditError: the kept embeddings are damaged.
    """
    history = {int(record["step"]): record.get("adversary") or [] for record in edit.history}
    if (folder / ADVERSARIES).is_file():
        return _kept(load_tensors(folder / ADVERSARIES)[0], history, count)
    return _worded(history, model, count)


def _kept(
    tensors: dict[str, Tensor], history: dict[int, list[dict[str, Any]]], count: int
) -> list[Snapshot]:
    places = sorted(tuple(map(int, key.split("."))) for key in tensors)
    steps = _spread(sorted({step for step, _ in places}), count)
    return [
        Snapshot(step, e, _caption(history.get(step, []), e), tensors[f"{step:06d}.{e}"])
        for step, e in places
        if step in steps
    ]


def _worded(
    history: dict[int, list[dict[str, Any]]], model: LoadedModel, count: int
) -> list[Snapshot]:
    named = [step for step, rows in history.items() if any(row["concept"] for row in rows)]
    chosen = [
        (step, e, row["concept"].split(", ")[0])
        for step in _spread(named, count)
        for e, row in enumerate(history[step])
        if row["concept"]
    ]
    if not chosen:
        return []
    embeds = model.family.embed_prompts([word for _, _, word in chosen])
    return [
        Snapshot(step, e, word, embed)
        for (step, e, word), embed in zip(chosen, embeds, strict=True)
    ]


def _caption(rows: Sequence[dict[str, Any]], erased: int) -> str:
    if erased >= len(rows):
        return ""
    row = rows[erased]
    nearest = row["nearest"] or ""
    return nearest if row["concept"] or not nearest else f"near {nearest}"


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of `steps`, evenly spread, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    if count == 1:
        return [steps[-1]]
    stride = (len(steps) - 1) / (count - 1)
    return [steps[round(i * stride)] for i in range(count)]
