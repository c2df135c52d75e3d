"""Defences that need no robust training of their own: what hybrid training is held against.

    mixture    log((1 - w) p_a + w p_b)      never more than a constant behind the better part
    rebased    the flow with a wider normal or a Student-t for a base
    uniform    0 on the unit box: mixed in, it caps the fall of any density

Beyond the paper. All are normalised densities, attacked like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowrob.attacks import Objective
from flowrob.attacks.objectives import Composite
from flowrob.distributed import Group, sharded
from flowrob.evaluation.robustness import robustness_table
from flowrob.flows import Flow


@dataclass(frozen=True)
class Mixture(Composite):
    """x -> log((1 - w) exp a(x) + w exp b(x)); made by :func:`mixture`."""

    a: Objective
    b: Objective
    weight: float

    def over(self, change: Callable[[Any], Any]) -> Mixture:
        """The mixture of change(a) and change(b)."""
        return replace(self, a=change(self.a), b=change(self.b))

    def __call__(self, x: Tensor) -> Tensor:
        """log q(x), shape (batch,), nats."""
        first, second = self.a(x), self.b(x)
        return torch.logaddexp(first + math.log1p(-self.weight), second + math.log(self.weight))


def mixture(log_prob_a: Objective, log_prob_b: Objective, weight: float = 0.5) -> Mixture:
    """The log-density of a mixture: log((1 - w) p_a(x) + w p_b(x)).

    A mixture is never worse than either part by more than a constant: its negative log-likelihood
    is at most NLL_a + log 1/(1 - w) and at most NLL_b + log 1/w, whatever x. With a clean and an
    adversarially trained model and w = 1/2 this is the baseline of hybrid training; with
    :func:`uniform` for b it caps the fall of the likelihood, whatever the input.

    Args:
        log_prob_a: maps (batch, ...) to (batch,), nats.
        log_prob_b: the same, for the other density.
        weight: w, of b; in (0, 1).

    Returns:
        A callable like its parts.

    Raises:
        ValueError: weight outside (0, 1).

    >>> half = mixture(uniform, uniform, 0.25)
    >>> half(torch.full((1, 2), 0.5)).abs().item() < 1e-6
    True
    """
    if not 0.0 < weight < 1.0:
        raise ValueError(f"weight must lie in (0, 1), got {weight}; for 0 or 1 use one part alone")
    return Mixture(log_prob_a, log_prob_b, weight)


@dataclass(frozen=True)
class Rebased(Composite):
    """x -> log p of a flow whose base is another; made by :func:`rebased`."""

    flow: Flow
    scale: float
    degrees: float

    def over(self, change: Callable[[Any], Any]) -> Rebased:
        """The same base under change(flow)."""
        return replace(self, flow=change(self.flow))

    def __call__(self, x: Tensor) -> Tensor:
        """log q(x), shape (batch,), nats."""
        z, log_det = self.flow.bijection(x)
        z, dims = z.flatten(1) / self.scale, self.flow.num_dims
        if self.degrees == math.inf:
            base = -0.5 * z.square().sum(1) - 0.5 * dims * math.log(2.0 * math.pi)
        else:
            nu = self.degrees
            constant = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu)
            constant -= 0.5 * math.log(nu * math.pi)
            base = dims * constant - 0.5 * (nu + 1.0) * torch.log1p(z.square() / nu).sum(1)
        return base + log_det - dims * math.log(self.scale)


def rebased(flow: Flow, scale: float = 1.0, degrees: float = math.inf) -> Rebased:
    """The log-density of a flow once its standard normal base is replaced, without training.

        log q(x) = sum_i log b(z_i / scale) - D log scale + log|det|,   b = N(0, 1) or Student-t

    A greater scale (variance-inflated base) forgives great latents at a quadratic price, fewer
    degrees of freedom (heavier tails) at a logarithmic one. Both are normalised densities on the
    same space, and cost clean images something: baselines that robust training must beat.

    Args:
        flow: any :class:`~flowrob.flows.Flow`.
        scale: of the base, the same for every latent.
        degrees: of freedom of independent Student-t latents; infinity: normal.

    Returns:
        A callable from (batch, *event_shape) to (batch,) nats.

    Raises:
        TypeError: flow is not a Flow.
        ValueError: scale or degrees not positive.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowrob.flows.Flow, got {type(flow).__name__}")
    if not (0.0 < scale < math.inf and degrees > 0.0):
        raise ValueError(
            f"scale must be positive and finite and degrees positive, got {scale}, {degrees}"
        )
    return Rebased(flow, float(scale), float(degrees))


def uniform(x: Tensor) -> Tensor:
    """log p of the uniform density on [0, 1]^D: 0 inside, -inf outside.

    >>> uniform(torch.tensor([[0.5, 0.5], [0.5, 2.0]]))
    tensor([0., -inf])
    """
    outside = ((x < 0) | (x > 1)).flatten(1).any(1)
    return (0.0 * x).flatten(1).sum(1).masked_fill(outside, -math.inf)


@dataclass(frozen=True)
class ChosenBase:
    """What :func:`choose_base` found.

    Attributes:
        density: the flow with the base that was best.
        parameter: "scale" or "degrees".
        value: of that parameter.
        tried: per value the clean mean and the score, in bits/dim.
        eps: of the attack.
        num_images: on how many it was chosen.
    """

    density: Rebased
    parameter: str
    value: float
    tried: list[dict]
    eps: int
    num_images: int

    def record(self) -> dict:
        """All but the density, as plain data."""
        facts = {"num_images": self.num_images, "eps": self.eps, "tried": self.tried}
        return {self.parameter: self.value, **facts}


def choose_base(
    flow: Flow,
    parameter: str,
    values: Sequence[float],
    images: Tensor,
    eps: int = 8,
    *,
    seed: int = 0,
    group: Group = Group(),  # noqa: B008 (frozen)
) -> ChosenBase:
    """The base of :func:`rebased` that hybrid training would choose: least (clean + attacked) / 2.

    Args:
        flow: a trained :class:`~flowrob.flows.Flow`.
        parameter: "scale" or "degrees".
        values: of it, to choose from.
        images: (N, C, H, W) uint8 to choose on; not those that are reported on.
        eps: radius of the attack, 20 steps of PGD, in grey levels.
        seed: of the noise and the attacks, the same for every value.
        group: of processes that share the images out.

    Raises:
        ValueError: another parameter, or no values.
    """
    if parameter not in ("scale", "degrees") or not len(values):
        raise ValueError(
            f'parameter must be "scale" or "degrees" and values hold some, got {parameter!r} and '
            f"{list(values)}"
        )
    tried = []
    for value in values:
        table = robustness_table(
            sharded(rebased(flow, **{parameter: value}), group),
            images,
            [0, eps],
            generator=torch.Generator().manual_seed(seed),
        )
        means = {row["row"]: row["mean"] for row in table.rows}
        score = 0.5 * (means["clean"] + means["attacked"])
        tried.append({parameter: value, "clean": means["clean"], "half and half": score})
    best = min(tried, key=lambda entry: entry["half and half"])[parameter]
    density = rebased(flow, **{parameter: best})
    return ChosenBase(density, parameter, best, tried, eps, len(images))
