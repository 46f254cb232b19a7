"""The labels of a classification: every class with its aliases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from erasekit.concepts import normalised
from erasekit.metrics.base import Classifier, Images


class LabelSet:
    """Classes, each known by one or more names; an alias counts as its class.

    Args:
        classes: names of each class, the main one first.
        template: what a name is put into before the classifier reads it, such as "a photo of {}".
    """

    def __init__(self, classes: Iterable[Sequence[str]], template: str = "{}") -> None:
        self.classes = tuple(tuple(names) for names in classes)
        self.template = template
        self._index = {
            normalised(name): position
            for position, names in reversed(list(enumerate(self.classes)))
            for name in names
        }

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, name: str) -> int:
        """Position of the class that `name` names.

        Raises:
            KeyError: no class has that name.
        """
        return self._index[normalised(name)]

    def knows(self, name: str) -> bool:
        """Whether a class has that name."""
        return normalised(name) in self._index

    def including(self, names: Sequence[str]) -> LabelSet:
        """These labels, and `names` as one more class where none of them is known."""
        if any(normalised(name) in self._index for name in names):
            return self
        return LabelSet([*self.classes, names], self.template)

    @property
    def identity(self) -> dict[str, object]:
        """What a ranking depends on, JSON-ready."""
        return {"classes": [list(names) for names in self.classes], "template": self.template}

    def logits(self, classifier: Classifier, images: Images) -> NDArray[np.float32]:
        """Fit of each class to each image, [N, classes]: its best name's."""
        names = [self.template.format(name) for names in self.classes for name in names]
        fits = classifier.classify(images, names)
        starts = np.cumsum([0, *(len(names) for names in self.classes[:-1])])
        return np.maximum.reduceat(fits, starts, axis=1)

    def ranks(self, classifier: Classifier, images: Images, targets: Sequence[str]) -> list[float]:
        """Place of image i's class `targets[i]` among all classes; 1 is the top.

        Only classes that fit strictly better are ahead of it. NaN where the classifier says
        NaN of the image's own class, or does not have that class.
        """
        logits = self.logits(classifier, images)
        known = [self._index.get(normalised(target), -1) for target in targets]
        own = np.where(np.array(known) < 0, np.nan, logits[np.arange(len(images)), known])
        ahead = (logits > own[:, None]).sum(axis=1)
        return [
            math.nan if math.isnan(f) else float(n) + 1 for n, f in zip(ahead, own, strict=True)
        ]
