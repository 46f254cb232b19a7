"""Features on disk: read once for each text encoder, and never another's."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from erasekit.diffusion.concept_space import (
    CACHE_VARIABLE,
    WORTH_KEEPING,
    ConceptSpace,
    word_features,
)
from erasekit.models.loading import LoadedModel

WORDS = [f"{a}{b}" for a in "abcdefghijklmnopqr" for b in "abcdefghijklmnop"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def count_encodings(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of words each time the text encoders read some."""
    counts: list[int] = []
    features = model.family._features

    def counted(prompts: list[str]) -> torch.Tensor:
        counts.append(len(prompts))
        return features(prompts)

    monkeypatch.setattr(model.family, "_features", counted)
    return counts


def test_words_are_read_once_and_come_back_bit_for_bit(
    family_model: LoadedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_encodings(family_model, monkeypatch)
    first = word_features(family_model, WORDS)
    again = word_features(family_model, WORDS)
    assert torch.equal(first, again)
    assert torch.equal(first, family_model.family.word_features(WORDS))
    assert encoded == [len(WORDS), len(WORDS)]
    word_features(family_model, WORDS[:-1])
    assert encoded[2:] == [len(WORDS) - 1]
    assert len(list(cache.iterdir())) == 2


def test_another_text_encoder_has_its_own_file(
    loaded: Callable[[str], LoadedModel], cache: Path
) -> None:
    model, other = loaded("sdxl"), loaded("sdxl")
    with torch.no_grad():
        next(other.pipeline.text_encoder_2.parameters()).add_(0.1)
    first, second = (word_features(m, WORDS) for m in (model, other))
    assert not torch.equal(first, second)
    with torch.no_grad():
        next(model.unet.parameters()).add_(0.1)
    assert torch.equal(word_features(model, WORDS), first)
    assert len(list(cache.iterdir())) == 2


def test_few_words_leave_no_file(tiny_model: LoadedModel, cache: Path) -> None:
    word_features(tiny_model, WORDS[: WORTH_KEEPING - 1])
    assert not cache.exists()


def test_a_damaged_file_is_written_anew(tiny_model: LoadedModel, cache: Path) -> None:
    first = word_features(tiny_model, WORDS)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    assert torch.equal(word_features(tiny_model, WORDS), first)
    (path,) = cache.iterdir()
    path.write_bytes(b"")
    assert torch.equal(word_features(tiny_model, WORDS), first)


def test_a_cache_that_can_t_be_written_costs_time_alone(
    tiny_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert word_features(tiny_model, WORDS).shape[0] == len(WORDS)


def test_a_cache_without_room_costs_time_alone(
    tiny_model: LoadedModel, cache: Path, tmp_path: Path
) -> None:
    """The system's own limit on file size, which needs no rights: the features are larger."""
    said = tmp_path / "said"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
        said.write_text(str(len(word_features(tiny_model, WORDS))))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert said.read_text() == str(len(WORDS))
    assert list(cache.iterdir()) == []


def test_narrowing_embeds_only_what_is_left(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    embed = tiny_model.family._embed

    def counted(prompts: list[str]) -> torch.Tensor:
        embedded.append(len(prompts))
        return embed(prompts)

    monkeypatch.setattr(tiny_model.family, "_embed", counted)
    space = ConceptSpace.embed(tiny_model, WORDS)
    near = space.nearest(tiny_model.family.word_features(["church"]), 40).centres(5)
    assert embedded == []
    assert len(near.prompt_embeds) == len(near) == sum(embedded)
    assert torch.equal(near.prompt_embeds, embed(near.words))
    assert len(embedded) == 1
