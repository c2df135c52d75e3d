"""Attacks that know when they have converged, and find a model out that hides."""

import math
from dataclasses import replace

import pytest
import torch

from flowrob.attacks import attack_images
from flowrob.data import load
from flowrob.evaluation import (
    Budget,
    converged_table,
    convergence,
    mixture,
    mixture_bound,
    robustness_table,
    strongest,
    strongest_table,
)
from flowrob.evaluation.convergence import Search
from flowrob.flows import glow
from flowrob.training import fit

SMALL = Budget(first_steps=2, max_steps=16, least_steps=4)


@pytest.fixture(scope="module")
def images():
    return load("photos", size=8, split="test", limit=6)


@pytest.fixture(scope="module")
def flow():
    flow = glow((3, 8, 8), num_levels=2, num_steps=2, width=8)
    fit(flow, load("photos", size=8, limit=200), num_steps=60, batch_size=32, progress=False)
    return flow


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(x):
    """A density whose worst case is the corner away from 1/2, found by the first steps."""
    return -20.0 * (x - 0.5).square().flatten(1).sum(1)


def hiding(x):
    """Flat as far as its gradient shows around an image, and far down beyond a wall of noise.

    Near x = 1/2 each grey level lies on a slope that leads to a shallow end; the deep one is on the
    other side, which only other starts reach.
    """
    away = 256 * (x - 0.5)
    shallow, deep = 0.02 * away, 0.4 * (-away - 4.0)
    return -torch.maximum(shallow, deep).flatten(1).sum(1)


def test_a_model_that_does_not_hide_converges_early_and_says_so(images):
    table = converged_table(smooth, images, (0, 4), generator=seeded(), budget=SMALL)
    clean, attacked = table.rows
    assert (clean["row"], attacked["row"]) == ("clean", "attacked")
    assert attacked["status"] == "converged" and attacked["steps"] < SMALL.max_steps
    y = images.double()
    away = (y - 127.5).abs()  # each grey level moves 4 further from the middle, if there is room
    assert attacked["mean"] > clean["mean"]
    corners = (127.5 + torch.where(y < 127.5, -1.0, 1.0) * (away + 4)).clamp(0, 255)
    found = table.images["model", 4, "attacked"].double()
    assert (
        found - corners
    ).abs().amax() <= 1.0  # dequantisation noise may turn a grey level at 127


def test_a_model_that_hides_from_its_own_gradient_is_found_out():
    grey = torch.full((3, 3, 8, 8), 128, dtype=torch.uint8)
    usual = robustness_table(hiding, grey, (8,), generator=seeded(), num_resamples=1)
    shown = next(row["mean"] for row in usual.rows if row["row"] == "attacked")
    table = converged_table(hiding, grey, (8,), generator=seeded(), budget=Budget(5, 40))
    (found,) = table.rows
    assert found["mean"] > shown + 0.5 / math.log(2.0) / 2


def test_what_is_not_settled_when_the_budget_ends_is_a_lower_bound(flow, images):
    short = Budget(first_steps=1, max_steps=1)
    table = converged_table(flow.log_prob, images, (8,), generator=seeded(), budget=short)
    (row,) = table.rows
    assert row["status"] == ">=" and row["steps"] == 1
    assert row["evaluations"] == 7.0  # seven ascents of one step each, on all images


def test_more_budget_never_finds_less_and_the_curve_says_what_it_cost(flow, images):
    tables = [
        converged_table(flow.log_prob, images, (8,), generator=seeded(), budget=Budget(2, most))
        for most in (2, 8)
    ]
    less, more = (table.values["model", 8, "attacked"] for table in tables)
    assert bool((more >= less).all())
    curve = tables[1].settings["curves"]["model, 8"]
    means, spent = ([point[key] for point in curve] for key in ("mean", "evaluations"))
    assert means == sorted(means) and spent == sorted(spent)
    assert curve[0] == tables[0].settings["curves"]["model, 8"][0]


def test_rows_grow_with_eps_and_stay_in_their_balls(flow, images):
    table = converged_table(flow.log_prob, images, (0, 1, 4), generator=seeded(), budget=SMALL)
    lines = table.by_eps()
    assert bool((lines.diff(dim=0) >= 0).all())
    for e in (1, 4):
        moved = table.images["model", e, "attacked"]
        assert (moved - images).abs().max() <= e + 1e-4
        assert moved.min() >= 0 and moved.max() <= 255


def test_models_share_what_was_found(flow, images):
    """A model whose gradient is masked is scored on what the other one yielded to."""

    def masked(x):
        return flow.log_prob(x.detach()) + 0.0 * x.flatten(1).sum(1)

    models = {"masked": masked, "open": flow.log_prob}
    table = converged_table(models, images, (4,), generator=seeded(), budget=SMALL)
    alone = converged_table(masked, images, (4,), generator=seeded(), budget=SMALL)
    shared, own = table.values["masked", 4, "attacked"], alone.values["model", 4, "attacked"]
    assert shared.mean() > own.mean() + 0.05
    assert table.rows[0]["status"] == ">="  # its own search had missed that


@pytest.fixture
def patient(monkeypatch):
    """A model that gives way to ascents of 16 steps or more, and the attack that shows it."""

    def found(log_prob, images, eps, **options):
        options |= {"num_steps": 1 if options["num_steps"] < 16 else 2}
        return attack_images(log_prob, images, eps if options["num_steps"] > 1 else 0, **options)

    monkeypatch.setattr(convergence, "attack_images", found)
    return lambda budget, images, log_prob=smooth: converged_table(
        log_prob, images, (8,), generator=seeded(), budget=budget
    )


def test_settled_images_drop_out(patient, images):
    """Four of six cannot be lowered at all: once all kinds have tried, they are done."""
    stuck = images.clone()
    stuck[:3] = 128  # and a fourth has too little contrast

    def log_prob(x):
        movable = (x.flatten(1).std(1) > 0.05).to(x)
        return -200.0 * movable * (x - 0.5).square().flatten(1).sum(1)

    curve = patient(Budget(2, 64, least_steps=16), stuck, log_prob).settings["curves"]["model, 8"]
    assert [(p["ascents"], p["steps"]) for p in curve] == [(7, 2), (7, 16), (2, 64), (7, 64)]
    spent = [point["evaluations"] for point in curve]
    assert spent == pytest.approx(
        [14, 14 + 112, 126 + (64 + 16) / 3, 126 + (64 + 16 + 7 * 64) / 3], abs=0.1
    )


def test_as_long_as_length_helps_most_gradients_go_into_one_ascent(images, monkeypatch):
    """A model that gives way a little with every doubling: n steps find log2(n)."""

    def found(log_prob, images, eps, **options):
        few = 2.0 + math.log2(options["num_steps"]) / 4
        plain = {"num_steps": 1, "step_size": few, "schedule": "constant", "start": "x"}
        return attack_images(log_prob, images, 8, **options | plain)

    def search(gain, patience=2):
        budget = Budget(4, 256, mean_gain=gain, image_gain=2 * gain, patience=patience)
        return converged_table(smooth, grey, (8,), generator=seeded(), budget=budget)

    monkeypatch.setattr(convergence, "attack_images", found)
    grey = torch.full((2, 3, 8, 8), 128, dtype=torch.uint8)
    table = search(1e-6)
    curve = table.settings["curves"]["model, 8"]
    assert [point["steps"] for point in curve] == [4, 16, 64, 256, 256]
    assert [point["ascents"] for point in curve] == [7, 2, 2, 2, 7]
    spent = 7 * 4 + (16 + 4) + (64 + 16) + (256 + 64) + 7 * 256
    assert table.rows[0]["evaluations"] == spent
    # the last round found nothing, but was no longer than the one before it
    assert table.rows[0]["status"] == search(1e-6, patience=1).rows[0]["status"] == ">="
    twice = curve[1]["mean"] - curve[0]["mean"]  # four times the steps are two doublings
    for share, ascents in ((0.4, 2), (0.7, 7)):
        curve = search(share * twice).settings["curves"]["model, 8"]
        assert curve[2]["ascents"] == ascents


def test_at_the_cap_every_kind_has_the_last_word_and_the_row_stays_a_lower_bound(monkeypatch):
    """n steps move log2(n)/4 further, and 2 more from corners and the like, if they are 32."""

    def found(log_prob, images, eps, **options):
        elsewhere = isinstance(options.get("start"), torch.Tensor) and options["num_steps"] >= 32
        far = 2.0 + math.log2(options["num_steps"]) / 4 + 2.0 * elsewhere
        plain = {"num_steps": 1, "step_size": far, "schedule": "constant", "start": "x"}
        return attack_images(log_prob, images, eps, **options | plain)

    monkeypatch.setattr(convergence, "attack_images", found)
    levels = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    budget = Budget(4, 32, mean_gain=1e-6, image_gain=2e-6)
    table = converged_table(smooth, levels, (8,), generator=seeded(), budget=budget)
    curve = table.settings["curves"]["model, 8"]
    assert [(p["ascents"], p["steps"]) for p in curve] == [(7, 4), (2, 16), (2, 32), (7, 32)]
    assert table.rows[0]["status"] == ">="
    moved = (table.images["model", 8, "attacked"] - levels).abs()
    assert moved.amax().item() == pytest.approx(2.0 + 5 / 4 + 2.0, abs=0.02)


def test_no_image_settles_before_every_kind_of_ascent_has_tried(monkeypatch):
    """The dark one gives way to all, the grey one to long ascents from corners alone."""

    def found(log_prob, images, eps, **options):
        moved = attack_images(log_prob, images, eps, **options)
        elsewhere = isinstance(options.get("start"), torch.Tensor) and options["num_steps"] >= 32
        gives_way = (images.float().mean((1, 2, 3), keepdim=True) < 100) | elsewhere
        return replace(moved, x=torch.where(gives_way, moved.x, images.to(moved.x)))

    monkeypatch.setattr(convergence, "attack_images", found)
    levels = torch.tensor([60, 128], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    budget = Budget(16, 64, least_steps=16)
    table = converged_table(smooth, levels, (0, 8), generator=seeded(), budget=budget)
    curve = table.settings["curves"]["model, 8"]
    assert [(p["ascents"], p["steps"]) for p in curve][:3] == [(7, 16), (2, 64), (7, 64)]
    clean, attacked = table.by_eps()
    assert bool((attacked > clean + 0.02).all())


def test_short_ascents_that_find_nothing_are_no_sign(patient, images):
    table = patient(Budget(2, 64, least_steps=16), images)
    (row,) = table.rows
    assert row["status"] == "converged"
    ends = [(point["ascents"], point["steps"]) for point in table.settings["curves"]["model, 8"]]
    assert ends == [(7, 2), (7, 16), (2, 64), (7, 64)]  # 16 found it, 64 and all of 64 nothing more
    clean = table.settings["curves"]["model, 8"][0]["mean"]
    assert row["mean"] > clean + 0.01
    (hasty,) = patient(Budget(2, 64, least_steps=2), images).rows
    assert hasty["status"] == "converged" and hasty["mean"] == pytest.approx(clean)  # is why
    (short,) = patient(Budget(2, 8, least_steps=16), images).rows
    assert short["status"] == ">="


def test_a_search_that_begins_after_a_long_attack_ends_with_a_longer_one(images):
    budget = Budget(2, 64, least_steps=2)
    for steps, ended in ((1, 2), (20, 20)):
        table = strongest_table(
            smooth,
            images,
            (4,),
            generator=seeded(),
            attacks={"pgd": {"num_steps": steps}},
            budget=budget,
        )
        assert (table.rows[-1]["status"], table.rows[-1]["steps"]) == ("converged", ended)
    begun = table.settings["curves"]["model, 4"]
    assert [point["steps"] for point in begun] == [2, 20]
    short = Budget(2, 16, least_steps=2)
    how = {"generator": seeded(), "attacks": {"pgd": {"num_steps": 20}}, "budget": short}
    (row,) = strongest_table(smooth, images, (4,), **how).rows[-1:]
    assert (row["status"], row["steps"]) == (">=", 20)


def test_a_mixture_is_not_searched_where_its_parts_leave_no_room(images):
    def steeper(x):
        return 4.0 * smooth(x) + 100.0

    summed = mixture(smooth, steeper)
    models = {"sum": summed, "a": smooth, "b": steeper}
    how = {"budget": SMALL, "attacks": {"pgd": {"num_steps": 2}}}
    table = strongest_table(models, images, (0, 8), generator=seeded(), **how)
    hidden = models | {"sum": lambda x: summed(x)}
    alone = strongest_table(hidden, images, (0, 8), generator=seeded(), **how)
    rows = {row["model"]: row for row in table.rows if row["row"] == "strongest"}
    usual = {row["model"]: row for row in alone.rows if row["row"] == "strongest"}
    assert [row["status"] for row in rows.values()] == ["converged"] * 3
    assert rows["sum"]["evaluations"] == 2.0 < usual["sum"]["evaluations"]
    parts = torch.stack([table.values[part, 8, "strongest"] for part in "ab"])
    left = mixture_bound(parts, 192) - table.values["sum", 8, "strongest"]
    assert left.max() < SMALL.mean_gain
    assert rows["sum"]["mean"] == pytest.approx(usual["sum"]["mean"], abs=0.01)


def test_parts_whose_search_has_not_settled_leave_room(images):
    models = {"a": smooth, "sum": mixture(smooth, smooth)}
    how = {"budget": Budget(1, 1), "generator": seeded()}
    table = converged_table(models, images, (8,), **how)
    assert [row["status"] for row in table.rows] == [">=", ">="]
    assert table.rows[1]["evaluations"] >= 7.0


def test_a_mixture_is_as_open_as_the_part_that_bounds_it(images, monkeypatch):
    def other(x):
        return smooth(x) + 50.0

    models = {"a": smooth, "b": other, "sum": mixture(smooth, other)}  # b is the likelier one
    for open_part, status in ((smooth, "converged"), (other, ">=")):

        def leave_open(log_prob, protocol, eps, search, budget, ceiling, model=open_part):
            search.converged = log_prob is not model
            return []

        monkeypatch.setattr(strongest, "converge", leave_open)
        table = converged_table(models, images, (8,), generator=seeded(), budget=SMALL)
        rows = {row["model"]: row for row in table.rows}
        assert rows["b"]["mean"] < rows["a"]["mean"]
        assert rows["sum"]["status"] == status


def test_nan_is_the_worst_there_is():
    levels = torch.zeros(2, 1, 1, 1)
    search = Search(torch.tensor([1.0, 5.0]), levels, torch.zeros(2, dtype=torch.bool))
    search.offer(torch.tensor([math.nan, 4.0]), levels + 1)
    assert search.bits[0].isnan() and search.bits[1] == 5.0
    assert search.levels.flatten().tolist() == [1.0, 0.0]


def test_what_is_found_out_is_attacked_no_further_and_is_a_lower_bound(images):
    def steep(x):
        return -2e4 * (x - 0.5).square().flatten(1).sum(1)

    budget = Budget(2, 64, enough=20.0)
    table = converged_table(steep, images, (8,), generator=seeded(), budget=budget)
    assert table.values["model", 8, "attacked"].min() > 20.0
    assert table.rows[0]["status"] == ">=" and table.rows[0]["evaluations"] <= 14.0


def test_one_image_given_up_makes_the_row_a_lower_bound(images):
    """The others are at their worst from the first step on: they are quiet, it is not known."""
    bright = torch.full_like(images, 255)
    bright[0] = 128

    def log_prob(x):  # flat but for the grey image, which falls without end
        fragile = (x.flatten(1).mean(1) < 0.7).to(x)
        return -2e4 * fragile * (x - 0.5).square().flatten(1).sum(1)

    budget = Budget(2, 64, enough=20.0)
    table = converged_table(log_prob, bright, (8,), generator=seeded(), budget=budget)
    found = table.values["model", 8, "attacked"]
    assert found[0] > 20.0 and found[1:].max() < 20.0
    assert table.rows[0]["status"] == ">="


def test_the_strongest_of_many_attacks_goes_on_until_it_has_converged(flow, images):
    few = {"pgd-1": {"num_steps": 1}}
    at, options = (0, 4), {"generator": seeded(), "attacks": few}
    fixed = strongest_table(flow.log_prob, images, at, **options)
    options["generator"] = seeded()
    table = strongest_table(flow.log_prob, images, at, **options, budget=SMALL)
    assert [row["row"] for row in table.rows] == ["clean", "pgd-1", "strongest"]
    first, last = (t.values["model", 4, "strongest"] for t in (fixed, table))
    assert torch.equal(fixed.values["model", 4, "pgd-1"], table.values["model", 4, "pgd-1"])
    assert bool((last >= first).all()) and last.mean() > first.mean()
    assert "status" not in fixed.rows[-1] and table.rows[-1]["status"] in ("converged", ">=")
    curve = table.settings["curves"]["model, 4"]
    assert curve[0]["evaluations"] == 1 + 7 * SMALL.first_steps  # the attack's own step counts
    assert table.rows[-1]["evaluations"] == curve[-1]["evaluations"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_steps": 0},
        {"max_steps": 4},
        {"least_steps": 0},
        {"patience": 0},
        {"mean_gain": 0.0},
        {"enough": -1},
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Budget(**wrong)
