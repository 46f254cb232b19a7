"""Models on the hub: the few files that loading reads, from the local cache or downloaded.

`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` and `HF_ENDPOINT` work as huggingface_hub documents them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from erasekit.errors import ModelError
from erasekit.models.names import split_revision
from erasekit.models.weight_files import (
    INDEX,
    PipelineIndex,
    choose_variant,
    local_files,
    wanted_files,
)
from erasekit.plugin.registry import Registry


def fetch_folder(name: str, source: str, registry: Registry, dtype: torch.dtype) -> Path:
    """The local folder of a model on the hub, downloaded where it is not in the cache.

    Args:
        name: what the user typed.
        source: "org/name" or "org/name@revision".
        dtype: precision wanted in memory; decides which variant is downloaded.

    Raises:
        ModelError: no such model or revision, gated, no connection, no diffusers pipeline, or
            weights that are pickled.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    hub_id, revision = split_revision(source)
    with _hub_errors(name, hub_id, revision):
        files = _remote_files(hub_id, revision)
        offline = files is None
        path = hf_hub_download(hub_id, INDEX, revision=revision or None, local_files_only=offline)
        folder = Path(path).parent
        index = PipelineIndex(name, folder / INDEX, registry)
        if files is None:
            _check_cached(name, folder, index, dtype)
            return folder
        variant = choose_variant(name, files, index.weighted, dtype, source=source)
        return Path(
            snapshot_download(
                hub_id,
                revision=revision or None,
                allow_patterns=wanted_files(files, index, variant),
            )
        )


def _remote_files(hub_id: str, revision: str) -> list[str] | None:
    """Names of the repository's files; None where the hub can't be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(hub_id, revision=revision or None, timeout=10)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise
    except Exception:  # no connection; its class depends on the version of the hub's client
        return None
    return [file.rfilename for file in info.siblings or []]


def _check_cached(name: str, folder: Path, index: PipelineIndex, dtype: torch.dtype) -> None:
    try:
        choose_variant(name, local_files(folder), index.weighted, dtype)
    except ModelError as error:
        raise ModelError(
            f"The model {name!r} is in the local cache in part alone and the hub can't be reached; "
            "connect to fetch the rest."
        ) from error


@contextmanager
def _hub_errors(name: str, hub_id: str, revision: str) -> Iterator[None]:
    """Turn the hub client's errors into one sentence each."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"The model {name!r} is gated; accept its licence at https://huggingface.co/{hub_id} "
            "and set HF_TOKEN to a token of that account."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {hub_id!r} that you may read; check the id, or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"The model {hub_id!r} has no revision {revision!r}; name a branch, tag or commit."
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"The model {name!r} is not in the local cache and the hub can't be reached; connect, "
            "or name a local folder, or use --model icons."
        ) from error
    except EntryNotFoundError as error:
        raise ModelError(
            f"The hub's {hub_id!r} has no {INDEX}, so it is no diffusers pipeline; download its "
            ".safetensors file, if it has one, and name that."
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(
            f"The hub refused to give the model {name!r} ({_first_line(error)}); try again, or "
            "set HF_TOKEN."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
