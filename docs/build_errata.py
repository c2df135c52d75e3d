"""Writes docs/errata.md: slips in the printed text, each with the number that settles it.

    python docs/build_errata.py        writes docs/errata.md
    python docs/build_errata.py 3      prints entry 3 with its numbers, writes nothing

Every number in the table is computed here, by the package, when the file is built;
tests/test_errata.py asserts what each row says and that the file is up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from errata_measures import (
    alpha_needs_sigma,
    constant_and_covariance,
    determinant_of_what,
    eigenvector,
    four_procedures,
    hard_case,
    pgd_direction,
    raised_noise,
    secular_vector,
    simplified_objective,
    sphere_sign,
    theorem_3_2,
    units_of_the_figures,
    universal_defence,
)

from flowrob.evaluation import pipe_table


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

"""


def row(number: int) -> list[str]:
    """The cells of one row, with their numbers computed."""
    entry = ENTRIES[number - 1]
    values = entry.measure()
    texts = [text.format(**values) for text in (entry.printed, entry.holds, entry.shows)]
    command = f"`python -m pytest tests/test_errata.py -k slip_{number:02d}`"
    cells = [str(number), entry.where, *texts, entry.status, command]
    return [cell.replace("|", "\\|") for cell in cells]


def render() -> str:
    """The whole of docs/errata.md."""
    titles = ["", "Where", "Printed", "Holds", "Measured", "Verdict", "Shown by"]
    rows = [row(number) for number in range(1, len(ENTRIES) + 1)]
    return f"{HEAD}{pipe_table(titles, rows)}\n"


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
