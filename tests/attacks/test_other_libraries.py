"""Attacks run on densities from other libraries as their users build them: a log_prob is enough."""

from __future__ import annotations

import pytest
import torch

from flowrob.attacks import (
    L2Ball,
    LinfBall,
    lower_likelihood,
    raise_likelihood,
    square,
    universal_perturbation,
)
from flowrob.linear import GaussianFlow, worst_case

EXTRA = "an optional extra: pip install 'flowrob[compare]'"
FEATURES = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normflows_model():
    """A RealNVP, built as in the library's first example."""
    nf = pytest.importorskip("normflows", reason=EXTRA)
    flows = []
    for _ in range(4):
        net = nf.nets.MLP([FEATURES // 2, 16, 16, FEATURES], init_zeros=False)
        flows += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(FEATURES, mode="swap")]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(FEATURES), flows)
    return model, model.log_prob


def nflows_model():
    """A masked autoregressive flow, built as in the library's readme."""
    pytest.importorskip("nflows", reason=EXTRA)
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.permutations import RandomPermutation

    layers = []
    for _ in range(2):
        layers.append(RandomPermutation(features=FEATURES))
        layers.append(MaskedAffineAutoregressiveTransform(features=FEATURES, hidden_features=16))
    model = Flow(CompositeTransform(layers), StandardNormal([FEATURES]))
    return model, model.log_prob


def zuko_model():
    """A neural spline flow; zuko's flows return a distribution when called."""
    zuko = pytest.importorskip("zuko", reason=EXTRA)
    flow = zuko.flows.NSF(features=FEATURES, transforms=2, hidden_features=(16, 16))
    return flow, lambda x: flow().log_prob(x)


MODELS = {"normflows": normflows_model, "nflows": nflows_model, "zuko": zuko_model}


@pytest.fixture(params=MODELS)
def model(request):
    with torch.random.fork_rng():  # these libraries initialise from the global generator
        torch.manual_seed(0)
        module, log_prob = MODELS[request.param]()
    return request.param, module, log_prob


@pytest.mark.parametrize("ball", [LinfBall(0.2), L2Ball(0.4)])
def test_attacks_run_and_leave_the_model_alone(model, ball):
    name, module, log_prob = model
    x = torch.randn(8, FEATURES, generator=seeded())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    clean = log_prob(x).detach()
    options = {"box": None, "num_steps": 20}
    lowered = lower_likelihood(log_prob, x, ball, **options)
    raised = raise_likelihood(log_prob, x, ball, schedule="auto", **options)
    noise = x + ball.random_point(torch.rand(x.shape, generator=seeded(1)))
    for attack in (lowered, raised):
        assert bool((ball.size(attack.x - x) <= ball.radius + 1e-6).all())
    assert torch.allclose(-lowered.start_value.float(), clean, rtol=1e-4, atol=1e-4)
    assert bool((log_prob(lowered.x) < torch.minimum(clean, log_prob(noise))).all())
    assert bool((log_prob(raised.x) > torch.maximum(clean, log_prob(noise))).all())
    assert lowered.value.dtype == (torch.float32 if name == "zuko" else torch.float64)
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    after = module.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_whole_family_runs(model):
    _, _, log_prob = model
    x = torch.randn(8, FEATURES, generator=seeded())
    ball = LinfBall(0.2)
    ascent = lower_likelihood(log_prob, x, ball, box=None, num_steps=30)
    search = lower_likelihood(
        log_prob, x, ball, box=None, using=square, num_steps=200, generator=seeded(), against=ascent
    )
    assert bool((search.value > search.start_value).all())
    assert (search.value - ascent.value).max() < 0.05 * (ascent.value - ascent.start_value).max()
    one = universal_perturbation(log_prob, x, ball, box=None, num_steps=20, batch_size=3)
    assert one.value > one.start_value
    assert one.value < ascent.value.mean() + 1e-4


def test_a_torch_distribution_is_attacked_to_its_exact_worst_case():
    factor = torch.randn(4, 4, generator=seeded(), dtype=torch.float64)
    covariance = factor @ factor.T + torch.eye(4).double()
    mean = torch.arange(4.0, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(mean, covariance)
    x = mean + torch.randn(10, 4, generator=seeded(1), dtype=torch.float64)
    attack = lower_likelihood(normal.log_prob, x, L2Ball(0.5), box=None, num_steps=300)
    exact = worst_case(GaussianFlow(mean, covariance), x, 0.5).drop
    assert torch.allclose(attack.value - attack.start_value, exact, rtol=1e-6)
