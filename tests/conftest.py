"""What all tests share: a generator, a small Glow, the gpu marker, few threads, no screen."""

from __future__ import annotations

import matplotlib
import pytest
import torch

from flowrob.flows import glow

collect_ignore = ["conftest.py"]  # as a module it would clash with the notebooks' conftest

matplotlib.use("Agg")
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator, freshly seeded for each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def flow():
    """A small Glow whose layers all do something, on 3x8x8 images."""
    flow = glow((3, 8, 8), num_levels=2, num_steps=2, width=8)
    flow.initialize(torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    return flow.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Six random 8-bit images for that Glow."""
    noise = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (6, 3, 8, 8), generator=noise).to(torch.uint8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu, saying why, where no CUDA device is present."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none here"))
