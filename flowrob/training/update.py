"""Updates: from the loss of a batch to new weights, and their running average.

rate(k) = linear warm-up to 1, then a cosine to 0        ema <- ema + (1 - decay)(weights - ema)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowrob.attacks.gradient import cosine
from flowrob.attacks.starts import check_integers
from flowrob.flows import Flow
from flowrob.training.muon import Muon
from flowrob.units import check_number

OPTIMIZERS = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax, "muon": Muon}


@dataclass(frozen=True)
class Update:
    """How a step changes the weights.

    Attributes:
        optimizer: "adam", "adamax", or "muon" (:mod:`flowrob.training.muon`; the quickest to a
            given loss).
        learning_rate: peak of a linear warm-up followed by a cosine decay to zero.
        warmup_steps: length of that warm-up.
        max_grad_norm: gradients are scaled down to this norm (loss in bits/dim).
        ema_decay: of the averaged weights.

    Raises:
        ValueError: an unknown optimizer, a negative warm-up or rate, a norm that is not positive,
            an ema_decay outside [0, 1).
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    max_grad_norm: float = 100.0
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        check_number(
            learning_rate=self.learning_rate,
            max_grad_norm=self.max_grad_norm,
            ema_decay=self.ema_decay,
        )
        check_integers(0, warmup_steps=self.warmup_steps)
        if not isinstance(self.optimizer, str) or self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {[*OPTIMIZERS]}, got {self.optimizer!r}")
        if not self.learning_rate >= 0.0:  # at 0 the weights stay, and their loss is recorded
            raise ValueError(f"learning_rate must be at least 0, got {self.learning_rate}")
        if not (0.0 <= self.ema_decay < 1.0 and self.max_grad_norm > 0.0):
            raise ValueError(
                f"ema_decay must lie in [0, 1) and max_grad_norm above 0, got {self.ema_decay} and "
                f"{self.max_grad_norm}"
            )

    def start(self, flow: Flow) -> torch.optim.Optimizer:
        """The optimizer of the flow's parameters."""
        return OPTIMIZERS[self.optimizer](flow.parameters(), lr=self.learning_rate)

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup_steps:
            return self.learning_rate * ((step + 1) / self.warmup_steps)
        return self.learning_rate * cosine(step - self.warmup_steps, num_steps - self.warmup_steps)

    def differentiate(self, flow: Flow, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        """The gradient of the loss in ``.grad``, scaled down; returns the norm that it had."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return torch.nn.utils.clip_grad_norm_(flow.parameters(), self.max_grad_norm).item()

    def apply(self, optimizer: torch.optim.Optimizer, step: int, num_steps: int) -> None:
        """One step of the optimizer, at its rate."""
        for parameters in optimizer.param_groups:
            parameters["lr"] = self.rate(step, num_steps)
        optimizer.step()

    def average(self, ema: dict[str, Tensor], flow: Flow, step: int) -> None:
        """The running average of the weights, in place; it forgets faster in the first steps."""
        decay = min(self.ema_decay, (1.0 + step) / (10.0 + step))
        for name, parameter in flow.named_parameters():
            ema[name].lerp_(parameter.detach(), 1.0 - decay)


def weights_of(flow: Flow) -> dict[str, Tensor]:
    """A copy of the flow's weights, by name."""
    return {name: p.detach().clone() for name, p in flow.named_parameters()}


def set_weights(flow: Flow, values: dict[str, Tensor]) -> None:
    """Put weights into the flow, by name."""
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter.copy_(values[name])
