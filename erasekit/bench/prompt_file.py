"""Prompts with seeds from a CSV file of the user's or of a data set on the hub."""

from __future__ import annotations

import csv
from pathlib import Path

from erasekit.bench.prompts import noise_seeds
from erasekit.errors import ConfigError, HubError

HUB_FILES = {"AIML-TUDA/i2p": "i2p_benchmark.csv"}
"""The file of prompts in the data sets that can be named by their id."""
SEEDS = ("sd_seed", "seed", "evaluation_seed")


def read_prompts(source: str) -> tuple[tuple[str, int], ...]:
    """Prompts and the seed of each one's starting noise, in the file's order.

    The columns are `prompt` and, where there is one, `sd_seed`, `seed` or `evaluation_seed`; a
    prompt without a seed has one that follows from its text. A row that stands twice counts once.

    Args:
        source: a CSV file, or the id of a data set of `HUB_FILES`.

    Raises:
        ConfigError: no such file, no column `prompt`, no prompts, or a seed that is no number.
        HubError: the data set is not in the local cache and can't be fetched.
    """
    path = Path(source).expanduser()
    if source in HUB_FILES and not path.exists():
        path = _fetched(source)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"The prompts {source!r} can't be read: {error}; name a CSV file, or "
            f"{' or '.join(HUB_FILES)} on the hub."
        ) from error
    if rows and "prompt" not in rows[0]:
        raise ConfigError(f"The CSV file {source!r} has no column 'prompt'; name it so.")
    prompts = [_prompt(row, source) for row in rows if (row["prompt"] or "").strip()]
    if not prompts:
        raise ConfigError(f"The CSV file {source!r} has no prompts; add a row for each.")
    return tuple(dict.fromkeys(prompts))


def _prompt(row: dict[str, str], source: str) -> tuple[str, int]:
    text = " ".join(row["prompt"].split())
    given = next((row[column] for column in SEEDS if row.get(column)), None)
    if given is None:
        return text, noise_seeds(text, 1)[0]
    try:
        return text, int(given)
    except ValueError as error:
        raise ConfigError(
            f"The CSV file {source!r} has the seed {given!r}; write a whole number."
        ) from error


def _fetched(source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, HUB_FILES[source], repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise HubError(
            f"The data set {source!r} is not in the local cache and can't be fetched; connect, or "
            "name its CSV file with --prompts."
        ) from error
