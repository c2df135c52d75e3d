"""Defences that need no robust training of their own: what hybrid training is held against.

    mixture    log sum_k w_k p_k             never more than log 1/w_k behind its part k
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

from flowrob._checks import checked, require
from flowrob.attacks import Objective
from flowrob.attacks.objectives import Composite, check_batch, check_callable, scored
from flowrob.attacks.starts import check_integers
from flowrob.distributed import Group, sharded
from flowrob.evaluation.robustness import robustness_table
from flowrob.flows import Flow
from flowrob.flows.mixtures import log_mixture, log_of_weights


@dataclass(frozen=True)
class Mixture(Composite):
    """x -> log sum_k w_k exp p_k(x); made by :func:`mixture`."""

    parts: tuple[Objective, ...]
    log_weights: Tensor

    def over(self, change: Callable[[Any], Any]) -> Mixture:
        """The mixture of change(p_k)."""
        return replace(self, parts=tuple(change(part) for part in self.parts))

    def __call__(self, x: Tensor) -> Tensor:
        """log q(x), shape (batch,), nats."""
        return log_mixture(torch.stack([scored(part, x) for part in self.parts]), self.log_weights)


def mixture(*log_probs: Objective, weights: Sequence[float] | None = None) -> Mixture:
    """The log-density of a mixture: log q(x) = log sum_k w_k p_k(x).

    A mixture is never worse than a part by more than a constant, whatever x: its negative
    log-likelihood is at most min_k [NLL_k(x) + log 1/w_k] (:func:`mixture_bound`). With a clean and
    an adversarially trained model this is a baseline of hybrid training; with models trained at
    eps 0, 1, 2, 4 and 8, a ladder, nearly the least of all at every eps; with :func:`uniform` as a
    part it caps the fall of the likelihood. Of flows, :class:`flowrob.flows.FlowMixture` makes a
    module that samples as well.

    Args:
        *log_probs: the parts; each maps (batch, ...) to (batch,), nats.
        weights: w, positive, summing to 1; default: alike.

    Returns:
        A callable like its parts.

    Raises:
        ValueError: no parts, or weights that are no positive shares of 1, one per part.

    >>> alike = mixture(uniform, uniform, uniform, weights=(0.5, 0.25, 0.25))
    >>> alike(torch.full((1, 2), 0.5)).abs().item() < 1e-6
    True
    """
    for log_prob in log_probs:
        check_callable(log_prob)
    return Mixture(log_probs, log_of_weights(weights, len(log_probs)))


@checked
def mixture_bound(bits: Tensor, num_dims: int, weights: Sequence[float] | None = None) -> Tensor:
    """What no attack can drive a mixture above, image by image: min_k [b_k + log2(1/w_k) / D].

    Because max over delta of min_k NLL_k <= min_k max over delta NLL_k. It is as good as the
    attacks are: b_k is the worst of part k in the ball, whatever attack found it.

    Args:
        bits: (K, ...): the worst bits/dim of each part, for example (K, N) at one eps.
        num_dims: D.
        weights: of the mixture; default: alike.

    Raises:
        ValueError: wrong weights.
    """
    require(bits.dim() >= 1 and not bits.is_complex(), "bits", bits, "real, one row per part")
    price = -log_of_weights(weights, len(bits)) / (math.log(2.0) * num_dims)
    return (bits + price.to(bits).reshape(-1, *[1] * (bits.dim() - 1))).amin(0)


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
        z, log_det = self.flow._map(x)
        z, dims = z.flatten(1) / self.scale, self.flow.num_dims
        if self.degrees > 1e30:  # normal to every digit; z^2 / nu would underflow
            base = -0.5 * z.square().sum(1) - 0.5 * dims * math.log(2.0 * math.pi)
        else:
            nu = self.degrees
            if nu < 1e6:
                constant = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu)
                constant -= 0.5 * math.log(nu * math.pi)
            else:  # Stirling's series, where the difference of two lgammas loses its digits
                constant = -0.5 * math.log(2.0 * math.pi) - 0.25 / nu
            base = dims * constant - 0.5 * (nu + 1.0) * torch.log1p(z.square() / nu).sum(1)
        log_prob = base + log_det - dims * math.log(self.scale)
        return self.flow._supported(x, log_prob)


@checked
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
        A callable from ``(batch, *event_shape)`` to (batch,) nats.

    Raises:
        TypeError: flow is not a Flow.
        ValueError: scale or degrees not positive.
    """
    least = torch.finfo(torch.float64).tiny  # half of less is no number any more
    if not (least <= scale < math.inf and degrees >= least):
        raise ValueError(
            f"scale must be positive and finite and degrees positive, got {scale}, {degrees}"
        )
    return Rebased(flow, float(scale), float(degrees))


@checked
def uniform(x: Tensor) -> Tensor:
    """log p of the uniform density on [0, 1]^D: 0 inside, -inf outside.

    >>> uniform(torch.tensor([[0.5, 0.5], [0.5, 2.0]]))
    tensor([0., -inf])
    """
    check_batch(x)
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


@checked
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
    check_integers(1, eps=eps)
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
