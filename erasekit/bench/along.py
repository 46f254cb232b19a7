"""Weights along an erasure, kept so that it can be scored before it is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from erasekit.edits import Edit
from erasekit.errors import ConfigError
from erasekit.training.trainer import Callback


def steps_along(fractions: Sequence[float], steps: int) -> tuple[int, ...]:
    """The steps of a run of `steps` that lie at these fractions of it, each once, in order.

    A method of one step has none before its last.

    Raises:
        ConfigError: a fraction that is not between 0 and 1.
    """
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise ConfigError(
                f"--along has {fraction:g}; give fractions of a run above 0 and below 1, as in "
                "--along 0.25,0.5,0.75."
            )
    found = {round(fraction * steps) for fraction in fractions}
    return tuple(sorted(found - {0, steps}))


class WeightsAlong(Callback):
    """Keeps the trained values after the given steps."""

    def __init__(self, steps: Iterable[int]) -> None:
        self._steps = frozenset(steps)
        self._kept: dict[int, dict[str, Tensor]] = {}

    def on_weights(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if step in self._steps:
            self._kept[step] = {name: p.detach().cpu().clone() for name, p in parameters.items()}

    def edit(self, step: int, finished: Edit) -> Edit:
        """The edit after `step` steps of the run that ended as `finished`."""
        return finished.with_values(self._kept[step], after_steps=step)
