"""Other seeds of a table: its models trained again, from other first weights and other batches.

    python -m flowrob table 1 --seed 1 ... --json results/table-1-laptop-seed1.json

leaves a record beside that of seed 0. What the seeds have in common, images, attacks and budget, is
held against each other here, so that a range over seeds is not one over attacks. Where the table
itself was attacked by another version of the search, seed 0 is attacked once more for this range,
into a record of its own (`--seed 0 --json results/table-1-laptop-seed0.json`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from flowrob.cli.recipes import FRESH_HYBRID
from flowrob.evaluation import pipe_table
from flowrob.evaluation.table import number

#: What records of several seeds must agree in: how the models were attacked.
SAME = ("eps", "num_images", "num_dims", "attacks", "budget", "scored_in")


def of(run: dict, results: Path) -> list[dict]:
    """The records of a table from all seeds, first that of the given one's seed.

    That is the given record, unless its seed has one beside those of the other seeds.

    Raises:
        ValueError: one of them was attacked in another way, or on other images.
    """
    paths = sorted(results.glob(f"table-{run['table']}-{run['scale']}-seed*.json"))
    found = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    seeds = [other["seed"] for other in found.values()]
    if len({*seeds}) < len(seeds):
        raise ValueError(f"{paths[-1].name} and others: two records of one seed among {seeds}")
    for path, other in found.items():
        for key in SAME:
            if other["settings"].get(key) != run["settings"].get(key):
                raise ValueError(
                    f"{path.name}: {key} is {other['settings'].get(key)!r}, at seed {run['seed']} "
                    f"it is {run['settings'].get(key)!r}: attack both in one way"
                )
        shared = other["data"].keys() & run["data"].keys()
        if any(other["data"][m] != run["data"][m] for m in shared):
            raise ValueError(f"{path.name}: not a seed on the same images")
    records = [*found.values()] if run["seed"] in seeds else [run, *found.values()]
    return sorted(records, key=lambda record: record["seed"] != run["seed"])


def spread(runs: list[dict], model: str, row: str, eps: int) -> tuple[list[float], bool]:
    """The means of all seeds, and whether one of them is a lower bound."""
    wanted = (model, row if eps else "clean", eps)
    found = [r for run in runs for r in run["rows"] if (r["model"], r["row"], r["eps"]) == wanted]
    return [float(r["mean"]) for r in found], any(r.get("status") == ">=" for r in found)


def cell(means: list[float], rising: bool) -> str:
    """ ">= mean (least to greatest)"."""
    mean = sum(means) / len(means)
    low, high = number(min(means)), number(max(means))
    return f"{'>= ' if rising else ''}{number(mean)} ({low} to {high})"


def everywhere(runs: list[dict]) -> list[str]:
    """The models that every seed has, in the order of the first."""
    present = [{row["model"] for row in run["rows"]} for run in runs]
    return [
        m
        for m in dict.fromkeys(r["model"] for r in runs[0]["rows"])
        if all(m in p for p in present)
    ]


def table(runs: list[dict], name: Callable[[str], str]) -> str:
    """Two lines per model that every seed has, 20 steps and strongest: mean over seeds, range."""
    eps, lines = runs[0]["settings"]["eps"], []
    for model in everywhere(runs):
        for row in ("pgd-20", "strongest"):
            cells = [cell(*spread(runs, model, row, e)) for e in eps]
            lines.append([name(model), row, *cells])
    return pipe_table([f"{len(runs)} seeds", "attack", *(f"eps {e}" for e in eps)], lines)


def minutes(run: dict) -> float:
    """Of training and attacks together."""
    return (sum(run["training_seconds"].values()) + run["attack_seconds"]) / 60


def once_more(run: dict, runs: list[dict], labels: Callable[[str], str]) -> str:
    """Where another search found more against a table's own models than the one of the seeds."""
    if runs[0] is run:
        return ""
    eps, less = max(run["settings"]["eps"]), []
    for model in everywhere([run, runs[0]]):
        (above,), (here,) = (spread([r], model, "strongest", eps)[0] for r in (run, runs[0]))
        if above - here > 0.01 * above:
            less.append(f"{labels(model)} {number(here)}, not {number(above)}")
    told_of = f"; at eps {eps} it found less of {', '.join(less)}" if less else ""
    return (
        f"Seed {run['seed']} was attacked once more for this, by the search of the others{told_of}."
    )


def section(run: dict, runs: list[dict], name: Callable[[str], str]) -> str:
    """The same table from several seeds; "" if there is one alone."""
    if len(runs) == 1:
        return ""
    seeds = ", ".join(str(run["seed"]) for run in runs)
    made = "; ".join(f"`{run['command']}` ({minutes(run):.0f} minutes)" for run in runs)
    absent = {row["model"] for run in runs for row in run["rows"]} - {*everywhere(runs)}
    fewer = f" Not trained again: {', '.join(sorted(absent))}." if absent else ""
    again = f" {told_of}" if (told_of := once_more(run, runs, name)) else ""
    return (
        f"The same from seeds {seeds} (first weights, batches and attacks drawn anew, the images "
        "are the same): mean over seeds of the mean over images, in brackets the range over seeds; "
        f"`>=`: on some seed the search had not converged.{again} Made by {made}."
        f"{fewer}\n\n{table(runs, name)}"
    )


def told(run: dict, runs: list[dict], labels: dict[str, str]) -> str:
    """One sentence on how far seeds differ, at the greatest eps; "" for one seed."""
    if len(runs) == 1:
        return ""
    eps = max(runs[0]["settings"]["eps"])
    parts, told_of = [], ("adversarial", "hybrid", FRESH_HYBRID, "ladder")
    for model in (model for model in told_of if model in everywhere(runs)):
        means, rising = spread(runs, model, "strongest", eps)
        low, high = number(min(means)), number(max(means))
        parts.append(f"{labels[model]} {'>= ' if rising else ''}{low} to {high}")
    seeds = ", ".join(str(run["seed"]) for run in runs)
    told_of = f"Trained from seeds {seeds}, at eps {eps}: {', '.join(parts)} "
    again = once_more(run, runs, labels.__getitem__)
    return f"{told_of}([all rows][docs/tables.md]). {again}".strip()
