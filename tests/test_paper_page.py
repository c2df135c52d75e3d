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
    assert not [place for place in wanted if place not in places]


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
