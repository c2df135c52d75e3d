"""Does anything keep a hybrid model from hiding?  Three cures, three seeds, attacks that converge.

    python benchmarks/cures.py --json results/cures.json

All start from one base, trained clean, and go on for the same number of steps on clean and attacked
images:

    paper       the paper's recipe: one half attacked, ten steps from the image anew
    visits      an image stays under attack for 20 visits of 8 steps (training.Pool)
    longer      for 80 visits of 8 steps
    curvature   the paper's, and a penalty on what the linear expansion of the NLL misses:
                |NLL(x + d) - NLL(x) - d . grad NLL(x)| at the attack's d
    apart       the paper's, but an image is always attacked or never: no clean image has its own
                attacked version within its ball
    adversarial no clean images at all, ten steps from the image anew
"""

from __future__ import annotations

from dataclasses import replace

import torch
from resumable import Record
from small_rows import StepLoss, Workshop, arguments, attacked, budget_of, rows_of
from torch import Tensor

from flowrob.cli.recipes import RECIPES, Recipe
from flowrob.evaluation import pipe_table
from flowrob.flows import Flow
from flowrob.training import Loss, Pool
from flowrob.training.batches import Batch

EPS = 8


def _attacked(flow: Flow, loss: Loss, x: Tensor, step: int) -> Tensor:
    """x + delta*(x), by the loss's own attack."""
    generator = torch.Generator().manual_seed(step)
    return loss.perturb(flow, x, loss.radius(step, len(x), generator), loss.num_steps(step))


def curvature(loss: Loss, weight: float = 1.0) -> StepLoss:
    """The paper's hybrid loss, and ``weight`` times what the linear expansion misses."""

    def value(flow: Flow, batch: Batch, step: int) -> Tensor:
        half = loss.count(step, len(batch.x))
        moved = _attacked(flow, loss, batch.x[:half], step)
        x = batch.x[:half].requires_grad_()
        clean = flow.bits_per_dim(x)
        (slope,) = torch.autograd.grad(clean.sum(), x, create_graph=True)
        found = flow.bits_per_dim(moved)
        missed = (found - clean - ((moved - x) * slope).flatten(1).sum(1)).abs()
        others = flow.bits_per_dim(batch.x[half:])
        return torch.cat((found + weight * missed, others))

    return value


def apart(loss: Loss) -> StepLoss:
    """Images of even number are always attacked, the others never."""

    def value(flow: Flow, batch: Batch, step: int) -> Tensor:
        even = batch.indices % 2 == 0
        moved = _attacked(flow, loss, batch.x[even], step)
        return flow.bits_per_dim(torch.cat((moved, batch.x[~even])))

    return value


def kinds() -> dict[str, tuple[Recipe, StepLoss | None]]:
    """By label, how each is trained."""
    known = RECIPES["tiny-hybrid"]
    warm = known.loss.eps_warmup_steps
    fresh = Loss.of("hybrid", eps_warmup_steps=warm)
    paper = replace(known, loss=fresh)
    longer = replace(known.loss, memory=Pool(80))
    return {
        "paper": (paper, None),
        "visits": (known, None),
        "longer": (replace(known, loss=longer), None),
        "curvature": (paper, curvature(fresh)),
        "apart": (paper, apart(fresh)),
        "adversarial": (replace(paper, loss=replace(fresh, share=1.0)), None),
    }


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    budget, settings = budget_of(options)
    record = Record(options.json, "cures.py", settings | {"eps": EPS})
    recipe = RECIPES["tiny-hybrid"]
    report = recipe.images.load("report", recipe.build(), options.limit)
    print(pipe_table(["seed", "kind", "eps 0", "eps 8", "status", "gradients"], []))
    for seed in options.seeds:
        if record.has(seed=seed):
            continue
        shop = Workshop(options.folder, seed, recipe.images.load("train", recipe.build()))
        rows = []
        for label, (how, loss) in kinds().items():
            flow, seconds = shop.make(f"cure-{label}", how, loss)
            table = attacked({label: flow.log_prob}, report, (EPS,), budget)
            curve = table.settings["curves"][f"{label}, {EPS}"]
            facts = {
                "values": [round(v, 4) for v in table.by_eps(label)[1].tolist()],
                "curve": curve,
            }
            row = {"seed": seed, "kind": label, "seconds": seconds}
            rows.append(row | {"rows": rows_of(table, label)} | facts)
            clean, worst = rows[-1]["rows"]
            print(f"| {seed} | {label} | {clean['mean']:.3f} | {worst['mean']:.3f} | "
                  f"{worst['status']} | {worst['evaluations']} |", flush=True)  # fmt: skip
        record.add(*rows)


if __name__ == "__main__":
    main()
