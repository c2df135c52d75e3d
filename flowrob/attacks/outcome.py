"""Outcomes: what an attack found, and what its course says about whether it can be trusted.

Every search keeps the best iterate of each sample (:class:`Best`). Its result, an :class:`Attack`,
is scored once more, in float64 where the model can, and carries sentences about what looks wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flowrob.attacks.balls import column
from flowrob.attacks.objectives import Objective, Precise, evaluate, of_rows


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
    """The best iterate so far, sample by sample.

    Args:
        x: (batch, ...), where the search begins.
        value: the objective there, if it is known.

    Attributes:
        x: the best iterate of every sample.
        value: its objective, (batch,); NaN, which never wins, until a number is met.
        first: the values that were met first.
        history: the best values after each iterate that was shown to it.
        num_nonfinite: how many values were infinite or NaN, (batch,).
        no_gradient: where a gradient was zero or not finite throughout, (batch,).
    """

    def __init__(self, x: Tensor, value: Tensor | None = None):
        self.x = x
        self.first: Tensor | None = None
        self.value = x.new_full((len(x),), math.nan) if value is None else value
        self.history: list[Tensor] = []
        self.num_nonfinite = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.no_gradient = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def better(self, value: Tensor) -> Tensor:
        """Where ``value`` beats the best so far: any number beats NaN."""
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

    def take(self, other: Best) -> None:
        """The better of two searches of equal length, sample by sample."""
        better = self.better(other.value)
        self.x = torch.where(column(better, self.x), other.x, self.x)
        self.value = torch.where(better, other.value, self.value)
        self.history = [
            torch.where(better, theirs, mine)
            for mine, theirs in zip(self.history, other.history, strict=True)
        ]
        self.num_nonfinite = self.num_nonfinite + other.num_nonfinite
        self.no_gradient = self.no_gradient | other.no_gradient


def joined(runs: list[tuple[Best, Tensor]]) -> tuple[Attack, Tensor]:
    """Batches of (best, objective at x) as one attack, and where gradients failed."""
    found = Attack(
        x=torch.cat([best.x for best, _ in runs]),
        value=torch.cat([best.value for best, _ in runs]),
        start_value=torch.cat([start_value for _, start_value in runs]),
        history=torch.cat([torch.stack(best.history) for best, _ in runs], dim=1),
        num_nonfinite=torch.cat([best.num_nonfinite for best, _ in runs]),
    )
    return found, torch.cat([best.no_gradient for best, _ in runs])


def diagnose(found: Attack, no_gradient: Tensor) -> list[str]:
    """What the course of an attack says about its trustworthiness."""
    warnings, num = [], len(found.x)
    dead = int(no_gradient.sum())
    if dead:
        warnings.append(
            f"zero or non-finite gradients at some iterate of {dead} of {num} samples: try "
            'start="random", and flowrob.attacks.square, which needs no gradient'
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
    objective: Objective, x: Tensor, found: Attack, parts: list[slice], warnings: list[str]
) -> Attack:
    """The attack with values scored anew, in float64 where possible, and its last warnings.

    A sample whose gain was an artefact of rounding or of a random objective goes back to x.
    """
    precise = Precise(objective)
    again = torch.cat([evaluate(of_rows(objective, part), x[part]) for part in parts])
    start_value, value = (precise.batches(points, parts) for points in (x, found.x))
    if start_value.dtype != value.dtype:  # float64 gave up half-way
        start_value = start_value.to(value.dtype)
    better = Best(x, start_value).better(value)
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
