"""The named attacks reach the optima of the linear flow; saying a default aloud changes nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_attacks import seeded, warned

from flowrob.attacks import (
    L2Ball,
    LinfBall,
    linear_attack,
    lower_likelihood,
    raise_likelihood,
    universal_perturbation,
)
from flowrob.attacks.objectives import in_double
from flowrob.linear import GaussianFlow, best_case, universal, worst_case


@pytest.fixture(scope="module")
def gaussian():
    basis = torch.linalg.qr(torch.randn(6, 6, generator=seeded(4), dtype=torch.float64)).Q
    eigenvalues = torch.tensor([0.2, 0.5, 1.0, 1.5, 2.0, 4.0], dtype=torch.float64)
    return GaussianFlow(torch.zeros(6).double(), basis * eigenvalues @ basis.T)


def test_one_step_is_the_fast_gradient_sign_method(flow, x):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-flow.log_prob(leaf).sum(), leaf)
    expected = (x + 0.01 * gradient.sign()).clamp(0, 1)
    attack = lower_likelihood(
        flow.log_prob, x, LinfBall(0.01), num_steps=1, schedule="constant", step_size=0.01
    )
    assert torch.allclose(attack.x, expected)


@pytest.mark.parametrize("options", [{}, {"schedule": "constant"}, {"schedule": "auto"}])
def test_l2_attack_reaches_the_exact_worst_case_of_a_gaussian(gaussian, options):
    x = gaussian.sample(50, seeded())
    if options:
        options = {"step_size": 10.0, **options}
    attack = lower_likelihood(gaussian.log_prob, x, L2Ball(0.7), num_steps=400, box=None, **options)
    drop, exact = attack.value - attack.start_value, worst_case(gaussian, x, 0.7).drop
    assert bool((drop <= exact * (1 + 1e-9)).all())
    assert ((exact - drop) / exact).max() < 1e-6


def test_raising_a_gaussian_reaches_its_best_case(gaussian):
    x = 3.0 * gaussian.sample(20, seeded())
    attack = raise_likelihood(gaussian.log_prob, x, L2Ball(0.5), num_steps=400, box=None)
    gain, exact = attack.value - attack.start_value, -best_case(gaussian, x, 0.5).drop
    assert bool((gain <= exact * (1 + 1e-9)).all())
    assert ((exact - gain) / exact).max() < 1e-4


def test_ascent_from_x_stops_short_in_the_hard_case():
    gaussian = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    exact = worst_case(gaussian, x, 1.0)
    assert bool(exact.hard_case.all())
    assert exact.drop.item() == pytest.approx(13 / 24, rel=1e-12)
    options = {"num_steps": 500, "box": None}
    from_x = lower_likelihood(gaussian.log_prob, x, L2Ball(1.0), **options)
    assert (from_x.value - from_x.start_value).item() == pytest.approx(3 / 8, rel=1e-9)
    random = lower_likelihood(
        gaussian.log_prob, x, L2Ball(1.0), start="random", generator=seeded(), **options
    )
    assert (random.value - random.start_value).item() == pytest.approx(13 / 24, rel=1e-6)


def test_random_starts_can_be_trapped_and_restarts_free_them():
    gaussian = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    x = torch.tensor([[0.2, 0.2]], dtype=torch.float64).repeat(40, 1)
    exact = worst_case(gaussian, x, 1.0).drop
    options = {"num_steps": 150, "schedule": "constant", "step_size": 0.1, "box": None}
    options["start"] = "random"
    once = lower_likelihood(gaussian.log_prob, x, L2Ball(1.0), generator=seeded(), **options)
    short = (exact - (once.value - once.start_value)) / exact
    trapped = short > 0.1
    assert 5 <= int(trapped.sum()) <= 30
    assert short[~trapped].max() < 1e-6
    often = lower_likelihood(
        gaussian.log_prob, x, L2Ball(1.0), generator=seeded(), restarts=6, **options
    )
    assert ((exact - (often.value - often.start_value)) / exact).max() < 1e-6


def test_linear_attack_on_a_gaussian_is_its_own_worst_case(gaussian):
    x = gaussian.sample(10, seeded())
    attack = linear_attack(gaussian.log_prob, gaussian, x, L2Ball(0.5), box=None)
    exact = worst_case(gaussian, x, 0.5).drop
    assert torch.allclose(attack.value - attack.start_value, exact, rtol=1e-9)
    linf = linear_attack(gaussian.log_prob, gaussian, x, LinfBall(0.3), box=None, batch_size=3)
    corners = torch.cartesian_prod(*[torch.tensor([-0.3, 0.3], dtype=torch.float64)] * 6)
    best = torch.stack([-gaussian.log_prob(point + corners).min() for point in x])
    reached = (linf.value - linf.start_value) / (best - linf.start_value)
    assert reached.max() <= 1 + 1e-9
    assert reached.min() > 0.75
    assert torch.allclose((linf.x - x).abs(), torch.full_like(x, 0.3))


def test_linear_attack_moves_images_inside_ball_and_box(flow, x):
    gaussian = GaussianFlow.fit(torch.rand(400, 192, generator=seeded()).double())
    for ball in (LinfBall(0.02), L2Ball(0.3)):
        attack = linear_attack(flow.log_prob, gaussian, x, ball)
        assert attack.x.shape == x.shape
        assert bool((ball.size(attack.x - x) <= ball.radius + 1e-6).all())
        assert bool(((attack.x >= 0) & (attack.x <= 1)).all())
        before, after = (gaussian.log_prob(v.flatten(1).double()) for v in (x, attack.x))
        assert bool((after < before).all())


def test_universal_perturbation_of_a_gaussian_is_its_weakest_direction(gaussian):
    x = gaussian.sample(3000, seeded())
    x = x - x.mean(0)
    found = universal_perturbation(
        gaussian.log_prob,
        x,
        L2Ball(0.5),
        box=None,
        num_steps=200,
        start="random",
        generator=seeded(),
    )
    exact = universal(gaussian, 0.5)
    assert found.value - found.start_value == pytest.approx(float(exact.drop), rel=1e-6)
    cosine = (found.delta @ exact.delta.flatten()) / 0.25
    assert abs(cosine) > 1 - 1e-4


def test_universal_perturbation_respects_ball_and_box_and_ignores_chunks(flow, x):
    options = {"num_steps": 6, "start": "random"}
    found = universal_perturbation(flow.log_prob, x, LinfBall(0.1), generator=seeded(), **options)
    chunked = universal_perturbation(
        flow.log_prob, x, LinfBall(0.1), generator=seeded(), batch_size=4, **options
    )
    assert found.delta.shape == x.shape[1:]
    assert found.delta.abs().max() <= 0.1 + 1e-7
    applied = found.apply(x)
    assert bool(((applied >= 0) & (applied <= 1)).all())
    assert bool((applied == 0).any() | (applied == 1).any())  # the box was needed
    assert found.value > found.start_value
    mean = -in_double(flow).log_prob(applied.double()).mean().item()
    assert found.value == pytest.approx(mean, rel=1e-6)
    assert chunked.value == pytest.approx(found.value, rel=1e-3)
    other = torch.rand(3, 3, 8, 8, generator=seeded(9))
    assert not torch.equal(found.apply(other), other)
    with pytest.raises(ValueError, match="one radius"):
        universal_perturbation(flow.log_prob, x, LinfBall(torch.ones(6)))


def test_infinite_nll_counts_as_worst_and_is_counted():
    def log_prob(y):
        return torch.where((y > 0.55).any(1), -math.inf, -y.sum(1))

    x = torch.tensor([[0.5, 0.5], [0.1, 0.1]])
    attack = lower_likelihood(log_prob, x, LinfBall(0.1))
    assert attack.value.tolist()[0] == math.inf
    assert attack.value[1] == pytest.approx(0.4, abs=1e-6)
    assert attack.num_nonfinite[0] > 0
    assert attack.num_nonfinite[1] == 0
    assert warned(attack, "met on the way in 1 of 2 samples, at the end in 1")


def test_infinite_density_and_nan_are_never_a_success():
    def log_prob(y):
        value = y.sum(1)
        value = torch.where(value > 1.15, math.inf, value)
        return torch.where((value > 1.12) & (value < 1.15), math.nan, value)

    x = torch.full((2, 2), 0.5)
    attack = raise_likelihood(log_prob, x, LinfBall(0.1), step_size=0.02, schedule="constant")
    assert bool(attack.value.isfinite().all())
    assert torch.allclose(attack.value.float(), torch.tensor(1.10), atol=0.021)
    assert bool((attack.num_nonfinite > 0).all())
    assert warned(attack, "non-finite values: met on the way in 2 of 2 samples, at the end in 0")
    nan_at_start = raise_likelihood(
        lambda y: torch.where((y == 0.5).all(1), math.nan, y.sum(1)),
        x,
        LinfBall(0.1),
        start="random",
        generator=seeded(),
    )
    assert torch.allclose(nan_at_start.value.float(), torch.tensor(1.2))


@pytest.mark.gpu
def test_linear_attack_takes_a_gaussian_and_images_on_different_devices(flow, x):
    gaussian = GaussianFlow.fit(torch.rand(300, 192, generator=seeded()))
    twin = copy.deepcopy(flow).cuda()
    for ball in (LinfBall(0.02), L2Ball(0.3)):
        there = linear_attack(twin.log_prob, gaussian, x.cuda(), ball)
        here = linear_attack(flow.log_prob, gaussian, x, ball)
        torch.testing.assert_close(there.x.cpu(), here.x)
