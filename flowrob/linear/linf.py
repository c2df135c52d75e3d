"""l_inf attacks on the linear flow: a vertex of the box, found by search, and a certified bound.

The l2 attack is solved exactly (section 3.1 of the paper); images are attacked in l_inf. There the
worst case of a Gaussian is a convex maximisation over a box,

    drop(delta) = (x - mu)^T P delta + 1/2 delta^T P delta,   |delta_i| <= radius,   P = K^-1,

so its optimum is a vertex, and finding it is NP-hard in general (it contains max-cut). Two cheap
monotone searches take turns here: sign ascent, which is PGD with an infinite step, and flipping
the one coordinate that gains most. Beyond the paper.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from flowrob._checks import checked
from flowrob.linear.gaussian import GaussianFlow, worst_case


class LinfPerturbation(NamedTuple):
    """The best vertex found per point, and a bound that no perturbation of the box exceeds.

    Attributes:
        delta: the vertex, (N, n), float64.
        drop: log p(x) - log p(x + delta) in nats, (N,).
        upper_bound: :func:`linf_bound`, (N,).
    """

    delta: torch.Tensor
    drop: torch.Tensor
    upper_bound: torch.Tensor


@checked
def worst_case_linf(
    flow: GaussianFlow,
    x: torch.Tensor,
    radius: float,
    *,
    restarts: int = 10,
    generator: torch.Generator | None = None,
) -> LinfPerturbation:
    """delta <- radius sign(P (x - mu + delta)), or the best single flip, until neither gains.

    Beyond the paper. Both moves can only raise the drop: it is convex, so it lies above its
    tangent, which sign ascent maximises; flipping sign i gains 2 (radius^2 P_ii - delta_i g_i),
    g = P (x - mu + delta). The result is a vertex that neither move improves, the best over
    the starts: delta = 0, and ``restarts`` random vertices.

    Args:
        flow: the density.
        x: points (N, n).
        radius: half the side of the box, in data units.
        restarts: number of random starts.
        generator: draws them; None: always the same ones.

    Returns:
        delta (N, n), drop (N,) and upper_bound (N,); where drop meets the bound it is the optimum.

    Raises:
        ValueError: x of another shape or not finite, a negative radius or number of restarts, or a
            radius whose drop is no number any more.

    >>> flow = GaussianFlow(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    >>> found = worst_case_linf(flow, torch.tensor([[3.0, 1.0]]), 0.5)
    >>> found.delta.tolist(), round(float(found.drop), 5), round(float(found.upper_bound), 5)
    ([[0.5, 0.5]], 1.78125, 1.78125)
    """
    x, precision = _prepare(flow, x, radius, restarts)
    n, centred, bound = x.shape[1], x - flow.mean, linf_bound(flow, x, radius)
    generator = generator or torch.Generator().manual_seed(0)
    best = torch.zeros_like(x)
    best_drop = torch.full((len(x),), -math.inf, dtype=torch.float64)
    for start in range(restarts + 1):
        delta = torch.zeros_like(x)
        if start > 0:
            coins = torch.randint(2, x.shape, generator=generator)
            delta = radius * (2.0 * coins.double() - 1)
        delta, drop = _climb(precision, centred, delta, radius, max_moves=100 * n)
        better = drop > best_drop
        best = torch.where(better[:, None], delta, best)
        best_drop = torch.maximum(drop, best_drop)
    return LinfPerturbation(best, best_drop, bound)


@checked
def linf_bound(flow: GaussianFlow, x: torch.Tensor, radius: float) -> torch.Tensor:
    """The lesser of two bounds on the drop of a perturbation in the l_inf ball:

        radius |P (x - mu)|_1 + radius^2/2 sum_ij |P_ij|,   the l2 worst case of sqrt(n) radius

    Beyond the paper. The box lies in the ball of radius sqrt(n) radius, whose worst case is known
    exactly; and each product of the drop is at most its absolute value, with equality when P is
    diagonal.

    Args:
        flow: the density.
        x: points (N, n).
        radius: half the side of the box, in data units.

    Returns:
        (N,) nats that no perturbation of the box exceeds, rounded up by as much as sums may round.

    Raises:
        ValueError: x of another shape or not finite, or a negative radius.
    """
    x, precision = _prepare(flow, x, radius, 0)
    slope = (x - flow.mean) @ precision
    triangle = radius * slope.abs().sum(1) + 0.5 * radius * radius * precision.abs().sum()
    ball = worst_case(flow, x, math.sqrt(x.shape[1]) * radius).drop
    rounding = 8 * x.shape[1] * torch.finfo(x.dtype).eps
    return torch.minimum(triangle, ball) * (1.0 + rounding)


def _climb(precision, centred, delta, radius: float, max_moves: int):
    """Sign ascent and best single flips from delta, until neither raises any point's drop."""
    drop = _drop(precision, centred, delta)
    for _ in range(max_moves):
        gradient = (centred + delta) @ precision
        ascent = radius * torch.where(gradient >= 0, 1.0, -1.0).to(delta)
        vertex = torch.where(delta == 0, ascent, delta)  # the start delta = 0 is no vertex yet
        gain = 2 * (radius**2 * precision.diagonal() - vertex * ((centred + vertex) @ precision))
        flip = torch.zeros_like(vertex).scatter_(1, gain.argmax(1, keepdim=True), 1.0)
        flipped = torch.where(flip > 0, -vertex, vertex)
        candidates = torch.stack([delta, ascent, flipped])
        drops = torch.stack([_drop(precision, centred, c) for c in candidates])
        choice = drops.argmax(0)
        delta = candidates[choice, torch.arange(len(delta))]
        new = drops.amax(0)
        if bool((new <= drop + 1e-14 * drop.abs()).all()):
            return delta, new
        drop = new
    return delta, drop


def _drop(precision, centred, delta):
    return (((centred + 0.5 * delta) @ precision) * delta).sum(1)


def _prepare(flow: GaussianFlow, x, radius: float, restarts: int):
    """x as float64 (N, n) and P = U diag(1/lam) U^T; ValueError for what cannot be attacked."""
    n = flow.eigenvalues.shape[0]
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"x must have shape (N, {n}), one point per row, got {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite, got NaN or infinity; drop those rows first")
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius must be finite and non-negative, got {radius!r}")
    if restarts < 0:
        raise ValueError(f"restarts must be at least 0, got {restarts!r}")
    return x.double(), (flow.eigenvectors / flow.eigenvalues) @ flow.eigenvectors.T
