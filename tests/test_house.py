"""Rules of the house: chapters and their faces, who imports whom, what is documented, how long.

Everything is read from the source, but for what an import loads: that needs a fresh interpreter.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import flowrob

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowrob"
CHAPTERS = ["linear", "flows", "attacks", "training", "evaluation", "cli"]

# Arrows run down: a file may import what stands above its own line, and its own chapter.
LINES = [
    {"_checks"},
    {"units", "records", "paper"},
    {"linear", "flows", "data"},
    {"attacks", "zoo"},
    {"distributed", "plots"},
    {"training", "evaluation"},
    {"lessons"},
    {"widgets", "cli"},
]
LEVEL = {name: level for level, names in enumerate(LINES) for name in names}

LONGEST_FILE, LONGEST_BODY, MOST_PARAMETERS, MOST_NAMES = 450, 60, 12, 17


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def shelf(module: str) -> str:
    """The chapter or single file that a module belongs to; "" for the package itself."""
    return [*module.split("."), ""][1]


def imported(module: str) -> set[str]:
    """The package's modules that it names in an import, at any depth of its code."""
    names = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                names.add(inside if inside in FILES else node.module)
    assert {name for name in names if name.split(".")[0] == "flowrob"} <= {*FILES}
    return names & {*FILES}


def loaded(module: str) -> set[str]:
    """The same, and the faces that are loaded on the way: python runs a package's face first."""
    found = set()
    for name in imported(module):
        parts = name.split(".")
        ways = {".".join(parts[: i + 1]) for i in range(len(parts))}
        found |= {way for way in ways if not f"{module}.".startswith(f"{way}.")} | {name}
    return found


def test_modules_of_the_package_are_its_chapters_and_shelves():
    chapters = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    shelves = {path.stem for path in PACKAGE.glob("[!_]*.py")}
    assert chapters == {*CHAPTERS}
    modules = [name for name in flowrob.__all__ if name not in ("device", "scale")]
    assert sorted(modules) == modules == sorted(chapters | shelves)
    assert len(flowrob.__all__) <= MOST_NAMES
    assert {*LEVEL} == chapters | shelves | {"_checks"}  # private: no name of the package
    assert all(isinstance(getattr(flowrob, name), ModuleType) for name in modules)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_face_hands_on_its_public_names_and_nothing_else(chapter):
    face = importlib.import_module(f"flowrob.{chapter}")
    files = {path.stem for path in (PACKAGE / chapter).glob("[!_]*.py")}
    public = {
        name
        for name, value in vars(face).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == {*face.__all__}
    assert len({*face.__all__}) == len(face.__all__)
    for file in files:
        assert f"``{file}``" in face.__doc__, "the face says what each file holds"
    assert {node.name for node in tree_of(f"flowrob.{chapter}").body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)} == set(), "no code"  # fmt: skip
    assert not files & public, "a name for two things: the later import wins"


def test_files_import_each_other_in_no_circle():
    try:
        order = [*TopologicalSorter({module: loaded(module) for module in FILES}).static_order()]
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")
    assert {*order} == {*FILES}


@pytest.mark.parametrize("module", FILES)
def test_arrows_run_down(module):
    own = shelf(module)
    others = {shelf(name) for name in loaded(module)} - {own, ""}
    if own == "__main__":
        assert others == {"cli"}
    elif not own:
        assert not others, "the package itself imports its modules on first use"
    else:
        upward = {name for name in others if LEVEL[name] >= LEVEL[own]}
        assert not upward, f"{module} imports {upward}"


def test_the_lines_say_who_may_not_import_whom():
    """What the order is for: training knows nothing of tables, nothing knows the command line."""
    assert LEVEL["training"] == LEVEL["evaluation"] < LEVEL["cli"]
    users = {module for module in FILES if "cli" in {shelf(name) for name in loaded(module)}}
    assert {module for module in users if shelf(module) != "cli"} == {"flowrob.__main__"}


@pytest.mark.parametrize(
    ("chapter", "heavy"),
    [
        ("linear", ["sklearn", "skimage", "scipy.stats", "matplotlib", "torchvision"]),
        ("flows", ["sklearn", "skimage", "scipy", "matplotlib", "torchvision"]),
        ("attacks", ["sklearn", "skimage", "scipy.stats", "matplotlib", "torchvision"]),
        ("training", ["sklearn", "skimage", "scipy.stats", "matplotlib", "torchvision"]),
    ],
)
def test_importing_a_chapter_loads_nothing_heavy_and_nothing_above_it(chapter, heavy):
    code = f"import sys, flowrob.{chapter}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    names = set(output.split())
    assert f"flowrob.{chapter}" in names
    assert not names & {*heavy}
    ours = {shelf(name) for name in names if name.startswith("flowrob.")} - {chapter}
    assert all(LEVEL[name] < LEVEL[chapter] for name in ours)
    if chapter in ("linear", "flows"):
        assert ours <= {"_checks", "units"}


def functions(module: str) -> Iterator[ast.FunctionDef]:
    return (n for n in ast.walk(tree_of(module)) if isinstance(n, ast.FunctionDef))


@pytest.mark.parametrize("module", FILES)
def test_files_bodies_and_signatures_are_short(module):
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for function in functions(module):
        body = function.body[ast.get_docstring(function) is not None :]
        length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert length <= LONGEST_BODY, f"{function.name}: {length} lines"
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
        names = [name for name in names if name not in ("self", "cls")]
        assert len(names) <= MOST_PARAMETERS, f"{function.name}: {len(names)} parameters"


@pytest.mark.parametrize("module", FILES)
def test_everything_public_is_documented(module):
    """Modules, functions, classes, their methods and properties."""
    tree = tree_of(module)
    assert ast.get_docstring(tree)
    owners = [("", tree)]
    owners += [(f"{n.name}.", n) for n in tree.body if isinstance(n, ast.ClassDef)]
    for prefix, owner in owners:
        if prefix.startswith("_"):
            continue
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{prefix}{node.name}"


def test_no_two_test_files_share_a_name():
    """Without packages among the tests a name is a module, and stands for one file."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} <= {"conftest.py"}


def test_the_readme_draws_the_map_that_the_package_has():
    import flowrob

    drawn = flowrob.__doc__.split("::\n\n", 1)[1].split("\n\nUnits", 1)[0]
    lines = [("  " + line[4:]).rstrip() for line in drawn.splitlines()]
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    assert "\n".join(lines) in readme
    for module in FILES:
        name = module.removeprefix("flowrob.").split(".")[-1]
        if module != "flowrob.__main__" and name not in CHAPTERS:
            assert name in drawn, f"{module} is not on the map"
