"""The loop: optimiser, seeds, checkpoints, history. Knows no concrete method."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasekit.diffusion.passes import PassCount
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import Interrupted, TrainingError
from erasekit.files import writing
from erasekit.methods.base import ErasureContext, ErasureMethod
from erasekit.training.callbacks import Callback
from erasekit.training.checkpoints import (
    CHECKPOINT,
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
)
from erasekit.training.settings import TrainingSettings

ADVERSARY_SNAPSHOTS = 10


@dataclass
class TrainingResult:
    """What a finished run leaves.

    Attributes:
        tensors: the trained values of the parameters in scope.
        history: one record per step.
        adversaries: embeddings of the adversarial concepts along the run, by "step.index".
        passes: UNet passes of the run.
        seconds: `total` from the start of preparing, `loop` of the training steps alone.
    """

    tensors: dict[str, Tensor]
    history: list[dict[str, Any]]
    adversaries: dict[str, Tensor]
    passes: PassCount
    seconds: dict[str, float]


@dataclass
class Trainer:
    """Runs a method's steps on the parameters in scope.

    The UNet is left as it was: trained values are in the result alone.

    Attributes:
        settings: see `TrainingSettings`.
        folder: where checkpoints and `history.jsonl` go; None keeps nothing on disk.
        callbacks: who hears of the run.
    """

    settings: TrainingSettings
    folder: Path | None = None
    callbacks: Sequence[Callback] = ()
    _history: list[dict[str, Any]] = field(default_factory=list, init=False)

    def fit(
        self,
        method: ErasureMethod,
        make_context: Callable[[dict[str, torch.nn.Parameter]], ErasureContext],
        unet: torch.nn.Module,
        scope: ParameterScope,
        passes: PassCount,
        resume: Checkpoint | None = None,
        history: Sequence[dict[str, Any]] = (),
    ) -> TrainingResult:
        """Train, and give back what changed.

        Args:
            method: a built method.
            make_context: makes the method's context from the parameters in scope.
            unet: the module that is trained.
            scope: which of its parameters may change; nothing else gets a gradient.
            passes: the counter that the adapter increments.
            resume: go on from here.
            history: records up to `resume`.

        Raises:
            ScopeError: the scope selects nothing.
            TrainingError: a loss is not finite; the last good checkpoint stays.
            Interrupted: Ctrl-C; a checkpoint was saved where there is a folder.
        """
        began, passes_before = time.perf_counter(), passes.snapshot()
        parameters = scope.select(unet)
        originals = {name: p.detach().clone() for name, p in parameters.items()}
        context = make_context(parameters)
        self._history = list(history)
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            _ = context.frozen  # the original values, before anything changes
            method.prepare(context)
            optimizer = torch.optim.Adam(parameters.values(), lr=self.settings.learning_rate)
            start, spent = 0, {"total": 0.0, "loop": 0.0}
            if resume:
                start, spent = self._take(resume, method, parameters, optimizer)
                passes_before = passes.snapshot() - PassCount(**resume.passes)
            clock = _Clock(began, time.perf_counter(), spent)

            def checkpoint(step: int) -> Checkpoint:
                done = (passes - passes_before).as_dict()
                weights = {name: p.detach() for name, p in parameters.items()}
                moments = optimizer_tensors(optimizer, parameters)
                return Checkpoint(
                    step, weights, moments, method.state_dict(), done, clock.seconds()
                )

            adversaries = self._loop(method, parameters, optimizer, start, checkpoint)
            trained = {name: p.detach().clone() for name, p in parameters.items()}
            return TrainingResult(
                trained, self._history, adversaries, passes - passes_before, clock.seconds()
            )
        finally:
            for name, parameter in parameters.items():
                parameter.grad = None
                parameter.requires_grad_(False)
                parameter.data = originals[name]
            for callback in self.callbacks:
                callback.on_end()

    def _loop(
        self,
        method: ErasureMethod,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        start: int,
        checkpoint: Callable[[int], Checkpoint],
    ) -> dict[str, Tensor]:
        total, every = self.settings.steps, self.settings.checkpoint_every
        snapshot_every = max(1, total // ADVERSARY_SNAPSHOTS)
        adversaries: dict[str, Tensor] = {}
        for callback in self.callbacks:
            callback.on_start(start, total)
        step = start
        try:
            while step < total:
                record = self._step(step, method, parameters, optimizer)
                embeds = method.adversaries()
                if embeds is not None and (step % snapshot_every == 0 or step == total - 1):
                    for e, embed in enumerate(embeds):
                        adversaries[f"{step:06d}.{e}"] = embed.detach().clone().cpu()
                self._record(record)
                step += 1
                if self.folder and every and step % every == 0 and step < total:
                    checkpoint(step).save(self.folder / CHECKPOINT)
        except KeyboardInterrupt as stop:
            if self.folder is None:
                raise Interrupted(
                    f"Stopped at step {step} of {total}; nothing was saved."
                ) from stop
            with suppress(KeyboardInterrupt):
                checkpoint(step).save(self.folder / CHECKPOINT)
            raise Interrupted(
                f"Stopped at step {step} of {total}, which is saved; go on with: "
                f"erasekit erase --resume {self.folder}"
            ) from stop
        return adversaries

    def _step(
        self,
        step: int,
        method: ErasureMethod,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, Any]:
        empty = {"erase_loss": None, "preserve_loss": None, "timestep": None, "adversary": None}
        output = method.training_step(step)
        if output is None:
            return {"step": step, "loss": None, **empty}
        loss = float(output.loss.detach())
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {step}; lower learning_rate (now "
                f"{self.settings.learning_rate:g}) or keep_weight. {self._last_good()}"
            )
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), self.settings.max_grad_norm)
        optimizer.step()
        return {"step": step, "loss": loss, **empty, **output.record}

    def _record(self, record: dict[str, Any]) -> None:
        self._history.append(record)
        if self.folder:
            path = self.folder / "history.jsonl"
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        for callback in self.callbacks:
            callback.on_step(record)

    def _take(
        self,
        resume: Checkpoint,
        method: ErasureMethod,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> tuple[int, dict[str, float]]:
        with torch.no_grad():
            for name, value in resume.parameters.items():
                parameters[name].copy_(value)
        load_optimizer_tensors(optimizer, parameters, resume.optimizer)
        method.load_state_dict(resume.method)
        return resume.step, dict(resume.seconds)

    def _last_good(self) -> str:
        if self.folder and (self.folder / CHECKPOINT).is_file():
            return f"The last good checkpoint is {self.folder / CHECKPOINT}."
        return "No checkpoint had been saved yet."


@dataclass
class _Clock:
    """Seconds of this run, with those of the runs it goes on from."""

    began: float
    loop_began: float
    spent: dict[str, float]

    def seconds(self) -> dict[str, float]:
        now = time.perf_counter()
        return {
            "total": round(self.spent["total"] + now - self.began, 3),
            "loop": round(self.spent["loop"] + now - self.loop_began, 3),
        }
