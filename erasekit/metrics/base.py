"""What scores images, and what sums scores up.

A `Scorer` looks at pixels and says one `Score` per image; a `Metric` looks at a concept's scores
before and after an erasure and sums them up. Both are registered by plugins, see
`erasekit.metrics.hooks` for how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from erasekit.records import Estimate, Paired, Score

Images = NDArray[np.uint8]
"""uint8 [N, H, W, 3], RGB."""


class Scorer(ABC):
    """Judges images by text.

    To write one, implement the four members below. Preprocess images exactly as the judge was
    trained with, and put everything that changes a score into `identity`: it stands in every
    record, and a change of it makes the bench score again.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables call it."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Name, version of the code, hash of weights and preprocessing."""

    @abstractmethod
    def score(self, images: Images, prompts: Sequence[str]) -> list[Score]:
        """Alignment of image i with prompt i, 100 * cosine.

        Args:
            images: uint8 [N, H, W, 3].
            prompts: N texts.
        """

    @abstractmethod
    def classify(self, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
        """How well each label fits each image, [N, L]; larger fits better."""


class Metric(ABC):
    """Sums up paired scores: `update` with each concept of each record, then `compute`.

    `compute` gives NaN with counts where nothing came in, never 0.

    Class attributes:
        higher_is_better: which way is good.
    """

    higher_is_better: ClassVar[bool]

    @abstractmethod
    def update(self, concept: Paired, seed: int = 0) -> None:
        """Take in one concept's images after the erasure with this erasure seed.

        A metric ignores the roles that it is not about.
        """

    @abstractmethod
    def compute(self) -> Estimate:
        """The value over all that came in."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all that came in."""
