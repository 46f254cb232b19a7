"""Runs the cells of a sweep that are missing, one process per store."""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from erasekit.bench.images import SheetScorer, measure_sets
from erasekit.bench.plan import ErasureCosts, PlannedCase, PlannedCell, Sweep, plan_cases
from erasekit.bench.prompts import EvaluatedConcept, paired_pages
from erasekit.bench.records import (
    BASE,
    Cell,
    ListedCase,
    ListedCell,
    Manifest,
    Record,
    Waypoint,
)
from erasekit.bench.store import RecordStore
from erasekit.edits import Edit
from erasekit.errors import Interrupted, OutputError, OutputLostError
from erasekit.metrics.base import Scorer
from erasekit.metrics.judges import Judges
from erasekit.metrics.scores import ConceptScores
from erasekit.models.loading import LoadedModel
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback


class Observer:
    """Hears of a sweep; override what you need."""

    def on_base(self, erased: str) -> None:
        """The un-erased model's images of a case are being drawn and scored."""

    def on_cell(self, cell: Cell) -> None:
        """A missing cell begins."""

    def on_status(self, text: str) -> None:
        """What the erasure of the current cell is at."""

    def on_images(self, count: int) -> None:
        """Images were drawn."""

    def on_record(self, record: Record) -> None:
        """A cell is done, or has failed."""

    def on_plan(self, plan: Plan) -> None:
        """What is missing is going to be run."""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        cases: all cells.
        missing: the cells that will run.
        erasures: those of them that will erase, since an edit of theirs is not in the store; the
            others are drawn and scored alone.
        failed: the cells that failed before and are left alone.
        images: images that will be drawn.
        image_passes: UNet passes of these images.
        erasure_passes: UNet passes of the erasures, going by finished ones of the same
            method and settings; None where there is none to go by.
        damaged: files that are not what they were when they were written, and will be removed.
        remarks: which they are and what is computed again for it, as sentences.
    """

    cases: tuple[PlannedCase, ...]
    missing: tuple[PlannedCell, ...]
    erasures: tuple[PlannedCell, ...]
    failed: tuple[PlannedCell, ...]
    images: int = 0
    image_passes: int = 0
    erasure_passes: int | None = None
    damaged: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def cells(self) -> list[PlannedCell]:
        """All cells."""
        return [cell for case in self.cases for cell in case.cells]


class BenchmarkRunner:
    """Runs sweeps on one model with one scorer and one store.

    Args:
        model: the model; it is left as it was.
        scorer: judges its images; a scorer alone also classifies them.
        store: where records are kept, and looked up.
        observer: hears of the run.
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

        Raises: as `plan_cases`.
        """
        cases = plan_cases(sweep, self.model, self.scorer)
        sheets = self._sheets(sweep)
        store = self.store
        missing: list[PlannedCell] = []
        failed: list[PlannedCell] = []
        damaged: dict[Path, str] = {}
        to_draw: dict[str, int] = {}

        def sound(record: Record | None, path: Path, what: str) -> bool:
            """Whether all is well with a record and what is behind it; if not, `damaged` has it."""
            broken = store.damaged(record) if record else [path] * path.is_file()
            damaged.update(dict.fromkeys(broken and [*broken, path], what))
            return not broken

        for case in cases:
            base_cell = self._base_cell(case)
            sound(
                store.base(base_cell.key),
                store.base_path(base_cell.key),
                f"the un-erased model's images for {case.erasure.label}",
            )
            for cell in case.cells:
                key = cell.cell.key
                record = store.record(key)
                if sound(record, store.record_path(key), cell.cell.name) and record is not None:
                    if record.status == "done":
                        continue
                    if not retry_failed:
                        failed.append(cell)
                        continue
                missing.append(cell)
        gone = {path.stem for path in damaged if path.parent.name == "sheets"}
        lost_edits = {path.parent.name for path in damaged if path.parent.parent.name == "edits"}

        def draw(page: tuple[EvaluatedConcept, ...], weights: str) -> None:
            sheet = sheets.sheet(page, weights)
            if sheet.key in gone or not store.sheet_path(sheet.key).is_file():
                to_draw[sheet.key] = sheet.images

        lacking = {cell.cell.key for cell in missing}
        for case in cases:
            for page in case.pages:
                draw(page, self.model.hash)
            own = [cell for cell in case.cells if cell.cell.key in lacking]
            for cell, page in itertools.product(own, case.pages):
                for key in cell.edit_keys:
                    draw(page, key)
        erasures = tuple(
            cell
            for cell in missing
            if lost_edits & set(cell.edit_keys) or not all(map(store.has_edit, cell.edit_keys))
        )
        files: dict[str, list[str]] = {}
        for path, what in damaged.items():
            files.setdefault(what, []).append(path.relative_to(store.root).as_posix())
        images = sum(to_draw.values())
        settings = sheets.generation
        per_image = settings["num_inference_steps"] * (2 if settings["guidance_scale"] > 1 else 1)
        return Plan(
            cases,
            tuple(missing),
            erasures,
            tuple(failed),
            images,
            images * per_image,
            self._erasure_passes(erasures),
            tuple(damaged),
            tuple(
                f"Computed again, since a file is damaged: {what} ({names[0]}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''})."
                for what, names in files.items()
            ),
        )

    def run(self, sweep: Sweep, plan: Plan) -> list[Record]:
        """Run what `plan` says, and give all records: per case base first, then its cells.

        A cell that fails is recorded with its error and the sweep goes on.

        Raises:
            Interrupted: Ctrl-C; what was finished is kept.
            OutputError: the store can't be written, or another process writes it.
            OutputLostError: somebody removed the store, or a part of it.
        """
        manifest = self.manifest(sweep, plan)
        missing = {cell.cell.key for cell in plan.missing}
        self.observer.on_plan(plan)
        done = 0
        with self.store.driven():
            self.store.remove(plan.damaged)
            self.store.put_manifest(manifest)
            sheets = self._sheets(sweep)
            try:
                for case in plan.cases:
                    self.observer.on_base(case.erasure.label)
                    base = self._base(sheets, case)
                    for planned in case.cells:
                        if planned.cell.key in missing:
                            record = self._run_cell(sheets, case, planned, base)
                            self.store.put_record(record)
                            done += 1
                            self.observer.on_record(record)
                        else:
                            self._refresh(planned)
            except (KeyboardInterrupt, Interrupted) as stop:
                raise Interrupted(
                    f"Interrupted; {done} of {len(plan.missing)} cells are finished and kept. "
                    "The same command goes on from there."
                ) from stop
            self.store.check_there()
            records = self.store.records_of(manifest)
        expected = len(plan.cases) + len(plan.cells)
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

    def manifest(self, sweep: Sweep, plan: Plan) -> Manifest:
        """What the sweep consists of, as the store keeps it."""
        about = {
            "model": self.model.id,
            "model_hash": self.model.hash,
            "suite": sweep.suite.name,
            "suite_version": sweep.suite.version,
            "protocol": sweep.suite.protocol,
            **self.scorer.identity,
            "erased_sets": [
                {"erased": case.erasure.label, "kept": list(case.erasure.withheld)}
                for case in plan.cases
            ],
        }
        if sweep.suite.remarks:
            about["remarks"] = list(sweep.suite.remarks)
        if self.scorer.left_out:
            about["left_out"] = list(self.scorer.left_out)
        if sweep.suite.metrics:
            about["metrics"] = list(sweep.suite.metrics)
        cases = tuple(
            ListedCase(
                case.erasure.label,
                self._base_cell(case).key,
                tuple(
                    ListedCell(p.cell.method, p.cell.erased, p.cell.seed, p.cell.key, p.edit_key)
                    for p in case.cells
                ),
            )
            for case in plan.cases
        )
        return Manifest(about, cases, datetime.now(UTC).isoformat())

    def _base(self, sheets: SheetScorer, case: PlannedCase) -> list[tuple[ConceptScores, ...]]:
        """Scores of the un-erased model, page by page; kept as the case's base record."""
        wanted = [sheets.sheet(page, self.model.hash) for page in case.pages]
        scores = [sheets.scores(sheet, case.labels) for sheet in wanted]
        sheets.finish()
        cell = self._base_cell(case)
        if self.store.base(cell.key) is None:
            record = Record(
                cell,
                "done",
                paired_pages(case.pages, scores, scores),
                seconds=0.0,
                sheets=tuple(sheet.key for sheet in wanted),
                sets=measure_sets(sheets, case, self.model.hash),
            )
            self.store.put_base(replace(record, checksums=self.store.checksums(record)))
        return scores

    def _base_cell(self, case: PlannedCase) -> Cell:
        evaluation = case.cells[0].cell.identity["evaluation"]
        return Cell(
            BASE, case.erasure.label, 0, {"model": self.model.hash, "evaluation": evaluation}
        )

    def _run_cell(
        self,
        sheets: SheetScorer,
        case: PlannedCase,
        planned: PlannedCell,
        base: list[tuple[ConceptScores, ...]],
    ) -> Record:
        cell, pages = planned.cell, case.pages
        self.store.note({"method": cell.method, "erased": cell.erased, "seed": cell.seed})
        self.observer.on_cell(cell)
        try:
            edits = self._edits(planned)
            after = {
                key: [sheets.scores(sheets.sheet(page, key), case.labels, edit) for page in pages]
                for key, edit in edits.items()
            }
            sets = measure_sets(sheets, case, planned.edit_key, edits[planned.edit_key])
            sheets.finish()
        except (OutputError, Interrupted):
            raise
        except Exception as fault:  # a method may fail in any way; it is recorded, not raised
            if self.edits or (
                isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT)
            ):
                raise
            return Record(cell, "failed", error=f"{type(fault).__name__}: {fault}")
        info = edits[planned.edit_key].info
        passes, seconds = info.get("unet_passes", {}), info.get("seconds", {})
        drawn = {key: tuple(sheets.sheet(page, key).key for page in pages) for key in edits}
        record = Record(
            cell,
            "done",
            paired_pages(case.pages, base, after[planned.edit_key]),
            edit=planned.edit_key,
            seconds=float(seconds.get("total", math.nan)),
            forward=int(passes.get("forward", 0)),
            backward=int(passes.get("backward", 0)),
            sheets=drawn[planned.edit_key],
            exposed=planned.exposed,
            steps=planned.steps,
            along=tuple(
                Waypoint(step, paired_pages(case.pages, base, after[key]), key, drawn[key])
                for step, key in planned.along
            ),
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
                planned.cell.method,
                planned.erasure,
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

    def _erasure_passes(self, erasures: tuple[PlannedCell, ...]) -> int | None:
        """Passes of these erasures, where there are records to go by for each."""
        costs = ErasureCosts(self.store)
        known = [costs.known(planned) for planned in erasures]
        there = [cost for cost in known if cost is not None]
        return round(sum(there)) if len(there) == len(known) else None


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
