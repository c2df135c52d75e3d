"""Small robust rows, in minutes on two cores: Glows on 16x16 photographs, by seed.

What benchmarks/cures.py and benchmarks/ladder.py share: models trained by the recipes tiny-*, each
seed from its own first weights, kept in a folder so that an interrupted run goes on; a training
loop for losses that `training.fit` does not know; attacks that converge; the record.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from flowrob import zoo
from flowrob.attacks import Objective
from flowrob.cli.recipes import RECIPES, Recipe
from flowrob.evaluation import Budget, Table, converged_table
from flowrob.flows import Flow
from flowrob.training import fit
from flowrob.training.batches import Batch, Batches
from flowrob.training.update import set_weights, weights_of
from flowrob.units import dequantize

#: loss(flow, batch, step): bits/dim of every image of the batch, and penalties, to be averaged.
StepLoss = Callable[[Flow, Batch, int], Tensor]


def descend(flow: Flow, images: Tensor, loss: StepLoss, recipe: Recipe, seed: int) -> None:
    """The loop of `fit`, without its guards, on another loss; ends with the averaged weights."""
    batches = Batches(images, recipe.batch_size, recipe.flips, seed)
    optimizer, ema = recipe.update.start(flow), weights_of(flow)
    flow.train()
    for step in range(recipe.num_steps):
        value = loss(flow, batches.draw(step), step).mean()
        norm = recipe.update.differentiate(flow, optimizer, value)
        if not norm < float("inf"):
            raise RuntimeError(f"the gradient is not finite in step {step}: norm {norm}")
        recipe.update.apply(optimizer, step, recipe.num_steps)
        recipe.update.average(ema, flow, step)
    set_weights(flow, ema)
    flow.eval()


@dataclass(frozen=True)
class Workshop:
    """Where the models of one seed are made and kept.

    Attributes:
        folder: of all seeds.
        seed: of first weights, batches and attacks.
        images: (N, C, H, W) uint8, to train on.
    """

    folder: Path
    seed: int
    images: Tensor

    def make(
        self, name: str, recipe: Recipe | None = None, loss: StepLoss | None = None
    ) -> tuple[Flow, float]:
        """A model, trained if it is not there yet, and how many seconds its training took.

        Its start, if its recipe has one, comes first; its seconds are not counted.

        Args:
            name: of the recipe, or of a new one.
            recipe: default: the known one.
            loss: in the place of the recipe's.
        """
        path = self.folder / f"{name}-seed{self.seed}.safetensors"
        if not path.exists():
            recipe = recipe or RECIPES[name]
            flow = self.make(recipe.start)[0] if recipe.start else self.begin(recipe)
            started = time.process_time()
            if loss is None:
                how = {"update": recipe.update, "flips": recipe.flips, "seed": self.seed}
                size = {"num_steps": recipe.num_steps, "batch_size": recipe.batch_size}
                fit(flow, self.images, recipe.loss, **size, **how, progress=False)
            else:
                descend(flow, self.images, loss, recipe, self.seed)
            zoo.save(flow, path, {"seconds": time.process_time() - started, "seed": self.seed})
        return zoo.load(path, "cpu"), zoo.recipe(path)["seconds"]

    def descend(self, flow: Flow, recipe: Recipe, loss: StepLoss) -> float:
        """Train an initialised or new flow on another loss; returns the seconds."""
        started = time.process_time()
        if not all(bool(flag) for name, flag in flow.named_buffers() if "initialized" in name):
            generator = torch.Generator().manual_seed(self.seed)
            chosen = torch.randperm(len(self.images), generator=generator)[:256]
            flow.initialize(dequantize(self.images[chosen], generator))
        descend(flow, self.images, loss, recipe, self.seed)
        return time.process_time() - started

    def begin(self, recipe: Recipe) -> Flow:
        """The untrained flow, with first weights of this seed."""
        return recipe.build(torch.Generator().manual_seed(self.seed))


def attacked(
    models: Mapping[str, Objective | nn.Module],
    images: Tensor,
    eps: tuple[int, ...],
    budget: Budget,
) -> Table:
    """Bits/dim of the images under attacks that converge; the same seed for all."""
    generator = torch.Generator().manual_seed(0)
    how = {"generator": generator, "budget": budget}
    return converged_table(models, images, (0, *eps), **how, num_resamples=1)


def rows_of(table: Table, label: str) -> list[dict]:
    """Mean, status and cost at each eps of one model."""
    keys = ("eps", "mean", "median", "status", "steps", "evaluations")
    rows = [row for row in table.rows if row["model"] == label]
    return [{k: row[k] for k in keys if k in row} for row in rows]


def arguments(text: str) -> argparse.ArgumentParser:
    """What both benchmarks take."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--limit", type=int, default=16, help="images attacked")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, default=160, help="of the longest ascent")
    parser.add_argument("--folder", type=Path, default=Path("small-rows"), help="for the weights")
    parser.add_argument("--json", type=Path, help="write the record there, and go on from it")
    return parser


def budget_of(options: argparse.Namespace) -> tuple[Budget, dict]:
    """The budget, and the settings that a record must share."""
    budget = Budget(min(20, options.max_steps), options.max_steps, enough=12.0)
    return budget, {"limit": options.limit, "budget": asdict(budget)}
