"""fit(): what it optimises, and that interrupted runs continue as if nothing had happened."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowrob import training
from flowrob.data import dequantize, load
from flowrob.evaluation import bits_per_dim
from flowrob.flows import glow
from flowrob.training import TrainingDiverged, batch_indices, fit, step_generator

SMALL = {"image_shape": (3, 8, 8), "num_levels": 2, "num_steps": 2, "width": 8}
FAST = {"batch_size": 16, "warmup_steps": 5, "progress": False}


@pytest.fixture(scope="module")
def images():
    return load("photos", size=8, limit=400)


def weights(flow):
    return {name: value.clone() for name, value in flow.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    steps = [batch_indices(40, 10, step, seed=3) for step in range(8)]
    first, second = torch.cat(steps[:4]), torch.cat(steps[4:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert first.tolist() != second.tolist()


def test_randomness_depends_on_seed_and_key_alone():
    def draw(*key):
        return torch.rand(4, generator=step_generator(*key))

    assert torch.equal(draw(0, 1, 5), draw(0, 1, 5))
    different = [draw(0, 1, 5), draw(0, 1, 6), draw(1, 1, 5), draw(0, 2, 5)]
    assert len({tuple(d.tolist()) for d in different}) == 4


def test_clean_training_lowers_held_out_bits_per_dim(images):
    held_out = load("photos", split="test", size=8)
    x = dequantize(held_out, torch.Generator().manual_seed(9))
    flow = glow(**SMALL)
    training._initialize(flow, images, 0)
    with torch.no_grad():
        before = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    history = fit(flow, images, num_steps=60, validation=held_out, validate_every=30, **FAST)
    with torch.no_grad():
        after = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    assert after < before - 0.2
    assert [step for step, _ in history.validation] == [30, 60]
    assert history.validation[-1][1] == pytest.approx(after, abs=0.02)  # the averaged weights
    assert not flow.training


@pytest.mark.parametrize("loss, attacked", [("clean", 0), ("hybrid", 8), ("adversarial", 16)])
def test_each_loss_attacks_its_share_of_the_batch(images, monkeypatch, loss, attacked):
    seen = []
    original = training.lower_likelihood

    def spy(log_prob, x, ball, **options):
        attack = original(log_prob, x, ball, **options)
        seen.append((len(x), (attack.x - x).abs().max().item(), options["num_steps"]))
        return attack

    monkeypatch.setattr(training, "lower_likelihood", spy)
    history = fit(
        glow(**SMALL), images, loss, num_steps=2, eps=4.0, attack_steps=3, **FAST
    )
    if attacked:
        assert [n for n, *_ in seen] == [attacked, attacked]
        assert all(0.9 * 4 / 256 < size < 4 / 256 + 1e-6 for _, size, _ in seen)
        assert {steps for *_, steps in seen} == {3}
    else:
        assert seen == []
    assert [math.isnan(v) for v in history.clean] == [attacked == 16] * 2
    assert [math.isnan(v) for v in history.adversarial] == [attacked == 0] * 2


def test_eps_warms_up_linearly(images, monkeypatch):
    radii = []
    original = training.lower_likelihood

    def spy(log_prob, x, ball, **options):
        radii.append(ball.radius * 256)
        return original(log_prob, x, ball, **options)

    monkeypatch.setattr(training, "lower_likelihood", spy)
    options = {"num_steps": 5, "eps": 8.0, "attack_steps": 1, "eps_warmup_steps": 4}
    fit(glow(**SMALL), images, "adversarial", **options, **FAST)
    assert radii == pytest.approx([2.0, 4.0, 6.0, 8.0, 8.0])


def test_the_images_given_stay_as_they_are(images):
    before = images.clone()
    fit(glow(**SMALL), images, "hybrid", num_steps=2, attack_steps=1, **FAST)
    assert torch.equal(images, before)


def test_same_seed_same_weights_other_seed_others(images):
    runs = []
    for seed in (0, 0, 1):
        flow = glow(**SMALL)
        fit(flow, images, "hybrid", num_steps=4, attack_steps=2, seed=seed, **FAST)
        runs.append(weights(flow))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


KILLED = """
import torch
from flowrob.data import load
from flowrob.flows import glow
from flowrob.training import fit
torch.set_num_threads(1)
fit(glow(**{small}), load("photos", size=8, limit=400), "hybrid", num_steps={steps},
    attack_steps=2, checkpoint={path!r}, checkpoint_every=3, **{fast})
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
    reached = int(training._read_checkpoint(path)[0]["step"])
    assert 0 < reached < steps

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, straight = glow(**SMALL), glow(**SMALL)
        settings = {"num_steps": steps, "attack_steps": 2, **FAST}
        stop = reached + 4
        run_until(stop, resumed, images, checkpoint=path, checkpoint_every=3, **settings)
        run_until(stop, straight, images, **settings)
    finally:
        torch.set_num_threads(threads)
    assert equal(weights(resumed), weights(straight))


def run_until(stop, flow, images, **settings):
    """Train, and press Ctrl-C during the step that completes ``stop`` steps."""
    original, calls = training.batch_indices, []

    def press(num_images, batch_size, step, seed):
        calls.append(step)
        if step == stop - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(num_images, batch_size, step, seed)

    training.batch_indices = press
    try:
        history = fit(flow, images, "hybrid", **settings)
    finally:
        training.batch_indices = original
    assert history.interrupted and calls[-1] == stop - 1 and len(history.clean) == stop
    return history


def test_ctrl_c_ends_after_the_step_and_the_run_can_go_on(images, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"num_steps": 12, "attack_steps": 1, **FAST}
    stopped, straight = glow(**SMALL), glow(**SMALL)
    handler = signal.getsignal(signal.SIGINT)
    run_until(5, stopped, images, checkpoint=path, **settings)
    assert signal.getsignal(signal.SIGINT) is handler and not stopped.training
    history = fit(stopped, images, "hybrid", checkpoint=path, **settings)
    fit(straight, images, "hybrid", **settings)
    assert not history.interrupted and len(history.clean) == 12
    assert equal(weights(stopped), weights(straight))


def test_a_diverging_loss_stops_and_names_the_checkpoint(images, tmp_path):
    path = tmp_path / "run.safetensors"
    flow = glow(**SMALL)
    fit(flow, images, num_steps=3, **FAST)
    first = next(flow.parameters())
    with torch.no_grad():
        first.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 0.*run\.safetensors"):
        fit(flow, images, num_steps=3, checkpoint=path, **FAST)


def test_truncated_foreign_and_mismatched_checkpoints_are_refused(images, tmp_path):
    path = tmp_path / "run.safetensors"
    fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)
    assert list(tmp_path.iterdir()) == [path]  # no partial file is left behind
    with pytest.raises(ValueError, match=r"another run.*'seed': \(0, 1\)"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, seed=1, **FAST)
    with pytest.raises(ValueError, match=r"another run.*'flow'"):
        other = glow(**{**SMALL, "width": 4})
        fit(other, images, num_steps=2, checkpoint=path, **FAST)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(path), foreign)
    with pytest.raises(ValueError, match="not a flowrob checkpoint"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)


def test_wrong_arguments(images):
    with pytest.raises(ValueError, match="loss must be one of"):
        fit(glow(**SMALL), images, "robust")
    with pytest.raises(TypeError, match="images must be uint8"):
        fit(glow(**SMALL), images / 256)
    with pytest.raises(ValueError, match="batch_size=64 images, got 10"):
        fit(glow(**SMALL), images[:10])
