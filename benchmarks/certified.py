"""Certified bits/dim of shipped models by median smoothing, for several widths of noise.

    python benchmarks/certified.py --json results/certified.json

For some test crops of photographs: bits/dim without noise, the median under Gaussian noise of sigma
grey levels, the bound that no perturbation within eps (l_2, grey levels) breaks, each single one
with the confidence given, and what an attack on the smoothed score finds: ascent on the mean NLL
over some draws of noise, scored by the median over as many fresh draws as the bound has. With
--json the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from resumable import Record
from torch import Tensor

from flowrob import data, zoo
from flowrob.attacks import L2Ball, Objective, lower_likelihood
from flowrob.attacks.images import OverNoise
from flowrob.evaluation import certify_median, pipe_table
from flowrob.flows import Flow, FlowMixture
from flowrob.units import bits_per_dim, dequantize

MODELS = {
    "published": "glow-photos-published-clean",
    "clean": "glow-photos-clean",
    "adversarial": "glow-photos-adversarial",
    "hybrid": "glow-photos-hybrid",
    "hybrid (1:1, fresh)": "glow-photos-hybrid-fresh",
    "ladder": "glow-photos-ladder",
}
SIGMAS, RATIOS = (1, 4, 16), (0.0, 0.5, 1.0, 2.0)
CONFIDENCE, DRAWS, STEPS = 0.99, 4, 10


def averaged(flow: Flow | FlowMixture, noise: Tensor) -> Objective:
    """x -> the mean log-likelihood over the same draws of noise, seen by all images, (batch,)."""
    over = OverNoise(flow.log_prob, 256 * noise[:, None])
    return lambda x: over(256 * x)


def measure(flow: Flow | FlowMixture, x: Tensor, sigma: float, count: int):
    """One row: means over the crops; eps and sigma in grey levels."""
    s = sigma / 256
    how = {"num_samples": count, "confidence": CONFIDENCE}
    eps = [s * ratio for ratio in RATIOS]
    found = certify_median(flow.log_prob, x, s, eps, generator=seeded(1), **how)
    noise = s * torch.randn(DRAWS, *x.shape[1:], generator=seeded(2))
    target = averaged(flow, noise)
    moved = lower_likelihood(target, x, L2Ball(eps[-1]), num_steps=STEPS, box=None).x
    attacked = certify_median(flow.log_prob, moved, s, 0.0, generator=seeded(3), **how)
    with torch.no_grad():
        plain = bits_per_dim(flow.log_prob(x), x[0].numel())
    content = {
        "plain": plain.mean(),
        "median": found.median.mean(),
        "eps": [sigma * r for r in RATIOS],
    }
    content |= {key: getattr(found, key).mean(1).tolist() for key in ("lower", "upper")}
    content |= {"attacked": attacked.median.mean()}
    return {k: v.item() if isinstance(v, Tensor) else v for k, v in content.items()}


def seeded(seed: int) -> torch.Generator:
    """A generator that starts there."""
    return torch.Generator().manual_seed(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=3, help="crops, spread over the test images")
    parser.add_argument("--samples", type=int, default=300, help="draws of noise per crop")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"limit": options.limit, "num_samples": options.samples, "sigmas": SIGMAS}
    settings |= {"confidence": CONFIDENCE, "attack": f"PGD, {STEPS} steps, {DRAWS} draws of noise"}
    record = Record(options.json, "certified.py", settings)
    crops = data.load("photos", split="test")
    x = dequantize(crops[:: len(crops) // options.limit][: options.limit], seeded(0))
    print(pipe_table(["model", "sigma", "plain", "median", "attacked", "upper"], []))
    for name in options.models:
        flow = zoo.load(MODELS[name], "cpu")
        for sigma in SIGMAS:
            if record.has(model=name, sigma=sigma):
                continue
            row = measure(flow, x, sigma, options.samples)
            record.add({"model": name, "sigma": sigma, **row})
            cells = [row["plain"], row["median"], row["attacked"], row["upper"][-1]]
            print(
                f"| {name} | {sigma} | {' | '.join(f'{cell:,.2f}' for cell in cells)} |", flush=True
            )


if __name__ == "__main__":
    main()
