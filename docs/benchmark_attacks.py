"""Sections of docs/benchmarks.md on attacks: how long, at what price, and what can be proved.

:mod:`build_benchmarks` puts them into the page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import price

from flowrob.evaluation import pipe_table

LONG_ATTACKS = """
A model that hides from short attacks looks robust. How far does Auto-PGD from a random start reach
against the robust models that ship when it goes on for longer?
"""


SMALLER_BALLS = """
The same below eps 8, where a hybrid model seems to have nothing to hide, and against models trained
adversarially at just that radius, the parts of a ladder.
"""


def section_long_attacks(run: dict) -> str:
    settings = run["settings"]
    return _longer(
        run,
        LONG_ATTACKS,
        f"at eps {settings['eps']}",
        lambda row: (f"`glow-{row['set']}-{row['loss']}`", row["loss"]),
        "Short attacks do not find what the longer ones find against a hybrid model: its rows in "
        "[tables.md](tables.md), under short ones, are lower bounds.",
    )


def section_smaller_balls(run: dict) -> str:
    return _longer(
        run,
        SMALLER_BALLS,
        "at the eps of each row",
        lambda row: (
            f"`glow-{row['set']}-{row['loss']}`, eps {row['eps']}",
            f"{row['loss']} at {row['eps']}",
        ),
        "What long attacks find against the parts of a ladder, short ones find too.",
    )


def _longer(
    run: dict, head: str, where: str, named: Callable[[dict], tuple[str, str]], lesson: str
) -> str:
    """A table of means by number of steps; ``named`` gives a row's name and that of its kind."""
    settings = run["settings"]
    steps = sorted(settings["steps"])
    short, long = steps[0], steps[-1]
    titles = [f"mean after {n:,}" for n in steps]
    titles += [f"median after {long:,}", f"greatest after {long:,}"]
    rows: dict[str, dict[int, dict]] = {}
    kinds = {}
    for row in run["rows"]:
        name, kinds[name] = named(row)
        rows.setdefault(name, {})[row["num_steps"]] = row
    lines, grown = [["model", *titles]], {}
    for name, of in rows.items():
        last = of[long]
        cells = [of[n]["mean"] for n in steps] + [last["median"], last["greatest"]]
        lines.append([name, *(f"{value:,.2f}" for value in cells)])
        grown.setdefault(kinds[name], []).append(last["mean"] - of[short]["mean"])
    growth = "; ".join(
        f"{kind} by {min(more):.2f} to {max(more):.2f}" for kind, more in grown.items()
    )
    parts = [
        head,
        f"Bits/dim {where}, lower is better, on the first {settings['limit']} images of those "
        f"reported on ({'; '.join(run['data'].values())}). All budgets start at the same point "
        "with the same noise; one other draw of noise scores them.",
        markdown(lines, numbers=len(titles)),
        f"From {short:,} to {long:,} steps the means grow: {growth} bits/dim. {lesson}",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


PRICE = """
A search that knows when it has converged spends gradients to know it. What does it cost beside an
attack of one fixed length, and what does each find? All ways get the same images, ball, box, noise
and number of gradients per image, and are scored by one function, under noise that no gradient has
seen; by it the search chooses among the ends of its ascents, as it does in the tables.
"""


def section_price(run: dict) -> str:
    """How much of what there is was found for how many gradients, and when 99% were."""
    settings = run["settings"]
    parts = [
        PRICE,
        f"{settings['limit']} test crops at eps {settings['eps']}. Percentages: the rise of the "
        "mean over the clean images, of the rise that the best of all ways and budgets found on "
        f"each image. *{price.SHARE:.0%}*: gradients per image and seconds for all crops together "
        "of the first budget that has so much. An attack of fixed length is run anew at each "
        "budget, for its steps depend on it; the search is one run, which goes on.",
    ]
    for name in dict.fromkeys(row["model"] for row in run["rows"]):
        rows = [row for row in run["rows"] if row["model"] == name]
        found = price.reached(rows)
        longest = max((row["points"] for row in rows), key=len)
        budgets = [round(point["gradients"]) for point in longest]
        titles = [f"{budget:,}" for budget in budgets] + [f"{price.SHARE:.0%} after", "seconds"]
        lines = [[f"`{name}`", *titles]]
        for row in rows:
            of = found[row["way"]]
            if "missing" in row:
                lines.append([row["way"], *["not installed"] * len(titles)])
                continue
            shares = [f"{share:.1%}" for share in of["shares"]]
            shares += ["-"] * (len(budgets) - len(shares))
            first = of["first"]
            last = [f"{first['gradients']:,.0f}", f"{first['seconds']:.0f}"] if first else ["-"] * 2
            lines.append([row["way"], *shares, *last])
        searched = rows[0]
        verdict = (
            f"The search says *{searched['status']}* after {searched['evaluations']:,.0f} "
            f"gradients per image, at {searched['points'][-1]['mean']:.2f} bits/dim, from "
            f"{searched['clean']:.2f}."
        )
        last = {way: of["shares"][-1] for way, of in found.items() if of["shares"]}
        best = max(last, key=last.__getitem__)
        verdict += f" In the end {best} has found most, {last[best]:.1%}"
        verdict += "." if best == price.SEARCH else (
            f", the search {last[price.SEARCH]:.1%}: one long ascent is worth more here than the "
            "several shorter ones of a round. The search of today spends its gradients on longer "
            "ascents (`evaluation.Budget`); this record is older."
        )  # fmt: skip
        parts += [markdown(lines, numbers=len(titles)), verdict]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


CERTIFIED = """
The median of the NLL under Gaussian noise of the pixels has a bound that no perturbation within a
radius breaks, whatever the density is (`evaluation.certify_median`). It is another score than the
likelihood, so its price, what the noise itself costs, stands first.
"""


def section_certified(run: dict) -> str:
    """Plain and smoothed bits/dim, the certified bound, and what an attack on it finds."""
    settings = run["settings"]
    lines = [["model", "sigma", "plain", "median under noise", "attacked", "certified", "radius"]]
    for row in run["rows"]:
        numbers = [row[key] for key in ("plain", "median", "attacked")] + [row["upper"][-1]]
        cells = [f"{value:.2f}" for value in numbers]
        lines.append([row["model"], str(row["sigma"]), *cells, f"{row['eps'][-1]:g}"])
    return "\n\n".join(
        [
            CERTIFIED.strip("\n"),
            f"Means over {settings['limit']} test crops, {settings['num_samples']} draws of noise, "
            f"confidence {settings['confidence']:.0%} for each bound; sigma and radius (l_2) in "
            f"grey levels. The attack on the median ({settings['attack']}) is short: a lower "
            "bound.",
            markdown(lines, numbers=6),
        ]
    )


def markdown(rows: list[list[str]], numbers: int = 0) -> str:
    """A pipe table, whatever its cells hold; its last ``numbers`` columns stand on the right."""
    head, *lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    first, _, *rest = pipe_table(head, lines).splitlines()
    rule = "|" + " --- |" * (len(head) - numbers) + " --: |" * numbers
    return "\n".join([first, rule, *rest])
