"""Checkpoints: killed and interrupted runs continue as if nothing had happened."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import FAST, SMALL, equal, run_until, weights

from flowrob.flows import glow
from flowrob.training import Checkpoint, Loss, checkpoints, fit

KILLED = """
import torch
from flowrob.data import load
from flowrob.flows import glow
from flowrob.training import Checkpoint, Loss, Update, fit
torch.set_num_threads(1)
fit(glow(**{small}), load("photos", size=8, limit=400), Loss.of("hybrid", attack_steps=2),
    num_steps={steps}, checkpoint=Checkpoint({path!r}, every=3), **{fast})
"""


def test_a_run_killed_mid_way_resumes_bit_for_bit(images, tmp_path):
    path = tmp_path / "run.safetensors"
    steps = 2_000  # far more than the process is given time for
    code = textwrap.dedent(KILLED.format(small=SMALL, steps=steps, path=str(path), fast=FAST))
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(checkpoints.read(path)[0]["step"])
    assert 0 < reached < steps

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, straight = glow(**SMALL), glow(**SMALL)
        loss, settings = Loss.of("hybrid", attack_steps=2), {"num_steps": steps, **FAST}
        stop = reached + 4
        run_until(stop, resumed, images, loss, checkpoint=Checkpoint(path, every=3), **settings)
        run_until(stop, straight, images, loss, **settings)
    finally:
        torch.set_num_threads(threads)
    assert equal(weights(resumed), weights(straight))


def test_ctrl_c_ends_after_the_step_and_the_run_can_go_on(images, tmp_path):
    path = tmp_path / "run.safetensors"
    loss, settings = Loss.of("hybrid", attack_steps=1), {"num_steps": 12, **FAST}
    stopped, straight = glow(**SMALL), glow(**SMALL)
    handler = signal.getsignal(signal.SIGINT)
    run_until(5, stopped, images, loss, checkpoint=path, **settings)
    assert signal.getsignal(signal.SIGINT) is handler and not stopped.training
    history = fit(stopped, images, loss, checkpoint=path, **settings)
    whole = fit(straight, images, loss, **settings)
    assert not history.interrupted and len(history.clean) == 12
    assert equal(weights(stopped), weights(straight))
    for part in ("clean", "adversarial", "loss"):
        assert getattr(history, part) == getattr(whole, part)


def test_a_finished_run_has_nothing_left_to_do(images, tmp_path):
    path = tmp_path / "run.safetensors"
    first, again = glow(**SMALL), glow(**SMALL)
    history = fit(first, images, "adversarial", num_steps=3, checkpoint=path, **FAST)
    before = path.read_bytes()
    done = fit(again, images, "adversarial", num_steps=3, checkpoint=path, **FAST)
    assert (done.loss, done.seconds) == (history.loss, history.seconds)
    assert equal(weights(again), weights(first)) and path.read_bytes() == before


def test_checkpoints_are_written_when_they_are_due_and_at_the_end(images, tmp_path, monkeypatch):
    written, original = [], checkpoints.save

    def spy(path, flow, optimizer, state, recipe):
        written.append(state.step)
        original(path, flow, optimizer, state, recipe)

    monkeypatch.setattr(checkpoints, "save", spy)
    for every, expected in ((3, [3, 6, 8]), (200, [8])):
        path = tmp_path / f"{every}.safetensors"
        fit(glow(**SMALL), images, num_steps=8, checkpoint=Checkpoint(path, every), **FAST)
        assert written == expected
        written.clear()


def test_truncated_foreign_and_mismatched_checkpoints_are_refused(images, tmp_path):
    path = tmp_path / "run.safetensors"
    fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)
    assert list(tmp_path.iterdir()) == [path]  # no partial file is left behind
    with pytest.raises(ValueError, match=r"another run.*'seed': \(0, 1\)"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, seed=1, **FAST)
    with pytest.raises(ValueError, match=r"another run.*'flow'"):
        other = glow(**{**SMALL, "width": 4})
        fit(other, images, num_steps=2, checkpoint=path, **FAST)
    with pytest.raises(ValueError, match=r"another run.*'images_crc32'"):
        fit(glow(**SMALL), images.flip(0), num_steps=2, checkpoint=path, **FAST)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(path), foreign)
    with pytest.raises(ValueError, match="not a flowrob checkpoint"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    metadata, tensors = checkpoints.read(path)
    renamed = {k.replace("log_scale", "logs"): v for k, v in tensors.items()}
    save_file(renamed, foreign, metadata)
    with pytest.raises(ValueError, match="names other weights than this flow"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)


def test_a_checkpoint_belongs_to_its_loss(images, tmp_path):
    path, loss = tmp_path / "run.safetensors", Loss.of("hybrid", attack_steps=1)
    fit(glow(**SMALL), images, loss, num_steps=1, checkpoint=path, **FAST)
    others = (Loss.of(loss, eps=4.0), Loss.of(loss, random_eps=0.5), "clean")
    for other in others:
        with pytest.raises(ValueError, match=r"another run.*'loss': \(.*'hybrid'"):
            fit(glow(**SMALL), images, other, num_steps=1, checkpoint=path, **FAST)


def test_a_plain_path_is_a_checkpoint_at_the_default_interval(tmp_path):
    assert Checkpoint.of(tmp_path / "run") == Checkpoint(tmp_path / "run", every=200)
    given = Checkpoint("run", every=7)
    assert Checkpoint.of(given) is given and Checkpoint.of(None) is None


def test_an_interval_below_1_is_refused_when_the_checkpoint_is_made():
    for wrong in (0, -5):
        with pytest.raises(ValueError, match=f"every must be at least 1, got {wrong}"):
            Checkpoint("run.safetensors", wrong)
