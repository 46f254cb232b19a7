"""The artefact: applied and taken back, saved and read, refused where it doesn't belong."""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erasekit.diffusion.sampling import generate
from erasekit.edits import HISTORY, INFO, WEIGHTS, Edit, load_edit, read_history
from erasekit.errors import EditError, OutputError
from erasekit.models.loading import wrap_pipeline
from erasekit.models.tensor_files import save_tensors
from erasekit.testing import assert_same_tensors, weights


def make_edit(model, part: str = "attn2", seed: int = 0, **info) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: parameter.detach() + torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.unet.named_parameters()
        if part in name
    }
    base = {"id": model.id, "hash": model.hash}
    return Edit(tensors, {"method": "test", "base_model": base, **info})


@pytest.fixture
def edit(tiny_model) -> Edit:
    return make_edit(tiny_model)


# -- applying --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_applied_changes_what_it_names_and_takes_it_back(tiny_model, edit, wrapped: bool) -> None:
    target = tiny_model if wrapped else tiny_model.pipeline
    before = weights(tiny_model)
    plain = generate(tiny_model, ["church"], [0], num_inference_steps=2)
    with edit.applied(target) as given:
        assert given is target
        expected = {**before, **{f"unet.{name}": value for name, value in edit.tensors.items()}}
        assert_same_tensors(weights(tiny_model), expected)
        within = generate(tiny_model, ["church"], [0], num_inference_steps=2)
    assert_same_tensors(weights(tiny_model), before)
    after = generate(tiny_model, ["church"], [0], num_inference_steps=2)
    np.testing.assert_array_equal(after, plain)
    assert not np.array_equal(within, plain)


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_fault_within_the_block_takes_it_back_too(tiny_model, edit, fault) -> None:
    before = weights(tiny_model)
    with pytest.raises(fault), edit.applied(tiny_model):
        raise fault
    assert_same_tensors(weights(tiny_model), before)


def test_the_edit_is_not_changed_by_what_is_done_to_the_model(tiny_model, edit) -> None:
    kept = {name: value.clone() for name, value in edit.tensors.items()}
    with edit.applied(tiny_model), torch.no_grad():
        for parameter in tiny_model.unet.parameters():
            parameter.zero_()
    assert_same_tensors(edit.tensors, kept)


@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_nested_edits_are_taken_back_one_by_one(tiny_model, edit, wrapped: bool) -> None:
    """The inner one is for the base model, which the edited model is not: that takes force."""
    target = tiny_model if wrapped else tiny_model.pipeline
    inner = make_edit(tiny_model, "attn1", seed=1)
    before = weights(tiny_model)
    with edit.applied(target):
        outer = weights(tiny_model)
        with pytest.raises(EditError, match="made from a model with hash"), inner.applied(target):
            pass
        assert_same_tensors(weights(tiny_model), outer)
        with inner.applied(target, force=True):
            assert torch.equal(
                weights(tiny_model)[f"unet.{next(iter(inner.tensors))}"],
                next(iter(inner.tensors.values())),
            )
        assert_same_tensors(weights(tiny_model), outer)
    assert_same_tensors(weights(tiny_model), before)


def test_a_model_that_carries_an_edit_has_another_hash(tiny_model, edit) -> None:
    base = tiny_model.hash
    with edit.applied(tiny_model):
        assert tiny_model.hash == wrap_pipeline(copy.deepcopy(tiny_model.pipeline)).hash != base
    assert tiny_model.hash == base
    edit.apply(tiny_model)
    assert tiny_model.hash == wrap_pipeline(copy.deepcopy(tiny_model.pipeline)).hash != base


def test_apply_is_for_good(tiny_model, edit) -> None:
    edit.apply(tiny_model.pipeline)
    found = weights(tiny_model)
    assert all(torch.equal(found[f"unet.{n}"], value) for n, value in edit.tensors.items())


def test_an_fp16_copy_of_the_model_takes_the_edit(tiny_model, edit) -> None:
    half = copy.deepcopy(tiny_model.pipeline).to(torch.float16)
    before = {name: value.clone() for name, value in half.unet.state_dict().items()}
    with edit.applied(half):
        for name, value in edit.tensors.items():
            assert torch.equal(half.unet.state_dict()[name], value.half())
    assert_same_tensors(half.unet.state_dict(), before)


@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_another_model_is_refused_and_both_hashes_named(tiny_model, edit, wrapped) -> None:
    other = copy.deepcopy(tiny_model.pipeline)
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight[3, 3] += 1
    target = wrap_pipeline(other)
    with pytest.raises(EditError) as caught, edit.applied(target if wrapped else other):
        pass
    for part in (tiny_model.hash[:16], target.hash[:16], "--force", tiny_model.id):
        assert part in str(caught.value)
    with edit.applied(target if wrapped else other, force=True):
        name, value = next(iter(edit.tensors.items()))
        assert torch.equal(other.unet.state_dict()[name], value)


@pytest.mark.parametrize("change", ["name", "shape"])
def test_tensors_that_do_not_fit_are_refused_before_anything_changes(tiny_model, edit, change):
    last = list(edit.tensors)[-1]
    value = edit.tensors.pop(last)
    if change == "name":
        edit.tensors["no.such.parameter"] = value
    else:
        edit.tensors[last] = value[..., :1]
    before = weights(tiny_model)
    for force in (False, True):
        with pytest.raises(EditError, match="does not fit the model: its"):
            edit.apply(tiny_model, force=force)
        with pytest.raises(EditError), edit.applied(tiny_model, force=force):
            pass
    assert_same_tensors(weights(tiny_model), before)


# -- saving and reading ----------------------------------------------------------------------------


def test_saved_and_read_it_is_the_same(edit, tmp_path: Path) -> None:
    edit.info["text"] = "Käse 🧀"
    edit.tensors["half"] = torch.randn(3, generator=torch.manual_seed(0)).half()
    edit.tensors["across"] = torch.arange(6.0).reshape(2, 3).T
    edit.tensors["scalar"] = torch.tensor(-0.0)
    edit.save(tmp_path / "new" / "run")
    found = load_edit(tmp_path / "new" / "run")
    assert_same_tensors(dict(sorted(found.tensors.items())), dict(sorted(edit.tensors.items())))
    assert {n: v.dtype for n, v in found.tensors.items()} == {
        n: v.dtype for n, v in edit.tensors.items()
    }
    assert found.info == {"schema": 1, **edit.info}
    assert found.base_hash == edit.base_hash
    again = tmp_path / "again"
    found.save(again)
    assert (again / INFO).read_bytes() == (tmp_path / "new" / "run" / INFO).read_bytes()
    assert sorted(p.name for p in again.iterdir()) == [INFO, WEIGHTS]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 1000, -1])
def test_truncated_weights_are_refused(edit, tmp_path: Path, size: int) -> None:
    edit.save(tmp_path)
    path = tmp_path / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:size])
    with pytest.raises(EditError, match=r"edit\.safetensors' is damaged") as caught:
        load_edit(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [b"\xff" * 8, b"\x00" * 8, b"PK\x03\x04____", b"[" * 20])
def test_weights_that_are_something_else_are_refused(edit, tmp_path: Path, start: bytes) -> None:
    edit.save(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(start + path.read_bytes()[len(start) :])
    with pytest.raises(EditError, match="is damaged"):
        load_edit(tmp_path)


BASE = {"id": "tiny", "hash": "0" * 64}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["base_model", "schema", "hash", "id", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(info=anything | st.fixed_dictionaries({"base_model": anything, "schema": anything}))
def test_any_json_is_an_edit_or_refused(tmp_path_factory, info) -> None:
    folder = tmp_path_factory.mktemp("json")
    save_tensors(folder / WEIGHTS, {"a": torch.zeros(1)})
    (folder / INFO).write_text(json.dumps(info))
    try:
        found = load_edit(folder)
    except EditError:
        return
    assert isinstance(found.base_hash, str)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"base_model": ', "\x00", "null", "[" * 100_000, "{}"],
    ids=lambda text: repr(text[:16]),
)
def test_damaged_json_is_refused(edit, tmp_path: Path, text: str) -> None:
    edit.save(tmp_path)
    (tmp_path / INFO).write_text(text)
    with pytest.raises(EditError, match=r"edit\.json"):
        load_edit(tmp_path)


def test_json_that_is_not_text_is_refused(edit, tmp_path: Path) -> None:
    edit.save(tmp_path)
    (tmp_path / INFO).write_bytes(b"\xff\xfe{}")
    with pytest.raises(EditError, match=r"edit\.json"):
        load_edit(tmp_path)


def test_a_newer_schema_is_refused(edit, tmp_path: Path) -> None:
    edit.save(tmp_path)
    info = json.loads((tmp_path / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps({**info, "schema": 3}))
    with pytest.raises(EditError, match=r"schema 3; this erasekit reads 2.*Upgrade"):
        load_edit(tmp_path)


def test_missing_files_and_folders_are_named(edit, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"no run folder .*nowhere"):
        load_edit(tmp_path / "nowhere")
    with pytest.raises(EditError, match=r"has no edit\.json: its run has not finished"):
        load_edit(tmp_path)
    edit.save(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(EditError, match=r"There is no .*edit\.safetensors"):
        load_edit(tmp_path)
    (tmp_path / WEIGHTS).mkdir()
    with pytest.raises(EditError, match=r"edit\.safetensors"):
        load_edit(tmp_path)


def test_history_is_read_with_the_edit(edit, tmp_path: Path) -> None:
    edit.save(tmp_path)
    assert load_edit(tmp_path).history == []
    (tmp_path / HISTORY).write_text('{"step": 0}\n\n{"step": 1, "word": "a\u2028b"}\n')
    assert load_edit(tmp_path).history == [{"step": 0}, {"step": 1, "word": "a\u2028b"}]
    for damaged in ('{"step": 0}\n{"ste', "[1]\n", "\x00"):
        (tmp_path / HISTORY).write_text(damaged)
        with pytest.raises(EditError, match=r"history\.jsonl"):
            read_history(tmp_path)


# -- places that can't be written ------------------------------------------------------------------


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_that_is_a_file_is_refused(edit, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("kept")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(OutputError, match="run"):
            edit.save(folder)
    assert (tmp_path / "run").read_text() == "kept"
    assert left_behind(tmp_path) == ["run"]


def in_a_process(program: str, *arguments: object) -> str:
    """Run a program that makes a small edit `edit` first; what it prints."""
    start = """
        import os, resource, signal, sys
        from pathlib import Path
        import torch
        from erasekit.edits import Edit
        from erasekit.errors import OutputError
        torch.set_num_threads(1)
        info = {"base_model": {"id": "x", "hash": "0" * 64}}
        edit = Edit({"a": torch.zeros(100_000)}, info)
        folder = Path(sys.argv[1])
    """
    text = textwrap.dedent(start) + textwrap.dedent(program)
    run = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


TRY = """
try:
    edit.save(folder)
except OutputError as error:
    print(error)
else:
    print("saved")
"""


def test_no_permission(tmp_path: Path) -> None:
    """As a user who may not write there; root gives up its rights first."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    drop = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n" if os.geteuid() == 0 else ""
    for parent in folder.parents:
        if parent.owner() == folder.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
        if parent == Path(tmp_path.anchor) / "tmp":
            break
    for target in (folder, folder / "new"):
        said = in_a_process(drop + TRY, target)
        assert said.startswith("No permission to write"), said
        assert str(folder) in said
    assert left_behind(folder) == []


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes")
def test_a_file_that_may_not_grow_is_refused_and_nothing_left(tmp_path: Path) -> None:
    limit = """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    """
    said = in_a_process(textwrap.dedent(limit) + TRY, tmp_path / "run")
    assert "edit.safetensors" in said
    assert said != "saved"
    assert left_behind(tmp_path) == ["run"]


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def full_disk(tmp_path: Path):
    """A folder on a disk of 64 KB."""
    folder = tmp_path / "disk"
    if not mounted(folder, "64k"):
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_refused_and_nothing_left(full_disk: Path) -> None:
    said = in_a_process(TRY, full_disk / "run")
    assert said.startswith("No space left for"), said
    assert "edit.safetensors" in said
    assert left_behind(full_disk) == ["run"]


def test_what_was_there_survives_a_full_disk(full_disk: Path) -> None:
    (full_disk / WEIGHTS).write_bytes(b"the edit before")
    assert in_a_process(TRY, full_disk).startswith("No space left for")
    assert (full_disk / WEIGHTS).read_bytes() == b"the edit before"
    assert left_behind(full_disk) == [WEIGHTS]


# -- damage, and what older versions wrote ---------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_flipped_bit_is_refused(edit, tmp_path: Path, form: str) -> None:
    """Any bit of any tensor; with nothing changed the edit is read."""
    edit.save(tmp_path)
    edit.save_file(tmp_path / "one.safetensors")
    path, read = (tmp_path / WEIGHTS, tmp_path)
    if form == "file":
        path = read = tmp_path / "one.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for place in (start, (start + len(data)) // 2, len(data) - 1):
        for bit in (0, 7):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            path.write_bytes(bytes(flipped))
            with pytest.raises(EditError, match="damaged: its tensors don't have the checksum"):
                load_edit(read)
    path.write_bytes(data)
    assert "sha256" not in load_edit(read).info


def test_the_same_edit_is_the_same_bytes(edit, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        edit.save(tmp_path / name)
        edit.save_file(tmp_path / name / "one.safetensors")
    for file in (WEIGHTS, INFO, "one.safetensors"):
        assert len({(tmp_path / name / file).read_bytes() for name in "abcd"}) == 1
    order = list(json.loads((tmp_path / "a" / WEIGHTS).read_bytes()[8:].split(b"}")[0] + b"}}"))
    assert order == ["__metadata__"]


OLD = Path(__file__).parent / "edits_0_1"
"""A run folder and a `--to delta` file of erasekit 0.1, without checksums."""


@pytest.mark.parametrize("name", ["run", "run/edit.safetensors", "weights.safetensors"])
def test_edits_of_older_versions_are_read(name: str, tiny_model) -> None:
    edit = load_edit(OLD / name)
    assert (edit.info["method"], edit.info["concepts"]) == ("gumbel", ["church"])
    assert len(edit.tensors) == 8
    assert len(edit.history) == (0 if name.startswith("weights") else 2)
    before = weights(tiny_model)
    with edit.applied(tiny_model, force=True):
        assert any(not torch.equal(v, before[n]) for n, v in weights(tiny_model).items())
