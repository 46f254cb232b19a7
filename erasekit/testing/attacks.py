"""What every attack must do, as a test class to inherit."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from erasekit.attacks.run import Attacked, AttackSetup, attack, keep_attacked, load_attacked
from erasekit.concepts import Concept, Erasure
from erasekit.edits import Edit
from erasekit.metrics.base import Images, Scorer
from erasekit.metrics.judges import Judges
from erasekit.metrics.scores import Score
from erasekit.models.loading import LoadedModel
from erasekit.testing.testers import assert_same_tensors, registry_with, weights
from erasekit.testing.tiny import WORDS, tiny_model
from erasekit.training.erase import erase

CHURCH = Concept("church", aliases=("castle",))
NEVER = 0
"""Top k in which no picture's class is, so that an attack draws all that it may."""


class ColourScorer(Scorer):
    """Judges pictures by fixed random projections of their mean colours, one for each text."""

    name = "colours"
    identity: ClassVar = {"name": "colours", "version": "1"}

    def classify(self, images: Images, labels: Sequence[str]) -> NDArray[np.float32]:
        """Fit of each label to each image, [N, L]."""
        colours = np.asarray(images, dtype=np.float32).mean(axis=(1, 2)) / 255
        directions = [np.random.default_rng(list(text.encode())).normal(size=3) for text in labels]
        return np.asarray(colours @ np.array(directions, dtype=np.float32).T, dtype=np.float32)

    def score(self, images: Images, prompts: Sequence[str]) -> list[Score]:
        """The fit of image i's prompt."""
        fits = self.classify(images, prompts).diagonal()
        return [Score(float(f), p, self.name) for f, p in zip(fits, prompts, strict=True)]


@cache
def tiny_edit() -> Edit:
    """An erasure of "church" from the tiny model, made once."""
    return erase(tiny_model(), Erasure((CHURCH,)), "none")


@cache
def pictures_folder() -> Path:
    """A folder of three random pictures; made once a process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="erasekit-pictures-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


class AttackTester:
    """What every attack must do, tested on an erasure from the tiny model.

    Class attributes to set:
        attack: registered name.
        plugins: modules (or objects) with hooks that are not installed.
        settings: hyperparameters for all tests; keep it quick.
        prompts: where it draws prompts of the user's.
        seeded: whether the seed changes what it draws.
    """

    attack: ClassVar[str]
    plugins: ClassVar[Sequence[object]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}
    prompts: ClassVar[tuple[tuple[str, int], ...]] = ()
    seeded: ClassVar[bool] = True

    def model(self) -> LoadedModel:
        """The tiny model, with everything installed and `plugins`."""
        model = tiny_model()
        model.registry = registry_with(*self.plugins)
        return model

    def attacked(
        self,
        model: LoadedModel,
        *,
        seed: int = 0,
        concepts: Sequence[Concept] = (CHURCH,),
        **settings: Any,
    ) -> Attacked:
        """Attack two pictures of each concept with the attack under test."""
        (found,) = attack(
            model,
            tiny_edit(),
            self.attack,
            Erasure(tuple(concepts)),
            settings={"pictures": 2, **self.settings, **settings},
            setup=AttackSetup(
                images_per_concept=2,
                seed=seed,
                top=NEVER,
                classes=tuple((word,) for word in WORDS),
                prompts=self.prompts,
                pictures=pictures_folder(),
            ),
            judges=Judges.of(ColourScorer()),
        )
        return found

    # -- the tests ----------------------------------------------------------------------------

    def test_the_same_seed_draws_the_same_and_another_seed_another(self) -> None:
        first, again = self.attacked(self.model()), self.attacked(self.model())
        assert np.array_equal(first.images, again.images)
        assert first.result.outcomes == again.result.outcomes
        assert first.result.passes == again.result.passes
        other = self.attacked(self.model(), seed=1)
        assert np.array_equal(first.images[:, 2], other.images[:, 2]) != self.seeded

    def test_the_model_is_left_as_it_was(self) -> None:
        model = self.model()
        before = weights(model)
        self.attacked(model)
        assert_same_tensors(weights(model), before)
        parts = [model.unet, *model.family.text_encoders()]
        assert not any(p.requires_grad for part in parts for p in part.parameters())
        assert all(p.grad is None for part in parts for p in part.parameters())
        assert not any(module.training for part in parts for module in part.modules())

    def test_it_draws_no_more_pictures_than_it_may_and_says_what_they_cost(self) -> None:
        model = self.model()
        result = self.attacked(model).result
        drawn = [one.pictures for one in result.outcomes]
        assert 0 < max(drawn) <= 2
        assert not any(one.success for one in result.outcomes)
        steps = model.descriptor.num_inference_steps
        assert result.passes["forward"] >= 2 * steps * sum(drawn)
        assert result.seconds > 0

    def test_several_concepts_are_attacked_at_once(self) -> None:
        both = (CHURCH, Concept("bus"))
        result = self.attacked(self.model(), concepts=both).result
        targets = [(one.concept, one.seed) for one in result.outcomes]
        assert targets == [("church", 0), ("church", 1), ("bus", 0), ("bus", 1)]

    def test_a_result_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        found = self.attacked(self.model())
        keep_attacked(found, tmp_path / "kept")
        read = load_attacked(tmp_path / "kept")
        assert read is not None
        assert read.result == found.result
        assert np.array_equal(read.images, found.images)
        assert_same_tensors(dict(read.embeddings), dict(found.embeddings))
