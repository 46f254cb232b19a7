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
            "raised OSError: gone",
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
        ((METHODS, "Ours = 1"), "its target can be imported", "is no ErasureMethod"),
    ],
    indirect=["points"],
)
def test_a_fault_is_told_in_words(points: list[EntryPoint], check: str, words: str) -> None:
    found = faults(points)
    assert any(f.check.startswith(check) and words in str(f.fault) for f in found), found


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
