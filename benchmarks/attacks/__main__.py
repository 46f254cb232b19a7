"""`python -m benchmarks.attacks`: which methods stand which attacks, at what delta, on icons."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

import erasekit
from erasekit.attacks.run import AttackSetup, attack
from erasekit.models.loading import LoadedModel
from erasekit.reporting.attack_table import attack_json
from erasekit.training.run_folder import save_run

RECORDS = Path(__file__).parents[1] / "results" / "attacks" / "icons.jsonl"
ATTACKS = (
    *("random", "seed-search", "paraphrase", "ring-a-bell", "unlearndiffatk", "p4d-n"),
    *("concept-inversion", "relearn"),
)


def sd14_teraflop() -> float:
    """Of one forward UNet pass of Stable Diffusion 1.4 at 64x64 latents: products and sums."""
    config = Path(erasekit.__file__).parent / "models/configs/sd1/unet/config.json"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads(config.read_text(encoding="utf-8")))
        inputs = torch.empty(1, 4, 64, 64), torch.empty(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(*inputs, encoder_hidden_states=torch.empty(1, 77, 768))
    return counter.get_total_flops() / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="erase and attack what RECORDS does not have yet")
    run.add_argument("--edits", type=Path, default=Path("runs/attacks"), help="kept between runs")
    run.add_argument("--methods", default="none,neutral,l2,gumbel,uce,esd,mace")
    run.add_argument("--concepts", default="garbage truck")
    run.add_argument("--seeds", type=int, default=1)
    run.add_argument("--images", type=int, default=4)
    run.add_argument("--attacks", default=",".join(ATTACKS))
    commands.add_parser("show", help="the table, as Markdown")
    options = parser.parse_args()
    if options.command == "run":
        carry_out(options)
    else:
        print(table(list(records())))


def records() -> Iterator[dict[str, Any]]:
    """The lines that are there."""
    if RECORDS.is_file():
        yield from map(json.loads, RECORDS.read_text(encoding="utf-8").splitlines())


def carry_out(options: argparse.Namespace) -> None:
    """A line for every concept, method, seed and attack."""
    model = erasekit.load_model("icons")
    for concept in options.concepts.split(","):
        for seed in range(options.seeds):
            for method in options.methods.split(","):
                made = {(r["concept"], r["method"], r["seed"], r["attack"]) for r in records()}
                names = [
                    name
                    for name in options.attacks.split(",")
                    if (concept, method, seed, name) not in made
                ]
                if names:
                    folder = options.edits / f"{concept.replace(' ', '-')}-{method}-{seed}"
                    if not (folder / "edit.json").is_file():
                        print(f"erasing {concept} by {method}, seed {seed}", flush=True)
                        save_run(erasekit.erase(model, concept, method, seed=seed), folder)
                    record(model, folder, names, concept, options.images)


def record(model: LoadedModel, folder: Path, names: list[str], concept: str, images: int) -> None:
    """Attack the edit in a folder, and write a line for each attack."""
    edit = erasekit.load_edit(folder, model.registry)
    delta = erasekit.measure(model, edit, images_per_concept=2).delta
    setup = AttackSetup(images_per_concept=images)
    for name in names:
        (found,) = attack(model, edit, name, setup=setup, folder=folder / "attacks")
        line = {
            "concept": concept,
            "method": edit.info["method"],
            "seed": edit.info["seed"],
            "delta": [delta.value, delta.low, delta.high],
            **attack_json(found.result),
        }
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line["method"], name, found.result.rate("success"), flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """A row per method, a column per attack: targets drawn again of all, with 95 % limits."""
    attacks = [name for name in ATTACKS if any(r["attack"] == name for r in found)]
    methods = list(dict.fromkeys(r["method"] for r in found))
    lines = ["| method | delta | no attack | " + " | ".join(attacks) + " |"]
    lines.append("|---" * (3 + len(attacks)) + "|")
    for method in methods:
        own = [r for r in found if r["method"] == method]
        delta, low, high = own[0]["delta"]
        cells = [f"`{method}`", f"{delta:.2f} [{low:.2f}, {high:.2f}]", share(own, "before")]
        cells += [share([r for r in own if r["attack"] == name], "success") for name in attacks]
        lines.append("| " + " | ".join(cells) + " |")
    costs, teraflop = [], sd14_teraflop()
    for name in attacks:
        own = [r for r in found if r["attack"] == name]
        targets = sum(r["success"]["n"] for r in own)
        passes = sum(r["unet_passes"]["forward"] + 2 * r["unet_passes"]["backward"] for r in own)
        seconds = sum(r["seconds"] for r in own)
        costs.append(
            f"| `{name}` | {passes / targets:,.0f} | {seconds / targets:.1f} | "
            f"{passes / targets * teraflop:,.0f} |"
        )
    head = "| attack | UNet passes a target | seconds a target | TFLOP at SD 1.4's size |"
    return "\n".join([*lines, "", head, "|---|---|---|---|", *costs])


def share(own: list[dict[str, Any]], what: str) -> str:
    """Successes of targets, with the limits where there is one record."""
    if not own:
        return ""
    if what == "before":
        own = list({(r["concept"], r["seed"]): r for r in own}.values())
    targets = sum(r[what]["n"] for r in own)
    value = sum(r[what]["value"] * r[what]["n"] for r in own) / targets
    limits = own[0][what]["ci95"]
    shown = f" [{100 * limits[0]:.0f}, {100 * limits[1]:.0f}]" if len(own) == 1 and limits else ""
    return f"{100 * value:.0f} %{shown}"


if __name__ == "__main__":
    main()
