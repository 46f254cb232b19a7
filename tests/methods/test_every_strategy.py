"""The strategy tester, on a strategy for which no method is registered."""

from __future__ import annotations

from collections.abc import Iterable

from erasekit.methods.gradient import ErasedBatch, KeepBatch, PreservationStrategy
from erasekit.plugin.descriptors import StrategyDescriptor
from erasekit.plugin.hookspecs import hookimpl
from tests.methods.method_tester import StrategyTester as _Tester


class KeepErasedItself(PreservationStrategy):
    """Keeps the erased concept where it was: opposes the erase term."""

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        return KeepBatch(batch.latents, batch.timesteps, batch.prompt_embeds, batch.noise_pred)


class Hooks:
    @hookimpl
    def erasekit_register_strategies(self) -> Iterable[StrategyDescriptor]:
        target = f"{KeepErasedItself.__module__}:{KeepErasedItself.__name__}"
        return [StrategyDescriptor("keep-erased", "", target)]


class TestStrategy(_Tester):
    strategy = "keep-erased"
    plugins = (Hooks(),)
    settings = {"keep_weight": 0.5}  # noqa: RUF012
