"""What every method and every preservation strategy must do, as test classes to inherit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.diffusion.scope import ParameterScope
from erasekit.edits import Edit, load_edit
from erasekit.errors import Interrupted, TrainingError
from erasekit.models.loading import LoadedModel
from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing.tiny import tiny_model
from erasekit.training.checkpoint import CHECKPOINT, Checkpoint
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback

HISTORY_KEYS = {"step", "loss", "erase_loss", "preserve_loss", "timestep", "adversary"}
ADVERSARY_KEYS = {"erased", "concept", "entropy", "shift", "nearest"}


def weights(model: LoadedModel) -> dict[str, Tensor]:
    """Copies of all weights of UNet, text encoder and autoencoder, by "part.name"."""
    pipeline = model.pipeline
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "vae": pipeline.vae}
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def assert_same_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names and, bit for bit, the same values."""
    assert list(found) == list(expected)
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:3]}"


class MethodTester:
    """What every erasure method must do, tested on the tiny model.

    Class attributes to set:
        method: registered name.
        plugins: modules (or objects) with hooks that are not installed; they are registered
            beside the installed plugins.
        settings: hyperparameters for all tests; keep it quick.
        steps_to_fall: steps in whose last third the erase loss must have fallen.
        seeded: whether the seed changes the edit; False for a closed form.
        scopes: parameter scopes that the method can work in.
        inference: name of the inference part that its edits carry in place of changed weights.
    """

    method: ClassVar[str]
    plugins: ClassVar[Sequence[object]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}
    steps_to_fall: ClassVar[int] = 24
    seeded: ClassVar[bool] = True
    scopes: ClassVar[Sequence[str]] = ("xattn-kv", "selfattn")
    inference: ClassVar[str] = ""

    # -- what the tests use -----------------------------------------------------------------

    def registry(self) -> Registry:
        """Everything installed, and `plugins`."""
        manager = PluginManager()
        for number, plugin in enumerate(self.plugins):
            if not manager.pluggy.is_registered(plugin):
                manager.register(plugin, f"under test:{number}")
        return Registry(manager)

    def erase(
        self,
        model: LoadedModel,
        *,
        concepts: Sequence[str] = ("garbage truck",),
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
        resume: Checkpoint | None = None,
        **settings: Any,
    ) -> Edit:
        """Erase `concepts` with the method under test."""
        return erase(
            model,
            self.method,
            Erasure.of(*concepts),
            registry=self.registry(),
            seed=seed,
            settings={**self.settings, **settings},
            callbacks=callbacks,
            folder=folder,
            resume=resume,
        )

    # -- the tests ----------------------------------------------------------------------------

    def test_the_same_seed_gives_the_same_edit_and_another_seed_another(self) -> None:
        first, again = self.erase(tiny_model()), self.erase(tiny_model())
        assert_same_tensors(again.stored, first.stored)
        assert again.info.get("inference") == first.info.get("inference")
        assert_same_tensors(again.adversaries, first.adversaries)
        assert again.history == first.history
        assert again.info["unet_passes"] == first.info["unet_passes"]
        other = self.erase(tiny_model(), seed=1)
        if self.seeded:
            assert any(not torch.equal(other.stored[n], v) for n, v in first.stored.items())

    def test_only_parameters_in_scope_change_and_get_a_gradient(self) -> None:
        for scope in self.scopes:
            model = tiny_model()
            before = weights(model)
            selected = ParameterScope(scope).select(model.unet)
            watcher = _ScopeWatcher(model, set() if self.inference else set(selected), before)
            edit = self.erase(model, callbacks=[watcher], scope=scope)
            assert watcher.steps == len(edit.history) > 0
            if self.inference:
                assert edit.inference is not None
                assert (edit.inference.name, list(edit.tensors)) == (self.inference, [])
            else:
                assert list(edit.tensors) == list(selected)
                assert any(not torch.equal(v, before[f"unet.{n}"]) for n, v in edit.tensors.items())

    def test_the_model_is_left_as_it_was(self) -> None:
        model = tiny_model()
        before, objects = weights(model), list(model.unet.parameters())
        random_state = torch.get_rng_state()
        self.erase(model)
        assert_same_tensors(weights(model), before)
        assert all(a is b for a, b in zip(model.unet.parameters(), objects, strict=True))
        assert all(p.grad is None and not p.requires_grad for p in model.unet.parameters())
        assert not any(module.training for module in model.unet.modules())
        assert torch.equal(torch.get_rng_state(), random_state), "use context.generator alone"
        assert torch.is_grad_enabled()

    def test_the_edit_is_applied_and_taken_back_bit_for_bit(self, tmp_path: Path) -> None:
        """As it was made, and as it is read from disk."""
        model = tiny_model()
        before, plain, hooks = weights(model), _drawn(model), _hooks(model)
        made = self.erase(model)
        made.save(tmp_path)
        for edit in (made, load_edit(tmp_path, self.registry())):
            with edit.applied(model):
                within = _drawn(model)
            assert_same_tensors(weights(model), before)
            assert _hooks(model) == hooks, "a hook is left on the pipeline"
            assert torch.equal(_drawn(model), plain)
            if self.inference:  # few steps of training may move no 8-bit pixel
                assert not torch.equal(within, plain), "the edit changes nothing that is drawn"
            if edit is made:
                first = within
        assert torch.equal(within, first), "read from disk it draws otherwise"

    def test_the_erase_loss_falls(self) -> None:
        """Beside a run that stands still: both draw the same z_t in the same step."""
        trained = self.erase(tiny_model(), steps=self.steps_to_fall)
        still = self.erase(tiny_model(), steps=self.steps_to_fall, learning_rate=1e-20)
        pairs = [
            (a["erase_loss"], b["erase_loss"])
            for a, b in zip(trained.history, still.history, strict=True)
            if a["erase_loss"] is not None
        ]
        last = pairs[-(len(pairs) // 3) :] if len(pairs) >= 3 else []
        if last:  # a closed form has none
            after, before = (sum(losses) / len(last) for losses in zip(*last, strict=True))
            assert after < 0.9 * before, f"the erase loss went from {before:.3g} to {after:.3g}"

    def test_history_has_one_line_a_step(self) -> None:
        heard = _Records()
        edit = self.erase(tiny_model(), concepts=("church", "garbage truck"), callbacks=[heard])
        assert heard.records == edit.history
        assert [record["step"] for record in edit.history] == list(
            range(edit.info["config"]["steps"])
        )
        for record in edit.history:
            assert set(record) == HISTORY_KEYS
            assert json.loads(json.dumps(record, allow_nan=False)) == record
            for key in ("loss", "erase_loss", "preserve_loss"):
                assert record[key] is None or math.isfinite(record[key])
            if record["adversary"] is not None:
                erased = [row["erased"] for row in record["adversary"]]
                assert erased == ["church", "garbage truck"]
                assert all(set(row) >= ADVERSARY_KEYS for row in record["adversary"])

    def test_several_concepts_at_once(self) -> None:
        concepts = ("garbage truck", "church", "banana")
        edit = self.erase(tiny_model(), concepts=concepts)
        assert edit.info["concepts"] == list(concepts)
        alone = self.erase(tiny_model(), concepts=concepts[:1])
        assert alone.info.get("inference") != edit.info.get("inference") or any(
            not torch.equal(alone.stored[n], v) for n, v in edit.stored.items()
        )
        assert all(bool(value.isfinite().all()) for value in edit.stored.values())

    def test_an_interrupted_run_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        whole = self.erase(tiny_model())
        total = whole.info["config"]["steps"]
        for stop in (0, total // 2):
            model, folder = tiny_model(), tmp_path / f"stopped-{stop}"
            before = weights(model)
            with _raises(Interrupted):
                self.erase(model, folder=folder, callbacks=[_CtrlC(stop)])
            assert_same_tensors(weights(model), before)
            checkpoint = Checkpoint.load(folder / CHECKPOINT)
            assert checkpoint.step == stop + 1
            resumed = self.erase(tiny_model(), folder=folder, resume=checkpoint)
            assert_same_tensors(resumed.stored, whole.stored)
            assert_same_tensors(resumed.adversaries, whole.adversaries)
            assert resumed.history == whole.history
            assert resumed.info["unet_passes"] == whole.info["unet_passes"]

    def test_a_loss_that_is_not_finite_stops_the_run(self, tmp_path: Path) -> None:
        model = tiny_model()
        before = weights(model)
        poison = _Poison(model, step=2)
        failure: TrainingError | None = None
        try:
            self.erase(model, folder=tmp_path, callbacks=[poison], steps=5, checkpoint_every=1)
        except TrainingError as error:
            failure = error
        assert_same_tensors(weights(model), before)
        assert failure or not poison.given, "a NaN weight went unnoticed"
        if failure:
            assert str(tmp_path / CHECKPOINT) in str(failure)
            checkpoint = Checkpoint.load(tmp_path / CHECKPOINT)
            assert checkpoint.step <= poison.step
            assert all(bool(v.isfinite().all()) for v in checkpoint.parameters.values())


class StrategyTester(MethodTester):
    """What every preservation strategy must do: all of `MethodTester`, beside the erase term.

    Set `strategy` to the registered name; no method needs to be registered for it.
    """

    strategy: ClassVar[str]
    method = "strategy-under-test"

    def registry(self) -> Registry:
        registry = super().registry()
        descriptor = MethodDescriptor(
            self.method,
            "the strategy under test",
            "erasekit.methods.gradient:GradientErasure",
            "",
            {"strategy": self.strategy},
        )
        registry.manager.register(_OneMethod(descriptor), "under test:strategy")
        return registry


class _OneMethod:
    def __init__(self, descriptor: MethodDescriptor) -> None:
        self.descriptor = descriptor

    @hookimpl
    def erasekit_register_methods(self) -> list[MethodDescriptor]:
        return [self.descriptor]


class _Records(Callback):
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_step(self, record: dict[str, Any]) -> None:
        self.records.append(record)


class _CtrlC(Callback):
    """Ctrl-C just after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step:
            raise KeyboardInterrupt


class _Poison(Callback):
    """Makes one weight in training NaN after a step."""

    def __init__(self, model: LoadedModel, step: int) -> None:
        self.model, self.step, self.given = model, step, False

    def on_step(self, record: dict[str, Any]) -> None:
        trained = [p for p in self.model.unet.parameters() if p.requires_grad]
        if record["step"] == self.step and trained:  # a hook may train nothing
            trained[0].data.flatten()[0] = math.nan
            self.given = True


class _ScopeWatcher(Callback):
    """Checks after each step that nothing outside the scope was touched."""

    def __init__(self, model: LoadedModel, scope: set[str], before: Mapping[str, Tensor]) -> None:
        self.model, self.scope, self.before = model, scope, before
        self.steps = 0

    def on_step(self, record: dict[str, Any]) -> None:
        self.steps += 1
        pipeline = self.model.pipeline
        for part in ("unet", "text_encoder", "vae"):
            for name, parameter in getattr(pipeline, part).named_parameters():
                if part == "unet" and name in self.scope:
                    continue
                if f"{part}.{name}" not in self.before:
                    continue  # an adapter's
                assert parameter.grad is None, f"{part}.{name} has a gradient"
                assert not parameter.requires_grad, f"{part}.{name} asks for a gradient"
                assert torch.equal(parameter, self.before[f"{part}.{name}"]), f"{name} changed"


def _drawn(model: LoadedModel) -> Tensor:
    """A picture of the erased concept and one of another, uint8 [2, H, W, 3]."""
    return torch.from_numpy(generate(model, ["garbage truck", "church"], [0, 1]))


def _hooks(model: LoadedModel) -> int:
    """How many hooks there are on the modules of the pipeline."""
    parts = (model.pipeline.unet, model.pipeline.text_encoder, model.pipeline.vae)
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for part in parts
        for module in part.modules()
    )


@contextmanager
def _raises(expected: type[Exception]) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    raise AssertionError(f"{expected.__name__} was not raised")
