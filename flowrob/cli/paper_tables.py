"""The paper's tables, ours: trained models held against their baselines under the same attacks.

A robust row, the same Glow trained clean, adversarially and hybrid, is attacked beside three
densities that need no robust training of their own kind (section 5):

* ``mixture``: (p_clean + p_adversarial) / 2, never worse than either by more than 1/D bits/dim;
* ``clean, wider base`` and ``clean, Student-t base``: the clean flow with another base
  (:func:`flowrob.evaluation.rebased`), its parameter chosen on tuning images by the loss that
  hybrid training minimises, half clean and half attacked.

A fourth, a uniform density mixed in, is a column of every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from flowrob import paper
from flowrob.cli.recipes import Plan, Recipe
from flowrob.cli.runs import Run
from flowrob.distributed import sharded
from flowrob.evaluation import Table, choose_base, mixture, pipe_table, strongest_table
from flowrob.evaluation.table import number
from flowrob.flows import Flow

BASES = {
    "clean, wider base": ("scale", (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)),
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
    attack = partial(strongest_table, eps=plan.eps, attacks=plan.attacks, progress=run.progress)
    if plan.baselines:
        recipe = recipes["clean"]
        rivals, facts = _rivals(plan, models, recipe, run)
        densities = {name: flow.log_prob for name, flow in models.items()} | rivals
        images = _on_device(recipe, "report", models["clean"], limit)
        shared = {name: sharded(density, run.group) for name, density in densities.items()}
        return attack(shared, images, generator=_seeded(run)), {"baselines": facts}
    tables = []
    for name, flow in models.items():
        images = _on_device(recipes[name], "report", flow, limit)
        shared = {name: sharded(flow.log_prob, run.group)}
        tables.append(attack(shared, images, generator=_seeded(run)))
    return _joined(tables), {}


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
    rivals = {name: found.density for name, found in chosen.items()}
    rivals["mixture"] = mixture(clean.log_prob, models["adversarial"].log_prob)
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


def layout(content: Mapping) -> str:
    """The record of a table as Markdown: a line per model and attack, a column per eps.

    Cells are mean / median over images; the paper prints means. For Table 1 its rows stand above
    ours.
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
            lines.append([name, "PGD", *(number(printed[e]) for e in eps)])
    for model in dict.fromkeys(row["model"] for row in rows):
        for kind in kinds:
            line = [cells[model, kind if e else "clean", e] for e in eps]
            values = [f"{number(row['mean'])} / {number(row['median'])}" for row in line]
            lines.append([model, kind, *values])
    table = pipe_table(["model", "attack", *(f"eps {e}" for e in eps)], lines)
    return f"{content['title']}\n\nBits/dim, mean / median.\n\n{table}"
