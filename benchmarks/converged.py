"""How far attacks reach when they go on until they find no more, model by model.

    python benchmarks/converged.py --data cifar10=PATH.npz celeba=PATH.npz \\
        --json results/converged.json

Every robust model that ships, alone, at one radius: ascents from the image, uniform noise, corners,
a chequerboard and the best so far, with long steps, short ones and Auto-PGD, four times as long
with each round that finds something, until two rounds in a row find nothing, the last with all of
them, or the budget ends (`evaluation.Budget`). The record keeps bits/dim per image, and the curve:
what was found against gradient evaluations. With --json the same command goes on with what is
missing, and repeats what was measured on other weights.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import torch
from long_attacks import add_images, fingerprint, images_of
from resumable import Record

from flowrob import zoo
from flowrob.cli.recipes import LADDERS
from flowrob.evaluation import Budget, converged_table, pipe_table

#: What is attacked on each set, if it ships. Of a ladder's parts the last, which bounds it.
KINDS = ("adversarial", "hybrid", "hybrid-fresh", "ladder")


def weights_of(name: str) -> list[str]:
    """The start of the SHA-256 of the shipped weights: of a ladder, those of its parts."""
    return [fingerprint(part) for part in LADDERS.get(name, {"": name}).values()]


def measure(name: str, images: torch.Tensor, eps: int, budget: Budget, seed: int) -> dict:
    """One row: what was found, per image and in the mean, and how."""
    started = time.monotonic()
    flow = zoo.load(name, "cpu")
    table = converged_table(
        flow.log_prob,
        images,
        (0, eps),
        generator=torch.Generator().manual_seed(seed),
        budget=budget,
        num_resamples=1,
    )
    clean, attacked = table.rows
    lines = table.by_eps()
    return {
        "clean": round(clean["mean"], 4),
        **{key: round(attacked[key], 4) for key in ("mean", "median")},
        "greatest": round(lines[1].max().item(), 4),
        **{key: attacked[key] for key in ("status", "steps", "evaluations")},
        "seconds": round(time.monotonic() - started, 1),
        "values": [round(value, 4) for value in lines[1].tolist()],
        "curve": table.settings["curves"][f"model, {eps}"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_images(parser)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], metavar="KIND")
    parser.add_argument("--eps", type=int, default=8)
    parser.add_argument("--limit", type=int, default=8, help="images of each set")
    parser.add_argument("--max-steps", type=int, default=640, help="of the longest ascent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the record there, and go on from it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(first_steps=min(10, options.max_steps), max_steps=options.max_steps)
    settings = {"eps": options.eps, "limit": options.limit, "seed": options.seed}
    settings |= {"budget": asdict(budget)}
    record = Record(options.json, "converged.py", settings, data={})
    print(pipe_table(["model", "status", "mean", "evaluations", "seconds"], []))
    names = [f"glow-{data}-{kind}" for data in options.sets for kind in options.kinds]
    for name in (name for name in names if name in zoo.names()):
        data, weights = name.split("-")[1], weights_of(name)
        if not record.needs(weights, model=name):
            continue
        part = next(iter(LADDERS.get(name, {"": name}).values()))
        flow = zoo.load(part, "cpu")
        paths = dict(options.data)
        images, record.content["data"][data] = images_of(part, paths, flow, options.limit)
        row = {"set": data, "model": name, "weights": weights}
        row |= measure(name, images, options.eps, budget, options.seed)
        record.add(row)
        cells = [row[k] for k in ("status", "mean", "evaluations", "seconds")]
        print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
