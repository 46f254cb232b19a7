"""Which of the UNet's parameters an erasure may change, and their original values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from erasekit.concepts import Concept
from erasekit.errors import ScopeError, UnknownNameError

_NOT_IN_NOXATTN = ("attn2", "time_embedding", "conv_norm_out", "conv_out")
_SCOPES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "xattn": ("cross-attention (objects, styles)", lambda name: "attn2" in name),
    "xattn-kv": (
        "keys and values of cross-attention",
        lambda name: "attn2.to_k" in name or "attn2.to_v" in name,
    ),
    "noxattn": (
        "all but cross-attention, time embedding and output layers (nudity)",
        lambda name: not any(part in name for part in _NOT_IN_NOXATTN),
    ),
    "selfattn": ("self-attention", lambda name: "attn1" in name),
    "full": ("every parameter", lambda name: True),
}
REGEX_PREFIX = "re:"


@dataclass(frozen=True)
class ParameterScope:
    """A named selector of UNet parameters.

    `name` is one of `ParameterScope.names()`, or "re:PATTERN" for the parameters whose name the
    regular expression finds.

    Raises:
        UnknownNameError: no such scope.
        ScopeError: the pattern is not a regular expression.
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name.startswith(REGEX_PREFIX):
            if self.name not in _SCOPES:
                hint = "Or select by name: 're:mid_block'."
                raise UnknownNameError("scope", self.name, _SCOPES, hint)
            return
        try:
            re.compile(self.name.removeprefix(REGEX_PREFIX))
        except re.error as error:
            raise ScopeError(
                f"The scope {self.name!r} is not a regular expression: {error}."
            ) from error

    @staticmethod
    def names() -> dict[str, str]:
        """The named scopes, each with what it is for."""
        return {name: help for name, (help, _) in _SCOPES.items()}

    @classmethod
    def for_concepts(cls, concepts: Iterable[Concept]) -> ParameterScope:
        """The default scope: `noxattn` where an explicit concept is among them, else `xattn`."""
        explicit = any(concept.kind == "explicit" for concept in concepts)
        return cls("noxattn" if explicit else "xattn")

    def matches(self, parameter: str) -> bool:
        """Whether the parameter of this name is in the scope."""
        if self.name.startswith(REGEX_PREFIX):
            return re.search(self.name.removeprefix(REGEX_PREFIX), parameter) is not None
        return _SCOPES[self.name][1](parameter)

    def select(self, unet: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters in scope, by name, in the UNet's order.

        Raises:
            ScopeError: none matches.
        """
        selected = {name: p for name, p in unet.named_parameters() if self.matches(name)}
        if not selected:
            raise ScopeError(
                f"The scope {self.name!r} selects no parameter of this model; "
                f"use one of {', '.join(_SCOPES)}."
            )
        return selected


class FrozenWeights:
    """The original values of the parameters in scope: the frozen model without a second copy.

    `with frozen.swapped():` makes the UNet the frozen one for the block. Modules are given other
    parameter objects and get their own back, so a graph recorded before the block stays valid.

    Args:
        unet: the module that owns the parameters.
        parameters: the parameters in scope by name; their present values are kept.
    """

    def __init__(self, unet: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.values = {name: p.detach().clone() for name, p in parameters.items()}
        self._slots: list[tuple[nn.Module, str, nn.Parameter]] = []
        for name, value in self.values.items():
            owner, _, attribute = name.rpartition(".")
            frozen = nn.Parameter(value, requires_grad=False)
            self._slots.append((unet.get_submodule(owner), attribute, frozen))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Run the block with the original weights."""
        trained = [module._parameters[attribute] for module, attribute, _ in self._slots]
        for module, attribute, frozen in self._slots:
            module._parameters[attribute] = frozen
        try:
            yield
        finally:
            for (module, attribute, _), parameter in zip(self._slots, trained, strict=True):
                module._parameters[attribute] = parameter
