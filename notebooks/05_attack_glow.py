# %% [markdown]
# # Attack Glow
#
# | | |
# |---|---|
# | **Do** | attack a Glow trained on photographs, in both directions, at five strengths; follow an attack through its layers |
# | **Learn** | how an attacked likelihood is measured, what bounds it, where in the network it breaks, and why it explodes |
# | **Need** | [00](00_start_here.ipynb): NLL in bits/dim; [04](04_build_a_flow.ipynb): what Glow's parts do; [01](01_worst_case_of_a_gaussian.ipynb) for beat 5 |
# | **Minutes on 2 cores** | 25 to read, 1 to run |
# | **Paper sections** | 2.2, 4 and 5: Figures 1, 4 and 5, the clean row of Table 1 |
#
# The paper trains Glow on [CIFAR-10 and LSUN Bedroom](../docs/glossary.md#data-sets) (small photographs of ten kinds of things, and of bedrooms); its main text gives no sizes (the published
# Glow has $K=32$ steps in each of $L=3$ levels for CIFAR-10). Ours has $K=8$ and narrow networks, and
# saw crops of five photographs; it is attacked on crops of three others. The questions are
# the same, the levels cannot be compared, and each verdict says on which data it was reached.

# %% tags=["nbval-ignore-output"]
import json
from pathlib import Path
from statistics import geometric_mean

import matplotlib.pyplot as plt
import torch

import flowrob
from flowrob import attacks, data, lessons, paper, plots, zoo
from flowrob.attacks import L2Ball, LinfBall, lower_likelihood, raise_likelihood
from flowrob.evaluation import anatomy, bits_per_dim, gibbs_floor, robustness_table
from flowrob.lessons import calibration, check, grade, outcome, predict, verdicts
from flowrob.linear import GaussianFlow
from flowrob.units import dequantize
from flowrob.widgets import drift, layer_explorer, layer_walk, tiled

plots.use_style()
device = flowrob.device()
size = flowrob.scale(device)
EPS = (0, 1, 2, 4, 8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% tags=["nbval-ignore-output"]
weights, long = f"glow-{size['images']}-published-clean", {"num_steps": size["steps"]}
glow = zoo.load(weights, device)
images = data.load(size["images"], split="test", limit=size["crops"]).to(device)
how = {"generator": seeded(0), "batch_size": 32, "attack_options": long}
table = robustness_table(glow.log_prob, images, EPS, **how)
attacked, noisy = table.by_eps(), table.by_eps(row="noise")  # one line per eps, clean at 0
clean = attacked[0]
one = clean[:32].argsort()[16]  # the crop of median NLL
photo, moved = (table.images["model", e, k][one].cpu() / 255
                for e, k in ((0, "clean"), (2, "attacked")))  # fmt: skip
print(lessons.times_less_probable(attacked[2, one] - clean[one], glow.num_dims))
figure, axes = plt.subplots(1, 3, figsize=(8, 3))
plots.image(axes[0], photo, "photograph")
plots.image(axes[1], moved, "attacked, 2 grey levels")
plots.image(axes[2], plots.signed(moved - photo, 2 / 256), "the change, amplified")
alt = (
    "A crop of a photograph, the same attacked by two grey levels, which looks the same, and the "
    "change amplified: fine coloured texture."
)
plots.show(figure, alt)

# %% [markdown]
# Left and middle look the same. To the model the middle one is less probable by the factor printed
# above, after twenty steps of gradient ascent: the odds against it have thousands of digits.
#
# What a [record](../docs/glossary.md#record) says (a file in `results/` that a long run left) is told as such; all else is measured here. Two clean Glows of this size ship. This notebook attacks Glow [as published](../docs/glossary.md#bounded-published). The second has a bound
# on two of its scales, and nothing else tells them apart; beat 6 compares them. No number below is
# "Glow's" as such.
#
# ## 1. Drive the likelihood of photographs down
#
# > "We observe that in-distribution attacks are effective even at low $\epsilon$ values." (section 5)
#
# An [in-distribution attack](../docs/glossary.md#in-distribution-attack) looks for the change, of at most $\epsilon$ grey levels per colour value,
# that raises a photograph's NLL most. *PGD* (projected gradient descent, here uphill) steps along the
# sign of the gradient and clips back into the ball, over and over:
#
# $$\max_{\|\delta\|_\infty \le \epsilon/256}\; -\log p(x + \delta), \qquad
# \delta \leftarrow \Pi\left(\delta + \eta\,\mathrm{sign}\,\nabla_x(-\log p)\right).$$
#
# $\Pi$, the [projection](../docs/glossary.md#projection), clips to the ball and to $[0, 1]$; the step $\eta$ falls from twice the radius to 0 along a
# cosine; the best of twenty iterates is kept. Everything found is a lower bound: longer attacks find more.

# %% tags=["predict"]
predict("eight", "Clean crops have about 4 bits/dim; 8 is what knowing nothing costs. What is the "
        "median under twenty steps at eps 8?", options=[8, 80, 800, 8000])  # fmt: skip

# %% tags=["nbval-ignore-output"]
chosen = clean.argsort()[1::4][:8].cpu()
values = {f"eps {e}": attacked[k].cpu()[chosen] for k, e in enumerate(EPS)}
rows = {f"eps {e}": table.images["model", e, "attacked" if e else "clean"].cpu()[chosen] / 255
        for e in EPS}  # fmt: skip
figure, axes = plt.subplots(5, 8, figsize=(9.5, 7.2))
plots.attacked_rows(axes, rows, values)
alt = (
    "Eight crops in five rows, eps 0 to 8: down to eps 2 nothing is seen, at 8 a faint texture, "
    "while the bits/dim above each grow from about 4 to thousands."
)
plots.show(figure, alt)
outcome("eight", attacked[-1].median(), digits=1)

# %% [markdown]
# Above each crop stands its NLL in bits/dim. Down to the third row the change is invisible on most
# screens, and yet the number has left the range of anything photographic; at eight grey levels one sees
# a faint texture. The paper's Figure 1 has one such image, a frog that goes from 1.6 to 150.

# %% tags=["nbval-ignore-output"]
mean, median = attacked.mean(1), attacked.median(1).values
low, high = (attacked.quantile(share, 1) for share in (0.25, 0.75))
lines = [("attacked, mean", mean, plots.ATTACK, "o-"),
         ("attacked, median", median, plots.ATTACK, "v--"),
         ("uniform noise, mean", noisy.mean(1), plots.NOISE, "s-"),
         ("paper, Table 1: Glow on CIFAR-10", paper.table_1("clean").nll, plots.THEORY, "^:")]  # fmt: skip
floors = [gibbs_floor(e) for e in EPS]
figure, ax = plt.subplots(figsize=(8, 4.6))
plots.nll_against_eps(ax, EPS, lines, floors, [(low, high, plots.ATTACK)])
alt = (
    "NLL against eps, logarithmic: attacked photographs rise from 4 to about ten thousand "
    "bits/dim, the paper's Glow to two million; uniform noise stays below 6, above a dotted "
    "floor."
)
plots.show(figure, alt)
more = (attacked[1:] - clean).median(1).values / (noisy[1:] - clean).median(1).values
check("the attack costs {} times what noise costs, at the least of the eps", more.min(),
      at_least=5, digits=1)  # fmt: skip
check("at eps 2 the median NLL is {} times the clean one", median[2] / median[0], at_least=2,
      digits=1)  # fmt: skip
table

# %% [markdown]
# **What we see.** Red (circles): photographs under attack, the middle half of them shaded. Grey (squares):
# uniform noise of the same size, which stays close to where it started. Triangles: the paper's Glow on
# other images. Where [mean and median](../docs/glossary.md#mean-and-median) part, some images carry the mean; so print both.
#
# In the table *low* to *high* is a 95% interval of the mean (by the [bootstrap](../docs/glossary.md#bootstrap)); [attacked 8-bit](../docs/glossary.md#8-bit-image) is the same attack rounded to a valid image file: it needs no fractions of
# grey levels. *Floor* is the next beat's subject. *Mixed* is the mean after mixing one percent of a
# uniform density into the model, which can then never pass [ceiling](../docs/glossary.md#uniform-ceiling). That costs nothing and is no cure,
# but it shows that a huge NLL says little more than "far out".
#
# ## 2. What is the least an NLL can be?
#
# > "The effectiveness of these attacks are evident as the values are much higher compared to the uniform
# > noise baseline" (section 5)
#
# How low can that baseline be? No density expects noise better than noise itself does. Integer noise that
# is uniform on $\{-\epsilon, \dots, \epsilon\}$ has $2\epsilon + 1$ values, and so costs *any* model, on
# average, at least (*Gibbs' inequality*; the [Gibbs floor](../docs/glossary.md#gibbs-floor))
#
# $$\mathbb E\,[\mathrm{NLL}] \;\ge\; \log_2(2\epsilon + 1) \quad\text{bits/dim}.$$
#
# <details><summary>Show the three lines</summary>
#
# 1. Let $u$ be how the noisy images are distributed, $q$ the model. Since $\ln t \le t - 1$,
#    $\;\mathbb E_u \ln \frac{q}{u} \le \mathbb E_u\left[\frac{q}{u} - 1\right] = \sum_{u > 0} q - 1 \le 0$.
# 2. So $\mathbb E_u[-\log_2 q] \ge \mathbb E_u[-\log_2 u]$: nobody beats the entropy of $u$.
# 3. Around one image $u$ is uniform on $(2\epsilon+1)^D$ images: $\log_2(2\epsilon+1)$ for each of the $D$
#    values. The mean over images keeps the bound. Clipping to 0..255 lowers it a little; the table counts that.
# </details>
#
# By the same three lines random images cost at least eight bits. Some labels of the paper's Figures 4 and 5
# lie below these floors, in whatever unit they are given ([errata](../docs/errata.md), row 11).

# %% tags=["predict"]
predict("floor", "How many bits/dim above its floor is Glow's mean on photographs plus noise of eight "
        "grey levels?", options=[0.02, 0.2, 2, 20])  # fmt: skip

# %% tags=["nbval-ignore-output"]
noise = torch.randint(-8, 9, (200_000,), generator=seeded(1))
share = torch.bincount(noise + 8) / len(noise)
counted = -(share * share.log2()).sum()
check("floor at eps 8: {} by the formula, {} counted from drawn noise", gibbs_floor(8), counted,
      within=1e-3, digits=3)  # fmt: skip
above = noisy.mean(1).cpu() - torch.tensor(floors)
outcome("floor", above[-1], digits=1)
check("the clouds' means lie above their floors by {} bits/dim or more", above[1:].min(),
      at_least=0, digits=1)  # fmt: skip
print(f"the paper's figures: noise at eps 8 {paper.FIGURE_UNIFORM_NOISE_EPS_8}, ", end="")
print(f"pure noise {paper.FIGURE_PURE_NOISE}")
figure, ax = plt.subplots(figsize=(8, 3.4))
clouds = {f"noise, eps {e}": v for e, v in zip(EPS[1:], noisy[1:], strict=True)}
plots.before_after(ax, clouds, [plots.NOISE] * 4)
ax.plot(floors[1:], range(4), "|", color=plots.THEORY, ms=24, mew=2)
ax.set_xlabel("NLL in bits/dim; black: the floor of the mean")
alt = (
    "Clouds of NLLs of photographs plus noise at eps 1, 2, 4 and 8: each lies right of a black "
    "mark, its floor, and comes nearer to it as eps grows."
)
plots.show(figure, alt)

# %% [markdown]
# Each mark is a photograph plus uniform noise, each grey bar a median. Every cloud lies right of its
# black floor, as its mean must; a cloud to the left would say that the density is not normalised, or not
# measured in bits. An attack is worse than the average noise, so the floor holds for it, and for every
# defence.
#
# ## 3. Drive the likelihood of noise up
#
# > "For high attack strength ($\epsilon = 8$), likelihood values are on-par with values obtained by
# > in-distribution samples." (section 5)
#
# Turn the sign of the ascent around and start from pure noise: the paper's [out-of-distribution](../docs/glossary.md#out-of-distribution) attack.

# %% tags=["predict"]
predict("reach", "Photographs have about 4 bits/dim, pure noise about 20. Raised within eight grey levels, "
        "where does noise end?",
        options=["below the photographs", "among them", "above all of them"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
random_images = torch.randint(0, 256, (16, 3, 32, 32), generator=seeded(2), dtype=torch.uint8)
random_images = random_images.to(device)
static, shot = (
    dequantize(random_images[:1], seeded(7)),
    dequantize(images[one : one + 1], seeded(8)),
)
sheet = {"attacked": [shot], "noise": [shot], "raised": [static]}
for e in paper.WIDE_EPS[1:]:
    ball = LinfBall(e / 256)
    sheet["attacked"].append(lower_likelihood(glow.log_prob, shot, ball, num_steps=20).x)
    sheet["noise"].append(attacks.uniform_noise(shot, e / 256, seeded(9)))
    sheet["raised"].append(raise_likelihood(glow.log_prob, static, ball, num_steps=20).x)
sheet = {row: torch.cat(pictures) for row, pictures in sheet.items()}
with torch.no_grad():
    labels = {row: glow.bits_per_dim(x).tolist() for row, x in sheet.items()}
figure, axes = plt.subplots(3, 7, figsize=(11, 5.4))
plots.attacked_rows(axes, sheet, labels)
alt = (
    "Three rows of seven images at eps 0 to 32: an attacked photograph whose bits/dim run away, "
    "the same under noise, which costs little, and raised noise, whose bits/dim fall and stay "
    "above those of the photograph."
)
plots.show(figure, alt)
for shown in (paper.FIGURE_4, paper.FIGURE_5):
    for row in sheet:
        print(f"{shown.source}, {shown.data}, {row}:".ljust(35), *getattr(shown, row))

# %% [markdown]
# The paper's Figures 4 and 5 made again: one photograph under the in-distribution attack, the same under
# uniform noise, and a noise image under the out-of-distribution attack, at $\epsilon = 0, 1, 2, 4, 8, 16, 32$
# from left to right. Below, the paper's labels (Figure 4 ends at 8). Now sixteen noise images and all crops:

# %% tags=["nbval-ignore-output"]
more_static = dequantize(random_images, seeded(3))
raised = [glow.bits_per_dim(more_static).detach()]
for e in EPS[1:]:  # the same attack on sixteen noise images
    found = raise_likelihood(glow.log_prob, more_static, LinfBall(e / 256), **long)
    raised.append(bits_per_dim(found.value, glow.num_dims))
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.6), sharex=True)
names = ["noise"] + [f"raised, eps {e}" for e in EPS[1:]]
colors = [plots.NOISE] + [plots.RAISE] * 4
plots.before_after(axes[0], dict(zip(names, raised, strict=True)), colors)
names = ["photographs"] + [f"lowered, eps {e}" for e in EPS[1:]]
colors = [plots.DATA] + [plots.ATTACK] * 4
plots.before_after(axes[1], dict(zip(names, attacked, strict=True)), colors, log=True)
for ax in axes:
    ax.axvline(clean.median().item(), color=plots.DATA, lw=1)
    ax.set_xlabel("NLL (bits/dim); line: median photograph")
alt = (
    "One logarithmic axis twice. Left: noise near 20 bits/dim moves down to 12 as its likelihood "
    "is raised, right of the median photograph. Right: photographs move from 4 past the noise to "
    "thousands."
)
plots.show(figure, alt)

# %% [markdown]
# Both attacks move the clouds toward each other, and past each other: photographs end far above the noise.
# But "on-par" is not what we see: at eight grey levels raised noise is still above every photograph. Nor
# do the paper's own labels say it, which are 6.8 and 4.5 for raised noise, 1.7 and 1.1 for images. A
# [detector](../docs/glossary.md#detection) that trusts likelihood is perfect until somebody pushes, and then worse than a coin: the next
# cell prints its [AUROC](../docs/glossary.md#auroc), the share of pairs in which the photograph is the likelier of the two.
#
# ## 4. Where it breaks
#
# > "The transformation $f$ is typically modeled as the composition of $K$ invertible maps" (2.1)
#
# By the change of variables the NLL is a sum over levels and layers, and we can read off which term grows (its [anatomy](../docs/glossary.md#anatomy)):
#
# $$-\log p(x) = \tfrac12 \sum_{\text{levels}} |z_\ell|^2 - \sum_{\text{layers}} \log|\det| + \text{const}.$$

# %% tags=["predict", "nbval-ignore-output"]
gap = raised[-1].min() - clean.max()
outcome("reach", "above all of them" if gap > 0 else "among them")
check(
    "the lowest raised noise lies {} bits/dim above the highest photograph",
    gap,
    at_least=0,
    digits=1,
)
check("raised by eps 8 the median of noise is {} times that of photographs",
      raised[-1].median() / clean.median(), at_least=1.5, digits=1)  # fmt: skip
fair, foul = ((raised[k][:, None] > attacked[k].to(raised[k])).double().mean() for k in (0, -1))
check("AUROC without attack: {}", fair, at_least=0.95)
check("both attacked at eps 8: {}", foul, at_most=0.05, noise=True)
predict("where", "Glow has three levels, fine to coarse. Where does most of the rise come from?",
        options=["latents, level 1", "latents, level 2", "latents, level 3", "volumes"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
start = dequantize(images[:128], seeded(4))
worst = lower_likelihood(glow.log_prob, start, LinfBall(8 / 256), **long).x
report = anatomy(glow, start, worst)
with torch.no_grad():
    twin = zoo.load(weights, "cpu").double()
    after, before = (twin.bits_per_dim(x.cpu().double()) for x in (worst, start))
gap = (report.total.cpu() / (after - before) - 1).abs().max()
check("the parts add up to the change of the NLL, but for a share of {}", gap, at_most=1e-6,
      noise=True)  # fmt: skip

# %% tags=["nbval-ignore-output"]
levels = torch.tensor([level for level, _ in report.layers])
latent = report.latent.median(1).values.cpu()
terms = [report.log_det[(levels == k).to(device)].sum(0).median().cpu() for k in (1, 2, 3)]
volume, last = -torch.stack(terms), (levels == 1).sum().item() - 1  # the prior that ends level 1
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
parts = [("latents", latent, plots.ATTACK), ("volume", volume, plots.DATA)]
plots.stacked_bars(axes[0], ["level 1", "level 2", "level 3"], parts, ylabel="change (bits/dim)")
axes[0].set_yscale("symlog", linthresh=1)
drift(axes[1], levels, report.distance.median(1).values.cpu())
alt = (
    "Left: bars of the median change by level: the latents of level 1 tower over all else on a "
    "logarithmic axis. Right: the distance between clean and attacked activations by layer grows "
    "along level 1, peaks one layer wide at its end, then falls."
)
plots.show(figure, alt)
every = [*(f"latents, level {k}" for k in (1, 2, 3)), "volumes"]
outcome("where", every[torch.cat([latent, volume.sum()[None]]).argmax()])
check("latents of level 1 carry a share of {} of the median rise", latent[0] / report.total.median().cpu(),
      at_least=0.8)  # fmt: skip

# %% [markdown]
# Left: the median change of each term, per level, on an axis that is logarithmic from 1 on. Right: how far the attacked image's [activations](../docs/glossary.md#activation) (what
# a layer puts out) have drifted from the clean ones, relative to the change that went in; dotted: where a
# level ends. Along level 1 the drift grows geometrically: each step amplifies what the last one handed it.
# Then comes the peak, one layer wide: the [prior](../docs/glossary.md#prior), through which half of the channels leave as latents,
# multiplies them by $e^h$. They leave, the drift falls, and the NLL squares what has left.
#
# Now as pictures. The channels of some activations side by side, grey where they are 0:

# %%
walk = layer_walk(glow, start[one : one + 1], worst[one : one + 1])
stops = {"squeeze": 0, "step 1": 3, "step 4": 12, "step 8": last - 1, "prior": last,
         "level 2, end": max(k for k, level in enumerate(levels) if level == 2)}  # fmt: skip
figure, axes = plt.subplots(2, 6, figsize=(11, 3.4))
for (title, k), (top, bottom) in zip(stops.items(), axes.T, strict=True):
    scale = 3 * walk.clean[k].square().mean().sqrt().item()
    tiled(top, walk.clean[k], scale, title)
    tiled(bottom, walk.attacked[k], scale)
alt = (
    "Six stops in a Glow, clean above and attacked below: at the squeeze both show the "
    "photograph, along level 1 the attacked one fills with texture, at the prior its leaving "
    "channels are saturated black and white."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Above the clean crop, below the attacked one. At the squeeze nobody could tell them apart;
# step by step the lower row fills with texture of its own; at the prior half of its channels are saturated.
# Walk through all layers yourself; the flow has been run, the slider only draws:

# %% tags=["widget"]
layer_explorer(glow, start[one : one + 1], worst[one : one + 1])

# %% [markdown]
# ## 5. Is it the gradient that fools us?
#
# > "(2) applying the linear Gaussian attack to the non-linear case" (section 5, of the supplement)
#
# If a model's gradients are useless ([masked](../docs/glossary.md#gradient-masking)), attacks find less than there is: that would overstate
# robustness, never *fragility*, for the attacked images are there, and their density is exact. How much do
# others find? [Square](../docs/glossary.md#square) uses no gradient: it tries random squares and keeps what helps. And the optimal
# perturbation of a **Gaussian** fitted to training crops (notebook 01) knows nothing about Glow at all.

# %% tags=["predict"]
predict("blind", "Which comes closer to twenty steps of PGD?",
        options=["Square, 100 queries", "the Gaussian's worst"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
train = data.load(size["images"], limit=1500)
gaussian = GaussianFlow.fit(dequantize(train, seeded(5)), ridge=1e-6)
ball, few = LinfBall(4 / 256), start[:16]
blind = {"using": attacks.square, "generator": seeded(6), "num_steps": 100}
tried = {
    "the Gaussian's worst": attacks.linear_attack(glow.log_prob, gaussian, few, ball),
    "Square, 100 queries": lower_likelihood(glow.log_prob, few, ball, **blind),
    "PGD, 20 steps": lower_likelihood(glow.log_prob, few, ball, num_steps=20),
}
results = {"clean": glow.bits_per_dim(few).detach()}
results |= {name: bits_per_dim(-a.value, glow.num_dims) for name, a in tried.items()}
figure, ax = plt.subplots(figsize=(9, 3.2))
plots.before_after(ax, results, [plots.DATA, plots.THEORY, plots.NOISE, plots.ATTACK], log=True)
ax.set_xlabel("NLL (bits/dim) at eps 4, one mark per image")
alt = (
    "Four rows of NLLs at eps 4: clean near 4, the Gaussian's worst and Square between 5 and 7, "
    "PGD from 40 to 500."
)
plots.show(figure, alt)
middle = {name: v.median().item() for name, v in results.items()}
outcome("blind", max(list(middle)[1:3], key=middle.get))
check("Square's median is a share of {} of PGD's", middle["Square, 100 queries"] / middle["PGD, 20 steps"],
      at_most=0.5, digits=1)  # fmt: skip

# %% [markdown]
# Square, with five times the evaluations and no gradient, stays far behind PGD. That says little: a hundred
# queries are few in 3,072 dimensions. The Gaussian's perturbation *transfers*: computed in closed form and
# without a single look at Glow, it does more than Square with its hundred. What makes natural images
# fragile is partly in their covariance, the subject of notebooks 01 to 03.
#
# ## 6. What makes a likelihood explode?
#
# > "$2.0 \times 10^6$" (Table 1, the clean Glow at $\epsilon = 8$)
#
# No page of the paper says why. Two scales of the published Glow have no bound: a coupling's
# $s = \mathrm{sigmoid}(h + 2)$ may come as close to 0 as it likes, so that an attack on $h$ can lift it by
# any factor, and the prior multiplies what leaves by $e^h$. A bound on either is one line of code. A small
# Glow was trained clean on 16x16 images with both, either or none, by three optimizers (Adam, [Adamax](../docs/glossary.md#adam-adamax), [Muon](../docs/glossary.md#muon)), for several lengths,
# and put under twenty steps of PGD ([the whole grid](../docs/explosion.md)).

# %% tags=["predict"]
predict("scale", "Which scale makes it explode?",
        options=["the coupling's", "the prior's", "both alike"])  # fmt: skip

# %%
path = Path("../results/explosion.json")
grid = [r for r in json.loads(path.read_text(encoding="utf-8"))["rows"] if "mean" in r]
rows = [r for r in grid if r["set"] == "photos"]  # CIFAR-10 looks alike: the page has it
names = {("bounded", "bounded"): "both bounded", ("bounded", "free"): "prior free",
         ("free", "bounded"): "couplings free", ("free", "free"): "both free, as published"}  # fmt: skip
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.8), sharex=True, sharey=True)
colors, styles = (plots.DATA, plots.RAISE, plots.HYBRID, plots.ATTACK), ("o-", "s--", "^-.", "D:")
for ax, optimizer in zip(axes, ("adam", "adamax", "muon"), strict=True):
    for form, color, style in zip(names, colors, styles, strict=True):
        of = [r for r in rows if (r["optimizer"], r["coupling"], r["prior"]) == (optimizer, *form)]
        ax.plot([r["steps"] for r in of], [r["mean"][-1] for r in of], style[0], color=color, ms=3)
        steps = sorted({r["steps"] for r in of})
        means = [geometric_mean(r["mean"][-1] for r in of if r["steps"] == n) for n in steps]
        ax.plot(steps, means, style, color=color, label=names[form])
    ax.set(title=optimizer, xlabel="training steps", yscale="log")
axes[0].set_ylabel("mean bits/dim at eps 8")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
alt = (
    "Three panels, one per optimizer: mean bits/dim at eps 8 against training steps. The two "
    "lines with a free prior lie powers of ten above the two with a bounded one."
)
plots.show(figure, alt)

# %% [markdown]
# Each mark is one training run on photographs; lines join geometric means. They fall into two bundles, and what
# tells them apart is the prior (the next cell compares runs that differ in nothing else, on CIFAR-10 as
# well). So the [explosion](../docs/glossary.md#explosion) is not a law of flows: in this grid (one small Glow, up to three seeds and 4,500
# steps) it is one exponential, $e^h$, where an attack that *adds* to $h$ *multiplies* the latent. Its bound
# takes powers of ten off the explosion, without any adversarial training and for little on clean images: a few
# hundredths of a bit in the median, two tenths on CIFAR-10 by Adam, next to none at the size that ships. A first,
# nearly free defence. The couplings' bound, which looked as likely, does next to nothing. Neither makes a flow
# robust; that is notebook 07's subject.

# %%
keys = ("coupling", "prior", "optimizer", "steps", "set", "seed")
by = {tuple(r[k] for k in keys): r["mean"] for r in grid}


def freed(*form):
    """Powers of ten at eps 8, and clean bits/dim, beyond both bounded: medians over pairs."""
    pairs = [(v, by["bounded", "bounded", *k[2:]]) for k, v in by.items() if k[:2] == form]
    more = torch.tensor([(torch.tensor(v[-1] / b[-1]).log10(), b[0] - v[0]) for v, b in pairs])
    return more.quantile(0.5, 0)


prior, couplings = freed("bounded", "free"), freed("free", "bounded")
outcome("scale", "the prior's" if prior[0] > 10 * couplings[0].abs() else "both alike")
check("a free prior adds {} powers of ten and wins {} bits/dim clean", *prior, at_least=1)
check("free couplings change {} powers of ten", couplings[0].abs(), at_most=0.1, digits=1)
shares = {p: torch.tensor([r["latent_shares"][0] for r in grid if r["prior"] == p]).quantile(0.5)
          for p in ("free", "bounded")}  # fmt: skip
check("free, latents of level 1 carry {} of the rise, bounded {}", shares["free"], shares["bounded"],
      at_least=0.9)  # fmt: skip
calibration()


# %%
def record(name):
    rows = json.loads(Path(f"../results/attack-{name}.json").read_text(encoding="utf-8"))["rows"]
    means = [row["mean"] for row in rows if row["row"] in ("clean", "attacked")]
    return f"{means[0]:.1f} to {lessons.rounded(means[-1])}"


verdicts([
    ("\"in-distribution attacks are effective even at low $\\epsilon$ values\"", "5",
     "at one grey level already 5 times what noise costs, or more", "agrees, on photographs"),
    ("\"much higher compared to the uniform noise baseline\"", "5", "at every eps", "agrees"),
    ("clean Glow: 3.4 to $2.0 \\times 10^6$ at eps 8", "Table 1",
     f"20 steps: published form {record('glow-cifar10-published-clean')} on CIFAR-10, "
     f"{record('glow-photos-published-clean')} on photographs; bounded "
     f"{record('glow-cifar10-clean')} and {record('glow-photos-clean')}",
     "agrees, for the published form"),
    ("raised noise is \"on-par with … in-distribution samples\" at eps 8", "5",
     "still above every photograph", "disagrees"),
    ("noise labelled below the floors of beat 2", "Figures 4, 5", "no mean of ours is",
     "cannot say: the unit is in doubt"),
    ("\"applying the linear Gaussian attack to the non-linear case\"", "supplement",
     "it transfers to Glow", "cannot say: the supplement is not at hand"),
])  # fmt: skip

# %% [markdown]
# The records behind the third row attacked more crops, by twenty steps.
# ([The paper, item by item](../docs/paper.md); [errata](../docs/errata.md), rows 11 and 14.)
#
# ## What you learned
#
# * The NLL of this Glow explodes under a few grey levels; how much, depends on the scale of its priors.
# * Three yardsticks belong beside such numbers: uniform noise, the Gibbs floor, a uniform ceiling.
# * Raising the likelihood of noise works too, though it did not reach the photographs; together the two
#   attacks turn a perfect detector upside down.
# * The latents of the finest level explode, not the volumes: amplification, then squared.

# %% [markdown]
# ## Exercises
#
# ### 1. PGD in five lines
#
# Write `pgd_five(log_prob, x, radius, steps)`: start at `x`; each step moves a quarter of the radius along
# the sign of the gradient of $-\log p$, then clips to the ball and to $[0, 1]$; return the last.
#
# <details><summary>Hint 1</summary><code>torch.autograd.grad(-log_prob(y).sum(), y)</code>, for a y that
# asks for its gradient.</details>
# <details><summary>Hint 2</summary>The ball is a box around x: <code>y.clamp(x - radius, x + radius)</code>.</details>

# %%
pgd_five = None  # your function
some, r = start[:6], 4 / 256


def reached(y):
    return bits_per_dim(glow.log_prob(y).detach(), glow.num_dims).mean()


plain = {"num_steps": 10, "step_size": r / 4, "schedule": "constant"}
theirs = lower_likelihood(glow.log_prob, some, LinfBall(r), **plain)
if pgd_five is not None:
    grade(reached(pgd_five(glow.log_prob, some, r, 10)), reached(theirs.x), within=0.05)


# %% tags=["solution", "nbval-ignore-output"]
def pgd_five(log_prob, x, radius, steps):
    y = x
    for _ in range(steps):
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(-log_prob(y).sum(), y)
        y = (y + radius / 4 * slope.sign()).clamp(x - radius, x + radius).clamp(0, 1)
    return y.detach()


grade(reached(pgd_five(glow.log_prob, some, r, 10)), reached(theirs.x), within=0.05)
# The sign is the steepest direction of this ball: every value moves as far as it may.

# %% [markdown]
# ### 2. The same in a round ball
#
# Keep the Euclidean length instead: $|\delta|_2 \le 0.5/256 \cdot \sqrt{3072}$, as long as if *every* value
# moved by half a grey level. Write `pgd_round(log_prob, x, radius, steps)`, with steps of a quarter of the
# radius along $g/|g|$. Does it find more than the cube of half a grey level, which lies inside?
#
# <details><summary>Hint 1</summary>Norms are taken image by image: <code>g.flatten(1).norm(dim=1)</code>,
# shaped (n, 1, 1, 1).</details>
# <details><summary>Hint 2</summary>Back into the ball: multiply the change by radius over its length where that is
# below 1. Then clamp to [0, 1].</details>

# %%
pgd_round = None  # your function
far = 0.5 / 256 * glow.num_dims**0.5
options = {"num_steps": 10, "step_size": far / 4, "schedule": "constant"}
rounder = lower_likelihood(glow.log_prob, some, L2Ball(far), **options).x
if pgd_round is not None:
    grade(reached(pgd_round(glow.log_prob, some, far, 10)), reached(rounder), within=0.05)


# %% tags=["solution", "nbval-ignore-output"]
def pgd_round(log_prob, x, radius, steps):
    length = lambda v: v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)  # noqa: E731
    y = x
    for _ in range(steps):
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(-log_prob(y).sum(), y)
        delta = y - x + radius / 4 * slope / length(slope)
        y = (x + delta * (radius / length(delta)).clamp(max=1)).clamp(0, 1)
    return y.detach()


grade(reached(pgd_round(glow.log_prob, some, far, 10)), reached(rounder), within=0.05)
cube = lower_likelihood(glow.log_prob, some, LinfBall(0.5 / 256), num_steps=10).x
rises = [(reached(y) - reached(some)).item() for y in (rounder, cube)]
check("ten steps in the round ball cost {} times what they cost in the cube inside it",
      rises[0] / rises[1], at_least=2, digits=1)  # fmt: skip
# The round ball holds the cube, and may spend all its length on the few values that matter most.

# %% [markdown]
# ### 3. Why can no defence bring the attacked mean below the floor?
#
# Whatever the density, what is the least mean NLL under the strongest attack at $\epsilon = 4$?
#
# <details><summary>Hint 1</summary>A maximum over the ball is at least a mean over it.</details>
# <details><summary>Hint 2</summary>How many values does integer noise of four grey levels have?</details>

# %%
least_mean = None  # your answer, in bits/dim
grade(least_mean, gibbs_floor(4), within=0.003, unit="bits/dim")

# %% tags=["solution"]
grade(torch.tensor(9.0).log2().item(), gibbs_floor(4), within=0.003, unit="bits/dim")
# The worst image in the ball costs at least what noise costs on average, and that is at least the
# entropy of the noise, whatever the density: 9 values, log2(9) bits each.

# %% [markdown]
# ## Further reading
#
# Croce and Hein, *Reliable Evaluation of Adversarial Robustness* (ICML 2020), for a PGD that sets its own step;
# Andriushchenko et al., *Square Attack* (ECCV 2020); Nalisnick et al., *Do Deep Generative Models
# Know What They Don't Know?* (ICLR 2019), for likelihood as a detector.
