"""Forecast how long a sweep would take and how much it would write, by a short calibration."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import mul
from typing import TypeVar

import numpy as np
from PIL import Image

from erasekit.bench.images import SheetScorer, missing_features, score_page
from erasekit.bench.plan import PlannedCell, PlannedSet, generation_identity
from erasekit.bench.prompts import PAGE
from erasekit.bench.runner import BenchmarkRunner, Plan
from erasekit.bench.suite import Suite
from erasekit.diffusion.sampling import generate
from erasekit.metrics.base import Images, SetMeasure
from erasekit.training.plan import resolve_scope

PATIENCE = 10.0
"""Seconds that a solver step of a full batch may take; else one image is drawn."""
NUMBERS = 400
"""Bytes of an image's scores, in its sheet's file and in its record."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Calibration:
    """What was timed.

    Attributes:
        pass_seconds: of a sample's forward pass.
        image_seconds: of an image beside its passes: decoding and scoring.
        image_bytes: of an image in a sheet.
        features: for each measure of sets, what looking at an image takes: seconds and bytes.
    """

    pass_seconds: float
    image_seconds: float
    image_bytes: float
    features: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Forecast:
    """What a run would take on this machine, alone.

    Attributes:
        seconds: of everything that is missing.
        bytes: that it would write.
        images_per_second: while images are drawn and scored; NaN where none are.
    """

    seconds: float
    bytes: int
    images_per_second: float
    calibration: Calibration


def forecast(runner: BenchmarkRunner, suite: Suite, plan: Plan) -> Forecast | None:
    """Time and disk for what `plan` says; None where nothing is missing. Writes nothing.

    Looking at a reference of the user's own is not in it: how many images that has is not known.
    """
    if not (plan.images or plan.missing):
        return None
    found = calibrate(runner, suite, plan.erased_sets[0])
    passes = plan.image_passes / plan.images if plan.images else 0
    per_image = passes * found.pass_seconds + found.image_seconds
    edits = sum(
        _edit_bytes(runner, planned)
        for planned in plan.erasures
        for key in planned.edit_keys
        if not runner.store.path("edits", key).is_dir()
    )
    looks = _looks(runner, suite, plan)
    looking, features = (
        sum(map(mul, looks, (one[part] for one in found.features))) for part in (0, 1)
    )
    return Forecast(
        seconds=plan.costs.total * found.pass_seconds + plan.images * per_image + looking,
        bytes=round(edits + plan.images * (found.image_bytes + NUMBERS) + features),
        images_per_second=1 / per_image if plan.images else math.nan,
        calibration=found,
    )


def calibrate(runner: BenchmarkRunner, suite: Suite, planned: PlannedSet) -> Calibration:
    """Draw a few images of the first page with one and with three solver steps, and score them.

    The difference of the two is what UNet passes take here; the rest is what an image takes beside
    them. Writes nothing.
    """
    model, concept = runner.model, planned.pages[0][0]
    scale = generation_identity(suite, model)["guidance_scale"]

    def draw(count: int, steps: int) -> tuple[Images, float, int]:
        before = model.passes.forward
        images, seconds = _timed(
            lambda: generate(
                model,
                [concept.prompt] * count,
                range(count),
                num_inference_steps=steps,
                guidance_scale=scale,
                batch_size=PAGE,
            )
        )
        return images, seconds, model.passes.forward - before

    _, warm_up, _ = draw(1, 1)
    count = PAGE if PAGE * warm_up < PATIENCE else 1
    _, short, few = draw(count, 1)
    images, long, many = draw(count, 3)
    pass_seconds = (long - short) / (many - few) if long > short else long / many

    def score() -> None:
        score_page(runner.scorer, planned.labels, [concept], images[None], images[None])

    score()  # the first call embeds the labels
    _, scoring = _timed(score)
    decoding = max(0.0, short - few * pass_seconds)
    file = io.BytesIO()
    Image.fromarray(np.concatenate(images)).save(file, format="PNG")
    return Calibration(
        pass_seconds,
        (decoding + scoring) / count,
        len(file.getvalue()) / count,
        tuple(_look(measure, images) for measure in runner.scorer.sets),
    )


def _look(measure: SetMeasure, images: Images) -> tuple[float, float]:
    """Seconds that the features of an image take, and their bytes."""
    measure.features(images[:1])  # the first call warms up
    features, seconds = _timed(lambda: measure.features(images))
    return seconds / len(images), features.nbytes / len(images)


def _looks(runner: BenchmarkRunner, suite: Suite, plan: Plan) -> list[int]:
    """Images that each measure of sets has yet to look at."""
    if not runner.scorer.sets:
        return []
    sheets = SheetScorer(runner.model, runner.scorer, runner.store, suite)
    missing = {cell.cell.key for cell in plan.missing}
    wanted = [
        (one, [runner.model.hash, *(c.edit_key for c in one.cells if c.cell.key in missing)])
        for one in plan.erased_sets
    ]
    return [missing_features(sheets, measure, wanted) for measure in runner.scorer.sets]


def _edit_bytes(runner: BenchmarkRunner, planned: PlannedCell) -> int:
    scope = planned.cell.identity["erasure"]["settings"]["scope"]
    chosen = resolve_scope(scope, planned.erasure).select(runner.model.unet)
    return sum(parameter.numel() * parameter.element_size() for parameter in chosen.values())


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began
