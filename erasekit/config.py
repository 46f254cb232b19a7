"""Typed hyperparameters: read from layers of keys and values, described for help. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from erasekit.errors import ConfigError


class Settings(BaseModel):
    """Base of every group of hyperparameters. Frozen; an unknown key, inf and NaN are errors.

    A field is declared with its help text and bounds:

        steps: int = Field(100, gt=0, description="outer steps")
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class FieldDescription:
    """One hyperparameter, for help and listings."""

    name: str
    type: str
    default: Any
    help: str
    group: str


def describe(groups: Sequence[type[Settings]]) -> list[FieldDescription]:
    """Every field of `groups`, in order."""
    return [
        FieldDescription(
            name,
            _type_name(info.annotation),
            info.get_default(call_default_factory=True),
            info.description or "",
            group.__name__,
        )
        for group in groups
        for name, info in group.model_fields.items()
    ]


def resolve(
    groups: Sequence[type[Settings]], layers: Iterable[Mapping[str, Any]], owner: str
) -> tuple[Settings, ...]:
    """One instance per group from `layers` of flat keys; a later layer wins.

    Args:
        layers: mappings of field name to value; strings are read as the field's type, "none" as
            None where the field may be None, and "church, castle" as a list where it is one.
        owner: what these settings belong to, for messages, such as "method 'gumbel'".

    Raises:
        ConfigError: an unknown key (names the nearest), an ill-typed or out-of-range value, or
            two groups that share a field.
    """
    known: dict[str, type[Settings]] = {}
    for group in groups:
        for name in group.model_fields:
            if name in known:
                raise ConfigError(
                    f"Setting {name!r} of {owner} is declared by both {known[name].__name__} and "
                    f"{group.__name__}; rename one."
                )
            known[name] = group
    values: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            name = key.replace("-", "_")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ConfigError(
                    f"Unknown setting {key!r} of {owner}{hint} Known: {', '.join(sorted(known))}."
                )
            values[name] = value
    return tuple(_build(group, values, owner) for group in groups)


def flatten(groups: Iterable[Settings]) -> dict[str, Any]:
    """All fields of `groups` as one JSON-ready mapping."""
    return {k: v for group in groups for k, v in group.model_dump(mode="json").items()}


def parse_assignments(items: Iterable[str], example: str = "--set steps=200") -> dict[str, str]:
    """Read "key=value" strings.

    Raises:
        ConfigError: an item without "=".
    """
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{item!r} is not key=value; write it as in {example}.")
        pairs[key.strip()] = value.strip()
    return pairs


def one_each(text: str, count: int, setting: str) -> list[str]:
    """The values in `text`, separated by commas: one for all of `count` things, or one for each.

    Raises:
        ConfigError: another number of values, or an empty one.
    """
    values = [value.strip() for value in text.split(",")]
    if len(values) not in (1, count) or not all(values):
        raise ConfigError(
            f"Setting {setting}={text!r} should be one value, or {count} separated by commas, one "
            "for each concept in the order of --concept."
        )
    return values * (count // len(values))


def _build(group: type[Settings], values: Mapping[str, Any], owner: str) -> Settings:
    own = {}
    for name, info in group.model_fields.items():
        if name in values:
            kind = info.annotation
            own[name] = _read_text(values[name], kind)
            if isinstance(own[name], bool) and bool not in (kind, *get_args(kind)):
                raise ConfigError(  # pydantic takes true for 1
                    f"Setting {name}={values[name]!r} of {owner} is not valid: it is of type "
                    f"{_type_name(kind)}."
                )
    try:
        return group(**own)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"Setting {name}={first['input']!r} of {owner} is not valid: {first['msg']}."
        ) from error


def _read_text(value: Any, annotation: Any) -> Any:
    """What text stands for in a field of this type, before pydantic reads it.

    "none" is None where `annotation` is a union with None. Commas part the items of a tuple; the
    empty text is the empty tuple, so that ", church" has the empty item and "church".
    """
    if not isinstance(value, str):
        return value
    if get_origin(annotation) is tuple:
        return [item.strip() for item in value.split(",")] if value.strip() else []
    optional = type(None) in get_args(annotation)
    return None if optional and value in ("none", "None") else value


def _type_name(annotation: Any) -> str:
    """What a user would call it: "int", "int | None", "frozen | current", "list of str"."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    return text or str(annotation).replace("typing.", "")
