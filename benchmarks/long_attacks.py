"""How far attacks of growing length reach against the robust models that ship.

    python benchmarks/long_attacks.py --data cifar10=PATH.npz celeba=PATH.npz \\
        --json results/long_attacks.json
    python benchmarks/long_attacks.py --data cifar10=PATH.npz --sets cifar10 photos \\
        --at eps1:1 eps2:2 eps4:4 hybrid:1 hybrid:2 hybrid:4 --steps 100 1000 --limit 6 \\
        --json results/long_attacks_small.json

Auto-PGD from a random start, at eps 8, or with --at each kind of model at an eps of its own, on the
first of the images that each model is reported on: the same attack with 100, 300 and 1,000 steps. A
model that hides from short attacks is found out by the longer ones; a robust one stays where it
was. All budgets start at the same point with the same noise, and one other draw of noise scores
them. With --json the comparison can be interrupted: the same command goes on with what is missing,
and repeats what was measured on other weights.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path

import torch
from resumable import Record
from torch import Tensor

import flowrob
from flowrob import zoo
from flowrob.attacks import Objective, attack_images, dequantization_noise, score_images
from flowrob.cli.recipes import RECIPES
from flowrob.evaluation import bits_per_dim, pipe_table
from flowrob.flows import Flow

SETS, LOSSES = ("cifar10", "celeba", "photos"), ("hybrid", "adversarial")
EPS = 8


def set_and_path(text: str) -> tuple[str, str]:
    """SET=PATH, where the images of a set are."""
    name, equals, path = text.partition("=")
    if not (equals and path and name in SETS):
        raise argparse.ArgumentTypeError(f"{text!r} is not SET=PATH, with SET one of {SETS}")
    return name, path


def add_images(parser: argparse.ArgumentParser) -> None:
    """--sets and --data: which sets, and where their images are."""
    parser.add_argument(
        "--data",
        type=set_and_path,
        action="extend",
        nargs="+",
        default=[],
        metavar="SET=PATH",
        help="where the images of a set are: a folder, or an .npz file",
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))


def fingerprint(name: str) -> str:
    """The start of the SHA-256 of shipped weights."""
    path = Path(flowrob.__file__).parent / "weights" / f"{name}.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def images_of(name: str, elsewhere: dict[str, str], flow: Flow, limit: int) -> tuple[Tensor, str]:
    """The first of the images that a model is reported on, and which these are, in words."""
    images = RECIPES[name].images
    images = images.elsewhere(elsewhere.get(images.data), False, {"report": None})
    return images.load("report", flow, limit), images.describe("report")


def loss_and_eps(text: str) -> tuple[str, int]:
    """KIND:EPS, which of a set's models is attacked, and how far."""
    kind, colon, eps = text.partition(":")
    if not (colon and eps.isdigit() and f"glow-photos-{kind}" in RECIPES):
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND:EPS, such as hybrid:4")
    return kind, int(eps)


def auto_pgd(log_prob: Objective, images: Tensor, eps: int, num_steps: int, seed: int) -> Tensor:
    """Grey levels after Auto-PGD from a random start."""
    how = {"schedule": "auto", "start": "random", "num_steps": num_steps}
    generator = torch.Generator().manual_seed(seed)
    return attack_images(log_prob, images, eps, generator=generator, **how).x


def score(flow: Flow, images: Tensor, eps: int, num_steps: int, seed: int) -> dict[str, float]:
    """Bits/dim after the attack: mean, median and greatest over the images."""
    found = auto_pgd(flow.log_prob, images, eps, num_steps, seed)
    noise = dequantization_noise(images, "fixed", torch.Generator().manual_seed(seed + 1))
    nats = score_images(flow.log_prob, found, noise)
    bits = bits_per_dim(nats.double(), math.prod(images.shape[1:]))
    of = {"mean": bits.mean(), "median": bits.quantile(0.5), "greatest": bits.max()}
    return {key: round(value.item(), 4) for key, value in of.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_images(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--at", type=loss_and_eps, nargs="+", metavar="KIND:EPS", help="default: "
                        + " ".join(f"{loss}:{EPS}" for loss in LOSSES))  # fmt: skip
    parser.add_argument("--limit", type=int, default=12, help="images of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: getattr(options, key) for key in ("sets", "steps", "limit", "seed")}
    settings |= {"at": [list(pair) for pair in options.at]} if options.at else {"eps": EPS}
    settings |= {"attack": "Auto-PGD from a random start"}
    record = Record(options.json, "long_attacks.py", settings, data={})
    print(pipe_table(["model", "steps", "mean", "median", "greatest"], []))
    for data in options.sets:
        for loss, eps in options.at or [(loss, EPS) for loss in LOSSES]:
            name = f"glow-{data}-{loss}"
            weights, flow = fingerprint(name), zoo.load(name, "cpu")
            paths = dict(options.data)
            images, record.content["data"][data] = images_of(name, paths, flow, options.limit)
            for num_steps in options.steps:
                key = {"set": data, "loss": loss, "num_steps": num_steps}
                key |= {"eps": eps} if options.at else {}
                if not record.needs(weights, **key):
                    continue
                scores = score(flow, images, eps, num_steps, options.seed)
                record.add({**key, **scores, "weights": weights})
                cells = [f"{value:,.2f}" for value in scores.values()]
                print(f"| {name} | {num_steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
