"""Checkpoints: all that a killed training run needs to go on bit for bit, in one safetensors file.

    tensors    flow.*, optimizer.<parameter>.*, ema.*, best.*, perturbations
    metadata   "flowrob": "checkpoint", step, history and recipe as JSON

No pickle: reading a file runs no code. Files are written whole or not at all, so that whoever kills
the process finds the old checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowrob.flows import Flow
from flowrob.records import write_whole


@dataclass
class History:
    """What happened during :func:`flowrob.training.fit`: one entry per step, or per validation.

    Attributes:
        clean: bits/dim of each step's clean part (NaN where a batch had none).
        adversarial: bits/dim of each step's attacked part (NaN where a batch had none).
        loss: bits/dim of each step's whole batch: what was minimised.
        validation: [step, bits/dim] pairs: the loss of the averaged weights on the validation
            images, attacked in the same share.
        interrupted: whether Ctrl-C (in Jupyter: the stop button) ended the run early.
        seconds: time spent, over all resumed runs.
    """

    clean: list[float] = field(default_factory=list)
    adversarial: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    def record(self, nll: Tensor, num_attacked: int) -> None:
        """One step more: bits/dim of its batch, whose first ``num_attacked`` were attacked."""
        self.adversarial.append(_mean(nll[:num_attacked]))
        self.clean.append(_mean(nll[num_attacked:]))
        self.loss.append(nll.mean().item())


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else math.nan


@dataclass
class State:
    """A training run between two steps, beside its flow and optimizer.

    Attributes:
        step: how many steps are done.
        ema: the averaged weights, by parameter name.
        best: the averaged weights that validated best; empty if none are kept.
        perturbations: (N, C, H, W) int8, the last perturbation of each image, or of each place in
            the pool of attacked ones, in units of its radius / 127; or None.
        history: so far.
    """

    step: int
    ema: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)
    perturbations: Tensor | None = None
    history: History = field(default_factory=History)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is saved, and how often.

    Attributes:
        path: a .safetensors file, written whole or not at all. If it exists, the run goes on from
            it.
        every: steps between checkpoints; the last step and Ctrl-C are followed by one too.

    Raises:
        ValueError: ``every`` below 1.
    """

    path: str | os.PathLike
    every: int = 200

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    @classmethod
    def of(cls, checkpoint: Checkpoint | str | os.PathLike | None) -> Checkpoint | None:
        """A checkpoint, or a plain path at the default interval."""
        if checkpoint is None or isinstance(checkpoint, Checkpoint):
            return checkpoint
        return cls(checkpoint)


class Saver:
    """Writes the state of one run when it is due and the loss is healthy.

    Args:
        checkpoint: where and how often; None never saves.
        flow: the run's, as is the rest.
        optimizer: of the flow.
        recipe: what a resumed run must share.
        writes: whether this process does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        flow: Flow,
        optimizer: torch.optim.Optimizer,
        recipe: dict,
        writes: bool = True,
    ):
        self.checkpoint, self.flow, self.optimizer = checkpoint, flow, optimizer
        self.recipe, self.writes, self.due = recipe, writes, False

    @property
    def path(self) -> Path | None:
        """Where it saves, if anywhere."""
        return Path(self.checkpoint.path) if self.checkpoint else None

    def resume(self) -> State | None:
        """The state that was saved, its weights put into the flow; None if there is none."""
        if self.path is None or not self.path.exists():
            return None
        return restore(self.path, self.flow, self.optimizer, self.recipe)

    def save(self, state: State, num_steps: int, healthy: bool) -> None:
        """Write if it is due, now or since the last time the loss was not healthy."""
        if self.checkpoint is None or self.path is None or not self.writes:
            return
        at_end = state.history.interrupted or state.step == num_steps
        self.due |= at_end or state.step % self.checkpoint.every == 0
        if self.due and healthy:
            save(self.path, self.flow, self.optimizer, state, self.recipe)
            self.due = False


def save(
    path: Path, flow: Flow, optimizer: torch.optim.Optimizer, state: State, recipe: dict
) -> None:
    """Write the run to ``path``, whole or not at all."""
    names = [name for name, _ in flow.named_parameters()]
    tensors = {f"flow.{k}": v for k, v in flow.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.ema.items()}
    tensors |= {f"best.{k}": v for k, v in state.best.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{k}": v for k, v in entry.items()}
    if state.perturbations is not None:
        tensors["perturbations"] = state.perturbations
    metadata = {
        "flowrob": "checkpoint",
        "step": str(state.step),
        "history": json.dumps(vars(state.history)),
        "recipe": json.dumps(recipe),
    }
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    write_whole(path, lambda partial: save_file(tensors, partial, metadata))


def read(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a checkpoint.

    Raises:
        ValueError: a file that is truncated, or no checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({error}); delete it to start anew"
        ) from error
    if metadata.get("flowrob") != "checkpoint":
        raise ValueError(f"{path} is not a flowrob checkpoint; choose another path")
    return metadata, tensors


def restore(path: Path, flow: Flow, optimizer: torch.optim.Optimizer, recipe: dict) -> State:
    """Put a stored run back into ``flow`` and ``optimizer``; returns the rest of it.

    Raises:
        ValueError: a file that is truncated, no checkpoint, made by another recipe, or by a
            version of this package whose flows were made of other parts.
    """
    metadata, tensors = read(path)
    _check_recipe(path, json.loads(metadata["recipe"]), json.loads(json.dumps(recipe)))

    def part(kind: str) -> dict[str, Tensor]:
        start = kind + "."
        return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

    parameters = dict(flow.named_parameters())
    if part("flow").keys() != flow.state_dict().keys() or part("ema").keys() != parameters.keys():
        raise ValueError(
            f"{path} names other weights than this flow has: another version of flowrob wrote it; "
            "delete it to start anew"
        )
    flow.load_state_dict(part("flow"))
    entries: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(parameters))}
    numbers = {name: index for index, name in enumerate(parameters)}
    for key, value in part("optimizer").items():
        name, what = key.rsplit(".", 1)
        entries[numbers[name]][what] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    return State(
        int(metadata["step"]),
        {name: value.to(parameters[name]) for name, value in part("ema").items()},
        {name: value.to(parameters[name]) for name, value in part("best").items()},
        tensors.get("perturbations"),
        History(**{**json.loads(metadata["history"]), "interrupted": False}),
    )


def _check_recipe(path: Path, stored: dict, asked: dict) -> None:
    """Raise a ValueError that names what two recipes differ in."""
    keys = dict.fromkeys([*asked, *stored])
    changed = {k: (stored.get(k), asked.get(k)) for k in keys if stored.get(k) != asked.get(k)}
    if changed:
        raise ValueError(
            f"{path} belongs to another run, or to another version of flowrob (stored, asked for): "
            f"{changed}; use the same settings, or another path"
        )
