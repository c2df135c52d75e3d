"""The paper's tables, ours: trained models held against their baselines under the same attacks.

A robust row, the same Glow trained clean, adversarially and hybrid, is attacked beside densities
that need no hybrid training (section 5):

* ``ladder``: the mean of five densities trained adversarially at eps 0, 1, 2, 4 and 8, never worse
  than any of them by more than log2(5)/D bits/dim;
* ``mixture``: (p_clean + p_adversarial) / 2, two rungs of it;
* ``clean, Student-t base``: the clean flow with another base (:func:`flowrob.evaluation.rebased`),
  its parameter chosen on tuning images by the loss that hybrid training minimises, half clean and
  half attacked.

One more, a uniform density mixed in, is a column of every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from flowrob import paper
from flowrob.attacks import Objective
from flowrob.cli.recipes import Plan, Recipe
from flowrob.cli.runs import Run
from flowrob.distributed import sharded
from flowrob.evaluation import (
    Table,
    choose_base,
    mixture,
    mixture_bound,
    paired_difference,
    pipe_table,
    strongest_table,
)
from flowrob.evaluation.table import number
from flowrob.flows import Flow

BASES = {
    "clean, Student-t base": ("degrees", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)),
}
NUM_TUNED = 100  # images on which those parameters are chosen


def attack_models(
    plan: Plan,
    models: Mapping[str, Flow],
    recipes: Mapping[str, Recipe],
    run: Run,
    limit: int | None = None,
) -> tuple[Table, dict]:
    """The table of a plan, and what else there is to record.

    Args:
        plan: from :data:`flowrob.cli.recipes.TABLES`.
        models: trained flows, by their label in the plan.
        recipes: by label, with the images that each is reported on.
        run: the command it belongs to.
        limit: at most so many reporting images.
    """
    how = {"attacks": plan.attacks, "budget": plan.budget, "noise": plan.noise}
    attack = partial(strongest_table, eps=plan.eps, progress=run.progress, **how)
    if plan.baselines:
        recipe, clean = recipes["clean"], models["clean"]
        rivals, facts = _rivals(plan, models, recipe, run)
        densities = {name: flow.log_prob for name, flow in models.items()} | rivals
        images = _on_device(recipe, "report", clean, limit)
        groups = recipe.images.groups("report", clean, limit)
        shared = {name: sharded(density, run.group) for name, density in densities.items()}
        table = attack(shared, images, generator=_seeded(run), groups=groups)
        best = "ladder" if "ladder" in densities else "mixture"
        facts = {"baselines": facts, "paired": _paired(table, best, run, groups)}
        if "ladder" in densities:
            facts["ladder"] = _bound(plan, table)
        return table, facts
    tables = []
    for name, flow in models.items():
        images = _on_device(recipes[name], "report", flow, limit)
        groups = recipes[name].images.groups("report", flow, limit)
        shared = {name: sharded(flow.log_prob, run.group)}
        tables.append(attack(shared, images, generator=_seeded(run), groups=groups))
    return _joined(tables), {}


def _bound(plan: Plan, table: Table) -> dict:
    """What bounds the ladder from above, by eps: of its parts the best mean, and that of images."""
    dims, bound = table.settings["num_dims"], {}
    for e in plan.eps:
        row = "strongest" if e else "clean"
        parts = torch.stack([table.values[name, e, row] for name in plan.ladder])
        best = parts.mean(1)
        bound[str(e)] = {
            "bound": mixture_bound(parts, dims).mean().item(),
            "best part": plan.ladder[int(best.argmin())],
            "mean of the best part": best.min().item(),
        }
    return {"parts": list(plan.ladder), "price": math.log2(len(plan.ladder)) / dims, **bound}


def _paired(table: Table, reference: str, run: Run, groups: Tensor | None) -> dict:
    """By model and eps: how many bits/dim it is above the reference, image by image."""
    found: dict = {"reference": reference}
    for name in dict.fromkeys(row["model"] for row in table.rows):
        if name == reference:
            continue
        found[name] = {}
        for e in table.settings["eps"]:
            row = "strongest" if e else "clean"
            ours, theirs = (table.values[model, e, row].cpu() for model in (name, reference))
            found[name][str(e)] = paired_difference(ours, theirs, _seeded(run), groups=groups)
    return found


def _rivals(plan: Plan, models: Mapping[str, Flow], recipe: Recipe, run: Run) -> tuple[dict, dict]:
    """The baselines of a robust row, and how their parameters were chosen."""
    clean = models["clean"]
    if recipe.images.tune:
        tuning = _on_device(recipe, "tune", clean, NUM_TUNED)
    else:
        training = _on_device(recipe, "train", clean)
        tuning = training[:: math.ceil(len(training) / NUM_TUNED)]
    how = {"eps": max(plan.eps), "seed": run.seed, "group": run.group}
    chosen = {
        name: choose_base(clean, parameter, values, tuning, **how)
        for name, (parameter, values) in BASES.items()
    }
    rivals: dict[str, Objective] = {name: found.density for name, found in chosen.items()}
    rivals["mixture"] = mixture(clean.log_prob, models["adversarial"].log_prob)
    if plan.ladder and all(name in models for name in plan.ladder):
        rivals["ladder"] = mixture(*(models[name].log_prob for name in plan.ladder))
    return rivals, {name: found.record() for name, found in chosen.items()}


def _on_device(recipe: Recipe, use: str, flow: Flow, limit: int | None = None) -> Tensor:
    return recipe.images.load(use, flow, limit).to(next(flow.parameters()).device)


def _seeded(run: Run) -> torch.Generator:
    return torch.Generator().manual_seed(run.seed)


def _joined(tables: list[Table]) -> Table:
    """Tables on different images as one."""
    counts = {table.rows[0]["model"]: table.settings["num_images"] for table in tables}
    return Table(
        [row for table in tables for row in table.rows],
        "Bits/dim: each attack, and the worst of all per image",
        {key: value for table in tables for key, value in table.values.items()},
        {},
        tables[0].settings | {"num_images": counts},
        [warning for table in tables for warning in table.warnings],
    )


def cell(row: Mapping) -> str:
    """ "mean / median" of a row, with ">= " before it if its search had not converged."""
    mark = ">= " if row.get("status") == ">=" else ""
    return f"{mark}{number(row['mean'])} / {number(row['median'])}"


def layout(content: Mapping) -> str:
    """The record of a table as Markdown: a line per model and attack, a column per eps.

    Cells are mean / median over images, with ``>=`` where the search had not converged; the paper
    prints means. For Table 1 its rows stand above ours.
    """
    rows = content["rows"]
    eps = sorted({row["eps"] for row in rows})
    cells = {(row["model"], row["row"], row["eps"]): row for row in rows}
    kinds = [kind for kind in dict.fromkeys(row["row"] for row in rows) if kind != "clean"]
    lines = []
    if content["table"] == "1":
        for row in paper.TABLE_1:
            printed = dict(zip(row.eps, row.nll, strict=True))
            name = f"paper: {row.training}"
            lines.append([name, "PGD", *(number(printed.get(e)) for e in eps)])
    for model in dict.fromkeys(row["model"] for row in rows):
        for kind in kinds:
            line = [cells[model, kind if e else "clean", e] for e in eps]
            lines.append([model, kind, *map(cell, line)])
    table = pipe_table(["model", "attack", *(f"eps {e}" for e in eps)], lines)
    return f"{content['title']}\n\nBits/dim, mean / median.\n\n{table}"
