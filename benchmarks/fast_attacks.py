"""What the options that make adversarial steps cheaper save, and what they cost in robustness.

    python benchmarks/fast_attacks.py                                   one Markdown table
    python benchmarks/fast_attacks.py --seeds 0 1 --json results/fast_attacks.json

Trains the same tiny Glow on the same 16x16 photos from nothing by the hybrid loss, with the same
number of optimiser steps and another attack each time, and puts all of them under one attack that
is stronger than any that they were trained on. What a step costs is timed apart, in short runs that
take turns, in seconds that the process spends in its own code: a busy machine distorts those least.
With --json the comparison can be interrupted: the same command goes on with the runs that miss.
"""

from __future__ import annotations

import argparse
import copy
import resource
from pathlib import Path

import torch
from resumable import Record
from torch import Tensor

from flowrob import data, flows
from flowrob.evaluation import pipe_table, robustness_table
from flowrob.training import Loss, PerImage, Update, fit

CLEAN, REFERENCE = "no attack (clean)", "10 steps"
#: What is compared: name -> options of the hybrid ``Loss``, None for the clean one; the ramp of
#: ``warmed up`` is half of the run.
VARIANTS: dict[str, dict | None] = {
    CLEAN: None,
    REFERENCE: {"attack_steps": 10},
    "5 steps": {"attack_steps": 5},
    "3 steps": {"attack_steps": 3},
    "1 step": {"attack_steps": 1},
    "10 steps, warmed up": {"attack_steps": 10, "attack_warmup_steps": 0.5},
    "3 steps, reused": {"attack_steps": 3, "memory": PerImage()},
    "1 step, reused": {"attack_steps": 1, "memory": PerImage()},
    "10 steps, bfloat16": {"attack_steps": 10, "attack_dtype": "bfloat16"},
}
EPS = (0, 4, 8)


def loss(options: dict | None, num_steps: int) -> Loss:
    """The loss of a variant; its ramps are shares of the run."""
    if options is None:
        return Loss.of("clean")
    warmup = int(options.get("attack_warmup_steps", 0) * num_steps)
    common = {"random_eps": 1.0, "eps_warmup_steps": num_steps // 8}
    return Loss.of("hybrid", **{**common, **options, "attack_warmup_steps": warmup})


def arguments(options: dict | None, num_steps: int) -> dict:
    """What ``fit`` is called with for a variant."""
    return {
        "loss": loss(options, num_steps),
        "num_steps": num_steps,
        "update": Update(warmup_steps=num_steps // 20),
        "progress": False,
    }


def train(images: Tensor, options: dict | None, num_steps: int, seed: int) -> flows.Flow:
    """A tiny Glow from nothing by the loss of a variant."""
    flow = flows.glow((3, 16, 16), 2, 4, 32, generator=torch.Generator().manual_seed(seed))
    fit(flow, images, seed=seed, **arguments(options, num_steps))
    return flow


def prices(images: Tensor, num_steps: int, rounds: int) -> dict[str, float]:
    """Milliseconds per optimiser step of every variant: the least of the rounds, taking turns."""
    flow = train(images, VARIANTS[REFERENCE], 1, 0)  # initialised, and the process warmed up
    start = copy.deepcopy(flow.state_dict())
    best = dict.fromkeys(VARIANTS, float("inf"))
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            flow.load_state_dict(start)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            fit(flow, images, **arguments(variant, num_steps))
            spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            best[name] = min(best[name], 1e3 * spent / num_steps)
    return {name: round(milliseconds, 2) for name, milliseconds in best.items()}


def score(flow: flows.Flow, images: Tensor, attack_steps: int) -> dict[str, dict[str, float]]:
    """Mean and median bits/dim at every eps, clean at 0; the same noise for all models."""
    table = robustness_table(
        flow.log_prob,
        images,
        EPS,
        generator=torch.Generator().manual_seed(0),
        num_resamples=1,
        attack_options={"num_steps": attack_steps},
    )
    rows = {(row["eps"], row["row"]): row for row in table.rows}
    of_eps = {e: rows[e, "attacked" if e else "clean"] for e in EPS}
    return {
        str(e): {key: round(row[key], 4) for key in ("mean", "median")} for e, row in of_eps.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=400, help="optimiser steps of each run")
    parser.add_argument("--every", type=int, default=6, help="train on every so-manieth photo")
    parser.add_argument("--limit", type=int, default=200, help="test crops")
    parser.add_argument("--attack-steps", type=int, default=50, help="of the final attack")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--timed-steps", type=int, default=20, help="of the runs that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = data.load("photos", size=16)[:: options.every]
    test = data.load("photos", split="test", size=16)
    test = test[torch.linspace(0, len(test) - 1, min(options.limit, len(test))).long()]
    settings = {key: value for key, value in vars(options).items() if key not in ("json", "seeds")}
    settings |= {"images": len(images), "test_images": len(test), "batch": 64}
    record = Record(options.json, "fast_attacks.py", settings, reference=REFERENCE)
    if "milliseconds" not in record.content:
        price = prices(images, options.timed_steps, options.rounds)
        record.content["milliseconds"] = price
        record.keep()
    head = ["attack in training", "seed", "CPU ms per step", "clean", "eps 4", "eps 8"]
    lines = []
    for seed in options.seeds:
        for name, variant in VARIANTS.items():
            if record.has(name=name, seed=seed):
                continue
            flow = train(images, variant, options.num_steps, seed)
            scores = score(flow, test, options.attack_steps)
            record.add({"name": name, "seed": seed, **scores})
            cells = [f"{of['mean']:,.2f} / {of['median']:,.2f}" for of in scores.values()]
            cost = f"{record.content['milliseconds'][name]:.0f}"
            lines.append([name, str(seed), cost, *cells])
            print(f"{name}, seed {seed}: {', '.join(cells)}", flush=True)
    print(f"\n{pipe_table(head, lines)}")


if __name__ == "__main__":
    main()
