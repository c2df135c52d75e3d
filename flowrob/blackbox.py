"""The square attack: random search that needs no gradient, a check on attacks that do (4).

Each step recolours one random square of the image; a sample keeps the change if its objective
rises. A model whose gradients are masked (flat, noisy or wrong) resists ascent and yields to this.
The reverse proves nothing: random search is the weaker attack where gradients are good.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import Tensor
from tqdm.auto import tqdm

from flowrob.ascent import (
    Attack,
    Best,
    Box,
    check_start,
    clip,
    diagnose,
    random_rows,
    sample_seeds,
    score_again,
    slices,
)
from flowrob.balls import Ball, LinfBall, column
from flowrob.objectives import Objective, evaluate, samples

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
    keep_infinite: bool = True,
    check: bool = True,
    progress: bool = False,
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
        keep_infinite: as for :func:`~flowrob.ascent.pgd`.
        check: as for :func:`~flowrob.ascent.pgd`.
        progress: show a progress bar.

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
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be a positive integer, got {num_steps!r}")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    if against is not None and against.x.shape != x.shape:
        raise ValueError(
            f"against attacked a batch of shape {tuple(against.x.shape)}, x has {tuple(x.shape)}; "
            "attack the same samples"
        )
    seeds, parts, whole = sample_seeds(len(x), 1, generator)[:, 0], slices(len(x), batch_size), x
    whole_ball = ball.on(x)

    def attack(part: slice) -> Best:
        x, ball, target = whole[part], whole_ball.on(whole, part), samples(objective, part)
        best = Best(x, None, keep_infinite)
        best.keep(x, evaluate(target, x))
        space = x.shape[2:] or x.shape[1:]
        channels = x.shape[1] if x.dim() > 2 else 1
        width = len(space) + channels
        draws = random_rows(seeds[part], (channels * space[-1] + num_steps * width,)).to(x)
        stripes, draws = draws.split([channels * space[-1], num_steps * width], dim=1)
        signs = torch.where(stripes < 0.5, -1.0, 1.0).to(x)
        shape = [len(x), channels, *[1] * (len(space) - 1), space[-1]]
        current = signs.reshape(shape).expand(len(x), channels, *space).reshape(x.shape)
        current = _to_sphere(current, ball) if len(x) else current
        moved = clip(x + current, box)
        accepted = best.keep(moved, evaluate(target, moved))
        delta = torch.where(column(accepted, x), current, torch.zeros_like(x))
        for k in range(num_steps):
            draw = draws[:, k * width : (k + 1) * width]
            fraction = share / 2 ** bisect_right(_HALVINGS, k / num_steps)
            window = _windows(draw[:, : len(space)], space, fraction)[:, None]
            signs = torch.where(draw[:, len(space) :] < 0.5, -1.0, 1.0).to(x)
            signs = signs.reshape(len(x), channels, *[1] * len(space))
            candidate = _recolour(delta, window, signs, ball)
            moved = clip(x + candidate, box)
            accepted = best.keep(moved, evaluate(target, moved))
            delta = torch.where(column(accepted, x), candidate, delta)
            bar.update()
        return best

    total = len(parts) * num_steps
    with tqdm(total=total, disable=not progress, desc="square attack", leave=False) as bar:
        runs = [attack(part) for part in parts]
    found = Attack(
        x=torch.cat([best.x for best in runs]),
        value=torch.cat([best.value for best in runs]),
        start_value=torch.cat([best.first for best in runs]),
        history=torch.cat([torch.stack(best.history[1:]) for best in runs], dim=1),
        num_nonfinite=torch.cat([best.num_nonfinite for best in runs]),
    )
    if not check:
        return found
    warnings = diagnose(found, torch.zeros_like(found.num_nonfinite))
    found = score_again(objective, x, found, parts, keep_infinite, warnings)
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
    radius = ball.radius.reshape(-1, *[1] * (shaped.dim() - 1))
    if isinstance(ball, LinfBall):
        return torch.where(window, radius * signs, shaped).reshape(delta.shape)
    bump = window * signs * radius / math.sqrt(max(1, shaped[0].numel()))
    return _to_sphere((shaped + 2.0 * bump).reshape(delta.shape), ball)
