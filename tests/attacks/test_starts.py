"""Starts: where a search begins, and that beginning at a good point never loses it."""

from __future__ import annotations

import math

import pytest
import torch
from small_attacks import SCHEDULES, quiet, seeded

from flowrob.attacks import L2Ball, LinfBall, attack_images, lower_likelihood, pgd, square
from flowrob.attacks.objectives import in_double
from flowrob.attacks.starts import check_counts, random_rows, sample_seeds, slices


def wave(y):
    return (9.0 * y).sin().sum(1) + y.square().sum(1)


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda o: "-".join(map(str, o.values())))
def test_a_search_begins_at_the_points_it_is_given(options):
    x = torch.full((3, 4), 0.5)
    start = x + 0.2 * (2.0 * torch.rand(3, 4, generator=seeded()) - 1.0)
    seen = []

    def objective(y):
        if y.requires_grad:
            seen.append(y.detach().clone())
        return wave(y)

    attack = pgd(objective, x, LinfBall(0.2), num_steps=5, start=start, **options)
    torch.testing.assert_close(seen[0], start)
    assert torch.equal(attack.start_value.float(), wave(x))  # the gain is still over x
    torch.testing.assert_close(attack.history[0], torch.maximum(wave(x), wave(start)))
    from_x = pgd(objective, x, LinfBall(0.2), num_steps=5, **options)
    assert torch.equal(from_x.history[0], wave(x))
    assert not torch.equal(from_x.history[1:], attack.history[1:])


def test_a_start_worse_than_x_never_ends_below_x():
    def hill(y):
        return -(y - 0.5).square().sum(1)

    x = torch.full((2, 3), 0.5)
    attack = pgd(hill, x, LinfBall(0.2), num_steps=1, step_size=1e-3, start=x + 0.2)
    assert torch.equal(attack.x, x)
    assert attack.value.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", [pgd, square])
@pytest.mark.parametrize("ball", [LinfBall(0.03), L2Ball(0.3)])
def test_going_on_from_another_attack_never_ends_below_it(flow, x, ball, method):
    model, x = in_double(flow), x.double()
    options = {"num_steps": 20, "using": method, "generator": seeded()}
    first = lower_likelihood(model.log_prob, x, ball, **options)
    second = lower_likelihood(model.log_prob, x, ball, num_steps=8, start=first.x)
    assert bool((second.value >= first.value - 1e-9 * first.value.abs()).all())
    assert bool((second.history[0] >= first.value - 1e-9 * first.value.abs()).all())
    assert second.start_value.equal(first.start_value)
    if method is square:  # random search leaves something to be gained
        assert bool((second.value > first.value).all())


@pytest.mark.parametrize("ball", [LinfBall(0.1), L2Ball(0.15)])
def test_a_start_outside_ball_or_box_is_moved_inside(ball):
    x = torch.tensor([[0.0, 0.5], [1.0, 0.95], [0.5, 0.5]])
    far, seen = x + torch.tensor([[-3.0, 2.0], [4.0, 9.0], [-1.0, 0.0]]), []

    def objective(y):
        seen.append(y.detach())
        return wave(y)

    pgd(objective, x, ball, num_steps=2, start=far)
    for y in seen:
        assert bool((ball.size(y.to(x) - x) <= ball.radius + 1e-6).all())
        assert bool(((y >= 0) & (y <= 1)).all())
    begun = (x + ball.project(far - x)).clamp(0, 1)  # by hand
    torch.testing.assert_close(seen[1], begun)
    assert not torch.equal(begun, x)


def test_a_start_of_another_shape_not_finite_or_unknown_is_refused():
    x = torch.full((2, 3), 0.5)
    for start in (x[:1], x[:, :2], x[0], torch.tensor(0.5)):
        with pytest.raises(ValueError, match=r"start must be shaped like x, \(2, 3\)"):
            pgd(quiet, x, LinfBall(0.1), start=start)
    with pytest.raises(ValueError, match="start must be finite"):
        pgd(quiet, x, LinfBall(0.1), start=torch.full_like(x, math.nan))
    for start in ("centre", None, True, x.numpy()):
        with pytest.raises(ValueError, match='start must be "x", "random" or points'):
            pgd(quiet, x, LinfBall(0.1), start=start)


def test_results_from_given_points_do_not_depend_on_the_batch_size(flow, x):
    model, x = in_double(flow), x.double()
    start = x + 0.02 * (2.0 * torch.rand(x.shape, generator=seeded()).double() - 1.0)
    options = {"num_steps": 5, "start": start, "restarts": 2}

    def attack(**more):
        return lower_likelihood(model.log_prob, x, LinfBall(0.03), generator=seeded(), **options,
                                **more)  # fmt: skip

    whole = attack()
    for size in (1, 4):
        chunked = attack(batch_size=size)
        assert torch.allclose(chunked.x, whole.x, atol=1e-12)
        assert torch.allclose(chunked.value, whole.value, rtol=1e-10)
        assert torch.allclose(chunked.history, whole.history, rtol=1e-10)


def test_a_given_start_is_not_changed_and_may_be_of_another_dtype():
    x = torch.full((2, 3), 0.5)
    start = torch.full((2, 3), 0.9, dtype=torch.float64, requires_grad=True)
    attack = pgd(quiet, x, LinfBall(0.1), start=start)
    assert attack.x.dtype == torch.float32
    assert bool((start == 0.9).all())


def test_further_restarts_begin_at_random_points_whatever_the_first_one(flow, x):
    options = {"num_steps": 2, "restarts": 2, "box": (0.0, 1.0)}
    begins = []

    def spied(y):
        if y.requires_grad:
            begins.append(y.detach().clone())
        return flow.log_prob(y)

    for start in ("x", "random", x):
        begins.clear()
        lower_likelihood(spied, x, LinfBall(0.03), start=start, generator=seeded(), **options)
        assert len(begins) == 4
        assert torch.equal(begins[0], x) == (start != "random" if isinstance(start, str) else True)
        assert not torch.equal(begins[2], x)
    with pytest.raises(ValueError, match="generator"):
        lower_likelihood(flow.log_prob, x, LinfBall(0.03), start=x, restarts=2)


def test_images_go_on_from_grey_levels(flow, images):
    options = {"noise": "midpoint", "num_steps": 4}
    first = attack_images(flow.log_prob, images, 4, **options)
    second = attack_images(flow.log_prob, images, 4, start=first.x, **options)
    assert bool((second.value >= first.value - 1e-6 * first.value.abs()).all())
    assert bool((second.value > first.value).any())


def test_seeds_rows_and_slices():
    seeds = sample_seeds(4, 2, seeded())
    assert seeds.shape == (4, 2)
    assert len(set(seeds.flatten().tolist())) == 8
    rows = random_rows(seeds[:, 0], (3,))
    assert torch.equal(random_rows(seeds[2:, 0], (3,)), rows[2:])  # whatever stands beside them
    assert random_rows(seeds[:0, 0], (3,)).shape == (0, 3)
    assert slices(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert slices(0, None) == [slice(0, 0)]
    check_counts(steps=3, batch_size=None)  # no batch_size: all at once
    for wrong in (0, -1, 1.0, "3", True, None):
        with pytest.raises(ValueError, match=rf"steps must be a positive integer, got {wrong!r}"):
            check_counts(steps=wrong)
