"""Bits: floors, ceilings and intervals that can be computed by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_tables import seeded

from flowrob.attacks import dequantization_noise, score_images
from flowrob.evaluation import (
    bits_per_dim,
    bootstrap_interval,
    gibbs_floor,
    mixture,
    paired_difference,
    robustness_table,
    uniform,
    uniform_ceiling,
)
from flowrob.evaluation.bits import _quantile


def test_bits_per_dim_of_the_uniform_density_is_eight():
    x = torch.rand(3, 1, 2, 2, generator=seeded())
    assert torch.equal(bits_per_dim(uniform(x), 4), torch.full((3,), 8.0))
    assert bits_per_dim(torch.tensor(-4 * math.log(2.0)), 4).item() == pytest.approx(9.0)


@pytest.mark.parametrize("eps", [0, 1, 3, 200])
def test_gibbs_floor_is_the_entropy_of_clipped_noise(eps):
    values = torch.tensor([0, 1, 2, 100, 254, 255], dtype=torch.uint8)
    entropies = []
    for value in values.tolist():
        outcomes = (torch.arange(-eps, eps + 1) + value).clamp(0, 255)
        share = outcomes.unique(return_counts=True)[1].double() / len(outcomes)
        entropies.append(-(share * share.log2()).sum())
    expected = torch.stack(entropies).mean().item()
    assert gibbs_floor(eps, values.reshape(1, 1, 2, 3)) == pytest.approx(expected, abs=1e-12)
    grey = torch.full((2, 3), 128, dtype=torch.uint8)
    if eps < 128:
        assert gibbs_floor(eps, grey) == pytest.approx(gibbs_floor(eps), abs=1e-12)
    assert gibbs_floor(eps) == pytest.approx(math.log2(2 * eps + 1))


def test_gibbs_floor_is_reached_by_the_noise_density_itself():
    """The density that is uniform on the noisy versions of one image has exactly the floor."""
    image, eps = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8), 2

    def log_prob(x):
        inside = ((x >= 98 / 256) & (x < 103 / 256)).flatten(1).all(1)
        return torch.where(inside, 4 * math.log(256 / 5), -math.inf)

    nll = []
    for noise in itertools.product(range(-eps, eps + 1), repeat=4):
        levels = (image.int() + torch.tensor(noise).reshape(1, 1, 2, 2)).to(torch.uint8)
        u = dequantization_noise(levels, "midpoint")
        nll.append(bits_per_dim(score_images(log_prob, levels, u), 4))
    assert torch.cat(nll).mean().item() == pytest.approx(gibbs_floor(eps), abs=1e-6)


def test_uniform_ceiling_caps_every_input():
    def absurd(x):
        return torch.full((len(x),), -1e6)

    capped = mixture(absurd, uniform, weights=(0.99, 0.01))
    bits = bits_per_dim(capped(torch.rand(2, 3, 4, 4, generator=seeded())), 48)
    assert torch.allclose(bits, torch.tensor(uniform_ceiling(0.01, 48)))
    assert uniform_ceiling(0.5, 1) == 9.0
    with pytest.raises(ValueError, match=r"weight must lie in \(0, 1\), got 0"):
        uniform_ceiling(0.0, 3)


def test_quantiles_interpolate_and_survive_infinities():
    values = torch.tensor([4.0, 1.0, 2.0, 3.0])
    assert [_quantile(values, q) for q in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.75, 2.5, 4.0]
    heavy = torch.tensor([1.0, math.inf, 2.0])
    assert [_quantile(heavy, q) for q in (0.5, 0.75, 1.0)] == [2.0, math.inf, math.inf]
    assert _quantile(torch.tensor([math.inf, math.inf]), 0.5) == math.inf


def test_images_that_belong_together_are_resampled_together():
    """Ten copies of each of forty values are worth forty values, not four hundred."""
    few = torch.randn(40, generator=seeded(), dtype=torch.float64)
    copies, groups = few.repeat_interleave(10), torch.arange(40).repeat_interleave(10)
    low, high = bootstrap_interval(copies, seeded(), 4000, groups=groups)
    assert (low, high) == pytest.approx(bootstrap_interval(few, seeded(), 4000))
    naive = bootstrap_interval(copies, seeded(), 4000)
    assert high - low > 2.5 * (naive[1] - naive[0])
    assert bootstrap_interval(copies, seeded(), 50, groups=groups + 7) == pytest.approx(
        bootstrap_interval(copies, seeded(), 50, groups=groups)
    )
    # groups of different sizes weigh by their images: the mean is that of images
    values, sizes = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 1, 1, 1])
    means = {0.0, 0.75, 1.0}
    found = {v for s in range(9) for v in bootstrap_interval(values, seeded(s), 1, groups=sizes)}
    assert found <= means and 0.75 in found


@pytest.mark.parametrize("wrong", [torch.zeros(3, dtype=torch.int64), torch.zeros(5)])
def test_groups_are_one_integer_per_image(wrong):
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="groups must hold one integer per image, 5, got"):
        robustness_table(lambda x: -x.flatten(1).sum(1), images, generator=seeded(), groups=wrong)


def test_bootstrap_interval_has_the_width_of_the_standard_error():
    values = torch.randn(400, generator=seeded()).double()
    low, high = bootstrap_interval(values, seeded(), 4000)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert bootstrap_interval(values, seeded(), 4000) == (low, high)
    assert bootstrap_interval(torch.full((5,), 3.0), seeded()) == (3.0, 3.0)
    wide = bootstrap_interval(values, seeded(), 4000, level=0.999)
    assert wide[0] < low
    assert wide[1] > high


def test_a_paired_difference_is_surer_than_the_means_it_is_made_of():
    """The same images under two densities: what they share drops out."""
    image = 3.0 * torch.randn(200, generator=seeded())
    first, second = image + 0.1, image + 0.01 * torch.randn(200, generator=seeded(1))
    found = paired_difference(first, second, seeded())
    assert found["mean"] == pytest.approx((first - second).mean().item())
    assert found["low"] < found["mean"] < found["high"] and found["low"] > 0.09
    low, _ = bootstrap_interval(first, seeded())
    _, high = bootstrap_interval(second, seeded())
    assert low < high  # those of the means overlap
    flipped = paired_difference(second, first, seeded())
    assert (flipped["low"], flipped["high"]) == pytest.approx((-found["high"], -found["low"]))
    groups = torch.arange(200) // 50
    wider = paired_difference(first, second, seeded(), groups=groups)
    assert wider["mean"] == found["mean"] and wider["low"] != found["low"]


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_a_paired_difference_needs_the_same_images(shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="same images, got shapes"):
        paired_difference(first, second, seeded())
