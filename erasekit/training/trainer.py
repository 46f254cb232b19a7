"""The loop: optimiser, seeds, checkpoints, history. Knows no concrete method."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasekit.diffusion.scope import ParameterScope
from erasekit.edits import HISTORY
from erasekit.errors import EditError, Interrupted, TrainingError
from erasekit.files import atomic_write_text, writing
from erasekit.methods.base import ErasureContext, ErasureMethod
from erasekit.models.processes import Processes
from erasekit.models.unet_passes import PassCount
from erasekit.training.callbacks import Callback
from erasekit.training.checkpoints import (
    CHECKPOINT,
    UNPROVEN,
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
)
from erasekit.training.environment import (
    idle_parts_offloaded,
    make_optimizer,
    prepared_unet,
)
from erasekit.training.settings import TrainingSettings
from erasekit.training.stopping import StopRequests

ADVERSARY_SNAPSHOTS = 10


@dataclass
class TrainingResult:
    """What a finished run leaves.

    Attributes:
        tensors: what the method makes of the trained values: those of the parameters in scope, or
            of adapters.
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
        processes: who shares the work; all must call `fit` alike. Only the main one should have
            a folder and callbacks.
    """

    settings: TrainingSettings
    folder: Path | None = None
    callbacks: Sequence[Callback] = ()
    processes: Processes = field(default_factory=Processes)
    _history: list[dict[str, Any]] = field(default_factory=list, init=False)
    _stop: StopRequests = field(default_factory=StopRequests, init=False)

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
            make_context: makes the method's context from the parameters that it trains.
            unet: the module that is trained.
            scope: which of its parameters may change, or get adapters; nothing else gets a
                gradient.
            passes: the counter that the adapter increments.
            resume: go on from here.
            history: records up to `resume`.

        Raises:
            ScopeError: the scope selects nothing.
            EditError: `resume` is of another model or scope.
            TrainingError: a loss or the trained weights are not finite; the last checkpoint
                that gave a finite loss stays.
            Interrupted: Ctrl-C or SIGTERM; the step is done, and a checkpoint saved where there
                is a folder.
            ConfigError: the device can't compute in the precision asked for.
            MissingExtraError: 8-bit Adam without its extra.
        """
        context = make_context({})
        with method.trained_parameters(context, scope) as parameters:
            context.parameters = parameters
            return self._fit(method, context, unet, parameters, passes, resume, history)

    def _fit(
        self,
        method: ErasureMethod,
        context: ErasureContext,
        unet: torch.nn.Module,
        parameters: dict[str, torch.nn.Parameter],
        passes: PassCount,
        resume: Checkpoint | None,
        history: Sequence[dict[str, Any]],
    ) -> TrainingResult:
        began, passes_before = time.perf_counter(), passes.snapshot()
        stored = {name: p.dtype for name, p in parameters.items()}
        flags = [(p, p.requires_grad) for p in unet.parameters()]
        surroundings = ExitStack()
        surroundings.enter_context(
            prepared_unet(context.family, parameters, self.settings, self.processes)
        )
        for parameter in parameters.values():
            parameter.data = parameter.data.to(torch.float32)  # the master copy
        frozen = context.frozen  # the original values, before anything changes
        try:
            surroundings.enter_context(self._stop.heard())
            self._begin_history(history, resume)
            unet.requires_grad_(False)
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            optimizer = make_optimizer(parameters, self.settings)
            if self.settings.compile_unet:
                context.on_status("compiling the UNet: the first passes take minutes")
            try:
                method.prepare(context)
            except KeyboardInterrupt as stop:
                raise self._interrupted(
                    "Stopped while preparing, before the first step. " + self._how_to_go_on()
                ) from stop
            _ = context.neutral_embeds, context.erased_embeds  # while the text encoder is near
            surroundings.enter_context(
                idle_parts_offloaded(context.model.pipeline, self.settings.offload)
            )
            start, spent = 0, {"total": 0.0, "loop": 0.0}
            adversaries: dict[str, Tensor] = {}
            if resume:
                start, spent = self._take(resume, method, parameters, optimizer)
                adversaries.update(resume.adversaries)
                passes_before = passes.snapshot() - PassCount(**resume.passes)
            clock = _Clock(began, time.perf_counter(), spent)

            def checkpoint(step: int) -> Checkpoint:
                return Checkpoint(
                    step,
                    {name: p.detach() for name, p in parameters.items()},
                    optimizer_tensors(optimizer, parameters),
                    method.state_dict(),
                    adversaries,
                    (passes - passes_before).as_dict(),
                    clock.seconds(),
                )

            with self._stop.held():
                self._loop(method, parameters, optimizer, start, adversaries, checkpoint)
            trained = {name: p.detach() for name, p in parameters.items()}
            return TrainingResult(
                method.edited(trained),
                self._history,
                adversaries,
                passes - passes_before,
                clock.seconds(),
            )
        finally:
            for name, parameter in parameters.items():
                parameter.grad = None
                parameter.data = frozen.values[name].to(stored[name])
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            surroundings.close()
            for callback in self.callbacks:
                callback.on_end()

    def _loop(
        self,
        method: ErasureMethod,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        start: int,
        adversaries: dict[str, Tensor],
        checkpoint: Callable[[int], Checkpoint],
    ) -> None:
        total, every = self.settings.steps, self.settings.checkpoint_every
        snapshot_every = max(1, total // ADVERSARY_SNAPSHOTS)
        step, whole = start, True  # whole: the state in memory is that after `step` steps
        try:
            for callback in self.callbacks:
                callback.on_start(start, total)
            self._show_weights(start, method, parameters)
            while step < total:
                whole = False
                record = self._step(step, method, parameters, optimizer)
                embeds = method.adversaries()
                if embeds is not None and (step % snapshot_every == 0 or step == total - 1):
                    for e, embed in enumerate(embeds):
                        adversaries[f"{step:06d}.{e}"] = embed.detach().clone().cpu()
                self._record(record)
                step, whole = step + 1, True
                for callback in self.callbacks:
                    callback.on_step(record)
                self._show_weights(step, method, parameters)
                if self.processes.any(self._stop.asked):
                    raise KeyboardInterrupt
                if self.folder and every and step % every == 0 and step < total:
                    checkpoint(step).save(self.folder / UNPROVEN)
            self._check_finite(parameters, step)
        except KeyboardInterrupt as stop:
            saved = bool(whole and self.folder and _saved(checkpoint(step), self.folder))
            state = "which is saved" if saved else "which is not saved"
            raise self._interrupted(
                f"Stopped at step {step} of {total}, {state}. {self._how_to_go_on()}"
            ) from stop
        finally:
            if self.folder:
                (self.folder / UNPROVEN).unlink(missing_ok=True)

    def _step(
        self,
        step: int,
        method: ErasureMethod,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, Any]:
        empty = {"erase_loss": None, "preserve_loss": None, "timestep": None, "adversary": None}
        method.begin_step(step)
        output = method.training_step(step)
        if output is None:
            self._check_finite(parameters, step)
            self._prove()
            return {"step": step, "loss": None, **empty}
        loss = float(output.loss.detach())
        if not math.isfinite(loss):
            raise TrainingError(f"The loss is {loss} at {self._mend(step)}")
        self._prove()
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters.values(), self.settings.max_grad_norm)
        optimizer.step()
        return {"step": step, "loss": loss, **empty, **output.record}

    def _show_weights(
        self, step: int, method: ErasureMethod, parameters: dict[str, torch.nn.Parameter]
    ) -> None:
        values = _Edited(method, {name: p.detach() for name, p in parameters.items()})
        for callback in self.callbacks:
            callback.on_weights(step, values)

    def _check_finite(self, parameters: dict[str, torch.nn.Parameter], step: int) -> None:
        if not all(bool(p.isfinite().all()) for p in parameters.values()):
            raise TrainingError(f"The weights are not finite after {self._mend(step)}")

    def _prove(self) -> None:
        """The last checkpoint has given a finite step: from now on it is the good one."""
        if self.folder and (self.folder / UNPROVEN).exists():
            (self.folder / UNPROVEN).replace(self.folder / CHECKPOINT)

    def _begin_history(self, history: Sequence[dict[str, Any]], resume: Checkpoint | None) -> None:
        """Start with the records up to `resume`, in memory and on disk."""
        done = resume.step if resume else 0
        self._history = [record for record in history if record["step"] < done]
        if self.folder:
            lines = "".join(map(_line, self._history))
            atomic_write_text(self.folder / HISTORY, lines)

    def _record(self, record: dict[str, Any]) -> None:
        self._history.append(record)
        if self.folder:
            path = self.folder / HISTORY
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(_line(record))

    def _take(
        self,
        resume: Checkpoint,
        method: ErasureMethod,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> tuple[int, dict[str, float]]:
        found = {name: value.shape for name, value in resume.parameters.items()}
        if found != {name: p.shape for name, p in parameters.items()}:
            raise EditError(
                "The checkpoint is of another model or scope; resume with what the run began with."
            )
        with torch.no_grad():
            for name, value in resume.parameters.items():
                parameters[name].copy_(value)
        load_optimizer_tensors(optimizer, parameters, resume.optimizer)
        method.load_state_dict(resume.method)
        return resume.step, dict(resume.seconds)

    def _mend(self, step: int) -> str:
        return (
            f"step {step}; lower learning_rate (now {self.settings.learning_rate:g}) or "
            f"keep_weight. {self._last_good()}"
        )

    def _last_good(self) -> str:
        if self.folder and (self.folder / CHECKPOINT).is_file():
            return f"The last good checkpoint is {self.folder / CHECKPOINT}."
        return "No checkpoint had been saved yet."

    def _interrupted(self, text: str) -> Interrupted:
        error = Interrupted(text)
        error.exit_code = self._stop.exit_code
        return error

    def _how_to_go_on(self) -> str:
        if self.folder and (self.folder / CHECKPOINT).is_file():
            return f"Go on with: erasekit erase --resume {shlex.quote(str(self.folder))}"
        return "There is no checkpoint to go on from; start the run anew."


def _saved(checkpoint: Checkpoint, folder: Path) -> bool:
    """Save it; False where another Ctrl-C came in between."""
    try:
        checkpoint.save(folder / CHECKPOINT)
    except KeyboardInterrupt:
        return False
    return True


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


class _Edited(Mapping[str, Tensor]):
    """What an edit would hold now; made when somebody looks."""

    def __init__(self, method: ErasureMethod, trained: dict[str, Tensor]) -> None:
        self._method, self._trained = method, trained

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return self._method.edited(self._trained)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


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
