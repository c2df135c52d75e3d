"""Writes docs/paper.md: the paper, item by item, with our number and a verdict for each.

    python docs/build_paper.py

Every equation, theorem, remark, figure, table, experimental statement and promise of a supplement
has a row. Numbers come from the package, from docs/build_errata.py and from results/*.json; none is
typed. tests/test_paper_page.py asserts that the file is up to date and that no cell is empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import paper_experiments
import paper_theory
from paper_measures import CANNOT, VERDICTS, Item, below  # noqa: F401  for the tests

from flowrob.evaluation import pipe_table

ITEMS = paper_theory.ITEMS + paper_experiments.ITEMS

HEAD = """# The paper, item by item

*"Adversarial Robustness of Flow-Based Generative Models", Pope, Balaji and Feizi, AISTATS 2020*,
from the abstract to its promises. What stands in “quotation marks” is printed so; *ours* says where
it is done again; *measured* is computed when this page is built, from the package, the
[errata](errata.md) and the records in `results/`. Unless said otherwise, numbers are mean bits/dim,
in the order of ε = 0 / 1 / 2 / 4 / 8.

Verdicts: **agrees**; **disagrees**; **slip** (in print, and not repaired there); **slip repaired
later in the text**; **cannot say**, with the reason. Our deep models are far smaller than the
paper's, trained on few images: verdicts on Tables and Figures are about shape, not level.

This file is written by `python docs/build_paper.py`.
"""


def line_of(item: Item) -> list[str]:
    measured = item.measured if isinstance(item.measured, str) else item.measured()
    cells = [item.where, item.quote, item.ours, measured, item.verdict, item.why]
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]


def render() -> str:
    """The whole of docs/paper.md."""
    head = ["Where", "The paper", "Ours", "Measured", "Verdict", "Why"]
    counts = {verdict: sum(item.verdict == verdict for item in ITEMS) for verdict in VERDICTS}
    tally = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    table = pipe_table(head, [line_of(item) for item in ITEMS])
    return f"{HEAD}\n{len(ITEMS)} items: {tally}.\n\n{table}\n"


if __name__ == "__main__":
    Path(__file__).with_name("paper.md").write_text(render(), encoding="utf-8")
