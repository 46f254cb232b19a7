"""The estimate of a dry run, in words and as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erasekit.bench.forecast import Forecast


def forecast_json(forecast: Forecast | None) -> dict[str, Any] | None:
    """The `estimate` of a plan; None where nothing is missing."""
    if forecast is None:
        return None
    return {
        "seconds": forecast.seconds,
        "bytes": forecast.bytes,
        "erasure_unet_passes": forecast.erasure_passes,
        "erasures_without_record": forecast.guessed,
        "images_per_second": forecast.images_per_second,
        "seconds_per_unet_pass": forecast.calibration.pass_seconds,
    }


def forecast_sentence(forecast: Forecast | None) -> str:
    """What to expect, in a sentence or two."""
    if forecast is None:
        return "Nothing is missing."
    sentence = (
        f"Estimate for this machine, by a short calibration: {duration(forecast.seconds)}, "
        f"{size(forecast.bytes)} on disk; {forecast.erasure_passes:,} UNet passes for erasing"
    )
    if forecast.guessed:
        sentence += f" ({forecast.guessed} of the erasures by their settings alone)"
    if not math.isnan(forecast.images_per_second):
        sentence += f", {forecast.images_per_second:.3g} images per second"
    return f"{sentence}."


def duration(seconds: float) -> str:
    """Two digits are enough for an estimate.

    >>> [duration(s) for s in (0.4, 45, 600, 9000, 200_000)]
    ['1 s', '45 s', '10 min', '2.5 h', '2.3 days']
    """
    for unit, length, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < limit * length:
            return f"{max(1, seconds / length):.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes in decimal units.

    >>> [size(n) for n in (999, 34_500, 2_000_000, 3.2e10)]
    ['999 B', '34 kB', '2 MB', '32 GB']
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.0f} GB" if count >= 10 else f"{count:.1f} GB"
