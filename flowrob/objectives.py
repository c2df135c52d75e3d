"""Objectives: what an attack maximises, one number per sample, and its gradient in x alone.

An objective is any callable from (batch, ...) to (batch,). The composites here (a negative, a
mixture, a mean over dequantisation noise) remember the callables they are made of, so that an
attack can find the torch modules underneath: to keep their weights out of the graph while it runs
(:func:`frozen`), and to score its result in float64 (:func:`in_double`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from flowrob.flows import Flow

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Composite:
    """An objective made of others."""

    parts: tuple[Objective, ...]

    def samples(self, part: slice) -> Composite:
        """The same objective for ``x[part]``; only what holds data per sample overrides this."""
        return replace(self, parts=tuple(samples(inner, part) for inner in self.parts))


class Negative(Composite):
    """x -> -f(x)."""

    def __call__(self, x: Tensor) -> Tensor:
        return -self.parts[0](x)


@dataclass(frozen=True)
class Mixture(Composite):
    """x -> log((1 - w) exp a(x) + w exp b(x)); made by :func:`mixture`."""

    weight: float = 0.5

    def __call__(self, x: Tensor) -> Tensor:
        first, second = (log_prob(x) for log_prob in self.parts)
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
    return Mixture((log_prob_a, log_prob_b), weight)


@dataclass(frozen=True)
class Rebased(Composite):
    """x -> log p of a flow whose base is another; made by :func:`rebased`."""

    event_shape: tuple[int, ...] = ()
    scale: float = 1.0
    degrees: float = math.inf

    def __call__(self, x: Tensor) -> Tensor:
        z, log_det = self.parts[0](x)
        z, dims = z.flatten(1) / self.scale, math.prod(self.event_shape)
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
    return Rebased((flow.bijection,), flow.event_shape, float(scale), float(degrees))


def uniform(x: Tensor) -> Tensor:
    """log p of the uniform density on [0, 1]^D: 0 inside, -inf outside.

    >>> uniform(torch.tensor([[0.5, 0.5], [0.5, 2.0]]))
    tensor([0., -inf])
    """
    outside = ((x < 0) | (x > 1)).flatten(1).any(1)
    return (0.0 * x).flatten(1).sum(1).masked_fill(outside, -math.inf)


def samples(objective: Objective, part: slice) -> Objective:
    """The objective for the samples ``part`` of the batch."""
    return objective.samples(part) if isinstance(objective, Composite) else objective


def _module(function: Objective) -> nn.Module | None:
    """The module that ``function`` is, or is a method of."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def modules(objective: Objective) -> list[nn.Module]:
    """All torch modules that can be found behind an objective."""
    if isinstance(objective, Composite):
        return [module for inner in objective.parts for module in modules(inner)]
    module = _module(objective)
    return [] if module is None else [module]


@contextmanager
def frozen(objective: Objective) -> Iterator[None]:
    """While this runs, no graph is built for the weights behind ``objective``.

    Values and ``.grad`` of the parameters are not touched; their ``requires_grad`` comes back.
    """
    weights = [p for module in modules(objective) for p in module.parameters() if p.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def in_double(objective: Objective) -> Objective:
    """The objective on float64 copies of the modules behind it (the objective itself if none)."""
    if isinstance(objective, Composite):
        return replace(objective, parts=tuple(in_double(inner) for inner in objective.parts))
    module = _module(objective)
    if module is None:
        return objective
    numbers = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    if all(t.dtype == torch.float64 for t in numbers):
        return objective
    twin = copy.deepcopy(module).double()
    return twin if objective is module else getattr(twin, objective.__name__)


def evaluate(objective: Objective, x: Tensor) -> Tensor:
    """objective(x) without a graph, its shape checked."""
    with torch.no_grad():
        return _checked(objective(x), x)


def value_and_gradient(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """The objective and its gradient in x alone: no parameter's ``.grad`` is touched."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = _checked(objective(x), x)
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the objective does not depend on x through differentiable operations; "
            "remove any no_grad or detach inside it, or attack with flowrob.blackbox.square"
        )
    return value.detach(), gradient


def _checked(value: Tensor, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the objective must return one value per sample, shape ({len(x)},), got {got}; "
            "pass a log_prob, sum over the features, do not average over the batch"
        )
    return value


class Precise:
    """Scores points in float64 where the model can, in its own dtype where it cannot.

    The dtype of the returned values says which.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        try:
            self.twin = in_double(objective)
        except (RuntimeError, TypeError, NotImplementedError):  # modules that cannot be copied
            self.twin = None

    def __call__(self, x: Tensor, part: slice = slice(None)) -> Tensor:
        """Values at x, whose samples are ``part`` of the objective's; no graph."""
        if self.twin is not None:
            try:
                value = evaluate(samples(self.twin, part), x.double())
                if value.dtype == torch.float64:
                    return value
            except (RuntimeError, TypeError, ValueError, AssertionError):  # made for float32 only
                pass
            self.twin = None
        return evaluate(samples(self.objective, part), x)
