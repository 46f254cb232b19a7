"""Finished edits under the same yardstick: closed forms, adapters and guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tuning.along import AlongTheRun, Yardstick
from erasekit.concepts import Erasure
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry
from erasekit.training.erase import erase

END = "end"
"""The `at` of a run that is scored once it is finished, with the edit applied as a user does."""


def watch_finished(
    model: LoadedModel,
    registry: Registry,
    method: str,
    concept: str,
    seed: int,
    settings: Mapping[str, Any],
    yardstick: Yardstick,
    watches: dict[str, AlongTheRun],
) -> AlongTheRun:
    """Run `method` to its end, apply its edit, and give one point.

    Args:
        watches: of concepts seen before; what they know of the un-erased model is used again.
    """
    erasure = Erasure((model.concept(concept),))
    if concept not in watches:
        watches[concept] = AlongTheRun(model, registry, erasure, (), yardstick)
    watch = watches[concept]
    watch.restart()
    edit = erase(model, erasure, method, registry=registry, seed=seed, settings=settings)
    with edit.applied(model):
        watch.score(edit.info["config"]["steps"])
    return watch
