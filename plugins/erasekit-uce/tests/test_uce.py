"""UCE: all that erasekit asks of a method, its equation, and a real pipeline folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from erasekit.cli.app import build_app
from erasekit.concepts import Erasure
from erasekit.edits import Edit, load_edit
from erasekit.errors import ConfigError
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, tiny_folder, tiny_model
from erasekit.training.erase import erase
from erasekit_uce import hooks
from erasekit_uce.uce import UceConfig, UnifiedConceptEditing


class TestUce(MethodTester):
    """Every test of `MethodTester`."""

    method = "uce"
    plugins = (hooks,)
    scopes = ("xattn-kv", "xattn")
    seeded = False


def registry() -> Registry:
    return TestUce().registry()


def edited(*erased: str, **settings: Any) -> Edit:
    return erase(tiny_model(), Erasure.of(*erased), "uce", registry=registry(), settings=settings)


def rows(count: int, seed: int, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def method_on(erased: Tensor, guides: Tensor, kept: Tensor, **config: float) -> Any:
    method = UnifiedConceptEditing(UceConfig(**config))
    method.erased, method.guides, method.kept = erased.double(), guides.double(), kept.double()
    return method


def test_the_solution_is_that_of_the_stacked_least_squares_problem() -> None:
    erased, guides, kept, weight = rows(3, 0), rows(3, 1), rows(5, 2), rows(6, 3)
    method = method_on(erased, guides, kept, erase_scale=2.0, preserve_scale=0.3, ridge=0.7)
    found = weight + method.update("any", weight.double())
    left = np.concatenate([2.0**0.5 * erased, 0.3**0.5 * kept, 0.7**0.5 * np.eye(8)])
    wanted = np.concatenate([2.0**0.5 * guides, 0.3**0.5 * kept, 0.7**0.5 * np.eye(8)])
    right = wanted.astype(np.float64) @ weight.numpy().astype(np.float64).T
    reference = np.linalg.lstsq(left.astype(np.float64), right, rcond=None)[0].T
    assert np.abs(found.numpy() - reference).max() <= 1e-5 * np.abs(reference).max()


def test_keeping_more_moves_the_kept_less() -> None:
    erased, guides, kept, weight = rows(3, 0), rows(3, 1), rows(7, 2), rows(6, 3)
    moved = []
    for scale in (0.0, 1.0, 100.0):
        method = method_on(erased, guides, kept, preserve_scale=scale)
        moved.append(float((kept.double() @ method.update("any", weight.double()).T).norm()))
    assert moved == sorted(moved, reverse=True)


def closed_form(
    folder: Path, erased: list[str], guides: list[str], kept: list[str], ridge: float
) -> dict[str, np.ndarray]:
    """The equation word for word, on plain diffusers and numpy in double precision."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)

    def embed(prompt: str) -> np.ndarray:
        tokens = pipeline.tokenizer(
            prompt, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        place = int(tokens.attention_mask.sum()) - 2
        with torch.no_grad():
            hidden = pipeline.text_encoder(tokens.input_ids)[0]
        return hidden[0, place].numpy().astype(np.float64)[:, None]

    solved = {}
    for name, module in pipeline.unet.named_modules():
        if "attn2" in name and name.endswith(("to_k", "to_v")):
            w = module.weight.detach().numpy().astype(np.float64)
            first, second = ridge * w, ridge * np.eye(w.shape[1])
            for concept, guide in zip(erased, guides, strict=True):
                c, v = embed(concept), w @ embed(guide)
                first, second = first + v @ c.T, second + c @ c.T
            for concept in kept:
                c = embed(concept)
                first, second = first + w @ c @ c.T, second + c @ c.T
            solved[f"{name}.weight"] = first @ np.linalg.inv(second)
    return solved


@pytest.mark.parametrize(
    ("options", "guides", "kept", "ridge"),
    [
        ([], ["", ""], [], 0.5),
        (["--keep", "castle", "--neutral", "road"], ["road", "road"], ["castle"], 0.5),
        (
            ["--set", "keep=castle, a photo of a car", "--set", "guide=road,", "--set", "ridge=2"],
            ["road", ""],
            ["castle", "a photo of a car"],
            2.0,
        ),
    ],
)
def test_the_edit_of_a_pipeline_folder_is_the_closed_form(
    options: list[str], guides: list[str], kept: list[str], ridge: float, tmp_path: Path
) -> None:
    command = ["erase", "--model", str(tiny_folder()), "--method", "uce", "--no-measure"]
    command += ["--concept", "garbage truck", "--concept", "church", *options]
    command += ["--output", str(tmp_path / "run"), "--json"]
    found = registry()
    run = CliRunner().invoke(build_app(found), command, obj=found)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["edit"]["unet_passes"] == {"forward": 0, "backward": 0}
    edit = load_edit(tmp_path / "run")
    expected = closed_form(tiny_folder(), ["garbage truck", "church"], guides, kept, ridge)
    assert set(edit.tensors) == set(expected)
    for name, reference in expected.items():
        found = edit.tensors[name].double().numpy()
        assert np.abs(found - reference).max() <= 1e-4 * np.abs(reference).max(), name


def test_a_concept_that_is_its_own_guide_changes_nothing() -> None:
    edit = edited("church", "bus", guide="church, bus", keep="castle")
    original = dict(tiny_model().unet.named_parameters())
    assert all(torch.equal(value, original[name]) for name, value in edit.tensors.items())


def test_the_order_of_concepts_is_irrelevant() -> None:
    one = edited("church", "bus", "banana", guide="castle, car, apple", keep="road, truck")
    other = edited("banana", "church", "bus", guide="apple, castle, car", keep="truck, road")
    for name, value in one.tensors.items():
        assert torch.allclose(other.tensors[name], value, rtol=0, atol=1e-6)


def test_as_many_guides_as_concepts_or_one() -> None:
    with pytest.raises(ConfigError, match="names 2 concepts for 3 erased ones"):
        edited("church", "bus", "banana", guide="castle, car")
