"""A plugin under the same tests as the built-in ones, each finding in words."""

from __future__ import annotations

import inspect
import json
import math
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
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
from erasekit.plugin import descriptors as kinds
from erasekit.plugin.descriptors import Descriptor
from erasekit.plugin.hookspecs import GROUP
from erasekit.plugin.manager import PluginManager, attempt, describe_fault, stdout_aside
from erasekit.plugin.registry import HOOKS, Registry, descriptors_of
from erasekit.testing.attacks import AttackTester
from erasekit.testing.testers import MethodTester, StrategyTester, slow_hooks
from erasekit.testing.tiny import tiny_model

BASES: dict[type[Descriptor], type] = {
    kinds.MethodDescriptor: ErasureMethod,
    kinds.StrategyDescriptor: PreservationStrategy,
    kinds.InferenceDescriptor: InferencePart,
    kinds.AttackDescriptor: Attack,
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
        name = attempt(partial(_register, manager, point, folder))
        if (fault := describe_fault(name)) is None:
            names.append(name)
        check = "it can be imported, and its hooks are known"
        yield Finding(f"plugin {point.name!r}", check, fault)
    for point in points if names else ():
        fault = slow_hooks(point.module)
        yield Finding(f"plugin {point.name!r}", "its hooks import no torch", fault)
    descriptors: list[Descriptor] = []
    for kind, hook in HOOKS.items():
        for owner, result in manager.call_each(hook):
            if owner in names:
                found = attempt(partial(descriptors_of, result, kind, hook))
                fault = describe_fault(found)
                descriptors += [] if fault else found
                yield Finding(f"plugin {owner!r}", f"{hook} gives {kind.__name__}s", fault)
    registry = Registry(manager)
    for name in names:
        own = [claim for claim in registry.collisions() if repr(name) in claim]
        yield Finding(f"plugin {name!r}", "its names are its own", " ".join(own) or None)
    modules = [manager.pluggy.get_plugin(name) for name in names]
    for descriptor in descriptors:
        yield from _of_one(descriptor, registry, modules)


def _register(manager: PluginManager, point: EntryPoint, folder: Path | None) -> str:
    """Import and register it; what is installed already is there by its own name."""
    plugin, name = point.load(), f"under test:{point.name}"
    where = str(getattr(plugin, "__file__", None) or "")
    if folder and not Path(where).resolve().is_relative_to(folder):
        raise ImportError(f"{point.module} was found at {where}, which is not in {folder}")
    if manager.pluggy.is_registered(plugin):
        return str(manager.pluggy.get_name(plugin))
    manager.register(plugin, name)
    return name


def _of_one(
    descriptor: Descriptor, registry: Registry, modules: Sequence[object]
) -> Iterator[Finding]:
    """Whether what a plugin registered can be loaded, and does what its kind must do."""
    subject, kind = f"{descriptor.kind} {descriptor.name!r}", type(descriptor)

    def load() -> None:
        target, base = descriptor.load(), BASES.get(kind)
        right = base is None or (isinstance(target, type) and issubclass(target, base))
        assert right, f"{descriptor.target} is no {base and base.__name__}"

    fault = _fault(load)
    yield Finding(subject, "its target can be imported, and is of the right kind", fault)
    if fault:
        return
    if kind in CHECKS:
        words, test = CHECKS[kind]
        yield Finding(subject, words, _fault(partial(test, descriptor, registry)))
    if kind not in TESTERS:
        return
    tester, fault = _tester(descriptor, modules)
    does = "attacks" if kind is kinds.AttackDescriptor else "erases from"
    yield Finding(subject, f"it {does} a tiny model", fault)
    for name, test in inspect.getmembers(tester, inspect.ismethod) if tester else ():
        if name.startswith("test_"):
            check = name.removeprefix("test_").replace("_", " ")
            with tempfile.TemporaryDirectory() as place:
                takes_folder = "tmp_path" in inspect.signature(test).parameters
                arguments = {"tmp_path": Path(place)} if takes_folder else {}
                yield Finding(subject, check, _fault(partial(test, **arguments)))


def _tester(
    descriptor: Descriptor, modules: Sequence[object]
) -> tuple[MethodTester | AttackTester | None, str | None]:
    """A tester that suits what one erasure shows: scopes, kind of edit, whether it has a loss.

    Or what an attack shows: whether the seed changes what it draws.
    """
    base = TESTERS[type(descriptor)]
    own: dict[str, Any] = {"plugins": modules, descriptor.kind: descriptor.name, "scopes": []}
    if base is AttackTester:
        return _attack_tester({**own, "prompts": (("a road", 0), ("bus", 1))})
    tester, refusal = type(base.__name__, (base,), own), ""
    for scope in SCOPES:
        try:
            edit = tester().erase(scope=scope)
        except ScopeError as error:
            refusal = str(error)
        except (Exception, SystemExit) as error:
            return None, _words(error)
        else:
            own["scopes"].append(scope)
            own["inference"] = edit.inference.name if edit.inference and not edit.tensors else ""
            own["seeded"] = any(record["loss"] is not None for record in edit.history)
    if not own["scopes"]:
        return None, refusal
    return type(base.__name__, (base,), own)(), None


def _attack_tester(own: dict[str, Any]) -> tuple[AttackTester | None, str | None]:
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
    if isinstance(error, AssertionError | ErasekitError):
        return str(error).splitlines()[0]
    return str(describe_fault(error))


def _judges(descriptor: Descriptor, registry: Registry) -> None:
    """One result for each image, the same whatever else is in the batch."""
    try:
        judge = load_judge(descriptor.name, registry)
    except (MissingExtraError, MissingWeightsError):
        return  # what it needs is not here, and it says so
    assert judge.name, "its name is empty"
    identity = judge.identity
    assert identity, "its identity is empty"
    textual = all(isinstance(part, str) for pair in identity.items() for part in pair)
    assert textual, f"its identity {identity!r} is not text by text"
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    images[1] = (200, 30, 30)
    before, count, prompts = images.copy(), len(images), ("a red car", "a church", "")
    if isinstance(judge, Scorer):
        scores = judge.score(images, prompts)
        given = f"{len(scores)} score{'' if len(scores) == 1 else 's'}"
        assert len(scores) == count, f"it gives {given} of {count} images"
        assert all(isinstance(score, Score) for score in scores), f"it gives {scores[:1]!r}"
        asked = [score.prompt for score in scores]
        assert asked == list(prompts), f"its scores are of the prompts {asked}, not {prompts}"
        alone = [judge.score(images[i : i + 1], prompts[i : i + 1])[0].value for i in range(count)]
        _same([score.value for score in scores], alone, "score")
    if isinstance(judge, Classifier):
        labels = tuple(judge.labels[:5]) or prompts[:2]
        fits, wanted = judge.classify(images, labels), (count, len(labels))
        shape = f"{np.shape(fits)} for {count} images and {len(labels)} labels"
        assert np.shape(fits) == wanted, f"classify gives {shape}"
        assert not np.isnan(fits).any(), "classify gives NaN, which has no rank"
        _same(fits, [judge.classify(images[i : i + 1], labels)[0] for i in range(count)], "class")
    elif isinstance(judge, ImageMeasure):
        for name, found in judge.measure(images, images[::-1].copy()).items():
            shape = f"{np.shape(found)} for {count} images"
            assert np.shape(found) == (count,), f"{name} has the shape {shape}"
    elif isinstance(judge, SetMeasure):
        features = judge.features(images)
        shape = f"{np.shape(features)} for {count} images"
        assert np.ndim(features) == 2, f"features have the shape {shape}"
        assert len(features) == count, f"features have the shape {shape}"
        values = judge.compare(features, features[::-1])
        wrong = [name for name, value in values.items() if not isinstance(value, Estimate)]
        assert not wrong, f"{wrong} are no Estimates"
    else:
        raise AssertionError(f"{type(judge).__name__} is no Scorer, Classifier or measure")
    assert np.array_equal(images, before), "it changes the images that it is given"


def _same(together: Any, alone: Any, what: str) -> None:
    same = np.allclose(together, alone, rtol=1e-2, atol=0.05, equal_nan=True)
    assert same, f"an image's {what} depends on the other images of the batch"


def _sums_up(descriptor: Descriptor, registry: Registry) -> None:
    """NaN of nothing; a value of what came in; NaN again after a reset."""
    metric = load_metrics([descriptor.name], registry)[descriptor.name]()
    assert isinstance(metric.higher_is_better, bool), "higher_is_better is not set"
    noises = (0, 1, 2, 3)

    def scores(start: float) -> ConceptScores:
        return ConceptScores("castle", noises, tuple(start + n for n in noises), (1, 2, 1, 3))

    for _ in range(2):
        nothing = metric.compute()
        assert isinstance(nothing, Estimate), f"compute gives {nothing!r}, no Estimate"
        assert math.isnan(nothing.value), f"it gives {nothing.value} where nothing came in, no NaN"
        for split in get_args(Split):
            for seed in (0, 1):
                before, after = scores(25.0 + 0.1 * seed), scores(24.0)
                metric.update(Paired("castle", split, "buildings", before, after), seed, "church")
        assert isinstance(metric.compute(), Estimate)
        metric.reset()


def _holds_together(descriptor: kinds.SuiteDescriptor, registry: Registry) -> None:
    """All that it names is registered, and every erased set has something to draw."""
    suite = build_suite(descriptor, registry.model("icons"))
    assert suite.version, "its version is empty"
    assert suite.methods, "it names no method"
    for name in suite.methods:
        registry.method(name)
    for name in suite.metrics:
        registry.metric(name)
    judges = (suite.scorer, suite.classifier, *suite.measures, *suite.optional_measures)
    for name in filter(None, judges):
        find_judge(name, registry)
    assert suite.cases or suite.probes or suite.captions_from or suite.captions, "it has no cases"
    for case in suite.cases:
        pages = suite.evaluate(Erasure.of(*case.split("+")))
        assert any(map(list, pages)), f"nothing is drawn for the erased set {case!r}"


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
    kinds.ScorerDescriptor: ("it judges each image by itself", _judges),
    kinds.MetricDescriptor: ("it sums up what came in", _sums_up),
    kinds.SuiteDescriptor: ("all that it names is there", _holds_together),
    kinds.ConceptSpaceDescriptor: ("it gives words", _gives_words),
}
"""What is asked of the targets that have no test class."""
TESTERS: dict[type[Descriptor], Any] = {
    kinds.MethodDescriptor: MethodTester,
    kinds.StrategyDescriptor: StrategyTester,
    kinds.AttackDescriptor: AttackTester,
}


def main(name: str, folder: str = "") -> None:
    """Print the findings on an installed plugin, one JSON object a line, and null at the end."""
    distribution, _, point = name.partition(":")
    own = [p for p in entry_points(group=GROUP) if p.dist and p.dist.name == distribution]
    points = [p for p in own if point in ("", p.name)]
    with stdout_aside() as results:
        for finding in check_plugin(points, Path(folder) if folder else None):
            results.write(json.dumps(asdict(finding)) + "\n")
            results.flush()
        results.write("null\n")
