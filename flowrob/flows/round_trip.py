"""How well a flow can be inverted in floating point: encode, decode, compare (section 2.1)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowrob._checks import checked
from flowrob.flows.bijections import InvertibleConv1x1
from flowrob.flows.models import Flow


@dataclass(frozen=True)
class Invertibility:
    """How well a flow can be inverted in floating point; the result of :func:`invertibility`.

    Attributes:
        float32: ``max |x - decode(encode(x))|`` over all inputs, computed in single precision.
        float64: the same in double precision.
        conditions: condition number of each 1x1 convolution, by its name in the flow.
    """

    float32: float
    float64: float
    conditions: dict[str, float]

    def __repr__(self) -> str:
        lines = [
            "max |x - decode(encode(x))|",
            f"  float32: {self.float32:.1e}",
            f"  float64: {self.float64:.1e}",
        ]
        if self.conditions:
            worst = max(self.conditions, key=self.conditions.__getitem__)
            values = torch.tensor(list(self.conditions.values()))
            lines.append(
                f"condition of {len(values)} 1x1 convolutions: median {values.median():.1f}, "
                f"max {values.max():.1f} ({worst})"
            )
        return "\n".join(lines)


@checked
def invertibility(flow: Flow, x: Tensor) -> Invertibility:
    """Round-trip error of ``flow`` on ``x`` in both precisions, and its matrices' conditions.

    Measure it where you mean to invert: a flow that inverts its training data to the last digits
    may lose every digit on inputs far from them, where its scales reach their bounds.

    Args:
        flow: any flow of this chapter; it is copied, not changed.
        x: ``(batch, *event_shape)``, floating point.

    Returns:
        An :class:`Invertibility`. An error that is not finite is reported as infinity.
    """
    if not flow._check(x).numel():
        raise ValueError(f"x must hold samples, got shape {tuple(x.shape)}")
    errors = []
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            model, y = copy.deepcopy(flow).to(dtype), x.to(dtype)
            error = (y - model.decode(model.encode(y))).abs()
            errors.append(float(error.nan_to_num(nan=math.inf).max()))
        conditions = {
            name: float(torch.linalg.cond(module.matrix().double()))
            for name, module in flow.named_modules()
            if isinstance(module, InvertibleConv1x1)
        }
    single, double = errors
    return Invertibility(single, double, conditions)
