"""l_inf attacks on the linear flow, against all 2^n vertices of the box."""

import itertools
import math

import pytest
import torch

from flowrob.linear import GaussianFlow, linf_bound, worst_case_linf
from flowrob.linear.linf import _climb


def random_flow(n, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64) / math.sqrt(n)
    return GaussianFlow(torch.ones(n), root @ root.T + 0.05 * torch.eye(n))


def drop_of(flow, x, delta):
    return flow.log_prob(x) - flow.log_prob(x + delta)


def best_vertex(flow, x, radius):
    """The largest drop over all vertices, point by point."""
    signs = list(itertools.product([-1.0, 1.0], repeat=x.shape[1]))
    corners = radius * torch.tensor(signs, dtype=torch.float64)
    return torch.stack([drop_of(flow, p.expand_as(corners), corners).max() for p in x])


@pytest.mark.parametrize(("n", "radius"), [(2, 0.3), (6, 0.05), (6, 1.0), (10, 0.3), (12, 0.5)])
def test_the_search_finds_the_best_vertex_nearly_always(n, radius):
    exact = total = 0
    for seed in range(5):
        flow = random_flow(n, seed)
        x = flow.sample(20, torch.Generator().manual_seed(seed))
        optimum = best_vertex(flow, x, radius)
        found = worst_case_linf(flow, x, radius)
        assert (found.drop <= optimum + 1e-9 * optimum.abs()).all()
        assert (found.upper_bound >= optimum * (1 - 1e-12)).all()
        assert (found.drop > 0.9 * optimum).all()
        exact += int((found.drop >= optimum * (1 - 1e-9)).sum())
        total += len(x)
    assert exact >= 0.98 * total


def test_delta_is_a_vertex_that_no_single_flip_improves():
    flow, radius = random_flow(20, 1), 0.4
    x = flow.sample(30, torch.Generator().manual_seed(2))
    found = worst_case_linf(flow, x, radius, restarts=2)
    assert torch.equal(found.delta.abs(), torch.full_like(found.delta, radius))
    torch.testing.assert_close(found.drop, drop_of(flow, x, found.delta), rtol=1e-9, atol=1e-9)
    for i in range(20):
        flipped = found.delta.clone()
        flipped[:, i] *= -1
        assert (drop_of(flow, x, flipped) <= found.drop + 1e-9).all()
    gradient = (x + found.delta - flow.mean) @ torch.linalg.inv(flow.covariance)
    ascended = drop_of(flow, x, radius * gradient.sign())
    assert (ascended <= found.drop + 1e-9).all()


def test_the_first_move_is_at_least_the_sign_step():
    """Flips alone find the same vertices, but one coordinate at a time."""
    flow = random_flow(30, 1)
    centred = flow.sample(20, torch.Generator().manual_seed(2)) - flow.mean
    precision = torch.linalg.inv(flow.covariance)
    _, drop = _climb(precision, centred, torch.zeros_like(centred), 0.4, max_moves=1)
    step = 0.4 * (centred @ precision).sign()
    assert (drop >= drop_of(flow, flow.mean + centred, step) * (1 - 1e-9)).all()


def test_no_point_of_the_box_beats_the_optimum_or_the_bound():
    flow, generator = random_flow(5, 3), torch.Generator().manual_seed(4)
    x = flow.sample(10, generator)
    optimum, bound = best_vertex(flow, x, 0.5), linf_bound(flow, x, 0.5)
    for _ in range(200):
        inside = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
        assert (drop_of(flow, x, inside) < optimum).all()
    assert (bound >= optimum).all()


def test_restarts_help_and_never_hurt():
    flow = random_flow(40, 5)
    x = flow.sample(50, torch.Generator().manual_seed(6))
    few, many = (worst_case_linf(flow, x, 1.0, restarts=r).drop for r in (0, 20))
    assert (many >= few).all() and (many > few * (1 + 1e-9)).any()


def test_bound_is_tight_for_a_diagonal_covariance_and_at_small_radius():
    diagonal = GaussianFlow(torch.zeros(3), torch.diag(torch.tensor([0.5, 1.0, 4.0])))
    x = diagonal.sample(50, torch.Generator().manual_seed(7))
    found = worst_case_linf(diagonal, x, 0.7)
    torch.testing.assert_close(found.drop, found.upper_bound, rtol=1e-12, atol=0)
    flow = random_flow(10, 8)
    found = worst_case_linf(flow, flow.sample(50, torch.Generator().manual_seed(7)), 1e-6)
    assert (found.drop > 0.999 * found.upper_bound).all()


def test_both_parts_of_the_bound_are_needed():
    """Many small products of mixed sign: the ball wins at the mean, else the triangle."""
    n, generator = 40, torch.Generator().manual_seed(7)
    noise = torch.randn(n, n, generator=generator, dtype=torch.float64)
    precision = torch.eye(n) + 0.15 * (noise + noise.T) / math.sqrt(2 * n)
    flow = GaussianFlow(torch.zeros(n), torch.linalg.inv(precision))
    ball = 0.5 * n * float(torch.linalg.eigvalsh(precision)[-1])
    triangle = 0.5 * float(precision.abs().sum())
    assert ball < 0.9 * triangle
    assert float(linf_bound(flow, torch.zeros(1, n), 1.0)) == pytest.approx(ball, rel=1e-9)
    x = flow.sample(1, generator)
    triangle = 1e-3 * float((x @ precision).abs().sum()) + 1e-6 * triangle
    assert float(linf_bound(flow, x, 1e-3)) == pytest.approx(triangle, rel=1e-9)


def test_radius_0_the_mean_and_determinism():
    flow = random_flow(4, 1)
    x, state = flow.sample(3, torch.Generator().manual_seed(1)), torch.random.get_rng_state()
    assert (worst_case_linf(flow, x, 0.0).drop == 0).all()
    at_mean = worst_case_linf(flow, flow.mean[None], 0.5)
    torch.testing.assert_close(at_mean.drop, best_vertex(flow, flow.mean[None], 0.5))
    at_mean = worst_case_linf(flow, flow.mean[None], 0.5, restarts=0)  # no gradient, yet a vertex
    assert (at_mean.delta.abs() == 0.5).all()
    first, second = worst_case_linf(flow, x, 0.5), worst_case_linf(flow, x, 0.5)
    assert torch.equal(first.delta, second.delta)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("x", "radius", "restarts", "named"),
    [
        (torch.zeros(3), 1.0, 1, r"x must have shape \(N, 3\)"),
        (torch.zeros(1, 4), 1.0, 1, r"x must have shape .*\(1, 4\)"),
        (torch.full((1, 3), math.nan), 1.0, 1, "x must be finite"),
        (torch.zeros(1, 3), -1.0, 1, r"radius must be .*-1\.0"),
        (torch.zeros(1, 3), 1.0, -1, "restarts must be"),
    ],
)
def test_errors_name_the_argument(x, radius, restarts, named):
    with pytest.raises(ValueError, match=named):
        worst_case_linf(random_flow(3, 0), x, radius, restarts=restarts)
