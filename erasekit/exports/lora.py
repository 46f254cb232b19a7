"""`--to lora`: low-rank factors of the change, which programs add to their own copy of the model.

A weight's change W' - W, of shape [m, n] (a convolution's [m, c, h, w] as [m, c h w]), is cut to
rank r by its singular values s: the share of energy kept is sum_{i<=r} s_i^2 / sum_i s_i^2, so the
relative error in Frobenius norm is the square root of the share left out (Eckart and Young 1936).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from erasekit.diffusion.sampling import generate, initial_noise
from erasekit.edits import Edit, save_tensors
from erasekit.errors import ConfigError, EditError
from erasekit.exports.formats import ExportOptions, ExportResult, Layout
from erasekit.exports.weights import DTYPES, as_weights, file_metadata
from erasekit.models.loading import LoadedModel
from erasekit.models.original_keys import unet_module

MATTERS = 0.1
"""A LoRA is refused where what it can't carry makes more than this share of the edit's effect."""


@dataclass(frozen=True)
class Factors:
    """One module's change as `alpha / r * up @ down`.

    Attributes:
        up: [m, r, 1, 1] for convolutions, else [m, r].
        down: [r, c, h, w] for convolutions, else [r, n].
        alpha: a number that all modules share.
    """

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def product(self) -> Tensor:
        """`alpha / r * up @ down` in float32, in the shape of the weight."""
        up, down = self.up.float(), self.down.float()
        product = self.alpha / self.rank * (up.flatten(1) @ down.flatten(1))
        return product.reshape(up.shape[0], *down.shape[1:])


def export_lora(
    edit: Edit, model: LoadedModel | None, path: Path, options: ExportOptions
) -> ExportResult:
    """Write the file; takes `layout`, `energy` or `rank`, `dtype`, `allow_loss`, `images`.

    The error that is reported is that of the written factors, in their precision. Biases and
    norms, which a LoRA can't carry, stay as they were.

    Raises:
        EditError: the model is another one, nothing changed that a LoRA carries, or what it can't
            carry matters and `allow_loss` is off.
        ConfigError: no model.
        OutputError: the file can't be written, or the disk is full.
    """
    if model is None:
        raise ConfigError("A LoRA is the difference to the base model; give it.")
    edit, notes = as_weights(edit, model, options)
    with edit.applied(model, force=options.force):
        pass  # the edit fits
    changes, left_out = _changes(edit, model.unet)
    if not changes:
        raise EditError(
            "This edit changes no weight that a LoRA could carry; export --to weights or diffusers."
        )
    factors = factorise(changes, options)
    carried = _carried(edit, model, changes, factors, left_out)
    error, loss = _errors(edit, model, carried, left_out, options)
    if loss > MATTERS and not options.allow_loss:
        raise EditError(
            f"A LoRA can't carry biases and norms, and {len(left_out)} of them (such as "
            f"{left_out[0]!r}) make {100 * loss:.0f} % of this edit's effect; export --to "
            "diffusers or single-file, or add --allow-loss."
        )
    place = place_of(model.family.name, options.layout, model.pipeline.unet.config)
    tensors, metadata = LAYOUTS[options.layout](factors, place, model.family.name)
    save_tensors(path, tensors, file_metadata(edit, **metadata))
    report = _report(changes, factors, left_out, loss, error, options)
    return ExportResult(
        path,
        [path],
        _load_with(path, options.layout),
        report,
        [*notes, *_notes(report, left_out)],
    )


def factorise(changes: Mapping[str, Tensor], options: ExportOptions) -> dict[str, Factors]:
    """Factors of each module's change.

    Each module gets the least rank that keeps the energy, and all the same alpha, the largest of
    these ranks: diffusers loses the alphas of attention in kohya's layout where they differ, and
    then scales these modules wrongly. In diffusers' own layout, which has no alphas, all get the
    largest rank, because diffusers scaled modules wrongly where ranks differ until its pull
    request 14409 of 2026; factors of a smaller weight are filled up with zeros.

    Args:
        changes: by module name, [m, n] or [m, c, h, w], float32.
    """
    dtype = DTYPES[options.dtype] if options.dtype else torch.float32
    ranks = {name: _rank_of(change.flatten(1), options) for name, change in changes.items()}
    if options.layout is Layout.DIFFUSERS:
        ranks = dict.fromkeys(ranks, max(ranks.values()))
    alpha = float(max(ranks.values()))
    factors = {}
    for name, change in changes.items():
        rank, shape = ranks[name], change.shape
        u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
        root = (s[:rank] * rank / alpha).sqrt()
        up, down = u[:, :rank] * root, root[:, None] * v[:rank]
        if missing := rank - len(root):
            up = nn.functional.pad(up, (0, missing))
            down = nn.functional.pad(down, (0, 0, 0, missing))
        if len(shape) == 4:
            up = up[:, :, None, None]
        down = down.reshape(-1, *shape[1:])
        factors[name] = Factors(up.to(dtype).contiguous(), down.to(dtype).contiguous(), alpha)
    return factors


def _rank_of(change: Tensor, options: ExportOptions) -> int:
    """The rank that was asked for, or the least whose share of energy is enough."""
    if options.rank is not None:
        return min(options.rank, change.shape[0], change.shape[1])
    squares = torch.linalg.svdvals(change).double() ** 2
    kept = squares.cumsum(0) / squares.sum()
    return int((kept < options.energy - 1e-9).sum()) + 1


def _changes(edit: Edit, unet: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """W' - W of the weights a LoRA carries, by module; and the other tensors that changed."""
    parameters = dict(unet.named_parameters())
    changes, left_out = {}, []
    for name, value in edit.tensors.items():
        change = value.detach().cpu().float() - parameters[name].detach().cpu().float()
        if not change.any():
            continue
        owner, _, attribute = name.rpartition(".")
        if attribute == "weight" and isinstance(unet.get_submodule(owner), nn.Linear | nn.Conv2d):
            changes[owner] = change
        else:
            left_out.append(name)
    return changes, left_out


def _carried(
    edit: Edit,
    model: LoadedModel,
    changes: Mapping[str, Tensor],
    factors: Mapping[str, Factors],
    left_out: list[str],
) -> Edit:
    """The edit as the LoRA has it."""
    parameters = dict(model.unet.named_parameters())
    tensors = dict(edit.tensors)
    for module in changes:
        name = f"{module}.weight"
        tensors[name] = parameters[name].detach().cpu().float() + factors[module].product()
    for name in left_out:
        del tensors[name]
    return Edit(tensors, edit.info)


def _errors(
    edit: Edit, model: LoadedModel, carried: Edit, left_out: list[str], options: ExportOptions
) -> tuple[Difference, float]:
    """How far the LoRA is from the edit; and what share of its effect is left out by kind."""
    prompts = [*edit.info["concepts"], ""]
    base = outputs(model, prompts, 0)
    with edit.applied(model, force=options.force):
        wanted = outputs(model, prompts, options.images)
    with carried.applied(model, force=options.force):
        ours = outputs(model, prompts, options.images)
    loss = 0.0
    if left_out:
        rest = {name: value for name, value in edit.tensors.items() if name not in left_out}
        with Edit(rest, edit.info).applied(model, force=options.force):
            loss = difference(outputs(model, prompts, 0), wanted, base).noise_relative
    return difference(ours, wanted, base), loss


def _report(
    changes: Mapping[str, Tensor],
    factors: Mapping[str, Factors],
    left_out: list[str],
    loss: float,
    error: Difference,
    options: ExportOptions,
) -> dict[str, Any]:
    square = sum(float(change.double().square().sum()) for change in changes.values())
    gap = sum(
        float((change - factors[name].product()).double().square().sum())
        for name, change in changes.items()
    )
    ranks = sorted(factor.rank for factor in factors.values())
    return {
        "layout": options.layout.value,
        "energy": options.energy if options.rank is None else None,
        "energy_kept": 1 - gap / square,
        "modules": len(factors),
        "rank_min": ranks[0],
        "rank_median": ranks[len(ranks) // 2],
        "rank_max": ranks[-1],
        "weights_error": math.sqrt(gap / square),
        "left_out": {"tensors": len(left_out), "share_of_effect": loss},
        "error": asdict(error),
    }


def _load_with(path: Path, layout: Layout) -> str:
    if layout is Layout.KOHYA:
        return f"ComfyUI (models/loras) or A1111 (models/Lora): put {path.name} there, strength 1"
    return f'pipeline.load_lora_weights("{path.parent}", weight_name="{path.name}")'


def _notes(report: Mapping[str, Any], left_out: list[str]) -> list[str]:
    error = report["error"]
    notes = [
        f"Rank {report['rank_min']} to {report['rank_max']} in {report['modules']} modules keeps "
        f"{100 * report['energy_kept']:.2f} % of the energy; relative error of the weights "
        f"{report['weights_error']:.2g}, of the edit's effect on predicted noise "
        f"{error['noise_relative']:.2g} (max {error['noise_max']:.2g}, mean "
        f"{error['noise_mean']:.2g})"
        + (
            f", of 8-bit pixels max {error['pixel_max']} and mean {error['pixel_mean']:.2g}."
            if error["images"]
            else "."
        )
    ]
    if left_out:
        notes.append(
            f"Left out: {len(left_out)} biases and norms, which a LoRA can't carry; they make "
            f"{100 * report['left_out']['share_of_effect']:.1f} % of the edit's effect."
        )
    return notes


# -- how far two states of a model are apart -------------------------------------------------------

NOISE_SEEDS = (0, 1)
TIMES = (0.1, 0.5, 0.9)
"""Where noise is predicted, as shares of the model's training timesteps."""


@dataclass(frozen=True)
class Outputs:
    """What a model gives at fixed noise.

    Attributes:
        noise_pred: predicted noise, [N, C, h, w], float32 on the CPU.
        images: uint8 [M, H, W, 3], or None where none were drawn.
    """

    noise_pred: Tensor
    images: np.ndarray | None


@dataclass(frozen=True)
class Difference:
    """Between two `Outputs`.

    Attributes:
        noise_max: largest absolute difference of predicted noise (which is of about unit size).
        noise_mean: mean absolute difference of it.
        noise_relative: norm of the difference, in units of how far the edit is from the base.
        pixel_max: largest absolute difference of 8-bit pixels, 0 to 255.
        pixel_mean: mean absolute difference of them.
        images: how many were drawn.
    """

    noise_max: float
    noise_mean: float
    noise_relative: float
    pixel_max: int | None
    pixel_mean: float | None
    images: int


@torch.no_grad()
def outputs(model: LoadedModel, prompts: Sequence[str], images: int) -> Outputs:
    """Predicted noise for all prompts at fixed noises and times, and images of the first prompt.

    Args:
        model: in the state that is asked about.
        prompts: at least one.
        images: images to draw of the first prompt, of seeds 0, 1, ...
    """
    family = model.family
    noise = initial_noise(family, NOISE_SEEDS)
    embeds = family.embed_prompts(list(prompts))
    steps = model.pipeline.scheduler.config.num_train_timesteps
    predictions = []
    for share in TIMES:
        for embed in embeds:
            timesteps = torch.full((len(noise),), int(share * steps), device=family.device)
            conditions = embed.expand(len(noise), *embed.shape)
            predictions.append(family.predict_noise(noise, timesteps, conditions).float().cpu())
    drawn = generate(model, [prompts[0]] * images, range(images)) if images else None
    return Outputs(torch.cat(predictions), drawn)


def difference(ours: Outputs, wanted: Outputs, base: Outputs) -> Difference:
    """How far `ours` is from `wanted`, which was made from `base`."""
    gap = ours.noise_pred - wanted.noise_pred
    effect = float((wanted.noise_pred - base.noise_pred).norm())
    pixel_max, pixel_mean, count = None, None, 0
    if ours.images is not None and wanted.images is not None:
        pixels = np.abs(ours.images.astype(int) - wanted.images.astype(int))
        pixel_max, pixel_mean, count = int(pixels.max()), float(pixels.mean()), len(pixels)
    return Difference(
        float(gap.abs().max()),
        float(gap.abs().mean()),
        float(gap.norm()) / effect if effect else 0.0,
        pixel_max,
        pixel_mean,
        count,
    )


# -- names of tensors ------------------------------------------------------------------------------

Place = Callable[[str], str]
Written = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata."""

_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def place_of(family: str, layout: Layout, unet_config: Mapping[str, Any]) -> Place:
    """A function from a UNet module's name to the name the layout has for it.

    kohya's scripts train Stable Diffusion 1 and 2 on diffusers' UNet and XL on the original one,
    and name modules by it; ComfyUI and A1111 expect the same.
    """
    if layout is Layout.KOHYA and family == "sdxl":
        return unet_module(unet_config)
    return lambda module: module


def diffusers_layout(factors: Mapping[str, Factors], place: Place, family: str) -> Written:
    """peft's names, as diffusers' `load_lora_weights` reads: W + lora_B @ lora_A."""
    tensors = {}
    for module, factor in factors.items():
        tensors[f"unet.{place(module)}.lora_A.weight"] = factor.down
        tensors[f"unet.{place(module)}.lora_B.weight"] = factor.up
    return tensors, {}


def kohya_layout(factors: Mapping[str, Factors], place: Place, family: str) -> Written:
    """kohya's names: W + alpha / rank * lora_up @ lora_down; all alphas are equal."""
    tensors = {}
    for module, factor in factors.items():
        name = "lora_unet_" + place(module).replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = factor.down
        tensors[f"{name}.lora_up.weight"] = factor.up
        tensors[f"{name}.alpha"] = torch.tensor(factor.alpha)
    largest = str(max(factor.rank for factor in factors.values()))
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": largest,
        "ss_network_alpha": largest,
        "ss_v2": str(family == "sd2"),
        "ss_base_model_version": _BASE_VERSIONS.get(family, ""),
    }
    return tensors, metadata


LAYOUTS: dict[Layout, Callable[[Mapping[str, Factors], Place, str], Written]] = {
    Layout.DIFFUSERS: diffusers_layout,
    Layout.KOHYA: kohya_layout,
}
