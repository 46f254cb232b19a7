"""The shared tester over every method that is registered, so a new one gets its tests for free."""

from __future__ import annotations

from typing import ClassVar

from erasekit.plugin.registry import Registry
from erasekit.testing import tiny_model
from tests.methods.method_tester import MethodTester

for _name in Registry().methods():
    _class = f"Test_{_name.replace('-', '_')}"
    globals()[_class] = type(_class, (MethodTester,), {"method": _name})


class TestTrajectoriesThatGiveWay(MethodTester):
    """Stopped within a round and at its end, a run goes on with the noises of that round."""

    method = "gumbel"
    settings: ClassVar[dict[str, int]] = {"trajectory_refresh": 2}

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
