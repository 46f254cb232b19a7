"""The frozen model without a second copy: swap in the original tensors of the scope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


class FrozenWeights:
    """The original values of the parameters in scope.

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
