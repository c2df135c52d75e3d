"""The paper's tables, ours: trained models held against their baselines under the same attacks (5).

A robust row, the same Glow trained clean, adversarially and hybrid, is attacked beside three
densities that need no robust training of their own kind:

* ``mixture``: (p_clean + p_adversarial) / 2, never worse than either by more than 1/D bits/dim;
* ``clean, wider base`` and ``clean, Student-t base``: the clean flow with another base
  (:func:`~flowrob.objectives.rebased`), its parameter chosen on tuning images by the loss that
  hybrid training minimises, half clean and half attacked.

A fourth, a uniform density mixed in, is a column of every row.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import torch
from torch import Tensor

from flowrob import paper
from flowrob.distributed import Group
from flowrob.ensemble import strongest_table
from flowrob.evaluation import robustness_table
from flowrob.flows import Flow
from flowrob.objectives import Objective, mixture, rebased
from flowrob.presets import Plan
from flowrob.runs import load, sharded
from flowrob.tables import Table

BASES = {
    "clean, wider base": ("scale", (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)),
    "clean, Student-t base": ("degrees", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)),
}
NUM_TUNED = 100  # images on which those parameters are chosen


def attack_models(
    plan: Plan,
    models: dict[str, Flow],
    presets: dict[str, dict],
    arguments: argparse.Namespace,
    group: Group,
) -> tuple[Table, dict]:
    """The table of a plan, and what else there is to record.

    Args:
        plan: from :data:`flowrob.presets.TABLES`.
        models: trained flows, by preset.
        presets: with the images that each is reported on.
        arguments: seed, limit and quiet are read.
        group: of processes, among which images are shared out.
    """

    def images(name: str, use: str, limit: int | None = None) -> Tensor:
        loaded = load(presets[name], use, models[name], limit)
        return loaded.to(next(models[name].parameters()).device)

    attack = partial(
        strongest_table,
        eps=plan.eps,
        attacks=plan.attacks,
        progress=group.leads and not arguments.quiet,
    )
    if not plan.robust:
        tables = []
        for name, flow in models.items():
            generator = torch.Generator().manual_seed(arguments.seed)
            found = {name: sharded(flow.log_prob, group)}
            held_out = images(name, "report", arguments.limit)
            tables.append(attack(found, held_out, generator=generator))
        return _joined(tables), {}
    flows = {name.rsplit("-", 1)[1]: flow for name, flow in models.items()}
    first = next(iter(models))
    if presets[first]["tune"]:
        tuning = images(first, "tune", NUM_TUNED)
    else:
        training = images(first, "train")
        tuning = training[:: math.ceil(len(training) / NUM_TUNED)]
    chosen, rivals = {}, {}
    for name, (parameter, values) in BASES.items():
        chosen[name] = _choose(
            flows["clean"], parameter, values, tuning, max(plan.eps), arguments.seed, group
        )
        rivals[name] = rebased(flows["clean"], **{parameter: chosen[name][parameter]})
    rivals["mixture"] = mixture(flows["clean"].log_prob, flows["adversarial"].log_prob)
    trained: dict[str, Objective] = {name: flow.log_prob for name, flow in flows.items()}
    found = {name: sharded(p, group) for name, p in (trained | rivals).items()}
    generator = torch.Generator().manual_seed(arguments.seed)
    held_out = images(first, "report", arguments.limit)
    return attack(found, held_out, generator=generator), {"baselines": chosen}


def _choose(
    flow: Flow,
    parameter: str,
    values: tuple[float, ...],
    images: Tensor,
    eps: int,
    seed: int,
    group: Group,
) -> dict:
    """The value whose clean and attacked bits/dim have the least mean, and all that were tried."""
    tried = []
    for value in values:
        table = robustness_table(
            sharded(rebased(flow, **{parameter: value}), group),
            images,
            [0, eps],
            generator=torch.Generator().manual_seed(seed),
        )
        means = {row["row"]: row["mean"] for row in table.rows}
        score = 0.5 * (means["clean"] + means["attacked"])
        tried.append({parameter: value, "clean": means["clean"], "half and half": score})
    best = min(tried, key=lambda entry: entry["half and half"])
    return {parameter: best[parameter], "num_images": len(images), "eps": eps, "tried": tried}


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


def layout(content: dict) -> str:
    """The record of a table as Markdown: a line per model and attack, a column per eps.

    Cells are mean / median over images; the paper prints means. For Table 1 its rows stand above
    ours.
    """
    rows = content["rows"]
    eps = sorted({row["eps"] for row in rows})
    cells = {(row["model"], row["row"], row["eps"]): row for row in rows}
    kinds = [kind for kind in dict.fromkeys(row["row"] for row in rows) if kind != "clean"]
    head = ["model", "attack", *(f"eps {e}" for e in eps)]
    lines = [head, ["---"] * len(head)]
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
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{content['title']}\n\nBits/dim, mean / median.\n\n{table}"


def number(value: float | str) -> str:
    """Two decimals while they matter. JSON keeps infinities as text, which stays as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"
