"""What makes a likelihood explode: the grid's script, and the page that is made of its record."""

import json
import shutil
import sys

import pytest
from scripts import ROOT, load_script

from flowrob import flows


@pytest.fixture(scope="module")
def page():
    return load_script("docs/build_explosion.py")


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/explosion.py")


@pytest.mark.parametrize("coupling", ["bounded", "free"])
@pytest.mark.parametrize("prior", ["bounded", "free"])
def test_each_form_bounds_what_it_says(script, coupling, prior):
    flow = script.build(coupling, prior, 8, 0)
    couplings = [m for m in flow.modules() if isinstance(m, flows.AffineCoupling)]
    leaving = [m for m in couplings if isinstance(m.conditioner, flows.ZeroConv2d)]
    inner = [m for m in couplings if m not in leaving]
    assert len(inner) == 8 and len(leaving) == 1
    assert {m.min_scale for m in inner} == {0.0 if coupling == "free" else 0.01}
    assert {m.log_range for m in inner} == {None}
    if prior == "free":  # s = e^h
        assert leaving[0].log_range == float("inf")
    else:
        assert leaving[0].min_scale == 0.01 and leaving[0].log_range is None


def test_the_script_measures_all_forms_and_goes_on_where_it_stopped(
    script, monkeypatch, tmp_path, capsys
):
    record = tmp_path / "explosion.json"
    monkeypatch.setattr(script, "RATES", {"adam": 1e-3})
    arguments = ["explosion.py", "--size", "8", "--limit", "2", "--json", str(record)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--steps", "1"])
    script.main()
    run = json.loads(record.read_text())
    assert len(run["rows"]) == 4 and run["duration_s"] > 0
    assert all(row["mean"] == sorted(row["mean"]) for row in run["rows"])
    assert all(len(row["latent_shares"]) == 2 for row in run["rows"])
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*arguments, "--steps", "1", "2"])
    script.main()
    again = json.loads(record.read_text())
    assert again["rows"][:4] == run["rows"] and len(again["rows"]) == 8
    assert len(again["commands"]) == 2 and again["commands"][:1] == run["commands"]
    assert len(capsys.readouterr().out.splitlines()) == 4  # those that were missing
    monkeypatch.setattr(sys, "argv", [*arguments, "--limit", "1"])
    with pytest.raises(SystemExit, match="holds other settings"):
        script.main()
    assert json.loads(record.read_text()) == again  # nothing that was measured is lost


def test_the_page_is_what_its_generator_makes_of_the_records(page):
    text = (ROOT / "docs/explosion.md").read_text(encoding="utf-8")
    assert text == page.render(), "run python docs/build_explosion.py"
    assert (ROOT / "docs/explosion.png").stat().st_size > 10_000


def test_changed_records_change_the_page(page, tmp_path):
    for path in (ROOT / "results").glob("attack-*.json"):
        shutil.copy(path, tmp_path)
    run = json.loads((ROOT / "results/explosion.json").read_text(encoding="utf-8"))
    for row in run["rows"]:
        if (row["coupling"], row["prior"]) == ("free", "bounded"):
            row["mean"][-1] *= 1000.0
    (tmp_path / "explosion.json").write_text(json.dumps(run), encoding="utf-8")
    before, after = page.render().splitlines(), page.render(tmp_path).splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert any("couplings freed" in line for line in changed)
    assert not any("prior freed" in line for line in changed)


def test_powers_of_ten_are_counted_between_runs_that_differ_in_nothing_else(page):
    alike = {"set": "photos", "optimizer": "adam", "seed": 0}
    rows = [
        {**alike, "coupling": "bounded", "prior": p, "steps": n, "mean": [c, b]}
        for p, n, c, b in [("bounded", 1, 4.0, 10.0), ("free", 1, 3.9, 1e4), ("free", 2, 3.0, 1e9)]
    ]
    text = page.effect(rows, ("bounded", "bounded"), ("bounded", "free"), "prior freed")
    assert "+3.0 to +3.0 powers of ten, the median of 1 pairs +3.0" in text
    assert "clean bits/dim lower by +0.100" in text


def test_the_median_of_an_even_number_of_pairs_lies_in_their_middle(page):
    alike = {"set": "photos", "optimizer": "adam", "steps": 1, "coupling": "bounded"}
    rows = [
        {**alike, "prior": prior, "seed": seed, "mean": [clean, bits], "latent_shares": [share]}
        for prior, seed, clean, bits, share in [
            ("bounded", 0, 4.0, 10.0, 0.2),
            ("bounded", 1, 4.0, 10.0, 0.4),
            ("free", 0, 3.9, 1e2, 1.0),
            ("free", 1, 3.7, 1e4, 1.0),
        ]
    ]
    text = page.effect(rows, ("bounded", "bounded"), ("bounded", "free"), "prior freed")
    assert "+1.0 to +3.0 powers of ten, the median of 2 pairs +2.0" in text
    assert "lower by +0.200 (median)" in text
    assert "30% with a bounded prior" in page.where(rows)


def test_a_clean_glow_that_ships_explodes_and_its_bounded_twin_does_not():
    means = {}
    for name in ("glow-cifar10-published-clean", "glow-cifar10-clean"):
        run = json.loads((ROOT / f"results/attack-{name}.json").read_text(encoding="utf-8"))
        kinds = {(row["eps"], row["row"]): row["mean"] for row in run["rows"]}
        means[name] = kinds[0, "clean"], kinds[8, "attacked"]
        assert run["data"].endswith("3600..3799") and run["settings"]["num_images"] >= 100
    clean, attacked = means["glow-cifar10-published-clean"]
    assert clean <= 3.95 and attacked > 1e5
    assert means["glow-cifar10-clean"][1] < 1e3
