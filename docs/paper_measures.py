"""What docs/paper.md measures: slips by the errata, theory by the package, tables by records."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from flowrob import data, flows, paper, zoo
from flowrob.cli.recipes import FRESH_HYBRID
from flowrob.evaluation.table import number
from flowrob.flows import plane_flow
from flowrob.linear import (
    GaussianFlow,
    failure_probability,
    natural_drop,
    retrain,
    rounds_for,
    sensitivity,
    spherical_growth,
    trade_off,
    universal,
    universal_training,
    variance_growth,
    worst_case,
)
from flowrob.units import midpoint

ROOT = Path(__file__).parents[1]
AGREES, DISAGREES, REPAIRED, CANNOT = (
    "agrees",
    "disagrees",
    "slip repaired later in the text",
    "cannot say",
)
SLIP = "slip"  # in print, and not repaired there: the errata have it
VERDICTS = (AGREES, DISAGREES, REPAIRED, SLIP, CANNOT)


class Item(NamedTuple):
    """One row of the page; ``measured`` is a text, or a function that computes one."""

    where: str
    quote: str
    ours: str
    measured: str | Callable[[], str]
    verdict: str
    why: str


@cache
def errata():
    """The module that measures the slips."""
    spec = importlib.util.spec_from_file_location("build_errata", ROOT / "docs/build_errata.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slip(row: int, text: str) -> Callable[[], str]:
    """``text`` filled with the numbers of a row of the errata."""
    return lambda: text.format(**errata().ENTRIES[row - 1].measure())


@cache
def record(name: str) -> dict:
    """A file of results/."""
    return json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))


def cell(name: str, model: str, eps: int, row: str = "strongest", key: str = "mean") -> float:
    """One number of a table's record; at eps 0 that of the clean images."""
    wanted = (model, eps, row if eps else "clean")
    rows = record(name)["rows"]
    return float(next(r[key] for r in rows if (r["model"], r["eps"], r["row"]) == wanted))


def shown(name: str, model: str, eps: int, row: str = "strongest", key: str = "mean") -> str:
    """The same as text, with ">=" where the search had not converged when its budget ended."""
    kinds = {(r["model"], r["eps"], r["row"]): r for r in record(name)["rows"]}
    rising = kinds.get((model, eps, row), {}).get("status") == ">="
    return f"{'>= ' * rising}{number(cell(name, model, eps, row, key))}"


def line(name: str, model: str, row: str = "strongest", key: str = "mean") -> str:
    """The means of a model over eps, as they stand in its record."""
    return " / ".join(shown(name, model, e, row, key) for e in record(name)["settings"]["eps"])


def longer(images: str, loss: str) -> str:
    """Means at eps 8 after ever longer attacks, from the record of long attacks."""
    run = record("long_attacks")
    rows = [r for r in run["rows"] if (r["set"], r["loss"]) == (images, loss)]
    rows.sort(key=lambda r: r["num_steps"])
    steps = " / ".join(f"{r['num_steps']:,}" for r in rows)
    means = " / ".join(number(r["mean"]) for r in rows)
    return f"{means} after {steps} steps"


def fresh(name: str) -> str:
    """The hybrid by the paper's own recipe, at eps 8: after 20 steps, and what a search found."""
    short = number(cell(name, FRESH_HYBRID, 8, "pgd-20"))
    return f"{short} after 20 steps, {shown(name, FRESH_HYBRID, 8)} by a search"


def few() -> str:
    """On how many images that was."""
    return f"first {record('long_attacks')['settings']['limit']} images"


def printed(values) -> str:
    """Numbers with the digits that the paper gives them."""
    return " / ".join(f"{v:g}" if v < 1e5 else f"{v:,.0f}" for v in values)


def below(gap: float, bound: float) -> str:
    """Rounding differs between machines: only its order is printed, and it must hold."""
    if not gap < bound:
        raise ArithmeticError(f"{gap} is not below {bound}")
    return f"less than {bound:.0e} apart"


def change_of_variables() -> str:
    flow = plane_flow(2, 8).double()
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flow.initialize(x)
    jacobian = torch.autograd.functional.jacobian(lambda y: flow.encode(y[None])[0], x[0])
    log_det = flow.bijection(x[:1])[1].item()
    gap = abs(log_det - jacobian.det().abs().log().item())
    return f"a flow's log-determinant and that of its autograd Jacobian: {below(gap, 1e-9)}"


def round_trip() -> str:
    flow = zoo.load("glow-photos-clean", "cpu")
    x = midpoint(data.load("photos", split="test", limit=4))
    gap = flows.invertibility(flow, x).float64
    return f"decode(encode(x)) of a shipped Glow and four crops x, in float64: {below(gap, 1e-6)}"


def theorem_3_1() -> str:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(5), a @ a.T + 0.1 * torch.eye(5, dtype=torch.float64))
    x = flow.sample(200, generator)
    found = worst_case(flow, x, 0.5)
    inverse = torch.linalg.inv(flow.covariance)
    shift = inverse - 2 * found.multiplier[:, None, None] * torch.eye(5, dtype=torch.float64)
    by_formula = torch.linalg.solve(shift, (inverse @ (flow.mean - x).mT).mT)
    gap = float((by_formula - found.delta).abs().max())
    slack = float((found.certificate - found.drop).abs().max())
    return (
        f"equation (2) and our root, 200 points in 5 dimensions: {below(gap, 1e-9)}; drop and dual "
        f"certificate: {below(slack, 1e-9)}"
    )


def theorem_3_2_constants() -> str:
    shares = []
    for n in (2, 10, 50):
        for eps in (0.3, 1.0, 3.0):
            for gamma in (0.3, 0.05, 0.01):
                m = rounds_for(eps, 1.0, n, 1.0, gamma, quantile="paper")
                v = (1 + variance_growth(eps, 1.0, n)) ** m
                shares.append(failure_probability(v, eps, 1.0, n, 1.0) / gamma)
    return f"27 settings, printed bound: greatest failure probability over γ {max(shares):.3f}"


def likelihoods() -> str:
    """Sampled clean and attacked mean log-likelihoods of N(0, v sigma^2 I), sigma = 3, v = 2."""
    n, sigma, eps, v = 10, 3.0, 1.0, 2.0
    model = GaussianFlow(torch.zeros(n), v * sigma**2 * torch.eye(n))
    generator = torch.Generator().manual_seed(0)
    x = sigma * torch.randn(100_000, n, generator=generator, dtype=torch.float64)
    drop = worst_case(model, x, eps).drop.mean()
    holds, as_printed = sensitivity(v, eps, sigma, n), sensitivity(v, eps, 1.0, n)
    return (
        f"σ = 3, v = 2: the attack takes {drop:.3f} nats of sampled points, {holds:.3f} by ε/σ, "
        f"{as_printed:.3f} as printed"
    )


def exchange() -> str:
    v = (1 + variance_growth(1.0, 1.0, 10)) ** 3
    return (
        f"n = 10, ε = σ, m = 3: natural drop {natural_drop(v, 10):.2f} nats, sensitivity "
        f"{sensitivity(v, 1.0, 1.0, 10):.2f}, before training 0 and "
        f"{sensitivity(1.0, 1.0, 1.0, 10):.2f}"
    )


def figure_3() -> str:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(10, 10, generator=generator, dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(10), a @ a.T / 10 + 0.05 * torch.eye(10, dtype=torch.float64))
    models = retrain(flow, 0.5, 10, "rescaled", num_samples=512)
    points = [trade_off(flow, model, 0.5, num_samples=512) for model in models]
    monotone = all(
        a.natural_drop <= b.natural_drop and a.sensitivity >= b.sensitivity
        for a, b in itertools.pairwise(points)
    )
    return (
        f"n = 10, a random K, m = 0 to 10, procedure (a): sensitivity {points[0].sensitivity:.2f} "
        f"to {points[-1].sensitivity:.2f} nats, natural drop 0 to {points[-1].natural_drop:.2f}, "
        f"monotone: {'yes' if monotone else 'no'}"
    )


def against_paper(table: tuple, name: str, training: str, ours: str | None = None) -> str:
    row = next(r for r in table if r.training == training)
    return f"paper {printed(row.nll)}; ours, strongest, {line(name, ours or training)}"


def mixture_of_theirs() -> str:
    """At which eps of Table 2 the better of clean and adversarial is no worse than hybrid."""
    rows = {row.training: row for row in paper.TABLE_2}
    clean, adversarial, hybrid = (rows[t].nll for t in ("clean", "adversarial", "hybrid"))
    best = [min(pair) for pair in zip(clean, adversarial, strict=True)]
    where = [str(e) for e, b, h in zip(paper.WIDE_EPS, best, hybrid, strict=True) if b <= h]
    return ", ".join(where)


def iterations() -> str:
    theirs = paper.TABLE_3[0]
    model = "realnvp-celeba-clean"
    rows = ("clean", "pgd-10", "pgd-20", "pgd-50")
    pairs = [
        " / ".join(
            number(cell("table-3-laptop", model, 8 if row != "clean" else 0, row, key))
            for row in rows
        )
        for key in ("mean", "median")
    ]
    return f"paper, CelebA {printed(theirs.nll)}; ours, mean {pairs[0]}, median {pairs[1]}"


#: What stands for a set on the page.
SETS = {"cifar10": "CIFAR-10", "celeba": "CelebA", "photos": "photographs", "plain": "plain"}


def found(model: str, what: str, eps: int = 0) -> list[float]:
    """Bits/dim of images that are not of a model's kind, one by one: noise, other sets."""
    rows = record("out_of_distribution")["rows"]
    return next(r["bits"] for r in rows if (r["model"], r["what"], r["eps"]) == (model, what, eps))


def seen(model: str, what: str, eps: int = 0) -> float:
    """Their median."""
    return statistics.median(found(model, what, eps))


def medians(model: str, what: str, over: tuple[int, ...] = paper.WIDE_EPS) -> str:
    return " / ".join(number(seen(model, what, eps)) for eps in over)


def on_celeba(row: str) -> str:
    """The medians of a row of Figure 5 on CelebA; under attack those of the strongest."""
    if row == "attacked":
        return f"strongest, medians {line(T2, 'clean', key='median')}"
    return f"medians {medians('glow-celeba-clean', row)}"


def raised(model: str) -> str:
    """Pure noise, before and after the attack at eps 8."""
    name = "RealNVP" if model.startswith("realnvp") else "Glow"
    return f"{name} {number(seen(model, 'raised'))} to {number(seen(model, 'raised', 8))}"


def detection(*against: str) -> str:
    """AUROC of the clean Glow on CIFAR-10: how often an image is likelier than something else."""
    known = {
        "noise": ("pure noise", ("cifar10", 0), ("raised", 0)),
        "plain": ("images of one colour", ("cifar10", 0), ("plain", 0)),
        "attacked": ("it, both attacked at ε = 8,", ("attacked", 8), ("raised", 8)),
    }
    texts = []
    for name, own, other in map(known.get, against):
        pairs = itertools.product(
            *(found("glow-cifar10-published-clean", *w) for w in (own, other))
        )
        texts.append(f"{name} {statistics.mean(a < b for a, b in pairs):.2f}")
    return ", ".join(texts)


def other_sets() -> str:
    """What two Glows make of images of other sets."""
    models = {"cifar10": "glow-cifar10-published-clean", "celeba": "glow-celeba-clean"}
    texts = []
    for own, model in models.items():
        values = ", ".join(f"{title} {number(seen(model, name))}" for name, title in SETS.items())
        texts.append(f"trained on {SETS[own]}, medians: {values}")
    return "; ".join(texts)


def price(loss: str) -> str:
    """What a loss costs clean images beside the clean model, ours and the paper's."""
    ours = ", ".join(
        f"{SETS[name]} {number(cell(table, loss, 0))} against {number(cell(table, 'clean', 0))}"
        for name, table in (("cifar10", T1), ("celeba", T2), ("photos", TP))
    )
    theirs = ", ".join(
        f"{of(loss).nll[0]:g} against {of('clean').nll[0]:g} ({of(loss).source})"
        for of in (paper.table_1, paper.table_2)
    )
    return f"{ours}; paper {theirs}"


def beside_noise(model: str) -> str:
    """Attacked means beside those of noise, and the least ratio of rises over all records."""
    least = []
    for path in sorted((ROOT / "results").glob("attack-*-clean.json")):
        means = {(r["eps"], r["row"]): r["mean"] for r in record(path.stem)["rows"]}
        clean = means[0, "clean"]
        least += [(means[e, "attacked"] - clean) / (means[e, "noise"] - clean)
                  for e, row in means if row == "noise"]  # fmt: skip
        if path.stem == f"attack-{model}":
            pairs = [f"ε = {e}: {number(means[e, 'attacked'])} and {number(means[e, 'noise'])}"
                     for e in paper.EPS[1:]]  # fmt: skip
    return f"{'; '.join(pairs)}; the rise is at least {min(least):.1f} times that by noise"


def carried() -> str:
    """How few images carry the mean of a likelihood that explodes."""
    rows = record("what_a_mean_hides")["rows"]
    bits = next(r["bits"] for r in rows if (r["model"], r["eps"]) == ("clean", 8))
    half = list(itertools.accumulate(sorted(bits, reverse=True)))
    needed = next(k for k, total in enumerate(half, start=1) if total >= sum(bits) / 2)
    return (
        f"photographs, clean Glow as published at ε = 8: mean {number(statistics.mean(bits))}, "
        f"median {number(statistics.median(bits))}, and {needed} of {len(bits)} images make half "
        f"of the sum. Paper: {printed(paper.table_1('clean').nll[-1:])} beside single images at "
        f"{paper.FIGURE_1['frog attacked, eps 8']:g} and {paper.FIGURE_4.attacked[-1]:g}"
    )


def sets() -> str:
    """Which images our tables are about, from their records."""
    used = [d for name in (T1, T2, TP) for d in [next(iter(record(name)["data"].values()))]]
    counts = [record(name)["settings"]["num_images"] for name in (T1, T2, TP)]
    return "; ".join(
        f"trained on {d['train']}, reported on {n} of {d['report']}"
        for d, n in zip(used, counts, strict=True)
    )


def sizes() -> str:
    """Parameters of the models in the tables."""
    return ", ".join(
        f"{name} of {builder().num_parameters:,} parameters"
        for name, builder in (("Glow", flows.glow), ("RealNVP", flows.realnvp))
    )


def chi() -> str:
    """Lengths of standard normal vectors, sampled, and the mean of chi_n."""
    x = torch.randn(100_000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trace = (x.square() / x.norm(dim=1, keepdim=True)).sum(1)
    kappa = math.sqrt(2) * math.exp(math.lgamma(5.5) - math.lgamma(5))
    return f"n = 10, mean: 100,000 samples {trace.mean():.3f}, of χₙ {kappa:.3f}"


def provably() -> str:
    """The sensitivity after three rounds of each procedure."""
    after = {p: float(spherical_growth(1.0, 1.0, 10, 3, p)[-1]) for p in "abcd"}
    values = ", ".join(f"({p}) {sensitivity(v, 1.0, 1.0, 10):.2f}" for p, v in after.items())
    return (
        f"n = 10, ε = σ: sensitivity {sensitivity(1.0, 1.0, 1.0, 10):.2f} nats, after three rounds "
        f"{values}"
    )


def rounds() -> str:
    """Rounds until no attack takes more than Delta nats, but for a share gamma of the samples."""
    limit, gamma = 0.6, 0.05
    needed = {p: rounds_for(1.0, 1.0, 10, limit, gamma, p) for p in "abcd"}
    values = ", ".join(f"({p}) {'none' if m is None else m}" for p, m in needed.items())
    return f"n = 10, ε = σ, Δ = {limit}, γ = {gamma}: rounds that suffice {values}"


def mean_alone() -> str:
    """Universal training with one sign: how far its model is from the printed one."""
    flow = GaussianFlow(torch.zeros(4), torch.diag(torch.tensor([0.1, 0.5, 1.0, 2.0])))
    model = universal_training(flow, 0.8, 1, "one")[-1]
    gaps = model.mean - universal(flow, 0.8).delta, model.covariance - flow.covariance
    gap = max(float(gap.abs().max()) for gap in gaps)
    return f"mean and covariance of our model after a round: {below(gap, 1e-9)}"


T1, T2, TP, T3 = "table-1-laptop", "table-2-laptop", "table-photos-laptop", "table-3-laptop"
PROOF = "`python -m pytest tests/linear`"
NB = {name[:2]: f"[{name[:2]}](../notebooks/{name}.ipynb)" for name in sorted(
    path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))}  # fmt: skip
ERRATA, TABLES = "[errata](errata.md)", "[tables](tables.md)"


def row_of(errata_row: int) -> str:
    return f"{ERRATA}, row {errata_row}"
