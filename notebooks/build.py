"""Build the notebooks: run every NN_name.py twin in a fresh kernel and write NN_name.ipynb.

    make notebooks            all of them
    make notebooks NB=01      one (or several: NB="01 05")
    make student              student/NN_name.ipynb: no outputs, no solutions, nothing is run

The twin is the source, the .ipynb is what the reader opens: same cells, plus outputs. A cell that
fails, or writes to stderr anything but a progress bar, stops the build and leaves the old .ipynb
as it was. A second build without a change writes the same bytes: cell ids come from the source,
and nothing that differs from run to run (times, widget state, progress bars) is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from flowrob.records import write_whole

HERE = Path(__file__).parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


class BuildError(Exception):
    """A notebook that must not be written, with the cell and the reason."""


def read_twin(path: Path) -> NotebookNode:
    """The notebook that a .py twin describes: fixed metadata and ids, solutions collapsed."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "solution" in tags:
            cell.metadata["jupyter"] = {"source_hidden": True}
        cell.id = _unused_id(cell.cell_type + cell.source, seen)
    return notebook


def _unused_id(text: str, seen: set[str]) -> str:
    """A short id made from the cell's text; equal cells are told apart by a counter."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    cell_id = next(i for n in range(len(seen) + 1) if (i := f"{digest}-{n}") not in seen)
    seen.add(cell_id)
    return cell_id


def execute(notebook: NotebookNode, folder: Path, timeout: int = 600) -> None:
    """Run all cells in a fresh kernel whose working directory is `folder`; outputs go in place."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise BuildError(str(error)) from error
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel wrote its own version there


def clean(notebook: NotebookNode) -> None:
    """Drop what differs from run to run; refuse warnings, memory addresses, untagged widgets."""
    for number, cell in enumerate(notebook.cells, start=1):
        kept = []
        for output in cell.get("outputs", []):
            where = f"in cell {number}:\n\n{cell.source}\n\n"
            if output.get("name") == "stderr":
                if rest := without_progress_bars(output.text):
                    raise BuildError(f"a warning, to be cured and not kept, {where}{rest}")
                continue
            data = output.get("data", {})
            tags = cell.metadata.get("tags", [])
            if data.pop(WIDGET_VIEW, None) and not {"widget", "predict"} & {*tags}:
                raise BuildError(f'a widget without the tag "widget" or "predict" {where}')
            if output.get("metadata", {}).get("image/png", {}).get("alt"):
                data.pop("text/html", None)  # the same picture once more, for a live notebook
            if address := re.search(
                r"\bat 0x[0-9a-f]+", data.get("text/plain", output.get("text", ""))
            ):
                raise BuildError(f"a memory address, new in every run, {where}{address.string}")
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept


def without_progress_bars(text: str) -> str:
    """What is left of a stderr text when tqdm's lines are taken out."""
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))
    bar = re.compile(r"\d+%\||\d+\s?\w*\s?\[\d\d:\d\d")
    return "\n".join(line for line in lines if line.strip() and not bar.search(line))


def student(twin: Path, folder: Path) -> Path:
    """Write one notebook without outputs and without solutions, to be filled in."""
    notebook = read_twin(twin)
    kept = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    notebook.cells = kept
    nbformat.validate(notebook)
    target = folder / f"{twin.stem}.ipynb"
    folder.mkdir(exist_ok=True)
    text = nbformat.writes(notebook) + "\n"
    write_whole(target, lambda partial: partial.write_text(text, encoding="utf-8"))
    return target


def build(twin: Path) -> Path:
    """Run one twin and write its notebook, all or nothing."""
    started = time.perf_counter()
    notebook = read_twin(twin)
    execute(notebook, twin.parent)
    clean(notebook)
    nbformat.validate(notebook)
    target = twin.with_suffix(".ipynb")
    text = nbformat.writes(notebook) + "\n"
    write_whole(target, lambda partial: partial.write_text(text, encoding="utf-8"))
    figures = sum(
        "image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", [])
    )
    seconds, size = time.perf_counter() - started, target.stat().st_size / 1e6
    print(f"    {len(notebook.cells)} cells, {figures} figures, {size:.1f} MB, {seconds:.0f} s")
    return target


def main() -> int:
    """Build the notebooks whose names start with the given prefixes (all, if none is given)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prefix", nargs="*", help="start of a notebook's name, for example 01")
    parser.add_argument(
        "--student",
        action="store_true",
        help="write student/*.ipynb instead: no outputs",
    )
    options = parser.parse_args()
    prefixes = options.prefix or [""]
    twins = sorted(HERE.glob("[0-9][0-9]_*.py"))
    for prefix in prefixes:
        if not any(twin.name.startswith(prefix) for twin in twins):
            parser.error(
                f"no notebook starts with {prefix!r}; there are: {[t.stem for t in twins]}"
            )
    for twin in twins:
        if twin.name.startswith(tuple(prefixes)) and options.student:
            print(student(twin, HERE.parent / "student").name)
        elif twin.name.startswith(tuple(prefixes)):
            print(f"{twin.stem} ...", flush=True)
            try:
                build(twin)
            except BuildError as error:
                print(f"    FAILED, {twin.with_suffix('.ipynb').name} left as it was\n\n{error}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
