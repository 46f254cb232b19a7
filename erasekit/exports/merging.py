"""An edit of any kind as changed weights, for programs that know no other."""

from __future__ import annotations

from erasekit.edits import Edit
from erasekit.exports.formats import ExportOptions
from erasekit.models.loading import LoadedModel


def as_delta(edit: Edit, model: LoadedModel, options: ExportOptions) -> tuple[Edit, list[str]]:
    """The edit with its inference part merged into weights, and a note on what that lost.

    Raises:
        EditError: no weights can carry it, or not all of it and `allow_loss` is off; another
            model.
    """
    delta, loss = edit.merged(model, force=options.force, allow_loss=options.allow_loss)
    return delta, [loss] if loss else []
