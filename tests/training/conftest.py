"""What the tests of training share: small photographs, and a spy on the attacks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from flowrob.data import load
from flowrob.training import Loss

collect_ignore = ["conftest.py"]  # as a module it would clash with the other ones


class Attacked(NamedTuple):
    """One call of Loss.perturb, and what it found."""

    x: Tensor
    radius: Tensor
    num_steps: int
    start: Tensor | None
    reach: float | Tensor
    found: Tensor


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """400 photographs, 3x8x8."""
    return load("photos", size=8, limit=400)


@pytest.fixture
def attacks(monkeypatch) -> list[Attacked]:
    """Every attack of the runs to come, in order."""
    calls, original = [], Loss.perturb

    def spy(self, flow, x, radius, num_steps, start=None, reach=2.0):
        found = original(self, flow, x, radius, num_steps, start, reach)
        calls.append(Attacked(x, radius, num_steps, start, reach, found))
        return found

    monkeypatch.setattr(Loss, "perturb", spy)
    return calls
