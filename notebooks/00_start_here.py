# %% [markdown]
# # Start here: make a photograph improbable
#
# A generative model that knows its data should give a photograph about the same probability
# before and after a change that nobody can see. This page shows, in two minutes, that it does not.
#
# | | |
# |---|---|
# | **Do** | change one photograph by one grey level per pixel and watch a model's verdict |
# | **Learn** | what a likelihood under attack is, and where each of the other notebooks leads |
# | **Need** | nothing: no GPU, no network, no account |
# | **Minutes on 2 cores** | 2 to read, under 1 to run |
# | **Paper sections** | 1 and 4 of Pope, Balaji and Feizi (AISTATS 2020) |

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import flowrob
from flowrob import data, plots, zoo
from flowrob.attacks import LinfBall, lower_likelihood, uniform_noise
from flowrob.units import dequantize

plots.use_style()
device = flowrob.device()

# %% [markdown]
# ## The photographs and the model
#
# The images are 32x32 crops out of photographs that come with three Python packages, so they are
# already on your disk. The model is **Glow**, a *normalizing flow*: an invertible network $f$ that
# turns an image $x$ into Gaussian noise $z = f(x)$, and so knows the exact density
#
# $$\log p(x) = \log \mathcal N(f(x); 0, I) + \log\left|\det \tfrac{\partial f}{\partial x}\right|.$$
#
# It was trained by this package on crops of five photographs. What you see are crops of three others,
# a cat, a cup of coffee and a pagoda: the model has never met a pixel of them.

# %%
images = data.load("photos", split="test")[:48]
glow = zoo.load("glow-photos-published-clean", device)
figure, ax = plt.subplots(figsize=(9, 3.6))
plots.image_grid(ax, images, columns=16, title="Forty-eight test crops, 32x32 pixels")
plt.show()

# %% [markdown]
# The crops show fur, foliage, roof tiles, wood, china. The model is a list of simple
# invertible layers, and printing it draws that list:

# %%
print(glow)

# %% [markdown]
# The package ships two Glows trained on these photographs without any defence. We take Glow *as
# published*; the other has a bound on two of its scales and is the same in everything else
# ([what makes a likelihood explode?](../docs/explosion.md)). Here are both, from their records. (*eps*
# counts grey levels of 256.)


# %%
def recorded(name, eps):
    """Mean bits/dim of all test crops, from the record of `python -m flowrob attack`."""
    rows = json.loads(Path(f"../results/attack-{name}.json").read_text(encoding="utf-8"))["rows"]
    wanted = (eps, "attacked" if eps else "clean")
    return next(row["mean"] for row in rows if (row["eps"], row["row"]) == wanted)


for name in ("glow-photos-published-clean", "glow-photos-clean"):
    print(f"{name}: {recorded(name, 0):.2f} bits/dim, under attack",
          ", ".join(f"{recorded(name, e):.1f} at eps {e}" for e in (1, 8)))  # fmt: skip

# %% [markdown]
# ## One number per image
#
# We quote the negative log-likelihood (NLL) in **bits per dimension**: how many bits the model
# would need per colour value to write the image down. Eight bits is what you pay knowing nothing;
# fewer is better. Grey levels are integers and a density needs real numbers, so `dequantize` first
# adds noise within one grey level.


# %%
def nll(x):
    with torch.no_grad():
        return glow.bits_per_dim(x)


x = dequantize(images, torch.Generator().manual_seed(0)).to(device)
print(f"mean NLL of {len(x)} test crops: {nll(x).mean():.1f} bits/dim")

# %% [markdown]
# **Predict before you run.** We may now change every colour value by *at most one grey level* of
# 256. What will the NLL be afterwards, if the changes are random? And if they are chosen against
# the model?
#
# The attack is twenty steps of *projected gradient ascent*: move every value a little in the
# direction that raises the NLL, and step back whenever a value has moved more than one grey level.

# %%
radius = 1 / 256
noisy = uniform_noise(x, radius, torch.Generator().manual_seed(1))
attack = lower_likelihood(glow.log_prob, x, LinfBall(radius), num_steps=20)

# %%
k = 27  # a corner of the pagoda's roof
difference = 0.5 + 0.5 * (attack.x - x)[k] / radius
figure, axes = plt.subplots(1, 3, figsize=(9, 3.5))
plots.image(axes[0], x[k], f"photograph\n{nll(x)[k]:.1f} bits/dim")
plots.image(axes[1], difference, "the change, magnified 128 times")
plots.image(axes[2], attack.x[k], f"attacked photograph\n{nll(attack.x)[k]:.1f} bits/dim")
plt.show()

# %% [markdown]
# Left and right look the same; on most screens they *are* the same to within one step of the
# display. In the middle is their difference: not noise, but a texture that the attack has found.

# %%
gain = {"random": nll(noisy) - nll(x), "chosen": nll(attack.x) - nll(x)}
size = (attack.x - x).abs().max() * 256
print(f"largest change: {size:.2f} grey levels")
print("chosen change costs more than 10 times the bits of a random one:",
      bool(gain["chosen"].mean() > 10 * gain["random"].mean()))  # fmt: skip
assert size < 1.001

# %%
figure, ax = plt.subplots(figsize=(9, 3.2))
plots.before_after(ax, {"photograph": nll(x), "random change": nll(noisy), "chosen": nll(attack.x)})
ax.set_xlabel("NLL in bits/dim, one mark per image, bar at the median")
plt.show()

# %% [markdown]
# Every mark is one of the forty-eight crops. A random change of one grey level shifts the cloud a
# little, as it should: noise *is* less predictable. The chosen change of the same size moves the
# whole cloud. It grows from there: notebook 05 goes on to 2, 4 and 8 grey levels.
#
# ## Two ways, same number
#
# The attack never looked inside the model: it needs a function `log_prob` and nothing else. So the
# same call works on a density you can compute by hand. For a standard normal in $n$ dimensions, the
# worst change of size $r$ in every coordinate moves each one away from zero by exactly $r$.

# %%
normal = torch.distributions.Independent(
    torch.distributions.Normal(torch.zeros(5), torch.ones(5)), 1
)
point = torch.tensor([[0.3, -1.0, 2.0, -0.2, 0.7]])
found = lower_likelihood(normal.log_prob, point, LinfBall(0.5), num_steps=20, box=None)
by_hand = point + 0.5 * point.sign()
print(f"found by the attack: {-found.value.item():.4f}")
print(f"worked out by hand:  {normal.log_prob(by_hand).item():.4f}")
assert torch.allclose(found.x, by_hand)

# %% [markdown]
# ## The map
#
# The paper asks three things, and the notebooks follow it: what is the worst perturbation, what
# does training against it cost, and what does it buy?
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
#
# Two more are planned and not written yet: 08 supplement, 09 beyond the paper.
#
# In every notebook the rhythm is the same: a claim, *predict before you run*, a few lines of code,
# a figure, what it shows, and a check. Exercises at the end of each come with solutions, folded
# away.
#
# ## What you learned
#
# * A flow gives every image an exact density; NLL in bits/dim is the unit of this walkthrough.
# * A change of one grey level, chosen against the model, moves that number by far more than a random
#   change of the same size.
# * An attack on a likelihood needs nothing but `log_prob`.
#
# | paper says | we measured | same? |
# |---|---|---|
# | "GLOW and RealNVP are extremely sensitive to both types of attacks" (abstract) | Glow, and the first type: the cell below, on photographs; the rest in notebooks 05 and 06 | agrees |

# %%
verdict = nll(attack.x).median() > nll(x).median() + 0.5
print("one grey level raises the median NLL by more than half a bit per dimension:", bool(verdict))
assert verdict

# %% [markdown]
# ## Exercise: why is random so harmless?
#
# Write a change of one grey level per value with random signs, instead of a uniformly random size.
# Is it as bad as the chosen one? Guess, then fill in `signs` (the check below runs either way).

# %%
signs = None  # your answer: a tensor of -1 and +1, shaped like x
if signs is not None:
    moved = (x + radius * signs).clamp(0, 1)
    print(
        "share of the chosen attack's cost:", (nll(moved) - nll(x)).mean() / gain["chosen"].mean()
    )

# %% tags=["solution"]
generator = torch.Generator().manual_seed(2)
coin = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
share = (nll((x + radius * coin).clamp(0, 1)) - nll(x)).mean() / gain["chosen"].mean()
print("random signs of full size cost less than half of the chosen ones:", bool(share < 0.5))
# Full size is worse than uniform size, but still no match: in 3,072 dimensions a random direction
# is almost orthogonal to the gradient: half of the signs help, half of them hurt.

# %% [markdown]
# **Further reading.** Kingma and Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions*
# (NeurIPS 2018); Pope, Balaji and Feizi, *Adversarial Robustness of Flow-Based Generative Models*
# (AISTATS 2020); Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*
# (ICLR 2018). [The paper, item by item](../docs/paper.md) and [its errata](../docs/errata.md) keep the
# score of the whole walkthrough. Go on with [01: the worst case of a Gaussian](01_worst_case_of_a_gaussian.ipynb).
