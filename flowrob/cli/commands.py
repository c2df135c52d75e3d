"""The command line: train a model by a named recipe, attack one, reproduce a table, list the zoo.

    flowrob table 1 --scale laptop
    flowrob train --preset glow-photos-hybrid --checkpoint run.safetensors
    flowrob attack glow-photos-clean --eps 1 2 4 8
    flowrob models

``python -m flowrob`` is the same. Under torchrun the commands run on several processes or machines:

    torchrun --nproc-per-node 2 -m flowrob train --preset glow-photos-hybrid

Every run can leave a JSON file that says how it was made: command, seed, versions, data, duration.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import flowrob
from flowrob import flows, records, zoo
from flowrob._checks import checked
from flowrob.cli import paper_tables
from flowrob.cli.recipes import LADDERS, OPTIONS, RECIPES, TABLES, USES, Plan
from flowrob.cli.runs import Files, Run, attack_table, train_recipe
from flowrob.cli.side_by_side import train_side_by_side
from flowrob.training import TrainingDiverged


@checked
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (130: interrupted)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not all(isinstance(word, str) for word in argv):
        raise TypeError(f"argv must hold texts, got {argv!r}")
    given = _parser().parse_args(argv)
    try:
        if given.command is models:
            models()
            sys.stdout.flush()
            return 0
        records.check_writable(given.json)
        status = given.command(given, Run.begin(argv, given.seed, given.quiet))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, head perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, IndexError, ImportError, TrainingDiverged) as error:
        print(f"flowrob: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingDiverged) else 2


def train(given: argparse.Namespace, run: Run) -> int:
    """fit() by a recipe, scored on the images it was tuned on (else on the reporting ones)."""
    if given.preset in LADDERS:
        return _train_ladder(given, run)
    files = Files(given.output or Path(f"{given.preset}.safetensors"), given.checkpoint, given.json)
    if files.checkpoint is None and (every := dict(given.set).get("checkpoint_every")) is not None:
        raise ValueError(f"--set checkpoint_every={every} needs --checkpoint, a path to save to")
    recipe, ranges = RECIPES[given.preset], {use: getattr(given, use) for use in USES}
    recipe = replace(recipe, images=recipe.images.elsewhere(given.data, given.download, ranges))
    other = {"start": given.start, "model": given.model, "settings": given.set}
    return 130 if train_recipe(given.preset, recipe, files, run, **other) is None else 0


def _train_ladder(given: argparse.Namespace, run: Run) -> int:
    """Train the parts that do not lie beside the output yet; write what makes up the mixture."""
    output = given.output or Path(f"{given.preset}.json")
    if output.suffix != ".json":
        raise ValueError(f"--output of a ladder must end in .json, got {output.name!r}")
    for option in ("checkpoint", "json", "start", "model"):
        if getattr(given, option) is not None:
            raise ValueError(f"--{option} means nothing for a ladder: each part has its own files")
    for option in (name for name, _ in given.set if name in ("loss", "share", "eps")):
        raise ValueError(f"--set {option}: the parts of a ladder differ in it, it cannot be set")
    ranges, parts = {use: getattr(given, use) for use in USES}, LADDERS[given.preset]
    for name in parts.values():
        recipe, files = RECIPES[name], Files.inside(output.parent, name)
        images = recipe.images.elsewhere(given.data, given.download, ranges)
        recipe = replace(recipe, images=images)
        if files.output.exists():
            continue
        if train_recipe(name, recipe, files, run, settings=given.set) is None:
            return 130
        run.group.wait(flowrob.device())  # for the first process's file
    if run.group.leads:
        files = {label: f"{name}.safetensors" for label, name in parts.items()}
        run.say(str(zoo.save_mixture(output, files)))
    return 0


def table(given: argparse.Namespace, run: Run) -> int:
    """One of the paper's tables from nothing: train what is not there yet, attack all, print."""
    plan = TABLES.get((given.number, given.scale))
    if plan is None:
        known = ", ".join(f"{number} --scale {scale}" for number, scale in TABLES)
        raise ValueError(f"no table {given.number} --scale {given.scale}: one of {known}")
    stem, elsewhere, recipes = f"table-{given.number}-{given.scale}", dict(given.data), {}
    folder, paths = given.folder or Path(stem), {}
    for name in plan.models.values():
        RECIPES[name].changed(given.set)  # refuses wrong settings before anything is trained
    if given.shipped:
        plan = _only(plan, zoo.names(), "not shipped", run)
    elif given.no_training:
        there = [name for name in RECIPES if Files.inside(folder, name).output.exists()]
        plan = _only(plan, there, f"not in {folder}", run)
    if run.group.leads:
        records.check_writable(folder / f"{stem}.json")
    if given.max_steps is not None:
        plan = plan.searching(given.max_steps)
    if given.jobs > 1 and not given.shipped:
        how = {"data": elsewhere, "download": given.download, "settings": given.set}
        if status := train_side_by_side(plan.models.values(), folder, given.jobs, run, **how):
            return status
    for label, name in plan.models.items():
        images = RECIPES[name].images
        ranges = dict.fromkeys(USES)
        images = images.elsewhere(elsewhere.get(images.data), given.download, ranges)
        recipes[label], files = replace(RECIPES[name], images=images), Files.inside(folder, name)
        paths[label] = name if given.shipped else files.output
        if given.shipped or files.output.exists():
            continue
        if train_recipe(name, recipes[label], files, run, settings=given.set) is None:
            return 130
        run.group.wait(flowrob.device())  # for the first process's file
    models, attacking = {label: zoo.load(path) for label, path in paths.items()}, time.monotonic()
    limit = plan.num_images if given.limit is None else given.limit
    result, facts = paper_tables.attack_models(plan, models, recipes, run, limit)
    attacking = time.monotonic() - attacking
    if run.group.leads:
        content = {
            **run.circumstances(),
            "table": given.number,
            "scale": given.scale,
            "title": plan.title,
            "seed": run.seed,
            "data": {
                plan.models[label]: {use: recipe.images.describe(use) for use in USES}
                for label, recipe in recipes.items()
            },
            "models": list(plan.models.values()),
            "training_seconds": _training_seconds(paths, plan.models),
            "attack_seconds": round(attacking, 1),
            **facts,
            **result.content(),
        }
        content = records.plain(content)
        records.write_json(given.json or folder / f"{stem}.json", content)
        run.say(paper_tables.layout(content))
    return 0


def _only(plan: Plan, names: Sequence[str], why: str, run: Run) -> Plan:
    """The plan of those of its models that are among these names; the others are told."""
    fewer = plan.among(names)
    if absent := [name for name in plan.models.values() if name not in fewer.models.values()]:
        run.say(f"{why}, and left out: {', '.join(absent)}", error=True)
    needed = {"clean", "adversarial"} if plan.baselines else set()
    if not fewer.models or needed - {*fewer.models}:
        raise ValueError(f"{why}: {', '.join(absent)}; without them there is no table")
    return fewer


def _training_seconds(paths: dict, names: dict[str, str]) -> dict[str, float]:
    """By recipe, those of the bases that lie beside them included."""
    seconds = {name: zoo.recipe(paths[label])["training_seconds"] for label, name in names.items()}
    for label, name in names.items():
        base = Path(paths[label]).parent / f"{RECIPES[name].start}.safetensors"
        if isinstance(paths[label], Path) and base.exists():
            seconds[RECIPES[name].start] = zoo.recipe(base)["training_seconds"]
    return seconds


def attack(given: argparse.Namespace, run: Run) -> int:
    """robustness_table() of a model on the images it is reported on."""
    flow, recipe = zoo.load(given.name), zoo.recipe(given.name)
    preset = recipe.get("preset", given.name)
    known = RECIPES.get(str(preset), RECIPES["glow-photos-clean"])  # whose images need no network
    images = known.images.elsewhere(given.data, given.download, {"report": given.report})
    options = {"num_steps": given.steps, "restarts": given.restarts, "schedule": given.schedule}
    chosen = images.load("report", flow, given.limit)
    groups = images.groups("report", flow, given.limit)
    table = attack_table(flow, chosen, given.eps, run, groups, **options)
    run.say(table.to_markdown())
    if run.group.leads:
        facts = {"model": Path(given.name).stem, "data": images.describe("report")}
        content = {**run.circumstances(), **facts, "seed": run.seed, **table.content()}
        records.write_json(given.json, content)
    return 0


def models() -> int:
    """One block per model that ships: its architecture, and how it was trained."""
    for name in zoo.names():
        print(f"{name}\n  {repr(zoo.load(name, 'cpu')).splitlines()[0]}")
        for key, value in zoo.recipe(name).items():
            if key == "parts":  # of a mixture: by label, their recipes
                value = ", ".join(f"{label}: {part['preset']}" for label, part in value.items())
            elif isinstance(value, dict) and key in ("data", "settings"):
                value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
            if isinstance(value, str | int | float):
                print(f"  {key}: {value}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowrob", description="Adversarial robustness of likelihoods."
    )
    version = f"flowrob {flowrob.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, help, add in (
        (train, "Train a model by a recipe; Ctrl-C saves the checkpoint and stops.", _of_train),
        (attack, "Attack a model's held-out images and print the table.", _of_attack),
        (table, "Reproduce a table of the paper: train its models, attack, record.", _of_table),
        (models, "List the models that ship with the package.", lambda new: None),
    ):
        new = commands.add_parser(function.__name__, help=help, description=help)
        new.set_defaults(command=function)
        add(new)
    return parser


def _of_train(new: argparse.ArgumentParser) -> None:
    known = [*RECIPES, *LADDERS]
    names = "one of " + ", ".join(known)
    new.add_argument("--preset", required=True, choices=known, metavar="NAME", help=names)
    new.add_argument("--checkpoint", type=Path, help="go on from there, if it exists, and save")
    new.add_argument(
        "--output", type=Path, help="the weights; default: NAME.safetensors, of a ladder NAME.json"
    )
    new.add_argument("--start", help="warm start: a model of the zoo, or a .safetensors file")
    new.add_argument("--model", help=f"the paper's size: one of {', '.join(flows.PUBLISHED)}")
    _add_images(new, USES)
    _add_settings(new)


def _of_attack(new: argparse.ArgumentParser) -> None:
    new.add_argument("name", help=f"a .safetensors file, or one of {', '.join(zoo.names())}")
    new.add_argument("--eps", type=int, nargs="+", default=[0, 1, 2, 4, 8], help="grey levels")
    new.add_argument("--limit", type=int, help="at most so many images")
    new.add_argument("--steps", type=int, default=20, help="of the attack (default: 20)")
    new.add_argument("--restarts", type=int, default=1)
    new.add_argument("--schedule", choices=("constant", "cosine", "auto"), default="cosine")
    _add_images(new, ["report"])


def _of_table(new: argparse.ArgumentParser) -> None:
    new.add_argument("number", choices=list(dict.fromkeys(number for number, _ in TABLES)))
    new.add_argument("--scale", choices=("laptop", "paper"), default="laptop")
    new.add_argument(
        "--folder", type=Path, help="weights, checkpoints and records; goes on with what is there"
    )
    new.add_argument("--shipped", action="store_true", help="the weights that ship, no training")
    new.add_argument(
        "--no-training", action="store_true", help="only the models that --folder holds already"
    )
    new.add_argument(
        "--data",
        type=_set_and_path,
        action="append",
        default=[],
        metavar="SET=PATH",
        help="where the images of a set are: a folder, or an .npz file",
    )
    new.add_argument(
        "--limit", type=int, help="attack at most so many images (default: as on record)"
    )
    new.add_argument(
        "--max-steps",
        type=int,
        help="of an ascent of the search that goes on until it has converged; 0: no search",
    )
    new.add_argument(
        "--jobs",
        type=_jobs,
        default=1,
        metavar="N",
        help="train N models at a time, which share the cores: on 2 cores faster with 2",
    )
    _add_common(new)
    _add_settings(new)


def _add_images(parser: argparse.ArgumentParser, uses: Sequence[str]) -> None:
    parser.add_argument("--data", help="other images: a set's name, a folder, an .npz file")
    for use in uses:
        parser.add_argument(
            f"--{use}", type=_range, metavar="A:B", help=f"range of the images to {use} on"
        )
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--download", action="store_true", help="the set, if it is not here")
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help=f"change what training is told: {', '.join(OPTIONS)}",
    )


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2^63 - 1")
    return int(text)


def _jobs(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, 1 or more")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 0:3200")
    return int(first), int(last)


def _set_and_path(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    known = sorted({recipe.images.data for recipe in RECIPES.values()})
    if name not in known or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: write SET=PATH, SET one of {', '.join(known)}")
    return name, path


def _option(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name not in OPTIONS:
        raise argparse.ArgumentTypeError(f"{name!r}: choose one of {', '.join(OPTIONS)}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
