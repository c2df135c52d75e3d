"""The strongest attack: nothing is left out, and each of its parts can win."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from small_tables import bump, seeded

from flowrob.attacks import attack_images, dequantization_noise, score_images
from flowrob.evaluation import (
    ATTACKS,
    bits_per_dim,
    rebased,
    robustness_table,
    schedules,
    strongest_table,
)
from flowrob.evaluation.convergence import Search

QUICK = {"few": {"num_steps": 3}, "start": {"num_steps": 3, "start": "random"}}


def test_schedules_name_their_steps_and_auto_pgd_takes_the_most():
    assert schedules((50, 10), auto=False) == {
        "pgd-50": {"num_steps": 50},
        "pgd-10": {"num_steps": 10},
    }
    auto = {"num_steps": 50, "schedule": "auto", "start": "random"}
    assert schedules((50, 10)) == schedules((50, 10), auto=False) | {"auto-pgd-50": auto}
    assert schedules() == ATTACKS


@pytest.fixture(scope="module")
def two(flow, images):
    """The table of a flow and of one with a wider base."""
    models = {"flow": flow.log_prob, "wide": rebased(flow, 2.0)}
    return models, strongest_table(models, images, (0, 2, 6), generator=seeded(7), attacks=QUICK)


def test_strongest_is_the_worst_of_all_attacks_on_all_models_at_all_smaller_eps(two, images):
    models, table = two
    generator = seeded(7)
    scoring = dequantization_noise(images, "fixed", generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    tried = {name: [table.values[name, 0, "clean"]] for name in models}
    for eps in (2, 6):
        for (victim, log_prob), (name, options) in itertools.product(models.items(), QUICK.items()):
            found = attack_images(
                log_prob, images, eps, generator=seeded(seed), batch_size=64, **options
            )
            assert float((found.x - images).abs().max()) <= eps + 1e-4
            for model, density in models.items():
                bits = bits_per_dim(score_images(density, found.x, scoring), 192)
                tried[model].append(bits)
                if model == victim:
                    torch.testing.assert_close(table.values[victim, eps, name], bits)
        for model in models:
            expected = torch.stack(tried[model]).amax(0)
            torch.testing.assert_close(table.values[model, eps, "strongest"], expected)


def test_clean_rows_are_those_of_the_robustness_table(flow, two, images):
    other = robustness_table(flow.log_prob, images, [0], generator=seeded(7)).rows[0]
    ours = two[1].rows[0]
    assert ours["model"] == "flow" and ours["row"] == "clean" and ours["eps"] == 0
    assert ours["floor"] is None
    for column in ("mean", "median", "mixed", "ceiling", "q25", "q75", "nonfinite"):
        assert ours[column] == pytest.approx(other[column], rel=1e-6)


def test_every_row_is_there_and_bounded_by_its_ceiling(two):
    kinds = [(row["model"], row["eps"], row["row"]) for row in two[1].rows]
    expected = [(m, 0, "clean") for m in two[0]]
    expected += [(m, e, r) for m in two[0] for e in (2, 6) for r in (*QUICK, "strongest")]
    assert sorted(kinds) == sorted(expected)
    for row in two[1].rows:
        assert row["mixed"] <= min(row["ceiling"], row["mean"] + 0.02)
        assert row["low"] <= row["mean"] <= row["high"]
    json.loads(two[1].to_json(), parse_constant=pytest.fail)


def test_transfer_finds_what_a_model_without_gradient_hides():
    def up(x):  # grey levels above 128 cost something
        return -((x - 0.5) * 256).clamp(min=0).square().flatten(1).sum(1)

    def hidden(x):  # equal to ``up`` in value, with a gradient that shows nothing
        return up(x).detach() + 0.0 * x.flatten(1).sum(1)

    grey = torch.full((3, 1, 2, 2), 128, dtype=torch.uint8)
    table = strongest_table(
        {"up": up, "hidden": hidden}, grey, [4], generator=seeded(), attacks={"a": {"num_steps": 3}}
    )
    alone, strongest = (table.values["hidden", 4, row].mean() for row in ("a", "strongest"))
    assert strongest > alone + 0.5
    torch.testing.assert_close(
        table.values["up", 4, "strongest"], table.values["hidden", 4, "strongest"]
    )
    assert any("hidden, eps 4, a: zero or non-finite gradients" in w for w in table.warnings)


def test_a_smaller_ball_wins_where_the_greater_one_overshoots():
    grey = torch.full((2, 1, 2, 2), 128, dtype=torch.uint8)
    one_step = {"sign": {"num_steps": 1, "schedule": "constant", "step_size": 100.0}}
    table = strongest_table(bump(130.5), grey, [2, 8], generator=seeded(), attacks=one_step)
    mean = {(row["eps"], row["row"]): row["mean"] for row in table.rows}
    assert mean[8, "sign"] < mean[2, "sign"]
    assert mean[8, "strongest"] >= mean[2, "strongest"] >= mean[2, "sign"]


def test_nan_counts_as_the_worst():
    def broken(x):
        return x.flatten(1).sum(1) * 0 + math.nan

    grey = torch.full((2, 1, 2, 2), 128, dtype=torch.uint8)
    table = strongest_table({"a": bump(130), "b": broken}, grey, [2], generator=seeded(),
                            attacks={"x": {"num_steps": 1}})  # fmt: skip
    rows = {(row["model"], row["row"]): row for row in table.rows}
    assert rows["b", "strongest"]["nonfinite"] == 2 and math.isnan(rows["b", "strongest"]["mean"])
    assert rows["a", "strongest"]["nonfinite"] == 0


def test_defaults_and_errors(flow, images):
    assert max(options["num_steps"] for options in ATTACKS.values()) == 100
    assert {options.get("schedule") for options in ATTACKS.values()} == {None, "auto"}
    with pytest.raises(ValueError, match="models is empty"):
        strongest_table({}, images, generator=seeded())
    for attacks in ({}, {"clean": {}}, {"strongest": {}}):
        with pytest.raises(ValueError, match="attacks needs at least one"):
            strongest_table(flow.log_prob, images, generator=seeded(), attacks=attacks)
    with pytest.raises(TypeError, match=r"images must be a uint8 tensor of grey levels .*float32"):
        strongest_table(flow.log_prob, images / 256, generator=seeded())
    with pytest.raises(ValueError, match=r"eps must hold integers"):
        strongest_table(flow.log_prob, images, [0.5], generator=seeded())
    with pytest.raises(ValueError, match=r"weight must lie in \(0, 1\), got 1"):
        strongest_table(flow.log_prob, images, generator=seeded(), uniform_weight=1)


def test_the_greater_of_two_keeps_nan_from_either_side():
    nan, levels = math.nan, torch.zeros(4, 1, 1, 1)
    search = Search.begin(torch.tensor([nan, 1.0, 1.0, 3.0]), levels)
    search.offer(torch.tensor([1.0, nan, 2.0, 2.0]), levels + 1)
    assert search.bits[:2].isnan().all() and search.bits[2:].tolist() == [2.0, 3.0]
    assert search.levels.flatten().tolist() == [0.0, 1.0, 1.0, 0.0]  # NaN came from both sides


def test_a_noise_row_is_shown_and_no_maximum_counts_it():
    def fears_noise(x):  # any change costs, and its gradient shows nothing
        return -1e4 * (x - x.mean((2, 3), keepdim=True)).square().flatten(1).sum(1)

    grey = torch.full((4, 1, 4, 4), 128, dtype=torch.uint8)
    one = {"sign": {"num_steps": 1, "step_size": 0.01}}
    options = {"generator": seeded(3), "attacks": one, "noise": True}
    table = strongest_table(fears_noise, grey, [0, 8], **options)
    assert [row["row"] for row in table.rows] == ["clean", "sign", "noise", "strongest"]
    by = {row["row"]: row["mean"] for row in table.rows}
    assert by["noise"] > by["strongest"] + 1 and by["strongest"] >= by["sign"]
    robust = robustness_table(fears_noise, grey, [0, 8], generator=seeded(3))
    noisy = next(row for row in robust.rows if row["row"] == "noise")
    assert noisy["mean"] == by["noise"]  # the same noise, from the same seed
    with pytest.raises(ValueError, match="attacks needs at least one"):
        strongest_table(fears_noise, grey, generator=seeded(), attacks={"noise": {}})


def test_a_randomised_density_has_no_strongest_row(images):
    """The greatest of many lucky draws is no result: what was kept is evaluated anew."""
    draws = torch.Generator().manual_seed(5)

    def pure_luck(x):
        luck = torch.randn(len(x), generator=draws, dtype=torch.float64).to(x)
        return 40.0 * luck + 0.0 * x.flatten(1).sum(1)

    table = strongest_table({"luck": pure_luck}, images, (0, 4), generator=seeded())
    kinds = [row["row"] for row in table.rows]
    assert "strongest" not in kinds and kinds[-1] == "redrawn"
    assert any("luck: log_prob is randomised" in warning for warning in table.warnings)
    lucky = torch.stack([table.values["luck", 4, kind] for kind in kinds[1:-1]]).amax(0)
    spread = 40.0 / (math.log(2.0) * images[0].numel())
    redrawn = table.values["luck", 4, "redrawn"]
    assert redrawn.mean() < 8.0 + 2.0 * spread / len(images) ** 0.5
    assert lucky.mean() > redrawn.mean()


def test_noise_tells_a_density_whose_sign_is_wrong():
    images = torch.full((3, 3, 8, 8), 128, dtype=torch.uint8)

    def peak(x):  # a normal density around the grey image
        scaled = (x - 0.5).flatten(1) / 0.02
        return (-0.5 * scaled.square() - math.log(0.02) - 0.5 * math.log(2 * math.pi)).sum(1)

    upside_down = {"usual": peak, "turned": lambda x: -peak(x)}
    few = {"pgd-2": {"num_steps": 2}}
    table = strongest_table(upside_down, images, (0, 8), generator=seeded(), attacks=few)
    said = [w for w in table.warnings if "uniform noise makes the images more likely" in w]
    assert len(said) == 1 and said[0].startswith("turned, eps 8: ")


def test_noise_that_beats_the_attacks_is_said(images):
    def masked(x):
        return -40.0 * x.detach().diff(dim=-1).abs().flatten(1).sum(1) + 0.0 * x.flatten(1).sum(1)

    few = {"pgd-1": {"num_steps": 1}}
    grey = torch.full_like(images, 128)
    table = strongest_table(masked, grey, (0, 8), generator=seeded(), attacks=few)
    assert any("uniform noise beats the attack" in warning for warning in table.warnings)
