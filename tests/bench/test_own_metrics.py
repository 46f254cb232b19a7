"""Metrics that a suite names, from a plugin and from erasekit, in every row."""

from __future__ import annotations

import math

import pytest

from erasekit.bench.summary import load_metrics, summarise, summarise_stored, summary_json
from erasekit.errors import PluginError, UnknownNameError
from erasekit.metrics.base import Metric
from erasekit.metrics.scores import Estimate
from erasekit.plugin.descriptors import MetricDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.reporting.bench_table import export_table
from tests.bench.made_up import record

NAMES = ("acme-worst", "delta", "esr-1")


class Worst(Metric):
    """The largest loss of one image."""

    higher_is_better = False

    def __init__(self, split: str = "held-out") -> None:
        self.split = split
        self.reset()

    def update(self, concept, seed=0, stratum=""):
        if concept.split == self.split:
            self.found += concept.deltas

    def compute(self):
        return Estimate(max(self.found, default=math.nan), len(self.found))

    def reset(self):
        self.found: list[float] = []


class Broken(Worst):
    def compute(self):
        raise ZeroDivisionError("by nothing")


class NoMetric:
    """Something else."""


class Plugin:
    @hookimpl
    def erasekit_register_metrics(self):
        return [
            MetricDescriptor("acme-worst", "", f"{__name__}:Worst"),
            MetricDescriptor("acme-broken", "", f"{__name__}:Broken"),
            MetricDescriptor("acme-none", "", f"{__name__}:NoMetric"),
            MetricDescriptor("acme-odd", "", f"{__name__}:Worst", options={"rule": 1}),
        ]


@pytest.fixture
def acme(registry):
    registry.manager.register(Plugin(), "acme")
    return registry


@pytest.fixture
def records():
    return [
        *(record("base", 0, {"bus": [0.0, 0.0]}, erased=e, gone=(False, False)) for e in "ab"),
        record("gumbel", 0, {"bus": [1.0, 3.0]}, erased="a"),
        record("gumbel", 1, {"bus": [2.0, 2.0]}, erased="a"),
        record("gumbel", 0, {"bus": [5.0, 7.0]}, erased="b", gone=(True, False)),
        record("gumbel", 1, {"bus": [6.0, 4.0]}, erased="b", gone=(True, False)),
    ]


def test_each_row_has_them_and_erased_sets_stay_apart(acme, records) -> None:
    summary = summarise(records, load_metrics(NAMES, acme))
    values = {
        (row.method, row.erased): [row.metrics[name].estimate.value for name in NAMES]
        for row in (*summary.rows, *summary.overall)
    }
    assert values["gumbel", "a"] == [3.0, 2.0, 1.0]
    assert values["gumbel", "b"] == [7.0, 5.5, 0.5]
    assert values["gumbel", "all"] == [7.0, 3.75, 0.75]
    assert values["base", "a"] == [0.0, 0.0, 0.0]
    for row in (*summary.rows, *summary.overall):
        assert row.metrics["delta"].estimate == row.delta
        assert row.metrics["esr-1"].higher_is_better
        assert not row.metrics["acme-worst"].higher_is_better
    assert summarise(records).rows[1].metrics == {}


def test_tables_json_and_exports_show_them(acme, records) -> None:
    summary = summarise(records, load_metrics(NAMES, acme))
    rows = summary_json(summary)["rows"]
    assert rows[1]["metrics"]["acme-worst"] == {
        **{"value": 3.0, "ci95": [None, None], "n": 4, "note": None, "missing": 0},
        "higher_is_better": False,
    }
    about = {"scorer": {"name": "clip"}}
    table = export_table(summary, "methods", about)
    assert table is not None
    columns = {column.title("page"): column for column in table.shown("page")}
    assert [columns[name].better for name in NAMES] == ["lower", "lower", "higher"]
    assert str(columns["acme-worst"].cell(summary.rows[1])) == "3.00"
    assert str(columns["delta"].cell(summary.rows[1])).startswith("2.00 [")
    papers = {
        column.title("paper"): column.cell(summary.rows[1]) for column in table.shown("paper")
    }
    assert papers["acme-worst ↓"].text == "3.00"
    assert papers["esr-1 ↑"].text == "1.00"
    assert "metrics_acme-worst_value" in table.csv().splitlines()[0]


def test_one_that_fails_is_a_note_and_loses_nothing(acme, records) -> None:
    summary = summarise(records, load_metrics(("acme-broken", "esr-1"), acme))
    assert math.isnan(summary.rows[1].metrics["acme-broken"].estimate.value)
    assert summary.rows[1].metrics["esr-1"].estimate.value == 1.0
    assert "The metric 'acme-broken' failed: ZeroDivisionError: by nothing." in summary.notes


@pytest.mark.parametrize(
    ("name", "words"),
    [("acme-none", "which is no Metric"), ("acme-odd", "unexpected keyword argument 'rule'")],
)
def test_what_is_no_metric_is_said_before_anything_is_drawn(acme, name: str, words: str) -> None:
    with pytest.raises(PluginError, match=f"The metric '{name}' points at .*{words}"):
        load_metrics((name,), acme)
    with pytest.raises(UnknownNameError, match="did you mean 'acme-worst'"):
        load_metrics(("acme-wurst",), acme)


def test_a_store_can_be_read_without_the_plugin(registry, records) -> None:
    summary = summarise_stored(records, {"metrics": ["acme-worst", "esr-1"]}, registry)
    assert list(summary.rows[1].metrics) == ["esr-1"]
    assert summary.notes[-1].startswith("The metric 'acme-worst' is left out: Unknown metric")
