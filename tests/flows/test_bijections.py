"""The laws of ``flowrob.flows.bijections``, in float64, over one list of every bijection and flow.

All parameters are randomised first: at its initial values half of a flow is the identity, and the
identity passes every law.
"""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

from flowrob import flows
from flowrob.flows import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    InvertibleConv1x1,
    Logit,
    MaskedCoupling,
    MultiScale,
    Squeeze,
    bijections,
    checkerboard,
    couplings,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_in, 8), nn.Tanh(), nn.Linear(8, n_out))


def net(c_in: int, c_out: int) -> nn.Module:
    return flows.conv_net(c_in, c_out, 5, seeded())


def step(channels: int) -> list[Bijection]:
    coupling = AffineCoupling(net(channels // 2, channels))
    return [ActNorm(channels), InvertibleConv1x1(channels), coupling]


def small_multiscale() -> MultiScale:
    levels = [
        Chain([MaskedCoupling(net(1, 2), checkerboard(8, 4)), Squeeze(), *step(4)]),
        Chain([Squeeze(), *step(8)]),
        Chain([MaskedCoupling(net(4, 8), checkerboard(2, 1, 1))]),
    ]
    return MultiScale(levels, (1, 8, 4))


# name -> (how to build it, the shape of one input). Every bijection of the package is here.
REGISTRY = {
    "ActNorm": (lambda: ActNorm(3), (3, 2, 3)),
    "ActNorm, features": (lambda: ActNorm(3), (3,)),
    "InvertibleConv1x1": (lambda: InvertibleConv1x1(4, seeded(1)), (4, 2, 3)),
    "InvertibleConv1x1, features": (lambda: InvertibleConv1x1(3, seeded(2)), (3,)),
    "Squeeze": (Squeeze, (2, 4, 6)),
    "AffineCoupling": (lambda: AffineCoupling(net(2, 4)), (4, 3, 2)),
    "AffineCoupling, flip": (lambda: AffineCoupling(net(2, 4), flip=True), (4, 3, 2)),
    "AffineCoupling, as published": (lambda: AffineCoupling(net(2, 4), min_scale=0.0), (4, 3, 2)),
    "AffineCoupling, tanh": (lambda: AffineCoupling(net(2, 4), log_range=1.5), (4, 3, 2)),
    "AffineCoupling, exp": (lambda: AffineCoupling(net(2, 4), log_range=math.inf), (4, 3, 2)),
    "AffineCoupling, features": (lambda: AffineCoupling(mlp(2, 4)), (4,)),
    "MaskedCoupling": (lambda: MaskedCoupling(net(3, 6), checkerboard(4, 4)), (3, 4, 4)),
    "MaskedCoupling, tanh": (
        lambda: MaskedCoupling(net(1, 2), checkerboard(4, 3, 1), log_range=2.0),
        (1, 4, 3),
    ),
    "MaskedCoupling, features": (
        lambda: MaskedCoupling(mlp(3, 6), torch.tensor([1.0, 0.0, 1.0])),
        (3,),
    ),
    "Logit": (Logit, (2, 3, 2)),
    "Chain": (lambda: Chain([Squeeze(), *step(4), *step(4), ActNorm(4)]), (1, 4, 4)),
    "MultiScale": (small_multiscale, (1, 8, 4)),
    "glow": (lambda: flows.glow((3, 4, 4), 2, 2, 6).bijection, (3, 4, 4)),
    "glow, as published": (
        lambda: flows.glow((1, 8, 4), 2, 2, 6, min_scale=0.0, published_prior=True).bijection,
        (1, 8, 4),
    ),
    "realnvp": (lambda: flows.realnvp((3, 4, 4), 2, 4, 1).bijection, (3, 4, 4)),
    "realnvp, gray": (lambda: flows.realnvp((1, 4, 8), 2, 4, 2).bijection, (1, 4, 8)),
    "plane_flow": (lambda: flows.plane_flow(3, 8).bijection, (2,)),
}


def build(name: str) -> tuple[Bijection, torch.Tensor]:
    """The bijection in float64 with random parameters, and five inputs in (0.1, 0.9)."""
    make, shape = REGISTRY[name]
    bijection = make().double()
    x = 0.1 + 0.8 * torch.rand(5, *shape, generator=seeded(3), dtype=torch.float64)
    generator = seeded(4)

    def randomize(parameter: torch.Tensor) -> None:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter += 0.1 * noise

    with torch.no_grad():
        for parameter in bijection.parameters():
            randomize(parameter)
        bijection.initialize(x)  # after the others, or the activations would grow without bound
        for module in bijection.modules():
            if isinstance(module, ActNorm):
                randomize(module.bias)
                randomize(module.log_scale)
    return bijection, x


every_bijection = pytest.mark.parametrize("name", REGISTRY)


def test_the_registry_is_complete():
    public = {
        cls
        for module in (bijections, couplings)
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Bijection) and not cls.__name__.startswith("_")
    }
    seen = {type(module) for make, _ in REGISTRY.values() for module in make().modules()}
    assert public - seen == {Bijection}


@every_bijection
def test_round_trips(name):
    bijection, x = build(name)
    z, log_det = bijection(x)
    back, inverse_log_det = bijection.inverse(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)
    # and from latents that no data point has (near ones: a logit saturates far out)
    latents = z.detach() + 0.01 * torch.randn(z.shape, generator=seeded(5), dtype=torch.float64)
    sample, inverse_log_det = bijection.inverse(latents)
    again, log_det = bijection(sample)
    torch.testing.assert_close(again, latents, rtol=0, atol=1e-8)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-8, atol=1e-8)


@every_bijection
def test_log_det_is_that_of_the_jacobian_and_inverse_is_differentiable(name):
    bijection, x = build(name)
    x = x[:1]
    z, log_det = bijection(x)
    jacobian = torch.autograd.functional.jacobian(lambda x: bijection(x)[0].flatten(), x)
    jacobian = jacobian.reshape(x.numel(), x.numel())
    assert log_det.shape == (1,)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(log_det[0], expected, rtol=1e-9, atol=1e-9)
    inverse = torch.autograd.functional.jacobian(lambda z: bijection.inverse(z)[0].flatten(), z)
    product = inverse.reshape(x.numel(), x.numel()) @ jacobian
    identity = torch.eye(x.numel(), dtype=torch.float64)
    torch.testing.assert_close(product, identity, rtol=0, atol=1e-8)


@every_bijection
def test_samples_do_not_see_each_other(name):
    bijection, x = build(name)
    z, log_det = bijection(x)
    assert log_det.shape == (5,)
    others = x.clone()
    others[1:] = others[1:].flip(0) * 0.5
    for z_i, log_det_i in (bijection(others), bijection(x[:1])):
        torch.testing.assert_close(z_i[0], z[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_det_i[0], log_det[0], rtol=1e-12, atol=1e-12)
    back, inverse_log_det = bijection.inverse(z)
    alone, alone_log_det = bijection.inverse(z[:1])
    torch.testing.assert_close(alone[0], back[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone_log_det[0], inverse_log_det[0], rtol=1e-12, atol=1e-12)


@every_bijection
def test_deterministic_in_train_and_eval_and_inputs_survive(name):
    bijection, x = build(name)
    before, state = x.clone(), {k: v.clone() for k, v in bijection.state_dict().items()}
    z, log_det = bijection.train()(x)
    z_before = z.detach().clone()
    bijection.inverse(z)
    for mode in (True, False):
        again, log_det_again = bijection.train(mode)(x)
        assert torch.equal(again, z) and torch.equal(log_det_again, log_det)
    assert torch.equal(x, before) and torch.equal(z, z_before)
    assert all(torch.equal(v, state[k]) for k, v in bijection.state_dict().items())


@every_bijection
def test_state_dict_round_trip(name):
    bijection, x = build(name)
    fresh = REGISTRY[name][0]().double()
    fresh.load_state_dict(bijection.state_dict())
    for mine, other in zip(fresh(x), bijection(x), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(fresh.inverse(fresh(x)[0])[0], bijection.inverse(bijection(x)[0])[0])


@every_bijection
def test_gradients_reach_the_input_and_every_parameter(name):
    """An attack differentiates in x, training in the parameters."""
    bijection, x = build(name)
    x.requires_grad_(True)
    z, log_det = bijection(x)
    objective = (log_det - 0.5 * z.flatten(1).square().sum(1)).sum()
    parameters = list(bijection.parameters())
    grads = torch.autograd.grad(objective, [x, *parameters])
    assert all(bool(g.isfinite().all()) for g in grads)
    assert all(bool((g != 0).any()) for g in grads)


# What each layer computes, from its formula


def test_actnorm_must_be_initialised_first_and_only_by_initialize():
    actnorm = ActNorm(2)
    x = 3.0 + 2.0 * torch.randn(50, 2, 4, 4, generator=seeded())
    for use in (actnorm, actnorm.inverse):
        with pytest.raises(ValueError, match="initialize"):
            use(x)
    flow = flows.glow((3, 4, 4), 1, 1, 4)
    with pytest.raises(ValueError, match="initialize"):
        flow.train().log_prob(torch.rand(2, 3, 4, 4))
    assert not any(m.initialized for m in flow.modules() if isinstance(m, ActNorm))
    conv = InvertibleConv1x1(2)
    with pytest.raises(ValueError, match="initialize"):
        conv.forward_after(actnorm, x)


def test_actnorm_initialises_to_mean_0_and_variance_1_and_stays_there():
    actnorm = ActNorm(2)
    x = torch.randn(50, 2, 4, 4, generator=seeded()) * torch.tensor([0.1, 7.0]).view(1, 2, 1, 1) + 5
    z = actnorm.initialize(x)
    for values in (z, actnorm(x)[0]):
        torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-4)
        torch.testing.assert_close(values.var((0, 2, 3), correction=0), torch.ones(2))
    attacked = actnorm(x + 100.0)[0]  # no batch statistics: the shift must be seen
    assert float(attacked.mean().detach()) > 10.0
    constant = ActNorm(2).initialize(torch.full((4, 2), 0.5))
    assert torch.equal(constant, torch.zeros(4, 2))


def test_actnorm_flag_travels_with_the_state_dict():
    trained, fresh = ActNorm(2), ActNorm(2)
    x = torch.randn(20, 2, generator=seeded())
    trained.initialize(x)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x)[0], trained(x)[0])
    trained.load_state_dict(ActNorm(2).state_dict())  # loading an untrained state resets it
    with pytest.raises(ValueError, match="not initialised"):
        trained(x)


def test_actnorm_formula():
    actnorm, x = build("ActNorm")
    b, s = actnorm.bias.detach(), actnorm.log_scale.detach()
    expected = (x + b.view(3, 1, 1)) * s.exp().view(3, 1, 1)
    torch.testing.assert_close(actnorm(x)[0], expected)


def test_conv1x1_starts_as_a_rotation_and_is_p_l_u():
    conv = InvertibleConv1x1(5, seeded(7)).double()
    w = conv.matrix().detach()
    torch.testing.assert_close(w @ w.mT, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(conv.log_scale.sum().detach()) == pytest.approx(0.0, abs=1e-6)
    assert not torch.equal(w, InvertibleConv1x1(5, seeded(8)).double().matrix())
    lower = conv.lower_upper.detach().tril(-1) + torch.eye(5, dtype=torch.float64)
    upper = conv.lower_upper.detach().triu(1) + torch.diag(
        conv.sign * conv.log_scale.detach().exp()
    )
    assert not torch.equal(conv.permutation, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(w, conv.permutation @ lower @ upper)
    with torch.no_grad():  # the diagonal is not part of the parameters
        conv.lower_upper.add_(torch.eye(5))
    assert torch.equal(conv.matrix(), w)
    torch.testing.assert_close(conv.inverse_matrix() @ w, torch.eye(5, dtype=torch.float64))
    x = torch.randn(2, 5, 3, 3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(conv(x)[0], torch.einsum("ij,njhw->nihw", w, x))


def test_actnorm_folded_into_conv1x1_equals_one_by_one():
    for shape in ((6, 4, 3), (6,)):
        x = torch.randn(5, *shape, generator=seeded(), dtype=torch.float64)
        chain = Chain([ActNorm(6), InvertibleConv1x1(6), ActNorm(6), ActNorm(6)]).double()
        chain.initialize(x * 3.0 + 1.0)
        with torch.no_grad():
            for parameter in chain.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(9))
        z, log_det = x, torch.zeros(5, dtype=torch.float64)
        for bijection in chain:
            z, term = bijection(z)
            log_det = log_det + term
        torch.testing.assert_close(chain(x)[0], z)
        torch.testing.assert_close(chain(x)[1], log_det)


def test_squeeze_takes_2x2_blocks_and_keeps_neighbours_together():
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    z, log_det = Squeeze()(x)
    assert z.shape == (1, 8, 2, 2) and torch.equal(log_det, torch.zeros(1))
    for c in range(2):
        for i in range(2):
            for j in range(2):
                assert torch.equal(z[0, 4 * c + 2 * i + j], x[0, c, i::2, j::2])
    with pytest.raises(ValueError, match="even height and width, got 3x4"):
        Squeeze()(torch.zeros(1, 1, 3, 4))
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        Squeeze().inverse(torch.zeros(1, 6, 2, 2))


def test_affine_coupling_formula_and_which_half_it_keeps():
    for name, kept, moved in (
        ("AffineCoupling", slice(0, 2), slice(2, 4)),
        ("AffineCoupling, flip", slice(2, 4), slice(0, 2)),
    ):
        coupling, x = build(name)
        z, log_det = coupling(x)
        h = coupling.conditioner(x[:, kept])
        scale = 0.01 + 0.99 / (1.0 + (-h[:, 2:] - 2.0).exp())
        assert torch.equal(z[:, kept], x[:, kept])
        torch.testing.assert_close(z[:, moved], (x[:, moved] + h[:, :2]) * scale)
        torch.testing.assert_close(log_det, scale.log().sum((1, 2, 3)))
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        AffineCoupling(net(1, 3))(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("options", "log_scale"),
    [
        ({"min_scale": 0.2}, lambda h: (0.2 + 0.8 * torch.sigmoid(h + 2.0)).log()),
        ({"min_scale": 0.0}, lambda h: torch.sigmoid(h + 2.0).log()),
        ({"log_range": 1.5}, lambda h: 1.5 * torch.tanh(h / 1.5)),
        ({"log_range": math.inf}, lambda h: h),
    ],
)
def test_the_scales_of_a_coupling(options, log_scale):
    conditioner = mlp(2, 4).double()
    x = torch.randn(5, 4, generator=seeded(), dtype=torch.float64)
    z, log_det = AffineCoupling(conditioner, **options)(x)
    shift, h = conditioner(x[:, :2]).chunk(2, dim=1)
    torch.testing.assert_close(z[:, 2:], (x[:, 2:] + shift) * log_scale(h).exp())
    torch.testing.assert_close(log_det, log_scale(h).sum(1))


def test_masked_coupling_keeps_what_the_mask_holds_and_sees_nothing_else():
    coupling, x = build("MaskedCoupling")
    mask = coupling.mask.bool().expand_as(x)
    z, log_det = coupling(x)
    assert torch.equal(z[mask], x[mask])
    shift, h = coupling.conditioner(x * coupling.mask).chunk(2, dim=1)
    scale = 0.01 + 0.99 * torch.sigmoid(h + 2.0)
    torch.testing.assert_close(z[~mask], ((x + shift) * scale)[~mask])
    expected = torch.where(mask, 0.0, scale.log()).sum((1, 2, 3))
    torch.testing.assert_close(log_det, expected)


def test_checkerboard_alternates():
    even, odd = checkerboard(4, 6), checkerboard(4, 6, 1)
    assert torch.equal(even + odd, torch.ones(1, 4, 6))
    assert even[0, 0, 0] == 1.0 and even.sum() == 12
    assert torch.equal(even[:, 1:], odd[:, :-1]) and torch.equal(even[:, :, 1:], odd[:, :, :-1])


def test_logit_formula_and_ends():
    logit = Logit(0.05)
    x = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    end = math.log(0.05 / 0.95)
    expected = torch.tensor([[end, 0.0, -end]], dtype=torch.float64)
    torch.testing.assert_close(logit(x)[0], expected)


def test_multiscale_keeps_every_latent_in_the_order_in_which_they_leave():
    identity = MultiScale([Chain([Squeeze()]), Chain([Squeeze()])], (1, 4, 4))
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    z = identity(x)[0]
    assert identity.shapes == [(2, 2, 2), (8, 1, 1)]
    assert torch.equal(z.sort().values[0], torch.arange(16.0))
    bottom = x[0, 0, 1::2]  # channels 2 and 3 of the squeeze are the odd rows: they leave first
    assert torch.equal(z[0, :8], torch.cat((bottom[:, ::2].flatten(), bottom[:, 1::2].flatten())))
    unsqueezed = small_multiscale()
    assert unsqueezed.shapes == [(2, 4, 2), (4, 2, 1), (4, 2, 1)]


UNBOUNDED = ("as published", "exp")  # kept for parity with published models


@pytest.mark.parametrize("name", [name for name in REGISTRY if not name.endswith(UNBOUNDED)])
def test_extreme_inputs_stay_finite(name):
    """Bounded scales: neither direction overflows in float32 on absurd inputs."""
    bijection, x = build(name)
    bijection.float()
    generator = seeded(6)
    signs = torch.randn(x.shape, generator=generator).sign()
    on_box = (signs + 1.0) / 2.0
    big = on_box if "realnvp" in name or name == "Logit" else 1e4 * signs
    z, log_det = bijection(big)
    assert z.isfinite().all() and log_det.isfinite().all()
    back, log_det = bijection.inverse(1e4 * torch.randn(z.shape, generator=generator))
    assert back.isfinite().all() and log_det.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffineCoupling(mlp(1, 2), min_scale=1.0), "min_scale must lie in .0, 1., got 1.0"),
        (lambda: AffineCoupling(mlp(1, 2), min_scale=-0.1), "min_scale .* got -0.1"),
        (lambda: AffineCoupling(mlp(1, 2), log_range=0.0), "log_range must be positive, got 0.0"),
        (lambda: MaskedCoupling(mlp(2, 4), torch.tensor([0.5, 1.0])), "zeros and ones"),
        (lambda: Logit(0.5), "alpha must lie in .0, 0.5., got 0.5"),
        (lambda: MultiScale([Chain([Squeeze()])] * 3, (3, 12, 12)), "divisible by 8"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_chain_is_the_identity():
    x = torch.randn(3, 2, generator=seeded())
    for y, log_det in (Chain([])(x), Chain([]).inverse(x)):
        assert torch.equal(y, x) and torch.equal(log_det, torch.zeros(3))
