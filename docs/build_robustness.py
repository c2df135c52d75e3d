"""Writes docs/robustness.md from results/attack-*.json: the shipped models under attack.

    python docs/build_robustness.py

measures nothing: each table shows what `python -m flowrob attack` wrote. tests/test_docs.py
asserts that the file is up to date, so that no number in it is typed.
"""

from __future__ import annotations

import json
from pathlib import Path

from flowrob import data, paper
from flowrob.evaluation import pipe_table
from flowrob.evaluation.table import number

ROOT = Path(__file__).parents[1]

HEAD = """# The shipped models under attack

Bits/dim of held-out images; lower is more likely. *attacked* is 20 steps of projected gradient
ascent in the l_inf ball of eps grey levels, *8-bit* the same rounded to a valid image, *noise*
uniform integers of the same size. The interval is a 95% bootstrap of the mean over images. It does
not know of a tail that these images have not shown: read the median and the quartiles beside it.
The {crops} test crops overlap, cut out of {tiles} squares of {photos} photographs that are held out
whole, so the bootstrap resamples squares; three photographs are few, and the intervals say nothing
about others. CIFAR-10's images are resampled one by one. *floor* is what no
normalised density can go below on average over the noise. A warning of the attack is printed with
its table: with one, the truth is worse than the row.

The *published* Glows have no bound on the scales of their couplings and priors
([explosion.md](explosion.md)); the figure of the README and notebooks 00, 05 and 06 attack the
one on photographs.

This file is written by `python docs/build_robustness.py` from `results/attack-*.json`.
"""

COLUMNS = ("eps", "row", "mean", "95% of the mean", "median", "quartiles", "not finite", "floor")


def table(run: dict) -> str:
    lines = []
    for row in run["rows"]:
        lines.append(
            (
                str(row["eps"]),
                row["row"],
                number(row["mean"]),
                f"{number(row['low'])} to {number(row['high'])}",
                number(row["median"]),
                f"{number(row['q25'])} to {number(row['q75'])}",
                str(row["nonfinite"]),
                number(row["floor"]) if row["eps"] else "",
            )
        )
    return pipe_table(COLUMNS, lines)


def section(run: dict) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in run["versions"].items())
    made = (
        f"{run['settings']['num_images']} images ({run['data']}), seed {run['seed']}, "
        f"{run['duration_s']:.0f} s on {run['date']} with {versions}:"
    )
    warnings = "".join(f"\n* Warning: {warning}" for warning in run["warnings"])
    return f"## {run['model']}\n\n{made}\n`{run['command']}`\n\n{table(run)}\n{warnings}"


def beside_the_paper(runs: list[dict]) -> str:
    """The attacked means in one row per model, with the clean row of the paper's Table 1."""
    row = paper.table_1("clean")
    head = ["mean NLL (bits/dim) at eps", *map(str, row.eps)]
    lines = [[f"paper, {row.source}: {row.model} on {row.data}", *map(number, row.nll)]]
    for run in runs:
        kinds = {(r["eps"], r["row"]): r["mean"] for r in run["rows"]}
        means = [kinds[e, "attacked" if e else "clean"] for e in row.eps]
        lines.append([f"{run['model']}, {run['data']}", *map(number, means)])
    text = "Other images, other sizes of model, so only the shape can be compared:"
    return f"## Beside the paper's clean row\n\n{text}\n\n{pipe_table(head, lines)}\n"


def render(results: Path = ROOT / "results") -> str:
    """The whole of docs/robustness.md."""
    paths = sorted(results.glob("attack-*.json"))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    crops = data.photo_crops("test")
    tiles = {(crop.photo, crop.tile) for crop in crops}
    head = HEAD.format(crops=len(crops), tiles=len(tiles), photos=len({c.photo for c in crops}))
    return "\n".join([head, beside_the_paper(runs), *(section(run) for run in runs)]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("robustness.md").write_text(render(), encoding="utf-8")
