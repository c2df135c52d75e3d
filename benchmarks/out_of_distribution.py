"""What clean models make of images that are not of their kind: noise, raised noise, other sets.

    python benchmarks/out_of_distribution.py --data cifar10=PATH.npz celeba=PATH.npz \\
        --json results/out_of_distribution.json

For each clean model that ships, bits/dim of every single image:

    raised     uniform noise images after the out-of-distribution attack, at each eps; 0 is none
    noise      the first of the images it is reported on, under uniform integers of each size
    attacked   the same under the in-distribution attack (Glow alone)
    SET        images of each set, held out, as they are; "plain" are images of one random colour

The first three are the rows of the paper's Figures 4 and 5, by twenty steps of projected gradient
descent, all on 8-bit images and scored with one other draw of dequantisation noise. With --json an
interrupted run goes on with what is missing, and repeats what was measured on other weights.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from long_attacks import SETS, add_images, fingerprint, images_of
from resumable import Record
from torch import Tensor

from flowrob import zoo
from flowrob.attacks import attack_images, dequantization_noise, score_images
from flowrob.evaluation import bits_per_dim, pipe_table
from flowrob.evaluation.bits import integer_noise
from flowrob.flows import Flow
from flowrob.paper import WIDE_EPS

MODELS = (
    "glow-cifar10-published-clean",
    "glow-cifar10-clean",
    "glow-celeba-clean",
    "glow-photos-published-clean",
    "realnvp-celeba-clean",
)
#: The rows of Figures 4 and 5, by architecture; RealNVP under attack is Table 3's subject.
KINDS = {"glow": ("raised", "noise", "attacked"), "realnvp": ("raised", "noise")}
STEPS = 20


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def bits(flow: Flow, levels: Tensor, seed: int) -> list[float]:
    """Bits/dim of every image, with six significant digits."""
    draws = dequantization_noise(levels, "fixed", seeded(seed + 1))
    nats = score_images(flow.log_prob, levels, draws, batch_size=16)
    values = bits_per_dim(nats.double(), math.prod(levels.shape[1:]))
    return [float(f"{value:.6g}") for value in values.tolist()]


def changed(flow: Flow, kind: str, images: Tensor, eps: int, seed: int) -> Tensor:
    """Those images, or as many of pure noise, after what ``kind`` does to them."""
    if kind == "raised":
        images = torch.randint(0, 256, images.shape, generator=seeded(seed), dtype=torch.uint8)
    if not eps:
        return images
    if kind == "noise":
        return integer_noise(images, eps, seeded(seed + 2))
    goal = "raise" if kind == "raised" else "lower"
    how = {"goal": goal, "num_steps": STEPS, "generator": seeded(seed + 3)}
    return attack_images(flow.log_prob, images, eps, **how).x


def others(paths: dict[str, str], flow: Flow, limit: int, seed: int) -> dict[str, Tensor]:
    """Held-out images of each set that is at hand, and plain ones, by name."""
    at_hand = [name for name in SETS if name in paths or name == "photos"]
    sets = {n: images_of(f"glow-{n}-clean", paths, flow, limit)[0] for n in at_hand}
    colours = torch.randint(0, 256, (limit, 3, 1, 1), generator=seeded(seed), dtype=torch.uint8)
    return sets | {"plain": colours.expand(limit, *flow.event_shape).contiguous()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_images(parser)
    parser.add_argument("--limit", type=int, default=16, help="images that are changed")
    parser.add_argument("--others", type=int, default=64, help="images of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: getattr(options, key) for key in ("limit", "others", "seed")}
    settings |= {"eps": list(WIDE_EPS), "steps": STEPS}
    record = Record(options.json, "out_of_distribution.py", settings, data={})
    paths = dict(options.data)
    print(pipe_table(["model", "what", "eps", "median"], []))
    for name in MODELS:
        kind_of_flow, of = name.split("-")[:2]
        if of not in options.sets:
            continue
        weights, flow = fingerprint(name), zoo.load(name, "cpu")
        images, record.content["data"][of] = images_of(name, paths, flow, options.limit)
        whole = others(paths, flow, options.others, options.seed)
        rows = [(kind, eps) for kind in KINDS[kind_of_flow] for eps in WIDE_EPS]
        for what, eps in [*rows, *((other, 0) for other in whole)]:
            key = {"model": name, "what": what, "eps": eps}
            if not record.needs(weights, **key):
                continue
            levels = (
                whole[what] if what in whole else changed(flow, what, images, eps, options.seed)
            )
            row = {"bits": bits(flow, levels, options.seed), "weights": weights}
            record.add({**key, **row})
            print(f"| {name} | {what} | {eps} | {torch.tensor(row['bits']).median():,.2f} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
