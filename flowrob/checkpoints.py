"""Checkpoints: all that a killed training run needs to go on bit for bit, in one safetensors file.

    tensors    flow.*, optimizer.<parameter>.*, ema.*, best.*, perturbations
    metadata   "flowrob": "checkpoint", step, history and recipe as JSON

No pickle: reading a file runs no code. A file is written beside its place and then moved there, so
that whoever kills the process finds the old checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowrob.flows import Flow


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


def save(
    path: Path, flow: Flow, optimizer: torch.optim.Optimizer, state: State, recipe: dict
) -> None:
    """Write the run to ``path``, atomically."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
    os.replace(partial, path)


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


def load(path: Path, flow: Flow, optimizer: torch.optim.Optimizer, recipe: dict) -> State:
    """Put a stored run back into ``flow`` and ``optimizer``; returns the rest of it.

    Raises:
        ValueError: a file that is truncated, no checkpoint, made by another recipe, or by a
            version of this package whose flows were made of other parts.
    """
    metadata, tensors = read(path)
    stored = json.loads(metadata["recipe"])
    if stored != recipe:
        keys = dict.fromkeys([*recipe, *stored])
        changed = {
            k: (stored.get(k), recipe.get(k)) for k in keys if stored.get(k) != recipe.get(k)
        }
        raise ValueError(
            f"{path} belongs to another run (stored, asked for): {changed}; "
            "use the same settings, or another path"
        )

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
