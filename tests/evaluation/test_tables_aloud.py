"""Saying a default aloud changes no table, and both tables make their rows by one protocol."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from small_tables import seeded, triangle

from flowrob.attacks import (
    LinfBall,
    attack_images,
    lower_likelihood,
    pgd,
    universal_perturbation,
)
from flowrob.evaluation import (
    ATTACKS,
    Budget,
    converged_table,
    detection_table,
    robustness_table,
    strongest_table,
)

PIXELS = torch.tensor([[10, 200], [250, 100], [0, 128]], dtype=torch.uint8).reshape(3, 1, 1, 2)
TABLES = {"robustness": robustness_table, "strongest": strongest_table}


def said(function):
    """The defaults of its keywords; the generator has none."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


EVERY = [(t, name) for t, function in TABLES.items() for name in [*said(function), "all"]]


def same(first, second):
    assert first.rows == second.rows
    assert first.settings == second.settings
    assert first.caption == second.caption
    assert first.warnings == second.warnings
    for field in ("values", "images"):
        a, b = getattr(first, field), getattr(second, field)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_every_keyword_of_both_tables(table, name):
    function = TABLES[table]
    aloud = said(function) if name == "all" else {name: said(function)[name]}
    quick = {} if name in ("eps", "all") else {"eps": (0, 2)}
    same(*(function(triangle, PIXELS, generator=seeded(), **o) for o in (quick, quick | aloud)))


def test_the_cases_are_the_real_keywords():
    shared = {"eps", "uniform_weight", "num_resamples", "groups", "batch_size", "progress"}
    assert {*said(robustness_table)} == shared | {"goal", "noise", "attack_options"}
    assert {*said(strongest_table)} == shared | {"attacks", "budget", "noise"}
    assert "generator" in inspect.signature(strongest_table).parameters


def test_the_attacks_of_the_strongest_table_said_aloud():
    same(*(
        strongest_table(triangle, PIXELS, [2], generator=seeded(), attacks=attacks)
        for attacks in (None, ATTACKS)
    ))  # fmt: skip


@pytest.mark.parametrize("goal", ["lower", "raise"])
def test_the_options_of_the_attack_said_aloud(flow, images, goal):
    """In all tables; ``settings`` alone tells what was said."""
    aloud = {
        k: v
        for function in (pgd, lower_likelihood, attack_images)
        for k, v in said(function).items()
    }
    aloud["schedule"] = "cosine"  # the one default of a named attack's own
    for own in ("box", "generator", "batch_size", "goal", "noise"):
        del aloud[own]  # the table's
    options = {"generator": None, "attack_options": aloud, "num_resamples": 9}
    tables = [
        robustness_table(
            flow.log_prob, images[:3], [0, 4], goal=goal, **options | {"generator": seeded()} | more
        )
        for more in ({"attack_options": None}, {})
    ]
    assert tables[0].rows == tables[1].rows
    assert tables[1].settings["attack_options"] == aloud
    found = [
        detection_table(
            flow.log_prob, images[:3], images[3:], [4], generator=seeded(), attack_options=o
        )
        for o in (None, aloud)
    ]
    assert found[0].rows == found[1].rows
    if goal == "lower":
        found = [
            strongest_table(flow.log_prob, images[:3], [4], generator=seeded(), attacks={"a": o})
            for o in ({}, aloud)
        ]
        assert found[0].rows == found[1].rows


def test_one_protocol_makes_the_rows_of_both_tables(flow, images):
    """Of the same attack, here one that draws nothing, both say the same in the same columns."""
    models, attack = {"a": flow.log_prob, "b": triangle}, {"num_steps": 4, "noise": "midpoint"}
    one = robustness_table(
        models, images, [0, 2], generator=seeded(), noise="midpoint",
        attack_options={"num_steps": 4},
    )  # fmt: skip
    many = strongest_table(models, images, [0, 2], generator=seeded(), attacks={"attacked": attack})
    ours, theirs = (
        {(row["model"], row["eps"], row["row"]): row for row in table.rows} for table in (one, many)
    )
    assert {tuple(row) for row in [*one.rows, *many.rows]} == {tuple(one.rows[0])}  # order too
    drawn = {"low": 0.0, "high": 0.0}  # by generators that stand at different places
    for model in models:
        for key in ((model, 0, "clean"), (model, 2, "attacked")):
            assert torch.equal(one.values[key], many.values[key])
        key = (model, 2, "attacked")
        assert ours[key] | drawn == theirs[key] | drawn
    alone = [f(models, images, [0], generator=seeded()) for f in TABLES.values()]
    bounds = {"floor": None}  # of clean rows: 0 in one table, nothing to say in the other
    assert [row | bounds for row in alone[0].rows] == [row | bounds for row in alone[1].rows]


def test_both_settings_say_how_the_numbers_were_made(flow, images):
    common = {"num_images", "num_dims", "eps", "uniform_weight", "num_resamples", "seed"}
    common |= {"flowrob", "torch", "scored_in", "num_groups"}
    one = robustness_table(flow.log_prob, images, [0], generator=seeded(5)).settings
    many = strongest_table(flow.log_prob, images, [0], generator=seeded(5)).settings
    assert {*one} == common | {"goal", "noise", "attack_options"}
    assert {*many} == common | {"attacks"}
    assert {k: one[k] for k in common} == {k: many[k] for k in common}
    assert one["seed"] == 5
    assert one["scored_in"] == "float64"


STEP = {"num_steps": 1}
SCORERS = {
    "attack_images": lambda f: attack_images(f, PIXELS, 2, generator=seeded(), **STEP),
    "universal": lambda f: universal_perturbation(f, PIXELS / 256, LinfBall(0.1), **STEP),
    "robustness": lambda f: robustness_table(
        f, PIXELS, [0, 2], generator=seeded(), attack_options=STEP, num_resamples=9
    ),
    "strongest": lambda f: strongest_table(
        f, PIXELS, [0, 2], generator=seeded(), attacks={"a": STEP}, num_resamples=9
    ),
    "converged": lambda f: converged_table(
        f, PIXELS, [0, 2], generator=seeded(), budget=Budget(1, 2, 1), num_resamples=9
    ),
    "detection": lambda f: detection_table(
        f, PIXELS, PIXELS.flip(0), [0, 2], generator=seeded(), attack_options=STEP
    ),
}


class Normed(torch.nn.Module):
    """A density whose BatchNorm moves while it is in train mode."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, x):
        return -self.norm(x.flatten(1)).square().sum(1)


@pytest.mark.parametrize("name", SCORERS)
def test_every_table_announces_nan_and_train_mode(name):
    nothing = SCORERS[name](lambda x: x.flatten(1).sum(1) * math.nan)
    assert "finite" in " ".join(nothing.warnings)
    model = Normed().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert "train mode" in " ".join(SCORERS[name](model).warnings)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training and "train mode" not in " ".join(SCORERS[name](model.eval()).warnings)
