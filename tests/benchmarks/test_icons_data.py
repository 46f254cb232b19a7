"""The data of the shipped model: the catalogue, its manifest, and how an icon becomes pixels."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.icons.catalog import (
    HERE,
    Concept,
    IconSet,
    SetData,
    matches,
    read_colours,
    read_concepts,
    read_sets,
    resolve,
    rgb,
)
from benchmarks.icons.fetch import is_fetched
from benchmarks.icons.render import icon_entry, ink_box, manifest_text, svg
from erasekit.bench.suites.paper import IMAGENETTE, SIDE_EFFECTS

UNDESIRABLE = {"pistol", "knife", "bomb", "cigarette", "beer", "nudity"}
FREE = {"Apache-2.0", "MIT", "ISC", "CC-BY-3.0", "CC-BY-4.0"}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((HERE / "manifest.json").read_text())


def icon_set(name: str, role: str, **rest: Any) -> IconSet:
    return IconSet(name, "1", "", "MIT", "author", "url", name, role, **rest)


def set_data(*names: str, aliases: dict[str, Any] | None = None) -> SetData:
    icons = {name: {"body": f"<path d='{name}'/>"} for name in names}
    return SetData({"icons": icons, "aliases": aliases or {}})


def test_the_concepts_that_must_exist_do() -> None:
    names = [concept.name for concept in read_concepts()]
    assert len(names) == len(set(names)) >= 200
    assert set(names) >= {*IMAGENETTE, *sum(SIDE_EFFECTS.values(), ())} | UNDESIRABLE | {"castle"}


def test_no_name_or_alias_means_two_concepts() -> None:
    words = Counter(word for c in read_concepts() for word in (c.name, *c.aliases))
    assert [word for word, count in words.items() if count > 1] == []
    assert all(word == word.lower().strip() for word in words)


def test_each_family_is_split_about_in_half() -> None:
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for concept in read_concepts():
        splits[concept.family][concept.split] += 1
    for family, split in splits.items():
        assert 0 <= split["pool"] - split["held-out"] <= 1, family


def test_every_licence_allows_what_we_do() -> None:
    sets = read_sets()
    assert {s.licence for s in sets.values()} <= FREE
    assert sum(s.role == "generator" and s.style != "" for s in sets.values()) >= 6


def test_the_manifest_is_of_this_catalogue(manifest: dict[str, Any]) -> None:
    concepts = {c.name: c for c in read_concepts()}
    assert [c["name"] for c in manifest["concepts"]] == list(concepts)
    for entry in manifest["concepts"]:
        concept = concepts[entry["name"]]
        assert (entry["family"], entry["split"]) == (concept.family, concept.split)
        assert tuple(entry["aliases"]) == concept.aliases
    sets = read_sets()
    for name, entry in manifest["sets"].items():
        assert (entry["version"], entry["sha256"]) == (sets[name].version, sets[name].sha256)


def test_every_concept_has_drawings_enough(manifest: dict[str, Any]) -> None:
    count = Counter((concept, role) for concept, _, _, role, _ in manifest["drawings"])
    for concept in read_concepts():
        assert count[concept.name, "generator"] >= 4, concept.name
        assert count[concept.name, "scorer"] >= 3, concept.name


def test_no_picture_has_two_names_or_two_readers(manifest: dict[str, Any]) -> None:
    uses: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for concept, _, _, role, sha256 in manifest["drawings"]:
        uses[sha256].add((concept, role))
    assert [use for use in uses.values() if len(use) > 1] == []


def test_no_set_is_drawn_from_by_generator_and_scorer(manifest: dict[str, Any]) -> None:
    """But for the few single drawings that the catalogue lends out by name."""
    lent = {tuple(entry.rsplit(":", 1)) for c in read_concepts() for entry in c.shared}
    sets = manifest["sets"]
    for concept, name, icon, role, _ in manifest["drawings"]:
        if (f"{name}:{icon}", role) not in lent:
            assert sets[name]["role"].removesuffix("-mono") == role, (concept, name, icon)


def test_every_set_is_credited(manifest: dict[str, Any]) -> None:
    notice = (HERE.parents[1] / "NOTICE").read_text()
    for name, entry in manifest["sets"].items():
        if not name.startswith("erasekit"):
            assert f"@iconify-json/{name} {entry['version']}), by {entry['author']}" in notice


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
    other = icon_set("t", "scorer")
    assert matches(concept, other, data) == ["water-pistol", "gun"]


def test_one_drawing_a_style_and_single_colours_only_where_they_are_needed() -> None:
    names = [f"style{n}" for n in range(4)]
    sets = {name: icon_set(name, "generator", style=name) for name in names}
    sets["ink"] = icon_set("ink", "generator-mono", mono=True, suffixes=("", "-line"))
    sets["other"] = icon_set("other", "scorer", suffixes=("", "-line"))
    data = {name: set_data("cat", "cat-line", "dog") for name in sets}
    data["style3"] = set_data("dog")
    cat, dog = (Concept(name, "animals", "pool", icons=(name,)) for name in ("cat", "dog"))
    found = Counter((d.concept, d.role, d.mono) for d in resolve([cat, dog], sets, data))
    assert found == {
        ("cat", "generator", False): 3,
        ("cat", "generator", True): 2,
        ("cat", "scorer", False): 2,
        ("dog", "generator", False): 4,
        ("dog", "scorer", False): 1,
    }


def test_a_shared_drawing_gets_the_role_it_is_lent_for() -> None:
    concept = Concept("horn", "music", "pool", shared=("ink:horn:scorer",))
    sets = {"ink": icon_set("ink", "generator-mono", mono=True)}
    (drawing,) = resolve([concept], sets, {"ink": set_data("horn")})
    assert (drawing.icon, drawing.role, drawing.mono) == ("horn", "scorer", True)


def test_an_icon_has_its_own_box_or_its_sets() -> None:
    data = {
        "icons": {"a": {"body": "A"}, "b": {"body": "B", "left": -2, "width": 30}},
        "height": 24,
    }
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


def test_the_ink_box_is_what_is_not_white() -> None:
    pixels = np.full((8, 8, 3), 255, np.uint8)
    pixels[2:4, 1:7, 0] = 10
    assert ink_box(pixels) == (1, 2, 7, 4)
    with pytest.raises(ValueError, match="empty"):
        ink_box(np.full((8, 8, 3), 255, np.uint8))


def test_colours() -> None:
    assert rgb("#ff8000") == (255, 128, 0)
    with pytest.raises(ValueError, match="rrggbb"):
        rgb("red")
    assert {"red", "pink", "purple"} <= set(read_colours())


def test_the_manifest_reads_back_and_keeps_a_line_for_each_entry() -> None:
    content = {"version": 1, "sets": {"a": {"x": 1}}, "drawings": [["é", 1], ["b", 2]]}
    text = manifest_text(content)
    assert json.loads(text) == content
    assert '  ["é", 1],\n' in text


def test_a_set_with_another_hash_counts_as_missing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    wanted = IconSet("s", "1", "0" * 64, "MIT", "a", "u", "s", "scorer")
    assert not is_fetched(wanted, tmp_path)
    (folder / "icons.json").write_text("{}")
    assert not is_fetched(wanted, tmp_path)
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert is_fetched(IconSet("s", "1", empty, "MIT", "a", "u", "s", "scorer"), tmp_path)
