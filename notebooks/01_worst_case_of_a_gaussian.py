# %% [markdown]
# # Find the worst case of a Gaussian
#
# How far can a small step lower the likelihood of a point? For a deep flow nobody knows. For the
# simplest flow of all, a linear one, there is an exact answer, and it already looks like the attacks
# on deep flows.
#
# | | |
# |---|---|
# | **Do** | attack a Gaussian exactly, first in the plane, then in the 768 dimensions of a photograph |
# | **Learn** | why the worst step turns from the gradient to the axis of smallest variance, when it is not unique, and how to *prove* that no step is worse |
# | **Need** | eigenvectors, the Gaussian density, gradients; [00](00_start_here.ipynb) for nats and bits/dim. No deep learning |
# | **Minutes on 2 cores** | 25 to read, half a minute to run |
# | **Paper sections** | 3 and 3.1 with Theorem 3.1 and Figure 2 of Pope, Balaji and Feizi (AISTATS 2020) |

# %%
import math
from fractions import Fraction

import matplotlib.pyplot as plt
import torch

from flowrob import data, lessons, plots
from flowrob.attacks import L2Ball, lower_likelihood
from flowrob.lessons import check, grade, outcome, predict, rounded
from flowrob.linear import GaussianFlow, best_case, worst_case
from flowrob.plots import ATTACK, NOISE, RAISE, THEORY
from flowrob.units import dequantize
from flowrob.widgets import worst_case_explorer

plots.use_style()
torch.set_default_dtype(torch.float64)


def drop(flow, x, delta):
    return flow.log_prob(x) - flow.log_prob(x + delta)


# %% [markdown]
# ## 1. Which step hurts most?
#
# A linear flow turns Gaussian noise $z$ into data $x = \mu + Az$: a [Gaussian](../docs/glossary.md#gaussian) with mean $\mu$ and
# [covariance](../docs/glossary.md#covariance) $K = AA^\top$. The paper's task:
#
# > "we aim to find a norm-bounded adversarial perturbation $\delta$ that maximally decreases the
# > likelihood score of a test point" (3.1)
#
# Write $L = \log p$ and count in nats. What a step $\delta$ takes from $x$, its [drop](../docs/glossary.md#drop), is a linear part, the
# gradient's, and a quadratic part, which is the same for all points:
#
# $$\operatorname{drop}(\delta) = L(x) - L(x + \delta)
# = (x-\mu)^{\top} K^{-1} \delta + \tfrac12\, \delta^\top K^{-1}\delta .$$
#
# <details><summary>Show the three steps</summary>
#
# 1. $L(y) = \text{const} - \tfrac12 (y-\mu)^\top K^{-1}(y-\mu)$. The constant cancels in the difference.
# 2. With $v = x - \mu$: $\operatorname{drop} = \tfrac12\bigl[(v+\delta)^\top K^{-1}(v+\delta) - v^\top
#    K^{-1} v\bigr]$.
# 3. Expand. $v^\top K^{-1}v$ cancels, and the two mixed terms are equal because $K$ is symmetric:
#    $v^\top K^{-1}\delta + \tfrac12\delta^\top K^{-1}\delta$.
#
# </details>
#
# The attacker picks the $\delta$ of length at most $\varepsilon$ (the [$\ell_2$ ball](../docs/glossary.md#l_2-ball)) with the largest drop. Take a long, thin
# density and a point near its long axis.

# %% tags=["predict"]
angle = math.radians(25)
axes = torch.tensor([[-math.sin(angle), math.cos(angle)], [math.cos(angle), math.sin(angle)]])
flow = GaussianFlow.from_eigen(torch.zeros(2), torch.tensor([0.2, 2.0]), axes)
x, eps = (axes @ torch.tensor([0.3, 1.5]))[None], 1.0
worst, best = worst_case(flow, x, eps), best_case(flow, x, eps)
away = eps * (x - flow.mean) / (x - flow.mean).norm()
steps = [("worst", worst.delta, ATTACK), ("best", best.delta, RAISE), ("away", away, NOISE)]
degrees = torch.arange(361.0)
circle = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)

predict(
    "direction",
    "Where does the worst step go?",
    options=["straight away from the mean", "across the thin side", "along the long axis"],
)

# %%
outcome("direction", "across the thin side")
lost = [drop(flow, x, delta).item() for _, delta, _ in steps]
check("the worst step costs {} nats, one straight away {}", lost[0], lost[2], at_least=2 * lost[2])

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
arrows = [(name, delta[0], color) for name, delta, color in steps]
plots.plane(left, flow.mean, flow.covariance, x[0], eps, arrows)
marks = [(name, delta[0], drop(flow, x, delta), color) for name, delta, color in steps]
plots.drop_by_angle(right, degrees, drop(flow, x, eps * circle), marks)
alt = (
    "Left: elongated ellipses and a disc of allowed steps around a point; the worst arrow "
    "crosses the ellipses, the best points inwards, one away from the mean lies between. Right: "
    "the drop by direction, two hills and two valleys; the worst step sits on the higher hill."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left: the blue ellipses are the level sets at one, two and three standard deviations,
# the grey disc is every allowed step. The worst step (red; the [worst case](../docs/glossary.md#worst-case)) cuts across the thin side, where likelihood
# is lost fastest. The best step (amber; the [best case](../docs/glossary.md#best-case)) raises the likelihood. Right: the drop in every direction, and
# the two closed forms exactly on its highest and its lowest point.
#
# **Two ways, same number.** A million directions find nothing better. And one sign can be settled at
# once: the paper prints
#
# > $C = n \log(2\pi)/2$ (Section 3)
#
# for the constant of $L$. A density integrates to one, so there must be a minus.

# %%
turn = torch.linspace(0, 2 * math.pi, 1_000_001)[:, None]
tried = drop(flow, x, eps * torch.cat([turn.cos(), turn.sin()], dim=1)).max().item()
check("closed form {} nats, best of a million directions {}",
      worst.drop, tried, within=1e-9, digits=7)  # fmt: skip
side = torch.linspace(-9, 9, 361)
mass = flow.log_prob(torch.cartesian_prod(side, side)).exp().sum().item() * 0.05**2
printed_mass = mass * (2 * math.pi) ** 2
check("the total mass is {}", mass, at_least=0.999, at_most=1.001, digits=3)
check("with the printed sign it is {}", printed_mass, at_least=39, digits=3)

# %% [markdown]
# ## 2. One unknown number is enough
#
# At the worst step one cannot gain by sliding along the sphere $|\delta| = \varepsilon$. So there the
# gradient of the drop is parallel to $\delta$. Call the factor $2\eta$:
#
# $$K^{-1}(x + \delta - \mu) = 2\eta\,\delta .$$
#
# In the [eigenvectors](../docs/glossary.md#eigenvalue-eigenvector) of $K = U \operatorname{diag}(\lambda)\, U^\top$ the coordinates separate: with
# $a = U^\top(x - \mu)$ and $d = U^\top\delta$ each $d_i$ is known once $\eta$ is, and the length of
# $\delta$ fixes $\eta$.
#
# $$d_i = \frac{a_i}{2\eta\lambda_i - 1},
# \qquad \sum_i \frac{a_i^2}{(2\eta\lambda_i - 1)^2} = \varepsilon^2 .$$
#
# <details><summary>Show the five steps</summary>
#
# 1. The drop is convex in $\delta$, so its maximum over the ball lies on the sphere $\delta^\top\delta =
#    \varepsilon^2$.
# 2. If the gradient of the drop had a part tangential to the sphere, a small move that way would raise
#    the drop. So it is a multiple of the sphere's normal, the gradient $2\delta$ of
#    $\delta^\top\delta$. The multiplier is called $\eta$, whence $2\eta\,\delta$.
# 3. The gradient of the drop is $K^{-1}(x-\mu) + K^{-1}\delta$: the first formula.
# 4. Multiply it by $U^\top$; since $U^\top K^{-1} = \operatorname{diag}(1/\lambda)\,U^\top$, line $i$
#    reads $(a_i + d_i)/\lambda_i = 2\eta\, d_i$, that is $a_i = (2\eta\lambda_i - 1)\,d_i$.
# 5. $U$ keeps lengths: $\sum d_i^2 = \varepsilon^2$. Insert step 4.
#
# </details>
#
# So $n$ unknowns have become one. The equation for $\eta$ is called [secular](../docs/glossary.md#secular-equation). In the paper:
#
# > "Let $\eta$ be a solution of the set of equations", among them $2\eta\lambda_i - 1 \geq 0\ \forall i$
# > (Theorem 3.1)
#
# (The numerators are printed as $U^TK$, a matrix; the vector $U^\top(\mu - x) = -a$ makes it work.)
# In the plane there are up to four roots: walk along the curve and note where it crosses the radius.

# %% tags=["predict"]
a = (x - flow.mean) @ flow.eigenvectors
eta = torch.linspace(-1, 4.5, 200_001)[:, None]
delta = a / (2 * eta * flow.eigenvalues - 1)  # in the coordinates of the eigenvectors
length = delta.norm(dim=1)
crosses = ((length[1:] - eps) * (length[:-1] - eps) < 0).nonzero()[:, 0].flip(0)
roots, found = eta[crosses, 0], delta[crosses] @ flow.eigenvectors.T

predict(
    "root",
    "Four values of eta solve the equation. Which one is the attack?",
    options=["the smallest", "one in the middle", "the largest"],
)

# %%
outcome("root", ["the largest", "one in the middle"][int(drop(flow, x, found).argmax() > 0)])
check("the largest root is {}, the closed form's multiplier {}",
      roots[0], worst.multiplier, within=1e-4, digits=3)  # fmt: skip
check("the smallest is {}, that of the best step {}",
      roots[-1], best.multiplier, within=1e-4, digits=3)  # fmt: skip

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
colors, poles = [ATTACK, NOISE, THEORY, RAISE], 1 / (2 * flow.eigenvalues)
plots.secular(left, eta[::100], length[::100], eps, poles, roots, colors)
values = drop(flow, x, found)
marks = [
    (f"$\\eta$ = {e:.2f}", d, v, c) for e, d, v, c in zip(roots, found, values, colors, strict=True)
]
plots.drop_by_angle(right, degrees, drop(flow, x, eps * circle), marks)
alt = (
    "Left: the length of delta against eta shoots up at two poles and meets the radius at four "
    "roots. Right: the four roots on the curve of the drop: two hills, two valleys; the largest "
    "eta is the higher hill, the smallest the lower valley."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left: the length of $\delta(\eta)$ shoots up at the *poles* $1/(2\lambda_i)$, where a
# denominator vanishes (dotted), and meets the radius (blue) four times. Right: each root is a hill or a valley of the drop, told by
# its mark. The grey square is a second, lower hill, which will trap a careless attacker in beat 6.
#
# Right of the last pole the curve falls from infinity to zero: there is exactly one root, the attack,
# and Newton's method finds it in a handful of steps.
#
# ## 3. From the gradient to the thin axis
#
# Now let the budget grow. For a tiny $\varepsilon$ the linear part of the drop decides, and the step
# follows the gradient $g = K^{-1}(x-\mu)$. For a huge one the quadratic part wins. The paper, on where
# it points:
#
# > "minimum eigenvector of the covariance matrix $K$ is the direction in which the data varies the
# > least" (3.1.2)
#
# Call it [$u_{\min}$](../docs/glossary.md#u_min), its variance $\lambda_1$. Half the turn is made when the step is equally close to both
# directions. The next figure shows four stills of the motion.

# %% tags=["predict"]
far = (axes @ torch.tensor([0.15, 2.2]))[None]
radius = torch.logspace(-2, 2, 401)
path = worst_case(flow, far.expand(401, 2), radius).delta
g, u_min = torch.linalg.solve(flow.covariance, far[0] - flow.mean), flow.eigenvectors[:, 0]
to_gradient = path @ (g / g.norm()) / radius
to_u_min = path @ (u_min * (u_min @ g).sign()) / radius
half = radius[(to_u_min > to_gradient).nonzero()[0]].item()
l1, l2 = flow.eigenvalues.tolist()

predict(
    "half",
    "At which radius has the step made half the turn?",
    options=[
        "the thin axis, sqrt(lam_1)",
        "the long axis, sqrt(lam_2)",
        "|x - mu|",
        "less than all three",
    ],
)

# %%
outcome("half", "less than all three")
check("half turned at {}, before the shortest of the three, {}", half, l1**0.5, at_most=l1**0.5)

radii = [0.1, 0.5, 1.0, 2.0]
b = (far - flow.mean) @ flow.eigenvectors
span = torch.linspace(2.52, 8, 3000)[:, None]
length = (b / (2 * span * flow.eigenvalues - 1)).norm(dim=1)

fig, film = plt.subplots(2, 4, figsize=(12, 5), height_ratios=(3, 2))
for (top, bottom), size in zip(film.T, radii, strict=True):
    step = worst_case(flow, far, size)
    plots.plane(top, flow.mean, flow.covariance, far[0], size, [("", step.delta[0], ATTACK)], 3.8)
    top.set_title(f"radius {size:g}", loc="left")
    plots.secular(bottom, span, length, size, [2.5], step.multiplier, [ATTACK])
    bottom.set(ylim=(0, 2.4), xlim=(2, 8))
    _ = [ax.label_outer() for ax in (top, bottom)]
alt = (
    "Four frames. Above, the disc around a point inflates from radius 0.1 to 2, and its worst "
    "arrow swings from the gradient to the thin axis. Below, the line at the height of the "
    "radius rises, and its crossing with the falling curve slides left towards the pole."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Above: the ball inflates, and the arrow swings. Below: the radius (blue line) rises,
# and the root (red) slides down to the pole at $1/(2\lambda_1)$, where $d_1$ outgrows all else. The
# turn is early. The linear part of the drop is about
# $\varepsilon|g|$, the quadratic one $\varepsilon^2/(2\lambda_1)$; they are equal at $\varepsilon =
# 2\lambda_1|g|$, and the half turn comes a little before. A thin density turns the attacker early.
#
# ## 4. Three special cases
#
# * **Spherical**, $K = \lambda I$: no direction is thin, and the worst step goes straight away from the
#   mean, as the paper says:
#
#   > $\delta^* = \frac{\epsilon}{\|\mathbf x - \mu\|}(\mathbf x - \mu)$ (3.1.1, equation (3))
#
#   (Only the line before it, $1 - 2\eta\lambda = \|\mu - \mathbf x\|/\epsilon$, lacks a minus.)
# * **At the mean**, $x = \mu$: the gradient vanishes, and $\delta = \pm\varepsilon\,u_{\min}$. Two optima.
# * **Large radius**: $x$ no longer matters, and the drop approaches $\varepsilon^2/(2\lambda_1)$.

# %%
sphere, mean = GaussianFlow(torch.zeros(2), torch.eye(2)), flow.mean[None]
outward, at_mean = worst_case(sphere, x, eps).delta, worst_case(flow, mean, eps).delta
limit = worst_case(flow, x, 100.0).drop.item() / (100.0**2 / (2 * l1))
signs = [drop(sphere, x, s * outward).item() for s in (1, -1)]
ends = [drop(flow, mean, s * at_mean).item() for s in (1, -1)]
gap = (outward - eps * x / x.norm()).abs().max()
check("equation (3) and the closed form differ by {}", gap, at_most=1e-12)
check("it costs {} nats; with the sign of the line before it, {}", *signs, at_least=0, digits=3)
check("at the mean the two ends cost {} and {} nats", *ends, within=1e-12, digits=3)
check("at radius 100 the drop is {} times its limit", limit, at_least=1, at_most=1.05, digits=3)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
arrows = [("(3)", outward[0], ATTACK), ("line before", -outward[0], NOISE)]
plots.plane(left, sphere.mean, sphere.covariance, x[0], eps, arrows)
arrows = [("", at_mean[0], ATTACK), ("", -at_mean[0], ATTACK)]
plots.plane(right, flow.mean, flow.covariance, mean[0], eps, arrows)
alt = (
    "Left: in a round density equation (3) points away from the mean, the other sign towards it. "
    "Right: at the mean two opposite arrows along the thin axis."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left: equation (3) points outwards (red); with the sign of the line before it the step
# would turn around (grey) and *raise* the likelihood. Right: at the mean both ends of the thin axis are
# equally bad. The third case is the last line printed.
#
# Now move things yourself: raise the radius, and watch the arrow swing and the root slide down (right). Then set *x
# across it* to 0, and watch the hills. (The *condition* of $K$ is its largest variance over its smallest: how thin.)

# %% tags=["widget"]
worst_case_explorer()

# %% [markdown]
# ## 5. The hard case
#
# Beat 2 lived on the last pole. The pole is there because $a_1$, the part of $x - \mu$ along
# $u_{\min}$, is not zero. If it *is* zero, the [hard case](../docs/glossary.md#hard-case), the pole vanishes, and the equation may have no root to the
# right of $1/(2\lambda_1)$. Yet the ball is closed and bounded, so a worst step exists. It looks like
# this: $\eta$ stays at $1/(2\lambda_1)$; the other coordinates are $d_i = a_i/(\lambda_i/\lambda_1 - 1)$;
# the rest of the radius is spent along $u_{\min}$, in either direction. The theorem passes over it:
#
# > "Then, the optimal additive perturbation ... is given by" (Theorem 3.1)
#
# although no $\eta$ need satisfy its conditions. Take $\lambda = (1, 4)$, $x - \mu = (0, 1)$,
# $\varepsilon = 1$. The secular equation $1/(8\eta - 1)^2 = 1$ has one positive root, $\eta = \tfrac14$,
# the step $(0, 1)$; the condition $2\eta\lambda_1 \ge 1$ excludes it.

# %% tags=["predict"]
thin = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
y, excluded = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
hard = worst_case(thin, y, 1.0)
mirrored = hard.delta * torch.tensor([-1.0, 1.0])
steps = [("optimum", hard.delta, ATTACK), ("optimum", mirrored, ATTACK), ("root", excluded, NOISE)]

predict(
    "excluded",
    "Is the step (0, 1) of the excluded root the worst one?",
    options=["yes", "no: one other step is worse", "no: two other steps are worse"],
)

# %%
exact = [Fraction(drop(thin, y, d).item()).limit_denominator(100) for _, d, _ in steps]
outcome("excluded", "no: two other steps are worse")
check("the two optima cost {} and {} nats, exactly 13/24", *map(float, exact[:2]), equals=13 / 24)
check("the excluded root costs {} nats, exactly 3/8", float(exact[2]), equals=3 / 8)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
arrows = [(name, delta[0], color) for name, delta, color in steps]
plots.plane(left, thin.mean, thin.covariance, y[0], 1.0, arrows)
marks = [(name, delta[0], drop(thin, y, delta), color) for name, delta, color in steps[1:]]
marks[0] = ("two optima", *marks[0][1:])
marks.append(("", hard.delta[0], hard.drop, ATTACK))
plots.drop_by_angle(right, degrees, drop(thin, y, circle), marks)
alt = (
    "Left: from a point on the long axis two optimal arrows lean to both sides of the excluded "
    "root's arrow. Right: the drop by direction has two equal hills, and the excluded root is "
    "the dip between them."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** The two optima (red) are mirror images, and the excluded root (grey) is the floor of
# the dip between two hills. The theorem is right to leave it out, and is left with no step at all.
#
# Is this exotic? Fit a Gaussian to fewer points than dimensions, with a little variance added
# everywhere (a [ridge](../docs/glossary.md#ridge)) to make $K$ invertible. Training points have no part in the directions that only
# the ridge fills, and those have the smallest variance.

# %%
few = dequantize(data.load("photos", size=8, limit=100), torch.Generator().manual_seed(0))
hard_cases = worst_case(GaussianFlow.fit(few, ridge=1e-4), few.double(), 0.3).hard_case
check(f"of 100 photographs in {few[0].numel()} dimensions {{}} are hard cases",
      int(hard_cases.sum()), equals=100)  # fmt: skip
ball = [worst_case(flow, x, r).drop.item() for r in (0.999, 1.0)]
check("the drop grows up to the boundary: {} nats at 0.999, {} at 1",
      *ball[::-1][1:], ball[1], at_most=ball[1], digits=4)  # fmt: skip

# %% [markdown]
# The last line is a smaller point: the constraint must be $|\delta| \le \varepsilon$. On the open ball,
# printed as $\|\delta\|_2 < \epsilon$, there is no maximum.
#
# ## 6. A proof in one line, and a rival
#
# How do we *know* that a step is the worst in many dimensions? The drop of every allowed step lies below
# a number that is easy to compute. With $w_i = 1 - \lambda_1/\lambda_i$ and **any** $t > 0$,
#
# $$\operatorname{drop}(\delta) \;\le\; \frac12\Bigl[(1+t)\frac{\varepsilon^2}{\lambda_1}
# + \sum_i \frac{a_i^2\,\lambda_1}{\lambda_i^2\,(w_i + t)}\Bigr]
# \qquad\text{for every } |\delta| \le \varepsilon .$$
#
# This is a [dual bound](../docs/glossary.md#dual-bound): it comes from the multiplier.
#
# <details><summary>Show the four steps</summary>
#
# 1. For $|\delta| \le \varepsilon$ and $\eta \ge 0$: $\operatorname{drop}(\delta) \le
#    \operatorname{drop}(\delta) + \eta\,(\varepsilon^2 - |\delta|^2)$, as what is added is not negative.
# 2. In eigenvectors the right-hand side is $\eta\varepsilon^2 + \sum_i \bigl[\tfrac{a_i}{\lambda_i} d_i -
#    \tfrac12\bigl(2\eta - \tfrac1{\lambda_i}\bigr) d_i^2\bigr]$.
# 3. If $2\eta\lambda_1 > 1$ each bracket is a parabola open below; its top is
#    $\tfrac12 (a_i/\lambda_i)^2 / (2\eta - 1/\lambda_i)$, whatever $\delta$ is.
# 4. Put $2\eta\lambda_1 = 1 + t$: then $2\eta - 1/\lambda_i = (w_i + t)/\lambda_1$. Equality holds when
#    every $d_i$ sits at its top, which is the formula for $d_i$ of beat 2, and $|\delta| = \varepsilon$.
#
# </details>
#
# A step that attains the bound for some $t$ is optimal: a [certificate](../docs/glossary.md#certificate) that anyone can check. We try it
# in 50 dimensions.

# %% tags=["predict"]
rng = torch.Generator().manual_seed(0)
root = torch.randn(50, 50, generator=rng)
many = GaussianFlow(torch.zeros(50), root @ root.T / 50 + 0.05 * torch.eye(50))
points = many.sample(1000, rng)
proved = worst_case(many, points, 1.0)
lam, b = many.eigenvalues, (points[0] - many.mean) @ many.eigenvectors
t = torch.logspace(-2, 1, 200)[:, None]
bound = (1 + t[:, 0]) / lam[0] + (b**2 * lam[0] / lam**2 / (1 - lam[0] / lam + t)).sum(1)
bound, top = bound / 2, proved.drop[0]
directions = torch.nn.functional.normalize(torch.randn(10_000, 50, generator=rng))
random = drop(many, points[:1], directions)

predict(
    "noise",
    "The worst step costs how many times the best of 10,000 random ones?",
    options=[1.05, 2, 10],
)

# %%
outcome("noise", (top / random.max()).item())
gap = (proved.certificate / proved.drop - 1).abs().max()
check("bound and drop of 1,000 points differ by {}, relatively", gap, at_most=1e-12)
check("the bound lies {} nats or more above the drop", (bound - top).min(), at_least=0, digits=1)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
lines = [("bound", bound, THEORY), ("worst step", top.expand(200), ATTACK)]
plots.legend_above(plots.curves(left, t[:, 0], lines, xlabel="$t$", ylabel="nats", log="xy"))
plots.histogram(right, random, top, xlabel="drop (nats)")
alt = (
    "Left: the bound as a function of t is a valley that touches the worst step's drop at its "
    "floor. Right: a histogram of 10,000 random steps around 2 nats; the worst step stands alone "
    "at 26."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left: the bound (black) lies above the worst drop (red) for every $t$ and touches it at
# one: no doubt is left. Right: ten thousand random steps of the same length stay far below. Noise is no
# substitute for an attack.
#
# The rival is what everybody uses on deep flows, *projected gradient descent* (PGD):
#
# > "essentially a recursive application of FGSM for $m$ steps" (2.2)
#
# [FGSM](../docs/glossary.md#fgsm) is one step along the gradient (there: its sign). So: a step, back into the ball, again; against
# likelihood it *climbs* $-L$, in spite of its name. It knows nothing of eigenvectors, and we hold the exact answer. It can start at $\delta = 0$ or at
# a [random point](../docs/glossary.md#random-start) of the ball.

# %% tags=["predict"]
fixed = {"num_steps": 100, "step_size": 0.1, "box": None}
fresh = {**fixed, "start": "random"}


def missing(target, point, truth):  # nats, after each step, from random starts and from 0
    draw = torch.Generator().manual_seed(0)
    zero = lower_likelihood(target.log_prob, point, L2Ball(1.0), **fixed)
    points = point.repeat(200, 1)
    spread = lower_likelihood(target.log_prob, points, L2Ball(1.0), generator=draw, **fresh)
    return [truth - (run.history - run.start_value) for run in (spread, zero)]


predict(
    "start",
    "Which start finds the worst step, for the first point and for the hard case?",
    options=["0 for both", "random for both", "0 for the first, random for the hard case"],
)

# %%
cases = {"first point": (flow, x, worst.drop), "hard case": (thin, y, hard.drop)}
outcome("start", "0 for the first, random for the hard case")
fig, panels = plt.subplots(1, 2, figsize=(10, 3.8))
for ax, (name, case) in zip(panels, cases.items(), strict=True):
    spread, zero = missing(*case)
    plots.gaps(ax, {"random start": (spread, NOISE), "start at 0": (zero, ATTACK)})
    ax.set_title(name, loc="right")
    finds = {"at_most": 1e-3, "noise": True} if name == "first point" else {"at_least": 0.1}
    check(f"{name}: from 0 it misses {{}} nats", zero[-1], digits=1, **finds)
    trapped = (spread[-1] > 0.1).double().mean()
    finds = {"at_least": 0.1} if name == "first point" else {"at_most": 0.05}
    check(f"{name}: a share of {{}} of random starts is trapped", trapped, digits=1, **finds)
alt = (
    "Nats still missing after each step. First point: from 0 it falls to almost nothing, some "
    "random starts stay at 3. Hard case: from 0 it stays at 0.2, all random starts fall."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** Left: from 0 (red) PGD converges to the exact optimum, while some random starts (grey,
# at the top) end on the lower hill of beat 2. Right: at $x$ the gradient points exactly to the dip, which
# by symmetry PGD never leaves; random starts get away. So start at 0, *and* [restart](../docs/glossary.md#restart) at random. The exact
# answer has tested the attack.
#
# ## 7. Photographs, and a glimpse of deep attacks
#
# All this holds in any dimension. Fit a Gaussian to 16 x 16 colour photographs, 768 numbers each, and
# attack crops it was not fitted to ([held out](../docs/glossary.md#held-out)). The paper warns that the balls differ:
#
# > "while we use $\ell_2$ norm here, $\ell_\infty$ perturbation norm bounds are used to construct attacks
# > for non-linear flow-models" (3.1)
#
# ($\ell_2$ is the length of $\delta$, $\ell_\infty$ its greatest coordinate.) Here $\varepsilon$ grey levels per value,
# root mean square, mean $|\delta| \le \varepsilon\sqrt{768}/256$.

# %% tags=["predict"]
rng = torch.Generator().manual_seed(0)
images = {split: data.load("photos", size=16, split=split) for split in ("train", "test")}
photos = GaussianFlow.fit(dequantize(images["train"], rng))
test = dequantize(images["test"], rng).double()
noise = torch.randn(len(test), 768, generator=rng)
noise = torch.nn.functional.normalize(noise).reshape(test.shape)
length = 4 / 256 * math.sqrt(768)
down, up = worst_case(photos, test, length), best_case(photos, test, length)

predict(
    "look",
    "What does the worst perturbation of a photograph look like?",
    options=["smooth", "edges of the photograph", "fine grain, alike for all photographs"],
)

# %%
outcome("look", "fine grain, alike for all photographs")

fig, panels = plt.subplots(4, 2, figsize=(12, 5.3))
shown = [8, 3, 68, 43, 141, 5]
thinnest = photos.eigenvectors[:, :6].T.reshape(-1, 3, 16, 16)
plots.image_grid(panels[0, 0], test[shown], 6, "photograph")
plots.image_grid(panels[0, 1], plots.signed(thinnest), 6, "directions of least variance")
rows = {"worst": down.delta, "noise": noise * length, "best": up.delta}
for (left, right), (name, step) in zip(panels[1:], rows.items(), strict=True):
    plots.image_grid(left, (test + step)[shown], 6, f"photograph + {name}")
    plots.image_grid(right, plots.signed(step[shown], 3 * 4 / 256), 6, f"{name} alone, amplified")
plots.show(fig, "Six crops with three perturbations: worst, noise, best.")

# %% [markdown]
# **What we see.** The worst step is a fine chequered grain, of the same kind for every photograph.
# Neighbouring pixels of photographs agree; the attack makes them disagree, along the directions of least
# variance (top right). The best step takes away edges and texture. Remember the grain when you attack a
# deep flow.
#
# Bits per dimension (notebook 00) are counted per grey level, and a grey level is 1/256 of the unit of
# $x$: that is $\log_2 256 = 8$ more than $-\log_2 p(x)$ per value.

# %%
grey, table = [0, 1, 2, 4, 8], {"worst": [], "noise": [], "best": []}
for level in grey:
    size = level / 256 * math.sqrt(768)
    found = worst_case(photos, test, size).delta, size * noise, best_case(photos, test, size).delta
    for row, step in zip(table.values(), found, strict=True):
        row.append(-photos.log_prob(test + step).mean().item() / math.log(2) / 768 + 8)

cost = {name: row[3] - row[0] for name, row in table.items()}
check("at four grey levels the worst step costs {} bits/dim, noise {}",
      cost["worst"], cost["noise"], at_least=5 * cost["noise"])  # fmt: skip
energy = (down.delta.flatten(1) @ photos.eigenvectors).square().mean(0) / length**2
check("{} of it lie in the thinnest tenth of all directions", energy[:77].sum(), at_least=0.9)
print("a photograph becomes", lessons.times_less_probable(cost["worst"], 768))

fig, ax = plt.subplots(figsize=(7.5, 3.8))
lines = [(name, table[name], c) for name, c in zip(table, (ATTACK, NOISE, RAISE), strict=True)]
labels = {"xlabel": "grey levels per value", "ylabel": "bits per dimension", "log": "y"}
plots.label_ends(plots.curves(ax, grey, lines, **labels))
alt = (
    "Bits per dimension from 0 to 8 grey levels: worst climbs to 50, noise to 10, best sinks "
    "slowly."
)
plots.show(fig, alt)

# %% [markdown]
# **What we see.** A budget at which noise (grey) does little makes the worst case (red) climb steeply,
# while the best case (amber) makes photographs likelier than they are; the axis is logarithmic. For deep
# flows the picture will be of the same kind.
#
# ## What you have learned
#
# * The worst step against a Gaussian is one root of one equation: the largest multiplier is the attack,
#   the smallest its likelihood-raising twin.
# * As the budget grows it turns from the gradient to the axis of smallest variance.
# * If $x - \mu$ has no part along that axis there can be two optima, and the printed theorem names none.
# * A dual bound proves optimality. PGD comes without a proof, but here it can be tested.
# * On photographs the worst step is fine grain.
#
# Of the paper's section one case is missing, two slips are put right by itself, the rest is notation. ([All
# errata](../docs/errata.md), each with a test; [the paper, item by item](../docs/paper.md).)

# %%
lessons.calibration()
lessons.verdicts([
    ("Equation (2) is the worst step", "Theorem 3.1",
     f"{worst.drop.item():.2f} nats; by search {tried:.2f}", "agrees, where an η exists"),
    (r"“Let $\eta$ be a solution”", "Theorem 3.1",
     f"hard case: none; optimum {exact[0]} nats, excluded root {exact[2]}", "slip"),
    (r"“$c = [c_1, c_2, \dots, c_n] = U^T K$”", "Theorem 3.1",
     f"shape {tuple(flow.covariance.shape)}, no vector", "slip"),
    (r"“$\Vert\delta\Vert_2 < \epsilon$”", "3.1",
     f"{rounded(ball[0], 4)} nats inside, {rounded(ball[1], 4)} on the boundary", "slip"),
    (r"“$1 - 2\eta\lambda = \Vert\mu - \mathbf x\Vert/\epsilon$”, then (3)", "3.1.1",
     f"{rounded(signs[1], 3)} nats; by (3) {rounded(signs[0], 3)}", "slip repaired later in the text"),
    (r"“the maximum eigenvalue of $K^{-1}$”, then $\epsilon u_{\min}(K)$", "3.1.2",
     f"the eigenvector, either sign: {rounded(ends[0])} nats each", "slip repaired later in the text"),
    (r"“$C = n \log(2\pi)/2$”", "Section 3",
     f"total mass {rounded(printed_mass, 3)}, not {rounded(mass, 3)}", "slip"),
])  # fmt: skip

# %% [markdown]
# ## Exercises
#
# **1. Why does the drop not care about units?** Double $x$, $\mu$, $\varepsilon$ and all standard
# deviations. The drop stays. By which factor does $\eta$ change?
#
# <details><summary>Hint 1</summary>
#
# In $K^{-1}(x + \delta - \mu) = 2\eta\,\delta$: by which factor does $K^{-1}$ change, by which $\delta$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Standard deviations double, so $K$ grows fourfold. The left side is a quarter of twice itself.
#
# </details>

# %%
eta_factor = None  # your answer: a number
double = GaussianFlow(2 * flow.mean, 4 * flow.covariance)
measured = (worst_case(double, 2 * x, 2 * eps).multiplier / worst.multiplier).item()
grade(eta_factor, measured)

# %% tags=["solution"]
grade(1 / 4, measured)
# The left side is halved and delta doubles: eta has the unit of 1 / variance, the drop has none.

# %% [markdown]
# **2. Why does the hard case need room?** For $\lambda = (1, 4)$ and $x - \mu = (0, 1)$, from which radius
# on are there two optima?
#
# <details><summary>Hint 1</summary>
#
# Beat 5: the coordinate $d_2$ is fixed first. What is left goes along $u_{\min}$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $d_2 = a_2/(\lambda_2/\lambda_1 - 1)$ has to fit into the ball.
#
# </details>

# %%
first_radius = None  # your answer: a number
radii = torch.linspace(0.01, 1, 9901)
flagged = worst_case(thin, y.expand(len(radii), 2), radii).hard_case
grade(first_radius, radii[flagged][0])

# %% tags=["solution"]
grade(1 / 3, radii[flagged][0])
# d_2 = 1 / (4 - 1). In a smaller ball the secular equation still has its root: one optimum.

# %% [markdown]
# **3. Why is noise so weak?** Write the mean drop of a random direction of length $\varepsilon$ as a
# function of the eigenvalues, and compare it with $\varepsilon^2/(2\lambda_1)$.
#
# <details><summary>Hint 1</summary>
#
# The linear part of the drop is as often positive as negative.
#
# </details>
# <details><summary>Hint 2</summary>
#
# For a random direction $\mathbb E\,d_i^2 = \varepsilon^2/n$, the same in every coordinate.
#
# </details>

# %%
mean_noise_drop = None  # your answer: a function of (eigenvalues, radius)
grade(mean_noise_drop, random.mean(), at=[(lam, 1.0)], within=0.05)

# %% tags=["solution"]
grade(
    lambda lam, radius: radius**2 * (1 / lam).mean() / 2,
    random.mean(),
    at=[(lam, 1.0)],
    within=0.05,
)
grade(lambda lam, radius: radius**2 / lam[0] / 2, random.mean(), at=[(lam, 1.0)], within=0.05)
# Noise pays the mean of 1 / lam_i, the attack their maximum (the second line): few directions are thin.

# %% [markdown]
# ## Further reading
#
# * Moré and Sorensen, *Computing a Trust Region Step*, 1983: the same problem in optimisation, hard case
#   included. Conn, Gould and Toint, *Trust-Region Methods*, 2000, Chapter 7.
# * Next on the class route: [04, build a flow](04_build_a_flow.ipynb); on the theory route: [02, what
#   becoming robust costs](02_robustness_or_accuracy.ipynb).
