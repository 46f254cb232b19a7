"""CLIP's vocabulary as tokenizer files, made from the list of merges that open_clip ships.

All of Stable Diffusion 1.x, 2.x and XL use it. A vocabulary is the 256 bytes, the same ending a
word, the merges in their order, and begin and end of text (Radford et al., CLIP, 2021).
"""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_COUNT = 49152 - 256 - 2
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Token to id (49,408 of them), and the merges, each "left right", first first."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")
    packed = (Path(spec.origin).parent / _MERGES).read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : _COUNT + 1]
    letters = list(byte_letters())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(merge.split()) for merge in merges]
    return {token: i for i, token in enumerate([*tokens, BEGIN, END])}, merges


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the vocabulary's order.

    Printable bytes of Latin-1 stand for themselves and come first; the others follow, as the
    letters from U+0100 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(others)]


def write_clip_vocabulary(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` into a tokenizer's folder."""
    vocabulary, merges = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8"
    )
