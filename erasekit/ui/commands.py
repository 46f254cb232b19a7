"""`erasekit ui`: serve the page."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from erasekit.cli.console import print_note, stdout
from erasekit.cli.options import (
    Device,
    DeviceOption,
    ModelOption,
    chosen_model,
    opened,
    registry_of,
)
from erasekit.errors import ConfigError

LOOPBACK = "127.0.0.1"


def ui(
    context: typer.Context,
    model: ModelOption = None,
    device: DeviceOption = Device.AUTO,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = 7860,
) -> None:
    """Open a page in the browser to erase a concept, look at what it cost, and export the edit."""
    if find_spec("gradio") is None:
        raise ConfigError(
            'The page needs gradio; install it with: python -m pip install "erasekit[ui]"'
        )
    registry = registry_of(context)
    with opened(chosen_model(model), registry, device=device) as loaded:
        from erasekit.ui.page import Page

        page = Page(loaded)
        if host != LOOPBACK:
            print_note(f"Anyone who reaches {host} can use this model; there is no password.")
        try:
            url = page.serve(host, port)
        except OSError as error:
            raise ConfigError(
                f"Port {port} of {host!r} can't be had; name another one with --port."
            ) from error
        stdout().print(f"Open {url} in a browser. Ctrl-C stops.")
        page.wait()
