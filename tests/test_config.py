"""Typed hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from erasekit.config import Settings, describe, flatten, one_each, parse_assignments, resolve
from erasekit.errors import ConfigError
from erasekit.recipes import read_recipe, shipped_recipe, shipped_recipes


class Common(Settings):
    steps: int = Field(100, gt=0, description="outer steps")
    lr: float = Field(1e-5, gt=0, description="learning rate")


class Search(Settings):
    temperature: float = Field(2.0, gt=0, description="T")
    hard: bool = Field(True, description="one-hot by straight-through")
    space: Literal["model", "english"] = Field("model", description="where words come from")
    cap: int | None = Field(None, description="at most so many words")


class Clash(Settings):
    steps: int = 3


GROUPS = (Common, Search)
OWNER = "method 'gumbel'"


def test_defaults_need_no_layers() -> None:
    common, search = resolve(GROUPS, [], OWNER)
    assert (common, search) == (Common(), Search())


def test_a_later_layer_wins() -> None:
    layers = [{"steps": 10, "lr": 0.1}, {"steps": 20}, {}]
    assert resolve(GROUPS, layers, OWNER)[0] == Common(steps=20, lr=0.1)


def test_strings_are_read_as_the_field_says() -> None:
    layer = {"steps": "7", "lr": "3e-4", "hard": "false", "space": "english", "cap": "5"}
    common, search = resolve(GROUPS, [layer], OWNER)
    assert (common, search) == (
        Common(steps=7, lr=3e-4),
        Search(hard=False, space="english", cap=5),
    )


def test_an_optional_setting_can_be_put_back_to_none() -> None:
    layers = [{"cap": 5}, {"cap": "none"}]
    assert resolve(GROUPS, layers, OWNER)[1] == Search(cap=None)


class Lists(Settings):
    keep: tuple[str, ...] = Field((), description="words")
    sizes: tuple[int, ...] = Field((1,), description="numbers")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("church, garbage truck", ("church", "garbage truck")),
        ("church", ("church",)),
        ("", ()),
        (" ", ()),
        (",church", ("", "church")),
        (["church", "a, b"], ("church", "a, b")),
    ],
)
def test_commas_part_the_items_of_a_list(text: object, words: tuple[str, ...]) -> None:
    (lists,) = resolve((Lists,), [{"keep": text}], OWNER)
    assert lists == Lists(keep=words)
    assert resolve((Lists,), [flatten([lists])], OWNER) == (lists,)


def test_items_of_a_list_have_its_type() -> None:
    assert resolve((Lists,), [{"sizes": "1, 20"}], OWNER) == (Lists(sizes=(1, 20)),)
    with pytest.raises(ConfigError, match=r"sizes\.1='few' of method 'gumbel' is not valid"):
        resolve((Lists,), [{"sizes": "1, few"}], OWNER)
    assert [field.type for field in describe((Lists,))] == ["list of str", "list of int"]


def test_dashes_are_read_as_underscores() -> None:
    class Dashed(Settings):
        pi_lr: float = 0.01

    assert resolve((Dashed,), [{"pi-lr": "1"}], OWNER) == (Dashed(pi_lr=1.0),)


def test_an_unknown_key_names_the_nearest_and_the_known() -> None:
    with pytest.raises(ConfigError, match="'temperatur' of method 'gumbel'; did you mean 'temp"):
        resolve(GROUPS, [{"temperatur": 1}], OWNER)
    with pytest.raises(ConfigError, match=r"Known: cap, hard, lr, space, steps, temperature\."):
        resolve(GROUPS, [{"qqq": 1}], OWNER)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("steps", -3),
        ("steps", "many"),
        ("steps", "1.5"),
        ("lr", "nan"),
        ("hard", "perhaps"),
        ("space", "french"),
        ("cap", "few"),
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence_with_key_and_value(
    key: str, value: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(GROUPS, [{key: value}], OWNER)
    message = str(caught.value)
    assert f"{key}={value!r}" in message
    assert OWNER in message
    assert "\n" not in message


def test_two_groups_may_not_share_a_field() -> None:
    with pytest.raises(ConfigError, match="declared by both Common and Clash"):
        resolve((Common, Clash), [], OWNER)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Common().steps = 4  # type: ignore[misc]


def test_every_field_is_described() -> None:
    fields = {field.name: field for field in describe(GROUPS)}
    assert list(fields) == ["steps", "lr", "temperature", "hard", "space", "cap"]
    steps = fields["steps"]
    assert (steps.type, steps.default, steps.help, steps.group) == (
        "int",
        100,
        "outer steps",
        "Common",
    )
    assert fields["cap"].type == "int | None"
    assert fields["space"].type == "model | english"


def test_flatten_is_one_mapping_of_all_groups() -> None:
    flat = flatten([Common(), Search()])
    assert flat == {
        "steps": 100,
        "lr": 1e-5,
        "temperature": 2.0,
        "hard": True,
        "space": "model",
        "cap": None,
    }
    assert resolve(GROUPS, [flat], OWNER) == (Common(), Search())


def test_assignments() -> None:
    assert parse_assignments(["steps=3", " lr = 1e-4 ", "note=a=b"]) == {
        "steps": "3",
        "lr": "1e-4",
        "note": "a=b",
    }


@pytest.mark.parametrize("item", ["steps", "=3", " =3", ""])
def test_what_is_not_an_assignment_is_named(item: str) -> None:
    with pytest.raises(ConfigError, match="is not key=value"):
        parse_assignments([item])


def test_a_recipe_is_flat_toml(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('steps = 5\nspace = "english"\n', encoding="utf-8")
    assert resolve(GROUPS, [read_recipe(recipe)], OWNER)[0] == Common(steps=5)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe", b"steps 5"])
def test_a_recipe_that_is_not_toml_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml' is not valid TOML") as caught:
        read_recipe(recipe)
    assert "\n" not in str(caught.value)


def test_shipped_recipes_go_by_name_and_by_model() -> None:
    assert shipped_recipes() == ("fast", "published")
    published = shipped_recipe("published")
    assert (published["steps"], published["learning_rate"]) == (1000, 1e-5)
    assert not [key for key, value in published.items() if isinstance(value, dict)]
    assert shipped_recipe("published", "sd1") == published
    icons = shipped_recipe("published", "icons")
    assert (icons["steps"], icons["learning_rate"]) == (65, 3e-4)
    assert icons["loss_space"] == published["loss_space"] == "z0"
    with pytest.raises(ConfigError, match="Unknown recipe 'slow'; shipped are fast, published"):
        shipped_recipe("slow")


def test_a_missing_recipe_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        read_recipe(tmp_path)


def test_a_table_in_a_recipe_is_an_unknown_setting() -> None:
    with pytest.raises(ConfigError, match="Unknown setting 'gumbel'"):
        resolve(GROUPS, [{"gumbel": {"steps": 3}}], OWNER)


def test_one_value_is_for_all_and_several_are_one_for_each() -> None:
    assert one_each("road", 3, "anchor") == ["road"] * 3
    assert one_each("road, red car", 2, "anchor") == ["road", "red car"]
    assert one_each("road", 1, "anchor") == ["road"]


@pytest.mark.parametrize(("text", "count"), [("a,b", 3), ("a,b", 1), ("", 1), ("a,", 2)])
def test_another_number_of_values_is_one_sentence(text: str, count: int) -> None:
    with pytest.raises(ConfigError, match="separated by commas") as caught:
        one_each(text, count, "anchor")
    assert f"anchor={text!r}" in str(caught.value)
    assert str(count) in str(caught.value)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("key", ["steps", "lr", "space", "cap"])
def test_true_is_no_number(key: str, value: bool) -> None:
    with pytest.raises(ConfigError, match=f"Setting {key}={value}"):
        resolve(GROUPS, [{key: value}], OWNER)
    assert resolve(GROUPS, [{"hard": value}], OWNER)[1] == Search(hard=value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a = " + b"[" * 50_000, "nested too deep"),
        (b".".join([b"a"] * 50_000) + b" = 1", "nested too deep"),
        (b".".join([b'"a b"'] * 50_000) + b" = 1", "nested too deep"),
        (b"[" + b" . ".join([b"a"] * 50_000) + b"]", "nested too deep"),
        (b"a = " + b"9" * 5_000, "not valid TOML"),
        (b"a = '\xff'", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
    ],
)
def test_a_recipe_that_can_t_be_read_is_one_sentence(
    tmp_path: Path, text: bytes, says: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=says):
        read_recipe(path)


def test_a_recipe_of_nobody_s_home_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="nobody-here"):
        read_recipe(Path("~nobody-here/recipe.toml"))


def test_a_recipe_may_have_dots_in_its_values(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'words = "{". ".join(["church"] * 5)}"\nscope = "re:a.b.c"\n')
    assert read_recipe(path)["scope"] == "re:a.b.c"
