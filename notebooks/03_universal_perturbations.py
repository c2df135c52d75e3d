# %% [markdown]
# # Fool them all with one perturbation
#
# Notebook 01 made a perturbation to measure for every point. Here the attacker gets one for all of them, a
# [universal perturbation](../docs/glossary.md#universal-perturbation), and never sees the point. For a Gaussian it has a closed form; for photographs it turns out to be a
# pattern that you can draw by hand.
#
# | | |
# |---|---|
# | **Do** | draw a pattern that hurts a deep flow, find out why it does, train against it in four ways |
# | **Learn** | why the sign is free, why that decides whether training helps, what [water-filling](../docs/glossary.md#water-filling) is |
# | **Need** | [01](01_worst_case_of_a_gaussian.ipynb): the drop, the eigenvector $u_{\min}$ of smallest variance; [00](00_start_here.ipynb): Glow, nats, bits/dim |
# | **Minutes on 2 cores** | 25 to read, 1 to run |
# | **Paper sections** | 3.3 of Pope, Balaji and Feizi (AISTATS 2020), with its remark on training |

# %%
import math

import matplotlib.pyplot as plt
import torch

from flowrob import data, lessons, linear, plots, zoo
from flowrob.attacks import L2Ball, lower_likelihood, universal_perturbation
from flowrob.lessons import check, grade, outcome, predict, rounded
from flowrob.linear import GaussianFlow, trade_off, universal, universal_drop, worst_case
from flowrob.plots import ATTACK, DATA, HYBRID, NOISE, RAISE, THEORY
from flowrob.units import dequantize

plots.use_style()
glow, two = zoo.load("glow-photos-clean", "cpu"), 2 / 256
seed = torch.Generator().manual_seed  # seed(k) is the generator, started at k


def drop(flow, x, delta):
    return flow.log_prob(x) - flow.log_prob(x + delta)


@torch.no_grad()
def nll(x):  # bits/dim
    return glow.bits_per_dim(x.clamp(0, 1))


def unit(directions):
    return torch.nn.functional.normalize(directions, dim=-1)


# %% [markdown]
# ## Just draw it
#
# A chequerboard, twice as strong in green and with opposite sign in red and blue. No data, no model, no
# optimisation: three lines of code. We add two grey levels of it (root mean square per colour value) to
# photographs that Glow, a deep flow, has never seen, and beside it two grey levels of noise. (Not the clean Glow
# of notebook 00 but its milder twin, `glow-photos-clean`: see [bounded](../docs/glossary.md#bounded-published).)

# %% tags=["predict"]
index = torch.arange(32)
board = (-1.0) ** (index[:, None] + index) * torch.tensor([-1.0, 2.0, -1.0])[:, None, None]
board = board / board.square().mean().sqrt()
fresh = dequantize(data.load("photos", split="test", limit=24), seed(4))
seen = dequantize(data.load("photos", limit=16), seed(3))
noise = torch.randn(fresh.shape, generator=seed(5))
noise = noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()

predict(
    "drawing",
    "The drawing costs Glow how many times the bits that noise of the same length costs?",
    options=[0.5, 1, 2, 10],
)

# %%
signs = {s: nll(seen + s * two * board).mean().item() for s in (1, -1)}
drawn_sign = max(signs, key=signs.get)  # which of the two signs, is decided on training crops
steps = {"photograph": 0 * board, "with noise": noise, "with the drawing": drawn_sign * board}
deep = {name: nll(fresh + two * step) for name, step in steps.items()}
cost = {name: (values - deep["photograph"]).mean().item() for name, values in deep.items()}
outcome("drawing", cost["with the drawing"] / cost["with noise"])
check("the drawing costs {} times what noise costs",
      cost["with the drawing"] / cost["with noise"], at_least=1.5)  # fmt: skip

figure, (left, right) = plt.subplots(1, 2, figsize=(13, 3.4), width_ratios=(1.8, 1))
pick, shown = 5, torch.as_tensor(plots.signed(board)).float()
trio = torch.stack([fresh[pick], (fresh[pick] + two * board).clamp(0, 1), shown])
plots.image_grid(left, trio, 3, "a crop, crop + drawing, the drawing", 2)
plots.before_after(right, deep, [DATA, NOISE, ATTACK])
right.set_xlabel("NLL of Glow in bits/dim, one mark per crop")
alt = (
    "Left: a crop, the same with the drawing added, hardly different, and the drawing, a "
    "chequerboard of green and magenta. Right: three rows of marks; noise moves the photographs "
    "a little, the drawing more than twice as far."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** One drawing, made by hand, moves every crop (right), and one has to look closely to see
# it (left). How can a deep flow be hurt by something that knows nothing of it? The answer is a fact about
# photographs, and it takes a Gaussian to see it. Start with one in the plane.
#
# ## 1. One step for everybody
#
# The task, in the paper's words:
#
# > "we are interested in finding a single perturbation vector $\delta$ such that the population likelihood
# > ... decreases maximally" (3.3)
#
# A step costs the point $x$ a linear part and a quadratic part (notebook 01). If the step is the same for
# all $x$, the linear part averages out, since $x - \mu$ has mean 0. The quadratic part is largest when
# the whole budget lies where the variance is smallest, $\lambda_1$:
#
# $$\mathbb E_x\bigl[L(x) - L(x+\delta)\bigr] = \tfrac12\,\delta^\top K^{-1}\delta
# = \tfrac12\sum_i \frac{d_i^2}{\lambda_i} \;\le\; \frac{\varepsilon^2}{2\lambda_1},
# \qquad d = U^\top\delta .$$
#
# Equality needs $\delta = \pm\varepsilon\,u_{\min}$.

# %% tags=["predict"]
plane = GaussianFlow([0.0, 0.0], [[1.5, 0.8], [0.8, 0.7]])
eps, origin = 0.8, plane.mean[None]
points, best = plane.sample(2000, seed(0)), universal(plane, eps)
degrees = torch.arange(0.0, 361.0, 5.0, dtype=torch.float64)
circle = eps * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)
formula = 0.5 * (circle @ torch.linalg.inv(plane.covariance) * circle).sum(1)
simulated = torch.stack([drop(plane, points, step).mean() for step in circle])

predict(
    "summits",
    "As the step turns once around, how many highest points has the mean drop?",
    options=[1, 2, 4],
)

# %%
candidates = [best.delta, -best.delta, eps * plane.eigenvectors[:, 1]]
plus, minus, along = (drop(plane, origin, step).item() for step in candidates)
outcome("summits", 2)
check("along +u_min and -u_min it costs {} and {} nats", plus, minus, within=1e-9, digits=3)
check("along the thick axis {} nats", along, at_most=plus / 5)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
plots.cloud(left, points[:300], DATA)
plots.cloud(left, points[:300] + best.delta, ATTACK)
plots.plane(left, plane.mean, plane.covariance, [0, 0], eps, [("for all", best.delta, ATTACK)], 4)
marks = [(f"${s}u_{{min}}$", float(s + "1") * best.delta, best.drop, ATTACK) for s in "+-"]
plots.drop_by_angle(right, degrees, formula, marks)
right.plot(degrees, simulated, ".", color=NOISE)
alt = (
    "Left: a cloud of points and its copy, moved by one arrow across the thin side. Right: the "
    "mean drop by direction has two equal summits, opposite each other; simulated dots lie on "
    "the curve."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Left: every blue point is moved by the same red arrow. Right: the mean drop, by the
# formula (line) and by moving two thousand points (dots). So the optimum is an eigen*vector*, and not the
# only one. The paper prints
#
# > $\delta^* = \epsilon\lambda_{max}(K^{-1}) = \epsilon u_{min}(K)$ (3.3)
#
# An eigen*value* in the middle, the eigenvector on the right: a slip that the same line repairs. That the
# sign is free is not said, and will matter in beat 3.
#
# ## 2. Search for it, and find either one
#
# From here on the example has four dimensions, $\lambda = (0.1, 0.5, 1, 2)$, and $\varepsilon = 0.8$. The
# paper:
#
# > "This is the standard Rayleigh quotient problem" (3.3)
#
# (The quotient is $\delta^\top K^{-1}\delta$ over $\delta^\top\delta$.) The gradient of the mean drop is $K^{-1}\delta$; so climbing, with the length put back to $\varepsilon$
# after each step, multiplies by $K^{-1}$ again and again ([power iteration](../docs/glossary.md#power-iteration)). The part along $u_{\min}$ grows fastest.

# %% tags=["predict"]
lam = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
truth = GaussianFlow(torch.zeros(4), lam.diag())
mean, top = truth.mean[None], universal(truth, eps).drop.item()
random = drop(truth, mean, eps * unit(torch.randn(10_000, 4, generator=seed(1))))
path = [unit(torch.randn(16, 4, generator=seed(2)).double())]
for _ in range(6):
    path.append(unit(path[-1] @ torch.linalg.inv(truth.covariance)))

predict(
    "sign",
    "Sixteen ascents from random starts: which sign do they find?",
    options=["always +", "always -", "some +, some -"],
)

# %%
cosine = torch.stack(path)[:, :, 0].T
outcome("sign", "some +, some -")
found = [universal_perturbation(truth.log_prob, truth.sample(100, seed(number)), L2Ball(eps), box=None,
                                num_steps=50).delta for number in range(6)]  # fmt: skip
print("six samples of the density, six attacks, six signs:", *("-+"[int(d[0] > 0)] for d in found))
worst_found = min(drop(truth, mean, d.double()).item() for d in found)
check("each of them costs {} nats or more, the optimum {}", worst_found, top, at_least=0.97 * top)
check("the best of 10,000 random directions costs {} nats", random.max(), at_most=top, digits=3)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
plots.histogram(left, random, top, xlabel="mean drop (nats)")
lines = [("", row, ATTACK if row[0] > 0 else DATA) for row in cosine]
plots.curves(right, range(7), lines, xlabel="step", ylabel="cosine to $u_{min}$")
alt = (
    "Left: a histogram of random directions that ends at the red line of the closed form. Right: "
    "sixteen paths; those that start above 0 go to cosine 1, the others to -1."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Left: nothing passes the red line, $\varepsilon^2/2\lambda_1$. Right: each ascent ends on
# the side where it happened to begin. The general attack of this package (printed) is handed only
# `log_prob` and a sample, and starts at zero: there chance alone, in the sample's mean, picks the sign.
#
# ## 3. Does training against it help?
#
# Moving *all* data by $\delta$ leaves their covariance alone, and the model learns the shift. From that the
# paper's remark concludes:
#
# > Since only the mean gets shifted, the resulting adversarially trained model can again be attacked with
# > the same perturbation, resulting the same sensitivity as the clean model. (3.3)
#
# > Hence, adversarial training is not successful to defend against universal adversarial attacks.
#
# "The same sensitivity" can be read in two ways, and we test both: the same step on *clean* data, or on
# data that *moved* with the model. And the conclusion rests on one more choice: everybody is moved by the
# same one of two equally good steps. Let a coin choose $+\delta$ or $-\delta$ for every point: by beat 1
# that is exactly as harmful, but now the training data spread, $K' = K + \delta\delta^\top$.

# %% tags=["predict"]
coin = torch.randint(0, 2, (300, 1), generator=seed(3)) * 2 - 1
trained = [plane, *(linear.universal_training(plane, eps, 1, s)[-1] for s in ("one", "random"))]
next_step = [worst_case(model, origin, eps) for model in trained]

predict(
    "training",
    "Attack each retrained model anew. Compared with the clean model, what does it lose?",
    options=["one sign: as much; coin: as much", "one sign: more; coin: less", "both less"],
)

# %%
nats = [step.drop.item() for step in next_step]
outcome("training", "one sign: more; coin: less")
check("one sign: {} nats, the clean model {}", nats[1], nats[0], at_least=2 * nats[0])
check("coin: {} nats", nats[2], at_most=nats[0] / 2)
figure, panels = plt.subplots(1, 3, figsize=(12, 3.9))
titles = ("clean model", "trained with one sign", "trained with a coin")
for ax, model, turn, step, title in zip(
    panels, trained, (0, 1, coin), next_step, titles, strict=True
):
    plots.cloud(ax, points[:300] + turn * best.delta, NOISE)
    arrow = [(f"{step.drop.item():.1f} nats", step.delta[0], ATTACK)]
    plots.plane(ax, model.mean, model.covariance, [0, 0], 0.0, arrow, 4).set_title(title)
alt = (
    "Three models in the plane. Clean: an arrow of 1.6 nats. Trained with one sign: the ellipses "
    "have moved up, the arrow points the other way and costs 4.7 nats. Trained with a coin: the "
    "ellipses are rounder, the arrow costs 0.4 nats."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Grey: the training data. Blue: the model fitted to them. Red: the best universal
# perturbation against it, for clean data around the origin. With one sign the model has stepped aside, and
# the attacker strikes from the other side, much harder. With a coin the model has grown where it was
# thin.
#
# Now in four dimensions, and beside each closed form a simulation: perturb 20,000 points, fit, attack. A
# fourth model spreads its perturbations over several eigenvectors ([minimax](../docs/glossary.md#minimax); beat 5 says why).

# %%
x, delta = truth.sample(20_000, seed(4)), universal(truth, eps).delta
coin = torch.randint(0, 2, (20_000, 1), generator=seed(5)).double() * 2 - 1
settled = linear.water_filling(lam, eps)
axis = torch.multinomial((settled - lam) / eps**2, 20_000, replacement=True, generator=seed(6))
pick = coin * eps * torch.eye(4).double()[axis]
moved = {"clean model": x, "one sign": x + delta, "coin": x + coin * delta, "minimax": x + pick}
fitted = {name: GaussianFlow.fit(points) for name, points in moved.items()}
exact = {"clean model": truth} | {
    name: linear.universal_training(truth, eps, 1, s)[-1]
    for name, s in (("one sign", "one"), ("coin", "random"), ("minimax", "minimax"))
}

# %%
closed, simulated = torch.zeros(2, 3, 4)
for k, (name, theory) in enumerate(exact.items()):
    for row, step in enumerate((delta, -delta, worst_case(theory, mean, eps).delta[0])):
        closed[row, k] = drop(theory, mean, step)
        simulated[row, k] = drop(fitted[name], x, step).mean()
was, now = closed[0, 0].item(), closed[0, 1].item()
shifted = drop(exact["one sign"], mean + delta, delta).item()
gap = (closed - simulated).abs().max()
check("closed forms and simulations differ by {} nats at most", gap, at_most=0.2, digits=1)
check("one sign, same step, clean data: {} nats, was {}", now, was, at_most=-3)
check("one sign, same step, data that moved: {} nats, was {}", shifted, was, within=1e-5)
check("one sign, other sign: {} nats, three times {}", closed[1, 1], was, at_least=2.99 * was)

# %%
figure, ax = plt.subplots(figsize=(9, 4))
attacks = [("same step again", NOISE), ("other sign", DATA), ("best step", ATTACK)]
parts = [(label, row, color) for (label, color), row in zip(attacks, simulated, strict=True)]
plots.bars_and_theory(ax, list(exact), parts, closed, ylabel="mean drop (nats)")
alt = (
    "Bars for four models and three attacks. Clean: 3.2 nats each. One sign: -3.2 for the same "
    "step, 9.6 for the others. Coin and minimax: about half a nat each. Black ticks, the theory, "
    "sit on the bars."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Bars are simulated, black ticks the closed form. Trained with one sign, the model finds
# the same step *more* likely than the clean data: it was trained for just that. So of the two readings
# only one bears out "the same sensitivity", that on data which moved with the model. On clean data, which
# is what a model is for, the best step is three times as bad. Either way one sign is no defence. But a coin
# is: the remark's conclusion does not hold for adversarial training as such.
#
# ## 4. Training forgets, unless it remembers
#
# > "adversarially perturbed samples are recursively used in re-training the model" (1)
#
# One round with a coin is not the end. $u_{\min}$ is thick now, another direction has become the thinnest,
# and the next round trains against that one, on the *original* data.

# %% tags=["predict"]
rounds = 24
remember = {"damping": lambda k: 1 - 2 / (k + 3)}  # the share of the old covariance that is kept
runs = {
    "one sign": (linear.universal_training(truth, eps, rounds, "one"), NOISE),
    "coin": (linear.universal_training(truth, eps, rounds, "random"), ATTACK),
    "with memory": (linear.universal_training(truth, eps, rounds, "random", **remember), DATA),
    "minimax": (linear.universal_training(truth, eps, rounds, "minimax"), THEORY),
}

predict(
    "forget",
    "With a coin, round after round: how does the drop of the next attack go on?",
    options=["it keeps falling", "it swings to and fro", "it stays where round 1 left it"],
)

# %%
outcome("forget", "it swings to and fro")
next_drop, clean_loss = {}, {}
for name, (models, _) in runs.items():
    next_drop[name] = [universal_drop(truth, model, eps) for model in models]
    clean_loss[name] = [trade_off(truth, model, 0.0).natural_drop for model in models]
low, high, least = *sorted(next_drop["coin"][-2:]), next_drop["minimax"][-1]
check("the coin's last two rounds: {} and {} nats", high, low, at_least=2 * low)
check(
    "memory: {} nats are left, minimax {}",
    next_drop["with memory"][-1],
    least,
    at_most=1.05 * least,
)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
panels = [(left, next_drop, "drop of the next attack (nats)", "y")]
panels += [(right, clean_loss, "loss on clean data (nats)", "")]
for ax, what, ylabel, log in panels:
    lines = [(name, what[name], color) for name, (_, color) in runs.items()]
    plots.curves(ax, range(rounds + 1), lines, xlabel="round", ylabel=ylabel, log=log)
    plots.label_ends(ax)
alt = (
    "Left: the drop by round: one sign jumps up to 10 and stays, the coin swings between 0.6 and "
    "3, memory settles near minimax at 0.5. Right: the loss on clean data: one sign pays 3 nats, "
    "the others about half a nat."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** One sign (grey) stays worse than no training at all. The coin (red) swings: each round
# defends against the last attack and forgets the one before. A model that keeps part of its old covariance
# (blue) closes in on minimax (black). Right: one sign pays most, and gets nothing for it.
#
# ## 5. ★ A game, and water
#
# *Starred: the rest can be read without it.*
#
# > "optimized using the following minimax objective" (2.2)
#
# Where does training come to rest? Think of a game for two.
# The attacker draws $\delta$ at random, with a coin for its sign; only the average $M = \mathbb
# E\,\delta\delta^\top$ matters, and it may spend $\operatorname{tr} M \le \varepsilon^2$. The defender picks
# a covariance $K'$ and pays what clean data lose plus what the attack takes. *Minimax* means: the defender
# makes the greatest such payment as small as possible. Each has a simple best reply. To a given attack
# $M$, fit the attacked data: $K' = K + M$. To a given model, put all the budget where it is thinnest. They
# agree on one point only: pour $\varepsilon^2$ over the eigenvalues, like water over an uneven floor.
#
# $$\lambda'_i = \max(\lambda_i, \theta), \qquad \sum_i \max(\theta - \lambda_i, 0) = \varepsilon^2 .$$
#
# <details><summary>Show the five steps to the saddle point</summary>
#
# 1. The defender's payment is $J(K', M) = \tfrac12\bigl[\operatorname{tr} K'^{-1}(K + M) - n + \log|K'| -
#    \log|K|\bigr]$: the difference of two Gaussian log-densities, averaged over $x$ and $\delta$. The mean
#    stays, because the coin makes $\mathbb E\,\delta = 0$.
# 2. For fixed $M$ this is the task of fitting a Gaussian to data of covariance $K + M$: the minimum is at
#    $K' = K + M$, with value $\tfrac12\log(|K + M|/|K|)$.
# 3. For fixed $K'$ it is linear in $M$, $\tfrac12\operatorname{tr} K'^{-1}M$: greatest when all of
#    $\varepsilon^2$ lies in the eigenspace of the smallest $\lambda'_i$.
# 4. Let $K'_*$ have the eigenvalues $\lambda'_i$ above and $M_* = K'_* - K$. Its trace is $\varepsilon^2$; it
#    lives where $\lambda_i < \theta$, and there $\lambda'_i = \theta$ is smallest. So $M_*$ is a best reply
#    to $K'_*$ by step 3, and $K'_*$ one to $M_*$ by step 2.
# 5. Hence for all $K'$ and $M$: $J(K'_*, M) \le J(K'_*, M_*) \le J(K', M_*)$. Neither can do better alone. The
#    price is $\tfrac12\sum_i \log(\lambda'_i/\lambda_i)$.
#
# </details>

# %% tags=["predict"]
budget = torch.logspace(-1, 0.7, 61, dtype=torch.float64)
after = torch.stack([e**2 / (2 * linear.water_filling(lam, e).min()) for e in budget.tolist()])

predict(
    "water",
    "How high does the water of 0.64 stand over 0.1, 0.5, 1, 2?",
    options=[0.26, 0.62, 0.74],
)

# %%
outcome("water", settled.min().item())
sensitivity = eps**2 / (2 * settled.min()).item()
pays = trade_off(truth, exact["minimax"], 0.0).natural_drop + sensitivity
price = 0.5 * (settled / lam).log().sum().item()
check("defender pays at most {}, attacker gets {} nats", pays, price, within=1e-9, digits=4)
jolt = 0.3 * torch.randn(20_000, 4, 4, generator=seed(7)).double()
root = settled.sqrt().diag() @ (torch.eye(4) + jolt)
others = root @ root.mT
trace = torch.linalg.solve(others, settled.diag().expand_as(others)).diagonal(dim1=1, dim2=2)
least = 0.5 * (trace.sum(1) - 4 + others.logdet() - lam.log().sum()).min()
check("the best of 20,000 other models pays {} nats against M", least, at_least=price, digits=4)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
plots.water(left, lam, settled)
lines = [("clean model", budget**2 / (2 * lam[0]), ATTACK), ("minimax", after, HYBRID)]
lines += [("n/2", torch.full((61,), 2.0), THEORY)]
labels = {"xlabel": r"$\varepsilon$", "ylabel": "sensitivity (nats)", "log": "xy"}
plots.label_ends(plots.curves(right, budget, lines, **labels))
alt = (
    "Left: four eigenvalues as bars; water fills the two lowest to a common level of 0.62. "
    "Right: the clean model's sensitivity grows without bound with the budget, minimax stays "
    "below n/2 = 2 nats."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Left: two of four eigenvalues stand under water. Right: what the best attack takes.
# Without training it grows without bound. After water-filling it never passes $n/2$ nats, because
# $\varepsilon^2 = \sum_i \max(\theta - \lambda_i, 0) \le n\,\theta$. And the two guarantees of step 5
# meet, to nine digits.
#
# ## 6. The universal perturbation of photographs
#
# > "a perturbation along this direction induces a maximal drop in likelihood" (3.1.2)
#
# This direction is $u_{\min}$. Back to the drawing: fit a Gaussian to 16 x 16 colour photographs: 768 dimensions, and eigenvectors that
# are pictures. What have photographs in common so strictly that to break it costs every one of them
# dearly?

# %% tags=["predict"]
train = dequantize(data.load("photos", size=16), seed(0))
test = dequantize(data.load("photos", size=16, split="test"), seed(1)).double()
photos = GaussianFlow.fit(train)
pictures = photos.eigenvectors.T.reshape(-1, 3, 16, 16)
ring = 1 / 256 * math.sqrt(768)  # one grey level per colour value, root mean square
pattern = universal(photos, ring).delta.reshape(3, 16, 16)
noise16 = unit(torch.randn(len(test), 768, generator=seed(2)).double()).reshape(test.shape)
losses = {
    "random": drop(photos, test, ring * noise16),
    "one for all, +": drop(photos, test, pattern),
    "one for all, -": drop(photos, test, -pattern),
    "made to measure": worst_case(photos, test, ring).drop,
}

predict(
    "share",
    "One pattern for all crops, one grey level: which share of the damage of made-to-measure steps?",
    options=[0.05, 0.2, 0.7],
)

# %%
one, own = losses["one for all, +"].mean().item(), losses["made to measure"].mean().item()
formula = universal(photos, ring).drop.item()
on_train = drop(photos, train.double(), pattern).mean().item()
outcome("share", one / own)
check("closed form {} nats, training crops {}", formula, on_train, within=0.01, digits=3)
noise_share = losses["random"].mean().item() / own
check("random directions reach {} of the worst case", noise_share, at_most=0.1, digits=1)
figure, (above, below) = plt.subplots(2, 1, figsize=(10, 6), height_ratios=(1, 1.5))
narrow, wide = plots.signed(pictures[:6]), plots.signed(pictures[-6:].flip(0), 0.11)
title = "smallest variance (left six)  |  largest variance (right six)"
plots.image_grid(above, [*narrow, *wide], 12, title)
plots.before_after(below, losses, [NOISE, DATA, RAISE, ATTACK])
below.set(xlabel="drop in nats at one grey level, one mark per held-out crop")
alt = (
    "Above: six eigenvectors of smallest variance, all chequerboards of green and magenta, and "
    "six of largest variance, smooth shades. Below: random steps cost almost nothing, one "
    "pattern for all nearly 400 nats with either sign, made to measure about 550."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Above: the directions of largest variance are what one expects: brightness, blue against
# red, slopes. Those of smallest variance are one and the same motif, green against magenta, pixel by
# pixel. Neighbouring pixels agree in photographs, and agree most of all in their *balance of colours*.
# Below: the one pattern stands far from noise of the same length and near the individual worst case, with
# either sign: it is the quadratic part that hurts, and that is the same for all.
#
# ## 7. Why the drawing works
#
# > "We show that adversarial training can provably defend against norm-bounded adversarial attacks." (1)
#
# Two questions are left. Would training with a coin cure the Gaussian of photographs? And is the weakness
# of Glow the same motif? Glow's own universal perturbation takes ten gradient steps through the network,
# on sixteen *training* crops.

# %%
level = linear.water_filling(photos.eigenvalues, ring)
hard = GaussianFlow.from_eigen(photos.mean, level, photos.eigenvectors)
second = ring**2 / (2 * photos.eigenvalues[1]).item() / formula
minimax = universal_drop(photos, hard, ring) / formula
clean_cost = trade_off(photos, hard, 0.0, num_samples=2).natural_drop / math.log(2) / 768
check(
    "one round with a coin leaves {} of the drop: the runner-up is nearly as thin",
    second,
    at_least=0.8,
)
check("minimax leaves {} of it", minimax, at_most=0.3)
check("and floods {} of 768 directions", int((level > photos.eigenvalues).sum()), at_least=100)
check("which costs clean photographs {} bits/dim", clean_cost, at_most=1)
drawn = drop(photos, photos.mean[None], board[:, :16, :16].flatten() / 256).item()
check("the drawing reaches {} of the Gaussian's optimum", drawn / formula, at_least=0.3)

# %%
ball = L2Ball(two * math.sqrt(3072))
learned = universal_perturbation(glow.log_prob, seen, ball, num_steps=10).delta / two
tiled = pattern.tile(1, 2, 2).float() * 256  # u_min of 16 x 16, four times
tiled = tiled if nll(seen + two * tiled).mean() > nll(seen - two * tiled).mean() else -tiled
deep |= {"tiled u_min": nll(fresh + two * tiled), "Glow's own": nll(fresh + two * learned)}
deep["made to measure"] = nll(lower_likelihood(glow.log_prob, fresh, ball, num_steps=10).x)
cost = {name: (values - deep["photograph"]).mean().item() for name, values in deep.items()}
tiles = learned.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).reshape(4, 768).double()
thin = (tiles @ photos.eigenvectors[:, :77]).square().sum() / tiles.square().sum()
other = (nll(fresh - two * drawn_sign * board) - deep["photograph"]).mean().item()
negative = other / cost["with the drawing"]
order = [DATA, NOISE, THEORY, HYBRID, RAISE, ATTACK]
ratio = {name: cost[name] / cost["with noise"] for name in ("tiled u_min", "Glow's own")}

# %%
figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6.6), height_ratios=(4, 3))
groups = dict(sorted(deep.items(), key=lambda pair: pair[1].median()))
plots.before_after(upper, groups, order).set_xlabel("NLL of Glow (bits/dim)")
three = plots.signed(torch.stack([tiled, drawn_sign * board, learned]))
plots.image_grid(lower, three, 3, "tiled u_min | drawn by hand | Glow's own", 3)
alt = (
    "Above: six rows of marks. From left to right on the axis: photographs, noise, the tiled "
    "eigenvector, the drawing, Glow's own universal pattern, made to measure. Below: the three "
    "patterns, all chequerboards of green and magenta."
)
plots.show(figure, alt)
check("tiled u_min and Glow's own: {} and {} times noise", *ratio.values(), at_least=1.5)
check("{} of Glow's own lies in the thinnest tenth", thin, at_least=0.5, digits=1)
check("the drawing's negative costs {} of the drawing", negative, at_most=0.9, digits=1)

# %% [markdown]
# **What we see.** Glow's own pattern, found through a deep network, is the motif of the Gaussian: most of
# it lies in the thinnest tenth of the Gaussian's directions. Made to measure does far more, but part of a
# deep flow's weakness is one fact about photographs: how neighbouring colour values vary together. The last line is new: a Gaussian
# cannot tell $+\delta$ from $-\delta$ on average, and Glow can. Exercise 3 asks why.
#
# ## What you have learned
#
# * The best universal perturbation of a Gaussian is $\pm\varepsilon\,u_{\min}$; the mean drop is
#   $\varepsilon^2/2\lambda_1$, and the sign is free.
# * Training against one sign moves the mean and helps nobody. A coin thickens the thin direction, memory
#   keeps several of them thick, and the end of it is water-filling, with a sensitivity below $n/2$ nats.
# * In photographs the thin directions share one motif, a chequerboard of complementary colours, and it
#   [transfers](../docs/glossary.md#transfer) to Glow.
#
# ([The errata](../docs/errata.md), rows 5, 9 and 12; [the paper, item by item](../docs/paper.md).)

# %%
lessons.calibration()
lessons.verdicts([
    (r"“$\epsilon\lambda_{max}(K^{-1}) = \epsilon u_{min}(K)$”", "3.3",
     f"the eigenvector, either sign: {rounded(plus)} and {rounded(minus)} nats; {rounded(along)} along the thick axis",
     "slip repaired later in the text"),
    ("“the same perturbation, resulting the same sensitivity”", "3.3",
     f"{rounded(closed[0, 0])} nats before; then {rounded(now)} on clean data, {rounded(shifted)} on data "
     f"that moved, best step {rounded(closed[2, 1])}", "disagrees"),
    ("“adversarial training is not successful to defend”", "3.3",
     f"one sign {rounded(closed[2, 1])}, but a coin {rounded(closed[2, 2])}, minimax {rounded(closed[2, 3])} nats",
     "disagrees"),
    ("(not asked: on photographs)", "", f"one round leaves {second:.0%} of the drop, minimax {minimax:.0%}",
     "our question"),
])  # fmt: skip

# %% [markdown]
# ## Exercises
#
# **1. Why three times?** The other sign cost the one-sign model three times the clean drop. Suppose
# training had moved its mean by only half of $\delta$. How many times is it then?
#
# <details><summary>Hint 1</summary>
#
# Only the quadratic form counts: with $q = \delta^\top K^{-1}\delta$, how far from the mean is a clean point
# at the origin, and how far after the step $-\delta$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# From $\tfrac12\delta$ to $\tfrac32\delta$: the drop is $\tfrac12\bigl(\tfrac94 - \tfrac14\bigr) q$.
#
# </details>

# %%
times = None  # your answer: a number
halfway = GaussianFlow(truth.mean + delta / 2, truth.covariance)
measured = (drop(halfway, mean, -delta) / drop(truth, mean, delta)).item()
grade(times, measured)

# %% tags=["solution"]
grade(2, measured)
# With the mean at s delta: (1 + s)^2 - s^2 = 1 + 2 s times the clean drop, 3 for s = 1 and 2 for 1/2.

# %% [markdown]
# **2. ★ When does a second direction get wet?** From which $\varepsilon$ on does the water over $\lambda = (0.1,
# 0.5, 1, 2)$ reach the second eigenvalue?
#
# <details><summary>Hint 1</summary>
#
# The first has to rise to the second. How much water does that take?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The water is $\varepsilon^2$, not $\varepsilon$.
#
# </details>

# %%
first_wet = None  # your answer: a number
radii = torch.arange(0.001, 1.0, 0.001).tolist()
wet = next(e for e in radii if linear.water_filling(lam, e)[1] > lam[1])
grade(first_wet, wet, within=2e-3)

# %% tags=["solution"]
grade(math.sqrt(0.4), wet, within=2e-3)
# eps^2 = lam_2 - lam_1 = 0.4. Below that a single direction is worth defending.

# %% [markdown]
# **3. Why can Glow tell a drawing from its negative?** Shift the chequerboard by one pixel across; then by one
# across *and* one down. What does each cost Glow, as a share of what the drawing in its place costs? Predict
# both from what was printed above, before you try.
#
# <details><summary>Hint 1</summary>
#
# A chequerboard alternates from pixel to pixel: what is it, shifted by one? And by one in both directions?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Beat 7 printed what the negative costs. The second shift brings every colour back to where it was.
#
# </details>

# %%
shares = None  # your answer: two numbers, torch.tensor([across, across_and_down])
shifted = [board.roll(k, dims=d) for k, d in ((1, 2), ((1, 1), (1, 2)))]
costs = [(nll(fresh + two * drawn_sign * b) - deep["photograph"]).mean() for b in shifted]
grade(shares, torch.stack(costs) / cost["with the drawing"], within=0.03)

# %% tags=["solution"]
grade(torch.tensor([negative, 1.0]), torch.stack(costs) / cost["with the drawing"], within=0.03)
# One across makes the negative, one across and one down the drawing again. Glow's first layer, the squeeze (04),
# takes the four positions in a 2 x 2 block for four different inputs, and one pixel exchanges them. A Gaussian's
# mean drop around its own mean is even in delta, whatever it has learned.

# %% [markdown]
# ## Further reading
#
# * Moosavi-Dezfooli et al., *Universal Adversarial Perturbations*, CVPR 2017: one perturbation for all
#   images, against classifiers.
# * Cover and Thomas, *Elements of Information Theory*, Chapter 9: where water-filling comes from.
# * Next: [04, build the deep flow](04_build_a_flow.ipynb) that you have just attacked.
