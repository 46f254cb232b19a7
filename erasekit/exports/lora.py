"""`--to lora`: low-rank factors of the change, which programs add to their own copy of the model.

A weight's change W' - W, of shape [m, n] (a convolution's [m, c, h, w] as [m, c h w]), is cut to
rank r by its singular values s: the share of energy kept is sum_{i<=r} s_i^2 / sum_i s_i^2, so the
relative error in Frobenius norm is the square root of the share left out (Eckart and Young 1936).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.edits import Edit, save_tensors
from erasekit.errors import ConfigError, EditError
from erasekit.exports.casting import DTYPES
from erasekit.exports.comparing import Difference, difference, outputs
from erasekit.exports.formats import ExportOptions, ExportResult, Layout
from erasekit.exports.lora_layouts import LAYOUTS, place_of
from erasekit.exports.merging import as_delta
from erasekit.exports.provenance import file_metadata
from erasekit.models.loading import LoadedModel

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
    edit, notes = as_delta(edit, model, options)
    with edit.applied(model, force=options.force):
        pass  # the edit fits
    changes, left_out = _changes(edit, model.unet)
    if not changes:
        raise EditError(
            "This edit changes no weight that a LoRA could carry; export --to delta or diffusers."
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
