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
    chi,
    detection,
    exchange,
    few,
    figure_3,
    fresh,
    likelihoods,
    line,
    longer,
    mean_alone,
    other_sets,
    provably,
    raised,
    record,
    round_trip,
    rounds,
    row_of,
    seen,
    shown,
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
            f"{number(cell(T3, 'realnvp-celeba-clean', 8))} (CelebA); pure noise raised, medians: "
            f"{raised('glow-cifar10-published-clean')}, {raised('realnvp-celeba-clean')}"
        ),
        AGREES,
        "in-distribution, on every set; noise is raised by bits per dimension, too, but not as far "
        "as claimed (section 5)",
    ),
    Item(
        "Abstract",
        "hybrid training can “significantly boost the robustness of these generative models”",
        f"{NB['07']}, {TABLES}",
        lambda: (
            f"CIFAR-10, ε = 8: clean, in the same form, {shown(T1, 'clean', 8)}; hybrid, {few()}, "
            f"{longer('cifar10', 'hybrid')}, by the paper’s own recipe {fresh(T1)}; adversarial "
            f"{longer('cifar10', 'adversarial')}"
        ),
        AGREES,
        "even after the longest attack ours are far below the clean model; but they are not as "
        "robust as short attacks make them look, nor as the adversarial model",
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
            f"{shown(T1, PUBLISHED_CLEAN, 8, key='median')}"
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
            f"{paper.FIGURE_4.raised[-1]:g} for the same attack in Figure 4; ours, medians, "
            f"{raised('glow-cifar10-published-clean')}, images "
            f"{number(seen('glow-cifar10-published-clean', 'cifar10'))}"
        ),
        CANNOT,
        "the two figures name different values; ours does not get below the clean images",
    ),
    Item(
        "Figure 1, the robust model",
        "“NLL does not change much after the attack, while the score on the unperturbed sample is "
        "similar to the one obtained by the clean model”",
        f"{NB['07']}, beat 7",
        lambda: (
            f"ours, CIFAR-10, medians at ε = 0 and 8: hybrid "
            f"{number(cell(T1, 'hybrid', 0, key='median'))}, "
            f"{shown(T1, 'hybrid', 8, key='median')}; clean "
            f"{number(cell(T1, 'clean', 0, key='median'))}, {shown(T1, 'clean', 8, key='median')}; "
            f"ladder {number(cell(T1, 'ladder', 0, key='median'))}, "
            f"{shown(T1, 'ladder', 8, key='median')}"
        ),
        CANNOT,
        "its labels are in the picture, which is not at hand. Ours are so in kind: close without "
        "attack, far below the clean model under it, though by more than two bits/dim above itself",
    ),
    # 1
    Item(
        "1",
        "“out-of-distribution samples can be detected using likelihood scores”",
        f"{NB['05']}, beat 3; {NB['08']}, beat 3; {NB['09']}",
        lambda: f"Glow on CIFAR-10, AUROC of images against {detection('noise', 'plain')}",
        CANNOT,
        "said of medical images, of which nothing is tested here; ours tell noise from images, and "
        "take images of one colour for the likelier",
    ),
    Item(
        "1",
        "should give low scores to other images, high ones to its own; “The existence of "
        "adversarial attacks breaks and contradicts this intuition”",
        f"{NB['05']}, beat 3",
        lambda: f"Glow on CIFAR-10, AUROC of images against {detection('noise', 'attacked')}",
        AGREES,
        "both attacks together turn a perfect detector upside down",
    ),
    Item(
        "1, contributions; 6",
        "“adversarial training provably learns robust models”; it “provably improves robustness”",
        f"{NB['02']}, `spherical_growth`",
        provably,
        AGREES,
        "sensitivity falls in all four procedures of that name; below any Δ it falls in three",
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
        "2.1",
        "“inference can be performed as z = f⁻¹(x)”",
        f"{NB['04']}; {NB['06']}, beat 6; `invertibility`",
        round_trip,
        AGREES,
        "in double precision; single precision loses the way back where an attack has led",
    ),
    Item(
        "2.2",
        "FGSM: “xᵃᵈᵛ = x + α sign(∇ₓ L_cls(θ, x, y))”; PGD projects each step onto x + S",
        "`flowrob.attacks.pgd`",
        slip(10, "PGD on a Gaussian: {ascent:+.4f} nats, exact worst case {worst:+.4f}"),
        AGREES,
        "with S a set around 0 (errata, row 13)",
    ),
    Item(
        "2.2",
        "“min_θ E_{(x,y)∼D} [max_{δ∈S} L_cls(θ, x + δ, y)]”",
        '`flowrob.training.fit(..., "adversarial")`',
        lambda: f"adversarial Glow on CIFAR-10: {line(T1, 'adversarial')}",
        AGREES,
        "the attack is made against the model of each step",
    ),
    Item(
        "2.3",
        "“no prior work exists on adversarial robustness of likelihood-based generative models”",
        "not tested",
        "nothing to measure",
        CANNOT,
        "a statement about the literature, guarded by “To the best of our knowledge”",
    ),
    Item(
        "2.3, of others’ work",
        "“GLOW models assign lower likelihoods to in-distribution data than out-of-distribution”",
        "`benchmarks/out_of_distribution.py`",
        other_sets,
        CANNOT,
        "the pairs of data sets of that work are not at hand. Of ours, plain images are likelier "
        "than those trained on, the other photographs are not",
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
        "“c = [c₁, c₂, …, cₙ] = UᵀK” and “2ηλᵢ − 1 ≥ 0 ∀i”",
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
        "“μᵃᵈᵛ = … = μ”, “Kᵃᵈᵛ = … = σ²(1 + α)I”",
        f"{NB['02']}, {row_of(6)}",
        slip(6, "σ = 3: sampled {sampled:.4f}, α(ε/σ) {holds:.4f}, printed {printed:.4f}"),
        SLIP,
        "right with α(ε/σ)",
    ),
    Item(
        "3.2, the trace",
        "“sum of diagonal terms of x̃x̃ᵀ/‖x̃‖ has a Chi distribution with n degrees of freedom”",
        f"{NB['02']}, beat 1",
        chi,
        AGREES,
        "the trace of x̃x̃ᵀ/‖x̃‖ is the length of x̃",
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
        "“with high probability and for a sufficiently large m, m-step adversarial training learns "
        "a generative model whose likelihood estimates are provably robust within Δ”",
        f"{NB['02']}, beat 4; {row_of(8)}",
        rounds,
        AGREES,
        "where data are moved again and again, (a) to (c), each with its own m; of the objective "
        "of 2.2, (d), no m suffices here",
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
        "“μ̂ᵃᵈᵛ = μ + ε uₘᵢₙ(K), and Kᵃᵈᵛ = K”",
        f"{NB['03']}, beat 3, `universal_training`",
        mean_alone,
        AGREES,
        "if all data are moved by the same one of the two best steps",
    ),
    Item(
        "3.3, Remark",
        "“can again be attacked with the same perturbation, resulting the same sensitivity as the "
        "clean model”",
        f"{NB['03']}, {row_of(9)}",
        slip(
            9, "same step {same:.2f} on clean data, {same_shifted:.2f} on shifted; {one:.2f} best"
        ),
        DISAGREES,
        "literally true only if the data move with the model; on clean data, on which 3.2.1 "
        "defines sensitivity, the same step helps and the opposite one is worse than before",
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
