"""Validation: the averaged weights on other images, scored by the loss that is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowrob.attacks.objectives import evaluate
from flowrob.attacks.starts import check_integers
from flowrob.distributed import Group
from flowrob.flows import Flow
from flowrob.training.batches import step_generator
from flowrob.training.losses import Loss
from flowrob.training.update import set_weights, weights_of
from flowrob.units import bits_per_dim, check_images, dequantize


@dataclass(frozen=True)
class Validation:
    """What a run is validated on, and how often.

    Attributes:
        images: (M, C, H, W) uint8, scored by the loss that is trained, at full eps and
            attack_steps (the share random_eps of them at evenly spaced radii).
        every: steps between validations; the last step is always followed by one.
        keep_best: end with the averaged weights that scored best, not the last.

    Raises:
        TypeError: images that are not uint8, or a keep_best that is no truth value.
        ValueError: no images, or ``every`` below 1.
    """

    images: Tensor
    every: int = 500
    keep_best: bool = False

    def __post_init__(self) -> None:
        check_images(self.images, "validation images")
        check_integers(1, every=self.every)
        if not isinstance(self.keep_best, bool):
            raise TypeError(f"keep_best must be True or False, got {self.keep_best!r}")

    @classmethod
    def of(cls, validation: Validation | Tensor | None) -> Validation | None:
        """A validation, or plain images at the default interval."""
        if validation is None or isinstance(validation, Validation):
            return validation
        return cls(validation)

    def due(self, done: int, num_steps: int) -> bool:
        """Whether to validate after ``done`` steps."""
        return done % self.every == 0 or done == num_steps

    def score(
        self, flow: Flow, weights: dict[str, Tensor], loss: Loss, seed: int, group: Group
    ) -> float:
        """Bits/dim of ``weights``; the flow's own come back afterwards."""
        current, own = weights_of(flow), group.rows(len(self.images))
        set_weights(flow, weights)
        weight = next(flow.parameters())
        x = dequantize(self.images, step_generator(seed, 3))[own].to(weight)
        radii = loss.validation_radius(len(self.images))[own].to(weight)
        parts = zip(x.split(128), radii.split(128), strict=True)
        scores = torch.cat([_score(flow, loss, part, radius) for part, radius in parts])
        set_weights(flow, current)
        return group.gather(scores, len(self.images)).mean().item()


def _score(flow: Flow, loss: Loss, x: Tensor, radius: Tensor) -> Tensor:
    """(1 - a) NLL(x) + a NLL(x + delta*(x)) in bits/dim, (batch,)."""

    def bits(x: Tensor) -> Tensor:
        return bits_per_dim(evaluate(flow.log_prob, x), flow.num_dims)

    value = (1.0 - loss.share) * bits(x) if loss.share < 1.0 else torch.zeros_like(radius)
    if loss.share:
        value = value + loss.share * bits(loss.perturb(flow, x, radius, loss.attack_steps))
    return value
