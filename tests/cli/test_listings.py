"""`methods`, `plugins`, `models`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from erasekit.cli.listings import cached_models, list_models
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.registry import Registry

Run = Callable[..., Any]

CONCEPTS = [
    ModelConcept("bus", "object", "vehicles", "pool", ("coach",), ("noto",)),
    ModelConcept("car", "object", "vehicles", "held-out"),
]
BUILT_IN = ("neutral", "l2", "pgd", "gumbel", "none", "random", "nearest")


def test_every_built_in_method_is_listed(run: Run) -> None:
    listing = run("methods", "--json").json
    methods = {method["name"]: method for method in listing["methods"]}
    assert listing["schema"] == 1
    assert set(BUILT_IN) <= set(methods)
    for name in BUILT_IN:
        assert methods[name]["summary"]
        assert methods[name]["plugin"] == "erasekit:methods"
        assert methods[name]["version"] == version("erasekit")
    assert "NeurIPS 2024" in methods["gumbel"]["reference"]
    text = run("methods").out
    for name in (*BUILT_IN, version("erasekit")):
        assert name in text


def test_suites_and_what_they_are_on_a_model(run: Run, tmp_path: Path) -> None:
    listing = run("suites", "--json").json
    assert listing["schema"] == 1
    suites = {suite["name"]: suite for suite in listing["suites"]}
    assert {"icons-mini", "icons", "imagenette"} <= set(suites)
    assert suites["icons"]["plugin"] == "erasekit:suites"
    assert "imagenette" in run("suites").out
    for name in suites:
        shown = run("suites", "show", name, "--json").json["suite"]
        assert (shown["name"], bool(shown["cases"])) == (name, True)
    short = run("suites", "show", "imagenette")
    assert "short" in short.out
    assert "500" in run("suites", "show", "imagenette", "--full").out
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\nversion = "1"\ncases = [{erase = ["church"]}]')
    assert run("suites", "show", mine, "--json").json["suite"]["name"] == "mine"
    assert "did you mean 'icons'" in run("suites", "show", "icon").err


def test_scorers_are_listed(run: Run) -> None:
    listing = run("scorers", "--json").json
    scorers = {scorer["name"]: scorer for scorer in listing["scorers"]}
    assert {"icons-clip", "open_clip", "resnet50"} <= set(scorers)
    assert scorers["resnet50"]["plugin"] == "erasekit:metrics"
    assert "resnet50" in run("scorers").out


@pytest.mark.parametrize("method", BUILT_IN)
def test_every_hyperparameter_is_shown_with_type_default_and_help(run: Run, method: str) -> None:
    shown = run("methods", "show", method, "--json").json
    assert (shown["schema"], shown["model"], shown["method"]["name"]) == (1, "icons", method)
    settings = {setting["name"]: setting for setting in shown["settings"]}
    assert settings["steps"]["type"] == "int"
    for setting in settings.values():
        assert set(setting) == {"name", "type", "default", "model_default", "group", "help"}
        assert setting["help"], setting["name"]


def test_defaults_follow_the_model(run: Run, tiny_folder: Path) -> None:
    def steps(*arguments: object) -> tuple[int, int]:
        shown = run("methods", "show", "gumbel", "--json", *arguments).json
        found = next(s for s in shown["settings"] if s["name"] == "steps")
        return found["default"], found["model_default"]

    registered = Registry().model("icons").defaults["*"]["steps"]
    assert steps() == (1000, registered)
    assert steps("--model", tiny_folder) == (1000, 1000)


def test_the_hyperparameters_of_pi_are_shown(run: Run) -> None:
    text = run("methods", "show", "gumbel").out
    assert "temperature" in text
    assert "on icons" in text


def test_an_unknown_method_is_one_sentence(run: Run) -> None:
    result = run("methods", "show", "gumble")
    assert result.code == 2
    assert result.sentence.startswith("Error: Unknown method 'gumble'; did you mean 'gumbel'?")


def test_the_built_in_plugins_are_listed_and_sound(run: Run) -> None:
    listing = run("plugins", "--json").json
    own = [p for p in listing["plugins"] if p["distribution"] == "erasekit"]
    assert {p["name"] for p in own} >= {"erasekit:methods", "erasekit:metrics", "erasekit:suites"}
    assert [p["error"] for p in own] == [None] * len(own)
    assert listing["collisions"] == []
    assert "erasekit:methods" in run("plugins").out


class _Models:
    """A plugin with a local model, one on the hub, and one that is broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @hookimpl
    def erasekit_register_models(self) -> list[ModelDescriptor]:
        return [
            _Model("local", "", "", source=str(self.folder)),
            _Model("known", "", "", source="acme/known"),
            _Model("elsewhere", "", "", source="acme/elsewhere", with_concepts=True),
            _Model("broken", "", "no.such.module:folder"),
        ]


class _Model(ModelDescriptor):
    """A model whose target is given, so that it needs no module."""

    def __init__(self, *fields: str, source: str = "", with_concepts: bool = False) -> None:
        concepts = f"{__name__}:_concepts" if with_concepts else ""
        super().__init__(*fields, concepts=concepts)
        object.__setattr__(self, "source", source)

    def load(self) -> Any:
        return (lambda: self.source) if self.source else super().load()  # type: ignore[attr-defined]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache with two pipelines, a text model and a broken index."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for owner, name, index in (
        ("acme", "known", {"_class_name": "StableDiffusionPipeline"}),
        ("acme", "large", {"_class_name": "StableDiffusionXLPipeline"}),
        ("acme", "text", None),
        ("acme", "odd", "not json"),
    ):
        snapshot = tmp_path / f"models--{owner}--{name}" / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}", encoding="utf-8")
        if index is not None:
            content = index if isinstance(index, str) else json.dumps(index)
            (snapshot / "model_index.json").write_text(content, encoding="utf-8")
        refs = tmp_path / f"models--{owner}--{name}" / "refs"
        refs.mkdir()
        (refs / "main").write_text("a" * 40, encoding="utf-8")
    return tmp_path


def test_the_cache_is_read_for_pipelines_alone(hub_cache: Path) -> None:
    found = cached_models(Registry())
    assert {key: entry.family for key, entry in found.items()} == {
        "acme/known": "sd1 or sd2",
        "acme/large": "sdxl",
        "acme/odd": "unknown",
    }
    assert Path(found["acme/known"].path or "").is_relative_to(hub_cache)
    assert not found["acme/known"].registered


def test_registered_models_come_first_and_each_once(hub_cache: Path, tiny_folder: Path) -> None:
    registry = Registry()
    registry.manager.register(_Models(tiny_folder), "acme")
    entries = {entry.id: entry for entry in list_models(registry)}
    assert list(entries)[-2:] == ["acme/large", "acme/odd"]
    assert (entries["local"].source, entries["local"].path) == ("folder", str(tiny_folder))
    known = entries["known"]
    assert (known.source, known.hub_id, known.registered) == ("hub", "acme/known", True)
    assert known.path is not None
    assert entries["elsewhere"].path is None
    assert "no.such.module" in str(entries["broken"].error)


def test_no_cache_is_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    assert cached_models(Registry()) == {}


@pytest.mark.icons
def test_icons_is_listed_with_its_concepts_and_scorer(run: Run) -> None:
    listing = run("models", "--json").json
    icons = next(model for model in listing["models"] if model["id"] == "icons")
    assert (listing["schema"], icons["family"], icons["source"]) == (1, "sd1", "wheel")
    assert icons["error"] is None
    assert (Path(icons["path"]) / "model_index.json").is_file()
    assert (Path(icons["scorer_path"]) / "open_clip_config.json").is_file()
    concepts = {concept["name"]: concept for concept in icons["concepts"]}
    assert len(concepts) >= 200
    assert set(concepts["church"]) == {"name", "kind", "family", "split", "aliases", "styles"}
    assert {concept["split"] for concept in concepts.values()} == {"pool", "held-out"}
    assert "icons" in run("models").out
