"""Every kind of broken plugin is told in words, and the template passes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from erasekit.plugin.hookspecs import GROUP
from erasekit.testing.checks import Finding, check_plugin

PREAMBLE = """
from erasekit.plugin.descriptors import *
from erasekit.plugin.hookspecs import hookimpl
"""
METHODS = """
OPTIONS = {"strategy": "neutral"}

@hookimpl
def erasekit_register_methods():
    return [MethodDescriptor("ours", "erases", "{module}_code:Ours", "", OPTIONS)]
"""
LEAKS = """
import torch
from erasekit.methods.gradient import GradientErasure

class Ours(GradientErasure):
    def prepare(self, context):
        super().prepare(context)
        self.outside = next(
            p for n, p in context.model.unet.named_parameters() if n not in context.parameters
        )

    def training_step(self, step):
        with torch.no_grad():
            self.outside += 1.0
        return super().training_step(step)
"""


@pytest.fixture
def points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[list[EntryPoint]]:
    """Entry points of a module with the source that the test is parametrised with."""
    source, code = request.param
    module = f"plugin_{abs(hash(request.node.name))}"
    text = PREAMBLE + textwrap.dedent(source).replace("{module}", module)
    (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
    (tmp_path / f"{module}_code.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return [EntryPoint("broken", module, GROUP)]


def faults(points: Sequence[EntryPoint]) -> list[Finding]:
    return [finding for finding in check_plugin(points) if finding.fault]


@pytest.mark.parametrize(
    ("points", "check", "words"),
    [
        (("import no_such_module", ""), "it can be imported", "No module named 'no_such_module'"),
        (("", ""), "it can be imported", "no function is marked with @hookimpl"),
        (("import torch" + METHODS, "Ours = 1"), "its hooks import no torch", "imports torch"),
        (
            ("@hookimpl\ndef erasekit_register_suites():\n    raise OSError('gone')", ""),
            "erasekit_register_suites gives",
            "OSError: gone",
        ),
        (
            ("@hookimpl\ndef erasekit_register_suites():\n    return ['text']", ""),
            "erasekit_register_suites gives",
            "gave 'text', not a SuiteDescriptor",
        ),
        (
            ("@hookimpl\ndef erasekit_register_suites():\n    return 3", ""),
            "erasekit_register_suites gives",
            "gave 3, not a list",
        ),
        (
            (METHODS.replace('"ours"', '"gumbel"'), "Ours = 1"),
            "its names are its own",
            "The method 'gumbel' is claimed by 'erasekit:methods' and 'under test:broken'",
        ),
        ((METHODS, ""), "its target can be imported", "points at"),
        ((METHODS, "raise SystemExit(0)"), "its target can be imported", "points at"),
        (("raise KeyboardInterrupt", ""), "it can be imported", "KeyboardInterrupt"),
        ((METHODS, "Ours = 1"), "its target can be imported", "is no ErasureMethod"),
    ],
    indirect=["points"],
)
def test_a_fault_is_told_in_words(points: list[EntryPoint], check: str, words: str) -> None:
    found = faults(points)
    assert any(f.check.startswith(check) and words in str(f.fault) for f in found), found


ONE = """
@hookimpl
def erasekit_register_{kind}s():
    return [{cls}("ours", "ours", "{module}_code:Ours")]
"""
SCORER = ONE.replace("{kind}", "scorer").replace("{cls}", "ScorerDescriptor")
SUITE = ONE.replace("{kind}", "suite").replace("{cls}", "SuiteDescriptor")
METRIC = ONE.replace("{kind}", "metric").replace("{cls}", "MetricDescriptor")
SPACE = ONE.replace("{kind}", "concept_space").replace("{cls}", "ConceptSpaceDescriptor")
JUDGE = """
import numpy as np
from erasekit.metrics.base import Scorer
from erasekit.metrics.scores import Score

class Ours(Scorer):
    name = "ours"
    identity = {"version": "1"}

    def score(self, images, prompts):
        return [Score(float(i.mean()) / 10, p, "ours") for i, p in zip(images, prompts)]

    def classify(self, images, labels):
        return np.ones((len(images), len(labels)), np.float32)
"""
OF = """
from erasekit.bench.suite import Suite
from erasekit.plugin.descriptors import ModelConcept

WORLD = tuple(ModelConcept(n, "object", "f", "held-out") for n in ("car", "bus"))

def Ours(model):
    return Suite("ours", "1", "", WORLD, cases=("car",), methods=("none",))
"""
MEAN = """
from erasekit.metrics.base import Metric
from erasekit.metrics.scores import Estimate, NAN

class Ours(Metric):
    higher_is_better = True
    total = 0

    def update(self, concept, seed=0, stratum=""):
        self.total += 1

    def compute(self):
        return Estimate(float(self.total) if self.total else NAN, self.total)

    def reset(self):
        self.total = 0
"""


@pytest.mark.parametrize(
    ("points", "old", "new", "words"),
    [
        ((SCORER, JUDGE), "return [Score", "return [Score", None),
        ((SCORER, JUDGE), "in zip(images, prompts)]", "in zip(images, prompts)][:1]", "1 score of"),
        ((SCORER, JUDGE), "[Score(", "[Score(images.mean() +", "depends on the other images"),
        ((SCORER, JUDGE), ", p, ", ", 'x', ", "of the prompts"),
        ((SCORER, JUDGE), "(len(images), len", "(1, len", "classify gives (1, 2) for 3 images"),
        ((SCORER, JUDGE), 'identity = {"version": "1"}', "identity = {}", "identity is empty"),
        ((SCORER, JUDGE), "return [S", "images[:] = 0; return [S", "changes the images"),
        ((SUITE, OF), "x", "x", None),
        ((SUITE, OF), '"none",', '"noone",', "Unknown method 'noone'"),
        ((SUITE, OF), 'cases=("car",)', 'scorer="x", cases=("car",)', "Unknown scorer 'x'"),
        ((SUITE, OF), 'cases=("car",), ', "", "it has no cases"),
        ((METRIC, MEAN), "x", "x", None),
        ((METRIC, MEAN), "if self.total else NAN", "", "gives 0.0 where nothing came in"),
        ((METRIC, MEAN), "self.total = 0", "pass", "where nothing came in"),
        ((SPACE, "def Ours(model): return ['bus', 'car']"), "x", "x", None),
        ((SPACE, "def Ours(model): return ['bus', 'car']"), "'car'", "'bus'", "a word twice"),
        ((SPACE, "def Ours(model): return ['bus', 'car']"), "'car'", "3", "it gives 3"),
        ((SPACE, "def Ours(model): return ['bus', 'car']"), "'bus', 'car'", "", "no words"),
    ],
    indirect=["points"],
)
def test_what_is_no_method_is_tried_too(
    points: list[EntryPoint], tmp_path: Path, old: str, new: str, words: str | None
) -> None:
    code = tmp_path / f"{points[0].value}_code.py"
    text = code.read_text(encoding="utf-8")
    assert words is None or old in text
    head, _, tail = text.rpartition(old) if words == "where nothing came in" else (text, "", "")
    code.write_text(f"{head}{new}{tail}" if tail else text.replace(old, new), encoding="utf-8")
    found = faults(points)
    if words is None:
        assert found == []
    else:
        (fault,) = found
        assert words in str(fault.fault)


@pytest.mark.parametrize("points", [(METHODS, LEAKS)], indirect=True)
def test_a_method_that_leaks_outside_its_scope_is_found(points: list[EntryPoint]) -> None:
    (fault,) = [f for f in faults(points) if f.check.startswith("only parameters in scope")]
    assert fault.subject == "method 'ours'"
    assert "changed" in str(fault.fault)


@pytest.mark.parametrize(
    "points",
    [(METHODS, "from erasekit.methods.gradient import GradientErasure as Ours")],
    indirect=True,
)
def test_a_sound_method_passes(points: list[EntryPoint]) -> None:
    findings = list(check_plugin(points))
    assert [f for f in findings if f.fault] == []
    assert sum(f.subject == "method 'ours'" for f in findings) > 8


ATTACKS = """
@hookimpl
def erasekit_register_attacks():
    return [AttackDescriptor("ours", "attacks", "{module}_code:Ours")]
"""
CHANGES = """
import torch
from erasekit.attacks.base import Attack, Attempt

class Ours(Attack):
    def rounds(self, context):
        for number in range(self.config.pictures):
            with torch.no_grad():
                context.family.unet.conv_in.weight += 0.01
            yield {row: Attempt("a road") for row in context.open}
"""


@pytest.mark.parametrize("points", [(ATTACKS, CHANGES)], indirect=True)
def test_an_attack_that_leaves_weights_changed_is_found(points: list[EntryPoint]) -> None:
    found = {finding.check: finding.fault for finding in check_plugin(points)}
    assert found["it attacks a tiny model"] is None
    assert "tensors differ" in str(found["the model is left as it was"])
    assert found["a result is read as it was written"] is None


@pytest.mark.parametrize("points", [(ATTACKS, "Ours = dict")], indirect=True)
def test_what_is_no_attack_is_told(points: list[EntryPoint]) -> None:
    (fault,) = faults(points)
    assert "is no Attack" in str(fault.fault)
