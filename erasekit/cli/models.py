"""`erasekit models`: what is registered, and what is in the local cache."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from erasekit.cli.console import print_error, print_json, stdout, table
from erasekit.cli.options import JsonOption, registry_of
from erasekit.plugin.descriptors import Descriptor, ModelConcept, ModelDescriptor
from erasekit.plugin.registry import Registry


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
        scorer: name of the scorer that suits it, or "".
        scorer_path: folder of that scorer's files, or None.
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


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("models")(models)


def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the registered models, and the diffusion models in the local Hugging Face cache."""
    entries = list_models(registry_of(context))
    if as_json:
        print_json({"models": [dataclasses.asdict(entry) for entry in entries]})
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
    registered = [_registered(m, registry, cached) for m in registry.models().values()]
    known = {entry.hub_id for entry in registered}
    return registered + [entry for entry in cached.values() if entry.hub_id not in known]


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
        for revision in sorted(repository.revisions, key=lambda r: -r.last_modified):
            index = revision.snapshot_path / "model_index.json"
            if index.is_file():
                found[repository.repo_id] = ModelEntry(
                    id=repository.repo_id,
                    family=_family(index, registry),
                    source="hub",
                    registered=False,
                    path=str(revision.snapshot_path),
                    hub_id=repository.repo_id,
                )
                break
    return found


def _registered(
    model: ModelDescriptor, registry: Registry, cached: dict[str, ModelEntry]
) -> ModelEntry:
    entry = ModelEntry(model.name, model.family, "hub", registered=True, scorer=model.scorer)
    try:
        source = str(model.load()())
        if Path(source).is_absolute():
            entry.source, entry.path = _folder_source(source), source
        else:
            entry.hub_id = source
            entry.path = cached[source].path if source in cached else None
        entry.scorer_path = _scorer_path(model.scorer, registry)
        if model.concepts:
            entry.concepts = Descriptor("concepts", "", model.concepts).load()()
    except Exception as fault:  # a plugin's own code; it is listed, not raised
        entry.error = str(fault)
    return entry


def _folder_source(folder: str) -> str:
    shipped = Path(folder).resolve().is_relative_to(Path(str(files("erasekit"))).resolve())
    return "wheel" if shipped else "folder"


def _scorer_path(name: str, registry: Registry) -> str | None:
    """Folder of a scorer's files: its registration names a function that tells it."""
    scorer = registry.scorers().get(name)
    target = scorer.options.get("folder") if scorer else None
    return str(Descriptor("folder", "", str(target)).load()()) if target else None


def _family(index: Path, registry: Registry) -> str:
    """The families that the pipeline's class may be of; the class where there is none."""
    try:
        name: Any = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return "unknown"
    known = [f.name for f in registry.families().values() if name in f.pipelines]
    return " or ".join(known) or str(name)
