"""Training: one loop, three losses (section 4).

    loss = (1 - a) NLL(x) + a NLL(x + delta*(x)),   delta* = argmax of the NLL in the eps ball

with a = 0 (clean), 1 (adversarial: every image is attacked) or 1/2 (hybrid, the paper's defence).
The attack of a step is made against the model of that step; losses are in bits/dim.

Step k draws all its randomness from (seed, k) alone. A resumed run therefore needs no generator
state and continues bit for bit where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from flowrob.attacks import LinfBall, lower_likelihood
from flowrob.data import dequantize
from flowrob.evaluation import bits_per_dim
from flowrob.flows import Flow

ADVERSARIAL_SHARE = {"clean": 0.0, "hybrid": 0.5, "adversarial": 1.0}


class TrainingDiverged(RuntimeError):
    """The loss became non-finite or exploded; the message names the last good checkpoint."""


@dataclass
class History:
    """What happened during :func:`fit`: one entry per step, or per validation.

    Attributes:
        clean: bits/dim of each step's clean part (NaN where a batch had none).
        adversarial: bits/dim of each step's attacked part (NaN where a batch had none).
        validation: [step, bits/dim] pairs of the averaged weights on the validation images.
        interrupted: whether Ctrl-C (in Jupyter: the stop button) ended the run early.
        seconds: time spent, over all resumed runs.
    """

    clean: list[float] = field(default_factory=list)
    adversarial: list[float] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0


def step_generator(seed: int, *key: int) -> torch.Generator:
    """A generator that depends on (seed, *key) alone: the same in a resumed run."""
    state = np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def batch_indices(num_images: int, batch_size: int, step: int, seed: int) -> Tensor:
    """The images of step ``step``: successive slices of a fresh permutation per epoch."""
    per_epoch = num_images // batch_size
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(num_images, generator=step_generator(seed, 0, epoch))
    return order[position * batch_size : (position + 1) * batch_size]


def fit(
    flow: Flow,
    images: Tensor,
    loss: str = "clean",
    *,
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    warmup_steps: int = 100,
    max_grad_norm: float = 100.0,
    ema_decay: float = 0.99,
    flips: bool = True,
    eps: float = 8.0,
    attack_steps: int = 10,
    eps_warmup_steps: int = 0,
    validation: Tensor | None = None,
    validate_every: int = 500,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train ``flow`` in place by Adam on (1 - a) NLL(x) + a NLL(x + delta*(x)).

    The flow ends in eval mode with the exponential moving average of its weights. If
    ``checkpoint`` names an existing file, the run continues from it.

    Source: section 4 of the paper, whose defaults eps = 8 and 10 attack steps are ours too.

    Args:
        flow: initialised here on clean data if it never was.
        images: (N, C, H, W) uint8.
        loss: "clean" (a = 0), "adversarial" (a = 1) or "hybrid" (a = 1/2: one half of every
            batch is attacked).
        num_steps: optimiser steps in all, those of earlier, resumed runs included.
        batch_size: images per step.
        learning_rate: peak of a linear warm-up followed by a cosine decay to zero.
        warmup_steps: length of that warm-up.
        max_grad_norm: gradients are scaled down to this norm (loss in bits/dim).
        ema_decay: of the averaged weights.
        flips: mirror every image left-right with probability 1/2.
        eps: radius of the attack, in grey levels.
        attack_steps: PGD steps per attacked image.
        eps_warmup_steps: over how many steps eps grows linearly to its value.
        validation: (M, C, H, W) uint8, scored every ``validate_every`` steps.
        checkpoint: path of a .safetensors file, written atomically.
        checkpoint_every: steps between checkpoints.
        seed: of the batches, flips, dequantisation noise and attacks.
        progress: show a progress bar.

    Returns:
        A :class:`History`. Ctrl-C ends the run after the current step: the history says so, the
        checkpoint (if any) is written, and the flow holds the averaged weights of that moment.
        A second Ctrl-C raises KeyboardInterrupt at once.

    Raises:
        ValueError: unknown loss, fewer images than batch_size, or a checkpoint of another run.
        TypeError: images are not uint8.
        TrainingDiverged: the loss is not finite; the last good checkpoint is named.
    """
    if loss not in ADVERSARIAL_SHARE:
        raise ValueError(f"loss must be one of {sorted(ADVERSARIAL_SHARE)}, got {loss!r}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 (N, C, H, W), got {images.dtype}")
    if len(images) < batch_size:
        raise ValueError(f"need at least batch_size={batch_size} images, got {len(images)}")
    share = ADVERSARIAL_SHARE[loss]
    device = next(flow.parameters()).device
    optimizer = torch.optim.Adam(flow.parameters(), lr=learning_rate)
    recipe = {
        "flow": flow.config,
        "loss": loss,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "max_grad_norm": max_grad_norm,
        "ema_decay": ema_decay,
        "flips": flips,
        "eps": eps if share else 0.0,
        "attack_steps": attack_steps if share else 0,
        "eps_warmup_steps": eps_warmup_steps if share else 0,
        "seed": seed,
        "num_images": len(images),
    }
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        first_step, ema, history = _load_checkpoint(path, flow, optimizer, recipe)
    else:
        _initialize(flow, images, seed)
        first_step, ema, history = 0, _parameters(flow), History()
    flow.to(memory_format=torch.channels_last)

    def save(step: int) -> None:
        if path is not None:
            _save_checkpoint(path, flow, optimizer, ema, step, history, recipe)

    started = time.monotonic() - history.seconds
    bar = tqdm(total=num_steps, initial=first_step, disable=not progress, desc=loss)
    flow.train()
    with _deferred_interrupt() as stop, bar:
        for step in range(first_step, num_steps):
            generator = step_generator(seed, 1, step)
            batch = images[batch_indices(len(images), batch_size, step, seed)]
            if flips:
                mirrored = torch.rand(len(batch), generator=generator) < 0.5
                batch = torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)
            x = dequantize(batch, generator).to(device)
            num_attacked = round(share * len(x))
            if num_attacked:
                warm = min(1.0, (step + 1) / eps_warmup_steps) if eps_warmup_steps else 1.0
                ball = LinfBall(warm * eps / 256)
                attacked = lower_likelihood(
                    flow.log_prob, x[:num_attacked], ball, num_steps=attack_steps, check=False
                ).x
                x = torch.cat((attacked, x[num_attacked:]))
            nll = bits_per_dim(flow.log_prob(x), flow.num_dims)
            value = nll.mean()
            if not torch.isfinite(value):
                good = f"the last good checkpoint is {path}" if path else "nothing was saved"
                raise TrainingDiverged(
                    f"the {loss} loss is {value.item()} at step {step}; {good}; "
                    "lower learning_rate or max_grad_norm, or warm eps up"
                )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _rate_factor(step, num_steps, warmup_steps)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), max_grad_norm)
            optimizer.step()
            decay = min(ema_decay, (1.0 + step) / (10.0 + step))
            for name, parameter in flow.named_parameters():
                ema[name].lerp_(parameter.detach(), 1.0 - decay)
            history.adversarial.append(_mean(nll[:num_attacked]))
            history.clean.append(_mean(nll[num_attacked:]))
            bar.update()
            bar.set_postfix_str(f"{value.item():.3f} bits/dim")
            done = step + 1
            if validation is not None and (done % validate_every == 0 or done == num_steps):
                history.validation.append([done, _validate(flow, ema, validation, seed)])
            history.interrupted = stop.is_set()
            history.seconds = time.monotonic() - started
            if done % checkpoint_every == 0 or done == num_steps or history.interrupted:
                save(done)
            if history.interrupted:
                break
    _set_parameters(flow, ema)
    flow.eval()
    return history


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is left half done."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach only the main thread
        return

    def on_interrupt(*_) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else math.nan


def _rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to 1, then a cosine to 0, as a factor."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (num_steps - warmup_steps)))


def _initialize(flow: Flow, images: Tensor, seed: int) -> None:
    flags = [b for name, b in flow.named_buffers() if name.endswith("initialized")]
    if flags and not all(bool(flag) for flag in flags):
        generator = step_generator(seed, 2)
        chosen = images[torch.randperm(len(images), generator=generator)[:256]]
        flow.initialize(dequantize(chosen, generator).to(next(flow.parameters()).device))


def _parameters(flow: Flow) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in flow.named_parameters()}


def _set_parameters(flow: Flow, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter.copy_(values[name])


def _validate(flow: Flow, ema: dict[str, Tensor], images: Tensor, seed: int) -> float:
    """Mean bits/dim of the averaged weights; the flow's own weights come back afterwards."""
    current = _parameters(flow)
    _set_parameters(flow, ema)
    device = next(flow.parameters()).device
    with torch.no_grad():
        x = dequantize(images, step_generator(seed, 3)).to(device)
        nll = [bits_per_dim(flow.log_prob(part), flow.num_dims) for part in x.split(128)]
    _set_parameters(flow, current)
    return torch.cat(nll).mean().item()


def _save_checkpoint(path, flow, optimizer, ema, step, history, recipe) -> None:
    """One safetensors file, written beside its place and moved there: never half a file."""
    names = [name for name, _ in flow.named_parameters()]
    tensors = {f"flow.{k}": v for k, v in flow.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{names[index]}.{k}": v for k, v in state.items()}
    metadata = {
        "flowrob": "checkpoint",
        "step": str(step),
        "history": json.dumps(vars(history)),
        "recipe": json.dumps(recipe),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
    os.replace(partial, path)


def _read_checkpoint(path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({error}); delete it to start anew"
        ) from error
    if metadata.get("flowrob") != "checkpoint":
        raise ValueError(f"{path} is not a flowrob checkpoint; choose another path")
    return metadata, tensors


def _load_checkpoint(path, flow, optimizer, recipe) -> tuple[int, dict[str, Tensor], History]:
    metadata, tensors = _read_checkpoint(path)
    stored = json.loads(metadata["recipe"])
    if stored != recipe:
        changed = {k: (stored.get(k), v) for k, v in recipe.items() if stored.get(k) != v}
        raise ValueError(
            f"{path} belongs to another run (stored, asked for): {changed}; "
            "use the same settings, or another path"
        )
    parts = {
        kind: {k.removeprefix(kind + "."): v for k, v in tensors.items() if k.startswith(kind)}
        for kind in ("flow", "ema", "adam")
    }
    flow.load_state_dict(parts["flow"])
    parameters = dict(flow.named_parameters())
    state = {
        index: {
            key: parts["adam"][f"{name}.{key}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        for index, name in enumerate(parameters)
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    ema = {name: parts["ema"][name].to(parameters[name]) for name in parameters}
    history = History(**{**json.loads(metadata["history"]), "interrupted": False})
    return int(metadata["step"]), ema, history
