"""A suite of the user's, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from erasekit.bench.suite import Suite, build_suite, world_of
from erasekit.concepts import Concept, Erasure, Kind, normalised
from erasekit.errors import ConceptError, ConfigError, nearest_name
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor
from erasekit.plugin.registry import Registry

SUFFIX = ".toml"


def _holds_a_name(template: str) -> str:
    if template.count("{}") != 1 or template.replace("{}", "").count("{"):
        raise ValueError("write it with one {} for the concept's name, as in 'a photo of {}'")
    return template


Name = Annotated[str, Field(min_length=1)]
Template = Annotated[str, AfterValidator(_holds_a_name)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ConceptTable(_Table):
    """One `[[concepts]]` of a suite file; see `ModelConcept`."""

    name: Name
    kind: Kind = "object"
    family: str = ""
    split: Literal["held-out", "pool"] = "held-out"
    aliases: list[Name] = Field(default_factory=list)


class CaseTable(_Table):
    """One `[[cases]]` of a suite file: what is erased together, and what it is evaluated on."""

    erase: list[Name] = Field(min_length=1)
    keep: list[Name] = Field(default_factory=list)


class SuiteTable(_Table):
    """A suite file; see `Suite` for what the fields mean."""

    name: Name
    version: Name
    summary: str = ""
    cases: list[CaseTable] = Field(min_length=1)
    concepts: list[ConceptTable] = Field(default_factory=list)
    spread: list[Name] = Field(default_factory=list)
    near: int = Field(0, ge=0)
    prompt: Template = "{}"
    label: Template = "{}"
    images_per_concept: int = Field(4, ge=1)
    images_per_erased: int = Field(8, ge=1)
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0)
    scorer: str = ""
    classifier: str = ""
    measures: list[Name] = Field(default_factory=list)
    methods: list[Name] = Field(default=["none", "neutral", "l2", "pgd", "random", "gumbel"])
    seeds: int = Field(2, ge=1)


def load_suite(
    name: str, registry: Registry, model: ModelDescriptor, *, full: bool = False
) -> Suite:
    """A registered suite by its name, or one of the user's by its file, "PATH.toml".

    Args:
        name: what the user typed.
        registry: where suites are registered.
        model: the model it is to run on.
        full: the full protocol, whatever the scale for the model.

    Raises:
        UnknownNameError: no registered suite, and no file.
        ConfigError: a file that is no suite.
        PluginError: a registered suite that breaks the rules.
    """
    if not name.endswith(SUFFIX):
        return build_suite(registry.suite(name), model, full)
    suite = read_suite(Path(name), model)
    if suite.name in registry.suites():
        raise ConfigError(
            f"The suite file {name!r} calls itself {suite.name!r}, as a registered suite is "
            "called; give it another name."
        )
    return suite


def read_suite(path: Path, model: ModelDescriptor) -> Suite:
    """The suite in a TOML file; without `[[concepts]]` its world is the model's list.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, an ill-typed value, a concept named
            that is not in its world, or no world at all.
    """
    try:
        data = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The suite {str(path)!r} can't be read: {error.strerror}; name another file, or a "
            "suite of `erasekit suites`."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The suite {str(path)!r} is not valid TOML: {error}.") from error
    try:
        table = SuiteTable(**data)
    except ValidationError as error:
        raise ConfigError(f"The suite {str(path)!r} {_fault(error, data)}") from error
    world = tuple(
        ModelConcept(c.name, c.kind, c.family, c.split, tuple(c.aliases)) for c in table.concepts
    ) or world_of(model)
    if not world:
        raise ConfigError(
            f"The suite {str(path)!r} has no [[concepts]], and the model {model.name!r} has no "
            "list of its own; add what is to be kept as [[concepts]]."
        )
    _check_names(path, table, world)
    plain = table.model_dump(exclude={"cases", "concepts"})
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return Suite(
        **fields,
        concepts=world,
        cases=tuple("+".join(case.erase) for case in table.cases),
        kept={"+".join(case.erase): tuple(case.keep) for case in table.cases if case.keep},
    )


def _check_names(path: Path, table: SuiteTable, world: tuple[ModelConcept, ...]) -> None:
    """Names twice, names that are not in the world, and cases that keep what they erase."""
    names = [concept.name for concept in world]
    for name in names:
        if [normalised(other) for other in names].count(normalised(name)) > 1:
            raise ConfigError(f"The suite {str(path)!r} has the concept {name!r} twice.")
    listed = [("spread", table.spread)] + [("keep", case.keep) for case in table.cases]
    for key, chosen in listed:
        for name in chosen:
            if name not in names:
                near = nearest_name(name, names)
                hint = f"; did you mean {near!r}?" if near else "; add it to [[concepts]]."
                raise ConfigError(
                    f"The suite {str(path)!r} names {name!r} under {key!r}, which is none of its "
                    f"concepts{hint}"
                )
    for case in table.cases:
        for name in case.erase:
            if set(name) & set("+,"):
                raise ConfigError(
                    f"The suite {str(path)!r} erases {name!r}; a concept's name has no plus or "
                    "comma, and what is erased together stands in a list."
                )
        try:
            Erasure(tuple(Concept(name) for name in case.erase), keep=tuple(case.keep))
        except ConceptError as error:
            raise ConfigError(f"The suite {str(path)!r} can't be used: {error}") from error


def _fault(error: ValidationError, data: Mapping[str, Any]) -> str:
    """What is wrong first, as the rest of a sentence."""
    first = error.errors()[0]
    *parents, last = first["loc"]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parents).lstrip(".")
    inside = f" in {place}" if place else ""
    if first["type"] == "missing":
        return f"has no {last!r}{inside}; add it."
    if first["type"] == "extra_forbidden":
        tables: dict[str, type[_Table]] = {"concepts": ConceptTable, "cases": CaseTable}
        known = tables.get(str(parents[0]) if parents else "", SuiteTable).model_fields
        near = nearest_name(str(last), known)
        hint = f"; did you mean {near!r}?" if near else "."
        return f"has an unknown key {str(last)!r}{inside}{hint} Known: {', '.join(known)}."
    return f"has {last}={first['input']!r}{inside}, which is not valid: {first['msg']}."
