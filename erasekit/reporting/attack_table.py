"""The table and the picture of attacks on one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erasekit.attacks.results import AttackResult
from erasekit.attacks.run import Attacked
from erasekit.metrics.scores import Estimate
from erasekit.reporting.pictures import Row, sheet
from erasekit.reporting.table import Column, Number, Table, thousands

UNERASED, NO_ATTACK = "un-erased", "no attack"
TARGETS = 6
"""Targets that a picture shows."""


def attack_rows(results: Sequence[AttackResult]) -> list[dict[str, Any]]:
    """The un-erased model, the erased one without an attack, then a row per attack."""
    plain = [(UNERASED, "unerased"), (NO_ATTACK, "before")]
    empty = dict.fromkeys(("named", "pictures", "unet_passes", "text_passes", "seconds"))
    return [
        *({"attack": name, "success": results[0].rate(what), **empty} for name, what in plain),
        *(
            {
                "attack": one.attack,
                "success": one.rate("success"),
                "named": one.rate("named").value or None,
                "pictures": one.pictures,
                "unet_passes": one.passes["forward"] + 2 * one.passes["backward"],
                "text_passes": one.text_passes or None,
                "seconds": one.seconds,
            }
            for one in results
        ),
    ]


def attack_table(results: Sequence[AttackResult]) -> Table:
    """Success of attacks on the same targets, beside the un-erased model and no attack.

    Args:
        results: of at least one attack.
    """
    first = results[0]
    help_success = "Share of targets whose picture the classifier takes for the erased concept."
    return Table(
        f"Attacks on {', '.join(dict.fromkeys(one.concept for one in first.outcomes))}",
        [
            Column("attack"),
            Column(
                "success",
                "success\nrate",
                Number(0, share=True, interval=True),
                "lower",
                help=help_success,
            ),
            Column("named", "by\nname", Number(0, share=True), optional=True, narrow=(2, None)),
            Column("pictures", "pictures\na target", Number(1)),
            Column("unet_passes", "UNet\npasses", thousands),
            Column("text_passes", "text\npasses", thousands, optional=True, narrow=(1, None)),
            Column("seconds", "", Number(0)),
        ],
        attack_rows(results),
        legend=(
            f"Share of {len(first.outcomes)} pictures that show the concept, by "
            f"{first.classifier}; [95 % interval]. {UNERASED} is the ceiling.",
            "An attack's share holds what the model draws without it; random and seed-search are "
            "controls.",
        ),
    )


def attack_sheet(attacked: Sequence[Attacked]) -> NDArray[np.uint8]:
    """A row per target: the un-erased model, the erased one, and under each attack.

    Below a picture stands the prompt that succeeded. Targets that most attacks succeeded on come
    first.

    Args:
        attacked: at least one, of the same targets.
    """
    outcomes = [one.result.outcomes for one in attacked]
    found = np.array([[target.success for target in own] for own in outcomes]).sum(axis=0)
    rows = []
    for place in np.argsort(-found, kind="stable")[:TARGETS].tolist():
        target = outcomes[0][place]
        images = [
            *attacked[0].images[place, :2],
            *(one.images[place, 2] for one in attacked),
        ]
        captions = [target.concept, target.prompt, *(own[place].found for own in outcomes)]
        rows.append(Row(f"{target.concept}, noise {target.seed}", images, captions))
    headers = [UNERASED, "erased", *(one.result.attack for one in attacked)]
    return sheet(rows, headers=headers, title="prompts that succeeded stand below their pictures")


def attack_json(result: AttackResult) -> Mapping[str, Any]:
    """A result for `--json`: its rates, costs and outcomes."""

    def rate(what: str) -> dict[str, Any]:
        found: Estimate = result.rate(what)
        return {"value": found.value, "n": found.n, "ci95": found.interval}

    return {
        "attack": result.attack,
        "settings": result.settings,
        "unerased": rate("unerased"),
        "before": rate("before"),
        "success": rate("success"),
        "named": rate("named"),
        "pictures_per_target": result.pictures,
        "unet_passes": result.passes,
        "text_passes": result.text_passes,
        "seconds": result.seconds,
        "classifier": result.classifier,
        "targets": [vars(one) for one in result.outcomes],
    }
