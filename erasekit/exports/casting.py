"""A pipeline in another precision, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.exports.formats import Precision

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}


def dtype_of(precision: Precision | None, default: torch.dtype) -> torch.dtype:
    """The dtype that was asked for, or the default."""
    return default if precision is None else DTYPES[precision]


@contextmanager
def casted(pipeline: Any, dtype: torch.dtype) -> Iterator[None]:
    """The pipeline's weights in `dtype` for the block; afterwards its own, bit for bit."""
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        for component in pipeline.components.values():
            if not isinstance(component, nn.Module):
                continue
            for tensor in (*component.parameters(), *component.buffers()):
                if tensor.is_floating_point() and tensor.dtype != dtype:
                    originals.append((tensor, tensor.data))
                    tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, value in originals:
            tensor.data = value
