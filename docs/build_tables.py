"""Writes docs/tables.md from results/table-*.json: Tables 1 to 3, ours beside the paper's.

    python docs/build_tables.py

measures nothing: each section shows what `python -m flowrob table` wrote, and the notes below the
tables what benchmarks/long_attacks.py found. tests/test_docs.py asserts that the file is up to
date, so that no number in it is typed.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import table_seeds

from flowrob.cli.paper_tables import layout
from flowrob.cli.recipes import FRESH_HYBRID, PUBLISHED_CLEAN, RECIPES, RUNGS
from flowrob.evaluation import pipe_table
from flowrob.evaluation.table import number
from flowrob.paper import TABLE_1, TABLE_2, TABLE_3, WIDE_EPS, table_1

ROOT = Path(__file__).parents[1]
ORDER = ("table-1", "table-2", "table-photos", "table-3")

HEAD = """# Tables 1 to 3, ours beside the paper's

Bits/dim of held-out images, lower is more likely; mean / median over images. *pgd-n* is projected
gradient ascent of n iterations in the l_inf ball of eps grey levels, *auto-pgd-n* Auto-PGD from a
random start, *strongest* the worst per image of all attacks on all models of the table in this and
every smaller ball: it grows with eps by construction, the single attacks need not. Where a table
says so, that is where a search begins, round by round, from several starts and with ascents of
several kinds that grow longer. It has converged once two rounds in a row gain less than 0.01
bits/dim in the mean and 0.05 on every image, the last of them with ascents of every kind, of at
least 80 steps and no shorter than any before; or, for a mixture, once what was found is within 0.01
of what its parts leave possible. A cell with >= had not converged when its budget ended, or has
images far beyond 8 bits/dim, which are attacked no further. *noise*, where it is printed, is
uniform integers of the same size.

Our models are small, so that a laptop trains them, and saw a few thousand images; the paper's are
far bigger and saw whole sets: levels differ, shapes can be compared. Within a table clean,
adversarial and hybrid start from one clean base and go on for the same number of steps, and all are
attacked on the same images with the same attacks and seeds. What else differs between them is
whom training attacks, and for how long. {HARDENED}
{FURTHER} *clean (published)* has a base of its own, made by the same recipe: its couplings' and
priors' scales have no bound, as Glow's were published, all other rows have one
([explosion.md](explosion.md)). The CIFAR-10 images are the first of its training set, the CelebA
images its first aligned faces, in the ranges printed: those reported on were looked at for the
first time when the recipes of *clean*, *adversarial*, *hybrid* and *clean (published)* stood. The
recipes that go on from the clean model are younger: by then these images had been seen. Of the
photographs, those reported on are held out whole, and intervals in the JSON resample squares.

The *ladder* is the mean of the clean model, those adversarial at eps 1, 2 and 4, and the
adversarial one ([ladder.md](ladder.md)). Baselines: *mixture* is (p_clean + p_adversarial) / 2,
attacked as a whole and by what was found against its parts; *clean, Student-t base* is the clean
model whose latents have another density, its parameter chosen under 20 steps on tuning images;
*with a uniform floor* is any row once a uniform density is mixed in at weight 0.01, which no attack
whatsoever lifts above the ceiling.

Rows marked [*] are lower bounds. Hybrid training, as it stands, still hides from short attacks:
attacks longer than those of these tables reach further, as the note below each table says. The
adversarial models were put under the same long attacks ([benchmarks.md](benchmarks.md)).

This file is written by `python docs/build_tables.py` from `results/table-*.json` and
`results/long_attacks.json`.
"""


def hardened() -> str:
    """How our hybrid models were trained, from their recipe."""
    loss = RECIPES["glow-cifar10-hybrid"].loss
    return (
        f"Of the images of a hybrid model's batch, {loss.share:.0%} are attacked, each for "
        f"{loss.memory.visits} visits of {loss.attack_steps} steps (`training.Pool`); the paper's "
        "1:1 and ten steps anew are the defaults of `fit`."
    )


def budgets() -> str:
    """How our adversarial models were trained, and what one step of either costs, by recipe."""
    losses = {kind: RECIPES[f"glow-cifar10-{kind}"].loss for kind in ("adversarial", "hybrid")}
    costs = {k: loss.share * loss.attack_steps for k, loss in losses.items()}
    return (
        f"An adversarial model's batch is attacked whole, by {losses['adversarial'].attack_steps} "
        "steps that go on from where the image's last attack ended (`training.PerImage`). So per "
        f"image and step of training adversarial takes {costs['adversarial']:g} gradients in x, "
        f"hybrid {costs['hybrid']:g} on average, clean none."
    )


def further() -> str:
    """What goes on from the clean model, and for how long, from the recipes."""
    steps = {
        title: RECIPES[f"glow-{name}-eps1"].num_steps
        for name, title in (
            ("cifar10", "CIFAR-10"),
            ("celeba", "CelebA"),
            ("photos", "photographs"),
        )
    }
    told = ", ".join(f"{number:,} on {title}" for title, number in steps.items())
    return (
        f"*{FRESH_HYBRID}*, the paper's own recipe, and the models adversarial at eps "
        f"{', '.join(map(str, RUNGS))} go on from the clean one for some steps more ({told})."
    )


MARK = "[*]"
LABELS = {
    PUBLISHED_CLEAN: "clean, as published",
    "clean": "clean",
    "adversarial": "adversarial",
    "hybrid": f"hybrid {MARK}",
    FRESH_HYBRID: f"hybrid, the paper's own recipe {MARK}",
    **{f"eps {eps}": f"adversarial at eps {eps}" for eps in RUNGS},
    "mixture": "the mixture",
    "ladder": "the ladder",
    "clean, Student-t base": "the clean model with a Student-t base",
}


#: Those that are trained, in the order of the table.
ROWS = (PUBLISHED_CLEAN, "clean", "adversarial", "hybrid", FRESH_HYBRID)

#: Which images of results/long_attacks.json a table is about.
SETS = {"1": "cifar10", "2": "celeba", "photos": "photos"}


def long_attacks(results: Path = ROOT / "results") -> dict:
    """The record of benchmarks/long_attacks.py."""
    return json.loads((results / "long_attacks.json").read_text(encoding="utf-8"))


def marked(model: str) -> str:
    """How a row of a table is called: those of hybrid models carry the mark."""
    return f"{model} {MARK}" if model.startswith("hybrid") else model


def note(longer: dict, table: str) -> str:
    """What the mark says: how far longer attacks reach on the images of this table."""
    of = {(r["loss"], r["num_steps"]): r for r in longer["rows"] if r["set"] == SETS[table]}
    settings = longer["settings"]
    short, long = min(settings["steps"]), max(settings["steps"])
    reached = [
        f"{loss} {number(of[loss, long]['mean'])} ({number(of[loss, short]['mean'])} after {short})"
        for loss in ("hybrid", "adversarial")
    ]
    return (
        f"{MARK} A lower bound: longer attacks reach further. Auto-PGD of {long:,} steps at eps "
        f"{settings['eps']} on the first {settings['limit']} of these images, mean: "
        f"{', '.join(reached)}. The greatest of the hybrid: "
        f"{number(of['hybrid', long]['greatest'])}."
    )


def searched(run: dict) -> str:
    """Whether attacks went on from those of fixed length, and how far."""
    if budget := run["settings"].get("budget"):
        first, most = budget["first_steps"], budget["max_steps"]
        return f"A search goes on from the single attacks, in rounds of {first} to {most} steps."
    return "No search: the single attacks alone."


def provenance(run: dict) -> str:
    """Command, images, durations: how the numbers came about."""
    reports = sorted({data["report"] for data in run["data"].values()})
    trains = sorted({data["train"] for data in run["data"].values()})
    count = run["settings"]["num_images"]
    if not isinstance(count, int):  # models that are reported on sets of their own
        count = " and ".join(f"{n} (`{name}`)" for name, n in count.items())
    seconds = run["training_seconds"]
    training = ", ".join(f"{name} {value / 60:.0f}" for name, value in seconds.items())
    machine, versions = run["machine"], run["versions"]
    cores = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    whole = sum(seconds.values()) + run["attack_seconds"]
    at_once = ", in one run" if run["duration_s"] >= whole else ""
    return (
        f"`{run['command']}`\n\n"
        f"{searched(run)} {count} images reported on ({'; '.join(reports)}), trained on "
        f"{'; '.join(trains)}. "
        f"Minutes of training: {training}; of attacks: {run['attack_seconds'] / 60:.0f}; together "
        f"{whole / 60:.0f}{at_once}, on {run['date']}, {cores} of "
        f"{machine['cores']} cores, torch {versions['torch']}, seed {run['seed']}."
    )


def counted(run: dict) -> str:
    """How many images a table trained, tuned and reported on, and which: from its record."""
    data = next(iter(run["data"].values()))
    used = [f"{use} {data[use]}" for use in ("train", "tune", "report") if data[use]]
    return (
        f"Images, from the same set throughout: {'; '.join(used)}, of these the first "
        f"{run['settings']['num_images']}."
    )


def theirs(table: str) -> list[str]:
    """What the paper prints where its rows do not stand among ours: Tables 2 and 3."""
    if table == "2":
        head = ["the paper's Table 2, LSUN Bedroom", *(f"eps {e}" for e in WIDE_EPS)]
        rows = [[f"paper: {row.training}", *map(number, row.nll)] for row in TABLE_2]
        after = "LSUN Bedroom has not been run here on the real set."
    elif table == "3":
        after = "Mean NLL under attack at eps 8; our mean is carried by few images: see the median."
        head = ["the paper's Table 3, RealNVP", *(f"{n} iterations" for n in TABLE_3[0].iterations)]
        head.append("uniform noise")
        rows = [[row.data, *map(number, row.nll), number(row.noise)] for row in TABLE_3]
    else:
        return []
    return [pipe_table(head, rows), after]


def means(run: dict, row: str = "strongest") -> dict[tuple[str, int], float]:
    """By (model, eps): the mean of the row, at eps 0 that of the clean images."""
    wanted = {row, "clean"}
    return {(r["model"], r["eps"]): float(r["mean"]) for r in run["rows"] if r["row"] in wanted}


def floored(run: dict, longer: dict) -> str:
    """Every model with a uniform density mixed in, under the strongest attack."""
    rows = [r for r in run["rows"] if r["row"] in ("clean", "strongest")]
    eps = sorted({r["eps"] for r in rows})
    cells = {(r["model"], r["eps"]): r["mixed"] for r in rows}
    head, lines = ["with a uniform floor, strongest", *(f"eps {e}" for e in eps)], []
    for model in dict.fromkeys(r["model"] for r in rows):
        lines.append([marked(model), *(number(cells[model, e]) for e in eps)])
    return (
        f"{pipe_table(head, lines)}\n\n{note(longer, run['table'])} These are without the floor; "
        "with it, no attack of any length exceeds the certified ceiling, "
        f"{rows[0]['ceiling']:.4f} bits/dim."
    )


def reference(run: dict) -> str:
    """What hybrid training is held against: the ladder if there is one, else the mixture."""
    return "ladder" if "ladder" in run else "mixture"


def paired(run: dict, below: str) -> str:
    """How far each model is above the ladder (or the mixture), image by image, with intervals."""
    best = run["paired"]["reference"]
    eps = [str(e) for e in run["settings"]["eps"]]
    lines = []
    for model, at in run["paired"].items():
        if model == "reference":
            continue
        cells = []
        for found in (at[e] for e in eps):
            low, high = (f"{float(found[key]):+,.2f}" for key in ("low", "high"))
            cells.append(f"{float(found['mean']):+,.2f} ({low} to {high})")
        lines.append([marked(model), *cells])
    head = [f"bits/dim above {LABELS[best]}", *(f"eps {e}" for e in eps)]
    text = f"Image by image, with 95% intervals:\n\n{pipe_table(head, lines)}\n\n{below}"
    if "ladder" not in run:
        return text
    bounds = [f"{number(run['ladder'][e]['bound'])} at eps {e}" for e in eps]
    return (
        f"{text}\n\nWhatever attacks the ladder, its parts bound it by {', '.join(bounds)}, as far "
        f"as the attacks on the parts go (image by image the least of them, and "
        f"{run['ladder']['price']:.4f})."
    )


def verdicts(run: dict) -> str:
    """Which wins where, under the strongest attack, by the mean."""
    found = means(run)
    eps = sorted({e for _, e in found})
    best, lines = reference(run), []
    for e in eps:
        at = {model: value for (model, other), value in found.items() if other == e}
        order = sorted(at, key=at.get)
        text = f"least at eps {e}: {LABELS[order[0]]} ({number(at[order[0]])}), then "
        text += f"{LABELS[order[1]]} ({number(at[order[1]])})"
        lines.append(f"{text}; {LABELS['hybrid']} is {number(at['hybrid'])}, {LABELS[best]} "
                     f"{number(at[best])}.")  # fmt: skip
    cost = found["hybrid", 0] - found["clean", 0]
    lines.append(f"Hybrid costs clean images {cost:.2f} bits/dim; {LABELS[best]} "
                 f"{found[best, 0] - found['clean', 0]:.4f}.")  # fmt: skip
    pgd = means(run, "pgd-20")
    for model in ("clean", "adversarial", "hybrid"):
        line = [pgd[model, e] for e in eps]
        falls = [e for e, a, b in zip(eps[1:], line, line[1:], strict=False) if b < a]
        text = "never falls as eps grows" if not falls else f"falls at eps {falls}"
        lines.append(f"Under 20 steps alone the mean of the {model} model {text}.")
    for name, chosen in run["baselines"].items():
        parameter = next(key for key in ("scale", "degrees") if key in chosen)
        lines.append(f"{name}: {parameter} {chosen[parameter]:g}, of {len(chosen['tried'])} tried.")
    return "\n".join(f"* {line[0].upper()}{line[1:]}" for line in lines)


def section(run: dict, longer: dict, seeds: list[dict]) -> str:
    """One table, its provenance, who wins, its other seeds, and its warnings."""

    def lines(rows: list[dict], table: str) -> str:
        rows = [{**row, "model": marked(row["model"])} for row in rows]
        text = layout({**run, "rows": rows, "table": table}).split("\n\n", 2)[2]
        return f"{text}\n\n{note(longer, run['table'])}" if MARK in text else text

    strongest = [row for row in run["rows"] if row["row"] in ("clean", "strongest")]
    single = [row for row in run["rows"] if row["row"] != "strongest"]
    parts = [f"## {run['title']}", provenance(run), lines(strongest, run["table"])]
    if run["table"] == "1":
        row = table_1("clean")
        parts[1] += f" The paper's rows are those of its {row.source} ({row.model} on {row.data})."
    parts += theirs(run["table"])
    if run.get("baselines"):
        parts += [floored(run, longer), verdicts(run)]
        parts += [paired(run, note(longer, run["table"]))] if "paired" in run else []
        if repeated := table_seeds.section(run, seeds, marked):
            parts.append(f"{repeated}\n\n{note(longer, run['table'])}")
    parts.append("Each attack alone:\n\n" + lines(single, ""))
    if run["warnings"]:
        warned = len(run["warnings"])
        parts.append(f"The attacks left {warned} warnings, all in the JSON; the first: "
                     f"{run['warnings'][0]}.")  # fmt: skip
    return "\n\n".join(parts)


def runs(results: Path = ROOT / "results") -> list[dict]:
    """The records in the order of the tables."""
    paths = [results / f"{name}-laptop.json" for name in ORDER]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/tables.md."""
    longer = long_attacks(results)
    sections = (section(run, longer, table_seeds.of(run, results)) + "\n" for run in runs(results))
    head = HEAD.replace("{HARDENED}", f"{hardened()} {budgets()}").replace("{FURTHER}", further())
    return "\n".join([head, *sections])


BEGIN, END = "<!-- table 1 from results/table-1-laptop.json -->\n", "<!-- end of table 1 -->"


def short_table(results: Path = ROOT / "results") -> str:
    """Table 1 for the README: means, the paper's rows above ours, and what to think of them."""
    run = json.loads((results / "table-1-laptop.json").read_text(encoding="utf-8"))
    longer = long_attacks(results)
    quick, found = means(run, "pgd-20"), means(run)
    eps = sorted({e for _, e in found})
    lines = []
    for row in TABLE_1:
        lines.append([f"paper: {row.training}", *map(number, row.nll)])
    present = [model for model in LABELS if (model, 0) in found]
    for model in (name for name in present if name in ROWS):
        cells = (number(quick[model, e]) for e in eps)
        lines.append([f"ours, 20 steps: {LABELS[model]}", *cells])
    rising = {(r["model"], r["eps"]) for r in run["rows"] if r.get("status") == ">="}
    searched = "found" if run["settings"].get("budget") else "strongest"
    for model in present:
        cells = (f"{'>= ' if (model, e) in rising else ''}{number(found[model, e])}" for e in eps)
        lines.append([f"ours, {searched}: {LABELS[model]}", *cells])
    table = pipe_table(["mean bits/dim at eps", *map(str, eps)], lines)
    notes = [note(longer, run["table"]), *told(run, found, eps)]
    notes.append(table_seeds.told(run, table_seeds.of(run, results), LABELS))
    notes = [*filter(None, notes), f"{hardened()} {budgets()}", counted(run)]
    text = "\n\n".join(textwrap.fill(part, 100, break_on_hyphens=False) for part in notes)
    return f"\n{table}\n\n{text}\n\n"


def told(run: dict, found: dict[tuple[str, int], float], eps: list[int]) -> list[str]:
    """What to think of the table: who hides, what the ladder does about it."""
    best = reference(run)
    behind = [str(e) for e in eps if found[best, e] < found["hybrid", e]]
    name = LABELS[best][0].upper() + LABELS[best][1:]
    texts = [
        "So hybrid training, as it stands, still hides from short attacks; the adversarial model "
        f"does not. {name}, attacked as hard as the others, is ahead of the hybrid at eps "
        f"{', '.join(behind)}."
    ]
    if best == "ladder":
        single = [m for m, e in found if e == 0 and m not in ("ladder", "mixture")]
        gap = max(found["ladder", e] - min(found[m, e] for m in single) for e in eps)
        texts.append(
            "*The ladder* is the mean of five densities, the clean model and four trained "
            f"adversarially at eps {', '.join(map(str, RUNGS))} and 8. It is never more than "
            f"{gap:.4f} bits/dim above the best single model, costs clean images "
            f"{found['ladder', 0] - found['clean', 0]:.4f}, and whatever the attack it is at most "
            f"{run['ladder']['price']:.4f} above its best part. Its price: five networks "
            "([ladder][docs/ladder.md])."
        )
    if budget := run["settings"].get("budget"):
        texts.append(
            "*Found* is the worst per image of all attacks on all models, and of a search from "
            "several starts whose ascents grow until longer ones find no more; >= stands "
            f"where it was still finding more after {budget['max_steps']} steps, or had driven an "
            f"image beyond {budget['enough']:g} bits/dim and left it there."
        )
    else:
        texts.append(
            f"*Strongest* is the worst per image of attacks of at most {longest(run)} steps."
        )
    return texts


def longest(run: dict) -> int:
    """The steps of the longest attack of a table."""
    return max(options["num_steps"] for options in run["settings"]["attacks"].values())


def with_table(readme: str, results: Path = ROOT / "results") -> str:
    """The README with that table between its two marks."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + short_table(results) + END + rest.split(END)[1]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    Path(__file__).with_name("tables.md").write_text(render(), encoding="utf-8")
