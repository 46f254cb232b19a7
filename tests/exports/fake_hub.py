"""A hub in this process: the few routes that an edit's way there and back takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_atoken"
_ROUTES = (
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)", "info"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)", "info"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)/?", "tree"),
    ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
)


@dataclass
class FakeHub:
    """Repositories, each with its commits; and every request that came.

    Attributes:
        repos: by name, commits by hash in their order, each a whole tree of files.
        private: repositories that were made so.
        requests: "METHOD path" in order.
        broken: repositories that answer with error 500.
    """

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """A new commit on `repo`; gives its hash."""
        commits = self.repos.setdefault(repo, {})
        sha = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()
        latest = list(commits.values())[-1] if commits else {}
        commits[sha] = {**latest, **files}
        return sha

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit by its hash, or the last for "main"."""
        commits = self.repos[repo]
        sha = list(commits)[-1] if revision == "main" and commits else revision
        return (sha, commits[sha]) if sha in commits else None


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """The hub's address, for the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._route()

        def do_HEAD(self) -> None:
            self._route()

        def do_POST(self) -> None:
            self._route()

        def log_message(self, *_: object) -> None:
            pass

        def _route(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            for method, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    getattr(self, f"_{name}")(**match.groupdict())
                    return
            self._refuse(404, "EntryNotFound")

        def _authorised(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                return True
            self._refuse(401, "")
            return False

        def _known(self, repo: str) -> bool:
            if repo in hub.broken:
                self._refuse(500, "")
            elif repo not in hub.repos:
                self._refuse(401, "RepoNotFound")
            else:
                return True
            return False

        def _create(self) -> None:
            if not self._authorised():
                return
            wanted = json.loads(self.body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            url = f"http://{self.headers['Host']}/{repo}"
            if repo in hub.repos:
                self._answer({"error": "You already created this model repo", "url": url}, 409)
                return
            hub.repos[repo] = {}
            if wanted.get("private") or wanted.get("visibility") == "private":
                hub.private.add(repo)
            self._answer({"url": url, "name": repo})

        def _validate(self) -> None:
            content = json.loads(self.body)["content"]
            good = content.startswith("---\n") and "\nlicense:" in content
            self._answer({"errors": [] if good else [{"message": "no licence"}], "warnings": []})

        def _preupload(self, repo: str, revision: str) -> None:
            if self._authorised() and self._known(repo):
                files = json.loads(self.body)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
                self._answer({"files": modes})

        def _commit(self, repo: str, revision: str) -> None:
            if not self._authorised() or not self._known(repo):
                return
            files = {}
            for line in self.body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    assert entry["value"]["encoding"] == "base64"
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            sha = hub.add(repo, files)
            url = f"http://{self.headers['Host']}/{repo}/commit/{sha}"
            self._answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

        def _info(self, repo: str, revision: str = "main") -> None:
            if not self._known(repo):
                return
            found = hub.find(repo, revision)
            if found is None:
                self._refuse(404, "RevisionNotFound")
                return
            sha, files = found
            siblings = [{"rfilename": name} for name in files]
            self._answer({"_id": "1", "id": repo, "sha": sha, "siblings": siblings})

        def _tree(self, repo: str, revision: str) -> None:
            if not self._known(repo):
                return
            found = hub.find(repo, revision)
            assert found is not None
            self._answer(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                    for name, data in found[1].items()
                ]
            )

        def _file(self, repo: str, revision: str, path: str) -> None:
            if not self._known(repo):
                return
            found = hub.find(repo, revision)
            if found is None or path not in found[1]:
                self._refuse(404, "EntryNotFound")
                return
            sha, files = found
            headers = {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha}
            self._send(200, files[path], headers)

        def _refuse(self, code: int, reason: str) -> None:
            self._send(code, b"{}", {"X-Error-Code": reason} if reason else {})

        def _answer(self, value: Any, code: int = 200) -> None:
            self._send(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, code: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
