"""Balls: the sets of perturbations that an attack may use (section 2.2).

    LinfBall(r):  max_i |delta_i| <= r            L2Ball(r):  (sum_i delta_i^2)^(1/2) <= r

A ball knows four things: a random point, the steepest direction for a gradient, the projection,
and how to round a perturbation of grey levels to integers without leaving the ball. A
:class:`Region` is where x + delta may be: the ball around x, cut by the box that holds all images.
Sums are rounded: where x + delta would end outside, as measured in float64, it is rounded towards
x instead, so that a ball narrower than the spacing of numbers around x holds x alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, SupportsFloat

import torch
from torch import Tensor

from flowrob.units import check_dense

Box = tuple[float, float] | None  # lower and upper bound of x + delta, or none
SLACK = 1e-4  # of the radius: what rounding may add to a distance before x + delta is mended


def column(values: Tensor, like: Tensor) -> Tensor:
    """(batch,) reshaped so that it broadcasts against ``like`` (batch, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _norm(x: Tensor) -> Tensor:
    """l_2 norm of every sample, shaped to broadcast against x."""
    norm = column(x.flatten(1).norm(dim=1), x)
    tiny, huge = torch.finfo(x.dtype).tiny ** 0.5, torch.finfo(x.dtype).max
    lost = (norm < tiny / torch.finfo(x.dtype).eps) | (norm > huge)  # its squares under-, overflow
    if x.shape[1:].numel() == 0 or not bool(lost.any()):
        return norm
    peak = column(x.flatten(1).abs().amax(1), x)
    scaled = x / peak.where((peak > 0) & (peak < torch.inf), torch.ones_like(peak))
    return norm.where(~lost, peak * column(scaled.flatten(1).norm(dim=1), x))


def unit(gradient: Tensor) -> Tensor:
    """gradient / |gradient|_2 for every sample, without overflow; 0 where it is 0."""
    peak = column(gradient.flatten(1).abs().amax(1), gradient)
    scaled = gradient / peak.where(peak > 0, torch.ones_like(peak))
    norm = _norm(scaled)
    return scaled / norm.where(norm > 0, torch.ones_like(norm))


def _radius(radius: float | Tensor, like: Tensor) -> Tensor:
    """The radius as a tensor that broadcasts against a batch shaped like ``like``."""
    radius = torch.as_tensor(radius, dtype=like.dtype, device=like.device).detach()
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
        # checked further by .on, beside x
        if isinstance(self.radius, bool) or not isinstance(self.radius, SupportsFloat):
            raise TypeError(f"radius must be a number or a tensor, got {self.radius!r}")
        if isinstance(self.radius, Tensor):
            check_dense(self.radius, "radius")
            if self.radius.is_complex() or self.radius.dtype == torch.bool:
                raise TypeError(f"radius must hold real numbers, got {self.radius.dtype}")

    def on(self, x: Tensor, part: slice = slice(None)) -> Self:
        """This ball with its radius checked and shaped for ``x[part]``."""
        check_dense(x)
        if not x.is_floating_point() or not x.dim():
            raise TypeError(f"x must be a batch of floating-point numbers, got {x.dtype}")
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


def check_box(box: Box) -> None:
    """Raise unless ``box`` is None or two numbers, the lower one first.

    Raises:
        TypeError: something else.
        ValueError: NaN, or a lower bound that is not below the upper one.
    """
    if box is None:
        return
    if not (isinstance(box, tuple | list) and len(box) == 2) or not all(
        isinstance(bound, int | float) for bound in box
    ):
        raise TypeError(f"box must be (lower, upper), two numbers, or None, got {box!r}")
    if not box[0] < box[1]:
        raise ValueError(f"box must be (lower, upper) with lower < upper, got {box!r}")


def too_wide(ball: Ball, box: Box, x: Tensor) -> list[str]:
    """A warning if a ball, shaped for x, holds the whole box: the usual slip is one of units."""
    if box is None or not x.numel():
        return []
    across = (box[1] - box[0]) * (x[0].numel() ** 0.5 if isinstance(ball, L2Ball) else 1.0)
    widest = torch.as_tensor(ball.radius).max().item()
    if not widest >= across:
        return []
    return [
        f"the ball of radius {widest:.4g} holds the whole box [{box[0]:g}, {box[1]:g}], from "
        "wherever it is seen: radii are in units of x, so the paper's eps is eps / 256 for x in "
        "[0, 1] (attack_images and the tables take grey levels)"
    ]


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
        return self.inside(clip(self.x + self.ball.project(moved - self.x), self.box))

    def inside(self, point: Tensor) -> Tensor:
        """``point``, in the ball but for rounding: where it lies outside, it moves towards x.

        A distance in float64 exceeds the radius by no more than a ten-thousandth of it, the
        rounding of the sum x + delta at ordinary radii.
        """
        if not len(point) or point.device.type == "mps":  # which has no float64
            return point
        x, ball = self.x.double(), type(self.ball)(torch.as_tensor(self.ball.radius).double())
        delta = point.double() - x
        limit = column(torch.as_tensor(ball.radius).expand(len(x), *[1] * (x.dim() - 1)), x)
        outside = column(ball.size(delta), x) > (1.0 + SLACK) * limit
        if not bool(outside.any()):
            return point
        allowed = ball.project(delta)
        rounded = (x + allowed).to(point)
        nearer = torch.nextafter(rounded, self.x)
        rounded = nearer.where((rounded.double() - x).abs() > allowed.abs(), rounded)
        return rounded.where(outside, point)

    def random_point(self, noise: Tensor) -> Tensor:
        """x + a random point of the ball, from uniform ``noise`` in [0, 1), inside the region."""
        return self.project(self.x + self.ball.random_point(noise))
