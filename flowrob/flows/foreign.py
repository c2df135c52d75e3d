"""Flows from elsewhere: a Glow that another library trained, with its densities to the last digits.

Every convention that differs (signs, gains, the order of channels, where an image is centred) is
folded into the weights once, on the way in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowrob._checks import checked, require
from flowrob.flows.models import Flow, _check_image_shape, glow


@dataclass
class _Step:
    """One step of a Glow in this package's conventions, all gains and signs folded in.

    ``layers`` holds (weight, bias) of the conditioner's three convolutions; the last one's output
    channels are in the order (shift, h).
    """

    bias: Tensor
    log_scale: Tensor
    lu: dict[str, Tensor]
    layers: list[tuple[Tensor, Tensor]]


# (steps, prior) of one level. The prior is (weight, bias) of a 3x3 convolution whose output is
# (mean, log standard deviation) of what leaves; for the last level it is (mean, log std) itself.
_Level = tuple[list[_Step], tuple[Tensor, Tensor]]


@checked
def import_state_dict(
    state_dict: dict[str, Tensor], layout: str, image_shape: tuple[int, int, int]
) -> Flow:
    """A Glow trained with another library, as a :class:`Flow` with equal densities.

    Layouts:

    * ``"y0ast"``: github.com/y0ast/Glow-PyTorch, ``Glow.state_dict()`` with affine coupling,
      invertible 1x1 convolutions (LU or not) and no class condition. That code works on x - 1/2;
      the shift is folded into the first ActNorm, so that the flow takes x in [0, 1] as all do here.
    * ``"normflows"``: ``normflows.MultiscaleFlow.state_dict()`` as in its Glow example: per level
      K ``GlowBlock`` and a ``Squeeze``, ``GlowBase`` without classes, no initial transform.

    Args:
        state_dict: the other library's tensors.
        layout: which library, see above.
        image_shape: (C, H, W) of the images.

    Returns:
        The flow in eval mode, on the CPU, in the dtype of the weights.

    Raises:
        ValueError: unknown layout, keys that are missing or belong to no part of this layout, or
            an image_shape that does not fit.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {sorted(_LAYOUTS)}, got {layout!r}")
    _check_image_shape(image_shape, halvings=0)
    whole = all(torch.is_tensor(value) for value in state_dict.values())
    require(whole, "state_dict", [*state_dict], "tensors by name")
    rest = {key: value.detach().cpu() for key, value in state_dict.items()}
    try:
        levels = _LAYOUTS[layout](rest)
    except KeyError as error:
        raise ValueError(f"state_dict has no {error}, which layout {layout!r} needs") from error
    if rest or not levels:
        raise ValueError(f"state_dict is not a Glow in layout {layout!r}: left over {sorted(rest)}")
    if len(levels[0][0][0].bias) != 4 * image_shape[0]:
        raise ValueError(
            f"image_shape={tuple(image_shape)}: the state_dict is for images of "
            f"{len(levels[0][0][0].bias) // 4} channels"
        )
    channels, height, width = image_shape
    flow = glow(
        (channels, height, width),
        num_levels=len(levels),
        num_steps=len(levels[0][0]),
        width=len(levels[0][0][0].layers[0][0]),
        min_scale=0.0,
        published_prior=True,
    )
    tensors: dict[str, Tensor] = {}
    for index, (steps, prior) in enumerate(levels):
        level = f"bijection.levels.{index}.bijections"
        for k, step in enumerate(steps):
            actnorm, conv, net = (f"{level}.{3 * k + i}" for i in (1, 2, 3))
            tensors |= _actnorm(actnorm, step.bias, step.log_scale)
            tensors |= {f"{conv}.{name}": value for name, value in step.lu.items()}
            for position, (weight, bias) in zip((0, 2, 4), step.layers, strict=True):
                tensors[f"{net}.conditioner.{position}.weight"] = weight
                tensors[f"{net}.conditioner.{position}.bias"] = bias
            tensors[f"{net}.conditioner.4.log_gain"] = torch.zeros_like(bias)
        last = f"{level}.{3 * len(steps) + 1}"
        if index == len(levels) - 1:
            tensors |= _actnorm(last, -prior[0], -prior[1])
        else:  # z = (x - mean) exp(-log std): the shift and log-scale are the negatives
            tensors[f"{last}.conditioner.weight"] = -prior[0]
            tensors[f"{last}.conditioner.bias"] = -prior[1]
            tensors[f"{last}.conditioner.log_gain"] = torch.zeros_like(prior[1])
    flow.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    return flow.eval()


def _actnorm(name: str, bias: Tensor, log_scale: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.bias": bias.flatten(),
        f"{name}.log_scale": log_scale.flatten(),
        f"{name}.initialized": torch.tensor(True),
    }


def _lu(matrix: Tensor) -> dict[str, Tensor]:
    permutation, lower, upper = torch.linalg.lu(matrix.double())
    diagonal = upper.diagonal()
    parts = {
        "permutation": permutation,
        "lower_upper": lower.tril(-1) + upper.triu(1),
        "sign": diagonal.sign(),
        "log_scale": diagonal.abs().log(),
    }
    return {name: value.to(matrix.dtype) for name, value in parts.items()}


def _take_lu(rest: dict[str, Tensor], name: str, full: str, factors: str) -> dict[str, Tensor]:
    """The factors of a 1x1 convolution that is stored whole, or as P, sign, L, U, log|diag|."""
    if f"{name}.{full}" in rest:
        return _lu(rest.pop(f"{name}.{full}"))
    permutation, sign, lower, upper, log_scale = (rest.pop(f"{name}.{f}") for f in factors.split())
    return {
        "permutation": permutation,
        "sign": sign,
        "lower_upper": lower.tril(-1) + upper.triu(1),
        "log_scale": log_scale,
    }


def _deinterleave(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Output channels (a0, b0, a1, b1, ...) -> (a0, a1, ..., b0, b1, ...)."""
    return torch.cat((weight[::2], weight[1::2])), torch.cat((bias[::2], bias[1::2]))


def _y0ast(rest: dict[str, Tensor]) -> list[_Level]:
    def take_zero_conv(name: str) -> tuple[Tensor, Tensor]:
        gain = (3.0 * rest.pop(f"{name}.logs").flatten()).exp()
        weight, bias = rest.pop(f"{name}.conv.weight"), rest.pop(f"{name}.conv.bias")
        return weight * gain.view(-1, 1, 1, 1), bias * gain

    def take_conv(name: str) -> tuple[Tensor, Tensor]:  # an ActNorm follows each
        gain = rest.pop(f"{name}.actnorm.logs").flatten().exp()
        weight, bias = rest.pop(f"{name}.conv.weight"), rest.pop(f"{name}.actnorm.bias")
        return weight * gain.view(-1, 1, 1, 1), bias.flatten() * gain

    def take_step(name: str) -> _Step:
        lu = _take_lu(rest, f"{name}.invconv", "weight", "p sign_s lower upper log_s")
        return _Step(
            rest.pop(f"{name}.actnorm.bias").flatten(),
            rest.pop(f"{name}.actnorm.logs").flatten(),
            lu,
            [
                take_conv(f"{name}.block.0"),
                take_conv(f"{name}.block.2"),
                _deinterleave(*take_zero_conv(f"{name}.block.4")),
            ],
        )

    levels: list[_Level] = []
    steps: list[_Step] = []
    for index in _indices(rest, r"flow\.layers\.(\d+)\."):
        name = f"flow.layers.{index}"
        if f"{name}.conv.logs" in rest:  # the split that ends a level
            levels.append((steps, _deinterleave(*take_zero_conv(f"{name}.conv"))))
            steps = []
        else:
            steps.append(take_step(name))
    if not steps:
        return []
    top = torch.zeros_like(steps[0].bias).repeat(2)
    if "learn_top_fn.logs" in rest:  # applied to zeros, so that only its bias matters
        top = take_zero_conv("learn_top_fn")[1]
    rest.pop("prior_h", None)
    shift, h = top.chunk(2)
    levels.append((steps, (shift, h)))
    levels[0][0][0].bias = levels[0][0][0].bias - 0.5  # x - 1/2
    return levels


def _normflows(rest: dict[str, Tensor]) -> list[_Level]:
    def take_step(name: str) -> _Step:
        rest.pop(f"{name}.flows.2.data_dep_init_done")
        rest.pop(f"{name}.flows.1.eye", None)
        lu = _take_lu(rest, f"{name}.flows.1", "W", "P sign_S L U log_S")
        net = f"{name}.flows.0.flows.1.param_map.net"
        first, second, last = (
            (rest.pop(f"{net}.{i}.weight"), rest.pop(f"{net}.{i}.bias")) for i in (0, 2, 4)
        )
        weight, bias = _deinterleave(*last)
        half = len(bias) // 2
        sign = torch.ones_like(bias)
        sign[:half] = -1.0  # it subtracts its shift where we add ours
        return _Step(
            -rest.pop(f"{name}.flows.2.t").flatten(),
            -rest.pop(f"{name}.flows.2.s").flatten(),
            lu,
            [first, second, (weight * sign.view(-1, 1, 1, 1), bias * sign)],
        )

    levels = []
    for level in reversed(_indices(rest, r"q0\.(\d+)\.")):  # it counts from the noise
        blocks = _indices(rest, rf"flows\.{level}\.(\d+)\.")
        steps = [take_step(f"flows.{level}.{block}") for block in reversed(blocks)]
        mean, log_std = (
            (rest.pop(f"q0.{level}.{n}") * (3.0 * rest.pop(f"q0.{level}.{n}_logs")).exp()).flatten()
            for n in ("loc", "log_scale")
        )
        if level > 0:  # the prior of what leaves is the same at every pixel: a bias alone
            bias = torch.cat((mean, log_std))
            mean, log_std = bias.new_zeros(len(bias), len(mean), 3, 3), bias
        levels.append((steps, (mean, log_std)))
    return levels


def _indices(keys: dict[str, Tensor], pattern: str) -> list[int]:
    return sorted({int(m.group(1)) for key in keys if (m := re.match(pattern, key))})


_LAYOUTS: dict[str, Callable[[dict[str, Tensor]], list[_Level]]] = {
    "normflows": _normflows,
    "y0ast": _y0ast,
}
