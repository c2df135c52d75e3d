"""Defences without training: normalised densities, bounded by their parts, the best base chosen."""

from __future__ import annotations

import math

import pytest
import torch
from small_tables import bump, seeded

from flowrob.attacks.objectives import Negative, in_double
from flowrob.evaluation import choose_base, mixture, rebased, robustness_table, uniform
from flowrob.linear import GaussianFlow


def test_mixture_is_never_much_worse_than_either_part(flow, images):
    x = (images + 0.5) / 256
    other = GaussianFlow.fit(torch.rand(500, 192, generator=seeded()).double())

    def log_prob(y):
        return other.log_prob(y.flatten(1).double())

    a, b = flow.log_prob(x).double(), log_prob(x)
    both = mixture(flow.log_prob, log_prob, weights=(0.75, 0.25))(x)
    exact = torch.log(0.75 * (a - a).exp() + 0.25 * (b - a).exp()) + a
    exact = torch.where(exact.isfinite(), exact, torch.maximum(a, b + math.log(0.25)))
    assert torch.allclose(both, exact, rtol=1e-6)
    assert bool((both >= a + math.log(0.75) - 1e-4).all())
    assert bool((both >= b + math.log(0.25) - 1e-4).all())
    for wrong in ((1.0, 0.0), (0.5, 0.6), (1.0,)):
        with pytest.raises(ValueError, match=r"weights must hold 2 positive numbers"):
            mixture(flow.log_prob, log_prob, weights=wrong)
    with pytest.raises(ValueError, match="at least one part"):
        mixture()
    negative = Negative(mixture(flow.log_prob, uniform))
    assert bool((negative(x) <= math.log(2) + 1e-6).all())


@pytest.mark.parametrize("scale, degrees", [(1.0, math.inf), (1.7, math.inf), (1.0, 3.0), (2.0, 1)])
def test_a_rebased_flow_has_the_density_of_its_base(flow, scale, degrees):
    x = torch.rand(4, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    density = in_double(rebased(flow, scale, degrees))
    if degrees == math.inf:
        base = torch.distributions.Normal(0.0, scale)
    else:
        base = torch.distributions.StudentT(float(degrees), 0.0, scale)
    z, log_det = density.flow.bijection(x)
    expected = base.log_prob(z.flatten(1)).sum(1) + log_det
    torch.testing.assert_close(density(x), expected)
    if scale == 1.0 and degrees == math.inf:
        torch.testing.assert_close(density(x), in_double(flow.log_prob)(x))


def test_rebased_refuses_what_is_no_base(flow):
    with pytest.raises(TypeError, match=r"flow must be a flowrob\.flows\.Flow, got function"):
        rebased(bump(1.0))
    for wrong in ({"scale": 0.0}, {"scale": math.inf}, {"degrees": -1.0}, {"degrees": math.nan}):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            rebased(flow, **wrong)


BASES = {"scale": (0.5, 1.0, 2.0, 4.0), "degrees": (1.0, 5.0, math.inf)}


@pytest.mark.parametrize("parameter", BASES)
def test_the_best_base_is_chosen_by_clean_and_attacked_bits(flow, images, parameter):
    chosen = choose_base(flow, parameter, BASES[parameter], images, 4, seed=3)
    scores = {}
    for value in BASES[parameter]:
        density = rebased(flow, **{parameter: value})
        table = robustness_table(density, images, [0, 4], generator=seeded(3))
        clean, attacked = (table.by_eps().mean(1)).tolist()
        scores[value] = 0.5 * (clean + attacked)
        (entry,) = (e for e in chosen.tried if e[parameter] == value)
        assert entry["clean"] == pytest.approx(clean, rel=1e-12)
        assert entry["half and half"] == pytest.approx(scores[value], rel=1e-12)
    assert chosen.value == min(scores, key=scores.get)
    assert len(set(scores.values())) == len(scores)
    assert chosen.density == rebased(flow, **{parameter: chosen.value})
    assert chosen.record() == {
        parameter: chosen.value, "num_images": 6, "eps": 4, "tried": chosen.tried
    }  # fmt: skip
    twice = choose_base(flow, parameter, BASES[parameter], images, 4, seed=3)
    assert twice.tried == chosen.tried


def test_no_base_is_chosen_by_an_unknown_parameter_or_from_no_values(flow, images):
    for parameter, values in (("width", (1.0,)), ("Scale", (1.0,)), ("scale", ())):
        with pytest.raises(ValueError, match=r'parameter must be "scale" or "degrees" and values'):
            choose_base(flow, parameter, values, images)
    with pytest.raises(ValueError, match="scale must be positive"):
        choose_base(flow, "scale", (-1.0,), images)
    with pytest.raises(TypeError, match=r"flow must be a flowrob\.flows\.Flow"):
        choose_base(flow.log_prob, "scale", (1.0,), images)
