"""The record behind notebook 08, every image's likelihood under attack, and its script."""

import json
import sys

import pytest
from scripts import ROOT, load_script

from flowrob import data


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/what_a_mean_hides.py")


@pytest.fixture
def run():
    return json.loads((ROOT / "results/what_a_mean_hides.json").read_text(encoding="utf-8"))


def test_it_was_measured_on_the_weights_that_ship(script, run):
    assert "/" not in run["command"].replace("benchmarks/", "")
    limit, doubled = run["settings"]["limit"], run["settings"]["doubled"]
    assert run["squares"] == data.photo_tiles("test")[:limit].tolist()
    asked = [(label, eps) for label in script.MODELS for eps in script.EPS]
    assert [(row["model"], row["eps"]) for row in run["rows"]] == asked
    for row in run["rows"]:
        name, steps = script.MODELS[row["model"]]
        assert (row["weights of"], run["settings"]["steps"][row["model"]]) == (name, steps)
        assert row["weights"] == script.weights_of(name), "run benchmarks/what_a_mean_hides.py"
        assert len(row["bits"]) == limit
        assert len(row.get("twice the steps", [])) == (doubled if row["eps"] == 8 else 0)


def test_attacks_cost_more_than_noise_of_their_size_and_grow_with_it(run):
    rows = {(row["model"], row["eps"]): row for row in run["rows"]}
    for (model, eps), row in rows.items():
        if not eps:
            continue
        mean = sum(row["bits"]) / len(row["bits"])
        assert mean > sum(row["noise"]) / len(row["noise"])
        assert mean > sum(rows[model, eps // 2]["bits"]) / len(row["bits"])


def test_it_goes_on_where_it_stopped(script, tmp_path, monkeypatch):
    record = tmp_path / "mean.json"
    monkeypatch.setattr(script, "MODELS", {"clean": ("glow-photos-clean", 1)})
    monkeypatch.setattr(script, "EPS", (0, 1))
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    words = "what_a_mean_hides.py --limit 2 --doubled 1 --json"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(record)])
    script.main()
    first = json.loads(record.read_text())
    clean, attacked = first["rows"]
    assert all(a > c for a, c in zip(attacked["bits"], clean["bits"], strict=True))
    assert len(attacked["twice the steps"]) == 1 and "noise" not in clean
    measured = attacked["bits"]
    first["rows"][0] |= {"bits": [-1.0, -1.0]}
    first["rows"][1] |= {"bits": [-1.0, -1.0], "weights": ["others"]}
    record.write_text(json.dumps(first))
    script.main()
    kept = {row["eps"]: row["bits"] for row in json.loads(record.read_text())["rows"]}
    assert kept == {0: [-1.0, -1.0], 1: measured}
