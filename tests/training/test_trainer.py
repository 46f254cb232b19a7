"""The loop: signals, checkpoints, history, and what is handed out."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Iterable

import pytest
import torch

from erasekit.concepts import Concept, Erasure
from erasekit.config import Settings
from erasekit.errors import (
    ConceptError,
    ConfigError,
    EditError,
    Interrupted,
    OutputError,
    ScopeError,
    TrainingError,
    UnknownNameError,
)
from erasekit.methods.base import ErasureContext, ErasureMethod, StepOutput
from erasekit.methods.gradient import PreservationStrategy
from erasekit.plugin.descriptors import MethodDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, assert_same_tensors, tiny_model, weights
from erasekit.training.checkpoint import CHECKPOINT, Checkpoint
from erasekit.training.erase import erase
from erasekit.training.run_folder import save_run
from erasekit.training.trainer import Callback


class Probe(ErasureMethod):
    """Moves the scope's first weight by one a step; tests hang their own doings on it."""

    Config = Settings
    doing = staticmethod(lambda step: None)
    in_prepare = staticmethod(lambda: None)

    def prepare(self, context: ErasureContext) -> None:
        self.context, self.count = context, torch.zeros(())
        type(self).in_prepare()

    def training_step(self, step: int) -> StepOutput:
        self.count += 1
        first = next(iter(self.context.parameters.values()))
        type(self).doing(step)
        record = {"erase_loss": 0.0, "preserve_loss": 0.0, "timestep": [], "adversary": None}
        return StepOutput(first.sum(), record)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"count": self.count}

    def load_state_dict(self, state) -> None:
        self.count = state["count"].clone()


class ClosedForm(Probe):
    """Changes the weights itself, and gives no loss."""

    training_defaults = {"steps": 2}  # noqa: RUF012

    def training_step(self, step: int) -> None:
        for parameter in self.context.parameters.values():
            parameter.mul_(1 + len(self.context.erasure.erased))


ClosedForm.training_step = torch.no_grad()(ClosedForm.training_step)  # type: ignore[method-assign]


class Hooks:
    @hookimpl
    def erasekit_register_methods(self) -> Iterable[MethodDescriptor]:
        return [
            MethodDescriptor(name, "", f"{__name__}:{target}")
            for name, target in (("probe", "Probe"), ("closed-form", "ClosedForm"))
        ]


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Registry:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    manager = PluginManager()
    manager.register(Hooks(), "under test")
    return Registry(manager)


def _this_module():
    import types

    module = types.ModuleType(__name__)
    module.Probe, module.ClosedForm = Probe, ClosedForm  # type: ignore[attr-defined]
    return module


class TestClosedForm(MethodTester):
    """The shared tester on a method without a loss."""

    method = "closed-form"
    plugins = (Hooks(),)
    seeded = False


def run(registry, folder=None, model=None, method="probe", callbacks=(), **settings):
    return erase(
        model or tiny_model(),
        Erasure.of("church"),
        method,
        registry=registry,
        settings={"steps": 5, "learning_rate": 0.5, "checkpoint_every": 2, **settings},
        folder=folder,
        callbacks=callbacks,
    )


@pytest.fixture
def usual_ctrl_c():
    """Ctrl-C as in an interactive shell; a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
@pytest.mark.parametrize("when", ["step", "prepare"])
def test_ctrl_c_waits_for_the_step_to_end(probes, tmp_path, monkeypatch, when: str) -> None:
    """A real signal, in the middle of a step."""
    ended = []

    def press(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            ended.append(step)

    model, handler = tiny_model(), signal.getsignal(signal.SIGINT)
    before = weights(model)
    if when == "step":
        monkeypatch.setattr(Probe, "doing", staticmethod(press))
    else:
        monkeypatch.setattr(Probe, "in_prepare", staticmethod(lambda: press(2)))
    with pytest.raises(Interrupted) as caught:
        run(probes, tmp_path / "a run", model)
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same_tensors(weights(model), before)
    if when == "prepare":
        assert "before the first step" in str(caught.value)
        assert not (tmp_path / "a run" / CHECKPOINT).exists()
        return
    assert ended == [2]
    assert "Stopped at step 3 of 5, which is saved" in str(caught.value)
    assert f"erasekit erase --resume '{tmp_path / 'a run'}'" in str(caught.value)
    checkpoint = Checkpoint.load(tmp_path / "a run" / CHECKPOINT)
    assert checkpoint.step == checkpoint.method["count"] == 3
    history = (tmp_path / "a run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "a run").iterdir()) == [
        *(CHECKPOINT, "history.jsonl")
    ]


@pytest.mark.usefixtures("usual_ctrl_c")
def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_whole_state(
    probes, tmp_path, monkeypatch
) -> None:
    def press(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("it should have stopped")

    monkeypatch.setattr(Probe, "doing", staticmethod(press))
    with pytest.raises(Interrupted, match="Stopped at step 3 of 5, which is not saved"):
        run(probes, tmp_path)
    assert Checkpoint.load(tmp_path / CHECKPOINT).step == 2


@pytest.mark.usefixtures("usual_ctrl_c")
def test_ctrl_c_without_a_folder_says_that_nothing_was_saved(probes, monkeypatch) -> None:
    def press(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Probe, "doing", staticmethod(press))
    with pytest.raises(Interrupted, match=r"step 1 of 5, which is not saved.*start the run anew"):
        run(probes)


def test_a_checkpoint_is_good_only_once_its_weights_gave_a_finite_loss(probes, tmp_path) -> None:
    """A learning rate so large that step 3's weights overflow: the one after step 2 stays."""

    class Blow(Callback):
        def on_step(self, record) -> None:
            if record["step"] == 3:
                parameter = next(p for p in model.unet.parameters() if p.requires_grad)
                parameter.data.fill_(3e38)

    model = tiny_model()
    with pytest.raises(TrainingError, match=r"The loss is (inf|nan) at step 4"):
        run(probes, tmp_path, model, callbacks=[Blow()], steps=9, checkpoint_every=1)
    checkpoint = Checkpoint.load(tmp_path / CHECKPOINT)
    assert checkpoint.step == 3
    assert all(value.abs().max() < 1e3 for value in checkpoint.parameters.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINT, "history.jsonl"]


def test_weights_that_are_not_finite_in_the_last_step_are_not_handed_out(probes) -> None:
    class Blow(Callback):
        def on_step(self, record) -> None:
            if record["step"] == 4:
                next(p for p in model.unet.parameters() if p.requires_grad).data[0] = torch.nan

    model = tiny_model()
    with pytest.raises(TrainingError, match="weights are not finite"):
        run(probes, None, model, callbacks=[Blow()])


def test_a_fault_in_a_step_leaves_the_model_as_it_was(probes, monkeypatch) -> None:
    def fail(step: int) -> None:
        if step == 1:
            raise RuntimeError("a fault")

    monkeypatch.setattr(Probe, "doing", staticmethod(fail))
    model = tiny_model()
    before, heard = weights(model), []

    class End(Callback):
        def on_end(self) -> None:
            heard.append("end")

    with pytest.raises(RuntimeError, match="a fault"):
        run(probes, None, model, callbacks=[End()])
    assert_same_tensors(weights(model), before)
    assert not any(p.requires_grad for p in model.unet.parameters())
    assert heard == ["end"]


def test_history_on_disk_starts_anew_and_grows_line_by_line(probes, tmp_path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 99}\n')
    seen = []

    class Reader(Callback):
        def on_step(self, record) -> None:
            seen.append(len((tmp_path / "history.jsonl").read_text().splitlines()))

    edit = run(probes, tmp_path, callbacks=[Reader()])
    assert seen == [1, 2, 3, 4, 5]
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == edit.history


def test_a_finished_run_has_its_files_and_no_checkpoint(probes, tmp_path) -> None:
    edit = run(probes, tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    save_run(edit, tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"edit.safetensors", "edit.json", "history.jsonl"} <= names
    assert CHECKPOINT not in names
    info = json.loads((tmp_path / "edit.json").read_text())
    assert info["schema"] == 1
    assert set(info) >= {
        *("method", "concepts", "config", "seed", "base_model", "versions", "command"),
        *("seconds", "unet_passes", "peak_memory_mb"),
    }
    assert set(info["base_model"]) >= {"id", "hash"}
    assert set(info["seconds"]) == {"total", "loop"}
    assert info["seconds"]["total"] >= info["seconds"]["loop"] >= 0
    assert set(info["unet_passes"]) == {"forward", "backward"}


def test_a_checkpoint_of_another_scope_is_refused(probes, tmp_path) -> None:
    run(probes, tmp_path)
    checkpoint = Checkpoint.load(tmp_path / CHECKPOINT)
    with pytest.raises(EditError, match="checkpoint is of another model or scope"):
        erase(
            tiny_model(),
            Erasure.of("church"),
            "probe",
            registry=probes,
            settings={"scope": "full"},
            resume=checkpoint,
        )


def test_a_damaged_checkpoint_is_refused(probes, tmp_path) -> None:
    run(probes, tmp_path)
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    for damaged in (b"", data[:100], data[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(EditError, match="checkpoint"):
            Checkpoint.load(path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path, {"state": "[]"})
    with pytest.raises(EditError, match="no checkpoint of erasekit"):
        Checkpoint.load(path)


def test_a_folder_that_can_t_be_written_is_refused_before_the_first_step(probes, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    heard = []

    class Steps(Callback):
        def on_step(self, record) -> None:
            heard.append(record)

    with pytest.raises(OutputError, match="file"):
        run(probes, tmp_path / "file", callbacks=[Steps()])
    assert heard == []


def test_the_gradient_s_norm_is_clipped(probes) -> None:
    """SGD would show it directly; Adam shows it in its first moment."""
    seen = []

    class Look(Callback):
        def on_step(self, record) -> None:
            first = next(p for p in model.unet.parameters() if p.requires_grad)
            seen.append(first.grad.norm().item())

    model = tiny_model()
    run(probes, None, model, callbacks=[Look()], steps=1, max_grad_norm=0.25)
    assert seen == [pytest.approx(0.25, rel=1e-4)]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"method": "gumble"}, UnknownNameError, "did you mean 'gumbel'"),
        ({"settings": {"scope": "xatn"}}, UnknownNameError, "did you mean 'xattn'"),
        ({"settings": {"scope": "re:nothing-here"}}, ScopeError, "selects no parameter"),
        ({"settings": {"steps": 0}}, ConfigError, "steps"),
        ({"settings": {"trajectory_steps": 5000}}, ConfigError, "5000"),
        ({"erasure": Erasure.of("garbage " * 30)}, ConceptError, "tokens long"),
        ({"erasure": Erasure.of("bus", keep=["church " * 30])}, ConceptError, "tokens long"),
        ({"erasure": Erasure.of("bus", neutral="a " * 30)}, ConceptError, "tokens long"),
    ],
)
def test_what_can_t_be_done_is_said_before_training(registry, change, error, says) -> None:
    arguments = {"method": "gumbel", "erasure": Erasure.of("church"), **change}
    model = tiny_model()
    before = weights(model)
    with pytest.raises(error, match=says):
        erase(model, registry=registry, **arguments)
    assert_same_tensors(weights(model), before)


@pytest.mark.parametrize("method", ["none", "neutral", "l2", "pgd"])
def test_words_to_keep_are_refused_where_nothing_chooses_from_them(registry, method) -> None:
    with pytest.raises(ConfigError, match="drop --keep"):
        erase(tiny_model(), Erasure.of("bus", keep=["church"]), method, registry=registry)


def test_the_default_scope_follows_the_concept(registry) -> None:
    for concept, scope in ((Concept("bus"), "xattn"), (Concept("nudity", "explicit"), "noxattn")):
        edit = erase(tiny_model(), Erasure((concept,)), "none", registry=registry)
        assert edit.info["config"]["scope"] == scope


def test_a_plain_pipeline_may_be_given(registry) -> None:
    model = tiny_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = {"steps": 2, "batch_size": 1, "trajectory_steps": 2, "trajectories": 1}
        edit = erase(model.pipeline, "church", "none", registry=registry, settings=settings)
    assert edit.base_hash == model.hash
    with edit.applied(model.pipeline):
        pass


def test_a_strategy_has_nothing_to_keep_by_default() -> None:
    strategy = PreservationStrategy(Settings())
    assert strategy.keep(None) is None  # type: ignore[arg-type]
    assert float(strategy.loss(None, None)) == 0.0
    assert strategy.describe() is None


def test_weights_along_a_run_are_those_of_shorter_runs() -> None:
    class Along(Callback):
        def __init__(self) -> None:
            self.kept: dict[int, dict[str, torch.Tensor]] = {}

        def on_weights(self, step, parameters) -> None:
            self.kept[step] = {name: value.clone() for name, value in parameters.items()}

    model, along = tiny_model(), Along()
    settings = {"steps": 3, "learning_rate": 1e-3, "batch_size": 2, "trajectory_steps": 3}
    long = erase(model, "church", "neutral", settings=settings, callbacks=[along])
    short = erase(model, "church", "neutral", settings={**settings, "steps": 2})
    assert sorted(along.kept) == [0, 1, 2, 3]
    assert_same_tensors(along.kept[3], long.tensors)
    assert_same_tensors(along.kept[2], short.tensors)
    start = {name: dict(model.unet.named_parameters())[name] for name in along.kept[0]}
    assert_same_tensors(along.kept[0], start)


def test_the_edit_is_what_the_method_makes_of_the_trained(probes, monkeypatch, tmp_path) -> None:
    """In the edit and along the run; checkpoints keep what is trained."""
    plain, kept, asked = run(probes), {}, []

    def first_alone(self, trained) -> dict[str, torch.Tensor]:
        asked.append(len(trained))
        name = next(iter(trained))
        return {name: 2 * trained[name]}

    class Along(Callback):
        def on_weights(self, step, parameters) -> None:
            if step in (4, 5):
                kept[step] = {name: value.clone() for name, value in parameters.items()}

    monkeypatch.setattr(Probe, "edited", first_alone)
    edit = run(probes, callbacks=[Along()])
    name = next(iter(plain.tensors))
    assert_same_tensors(edit.tensors, {name: 2 * plain.tensors[name]})
    assert_same_tensors(kept[5], edit.tensors)
    assert not torch.equal(kept[4][name], kept[5][name])
    assert asked == [len(plain.tensors)] * 3, "made where nobody looks"
