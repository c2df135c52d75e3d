"""Runs from the command line: whose images a preset means, and the record that every run leaves.

A record is a JSON file: command, seed, data and range, versions, machine, date, duration, results.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import json
import math
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import flowrob
from flowrob import data, flows
from flowrob.distributed import Group, Sharded
from flowrob.evaluation import Table, robustness_table
from flowrob.objectives import Objective
from flowrob.presets import PRESETS, USES
from flowrob.training import fit

#: What --set may change: all of fit's keywords but those that have flags of their own.
FIT_OPTIONS = [
    name
    for name in inspect.signature(fit).parameters
    if name not in ("flow", "images", "validation", "checkpoint", "seed", "progress")
]


def with_images(arguments: argparse.Namespace) -> dict:
    """The preset, with the images that the command line asks for instead."""
    preset = dict(PRESETS[arguments.preset])
    preset["data"] = arguments.data or preset["data"]
    preset["download"] = arguments.download
    has_splits = preset["data"] in data.SPLITS
    for use in (use for use in USES if use in arguments):
        given = getattr(arguments, use)
        if preset[use] or given:
            split, limits = preset[use] or preset["train"]
            preset[use] = (split if has_splits else None, given or limits)
            if not has_splits and preset[use][1] is None:
                raise ValueError(
                    f"{arguments.data} has no splits: say which images to {use} on, --{use} A:B"
                )
    return preset


def load(preset: dict, use: str, flow: flows.Flow, limit: int | None = None) -> Tensor:
    """The images of the preset for "train", "tune" or "report", in the size of the flow."""
    split, limits = preset[use]
    channels, size, _ = flow.event_shape
    indices = None if limits is None else slice(*limits)
    return data.load(
        preset["data"],
        split=split,
        size=size,
        channels=channels,
        indices=indices,
        limit=limit,
        download=preset.get("download", False),
    )


def describe(preset: dict, use: str) -> str | None:
    """Which images those are, in words."""
    if preset[use] is None:
        return None
    split, limits = preset[use]
    which = "all" if limits is None else f"{limits[0]}..{limits[1] - 1}"
    return f"{os.path.basename(preset['data'])}, {split or 'images'} {which}"


def sharded(log_prob: Objective, group: Group) -> Objective:
    """The log_prob, its rows shared out if there are several processes."""
    return log_prob if group.size == 1 else Sharded((log_prob,), group)


def attack_table(
    flow: flows.Flow,
    images: Tensor,
    eps: Sequence[int],
    arguments: argparse.Namespace,
    group: Group,
    **options,
) -> Table:
    """The same table from one process or many, which then share the images."""
    if options.get("schedule") == "cosine":
        del options["schedule"]  # the attack's own default, whose first step it knows
    return robustness_table(
        sharded(flow.log_prob, group),
        images.to(next(flow.parameters()).device),
        eps,
        generator=torch.Generator().manual_seed(arguments.seed),
        progress=group.leads and not arguments.quiet,
        attack_options=options,
    )


def all_settings(settings: dict) -> dict:
    """The arguments of fit, defaults included."""
    parameters = inspect.signature(fit).parameters
    values = {name: settings.get(name, parameters[name].default) for name in FIT_OPTIONS}
    return {k: str(v) if v == math.inf else v for k, v in values.items()}  # strict JSON


def circumstances(seconds: float, group: Group) -> dict:
    """When, how long, with which versions, on what."""
    device = flowrob.device()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "duration_s": round(seconds, 1),
        "versions": {
            "flowrob": flowrob.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": group.size,
        },
    }


def command_line(argv: Sequence[str]) -> str:
    """What was typed, without the folders, which mean nothing elsewhere."""
    words = []
    for word in argv:
        name, equals, path = word.rpartition("=")  # as in --data celeba=folder/faces.npz
        words.append(name + equals + os.path.basename(path) if os.sep in path else word)
    return "python -m flowrob " + shlex.join(words)


def write(path: Path | None, content: dict) -> None:
    """The record as JSON, whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
