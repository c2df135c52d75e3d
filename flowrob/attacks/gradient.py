"""Projected gradient ascent: the one algorithm under the named attacks (section 4).

    x_{k+1} = project( x_k + step * steepest direction of the gradient at x_k ),   best iterate kept

:func:`pgd` maximises any objective that returns one number per sample. The loop is :func:`ascend`;
around it stand restarts, batches, and the search for signs that it failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowrob.attacks.auto_pgd import ascend_auto
from flowrob.attacks.balls import Ball, Box, Region, check_ball, column, too_wide, unit
from flowrob.attacks.objectives import (
    Objective,
    evaluate,
    fitted,
    frozen,
    of_rows,
    unsteady,
    value_and_gradient,
)
from flowrob.attacks.outcome import Attack, Best, diagnose, joined, score_again
from flowrob.attacks.starts import check_counts, check_start, random_rows, sample_seeds, slices
from flowrob.units import check_dense

SCHEDULES = ("constant", "cosine", "auto")


def cosine(step: int, num_steps: int) -> float:
    """(1 + cos(pi k / n)) / 2: from 1 down to 0 along half a wave.

    >>> [cosine(k, 4) for k in (0, 2)]
    [1.0, 0.5]
    """
    return 0.5 * (1.0 + math.cos(math.pi * step / num_steps))


def ascend(
    objective: Objective,
    region: Region,
    start: Tensor,
    steps: Sequence[Tensor],
    best: Best,
    momentum: float = 0.0,
) -> None:
    """The loop alone: project(x + step * steepest(v)), v <- momentum v + gradient / |gradient|_2.

    Args:
        objective: to be maximised; its weights are best kept out of the graph, by
            :func:`~flowrob.attacks.objectives.frozen`.
        region: where the iterates may be.
        start: the first of them, inside the region.
        steps: the lengths of the steps, each a number or a tensor that broadcasts against x.
        best: sees every iterate with its value, the last one included.
        momentum: weight of the gradients before.
    """
    current, velocity = start, torch.zeros_like(start)
    for step in steps:
        value, gradient = value_and_gradient(objective, current)
        best.keep(current, value, gradient)
        velocity = momentum * velocity + unit(gradient.nan_to_num(0.0))
        current = region.project(current + step * region.ball.steepest(velocity))
    best.keep(current, evaluate(objective, current))


@dataclass(frozen=True)
class Steps:
    """How an ascent steps; fields and defaults are those of :func:`pgd`, explained there.

    Raises:
        ValueError: a count below 1, an unknown schedule, or a momentum outside [0, 1).
    """

    num_steps: int
    step_size: float | Tensor | None
    schedule: str
    momentum: float | None

    def __post_init__(self) -> None:
        check_counts(num_steps=self.num_steps)
        if not isinstance(self.schedule, str) or self.schedule not in SCHEDULES:
            raise ValueError(
                f'schedule must be "constant", "cosine" or "auto", got {self.schedule!r}'
            )
        if self.momentum is not None and not isinstance(self.momentum, int | float):
            raise TypeError(f"momentum must be a number, got {self.momentum!r}")
        if self.momentum is not None and not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")

    def first(self, x: Tensor, ball: Ball) -> Tensor:
        """The first step, shaped to broadcast against x, whose ball is given."""
        size = self.step_size
        if size is None:
            auto = self.schedule == "auto"
            size = 2.0 * ball.radius if auto else 2.5 * ball.radius / self.num_steps
        if not isinstance(size, int | float | Tensor):
            raise TypeError(f"step_size must be a number or a tensor (batch,), got {size!r}")
        if isinstance(size, Tensor):
            check_dense(size, "step_size")
        size = torch.as_tensor(size, dtype=x.dtype, device=x.device)
        if size.numel() != 1 and size.shape not in ((len(x),), (len(x), *[1] * (x.dim() - 1))):
            raise ValueError(
                f"step_size must be a number or have shape ({len(x)},), got {tuple(size.shape)}"
            )
        if not bool(((size >= 0) & size.isfinite()).all()):
            raise ValueError(f"step_size must be finite and >= 0, got {size.tolist()}")
        return column(size.expand(len(x)), x) if size.dim() < 2 else size

    @property
    def scales(self) -> list[float]:
        """The steps as multiples of the first (of "auto", which chooses as it goes: ones)."""
        if self.schedule == "cosine":
            return [cosine(k, self.num_steps) for k in range(self.num_steps)]
        return [1.0] * self.num_steps

    def climb(
        self, objective: Objective, region: Region, start: Tensor, first: Tensor, best: Best
    ) -> None:
        """Ascend from ``start``, beginning with steps of length ``first``."""
        if self.schedule == "auto":
            momentum = 0.25 if self.momentum is None else self.momentum
            ascend_auto(objective, region, start, self.num_steps, first, momentum, best)
        else:
            lengths = [scale * first for scale in self.scales]
            ascend(objective, region, start, lengths, best, self.momentum or 0.0)


def pgd(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    *,
    num_steps: int = 20,
    step_size: float | Tensor | None = None,
    schedule: str = "constant",
    momentum: float | None = None,
    start: str | Tensor = "x",
    restarts: int = 1,
    box: Box = (0.0, 1.0),
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Attack:
    """Projected gradient ascent: x <- project(x + step * steepest direction), best iterate kept.

    Every sample is attacked on its own: only its own gradient moves it, only a better value
    replaces its best iterate, and its random starts come from a seed of its own, so that the
    result does not depend on ``batch_size`` (up to rounding). The objective's parameters are left
    alone, ``.grad`` included. One step with ``step_size=radius`` is the fast gradient sign method.
    Afterwards the result is scored once more, in float64 if possible, and searched for signs that
    the attack failed: that costs two more evaluations, or four.

    Source: section 4 of the paper; Madry et al. 2018 for the algorithm, Goodfellow et al. 2015 for
    its single step, Croce and Hein 2020 for ``schedule="auto"``.

    Args:
        objective: maps (batch, ...) to (batch,), to be maximised. NaN never wins, +inf always does.
        x: (batch, ...), floating point, inside the box. Not modified.
        ball: :class:`LinfBall` or :class:`L2Ball`; its radius is in units of x.
        num_steps: gradient steps per restart.
        step_size: the first step, in units of x, a number or (batch,); default: 2.5 radius /
            num_steps, so that the boundary can be reached from anywhere, or 2 radius for "auto".
        schedule: "constant" steps, "cosine" (falling to zero), or "auto" (Auto-PGD: each sample
            halves its step when it stops to progress).
        momentum: weight of the previous gradients (scaled to unit length) beside the present one,
            or for "auto" of the previous move; in [0, 1). Default 0, and 0.25 for "auto".
        start: where the first restart begins: "x", "random" (a random point of the ball), or
            points shaped like x, such as another attack's result; those outside the ball or the
            box are moved inside. Further restarts always begin at random points.
        restarts: how many times to start; the best of all is kept, sample by sample.
        box: lower and upper bound of x + delta, or None.
        batch_size: attack so many samples at a time; default: all at once.
        generator: needed for random starts.

    Returns:
        An :class:`Attack`, whose value is never below the objective at x.

    Raises:
        ValueError: x outside the box, a negative radius, a random start without a generator, a
            start of another shape or not finite, or an objective that averages over the batch.
        TypeError: x is not a float32 or float64 tensor, or ball is none.

    >>> from flowrob.attacks import LinfBall
    >>> attack = pgd(lambda x: x.sum(1), torch.tensor([[0.25, 0.5]]), LinfBall(0.125))
    >>> attack.x
    tensor([[0.3750, 0.6250]])
    """
    x = check_start(x, box)
    check_ball(ball)
    check_counts(restarts=restarts, batch_size=batch_size)
    start = _check_first(start, x)
    steps = Steps(num_steps, step_size, schedule, momentum)
    whole = ball.on(x)
    suspicions = unsteady(objective) + too_wide(whole, box, x)
    first, parts = steps.first(x, whole), slices(len(x), batch_size)
    at_random = isinstance(start, str) and start == "random"
    seeds = sample_seeds(len(x), restarts, generator) if at_random or restarts > 1 else None

    def attack(part: slice) -> tuple[Best, Tensor]:
        region = Region(x[part], whole.on(x, part), box)
        target, from_x = of_rows(objective, part), isinstance(start, str) and start == "x"
        start_value = None if from_x else evaluate(target, region.x)
        winner: Best | None = None
        for restart in range(restarts):
            begin = region.x
            if seeds is not None and (at_random or restart):
                noise = random_rows(seeds[part, restart], begin.shape[1:])
                begin = region.random_point(noise.to(begin))
            elif isinstance(start, Tensor):
                begin = region.project(start[part])
            best = Best(region.x, start_value)
            steps.climb(target, region, begin, first[part], best)
            start_value = best.first if start_value is None else start_value
            if winner is None:
                winner = best
            else:
                winner.take(best)
        assert winner is not None and start_value is not None  # there is at least one restart
        return winner, start_value

    with frozen(objective):
        objective, cast = fitted(objective, x)
        found, no_gradient = joined([attack(part) for part in parts])
        warnings = suspicions + cast + _too_short(steps, first, whole)
        warnings += diagnose(found, no_gradient)
        return score_again(objective, x, found, parts, warnings)


def _check_first(start: str | Tensor, x: Tensor) -> str | Tensor:
    if isinstance(start, Tensor):
        check_dense(start, "start")
        if start.is_complex():
            raise TypeError(f"start must hold real numbers, got {start.dtype}")
        if start.shape != x.shape:
            raise ValueError(f"start must be shaped like x, {tuple(x.shape)}, got "
                             f"{tuple(start.shape)}")  # fmt: skip
        if not bool(start.isfinite().all()):
            raise ValueError("start must be finite; no search leaves NaN")
        return start.detach().to(x)
    if not isinstance(start, str) or start not in ("x", "random"):
        raise ValueError(f'start must be "x", "random" or points shaped like x, got {start!r}')
    return start


def _too_short(steps: Steps, first: Tensor, ball: Ball) -> list[str]:
    """A warning if all steps together do not reach from the middle of the ball to its edge."""
    reach = first.flatten() * sum(steps.scales)
    radius = torch.as_tensor(ball.radius)
    if steps.schedule == "auto" or not bool((reach < 0.999 * radius.flatten()).any()):
        return []
    return [
        f"the steps reach only {reach.min().item():.4g} in all, less than the radius "
        f"{radius.max().item():.4g}: raise num_steps or step_size"
    ]
