"""What an attack that knows when it has converged costs, beside attacks of one fixed length.

    pip install foolbox torchattacks                                     those you want beside it
    python benchmarks/price.py --json results/price.json

Two robust Glows at one radius: one trained adversarially, which short attacks already defeat as far
as it can be, and a hybrid, which hides. Every way gets the same images, ball, box, noise and number
of gradients per image: as many as the search of `evaluation.converged_table` had taken when each of
its rounds ended. What they found is scored by one function, in float64, under noise that no
gradient has seen; by it the search, as in all tables, chooses among the ends of its ascents.
The most that any way found on an image, at any budget, counts as all there is; the table tells
after how many gradients and seconds 99% of that was found, on average. A library that is not
installed gets a row that says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import attack_libraries
import torch
from converged import weights_of
from long_attacks import auto_pgd, images_of
from torch import Tensor, nn

from flowrob import records, zoo
from flowrob.attacks import dequantization_noise, score_images
from flowrob.evaluation import Budget, converged_table, pipe_table
from flowrob.flows import Flow
from flowrob.units import bits_per_dim

MODELS = ("glow-photos-adversarial", "glow-photos-hybrid")
SHARE = 0.99  # of all that was found beyond the clean images


class Meter(nn.Module):
    """A density of x in [0, 1] = y / 255 under fixed noise, which counts gradients over time.

    Args:
        flow: the density of (y + u) / 256.
        noise: u, (1, N, C, H, W); None: x is already (y + u) / 256.
    """

    def __init__(self, flow: Flow, noise: Tensor | None = None):
        super().__init__()
        self.flow, self.noise = flow, noise
        self.started, self.rows = time.perf_counter(), 0
        self.log: list[tuple[int, float]] = []

    def log_prob(self, x: Tensor) -> Tensor:
        """In nats, (batch,); counts a row when its gradient is taken."""
        inside = x if self.noise is None else (255 * x + self.noise[0]) / 256
        value = self.flow.log_prob(inside)
        if value.requires_grad:
            value.register_hook(self._count)
        return value

    def _count(self, gradient: Tensor) -> None:
        self.rows += len(gradient)
        self.log.append((self.rows, time.perf_counter() - self.started))

    def seconds(self, rows: float) -> float:
        """When so many gradients of single images had been taken."""
        return next((at for count, at in self.log if count >= rows), self.log[-1][1])


def scored(flow: Flow, levels: Tensor, noise: Tensor) -> list[float]:
    """Bits/dim of grey levels under noise, one number per image."""
    return bits_per_dim(score_images(flow.log_prob, levels, noise), flow.num_dims).tolist()


def library(attack: Callable) -> Callable[..., tuple[Meter, Tensor]]:
    """A way through another library: handed levels / 255, so that its ball and box are ours."""

    def run(flow: Flow, images: Tensor, eps: int, steps: int, seed: int) -> tuple[Meter, Tensor]:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        meter = Meter(flow, dequantization_noise(images, "fixed", generator)).eval()
        return meter, 255 * attack(meter, images.float() / 255, eps / 255, steps).detach()

    return run


def alone(flow: Flow, images: Tensor, eps: int, steps: int, seed: int) -> tuple[Meter, Tensor]:
    """flowrob's Auto-PGD alone, from a random start."""
    meter = Meter(flow)
    return meter, auto_pgd(meter.log_prob, images, eps, steps, seed)


#: name -> (the package it needs, attack)
WAYS: dict[str, tuple[str, Callable[..., tuple[Meter, Tensor]]]] = {
    "flowrob, Auto-PGD alone": ("flowrob", alone),
    "foolbox, `LinfPGD` with `get_loss_fn`": (
        "foolbox",
        library(attack_libraries.foolbox_loss_hook),
    ),
    "torchattacks, `APGD.perturb` on shifted logits": (
        "torchattacks",
        library(attack_libraries.torchattacks_apgd),
    ),
}
SEARCH = "flowrob, search until converged"


def search(flow: Flow, images: Tensor, eps: int, budget: Budget, seed: int) -> dict:
    """One row for the search: what it had found when each round ended, and its verdict."""
    meter = Meter(flow)
    generator = torch.Generator().manual_seed(seed)
    how = {"generator": generator, "budget": budget, "num_resamples": 1}
    table = converged_table(meter.log_prob, images, (0, eps), **how)
    clean, found = table.rows
    points = [
        {
            "gradients": end["evaluations"],
            "seconds": round(meter.seconds(end["evaluations"] * len(images)), 2),
            "mean": end["mean"],
        }
        for end in table.settings["curves"][f"model, {eps}"]
    ]
    values = table.by_eps()[-1].tolist()
    keys = ("status", "steps", "evaluations")
    return {"clean": clean["mean"], "points": points, "values": values} | {
        key: found[key] for key in keys
    }


def measure(name: str, images: Tensor, options: argparse.Namespace, budget: Budget) -> list[dict]:
    """The rows of one model: the search, and each way at each of its budgets."""
    flow, seed = zoo.load(name, "cpu"), options.seed
    noise = dequantization_noise(images, "fixed", torch.Generator().manual_seed(seed))  # as tables
    rows = [{"way": SEARCH} | search(flow, images, options.eps, budget, seed)]
    budgets = [round(point["gradients"]) for point in rows[0]["points"]]
    for way, (package, attack) in WAYS.items():
        row: dict = {"way": way, "points": [], "values": None}
        if records.installed(package) is None:
            rows.append(row | {"missing": package})
            continue
        best = torch.tensor(scored(flow, images, noise))
        for gradients in budgets:
            meter, levels = attack(flow, images, options.eps, gradients, seed + 1)
            outside = (levels - images).abs().max().item() - options.eps
            if outside > 1e-3 or levels.min() < -1e-3 or levels.max() > 255 + 1e-3:
                raise RuntimeError(f"{way} left the ball or the box: {outside} grey levels beyond")
            values = scored(flow, levels.clamp(0, 255), noise)
            point = {"gradients": meter.rows / len(images), "seconds": round(meter.log[-1][1], 2)}
            row["points"].append(point | {"mean": sum(values) / len(values)})
            best = torch.maximum(best, torch.tensor(values))
        rows.append(row | {"values": best.tolist()})
    return rows


def reached(rows: list[dict]) -> dict[str, dict]:
    """way -> the first point with 99% of the rise that any way found, and the share of each point.

    The rise is that of the mean over the images; all there is: the most of each image.
    """
    clean = next(row["clean"] for row in rows if row["way"] == SEARCH)
    values = [row["values"] for row in rows if row["values"]]
    most = sum(max(of) for of in zip(*values, strict=True)) / len(values[0])
    found = {}
    for row in rows:
        shares = [(point["mean"] - clean) / (most - clean) for point in row["points"]]
        first = next((k for k, share in enumerate(shares) if share >= SHARE), None)
        found[row["way"]] = {
            "shares": shares,
            "first": None if first is None else row["points"][first],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eps", type=int, default=8)
    parser.add_argument("--limit", type=int, default=4, help="test crops")
    parser.add_argument("--max-steps", type=int, default=640, help="of the search's longest ascent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    budget = Budget(first_steps=min(10, options.max_steps), max_steps=options.max_steps)
    content: dict = {"settings": {"eps": options.eps, "limit": options.limit, "seed": options.seed}}
    content["settings"]["budget"] = asdict(budget)
    packages = sorted({package for package, _ in WAYS.values()})
    content["rows"] = []
    print(pipe_table(["model", "way", "gradients", "seconds", "found"], []))
    for name in MODELS:
        images, which = images_of(name, {}, zoo.load(name, "cpu"), options.limit)
        content["data"] = which
        rows = measure(name, images, options, budget)
        told = {"model": name, "weights": weights_of(name)}
        content["rows"] += [told | row for row in rows]
        for way, of in reached(rows).items():
            first = of["first"] or {"gradients": "-", "seconds": "-"}
            shares = " ".join(f"{share:.1%}" for share in of["shares"])
            print(f"| {name} | {way} | {first['gradients']} | {first['seconds']} | {shares} |")
        command = records.command_line("python benchmarks/price.py", sys.argv[1:])
        content |= records.circumstances(started, command)
        content["versions"] |= {p: records.installed(p) or "not installed" for p in packages}
        records.write_json(options.json, content)


if __name__ == "__main__":
    main()
