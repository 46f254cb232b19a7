"""Forecast how long a sweep would take and how much it would write, by a short calibration.

The calibration draws a few images with one and with three solver steps, scores them, lets measures
of sets look at them, and writes nothing. The difference of the two is what UNet passes take here;
the rest is what an image takes beside them.
"""

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
from erasekit.bench.plan import ErasureCosts, PlannedCase, PlannedCell
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
        feature_seconds: what each measure of sets takes to look at an image, in their order.
        feature_bytes: of what it keeps of an image, in their order.
    """

    pass_seconds: float
    image_seconds: float
    image_bytes: float
    feature_seconds: tuple[float, ...] = ()
    feature_bytes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """What a run would take on this machine, alone.

    Attributes:
        seconds: of everything that is missing.
        bytes: that it would write.
        erasure_passes: of the missing erasures, forward + 2 backward.
        guessed: how many of them go by their settings, for want of finished ones like them.
        images_per_second: while images are drawn and scored.
        calibration: what was timed.
    """

    seconds: float
    bytes: int
    erasure_passes: int
    guessed: int
    images_per_second: float
    calibration: Calibration


def forecast(runner: BenchmarkRunner, suite: Suite, plan: Plan) -> Forecast | None:
    """Time and disk for what `plan` says; None where nothing is missing. Writes nothing.

    Looking at a reference of the user's own is not in it: how many images that has is not known.
    """
    if not (plan.images or plan.missing):
        return None
    calibration = calibrate(runner, suite, plan.cases[0])
    costs = ErasureCosts(runner.store)
    erasing = sum(costs.expected(p, runner.model) for p in plan.erasures)
    passes = plan.image_passes / plan.images if plan.images else 0
    per_image = passes * calibration.pass_seconds + calibration.image_seconds
    edits = sum(
        _edit_bytes(runner, planned)
        for planned in plan.erasures
        for key in planned.edit_keys
        if not runner.store.has_edit(key)
    )
    looks = _looks(runner, suite, plan)
    looking = sum(map(mul, looks, calibration.feature_seconds))
    features = sum(map(mul, looks, calibration.feature_bytes))
    return Forecast(
        seconds=erasing * calibration.pass_seconds + plan.images * per_image + looking,
        bytes=round(edits + plan.images * (calibration.image_bytes + NUMBERS) + features),
        erasure_passes=round(erasing),
        guessed=sum(costs.known(planned) is None for planned in plan.erasures),
        images_per_second=1 / per_image if plan.images else math.nan,
        calibration=calibration,
    )


def calibrate(runner: BenchmarkRunner, suite: Suite, case: PlannedCase) -> Calibration:
    """Draw and score a batch of a case's first page, in few solver steps."""
    model, page = runner.model, case.pages[0]
    scale = model.descriptor.guidance_scale
    scale = scale if suite.guidance_scale is None else suite.guidance_scale

    def draw(count: int, steps: int) -> tuple[Images, float, int]:
        before = model.passes.forward
        images, seconds = _timed(
            lambda: generate(
                model,
                [page[0].prompt] * count,
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
        score_page(runner.scorer, case.labels, [page[0]], images[None], images[None])

    score()  # the first call embeds the labels
    _, scoring = _timed(score)
    decoding = max(0.0, short - few * pass_seconds)
    file = io.BytesIO()
    Image.fromarray(np.concatenate(images)).save(file, format="PNG")
    looks = [_look(measure, images) for measure in runner.scorer.sets]
    return Calibration(
        pass_seconds,
        (decoding + scoring) / count,
        len(file.getvalue()) / count,
        tuple(seconds / count for seconds, _ in looks),
        tuple(size / count for _, size in looks),
    )


def _look(measure: SetMeasure, images: Images) -> tuple[float, int]:
    """Seconds that the features of these images take, and their bytes."""
    measure.features(images[:1])  # the first call warms up
    features, seconds = _timed(lambda: measure.features(images))
    return seconds, features.nbytes


def _looks(runner: BenchmarkRunner, suite: Suite, plan: Plan) -> list[int]:
    """Images that each measure of sets has yet to look at."""
    if not runner.scorer.sets:
        return []
    sheets = SheetScorer(runner.model, runner.scorer, runner.store, suite)
    missing = {cell.cell.key for cell in plan.missing}
    cases = [
        (case, [runner.model.hash, *(c.edit_key for c in case.cells if c.cell.key in missing)])
        for case in plan.cases
    ]
    return [missing_features(sheets, measure, cases) for measure in runner.scorer.sets]


def _edit_bytes(runner: BenchmarkRunner, planned: PlannedCell) -> int:
    scope = planned.cell.identity["erasure"]["settings"]["scope"]
    chosen = resolve_scope(scope, planned.erasure).select(runner.model.unet)
    return sum(parameter.numel() * parameter.element_size() for parameter in chosen.values())


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began
