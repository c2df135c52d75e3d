"""Layers: the terms of an attack add up to what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from small_tables import seeded

from flowrob.attacks.objectives import in_double
from flowrob.evaluation import activations, anatomy, bits_per_dim, top_singular_values
from flowrob.evaluation.layers import _Walk
from flowrob.flows import ActNorm, Chain, Flow, realnvp


def test_anatomy_takes_flows_and_numbers(flow, images):
    x = torch.rand(2, 3, 8, 8, generator=seeded())
    with pytest.raises(TypeError, match=r"flow must be a flowrob\.flows\.Flow, got method"):
        anatomy(flow.log_prob, x, x)
    with pytest.raises(TypeError, match="x_attacked must be a floating-point tensor"):
        anatomy(flow, x, images[:2])
    with pytest.raises(ValueError, match="x must have shape"):
        anatomy(flow, x[:, :1], x[:, :1])


def test_anatomy_of_a_realnvp_behind_its_logit():
    flow = realnvp((3, 8, 8), num_levels=2, width=8, num_blocks=1)
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    flow.initialize(torch.rand(64, 3, 8, 8, generator=seeded(1)))
    generator = seeded(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    other = (x + 0.1 * torch.randn(x.shape, generator=seeded(1))).clamp(0, 1)
    parts = anatomy(flow, x, other)
    before, after = (bits_per_dim(flow.log_prob(v), flow.num_dims).detach() for v in (x, other))
    assert torch.allclose(parts.total.float(), after - before, rtol=1e-4, atol=1e-3)
    assert parts.layers[0] == (1, "Logit")
    assert parts.latent.shape == (2, 4)


@pytest.mark.parametrize("eps", [0.01, 0.2])
def test_anatomy_adds_up_to_the_change_of_bits_per_dim(flow, eps):
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    other = (x + eps * torch.randn(x.shape, generator=seeded(1))).clamp(0, 1)
    parts = anatomy(flow, x, other)
    before, after = (bits_per_dim(flow.log_prob(v), flow.num_dims).detach() for v in (x, other))
    assert torch.allclose(parts.total.float(), after - before, atol=1e-5)
    assert torch.allclose(parts.total, parts.latent.sum(0) - parts.log_det.sum(0))
    sizes = [math.prod(shape) for shape in flow.bijection.shapes]
    energy = [
        [0.5 * z.square().sum(1) for z in flow.encode(v).detach().split(sizes, 1)]
        for v in (x, other)
    ]
    scale = flow.num_dims * math.log(2)
    for level in range(2):
        change = (energy[1][level] - energy[0][level]) / scale
        assert torch.allclose(parts.latent[level].float(), change, atol=1e-5)
    names = [name for _, name in parts.layers]
    assert names[:4] == ["Squeeze", "ActNorm", "InvertibleConv1x1", "AffineCoupling"]
    assert len(parts.layers) == len(parts.log_det) == len(parts.distance)
    flat = [i for i, name in enumerate(names) if name != "AffineCoupling"]
    assert bool((parts.log_det[flat] == 0).all())  # their volume does not depend on x
    assert parts.log_det[names.index("AffineCoupling")].abs().min() > 0
    assert torch.allclose(parts.distance[0], torch.ones(4).double())
    rows = parts.table().rows
    assert rows[-1]["latent"] + rows[-1]["volume"] == pytest.approx(parts.total.mean().item())
    assert sum(row["volume"] for row in rows[:-1]) == pytest.approx(rows[-1]["volume"])


def test_anatomy_of_a_flow_without_levels():
    flow = Flow(Chain([ActNorm(2)]), (2,))
    flow.initialize(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))  # z = (x1 - 1, (x2 - 2) / 2)
    parts = anatomy(flow, torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 2.0]]))
    assert parts.layers == [(1, "ActNorm")]
    assert parts.total.item() == pytest.approx(4.5 / (2 * math.log(2)), rel=1e-6)
    assert parts.distance.item() == pytest.approx(1.0, rel=1e-6)
    with pytest.raises(ValueError, match="x_attacked"):
        anatomy(flow, torch.zeros(1, 2), torch.zeros(2, 2))


def test_activations_are_what_the_layers_make_of_x():
    flow = Flow(Chain([ActNorm(2), ActNorm(2)]), (2,))
    flow.initialize(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    x = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    layers, outputs = activations(flow, x)
    assert layers == [(1, "ActNorm"), (1, "ActNorm")]
    h = x
    for layer, output in zip(flow.bijection, outputs, strict=True):
        h, _ = layer(h)
        assert output.dtype == torch.float64
        assert torch.allclose(output, h.double(), atol=1e-6)
    assert torch.allclose(outputs[-1], flow.encode(x).double(), atol=1e-6)


def test_activations_are_the_inside_of_the_anatomy(flow, images):
    x = torch.rand(images.shape, generator=seeded(4))
    moved = x + 0.01 * torch.randn(x.shape, generator=seeded(3))
    layers, before = activations(flow, x)
    parts, (_, after) = anatomy(flow, x, moved), activations(flow, moved)
    assert layers == parts.layers
    apart = torch.stack(
        [(b - a).flatten(1).norm(dim=1) for a, b in zip(before, after, strict=True)]
    )
    start = (moved.double() - x.double()).flatten(1).norm(dim=1)
    assert torch.allclose(apart / start, parts.distance, rtol=1e-9)


def test_activations_take_flows_and_numbers(flow, images):
    with pytest.raises(TypeError, match="must be a flowrob"):
        activations(flow.log_prob, images / 255)
    with pytest.raises(TypeError, match="floating-point"):
        activations(flow, images)
    with pytest.raises(ValueError, match="x must have shape"):
        activations(flow, images[:, :1] / 255)


def test_top_singular_values_are_those_of_the_jacobian(flow):
    x = torch.rand(2, 3, 8, 8, generator=seeded())
    found = top_singular_values(flow, x, num_steps=300, generator=seeded(1))
    walk = _Walk(lambda layer, h, out: (layer, h))
    with torch.no_grad():
        walk.visit(in_double(flow).bijection, x.double())
    assert len(found) == len(walk.layers) == len(walk.seen)
    for (layer, h), values in zip(walk.seen, found, strict=True):
        for row, value in zip(h, values, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda h, f=layer: f(h)[0], row[None])
            exact = torch.linalg.matrix_norm(jacobian.reshape(row.numel(), -1), 2)
            assert 0.98 * exact <= value <= exact * (1 + 1e-9)


def test_gains_multiply_to_the_distance_and_stay_below_what_layers_can():
    flow = Flow(Chain([ActNorm(3), ActNorm(3)]), (3, 4, 4))
    x = torch.rand(4, 3, 4, 4, generator=seeded())
    flow.initialize(x)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=seeded(1))
    parts = anatomy(flow, x, x + 0.1 * torch.randn(x.shape, generator=seeded(2)))
    assert torch.allclose(parts.gain.prod(0), parts.distance[-1])
    most = top_singular_values(flow, x, num_steps=200, generator=seeded(3))
    assert bool((parts.gain <= most * 1.001).all())


def test_top_singular_values_refuse_what_they_cannot_use(flow):
    x = torch.rand(1, 3, 8, 8, generator=seeded())
    with pytest.raises(TypeError, match="must be a flowrob"):
        top_singular_values(flow.log_prob, x, generator=seeded())
    with pytest.raises(ValueError, match="num_steps"):
        top_singular_values(flow, x, num_steps=0, generator=seeded())
    with pytest.raises(ValueError, match="x must have shape"):
        top_singular_values(flow, x[:, :1], generator=seeded())
