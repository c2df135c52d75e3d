"""Guards: what ends a run early, and which checkpoint is then the last good one."""

import math

import numpy as np
import pytest
import torch
from small_runs import FAST, SMALL, equal, weights

from flowrob.flows import glow
from flowrob.flows.bijections import ActNorm
from flowrob.training import (
    Checkpoint,
    Guard,
    TrainingDiverged,
    batches,
    checkpoints,
    fit,
    loop,
)


def test_a_loss_that_is_nan_stops_the_run(images, tmp_path):
    path = tmp_path / "run.safetensors"
    flow = glow(**SMALL)
    fit(flow, images, num_steps=3, **FAST)
    first = next(flow.parameters())
    with torch.no_grad():
        first.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 0.*nothing was saved"):
        fit(flow, images, num_steps=3, checkpoint=path, **FAST)
    assert not path.exists()


def after(step, change):
    """Calls ``change`` in every training step from ``step`` on."""
    original = batches.batch_indices

    def watched(num_images, batch_size, now, seed):
        if now >= step:
            change()
        return original(num_images, batch_size, now, seed)

    return watched


def test_an_exploding_loss_stops_and_the_checkpoint_is_from_before(images, tmp_path, monkeypatch):
    path, flow = tmp_path / "run.safetensors", glow(**SMALL)

    def push():
        with torch.no_grad():
            next(m for m in flow.modules() if isinstance(m, ActNorm)).bias.fill_(1e4)

    monkeypatch.setattr(batches, "batch_indices", after(65, push))
    with pytest.raises(TrainingDiverged, match=r"exploded.*step 99.*is .*run\.safetensors"):
        fit(flow, images, num_steps=200, checkpoint=Checkpoint(path, every=20), **FAST)
    metadata, _ = checkpoints.read(path)
    assert metadata["step"] == "60"  # not 80, when the loss was already high
    patient = fit(flow, images, num_steps=110, guard=Guard(explode_above=math.inf), **FAST)
    assert len(patient.loss) == 110


def test_single_spikes_are_no_explosion(images, monkeypatch):
    flow, calls = glow(**SMALL), []
    original = loop.bits_per_dim

    def spiky(log_prob, num_dims):
        calls.append(1)
        return original(log_prob, num_dims) * (1000.0 if len(calls) % 3 == 0 else 1.0)

    monkeypatch.setattr(loop, "bits_per_dim", spiky)
    history = fit(flow, images, num_steps=101, **FAST)
    assert max(history.loss) > 1000 > 8 > np.median(history.loss)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=2, **FAST)
    before = weights(flow)
    next(flow.parameters()).register_hook(lambda grad: grad * math.inf)
    with pytest.raises(TrainingDiverged, match=r"at step 0 \(norm of its gradient: (inf|nan)\)"):
        fit(flow, images, num_steps=3, **FAST)
    assert equal(weights(flow), before)


def test_the_limit_is_a_multiple_of_the_lowest_median_and_at_least_the_uniform_density():
    guard = Guard(explode_above=3.0)
    assert guard.limit([5.0] * 49) == math.inf  # no window is full yet
    assert guard.limit([5.0] * 50 + [4.0] * 50 + [1.0] * 49) == 12.0
    assert guard.limit([2.0] * 50) == 8.0


@pytest.mark.parametrize("wrong", [1.0, 0.5, -2.0, math.nan])
def test_a_guard_that_would_stop_every_run_is_refused_when_it_is_made(wrong):
    with pytest.raises(ValueError, match=f"explode_above must be greater than 1, got {wrong}"):
        Guard(explode_above=wrong)
