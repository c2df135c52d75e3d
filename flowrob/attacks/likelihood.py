"""Attacks on likelihoods: projected gradient ascent in a ball around each image (sections 2.2, 4).

    maximise  objective(x + delta)   over   |delta| <= radius,   x + delta in the box

:func:`lower_likelihood` takes the negative log-likelihood for objective: a perturbation that
makes an image of the data absurd to the model. :func:`raise_likelihood` takes the
log-likelihood: it makes noise look like data. Both need nothing of a model but a ``log_prob``,
so they run on flows from any library. Radii are in units of x: eps grey levels are eps / 256.

The two start differently. Around data the negative log-likelihood is locally convex, and a convex
function is greatest at a corner of the ball: the first steps are as long as the ball is wide, and
jump from corner to corner. The log-likelihood is locally concave, and its maximum may lie inside:
the first steps are half as long. Both then shrink along a cosine, because the landscape of a deep
flow is neither: steps that stay long overshoot, most of all in big balls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowrob.attacks.balls import Ball, Box, L2Ball, LinfBall, Region, check_ball, clip, too_wide
from flowrob.attacks.gradient import pgd
from flowrob.attacks.objectives import (
    Composite,
    Finite,
    Negative,
    Objective,
    Precise,
    evaluate,
    fitted,
    unsteady,
    value_and_gradient,
)
from flowrob.attacks.outcome import Attack
from flowrob.attacks.starts import check_counts, check_generator, check_start, slices
from flowrob.linear import GaussianFlow, worst_case


def lower_likelihood(
    log_prob: Objective, x: Tensor, ball: Ball, *, using: Callable[..., Attack] = pgd, **options
) -> Attack:
    """The in-distribution attack: maximise -log p(x + delta), so that data look absurd.

    By default the steps fall from 2 radius to 0. A density of zero, an objective of +inf, counts as
    the worst.

    Source: section 4 of the paper, whose words put "the log-likelihood function" in the place of
    the loss that is ascended. Its negative is meant: the likelihood is to be "decreased maximally"
    (docs/errata.md, row 10).

    Args:
        log_prob: maps (batch, ...) to (batch,) log-densities in nats; any library's.
        x: (batch, ...), inside the box.
        ball: which perturbations are allowed.
        using: :func:`pgd`, or :func:`flowrob.attacks.square`.
        **options: those of ``using``; for pgd ``schedule`` is "cosine" by default, and its steps
            then fall from there.

    Returns:
        An :class:`Attack` whose value is the negative log-likelihood in nats.
    """
    return using(Negative(log_prob), x, ball, **_falling(using, ball, 2.0, options))


def raise_likelihood(
    log_prob: Objective, x: Tensor, ball: Ball, *, using: Callable[..., Attack] = pgd, **options
) -> Attack:
    """The out-of-distribution attack: maximise log p(x + delta), so that noise looks like data.

    By default the steps fall from the radius to 0. An infinite density is a failure of the model,
    and never counts as success.

    Source: section 4 of the paper.

    Args:
        log_prob: maps (batch, ...) to (batch,) log-densities in nats; any library's.
        x: (batch, ...), inside the box.
        ball: which perturbations are allowed.
        using: :func:`pgd`, or :func:`flowrob.attacks.square`.
        **options: those of ``using``; for pgd ``schedule`` is "cosine" by default, and its steps
            then fall from there.

    Returns:
        An :class:`Attack` whose value is the log-likelihood in nats.
    """
    return using(Finite(log_prob), x, ball, **_falling(using, ball, 1.0, options))


def _falling(using: Callable[..., Attack], ball: Ball, radii: float, options: dict) -> dict:
    """The options; pgd's steps, unless it is told otherwise, fall from ``radii`` * radius to 0."""
    check_ball(ball)
    if using is not pgd or options.get("schedule", "cosine") != "cosine":
        return options
    step_size = options.get("step_size")
    falling = {"schedule": "cosine", "step_size": radii * ball.radius}
    return {**options, **falling} if step_size is None else {**options, "schedule": "cosine"}


def uniform_noise(
    x: Tensor, radius: float, generator: torch.Generator, box: Box = (0.0, 1.0)
) -> Tensor:
    """The baseline of every table: x + u with u uniform in [-radius, radius], clipped to the box.

    Source: sections 4 and 5 of the paper.

    Args:
        x: (batch, ...), inside the box. Not modified.
        radius: in units of x.
        generator: draws u.
        box: lower and upper bound of the result, or None.
    """
    x = check_start(x, box)
    check_generator(generator)
    ball = LinfBall(radius).on(x)
    noise = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
    return Region(x, ball, box).inside(clip(x + ball.random_point(noise), box))


@dataclass(frozen=True)
class Universal:
    """One perturbation for all images.

    Attributes:
        delta: the perturbation, shaped like one image.
        value: the mean objective over the set it was fitted on (nats).
        start_value: the same without perturbation.
        history: (num_steps + 1,), the best mean so far after every step.
        box: what perturbed images are clipped to, or None.
        warnings: as in :class:`Attack`.
        ball: which perturbations were allowed.
    """

    delta: Tensor
    value: float
    start_value: float
    history: Tensor
    box: Box
    warnings: list[str]
    ball: Ball

    def apply(self, x: Tensor) -> Tensor:
        """x + delta, clipped to the box: for any images, those it was fitted on or others."""
        x = check_start(x, self.box)
        region = Region(x, self.ball.on(x), self.box)
        return region.inside(clip(x + self.delta.to(x), self.box))


def universal_perturbation(
    log_prob: Objective,
    x: Tensor,
    ball: Ball,
    *,
    box: Box = (0.0, 1.0),
    batch_size: int | None = None,
    **options,
) -> Universal:
    """One delta that lowers every likelihood: maximise mean_i -log p(clip(x_i + delta)).

    Source: section 3.3 of the paper for the linear flow, whose optimum is
    :func:`flowrob.linear.universal`; Moosavi-Dezfooli et al. 2017 for the idea. Fit it on one set
    and score it on another, with :meth:`Universal.apply`.

    Args:
        log_prob: maps (batch, ...) to (batch,) log-densities in nats.
        x: (N, ...), the images to fit on, inside the box.
        ball: with one radius.
        box: lower and upper bound of x + delta, or None.
        batch_size: how many images share a graph, which saves memory; every step still uses all
            N. Default: all at once.
        **options: those of :func:`pgd`.

    Returns:
        A :class:`Universal`.

    Raises:
        ValueError: no images, images outside the box, or a radius per image.
    """
    x = check_start(x, box)
    if not len(x):
        raise ValueError("x holds no images; pass at least one to fit on")
    check_ball(ball)
    if isinstance(ball.radius, Tensor) and ball.radius.dim():
        raise ValueError("one perturbation needs one radius, got one per image; pass a number")
    check_counts(batch_size=batch_size)
    objective = _MeanOverImages(Negative(log_prob), x, box, slices(len(x), batch_size))
    options = _falling(pgd, ball, 2.0, options)
    found = pgd(objective, torch.zeros_like(x[:1]), ball, box=None, **options)
    warnings = found.warnings + too_wide(ball.on(x), box, x)
    value, start_value = found.value.item(), found.start_value.item()
    return Universal(found.x[0], value, start_value, found.history[:, 0], box, warnings, ball)


@dataclass(frozen=True)
class _MeanOverImages(Composite):
    """delta -> mean_i f(clip(x_i + delta)), for a batch of one delta, some images at a time."""

    f: Objective
    x: Tensor
    box: Box
    batches: list[slice]

    def over(self, change: Callable[[Any], Any]) -> _MeanOverImages:
        return replace(self, f=change(self.f))

    def _total(self, batch: slice, delta: Tensor) -> Objective:
        x = self.x[batch].to(delta)
        return lambda d: self.f(clip(x + d, self.box)).sum()[None]

    def __call__(self, delta: Tensor) -> Tensor:
        totals = (self._total(batch, delta) for batch in self.batches)
        if not delta.requires_grad:
            values = (evaluate(total, delta) for total in totals)
            return sum(values, start=delta.new_zeros(1)) / len(self.x)
        terms = [value_and_gradient(total, delta) for total in totals]
        value, gradient = (sum(column) for column in zip(*terms, strict=True))
        # Linear in delta, with the right value and gradient: one batch's graph lives at a time.
        return (value + ((delta - delta.detach()) * gradient).sum()) / len(self.x)


def linear_attack(
    log_prob: Objective,
    gaussian: GaussianFlow,
    x: Tensor,
    ball: Ball,
    *,
    box: Box = (0.0, 1.0),
    batch_size: int | None = None,
) -> Attack:
    """The worst perturbation of a linear flow, applied to a deep one.

    l_2: delta of Theorem 3.1, exact (:func:`flowrob.linear.worst_case`), then clipped to the box.
    l_inf, where the exact optimum is NP-hard to find: sign ascent from corner to corner,
    delta <- radius sign(P (x - mu + delta)) inside the box, until no sample gains. (The search over
    single flips, :func:`flowrob.linear.worst_case_linf`, gains a little more, in time that images
    cannot afford.)

    Beyond the paper: how much of a deep flow's weakness is second-order statistics of the data?

    Args:
        log_prob: of the deep flow; maps (batch, ...) to (batch,), nats.
        gaussian: :class:`~flowrob.linear.gaussian.GaussianFlow` on the flattened images.
        x: (batch, ...), inside the box.
        ball: which perturbations are allowed.
        box: lower and upper bound of x + delta, or None.
        batch_size: evaluate log_prob on so many samples at a time.

    Returns:
        An :class:`Attack` on the deep flow: its value is the negative log-likelihood there. A
        sample that the perturbation does not hurt keeps its perturbed x.
    """
    x = check_start(x, box)
    check_ball(ball)
    check_counts(batch_size=batch_size)
    if not isinstance(gaussian, GaussianFlow):
        raise TypeError(f"gaussian must be a GaussianFlow, got {type(gaussian).__name__}")
    if x[:0].flatten(1).shape[1] != len(gaussian.mean):
        raise ValueError(
            f"gaussian has {len(gaussian.mean)} dimensions, x has shape {tuple(x.shape)}"
        )
    flat = x.flatten(1).to(gaussian.mean)  # float64, on the Gaussian's device
    if isinstance(ball, L2Ball):
        radius = torch.as_tensor(ball.on(flat).radius).flatten()
        moved = clip(flat + worst_case(gaussian, flat, radius).delta, box)
    else:
        moved = lower_likelihood(gaussian.log_prob, flat, ball, num_steps=50, box=box).x
    whole = ball.on(x)  # of x, not of its float64 twin
    moved = Region(x, whole, box).inside(clip(moved.reshape(x.shape).to(x), box))
    objective, warnings = fitted(Negative(log_prob), x)
    warnings += unsteady(objective) + too_wide(whole, box, x)
    precise, parts = Precise(objective), slices(len(x), batch_size)
    start_value, value = (precise.batches(points, parts) for points in (x, moved))
    infinite = (~value.isfinite()).long() + ~start_value.isfinite()
    if bad := int((infinite > 0).sum()):
        warnings.append(f"non-finite values at x or at the end in {bad} of {len(x)} samples")
    history = torch.stack((start_value, value))
    return Attack(moved, value, start_value, history, infinite, warnings)
