"""`erasekit methods`, `suites`, `scorers` and `models`: what there is, and one of it in full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from erasekit.cli.console import plain, print_error, print_json, stdout, table
from erasekit.cli.options import JsonOption, ModelOption, chosen_model, registered, registry_of
from erasekit.plugin.descriptors import Descriptor, MethodDescriptor, ModelConcept, ModelDescriptor
from erasekit.plugin.registry import Registry


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for listing, show in ((methods, show_method), (suites, show_suite)):
        group = typer.Typer()
        group.callback(invoke_without_command=True)(listing)
        group.command("show")(show)
        app.add_typer(group, name=listing.__name__)
    app.command("scorers")(scorers)
    app.command("models")(models)


def methods(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the methods, or show one with all its hyperparameters."""
    if context.invoked_subcommand:
        return
    registry = registry_of(context)
    found = [_method(method, registry) for method in registry.methods().values()]
    if as_json:
        print_json({"methods": found})
        return
    rows = [
        (m["name"], m["summary"], m["reference"], f"{m['plugin']} {m['version']}") for m in found
    ]
    stdout().print(table("Methods", ("method", "what it does", "reference", "plugin"), rows))
    stdout().print("Every hyperparameter of one: erasekit methods show NAME", style="dim")


def suites(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the suites, or show one as it is on a model."""
    if context.invoked_subcommand:
        return
    _list(context, "suites", "what it measures", as_json)
    if not as_json:
        stdout().print("One in full: erasekit suites show NAME --model MODEL", style="dim")


def scorers(context: typer.Context, as_json: JsonOption = False) -> None:
    """List what judges images: scorers, classifiers and further measures."""
    _list(context, "scorers", "what it judges", as_json)


def show_method(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A method's name.", autocompletion=registered("methods"))
    ],
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every hyperparameter of one method: type, default, the model's own default, help."""
    from erasekit.config import describe, flatten
    from erasekit.models.names import resolve_source
    from erasekit.training.plan import resolve_settings, settings_groups

    registry, model = registry_of(context), chosen_model(model)
    method = registry.method(name)
    described, _ = resolve_source(model, registry)
    on_model = flatten(resolve_settings(method, registry, described))
    found = describe(settings_groups(method, registry))
    if as_json:
        settings = [{**asdict(one), "model_default": on_model[one.name]} for one in found]
        print_json({"method": _method(method, registry), "model": model, "settings": settings})
        return
    stdout().print(Text.assemble((plain(method.name), "bold"), f": {method.summary}"))
    if method.reference:
        stdout().print(method.reference, style="dim")
    rows = []
    for one in found:
        default, own = _shown(one.default), _shown(on_model[one.name])
        rows.append((one.name, one.type, default, own if own != default else "", one.help))
    columns = ("setting", "type", "default", f"on {model}", "meaning")
    stdout().print(table("Hyperparameters (--set NAME=VALUE, or a TOML recipe)", columns, rows))


def show_suite(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="A suite's name, or a TOML file.", autocompletion=registered("suites")),
    ],
    model: ModelOption = None,
    full: Annotated[bool, typer.Option("--full", help="Its full protocol.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Cases, prompts, seeds, judges and methods of one suite on a model."""
    from erasekit.bench.suite_file import load_suite
    from erasekit.models.names import resolve_source

    registry, model = registry_of(context), chosen_model(model)
    described, _ = resolve_source(model, registry)
    suite = load_suite(name, registry, described, full=full)
    if as_json:
        print_json({"model": model, "suite": asdict(suite)})
        return
    judged = suite.scorer or described.scorer
    rows = [
        ("version", suite.version),
        ("protocol", suite.protocol),
        *((f"case {number}", case) for number, case in enumerate(suite.cases, start=1)),
        ("prompt", suite.prompt),
        ("images per kept concept", suite.images_per_concept),
        ("images per erased concept", suite.images_per_erased),
        ("concepts", len(suite.concepts)),
        ("words of its concept space", suite.words),
        ("classes", len(suite.classes())),
        ("scorer", judged),
        ("classifier", suite.classifier or f"{judged}, zero-shot"),
        ("further measures", ", ".join(suite.measures) or "none"),
        ("further metrics", ", ".join(suite.metrics) or "none"),
        ("methods", ", ".join(suite.methods)),
        ("erasure seeds", suite.seeds),
    ]
    stdout().print(table(f"{suite.name} on {model}", ("what", "value"), rows))


def _list(context: typer.Context, kind: str, what: str, as_json: bool) -> None:
    """What is registered of one kind."""
    registry = registry_of(context)
    listed: Mapping[str, Descriptor] = getattr(registry, kind)()
    found = [_entry(descriptor, registry) for descriptor in listed.values()]
    if as_json:
        print_json({kind: found})
        return
    columns = (kind.removesuffix("s"), what, "reference", "plugin")
    stdout().print(table(kind.capitalize(), columns, [tuple(one.values()) for one in found]))


def _entry(descriptor: Descriptor, registry: Registry) -> dict[str, Any]:
    own = {name: getattr(descriptor, name) for name in ("name", "summary", "reference")}
    return {**own, "plugin": registry.owner(descriptor)}


def _method(method: MethodDescriptor, registry: Registry) -> dict[str, Any]:
    strategy = method.options.get("strategy")
    version = registry.version(method)
    return {**_entry(method, registry), "strategy": strategy, "version": version}


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


@dataclass
class ModelEntry:
    """One model in the listing.

    Attributes:
        id: what `--model` takes.
        family: the adapter, such as "sd1".
        source: "wheel" (ships with erasekit), "folder" (a plugin's own files) or "hub".
        registered: a plugin registered it; the others were found in the local cache.
        path: a local diffusers folder, or None where it is not on this disk.
        hub_id: the hub's id, or None.
        scorer, scorer_path: the scorer that suits it, or ""; the folder of its files, or None.
        concepts: what it is known to draw.
        error: why it can't be used, or None.
    """

    id: str
    family: str
    source: str
    registered: bool
    path: str | None = None
    hub_id: str | None = None
    scorer: str = ""
    scorer_path: str | None = None
    concepts: list[ModelConcept] = field(default_factory=list)
    error: str | None = None


def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the registered models, and the diffusion models in the local Hugging Face cache."""
    entries = list_models(registry_of(context))
    if as_json:
        print_json({"models": [asdict(entry) for entry in entries]})
        return
    rows = [
        (e.id, e.family, e.source, e.path or "not on this disk", len(e.concepts) or "")
        for e in entries
    ]
    columns = ("model", "family", "source", "local path", "concepts")
    stdout().print(table("Models", columns, rows, right=("concepts",)))
    for entry in entries:
        if entry.error:
            print_error(f"The model {entry.id!r} can't be used: {entry.error}")


def list_models(registry: Registry) -> list[ModelEntry]:
    """The registered models, then the unregistered ones in the local cache. Loads no weights."""
    cached = cached_models(registry)
    listed = [_registered(m, registry, cached) for m in registry.models().values()]
    known = {entry.hub_id for entry in listed}
    return listed + [entry for entry in cached.values() if entry.hub_id not in known]


def cached_models(registry: Registry) -> dict[str, ModelEntry]:
    """The diffusers pipelines in the local Hugging Face cache, by hub id."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return {}
    found = {}
    for repository in sorted(repositories, key=lambda r: r.repo_id):
        newest_first = sorted(repository.revisions, key=lambda r: -r.last_modified)
        folders = [revision.snapshot_path for revision in newest_first]
        if folder := next((f for f in folders if (f / "model_index.json").is_file()), None):
            name, family = repository.repo_id, _family(folder / "model_index.json", registry)
            found[name] = ModelEntry(name, family, "hub", False, str(folder), hub_id=name)
    return found


def _registered(
    model: ModelDescriptor, registry: Registry, cached: dict[str, ModelEntry]
) -> ModelEntry:
    entry = ModelEntry(model.name, model.family, "hub", registered=True, scorer=model.scorer)
    try:
        source = str(model.load()())
        if Path(source).is_absolute():
            package = Path(str(files("erasekit"))).resolve()
            shipped = Path(source).resolve().is_relative_to(package)
            entry.source, entry.path = "wheel" if shipped else "folder", source
        else:
            entry.hub_id = source
            entry.path = cached[source].path if source in cached else None
        scorer = registry.scorers().get(model.scorer)
        if scorer and (folder := scorer.options.get("folder")):
            entry.scorer_path = str(Descriptor("folder", "", str(folder)).load()())
        if model.concepts:
            entry.concepts = Descriptor("concepts", "", model.concepts).load()()
    except Exception as fault:  # a plugin's own code; it is listed, not raised
        entry.error = str(fault)
    return entry


def _family(index: Path, registry: Registry) -> str:
    """The families that the pipeline's class may be of; the class where there is none."""
    try:
        name: Any = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return "unknown"
    known = [f.name for f in registry.families().values() if name in f.pipelines]
    return " or ".join(known) or str(name)
