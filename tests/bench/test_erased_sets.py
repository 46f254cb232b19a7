"""Erased sets as a user types them: one rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasekit.bench.plan import parse_erased_sets, typed_sets
from erasekit.concepts import join_concepts, normalised, plain_text, split_concepts
from erasekit.errors import ConceptError, ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("church", [["church"]]),
        ("church, bus+car", [["church"], ["bus", "car"]]),
        ("bus + car", [["bus", "car"]]),
        ("C++", [["C++"]]),
        ("C++,bus", [["C++"], ["bus"]]),
        ("C++ + bus", [["C++", "bus"]]),
        ("Google+", [["Google+"]]),
        ('"Tom & Jerry, the movie"', [["Tom & Jerry, the movie"]]),
        ('"Tom & Jerry, the movie"+bus, car', [["Tom & Jerry, the movie", "bus"], ["car"]]),
        ('"a+b"', [["a+b"]]),
        ('"say ""hi"", now"', [['say "hi", now']]),
        ('7" vinyl,bus', [['7" vinyl'], ["bus"]]),
    ],
)
def test_a_comma_separates_a_plus_joins_and_quotes_protect(text: str, expected: list) -> None:
    assert [split_concepts(own) for own in typed_sets(text)] == expected
    for names in expected:
        assert split_concepts(join_concepts(names)) == names


def test_each_of_more_is_one_erased_set() -> None:
    sets = typed_sets("bus", ["Tom & Jerry, the movie", "church+car"])
    assert [split_concepts(own) for own in sets] == [
        ["bus"],
        ["Tom & Jerry, the movie"],
        ["church", "car"],
    ]


def test_a_file_has_an_erased_set_a_line(tmp_path: Path) -> None:
    path = tmp_path / "sets.txt"
    path.write_bytes(b"\xef\xbb\xbfTom & Jerry, the movie\r\n\r\nbus+car\r\n")
    sets = typed_sets(str(path))
    assert [split_concepts(c) for c in sets] == [["Tom & Jerry, the movie"], ["bus", "car"]]
    with pytest.raises(ConfigError, match="can't be read"):
        typed_sets("nowhere.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"church', "not closed"),
        ('"church" tower', "beside a quoted name"),
        ("church,,bus", "can't be empty"),
        ("", "can't be empty"),
        ("car,Car", "stands twice"),
        ("bus+car,car + BUS", "stands twice"),
        ("caf\u00e9,cafe\u0301", "stands twice"),
        ("car,car\u200b", "stands twice"),
    ],
)
def test_what_is_no_list_of_erased_sets_is_one_sentence(world_model, text: str, words: str) -> None:
    with pytest.raises(ConceptError, match=words) as caught:
        parse_erased_sets(text, world_model)
    assert "\n" not in str(caught.value)


def test_text_is_taken_as_a_person_means_it() -> None:
    assert plain_text("a\tbus\r\n\u200b\ufeff  now\x00") == "a bus now"
    assert plain_text("cafe\u0301\u2028x") == "caf\u00e9 x"
    assert plain_text("\U0001f469\u200d\U0001f52c") == "\U0001f469\u200d\U0001f52c"
    assert normalised("CAF\u00c9") == normalised("cafe\u0301")
