# %% [markdown]
# # Attack RealNVP
#
# | | |
# |---|---|
# | **Do** | attack a second architecture beside the first, compare the two changes, swap them, and draw one by hand |
# | **Learn** | how many steps are enough, which images explode, what survives a change of model, and when an absurd number may be believed |
# | **Need** | [05](05_attack_glow.ipynb): PGD, both attacks, where Glow breaks; [04](04_build_a_flow.ipynb): couplings, squeeze, levels; [03](03_universal_perturbations.ipynb) for its drawn chequerboard |
# | **Minutes on 2 cores** | 25 to read, 1 to run |
# | **Paper sections** | 2.1, 4 and 5: the attack on RealNVP, Table 3 |
#
# Is the fragility of notebook 05 a quirk of Glow? RealNVP mixes pixels in another way. The paper attacks
# it on CelebA (faces) and LSUN Bedroom, for 10, 20 and 50 iterations; we do so live on crops of photographs, and
# in a record on CelebA.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import flowrob
from flowrob import data, flows, lessons, paper, plots, zoo
from flowrob.attacks import LinfBall, lower_likelihood, raise_likelihood, uniform_noise
from flowrob.evaluation import anatomy, bits_per_dim
from flowrob.lessons import calibration, check, grade, outcome, predict, verdicts
from flowrob.units import dequantize
from flowrob.widgets import drift

plots.use_style()
device = flowrob.device()
size = flowrob.scale(device)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %%
FILES = {"RealNVP": "realnvp-photos-clean", "Glow": "glow-photos-published-clean",
         "bounded Glow": "glow-photos-clean"}  # fmt: skip
models = {name: zoo.load(file, device) for name, file in FILES.items()}
x = dequantize(data.load("photos", split="test", limit=size["crops"]), seeded(0)).to(device)
ball, two = LinfBall(8 / 256), ("RealNVP", "Glow")
found = {name: lower_likelihood(m.log_prob, x, ball, num_steps=20) for name, m in models.items()}


def bits(name, y):
    with torch.no_grad():
        return models[name].bits_per_dim(y)


figure, axes = plt.subplots(1, 3, figsize=(8.5, 3.8))
pictures = {"photograph": x, "changed for RealNVP": found["RealNVP"].x, "for Glow": found["Glow"].x}
for ax, (title, y) in zip(axes, pictures.items(), strict=True):
    says = [f"{name}: {lessons.rounded(bits(name, y)[17])} bits/dim" for name in two]
    plots.image(ax, y[17]).set_title("\n".join([title, *says]), fontsize=10)
plots.show(figure, "A crop three times, hardly different: as it is, changed for RealNVP, changed for Glow. Each "
           "model finds the change made for it absurd, the other's far less so.")  # fmt: skip

# %% [markdown]
# One photograph, and two changes of at most eight grey levels, each the end of twenty steps of PGD against
# one model. Each model gives the change made for itself a number beyond anything photographic, and the
# other's one that is far milder. What do they share, and what not?
#
# *Glow* is the published form; its bounded twin, from notebook 05, is called by its full name. What stands
# beside RealNVP is one Glow or two, not the architecture.
#
# ## 1. Another way to cut an image in two
#
# > "RealNVP (Dinh et al., 2017) is designed with *affine coupling layers*, essentially an invertible scale
# > transformation, while GLOW uses *invertible* $1 \times 1$ *convolutions*" (2.1)
#
# A coupling keeps one half of the values, $b = 1$, and lets a network read off it how to scale and shift
# the other half:
#
# $$y = b \odot x + (1 - b) \odot \bigl(x \odot e^{s(b \odot x)} + t(b \odot x)\bigr), \qquad |s| \le 2 .$$
#
# Which half? Glow learns that, by 1x1 convolutions. RealNVP's **masks** $b$ are fixed: three checkerboards
# of pixels, then a squeeze, then three halves of the channels, at each level. So half of the pixels are
# predicted from those around them. In front stands a [logit](../docs/glossary.md#logit), which stretches $[0, 1]$ to the line: $z = \ln\frac{y}{1-y}$
# with $y = 0.05 + 0.9\,x$. The bound on $s$ is ours: a coupling stretches at most $e^2$ times.

# %% tags=["predict"]
print(models["RealNVP"])
steps = {name: zoo.recipe(FILES[name])["settings"]["num_steps"] for name in models}
for name, model in models.items():
    print(f"{name}: {model.num_parameters:,} parameters, {steps[name]} training steps")
predict("hard", "Both models score the same photographs. How strongly do their NLLs correlate?",
        options=[0, 0.5, 0.75, 1])  # fmt: skip

# %%
clean = {name: bits(name, x) for name in models}
grey = torch.linspace(0, 1, 101)
figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), width_ratios=(1, 1, 1.5, 1.5))
for parity in (0, 1):
    plots.image(axes[parity], flows.checkerboard(8, 8, parity), f"mask, parity {parity}")
axes[2].plot(grey, (0.05 + 0.9 * grey).logit(), color=plots.THEORY)
axes[2].set(title="the logit", xlabel="colour value", ylabel="z")
axes[3].plot(clean["RealNVP"].cpu(), clean["Glow"].cpu(), "v", color=plots.DATA, alpha=0.6)
axes[3].axline((4, 4), slope=1, color=plots.THEORY, lw=1)
axes[3].set(title="bits/dim, clean", xlabel="RealNVP", ylabel="Glow")
plots.show(figure, "Two opposite checkerboards of 8 by 8; the logit, nearly straight and steeper at both ends; "
           "the clean bits/dim of 32 crops under both models, along the diagonal.")  # fmt: skip
alike = torch.corrcoef(torch.stack([clean[name] for name in two]))[0, 1]
outcome("hard", alike)
check("the clean NLLs of the two correlate by {}", alike, at_least=0.9)

# %% [markdown]
# **What we see.** White pixels are kept, black ones changed; the next coupling does the opposite. The logit
# is nearly a straight line. On the right each mark is a crop: two networks built by different rules agree,
# image by image, on what is hard, and even on how hard.
#
# ## 2. How many steps are enough?
#
# > "Due to computational constraints, we use a fixed $\epsilon = 8$." (section 5)
#
# What the paper varies in Table 3 is the number of iterations, up to fifty, and its NLLs grow with them. Is
# the ball exhausted then? Each run below is a fresh attack: its steps fall along a cosine from twice the
# radius to 0, so that every run can reach every corner of the ball and settle there.

# %% tags=["predict"]
predict("steps", "From 20 steps to 50: by what factor does RealNVP's median NLL grow?",
        options=[1, 1.3, 2, 10])  # fmt: skip

# %% tags=["nbval-ignore-output"]
STEPS = (0, 10, 20, 50)
runs = STEPS if size["steps"] <= 50 else (*STEPS, size["steps"])
ends = {name: {0: x, 20: found[name].x} for name in two}
for name in two:
    for n in set(runs) - set(ends[name]):
        ends[name][n] = lower_likelihood(models[name].log_prob, x, ball, num_steps=n).x
sweep = {name: torch.stack([bits(name, ends[name][n]) for n in runs]).cpu() for name in two}
noise = uniform_noise(x, 8 / 256, seeded(1))
noisy = {name: bits(name, noise).cpu() for name in models}
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, name in zip(axes, two, strict=True):
    ax.plot(runs, sweep[name].mean(1), "o-", color=plots.ATTACK, label="attacked, mean")
    middle = sweep[name].median(1).values
    ax.plot(runs, middle, "v--", color=plots.ATTACK, label="attacked, median")
    ax.axhline(noisy[name].mean(), ls=":", color=plots.NOISE, label="uniform noise, mean")
    ax.set(title=name, xlabel="attack iterations", yscale="log")
axes[0].set_ylabel("NLL (bits/dim) at eps 8")
axes[0].legend()
plots.show(figure, "NLL against iterations, logarithmic. RealNVP's median grows to hundreds and its mean to "
           "tens of thousands; Glow's median and mean grow together; noise stays near 6.")  # fmt: skip

# %% [markdown]
# **What we see.** Left RealNVP, right Glow, on the same crops under the same attack; dotted, uniform noise of
# the same size. After twenty steps neither has come to its end. RealNVP's *mean* (circles) leaves its *median*
# (triangles) behind by orders of magnitude. Thirty-two crops are few, so here is a longer record, on 64 crops
# and on 64 faces of CelebA, beside what the paper prints:

# %%
path = Path("../results/table-3-laptop.json")
rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
record = {(of, statistic): [row[statistic] for row in rows if of in row["model"]
                            and row["row"] in ("clean", "pgd-10", "pgd-20", "pgd-50")]
          for of in ("celeba", "photos") for statistic in ("mean", "median")}  # fmt: skip
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, (of, title) in zip(axes, (("celeba", "CelebA"), ("photos", "photographs")), strict=True):
    ax.plot(STEPS, record[of, "mean"], "o-", color=plots.ATTACK, label="our record, mean")
    ax.plot(STEPS, record[of, "median"], "v--", color=plots.ATTACK, label="our record, median")
    ax.set(title=title, xlabel="attack iterations", yscale="log")
axes[0].plot(STEPS, paper.TABLE_3[0].nll, "^:", color=plots.THEORY, label="paper, CelebA, mean")
axes[1].plot(STEPS, paper.TABLE_3[1].nll, "s:", color=plots.THEORY, label="paper, LSUN, mean")
for ax in axes:
    ax.set_ylim(1.5, 2e6)
    ax.legend(loc="upper left")
axes[0].set_ylabel("NLL (bits/dim) at eps 8")
plots.show(figure, "Left, CelebA: the paper's mean and our median rise side by side from 3 to 25 and 37, our mean "
           "to 1,500. Right: on photographs the median reaches 200, the mean falls again after 20.")  # fmt: skip

# %% [markdown]
# On CelebA (left) our median and the paper's mean grow alike; our mean is far above. On the photographs
# (right; the paper's column is from other images, LSUN Bedroom) even the median is far above, and the mean,
# which few crops carry, falls from twenty steps to fifty, for each run is a fresh attack. So *growth* is as
# in the paper as far as medians go, and *levels* are not.

# %% tags=["nbval-ignore-output"]
growth = {name: sweep[name][3].median() / sweep[name][2].median() for name in two}
outcome("steps", growth["RealNVP"])
check("from 20 steps to 50 RealNVP's median grows {} times, Glow's {}", *growth.values(), at_least=1.3,
      digits=1)  # fmt: skip
for name in two:
    gain = (sweep[name][1] - sweep[name][0]).median() / (noisy[name] - sweep[name][0]).median()
    check(f"ten steps cost {name} {{}} times what noise costs", gain, at_least=5, digits=1)
    again = bits_per_dim(-found[name].value, models[name].num_dims).cpu()
    off = (sweep[name][2] / again - 1).abs().max()
    check("the attack's own score, in float64, and a fresh one differ by a share of {}", off,
          at_most=0.01, noise=True)  # fmt: skip

# %% [markdown]
# ## 3. Which images explode?
#
# > "we report average sample likelihood scores (in bits/per dimension), averaged over the test set" (section 5)
#
# If a few crops carry the mean, which ones? Notebook 08 is about such means; here we only ask whether one
# can tell beforehand. We score all test crops clean, and attack the eight *most* probable and the eight
# *least* probable of them, too.

# %% tags=["predict"]
crops = dequantize(data.load("photos", split="test"), seeded(0)).to(device)
scores = torch.cat([bits("RealNVP", part) for part in crops.split(64)])
order = scores.argsort()
predict("who", "Which crops has the attack driven further out in the end?",
        options=["the most probable", "the least probable", "neither"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
smooth, busy = crops[order[:8]], crops[order[-8:]]
darker = (smooth - 0.15).clamp(0, 1)
groups = {"most probable": smooth, "the same, darker": darker, "least probable": busy}
after = {}
for name in two:
    for group, start in groups.items():
        y = lower_likelihood(models[name].log_prob, start, ball, num_steps=20).x
        after[name, group] = bits(name, y).cpu()
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
for (group, start), color in zip(groups.items(), (plots.RAISE, plots.THEORY, plots.HYBRID)):
    look = {"marker": plots.MARK[color], "ls": "", "color": color, "label": group}
    axes[0].plot(bits("RealNVP", start).cpu(), after["RealNVP", group], **look)
    axes[1].plot(after["RealNVP", group], after["Glow", group], **look)
label = f"the {len(x)} crops"
many = {"marker": "o", "ls": "", "color": plots.ATTACK, "alpha": 0.5, "label": label}
axes[0].plot(clean["RealNVP"].cpu(), sweep["RealNVP"][2], **many)
axes[1].plot(sweep["RealNVP"][2], sweep["Glow"][2], **many)
axes[0].set(yscale="log", xlabel="RealNVP, clean (bits/dim)", ylabel="RealNVP, attacked at eps 8")
axes[1].set(xscale="log", yscale="log", xlabel="RealNVP, attacked", ylabel="Glow, attacked")
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper left", ncols=4)
plots.show(figure, "Left: attacked against clean NLL; the most probable crops lie highest, most above 10,000, darker "
           "ones near 10,000, the least probable near 30. Right: attacked Glow against attacked RealNVP, a "
           "loose cloud.")  # fmt: skip

# %% [markdown]
# **What we see.** Left: the crops that RealNVP finds *most* probable end highest, some powers of ten above the
# least probable. The likeliest are pale, smooth sky (one is a dark wall), the least likely roof tiles and
# leaves. A likely reason: where a photograph has grain of its own the model is broad, and grain added to it
# is not far out; where it is smooth the model is sharp.
#
# But is it smoothness, or being pale? The diamonds are the same crops, darker by 0.15: that sky is just as
# smooth and just as probable, but further from white, where the logit is steep. It ends far lower, and still
# far above the tiles: to RealNVP both count. Right: Glow, which has no logit, does not mind whether sky is
# dark. Under attack the two models agree less than on clean crops, where the marks lay on a line.

# %% tags=["nbval-ignore-output"]
middle = {key: values.median() for key, values in after.items()}
far = {name: [middle[name, g] / middle[name, "least probable"] for g in groups] for name in two}
outcome("who", "the most probable" if min(far["RealNVP"][0], far["Glow"][0]) > 2 else "neither")
for name in two:
    check(f"{name}, 20 steps: the likeliest end {{}} times as far out as the least likely, darker {{}} times",
          far[name][0], far[name][1], at_least=3, digits=1)  # fmt: skip
above = int((sweep["RealNVP"][3] > sweep["RealNVP"][3].mean()).sum())
check(f"{{}} of {len(x)} crops lie above RealNVP's mean", above, at_most=len(x) // 4)

# %% [markdown]
# ## 4. The same texture, or the same pattern?
#
# > "RealNVP is also susceptible to adversarial attacks, similar to GLOW models." (section 5)
#
# Similar how? Both changes live in the same ball around the same photograph. Two yardsticks: the **cosine**
# of two changes, 1 for equal patterns and 0 for unrelated ones; and the
# [spectrum](../docs/glossary.md#radial-spectrum), the power (squared amplitude) at each number of waves
# across the image, which tells the scale of a texture and nothing about its place.

# %% tags=["predict"]
predict("side", "What share of the colour values do both attacks, on RealNVP and on Glow, move to the same "
        "side? (By chance one half.)", options=[0.5, 0.55, 0.7, 0.9])  # fmt: skip

# %% tags=["nbval-ignore-output"]
change = {name: (found[name].x - x).cpu() for name in models}
frequency = torch.fft.fftfreq(32) * 32
ring = frequency[:, None].hypot(frequency[None]).round().long().flatten()


def spectrum(delta):  # power by waves across the image, over that of white noise
    power = torch.fft.fft2(delta).abs().square().mean((0, 1)).flatten()
    return torch.bincount(ring, power / power.mean()) / torch.bincount(ring)


figure, axes = plt.subplots(1, 4, figsize=(11.5, 3), width_ratios=(1, 1, 1, 1.8))
looks = zip(models, (plots.ATTACK, plots.RAISE, plots.HYBRID), axes, strict=False)
for name, color, ax in looks:
    plots.image(ax, plots.signed(change[name][17], 8 / 256), name)
    line = {"color": color, "marker": plots.MARK[color], "ls": plots.DASH[color], "ms": 4}
    axes[3].plot(spectrum(change[name]), label=name, **line)
axes[3].axhline(1, color=plots.NOISE, ls=":", label="white noise")
axes[3].set(yscale="log", xlabel="waves across the image", ylabel="power")
axes[3].legend(fontsize=9)
plots.show(figure, "Three changes of one crop, all fine textures of green and magenta. Their spectra run alike: "
           "below white noise from 2 to 14 waves, a small peak at 16, a steep one at the corner, 23.")  # fmt: skip

# %% [markdown]
# **What we see.** Grey is no change, full colour eight grey levels. All three are textures at the scale of
# single pixels, green against magenta. Their spectra run together: low where photographs are strong (but for a
# shade over the whole image, 0 waves), with peaks at the finest stripes (16) and the finest chequers
# ($16\sqrt2$, about 23). That is the motif of notebook 03. Yet pixel by pixel they have little in common (the
# next cell), and the two Glows share no more with each other than the published one does with RealNVP. It
# looks as if the *texture* belonged to the photographs, and the *pattern* to the weights.
#
# If so, a drawing of that texture, without any model, should do harm; and an attack made for one model
# should do less to another than to its own. The drawing is a chequerboard of eight grey levels, green
# against magenta, with one sign for all crops, chosen on training crops.

# %% tags=["predict", "nbval-ignore-output"]
flat = {name: delta.flatten(1) for name, delta in change.items()}
pairs = (("RealNVP", "Glow"), ("RealNVP", "bounded Glow"), ("Glow", "bounded Glow"))
cosine = [torch.cosine_similarity(flat[a], flat[b]).median().item() for a, b in pairs]
outcome("side", (flat["RealNVP"].sign() == flat["Glow"].sign()).double().mean().item())
check("cosines: RealNVP with Glow {}, with the bounded Glow {}, the two Glows {}", *cosine, at_least=0.03,
      at_most=0.3)  # fmt: skip
magenta = torch.tensor([-1.0, 2.0, -1.0]) / 6**0.5
share = [(torch.einsum("nchw,c->nhw", d, magenta).square().sum() / d.square().sum()).item()
         for d in change.values()]  # fmt: skip
check("of the power {}, {}, {} lie between green and magenta, not a third", *share, at_least=0.45)
predict("drawn", "Which costs RealNVP more: the attack that was made for Glow, or the drawing?",
        options=["Glow's attack", "the drawing", "about the same"])  # fmt: skip

# %% tags=["nbval-ignore-output"]
row = torch.arange(32)
board = (-1.0) ** (row[:, None] + row) * torch.tensor([-1.0, 1.0, -1.0])[:, None, None]
board = board.to(device)
train = dequantize(data.load("photos", limit=16), seeded(3)).to(device)


def drawn(name, pattern, y=x):
    """Crops with eight grey levels of a pattern, in the sign that hurts training crops more."""
    hurts = {s: bits(name, (train + s * 8 / 256 * pattern).clamp(0, 1)).median() for s in (1, -1)}
    return (y + max(hurts, key=hurts.get) * 8 / 256 * pattern).clamp(0, 1)


shown = {}
for name, other in (two, two[::-1]):
    tried = {"noise": noise, f"{other}'s attack": found[other].x, "a drawing": drawn(name, board),
             "bounded Glow's": found["bounded Glow"].x, "own attack": found[name].x}  # fmt: skip
    shown[name] = {"clean": clean[name].cpu()} | {k: bits(name, y).cpu() for k, y in tried.items()}
colors = (plots.DATA, plots.NOISE, plots.RAISE, plots.THEORY, plots.HYBRID, plots.ATTACK)
figure, axes = plt.subplots(1, 2, figsize=(11.5, 3.6))
for ax, name in zip(axes, two, strict=True):
    plots.before_after(ax, shown[name], colors, log=True).set(title=name, xlabel="NLL (bits/dim)")
plots.show(figure, "Six rows for each model: clean, noise, the other's attack, a drawing, the bounded Glow's attack, "
           "its own. The other's lies a little right of noise, the drawing further, its own far right.")  # fmt: skip

# %% [markdown]
# **What we see.** Every row stands for the same 32 crops, changed within the same ball. What was made for
# another model costs more than noise, and a small share of what the model's own attack costs, in both
# directions: it [transfers](../docs/glossary.md#transfer) a little. The drawing, one pattern for all crops and
# made by nobody's gradient, costs *more* than attacks borrowed from another network. (Twenty steps, one
# strength, three models: that is all that was tried. Notebook 09 has six models at two grey levels.)

# %% tags=["nbval-ignore-output"]
rise = {m: {k: (v - shown[m]["clean"]).median() for k, v in shown[m].items()} for m in two}
better = rise["RealNVP"]["a drawing"] / rise["RealNVP"]["Glow's attack"]
outcome("drawn", "the drawing" if better > 1.2 else "about the same")
for name, other in (two, two[::-1]):
    borrowed, own = rise[name][f"{other}'s attack"], rise[name]["own attack"]
    check(f"{other}'s attack costs {name} {{}} times what noise costs", borrowed / rise[name]["noise"],
          at_least=1.5, digits=1)  # fmt: skip
    check("and a share of {} of what its own costs", borrowed / own, at_most=0.2, digits=1)
    check("the drawing costs it {} times as much as the borrowed attack", rise[name]["a drawing"] / borrowed,
          at_least=1.5, digits=1)  # fmt: skip

# %% [markdown]
# ## 5. Both types of attacks?
#
# > "We find that GLOW and RealNVP are extremely sensitive to both types of attacks." (abstract)
#
# The main text tries one type on RealNVP, the one that lowers. We try the other: start from pure noise, and
# raise its likelihood.

# %% tags=["predict"]
static = torch.rand(16, 3, 32, 32, generator=seeded(5)).to(device)
predict("raised", "Photographs have about 4 bits/dim, pure noise 11 to RealNVP. After twenty steps up, within "
        "eight grey levels?", options=[4, 7, 9, 11])  # fmt: skip

# %% tags=["nbval-ignore-output"]
lifted, marks = {}, {}
for name in two:
    y = raise_likelihood(models[name].log_prob, static, ball, num_steps=20).x
    lifted[name] = bits(name, y).cpu()
    marks |= {f"{name}: noise": bits(name, static).cpu(), f"{name}: raised": lifted[name]}
    marks[f"{name}: photographs"] = clean[name].cpu()
figure, ax = plt.subplots(figsize=(8.5, 3.4))
plots.before_after(ax, marks, [plots.NOISE, plots.RAISE, plots.DATA] * 2)
ax.set_xlabel("NLL (bits/dim), twenty steps at eps 8")
plots.show(figure, "Noise, raised noise and photographs under RealNVP, then under Glow: raised noise moves left by a "
           "fifth or more and stays well right of the photographs.")  # fmt: skip
outcome("raised", lifted["RealNVP"].median(), digits=1)
for name in two:
    gap = lifted[name].min() - clean[name].max().cpu()
    check(f"to {name} raised noise stays {{}} bits/dim above all crops", gap, at_least=1, digits=1)

# %% [markdown]
# **What we see.** To RealNVP pure noise is less strange than to Glow from the start, and twenty steps make it
# less so. In odds that is a lot, as all bits/dim of an image are; but neither model is fooled: raised noise
# stays above every photograph. (After twenty steps; a longer attack may find more.)
#
# ## 6. Where it breaks, and whether the number can be trusted
#
# > "Since $f$ is invertible, inference can be performed as $\mathbf z = f^{-1}(\mathbf x)$." (2.1)
#
# An NLL in the thousands raises a suspicion: is it the model, or rounding error? If activations explode, can
# the flow still be inverted? First where they explode; level 1 is the finest.

# %% tags=["nbval-ignore-output"]
report = anatomy(models["RealNVP"], x, found["RealNVP"].x)
of = torch.tensor([level for level, _ in report.layers])
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.4))
levels = {f"level {i}": rise_.cpu() for i, rise_ in enumerate(report.latent, start=1)}
plots.before_after(axes[0], levels, [plots.ATTACK] * 3, log=True)
axes[0].set_xlabel("rise of the latents' share (bits/dim)")
drift(axes[1], of, report.distance.median(1).values.cpu())
plots.show(figure, "Left: the latents' rise by level, one mark per crop: most at level 1, some at level 3. Right: the "
           "distance between clean and attacked activations climbs along level 1 and again along level 3.")  # fmt: skip
first = report.latent.argmax(0).bincount(minlength=3)
check("level 1 breaks most for {} crops, level 2 for {}, 3 for {}", *first.tolist(), at_least=10)
volume = report.log_det.sum(0).abs().median() / report.latent.sum(0).median()
check("volumes move by a share of {} of what latents do", volume, at_most=0.05, digits=1)

# %% [markdown]
# **What we see.** Left: the latents of the finest level carry most of the rise in more than half of the crops,
# those of the coarsest level in most others. Right: the differences are amplified step by step along level 1,
# with a peak in the last coupling before half of the latents leave, much as in Glow, and once more along
# level 3. Volumes hardly count: every $|s|$ is at most 2.
#
# Now the suspicion. If the flow still inverts in double precision, and the NLL is the same in single and
# double, then the number is the model's own, even where single precision loses the way back. The table
# below takes levels and growth from the record.

# %% tags=["nbval-ignore-output"]
for name in two:
    y, double = found[name].x[:16], zoo.load(FILES[name], "cpu").double()
    trip = flows.invertibility(models[name], y)
    check(f"{name}: round trip in float64 off by {{}}", trip.float64, at_most=1e-6, noise=True)
    check("in float32 by {} grey levels", min(256 * trip.float32, 1000.0), at_least=1, digits=1)
    gap = (bits(name, y).cpu() / double.bits_per_dim(y.cpu().double()).detach() - 1).abs().max()
    check("the NLL moves by a share of {} from one to the other", gap, at_most=0.01, noise=True)

# %%
of_paper, ours = paper.TABLE_3[0].nll, record["celeba", "median"]
text = lessons.rounded
calibration()
verdicts([
    ("\"RealNVP is also susceptible to adversarial attacks, similar to GLOW models\"", "5",
     f"20 steps, photographs: median {record['photos', 'median'][0]:.1f} to {record['photos', 'median'][2]:.0f}",
     "agrees"),
    (f"the NLL grows with the iterations: {', '.join(map(str, of_paper))}, CelebA", "Table 3",
     f"medians {', '.join(f'{v:.1f}' for v in ours)}, still growing at fifty", "agrees"),
    (f"{of_paper[3]} on CelebA after 50 iterations", "Table 3",
     f"mean {text(record['celeba', 'mean'][3])}, median {ours[3]:.0f}", "disagrees, in level"),
    (f"noise: {paper.TABLE_3[0].noise} on CelebA, far below the attack", "Table 3",
     f"{noisy['RealNVP'].mean():.1f} on photographs, far below the attack", "agrees"),
    ("\"extremely sensitive to both types of attacks\"", "abstract",
     f"both move, but noise raised to {lifted['RealNVP'].median():.0f} is no photograph", "agrees, in part"),
    ("(do they share their weakness?)", "", "a texture, not a pattern; a drawing beats a borrowed attack",
     "our question"),
    ("Table 3, LSUN Bedroom", "Table 3", "not run", "cannot say: these images are not at hand"),
])  # fmt: skip

# %% [markdown]
# ## What you learned
#
# * How many steps are enough depends on the model: at fifty both are still growing. A table of attacked
#   likelihoods states its steps, mean and median.
# * The likelier a photograph, the further out twenty steps drove it: smooth ones, and for RealNVP pale ones.
# * The attacks share a texture, pixel by pixel and green against magenta, and little of the pattern. They transfer
#   a little; a drawing of the texture does more.
# * Both models fail in their latents, by amplification. Before believing an absurd number, score it in float64.
#
# [The paper, item by item](../docs/paper.md); [errata](../docs/errata.md).

# %% [markdown]
# ## Exercises
#
# ### 1. Beat the drawn chequerboard
#
# Draw a pattern of +1 and -1, shape (3, 32, 32), that costs RealNVP at least *twice* the bits of the
# chequerboard, as one pattern for all crops at eight grey levels. No gradients.
#
# <details><summary>Hint 1</summary>Which other peak has the spectrum of beat 4?</details>
# <details><summary>Hint 2</summary>Sixteen waves across the image are stripes of one pixel. Keep the colours;
# try both directions.</details>

# %%
my_pattern = None  # your drawing


def costs(pattern):
    """Median rise of RealNVP's NLL in bits/dim."""
    return (bits("RealNVP", drawn("RealNVP", pattern.to(device))) - clean["RealNVP"]).median()


goal = 2 * costs(board)
mine = None if my_pattern is None else costs(my_pattern.sign()).clamp(max=goal)
grade(mine, goal, unit="bits/dim or more")

# %% tags=["solution", "nbval-ignore-output"]
stripes = ((-1.0) ** row).expand(32, 32) * torch.tensor([-1.0, 1.0, -1.0])[:, None, None]
rotated = stripes.transpose(1, 2)
check("columns cost {} bits/dim, rows {}, the chequerboard {}", costs(stripes), costs(rotated), costs(board),
      at_least=goal.item(), digits=1)  # fmt: skip
# Neighbours differ least in their balance of colours: any pattern that alternates there, at one pixel, is rare
# in photographs. Which of them a network minds most, and in which sign, its own weights decide.

# %% [markdown]
# ### 2. Find a photograph that cannot be driven far
#
# Find the number $k$ of a test crop, `crops[k]`, that twenty steps at eight grey levels leave below 35
# bits/dim under RealNVP. (Attacks find lower bounds: a longer one would find more.)
#
# <details><summary>Hint 1</summary>Beat 3 says what such a crop looks like before the attack.</details>
# <details><summary>Hint 2</summary><code>order[-8:]</code> are the numbers of the least probable ones; about half
# of them will do.</details>

# %%
k = None  # your number


def reached(k):
    y = lower_likelihood(models["RealNVP"].log_prob, crops[k : k + 1], ball, num_steps=20).x
    return bits("RealNVP", y).item()


grade(None if k is None else max(reached(k), 35.0), 35.0, unit="bits/dim or less")

# %% tags=["solution", "nbval-ignore-output"]
k = order[-8:][after["RealNVP", "least probable"].argmin()].item()
check(f"after 20 steps crop {k} is at {{}} bits/dim", reached(k), at_most=35, digits=1)
grade(max(reached(k), 35.0), 35.0, unit="bits/dim or less")
# Tiles and leaves: the model has learned to expect grain there, and an attack adds little but grain.

# %% [markdown]
# ### 3. Why does the logit in front not protect RealNVP?
#
# By how many bits per colour value can the logit's own volume, $\log_2 \frac{dz}{dx}$, change at most within
# eight grey levels?
#
# <details><summary>Hint 1</summary>With y = 0.05 + 0.9 x its slope is 0.9 / (y (1 - y)).</details>
# <details><summary>Hint 2</summary>The slope is steepest at x = 0. Compare x = 0 with x = 8/256.</details>

# %%
most_bits = None  # your number
level = torch.linspace(0, 1 - 8 / 256, 4001, dtype=torch.float64)
slope = {s: 0.9 / ((0.05 + 0.9 * (level + s)) * (0.95 - 0.9 * (level + s))) for s in (0, 8 / 256)}
truth = (slope[0] / slope[8 / 256]).log2().abs().max()
grade(most_bits, truth, within=0.02, unit="bits")

# %% tags=["solution"]
y = 0.05 + 0.9 * 8 / 256
grade(torch.tensor(y * (1 - y) / (0.05 * 0.95)).log2().item(), truth, within=0.02, unit="bits")
# A fixed, smooth map: less than a bit per value. It rescales the ball, which makes white a little worse.

# %% [markdown]
# ## Further reading
#
# Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP* (ICLR 2017); Behrmann et al.,
# *Understanding and Mitigating Exploding Inverses in Invertible Neural Networks* (AISTATS 2021), on
# why the inverse is the first thing to check.
