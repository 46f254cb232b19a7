"""Judges by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from erasekit.errors import ConfigError, MissingWeightsError, UnknownNameError
from erasekit.metrics.base import Classifier, ImageMeasure, Judge, Scorer
from erasekit.metrics.judges import Judges
from erasekit.plugin.registry import Registry

Files = Mapping[str, str]
"""Files of weights by the name of the judge."""


def load_scorer(name: str, registry: Registry, files: Files | None = None) -> Scorer:
    """A registered scorer, or one of open_clip's as "MODEL/TAG", "hf-hub:..." or "local-dir:...".

    Raises:
        UnknownNameError: neither registered nor of these forms.
        ModelError: it can't be read or fetched.
        ConfigError: what has that name gives no alignment with a text.
    """
    judge = load_judge(name, registry, files)
    if not isinstance(judge, Scorer):
        raise ConfigError(
            f"{name!r} gives no alignment of an image with a text; name another with --scorer, "
            "such as open_clip."
        )
    return judge


def load_judge(name: str, registry: Registry, files: Files | None = None) -> Judge:
    """A registered scorer, classifier or measure, or a scorer of open_clip's.

    Args:
        name: as `load_scorer` takes it.
        registry: where it is registered.
        files: its weights, where it takes them from a file.

    Raises:
        UnknownNameError: neither registered nor of these forms.
        ModelError: it can't be read or fetched.
        MissingExtraError: it needs a package that is not installed.
    """
    if name in registry.scorers() or ("/" not in name and ":" not in name):
        descriptor = registry.scorer(name)
        options = dict(descriptor.options)
        target = descriptor.load()
        if files and name in files:
            if "weights" not in inspect.signature(target).parameters:
                raise ConfigError(f"{name!r} takes no file of weights; leave out its --weights.")
            options["weights"] = files[name]
        judge: Judge = target(**options)
        return judge
    from erasekit.metrics.open_clip import OpenClipScorer

    if name.startswith(("hf-hub:", "local-dir:")):
        return OpenClipScorer(name)
    model, _, tag = name.rpartition("/")
    if not model or not tag:
        raise UnknownNameError(
            "scorer", name, registry.scorers(), "Or name MODEL/TAG of open_clip."
        )
    return OpenClipScorer(model, tag)


def load_judges(
    registry: Registry,
    scorer: str,
    *,
    classifier: str = "",
    preferred: str = "",
    measures: Sequence[str] = (),
    files: Files | None = None,
) -> Judges:
    """All judges of an evaluation.

    Args:
        registry: where they are registered.
        scorer: name of the scorer.
        classifier: name of the classifier; "" takes the preferred one.
        preferred: the classifier that gives way to the scorer where its weights are not at hand.
        measures: names of further measures.
        files: weights by name.

    Raises:
        UnknownNameError: a name that is not registered.
        ModelError: weights that can't be read or fetched.
        ConfigError: a judge that does not do what it is named for, or a file for none of them.
    """
    files = dict(files or {})
    unused = sorted(set(files) - {scorer, classifier or preferred, *measures})
    if unused:
        raise ConfigError(
            f"--weights names a file for {unused[0]!r}, which does not judge here; "
            f"leave it out, or choose it with --classifier {unused[0]}."
        )
    judge = load_scorer(scorer, registry, files)
    ranks: Judge = judge
    wanted = classifier or preferred
    if wanted and wanted != scorer:
        try:
            ranks = load_judge(wanted, registry, files)
        except MissingWeightsError:
            if classifier:
                raise
    if not isinstance(ranks, Classifier):
        raise ConfigError(f"{wanted!r} tells no classes apart; name another with --classifier.")
    further = []
    for name in measures:
        try:
            measure = load_judge(name, registry, files)
        except MissingWeightsError as error:
            reason = str(error).removesuffix(".")
            raise MissingWeightsError(f"{reason}, or go without: --measures none.") from error
        if not isinstance(measure, ImageMeasure):
            raise ConfigError(f"{name!r} is no measure of an image; leave it out of the measures.")
        further.append(measure)
    return Judges(judge, ranks, tuple(further))
