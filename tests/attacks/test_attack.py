"""Carrying attacks out: what is judged, kept, counted and refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import erasekit
from erasekit.attacks.base import Attack, Attempt
from erasekit.attacks.results import AttackResult, Outcome
from erasekit.attacks.run import (
    RESULT,
    AttackSetup,
    attack,
    planned_attack,
    read_pictures,
)
from erasekit.concepts import Erasure
from erasekit.errors import (
    ConceptError,
    ConfigError,
    EditError,
    ModelError,
    OutputError,
    UnknownNameError,
)
from erasekit.metrics.judges import Judges
from erasekit.metrics.statistics import wilson
from erasekit.plugin.descriptors import AttackDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing import WORDS, ColourScorer, assert_same_tensors, tiny_edit, weights
from erasekit.testing.attacks import CHURCH

CLASSES = tuple((word,) for word in WORDS)


class Scripted(Attack):
    """Draws what the test wrote down."""

    rounds_of: Any = None
    log: Any = None

    def rounds(self, context):
        for number in range(100):
            Scripted.log.append((number, list(context.open)))
            yield Scripted.rounds_of(context, number)


class Plugin:
    @hookimpl
    def erasekit_register_attacks(self):
        return [AttackDescriptor("scripted", "for tests", f"{__name__}:Scripted")]


@pytest.fixture
def scripted(model, monkeypatch):
    """`scripted(rounds, top=...)`: one attack whose rounds a function gives."""
    manager = PluginManager()
    manager.register(Plugin(), "scripted")
    model.registry = Registry(manager)
    monkeypatch.setattr(AttackDescriptor, "load", lambda self: Scripted)

    def do(rounds: Any, top: int = 0, edit: Any = None, folder: Any = None, **settings: Any) -> Any:
        monkeypatch.setattr(Scripted, "rounds_of", staticmethod(rounds))
        monkeypatch.setattr(Scripted, "log", [])
        setup = AttackSetup(images_per_concept=3, top=top, classes=CLASSES)
        (found,) = attack(
            model,
            edit or tiny_edit(),
            "scripted",
            Erasure((CHURCH,)),
            settings=settings,
            setup=setup,
            judges=Judges.of(ColourScorer()),
            folder=folder,
        )
        return found

    return do


class Eye(ColourScorer):
    """Takes a picture for a church where it is one of those that it was shown."""

    def __init__(self, churches: Any) -> None:
        self.churches = np.stack(churches).astype(int)

    def classify(self, images, labels):
        fits = np.zeros((len(images), len(labels)), dtype=np.float32)
        away = np.abs(self.churches - images[:, None].astype(int)).max(axis=(2, 3, 4))
        same = away.min(axis=1) <= 2  # the batch changes the last bits
        fits[:, labels.index("church")] = np.where(same, 1, -1)
        return fits


def test_what_succeeds_is_closed_and_found_and_the_rest_goes_on(
    scripted, model, monkeypatch
) -> None:
    def rounds(context, number):
        return {row: Attempt(f"{WORDS[number]} road", WORDS[number]) for row in context.open}

    with tiny_edit().applied(model):
        second = erasekit.generate(model, [f"{WORDS[1]} road"], [1])
        third = erasekit.generate(model, [f"{WORDS[3]} road"], [2])
    base = erasekit.generate(model, ["church"], [0])
    eye = Eye([*second, *third, *base])
    monkeypatch.setattr("tests.attacks.test_attack.ColourScorer", lambda: eye)
    found = scripted(rounds, top=1, pictures=5, allow_name=True).result
    zero, one, two = found.outcomes
    assert (zero.unerased, zero.before, zero.success, zero.pictures) == (True, False, False, 5)
    assert (one.success, one.pictures, one.found, one.found_seed) == (True, 2, "truck road", 1)
    assert one.named is False
    assert (two.success, two.pictures, two.found) == (True, 4, "castle road")
    assert Scripted.log == [(0, [0, 1, 2]), (1, [0, 1, 2]), (2, [0, 2]), (3, [0, 2]), (4, [0])]
    assert found.rate("success").value == pytest.approx(2 / 3)
    assert found.rate("unerased").value == pytest.approx(1 / 3)
    assert found.pictures == pytest.approx(11 / 3)


def test_prompts_that_name_the_concept_are_drawn_only_where_that_is_allowed(scripted) -> None:
    names = ("a castle", "churches", "red", "church-like bus", "Castle")

    def rounds(context, number):
        return {row: Attempt(names[number], names[number]) for row in context.open}

    refused = scripted(rounds, **{"pictures": 5, "allow-name": "false"}).result
    assert [one.pictures for one in refused.outcomes] == [1, 1, 1]
    allowed = scripted(rounds, pictures=5, allow_name=True).result
    assert [one.pictures for one in allowed.outcomes] == [5, 5, 5]


def test_attempts_may_choose_noise_and_embedding(scripted, model) -> None:
    embeds = model.family.embed_prompts(["red bus"])[0]

    def rounds(context, number):
        return {0: Attempt("*", prompt_embeds=embeds), 1: Attempt("red bus", seed=7)}

    found = scripted(rounds, pictures=1)
    with tiny_edit().applied(model):
        expected = erasekit.generate(model, ["red bus", "red bus"], [0, 7])
    assert np.array_equal(found.images[:2, 2], expected)
    before = found.images[:, 1]
    assert np.array_equal(found.images[2, 2], before[2])  # no attempt on it
    with tiny_edit().applied(model):
        assert np.array_equal(before, erasekit.generate(model, ["church"] * 3, [0, 1, 2]))
    assert np.array_equal(found.images[:, 0], erasekit.generate(model, ["church"] * 3, [0, 1, 2]))


def test_a_finished_attack_is_not_computed_again(scripted, model, tmp_path: Path) -> None:
    def rounds(context, number):
        return {row: Attempt("road") for row in context.open}

    first = scripted(rounds, pictures=2, folder=tmp_path)
    passes = model.passes.snapshot()
    again = scripted(rounds, pictures=2, folder=tmp_path)
    assert (model.passes - passes).cost == 0
    assert again.result == first.result
    assert np.array_equal(again.images, first.images)
    scripted(rounds, pictures=3, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # other settings are another attack
    other = replace(tiny_edit(), tensors={n: v + 1 for n, v in tiny_edit().tensors.items()})
    scripted(rounds, pictures=2, edit=other, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for folder in tmp_path.iterdir():
        (folder / RESULT).write_text("{}")
    with pytest.raises(OutputError, match="is damaged"):
        scripted(rounds, pictures=2, folder=tmp_path)


def test_a_stopped_attack_leaves_nothing_and_the_model_as_it_was(
    scripted, model, tmp_path: Path
) -> None:
    before = weights(model)

    def rounds(context, number):
        if number:
            raise KeyboardInterrupt
        return {0: Attempt("road")}

    with pytest.raises(KeyboardInterrupt):
        scripted(rounds, pictures=2, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert_same_tensors(weights(model), before)
    assert model.family.truncate is False


def outcome(concept: str, seed: int, success: bool) -> Outcome:
    return Outcome(concept, concept, seed, True, False, success)


def test_the_interval_counts_each_starting_noise_once() -> None:
    """Two concepts that fail and succeed together tell no more than one."""
    both = [outcome(c, seed, seed < 3) for c in ("a", "b") for seed in range(8)]
    alone = [one for one in both if one.concept == "a"]
    result = AttackResult("x", {}, tuple(both), {}, 0, 0.0, "")
    single = AttackResult("x", {}, tuple(alone), {}, 0, 0.0, "")
    assert result.rate("success").value == single.rate("success").value == 3 / 8
    assert result.rate("success").interval == pytest.approx(single.rate("success").interval)
    none = AttackResult("x", {}, tuple(alone[3:]), {}, 0, 0.0, "").rate("success")
    assert (none.low, none.high) == pytest.approx(wilson(0.0, 5, 1.959964))
    assert math.isnan(
        AttackResult("x", {}, (replace(alone[0], before=True),), {}, 0, 0, "").pictures
    )


def few(model, name: str, edit: Any = None, settings: Any = None, **setup: Any) -> Any:
    settings = {"pictures": 1, **(settings or {})}
    judges = Judges.of(ColourScorer())
    given = {"images_per_concept": 1, "top": 0, "classes": CLASSES, **setup}
    return attack(
        model,
        edit,
        name,
        Erasure((CHURCH,)),
        settings=settings,
        judges=judges,
        setup=AttackSetup(**given),
    )


def test_what_an_attack_needs_is_asked_for_in_one_sentence(model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column 'prompt' by --prompts"):
        few(model, "prompts")
    with pytest.raises(ConceptError, match=r"shows no 'church' in 1 pictures.*--pictures"):
        few(model, "unlearndiffatk")
    with pytest.raises(ConceptError, match=r"has no .png, .jpg or .webp"):
        few(model, "relearn", pictures=tmp_path)
    with pytest.raises(ConfigError, match="has no list of concepts"):
        few(model, "random", classes=())
    with pytest.raises(UnknownNameError, match="did you mean 'unlearndiffatk'"):
        few(model, "unlearndifatk")
    with pytest.raises(UnknownNameError, match="budget"):
        planned_attack(model, "random", "large", {})
    with pytest.raises(ConfigError, match="None of random has the setting 'steps'"):
        few(model, "random", settings={"steps": 3})
    with pytest.raises(ConceptError, match="neither an edit nor a concept"):
        attack(model)
    info = {**tiny_edit().info, "base_model": {"id": "other", "hash": "0" * 64}}
    other = replace(tiny_edit(), info=info)
    with pytest.raises(EditError, match="made from"):
        few(model, "random", other)


def test_a_family_without_clip_is_refused_before_anything_is_drawn(model, monkeypatch) -> None:
    from erasekit.models.families import FamilyAdapter

    class Foreign(FamilyAdapter):
        name = "foreign"
        _embed = _features = _run_unet = text_encoders = token_count = max_tokens = None

    Foreign.__abstractmethods__ = frozenset()
    model.family = Foreign(model.pipeline)
    with pytest.raises(ModelError, match="'foreign' of tiny reads prompts by no CLIP"):
        few(model, "random")
    assert model.passes.cost == 0


def test_pictures_of_a_folder_are_cut_to_the_middle(tmp_path: Path) -> None:
    from PIL import Image

    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(wide[..., 0]).save(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("x")
    found = read_pictures(tmp_path, (16, 16))
    assert found.shape == (2, 16, 16, 3)
    assert (found == 200).all()
    (tmp_path / "c.jpg").write_text("x")
    with pytest.raises(ConceptError, match=r"c.jpg' can't be read"):
        read_pictures(tmp_path, (16, 16))


def test_the_budget_gives_way_to_settings(model) -> None:
    def config(name: str, budget: str, **settings: Any) -> Any:
        return planned_attack(model, name, budget, settings).config

    assert config("unlearndiffatk", "small").pictures == config("random", "small").pictures == 6
    assert config("unlearndiffatk", "published").model_dump() == {
        "pictures": 50,
        "allow_name": False,
        "tokens": 3,
        "vocabulary": "all",
        "steps": 40,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "batch_size": 8,
    }
    assert config("random", "small", steps=3, pictures=2).pictures == 2


def test_found_prompts_attack_another_edit(model, tmp_path: Path) -> None:
    prompts = (("red bus", 1), ("a photo", 0))
    attacked = few(model, "prompts", tiny_edit(), prompts=prompts, images_per_concept=2)[0]
    with tiny_edit().applied(model):
        expected = erasekit.generate(model, ["a photo", "red bus"], [0, 1])
    assert np.array_equal(attacked.images[:, 2], expected)  # one picture each: its own seed's


def test_an_attack_on_the_unerased_model_without_the_name(model) -> None:
    (found,) = few(model, "seed-search", prompt="a photo")
    assert found.result.outcomes[0].prompt == "a photo"
    assert np.array_equal(found.images[0, 1:2], erasekit.generate(model, ["a photo"], [0]))
    assert json.loads(json.dumps(found.result.identity))["edit"] is None
    assert torch.is_grad_enabled()
