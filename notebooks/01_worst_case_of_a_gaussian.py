# %% [markdown]
# # Find the worst case of a Gaussian
#
# How far can a small step lower the likelihood of a point? For a deep flow nobody knows. For the
# simplest flow of all, a linear one, there is an exact answer, and it already looks like the
# attacks on deep flows.
#
# * **Do**: attack a Gaussian exactly, first in the plane, then in the 768 dimensions of a
#   photograph.
# * **Learn**: why the worst step turns from the gradient to the axis of smallest variance, when it
#   is not unique, and how to *prove* that no step is worse.
# * **Need**: eigenvectors, the Gaussian density, Lagrange multipliers. No deep learning.
# * **Minutes**: 25 to read; some ten seconds for all cells on 2 cores.
# * **Paper**: Sections 3 and 3.1 with Theorem 3.1, and the plane pictures of Figure 2, of Pope,
#   Balaji and Feizi, *Adversarial Robustness of Flow-Based Generative Models* (AISTATS 2020).

# %%
import math
import time
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display

from flowrob import data, plots
from flowrob.attacks import L2Ball, lower_likelihood
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
# A linear flow $x = \mu + Az$ with $z \sim \mathcal N(0, I)$ is a Gaussian with covariance $K =
# AA^\top$. Write $L = \log p$. A step $\delta$ costs the point $x$
#
# $$\operatorname{drop}(\delta) = L(x) - L(x + \delta)
# = \tfrac12\,\bigl(2(x-\mu) + \delta\bigr)^{\!\top} K^{-1} \delta \qquad\text{nats.}$$
#
# The attacker picks the $\delta$ of length at most $\varepsilon$ with the largest drop.
#
# **Predict before you run.** Below, the density is long and thin, and $x$ sits near its long axis.
# Does the worst step go straight away from the mean, or across the thin side?

# %%
angle = math.radians(25)
axes = torch.tensor([[-math.sin(angle), math.cos(angle)], [math.cos(angle), math.sin(angle)]])
flow = GaussianFlow.from_eigen(torch.zeros(2), torch.tensor([0.2, 2.0]), axes)
x, eps = (axes @ torch.tensor([0.3, 1.5]))[None], 1.0
worst, best = worst_case(flow, x, eps), best_case(flow, x, eps)
away = eps * (x - flow.mean) / (x - flow.mean).norm()
steps = [("worst", worst.delta, ATTACK), ("best", best.delta, RAISE), ("away", away, NOISE)]
degrees = torch.arange(361.0)
circle = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
arrows = [(name, delta[0], color) for name, delta, color in steps]
plots.plane(left, flow.mean, flow.covariance, x[0], eps, arrows)
marks = [(name, delta[0], drop(flow, x, delta), color) for name, delta, color in steps]
plots.drop_by_angle(right, degrees, drop(flow, x, eps * circle), marks)
print("drop in nats:", {name: round(drop(flow, x, d).item(), 2) for name, d, _ in steps})

# %% [markdown]
# **What we see.** Left: the blue ellipses are the level sets at one, two and three standard
# deviations, the grey disc is every allowed step. The worst step (red) cuts across the thin side,
# where likelihood is lost fastest; walking straight away from the mean (grey) costs far less. The
# best step (amber) raises the likelihood. Right: the drop in every direction. The two closed forms
# sit exactly on the highest and the lowest point.
#
# **Two ways, same number.** A million directions find nothing better. And one sign of Section 3
# can be settled at once: a density integrates to one, so $L$ ends in $-\tfrac n2 \log 2\pi$; the
# constant $C$ is printed without the minus. (This and the slips to come are rows of the
# [errata](../docs/errata.md), each with a test.)

# %%
turn = torch.linspace(0, 2 * math.pi, 1_000_001)[:, None]
tried = drop(flow, x, eps * torch.cat([turn.cos(), turn.sin()], dim=1)).max().item()
print(f"best of a million directions {tried:.6f}, closed form {worst.drop.item():.6f}")
assert 0 <= worst.drop.item() - tried + 1e-12 < 1e-9

side = torch.linspace(-9, 9, 361)
mass = flow.log_prob(torch.cartesian_prod(side, side)).exp().sum().item() * 0.05**2
print(f"total mass: {mass:.2f}; with the printed sign {mass * (2 * math.pi) ** 2:.2f}")

# %% [markdown]
# ## 2. One unknown number is enough
#
# Where the drop is stationary on the sphere $|\delta| = \varepsilon$, its gradient is parallel to
# $\delta$. Call the factor $2\eta$:
#
# $$K^{-1}(x + \delta - \mu) = 2\eta\,\delta .$$
#
# In the eigenvectors of $K = U \operatorname{diag}(\lambda)\, U^\top$ the coordinates separate.
# With $a = U^\top(x - \mu)$ and $d = U^\top\delta$,
#
# $$d_i = \frac{a_i}{2\eta\lambda_i - 1},
# \qquad \sum_i \frac{a_i^2}{(2\eta\lambda_i - 1)^2} = \varepsilon^2 .$$
#
# That is Theorem 3.1 in our notation: $n$ unknowns have become one, the root $\eta$ of the second,
# the *secular* equation. The paper's numerators are called $c$ and printed as $U^\top K$, a
# matrix; what makes the formula work is the vector $c = U^\top(\mu - x) = -a$.
#
# **Predict.** In the plane the equation has up to four roots. Which one is the attack?

# %%
a = (x - flow.mean) @ flow.eigenvectors
(a1, a2), (l1, l2) = a[0].tolist(), flow.eigenvalues.tolist()
p1, p2 = np.poly1d([2 * l1, -1]), np.poly1d([2 * l2, -1])
roots = (eps**2 * p1**2 * p2**2 - a1**2 * p2**2 - a2**2 * p1**2).roots
roots = torch.tensor(sorted(roots.real, reverse=True))
eta = torch.cat([roots, torch.linspace(-1, 4.5, 2001)])
delta = (a / (2 * eta[:, None] * flow.eigenvalues - 1)) @ flow.eigenvectors.T

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
colors, poles = [ATTACK, NOISE, THEORY, RAISE], 1 / (2 * flow.eigenvalues)
plots.secular(left, eta[4:], delta[4:].norm(dim=1), eps, poles, roots, colors)
found = zip(roots, delta[:4], drop(flow, x, delta[:4]), colors, strict=True)
marks = [(f"$\\eta$ = {e:.2f}", *rest) for e, *rest in found]
plots.drop_by_angle(right, degrees, drop(flow, x, eps * circle), marks)
print(
    "eta and its drop:",
    [(round(e.item(), 2), round(m[2].item(), 2)) for e, m in zip(roots, marks, strict=True)],
)
assert torch.isclose(roots[0], worst.multiplier[0]) and torch.isclose(roots[-1], best.multiplier[0])

# %% [markdown]
# **What we see.** Left: the length of $\delta(\eta)$ shoots up at the poles $1/(2\lambda_i)$
# (dotted) and meets the radius (blue) four times. Right: each root is a hill or a valley of the
# drop. The largest $\eta$, right of the last pole, is the worst case; the smallest is the best
# case. The grey one is a second, lower hill, which will trap a careless attacker in beat 6.
#
# Right of the last pole the curve falls from infinity to zero. So there is exactly one root there,
# and Newton's method finds it in a handful of steps.
#
# ## 3. From the gradient to the thin axis
#
# Let the budget grow. For a tiny $\varepsilon$ the drop is linear in $\delta$, and the best
# direction is the gradient $g = K^{-1}(x-\mu)$. For a huge one the quadratic term wins, and
# $\delta^\top K^{-1}\delta$ is largest along $u_{\min}$, the eigenvector of the smallest variance.
#
# **Predict.** The picture shows a point far out on the long axis. At which radius has its worst
# step made half the turn: the thin axis $\sqrt{\lambda_1}$, the long axis $\sqrt{\lambda_2}$, or
# $|x-\mu|$?

# %%
far, radius = (axes @ torch.tensor([0.15, 2.2]))[None], torch.logspace(-2, 2, 401)
path = worst_case(flow, far.expand(401, 2), radius).delta
g, u_min = torch.linalg.solve(flow.covariance, far[0] - flow.mean), flow.eigenvectors[:, 0]
ends = [("gradient", g / g.norm(), THEORY), ("$u_{min}$", u_min * (u_min @ g).sign(), NOISE)]

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
arrows = [(name, 1.4 * direction, color) for name, direction, color in ends]
plots.plane(left, flow.mean, flow.covariance, far[0], 0.0, arrows)
left.plot(*(far + path[radius < 1.5]).T, color=ATTACK, lw=3, zorder=6)
cosines = [("cosine to " + name, path @ end / radius, color) for name, end, color in ends]
plots.legend_above(plots.curves(right, radius, cosines, xlabel="radius", ylabel="", log="x"))
to_gradient, to_u_min = (line for _, line, _ in cosines)
half = radius[(to_u_min > to_gradient).nonzero()[0]].item()
print(f"half turned at {half:.2f}; axes {l1**0.5:.2f} and {l2**0.5:.2f}, |x - mu| {far.norm():.2f}")
print(f"lam_1 |g| = {l1 * g.norm():.2f}")
assert to_gradient[0] > 0.99 and to_u_min[-1] > 0.999

# %% [markdown]
# **What we see.** Left: the tip of the worst step (red) as the radius grows leaves $x$ along the
# gradient and bends into the direction $u_{\min}$. Right: the two cosines change places at a
# radius smaller than all three lengths. The scale is another one: the linear part of the drop,
# $\varepsilon|g|$, and the quadratic part, $\varepsilon^2/(2\lambda_1)$, are equal at
# $\varepsilon = 2\lambda_1|g|$, and the half turn comes a little before. A thin density turns the
# attacker early.
#
# ## 4. Three special cases
#
# * **Spherical**, $K = \lambda I$ (Section 3.1.1): no direction is thin, and the worst step goes
#   straight away from the mean. The paper's equation (3) says so:
#
#   > $\delta^* = \frac{\epsilon}{\|\mathbf x - \mu\|}(\mathbf x - \mu)$ (3.1.1, equation (3))
#
#   One line before it stands $1 - 2\eta\lambda = \|\mu - \mathbf x\|/\epsilon$, where a minus
#   is missing: here $1 - 2\eta\lambda = -|x-\mu|/\varepsilon$. Only this intermediate line slips.
# * **At the mean**, $x = \mu$ (Section 3.1.2): the gradient vanishes, and $\delta =
#   \pm\varepsilon\,u_{\min}$. Two optima, neither preferred.
# * **Large radius**: $x$ no longer matters, and the drop approaches $\varepsilon^2/(2\lambda_1)$.
#
# **Predict.** What would a step by the sign of the intermediate line do to the likelihood?

# %%
sphere, mean = GaussianFlow(torch.zeros(2), torch.eye(2)), flow.mean[None]
outward, at_mean = worst_case(sphere, x, eps).delta, worst_case(flow, mean, eps).delta
ratio = worst_case(flow, x.expand(401, 2), radius).drop / (radius**2 / (2 * l1))

fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8))
arrows = [("worst, equation (3)", outward[0], ATTACK), ("line before it", -outward[0], NOISE)]
plots.plane(left, sphere.mean, sphere.covariance, x[0], eps, arrows)
arrows = [("worst, both ways", at_mean[0], ATTACK), ("", -at_mean[0], ATTACK)]
plots.plane(middle, flow.mean, flow.covariance, mean[0], eps, arrows)
labels = {"xlabel": "radius", "ylabel": r"drop / ($\varepsilon^2 / 2\lambda_1$)", "log": "xy"}
plots.curves(right, radius, [("", ratio, ATTACK)], **labels)
signs = [round(drop(sphere, x, s * outward).item(), 2) for s in (1, -1)]
ends = [round(drop(flow, mean, s * at_mean).item(), 2) for s in (1, -1)]
print(f"spherical: {signs[0]} nats by equation (3), {signs[1]} with the sign of the line before it")
print(f"at the mean: {ends[0]} and {ends[1]} nats")
assert torch.allclose(outward, eps * x / x.norm()) and 1 < ratio[-1] < 1.05

# %% [markdown]
# **What we see.** Left: in a round density the worst step points away from the mean (red), as printed
# equation (3) has it. Carried on with the sign of the line before it, the step would turn around
# (grey), and its drop is negative: the likelihood *rises*. The paper does not carry it on. Middle: at
# the mean both ends of the thin axis are equally bad. (The words name "the maximum eigenvalue of
# $K^{-1}$", the formula below them, $\delta^* = \epsilon u_{\min}(K)$, the eigenvector, and rightly;
# that its sign is free is not said.) Right: the drop divided by its limit comes down to 1.
#
# Now move things yourself. Start by setting *x across it* to 0, and watch the hills.

# %% tags=["widget"]
worst_case_explorer()

# %% [markdown]
# ## 5. The hard case
#
# Beat 2 needs its last pole: $a_1 \ne 0$. If $x - \mu$ has *no* part along $u_{\min}$, the pole
# vanishes, and the equation may have no root to the right of $1/(2\lambda_1)$. Then the multiplier
# stays at $2\eta\lambda_1 = 1$, the other coordinates are $d_i = a_i/(\lambda_i/\lambda_1 - 1)$,
# and what is left of the radius is spent along $u_{\min}$, in either direction. The theorem passes
# over this case:
#
# > Let $\eta$ be a solution of the set of equations (Theorem 3.1)
#
# among which is $2\eta\lambda_i - 1 \ge 0$ for all $i$. It need not have one.
#
# **Predict.** Take $\lambda = (1, 4)$, $x - \mu = (0, 1)$, $\varepsilon = 1$. The first equation
# reads $1/(8\eta - 1)^2 = 1$; its largest root $\eta = \tfrac14$ violates the condition at
# $\lambda_1$, so the theorem excludes it. It would give $\delta = (0, 1)$. Rightly excluded?

# %%
thin = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
y, excluded = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
hard = worst_case(thin, y, 1.0)
mirrored = hard.delta * torch.tensor([-1.0, 1.0])
steps = [
    ("two optima", hard.delta, ATTACK),
    ("", mirrored, ATTACK),
    ("excluded root", excluded, NOISE),
]

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
arrows = [(name, delta[0], color) for name, delta, color in steps]
plots.plane(left, thin.mean, thin.covariance, y[0], 1.0, arrows)
marks = [(name, delta[0], drop(thin, y, delta), color) for name, delta, color in steps]
plots.drop_by_angle(right, degrees, drop(thin, y, circle), marks)
exact = [Fraction(drop(thin, y, d).item()).limit_denominator(100) for _, d, _ in steps]
print("drops:", *exact, "nats; flagged as hard:", hard.hard_case.item())
assert exact == [Fraction(13, 24), Fraction(13, 24), Fraction(3, 8)]

# %% [markdown]
# **What we see.** Left: the two optima (red), mirror images, lean to both sides of the excluded
# root (grey). Right: that root is the floor of the dip between two hills. The theorem is right to
# leave it out, and is left with no step at all.
#
# Is this exotic? Fit a Gaussian to fewer points than dimensions, with a small ridge to make $K$
# invertible. No training point has any part in the directions that only the ridge fills, and those
# have the smallest variance.

# %%
few = dequantize(data.load("photos", size=8, limit=100), torch.Generator().manual_seed(0))
share = worst_case(GaussianFlow.fit(few, ridge=1e-4), few.double(), 0.3).hard_case.double().mean()
print(f"100 photographs in {few[0].numel()} dimensions: {share:.0%} are hard cases")
ball = [round(worst_case(flow, x, r).drop.item(), 3) for r in (0.9, 0.99, 0.999, 1.0)]
print("drop at radius 0.9, 0.99, 0.999, 1:", ball)
assert share == 1.0 and ball == sorted(ball)

# %% [markdown]
# All of them. The second line is a smaller point: the drop grows all the way to the boundary, so
# the constraint must be $|\delta| \le \varepsilon$. On the open ball, $|\delta| < \varepsilon$,
# there is no maximum.
#
# ## 6. A proof in one line, and a rival
#
# How do we *know* that a step is the worst of a ball in many dimensions? Lagrange duality gives a
# bound. With $w_i = 1 - \lambda_1/\lambda_i$ and **any** $t > 0$,
#
# $$\operatorname{drop}(\delta) \;\le\; \frac12\Bigl[(1+t)\frac{\varepsilon^2}{\lambda_1}
# + \sum_i \frac{a_i^2\,\lambda_1}{\lambda_i^2\,(w_i + t)}\Bigr]
# \qquad\text{for every } |\delta| \le \varepsilon .$$
#
# A step that attains the bound for some $t$ is optimal: a certificate which anyone can check with
# one sum.
#
# **Predict.** In 50 dimensions, how close to the bound does the best of 10,000 random steps come?

# %%
rng = torch.Generator().manual_seed(0)
root = torch.randn(50, 50, generator=rng)
many = GaussianFlow(torch.zeros(50), root @ root.T / 50 + 0.05 * torch.eye(50))
points = many.sample(1000, rng)
proved = worst_case(many, points, 1.0)
lam, b = many.eigenvalues, (points[0] - many.mean) @ many.eigenvectors
t = torch.logspace(-2, 1, 200)[:, None]
bound = (1 + t[:, 0]) / lam[0] + (b**2 * lam[0] / lam**2 / (1 - lam[0] / lam + t)).sum(1)
bound, top = bound / 2, proved.drop[0]
random = drop(
    many, points[:1], torch.nn.functional.normalize(torch.randn(10_000, 50, generator=rng))
)

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
lines = [("bound", bound, THEORY), ("worst step", top.expand(200), ATTACK)]
plots.legend_above(plots.curves(left, t[:, 0], lines, xlabel="$t$", ylabel="nats", log="xy"))
plots.histogram(right, random, top, xlabel="drop (nats)")
print(f"worst {top:.2f} nats, best of 10,000 random steps {random.max():.2f}")
assert (bound >= top).all() and torch.allclose(proved.certificate, proved.drop, rtol=1e-12)

# %% [markdown]
# **What we see.** Left: the bound (black) lies above the worst drop (red) for every $t$ and
# touches it at one: no doubt is left. The assertion repeats this for 1,000 points. Right: ten
# thousand random steps of the same length stay far below the red line. Noise is no substitute for
# an attack.
#
# The rival is what everybody uses on deep flows, projected gradient descent (PGD; against
# likelihood it *climbs* the negative log-likelihood). It knows nothing of eigenvectors, and we
# hold the exact answer.
#
# **Predict.** PGD can start at $\delta = 0$ or at a random point of the ball. Which is safer, for
# the first point of this notebook, and for the hard case?

# %%
fixed = {"num_steps": 100, "step_size": 0.1, "box": None}
cases = [("first point", flow, x, worst.drop), ("hard case", thin, y, hard.drop)]
fig, panels = plt.subplots(1, 2, figsize=(10, 3.8))
for ax, (name, target, point, truth) in zip(panels, cases, strict=True):
    fresh = {**fixed, "start": "random", "generator": torch.Generator().manual_seed(0)}
    zero = lower_likelihood(target.log_prob, point, L2Ball(1.0), **fixed)
    spread = lower_likelihood(target.log_prob, point.repeat(200, 1), L2Ball(1.0), **fresh)
    missing = [truth - (run.history - run.start_value) for run in (spread, zero)]
    plots.gaps(ax, {"random start": (missing[0], NOISE), "start at 0": (missing[1], ATTACK)})
    ax.set_title(name, loc="right")
    trapped = (missing[0][-1] > 0.1).double().mean().item()
    print(f"{name}: from 0 it misses {missing[1][-1].abs().item():.2f} nats,", end=" ")
    print(f"of random starts {round(10 * trapped)} in 10 are trapped")

# %% [markdown]
# **What we see.** The nats still missing after each step. Left, the first point: from 0 (red) PGD
# converges to the exact optimum, while some random starts (grey, at the top) end on the lower hill
# of beat 2. Right, the hard case: at $x$ the gradient points exactly to the dip, which by symmetry
# PGD never leaves, while random starts get away, a few of them slowly. So start at 0, *and* restart
# at random. The exact answer has tested the attack.
#
# ## 7. Photographs, and a glimpse of deep attacks
#
# All this holds in any dimension and for many points at once: one eigendecomposition, two matrix
# products, and a few Newton passes over all points together. Fit a Gaussian to 16 x 16 colour
# photographs, 768 numbers each, and attack held-out crops of the same ones. One *grey level* is 1/256; a budget of
# $\varepsilon$ grey levels per pixel means $|\delta| \le \varepsilon\sqrt{768}/256$. (Pixels may
# leave $[0, 1]$: the theorem knows no box.)
#
# **Predict.** Picture the worst perturbation of a photograph. Is it smooth or rough? Does it
# depend on the photograph?

# %%
rng = torch.Generator().manual_seed(0)
images = {split: data.load("photos", size=16, split=split) for split in ("train", "test")}
photos = GaussianFlow.fit(dequantize(images["train"], rng))
test = dequantize(images["test"], rng).double()
length, start = 4 / 256 * math.sqrt(768), time.perf_counter()
down, up = worst_case(photos, test, length), best_case(photos, test, length)
print(f"both attacks on {len(test)} photos in under 5 s: {time.perf_counter() - start < 5}")
noise = torch.nn.functional.normalize(torch.randn(len(test), 768, generator=rng)).reshape(
    test.shape
)

fig, panels = plt.subplots(4, 2, figsize=(12, 5.3))
shown = [8, 3, 68, 43, 141, 5]
thinnest = photos.eigenvectors[:, :6].T.reshape(-1, 3, 16, 16)
plots.image_grid(panels[0, 0], test[shown], 6, "photograph")
plots.image_grid(panels[0, 1], plots.signed(thinnest), 6, "directions of least variance")
rows = {"worst": down.delta, "noise": noise * length, "best": up.delta}
for (left, right), (name, step) in zip(panels[1:], rows.items(), strict=True):
    plots.image_grid(left, (test + step)[shown], 6, f"photograph + {name}")
    plots.image_grid(right, plots.signed(step[shown], 3 * 4 / 256), 6, f"{name} alone, amplified")

# %% [markdown]
# **What we see.** The worst step is a fine chequered grain, of the same kind for every photograph.
# In photographs neighbouring pixels agree, and their colour channels rise and fall together; the
# attack makes both disagree, along the directions of least variance (top right). The best step
# does the opposite: it takes away edges and texture. The Gaussian has learned that photographs are
# smooth, and its attacks are attacks on smoothness. Remember the grain when you attack a deep
# flow.
#
# **Predict.** Four grey levels of noise are hard to see (third row). How many bits per dimension does each step
# cost?

# %%
grey, table = [0, 1, 2, 4, 8], {"worst": [], "noise": [], "best": []}
for level in grey:
    size = level / 256 * math.sqrt(768)
    found = worst_case(photos, test, size).delta, size * noise, best_case(photos, test, size).delta
    for row, step in zip(table.values(), found, strict=True):
        row.append(-photos.log_prob(test + step).mean().item() / math.log(2) / 768 + 8)

fig, ax = plt.subplots(figsize=(7.5, 3.8))
lines = [(name, table[name], c) for name, c in zip(table, (ATTACK, NOISE, RAISE), strict=True)]
labels = {"xlabel": "grey levels per pixel", "ylabel": "bits per dimension", "log": "y"}
plots.legend_above(plots.curves(ax, grey, lines, **labels))
for name, row in table.items():
    print(f"{name:6}", *(f"{value:6.1f}" for value in row))
energy = (down.delta.flatten(1) @ photos.eigenvectors).square().mean(0) / length**2
print(f"worst step's share in the thinnest tenth of all directions: {energy[:77].sum():.0%}")

# %% [markdown]
# **What we see.** The negative log-likelihood in bits per dimension (lower is likelier, the axis
# is logarithmic) on held-out crops. A budget at which noise (grey) does little makes the
# worst case (red) climb steeply, while the best case (amber) makes photographs likelier than they
# are. Nearly all of the worst step is spent in one tenth of the directions. For deep flows the
# picture will be of the same kind. Its numbers are not to be held against these: the images are
# larger, and the ball bounds every pixel instead of the length.
#
# ## What we found

# %%
rows = [
    ("Theorem 3.1, equation (2), is the worst step", f"{worst.drop.item():.2f} nats; by search "
     f"{tried:.2f}", "agrees"),
    (r"“$c = [c_1, c_2, \dots, c_n] = U^T K$” (Theorem 3.1)", "shape "
     f"{tuple(flow.covariance.shape)}, no vector; " r"$U^\top(\mu - x)$ works", "slip"),
    (r"“Let $\eta$ be a solution” (Theorem 3.1)", f"hard case: none; optimum {exact[0]} nats, by the "
     f"excluded root {exact[2]}", "slip"),
    (r"“$\Vert\delta\Vert_2 < \epsilon$” (3.1)", f"{ball[2]} nats inside, {ball[3]} on the boundary",
     "slip"),
    (r"“$1 - 2\eta\lambda = \Vert\mu - \mathbf x\Vert/\epsilon$”, then (3) (3.1.1)", "with that sign "
     f"{signs[1]} nats, by (3) {signs[0]}", "slip repaired later in the text"),
    (r"“the maximum eigenvalue of $K^{-1}$”, then $\delta^* = \epsilon u_{\min}(K)$ (3.1.2)",
     f"the eigenvector, with either sign: {ends[0]} nats each", "slip repaired later in the text"),
    (r"“$C = n \log(2\pi)/2$” (Section 3)", f"total mass {mass * (2 * math.pi) ** 2:.2f}, not "
     f"{mass:.2f}", "slip"),
]  # fmt: skip
lines = ["| the paper says | we measured | same? |", "|---|---|---|"]
display(Markdown("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])))

# %% [markdown]
# ## What you have learned
#
# * The worst step against a Gaussian is one root of one equation: the largest multiplier is the
#   attack, the smallest its likelihood-raising twin.
# * As the budget grows it turns from the gradient to the axis of smallest variance.
# * If $x - \mu$ has no part along that axis there can be two optima, and the printed theorem
#   names neither.
# * A dual bound proves optimality. PGD comes without a proof, but here it can be tested.
# * On photographs the worst step is fine grain.
#
# Equation (2) stands wherever its $\eta$ exists. One case is missing, two slips are put right by the
# paper itself, and the rest of the table is notation, easily lost on the way to print. ([All
# errata](../docs/errata.md); [the paper, item by item](../docs/paper.md).)

# %% [markdown]
# ## Exercises
#
# 1. **Why does the drop not care about units?** Double $x$, $\mu$, $\varepsilon$ and all standard
#    deviations. The drop stays. By which factor does $\eta$ change?
# 2. **Why does the hard case need room?** For $\lambda = (1, 4)$ and $x - \mu = (0, 1)$, from
#    which radius on are there two optima?
# 3. **Why is noise so weak?** Express the mean drop of a random direction of length $\varepsilon$
#    through the eigenvalues, and compare it with $\varepsilon^2/(2\lambda_1)$.

# %%
eta_factor = None  # exercise 1: a number

# %%
double = GaussianFlow(2 * flow.mean, 4 * flow.covariance)
measured = (worst_case(double, 2 * x, 2 * eps).multiplier / worst.multiplier).item()
print("your turn" if eta_factor is None else abs(eta_factor - measured) < 1e-9)

# %% tags=["solution"]
# In K^-1 (x + delta - mu) = 2 eta delta the left side is halved and delta doubles.
assert abs(measured - 1 / 4) < 1e-12

# %%
first_radius = None  # exercise 2: a number


# %%
def hard_at(radius):
    return worst_case(thin, y, radius).hard_case.item()


right = first_radius and hard_at(1.01 * first_radius) and not hard_at(0.99 * first_radius)
print("your turn" if first_radius is None else right)

# %% tags=["solution"]
# The coordinate d_2 = a_2 / (lam_2 / lam_1 - 1) = 1/3 has to fit into the ball first.
assert hard_at(1.01 / 3) and not hard_at(0.99 / 3)

# %%
mean_noise_drop = None  # exercise 3: a function of (eigenvalues, radius)


# %%
def close(value):
    return bool(abs(value - random.mean()) < 0.2)


print("your turn" if mean_noise_drop is None else close(mean_noise_drop(lam, 1.0)))

# %% tags=["solution"]
# The linear part averages out, and E d_i^2 = radius^2 / n: the mean of 1/lam_i, not its maximum.
assert close((1 / lam).mean() / 2) and not close(1 / lam[0] / 2)

# %% [markdown]
# ## Further reading
#
# * Pope, Balaji and Feizi, *Adversarial Robustness of Flow-Based Generative Models*, AISTATS 2020,
#   Section 3.
# * Moré and Sorensen, *Computing a Trust Region Step*, 1983: the same problem in optimisation,
#   hard case included.
# * Conn, Gould and Toint, *Trust-Region Methods*, 2000, Chapter 7: the secular equation at length.
# * Next, notebook 02: what the Gaussian pays for becoming robust.
