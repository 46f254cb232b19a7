"""The card of a repository: the hub's metadata before what the run says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erasekit.models.names import place_of
from erasekit.plugin.registry import Registry
from erasekit.reporting.card import hub_card, run_card
from erasekit.reporting.run_table import AdversaryUse

INFO = {"method": "gumbel", "base_model": {"id": "CompVis/stable-diffusion-v1-4", "hash": "0" * 64}}


def front(text: str) -> list[str]:
    """The lines of metadata."""
    start, metadata, _ = text.split("---\n", 2)
    assert start == ""
    return metadata.splitlines()


def test_it_names_base_model_licence_and_method() -> None:
    lines = front(hub_card(INFO, "# gone\n"))
    assert 'base_model: "CompVis/stable-diffusion-v1-4"' in lines
    assert "license_name: same-as-base-model" in lines
    assert 'license_link: "https://huggingface.co/CompVis/stable-diffusion-v1-4"' in lines
    assert '- "gumbel"' in lines


def test_a_registered_name_is_linked_by_where_it_lies_on_the_hub() -> None:
    info = {**INFO, "base_model": {"id": "sd1.5@main"}}
    place = place_of("sd1.5@main", Registry())
    assert 'base_model: "stable-diffusion-v1-5/stable-diffusion-v1-5"' in front(
        hub_card(info, "# gone\n", place)
    )
    icons = front(hub_card(INFO, "# gone\n", place_of("icons", Registry())))
    assert not [line for line in icons if line.startswith("base_model")]
    assert place_of("acme/model@v1", Registry()) == "acme/model@v1"


@pytest.mark.parametrize("base", ["icons", "in memory", "/home/me/model", "./models/mine"])
def test_a_model_that_is_not_on_the_hub_is_not_linked(base: str) -> None:
    lines = front(hub_card({**INFO, "base_model": {"id": base}}, "# gone\n"))
    assert not [line for line in lines if line.startswith(("base_model", "license_link"))]
    assert "license: other" in lines


def test_a_folder_that_looks_like_a_hub_id_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    lines = front(hub_card({**INFO, "base_model": {"id": "models/mine"}}, "# gone\n"))
    assert not [line for line in lines if line.startswith("base_model")]


def test_metadata_of_an_earlier_push_is_replaced_and_the_text_kept() -> None:
    once = hub_card(INFO, "# gone\n\n---\n\nA rule above.\n")
    twice = hub_card({**INFO, "method": "pgd"}, once)
    assert twice.endswith("# gone\n\n---\n\nA rule above.\n")
    assert '- "gumbel"' not in front(twice)
    assert '- "pgd"' in front(twice)


def test_names_of_others_are_no_markup_on_a_card() -> None:
    name = "[x](http://evil) <img src=a> | `b`"
    info = {
        **INFO,
        "method": "a`b",
        "concepts": [name],
        "base_model": {"id": name, "hash": "ab"},
        "versions": {"erasekit": "1", "torch": "2"},
        "config": {"scope": name, "keep": None},
        "command": "erasekit erase '```\n# x'",
        "seed": 0,
        "seconds": {"total": 1.0, "loop": 1.0},
        "unet_passes": {"forward": 1, "backward": 1},
        "peak_memory_mb": 1.0,
    }
    measures = {
        "scorer": "clip",
        "delta_mean": 1.0,
        "delta_ci95": [0.5, 1.5],
        "erased": [
            {
                **{"concept": name, "alignment_before": 70.0, "alignment_after": None},
                **{"esr1": None, "n": 0},
            }
        ],
        "kept": [
            {
                **{"concept": name, "family": "", "split": "", "delta": 1.0},
                **{"ci95": [0.5, 1.5], "n": 4},
            }
        ],
    }
    text = run_card(info, measures, [AdversaryUse(name, name, 3, 0, 9)])
    outside = re.sub(r"(?ms)^(```+)\w*\n.*?^\1$", "", text)
    outside = re.sub(r"(?<!\\)(`+)[^`].*?(?<!\\)\1", "", outside)
    for sign in (r"\]\(http", r"<img", r"`b"):
        assert not re.search(rf"(?<!\\){sign}", outside)
    assert "````\nerasekit erase '```\n# x'\n````" in text
    assert "+1.00 [0.50, 1.50]" in text
    for row in (line for line in text.splitlines() if line.startswith("| \\[x")):
        assert row.replace("\\|", "").count("|") in (4, 5, 6)
