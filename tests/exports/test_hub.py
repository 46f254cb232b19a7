"""push and pull with the real client, in processes of their own, against a hub in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from erasekit.edits import Edit, load_edit
from erasekit.errors import ConfigError
from erasekit.exports.hub import check_repo_id
from tests.exports.fake_hub import TOKEN, FakeHub, serving

SESSION = """
import contextlib, io, json, sys
from erasekit.cli.app import main
results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code or 0
    results.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(results))
"""
CARD = "# church, erased\n\n## Measured\n\n| erased | alignment before | after | ESR-1 |\n"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        assert self.code == 2
        (line,) = self.err.strip().splitlines()
        return line


def session(
    endpoint: str, folder: Path, *commands: list[str], token: str = "", **more: str
) -> list[Result]:
    """Run commands in one process that knows this endpoint, with a home of its own."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "NO_PROXY": "127.0.0.1",
        **({"HF_TOKEN": token} if token else {}),
        **more,
    }
    run = subprocess.run(
        [sys.executable, "-c", SESSION, json.dumps(commands)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    return [Result(**result) for result in json.loads(run.stdout.splitlines()[-1])]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run, small; with a file that nobody asked to share."""
    base = {"id": "CompVis/stable-diffusion-v1-4@fp16", "hash": "ab" * 32}
    info = {"method": "gumbel", "concepts": ["church"], "base_model": base, "config": {}}
    folder = tmp_path / "run"
    Edit({"conv_in.weight": torch.arange(6.0).reshape(2, 3)}, info).save(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "history.jsonl").write_text('{"step": 0, "loss": 1.0}\n', encoding="utf-8")
    (folder / "before-after.png").write_bytes(b"\x89PNG")
    (folder / "secret.txt").write_text("mine", encoding="utf-8")
    return folder


@pytest.fixture
def hub() -> Iterator[tuple[FakeHub, str]]:
    hub = FakeHub()
    with serving(hub) as address:
        yield hub, address


def test_an_edit_goes_there_and_comes_back(
    hub: tuple[FakeHub, str], run_folder: Path, tmp_path: Path
) -> None:
    fake, address = hub
    sent, again, fetched, numbered, other = session(
        address,
        tmp_path,
        ["push", str(run_folder), "me/church", "--private", "--json"],
        ["push", str(run_folder), "me/church"],
        ["pull", "me/church", "-o", str(tmp_path / "back"), "--json"],
        ["pull", "me/church"],
        ["pull", "me/church", "-o", str(tmp_path / "back")],
        token=TOKEN,
    )
    assert [r.code for r in (sent, again, fetched, numbered)] == [0, 0, 0, 0], sent.err
    first = next(iter(fake.repos["me/church"]))
    assert fake.private == {"me/church"}
    payload = json.loads(sent.out)
    assert payload["url"] == f"{address}/me/church/commit/{first}"
    names = {
        *("edit.json", "edit.safetensors", "history.jsonl", "before-after.png"),
        "README.md",
    }
    assert set(payload["files"]) == names == set(fake.repos["me/church"][first])

    back = load_edit(tmp_path / "back")
    assert back.info["concepts"] == ["church"]
    assert torch.equal(back.tensors["conv_in.weight"], torch.arange(6.0).reshape(2, 3))
    assert back.history == [{"step": 0, "loss": 1.0}]
    assert json.loads(fetched.out)["edit"]["method"] == "gumbel"
    assert "erased from CompVis/stable-diffusion-v1-4" in numbered.out
    assert load_edit(tmp_path / "runs" / "church-001").info == back.info
    assert "--overwrite" in other.sentence

    card = (tmp_path / "back" / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    lines = front.splitlines()
    assert 'base_model: "CompVis/stable-diffusion-v1-4"' in lines
    assert {"license: other", "license_name: same-as-base-model"} <= set(lines)
    assert {'- "concept-erasure"', '- "gumbel"'} <= set(lines)
    assert body.strip() == CARD.strip()


def test_an_old_revision_is_had_by_its_hash(
    hub: tuple[FakeHub, str], run_folder: Path, tmp_path: Path
) -> None:
    fake, address = hub
    files = {p.name: p.read_bytes() for p in run_folder.iterdir() if p.name != "secret.txt"}
    old = fake.add("me/church", files)
    newer = json.loads(files["edit.json"]) | {"method": "pgd"}
    fake.add("me/church", {"edit.json": json.dumps(newer).encode(), "run.py": b"import os"})
    by_hash, latest, wrong = session(
        address,
        tmp_path,
        ["pull", "me/church", "--revision", old, "-o", str(tmp_path / "old")],
        ["pull", "me/church", "-o", str(tmp_path / "new")],
        ["pull", "me/church", "--revision", "nowhere", "-o", str(tmp_path / "no")],
    )
    assert (by_hash.code, latest.code) == (0, 0), by_hash.err + latest.err
    assert load_edit(tmp_path / "old").info["method"] == "gumbel"
    assert load_edit(tmp_path / "new").info["method"] == "pgd"
    assert not (tmp_path / "new" / "run.py").exists()
    assert "GET" not in [r.split()[0] for r in fake.requests if r.endswith("run.py")]
    assert "no such revision" in wrong.sentence
    assert not (tmp_path / "no").exists()


def test_refusals_are_one_sentence_and_leave_nothing(
    hub: tuple[FakeHub, str], run_folder: Path, tmp_path: Path
) -> None:
    fake, address = hub
    fake.add("me/model", {"model_index.json": b"{}", "README.md": b"a model"})
    fake.add("me/broken", {"edit.json": b"{}"})
    fake.broken.add("me/broken")
    damaged = {"edit.json": (run_folder / "edit.json").read_bytes(), "edit.safetensors": b"xx"}
    fake.add("me/damaged", damaged)
    no_token, absent, model, broken, bad, name, nothing = session(
        address,
        tmp_path,
        ["push", str(run_folder), "me/church"],
        ["pull", "me/absent", "-o", str(tmp_path / "a")],
        ["pull", "me/model", "-o", str(tmp_path / "b")],
        ["pull", "me/broken", "-o", str(tmp_path / "c")],
        ["pull", "me/damaged", "-o", str(tmp_path / "d")],
        ["pull", "church"],
        ["push", str(tmp_path / "nowhere"), "me/church"],
    )
    assert "set HF_TOKEN" in no_token.sentence
    assert "no repository 'me/absent'" in absent.sentence
    assert "'me/model' holds no edit" in model.sentence
    assert "me/broken" in broken.sentence
    assert "damaged" in bad.sentence
    assert "owner/name" in name.sentence
    assert "no run folder" in nothing.sentence
    assert "me/church" not in fake.repos
    assert not [p for p in tmp_path.iterdir() if p.name in "abcd" or p.name == "runs"]


@pytest.mark.parametrize("offline", [False, True], ids=["no-network", "offline"])
def test_no_network_is_one_sentence(run_folder: Path, tmp_path: Path, offline: bool) -> None:
    more: dict[str, Any] = {"HF_HUB_OFFLINE": "1"} if offline else {}
    pushed, pulled = session(
        "http://127.0.0.1:9",
        tmp_path,
        ["push", str(run_folder), "me/church"],
        ["pull", "me/church"],
        token=TOKEN,
        **more,
    )
    wanted = "HF_HUB_OFFLINE is set" if offline else "can't be reached"
    assert wanted in pushed.sentence
    assert wanted in pulled.sentence
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["church", "a/b/c", "me/", "/x", "me/a b", "../x", "me/a--b"])
def test_names_of_no_repository_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="write it as owner/name"):
        check_repo_id(name)
