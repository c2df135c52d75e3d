"""The items of docs/paper.md from the abstract to section 3."""

from __future__ import annotations

from paper_measures import (
    AGREES,
    CANNOT,
    DISAGREES,
    NB,
    REPAIRED,
    SLIP,
    T1,
    T3,
    TABLES,
    Item,
    cell,
    change_of_variables,
    exchange,
    few,
    figure_3,
    likelihoods,
    line,
    longer,
    record,
    row_of,
    slip,
    theorem_3_1,
    theorem_3_2_constants,
)

from flowrob import paper
from flowrob.cli.recipes import PUBLISHED_CLEAN
from flowrob.evaluation.table import number

ITEMS = (
    # Abstract and introduction
    Item(
        "Abstract",
        "“GLOW and RealNVP are extremely sensitive to both types of attacks”",
        f"{NB['05']}, {NB['06']}, {TABLES}",
        lambda: (
            f"clean to ε = 8: Glow {number(cell(T1, PUBLISHED_CLEAN, 0))} to "
            f"{number(cell(T1, PUBLISHED_CLEAN, 8))} bits/dim (CIFAR-10), RealNVP "
            f"{number(cell(T3, 'realnvp-celeba-clean', 0))} to "
            f"{number(cell(T3, 'realnvp-celeba-clean', 8))} (CelebA)"
        ),
        AGREES,
        "in-distribution, on every set; out-of-distribution noise falls too, but not as far as "
        "claimed (section 5)",
    ),
    Item(
        "Abstract",
        "hybrid training can “significantly boost the robustness of these generative models”",
        f"{NB['07']}, {TABLES}",
        lambda: (
            f"CIFAR-10, ε = 8, {few()}: hybrid {longer('cifar10', 'hybrid')}, "
            f"adversarial {longer('cifar10', 'adversarial')}"
        ),
        AGREES,
        "even after the longest attack ours is far below the clean model; but it is not as robust "
        "as short attacks make it look, nor as the adversarial model",
    ),
    Item(
        "Figure 1",
        "“a NLL score of 1.6” becomes “a high NLL of 150” (ε = 8)",
        f"{NB['05']}, README’s figure",
        lambda: (
            f"paper {paper.FIGURE_1['frog']:g} to "
            f"{paper.FIGURE_1['frog attacked, eps 8']:g}, one image; ours, median of "
            f"{record(T1)['settings']['num_images']}: "
            f"{number(cell(T1, PUBLISHED_CLEAN, 0, key='median'))} to "
            f"{number(cell(T1, PUBLISHED_CLEAN, 8, key='median'))}"
        ),
        AGREES,
        "in kind; a frog of ours is another image under another model, and the figure’s unit is "
        "in doubt (errata, row 11)",
    ),
    Item(
        "Figure 1",
        "“a noise image is assigned a low NLL of 4.2”",
        f"{NB['05']}, beat 3",
        lambda: (
            f"paper: {paper.FIGURE_1['noise raised']:g} here, "
            f"{paper.FIGURE_4.raised[-1]:g} for the same attack in Figure 4"
        ),
        CANNOT,
        "the two figures name different values; ours does not get below the clean images",
    ),
    # 2
    Item(
        "2.1",
        "“log p_x(x) = log p_z(z) − log det |∂f(z)/∂z|”",
        f"{NB['04']}, `flowrob.flows`; {row_of(13)}",
        change_of_variables,
        SLIP,
        "the absolute value belongs around the determinant; the rest is what every flow here does",
    ),
    Item(
        "2.1",
        "invertible maps “f = f₁ ∘ f₂ ∘ ⋯ ∘ f_K”; RealNVP couples, Glow adds invertible 1 × 1 "
        "convolutions",
        "`flowrob.flows.glow`, `realnvp`",
        change_of_variables,
        AGREES,
        "ours bounds two scales that the published Glow leaves free (docstring of `glow`)",
    ),
    Item(
        "2.2",
        "FGSM and PGD: “x + α sign(∇ₓL)”, projected onto x + S",
        "`flowrob.attacks.pgd`",
        slip(10, "PGD on a Gaussian: {ascent:+.4f} nats, exact worst case {worst:+.4f}"),
        AGREES,
        "with S a set around 0 (errata, row 13)",
    ),
    Item(
        "2.2",
        "“min_θ E max_{δ∈S} L(θ, x + δ)”",
        '`flowrob.training.fit(..., "adversarial")`',
        lambda: f"adversarial Glow on CIFAR-10: {line(T1, 'adversarial')}",
        AGREES,
        "the attack is made against the model of each step",
    ),
    # 3
    Item(
        "3, L(x)",
        "“C = n log(2π)/2”",
        f"{NB['01']}, {row_of(1)}",
        slip(1, "the density integrates to {printed:.3f} as printed, to {area:.3f} with a minus"),
        SLIP,
        "a sign; no result depends on it",
    ),
    Item(
        "3, estimators",
        "K̂ with 1/N before the sum and N below it",
        f"`GaussianFlow.fit`, {row_of(1)}",
        slip(1, "variance 4: {once:.2f} with one 1/N, {twice:.4f} with two"),
        SLIP,
        "one 1/N; the mean is right",
    ),
    Item(
        "3.1, problem (1)",
        "“min_δ” of L(x + δ), “‖δ‖₂ < ε”",
        f"{NB['01']}, {row_of(2)}",
        slip(2, "largest drop within 0.999 ε {c:.4f}, at ε {edge:.4f} nats"),
        SLIP,
        "the ball must be closed, as it is in 3.2 and 3.3",
    ),
    Item(
        "Theorem 3.1, (2)",
        "“δ* = (K⁻¹ − 2ηI)⁻¹K⁻ᵀ(μ − x)”",
        f"{NB['01']}, `worst_case`",
        theorem_3_1,
        AGREES,
        "equation (2) is right wherever its η exists",
    ),
    Item(
        "Theorem 3.1, the system",
        "“c = UᵀK” and “2ηλᵢ − 1 ≥ 0 ∀i”",
        f"{row_of(2)}, {row_of(3)}",
        slip(3, "hard case: optimum {optimum:.4f}, no admitted root (η = {root:.2f} excluded)"),
        SLIP,
        "c = Uᵀ(μ − x); the hard case is missing",
    ),
    Item(
        "3.1.1",
        "“1 − 2ηλ = ‖μ − x‖/ε”, then (3)",
        row_of(4),
        slip(4, "equation (3) {equation_3:+.2f} nats, intermediate sign {printed:+.2f}"),
        REPAIRED,
        "equation (3) has the right sign",
    ),
    Item(
        "3.1.2",
        "“the maximum eigenvalue of K⁻¹”; “δ* = ε uₘᵢₙ(K)”",
        row_of(5),
        slip(5, "{plus:.3f} nats for either sign, {other:.3f} for uₘₐₓ"),
        REPAIRED,
        "the formula and its definition name the eigenvector",
    ),
    Item(
        "Figure 2",
        "“Examples of optimal adversarial perturbations with bounded ℓ₂ norm”",
        f"{NB['01']}, beat 1 and its sliders",
        theorem_3_1,
        AGREES,
        "made again, with the other optimum of the hard case",
    ),
    Item(
        "3.2, one step",
        "“μᵃᵈᵛ = μ”, “Kᵃᵈᵛ = σ²(1 + α)I”",
        f"{NB['02']}, {row_of(6)}",
        slip(6, "σ = 3: sampled {sampled:.4f}, α(ε/σ) {holds:.4f}, printed {printed:.4f}"),
        SLIP,
        "right with α(ε/σ); the trace sentence (Chi) is right",
    ),
    Item(
        "3.2, (4)",
        "“σ²(1 + α)ᵐI” after “m steps”",
        f"{NB['02']}, {row_of(7)}",
        slip(7, "m = 10: (a) {a:.1f}, (b) {b:.1f}, (c) {c:.1f}, (d) {d:.2f}"),
        SLIP,
        "true of one of four procedures that bear the name; the usual one settles in one round",
    ),
    Item(
        "Theorem 3.2",
        "“L(x) − L(x + δ) < Δ” with probability above 1 − γ if m ≥ max[…]",
        f"{NB['02']}, {row_of(8)}",
        slip(8, "σ = 3: printed α fails with {printed:.2f}, α(ε/σ) with {a:.0e} (γ = {gamma})"),
        SLIP,
        "holds with α(ε/σ), for procedure (a), Δ > 0",
    ),
    Item(
        "Theorem 3.2, constants",
        "“√(20 log(1/γ))” and “√(2n)”",
        '`rounds_for(..., quantile="paper")`',
        theorem_3_2_constants,
        AGREES,
        "a valid bound on the quantile of χₙ, never tight",
    ),
    Item(
        "3.2, after Theorem 3.2",
        "“m-step adversarial training learns a generative model whose likelihood estimates are "
        "provably robust within Δ”",
        f"{NB['02']}, {row_of(8)}",
        slip(8, "the same m fails with (b) {b:.2f}, (c) {c:.2f}, (d) {d:.2f} where γ = {gamma}"),
        DISAGREES,
        "of procedure (a) it is true, of training as usually meant (d) it is not",
    ),
    Item(
        "3.2.1, L_nat(m), L_adv(m)",
        "“−n/2 log(2πσ²(1 + α)ᵐ) − n/(2(1 + α)ᵐ)”, and with 2ε√2 Γ((n+1)/2)/Γ(n/2) + ε² beside n",
        f"`natural_drop`, `sensitivity`, {row_of(6)}",
        likelihoods,
        SLIP,
        "L_nat is right; L_adv needs ε/σ, as α does",
    ),
    Item(
        "3.2.1, L_nat-dr",
        "“n/2 [log((1 + α)ᵐ) + 1/(1 + α)ᵐ − 1]”",
        f"{NB['02']}, `natural_drop`",
        exchange,
        AGREES,
        "a Kullback-Leibler divergence",
    ),
    Item(
        "3.2.1, (5)",
        "L_sen with ε and ε², “L_clean(m)”",
        f"`sensitivity`, {row_of(6)}",
        exchange,
        SLIP,
        "right with ε/σ; L_clean(m) is L_nat(m)",
    ),
    Item(
        "3.2.1",
        "“L_nat-dr is at odds with L_sen”",
        f"{NB['02']}, `pareto_frontier`",
        exchange,
        AGREES,
        "and no Gaussian does better: the curve is the Pareto frontier (ours)",
    ),
    Item(
        "Figure 3",
        "“n = 10, and generate samples from a Gaussian distribution with a random mean and "
        "covariance matrix”",
        f"{NB['02']}",
        figure_3,
        AGREES,
        "its K and ε are not printed; the shape is",
    ),
    Item(
        "3.3, the objective",
        "“Simplifying the objective, we obtain min_δ”",
        row_of(12),
        slip(12, "as printed {taken:.2f} nats, by the next line {right:.2f}"),
        REPAIRED,
        "two signs; the next display is right",
    ),
    Item(
        "3.3, the optimum",
        "“ελₘₐₓ(K⁻¹) = ε uₘᵢₙ(K)”",
        f"{NB['03']}, {row_of(5)}",
        slip(5, "{plus:.3f} nats for +uₘᵢₙ and −uₘᵢₙ alike"),
        REPAIRED,
        "the right-hand side is right",
    ),
    Item(
        "3.3, Remark",
        "“the same perturbation, resulting the same sensitivity”",
        f"{NB['03']}, {row_of(9)}",
        slip(
            9, "same step {same:.2f} on clean data, {same_shifted:.2f} on shifted; {one:.2f} best"
        ),
        DISAGREES,
        "literally true only if the data move with the model; otherwise worse than the same",
    ),
    Item(
        "3.3, Remark",
        "“adversarial training is not successful to defend against universal adversarial attacks”",
        f"{NB['03']}, {row_of(9)}",
        slip(9, "{clean:.2f} before; random signs {random:.2f}, minimax {minimax:.3f} after"),
        DISAGREES,
        "with one sign for all it is not; with random signs it is",
    ),
)
