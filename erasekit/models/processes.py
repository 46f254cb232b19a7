"""Several processes that train one edit together, as `accelerate launch` or `torchrun` start them.

Each process holds the whole state and takes the same decisions, since random numbers follow from
seed and step. Only the UNet's rows are shared out (see `erasekit.models.unet_runner`), so there is
nothing else to keep equal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


class Processes:
    """The processes of a run: by default one, which needs no communication.

    Every method with "all processes" in its description must be called by all of them, in the
    same order.

    Attributes:
        rank: this process, from 0; 0 is the main one, which alone writes, prints and measures.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def launched(cls, device: str = "auto") -> Processes:
        """The processes that the launcher started; one where there was no launcher.

        Joins their group through `accelerate`, which picks what they talk by: NCCL between
        GPUs, gloo between CPUs.

        Args:
            device: "cpu" joins by CPU though there are GPUs.
        """
        if launched_processes() == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, prints and measures."""
        return self.rank == 0

    def share(self, rows: int) -> list[int]:
        """How many of `rows` each process takes, the first ones the larger shares."""
        return [rows // self.count + (i < rows % self.count) for i in range(self.count)]

    def own(self, rows: int) -> slice:
        """Which of `rows` this process takes."""
        shares = self.share(rows)
        start = sum(shares[: self.rank])
        return slice(start, start + shares[self.rank])

    def gather_rows(self, part: Tensor, rows: int) -> Tensor:
        """All `rows` from every process's `own` part, the same on all processes, no gradient."""
        if self.count == 1:
            return part
        shares = self.share(rows)
        padded = part.new_zeros(shares[0], *part.shape[1:])
        padded[: len(part)] = part.detach()
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([p[:share] for p, share in zip(parts, shares, strict=True)])

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.count == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.all_reduce(whole)
            if whole is not tensor:
                tensor.copy_(whole)

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any of all processes."""
        return flag if self.count == 1 else any(self._every(flag))

    def from_main(self, value: T) -> T:
        """The main process's `value`, on all processes; any object that can be pickled."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """The end: give the group up."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _every(self, flag: bool) -> list[bool]:
        flags: list[bool] = [False] * self.count
        dist.all_gather_object(flags, flag)
        return flags


def launched_processes() -> int:
    """How many processes the launcher says it started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)
