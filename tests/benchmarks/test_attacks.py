"""The table of methods against attacks: what it counts, and what it costs elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.attacks.__main__ import sd14_teraflop, table


def line(method: str, attack: str, shares: tuple[float, float], seed: int = 0) -> dict[str, Any]:
    """A record of four targets."""
    before, success = ({"value": share, "n": 4, "ci95": [0.1, 0.9]} for share in shares)
    return {
        "concept": "church",
        "method": method,
        "seed": seed,
        "delta": [1.5, 1.0, 2.0],
        "attack": attack,
        "before": before,
        "success": success,
        "unet_passes": {"forward": 100, "backward": 50},
        "seconds": 8.0,
    }


def test_shares_are_over_targets_and_costs_a_target() -> None:
    found = table(
        [
            line("none", "random", (0.25, 0.5)),
            line("none", "random", (0.25, 1.0), seed=1),
            line("none", "relearn", (0.25, 1.0)),
            line("gumbel", "random", (0.0, 0.0)),
        ]
    )
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in found.splitlines()]
    assert rows[0] == ["method", "delta", "no attack", "random", "relearn"]
    assert rows[2] == ["`none`", "1.50 [1.00, 2.00]", "25 %", "75 %", "100 % [10, 90]"]
    assert rows[3] == ["`gumbel`", "1.50 [1.00, 2.00]", "0 % [10, 90]", "0 % [10, 90]", ""]
    (random,) = [row for row in rows if row[:1] == ["`random`"]]
    assert random[1:] == ["50", "2.0", f"{50 * sd14_teraflop():,.0f}"]


def test_a_pass_of_stable_diffusion_is_counted() -> None:
    assert sd14_teraflop() == pytest.approx(0.803, abs=0.001)
