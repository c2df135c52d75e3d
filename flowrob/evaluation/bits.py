"""Bits/dim: floors and ceilings that hold for every density, and the numbers of a row (section 5).

    bits/dim = -log2 p(x) / D + 8        floor: log2(2 eps + 1)        ceiling: 8 - log2(w) / D

Every image counts: infinite values stay in the mean and are counted beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from flowrob._checks import checked
from flowrob.attacks.starts import check_generator, check_integers
from flowrob.units import bits_per_dim, check_dense, check_images, check_number


def gibbs_floor(eps: int, images: Tensor | None = None) -> float:
    """No density gives noisy images fewer bits/dim, on average over the noise: log2(2 eps + 1).

    The noise is uniform on the integers {-eps, ..., eps}, independent per pixel. The bound is its
    entropy (Gibbs' inequality), so it holds for every normalised density, even one trained on
    these very images. The worst image of the ball is worse than the average one: the floor bounds
    the optimal attack too.

    Args:
        eps: grey levels.
        images: (N, C, H, W) uint8. If given, the noisy images are clipped to 0..255, which takes
            entropy from pixels near the ends; the mean over pixels and images is returned.

    Raises:
        ValueError: eps is not an integer in 0..255.
        TypeError: images are not uint8.

    >>> [round(gibbs_floor(eps), 2) for eps in (0, 1, 2, 4, 8)]
    [0.0, 1.58, 2.32, 3.17, 4.09]
    """
    check_number(eps=eps)
    if not 0 <= eps <= 255 or eps != int(eps):
        raise ValueError(f"eps must be an integer number of grey levels in 0..255, got {eps}")
    count = 2 * int(eps) + 1
    if images is None:
        return math.log2(count)
    check_images(images)
    level = torch.arange(256, dtype=torch.float64, device=images.device)
    at_ends = (eps + 1 - torch.stack((level, 255 - level))).clamp(min=1)  # outcomes that merge
    entropy = math.log2(count) - (at_ends * at_ends.log2()).sum(0) / count
    return entropy[images.long()].mean().item()


def uniform_ceiling(weight: float, num_dims: int) -> float:
    """With a uniform density mixed in at weight w, no x has more bits/dim than 8 + log2(1/w) / D.

    The certificate for ``mixture(flow.log_prob, uniform, weights=(1 - w, w))``, which costs every x
    of the flow's own at most log2(1/(1 - w)) / D bits/dim.

    >>> round(uniform_ceiling(0.01, 3072), 4)
    8.0022
    """
    check_number(weight=weight)
    check_integers(1, num_dims=num_dims)
    if not 0.0 < weight < 1.0:
        raise ValueError(f"weight must lie in (0, 1), got {weight}")
    return 8.0 - math.log2(weight) / num_dims


def _quantile(values: Tensor, share: float) -> float:
    """Linear interpolation between order statistics, also where some are infinite (NaN: last)."""
    ordered, place = values.sort().values, share * (len(values) - 1)
    low, high = ordered[math.floor(place)].item(), ordered[math.ceil(place)].item()
    part = place - math.floor(place)
    return low if low == high or part == 0.0 else (1.0 - part) * low + part * high


def bootstrap_interval(
    values: Tensor,
    generator: torch.Generator,
    num_resamples: int = 1000,
    level: float = 0.95,
    groups: Tensor | None = None,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: resample images, average, take quantiles.

    With few images and a heavy tail it is too narrow, as every interval is that has not seen the
    tail; read the median beside it. Images that belong together, such as overlapping crops, are
    resampled together (cluster bootstrap), or it is too narrow for that reason as well.

    Args:
        values: (N,).
        generator: draws the resamples.
        num_resamples: how many.
        level: of confidence, in (0, 1).
        groups: (N,) integers, alike for images that belong together; default: each by itself.

    Raises:
        ValueError: no values, another shape, a level outside (0, 1), or num_resamples below 1.
        TypeError: an argument of another kind.
    """
    check_dense(values, "values")
    if not values.is_floating_point():
        raise TypeError(f"values must be floating point, got {values.dtype}")
    if values.dim() != 1 or not len(values):
        raise ValueError(f"values must have shape (N,), N >= 1, got {tuple(values.shape)}")
    check_generator(generator)
    check_integers(1, num_resamples=num_resamples)
    check_number(level=level)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    groups = check_groups(groups, values)
    groups = torch.arange(len(values)) if groups is None else groups.cpu()
    _, group = groups.unique(return_inverse=True)
    count = int(group.max()) + 1
    size = (num_resamples, count)
    chosen = torch.randint(count, size, generator=generator, device=generator.device).cpu()
    sums, sizes = values.new_zeros(count), torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, group.to(values.device), values)
    sizes.index_add_(0, group, torch.ones(len(group), dtype=torch.float64))
    means = sums[chosen.to(sums.device)].sum(1) / sizes[chosen].sum(1).to(sums)
    return _quantile(means, 0.5 - 0.5 * level), _quantile(means, 0.5 + 0.5 * level)


@checked
def paired_difference(
    first: Tensor,
    second: Tensor,
    generator: torch.Generator,
    num_resamples: int = 1000,
    groups: Tensor | None = None,
) -> dict[str, float]:
    """The mean of first - second, image by image, with its 95% bootstrap interval.

    Two densities on the same images differ far less from image to image than either does: so a
    difference of two means may be sure where the intervals of the means overlap.

    Args:
        first: (N,), for example bits/dim of images under attack.
        second: (N,), of the same images under another density.
        generator: draws the resamples.
        num_resamples: how many.
        groups: as for :func:`bootstrap_interval`.

    Returns:
        ``mean``, ``low``, ``high``.

    Raises:
        ValueError: two different numbers of values, or none.

    >>> bits = torch.tensor([5.0, 6.0, 7.0])
    >>> paired_difference(bits, bits - 1.0, torch.Generator().manual_seed(0))
    {'mean': 1.0, 'low': 1.0, 'high': 1.0}
    """
    if first.shape != second.shape or first.dim() != 1 or not len(first):
        raise ValueError(
            "first and second must hold one number for each of the same images, got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    difference = first - second
    low, high = bootstrap_interval(difference, generator, num_resamples, groups=groups)
    return {"mean": difference.mean().item(), "low": low, "high": high}


def mixed_mean(bits: Tensor, weight: float, num_dims: int) -> float:
    """Mean of ``bits``, bits/dim per image, once a uniform density is mixed in at ``weight``."""
    nats = (8.0 - bits) * num_dims * math.log(2.0)
    uniform_part = torch.full_like(nats, math.log(weight))
    mixed = torch.logaddexp(nats + math.log1p(-weight), uniform_part)
    return bits_per_dim(mixed, num_dims).mean().item()


def summary(
    values: Tensor, generator: torch.Generator, num_resamples: int, groups: Tensor | None = None
) -> dict:
    """Mean with its 95% bootstrap interval, median, quartiles, number of non-finite values."""
    low, high = bootstrap_interval(values, generator, num_resamples, groups=groups)
    return {
        "mean": values.mean().item(),
        "low": low,
        "high": high,
        "median": _quantile(values, 0.5),
        "q25": _quantile(values, 0.25),
        "q75": _quantile(values, 0.75),
        "nonfinite": int((~values.isfinite()).sum()),
    }


def check_groups(groups: Tensor | None, images: Tensor) -> Tensor | None:
    """One integer per image, or None.

    Raises:
        ValueError: another shape, or no integers.
    """
    if groups is None:
        return None
    try:
        groups = torch.as_tensor(groups)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"groups must hold one integer per image, got {groups!r}") from error
    check_dense(groups, "groups")
    wrong = groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool
    if groups.shape != images.shape[:1] or wrong:
        raise ValueError(
            f"groups must hold one integer per image, {len(images)}, got {groups.dtype} of shape "
            f"{tuple(groups.shape)}"
        )
    return groups


def integer_noise(images: Tensor, eps: int, generator: torch.Generator) -> Tensor:
    """8-bit images plus uniform integers of {-eps..eps}, clipped to 0..255."""
    size = tuple(images.shape)
    noise = torch.randint(-eps, eps + 1, size, generator=generator, device=generator.device)
    return (images.int() + noise.to(images.device)).clamp(0, 255).to(torch.uint8)


def check_eps(eps: Iterable[int]) -> list[int]:
    """The radii in ascending order, each once.

    Raises:
        ValueError: none, or one that is no integer in 0..255.
    """
    if not isinstance(eps, Iterable):
        raise TypeError(f"eps must hold grey levels, such as (0, 8), got {eps!r}")
    eps = list(eps)
    for e in eps:
        check_number(eps=e)
    if not eps or any(not 0 <= e <= 255 or e != int(e) for e in eps):
        raise ValueError(f"eps must hold integers in 0..255 (grey levels), got {eps}")
    return sorted({int(e) for e in eps})
