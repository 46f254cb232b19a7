"""Prompts and captions of the user's, put into a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erasekit.cli.output import print_note
from erasekit.errors import ConfigError

if TYPE_CHECKING:
    from erasekit.bench.suite import Suite
    from erasekit.models.loading import LoadedModel


def with_users_prompts(
    suite: Suite, prompts: str | None, captions: str | None, model: LoadedModel
) -> Suite:
    """The suite with the prompts of the user's files, less those that the model can't read.

    Raises:
        ConfigError: a file that can't be read, or one that the suite needs and that was not named.
    """
    return _with_captions(_with_probes(suite, prompts, model), captions, model)


def _with_probes(suite: Suite, prompts: str | None, model: LoadedModel) -> Suite:
    from dataclasses import replace

    from erasekit.bench.prompt_file import read_prompts

    if prompts is None:
        if suite.prompts_from:
            raise ConfigError(
                f"The suite {suite.name!r} draws {suite.prompts_from}; name them with "
                "--prompts FILE.csv, or AIML-TUDA/i2p for the hub's."
            )
        return suite
    probes = read_prompts(prompts)
    fitting = replace(suite, probes=probes).fitting(model.family.check_prompt).probes
    _tell(len(probes), len(fitting), "prompts", model)
    return replace(suite, probes=fitting)


def _with_captions(suite: Suite, captions: str | None, model: LoadedModel) -> Suite:
    from dataclasses import replace

    from erasekit.bench.caption_file import coco_captions, read_captions

    source = captions or (coco_captions() if suite.captions_from else None)
    if source is None:
        if suite.captions_from:
            raise ConfigError(
                f"The suite {suite.name!r} draws {suite.captions_from}; name them with "
                "--captions captions_val2014.json, or a CSV file with a column 'caption'."
            )
        return suite
    found = read_captions(source, suite.most_captions)
    fitting = replace(suite, captions=found).fitting(model.family.check_prompt).captions
    _tell(len(found), len(fitting), "captions", model)
    return replace(suite, captions=fitting)


def _tell(all_of_them: int, fitting: int, what: str, model: LoadedModel) -> None:
    if fitting < all_of_them:
        print_note(
            f"{all_of_them - fitting} of {all_of_them} {what} are too long for {model.id} and are "
            "left out."
        )
