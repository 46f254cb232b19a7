"""Edits to and from repositories of the Hugging Face hub, or of another place that speaks its API.

The endpoint, the token and the cache are huggingface_hub's own: `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HOME`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download

from erasekit.edits import HISTORY, INFO, WEIGHTS, load_edit
from erasekit.errors import ConfigError, EditError, HubError
from erasekit.files import atomic_folder
from erasekit.models.hub import hub_errors

CARD = "README.md"
FILES = (INFO, WEIGHTS, HISTORY, "adversary.safetensors", "before-after.png")
"""What of a run folder goes to a repository, beside its card; of these only the first two must."""

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def push(
    folder: Path, repo_id: str, card: str, *, private: bool = False, message: str = ""
) -> dict[str, Any]:
    """Send an edit to a repository, in one commit; the repository is made where there is none.

    Args:
        folder: a finished run folder.
        repo_id: owner/name.
        card: text of the repository's README.md.
        private: of a repository that is made.

    Returns:
        repo_id, url of the commit, names of the files that were sent.

    Raises:
        EditError: the folder holds no edit, or a damaged one.
        ConfigError: the name is no repository's.
        HubError: the hub can't be reached, or refuses.
    """
    check_repo_id(repo_id)
    if folder.is_file():
        raise EditError(f"{str(folder)!r} is a file; name the run folder of an erasure.")
    load_edit(folder)
    names = [name for name in FILES if (folder / name).is_file()]
    operations = [CommitOperationAdd(name, str(folder / name)) for name in names]
    operations.append(CommitOperationAdd(CARD, card.encode("utf-8")))
    with hub_errors("repository", repo_id, HubError):
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message=message or "Add an edit by erasekit"
        )
    return {"repo_id": repo_id, "url": str(commit.commit_url), "files": [*names, CARD]}


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """Fetch an edit from a repository into the hub's cache; gives the folder there.

    Only the files of an edit are fetched, none of which can hold code. `revision` is a branch, tag
    or commit; None is the main branch.

    Raises:
        EditError: the repository holds no edit, or a damaged one.
        ConfigError: the name is no repository's.
        HubError: the hub can't be reached, or refuses.
    """
    check_repo_id(repo_id)
    with hub_errors("repository", repo_id, HubError):
        fetched = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[*FILES, CARD]))
    if not (fetched / INFO).is_file() or not (fetched / WEIGHTS).is_file():
        raise EditError(
            f"The repository {repo_id!r} holds no edit of erasekit ({INFO} and {WEIGHTS}); "
            "if it is a model, name it with --model."
        )
    load_edit(fetched)
    return fetched


def place(fetched: Path, folder: Path) -> None:
    """Copy a fetched edit to `folder`, when it is whole in place of an edit that is there."""
    names = (*FILES, CARD)
    with atomic_folder(folder, stale=names) as temporary:
        for name in names:
            if (fetched / name).is_file():
                shutil.copyfile(fetched / name, temporary / name)


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no name of a repository, owner/name, by `ConfigError`."""
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise ConfigError(
            f"{repo_id!r} names no repository; write it as owner/name, in letters, digits, '-', "
            "'_' and '.'."
        )
