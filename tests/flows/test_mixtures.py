"""Mixtures of flows: normalised, bounded by their parts, sampled from, attacked like any flow."""

from __future__ import annotations

import math

import pytest
import torch

from flowrob.attacks import LinfBall, lower_likelihood
from flowrob.evaluation import mixture, mixture_bound
from flowrob.flows import FlowMixture, glow, plane_flow


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plane(seed):
    flow = plane_flow(generator=seeded(seed))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=seeded(seed + 1))
    flow.initialize(torch.randn(64, 2, generator=seeded(seed)) + seed)
    return flow


@pytest.fixture(scope="module")
def both():
    return FlowMixture({"left": plane(0), "right": plane(3)}, weights=(0.25, 0.75))


def test_it_is_the_weighted_sum_of_its_parts_and_integrates_to_one(both):
    line = torch.linspace(-12, 16, 561)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        q = both.log_prob(grid).double().exp()
        parts = torch.stack([part.log_prob(grid).double().exp() for part in both.parts])
    torch.testing.assert_close(q, 0.25 * parts[0] + 0.75 * parts[1], rtol=1e-4, atol=1e-9)
    assert abs(q.sum().item() * 0.05**2 - 1.0) < 0.01
    outside = mixture(*(part.log_prob for part in both.parts), weights=(0.25, 0.75))
    torch.testing.assert_close(outside(grid[:50]), both.log_prob(grid[:50]))


def test_no_x_is_worse_than_the_bound_of_its_parts(both):
    x = 6 * torch.randn(200, 2, generator=seeded())
    bits = torch.stack([part.bits_per_dim(x) for part in both.parts])
    bound = mixture_bound(bits, 2, (0.25, 0.75))
    by_hand = torch.minimum(bits[0] + math.log2(4) / 2, bits[1] + math.log2(4 / 3) / 2)
    torch.testing.assert_close(bound, by_hand)
    gap = bound - both.bits_per_dim(x)
    assert gap.min() > -1e-4 and gap.max() <= 1.0 / 2 + 1e-4  # two parts gain at most one bit


def test_the_posterior_is_bayes_rule(both):
    x = torch.randn(9, 2, generator=seeded())
    posterior = both.posterior(x)
    torch.testing.assert_close(posterior.sum(1), torch.ones(9))
    odds = 0.25 * both.parts[0].log_prob(x).exp() / (0.75 * both.parts[1].log_prob(x).exp())
    torch.testing.assert_close(posterior[:, 0] / posterior[:, 1], odds)


def test_samples_come_from_the_parts_by_their_weights(both):
    x = both.sample(4000, seeded())
    assert both.sample(0, seeded()).shape == (0, 2)
    assert x.shape == (4000, 2) and torch.equal(x, both.sample(4000, seeded()))
    assert not torch.equal(x, both.sample(4000, seeded(1)))
    expected = 0.25 * both.parts[0].sample(8000, seeded(5)).mean(0)
    expected += 0.75 * both.parts[1].sample(8000, seeded(6)).mean(0)
    assert (x.mean(0) - expected).abs().max() < 0.2
    share = both.posterior(x)[:, 0].mean().item()  # Bayes: its mean over q is the weight
    assert abs(share - 0.25) < 0.02


def test_it_is_attacked_like_a_flow_and_its_weights_are_left_alone():
    parts = [glow((3, 8, 8), num_levels=2, num_steps=1, width=8) for _ in range(2)]
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    for part in parts:
        part.initialize(x)
    both = FlowMixture(parts)
    attack = lower_likelihood(both.log_prob, x, LinfBall(4 / 256), num_steps=3)
    assert attack.value.dtype == torch.float64  # scored on a copy in double precision
    assert bool((attack.value > attack.start_value).all())
    assert all(p.grad is None and p.requires_grad for p in both.parameters())
    assert both.num_parameters == 2 * parts[0].num_parameters and both.num_dims == 192
    assert "0.5 0, 0.5 1" in repr(both)


def test_what_is_no_mixture_is_refused():
    flow = plane(0)
    with pytest.raises(ValueError, match="at least one part"):
        FlowMixture([])
    with pytest.raises(TypeError, match="part '1' must be a Flow, got function"):
        FlowMixture([flow, flow.log_prob.__func__])
    with pytest.raises(ValueError, match="one space"):
        FlowMixture([flow, glow((3, 8, 8), num_levels=1, num_steps=1, width=4)])
    for weights in ((0.5, 0.6), (1.0, 0.0), (1.0,)):
        with pytest.raises(ValueError, match="weights must hold 2 positive numbers"):
            FlowMixture([flow, flow], weights)
