"""Tables: one way to show rows, one way to write them, curves over eps out of their values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from small_tables import seeded, triangle

import flowrob
from flowrob.evaluation import (
    Table,
    detection_table,
    pipe_table,
    robustness_table,
    strongest_table,
)
from flowrob.evaluation.table import number


def test_table_formats():
    table = Table(
        [{"eps": 0, "mean": 3.14159}, {"eps": 8, "mean": math.inf, "note": "<b>"}],
        "A caption",
        warnings=["watch out"],
    )
    markdown = table.to_markdown()
    assert markdown == table._repr_markdown_()
    assert markdown.splitlines() == [
        "A caption",
        "",
        "| eps | mean | note |",
        "| --- | --- | --- |",
        "| 0 | 3.14 |  |",
        "| 8 | inf | <b> |",
        "",
        "Warning: watch out",
    ]
    text = table._repr_html_()
    assert "<td>3.14</td>" in text
    assert "&lt;b&gt;" in text
    assert "<caption>A caption</caption>" in text
    assert json.loads(table.to_json())["rows"] == [
        {"eps": 0, "mean": 3.14159},
        {"eps": 8, "mean": "inf", "note": "<b>"},
    ]


def test_one_printer_writes_every_cell():
    rows = [{"eps": 8, "mean": 5.837, "note": None}, {"eps": 0, "mean": -2e6, "note": "a | b"}]
    table = Table(rows, "Numbers")
    cells = [[number(row[name]) for name in table.columns] for row in rows]
    assert table.to_markdown() == "Numbers\n\n" + pipe_table(table.columns, cells)
    assert repr(table) == table.to_markdown()
    assert all(f"<td>{cell}</td>" in table._repr_html_() for line in cells for cell in line)
    assert pipe_table(["only", "head"], []) == "| only | head |\n| --- | --- |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (-0.004, "-0.00"), (999.994, "999.99"), (1000.0, "1,000"), (-1234.5, "-1,234"),
     (math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan"), (3, "3"), (1234567, "1234567"),
     (True, "True"), ("text", "text"), (None, "")],
)  # fmt: skip
def test_a_number_has_two_decimals_while_they_matter(value, text):
    assert number(value) == text


def test_nothing_else_in_the_package_draws_pipe_tables():
    package = Path(flowrob.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    drawn = [name for name, text in texts.items() if '"---' in text or "---|" in text]
    assert drawn == ["table.py"]


def test_curves_over_eps_begin_with_the_clean_images():
    grey = torch.full((3, 1, 1, 2), 100, dtype=torch.uint8)
    models = {"a": triangle, "b": lambda x: 0.5 * triangle(x)}
    one = robustness_table(models, grey, (4, 0, 2), generator=seeded())
    for model in models:
        for row in ("attacked", "attacked 8-bit", "noise"):
            lines = one.by_eps(model, row)
            assert lines.shape == (3, 3)  # eps in ascending order, images
            assert torch.equal(lines[0], one.values[model, 0, "clean"])
            assert torch.equal(lines[1], one.values[model, 2, row])
            assert torch.equal(lines[2], one.values[model, 4, row])
    assert torch.equal(one.by_eps("a"), one.by_eps(model="a", row="attacked"))
    assert bool((one.by_eps("a").mean(1).diff() > 0).all())
    alone = robustness_table(triangle, grey, (0, 2), generator=seeded())
    assert alone.by_eps().shape == (2, 3)  # "model", "attacked"
    many = strongest_table(models, grey, (0, 2), generator=seeded(), attacks={"x": {}})
    assert torch.equal(many.by_eps("b", "strongest")[1], many.values["b", 2, "strongest"])
    assert torch.equal(many.by_eps("b", "x")[0], many.values["b", 0, "clean"])
    without = robustness_table(triangle, grey, (2,), generator=seeded())
    assert without.by_eps().shape == (1, 3)


def test_a_curve_that_no_table_holds_is_refused():
    grey = torch.full((2, 1, 1, 2), 100, dtype=torch.uint8)
    table = robustness_table(triangle, grey, (0, 2), generator=seeded())
    with pytest.raises(
        ValueError, match=r"no values for .*'other', 'attacked'.*models \['model'\]"
    ):
        table.by_eps("other")
    with pytest.raises(ValueError, match=r"rows \['attacked', 'attacked 8-bit', 'cl"):
        table.by_eps("model", "strongest")
    detected = detection_table(triangle, grey, grey, (0,), generator=seeded())
    for empty in (Table([], "nothing"), detected):
        with pytest.raises(ValueError, match="no values for"):
            empty.by_eps()


def test_a_record_of_a_table_is_strict_json_in_one_order():
    table = Table([{"mean": math.nan}], "A", settings={"eps": (0, 8)}, warnings=["careful"])
    read = json.loads(table.to_json(), parse_constant=pytest.fail)
    assert list(read) == list(table.content()) == ["caption", "settings", "rows", "warnings"]
    assert read["rows"] == [{"mean": "nan"}]
    assert read["settings"] == {"eps": [0, 8]}
