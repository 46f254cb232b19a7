"""Judges: networks that look at images. Which ones an evaluation has, and how they are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erasekit.errors import (
    ConfigError,
    MissingExtraError,
    MissingWeightsError,
    UnknownNameError,
)
from erasekit.metrics.base import Classifier, ImageMeasure, Judge, Scorer, SetMeasure
from erasekit.metrics.judges.labels import LabelSet
from erasekit.plugin.descriptors import ScorerDescriptor
from erasekit.plugin.registry import Registry

if TYPE_CHECKING:
    import torch

Files = Mapping[str, str]
"""Files of weights by the name of the judge."""
FOLDERS = ("hf-hub:", "local-dir:")
"""How open_clip's names of repositories and folders begin."""


@dataclass(frozen=True)
class Judges:
    """A scorer for alignment, a classifier for ranks, and further measures.

    Attributes:
        scorer: gives the alignment with the prompt, and so delta.
        classifier: gives the ranks, and so ESR and PSR.
        measures: further measures of each image.
        sets: measures of all captions' images together.
        left_out: a sentence for every measure that the suite asks for and that can't be had here.
    """

    scorer: Scorer
    classifier: Classifier
    measures: tuple[ImageMeasure, ...] = ()
    sets: tuple[SetMeasure, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, judge: Scorer | Judges) -> Judges:
        """`judge` itself, or a scorer that classifies too."""
        return judge if isinstance(judge, Judges) else cls(judge, judge)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of each, JSON-ready."""
        of_images = self.of_images
        sets = [measure.identity for measure in self.sets]
        return {**of_images, "measures": [*of_images["measures"], *sets]}

    @property
    def of_images(self) -> dict[str, Any]:
        """The identity of those that look at one image at a time."""
        return {
            "scorer": self.scorer.identity,
            "classifier": self.classifier.identity,
            "measures": [measure.identity for measure in self.measures],
        }

    def labels(self, labels: LabelSet) -> LabelSet:
        """The classes that ranks are among: the classifier's own where it has its own."""
        own = self.classifier.labels
        return LabelSet((name,) for name in own) if own else labels

    def including(self, labels: LabelSet, names: tuple[str, ...]) -> LabelSet:
        """`labels`, with `names` as one more class where none of them is known.

        Raises:
            ConfigError: the classifier has its own classes, and `names[0]` is none of them.
        """
        if self.classifier.labels and not labels.knows(names[0]):
            raise ConfigError(
                f"The classifier {self.classifier.name!r} has no class {names[0]!r}; choose "
                f"another with --classifier, such as {self.scorer.name!r}."
            )
        return labels.including(names)


def load_scorer(
    name: str,
    registry: Registry,
    files: Files | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Scorer:
    """Load a scorer, as `load_judge`.

    Raises:
        ConfigError: what has that name gives no alignment with a text.
    """
    judge = load_judge(name, registry, files, device=device)
    if not isinstance(judge, Scorer):
        raise ConfigError(
            f"{name!r} gives no alignment of an image with a text; name another with --scorer, "
            "such as open_clip."
        )
    return judge


def load_judge(
    name: str,
    registry: Registry,
    files: Files | None = None,
    reference: str = "",
    *,
    device: str | torch.device = "cpu",
) -> Judge:
    """Load a registered scorer, classifier or measure, or a scorer of open_clip's.

    Args:
        name: a registered one, or "MODEL/TAG", "MODEL/FILE.safetensors", "hf-hub:..." or
            "local-dir:..." of open_clip.
        registry: where it is registered.
        files: its weights, where it takes them from a file.
        reference: the folder of images that it holds others against, where it does.
        device: where it runs, if it takes a `device`.

    Raises:
        UnknownNameError: neither registered nor of these forms.
        ModelError: it can't be read or fetched.
        MissingExtraError: it needs a package that is not installed.
    """
    descriptor = find_judge(name, registry)
    if descriptor is None:
        from erasekit.metrics.judges.open_clip import OpenClipScorer

        if name.startswith(FOLDERS):
            return OpenClipScorer(name, device=device)
        model, _, tag = name.partition("/")
        return OpenClipScorer(model, tag, device=device)
    target = descriptor.load()
    takes = _parameters(target)
    weights = (files or {}).get(name, "")
    if weights and "weights" not in takes:
        raise ConfigError(f"{name!r} takes no file of weights; leave out its --weights.")
    options = {"device": device, **descriptor.options}
    options |= {k: v for k, v in (("weights", weights), ("reference", reference)) if v}
    fixed = descriptor.options.keys()
    judge: Judge = target(**{k: v for k, v in options.items() if k in takes or k in fixed})
    return judge


def find_judge(name: str, registry: Registry) -> ScorerDescriptor | None:
    """How a judge is registered; None for one of open_clip's, by its form. Loads nothing.

    Raises:
        UnknownNameError: neither registered nor of the forms that `load_scorer` takes.
    """
    if name in registry.scorers() or ("/" not in name and ":" not in name):
        return registry.scorer(name)
    model, _, weights = name.partition("/")
    if not name.startswith(FOLDERS) and not (model and weights):
        remedy = "Or name MODEL/TAG or MODEL/FILE.safetensors of open_clip."
        raise UnknownNameError("scorer", name, registry.scorers(), remedy)
    return None


def load_judges(
    registry: Registry,
    scorer: str,
    *,
    classifier: str = "",
    preferred: str = "",
    measures: Sequence[str] = (),
    optional: Sequence[str] = (),
    files: Files | None = None,
    reference: str = "",
    device: str | torch.device = "cpu",
) -> Judges:
    """Load all judges of an evaluation.

    Args:
        registry: where they are registered.
        scorer: name of the scorer.
        classifier: name of the classifier; "" takes the preferred one.
        preferred: the classifier that gives way to the scorer where its weights are not at hand.
        measures: names of further measures.
        optional: names of measures that are left out where their weights or their package are not
            at hand.
        files: weights by name.
        reference: a folder of images that measures of sets hold theirs against.
        device: where they run, those that take a `device`.

    Raises:
        UnknownNameError: a name that is not registered.
        ModelError: weights that can't be read or fetched.
        ConfigError: a judge that does not do what it is named for, or a file for none of them.
        MissingExtraError: a measure whose package is not installed.
    """
    files = dict(files or {})
    wanted = classifier or preferred
    unused = sorted(set(files) - {scorer, wanted, *measures, *optional})
    if unused:
        raise ConfigError(
            f"--weights names a file for {unused[0]!r}, which does not judge here; "
            f"leave it out, or choose it with --classifier {unused[0]}."
        )
    judge = load_scorer(scorer, registry, files, device=device)
    ranks: Judge = judge
    if wanted and wanted != scorer:
        try:
            ranks = load_judge(wanted, registry, files, device=device)
        except MissingWeightsError:
            if classifier:
                raise
    if not isinstance(ranks, Classifier):
        raise ConfigError(f"{wanted!r} is no classifier; name another with --classifier.")
    found: list[Judge] = []
    left_out: list[str] = []
    for name in dict.fromkeys((*measures, *optional)):
        try:
            found.append(load_judge(name, registry, files, reference, device=device))
        except (MissingWeightsError, MissingExtraError) as error:
            if name in optional and name not in files and not reference:
                left_out.append(f"{name} is left out: {error}")
                continue
            if isinstance(error, MissingExtraError):
                raise
            reason = str(error).removesuffix(".")
            raise MissingWeightsError(f"{reason}, or go without: --measures none.") from error
        if not isinstance(found[-1], SetMeasure | ImageMeasure):
            raise ConfigError(f"{name!r} is no measure of images; leave it out of the measures.")
    sets = tuple(measure for measure in found if isinstance(measure, SetMeasure))
    if reference and not sets:
        raise ConfigError(
            f"--reference {reference!r} is for measures of a set of images; choose one with "
            "--measures fid."
        )
    of_images = tuple(measure for measure in found if isinstance(measure, ImageMeasure))
    return Judges(judge, ranks, of_images, sets, tuple(left_out))


def _parameters(target: Any) -> frozenset[str]:
    """Names of what can be given to it; none where Python can't tell."""
    try:
        return frozenset(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return frozenset()
