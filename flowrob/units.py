"""Units: grey levels and x, nats and bits/dim (section 5).

    x = (u8 + u) / 256,   u ~ Uniform[0, 1),      bits/dim = -log2 p(x) / D + 8

An image is a uint8 tensor of grey levels; a density is one of real numbers x in [0, 1), in nats per
unit of x. The noise u turns the one into the other, here and nowhere else. One grey level is 1/256
in units of x, so the paper's eps is ``radius = eps / 256``.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from flowrob._checks import checked


@checked
def bits_per_dim(log_prob: Tensor, num_dims: int) -> Tensor:
    """Negative log-likelihood per dimension of 8-bit data: -log2 p(x) / D + 8.

    The 8 turns the density of x in [0, 1] into the probability of a grey level of width 1/256.

    Args:
        log_prob: log-densities in nats, per unit of x.
        num_dims: D.

    Returns:
        Bits/dim, same shape; lower is more likely.

    >>> bits_per_dim(torch.tensor([0.0]), 12)
    tensor([8.])
    """
    return 8.0 - log_prob / (num_dims * math.log(2.0))


def dequantize(
    images: Tensor, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """x = (u8 + u) / 256 with u uniform on {0, 1, ..., 65535} / 65536.

    This grid makes x exact in float32: x < 1 and floor(256 x) = u8 for every grey level, and
    float64 holds the same numbers. (Plain float32 noise rounds 255 + u up to 256 once in 2^17
    draws.) It shifts the mean by 2^-17 of a grey level.

    Source: section 5; Theis, van den Oord and Bethge, "A note on the evaluation of generative
    models", 2016, section 3.1.

    Args:
        images: uint8, any shape, any device.
        generator: the only source of randomness. Noise is drawn on its device and then moved, so
            that a CPU generator gives the same x everywhere.
        dtype: torch.float32 or torch.float64.

    Returns:
        x in [0, 1), with the shape and device of ``images``.

    Raises:
        TypeError: not uint8, not a torch.Generator, or a dtype too coarse for the noise.

    >>> black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    >>> quantize(dequantize(black, torch.Generator().manual_seed(0))).equal(black)
    True
    """
    _check_levels(images, dtype)
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator={generator!r}: pass torch.Generator().manual_seed(0), or call midpoint() "
            "for x without noise"
        )
    noise = torch.rand(images.shape, generator=generator, device=generator.device)
    noise = noise.mul_(2**16).floor_().div_(2**16).to(images.device, dtype)
    return noise.add_(images).div_(256)


def midpoint(images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """x = (u8 + 1/2) / 256: :func:`dequantize` with u = 1/2. Args and errors as there.

    >>> midpoint(torch.tensor([0, 255], dtype=torch.uint8)) * 256
    tensor([  0.5000, 255.5000])
    """
    _check_levels(images, dtype)
    return images.to(dtype).add_(0.5).div_(256)


def quantize(x: Tensor) -> Tensor:
    """u8 = min(floor(256 x), 255): undoes :func:`dequantize` and :func:`midpoint`.

    Args:
        x: floating point in [0, 1]; the end 1, which attacks reach, is grey level 255.

    Returns:
        uint8, with the shape and device of ``x``.

    Raises:
        TypeError: x is not floating point.
        ValueError: values outside [0, 1], or NaN.

    >>> quantize(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    check_dense(x)
    if not x.is_floating_point():
        raise TypeError(f"x: expected a floating-point tensor, got {_kind(x)}")
    outside = ~((x >= 0) & (x <= 1))  # True for NaN
    if outside.any():
        raise ValueError(
            f"x: {int(outside.sum())} of {x.numel()} values lie outside [0, 1], the first is "
            f"{x[outside][0].item()}; clamp x first"
        )
    return (x * 256).floor().clamp(max=255).to(torch.uint8)


def check_dense(x: Tensor, name: str = "x") -> None:
    """Raise a TypeError unless ``x`` is a tensor that holds its numbers one by one, in memory."""
    if not torch.is_tensor(x):
        raise TypeError(f"{name}: expected a tensor, got {_kind(x)}")
    if x.layout != torch.strided or x.is_quantized or x.is_meta:
        raise TypeError(
            f"{name}: expected a dense tensor, got layout {x.layout} on {x.device}; pass "
            f"{name}.to_dense(), on a device that holds numbers"
        )


def check_number(**numbers: float) -> None:
    """Raise a TypeError unless each is a real number (no tensor, no bool)."""
    for name, number in numbers.items():
        if not isinstance(number, Real) or isinstance(number, bool):
            raise TypeError(f"{name} must be a number, got {number!r}")


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise unless ``images`` is a uint8 tensor that holds at least one image.

    Raises:
        TypeError: no uint8 tensor.
        ValueError: it is empty, or no batch.
    """
    if not torch.is_tensor(images) or images.dtype != torch.uint8:
        raise TypeError(
            f"{name} must be a uint8 tensor of grey levels (N, C, H, W), got {_kind(images)}"
        )
    check_dense(images, name)
    if images.dim() < 2:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {tuple(images.shape)}")
    if not images.numel():
        raise ValueError(f"{name} is empty; pass at least one image")


def _check_levels(images: Tensor, dtype: torch.dtype) -> None:
    if not torch.is_tensor(images) or images.dtype != torch.uint8:
        raise TypeError(f"images: expected a uint8 tensor of grey levels, got {_kind(images)}")
    check_dense(images, "images")
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype={dtype}: must be torch.float32 or torch.float64 to hold the noise")


def _kind(value: object) -> str:
    return f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip()
