"""The exchange of likelihood for robustness: Pareto points, their certificate, water-filling.

Against Monte Carlo with fixed seeds and against direct minimisation; "4 standard errors" means 4
times the error that the test measures, which must also be small.
"""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

from flowrob.linear import (
    GaussianFlow,
    certificate,
    natural_drop,
    pareto_frontier,
    retrain,
    sensitivity,
    trade_off,
    universal_drop,
    universal_training,
    variance_growth,
    water_filling,
    worst_case,
)


def random_flow(n, seed=0, ridge=0.05):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64) / math.sqrt(n)
    mean = torch.randn(n, generator=generator, dtype=torch.float64)
    return GaussianFlow(mean, root @ root.T + ridge * torch.eye(n))


def with_spectrum(flow, spectrum):
    return GaussianFlow.from_eigen(flow.mean, torch.as_tensor(spectrum), flow.eigenvectors)


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


def test_trade_off_against_monte_carlo_for_unrelated_gaussians():
    truth, model = random_flow(5, seed=1), random_flow(5, seed=2, ridge=0.3)
    natural, sensitive = trade_off(truth, model, 0.5)
    x = truth.sample(200_000, torch.Generator().manual_seed(3))
    assert_close((truth.log_prob(x) - model.log_prob(x)).numpy(), natural, largest_error=0.05)
    assert_close(worst_case(model, x, 0.5).drop.numpy(), sensitive, largest_error=0.01)


def test_trade_off_of_two_spheres_is_exact():
    truth = GaussianFlow(torch.ones(4), torch.eye(4))
    point = trade_off(truth, GaussianFlow(torch.ones(4), 2 * torch.eye(4)), 0.5)
    assert point.natural_drop == pytest.approx(natural_drop(2.0, 4), rel=1e-14)
    assert point.sensitivity == pytest.approx(sensitivity(2.0, 0.5, 1.0, 4), rel=1e-14)
    shifted = trade_off(truth, GaussianFlow(torch.zeros(4), 2 * torch.eye(4)), 0.5)
    assert shifted.natural_drop == pytest.approx(point.natural_drop + 1.0, rel=1e-14)
    assert shifted.sensitivity > point.sensitivity


def test_the_seeded_points_are_forty_times_better_than_plain_sampling():
    flow = random_flow(10, seed=1)
    seeds = [torch.Generator().manual_seed(s) for s in range(8)]
    values = [trade_off(flow, flow, 0.5, generator=g).sensitivity for g in seeds]
    drops = worst_case(flow, flow.sample(4096, seeds[0]), 0.5).drop
    plain_error = float(drops.std()) / 64
    assert 0 < np.std(values) < plain_error / 20
    assert np.mean(values) == pytest.approx(trade_off(flow, flow, 0.5).sensitivity, rel=3e-4)


# ---- the Pareto frontier ------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.3, 1.5])
def test_pareto_points_are_certified_and_obey_their_identities(radius):
    flow = random_flow(10, seed=1)
    points = pareto_frontier(flow, radius)
    for point in points:
        lam = flow.eigenvalues
        assert 0 <= point.certificate < 1e-12
        if point.weight == 0:
            assert point.natural_drop < 1e-12
            continue
        ratio = lam / spectrum_of(flow, point.model)
        assert point.sensitivity == pytest.approx(float((1 - ratio).sum()) / (2 * point.weight))
        assert point.sensitivity <= 10 / (2 * point.weight)
    costs, gains = [p.natural_drop for p in points], [p.sensitivity for p in points]
    assert costs == sorted(costs) and gains == sorted(gains, reverse=True)


@pytest.mark.parametrize(("weight", "hybrid_weight"), [(1.0, 0.0), (0.5, 0.5), (0.25, 0.75)])
def test_training_d_comes_to_rest_on_the_frontier(weight, hybrid_weight):
    flow = random_flow(10, seed=1)
    (point,) = pareto_frontier(flow, 0.6, (weight,))
    rest = retrain(flow, 0.6, 150, "fixed", hybrid_weight=hybrid_weight, damping=0.6)[-1]
    torch.testing.assert_close(rest.eigenvalues, point.model.eigenvalues, rtol=1e-6, atol=0)
    assert certificate(flow, rest, 0.6, weight) < 1e-12


@pytest.mark.parametrize("procedure", "abc")
def test_the_other_procedures_leave_the_frontier_of_an_ellipsoid_but_not_of_a_sphere(procedure):
    flow, sphere = random_flow(10, seed=1), GaussianFlow(torch.zeros(10), torch.eye(10))
    model = retrain(flow, 0.5, 6, procedure)[-1]
    reached = trade_off(flow, model, 0.5)
    frontier = lambda weight: pareto_frontier(flow, 0.5, (weight,))[0]  # noqa: E731
    cost_gap = lambda weight: frontier(weight).natural_drop - reached.natural_drop  # noqa: E731
    same_cost = frontier(optimize.brentq(cost_gap, 0.5, 500, xtol=1e-6))
    assert same_cost.natural_drop == pytest.approx(reached.natural_drop, rel=1e-5)
    assert same_cost.sensitivity < 0.95 * reached.sensitivity
    v = float(retrain(sphere, 0.5, 6, procedure)[-1].eigenvalues[0])
    weight = (v - 1) / variance_growth(0.5, 1.0, 10)  # v = 1 + w alpha: a Pareto point
    (point,) = pareto_frontier(sphere, 0.5, (weight,))
    assert point.natural_drop == pytest.approx(natural_drop(v, 10), rel=1e-12)
    assert point.certificate == 0


def lagrangian(flow, points, precision, radius, weight):
    """natural_drop + weight * sensitivity of N(mean, precision^-1), up to a constant, on points."""
    covariance = np.linalg.inv(precision)
    model = GaussianFlow(flow.mean, torch.from_numpy((covariance + covariance.T) / 2))
    fit = np.trace(precision @ flow.covariance.numpy()) - np.linalg.slogdet(precision)[1]
    return 0.5 * fit + weight * float(worst_case(model, points, radius).drop.mean())


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_no_gaussian_beats_the_pareto_point(weight):
    """Direct minimisation over all precision matrices, on other points, ends at the same model."""
    flow, radius = random_flow(2, seed=3), 0.5
    (point,) = pareto_frontier(flow, radius, (weight,))
    half = flow.sample(4_000, torch.Generator().manual_seed(1)) - flow.mean
    half = half @ flow.eigenvectors
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)  # the truth's symmetry
    points = flow.mean + torch.cat([half * s for s in signs]) @ flow.eigenvectors.T

    def objective(p):
        root = np.array([[p[0], 0.0], [p[1], p[2]]])
        return lagrangian(flow, points, root @ root.T + 1e-9 * np.eye(2), radius, weight)

    found = optimize.minimize(objective, [1.0, 0.2, 1.0], method="Nelder-Mead", tol=1e-7)
    root = np.array([[found.x[0], 0.0], [found.x[1], found.x[2]]])
    claimed = np.linalg.inv(point.model.covariance.numpy())
    np.testing.assert_allclose(root @ root.T, claimed, rtol=0.01, atol=0.005)
    assert 0 < lagrangian(flow, points, claimed, radius, weight) - found.fun < 2e-4


def test_the_lagrangian_is_convex_in_the_precision_matrix():
    flow = random_flow(3, seed=3)
    points = flow.sample(200, torch.Generator().manual_seed(1))
    ends = [np.linalg.inv(random_flow(3, seed=s).covariance.numpy()) for s in range(10, 30)]
    for one, two in zip(ends[::2], ends[1::2], strict=True):
        left, right = (lagrangian(flow, points, p, 0.5, 1.0) for p in (one, two))
        middle = lagrangian(flow, points, (one + two) / 2, 0.5, 1.0)
        assert middle <= (left + right) / 2 - 1e-6


def test_the_certificate_bounds_the_gap_and_is_0_only_at_the_fixed_point():
    flow, radius, weight = random_flow(5, seed=1), 0.6, 1.0
    (best,) = pareto_frontier(flow, radius, (weight,))
    floor, centre = best.natural_drop + weight * best.sensitivity, spectrum_of(flow, best.model)
    assert certificate(flow, best.model, radius, weight) < 1e-12
    assert certificate(flow, best.model, radius, 2 * weight) > 1e-2  # another weight's fixed point
    for i in range(5):
        for factor in (0.99, 1.01):
            moved = centre.clone()
            moved[i] *= factor
            assert certificate(flow, with_spectrum(flow, moved), radius, weight) > 1e-5
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.1, 0.5):
        for _ in range(5):
            noise = torch.from_numpy(scale * rng.standard_normal(5))
            other = with_spectrum(flow, centre * noise.exp())
            reached = trade_off(flow, other, radius)
            gap = reached.natural_drop + weight * reached.sensitivity - floor
            assert 0 < gap <= certificate(flow, other, radius, weight)


def test_a_pareto_sphere_is_exact():
    flow = GaussianFlow(torch.zeros(10), 9.0 * torch.eye(10))
    for weight, model, natural, sensitive, gap in pareto_frontier(flow, 1.0, (0.0, 0.5, 1.0, 3.0)):
        v = 1 + weight * variance_growth(1.0, 3.0, 10)
        torch.testing.assert_close(model.eigenvalues, 9 * v * torch.ones(10).double())
        assert natural == pytest.approx(natural_drop(v, 10), abs=1e-13)
        assert sensitive == pytest.approx(sensitivity(v, 1.0, 3.0, 10), rel=1e-13)
        assert gap == 0 and certificate(flow, model, 1.0, weight) < 1e-6


# ---- water-filling ------------------------------------------------------------------------------


def test_water_filling_example():
    filled = water_filling([0.1, 0.5, 1.0, 2.0], 0.8)
    np.testing.assert_allclose(filled, [0.62, 0.62, 1.0, 2.0], rtol=1e-14)
    flow = GaussianFlow(torch.zeros(4), np.diag([0.1, 0.5, 1.0, 2.0]))
    model = GaussianFlow(torch.zeros(4), torch.diag(filled))
    assert universal_drop(flow, flow, 0.8) == pytest.approx(3.20, rel=1e-12)
    assert universal_drop(flow, model, 0.8) == pytest.approx(0.64 / 1.24, rel=1e-12)


@pytest.mark.parametrize(("seed", "radius"), [(0, 0.3), (1, 0.8), (2, 2.0), (3, 6.0)])
def test_water_filling_equals_direct_minimisation(seed, radius):
    """min over precisions p and a bound s >= p_i of 1/2 sum(lam p - log p) + 1/2 radius^2 s."""
    lam = np.random.default_rng(seed).uniform(0.1, 3.0, 6)
    found = optimize.minimize(
        lambda y: 0.5 * (lam @ y[:-1] - np.log(y[:-1]).sum()) + 0.5 * radius**2 * y[-1],
        np.append(1 / lam, 1 / lam.min()),
        jac=lambda y: 0.5 * np.append(lam - 1 / y[:-1], radius**2),
        constraints={
            "type": "ineq",
            "fun": lambda y: y[-1] - y[:-1],
            "jac": lambda y: np.hstack([-np.eye(6), np.ones((6, 1))]),
        },
        bounds=[(1e-6, None)] * 7,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    filled = water_filling(lam, radius).numpy()
    np.testing.assert_allclose(filled, 1 / found.x[:-1], rtol=1e-5)
    assert np.maximum(filled.min() - lam, 0).sum() == pytest.approx(radius**2, rel=1e-12)


def test_no_gaussian_beats_water_filling():
    """Against random precision matrices, rotated ones included; and with the mean moved."""
    flow, radius = random_flow(4, seed=2), 0.8
    cost = lambda m: trade_off(flow, m, 0).natural_drop + universal_drop(flow, m, radius)  # noqa: E731
    best = universal_training(flow, radius, 1, "minimax")[-1]
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-2, 0.1, 1.0) * 10:
        noise = torch.from_numpy(scale * rng.standard_normal((4, 4)))
        root = (torch.eye(4) + noise) @ torch.linalg.cholesky(best.covariance)
        assert cost(GaussianFlow(flow.mean, root @ root.T)) > cost(best)
        assert cost(GaussianFlow(flow.mean + noise[0], best.covariance)) > cost(best)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda f: pareto_frontier(f, 1.0, (-1.0,)), "weights must be"),
        (lambda f: certificate(f, random_flow(3, seed=9), 1.0, 1.0), "model must share"),
        (lambda f: water_filling([1.0, -1.0], 1.0), "eigenvalues must be"),
        (lambda f: water_filling([1.0, 2.0], -1.0), "radius must be"),
    ],
)
def test_errors_name_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call(random_flow(3))
