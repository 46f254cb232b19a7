"""Erase concepts from a model: the whole way from names to an `Edit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from erasekit.concepts import Erasure
from erasekit.config import Settings, flatten
from erasekit.diffusion.scope import ParameterScope
from erasekit.edits import Edit, save_tensors
from erasekit.files import atomic_write_text
from erasekit.methods.base import ErasureContext
from erasekit.models.loading import LoadedModel, wrap_pipeline
from erasekit.models.module_state import held_still
from erasekit.models.processes import Processes
from erasekit.plugin.registry import Registry
from erasekit.training.callbacks import Callback
from erasekit.training.checkpoints import CHECKPOINT, Checkpoint
from erasekit.training.memory import memory_needs, plan_memory
from erasekit.training.provenance import command, peak_memory_mb, versions
from erasekit.training.settings import TrainingSettings, build_method, resolve_settings
from erasekit.training.trainer import Trainer

ADVERSARIES = "adversary.safetensors"


def erase(
    model: LoadedModel | Any,
    method: str,
    erasure: Erasure | str,
    *,
    registry: Registry | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | str | None = None,
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Checkpoint | None = None,
    history: Sequence[dict[str, Any]] = (),
    processes: Processes | None = None,
) -> Edit:
    """Erase concepts from a model. The model is left as it was; the edit is returned.

    A pipeline that the caller goes on using keeps its weights, its `requires_grad` flags, its
    train or eval mode and its progress bar.

    Args:
        model: a `LoadedModel`, or a diffusers pipeline in memory.
        method: name of a registered method.
        erasure: what goes; a text is an erasure of one object.
        registry: everything that is registered; None loads it.
        seed: of the run; the same seed on the same machine gives the same edit.
        settings: hyperparameters that override all defaults.
        recipe: hyperparameters that override the model's defaults.
        folder: keep checkpoints and history there; None keeps nothing on disk.
        callbacks: who hears of the run.
        resume: go on from this checkpoint.
        history: the records up to `resume`.
        processes: who shares the work, each calling this alike; None takes those that
            `accelerate launch` or `torchrun` started. The main one alone writes and calls back.

    Raises:
        UnknownNameError: no such method or scope.
        ConfigError: an unknown or ill-typed hyperparameter.
        ConceptError: a concept does not fit the tokenizer.
        ScopeError: the scope selects nothing.
        TrainingError: a loss is not finite.
        Interrupted: Ctrl-C or SIGTERM.
    """
    registry = registry or Registry()
    if not isinstance(model, LoadedModel):
        name = str(getattr(model, "name_or_path", None) or "in memory")
        model = wrap_pipeline(model, name, registry=registry)
    loaded: LoadedModel = model
    processes = processes or Processes.launched(loaded.family.device.type)
    if not processes.is_main:
        folder, callbacks = None, ()
    if isinstance(erasure, str):
        erasure = Erasure((loaded.concept(erasure),))
    plan = plan_erasure(loaded, method, erasure, registry, settings, recipe)
    training, built = build_method(registry.method(method), registry, plan)
    scope = resolve_scope(training, erasure)
    wanted, memory = erasure, ""
    if training.max_memory:
        choices, memory = _memory_choices(loaded, scope, plan, erasure, processes)
        settings = {**(settings or {}), **choices}
        plan = plan_erasure(loaded, method, erasure, registry, settings, recipe)
        training, built = build_method(registry.method(method), registry, plan)
        for callback in callbacks:
            callback.on_status(memory)

    def make_context(parameters: dict[str, torch.nn.Parameter]) -> ErasureContext:
        def on_status(text: str) -> None:
            for callback in callbacks:
                callback.on_status(text)

        return ErasureContext(loaded, wanted, registry, seed, parameters, on_status, training.steps)

    trainer = Trainer(training, folder, callbacks, processes)
    with held_still(loaded.pipeline):
        result = trainer.fit(
            built, make_context, loaded.unet, scope, loaded.passes, resume=resume, history=history
        )
    own = {name for name, _ in loaded.unet.named_parameters()}
    part, of_part = built.inference(), {}
    if part is not None:
        of_part = {**{n: v for n, v in result.tensors.items() if n not in own}, **part.tensors}
    info = {
        "method": method,
        "concepts": [concept.text for concept in erasure.erased],
        "neutral": erasure.neutral,
        "keep": list(erasure.keep),
        "config": {**flatten(plan), "scope": scope.name},
        "seed": seed,
        "device": loaded.family.device.type,
        "processes": processes.count,
        "base_model": {"id": loaded.id, "hash": loaded.hash},
        "versions": versions(),
        "command": command(),
        "seconds": result.seconds,
        "unet_passes": result.passes.as_dict(),
        "adversarial": built.adversarial,
        "peak_memory_mb": peak_memory_mb(),
        **({"memory": memory} if memory else {}),
        **({"inference": part.describe(registry)} if part is not None else {}),
    }
    tensors = {name: value for name, value in result.tensors.items() if name not in of_part}
    return Edit(tensors, info, result.history, result.adversaries, of_part, registry)


def plan_erasure(
    model: LoadedModel,
    method: str,
    erasure: Erasure,
    registry: Registry,
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | str | None = None,
) -> tuple[Settings, ...]:
    """Check everything that can be checked before work begins, and give the settings.

    Raises: as `erase`.
    """
    plan = resolve_settings(registry.method(method), registry, model.descriptor, recipe, settings)
    training, _ = build_method(registry.method(method), registry, plan)
    resolve_scope(training, erasure).select(model.unet)
    for prompt in (*(c.text for c in erasure.erased), *erasure.keep, erasure.neutral):
        model.family.check_prompt(prompt)
    return plan


def _memory_choices(
    model: LoadedModel,
    scope: ParameterScope,
    plan: tuple[Settings, ...],
    erasure: Erasure,
    processes: Processes,
) -> tuple[Mapping[str, Any], str]:
    """The settings that bring the run under `max_memory`, and a sentence on them."""
    settings = flatten(plan)
    needs = memory_needs(
        model.family,
        scope.select(model.unet),
        settings,
        erased=len(erasure.erased),
        kept=len(erasure.keep),
        processes=processes.count,
    )
    chosen = plan_memory(needs, settings, settings["max_memory"])
    return chosen.choices, chosen.text


def resolve_scope(training: TrainingSettings, erasure: Erasure) -> ParameterScope:
    """The scope of a run; "auto" follows the kinds of the erased concepts."""
    if training.scope == "auto":
        return ParameterScope.for_concepts(erasure.erased)
    return ParameterScope(training.scope)


def save_run(edit: Edit, folder: Path) -> None:
    """Write a finished run: edit, history, adversaries; the checkpoint is no longer needed.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    import json

    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in edit.history)
    atomic_write_text(folder / "history.jsonl", lines)
    if edit.adversaries:
        save_tensors(folder / ADVERSARIES, edit.adversaries)
    edit.save(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
