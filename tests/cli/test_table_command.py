"""flowrob table: train what is not there, attack all, print and record."""

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_commands import SHORT, state, table

from flowrob import data, zoo
from flowrob.cli import main, paper_tables
from flowrob.cli.recipes import PHOTOS, PUBLISHED_CLEAN, RECIPES, TABLES, Plan
from flowrob.data import load, photo_tiles
from flowrob.evaluation import Budget, mixture, rebased, strongest_table


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def few_images(monkeypatch):
    """The recipes of the tiny models, on 64 images; 8 are reported on."""
    few = replace(PHOTOS, train=("train", (0, 64)), tune=None, report=("test", (0, 8)))
    for name in (name for name in RECIPES if name.startswith("tiny-")):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], images=few))


@pytest.fixture
def small_table(monkeypatch, few_images):
    plan = replace(TABLES["tiny", "laptop"], title="A table", eps=(0, 8), steps=(2,))
    plan = replace(plan, auto=False, budget=Budget(1, 2))
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), plan)
    monkeypatch.setattr(paper_tables, "NUM_TUNED", 8)
    bases = {"clean, Student-t base": ("degrees", (1.0, 5.0))}
    monkeypatch.setattr(paper_tables, "BASES", bases)


def test_table_trains_attacks_and_records(small_table, tmp_path, capsys):
    assert main(table(tmp_path)) == 0
    record = json.loads(
        (tmp_path / "table-tiny-laptop.json").read_text(), parse_constant=pytest.fail
    )
    printed = capsys.readouterr().out
    assert printed.endswith(paper_tables.layout(record) + "\n") and "A table" in printed
    assert record["command"].startswith("python -m flowrob table tiny --folder")
    assert os.sep not in record["command"] and record["duration_s"] > 0
    names = [f"tiny-{loss}" for loss in ("clean", "adversarial", "hybrid", "hybrid-fresh")]
    names += [f"tiny-eps{e}" for e in (1, 2, 4)]
    assert record["models"] == names
    assert set(record["training_seconds"]) == {*names, "tiny-base"}
    data = {"train": "photos, train 0..63", "tune": None, "report": "photos, test 0..7"}
    assert record["data"] == dict.fromkeys(names, data)
    labels = TABLES["tiny", "laptop"].models
    flow = {
        label: zoo.load(tmp_path / f"{name}.safetensors", "cpu") for label, name in labels.items()
    }
    for name in (*names, "tiny-base"):  # each says which command made it: the table's
        assert zoo.recipe(tmp_path / f"{name}.safetensors")["command"] == record["command"]
    chosen = record["baselines"]
    of_base = chosen["clean, Student-t base"]
    best = min(of_base["tried"], key=lambda entry: entry["half and half"])
    assert of_base["degrees"] == best["degrees"] and of_base["num_images"] == 8
    rungs = ("clean", "eps 1", "eps 2", "eps 4", "adversarial")
    models = {name: f.log_prob for name, f in flow.items()} | {
        "clean, Student-t base": rebased(
            flow["clean"], degrees=chosen["clean, Student-t base"]["degrees"]
        ),
        "mixture": mixture(flow["clean"].log_prob, flow["adversarial"].log_prob),
        "ladder": mixture(*(flow[label].log_prob for label in rungs)),
    }
    images = load("photos", split="test", size=16, limit=4)
    attacks = TABLES["tiny", "laptop"].attacks
    assert set(attacks) == {"pgd-2"}
    how = {"attacks": attacks, "budget": Budget(1, 2), "generator": seeded()}
    groups = photo_tiles("test", 16)[:4]
    expected = strongest_table(models, images, [0, 8], groups=groups, **how)
    assert record["rows"] == json.loads(expected.to_json())["rows"]
    parts = torch.stack([expected.values[label, 8, "strongest"] for label in rungs])
    ladder = record["ladder"]
    assert ladder["price"] == pytest.approx(math.log2(5) / 768)
    assert ladder["8"]["bound"] == pytest.approx(parts.amin(0).mean().item() + ladder["price"])
    assert ladder["8"]["bound"] >= expected.values["ladder", 8, "strongest"].mean().item() - 1e-6
    assert ladder["8"]["best part"] == rungs[int(parts.mean(1).argmin())]
    ahead = record["paired"]["hybrid"]["8"]
    pairs = [expected.values[label, 8, "strongest"] for label in ("hybrid", "ladder")]
    assert record["paired"]["reference"] == "ladder" and "ladder" not in record["paired"]
    assert ahead["mean"] == pytest.approx((pairs[0] - pairs[1]).mean().item())
    assert ahead["low"] <= ahead["mean"] <= ahead["high"]
    assert {row["status"] for row in record["rows"] if "status" in row} <= {"converged", ">="}
    # a second run trains nothing, and the same numbers come out
    before = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert main(table(tmp_path, "--json", str(tmp_path / "again.json"))) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["rows"] == record["rows"]
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}


@pytest.fixture
def iterations(monkeypatch, few_images):
    """A table of two models, each by itself."""
    models = {name: name for name in ("tiny-clean", "tiny-hybrid")}
    plan = Plan("Iterations", models, False, eps=(0, 8), steps=(1, 3), auto=False)
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), plan)


def test_tables_of_single_models_go_over_iterations(iterations, tmp_path, capsys):
    assert main(table(tmp_path)) == 0
    record = json.loads((tmp_path / "table-tiny-laptop.json").read_text())
    assert [row["row"] for row in record["rows"][:4]] == ["clean", "pgd-1", "pgd-3", "strongest"]
    assert record["settings"]["num_images"] == {"tiny-clean": 4, "tiny-hybrid": 4}
    assert "| tiny-hybrid | pgd-3 |" in capsys.readouterr().out


def test_models_that_the_folder_holds_are_attacked_without_training(iterations, tmp_path, capsys):
    assert main(table(tmp_path)) == 0
    whole = json.loads((tmp_path / "table-tiny-laptop.json").read_text())
    (tmp_path / "tiny-hybrid.safetensors").unlink()
    (tmp_path / "tiny-hybrid.checkpoint.safetensors").unlink(missing_ok=True)
    capsys.readouterr()
    assert main(table(tmp_path, "--no-training")) == 0
    assert f"not in {tmp_path}, and left out: tiny-hybrid" in capsys.readouterr().err
    record = json.loads((tmp_path / "table-tiny-laptop.json").read_text())
    assert not (tmp_path / "tiny-hybrid.safetensors").exists()
    assert record["rows"] == [row for row in whole["rows"] if row["model"] == "tiny-clean"]


def test_a_table_without_its_models_is_refused(small_table, tmp_path, capsys):
    assert main(table(tmp_path, "--no-training")) == 2
    assert "tiny-clean, tiny-adversarial" in (said := capsys.readouterr().err)
    assert "without them there is no table" in said and not [*tmp_path.glob("*.safetensors")]


def test_the_models_of_a_table_are_those_of_train(iterations, tmp_path):
    """Base, settings and seed: one way to train, whichever command asks for it."""
    (tmp_path / "table").mkdir()
    assert main(table(tmp_path / "table", "--seed", "3")) == 0
    for name in ("tiny-clean", "tiny-hybrid"):
        path = tmp_path / name / f"{name}.safetensors"
        words = ["train", "--preset", name, "--output", str(path), *SHORT, "--seed", "3"]
        assert main(words) == 0
        for part in (name, "tiny-base"):
            ours = state(tmp_path / "table" / f"{part}.safetensors")
            alone = state(tmp_path / name / f"{part}.safetensors")
            assert ours.keys() == alone.keys()
            assert all(torch.equal(ours[key], alone[key]) for key in ours)
        recipes = [
            zoo.recipe(tmp_path / where / f"{name}.safetensors") for where in ("table", name)
        ]
        for key in ("settings", "data", "seed", "rows", "start", "preset"):
            assert recipes[0][key] == recipes[1][key], key


def test_shipped_weights_are_attacked_without_training(monkeypatch, tmp_path):
    names = ("glow-photos-clean", "glow-photos-hybrid")
    models = {name: name for name in names}
    plan = Plan("Shipped", models, False, eps=(0, 8), steps=(1,), auto=False)
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), plan)
    assert main(table(tmp_path, "--shipped")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["table-tiny-laptop.json"]
    record = json.loads((tmp_path / "table-tiny-laptop.json").read_text())
    images = load("photos", split="test", limit=4)
    for name in names:
        expected = strongest_table(
            {name: zoo.load(name, "cpu").log_prob},
            images,
            plan.eps,
            generator=seeded(),
            attacks=plan.attacks,
            groups=photo_tiles("test")[:4],
        )
        rows = [row for row in record["rows"] if row["model"] == name]
        assert rows == json.loads(expected.to_json())["rows"]
        assert record["training_seconds"][name] == zoo.recipe(name)["training_seconds"]


def test_table_takes_images_from_elsewhere_and_refuses_what_it_does_not_know(tmp_path, capsys):
    images = load("photos", size=16, limit=16)
    np.savez(tmp_path / "c.npz", images=images.permute(0, 2, 3, 1).numpy())
    command = ["table", "1", "--folder", str(tmp_path), "--quiet"]
    assert main([*command, "--data", f"cifar10={tmp_path / 'c.npz'}"]) == 2
    assert "indices=slice(0, 3200, None) reaches beyond the 16" in capsys.readouterr().err
    for wrong in ("c.npz", "mnist=c.npz", "cifar10="):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--data", wrong])
        assert "write SET=PATH" in capsys.readouterr().err
    assert main(["table", "photos", "--scale", "paper"]) == 2
    assert "no table photos --scale paper: one of 1 --scale laptop" in capsys.readouterr().err


def test_a_setting_that_any_of_its_models_refuses_ends_it_before_training(tmp_path, capsys):
    refused = {
        "share=0.5": "share=0.5 with loss='adversarial'",
        "memory=long": "memory must be one of",
        "attack_steps=0": "attack_steps must be at least 1",
    }
    for wrong, message in refused.items():
        assert main(table(tmp_path, "--set", wrong)) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_download_is_passed_on_and_never_done_unasked(tmp_path, monkeypatch, capsys):
    asked = []

    def load(name, **options):
        asked.append((name, options["download"]))
        raise OSError("no network")

    monkeypatch.setattr(data, "load", load)
    command = ["table", "1", "--folder", str(tmp_path), "--quiet"]
    assert main(command) == 2 and main([*command, "--download"]) == 2
    assert main(["train", "--preset", "glow-cifar10-base", "--download"]) == 2
    assert asked == [("cifar10", False), ("cifar10", True), ("cifar10", True)]
    assert "no network" in capsys.readouterr().err


def test_layout_puts_the_papers_table_1_above_ours():
    rows = [
        {"model": "clean", "eps": e, "row": r, "mean": e + 3.5, "median": "inf"}
        for e, r in [(0, "clean"), (8, "pgd-20"), (8, "strongest")]
    ]
    text = paper_tables.layout({"table": "1", "title": "T", "rows": rows})
    assert "| paper: clean | PGD | 3.40 | 2,000,000 |" in text
    assert "| clean | strongest | 3.50 / inf | 11.50 / inf |" in text
    assert "paper" not in paper_tables.layout({"table": "2", "title": "T", "rows": rows})


def test_a_search_that_had_not_converged_is_marked_and_an_eps_the_paper_lacks_is_blank():
    rows = [
        {"model": "m", "eps": e, "row": r, "mean": 5.0, "median": 4.0, "status": status}
        for e, r, status in [
            (0, "clean", None),
            (3, "strongest", ">="),
            (8, "strongest", "converged"),
        ]
    ]
    text = paper_tables.layout({"table": "1", "title": "T", "rows": rows})
    assert "| m | strongest | 5.00 / 4.00 | >= 5.00 / 4.00 | 5.00 / 4.00 |" in text
    assert "| paper: clean | PGD | 3.40 |  | 2,000,000 |" in text


def test_the_steps_of_a_search_can_be_cut_or_left_out():
    plan = TABLES["1", "laptop"]
    assert plan.searching(0).budget is None
    assert plan.searching(4).budget == replace(plan.budget, first_steps=4, max_steps=4)
    assert plan.searching(999).budget == replace(plan.budget, max_steps=999)
    assert TABLES["3", "laptop"].searching(50).budget == Budget(max_steps=50)
    with pytest.raises(ValueError, match="max_steps at least first_steps"):
        plan.searching(-1)


@pytest.mark.parametrize("key", TABLES)
def test_a_row_has_one_budget_and_what_is_not_loss_is_alike(key):
    plan = TABLES[key]
    assert all(name in RECIPES for name in plan.models.values())
    if not plan.baselines:
        return
    labels = [label for label in plan.models if label != PUBLISHED_CLEAN]
    further = [RECIPES[plan.models[label]] for label in labels[3:]]
    assert labels[:3] == ["clean", "adversarial", "hybrid"] and {*plan.ladder} <= {*labels}
    recipes = [RECIPES[plan.models[label]] for label in labels[:3]]
    assert [recipe.loss.name for recipe in recipes] == labels[:3]
    if PUBLISHED_CLEAN in plan.models:  # bounds on two scales tell it apart, nothing else
        published = RECIPES[plan.models[PUBLISHED_CLEAN]]
        alike = replace(published, model=recipes[0].model, start=recipes[0].start)
        assert alike == recipes[0] and published.model != recipes[0].model
    assert len({recipe.start for recipe in recipes}) == 1 and recipes[0].start
    assert all(replace(recipe, loss=recipes[0].loss) == recipes[0] for recipe in recipes)
    if further:  # the paper's own hybrid and the ladder's parts: a little more, alike
        assert {recipe.start for recipe in further} == {plan.models["clean"]}
        assert all(replace(recipe, loss=further[0].loss) == further[0] for recipe in further)
        assert further[0].num_steps <= recipes[0].num_steps / 2
        alike = replace(further[0], num_steps=recipes[0].num_steps, start=recipes[0].start)
        assert replace(alike, loss=recipes[0].loss) == recipes[0]


@pytest.mark.parametrize("number", ["1", "2", "3", "photos"])
def test_the_tables_on_record_are_what_the_command_makes_unless_told_otherwise(number):
    path = Path(__file__).parents[2] / f"results/table-{number}-laptop.json"
    record, plan = json.loads(path.read_text(encoding="utf-8")), TABLES[number, "laptop"]
    settings, count = record["settings"], record["settings"]["num_images"]
    counts = {*count.values()} if isinstance(count, dict) else {count}
    assert counts == {plan.num_images}
    assert settings.get("budget") == (plan.budget and asdict(plan.budget))
    assert settings["attacks"] == plan.attacks and settings["eps"] == [*plan.eps]
    assert record["models"] == [*plan.models.values()]
