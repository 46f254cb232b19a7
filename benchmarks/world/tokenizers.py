"""Small vocabularies in CLIP's format: every word of a caption is one token.

Byte-pair merges are learnt on the captions' own words until each is a single token. Other words
fall to pieces, at worst to characters; what is not printable ASCII becomes the unknown token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.normalizers import Lowercase
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LIMIT = 32
"""Tokens in a prompt, the two at its ends included."""
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def learn(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in which each word of `texts` is one token.

    The last two tokens are the start and the end of a text, as in CLIP.
    """
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=list(CHARACTERS),
        limit_alphabet=len(CHARACTERS),
        show_progress=False,
    )
    words = sorted({word for text in texts for word, _ in _split(tokenizer, text)})
    tokenizer.train_from_iterator(words, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [(str(left), str(right)) for left, right in map(_pair, model["merges"])]
    tokens = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS)]
    tokens += [left + right for left, right in merges]
    vocabulary: dict[str, int] = {}
    for token in [*tokens, START, END]:
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary, merges


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _split(tokenizer: Tokenizer, text: str) -> list[tuple[str, tuple[int, int]]]:
    normal = tokenizer.normalizer.normalize_str(text)
    found: list[tuple[str, tuple[int, int]]] = tokenizer.pre_tokenizer.pre_tokenize_str(normal)
    return found


def build(texts: Iterable[str], folder: Path, pad: str = END) -> CLIPTokenizer:
    """Write a tokenizer folder (vocab.json and merges.txt as well) and return the tokenizer.

    pad: the token that fills up; the scorer's text tower needs one that is not the end token.
    """
    vocabulary, merges = learn(texts)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=LIMIT
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return tokenizer
