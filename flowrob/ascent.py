"""Projected gradient ascent: the one algorithm under the named attacks (4).

    x_{k+1} = project( x_k + step * steepest direction of the gradient at x_k ),   best iterate kept

:func:`pgd` maximises any objective that returns one number per sample. The loop is ``_ascend``;
around it stand restarts, chunks of a big batch, and the search for signs that it failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from flowrob.balls import Ball, check_ball, column, unit
from flowrob.objectives import (
    Objective,
    Precise,
    evaluate,
    frozen,
    samples,
    value_and_gradient,
)

Box = tuple[float, float] | None


@dataclass(frozen=True, repr=False)
class Attack:
    """What an attack found.

    Attributes:
        x: (batch, ...), the best iterate of every sample; inside the ball and the box.
        value: (batch,), the objective there (nats, for the attacks on likelihoods), scored in
            float64 where the model can be; the dtype says which.
        start_value: (batch,), the objective at the unperturbed x, scored likewise.
        history: (num_steps + 1, batch), the best value so far after every step of the restart
            that won, in the dtype of the attack.
        num_nonfinite: (batch,), how many of the values met on the way were infinite or NaN.
        warnings: sentences about what looks wrong and what to do, empty if nothing does.
    """

    x: Tensor
    value: Tensor
    start_value: Tensor
    history: Tensor
    num_nonfinite: Tensor
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        start, end = (
            f"{v.mean().item():.6g} (median {v.median().item():.6g})" if len(v) else "-"
            for v in (self.start_value, self.value)
        )
        head = f"Attack on {len(self.x)} samples: mean objective {start} -> {end}, "
        head += f"scored in {str(self.value.dtype).removeprefix('torch.')}"
        return "\n".join([head, *(f"  warning: {line}" for line in self.warnings)])


class Best:
    """The best iterate so far, sample by sample."""

    def __init__(self, x: Tensor, value: Tensor | None, keep_infinite: bool):
        self.x, self.keep_infinite, self.first = x, keep_infinite, None
        self.value = self._usable(x.new_full((len(x),), math.nan) if value is None else value)
        self.history: list[Tensor] = []
        self.num_nonfinite = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.no_gradient = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def _usable(self, value: Tensor) -> Tensor:
        """NaN never wins; +inf wins or, where it would be no success, counts as NaN."""
        return value if self.keep_infinite else value.masked_fill(value == math.inf, math.nan)

    def better(self, value: Tensor) -> Tensor:
        value = self._usable(value)
        return (value > self.value) | (self.value.isnan() & ~value.isnan())

    def keep(self, x: Tensor, value: Tensor, gradient: Tensor | None = None) -> Tensor:
        """Remember x where its value is the best so far; returns where that is."""
        self.first = value if self.first is None else self.first
        better = self.better(value)
        self.x = torch.where(column(better, x), x, self.x)
        self.value = torch.where(better, value, self.value)
        self.history.append(self.value)
        self.num_nonfinite += ~value.isfinite()
        if gradient is not None:
            dead = (gradient == 0) | ~gradient.isfinite()
            self.no_gradient |= dead.flatten(1).all(1)
        return better


def _move(x: Tensor, moved: Tensor, ball: Ball, box: Box) -> Tensor:
    """Project ``moved`` onto the ball around x, then clip it to the box, which shrinks |delta|."""
    return clip(x + ball.project(moved - x), box)


def clip(x: Tensor, box: Box) -> Tensor:
    return x if box is None else x.clamp(*box)


def _ascend(objective, x, current, ball, box, steps, momentum, best, bar) -> None:
    """Projected gradient ascent with the given step sizes."""
    velocity = torch.zeros_like(x)
    for step in steps:
        value, gradient = value_and_gradient(objective, current)
        best.keep(current, value, gradient)
        velocity = momentum * velocity + unit(gradient.nan_to_num(0.0))
        current = _move(x, current + step * ball.steepest(velocity), ball, box)
        bar.update()
    best.keep(current, evaluate(objective, current))


def _ascend_auto(objective, x, current, ball, box, num_steps, step, momentum, best, bar) -> None:
    """Auto-PGD: halve a sample's step and go back to its best point when progress stalls.

    Source: Croce and Hein 2020, Algorithm 1 and section 3.1, with their alpha, rho, checkpoints.
    """
    checkpoints = _checkpoints(num_steps)
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
        ahead = _move(x, current + step * ball.steepest(gradient), ball, box)
        inertia = momentum if k else 0.0
        moved = current + (1.0 - inertia) * (ahead - current) + inertia * (current - previous)
        previous, current = current, _move(x, moved, ball, box)
        bar.update()
    best.keep(current, evaluate(objective, current))


def _checkpoints(num_steps: int) -> list[int]:
    """w_j = ceil(p_j N) with p = 0.22, then gaps that shrink by 0.03 down to 0.06."""
    before, now, found = 0.0, 0.22, []
    while now <= 1.0:
        found.append(math.ceil(now * num_steps - 1e-9))  # 57.000000001 is 57
        before, now = now, now + max(now - before - 0.03, 0.06)
    return sorted(set(found))


def pgd(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    *,
    num_steps: int = 20,
    step_size: float | Tensor | None = None,
    schedule: str = "constant",
    momentum: float | None = None,
    random_start: bool = False,
    restarts: int = 1,
    box: Box = (0.0, 1.0),
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    keep_infinite: bool = True,
    check: bool = True,
    progress: bool = False,
) -> Attack:
    """Projected gradient ascent: x <- project(x + step * steepest direction), best iterate kept.

    Every sample is attacked on its own: only its own gradient moves it, only a better value
    replaces its best iterate, and its random starts come from a seed of its own, so that the
    result does not depend on ``batch_size`` (up to rounding). The objective's parameters are left
    alone, ``.grad`` included. One step with ``step_size=radius`` is the fast gradient sign method.

    Source: section 4 of the paper; Madry et al. 2018 for the algorithm, Goodfellow et al. 2015 for
    its single step, Croce and Hein 2020 for ``schedule="auto"``.

    Args:
        objective: maps (batch, ...) to (batch,), to be maximised.
        x: (batch, ...), floating point, inside the box. Not modified.
        ball: :class:`LinfBall` or :class:`L2Ball`; its radius is in units of x.
        num_steps: gradient steps per restart.
        step_size: the first step, in units of x, a number or (batch,); default: 2.5 radius /
            num_steps, so that the boundary can be reached from anywhere, or 2 radius for "auto".
        schedule: "constant" steps, "cosine" (falling to zero), or "auto" (Auto-PGD: each sample
            halves its step when it stops to progress).
        momentum: weight of the previous gradients (scaled to unit length) beside the present one,
            or for "auto" of the previous move; in [0, 1). Default 0, and 0.25 for "auto".
        random_start: start the first restart at a random point of the ball, not at x. Further
            restarts always start at random points.
        restarts: how many times to start; the best of all is kept, sample by sample.
        box: lower and upper bound of x + delta, or None.
        batch_size: attack so many samples at a time; default: all at once.
        generator: needed for random starts.
        keep_infinite: whether an objective of +inf is the best of all values. If not, it is no
            better than NaN, which never wins.
        check: look for signs that the attack failed, and score the result once more, in float64
            if possible. Costs two more evaluations, or four.
        progress: show a progress bar.

    Returns:
        An :class:`Attack`, whose value is never below the objective at x.

    Raises:
        ValueError: x outside the box, a negative radius, a random start without a generator, or
            an objective that averages over the batch.
        TypeError: x is not a float32 or float64 tensor, or ball is none.

    >>> from flowrob.balls import LinfBall
    >>> attack = pgd(lambda x: x.sum(1), torch.tensor([[0.25, 0.5]]), LinfBall(0.125))
    >>> attack.x
    tensor([[0.3750, 0.6250]])
    """
    x = check_start(x, box)
    check_ball(ball)
    counts = {
        "num_steps": num_steps,
        "restarts": restarts,
        "batch_size": 1 if batch_size is None else batch_size,
    }
    for name, number in counts.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, got {number!r}")
    if schedule not in ("constant", "cosine", "auto"):
        raise ValueError(f'schedule must be "constant", "cosine" or "auto", got {schedule!r}')
    if momentum is None:
        momentum = 0.25 if schedule == "auto" else 0.0
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    whole = ball.on(x)
    if step_size is None:
        step_size = 2.0 * whole.radius if schedule == "auto" else 2.5 * whole.radius / num_steps
    step_size = torch.as_tensor(step_size, dtype=x.dtype, device=x.device)
    if not bool(((step_size >= 0) & step_size.isfinite()).all()):
        raise ValueError(f"step_size must be finite and >= 0, got {step_size.tolist()}")
    step_size = column(step_size.expand(len(x)), x) if step_size.dim() < 2 else step_size
    if random_start or restarts > 1:
        seeds = sample_seeds(len(x), restarts, generator)

    def attack(part: slice) -> tuple[Best, Tensor]:
        start, ball, target = x[part], whole.on(x, part), samples(objective, part)
        start_value = evaluate(target, start) if random_start else None
        winner = None
        for restart in range(restarts):
            current = start
            if random_start or restart:
                noise = random_rows(seeds[part, restart], start.shape[1:]).to(start)
                current = _move(start, start + ball.random_point(noise), ball, box)
            best = Best(start, start_value, keep_infinite)
            if schedule == "auto":
                step = step_size[part]
                _ascend_auto(
                    target, start, current, ball, box, num_steps, step, momentum, best, bar
                )
            else:
                steps = [scale * step_size[part] for scale in _scales(schedule, num_steps)]
                _ascend(target, start, current, ball, box, steps, momentum, best, bar)
            best.history = torch.stack(best.history)
            start_value = best.first if start_value is None else start_value
            winner = best if winner is None else _merge(winner, best)
        return winner, start_value

    parts = slices(len(x), batch_size)
    total = len(parts) * restarts * num_steps
    with (
        frozen(objective),
        tqdm(total=total, disable=not progress, desc="attack", leave=False) as bar,
    ):
        runs = [attack(part) for part in parts]
        found = Attack(
            x=torch.cat([best.x for best, _ in runs]),
            value=torch.cat([best.value for best, _ in runs]),
            start_value=torch.cat([start_value for _, start_value in runs]),
            history=torch.cat([best.history for best, _ in runs], dim=1),
            num_nonfinite=torch.cat([best.num_nonfinite for best, _ in runs]),
        )
        if not check:
            return found
        no_gradient = torch.cat([best.no_gradient for best, _ in runs])
        warnings = diagnose(found, no_gradient)
        reach = step_size.flatten() * sum(_scales(schedule, num_steps))
        if schedule != "auto" and bool((reach < 0.999 * whole.radius.flatten()).any()):
            warnings.insert(
                0,
                f"the steps reach only {reach.min().item():.4g} in all, less than the radius "
                f"{whole.radius.max().item():.4g}: raise num_steps or step_size",
            )
        return score_again(objective, x, found, parts, keep_infinite, warnings)


def _scales(schedule: str, num_steps: int) -> list[float]:
    """The step sizes as multiples of the first."""
    if schedule == "cosine":
        return [0.5 * (1.0 + math.cos(math.pi * k / num_steps)) for k in range(num_steps)]
    return [1.0] * num_steps


def sample_seeds(num: int, restarts: int, generator: torch.Generator | None) -> Tensor:
    """One seed per sample and restart, shape (num, restarts)."""
    if generator is None:
        raise ValueError("random starts need generator=torch.Generator().manual_seed(...)")
    size = (num, restarts)
    return torch.randint(2**62, size, generator=generator, device=generator.device).cpu()


def random_rows(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform noise in [0, 1), shape (batch, *shape), every sample's from its own seed."""
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def slices(num: int, batch_size: int | None) -> list[slice]:
    size = batch_size or max(num, 1)
    return [slice(i, min(i + size, num)) for i in range(0, max(num, 1), size)]


def _merge(first: Best, second: Best) -> Best:
    """The better of two restarts, sample by sample."""
    better = first.better(second.value)
    first.x = torch.where(column(better, first.x), second.x, first.x)
    first.value = torch.where(better, second.value, first.value)
    first.history = torch.where(better, second.history, first.history)
    first.num_nonfinite = first.num_nonfinite + second.num_nonfinite
    first.no_gradient = first.no_gradient | second.no_gradient
    return first


def check_start(x: Tensor, box: Box) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"x must be a floating-point tensor, got {kind}; attack uint8 images with "
            "flowrob.pixels.attack_images, or turn them into x with flowrob.data.dequantize"
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
    x = x.detach()
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite; remove the samples that hold infinities or NaN")
    if box is not None and x.numel() and not bool(((x >= box[0]) & (x <= box[1])).all()):
        raise ValueError(
            f"x must lie in the box [{box[0]}, {box[1]}], got values from {x.min():.4g} to "
            f"{x.max():.4g}; rescale x, or pass box=None for data that are not images"
        )
    return x


def diagnose(found: Attack, no_gradient: Tensor) -> list[str]:
    """What the course of an attack says about its trustworthiness."""
    warnings, num = [], len(found.x)
    dead = int(no_gradient.sum())
    if dead:
        warnings.append(
            f"zero or non-finite gradients at some iterate of {dead} of {num} samples: try "
            "random_start=True, and flowrob.blackbox.square, which needs no gradient"
        )
    stuck = int((found.value <= found.start_value).sum())
    if stuck:
        warnings.append(
            f"nothing was gained on {stuck} of {num} samples: try restarts=5 with a generator, or "
            "smaller steps (a radius of 0 and a start at the maximum gain nothing either)"
        )
    num_steps = len(found.history) - 1
    if num_steps > 2:
        late = max(1, num_steps // 10)
        gain, late_gain = (found.history[-1] - found.history[k] for k in (0, -1 - late))
        rising = int((late_gain > 0.5 * late / num_steps * gain).sum())
        if rising > num / 4:
            warnings.append(
                f"the objective was still rising at the end for {rising} of {num} samples: raise "
                "num_steps"
            )
    return warnings


def score_again(
    objective: Objective,
    x: Tensor,
    found: Attack,
    parts: list[slice],
    keep_infinite: bool,
    warnings: list[str],
) -> Attack:
    """The attack with values scored anew, in float64 where possible, and its last warnings.

    A sample whose gain was an artefact of rounding or of a random objective goes back to x.
    """
    precise = Precise(objective)
    again = torch.cat([evaluate(samples(objective, part), x[part]) for part in parts])
    start_value, value = (
        torch.cat([precise(points[part], part) for part in parts]) for points in (x, found.x)
    )
    if start_value.dtype != value.dtype:  # float64 gave up half-way
        start_value = start_value.to(value.dtype)
    worst = Best(x, start_value, keep_infinite)
    better = worst.better(value)
    final = torch.where(column(better, x), found.x, x)
    value = torch.where(better, value, start_value)
    difference = (again - found.start_value).abs()
    noisy = int((difference > 1e-4 * (1.0 + again.abs())).sum())
    if noisy:
        warnings.append(
            f"randomised objective: two evaluations at x differ, by up to "
            f"{difference.max().item():.4g}; fix the noise inside it (model.eval()?), or average "
            "over more noise"
        )
    met, bad = int((found.num_nonfinite > 0).sum()), int((~value.isfinite()).sum())
    if met or bad:
        warnings.append(
            f"non-finite values: met on the way in {met} of {len(x)} samples, at the end in {bad}; "
            "nothing is dropped, so give medians beside means"
        )
    return replace(found, x=final, value=value, start_value=start_value, warnings=warnings)
