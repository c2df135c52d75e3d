"""The square attack: random search that needs no gradient, a check on attacks that do (section 4).

Each step recolours one random square of the image; a sample keeps the change if its objective
rises. A model whose gradients are masked (flat, noisy or wrong) resists ascent and yields to this.
The reverse proves nothing: random search is the weaker attack where gradients are good.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import Tensor

from flowrob.attacks.balls import Ball, Box, LinfBall, Region, check_ball, clip, column, too_wide
from flowrob.attacks.objectives import Objective, evaluate, fitted, frozen, of_rows, unsteady
from flowrob.attacks.outcome import Attack, Best, diagnose, joined, score_again
from flowrob.attacks.starts import check_counts, check_start, random_rows, sample_seeds, slices
from flowrob.units import check_number

# The share of pixels in a square halves after these shares of the steps.
_HALVINGS = (0.001, 0.005, 0.02, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    *,
    num_steps: int = 1000,
    share: float = 0.8,
    against: Attack | None = None,
    box: Box = (0.0, 1.0),
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Random search over squares: keep a candidate wherever its objective is higher.

    l_inf: inside the square every channel is set to +-radius, after a start of vertical stripes of
    +-radius. l_2: a square of one sign per channel is added, and the whole scaled back to the
    sphere (simpler than the paper's exchange of mass between two squares). For data without pixels
    the squares are intervals of coordinates.

    Source: Andriushchenko et al. 2020, Algorithms 1 and 2.

    Args:
        objective: maps (batch, ...) to (batch,), to be maximised; never differentiated.
        x: (batch, features) or (batch, channels, ...), inside the box. Not modified.
        ball: :class:`LinfBall` or :class:`L2Ball`.
        num_steps: evaluations after the first two.
        share: of the pixels in the first squares, in (0, 1]; falls with the steps.
        against: a gradient attack on the same samples and objective. If this one beats it, a
            warning says so.
        box: lower and upper bound of x + delta, or None.
        batch_size: attack so many samples at a time; the result does not depend on it.
        generator: always needed.

    Returns:
        An :class:`Attack`.

    Raises:
        ValueError: x outside the box, no generator, or ``against`` of another batch.

    >>> target = lambda x: -(x - 1.0).square().sum(1)
    >>> attack = square(target, torch.zeros(1, 2), LinfBall(0.5), num_steps=20,
    ...                 generator=torch.Generator().manual_seed(0))
    >>> attack.x
    tensor([[0.5000, 0.5000]])
    """
    x = check_start(x, box)
    check_ball(ball)
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_number(share=share)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    if against is not None and not isinstance(against, Attack):
        raise TypeError(f"against must be an Attack, got {type(against).__name__}")
    if against is not None and against.x.shape != x.shape:
        raise ValueError(
            f"against attacked a batch of shape {tuple(against.x.shape)}, x has {tuple(x.shape)}; "
            "attack the same samples"
        )
    seeds, parts = sample_seeds(len(x), 1, generator)[:, 0], slices(len(x), batch_size)
    whole = ball.on(x)

    def attack(part: slice) -> tuple[Best, Tensor]:
        target, best = of_rows(objective, part), Best(x[part])
        start_value = evaluate(target, best.x)
        best.keep(best.x, start_value)
        _search(target, whole.on(x, part), box, seeds[part], num_steps, share, best)
        best.history = best.history[1:]
        return best, start_value

    suspicions = unsteady(objective) + too_wide(whole, box, x)
    with frozen(objective):
        objective, cast = fitted(objective, x)
        found, no_gradient = joined([attack(part) for part in parts])
        warnings = suspicions + cast + diagnose(found, no_gradient)
        found = score_again(objective, x, found, parts, warnings)
    if against is not None:
        ahead = found.value - against.value
        beaten = int((ahead > 1e-6 * against.value.abs()).sum())
        if beaten:
            found.warnings.append(
                f"the gradient-free attack beats the gradient attack on {beaten} of {len(x)} "
                f"samples, by up to {ahead.max().item():.4g}: gradients are masked, or that attack "
                "needs more steps and restarts"
            )
    return found


def _search(
    objective: Objective,
    ball: Ball,
    box: Box,
    seeds: Tensor,
    num_steps: int,
    share: float,
    best: Best,
) -> None:
    """Stripes, then squares on what was accepted before; ``best``, at x, sees every candidate."""
    x, region = best.x, Region(best.x, ball, box)
    space, channels = x.shape[2:] or x.shape[1:], x.shape[1] if x.dim() > 2 else 1
    width = len(space) + channels
    draws = random_rows(seeds, (channels * space[-1] + num_steps * width,)).to(x)
    stripes, draws = draws.split([channels * space[-1], num_steps * width], dim=1)
    signs = torch.where(stripes < 0.5, -1.0, 1.0).to(x)
    shape = [len(x), channels, *[1] * (len(space) - 1), space[-1]]
    stripes = signs.reshape(shape).expand(len(x), channels, *space).reshape(x.shape)
    delta = torch.zeros_like(x)

    def offer(candidate: Tensor) -> Tensor:
        moved = region.inside(clip(x + candidate, box))
        accepted = best.keep(moved, evaluate(objective, moved))
        return torch.where(column(accepted, x), candidate, delta)

    delta = offer(_to_sphere(stripes, ball) if len(x) else stripes)
    for k in range(num_steps):
        draw = draws[:, k * width : (k + 1) * width]
        fraction = share / 2 ** bisect_right(_HALVINGS, k / num_steps)
        window = _windows(draw[:, : len(space)], space, fraction)[:, None]
        signs = torch.where(draw[:, len(space) :] < 0.5, -1.0, 1.0).to(x)
        signs = signs.reshape(len(x), channels, *[1] * len(space))
        delta = offer(_recolour(delta, window, signs, ball))


def _to_sphere(delta: Tensor, ball: Ball) -> Tensor:
    """delta scaled to the boundary of the ball."""
    radius = ball.on(delta).radius
    if isinstance(ball, LinfBall):
        return radius * delta
    return radius * ball.steepest(delta)


def _windows(position: Tensor, space: tuple[int, ...], fraction: float) -> Tensor:
    """(batch, *space) masks of boxes that hold about ``fraction`` of the pixels."""
    mask = torch.ones(len(position), *space, dtype=torch.bool, device=position.device)
    for axis, size in enumerate(space):
        side = min(size, max(1, round(size * fraction ** (1.0 / len(space)))))
        first = (position[:, axis] * (size - side + 1)).floor()[:, None]
        place = torch.arange(size, device=position.device)
        inside = (place >= first) & (place < first + side)
        mask = mask & inside.reshape(-1, *[size if a == axis else 1 for a in range(len(space))])
    return mask


def _recolour(delta: Tensor, window: Tensor, signs: Tensor, ball: Ball) -> Tensor:
    shaped = delta.reshape(len(delta), signs.shape[1], *window.shape[2:])
    radius = torch.as_tensor(ball.radius).reshape(-1, *[1] * (shaped.dim() - 1))
    if isinstance(ball, LinfBall):
        return torch.where(window, radius * signs, shaped).reshape(delta.shape)
    bump = window * signs * radius / math.sqrt(max(1, math.prod(shaped.shape[1:])))
    return _to_sphere((shaped + 2.0 * bump).reshape(delta.shape), ball)
