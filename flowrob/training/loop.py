"""Training: one loop, three losses (section 4).

    draw, attack, score, update, guard, average, record, validate, save

The attack of a step is made against the model of that step; losses are in bits/dim. Step k draws
all its randomness from (seed, k) alone, so that a resumed run continues bit for bit where it
stopped. Under torchrun every process draws the same batch and takes its own rows of it: together
they do what one process does.
"""

from __future__ import annotations

import os
import time
import zlib
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from flowrob.attacks.starts import check_integers
from flowrob.distributed import Group, join
from flowrob.flows import Flow
from flowrob.training.batches import Batches, step_generator
from flowrob.training.checkpoints import Checkpoint, History, Saver, State
from flowrob.training.guard import Guard, Watch, deferred_interrupt
from flowrob.training.losses import Adversary, Loss
from flowrob.training.update import Update, set_weights, weights_of
from flowrob.training.validation import Validation
from flowrob.units import bits_per_dim, check_images, dequantize


def fit(
    flow: Flow,
    images: Tensor,
    loss: str | Loss = "clean",
    *,
    num_steps: int = 1000,
    batch_size: int = 64,
    update: Update = Update(),  # noqa: B008 (frozen, as the guard is)
    flips: bool = True,
    validation: Validation | Tensor | None = None,
    checkpoint: Checkpoint | str | os.PathLike | None = None,
    guard: Guard = Guard(),  # noqa: B008
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train ``flow`` in place on (1 - a) NLL(x) + a NLL(x + delta*(x)).

    The flow ends in eval mode with the exponential moving average of its weights. A flow that is
    trained already is a warm start: its ActNorms stay as they are. If ``checkpoint`` names an
    existing file, the run continues from it.

    Under torchrun the same call runs on all processes: ``batch_size`` counts the images of all, the
    first process writes the checkpoint, all read it (several machines: on a common file system),
    and every process returns the same history and weights.

    Source: section 4 of the paper.

    Args:
        flow: initialised here on clean data if it never was.
        images: (N, C, H, W) uint8.
        loss: "clean" (a = 0), "adversarial" (a = 1), "hybrid" (a = 1/2: one half of every batch is
            attacked), or a :class:`Loss`, which says how far, how hard, how long.
        num_steps: optimiser steps in all, those of earlier, resumed runs included.
        batch_size: images per step.
        update: optimizer, learning rate, clipping and averaging, an :class:`Update`.
        flips: mirror every image left-right with probability 1/2.
        validation: images to validate on, or a :class:`Validation`, which says how often and
            whether to keep the best weights.
        checkpoint: a path, or a :class:`Checkpoint`, which says how often.
        guard: when to stop a run that explodes, a :class:`Guard`.
        seed: of the batches, flips, dequantisation noise and attacks.
        progress: show a progress bar.

    Returns:
        A :class:`History`. Ctrl-C ends the run after the current step: the history says so, the
        checkpoint (if any) is written, and the flow holds the averaged weights of that moment.
        A second Ctrl-C raises KeyboardInterrupt at once.

    Raises:
        ValueError: an unknown loss, images of another shape than the flow's or fewer than
            batch_size, fewer than one per process, counts below 1, or a checkpoint that is damaged,
            of another run or of other images.
        TypeError: the flow is not a Flow, the images are not uint8, or an option of another kind.
        OSError: another run uses the checkpoint, or it cannot be written: tried before the first
            step. If the disk fills up later, the last checkpoint stays, and the flow holds the
            averaged weights of that moment.
        TrainingDiverged: the loss or its gradient is not finite, or the loss exploded; the last
            good checkpoint is named.
    """
    loss, group = Loss.of(loss), join()
    validation, checkpoint = Validation.of(validation), Checkpoint.of(checkpoint)
    _check(flow, images, num_steps, batch_size, update, guard, group)
    _check_options(flow, flips, validation, seed)
    batches, optimizer = Batches(images, batch_size, flips, seed), update.start(flow)
    recipe = _recipe(flow, loss, batches, num_steps, update, validation)
    usual = {"update": asdict(Update()), "loss": Loss.of(loss.name).record()}
    saver = Saver(checkpoint, flow, optimizer, recipe, usual, writes=group.leads)
    with saver.alone():
        state = _begin_or_resume(saver, flow, loss, batches, group)
        flow.to(memory_format=torch.channels_last).train()
        model = flow if group.size == 1 else DistributedDataParallel(flow)
        adversary = Adversary(loss, batches, group, next(flow.parameters()), state.perturbations)
        history, started = state.history, time.monotonic() - state.history.seconds
        watch = Watch(guard, loss.name, history.loss, loss.eps_warmup_steps, saver.path)
        hidden = not (progress and group.leads)
        bar = tqdm(total=num_steps, initial=state.step, disable=hidden, desc=loss.name)
        with deferred_interrupt(group) as stop, bar:
            for step in range(state.step, num_steps):
                batch = batches.draw(step)
                x, num_attacked = adversary.attack(flow, batch, step)
                nll = bits_per_dim(model(x), flow.num_dims)
                # Of several processes the gradients are averaged: hence their number.
                norm = update.differentiate(flow, optimizer, nll.sum() * group.size / batch_size)
                nll = group.gather(nll, batch_size)
                watch.check(step, nll.mean().item(), norm)
                update.apply(optimizer, step, num_steps)
                update.average(state.ema, flow, step)
                history.record(nll, num_attacked)
                state.step = step + 1
                _validate(validation, state, flow, loss, batches, group, num_steps)
                history.interrupted = group.any(stop.is_set(), nll.device)
                history.seconds = time.monotonic() - started
                try:
                    saver.save(state, num_steps, healthy=history.loss[-1] <= watch.limit)
                except OSError:  # the work is not lost: whoever catches this has the flow
                    _finish(flow, state)
                    raise
                bar.update()
                bar.set_postfix_str(f"{history.loss[-1]:.3f} bits/dim")
                if history.interrupted:
                    break
        _finish(flow, state)
        return history


def _finish(flow: Flow, state: State) -> None:
    set_weights(flow, state.best or state.ema)
    flow.eval()


def _check(
    flow: Flow,
    images: Tensor,
    num_steps: int,
    batch_size: int,
    update: Update,
    guard: Guard,
    group: Group,
) -> None:
    """Raise before anything is drawn or written."""
    kinds = {"flow": (flow, Flow), "update": (update, Update), "guard": (guard, Guard)}
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            where = f"{kind.__module__.rsplit('.', 1)[0]}.{kind.__name__}"
            raise TypeError(f"{name} must be a {where}, got {type(value).__name__}")
    check_images(images)
    if tuple(images.shape[1:]) != flow.event_shape:
        raise ValueError(
            f"images must have shape (N, {', '.join(map(str, flow.event_shape))}), as the flow has "
            f"it, got {tuple(images.shape)}"
        )
    check_integers(1, num_steps=num_steps, batch_size=batch_size)
    if len(images) < batch_size:
        raise ValueError(f"need at least batch_size={batch_size} images, got {len(images)}")
    if batch_size < group.size:
        raise ValueError(f"batch_size={batch_size} leaves some of {group.size} processes idle")


def _check_options(flow: Flow, flips: bool, validation: Validation | None, seed: int) -> None:
    """Raise before a run that would meet them only after hours."""
    if not isinstance(flips, bool):
        raise TypeError(f"flips must be True or False, got {flips!r}")
    check_integers(0, seed=seed)
    if validation and tuple(validation.images.shape[1:]) != flow.event_shape:
        raise ValueError(
            f"validation images must be of the flow's shape {flow.event_shape}, got "
            f"{tuple(validation.images.shape[1:])}"
        )


def _recipe(
    flow: Flow,
    loss: Loss,
    batches: Batches,
    num_steps: int,
    update: Update,
    validation: Validation | None,
) -> dict:
    """What a resumed run must share with the one that wrote its checkpoint."""
    images = batches.images
    return {
        "flow": flow.config,
        "loss": loss.record(),
        "num_steps": num_steps,
        "batch_size": batches.batch_size,
        "update": asdict(update),
        "flips": batches.flips,
        "keep_best": bool(validation and validation.keep_best),
        "seed": batches.seed,
        "num_images": len(images),
        "images_crc32": _crc32(images),
        **({"validation_crc32": _crc32(validation.images)} if validation else {}),
    }


def _crc32(images: Tensor) -> int:
    return zlib.crc32(images.cpu().numpy().tobytes())


def _begin_or_resume(saver: Saver, flow: Flow, loss: Loss, batches: Batches, group: Group) -> State:
    """The saved state, or that before the first step; a flow that never was is initialised."""
    room = Adversary.room_for(loss, batches)
    state = saver.resume(room)
    resumed = group.any(state is not None and state.step > 0, next(flow.parameters()).device)
    if resumed and not (state and state.step):
        raise ValueError(f"{saver.path} is not seen by all processes; use a common file system")
    if state is not None:
        return state
    flags = [b for name, b in flow.named_buffers() if name.endswith("initialized")]
    if flags and not all(bool(flag) for flag in flags):
        generator, images = step_generator(batches.seed, 2), batches.images
        chosen = images[torch.randperm(len(images), generator=generator)[:256]]
        flow.initialize(dequantize(chosen, generator).to(next(flow.parameters())))
    return State(0, weights_of(flow), perturbations=room)


def _validate(
    validation: Validation | None,
    state: State,
    flow: Flow,
    loss: Loss,
    batches: Batches,
    group: Group,
    num_steps: int,
) -> None:
    """If it is due, score the averaged weights, and remember them if they are the best so far."""
    if validation is None or not validation.due(state.step, num_steps):
        return
    value = validation.score(flow, state.ema, loss, batches.seed, group)
    before = state.history.validation
    if validation.keep_best and all(value < other for _, other in before):
        state.best = {name: weight.clone() for name, weight in state.ema.items()}
    before.append([state.step, value])
