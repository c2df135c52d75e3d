"""Visits: how long the attack on an image lasts, and where it begins (section 4).

    Fresh()      every step attacks its own batch, from x, as the paper does
    PerImage()   an attack begins where that on the same image ended an epoch ago
    Pool(20)     an image stays under attack for 20 visits, in as many steps of the training

Attacks are what robust training spends its time on, and short ones are not enough: a hybrid model,
which may tell clean images from attacked ones, learns to hide from those. The last two make long
attacks at the price of short ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowrob.attacks.balls import column


class Visit(NamedTuple):
    """Whom a step attacks.

    Attributes:
        place: in the pool.
        drawn_at: the step whose batch they are of.
        age: how often they were visited before.
    """

    place: int
    drawn_at: int
    age: int


@dataclass(frozen=True)
class Fresh:
    """Every step attacks images of its own batch, from nothing: nothing is remembered."""

    def visit(self, step: int) -> Visit:
        """The step's own batch."""
        return Visit(0, step, 0)

    def room(self, num_images: int, batch_size: int) -> int:
        """How many perturbations are kept."""
        return 0

    def places(self, visit: Visit, indices: Tensor, batch_size: int) -> Tensor:
        """Where the perturbations of the images ``indices`` are kept."""
        return indices

    def begin(
        self, kept: Tensor, visit: Visit, generator: torch.Generator
    ) -> tuple[Tensor | None, float | Tensor]:
        """Where attacks start, None for x, and how far their first step reaches, both in radii."""
        return None, 2.0


@dataclass(frozen=True)
class PerImage(Fresh):
    """An attack starts where that on the same image last ended, with a step of one radius.

    Few steps then go far, and attacks stay closer to what they found before. Costs one byte per
    pixel of the training images in memory and in the checkpoint.
    """

    def room(self, num_images: int, batch_size: int) -> int:
        """One for every image."""
        return num_images

    def begin(
        self, kept: Tensor, visit: Visit, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """At ``kept``, with a first step of one radius."""
        return kept, kept.new_ones(len(kept))


@dataclass(frozen=True)
class Pool(Fresh):
    """Of ``visits`` batches each image stays under attack, every ``visits``-th step.

    Each visit goes on where the last one ended: long attacks at the price of short ones, on fewer
    images, and models that look robust because short attacks do not find their way are found out
    while they train, but for what only attacks that are longer still would find. Costs one byte
    per pixel of ``visits`` batches in memory and in the checkpoint.

    Attributes:
        visits: how many batches are under attack, and how often each is visited.
    """

    visits: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.visits, int) or self.visits < 2:
            raise ValueError(f"visits must be at least 2, got {self.visits!r}; one is Fresh()")

    def visit(self, step: int) -> Visit:
        """The pool's places in turn.

        Every round another place, and one only, gets new images, so that attacks of all ages are
        in it.
        """
        round_, place = divmod(step, self.visits)
        age = min(round_, (round_ + place) % self.visits)  # in the first round all are new
        return Visit(place, step - age * self.visits, age)

    def room(self, num_images: int, batch_size: int) -> int:
        """One for every image of the pool's batches."""
        return self.visits * batch_size

    def places(self, visit: Visit, indices: Tensor, batch_size: int) -> Tensor:
        """The first of the batch's places."""
        return visit.place * batch_size + torch.arange(len(indices))

    def begin(
        self, kept: Tensor, visit: Visit, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """New attacks at x or, one in two, anywhere in the ball, with a first step of two radii.

        Older ones go on from ``kept`` with a step log-uniform in [1/8, 2]: long ones jump from
        corner to corner of the ball, short ones climb on between the corners, where attacks of few
        steps never look.
        """
        if visit.age:
            return kept, 2.0 ** (1.0 - 4.0 * torch.rand(len(kept), generator=generator))
        anywhere = 2.0 * torch.rand(kept.shape, generator=generator) - 1.0
        away = torch.rand(len(kept), generator=generator) < 0.5
        return anywhere * column(away, anywhere), kept.new_full((len(kept),), 2.0)


Memory = Fresh | PerImage | Pool
KINDS = {"fresh": Fresh, "per image": PerImage, "pool": Pool}
