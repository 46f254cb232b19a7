"""Gumbel steps of erasekit in its lean setting."""

from __future__ import annotations

import itertools
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.fullsize.arithmetic import gib, in_gib, lean_bound
from benchmarks.fullsize.models import build_pipeline

SETTINGS = {
    "latents_from": "frozen",
    "timesteps": "solver",
    "trajectory_steps": 2,
    "trajectories": 1,
    "keep_trajectories": 1,
    "gradient_checkpointing": True,
    "checkpoint_every": 0,
}
WORDS = ("bus", "church")


@dataclass(frozen=True)
class StepOptions:
    """What the user may choose.

    Attributes:
        family: sd1, sd2 or sdxl.
        dtype: of the stored weights.
        batch_size: rows of the erase term.
        accumulate: parts of a batch.
        latents: side of a latent; 0 is the family's own.
        steps: from the second on, Adam's moments are there while a backward pass is under way.
    """

    family: str
    dtype: str = "fp32"
    batch_size: int = 1
    accumulate: int = 1
    latents: int = 0
    steps: int = 1


def step(options: StepOptions) -> dict[str, Any]:
    """Build the model, take the steps, and say what they took; run in a process of its own."""
    import torch

    from benchmarks.speed.bare import BarePasses
    from erasekit.concepts import Concept, Erasure
    from erasekit.diffusion.scope import ParameterScope
    from erasekit.models.loading import wrap_pipeline
    from erasekit.models.pipeline_state import freeze
    from erasekit.training.erase import erase
    from erasekit.training.memory import estimate, memory_needs
    from erasekit.training.plan import plan_erasure
    from erasekit.training.run_folder import peak_memory_mb
    from erasekit.training.trainer import Callback

    class ProcessorClock(Callback):
        """Seconds of processor time, which what else runs on the machine does not lengthen."""

        def __init__(self) -> None:
            self.marks = [time.process_time()]

        def on_start(self, step: int, total_steps: int) -> None:
            self.marks.append(time.process_time())

        def on_step(self, record: dict[str, Any]) -> None:
            self.marks.append(time.process_time())

        def seconds(self) -> dict[str, Any]:
            spent = [round(b - a, 1) for a, b in itertools.pairwise(self.marks)]
            return {"trajectories": spent[0], "steps": spent[1:]}

    class Latest(Callback):
        """Of the passes that are written down, those of the last step alone are kept."""

        def __init__(self, bare: BarePasses) -> None:
            self.bare = bare

        def on_start(self, step: int, total_steps: int) -> None:
            self.bare.calls.clear()
            self.last = total_steps - 1

        def on_step(self, record: dict[str, Any]) -> None:
            if record["step"] < self.last:
                self.bare.calls.clear()

    def bare_seconds(bare: BarePasses, unet: Any) -> dict[str, float]:
        """The last step's passes alone, as they are and with checkpointing."""
        found = {}
        for name, switch in (
            ("bare_step", unet.disable_gradient_checkpointing),
            ("bare_step_checkpointed", unet.enable_gradient_checkpointing),
        ):
            switch()
            began = time.process_time()
            bare.again()
            found[name] = round(time.process_time() - began, 1)
        return found

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = build_pipeline(options.family, options.dtype, scratch, options.latents)
        freeze(pipeline)
        model = wrap_pipeline(pipeline, f"random {options.family}")
    built, before = time.perf_counter() - began, peak_memory_mb()
    settings = {
        **SETTINGS,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "accumulate": options.accumulate,
    }
    erasure = Erasure((Concept("garbage truck"),), "", WORDS)
    clock = ProcessorClock()
    bare = BarePasses(model.family, [n for n, _ in model.unet.named_parameters() if "attn2" in n])
    with bare.written():
        edit = erase(model, erasure, "gumbel", settings=settings, callbacks=[clock, Latest(bare)])
    seconds, after = edit.info["seconds"], edit.info["peak_memory_mb"]
    plan = plan_erasure(model, erasure, "gumbel", settings)
    needs = memory_needs(
        model.family,
        ParameterScope(edit.info["config"]["scope"]).select(model.unet),
        plan.build().expected_memory(plan.context()),
    )
    unet = sum(p.numel() for p in model.unet.parameters())
    trained = sum(value.numel() for value in edit.tensors.values())
    idle = needs.idle // next(model.unet.parameters()).element_size()
    return {
        "schedule": "lean",
        "family": options.family,
        "stored_in": options.dtype,
        "latents": model.family.latents_shape()[1],
        "unet_parameters": unet,
        "trained_parameters": trained,
        "settings": settings,
        "words_of_r": len(WORDS),
        "unet_passes": edit.info["unet_passes"],
        "seconds": {
            "build": round(built, 1),
            "trajectories": round(seconds["total"] - seconds["loop"], 1),
            "steps": seconds["loop"],
        },
        "processor_seconds": {**clock.seconds(), **bare_seconds(bare, model.unet)},
        "peak_gib": {"model_built": gib(before * 2**20), "run": gib(after * 2**20)},
        "row_bytes": {"plain": needs.row, "checkpointed": needs.passing_row},
        "lower_bound_gib": in_gib(lean_bound(unet, trained, idle, needs.kept, needs.stored_half)),
        "estimate_gib": gib(estimate(needs, edit.info["config"])),
        "threads": torch.get_num_threads(),
        "versions": edit.info["versions"],
        "loss": edit.history[0]["loss"],
    }
