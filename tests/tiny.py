"""The tiny model of `erasekit.testing`, under the names that the tests use."""

from erasekit.testing.tiny import MAX_TOKENS, WORDS, build_tokenizer
from erasekit.testing.tiny import build_tiny_folder as build_folder

__all__ = ["MAX_TOKENS", "WORDS", "build_folder", "build_tokenizer"]
