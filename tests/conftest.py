"""What all tests share: a seeded generator, the gpu marker, few threads, no screen."""

from __future__ import annotations

import matplotlib
import pytest
import torch

collect_ignore = ["conftest.py"]  # as a module it would clash with the notebooks' conftest

matplotlib.use("Agg")
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator, freshly seeded for each test."""
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu, saying why, where no CUDA device is present."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none here"))
