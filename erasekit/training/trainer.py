"""The loop: optimiser, seeds, checkpoints, history. Knows no concrete method."""

from __future__ import annotations

import math
import os
import shlex
import signal
import threading
import time
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasekit.diffusion.inference_parts import InferenceRecord
from erasekit.edits import HISTORY, Edit
from erasekit.errors import ConfigError, EditError, Interrupted, MissingExtraError, TrainingError
from erasekit.files import atomic_write_text, writing
from erasekit.methods.base import ErasureContext
from erasekit.models.unet_passes import PassCount, idle_parts_offloaded, training_passes
from erasekit.training.checkpoint import (
    CHECKPOINT,
    UNPROVEN,
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
)
from erasekit.training.plan import Plan, TrainingSettings
from erasekit.training.run_folder import (
    command,
    history_lines,
    peak_memory_mb,
    versions,
    watched,
)

ADVERSARY_SNAPSHOTS = 10
_LOSSES = ("erase_loss", "preserve_loss")


class Callback:
    """Hears of a run; override what you need. Raising stops the run."""

    def on_status(self, text: str) -> None:
        """Something is being prepared."""

    def on_start(self, step: int, total_steps: int) -> None:
        """Training begins at `step` of `total_steps`."""

    def on_step(self, record: dict[str, Any]) -> None:
        """A step is done; `record` is its line of `history.jsonl`."""

    def on_weights(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """After `step` steps, what an edit would hold then; copy what you keep.

        Called before the first step too, with `step` 0 (or where a resumed run goes on from).
        """

    def on_end(self) -> None:
        """Training is over, well or not."""


class StopRequests:
    """Hears Ctrl-C, SIGTERM and SIGHUP for a run, which then stops between two steps.

    Only in the main thread, and only where nobody else handles the signal.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._held = False

    def interrupted(self, text: str) -> Interrupted:
        """The error to end with; its exit code is what the shell expects after the signal."""
        error = Interrupted(text)
        error.exit_code = 128 + (self.received or signal.SIGINT)
        return error

    @contextmanager
    def heard(self) -> Iterator[None]:
        """For the block, these signals raise KeyboardInterrupt, or wait where they are `held`."""
        own: dict[signal.Signals, Any] = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
        }
        if hasattr(signal, "SIGHUP"):  # not on Windows
            own[signal.SIGHUP] = signal.SIG_DFL
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {s: h for s, h in own.items() if signal.getsignal(s) == h}
        for number in before:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the block, signals are noted only; a second Ctrl-C still stops at once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _receive(self, number: int, _: object) -> None:
        again = self.received == number == signal.SIGINT
        self.received = self.received or number
        if again or not self._held:
            raise KeyboardInterrupt


class Trainer:
    """Runs the steps of a planned run on the parameters in scope; a new one for each run.

    The UNet is left as it was: trained values are in the result alone.

    Started by `accelerate launch` or `torchrun`, each process trains its share of a step's rows,
    and gradients are averaged. All take the same decisions, since random numbers follow from seed
    and step.

    Args:
        plan: what the run follows from.
        folder: where checkpoints and `history.jsonl` go; None keeps nothing on disk.
        callbacks: who hears of the run; of several processes, the main one alone writes and calls.
    """

    def __init__(
        self, plan: Plan, folder: Path | None = None, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.plan, self.settings, self.folder = plan, plan.training, folder
        self.callbacks: Sequence[Callback] = callbacks
        self.accelerator = make_accelerator(plan.model.family.device)
        if not self.accelerator.is_main_process:
            self.folder, self.callbacks = None, ()
        self._stop = StopRequests()
        self._check_folder: Callable[[], None] = lambda: None
        self._history: list[dict[str, Any]] = []
        self._adversaries: dict[str, Tensor] = {}
        self._seconds_before = {"total": 0.0, "loop": 0.0}

    def fit(self, resume: Checkpoint | None = None) -> Edit:
        """Train, and give back the edit. The UNet has its own weights again then.

        Args:
            resume: go on from here.

        Raises:
            ScopeError: the scope selects nothing.
            EditError: `resume` is of another model or scope.
            TrainingError: a loss or the trained weights are not finite, or memory ran out; the
                last checkpoint that gave a finite loss stays.
            Interrupted: Ctrl-C, SIGTERM or SIGHUP; the step is done, and a checkpoint saved where
                there is a folder.
            ConfigError: the device can't compute in the precision asked for, or the method can't
                share its rows between processes.
            MissingExtraError: 8-bit Adam without its extra.
        """
        self.method, processes = self.plan.build(), self.accelerator.num_processes
        if processes > 1 and not self.method.data_parallel:
            raise ConfigError(
                f"The method {self.plan.method!r} has no batch that {processes} processes could "
                "share; start it as one process."
            )
        context = self.plan.context(on_status=self._status, accelerator=self.accelerator)
        if self.plan.memory:
            self._status(self.plan.memory)
        with ExitStack() as stack:
            stack.enter_context(self._stop.heard())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for callback in self.callbacks:
                stack.callback(callback.on_end)
            try:
                self.parameters = stack.enter_context(
                    self.method.trained_parameters(context, self.plan.scope)
                )
                start = self._prepare(stack, context, resume)
                with self._stop.held():
                    self._loop(start)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                raise TrainingError(
                    "There is too little memory for this run. Add --max-memory GIB, which switches "
                    "on what needs less, or use a smaller batch_size, trajectories or scope. "
                    + self._last_good()
                ) from error
            tensors, part = self.method.edited(self._trained()), self.method.inference()
        return self._edit(tensors, part)

    def _edit(self, tensors: dict[str, Tensor], part: InferenceRecord | None) -> Edit:
        """What was trained, and how; what is none of the UNet's goes into the inference part."""
        plan, model, of_part = self.plan, self.plan.model, {}
        if part is not None:
            own = {name for name, _ in model.unet.named_parameters()}
            added = {name: value for name, value in tensors.items() if name not in own}
            of_part = {**added, **part.tensors}
        info = {
            "method": plan.method,
            "concepts": plan.concepts,
            "neutral": plan.erasure.neutral,
            "keep": list(plan.erasure.keep),
            "config": {**plan.settings, "scope": plan.scope.name},
            "seed": plan.seed,
            "device": model.family.device.type,
            "threads": torch.get_num_threads(),
            "processes": self.accelerator.num_processes,
            "base_model": {"id": model.id, "hash": model.hash},
            "versions": versions(),
            "command": command(),
            "seconds": self._seconds(),
            "unet_passes": self._passes(),
            "adversarial": self.method.adversarial,
            "peak_memory_mb": peak_memory_mb(),
            **({"memory": plan.memory} if plan.memory else {}),
            **({"inference": part.describe(plan.registry)} if part is not None else {}),
        }
        of_unet = {name: value for name, value in tensors.items() if name not in of_part}
        return Edit(of_unet, info, self._history, self._adversaries, of_part, plan.registry)

    def _prepare(self, stack: ExitStack, context: ErasureContext, resume: Checkpoint | None) -> int:
        """Make the UNet ready to be trained, and the method; gives the step to begin with."""
        model, settings, parameters = self.plan.model, self.settings, self.parameters
        self._began, self._passes_before = time.perf_counter(), model.passes.snapshot()
        context.parameters = parameters
        stack.enter_context(
            training_passes(
                context.family,
                parameters,
                precision=settings.precision,
                parts=settings.accumulate,
                gradient_checkpointing=settings.gradient_checkpointing,
                compile_backend=settings.compile_unet,
                limit=self.plan.memory_limit,
            )
        )
        stack.enter_context(_masters(parameters, context))
        self.accelerator.wait_for_everyone()  # all have read what the main one writes over
        self._begin_history(resume)
        self.optimizer = make_optimizer(parameters, settings)
        if settings.compile_unet:
            self._status("compiling the UNet: the first passes take minutes")
        try:
            self.method.prepare(context)
        except KeyboardInterrupt as stop:
            raise self._stop.interrupted(
                "Stopped while preparing, before the first step. " + self._how_to_go_on()
            ) from stop
        _ = context.neutral_embeds, context.erased_embeds  # while the text encoder is near
        stack.enter_context(idle_parts_offloaded(model.pipeline, settings.offload))
        if resume:
            self._take(resume)
        self._loop_began = time.perf_counter()
        return resume.step if resume else 0

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}

    def _passes(self) -> dict[str, int]:
        """UNet passes of this run, with those of the runs it goes on from."""
        return (self.plan.model.passes - self._passes_before).as_dict()

    def _seconds(self) -> dict[str, float]:
        """The same of seconds: in all, and of the training steps alone."""
        began, now = {"total": self._began, "loop": self._loop_began}, time.perf_counter()
        return {k: round(self._seconds_before[k] + now - start, 3) for k, start in began.items()}

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(
            step,
            self._trained(),
            optimizer_tensors(self.optimizer, self.parameters),
            self.method.state_dict(),
            self._adversaries,
            self._passes(),
            self._seconds(),
        )

    def _loop(self, start: int) -> None:
        total, every = self.settings.steps, self.settings.checkpoint_every
        step, whole = start, True  # whole: the state in memory is that after `step` steps
        try:
            for callback in self.callbacks:
                callback.on_start(start, total)
            self._show_weights(start)
            while step < total:
                whole = False
                record = self._step(step)
                self._keep_adversaries(step)
                self._record(record)
                step, whole = step + 1, True
                for callback in self.callbacks:
                    callback.on_step(record)
                self._show_weights(step)
                if self._asked_to_stop():
                    raise KeyboardInterrupt
                if self.folder and every and step % every == 0 and step < total:
                    self._check_folder()
                    self._checkpoint(step).save(self.folder / UNPROVEN)
            self._check_finite(step)
        except KeyboardInterrupt as stop:
            self._check_folder()
            saved = False
            if whole and self.folder:
                with suppress(KeyboardInterrupt):  # another Ctrl-C
                    self._checkpoint(step).save(self.folder / CHECKPOINT)
                    saved = True
            state = "which is saved" if saved else "which is not saved"
            raise self._stop.interrupted(
                f"Stopped at step {step} of {total}, {state}. {self._how_to_go_on()}"
            ) from stop
        finally:
            if self.folder:
                with suppress(OSError):  # gone with the folder
                    (self.folder / UNPROVEN).unlink(missing_ok=True)

    def _step(self, step: int) -> dict[str, Any]:
        empty = {"erase_loss": None, "preserve_loss": None, "timestep": None, "adversary": None}
        self.method.begin_step(step)
        output = self.method.training_step(step)
        if output is None:
            self._check_finite(step)
            self._prove()
            return {"step": step, "loss": None, **empty}
        loss = self._mean(float(output.loss.detach()))
        if not math.isfinite(loss):
            raise TrainingError(f"The loss is {loss} at {self._mend(step)}")
        self._prove()
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(output.loss)
        if self.accelerator.num_processes > 1:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        if self.settings.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        self.optimizer.step()
        parts = {name: self._mean(output.record.get(name)) for name in _LOSSES}
        return {"step": step, "loss": loss, **empty, **output.record, **parts}

    def _mean(self, value: Any) -> Any:
        """A number's mean over all processes."""
        if self.accelerator.num_processes == 1 or value is None:
            return value
        device = self.accelerator.device
        return float(self.accelerator.reduce(torch.tensor(value, device=device), "mean"))

    def _asked_to_stop(self) -> bool:
        """Whether a signal came to this process or to one that it shares the work with."""
        return bool(self._mean(float(self._stop.received is not None)))

    def _status(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_status(text)

    def _keep_adversaries(self, step: int) -> None:
        every, last = max(1, self.settings.steps // ADVERSARY_SNAPSHOTS), self.settings.steps - 1
        embeds = self.method.adversaries() if step % every == 0 or step == last else None
        for e, embed in enumerate(() if embeds is None else embeds):
            self._adversaries[f"{step:06d}.{e}"] = embed.detach().clone().cpu()

    def _show_weights(self, step: int) -> None:
        values = _Edited(lambda: self.method.edited(self._trained()))
        for callback in self.callbacks:
            callback.on_weights(step, values)

    def _check_finite(self, step: int) -> None:
        if not all(bool(p.isfinite().all()) for p in self.parameters.values()):
            raise TrainingError(f"The weights are not finite after {self._mend(step)}")

    def _prove(self) -> None:
        """The last checkpoint has given a finite step: from now on it is the good one."""
        if self.folder and (self.folder / UNPROVEN).exists():
            (self.folder / UNPROVEN).replace(self.folder / CHECKPOINT)

    def _begin_history(self, resume: Checkpoint | None) -> None:
        """Start with the records up to `resume`, in memory and on disk."""
        self._history = list(resume.history) if resume else []
        if self.folder:
            atomic_write_text(self.folder / HISTORY, history_lines(self._history))
            self._check_folder = watched(self.folder)

    def _record(self, record: dict[str, Any]) -> None:
        self._history.append(record)
        if self.folder:
            self._check_folder()
            path = self.folder / HISTORY
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(history_lines([record]))

    def _take(self, resume: Checkpoint) -> None:
        """Go on from there."""
        found = {name: value.shape for name, value in resume.parameters.items()}
        if found != {name: p.shape for name, p in self.parameters.items()}:
            raise EditError(
                "The checkpoint is of another model or scope; resume with what the run began with."
            )
        with torch.no_grad():
            for name, value in resume.parameters.items():
                self.parameters[name].copy_(value)
        load_optimizer_tensors(self.optimizer, self.parameters, resume.optimizer)
        self.method.load_state_dict(resume.method)
        self._adversaries, self._seconds_before = dict(resume.adversaries), dict(resume.seconds)
        self._passes_before = self.plan.model.passes.snapshot() - PassCount(**resume.passes)

    def _mend(self, step: int) -> str:
        return (
            f"step {step}; lower learning_rate (now {self.settings.learning_rate:g}) or "
            f"keep_weight. {self._last_good()}"
        )

    def _last_good(self) -> str:
        if self.folder and (self.folder / CHECKPOINT).is_file():
            return f"The last good checkpoint is {self.folder / CHECKPOINT}."
        return "No checkpoint had been saved yet."

    def _how_to_go_on(self) -> str:
        if self.folder and (self.folder / CHECKPOINT).is_file():
            return f"Go on with: erasekit erase --resume {shlex.quote(str(self.folder))}"
        return "There is no checkpoint to go on from; start the run anew."


@contextmanager
def _masters(parameters: Mapping[str, nn.Parameter], context: ErasureContext) -> Iterator[None]:
    """For the block, the trained parameters are fp32 and have gradients."""
    stored = {name: p.dtype for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)
    frozen = context.frozen  # the original values, before anything changes
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.grad = None
            parameter.data = frozen.values[name].to(stored[name])
            parameter.requires_grad_(False)


def make_accelerator(device: torch.device) -> Accelerator:
    """The processes of the run, as `accelerate launch` or `torchrun` started them; else this one.

    The precision that the UNet computes in is a setting of each run, and not of the process.

    Raises:
        ConfigError: the process has an Accelerator of another kind already.
    """
    launched = int(os.environ.get("WORLD_SIZE") or 1) > 1
    try:
        return Accelerator(mixed_precision="no", cpu=launched and device.type == "cpu")
    except ValueError as error:
        raise ConfigError(
            "This process has an Accelerator of another precision or device already; make it with "
            f"mixed_precision='no', and set erasekit's own precision ({error})."
        ) from error


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Adam over the parameters that are trained, which may be none.

    On the CPU in torch's fused form: one pass over each tensor in place of a dozen.

    Raises:
        MissingExtraError: 8-bit Adam without bitsandbytes.
    """
    values = [{"params": list(parameters.values())}]
    if settings.optimizer == "adam":
        on_cpu = bool(parameters) and all(p.device.type == "cpu" for p in parameters.values())
        return torch.optim.Adam(values, lr=settings.learning_rate, fused=on_cpu or None)
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError as error:
        raise MissingExtraError("The optimizer 'adam8bit'", "8bit") from error
    optimizer: torch.optim.Optimizer = Adam8bit(values, lr=settings.learning_rate)
    return optimizer


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocator refused: a GPU's, or the CPU's, which raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class _Edited(UserDict[str, Tensor]):
    """What an edit would hold now; made when somebody looks."""

    def __init__(self, make: Callable[[], dict[str, Tensor]]) -> None:
        self._make = make

    @cached_property
    def data(self) -> dict[str, Tensor]:  # type: ignore[override]
        return self._make()
