"""The whole way on every family, from a folder and from one file, by the command line alone."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from erasekit.cli.app import main
from erasekit.edits import load_edit
from tests.exports.conftest import GUIDANCE, PROMPT, STEPS, read_elsewhere
from tests.tiny import build_folder, write_single_file
from tests.tiny_clip import tiny_scorer_folder

__all__ = ["tiny_scorer_folder"]

pytestmark = pytest.mark.slow

CASES = [(family, source) for family in ("sd1", "sd2", "sdxl") for source in ("folder", "file")]
SET = ("--set", "steps=3", "--set", "trajectory_steps=2", "--set", "trajectories=1")
DRAW = ("--steps", STEPS, "--guidance", GUIDANCE)
FORMS = {
    "diffusers": ("--to", "diffusers"),
    "single-file": ("--to", "single-file"),
    "lora": ("--to", "lora", "--energy", 1, "--images", 0),
    "kohya": ("--to", "lora", "--layout", "kohya", "--energy", 1, "--images", 0),
    "delta": ("--to", "delta"),
}
EXACT = ("diffusers", "single-file", "delta")


@dataclass(frozen=True)
class Worked:
    """What the commands said and drew on one model.

    Attributes:
        erased, bench: their JSON.
        exports: JSON of `export`, by form.
        before, after: 8-bit images of seeds 0 and 1, float [2, H, W, 3].
        folder: the family's diffusers folder, for readers that need a configuration.
    """

    family: str
    erased: dict[str, Any]
    bench: dict[str, Any]
    exports: dict[str, dict[str, Any]]
    before: np.ndarray
    after: np.ndarray
    folder: Path


def command(*arguments: object) -> dict[str, Any]:
    """The JSON that a command prints, which must end well."""
    said, out = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as caught,
    ):
        main([*map(str, arguments), "--json"])
    assert not caught.value.code, said.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def images(result: dict[str, Any]) -> np.ndarray:
    """What `generate` has drawn."""
    return np.stack([np.asarray(Image.open(i["path"]), dtype=float) for i in result["images"]])


@pytest.fixture(scope="module")
def work(
    tiny_scorer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Worked]:
    """All commands on the model of a family from a source; run once."""

    @cache
    def folder(family: str) -> Path:
        return build_folder(tmp_path_factory.mktemp(family), family=family)

    @cache
    def do(family: str, source: str) -> Worked:
        place = tmp_path_factory.mktemp(f"{family}-{source}")
        model = folder(family)
        if source == "file":
            model = write_single_file(model, place / "model.safetensors", family)
        run = place / "run"
        erased = command(
            *("erase", "--concept", "church", "--method", "gumbel", "--model", model, *SET),
            *("--set", "concept_space=vocabulary", "--set", "num_concepts=4", "--no-measure"),
            *("--set", "learning_rate=0.03", "--scope", "xattn-kv", "--output", run),
        )
        draw = ("generate", "--prompt", PROMPT, "--num", 2, *DRAW)
        before = command(*draw, "--model", model, "--output", place / "before")
        after = command(*draw, "--edit", run, "--output", place / "after")
        bench = command(
            *("bench", "--model", model, "--scorer", f"local-dir:{tiny_scorer_folder}", *SET),
            *("--methods", "l2", "--concepts", "church", "--seeds", 1, "--output", place / "bench"),
            *("--images-per-concept", 1, "--sampling-steps", 2),
            *("--set", "precision=bf16", "--set", "accumulate=2"),
        )
        exports = {
            form: command("export", run, *options, "--output", place / "exports" / form)
            for form, options in FORMS.items()
        }
        return Worked(family, erased, bench, exports, images(before), images(after), folder(family))

    return do


@pytest.mark.parametrize(("family", "source"), CASES)
def test_an_erasure_changes_what_is_drawn(
    work: Callable[[str, str], Worked], family: str, source: str
) -> None:
    worked = work(family, source)
    edit = worked.erased["edit"]
    assert edit["method"] == "gumbel"
    assert len(load_edit(Path(worked.erased["folder"])).history) == 3
    assert np.abs(worked.after - worked.before).max() > 10


@pytest.mark.parametrize(("family", "source"), CASES)
def test_bench_measures_it_with_settings_of_precision(
    work: Callable[[str, str], Worked], family: str, source: str
) -> None:
    bench = work(family, source).bench
    assert [row["method"] for row in bench["rows"]] == ["base", "l2"]
    assert bench["failures"] == []
    (record,) = Path(bench["store"]).rglob("edit.json")
    config = json.loads(record.read_text(encoding="utf-8"))["config"]
    assert (config["precision"], config["accumulate"]) == ("bf16", 2)


def job(worked: Worked, form: str) -> dict[str, str]:
    """How a process that knows diffusers alone loads an export."""
    path, folder = worked.exports[form]["path"], str(worked.folder)
    sdxl = worked.family == "sdxl"
    kind = "StableDiffusionXLPipeline" if sdxl else "StableDiffusionPipeline"
    unchecked = "" if sdxl else ", safety_checker=None"
    load = {
        "diffusers": f"cls.from_pretrained({path!r}{unchecked})",
        "single-file": (
            f"cls.from_single_file({path!r}, config={folder!r}, local_files_only=True{unchecked})"
        ),
    }.get(form, f"cls.from_pretrained({folder!r}{unchecked})")
    more = {"lora": {"lora": path}, "kohya": {"lora": path}, "delta": {"delta": path}}
    return {"class": kind, "load": load, **more.get(form, {})}


@pytest.fixture(scope="module")
def elsewhere(
    work: Callable[[str, str], Worked], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, str], np.ndarray]:
    """Images by family, source and form, drawn from the exports by diffusers alone."""
    keys = [(*case, form) for case in CASES for form in FORMS]
    jobs = [job(work(family, source), form) for family, source, form in keys]
    drawn = read_elsewhere(tmp_path_factory.mktemp("elsewhere"), jobs)
    return dict(zip(keys, drawn, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("family", "source"), CASES)
def test_diffusers_alone_draws_the_same_from_every_export(
    work: Callable[[str, str], Worked],
    elsewhere: dict[tuple[str, str, str], np.ndarray],
    family: str,
    source: str,
    form: str,
) -> None:
    """Exports of whole weights to the rounding of a batch; a LoRA of full energy to two levels."""
    found = (elsewhere[family, source, form] * 255).round()
    assert np.abs(found - work(family, source).after).max() <= (1 if form in EXACT else 2)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_file_and_a_folder_of_one_model_give_one_edit(
    work: Callable[[str, str], Worked], family: str
) -> None:
    folder, file = (
        load_edit(Path(work(family, source).erased["folder"])) for source in ("folder", "file")
    )
    assert folder.base_hash == file.base_hash
    for name, tensor in file.tensors.items():
        # But for rounding, which follows where in memory weights lie; Adam's step is 0.03.
        apart = (folder.tensors[name] - tensor).square().mean().sqrt()
        assert apart < 0.01 * 0.03, name


def test_an_exported_v_model_says_that_it_predicts_v(work: Callable[[str, str], Worked]) -> None:
    from safetensors import safe_open

    for family, kind in (("sd1", "epsilon"), ("sd2", "v")):
        path = work(family, "folder").exports["single-file"]["path"]
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["modelspec.prediction_type"] == kind
