"""Keeps the libraries below from talking over a command's own output."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the progress bars, log lines and warnings of diffusers and transformers.

    Their settings are put back at the end, so that a caller in a longer-lived process keeps its
    own. Imports both libraries, so enter it only where a model is about to be loaded.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(lib, lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        try:
            yield
        finally:
            for library, verbosity, bars in before:
                library.set_verbosity(verbosity)
                if bars:
                    library.enable_progress_bar()
