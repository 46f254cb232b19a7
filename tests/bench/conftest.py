"""The tiny scorer, for these tests."""

from tests.tiny_clip import tiny_scorer, tiny_scorer_folder

__all__ = ["tiny_scorer", "tiny_scorer_folder"]
