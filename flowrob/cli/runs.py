"""Runs: a recipe trained, a model attacked, and the record that each leaves."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import flowrob
from flowrob import flows, records, zoo
from flowrob.cli.recipes import RECIPES, USES, Recipe
from flowrob.distributed import Group, join, sharded
from flowrob.evaluation import Table, robustness_table
from flowrob.training import Checkpoint, History, Validation, fit


@dataclass(frozen=True)
class Run:
    """What all parts of one command share.

    Attributes:
        command: as it was typed, without folders.
        seed: of training and attacks.
        quiet: no progress bars.
        started: ``time.monotonic()`` at its beginning.
        group: of processes that share the work.
    """

    command: str
    seed: int
    quiet: bool
    started: float
    group: Group

    @classmethod
    def begin(cls, argv: Sequence[str], seed: int, quiet: bool) -> Run:
        """The run of a command line, from now on."""
        command = records.command_line("python -m flowrob", argv)
        return cls(command, seed, quiet, time.monotonic(), join())

    @property
    def progress(self) -> bool:
        """Whether to show bars: in one process of all."""
        return self.group.leads and not self.quiet

    def circumstances(self) -> dict:
        """Command, date, duration, versions, machine."""
        return records.circumstances(self.started, self.command, processes=self.group.size)

    def say(self, text: str, error: bool = False) -> None:
        """Print, in one process of all."""
        if self.group.leads:
            print(text, file=sys.stderr if error else sys.stdout)


@dataclass(frozen=True)
class Files:
    """Where the parts of a training run go.

    Attributes:
        output: the weights, a .safetensors file. The base of a recipe is looked for, and put,
            beside it.
        checkpoint: to go on from and to save, or None.
        record: results as JSON, or None.
    """

    output: Path
    checkpoint: Path | None = None
    record: Path | None = None

    def __post_init__(self) -> None:
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output must end in .safetensors, got {self.output.name!r}")

    @classmethod
    def inside(cls, folder: Path, name: str) -> Files:
        """All three in a folder, called after the recipe."""
        checkpoint = folder / f"{name}.checkpoint.safetensors"
        return cls(folder / f"{name}.safetensors", checkpoint, folder / f"{name}.json")

    def of_base(self, name: str) -> Files:
        """Those of the base: beside these, without a record."""
        output = self.output.parent / f"{name}.safetensors"
        return Files(output, self.checkpoint and output.with_suffix(".checkpoint.safetensors"))


def train_recipe(
    name: str,
    recipe: Recipe,
    files: Files,
    run: Run,
    *,
    start: str | None = None,
    model: str | None = None,
    settings: Sequence[tuple[str, object]] = (),
) -> flows.Flow | None:
    """Train what a recipe says, its base first if that is not there; write weights and record.

    Args:
        name: of the recipe.
        recipe: perhaps with other images than the one of that name; settings not yet applied.
        files: where everything goes.
        run: the command it belongs to.
        start: warm start, a model of the zoo or a .safetensors file, in the place of the base.
        model: one of :data:`flowrob.flows.PUBLISHED`, in the place of the recipe's.
        settings: values of :data:`~flowrob.cli.recipes.OPTIONS`, for the recipe and for its base.

    Returns:
        The flow, scored on the images it was tuned on (else on the reporting ones); None if it was
        interrupted.
    """
    whole = recipe.changed(settings)
    if run.group.leads:  # before hours of work, those on a base included
        records.check_writable(files.output, files.record, files.checkpoint)
    if whole.keep_best and not whole.images.tune:
        run.say("no images to tune on: the last weights are kept, not the best", error=True)
        whole = replace(whole, keep_best=False)
    started, begun_with = time.monotonic(), start
    if start is None and model is None and recipe.start:
        base = files.of_base(recipe.start)
        if not base.output.exists():
            of_base = replace(RECIPES[recipe.start], images=recipe.images)
            known = for_the_base(settings)
            if train_recipe(recipe.start, of_base, base, run, settings=known) is None:
                return None
            run.group.wait(flowrob.device())  # for the first process's file
        begun_with = str(base.output)
    if begun_with is not None:
        flow = zoo.load(begun_with, "cpu")
    else:
        first = torch.Generator().manual_seed(run.seed)  # draws the first weights
        flow = flows.published(model, generator=first) if model else recipe.build(first)
    flow.to(flowrob.device())
    images, history = _fit(flow, whole, files, run)
    if history.interrupted:
        return None
    facts = {
        "preset": name,
        "seed": run.seed,
        "data": {use: whole.images.describe(use) for use in USES},
        "num_images": len(images),
        "start": begun_with and Path(begun_with).name,
        "start_recipe": begun_with and zoo.recipe(begun_with),
        "settings": records.plain(whole.settings()),
        "training_seconds": round(history.seconds, 1),
        "validation": history.validation,
    }
    try:
        facts |= _scored(flow, whole, run)
    finally:  # whatever happens to the scores, the weights of a finished run are kept
        facts |= replace(run, started=started).circumstances()
        if run.group.leads:
            _keep(flow, files.output, {"flow": flow.config, **facts}, run)
    if run.group.leads:
        run.say(f"{files.output}: " + ", ".join(_sentence(row) for row in facts["rows"]))
        losses = [round(value, 4) for value in history.loss]
        records.write_json(files.record, {**facts, "loss": losses})
    return flow


def for_the_base(settings: Sequence[tuple[str, object]]) -> list[tuple[str, object]]:
    """The settings of a recipe that its base shares: all but whom its loss attacks."""
    return [pair for pair in settings if pair[0] not in ("loss", "share")]


def _keep(flow: flows.Flow, output: Path, recipe: dict, run: Run) -> None:
    """Save the weights; if their place has no room any more, in the folder for temporary files."""
    try:
        zoo.save(flow, output, recipe)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="flowrob-"))
        run.say(f"the weights are in {zoo.save(flow, folder / output.name, recipe)}", error=True)
        raise


def _fit(flow: flows.Flow, recipe: Recipe, files: Files, run: Run) -> tuple[Tensor, History]:
    """Training by the recipe: its images, and what happened."""
    images, validation = recipe.images.load("train", flow), None
    if recipe.images.tune:
        tuning = recipe.images.load("tune", flow)
        validation = Validation(tuning, recipe.validate_every, recipe.keep_best)
    checkpoint = files.checkpoint and Checkpoint(files.checkpoint, recipe.checkpoint_every)
    history = fit(
        flow,
        images,
        recipe.loss,
        num_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        update=recipe.update,
        flips=recipe.flips,
        validation=validation,
        checkpoint=checkpoint,
        guard=recipe.guard,
        seed=run.seed,
        progress=not run.quiet,
    )
    if history.interrupted:
        where = f"saved in {files.checkpoint}: the same command goes on from there"
        where = where if checkpoint else "nothing was saved: use --checkpoint PATH"
        run.say(f"interrupted after {len(history.loss)} steps; {where}", error=True)
    return images, history


def _scored(flow: flows.Flow, recipe: Recipe, run: Run) -> dict:
    """Clean and, if it was trained under attack, attacked bits/dim of a fresh model."""
    use = "tune" if recipe.images.tune else "report"
    eps = {0, round(recipe.loss.eps)} if recipe.loss.share else {0}
    images, groups = recipe.images.load(use, flow), recipe.images.groups(use, flow)
    table = attack_table(flow, images, sorted(eps), run, groups, num_steps=20)
    return {"scored_on": f"{use}: {recipe.images.describe(use)}", "rows": records.plain(table.rows)}


def attack_table(
    flow: flows.Flow,
    images: Tensor,
    eps: Sequence[int],
    run: Run,
    groups: Tensor | None = None,
    **options,
) -> Table:
    """The same table from one process or many, which then share the images."""
    return robustness_table(
        sharded(flow.log_prob, run.group),
        images.to(next(flow.parameters()).device),
        eps,
        generator=torch.Generator().manual_seed(run.seed),
        groups=groups,
        progress=run.progress,
        attack_options=options,
    )


def _sentence(row: Mapping) -> str:
    return f"{row['mean']:.3f} bits/dim {row['row']} at eps {row['eps']}"
