"""What the commands of one invocation share: the registry, and the default model."""

from __future__ import annotations

from enum import StrEnum

import typer

from erasekit.plugin.registry import Registry

MODEL_VARIABLE = "ERASEKIT_MODEL"
DEFAULT_MODEL = "icons"

MODEL_HELP = (
    "Registered name, hub id such as CompVis/stable-diffusion-v1-4, diffusers folder, or "
    ".safetensors file; ID@REVISION for a branch, tag or commit."
)
MODEL_OPTION = typer.Option("--model", "-m", envvar=MODEL_VARIABLE, help=MODEL_HELP)
REVISION_OPTION = typer.Option(
    "--revision", help="Branch, tag or commit of a model on the hub; as in ID@REVISION."
)
DEVICE_OPTION = typer.Option(
    "--device", help="auto, cpu, cuda or mps; auto is a CUDA GPU where there is one."
)
DTYPE_OPTION = typer.Option(
    "--dtype",
    help="fp32 or fp16: what the weights are loaded in; fp16 takes half the memory, and reads the "
    "fp16 files of a model that has some.",
)
JSON_OPTION = typer.Option("--json", help="Print JSON instead of a table.")


class LoadedAs(StrEnum):
    """Precision of a model in memory.

    bf16 is not among them: it would round the weights to other values than those that a model's
    hash is of.
    """

    FP32 = "fp32"
    FP16 = "fp16"


def registry_of(context: typer.Context) -> Registry:
    """The registry that `main` built for this invocation."""
    registry = context.find_object(Registry)
    if registry is None:
        raise RuntimeError("the application was not given a registry; see erasekit.cli.app.main")
    return registry
