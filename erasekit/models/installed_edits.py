"""Which edits a UNet carries now, and which model it is with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from erasekit.errors import EditError

_CARRIED = "_erasekit_carried"
"""Attribute of a UNet that lists the edits applied to it; absent where there are none."""


@dataclass(frozen=True)
class CarriedEdit:
    """One edit that a UNet carries now.

    Attributes:
        base: hash of the model under all edits; "" where nobody asked.
        parameters: names of the parameters it changed.
        inference: identity of its inference part, or "".
    """

    base: str
    parameters: frozenset[str]
    inference: str = ""


def carried_edits(unet: nn.Module) -> tuple[CarriedEdit, ...]:
    """The edits that a UNet carries now, the first one first."""
    return tuple(unet.__dict__.get(_CARRIED, ()))


@contextmanager
def carrying(unet: nn.Module, edit: CarriedEdit) -> Iterator[None]:
    """For the block, the UNet is known to carry this edit."""
    edits = unet.__dict__.setdefault(_CARRIED, [])
    edits.append(edit)
    try:
        yield
    finally:
        edits.pop()
        if not edits:
            del unet.__dict__[_CARRIED]


def hash_with_parts(weights: str, unet: nn.Module) -> str:
    """Hash of a model whose weights have this one, with the inference parts it carries."""
    for edit in carried_edits(unet):
        if edit.inference:
            weights = hash_with_part(weights, edit.inference)
    return weights


def hash_with_part(model: str, identity: str) -> str:
    """Hash of the model of this hash with one more inference part, 64 hex digits."""
    return hashlib.sha256(f"{model}|{identity}".encode()).hexdigest()


def check_base(
    base_hash: str,
    base_id: str,
    parameters: Iterable[str],
    found: str,
    carried: Sequence[CarriedEdit],
) -> None:
    """Check that an edit may be applied to a model.

    It may where the model is the one it was made from, and where that one carries edits of which
    at most one, this one included, changes parameters.

    Args:
        base_hash, base_id: the model that the edit was made from.
        parameters: names of the parameters that the edit changes.
        found: hash of the model as it is now.
        carried: the edits it carries.

    Raises:
        EditError: it may not; says why.
    """
    if found == base_hash:
        return
    if carried and carried[0].base == base_hash:
        names = list(parameters)
        changed = frozenset().union(*(edit.parameters for edit in carried))
        if not names or not changed:
            return
        if shared := [name for name in names if name in changed]:
            raise EditError(
                f"This edit and one that is applied already change the same {len(shared)} "
                f"parameters, such as {shared[0]!r}; apply one at a time, or add --force "
                "(force=True), and the last one wins."
            )
    raise EditError(
        f"This edit was made from a model with hash {base_hash[:16]}, and this "
        f"model has hash {found[:16]}; load {base_id!r}, or "
        "add --force (force=True) to apply it all the same."
    )
