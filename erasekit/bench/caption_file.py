"""Captions of any pictures, from a CSV file or from COCO's annotations."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from erasekit.bench.prompt_file import SEEDS
from erasekit.bench.prompts import noise_seeds
from erasekit.errors import ConfigError

COLUMNS = ("caption", "prompt")
COCO = ("captions_val2014.json", "annotations/captions_val2014.json")
"""Where COCO's captions are looked for: as they come out of annotations_trainval2014.zip."""


def coco_captions() -> str | None:
    """COCO's file where the user has it in this folder, or None."""
    return next((name for name in COCO if Path(name).is_file()), None)


def read_captions(source: str, most: int) -> tuple[tuple[str, int], ...]:
    """Captions and the seed of each one's starting noise, each caption once.

    A CSV file has a column `caption` or `prompt` and, where there is one, `sd_seed`, `seed` or
    `evaluation_seed`; else the seed follows from the text. Of COCO's JSON each picture gives the
    first of its captions, so that there are as many captions as pictures. Where there are more
    than `most`, those with the smallest hash are taken: an arbitrary choice, the same everywhere,
    and a larger one holds a smaller one.

    Args:
        source: the file.
        most: how many captions.

    Raises:
        ConfigError: no such file, no such column or key, no captions, or a seed that is no number.
    """
    path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The captions {source!r} can't be read: {error}; name a CSV file with a column "
            "'caption', or COCO's captions_val2014.json."
        ) from error
    is_json = path.suffix.lower() == ".json"
    found = _from_coco(text, source) if is_json else _from_csv(text, source)
    captions = list(dict.fromkeys(found))
    if not captions:
        raise ConfigError(f"The file {source!r} has no captions; add a row for each.")
    if len(captions) > most:
        chosen = set(sorted(captions, key=_hash)[:most])
        captions = [caption for caption in captions if caption in chosen]
    return tuple(captions)


def _from_csv(text: str, source: str) -> list[tuple[str, int]]:
    try:
        rows = list(csv.DictReader(text.splitlines(keepends=True)))
    except csv.Error as error:
        raise ConfigError(f"The CSV file {source!r} can't be read: {error}.") from error
    column = next((name for name in COLUMNS if rows and name in rows[0]), None)
    if rows and column is None:
        raise ConfigError(f"The CSV file {source!r} has no column 'caption'; name it so.")
    found = []
    for row in rows:
        caption = _plain(row[column or ""] or "")
        given = next((row[name] for name in SEEDS if row.get(name)), None)
        if not caption:
            continue
        try:
            found.append((caption, noise_seeds(caption, 1)[0] if given is None else int(given)))
        except ValueError as error:
            raise ConfigError(
                f"The CSV file {source!r} has the seed {given!r}; write a whole number."
            ) from error
    return found


def _from_coco(text: str, source: str) -> list[tuple[str, int]]:
    try:
        annotations: Iterable[Mapping[str, Any]] = json.loads(text)["annotations"]
        ordered = sorted(annotations, key=lambda one: (one["image_id"], one["id"]))
        first: dict[Any, str] = {}
        for one in ordered:
            first.setdefault(one["image_id"], _plain(one["caption"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"The file {source!r} is not COCO's captions (no 'annotations' with 'image_id', 'id' "
            "and 'caption'); name captions_val2014.json, or a CSV file."
        ) from error
    return [(caption, noise_seeds(caption, 1)[0]) for caption in first.values() if caption]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _hash(caption: tuple[str, int]) -> str:
    return hashlib.sha256(f"{caption[0]}/{caption[1]}".encode()).hexdigest()
