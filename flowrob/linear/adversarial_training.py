"""Adversarial training of the linear flow: what robustness costs in likelihood (section 3.2).

The truth is a Gaussian N(mu, K) and so is the model. An attack of l2 size eps moves each point to
where the model likes it least, training refits the model to the moved points, and its variance
grows. :mod:`flowrob.linear.sphere` has that in closed form for K = sigma^2 I, with the four
procedures that all go by the name "adversarial training". This module does any covariance, with
seeded points where there is no closed form, and training against universal perturbations (3.3).
How good the models are that it makes, :mod:`flowrob.linear.frontier` says.

Everything is float64 and in nats. A full covariance is worked on in its own eigenbasis, where the
symmetry a_i -> -a_i of the truth keeps every refit diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from flowrob._checks import checked, require
from flowrob.linear.frontier import (
    is_sphere,
    normal_points,
    water_filling,
    with_spectrum,
    worst_step,
)
from flowrob.linear.gaussian import GaussianFlow, worst_case
from flowrob.linear.sphere import check_mixing, check_real, procedure_name, spherical_growth


@checked
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

    Source: section 3.2 of the paper and its Figure 3, for any covariance; the procedures stand at
    the top of :mod:`flowrob.linear.sphere`.
    ``d`` is the exact worst case against model k; the mean stays, by symmetry. Exact for a sphere.
    Elsewhere E is taken over ``num_samples`` scrambled Sobol points, and only of the part
    2 a_i d_i + d_i^2 that the attack adds. "rescaled" scales the radius with sqrt(tr K_k / tr K).

    Args:
        flow: the truth, which is also model 0.
        radius: l2 budget in data units.
        rounds: m >= 0.
        procedure: a name or letter of :data:`~flowrob.linear.sphere.PROCEDURES`.
        hybrid_weight: share of clean data in [0, 1]; 1/2 is the one-to-one hybrid.
        damping: share of the old covariance that is kept, in [0, 1); see
            :func:`~flowrob.linear.sphere.stability_limit`.
        num_samples: how many points stand for E.
        generator: draws them; None: always the same ones.

    Returns:
        The models 0 to ``rounds``.

    Raises:
        ValueError: no such procedure, or a number outside its range.

    >>> flow = GaussianFlow(torch.zeros(10), torch.eye(10))
    >>> [round(float(m.eigenvalues[0]), 3) for m in retrain(flow, 1.0, 2, "rescaled")]
    [1.0, 1.717, 2.948]
    """
    name = procedure_name(procedure)
    check_mixing(rounds, hybrid_weight, damping)
    require(math.isfinite(radius) and radius >= 0, "radius", radius, "finite and non-negative")
    n, lam = len(flow.eigenvalues), flow.eigenvalues
    if is_sphere(flow):
        mixing = {"hybrid_weight": hybrid_weight, "damping": damping}
        growth = spherical_growth(radius, math.sqrt(float(lam[0])), n, rounds, name, **mixing)
        return [flow, *(with_spectrum(flow, lam * float(v)) for v in growth[1:])]
    points = normal_points(n, num_samples, generator)
    spectra, start, moment, budget = [lam], points * lam.sqrt(), lam, radius
    for _ in range(rounds):
        current = spectra[-1]
        if name in ("rescaled", "redrawn"):
            start, moment = points * current.sqrt(), current
        if name == "rescaled":
            budget = radius * math.sqrt(float(current.sum() / lam.sum()))
        d = worst_step(current, start, budget)
        refit = moment + (2 * start * d + d * d).mean(0)
        if name == "accumulated":
            start, moment = start + d, refit
        mixed = hybrid_weight * lam + (1 - hybrid_weight) * refit
        spectra.append(damping * current + (1 - damping) * mixed)
    return [flow, *(with_spectrum(flow, spectrum) for spectrum in spectra[1:])]


@checked
def universal_drop(truth: GaussianFlow, model: GaussianFlow, radius: float) -> float:
    """``max_{|delta| <= radius} E_truth[L(x) - L(x + delta)]``, in nats: one delta for all x.

    Source: section 3.3 of the paper. The mean drop is linear in x, so it is the drop of the point
    x = mean.

    Args:
        truth: the distribution of the clean data.
        model: the density that is attacked.
        radius: l2 budget in data units.
    """
    return float(worst_case(model, truth.mean[None], radius).drop)


@checked
def universal_training(
    flow: GaussianFlow,
    radius: float,
    rounds: int = 1,
    signs: str = "one",
    *,
    damping: float | Callable[[int], float] = 0.0,
) -> list[GaussianFlow]:
    """mu_{k+1} = mu + delta_k (one sign), or K_{k+1} = K + delta_k delta_k^T (random sign).

    Source: section 3.3 of the paper, its remark. delta_k is the universal perturbation of the
    original data for model k, +-radius u_min at first: the sign is free. With "one" sign for all
    points the refit only moves its mean, and the next attack takes the other sign. With a "random"
    sign per point, just as harmful, the variance along u_min grows. "minimax" is where the latter
    comes to rest.

    Args:
        flow: the truth, which is also model 0.
        radius: l2 budget in data units.
        rounds: m >= 0.
        signs: "one", "random" or "minimax" (:func:`~flowrob.linear.frontier.water_filling`: the
            same from the first round on).
        damping: share of the old mean and covariance that is kept, or a function of the round;
            ``lambda k: 1 - 2 / (k + 3)`` brings "random" to the minimax model.

    Returns:
        The models 0 to ``rounds``.

    Raises:
        ValueError: no such signs, or a damping outside [0, 1).
    """
    require(signs in ("one", "random", "minimax"), "signs", signs, "'one', 'random' or 'minimax'")
    check_mixing(rounds, 0.0, 0.0)
    if signs == "minimax":
        settled = with_spectrum(flow, water_filling(flow.eigenvalues, radius))
        return [flow, *(settled for _ in range(rounds))]
    models, mean, spectrum = [flow], flow.mean, flow.eigenvalues
    for k in range(rounds):
        keep = damping(k) if callable(damping) else damping
        check_real(damping=keep)
        check_mixing(rounds, 0.0, keep)
        delta = worst_case(models[-1], flow.mean[None], radius).delta[0]
        if signs == "one":
            mean = keep * mean + (1 - keep) * (flow.mean + delta)
        else:  # delta is +-radius times one of the eigenvectors, so the refit keeps them all
            added = (flow.eigenvectors.T @ delta) ** 2
            spectrum = keep * spectrum + (1 - keep) * (flow.eigenvalues + added)
        models.append(GaussianFlow.from_eigen(mean, spectrum, flow.eigenvectors))
    return models
