"""Checkpoints: killed and interrupted runs continue as if nothing had happened."""

import json
import math
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import FAST, SMALL, equal, run_until, weights

from flowrob.flows import glow
from flowrob.records import locked, write_tensors
from flowrob.training import Checkpoint, Loss, PerImage, Update, checkpoints, fit

KILLED = """
import torch
from flowrob.data import load
from flowrob.flows import glow
from flowrob.records import locked, write_tensors
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
    with pytest.raises(ValueError, match=r"foreign.*is not a checkpoint that flowrob wrote"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    words, tensors = checkpoints.read(path)
    renamed = {k.replace("log_scale", "logs"): v for k, v in tensors.items()}
    write_tensors(foreign, "checkpoint", renamed, words)
    with pytest.raises(ValueError, match="names other weights than this flow"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"run\.safetensors is not a readable"):
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


def test_no_flipped_bit_is_resumed_in_silence(images, tmp_path):
    path = tmp_path / "run.safetensors"
    fit(glow(**SMALL), images, "adversarial", num_steps=1, checkpoint=path, **FAST)
    whole = path.read_bytes()
    places = torch.randint(len(whole) * 8, (150,), generator=torch.Generator().manual_seed(0))
    for place in places.tolist():
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"run\.safetensors"):
            checkpoints.read(path)
    with pytest.raises(ValueError, match=r"run\.safetensors"):
        fit(glow(**SMALL), images, "adversarial", num_steps=1, checkpoint=path, **FAST)
    assert path.read_bytes() == bytes(broken)  # left as it was found, for whoever wants to look


CRAFTED = {
    "finished": (lambda words, tensors: words.update(step="9999"), "says step 9999 of 4"),
    "negative": (lambda words, tensors: words.update(step="-1"), "says step -1 of 4"),
    "no number": (lambda words, tensors: words.update(step="two"), "not as a run writes it"),
    "no JSON": (lambda words, tensors: words.update(recipe="{"), "not as a run writes it"),
    "no recipe": (lambda words, tensors: words.update(recipe="3"), "holds no recipe, but 3"),
    "no history": (lambda words, tensors: words.update(history='{"a": 1}'), "not as a run writes"),
    "a short history": (lambda words, tensors: words.update(history="{}"), r"histories of \{0\}"),
    "no moments": (
        lambda words, tensors: [tensors.pop(k) for k in [*tensors] if k.startswith("optimizer.")],
        "what the optimizer remembers",
    ),
    "flat moments": (
        lambda words, tensors: tensors.update(
            {k: v.flatten() for k, v in tensors.items() if k.endswith(".exp_avg")}
        ),
        "what the optimizer remembers",
    ),
    "flat weights": (
        lambda words, tensors: tensors.update(
            {k: v.flatten() for k, v in tensors.items() if k.startswith("ema.")}
        ),
        r"other weights than this flow has \(ema",
    ),
    "no second moments": (
        lambda words, tensors: [tensors.pop(k) for k in [*tensors] if k.endswith(".exp_avg_sq")],
        "what the optimizer remembers",
    ),
    "moments of one number": (
        lambda words, tensors: tensors.update(
            {k: torch.tensor(0.0) for k in tensors if k.endswith(".exp_avg")}
        ),
        "what the optimizer remembers",
    ),
    "whole moments": (
        lambda words, tensors: tensors.update(
            {k: v.long() for k, v in tensors.items() if k.endswith(".exp_avg")}
        ),
        "what the optimizer remembers",
    ),
    "later moments": (
        lambda words, tensors: tensors.update(
            {k: v + 97 for k, v in tensors.items() if k.endswith(".step")}
        ),
        "otherwise than after 2 steps",
    ),
    "weights that are NaN": (
        lambda words, tensors: tensors.update(
            {k: v * math.nan for k, v in tensors.items() if k.startswith("ema.")}
        ),
        "hold NaN or infinity",
    ),
    "something else": (
        lambda words, tensors: tensors.update(more=torch.zeros(2)),
        "holds 'more', which no run writes",
    ),
    "words for losses": (
        lambda words, tensors: words.update(
            history=json.dumps(dict.fromkeys(("clean", "adversarial", "loss"), "ab"))
        ),
        "its history must hold numbers, got 'a'",
    ),
    "no time": (
        lambda words, tensors: words.update(
            history=json.dumps({**json.loads(words["history"]), "seconds": "1"})
        ),
        "its history must hold numbers, got '1'",
    ),
    "no pairs": (
        lambda words, tensors: words.update(
            history=json.dumps({**json.loads(words["history"]), "validation": [1, 2]})
        ),
        "validation must be pairs",
    ),
    "half of the best": (
        lambda words, tensors: tensors.update({"best.x": torch.zeros(2)}),
        r"other weights than this flow has \(best",
    ),
    "no perturbations": (
        lambda words, tensors: tensors.pop("perturbations"),
        "does not hold this run's perturbations",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_checkpoints_are_refused_and_change_nothing(name, images, tmp_path):
    path, flow = tmp_path / "run.safetensors", glow(**SMALL)
    loss = Loss.of("adversarial", attack_steps=1, memory=PerImage())
    run_until(2, flow, images, loss, num_steps=4, checkpoint=path, **FAST)
    words, tensors = checkpoints.read(path)
    craft, match = CRAFTED[name]
    craft(words, tensors)
    write_tensors(path, "checkpoint", tensors, words)
    fresh = glow(**SMALL)
    before = weights(fresh)
    with pytest.raises(ValueError, match=match):
        fit(fresh, images, loss, num_steps=4, checkpoint=path, **FAST)
    assert equal(weights(fresh), before)


@pytest.mark.parametrize("optimizer", ["adam", "adamax", "muon"])
def test_a_run_of_any_optimizer_goes_on(optimizer, images, tmp_path):
    path, update = tmp_path / "run.safetensors", Update(optimizer, warmup_steps=5)
    settings = {"batch_size": 16, "update": update, "progress": False, "num_steps": 4}
    first, again = glow(**SMALL), glow(**SMALL)
    run_until(2, first, images, checkpoint=path, **settings)
    fit(first, images, checkpoint=path, **settings)
    fit(again, images, **settings)
    assert equal(weights(first), weights(again))


def test_two_runs_on_one_checkpoint_are_told_so(images, tmp_path):
    path = tmp_path / "run.safetensors"
    with locked(path), pytest.raises(OSError, match=r"another run is using it.*run\.safetensors"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)
    assert not path.exists()
    fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)
    (tmp_path / "run.safetensors.lock").touch()  # as a killed run leaves it
    fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_survives_the_options_of_a_later_release(images, tmp_path):
    path, loss = tmp_path / "run.safetensors", Loss.of("hybrid", attack_steps=1)
    first = glow(**SMALL)
    fit(first, images, loss, num_steps=2, checkpoint=path, **FAST)
    words, tensors = checkpoints.read(path)
    recipe = json.loads(words["recipe"])
    del recipe["update"]["ema_decay"], recipe["loss"]["random_eps"], recipe["keep_best"]
    write_tensors(path, "checkpoint", tensors, {**words, "recipe": json.dumps(recipe)})
    again = glow(**SMALL)
    fit(again, images, loss, num_steps=2, checkpoint=path, **FAST)
    assert equal(weights(again), weights(first))
    other = Loss.of(loss, random_eps=0.5)  # the run had the usual 0
    with pytest.raises(ValueError, match=r"another run.*'random_eps': 0\.0"):
        fit(glow(**SMALL), images, other, num_steps=2, checkpoint=path, **FAST)


def test_other_validation_images_are_another_run(images, tmp_path):
    path, settings = tmp_path / "run.safetensors", {"num_steps": 2, **FAST}
    fit(glow(**SMALL), images, validation=images[:4], checkpoint=path, **settings)
    with pytest.raises(ValueError, match=r"another run.*'validation_crc32'"):
        fit(glow(**SMALL), images, validation=images[4:8], checkpoint=path, **settings)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_weights(images, tmp_path):
    path, flow, straight = tmp_path / "run.safetensors", glow(**SMALL), glow(**SMALL)
    settings = {"checkpoint": Checkpoint(path, every=2), **FAST}
    run_until(3, flow, images, num_steps=6, **settings)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    flow = glow(**SMALL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written \(File too large.*run\.safetensors"):
            fit(flow, images, num_steps=6, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    run_until(4, straight, images, num_steps=6, **FAST)
    assert not flow.training and equal(weights(flow), weights(straight))


def test_what_cannot_be_written_is_said_before_the_first_step(images, tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "file" / "run.safetensors", tmp_path / "pipe"):
        with pytest.raises(OSError, match=re.escape(str(path))):
            fit(glow(**SMALL), images, num_steps=10**9, checkpoint=path, **FAST)
    for wrong in (3, "", b"run"):
        with pytest.raises(TypeError, match="checkpoint must be the path of a file, got"):
            fit(glow(**SMALL), images, num_steps=10**9, checkpoint=wrong, **FAST)


def test_a_checkpoint_has_the_mode_that_the_user_asks_for(images, tmp_path):
    old = os.umask(0o027)
    try:
        fit(glow(**SMALL), images, num_steps=1, checkpoint=tmp_path / "a.safetensors", **FAST)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640
