"""Edits to and from repositories of the Hugging Face hub, or of another place that speaks its API.

The endpoint, the token and the cache are huggingface_hub's own: `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HOME`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from erasekit.edits import HISTORY, INFO, WEIGHTS, load_edit
from erasekit.errors import ConfigError, EditError, HubError
from erasekit.files import atomic_folder

CARD = "README.md"
FILES = (INFO, WEIGHTS, HISTORY, "adversary.safetensors", "before-after.png")
"""What of a run folder goes to a repository, beside its card; of these only the first two must."""

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_CONNECTION = ("httpx", "httpcore", "requests", "urllib3")


@dataclass(frozen=True)
class Pushed:
    """Where an edit went.

    Attributes:
        repo_id: owner/name.
        url: of the commit.
        files: names of what was sent.
    """

    repo_id: str
    url: str
    files: list[str]


def push(
    folder: Path, repo_id: str, card: str, *, private: bool = False, message: str = ""
) -> Pushed:
    """Send an edit to a repository, in one commit; the repository is made where there is none.

    Args:
        folder: a finished run folder.
        repo_id: owner/name.
        card: text of the repository's README.md.
        private: of a repository that is made.
        message: of the commit.

    Raises:
        EditError: the folder holds no edit, or a damaged one.
        ConfigError: the name is no repository's.
        HubError: the hub can't be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repo_id(repo_id)
    if folder.is_file():
        raise EditError(f"{str(folder)!r} is a file; name the run folder of an erasure.")
    load_edit(folder)
    names = [name for name in FILES if (folder / name).is_file()]
    operations = [CommitOperationAdd(name, str(folder / name)) for name in names]
    operations.append(CommitOperationAdd(CARD, card.encode("utf-8")))
    with _asking(repo_id):
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message=message or "Add an edit by erasekit"
        )
    return Pushed(repo_id, str(commit.commit_url), [*names, CARD])


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """Fetch an edit from a repository into the hub's cache; gives the folder there.

    Only the files of an edit are fetched, none of which can hold code.

    Args:
        repo_id: owner/name.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        EditError: the repository holds no edit, or a damaged one.
        ConfigError: the name is no repository's.
        HubError: the hub can't be reached, or refuses.
    """
    from huggingface_hub import snapshot_download

    check_repo_id(repo_id)
    with _asking(repo_id):
        path = snapshot_download(repo_id, revision=revision, allow_patterns=[*FILES, CARD])
    fetched = Path(path)
    if not (fetched / INFO).is_file() or not (fetched / WEIGHTS).is_file():
        raise EditError(
            f"The repository {repo_id!r} holds no edit of erasekit ({INFO} and {WEIGHTS}); "
            "if it is a model, name it with --model."
        )
    load_edit(fetched)
    return fetched


def place(fetched: Path, folder: Path) -> None:
    """Copy a fetched edit to `folder`, when it is whole in place of an edit that is there.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    names = (*FILES, CARD)
    with atomic_folder(folder, stale=names) as temporary:
        for name in names:
            if (fetched / name).is_file():
                shutil.copyfile(fetched / name, temporary / name)


def check_repo_id(repo_id: str) -> None:
    """Check that this may be a repository's name.

    Raises:
        ConfigError: it is not owner/name.
    """
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise ConfigError(
            f"{repo_id!r} names no repository; write it as owner/name, in letters, digits, '-', "
            "'_' and '.'."
        )


@contextmanager
def _asking(repo_id: str) -> Iterator[None]:
    """Turn the hub's refusals, and its absence, into one sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"The repository {repo_id!r} is gated; accept its terms on the hub and set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"The hub has no repository {repo_id!r} that you may use; check the name, or set "
            "HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"The repository {repo_id!r} has no such revision; name a branch, tag or commit of it."
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it.") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise HubError(
                f"The hub refused {repo_id!r} (error {code}); set HF_TOKEN to a token that may "
                "do this."
            ) from error
        raise HubError(
            f"The hub answered with error {code} for {repo_id!r}; try again later."
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it can't be reached"
        raise HubError(
            f"The repository {repo_id!r} is not in the local cache and the hub was not asked or "
            f"did not answer ({reason}); connect and try again."
        ) from error
    except Exception as error:
        if isinstance(error, ConnectionError | TimeoutError) or _is_connection(error):
            raise HubError(
                f"The hub at {constants.ENDPOINT} can't be reached; connect and try again."
            ) from error
        raise


def _is_connection(error: Exception) -> bool:
    """Whether an HTTP library says that there was no answer; which library is the hub's choice."""
    return any(kind.__module__.startswith(_CONNECTION) for kind in type(error).__mro__)
