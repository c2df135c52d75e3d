"""Writes docs/converged.md and docs/converged.png: attacks that go on until they find no more.

    python docs/build_converged.py

measures nothing: it shows what benchmarks/converged.py left in results/converged.json.
tests/test_converged.py asserts that the page is up to date, so that no number in it is typed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt

from flowrob import plots
from flowrob.cli.recipes import LADDERS
from flowrob.evaluation import pipe_table
from flowrob.evaluation.table import number

ROOT = Path(__file__).parents[1]

HEAD = """# Numbers that survive a longer attack

A number under attack is a lower bound. Here every robust model that ships is attacked at eps {eps},
alone, until longer attacks find no more (`evaluation.Budget`). The first round makes seven ascents
of {first} steps, from several starts and with several step lengths. While a round gains, the next
one's Auto-PGD is four times as long, beside the kind that found most so far; once one does not,
every kind of ascent is tried, each as long as the longest so far and of at least {least} steps. A
row is *converged* when two rounds in a row gained less than {mean_gain} bits/dim in the mean and
{image_gain} on every image, the last with every kind; it is `>=` when ascents of {most:,} steps
were still finding more, or an image had been driven beyond {enough:g} bits/dim and was left there.
Images that gain nothing any more drop out, so that a model which does not hide costs little.

{limit} images of each set ({data}), one seed. This file is written by
`python docs/build_converged.py` from `results/converged.json`: `{command}`, {minutes:.0f} minutes
in all, {date}, torch {torch}, 1 thread.

## Hybrid training under longer attacks

![Mean bits/dim found against gradient evaluations per image, a panel per set](converged.png)
"""


def titles(run: dict) -> dict[str, str]:
    """What the record knows of each set, in the order of its rows."""
    names = {"photos": "photographs", "cifar10": "CIFAR-10", "celeba": "CelebA"}
    return {key: names[key] for key in dict.fromkeys(row["set"] for row in run["rows"])}


def kind(row: dict) -> str:
    """ "hybrid" of "glow-photos-hybrid"."""
    return row["model"].removeprefix(f"glow-{row['set']}-")


def table(run: dict) -> str:
    """A line per model."""
    head = ["model", "eps 0", "found", "median", "greatest", "after the first round"]
    head += ["gradients per image", "seconds"]
    lines = []
    for row in run["rows"]:
        mark = ">= " if row["status"] == ">=" else ""
        early = row["curve"][0]["mean"]
        found = [f"{mark}{number(row['mean'])}", number(row["median"]), number(row["greatest"])]
        cost = [f"{row['evaluations']:,.0f}", f"{row['seconds']:,.0f}"]
        lines.append([f"`{row['model']}`", number(row["clean"]), *found, number(early), *cost])
    return pipe_table(head, lines)


def bounds(run: dict) -> list[str]:
    """What bounds each ladder that was attacked: image by image, the best part that was."""
    by, lines = {row["model"]: row for row in run["rows"]}, []
    for name, parts in LADDERS.items():
        attacked = [part for part in parts.values() if part in by]
        if name not in by or not attacked:
            continue
        dims = 3 * 32 * 32
        price = math.log2(len(parts)) / dims
        of = [by[part]["values"] for part in attacked]
        bound = sum(map(min, zip(*of, strict=True))) / len(of[0]) + price
        lines.append(
            f"* `{name}`: attacked as a whole {number(by[name]['mean'])}; "
            f"{', '.join(f'`{part}`' for part in attacked)} bounds it by {number(bound)} (image by "
            f"image, and log2({len(parts)})/{dims:,} = {price:.4f}), as far as the attack on the "
            "part goes."
        )
    return lines


def verdicts(run: dict) -> str:
    """Who hides, computed."""
    lines = []
    for row in run["rows"]:
        early = row["curve"][0]["mean"]
        gain = row["mean"] - early
        if kind(row) == "clean" or row["model"] in LADDERS:
            continue
        said = "hides" if gain > 0.1 else "does not hide"
        end = "and was still rising" if row["status"] == ">=" else "and had converged"
        lines.append(
            f"* `{row['model']}` {said}: after the first round, of {row['curve'][0]['steps']} "
            f"steps, longer ascents found {gain:.2f} bits/dim more, {end} after {row['steps']} "
            "steps."
        )
    return "\n".join([*lines, *bounds(run)])


STYLES = {
    "adversarial": (plots.ATTACK, "s-"),
    "hybrid": (plots.HYBRID, "D--"),
    "hybrid-fresh": (plots.HYBRID, "x:"),
    "ladder": (plots.RAISE, "^-"),
}
NAMES = {"hybrid-fresh": "hybrid, the paper's recipe"}


def figure(run: dict, path: Path) -> None:
    """Mean bits/dim against gradient evaluations, a panel per set."""
    sets = titles(run)
    plots.use_style()
    fig, axes = plt.subplots(1, len(sets), figsize=(3.7 * len(sets), 3.5), squeeze=False)
    for ax, (key, title) in zip(axes[0], sets.items(), strict=True):
        for row in (row for row in run["rows"] if row["set"] == key and kind(row) in STYLES):
            color, style = STYLES[kind(row)]
            spent = [point["evaluations"] for point in row["curve"]]
            means = [point["mean"] for point in row["curve"]]
            label = NAMES.get(kind(row), kind(row))
            ax.plot(spent, means, style, color=color, label=label)
        ax.set(title=title, xscale="log", xlabel="gradients per image")
    axes[0, 0].legend(fontsize=8)
    axes[0, 0].set_ylabel(f"mean bits/dim at eps {run['settings']['eps']}")
    fig.savefig(path, dpi=110)
    plt.close(fig)


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/converged.md."""
    run = json.loads((results / "converged.json").read_text(encoding="utf-8"))
    settings, budget = run["settings"], run["settings"]["budget"]
    head = HEAD.format(
        eps=settings["eps"],
        first=budget["first_steps"],
        least=budget["least_steps"],
        enough=budget["enough"],
        mean_gain=budget["mean_gain"],
        image_gain=budget["image_gain"],
        most=budget["max_steps"],
        limit=settings["limit"],
        data="; ".join(run["data"].values()),
        command=run["command"],
        minutes=run["duration_s"] / 60,
        date=run["date"],
        torch=run["versions"]["torch"],
    )
    return "\n".join([head, table(run), "", verdicts(run)]) + "\n"


if __name__ == "__main__":
    record = json.loads((ROOT / "results/converged.json").read_text(encoding="utf-8"))
    figure(record, Path(__file__).with_name("converged.png"))
    Path(__file__).with_name("converged.md").write_text(render(), encoding="utf-8")
