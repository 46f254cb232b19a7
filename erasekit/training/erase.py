"""Erase concepts from a model: the whole way from names to an `Edit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasekit.concepts import Erasure
from erasekit.edits import Edit
from erasekit.models.loading import LoadedModel, wrap_pipeline
from erasekit.models.pipeline_state import held_still
from erasekit.plugin.registry import Registry
from erasekit.training.checkpoint import Checkpoint
from erasekit.training.plan import Plan, plan_erasure
from erasekit.training.trainer import Callback, Trainer


def erase(
    model: LoadedModel | Any,
    erasure: Erasure | str,
    method: str = "gumbel",
    *,
    registry: Registry | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | str | None = None,
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Checkpoint | None = None,
) -> Edit:
    """Erase concepts from a model. The model is left as it was; the edit is returned.

    A pipeline that the caller goes on using keeps its weights, its `requires_grad` flags, its
    train or eval mode and its progress bar.

    Args:
        model: a `LoadedModel`, or a diffusers pipeline in memory.
        erasure: what goes; a text is an erasure of one object.
        method: name of a registered method.
        registry: where method and families are registered; None: the model's.
        seed: of the run; the same seed on the same machine gives the same edit.
        settings: hyperparameters that override all defaults.
        recipe: hyperparameters that override the model's defaults, or the name of a shipped
            recipe.
        folder: keep checkpoints and history there; None keeps nothing on disk.
        callbacks: who hears of the run.
        resume: go on from this checkpoint.

    Raises: as `plan_erasure` and `run`.
    """
    if not isinstance(model, LoadedModel):
        name = str(getattr(model, "name_or_path", None) or "in memory")
        model = wrap_pipeline(model, name, registry=registry)
    if isinstance(erasure, str):
        erasure = Erasure((model.concept(erasure),))
    plan = plan_erasure(model, erasure, method, settings, recipe, registry=registry, seed=seed)
    return run(plan, folder=folder, callbacks=callbacks, resume=resume)


def run(
    plan: Plan,
    *,
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Checkpoint | None = None,
) -> Edit:
    """Carry out a planned erasure. See `erase` for the arguments.

    Gradients are switched on meanwhile, wherever they are off.

    Raises: as `Trainer.fit`.
    """
    with held_still(plan.model.pipeline):
        return Trainer(plan, folder, callbacks).fit(resume)
