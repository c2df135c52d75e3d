"""Adversarial training for any covariance, its stability, universal perturbations.

Simulations have fixed seeds and their own solver (bisection, in numpy); "4 standard errors" means 4
times the error that the test measures, which must also be small.
"""

import math

import numpy as np
import pytest
import torch

from flowrob.linear import (
    GaussianFlow,
    pareto_frontier,
    retrain,
    spherical_growth,
    stability_limit,
    universal_drop,
    universal_training,
    water_filling,
    worst_case,
)


def random_flow(n, seed=0, ridge=0.05):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64) / math.sqrt(n)
    mean = torch.randn(n, generator=generator, dtype=torch.float64)
    return GaussianFlow(mean, root @ root.T + ridge * torch.eye(n))


def spectrum_of(truth, model):
    """The model's variances along the eigenvectors of the truth; they do not come sorted."""
    return (truth.eigenvectors.T @ model.covariance @ truth.eigenvectors).diagonal()


def assert_close(samples, expected, largest_error):
    """The mean over axis 0 is within 4 standard errors of expected, and those errors are small."""
    samples, expected = np.asarray(samples), np.asarray(expected)
    error = samples.std(0, ddof=1) / math.sqrt(len(samples))
    assert np.all(error < largest_error), f"standard error {error} too large to test anything"
    assert np.all(np.abs(samples.mean(0) - expected) < 4 * error), (
        samples.mean(0),
        expected,
        error,
    )


def attack_by_bisection(x, mean, covariance, radius):
    """The worst case by 45 bisections on d_i = a_i / (s lam_i / lam_1 - 1), s > 1."""
    lam, vectors = np.linalg.eigh(covariance)
    a = (x - mean) @ vectors
    low, high = np.ones(len(x)), 1 + np.linalg.norm(a, axis=1) / radius + 1e-9
    for _ in range(45):
        middle = (low + high) / 2
        d = a / (middle[:, None] * lam / lam[0] - 1)
        outside = (d**2).sum(1) > radius**2
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return d @ vectors.T


def simulate(flow, radius, rounds, procedure, hybrid_weight, damping, rng):
    """Train on 6,000 points, refitting a full mean and covariance in each round."""
    clean = rng.multivariate_normal(flow.mean.numpy(), flow.covariance.numpy(), size=6_000)
    fit = [clean.mean(0), np.cov(clean.T)]
    first, mean, covariance, moved = fit[1], *fit, clean
    for _ in range(rounds):
        budget = radius
        if procedure in ("a", "b"):
            moved = rng.multivariate_normal(mean, covariance, size=len(clean))
        elif procedure == "d":
            moved = clean
        if procedure == "a":
            budget = radius * math.sqrt(np.trace(covariance) / np.trace(first))
        moved = moved + attack_by_bisection(moved, mean, covariance, budget)
        mean = hybrid_weight * fit[0] + (1 - hybrid_weight) * moved.mean(0)
        refit = hybrid_weight * first + (1 - hybrid_weight) * np.cov(moved.T)
        covariance = damping * covariance + (1 - damping) * refit
    return covariance


@pytest.mark.parametrize("procedure", "abcd")
@pytest.mark.parametrize(("hybrid_weight", "damping"), [(0.0, 0.0), (0.5, 0.3)])
def test_retrain_against_simulation_with_a_full_covariance(procedure, hybrid_weight, damping):
    flow, rng = random_flow(3, seed=5), np.random.default_rng(6)
    mixing = {"hybrid_weight": hybrid_weight, "damping": damping}
    runs = [simulate(flow, 0.4, 3, procedure, **mixing, rng=rng) for _ in range(12)]
    model = retrain(flow, 0.4, 3, procedure, **mixing)[-1]
    growth = (model.covariance / flow.covariance.diagonal().mean()).numpy()
    runs = [run / float(flow.covariance.diagonal().mean()) for run in runs]
    assert_close(runs, growth, largest_error=0.05)
    assert torch.equal(model.mean, flow.mean)


@pytest.mark.parametrize("procedure", "abcd")
def test_a_sphere_is_closed_form_and_sampling_agrees_with_it(procedure):
    sphere = GaussianFlow(torch.zeros(6), 4.0 * torch.eye(6))
    almost = GaussianFlow(torch.zeros(6), torch.diag(4.0 + 1e-9 * torch.arange(6.0).double()))
    growth = spherical_growth(0.5, 2.0, 6, 3, procedure, hybrid_weight=0.25, damping=0.1)
    models = retrain(sphere, 0.5, 3, procedure, hybrid_weight=0.25, damping=0.1)
    exact = torch.stack([m.eigenvalues for m in models])
    np.testing.assert_allclose(exact, 4 * growth[:, None] * np.ones(6), rtol=1e-14)
    models = retrain(almost, 0.5, 3, procedure, hybrid_weight=0.25, damping=0.1)
    sampled = torch.stack([m.eigenvalues.mean() for m in models])
    np.testing.assert_allclose(sampled, 4 * growth, rtol=2e-4)


def test_randomness_comes_from_the_generator_and_inputs_stay():
    flow = random_flow(4)
    before, state = flow.covariance.clone(), torch.random.get_rng_state()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        models = retrain(flow, 0.3, 2, "redrawn", num_samples=256, generator=generator)
        return models[-1].covariance

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    default = [retrain(flow, 0.3, 2, "redrawn")[-1].covariance for _ in range(2)]
    assert torch.equal(*default)
    pareto_frontier(flow, 0.3, (1.0,))
    universal_training(flow, 0.3, 2, "random")
    assert torch.equal(before, flow.covariance)
    assert torch.equal(state, torch.random.get_rng_state())


def test_retrain_has_rounds_plus_one_models_and_radius_0_changes_nothing():
    flow = random_flow(4)
    models = retrain(flow, 0.5, 10, "accumulated")
    assert len(models) == 11 and models[0] is flow
    for procedure in "abcd":
        still = retrain(flow, 0.0, 2, procedure)[-1]
        torch.testing.assert_close(still.covariance, flow.covariance, rtol=1e-12, atol=1e-14)


# ---- stability ----------------------------------------------------------------------------------


def oscillation(e, hybrid_weight=0.0, damping=0.0, rounds=150):
    """How far apart procedure (d)'s last two models are; n = 10, truth a sphere within 0.1%."""
    lam = torch.linspace(0.999, 1.001, 10, dtype=torch.float64)
    truth = GaussianFlow.from_eigen(torch.zeros(10), lam, torch.eye(10))
    mixing = {"hybrid_weight": hybrid_weight, "damping": damping, "num_samples": 2**10}
    last, end = retrain(truth, e, rounds, "fixed", **mixing)[-2:]
    return float((spectrum_of(truth, end) - spectrum_of(truth, last)).abs().max())


@pytest.mark.parametrize(("hybrid_weight", "damping"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.6)])
def test_the_instability_shows_where_it_is_predicted(hybrid_weight, damping):
    limit = stability_limit(10, hybrid_weight, damping)
    assert oscillation(0.93 * limit, hybrid_weight, damping) < 1e-3
    assert oscillation(1.07 * limit, hybrid_weight, damping) > 1e-1


def test_damping_cures_the_instability():
    assert oscillation(2.2) > 0.1
    assert oscillation(2.2, damping=0.6) < 1e-9
    assert oscillation(9.0, damping=0.6) > 0.1  # but no fixed damping cures every budget
    assert oscillation(9.0, damping=0.8) < 1e-9


# ---- universal perturbations --------------------------------------------------------------------


def test_universal_drop_against_monte_carlo():
    truth, model = random_flow(4, seed=2), random_flow(4, seed=3)
    step = worst_case(model, truth.mean[None], 0.7).delta
    x = truth.sample(200_000, torch.Generator().manual_seed(1))
    drops = model.log_prob(x) - model.log_prob(x + step)
    assert_close(drops.numpy(), universal_drop(truth, model, 0.7), largest_error=0.02)


def test_one_sign_does_not_defend_and_random_signs_do():
    flow, radius = random_flow(6, seed=4), 0.5
    smallest = float(flow.eigenvalues[0])
    clean = radius**2 / (2 * smallest)
    one, random, minimax = (
        [universal_drop(flow, m, radius) for m in universal_training(flow, radius, 5, signs)]
        for signs in ("one", "random", "minimax")
    )
    assert one[0] == random[0] == minimax[0] == pytest.approx(clean, rel=1e-12)
    np.testing.assert_allclose(one[1:], 3 * clean, rtol=1e-9)  # the other sign: 3/2 eps^2 / lam_1
    fitted = universal_training(flow, radius, 1, "one")[-1]
    torch.testing.assert_close(fitted.covariance, flow.covariance)
    again = flow.mean[None] + (fitted.mean - flow.mean)  # the same perturbation again: it helps
    gain = fitted.log_prob(again) - fitted.log_prob(flow.mean[None])
    assert float(gain) == pytest.approx(clean, rel=1e-9)
    second = min(float(flow.eigenvalues[1]), smallest + radius**2)
    assert random[1] == pytest.approx(radius**2 / (2 * second), rel=1e-9)
    assert max(minimax[1:]) < min(random) < clean


def test_random_signs_with_shrinking_steps_reach_the_minimax_model():
    flow, radius = random_flow(6, seed=4), 1.0
    steps = universal_training(flow, radius, 600, "random", damping=lambda k: 1 - 2 / (k + 3))
    filled = water_filling(flow.eigenvalues, radius)
    torch.testing.assert_close(steps[-1].eigenvalues, filled.sort().values, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda f: retrain(f, -1.0, 1), ValueError, "radius must be"),
        (lambda f: retrain(f, math.nan, 1), ValueError, "radius must be"),
        (lambda f: retrain(f, 1.0, 1.5), TypeError, "rounds must be"),
        (lambda f: retrain(f, 1.0, 1, "madry"), ValueError, "procedure must be .*'madry'"),
        (lambda f: retrain(f, 1.0, 1, damping=1.0), ValueError, "damping must be"),
        (lambda f: retrain(f, 1.0, 1, hybrid_weight=-0.1), ValueError, "hybrid_weight must be"),
        (lambda f: universal_training(f, 1.0, 1, "both"), ValueError, "signs must be"),
        (
            lambda f: universal_training(f, 1.0, 1, "one", damping=2.0),
            ValueError,
            "damping must be",
        ),
    ],
)
def test_errors_name_the_argument(call, error, named):
    with pytest.raises(error, match=named):
        call(random_flow(3))
