"""Units: noise keeps grey levels, midpoints too, and quantize undoes both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowrob import data, units

LEVELS = torch.arange(256, dtype=torch.uint8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Extreme:
    """Stands in for torch.rand: always its largest value in float32."""

    def __call__(self, shape, generator, device):
        return torch.full(shape, 1 - 2**-24, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantize_keeps_every_grey_level(dtype):
    images = LEVELS.repeat(4000, 1)  # plain float32 noise would round up about five of these
    x = units.dequantize(images, seeded(), dtype=dtype)
    assert x.dtype == dtype and x.shape == images.shape
    assert x.min() >= 0 and x.max() < 1
    assert (x * 256).floor().to(torch.uint8).equal(images)
    assert units.quantize(x).equal(images)


def test_dequantize_survives_the_largest_noise(monkeypatch):
    monkeypatch.setattr(torch, "rand", Extreme())
    x = units.dequantize(LEVELS, seeded())
    assert (x * 256).equal(LEVELS + (1 - 2**-16))
    assert units.quantize(x).equal(LEVELS) and x.max() < 1


def test_dequantize_noise_is_uniform_within_a_level_and_independent():
    images = LEVELS.repeat(2000, 1)
    u = units.dequantize(images, seeded(), dtype=torch.float64) * 256 - images
    assert u.min() >= 0 and u.max() < 1
    count = u.numel()
    histogram = torch.histc(u, 20, 0, 1)
    chi2 = ((histogram - count / 20) ** 2 / (count / 20)).sum()
    assert chi2 < 50  # 19 degrees of freedom: probability 1e-4, and the seed is fixed
    assert abs(u.mean() - 0.5) < 4 / (12 * count) ** 0.5
    assert abs(u.var() - 1 / 12) < 1e-3
    assert abs((u[:, 1:] * u[:, :-1]).mean() - 0.25) < 2e-3


def test_dequantize_is_a_function_of_images_and_generator():
    images = data.load("photos", split="test", size=8, limit=16)
    before = images.clone()
    x = units.dequantize(images, seeded(3))
    assert images.equal(before)
    assert units.dequantize(images, seeded(3)).equal(x)
    assert not units.dequantize(images, seeded(4)).equal(x)
    assert units.dequantize(images, seeded(3), dtype=torch.float64).equal(x.double())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    units.dequantize(images, seeded(3))
    assert torch.get_rng_state().equal(state)  # the global generator is never touched


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_noise_on_the_gpu():
    images = LEVELS.repeat(10, 1)
    x = units.dequantize(images.cuda(), seeded())
    assert x.is_cuda and x.cpu().equal(units.dequantize(images, seeded()))
    on_gpu = units.dequantize(images.cuda(), torch.Generator("cuda").manual_seed(0))
    assert units.quantize(on_gpu).cpu().equal(images)
    assert units.midpoint(images.cuda()).cpu().equal(units.midpoint(images))


def test_midpoint_is_the_middle_of_the_level():
    assert units.midpoint(LEVELS).mul(256).equal(LEVELS + 0.5)
    assert units.quantize(units.midpoint(LEVELS)).equal(LEVELS)
    assert units.midpoint(LEVELS, dtype=torch.float64).dtype == torch.float64


def test_quantize_takes_the_closed_interval():
    assert units.quantize(torch.tensor([0.0, 1 / 256 - 1e-9, 1 / 256, 1.0])).tolist() == [
        0,
        0,
        1,
        255,
    ]
    for bad in (-1e-6, 1.001, float("nan")):
        with pytest.raises(ValueError, match=r"1 of 2 values lie outside \[0, 1\]"):
            units.quantize(torch.tensor([0.5, bad]))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        units.quantize(torch.tensor([1]))


def test_dequantize_rejects_what_is_not_a_grey_level():
    with pytest.raises(TypeError, match=r"uint8.*float32"):
        units.dequantize(torch.zeros(2), seeded())
    with pytest.raises(TypeError, match=r"uint8.*ndarray"):
        units.midpoint(np.zeros(2, np.uint8))
    for missing in (None, 0):
        with pytest.raises(TypeError, match=r"generator=.*manual_seed"):
            units.dequantize(LEVELS, missing)
    with pytest.raises(TypeError, match="float16"):
        units.dequantize(LEVELS, seeded(), dtype=torch.float16)
