# %% [markdown]
# # Attack RealNVP
#
# | | |
# |---|---|
# | **Do** | attack a second architecture, step by step, beside the first |
# | **Learn** | how many attack steps are enough, what survives a change of model, and what does not |
# | **Need** | [05](05_attack_glow.ipynb) |
# | **Minutes on 2 cores** | 15 to read, under 1 to run |
# | **Paper sections** | 4 and 5: the attack on RealNVP, Table 3 |
#
# Is the fragility of notebook 05 a quirk of Glow? RealNVP mixes pixels differently: checkerboards
# and channel halves in fixed order instead of learned 1x1 convolutions, residual networks inside
# the couplings, and a logit in front that turns $[0, 1]$ into the line. The paper attacks it with 0,
# 10, 20 and 50 iterations; so do we.

# %%
import matplotlib.pyplot as plt
import torch

import flowrob
from flowrob import data, plots, zoo
from flowrob.attacks import LinfBall, lower_likelihood, uniform_noise
from flowrob.evaluation import anatomy, bits_per_dim
from flowrob.flows import invertibility
from flowrob.units import dequantize

plots.use_style()
device = flowrob.device()

# %%
names = {"RealNVP": "realnvp-photos-clean", "Glow": "glow-photos-adam"}
models = {name: zoo.load(names[name], device) for name in names}
print(models["RealNVP"])

# %% [markdown]
# Both models saw the same training crops. They differ in training steps as their recipes say, and
# in the number of parameters by little:

# %%
for name in names:
    recipe = zoo.recipe(names[name])["settings"]
    print(f"{name}: {models[name].num_parameters:,} parameters, {recipe['num_steps']} steps of "
          f"{recipe['batch_size']} images, {recipe['loss']} loss")  # fmt: skip

# %%
images = data.load("photos", split="test", limit=32)
x = dequantize(images, torch.Generator().manual_seed(0)).to(device)


def bits(model, y):
    with torch.no_grad():
        return model.bits_per_dim(y)


clean = {name: bits(model, x) for name, model in models.items()}
figure, ax = plt.subplots(figsize=(9, 2.4))
plots.before_after(ax, clean, [plots.RAISE, plots.DATA])
ax.set_xlabel("NLL in bits/dim of 32 test crops, bar at the median")
plt.show()
alike = torch.corrcoef(torch.stack(list(clean.values())))[0, 1]
print("correlation of the two over the crops above 0.9:", bool(alike > 0.9))

# %% [markdown]
# Each mark is a test crop. The two agree, image by image (printed), on what is hard, and their levels
# are close enough to compare what an attack does to them.
#
# ## 1. How many steps are enough?
#
# **Claim.** The NLL of RealNVP under attack keeps growing with the number of attack iterations (the
# paper's Table 3). **Predict:** with the ball fixed at $\epsilon = 8$ grey levels, will fifty steps do
# much better than ten, or is the ball exhausted?
#
# Each run below is a fresh attack, whose steps fall along a cosine from twice the radius to zero, so
# that every run can reach every corner of the ball and settle there.

# %%
STEPS = (10, 20, 50)
ball = LinfBall(8 / 256)
attacks = {
    name: {n: lower_likelihood(model.log_prob, x, ball, num_steps=n) for n in STEPS}
    for name, model in models.items()
}

# %% tags=["nbval-ignore-output"]
noise = uniform_noise(x, 8 / 256, torch.Generator().manual_seed(1))
sweep = {
    name: [clean[name]] + [bits(model, attacks[name][n].x) for n in STEPS]
    for name, model in models.items()
}
for name, model in models.items():
    print(f"{name}: iterations 0, 10, 20, 50 and uniform noise, in bits/dim (median, then mean)")
    rows = [*sweep[name], bits(model, noise)]
    print("   ", "  ".join(f"{v.median():.3g}" for v in rows))
    print("   ", "  ".join(f"{v.mean():.3g}" for v in rows))

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for ax, (name, model) in zip(axes, models.items(), strict=True):
    for statistic, style in (("median", "o-"), ("mean", "o--")):
        line = [getattr(v, statistic)().item() for v in sweep[name]]
        ax.plot((0, *STEPS), line, style, color=plots.ATTACK, label=f"attacked, {statistic}")
    level = bits(model, noise).mean().item()
    ax.axhline(level, color=plots.NOISE, label="uniform noise, mean")
    ax.set(title=name, xlabel="attack iterations", yscale="log")
    ax.legend()
axes[0].set_ylabel("NLL (bits/dim) at eps 8")
plt.show()

# %% [markdown]
# Our Table 3 as a picture. Left RealNVP, right Glow, on the same crops under the same attack; the
# grey line is uniform noise of the same size. In both, twenty steps do most of the work for the median
# image. But RealNVP's *mean* leaves its median behind by orders of magnitude and keeps growing: a
# minority of the images carries it. A table of means alone would describe that minority.

# %%
for name in models:
    zero, ten, twenty, fifty = (v.median() for v in sweep[name])
    print(f"{name}: ten steps cost more than 5 times what noise costs: "
          f"{bool(ten - zero > 5 * (bits(models[name], noise) - clean[name]).median())}")  # fmt: skip
    most = bool(twenty - zero > (fifty - zero) / 2)
    print(f"{name}: twenty steps find more than half of what fifty find: {most}")
    assert ten > zero and fifty > 0.9 * ten
tail = sweep["RealNVP"][3]
print("RealNVP after 50 steps, mean above 100 medians:", bool(tail.mean() > 100 * tail.median()))
share = (tail > 100 * tail.median()).float().mean()
print("images above 100 medians: between a tenth and a half:", bool(0.1 < share < 0.5))

# %% [markdown]
# **Check, two ways.** The attack reports the NLL it reached in nats; scoring its images again from
# scratch must give the same number.

# %%
for name, model in models.items():
    reported = bits_per_dim(-attacks[name][20].value, model.num_dims)
    again = bits(model, attacks[name][20].x)
    print(
        f"{name}: reported and re-scored agree:",
        torch.allclose(reported, again.to(reported), rtol=1e-3),
    )
    assert torch.allclose(reported, again.to(reported), rtol=1e-3)
    assert ((attacks[name][20].x - x).abs() <= 8 / 256 + 1e-6).all()

# %% [markdown]
# ## 2. What the attack looks like
#
# **Predict:** both attacks live in the same ball around the same photograph. Will they look alike?

# %%
k = 20  # a corner of the pagoda's roof
figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
plots.image(axes[0], x[k], "photograph")
plots.image(axes[1], attacks["RealNVP"][20].x[k], "attack on RealNVP")
plots.image(axes[2], plots.signed((attacks["RealNVP"][20].x - x)[k], 8 / 256), "its change")
plots.image(axes[3], plots.signed((attacks["Glow"][20].x - x)[k], 8 / 256), "Glow's change")
plt.show()

# %% [markdown]
# Grey is no change, full colour is eight grey levels. Both changes are fine chequered textures, but
# not the same one.
#
# ## 3. Does an attack on one model fool the other?
#
# **Claim to test** (ours, the paper does not ask it): if the fragility belonged to the photographs,
# an attack on RealNVP would hurt Glow as much as its own. If it belonged to the weights, it would do
# no more than noise.

# %%
shown = {
    "own attack": bits(models["Glow"], attacks["Glow"][20].x),
    "RealNVP's attack": bits(models["Glow"], attacks["RealNVP"][20].x),
    "uniform noise": bits(models["Glow"], noise),
    "clean": clean["Glow"],
}
figure, ax = plt.subplots(figsize=(9, 3.2))
plots.before_after(ax, shown, [plots.ATTACK, plots.RAISE, plots.NOISE, plots.DATA], log=True)
ax.set(xlabel="Glow's NLL (bits/dim) at eps 8, one mark per image")
plt.show()

# %% [markdown]
# Each row is Glow's verdict on the same crops, changed in four ways within the same ball. The
# attack made for RealNVP stands between noise and Glow's own, and far nearer to noise.

# %%
order = [v.median() for v in shown.values()]
print("RealNVP's attack hurts Glow more than noise does:", bool(order[1] > order[2]))
print(
    "but less than a tenth as much (in bits) as Glow's own:",
    bool(order[1] - order[3] < (order[0] - order[3]) / 10),
)

# %% [markdown]
# ## 4. Where it breaks, and whether the numbers can be trusted
#
# An NLL in the hundreds or millions raises a suspicion: is it the model, or rounding error?
# **Predict:** if activations explode, will the flow still invert? And do the images that carry the
# mean break where the others do?

# %%
report = anatomy(models["RealNVP"], x, attacks["RealNVP"][20].x)
levels = {f"level {i}": rise for i, rise in enumerate(report.latent, start=1)}
figure, ax = plt.subplots(figsize=(8, 3.4))
plots.before_after(ax, levels, [plots.ATTACK] * len(levels)).set_xscale("log")
ax.set_xlabel("rise of the latents' share (bits/dim), one mark per image, bar at the median")
plt.show()
coarse = (report.latent[-1] > report.latent[0]).double().mean()
print("images that break at the coarsest level: between a tenth and a half:",
      bool(0.1 < coarse < 0.5))  # fmt: skip
print("volumes move by less than 3 bits/dim:", bool(report.log_det.sum(0).abs().max() < 3))

# %% [markdown]
# The axis is logarithmic. Most images break where Glow's did, in the latents of the finest level.
# But a minority passes that level and breaks at the coarsest, after more layers of amplification,
# and by far more: two kinds of image, and the second carries the mean. The volume terms hardly
# move, because the scales of every coupling are bounded.

# %%
for name, model in models.items():
    y = attacks[name][20].x
    random = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(2)).to(x)
    trip, far = invertibility(model, y), invertibility(model, random)
    print(f"{name}, attacked images, round trip below 1e-6 in float64:", trip.float64 < 1e-6)
    print("   in float32 off by more than a grey level:", trip.float32 > 1 / 256)
    twin = zoo.load(names[name], "cpu").double()
    agrees = (bits(model, y).cpu() / bits(twin, y.cpu().double()) - 1).abs().max() < 1e-2
    print("   float32 and float64 give the same NLL to a percent:", bool(agrees))
    print("   on pure noise, float64 off by more than a grey level:", far.float64 > 1 / 256)
    assert agrees and trip.float64 < 1e-6

# %% [markdown]
# So the numbers are the model's own: single precision loses the way back, but in double precision
# the flow still inverts, and the NLL does not move. (On pure noise Glow's inverse explodes even in
# double precision, RealNVP's does not: an effect with a literature of its own, see below.)
#
# ## What you learned
#
# * For the median image twenty steps find most of what fifty find; the mean may be carried by a
#   minority of the images and keep growing. A table of attacked likelihoods must state its steps,
#   and both.
# * RealNVP and Glow both fail in the latents, by amplification, far beyond noise; some images break
#   RealNVP at its coarsest level, and by far more.
# * Attacks hardly transfer. Fragility is shared, the worst direction is each model's own.
# * Before believing an absurd number, score it again in float64.
#
# | paper says | we measured | same? |
# |---|---|---|
# | RealNVP is extremely sensitive, like Glow (abstract) | it is, on photographs at 32x32 | yes |
# | NLL grows with the attack's iterations (Table 3) | median: mostly in the first twenty; RealNVP's mean: still growing at fifty | yes in kind; the paper's entries are on CelebA and not compared here |
# | uniform noise changes little (Table 3) | the noise line lies far below the attack | yes |

# %% [markdown]
# ## Exercises
#
# ### 1. Why do a 20-step and a 50-step attack differ so little for the median image?

# %%
moved_to_corner = None  # your answer: share of pixels at distance 8 grey levels after 20 steps
if moved_to_corner is not None:
    print("most pixels are at the corner:", moved_to_corner > 0.5)

# %% tags=["solution"]
distance = (attacks["RealNVP"][20].x - x).abs() * 256
inside = (x > 8 / 256) & (x < 1 - 8 / 256)
moved_to_corner = (distance[inside] > 7.99).float().mean().item()
print("most pixels are at the corner:", moved_to_corner > 0.5)
# The objective is close to convex along the path, so iterates run to a vertex of the box and stay.
# More steps only flip the few pixels whose sign was undecided.

# %% [markdown]
# ### 2. Why does the logit in front not protect RealNVP?

# %%
your_reason = None  # your answer: how much can the logit's own log-det change within the ball?
if your_reason is not None:
    print(your_reason)

# %% tags=["solution"]
logit = models["RealNVP"].bijection.bijections[0]
with torch.no_grad():
    change = (logit(attacks["RealNVP"][20].x)[1] - logit(x)[1]).abs() / (3072 * 0.6931)
print("the logit's log-det moves by less than half a bit/dim:", bool(change.max() < 0.5))
# It is a fixed, smooth map whose slope lies between about 4 and 20: it rescales the ball, no more.

# %% [markdown]
# ### 3. Why is the mean a poor summary of a row in such a table?

# %%
ratio = None  # your answer: mean over median of RealNVP's NLL after 50 steps
if ratio is not None:
    print("the mean is the larger one:", ratio > 1)

# %% tags=["solution"]
ratio = (sweep["RealNVP"][3].mean() / sweep["RealNVP"][3].median()).item()
print("the mean is the larger one:", ratio > 1)
# Amplification multiplies over layers, so the NLL of images spreads over orders of magnitude.

# %% [markdown]
# ## Further reading
#
# Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP* (ICLR 2017); Behrmann et al.,
# *Understanding and Mitigating Exploding Inverses in Invertible Neural Networks* (AISTATS 2021), on
# why the inverse is the first thing to check.
