"""Several processes as one: torchrun starts them, each works on its rows, all see every result.

    rows of process r of R:   r, r + R, r + 2R, ...       gather(own rows) -> all rows, everywhere

Everything random is drawn for all rows by every process alike, so that R processes compute what
one would, up to the order of floating-point sums. On CPUs they talk through gloo, on GPUs through
nccl.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flowrob._checks import checked
from flowrob.attacks.balls import column
from flowrob.attacks.objectives import Composite, Objective


@dataclass(frozen=True)
class Group:
    """This process among its siblings: number ``rank`` of ``size``.

    >>> Group(rank=1, size=3).rows(7)
    slice(1, 7, 3)
    >>> Group().gather(torch.tensor([2.0, 5.0]), 2)
    tensor([2., 5.])
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    @checked
    def rows(self, num_rows: int) -> slice:
        """Which of ``num_rows`` rows are this process's own."""
        return slice(self.rank, num_rows, self.size)

    def gather(self, own: Tensor, num_rows: int) -> Tensor:
        """All ``num_rows`` rows, the same in every process, from the own rows of each; no graph."""
        own = own.detach()
        if self.size == 1:
            return own
        everyone = own.new_zeros(num_rows, *own.shape[1:])
        everyone[self.rows(num_rows)] = own
        dist.all_reduce(everyone)  # every row is somebody's, and zero for the others: exact
        return everyone

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        count = torch.tensor(int(flag), device=device)
        dist.all_reduce(count)
        return bool(count)

    def wait(self, device: torch.device) -> None:
        """Go on once all processes are here, so that a file of the first one's is there."""
        self.any(False, device)


def join() -> Group:
    """The group of the processes that torchrun started; alone, a group of one.

    The first call connects them (later ones find the connection), and gives each process of a
    machine its own GPU, where there are any: ``"cuda"`` then means that one.
    """
    if not dist.is_available():
        return Group()
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched():
            return Group()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), dist.get_world_size())


@dataclass(frozen=True)
class Sharded(Composite):
    """A log_prob whose rows are shared out among the processes: the same values and gradients in x.

    Attacks and tables take it like any log_prob, provided that all processes ask for the same x in
    the same order, as they do when they run the same program with the same seed. It has no gradient
    in the weights.

    Args:
        log_prob: maps (batch, ...) to (batch,).
        group: from :func:`join`.
    """

    log_prob: Objective
    group: Group

    def over(self, change: Callable[[Any], Any]) -> Sharded:
        """change(log_prob), its rows shared out."""
        return Sharded(change(self.log_prob), self.group)

    def __call__(self, x: Tensor) -> Tensor:
        """log p(x) of all rows, shape (batch,), each computed by the process it belongs to."""
        return _Shard.apply(x, self.log_prob, self.group)


@checked
def sharded(log_prob: Objective, group: Group) -> Objective:
    """The log_prob, its rows shared out if there are several processes."""
    return log_prob if group.size == 1 else Sharded(log_prob, group)


class _Shard(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, log_prob, group: Group) -> Tensor:
        num_own = len(range(len(x))[group.rows(len(x))])
        own = x.detach()[group.rows(len(x)) if num_own else slice(1)]  # never an empty batch
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            value = log_prob(own.requires_grad_(ctx.needs_input_grad[0]))
            if ctx.needs_input_grad[0]:
                (gradient,) = torch.autograd.grad(value.sum(), own)
                ctx.save_for_backward(group.gather(gradient[:num_own], len(x)))
        return group.gather(value[:num_own], len(x))

    @staticmethod
    def backward(ctx, grad: Tensor):
        (gradient,) = ctx.saved_tensors
        return column(grad, gradient) * gradient, None, None
