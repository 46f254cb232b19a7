"""Metrics of a suite's own: registered by whom you like, computed from the records of a row.

They change no record, so that a metric more draws nothing again. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from erasekit.errors import ErasekitError, PluginError
from erasekit.metrics.base import Metric
from erasekit.plugin.registry import Registry
from erasekit.records import Estimate, MetricValue, Record

Metrics = Mapping[str, Callable[[], Metric]]
"""What makes a metric, by its registered name."""


def load_metrics(names: Iterable[str], registry: Registry) -> dict[str, Callable[[], Metric]]:
    """The registered metrics of these names.

    Raises:
        UnknownNameError: a name that is not registered.
        PluginError: what is registered can't be made, or is no `Metric`.
    """
    return {name: _maker(name, registry) for name in names}


def known_metrics(
    names: Iterable[str], registry: Registry
) -> tuple[dict[str, Callable[[], Metric]], list[str]]:
    """As `load_metrics`, with a clause for each that can't be had here in place of the error."""
    found: dict[str, Callable[[], Metric]] = {}
    left_out: list[str] = []
    for name in names:
        try:
            found[name] = _maker(name, registry)
        except ErasekitError as error:
            left_out.append(f"The metric {name!r} is left out: {error}")
    return found, left_out


def metric_values(metrics: Metrics, runs: Sequence[Record]) -> dict[str, MetricValue]:
    """Each metric over every concept of the erasures `runs`.

    One that fails gives NaN with a note: what was drawn is not lost by it.
    """
    return {name: _value(name, make, runs) for name, make in metrics.items()}


def _value(name: str, make: Callable[[], Metric], runs: Sequence[Record]) -> MetricValue:
    metric = make()
    try:
        for run in runs:
            for concept in run.concepts:
                metric.update(concept, run.cell.seed, run.cell.erased)
        estimate = metric.compute()
    except Exception as fault:  # a plugin's metric may fail in any way
        note = f"The metric {name!r} failed: {type(fault).__name__}: {fault}"
        estimate = Estimate(math.nan, 0, note=note)
    return MetricValue(estimate, metric.higher_is_better)


def _maker(name: str, registry: Registry) -> Callable[[], Metric]:
    descriptor = registry.metric(name)
    target = descriptor.load()

    def make() -> Metric:
        metric = target(**descriptor.options)
        if not isinstance(metric, Metric):
            raise TypeError(f"it gives {metric!r}, which is no Metric")
        return metric

    try:
        make().higher_is_better  # noqa: B018 - a metric that does not say is broken
    except Exception as fault:  # a plugin's metric may fail in any way
        raise PluginError(
            f"The metric {name!r} points at {descriptor.target!r}, which can't be used "
            f"({type(fault).__name__}: {fault}); mend or uninstall its plugin."
        ) from fault
    return make
