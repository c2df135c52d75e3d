# %% [markdown]
# # Trade likelihood for robustness
#
# Show a model its own worst cases during training, and it becomes [robust](../docs/glossary.md#robustness). What does it pay? For a linear
# flow every price can be computed, and there turns out to be a best price.
#
# | | |
# |---|---|
# | **Do** | train a Gaussian against attacks, in four ways that share one name, and weigh the results |
# | **Learn** | why robust models are wide, what Theorem 3.2 promises; ★ which models are the best buy |
# | **Need** | [01](01_worst_case_of_a_gaussian.ipynb): the drop and the worst step; expectations; [00](00_start_here.ipynb) for nats and bits/dim |
# | **Minutes on 2 cores** | 20 to read and 15 for the starred half; half a minute to run |
# | **Paper sections** | 3.2 with Theorem 3.2 and Figure 3 of Pope, Balaji and Feizi (AISTATS 2020) |
#
# The first half is about *four things called adversarial training*. The second, starred, goes beyond the
# paper: it asks for the best price.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats
from scipy.ndimage import minimum_filter1d

from flowrob import lessons, linear, paper, plots
from flowrob.lessons import check, grade, outcome, predict, rounded
from flowrob.linear import GaussianFlow, retrain, rounds_for, variance_growth, worst_case
from flowrob.plots import ATTACK, DATA, HYBRID, NOISE, PROCEDURE, PROCEDURE_STYLE, RAISE, THEORY
from flowrob.widgets import trade_off_explorer

plots.use_style()
torch.set_default_dtype(torch.float64)
n = 10

# %% [markdown]
# ## 1. One update
#
# [Adversarial training](../docs/glossary.md#adversarial-training) alternates two steps: move every point to where the model likes it least, within
# $|\delta| \le \varepsilon$; then refit the model to the moved points. The paper on the result:
#
# > "adversarial training preserves the mean vector, but increases the variance by a multiplicative factor
# > $1 + \alpha$" (3.2)
#
# Let data and model be $\mathcal N(\mu, \sigma^2 I)$ in $n$ dimensions. Two numbers will come back: $e =
# \varepsilon/\sigma$, the budget in standard deviations, and $\kappa_n$, the mean length of a standard
# normal vector. The worst step goes straight away from $\mu$ (notebook 01), so every point ends up further
# out by $\varepsilon$, and the variance becomes
#
# $$\sigma^2\,(1 + \alpha), \qquad \alpha = \frac{2e\,\kappa_n + e^2}{n}.$$
#
# <details><summary>Show the five steps to alpha</summary>
#
# 1. The length of a standard normal vector is called $\chi_n$; so a point has distance $\sigma\chi_n$ from
#    $\mu$, and after the attack $\sigma\chi_n + \varepsilon$, in the same direction.
# 2. All directions are treated alike. So the mean stays, the covariance stays a multiple of $I$, and the
#    variance of each coordinate is the mean squared distance over $n$: $\mathbb E(\sigma\chi_n +
#    \varepsilon)^2/n$.
# 3. Expand: $\sigma^2\,\mathbb E\chi_n^2 + 2\sigma\varepsilon\,\mathbb E\chi_n + \varepsilon^2$.
# 4. $\mathbb E\chi_n^2 = n$, a sum of $n$ variances; $\mathbb E\chi_n = \kappa_n = \sqrt2\,\Gamma(\tfrac{n+1}2)
#    / \Gamma(\tfrac n2)$.
# 5. Divide by $n$ and take out $\sigma^2$: what remains is $1 + (2e\kappa_n + e^2)/n$.
#
# </details>

# %% tags=["predict"]
sphere = GaussianFlow(torch.zeros(n), 9 * torch.eye(n))
x = sphere.sample(20_000, torch.Generator().manual_seed(0))
moved = x + worst_case(sphere, x, 1.0).delta
refit, plain = GaussianFlow.fit(moved), GaussianFlow.fit(x)
grown = (refit.covariance.trace() / plain.covariance.trace()).item() - 1
right_alpha, printed_alpha = variance_growth(1.0, 3.0, n), variance_growth(1.0, 1.0, n)

predict(
    "alpha",
    "n = 10, sigma = 3, eps = 1: by which share does the variance grow?",
    options=[0.05, 0.2, 0.7],
)

# %%
outcome("alpha", grown)
check("refitted {}, by the formula {}", grown, right_alpha, within=0.005)
check("with eps in the place of eps/sigma {}", printed_alpha, at_least=3 * grown)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
radii = [("data", x.norm(dim=1), DATA), ("attacked", moved.norm(dim=1), ATTACK)]
plots.overlaid(left, radii, xlabel=r"distance from $\mu$").set(ylabel="points")
eps = np.linspace(0, 3, 50)
lines = [("eps/sigma", variance_growth(eps, 3.0, n), THEORY)]
lines += [("printed: eps", np.minimum(variance_growth(eps, 1.0, n), 2), NOISE)]
plots.curves(right, eps, lines, xlabel=r"$\varepsilon$", ylabel="growth of the variance")
right.plot(1.0, grown, "o", color=ATTACK, ms=9, mec="white")
plots.label_ends(right.set(ylim=(0, 2)) and right)
alt = (
    "Left: two histograms of distances; the attacked one is the other, shifted outwards by 1. "
    "Right: growth of the variance against eps; the refitted dot lies on the curve that uses eps "
    "over sigma, far below the printed one."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left: the attack shifts the whole shell of data (blue) outwards (red); nothing moves
# inwards, so nothing cancels. Right: the refitted variance (dot) lies on the formula. The paper prints
# $\alpha$ with $\varepsilon$ in the place of $\varepsilon/\sigma$ (grey): right for $\sigma = 1$ only.
#
# ## 2. One name, four procedures
#
# What happens when the update is repeated?
#
# > "Performing $m$ steps of adversarial training results in the following estimate: ...
# > $\sigma^2(1 + \alpha)^m I$" (3.2, equation (4))
#
# That depends on what "repeat" means. Write $v_m = \sigma_m^2/\sigma^2$ for the variance after $m$ rounds.
#
# | | which points are attacked in round $k$ | budget | variance $v_m$ |
# |---|---|---|---|
# | **(a)** rescaled | drawn anew from model $k$ | $\varepsilon\,\sigma_k/\sigma$ | $(1 + \alpha(e))^m$ |
# | **(b)** redrawn | drawn anew from model $k$ | $\varepsilon$ | $v + (2e\,\kappa_n\sqrt v + e^2)/n$, repeated |
# | **(c)** accumulated | the points as moved so far | $\varepsilon$ | $1 + \alpha(me)$ |
# | **(d)** fixed | the original data | $\varepsilon$ | $1 + \alpha(e)$ |
#
# Equation (4) is row (a): each round is the first one over again in larger units. Adversarial training as
# it is usually meant, and as the objective of 2.2 says, is row (d): the data stay what they are.


# %% tags=["predict"]
def simulate(procedure, rounds=10, eps=1.0, count=20_000):
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(count, n, generator=generator)
    points, v = data, [1.0]
    for _ in range(rounds):
        model = GaussianFlow(torch.zeros(n), v[-1] * torch.eye(n))
        points = model.sample(count, generator) if procedure in "ab" else points
        budget = eps * math.sqrt(v[-1]) if procedure == "a" else eps
        moved = points + worst_case(model, points, budget).delta
        points = moved if procedure == "c" else data
        v.append(moved.square().mean().item())
    return v


predict(
    "four",
    "After ten rounds with eps = sigma, by which factor do the largest and the smallest variance differ?",
    options=[2, 10, 100],
)

# %%
formula = {p: linear.spherical_growth(1.0, 1.0, n, 10, p) for p in "abcd"}
sampled = {p: simulate(p) for p in "abcd"}
outcome("four", formula["a"][-1] / formula["d"][-1])
gap = max(np.abs(np.divide(sampled[p], formula[p]) - 1).max() for p in "abcd")
check("formulas and simulations differ by a share of {} at most", gap, at_most=0.03, digits=1)
fig, ax = plt.subplots(figsize=(8, 4))
plots.by_round(
    ax, [("", sampled[p], PROCEDURE[p], PROCEDURE_STYLE[p][0]) for p in "abcd"], ylabel=""
)
lines = [
    (f"({p}) {formula[p][-1]:.1f}", formula[p], PROCEDURE[p], "--" if p == "c" else "-")
    for p in "abcd"
]
plots.label_ends(plots.by_round(ax, lines, ylabel="variance $v_m$"))
alt = (
    "Variance by round on a logarithmic axis: (a) climbs in a straight line to 222, (b) and (c) "
    "bend together to 17, (d) stays at 1.7 after the first round. Marks of the simulation lie on "
    "the lines."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Lines are formulas, marks are 20,000 points attacked and refitted again and again. (a)
# grows exponentially. (b) and (c) grow quadratically and are nearly alike, because in both the spread that
# an attack adds is carried along. (d) stops after one round: the attack depends on the *direction* from
# the mean, which widening the model does not change. So adversarial training inflates the variance
# without limit in (a), (b), (c), not in (d). (That Glow, too, is trained
# by (d) is our inference: the paper's "recursively re-train" fits more than one row.)
#
# ## 3. The exchange
#
# > "We can see that $L_{nat-dr}$ is at odds with $L_{sen}$." (3.2.1)
#
# A model of variance $v\sigma^2$, for data of variance $\sigma^2$, has two costs in nats. The [natural drop](../docs/glossary.md#natural-drop)
# $L_{\text{nat}}$ is what clean data lose by using it instead of the true one (a [KL divergence](../docs/glossary.md#kl-divergence)). The [sensitivity](../docs/glossary.md#sensitivity)
# $L_{\text{sen}}$ is what an attack can still take: the attack's $\tfrac n2\alpha$, divided by the width.
#
# $$L_{\text{nat}} = \frac n2\Bigl(\log v + \frac1v - 1\Bigr), \qquad
# L_{\text{sen}} = \frac{n\,\alpha(e)}{2v}.$$


# %% tags=["predict"]
def price(v, e=1.0):
    return linear.natural_drop(v, n), linear.sensitivity(v, e, 1.0, n)


clean, wide = (GaussianFlow(torch.zeros(n), v * torch.eye(n)) for v in (1, 2))
x = clean.sample(200_000, torch.Generator().manual_seed(2))
lost = (clean.log_prob(x) - wide.log_prob(x)).mean().item()
taken = worst_case(wide, x, 1.0).drop.mean().item()
v = np.geomspace(1, 30, 200)

predict("buy", "Which procedure buys the most robustness per nat?", options=[*"abcd", "none"])

# %%
outcome("buy", "none")
check("v = 2, natural drop: sampled {}, formula {} nats", lost, price(2)[0], within=0.02, digits=3)
check("v = 2, sensitivity: sampled {}, formula {} nats", taken, price(2)[1], within=0.02, digits=3)
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
lines = [("natural drop", price(v)[0], DATA), ("sensitivity", price(v)[1], ATTACK)]
plots.label_ends(plots.curves(left, v, lines, xlabel="variance $v$", ylabel="nats"))
paths = [(f"({p})", price(formula[p]), PROCEDURE[p], PROCEDURE_STYLE[p][0]) for p in "abcd"]
plots.legend_above(plots.exchange(right, price(v), paths, xlim=(-0.3, 10)))
alt = (
    "Left: with growing variance the natural drop rises and the sensitivity falls. Right: one "
    "against the other; the marks of all four procedures lie on the same falling curve."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Right: lower left is better, and no Gaussian gets into the grey (beat 6 says why). All four
# procedures walk along the same curve and only stop at different places. So the answer is: none. A sphere
# has one knob, $v$, and a procedure is a way of turning it.
#
# **A side effect that is none.** Does a wider model find outliers better, or worse? A detector only needs a
# *ranking*: samples of least likelihood are suspect. Here are a narrow and a wide model on the same samples, and
# on outliers drawn further out.

# %%
far = 1.5 * torch.randn(2000, n, generator=torch.Generator().manual_seed(4))
narrow_rank, wide_rank = (m.log_prob(x).argsort() for m in (clean, wide))
check("{} of 200,000 samples rank alike", (narrow_rank == wide_rank).sum().item(), at_least=199_800)
fig, ax = plt.subplots(figsize=(7, 3.6))
for label, y, color in (("data", x[:2000], DATA), ("outliers", far, RAISE)):
    ax.plot(
        clean.log_prob(y),
        wide.log_prob(y),
        plots.MARK[color],
        ms=4,
        color=color,
        alpha=0.4,
        label=label,
    )
ax.set(xlabel="log-likelihood, narrow model (nats)", ylabel="wide model (nats)")
plots.legend_above(ax)
alt = (
    "Log-likelihood under the wide model against that under the narrow one: data and outliers "
    "lie on one rising line."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** One rising line: wherever one model puts its threshold, the other has one that singles out
# the same samples. Robust training of a sphere changes *no* decision, before or after. What it changes is the
# price, in nats.
#
# ## 4. Theorem 3.2 is a dial
#
# > "with high probability and for a sufficiently large $m$, $m$-step adversarial training learns a generative
# > model whose likelihood estimates are provably robust within $\Delta$" (3.2)
#
# How many rounds until [no attack](../docs/glossary.md#guarantee) takes more than $\Delta$ nats from a fresh sample, except with probability
# $\gamma$? A wide model suffices: if $r$ is a distance that a sample exceeds with probability at most
# $\gamma$ only (a [quantile](../docs/glossary.md#quantile) of $\chi_n$), then it is enough that
#
# $$v_m \;\ge\; \frac{2e\,r + e^2}{2\Delta}, \qquad P(\chi_n > r) \le \gamma .$$
#
# <details><summary>Show the five steps</summary>
#
# 1. Under a model of variance $v\sigma^2$ the sample at distance $\sigma\chi_n$ drops by $\bigl[(\sigma\chi_n +
#    \varepsilon)^2 - (\sigma\chi_n)^2\bigr]/(2v\sigma^2) = (2e\chi_n + e^2)/(2v)$.
# 2. That is at most $\Delta$ exactly if $\chi_n \le (2v\Delta - e^2)/(2e)$.
# 3. So it fails with probability at most $\gamma$ if the right-hand side is at least $r$; solve for $v$.
# 4. The exact $r$ is the $(1-\gamma)$ quantile of $\chi_n$. The paper's $r = \max(\sqrt{20\log 1/\gamma},
#    \sqrt{2n})$ is larger: with $\ell = \log 1/\gamma$ one knows $P(\chi_n^2 > n + 2\sqrt{n\ell} + 2\ell) \le
#    e^{-\ell} = \gamma$, and $r^2$ exceeds that sum.
# 5. For (a), $v_m = (1+\alpha)^m$: take logarithms, $m \ge \log(\text{right-hand side})/\log(1+\alpha)$.
#
# </details>

# %% tags=["predict"]
gamma, Delta = 0.05, 0.6
at_unit = (1.0, 1.0, n, Delta)  # eps, sigma, n, Delta
m = {q: rounds_for(*at_unit, gamma, "a", quantile=q) for q in ("exact", "paper")}
fails = {p: [linear.failure_probability(v, *at_unit) for v in formula[p][:8]] for p in "abcd"}

predict(
    "guarantee",
    "Run the theorem's m, computed for (a), in the other procedures. Where does the guarantee hold?",
    options=["in all", "in (b) and (c)", "in none of them"],
)

# %%
after = {p: fails[p][m["paper"]] for p in "abcd"}
held = sum(after[p] <= gamma for p in "bcd")
outcome("guarantee", {0: "in none of them", 2: "in (b) and (c)", 3: "in all"}[held])
check(f"(a) fails with probability {{}} after m = {m['paper']}", after["a"], at_most=gamma)
least = min(after[p] for p in "bcd")
check("the best of the others fails with probability {}", least, at_least=gamma)
needed = {p: rounds_for(*at_unit, gamma, p) or "no number suffices" for p in "abcd"}
print("rounds needed:", needed)
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
lines = [(f"({p})", fails[p], PROCEDURE[p], PROCEDURE_STYLE[p]) for p in "abcd"]
plots.label_ends(plots.by_round(left, lines, ylabel=r"P(drop > $\Delta$)", log=False))
left.axhline(gamma, color=THEORY, lw=1.2, ls=":")
deltas = np.linspace(0.2, 5, 481)
stairs = [("a", "paper", NOISE, ":", "(a), paper's r"), ("a", "exact", PROCEDURE["a"], "-", "(a)"),
          ("d", "exact", PROCEDURE["d"], "--", "(d), then ends")]  # fmt: skip
for p, q, color, style, label in stairs:
    counts = [rounds_for(1.0, 1.0, n, d, gamma, p, quantile=q) for d in deltas]
    plots.rounds_needed(right, deltas, [(label, counts, color, style)], xlabel=r"$\Delta$ (nats)")
plots.legend_above(right)
alt = (
    "Left: failure probability by round: (a) dives below the dotted line at round 4, (b) and (c) "
    "at round 6, (d) stays at 1. Right: rounds needed against Delta as stairs; the paper's need "
    "one or two rounds more than the exact ones; (d) has one step and then ends."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left, for $\varepsilon = \sigma$ and $\Delta = 0.6$: the dotted line is $\gamma$. (b) and (c)
# get there later, (d) never. Right: the rounds needed for each $\Delta$; below some $\Delta$ no number of rounds
# of (d) suffices.
#
# Two more checks: other units, $\sigma = \varepsilon = 3$, with $\alpha$ as printed; and a printed bound on $m$
# that is negative.

# %%
reach = max(math.sqrt(20 * math.log(1 / gamma)), math.sqrt(2 * n))
target = (2 * reach + 1) / (2 * Delta)
m_printed = math.ceil(math.log(target) / math.log1p(variance_growth(3.0, 1.0, n)))
v = linear.spherical_growth(3.0, 3.0, n, m_printed, "a")[-1]
fails_printed = linear.failure_probability(v, 3.0, 3.0, n, Delta)
check(f"printed alpha: m = {m_printed}, fails with probability {{}}", fails_printed, at_least=gamma)
bound = math.log((0.2 * reach + 0.01) / 2) / math.log1p(variance_growth(0.1, 1.0, n))
m_easy = rounds_for(0.1, 1.0, n, 1.0, gamma)
check("eps = 0.1, Delta = 1: the bound asks for m of at least {}", bound, at_most=0)
check("and {} rounds suffice", m_easy, equals=0)

# %% [markdown]
# The printed $\alpha$ asks for too few rounds when $\sigma > 1$. A negative bound is no contradiction: the clean
# model passes already. Turn the dial yourself: try (d) with many rounds, then a larger $\varepsilon$. (*Hybrid* in
# its figure: half of the data stay clean.)

# %% tags=["widget"]
trade_off_explorer()

# %% [markdown]
# ## 5. Figure 3
#
# Spheres are special. The paper's figure takes another Gaussian:
#
# > "we use $n = 10$, and generate samples from a Gaussian distribution with a random mean and covariance
# > matrix" (3.2.1)
#
# and ten rounds. We do the same with our own random matrix; there is no closed form any more, but every attack
# is still exact. The *rate* is the nats of sensitivity saved per nat of natural drop paid.

# %% tags=["predict"]
generator = torch.Generator().manual_seed(0)
mean, root = torch.randn(n, generator=generator), torch.randn(n, n, generator=generator)
truth = GaussianFlow(mean, root @ root.T / n + 0.1 * torch.eye(n))
radius, cheap = 0.5, {"num_samples": 2**11}
trained = {p: retrain(truth, radius, 10, p, **cheap) for p in "abcd"}


def prices(models):
    return np.array([linear.trade_off(truth, model, radius, **cheap) for model in models]).T


predict(
    "round",
    "Which round has the best rate?",
    options=["the first", "one in the middle", "the last"],
)

# %%
path = {p: prices(models) for p, models in trained.items()}
rate = -np.diff(path["a"][1]) / np.diff(path["a"][0])
outcome("round", "the first" if rate.argmax() == 0 else "one in the middle")
check("round 1 saves {} nats per nat, round 10 {}", rate[0], rate[-1], at_least=2 * rate[-1])
check("the rate falls in every round, by {} or more", -np.diff(rate).max(), at_least=0, digits=1)
fig, ax = plt.subplots(figsize=(8, 3.8))
lines = [("natural drop", path["a"][0], DATA, "v--"), ("sensitivity", path["a"][1], ATTACK, "o-")]
plots.label_ends(plots.by_round(ax, lines, ylabel="nats", log=False))
alt = (
    "By round of (a): the sensitivity falls from 3.2 to nearly 0 nats, fast at first; the "
    "natural drop rises steadily to 11."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Procedure (a), our reading of the paper's figure, whose $K$ and $\varepsilon$ are not printed.
# Robustness is bought with likelihood, and the price goes up. This ends the first half:
# you may go on to [03](03_universal_perturbations.ipynb).
#
# ## 6. ★ The frontier
#
# *From here on beyond the paper.* Which Gaussian has the smallest $L_{\text{nat}} + w\,L_{\text{sen}}$, if
# robustness is worth $w$ times likelihood? These models form the [frontier](../docs/glossary.md#frontier): none is better in one cost
# without being worse in the other. Their condition says that the model equals a refit to data attacked
# *against itself*: with $a$ the point and $d$ its worst step, in the eigenvectors of $K$,
#
# $$\lambda_i' = \lambda_i + w\,\mathbb E\,[\,2a_id_i + d_i^2\,]
# = (1-w)\,\lambda_i + w\,\mathbb E\,(a_i + d_i)^2 .$$
#
# So training (d) can only come to rest at the optimum for $w = 1$, and [hybrid training](../docs/glossary.md#hybrid-training), half clean and half
# attacked, at that for $w = \tfrac12$.
#
# <details><summary>Show the five steps</summary>
#
# 1. Write $p_i = 1/\lambda'_i$. Up to a constant, $L_{\text{nat}} = \tfrac12\sum(\lambda_i p_i - \log p_i)$, convex in
#    $p$.
# 2. $L_{\text{sen}} = \mathbb E\max_{|d| \le \varepsilon}\sum p_i(a_id_i + \tfrac12 d_i^2)$: a maximum of functions
#    linear in $p$, so convex too.
# 3. The derivative of a maximum is that of the function which attains it, at the maximiser: $\mathbb E(a_id_i +
#    \tfrac12 d_i^2)$. (Changing the maximiser a little changes nothing to first order: it is a maximum.)
# 4. Set the derivative to zero: $\tfrac12(\lambda_i - \lambda'_i) + w\,\mathbb E(a_id_i + \tfrac12d_i^2) = 0$.
# 5. Since $\mathbb E a_i^2 = \lambda_i$, we have $\mathbb E(a_i + d_i)^2 = \lambda_i + \mathbb E[2a_id_i + d_i^2]$.
#
# </details>
#
# And any model can be *certified*: if $q_i$ is such a refit over the model, along each axis, it misses the optimum by
# at most $\tfrac12\sum_i (q_i - 1 - \log q_i)$ nats.
#
# <details><summary>Show the three steps to the certificate</summary>
#
# 1. Freeze the attack $d$ found against the model $\lambda'$. Against other models it is one attack of many, so
#    their cost is at least $g(p) = \tfrac12\sum(R_ip_i - \log p_i)$, with $R$ the refit. At $\lambda'$ itself $g$ is
#    the cost.
# 2. $g$ is least at $p_i = 1/R_i$, with value $\tfrac12\sum(1 + \log R_i)$: no model costs less.
# 3. At $\lambda'$ it is $\tfrac12\sum(R_i/\lambda'_i + \log\lambda'_i)$. Subtract, with $q_i = R_i/\lambda'_i$.
#
# </details>

# %% tags=["predict"]
weights = (0.0, 0.03, 0.06, 0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
points = linear.pareto_frontier(truth, radius, weights, **cheap)
best = points[weights.index(1.0)]
frontier = np.array([(p.natural_drop, p.sensitivity) for p in points]).T
hybrid = retrain(truth, radius, 10, "d", hybrid_weight=0.5, **cheap)
adversarial = retrain(truth, radius, 40, "d", damping=0.4, **cheap)
excess = {p: path[p][0] - np.interp(-path[p][1], -frontier[1], frontier[0]) for p in "abcd"}

predict(
    "paths",
    "Which procedures stay on the frontier, as all did for a sphere?",
    options=["all", "(d)", "none"],
)

# %%
outcome("paths", "(d)")
rests = {"(d)": (1.0, adversarial), "hybrid": (0.5, hybrid)}
gaps = {k: linear.certificate(truth, at[-1], radius, w, **cheap) for k, (w, at) in rests.items()}
check(
    "(d) and hybrid miss their optima by at most {} nats",
    max(gaps.values()),
    at_most=1e-3,
    noise=True,
)
check("after three rounds (a) pays {} nats too much", excess["a"][3], at_least=0.1)
check("the frontier's certificates are {} nats", max(p.certificate for p in points), at_most=1e-9)
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4))
paths = [(f"({p})", path[p], PROCEDURE[p], PROCEDURE_STYLE[p]) for p in "ad"]
paths += [("hybrid (d)", prices(hybrid), HYBRID, "^-")]
plots.legend_above(plots.exchange(left, frontier, paths, xlim=(-0.1, 3.2)))
lines = [(f"({p})", excess[p][:5], PROCEDURE[p], PROCEDURE_STYLE[p]) for p in "abcd"]
plots.label_ends(plots.by_round(right, lines, ylabel="paid beyond the frontier (nats)", log=False))
alt = (
    "Left: the frontier falls; (d) and the hybrid settle on it, (a) runs beside it. Right: what "
    "each procedure pays beyond the frontier by round: (a), (b) and (c) rise, (d) stays near "
    "zero."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Black: the frontier (with seeded points in the place of the expectation); grey: out of reach
# for any Gaussian. (d) swings to and fro and settles on it, and so does the hybrid (green). (a), (b) and (c)
# pay too much: a small variance draws the attacks and is widened too far; and because their data are drawn
# from the model, the clean data that could correct it are gone.
#
# **Two ways, same number.** Random Gaussians around the optimum are all worse. And the sensitivity of a
# frontier model can be read off its variances, $\frac1{2w}\sum_i (1 - \lambda_i/\lambda_i') \le n/2w$, *whatever*
# $\varepsilon$ is.

# %%
tilts = torch.randn(100, n, n, generator=torch.Generator().manual_seed(3))
bumps = torch.tensor([0.001, -0.001]).repeat(50)[:, None, None] * tilts @ tilts.mT
rivals = [best.model, *(GaussianFlow(mean, best.model.covariance + bump) for bump in bumps)]
total = [sum(linear.trade_off(truth, rival, radius, num_samples=512)) for rival in rivals]
check("{} of 100 rivals are worse", sum(t > total[0] for t in total), equals=100)
identity = (1 - truth.eigenvalues / best.model.eigenvalues).sum().item() / 2
check("sensitivity: attacked {}, read off {}", best.sensitivity, identity, within=1e-3, digits=3)

# %% [markdown]
# ## 7. ★ Too strong an attack never settles
#
# On the frontier (d) is at rest. Does it get there? If the attack is strong, a direction that is a little too
# narrow draws *all* attacks, is far too wide after the refit, and draws none in the next round. So each
# round turns a small error around, and above a limit, $\varepsilon/\sigma$ of about $\sqrt n/2$, makes it
# larger. *Damping* means to keep part of the old covariance in each update.

# %% tags=["predict"]
nearly = GaussianFlow(torch.zeros(n), torch.diag(torch.linspace(0.99, 1.01, n)))
lines, last = [], {}
for e, kept, color, style in (
    (1.5, 0.0, DATA, "v--"),
    (2.3, 0.0, ATTACK, "o-"),
    (2.3, 0.5, HYBRID, "P-."),
):
    models = retrain(nearly, e, 20, "d", damping=kept, num_samples=1024)
    missing = [linear.certificate(nearly, model, e, 1.0, num_samples=1024) for model in models]
    last[e, kept] = missing[-1]
    lines.append((f"e = {e}, {kept:.0%} kept", np.maximum(missing, 1e-12), color, style))

predict(
    "rest",
    "Above the limit, half of the old covariance is kept. Does training come to rest?",
    options=["yes", "only later", "no"],
)

# %%
outcome("rest", "yes" if last[2.3, 0.5] < 1e-6 else "no")
limit, hybrid_limit = (linear.stability_limit(n, hybrid_weight=h) for h in (0.0, 0.5))
check(
    "the limit at n = 10 is {}, for the hybrid {}",
    limit,
    hybrid_limit,
    at_most=hybrid_limit,
    digits=3,
)
ratio = linear.stability_limit(10_000) / (math.sqrt(10_000) / 2)
check("at n = 10,000 it is {} times sqrt(n)/2", ratio, at_least=0.9, at_most=1.1, digits=3)
check("below the limit {} nats are missing in the end", last[1.5, 0.0], at_most=1e-6)
check("above it {}", last[2.3, 0.0], at_least=1e-3, digits=1)
check("above it and damped {}", last[2.3, 0.5], at_most=1e-6)
fig, ax = plt.subplots(figsize=(9, 3.8))
plots.label_ends(plots.by_round(ax, lines, ylabel="certificate (nats)"))
alt = (
    "Certificates by round, logarithmic: below the limit it falls to 1e-8, above it it rises "
    "towards 1, damped it falls to 1e-12."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** How far each model is from optimal, by its certificate. Below the limit (blue) the error dies
# out; above it (red) the first round comes close, and every later one moves away again; damped (green) the same
# training comes to rest.
#
# ## 8. ★ The best of both worlds?
#
# For deep flows the paper recommends hybrid training,
#
# > "thus achieving the best of both worlds" (5)
#
# A Gaussian knows nothing of the kind: its hybrid is a point on the frontier like any other. But hybrid training
# shows the model a [mixture](../docs/glossary.md#mixture) of clean and attacked data, which no Gaussian can look like. What if the model
# *is* a mixture, $q = \tfrac12(p_{\text{clean}} + p_{\text{attacked}})$? Since $q \ge \tfrac12 p_{\text{clean}}$, it costs
# clean data at most $\log 2$ nats, in any dimension. Around a sphere everything depends on the distance $s$ from the
# mean alone; so the worst case against $q$ is a one-dimensional search, and exact.

# %% tags=["predict"]
e, s = 3.0, np.linspace(5e-4, 30, 60_000)  # s: distance from the mean
volume = (n - 1) * np.log(s)
clean_density = stats.chi.logpdf(s, n) - volume
attacked_density = stats.chi.logpdf(np.maximum(s - e, 1e-9), n) - volume
mass = stats.chi.pdf(s, n) / stats.chi.pdf(s, n).sum()
window = 2 * round(e / (s[1] - s[0])) + 1


def mixture(w):
    q = np.logaddexp(np.log1p(-w) + clean_density, np.log(w) + attacked_density)
    worst = minimum_filter1d(q, window, mode="nearest")  # the least q within distance e
    return mass @ (clean_density - q), mass @ (q - worst)


predict(
    "mix",
    "Attacked anew, where does the mixture end?",
    options=["above the Gaussians' frontier", "below it"],
)

# %%
shares = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8])
mixtures = np.array([mixture(w) for w in shares]).T
v, half = np.geomspace(1, 12, 300), mixture(0.5)
matched = np.interp(mixtures[0], *price(v, e))
outcome("mix", "below it" if (mixtures[1] < matched).all() else "above the Gaussians' frontier")
check("the 1:1 mixture costs clean data {} nats, at most log 2", half[0], at_most=math.log(2))
twin = np.interp(half[0], *price(v, e))
check("its sensitivity is {}, of a Gaussian of equal cost {}", half[1], twin, at_most=twin)
rest = {h: price(1 + (1 - h) * variance_growth(e, 1.0, n), e) for h in (0.0, 0.5)}
fig, ax = plt.subplots(figsize=(8, 4.4))
paths = [("(d)", rest[0.0], ATTACK, "D"), ("hybrid (d)", rest[0.5], HYBRID, "P")]
paths += [("mixtures", mixtures, RAISE, "^-"), ("1:1 mixture", half, RAISE, "*")]
plots.exchange(ax, price(v, e), paths, xlim=(-0.1, 4)).lines[-1].set(markersize=16, zorder=4)
plots.legend_above(ax)
alt = (
    "The exchange at three standard deviations: (d) and the hybrid lie on the Gaussians' "
    "frontier, the mixtures below it, out of reach for Gaussians."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** The mixtures (amber, from 2% attacked on the left to 80% on the right) lie in the grey: out of
# reach for Gaussians, not for densities. The wall is the model's, not the problem's.
#
# The mixture is a yardstick that needs no training: under *any* attack it loses at most one bit per *image* to
# either part, 1/3072 bits/dim at 32 x 32 pixels. So the paper's Tables 1 and 2 contain one for hybrid Glow.
#
# The last cell prints both. The hybrid is ahead at few eps; elsewhere the mixture is, or level with it, most of
# all on clean images. But the hybrid is one network instead of two, and printed attacks may fall short of the worst.
#
# ## What you have learned
#
# * The worst case moves data outwards, so a refit is wider: by $1 + \alpha(\varepsilon/\sigma)$.
# * "Adversarial training" names four procedures. Three grow without limit; the usual one stops.
# * For spheres there is one curve of exchange, and no ranking of samples changes along it.
# * ★ For other Gaussians there is a frontier, which (d) and hybrid training reach, and a certificate proves.
#   Too strong an attack must be damped. The exchange binds Gaussians: a mixture pays at most $\log 2$ nats.
#
# ## Further reading
#
# * Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018: procedure (d).
#   Tsipras et al., *Robustness May Be at Odds with Accuracy*, ICLR 2019: the same exchange for classifiers.
# * [All errata](../docs/errata.md), each with its check; [the paper, item by item](../docs/paper.md).
# * Next on the theory route: [03, one perturbation for all points](03_universal_perturbations.ipynb).

# %%
lead = {}  # per table and eps, in bits/dim: above 0 the mixture is ahead, below 0 the hybrid
for rows in (paper.TABLE_1, paper.TABLE_2):
    clean_nll, adversarial_nll, hybrid_nll = (np.array(row.nll) for row in rows)
    at_most = np.minimum(clean_nll, adversarial_nll) + 1 / 3072
    lead[rows[0].source] = dict(zip(rows[0].eps, (hybrid_nll - at_most).round(1), strict=True))
    lines = {"eps": rows[0].eps, "mixture, at most": at_most, "hybrid, as printed": hybrid_nll}
    for label, values in lines.items():
        print(f"{rows[0].source}, {label:18}", *(f"{value:5.3g}" for value in values))
ahead = {k: [eps for eps in by if by[eps] < 0] for k, by in lead.items()}
check(
    "in both tables together the hybrid is ahead at {} eps",
    sum(map(len, ahead.values())),
    at_most=3,
)
lessons.calibration()
lessons.verdicts([
    (r"$\alpha$ as a function of $\varepsilon$", "3.2", f"refit {rounded(grown)}, printed {rounded(printed_alpha)}, "
     rf"$\alpha(\varepsilon/\sigma)$ {rounded(right_alpha)}", "slip"),
    (r"“Performing $m$ steps” gives $\sigma^2(1 + \alpha)^m I$", "3.2, (4)",
     "true of (a); after 10 rounds " + ", ".join(f"({p}) {formula[p][-1]:.1f}" for p in "abcd"), "slip"),
    (r"failures below $\gamma$, with $\alpha(\varepsilon/\sigma)$", "Theorem 3.2",
     f"{gamma} allowed, (a) {rounded(after['a'])}", "agrees"),
    (r"the same with $\alpha$ as printed", "Theorem 3.2", f"fails with probability {rounded(fails_printed)}", "slip"),
    ("“for a sufficiently large $m$ … provably robust”", "3.2", "rounds that suffice: " + ", ".join(
        f"({p}) {m}" for p, m in needed.items()), "agrees for (a) to (c), not for (d)"),
    (r"“For any $\Delta$, when $m \geq$” a number that can be negative", "Theorem 3.2",
     f"$m$ > {rounded(bound)}, and {m_easy} rounds suffice", "agrees"),
    (r"“$L_{nat-dr}$ is at odds with $L_{sen}$”", "3.2.1, Figure 3",
     f"{rounded(rate[0])} nats per nat in round 1, {rounded(rate[-1])} in round 10", "agrees"),
    ("“achieving the best of both worlds”", "5", "; ".join(
        f"{name}: hybrid ahead of a mixture at eps {eps}" for name, eps in ahead.items()), "disagrees"),
])  # fmt: skip

# %% [markdown]
# ## Exercises
#
# **1. Why is hybrid training a half?** For $n = 10$, $\varepsilon = \sigma$, what variance does one-to-one hybrid
# training (d) come to rest at? Answer with `variance_growth`.
#
# <details><summary>Hint 1</summary>
#
# Half of the data are clean. What is their variance, and what that of the attacked half?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $1$ and $1 + \alpha$. The refit to both halves has their mean.
#
# </details>

# %%
hybrid_variance = None  # your answer: a number
rest = retrain(clean, 1.0, 60, "d", hybrid_weight=0.5)[-1].eigenvalues[0].item()
grade(hybrid_variance, rest)

# %% tags=["solution"]
grade(1 + variance_growth(1.0, 1.0, n) / 2, rest)
# The attack depends on the direction from the mean alone, so it is the same in every round.

# %% [markdown]
# **2. Why can $m$ be zero?** For which $\Delta$ does the clean model already pass with $\gamma = 0.05$? Give the
# smallest, for $n = 10$, $\varepsilon = \sigma$.
#
# <details><summary>Hint 1</summary>
#
# $v_0 = 1$: solve beat 4's inequality for $\Delta$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `stats.chi.isf(0.05, n)` is the exact $r$.
#
# </details>

# %%
smallest_delta = None  # your answer: a number
tries = np.arange(3, 6, 0.002)
passes = next(d for d in tries if rounds_for(1.0, 1.0, n, d, 0.05) == 0)
grade(smallest_delta, passes)

# %% tags=["solution"]
grade((2 * stats.chi.isf(0.05, n) + 1) / 2, passes)
# A drop that is allowed to be this large needs no defence: the bound on m has then become negative.

# %% [markdown]
# **3. Why is sensitivity bounded?** Let $\varepsilon \to \infty$ in (d), for a sphere. What does the sensitivity
# after training tend to?
#
# <details><summary>Hint 1</summary>
#
# $v = 1 + \alpha$. Insert it into $L_{\text{sen}} = n\alpha/(2v)$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\alpha/(1 + \alpha)$ tends to 1.
#
# </details>

# %%
limit_of_sensitivity = None  # your answer: a number of nats
far = linear.sensitivity(1 + variance_growth(1e6, 1.0, n), 1e6, 1.0, n)
grade(limit_of_sensitivity, far, unit="nats")

# %% tags=["solution"]
grade(n / 2, far, unit="nats")
# Training has made the model as wide as the attack: half a nat per dimension is all there is to take.
