# %% [markdown]
# # Build a flow
#
# | | |
# |---|---|
# | **Do** | build a density out of invertible pieces, train it, attack it from everywhere |
# | **Learn** | why Glow has exactly the parts it has, and what would break without each of them |
# | **Need** | the chain rule, determinants, training loops in PyTorch; [00](00_start_here.ipynb) for nats and bits/dim; [01](01_worst_case_of_a_gaussian.ipynb) for beat 4 |
# | **Minutes on 2 cores** | 25 to read, 2 to run |
# | **Paper sections** | 2.1 of Pope, Balaji and Feizi (AISTATS 2020), and section 5's two models |
#
# A *normalizing flow* is a density made of two things: a bell curve, its [base density](../docs/glossary.md#base-density), and an invertible map, a [bijection](../docs/glossary.md#bijection). Its parts
# come from two papers: [couplings](../docs/glossary.md#coupling-layer), squeezing and the [multi-scale](../docs/glossary.md#multi-scale) architecture from [RealNVP](../docs/glossary.md#realnvp) (Dinh et
# al.), ActNorm and the 1x1 convolution from Glow (Kingma and Dhariwal). Each is explained when its
# turn comes: it answers a failure of the one before it, and we let that fail first.

# %%
import ipywidgets
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch.autograd.functional import jacobian

from flowrob import data, flows, lessons, plots
from flowrob.attacks import L2Ball, lower_likelihood
from flowrob.flows import ActNorm, AffineCoupling, Chain, Flow, InvertibleConv1x1, Squeeze
from flowrob.lessons import check, grade, outcome, predict, rounded
from flowrob.linear import GaussianFlow, worst_case
from flowrob.training import Update, fit
from flowrob.units import dequantize
from flowrob.widgets import Explorer

plots.use_style()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## What it will do
#
# The data are two thousand points on two moons. Three kinds of parts, ten times each, are trained to
# make them likely: turn their sum of logarithms uphill, as one trains any network (here by [Adam](../docs/glossary.md#adam-adamax)). What the parts are is
# the subject of beats 1 to 3; first watch them work.


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
    return flow.double().requires_grad_(False)


# %%
moons, which = (torch.tensor(a) for a in make_moons(2500, noise=0.08, random_state=0))
points, held_out, which = moons[:2000].float(), moons[2000:].double(), which[:2000]


def coupling_layer(k):
    return AffineCoupling(flows.mlp(1, 2, 32, seeded(k)))


# %%
steps = [[ActNorm(2), InvertibleConv1x1(2, seeded(k)), coupling_layer(k)] for k in range(10)]
best = train(Flow(Chain([part for step in steps for part in step]), (2,)), points)
across, up = torch.linspace(-1.2, 2.2, 100), torch.linspace(-0.9, 1.4, 100)
upright = torch.stack(torch.meshgrid(across[::7], up, indexing="ij"), dim=2)
level = torch.stack(torch.meshgrid(up[::9], across, indexing="ij"), dim=2).flip(2)
grid, followed = torch.cat([upright, level]), points[which == 0][3]


def after(done, places):
    layers = [part for step in steps[:done] for part in step]
    return (
        Chain(layers)(places.double().reshape(-1, 2))[0].reshape(places.shape) if done else places
    )


# %%
def frame(ax, done):
    for line in after(done, grid):
        ax.plot(*line.T, color=plots.NOISE, lw=0.6, alpha=0.7)
    now, place = after(done, points), after(done, followed)
    plots.cloud(ax, now[which == 0], plots.DATA)
    plots.cloud(ax, now[which == 1], plots.RAISE)
    ax.plot(*place, "*", color=plots.ATTACK, ms=20, mec="white", mew=1.5)
    middle, half = now.mean(0), now.std() * 3
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    ax.set_title(f"after {done} of 10 steps" if done else "data")
    ax.set_aspect("equal")
    ax.set_axis_off()


figure, axes = plt.subplots(1, 5, figsize=(13, 2.9))
for ax, done in zip(axes, (0, 1, 3, 6, 10), strict=True):
    frame(ax, done)
alt = (
    "Five frames: two moons with a grid over them and one starred point. Step by step the grid "
    "bends and the moons straighten and merge into one round cloud, half blue, half amber; the "
    "star travels along."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Grid, moons and one point (star) on their way to one round cloud, a bell curve. The map
# is continuous, so neighbours stay neighbours; the empty gap between the moons has to go somewhere,
# and is squeezed into a thin seam. Around it the stretching changes abruptly. Remember that.
# Drive the film yourself, step by step:

# %% tags=["widget"]
slider = ipywidgets.IntSlider(value=0, max=10, description="steps done")
Explorer(lambda figure, done: frame(figure.subplots(), done) or "", {"done": slider}, (5, 5))

# %% [markdown]
# ## 1. Stretch a line
#
# The paper states the rule by which such a map makes a density:
#
# > "we can use *change of variables* to write the log density of a sample" (2.1)
#
# In words: no probability is lost; it only gets thinner where the map pulls points apart. If $z =
# f(x)$ is standard normal, the density of $x$ is that of $z$, times the factor by which $f$ stretches:
#
# $$p(x) = \mathcal N\bigl(f(x)\bigr)\,\bigl|f'(x)\bigr|, \qquad
# \log p(x) = \log \mathcal N(z) + \log\left|\tfrac{dz}{dx}\right|.$$
#
# Take $f(x) = (x^3 + x)/4$, flat in the middle and steep outside. The noise $z$ has one hump.

# %% tags=["predict"]
normal = torch.distributions.Normal(0.0, 1.0)
x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
z, slope = (x**3 + x) / 4, (3 * x**2 + 1) / 4
p_z = normal.log_prob(z).exp()
p_x = p_z * slope
tenths = torch.arange(1, 10).double() / 10
cuts = [0, *torch.searchsorted(z, normal.icdf(tenths)).tolist(), 6000]

predict("humps", "How many humps has the density of x?", options=["one", "two", "three"])

# %%
peaks = ((p_x[1:-1] > p_x[2:]) & (p_x[1:-1] > p_x[:-2])).sum().item()
outcome("humps", ["none", "one", "two", "three"][peaks])
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2))
plots.strips(left, z, p_z, z[cuts]).set(xlim=(-3, 3), xlabel="noise $z$", ylabel="density")
plots.curves(middle, x, [("", z, plots.THEORY)], xlabel="data $x$", ylabel="$z = f(x)$")
middle.set(xlim=(-2.5, 2.5), ylim=(-3, 3))
plots.strips(right, x, p_x, x[cuts]).set(xlim=(-2.5, 2.5), xlabel="data $x$")
alt = (
    "Left: a bell curve cut into ten numbered strips of equal area. Middle: the map, flat around "
    "0. Right: the same ten strips seen from x; those in the middle are wide and low, and there "
    "are two humps."
)
plots.show(figure, alt)
mass = torch.cat((torch.zeros(1).double(), torch.cumulative_trapezoid(p_x, x)))[cuts]
check(
    "the smallest strip of x holds {}, the largest {}",
    mass.diff().min(),
    mass.diff().max(),
    within=2e-3,
)
check("the total mass of x is {}, and should be {}", mass[-1], 1, within=1e-6, digits=3)

# %% [markdown]
# **What we see.** Left: the normal density, cut into ten strips of equal area. Right: the same strips
# seen from $x$, each still a tenth of the total. Where $f$ is flat (middle), a strip of $z$ becomes
# wide in $x$ and so has to become low: one hump has turned into two. That is the whole idea of a flow.
#
# ## 2. Couple two coordinates
#
# **The failure.** In $n$ dimensions $|f'|$ becomes the determinant of an $n \times n$ matrix of partial
# derivatives, the [Jacobian](../docs/glossary.md#jacobian). A 32 x 32 colour photograph has $n = 3072$: some $n^3/3$, ten billion,
# multiplications per image. And how does one invert a neural network? The paper's answer:
#
# > "RealNVP … is designed with *affine coupling layers*, essentially an invertible scale transformation"
# > (2.1)
#
# Leave half of the coordinates alone, and let them decide how the others are shifted and scaled, an [affine coupling](../docs/glossary.md#affine-coupling):
#
# $$z_1 = x_1, \qquad z_2 = \bigl(x_2 + t(x_1)\bigr)\, s(x_1).$$
#
# Then the [log-determinant](../docs/glossary.md#log-determinant) is a sum, $\log|\det| = \sum \log s(x_1)$. To invert, read $x_1$ off $z_1$ and
# compute $t$ and $s$ again: neither is ever inverted.
#
# <details><summary>Show why the Jacobian is triangular</summary>
#
# 1. Order the coordinates as $(x_1, x_2)$, each a block. $z_1 = x_1$ has derivative $I$ with respect to
#    $x_1$ and $0$ with respect to $x_2$.
# 2. $z_2$ depends on $x_2$ only through the factor $s(x_1)$: the block $\partial z_2/\partial x_2$ is
#    $\operatorname{diag}(s(x_1))$. The block $\partial z_2/\partial x_1$ is whatever the networks make
#    it.
# 3. So $J = \begin{pmatrix} I & 0 \\ * & \operatorname{diag}(s)\end{pmatrix}$, with zeros above the
#    diagonal.
# 4. The determinant of a triangular matrix is the product of its diagonal: $1 \cdots 1 \cdot \prod_j
#    s_j(x_1)$. The block $*$, the expensive one, does not enter.
#
# </details>


# %% tags=["predict"]
def coupling(x):
    x1, x2 = x[:, :1], x[:, 1:]
    shift, log_scale = torch.sin(2 * x1), 0.4 * torch.cos(3 * x1)
    return torch.cat((x1, (x2 + shift) * log_scale.exp()), dim=1), log_scale.sum(1)


def by_definition(f, x):
    size = x[0].numel()
    matrices = [jacobian(lambda v: f(v[None])[0].flatten(), one).reshape(size, -1) for one in x]
    return torch.linalg.slogdet(torch.stack(matrices)).logabsdet


predict(
    "lines",
    "Which lines of a square grid stay straight?",
    options=["vertical", "horizontal", "both"],
)

# %%
outcome("lines", "vertical")
ticks, fine = torch.linspace(-2, 2, 13), torch.linspace(-2, 2, 200)
upright = torch.stack(torch.meshgrid(ticks, fine, indexing="ij"), dim=2)
lines = torch.cat((upright, upright.flip(2)))
moved = coupling(lines.reshape(-1, 2))[0].reshape(lines.shape)
figure, axes = plt.subplots(1, 2, figsize=(7.5, 4.6), sharey=True)
plots.lines_in_plane(axes[0], lines).set(title="$x$", aspect="equal")
plots.lines_in_plane(axes[1], moved).set(title="$z$ = coupling($x$)", aspect="equal")
alt = (
    "A square grid before and after one coupling: vertical lines stay vertical, shifted and "
    "stretched; horizontal lines become waves."
)
plots.show(figure, alt)
some = torch.randn(50, 2, generator=seeded(0), dtype=torch.float64)
gap = (coupling(some)[1] - by_definition(coupling, some)).abs().max()
check("log-det by the formula and by autograd differ by {}", gap, at_most=1e-12)

# %% [markdown]
# **What we see.** Vertical lines (blue) stay vertical, each shifted and stretched as a whole; horizontal
# ones (amber) bend at will. Each cell changes its area by the factor $s(x_1)$, which the log-determinant
# records. **Two ways, same number:** `by_definition` takes all partial derivatives, by autograd. It is
# slow, but knows nothing of our formula. It will judge every part to come.
#
# ## 3. Standardise, then turn
#
# Now networks, the [conditioners](../docs/glossary.md#conditioner), choose $t$ and $s$. Ten couplings alone fail for two reasons that can be read off: $x_1$
# never moves, so it had better be standard normal already; and Glow's $s$ is a sigmoid, between 0 and 1,
# which can only shrink.
#
# [ActNorm](../docs/glossary.md#actnorm) gives every coordinate a learned shift and scale, $z_i = (x_i + b_i)\,e^{s_i}$, set at the
# start so that the data come out with mean 0 and variance 1. But to shift and scale $x_1$ does not change
# its shape. **A matrix** does: $z = Wx$ turns the plane, so that every coupling works on other
# coordinates than the last. On images it mixes the channels of each pixel, a [1x1 convolution](../docs/glossary.md#invertible-1x1-convolution); in the paper's words
#
# > "GLOW uses *invertible* $1 \times 1$ *convolutions* …, which utilizes learned permutations" (2.1)
#
# It is stored as $W = PLU$, a fixed permutation times a lower and an upper triangular matrix: of these
# the determinant is, again, a product of diagonals.

# %% tags=["predict"]
parts = {"couplings": [], "+ ActNorm": []}
for k in range(10):
    parts["couplings"] += [coupling_layer(k)]
    parts["+ ActNorm"] += [ActNorm(2), coupling_layer(k)]
fitted = {name: train(Flow(Chain(layers), (2,)), points) for name, layers in parts.items()}
fitted["+ matrix"] = best
nll = {name: -flow.log_prob(held_out).mean().item() for name, flow in fitted.items()}

predict(
    "moons",
    "Which of the three lists of parts shows two moons?",
    options=["all", "the last two", "the last one"],
)

# %%
outcome("moons", "the last one")
x1, x2 = torch.linspace(-1.8, 2.8, 231).double(), torch.linspace(-1.4, 1.9, 166).double()
grid = torch.cartesian_prod(x1, x2)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), sharey=True)
for ax, (name, flow) in zip(axes, fitted.items(), strict=True):
    plots.density(ax, x1, x2, flow.log_prob(grid).exp().reshape(231, 166))
    plots.cloud(ax, held_out[:200], plots.RAISE).set_title(f"{name}: NLL {nll[name]:.2f}")
    ax.label_outer()
alt = (
    "Three densities with held-out points: couplings alone make a vague blob, with ActNorm a "
    "curve that is dense at two places, with the matrix two clear moons."
)
plots.show(figure, alt)
f = best.bijection
gain = {name: nll["couplings"] - nll[name] for name in fitted}
check("ActNorm gains {} nats", gain["+ ActNorm"], at_least=0.1, digits=1)
check("the matrix gains {} more", gain["+ matrix"] - gain["+ ActNorm"], at_least=0.1, digits=1)
check("total mass: {}", best.log_prob(grid).exp().sum() * 0.02**2, at_least=0.999, at_most=1.001)
check(
    "log-det and autograd: {} apart",
    (f(some)[1] - by_definition(f, some)).abs().max(),
    at_most=1e-9,
)
check("there and back: {} off", (best.decode(best.encode(some)) - some).abs().max(), at_most=1e-9)

# %% [markdown]
# **What we see.** The densities, some held-out points (amber), and the mean negative log-likelihood (NLL,
# in nats) of all held-out ones. Couplings alone cannot even find the scale. With ActNorm the model knows
# how high the mass lies for each $x_1$, but along $x_1$ it is stuck with a bell curve. The matrix frees
# it, and the moons appear, all but for the faint bridge between them: a continuous map cannot tear one
# bell curve in two. The last lines printed are the judge: mass, log-determinant, [round trip](../docs/glossary.md#round-trip) (there and back).
#
# ## 4. Attack it from everywhere
#
# Of all steps of length at most $r$, one lowers the likelihood most. For a Gaussian it is known exactly
# (Theorem 3.1, notebook 01). For the flow we climb the NLL, as the paper does:
#
# > "First, we adapt the PGD attack to the flow-based models" (4)
#
# In the plane, for once, one can *see* an attack: the arrows of the next figure are the worst steps from
# a grid of points. The Gaussian's part along one line, its long axis.

# %% tags=["predict"]
radius = 0.15
gaussian = GaussianFlow.fit(points)
starts = torch.cartesian_prod(torch.linspace(-1.6, 2.6, 29), torch.linspace(-1.2, 1.7, 21)).double()
exact = worst_case(gaussian, starts, radius)
options = {"box": None, "num_steps": 20, "restarts": 4, "generator": seeded(0)}
climbed = lower_likelihood(best.log_prob, starts, L2Ball(radius), **options)

predict(
    "arrows",
    "Where do the flow's arrows point, inside a moon?",
    options=["along the moon", "across it", "away from the centre of all points"],
)

# %%
outcome("arrows", "across it")
figure, axes = plt.subplots(2, 1, figsize=(9, 12))
fields = [(gaussian, exact.delta, "Gaussian, exact"), (best, climbed.x - starts, "flow")]
for ax, (model, delta, title) in zip(axes, fields, strict=True):
    plots.density(ax, x1, x2, model.log_prob(grid).exp().reshape(231, 166))
    plots.field(ax, starts, delta, plots.ATTACK).set_title(title + ": worst step from every point")
alt = (
    "Two fields of arrows over densities. Over the Gaussian the arrows part along its long axis. "
    "Over the flow they part along the spine of each moon and run across it, and meet in the gap "
    "between the moons."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** Top: the Gaussian's field has one seam, its long axis. Bottom: the flow has a seam along
# the spine of each moon. From there arrows run *across* the moon, the short way out: the direction of
# least variance, which in the Gaussian was one line and now turns with the data. In the gap a second kind
# of seam appears, where arrows meet: the ditch between the moons. Far outside, the seams follow nothing
# but the network's whims.
#
# **Two ways, same number.** On the Gaussian the same ascent must find what the theorem says. On the flow
# there is no theorem, but in the plane we can simply try all directions. Then the question that matters:
# the flow fits far better than the Gaussian. Is it harder to fool?

# %% tags=["predict"]
again = lower_likelihood(gaussian.log_prob, starts, L2Ball(radius), **options)
off = (again.value - again.start_value - exact.drop).abs().max().item()
turn = torch.linspace(0, 2 * torch.pi, 121, dtype=torch.float64)
circle = radius * torch.stack((turn.cos(), turn.sin()), dim=1)
tried = -best.log_prob((starts[:, None] + circle).reshape(-1, 2)).reshape(-1, 121).amax(1)
missed = (tried - climbed.value > 0.1).sum().item()
check("Gaussian: ascent and theorem differ by {} nats", off, at_most=1e-3, noise=True)
check(
    f"flow: at {{}} of {len(starts)} points one of 120 directions beats the ascent",
    missed,
    at_most=6,
)

predict(
    "fooled",
    "The median worst step costs the flow how many times what it costs the Gaussian?",
    options=[0.2, 1, 5],
)

# %%
found = lower_likelihood(best.log_prob, held_out, L2Ball(radius), **options)
chance = circle[torch.randint(120, (500,), generator=seeded(1))]
drops = {"Gaussian, worst step": worst_case(gaussian, held_out, radius).drop}
drops["flow, random step"] = best.log_prob(held_out) - best.log_prob(held_out + chance)
drops["flow, worst step"] = found.value - found.start_value
lost = {name: drop.median().item() for name, drop in drops.items()}
ratio = lost["flow, worst step"] / lost["Gaussian, worst step"]
outcome("fooled", ratio, digits=1)
figure, ax = plt.subplots(figsize=(9, 2.8))
plots.before_after(ax, drops, (plots.THEORY, plots.NOISE, plots.ATTACK))
ax.set(xlabel="likelihood lost (nats), one mark per held-out point")
ax.set_xscale("symlog", linthresh=1)
ax.xaxis.set_major_formatter("{x:g}")
alt = (
    "Three rows of marks on a logarithmic axis: the Gaussian's worst step costs about half a "
    "nat, a random step costs the flow about as much, its worst step several nats."
)
plots.show(figure, alt)
better = -gaussian.log_prob(held_out).mean().item() - nll["+ matrix"]
check("the flow fits better by {} nats", better, at_least=0.5, digits=1)
check("its worst step costs {} times the Gaussian's", ratio, at_least=3, digits=1)

# %% [markdown]
# **What we see.** One mark per held-out point, bars at the medians. The better model loses far more to a
# worst step of the same length. That is no accident: to fit thin crescents a density *must* fall steeply
# beside them, and steep is what an attacker looks for. Notebook 02 proves this exchange for the Gaussian.
#
# ## 5. From the plane to images
#
# > "The special structure used in each $f_i$'s allows an efficient computation of the determinant." (2.1)
#
# **The failure.** A coupling splits channels into halves, and a colour pixel has three. A 1x1 convolution
# mixes the channels of *one* pixel and cannot see the next. Dinh et al. have two answers. A [mask](../docs/glossary.md#mask):
# colour the pixels like a chequerboard, and let the white ones move the black ones; then the other way
# round. RealNVP (notebook 06) does this. And a [squeeze](../docs/glossary.md#squeeze): every block of 2 x 2 pixels becomes one pixel
# with four times the channels. Values only move, so the log-determinant is 0. Glow does only this.

# %%
photos = dequantize(data.load("photos", size=8, split="test"), seeded(0)).double()
one = photos[photos.flatten(2).std(2).mean(1).argmax()][None]
squeezed = Squeeze()(one)[0]
board = (torch.arange(8)[:, None] + torch.arange(8)) % 2.0
figure, axes = plt.subplots(1, 4, figsize=(12, 3), width_ratios=(1, 1, 1, 2.2))
plots.image(axes[0], one[0], "3 channels of 8 x 8")
for ax, mask, title in (
    (axes[1], board, "mask: these move ..."),
    (axes[2], 1 - board, "... then these"),
):
    plots.image(ax, one[0] * mask + 0.6 * (1 - mask), title)
plots.image_grid(axes[3], squeezed[0][:, None], 6, "squeezed: 12 channels of 4 x 4")
alt = (
    "A crop of 8 by 8 pixels; the same with every other pixel blanked like a chequerboard, and "
    "its complement; and twelve grey pictures of 4 by 4 pixels, its channels after a squeeze, "
    "nearly alike."
)
plots.show(figure, alt)
check("a squeeze has log-det {}", by_definition(Squeeze(), one).abs(), at_most=1e-12)
check("there and back, it is {} off", (Squeeze().inverse(squeezed)[0] - one).abs().max(), equals=0)

# %% [markdown]
# **What we see.** Half of the pixels are a good guess at the other half, in both: that is what a coupling
# can use. The twelve channels, four per colour, are the same small picture, sampled at the four corners
# of the blocks.
#
# ## 6. Let half of it leave
#
# **The failure.** A flow may drop nothing, so squeeze after squeeze the channels pile up, every network
# gets wider, and all pixels pass through all layers. **The answer (Dinh et al.):** after each [level](../docs/glossary.md#level) half
# of the channels leave. They count as finished noise ([latents](../docs/glossary.md#latent)); the other half goes on. (In Glow they leave by one
# more coupling: what stays predicts the mean and the spread of what leaves, and these are subtracted and
# divided out.)
#
# With that, all parts of Glow are on the table. The package's `fit` is our loop with a few comforts.
# The paper, too, reports
#
# > "negative log-likelihood values in the units of bits per dimension" (5)
#
# of which eight are knowing nothing (notebook 00).

# %% tags=["predict"]
flow = flows.glow((3, 8, 8), num_levels=2, num_steps=4, width=32)
print(flow)
train_images = data.load("photos", size=8)
update = Update(learning_rate=3e-3, warmup_steps=30)
history = fit(flow, train_images, num_steps=300, update=update, progress=False)
flow.double().requires_grad_(False)
bits = flow.bits_per_dim(photos).mean().item()

predict(
    "bits", "How many bits/dim do held-out crops need after 300 steps?", options=[7.5, 5.5, 3, 1]
)

# %%
outcome("bits", bits, digits=1)
check("held-out crops need {} bits/dim", bits, at_most=6, digits=1)
figure, axes = plt.subplots(1, 3, figsize=(11, 3), width_ratios=(1.2, 1, 1))
smooth = torch.tensor(history.clean).unfold(0, 10, 1).mean(1)
line = [("", smooth, plots.DATA)]
plots.curves(axes[0], range(10, 301), line, xlabel="step", ylabel="NLL (bits/dim)")
plots.image_grid(axes[1], photos[:32], 8, "test crops")
plots.image_grid(axes[2], flow.sample(32, seeded(4), temperature=0.8), 8, "samples")
alt = (
    "Left: the NLL falls from above 7 to about 5 bits/dim in 300 steps. Middle: small test "
    "crops. Right: samples with similar colours and soft shapes."
)
plots.show(figure, alt)

# %% [markdown]
# **What we see.** The listing reads like the text: squeeze, four steps of ActNorm, matrix and coupling,
# half leaves; again. Left: the NLL falls, averaged over ten steps. Right: what the model draws, from noise
# with 0.8 of its usual spread (a [temperature](../docs/glossary.md#temperature) of 0.8: fewer oddities). It has learned a palette and that
# neighbours agree; shapes take the larger model of notebook 05.
#
# ## 7. How invertible is invertible?
#
# > "Since $f$ is invertible, inference can be performed as $\mathbf z = f^{-1}(\mathbf x)$." (2.1)
#
# On paper. A computer rounds, and every layer hands its rounding on. First the two laws, for a whole
# network in 192 dimensions. The [condition](../docs/glossary.md#condition-number) of a matrix is its largest stretch over its smallest: by so
# much it may amplify a rounding error. Then raise the contrast: move every pixel away from mid-grey, by a
# factor of 2, 4, 8 ... The next figure shows how far the flow then misses the way back.

# %% tags=["predict"]
gap = (flow.bijection(photos[:2])[1] - by_definition(flow.bijection, photos[:2])).abs().max()
report = flows.invertibility(flow, photos[:64])
check("log-det and autograd's 192 x 192 Jacobian: {} apart", gap, at_most=1e-6, noise=True)
check("float32, there and back: {} grey levels off", report.float32 * 256, at_most=0.01, noise=True)
check("float64, there and back: {} off", report.float64, at_most=1e-12)
check(
    "the greatest condition of a 1x1 convolution is {}",
    max(report.conditions.values()),
    at_most=20,
    digits=1,
)

predict(
    "contrast",
    "From which contrast on is float32 off by more than a grey level?",
    options=[2, 4, 16, 64],
)

# %%
contrast = [1, 2, 4, 8, 16, 32, 64]
reports = [flows.invertibility(flow, 0.5 + c * (photos[:64] - 0.5)) for c in contrast]
single, double = [r.float32 for r in reports], [r.float64 for r in reports]
outcome("contrast", next(c for c, r in zip(contrast, single, strict=True) if r > 1 / 256))
lines = [("float32", single, plots.ATTACK), ("float64", double, plots.DATA)]
lines += [("one grey level", [1 / 256] * 7, plots.NOISE)]
figure, ax = plt.subplots(figsize=(8, 3.6))
plots.curves(ax, contrast, lines, xlabel="contrast", ylabel="round-trip error", log="x")
plots.label_ends(ax.set(yscale="log", xticks=contrast, xticklabels=contrast) and ax)
alt = (
    "Round-trip error against contrast, both logarithmic. Float32 passes one grey level between "
    "contrast 2 and 8 and ends above 1000; float64 stays below one grey level throughout."
)
plots.show(figure, alt)
least = []  # the smallest scale in each coupling, at contrast 16
for part in (p for p in flow.modules() if isinstance(p, AffineCoupling)):
    part.conditioner.register_forward_hook(lambda net, x, h: least.append(h.chunk(2, 1)[1].min()))
flow.log_prob(0.5 + 16 * (photos[:64] - 0.5))
scale = (torch.sigmoid(torch.stack(least) + 2).median() + part.min_scale).item()
check("at contrast 16 the median coupling's least scale is {}", scale, at_most=0.011, digits=1)

# %% [markdown]
# **What we see.** The largest difference between $x$ and decode(encode($x$)). On photographs both errors
# are far below a grey level. Off the data float32 (red) soon loses the picture, while float64 (blue) has
# digits to spare. The reason: on strange inputs the couplings' scales run down to their lower bound, one
# hundredth (printed). Undoing such a coupling multiplies its rounding error by a hundred, and the
# next layer may do it again. A flow is well conditioned *where it was trained*, and to leave that place is
# the whole purpose of an attack. That is why this package scores attacked images in float64.
#
# ## What you have learned
#
# * A flow's density is a bell curve times the factor by which its map stretches.
# * Couplings make that factor cheap and the map easy to invert. ActNorm sets the scale, matrices let every
#   coordinate move, squeezing makes channels, multi-scale lets finished noise go.
# * Autograd's Jacobian judges any log-determinant.
# * The worst step runs across the data, the short way out. The sharper the fit, the more it costs.
# * Invertible on paper is not invertible in float32, least of all off the data.
#
# ## Further reading
#
# * Dinh, Sohl-Dickstein and Bengio, *Density Estimation Using Real NVP* (ICLR 2017); Kingma and
#   Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions* (NeurIPS 2018).
# * Behrmann et al., *Understanding and Mitigating Exploding Inverses in Invertible Neural Networks*
#   (AISTATS 2021): beat 7, in depth. [The paper, item by item](../docs/paper.md); [its
#   errata](../docs/errata.md).
# * Next on the class route: [05](05_attack_glow.ipynb), the attack of beat 4 in three thousand dimensions.

# %%
lessons.calibration()
lessons.verdicts([
    ("“affine coupling layers, essentially an invertible scale transformation”", "2.1",
     "log-det equal to autograd's to 12 digits", "agrees"),
    (r"“$\log \det \vert\partial f/\partial z\vert$”", "2.1",
     r"$\log\vert\det\vert$ is what autograd confirms, to 9 digits", "slip"),
    ("“invertible $1 \\times 1$ convolutions”", "2.1",
     f"without: NLL {rounded(nll['+ ActNorm'])}; with: {rounded(nll['+ matrix'], 1)} nats", "agrees, they help"),
    (r"“inference can be performed as $\mathbf z = f^{-1}(\mathbf x)$”", "2.1",
     "in float64; in float32 only near the data", "agrees, on paper"),
    ("Theorem 3.1 is the linear flow's worst step", "3.1", "ascent agrees to 0.001 nats", "agrees"),
    ("“GLOW and RealNVP are extremely sensitive”", "abstract",
     f"a small flow in the plane: {rounded(ratio, 1)} times the Gaussian",
     "cannot say: neither of the two; see 05 and 06"),
])  # fmt: skip

# %% [markdown]
# ## Exercises
#
# **1. Why may a coupling use any network?** Write the inverse of beat 2's `coupling`.
#
# <details><summary>Hint 1</summary>
#
# $x_1$ stands in plain sight: it is $z_1$. What can you compute from it?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Undo in reverse order: divide by the scale, then subtract the shift. You need the sine and the cosine,
# not their inverses.
#
# </details>

# %%
undo = None  # your answer: a function from z to x, both (batch, 2)
grade(undo, lambda z: some, at=[(coupling(some)[0],)])


# %% tags=["solution"]
def undone(z):
    x1, z2 = z[:, :1], z[:, 1:]
    return torch.cat((x1, z2 * (-0.4 * torch.cos(3 * x1)).exp() - torch.sin(2 * x1)), dim=1)


grade(undone, lambda z: some, at=[(coupling(some)[0],)])
# Shift and scale are computed again from z1 = x1, never inverted: any network will do.

# %% [markdown]
# **2. Why is there an 8 in bits per dimension?** Measured in grey levels every value is 256 times as large, and
# $-\log_2 p$ grows by $\log_2 256 = 8$ per dimension. A scanner tells 1,000 levels apart. What stands in the
# place of the 8 for its images, and what do 5 bits per dimension, counted in *its* levels, make in ours?
#
# <details><summary>Hint 1</summary>
#
# Beat 1: what happens to a density when its line is stretched by 1,000?
#
# </details>
# <details><summary>Hint 2</summary>
#
# It is divided by 1,000. Take the logarithm to base 2. Then go from levels to $x$, and from $x$ to our levels.
#
# </details>

# %%
in_bits = None  # your answer: torch.tensor([in the place of 8, the 5 bits in grey levels])
at, wide = torch.tensor(0.3), torch.distributions.Normal(0.0, 1000.0)
more = (normal.log_prob(at) - wide.log_prob(1000 * at)) / torch.tensor(2.0).log()
grade(in_bits, torch.stack((more, 5 - more + 8)))

# %% tags=["solution"]
scanner = torch.tensor(1000.0).log2()
grade(torch.stack((scanner, 5 - scanner + 8)), torch.stack((more, 5 - more + 8)))
# Bits/dim is the cost of one level, like a file's size: finer levels cost more, for the same image.

# %% [markdown]
# **3. How many couplings until all depends on all?** Take turns: the first coupling moves $x_2$, the
# second $x_1$, the third $x_2$ again. Write down, after each of the three, which output depends on which input.
#
# <details><summary>Hint 1</summary>
#
# After one: $z_1 = x_1$ depends on $x_1$ alone, and $z_2$ on both.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Which coordinate did the first coupling leave alone, and by what is it moved in the second?
#
# </details>


# %%
def depends(count):  # output i on input j: a 2 x 2 matrix of 0 and 1
    f = Chain([AffineCoupling(flows.mlp(1, 2, 8, seeded(k)), flip=k % 2 > 0) for k in range(count)])
    for weight in f.double().parameters():  # a new coupling's last layer is zero: wake it up
        weight.data.normal_(generator=seeded(weight.numel()))
    return (jacobian(lambda v: f(v[None])[0], some[0]).abs() > 1e-12)[0].double()


patterns = None  # your answer: a tensor of 0 and 1, (3, 2, 2): coupling, output, input
grade(patterns, torch.stack([depends(count) for count in (1, 2, 3)]))

# %% tags=["solution"]
after_one, all_on_all = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.ones(2, 2)
answer = torch.stack((after_one, all_on_all, all_on_all))
grade(answer, torch.stack([depends(count) for count in (1, 2, 3)]))
# Two entangle; but given what stays, a coupling only shifts and scales the rest: a bell curve stays a
# bell curve. To bend one hump into two, as in beat 1, takes several turns.
