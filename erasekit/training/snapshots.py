"""The adversarial concepts c_a of a finished run at steps along it, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from erasekit.edits import Edit, load_tensors
from erasekit.models.loading import LoadedModel
from erasekit.training.erase import ADVERSARIES


@dataclass(frozen=True)
class Snapshot:
    """c_a of one erased concept at one step.

    Attributes:
        step: the outer step.
        erased: index of the erased concept.
        caption: the word it is, or "near WORD" for an embedding that no word names.
        prompt_embeds: [L, D].
    """

    step: int
    erased: int
    caption: str
    prompt_embeds: Tensor


def adversary_snapshots(edit: Edit, folder: Path, model: LoadedModel, count: int) -> list[Snapshot]:
    """c_a at up to `count` steps, evenly spread; empty where the method has no adversary.

    Embeddings that the run has kept are taken as they are. A method that keeps words and no
    embeddings gives the first word of each step.

    Args:
        edit: the run's edit, with its history.
        folder: the run folder.
        model: embeds the words.
        count: steps at most.

    Raises:
        EditError: the kept embeddings are damaged.
    """
    history = {int(record["step"]): record.get("adversary") or [] for record in edit.history}
    if (folder / ADVERSARIES).is_file():
        return _kept(load_tensors(folder / ADVERSARIES)[0], history, count)
    return _worded(history, model, count)


def _kept(
    tensors: dict[str, Tensor], history: dict[int, list[dict[str, Any]]], count: int
) -> list[Snapshot]:
    places = sorted(tuple(map(int, key.split("."))) for key in tensors)
    steps = _spread(sorted({step for step, _ in places}), count)
    return [
        Snapshot(step, e, _caption(history.get(step, []), e), tensors[f"{step:06d}.{e}"])
        for step, e in places
        if step in steps
    ]


def _worded(
    history: dict[int, list[dict[str, Any]]], model: LoadedModel, count: int
) -> list[Snapshot]:
    named = [step for step, rows in history.items() if any(row["concept"] for row in rows)]
    chosen = [
        (step, e, row["concept"].split(", ")[0])
        for step in _spread(named, count)
        for e, row in enumerate(history[step])
        if row["concept"]
    ]
    if not chosen:
        return []
    embeds = model.family.embed_prompts([word for _, _, word in chosen])
    return [
        Snapshot(step, e, word, embed)
        for (step, e, word), embed in zip(chosen, embeds, strict=True)
    ]


def _caption(rows: Sequence[dict[str, Any]], erased: int) -> str:
    if erased >= len(rows):
        return ""
    row = rows[erased]
    nearest = row["nearest"] or ""
    return nearest if row["concept"] or not nearest else f"near {nearest}"


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of `steps`, evenly spread, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    if count == 1:
        return [steps[-1]]
    stride = (len(steps) - 1) / (count - 1)
    return [steps[round(i * stride)] for i in range(count)]
