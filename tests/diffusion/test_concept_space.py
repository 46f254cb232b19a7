"""The concept space R: what it never holds, and what lies near."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import wordfreq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erasekit.concepts import Concept, Erasure, normalised
from erasekit.diffusion.concept_space import ConceptSpace, concept_space, words_for
from erasekit.errors import ConceptError, ConfigError, MissingExtraError, UnknownNameError
from erasekit.models.single_file import clip_vocabulary
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor

WORDS = ["church", "castle", "bus", "garbage truck", "truck", "a red car", "banana", "apple"]


def space_of(features: torch.Tensor) -> ConceptSpace:
    unit = torch.nn.functional.normalize(features, dim=-1)
    return ConceptSpace([f"w{i}" for i in range(len(unit))], unit[:, None, :], unit)


def random_space(count: int = 60, size: int = 8, seed: int = 0) -> ConceptSpace:
    return space_of(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)))


# -- what R holds ---------------------------------------------------------------------------------

letters = st.sampled_from(["church", "chapel", "truck", "bin", "red", "kirk", "Bus"])
names = st.lists(letters, min_size=1, max_size=2).map(" ".join)
dressed = st.tuples(names, st.sampled_from(["{}", " {} ", "a {}", "{}s", "{}-photo", "THE {}"]))


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(
    erased=st.lists(st.tuples(names, st.lists(names, max_size=2)), min_size=1, max_size=3),
    words=st.lists(dressed, max_size=12),
)
def test_r_never_holds_an_erased_concept_or_an_alias(
    tmp_path_factory, tiny_model, registry, erased, words
) -> None:
    try:
        erasure = Erasure(tuple(Concept(text, aliases=tuple(a)) for text, a in erased))
    except ConceptError:
        return  # one concept twice
    spoken = [form.format(name.upper() if "THE" in form else name) for name, form in words]
    source = tmp_path_factory.mktemp("words") / "words.txt"
    source.write_text("\n".join([*spoken, "banana"]))
    space = concept_space(tiny_model, erasure, str(source))
    gone = [normalised(name) for concept in erasure.erased for name in concept.names]
    for word in space.words:
        said = f" {normalised(word).replace('-', ' ')} "
        assert not any(f" {name} " in said for name in gone)
        assert not any(f" {name}s " in said for name in gone)
    assert "banana" in space.words
    stays = [w.strip() for w in spoken if not any(name in normalised(w) for name in gone)]
    assert set(stays) <= set(space.words)


def test_aliases_that_the_model_knows_are_kept_out_too(tiny_model, registry) -> None:
    tiny_model.concepts = [
        ModelConcept("church", "object", "buildings", "pool", aliases=("castle",)),
        ModelConcept("bus", "object", "vehicles", "pool"),
        ModelConcept("apple", "object", "food", "held-out"),
    ]
    for typed in ("church", "castle", "Church"):
        words = concept_space(tiny_model, Erasure.of(typed), "vocabulary").words
        assert not {"church", "castle"} & set(words)
        assert "banana" in words
    assert concept_space(tiny_model, Erasure.of("church"), "model").words == ["bus"]


def test_the_user_s_own_words_come_before_a_source(tiny_model, registry) -> None:
    erasure = Erasure.of("church", keep=("castle", "a red bus"))
    space = concept_space(tiny_model, erasure, "vocabulary")
    assert space.words == ["castle", "a red bus"]


@pytest.mark.parametrize("kept", ["church", "a church", "Churches", "chapel", "old-church"])
def test_a_kept_word_that_is_erased_is_refused(kept: str) -> None:
    with pytest.raises(ConceptError, match=f"{kept!r} is both erased and kept"):
        Erasure((Concept("church", aliases=("chapel",)),), keep=("bus", kept))


# -- where words come from ------------------------------------------------------------------------


def test_a_file_has_one_word_a_line(tiny_model, registry, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    text = "\ufeffchurch\r\n\n  # a comment\n# another\n  garbage truck \nchurch\nbanana"
    path.write_text(text, encoding="utf-8")
    assert words_for(tiny_model, str(path)) == [*("church", "garbage truck", "church", "banana")]
    space = concept_space(tiny_model, Erasure.of("bus"), str(path))
    assert space.words == ["church", "garbage truck", "banana"]


def test_a_file_of_nothing_but_the_erased_concept_is_refused(
    tiny_model, registry, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("church\nchurches\n")
    with pytest.raises(ConceptError, match="concept space is empty"):
        concept_space(tiny_model, Erasure.of("church"), str(tmp_path / "words.txt"))


def test_a_file_that_is_no_text_is_refused(tiny_model, registry, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe\x00church")
    with pytest.raises(ConfigError, match=r"words\.txt.* can't be read as text"):
        words_for(tiny_model, str(tmp_path / "words.txt"))


def test_an_unknown_source_names_the_nearest(tiny_model, registry) -> None:
    with pytest.raises(UnknownNameError, match=r"'englsh'; did you mean 'english'\?.*file"):
        words_for(tiny_model, "englsh")


def test_the_vocabulary_gives_whole_words(tiny_model, registry) -> None:
    words = words_for(tiny_model, "vocabulary")
    assert {"garbage", "truck", "church", "banana", "red"} <= set(words)
    assert all(len(word) > 2 and word.isalpha() and word.islower() for word in words)


def test_the_vocabulary_of_stable_diffusion_gives_frequent_words_and_no_endings(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = set(wordfreq.top_n_list("en", 60_000))
    vocabulary, _ = clip_vocabulary()
    monkeypatch.setattr(tiny_model.pipeline.tokenizer, "get_vocab", lambda: vocabulary)
    words = words_for(tiny_model, "vocabulary")
    assert len(words) == len(set(words)) == 3000
    assert {"church", "truck", "car", "dog", "photo"} <= set(words)
    assert not {"tion", "ment", "ing", "ation", "ster"} & set(words)
    assert sum(word not in known for word in words) < 45
    monkeypatch.setattr(tiny_model.pipeline.tokenizer, "get_vocab", lambda: {"a": 0, "church": 1})
    with pytest.raises(ConfigError, match="does not mark where words end; use"):
        words_for(tiny_model, "vocabulary")


def test_what_no_registration_says_otherwise_needs_no_extra(
    tiny_model, registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    for descriptor in (ModelDescriptor("mine", "", ""), *registry.models().values()):
        if descriptor.concept_space != "model":
            assert words_for(replace(tiny_model, descriptor=descriptor))
    assert registry.model("sd1.4").concept_space == "vocabulary"


def test_english_gives_frequent_words(tiny_model, registry) -> None:
    words = words_for(tiny_model, "english")
    assert len(words) == len(set(words)) == 3000
    assert {"church", "truck"} <= set(words)


def test_english_without_its_extra_names_the_line_that_installs_it(
    tiny_model, registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'erasekit\[english\]'"):
        words_for(tiny_model, "english")


def test_model_without_a_list_says_what_to_use(tiny_model, registry) -> None:
    with pytest.raises(
        ConfigError, match="no list of concepts; use --set concept_space=vocabulary"
    ):
        words_for(tiny_model, "model")


# -- embedding and nearness ------------------------------------------------------------------------


def test_embedding_equals_one_by_one_and_leaves_out_what_is_too_long(tiny_model) -> None:
    long = "garbage " * 20
    space = ConceptSpace.embed(tiny_model, [*WORDS, long, "church"])
    assert space.words == WORDS
    for i, word in enumerate(WORDS):
        embeds, *_ = tiny_model.pipeline.encode_prompt(word, "cpu", 1, False)
        torch.testing.assert_close(space.prompt_embeds[i], embeds[0])
    torch.testing.assert_close(space.features.norm(dim=1), torch.ones(len(WORDS)))
    assert not space.prompt_embeds.requires_grad


@pytest.mark.parametrize("k", [1, 7, 60, 100])
def test_nearest_is_what_brute_force_finds(k: int) -> None:
    space = random_space()
    asked = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.manual_seed(1)), dim=1)
    ranked = sorted(
        range(len(space)),
        key=lambda i: -max(float(space.features[i] @ vector) for vector in asked),
    )
    found = space.nearest(asked, k)
    assert found.words == [space.words[i] for i in ranked[:k]]
    assert torch.equal(found.prompt_embeds, space.prompt_embeds[ranked[:k]])


def test_nearest_word_is_by_distance_of_embeddings(tiny_model) -> None:
    space = ConceptSpace.embed(tiny_model, WORDS)
    for word in WORDS:
        embeds = tiny_model.family.embed_prompts([word])[0]
        assert space.nearest_word(embeds + 0.01 * torch.randn_like(embeds)) == word


@pytest.mark.parametrize("n", [1, 2, 5, 20, 59])
def test_centres_are_a_subset_and_deterministic(n: int) -> None:
    space = random_space()
    centres = space.centres(n)
    assert 0 < len(centres) <= n
    assert len(set(centres.words)) == len(centres)
    assert set(centres.words) <= set(space.words)
    assert centres.words == space.centres(n).words
    for word, embeds in zip(centres.words, centres.prompt_embeds, strict=True):
        assert torch.equal(embeds, space.prompt_embeds[space.words.index(word)])


def test_more_centres_than_words_keeps_all() -> None:
    space = random_space()
    assert space.centres(60).words == space.centres(1000).words == space.words


def test_each_cluster_has_its_centre() -> None:
    """Three far groups: one centre in each, whatever their sizes."""
    generator = torch.Generator().manual_seed(3)
    middles = torch.eye(8)[:3].repeat_interleave(torch.tensor([30, 5, 12]), dim=0)
    space = space_of(middles + 0.1 * torch.randn(47, 8, generator=generator))
    group = [int(f.argmax()) for f in space.features]
    centres = space.centres(3)
    assert sorted(group[space.words.index(word)] for word in centres.words) == [0, 1, 2]


def test_centres_of_equal_words_are_one() -> None:
    space = space_of(torch.ones(5, 4))
    assert len(space.centres(3)) == 1
