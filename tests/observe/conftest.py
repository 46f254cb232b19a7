"""The tiny world of the benches and the runs of the command line, for these tests."""

from tests.bench.conftest import make_sweep, runner, store, suite, world_model
from tests.cli.conftest import make_run, run
from tests.tiny_clip import tiny_scorer, tiny_scorer_folder

__all__ = [
    "make_run",
    "make_sweep",
    "run",
    "runner",
    "store",
    "suite",
    "tiny_scorer",
    "tiny_scorer_folder",
    "world_model",
]
