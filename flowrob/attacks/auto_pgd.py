"""Auto-PGD: gradient ascent whose samples halve their step when progress stalls (section 4).

    z = project( x_k + step * steepest direction ),   x_{k+1} = project( x_k + (1 - m)(z - x_k)
                                                                       + m (x_k - x_{k-1}) )

At checkpoints that lie ever closer, a sample whose objective rose in fewer than three of four
steps, or which is where it was at the last one, halves its step and goes back to its best point.

Source: Croce and Hein 2020, Algorithm 1 and section 3.1, with their alpha, rho, checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowrob.attacks.balls import Region, column
from flowrob.attacks.objectives import Objective, evaluate, value_and_gradient
from flowrob.attacks.outcome import Best


def ascend_auto(
    objective: Objective,
    region: Region,
    start: Tensor,
    num_steps: int,
    step: Tensor,
    momentum: float,
    best: Best,
) -> None:
    """Auto-PGD from ``start``, its first step ``step``; ``best`` sees every iterate."""
    checkpoints, x, current = checkpoint_steps(num_steps), region.x, start
    step = step.expand(len(x), *step.shape[1:]).clone()
    previous, best_gradient = current, torch.zeros_like(x)
    rises = torch.zeros(len(x), device=x.device)
    last_value = best_before = torch.full_like(rises, math.nan)
    halved, last_checkpoint = torch.ones_like(rises, dtype=torch.bool), 0
    for k in range(num_steps):
        value, gradient = value_and_gradient(objective, current)
        gradient = gradient.nan_to_num(0.0)
        better = best.keep(current, value, gradient)
        best_gradient = torch.where(column(better, x), gradient, best_gradient)
        rises += value > last_value
        last_value = value
        if k in checkpoints:
            few_rises = rises < 0.75 * (k - last_checkpoint)
            halve = few_rises | (~halved & ~(best.value > best_before))
            where = column(halve, x)
            step = torch.where(where, 0.5 * step, step)
            current = torch.where(where, best.x, current)
            previous = torch.where(where, best.x, previous)
            gradient = torch.where(where, best_gradient, gradient)
            last_value = torch.where(halve, best.value, last_value)
            halved, best_before, last_checkpoint = halve, best.value, k
            rises = torch.zeros_like(rises)
        ahead = region.project(current + step * region.ball.steepest(gradient))
        inertia = momentum if k else 0.0
        moved = current + (1.0 - inertia) * (ahead - current) + inertia * (current - previous)
        previous, current = current, region.project(moved)
    best.keep(current, evaluate(objective, current))


def checkpoint_steps(num_steps: int) -> list[int]:
    """w_j = ceil(p_j N) with p = 0.22, then gaps that shrink by 0.03 down to 0.06.

    >>> checkpoint_steps(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    before, now, found = 0.0, 0.22, []
    while now <= 1.0:
        found.append(math.ceil(now * num_steps - 1e-9))  # 57.000000001 is 57
        before, now = now, now + max(now - before - 0.03, 0.06)
    return sorted(set(found))
