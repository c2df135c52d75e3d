"""Attacks: balls and boxes are never left, optima are reached, failures are named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from flowrob import balls
from flowrob.ascent import _checkpoints
from flowrob.attacks import (
    Attack,
    L2Ball,
    LinfBall,
    linear_attack,
    lower_likelihood,
    pgd,
    raise_likelihood,
    uniform_noise,
    universal_perturbation,
)
from flowrob.blackbox import square
from flowrob.data import quantize
from flowrob.gaussian import GaussianFlow, best_case, universal, worst_case
from flowrob.objectives import Negative, in_double, mixture, uniform
from flowrob.pixels import OverNoise, attack_images, dequantization_noise, score_images

SCHEDULES = [
    {"schedule": "constant"},
    {"schedule": "constant", "momentum": 0.75},
    {"schedule": "cosine"},
    {"schedule": "auto"},
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def x(images):
    return (images + 0.5) / 256


@pytest.fixture(scope="module")
def gaussian():
    basis = torch.linalg.qr(torch.randn(6, 6, generator=seeded(4), dtype=torch.float64)).Q
    eigenvalues = torch.tensor([0.2, 0.5, 1.0, 1.5, 2.0, 4.0], dtype=torch.float64)
    return GaussianFlow(torch.zeros(6).double(), basis * eigenvalues @ basis.T)


# The ball and the box ----------------------------------------------------------------------------


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
    assert torch.equal(balls.unit(gradient), torch.tensor([[1.0, 0], [0, 0], [1, 0]]))


def test_one_step_is_the_fast_gradient_sign_method(flow, x):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-flow.log_prob(leaf).sum(), leaf)
    expected = (x + 0.01 * gradient.sign()).clamp(0, 1)
    attack = lower_likelihood(
        flow.log_prob, x, LinfBall(0.01), num_steps=1, schedule="constant", step_size=0.01
    )
    assert torch.allclose(attack.x, expected)


# The linear flow, where the optimum is known -----------------------------------------------------


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
        gaussian.log_prob, x, L2Ball(1.0), random_start=True, generator=seeded(), **options
    )
    assert (random.value - random.start_value).item() == pytest.approx(13 / 24, rel=1e-6)


def test_random_starts_can_be_trapped_and_restarts_free_them():
    gaussian = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    x = torch.tensor([[0.2, 0.2]], dtype=torch.float64).repeat(40, 1)
    exact = worst_case(gaussian, x, 1.0).drop
    options = {"num_steps": 150, "schedule": "constant", "step_size": 0.1, "box": None}
    options["random_start"] = True
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
        random_start=True,
        generator=seeded(),
    )
    exact = universal(gaussian, 0.5)
    assert found.value - found.start_value == pytest.approx(float(exact.drop), rel=1e-6)
    cosine = (found.delta @ exact.delta.flatten()) / 0.25
    assert abs(cosine) > 1 - 1e-4


def test_universal_perturbation_respects_ball_and_box_and_ignores_chunks(flow, x):
    options = {"num_steps": 6, "random_start": True}
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


# Independence, bookkeeping -----------------------------------------------------------------------


@pytest.mark.parametrize("using", [pgd, square])
def test_results_do_not_depend_on_the_batch_size_or_on_neighbours(flow, x, using):
    model, x = in_double(flow), x.double()
    options = {"num_steps": 7, "using": using}
    if using is pgd:
        options |= {"random_start": True, "restarts": 2}

    def attack(x, **more):
        return lower_likelihood(
            model.log_prob, x, LinfBall(0.03), generator=seeded(), **options, **more
        )

    whole = attack(x)
    for size in (1, 4):
        chunked = attack(x, batch_size=size)
        assert torch.allclose(chunked.x, whole.x, atol=1e-12)
        assert torch.allclose(chunked.value, whole.value, rtol=1e-10)
        assert torch.allclose(chunked.history, whole.history, rtol=1e-10)
    assert torch.allclose(attack(x[:4]).x, whole.x[:4], atol=1e-12)
    assert not torch.allclose(whole.x[0] - x[0], whole.x[1] - x[1])


def test_per_sample_radii_are_chunked_with_their_samples(flow, x):
    radius = torch.tensor([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
    attack = lower_likelihood(flow.log_prob, x, LinfBall(radius), num_steps=3, batch_size=4)
    assert torch.allclose((attack.x - x).abs().flatten(1).amax(1), radius, atol=1e-6)


def test_history_is_the_running_best_and_ends_at_the_value(flow, x):
    attack = lower_likelihood(
        flow.log_prob, x, LinfBall(0.03), num_steps=5, restarts=3, generator=seeded()
    )
    assert attack.history.shape == (6, len(x))
    assert bool((attack.history.diff(dim=0) >= 0).all())
    assert torch.allclose(attack.history[-1].double(), attack.value, rtol=1e-5)
    assert attack.value.dtype == torch.float64
    exact = -in_double(flow).log_prob(attack.x.double())
    assert torch.allclose(attack.value, exact, rtol=1e-12)
    assert bool((attack.value > attack.start_value + 1).all())
    assert "scored in float64" in repr(attack)


def test_more_restarts_are_never_worse(flow, x):
    once, thrice = (
        lower_likelihood(
            flow.log_prob, x, LinfBall(0.05), num_steps=4, restarts=n, generator=seeded()
        ).value
        for n in (1, 3)
    )
    assert bool((thrice >= once - 1e-9).all())


def test_best_iterate_is_kept_when_later_steps_spoil_it():
    def objective(y):
        return -(y - 0.55).abs().sum(1)

    x = torch.full((1, 1), 0.5)
    attack = pgd(objective, x, LinfBall(0.3), num_steps=4, step_size=0.06)
    assert attack.x.item() == pytest.approx(0.56, abs=1e-6)
    assert attack.history[-1] == attack.history.max()


def test_auto_halves_the_steps_and_beats_constant_ones():
    def objective(y):
        return -(y - 0.123).square().sum(1)

    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    options = {"num_steps": 100, "step_size": 0.6}
    auto, constant = (
        pgd(objective, x, LinfBall(0.45), schedule=schedule, **options)
        for schedule in ("auto", "constant")
    )
    assert auto.value > -1e-5
    assert constant.value < -1e-4


def test_auto_checkpoints_are_those_of_the_paper():
    assert _checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("method", [pgd, square])
def test_parameters_and_their_gradients_are_left_alone(flow, x, method):
    before = {name: p.detach().clone() for name, p in flow.named_parameters()}
    marked = flow.bijection.levels[0].bijections[1].bias
    marked.grad = torch.full_like(marked, 7.0)
    frozen = flow.bijection.levels[0].bijections[2].lower_upper.requires_grad_(False)
    original = x.clone()
    lower_likelihood(
        flow.log_prob, x, LinfBall(0.02), num_steps=2, using=method, generator=seeded()
    )
    assert torch.equal(x, original)
    assert not frozen.requires_grad
    frozen.requires_grad_(True)
    for name, parameter in flow.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.requires_grad
        if parameter is not marked:
            assert parameter.grad is None, name
    assert torch.equal(marked.grad, torch.full_like(marked, 7.0))
    marked.grad = None


def test_no_graph_is_built_for_weights_and_they_thaw_after_an_error(flow, x):
    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow, self.states, self.fail = flow, [], False

        def log_prob(self, x):
            self.states += [p.requires_grad for p in self.parameters()]
            if self.fail:
                raise KeyError("broken")
            return self.flow.log_prob(x)

    spy = Spy()
    lower_likelihood(spy.log_prob, x, LinfBall(0.02), num_steps=1)
    assert spy.states
    assert not any(spy.states)
    spy.fail = True
    with pytest.raises(KeyError):
        lower_likelihood(mixture(spy.log_prob, uniform, 0.1), x, LinfBall(0.02))
    assert all(p.requires_grad for p in flow.parameters())


# Warnings ----------------------------------------------------------------------------------------


def warned(attack: Attack, words: str) -> bool:
    return any(words in warning for warning in attack.warnings)


def quiet(y):
    return y.sum(1)


def test_a_good_attack_warns_of_nothing():
    assert pgd(quiet, torch.rand(3, 4, generator=seeded()), LinfBall(0.1)).warnings == []


def test_warning_steps_that_cannot_reach_the_boundary():
    x = torch.full((2, 3), 0.5)
    attack = pgd(quiet, x, LinfBall(0.1), num_steps=5, step_size=0.01)
    assert warned(attack, "reach only 0.05")
    assert not warned(pgd(quiet, x, LinfBall(0.1), num_steps=5, step_size=0.03), "reach only")


def test_warning_objective_still_rising():
    x = torch.full((2, 3), 0.5)
    attack = pgd(lambda y: y.sum(1).exp(), x, LinfBall(0.1), num_steps=20, step_size=0.005)
    assert warned(attack, "still rising at the end for 2 of 2")
    done = pgd(lambda y: y.sum(1).exp(), x, LinfBall(0.1), num_steps=20, step_size=0.05)
    assert not warned(done, "still rising")


def test_warning_zero_gradients_and_the_square_attack_that_sees_through_them():
    def masked(y):
        return ((y * 20).round() + 0.0 * y).flatten(1).sum(1)

    x = torch.full((3, 2, 4, 4), 0.51)
    ascent = pgd(masked, x, LinfBall(0.2))
    assert warned(ascent, "zero or non-finite gradients at some iterate of 3 of 3")
    search = square(masked, x, LinfBall(0.2), num_steps=100, generator=seeded(), against=ascent)
    assert warned(search, "beats the gradient attack on 3 of 3")
    assert bool((search.value > 32 * 13).all())


def test_warning_randomised_objective():
    generator = seeded()
    x = torch.full((3, 2), 0.5)
    attack = pgd(lambda y: y.sum(1) + torch.rand(3, generator=generator), x, LinfBall(0.1))
    assert warned(attack, "randomised objective")
    dropout = nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1), nn.Flatten(0))
    assert warned(pgd(dropout, x, LinfBall(0.1)), "randomised objective")
    assert not warned(pgd(dropout.eval(), x, LinfBall(0.1)), "randomised objective")


def test_gains_that_a_second_look_does_not_confirm_are_given_back():
    generator, x = seeded(), torch.full((64, 2), 0.5)

    def lucky(y):
        return torch.rand(64, generator=generator) - (y - 0.5).square().sum(1)

    attack = pgd(lucky, x, LinfBall(0.1), random_start=True, generator=seeded(1))
    assert bool((attack.value >= attack.start_value).all())
    back = (attack.x == x).all(1)
    assert 10 < int(back.sum()) < 54
    assert torch.equal(attack.value[back], attack.start_value[back])


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
        random_start=True,
        generator=seeded(),
    )
    assert torch.allclose(nan_at_start.value.float(), torch.tensor(1.2))


def test_float32_overflow_is_resolved_in_float64():
    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1e20))

        def forward(self, y):
            return -(self.weight * y).square().sum(1)

    x = torch.tensor([[0.5, 0.25]])
    attack = lower_likelihood(Steep(), x, LinfBall(0.25))
    assert bool(attack.history.isinf().all())
    assert attack.value.dtype == torch.float64
    assert attack.value.item() == pytest.approx(1e40 * 0.3125, rel=1e-6)


def test_values_stay_in_float32_where_the_model_must(flow, x):
    attack = lower_likelihood(lambda y: flow.log_prob(y), x, LinfBall(0.01), num_steps=2)
    assert attack.value.dtype == torch.float32
    assert "scored in float32" in repr(attack)
    assert all(p.grad is None for p in flow.parameters())


# The square attack -------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", [LinfBall(0.05), L2Ball(0.3)])
@pytest.mark.parametrize("shape", [(4, 3, 6, 6), (4, 10)])
def test_square_stays_inside_and_rises_without_gradients(ball, shape):
    x = torch.rand(shape, generator=seeded())
    target = torch.rand(shape[1:], generator=seeded(1))

    @torch.no_grad()
    def objective(y):
        assert bool((ball.size(y.to(x) - x) <= ball.radius + 1e-6).all())
        assert bool(((y >= 0) & (y <= 1)).all())
        return (target * y).flatten(1).sum(1)

    attack = square(objective, x, ball, num_steps=150, generator=seeded())
    best = pgd(lambda y: (target * y).flatten(1).sum(1), x, ball, num_steps=50)
    share = (attack.value - attack.start_value) / (best.value - best.start_value)
    assert bool((share > 0.5).all())
    assert bool((share <= 1 + 1e-5).all())
    assert attack.history.shape == (151, len(x))
    assert bool((attack.history.diff(dim=0) >= 0).all())
    with pytest.raises(ValueError, match="generator"):
        square(objective, x, ball)


def test_square_is_weaker_than_ascent_on_a_flow(flow, x):
    ascent = lower_likelihood(flow.log_prob, x, LinfBall(0.03), num_steps=20)
    search = lower_likelihood(
        flow.log_prob, x, LinfBall(0.03), num_steps=60, using=square, against=ascent,
        generator=seeded(),
    )  # fmt: skip
    assert bool((search.value > search.start_value).all())
    assert bool((search.value < ascent.value).all())
    assert not warned(search, "beats")


# Dequantisation and 8-bit images -----------------------------------------------------------------


def test_over_noise_is_the_mean_over_its_draws(flow, images):
    noise = dequantization_noise(images, "expected", seeded(), num_draws=3)
    assert noise.shape == (3, *images.shape)
    mean = torch.stack([flow.log_prob((images + u) / 256) for u in noise]).mean(0)
    assert torch.allclose(OverNoise((flow.log_prob,), noise)(images.float()), mean, rtol=1e-5)
    part = OverNoise((flow.log_prob,), noise).samples(slice(2, 4))
    assert torch.allclose(part(images[2:4].float()), mean[2:4], rtol=1e-5)
    assert bool((dequantization_noise(images, "midpoint") == 0.5).all())
    with pytest.raises(ValueError, match="fixed"):
        dequantization_noise(images, "random", seeded())


@pytest.mark.parametrize("noise", ["fixed", "midpoint", "expected"])
def test_image_attack_gives_valid_images_that_fresh_noise_confirms(flow, images, noise):
    options = {"noise": noise, "num_draws": 2, "num_steps": 10}
    real = attack_images(flow.log_prob, images, 4, generator=seeded(), **options)
    coded = attack_images(
        flow.log_prob, images, 4, generator=seeded(), quantize=True, batch_size=4, **options
    )
    assert real.x.dtype == torch.float32
    assert (real.x - images).abs().max() <= 4 + 1e-4
    assert bool(((real.x >= 0) & (real.x <= 255)).all())
    assert coded.x.dtype == torch.uint8
    assert (coded.x.int() - images.int()).abs().max() == 4
    fresh = dequantization_noise(images, "fixed", seeded(7))
    clean, attacked, attacked8 = (
        score_images(flow.log_prob, levels, fresh, batch_size=5)
        for levels in (images, real.x, coded.x)
    )
    assert clean.dtype == torch.float64
    assert bool((attacked < clean - 5).all())
    assert bool((attacked8 < clean - 5).all())
    assert torch.equal(quantize((coded.x + fresh[0]) / 256), coded.x)
    own = dequantization_noise(images, noise, seeded(), num_draws=2)
    value = -score_images(flow.log_prob, coded.x, own)
    assert torch.allclose(coded.value, value, rtol=1e-9)


def test_raising_and_l2_work_on_images_too(flow, images):
    raised = attack_images(
        flow.log_prob, images, 3, goal="raise", quantize=True, generator=seeded(), num_steps=10
    )
    assert bool((raised.value >= raised.start_value).all())
    assert raised.value.mean() > raised.start_value.mean() + 1
    near = attack_images(
        flow.log_prob, images, 40.0, norm=L2Ball, quantize=True, generator=seeded(), num_steps=10
    )
    size = (near.x.double() - images.double()).flatten(1).norm(dim=1)
    assert bool((size <= 40).all())
    assert bool((size > 35).all())
    assert bool((near.value > near.start_value).all())


def test_rounding_stays_in_the_ball():
    delta = torch.tensor([[2.6, -0.4], [-3.0, 1.5]])
    assert LinfBall(2.7).round(delta).tolist() == [[2.0, -0.0], [-2.0, 2.0]]
    rounded = L2Ball(2.5).round(delta)
    assert torch.equal(rounded, rounded.round())
    assert bool((rounded.norm(dim=1) <= 2.5).all())
    assert bool((rounded.norm(dim=1) >= 2.0).all())


# Noise, mixtures, errors -------------------------------------------------------------------------


def test_uniform_noise_fills_the_ball_and_stays_in_the_box():
    x = torch.full((4, 3, 8, 8), 0.02)
    noisy = uniform_noise(x, 0.1, seeded())
    assert noisy.min() == 0.0
    assert 0.115 < noisy.max() <= 0.12 + 1e-6
    assert torch.equal(noisy, uniform_noise(x, 0.1, seeded()))
    assert uniform_noise(x, 0.1, seeded(), box=None).min() < -0.07


def test_mixture_is_never_much_worse_than_either_part(gaussian, flow, x):
    other = GaussianFlow.fit(torch.rand(500, 192, generator=seeded()).double())

    def log_prob(y):
        return other.log_prob(y.flatten(1).double())

    a, b = flow.log_prob(x).double(), log_prob(x)
    both = mixture(flow.log_prob, log_prob, 0.25)(x)
    exact = torch.log(0.75 * (a - a).exp() + 0.25 * (b - a).exp()) + a
    exact = torch.where(exact.isfinite(), exact, torch.maximum(a, b + math.log(0.25)))
    assert torch.allclose(both, exact, rtol=1e-6)
    assert bool((both >= a + math.log(0.75) - 1e-4).all())
    assert bool((both >= b + math.log(0.25) - 1e-4).all())
    with pytest.raises(ValueError, match=r"weight must lie in \(0, 1\), got 1"):
        mixture(flow.log_prob, log_prob, 1)
    negative = Negative((mixture(flow.log_prob, uniform, 0.5),))
    assert bool((negative(x) <= math.log(2) + 1e-6).all())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.full((2, 3), 1.5)}, r"must lie in the box \[0.0, 1.0\]"),
        ({"x": torch.full((3,), 0.5)}, r"shape \(batch, \.\.\.\).*x\[None\] for one sample"),
        ({"x": torch.full((2, 3), math.nan), "box": None}, "x must be finite"),
        ({"ball": LinfBall(-1.0)}, "radius must be finite"),
        ({"ball": L2Ball(torch.ones(3))}, r"shape \(2,\)"),
        ({"num_steps": 0}, "num_steps must be a positive integer, got 0"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"schedule": "linear"}, "schedule must be"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"step_size": math.nan}, "step_size must be finite"),
        ({"random_start": True}, "generator"),
        ({"objective": lambda y: y.sum()}, "one value per sample"),
        ({"objective": lambda y: y**2}, r"got \(2, 3\); .*sum over the features"),
        ({"objective": lambda y: y.detach().sum(1)}, "does not depend on x"),
    ],
)
def test_errors_name_the_argument(changes, words):
    arguments = {"objective": quiet, "x": torch.full((2, 3), 0.5), "ball": LinfBall(0.1)} | changes
    objective, x, ball = (arguments.pop(k) for k in ("objective", "x", "ball"))
    with pytest.raises(ValueError, match=words):
        pgd(objective, x, ball, **arguments)


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


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_a_model_that_refuses_float64_is_scored_in_float32(error):
    def picky(y):
        if y.dtype != torch.float32:
            raise error(y.dtype)
        return y.sum(1)

    found = pgd(picky, torch.full((2, 3), 0.5), LinfBall(0.25))
    assert found.value.dtype == torch.float32
    assert torch.equal(found.value, torch.full((2,), 2.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_the_model_not_for_x(dtype):
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    ball = LinfBall(1 / 256)
    with pytest.raises(TypeError, match=rf"x is {dtype}, too coarse.*x.float\(\)"):
        lower_likelihood(lambda y: -y.square().flatten(1).sum(1), x.to(dtype), ball)
    found = lower_likelihood(lambda y: -y.to(dtype).square().flatten(1).sum(1), x, ball)
    assert found.x.dtype == torch.float32
    assert bool((ball.size(found.x - x) <= ball.radius * (1 + 1e-6)).all())
    assert bool((found.value > found.start_value).all())


def test_uint8_images_are_pointed_to_their_own_attack(flow, images):
    with pytest.raises(TypeError, match="attack_images"):
        lower_likelihood(flow.log_prob, images, LinfBall(0.1))
    with pytest.raises(TypeError, match="uint8"):
        attack_images(flow.log_prob, images.float(), 1, generator=seeded())
    with pytest.raises(ValueError, match="eps >= 1"):
        attack_images(flow.log_prob, images, 0.5, quantize=True, generator=seeded())


@pytest.mark.parametrize("method", [pgd, square])
def test_an_empty_batch_is_no_error(method):
    attack = method(quiet, torch.zeros(0, 3), LinfBall(0.1), generator=seeded())
    assert attack.x.shape == (0, 3)
    assert attack.value.shape == (0,)


def test_a_parameter_of_the_module_does_not_stand_in_for_x():
    model = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="does not depend on x"):
        pgd(lambda y: model(y.detach()).flatten(), torch.full((2, 3), 0.5), LinfBall(0.1))


def test_an_attack_that_gains_nothing_says_so():
    def hill(x):  # a start at the top: no step gains
        return -x.square().flatten(1).sum(1)

    start = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    attack = pgd(hill, start, L2Ball(0.1), box=None)
    assert any("nothing was gained on 1 of 2 samples" in warning for warning in attack.warnings)
    moved = pgd(hill, start[1:], L2Ball(0.1), box=None)
    assert not any("nothing was gained" in warning for warning in moved.warnings)


@pytest.mark.gpu
def test_linear_attack_takes_a_gaussian_and_images_on_different_devices(flow, x):
    gaussian = GaussianFlow.fit(torch.rand(300, 192, generator=seeded()))
    twin = copy.deepcopy(flow).cuda()
    for ball in (LinfBall(0.02), L2Ball(0.3)):
        there = linear_attack(twin.log_prob, gaussian, x.cuda(), ball)
        here = linear_attack(flow.log_prob, gaussian, x, ball)
        torch.testing.assert_close(there.x.cpu(), here.x)
