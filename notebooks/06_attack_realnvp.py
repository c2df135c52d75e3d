# %% [markdown]
# # Attack RealNVP
#
# | | |
# |---|---|
# | **Do** | attack a second architecture, step by step, beside the first; carry attacks from one to the other |
# | **Learn** | how many attack steps are enough, what an attack looks like to Fourier, what survives a change of model, and when to distrust a number |
# | **Need** | [05](05_attack_glow.ipynb) |
# | **Minutes on 2 cores** | 20 to read, 1 to run |
# | **Paper sections** | 2.1, 4 and 5: the attack on RealNVP, Table 3 |
#
# Is the fragility of notebook 05 a quirk of Glow? The paper attacks a second flow, on CelebA and LSUN
# Bedroom, with 0, 10, 20 and 50 iterations. So do we, live on crops of photographs, and in a record on
# CelebA too. LSUN Bedroom has not been run here.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import flowrob
from flowrob import data, paper, plots, zoo
from flowrob.attacks import LinfBall, lower_likelihood, uniform_noise
from flowrob.evaluation import anatomy, bits_per_dim
from flowrob.flows import checkerboard, invertibility
from flowrob.lessons import calibration, check, grade, outcome, predict, verdicts
from flowrob.units import dequantize

plots.use_style()
device = flowrob.device()
NAMES = {"RealNVP": "realnvp-photos-clean", "Glow": "glow-photos-published-clean"}
COLORS = {"RealNVP": plots.RAISE, "Glow": plots.ATTACK}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% tags=["nbval-ignore-output"]
models = {name: zoo.load(file, device) for name, file in NAMES.items()}
x = dequantize(data.load("photos", split="test", limit=32), seeded(0)).to(device)


def bits(model, y):
    with torch.no_grad():
        return model.bits_per_dim(y)


clean = {name: bits(model, x) for name, model in models.items()}

# %% tags=["nbval-ignore-output"]
lines = [clean[name].cpu() for name in models]
figure, ax = plt.subplots(figsize=(5, 4.2))
ax.plot(*lines, "o", color=plots.DATA)
ends = [min(map(min, lines)), max(map(max, lines))]
ax.plot(ends, ends, ":", color=plots.THEORY)
ax.set(xlabel="RealNVP, bits/dim", ylabel="Glow, bits/dim", title="32 test crops, not attacked")
alt = "Scatter of 32 crops: Glow's bits/dim against RealNVP's, close to the dotted diagonal from 3 to 6."
plots.show(figure, alt)
check("the correlation of the two over the crops is {}", torch.corrcoef(torch.stack(lines))[0, 1],
      at_least=0.9)  # fmt: skip

# %% [markdown]
# Each mark is a crop. The two models agree, image by image, on what is probable: close to the dotted line,
# on which they would say the same. Do they also fail alike?
#
# ## 1. Another way to mix pixels
#
# > "RealNVP (Dinh et al., 2017) is designed with *affine coupling layers*, essentially an invertible scale
# > transformation, while GLOW uses *invertible* $1 \times 1$ *convolutions*" (section 2.1)
#
# A coupling (notebook 04) leaves half of the values alone and moves the other half by what it reads there.
# Glow takes half of the *channels*, and mixes channels by a learned $1\times1$ convolution in between.
# RealNVP has nothing to learn there: three couplings on a *checkerboard* of pixels, a squeeze, three on
# fixed halves of the channels. In front a *logit*, $\log\frac{y}{1-y}$ with $y = 0.05 + 0.9\,x$, takes
# $[0, 1]$ to the line; and its scales are bounded, $s = e^{r \tanh(h/r)}$, as are those of the second Glow
# of notebook 05.

# %%
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6))
for k, ax in enumerate(axes[:2]):
    plots.image(
        ax, checkerboard(8, 8, k).expand(3, 8, 8), ("read the white pixels", "then the others")[k]
    )
rows = torch.tensor([1.0, 1, 0, 0])[:, None].expand(3, 4, 4)
for mask, ax in zip((rows, 1 - rows), axes[2:], strict=True):
    plots.image(ax, mask, "squeezed: by channel" if mask is rows else "then the others")
alt = "Four masks: a checkerboard of pixels and its opposite; and, as four stripes for four channels, the first two of them and the last two."
plots.show(figure, alt)
for name, model in models.items():
    recipe = zoo.recipe(NAMES[name])["settings"]
    print(f"{name}: {model.num_parameters:,} parameters, {recipe['num_steps']:,} steps of "
          f"{recipe['batch_size']} images, {recipe['loss']} loss")  # fmt: skip

# %% [markdown]
# White is read, black is moved; the next coupling takes the opposite. Right, rows stand for the four channels
# that a squeeze makes of one colour. Both models saw the same training crops, and are attacked on crops of three
# other photographs; what else tells them apart is printed. So what follows compares two networks, not two
# architectures: with another seed or a longer training either could come out differently.
#
# ## 2. How many steps are enough?
#
# > "RealNVP is also susceptible to adversarial attacks, similar to GLOW models." (section 5)
#
# Table 3 fixes the ball at $\epsilon = 8$ grey levels and lets the number of iterations grow. Each run below
# is a fresh attack, whose steps fall along a cosine from twice the radius to zero, so that every run can
# reach every corner of the ball and settle there.

# %% tags=["predict"]
predict("fifty", "RealNVP's median NLL after fifty steps, over that after ten?",
        options=[1.05, 1.5, 5, 50])  # fmt: skip

# %% tags=["nbval-ignore-output"]
STEPS, ball = (10, 20, 50), LinfBall(8 / 256)
attacks = {name: {n: lower_likelihood(model.log_prob, x, ball, num_steps=n) for n in STEPS}
           for name, model in models.items()}  # fmt: skip
noise = uniform_noise(x, 8 / 256, seeded(1))
sweep = {name: torch.stack([clean[name]] + [bits(model, attacks[name][n].x) for n in STEPS])
         for name, model in models.items()}  # fmt: skip

# %% tags=["nbval-ignore-output"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for ax, (name, model) in zip(axes, models.items(), strict=True):
    for values, style in ((sweep[name].median(1).values, "o-"), (sweep[name].mean(1), "v--")):
        ax.plot((0, *STEPS), values.cpu(), style, color=COLORS[name])
    ax.axhline(bits(model, noise).mean().item(), color=plots.NOISE, ls=":")
    ax.set(title=name, xlabel="attack iterations", yscale="log")
axes[0].set_ylabel("NLL (bits/dim) at eps 8")
axes[1].legend(["attacked, median", "attacked, mean", "uniform noise, mean"])
alt = "NLL at eps 8 against iterations, logarithmic. RealNVP's median rises to about two hundred and its mean far above; Glow's median and mean rise together to ten thousands. Noise stays below 10."
plots.show(figure, alt)
outcome("fifty", sweep["RealNVP"][3].median() / sweep["RealNVP"][1].median())

# %% [markdown]
# **What we see.** Neither is where it ends after twenty steps, nor after fifty: these are lower bounds of
# attacks that were still rising. RealNVP's *mean* (triangles) leaves its median behind by orders of
# magnitude: a minority of the images carries it, and a table of means would describe that minority.
#
# Thirty-two crops are few. Here is the record of a longer run, over more of the test crops and over faces of
# CelebA, below what the paper prints.

# %%
rows = json.loads(Path("../results/table-3-laptop.json").read_text(encoding="utf-8"))["rows"]
kinds = ("clean", "pgd-10", "pgd-20", "pgd-50")
long = {(of, s): [row[s] for row in rows if of in row["model"] and row["row"] in kinds]
        for of in ("celeba", "photos") for s in ("mean", "median")}  # fmt: skip
print("bits/dim at eps 8 after 0, 10, 20 and 50 iterations")
for column in paper.TABLE_3:
    print(f"paper, {column.data}, mean:", *column.nll, f"(noise {column.noise})")
for (of, statistic), values in long.items():
    print(f"record, {of}, {statistic}:", *(f"{v:,.1f}" for v in values))
for of in ("celeba", "photos"):
    check(f"RealNVP, {of}: from 20 to 50 steps the median grows {{}} times",
          long[of, "median"][3] / long[of, "median"][2], at_least=1)  # fmt: skip

# %% [markdown]
# In *growth* the record agrees with the paper, as far as medians go. The mean on the photographs, which few
# crops carry, even falls from twenty steps to fifty, for each run is a fresh attack. In *level* nothing
# agrees: after fifty steps our means are far above either column, and so is the median on photographs; other
# models, images, training. And noise is not harmless: in Table 3 it about doubles the NLL.

# %% tags=["nbval-ignore-output"]
for name in models:
    zero, ten, _, fifty = sweep[name].median(1).values
    price = (bits(models[name], noise) - clean[name]).median()
    check(f"{name}: ten steps cost {{}} times what noise costs", (ten - zero) / price, at_least=5)
tail = sweep["RealNVP"][3]
check("RealNVP after 50 steps: the mean is {} medians", tail.mean() / tail.median(), at_least=10)
check("a share of {} of the images lies above ten medians", (tail > 10 * tail.median()).double().mean(),
      at_least=0.05, at_most=0.5)  # fmt: skip
check(
    "of Glow the mean is {} medians", sweep["Glow"][3].mean() / sweep["Glow"][3].median(), at_most=5
)
noisy = (bits(models["RealNVP"], noise).mean() / clean["RealNVP"].mean()).item()
printed = [column.noise / column.nll[0] for column in paper.TABLE_3]
check("noise multiplies RealNVP's mean NLL by {} (ours), by {} and {} (paper)", noisy, *printed,
      at_least=1.3)  # fmt: skip

# %% [markdown]
# ## 3. What does an attack look like?
#
# > "These perturbations are small in the sense of a suitable norm and imperceptible to humans." (section 2.2)
#
# Both attacks live in one ball around the same photograph. Call their changes $\delta$ and $\delta'$; their
# *cosine*, $\langle\delta, \delta'\rangle / |\delta||\delta'|$, is 1 if they point the same way and about 0
# for two independent ones: in $D = 3072$ dimensions a random cosine is of the size $1/\sqrt D \approx 0.02$.

# %% tags=["predict"]
predict("cosine", "The median cosine of RealNVP's attack and Glow's, crop by crop?",
        options=[0.02, 0.15, 0.5, 0.9])  # fmt: skip


# %% tags=["nbval-ignore-output"]
def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))


steps = {name: attacks[name][20].x - x for name in models}
angles = cosine(steps["RealNVP"], steps["Glow"])

# %% tags=["nbval-ignore-output"]
k = 27  # a corner of the pagoda's roof
figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
plots.image(axes[0], x[k], "photograph")
plots.image(axes[1], attacks["RealNVP"][20].x[k], "attack on RealNVP")
for ax, name in zip(axes[2:], models, strict=True):
    plots.image(ax, plots.signed(steps[name][k], 8 / 256), f"{name}'s change")
alt = "A crop of a roof, the same attacked, with a faint texture, and two changes in full colour: both fine chequered textures, but different ones."
plots.show(figure, alt)
outcome("cosine", angles.median())
random_angle = cosine(steps["Glow"], uniform_noise(x, 8 / 256, seeded(3)) - x).abs().median()
check(
    "that is {} times the cosine with noise", angles.median() / random_angle, at_least=2, digits=1
)

# %% [markdown]
# Grey is no change, full colour is eight grey levels. Both are fine chequered textures and not the same one,
# yet they agree far more than chance would have it. *Fourier* says in what: take the power of each change at
# every number of waves across the crop (a [radial spectrum](../docs/glossary.md#radial-spectrum)), and divide
# by that of noise.


# %% tags=["nbval-ignore-output"]
def spectrum(change):
    power = torch.fft.fft2(change.cpu(), norm="ortho").abs().square().mean((0, 1))
    frequency = torch.fft.fftfreq(32) * 32
    ring = (frequency[:, None] ** 2 + frequency**2).sqrt().round()
    return torch.stack([power[ring == r].mean() for r in range(1, 17)])


flat = spectrum(uniform_noise(x, 8 / 256, seeded(4)) - x)
curves = {name: spectrum(steps[name]) / spectrum(steps[name]).mean() for name in models}

# %% tags=["nbval-ignore-output"]
figure, ax = plt.subplots(figsize=(8, 3.6))
for (name, curve), style in zip(curves.items(), ("o-", "v--"), strict=True):
    ax.plot(range(1, 17), curve, style, color=COLORS[name], label=f"attack on {name}")
ax.plot(range(1, 17), flat / flat.mean(), "s:", color=plots.NOISE, label="uniform noise")
ax.set(xlabel="waves across the crop", ylabel="power over its mean", yscale="log")
ax.legend()
alt = "Power of three changes against frequency: noise is flat, both attacks have less at low frequencies and most at the highest."
plots.show(figure, alt)
for name, curve in curves.items():
    check(f"{name}: the finest quarter of the rings has {{}} times the power of the coarsest",
          curve[12:].mean() / curve[:4].mean(), at_least=1)  # fmt: skip

# %% [markdown]
# **What we see.** Noise has all frequencies alike. Both attacks prefer the finest ones, where photographs have
# least and a density of photographs is narrowest: notebook 01's small variances, again. RealNVP's peak at the
# end is the checkerboard that can be seen in its change, the pattern of its own masks; and it moves whole
# areas, too (left).
#
# ## 4. Does an attack on one model fool the other?
#
# > "applying the linear Gaussian attack to the non-linear case" (section 5)
#
# The paper promises one transfer, from a Gaussian. Between deep models the question is ours: if the fragility
# belonged to the photographs, RealNVP's attack would hurt Glow as much as Glow's own. If it belonged to the
# weights, it would do no more than noise.

# %% tags=["predict"]
predict("transfer", "What share of its own attack's median rise does Glow suffer from RealNVP's?",
        options=["under 1%", "1% to 10%", "over 10%"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
sources = {"uniform noise": noise} | {f"{name}'s attack": attacks[name][20].x for name in models}
rise = {judge: {of: bits(models[judge], y) - clean[judge] for of, y in sources.items()}
        for judge in models}  # fmt: skip
middle = {(judge, of): v.median().item() for judge in models for of, v in rise[judge].items()}

# %% tags=["nbval-ignore-output"]
figure, axes = plt.subplots(1, 2, figsize=(11, 2.8), sharex=True)
for ax, judge in zip(axes, models, strict=True):
    plots.before_after(ax, rise[judge], [plots.NOISE, *COLORS.values()], log=True)
    ax.set(title=f"judged by {judge}", xlabel="rise of the NLL (bits/dim) at eps 8")
alt = "Two panels of three rows, rises on a logarithmic axis. For each judge noise costs about one bit, the other model's attack a few to ten, its own a hundred or thousands."
plots.show(figure, alt)
share = middle["Glow", "RealNVP's attack"] / middle["Glow", "Glow's attack"]
outcome("transfer", "under 1%" if share < 0.01 else "1% to 10%" if share < 0.1 else "over 10%")
for judge, other in (("Glow", "RealNVP"), ("RealNVP", "Glow")):
    check(f"{judge} suffers {{}} times as much from {other}'s attack as from noise",
          middle[judge, f"{other}'s attack"] / middle[judge, "uniform noise"], at_least=1)  # fmt: skip
    check("which is a share of {} of its own attack", middle[judge, f"{other}'s attack"]
          / middle[judge, f"{judge}'s attack"], at_most=0.3, digits=1)  # fmt: skip

# %% [markdown]
# **What we see.** Each row is one model's verdict on the same crops, changed in three ways within one ball.
# In both directions the foreign attack costs some times what noise costs and far less than the model's own. So the
# photographs (their covariance) share a small part of the fragility, the weights own the rest. That is what
# was tested: two networks, twenty steps, one strength.
#
# ## 5. Where it breaks, and whether the numbers can be trusted
#
# > "The transformation $f$ is typically modeled as the composition of $K$ invertible maps" (section 2.1)
#
# An NLL in the thousands raises a suspicion: is it the model, or rounding error? First, which term grows?

# %% tags=["predict"]
predict("where", "In RealNVP, most of the median rise comes from the latents of ...",
        options=["level 1, the finest", "the middle levels", "the last level"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
report = anatomy(models["RealNVP"], x, attacks["RealNVP"][20].x)
levels = {f"level {i}": part for i, part in enumerate(report.latent, start=1)}
part = report.latent.median(1).values
where = ["level 1, the finest", *["the middle levels"] * (len(part) - 2), "the last level"]

# %% tags=["nbval-ignore-output"]
figure, ax = plt.subplots(figsize=(8, 3.2))
plots.before_after(ax, levels, [plots.RAISE] * len(levels)).set_xscale("symlog", linthresh=1)
ax.set_xlim(left=-1)
ax.set_xlabel("rise of the latents' share (bits/dim), one mark per image, bar at the median")
alt = "Rows for RealNVP's levels: the rise of the latents is greatest at level 1 for most crops; some crops break at the last level, far to the right."
plots.show(figure, alt)
outcome("where", where[part.argmax()])
coarse = (report.latent[-1] > report.latent[0]).double().mean()
check(
    "a share of {} of the crops breaks at the last level instead",
    coarse,
    at_least=0.02,
    at_most=0.5,
)
check("volumes move by a share of {} of what latents do, in the median",
      report.log_det.sum(0).abs().median() / report.latent.sum(0).median(), at_most=0.05, digits=1)  # fmt: skip

# %% [markdown]
# The axis is logarithmic from 1 on. Most crops break where Glow's did, in the latents of the finest level. A
# minority breaks at the last, after more layers of amplification; those that carry the mean stand far to the
# right. The volume terms hardly count, because every coupling's scale is bounded.
#
# Second, is it arithmetic? Score the same images again in double precision, and see whether the flow finds
# its way back from them.

# %%
for name, model in models.items():
    y = attacks[name][20].x
    twin = zoo.load(NAMES[name], "cpu").double()
    gap = (bits(model, y).cpu() / bits(twin, y.cpu().double()) - 1).abs().max()
    check(f"{name}: float32 and float64 differ by {{}} of the NLL", gap, at_most=1e-2, noise=True)
    trip = invertibility(model, y)
    check("   in float64 the way back from z misses the attacked image by {}", trip.float64,
          at_most=1e-6, noise=True)  # fmt: skip
    reported = bits_per_dim(-attacks[name][20].value, model.num_dims)
    gap = (reported.cpu() / bits(model, y).cpu() - 1).abs().max()
    check("   what the attack reports and a new score differ by {}", gap, at_most=1e-3, noise=True)

# %% [markdown]
# So the numbers are the model's own: in double precision the flow inverts, and the NLL does not move.
#
# ## What you learned
#
# * How many steps are enough depends on the model: at fifty both of these are still growing. A table of
#   attacked likelihoods must state its steps, and mean *and* median.
# * Both fail in the latents, by amplification, at fine frequencies, far beyond noise; some crops break RealNVP
#   at its last level.
# * Attacks carry over a little: more than noise, far less than a model's own.
# * Before believing an absurd number, score it again in float64.
#
# ([The paper, item by item](../docs/paper.md); [errata](../docs/errata.md).)

# %%
calibration()
celeba, bedroom = paper.TABLE_3
verdicts([
    ("“RealNVP is also susceptible to adversarial attacks, similar to GLOW models”", "section 5",
     "so it is, on photographs and on CelebA; with a heavier tail than Glow", "agrees"),
    ("with 10, 20, 50 iterations the NLL grows: " + ", ".join(map(str, celeba.nll[1:])),
     "Table 3, CelebA", "it grows; medians "
     + ", ".join(f"{v:.1f}" for v in long["celeba", "median"][1:]), "agrees"),
    (f"{celeba.nll[3]} after 50 iterations", "Table 3, CelebA",
     f">= {long['celeba', 'mean'][3]:,.0f} (median {long['celeba', 'median'][3]:.1f}); photographs "
     f">= {long['photos', 'mean'][3]:,.0f} ({long['photos', 'median'][3]:,.0f})",
     "disagrees: other models and training"),
    (f"uniform noise multiplies the NLL by {printed[0]:.1f} and {printed[1]:.1f}", "Table 3",
     "it costs, and far less than the attack", "agrees"),
    ("does an attack on one flow fool the other?", "not asked", "a little, in both directions",
     "our question"),
])  # fmt: skip

# %% [markdown]
# ## Exercises
#
# ### 1. Beat the drawn checkerboard
#
# A *universal* pattern moves every crop alike, by $\pm 8$ grey levels. `board(w)` draws squares of $w$ pixels.
# Which width in 1, 2, 4, 8, 16 costs RealNVP most, in the median? Then beat it with a pattern of your own.
#
# <details><summary>Hint 1</summary>Where do the attacks of beat 3 have their power?</details>
# <details><summary>Hint 2</summary>A better one: average the gradient of the NLL over training crops
# (<code>data.load("photos", limit=64)</code>), and keep its sign.</details>


# %%
def cost(pattern):
    moved = (x + 8 / 256 * pattern.to(x)).clamp(0, 1)
    return (bits(models["RealNVP"], moved) - clean["RealNVP"]).median().item()


def board(width):
    at = torch.arange(32) // width
    return ((at[:, None] + at) % 2 * 2.0 - 1).expand(3, 32, 32)


best_width = None  # your answer: 1, 2, 4, 8 or 16
pattern = None  # your own, (3, 32, 32), of -1 and 1
costs = {width: cost(board(width)) for width in (1, 2, 4, 8, 16)}
grade(best_width, max(costs, key=costs.get), within=0)
if pattern is not None:
    check("yours costs {} bits/dim", cost(pattern), at_least=max(costs.values()))

# %% tags=["solution", "nbval-ignore-output"]
grade(1, max(costs, key=costs.get), within=0)
some = dequantize(data.load("photos", limit=64), seeded(5)).to(device).requires_grad_()
(slope,) = torch.autograd.grad(-models["RealNVP"].log_prob(some).sum(), some)
check(
    "the sign of the mean gradient costs {} bits/dim", cost(slope.sign().mean(0).sign()), at_least=0
)
print("boards of width 1, 2, 4, 8, 16:", *(f"{v:.2f}" for v in costs.values()))
# Squares of one pixel have their power at the highest frequency, where photographs have least.

# %% [markdown]
# ### 2. Find the photograph that withstands best
#
# Which of the 32 crops has the least NLL under fifty steps on RealNVP (its number, from 0)? And is it the one
# that was most probable before?
#
# <details><summary>Hint 1</summary><code>sweep["RealNVP"]</code> has a row for 0, 10, 20 and 50 steps.</details>
# <details><summary>Hint 2</summary><code>argmin()</code>.</details>

# %%
withstands = None  # your answer
grade(withstands, sweep["RealNVP"][3].argmin(), within=0)

# %% tags=["solution", "nbval-ignore-output"]
grade(sweep["RealNVP"][3].argmin().item(), sweep["RealNVP"][3].argmin(), within=0)
order = torch.stack([sweep["RealNVP"][k].argsort().argsort().double() for k in (0, 3)])
check("rank correlation of the NLL before and after: {}", torch.corrcoef(order)[0, 1], at_most=0.9)
# No crop withstands: the least NLL found is a lower bound too, and of fifty steps only.

# %% [markdown]
# ### 3. Why does the logit in front not protect RealNVP?
#
# By how many bits/dim can the logit's own log-det change at most, if a value moves by $8/256$?
#
# <details><summary>Hint 1</summary>
#
# Per value, $\log|\det| = \log 0.9 - \log y - \log(1 - y)$ with
# $y = 0.05 + 0.9\,x$: where is it steepest?
# </details>
# <details><summary>Hint 2</summary>
#
# At the end of the interval: compare $x = 0$ and $x = 8/256$, in
# bits.
# </details>

# %%
most = None  # your answer, in bits/dim
ends = torch.tensor([[0.0], [8 / 256]], dtype=torch.float64)
volume = models["RealNVP"].bijection.bijections[0](ends)[1]
grade(
    most,
    (volume[0] - volume[1]).item() / torch.tensor(2.0).log().item(),
    within=0.01,
    unit="bits/dim",
)

# %% tags=["solution"]
y = 0.05 + 0.9 * ends
by_hand = -(y.log2() + (1 - y).log2()).flatten()
grade(
    by_hand[0] - by_hand[1],
    (volume[0] - volume[1]).item() / torch.tensor(2.0).log().item(),
    within=0.01,
)
# It is a fixed, smooth map whose slope lies between about 4 and 19: it rescales the ball, no more. The rise
# under attack, tens of bits/dim and more, comes from the layers behind it.

# %% [markdown]
# ## Further reading
#
# Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP* (ICLR 2017); Behrmann et al.,
# *Understanding and Mitigating Exploding Inverses in Invertible Neural Networks* (AISTATS 2021), on
# why the inverse is the first thing to check.
