"""Muon: orthogonal steps for kernels, Adam's for all else."""

import copy

import pytest
import torch
from torch import nn

from flowrob.flows import glow
from flowrob.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_singular_vectors_stay_and_singular_values_become_one(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    inner = u.mT @ orthogonalize(gradient) @ vh.mT  # diagonal in the same bases
    values = torch.diagonal(inner, dim1=-2, dim2=-1)
    assert bool(((values > 0.6) & (values < 1.3)).all())
    torch.testing.assert_close(inner, torch.diag_embed(values), atol=1e-12, rtol=0)


def test_many_steps_are_scale_free_and_zero_stays_zero():
    gradient = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalize(1e-3 * gradient), orthogonalize(gradient), rtol=1e-3,
                               atol=1e-3)  # fmt: skip
    assert orthogonalize(torch.zeros(2, 3, 4)).count_nonzero() == 0


def kernel_and_bias():
    generator = torch.Generator().manual_seed(2)
    conv = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return conv


def test_a_step_is_adams_for_vectors_and_orthogonal_for_kernels():
    ours, reference = kernel_and_bias(), kernel_and_bias()
    muon, adam = Muon(ours.parameters(), lr=0.01), torch.optim.Adam(reference.parameters(), lr=0.01)
    before = ours.weight.detach().clone()
    total = torch.zeros_like(before)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        previous = ours.weight.detach().clone()
        for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        total = 0.95 * total + ours.weight.grad
        expected = orthogonalize((ours.weight.grad + 0.95 * total).reshape(1, 8, 27))
        muon.step()
        adam.step()
        moved = (previous - ours.weight).detach().reshape(8, 27)
        torch.testing.assert_close(moved, 0.01 * 0.2 * 27**0.5 * expected[0], rtol=1e-4, atol=1e-6)
        assert ours.weight.grad is not None  # hidden from Adam for a moment only
    torch.testing.assert_close(ours.bias, reference.bias)
    assert not torch.equal(before, ours.weight)
    rms = moved.square().mean().sqrt() / 0.01
    assert 0.1 < rms < 0.3  # as Adam's, whose steps are about 0.2 lr in the mean square


def test_kernels_of_one_shape_do_not_mix_and_gains_are_no_kernels():
    generator = torch.Generator().manual_seed(3)
    flow = glow((3, 8, 8), num_levels=1, num_steps=2, width=8)
    flow.initialize(torch.rand(8, 3, 8, 8, generator=generator))
    optimizer = Muon(flow.parameters(), lr=0.01)
    named = dict(flow.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    for p in named.values():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    kernels = {name for name, p in named.items() if "momentum" in optimizer.state[p]}
    assert kernels == {name for name, p in named.items() if p.dim() == 4} and len(kernels) == 6
    for name in kernels:  # alone, or in one batch with its likes: the same step
        gradient = named[name].grad.flatten(1)[None]
        size = 0.002 * max(gradient.shape[1:]) ** 0.5
        step = (before[name] - named[name].detach()).flatten(1)
        expected = size * orthogonalize(1.95 * gradient)[0]
        torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-6)
    gain = nn.Parameter(torch.ones(5, 1, 1, 1))  # as weight normalisation has
    gain.grad = torch.ones_like(gain)
    single = Muon([gain], lr=0.5)
    single.step()
    torch.testing.assert_close(gain.detach(), torch.full((5, 1, 1, 1), 0.5))  # Adam's first step


def test_its_state_goes_through_a_state_dict():
    first, second = kernel_and_bias(), kernel_and_bias()
    optimizers = [Muon(conv.parameters(), lr=0.01) for conv in (first, second)]

    def step(conv, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for p in conv.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()

    for conv, optimizer in zip((first, second), optimizers, strict=True):
        step(conv, optimizer, 5)
    fresh = Muon(second.parameters(), lr=0.01)
    fresh.load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    step(first, optimizers[0], 6)
    step(second, fresh, 6)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
