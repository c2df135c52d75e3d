"""Writes docs/ladder.md and its figures: the ladder, its rivals, and what cures a hybrid model.

    python docs/build_ladder.py

measures nothing: it shows what benchmarks/ladder.py and benchmarks/cures.py left in results/.
tests/test_ladder_page.py asserts that the page is up to date, so that no number in it is typed.
"""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from flowrob import plots
from flowrob.cli.recipes import LADDERS, RUNGS
from flowrob.evaluation import paired_difference, pipe_table
from flowrob.evaluation.table import number

ROOT = Path(__file__).parents[1]

#: label in the record -> in words.
MODELS = {
    "clean": "clean",
    "adversarial": "adversarial",
    "hybrid": "hybrid, visits",
    "hybrid-fresh": "hybrid, the paper's own recipe",
    **{f"eps{eps}": f"adversarial at eps {eps}" for eps in RUNGS},
    "pair": "mean of two wide ones",
    "told k": "one wide one, told k",
    "ladder": "**ladder**",
}
CURES = {
    "paper": "the paper's recipe: half attacked, ten fresh steps",
    "visits": "attacks of 20 visits of 8 steps, three of four attacked",
    "longer": "attacks of 80 visits of 8 steps, three of four attacked",
    "curvature": "the paper's, and a penalty on curvature",
    "apart": "the paper's, every image always attacked or never",
    "adversarial": "no clean images: adversarial training",
}
MOVES = {
    "noise": "uniform noise",
    "attack": "an attack on the ladder",
    "disguise": "an attack that wants to be taken for clean",
    "sly": "an attack on the ladder that stays taken for clean",
}

HEAD = """# The ladder: a density whose robustness can be trusted

    q(x) = mean over k of p_k(x)        NLL_q <= min over k of NLL_k + log(K), in nats

Five Glows, trained adversarially at eps 0, 1, 2, 4 and 8. Whatever an attack does to x, the mean of
their densities is at most log2(5)/D bits/dim behind the best of the five: {price:.4f} on 16x16
images in colour, 0.0008 on 32x32. A part was never trained on clean and attacked images at once,
so it has nothing to tell apart, and attacks on it converge soon; so the bound can be trusted where
a hybrid model's number is only what was found so far. The price is five networks.

Everything on this page is small on purpose, so that it can be done again from nothing in an hour
({seeds}): Glows of {parameters:,} parameters on 16x16 photographs (recipes `tiny-*`), {limit}
images from photographs held out whole, attacks that go on until longer ones find no more, or
{steps} steps (`evaluation.Budget`). Models that ship, at full size, are in [tables.md](tables.md)
and [converged.md](converged.md).

This file is written by `python docs/build_ladder.py` from `results/ladder.json` (`{command}`,
{minutes:.0f} minutes, {date}) and `results/cures.json` (`{cures_command}`, {cures_minutes:.0f}
minutes), torch {torch}, 1 thread.
"""

PICTURE = "![Bits/dim against eps by density, and against attack steps by training](ladder.png)\n"

BESIDE = """
Mean over seeds of the mean over images, and the range over seeds; `>=`: on some seed the search had
not converged. A wide network has so many channels that two, or one, have as many parameters as the
ladder's five. Image by image, with 95% intervals that resample images:
"""

CURED = """
## Does anything keep a hybrid model from hiding?

All from one clean base, for as many steps; {cured_images} images, {cured_seeds}. *Hidden* is what
longer rounds found beyond a round of 20 steps.
"""

POSTERIOR = """
## What the posterior knows

p(k | x) says which part of the ladder explains x best: an estimate of how strongly x was perturbed,
for nothing. Shares of images by the likeliest k:
"""


def record(results: Path, name: str) -> dict:
    """A record under results/."""
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def counted(seeds: int) -> str:
    """So many seeds, in words."""
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def spread(values: list[float], found: list[bool]) -> str:
    """Mean and range over seeds, with >= before it if a search had not converged."""
    mark = "" if all(found) else ">= "
    text = f"{mark}{number(sum(values) / len(values))}"
    if len(values) > 1:
        text += f" ({number(min(values))} to {number(max(values))})"
    return text


def of_model(run: dict, label: str) -> list[dict]:
    """The rows of a density, one per seed."""
    return [row for row in run["rows"] if row["model"] == label]


def means(run: dict, label: str) -> list[float]:
    """By eps, over the seeds."""
    lines = [[r["mean"] for r in row["rows"]] for row in of_model(run, label)]
    return [sum(column) / len(column) for column in zip(*lines, strict=True)]


def regrets(run: dict) -> dict[str, float]:
    """How far each density is, at its worst radius, above the best of all there."""
    line = {label: means(run, label) for label in MODELS}
    best = [min(values) for values in zip(*line.values(), strict=True)]
    return {m: max(a - b for a, b in zip(line[m], best, strict=True)) for m in MODELS}


def densities(run: dict) -> str:
    """A line per density: mean and range over seeds by eps, and what it costs."""
    eps = [0, *run["settings"]["eps"]]
    head = ["density", *(f"eps {e}" for e in eps), "parameters", "seconds of training"]
    lines = []
    for label, name in MODELS.items():
        rows = of_model(run, label)
        line = [name]
        for place in range(len(eps)):
            at = [row["rows"][place] for row in rows]
            found = [row.get("status") != ">=" for row in at]
            line.append(spread([row["mean"] for row in at], found))
        seconds = sum(row["seconds"] for row in rows) / len(rows)
        lines.append([*line, f"{rows[0]['parameters']:,}", f"{seconds:,.0f}"])
    ladders = of_model(run, "ladder")
    bound = [
        sum(column) / len(column) for column in zip(*(r["bound"] for r in ladders), strict=True)
    ]
    lines.append(["what bounds the ladder", *map(number, bound), "", ""])
    return pipe_table(head, lines)


def differences(run: dict) -> str:
    """How far every rival is above the ladder, image by image, with a paired interval."""
    eps = [0, *run["settings"]["eps"]]
    lines = []
    for label in (name for name in MODELS if name != "ladder"):
        line = [MODELS[label]]
        for place in range(len(eps)):
            first, second = (
                torch.tensor([row["values"][place] for row in of_model(run, name)])
                for name in (label, "ladder")
            )
            groups = torch.arange(first.shape[1]).repeat(len(first))  # an image under every seed
            generator = torch.Generator().manual_seed(0)
            found = paired_difference(first.flatten(), second.flatten(), generator, groups=groups)
            cell = f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
            line.append(cell if abs(found["mean"]) < 100 else f"{found['mean']:+,.0f}")
        lines.append(line)
    return pipe_table(["bits/dim above the ladder", *(f"eps {e}" for e in eps)], lines)


def verdicts(run: dict) -> str:
    """Who is best where, what the ladder costs and what bounds it: computed."""
    eps = [0, *run["settings"]["eps"]]
    line = {label: means(run, label) for label in MODELS}
    lines = []
    for place, e in enumerate(eps):
        order = sorted(
            (label for label in MODELS if label != "ladder"), key=lambda m: line[m][place]
        )
        gap = line["ladder"][place] - line[order[0]][place]
        said = "ahead of" if gap < 0 else "behind"
        lines.append(
            f"* eps {e}: the ladder has {number(line['ladder'][place])}, {abs(gap):.3f} {said} the "
            f"best of the others, {MODELS[order[0]]}."
        )
    regret = regrets(run)
    order = sorted(regret, key=regret.get)
    lines.append(
        "* How far above the best of all at that radius each is at worst: "
        + "; ".join(f"{MODELS[label]} {number(regret[label])}" for label in order)
        + ". Where attacks had not converged it may be more."
    )
    worst = max(
        row["rows"][place]["mean"] - row["bound"][place]
        for row in of_model(run, "ladder")
        for place in range(len(eps))
    )
    lines.append(
        "* The bound, which attacks on the parts alone give, was "
        + ("never" if worst <= 1e-3 else f"exceeded by {worst:.3f} bits/dim at most, but not more")
        + (" exceeded" if worst <= 1e-3 else "")
        + " by attacks on the whole."
    )
    return "\n".join(lines)


def cures(run: dict) -> str:
    """A line per kind of training: eps 0, after a round of 20 steps, found; over seeds."""
    lines = []
    for kind, name in CURES.items():
        rows = [row for row in run["rows"] if row["kind"] == kind]
        early = [next(p["mean"] for p in row["curve"] if p["steps"] >= 20) for row in rows]
        clean, worst = ([row["rows"][place] for row in rows] for place in (0, 1))
        found = [row["status"] != ">=" for row in worst]
        every = [True] * len(rows)
        lines.append(
            [
                name,
                spread([row["mean"] for row in clean], every),
                spread(early, every),
                spread([row["mean"] for row in worst], found),
                spread([w["mean"] - e for w, e in zip(worst, early, strict=True)], every),
                f"{sum(row['seconds'] for row in rows) / len(rows):,.0f}",
            ]
        )
    head = ["trained on", "eps 0", "eps 8, a round of 20 steps", "eps 8, found", "hidden"]
    return pipe_table([*head, "seconds of training"], lines)


def cured(run: dict) -> str:
    """Whether any cure holds: computed."""
    by = {kind: [r for r in run["rows"] if r["kind"] == kind] for kind in CURES}
    worst = {k: sum(r["rows"][1]["mean"] for r in rows) / len(rows) for k, rows in by.items()}
    clean = {k: sum(r["rows"][0]["mean"] for r in rows) / len(rows) for k, rows in by.items()}
    tried = ("visits", "longer", "curvature", "apart")
    lines = []
    for kind in tried:
        better = worst["paper"] - worst[kind]
        behind = worst[kind] - worst["adversarial"]
        lines.append(
            f"* *{CURES[kind]}*: {better:+.2f} bits/dim better than the paper's recipe at eps 8, "
            f"for {clean[kind] - clean['paper']:+.2f} on clean images; still {behind:.2f} above "
            "adversarial training."
        )
    holds = [kind for kind in tried if all(r["rows"][1]["status"] != ">=" for r in by[kind])]
    lines.append(
        "* Attacks converged on every seed of: " + ", ".join(CURES[k] for k in holds) + "."
        if holds
        else "* Attacks converged on none of them: some search was still rising when it ended."
    )
    return "\n".join(lines)


def posterior(run: dict) -> str:
    """What p(k | x) makes of perturbed images, of every ladder in the record."""
    parts = []
    for name, rows in run["posterior"].items():
        eps = [row["eps"] for row in rows if row["move"] == "noise"]
        head = ["moved by", "eps", *(f"says {e}" for e in eps), "bits/dim"]
        lines = [
            [MOVES[row["move"]], str(row["eps"]), *(f"{v:.0%}" for v in row["says"]),
             number(row["bits"])]
            for row in rows
        ]  # fmt: skip
        right = {
            move: [
                row["says"][place] for place, row in enumerate(r for r in rows if r["move"] == move)
            ]
            for move in dict.fromkeys(row["move"] for row in rows)
        }
        hit = {move: sum(values[1:]) / len(values[1:]) for move, values in right.items()}
        said = "; ".join(f"{MOVES[move]}: {share:.0%}" for move, share in hit.items())
        parts += [
            f"### `{name}`",
            pipe_table(head, lines),
            f"Right, of images that were moved: {said}.",
        ]
    return "\n\n".join(parts)


STYLES = {
    "clean": (plots.DATA, "o-"),
    "adversarial": (plots.ATTACK, "s-"),
    "hybrid": (plots.HYBRID, "o--"),
    "hybrid-fresh": (plots.HYBRID, "D:"),
    "pair": (plots.NOISE, "v-."),
    "told k": (plots.NOISE, "x--"),
    "ladder": (plots.RAISE, "^-"),
}
NAMES = {"hybrid": "hybrid (visits)", "hybrid-fresh": "hybrid (paper's)", "pair": "two wide ones"}


def figure(run: dict, treated: dict, path: Path) -> None:
    """Left: bits/dim against eps, mean over seeds; right: what longer attacks find, by training."""
    eps = [0, *run["settings"]["eps"]]
    plots.use_style()
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for label, (color, style) in STYLES.items():
        axes[0].plot(eps, means(run, label), style, color=color, label=NAMES.get(label, label))
    top = 1.15 * max(means(run, label)[-1] for label in STYLES if label != "clean")
    bottom = min(means(run, label)[0] for label in STYLES) - 0.3
    axes[0].set(xlabel="eps (grey levels)", ylabel="mean bits/dim found", ylim=(bottom, top))
    worst = regrets(run)
    rival = min((label for label in worst if label != "ladder"), key=worst.get)
    title = "At worst, over the radii, above the best:\n"
    title += (
        f"ladder {number(worst['ladder'])}, next {NAMES.get(rival, rival)} {number(worst[rival])}"
    )
    axes[0].set(title=title, xticks=eps)
    axes[0].legend(fontsize=8)
    styles = zip(CURES, ("D:", "o--", "v-.", "x--", "P:", "s-"), strict=True)
    colors = {"adversarial": plots.ATTACK, "paper": plots.HYBRID}
    left = iter((plots.DATA, plots.RAISE, plots.NOISE, plots.THEORY))
    kinds = {kind: [row for row in treated["rows"] if row["kind"] == kind] for kind in CURES}
    for kind, style in styles:
        curves = [row["curve"] for row in kinds[kind]]
        steps = [p["steps"] for p in max(curves, key=len)]
        at = []
        for k in range(len(steps)):  # a search that converged stays where it was
            values = [curve[min(k, len(curve) - 1)]["mean"] for curve in curves]
            at.append(sum(values) / len(values))
        color = colors.get(kind) or next(left)
        axes[1].plot(steps, at, style, color=color, label=kind)
    axes[1].set(xscale="log", xlabel="steps of an ascent, seven ascents a round")
    rising = [k for k in CURES if any(r["rows"][1]["status"] == ">=" for r in kinds[k])]
    title = f"Still rising when the budget ended: {', '.join(rising)}"
    axes[1].set(title=textwrap.fill(title, 50), ylabel="mean bits/dim at eps 8")
    every = sorted({p["steps"] for row in treated["rows"] for p in row["curve"]})
    axes[1].set_xticks(every, [str(n) for n in every])
    axes[1].minorticks_off()
    axes[1].legend(fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/ladder.md."""
    run, treated = record(results, "ladder"), record(results, "cures")
    parts = LADDERS["tiny-ladder"]
    head = HEAD.format(
        price=math.log2(len(parts)) / 768,
        seeds=counted(len({row["seed"] for row in run["rows"]})),
        parameters=of_model(run, "clean")[0]["parameters"],
        limit=run["settings"]["limit"],
        steps=run["settings"]["budget"]["max_steps"],
        command=run["command"],
        minutes=run["duration_s"] / 60,
        date=run["date"],
        cures_command=treated["command"],
        cures_minutes=treated["duration_s"] / 60,
        torch=run["versions"]["torch"],
    )
    told = {
        "cured_images": treated["settings"]["limit"],
        "cured_seeds": counted(len({row["seed"] for row in treated["rows"]})),
    }
    parts = [head, PICTURE, "## The ladder beside its rivals\n", densities(run), BESIDE]
    parts += [differences(run), "", verdicts(run), CURED.format(**told), cures(treated), ""]
    parts += [cured(treated), POSTERIOR, posterior(run)]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    found = [record(ROOT / "results", name) for name in ("ladder", "cures")]
    figure(*found, Path(__file__).with_name("ladder.png"))
    Path(__file__).with_name("ladder.md").write_text(render(), encoding="utf-8")
