"""Batches: what a step draws depends on (seed, step) alone.

A resumed run therefore needs no generator state and continues bit for bit where it stopped. Under
torchrun every process draws the same batch and takes its own rows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowrob.units import dequantize


def step_generator(seed: int, *key: int) -> torch.Generator:
    """A generator that depends on (seed, *key) alone: the same in a resumed run."""
    state = np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def batch_indices(num_images: int, batch_size: int, step: int, seed: int) -> Tensor:
    """The images of step ``step``: successive slices of a fresh permutation per epoch."""
    per_epoch = num_images // batch_size
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(num_images, generator=step_generator(seed, 0, epoch))
    return order[position * batch_size : (position + 1) * batch_size]


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Those images left-right that are to be mirrored, (batch,)."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


class Batch(NamedTuple):
    """One step's images.

    Attributes:
        indices: which of the images, (batch,).
        mirrored: whether each was mirrored, (batch,).
        x: (batch, C, H, W) in [0, 1), dequantised.
        generator: of that step, to go on with.
    """

    indices: Tensor
    mirrored: Tensor
    x: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Batches:
    """All batches of a run, by step.

    Attributes:
        images: (N, C, H, W) uint8.
        batch_size: images per step.
        flips: mirror every image left-right with probability 1/2.
        seed: of order, flips and dequantisation noise.
    """

    images: Tensor
    batch_size: int
    flips: bool
    seed: int

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        generator = step_generator(self.seed, 1, step)
        chosen = batch_indices(len(self.images), self.batch_size, step, self.seed)
        batch, mirrored = self.images[chosen], torch.zeros(self.batch_size, dtype=torch.bool)
        if self.flips:
            mirrored = torch.rand(self.batch_size, generator=generator) < 0.5
            batch = mirror(batch, mirrored)
        return Batch(chosen, mirrored, dequantize(batch, generator), generator)
