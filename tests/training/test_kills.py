"""Runs that are killed again and again, whatever they are doing, end as if nothing had happened.

FLOWROB_KILLS sets how many kills each test makes (default: 4). The processes are forked, so that a
life of a run is short and most kills fall into steps and saves, not into imports.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import FAST, SMALL, equal, weights

from flowrob import zoo
from flowrob.cli import main
from flowrob.flows import glow
from flowrob.training import Checkpoint, Loss, fit

KILLS = int(os.environ.get("FLOWROB_KILLS", "4"))
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def kill_again_and_again(run: Callable[[], object], checkpoint: Path) -> int:
    """Start ``run`` in a process of its own and kill it, KILLS times; how often it was alive.

    Each is killed a moment after it saved: in a step, or in the next save.
    """
    chance, alive = random.Random(0), 0
    for _ in range(KILLS):
        before, patience = saved_at(checkpoint), time.monotonic() + 60.0
        child = os.fork()
        if not child:
            try:
                sys.stderr = sys.stdout = open(os.devnull, "w")
                run()
            finally:
                os._exit(0)
        while saved_at(checkpoint) == before and time.monotonic() < patience:
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        alive += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    return alive


def saved_at(path: Path) -> int:
    """When a file was written, 0 if it is not there yet."""
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.fixture
def one_thread():
    """Forked processes and this one compute with one thread, and so alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_killed_again_and_again_ends_bit_for_bit(images, tmp_path, one_thread):
    path = tmp_path / "run.safetensors"
    loss = Loss.of("hybrid", attack_steps=1)

    def run(flow, checkpoint=None):
        fit(flow, images, loss, num_steps=40 + 3 * KILLS, checkpoint=checkpoint, **FAST)
        return weights(flow)

    alive = kill_again_and_again(lambda: run(glow(**SMALL), Checkpoint(path, every=1)), path)
    ended = run(glow(**SMALL), Checkpoint(path, every=1))
    assert equal(ended, run(glow(**SMALL))) and alive > KILLS // 2
    assert {p.name for p in tmp_path.iterdir()} == {path.name}


def test_a_command_killed_again_and_again_ends_bit_for_bit(tmp_path, one_thread):
    def command(folder: Path) -> list[str]:
        files = ["--output", str(folder / "w.safetensors")]
        checkpoint = ["--checkpoint", str(folder / "run.safetensors")]
        options = {"num_steps": 20 + KILLS, "batch_size": 16, "checkpoint_every": 1}
        told = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
        ranges = ["--train", "0:64", "--report", "0:2", "--quiet"]
        return ["train", "--preset", "tiny-clean", *files, *checkpoint, *told, *ranges]

    folders = [tmp_path / name for name in ("killed", "straight")]
    path = folders[0] / "run.safetensors"
    alive = kill_again_and_again(lambda: main(command(folders[0])), path)
    assert [main(command(folder)) for folder in folders] == [0, 0]
    killed, straight = (zoo.load(folder / "w.safetensors", "cpu") for folder in folders)
    assert equal(weights(killed), weights(straight)) and alive > KILLS // 2
