# %% [markdown]
# # Build a flow
#
# | | |
# |---|---|
# | **Do** | build a density out of invertible pieces, train it, attack it from everywhere |
# | **Learn** | why Glow has exactly the parts it has, and what would break without each of them |
# | **Need** | the chain rule and determinants; [01](01_worst_case_of_a_gaussian.ipynb) for beat 4 |
# | **Minutes on 2 cores** | 25 to read, under 1 to run |
# | **Paper sections** | 2.1 of Pope, Balaji and Feizi (AISTATS 2020), and section 5's two models |
#
# A *normalizing flow* is a density made of two things: a bell curve and an invertible map. The
# parts of that map come from two papers: couplings, squeezing and the multi-scale architecture
# from RealNVP (Dinh et al.), ActNorm and the 1x1 convolution from Glow (Kingma and Dhariwal).
# Every part answers a failure of the one before it. We let each fail first.

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from sklearn.datasets import make_moons
from torch.autograd.functional import jacobian

from flowrob import data, flows, plots
from flowrob.attacks import L2Ball, lower_likelihood
from flowrob.flows import ActNorm, AffineCoupling, Chain, Flow, InvertibleConv1x1, Squeeze
from flowrob.linear import GaussianFlow, worst_case
from flowrob.training import Update, fit
from flowrob.units import dequantize

plots.use_style()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## 1. Stretch a line
#
# **Claim.** Push a random number through an invertible map and no probability is lost; it only
# gets thinner where the map pulls points apart. If $z = f(x)$ is standard normal, then $x$ has
# the density
#
# $$p(x) = \mathcal N\bigl(f(x)\bigr)\,\bigl|f'(x)\bigr|, \qquad
# \log p(x) = \log \mathcal N(z) + \log\left|\tfrac{dz}{dx}\right|.$$
#
# Take $f(x) = (x^3 + x)/4$, flat in the middle and steep outside. **Predict before you run:** the
# noise $z$ has one hump. How many has $x$?

# %%
normal = torch.distributions.Normal(0.0, 1.0)
x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
z, slope = (x**3 + x) / 4, (3 * x**2 + 1) / 4
p_z = normal.log_prob(z).exp()
p_x = p_z * slope
cuts = [0, *torch.searchsorted(z, normal.icdf(torch.arange(1, 10) / 10).double()).tolist(), 6000]

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2))
plots.strips(left, z, p_z, z[cuts]).set(xlim=(-3, 3), xlabel="noise $z$", ylabel="density")
plots.curves(middle, x, [("", z, plots.THEORY)], xlabel="data $x$", ylabel="$z = f(x)$")
middle.set(xlim=(-2.5, 2.5), ylim=(-3, 3))
plots.strips(right, x, p_x, x[cuts]).set(xlim=(-2.5, 2.5), xlabel="data $x$")
plt.show()

mass = torch.cat((torch.zeros(1).double(), torch.cumulative_trapezoid(p_x, x)))[cuts]
print(f"strips of x: {mass.diff().min():.2f} to {mass.diff().max():.2f}; total {mass[-1]:.3f}")
assert abs(mass[-1] - 1) < 1e-6 and (mass.diff() - 0.1).abs().max() < 1e-3

# %% [markdown]
# **What we see.** Left: the normal density, cut into ten strips of equal area. Right: the same
# ten strips seen from $x$, each still a tenth of the total, as the printed line confirms. Where
# $f$ is flat (middle), a strip of $z$ becomes wide in $x$, so it has to become low: one hump has
# turned into two. That is the whole idea of a flow; the rest is engineering.
#
# ## 2. Couple two coordinates
#
# **The failure.** In $n$ dimensions $|f'|$ becomes the determinant of an $n \times n$ Jacobian. A
# 32 x 32 colour photograph has $n = 3072$: some $n^3/3$, ten billion, multiplications per image.
# And how does one invert a neural network?
#
# **Claim (Dinh et al.).** Leave half of the coordinates alone, and let them decide how the others
# are shifted and scaled:
#
# $$z_1 = x_1, \qquad z_2 = \bigl(x_2 + t(x_1)\bigr)\, s(x_1).$$
#
# The Jacobian is triangular, so $\log|\det| = \sum \log s(x_1)$. To invert, read $x_1$ off $z_1$
# and compute $t$ and $s$ again: neither is ever inverted. **Predict:** what happens to vertical
# lines? To horizontal ones?


# %%
def coupling(x):
    x1, x2 = x[:, :1], x[:, 1:]
    shift, log_scale = torch.sin(2 * x1), 0.4 * torch.cos(3 * x1)
    return torch.cat((x1, (x2 + shift) * log_scale.exp()), dim=1), log_scale.sum(1)


ticks, fine = torch.linspace(-2, 2, 13), torch.linspace(-2, 2, 200)
upright = torch.stack(torch.meshgrid(ticks, fine, indexing="ij"), dim=2)
lines = torch.cat((upright, upright.flip(2)))
moved = coupling(lines.reshape(-1, 2))[0].reshape(lines.shape)
figure, axes = plt.subplots(1, 2, figsize=(7.5, 5.2), sharey=True)
plots.lines_in_plane(axes[0], lines).set(title="$x$", aspect="equal")
plots.lines_in_plane(axes[1], moved).set(title="$z$ = coupling($x$)", aspect="equal")
plt.show()

# %% [markdown]
# **What we see.** Left: a square grid. Right: the same grid after one coupling. Vertical lines
# (blue) stay vertical, each shifted and stretched as a whole; horizontal ones (amber) bend at
# will. Each cell changes its area by the factor $s(x_1)$, which the log-determinant records.
#
# **Two ways, same number.** The definition takes all partial derivatives, by autograd. It is
# slow, but knows nothing of our formula. It will judge every part to come.


# %%
def by_definition(f, x):
    size = x[0].numel()
    matrices = [jacobian(lambda v: f(v[None])[0].flatten(), one).reshape(size, -1) for one in x]
    return torch.linalg.slogdet(torch.stack(matrices)).logabsdet


some = torch.randn(50, 2, generator=seeded(0), dtype=torch.float64)
gap = (coupling(some)[1] - by_definition(coupling, some)).abs().max().item()
print("log-det by the formula and by autograd agree to 12 digits:", gap < 1e-12)
assert gap < 1e-12

# %% [markdown]
# ## 3. Standardise, then turn
#
# Now let networks choose $t$ and $s$, and maximise $\log p$ over two thousand points on two
# moons. Ten couplings fail for two reasons that can be read off: $x_1$ never moves, so it had
# better be standard normal already; and Glow's $s$ is a sigmoid, which can only shrink.
#
# **ActNorm** gives every coordinate a learned shift and scale, $z_i = (x_i + b_i)\,e^{s_i}$, set
# at the start so that the data come out with mean 0 and variance 1. But to shift and scale $x_1$
# does not change its shape.
#
# **A matrix** does: $z = Wx$ turns the plane, so that every coupling works on other coordinates
# than the last. On images it mixes the channels of each pixel, the *1x1 convolution*. Stored
# as $W = PLU$, its determinant is a product of $n$ numbers.
#
# This is the whole training, and then three lists of parts. **Predict:** which of the three
# densities will show two moons?


# %%
def train(flow, points, num_steps=600):
    flow.initialize(points)
    adam = torch.optim.Adam(flow.parameters(), lr=5e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, num_steps)
    generator = seeded(0)
    for _ in range(num_steps):
        batch = points[torch.randint(len(points), (256,), generator=generator)]
        loss = -flow.log_prob(batch).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()


# %%
moons, which = (torch.tensor(a) for a in make_moons(2500, noise=0.08, random_state=0))
points, held_out = moons[:2000].float(), moons[2000:].float()
parts = {"couplings": [], "+ ActNorm": [], "+ matrix": []}
for k in range(10):
    couplings = [AffineCoupling(flows.mlp(1, 2, 32, seeded(k))) for _ in parts]
    parts["couplings"] += [couplings[0]]
    parts["+ ActNorm"] += [ActNorm(2), couplings[1]]
    parts["+ matrix"] += [ActNorm(2), InvertibleConv1x1(2, seeded(k)), couplings[2]]
fitted = {name: Flow(Chain(layers), (2,)) for name, layers in parts.items()}
for flow in fitted.values():
    train(flow, points)
    flow.double().requires_grad_(False)
nll = {name: -flow.log_prob(held_out.double()).mean().item() for name, flow in fitted.items()}
print(fitted["+ matrix"])

# %%
x1, x2 = torch.linspace(-1.8, 2.8, 231).double(), torch.linspace(-1.4, 1.9, 166).double()
grid = torch.cartesian_prod(x1, x2)
figure, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=True)
for ax, (name, flow) in zip(axes, fitted.items(), strict=True):
    plots.density(ax, x1, x2, flow.log_prob(grid).exp().reshape(231, 166))
    plots.cloud(ax, held_out[:200], plots.RAISE).set_title(f"{name}: NLL {nll[name]:.2f}")
    ax.label_outer()

# %% [markdown]
# **What we see.** The three densities, some held-out points (amber), and the mean negative
# log-likelihood (NLL, in nats) of all held-out ones. Couplings alone cannot even find the scale.
# With ActNorm the model knows how high the mass lies for each $x_1$, but along $x_1$ it is stuck
# with a bell curve. The matrix frees it, and the moons appear, all but for the faint bridge
# between them: a continuous map cannot tear one bell curve in two.
#
# Now the judge, for the trained flow: total mass, log-determinant and round trip. And then a look
# inside.

# %%
flow, f = fitted["+ matrix"], fitted["+ matrix"].bijection
mass = flow.log_prob(grid).exp().sum().item() * 0.02**2
laws = {"total mass is 1 to 0.1%": abs(mass - 1) < 0.001}
laws["log-det equals autograd's"] = (f(some)[1] - by_definition(f, some)).abs().max().item() < 1e-9
laws["round trip"] = (flow.decode(flow.encode(some)) - some).abs().max().item() < 1e-9
laws["each part gains 0.1 nats"] = nll["couplings"] - 0.2 > nll["+ ActNorm"] - 0.1 > nll["+ matrix"]
print(laws)
assert all(laws.values())

# %%
figure, axes = plt.subplots(1, 5, figsize=(12, 2.9))
for ax, steps in zip(axes, (0, 1, 3, 6, 10), strict=True):
    now = Chain(parts["+ matrix"][: 3 * steps])(points.double())[0] if steps else points
    plots.cloud(ax, now[which[:2000] == 0], plots.DATA)
    plots.cloud(ax, now[which[:2000] == 1], plots.RAISE)
    ax.set(title=f"after {steps} of 10 steps" if steps else "data")
    ax.set_aspect("equal", adjustable="datalim")

# %% [markdown]
# **What we see.** The two moons on their way to one round cloud. The map is continuous, so
# neighbours stay neighbours; but the empty gap between the moons has to go somewhere. It is
# squeezed into a thin seam, and around that the map's stretching changes abruptly. Remember that.
#
# ## 4. Attack it from everywhere
#
# **Claim.** Of all steps of length at most $r$, one lowers the likelihood most. For a Gaussian it
# is known exactly (Theorem 3.1, notebook 01). For the flow we climb the NLL, from every point of
# a grid. In the plane, for once, one can *see* an attack.
#
# **Predict:** the Gaussian's arrows point off its long axis. Where will the flow's point, within
# a moon and in between?

# %%
radius, nats = 0.15, {}
gaussian = GaussianFlow.fit(points)
starts = torch.cartesian_prod(torch.linspace(-1.6, 2.6, 29), torch.linspace(-1.2, 1.7, 21)).double()
exact = worst_case(gaussian, starts, radius)
options = {"box": None, "num_steps": 20, "restarts": 4, "generator": seeded(0)}
climbed = lower_likelihood(flow.log_prob, starts, L2Ball(radius), **options)

figure, axes = plt.subplots(2, 1, figsize=(9, 12))
fields = [(gaussian, exact.delta, "Gaussian, exact"), (flow, climbed.x - starts, "flow")]
for ax, (model, delta, title) in zip(axes, fields, strict=True):
    plots.density(ax, x1, x2, model.log_prob(grid).exp().reshape(231, 166))
    plots.field(ax, starts, delta, plots.ATTACK).set_title(title + ": worst step from every point")
plt.show()

# %% [markdown]
# **What we see.** Top: the Gaussian's field has one seam, its long axis, where arrows part to
# either side. Bottom: the flow has a seam along the spine of each moon. From there arrows
# run *across* the moon, the short way out: the direction of least variance, which in the Gaussian
# was one line and now turns with the data. In the gap a second kind of seam appears, where arrows
# meet instead of parting: the ditch between the moons. Far outside, where no point ever was, the
# seams follow nothing but the network's whims.
#
# **Two ways, same number.** On the Gaussian the same ascent must find what the theorem says. On
# the flow there is no theorem, but in the plane we can simply try all directions. And then, on
# held-out points: the flow fits far better than the Gaussian. **Predict:** is it harder to fool?

# %%
again = lower_likelihood(gaussian.log_prob, starts, L2Ball(radius), **options)
off = (again.value - again.start_value - exact.drop).abs().max().item()
turn = torch.linspace(0, 2 * torch.pi, 121, dtype=torch.float64)
circle = radius * torch.stack((turn.cos(), turn.sin()), dim=1)
tried = -flow.log_prob((starts[:, None] + circle).reshape(-1, 2)).reshape(-1, 121).amax(1)
missed = (tried - climbed.value > 0.1).double().mean().item()
print("Gaussian: ascent and theorem agree to 0.001 nats:", off < 1e-3)
print("flow: 120 directions beat the ascent at fewer than 1 point in 100:", missed < 0.01)
assert off < 1e-3 and missed < 0.01

# %%
clean = held_out.double()
found = lower_likelihood(flow.log_prob, clean, L2Ball(radius), **options)
chance = circle[torch.randint(120, (500,), generator=seeded(1))]
drops = {"Gaussian, worst step": worst_case(gaussian, clean, radius).drop}
drops["flow, random step"] = flow.log_prob(clean) - flow.log_prob(clean + chance)
drops["flow, worst step"] = found.value - found.start_value
figure, ax = plt.subplots(figsize=(9, 2.8))
plots.before_after(ax, drops, (plots.THEORY, plots.NOISE, plots.ATTACK))
ax.set(xlabel="likelihood lost (nats), one mark per held-out point")
ax.set_xscale("symlog", linthresh=1)
ax.xaxis.set_major_formatter("{x:g}")
plt.show()

lost = {name: drop.median().item() for name, drop in drops.items()}
ratio = lost["flow, worst step"] / lost["Gaussian, worst step"]
better = -gaussian.log_prob(clean).mean().item() - nll["+ matrix"]
print(f"the flow fits better by more than half a nat: {better > 0.5};", end=" ")
print(f"its worst step costs over three times as much: {ratio > 3}")
assert better > 0.5 and ratio > 3

# %% [markdown]
# **What we see.** One mark per held-out point, bars at the medians; the axis is logarithmic
# beyond $\pm 1$. The better model loses far more to a worst step of the same length. That is no
# accident: to fit thin crescents a density *must* fall steeply beside them, and steep is what an
# attacker looks for. Notebook 02 proves this exchange for the Gaussian.
#
# ## 5. Squeeze an image
#
# **The failure.** A coupling splits channels into halves, and a colour pixel has three. A 1x1
# convolution mixes the channels of *one* pixel and cannot see the next.
#
# **Claim (Dinh et al.).** Trade space for channels: every block of 2 x 2 pixels becomes one pixel
# with four times the channels. Values only move, so the log-determinant is 0. **Predict:** what
# do the channels of a squeezed photograph look like?

# %%
photos = dequantize(data.load("photos", size=8, split="test"), seeded(0)).double()
squeezed = Squeeze()(photos[38:39])[0]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.1), width_ratios=(1, 2.6))
plots.image(axes[0], photos[38], "3 channels of 8 x 8")
plots.image_grid(axes[1], squeezed[0][:, None], 6, "12 channels of 4 x 4")
plt.show()
assert by_definition(Squeeze(), photos[38:39]).abs().item() < 1e-12
assert torch.equal(Squeeze().inverse(squeezed)[0], photos[38:39])

# %% [markdown]
# **What we see.** Left: a test crop of 8 x 8 pixels. Right: its twelve channels after a squeeze,
# four per colour: the same small picture, sampled at the four corners of the blocks. They are
# nearly alike, and *that* is what a coupling can use: half of the channels predict the other
# half.
#
# ## 6. Let half of it leave
#
# **The failure.** A flow may drop no latent, so squeeze after squeeze the channels pile up, every
# network gets wider, and all pixels pass through all layers.
#
# **Claim (Dinh et al.).** After each level let half of the channels leave. They count as finished
# noise; the other half goes on. Nothing is lost, it only stops early. (In Glow one more coupling
# first standardises what leaves, given what stays.)
#
# With that, all parts of Glow are on the table. The package's `fit` is our loop with a few
# comforts. **Predict:** eight bits per dimension is knowing nothing. How far down do 300 steps
# take us?

# %%
flow = flows.glow((3, 8, 8), num_levels=2, num_steps=4, width=32)
print(flow)
train_images = data.load("photos", size=8)
update = Update(learning_rate=3e-3, warmup_steps=30)
history = fit(flow, train_images, num_steps=300, update=update, progress=False)
flow.double().requires_grad_(False)
bits = flow.bits_per_dim(photos).mean()
print("held-out crops below 6 bits/dim:", bool(bits < 6))

figure, axes = plt.subplots(1, 3, figsize=(11, 3), width_ratios=(1.2, 1, 1))
smooth = torch.tensor(history.clean).unfold(0, 10, 1).mean(1)
line = [("", smooth, plots.DATA)]
plots.curves(axes[0], range(10, 301), line, xlabel="step", ylabel="NLL (bits/dim)")
axes[0].set_title(f"held out: {bits:.1f} bits/dim")
plots.image_grid(axes[1], photos[:32], 8, "test crops")
plots.image_grid(axes[2], flow.sample(32, seeded(4), temperature=0.8), 8, "samples")
plt.show()

# %% [markdown]
# **What we see.** The listing reads like the text: squeeze, four steps of ActNorm, matrix and
# coupling, half leaves; again. Left: the NLL falls, averaged over ten steps. Middle: what the
# model should imitate. Right: what it draws, at temperature 0.8, after a few seconds. It has
# learned a palette and that neighbours agree; shapes take the larger model of notebook 05.
#
# ## 7. How invertible is invertible?
#
# On paper a flow inverts exactly. A computer rounds, and every layer hands its rounding on. First
# the two laws on photographs, now for a whole network in 192 dimensions. Then **predict:** raise
# the contrast, moving every pixel away from mid-grey by a factor of 2, 4, 8... Does the flow find
# its way back?

# %%
gap = (flow.bijection(photos[:2])[1] - by_definition(flow.bijection, photos[:2])).abs().max().item()
report = flows.invertibility(flow, photos[:64])
print("log-det equals that of autograd's 192 x 192 Jacobian:", gap < 1e-8)
print("float32 round trip within 1/100 of a grey level:", report.float32 < 0.01 / 256)
print("float64 round trip to 12 digits:", report.float64 < 1e-12)
print("1x1 convolutions with condition below 10:", sum(c < 10 for c in report.conditions.values()))
assert gap < 1e-8 and report.float32 < 0.01 / 256 and report.float64 < 1e-12

# %%
contrast = [1, 2, 4, 8, 16, 32, 64]
reports = [flows.invertibility(flow, 0.5 + c * (photos[:64] - 0.5)) for c in contrast]
single, double = [r.float32 for r in reports], [r.float64 for r in reports]
lines = [("float32", single, plots.ATTACK), ("float64", double, plots.DATA)]
figure, ax = plt.subplots(figsize=(8, 3.6))
plots.curves(ax, contrast, lines, xlabel="contrast", ylabel="round-trip error", log="x")
ax.axhline(1 / 256, color=plots.THEORY, ls=":", label="one grey level")
ax.set(yscale="log", xticks=contrast, xticklabels=contrast)
plots.legend_above(ax)
plt.show()
print("contrast 16, off by more than a grey level: float32", single[4] > 1 / 256, end=", ")
print("float64", double[4] > 1 / 256)
least = []  # the smallest scale in each coupling, at contrast 16
for part in (p for p in flow.modules() if isinstance(p, AffineCoupling)):
    part.conditioner.register_forward_hook(lambda net, x, h: least.append(h.chunk(2, 1)[1].min()))
flow.log_prob(0.5 + 16 * (photos[:64] - 0.5))
bound, scales = part.min_scale, torch.sigmoid(torch.stack(least) + 2)
print(f"most couplings have scales at their lower bound {bound}:", scales.median().item() < 1e-3)

# %% [markdown]
# **What we see.** The largest difference between $x$ and decode(encode($x$)), both axes
# logarithmic. On photographs both errors are far below a grey level. Off the data float32 (red)
# soon loses the picture, while float64 (blue) still has digits to spare. The reason: on strange
# inputs the couplings' scales run down to their lower bound (last line). To undo such a coupling
# multiplies its rounding error by a hundred, and the next layer may do it again. A flow is well
# conditioned *where it was trained*, and to leave that place is the whole purpose of an attack.
# That is why this package scores attacked images in float64.
#
# ## What you have learned
#
# * A flow's density is a bell curve times the factor by which its map stretches.
# * Couplings make that factor cheap and the map easy to invert. ActNorm sets the scale, matrices
#   let every coordinate move, squeezing makes channels, multi-scale lets finished latents go.
# * Autograd's Jacobian judges any log-determinant.
# * The worst step runs across the data, the short way out. The sharper the fit, the more it
#   costs.
# * Invertible on paper is not invertible in float32, least of all off the data.
#
# (More in [the paper, item by item](../docs/paper.md) and [its errata](../docs/errata.md).)

# %%
key = "log-det equals autograd's"
rows = [
    "a coupling's log-det is a sum (Dinh et al.) | equal to autograd's | agrees",
    "inverting needs no inverse network (Dinh et al.) | 12 digits back: "
    f"{report.float64 < 1e-12}; in float32 only near the data | agrees",
    f"matrices help (Kingma and Dhariwal) | on moons, NLL lower by 0.1: {all(laws.values())} | agrees",
    r"“$\log \det \vert\partial f/\partial z\vert$” (Pope et al., 2.1) | $\log\vert\det\vert$ is what "
    f"autograd confirms: {laws[key]} | slip",
    f"Theorem 3.1 is the linear flow's worst step (Pope et al.) | to 0.001: {off < 1e-3} | agrees",
    "“GLOW and RealNVP are extremely sensitive” (Pope et al.) | a small flow in the plane, over 3 "
    f"times the Gaussian: {ratio > 3} | cannot say: neither of the two; see 05 and 06",
]
table = ["the paper says | we measured | same?", "---|---|---", *rows]
display(Markdown("\n".join(f"| {row} |" for row in table)))

# %% [markdown]
# ## Exercises
#
# 1. **Why may a coupling use any network?** Write the inverse of beat 2's `coupling`. Use the sine
#    and the cosine, but not their inverses.
# 2. **Why is there an 8 in bits per dimension?** Measure $x$ in grey levels, so that every value
#    is 256 times as large. By how many bits does $-\log_2 p$ grow, per dimension?
# 3. **Why are two couplings not enough?** With a swap in between, how many does it take until
#    *each* output depends on *each* input? Then ask what one coupling can do to a bell curve.

# %%
undo = None  # exercise 1: a function from z to x, both (batch, 2)

# %%
print("your turn" if undo is None else torch.allclose(undo(coupling(some)[0]), some))


# %% tags=["solution"]
def undone(z):  # z1 is x1 in plain sight: shift and scale are computed again, never inverted
    x1, z2 = z[:, :1], z[:, 1:]
    return torch.cat((x1, z2 * (-0.4 * torch.cos(3 * x1)).exp() - torch.sin(2 * x1)), dim=1)


assert torch.allclose(undone(coupling(some)[0]), some)

# %%
more_bits = None  # exercise 2: a number

# %%
at, wide = torch.tensor(0.3), torch.distributions.Normal(0.0, 256.0)
measured = (normal.log_prob(at) - wide.log_prob(256 * at)) / torch.tensor(2.0).log()
print("your turn" if more_bits is None else bool(abs(more_bits - measured) < 1e-4))

# %% tags=["solution"]
# Stretching by 256 = 2^8 divides a density by 2^8: beat 1 once more. What comes out is the
# probability of one grey level, and so bits/dim can be compared with the size of a file.
assert abs(measured - 8) < 1e-4

# %%
n = None  # exercise 3: a whole number


# %%
def entangled(count):
    f = Chain([AffineCoupling(flows.mlp(1, 2, 8, seeded(k)), flip=k % 2 > 0) for k in range(count)])
    for weight in f.double().parameters():  # a new coupling's last layer is zero: wake it up
        weight.data.normal_(generator=seeded(weight.numel()))
    return bool((jacobian(lambda v: f(v[None])[0], some[0]).abs() > 1e-12).all())


print("your turn" if n is None else entangled(n) and not entangled(n - 1))

# %% tags=["solution"]
# Two suffice to entangle. But given what stays, a coupling only shifts and scales the rest: a bell
# curve stays a bell curve. To bend one hump into two, as in beat 1, takes several turns.
assert entangled(2) and not entangled(1)

# %% [markdown]
# ## Further reading
#
# * Dinh, Sohl-Dickstein and Bengio, *Density Estimation Using Real NVP* (ICLR 2017); Kingma and
#   Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions* (NeurIPS 2018).
# * Papamakarios et al., *Normalizing Flows for Probabilistic Modeling and Inference* (JMLR 2021).
# * Behrmann et al., *Understanding and Mitigating Exploding Inverses in Invertible Neural
#   Networks* (AISTATS 2021): beat 7, in depth.
# * Next, notebook [05](05_attack_glow.ipynb): the attack of beat 4, in three thousand dimensions.
