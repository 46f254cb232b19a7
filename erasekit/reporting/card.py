"""The model card of a run: `README.md` in its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasekit.reporting.run_table import (
    AdversaryUse,
    adversaries_heading,
    adversaries_table,
    measures_tables,
    settings_table,
)
from erasekit.reporting.table import Column, Table, code, markdown_text

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)


def run_card(
    info: Mapping[str, Any],
    measures: Mapping[str, Any] | None,
    adversaries: Sequence[AdversaryUse],
    history: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown that says what the edit is, how it was made and what was measured.

    Args:
        info: provenance, as `edit.json` has it.
        measures: as `measures.json` has them, or None where nothing was measured.
        adversaries: the concepts that were kept most.
        history: as `history.jsonl` has it.
    """
    erased = markdown_text(", ".join(info["concepts"]))
    base, passes, versions = info["base_model"], info["unet_passes"], info["versions"]
    config = {key: [str(value)] for key, value in info["config"].items()}
    packages = [{"package": key, "version": value} for key, value in versions.items()]
    measured: list[Table | str] = ["Nothing was measured."]
    if measures is not None:
        measured = [*measures_tables(measures), "![before and after](before-after.png)"]
    parts: list[Table | str] = [
        f"# {erased}, erased from {markdown_text(base['id'])}",
        f"An edit by erasekit {versions['erasekit']} with the method {code(info['method'])}. "
        "It holds the changed tensors only; the licence of the base model applies.",
        "## Use",
        f"```python\nimport erasekit\n\nmodel = erasekit.load_model({base['id']!r})\n"
        'edit = erasekit.load_edit(".")  # this folder\n'
        f"with edit.applied(model):\n"
        f"    images = erasekit.generate(model, [{info['concepts'][0]!r}], seeds=[0])\n```",
        "## Measured",
        *measured,
    ]
    if adversaries:
        parts.append(f"## {adversaries_heading(info)}")
        parts.append(adversaries_table(adversaries, info, history))
    parts += [
        "## Made by",
        code(info["command"], block=True),
        f"Base model {code(base['id'])}, hash `{base['hash']}`. Seed {info['seed']}. "
        f"{info['seconds']['total']:.1f} s ({info['seconds']['loop']:.1f} s in the loop), "
        f"{passes['forward']} forward and {passes['backward']} backward UNet passes, "
        f"peak memory {info['peak_memory_mb']:.0f} MB.",
        settings_table({info["method"]: config}),
        Table("", [Column("package"), Column("version")], packages),
    ]
    texts = [part.markdown().rstrip() if isinstance(part, Table) else part for part in parts]
    return "\n\n".join(texts) + "\n"


def hub_card(info: Mapping[str, Any], text: str, base: str = "") -> str:
    """A run's card as a repository's README: with the hub's metadata before it.

    Args:
        info: provenance, as `edit.json` has it.
        text: the card, as `run_card` wrote it; metadata that it has already is replaced.
        base: hub id or folder of the base model, where its id is a registered name.
    """
    base = (base or str(info["base_model"]["id"])).partition("@")[0]
    linked = []
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        linked = [
            f"license_link: {json.dumps(f'https://huggingface.co/{base}')}",
            f"base_model: {json.dumps(base)}",
        ]
    tags = ["erasekit", "concept-erasure", "text-to-image", "diffusers", info["method"]]
    lines = [
        "library_name: erasekit",
        "pipeline_tag: text-to-image",
        "inference: false",
        # the hub knows no "as the base model": the licence is named and linked
        "license: other",
        "license_name: same-as-base-model",
        *linked,
        "tags:",
        *(f"- {json.dumps(str(tag))}" for tag in tags),
    ]
    body = _FRONT_MATTER.sub("", text, count=1)
    return "---\n" + "\n".join(lines) + "\n---\n\n" + body
