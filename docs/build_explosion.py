"""Writes docs/explosion.md and docs/explosion.png: what makes a likelihood explode.

    python docs/build_explosion.py

measures nothing: it shows what benchmarks/explosion.py left in results/explosion.json, and what
`python -m flowrob attack` left of the two clean Glows of each set, bounded and as published.
tests/test_docs.py asserts that the page is up to date, so that no number in it is typed.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt

from flowrob import paper, plots
from flowrob.evaluation import pipe_table
from flowrob.evaluation.table import number

ROOT = Path(__file__).parents[1]
SETS = {"photos": "photographs", "cifar10": "CIFAR-10"}
KEY = ("coupling", "prior")
FORMS = {
    ("bounded", "bounded"): "both bounded",
    ("bounded", "free"): "prior free",
    ("free", "bounded"): "couplings free",
    ("free", "free"): "both free, as published",
}

HEAD = """# What makes a likelihood explode?

The paper's clean Glow has {paper} bits/dim at eps 8 (Table 1), `glow-cifar10-clean` has {bounded}
under the same 20 steps. Nothing in the attack explains {orders} orders of magnitude. Two scales of
the model are the suspects:

* a **coupling** moves half of its input by z = (x + t) s, s = sigmoid(h + 2) < 1, where a network
  reads h and t off the other half. On data s can be tiny, the layers behind it making up for that;
  an attack that moves h lifts s by a factor without limit. *Bounded*, the default of `flows.glow`,
  means s > 0.01: at most a factor of 100 a layer.
* the **prior** standardises the latents that leave at each level, given those that stay, by the
  same formula. *Free*, as published, is s = exp(h): an attack that adds to h multiplies z.
  *Bounded* means 0.01 < s < 1. (With it goes one ActNorm over the last latents.)

The same small Glow, {model},
was trained clean from nothing with both bounds, either, or none, by three optimizers, for several
numbers of steps and, where it says so, from several seeds, on {sets}, and put under the same 20
steps of PGD on {images} images of each that were held out. Means over images; over seeds the
geometric mean, for an arithmetic one would be that of the greatest.

![Mean bits/dim at eps 8 against training steps, by set, optimizer and form](explosion.png)

This file is written by `python docs/build_explosion.py` from `results/explosion.json`, {duration},
{date}, torch {torch}, {cores} cores. Made by

{commands}
"""


def record(results: Path, name: str) -> dict:
    """A record under results/."""
    return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))


def finite(rows: list[dict]) -> list[dict]:
    """The runs that were trained to their end."""
    return [row for row in rows if "mean" in row]


def orders(smaller: float, greater: float) -> float:
    """By how many powers of ten."""
    return math.log10(greater / smaller)


def middle(values: Iterable[float]) -> float:
    """The geometric mean, over seeds."""
    return statistics.geometric_mean(values)


def grid(run: dict) -> str:
    """One line per set, optimizer, length and form, over its seeds."""
    head = ["set", "optimizer", "steps", "form", "seeds", "eps 0", "eps 1", "eps 2", "eps 4"]
    head += ["eps 8", "least and greatest", "median at 8", "share of the rise at level 1"]
    keys = ("set", "optimizer", "steps", *KEY)
    lines = []
    for key in dict.fromkeys(tuple(row[k] for k in keys) for row in run["rows"]):
        of = [row for row in run["rows"] if tuple(row[k] for k in keys) == key]
        start = [SETS[key[0]], key[1], f"{key[2]:,}", FORMS[key[3:]]]
        ended = finite(of)
        if not ended:
            lines.append([*start, "0", "diverged", *[""] * 7])
            continue
        seeds = str(len(ended)) + (f" ({len(of) - len(ended)} diverged)" if ended != of else "")
        means = [number(middle(m)) for m in zip(*(row["mean"] for row in ended), strict=True)]
        worst = sorted(row["mean"][-1] for row in ended)
        between = f"{number(worst[0])} to {number(worst[-1])}" if len(ended) > 1 else ""
        median = number(middle(row["median"][-1] for row in ended))
        share = f"{statistics.mean(row['latent_shares'][0] for row in ended):.0%}"
        lines.append([*start, seeds, *means, between, median, share])
    return pipe_table(head, lines)


def pairs(rows: list[dict], first: tuple[str, str], second: tuple[str, str]) -> list[tuple]:
    """(run of the first form, run of the second) with the same optimizer, length and seed."""
    by = {tuple(r[k] for k in (*KEY, "set", "optimizer", "steps", "seed")): r for r in rows}
    return [(row, by[second + key[2:]]) for key, row in by.items()
            if key[:2] == first and second + key[2:] in by]  # fmt: skip


def effect(rows: list[dict], first: tuple[str, str], second: tuple[str, str], what: str) -> str:
    """How much the second form explodes more than the first, at eps 8, and what it buys at 0."""
    found = pairs(rows, first, second)
    if not found:
        return f"* {what}: no pair of runs."
    worse = sorted(orders(a["mean"][-1], b["mean"][-1]) for a, b in found)
    cost = sorted(a["mean"][0] - b["mean"][0] for a, b in found)
    return (
        f"* **{what}**: at eps 8 {worse[0]:+.1f} to {worse[-1]:+.1f} powers of ten, the median of "
        f"{len(found)} pairs {statistics.median(worse):+.1f}; clean bits/dim lower by "
        f"{statistics.median(cost):+.3f} (median), {cost[0]:+.3f} to {cost[-1]:+.3f}."
    )


def verdicts(run: dict) -> str:
    """What the grid says, computed from it."""
    rows = finite(run["rows"])
    both, prior, coupling, free = FORMS
    lines = [
        "Each line compares runs that differ in nothing else:",
        "",
        effect(rows, both, prior, "prior freed, couplings bounded"),
        effect(rows, both, coupling, "couplings freed, prior bounded"),
        effect(rows, both, free, "both freed"),
    ]
    for which, optimizer in dict.fromkeys((row["set"], row["optimizer"]) for row in rows):
        lines.append(length([row for row in rows if row["set"] == which], optimizer))
    lines.append(where(rows))
    return "\n".join(lines)


def where(rows: list[dict]) -> str:
    """Which latents carry the rise, for either form of the prior."""
    texts = []
    for prior in ("free", "bounded"):
        share = statistics.median(r["latent_shares"][0] for r in rows if r["prior"] == prior)
        texts.append(f"{share:.0%} with a {prior} prior")
    return (
        "* **where**: of the rise at eps 8 the latents of level 1, which leave first and through a "
        f"prior, carry {' and '.join(texts)} (medians over the runs); the last level's, which have "
        "no such prior, carry nearly all the rest, the log-determinants almost nothing."
    )


def lines_of(rows: list[dict], optimizer: str, form: tuple[str, str]) -> dict[int, list[float]]:
    """Steps -> mean bits/dim at eps 8 after so many, of each seed."""
    of = [r for r in rows if (r["optimizer"], r["coupling"], r["prior"]) == (optimizer, *form)]
    steps = sorted({r["steps"] for r in of})
    return {n: [r["mean"][-1] for r in of if r["steps"] == n] for n in steps}


def length(rows: list[dict], optimizer: str) -> str:
    """What longer training does, for one optimizer on one set."""
    texts = []
    for form, name in FORMS.items():
        found = {n: middle(values) for n, values in lines_of(rows, optimizer, form).items()}
        values = " / ".join(map(number, found.values()))
        texts.append(f"{name} {values} after {' / '.join(f'{n:,}' for n in found)}")
    return f"* **{optimizer}**, {SETS[rows[0]['set']]}, at eps 8: {'; '.join(texts)} steps."


def shipped(results: Path) -> str:
    """The two clean Glows of each set that ship, at full size."""
    lines = []
    for path in sorted(results.glob("attack-glow-*-clean.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        kinds = {(r["eps"], r["row"]): r["mean"] for r in run["rows"]}
        means = [kinds[e, "attacked" if e else "clean"] for e in (0, 1, 2, 4, 8)]
        lines.append([f"`{run['model']}`", run["data"], *map(number, means)])
    head = ["model that ships", "on", *(f"eps {e}" for e in (0, 1, 2, 4, 8))]
    return (
        "## At full size\n\nThe models that ship (L = 3, K = 8, width 64), mean bits/dim under 20 "
        "steps of PGD; *published* has neither bound, and nothing else tells it from its twin:\n\n"
        f"{pipe_table(head, lines)}\n\nSo the bounds are a first, free defence, and a clean model "
        "must be named with its form: `glow(..., min_scale=0, published_prior=True)` is the "
        "published one."
    )


def figure(run: dict, path: Path) -> None:
    """Mean bits/dim at eps 8 against steps: sets down, optimizers across, a line per form."""
    rows = finite(run["rows"])
    sets, optimizers = (list(dict.fromkeys(row[k] for row in rows)) for k in ("set", "optimizer"))
    most = max(row["steps"] for row in rows)
    styles = dict(zip(FORMS, ("o-", "s--", "^-.", "D:"), strict=True))
    colors = dict(zip(FORMS, (plots.DATA, plots.RAISE, plots.HYBRID, plots.ATTACK), strict=True))
    plots.use_style()
    shape = (len(sets), len(optimizers))
    fig, axes = plt.subplots(*shape, figsize=(10, 3.2 * len(sets)), sharey=True, squeeze=False)
    for (i, which), (j, optimizer) in itertools.product(enumerate(sets), enumerate(optimizers)):
        of, ax = [row for row in rows if row["set"] == which], axes[i, j]
        for form, name in FORMS.items():
            found = lines_of(of, optimizer, form)
            means = [middle(values) for values in found.values()]
            ax.plot(found.keys(), means, styles[form], color=colors[form], label=name)
            spread = [[min(values) for values in found.values()], [max(v) for v in found.values()]]
            ax.vlines(found.keys(), *spread, color=colors[form], lw=1.5, alpha=0.6)
        ax.axhline(8, color=plots.THEORY, lw=1, ls=":")
        ax.set(yscale="log", xscale="log", title=f"{SETS[which]}, {optimizer}")
        ticks = sorted({row["steps"] for row in rows})
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks], minor=False)
        ax.set_xticks([], minor=True)
        ax.set_xlim(min(ticks) / 1.3, 1.3 * most)
    for ax in axes[-1]:
        ax.set_xlabel("training steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean bits/dim at eps 8")
    axes[0, 0].legend(fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/explosion.md."""
    run = record(results, "explosion")
    settings = run["settings"]
    size = settings["size"]
    model = "L = 2, K = 4, width 32 on 16x16 crops" if size < 32 else "L = 3, K = 8, width 64"
    clean = {r["eps"]: r["mean"] for r in record(results, "attack-glow-cifar10-clean")["rows"]
             if r["row"] == "attacked"}  # fmt: skip
    theirs = paper.table_1("clean").nll[-1]
    head = HEAD.format(
        paper=number(theirs),
        bounded=number(clean[8]),
        orders=f"{orders(clean[8], theirs):.1f}",
        model=model,
        images=settings["limit"],
        commands="\n".join(f"    {command}" for command in run["commands"]),
        sets=" and ".join(SETS[which] for which in dict.fromkeys(r["set"] for r in run["rows"])),
        duration=f"{run['duration_s'] / 60:.0f} minutes in all",
        date=run["date"],
        torch=run["versions"]["torch"],
        cores=run["machine"]["cores"],
    )
    parts = [head, "## What the grid says\n", verdicts(run), "\n## The grid\n", grid(run), ""]
    return "\n".join([*parts, shipped(results)]) + "\n"


if __name__ == "__main__":
    figure(record(ROOT / "results", "explosion"), Path(__file__).with_name("explosion.png"))
    Path(__file__).with_name("explosion.md").write_text(render(), encoding="utf-8")
