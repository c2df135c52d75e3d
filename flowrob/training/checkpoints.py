"""Checkpoints: all that a killed training run needs to go on bit for bit, in one safetensors file.

    tensors    flow.*, optimizer.<parameter>.*, ema.*, best.*, perturbations
    metadata   "flowrob": "checkpoint", step, history and recipe as JSON, the digest of all

No pickle: reading a file runs no code. Files are written whole or not at all, so that whoever kills
the process finds the old checkpoint or the new one, never half of one. While a run uses its file no
other one can (:func:`flowrob.records.locked`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowrob.attacks.starts import check_integers
from flowrob.flows import Flow
from flowrob.records import check_writable, locked, read_tensors, write_tensors

WORDS = ("step", "history", "recipe")


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

    def check(self) -> set[int]:
        """How many steps its lists count.

        Raises:
            TypeError: they hold something else than numbers.
        """
        steps = (self.clean, self.adversarial, self.loss)
        pairs = [*self.validation]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise TypeError(f"validation must be pairs, got {self.validation!r}")
        numbers = [self.seconds, *(n for part in (*steps, *pairs) for n in part)]
        if odd := [n for n in numbers if not isinstance(n, int | float)]:
            raise TypeError(f"its history must hold numbers, got {odd[0]!r}")
        return {len(part) for part in steps}

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
        if not isinstance(self.path, str | os.PathLike) or not os.fspath(self.path):
            raise TypeError(f"checkpoint must be the path of a file, got {self.path!r}")
        check_integers(1, every=self.every)

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
        usual: the options' defaults: what a run had that was begun before there were such options.
        writes: whether this process does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        flow: Flow,
        optimizer: torch.optim.Optimizer,
        recipe: dict,
        usual: dict,
        writes: bool = True,
    ):
        self.checkpoint, self.flow, self.optimizer = checkpoint, flow, optimizer
        self.recipe, self.usual, self.writes, self.due = recipe, usual, writes, False

    @property
    def path(self) -> Path | None:
        """Where it saves, if anywhere."""
        return Path(self.checkpoint.path) if self.checkpoint else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this runs, no other run may use the file, which can be written.

        Raises:
            OSError: another run uses it, or it cannot be written.
        """
        if self.path is None or not self.writes:
            yield
            return
        with locked(self.path):
            check_writable(self.path)
            yield

    def resume(self, room: Tensor | None) -> State | None:
        """The state that was saved, its weights put into the flow; None if there is none.

        Args:
            room: shaped like the perturbations that this run keeps, if it keeps any.
        """
        if self.path is None or not self.path.exists():
            return None
        return restore(self.path, self.flow, self.optimizer, self.recipe, self.usual, room)

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
    words = {
        "step": str(state.step),
        "history": json.dumps(vars(state.history)),
        "recipe": json.dumps(recipe),
    }
    write_tensors(path, "checkpoint", tensors, words)


def read(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Step, history and recipe of a checkpoint as text, and its tensors.

    Raises:
        ValueError: a file that is damaged, or no checkpoint.
    """
    return read_tensors(path, "checkpoint", WORDS)


def restore(
    path: Path,
    flow: Flow,
    optimizer: torch.optim.Optimizer,
    recipe: dict,
    usual: dict,
    room: Tensor | None,
) -> State:
    """Put a stored run back into ``flow`` and ``optimizer``; returns the rest of it.

    Nothing is changed before all of the file has been checked.

    Raises:
        ValueError: a file that is damaged, no checkpoint, made by another recipe, or by a
            version of this package whose flows were made of other parts.
    """
    words, tensors = read(path)
    try:
        step, history = int(words["step"]), History(**json.loads(words["history"]))
        stored = json.loads(words["recipe"])
        lengths = history.check()
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not as a run writes it: {error}") from error
    asked = json.loads(json.dumps(recipe))
    _check_recipe(path, stored, asked, json.loads(json.dumps(usual)))
    if lengths != {step} or not 0 <= step <= asked.get("num_steps", step):
        raise ValueError(
            f"{path} says step {step} of {asked.get('num_steps')}, with histories of {lengths} "
            "steps: no run writes that; use another path to start anew"
        )

    def part(kind: str) -> dict[str, Tensor]:
        start = kind + "."
        return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

    parameters = dict(flow.named_parameters())
    kinds = ("flow", "optimizer", "ema", "best", "perturbations")
    if odd := [name for name in tensors if name.partition(".")[0] not in kinds]:
        raise ValueError(f"{path} holds {odd[0]!r}, which no run writes; use another path")
    _check_weights(path, "flow", part("flow"), flow.state_dict())
    _check_weights(path, "ema", part("ema"), parameters)
    if best := part("best"):
        _check_weights(path, "best", best, parameters)
    entries = _moments(path, part("optimizer"), parameters, optimizer, step)
    told, kept = (
        None if t is None else (t.shape, t.dtype) for t in (tensors.get("perturbations"), room)
    )
    if told != kept:
        raise ValueError(f"{path} does not hold this run's perturbations; use another path")
    _check_finite(path, tensors)
    flow.load_state_dict(part("flow"))
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    history.interrupted = False
    return State(
        step,
        {name: value.to(parameters[name]) for name, value in part("ema").items()},
        {name: value.to(parameters[name]) for name, value in best.items()},
        tensors.get("perturbations"),
        history,
    )


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if bad := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise ValueError(
            f"{path}: {', '.join(bad[:3])} ({len(bad)} in all) hold NaN or infinity: that run had "
            "gone wrong; use another path to start anew"
        )


def _check_weights(
    path: Path, what: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    """Raise a ValueError unless both hold tensors of the same names, shapes and dtypes."""
    told, asked = ({k: (v.shape, v.dtype) for k, v in part.items()} for part in (found, own))
    if wrong := sorted(k for k in told | asked if told.get(k) != asked.get(k)):
        raise ValueError(
            f"{path} names other weights than this flow has ({what}: {', '.join(wrong[:3])}): "
            "another version of flowrob wrote it, or the flow has another dtype; use another path "
            "to start anew"
        )


def _moments(
    path: Path,
    found: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by the number of the parameter, whole or not at all."""
    own = _first_moments(optimizer, parameters) if step else {}
    told, asked = ({k: (v.shape, v.dtype) for k, v in part.items()} for part in (found, own))
    wrong = [key for key in told | asked if told.get(key) != asked.get(key)]
    wrong = wrong or [key for key in own if key.endswith(".step") and found[key] != step]
    if wrong:
        raise ValueError(
            f"{path} lacks, or has otherwise than after {step} steps, what the optimizer remembers "
            f"of {', '.join(wrong[:3])} ({len(wrong)} in all); use another path to start anew"
        )
    entries: dict[int, dict[str, Tensor]] = {}
    numbers = {name: index for index, name in enumerate(parameters)}
    for key, value in found.items():
        name, _, what = key.rpartition(".")
        entries.setdefault(numbers[name], {})[what] = value
    return entries


def _first_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What such an optimizer remembers of each trained parameter, shown by a step of a twin."""
    trained = {name: torch.zeros_like(p) for name, p in parameters.items() if p.requires_grad}
    twins = {name: value.detach().requires_grad_() for name, value in trained.items()}
    for twin in twins.values():
        twin.grad = torch.zeros_like(twin)
    make: Any = type(optimizer)
    twin_optimizer = make([*twins.values()], lr=0.0)
    twin_optimizer.step()
    return {
        f"{name}.{what}": value
        for name, twin in twins.items()
        for what, value in twin_optimizer.state[twin].items()
    }


def _check_recipe(path: Path, stored: object, asked: dict, usual: dict) -> None:
    """Raise a ValueError that names what two recipes differ in, where both know of it.

    An option that the stored one does not know is new: it had its usual value.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds no recipe, but {stored!r}")
    changed = {}
    for key, value in asked.items():
        old = stored.get(key, usual.get(key, value))
        if isinstance(old, dict) and isinstance(value, dict):
            new = usual.get(key, value)
            old = {**{k: new.get(k, value[k]) for k in value if k not in old}, **old}
        if old != value:
            changed[key] = (old, value)
    if changed:
        raise ValueError(
            f"{path} belongs to another run (stored, asked for): {changed}; use the same settings, "
            "or another path"
        )
