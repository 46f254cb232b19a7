"""Observation 2: places in a spectrum, and once for real."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from erasekit.edits import Edit
from erasekit.errors import ConceptError, UnknownNameError
from erasekit.observe.spectrum import (
    MarkedWord,
    SpectrumWords,
    edit_key,
    half_samples,
    kept_sensitivities,
    marked_words,
    quantile_of,
    reliability,
    sample_places,
    spectrum,
    spectrum_verdict,
    spectrum_words,
)
from erasekit.training.erase import erase

NAN = math.nan


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 9))
def test_quantiles_are_mean_percentile_ranks(values: list[int], value: int) -> None:
    found = quantile_of(value, np.array(values, dtype=float))
    assert found == pytest.approx(stats.percentileofscore(values, value, kind="mean") / 100)


def test_half_samples_give_the_standard_error_of_paired_means() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    halved = half_samples(12) @ values / 12
    one, other = values[::2], values[1::2]
    expected = math.sqrt(((one - other) ** 2 / 4).sum()) / 6
    assert len(halved) == 64
    assert halved.mean() == pytest.approx(values.mean())
    assert halved.std() == pytest.approx(expected)
    many = half_samples(30) @ rng.normal(size=30)
    assert len(many) == 1024
    assert (half_samples(5)[:, 4] == 1).all()
    assert half_samples(1).tolist() == [[1.0]]


def test_the_limits_cover_the_true_quantile() -> None:
    """Words rank otherwise at every timestep; the truth is over all noises at these timesteps."""
    rng, worlds, inside = np.random.default_rng(0), 300, 0
    for _ in range(worlds):
        timesteps = np.repeat(rng.normal(3, 1, (8, 61)), 2, axis=0)
        probes = timesteps + rng.normal(0, 1, (16, 61))
        true = quantile_of(timesteps[:, 60].mean(), timesteps[:, :60].mean(axis=0))
        (word,) = marked_words(["x"], probes[:, 60:], probes[:, :60])
        inside += word.low <= true <= word.high
    assert 0.9 <= inside / worlds <= 0.995


def test_limits_narrow_to_the_value_where_all_noises_agree() -> None:
    space = np.tile(np.arange(10.0), (4, 1))
    (word,) = marked_words(["x"], np.full((4, 1), 6.5), space)
    assert (word.quantile, word.low, word.high) == (0.7, 0.7, 0.7)
    (single,) = marked_words(["x"], np.full((1, 1), 6.5), space[:1])
    assert single.quantile == 0.7
    assert math.isnan(single.low)


def test_samples_are_spread_over_the_ranks() -> None:
    values = np.array([5.0, 1.0, 4.0, 0.0, 3.0, 2.0])
    assert [values[i] for i in sample_places(values, 3)] == [1, 3, 5]
    assert sorted(sample_places(values, 99)) == list(range(6))


def test_reliability_is_one_for_probes_that_agree_and_low_for_noise() -> None:
    rng = np.random.default_rng(3)
    words = rng.normal(size=400)
    assert reliability(np.tile(words, (4, 1))) == pytest.approx(1)
    assert abs(reliability(rng.normal(size=(4, 400)))) < 0.25
    noisy = words + rng.normal(size=(6, 400))
    assert reliability(noisy) == pytest.approx(6 / 7, abs=0.05)  # Spearman-Brown of r = 1/2
    assert math.isnan(reliability(words[None]))


def word(quantile: float, reach: float = 0.05) -> MarkedWord:
    return MarkedWord("a photo", 1.0, quantile, quantile - reach, quantile + reach)


def test_the_verdict_is_about_the_central_half() -> None:
    assert spectrum_verdict([word(0.4), word(0.6)]) == "held"
    assert spectrum_verdict([word(0.4), word(0.9)]) == "not held"
    assert spectrum_verdict([word(0.4), word(0.1)]) == "not held"
    assert spectrum_verdict([word(0.4), word(0.74)]) == "undecided"
    assert spectrum_verdict([word(0.4, NAN)]) == "undecided"
    assert spectrum_verdict([]) == "undecided"


@pytest.fixture
def edit(world_model, registry) -> Edit:
    settings = {"steps": 3, "learning_rate": 0.02, "trajectories": 1, "trajectory_steps": 3}
    return erase(world_model, "garbage truck", "none", registry=registry, settings=settings)


def test_words_leave_out_what_is_erased_and_what_is_neutral(
    world_model, edit, registry, tmp_path
) -> None:
    words = spectrum_words(world_model, edit)
    assert words.space == ("bus", "car", "church", "castle", "banana", "apple")
    assert words.neutral[0] == ""
    assert words.erased == ("garbage truck",)
    assert spectrum_words(world_model, edit, "vocabulary").space[0] == "garbage"
    source = tmp_path / "words.txt"
    source.write_text("bus\nGarbage trucks\nred truck\na photo\n" + "church " * 30, "utf-8")
    found = spectrum_words(world_model, edit, str(source), ["bus"])
    assert found.space == ("a photo",)  # an alias of what is erased goes too
    with pytest.raises(ConceptError, match="no words"):
        spectrum_words(world_model, edit, str(source), ["bus", "a photo"])
    with pytest.raises(UnknownNameError):
        spectrum_words(world_model, edit, "latin")
    with pytest.raises(ConceptError, match="tokens long"):
        spectrum_words(world_model, edit, neutral=["church " * 30])


def test_an_edit_is_known_by_every_bit(edit) -> None:
    key = edit_key(edit)
    name = next(iter(edit.tensors))
    moved = Edit({**edit.tensors, name: edit.tensors[name].clone()}, edit.info)
    assert edit_key(moved) == key
    flat = moved.tensors[name].view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(math.inf))
    assert edit_key(moved) != key


def test_for_real_and_again_for_nothing(
    world_model, edit, tiny_scorer, registry, store, suite
) -> None:
    words = spectrum_words(world_model, edit)
    counts: dict[str, int] = {"words": 0, "images": 0}

    def measure():
        return spectrum(
            world_model,
            edit,
            tiny_scorer,
            store,
            replace(suite, images_per_concept=2),
            words,
            probes=3,
            sample=5,
            on_words=lambda n: counts.update(words=counts["words"] + n),
            on_images=lambda n: counts.update(images=counts["images"] + n),
        )

    first = measure()
    assert counts == {"words": len(words.all), "images": 2 * 5 * 2}
    assert list(first.sensitivities) == sorted(first.sensitivities)
    assert first.sensitivities[0] > 0
    assert [w.word for w in first.neutral] == list(words.neutral)
    assert [w.word for w in first.targets] == ["garbage truck"]
    assert first.correlation.n == 5
    assert all(w.delta.n == 2 for w in first.sample)
    assert '(its central half): of 6 words, the share less sensitive is "" ' in first.sentence
    assert "over 5 words" in first.remarks[0]
    assert f"over 3 probes is {first.reliability:.2f} (1 is best)" in first.remarks[1]
    passes = world_model.passes.forward
    assert measure() == first
    assert world_model.passes.forward == passes


def test_a_damaged_file_is_measured_anew(world_model, edit, store) -> None:
    store.prepare()
    values = kept_sensitivities(store, world_model, edit, ["bus", "car"], 2)
    (path,) = (store.root / "sensitivities").glob("*.json")
    path.write_text(path.read_text("utf-8")[:50], "utf-8")
    again = kept_sensitivities(store, world_model, edit, ["bus", "car"], 2)
    assert (again == values).all()
    others = kept_sensitivities(store, world_model, edit, ["bus", "church"], 2)
    assert (others[:, 1] != values[:, 1]).all()


def test_an_edit_that_changes_nothing_puts_all_words_in_one_place(world_model, store) -> None:
    name, value = next(iter(world_model.unet.named_parameters()))
    nothing = Edit(
        {name: value.detach().clone()}, {"base_model": {"id": "tiny", "hash": world_model.hash}}
    )
    words = SpectrumWords(("bus", "car"), ("",), ())
    store.prepare()
    values = kept_sensitivities(store, world_model, nothing, words.all, 2)
    assert not values.any()
    (neutral,) = marked_words(words.neutral, values[:, 2:], values[:, :2])
    assert neutral.quantile == 0.5
