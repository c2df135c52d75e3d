"""Tables of results: rows of numbers that a notebook draws and a report or a program reads."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


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
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def _cells(self) -> list[list[str]]:
        return [[_text(row.get(name)) for name in self.columns] for row in self.rows]

    def to_markdown(self) -> str:
        """A GitHub-flavoured Markdown table, caption first, warnings last."""
        lines = [self.columns, ["---"] * len(self.columns), *self._cells()]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([self.caption, table, *(f"Warning: {w}" for w in self.warnings)])

    def to_json(self) -> str:
        """Rows, settings and warnings; infinite values and NaN as the strings "inf", "nan"."""
        content = {"caption": self.caption, "settings": self.settings}
        content |= {"rows": self.rows, "warnings": self.warnings}
        return json.dumps(_plain(content), indent=1, allow_nan=False)

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


def _text(value) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:,.0f}"


def _plain(value):
    """Data that strict JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
