"""The site: ``make docs`` builds it from docs/, notebooks/ and the docstrings.

The source folder is the root of the repository, so that links between the notebooks and the pages
of docs/ are the same here, on GitHub and in JupyterLab. Notebooks are shown with the outputs they
are stored with; nothing is run. Formulas become MathML, which browsers draw by themselves: no
script, no network.
"""

import json
import re
import sys
from html import escape
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parents[1]))

import flowrob

HOME = "https://github.com/flowrob/flowrob"
BINDER = "https://mybinder.org/v2/gh/flowrob/flowrob/main?urlpath=lab/tree/{}"
COLAB = "https://colab.research.google.com/github/flowrob/flowrob/blob/main/{}"

project = html_title = "flowrob"
version = release = flowrob.__version__
language = "en_GB"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/reference/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "dist", "data", "checkpoints", "**/.ipynb_checkpoints"]

highlight_language = "none"  # what names no language is a formula, a table or a command

nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # outputs, too, hold tables and formulas
nb_code_prompt_show, nb_code_prompt_hide = "Show the solution", "Hide the solution"
nb_ipywidgets_js = {}  # widgets are not stored; these scripts would come from a CDN
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the same anchors as on GitHub

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = {
    "source_repository": HOME,
    "source_branch": "main",
    "source_directory": "",
    "top_of_page_buttons": ["view"],
}


def formulas_as_mathml(app):
    """Register the renderer "mathml". A formula that it cannot read is a warning of Sphinx."""
    from docutils import nodes
    from math_core import LatexError, LatexToMathML
    from sphinx.util import logging

    convert = LatexToMathML(annotation=True).convert_with_local_state
    log = logging.getLogger(__name__)

    def mathml(node, displaystyle):
        text = node.astext()
        try:
            return convert(text, displaystyle=displaystyle)
        except LatexError as error:
            log.warning("cannot read the formula %r: %s", text, error, location=node)
            return f"<code>{escape(text)}</code>"

    def inline(self, node):
        self.body.append(f'<span class="math">{mathml(node, False)}</span>')
        raise nodes.SkipNode

    def block(self, node):
        self.body.append(f'<div class="math">{mathml(node, True)}</div>')
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))


SECTION = re.compile(r"[A-Z]\w+:$")
LONE_LETTER = re.compile(r"^(\s+\w+: )([A-Z]\.)(?= |$)")


def formulas_of_docstrings(app, what, name, obj, options, lines):
    """An indented block outside Args: and its like is a formula or a table: shown as it stands."""
    section, before, shown = False, "", []
    for line in lines:
        if line and not line[0].isspace():
            section = bool(SECTION.match(line))
        elif line and not section and shown and not shown[-1] and before and before[0] != " ":
            if not before.endswith("::") and not before.startswith((".. ", "* ", "- ")):
                shown += ["::", ""]
        if line:
            before = line
        shown.append(LONE_LETTER.sub(r"\1\\\2", line))  # "height: H." begins no list
    lines[:] = shown


def plain_defaults(app, what, name, obj, options, signature, returns):
    """``<factory>``, a dataclass's default that is made anew, is no Python and stays unread."""
    return (signature or "").replace("<factory>", "...").replace("~torch.", "") or None, returns


def fields_once(app, what, name, obj, skip, options):
    """A field of a named tuple is described under Attributes; "Alias for ..." adds nothing."""
    return True if type(obj).__name__ == "_tuplegetter" else skip


def notebook_for_the_web(app, docname, source):
    """Solutions are folded; below the title stands where the notebook can be run."""
    if not docname.startswith("notebooks/"):
        return
    path = quote(f"{docname}.ipynb")
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "solution" in tags:
            cell["metadata"]["tags"] = [*tags, "hide-cell"]
    where = f"[on Binder]({BINDER.format(path)}), [on Colab]({COLAB.format(path)})"
    first = "[after one more cell](../docs/walkthrough.md#on-colab)"
    top = notebook["cells"][0]
    title, _, rest = "".join(top["source"]).partition("\n")
    run = f"Run it {where} {first}, or on your own machine: `make lab`."
    top["source"] = f"{title}\n\n{run}\n{rest}"
    source[0] = json.dumps(notebook)


def name_pictures(app, doctree):
    """A figure of a notebook is called after its section: the text below it says what it shows."""
    from docutils import nodes

    for image in doctree.findall(nodes.image):
        section = image.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        if section is not None and not image.get("alt"):
            image["alt"] = f"Figure of “{section[0].astext()}”, described in the text below it"


def link_names(app, doctree, docname):
    """`flowrob.linear.worst_case`, or `linear.worst_case`, in any text leads to the reference."""
    from docutils import nodes
    from sphinx.util.nodes import make_refnode

    objects = app.env.domains["py"].objects
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().split("(")[0]
        known = [n for n in (name, f"flowrob.{name}") if "." in n and n in objects]
        above = literal.parent
        while above is not None and not isinstance(above, nodes.reference | nodes.title):
            above = above.parent
        if known and above is None and objects[known[0]].docname != docname:
            to = objects[known[0]]
            link = make_refnode(app.builder, docname, to.docname, to.node_id, [], known[0])
            literal.replace_self(link)
            link += literal


def setup(app):
    formulas_as_mathml(app)
    app.connect("autodoc-process-docstring", formulas_of_docstrings, priority=400)
    app.connect("autodoc-process-signature", plain_defaults)
    app.connect("autodoc-skip-member", fields_once)
    app.connect("source-read", notebook_for_the_web)
    app.connect("doctree-read", name_pictures)
    app.connect("doctree-resolved", link_names)
