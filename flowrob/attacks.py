"""Attacks on likelihoods: projected gradient ascent in a ball around each image (2.2 and 4).

    maximise  objective(x + delta)   over   |delta| <= radius,   x + delta in the box

:func:`lower_likelihood` takes the negative log-likelihood for objective: a perturbation that
makes an image of the data absurd to the model. :func:`raise_likelihood` takes the
log-likelihood: it makes noise look like data. Both need nothing of a model but a ``log_prob``,
so they run on flows from any library. Radii are in units of x: eps grey levels are eps / 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """What an attack found.

    Attributes:
        x: (batch, ...), the best iterate of every sample; inside the ball and the box.
        value: (batch,), the objective there (nats, for the attacks on likelihoods).
        start_value: (batch,), the objective at the unperturbed x.
        history: (num_steps + 1, batch), the best value so far after every step of the restart
            that won.
        warnings: sentences about what looks wrong, empty if nothing does.
    """

    x: Tensor
    value: Tensor
    start_value: Tensor
    history: Tensor
    warnings: list[str] = field(default_factory=list)


def _radius(radius: float | Tensor, like: Tensor) -> Tensor:
    """The radius as a tensor that broadcasts against a batch shaped like ``like``."""
    radius = torch.as_tensor(radius, dtype=like.dtype, device=like.device)
    if not bool((torch.isfinite(radius) & (radius >= 0)).all()):
        raise ValueError(
            f"radius must be finite and >= 0, got {radius.tolist()}; "
            "for the paper's eps in grey levels use eps / 256"
        )
    if radius.dim() > 1 or (radius.dim() == 1 and len(radius) != len(like)):
        raise ValueError(
            f"radius must be a number or have shape ({len(like)},), got {tuple(radius.shape)}"
        )
    return radius.reshape(-1, *[1] * (like.dim() - 1)) if radius.dim() else radius


def _norm(x: Tensor) -> Tensor:
    """l_2 norm of every sample, shaped to broadcast against x."""
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class LinfBall:
    """All delta with max_i |delta_i| <= radius.

    Args:
        radius: in units of x (eps grey levels are eps / 256); a number, or (batch,).
    """

    radius: float | Tensor

    def random_point(self, noise: Tensor) -> Tensor:
        """A uniform point of the ball from uniform ``noise`` in [0, 1)."""
        return _radius(self.radius, noise) * (2.0 * noise - 1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """argmax of <gradient, d> over |d|_inf <= 1: the sign."""
        return gradient.sign()

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball."""
        radius = _radius(self.radius, delta)
        return torch.minimum(torch.maximum(delta, -radius), radius)

    def size(self, delta: Tensor) -> Tensor:
        """max_i |delta_i|, shape (batch,)."""
        return delta.flatten(1).abs().amax(1)


@dataclass(frozen=True)
class L2Ball:
    """All delta with (sum_i delta_i^2)^(1/2) <= radius.

    Args:
        radius: in units of x; a number, or (batch,).
    """

    radius: float | Tensor

    def random_point(self, noise: Tensor) -> Tensor:
        """A point of the ball from uniform ``noise`` in [0, 1): uniform direction and length.

        The length is uniform in [0, radius]: in many dimensions a point uniform in volume would
        always lie on the sphere.
        """
        gaussian = torch.special.ndtri(noise.clamp(1e-6, 1.0 - 1e-6))
        length = noise.flatten(1)[:, 0].reshape(-1, *[1] * (noise.dim() - 1))
        return _radius(self.radius, noise) * length * self.steepest(gaussian)

    def steepest(self, gradient: Tensor) -> Tensor:
        """argmax of <gradient, d> over |d|_2 <= 1: the normalised gradient (0 where it is 0)."""
        peak = gradient.flatten(1).abs().amax(1).reshape(-1, *[1] * (gradient.dim() - 1))
        scaled = gradient / peak.where(peak > 0, torch.ones_like(peak))  # no overflow in the norm
        norm = _norm(scaled)
        return scaled / norm.where(norm > 0, torch.ones_like(norm))

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball."""
        norm = _norm(delta)
        radius = _radius(self.radius, delta)
        return delta * (radius / norm.where(norm > 0, torch.ones_like(norm))).clamp(max=1.0)

    def size(self, delta: Tensor) -> Tensor:
        """|delta|_2, shape (batch,)."""
        return delta.flatten(1).norm(dim=1)


Ball = LinfBall | L2Ball


def _evaluate(objective: Objective, x: Tensor) -> Tensor:
    with torch.no_grad():
        return _checked(objective(x), x)


def _checked(value: Tensor, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the objective must return one value per sample, shape ({len(x)},), got {got}; "
            "do not average over the batch"
        )
    return value


def _value_and_gradient(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    """The objective and its gradient in x alone: no parameter's ``.grad`` is touched."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = _checked(objective(x), x)
        if not value.requires_grad:
            raise ValueError(
                "the objective does not depend on x through differentiable operations; "
                "remove any no_grad or detach inside it"
            )
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def pgd(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    *,
    num_steps: int = 20,
    step_size: float | None = None,
    decay: bool = False,
    momentum: float = 0.0,
    random_start: bool = False,
    restarts: int = 1,
    box: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Attack:
    """Projected gradient ascent: x <- project(x + step * steepest direction), best iterate kept.

    Every sample is attacked on its own: only its own gradient moves it, and only a better value
    replaces its best iterate. The objective's parameters are left alone, ``.grad`` included.

    Source: section 4 of the paper; Madry et al. 2018 for the algorithm.

    Args:
        objective: maps (batch, ...) to (batch,), to be maximised.
        x: (batch, ...), floating point, inside the box. Not modified.
        ball: :class:`LinfBall` or :class:`L2Ball`; its radius is in units of x.
        num_steps: gradient steps per restart.
        step_size: in units of x; default 2.5 * radius / num_steps (radius / 4 at ten steps), so
            that the boundary can be reached from anywhere.
        decay: let the step size fall to zero along a cosine.
        momentum: weight of the previous steepest directions in the next, in [0, 1).
        random_start: start the first restart at a random point of the ball, not at x. Further
            restarts always start at random points.
        restarts: how many times to start; the best of all is kept, sample by sample.
        box: lower and upper bound of x + delta, or None.
        generator: needed for random starts.
        progress: show a progress bar.

    Returns:
        An :class:`Attack`, whose value is never below the objective at x.

    Raises:
        ValueError: x outside the box, a negative radius, a random start without a generator, or
            an objective that averages over the batch.
        TypeError: x is not a floating-point tensor.
    """
    x = _check_start(x, box)
    for name, number in {"num_steps": num_steps, "restarts": restarts}.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, got {number!r}")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if (random_start or restarts > 1) and generator is None:
        raise ValueError("random starts need generator=torch.Generator().manual_seed(...)")
    radius = _radius(ball.radius, x)
    step = 2.5 * radius / num_steps if step_size is None else step_size
    start_value = _evaluate(objective, x)
    best_x, best_value, best_history = x.clone(), start_value.clone(), None
    bar = tqdm(total=restarts * num_steps, disable=not progress, desc="attack", leave=False)
    for restart in range(restarts):
        current, velocity = x, torch.zeros_like(x)
        if random_start or restart:
            noise = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
            current = _clip(x + ball.random_point(noise), box)
        run_x, run_value, history = x.clone(), start_value.clone(), []
        for k in range(num_steps + 1):
            if k < num_steps:
                value, gradient = _value_and_gradient(objective, current)
            else:
                value = _evaluate(objective, current)
            better = value > run_value
            run_value = torch.where(better, value, run_value)
            run_x[better] = current[better]
            history.append(run_value.clone())
            if k < num_steps:
                gradient = torch.nan_to_num(gradient, nan=0.0)
                velocity = momentum * velocity + (1.0 - momentum) * ball.steepest(gradient)
                scale = 0.5 * (1.0 + math.cos(math.pi * k / num_steps)) if decay else 1.0
                moved = current + scale * step * ball.steepest(velocity)
                current = _clip(x + ball.project(moved - x), box)
                bar.update()
        better = run_value > best_value
        best_value = torch.where(better, run_value, best_value)
        best_x[better] = run_x[better]
        run_history = torch.stack(history)
        best_history = (
            run_history if best_history is None else best_history.where(~better, run_history)
        )
    bar.close()
    return Attack(best_x, best_value, start_value, best_history)


def _clip(x: Tensor, box: tuple[float, float] | None) -> Tensor:
    return x if box is None else x.clamp(*box)


def _check_start(x: Tensor, box: tuple[float, float] | None) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"x must be a floating-point tensor, got {kind}; "
            "turn uint8 images into x with flowrob.data.dequantize(images, generator)"
        )
    x = x.detach()
    if box is not None and x.numel() and not bool(((x >= box[0]) & (x <= box[1])).all()):
        raise ValueError(
            f"x must lie in the box [{box[0]}, {box[1]}], got values from {x.min():.4g} to "
            f"{x.max():.4g}; rescale x, or pass box=None for data that are not images"
        )
    return x


def lower_likelihood(log_prob: Objective, x: Tensor, ball: Ball, **options) -> Attack:
    """The in-distribution attack: maximise -log p(x + delta), so that data look absurd.

    Source: section 4 of the paper, which ascends the negative log-likelihood.

    Args:
        log_prob: maps (batch, ...) to (batch,) log-densities in nats; any library's.
        x: (batch, ...), inside the box.
        ball: which perturbations are allowed.
        **options: those of :func:`pgd`.

    Returns:
        An :class:`Attack` whose value is the negative log-likelihood in nats.
    """
    return pgd(lambda y: -log_prob(y), x, ball, **options)


def raise_likelihood(log_prob: Objective, x: Tensor, ball: Ball, **options) -> Attack:
    """The out-of-distribution attack: maximise log p(x + delta), so that noise looks like data.

    Raising a likelihood means settling into a maximum, so the step size decays by default.

    Source: section 4 of the paper.

    Args:
        log_prob: maps (batch, ...) to (batch,) log-densities in nats; any library's.
        x: (batch, ...), inside the box.
        ball: which perturbations are allowed.
        **options: those of :func:`pgd`.

    Returns:
        An :class:`Attack` whose value is the log-likelihood in nats.
    """
    return pgd(log_prob, x, ball, **{"decay": True, **options})


def uniform_noise(
    x: Tensor,
    radius: float,
    generator: torch.Generator,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """The baseline of every table: x + u with u uniform in [-radius, radius], clipped to the box.

    Source: section 5 of the paper.

    Args:
        x: (batch, ...), inside the box. Not modified.
        radius: in units of x.
        generator: draws u.
        box: lower and upper bound of the result, or None.
    """
    x = _check_start(x, box)
    noise = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
    return _clip(x + LinfBall(radius).random_point(noise), box)
