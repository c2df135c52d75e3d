"""Attacks on 8-bit images: dequantisation noise is part of the objective (sections 4, 5).

A density of reals scores an image y of grey levels as p((y + u) / 256) with noise u in [0, 1). An
attacker of the image does not choose u. So the attack here moves the grey levels y in [0, 255]
against noise that is fixed, or halfway, or averaged over,

    maximise  mean_k objective((y + u_k) / 256)   over   |y - image| <= eps,   0 <= y <= 255,

and :func:`score_images` scores every row of a table, clean, noisy or attacked, with one and the
same fresh noise. Real-valued y are the attacks of the literature; integer y (``quantize=True``) are
images that could be saved as a file. In this module radii are in grey levels, values in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowrob.attacks.balls import Ball, LinfBall, column
from flowrob.attacks.likelihood import lower_likelihood, raise_likelihood
from flowrob.attacks.objectives import (
    Composite,
    Finite,
    Negative,
    Objective,
    Precise,
    check_callable,
    checked,
    of_rows,
)
from flowrob.attacks.outcome import Attack, Best
from flowrob.attacks.starts import check_counts, check_integers, slices
from flowrob.units import bits_per_dim, check_dense, check_images, check_number, dequantize

FLOATS = (torch.float32, torch.float64)
GOALS = {"lower": (lower_likelihood, Negative), "raise": (raise_likelihood, Finite)}


@dataclass(frozen=True)
class OverNoise(Composite):
    """y -> mean_k f((y + u_k) / 256), for a batch of grey levels y and noise u (K, batch, ...)."""

    f: Objective
    noise: Tensor

    def __post_init__(self) -> None:
        check_callable(self.f)

    def over(self, change: Callable[[Any], Any]) -> OverNoise:
        """The same noise over change(f)."""
        return replace(self, f=change(self.f))

    def rows(self, which: slice) -> OverNoise:
        """The same for the rows ``which`` of y, with their noise."""
        return replace(self.over(lambda f: of_rows(f, which)), noise=self.noise[:, which])

    def __call__(self, y: Tensor) -> Tensor:
        """mean_k f((y + u_k) / 256)."""
        x = (y + self.noise.to(y)) / 256
        flat = x.flatten(0, 1)
        return checked(self.f(flat), flat).reshape(x.shape[:2]).mean(0)


def dequantization_noise(
    images: Tensor, kind: str, generator: torch.Generator | None = None, num_draws: int = 8
) -> Tensor:
    """Noise u in [0, 1) for every image, shape (K, N, C, H, W).

    Args:
        images: (N, C, H, W); only shape and device matter.
        kind: "fixed" (one draw), "midpoint" (u = 1/2, no randomness) or "expected" (``num_draws``
            draws, to be averaged over; they stay the same for the whole attack).
        generator: needed unless "midpoint".
        num_draws: K of "expected".

    Raises:
        ValueError: unknown kind, or num_draws < 1.
    """
    check_dense(images, "images")
    if not isinstance(kind, str) or kind not in ("fixed", "midpoint", "expected"):
        raise ValueError(f'noise must be "fixed", "midpoint" or "expected", got {kind!r}')
    check_integers(1, num_draws=num_draws)
    if kind == "midpoint":
        return torch.full((1, *images.shape), 0.5, device=images.device)
    draws = num_draws if kind == "expected" else 1
    black = torch.zeros(draws, *images.shape, dtype=torch.uint8, device=images.device)
    return 256 * dequantize(black, generator)  # type: ignore[arg-type]  # refuses None itself


def attack_images(
    log_prob: Objective,
    images: Tensor,
    eps: float,
    *,
    goal: str = "lower",
    norm: type[Ball] = LinfBall,
    noise: str = "fixed",
    num_draws: int = 8,
    quantize: bool = False,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    **options,
) -> Attack:
    """Attack 8-bit images in grey levels; the result is scored by :func:`score_images`.

    Args:
        log_prob: density of x in [0, 1]; maps (batch, C, H, W) to (batch,), nats per unit of x.
        images: (N, C, H, W) uint8.
        eps: radius in grey levels.
        goal: "lower" (in-distribution attack) or "raise" (out-of-distribution attack).
        norm: :class:`LinfBall` or :class:`L2Ball`.
        noise: "fixed", "midpoint" or "expected": see :func:`dequantization_noise`.
        num_draws: of "expected", which costs as many times more.
        quantize: round the result to integers inside the ball and return uint8. Near-corner
            solutions, as "lower" finds with l_inf, lose little.
        batch_size: attack so many images at a time.
        generator: draws the noise, then the random starts.
        **options: of :func:`~flowrob.attacks.lower_likelihood`, and so of ``pgd`` or ``square``.

    Returns:
        An :class:`Attack` whose x holds grey levels: float in [0, 255], or uint8. Its values are
        those of the attack's own noise: a little optimistic for the attacker.

    Raises:
        TypeError: images are not uint8, or norm is no class of balls.
        ValueError: unknown goal or noise, or an l_inf radius below 1 with quantize.
    """
    check_images(images)
    check_number(eps=eps)
    if not isinstance(quantize, bool):
        raise TypeError(f"quantize must be True or False, got {quantize!r}")
    if not isinstance(goal, str) or goal not in GOALS:
        raise ValueError(f'goal must be "lower" or "raise", got {goal!r}')
    if not (isinstance(norm, type) and issubclass(norm, Ball)):
        raise TypeError(f"norm must be the class LinfBall or L2Ball, got {norm!r}")
    if quantize and norm is LinfBall and 0 < eps < 1:
        raise ValueError(f"eps={eps} grey levels hold no other 8-bit image; use eps >= 1")
    draws = dequantization_noise(images, noise, generator, num_draws)
    density, y = OverNoise(log_prob, draws), images.to(draws)
    attack, maximised = GOALS[goal]
    options |= {"box": (0.0, 255.0), "batch_size": batch_size, "generator": generator}
    ball = norm(float(eps))
    found = attack(density, y, ball, **options)
    if goal == "lower" and images[0].numel():
        found.warnings.extend(worse_than_uniform(-found.start_value, images[0].numel()))
    if not quantize:
        return found
    rounded = y + ball.round(found.x - y)
    value = Precise(maximised(density)).batches(rounded, slices(len(y), batch_size))
    kept = Best(y, found.start_value).better(value)
    rounded = torch.where(column(kept, y), rounded, y)
    value = torch.where(kept, value, found.start_value)
    return replace(found, x=rounded.to(torch.uint8), value=value)


def worse_than_uniform(log_prob: Tensor, num_dims: int) -> list[str]:
    """A warning if images of the data cost as much as under a uniform density, or more.

    Args:
        log_prob: of the clean images, nats.
        num_dims: D of one.
    """
    mean = bits_per_dim(log_prob.double(), num_dims).mean().item()
    if not mean > 7.99:  # a log_prob divided by D lies just below 8
        return []
    return [
        f"the clean images cost {mean:.2f} bits/dim, and a uniform density costs 8: log_prob must "
        "be log p(x) in nats (not its negative, not bits), summed over the dimensions, of x in "
        "[0, 1] (not grey levels); or the model is untrained, or these images are not its data"
    ]


def score_images(
    log_prob: Objective, levels: Tensor, noise: Tensor, batch_size: int | None = None
) -> Tensor:
    """log p((y + u) / 256) of grey levels y under given noise u, in float64 where possible.

    Draw ``noise`` once, independently of the attack, and score clean, noisy and attacked images
    with it: their differences then owe nothing to its luck.

    Args:
        log_prob: density of x in [0, 1]; maps (batch, C, H, W) to (batch,), nats per unit of x.
        levels: (N, C, H, W) grey levels, uint8 or float in [0, 255].
        noise: u, (K, N, C, H, W), from :func:`dequantization_noise`; K draws are averaged over.
        batch_size: score so many images at a time.

    Returns:
        (N,) nats; the dtype says in which precision they were computed.

    Raises:
        TypeError: levels or noise that are no tensors of such numbers.
        ValueError: noise of another shape than (K, N, C, H, W).
    """
    _check_levels(levels, noise)
    check_counts(batch_size=batch_size)
    density, y = OverNoise(log_prob, noise), levels.to(noise)
    return Precise(density).batches(y, slices(len(y), batch_size))


def _check_levels(levels: Tensor, noise: Tensor) -> None:
    check_dense(levels, "levels")
    check_dense(noise, "noise")
    if not noise.is_floating_point() or levels.dtype not in (*FLOATS, torch.uint8):
        raise TypeError(
            f"levels must be uint8 or floating point, got {levels.dtype}, and noise floating "
            f"point, got {noise.dtype}"
        )
    if noise.dim() < 2 or noise.shape[1:] != levels.shape or not len(noise):
        raise ValueError(
            f"noise must have shape (K, {', '.join(map(str, levels.shape))}), as "
            f"dequantization_noise(levels, ...) returns it, got {tuple(noise.shape)}"
        )
