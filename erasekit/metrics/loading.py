"""A scorer by name."""

from __future__ import annotations

from erasekit.errors import UnknownNameError
from erasekit.metrics.base import Scorer
from erasekit.plugin.registry import Registry


def load_scorer(name: str, registry: Registry) -> Scorer:
    """A registered scorer, or one of open_clip's as "MODEL/TAG", "hf-hub:..." or "local-dir:...".

    Raises:
        UnknownNameError: neither registered nor of these forms.
        ModelError: it can't be read or fetched.
    """
    if name in registry.scorers() or ("/" not in name and ":" not in name):
        descriptor = registry.scorer(name)
        scorer: Scorer = descriptor.load()(**descriptor.options)
        return scorer
    from erasekit.metrics.open_clip import OpenClipScorer

    if name.startswith(("hf-hub:", "local-dir:")):
        return OpenClipScorer(name)
    model, _, tag = name.rpartition("/")
    if not model or not tag:
        raise UnknownNameError(
            "scorer", name, registry.scorers(), "Or name MODEL/TAG of open_clip."
        )
    return OpenClipScorer(model, tag)
