"""What the tests of the attacks share: the small images as x."""

from __future__ import annotations

import pytest
import torch

collect_ignore = ["conftest.py"]  # as a module it would clash with the other ones


@pytest.fixture(scope="module")
def x(images) -> torch.Tensor:
    """The small images, in the middle of their grey levels."""
    return (images + 0.5) / 256
