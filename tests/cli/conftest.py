"""What the tests of the command line share: one short run."""

from pathlib import Path

import pytest
from small_commands import tiny

from flowrob.cli import main

collect_ignore = ["conftest.py"]  # as a module it would clash with the other ones


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with the weights and the record of a tiny hybrid run."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(tiny("tiny-hybrid", folder)) == 0
    return folder
