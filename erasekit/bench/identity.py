"""What the numbers depend on, as JSON-ready data; its hash is a file's name in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import erasekit
from erasekit.bench.prompts import PAGE, EvaluatedConcept
from erasekit.bench.source import SAMPLING, SCORING, TRAINING, source_hash
from erasekit.bench.suite import Suite
from erasekit.concepts import Erasure
from erasekit.metrics.judges.judges import Judges
from erasekit.metrics.judges.labels import LabelSet
from erasekit.models.loading import LoadedModel, hash_weights
from erasekit.plugin.registry import Registry
from erasekit.records import content_key

WITHOUT_EFFECT = frozenset({"checkpoint_every", "trajectory_memory"})
"""Settings that change no number."""


def generation_identity(suite: Suite, model: LoadedModel) -> dict[str, Any]:
    """How images are drawn."""
    scheduler = model.pipeline.scheduler
    config = {k: v for k, v in dict(scheduler.config).items() if not k.startswith("_")}
    return {
        "num_inference_steps": suite.num_inference_steps or model.descriptor.num_inference_steps,
        "guidance_scale": (
            model.descriptor.guidance_scale
            if suite.guidance_scale is None
            else suite.guidance_scale
        ),
        "scheduler": content_key(
            [type(scheduler).__name__, {k: str(v) for k, v in config.items()}]
        ),
        "autoencoder": hash_weights([model.pipeline.vae]),
        "dtype": str(model.family.dtype),
        "batch": PAGE,
        "erasekit": erasekit.__version__,
        "source": source_hash(SAMPLING),
    }


def erasure_identity(
    model: LoadedModel,
    method: str,
    settings: Mapping[str, Any],
    erasure: Erasure,
    seed: int,
    registry: Registry,
) -> dict[str, Any]:
    """How an edit is made."""
    descriptor = registry.method(method)
    return {
        "model": model.hash,
        "model_concepts": content_key([asdict(concept) for concept in model.concepts]),
        "method": method,
        "target": descriptor.target,
        "plugin": _plugin(registry.owner(descriptor)),
        "settings": {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT},
        "erasure": asdict(erasure),
        "seed": seed,
        "erasekit": erasekit.__version__,
        "source": source_hash(TRAINING),
    }


def evaluation_identity(
    suite: Suite,
    model: LoadedModel,
    judges: Judges,
    labels: LabelSet,
    pages: Iterable[Iterable[EvaluatedConcept]],
) -> dict[str, Any]:
    """How an edit is measured."""
    return {
        "suite": suite.name,
        "suite_version": suite.version,
        "generation": generation_identity(suite, model),
        **judges.identity,
        "scoring": source_hash(SCORING),
        "labels": content_key(labels.identity),
        "concepts": [[asdict(concept) for concept in page] for page in pages],
    }


def _plugin(owner: str) -> str:
    distribution = owner.partition(":")[0]
    try:
        return f"{distribution} {version(distribution)}"
    except Exception:  # registered in a test or a script, not installed
        return owner
