"""The model card of a run: `README.md` in its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasekit.reporting.adversaries import AdversaryUse, heading

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)


def run_card(
    info: Mapping[str, Any],
    measures: Mapping[str, Any] | None,
    adversaries: Sequence[AdversaryUse],
    remarks: Sequence[str] = (),
) -> str:
    """Markdown that says what the edit is, how it was made and what was measured.

    Args:
        info: provenance, as `edit.json` has it.
        measures: what `QuickResult.as_dict()` gives, or None where nothing was measured.
        adversaries: the concepts that were kept most.
        remarks: sentences on them.
    """
    erased = ", ".join(info["concepts"])
    base, passes = info["base_model"], info["unet_passes"]
    config = "\n".join(f"| {key} | `{value!r}` |" for key, value in info["config"].items())
    parts = [
        f"# {erased}, erased from {base['id']}",
        f"An edit by erasekit {info['versions']['erasekit']} with the method `{info['method']}`. "
        "It holds the changed tensors only; the licence of the base model applies.",
        "## Use",
        "```python\nfrom erasekit import load_edit\n\n"
        "with load_edit(FOLDER).applied(pipeline):\n    image = pipeline(PROMPT).images[0]\n```",
        _measured(measures),
        "\n\n".join([*_found(heading(info), adversaries), *remarks]),
        "## Made by",
        f"```\n{info['command']}\n```",
        f"Base model `{base['id']}`, hash `{base['hash']}`. Seed {info['seed']}. "
        f"{info['seconds']['total']:.1f} s ({info['seconds']['loop']:.1f} s in the loop), "
        f"{passes['forward']} forward and {passes['backward']} backward UNet passes, "
        f"peak memory {info['peak_memory_mb']:.0f} MB.",
        f"| setting | value |\n|---|---|\n{config}",
        "| package | version |\n|---|---|\n"
        + "\n".join(f"| {name} | {version} |" for name, version in info["versions"].items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def hub_card(info: Mapping[str, Any], text: str, base: str = "") -> str:
    """A run's card as a repository's README: with the hub's metadata before it.

    Args:
        info: provenance, as `edit.json` has it.
        text: the card, as `run_card` wrote it; metadata that it has already is replaced.
        base: hub id or folder of the base model, where its id is a registered name.
    """
    base = (base or str(info["base_model"]["id"])).partition("@")[0]
    on_hub = bool(_HUB_ID.fullmatch(base)) and not Path(base).exists()
    tags = ["erasekit", "concept-erasure", "text-to-image", "diffusers", info["method"]]
    lines = [
        "library_name: erasekit",
        "pipeline_tag: text-to-image",
        "inference: false",
        # the hub knows no "as the base model": the licence is named and linked
        "license: other",
        "license_name: same-as-base-model",
        *([f"license_link: {json.dumps(f'https://huggingface.co/{base}')}"] if on_hub else []),
        *([f"base_model: {json.dumps(base)}"] if on_hub else []),
        "tags:",
        *(f"- {json.dumps(str(tag))}" for tag in tags),
    ]
    body = _FRONT_MATTER.sub("", text, count=1)
    return "---\n" + "\n".join(lines) + "\n---\n\n" + body


def _measured(measures: Mapping[str, Any] | None) -> str:
    if measures is None:
        return "## Measured\n\nNothing was measured."
    erased = "\n".join(
        f"| {row['concept']} | {row['alignment_before']:.2f} | {row['alignment_after']:.2f} "
        f"| {_percent(row['esr1'])} |"
        for row in measures["erased"]
    )
    kept = "\n".join(
        f"| {row['concept']} | {row['delta']:+.2f} | {_interval(row['ci95'])} | {row['n']} |"
        for row in measures["kept"]
    )
    return (
        "## Measured\n\n"
        f"Scorer `{measures['scorer']}`; alignment and delta in points of 100 x cosine; the same "
        "starting noise before and after.\n\n"
        f"| erased | alignment before | after | ESR-1 |\n|---|---|---|---|\n{erased}\n\n"
        "delta: the drop in alignment of what should stay (0 is best).\n\n"
        f"| concept | delta | 95 % interval | images |\n|---|---|---|---|\n{kept}\n\n"
        "![before and after](before-after.png)"
    )


def _found(title: str, adversaries: Sequence[AdversaryUse]) -> list[str]:
    if not adversaries:
        return []
    rows = "\n".join(
        f"| {use.erased} | {use.word} | {use.steps} | {use.first} to {use.last} |"
        for use in adversaries
    )
    return [
        f"## {title}",
        f"| erased | kept beside it | steps | when |\n|---|---|---|---|\n{rows}",
    ]


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.0f} %"


def _interval(interval: Sequence[float | None]) -> str:
    low, high = interval
    return "unknown" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
