"""Who judges the images of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erasekit.errors import ConfigError
from erasekit.metrics.base import Classifier, ImageMeasure, Scorer, SetMeasure
from erasekit.metrics.judges.labels import LabelSet


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
    def zero_shot(self) -> bool:
        """Whether images are classified by the scorer, by the label that fits best."""
        return self.classifier is self.scorer

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
        if not self.classifier.labels:
            return labels
        return LabelSet((name,) for name in self.classifier.labels)

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
