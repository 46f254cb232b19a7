"""Everything a sweep leaves on disk, each file named by what it depends on.

    store.json                  what this folder is
    sweeps/KEY.json             which cells a sweep consists of, in its table's order
    base/KEY.json               one record per erased set of the model before any erasure
    cells/KEY.json              one record per erasure with its evaluation
    edits/KEY/                  the edit of an erasure, as `Edit.save` writes it
    sheets/KEY.png              images of one page: a row per prompt, a column per noise
    scores/KEY.json             one scorer's scores of one sheet
    features/KEY.safetensors    what a measure of sets sees in the images of one sheet
    driver.json                 which process writes; it holds a lock on the folder
    digests.json                checksums of files that need not be read again, by size and times

A key is a hash of everything that changes the content, so a file is never stale: it is there or
it is not. Files are written whole or not at all, so that a crash loses nothing that was finished.
JSON files have a checksum of their own, records those of the images and edits behind them. No torch
here, except where edits are and where features are written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from erasekit.bench.records import BASE, SCHEMA, Manifest, Record, Waypoint, content_key
from erasekit.errors import ConfigError, EditError, OutputError, OutputLostError
from erasekit.files import (
    atomic_folder,
    atomic_write_bytes,
    atomic_write_json,
    check_output_folder,
    sole_writer,
)
from erasekit.metrics.base import Images
from erasekit.metrics.scores import ConceptScores, Model, from_json, to_json

if TYPE_CHECKING:
    from erasekit.edits import Edit
    from erasekit.plugin.registry import Registry

MARKER = "store.json"
DRIVER = "driver.json"
DIGESTS = "digests.json"
Folder = Literal["sweeps", "base", "cells", "edits", "sheets", "scores", "features"]
SUFFIXES = {"edits": "", "sheets": ".png", "features": ".safetensors"}
"""Of the files in a folder; all others are JSON."""


class RecordStore:
    """A folder of records. Making one touches nothing; the first write makes the folder.

    Raises:
        OutputError: the folder holds something else, or can't be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._since = ""
        if not (root / MARKER).is_file():
            check_output_folder(root, overwrite=False)
            return
        found = _read_json(root / MARKER) or {}
        if found.get("schema") != SCHEMA:
            raise OutputError(
                f"The store {str(root)!r} has schema {found.get('schema')}; this erasekit reads "
                f"{SCHEMA}. Name another folder with --output."
            )

    def prepare(self) -> None:
        if not (self.root / MARKER).is_file():
            atomic_write_json(self.root / MARKER, {"schema": SCHEMA, "kind": "erasekit bench"})

    @contextmanager
    def driven(self) -> Iterator[None]:
        """For the block, no other process may write here.

        Raises:
            OutputError: another one does, or the folder can't be written.
        """
        if driver := self.driver():
            raise OutputError(
                f"Another bench (process {driver['pid']} on {driver['host']}) is writing "
                f"{str(self.root)!r}; wait for it, or name another folder with --output."
            )
        with sole_writer(self.root):
            self.prepare()
            self._since = datetime.now(UTC).isoformat(timespec="seconds")
            self.note(None)
            try:
                yield
            finally:
                if self._digests != _read_json(self.root / DIGESTS):
                    with suppress(OSError, OutputError):
                        self._write_json(self.root / DIGESTS, self._digests)
                with suppress(OSError):
                    (self.root / DRIVER).unlink()

    def note(self, cell: Mapping[str, Any] | None) -> None:
        """Leave a note for `driver` of what is being worked on."""
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since}
        self._write_json(self.root / DRIVER, {**who, "cell": cell})

    def driver(self) -> dict[str, Any] | None:
        """The process that writes now: `host`, `pid`, `since` (ISO 8601, UTC), `cell`; or None.

        A note that a killed one left does not count.
        """
        noted = _read_json(self.root / DRIVER)
        if noted is None or not {"host", "pid", "since", "cell"} <= noted.keys():
            return None
        try:
            with sole_writer(self.root):
                return None
        except OutputError:
            return noted

    def check_there(self) -> None:
        """Notice that somebody removed the store.

        Raises:
            OutputLostError: it is not there any more.
        """
        if not (self.root / MARKER).is_file():
            raise OutputLostError(
                f"The store {str(self.root)!r} was removed while it was written; what was in it is "
                "lost, and the same command starts anew."
            )

    @cached_property
    def _digests(self) -> dict[str, Any]:
        """SHA-256 of files by their path here, with the facts that say that it is still theirs."""
        return _read_json(self.root / DIGESTS) or {}

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file, read where its size or times are not those of the last reading."""
        name, facts = path.relative_to(self.root).as_posix(), path.stat()
        seen = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        if self._digests.get(name, [])[:3] != seen:
            with path.open("rb") as file:
                self._digests[name] = [*seen, hashlib.file_digest(file, "sha256").hexdigest()]
        return str(self._digests[name][3])

    def checksums(self, record: Record) -> dict[str, str]:
        """SHA-256 of each file of images and edits behind a record, by its path in the store."""
        stages: list[Record | Waypoint] = [record, *record.along]
        files = [self.path("sheets", key) for stage in stages for key in stage.sheets]
        for stage in stages:
            files += sorted(self.path("edits", stage.edit).glob("*")) if stage.edit else []
        return {p.relative_to(self.root).as_posix(): self._digest(p) for p in files if p.is_file()}

    def damaged(self, record: Record) -> list[Path]:
        """Files behind a record that are not what they were when it was written.

        A file whose size and times are those of its last reading is not read again: what a disk
        loses by itself is noticed by `sheet`.
        """
        found = ((self.root / name, checksum) for name, checksum in record.checksums.items())
        return [path for path, sha in found if path.is_file() and self._digest(path) != sha]

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove damaged files; of an edit, all of it."""
        for path in paths:
            if path.parent.parent == self.root / "edits":
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def path(self, folder: Folder, key: str) -> Path:
        """Where a file, or an edit's folder, is."""
        return self.root / folder / f"{key}{SUFFIXES.get(folder, '.json')}"

    def record(self, key: str, *, base: bool = False) -> Record | None:
        """The record of a cell, or a base record, or None where there is none that can be read."""
        return _read(Record, self.path("base" if base else "cells", key))

    def records(self) -> Iterator[Record]:
        """The records of all erasures, in no order that means anything."""
        for path in sorted((self.root / "cells").glob("[!.]*.json")):
            record = self.record(path.stem)
            if record is not None:
                yield record

    def put_record(self, record: Record) -> None:
        """Write the record of a cell; that of the un-erased model is a base record."""
        self._write("base" if record.cell.method == BASE else "cells", record.cell.key, record)

    def manifests(self) -> list[Manifest]:
        """The sweeps that were run on this store, the latest last."""
        paths = sorted((self.root / "sweeps").glob("[!.]*.json"))
        found = [manifest for path in paths if (manifest := _read(Manifest, path))]
        return sorted(found, key=lambda manifest: manifest.started)

    def put_manifest(self, manifest: Manifest) -> None:
        self._write("sweeps", manifest.key, manifest)

    def records_of(self, manifest: Manifest) -> list[Record]:
        """The records of a sweep that are there: per erased set base first, then its cells."""
        found = []
        for listed in manifest.erased_sets:
            found.append(self.record(listed.base, base=True))
            found += [self.record(cell.key) for cell in listed.cells]
        return [record for record in found if record is not None]

    def scores(self, key: str) -> tuple[ConceptScores, ...] | None:
        """The scores of a sheet, one per row, or None."""
        data = _read_json(self.path("scores", key))
        try:
            return tuple(from_json(ConceptScores, row) for row in data["rows"]) if data else None
        except (KeyError, ValueError):
            return None

    def put_scores(
        self, key: str, rows: Sequence[ConceptScores], identity: Mapping[str, Any]
    ) -> None:
        data = {"rows": [to_json(row) for row in rows], **identity}
        self._write_json(self.path("scores", key), data)

    def _write(self, folder: Folder, key: str, value: Record | Manifest) -> None:
        self._write_json(self.path(folder, key), {"schema": SCHEMA, "key": key, **to_json(value)})

    def _write_json(self, path: Path, value: dict[str, Any]) -> None:
        self.check_there()
        atomic_write_json(path, {**value, "checksum": content_key(value)})

    def features(self, key: str) -> NDArray[np.float32] | None:
        """Features of a sheet's images, or of a reference's, float32 [N, D], or None."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(self.path("features", key))
            return np.asarray(found["features"], dtype=np.float32)
        except (OSError, KeyError, SafetensorError):
            return None

    def put_features(self, key: str, features: NDArray[np.float32]) -> None:
        from torch import from_numpy

        from erasekit.models.tensor_files import save_tensors

        self.check_there()
        tensors = {"features": from_numpy(np.array(features, order="C"))}
        save_tensors(self.path("features", key), tensors)

    def sheet(self, key: str, shape: tuple[int, int]) -> Images | None:
        """The images of a sheet, uint8 [*shape, H, W, 3]; None if it is not there or damaged.

        One that is damaged though its size and times are as they were gets new times, so that the
        next run takes note of it.
        """
        path = self.path("sheets", key)
        try:
            data = path.read_bytes()
            known = self._digests.get(path.relative_to(self.root).as_posix())
            if known and known[3] != hashlib.sha256(data).hexdigest():
                path.touch()
                return None
            with Image.open(io.BytesIO(data)) as file:
                pixels = np.asarray(file.convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            return None
        rows, columns = shape
        height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
        return pixels.reshape(rows, height, columns, width, 3).swapaxes(1, 2)

    def put_sheet(self, key: str, png: bytes) -> None:
        self.check_there()
        atomic_write_bytes(self.path("sheets", key), png)
        self._digests.pop(f"sheets/{key}.png", None)

    def images(self, record: Record) -> dict[str, Images]:
        """Images after an erasure by concept, each uint8 [noises, H, W, 3].

        A concept whose sheet is not there any more is left out.
        """
        found: dict[str, Images] = {}
        pages = record.cell.identity["evaluation"]["concepts"]
        for key, page in zip(record.sheets, pages, strict=True):
            images = self.sheet(key, (len(page), len(page[0]["noises"])))
            if images is not None:
                for row, own in zip(page, images, strict=True):
                    seen = found.get(row["concept"])
                    found[row["concept"]] = own if seen is None else np.concatenate([seen, own])
        return found

    def edit(self, key: str, registry: Registry | None = None) -> Edit | None:
        """An edit that was made before, or None; see `load_edit`."""
        from erasekit.edits import load_edit

        try:
            return load_edit(self.path("edits", key), registry)
        except EditError:
            return None

    def put_edit(self, key: str, edit: Edit) -> None:
        """Keep an edit; the folder appears when it is complete."""
        self.check_there()
        with atomic_folder(self.path("edits", key)) as temporary:
            edit.save(temporary)


def open_store(folder: Path) -> RecordStore:
    """The store in `folder`.

    Raises:
        ConfigError: there is none, or no sweep was run on it.
        OutputError: it is of another schema.
    """
    if not (folder / MARKER).is_file():
        raise ConfigError(
            f"There is no benchmark in {str(folder)!r}; name the folder that `erasekit bench` "
            "wrote, such as runs/bench-icons-mini."
        )
    store = RecordStore(folder)
    if not store.manifests():
        raise ConfigError(
            f"No sweep is listed in {str(folder)!r}; run the `erasekit bench` command again, which "
            "takes up what is there."
        )
    return store


def sheet_png(images: Images, identity: Mapping[str, Any]) -> bytes:
    """A sheet as a PNG file, the same to the last bit when `RecordStore.sheet` reads it.

    Args:
        images: uint8 [rows, columns, H, W, 3].
        identity: goes into the file.
    """
    rows, columns, height, width, channels = images.shape
    pixels = images.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    note = PngImagePlugin.PngInfo()
    note.add_itxt("erasekit", json.dumps(identity, sort_keys=True, ensure_ascii=False))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=note)
    return file.getvalue()


def _read(kind: type[Model], path: Path) -> Model | None:
    data = _read_json(path) or {}
    try:
        return from_json(kind, data) if data.get("schema") == SCHEMA else None
    except ValueError:
        return None


def _read_json(path: Path) -> dict[str, Any] | None:
    """What was written, or None where it is not there or not what was written."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        checksum = data.pop("checksum", None)  # none in stores of erasekit 0.1
        return data if checksum in (None, content_key(data)) else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
