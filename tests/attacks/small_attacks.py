"""What the tests of the attacks share: seeds, schedules, an easy objective."""

from __future__ import annotations

import torch
from torch import Tensor

from flowrob.attacks import Attack

SCHEDULES = [
    {"schedule": "constant"},
    {"schedule": "constant", "momentum": 0.75},
    {"schedule": "cosine"},
    {"schedule": "auto"},
]


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def quiet(y: Tensor) -> Tensor:
    """An objective that every attack maximises without a warning."""
    return y.sum(1)


def warned(attack: Attack, words: str) -> bool:
    """Whether a warning of the attack holds the words."""
    return any(words in warning for warning in attack.warnings)
