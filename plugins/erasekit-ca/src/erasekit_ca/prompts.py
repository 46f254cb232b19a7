"""Pairs of prompts: one names the anchor, the other the erased concept in its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from erasekit.errors import ConfigError

SLOT = "{}"
BETWEEN = "|"


@dataclass(frozen=True)
class PromptPair:
    """Prompt of an image of the anchor, and the prompt that is to draw the same from now on.

    Attributes:
        anchor: c, such as "a photo of a robot".
        target: c*, such as "a photo of a R2D2".
    """

    anchor: str
    target: str


def read_templates(source: str) -> list[str]:
    """Templates of a setting: with "{}" where the concept stands, separated by "|", or a file.

    A file has one prompt a line; empty lines and "#" comments are left out.

    Raises:
        ConfigError: no prompt, or a file that can't be read as text.
    """
    if SLOT in source:
        lines = source.split(BETWEEN)
    else:
        try:
            lines = Path(source).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(
                f"Setting prompts={source!r} has no {SLOT} and is no file that can be read as text "
                f"({error}); write a template such as 'a photo of {SLOT}', or name a file."
            ) from error
    templates = [" ".join(line.split()) for line in lines]
    templates = [line for line in templates if line and not line.startswith("#")]
    if not templates:
        raise ConfigError(f"Setting prompts={source!r} holds no prompt; write one a line.")
    return templates


def pair(template: str, anchor: str, target: str) -> PromptPair:
    """The pair of one template.

    Args:
        template: has "{}" where the concept stands, or names the anchor.
        anchor: the anchor concept.
        target: the erased concept.

    Raises:
        ConfigError: neither is in the template.
    """
    if SLOT in template:
        return PromptPair(template.replace(SLOT, anchor), template.replace(SLOT, target))
    words = r"\s+".join(map(re.escape, anchor.split()))
    replaced, count = re.subn(
        rf"(?<!\w){words}(?!\w)", lambda _: target, template, flags=re.IGNORECASE
    )
    if not count:
        raise ConfigError(
            f"The prompt {template!r} has neither {SLOT} nor the anchor {anchor!r} in it; put one "
            "where the concept stands."
        )
    return PromptPair(template, replaced)
