# Two commands on a fresh machine: "make lab" to walk through, "make test" to check everything.
#
# Settings, each as NAME=value after the command:
#   PYTHON    the interpreter that makes .venv (3.11 or newer)      PYTHON=python3.12
#   EXTRAS    the extras of pyproject.toml to install; dev has all  EXTRAS=notebooks
#             that the commands below need ("make docs" takes docs
#             along), "make lab" is content with notebooks, compare
#             adds other libraries' flows
#   PIP_ARGS  more options for pip install, here CPU-only torch
#             PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   LAB_ARGS  more options for JupyterLab                           LAB_ARGS="--no-browser --port 8899"
#   TEST_ARGS more options for pytest                               TEST_ARGS="-x tests"
#   NB        which notebooks to build                              NB="01 05"

comma := ,

PYTHON ?= python3
EXTRAS ?= dev$(if $(filter docs,$(MAKECMDGOALS)),$(comma)docs)
PIP_ARGS ?=
LAB_ARGS ?=
TEST_ARGS ?=
NB ?=

# An active virtualenv or conda environment is used as it is (not conda's base, which belongs to
# conda); without one, .venv is made here.
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ENV := $(subst $(CURDIR)/,,$(or $(ACTIVE),.venv))
PY := $(ENV)/bin/python
# Written when the installation is complete; one per checkout, since the install points back here.
STAMP := $(ENV)/.flowrob-installed-$(shell (pwd; echo $(EXTRAS)) | cksum | cut -d' ' -f1)

# What JupyterLab's file browser leaves out: the notebooks' .py twins and the machinery beside them.
HIDDEN := ['[0-9][0-9]_*.py', 'build.py', 'conftest.py', 'jupytext.toml', '*.egg-info', '__pycache__']

TOO_OLD := import sys; v = sys.version_info; sys.exit("flowrob needs Python 3.11 or newer, and this is \
	%d.%d. Name another one: make ... PYTHON=python3.12" % v[:2] if v < (3, 11) else 0)

help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST))

lab: $(STAMP)  ## install if needed, then open the walkthrough in JupyterLab
	$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
	  --ContentsManager.hide_globs="$(HIDDEN)" $(LAB_ARGS)

test: $(STAMP)  ## install if needed, then run unit tests, doctests and every notebook
	$(PY) -m pytest $(TEST_ARGS)

notebooks: $(STAMP)  ## install if needed, then run the .py twins and write the .ipynb with their outputs
	$(PY) notebooks/build.py $(NB)

student: $(STAMP)  ## install if needed, then write student/*.ipynb: the notebooks without outputs and solutions
	$(PY) notebooks/build.py --student $(NB)

docs: $(STAMP)  ## install if needed, then build the site: open build/site/index.html
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet -c docs -d build/doctrees . build/site

lint: $(STAMP)  ## install if needed, then check style, format and the types a user sees
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)  ## install if needed, then put everything into the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove caches and half-written files (.venv stays: remove it by hand)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache notebooks/*.partial
	find . -path ./.venv -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +

install: $(STAMP)  ## install, editable, with the extras; the other commands do it too

$(STAMP): pyproject.toml | $(PY)
	@$(PY) -c '$(TOO_OLD)'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	@echo "Installing flowrob and all it needs into $(ENV): once, some minutes."
	$(PY) -m pip install $(PIP_ARGS) -e '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(PY):
	@test -z "$(ACTIVE)" || { echo "the active environment $(ENV) has no bin/python"; exit 1; }
	@$(PYTHON) -c '$(TOO_OLD)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.PHONY: help lab test notebooks student docs lint format clean install
