"""Balls: the sets of perturbations that an attack may use (section 2.2).

    LinfBall(r):  max_i |delta_i| <= r            L2Ball(r):  (sum_i delta_i^2)^(1/2) <= r

A ball knows four things: a random point, the steepest direction for a gradient, the projection,
and how to round a perturbation of grey levels to integers without leaving the ball. A
:class:`Region` is where x + delta may be: the ball around x, cut by the box that holds all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, SupportsFloat

import torch
from torch import Tensor

Box = tuple[float, float] | None  # lower and upper bound of x + delta, or none


def column(values: Tensor, like: Tensor) -> Tensor:
    """(batch,) reshaped so that it broadcasts against ``like`` (batch, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _norm(x: Tensor) -> Tensor:
    """l_2 norm of every sample, shaped to broadcast against x."""
    return column(x.flatten(1).norm(dim=1), x)


def unit(gradient: Tensor) -> Tensor:
    """gradient / |gradient|_2 for every sample, without overflow; 0 where it is 0."""
    peak = column(gradient.flatten(1).abs().amax(1), gradient)
    scaled = gradient / peak.where(peak > 0, torch.ones_like(peak))
    norm = _norm(scaled)
    return scaled / norm.where(norm > 0, torch.ones_like(norm))


def _radius(radius: float | Tensor, like: Tensor) -> Tensor:
    """The radius as a tensor that broadcasts against a batch shaped like ``like``."""
    radius = torch.as_tensor(radius, dtype=like.dtype, device=like.device)
    if radius.dim() == like.dim() > 1 and radius.shape[1:].numel() == 1:
        radius = radius.flatten()  # one per sample already, as Ball.on makes it, or one for all
        radius = radius[0] if len(radius) == 1 else radius
    if not bool((torch.isfinite(radius) & (radius >= 0)).all()):
        raise ValueError(
            f"radius must be finite and >= 0, got {radius.tolist()}; "
            "for the paper's eps in grey levels use eps / 256"
        )
    if radius.dim() > 1 or (radius.dim() == 1 and len(radius) != len(like)):
        raise ValueError(
            f"radius must be a number or have shape ({len(like)},), got {tuple(radius.shape)}"
        )
    return column(radius.expand(len(like)), like)


@dataclass(frozen=True)
class _Ball:
    radius: float | Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.radius, SupportsFloat):  # checked further by .on, beside x
            raise TypeError(f"radius must be a number or a tensor, got {self.radius!r}")

    def on(self, x: Tensor, part: slice = slice(None)) -> Self:
        """This ball with its radius checked and shaped for ``x[part]``."""
        return type(self)(_radius(self.radius, x)[part])


@dataclass(frozen=True)
class LinfBall(_Ball):
    """All delta with ``max_i |delta_i| <= radius``.

    Args:
        radius: in units of x (eps grey levels are eps / 256); a number, or (batch,).

    >>> LinfBall(0.5).project(torch.tensor([[2.0, -0.1]]))
    tensor([[ 0.5000, -0.1000]])
    """

    def random_point(self, noise: Tensor) -> Tensor:
        """A uniform point of the ball from uniform ``noise`` in [0, 1)."""
        return _radius(self.radius, noise) * (2.0 * noise - 1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """``argmax <gradient, d>`` over ``|d|_inf <= 1``: the sign."""
        return gradient.sign()

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball."""
        radius = _radius(self.radius, delta)
        return torch.minimum(torch.maximum(delta, -radius), radius)

    def size(self, delta: Tensor) -> Tensor:
        """``max_i |delta_i|``, shape (batch,)."""
        return delta.flatten(1).abs().amax(1)

    def round(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball with integer coordinates."""
        return LinfBall(_radius(self.radius, delta).floor()).project(delta.round())


@dataclass(frozen=True)
class L2Ball(_Ball):
    """All delta with ``(sum_i delta_i^2)^(1/2) <= radius``.

    Args:
        radius: in units of x; a number, or (batch,).

    >>> L2Ball(1.0).project(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    def random_point(self, noise: Tensor) -> Tensor:
        """A point of the ball from uniform ``noise`` in [0, 1): uniform direction and length.

        The length is uniform in [0, radius]: in many dimensions a point uniform in volume would
        always lie on the sphere.
        """
        gaussian = torch.special.ndtri(noise.clamp(1e-6, 1.0 - 1e-6))
        length = column(noise.flatten(1).sum(1) % 1.0, noise)
        return _radius(self.radius, noise) * length * self.steepest(gaussian)

    def steepest(self, gradient: Tensor) -> Tensor:
        """``argmax <gradient, d>`` over ``|d|_2 <= 1``: the gradient normalised, or 0."""
        return unit(gradient)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball."""
        norm = _norm(delta)
        radius = _radius(self.radius, delta)
        return delta * (radius / norm.where(norm > 0, torch.ones_like(norm))).clamp(max=1.0)

    def size(self, delta: Tensor) -> Tensor:
        """``|delta|_2``, shape (batch,)."""
        return delta.flatten(1).norm(dim=1)

    def round(self, delta: Tensor) -> Tensor:
        """An integer point of the ball near delta: round(s delta), s in [0, 1] as big as fits.

        s is searched on a grid of hundredths.
        """
        limit, rounded = _radius(self.radius, delta), torch.zeros_like(delta)
        for hundredths in range(1, 101):
            candidate = (0.01 * hundredths * delta).round()
            rounded = torch.where(_norm(candidate) <= limit, candidate, rounded)
        return rounded


Ball = LinfBall | L2Ball


def check_ball(ball: Ball) -> None:
    """Raise a TypeError unless ``ball`` is a ball of this module."""
    if not isinstance(ball, _Ball):
        raise TypeError(f"ball must be LinfBall(radius) or L2Ball(radius), got {ball!r}")


def clip(x: Tensor, box: Box) -> Tensor:
    """x cut to the box; x itself without one."""
    return x if box is None else x.clamp(*box)


@dataclass(frozen=True)
class Region:
    """All x + delta with delta in the ball, cut to the box.

    Attributes:
        x: (batch, ...), the centres.
        ball: shaped for x, by :meth:`LinfBall.on`.
        box: lower and upper bound, or None.
    """

    x: Tensor
    ball: Ball
    box: Box

    def project(self, moved: Tensor) -> Tensor:
        """The point of the ball nearest to ``moved``, then cut to the box: that shrinks |delta|."""
        return clip(self.x + self.ball.project(moved - self.x), self.box)

    def random_point(self, noise: Tensor) -> Tensor:
        """x + a random point of the ball, from uniform ``noise`` in [0, 1), inside the region."""
        return self.project(self.x + self.ball.random_point(noise))
