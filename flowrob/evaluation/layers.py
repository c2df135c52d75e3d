"""Layers: what each of them makes of an input, and where inside a flow an attack acts (2.1).

NLL = 1/2 |z|^2 + (D/2) log(2 pi) - sum over layers of log|det|,   each term by itself
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowrob.attacks.objectives import in_double
from flowrob.checks import checked
from flowrob.evaluation.table import Table
from flowrob.flows import Bijection, Chain, Flow, MultiScale


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
    walk, start = _Walk(_apart), _apart(both)
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
    walk = _Walk(lambda h: h)
    with torch.no_grad():
        walk.visit(in_double(flow).bijection, flow._check(x).detach().double())
    return walk.layers, walk.seen


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    before, after = both.chunk(2)
    return before, after


def _apart(both: Tensor) -> Tensor:
    before, after = _halves(both.flatten(1))
    return (after - before).norm(dim=1)


class _Walk:
    """One pass through a flow that keeps what it sees, ``see(h)``, after every layer."""

    def __init__(self, see: Callable[[Tensor], Tensor]):
        self.level, self.see = 1, see
        self.layers: list[tuple[int, str]] = []
        self.leaving: list[Tensor] = []
        self.log_dets: list[Tensor] = []
        self.seen: list[Tensor] = []

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
        h, log_det = bijection(h)
        self.layers.append((self.level, type(bijection).__name__))
        self.log_dets.append(log_det)
        self.seen.append(self.see(h))
        return h
