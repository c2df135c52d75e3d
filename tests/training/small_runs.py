"""Runs of a second: a small Glow, what fit() is told, and Ctrl-C at a chosen step."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor

from flowrob.flows import Flow
from flowrob.training import History, Update, batches, fit

SMALL = {"image_shape": (3, 8, 8), "num_levels": 2, "num_steps": 2, "width": 8}
FAST = {"batch_size": 16, "update": Update(warmup_steps=5), "progress": False}


def weights(flow: Flow) -> dict[str, Tensor]:
    """A copy of all that the flow holds."""
    return {name: value.clone() for name, value in flow.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two such copies are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run_until(stop: int, flow: Flow, images: Tensor, loss="clean", **settings) -> History:
    """fit(), and Ctrl-C during the step that completes ``stop`` steps."""
    original, calls = batches.batch_indices, []

    def press(num_images, batch_size, step, seed):
        if step == stop - 1 and step not in calls:
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(step)
        return original(num_images, batch_size, step, seed)

    batches.batch_indices = press
    try:
        history = fit(flow, images, loss, **settings)
    finally:
        batches.batch_indices = original
    assert history.interrupted and max(calls) == stop - 1 and len(history.clean) == stop
    return history
