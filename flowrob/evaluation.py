"""Evaluation: bits/dim, and what an attack does to it (section 5)."""

from __future__ import annotations

import math

from torch import Tensor


def bits_per_dim(log_prob: Tensor, num_dims: int) -> Tensor:
    """Negative log-likelihood per dimension of 8-bit data: -log2 p(x) / D + 8.

    The 8 turns the density of x in [0, 1] into the probability of a grey level of width 1/256.

    Args:
        log_prob: log-densities in nats, per unit of x.
        num_dims: D.

    Returns:
        Bits/dim, same shape; lower is more likely.
    """
    return 8.0 - log_prob / (num_dims * math.log(2.0))
