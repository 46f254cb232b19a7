"""Run by every process of a launch: erases together, then the main one erases alone.

Prints one JSON object: for each case, how far both edits lie apart by how far the weights moved,
and whether losses and UNet passes agree.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from erasekit.concepts import Erasure
from erasekit.edits import Edit
from erasekit.models.processes import Processes
from erasekit.testing import tiny_model
from erasekit.training.erase import erase

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gumbel": ("gumbel", {}),
    "gumbel, in parts, checkpointing": (
        "gumbel",
        {"accumulate": 2, "gradient_checkpointing": True, "exact_gradient": True},
    ),
    "pgd": ("pgd", {}),
    "argmax": ("argmax", {"refresh": 1}),
    "sampled anew": ("random", {"latents_from": "current"}),
    "l2": ("l2", {"keep_weight": 10}),
    "one row for two processes": ("none", {"batch_size": 1}),
    "gumbel on sd2": ("gumbel", {}),
    "gumbel on sdxl": ("gumbel", {}),
}
ERASED = Erasure.of("garbage truck", "church")


def family_of(case: str) -> str:
    """The family that a case names; Stable Diffusion 1 where it names none."""
    return case.rpartition(" on ")[2] if " on " in case else "sd1"


def run(case: str, processes: Processes | None) -> Edit:
    method, settings = CASES[case]
    settings = {"steps": 4, "batch_size": 3, **settings}
    model = tiny_model(family_of(case))
    return erase(model, method, ERASED, settings=settings, processes=processes)


def compare(case: str, together: Edit, alone: Edit) -> dict[str, Any]:
    unet = tiny_model(family_of(case)).unet
    base = {name: p.detach() for name, p in unet.named_parameters()}
    apart = torch.cat([(together.tensors[n] - v).flatten() for n, v in alone.tensors.items()])
    moved = torch.cat([(base[n] - v).flatten() for n, v in alone.tensors.items()])
    return {
        "distance": float(apart.norm() / moved.norm()),
        "processes": together.info["processes"],
        "same_passes": together.info["unet_passes"] == alone.info["unet_passes"],
        "losses": [
            (a["loss"], b["loss"]) for a, b in zip(together.history, alone.history, strict=True)
        ],
    }


def main() -> None:
    for case in CASES:  # before the processes join: in a group, transformers writes for the first
        tiny_model(family_of(case))
    processes = Processes.launched("cpu")
    found = {}
    for name in CASES:
        together = run(name, None)
        sums = sum(float(v.double().sum()) for v in together.tensors.values())
        assert processes.from_main(sums) == sums, "the processes have different weights"
        assert processes.any(processes.is_main)
        assert not processes.any(False)
        if processes.is_main:
            found[name] = compare(name, together, run(name, Processes()))
    if processes.is_main:
        sys.stdout.write(json.dumps(found) + "\n")
    processes.leave()


if __name__ == "__main__":
    main()
