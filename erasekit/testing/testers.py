"""What every method, every preservation strategy and every plugin must do, as test classes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.diffusion.scope import ParameterScope
from erasekit.edits import Edit, load_edit
from erasekit.errors import Interrupted, TrainingError
from erasekit.methods.base import ErasureMethod
from erasekit.methods.gradient import PreservationStrategy
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


def registry_with(*plugins: object) -> Registry:
    """Everything installed, and modules (or objects) with hooks that are not."""
    manager = PluginManager()
    for number, plugin in enumerate(plugins):
        if not manager.pluggy.is_registered(plugin):
            manager.register(plugin, f"under test:{number}")
    return Registry(manager)


def weights(model: LoadedModel) -> dict[str, Tensor]:
    """Copies of all weights of UNet, text encoder and autoencoder, by "part.name"."""
    return {
        f"{part}.{name}": value.detach().clone()
        for part in ("unet", "text_encoder", "vae")
        for name, value in getattr(model.pipeline, part).state_dict().items()
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

    def registry(self) -> Registry:
        """Everything installed, and `plugins`."""
        return registry_with(*self.plugins)

    def erase(
        self,
        model: LoadedModel | None = None,
        *,
        concepts: Sequence[str] = ("garbage truck",),
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
        resume: Checkpoint | None = None,
        **settings: Any,
    ) -> Edit:
        """Erase `concepts` with the method under test; from a tiny model where none is given."""
        return erase(
            model or tiny_model(),
            Erasure.of(*concepts),
            self.method,
            registry=self.registry(),
            seed=seed,
            settings={**self.settings, **settings},
            callbacks=callbacks,
            folder=folder,
            resume=resume,
        )

    def test_the_same_seed_gives_the_same_edit_and_another_seed_another(self) -> None:
        first, again = self.erase(), self.erase()
        _assert_same_runs(again, first)
        assert again.info.get("inference") == first.info.get("inference")
        if self.seeded:
            other = self.erase(seed=1)
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
        drawn = []
        for edit in (made, load_edit(tmp_path, self.registry())):
            with edit.applied(model):
                drawn.append(_drawn(model))
            assert_same_tensors(weights(model), before)
            assert _hooks(model) == hooks, "a hook is left on the pipeline"
            assert torch.equal(_drawn(model), plain)
        if self.inference:  # few steps of training may move no 8-bit pixel
            assert not torch.equal(drawn[0], plain), "the edit changes nothing that is drawn"
        assert torch.equal(*drawn), "read from disk it draws otherwise"

    def test_the_erase_loss_falls(self) -> None:
        """Beside a run that stands still: both draw the same z_t in the same step."""
        trained = self.erase(steps=self.steps_to_fall)
        still = self.erase(steps=self.steps_to_fall, learning_rate=1e-20)
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
        heard, concepts = _Records(), ("church", "garbage truck")
        edit = self.erase(concepts=concepts, callbacks=[heard])
        assert heard.records == edit.history
        steps = edit.info["config"]["steps"]
        assert [record["step"] for record in edit.history] == list(range(steps))
        for record in edit.history:
            assert set(record) == HISTORY_KEYS
            assert json.loads(json.dumps(record, allow_nan=False)) == record
            for key in ("loss", "erase_loss", "preserve_loss"):
                assert record[key] is None or math.isfinite(record[key])
            if record["adversary"] is not None:
                assert [row["erased"] for row in record["adversary"]] == list(concepts)
                assert all(set(row) >= ADVERSARY_KEYS for row in record["adversary"])

    def test_several_concepts_at_once(self) -> None:
        concepts = ("garbage truck", "church", "banana")
        edit, alone = self.erase(concepts=concepts), self.erase(concepts=concepts[:1])
        assert edit.info["concepts"] == list(concepts)
        assert alone.info.get("inference") != edit.info.get("inference") or any(
            not torch.equal(alone.stored[n], v) for n, v in edit.stored.items()
        )
        assert all(bool(value.isfinite().all()) for value in edit.stored.values())

    def test_an_interrupted_run_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        whole = self.erase()
        for stop in (0, whole.info["config"]["steps"] // 2):
            model, folder = tiny_model(), tmp_path / f"stopped-{stop}"
            before = weights(model)
            with _raises(Interrupted):
                self.erase(model, folder=folder, callbacks=[_CtrlC(stop)])
            assert_same_tensors(weights(model), before)
            checkpoint = Checkpoint.load(folder / CHECKPOINT)
            assert checkpoint.step == stop + 1
            _assert_same_runs(self.erase(folder=folder, resume=checkpoint), whole)

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
        target, options = "erasekit.methods.gradient:GradientErasure", {"strategy": self.strategy}
        descriptor = MethodDescriptor(self.method, "under test", target, "", options)
        return registry_with(*self.plugins, _OneMethod(descriptor))


class PluginTester:
    """A plugin as erasekit finds it, whatever it registers. It need not be installed.

    `erasekit plugin check` does more and takes longer; this is for a package's own tests.

    Class attributes to set:
        hooks: the module with its hooks.
        registers: kind and name of all that it registers, such as `("method mine",)`.
    """

    hooks: ClassVar[ModuleType]
    registers: ClassVar[Sequence[str]]

    def registry(self) -> Registry:
        """Everything installed, and the plugin."""
        return registry_with(self.hooks)

    def test_it_registers_what_it_says_and_claims_no_taken_name(self) -> None:
        registry = self.registry()
        own = str(registry.manager.pluggy.get_name(self.hooks))
        clashes = registry.collisions()
        assert clashes == [], " ".join(clashes)
        faults = [p.error for p in registry.manager.plugins if p.name == own and p.error]
        assert faults == [], faults[0]
        found = [f"{descriptor.kind} {descriptor.name}" for descriptor in registry.owned(own)]
        assert sorted(found) == sorted(self.registers), f"it registers {', '.join(found)}"

    def test_all_that_it_registers_can_be_loaded_and_is_described(self) -> None:
        registry, configured = self.registry(), (ErasureMethod, PreservationStrategy)
        for descriptor in registry.owned(str(registry.manager.pluggy.get_name(self.hooks))):
            target = descriptor.load()
            assert descriptor.summary, f"{descriptor.name} has no summary"
            if isinstance(target, type) and issubclass(target, configured):
                settings = target.Config.model_fields
                bare = [name for name, field in settings.items() if not field.description]
                assert bare == [], f"{descriptor.name}: no description of {bare}"

    def test_its_hooks_import_no_torch(self) -> None:
        fault = slow_hooks(self.hooks.__name__)
        assert fault is None, fault


def slow_hooks(module: str) -> str | None:
    """Why importing the hooks in `module` costs every command seconds; None where it does not."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import {module}; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    if done.stdout.split()[-1] == "True":
        return f"{module} imports torch; import it where the descriptors point at"
    return None


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
        self.steps = 0
        own = {f"unet.{name}" for name in scope}
        self.before = {name: value for name, value in before.items() if name not in own}
        self.watched = {
            f"{part}.{name}": parameter
            for part in ("unet", "text_encoder", "vae")
            for name, parameter in getattr(model.pipeline, part).named_parameters()
            if f"{part}.{name}" in self.before
        }

    def on_step(self, record: dict[str, Any]) -> None:
        self.steps += 1
        for name, parameter in self.watched.items():
            assert parameter.grad is None, f"{name} has a gradient"
            assert not parameter.requires_grad, f"{name} asks for a gradient"
            assert torch.equal(parameter, self.before[name]), f"{name} changed"


def _assert_same_runs(found: Edit, expected: Edit) -> None:
    assert_same_tensors(found.stored, expected.stored)
    assert_same_tensors(found.adversaries, expected.adversaries)
    assert found.history == expected.history
    assert found.info["unet_passes"] == expected.info["unet_passes"]


def _drawn(model: LoadedModel) -> Tensor:
    """A picture of the erased concept and one of another, uint8 [2, H, W, 3]."""
    return torch.from_numpy(generate(model, ["garbage truck", "church"], [0, 1]))


def _hooks(model: LoadedModel) -> int:
    """How many hooks there are on the modules of the pipeline."""
    parts = (model.pipeline.unet, model.pipeline.text_encoder, model.pipeline.vae)
    modules = (module for part in parts for module in part.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@contextmanager
def _raises(expected: type[Exception]) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    raise AssertionError(f"{expected.__name__} was not raised")
