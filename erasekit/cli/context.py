"""Another name for `erasekit.cli.options`, until all commands import that."""

import typer

from erasekit.cli.options import DEFAULT_MODEL as DEFAULT_MODEL
from erasekit.cli.options import MODEL_HELP as MODEL_HELP
from erasekit.cli.options import MODEL_VARIABLE as MODEL_VARIABLE
from erasekit.cli.options import LoadedAs as LoadedAs
from erasekit.cli.options import registry_of as registry_of

MODEL_OPTION = typer.Option("--model", "-m", envvar=MODEL_VARIABLE, help=MODEL_HELP)
REVISION_OPTION = typer.Option("--revision", help="As in ID@REVISION.")
DEVICE_OPTION = typer.Option("--device", help="auto, cpu, cuda or mps.")
DTYPE_OPTION = typer.Option("--dtype", help="What the weights are loaded in.")
JSON_OPTION = typer.Option("--json", help="Print JSON instead of a table.")
