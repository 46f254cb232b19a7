"""A suite of the user's, read from TOML."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from erasekit.bench.suite import MOST_IMAGES, MOST_SEEDS, Suite, at_scale, build_suite, world_of
from erasekit.concepts import Concept, Erasure, Kind, join_concepts, normalised
from erasekit.errors import ConceptError, ConfigError, UnknownNameError, nearest_name
from erasekit.metrics.judges import find_judge
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor
from erasekit.plugin.registry import Registry

SUFFIX = ".toml"


def _holds_a_name(template: str) -> str:
    if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
        raise ValueError("write it with one {} for the concept's name, as in 'a photo of {}'")
    return template


Name = Annotated[str, Field(min_length=1)]
Template = Annotated[str, AfterValidator(_holds_a_name)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ConceptTable(_Table):
    """One `[[concepts]]` of a suite file; see `ModelConcept`."""

    name: Name
    kind: Kind = "object"
    family: str = ""
    split: Literal["held-out", "pool"] = "held-out"
    aliases: list[Name] = []


class CaseTable(_Table):
    """One `[[cases]]` of a suite file: what is erased together, and what it is evaluated on."""

    erase: list[Name] = Field(min_length=1)
    keep: list[Name] = []


class FullTable(_Table):
    """`[full]` of a suite file: what the full protocol has else than the file; see `Suite`."""

    spread: list[Name] = []
    near: int = Field(0, ge=0)
    images_per_concept: int = Field(4, ge=1, le=MOST_IMAGES)
    images_per_erased: int = Field(8, ge=1, le=MOST_IMAGES)
    num_inference_steps: int | None = Field(None, ge=1, le=1_000)
    methods: list[Name] = Field([], min_length=1)
    seeds: int = Field(2, ge=1, le=MOST_SEEDS)
    along: list[Fraction] = []


class SuiteTable(FullTable):
    """A suite file; see `Suite` for what the fields mean, and for what they are where unset."""

    name: Name
    version: Name
    summary: str = ""
    cases: list[CaseTable] = Field(min_length=1)
    concepts: list[ConceptTable] = []
    prompt: Template = "{}"
    label: Template = "{}"
    guidance_scale: float | None = Field(None, ge=0)
    scorer: str = ""
    classifier: str = ""
    measures: list[Name] = []
    optional_measures: list[Name] = []
    metrics: list[Name] = []
    attacks: list[Name] = []
    long_prompts: Literal["cut", "skip"] = "cut"
    full: FullTable = FullTable()


def load_suite(
    name: str, registry: Registry, model: ModelDescriptor, *, full: bool = False
) -> Suite:
    """A registered suite by its name, or one of the user's by its file, "PATH.toml".

    Args:
        full: the full protocol, whatever the scale for the model.

    Raises:
        UnknownNameError: no registered suite, and no file.
        ConfigError: a file that is no suite.
        PluginError: a registered suite that breaks the rules.
    """
    if not name.endswith(SUFFIX):
        return build_suite(registry.suite(name), model, full)
    suite = read_suite(Path(name), model, registry)
    if suite.name in registry.suites():
        raise ConfigError(
            f"The suite file {name!r} calls itself {suite.name!r}, as a registered suite is "
            "called; give it another name."
        )
    return at_scale(suite, full=full)


def read_suite(path: Path, model: ModelDescriptor, registry: Registry) -> Suite:
    """The suite in a TOML file; without `[[concepts]]` its world is the model's list.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, an ill-typed value, an erased set or a
            method twice, a concept named that is not in its world, no world at all, or a method,
            judge or metric that is not registered.
    """
    file = f"The suite {str(path)!r}"
    try:
        data = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file} can't be read: {error.strerror}; name another file, or a suite of "
            "`erasekit suites`."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}.") from error
    try:
        table = SuiteTable(**data)
    except ValidationError as error:
        raise ConfigError(f"{file} {_invalid(error, data)}") from error
    world = tuple(
        ModelConcept(c.name, c.kind, c.family, c.split, tuple(c.aliases)) for c in table.concepts
    ) or world_of(model)
    for fault in (
        *_world_faults(table, world, model),
        *_case_faults(table),
        *_unregistered(table, registry),
    ):
        raise ConfigError(f"{file} {fault}")
    return Suite(
        **{"summary": "", **_fields(table, {"cases", "concepts", "full"})},
        full=_fields(table.full),
        concepts=world,
        cases=tuple(join_concepts(case.erase) for case in table.cases),
        kept={join_concepts(case.erase): tuple(case.keep) for case in table.cases if case.keep},
    )


def _fields(table: _Table, other: Collection[str] = ()) -> dict[str, Any]:
    plain = table.model_dump(exclude=set(other), exclude_unset=True)
    return {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}


def _world_faults(
    table: SuiteTable, world: Sequence[ModelConcept], model: ModelDescriptor
) -> Iterator[str]:
    """No world, concepts twice, and names that are not in the world."""
    if not world:
        yield (
            f"has no [[concepts]], and the model {model.name!r} has no list of its own; add what "
            "is to be kept as [[concepts]]."
        )
    names = [concept.name for concept in world]
    same = Counter(map(normalised, names))
    yield from (
        f"has the concept {name!r} twice; leave one out."
        for name in names
        if same[normalised(name)] > 1
    )
    listed = [("spread", table.spread), ("full.spread", table.full.spread)]
    for key, chosen in listed + [("keep", case.keep) for case in table.cases]:
        for name in chosen:
            if name not in names:
                near = nearest_name(name, names)
                hint = f"; did you mean {near!r}?" if near else "; add it to [[concepts]]."
                yield f"names {name!r} under {key!r}, which is none of its concepts{hint}"


def _case_faults(table: SuiteTable) -> Iterator[str]:
    """Erased sets that keep what they erase, and sets twice."""
    found: dict[frozenset[str], int] = {}
    for place, case in enumerate(table.cases):
        try:
            Erasure(tuple(Concept(name) for name in case.erase), keep=tuple(case.keep))
        except ConceptError as error:
            yield f"can't be used: {error}"
        first = found.setdefault(frozenset(map(normalised, case.erase)), place)
        if first != place:
            yield (
                f"has erase={case.erase!r} in cases[{place}], which cases[{first}] erases already; "
                "leave one of the two out."
            )


def _unregistered(table: SuiteTable, registry: Registry) -> Iterator[str]:
    """Methods, judges and metrics that nobody registered, and methods twice."""
    for key, names in (("methods", table.methods), ("full.methods", table.full.methods)):
        for name in names:
            if names.count(name) > 1:
                yield f"names {name!r} twice under {key!r}; name it once."
    for key, names, find in (
        ("methods", table.methods, registry.method),
        ("full.methods", table.full.methods, registry.method),
        ("scorer", [table.scorer], lambda name: name and find_judge(name, registry)),
        ("classifier", [table.classifier], lambda name: name and find_judge(name, registry)),
        ("measures", table.measures, registry.scorer),
        ("optional_measures", table.optional_measures, registry.scorer),
        ("metrics", table.metrics, registry.metric),
    ):
        for name in names:
            try:
                find(name)
            except UnknownNameError as error:
                near = nearest_name(name, error.known)
                hint = f"did you mean {near!r}?" if near else f"known: {', '.join(error.known)}."
                yield f"names {name!r} under {key!r}, which is no registered {error.kind}; {hint}"


def _invalid(error: ValidationError, data: Mapping[str, Any]) -> str:
    """What is ill-typed first, as the rest of a sentence."""
    first = error.errors()[0]
    *parents, last = first["loc"]
    if isinstance(last, int) and parents:
        last = f"{parents.pop()}[{last}]"
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parents).lstrip(".")
    inside = f" in {place}" if place else ""
    if first["type"] == "missing":
        return f"has no {last!r}{inside}; add it."
    if first["type"] == "extra_forbidden":
        tables: dict[str, type[_Table]] = {
            "concepts": ConceptTable,
            "cases": CaseTable,
            "full": FullTable,
        }
        table = tables.get(str(parents[0]) if parents else "", SuiteTable)
        near = nearest_name(str(last), table.model_fields)
        hint = f"; did you mean {near!r}?" if near else "."
        known = ", ".join(sorted(table.model_fields))
        return f"has an unknown key {str(last)!r}{inside}{hint} Known: {known}."
    reason = first["msg"].removeprefix("Value error, ")
    return f"has {last}={first['input']!r}{inside}, which is not valid: {reason}."
