"""Two finished erasures, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from erasekit.bench.differences import Pairs
from erasekit.bench.quick import quick_measure
from erasekit.bench.summary import with_common_roles
from erasekit.concepts import Erasure, normalised
from erasekit.edits import Edit
from erasekit.errors import EditError
from erasekit.metrics.base import Scorer
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry
from erasekit.records import Cell, QuickResult, Record


def check_same_erasure(a: Edit, b: Edit) -> None:
    """Refuse two edits that don't erase the same from the same model.

    Raises:
        EditError: naming what they differ in.
    """
    what = {
        "model": [edit.base_hash[:16] for edit in (a, b)],
        "erased concepts": ["+".join(sorted(edit.info["concepts"])) for edit in (a, b)],
    }
    reasons = [f"{name} ({one} and {two})" for name, (one, two) in what.items() if one != two]
    if reasons:
        raise EditError(
            f"The two runs can't be compared, since they differ in {', '.join(reasons)}; name two "
            "that erase the same from the same model."
        )


def measure_pair(
    model: LoadedModel,
    a: Edit,
    b: Edit,
    registry: Registry,
    *,
    images_per_concept: int = 4,
    scorer: Scorer | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Pairs:
    """A first look at two edits, on the same concepts and noises.

    Args:
        model: the model both were made from.
        a, b: edits that erase the same.
        registry: where the model's scorer is registered.
        images_per_concept: noises.
        scorer: None takes the model's.
        on_images: called with the number of images just drawn.

    Raises: as `quick_measure`, and `check_same_erasure`.
    """
    check_same_erasure(a, b)
    erasure = Erasure(tuple(model.concept(text) for text in a.info["concepts"]))
    measure = partial(
        quick_measure,
        model,
        erasure=erasure,
        registry=registry,
        images_per_concept=images_per_concept,
        scorer=scorer,
        on_images=on_images,
    )
    first = measure(a)
    looks = (a, first), (b, measure(b, before=first))
    one, two = with_common_roles([_record(edit.info, erasure, look) for edit, look in looks])
    return [(one, two)]


def _record(info: Mapping[str, Any], erasure: Erasure, result: QuickResult) -> Record:
    concepts = tuple(concept.paired for concept in result.concepts)
    kept = {normalised(prompt) for prompt in info["keep"]}
    asked = {key: info[key] for key in ("method", "seed", "neutral", "keep")}
    identity = {"erasure": {**asked, "settings": info["config"]}}
    return Record(
        Cell(info["method"], erasure.label, info["seed"], identity),
        "done",
        concepts,
        exposed=tuple(c.concept for c in concepts if normalised(c.concept) in kept),
    )
