"""The tiny models of every family, for these tests."""

from tests.models.conftest import family_folders, family_model, loaded, single_file

__all__ = ["family_folders", "family_model", "loaded", "single_file"]
