"""Peak memory and time of one gumbel step on a full-size UNet with random weights.

    python -m benchmarks.fullsize sd1
    python -m benchmarks.fullsize sdxl --dtype bf16

The UNet, the VAE and the scheduler have the family's real configuration; the text encoders have
its width and two layers, as they are idle in training, and the tokenizer knows few words. The step
is measured in a process of its own, so that its peak is the operating system's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SETTINGS = {
    "steps": 1,
    "trajectory_steps": 2,
    "trajectories": 1,
    "keep_trajectories": 1,
    "gradient_checkpointing": True,
    "checkpoint_every": 0,
}
WORDS = ("bus", "church")
ENCODER_LAYERS = 2
TOKENS = 77


def build_pipeline(family: str, dtype: str, scratch: str) -> Any:
    """A diffusers pipeline of the family's real shapes, its weights random.

    Args:
        scratch: a folder for the tokenizer's files.
    """
    import diffusers
    import torch
    import transformers

    import erasekit.diffusion
    from erasekit.testing.tiny import build_tokenizer

    folder = Path(erasekit.diffusion.__file__).parent / "configs" / family
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, DTYPES[dtype]))
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        library, kind = value
        if not (folder / name).is_dir():
            parts[name] = None
        elif name.startswith("text_encoder"):
            config = transformers.CLIPTextConfig.from_pretrained(folder / name)
            config.num_hidden_layers = ENCODER_LAYERS
            parts[name] = getattr(transformers, kind)(config).eval()
        elif name.startswith("tokenizer"):
            parts[name] = build_tokenizer(Path(scratch))
            parts[name].model_max_length = TOKENS
        else:
            source = getattr(diffusers if library == "diffusers" else transformers, kind)
            built = source.from_config(source.load_config(folder / name))
            parts[name] = built.eval() if isinstance(built, torch.nn.Module) else built
    torch.set_default_dtype(torch.float32)
    options = {"add_watermarker": False} if family == "sdxl" else {"requires_safety_checker": False}
    return getattr(diffusers, index["_class_name"])(**parts, **options)


def step(family: str, dtype: str, batch_size: int, accumulate: int) -> dict[str, Any]:
    """Build the model, take the step, and say what it took; run in a process of its own."""
    import torch

    from erasekit.concepts import Concept, Erasure
    from erasekit.diffusion.loading import wrap_pipeline
    from erasekit.training.erase import erase
    from erasekit.training.provenance import peak_memory_mb

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        model = wrap_pipeline(build_pipeline(family, dtype, scratch), f"random {family}")
    unet = sum(p.numel() for p in model.unet.parameters())
    built, before = time.perf_counter() - began, peak_memory_mb()
    settings = {**SETTINGS, "batch_size": batch_size, "accumulate": accumulate}
    erasure = Erasure((Concept("garbage truck"),), "", WORDS)
    edit = erase(model, "gumbel", erasure, settings=settings)
    seconds = edit.info["seconds"]
    return {
        "family": family,
        "stored_in": dtype,
        "unet_parameters": unet,
        "trained_parameters": sum(value.numel() for value in edit.tensors.values()),
        "settings": settings,
        "words_of_r": len(WORDS),
        "unet_passes": edit.info["unet_passes"],
        "seconds": {
            "build": round(built, 1),
            "trajectories": round(seconds["total"] - seconds["loop"], 1),
            "step": seconds["loop"],
        },
        "peak_gib": {
            "model_built": round(before / 1024, 2),
            "step": round(edit.info["peak_memory_mb"] / 1024, 2),
        },
        "threads": torch.get_num_threads(),
        "versions": edit.info["versions"],
        "loss": edit.history[0]["loss"],
    }


def main() -> None:
    """Measure in a subprocess, print, and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fullsize", description=__doc__)
    parser.add_argument("family", choices=("sd1", "sd2", "sdxl"))
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the stored weights")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    arguments = (options.family, options.dtype, options.batch_size, options.accumulate)
    if options.child:
        print(json.dumps(step(*arguments)))
        return
    command = [sys.executable, "-m", "benchmarks.fullsize", *sys.argv[1:], "--child"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        died = "killed, out of memory" if result.returncode == -9 else "failed"
        sys.exit(f"The step was {died} (exit code {result.returncode}).")
    found = json.loads(result.stdout.splitlines()[-1])
    found["command"] = " ".join(["python -m benchmarks.fullsize", *sys.argv[1:]])
    print(json.dumps(found, indent=2))
    peak, seconds = found["peak_gib"]["step"], found["seconds"]["step"]
    print(f"{options.family}: peak {peak} GiB, step {seconds} s", file=sys.stderr)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
