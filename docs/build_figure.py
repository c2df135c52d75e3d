"""Draw the README's figure: four held-out crops under attack, and the NLL over eps.

python docs/build_figure.py        writes docs/figure.png

The model is glow-photos-published-clean, Glow as published, trained on crops of five photographs;
the crops in the figure are cut out of three others.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from flowrob import data, plots, zoo
from flowrob.evaluation import gibbs_floor, robustness_table

EPS = (0, 1, 2, 4, 8)


def main() -> None:
    plots.use_style()
    flow = zoo.load("glow-photos-published-clean", "cpu")
    images = data.load("photos", split="test", limit=48)
    generator = torch.Generator().manual_seed(0)
    table = robustness_table(flow.log_prob, images, EPS, generator=generator)
    attacked, noise = table.by_eps(), table.by_eps(row="noise")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.0), width_ratios=(1.2, 1), constrained_layout=True
    )
    chosen = torch.tensor([4, 17, 27, 42])  # pagoda, cat, roof, cup
    pictures = [table.images["model", e, "attacked" if e else "clean"][chosen] for e in EPS]
    sheet = torch.stack(pictures, 1).flatten(0, 1) / 255
    plots.image_grid(
        left, sheet, columns=5, title="attacked: eps = 0, 1, 2, 4, 8 of 256 grey levels"
    )
    lines = [
        ("attacked, mean", attacked.mean(1), plots.ATTACK, "o-"),
        ("attacked, median", attacked.median(1).values, plots.ATTACK, "o--"),
        ("uniform noise, mean", noise.mean(1), plots.NOISE, "s-"),
    ]
    plots.nll_against_eps(right, EPS, lines, [gibbs_floor(e) for e in EPS])
    right.set_title("glow-photos-published-clean on photographs it never saw")
    figure.savefig(Path(__file__).with_name("figure.png"), dpi=110)


if __name__ == "__main__":
    main()
