"""Mistakes that callers make, and numbers at their ends: said, or refused, never a wrong answer."""

from __future__ import annotations

import math

import pytest
import torch
from small_attacks import quiet, seeded, warned
from torch import nn

from flowrob.attacks import (
    L2Ball,
    LinfBall,
    attack_images,
    linear_attack,
    lower_likelihood,
    pgd,
    score_images,
    square,
    uniform_noise,
    universal_perturbation,
)
from flowrob.attacks.balls import SLACK
from flowrob.evaluation import mixture, typicality
from flowrob.flows import plane_flow
from flowrob.linear import GaussianFlow

RADII = [10.0**k for k in range(-9, 10)]


def gaussian(dims: int = 12) -> GaussianFlow:
    return GaussianFlow(torch.full((dims,), 0.5).double(), torch.eye(dims).double())


def distance(ball, x, moved):
    return type(ball)(1.0).size(moved.double() - x.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
@pytest.mark.parametrize("radius", RADII)
def test_no_point_leaves_its_ball_at_any_radius(kind, radius, dtype):
    """Measured in float64: float32 has no number within 3e-8 of 0.7, so tiny balls hold x alone."""
    generator, ball = seeded(), kind(radius)
    inside = torch.rand(4, 12, generator=generator).to(dtype)
    density = gaussian()

    def objective(y):
        return (y - 3.0).square().sum(1)

    for x, box in ((inside, (0.0, 1.0)), (100.0 * inside - 50.0, None)):
        options = {"box": box, "generator": generator}
        found = {
            "pgd": pgd(objective, x, ball, num_steps=4, start="random", restarts=2, **options).x,
            "auto": pgd(objective, x, ball, num_steps=4, schedule="auto", box=box).x,
            "square": square(objective, x, ball, num_steps=8, **options).x,
            "linear": linear_attack(density.log_prob, density, x, ball, box=box).x,
            "noise": uniform_noise(x, radius, generator, box),
            "universal": universal_perturbation(
                lambda y: -objective(y), x, ball, num_steps=2, box=box
            ).apply(x),
        }
        for name, moved in found.items():
            size = distance(LinfBall(1.0) if name == "noise" else ball, x, moved)
            assert moved.dtype == dtype and bool(moved.isfinite().all()), name
            assert bool((size <= (1.0 + SLACK) * radius).all()), (name, size.max().item() / radius)
            assert box is None or bool(((moved >= 0) & (moved <= 1)).all()), name


@pytest.mark.parametrize("radius", [1e25, 1e-25])
def test_an_l2_ball_whose_radius_cannot_be_squared_is_one_all_the_same(radius):
    x = torch.zeros(2, 3)
    found = pgd(lambda y: (y / radius).sum(1), x, L2Ball(radius), num_steps=10, box=None)
    sizes = (found.x.double() / radius).norm(dim=1)
    assert torch.allclose(sizes, torch.ones(2).double(), atol=1e-4)


def test_objectives_get_a_copy_that_they_may_write_to():
    def greedy(y):
        value = y.square().sum(1)
        if not y.requires_grad:
            y.fill_(7.0)
        return value

    x = torch.rand(3, 4, generator=seeded())
    before = x.clone()
    for attack in (pgd, square):
        found = attack(greedy, x, LinfBall(0.1), num_steps=3, generator=seeded())
        assert torch.equal(x, before)
        assert bool((distance(LinfBall(1.0), x, found.x) <= 0.1 + 1e-6).all())


@pytest.mark.parametrize("made", [lambda f: mixture(f, f), lambda f: typicality(f, 0.0)])
def test_what_is_made_of_densities_gives_each_a_copy(made):
    def greedy(y):
        value = -y.square().sum(1)
        y.detach().fill_(7.0)
        return value

    def modest(y):
        return -y.square().sum(1)

    x = torch.rand(3, 4, generator=seeded())
    before = x.clone()
    assert torch.allclose(made(greedy)(x), made(modest)(x)) and torch.equal(x, before)


@pytest.mark.parametrize("model, data", [("float32", "float64"), ("float64", "float32")])
def test_precisions_that_do_not_go_together_are_cast_and_it_is_said(model, data):
    flow = plane_flow(2, 4)
    x = torch.rand(5, 2, generator=seeded())
    flow.initialize(x)
    same = lower_likelihood(flow.log_prob, x, LinfBall(0.1), num_steps=3)
    assert not warned(same, "cast")
    flow, x = flow.to(getattr(torch, model)), x.to(getattr(torch, data))
    words = f"x is {data} and the model {model}: x is cast"
    options = {"generator": seeded(), "num_steps": 3}
    attacks = (
        lower_likelihood(flow.log_prob, x, LinfBall(0.1), num_steps=3),
        lower_likelihood(flow.log_prob, x, LinfBall(0.1), using=square, **options),
        linear_attack(flow.log_prob, gaussian(2), x, LinfBall(0.1)),
    )
    for found in attacks:
        assert warned(found, words) and found.x.dtype == x.dtype
    assert torch.allclose(attacks[0].value.double(), same.value.double(), atol=1e-3)
    found = universal_perturbation(flow.log_prob, x, LinfBall(0.1), num_steps=3)
    assert any(words in warning for warning in found.warnings)
    with pytest.raises(TypeError, match=rf"x is torch.{data}, the flow has torch.{model}"):
        flow.log_prob(x)


def test_a_float64_model_of_images_is_attacked(flow, images):
    flow = flow.double()
    found = attack_images(flow.log_prob, images, 4, num_steps=2, generator=seeded())
    assert warned(found, "is cast") and found.value.dtype == torch.float64
    assert bool((found.value >= found.start_value).all())


class Steady(nn.Module):
    """A toy density with a layer of the given kind."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return -self.layer(x).square().sum(1)


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm1d(4), lambda: nn.Dropout(0.5)])
def test_a_model_in_train_mode_is_met_with_a_warning_and_left_as_it_was(make):
    model, x = Steady(make()).train(), torch.rand(6, 4, generator=seeded())
    torch.manual_seed(0)  # of Dropout, which knows no other generator
    attacks = (
        lower_likelihood(model, x, LinfBall(0.1), num_steps=3),
        square(model, x, LinfBall(0.1), num_steps=3, generator=seeded()),
        linear_attack(model, gaussian(4), x, LinfBall(0.1)),
    )
    for found in attacks:
        assert warned(found, "train mode") and warned(found, "call model.eval() first")
    score_images(lambda y: model(y.flatten(1)), torch.zeros(2, 1, 2, 2), torch.rand(1, 2, 1, 2, 2))
    assert model.training and model.layer.training
    model.eval()
    assert not warned(lower_likelihood(model, x, LinfBall(0.1), num_steps=3), "train mode")
    fresh = Steady(make()).train()
    start = {name: value.clone() for name, value in fresh.state_dict().items()}
    pgd(fresh, x, LinfBall(0.1), num_steps=3)
    square(fresh, x, LinfBall(0.1), num_steps=3, generator=seeded())
    linear_attack(fresh, gaussian(4), x, LinfBall(0.1))
    assert all(torch.equal(value, start[name]) for name, value in fresh.state_dict().items())


def test_nan_is_announced_by_the_linear_attack_too():
    found = linear_attack(lambda y: y.sum(1) * math.nan, gaussian(4), torch.rand(3, 4), L2Ball(0.1))
    assert warned(found, "non-finite values at x or at the end in 3 of 3")


@pytest.mark.parametrize(
    "change",
    [
        lambda nats, dims: -nats,
        lambda nats, dims: nats / dims,
        lambda nats, dims: 8.0 - nats / (dims * math.log(2.0)),
        lambda nats, dims: nats - dims * math.log(256.0),
    ],
    ids=["negative", "per dimension", "bits/dim", "per grey level"],
)
def test_slips_of_sign_and_unit_are_met_with_a_warning(change, images):
    def density(x):  # a normal of standard deviation 0.3
        return -((x - 0.4) / 0.3).square().flatten(1).sum(1) / 2 + x[0].numel() * 0.285

    images = torch.randint(60, 140, (6, 3, 32, 32), generator=seeded()).to(torch.uint8)
    dims = images[0].numel()
    options = {"num_steps": 2, "generator": seeded()}
    right = attack_images(density, images, 2, **options)
    assert not warned(right, "a uniform density costs 8")
    wrong = attack_images(lambda x: change(density(x), dims), images, 2, **options)
    assert warned(wrong, "a uniform density costs 8: log_prob must be log p(x) in nats")
    out = attack_images(lambda x: change(density(x), dims), images, 2, goal="raise", **options)
    assert not warned(out, "a uniform density")  # what is no data may cost anything


@pytest.mark.parametrize("ball", [LinfBall(8.0), LinfBall(1.0), L2Ball(2.0)])
def test_a_ball_that_holds_the_box_is_met_with_a_warning(ball):
    x = torch.rand(2, 4, generator=seeded())
    for attack in (pgd, square):
        found = attack(quiet, x, ball, num_steps=2, generator=seeded())
        assert warned(found, r"holds the whole box [0, 1]") and warned(found, "eps / 256")
        small = attack(quiet, x, type(ball)(0.9), num_steps=2, generator=seeded())
        assert not warned(small, "holds the whole box")
        assert not warned(attack(quiet, x, ball, num_steps=2, box=None, generator=seeded()), "box")
    assert warned(universal_perturbation(quiet, x, ball, num_steps=2), "holds the whole box")


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"box": 1.0}, TypeError, "box must be"),
        ({"box": (0.0, "1")}, TypeError, "box must be"),
        ({"box": (1.0, 0.0)}, ValueError, "lower < upper"),
        ({"box": (math.nan, 1.0)}, ValueError, "lower < upper"),
        ({"start": "random", "generator": 3}, TypeError, "generator must be torch.Generator"),
        ({"step_size": torch.ones(3)}, ValueError, r"step_size must be a number or .*\(2,\)"),
        ({"step_size": torch.ones(2, 4)}, ValueError, "step_size must be a number or"),
        ({"step_size": "long"}, TypeError, "step_size must be a number or"),
        ({"momentum": "much"}, TypeError, "momentum must be a number"),
        ({"num_steps": True}, ValueError, "num_steps must be a positive integer, got True"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ({"batch_size": -1}, ValueError, "batch_size must be a positive integer, got -1"),
        ({"schedule": ["auto"]}, ValueError, "schedule must be"),
    ],
)
def test_wrong_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        pgd(quiet, torch.rand(2, 4), LinfBall(0.1), **options)
