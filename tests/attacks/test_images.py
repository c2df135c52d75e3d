"""8-bit images: what the attack returns is an image, and fresh noise confirms it."""

from __future__ import annotations

import pytest
import torch
from small_attacks import seeded

from flowrob.attacks import (
    L2Ball,
    LinfBall,
    attack_images,
    dequantization_noise,
    lower_likelihood,
    score_images,
)
from flowrob.attacks.images import OverNoise
from flowrob.units import quantize


def test_over_noise_is_the_mean_over_its_draws(flow, images):
    noise = dequantization_noise(images, "expected", seeded(), num_draws=3)
    assert noise.shape == (3, *images.shape)
    mean = torch.stack([flow.log_prob((images + u) / 256) for u in noise]).mean(0)
    assert torch.allclose(OverNoise(flow.log_prob, noise)(images.float()), mean, rtol=1e-5)
    part = OverNoise(flow.log_prob, noise).rows(slice(2, 4))
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


def test_uint8_images_are_pointed_to_their_own_attack(flow, images):
    with pytest.raises(TypeError, match="attack_images"):
        lower_likelihood(flow.log_prob, images, LinfBall(0.1))
    with pytest.raises(TypeError, match="uint8"):
        attack_images(flow.log_prob, images.float(), 1, generator=seeded())
    with pytest.raises(ValueError, match="eps >= 1"):
        attack_images(flow.log_prob, images, 0.5, quantize=True, generator=seeded())
