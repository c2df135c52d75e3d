"""Conditioners: the networks inside the couplings, from what stays to (shift, h) of what moves.

Their last layer starts at zero, so that a coupling starts as a constant scale and a flow can be
initialised and trained at any depth. They are plain networks: nothing here needs to be invertible.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrizations import weight_norm

from flowrob._checks import checked, require


class ZeroConv2d(nn.Conv2d):
    """A 3x3 convolution that starts at zero, with a learned gain: y = e^(3 g) (w * x + b).

    Source: Glow (Kingma and Dhariwal 2018), section 3.3.

    Args:
        in_channels: of x.
        out_channels: of y.
    """

    bias: nn.Parameter  # never None

    @checked
    def __init__(self, in_channels: int, out_channels: int):
        _check_sizes(in_channels=in_channels, out_channels=out_channels)
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.log_gain = nn.Parameter(torch.zeros(out_channels))

    def reset_parameters(self) -> None:
        """w = 0, b = 0: nothing is drawn."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """y = e^(3 g) (w * x + b), one gain g per output channel."""
        gain = (3.0 * self.log_gain).exp()
        return F.conv2d(x, self.weight * gain[:, None, None, None], self.bias * gain, padding=1)


@checked
def conv_net(
    in_channels: int, out_channels: int, width: int, generator: torch.Generator
) -> nn.Module:
    """Glow's conditioner: 3x3 convolution, ReLU, 1x1, ReLU, zero-initialised 3x3.

    Args:
        in_channels: of what stays.
        out_channels: twice the channels of what moves: shift and h.
        width: channels in between.
        generator: draws the weights.
    """
    _check_sizes(in_channels=in_channels, out_channels=out_channels, width=width)
    return nn.Sequential(
        _he_normal(_conv(in_channels, width, 3), generator),
        nn.ReLU(inplace=True),
        _he_normal(_conv(width, width, 1), generator),
        nn.ReLU(inplace=True),
        ZeroConv2d(width, out_channels),
    )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        require(size >= 1, name, size, "at least 1")


def _conv(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    """A convolution that keeps height and width, whose numbers its caller fills in.

    Made in the usual way it would draw some first, from torch's global generator.
    """
    return skip_init(nn.Conv2d, in_channels, out_channels, size, padding=size // 2)


def _he_normal(conv: nn.Conv2d, generator: torch.Generator) -> nn.Conv2d:
    """The same layer with weights for what a ReLU follows, and no bias."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ResidualNet(nn.Module):
    """RealNVP's conditioner: 3x3 convolution, residual blocks of two 3x3, zero-initialised 3x3.

    Every block is h + conv(relu(conv(relu(h)))), with weight normalisation.

    Source: RealNVP (Dinh et al. 2017), sections 3.4 and 4.1.

    Args:
        in_channels: of what stays.
        out_channels: twice the channels of what moves: shift and h.
        width: channels in between.
        num_blocks: residual blocks.
        generator: draws the weights.
    """

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        num_blocks: int,
        generator: torch.Generator,
    ):
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "width": width}
        _check_sizes(**sizes, num_blocks=num_blocks)
        super().__init__()
        self.first = _normalized_conv(in_channels, width, generator)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                _normalized_conv(width, width, generator),
                nn.ReLU(inplace=True),
                _normalized_conv(width, width, generator),
            )
            for _ in range(num_blocks)
        )
        self.last = ZeroConv2d(width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """h_0 = conv(x),  h_i = h_{i-1} + block_i(h_{i-1}),  y = last(relu(h_k))."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(F.relu(h))


def _normalized_conv(in_channels: int, out_channels: int, generator: torch.Generator) -> nn.Module:
    conv = _conv(in_channels, out_channels, 3)
    return weight_norm(_he_normal(conv, generator))


@checked
def mlp(n_in: int, n_out: int, width: int, generator: torch.Generator) -> nn.Module:
    """For a flow on the plane: two smooth hidden layers, and a last one that starts at zero.

    Args:
        n_in: numbers that stay.
        n_out: twice the numbers that move: shift and h.
        width: hidden units of each layer.
        generator: draws the weights.
    """
    _check_sizes(n_in=n_in, n_out=n_out, width=width)
    linear = partial(skip_init, nn.Linear)  # all of their numbers are drawn here
    layers = [linear(n_in, width), nn.SiLU(), linear(width, width), nn.SiLU()]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.normal_(layer.bias, generator=generator)
    last = linear(width, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
