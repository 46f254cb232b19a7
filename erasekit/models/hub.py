"""The Hugging Face hub: a model's files from the cache or downloaded, and its errors as sentences.

`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` and `HF_ENDPOINT` work as huggingface_hub documents them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download

from erasekit.errors import ErasekitError, ModelError
from erasekit.models.names import split_revision
from erasekit.models.pipeline_files import (
    INDEX,
    PipelineIndex,
    choose_variant,
    local_files,
    weight_files,
)
from erasekit.plugin.registry import Registry

_CONNECTION = ("httpx", "httpcore", "requests", "urllib3")


def fetch_folder(name: str, source: str, registry: Registry, dtype: torch.dtype) -> Path:
    """The local folder of a model on the hub, downloaded where it is not in the cache.

    Args:
        source: "org/name" or "org/name@revision".
        dtype: precision wanted in memory; decides which variant is downloaded.

    Raises:
        ModelError: no such model or revision, gated, no connection, no diffusers pipeline, or
            weights that are pickled.
    """
    hub_id, revision = split_revision(source)
    at = revision or None
    with hub_errors("model", source, ModelError):
        files = _remote_files(hub_id, at)
        path = hf_hub_download(hub_id, INDEX, revision=at, local_files_only=files is None)
        folder = Path(path).parent
        index = PipelineIndex(name, folder / INDEX, registry)
        if files is None:
            try:
                choose_variant(name, local_files(folder), index.weighted, dtype)
            except ModelError as error:
                raise ModelError(
                    f"The model {name!r} is in the local cache in part alone and the hub can't be "
                    "reached; connect to fetch the rest."
                ) from error
            return folder
        variant = choose_variant(name, files, index.weighted, dtype, source=source)
        wanted = [INDEX, *(f"{p}/*.{end}" for p in index.components for end in ("json", "txt"))]
        for part in index.weighted:
            found = weight_files(files, part)
            wanted += found.get(variant) or found[None]
        return Path(snapshot_download(hub_id, revision=at, allow_patterns=wanted))


def _remote_files(hub_id: str, revision: str | None) -> list[str] | None:
    """Names of the repository's files; None where the hub can't be reached."""
    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=10)
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise
    except Exception:  # no connection; its class depends on the version of the hub's client
        return None
    return [file.rfilename for file in info.siblings or []]


@contextmanager
def hub_errors(kind: str, repo_id: str, error_class: type[ErasekitError]) -> Iterator[None]:
    """Turn the hub's refusals, and its absence, into one sentence.

    `kind` is what is asked for, "model" or "repository"; `repo_id` may end in "@revision".
    """
    try:
        yield
    except ErasekitError:
        raise
    except Exception as error:
        if sentence := _sentence(error, kind, repo_id):
            raise error_class(sentence) from error
        raise


def _sentence(error: Exception, kind: str, repo_id: str) -> str | None:
    """What an error of the hub's client says; None where it is none."""
    named = f"The {kind} {repo_id!r}"
    match error:  # subclasses before their bases
        case errors.GatedRepoError():
            page = f"https://huggingface.co/{repo_id.partition('@')[0]}"
            return f"{named} is gated; accept its licence at {page} and set HF_TOKEN."
        case errors.RepositoryNotFoundError():
            there = f"The hub has no {kind} {repo_id!r} that you may read"
            return f"{there}; check the name, or set HF_TOKEN."
        case errors.RevisionNotFoundError():
            return f"{named} has no such revision; name a branch, tag or commit of it."
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            why = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
            return (
                f"{named} is not in the local cache and the hub can't be reached{why}; connect, or "
                "name a local folder, or use --model icons."
            )
        case errors.EntryNotFoundError():
            return (
                f"The hub's {repo_id!r} has no {INDEX}, so it is no diffusers pipeline; download "
                "its .safetensors file, if it has one, and name that."
            )
        case errors.HfHubHTTPError():
            code = getattr(error.response, "status_code", None)
            remedy = (
                "set HF_TOKEN to a token that may do this" if code in (401, 403) else "try again"
            )
            return f"The hub answered with error {code} for {repo_id!r}; {remedy}."
    of_connection = any(k.__module__.startswith(_CONNECTION) for k in type(error).__mro__)
    if of_connection or isinstance(error, ConnectionError | TimeoutError):
        return f"The hub at {constants.ENDPOINT} can't be reached; connect and try again."
    return None
