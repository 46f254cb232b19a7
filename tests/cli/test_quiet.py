"""Silence within, and everything as it was afterwards."""

from __future__ import annotations

import warnings

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from erasekit.cli.quiet import quiet_libraries


def test_the_libraries_are_silent_within_and_as_before_afterwards() -> None:
    libraries = (diffusers_logging, transformers_logging)
    before = [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    with quiet_libraries():
        assert not any(lib.is_progress_bar_enabled() for lib in libraries)
        assert {lib.get_verbosity() for lib in libraries} == {diffusers_logging.ERROR}
        warnings.warn("noise", UserWarning, stacklevel=1)
    assert [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries] == before


def test_a_fault_within_restores_too() -> None:
    diffusers_logging.enable_progress_bar()
    with pytest.raises(RuntimeError), quiet_libraries():
        raise RuntimeError
    assert diffusers_logging.is_progress_bar_enabled()
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)
