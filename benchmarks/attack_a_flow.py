"""What notebook 00 shows first: six photographs attacked through two models, with every eps.

    python benchmarks/attack_a_flow.py

It writes the file that flowrob.widgets.stored_attacks reads, into the package: the changes in one
byte per colour value, as fractions of eps in steps of 1/127, and the bits/dim of what they make; no
image. To be run again whenever one of the two models is trained anew. Two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import flowrob
from flowrob import data, zoo
from flowrob.attacks import LinfBall, lower_likelihood, uniform_noise
from flowrob.flows import Flow
from flowrob.records import digest, write_tensors
from flowrob.units import dequantize
from flowrob.widgets import ATTACK_EPS

MODELS = {"clean": "glow-photos-published-clean", "robust": "glow-photos-adversarial"}
PHOTOGRAPHS = (27, 6, 17, 12, 43, 9)  # of the split "test": the pagoda's roof, coffee, a cat
NOISE_SEED, SEED = 0, 1


def attacked(
    models: Mapping[str, Flow], x: Tensor, num_steps: int
) -> tuple[dict[str, Tensor], list]:
    """Changes and scores by "model/change/eps", and these three for each, in the order shown."""
    tensors, keys = {}, []
    for name, model in models.items():
        for eps in ATTACK_EPS:
            noise = torch.Generator().manual_seed(SEED)
            moved = {"chosen": x, "random": uniform_noise(x, eps / 256, noise)}
            if eps:
                found = lower_likelihood(
                    model.log_prob, x, LinfBall(eps / 256), num_steps=num_steps
                )
                steps = ((found.x - x) * (256 / eps) * 127).round().clamp(-127, 127)
                tensors[f"{name}/chosen/{eps}/steps"] = steps.to(torch.int8)
                moved["chosen"] = (x + steps * (eps / 127 / 256)).clamp(0, 1)
            for change, y in moved.items():
                tensors[f"{name}/{change}/{eps}/bits"] = model.bits_per_dim(y).detach()
                keys.append((name, change, eps))
    return tensors, keys


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="of each attack")
    parser.add_argument("--limit", type=int, help="only so many photographs")
    place = Path(flowrob.__file__).parent / "attack_a_flow.safetensors"
    parser.add_argument("--out", type=Path, default=place, help="the file to write")
    args = parser.parse_args(argv)

    chosen = list(PHOTOGRAPHS[: args.limit])
    images = data.load("photos", split="test")
    x = dequantize(images, torch.Generator().manual_seed(NOISE_SEED))[chosen]
    models = {name: zoo.load(weights) for name, weights in MODELS.items()}
    tensors, keys = attacked(models, x, args.steps)
    recipe = {
        "split": "test", "photographs": chosen, "noise_seed": NOISE_SEED, "seed": SEED,
        "attack": "lower_likelihood in LinfBall(eps / 256), from the photograph itself",
        "num_steps": args.steps,
        "models": MODELS,
        "weights": {name: digest(model.state_dict()) for name, model in models.items()},
        "images": digest({"images": images[chosen]}),
        "keys": keys,
    }  # fmt: skip
    print(write_tensors(args.out, "attack grid", tensors, {"recipe": json.dumps(recipe)}))


if __name__ == "__main__":
    main()
