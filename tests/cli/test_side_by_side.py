"""flowrob table --jobs: the same models, trained side by side."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from small_commands import SHORT, state, table

from flowrob import zoo
from flowrob.cli import main, side_by_side
from flowrob.cli.recipes import RECIPES, TABLES, Plan
from flowrob.cli.runs import Run
from flowrob.cli.side_by_side import train_side_by_side, workloads

NAMES = [f"tiny-{loss}" for loss in ("clean", "adversarial", "hybrid-fresh")]


@pytest.fixture
def three_models(monkeypatch):
    """A table of three models: two go on from the base, one from the first of them."""
    plan = Plan("Three", dict(zip(NAMES, NAMES, strict=True)), False, steps=(1,), auto=False)
    monkeypatch.setitem(TABLES, ("tiny", "laptop"), replace(plan, eps=(0, 8)))


def test_models_trained_side_by_side_are_those_trained_one_by_one(three_models, tmp_path, capfd):
    """None has more than its share of the threads, and what is there is kept."""
    for folder, jobs in (("one", "1"), ("two", "2")):
        assert main(table(tmp_path / folder, "--jobs", jobs, "--seed", "3")) == 0
    for name in ("tiny-base", *NAMES):
        paths = [tmp_path / folder / f"{name}.safetensors" for folder in ("one", "two")]
        alone, beside = map(state, paths)
        assert alone.keys() == beside.keys()
        for key in alone:
            torch.testing.assert_close(beside[key], alone[key], rtol=1e-3, atol=1e-4)
        alone, beside = map(zoo.recipe, paths)
        for key in ("settings", "data", "seed", "start", "preset", "num_images"):
            assert beside[key] == alone[key], key
        assert beside["machine"]["threads"] == max(1, torch.get_num_threads() // 2)
        assert beside["command"].startswith(f"python -m flowrob train --preset {name} ")
    printed, kept = capfd.readouterr().out, paths[1].read_bytes()
    assert printed.count("| tiny-hybrid-fresh | pgd-1 |") == 2
    (tmp_path / "two" / "tiny-clean.safetensors").unlink()
    assert main(table(tmp_path / "two", "--jobs", "2", "--seed", "3")) == 0
    assert "tiny-clean.safetensors" in capfd.readouterr().out and kept == paths[1].read_bytes()


class Process:
    """One that ends when it has been asked so many times; which began when, is told."""

    begun, at_once, status = list[str](), list[int](), 0

    def __init__(self, words, env):
        self.name, self.left = words[words.index("--preset") + 1], 3
        self.returncode = None
        Process.begun.append(self.name)
        Process.at_once.append(Process.at_once[-1] + 1 if Process.at_once else 1)

    def poll(self):
        self.left -= 1
        if self.left <= 0 and self.returncode is None:
            self.end(Process.status)
        return self.returncode

    def end(self, status):
        self.returncode = status
        Process.at_once.append(Process.at_once[-1] - 1)

    def terminate(self):
        if self.returncode is None:
            self.end(-signal.SIGTERM)

    def wait(self):
        return self.returncode


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(Process, "begun", [])
    monkeypatch.setattr(Process, "at_once", [])
    monkeypatch.setattr(side_by_side.subprocess, "Popen", Process)
    monkeypatch.setattr(side_by_side.time, "sleep", lambda seconds: None)
    return Process


def train(tmp_path, jobs, names):
    run = Run.begin(["table"], seed=0, quiet=True)
    return train_side_by_side(names, tmp_path, jobs, run, data={})


def test_none_begins_before_its_base_and_the_longest_way_goes_first(processes, tmp_path):
    names = [*TABLES["1", "laptop"].models.values()]
    assert train(tmp_path, 2, names) == 0
    assert sorted(processes.begun) == sorted(
        {*names, "glow-cifar10-base", "glow-cifar10-published-base"}
    )
    for name in processes.begun:
        start = RECIPES[name].start
        assert start is None or processes.begun.index(start) < processes.begun.index(name)
    assert max(processes.at_once) == 2 and processes.at_once[-1] == 0
    assert processes.begun[0] == "glow-cifar10-base"  # the hybrid, the longest, waits for it
    assert processes.begun.index("glow-cifar10-hybrid") == 2  # 1,600 steps with 6 gradients in x


def test_a_workload_holds_the_longest_of_what_waits_for_it():
    work = workloads({"tiny-base": [], "tiny-clean": ["tiny-base"], "tiny-eps1": ["tiny-clean"]})
    steps = [RECIPES[name].num_steps for name in ("tiny-base", "tiny-clean", "tiny-eps1")]
    loss = RECIPES["tiny-eps1"].loss
    assert work["tiny-eps1"] == steps[2] * (1 + loss.share * loss.attack_steps)
    assert work["tiny-clean"] == steps[1] + work["tiny-eps1"]
    assert work["tiny-base"] == steps[0] + work["tiny-clean"]


def test_one_that_fails_ends_the_others(processes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "status", 1)
    names = ["tiny-clean", "glow-photos-clean", "realnvp-photos-clean"]
    assert train(tmp_path, 3, names) == 1
    assert processes.at_once[-1] == 0 and len(processes.begun) == 3
    assert "its training ended with status 1" in capsys.readouterr().err


def test_ctrl_c_saves_what_every_process_has(tmp_path):
    """A terminal sends it to all of them."""
    many = ["--set", "num_steps=100000", "--set", "checkpoint_every=1", "--jobs", "2"]
    words = [sys.executable, "-m", "flowrob", "table", "tiny", "--folder", str(tmp_path), *SHORT]
    (tmp_path / "tiny-base.safetensors").write_bytes(zoo_file(tmp_path / "first"))
    process = subprocess.Popen(
        [*words, *many], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(saved := [*tmp_path.glob("*.checkpoint.safetensors")]) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    for path in saved:
        assert f"saved in {path}: the same command goes on from there" in error


def zoo_file(folder) -> bytes:
    """The weights of a base, untrained."""
    path = zoo.save(RECIPES["tiny-base"].build(), folder / "base.safetensors", {"preset": "x"})
    return path.read_bytes()


def test_jobs_that_make_no_sense_are_refused(tmp_path, capsys):
    for wrong in ("0", "-1", "two"):
        with pytest.raises(SystemExit, match="2"):
            main(table(tmp_path, "--jobs", wrong))
        assert "is no number of processes" in capsys.readouterr().err
    run = Run.begin(["table"], seed=0, quiet=True)
    two = replace(run, group=replace(run.group, size=2))
    with pytest.raises(ValueError, match="--jobs 2 under torchrun"):
        train_side_by_side(["tiny-clean"], tmp_path, 2, two, data={})
