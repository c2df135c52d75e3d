"""What each row of docs/errata.md measures: a function per slip, computed by the package."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate, optimize

from flowrob import paper
from flowrob.linear import (
    GaussianFlow,
    best_case,
    failure_probability,
    rounds_for,
    spherical_growth,
    universal,
    universal_drop,
    universal_training,
    variance_growth,
    worst_case,
)


def constant_and_covariance() -> dict[str, float]:
    flow = GaussianFlow([0.0], [[1.0]])

    def density(x: float) -> float:
        return float(flow.log_prob(torch.tensor([[x]], dtype=torch.float64)).exp())

    x = 2 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = float(GaussianFlow.fit(x).covariance)
    area = integrate.quad(density, -10, 10)[0]
    return {
        "area": area,
        "printed": area * math.exp(2 * 0.5 * math.log(2 * math.pi)),
        "once": once,
        "twice": once / 1000,
    }


def secular_vector() -> dict[str, float]:
    flow = GaussianFlow([0.0, 0.0, 0.0], np.diag([1.0, 2.0, 4.0]))
    x, eps = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64), 0.5
    worst = worst_case(flow, x, eps)
    c = flow.eigenvectors.T @ (flow.mean - x[0])
    d = c / (1 - 2 * float(worst.multiplier) * flow.eigenvalues)
    inside = [float(worst_case(flow, x, share * eps).drop) for share in (0.9, 0.99, 0.999)]
    return {
        "norm": float(d.norm()) / eps,
        "numbers": (flow.eigenvectors.T @ flow.covariance).numel(),
        "a": inside[0],
        "b": inside[1],
        "c": inside[2],
        "edge": float(worst.drop),
    }


def hard_case() -> dict[str, float]:
    """The printed system for lam = (1, 4), x - mu = (0, 1), eps = 1: its roots, none admitted."""
    lam, eps = np.array([1.0, 4.0]), 1.0
    flow = GaussianFlow([0.0, 0.0], np.diag(lam))
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    root = optimize.brentq(lambda eta: 1 / (8 * eta - 1) ** 2 - eps**2, 0.2, 5.0)
    delta = torch.tensor([[0.0, 1 / (8 * root - 1)]], dtype=torch.float64)
    return {
        "optimum": float(worst_case(flow, x, eps).drop),
        "root": root,
        "slack": float(2 * root * lam.min() - 1),  # must not be negative
        "excluded": float(flow.log_prob(x) - flow.log_prob(x + delta)),
    }


def sphere_sign() -> dict[str, float]:
    """|x - mu| = 3, eps = 1, sigma = 1: the step of the intermediate lines, and that of (3)."""
    flow = GaussianFlow(torch.zeros(10), torch.eye(10))
    x = torch.zeros(1, 10, dtype=torch.float64)
    x[0, 0] = 3.0
    worst, before = worst_case(flow, x, 1.0), flow.log_prob(x)
    one_minus = 3.0  # 1 - 2 eta lam = |mu - x| / eps, as printed
    inward, outward = -x / one_minus, x / x.norm()  # delta = (mu - x) / (1 - 2 eta lam); (3)
    return {
        "ratio": 1 - 2 * float(worst.multiplier),
        "drop": float(worst.drop),
        "printed": float(before - flow.log_prob(x + inward)),
        "equation_3": float(before - flow.log_prob(x + outward)),
    }


def eigenvector() -> dict[str, float]:
    flow = GaussianFlow([0.0, 0.0], np.diag([1.0, 4.0]))
    delta, u_max = universal(flow, 1.0).delta, flow.eigenvectors[:, -1]
    start = flow.log_prob(flow.mean[None])
    steps = {"plus": delta, "minus": -delta, "other": u_max}
    return {name: float(start - flow.log_prob(step[None])) for name, step in steps.items()}


def alpha_needs_sigma() -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(200_000, 10, generator=generator, dtype=torch.float64)
    moved = ((x.norm(dim=1) + 1) ** 2 - x.norm(dim=1) ** 2) / (10 * 9)  # |x|^2 / 90 has mean 1
    return {
        "sampled": float(moved.mean()),
        "error": float(moved.std()) / len(x) ** 0.5,
        "holds": variance_growth(1.0, 3.0, 10),
        "printed": variance_growth(1.0, 1.0, 10),
    }


def four_procedures() -> dict[str, float]:
    return {p: float(spherical_growth(1.0, 1.0, 10, 10, p)[-1]) for p in "abcd"}


def theorem_3_2() -> dict[str, float]:
    eps, sigma, n, max_drop, gamma = 3.0, 3.0, 10, 0.6, 0.05
    setting = (eps, sigma, n, max_drop)
    m = rounds_for(*setting, gamma, "a", quantile="paper")
    after = {p: float(spherical_growth(eps, sigma, n, m, p)[-1]) for p in "abcd"}
    fails = {p: failure_probability(after[p], *setting) for p in "abcd"}
    reach = max(math.sqrt(20 * math.log(1 / gamma)), math.sqrt(2 * n))
    target = (2 * eps * sigma * reach + eps**2) / (2 * max_drop * sigma**2)
    short = math.ceil(math.log(target) / math.log1p(variance_growth(eps, 1.0, n)))
    v = float(spherical_growth(eps, sigma, n, short, "a")[-1])
    clean = math.log((2 * 0.1 * reach + 0.1**2) / 2) / math.log1p(variance_growth(0.1, 1.0, n))
    return {
        "m": m,
        "short": short,
        "printed": failure_probability(v, *setting),
        "gamma": gamma,
        "clean": clean,
        "rounds": rounds_for(0.1, 1.0, n, 1.0, gamma),
        **fails,
    }


def universal_defence() -> dict[str, float]:
    """What the same step, and the next best ones, do to models trained on delta = eps u_min."""
    flow, radius = GaussianFlow(torch.zeros(4), np.diag([0.1, 0.5, 1.0, 2.0])), 0.8
    after = {s: universal_training(flow, radius, 1, s)[-1] for s in ("one", "random", "minimax")}
    drops = {s: universal_drop(flow, model, radius) for s, model in after.items()}
    delta, model = after["one"].mean - flow.mean, after["one"]

    def mean_drop(shift, step):  # of data N(mu + shift, K): linear terms leave their mean alone
        away = flow.mean + shift - model.mean
        energy = lambda v: 0.5 * float(v @ torch.linalg.solve(model.covariance, v))  # noqa: E731
        return energy(away + step) - energy(away)

    return {
        "clean": universal_drop(flow, flow, radius),
        "same": mean_drop(0 * delta, delta),
        "same_shifted": mean_drop(delta, delta),
        **drops,
    }


def pgd_direction() -> dict[str, float]:
    flow = GaussianFlow([0.0, 0.0, 0.0], np.diag([0.5, 1.0, 4.0]))
    x, eps = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64), 0.3
    ends = {}
    for name, sign in (("ascent", 1.0), ("descent", -1.0)):
        delta = torch.zeros_like(x)
        for _ in range(200):
            at = (x + delta).requires_grad_()
            (nll_gradient,) = torch.autograd.grad(-flow.log_prob(at).sum(), at)
            delta = delta + 0.05 * sign * nll_gradient / nll_gradient.norm()
            delta = delta * min(1.0, eps / float(delta.norm()))
        ends[name] = float(flow.log_prob(x) - flow.log_prob(x + delta))
    return {
        **ends,
        "worst": float(worst_case(flow, x, eps).drop),
        "best": float(best_case(flow, x, eps).drop),
    }


def entropy(p: np.ndarray) -> float:
    """In bits, of the probabilities that are not 0."""
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def floor_after_5_bits(eps: int) -> float:
    """Greatest floor, over grey levels, of noise on {-eps..eps} whose sum is cut to 5 bits."""
    return max(
        entropy(np.bincount((level + np.arange(-eps, eps + 1) + 64) // 8) / (2 * eps + 1))
        for level in range(8)
    )


def units_of_the_figures() -> dict[str, float]:
    """The floors of three readings, and which printed labels lie below them.

    ``black`` is the 8-bit floor if every grey level is 0, where clipping folds half the noise onto
    0; ``share`` is how many such values an image needs before the floor reaches the printed 3.2.
    """
    inside, black = entropy(np.full(17, 1 / 17)), entropy(np.array([9 / 17] + [1 / 17] * 8))
    printed = paper.FIGURE_UNIFORM_NOISE_EPS_8
    figures = (paper.FIGURE_4, paper.FIGURE_5)
    floors = {
        "eight": (lambda eps: math.log2(2 * eps + 1), 8.0),
        "five": (floor_after_5_bits, 5.0),
        "nats": (lambda eps: math.log(2 * eps + 1), math.log(256)),
    }
    below = {
        name: sum(
            value < floor(e) for f in figures for e, value in zip(f.eps, f.noise, strict=True) if e
        )
        + sum(f.raised[0] < pure for f in figures)
        for name, (floor, pure) in floors.items()
    }
    return {
        "floor": inside,
        "printed": printed,
        "printed_noise": paper.FIGURE_PURE_NOISE,
        "labels": sum(len(f.eps) for f in figures),
        **{f"below_{name}": count for name, count in below.items()},
        "five_8": floor_after_5_bits(8),
        "five_32": floor_after_5_bits(32),
        "nats_8": math.log(17),
        "nats_16": math.log(33),
        "black": black,
        "share": (inside - printed) / (inside - black),
        "exponent": (inside - printed) * 3072,
    }


def simplified_objective() -> dict[str, float]:
    """lam = (.1, .5, 1, 2), eps = .8: what the line under "min" picks, and what the next does."""
    lam = np.array([0.1, 0.5, 1.0, 2.0])
    drops = 0.5 * 0.8**2 / lam  # of eps u_i, each eigenvector
    return {"taken": drops.min(), "right": drops.max()}


def determinant_of_what() -> dict[str, float]:
    """J = [[1, -2], [3, 1]]: the absolute value inside the determinant is another number."""
    jacobian = np.array([[1.0, -2.0], [3.0, 1.0]])
    return {
        "outside": abs(float(np.linalg.det(jacobian))),
        "inside": float(np.linalg.det(abs(jacobian))),
    }


def raised_noise() -> dict[str, float]:
    """Labels of raised noise at eps 8 beside those of clean images, Figures 4 and 5."""
    four, five = paper.FIGURE_4, paper.FIGURE_5
    at_8 = five.eps.index(8)
    return {
        "raised_4": four.raised[-1],
        "clean_4": four.attacked[0],
        "raised_5": five.raised[at_8],
        "clean_5": five.attacked[0],
        "raised_1": paper.FIGURE_1["noise raised"],
    }
