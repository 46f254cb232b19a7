"""Models on a hub: a small server stands in for it; the client is the real one, in a process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry

COMMIT = {"main": "a" * 40, "old": "b" * 40, "refs/pr/1": "c" * 40}
TOKEN = "hf_test"

JOB = """
import json, os, sys, torch
from erasekit.models.loading import load_model
from erasekit.errors import ErasekitError
from erasekit.plugin.registry import Registry
found = {}
for name, dtype, token in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    try:
        found[f"{name} {dtype}"] = load_model(name, Registry(), dtype=getattr(torch, dtype)).hash
    except ErasekitError as error:
        found[f"{name} {dtype}"] = str(error)
print(json.dumps(found))
"""


class Hub(ThreadingHTTPServer):
    """Serves repositories: by id, the folder of each revision; "private" ones need the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.downloads: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        repository, rest = "/".join(parts[:2]), parts[2:]
        revisions = self.server.repositories.get(repository)
        if revisions is None:
            return self.refuse(404, "RepoNotFound")
        kind, *rest = rest or ["revision", "main"]
        revision = next((r for r in COMMIT if rest[: r.count("/") + 1] == r.split("/")), None)
        for known, commit in COMMIT.items():
            if rest and rest[0] == commit:
                revision, rest = known, [*known.split("/"), *rest[1:]]
        if revision not in revisions:
            return self.refuse(404, "RevisionNotFound")
        folder, inside = revisions[revision], "/".join(rest[revision.count("/") + 1 :])
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            info = {"id": repository, "sha": COMMIT[revision], "siblings": siblings}
            return self.send(json.dumps(info).encode(), {}, body)
        if kind == "tree":
            tree = [
                {"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": "0" * 40}
                for f in files
            ]
            return self.send(json.dumps(tree).encode(), {}, body)
        if repository in self.server.gated and TOKEN not in self.headers.get("Authorization", ""):
            return self.refuse(403, "GatedRepo")
        if inside not in files:
            return self.refuse(404, "EntryNotFound")
        content = (folder / inside).read_bytes()
        if body:
            self.server.downloads.append(f"{repository}@{revision}/{inside}")
        etag = hashlib.sha1(content).hexdigest()
        return self.send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT[revision]}, body)

    def send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def load(endpoint: str, home: Path, jobs: list[tuple[str, str, str]]) -> dict[str, str]:
    """The hash of each model, or the sentence that refuses it, from a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", JOB, json.dumps(jobs)],
        env={**kept, **own},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_hub_models_are_fetched_cached_and_refused_in_one_sentence(
    hub: Hub, family_folders: dict[str, Path], tmp_path: Path
) -> None:
    registry = Registry()
    sdxl, sd2 = (load_model(str(family_folders[f]), registry) for f in ("sdxl", "sd2"))
    both = tmp_path / "both"
    sdxl.pipeline.save_pretrained(both)
    sdxl.pipeline.to(torch.float16).save_pretrained(both, variant="fp16")
    (both / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    (both / "pipeline.py").write_text("raise SystemExit('code was run')")
    pickled = tmp_path / "pickled"
    sd2.pipeline.save_pretrained(pickled)
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (other / "transformer.safetensors").write_bytes(b"")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing")
    hub.repositories = {
        "acme/both": {"main": both, "old": family_folders["sd2"]},
        "acme/gated": {"main": family_folders["sd2"]},
        "acme/pickled": {"main": pickled},
        "acme/flux": {"main": other},
        "acme/empty": {"main": empty},
    }
    hub.gated = {"acme/gated"}
    full, half = "float32", "float16"
    here = f"http://127.0.0.1:{hub.server_port}"

    found = load(
        here,
        tmp_path / "home",
        [
            ("acme/both", full, ""),
            ("acme/both@old", full, ""),
            ("acme/both@none", full, ""),
            ("acme/gated", full, ""),
            ("acme/pickled", full, ""),
            ("acme/flux", full, ""),
            ("acme/empty", full, ""),
            ("acme/none", full, ""),
        ],
    )
    assert found.pop("acme/both float32") == sdxl.hash
    assert found.pop("acme/both@old float32") == sd2.hash
    for (name, sentence), part in zip(
        found.items(),
        (
            "no such revision",
            "is gated; accept its licence",
            "are pickled (unet/diffusion_pytorch_model.bin)",
            "A FluxPipeline is of no family",
            "is no diffusers pipeline",
            "no model 'acme/none'",
        ),
        strict=True,
    ):
        assert part in sentence, (name, sentence)
        assert "\n" not in sentence
    downloads = {name.partition("/")[2] for name in hub.downloads}
    assert "both@main/unet/diffusion_pytorch_model.safetensors" in downloads
    assert not [n for n in downloads if n.endswith((".py", ".bin", ".fp16.safetensors"))]
    assert (tmp_path / "home" / "hub" / "models--acme--both").is_dir()

    allowed = load(here, tmp_path / "other", [("acme/both", half, ""), ("acme/gated", full, TOKEN)])
    assert allowed == {"acme/both float16": sdxl.hash, "acme/gated float32": sd2.hash}
    fp16 = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert any(name.endswith(fp16) for name in hub.downloads)

    nowhere = load(
        "http://127.0.0.1:9",
        tmp_path / "home",
        [("acme/both", full, ""), ("acme/both@old", full, ""), ("acme/gated", full, "")],
    )
    assert nowhere.pop("acme/both float32") == sdxl.hash
    assert nowhere.pop("acme/both@old float32") == sd2.hash
    assert "is not in the local cache and the hub can't be reached" in nowhere.popitem()[1]
