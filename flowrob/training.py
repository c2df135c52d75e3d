"""Training: one loop, three losses (section 4).

    loss = (1 - a) NLL(x) + a NLL(x + delta*(x)),   delta* = argmax of the NLL in the eps ball

with a = 0 (clean), 1 (adversarial: every image is attacked) or 1/2 (hybrid, the paper's defence).
The attack of a step is made against the model of that step; losses are in bits/dim.

Step k draws all its randomness from (seed, k) alone. A resumed run therefore needs no generator
state and continues bit for bit where it stopped. Under torchrun every process draws the same batch
and takes its own rows of it: together they do what one process does.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from flowrob import checkpoints
from flowrob.adversary import ATTACK_DTYPES, Adversary
from flowrob.checkpoints import History, State
from flowrob.data import dequantize
from flowrob.distributed import Group, join
from flowrob.evaluation import bits_per_dim
from flowrob.flows import Flow
from flowrob.muon import Muon
from flowrob.objectives import evaluate

__all__ = ["History", "TrainingDiverged", "batch_indices", "fit", "step_generator"]

ADVERSARIAL_SHARE = {"clean": 0.0, "hybrid": 0.5, "adversarial": 1.0}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax, "muon": Muon}
WINDOW = 50  # steps over which a median tells an explosion from the bad luck of single batches


class TrainingDiverged(RuntimeError):
    """The loss became non-finite or exploded; the message names the last good checkpoint."""


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
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    warmup_steps: int = 100,
    max_grad_norm: float = 100.0,
    ema_decay: float = 0.99,
    flips: bool = True,
    adversarial_share: float | None = None,
    eps: float = 8.0,
    random_eps: float = 0.0,
    eps_warmup_steps: int = 0,
    attack_steps: int = 10,
    attack_warmup_steps: int = 0,
    attack_dtype: str | None = None,
    attack_visits: int = 1,
    reuse_perturbations: bool = False,
    validation: Tensor | None = None,
    validate_every: int = 500,
    keep_best: bool = False,
    explode_above: float = 10.0,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train ``flow`` in place by Adam on (1 - a) NLL(x) + a NLL(x + delta*(x)).

    The flow ends in eval mode with the exponential moving average of its weights. A flow that is
    trained already is a warm start: its ActNorms stay as they are. If ``checkpoint`` names an
    existing file, the run continues from it.

    Under torchrun the same call runs on all processes: ``batch_size`` counts the images of all, the
    first process writes the checkpoint, all read it (several machines: on a common file system),
    and every process returns the same history and weights.

    Source: section 4 of the paper, whose defaults eps = 8 and 10 attack steps are ours too.

    Args:
        flow: initialised here on clean data if it never was.
        images: (N, C, H, W) uint8.
        loss: "clean" (a = 0), "adversarial" (a = 1) or "hybrid" (a = 1/2: one half of every
            batch is attacked).
        num_steps: optimiser steps in all, those of earlier, resumed runs included.
        batch_size: images per step.
        optimizer: "adam", "adamax", or "muon" (:mod:`flowrob.muon`; the quickest to a given loss).
        learning_rate: peak of a linear warm-up followed by a cosine decay to zero.
        warmup_steps: length of that warm-up.
        max_grad_norm: gradients are scaled down to this norm (loss in bits/dim).
        ema_decay: of the averaged weights.
        flips: mirror every image left-right with probability 1/2.
        adversarial_share: another a for "hybrid", in (0, 1). Where a * batch_size is no integer,
            batches differ by one attacked image, and the share is right on average.
        eps: radius of the attack, in grey levels.
        random_eps: the share of attacked images, in [0, 1], whose radius is drawn, each its own,
            uniform in (0, eps]; the others are attacked at eps. Robust at all radii, at the price
            of fewer attacks at the greatest.
        eps_warmup_steps: over how many steps eps grows linearly to its value.
        attack_steps: PGD steps per attacked image; one costs about as much as a clean step.
        attack_warmup_steps: over how many steps their number grows linearly from 1 (rounded up):
            cheaper while the model is crude, at the price of weaker attacks early on.
        attack_dtype: "bfloat16" runs the couplings' networks in it while attacking (x, z and
            log-det stay as they are): faster on hardware made for it, slower on most CPUs; the
            attack climbs rounded gradients. The weights are trained in full precision all the same.
        attack_visits: of as many batches each image stays under attack, every ``attack_visits``-th
            step, and each visit takes ``attack_steps`` more: long attacks at the price of short
            ones, on fewer images. New attacks start at x or at a random point of the ball, in
            equal parts; steps fall from 2 radius to 0, in later visits from a length drawn
            log-uniform in [1/8, 2] radius. Models that look robust because short attacks do not
            find their way are found out while they train, but for what only attacks that are
            longer still would find. Costs one byte per pixel of ``attack_visits`` batches in
            memory and in the checkpoint.
        reuse_perturbations: start each attack where that on the same image last ended, so that
            few attack_steps go far; steps then fall from radius, not 2 radius, to 0. Costs one
            byte per pixel of ``images`` in memory and in the checkpoint, and attacks stay closer
            to what they found before.
        validation: (M, C, H, W) uint8, scored every ``validate_every`` steps by the same loss, at
            full eps and attack_steps (the share random_eps of them at evenly spaced radii).
        validate_every: steps between validations.
        keep_best: end with the averaged weights that scored best on ``validation``, not the last.
        explode_above: stop when the median loss of 50 steps exceeds both 8 bits/dim, which any
            image costs under a uniform density, and this multiple of its lowest value so far
            (counted from the end of the eps warm-up, which makes the loss rise). Checkpoints are
            not written while the loss is that high. ``math.inf``: never.
        checkpoint: path of a .safetensors file, written atomically.
        checkpoint_every: steps between checkpoints.
        seed: of the batches, flips, dequantisation noise and attacks.
        progress: show a progress bar.

    Returns:
        A :class:`History`. Ctrl-C ends the run after the current step: the history says so, the
        checkpoint (if any) is written, and the flow holds the averaged weights of that moment.
        A second Ctrl-C raises KeyboardInterrupt at once.

    Raises:
        ValueError: an unknown loss, optimizer or attack_dtype, a share for another loss than
            "hybrid" or outside (0, 1), a random_eps outside [0, 1], attack_visits together with
            reuse_perturbations, keep_best without validation, explode_above <= 1, fewer images than
            batch_size, fewer than one per process, counts below 1, an ema_decay or max_grad_norm
            out of range, or a checkpoint of another run or of other images.
        TypeError: the flow is not a Flow, or the images are not uint8.
        TrainingDiverged: the loss or its gradient is not finite, or the loss exploded; the last
            good checkpoint is named.
    """
    options = (("loss", loss, ADVERSARIAL_SHARE), ("optimizer", optimizer, OPTIMIZERS))
    for name, value, known in (*options, ("attack_dtype", attack_dtype, ATTACK_DTYPES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {[*known]}, got {value!r}")
    if adversarial_share is not None and not (loss == "hybrid" and 0.0 < adversarial_share < 1.0):
        raise ValueError(
            f"adversarial_share={adversarial_share} with loss={loss!r}: it must lie in (0, 1) "
            'and needs loss="hybrid"; for 0 and 1 say loss="clean" or loss="adversarial"'
        )
    if not 0.0 <= random_eps <= 1.0:
        raise ValueError(f"random_eps is a share, and must lie in [0, 1], got {random_eps}")
    if attack_visits > 1 and reuse_perturbations:
        raise ValueError(
            f"attack_visits={attack_visits} with reuse_perturbations=True: both go on from earlier "
            "perturbations, of recent steps or of the last epoch; choose one"
        )
    if keep_best and validation is None:
        raise ValueError("keep_best=True needs validation=images to choose by")
    if not explode_above > 1.0:
        raise ValueError(f"explode_above must be greater than 1, got {explode_above}")
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowrob.flows.Flow, got {type(flow).__name__}")
    counts = {"num_steps": num_steps, "batch_size": batch_size, "validate_every": validate_every}
    counts |= {"checkpoint_every": checkpoint_every, "attack_visits": attack_visits}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not (0.0 <= ema_decay < 1.0 and max_grad_norm > 0.0):
        raise ValueError(
            f"ema_decay must lie in [0, 1) and max_grad_norm above 0, got {ema_decay} and "
            f"{max_grad_norm}"
        )
    for name, value in {"images": images, "validation": validation}.items():
        if value is not None and not (isinstance(value, Tensor) and value.dtype == torch.uint8):
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a uint8 tensor (N, C, H, W), got {got}")
    if validation is not None and not len(validation):
        raise ValueError("validation is empty; pass at least one image, or None")
    if len(images) < batch_size:
        raise ValueError(f"need at least batch_size={batch_size} images, got {len(images)}")
    group = join()
    if batch_size < group.size:
        raise ValueError(f"batch_size={batch_size} leaves some of {group.size} processes idle")
    share = ADVERSARIAL_SHARE[loss] if adversarial_share is None else adversarial_share
    adversary = Adversary(
        share,
        eps,
        float(random_eps),
        eps_warmup_steps,
        attack_steps,
        attack_warmup_steps,
        attack_dtype,
        attack_visits,
    )
    weight = next(flow.parameters())  # says on which device and in which precision
    optimize = OPTIMIZERS[optimizer](flow.parameters(), lr=learning_rate)
    recipe = {
        "flow": flow.config,
        "loss": loss,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "max_grad_norm": max_grad_norm,
        "ema_decay": ema_decay,
        "flips": flips,
        "keep_best": keep_best,
        "seed": seed,
        "num_images": len(images),
        "images_crc32": zlib.crc32(images.cpu().numpy().tobytes()),
    }
    if share:
        recipe |= {**asdict(adversary), "reuse_perturbations": reuse_perturbations}
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        state = checkpoints.load(path, flow, optimize, recipe)
    else:
        _initialize(flow, images, seed)
        state = State(0, _parameters(flow))
        if share and (reuse_perturbations or attack_visits > 1):
            num_kept = len(images) if reuse_perturbations else attack_visits * batch_size
            state.perturbations = torch.zeros(num_kept, *images.shape[1:], dtype=torch.int8)
    if group.any(state.step > 0, weight.device) and state.step == 0:
        raise ValueError(f"{path} is not seen by all processes; put it on a common file system")
    flow.to(memory_format=torch.channels_last)
    model = flow if group.size == 1 else DistributedDataParallel(flow)
    history = state.history
    limit = _loss_limit(history.loss[eps_warmup_steps:], explode_above)
    save_due, started = False, time.monotonic() - history.seconds
    hidden = not (progress and group.leads)
    bar = tqdm(total=num_steps, initial=state.step, disable=hidden, desc=loss)

    def draw(step: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """Step's batch: which images, whether mirrored, x, and the generator, to go on with."""
        generator = step_generator(seed, 1, step)
        chosen = batch_indices(len(images), batch_size, step, seed)
        batch, mirrored = images[chosen], torch.zeros(batch_size, dtype=torch.bool)
        if flips:
            mirrored = torch.rand(batch_size, generator=generator) < 0.5
            batch = _mirror(batch, mirrored)
        return chosen, mirrored, dequantize(batch, generator), generator

    def diverged(what: str) -> TrainingDiverged:
        saved = path is not None and path.exists()
        good = f"the last good checkpoint is {path}" if saved else "nothing was saved"
        advice = "lower learning_rate or max_grad_norm, or warm eps up"
        return TrainingDiverged(f"the {loss} loss {what}; {good}; {advice}")

    flow.train()
    with _deferred_interrupt(group) as stop, bar:
        for step in range(state.step, num_steps):
            place, drawn_at, age = adversary.visit(step)
            chosen, mirrored, drawn, generator = draw(step)
            x = drawn[group.rows(batch_size)].to(weight)
            num_attacked = adversary.count(drawn_at, batch_size)  # the batch's first
            if num_attacked:
                if age:
                    chosen, mirrored, drawn, generator = draw(drawn_at)
                radius = adversary.radius(step, num_attacked, generator)
                own, turned = group.rows(num_attacked), mirrored[:num_attacked]
                radius = radius[own].to(weight) if random_eps else radius
                attacked, start, reach = drawn[own].to(weight), None, 1.0
                if state.perturbations is not None:
                    which = chosen[:num_attacked]
                    if attack_visits > 1:
                        which = place * batch_size + torch.arange(num_attacked)
                    kept = _mirror(state.perturbations[which], turned).to(weight.dtype) / 127
                    begun = adversary.begin(kept, age, step_generator(seed, 4, step))
                    start, reach = (value[own].to(weight) for value in begun)
                moved = adversary.attack(
                    flow, attacked, radius, adversary.num_steps(step), start, reach
                )
                x = torch.cat((moved, x[len(moved) :]))
                if state.perturbations is not None:
                    delta = adversary.in_radii(moved - attacked, radius)
                    delta = group.gather((127 * delta).round().to(torch.int8), num_attacked)
                    state.perturbations[which] = _mirror(delta.cpu(), turned)
            nll = bits_per_dim(model(x), flow.num_dims)
            for parameters in optimize.param_groups:
                parameters["lr"] = learning_rate * _rate_factor(step, num_steps, warmup_steps)
            optimize.zero_grad(set_to_none=True)
            (nll.sum() * group.size / batch_size).backward()  # processes' gradients are averaged
            norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), max_grad_norm).item()
            nll = group.gather(nll, batch_size)
            value = nll.mean().item()
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise diverged(f"is {value} at step {step} (norm of its gradient: {norm})")
            optimize.step()
            decay = min(ema_decay, (1.0 + step) / (10.0 + step))
            for name, parameter in flow.named_parameters():
                state.ema[name].lerp_(parameter.detach(), 1.0 - decay)
            history.adversarial.append(_mean(nll[:num_attacked]))
            history.clean.append(_mean(nll[num_attacked:]))
            history.loss.append(value)
            bar.update()
            bar.set_postfix_str(f"{value:.3f} bits/dim")
            state.step = done = step + 1
            if done % WINDOW == 0 and len(settled := history.loss[eps_warmup_steps:]) >= WINDOW:
                limit = _loss_limit(settled, explode_above)
                if (median := float(np.median(settled[-WINDOW:]))) > limit:
                    raise diverged(
                        f"exploded: the median of the last {WINDOW} steps, {median:.4g} bits/dim "
                        f"at step {step}, lies above {limit:.4g} (explode_above={explode_above})"
                    )
            if validation is not None and (done % validate_every == 0 or done == num_steps):
                value_now = _validate(flow, state.ema, validation, adversary, seed, group)
                if keep_best and all(value_now < other for _, other in history.validation):
                    state.best = {name: value.clone() for name, value in state.ema.items()}
                history.validation.append([done, value_now])
            history.interrupted = group.any(stop.is_set(), weight.device)
            history.seconds = time.monotonic() - started
            save_due |= done % checkpoint_every == 0 or done == num_steps or history.interrupted
            if save_due and value <= limit:
                if path is not None and group.leads:
                    checkpoints.save(path, flow, optimize, state, recipe)
                save_due = False
            if history.interrupted:
                break
    _set_parameters(flow, state.best or state.ema)
    flow.eval()
    return history


@contextmanager
def _deferred_interrupt(group: Group) -> Iterator[threading.Event]:
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


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else math.nan


def _mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Those images left-right that are to be mirrored, (batch,)."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to 1, then a cosine to 0, as a factor."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (num_steps - warmup_steps)))


def _loss_limit(losses: list[float], factor: float) -> float:
    """What no healthy loss exceeds for long: ``factor`` times the lowest median of a window.

    At least 8 bits/dim, the cost of every image under a uniform density.
    """
    whole = losses[: len(losses) // WINDOW * WINDOW]
    if not whole:
        return math.inf
    return max(8.0, factor * float(np.median(np.reshape(whole, (-1, WINDOW)), axis=1).min()))


def _initialize(flow: Flow, images: Tensor, seed: int) -> None:
    flags = [b for name, b in flow.named_buffers() if name.endswith("initialized")]
    if flags and not all(bool(flag) for flag in flags):
        generator = step_generator(seed, 2)
        chosen = images[torch.randperm(len(images), generator=generator)[:256]]
        flow.initialize(dequantize(chosen, generator).to(next(flow.parameters())))


def _parameters(flow: Flow) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in flow.named_parameters()}


def _set_parameters(flow: Flow, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter.copy_(values[name])


def _validate(flow, ema, images, adversary, seed, group) -> float:
    """The loss of the averaged weights; the flow's own weights come back afterwards."""
    current, share, own = _parameters(flow), adversary.adversarial_share, group.rows(len(images))
    _set_parameters(flow, ema)
    weight, attack_steps = next(flow.parameters()), adversary.attack_steps
    x = dequantize(images, step_generator(seed, 3))[own].to(weight)
    radii = adversary.validation_radius(len(images))[own].to(weight)

    def score(x: Tensor) -> Tensor:
        return bits_per_dim(evaluate(flow.log_prob, x), flow.num_dims)

    scores = []
    for part, radius in zip(x.split(128), radii.split(128), strict=True):
        value = (1.0 - share) * score(part) if share < 1.0 else 0.0
        if share > 0.0:
            value = value + share * score(adversary.attack(flow, part, radius, attack_steps))
        scores.append(value)
    _set_parameters(flow, current)
    return group.gather(torch.cat(scores), len(images)).mean().item()
