"""The command line: train a model by a named recipe, attack one, list those that ship.

    python -m flowrob train --preset glow-photos-hybrid --checkpoint run.safetensors
    python -m flowrob attack glow-photos-clean --eps 1 2 4 8
    python -m flowrob models

Under torchrun the same commands run on several processes or machines:

    torchrun --nproc-per-node 2 -m flowrob train --preset glow-photos-hybrid

Every run can leave a JSON file that says how it was made: command, seed, versions, data, duration.
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
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import flowrob
from flowrob import data, flows, zoo
from flowrob.distributed import Group, Sharded, join
from flowrob.evaluation import Table, robustness_table
from flowrob.training import TrainingDiverged, fit

# Which images: a set, and for each use a split and a range [first, last) of it (None: all of it).
# Models are trained on "train", chosen by "tune" where there is one, and reported on "report".
PHOTOS = {"data": "photos", "train": ("train", None), "tune": None, "report": ("test", None)}
CIFAR10 = {
    "data": "cifar10",
    "train": ("train", (0, 3200)),
    "tune": ("train", (3200, 3400)),
    "report": ("train", (3400, 3600)),
}
CELEBA = {
    "data": "celeba",
    "train": ("train", (0, 9000)),
    "tune": ("train", (9000, 9250)),
    "report": ("train", (9250, 9500)),
}
GLOW, REALNVP = ("glow", {}), ("realnvp", {})
TINY = ("glow", {"image_shape": (3, 16, 16), "num_levels": 2, "num_steps": 4, "width": 32})
SHORT = {"warmup_steps": 20, "num_steps": 400}
CHOSEN = {"keep_best": True, "validate_every": 250}
ADVERSARIAL = {"loss": "adversarial", "eps_warmup_steps": 500}
HYBRID = {"loss": "hybrid", "eps_warmup_steps": 500, "random_eps": True}

#: What ``train`` knows by name: images, (builder, its arguments), arguments of ``fit``.
PRESETS: dict[str, dict] = {
    "glow-photos-clean": {**PHOTOS, "model": GLOW, "fit": {"num_steps": 4500}},
    "glow-photos-adversarial": {**PHOTOS, "model": GLOW, "fit": {"num_steps": 4500, **ADVERSARIAL}},
    "glow-photos-hybrid": {**PHOTOS, "model": GLOW, "fit": {"num_steps": 4500, **HYBRID}},
    "realnvp-photos-clean": {**PHOTOS, "model": REALNVP, "fit": {"num_steps": 4000}},
    "glow-cifar10-clean": {**CIFAR10, "model": GLOW, "fit": {"num_steps": 4500, **CHOSEN}},
    "glow-cifar10-adversarial": {
        **CIFAR10,
        "model": GLOW,
        "fit": {"num_steps": 4500, **CHOSEN, **ADVERSARIAL},
    },
    "glow-cifar10-hybrid": {
        **CIFAR10,
        "model": GLOW,
        "fit": {"num_steps": 4500, **CHOSEN, **HYBRID},
    },
    "glow-celeba-clean": {**CELEBA, "model": GLOW, "fit": {"num_steps": 4500, **CHOSEN}},
    "glow-celeba-adversarial": {
        **CELEBA,
        "model": GLOW,
        "fit": {"num_steps": 4500, **CHOSEN, **ADVERSARIAL},
    },
    "glow-celeba-hybrid": {
        **CELEBA,
        "model": GLOW,
        "fit": {"num_steps": 4500, **CHOSEN, **HYBRID},
    },
    "realnvp-celeba-clean": {**CELEBA, "model": REALNVP, "fit": {"num_steps": 4000, **CHOSEN}},
    "tiny-clean": {**PHOTOS, "model": TINY, "fit": SHORT},  # 16x16: minutes, on any machine
    "tiny-adversarial": {
        **PHOTOS,
        "model": TINY,
        "fit": {**SHORT, **ADVERSARIAL, "eps_warmup_steps": 50, "attack_steps": 5},
    },
    "tiny-hybrid": {
        **PHOTOS,
        "model": TINY,
        "fit": {**SHORT, **HYBRID, "eps_warmup_steps": 50, "attack_steps": 5},
    },
}
# What --set may change: all of fit's keywords but those that have flags of their own.
FIT_OPTIONS = [
    name
    for name in inspect.signature(fit).parameters
    if name not in ("flow", "images", "validation", "checkpoint", "seed", "progress")
]
USES = ("train", "tune", "report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (130: interrupted)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(argv)
    arguments.command = _command(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, IndexError, ImportError, TrainingDiverged) as error:
        print(f"flowrob: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingDiverged) else 2


def train(arguments: argparse.Namespace) -> int:
    """fit() by a preset, scored on the images it was tuned on (else on the reporting ones)."""
    started, group, preset = time.monotonic(), join(), _with_images(arguments)
    settings = {**preset["fit"], **dict(arguments.set)}
    arguments.output = arguments.output or Path(f"{arguments.preset}.safetensors")
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {arguments.output.name!r}")
    if arguments.start:
        flow = zoo.load(arguments.start, "cpu")
    elif arguments.model:
        flow = flows.preset(arguments.model)
    else:
        builder, options = preset["model"]
        flow = getattr(flows, builder)(**options)
    flow.to(flowrob.device())
    images, scored = _load(preset, "train", flow), "tune" if preset["tune"] else "report"
    validation = _load(preset, "tune", flow) if preset["tune"] else None
    if validation is None and settings.pop("keep_best", False) and group.leads:
        print("no images to tune on: the last weights are kept, not the best", file=sys.stderr)
    history = fit(
        flow,
        images,
        validation=validation,
        checkpoint=arguments.checkpoint,
        seed=arguments.seed,
        progress=not arguments.quiet,
        **settings,
    )
    if history.interrupted:
        if group.leads:
            where = f"saved in {arguments.checkpoint}: the same command goes on from there"
            where = where if arguments.checkpoint else "nothing was saved: use --checkpoint PATH"
            print(f"interrupted after {len(history.loss)} steps; {where}", file=sys.stderr)
        return 130
    eps = settings.get("eps", 8.0) if settings.get("loss", "clean") != "clean" else 0
    held_out = _load(preset, scored, flow)
    table = _table(flow, held_out, sorted({0, round(eps)}), arguments, group, num_steps=20)
    facts = {
        "command": arguments.command,
        "preset": arguments.preset,
        "seed": arguments.seed,
        "data": {use: _describe(preset, use) for use in USES},
        "num_images": len(images),
        "start": os.path.basename(arguments.start) if arguments.start else None,
        "settings": _all_settings(settings),
        "training_seconds": round(history.seconds, 1),
        "scored_on": f"{scored}: {_describe(preset, scored)}",
        "rows": json.loads(table.to_json())["rows"],
        "validation": history.validation,
        **_circumstances(started, group),
    }
    if group.leads:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        zoo.save(flow, arguments.output, {"flow": flow.config, **facts})
        print(f"{arguments.output}: " + ", ".join(_sentence(row) for row in table.rows))
        _write(arguments.json, {**facts, "loss": [round(value, 4) for value in history.loss]})
    return 0


def attack(arguments: argparse.Namespace) -> int:
    """robustness_table() of a model on the images it is reported on."""
    started, group = time.monotonic(), join()
    flow, recipe = zoo.load(arguments.name), zoo.recipe(arguments.name)
    arguments.preset = recipe.get("preset", arguments.name)
    if arguments.preset not in PRESETS:
        arguments.preset = "glow-photos-clean"  # whose reporting images need no network
    preset = _with_images(arguments)
    images = _load(preset, "report", flow, arguments.limit)
    table = _table(
        flow,
        images,
        arguments.eps,
        arguments,
        group,
        num_steps=arguments.steps,
        restarts=arguments.restarts,
        schedule=arguments.schedule,
    )
    if group.leads:
        print(table.to_markdown())
        facts = {
            "command": arguments.command,
            "model": Path(arguments.name).stem,
            "data": _describe(preset, "report"),
            "seed": arguments.seed,
            **_circumstances(started, group),
        }
        _write(arguments.json, {**facts, **json.loads(table.to_json())})
    return 0


def models(arguments: argparse.Namespace) -> int:
    """One block per model that ships: its architecture, and how it was trained."""
    for name in zoo.names():
        recipe = zoo.recipe(name)
        print(f"{name}\n  {repr(zoo.load(name, 'cpu')).splitlines()[0]}")
        for key, value in recipe.items():
            if isinstance(value, str | int | float):
                print(f"  {key}: {value}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flowrob", description="Adversarial robustness of likelihoods."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, help: str) -> argparse.ArgumentParser:
        new = commands.add_parser(function.__name__, help=help, description=help)
        new.set_defaults(run=function)
        return new

    def images(parser: argparse.ArgumentParser, uses: Sequence[str]) -> None:
        parser.add_argument("--data", help="other images: a set's name, a folder, an .npz file")
        for use in uses:
            parser.add_argument(
                f"--{use}", type=_range, metavar="A:B", help=f"range of the images to {use} on"
            )
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")

    new = command(train, "Train a model by a preset; Ctrl-C saves the checkpoint and stops.")
    new.add_argument("--preset", required=True, choices=PRESETS, metavar="NAME", help=_known())
    new.add_argument("--checkpoint", type=Path, help="go on from there, if it exists, and save")
    new.add_argument("--output", type=Path, help="the weights; default: NAME.safetensors")
    new.add_argument("--start", help="warm start: a model of the zoo, or a .safetensors file")
    new.add_argument("--model", help=f"the paper's size: one of {', '.join(flows.PRESETS)}")
    new.add_argument(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help=f"change an argument of fit: {', '.join(FIT_OPTIONS)}",
    )
    images(new, USES)
    new = command(attack, "Attack a model's held-out images and print the table.")
    new.add_argument("name", help=f"a .safetensors file, or one of {', '.join(zoo.names())}")
    new.add_argument("--eps", type=int, nargs="+", default=[0, 1, 2, 4, 8], help="grey levels")
    new.add_argument("--limit", type=int, help="at most so many images")
    new.add_argument("--steps", type=int, default=20, help="of the attack (default: 20)")
    new.add_argument("--restarts", type=int, default=1)
    new.add_argument("--schedule", choices=("constant", "cosine", "auto"), default="cosine")
    images(new, ["report"])
    command(models, "List the models that ship with the package.")
    return parser


def _known() -> str:
    return "one of " + ", ".join(PRESETS)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 0:3200")
    return int(first), int(last)


def _option(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name not in FIT_OPTIONS:
        raise argparse.ArgumentTypeError(f"{name!r}: choose one of {', '.join(FIT_OPTIONS)}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _with_images(arguments: argparse.Namespace) -> dict:
    """The preset, with the images that the command line asks for instead."""
    preset = dict(PRESETS[arguments.preset])
    preset["data"] = arguments.data or preset["data"]
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


def _load(preset: dict, use: str, flow: flows.Flow, limit: int | None = None) -> Tensor:
    split, limits = preset[use]
    channels, size, _ = flow.event_shape
    indices = None if limits is None else slice(*limits)
    return data.load(
        preset["data"], split=split, size=size, channels=channels, indices=indices, limit=limit
    )


def _describe(preset: dict, use: str) -> str | None:
    if preset[use] is None:
        return None
    split, limits = preset[use]
    which = "all" if limits is None else f"{limits[0]}..{limits[1] - 1}"
    return f"{os.path.basename(preset['data'])}, {split or 'images'} {which}"


def _table(
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
        flow.log_prob if group.size == 1 else Sharded((flow.log_prob,), group),
        images.to(next(flow.parameters()).device),
        eps,
        generator=torch.Generator().manual_seed(arguments.seed),
        progress=group.leads and not arguments.quiet,
        attack_options=options,
    )


def _sentence(row: dict) -> str:
    return f"{row['mean']:.3f} bits/dim {row['row']} at eps {row['eps']}"


def _all_settings(settings: dict) -> dict:
    """The arguments of fit, defaults included."""
    parameters = inspect.signature(fit).parameters
    values = {name: settings.get(name, parameters[name].default) for name in FIT_OPTIONS}
    return {k: str(v) if v == math.inf else v for k, v in values.items()}  # strict JSON


def _circumstances(started: float, group: Group) -> dict:
    device = flowrob.device()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "duration_s": round(time.monotonic() - started, 1),
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


def _command(argv: Sequence[str]) -> str:
    """What was typed, without the folders, which mean nothing elsewhere."""
    words = [os.path.basename(word) if os.sep in word else word for word in argv]
    return "python -m flowrob " + shlex.join(words)


def _write(path: Path | None, content: dict) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
