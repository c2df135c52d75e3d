# %% [markdown]
# # Start here: make a photograph improbable
#
# A generative model that knows its data should give a photograph about the same probability
# before and after a change that nobody can see. The first picture shows that it does not.
#
# | | |
# |---|---|
# | **Do** | change a photograph by one grey level per value and watch a model's verdict |
# | **Learn** | what a likelihood under attack is, in which unit it is told, and where the other notebooks lead |
# | **Need** | probability and a little PyTorch: no GPU, no network, no account |
# | **Minutes on 2 cores** | 8 to read, 1 to run |
# | **Paper sections** | 1 and 4 of Pope, Balaji and Feizi, *Adversarial Robustness of Flow-Based Generative Models* (AISTATS 2020) |

# %%
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import flowrob
from flowrob import data, lessons, plots, zoo
from flowrob.attacks import LinfBall, lower_likelihood, uniform_noise
from flowrob.lessons import check, outcome, predict
from flowrob.units import dequantize
from flowrob.widgets import (
    ATTACK_EPS,
    attack_explorer,
    draw_attack,
    stored_attacks,
    stored_recipe,
)

plots.use_style()
device = flowrob.device()


def seeded(number):
    return torch.Generator().manual_seed(number)


# %% [markdown]
# ## Attack a flow
#
# > "samples that look like normal (in-distribution) data to a human eye, yet the model assigns to them low
# > likelihood scores" (section 1)
#
# Two models judge photographs. Both are [flows](../docs/glossary.md#flow) by the name of [Glow](../docs/glossary.md#glow); one was trained as usual ([clean](../docs/glossary.md#clean)), the other
# on attacked photographs (*robust*). A photograph changed in order to mislead a model is an [adversarial example](../docs/glossary.md#adversarial-example). Six photographs have been attacked in advance, with every budget:
# [eps](../docs/glossary.md#epsilon) is the number of [grey levels](../docs/glossary.md#grey-level), of 256, by which each colour value may move. The next cell reads
# what came out, says how long these attacks were, and each setting is there at once.

# %%
grid, recipe = stored_attacks(), stored_recipe()
print(recipe["num_steps"], "steps an attack; the models:", recipe["models"])

# %%
figure = plt.figure(figsize=(11, 4.2))
said = draw_attack(figure, grid, photograph=0, eps=1, change="chosen", model="clean")
alt = (
    "A roof corner, its change of one grey level per value, which is a coloured texture, and the "
    "sum, which looks like the original. A thermometer beside it stands between 7 and 8 bits per "
    "dimension; the photograph itself had 4.6, and 8 means knowing nothing. Below, the six "
    "photographs to choose from."
)
plots.show(figure, alt)
print(said.replace("<b>", "").replace("</b>", ""))

# %% [markdown]
# **What we see.** Left and right look the same; on most screens they *are* the same to within one
# step of the display. The middle is their difference: not noise, but a texture that an attack has
# found. The column on the right is the model's verdict, in a unit that comes next. It has risen almost
# to the mark of a model that knows nothing; in odds, that is the line printed below the picture. Move it yourself: raise eps, let chance
# choose the change, then let the robust model judge.

# %% tags=["widget"]
attack_explorer(grid)

# %% [markdown]
# No kernel? Then here is all of it at once: for the first photograph, how much less probable each
# change makes it.

# %%
columns = ["model, change", *(f"eps {eps}" for eps in ATTACK_EPS[1:])]
print(f"{columns[0]:>16}", *(f"{text:>15}" for text in columns[1:]))
for name, change in (("clean", "chosen"), ("clean", "random"), ("robust", "chosen")):
    lost = [(grid[name, change, eps][1] - grid[name, change, 0][1])[0] for eps in ATTACK_EPS[1:]]
    odds = [lessons.times_less_probable(value, 3072).split()[0] for value in lost]
    print(f"{name + ', ' + change:>16}", *(f"{'1/' + text:>15}" for text in odds))
clean_lost = (grid["clean", "chosen", 1][1] - grid["clean", "chosen", 0][1])[0].item()
check("one grey level costs the roof {} bits per value", clean_lost, at_least=1)

# %% [markdown]
# ## The photographs, the model, and one number per image
#
# The images are 32x32 crops out of photographs that come with three Python packages, so they are
# already on your disk. Glow is a [normalizing flow](../docs/glossary.md#normalizing-flow): an invertible network $f$ that turns an image $x$
# into Gaussian noise $z = f(x)$. Because nothing gets lost on the way, it knows the density of $x$
# exactly, by a [change of variables](../docs/glossary.md#change-of-variables). In words: the density of the noise, times the factor by which $f$ stretches space at $x$.
#
# $$\log p(x) = \log \mathcal N(f(x); 0, I) + \log\left|\det \tfrac{\partial f}{\partial x}\right|.$$
#
# We quote $-\log p(x)$, the negative log-[likelihood](../docs/glossary.md#likelihood) or [NLL](../docs/glossary.md#nll), in [bits per dimension](../docs/glossary.md#bits-per-dimension): how many bits
# the model would need per colour value to write the image down. **Why is eight "knowing nothing"?** A
# colour value has 256 levels. Who knows nothing gives each the probability 1/256, and
# $-\log_2 \tfrac1{256} = 8$. Fewer bits are better. An image has $32 \cdot 32 \cdot 3 = 3072$ values,
# so one more bit per dimension is 3,072 bits: the image has become $2^{3072}$, about $10^{925}$, times
# less probable. (Grey levels are integers and a density needs real numbers; so `dequantize` ([dequantisation](../docs/glossary.md#dequantisation)) has added
# noise within one grey level.)

# %% tags=["nbval-ignore-output"]
size = flowrob.scale(device)
models = {name: zoo.load(of, device) for name, of in recipe["models"].items()}

# %%
images = data.load("photos", split="test")
x = dequantize(images, seeded(0))[: size["crops"]].to(device)


@torch.no_grad()
def nll(x, name="clean"):
    return models[name].bits_per_dim(x)


figure, ax = plt.subplots(figsize=(10, 2.2))
plots.image_grid(ax, x[:32], columns=16)
plots.show(figure, "Thirty-two small crops: fur, foliage, roof tiles, wood, china and coffee.")
check("the clean model needs {} bits per value, in the mean", nll(x).mean(), at_most=8)

# %% [markdown]
# The model was trained on crops of five photographs; these come from three others, a cat, a cup of
# coffee and a pagoda. It has never met a pixel of them, and still does far better than eight.
#
# ## Chosen or random?
#
# **Claim.** The paper's summary is
#
# > "We find that GLOW and RealNVP are extremely sensitive to both types of attacks." (abstract)
#
# The first type lowers the likelihood of a photograph; the second, which raises that of noise, waits
# for notebook 05, and RealNVP, another flow, for 06. An attack is *projected gradient ascent*, called [PGD](../docs/glossary.md#pgd): move every value a little in the direction
# that raises the NLL, step back into the [ball](../docs/glossary.md#ball) of allowed changes whenever a value has moved too far, repeat. Here it is an [l_inf ball](../docs/glossary.md#l_inf-ball): every value on its own may move by eps.

# %% tags=["predict"]
predict("ratio", "All values of all crops move by at most one grey level. A chosen change costs how "
        "many times the bits of a random one?", options=[1, 3, 10, 100])  # fmt: skip

# %%
radius = 1 / 256
noisy = uniform_noise(x, radius, seeded(1))
attack = lower_likelihood(models["clean"].log_prob, x, LinfBall(radius), num_steps=size["steps"])
gain = {"random": nll(noisy) - nll(x), "chosen": nll(attack.x) - nll(x)}
ratio = (gain["chosen"].mean() / gain["random"].mean()).item()
outcome("ratio", ratio)
check("in grey levels the largest change is {}", (attack.x - x).abs().max() * 256, at_most=1.001)
check("the chosen change costs {} times the bits of a random one", ratio, at_least=8)

# %%
figure, ax = plt.subplots(figsize=(9, 3.2))
groups = {"photograph": nll(x), "random change": nll(noisy), "chosen change": nll(attack.x)}
plots.before_after(ax, {name: values.cpu() for name, values in groups.items()})
ax.set_xlabel("NLL in bits/dim, one mark per image, bar at the median")
alt = (
    "Three rows of marks, one per crop. Photographs and random changes lie around 4 bits/dim, "
    "chosen changes around 6: the whole cloud has moved to the right."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Every mark is one crop. A random change of one grey level ([uniform noise](../docs/glossary.md#uniform-noise)) shifts the cloud a
# little, as it should: noise *is* less predictable. The chosen change of the same size moves the whole
# cloud, and it grows from there. Why random is so harmless is the exercise below.
#
# ## Two ways, same number
#
# The attack never looked inside the model: it needs a function `log_prob` and nothing else. So the
# same call works on a density that you can do by hand. For a standard normal, whose density only falls
# away from zero, the worst change of size $r$ in every coordinate moves each one outwards by $r$. (`box=None`: these numbers are no colours, so no [box](../docs/glossary.md#box) of $[0, 1]$ holds them.)
# What it costs is told in [nats](../docs/glossary.md#nats), the unit of the natural logarithm: one is $1/\ln 2 \approx 1.44$ bits.

# %%
normal = torch.distributions.Independent(
    torch.distributions.Normal(torch.zeros(5), torch.ones(5)), 1
)
point = torch.tensor([[0.3, -1.0, 2.0, -0.2, 0.7]])
found = lower_likelihood(normal.log_prob, point, LinfBall(0.5), num_steps=20, box=None)
by_hand = normal.log_prob(point + 0.5 * point.sign())
check("found {} nats, by hand {}", -found.value, by_hand, within=1e-5, digits=5)

# %% [markdown]
# The notebooks on Gaussians count in nats, those on images in bits per dimension.
#
# ## The map
#
# The paper asks what the worst [perturbation](../docs/glossary.md#perturbation) is, what training against it costs, and what that buys. Two
# routes lead through the notebooks: **class**, from pictures to tables, and **theory**, along the proofs.

# %%
names = sorted(path.stem for path in Path().glob("[0-9][0-9]_*.ipynb"))
routes = {"class": ["00", "01", "04", "05", "07", "08"], "theory": ["01", "02", "03", "09"]}
height = {"02": 1, "03": 1, "09": 1, "06": -1}
place = {name[:2]: (k, height.get(name[:2], 0)) for k, name in enumerate(names)}

figure, ax = plt.subplots(figsize=(11, 3.2))
for (route, stops), color in zip(routes.items(), (plots.DATA, plots.RAISE), strict=True):
    way = [place[stop] for stop in stops if stop in place]
    ax.plot(*zip(*way, strict=True), color=color, ls=plots.DASH[color], lw=4, zorder=1)
    ax.text(way[-1][0] + 0.25, way[-1][1] + 0.1, route, color=color, fontweight="bold")
for name in names:
    x0, y0 = place[name[:2]]
    ax.plot(x0, y0, "o", color="white", mec=plots.THEORY, mew=2, ms=24)
    ax.text(x0, y0, name[:2], ha="center", va="center")
    text, side = textwrap.fill(name[3:].replace("_", " "), 13), 1 if y0 > 0 else -1
    ax.text(x0, y0 + 0.4 * side, text, ha="center", va="bottom" if y0 > 0 else "top", fontsize=9)
ax.set(xlim=(-0.6, len(names)), ylim=(-2, 2.1))
ax.set_axis_off()
alt = (
    "A map: the class route runs along the middle from 00 over 01, 04 and 05 to 07 and 08; the "
    "theory route leaves it at 01, for 02, 03 and 09; 06 lies below."
)
plots.show(figure, alt)

# %% [markdown]
# Every circle is a notebook; 06, below, is a side trip.
#
# | notebook | question |
# |---|---|
# | [01 worst case of a Gaussian](01_worst_case_of_a_gaussian.ipynb) | which small change costs the most likelihood, exactly? |
# | [02 robustness or accuracy](02_robustness_or_accuracy.ipynb) | what does training against that change cost? |
# | [03 universal perturbations](03_universal_perturbations.ipynb) | is there one change that is bad for every image? |
# | [04 build a flow](04_build_a_flow.ipynb) | how does an invertible network get its exact density? |
# | [05 attack Glow](05_attack_glow.ipynb) | how far can the likelihood of photographs and of noise be driven? |
# | [06 attack RealNVP](06_attack_realnvp.ipynb) | is it the architecture? |
# | [07 hybrid training](07_hybrid_training.ipynb) | what does training against the attack buy? |
# | [08 what a mean hides](08_what_a_mean_hides.ipynb) | how is a mean over attacked images made? |
# | [09 why, how far, and what helps](09_why_how_far_and_what_helps.ipynb) | where does fragility come from, and what can be proved? |
#
# In every one the rhythm is the same: the paper's claim as a quotation, a prediction to commit to, a
# few lines of code, a figure, what it shows, and a check that prints its number and what was expected.
# `make student` writes all of them without outputs and solutions.
#
# ## What you learned
#
# * A flow gives every image an exact density; NLL in bits/dim is the unit of this walkthrough, and 8 is
#   knowing nothing.
# * A change of one grey level, chosen against the model, moves that number far more than a random one.
# * An attack on a likelihood needs nothing but `log_prob`.

# %%
robust = (grid["robust", "chosen", 8][1] - grid["robust", "chosen", 0][1]).median().item()
clean = (grid["clean", "chosen", 8][1] - grid["clean", "chosen", 0][1]).median().item()
check(f"at eps 8, {recipe['num_steps']} steps, the robust model loses {{}} bits/dim where the clean one loses {{}}",
      robust, clean, at_most=2, digits=1)  # fmt: skip
lessons.verdicts([
    ("“GLOW and RealNVP are extremely sensitive to both types of attacks”", "abstract",
     f"Glow, first type, one grey level: {lessons.rounded(ratio)} times the cost of chance",
     "agrees, so far; the rest in 05 and 06"),
    ("“we significantly boost the robustness of these generative models”", "abstract",
     f"at eps 8, {recipe['num_steps']} steps: {lessons.rounded(robust, 1)} bits/dim lost by the robust model, not "
     f"{lessons.rounded(clean, 1)}", "agrees, for training on attacked images alone; the rest in 07"),
])  # fmt: skip

# %%
lessons.calibration()

# %% [markdown]
# ## Exercise: why is random so harmless?
#
# Every value moves by exactly one grey level, up or down: `signs` holds a +1 or a -1 for each of them.
# Random signs do little. Find signs that cost at least a **third** as much as the attack,
# with a single gradient of the NLL. The cell below your answer computes what they cost.
#
# <details><summary>Hint 1</summary>
#
# To first order, moving value $i$ by $\pm r$ changes the NLL by $\pm r\,g_i$, with $g$ the gradient of
# the NLL at $x$. Which sign makes each of these terms positive?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `models["clean"].log_prob(few).sum().backward()` fills `few.grad`, once `few.requires_grad_()` was
# called. Mind the minus between the likelihood and the NLL.
#
# </details>

# %%
few = x[:8].clone()
signs = None  # your answer: a tensor of -1 and +1, shaped like few


# %%
def share(signs):
    moved = (few.detach() + radius * signs).clamp(0, 1)
    return ((nll(moved) - nll(few.detach())).mean() / gain["chosen"][:8].mean()).item()


if signs is None:
    print("Your turn: put your signs into the cell above, run it, then run this one.")
elif set(signs.unique().tolist()) <= {-1.0, 1.0}:
    print(
        f"{share(signs):.0%} of the chosen cost:", "right." if share(signs) > 1 / 3 else "too low."
    )
else:
    print("Not all entries are -1 or +1.")

# %% tags=["solution"]
few.requires_grad_()
(slope,) = torch.autograd.grad(-models["clean"].log_prob(few).sum(), few)
coin = torch.randint(0, 2, few.shape, generator=seeded(2)).to(few) * 2 - 1
check(
    "signs of the gradient reach {} of the chosen cost",
    share(slope.sign()),
    at_least=1 / 3,
    digits=1,
)
check("random signs reach {} of it", share(coin), at_most=0.3, digits=1)
# In 3,072 dimensions a random direction is almost orthogonal to the gradient: half of its signs help,
# half of them hurt, and what is left is the cost of noise. The attack takes the gradient again after
# every step, because it turns on the way.

# %% [markdown]
# **Further reading.** Kingma and Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions*
# (NeurIPS 2018); Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks* (ICLR
# 2018). [The paper, item by item](../docs/paper.md) and [its errata](../docs/errata.md) keep the score
# of the whole walkthrough; [what makes a likelihood explode?](../docs/explosion.md) compares the Glow
# used here, built as published, with one that is built a little more carefully. Go on with [01: the worst case of a
# Gaussian](01_worst_case_of_a_gaussian.ipynb).
