"""The site (``make docs``): it builds without a warning, every link leads somewhere, no network."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import reduce
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from scripts import ROOT

import flowrob

CHAPTERS = ("linear", "flows", "attacks", "training", "evaluation")
SHELVES = ("units", "data", "zoo", "paper", "plots", "widgets")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
QUESTIONS = (ROOT / "docs/questions.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
NEEDED = ("sphinx", "myst_nb", "furo", "math_core")


@dataclass
class Page:
    """What a built page holds: anchors, links, and what a browser has to fetch to show it."""

    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)  # pictures without a text in their place


class Reader(HTMLParser):
    def __init__(self, page: Page):
        super().__init__()
        self.page = page
        self.feed(page.text)

    def handle_starttag(self, tag, attrs):
        at = {name: value or "" for name, value in attrs}
        self.page.tags.append(tag)
        self.page.anchors |= {at["id"]} if "id" in at else set()
        if tag == "a" and "href" in at:
            self.page.links.append(at["href"])
        elif tag == "link" and {*at.get("rel", "").split()} & {"stylesheet", "icon", "preload"}:
            self.page.resources.append(at["href"])
        self.page.unnamed += (
            [at["src"]] if tag == "img" and at.get("alt", "") in ("", at["src"]) else []
        )
        if tag in {"img", "script", "iframe", "source", "video", "object"}:
            self.page.resources += [at[name] for name in ("src", "data") if at.get(name)]


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the site, built once, as ``make docs`` builds it."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"needs the extra docs, pip install -e '.[docs]': no {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    strict = ["--fail-on-warning", "--keep-going", "--quiet"]
    places = ["-c", "docs", "-d", str(folder / "doctrees"), ".", str(folder / "html")]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, *places], cwd=ROOT, capture_output=True, text=True
    )
    assert (built.returncode, built.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    found = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for page in found.values():
        Reader(page)
    return found


def test_the_makefile_builds_it_as_this_test_does():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    strict = "--fail-on-warning --keep-going --quiet"
    assert f"-m sphinx {strict} -c docs -d build/doctrees . build/site" in makefile
    assert "build/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_every_page_is_there(site: Path, pages):
    wanted = [path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "docs").glob("*.md")]
    wanted += [path.relative_to(ROOT).with_suffix(".html") for path in NOTEBOOKS]
    wanted += [Path(f"docs/reference/{name}.html") for name in (*CHAPTERS, *SHELVES)]
    assert len(NOTEBOOKS) > 7
    assert not [path for path in wanted if site / path not in pages]
    assert "url=docs/index.html" in pages[site / "index.html"].text


def test_the_tables_of_notebooks_give_the_minutes_that_these_give_themselves():
    for page in ("README.md", "docs/walkthrough.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        told = dict(re.findall(r"^\| \[(\d\d) .*\| (\d+)[^|]*, [^|,]+ \|$", text, re.MULTILINE))
        for path in NOTEBOOKS:
            opening = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
            (read,) = re.findall(r"\*\*Minutes on 2 cores\*\* \| (\d+) to read", opening)
            assert told[path.name[:2]] == read, (page, path.name)


def test_every_page_is_reached_from_the_first(site: Path, pages):
    """By the links of the pages, the sidebar's among them."""
    seen, ahead = set(), [site / "docs/index.html"]
    while ahead:
        path = ahead.pop()
        if path in seen or path not in pages:
            continue
        seen.add(path)
        parts = [urlsplit(link) for link in pages[path].links]
        ahead += [(path.parent / p.path).resolve() for p in parts if p.path and not p.scheme]
    assert {path for path in pages if path.parent != site} <= seen


def test_every_link_inside_the_site_leads_to_a_page_and_an_anchor_of_it(site: Path, pages):
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else set()
            lost = parts.fragment and unquote(parts.fragment) not in anchors
            if not target.is_file() or lost:
                broken.append((path.relative_to(site).as_posix(), link))
            checked += 1
    assert not broken
    assert checked > 1000


def test_links_into_the_repository_lead_to_files_of_it(pages):
    home = "https://github.com/flowrob/flowrob/"
    links = {link for page in pages.values() for link in page.links if link.startswith(home)}
    paths = [
        re.sub(r"^(blob|tree)/main/", "", urlsplit(link.removeprefix(home)).path) for link in links
    ]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_picture_script_and_style_comes_from_the_site_itself(site: Path, pages):
    for path, page in pages.items():
        for resource in page.resources:
            if not resource.startswith("data:"):
                parts = urlsplit(resource)
                assert not parts.scheme and not parts.netloc, f"{path.name} fetches {resource}"
                assert (path.parent / unquote(parts.path)).is_file(), f"{path.name}: {resource}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text), style.name


def test_formulas_are_drawn_by_the_browser_alone(site: Path, pages):
    """As MathML, each one: none is left as TeX, no script waits for it."""
    for path in NOTEBOOKS:
        page = pages[site / "notebooks" / f"{path.stem}.html"]
        formulas = page.text.count('class="math"')
        assert page.tags.count("math") == formulas, path.stem
        shown = re.sub(r"<(pre|annotation)\b.*?</\1>", "", page.text, flags=re.DOTALL)
        assert not re.search(r"\$[^$<]*\\|\|---", shown), path.stem
        assert formulas, path.stem
        assert not [src for src in page.resources if re.search("mathjax|katex", src.lower())]


def test_no_formula_is_left_as_it_was_typed(site: Path, pages):
    """Markdown that begins a list or a quotation inside of a formula breaks it in two."""
    apart = r"(?s)<(annotation|script|style|pre|code|head)\b.*?</\1>"
    for name, page in pages.items():
        text = re.sub(r"<[^>]+>", "", re.sub(apart, "", page.text))
        left = re.findall(r"\$(?![A-Z]{3})[^$]{0,30}|\\[a-z]{4,}", text)
        assert not left, f"{name}: {left[:3]}"


def test_notebooks_show_their_pictures_and_fold_their_solutions(site: Path, pages):
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        solutions = sum("solution" in cell["metadata"].get("tags", []) for cell in cells)
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        drawn = sum("image/png" in output.get("data", {}) for output in outputs)
        page = pages[site / "notebooks" / f"{path.stem}.html"]
        pictures = [src for src in page.resources if "_images/" in src]
        assert len(pictures) >= drawn > 0, path.stem
        assert not page.unnamed, path.stem
        assert solutions and page.text.count("hide above-input") == solutions
        for service in ("mybinder.org/v2/gh/flowrob/flowrob", "colab.research.google.com"):
            links = [link for link in page.links if service in link]
            assert links and all(f"notebooks/{path.name}" in link for link in links)


@pytest.mark.parametrize("name", (*CHAPTERS, *SHELVES))
def test_every_public_name_is_in_the_reference(site: Path, pages, name: str):
    module = importlib.import_module(f"flowrob.{name}")
    own = [
        k
        for k, v in vars(module).items()
        if (inspect.isfunction(v) or inspect.isclass(v)) and v.__module__ == module.__name__
    ]
    public = getattr(module, "__all__", [k for k in own if not k.startswith("_")])
    anchors = pages[site / f"docs/reference/{name}.html"].anchors
    assert not [k for k in public if f"flowrob.{name}.{k}" not in anchors]


def named(text: str) -> set[str]:
    """The names of the package in a text: `linear.worst_case`, `flowrob.device`."""
    first = "|".join(("flowrob", *CHAPTERS, *SHELVES))
    return set(re.findall(rf"`((?:{first})(?:\.\w+)+)`", text))


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "question"]


def test_every_question_is_answered_by_names_that_exist_and_a_page():
    table = rows(QUESTIONS)
    assert len(table) > 40
    for question, functions, shown in table:
        assert question.endswith("?")
        assert named(functions), f"no function answers: {question}"
        links = re.findall(r"\]\(([^)#]+)", shown)
        assert links and all((ROOT / "docs" / link).is_file() for link in links), question
    for name in named(QUESTIONS):
        parts = name.removeprefix("flowrob.").split(".")
        reduce(getattr, parts, flowrob)  # raises for a name that is gone


def test_the_functions_of_the_questions_are_links_to_the_reference(site: Path, pages):
    page = pages[site / "docs/questions.html"]
    linked = {urlsplit(link).fragment for link in page.links if "reference/" in link}
    objects = {f"flowrob.{name.removeprefix('flowrob.')}" for name in named(QUESTIONS)}
    assert objects - linked <= {"flowrob.paper.TABLE_3"}  # a constant, without an entry of its own


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_glossary_is_in_order_and_every_term_is_explained_once():
    entries = re.split(r"^## ", GLOSSARY, flags=re.MULTILINE)[1:]
    terms = [entry.splitlines()[0] for entry in entries]
    assert len(terms) > 80
    assert terms == sorted(terms, key=lambda term: term.lower().lstrip("0123456789-"))
    assert len({slug(term) for term in terms}) == len(terms)
    for entry in entries:
        body = entry.split("\n", 1)[1]
        assert len(re.findall(r"[.!?](?=\s|$)", body.split("irst in")[0])) >= 1, entry
        assert re.search(r"^(\*.+\*; f|F)irst in .*\]\(\S+\)", body, flags=re.MULTILINE), entry


def test_the_glossary_links_to_terms_that_it_has():
    terms = {slug(line[3:]) for line in GLOSSARY.splitlines() if line.startswith("## ")}
    places = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    links = {
        link
        for path in places
        for link in re.findall(r"glossary\.md#([^)\s]+)", path.read_text(encoding="utf-8"))
    }
    links |= set(re.findall(r"\]\(#([^)]+)\)", GLOSSARY))
    assert links and links <= terms


def test_each_term_is_linked_in_the_notebook_where_it_first_matters():
    twins = {path.stem: path.with_suffix(".py").read_text(encoding="utf-8") for path in NOTEBOOKS}
    terms = {slug(line[3:]) for line in GLOSSARY.splitlines() if line.startswith("## ")}
    for name, text in twins.items():
        linked = set(re.findall(r"docs/glossary\.md#([^)\s]+)", text))
        assert linked <= terms, (name, linked - terms)
    first = {}
    for entry in re.split(r"^## ", GLOSSARY, flags=re.MULTILINE)[1:]:
        if found := re.search(r"irst in \[\d\d\]\(\.\./notebooks/(\w+)\.ipynb\)", entry):
            first[slug(entry.splitlines()[0])] = found[1]
    assert len(first) > 80
    lost = [
        (name, term)
        for term, name in first.items()
        if f"docs/glossary.md#{term})" not in twins[name]
    ]
    assert not lost, f"explained in the glossary and not linked where they first matter: {lost}"


def test_the_teaching_guide_has_a_plan_of_ninety_minutes_for_every_notebook():
    guide = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (\d\d): .*?\n(.*?)(?=^## )", guide, re.MULTILINE | re.DOTALL))
    assert {f"{n:02}" for n in range(8)} <= set(parts) <= {path.name[:2] for path in NOTEBOOKS}
    for number, text in parts.items():
        for heading in ("Aim", "Misconceptions", "Questions for the room", "To skip"):
            assert f"**{heading}.**" in text, (number, heading)
        spans = [tuple(map(int, span)) for span in re.findall(r"^\| (\d+) to (\d+) \|", text, re.M)]
        assert spans[0][0] == 0 and spans[-1][1] == 90, number
        assert all(a[1] == b[0] for a, b in pairwise(spans)), number


def test_the_workflow_publishes_what_make_docs_builds():
    workflow = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert any(step.get("run", "").startswith("make docs") for step in steps)
    (upload,) = [step for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == "build/site"
    assert any("actions/deploy-pages" in step.get("uses", "") for step in steps)
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", s.get("uses", "actions/x@v1")) for s in steps)
