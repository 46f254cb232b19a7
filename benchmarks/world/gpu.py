"""All trainings in one command for a machine that is there for a quarter of an hour.

`python -m benchmarks.world gpu --data FILE --out FILE --minutes 10` reads one file of sprites
(build/sprites.npz) and writes one of weights, which `restore --from FILE` turns into checkpoints.
It needs a GPU; `--tiny` runs the same code in seconds on a CPU, for tests.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.world import autoencoder, generator
from benchmarks.world.sprites import load_sprites
from benchmarks.world.training import Budget, Device
from benchmarks.world.weights import save_weights

AUTOENCODER = 0.25
"""The autoencoder's part of the time; the generator has the rest, less RESERVE."""
RESERVE = 0.03


def run(data: Path, out: Path, minutes: float, seed: int, device: Device, tiny: bool) -> None:
    """Train autoencoder and generator within `minutes` and write their weights.

    The clock starts now and counts reading, compiling and filling pools as well.
    """
    began = time.monotonic()

    def left() -> float:
        return minutes * (1 - RESERVE) - (time.monotonic() - began) / 60

    if not (device.fast or tiny):
        raise ValueError("gpu needs a GPU; for a CPU there are the single steps, or --tiny")
    sprites = load_sprites(data)
    with tempfile.TemporaryDirectory() as scratch:
        build = Path(scratch)
        places = {p: build / "checkpoints" / f"{p}.pt" for p in ("autoencoder", "generator")}
        first = Budget(steps=2) if tiny else Budget(minutes=minutes * AUTOENCODER)
        batch, pool = (4, 64) if tiny else (None, None)
        autoencoder.train(first, seed, device, places["autoencoder"], sprites, batch, pool)
        rest = Budget(steps=2) if tiny else Budget(minutes=left())
        generator.train(rest, seed, device, places["generator"], sprites, batch, pool)
        save_weights(out, build)
    minutes = (time.monotonic() - began) / 60
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {minutes:.1f} min")
