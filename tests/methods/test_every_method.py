"""The shared tester over every method that is registered, so a new one gets its tests for free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from erasekit.errors import EditError
from erasekit.plugin.registry import Registry
from erasekit.testing import tiny_model
from erasekit.training.checkpoint import CHECKPOINT, Checkpoint
from tests.methods.method_tester import MethodTester

for _name in Registry().methods():
    _class = f"Test_{_name.replace('-', '_')}"
    globals()[_class] = type(_class, (MethodTester,), {"method": _name})


class TestASecondOrderSolver(MethodTester):
    """A trajectory that is sampled on looks back at the step before, also after a resumption."""

    method = "gumbel"
    settings: ClassVar[dict[str, float | str]] = {
        "trajectory_solver": "dpmsolver++",
        "keep_guidance": 3.0,
    }


class TestWordsByTheirBounds(MethodTester):
    """What the search knows of a word is in the checkpoint."""

    method = "argmax"
    settings: ClassVar[dict[str, int | str]] = {
        "candidates_by": "bounds",
        "candidates": 2,
        "refresh": 1,
    }


class TestTrajectoriesThatGiveWay(MethodTester):
    """Stopped within a round and at its end, a run goes on with the noises of that round."""

    method = "gumbel"
    settings: ClassVar[dict[str, int]] = {"trajectory_refresh": 2}

    def test_a_checkpoint_that_does_not_say_what_was_sampled_is_refused(
        self, tmp_path: Path
    ) -> None:
        self.erase(tiny_model(), folder=tmp_path)
        checkpoint = Checkpoint.load(tmp_path / CHECKPOINT)
        kept = {k: v for k, v in checkpoint.method.items() if not k.startswith("sampled")}
        with pytest.raises(EditError, match="which trajectories were sampled"):
            self.erase(tiny_model(), resume=replace(checkpoint, method=kept))

    def test_each_round_costs_what_it_samples(self) -> None:
        """Four rounds of the whole trajectories of what is erased, for one: 2 of 4 steps each."""
        settings = {"steps": 8, "keep_weight": 0.0}
        passes = [
            self.erase(tiny_model(), **settings, trajectory_refresh=every).info["unet_passes"]
            for every in (0, 2)
        ]
        more = passes[1]["forward"] - passes[0]["forward"]
        assert more >= 3 * 2 * 4 * 2


del MethodTester
