"""What the commands of one invocation share: the registry, and the default model."""

from __future__ import annotations

import typer

from erasekit.plugin.registry import Registry

MODEL_VARIABLE = "ERASEKIT_MODEL"
DEFAULT_MODEL = "icons"

MODEL_HELP = (
    "Registered name, hub id such as CompVis/stable-diffusion-v1-4, diffusers folder, or "
    ".safetensors file; ID@REVISION for a branch, tag or commit."
)
MODEL_OPTION = typer.Option("--model", "-m", envvar=MODEL_VARIABLE, help=MODEL_HELP)
JSON_OPTION = typer.Option("--json", help="Print JSON instead of a table.")


def registry_of(context: typer.Context) -> Registry:
    """The registry that `main` built for this invocation."""
    registry = context.find_object(Registry)
    if registry is None:
        raise RuntimeError("the application was not given a registry; see erasekit.cli.app.main")
    return registry
