"""UNet passes of an erasure before it has run: by finished ones like it, else by its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from erasekit.bench.store import RecordStore
from erasekit.bench.sweep import PlannedCell
from erasekit.diffusion.concept_space import words_for
from erasekit.methods.base import rows_per_step
from erasekit.methods.gradient import PreservationStrategy
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry
from erasekit.training.settings import method_class


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
        """The known cost, else what the settings come to."""
        known = self.known(planned)
        if known is not None:
            return known
        made_by = planned.cell.identity["erasure"]
        return passes_by_settings(made_by, model, registry)


def passes_by_settings(made_by: Mapping[str, Any], model: LoadedModel, registry: Registry) -> float:
    """What an erasure comes to by its method's settings, roughly.

    What the method itself says (`ErasureMethod.expected_passes`), else: Trajectories: every solver
    step is two passes, with and without the prompt, or one where words are sampled unguided, and
    words are sampled as far as they are drawn. A step: each row of the erase branch, and of the
    keep branch where there is one, forward and backward; each ascent with passes of its own the
    same. A method without `batch_size`, such as a closed form, counts as nothing.

    Args:
        made_by: the erasure's part of a cell's identity.
        model: whose words a concept space defaults to.
        registry: where method and strategy are registered.
    """
    settings = made_by["settings"]
    descriptor = registry.method(made_by["method"])
    erased = len(made_by["erasure"]["erased"])
    told = method_class(descriptor).expected_passes(settings, erased)
    if told is not None:
        return told
    if settings.get("batch_size") is None:
        return 0.0
    rows = rows_per_step(settings["batch_size"], erased)
    name = descriptor.options.get("strategy")
    strategy = registry.strategy(name).load() if name else None
    keeps = strategy is not None and strategy.keep is not PreservationStrategy.keep
    words = 0
    if strategy is not None and strategy.uses_concept_space:
        source = settings["concept_space"] or model.descriptor.concept_space
        words = min(len(words_for(model, source)), settings["num_concepts"])
        words = min(words, settings["centres"] or words)
    kept_rows = settings.get("keep_rows", 1) if keeps else 0  # beside each row
    branches = 1 + kept_rows
    ascents = 0 if settings.get("shared_ascent") else settings.get("ascent_steps", 0)
    per_step = 3.0 * rows * (branches + ascents * max(1, kept_rows))
    if settings.get("mixture") or settings.get("hard") is False:  # a frozen pass for each mixture
        per_step += rows * kept_rows
    if refresh := settings.get("refresh"):  # words scored by a frozen and a trained pass
        per_step += 2 * erased * min(settings["candidates"], words) / refresh
    sampled, solver_steps = 0.0, settings.get("trajectory_steps", 0)
    if settings.get("latents_from") == "current":  # half of one on average, anew in each step
        searched = ascents * max(1, kept_rows)
        per_step += rows * ((branches + searched) * solver_steps + 2 + kept_rows + searched)
    elif "trajectories" in settings:
        if settings.get("timesteps") == "bin":  # frozen predictions anew
            per_step += rows * (2 + kept_rows)
        steps = settings["steps"]
        rounds = math.ceil(steps / (settings.get("trajectory_refresh") or steps))
        whole = erased * math.ceil(settings["trajectories"] / erased)
        of_words = words * settings.get("keep_trajectories", 0)
        drawn = steps_drawn(kept_rows * rows * steps / rounds, of_words, solver_steps)
        sides = 1 if settings.get("keep_guidance") == 1 else 2
        sampled = rounds * (2 * whole * solver_steps + sides * drawn)
    return float(settings["steps"] * per_step + sampled)


def steps_drawn(draws: float, trajectories: int, solver_steps: int) -> float:
    """Solver steps that are sampled on average, where each draw is uniform over all there are.

    A trajectory is sampled as far as it is drawn: beyond step j, unless all draws miss the steps
    from j on.
    """
    if not trajectories:
        return 0.0
    missed = (1 - (1 - j / solver_steps) / trajectories for j in range(solver_steps))
    return float(trajectories * sum(1 - miss**draws for miss in missed))


def _like(identity: Mapping[str, Any]) -> str:
    made_by = identity["erasure"]
    return f"{made_by['method']} {made_by['settings']} {len(made_by['erasure']['erased'])}"
