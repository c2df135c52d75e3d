"""Balls: nothing leaves them, projections are nearest, directions steepest, rounding stays in."""

from __future__ import annotations

import math

import pytest
import torch
from small_attacks import SCHEDULES, quiet, seeded

from flowrob.attacks import (
    L2Ball,
    LinfBall,
    attack_images,
    lower_likelihood,
    pgd,
    raise_likelihood,
    uniform_noise,
    universal_perturbation,
)
from flowrob.attacks.balls import Region, unit


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
def test_no_iterate_leaves_ball_or_box(ball, options):
    x = torch.rand(5, 12, generator=seeded())
    x[0] = 0.0
    x[1] = 1.0
    radius = torch.tensor([0.1, 0.3, 0.0, 0.7, 2.0])
    seen = []

    def objective(y):
        seen.append(y.detach().clone())
        return (3.0 * y).sin().sum(1) + y.square().sum(1)

    attack = pgd(
        objective, x, ball(radius), num_steps=12, restarts=2, generator=seeded(), **options
    )
    assert len(seen) > 24
    size = ball(1.0).size
    for y in [*seen, attack.x]:
        if y.dtype == x.dtype:
            assert bool((size(y - x) <= radius + 1e-6).all())
        assert bool(((y >= 0) & (y <= 1)).all())
    assert torch.equal(attack.x[2], x[2])
    assert attack.value[2] == attack.start_value[2]
    assert bool((size(attack.x - x)[3:] > 0.3).all())  # and it did move


@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
def test_random_points_fill_the_ball(ball):
    noise = torch.rand(2000, 3, generator=seeded())
    size = ball(1.0).size(ball(0.5).random_point(noise))
    assert size.max() <= 0.5 + 1e-6
    assert size.max() > 0.45
    assert size.min() < 0.15
    directions = ball(0.5).random_point(noise).sign()
    assert bool((directions.mean(0).abs() < 0.1).all())


def test_projection_is_the_nearest_point_and_steepest_the_best_direction():
    delta = torch.randn(4, 5, generator=seeded())
    for ball, order in ((LinfBall(0.4), math.inf), (L2Ball(0.4), 2)):
        inside = ball.random_point(torch.rand(50, 5, generator=seeded(2)))
        assert torch.allclose(ball.project(inside), inside)
        nearest = (ball.project(delta) - delta).norm(dim=1)
        others = ball.random_point(torch.rand(4000, 5, generator=seeded(1)))
        assert bool((torch.cdist(delta, others).amin(1) >= nearest).all())
        direction = ball.steepest(delta)
        assert torch.allclose(torch.linalg.vector_norm(direction, order, 1), torch.ones(4))
        best = (others / 0.4) @ delta.T
        assert bool((best.amax(0) <= (direction * delta).sum(1) + 1e-6).all())


def test_unit_vectors_survive_overflow_and_zero():
    gradient = torch.tensor([[3e38, 0.0], [0.0, 0.0], [1e-38, 0.0]])
    assert torch.equal(unit(gradient), torch.tensor([[1.0, 0], [0, 0], [1, 0]]))


def test_rounding_stays_in_the_ball():
    delta = torch.tensor([[2.6, -0.4], [-3.0, 1.5]])
    assert LinfBall(2.7).round(delta).tolist() == [[2.0, -0.0], [-2.0, 2.0]]
    rounded = L2Ball(2.5).round(delta)
    assert torch.equal(rounded, rounded.round())
    assert bool((rounded.norm(dim=1) <= 2.5).all())
    assert bool((rounded.norm(dim=1) >= 2.0).all())


def test_uniform_noise_fills_the_ball_and_stays_in_the_box():
    x = torch.full((4, 3, 8, 8), 0.02)
    noisy = uniform_noise(x, 0.1, seeded())
    assert noisy.min() == 0.0
    assert 0.115 < noisy.max() <= 0.12 + 1e-6
    assert torch.equal(noisy, uniform_noise(x, 0.1, seeded()))
    assert uniform_noise(x, 0.1, seeded(), box=None).min() < -0.07


def test_a_number_is_no_ball_and_a_list_no_radius(flow, images, x):
    for attack in (pgd, lower_likelihood, raise_likelihood, universal_perturbation):
        with pytest.raises(TypeError, match=r"ball must be LinfBall\(radius\).*got 0.1"):
            attack(quiet, x, 0.1)
    for radius in ([0.1, 0.2], "far", None):
        with pytest.raises(TypeError, match="radius must be a number or a tensor"):
            LinfBall(radius)
    for norm in ("linf", LinfBall(1.0)):
        with pytest.raises(TypeError, match="norm must be the class LinfBall or L2Ball"):
            attack_images(flow.log_prob, images, 1, norm=norm, generator=seeded())


@pytest.mark.parametrize("ball", [LinfBall(0.3), L2Ball(0.5)])
def test_a_region_is_the_ball_cut_by_the_box(ball):
    x = torch.rand(6, 4, generator=seeded())
    moved = x + 2.0 * torch.randn(6, 4, generator=seeded(1))
    for box in ((0.0, 1.0), None):
        region = Region(x, ball.on(x), box)
        for point in (region.project(moved), region.random_point(torch.rand(6, 4))):
            assert bool((ball.size(point - x) <= ball.radius + 1e-6).all())
            assert box is None or bool(((point >= 0) & (point <= 1)).all())
        assert torch.allclose(region.project(region.project(moved)), region.project(moved))
        assert torch.allclose(region.project(x), x)
    assert bool((ball.size(Region(x, ball.on(x), None).project(moved) - x) > 0.29).all())


@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
def test_a_radius_is_checked_whatever_its_shape(kind):
    x = torch.rand(2, 3, 4, 4)
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="radius must be finite and >= 0"):
            kind(torch.full((2, 1, 1, 1), wrong)).on(x)
    for shape in ((2, 3, 4, 4), (1, 3, 4, 4), (3, 1, 1, 1), (1, 1), (1,), (2, 1)):
        with pytest.raises(ValueError, match=r"number or have shape \(2,\), got"):
            kind(torch.full(shape, 0.1)).on(x)
    for right in (0.1, torch.tensor(0.1), torch.full((2,), 0.1), torch.full((2, 1, 1, 1), 0.1)):
        assert kind(right).on(x).radius.flatten().tolist() == pytest.approx([0.1, 0.1])
        assert torch.equal(kind(right).on(x).on(x).radius, kind(right).on(x).radius)
