"""Run folders: what was asked, what a run leaves, how it was made, and how it goes on."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import shutil
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import Tensor

import erasekit
from erasekit.concepts import Erasure, slug
from erasekit.edits import HISTORY, INFO, WEIGHTS, Edit, load_edit
from erasekit.errors import EditError, ErasekitError, OutputLostError
from erasekit.files import (
    RUN_MARKS,
    atomic_folder,
    atomic_write_json,
    atomic_write_text,
    check_output_folder,
    new_run_folder,
    sole_writer,
    why_unreadable,
    writing,
)
from erasekit.models.loading import LoadedModel
from erasekit.models.tensor_files import load_tensors, save_tensors
from erasekit.plugin.registry import Registry
from erasekit.training.checkpoint import CHECKPOINT, UNPROVEN, Checkpoint

REQUEST, ADVERSARIES = "request.json", "adversary.safetensors"
UNFINISHED = "unfinished"
"""Folder within a run's, where the run that is to replace it grows."""
MEASURES = "measures.json"
"""What was measured at the end of a run, as `Measured.as_dict` gives it."""
RUN_FILES = (
    *(REQUEST, CHECKPOINT, UNPROVEN, WEIGHTS, INFO, ADVERSARIES),
    *(HISTORY, MEASURES, "README.md", "before-after.png", "attacks"),
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
            raise _damaged(path, error) from error
        except (OSError, ErasekitError) as error:
            raise EditError(why_unreadable(path, error)) from error


class _Provenance(BaseModel):
    """What is said of a finished run."""

    concepts: list[str]
    config: dict[str, Any]
    seconds: dict[str, float]
    unet_passes: dict[str, int]


def finished_edit(folder: Path, registry: Registry) -> Edit:
    """The edit of a finished run, with all that is said of one.

    Raises:
        EditError: it can't be read, or says less.
    """
    edit = load_edit(folder, registry)
    try:
        _Provenance.model_validate(edit.info)
    except ValidationError as error:
        raise _damaged(folder / INFO, error) from error
    return edit


def _damaged(path: Path, error: ValidationError) -> EditError:
    first = error.errors()[0]
    fault = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return EditError(f"The file {str(path)!r} is damaged ({fault}).")


def watched(folder: Path) -> Callable[[], None]:
    """A check that raises `OutputLostError` once the folder was removed or replaced."""
    with writing(folder):
        seen = folder.stat()

    def check() -> None:
        with suppress(OSError):
            if os.path.samestat(folder.stat(), seen):
                return
        raise OutputLostError(
            f"The folder {str(folder)!r} was removed or replaced while a run was writing it, so "
            "the run is lost; start it anew."
        )

    with suppress(OSError):  # while it is open, nothing else can have its inode
        weakref.finalize(check, os.close, os.open(folder, os.O_RDONLY))
    return check


class RunFolder:
    """A run's folder, which no other process writes meanwhile. See `new_run` and `resumed_run`.

    Attributes:
        path: where the run is.
        work: where it is written until it is whole: `path`, or over a run that is there already a
            folder within it.
        check: raises `OutputLostError` where `work` was removed or replaced.
    """

    def __init__(self, path: Path, work: Path, held: ExitStack) -> None:
        self.path, self.work, self._held, self.check = path, work, held, watched(work)

    def finish(self, edit: Edit) -> None:
        """Write the whole run: edit, history, adversaries. An earlier run there goes now.

        Raises:
            OutputError: the folder can't be written, the disk is full, or the folder is gone.
        """
        self.check()
        save_run(edit, self.work)
        if self.work == self.path:
            return
        before = self.path.stat()
        with atomic_folder(self.path, stale=(*RUN_FILES, UNFINISHED)) as new:
            for entry in self.work.iterdir():
                entry.rename(new / entry.name)
        self.work = self.path
        if not os.path.samestat(before, self.path.stat()):  # another folder, to be held too
            self._held.enter_context(sole_writer(self.path))
        self.check = watched(self.path)


@contextmanager
def new_run(
    path: Path | None, request: RunRequest, *, overwrite: bool = False
) -> Iterator[RunFolder]:
    """A folder for a new run; a run that is there stays until the new one is whole.

    Where the block fails before there is a checkpoint, nothing is left of it.

    Args:
        path: None makes a numbered one under `runs/`.
        request: what the run is asked for.
        overwrite: a run may be there already.

    Raises:
        OutputError: it is not empty and `overwrite` is off, erasekit did not make it, another
            process is writing it, or it can't be written.
    """
    if path is None:
        path = new_run_folder(
            Path("runs"), f"{slug(request.erasure.label)[:60]}-{slug(request.method)}"
        )
    existed = path.exists()
    check_output_folder(path, overwrite=overwrite, marks=RUN_MARKS)
    with ExitStack() as held:
        held.enter_context(sole_writer(path))
        check_output_folder(path, overwrite=overwrite, marks=RUN_MARKS)
        work = path
        if any((path / mark).exists() for mark in RUN_MARKS):
            work = path / UNFINISHED
            shutil.rmtree(work, ignore_errors=True)
        with writing(work):
            work.mkdir(exist_ok=True)
        folder = RunFolder(path, work, held)
        try:
            request.save(work)
            yield folder
        except BaseException:
            if not any((folder.work / name).exists() for name in (CHECKPOINT, UNPROVEN, INFO)):
                with suppress(OutputLostError):
                    folder.check()  # what is there now is this run's alone
                    shutil.rmtree(folder.work, ignore_errors=True)
            if existed and not path.exists():
                path.mkdir()
            raise


@contextmanager
def resumed_run(
    path: Path, *, writes: bool = True
) -> Iterator[tuple[RunFolder, RunRequest, Checkpoint | None]]:
    """The folder of a run that goes on, its request, and its checkpoint; None of a finished run.

    Args:
        path: the run folder.
        writes: of several processes that share the run, whether this is the one that writes.

    Raises:
        EditError: no run, a damaged one, or one without a checkpoint.
        OutputError: another process is writing it.
    """
    if path.name == UNFINISHED and (path.parent / UNFINISHED).is_dir():
        path = path.parent
    work = path / UNFINISHED if (path / UNFINISHED / REQUEST).is_file() else path
    request, checkpoint = RunRequest.load(work), None
    with ExitStack() as held:
        if writes:
            held.enter_context(sole_writer(path))
        if not (work / INFO).is_file():
            kept = work / CHECKPOINT
            if not kept.is_file() and (work / UNPROVEN).is_file():
                kept = work / UNPROVEN  # killed before a step from it was done
            checkpoint = Checkpoint.load(kept)
        yield RunFolder(path, work, held), request, checkpoint


def save_run(edit: Edit, folder: Path) -> None:
    """Write a finished run: edit, history, adversaries; the checkpoint is no longer needed.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    atomic_write_text(folder / HISTORY, history_lines(edit.history))
    if edit.adversaries:
        save_tensors(folder / ADVERSARIES, edit.adversaries)
    edit.save(folder)
    for name in (CHECKPOINT, UNPROVEN):
        (folder / name).unlink(missing_ok=True)


def history_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as `history.jsonl` has them."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


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
    embeddings gives the first word of each step, embedded by `model`.

    Raises:
        EditError: the kept embeddings are damaged.
    """
    rows = {
        (int(record["step"]), e): row
        for record in edit.history
        for e, row in enumerate(record.get("adversary") or ())
    }
    kept: dict[tuple[int, int], Tensor] = {}
    if (folder / ADVERSARIES).is_file():
        for key, value in load_tensors(folder / ADVERSARIES)[0].items():
            step, _, e = key.partition(".")
            kept[int(step), int(e)] = value
    places = sorted(kept or (place for place, row in rows.items() if row["concept"]))
    steps = sorted({step for step, _ in places})
    spread = np.linspace(len(steps) - 1, 0, min(count, len(steps))).round().astype(int)
    chosen = [place for place in places if place[0] in {steps[i] for i in spread}]
    if not chosen:
        return []
    if not kept:
        words = [rows[place]["concept"].split(", ")[0] for place in chosen]
        found = zip(chosen, words, model.family.embed_prompts(words), strict=True)
        return [Snapshot(*place, word, embed) for place, word, embed in found]
    return [Snapshot(*place, _caption(rows.get(place)), kept[place]) for place in chosen]


def _caption(row: Mapping[str, Any] | None) -> str:
    nearest = (row and row["nearest"]) or ""
    return nearest if not nearest or (row and row["concept"]) else f"near {nearest}"
