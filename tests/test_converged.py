"""Attacks that go on until they find no more: the script, its record, and the page made of it."""

import json
import sys

import pytest
from scripts import ROOT, load_script


@pytest.fixture(scope="module")
def page():
    return load_script("docs/build_converged.py")


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/converged.py")


@pytest.fixture
def run():
    return json.loads((ROOT / "results/converged.json").read_text(encoding="utf-8"))


def test_the_page_is_what_its_generator_makes_of_the_record(page):
    text = (ROOT / "docs/converged.md").read_text(encoding="utf-8")
    assert text == page.render(), "run python docs/build_converged.py"
    assert (ROOT / "docs/converged.png").stat().st_size > 10_000


def test_it_was_measured_on_the_weights_that_ship(script, run):
    assert "/" not in run["command"].replace("benchmarks/", "").replace("results/", "")
    for row in run["rows"]:
        assert row["weights"] == script.weights_of(row["model"]), (
            "run benchmarks/converged.py again"
        )
        means = [point["mean"] for point in row["curve"]]
        assert means == sorted(means) and abs(means[-1] - row["mean"]) < 1e-3
        assert len(row["values"]) == run["settings"]["limit"]


def test_a_changed_record_changes_the_page(page, run, tmp_path):
    row = next(row for row in run["rows"] if row["model"].endswith("adversarial"))
    row |= {"mean": 123.0, "status": ">="}
    row["curve"] = [{"steps": 20, "evaluations": 140.0, "mean": 5.0, "greatest": 6.0}]
    (tmp_path / "converged.json").write_text(json.dumps(run), encoding="utf-8")
    text = page.render(tmp_path)
    assert "| >= 123.00 |" in text
    assert (
        f"`{row['model']}` hides: after the first round, of 20 steps, longer ascents found 118.00"
        in text
    )


def test_a_ladder_is_bounded_image_by_image(page):
    parts = page.LADDERS["glow-photos-ladder"].values()
    values = ([1.0, 9.0], [9.0, 3.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0])
    rows = [
        {"model": name, "values": v, "mean": sum(v) / 2}
        for name, v in zip(parts, values, strict=True)
    ]
    rows.append({"model": "glow-photos-ladder", "values": [1.0, 3.0], "mean": 2.0})
    (line,) = page.bounds({"rows": rows})
    first, *_, last = parts
    assert "attacked as a whole 2.00;" in line and "bounds it by 2.00 (" in line
    assert "= 0.0008" in line and f"`{first}`" in line and f"`{last}`" in line
    (line,) = page.bounds({"rows": rows[4:]})  # the last part alone bounds it as well
    assert f"; `{last}` bounds it by 9.00 (" in line and first not in line
    assert page.bounds({"rows": rows[5:]}) == page.bounds({"rows": rows[:5]}) == []


def test_the_script_goes_on_where_it_stopped(script, monkeypatch, tmp_path, capsys):
    record = tmp_path / "converged.json"
    monkeypatch.setattr(script, "KINDS", ("adversarial",))
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    words = "converged.py --sets photos --limit 2 --max-steps 1 --json"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(record)])
    script.main()
    first = json.loads(record.read_text())
    (row,) = first["rows"]
    assert row["steps"] == 1 and row["status"] == ">=" and row["evaluations"] == 7.0
    assert row["clean"] < row["mean"] and first["duration_s"] > 0
    capsys.readouterr()
    script.main()
    assert json.loads(record.read_text()) == first  # nothing was missing
    weights = row["weights"]
    first["rows"][0] = {**row, "weights": ["others"]}
    record.write_text(json.dumps(first))
    script.main()
    assert json.loads(record.read_text())["rows"][0]["weights"] == weights
