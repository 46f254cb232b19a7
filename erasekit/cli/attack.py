"""`erasekit attack` and `erasekit attacks`: whether an erased concept can be drawn again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erasekit.cli.console import ProgressBar, print_json, stdout, table
from erasekit.cli.options import (
    Device,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LoadedAs,
    ModelOption,
    OutputOption,
    RevisionOption,
    ScorerOption,
    chosen_model,
    opened,
    read_edit,
    registered,
    registry_of,
)
from erasekit.concepts import slug
from erasekit.errors import ConceptError, ConfigError

if TYPE_CHECKING:
    from erasekit.plugin.descriptors import AttackDescriptor
    from erasekit.plugin.registry import Registry

RUNS = Path("runs")
ALL, CONTROLS = "all", ("random", "seed-search")
ATTACKS, PICTURE = "attacks", "attacks.png"
"""The folder of results in a run's, and the picture of the attacks that were asked for last."""
GIVEN_PANEL = "What attacks are given"


class Budget(StrEnum):
    """What `--budget` takes."""

    SMALL = "small"
    PUBLISHED = "published"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("attack")(attack)
    group = typer.Typer()
    group.callback(invoke_without_command=True)(attacks)
    group.command("show")(show_attack)
    app.add_typer(group, name="attacks")


def attack(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(help="Run folder of an erasure; without it, the un-erased model."),
    ] = None,
    attack: Annotated[
        str,
        typer.Option(
            "--attack",
            "-a",
            help="Names of `erasekit attacks`, separated by commas, or all.",
            autocompletion=registered("attacks"),
        ),
    ] = "unlearndiffatk",
    budget: Annotated[Budget, typer.Option(help="How much they may try.")] = Budget.SMALL,
    controls: Annotated[
        bool, typer.Option(help="Random tokens and other noises at the same number of pictures.")
    ] = True,
    concept: Annotated[
        str | None, typer.Option(help="What to draw again [default: what the run erased].")
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(help="What draws it without an attack; {} stands for its name."),
    ] = "{}",
    images_per_concept: Annotated[
        int, typer.Option(min=1, help="Starting noises, each a target.")
    ] = 4,
    top: Annotated[int, typer.Option(min=1, help="Success: its class is in the top so many.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the searches.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A hyperparameter, KEY=VALUE, for the attacks that have it; see `attacks show`.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="A file with a column 'prompt', for the attack of that name: a published list, or "
            "what an attack found (prompts.csv).",
            rich_help_panel=GIVEN_PANEL,
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="A folder of pictures of the concept [default: drawn by the un-erased model].",
            rich_help_panel=GIVEN_PANEL,
        ),
    ] = None,
    scorer: ScorerOption = None,
    classifier: Annotated[
        str, typer.Option(help="Who tells classes apart [default: the scorer].")
    ] = "",
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = LoadedAs.FP32,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try to draw what was erased, and count how often that succeeds.

    Results are kept in RUN/attacks, an attack a folder; what is there is not computed again.
    """
    from erasekit.attacks.run import AttackSetup
    from erasekit.attacks.run import attack as carry_out
    from erasekit.bench.prompts import read_prompts
    from erasekit.bench.suites import paper_world
    from erasekit.config import parse_assignments
    from erasekit.metrics.judges import load_judges
    from erasekit.reporting.attack_table import attack_json, attack_sheet, attack_table
    from erasekit.reporting.pictures import save_png

    registry = registry_of(context)
    edit = read_edit(run, registry)
    if edit is None and concept is None:
        raise ConceptError("Name the run folder of an erasure, or a concept with --concept.")
    names = chosen_attacks(attack, registry, prompts, controls)
    wanted = parse_assignments(settings or ())
    drawn = read_prompts(prompts).prompts if prompts else ()
    if pictures and not pictures.is_dir():
        raise ConceptError(f"There is no folder {str(pictures)!r} of pictures; name another.")
    if output is None:
        within = run is not None and run.is_dir()
        named = concept or (run.stem if run else "")
        output = run / ATTACKS if run and within else RUNS / f"{slug(named)[:60]}-{ATTACKS}"
    name = chosen_model(model, edit, revision)
    loading = opened(name, registry, device=device, dtype=dtype)
    with loading as loaded, ProgressBar("Attack", len(names)) as bar:
        known = tuple(loaded.concepts) or paper_world()

        def tell(text: str) -> None:
            bar.advance(text in names)  # an attack begins
            bar.status(text)

        attacked = carry_out(
            loaded,
            edit,
            names,
            concept,
            budget=budget,
            settings=wanted,
            setup=AttackSetup(
                images_per_concept,
                prompt,
                seed,
                top,
                tuple((one.name, *one.aliases) for one in known),
                prompts=drawn,
                pictures=pictures,
            ),
            judges=load_judges(
                registry,
                scorer or loaded.descriptor.scorer,
                classifier=classifier,
                device=loaded.family.device,
            ),
            folder=output,
            on_status=tell,
        )
    results = [one.result for one in attacked]
    save_png(output / PICTURE, attack_sheet(attacked))
    if as_json:
        print_json({"folder": str(output), "attacks": [attack_json(one) for one in results]})
        return
    stdout().print(attack_table(results))
    stdout().print(f"Picture: {output / PICTURE}", soft_wrap=True)
    stdout().print(f"Prompts that succeeded: {output}/*/prompts.csv", soft_wrap=True)


def chosen_attacks(text: str, registry: Registry, prompts: str | None, controls: bool) -> list[str]:
    """The attacks that `--attack` names, the controls before them.

    Raises:
        UnknownNameError: an unknown one.
        ConfigError: none, or prompts that no attack draws.
    """
    names = list(filter(None, map(str.strip, text.split(","))))
    if names == [ALL]:
        found = registry.attacks().values()
        names = [one.name for one in found if prompts or "prompts" not in one.needs]
    if not names:
        raise ConfigError("--attack names none; see `erasekit attacks`.")
    needs = {need for name in names for need in registry.attack(name).needs}
    if prompts and "prompts" not in needs:
        raise ConfigError("--prompts is for the attack 'prompts'; add it to --attack.")
    return list(dict.fromkeys([*(CONTROLS if controls else ()), *names]))


def attacks(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the attacks, or show one with all its hyperparameters."""
    if context.invoked_subcommand:
        return
    registry = registry_of(context)
    found = [_described(one, registry) for one in registry.attacks().values()]
    if as_json:
        print_json({"attacks": found})
        return
    columns = ("attack", "what it tries", "needs", "plugin")
    rows = [(one["name"], one["summary"], ", ".join(one["needs"]), one["plugin"]) for one in found]
    stdout().print(table("Attacks", columns, rows))
    stdout().print("Reference and hyperparameters of one: erasekit attacks show NAME", style="dim")


def show_attack(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="An attack's name.", autocompletion=registered("attacks"))
    ],
    as_json: JsonOption = False,
) -> None:
    """Every hyperparameter of one attack: its default, what each budget sets, help."""
    from erasekit.attacks.run import BUDGETS
    from erasekit.config import describe

    registry = registry_of(context)
    descriptor = registry.attack(name)
    budgets = {own: {**both, **descriptor.budgets.get(own, {})} for own, both in BUDGETS.items()}
    settings = [
        {
            "name": field.name,
            "type": field.type,
            "default": field.default,
            "budgets": {own: b[field.name] for own, b in budgets.items() if field.name in b},
            "help": field.help,
        }
        for field in describe([descriptor.load().Config])
    ]
    if as_json:
        print_json({"attack": _described(descriptor, registry), "settings": settings})
        return
    stdout().print(f"{descriptor.name}: {descriptor.summary}")
    if descriptor.reference:
        stdout().print(descriptor.reference, style="dim")
    columns = ("setting", "type", "default", *BUDGETS, "meaning")
    rows = [
        (s["name"], s["type"], s["default"], *(s["budgets"].get(b, "") for b in BUDGETS), s["help"])
        for s in settings
    ]
    stdout().print(table("Hyperparameters (--set NAME=VALUE)", columns, rows))


def _described(one: AttackDescriptor, registry: Registry) -> dict[str, Any]:
    return {
        "name": one.name,
        "summary": one.summary,
        "needs": list(one.needs),
        "reference": one.reference,
        "plugin": registry.owner(one),
    }
