"""Tables of results: rows of numbers that a notebook draws and a report or a program reads."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowrob._checks import checked
from flowrob.records import as_json


@checked
def pipe_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A GitHub-flavoured Markdown table.

    >>> print(pipe_table(["eps", "mean"], [["8", "5.84"]]))
    | eps | mean |
    | --- | --- |
    | 8 | 5.84 |
    """
    lines = list(lines)
    for line in (head, *lines):
        if not isinstance(line, Sequence) or not all(isinstance(cell, str) for cell in line):
            raise TypeError(f"head and lines must hold texts alone, got {line!r}")
    whole = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in whole)


def number(value: object) -> str:
    """The text of a cell: two decimals while they matter, nothing for None.

    >>> [number(v) for v in (5.837, 2e6, float("inf"), "inf", None, 8)]
    ['5.84', '2,000,000', 'inf', 'inf', '', '8']
    """
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:,.0f}"


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of numbers, shown as a table in a notebook, as Markdown and as JSON.

    Attributes:
        rows: one mapping from column to number or text per row.
        caption: what the numbers are.
        values: the numbers per image behind the rows, for plots; the docstring of the function
            that made the table says under which keys.
        images: the images behind the rows, as grey levels, under the same keys.
        settings: plain data: how the numbers were made.
        warnings: sentences about what looks wrong.
    """

    rows: list[dict]
    caption: str
    values: dict[tuple, Tensor] = field(default_factory=dict)
    images: dict[tuple, Tensor] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in the order in which rows name them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def by_eps(self, model: str = "model", row: str = "attacked") -> Tensor:
        """Values per image, one line per eps of the settings: shape (eps, N).

        At eps 0, where no row but the clean one is, the line is that of the clean images: for a
        model called "glow", ``table.by_eps("glow").mean(1)`` is a curve that begins without attack.

        Raises:
            ValueError: the table has no such model or row, or no eps.
        """
        keys = [(model, e, row if e else "clean") for e in self.settings.get("eps", ())]
        missing = [key for key in keys if key not in self.values]
        if missing or not keys:
            known = [key for key in self.values if len(key) == 3]
            models, rows = (sorted({key[i] for key in known}) for i in (0, 2))
            raise ValueError(f"no values for {(model, row)}: models {models}, rows {rows}")
        return torch.stack([self.values[key] for key in keys])

    def _cells(self) -> list[list[str]]:
        return [[number(row.get(name)) for name in self.columns] for row in self.rows]

    def to_markdown(self) -> str:
        """A GitHub-flavoured Markdown table, caption first, warnings last."""
        table = pipe_table(self.columns, self._cells())
        return "\n\n".join([self.caption, table, *(f"Warning: {w}" for w in self.warnings)])

    def content(self) -> dict:
        """Caption, settings, rows and warnings, as a record holds them."""
        head: Mapping = {"caption": self.caption, "settings": self.settings}
        return {**head, "rows": self.rows, "warnings": self.warnings}

    def to_json(self) -> str:
        """Rows, settings and warnings; infinite values and NaN as the strings "inf", "nan"."""
        return as_json(self.content())

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Iterable[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line("td", cells) for cells in self._cells())
        notes = "".join(f"<p>Warning: {html.escape(w)}</p>" for w in self.warnings)
        return (
            f"<table><caption>{html.escape(self.caption)}</caption>"
            f"<thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>{notes}"
        )

    def __repr__(self) -> str:
        return self.to_markdown()
