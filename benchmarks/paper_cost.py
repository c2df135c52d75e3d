"""What would it cost to train Glow at the paper's size? A cost model, measured on one CPU core.

    python benchmarks/paper_cost.py                     the sizes, the fits and the test, as text
    python benchmarks/paper_cost.py --json results/paper_cost.json

Counted, at each size: FLOPs by torch's own counter, bytes that autograd keeps, parameters.
Measured, in CPU seconds of the process (those spent in its own code; those that the system spends
on handing out memory depend on what else the machine does, and are kept beside them): three jobs on
a batch of images,

    forward    log_prob under no_grad
    attack     log_prob and its gradient in x, weights frozen: one step of PGD
    training   all gradients, their clipping, Adam and the moving average of the weights

Fitted, per job, two models of two constants each:

    line       seconds = a + FLOPs / rate
    traffic    seconds = bytes that training keeps / speed + FLOPs / rate

Each can fail twice: every size is predicted from the others, and the paper's size, which is larger
than all of them, is predicted and then measured.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flowrob import flows
from flowrob.attacks import LinfBall
from flowrob.attacks.balls import Region
from flowrob.attacks.gradient import ascend
from flowrob.attacks.objectives import Negative
from flowrob.attacks.outcome import Best
from flowrob.records import circumstances, command_line, write_json

#: name -> how to build it; the first is the package's default.
SIZES: dict[str, Callable[[], flows.Flow]] = {
    "K = 8, width 64": lambda: flows.glow(num_steps=8, width=64),
    "K = 8, width 128": lambda: flows.glow(num_steps=8, width=128),
    "K = 8, width 256": lambda: flows.glow(num_steps=8, width=256),
    "K = 4, width 512": lambda: flows.glow(num_steps=4, width=512),
}
PAPER = "K = 32, width 512"
JOBS = ("forward", "attack", "training")
ATTACK_STEPS = 10
#: Bytes per parameter: weight, gradient, Adam's two moments, moving average, all float32.
BYTES_PER_PARAMETER = 4 + 4 + 8 + 4
#: What nothing here measures: the length of a run, and GPUs. Peaks (FLOP/s, dense: half of what is
#: printed for sparse matrices) and bandwidths (bytes/s) are those of NVIDIA's data sheets.
ASSUMED: dict = {
    "images": 50_000,
    "epochs": 100,
    "utilisation": [0.1, 0.4],
    "gpus": {
        "H100 SXM": {"fp32": 67e12, "TF32": 494.7e12, "bf16": 989.4e12, "bandwidth": 3.35e12},
        "A100 80GB SXM": {"fp32": 19.5e12, "TF32": 156e12, "bf16": 312e12, "bandwidth": 2.04e12},
    },
}


def paper_model() -> flows.Flow:
    """The paper's Glow at its published size."""
    return flows.published("glow-cifar10")


def jobs(flow: flows.Flow, x: Tensor) -> dict[str, Callable[[], None]]:
    """The three jobs as functions without arguments; no job changes the weights."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.0)
    average = {name: p.detach().clone() for name, p in flow.named_parameters()}

    def forward() -> None:
        with torch.no_grad():
            flow.log_prob(x)

    def attack() -> None:
        flow.requires_grad_(False)
        flow.log_prob(x.clone().requires_grad_()).sum().backward()
        flow.requires_grad_(True)

    def training() -> None:
        optimizer.zero_grad(set_to_none=True)
        flow.log_prob(x).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 100.0)
        optimizer.step()
        for name, p in flow.named_parameters():
            average[name].lerp_(p.detach(), 0.01)

    return {"forward": forward, "attack": attack, "training": training}


def kept_bytes(job: Callable[[], None], flow: flows.Flow) -> int:
    """What autograd keeps for the backward pass of a job, the parameters themselves left out."""
    own = {p.untyped_storage().data_ptr() for p in flow.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()  # once, however many views are kept
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        job()
    return sum(kept.values())


def per_image(count: Callable[[Tensor], int], x: Tensor) -> tuple[int, int]:
    """(per image, per step) of a count that is affine in the batch, from batches of 1 and 2."""
    one, two = count(x[:1]), count(x[:2])
    return two - one, 2 * one - two


def counted_flops(flow: flows.Flow, x: Tensor) -> dict[str, tuple[int, int]]:
    """FLOPs of each job: per image, and what comes once per step."""

    def of(job: str, x: Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            jobs(flow, x)[job]()
        return counter.get_total_flops()

    return {job: per_image(lambda x, job=job: of(job, x), x) for job in JOBS}


def counted(flow: flows.Flow, x: Tensor) -> dict:
    """Parameters; FLOPs and kept bytes of each job, per image and what comes once per step."""

    def kept(job: str) -> tuple[int, int]:
        return per_image(lambda x: kept_bytes(jobs(flow, x)[job], flow), x)

    return {
        "parameters": flow.num_parameters,
        "flops": counted_flops(flow, x),
        "kept_bytes": {job: kept(job) for job in ("attack", "training")},
    }


def attack_calls(attack_steps: int) -> dict[str, int]:
    """Gradients and plain evaluations that an attack in training asks of log_prob, counted."""
    calls = {"gradients": 0, "forwards": 0}

    def log_prob(x: Tensor) -> Tensor:
        calls["gradients" if x.requires_grad else "forwards"] += 1
        return -x.square().flatten(1).sum(1)

    x = torch.full((1, 3), 0.5)
    ball = LinfBall(8 / 256).on(x)
    lengths = [2 * ball.radius] * attack_steps
    ascend(Negative(log_prob), Region(x, ball, (0.0, 1.0)), x, lengths, Best(x))
    return calls


def measure(
    rows: dict[str, dict[str, Callable]], rounds: int, at_least: float = 1.0
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """CPU seconds of every job, the least of the rounds, and the system's in that round.

    In a round a job repeats until ``at_least`` seconds are spent: the clock that tells the
    process's own seconds from the system's is a coarse one. The sizes take turns.
    """
    own = {name: {job: float("inf") for job in of} for name, of in rows.items()}
    system = {name: dict(of) for name, of in own.items()}
    for _ in range(rounds):
        for name, of in rows.items():
            for job, run in of.items():
                before, repeats, spent = resource.getrusage(resource.RUSAGE_SELF), 0, 0.0
                while not repeats or spent < at_least:
                    run()
                    now, repeats = resource.getrusage(resource.RUSAGE_SELF), repeats + 1
                    spent = now.ru_utime - before.ru_utime
                if spent / repeats < own[name][job]:
                    own[name][job] = spent / repeats
                    system[name][job] = (now.ru_stime - before.ru_stime) / repeats
    return own, system


def fit(features: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """c of seconds = features @ c, by least squares on the *relative* residuals."""
    return np.linalg.lstsq(features / seconds[:, None], np.ones(len(seconds)), rcond=None)[0]


def cost_model(features: np.ndarray, seconds: np.ndarray, beyond: np.ndarray) -> dict:
    """A model fitted to the sizes, and its predictions.

    Args:
        features: (sizes, 2), what the seconds are made of.
        seconds: (sizes,), measured.
        beyond: (2,), the features of a size that takes no part.

    Returns:
        The constants, relative errors of the fit, those for each size left out in turn, and the
        seconds predicted for ``beyond``.
    """
    constants, others = fit(features, seconds), ~np.eye(len(seconds), dtype=bool)
    held_out = [features[i] @ fit(features[o], seconds[o]) for i, o in enumerate(others)]
    return {
        "constants": constants.tolist(),
        "residuals": (features @ constants / seconds - 1).tolist(),
        "held_out": (np.array(held_out) / seconds - 1).tolist(),
        "predicted": float(beyond @ constants),
    }


def run_costs(one: dict[str, float], calls: dict[str, int]) -> dict[str, float]:
    """One optimiser step of each run, in the unit of ``one``: the three jobs on a whole batch."""
    attacked = calls["gradients"] * one["attack"] + calls["forwards"] * one["forward"]
    shares = {"clean": 0.0, "hybrid": 0.5, "adversarial": 1.0}  # of the batch that is attacked
    return {name: one["training"] + share * attacked for name, share in shares.items()}


def initialized(flow: flows.Flow, x: Tensor) -> flows.Flow:
    """As :func:`flowrob.training.fit` has it while it trains."""
    flow.initialize(x[:16])
    return flow.to(memory_format=torch.channels_last).train()


def total(counts: dict, kind: str, job: str, batch: int) -> int:
    """What a job costs for a whole batch: so much per image, and so much once."""
    each, once = counts[kind][job]
    return batch * each + once


def cost_models(sizes: list[dict], paper: dict, seconds: dict, batch: int) -> dict[str, dict]:
    """Both models of the seconds of a job, fitted to all sizes but the paper's, printed."""
    models: dict[str, dict] = {}
    for job in JOBS:
        flops, kept = (
            np.array([float(total(of, *what, batch)) for of in (*sizes, paper)])
            for what in (("flops", job), ("kept_bytes", "training"))
        )
        spent = np.array([seconds[name][job] for name in SIZES])
        for model, first in {"line": np.ones_like(flops), "traffic": kept}.items():
            features = np.stack([first, flops], 1)
            models.setdefault(model, {})[job] = cost_model(features[:-1], spent, features[-1])
            left_out = ", ".join(f"{e:+.0%}" for e in models[model][job]["held_out"])
            print(f"{job}, {model}: {models[model][job]['constants']}; left out: {left_out}")
    return models


def memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, fit, measure the paper's size, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paper-rounds", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=1.0, help="seconds per job and round")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    started, batch = time.monotonic(), options.batch
    torch.set_num_threads(1)
    x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    flows_of = {name: initialized(build(), x) for name, build in SIZES.items()}
    sizes = {name: counted(flow, x) for name, flow in flows_of.items()}
    rows = {name: jobs(flow, x) for name, flow in flows_of.items()}
    seconds, system = measure(rows, options.rounds, options.at_least)
    del flows_of, rows
    before, flow = memory(), initialized(paper_model(), x)
    paper = counted(flow, x)
    models = cost_models(list(sizes.values()), paper, seconds, batch)
    own, others = measure({PAPER: jobs(flow, x)}, options.paper_rounds, options.at_least)
    seconds, system = seconds | own, system | others
    paper["resident_bytes"] = {"before": before, "peak": memory()}
    paper["flops_per_step"] = {job: total(paper, "flops", job, batch) for job in JOBS}
    kept = {job: total(paper, "kept_bytes", job, batch) for job in ("training", "attack")}
    paper["step_bytes"] = {"weights": BYTES_PER_PARAMETER * paper["parameters"], **kept}
    calls = attack_calls(ATTACK_STEPS)
    spent = {"flops": paper["flops_per_step"], "cpu_seconds": seconds[PAPER]}
    runs = {unit: run_costs(of, calls) for unit, of in spent.items()}
    for job in JOBS:
        print(
            f"{PAPER}, {job}: {paper['flops_per_step'][job] / 1e9:.0f} GFLOP, "
            f"{seconds[PAPER][job]:.2f} s measured; predicted: "
            + ", ".join(f"{model} {of[job]['predicted']:.2f} s" for model, of in models.items())
        )
    print("seconds per step: " + ", ".join(f"{k} {s:.1f}" for k, s in runs["cpu_seconds"].items()))
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    settings |= {"threads": 1, "attack_steps": ATTACK_STEPS, "paper": PAPER}
    content = {
        **circumstances(started, command_line("python benchmarks/paper_cost.py", sys.argv[1:])),
        "settings": settings,
        "sizes": {**sizes, PAPER: paper},
        "seconds": seconds,
        "system_seconds": system,
        "models": models,
        "attack_calls": calls,
        "runs": runs,
        "assumed": ASSUMED,
    }
    write_json(options.json, content)


if __name__ == "__main__":
    main()
