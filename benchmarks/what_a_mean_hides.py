"""The likelihood of every image under attack, for five densities: what a table's mean is made of.

    python benchmarks/what_a_mean_hides.py --json results/what_a_mean_hides.json

For each shipped model of photographs and each eps: Auto-PGD from a random start on the same test
crops, and bits/dim of every single crop, clean, under uniform noise and attacked, scored with one
other draw of dequantisation noise. Models that do not hide get few steps, the hybrid more; what
twice the steps find on the first crops at the largest eps says how far that is from enough. The
numbers are lower bounds, the hybrid's above all (results/long_attacks.json). With --json an
interrupted run goes on with what is missing, and repeats what was measured on other weights.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from converged import weights_of
from long_attacks import auto_pgd
from resumable import Record
from torch import Tensor

from flowrob import data, zoo
from flowrob.attacks import Objective, dequantization_noise, score_images
from flowrob.evaluation import bits_per_dim, pipe_table
from flowrob.evaluation.bits import integer_noise

#: Label: the shipped weights, and the steps of the attack.
MODELS = {
    "clean": ("glow-photos-published-clean", 50),
    "adversarial": ("glow-photos-adversarial", 25),
    "hybrid": ("glow-photos-hybrid", 80),
    "ladder": ("glow-photos-ladder", 20),
    "RealNVP": ("realnvp-photos-clean", 50),
}
EPS = (0, 1, 2, 4, 8)


def measure(log_prob: Objective, images: Tensor, eps: int, num_steps: int, options) -> dict:
    """One row: bits/dim of every image, noisy and attacked; at the largest eps the doubling too."""
    draws = torch.Generator().manual_seed(options.seed + 1)
    noise = dequantization_noise(images, "fixed", draws)

    def score(levels: Tensor) -> Tensor:
        u = noise[:, : len(levels)]
        nats = score_images(log_prob, levels, u, batch_size=16)
        return bits_per_dim(nats.double(), math.prod(images.shape[1:]))

    if not eps:
        return {"bits": kept(score(images))}
    found = score(auto_pgd(log_prob, images, eps, num_steps, options.seed))
    row = {"bits": kept(found), "noise": kept(score(integer_noise(images, eps, draws)))}
    if eps == max(EPS):
        few = images[: options.doubled]
        twice = score(auto_pgd(log_prob, few, eps, 2 * num_steps, options.seed))
        row["twice the steps"] = kept(twice)
    return row


def kept(bits: Tensor) -> list[float]:
    """What the record holds: six significant digits."""
    return [float(f"{value:.6g}") for value in bits.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=40, help="test crops")
    parser.add_argument("--doubled", type=int, default=8, help="crops attacked for twice as long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings: dict = {key: getattr(options, key) for key in ("limit", "doubled", "seed")}
    settings |= {"eps": list(EPS), "attack": "Auto-PGD from a random start"}
    settings |= {"steps": {label: steps for label, (_, steps) in MODELS.items()}}
    images = data.load("photos", split="test", limit=options.limit)
    squares = data.photo_tiles("test")[: options.limit].tolist()
    which = {"data": "photos, test", "squares": squares}
    record = Record(options.json, "what_a_mean_hides.py", settings, **which)
    print(pipe_table(["model", "eps", "mean", "median", "greatest"], []))
    for label, (name, num_steps) in MODELS.items():
        weights, density = weights_of(name), zoo.load(name, "cpu").log_prob
        for eps in EPS:
            key = {"model": label, "weights of": name, "eps": eps}
            if not record.needs(weights, **key):
                continue
            row = measure(density, images, eps, num_steps, options)
            record.add({**key, **row, "weights": weights})
            bits = torch.tensor(row["bits"])
            cells = [f"{v:,.2f}" for v in (bits.mean(), bits.quantile(0.5), bits.max())]
            print(f"| {label} | {eps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
