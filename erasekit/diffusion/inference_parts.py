"""What an edit does while a pipeline draws, beside the weights it changes.

An *inference part* is an adapter on some layers, or a hook on guidance: named by the plugin that
registers it, made of JSON-ready settings and, where it needs them, tensors of its own.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from erasekit.config import Settings, resolve
from erasekit.errors import EditError, PluginError
from erasekit.models.families import FamilyAdapter
from erasekit.plugin.registry import Registry

Kind = Literal["adapter", "hook"]


@dataclass(frozen=True)
class InferenceRecord:
    """An inference part as data.

    Attributes:
        name: what it is registered as.
        settings: JSON-ready, for the part's `Config`.
        tensors: by name; may be empty.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def describe(self, registry: Registry) -> dict[str, Any]:
        """What `edit.json` says of it: name, kind, plugin and its version, settings.

        Raises:
            UnknownNameError: it is not registered.
        """
        owner = registry.owner(registry.inference_part(self.name))
        versions = {plugin.name: plugin.version for plugin in registry.manager.plugins}
        return {
            "name": self.name,
            "kind": part_class(self.name, registry).kind,
            "plugin": owner.partition(":")[0],
            "plugin_version": versions.get(owner, "unknown"),
            "settings": dict(self.settings),
        }

    @property
    def identity(self) -> str:
        """64 hex digits over name, settings and every bit of the tensors."""
        text = json.dumps([self.name, self.settings], sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(text.encode())
        for name, tensor in sorted(self.tensors.items()):
            values = tensor.detach().to("cpu").contiguous()
            digest.update(f"{name}{tuple(values.shape)}{values.dtype}".encode())
            digest.update(values.float().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Merged:
    """An inference part as changed weights.

    Attributes:
        tensors: new values by the UNet's parameter names.
        loss: what the weights can't carry, as a sentence; "" where they are the part exactly.
    """

    tensors: dict[str, Tensor]
    loss: str = ""


class InferencePart(ABC):
    """Base of all inference parts. Register one with `erasekit_register_inference_parts`.

    Class attributes:
        Config: its settings, as a method's are.
        kind: "adapter" where it adds to layers, "hook" where it changes how images are drawn.
    """

    Config: ClassVar[type[Settings]] = Settings
    kind: ClassVar[Kind] = "hook"

    def __init__(self, config: Settings, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.tensors = config, dict(tensors)

    def check(self, family: FamilyAdapter) -> None:
        """Raise `EditError` where it does not fit this model; nothing is changed yet."""

    @abstractmethod
    @contextmanager
    def installed(self, family: FamilyAdapter) -> Iterator[None]:
        """For the block, the pipeline works with this part; afterwards it is as it was.

        Parts are installed with the edit's weights in place. Several may be installed at once,
        and are removed in reverse order.
        """
        yield

    def merged(self, parameters: Mapping[str, Tensor]) -> Merged:
        """The part as changed weights, from the UNet's parameters by name.

        Raises:
            EditError: no weights can carry it; this is so unless a subclass says otherwise.
        """
        raise EditError(
            "This edit works while images are drawn and is in no weight, so other programs can't "
            "have it; export --to weights, which erasekit reads."
        )


def part_class(name: str, registry: Registry) -> type[InferencePart]:
    """The class that is registered under this name.

    Raises:
        UnknownNameError: there is none.
        PluginError: it can't be imported, or is no inference part.
    """
    descriptor = registry.inference_part(name)
    target = descriptor.load()
    if not (isinstance(target, type) and issubclass(target, InferencePart)):
        raise PluginError(
            f"The inference part {name!r} points at {descriptor.target!r}, which is no "
            "InferencePart; mend or uninstall its plugin."
        )
    return target


def is_description(value: Any) -> bool:
    """Whether `value` may stand in `edit.json` as its inference part; None says there is none."""
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("settings"), dict)
        and all(isinstance(value.get(key), str) for key in ("name", "kind", "plugin"))
    )


def check_installed(info: Mapping[str, Any], registry: Registry) -> None:
    """Refuse an inference part that is not registered, by an `EditError` of what to install."""
    if info["name"] not in registry.inference_parts():
        raise EditError(
            f"This edit works by the inference part {info['name']!r} of {info['plugin']}, which is "
            f"not installed; install it with: python -m pip install {info['plugin']}."
        )


def build_part(record: InferenceRecord, registry: Registry) -> InferencePart:
    """The part, ready to be installed.

    Raises:
        UnknownNameError, PluginError: as `part_class`.
        ConfigError: its settings are not those of the plugin that is installed.
        EditError: its tensors are not.
    """
    target = part_class(record.name, registry)
    (config,) = resolve((target.Config,), [record.settings], f"inference part {record.name!r}")
    return target(config, record.tensors)
