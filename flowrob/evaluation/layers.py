"""Layers: what each of them makes of an input, and where inside a flow an attack acts (2.1).

NLL = 1/2 |z|^2 + (D/2) log(2 pi) - sum over layers of log|det|,   each term by itself

How far a difference is stretched on its way is measured by :attr:`Anatomy.gain`; how far each layer
could have stretched it, to first order, is :func:`top_singular_values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from flowrob._checks import checked
from flowrob.attacks.objectives import in_double
from flowrob.attacks.starts import check_generator, check_integers
from flowrob.evaluation.table import Table
from flowrob.flows import Bijection, Chain, Flow, MultiScale

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Anatomy:
    """The change of bits/dim between two inputs, split into the terms of the change of variables.

        total = sum_levels latent - sum_layers log_det

    Attributes:
        layers: (level, name) of every layer, in the order in which they are applied.
        latent: (levels, batch), the change of ``1/2 |z_level|^2``, in bits/dim.
        log_det: (layers, batch), the change of each layer's ``log|det|``, in bits/dim.
        distance: (layers, batch), ``|h' - h|`` after each layer over the same at the input: how
            much the difference between the two inputs has grown on its way.
        total: (batch,), the change of bits/dim.
    """

    layers: list[tuple[int, str]]
    latent: Tensor
    log_det: Tensor
    distance: Tensor
    total: Tensor

    @property
    def gain(self) -> Tensor:
        """``|h' - h|`` after each layer over the same before it, (layers, batch).

        Where a multi-scale flow lets latents leave, the first layer of the next level is given the
        loss of their share, too.
        """
        start = torch.ones_like(self.distance[:1])
        return self.distance / torch.cat((start, self.distance[:-1]))

    def table(self) -> Table:
        """Means over the batch: a row per level."""
        rows: list[dict[str, Any]] = []
        for level in range(1, len(self.latent) + 1):
            mine = [i for i, (of, _) in enumerate(self.layers) if of == level]
            latent, volume = self.latent[level - 1].mean(), -self.log_det[mine].sum(0).mean()
            rows.append({"level": level, "latent": latent.item(), "volume": volume.item()})
        rows.append({"level": "total", "latent": self.latent.sum(0).mean().item()})
        rows[-1]["volume"] = -self.log_det.sum(0).mean().item()
        return Table(rows, "Where the bits/dim come from: mean change, latent norm and log-det")


@checked
def anatomy(flow: Flow, x: Tensor, x_attacked: Tensor) -> Anatomy:
    """Where inside the flow an attack acts, term by term of the change of variables:

        NLL = 1/2 |z|^2 + (D/2) log(2 pi) - sum over layers of log|det|

    Computed in float64, on a copy of the flow, layer by layer.

    Source: section 2.1 of the paper for the decomposition.

    Args:
        flow: a :class:`~flowrob.flows.Flow`; the levels of a multi-scale flow are kept apart.
        x: ``(batch, *event_shape)``.
        x_attacked: the same shape.

    Returns:
        An :class:`Anatomy`, in bits/dim.

    Raises:
        TypeError: flow is not a Flow, or an input not of floating point.
        ValueError: the two inputs differ in shape, or do not fit the flow.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowrob.flows.Flow, got {type(flow).__name__}")
    if x.shape != x_attacked.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}, x_attacked {tuple(x_attacked.shape)}")
    both = torch.cat((flow._check(x), flow._check(x_attacked, "x_attacked"))).detach().double()
    walk, start = _Walk(lambda layer, h, out: _apart(out)), _apart(both)
    with torch.no_grad():
        rest = walk.visit(in_double(flow).bijection, both)
    energies = [0.5 * z.flatten(1).square().sum(1) for z in (*walk.leaving, rest)]
    scale = 1.0 / (flow.num_dims * math.log(2.0))
    latent, log_det = (
        torch.stack([scale * (after - before) for before, after in map(_halves, terms)])
        for terms in (energies, walk.log_dets)
    )
    total = latent.sum(0) - log_det.sum(0)
    return Anatomy(walk.layers, latent, log_det, torch.stack(walk.seen) / start, total)


@checked
def activations(flow: Flow, x: Tensor) -> tuple[list[tuple[int, str]], list[Tensor]]:
    """What every layer makes of x, in the order in which the layers are applied:

        h_0 = x,   h_k = layer_k(h_{k-1})

    where a multi-scale flow goes on with half of the channels after each level. Computed in
    float64, on a copy of the flow, like :func:`anatomy`, of which it holds the inside: that one's
    ``distance`` is ``|h'_k - h_k| / |h'_0 - h_0|``.

    Source: section 2.1 of the paper, layer by layer.

    Args:
        flow: a :class:`~flowrob.flows.Flow`.
        x: ``(batch, *event_shape)``.

    Returns:
        (level, name) of every layer, and the output of every layer, ``(batch, ...)``, without
        units. All of them are held at once: take few images.

    Raises:
        TypeError: flow is not a Flow, or x not of floating point.
        ValueError: x does not fit the flow.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowrob.flows.Flow, got {type(flow).__name__}")
    walk = _Walk(lambda layer, h, out: out)
    with torch.no_grad():
        walk.visit(in_double(flow).bijection, flow._check(x).detach().double())
    return walk.layers, walk.seen


def top_singular_values(
    flow: Flow, x: Tensor, *, num_steps: int = 10, generator: torch.Generator
) -> Tensor:
    """How far each layer can stretch a small difference: ``max |J v| / |v|``, J its Jacobian at x.

    Power iteration with v <- J^T J v, each product by automatic differentiation, from a random
    start: a lower bound of the singular value, which it reaches from below. Computed in float64, on
    a copy of the flow. The gain of a small perturbation never exceeds it; the gain of a large one
    does where the layer itself has changed on the way.

    Source: not in the paper.

    Args:
        flow: a :class:`~flowrob.flows.Flow`.
        x: ``(batch, *event_shape)``.
        num_steps: of the power iteration.
        generator: draws its starts.

    Returns:
        ``(layers, batch)``, in the order of :attr:`Anatomy.layers`.

    Raises:
        TypeError: flow is not a Flow, or x not of floating point.
        ValueError: x does not fit the flow, or num_steps below 1.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowrob.flows.Flow, got {type(flow).__name__}")
    check_integers(1, num_steps=num_steps)
    check_generator(generator)
    walk = _Walk(lambda layer, h, out: (layer, h))
    with torch.no_grad():
        walk.visit(in_double(flow).bijection, flow._check(x).detach().double())
    return torch.stack([_stretch(layer, h, num_steps, generator) for layer, h in walk.seen])


def _stretch(layer: Bijection, h: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
    """The largest singular value of a layer's Jacobian at each row of h, (batch,)."""
    h = h.clone().requires_grad_()
    out = layer(h)[0]
    dual = torch.zeros_like(out).requires_grad_()
    (pulled,) = torch.autograd.grad(out, h, dual, create_graph=True)  # J^T dual, linear in dual
    v = torch.randn(h.shape, generator=generator, device=generator.device).to(h)
    length = h.new_ones(len(h))
    for _ in range(num_steps):
        v = v / v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.dim() - 1))
        (pushed,) = torch.autograd.grad(pulled, dual, v, retain_graph=True)  # J v
        length = pushed.flatten(1).norm(dim=1)
        (v,) = torch.autograd.grad(out, h, pushed, retain_graph=True)
    return length.detach()


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    before, after = both.chunk(2)
    return before, after


def _apart(both: Tensor) -> Tensor:
    before, after = _halves(both.flatten(1))
    return (after - before).norm(dim=1)


class _Walk(Generic[Seen]):
    """One pass through a flow that keeps ``see(layer, its input, its output)`` of every layer."""

    def __init__(self, see: Callable[[Bijection, Tensor, Tensor], Seen]):
        self.level, self.see = 1, see
        self.layers: list[tuple[int, str]] = []
        self.leaving: list[Tensor] = []
        self.log_dets: list[Tensor] = []
        self.seen: list[Seen] = []

    def visit(self, bijection: Bijection, h: Tensor) -> Tensor:
        """bijection(h)[0] without the latents that left, layer by layer."""
        if isinstance(bijection, Chain):
            for layer in bijection:
                h = self.visit(layer, h)
            return h
        if isinstance(bijection, MultiScale):
            for self.level, level in enumerate(bijection, 1):
                h = self.visit(level, h)
                if self.level < len(bijection.levels):
                    h, leaving = h.chunk(2, dim=1)
                    self.leaving.append(leaving)
            return h
        before = h
        h, log_det = bijection(before)
        self.layers.append((self.level, type(bijection).__name__))
        self.log_dets.append(log_det)
        self.seen.append(self.see(bijection, before, h))
        return h
