"""What the tests of the evaluation share: seeds, and densities whose bits are known by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def triangle(x: Tensor) -> Tensor:
    """log p of independent pixels with p(x) = 2 (1 - x): grey levels, bits and attacks by hand."""
    return (2.0 * (1.0 - x).clamp(min=1e-30)).log().flatten(1).sum(1)


def bump(where: float) -> Callable[[Tensor], Tensor]:
    """A density that hates grey levels near ``where`` and likes all others."""

    def log_prob(x):
        return -50.0 * torch.exp(-(((256 * x - where) / 3.0) ** 2)).flatten(1).sum(1)

    return log_prob
