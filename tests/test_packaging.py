"""The files around the package agree: pyproject, environments, Makefile, links, sdist, citation."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
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
EXTRAS = PROJECT["optional-dependencies"]
HOME = PROJECT["urls"]["Homepage"]


def requirements(name: str) -> list[Requirement]:
    """What stands under ``name``, "core" or an extra, without what it refers to."""
    texts = PROJECT["dependencies"] if name == "core" else EXTRAS[name]
    return [r for r in map(Requirement, texts) if r.name != PROJECT["name"]]


def installs(*names: str) -> set[str]:
    """The distributions that the core and these extras install, and those they refer to."""
    found = {canonicalize_name(requirement.name) for requirement in requirements("core")}
    for name in names:
        found |= {canonicalize_name(requirement.name) for requirement in requirements(name)}
        for requirement in map(Requirement, EXTRAS[name]):
            if requirement.name == PROJECT["name"]:
                found |= installs(*requirement.extras)
    return found


EVERYTHING = [(name, r) for name in ("core", *EXTRAS) for r in requirements(name)]
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


@pytest.mark.parametrize(
    ("name", "requirement"), EVERYTHING, ids=[f"{name}-{r.name}" for name, r in EVERYTHING]
)
def test_dependency_is_a_range_that_this_environment_satisfies(name: str, requirement: Requirement):
    assert sorted(part.operator for part in requirement.specifier) == ["<", ">="]
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        assert canonicalize_name(requirement.name) not in installs("test"), "make test needs it"
    else:
        assert installed in requirement.specifier


def test_dependencies_are_listed_once():
    assert len({canonicalize_name(r.name) for _, r in EVERYTHING}) == len(EVERYTHING)
    for name in EXTRAS:
        assert installs(name)  # every extra that is referred to exists, none in a circle


def test_torchvision_is_the_one_made_for_torch():
    """torchvision 0.(n + 15) wants torch 2.n: the lower bounds are a pair."""
    lowest = dict(line.split("==") for line in lowest_versions())
    (_, torch_minor), (_, vision_minor) = (
        lowest[name].split(".")[:2] for name in ("torch", "torchvision")
    )
    assert int(vision_minor) == int(torch_minor) + 15


def lowest_versions() -> list[str]:
    script = [sys.executable, str(ROOT / ".ci" / "lowest.py")]
    return subprocess.run(script, check=True, capture_output=True, text=True).stdout.split()


def test_lowest_versions_are_those_declared():
    floors = {
        f"{r.name}=={part.version}"
        for _, r in EVERYTHING
        for part in r.specifier
        if part.operator == ">="
    }
    assert set(lowest_versions()) == floors
    assert len(lowest_versions()) == len(EVERYTHING)


OUR_FILES = {
    p.stem for name in ("tests", "docs", "benchmarks") for p in (ROOT / name).rglob("*.py")
}


@cache
def distributions() -> dict[str, list[str]]:
    """Import name -> the distributions that bring it: slow, so one look will do."""
    return dict(metadata.packages_distributions())


def third_party_imports(tree: ast.AST) -> set[str]:
    """The distributions that the code imports, the standard library and our own files left out."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    names -= {*sys.stdlib_module_names, "flowrob"}
    names -= OUR_FILES
    known = distributions()
    return {canonicalize_name(known.get(name, [name])[0]) for name in names}


WIDGETS = "flowrob/widgets.py"  # the one module of the package that needs an extra


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("flowrob", []), ("notebooks", ["test"]), ("tests", ["test"]), ("docs", []), (".ci", [])],
)
def test_everything_imported_is_declared(folder: str, extras: list[str]):
    """At module level by the core and ``extras``; inside a function by any extra.

    A notebook's readers need no test tools: only notebooks/conftest.py, pytest's, imports them.
    """
    undeclared = set()
    for path in (ROOT / folder).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        reader = folder == "notebooks" and path.name != "conftest.py"
        here = installs(*(["notebooks"] if reader or name == WIDGETS else extras))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        undeclared |= {(name, what) for what in third_party_imports(tree) - installs(*EXTRAS)}
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        undeclared |= {(name, what) for what in third_party_imports(tree) - here}
    assert not undeclared


HEAVY = ("IPython", "ipywidgets", "jupyter", "jupyterlab", "jupytext", "mpmath", "nbclient")
HEAVY += ("nbformat", "nbval", "pytest", "torchvision", "lmdb", "gdown")


def test_the_package_imports_without_its_extras():
    """Every chapter and shelf but widgets, with all that the extras bring made unimportable."""
    modules = [name for name in flowrob._MODULES if name != "widgets"]
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"
    code += "".join(f"import flowrob.{name}\n" for name in modules)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_all_files_of_the_package_are_shipped():
    """Every folder with modules is found as a package, every other file matches package-data."""
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert setuptools["packages"]["find"] == {"include": ["flowrob*"], "namespaces": False}
    for folder in {path.parent for path in (ROOT / "flowrob").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder} has modules and no __init__.py"
    globs = setuptools["package-data"]["flowrob"]
    for path in (ROOT / "flowrob").rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            inside = path.relative_to(ROOT / "flowrob")
            assert any(inside.match(glob) for glob in globs), f"{inside} is not in package-data"


def test_the_package_is_typed_and_its_faces_are_checked():
    assert (ROOT / "flowrob" / "py.typed").read_text() == ""
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["flowrob"]
    assert "Typing :: Typed" in PROJECT["classifiers"]
    checked = {path for path in PYPROJECT["tool"]["mypy"]["files"]}
    faces = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowrob").glob("*/__init__.py")}
    assert checked == faces - {"flowrob/cli/__init__.py"} | {"flowrob/units.py"}


def test_the_command_is_declared_and_knows_its_version():
    assert PROJECT["scripts"] == {"flowrob": "flowrob.cli:main"}
    entry = metadata.EntryPoint("flowrob", PROJECT["scripts"]["flowrob"], "console_scripts")
    assert callable(entry.load())


def sdist_rules() -> list[list[str]]:
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def in_sdist(path: str) -> bool:
    """Whether MANIFEST.in takes the file, or setuptools by itself: the last rule that speaks."""
    taken = path in {"pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"}
    taken |= path.startswith("flowrob/")  # all of it: test_all_files_of_the_package_are_shipped
    for command, pattern in sdist_rules():
        if command == "include" and path == pattern:
            taken = True
        elif command == "graft" and path.startswith(pattern + "/"):
            taken = True
        elif command == "prune" and path.startswith(pattern + "/"):
            taken = False
        elif command == "global-exclude" and fnmatch(Path(path).name, pattern):
            taken = False
    return taken


def test_the_sdist_holds_every_file_of_the_repository():
    """So that it can run its own tests. Rules of another kind than in_sdist's are refused."""
    assert {rule[0] for rule in sdist_rules()} <= {"include", "graft", "prune", "global-exclude"}
    assert all(len(rule) == 2 for rule in sdist_rules())
    for command, pattern in sdist_rules():
        if command in {"include", "graft"}:
            assert (ROOT / pattern).exists(), f"MANIFEST.in names {pattern}"
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout to know what the repository holds")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 50
    assert not [name for name in files if not in_sdist(name)]
    for junk in ("tests/__pycache__/a.pyc", "notebooks/01.ipynb.tmp", ".venv/bin/python", "data/x"):
        assert not in_sdist(junk)


def test_every_link_of_the_readme_is_absolute_and_leads_to_a_file():
    """It is also the page of the package index, where a relative link leads nowhere."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", readme, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"\]\(([^)]*)\)", prose)
    named = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", prose, flags=re.MULTILINE))
    links = [*inline, *named.values(), *re.findall(r"(?:src|href)=\"([^\"]*)", prose)]
    assert links and all(link.startswith("https://") for link in links)
    raw = HOME.replace("github.com", "raw.githubusercontent.com") + "/main/"
    for link in links:
        for prefix in (f"{HOME}/blob/main/", f"{HOME}/tree/main/", raw):
            if link.startswith(prefix):
                assert (ROOT / link.removeprefix(prefix)).exists(), link
    used = set(re.findall(r"(?<!!)\[([^\]\[]+)\](?![:(])", prose))
    assert set(named) <= used, "a link that no sentence uses"
    files = {name for name in used if name.endswith((".md", ".py", ".cff", ".ipynb"))}
    assert files <= set(named), "a file in brackets without its link"


def test_urls_are_those_of_one_repository():
    for name, url in PROJECT["urls"].items():
        assert url.startswith(HOME) or name == "Paper"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == HOME


def test_the_readme_names_every_extra_of_a_user():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {name for name in EXTRAS if f"\n| `{name}` |" in readme} == set(EXTRAS) - {"docs"}


def test_the_changelog_opens_with_what_is_not_released_and_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, flags=re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert flowrob.__version__ in versions


def test_the_workflow_runs_the_two_commands_on_every_python_declared():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    declared = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert jobs["newest"]["strategy"]["matrix"]["python"] == declared
    assert f">={declared[0]}" == PROJECT["requires-python"]
    steps = {name: [s for s in job["steps"] if "run" in s] for name, job in jobs.items()}
    commands = {name: "\n".join(step["run"] for step in runs) for name, runs in steps.items()}
    assert commands["lint"].startswith("make lint")
    assert commands["newest"].startswith("make test")
    assert "python .ci/lowest.py > lowest.txt" in commands["lowest"]
    assert '"-c lowest.txt' in commands["lowest"]
    for job in jobs.values():
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_environment_agrees_with_pyproject(path: Path):
    conda = conda_part(path)
    major, minor = conda["python"].split(".")
    assert f"{major}.{minor}.0" in SpecifierSet(PROJECT["requires-python"])
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["channels"][0] == "conda-forge"
    assert set(conda) == {"python", "pip"}, "what else is needed is listed once, in pyproject.toml"


def test_environment_installs_the_package_and_repeats_nothing():
    assert pip_part(ENVIRONMENTS[0]) == ["-e .[notebooks]"]
    assert pip_part(ENVIRONMENTS[1]) == [], "-e . would mean the .binder folder: postBuild does it"
    assert conda_part(ENVIRONMENTS[0])["python"] == conda_part(ENVIRONMENTS[1])["python"]


@pytest.mark.parametrize("name", [".binder/postBuild", ".ci/run"])
def test_script_is_executable_and_parses(name: str):
    script = ROOT / name
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)


def test_scripts_do_their_work():
    binder = (ROOT / ".binder/postBuild").read_text(encoding="utf-8")
    assert "pip install --no-cache-dir -e '.[notebooks]'\n" in binder
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert ci.index("\nmake lint") < ci.index("\nmake test")
    extras = re.search(r"EXTRAS=([\w,]+)", ci)[1].split(",")
    assert installs(*extras) == installs(*EXTRAS), "no test may be skipped for want of a library"


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


def test_make_lint_checks_style_format_and_types(make):
    _, _, calls = make("lint")
    assert calls.endswith("-m ruff check .\n-m ruff format --check .\n-m mypy\n")


def test_make_installs_the_extras_asked_for(make):
    assert "-m pip install -e .[notebooks]\n" in make("lab", "EXTRAS=notebooks")[2]
    assert "-m pip install -e .\n" in make("install", "EXTRAS=")[2]
    assert "-m pip install -e .[dev]\n" in make("install")[2]  # each set of extras once
    assert installs("test") | installs("notebooks") <= installs("dev")


def test_make_docs_installs_what_the_site_needs_and_builds_it(make):
    _, _, calls = make("docs")
    assert "-m pip install -e .[dev,docs]\n" in calls
    assert calls.splitlines()[-1].startswith("-m sphinx --fail-on-warning")
    assert "-m pip install -e .[docs]\n" in make("docs", "EXTRAS=docs")[2]


def test_make_help_lists_every_command():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert re.findall(r"^([a-z]+):.*## .", text, re.MULTILINE) == phony
    variables = re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE)
    for variable in variables:
        assert re.search(rf"^#   {variable} ", text, re.MULTILINE), f"{variable} is not explained"


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
