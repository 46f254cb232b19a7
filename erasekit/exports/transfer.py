"""An edit on another model than the one it was made from: what is done, and what isn't known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from erasekit.edits import Edit
from erasekit.errors import EditError
from erasekit.models.loading import LoadedModel


def as_difference(edit: Edit, base: LoadedModel, other: LoadedModel) -> Edit:
    """The edit for `other` that changes its weights by what the edit changed in `base`'s.

    W_other + (W' - W_base), so that what `other` learnt in these weights stays, where `edit` itself
    would put base's edited weights in their place.

    Raises:
        EditError: `base` is not the edit's model, or the edit does not fit `other`.
    """
    if base.hash != edit.base_hash:
        raise EditError(
            f"The difference is taken from the model that the edit was made from, with hash "
            f"{edit.base_hash[:16]}; {base.id!r} has {base.hash[:16]}."
        )
    ours, theirs = (
        {name: p.detach().cpu().float() for name, p in edit.parameters_of(model.unet).items()}
        for model in (base, other)
    )
    tensors = {
        name: theirs[name] + (value.float().cpu() - ours[name])
        for name, value in edit.tensors.items()
    }
    return replace(edit, tensors=tensors)


def provenance(edit: Edit, model: LoadedModel, *, difference: bool) -> dict[str, Any]:
    """Where an applied model comes from, as JSON has it; "unknown" is what nobody has measured."""
    facts: dict[str, Any] = {
        "edit": edit.info,
        "applied_to": {"id": model.id, "hash": model.hash},
        "how": "difference" if difference else "values",
        "same_model": model.hash == edit.base_hash,
        "unknown": [],
    }
    if facts["same_model"]:
        return facts
    base, concepts = edit.info["base_model"]["id"], ", ".join(edit.info["concepts"])
    how = (
        "Its weights were changed by the edit's difference"
        if difference
        else "Its weights in the edit's scope were replaced by edited ones of the base model, so "
        "what it had learnt there is lost"
    )
    unknown = [
        f"This edit was made from {base!r} (hash {edit.base_hash[:16]}) and applied to "
        f"{model.id!r} (hash {model.hash[:16]}). {how}.",
        f"Not known: whether {concepts} is gone from {model.id!r}, and what else changed there. "
        f"Erasure and side effects were measured on {base!r} alone; measure them again.",
    ]
    return {**facts, "unknown": unknown}
