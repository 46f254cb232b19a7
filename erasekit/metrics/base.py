"""What scores images, and what sums scores up.

Judges look at pixels: a `Classifier`, a `Scorer`, an `ImageMeasure` or a `SetMeasure`. A `Metric`
sums up a concept's scores before and after an erasure. Both are registered by plugins, see
`erasekit.metrics`; a suite names those that it wants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from erasekit.metrics.scores import Estimate, Paired, Score, Split

Images = NDArray[np.uint8]
"""uint8 [N, H, W, 3], RGB."""


class Judge(ABC):
    """Looks at images.

    Preprocess images exactly as the judge was trained with, and put everything that changes a
    number into `identity`: it stands in every record, and a change of it makes the bench score
    again.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables call it."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Name, version of the code, hash of weights and preprocessing."""


class Classifier(Judge):
    """Says which class an image shows.

    Attributes:
        labels: the classes it knows; empty where any text will do.
    """

    labels: tuple[str, ...] = ()

    @abstractmethod
    def classify(self, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
        """How well each label fits each image, [N, L]; larger fits better.

        Args:
            images: uint8 [N, H, W, 3].
            labels: L texts; some of its own where it has its own.
        """


class Scorer(Classifier):
    """Judges images by text, and classifies by the text that fits best."""

    @abstractmethod
    def score(self, images: Images, prompts: Sequence[str]) -> list[Score]:
        """Alignment of image i with prompt i, 100 * cosine.

        Args:
            images: uint8 [N, H, W, 3].
            prompts: N texts.
        """


class ImageMeasure(Judge):
    """Measures something else of each image, such as its distance from the base model's image."""

    @abstractmethod
    def measure(self, images: Images, reference: Images) -> Mapping[str, NDArray[np.float64]]:
        """One number per image for each of the measure's names, [N]; NaN where it can't be had.

        Args:
            images: uint8 [N, H, W, 3].
            reference: image i as the base model draws it from the same noise.
        """


class SetMeasure(Judge):
    """Measures a set of images as a whole; features of images are kept and not computed again."""

    @property
    @abstractmethod
    def extractor(self) -> dict[str, str]:
        """The part of `identity` that features depend on."""

    @property
    def reference(self) -> str:
        """Hash of the set that all are held against; "" holds them against the base model's."""
        return ""

    @abstractmethod
    def features(self, images: Images) -> NDArray[np.float32]:
        """What a set is summed up by, [N, D], a row per image; NaN where it can't be had."""

    def reference_features(self) -> NDArray[np.float32]:
        """Features of the set behind `reference`, [M, D]; asked for only where there is one."""
        raise NotImplementedError

    @abstractmethod
    def compare(
        self, features: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> Mapping[str, Estimate]:
        """The measure's numbers by name, NaN with a note where they can't be had.

        Args:
            features: [N, D], of the set.
            reference: [M, D], of what it is held against.
        """


class Metric(ABC):
    """Sums up paired scores: `update` with each concept of each record, then `compute`.

    Class attributes:
        higher_is_better: which way is good.
    """

    higher_is_better: ClassVar[bool]

    @abstractmethod
    def update(self, concept: Paired, seed: int = 0, stratum: str = "") -> None:
        """Take in one concept's images after one erasure, if it is of a split that counts here.

        Args:
            concept: its scores before and after.
            seed: the erasure seed.
            stratum: the erased set, where several are averaged; their seeds are not the same.
        """

    @abstractmethod
    def compute(self) -> Estimate:
        """The value over all that came in; NaN with counts where nothing did, never 0."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all that came in."""


class CrossedMetric(Metric):
    """A metric of one number per image, kept by concept, starting noise and erasure seed.

    Class attributes:
        split: which concepts it is about; None takes all that come in.
    """

    split: Split | None = None

    @abstractmethod
    def values(self, concept: Paired) -> tuple[float, ...]:
        """A number per noise; NaN where an image is missing."""

    def update(self, concept: Paired, seed: int = 0, stratum: str = "") -> None:
        if self.split in (None, concept.split):
            own = self._values.setdefault((stratum, concept.concept, concept.before.noises), {})
            again = sum(run[:2] == (stratum, seed) for run in own)
            own[stratum, seed, again] = self.values(concept)

    def table(self) -> tuple[NDArray[np.float64], list[str], list[tuple[int, ...]]]:
        """All that came in, as `crossed_effect` takes it.

        Returns:
            [concepts, noises, runs] with NaN where missing, each run's stratum, and each
            concept's noises.
        """
        runs = list(dict.fromkeys(run for by_run in self._values.values() for run in by_run))
        width = max((len(noises) for *_, noises in self._values), default=0)
        table = np.full((len(self._values), width, len(runs)), np.nan)
        for row, by_run in enumerate(self._values.values()):
            for run, values in by_run.items():
                table[row, : len(values), runs.index(run)] = values
        return table, [stratum for stratum, *_ in runs], [noises for *_, noises in self._values]

    @property
    def came_in(self) -> int:
        """Images that came in, missing ones too."""
        return sum(len(own) for by_run in self._values.values() for own in by_run.values())

    def reset(self) -> None:
        self._values: dict[
            tuple[str, str, tuple[int, ...]], dict[tuple[str, int, int], tuple[float, ...]]
        ] = {}
