"""The data of the model "world": its catalogue, and how an icon becomes a sprite and a scene."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from benchmarks.world import captions, tokenizers
from benchmarks.world.catalog import (
    HERE,
    Concept,
    IconSet,
    SetData,
    matches,
    read_concepts,
    read_sets,
    read_tree,
    read_unspoken,
    resolve,
    rgb,
)
from benchmarks.world.fetch import hash_of
from benchmarks.world.generator import Planned, Reader
from benchmarks.world.scenes import (
    COLOURS,
    Planner,
    Scene,
    Thing,
    compose,
    is_unseen,
    pack,
    recolour,
)
from benchmarks.world.sprites import (
    Sprites,
    draw,
    icon_entry,
    load_sprites,
    problems,
    save_sprites,
    svg,
)
from erasekit.bench.suites import IMAGENETTE, SIDE_EFFECTS

UNDESIRABLE = {"pistol", "knife", "bomb", "cigarette", "beer", "nudity"}
FREE = {"Apache-2.0", "MIT", "ISC", "CC-BY-3.0", "CC-BY-4.0"}


def icon_set(name: str, role: str, **rest: Any) -> IconSet:
    return IconSet(name, "1", "", "MIT", "author", "url", name, role, **rest)


def set_data(*names: str, aliases: dict[str, Any] | None = None) -> SetData:
    icons = {name: {"body": f"<path d='{name}'/>"} for name in names}
    return SetData({"icons": icons, "aliases": aliases or {}})


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """Four concepts in two sets, each a disc of its own red on nothing."""
    names = ("church", "car", "cat", "apple")
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = (((y - 15.5) ** 2 + (x - 15.5) ** 2) < 200).to(torch.uint8)
    pixels, records = [], []
    for i, (name, drawn_by) in enumerate((n, s) for n in names for s in ("noto", "twemoji")):
        pixels.append(torch.stack([disc * (255 - 10 * i), disc * 20, disc * 20, disc * 255]))
        records.append({"concept": name, "set": drawn_by, "icon": name, "role": "generator"})
    return Sprites(torch.stack(pixels), [r | {"mono": False} for r in records])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return tokenizers.build(captions.every_word(), tmp_path_factory.mktemp("tokenizer"))


def test_the_concepts_that_must_exist_do() -> None:
    names = [concept.name for concept in read_concepts()]
    assert len(names) == len(set(names)) >= 700
    assert set(names) >= {*IMAGENETTE, *sum(SIDE_EFFECTS.values(), ())} | UNDESIRABLE
    icons = json.loads((HERE.parents[1] / "erasekit" / "embedded" / "icons.json").read_text())
    assert set(names) >= {concept["name"] for concept in icons["concepts"]}


def test_no_name_or_alias_means_two_concepts() -> None:
    words = Counter(word for c in read_concepts() for word in (c.name, *c.aliases))
    assert [word for word, count in words.items() if count > 1] == []
    assert all(word == word.lower().strip() for word in words)


def test_families_are_near_neighbours_split_in_half_and_stand_in_a_tree() -> None:
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    tree = read_tree()
    for concept in read_concepts():
        splits[concept.family][concept.split] += 1
    for family, split in splits.items():
        assert 0 <= split["pool"] - split["held-out"] <= 1, family
        assert 5 <= split.total() <= 20, family
    assert splits.keys() <= tree.keys()
    assert tree["truck"] == ("truck", "road vehicle", "vehicle")
    assert read_unspoken() <= tree.keys() | {"thing"}


def test_every_licence_allows_what_we_do_and_every_set_is_credited() -> None:
    notice = (HERE.parents[1] / "NOTICE").read_text()
    for name, entry in read_sets().items():
        assert entry.licence in FREE, name
        if not entry.local:
            package, _, version = entry.spec.rpartition("@")
            assert f"{package} {version}), by {entry.author}" in notice


def test_matches_by_name_variant_and_missing_hyphens() -> None:
    concept = Concept("apple", "food", "pool", icons=("red-apple", "apple"))
    data = set_data("apple", "apple-fill", "redapple", "pineapple")
    assert matches(concept, icon_set("s", "scorer"), data) == ["redapple", "apple"]
    with_fill = icon_set("s", "scorer", suffixes=("", "-fill"))
    assert matches(concept, with_fill, data) == ["redapple", "apple", "apple-fill"]


def test_matches_follows_renamings_and_drops_what_it_should() -> None:
    concept = Concept("gun", "w", "pool", icons=("pistol", "gun"), drop=frozenset({"s:water-*"}))
    data = set_data("water-pistol", "gun", aliases={"pistol": {"parent": "water-pistol"}})
    assert matches(concept, icon_set("s", "scorer"), data) == ["gun"]
    assert matches(concept, icon_set("t", "scorer"), data) == ["water-pistol", "gun"]


def test_a_generator_set_draws_a_concept_once_and_a_lent_drawing_changes_sides() -> None:
    sets = {"style": icon_set("style", "generator"), "ink": icon_set("ink", "scorer", mono=True)}
    data = {name: set_data("cat", "cat-line", "dog") for name in sets}
    cat = Concept("cat", "animals", "pool", icons=("cat", "cat-line"))
    dog = Concept("dog", "animals", "pool", icons=("dog",), shared=("ink:dog:generator",))
    found = {(d.concept, d.set, d.icon, d.role) for d in resolve([cat, dog], sets, data)}
    assert found == {
        ("cat", "style", "cat", "generator"),
        ("cat", "ink", "cat", "scorer"),
        ("cat", "ink", "cat-line", "scorer"),
        ("dog", "style", "dog", "generator"),
        ("dog", "ink", "dog", "generator"),
    }


def test_an_icon_has_its_own_box_or_its_sets() -> None:
    data = {"icons": {"a": {"body": "A"}, "b": {"body": "B", "left": -2, "width": 30}}}
    data["height"] = 24
    assert 'viewBox="0 0 16 24"' in svg(icon_entry(data, "a"))
    assert 'viewBox="-2 0 30 24"' in svg(icon_entry(data, "b"))


def test_flips_and_turns_add_up_along_aliases() -> None:
    data = {
        "icons": {"a": {"body": "A", "width": 10, "height": 10}},
        "aliases": {
            "b": {"parent": "a", "hFlip": True, "rotate": 3},
            "c": {"parent": "b", "hFlip": True, "rotate": 2, "width": 20},
        },
    }
    once, twice = icon_entry(data, "b"), icon_entry(data, "c")
    assert (once["hFlip"], once["rotate"], once["width"]) == (True, 3, 10)
    assert (twice["hFlip"], twice["rotate"], twice["width"], twice["body"]) == (False, 1, 20, "A")
    assert "rotate(270) scale(-1 1)" in svg(once)
    assert "transform" not in svg(icon_entry(data, "a"))


def test_a_sprite_is_cut_to_its_ink_and_premultiplied() -> None:
    pytest.importorskip("resvg_py")
    half = '<rect x="4" y="6" width="8" height="4" fill="#ff0000" fill-opacity="0.5"/>'
    sprite = draw(icon_entry({"icons": {"a": {"body": half}}}, "a"), 16)
    assert sprite.shape == (4, 16, 16)
    assert sprite[:, 8, 8].tolist() == [128, 0, 0, 128]
    assert (sprite[3].max(1) > 0).tolist() == [False] * 4 + [True] * 8 + [False] * 4
    with pytest.raises(ValueError, match="empty"):
        draw(icon_entry({"icons": {"a": {"body": ""}}}, "a"), 16)


def test_sprites_come_back_from_their_file_nearly_the_same(
    sprites: Sprites, tmp_path: Path
) -> None:
    save_sprites(sprites, tmp_path / "s.npz")
    again = load_sprites(tmp_path / "s.npz")
    assert again.records == sprites.records
    assert float((again.pixels.float() - sprites.pixels.float()).abs().mean()) < 5
    assert bool((again.pixels[:, :3] <= again.pixels[:, 3:]).all())
    with pytest.raises(FileNotFoundError, match="sprites"):
        load_sprites(tmp_path / "none.npz")


def test_problems_are_named(sprites: Sprites) -> None:
    twin = Sprites(sprites.pixels[:1], [sprites.records[0] | {"concept": "mosque"}])
    found = problems([Concept("church", "b", "pool")], [sprites, twin])
    assert "church has 2 drawings for the generator, not 4" in found
    assert "noto:church is drawn for church (generator), mosque (generator)" in found


def test_a_scene_shows_its_things_where_they_stand(sprites: Sprites) -> None:
    scene = Scene(
        (Thing(0, 0.25, 0.5, 0.4), Thing(1, 0.75, 0.5, 0.4, angle=30, colour="blue")),
        "green",
        (0.0, 1.0, 0.0),
    )
    assert sprites.pixels[0, 0, 16, 16] == 255
    picture = compose(sprites.pixels, [scene], 64)[0] / 2 + 0.5
    assert picture[:, 2, 2].tolist() == [0, 1, 0]
    assert picture[:, 32, 16] == pytest.approx(torch.tensor([1.0, 0.08, 0.08]), abs=0.01)
    assert int(picture[:, 32, 48].argmax()) == 2
    assert picture[:, 32, 32].tolist() == [0, 1, 0]


def test_mirror_and_place_move_a_sprite_as_they_say() -> None:
    pixels = torch.zeros(1, 4, 16, 16, dtype=torch.uint8)
    pixels[0, 0, :8, :8] = pixels[0, 3, :8, :8] = 255
    for mirror, column in ((False, 5), (True, 10)):
        picture = compose(pixels, [Scene((Thing(0, 0.5, 0.5, 1.0, mirror=mirror),))], 16)[0]
        assert picture[:, 5, column].tolist() == [1, -1, -1]
        assert picture[:, 5, 15 - column].tolist() == [1, 1, 1]
        assert picture[:, 10, column].tolist() == [1, 1, 1]


def test_recolouring_keeps_greys_and_outlines_and_reaches_every_hue(sprites: Sprites) -> None:
    sprite = sprites.pixels[:1].float() / 255
    sprite[:, :3, 16, 16], sprite[:, :3, 16, 17] = 0.0, 0.7
    for name in ("yellow", "blue", "purple"):
        wanted = torch.tensor([COLOURS[name]])
        drawn = recolour(sprite, wanted)
        assert drawn[0, :3, 10, 10] == pytest.approx(wanted[0], abs=0.1)
        assert drawn[0, :3, 16, 16].tolist() == [0, 0, 0]
        assert drawn[0, :3, 16, 17] == pytest.approx(torch.full((3,), 0.7), abs=1e-4)
        assert torch.equal(drawn[:, 3], sprite[:, 3])


def test_no_training_scene_shows_an_unseen_pair(sprites: Sprites) -> None:
    names = [c.name for c in read_concepts()]
    pairs = [tuple(Random(i).sample(names, 2)) for i in range(2000)]
    assert 0.12 < sum(is_unseen(a, b) for a, b in pairs) / 2000 < 0.18
    assert all(is_unseen(a, b) == is_unseen(b, a) for a, b in pairs)
    planner, random = Planner(sprites), Random(0)
    for _ in range(200):
        first, second = (sprites.records[i]["concept"] for i in planner.pair(random))
        assert first != second
        assert not is_unseen(first, second)


def test_aliases_and_kinds_that_mean_two_things_are_left_out() -> None:
    church = Concept("church", "building", "pool", aliases=("chapel", "plant"))
    works = Concept("factory", "building", "pool", aliases=("plant", "church", "place"))
    tree = {"building": ("building", "place"), "place": ("place",)}
    named = captions.unambiguous([church, works], tree, frozenset({"place"}))
    assert [(n.aliases, n.kinds) for n in named] == [
        (("chapel",), ("building",)),
        (("place",), ("building",)),
    ]


def test_captions_say_what_a_scene_shows() -> None:
    names = [captions.Names("church", ("chapel",), ("building",)), captions.Names("apple")]
    pair = Scene((Thing(0, 0.3, 0.5, 0.4, colour="red"), Thing(1, 0.7, 0.5, 0.4)), "blue")
    single = Scene((Thing(0, 0.3, 0.5, 0.4),), place="left")
    random = Random(0)
    texts = [captions.describe(pair, names, "noto", random) for _ in range(4000)]
    assert 0.08 < texts.count("") / 4000 < 0.12
    said = [text for text in texts if "apple" in text]
    assert len(said) > 3400
    assert all(
        text.index("church") < text.index("apple")
        for text in said
        if "church" in text and "right of" not in text
    )
    for word, least, most in (
        ("chapel", 0.12, 0.25), ("building", 0.02, 0.1), ("red", 0.75, 0.92),
        ("blue", 0.65, 0.85), ("noto", 0.2, 0.4), ("to the right of", 0.1, 0.2),
    ):  # fmt: skip
        assert least < sum(word in text for text in said) / len(said) < most, word
    placed = [captions.describe(single, names[:1], "", random) for _ in range(500)]
    assert 0.5 < sum("on the left" in text for text in placed) / 500 < 0.85
    assert any(text in captions.NEUTRAL for text in placed)
    assert captions.article("apple") == "an apple"


def test_captions_are_read_as_clips_tokenizer_reads_them(
    sprites: Sprites, tokenizer: CLIPTokenizer
) -> None:
    reader, random = Reader(tokenizer), Random(1)
    planner, names = Planner(sprites), {n.name: n for n in captions.known()}
    texts = ["", "a man's shoe on the left", *names]
    for _ in range(100):
        scene = planner(random)
        called = [names[sprites.records[t.sprite]["concept"]] for t in scene.things]
        texts.append(captions.describe(scene, called, "3d render", random))
    wanted = tokenizer(
        texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(reader(texts), wanted)
    pieces = tokenizer.tokenize("xylograph")
    assert len(pieces) > 1
    assert "".join(pieces).replace("</w>", "") == "xylograph"


def test_chunks_of_scenes_come_from_their_number_alone(
    sprites: Sprites, tokenizer: CLIPTokenizer
) -> None:
    first, later = (Planned(sprites, tokenizer, 7, start) for start in (0, 1))
    stream = iter(first)
    next(stream)
    again = later.chunk(1)
    assert all(torch.equal(a, b) for a, b in zip(next(stream), again, strict=True))
    assert not torch.equal(again[1], later.chunk(2)[1])
    scene = Scene((Thing(3, 0.5, 0.5, 0.8),))
    assert pack([scene]).sprites.tolist() == [[3, -1]]


def test_colours_and_hashes(tmp_path: Path) -> None:
    assert rgb("#ff8000") == (255, 128, 0)
    with pytest.raises(ValueError, match="rrggbb"):
        rgb("red")
    (tmp_path / "s").mkdir()
    icons, pictures = icon_set("s", "scorer"), icon_set("s", "scorer", package="@x/y")
    assert hash_of(icons, tmp_path) == ""
    (tmp_path / "s" / "icons.json").write_text("{}")
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert hash_of(icons, tmp_path) == empty
    before = hash_of(pictures, tmp_path)
    (tmp_path / "s" / "1f600.webp").write_bytes(b"picture")
    assert hash_of(pictures, tmp_path) != before
