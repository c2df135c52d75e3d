"""Starts: the inputs of an attack, checked, and the random numbers of every sample.

Each sample has a seed of its own, so that its random starts do not depend on how a batch is cut.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from flowrob.attacks.balls import Box, check_box
from flowrob.units import check_dense


def check_start(x: Tensor, box: Box) -> Tensor:
    """x without its graph, if it can be attacked.

    Raises:
        TypeError: x is no float32 or float64 tensor, or box is none.
        ValueError: x is no batch, holds samples without numbers, is not finite, or outside the box.
    """
    check_box(box)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"x must be a floating-point tensor, got {kind}; attack uint8 images with "
            "flowrob.attacks.attack_images, or turn them into x with flowrob.units.dequantize"
        )
    if x.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"x is {x.dtype}, too coarse to stay in a ball: pass x.float(); a model in that "
            "precision becomes lambda x: log_prob(x.to(dtype))"
        )
    if x.dim() < 2:
        raise ValueError(
            f"x must have shape (batch, ...), got {tuple(x.shape)}; "
            "use x[None] for one sample, x[:, None] for one number per sample"
        )
    check_dense(x)
    if len(x) and not x.numel():
        raise ValueError(f"x must hold numbers, got shape {tuple(x.shape)}")
    x = x.detach()
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite; remove the samples that hold infinities or NaN")
    if box is not None and x.numel() and not bool(((x >= box[0]) & (x <= box[1])).all()):
        raise ValueError(
            f"x must lie in the box [{box[0]}, {box[1]}], got values from {x.min():.4g} to "
            f"{x.max():.4g}; rescale x, or pass box=None for data that are not images"
        )
    return x


def check_counts(**counts: int | None) -> None:
    """Raise a ValueError unless every number given is a positive integer, or no batch_size."""
    for name, number in counts.items():
        if number is None and name == "batch_size":  # all at once
            continue
        if number is None or not _is_integer(number) or number < 1:
            raise ValueError(f"{name} must be a positive integer, got {number!r}")


def check_integers(least: int, **numbers: int) -> None:
    """Raise unless every number given is an integer and at least ``least``.

    Raises:
        TypeError: no integer.
        ValueError: a smaller one.
    """
    for name, number in numbers.items():
        if not _is_integer(number):
            raise TypeError(f"{name} must be an integer, got {number!r}")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")


def check_generator(generator: torch.Generator) -> None:
    """Raise a TypeError unless this is a generator: nothing is drawn from torch's global one."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be torch.Generator().manual_seed(...), got {generator!r}")


def _is_integer(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def sample_seeds(num: int, restarts: int, generator: torch.Generator | None) -> Tensor:
    """One seed per sample and restart, shape (num, restarts)."""
    if generator is None:
        raise ValueError("random starts need generator=torch.Generator().manual_seed(...)")
    check_generator(generator)
    size = (num, restarts)
    return torch.randint(2**62, size, generator=generator, device=generator.device).cpu()


def random_rows(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform noise in [0, 1), shape (batch, *shape), every sample's from its own seed."""
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def slices(num: int, batch_size: int | None) -> list[slice]:
    """A batch of ``num`` samples cut into batches of at most ``batch_size``."""
    size = batch_size or max(num, 1)
    return [slice(i, min(i + size, num)) for i in range(0, max(num, 1), size)]
