"""Projected ascent: each sample by itself, the best iterate kept, the model left alone."""

from __future__ import annotations

import math

import pytest
import torch
from small_attacks import quiet, seeded
from torch import nn

from flowrob.attacks import L2Ball, LinfBall, lower_likelihood, pgd, square
from flowrob.attacks.auto_pgd import checkpoint_steps
from flowrob.attacks.balls import Region
from flowrob.attacks.gradient import ascend, cosine
from flowrob.attacks.objectives import Negative, in_double
from flowrob.attacks.outcome import Best
from flowrob.training import Loss


@pytest.mark.parametrize("using", [pgd, square])
def test_results_do_not_depend_on_the_batch_size_or_on_neighbours(flow, x, using):
    model, x = in_double(flow), x.double()
    options = {"num_steps": 7, "using": using}
    if using is pgd:
        options |= {"start": "random", "restarts": 2}

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
    assert checkpoint_steps(100) == [22, 41, 57, 70, 80, 87, 93, 99]


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
        ({"start": "random"}, "generator"),
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


@pytest.mark.parametrize("method", [pgd, square])
def test_an_empty_batch_is_no_error(method):
    attack = method(quiet, torch.zeros(0, 3), LinfBall(0.1), generator=seeded())
    assert attack.x.shape == (0, 3)
    assert attack.value.shape == (0,)


def test_a_parameter_of_the_module_does_not_stand_in_for_x():
    model = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="does not depend on x"):
        pgd(lambda y: model(y.detach()).flatten(), torch.full((2, 3), 0.5), LinfBall(0.1))


@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize("start", [False, True], ids=["from x", "from a start"])
def test_training_climbs_by_the_same_loop_to_the_bit(flow, x, num_steps, start):
    radius = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    begin = torch.rand(x.shape, generator=seeded()) * 2.0 - 1.0 if start else None
    trained = Loss.of("adversarial").perturb(flow, x, radius, num_steps, begin)
    column = radius[:, None, None, None]
    options = {"schedule": "cosine", "step_size": 2.0 * radius, "num_steps": num_steps}
    options["start"] = x + begin * column if start else x
    attack = pgd(Negative(flow.log_prob), x, LinfBall(radius), **options)
    assert torch.equal(attack.x, trained)
    assert bool((attack.value > attack.start_value).all())
    if not start:
        named = lower_likelihood(flow.log_prob, x, LinfBall(radius), num_steps=num_steps)
        assert torch.equal(named.x, trained)


def test_the_bare_loop_is_pgd_without_its_checks(flow, x):
    region, best = Region(x, LinfBall(0.03).on(x), (0.0, 1.0)), Best(x)
    ascend(Negative(flow.log_prob), region, x, [0.06 * cosine(k, 5) for k in range(5)], best)
    attack = lower_likelihood(flow.log_prob, x, LinfBall(0.03), num_steps=5)
    torch.testing.assert_close(torch.stack(best.history), attack.history, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(best.x, attack.x, rtol=0, atol=1e-6)
