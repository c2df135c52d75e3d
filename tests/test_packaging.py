"""The files around the package agree: pyproject, environment.yml, Binder, Makefile, citation."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import flowrob

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
REQUIREMENTS = [Requirement(text) for text in PROJECT["dependencies"]]
DECLARED = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
EXTRAS = PROJECT["optional-dependencies"]
ENVIRONMENTS = [ROOT / "environment.yml", ROOT / ".binder" / "environment.yml"]


def conda_part(path: Path) -> dict[str, str]:
    """Conda's dependencies: name -> version text ("" if there is none)."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
    return dict(entry.partition("=")[::2] for entry in entries if isinstance(entry, str))


def pip_part(path: Path) -> list[str]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
    return [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]


def test_version_is_written_once_and_installed():
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "flowrob.__version__"
    assert metadata.version("flowrob") == flowrob.__version__


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_dependency_is_a_range_that_this_environment_satisfies(requirement: Requirement):
    assert sorted(part.operator for part in requirement.specifier) == ["<", ">="]
    assert metadata.version(requirement.name) in requirement.specifier


def test_dependencies_are_listed_once():
    assert len(DECLARED) == len(REQUIREMENTS)


def third_party_imports(tree: ast.AST) -> set[str]:
    """The distributions that the code imports, the standard library and flowrob left out."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    names -= {*sys.stdlib_module_names, "flowrob"}
    known = metadata.packages_distributions()
    names -= {"IPython"}  # part of JupyterLab
    return {canonicalize_name(known.get(name, [name])[0]) for name in names}


@pytest.mark.parametrize("folder", ["flowrob", "notebooks"])
def test_everything_imported_is_declared(folder: str):
    """A dependency, or, for an import inside a function, one of the extras."""
    extras = {canonicalize_name(Requirement(r).name) for group in EXTRAS.values() for r in group}
    undeclared = set()
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        undeclared |= {(path.name, name) for name in third_party_imports(tree) - DECLARED - extras}
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        undeclared |= {(path.name, name) for name in third_party_imports(tree) - DECLARED}
    assert not undeclared


def test_all_files_of_the_package_are_shipped():
    """Every folder with modules is a listed package, every other file matches package-data."""
    setuptools = PYPROJECT["tool"]["setuptools"]
    modules = {path.parent for path in (ROOT / "flowrob").rglob("*.py")}
    assert {str(folder.relative_to(ROOT)).replace(os.sep, ".") for folder in modules} == set(
        setuptools["packages"]
    )
    globs = setuptools["package-data"]["flowrob"]
    for path in (ROOT / "flowrob").rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            inside = path.relative_to(ROOT / "flowrob")
            assert any(inside.match(glob) for glob in globs), f"{inside} is not in package-data"


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_environment_agrees_with_pyproject(path: Path):
    conda = conda_part(path)
    major, minor = conda["python"].split(".")
    assert f"{major}.{minor}.0" in SpecifierSet(PROJECT["requires-python"])
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["channels"][0] == "conda-forge"
    assert set(conda) == {"python", "pip"}, "what else is needed is listed once, in pyproject.toml"


def test_environment_installs_the_package_and_repeats_nothing():
    assert pip_part(ENVIRONMENTS[0]) == ["-e ."]
    assert pip_part(ENVIRONMENTS[1]) == [], "-e . would mean the .binder folder: postBuild does it"
    assert conda_part(ENVIRONMENTS[0])["python"] == conda_part(ENVIRONMENTS[1])["python"]


@pytest.mark.parametrize("name", [".binder/postBuild", ".ci/run"])
def test_script_is_executable_and_parses(name: str):
    script = ROOT / name
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)


def test_scripts_do_their_work():
    assert "pip install --no-cache-dir -e .\n" in (ROOT / ".binder/postBuild").read_text()
    assert "\nmake test" in (ROOT / ".ci/run").read_text()


def test_pytest_runs_doctests_and_strict_nbval():
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    assert {"--doctest-modules", "--nbval", "--nbval-current-env"} <= set(options["addopts"])
    assert "--nbval-lax" not in options["addopts"]
    assert all((ROOT / path).is_dir() for path in options["testpaths"])


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == flowrob.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    (paper,) = citation["references"]
    assert paper["title"] == "Adversarial Robustness of Flow-Based Generative Models"
    assert [author["family-names"] for author in paper["authors"]] == ["Pope", "Balaji", "Feizi"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


# The Makefile, driven with a stand-in for Python that only notes what it is asked to do.

STAND_IN = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  -c*) exec {python} -c "import sys; sys.version_info = {version}; exec(sys.argv[1])" "$2" ;;
esac
echo "$*" >> {log}
"""


@pytest.fixture
def make(tmp_path: Path):
    """Runs make in a bare copy; returns (exit status, stderr, the calls of Python it made)."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    log = tmp_path / "calls"

    def run(*arguments: str, version: tuple[int, ...] = (3, 11, 4), **environment: str):
        python = tmp_path / "python"
        python.write_text(STAND_IN.format(python=sys.executable, version=version, log=log))
        python.chmod(0o755)
        log.write_text("")
        done = subprocess.run(
            ["make", *arguments, f"PYTHON={python}"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr, log.read_text()

    return run


def test_make_installs_once(make, tmp_path: Path):
    status, _, calls = make("test")
    assert status == 0
    assert calls.startswith("-m venv .venv\n")
    assert "-m pip install -e .[dev]\n" in calls
    assert calls.endswith("-m pytest\n")
    assert (tmp_path / ".venv").is_dir()
    assert make("test") == (0, "", "-m pytest\n")
    (tmp_path / "pyproject.toml").touch()
    assert "pip install" in make("test")[2]


def test_make_passes_options_on(make):
    _, _, calls = make("lab", "LAB_ARGS=--no-browser --port 1", "PIP_ARGS=--index-url U")
    assert "-m pip install --index-url U -e .[dev]\n" in calls
    assert "default_url=/lab/tree/notebooks/00_start_here.ipynb" in calls
    assert calls.endswith("--no-browser --port 1\n")
    assert make("notebooks", "NB=01 05")[2] == "notebooks/build.py 01 05\n"


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_make_uses_the_active_environment(make, tmp_path: Path, variable: str):
    make("install")  # leaves a stand-in at .venv
    active = tmp_path / "active"
    (tmp_path / ".venv").rename(active)
    status, _, calls = make("test", CONDA_DEFAULT_ENV="flows", **{variable: str(active)})
    assert status == 0
    assert "venv" not in calls
    assert not (tmp_path / ".venv").exists()


def test_make_leaves_conda_base_alone(make, tmp_path: Path):
    status, _, calls = make("test", CONDA_DEFAULT_ENV="base", CONDA_PREFIX="/nowhere")
    assert status == 0
    assert calls.startswith("-m venv .venv\n")


def test_make_refuses_an_old_python(make, tmp_path: Path):
    status, errors, calls = make("lab", version=(3, 9, 7))
    assert status != 0
    assert "needs Python 3.11 or newer, and this is 3.9" in errors
    assert "PYTHON=" in errors
    assert calls == ""
