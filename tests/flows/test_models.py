"""``flowrob.flows``: densities against independent code, architectures, sizes, numerics."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from flowrob import flows
from flowrob.flows import (
    ActNorm,
    AffineCoupling,
    Chain,
    InvertibleConv1x1,
    Logit,
    MaskedCoupling,
    MultiScale,
    Squeeze,
)
from flowrob.units import bits_per_dim


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomized(flow: flows.Flow, x: Tensor, scale: float = 0.1) -> flows.Flow:
    """``flow`` with random weights everywhere, and activations of order one on ``x``."""
    generator = seeded(11)

    def shake(parameter: Tensor) -> None:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter += (scale * noise).to(parameter)

    with torch.no_grad():
        for parameter in flow.parameters():
            shake(parameter)
        flow.initialize(x)
        for module in flow.modules():
            if isinstance(module, ActNorm):
                shake(module.bias)
                shake(module.log_scale)
    return flow


# The density, two ways


def glow_log_prob(
    state: dict[str, Tensor], x: Tensor, num_steps: int, num_levels: int, min_scale: float
) -> Tensor:
    """log p(x) of Glow with bounded scales, from the formulas and the tensors alone."""

    def zero_conv(name: str, h: Tensor) -> Tensor:
        h = F.conv2d(h, state[f"{name}.weight"], padding=1)
        h = h + state[f"{name}.bias"].view(1, -1, 1, 1)
        return h * (3.0 * state[f"{name}.log_gain"]).exp().view(1, -1, 1, 1)

    def couple(h: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        half = h.shape[1] // 2
        scale = min_scale + (1.0 - min_scale) / (1.0 + (-h[:, half:] - 2.0).exp())
        return (moved + h[:, :half]) * scale, scale.log().sum((1, 2, 3))

    log_prob = torch.zeros(len(x), dtype=x.dtype)
    for level in range(num_levels):
        prefix = f"bijection.levels.{level}.bijections"
        n, c, height, width = x.shape
        z = torch.empty(n, 4 * c, height // 2, width // 2, dtype=x.dtype)
        for channel in range(c):
            for i in range(2):
                for j in range(2):
                    z[:, 4 * channel + 2 * i + j] = x[:, channel, i::2, j::2]
        x, pixels = z, height * width // 4
        for k in range(num_steps):
            actnorm, conv, net = (f"{prefix}.{3 * k + i}" for i in (1, 2, 3))
            log_scale = state[f"{actnorm}.log_scale"]
            for channel in range(4 * c):
                shifted = x[:, channel] + state[f"{actnorm}.bias"][channel]
                z[:, channel] = shifted * log_scale[channel].exp()
            log_prob = log_prob + pixels * log_scale.sum()
            diagonal = torch.diag(state[f"{conv}.sign"] * state[f"{conv}.log_scale"].exp())
            lower = torch.tril(state[f"{conv}.lower_upper"], -1) + torch.eye(4 * c, dtype=x.dtype)
            upper = torch.triu(state[f"{conv}.lower_upper"], 1) + diagonal
            matrix = state[f"{conv}.permutation"] @ lower @ upper
            x = torch.stack(
                [sum(matrix[i, j] * z[:, j] for j in range(4 * c)) for i in range(4 * c)], dim=1
            )
            log_prob = log_prob + pixels * torch.linalg.det(matrix).abs().log()
            kept, moved = x[:, : 2 * c], x[:, 2 * c :]
            net = f"{net}.conditioner"
            h = F.conv2d(kept, state[f"{net}.0.weight"], state[f"{net}.0.bias"], padding=1).relu()
            h = F.conv2d(h, state[f"{net}.2.weight"], state[f"{net}.2.bias"]).relu()
            moved, term = couple(zero_conv(f"{net}.4", h), moved)
            x, log_prob = torch.cat((kept, moved), dim=1), log_prob + term
            z = torch.empty_like(x)
        if level < num_levels - 1:
            prior = f"{prefix}.{3 * num_steps + 1}.conditioner"
            x, leaving = x[:, : 2 * c], x[:, 2 * c :]
            leaving, term = couple(zero_conv(prior, x), leaving)
            log_prob = log_prob + term + gaussian(leaving)
    return log_prob + gaussian(x)


def gaussian(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + math.log(2.0 * math.pi)).sum((1, 2, 3))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("shape", "min_scale"), [((3, 16, 8), 0.01), ((1, 8, 8), 0.0)])
def test_glow_agrees_with_an_independent_implementation(shape, min_scale, dtype, rtol):
    x = torch.rand(4, *shape, generator=seeded(), dtype=dtype)
    flow = flows.glow(shape, 3, 2, 8, min_scale=min_scale).to(dtype)
    randomized(flow, x)
    state = {key: value.detach() for key, value in flow.state_dict().items()}
    expected = glow_log_prob(state, x, num_steps=2, num_levels=3, min_scale=min_scale)
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_realnvp_agrees_with_its_layers_applied_by_hand(dtype, rtol):
    x = torch.rand(4, 3, 8, 8, generator=seeded(), dtype=dtype)
    flow = randomized(flows.realnvp((3, 8, 8), 2, 6, 1).to(dtype), x, scale=0.05)
    y = 0.05 + 0.9 * x
    h = (y / (1.0 - y)).log()
    log_prob = (0.9 / (y * (1.0 - y))).log().sum((1, 2, 3))

    def couple(layer, condition: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        net = layer.conditioner
        first = net.first.parametrizations.weight
        direction = first.original1 / first.original1.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        features = F.conv2d(condition, first.original0 * direction, net.first.bias, padding=1)
        features = features + net.blocks[0](features)
        out = net.last(features.relu())
        shift, raw = out[:, : out.shape[1] // 2], out[:, out.shape[1] // 2 :]
        log_scale = 2.0 * torch.tanh(raw / 2.0)
        return (moved + shift) * log_scale.exp(), log_scale

    def actnorm(layer: ActNorm, h: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = layer.log_scale.view(1, -1, 1, 1)
        z = (h + layer.bias.view(1, -1, 1, 1)) * log_scale.exp()
        return z, log_scale.expand_as(h[:1]).sum()

    def masked(layers, parity: int) -> None:
        nonlocal h, log_prob
        h, term = actnorm(layers[0], h)
        rows, columns = torch.meshgrid(
            torch.arange(h.shape[2]), torch.arange(h.shape[3]), indexing="ij"
        )
        kept = (rows + columns) % 2 == parity
        moved, log_scale = couple(layers[1], torch.where(kept, h, 0.0), h)
        h = torch.where(kept, h, moved)
        log_prob = log_prob + term + torch.where(kept, 0.0, log_scale).sum((1, 2, 3))

    first, last = flow.bijection.bijections[1].levels
    for index, parity in enumerate((0, 1, 0)):
        masked(first.bijections[2 * index : 2 * index + 2], parity)
    h = F.pixel_unshuffle(h, 2)
    for index, flip in enumerate((False, True, False)):
        layers = first.bijections[7 + 2 * index : 9 + 2 * index]
        h, term = actnorm(layers[0], h)
        halves = [h[:, :6], h[:, 6:]]
        halves[not flip], log_scale = couple(layers[1], halves[flip], halves[not flip])
        h = torch.cat(halves, dim=1)
        log_prob = log_prob + term + log_scale.sum((1, 2, 3))
    h, leaving = h[:, :6], h[:, 6:]
    for index, parity in enumerate((0, 1, 0, 1)):
        masked(last.bijections[2 * index : 2 * index + 2], parity)
    expected = log_prob + gaussian(h) + gaussian(leaving)
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=rtol, atol=0)


def test_a_density_on_the_plane_integrates_to_one():
    side = torch.linspace(-10.0, 10.0, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    data = torch.randn(200, 2, generator=seeded(), dtype=torch.float64)
    flow = randomized(flows.plane_flow(4, 16).double(), data)
    with torch.no_grad():
        density = flow.log_prob(grid).exp()
    cell = float(side[1] - side[0]) ** 2
    assert float(density.sum()) * cell == pytest.approx(1.0, abs=1e-3)
    mean = (grid * density[:, None]).sum(0) * cell
    samples = flow.sample(20_000, seeded(1))
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.05)


def test_a_plane_flow_learns_a_ring_that_no_gaussian_fits():
    angle = 2.0 * math.pi * torch.rand(400, generator=seeded())
    points = torch.stack((angle.cos(), angle.sin()), dim=1)
    points += 0.1 * torch.randn(400, 2, generator=seeded(1))
    flow = flows.plane_flow(6, 16)
    flow.initialize(points)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -flow.log_prob(points).mean()
        loss.backward()
        optimizer.step()
    gaussian_nll = 0.5 * torch.logdet(torch.cov(points.T)) + 1.0 + math.log(2.0 * math.pi)
    assert float(loss.detach()) < float(gaussian_nll) - 0.3
    middle = flow.log_prob(torch.zeros(1, 2)).item()
    assert middle < flow.log_prob(points).median().item() - 2.0


# What a Flow promises

SMALL = {
    "glow": lambda: flows.glow((3, 8, 8), 2, 2, 8),
    "glow, published": lambda: flows.glow((3, 8, 8), 2, 2, 8, min_scale=0.0, published_prior=True),
    "realnvp": lambda: flows.realnvp((3, 8, 8), 2, 4, 1),
    "plane_flow": lambda: flows.plane_flow(3, 8),
}
every_flow = pytest.mark.parametrize("name", SMALL)


def small(name: str, dtype: torch.dtype = torch.float64) -> tuple[flows.Flow, Tensor]:
    flow = SMALL[name]().to(dtype)
    x = torch.rand(6, *flow.event_shape, generator=seeded(), dtype=dtype)
    return randomized(flow, x, scale=0.05), x


@every_flow
def test_encode_and_decode_keep_every_latent(name):
    flow, x = small(name)
    z = flow.encode(x)
    assert z.numel() == x.numel() and flow.num_dims == x[0].numel()
    torch.testing.assert_close(flow.decode(z), x, rtol=0, atol=1e-9)
    assert torch.equal(flow(x), flow.log_prob(x))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + flow.bijection(x)[1]
    torch.testing.assert_close(flow.log_prob(x), expected)


@every_flow
def test_bits_per_dim_is_the_log_prob_in_other_units(name):
    flow, x = small(name)
    bits = flow.bits_per_dim(x)
    assert torch.equal(bits, bits_per_dim(flow.log_prob(x), flow.num_dims))
    expected = [8 - math.log2(math.e) * p / x[0].numel() for p in flow.log_prob(x).tolist()]
    torch.testing.assert_close(bits, torch.tensor(expected, dtype=torch.float64))
    x.requires_grad_(True)  # an attack on the one is an attack on the other
    (gradient,) = torch.autograd.grad(flow.bits_per_dim(x).sum(), x)
    (nats,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, -nats / (flow.num_dims * math.log(2.0)))
    with pytest.raises(ValueError, match="x must have shape"):
        flow.bits_per_dim(x[..., :1])


def test_a_flow_that_knows_nothing_pays_eight_bits():
    """Uniform on the unit square has density 1: no bit of a grey level is saved."""
    flow = flows.Flow(_ToNormal(), (2,))
    x = torch.rand(5, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(flow.bits_per_dim(x), torch.full((5,), 8.0, dtype=torch.float64))


class _ToNormal(flows.Bijection):
    """z = Phi^-1(x), which makes the unit square standard normal."""

    def forward(self, x):
        z = torch.special.ndtri(x)
        return z, (0.5 * z.square() + 0.5 * math.log(2.0 * math.pi)).sum(1)


@every_flow
def test_samples_come_from_the_generator_and_have_the_temperature(name):
    flow, _ = small(name)
    before = torch.random.get_rng_state()
    one, two = flow.sample(5, seeded(3)), flow.sample(5, seeded(3))
    assert torch.equal(one, two) and one.shape == (5, *flow.event_shape)
    assert not torch.equal(one, flow.sample(5, seeded(4)))
    assert torch.equal(torch.random.get_rng_state(), before)
    noise = torch.randn(5, flow.num_dims, generator=seeded(3)).double()
    torch.testing.assert_close(flow.decode(0.7 * noise), flow.sample(5, seeded(3), 0.7))


@every_flow
def test_weights_depend_on_the_generator_alone(name):
    torch.manual_seed(1)
    one = SMALL[name]().state_dict()
    torch.manual_seed(2)
    two = SMALL[name]().state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = flows.glow((3, 8, 8), 2, 2, 8, generator=seeded(5)).state_dict()
    assert not torch.equal(
        other["bijection.levels.0.bijections.3.conditioner.0.weight"],
        SMALL["glow"]().state_dict()["bijection.levels.0.bijections.3.conditioner.0.weight"],
    )


@every_flow
def test_config_builds_the_same_architecture(name):
    flow = SMALL[name]()
    config = dict(flow.config)
    again = getattr(flows, config.pop("kind"))(**config)
    shapes = {key: value.shape for key, value in flow.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert repr(again) == repr(flow) and again.config == flow.config


@every_flow
def test_the_first_step_starts_from_identity_couplings(name):
    flow = SMALL[name]()
    x = torch.rand(6, *flow.event_shape, generator=seeded())
    flow.initialize(x)
    for module in flow.modules():
        if isinstance(module, AffineCoupling | MaskedCoupling):
            last = module.conditioner
            last = getattr(
                last, "last", last[-1] if isinstance(last, torch.nn.Sequential) else last
            )
            assert torch.count_nonzero(last.weight) == 0 and torch.count_nonzero(last.bias) == 0
    assert flow.log_prob(x).isfinite().all()


@every_flow
def test_wrong_inputs_are_refused(name):
    flow, x = small(name)
    with pytest.raises(
        TypeError, match=r"must be a floating-point tensor.*torch.uint8.*dequantize"
    ):
        flow.log_prob(x.to(torch.uint8))
    with pytest.raises(TypeError, match="ndarray"):
        flow.encode(x.numpy())
    with pytest.raises(ValueError, match=r"x must have shape \(batch, .*, got \(6, "):
        flow.log_prob(x[..., :1])
    with pytest.raises(ValueError, match=rf"z must hold {flow.num_dims} latents"):
        flow.decode(torch.zeros(2, flow.num_dims + 1).double())
    for bad in (x[:0], x * math.nan):
        with pytest.raises(ValueError, match="at least one sample and only finite numbers"):
            flow.initialize(bad)


@pytest.mark.gpu
@every_flow
def test_the_gpu_gives_the_same_density_and_gradient(name):
    flow, x = small(name)
    x.requires_grad_(True)
    log_prob = flow.log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    on_gpu = x.detach().cuda().requires_grad_(True)
    log_prob_gpu = flow.cuda().log_prob(on_gpu)
    (gradient_gpu,) = torch.autograd.grad(log_prob_gpu.sum(), on_gpu)
    torch.testing.assert_close(log_prob_gpu.cpu(), log_prob)
    torch.testing.assert_close(gradient_gpu.cpu(), gradient)
    assert flow.sample(2, seeded()).device.type == "cuda"


# Architectures


def kinds(chain) -> list[type]:
    return [type(bijection) for bijection in chain]


def test_glow_is_the_published_list():
    flow = flows.glow((3, 8, 8), 2, 3, 8)
    steps = 3 * [ActNorm, InvertibleConv1x1, AffineCoupling]
    first, last = flow.bijection.levels
    assert kinds(first) == [Squeeze, *steps, AffineCoupling]
    assert kinds(last) == [Squeeze, *steps]
    assert flow.bijection.shapes == [(6, 4, 4), (24, 2, 2)]
    published = flows.glow((3, 8, 8), 2, 3, 8, published_prior=True)
    assert kinds(published.bijection.levels[-1]) == [Squeeze, *steps, ActNorm]
    assert published.bijection.levels[0].bijections[-1].log_range == math.inf


def test_realnvp_is_the_published_list():
    flow = flows.realnvp((3, 16, 16), 3, 4, 2, log_range=1.5)
    logit, multiscale = flow.bijection
    assert type(logit) is Logit and logit.alpha == 0.05
    masked, halved = [ActNorm, MaskedCoupling], [ActNorm, AffineCoupling]
    assert [kinds(level) for level in multiscale.levels] == [
        [*3 * masked, Squeeze, *3 * halved],
        [*3 * masked, Squeeze, *3 * halved],
        4 * masked,
    ]
    assert multiscale.shapes == [(6, 8, 8), (12, 4, 4), (12, 4, 4)]
    couplings = [m for m in flow.modules() if isinstance(m, MaskedCoupling | AffineCoupling)]
    assert [m.conditioner.first.out_channels for m in couplings] == [
        *(3 * [4] + 3 * [8]),
        *(3 * [8] + 3 * [16]),
        *(4 * [16]),
    ]
    assert all(len(m.conditioner.blocks) == 2 and m.log_range == 1.5 for m in couplings)
    corners = [int(m.mask[0, 0, 0]) for m in couplings if isinstance(m, MaskedCoupling)]
    assert corners == [1, 0, 1, 1, 0, 1, 1, 0, 1, 0]
    flips = [m.flip for m in couplings if isinstance(m, AffineCoupling)]
    assert flips == 2 * [False, True, False]
    convs = [m for m in flow.modules() if type(m).__name__ == "ParametrizedConv2d"]
    assert len(convs) == len(couplings) * 5
    assert all(parametrize.is_parametrized(m, "weight") for m in convs)


def test_realnvp_reaches_every_pixel_from_every_pixel():
    """Three checkerboards and three channel-wise couplings leave no latent a copy of a pixel."""
    x = torch.rand(2, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    flow = randomized(flows.realnvp((1, 8, 8), 2, 8, 1).double(), x)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.encode(x)[0], x[:1])
    assert int((jacobian.reshape(64, 64) != 0).sum(1).min()) > 16


@pytest.mark.parametrize("build", [flows.glow, flows.realnvp])
@pytest.mark.parametrize("shape", [(1, 8, 12), (3, 12, 4)])
def test_any_image_that_can_be_halved(build, shape):
    x = torch.rand(3, *shape, generator=seeded(), dtype=torch.float64)
    flow = randomized(build(shape, 2, width=4).double(), x, scale=0.02)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flows.glow((3, 12, 12), 3), r"\(3, 12, 12\).*divisible by 8"),
        (lambda: flows.realnvp((3, 10, 10), 3), r"\(3, 10, 10\).*divisible by 4"),
        (lambda: flows.glow((32, 32)), r"image_shape must be .*, got \(32, 32\)"),
        (lambda: flows.realnvp(32), "image_shape must be .*, got 32"),
        (lambda: flows.glow(num_steps=0), "num_steps must be a positive integer, got 0"),
        (lambda: flows.realnvp(num_blocks=1.5), "num_blocks must be a positive integer, got 1.5"),
        (lambda: flows.plane_flow(width=-1), "width must be a positive integer, got -1"),
        (lambda: flows.realnvp(log_range=-1.0), "log_range must be positive, got -1.0"),
        (
            lambda: flows.published("glow-imagenet"),
            r"no published size 'glow-imagenet'.*'glow-cifar10'",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_draws_the_architecture():
    assert repr(flows.glow((3, 8, 8), 2, 2, 8)).splitlines() == [
        "Flow on 3x8x8: D = 192, 10,568 parameters",
        "  level 1: Squeeze -> 2 x [ActNorm -> InvertibleConv1x1 -> AffineCoupling]"
        " -> AffineCoupling => 6x4x4 latents",
        "  level 2: Squeeze -> 2 x [ActNorm -> InvertibleConv1x1 -> AffineCoupling]"
        " => 24x2x2 latents",
    ]
    assert repr(flows.realnvp((1, 8, 8), 2, 4, 1)).splitlines()[1:] == [
        "  Logit",
        "  level 1: 3 x [ActNorm -> MaskedCoupling] -> Squeeze -> 3 x [ActNorm -> AffineCoupling]"
        " => 2x4x4 latents",
        "  level 2: 4 x [ActNorm -> MaskedCoupling] => 2x4x4 latents",
    ]
    assert repr(flows.plane_flow(3, 8)).splitlines() == [
        "Flow on 2: D = 2, 348 parameters",
        "  3 x [ActNorm -> InvertibleConv1x1 -> AffineCoupling]",
    ]


# The published sizes


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("glow-cifar10", 43957200),
        ("glow-64", 110892624),
        ("realnvp-cifar10", 18_482_582),
        ("realnvp-64", 90_777_146),
    ],
)
def test_published_models_have_their_size_and_take_a_step(name, num_parameters):
    builder, arguments = flows.PUBLISHED[name]
    if name.endswith("-64"):  # weights do not depend on the image size: a small one is faster
        arguments = {**arguments, "image_shape": (3, 16, 16)}
    flow = builder(**arguments)
    assert flow.num_parameters == num_parameters
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(True)
    x = torch.rand(1, *flow.event_shape, generator=seeded())
    (-flow.log_prob(x).mean() / flow.num_dims).backward()
    grads = [p.grad for p in flow.parameters()]
    assert all(g is not None for g in grads)
    norm = float(torch.stack([g.norm() for g in grads]).norm())
    assert 0.0 < norm < math.inf
    before = flow.bijection.state_dict()
    before = {key: value.clone() for key, value in before.items() if key.endswith("bias")}
    torch.optim.SGD(flow.parameters(), lr=1e-3).step()
    after = flow.bijection.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())


def test_published_models_are_built_for_their_images():
    assert flows.published("realnvp-cifar10").event_shape == (3, 32, 32)
    shapes = {name: arguments["image_shape"] for name, (_, arguments) in flows.PUBLISHED.items()}
    assert all(shape == ((3, 64, 64) if "64" in n else (3, 32, 32)) for n, shape in shapes.items())


def test_every_published_model_is_tested():
    marks = test_published_models_have_their_size_and_take_a_step.pytestmark
    assert {name for name, _ in marks[0].args[1]} == set(flows.PUBLISHED)


# Numerics


@pytest.mark.parametrize("name", ["glow", "realnvp"])
def test_log_prob_and_its_gradient_are_finite_on_every_corner_of_the_box(name):
    flow, _ = small(name, torch.float32)
    x = (torch.rand(20, 3, 8, 8, generator=seeded(6)) > 0.5).float()
    x[0], x[1] = 0.0, 1.0
    x.requires_grad_(True)
    log_prob = flow.log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    assert log_prob.isfinite().all() and gradient.isfinite().all()


@every_flow
def test_invertibility_reports_errors_and_conditions(name):
    flow, x = small(name, torch.float32)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    report = flows.invertibility(flow, x)
    assert 0.0 < report.float64 < 1e-11 < report.float32 < 1e-3
    convs = {n: m for n, m in flow.named_modules() if isinstance(m, InvertibleConv1x1)}
    assert report.conditions.keys() == convs.keys()
    for conv_name, conv in convs.items():
        singular = torch.linalg.svdvals(conv.matrix().detach().double())
        expected = float(singular[0] / singular[-1])
        assert report.conditions[conv_name] == pytest.approx(expected)
    text = repr(report)
    assert "float32:" in text and "float64:" in text
    assert (f"condition of {len(convs)} 1x1" in text) == bool(convs)
    assert all(p.dtype == torch.float32 for p in flow.parameters())
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())


def test_invertibility_sees_a_flow_that_cannot_be_inverted():
    conv = InvertibleConv1x1(2)
    with torch.no_grad():
        conv.log_scale.copy_(torch.tensor([0.0, -30.0]))
        conv.lower_upper.fill_(1.0)
    flow = flows.Flow(Chain([conv]), (2,))
    report = flows.invertibility(flow, torch.randn(5, 2, generator=seeded()))
    assert report.float32 > 1e-3 and report.conditions["bijection.bijections.0"] > 1e12
    with torch.no_grad():
        conv.log_scale.copy_(torch.tensor([0.0, -math.inf]))
    assert flows.invertibility(flow, torch.ones(5, 2)).float64 == math.inf


def test_multiscale_shapes_add_up_to_the_image():
    for flow in (flows.glow(), flows.realnvp()):
        (multiscale,) = (m for m in flow.modules() if isinstance(m, MultiScale))
        assert sum(math.prod(shape) for shape in multiscale.shapes) == flow.num_dims
