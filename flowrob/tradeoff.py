"""Adversarial training of the linear flow: what robustness costs in likelihood (Section 3.2).

The truth is a Gaussian N(mu, K) and so is the model. An attack of l2 size eps moves each point to
where the model likes it least, training refits the model to the moved points, and its variance
grows. `flowrob.sphere` has that in closed form for K = sigma^2 I, with the four procedures that all
go by the name "adversarial training"; its names are exported here. This module does any covariance,
with seeded points where there is no closed form, and goes beyond the paper: the Pareto frontier of
the exchange with a certificate of optimality, and training against universal perturbations.
Everything is float64 and in nats. A full covariance is worked on in its own eigenbasis, where the
symmetry a_i -> -a_i of the truth keeps every refit diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize

from flowrob.gaussian import GaussianFlow, worst_case
from flowrob.sphere import (
    PROCEDURES,
    check_mixing,
    chi_mean,
    failure_probability,
    natural_drop,
    procedure_name,
    require,
    rounds_for,
    sensitivity,
    spherical_growth,
    stability_limit,
    variance_growth,
)

__all__ = [
    "PROCEDURES",
    "ParetoPoint",
    "TradeOff",
    "certificate",
    "chi_mean",
    "failure_probability",
    "natural_drop",
    "pareto_frontier",
    "retrain",
    "rounds_for",
    "sensitivity",
    "spherical_growth",
    "stability_limit",
    "trade_off",
    "universal_drop",
    "universal_training",
    "variance_growth",
    "water_filling",
]


class TradeOff(NamedTuple):
    """Both sides of the exchange, in nats: what the clean data lose, what an attack takes."""

    natural_drop: float
    sensitivity: float


class ParetoPoint(NamedTuple):
    """A model that minimises natural_drop + weight * sensitivity, up to ``certificate`` nats."""

    weight: float
    model: GaussianFlow
    natural_drop: float
    sensitivity: float
    certificate: float


def trade_off(
    truth: GaussianFlow,
    model: GaussianFlow,
    radius: float,
    *,
    num_samples: int = 2**12,
    generator: torch.Generator | None = None,
) -> TradeOff:
    """L_nat_dr = KL(truth | model), exactly; L_sen = E_truth[L(x) - min_{|d| <= radius} L(x + d)].

    Source: Section 3.2, for any covariance. The sensitivity is closed form for two concentric
    spheres, else a mean over ``num_samples`` scrambled Sobol points of the truth (the same ones
    whenever ``generator`` is None).
    """
    n, lam = _dimensions(truth), truth.eigenvalues
    shift = model.eigenvectors.T @ (truth.mean - model.mean)
    rotated = model.eigenvectors.T @ truth.eigenvectors
    ratio = ((rotated**2 * lam).sum(1) + shift**2) / model.eigenvalues
    drop = 0.5 * float((ratio - 1).sum() + (model.eigenvalues.log() - lam.log()).sum())
    drop = max(drop, 0.0)  # rounding aside
    if _is_sphere(truth) and _is_sphere(model) and not shift.any():
        v = float(model.eigenvalues[0] / lam[0])
        return TradeOff(drop, sensitivity(v, radius, math.sqrt(float(lam[0])), n))
    a = _normal_points(n, num_samples, generator) * lam.sqrt()
    attacked = worst_case(model, truth.mean + a @ truth.eigenvectors.T, radius)
    return TradeOff(drop, float(attacked.drop.mean()))


def retrain(
    flow: GaussianFlow,
    radius: float,
    rounds: int,
    procedure: str = "fixed",
    *,
    hybrid_weight: float = 0.0,
    damping: float = 0.0,
    num_samples: int = 2**12,
    generator: torch.Generator | None = None,
) -> list[GaussianFlow]:
    """K_{k+1} = damping K_k + (1 - damping) (h K + (1 - h) E[(a + d)(a + d)^T]), h = hybrid_weight.

    Source: Section 3.2 and Figure 3, for any covariance; procedures at the top of this module.
    ``d`` is the exact worst case against model k; the mean stays, by symmetry. Exact for a sphere.
    Elsewhere E is taken over ``num_samples`` scrambled Sobol points, and only of the part
    2 a_i d_i + d_i^2 that the attack adds. "rescaled" scales the radius with sqrt(tr K_k / tr K).

    Args:
        flow: the truth, which is also model 0. radius: l2 budget in data units. rounds: m >= 0.
        procedure: a name or letter of PROCEDURES.
        hybrid_weight: share of clean data in [0, 1]; 1/2 is the one-to-one hybrid.
        damping: share of the old covariance that is kept, in [0, 1); see `stability_limit`.
    Returns:
        The models 0 to ``rounds``.

    >>> flow = GaussianFlow(torch.zeros(10), torch.eye(10))
    >>> [round(float(m.eigenvalues[0]), 3) for m in retrain(flow, 1.0, 2, "rescaled")]
    [1.0, 1.717, 2.948]
    """
    name = procedure_name(procedure)
    check_mixing(rounds, hybrid_weight, damping)
    require(math.isfinite(radius) and radius >= 0, "radius", radius, "finite and non-negative")
    n, lam = _dimensions(flow), flow.eigenvalues
    if _is_sphere(flow):
        mixing = {"hybrid_weight": hybrid_weight, "damping": damping}
        growth = spherical_growth(radius, math.sqrt(float(lam[0])), n, rounds, name, **mixing)
        return [flow, *(_with_spectrum(flow, lam * float(v)) for v in growth[1:])]
    points = _normal_points(n, num_samples, generator)
    spectra, start, moment, budget = [lam], points * lam.sqrt(), lam, radius
    for _ in range(rounds):
        current = spectra[-1]
        if name in ("rescaled", "redrawn"):
            start, moment = points * current.sqrt(), current
        if name == "rescaled":
            budget = radius * math.sqrt(float(current.sum() / lam.sum()))
        d = _worst_step(current, start, budget)
        refit = moment + (2 * start * d + d * d).mean(0)
        if name == "accumulated":
            start, moment = start + d, refit
        mixed = hybrid_weight * lam + (1 - hybrid_weight) * refit
        spectra.append(damping * current + (1 - damping) * mixed)
    return [flow, *(_with_spectrum(flow, spectrum) for spectrum in spectra[1:])]


def certificate(
    truth: GaussianFlow,
    model: GaussianFlow,
    radius: float,
    weight: float,
    *,
    num_samples: int = 2**12,
    generator: torch.Generator | None = None,
) -> float:
    """natural_drop + w sensitivity exceeds its minimum by at most 1/2 sum(q - 1 - log q) nats.

    q_i = (lam_i + w E[2 a_i d_i + d_i^2]) / lam'_i, the refit over the model. The objective is
    convex in the precision matrix; freezing the attack d bounds it from below by a function whose
    minimum is known. 0 exactly at the fixed point of training on (1 - w) clean and w attacked data.
    Beyond the paper; the model must share the truth's mean and eigenvectors (ValueError otherwise).
    """
    current = _spectrum(truth, model)
    a = _normal_points(_dimensions(truth), num_samples, generator) * truth.eigenvalues.sqrt()
    d = _worst_step(current, a, radius)
    q = (truth.eigenvalues + weight * (2 * a * d + d * d).mean(0)) / current
    return float(0.5 * (q - 1 - q.log()).sum())


def pareto_frontier(
    flow: GaussianFlow,
    radius: float,
    weights: tuple[float, ...] = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    *,
    num_samples: int = 2**12,
    generator: torch.Generator | None = None,
) -> list[ParetoPoint]:
    """min over Gaussians of natural_drop + w sensitivity: lam'_i = lam_i + w E[2 a_i d_i + d_i^2].

    Beyond the paper. w = 1 is where adversarial training (d) comes to rest, w = 1/2 the one-to-one
    hybrid. There L_sen = 1/(2w) sum(1 - lam_i / lam'_i) <= n / (2w), whatever the radius. A sphere
    has lam' = lam (1 + w alpha); elsewhere L-BFGS over log lam' finds the minimum of the problem
    with ``num_samples`` seeded points in the place of E, and ``certificate`` proves it.
    """
    require(all(w >= 0 for w in weights), "weights", weights, "non-negative")
    n, lam = _dimensions(flow), flow.eigenvalues
    if _is_sphere(flow):
        alpha = variance_growth(radius, math.sqrt(float(lam[0])), n)
        spectra = [(w, lam * (1 + w * alpha), 0.0) for w in weights]
    else:
        a = _normal_points(n, num_samples, generator) * lam.sqrt()
        spectra, start = [], lam
        for w in weights:
            start, gap = _minimise(lam, a, radius, w, start)
            spectra.append((w, start, gap))
    seeded = {"num_samples": num_samples, "generator": generator}
    points = []
    for w, spectrum, gap in spectra:
        model = _with_spectrum(flow, spectrum)
        points.append(ParetoPoint(w, model, *trade_off(flow, model, radius, **seeded), gap))
    return points


def _minimise(lam, a, radius: float, weight: float, start) -> tuple[torch.Tensor, float]:
    """The spectrum that minimises natural_drop + weight * sensitivity over points a, certified."""

    def objective(log_ratio: np.ndarray) -> tuple[float, np.ndarray]:
        current = lam * torch.from_numpy(log_ratio).exp()
        d = _worst_step(current, a, radius)
        q = (lam + weight * (2 * a * d + d * d).mean(0)) / current
        return 0.5 * float((q - 1).sum() + log_ratio.sum()), 0.5 * (1 - q).numpy()

    options = {"ftol": 0.0, "gtol": 1e-7, "maxiter": 500}
    first = (start / lam).log().numpy()
    found = optimize.minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    q = 1 - 2 * torch.from_numpy(objective(found.x)[1])
    return lam * torch.from_numpy(found.x).exp(), float(0.5 * (q - 1 - q.log()).sum())


def water_filling(eigenvalues, radius: float) -> torch.Tensor:
    """lam'_i = max(lam_i, theta), where theta solves sum_i (theta - lam_i)_+ = radius^2.

    Beyond the paper. The Gaussian that minimises L_nat_dr + L_sen against universal perturbations,
    |delta| <= radius the same for all x: P^-1 = K + M with tr M = radius^2, and M only where P is
    largest. Its own sensitivity is radius^2 / (2 min_i lam'_i).

    >>> water_filling([0.1, 0.5, 1.0, 2.0], 0.8)
    tensor([0.6200, 0.6200, 1.0000, 2.0000], dtype=torch.float64)
    """
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    require(lam.ndim == 1 and bool((lam > 0).all()), "eigenvalues", eigenvalues, "positive, (n,)")
    require(math.isfinite(radius) and radius >= 0, "radius", radius, "finite and non-negative")
    ascending = lam.sort().values
    counts = torch.arange(1, len(lam) + 1, dtype=torch.float64)
    levels = (radius**2 + ascending.cumsum(0)) / counts  # theta if the k smallest are under water
    flooded = int((levels >= ascending).sum())
    return lam.clamp(min=float(levels[flooded - 1]))


def universal_drop(truth: GaussianFlow, model: GaussianFlow, radius: float) -> float:
    """max_{|delta| <= radius} E_truth[L(x) - L(x + delta)], in nats: one delta for all x.

    Source: Section 3.3. The mean drop is linear in x, so it is the drop of the point x = mean.
    """
    return float(worst_case(model, truth.mean[None], radius).drop)


def universal_training(
    flow: GaussianFlow,
    radius: float,
    rounds: int = 1,
    signs: str = "one",
    *,
    damping: float | Callable[[int], float] = 0.0,
) -> list[GaussianFlow]:
    """mu_{k+1} = mu + delta_k (one sign), or K_{k+1} = K + delta_k delta_k^T (random sign).

    Source: Section 3.3's remark. delta_k is the universal perturbation of the original data for
    model k, +-radius u_min at first: the sign is free. With "one" sign for all points the refit
    only moves its mean, and the next attack takes the other sign. With a "random" sign per point,
    just as harmful, the variance along u_min grows. "minimax" is where the latter comes to rest.

    Args:
        signs: "one", "random" or "minimax" (`water_filling`: the same from the first round on).
        damping: share of the old mean and covariance that is kept, or a function of the round;
            ``lambda k: 1 - 2 / (k + 3)`` brings "random" to the minimax model.
    Returns:
        The models 0 to ``rounds``.
    """
    require(signs in ("one", "random", "minimax"), "signs", signs, "'one', 'random' or 'minimax'")
    if signs == "minimax":
        settled = _with_spectrum(flow, water_filling(flow.eigenvalues, radius))
        return [flow, *(settled for _ in range(rounds))]
    models, mean, spectrum = [flow], flow.mean, flow.eigenvalues
    for k in range(rounds):
        keep = damping(k) if callable(damping) else damping
        check_mixing(rounds, 0.0, keep)
        delta = worst_case(models[-1], flow.mean[None], radius).delta[0]
        if signs == "one":
            mean = keep * mean + (1 - keep) * (flow.mean + delta)
        else:  # delta is +-radius times one of the eigenvectors, so the refit keeps them all
            added = (flow.eigenvectors.T @ delta) ** 2
            spectrum = keep * spectrum + (1 - keep) * (flow.eigenvalues + added)
        models.append(GaussianFlow.from_eigen(mean, spectrum, flow.eigenvectors))
    return models


def _worst_step(spectrum, a, radius: float):
    """Worst-case steps (N, n) at points a (N, n), for the model N(0, diag(spectrum))."""
    axes = torch.eye(len(spectrum), dtype=torch.float64)
    model = GaussianFlow.from_eigen(torch.zeros_like(spectrum), spectrum, axes)
    return worst_case(model, a, radius).delta


def _with_spectrum(flow: GaussianFlow, spectrum) -> GaussianFlow:
    """The flow with another variance along each of its eigenvectors."""
    return GaussianFlow.from_eigen(flow.mean, spectrum, flow.eigenvectors)


def _spectrum(truth: GaussianFlow, model: GaussianFlow):
    """The model's variance along each eigenvector of the truth."""
    rotation = model.eigenvectors.T @ truth.eigenvectors
    spectrum = (rotation**2 * model.eigenvalues[:, None]).sum(0)
    rotated = rotation.T @ (rotation * model.eigenvalues[:, None])
    off = float((rotated - torch.diag(spectrum)).abs().max() / spectrum.max())
    if off > 1e-9 or not torch.allclose(truth.mean, model.mean):
        raise ValueError("model must share the truth's mean and eigenvectors, as retrain's do")
    return spectrum


def _is_sphere(flow: GaussianFlow) -> bool:
    return float(flow.eigenvalues[-1] / flow.eigenvalues[0]) - 1 < 1e-12


def _dimensions(flow: GaussianFlow) -> int:
    return flow.eigenvalues.shape[0]


def _normal_points(n: int, count: int, generator: torch.Generator | None):
    """(count, n) scrambled Sobol points of N(0, I); without a generator, always the same ones."""
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    sobol = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed)
    return torch.special.ndtri(sobol.draw(count, dtype=torch.float64).clamp(min=2.0**-32))
