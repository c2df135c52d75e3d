"""The command line: train a model by a named recipe, attack one, reproduce a table, list the zoo.

    python -m flowrob table 1 --scale laptop
    python -m flowrob train --preset glow-photos-hybrid --checkpoint run.safetensors
    python -m flowrob attack glow-photos-clean --eps 1 2 4 8
    python -m flowrob models

Under torchrun the same commands run on several processes or machines:

    torchrun --nproc-per-node 2 -m flowrob train --preset glow-photos-hybrid

Every run can leave a JSON file that says how it was made: command, seed, versions, data, duration.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import flowrob
from flowrob import flows, reproduce, zoo
from flowrob.distributed import Group, join
from flowrob.presets import PRESETS, TABLES, USES
from flowrob.runs import (
    FIT_OPTIONS,
    all_settings,
    attack_table,
    circumstances,
    command_line,
    describe,
    load,
    with_images,
    write,
)
from flowrob.training import TrainingDiverged, fit


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (130: interrupted)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(argv)
    arguments.command = command_line(argv)
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
    return 130 if _trained(arguments, join()) is None else 0


def _trained(arguments: argparse.Namespace, group: Group) -> flows.Flow | None:
    """The flow, its files written; None if it was interrupted."""
    started, preset = time.monotonic(), with_images(arguments)
    settings = {**preset["fit"], **dict(arguments.set)}
    arguments.output = arguments.output or Path(f"{arguments.preset}.safetensors")
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {arguments.output.name!r}")
    flow, start = _start(arguments, preset, group)  # start: the name and recipe of a warm start
    if flow is None:
        return None
    flow.to(flowrob.device())
    images, scored = load(preset, "train", flow), "tune" if preset["tune"] else "report"
    validation = load(preset, "tune", flow) if preset["tune"] else None
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
        return None
    eps = settings.get("eps", 8.0) if settings.get("loss", "clean") != "clean" else 0
    held_out = load(preset, scored, flow)
    table = attack_table(flow, held_out, sorted({0, round(eps)}), arguments, group, num_steps=20)
    facts = {
        "command": arguments.command,
        "preset": arguments.preset,
        "seed": arguments.seed,
        "data": {use: describe(preset, use) for use in USES},
        "num_images": len(images),
        "start": start and start[0],
        "start_recipe": start and start[1],
        "settings": all_settings(settings),
        "training_seconds": round(history.seconds, 1),
        "scored_on": f"{scored}: {describe(preset, scored)}",
        "rows": json.loads(table.to_json())["rows"],
        "validation": history.validation,
        **circumstances(time.monotonic() - started, group),
    }
    if group.leads:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        zoo.save(flow, arguments.output, {"flow": flow.config, **facts})
        print(f"{arguments.output}: " + ", ".join(_sentence(row) for row in table.rows))
        write(arguments.json, {**facts, "loss": [round(value, 4) for value in history.loss]})
    return flow


def _start(
    arguments: argparse.Namespace, preset: dict, group: Group
) -> tuple[flows.Flow | None, tuple[str, dict] | None]:
    """What the run begins with, and, of a warm start, its name and recipe.

    The base of a preset is taken from beside the output, and trained first if it is not there.
    """
    if arguments.start:
        name = os.path.basename(arguments.start)
        return zoo.load(arguments.start, "cpu"), (name, zoo.recipe(arguments.start))
    if arguments.model:
        return flows.preset(arguments.model), None
    if "start" not in preset:
        builder, options = preset["model"]
        return getattr(flows, builder)(**options), None
    path = arguments.output.parent / f"{preset['start']}.safetensors"
    if path.exists():
        return zoo.load(path, "cpu"), (path.name, zoo.recipe(path))
    base = copy.copy(arguments)
    base.preset, base.output, base.json = preset["start"], path, None
    base.set = [pair for pair in arguments.set if pair[0] not in ("loss", "adversarial_share")]
    if arguments.checkpoint:
        base.checkpoint = path.with_suffix(".checkpoint.safetensors")
    flow = _trained(base, group)
    group.any(False, flowrob.device())  # wait for the first process's file
    return flow, None if flow is None else (path.name, zoo.recipe(path))


def table(arguments: argparse.Namespace) -> int:
    """One of the paper's tables from nothing: train what is not there yet, attack all, print."""
    plan = TABLES.get((arguments.number, arguments.scale))
    if plan is None:
        known = ", ".join(f"{number} --scale {scale}" for number, scale in TABLES)
        raise ValueError(f"no table {arguments.number} --scale {arguments.scale}: one of {known}")
    started, group, stem = time.monotonic(), join(), f"table-{arguments.number}-{arguments.scale}"
    folder = arguments.folder or Path(stem)
    record = arguments.json or folder / f"{stem}.json"
    elsewhere, paths, presets = dict(arguments.data), {}, {}
    for name in plan.models:
        options = ["--preset", name, "--seed", str(arguments.seed)]
        if PRESETS[name]["data"] in elsewhere:
            options += ["--data", elsewhere[PRESETS[name]["data"]]]
        files = {"output": "", "checkpoint": ".checkpoint"}
        for what, part in files.items():
            options += [f"--{what}", str(folder / f"{name}{part}.safetensors")]
        options += ["--json", str(folder / f"{name}.json")]
        options += [flag for flag in ("--quiet", "--download") if getattr(arguments, flag[2:])]
        one = _parser().parse_args(["train", *options])
        one.command, one.set = command_line(["train", *options]), arguments.set
        presets[name] = with_images(one)
        if arguments.shipped:
            paths[name] = name
            continue
        paths[name] = one.output
        if not one.output.exists() and _trained(one, group) is None:
            return 130
        group.any(False, flowrob.device())  # wait for the first process's file
    models = {name: zoo.load(path) for name, path in paths.items()}
    attacking = time.monotonic()
    result, facts = reproduce.attack_models(plan, models, presets, arguments, group)
    attacking = time.monotonic() - attacking
    recipes = {name: zoo.recipe(path) for name, path in paths.items()}
    seconds = {name: recipe["training_seconds"] for name, recipe in recipes.items()}
    for name in {PRESETS[name].get("start") for name in plan.models} - {None}:
        if (base := folder / f"{name}.safetensors").exists() and not arguments.shipped:
            seconds[name] = zoo.recipe(base)["training_seconds"]
    if group.leads:
        content = {
            "command": arguments.command,
            "table": arguments.number,
            "scale": arguments.scale,
            "title": plan.title,
            "seed": arguments.seed,
            "data": {n: {use: describe(presets[n], use) for use in USES} for n in models},
            "models": list(models),
            "training_seconds": seconds,
            "attack_seconds": round(attacking, 1),
            **facts,
            **circumstances(time.monotonic() - started, group),
            **json.loads(result.to_json()),
        }
        write(record, content)
        print(reproduce.layout(content))
    return 0


def attack(arguments: argparse.Namespace) -> int:
    """robustness_table() of a model on the images it is reported on."""
    started, group = time.monotonic(), join()
    flow, recipe = zoo.load(arguments.name), zoo.recipe(arguments.name)
    arguments.preset = recipe.get("preset", arguments.name)
    if arguments.preset not in PRESETS:
        arguments.preset = "glow-photos-clean"  # whose reporting images need no network
    preset = with_images(arguments)
    images = load(preset, "report", flow, arguments.limit)
    table = attack_table(
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
            "data": describe(preset, "report"),
            "seed": arguments.seed,
            **circumstances(time.monotonic() - started, group),
        }
        write(arguments.json, {**facts, **json.loads(table.to_json())})
    return 0


def models(arguments: argparse.Namespace) -> int:
    """One block per model that ships: its architecture, and how it was trained."""
    for name in zoo.names():
        recipe = zoo.recipe(name)
        print(f"{name}\n  {repr(zoo.load(name, 'cpu')).splitlines()[0]}")
        for key, value in recipe.items():
            if isinstance(value, dict) and key in ("data", "settings"):
                value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
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
        parser.add_argument("--download", action="store_true", help="the set, if it is not here")
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
    new = command(table, "Reproduce a table of the paper: train its models, attack, print, record.")
    numbers = list(dict.fromkeys(number for number, _ in TABLES))
    new.add_argument("number", choices=numbers)
    new.add_argument("--scale", choices=("laptop", "paper"), default="laptop")
    new.add_argument(
        "--folder", type=Path, help="weights, checkpoints and records; goes on with what is there"
    )
    new.add_argument("--shipped", action="store_true", help="the weights that ship, no training")
    new.add_argument(
        "--data",
        type=_set_and_path,
        action="append",
        default=[],
        metavar="SET=PATH",
        help="where the images of a set are: a folder, or an .npz file",
    )
    new.add_argument("--download", action="store_true", help="the sets that are not here")
    new.add_argument("--limit", type=int, help="attack at most so many images")
    new.add_argument("--set", type=_option, action="append", default=[], metavar="OPTION=VALUE")
    new.add_argument("--seed", type=int, default=0)
    new.add_argument("--json", type=Path, metavar="PATH", help="default: in the folder")
    new.add_argument("--quiet", action="store_true", help="no progress bars")
    command(models, "List the models that ship with the package.")
    return parser


def _known() -> str:
    return "one of " + ", ".join(PRESETS)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 0:3200")
    return int(first), int(last)


def _set_and_path(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    known = sorted({preset["data"] for preset in PRESETS.values()})
    if name not in known or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: write SET=PATH, SET one of {', '.join(known)}")
    return name, path


def _option(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name not in FIT_OPTIONS:
        raise argparse.ArgumentTypeError(f"{name!r}: choose one of {', '.join(FIT_OPTIONS)}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _sentence(row: dict) -> str:
    return f"{row['mean']:.3f} bits/dim {row['row']} at eps {row['eps']}"


if __name__ == "__main__":
    sys.exit(main())
