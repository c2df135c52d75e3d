"""The exchange of likelihood for robustness, and the best that a Gaussian can do (3.2, 3.3).

The truth is a Gaussian N(mu, K) and so is the model. A model that is wider than the truth pays in
likelihood (its *natural drop*) and gains in *sensitivity*, what an attack takes off the mean:

    L_nat_dr = KL(truth | model),      L_sen = E_truth[L(x) - min_{|d| <= radius} L(x + d)]

:func:`trade_off` measures both. :func:`pareto_frontier` finds the models to which no other is
better in both, :func:`certificate` proves how near to it any model is, and :func:`water_filling` is
its counterpart against universal perturbations. All but the first is beyond the paper.

Everything is float64 and in nats. A full covariance is worked on in its own eigenbasis, where the
symmetry a_i -> -a_i of the truth keeps every refit diagonal.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import optimize

from flowrob._checks import checked, require
from flowrob.linear.gaussian import GaussianFlow, _real, worst_case
from flowrob.linear.sphere import sensitivity, variance_growth
from flowrob.units import check_number


class TradeOff(NamedTuple):
    """Both sides of the exchange, in nats: what the clean data lose, what an attack takes.

    Attributes:
        natural_drop: L_nat_dr = KL(truth | model).
        sensitivity: L_sen, the mean drop under attack.
    """

    natural_drop: float
    sensitivity: float


class ParetoPoint(NamedTuple):
    """A model that minimises natural_drop + weight * sensitivity, up to ``certificate`` nats.

    Attributes:
        weight: w >= 0.
        model: the Gaussian.
        natural_drop: as in :class:`TradeOff`.
        sensitivity: as there.
        certificate: an upper bound on what the model misses, as :func:`certificate`.
    """

    weight: float
    model: GaussianFlow
    natural_drop: float
    sensitivity: float
    certificate: float


@checked
def trade_off(
    truth: GaussianFlow,
    model: GaussianFlow,
    radius: float,
    *,
    num_samples: int = 2**12,
    generator: torch.Generator | None = None,
) -> TradeOff:
    """What a model loses and what an attack can take from it, natural drop and sensitivity:

        L_nat_dr = KL(truth | model),   L_sen = E_truth[L(x) - min_{|d| <= radius} L(x + d)]

    Source: section 3.2 of the paper, for any covariance. The sensitivity is closed form for two
    concentric spheres, else a mean over scrambled Sobol points of the truth.

    Args:
        truth: the distribution of the clean data.
        model: the density that is attacked.
        radius: l2 budget in data units.
        num_samples: how many points.
        generator: draws them; None: always the same ones.

    Returns:
        A :class:`TradeOff`, in nats.
    """
    n, lam = len(truth.eigenvalues), truth.eigenvalues
    shift = model.eigenvectors.T @ (truth.mean - model.mean)
    rotated = model.eigenvectors.T @ truth.eigenvectors
    ratio = ((rotated**2 * lam).sum(1) + shift**2) / model.eigenvalues
    drop = 0.5 * float((ratio - 1).sum() + (model.eigenvalues.log() - lam.log()).sum())
    drop = max(drop, 0.0)  # rounding aside
    if is_sphere(truth) and is_sphere(model) and not shift.any():
        v = float(model.eigenvalues[0] / lam[0])
        return TradeOff(drop, sensitivity(v, radius, math.sqrt(float(lam[0])), n))
    a = normal_points(n, num_samples, generator) * lam.sqrt()
    attacked = worst_case(model, truth.mean + a @ truth.eigenvectors.T, radius)
    return TradeOff(drop, float(attacked.drop.mean()))


@checked
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
    Beyond the paper.

    Args:
        truth: the distribution of the clean data.
        model: the density that is attacked; it shares the truth's mean and eigenvectors.
        radius: l2 budget in data units.
        weight: w, what one nat of sensitivity weighs against one of natural drop.
        num_samples: how many points of the truth stand for E.
        generator: draws them; None: always the same ones.

    Raises:
        ValueError: another mean, or other eigenvectors.
    """
    current = _spectrum(truth, model)
    a = normal_points(len(truth.eigenvalues), num_samples, generator) * truth.eigenvalues.sqrt()
    d = worst_step(current, a, radius)
    q = (truth.eigenvalues + weight * (2 * a * d + d * d).mean(0)) / current
    return float(0.5 * (q - 1 - q.log()).sum())


@checked
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
    with ``num_samples`` seeded points in the place of E, and :func:`certificate` proves it.

    Args:
        flow: the truth.
        radius: l2 budget in data units.
        weights: every w >= 0.
        num_samples: how many points stand for E.
        generator: draws them; None: always the same ones.

    Returns:
        A :class:`ParetoPoint` per weight.

    Raises:
        ValueError: a negative weight.
    """
    require(all(w >= 0 for w in weights), "weights", weights, "non-negative")
    n, lam = len(flow.eigenvalues), flow.eigenvalues
    if is_sphere(flow):
        alpha = variance_growth(radius, math.sqrt(float(lam[0])), n)
        spectra = [(w, lam * (1 + w * alpha), 0.0) for w in weights]
    else:
        a = normal_points(n, num_samples, generator) * lam.sqrt()
        spectra, start = [], lam
        for w in weights:
            start, gap = _minimise(lam, a, radius, w, start)
            spectra.append((w, start, gap))
    seeded: dict[str, Any] = {"num_samples": num_samples, "generator": generator}
    points = []
    for w, spectrum, gap in spectra:
        model = with_spectrum(flow, spectrum)
        points.append(ParetoPoint(w, model, *trade_off(flow, model, radius, **seeded), gap))
    return points


def _minimise(lam, a, radius: float, weight: float, start) -> tuple[torch.Tensor, float]:
    """The spectrum that minimises natural_drop + weight * sensitivity over points a, certified."""

    def objective(log_ratio: np.ndarray) -> tuple[float, np.ndarray]:
        current = lam * torch.from_numpy(log_ratio).exp()
        d = worst_step(current, a, radius)
        q = (lam + weight * (2 * a * d + d * d).mean(0)) / current
        return 0.5 * float((q - 1).sum() + log_ratio.sum()), 0.5 * (1 - q).numpy()

    options = {"ftol": 0.0, "gtol": 1e-7, "maxiter": 500}
    first = (start / lam).log().numpy()
    found = optimize.minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    q = 1 - 2 * torch.from_numpy(objective(found.x)[1])
    return lam * torch.from_numpy(found.x).exp(), float(0.5 * (q - 1 - q.log()).sum())


def water_filling(eigenvalues, radius: float) -> torch.Tensor:
    """``lam'_i = max(lam_i, theta)``, where theta solves ``sum_i (theta - lam_i)_+ = radius^2``.

    Beyond the paper. The Gaussian that minimises L_nat_dr + L_sen against universal perturbations,
    ``|delta| <= radius`` the same for all x: P^-1 = K + M with tr M = radius^2, and M only where P
    is largest. Its own sensitivity is radius^2 / (2 min_i lam'_i).

    Args:
        eigenvalues: lam, positive, (n,).
        radius: l2 budget of the universal perturbation, in data units.

    Returns:
        lam', (n,), float64.

    Raises:
        ValueError: eigenvalues that are not positive, or a negative or infinite radius.

    >>> water_filling([0.1, 0.5, 1.0, 2.0], 0.8)
    tensor([0.6200, 0.6200, 1.0000, 2.0000], dtype=torch.float64)
    """
    check_number(radius=radius)
    lam = _real(eigenvalues, "eigenvalues").to(torch.float64)
    require(
        lam.ndim == 1 and len(lam) > 0 and bool((lam > 0).all()),
        "eigenvalues",
        eigenvalues,
        "positive, (n,)",
    )
    settled = radius >= 0 and math.isfinite(radius * radius)
    require(settled, "radius", radius, "non-negative, and its square finite")
    ascending = lam.sort().values
    counts = torch.arange(1, len(lam) + 1, dtype=torch.float64)
    levels = (radius**2 + ascending.cumsum(0)) / counts  # theta if the k smallest are under water
    flooded = int((levels >= ascending).sum())
    return lam.clamp(min=float(levels[flooded - 1]))


def worst_step(spectrum, a, radius: float):
    """Worst-case steps (N, n) at points a (N, n), for the model N(0, diag(spectrum))."""
    axes = torch.eye(len(spectrum), dtype=torch.float64)
    model = GaussianFlow.from_eigen(torch.zeros_like(spectrum), spectrum, axes)
    return worst_case(model, a, radius).delta


def with_spectrum(flow: GaussianFlow, spectrum) -> GaussianFlow:
    """The flow with another variance along each of its eigenvectors."""
    return GaussianFlow.from_eigen(flow.mean, spectrum, flow.eigenvectors)


def is_sphere(flow: GaussianFlow) -> bool:
    """Whether K = sigma^2 I, to 1e-12 relative."""
    return float(flow.eigenvalues[-1] / flow.eigenvalues[0]) - 1 < 1e-12


def normal_points(n: int, count: int, generator: torch.Generator | None):
    """(count, n) scrambled Sobol points of N(0, I); without a generator, always the same ones."""
    require(count >= 1, "num_samples", count, "at least 1")
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    sobol = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed)
    return torch.special.ndtri(sobol.draw(count, dtype=torch.float64).clamp(min=2.0**-32))


def _spectrum(truth: GaussianFlow, model: GaussianFlow):
    """The model's variance along each eigenvector of the truth."""
    rotation = model.eigenvectors.T @ truth.eigenvectors
    spectrum = (rotation**2 * model.eigenvalues[:, None]).sum(0)
    rotated = rotation.T @ (rotation * model.eigenvalues[:, None])
    off = float((rotated - torch.diag(spectrum)).abs().max() / spectrum.max())
    if off > 1e-9 or not torch.allclose(truth.mean, model.mean):
        raise ValueError("model must share the truth's mean and eigenvectors, as retrain's do")
    return spectrum
