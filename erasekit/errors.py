"""The tree of errors a user can mend.

Every error of this tree prints as one sentence that names the value and the remedy; the command
line turns it into exit code 2 without a traceback. Anything else that is raised is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ErasekitError(Exception):
    """Base of all user-facing errors: one sentence, the value, the remedy."""

    exit_code = 2


class UnknownNameError(ErasekitError):
    """A name that is not registered. Suggests the nearest known one.

    >>> str(UnknownNameError("method", "gumble", ["gumbel", "pgd"]))
    "Unknown method 'gumble'; did you mean 'gumbel'? Known: gumbel, pgd."
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        suggestion = nearest_name(name, self.known)
        message = f"Unknown {kind} {name!r}"
        message += f"; did you mean {suggestion!r}?" if suggestion else "."
        if self.known:
            message += f" Known: {', '.join(self.known)}."
        super().__init__(f"{message} {hint}".rstrip())


class ConfigError(ErasekitError):
    """A hyperparameter, recipe or option that is unknown, ill-typed or out of range."""


class ConceptError(ErasekitError):
    """A concept that is empty or does not fit the model's tokenizer."""


class ModelError(ErasekitError):
    """A model that can't be loaded: not there, no network, an unknown family, a broken file."""


class MissingWeightsError(ModelError):
    """Weights that erasekit neither ships nor fetches, and that nobody named a file of."""


class ScopeError(ErasekitError):
    """A parameter scope that selects nothing in this model."""


class EditError(ErasekitError):
    """An edit that can't be read, is damaged, or was made from another model."""


class HubError(ErasekitError):
    """A repository on the hub that can't be reached, is not there, or is not yours to use."""


class OutputError(ErasekitError):
    """A place on disk that can't be written: exists, not permitted, full."""


class OutputLostError(OutputError):
    """A folder that a command was writing to, and that somebody removed meanwhile."""

    exit_code = 1


class PluginError(ErasekitError):
    """A plugin that breaks the rules, such as claiming a name that is taken."""


class MissingExtraError(ErasekitError):
    """An optional dependency that is not installed. Names the line that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional dependency; install it with: "
            f"python -m pip install 'erasekit[{extra}]'."
        )


class TrainingError(ErasekitError):
    """Training that can't go on, such as a loss that is not finite."""


class Interrupted(ErasekitError):  # noqa: N818 - not a fault: the user's own wish
    """The user's Ctrl-C, after the state was saved. Says how to go on."""

    exit_code = 130


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, or None where none is near."""
    lowered = {k.lower(): k for k in reversed(list(known))}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None
