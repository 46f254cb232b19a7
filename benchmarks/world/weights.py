"""One file of weights that goes from machine to machine, and into the repository.

Half precision, averaged weights only: no optimiser's moments, so what goes on from it warms up
again. `python -m benchmarks.world save` writes it from build/checkpoints, `restore` reads it back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.world.autoencoder import load_autoencoder
from benchmarks.world.catalog import HERE
from benchmarks.world.sprites import BUILD
from benchmarks.world.training import load_checkpoint, save_atomic

COMMITTED = HERE / "checkpoints" / "world.safetensors"
SPENT = ("step", "samples", "seconds", "chunks", "seed")


def save_weights(path: Path = COMMITTED, build: Path = BUILD) -> None:
    """Write what is trained so far of autoencoder, generator and scorer.

    Keys are PART.NAME; the metadata holds PART.step and what else was spent.
    """
    state: dict[str, torch.Tensor] = {}
    notes: dict[str, str] = {}
    for part in ("autoencoder", "generator", "scorer"):
        file = build / "checkpoints" / f"{part}.pt"
        content = load_checkpoint(file)
        if content is None:
            continue
        average = content["average"]["average"]
        if part == "autoencoder":
            average = load_autoencoder(file).state_dict()
            notes["autoencoder.done"] = str(int(content["done"]))
        state |= {f"{part}.{key}": value for key, value in average.items()}
        notes |= {f"{part}.{key}": str(content[key]) for key in SPENT if key in content}
    if not state:
        raise FileNotFoundError(f"{build / 'checkpoints'} holds nothing to save")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in halves.items()}, partial, notes)
    partial.chmod(0o644)
    partial.replace(path)


def restore(path: Path = COMMITTED, build: Path = BUILD) -> None:
    """Make the checkpoints that a training goes on from; there must be none yet."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there are no weights to restore")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(path, "pt") as file:
        notes = dict(file.metadata() or {})
        for key in file.keys():  # noqa: SIM118 (it isn't a dict)
            part, _, name = key.partition(".")
            value = file.get_tensor(key)
            floating = value.is_floating_point()
            parts.setdefault(part, {})[name] = value.float() if floating else value
    targets = {part: build / "checkpoints" / f"{part}.pt" for part in parts}
    if there := [str(target) for target in targets.values() if target.exists()]:
        raise FileExistsError(f"{', '.join(there)}: move them away before restoring {path}")
    for part, state in parts.items():
        spent = {key: notes[f"{part}.{key}"] for key in SPENT if f"{part}.{key}" in notes}
        content: dict[str, Any] = {k: float(v) if "." in v else int(v) for k, v in spent.items()}
        content |= {"model": state, "done": notes.get(f"{part}.done") == "1"}
        content["average"] = {"steps": content["step"], "average": state}
        save_atomic(content, targets[part])
