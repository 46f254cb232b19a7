"""Write the weights into the package: erasekit/embedded/.

`python -m benchmarks.world pack`. `icons/` is a plain diffusers StableDiffusionPipeline folder,
`icons-clip/` a folder that open_clip loads as "local-dir:...", both in half precision;
`icons.json` says what the model knows and how good it is, `MODEL_CARD.md` the same for people.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from benchmarks.world.captions import unambiguous
from benchmarks.world.card import model_card
from benchmarks.world.catalog import HERE
from benchmarks.world.data import BUILD, load_manifest
from benchmarks.world.evaluate import GUIDANCE, STEPS
from benchmarks.world.generator import load_pipeline
from benchmarks.world.scorer import FOLDER, load_scorer

EMBEDDED = HERE.parent.parent / "erasekit" / "embedded"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
LIMIT_MB = 25.0


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_generator(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """The pipeline in half precision, with the tokenizer's older file names as well."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(BUILD / "tokenizer" / name, folder / "tokenizer" / name)
    weights = folder / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    # transformers before 5 want the prefix, later ones take it.
    prefixed = {f"text_model.{key.removeprefix('text_model.')}": v for key, v in state.items()}
    save_file(prefixed, weights, metadata={"format": "pt"})
    for config in folder.glob("*/config.json"):
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        if config.parent.name == "text_encoder":
            # Else newer transformers load it in half precision and the UNet stays in single.
            content["dtype"] = content["torch_dtype"] = "float32"
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def save_scorer(folder: Path) -> None:
    """The scorer in half precision, in open_clip's folder format."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TOKENIZER_FILES, "open_clip_config.json"):
        shutil.copyfile(FOLDER / name, folder / name)
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in load_scorer().state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def known_concepts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What icons.json says about each concept; ambiguous aliases are left out."""
    styles: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, icon_set, _, role, _ in manifest["drawings"]:
        counts[name][role] += 1
        if role == "generator" and manifest["sets"][icon_set]["style"]:
            styles[name].add(manifest["sets"][icon_set]["style"])
    return [
        {
            "name": names.name,
            "kind": concept["kind"],
            "family": concept["family"],
            "split": concept["split"],
            "aliases": list(names.aliases),
            "styles": sorted(styles[names.name]),
            "drawings": counts[names.name]["generator"],
            **({"note": concept["note"]} if concept["note"] else {}),
        }
        for names, concept in zip(
            unambiguous(manifest["concepts"]), manifest["concepts"], strict=True
        )
    ]


def read_metrics() -> dict[str, Any]:
    """The latest full evaluation; the quick one where there is no full one yet."""
    for name in ("metrics.json", "metrics-quick.json"):
        if (BUILD / name).exists():
            content: dict[str, Any] = json.loads((BUILD / name).read_text())
            return content
    return {}


def steps_trained() -> dict[str, int]:
    """How many optimiser steps each checkpoint has."""
    return {
        name: int(torch.load(BUILD / "checkpoints" / f"{name}.pt", weights_only=True)["step"])
        for name in ("autoencoder", "generator", "scorer")
    }


def content_of(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """icons.json."""
    hashes = {
        str(path.relative_to(folder)): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix == ".safetensors"
    }
    return {
        "schema": 1,
        "name": "icons",
        "scorer": "icons-clip",
        "size": 64,
        "guidance_scale": GUIDANCE,
        "steps": STEPS,
        "neutral": "a photo",
        "prompt_template": "a photo of {}",
        "style_template": "{} in the style of {}",
        "trained_steps": steps_trained(),
        "hashes": hashes,
        "metrics": read_metrics(),
        "concepts": known_concepts(manifest),
    }


def megabytes(folder: Path) -> float:
    """The size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def pack(target: Path = EMBEDDED) -> None:
    """Write everything beside the target, check that it loads, then move it in place."""
    manifest = load_manifest()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        fresh = Path(scratch) / "embedded"
        save_generator(load_pipeline(), fresh / "icons")
        save_scorer(fresh / "icons-clip")
        content = content_of(fresh, manifest)
        (fresh / "icons.json").write_text(json.dumps(content, indent=1) + "\n")
        (fresh / "MODEL_CARD.md").write_text(model_card(content, manifest, megabytes(fresh)))
        size = megabytes(fresh)
        if size > LIMIT_MB:
            raise ValueError(f"{size:.1f} MB; the wheel has room for {LIMIT_MB} MB")
        check(fresh)
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for name in ("icons", "icons-clip"):
            shutil.rmtree(target / name, ignore_errors=True)
        for name in ("icons", "icons-clip", "icons.json", "MODEL_CARD.md"):
            (fresh / name).replace(target / name)
    line = f"{time.strftime('%H:%M:%S')} packed {size:.1f} MB, steps {content['trained_steps']}"
    with (BUILD / "PACKED").open("a") as file:
        file.write(line + "\n")
    print(line)


def check(folder: Path) -> None:
    """Load both models as a user would and draw and score one picture."""
    import open_clip
    from torchvision.transforms.functional import to_pil_image

    pipeline = StableDiffusionPipeline.from_pretrained(folder / "icons", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    image = pipeline(
        "a photo of a church", num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=rng
    ).images[0]
    if image.size != (64, 64):
        raise ValueError(f"the packed pipeline draws pictures of {image.size}")
    place = f"local-dir:{folder / 'icons-clip'}"
    model, preprocess = open_clip.create_model_from_pretrained(place)
    model.eval()
    tokenizer = open_clip.get_tokenizer(place)
    with torch.no_grad():
        vision = model.encode_image(preprocess(image)[None], normalize=True)
        text = model.encode_text(tokenizer(["a photo of a church", "banana"]), normalize=True)
        original = load_scorer().encode_image(preprocess(image)[None], normalize=True)
    if not torch.allclose(vision, original, atol=0.02):
        raise ValueError("the packed scorer differs from the trained one")
    print("church, banana:", [round(100 * float(s), 1) for s in (vision @ text.T)[0]])
    tensor = preprocess(to_pil_image(torch.ones(3, 64, 64)))
    if tensor.shape != (3, 64, 64):
        raise ValueError(f"the packed scorer wants {tuple(tensor.shape)}")
