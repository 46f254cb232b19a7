"""A plugin under the same tests as the built-in ones, each finding in words."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

import numpy as np

from erasekit.attacks.base import Attack
from erasekit.bench.suite import build_suite
from erasekit.bench.summary import load_metrics
from erasekit.concepts import Erasure
from erasekit.diffusion.concept_space import words_for
from erasekit.diffusion.inference_parts import InferencePart
from erasekit.errors import (
    ConfigError,
    ErasekitError,
    MissingExtraError,
    MissingWeightsError,
    ScopeError,
)
from erasekit.methods.base import ErasureMethod
from erasekit.methods.gradient import PreservationStrategy
from erasekit.metrics.base import Classifier, ImageMeasure, Scorer, SetMeasure
from erasekit.metrics.judges import find_judge, load_judge
from erasekit.metrics.scores import ConceptScores, Estimate, Paired, Score, Split
from erasekit.plugin.descriptors import (
    AttackDescriptor,
    ConceptSpaceDescriptor,
    Descriptor,
    InferenceDescriptor,
    MethodDescriptor,
    MetricDescriptor,
    ScorerDescriptor,
    StrategyDescriptor,
    SuiteDescriptor,
)
from erasekit.plugin.hookspecs import GROUP
from erasekit.plugin.manager import PluginManager, attempt, describe_fault, stdout_aside
from erasekit.plugin.registry import HOOKS, Registry
from erasekit.testing.attacks import AttackTester
from erasekit.testing.testers import MethodTester, StrategyTester
from erasekit.testing.tiny import tiny_model

BASES: dict[type[Descriptor], type] = {
    MethodDescriptor: ErasureMethod,
    StrategyDescriptor: PreservationStrategy,
    InferenceDescriptor: InferencePart,
    AttackDescriptor: Attack,
}
"""What the targets of these must inherit from; the others may be functions."""
SCOPES = ("xattn-kv", "xattn", "selfattn")
"""Scopes that a method is tried in; one that it refuses in a sentence is left out."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: what was checked: the plugin, or "method 'name'".
        check: what it must do.
        fault: what is wrong, in words; None where nothing is.
    """

    subject: str
    check: str
    fault: str | None = None


def check_plugin(points: Sequence[EntryPoint], folder: Path | None = None) -> Iterator[Finding]:
    """All findings on one plugin, as they come. Every method trains, so it takes a while.

    Args:
        points: its entry points, which need not be installed.
        folder: where its code must lie.
    """
    manager = PluginManager()
    names: list[str] = []
    for point in points:
        yield _loads(manager, point, names, folder)
    if not names:
        return
    for point in points:
        fault = slow_hooks(point.module)
        yield Finding(f"plugin {point.name!r}", "its hooks import no torch", fault)
    descriptors: list[Descriptor] = []
    for kind, hook in HOOKS.items():
        given, findings = _given(manager, names, hook, kind)
        descriptors += given
        yield from findings
    registry = Registry(manager)
    for name in names:
        own = [claim for claim in registry.collisions() if repr(name) in claim]
        yield Finding(f"plugin {name!r}", "its names are its own", " ".join(own) or None)
    for descriptor in descriptors:
        subject = f"{descriptor.kind} {descriptor.name!r}"
        finding = _target(descriptor, subject)
        yield finding
        if finding.fault:
            continue
        if isinstance(descriptor, MethodDescriptor | StrategyDescriptor | AttackDescriptor):
            modules = [manager.pluggy.get_plugin(name) for name in names]
            yield from _tested(descriptor, subject, modules)
        elif check := CHECKS.get(type(descriptor)):
            words, test = check
            yield Finding(subject, words, _fault(partial(test, descriptor, registry)))


def _loads(
    manager: PluginManager, point: EntryPoint, names: list[str], folder: Path | None
) -> Finding:
    """Import and register it; what is installed already is there by its own name."""
    name = f"under test:{point.name}"

    def load() -> str:
        plugin = point.load()
        where = str(getattr(plugin, "__file__", None) or "")
        if folder and not Path(where).resolve().is_relative_to(folder):
            raise ImportError(f"{point.module} was found at {where}, which is not in {folder}")
        if manager.pluggy.is_registered(plugin):
            return str(manager.pluggy.get_name(plugin))
        manager.register(plugin, name)
        return name

    found = attempt(load)
    fault = describe_fault(found)
    if fault is None:
        names.append(found)
    return Finding(f"plugin {point.name!r}", "it can be imported, and its hooks are known", fault)


def slow_hooks(module: str) -> str | None:
    """Why importing the hooks in `module` costs every command seconds; None where it does not."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import {module}; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    if done.stdout.split()[-1] == "True":
        return f"{module} imports torch; import it where the descriptors point at"
    return None


def _given(
    manager: PluginManager, names: Sequence[str], hook: str, kind: type[Descriptor]
) -> tuple[list[Descriptor], list[Finding]]:
    """What the plugin's `hook` gives, and what is wrong with it."""
    found: list[Descriptor] = []
    findings = []
    for owner, result in manager.call_each(hook):
        if owner not in names:
            continue
        fault = None
        if isinstance(result, BaseException):
            fault = f"{hook} raised {describe_fault(result)}"
        elif not isinstance(result, Iterable):
            fault = f"{hook} gave {result!r}, not a list of {kind.__name__}"
        else:
            things = list(result)
            found += [thing for thing in things if isinstance(thing, kind)]
            wrong = [thing for thing in things if not isinstance(thing, kind)]
            fault = f"{hook} gave {wrong[0]!r}, not a {kind.__name__}" if wrong else None
        findings.append(Finding(f"plugin {owner!r}", f"{hook} gives {kind.__name__}s", fault))
    return found, findings


def _target(descriptor: Descriptor, subject: str) -> Finding:
    fault = None
    try:
        target = descriptor.load()
    except ErasekitError as error:
        fault = str(error)
    else:
        base = BASES.get(type(descriptor))
        if base and not (isinstance(target, type) and issubclass(target, base)):
            fault = f"{descriptor.target} is no {base.__name__}"
    return Finding(subject, "its target can be imported, and is of the right kind", fault)


def _tested(
    descriptor: MethodDescriptor | StrategyDescriptor | AttackDescriptor,
    subject: str,
    modules: Sequence[object],
) -> Iterator[Finding]:
    """The shared tests, each a finding."""
    tester: MethodTester | AttackTester | None
    if isinstance(descriptor, AttackDescriptor):
        tester, fault = _attack_tester(descriptor, modules)
        yield Finding(subject, "it attacks a tiny model", fault)
    else:
        tester, fault = _tester(descriptor, modules)
        yield Finding(subject, "it erases from a tiny model", fault)
    if tester is None:
        return
    for name, test in inspect.getmembers(tester, inspect.ismethod):
        if not name.startswith("test_"):
            continue
        check = name.removeprefix("test_").replace("_", " ")
        with tempfile.TemporaryDirectory() as place:
            takes_folder = "tmp_path" in inspect.signature(test).parameters
            arguments = {"tmp_path": Path(place)} if takes_folder else {}
            yield Finding(subject, check, _fault(partial(test, **arguments)))


def _tester(
    descriptor: MethodDescriptor | StrategyDescriptor, modules: Sequence[object]
) -> tuple[MethodTester | None, str | None]:
    """A tester that suits what one erasure shows: scopes, kind of edit, whether it has a loss."""
    is_strategy = isinstance(descriptor, StrategyDescriptor)
    base = StrategyTester if is_strategy else MethodTester
    own: dict[str, Any] = {"plugins": modules}
    own["strategy" if is_strategy else "method"] = descriptor.name
    tester: MethodTester = type(base.__name__, (base,), own)()
    history: list[dict[str, Any]] = []
    inference = ""
    scopes, refusal = [], ""
    for scope in SCOPES:
        try:
            edit = tester.erase(tiny_model(), scope=scope)
            history = edit.history
            inference = edit.inference.name if edit.inference and not edit.tensors else ""
        except ScopeError as error:
            refusal = str(error)
        except (Exception, SystemExit) as error:
            return None, _words(error)
        else:
            scopes.append(scope)
    if not scopes:
        return None, refusal
    seeded = any(record["loss"] is not None for record in history)
    own.update(scopes=scopes, seeded=seeded, inference=inference)
    return type(base.__name__, (base,), own)(), None


def _attack_tester(
    descriptor: AttackDescriptor, modules: Sequence[object]
) -> tuple[AttackTester | None, str | None]:
    """A tester that knows whether the seed changes what is drawn."""
    own = {"attack": descriptor.name, "plugins": modules, "prompts": (("a road", 0), ("bus", 1))}
    tester: AttackTester = type("AttackTester", (AttackTester,), own)()
    try:
        drawn = [tester.attacked(tester.model(), seed=seed).images for seed in (0, 1)]
    except (Exception, SystemExit) as error:
        return None, _words(error)
    seeded = not np.array_equal(drawn[0], drawn[1])
    return type("AttackTester", (AttackTester,), {**own, "seeded": seeded})(), None


def _fault(test: Callable[[], None]) -> str | None:
    error = attempt(test)
    return _words(error) if isinstance(error, BaseException) else None


def _words(error: BaseException) -> str:
    """What was raised; of an assertion without words, the line that failed."""
    if isinstance(error, AssertionError) and not str(error).strip():
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"not so: {(frame.line or '').removeprefix('assert ')}"
    lines = str(error).splitlines()
    return lines[0] if isinstance(error, AssertionError) else describe_fault(error)


def _judges(descriptor: Descriptor, registry: Registry) -> None:
    """One result for each image, the same whatever else is in the batch."""
    try:
        judge = load_judge(descriptor.name, registry)
    except (MissingExtraError, MissingWeightsError):
        return  # what it needs is not here, and it says so
    assert judge.name, "its name is empty"
    identity = judge.identity
    assert identity, "its identity is empty"
    assert all(isinstance(part, str) for pair in identity.items() for part in pair), (
        f"its identity {identity!r} is not text by text"
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    images[1] = (200, 30, 30)
    before, count = images.copy(), len(images)
    prompts = ("a red car", "a church", "")
    if isinstance(judge, Scorer):
        scores = judge.score(images, prompts)
        assert len(scores) == count, f"it gives {_number(len(scores), 'score')} of {count} images"
        assert all(isinstance(score, Score) for score in scores), f"it gives {scores[:1]!r}"
        asked = [score.prompt for score in scores]
        assert asked == list(prompts), f"its scores are of the prompts {asked}, not {prompts}"
        alone = [judge.score(images[i : i + 1], prompts[i : i + 1])[0].value for i in range(count)]
        _same([score.value for score in scores], alone, "score")
    if isinstance(judge, Classifier):
        labels = tuple(judge.labels[:5]) or prompts[:2]
        fits = judge.classify(images, labels)
        assert np.shape(fits) == (count, len(labels)), (
            f"classify gives {np.shape(fits)} for {count} images and {len(labels)} labels"
        )
        assert not np.isnan(fits).any(), "classify gives NaN, which has no rank"
        _same(fits, [judge.classify(images[i : i + 1], labels)[0] for i in range(count)], "class")
    elif isinstance(judge, ImageMeasure):
        for name, found in judge.measure(images, images[::-1].copy()).items():
            assert np.shape(found) == (count,), (
                f"{name} has the shape {np.shape(found)} for {count} images"
            )
    elif isinstance(judge, SetMeasure):
        features = judge.features(images)
        assert np.ndim(features) == 2 and len(features) == count, (  # noqa: PT018
            f"features have the shape {np.shape(features)} for {count} images"
        )
        values = judge.compare(features, features[::-1])
        wrong = [name for name, value in values.items() if not isinstance(value, Estimate)]
        assert not wrong, f"{wrong} are no Estimates"
    else:
        raise AssertionError(f"{type(judge).__name__} is no Scorer, Classifier or measure")
    assert np.array_equal(images, before), "it changes the images that it is given"


def _same(together: Any, alone: Any, what: str) -> None:
    same = np.allclose(together, alone, rtol=1e-2, atol=0.05, equal_nan=True)
    assert same, f"an image's {what} depends on the other images of the batch"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _sums_up(descriptor: Descriptor, registry: Registry) -> None:
    """NaN of nothing; a value of what came in; NaN again after a reset."""
    metric = load_metrics([descriptor.name], registry)[descriptor.name]()
    assert isinstance(metric.higher_is_better, bool), "higher_is_better is not set"
    for _ in range(2):
        nothing = metric.compute()
        assert isinstance(nothing, Estimate), f"compute gives {nothing!r}, no Estimate"
        assert math.isnan(nothing.value), f"it gives {nothing.value} where nothing came in, no NaN"
        for split in get_args(Split):
            for seed in (0, 1):
                metric.update(_paired(split, seed), seed, "church")
        assert isinstance(metric.compute(), Estimate)
        metric.reset()


def _paired(split: Split, seed: int) -> Paired:
    """A concept drawn from four noises."""
    noises = (0, 1, 2, 3)

    def scores(start: float) -> ConceptScores:
        values = tuple(start + noise + 0.1 * seed for noise in noises)
        return ConceptScores("castle", noises, values, (1, 2, 1, 3))

    return Paired("castle", split, "buildings", scores(25.0), scores(24.0))


def _holds_together(descriptor: Descriptor, registry: Registry) -> None:
    """All that it names is registered, and every erased set has something to draw."""
    assert isinstance(descriptor, SuiteDescriptor)
    model = registry.model("icons")
    suite = build_suite(descriptor, model)
    assert suite.version, "its version is empty"
    assert suite.methods, "it names no method"
    for name in suite.methods:
        registry.method(name)
    for name in suite.metrics:
        registry.metric(name)
    for name in (suite.scorer, suite.classifier, *suite.measures, *suite.optional_measures):
        if name:
            find_judge(name, registry)
    assert suite.cases or suite.probes or suite.captions_from or suite.captions, "it has no cases"
    for case in suite.cases:
        erasure = Erasure.of(*case.split("+"))
        drawn = [concept for page in suite.evaluate(erasure) for concept in page]
        assert drawn, f"nothing is drawn for the erased set {case!r}"


def _gives_words(descriptor: Descriptor, registry: Registry) -> None:
    """Words, each once, that the tiny model reads."""
    model = replace(tiny_model(), registry=registry)
    try:
        words = words_for(model, descriptor.name)
    except (MissingExtraError, ConfigError):
        return  # not for this model, and it says so
    assert words, "it gives no words"
    odd = [word for word in words if not isinstance(word, str) or not word.strip()]
    assert not odd, f"it gives {odd[0]!r}"
    assert len(set(words)) == len(words), "it gives a word twice"
    embeds = model.family.embed_prompts([word for word in words if len(word) < 10][:8] or ["a"])
    assert bool(embeds.isfinite().all())


CHECKS: dict[type[Descriptor], tuple[str, Callable[[Any, Registry], None]]] = {
    ScorerDescriptor: ("it judges each image by itself", _judges),
    MetricDescriptor: ("it sums up what came in", _sums_up),
    SuiteDescriptor: ("all that it names is there", _holds_together),
    ConceptSpaceDescriptor: ("it gives words", _gives_words),
}
"""What is asked of the targets that are neither methods nor strategies."""


def main(name: str, folder: str = "") -> None:
    """Print the findings on an installed plugin, one JSON object a line, and null at the end."""
    distribution, _, point = name.partition(":")
    points = [
        p
        for p in entry_points(group=GROUP)
        if p.dist and p.dist.name == distribution and point in ("", p.name)
    ]
    with stdout_aside() as results:
        for finding in check_plugin(points, Path(folder) if folder else None):
            results.write(json.dumps(asdict(finding)) + "\n")
            results.flush()
        results.write("null\n")
