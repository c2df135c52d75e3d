"""Trainings side by side: each in a process of its own, as many at a time as asked for.

The models of a table wait for nothing but the one that they go on from, so that two of them, a
thread each, are done sooner than one after the other with two threads.

    workload(model) = num_steps (1 + share attack_steps)  +  the greatest of what waits for it

Who is free takes the greatest workload of those that need not wait: list scheduling by critical
path, at most 2 - 1/jobs times as long as the best order (Graham 1969, *Bounds on Multiprocessing
Timing Anomalies*).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import torch

from flowrob.cli.recipes import RECIPES
from flowrob.cli.runs import Files, Run, for_the_base


def train_side_by_side(
    names: Collection[str],
    folder: Path,
    jobs: int,
    run: Run,
    *,
    data: Mapping[str, str],
    download: bool = False,
    settings: Sequence[tuple[str, object]] = (),
) -> int:
    """Train recipes, and what they go on from, where their weights are not there yet.

    Each process is ``python -m flowrob train`` with its share of this one's threads. Ctrl-C, which
    a terminal sends to all of them, saves their checkpoints.

    Args:
        names: of recipes.
        folder: for weights, checkpoints and records; goes on with what is there.
        jobs: processes at a time.
        run: the command they belong to.
        data: where the images of a set are.
        download: get a set that is not here.
        settings: values of :data:`~flowrob.cli.recipes.OPTIONS`, for all of them.

    Returns:
        The exit status: 0, 130 if interrupted, else that of the first process that failed, with
        which the others are stopped.

    Raises:
        ValueError: the command runs under torchrun, whose processes share every training.
    """
    if run.group.size > 1:
        raise ValueError(f"--jobs {jobs} under torchrun: its processes train each model together")
    graph = _missing(names, folder)
    work, order = workloads(graph), TopologicalSorter(graph)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))}
    ready: list[str] = []
    running: dict[str, subprocess.Popen] = {}
    order.prepare()
    try:
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=work.__getitem__)
            while ready and len(running) < jobs:
                name = ready.pop()
                known = settings if name in names else for_the_base(settings)
                words = _words(name, folder, run, data, download, known)
                running[name] = subprocess.Popen(words, env=environment)
            time.sleep(0.1)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if status := running.pop(name).returncode:
                    run.say(f"{name}: its training ended with status {status}", error=True)
                    return status
                order.done(name)
    except KeyboardInterrupt:
        for process in running.values():
            process.wait()  # it saves its checkpoint
        return 130
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    return 0


def workloads(graph: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """What has to be trained from the beginning of each recipe on, in gradients per image.

    >>> of = workloads({"tiny-clean": ["tiny-base"], "tiny-base": []})
    >>> of["tiny-base"] > of["tiny-clean"] > 0
    True
    """
    found: dict[str, float] = {}
    for name in reversed([*TopologicalSorter(graph).static_order()]):
        recipe, after = RECIPES[name], [w for other, w in found.items() if name in graph[other]]
        own = recipe.num_steps * (1.0 + recipe.loss.share * recipe.loss.attack_steps)
        found[name] = own + max(after, default=0.0)
    return found


def _missing(names: Iterable[str], folder: Path) -> dict[str, list[str]]:
    """Recipes whose weights are not there, those that they go on from included: what each needs."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name in found or Files.inside(folder, name).output.exists():
            continue
        above = _missing([start] if (start := RECIPES[name].start) else [], folder)
        found |= above | {name: [start for start in above if start == RECIPES[name].start]}
    return found


def _words(
    name: str,
    folder: Path,
    run: Run,
    data: Mapping[str, str],
    download: bool,
    settings: Sequence[tuple[str, object]],
) -> list[str]:
    files = Files.inside(folder, name)
    words = [sys.executable, "-m", "flowrob", "train", "--preset", name, "--seed", str(run.seed)]
    words += ["--output", str(files.output), "--checkpoint", str(files.checkpoint)]
    words += ["--json", str(files.record), "--quiet"]
    if (of := RECIPES[name].images.data) in data:
        words += ["--data", str(data[of])]
    for option, value in settings:
        words += ["--set", f"{option}={json.dumps(value)}"]
    return [*words, "--download"] if download else words
