"""Writes docs/errata.md: slips in the printed text, each with the number that settles it.

    python docs/build_errata.py        writes docs/errata.md
    python docs/build_errata.py 3      prints entry 3 with its numbers, writes nothing

Every number in the table is computed here, by the package, when the file is built;
tests/test_errata.py asserts what each row says and that the file is up to date.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import integrate, optimize

from flowrob import paper
from flowrob.linear import (
    GaussianFlow,
    best_case,
    failure_probability,
    rounds_for,
    spherical_growth,
    universal,
    universal_drop,
    universal_training,
    variance_growth,
    worst_case,
)


class Entry(NamedTuple):
    """One row: what the paper prints, quoted; what holds; ``shows``, filled with ``measure()``.

    ``status`` is "slip", "slip repaired later in the text", "disagrees" or "cannot say".
    """

    where: str
    printed: str
    holds: str
    shows: str
    measure: Callable[[], dict[str, float]]
    status: str = "slip"


def constant_and_covariance() -> dict[str, float]:
    flow = GaussianFlow([0.0], [[1.0]])

    def density(x: float) -> float:
        return float(flow.log_prob(torch.tensor([[x]], dtype=torch.float64)).exp())

    x = 2 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = float(GaussianFlow.fit(x).covariance)
    area = integrate.quad(density, -10, 10)[0]
    return {
        "area": area,
        "printed": area * math.exp(2 * 0.5 * math.log(2 * math.pi)),
        "once": once,
        "twice": once / 1000,
    }


def secular_vector() -> dict[str, float]:
    flow = GaussianFlow([0.0, 0.0, 0.0], np.diag([1.0, 2.0, 4.0]))
    x, eps = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64), 0.5
    worst = worst_case(flow, x, eps)
    c = flow.eigenvectors.T @ (flow.mean - x[0])
    d = c / (1 - 2 * float(worst.multiplier) * flow.eigenvalues)
    inside = [float(worst_case(flow, x, share * eps).drop) for share in (0.9, 0.99, 0.999)]
    return {
        "norm": float(d.norm()) / eps,
        "numbers": (flow.eigenvectors.T @ flow.covariance).numel(),
        "a": inside[0],
        "b": inside[1],
        "c": inside[2],
        "edge": float(worst.drop),
    }


def hard_case() -> dict[str, float]:
    """The printed system for lam = (1, 4), x - mu = (0, 1), eps = 1: its roots, none admitted."""
    lam, eps = np.array([1.0, 4.0]), 1.0
    flow = GaussianFlow([0.0, 0.0], np.diag(lam))
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    root = optimize.brentq(lambda eta: 1 / (8 * eta - 1) ** 2 - eps**2, 0.2, 5.0)
    delta = torch.tensor([[0.0, 1 / (8 * root - 1)]], dtype=torch.float64)
    return {
        "optimum": float(worst_case(flow, x, eps).drop),
        "root": root,
        "slack": float(2 * root * lam.min() - 1),  # must not be negative
        "excluded": float(flow.log_prob(x) - flow.log_prob(x + delta)),
    }


def sphere_sign() -> dict[str, float]:
    """|x - mu| = 3, eps = 1, sigma = 1: the step of the intermediate lines, and that of (3)."""
    flow = GaussianFlow(torch.zeros(10), torch.eye(10))
    x = torch.zeros(1, 10, dtype=torch.float64)
    x[0, 0] = 3.0
    worst, before = worst_case(flow, x, 1.0), flow.log_prob(x)
    one_minus = 3.0  # 1 - 2 eta lam = |mu - x| / eps, as printed
    inward, outward = -x / one_minus, x / x.norm()  # delta = (mu - x) / (1 - 2 eta lam); (3)
    return {
        "ratio": 1 - 2 * float(worst.multiplier),
        "drop": float(worst.drop),
        "printed": float(before - flow.log_prob(x + inward)),
        "equation_3": float(before - flow.log_prob(x + outward)),
    }


def eigenvector() -> dict[str, float]:
    flow = GaussianFlow([0.0, 0.0], np.diag([1.0, 4.0]))
    delta, u_max = universal(flow, 1.0).delta, flow.eigenvectors[:, -1]
    start = flow.log_prob(flow.mean[None])
    steps = {"plus": delta, "minus": -delta, "other": u_max}
    return {name: float(start - flow.log_prob(step[None])) for name, step in steps.items()}


def alpha_needs_sigma() -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(200_000, 10, generator=generator, dtype=torch.float64)
    moved = ((x.norm(dim=1) + 1) ** 2 - x.norm(dim=1) ** 2) / (10 * 9)  # |x|^2 / 90 has mean 1
    return {
        "sampled": float(moved.mean()),
        "error": float(moved.std()) / len(x) ** 0.5,
        "holds": variance_growth(1.0, 3.0, 10),
        "printed": variance_growth(1.0, 1.0, 10),
    }


def four_procedures() -> dict[str, float]:
    return {p: float(spherical_growth(1.0, 1.0, 10, 10, p)[-1]) for p in "abcd"}


def theorem_3_2() -> dict[str, float]:
    eps, sigma, n, max_drop, gamma = 3.0, 3.0, 10, 0.6, 0.05
    setting = (eps, sigma, n, max_drop)
    m = rounds_for(*setting, gamma, "a", quantile="paper")
    after = {p: float(spherical_growth(eps, sigma, n, m, p)[-1]) for p in "abcd"}
    fails = {p: failure_probability(after[p], *setting) for p in "abcd"}
    reach = max(math.sqrt(20 * math.log(1 / gamma)), math.sqrt(2 * n))
    target = (2 * eps * sigma * reach + eps**2) / (2 * max_drop * sigma**2)
    short = math.ceil(math.log(target) / math.log1p(variance_growth(eps, 1.0, n)))
    v = float(spherical_growth(eps, sigma, n, short, "a")[-1])
    clean = math.log((2 * 0.1 * reach + 0.1**2) / 2) / math.log1p(variance_growth(0.1, 1.0, n))
    return {
        "m": m,
        "short": short,
        "printed": failure_probability(v, *setting),
        "gamma": gamma,
        "clean": clean,
        "rounds": rounds_for(0.1, 1.0, n, 1.0, gamma),
        **fails,
    }


def universal_defence() -> dict[str, float]:
    """What the same step, and the next best ones, do to models trained on delta = eps u_min."""
    flow, radius = GaussianFlow(torch.zeros(4), np.diag([0.1, 0.5, 1.0, 2.0])), 0.8
    after = {s: universal_training(flow, radius, 1, s)[-1] for s in ("one", "random", "minimax")}
    drops = {s: universal_drop(flow, model, radius) for s, model in after.items()}
    delta, model = after["one"].mean - flow.mean, after["one"]

    def mean_drop(shift, step):  # of data N(mu + shift, K): linear terms leave their mean alone
        away = flow.mean + shift - model.mean
        energy = lambda v: 0.5 * float(v @ torch.linalg.solve(model.covariance, v))  # noqa: E731
        return energy(away + step) - energy(away)

    return {
        "clean": universal_drop(flow, flow, radius),
        "same": mean_drop(0 * delta, delta),
        "same_shifted": mean_drop(delta, delta),
        **drops,
    }


def pgd_direction() -> dict[str, float]:
    flow = GaussianFlow([0.0, 0.0, 0.0], np.diag([0.5, 1.0, 4.0]))
    x, eps = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64), 0.3
    ends = {}
    for name, sign in (("ascent", 1.0), ("descent", -1.0)):
        delta = torch.zeros_like(x)
        for _ in range(200):
            at = (x + delta).requires_grad_()
            (nll_gradient,) = torch.autograd.grad(-flow.log_prob(at).sum(), at)
            delta = delta + 0.05 * sign * nll_gradient / nll_gradient.norm()
            delta = delta * min(1.0, eps / float(delta.norm()))
        ends[name] = float(flow.log_prob(x) - flow.log_prob(x + delta))
    return {
        **ends,
        "worst": float(worst_case(flow, x, eps).drop),
        "best": float(best_case(flow, x, eps).drop),
    }


def entropy(p: np.ndarray) -> float:
    """In bits, of the probabilities that are not 0."""
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def floor_after_5_bits(eps: int) -> float:
    """Greatest floor, over grey levels, of noise on {-eps..eps} whose sum is cut to 5 bits."""
    return max(
        entropy(np.bincount((level + np.arange(-eps, eps + 1) + 64) // 8) / (2 * eps + 1))
        for level in range(8)
    )


def units_of_the_figures() -> dict[str, float]:
    """The floors of three readings, and which printed labels lie below them.

    ``black`` is the 8-bit floor if every grey level is 0, where clipping folds half the noise onto
    0; ``share`` is how many such values an image needs before the floor reaches the printed 3.2.
    """
    inside, black = entropy(np.full(17, 1 / 17)), entropy(np.array([9 / 17] + [1 / 17] * 8))
    printed = paper.FIGURE_UNIFORM_NOISE_EPS_8
    figures = (paper.FIGURE_4, paper.FIGURE_5)
    floors = {
        "eight": (lambda eps: math.log2(2 * eps + 1), 8.0),
        "five": (floor_after_5_bits, 5.0),
        "nats": (lambda eps: math.log(2 * eps + 1), math.log(256)),
    }
    below = {
        name: sum(
            value < floor(e) for f in figures for e, value in zip(f.eps, f.noise, strict=True) if e
        )
        + sum(f.raised[0] < pure for f in figures)
        for name, (floor, pure) in floors.items()
    }
    return {
        "floor": inside,
        "printed": printed,
        "printed_noise": paper.FIGURE_PURE_NOISE,
        "labels": sum(len(f.eps) for f in figures),
        **{f"below_{name}": count for name, count in below.items()},
        "five_8": floor_after_5_bits(8),
        "five_32": floor_after_5_bits(32),
        "nats_8": math.log(17),
        "nats_16": math.log(33),
        "black": black,
        "share": (inside - printed) / (inside - black),
        "exponent": (inside - printed) * 3072,
    }


def simplified_objective() -> dict[str, float]:
    """lam = (.1, .5, 1, 2), eps = .8: what the line under "min" picks, and what the next does."""
    lam = np.array([0.1, 0.5, 1.0, 2.0])
    drops = 0.5 * 0.8**2 / lam  # of eps u_i, each eigenvector
    return {"taken": drops.min(), "right": drops.max()}


def determinant_of_what() -> dict[str, float]:
    """J = [[1, -2], [3, 1]]: the absolute value inside the determinant is another number."""
    jacobian = np.array([[1.0, -2.0], [3.0, 1.0]])
    return {
        "outside": abs(float(np.linalg.det(jacobian))),
        "inside": float(np.linalg.det(abs(jacobian))),
    }


def raised_noise() -> dict[str, float]:
    """Labels of raised noise at eps 8 beside those of clean images, Figures 4 and 5."""
    four, five = paper.FIGURE_4, paper.FIGURE_5
    at_8 = five.eps.index(8)
    return {
        "raised_4": four.raised[-1],
        "clean_4": four.attacked[0],
        "raised_5": five.raised[at_8],
        "clean_5": five.attacked[0],
        "raised_1": paper.FIGURE_1["noise raised"],
    }


ENTRIES = (
    Entry(
        "Section 3, the linear flow",
        "“C = n log(2π)/2”; in K̂ a factor 1/N before the sum and a division by N inside it",
        "C = −n log(2π)/2; one 1/N",
        "n = 1: the density integrates to {area:.3f} with the minus sign, to {printed:.3f} "
        "without. 1,000 points of variance 4: K̂ = {once:.2f} with one 1/N, {twice:.4f} with "
        "two",
        constant_and_covariance,
    ),
    Entry(
        "Theorem 3.1",
        "“c = [c₁, …, cₙ] = UᵀK”, which is a matrix; “‖δ‖₂ < ε”",
        "c = Uᵀ(μ − x), a vector; the ball is closed, ‖δ‖₂ ≤ ε: on the open one there is no "
        "maximum. (3.2 uses the closed ball, 3.3 the sphere.)",
        "n = 3: with the vector |δ|/ε = {norm:.6f} at the root; UᵀK has {numbers} numbers for "
        "3 coordinates. Largest drop within 0.9 ε, 0.99 ε, 0.999 ε, ε: {a:.4f}, {b:.4f}, "
        "{c:.4f}, {edge:.4f} nats",
        secular_vector,
    ),
    Entry(
        "Theorem 3.1",
        "“Let η be a solution of the set of equations”, among them “2ηλᵢ − 1 ≥ 0 ∀i”",
        "in the hard case there is none: x − μ without a part in the eigenspace of the smallest "
        "variance, and Σ aᵢ²/(λᵢ/λ₁ − 1)² ≤ ε². Then the rest of ε goes along that eigenspace, "
        "with a free sign. And ≥ should be >: at equality (2) is singular",
        "λ = (1, 4), x − μ = (0, 1), ε = 1: optimum {optimum:.4f} = 13/24 nats. The first "
        "equation has the root η = {root:.2f}, where 2ηλ₁ − 1 = {slack:.1f}: excluded, rightly, "
        "since its step costs {excluded:.4f} = 3/8; no other is left",
        hard_case,
    ),
    Entry(
        "Section 3.1.1, before equation (3)",
        "“1 − 2ηλ = ‖μ − x‖/ε”",
        "1 − 2ηλ = −‖μ − x‖/ε. The printed sign is that of the step that raises the likelihood; "
        "equation (3) itself, δ* = ε(x − μ)/‖x − μ‖, is right",
        "n = 10, σ = 1, ‖x − μ‖ = 3, ε = 1: at the optimum 1 − 2ηλ = {ratio:.1f}, drop "
        "{drop:+.2f} nats; by equation (3) {equation_3:+.2f}, with the intermediate sign "
        "{printed:+.2f}",
        sphere_sign,
        "slip repaired later in the text",
    ),
    Entry(
        "Sections 3.1.2 and 3.3",
        "the solution “is the maximum eigenvalue of K⁻¹”; “δ* = ελₘₐₓ(K⁻¹) = ε uₘᵢₙ(K)”",
        "it is the eigenvector, as the formula δ* = ε uₘᵢₙ(K) and the words below it say; what is "
        "not said is that its sign is free",
        "λ = (1, 4), x = μ, ε = 1: drop {plus:.3f} for +uₘᵢₙ, {minus:.3f} for −uₘᵢₙ, "
        "{other:.3f} nats for uₘₐₓ",
        eigenvector,
        "slip repaired later in the text",
    ),
    Entry(
        "Section 3.2, α and equation (5)",
        "“α = (2√2 ε/n) Γ((n+1)/2)/Γ(n/2) + ε²/n”, without σ",
        "α(ε/σ), α(e) = (2 e κₙ + e²)/n, κₙ = E χₙ. If ε is read in units of σ, α and (4) are "
        "consistent, but (3), L_adv and Theorem 3.2, where ε is a length, are not",
        "n = 10, σ = 3, ε = 1: sampled {sampled:.4f} (standard error {error:.4f}), α(ε/σ) = "
        "{holds:.4f}, printed {printed:.4f}",
        alpha_needs_sigma,
    ),
    Entry(
        "Section 3.2, equation (4)",
        "“Performing m steps of adversarial training results in” variance σ²(1 + α)^m (the index "
        "is k on the left, m on the right)",
        "so it does if the data are redrawn from each fit and ε is scaled with σₖ (a). With ε "
        "fixed (b), with points moved again and again (c), or with the original data attacked "
        "anew, the usual meaning (d), it does not; (d) settles after one round",
        "n = 10, ε = σ, m = 10, variance over σ²: (a) {a:.1f}, (b) {b:.1f}, (c) {c:.1f}, (d) "
        "{d:.2f}",
        four_procedures,
    ),
    Entry(
        "Theorem 3.2",
        "“For any Δ, when m ≥ max[…]”, m from (1 + α(ε))^m",
        "m from (1 + α(ε/σ))^m, and for procedure (a) only; Δ > 0. (A negative bound is no slip: "
        "m = 0 meets it.)",
        "n = 10, ε = σ = 3, Δ = 0.6, γ = {gamma}: the printed α gives m = {short} and a failure "
        "probability of {printed:.2f}. α(ε/σ) gives m = {m}, and fails with (a) {a:.0e}, (b) "
        "{b:.2f}, (c) {c:.2f}, (d) {d:.2f}. ε = 0.1, σ = Δ = 1: m ≥ {clean:.1f}, so {rounds} "
        "rounds",
        theorem_3_2,
    ),
    Entry(
        "Section 3.3, the remark on training",
        "the trained model “can again be attacked with the same perturbation, resulting the same "
        "sensitivity as the clean model”",
        "on clean data the same perturbation now raises the likelihood, and the opposite one, as "
        "good as it before, costs three times as much; only if the data move with the model is "
        "the sensitivity the same. With a random sign per point, or the minimax model "
        "(water-filling), adversarial training does defend (repeated random-sign rounds "
        "oscillate unless damped: notebook 03)",
        "λ = (0.1, 0.5, 1, 2), ε = 0.8: {clean:.2f} nats before. After training with one sign: "
        "the same step {same:.2f} on clean data, {same_shifted:.2f} on data that moved, the best "
        "step {one:.2f}. The best step after training with random signs {random:.2f}, against "
        "the minimax model {minimax:.3f}",
        universal_defence,
        "disagrees",
    ),
    Entry(
        "Section 4",
        "“replacing the classification loss L_cls with the log-likelihood function” in a formula "
        "that ascends",
        "the negative log-likelihood is meant: the words around it say “decreased maximally”",
        "λ = (0.5, 1, 4), ε = 0.3, 200 steps: ascent of the negative log-likelihood "
        "{ascent:+.4f} nats (exact worst case {worst:+.4f}), of the log-likelihood, as the words "
        "have it, {descent:+.4f} (exact best case {best:+.4f})",
        pgd_direction,
        "slip repaired later in the text",
    ),
    Entry(
        "Figures 4 and 5, units",
        "“in the units of bits per dimension”; single images under uniform noise at {printed} "
        "(Figure 4, ε = 8), pure noise at {printed_noise} (Figure 5)",
        "no normalised density has a mean NLL below the entropy of what it is fed: log₂(2ε + 1) "
        "for 8-bit images plus uniform noise on {{−ε..ε}}, 8 for uniform images; single images "
        "can lie below, but not many. Of images cut to 5 bits, Glow’s habit, the floors are lower "
        "and explain every label; nats per dimension explain all but ε = 16 and 32 of Figure 5. "
        "Neither is said, and the Tables have no such value",
        "of {labels} labels of noise, below their floor: {below_eight} in bits of 8-bit images "
        "(floor {floor:.2f} at ε = 8), {below_five} in those of 5-bit ones ({five_8:.2f}; "
        "{five_32:.2f} at ε = 32), {below_nats} in nats ({nats_8:.2f}; {nats_16:.2f} at "
        "ε = 16). At most a share 2^−{exponent:.0f} of the noises around an 8-bit image can have "
        "{printed} or less each (D = 3072). If a value is 0, clipping lowers its floor to "
        "{black:.2f}; {share:.0%} of such values would bring the mean down to {printed}",
        units_of_the_figures,
        "cannot say",
    ),
    Entry(
        "Section 3.3, “Simplifying the objective, we obtain”",
        "under min_δ the terms + δᵀK⁻¹(x − μ) + δᵀK⁻¹δ/2",
        "both need a minus; taken as printed they pick uₘₐₓ. The next display, max_δ δᵀK⁻¹δ/2, is "
        "right",
        "λ = (0.1, 0.5, 1, 2), ε = 0.8: the printed line picks a step of {taken:.2f} nats, the "
        "next one {right:.2f}",
        simplified_objective,
        "slip repaired later in the text",
    ),
    Entry(
        "Small ones",
        "2.1: “log det |∂f(z)/∂z|”. 3.2.1: “L_clean(m)”. Theorem 3.1: “Let L(x) denote the "
        "likelihood function”. 2.2: S is “the set of all ℓₚ norm-bounded perturbations around "
        "x” and appears as x + S; the sign step is given for any p",
        "log |det ∂f(z)/∂z|; L_nat(m), as defined above it; the log-likelihood; S a set around "
        "0; the sign is the steepest direction of ℓ_∞ alone",
        "J = [[1, −2], [3, 1]]: |det J| = {outside:.0f}, det of the absolute values {inside:.0f}",
        determinant_of_what,
    ),
    Entry(
        "Section 5, out-of-distribution attack",
        "“For high attack strength (ε = 8), likelihood values are on-par with values obtained by "
        "in-distribution samples.”",
        "not by the paper’s own labels, nor by our measurements (notebook 05)",
        "raised noise beside a clean image, ε = 8: {raised_4} beside {clean_4} in Figure 4, "
        "{raised_5} beside {clean_5} in Figure 5 (Figure 1 has {raised_1} for the same attack on "
        "CIFAR-10)",
        raised_noise,
        "disagrees",
    ),
)

HEAD = """# Errata: the paper's formulas and a few of its sentences, checked

*"Adversarial Robustness of Flow-Based Generative Models", Pope, Balaji and Feizi, AISTATS 2020.*

Re-deriving the paper line by line turned up slips of the kind that any paper has; several are
repaired by the paper itself a line or two further on, and the verdict says so. None of rows 1 to 8
touches its experiments, and every formula is easily repaired. Rows 9 and 14 disagree with a claim.
Row 11 is an open question, not a finding. What stands in “quotation marks” is printed so.

This file is written by `python docs/build_errata.py`, which computes every number in it.
`python docs/build_errata.py 3` prints entry 3 alone, and each row is asserted by a test of its own:
`python -m pytest tests/test_errata.py -k slip_03`. Logarithms are natural unless marked, drops are
in nats. [The paper, item by item](paper.md) says of everything else where it is checked.

| | Where | Printed | Holds | Measured | Verdict | Shown by |
|---|---|---|---|---|---|---|
"""


def row(number: int) -> str:
    """One line of the table, with its numbers computed."""
    entry = ENTRIES[number - 1]
    values = entry.measure()
    texts = [text.format(**values) for text in (entry.printed, entry.holds, entry.shows)]
    command = f"`python -m pytest tests/test_errata.py -k slip_{number:02d}`"
    cells = [str(number), entry.where, *texts, entry.status, command]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def render() -> str:
    """The whole of docs/errata.md."""
    return HEAD + "".join(row(number) for number in range(1, len(ENTRIES) + 1))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entry", nargs="?", type=int, choices=range(1, len(ENTRIES) + 1))
    number = parser.parse_args(arguments).entry
    if number is None:
        Path(__file__).with_name("errata.md").write_text(render(), encoding="utf-8")
        return
    entry = ENTRIES[number - 1]
    values = entry.measure()
    for title in ("where", "printed", "holds", "shows"):
        print(f"{title:>8}: {getattr(entry, title).format(**values)}")
    print(f" numbers: {values}")


if __name__ == "__main__":
    main()
