"""Scores: typicality by hand and under attack, and the codec that corrects for complexity."""

from __future__ import annotations

import math

import pytest
import torch
from small_tables import seeded

from flowrob.attacks import LinfBall, pgd
from flowrob.attacks.objectives import Negative, in_double
from flowrob.evaluation import codec_bits, complexity_corrected, typicality
from flowrob.flows import glow

NOISE = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=seeded())
FLAT = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)


def by_bits(x):
    """log p such that an image's bits/dim are its mean value."""
    return -math.log(2.0) * (x.mean(1) - 8) * x.shape[1]


def test_typicality_is_far_on_either_side():
    score = typicality(by_bits, 4.0)
    assert score(torch.tensor([[1.0, 2.0], [4.0, 4.0], [9.0, 9.0]])).tolist() == pytest.approx(
        [2.5, 0.0, 5.0]
    )


def test_attacks_make_the_typical_atypical_and_back():
    score, x = typicality(by_bits, 4.0), torch.tensor([[4.5, 4.5], [1.0, 1.0]])
    up = pgd(score, x, LinfBall(0.5), num_steps=10, box=None)
    down = pgd(Negative(score), x, LinfBall(0.5), num_steps=10, box=None)
    assert up.value.tolist() == pytest.approx([1.0, 3.5])
    assert (-down.value).tolist() == pytest.approx([0.0, 2.5], abs=0.05)


def test_typicality_is_scored_in_double():
    flow = glow((3, 8, 8), num_levels=1, num_steps=1, width=4)
    score = typicality(flow.log_prob, 4.0)
    assert in_double(score).log_prob.__self__ is not flow


@pytest.mark.parametrize("mean", [math.nan, math.inf])
def test_the_mean_is_a_number(mean):
    with pytest.raises(ValueError, match="mean"):
        typicality(by_bits, mean)
    with pytest.raises(TypeError, match="callable"):
        typicality(4.0, 4.0)


def test_the_codec_knows_noise_from_nothing():
    assert (codec_bits(FLAT) < 0.3).all(), "the header is left out"
    assert (codec_bits(NOISE) > 7.9).all() and (codec_bits(NOISE) < 8.5).all()
    ramp = torch.arange(0, 256, 16, dtype=torch.uint8).expand(1, 1, 16, 16)
    assert codec_bits(ramp).item() < 1.0 and codec_bits(ramp).dtype == torch.float64
    with pytest.raises(TypeError, match="uint8"):
        codec_bits(NOISE.float())
    with pytest.raises(ValueError, match="1 or 3"):
        codec_bits(NOISE[:, :2])


def test_the_correction_takes_the_codec_off():
    images = torch.cat((NOISE, FLAT))
    bits = torch.tensor([9.0, 9.0, 1.0, 1.0])
    corrected = complexity_corrected(bits, images)
    assert torch.equal(corrected, bits.double() - codec_bits(images))
    assert corrected[0] < 1.5 and corrected[2] > 0.5
    with pytest.raises(ValueError, match="for 4 images"):
        complexity_corrected(bits[:2], images)
