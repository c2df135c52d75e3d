"""Guards: what ends a run early, a loss that is not finite or explodes, and Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flowrob.distributed import Group
from flowrob.units import check_number

WINDOW = 50  # steps over which a median tells an explosion from the bad luck of single batches


class TrainingDiverged(RuntimeError):
    """The loss became non-finite or exploded; the message names the last good checkpoint."""


@dataclass(frozen=True)
class Guard:
    """When to stop a run that goes wrong.

    Attributes:
        explode_above: stop when the median loss of 50 steps exceeds both 8 bits/dim, which any
            image costs under a uniform density, and this multiple of its lowest value so far
            (counted from the end of the eps warm-up, which makes the loss rise). Checkpoints are
            not written while the loss is that high. ``math.inf``: never.

    Raises:
        ValueError: explode_above <= 1.
    """

    explode_above: float = 10.0

    def __post_init__(self) -> None:
        check_number(explode_above=self.explode_above)
        if not self.explode_above > 1.0:
            raise ValueError(f"explode_above must be greater than 1, got {self.explode_above}")

    def limit(self, losses: list[float]) -> float:
        """What no healthy loss exceeds for long: a multiple of the lowest median of a window.

        At least 8 bits/dim, the cost of every image under a uniform density.
        """
        whole = losses[: len(losses) // WINDOW * WINDOW]
        if not whole:
            return math.inf
        lowest = np.median(np.reshape(whole, (-1, WINDOW)), axis=1).min()
        return max(8.0, self.explode_above * float(lowest))


@dataclass
class Watch:
    """A guard at work on one run.

    Attributes:
        guard: says what is too much.
        name: of the loss, for the message.
        losses: of all steps so far; grows elsewhere.
        settled_after: how many of the first do not count.
        checkpoint: where the last good state is, if anywhere.
        limit: what the loss of a state that is saved must not exceed.
    """

    guard: Guard
    name: str
    losses: list[float]
    settled_after: int
    checkpoint: Path | None
    limit: float = field(init=False)

    def __post_init__(self) -> None:
        self.limit = self.guard.limit(self.losses[self.settled_after :])

    def check(self, step: int, value: float, grad_norm: float) -> None:
        """Raise if the loss of a step, or its gradient, ends the run.

        Raises:
            TrainingDiverged: not finite, or exploded.
        """
        if not (math.isfinite(value) and math.isfinite(grad_norm)):
            raise self._diverged(f"is {value} at step {step} (norm of its gradient: {grad_norm})")
        if (step + 1) % WINDOW:
            return
        settled = [*self.losses, value][self.settled_after :]
        if len(settled) < WINDOW:
            return
        self.limit = self.guard.limit(settled)
        if (median := float(np.median(settled[-WINDOW:]))) > self.limit:
            raise self._diverged(
                f"exploded: the median of the last {WINDOW} steps, {median:.4g} bits/dim at step "
                f"{step}, lies above {self.limit:.4g} (explode_above={self.guard.explode_above})"
            )

    def _diverged(self, what: str) -> TrainingDiverged:
        saved = self.checkpoint is not None and self.checkpoint.exists()
        good = f"the last good checkpoint is {self.checkpoint}" if saved else "nothing was saved"
        advice = "lower learning_rate or max_grad_norm, or warm eps up"
        return TrainingDiverged(f"the {self.name} loss {what}; {good}; {advice}")


@contextmanager
def deferred_interrupt(group: Group) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is left half done.

    Under torchrun its SIGTERM, which it sends on to every process, counts as one too.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach only the main thread
        return

    def on_interrupt(number: int, _) -> None:
        if stop.is_set() and number == signal.SIGINT and group.size == 1:
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT,) if group.size == 1 else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, on_interrupt) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
