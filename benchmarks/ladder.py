"""The ladder and its rivals: same small size, same time, three seeds, attacks that converge.

    python benchmarks/ladder.py --json results/ladder.json \\
        --posterior glow-cifar10-ladder=PATH.npz glow-photos-ladder

Rows, on 16x16 photographs: every model of the row `tiny` (clean, adversarial, two hybrids, the
ladder's parts) and three densities made of them or like them:

    ladder      the mean of five Glows, trained adversarially at eps 0, 1, 2, 4 and 8
    pair        the mean of two, clean and adversarial, each wide enough that the two have as many
                parameters as the five
    told k      one Glow with as many parameters as the five, whose conditioners are told k, trained
                at a radius drawn for each image, and averaged over k

Then, of ladders that ship and of the first small one: what the posterior p(k | x) makes of images
that were perturbed by k grey levels, by noise, by an attack on the ladder, and by one that wants to
be taken for a clean image.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from resumable import Record
from small_rows import Workshop, arguments, attacked, budget_of, rows_of
from torch import Tensor, nn

from flowrob import zoo
from flowrob.attacks import attack_images, dequantization_noise
from flowrob.cli.recipes import LADDERS, RECIPES, RUNGS, Recipe
from flowrob.evaluation import mixture, mixture_bound, pipe_table
from flowrob.evaluation.bits import integer_noise
from flowrob.flows import AffineCoupling, Flow, FlowMixture
from flowrob.training import Loss
from flowrob.training.batches import Batch
from flowrob.units import bits_per_dim

EPS = (1, 2, 4, 8)
RADII = (0, *RUNGS, 8)  # of the ladder's parts
SINGLE = ("clean", "adversarial", "hybrid", "hybrid-fresh", *(f"eps{eps}" for eps in RUNGS))


class ToldNet(nn.Module):
    """A conditioner that sees k: its first layer has a bias of its own for every k.

    Args:
        net: the conditioner: layers whose first is a convolution, or one convolution alone.
        num: how many values k has.
    """

    def __init__(self, net: nn.Module, num: int):
        super().__init__()
        layers = [*net] if isinstance(net, nn.Sequential) else [net]
        self.first, self.others = layers[0], nn.Sequential(*layers[1:])
        self.bias = nn.Parameter(torch.zeros(num, self.first.out_channels))
        self.k: Tensor | int = 0

    def forward(self, x: Tensor) -> Tensor:
        """net(x), with b_k added behind its first layer; k one for all, or one for each x."""
        told = self.bias[torch.as_tensor(self.k).expand(len(x))][:, :, None, None]
        return self.others(self.first(x) + told)


class Told(nn.Module):
    """x -> log p(x | k) of a flow whose conditioners are :class:`ToldNet`."""

    def __init__(self, flow: Flow, k: Tensor | int):
        super().__init__()
        self.flow, self.k = flow, k

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x | k), shape (batch,), nats."""
        for module in self.flow.modules():
            if isinstance(module, ToldNet):
                module.k = self.k
        return self.flow.log_prob(x)

    forward = log_prob


def tell(flow: Flow, num: int) -> Flow:
    """Let the networks of the flow's couplings and priors see k."""
    for module in list(flow.modules()):
        if isinstance(module, AffineCoupling):
            module.conditioner = ToldNet(module.conditioner, num)
    return flow


def told_loss(flow: Flow, batch: Batch, step: int, loss: Loss) -> Tensor:
    """Each image at a radius drawn for it; two steps of ascent, as the ladder's parts have."""
    k = torch.randint(len(RADII), (len(batch.x),), generator=batch.generator)
    radius = torch.tensor(RADII, dtype=torch.float64)[k] / 256
    x, hit = batch.x.clone(), k > 0
    x[hit] = loss.perturb(Told(flow, k[hit]), x[hit], radius[hit], loss.attack_steps)
    return bits_per_dim(Told(flow, k)(x), flow.num_dims)


def wide(recipe: Recipe, num_parameters: float) -> Recipe:
    """The same recipe for a wider flow, with about so many parameters."""
    builder, options = recipe.model

    def of(width: int) -> Recipe:
        return replace(recipe, model=(builder, options | {"width": width}))

    widths = range(options["width"], 6 * options["width"])
    return of(min(widths, key=lambda w: abs(of(w).build().num_parameters - num_parameters)))


def make_told(shop: Workshop, size: float) -> tuple[Flow, float]:
    """One network that is told k; kept beside the others as its parameters alone."""
    known = RECIPES["tiny-base"]  # 1.3 times its steps take about as long as the ladder's training
    recipe = replace(wide(known, size), num_steps=round(1.3 * known.num_steps))
    loss = replace(RECIPES["tiny-eps1"].loss, eps_warmup_steps=0)
    flow = tell(recipe.build(torch.Generator().manual_seed(shop.seed)), len(RADII))
    path = shop.folder / f"told-seed{shop.seed}.pt"
    if not path.exists():
        seconds = shop.descend(flow, recipe, partial(told_loss, loss=loss))
        torch.save({"seconds": seconds, "weights": flow.state_dict()}, path)
    kept = torch.load(path, weights_only=True)
    flow.load_state_dict(kept["weights"])
    return flow.eval(), kept["seconds"]


def row_of_seed(shop: Workshop) -> tuple[dict, dict[str, dict]]:
    """The densities by label, and of each: seconds of training, parameters."""
    flows, seconds = {}, {}
    for kind in SINGLE:
        flows[kind], seconds[kind] = shop.make(f"tiny-{kind}")
    base = shop.make("tiny-base")[1]
    spent = {kind: base + seconds[kind] for kind in SINGLE}
    for kind in SINGLE[3:]:
        spent[kind] += seconds["clean"]
    models = {kind: flow.log_prob for kind, flow in flows.items()}
    kinds = [name.removeprefix("tiny-") for name in LADDERS["tiny-ladder"].values()]
    parts = [flows[kind] for kind in kinds]
    models["ladder"] = mixture(*(part.log_prob for part in parts))
    whole = sum(part.num_parameters for part in parts)
    spent["ladder"] = base + sum(seconds[kind] for kind in kinds)
    pair, times = [], []
    for kind in ("base", "clean", "adversarial"):
        known = RECIPES[f"tiny-{kind}"]
        recipe = replace(wide(known, whole / 2), start=known.start and "wide-base")
        flow, taken = shop.make(f"wide-{kind}", recipe)
        pair, times = [*pair, flow], [*times, taken]
    models["pair"], spent["pair"] = mixture(*(flow.log_prob for flow in pair[1:])), sum(times)
    told, spent["told k"] = make_told(shop, whole)
    models["told k"] = mixture(*(Told(told, k) for k in range(len(RADII))))
    size = {kind: flow.num_parameters for kind, flow in flows.items()}
    size |= {"ladder": whole, "told k": told.num_parameters}
    size |= {"pair": sum(flow.num_parameters for flow in pair[1:])}
    return models, {k: {"seconds": round(spent[k], 1), "parameters": size[k]} for k in models}


class Disguise(nn.Module):
    """x -> -log p(k = 0 | x): an attack that lowers it wants to be taken for a clean image."""

    def __init__(self, ladder: FlowMixture):
        super().__init__()
        self.ladder = ladder

    def forward(self, x: Tensor) -> Tensor:
        """log q(x) - log(w_0 p_0(x)), shape (batch,), nats."""
        joint = self.ladder.log_probs(x) + self.ladder.log_weights.to(x)[:, None]
        return joint.logsumexp(0) - joint[0]


class Sly(Disguise):
    """x -> log q(x), as long as p(k = 0 | x) is at least one half: harm that goes unnoticed."""

    def forward(self, x: Tensor, weight: float = 10.0) -> Tensor:
        """log q(x) + weight max(0, -log 2 - log p(k = 0 | x)), shape (batch,), nats."""
        log_q, hidden = self.ladder.log_prob(x), super().forward(x)
        return log_q + weight * (hidden - math.log(2.0)).clamp(min=0.0)


def posteriors(ladder: FlowMixture, images: Tensor, num_steps: int = 100) -> list[dict]:
    """Mean p(k | x) and bits/dim of images moved by each radius, in four ways."""
    generator = torch.Generator().manual_seed(0)
    noise = dequantization_noise(images, "fixed", generator)[0]
    how = {"generator": generator, "start": "random", "schedule": "auto", "num_steps": num_steps}
    moves = {
        "noise": lambda e: integer_noise(images, e, generator),
        "attack": lambda e: attack_images(ladder.log_prob, images, e, **how).x,
        "disguise": lambda e: attack_images(Disguise(ladder), images, e, **how).x,
        "sly": lambda e: attack_images(Sly(ladder), images, e, **how).x,
    }
    rows = []
    for move, of in moves.items():
        for eps in RADII:
            x = ((of(eps) if eps else images).float() + noise) / 256
            with torch.no_grad():
                posterior, bits = ladder.posterior(x), ladder.bits_per_dim(x)
            says = torch.bincount(posterior.argmax(1), minlength=len(RADII)) / len(x)
            rows.append(
                {
                    "move": move,
                    "eps": eps,
                    "mean": [round(v, 4) for v in posterior.mean(0).tolist()],
                    "says": [round(v, 4) for v in says.tolist()],
                    "bits": round(bits.mean().item(), 4),
                }
            )
    return rows


def measure(shop: Workshop, report: Tensor, budget) -> list[dict]:
    """One seed: every density of the row under attacks that converge."""
    models, facts = row_of_seed(shop)
    kinds = [name.removeprefix("tiny-") for name in LADDERS["tiny-ladder"].values()]
    table = attacked(models, report, EPS, budget)
    of = torch.stack([table.by_eps(kind) for kind in kinds])  # (K, eps, N)
    bound = mixture_bound(of, report[0].numel()).mean(1)
    rows = []
    for label in models:
        row = {"seed": shop.seed, "model": label, **facts[label], "rows": rows_of(table, label)}
        values = [[round(v, 4) for v in line] for line in table.by_eps(label).tolist()]
        rows.append(row | {"values": values})
        if label == "ladder":
            rows[-1]["bound"] = [round(v, 4) for v in bound.tolist()]
        means = [f"{r['mean']:.3f}{'' if r.get('status') != '>=' else '+'}" for r in row["rows"]]
        print(f"| {shop.seed} | {label} | {' | '.join(means)} | {facts[label]} |", flush=True)
    return rows


def named(texts: Sequence[str]) -> dict[str, str | None]:
    """NAME or NAME=PATH, where the images of a ladder are."""
    pairs = (text.partition("=") for text in texts)
    return {name: path or None for name, _, path in pairs}


def add_posteriors(record: Record, options: argparse.Namespace, small: Tensor) -> None:
    """Those of the ladders asked for, and of the small one of the first seed."""
    shop = Workshop(options.folder, options.seeds[0], small)
    parts = {eps: shop.make(name)[0] for eps, name in LADDERS["tiny-ladder"].items()}
    known = RECIPES["tiny-clean"]
    report = known.images.load("report", known.build(), options.limit)
    found = {"tiny-ladder": posteriors(FlowMixture(parts).eval(), report)}
    for name, path in named(options.posterior).items():
        ladder = zoo.load(name, "cpu")
        images = RECIPES[next(iter(LADDERS[name].values()))].images
        images = images.elsewhere(path, False, {"report": None})
        found[name] = posteriors(ladder, images.load("report", ladder, options.limit))
    record.content["posterior"] = found
    record.keep()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--posterior", nargs="*", default=[], metavar="NAME[=PATH]", help="ladders that ship"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget, settings = budget_of(options)
    record = Record(options.json, "ladder.py", settings | {"eps": list(EPS)})
    recipe = RECIPES["tiny-base"]
    report = recipe.images.load("report", recipe.build(), options.limit)
    train = recipe.images.load("train", recipe.build())
    print(pipe_table(["seed", "model", "eps 0", *(f"eps {e}" for e in EPS), "cost"], []))
    for seed in options.seeds:
        if not record.has(seed=seed):
            record.add(*measure(Workshop(options.folder, seed, train), report, budget))
    add_posteriors(record, options, train)


if __name__ == "__main__":
    main()
