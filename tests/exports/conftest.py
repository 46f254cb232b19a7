"""Edits of tiny models, and a reader that knows diffusers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erasekit.diffusion.scope import ParameterScope
from erasekit.edits import Edit
from erasekit.models.loading import LoadedModel

PROMPT, STEPS, GUIDANCE = "a photo of a church", 4, 3.0

READER = """
import json, sys
import diffusers, numpy, safetensors.torch, torch
for job in json.loads(sys.argv[1]):
    cls = getattr(diffusers, job["class"])
    pipeline = eval(job["load"], {"cls": cls, "diffusers": diffusers, "torch": torch, "job": job})
    if "lora" in job:
        pipeline.load_lora_weights(job["lora"])
    if "delta" in job:
        changed = safetensors.torch.load_file(job["delta"])
        assert not pipeline.unet.load_state_dict(changed, strict=False).unexpected_keys
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(job["prompt"], num_inference_steps=job["steps"], guidance_scale=job["guidance"],
                 generator=torch.Generator("cpu").manual_seed(seed), output_type="np").images[0]
        for seed in (0, 1)
    ]
    numpy.save(job["output"], numpy.stack(images))
assert not [name for name in sys.modules if name.startswith("erasekit")]
"""


def draw(pipeline: Any) -> np.ndarray:
    """Two images by plain diffusers, float [2, H, W, 3], at the noise of seeds 0 and 1."""
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            PROMPT,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        ).images[0]
        for seed in (0, 1)
    ]
    return np.stack(images)


def draw_elsewhere(folder: Path, load: str, kind: str = "StableDiffusionPipeline") -> np.ndarray:
    """The same two images, by a process that imports diffusers and no erasekit.

    `load` is an expression over `cls`, such as 'cls.from_pretrained("...")'.
    """
    (images,) = read_elsewhere(folder, [{"class": kind, "load": load}])
    return images


def read_elsewhere(folder: Path, jobs: Sequence[dict[str, str]]) -> list[np.ndarray]:
    """The two images of each job, all by one process that imports diffusers and no erasekit.

    A job has the pipeline's `class`, `load` as `draw_elsewhere` takes it, and may name a `lora`
    to load, or a file of tensors (`delta`) that replace those of the UNet.
    """
    common = {"prompt": PROMPT, "steps": STEPS, "guidance": GUIDANCE}
    outputs = [folder / f"elsewhere-{number}.npy" for number in range(len(jobs))]
    described = [
        {**common, **job, "output": str(output)} for job, output in zip(jobs, outputs, strict=True)
    ]
    done = subprocess.run(
        [sys.executable, "-c", READER, json.dumps(described)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return [np.load(output) for output in outputs]


def perturbed(
    model: LoadedModel,
    scope: str = "xattn",
    *,
    scale: float = 0.5,
    rank: int | None = None,
    only: Callable[[str], bool] = lambda name: True,
) -> Edit:
    """An edit that moves every parameter in scope by `scale` of its size, or of a given rank."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, parameter in ParameterScope(scope).select(model.unet).items():
        if not only(name):
            continue
        change = torch.randn(parameter.shape, generator=generator)
        if rank is not None and change.ndim > 1:
            u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
            change = (u[:, :rank] * s[:rank] @ v[:rank]).reshape(change.shape)
        norm = parameter.detach().norm() if parameter.ndim > 1 else 1.0
        change *= scale * norm / change.norm()
        tensors[name] = parameter.detach() + change
    info = {
        "method": "none",
        "concepts": ["church"],
        "config": {"scope": scope},
        "seed": 0,
        "base_model": {"id": model.id, "hash": model.hash},
        "versions": {"erasekit": "0"},
    }
    return Edit(tensors, info)


@pytest.fixture
def edit(tiny_model: LoadedModel) -> Edit:
    """An edit of the tiny model's cross-attention that changes its images plainly."""
    return perturbed(tiny_model)
