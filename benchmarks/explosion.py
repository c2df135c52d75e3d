"""What makes a likelihood explode: bounds on two scales, the optimizer, and the length of training.

    python benchmarks/explosion.py --json results/explosion.json
    python benchmarks/explosion.py --sets cifar10 --data cifar10=cifar10.npz --json ...

Trains the same Glow, clean, from nothing, on every combination of

    coupling scale   bounded below by 0.01, or free (as published)
    prior scale      bounded likewise, or log s = h (as published)
    optimizer        Adam, Adamax, Muon
    steps            500, 1,500, 4,500

and puts each under the same attack: 20 steps of projected gradient ascent at eps 1, 2, 4, 8 on
held-out images. The record keeps mean, median and greatest bits/dim, and from the anatomy of the
attack at eps 8 the share of each level's latents. It can be interrupted: the same command goes on
with the runs that miss.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from resumable import Record
from torch import Tensor

from flowrob import data, flows
from flowrob.attacks import LinfBall, lower_likelihood
from flowrob.evaluation import anatomy, robustness_table
from flowrob.training import TrainingDiverged, Update, fit
from flowrob.units import midpoint

EPS = (0, 1, 2, 4, 8)
RATES = {"adam": 2e-3, "adamax": 2e-3, "muon": 8e-3}
#: Which images: trained on, and held out.
RANGES = {"photos": (None, None), "cifar10": (slice(0, 3200), slice(3200, 3400))}


def build(coupling: str, prior: str, size: int, seed: int) -> flows.Flow:
    """A small Glow whose coupling and prior scales are each "bounded" or "free"."""
    shape = {"num_levels": 2, "num_steps": 4, "width": 32} if size < 32 else {}
    generator = torch.Generator().manual_seed(seed)
    published = {"published_prior": prior == "free", "generator": generator}
    flow = flows.glow((3, size, size), **shape, **published)
    for module in flow.modules():
        if isinstance(module, flows.AffineCoupling) and coupling == "free":
            if not isinstance(module.conditioner, flows.ZeroConv2d):  # that is the prior
                module.min_scale = 0.0
    return flow


def images(name: str, path: str, size: int, limit: int) -> tuple[Tensor, Tensor]:
    """Those to train on, and ``limit`` held-out ones."""
    train, held_out = RANGES[name]
    if train is None:
        found = data.load(path, size=size), data.load(path, split="test", size=size)
    else:
        found = tuple(data.load(path, size=size, indices=which) for which in (train, held_out))
    chosen = torch.linspace(0, len(found[1]) - 1, min(limit, len(found[1]))).long()
    return found[0], found[1][chosen]


def measure(flow: flows.Flow, held_out: Tensor) -> dict:
    """Bits/dim over eps, and where they come from at the greatest."""
    table = robustness_table(
        flow.log_prob,
        held_out,
        EPS,
        generator=torch.Generator().manual_seed(0),
        num_resamples=1,
        attack_options={"num_steps": 20},
    )
    bits = table.by_eps()
    x = midpoint(held_out[:16])
    moved = lower_likelihood(flow.log_prob, x, LinfBall(8 / 256), num_steps=20).x
    found = anatomy(flow, x, moved)
    total = found.total.sum()
    return {
        "mean": bits.mean(1).tolist(),
        "median": bits.median(1).values.tolist(),
        "greatest": bits.amax(1).tolist(),
        "latent_shares": (found.latent.sum(1) / total).tolist(),
        "growth": found.distance.mean(1)[-1].item(),
    }


def runs(options: argparse.Namespace):
    """All combinations, the cheap ones first."""
    scales = ("bounded", "free")
    for steps, seed, name in itertools.product(options.steps, options.seeds, options.sets):
        for optimizer, coupling, prior in itertools.product(options.optimizers, scales, scales):
            yield {
                "set": name,
                "coupling": coupling,
                "prior": prior,
                "optimizer": optimizer,
                "steps": steps,
                "seed": seed,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["photos"], choices=RANGES)
    parser.add_argument("--data", nargs="*", default=[], metavar="SET=PATH")
    parser.add_argument("--size", type=int, default=16, help="32: the shipped Glow's size")
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 1500, 4500])
    parser.add_argument("--optimizers", nargs="+", default=list(RATES), choices=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, default=64, help="held-out images")
    parser.add_argument("--json", type=Path, help="write the record there, and go on from it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = dict(pair.split("=", 1) for pair in options.data)
    settings = {"size": options.size, "limit": options.limit, "rates": RATES, "eps": list(EPS)}
    record = Record(options.json, "explosion.py", settings)
    loaded = {name: images(name, paths.get(name, name), options.size, options.limit)
              for name in options.sets}  # fmt: skip
    for run in runs(options):
        if record.has(**run):
            continue
        train, held_out = loaded[run["set"]]
        flow = build(run["coupling"], run["prior"], options.size, run["seed"])
        update = Update(run["optimizer"], RATES[run["optimizer"]])
        how = {"num_steps": run["steps"], "update": update, "seed": run["seed"]}
        try:
            fit(flow, train, **how, progress=False)
            row = {**run, **measure(flow, held_out)}
        except TrainingDiverged as error:
            row = {**run, "diverged": str(error)}
        record.add(row)
        last = row.get("mean", [row.get("diverged")])
        print(*run.values(), last, flush=True)


if __name__ == "__main__":
    main()
