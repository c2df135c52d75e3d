"""Every notebook keeps the rules of the walkthrough, and every rule is seen to fail once.

nbval, in the same pytest run, executes the cells and compares their outputs; here is what it does
not see: twins that drifted apart, cells that never ran, pictures that are blank, notebooks that
grew too long. A rule is a function from a notebook to the list of its violations.
"""

from __future__ import annotations

import ast
import base64
import copy
import importlib.util
import io
import re
import statistics
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import jupytext
import matplotlib.image
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TWINS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
FEWEST_CELLS = {
    "00_start_here": 10
}  # the two-minute opening: short, no exercises, no closing table
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

FORBIDDEN = {
    r"\binteract(ive)?\(": "interact redraws by re-running: use observe",
    r"clear_output": "clear_output leaves nothing for nbval to compare",
    r"display_id|update_display": "display_id outputs are not compared",
    r"%matplotlib|ipympl": "needs a front end that the reader may not have",
    r"warnings\.(filterwarnings|simplefilter|catch_warnings)": "a warning is cured, not silenced",
    r"\bOutput\(": "Output widgets swallow errors",
    r";[ \t]*$": "a trailing semicolon hides an output",
}
ABSOLUTE_PATH = r"(?<![\w./:-])/(home|root|tmp|work|Users|usr|opt|mnt|var|srv|content)/|\b[A-Z]:\\"


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def label(nb: NotebookNode, cell: NotebookNode) -> str:
    """How a message names a cell: its number and the start of its source."""
    number = next(n for n, other in enumerate(nb.cells, start=1) if other is cell)
    return f"cell {number} ({cell.source[:50]!r})"


def code(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def code_lines(cell: NotebookNode) -> int:
    """Lines of code: not blank, no comment, no question to the reader, alt text or verdict."""
    tree = ast.parse(TransformerManager().transform_cell(cell.source))
    words = set()
    for node in tree.body:
        source = ast.unparse(node)
        if re.match(r"(lessons\.)?(predict|verdicts)\(|alt = |plots\.show\(", source):
            words |= {*range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(cell.source.splitlines(), start=1)
    return sum(bool(re.match(r"\s*[^\s#]", line)) and k not in words for k, line in lines)


def prose(nb: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def pictures(cell: NotebookNode) -> list[str]:
    """The base64 PNGs that a cell has stored."""
    outputs = cell.get("outputs", [])
    return [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def printed(cell: NotebookNode) -> str:
    """All text that a cell has stored, HTML and markdown included."""
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        parts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


# Rules. Each takes a notebook and its name, and yields one sentence per violation.


def was_run_in_order(nb: NotebookNode, name: str) -> Iterator[str]:
    for expected, cell in enumerate(code(nb), start=1):
        if not cell.source.strip():
            yield f"{label(nb, cell)} is empty"
        if cell.execution_count != expected:
            yield f"{label(nb, cell)} has execution count {cell.execution_count}, not {expected}"


def has_no_errors(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell in code(nb):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"{label(nb, cell)} stores an error, a warning or a progress bar"


def keeps_nothing_volatile(nb: NotebookNode, name: str) -> Iterator[str]:
    if "widgets" in nb.metadata:
        yield "the notebook's metadata hold widget state"
    for cell in nb.cells:
        if "execution" in cell.metadata:
            yield f"{label(nb, cell)} stores execution times"
        if any(WIDGET_VIEW in output.get("data", {}) for output in cell.get("outputs", [])):
            yield f"{label(nb, cell)} stores a widget view"
        if re.search(r"\bat 0x[0-9a-f]+", printed(cell)):
            yield f"{label(nb, cell)} shows a memory address"


def avoids_forbidden_calls(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell in code(nb):
        for pattern, reason in FORBIDDEN.items():
            if found := re.search(pattern, cell.source, flags=re.MULTILINE):
                yield f"{label(nb, cell)} has {found[0]!r}: {reason}"


def has_no_absolute_paths(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell in nb.cells:
        if found := re.search(ABSOLUTE_PATH, f"{cell.source}\n{printed(cell)}"):
            yield f"{label(nb, cell)} names a folder of one machine: {found[0]!r}"


def is_short(nb: NotebookNode, name: str) -> Iterator[str]:
    fewest = FEWEST_CELLS.get(name, 25)
    if not fewest <= len(nb.cells) <= 45:
        yield f"{len(nb.cells)} cells, not {fewest} to 45"
    if (words := len(prose(nb).split())) > 2500:
        yield f"{words} words of prose, more than 2,500"
    lines = {label(nb, cell): code_lines(cell) for cell in code(nb)}
    if statistics.median(lines.values()) > 8:
        yield f"the median code cell has {statistics.median(lines.values())} lines, more than 8"
    for where, count in lines.items():
        if count > 25:
            yield f"{where} has {count} lines, more than 25"
    for cell in code(nb):
        if (width := max(map(len, cell.source.splitlines()), default=0)) > 120:
            yield f"{label(nb, cell)} has a line of {width} letters: a screen cuts off after 120"


def imports_in_first_cell(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell in code(nb)[1:]:
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)):
            yield f"{label(nb, cell)} imports: that belongs in the first code cell"


def shows_figures_often(nb: NotebookNode, name: str) -> Iterator[str]:
    """At most four code cells in a row without one, up to the exercises."""
    without = 0
    for cell in nb.cells:
        if re.match(r"#+ .*exercise", cell.source, flags=re.IGNORECASE):
            return
        if cell.cell_type == "code":
            without = 0 if pictures(cell) else without + 1
            if without == 5:
                yield f"{label(nb, cell)} is the fifth code cell in a row without a figure"


def explains_each_figure(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell, following in zip(nb.cells, [*nb.cells[1:], None], strict=True):
        if pictures(cell) and (following is None or following.cell_type != "markdown"):
            yield f"{label(nb, cell)} shows a figure, and no sentence follows"


def figures_are_not_blank(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell in nb.cells:
        for png in pictures(cell):
            image = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)), format="png")
            if np.ptp(image[..., :3], axis=(0, 1)).max() < 0.05:
                yield f"{label(nb, cell)} stores a blank picture"


def draws_before_each_widget(nb: NotebookNode, name: str) -> Iterator[str]:
    """Between one widget and the next stands a figure that needs no kernel."""
    drawn = False
    for cell in nb.cells:
        if "widget" in tags(cell) and not drawn:
            yield f"{label(nb, cell)} is a widget without a static figure before it"
        drawn = bool(pictures(cell)) or (drawn and "widget" not in tags(cell))


def opens_with_its_plan(nb: NotebookNode, name: str) -> Iterator[str]:
    if not re.match(r"# \S", nb.cells[0].source) or nb.cells[0].cell_type != "markdown":
        yield "the first cell is not a title"
    opening = "\n".join(cell.source for cell in nb.cells[:6] if cell.cell_type == "markdown")
    for word in ("do", "learn", "need"):
        if not re.search(rf"(\*\*|\|)[^*|\n]*\b{word}\b", opening, flags=re.IGNORECASE):
            yield f'the first six cells have no bold "{word}"'
    for word in ("minutes", "section|sections|paper|figure"):
        if not re.search(rf"\b({word})\b", opening, flags=re.IGNORECASE):
            yield f'the first six cells do not say "{word}"'


def closes_with_table_and_exercises(nb: NotebookNode, name: str) -> Iterator[str]:
    if name in FEWEST_CELLS:
        return
    texts = [f"{cell.source}\n{printed(cell)}".lower() for cell in nb.cells]
    if not any(all(w in t for w in ("paper says", "we measured", "same?")) for t in texts):
        yield 'no table "paper says | we measured | same?"'
    headings = "\n".join(re.findall(r"^#+ .*$", prose(nb), flags=re.MULTILINE)).lower()
    for heading in ("learned", "exercise", "further reading"):
        if heading not in headings:
            yield f'no heading with "{heading}"'
    exercises = sum(
        is_solution for is_solution, _ in groupby("solution" in tags(c) for c in nb.cells)
    )
    if not 3 <= exercises <= 5:
        yield f"{exercises} exercises with a solution, not 3 to 5"


def writes_html_as_html(nb: NotebookNode, name: str) -> Iterator[str]:
    """Up to the next empty line, what follows a <summary> is HTML: a backtick stays a backtick."""
    for cell in nb.cells:
        blocks = re.findall(r"</summary>(.*?)(?:\n\s*\n|</details>|\Z)", cell.source, re.DOTALL)
        if any("`" in block for block in blocks):
            yield f"{label(nb, cell)} has a backtick in HTML: use <code>, or leave a line empty"


def keeps_formulas_whole(nb: NotebookNode, name: str) -> Iterator[str]:
    """A line that begins like a quotation or a list is one, also inside of a formula."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for formula in re.findall(r"(?<![\\$])\$([^$]+)\$(?!\$)", cell.source):
                if re.search(r"\n\s*([->+*#]|\d+[.)])\s", formula):
                    yield f"{label(nb, cell)} breaks {formula!r} where markdown begins anew"


def hides_solutions(nb: NotebookNode, name: str) -> Iterator[str]:
    for cell in nb.cells:
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if hidden != ("solution" in tags(cell)):
            yield f"{label(nb, cell)}: solutions are collapsed, and nothing else is"


def pictures_have_alt_text(nb: NotebookNode, name: str) -> Iterator[str]:
    """What :func:`flowrob.plots.show` stores: the same sentence as metadata and as plain text."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                if len(alt.split()) < 5 or output.data.get("text/plain") != alt:
                    yield f"{label(nb, cell)} stores a picture without alt text: use plots.show"


def says_more_than_true(nb: NotebookNode, name: str) -> Iterator[str]:
    """A bare True or False tells a reader nothing: a sentence with its number does."""
    bare = [cell for cell in code(nb) for _ in re.findall(r"\b(True|False)\b", printed(cell))]
    if len(bare) > 1:
        yield f"{len(bare)} times True or False, first in {label(nb, bare[0])}: use lessons.check"
    for cell in code(nb):
        if (lines := code_lines(cell)) > 20:
            yield f"{label(nb, cell)} has {lines} lines, more than 20"


def tells_how_it_was(nb: NotebookNode, name: str) -> Iterator[str]:
    """Each prediction has its outcome further down, and is asked at the end of a cell."""
    source = "\n".join(cell.source for cell in code(nb))
    asked, told = (re.findall(rf"\b{f}\(\s*\"([^\"]+)\"", source) for f in ("predict", "outcome"))
    if sorted(asked) != sorted(told):
        yield f"predictions {sorted(asked)}, outcomes {sorted(told)}"
    if asked and "calibration()" not in source:
        yield "predictions, and no calibration() at the end"
    for cell in code(nb):
        last = ast.parse(TransformerManager().transform_cell(cell.source)).body[-1:]
        asks = bool(last) and bool(re.match(r"(lessons\.)?predict\(", ast.unparse(last[0])))
        if ("predict" in tags(cell)) != asks:
            yield f"{label(nb, cell)}: the tag predict belongs to a cell that ends in predict(...)"


RULES: list[Callable[[NotebookNode, str], Iterator[str]]] = [
    was_run_in_order,
    has_no_errors,
    keeps_nothing_volatile,
    avoids_forbidden_calls,
    has_no_absolute_paths,
    is_short,
    imports_in_first_cell,
    shows_figures_often,
    explains_each_figure,
    figures_are_not_blank,
    draws_before_each_widget,
    opens_with_its_plan,
    closes_with_table_and_exercises,
    hides_solutions,
    writes_html_as_html,
    keeps_formulas_whole,
    pictures_have_alt_text,
    says_more_than_true,
    tells_how_it_was,
]


def cells_of(nb: NotebookNode) -> list[tuple[str, str, list[str]]]:
    """What a notebook and its twin must agree on."""
    return [(cell.cell_type, cell.source.strip(), tags(cell)) for cell in nb.cells]


def test_every_notebook_has_its_twin():
    assert "00_start_here" in {path.stem for path in NOTEBOOKS}, "make lab opens it"
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in TWINS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_equals_its_twin(path: Path):
    twin = jupytext.reads(path.with_suffix(".py").read_text(encoding="utf-8"), fmt="py:percent")
    assert cells_of(nbformat.read(path, as_version=4)) == cells_of(twin), "run make notebooks"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rule(path: Path, rule: Callable):
    violations = list(rule(nbformat.read(path, as_version=4), path.stem))
    assert not violations, "\n".join(violations)


# The rules themselves: a small notebook keeps all of them, and one change breaks one.


def png(blank: bool = False) -> str:
    buffer = io.BytesIO()
    plt.imsave(buffer, np.full((8, 8), 0.5) if blank else np.eye(8), vmin=0, vmax=1, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def figure(picture: str | None = None) -> NotebookNode:
    alt = "A line that rises from left to right."
    data = {"image/png": picture or png(), "text/plain": alt}
    shown = new_output("display_data", data, metadata={"image/png": {"alt": alt}})
    return new_code_cell("_ = ax.plot(x)", outputs=[shown])


def sound_notebook() -> NotebookNode:
    """25 cells: title, imports, six figures with a sentence each, a widget, a close, exercises."""
    opening = (
        "# Attack it\n**Do** a. **Learn** b. **Need** c. **Minutes**: 3. **Paper sections**: 3.1"
    )
    cells = [new_markdown_cell(opening), new_code_cell("import torch\nx = torch.ones(1)")]
    cells += [cell for _ in range(6) for cell in (figure(), new_markdown_cell("It grows."))]
    cells.append(new_code_cell("display(slider)", metadata={"tags": ["widget"]}))
    table = "## What you have learned\n| paper says | we measured | same? |\n"
    cells += [new_markdown_cell(table), new_markdown_cell("## Exercises\n### Why does it grow?")]
    for _ in range(3):
        hidden = {"tags": ["solution"], "jupyter": {"source_hidden": True}}
        cells += [new_code_cell("answer = None"), new_code_cell("answer = 1", metadata=hidden)]
    cells += [new_code_cell("x.sum()"), new_markdown_cell("## Further reading")]
    nb = new_notebook(cells=cells)
    for count, cell in enumerate(code(nb), start=1):
        cell.execution_count = count
    return nb


def doctored(change: Callable[[NotebookNode], object]) -> NotebookNode:
    nb = copy.deepcopy(sound_notebook())
    change(nb)
    return nb


def set_source(index: int, source: str) -> Callable[[NotebookNode], object]:
    return lambda nb: nb.cells[index].update(source=source)


def set_outputs(index: int, *outputs: NotebookNode) -> Callable[[NotebookNode], object]:
    return lambda nb: nb.cells[index].update(outputs=list(outputs))


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", text=text, name=name)


DAMAGE = [  # (rule, what is done to the sound notebook); cell 1 imports, cell 2 is a figure
    (was_run_in_order, lambda nb: nb.cells[2].update(execution_count=None)),
    (was_run_in_order, lambda nb: nb.cells[2].update(execution_count=7)),
    (was_run_in_order, set_source(1, " ")),
    (has_no_errors, set_outputs(1, new_output("error", ename="E", evalue="e", traceback=[]))),
    (has_no_errors, set_outputs(1, stream("UserWarning", "stderr"))),
    (keeps_nothing_volatile, lambda nb: nb.metadata.update(widgets={})),
    (keeps_nothing_volatile, lambda nb: nb.cells[1].metadata.update(execution={})),
    (keeps_nothing_volatile, set_outputs(14, new_output("display_data", {WIDGET_VIEW: {}}))),
    (keeps_nothing_volatile, set_outputs(1, stream("[<Line2D at 0x7fda294a6ad0>]"))),
    (avoids_forbidden_calls, set_source(2, "ax.plot(x);")),
    (avoids_forbidden_calls, set_source(2, "a = 1; \nb = 2")),
    (avoids_forbidden_calls, set_source(2, "widgets.interact(f, x=1)")),
    (avoids_forbidden_calls, set_source(2, "clear_output()")),
    (avoids_forbidden_calls, set_source(2, "display(fig, display_id=True)")),
    (avoids_forbidden_calls, set_source(2, "%matplotlib widget")),
    (avoids_forbidden_calls, set_source(2, "warnings.filterwarnings('ignore')")),
    (avoids_forbidden_calls, set_source(2, "out = widgets.Output()")),
    (has_no_absolute_paths, set_source(2, "open('/home/me/x.png')")),
    (has_no_absolute_paths, set_outputs(1, stream("saved to /tmp/x.png"))),
    (is_short, lambda nb: nb.cells.pop()),
    (is_short, lambda nb: nb.cells.extend([new_markdown_cell("more")] * 21)),
    (is_short, set_source(0, "word " * 2500)),
    (is_short, set_source(2, "x = 1\n" * 26)),
    (is_short, set_source(2, "x = 1  # " + "one " * 30)),
    (is_short, lambda nb: [cell.update(source="x = 1\n" * 9) for cell in code(nb)]),
    (imports_in_first_cell, set_source(2, "import os")),
    (imports_in_first_cell, set_source(2, "def f():\n    from math import pi\n    return pi")),
    (shows_figures_often, lambda nb: [cell.update(outputs=[]) for cell in nb.cells[:12]]),
    (explains_each_figure, lambda nb: nb.cells.pop(3)),
    (explains_each_figure, lambda nb: nb.cells.append(figure())),
    (figures_are_not_blank, lambda nb: nb.cells.append(figure(png(blank=True)))),
    (draws_before_each_widget, lambda nb: [cell.update(outputs=[]) for cell in nb.cells[:14]]),
    (draws_before_each_widget, lambda nb: nb.cells.append(copy.deepcopy(nb.cells[14]))),
    (
        opens_with_its_plan,
        set_source(0, "# Attack it\nWe do, learn and need it, in minutes (paper)."),
    ),
    (
        opens_with_its_plan,
        set_source(0, "**Do** a. **Learn** b. **Need** c. Minutes: 3. Section 3"),
    ),
    (opens_with_its_plan, set_source(0, "# A\n**Do** a. **Learn** b. **Need** c. Section 3.1")),
    (opens_with_its_plan, set_source(0, "# A\n**Do** a. **Learn** b. **Need** c. Minutes: 3")),
    (closes_with_table_and_exercises, set_source(15, "## What you have learned")),
    (closes_with_table_and_exercises, set_source(15, "paper says, we measured, same?")),
    (closes_with_table_and_exercises, set_source(16, "no such heading")),
    (closes_with_table_and_exercises, set_source(-1, "no such heading")),
    (closes_with_table_and_exercises, lambda nb: nb.cells[18].metadata.update(tags=[])),
    (pictures_have_alt_text, lambda nb: nb.cells[2].outputs[0].update(metadata={})),
    (pictures_have_alt_text, lambda nb: nb.cells[2].outputs[0].data.update({"text/plain": "A"})),
    (says_more_than_true, set_outputs(1, stream("it grows: True, it falls: False"))),
    (says_more_than_true, set_source(2, "x = 1\n" * 21)),
    (tells_how_it_was, set_source(2, 'predict("a", "How many?", options=[1, 2])')),
    (tells_how_it_was, set_source(2, 'outcome("a", 1)\ncalibration()')),
    (tells_how_it_was, lambda nb: nb.cells[2].metadata.update(tags=["predict"])),
    (
        writes_html_as_html,
        set_source(3, "<details><summary>Hint</summary>Try `x`.</details>"),
    ),
    (keeps_formulas_whole, set_source(3, '> "a bound of $(1 +\n> \\alpha)^m$" (3.2)')),
    (keeps_formulas_whole, set_source(3, "1. The minimum is at $K' = K\n   + M$.")),
    (hides_solutions, lambda nb: nb.cells[18].metadata.pop("jupyter")),
    (hides_solutions, lambda nb: nb.cells[2].metadata.update(jupyter={"source_hidden": True})),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_notebook_keeps_the_rule(rule: Callable):
    assert not list(rule(sound_notebook(), "01_sound"))


@pytest.mark.parametrize(
    ("rule", "change"), DAMAGE, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_damaged_notebook_breaks_the_rule(rule: Callable, change: Callable):
    assert list(rule(doctored(change), "01_damaged"))


def test_every_rule_was_damaged():
    assert {rule for rule, _ in DAMAGE} == set(RULES)


@pytest.mark.parametrize(
    "change",
    [
        set_source(2, "y = 1"),
        lambda nb: nb.cells.pop(),
        lambda nb: nb.cells[2].metadata.update(tags=["solution"]),
    ],
)
def test_a_twin_that_drifted_apart_is_seen(change: Callable):
    assert cells_of(doctored(change)) != cells_of(sound_notebook())


def test_the_student_edition_has_neither_outputs_nor_solutions(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    twin = next(twin for twin in TWINS if twin.stem.startswith("01_"))
    nb = nbformat.read(build.student(twin, tmp_path / "student"), as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(nb))
    assert not any("solution" in tags(cell) for cell in nb.cells)
    whole = nbformat.read(twin.with_suffix(".ipynb"), as_version=4)
    left = [cell.source for cell in whole.cells if "solution" not in tags(cell)]
    assert [cell.source for cell in nb.cells] == left
