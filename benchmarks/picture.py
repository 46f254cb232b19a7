"""Draw the README's picture: what a run erased and what must stay, before and after.

`python -m benchmarks.picture RUN --keep truck --keep bicycle --keep bell --to FILE.png`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import erasekit
from erasekit.reporting.pictures import Row, save_png, sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture")
    parser.add_argument("run", type=Path)
    parser.add_argument("--keep", action="append", default=[], help="a concept that must stay")
    parser.add_argument("--noise", type=int, default=0, help="seed of the starting noise")
    parser.add_argument("--to", type=Path, required=True, help="the PNG to write")
    options = parser.parse_args()
    model, edit = erasekit.load_model("icons"), erasekit.load_edit(options.run)
    erased = edit.info["concepts"]
    prompts = [*erased, *options.keep]
    seeds = [options.noise] * len(prompts)
    before = erasekit.generate(model, prompts, seeds)
    with edit.applied(model):
        after = erasekit.generate(model, prompts, seeds)
    headers = [f"{name} (erased)" if name in erased else name for name in prompts]
    save_png(
        options.to, sheet([Row("before", before), Row("after", after)], headers=headers, cell=160)
    )


if __name__ == "__main__":
    main()
