"""Certificates: bounds on a smoothed likelihood that no attack can break (beyond the paper).

    h(x) = median of NLL(x + noise),  noise ~ N(0, sigma^2 I)
    |delta|_2 <= eps   =>   q_{Phi(-eps/sigma)}(x) <= h(x + delta) <= q_{Phi(eps/sigma)}(x)

with q_p(x) the p-quantile of NLL(x + noise). The bound is proved for h, another score than the NLL
itself, and for l_2 balls. The quantiles are not known but sampled: order statistics bound them with
a confidence that is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from scipy.stats import binom, norm
from torch import Tensor

from flowrob._checks import checked, numbers
from flowrob.attacks import Objective
from flowrob.attacks.balls import Box, check_box, clip
from flowrob.attacks.objectives import check_callable, evaluate, fitted, frozen, unsteady
from flowrob.attacks.starts import check_generator, check_integers, check_start, slices
from flowrob.units import bits_per_dim, check_number


@dataclass(frozen=True)
class Certificate:
    """What :func:`certify_median` proved, in bits/dim.

    Attributes:
        eps: (E,), l_2 radii in units of x.
        median: (N,), the sampled median of the NLL under noise: an estimate, not a bound.
        lower: (E, N), below which no ``|delta|_2 <= eps`` takes the true median.
        upper: (E, N), above which none takes it.
        sigma: of the noise, in units of x.
        confidence: with which one entry of lower, or of upper, is right.
        num_samples: draws of noise per image.
        nan: how many of all scores were NaN, and counted as +inf.
        warnings: sentences about what looks wrong and what to do, empty if nothing does.
    """

    eps: Tensor
    median: Tensor
    lower: Tensor
    upper: Tensor
    sigma: float
    confidence: float
    num_samples: int
    nan: int
    warnings: list[str] = field(default_factory=list)


def certify_median(
    log_prob: Objective,
    x: Tensor,
    sigma: float,
    eps: float | Iterable[float],
    *,
    num_samples: int = 1000,
    confidence: float = 0.99,
    generator: torch.Generator,
    box: Box = None,
    batch_size: int = 64,
) -> Certificate:
    """Bounds on the median bits/dim under Gaussian noise, for all perturbations within eps:

        q_{Phi(-eps/sigma)}(x) <= median of NLL(x + delta + noise) <= q_{Phi(eps/sigma)}(x)

    The unknown quantile q_p is replaced by the k-th smallest of n samples, with the least k for
    which P(at least k of n samples fall below q_p) <= 1 - confidence, a binomial tail
    (:func:`order_statistic`). Each single bound is right with this confidence; for all of N images
    at E radii at once ask for 1 - (1 - confidence) / (N E).

    Noise leads out of [0, 1]. A density on the whole space, such as Glow's, is asked there as
    anywhere; one that is zero outside, such as RealNVP's behind its logit, counts as NLL = +inf,
    and so may the bound. With a ``box`` noisy images are clipped to it first, which is the
    same theorem for x -> NLL(clip(x)). NaN counts as +inf.

    Source: not in the paper; Chiang et al., *Detection as Regression: Certified Object Detection
    by Median Smoothing* (NeurIPS 2020).

    Args:
        log_prob: maps (batch, ...) to (batch,) log-densities in nats; any library's.
        x: (N, ...), of floating point.
        sigma: standard deviation of the noise, in units of x.
        eps: l_2 radii in units of x, one or several.
        num_samples: n, draws of noise per image.
        confidence: of each single bound, between 0 and 1.
        generator: draws the noise.
        box: what noisy images are clipped to, or None.
        batch_size: noisy images at a time.

    Returns:
        A :class:`Certificate`.

    Raises:
        TypeError: x is not of floating point, or sigma no number.
        ValueError: sigma that is not positive, a negative radius, a confidence outside (0, 1), no
            images, or too few samples for the largest radius (with how many it takes).

    >>> normal = lambda x: -0.5 * x.square().sum(1) - math.log(2 * math.pi)
    >>> found = certify_median(normal, torch.zeros(1, 2), 0.5, (0.0, 0.5),
    ...                        generator=torch.Generator().manual_seed(0))
    >>> bool(found.lower[1] < found.median < found.upper[1])
    True
    """
    check_callable(log_prob)
    check_generator(generator)
    check_integers(1, num_samples=num_samples, batch_size=batch_size)
    check_box(box)
    x = check_start(x, None)
    if not len(x) or not x[0].numel():
        raise ValueError(f"x holds no images, its shape is {tuple(x.shape)}")
    radii, ratios = _ratios(sigma, eps)
    ranks = [order_statistic(p, num_samples, confidence) for p in norm.cdf(ratios).tolist()]
    warnings = unsteady(log_prob)
    with frozen(log_prob):
        target, cast = fitted(log_prob, x)
        nll = torch.stack([_noisy(target, point, num_samples, sigma, box, generator, batch_size)
                           for point in x])  # fmt: skip
    nan = int(nll.isnan().sum())
    if nan:
        warnings.append(
            f"{nan} of {nll.numel()} scores are NaN, and count as +inf: the bounds hold for that "
            "score; look for what the model cannot take, or clip the noise with a box"
        )
    bits = nll.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).sort(1).values
    upper = torch.stack([bits[:, rank - 1] for rank in ranks])
    lower = torch.stack([bits[:, num_samples - rank] for rank in ranks])
    middle = bits[:, (num_samples - 1) // 2], bits[:, num_samples // 2]
    same = middle[0] == middle[1]  # of two infinities the mean is no number
    median = torch.where(same, middle[0], (middle[0] + middle[1]) / 2)
    found = radii, median, lower, upper, float(sigma), confidence, num_samples, nan
    return Certificate(*found, warnings + cast)


@checked
def order_statistic(p: float, num_samples: int, confidence: float) -> int:
    """The least k for which the k-th smallest of n samples is at least the p-quantile, so sure:

        P(X_(k) < q_p) <= P(Binomial(n, p) >= k) <= 1 - confidence

    Mirrored, the (n + 1 - k)-th smallest is at most the (1 - p)-quantile, as surely.

    Args:
        p: of the quantile, between 0 and 1.
        num_samples: n.
        confidence: between 0 and 1.

    Returns:
        k, from 1 to n.

    Raises:
        ValueError: p or confidence outside (0, 1), or not even the greatest sample will do:
            p^n > 1 - confidence; it takes log(1 - confidence) / log p of them.

    >>> order_statistic(0.5, 100, 0.95)                # the median: not the 50th
    59
    """
    check_integers(1, num_samples=num_samples)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if not 0.0 < p < 1.0:
        raise ValueError(f"p={p:.9g}: no sample bounds this quantile: take a smaller eps / sigma")
    rank = int(binom.ppf(confidence, num_samples, p)) + 1
    if rank > num_samples:
        needed = math.ceil(math.log1p(-confidence) / math.log(p))
        raise ValueError(
            f"num_samples={num_samples} are too few to bound the {p:.4g}-quantile with confidence "
            f"{confidence}: take at least {needed:,}, a smaller eps / sigma or less confidence"
        )
    return rank


def _ratios(sigma: float, eps: float | Iterable[float]) -> tuple[Tensor, Tensor]:
    """The radii, and each over sigma, (E,) float64."""
    check_number(sigma=sigma)
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}: it is a length in x")
    given = list(eps) if isinstance(eps, Iterable) and not isinstance(eps, Tensor) else eps
    radii = torch.as_tensor(numbers("eps, the radii,", given))
    radii = radii.to(torch.float64).reshape(-1)
    if not len(radii) or not bool(((radii >= 0) & radii.isfinite()).all()):
        raise ValueError(f"eps must hold radii that are finite and >= 0, got {radii.tolist()}")
    return radii, radii / sigma


def _noisy(
    log_prob: Objective,
    point: Tensor,
    count: int,
    sigma: float,
    box: Box,
    generator: torch.Generator,
    batch_size: int,
) -> Tensor:
    """Bits/dim of one point under ``count`` draws of noise, (count,), float64."""
    scores = []
    for part in slices(count, batch_size):
        shape = (part.stop - part.start, *point.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(point)
        scores.append(evaluate(log_prob, clip(point + sigma * noise, box)).double().cpu())
    return bits_per_dim(torch.cat(scores), point.numel())
