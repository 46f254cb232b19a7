"""Runs the cells of a sweep that are missing, one process per store."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from erasekit.attacks.run import AttackSetup, attack
from erasekit.bench.images import SheetScorer, measure_sets
from erasekit.bench.plan import NO_COSTS, Costs, PlannedCell, PlannedSet, Sweep, plan_sets
from erasekit.bench.prompts import paired_pages
from erasekit.bench.records import Cell, ListedCell, ListedSet, Manifest, Record, Waypoint
from erasekit.bench.store import RecordStore
from erasekit.edits import Edit
from erasekit.errors import (
    ConceptError,
    ConfigError,
    Interrupted,
    ModelError,
    OutputError,
    OutputLostError,
)
from erasekit.metrics.base import Scorer
from erasekit.metrics.judges import Judges
from erasekit.metrics.scores import ConceptScores
from erasekit.models.loading import LoadedModel
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback

ATTACKED = 4
"""Targets of each erased concept that attacks have."""


class Observer:
    """Hears of a sweep; override what you need."""

    def on_base(self, erased: str) -> None:
        """The un-erased model's images for an erased set are being drawn and scored."""

    def on_cell(self, cell: Cell) -> None:
        """A missing cell begins."""

    def on_status(self, text: str) -> None:
        """What the erasure of the current cell is at."""

    def on_images(self, count: int) -> None:
        """Images were drawn."""

    def on_record(self, record: Record) -> None:
        """A cell is done, or has failed."""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        missing: the cells that will run.
        erasures: those of them that will erase, since an edit of theirs is not in the store; the
            others are drawn and scored alone.
        failed: the cells that failed before and are left alone.
        images: how many will be drawn.
        image_passes: UNet passes of these images.
        damaged: files that are not what they were when they were written, and will be removed.
        remarks: which they are and what is computed again for it, as sentences.
    """

    erased_sets: tuple[PlannedSet, ...]
    missing: tuple[PlannedCell, ...]
    erasures: tuple[PlannedCell, ...] = ()
    failed: tuple[PlannedCell, ...] = ()
    costs: Costs = NO_COSTS
    images: int = 0
    image_passes: int = 0
    damaged: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def cells(self) -> list[PlannedCell]:
        return [cell for planned in self.erased_sets for cell in planned.cells]

    @property
    def erasure_passes(self) -> int | None:
        """UNet passes of the erasures; None without finished ones to go by for each."""
        return None if self.costs.guessed else round(self.costs.total)


class BenchmarkRunner:
    """Runs sweeps on one model with one scorer and one store.

    Args:
        model: it is left as it was.
        scorer: a scorer alone also classifies.
        edits: edits by their names in the store, which are taken from here and not kept there; a
            fault while one is drawn or scored is raised, not recorded.
    """

    def __init__(
        self,
        model: LoadedModel,
        scorer: Scorer | Judges,
        store: RecordStore,
        observer: Observer | None = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> None:
        self.model, self.store, self.edits = model, store, edits or {}
        self.scorer = Judges.of(scorer)
        self.observer = observer or Observer()

    def plan(self, sweep: Sweep, *, retry_failed: bool = False) -> Plan:
        """What a run of `sweep` would do; writes nothing.

        Raises: as `plan_sets`.
        """
        erased_sets = plan_sets(sweep, self.model, self.scorer)
        store = self.store
        missing: list[PlannedCell] = []
        failed: list[PlannedCell] = []
        damaged: dict[Path, str] = {}

        def sound(cell: Cell, what: str, *, base: bool = False) -> Record | None:
            """The record of a cell if all is well with what is behind it; else `damaged` has it."""
            record, path = (
                store.record(cell.key, base=base),
                store.path("base" if base else "cells", cell.key),
            )
            broken = store.damaged(record) if record else [path] * path.is_file()
            damaged.update(dict.fromkeys(broken and [*broken, path], what))
            return None if broken else record

        for planned in erased_sets:
            images = f"the un-erased model's images for {planned.erasure.label}"
            sound(planned.base, images, base=True)
            for cell in planned.cells:
                record = sound(cell.cell, cell.cell.name)
                if record is None or (record.status == "failed" and retry_failed):
                    missing.append(cell)
                elif record.status == "failed":
                    failed.append(cell)
        lost_edits = {path.parent.name for path in damaged if path.parent.parent.name == "edits"}
        erasures = [
            cell
            for cell in missing
            for keys in (cell.edit_keys,)
            if lost_edits & set(keys) or not all(store.path("edits", key).is_dir() for key in keys)
        ]
        files: dict[str, list[str]] = {}
        for path, what in damaged.items():
            files.setdefault(what, []).append(path.relative_to(store.root).as_posix())
        sheets = self._sheets(sweep)
        drawn = self._to_draw(sheets, erased_sets, missing, damaged)
        steps, scale = (sheets.generation[key] for key in ("num_inference_steps", "guidance_scale"))
        return Plan(
            erased_sets,
            tuple(missing),
            tuple(erasures),
            tuple(failed),
            Costs.of(erasures, store.records(), self.model),
            drawn,
            drawn * steps * (2 if scale > 1 else 1),
            tuple(damaged),
            tuple(
                f"Computed again, since a file is damaged: {what} ({names[0]}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''})."
                for what, names in files.items()
            ),
        )

    def _to_draw(
        self,
        sheets: SheetScorer,
        erased_sets: Iterable[PlannedSet],
        missing: Iterable[PlannedCell],
        damaged: Iterable[Path],
    ) -> int:
        """Images of the sheets that are not there, or are damaged."""
        gone, lacking = set(damaged), {cell.cell.key for cell in missing}
        wanted: dict[Path, int] = {}
        for planned in erased_sets:
            own = [cell.edit_keys for cell in planned.cells if cell.cell.key in lacking]
            for page in planned.pages:
                for weights in (self.model.hash, *(key for keys in own for key in keys)):
                    sheet = sheets.sheet(page, weights)
                    wanted[self.store.path("sheets", sheet.key)] = math.prod(sheet.shape)
        return sum(n for path, n in wanted.items() if path in gone or not path.is_file())

    def run(self, sweep: Sweep, plan: Plan) -> list[Record]:
        """Run what `plan` says, and give all records: per erased set base first, then its cells.

        A cell that fails is recorded with its error and the sweep goes on.

        Raises:
            Interrupted: Ctrl-C; what was finished is kept.
            OutputError: the store can't be written, or another process writes it.
            OutputLostError: somebody removed the store, or a part of it.
        """
        manifest = self.manifest(sweep, plan)
        missing = {cell.cell.key for cell in plan.missing}
        done = 0
        with self.store.driven():
            self.store.remove(plan.damaged)
            self.store.put_manifest(manifest)
            sheets = self._sheets(sweep)
            try:
                for planned in plan.erased_sets:
                    self.observer.on_base(planned.erasure.label)
                    base = self._base(sheets, planned)
                    for cell in planned.cells:
                        if cell.cell.key in missing:
                            record = self._run_cell(sheets, planned, cell, base)
                            self.store.put_record(record)
                            done += 1
                            self.observer.on_record(record)
                        else:
                            self._refresh(cell)
                        self._attack(sweep, planned, cell)
            except (KeyboardInterrupt, Interrupted) as stop:
                raise Interrupted(
                    f"Interrupted; {done} of {len(plan.missing)} cells are finished and kept. "
                    "The same command goes on from there."
                ) from stop
            self.store.check_there()
            records = self.store.records_of(manifest)
        expected = len(plan.erased_sets) + len(plan.cells)
        if len(records) < expected:
            raise OutputLostError(
                f"{expected - len(records)} of {expected} records were removed from "
                f"{str(self.store.root)!r} while the bench ran; the same command makes them again."
            )
        return records

    def _refresh(self, planned: PlannedCell) -> None:
        """What a method may keep on purpose is no number: a record takes on how it is told now."""
        record = self.store.record(planned.cell.key)
        if record is not None and record.exposed != planned.exposed:
            self.store.put_record(replace(record, exposed=planned.exposed))

    def _attack(self, sweep: Sweep, planned: PlannedSet, own: PlannedCell) -> None:
        """Attack the edit of a cell; its record takes on what became of each target.

        Attacks are kept in the store by the edit's name, and those that are there are read.
        """
        record, suite = self.store.record(own.cell.key), sweep.suite
        if not suite.attacks or record is None or record.status == "failed":
            return
        classes, label = planned.labels.classes, planned.labels.template
        setup = AttackSetup(ATTACKED, suite.prompt, classes=classes, label=label)
        edit, found = self._edits(own)[own.edit_key], dict(record.attacks)
        for name in suite.attacks:
            try:
                (done,) = attack(
                    self.model,
                    edit,
                    name,
                    planned.erasure,
                    setup=setup,
                    judges=self.scorer,
                    folder=self.store.root / "attacks" / own.edit_key,
                    on_status=self.observer.on_status,
                )
                found[name] = done.result.outcomes
            except (ConceptError, ConfigError, ModelError):
                found[name] = ()
        if found != record.attacks:
            self.store.put_record(replace(record, attacks=found))

    def manifest(self, sweep: Sweep, plan: Plan) -> Manifest:
        """What the sweep consists of, as the store keeps it."""
        suite = sweep.suite
        further = {
            "remarks": suite.remarks,
            "left_out": self.scorer.left_out,
            "metrics": suite.metrics,
        }
        about = {
            "model": self.model.id,
            "model_hash": self.model.hash,
            "suite": suite.name,
            "suite_version": suite.version,
            "protocol": suite.protocol,
            **self.scorer.identity,
            "erased_sets": [
                {"erased": planned.erasure.label, "kept": list(planned.erasure.withheld)}
                for planned in plan.erased_sets
            ],
            **{name: list(values) for name, values in further.items() if values},
        }
        listed = tuple(
            ListedSet(
                planned.erasure.label,
                planned.base.key,
                tuple(
                    ListedCell(p.cell.method, p.cell.erased, p.cell.seed, p.cell.key, p.edit_key)
                    for p in planned.cells
                ),
            )
            for planned in plan.erased_sets
        )
        return Manifest(about, listed, datetime.now(UTC).isoformat())

    def _base(self, sheets: SheetScorer, planned: PlannedSet) -> list[tuple[ConceptScores, ...]]:
        """Scores of the un-erased model, page by page; kept as the erased set's base record."""
        wanted = [sheets.sheet(page, self.model.hash) for page in planned.pages]
        scores = [sheets.scores(sheet, planned.labels) for sheet in wanted]
        sheets.finish()
        if self.store.record(planned.base.key, base=True) is None:
            record = Record(
                planned.base,
                "done",
                paired_pages(planned.pages, scores, scores),
                seconds=0.0,
                sheets=tuple(sheet.key for sheet in wanted),
                sets=measure_sets(sheets, planned, self.model.hash),
            )
            self.store.put_record(replace(record, checksums=self.store.checksums(record)))
        return scores

    def _run_cell(
        self,
        sheets: SheetScorer,
        planned: PlannedSet,
        own: PlannedCell,
        base: list[tuple[ConceptScores, ...]],
    ) -> Record:
        cell, pages = own.cell, planned.pages
        self.store.note({"method": cell.method, "erased": cell.erased, "seed": cell.seed})
        self.observer.on_cell(cell)
        try:
            edits = self._edits(own)
            after = {
                key: [sheets.scores(sheets.sheet(page, key), planned.labels, e) for page in pages]
                for key, e in edits.items()
            }
            sets = measure_sets(sheets, planned, own.edit_key, edits[own.edit_key])
            sheets.finish()
        except (OutputError, Interrupted):
            raise
        except Exception as fault:  # a method may fail in any way; it is recorded, not raised
            full = isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT)
            if self.edits or full:
                raise
            return Record(cell, "failed", error=f"{type(fault).__name__}: {fault}")
        stages = {
            key: Waypoint(
                step,
                paired_pages(pages, base, after[key]),
                key,
                tuple(sheets.sheet(page, key).key for page in pages),
            )
            for step, key in ((own.steps, own.edit_key), *own.along)
        }
        end, info = stages.pop(own.edit_key), edits[own.edit_key].info
        passes, seconds = info.get("unet_passes", {}), info.get("seconds", {})
        record = Record(
            cell,
            "done",
            end.concepts,
            edit=end.edit,
            seconds=float(seconds.get("total", math.nan)),
            forward=int(passes.get("forward", 0)),
            backward=int(passes.get("backward", 0)),
            sheets=end.sheets,
            exposed=own.exposed,
            steps=end.step,
            along=tuple(stages.values()),
            sets=sets,
        )
        return replace(record, checksums=self.store.checksums(record))

    def _edits(self, planned: PlannedCell) -> dict[str, Edit]:
        """The edit and those along its run, by name; made where the store lacks one."""
        found = {
            key: self.edits.get(key) or self.store.edit(key, self.model.registry)
            for key in planned.edit_keys
        }
        if None in found.values():
            watch = _Watch(self.observer, (step for step, _ in planned.along))
            made = erase(
                self.model,
                planned.erasure,
                planned.cell.method,
                seed=planned.cell.seed,
                settings=planned.settings,
                callbacks=[watch],
            )
            edits = {
                key: made.with_values(watch.weights[step], after_steps=step)
                for step, key in planned.along
            }
            for key, edit in {**edits, planned.edit_key: made}.items():
                if found[key] is None:
                    self.store.put_edit(key, edit)
                    found[key] = self.store.edit(key, self.model.registry) or edit
        return {key: edit for key, edit in found.items() if edit is not None}

    def _sheets(self, sweep: Sweep) -> SheetScorer:
        return SheetScorer(
            self.model, self.scorer, self.store, sweep.suite, self.observer.on_images
        )


class _Watch(Callback):
    """Tells the observer how far an erasure is, and keeps the trained values after `steps`."""

    def __init__(self, observer: Observer, steps: Iterable[int]) -> None:
        self.observer, self.total, self.steps = observer, 0, frozenset(steps)
        self.weights: dict[int, dict[str, Tensor]] = {}

    def on_status(self, text: str) -> None:
        self.observer.on_status(text)

    def on_start(self, step: int, total_steps: int) -> None:
        self.total = total_steps

    def on_step(self, record: dict[str, Any]) -> None:
        self.observer.on_status(f"step {record['step'] + 1} of {self.total}")

    def on_weights(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if step in self.steps:
            self.weights[step] = {name: p.detach().cpu().clone() for name, p in parameters.items()}
