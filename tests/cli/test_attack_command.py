"""flowrob attack, flowrob models, and the ways to call them."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import flowrob
from flowrob import zoo
from flowrob.cli import main
from flowrob.data import load
from flowrob.evaluation import robustness_table

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def attack(folder, *more):
    model = str(folder / "w.safetensors")
    options = ["--eps", "4", "--limit", "3", "--steps", "2", "--quiet", "--seed", "5"]
    return ["attack", model, *options, *more]


def test_attack_prints_the_table_of_the_reporting_images(trained, tmp_path, capsys):
    assert main(attack(trained, "--json", str(tmp_path / "new" / "a.json"))) == 0
    flow = zoo.load(trained / "w.safetensors")
    images = load("photos", split="test", size=16, limit=3)
    table = robustness_table(
        flow.log_prob,
        images.to(next(flow.parameters()).device),
        [4],
        generator=torch.Generator().manual_seed(5),
        attack_options={"num_steps": 2, "restarts": 1},
    )
    assert capsys.readouterr().out == table.to_markdown() + "\n"
    record = json.loads((tmp_path / "new" / "a.json").read_text(), parse_constant=pytest.fail)
    assert record["rows"] == json.loads(table.to_json())["rows"]
    assert record["data"] == "photos, test all" and record["settings"]["num_images"] == 3
    assert record["command"].startswith("python -m flowrob attack w.safetensors --eps 4")


def test_two_processes_print_one_and_the_same_table(trained, capsys):
    assert main(attack(trained)) == 0
    alone = capsys.readouterr().out
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "flowrob"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, *attack(trained)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == alone  # printed to two decimals


def test_models_lists_all_that_ship_with_their_recipes(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for name in zoo.names():
        kind = "FlowMixture" if name.endswith("ladder") else "Flow"
        assert f"{name}\n  {kind} on " in printed
        if kind == "Flow":
            assert f"  command: {zoo.recipe(name)['command']}" in printed
    assert "  parts: eps 0: glow-photos-clean, eps 1: glow-photos-eps1, " in printed


def test_version_says_which(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"flowrob {flowrob.__version__}\n"


def test_the_module_and_the_installed_command_are_the_same_program(capsys):
    value = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]["flowrob"]
    installed = EntryPoint("flowrob", value, "console_scripts").load()
    assert installed is main
    for wrong in (["--version"], ["attack", "no-such-model"]):
        module = subprocess.run(
            [sys.executable, "-m", "flowrob", *wrong], capture_output=True, text=True, timeout=120
        )
        try:
            status = installed(wrong)
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        assert (module.returncode, module.stdout) == (status, printed.out)
        assert module.stderr == printed.err and "Traceback" not in module.stderr
