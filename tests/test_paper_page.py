"""docs/paper.md: up to date, whole, and honest about where its words and numbers come from."""

import json
import sys

import pytest
from scripts import ROOT, load_script

from flowrob import paper

page = load_script("docs/build_paper.py")


def test_the_page_is_what_its_generator_writes():
    written = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    assert written == page.render(), "run: python docs/build_paper.py"


def test_no_cell_is_empty_and_every_verdict_is_one_of_five():
    for item in page.ITEMS:
        assert all(cell.strip() for cell in page.line_of(item)), item.where
        assert item.verdict in page.VERDICTS
        if item.verdict == page.CANNOT:
            assert len(item.why) > 20, f"{item.where}: say why"
    assert {item.verdict for item in page.ITEMS} == set(page.VERDICTS)


def test_every_table_figure_theorem_and_numbered_equation_has_an_item():
    places = " ".join(item.where for item in page.ITEMS)
    wanted = [f"Table {n}" for n in (1, 2, 3)] + [f"Figure {n}" for n in (1, 2, 3, 4, 5)]
    wanted += ["Theorem 3.1", "Theorem 3.2", "Remark", "Supplement (1)", "Supplement (3)"]
    wanted += ["problem (1)", "3.1, (2)", "3.1.1", "3.2, (4)", "3.2.1, (5)"]
    wanted += ["Supplement (2)", "Supplement, details", "Proofs", "2.3", "4, defence"]
    wanted += ["Figure 1, the robust model", "Table 3, LSUN Bedroom", "1, contributions; 6"]
    rows = ("in-distribution", "uniform noise", "raised noise")
    wanted += [f"Figure {n}, {row}" for n in (4, 5) for row in rows]
    assert not [place for place in wanted if place not in places]
    assert {"1", "6"} <= {item.where for item in page.ITEMS}


def test_every_label_of_figures_4_and_5_stands_on_the_page():
    lines = {item.where: item.quote for item in page.ITEMS}
    for figure in (paper.FIGURE_4, paper.FIGURE_5):
        for row, values in (
            ("in-distribution", figure.attacked),
            ("uniform noise", figure.noise),
            ("raised noise", figure.raised),
        ):
            quoted = lines[f"{figure.source}, {row}"].split(" / ")
            assert [float(text) for text in quoted] == [*values]


def test_what_had_not_converged_is_a_lower_bound_here_too():
    run = json.loads((ROOT / "results/table-1-laptop.json").read_text(encoding="utf-8"))
    found = {(r["model"], r["eps"]): r for r in run["rows"] if r["row"] == "strongest"}
    lines = {item.where: page.line_of(item)[3] for item in page.ITEMS}
    for training in ("adversarial", "hybrid"):
        for eps in paper.EPS[1:]:
            row = found[training, eps]
            text = f"{row['mean']:.2f}"
            assert (f">= {text}" in lines[f"Table 1, {training}"]) == (row["status"] == ">=")
            assert text in lines[f"Table 1, {training}"]


def test_the_set_up_is_read_from_the_package(monkeypatch):
    lines = {item.quote: item for item in page.ITEMS}
    ratio = next(item for quote, item in lines.items() if "1:1 ratio" in quote)
    steps = next(item for quote, item in lines.items() if "attack iterations" in quote)
    other = sys.modules["paper_experiments"].Loss.of("hybrid", share=0.25, eps=3, attack_steps=7)
    monkeypatch.setattr(sys.modules["paper_experiments"].Loss, "of", lambda name: other)
    assert "default share 0.25" in ratio.measured()
    assert "ε = 3, m = 7" in steps.measured()


def test_the_supplement_is_said_to_be_in_notebook_08():
    items = [item for item in page.ITEMS if item.where.startswith(("Supplement (", "Proofs"))]
    assert len(items) == 4
    assert all("08_what_a_mean_hides" in item.ours for item in items)


def test_a_changed_record_changes_the_page(tmp_path, monkeypatch):
    run = json.loads((ROOT / "results/table-1-laptop.json").read_text(encoding="utf-8"))
    for row in run["rows"]:
        if (row["model"], row["eps"], row["row"]) == ("hybrid", 4, "strongest"):
            row["mean"] = 123.456
    measures, original = sys.modules["paper_measures"], sys.modules["paper_measures"].record
    changed = {"table-1-laptop": run}
    monkeypatch.setattr(measures, "record", lambda name: changed.get(name) or original(name))
    assert "123.46" in page.render()


def test_rounding_is_printed_by_its_order_and_must_hold():
    assert page.below(1e-12, 1e-9) == "less than 1e-09 apart"
    with pytest.raises(ArithmeticError):
        page.below(1e-3, 1e-9)


def test_the_tables_are_whole():
    assert [row.training for row in paper.TABLE_2] == ["clean", "adversarial", "hybrid"]
    assert paper.table_2("clean").eps[-2:] == (16, 32)
    for row in (*paper.TABLE_1, *paper.TABLE_2):
        assert len(row.eps) == len(row.nll) and row.source in ("Table 1", "Table 2")
    for column in paper.TABLE_3:
        assert len(column.iterations) == len(column.nll) and column.noise > column.nll[0]
    for figure in (paper.FIGURE_4, paper.FIGURE_5):
        assert len(figure.eps) == len(figure.attacked) == len(figure.noise) == len(figure.raised)
    with pytest.raises(ValueError, match="training must be one of"):
        paper.table_2("robust")
