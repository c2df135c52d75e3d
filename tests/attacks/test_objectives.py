"""Objectives: their modules are found, kept out of the graph, copied to float64, and left alone."""

from __future__ import annotations

import math

import pytest
import torch
from small_attacks import seeded
from torch import nn

from flowrob.attacks import LinfBall, lower_likelihood, pgd, raise_likelihood, square
from flowrob.attacks.images import OverNoise
from flowrob.attacks.objectives import (
    Finite,
    Negative,
    Precise,
    evaluate,
    frozen,
    in_double,
    modules,
    of_rows,
    value_and_gradient,
)
from flowrob.attacks.starts import slices
from flowrob.distributed import Group, Sharded
from flowrob.evaluation import mixture, rebased, uniform


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
        lower_likelihood(mixture(spy.log_prob, uniform, weights=(0.9, 0.1)), x, LinfBall(0.02))
    assert all(p.requires_grad for p in flow.parameters())


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


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_a_model_that_refuses_float64_is_scored_in_float32(error):
    def picky(y):
        if y.dtype != torch.float32:
            raise error(y.dtype)
        return y.sum(1)

    found = pgd(picky, torch.full((2, 3), 0.5), LinfBall(0.25))
    assert found.value.dtype == torch.float32
    assert torch.equal(found.value, torch.full((2,), 2.25))


def test_negative_flips_the_sign_and_keeps_the_module_in_sight(flow, x):
    negative = Negative(flow.log_prob)
    with torch.no_grad():
        assert torch.equal(negative(x), -flow.log_prob(x))
    value, gradient = value_and_gradient(negative, x)
    _, uphill = value_and_gradient(flow.log_prob, x)
    assert torch.equal(gradient, -uphill)
    assert not value.requires_grad
    assert modules(negative) == [flow]


def test_finite_is_nan_where_the_density_is_infinite_and_there_alone():
    def density(y):
        return torch.tensor([1.0, math.inf, -math.inf, math.nan]) + 0.0 * y.sum(1)

    values = Finite(density)(torch.zeros(4, 2))
    assert values[0] == 1.0
    assert values[2] == -math.inf
    assert values[1].isnan() and values[3].isnan()


def test_the_gradient_leads_out_of_an_infinite_density():
    def band(y):  # rises throughout, and is infinite between two numbers
        height = y.sum(1)
        return height + torch.where((height > 1.1) & (height < 1.3), math.inf, 0.0)

    x = torch.full((2, 2), 0.5)
    attack = raise_likelihood(band, x, LinfBall(0.25), step_size=0.05, schedule="constant")
    assert bool((attack.num_nonfinite > 0).all())
    torch.testing.assert_close(attack.value.float(), torch.full((2,), 1.5))
    torch.testing.assert_close(pgd(Finite(band), x, LinfBall(0.25)).value, attack.value)


COMPOSITES = {
    "negative": lambda flow, noise: Negative(flow.log_prob),
    "finite": lambda flow, noise: Finite(flow.log_prob),
    "mixture": lambda flow, noise: mixture(flow.log_prob, uniform, weights=(0.9, 0.1)),
    "rebased": lambda flow, noise: rebased(flow, 1.5),
    "noise": lambda flow, noise: OverNoise(flow.log_prob, noise),
    "sharded": lambda flow, noise: Sharded(flow.log_prob, Group()),
    "nested": lambda flow, noise: Finite(OverNoise(mixture(rebased(flow, 2.0), uniform), noise)),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_composite_is_seen_through(flow, images, name):
    """Its modules are found, frozen and copied, and its rows are those of its data."""
    noise = torch.rand(2, *images.shape, generator=seeded())
    objective = COMPOSITES[name](flow, noise)
    y = images.float() if name in ("noise", "nested") else (images + 0.5) / 256
    assert modules(objective) == [flow]
    with frozen(objective):
        assert not any(p.requires_grad for p in flow.parameters())
    assert all(p.requires_grad for p in flow.parameters())
    twin = in_double(objective)
    assert type(twin) is type(objective)
    assert modules(twin)[0] is not flow
    exact = evaluate(twin, y.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(evaluate(objective, y).double(), exact, rtol=1e-4, atol=1e-3)
    part = evaluate(of_rows(twin, slice(2, 5)), y[2:5].double())
    torch.testing.assert_close(part, exact[2:5])
    torch.testing.assert_close(Precise(objective).batches(y, slices(len(y), 4)), exact)
    assert next(flow.parameters()).dtype == torch.float32


def test_a_plain_function_is_its_own_rows_and_its_own_double():
    def function(y):
        return y.sum(1)

    assert of_rows(function, slice(1)) is function
    assert in_double(function) is function
    assert modules(function) == []


def test_bound_methods_of_any_name_are_scored_in_float64():
    def doubled(function):
        return lambda self, x: 2 * function(self, x)

    class Private(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def __hidden(self, x):
            return (self.weight * x).sum(1)

        @doubled
        def decorated(self, x):  # its __name__ is "<lambda>"
            return (self.weight * x).sum(1)

        def hidden(self):
            return self.__hidden

    model, x = Private(), torch.tensor([[0.1, 0.2, 0.3]])
    for method, times in ((model.hidden(), 1), (model.decorated, 2)):
        value = Precise(method)(x)
        assert value.dtype == torch.float64 and value.item() == pytest.approx(0.6 * times)
        assert in_double(method).__self__ is not model
