"""UNet passes of an erasure before it has run: by finished ones like it, else by its method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erasekit.bench.store import RecordStore
from erasekit.bench.sweep import PlannedCell
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry
from erasekit.training.plan import plan_erasure


class ErasureCosts:
    """Costs of erasures, in forward passes; a backward pass counts as two.

    Args:
        store: its finished records are gone by.
    """

    def __init__(self, store: RecordStore) -> None:
        seen: dict[str, list[int]] = {}
        for record in store.records():
            if record.status == "done":
                seen.setdefault(_like(record.cell.identity), []).append(record.unet_passes)
        self._known = {like: sum(costs) / len(costs) for like, costs in seen.items()}

    def known(self, planned: PlannedCell) -> float | None:
        """Mean cost of finished erasures with this method, these settings and as many concepts."""
        return self._known.get(_like(planned.cell.identity))

    def expected(self, planned: PlannedCell, model: LoadedModel, registry: Registry) -> float:
        """The known cost, else what the method says of itself; 0 where it says nothing."""
        known = self.known(planned)
        if known is not None:
            return known
        plan = plan_erasure(
            model, planned.cell.method, planned.erasure, planned.settings, registry=registry
        )
        return plan.expected_passes() or 0.0


def _like(identity: Mapping[str, Any]) -> str:
    made_by = identity["erasure"]
    return f"{made_by['method']} {made_by['settings']} {len(made_by['erasure']['erased'])}"
