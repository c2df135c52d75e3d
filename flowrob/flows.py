"""Flows: a bijection and a standard normal, put together as ``log_prob`` (sections 2.1 and 5).

    log p(x) = log N(f(x); 0, I) + log |det df/dx|

:func:`glow` and :func:`realnvp` are the paper's two models. Each is a plain list of bijections:
read the function and you have read the architecture; ``print(flow)`` draws it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowrob.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    InvertibleConv1x1,
    MultiScale,
    Squeeze,
)


class Flow(nn.Module):
    """A density on images or vectors: a bijection to a standard normal.

    log p(x) = -1/2 |z|^2 - (D/2) log(2 pi) + log_det,   (z, log_det) = bijection(x)

    Args:
        bijection: maps (batch, *event_shape) to latents.
        event_shape: shape of one x, for example (3, 32, 32) or (2,).
        config: how to build this architecture again (set by :func:`glow` and its siblings; it is
            what the zoo stores beside the weights).
    """

    def __init__(self, bijection: Bijection, event_shape: tuple[int, ...], config=None):
        super().__init__()
        self.bijection = bijection
        self.event_shape = tuple(event_shape)
        self.config = config

    @property
    def num_dims(self) -> int:
        """D, the number of dimensions of one x."""
        return math.prod(self.event_shape)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters())

    def _check(self, x: Tensor, name: str = "x") -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{name} must be a floating-point tensor, got {kind}; "
                "turn uint8 images into x with flowrob.data.dequantize(images, generator)"
            )
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"{name} must have shape (batch, {', '.join(map(str, self.event_shape))}), "
                f"got {tuple(x.shape)}"
            )
        return x

    def initialize(self, x: Tensor) -> None:
        """Data-dependent initialisation (ActNorm) on one clean batch ``x``; call it once."""
        with torch.no_grad():
            self.bijection.initialize(self._check(x))

    def forward(self, x: Tensor) -> Tensor:
        """The same as :meth:`log_prob`, so that wrappers such as DistributedDataParallel work."""
        return self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, per unit of x.

        Args:
            x: (batch, *event_shape), floating point; images in [0, 1].

        Returns:
            (batch,) log-densities.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x has another shape than (batch, *event_shape).
        """
        z, log_det = self.bijection(self._check(x))
        return standard_normal_log_prob(z) + log_det

    def encode(self, x: Tensor) -> Tensor:
        """All latents z of x, none dropped: ``decode(encode(x)) == x``."""
        return self.bijection(self._check(x))[0]

    def decode(self, z: Tensor) -> Tensor:
        """The x whose latents are z."""
        return self.bijection.inverse(z)[0]

    def sample(
        self, num_samples: int, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """Draw x = f^-1(temperature * noise), shape (num_samples, *event_shape).

        Args:
            num_samples: how many.
            generator: the only source of randomness; may live on another device than the flow.
            temperature: standard deviation of the latents; 1 samples the model itself.
        """
        reference = next(self.parameters())
        probe = torch.zeros(1, *self.event_shape, dtype=reference.dtype, device=reference.device)
        with torch.no_grad():
            latent_shape = self.encode(probe).shape[1:]
            noise = torch.randn(
                num_samples, *latent_shape, generator=generator, device=generator.device
            )
            return self.decode(temperature * noise.to(probe))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.event_shape))
        head = f"Flow on {shape}: D = {self.num_dims:,}, {self.num_parameters:,} parameters"
        levels = getattr(self.bijection, "levels", [self.bijection])
        lines = [head]
        for index, level in enumerate(levels, 1):
            line = f"  level {index}: {_draw(level)}"
            if len(levels) > 1:
                latents = "x".join(map(str, self.bijection.shapes[index - 1]))
                line += f" => {latents} latents"
            lines.append(line)
        return "\n".join(lines)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) = -1/2 |z|^2 - (D/2) log(2 pi), shape (batch,)."""
    z = z.flatten(1)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)


def _draw(level: Bijection) -> str:
    """One line for a chain, with repeated blocks folded: A -> 8 x [B -> C]."""
    if not isinstance(level, Chain):
        return type(level).__name__
    names = [type(b).__name__ for b in level]
    parts, i = [], 0
    while i < len(names):
        length, repeats = 1, 1
        for size in range(1, 5):
            block, count = names[i : i + size], 1
            while names[i + count * size : i + (count + 1) * size] == block:
                count += 1
            if count > 1 and count * size > length * repeats:
                length, repeats = size, count
        text = " -> ".join(names[i : i + length])
        parts.append(f"{repeats} x [{text}]" if repeats > 1 else text)
        i += length * repeats
    return " -> ".join(parts)


class ZeroConv2d(nn.Conv2d):
    """A 3x3 convolution that starts at zero, with a learned gain: y = e^(3 g) (w * x + b).

    Source: Glow (Kingma and Dhariwal 2018), section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.log_gain = nn.Parameter(torch.zeros(out_channels))
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        gain = (3.0 * self.log_gain).exp()
        return F.conv2d(x, self.weight * gain[:, None, None, None], self.bias * gain, padding=1)


def conv_net(
    in_channels: int, out_channels: int, width: int, generator: torch.Generator
) -> nn.Module:
    """Glow's conditioner: 3x3 convolution, ReLU, 1x1, ReLU, zero-initialised 3x3."""
    layers = [
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1),
        nn.ReLU(inplace=True),
    ]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, ZeroConv2d(width, out_channels))


def glow(
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_levels: int = 3,
    num_steps: int = 8,
    width: int = 64,
    *,
    min_scale: float = 0.01,
    generator: torch.Generator | None = None,
) -> Flow:
    """Glow: per level a squeeze and K steps of ActNorm, 1x1 convolution and affine coupling.

    Source: Kingma and Dhariwal 2018; section 5 of the paper, which uses K = 32, L = 3, width 512
    on CIFAR-10. Two deviations, both for numerical safety: coupling scales are bounded below by
    ``min_scale``, and there is no ActNorm inside the conditioner.

    Args:
        image_shape: (C, H, W), H and W divisible by 2^num_levels.
        num_levels: L.
        num_steps: K, flow steps per level.
        width: channels inside each conditioner.
        min_scale: lower bound of every coupling's scale; 0 is Glow as published.
        generator: draws the initial weights; default: seed 0.

    Returns:
        A :class:`Flow`; call ``initialize(x)`` once on clean data, or train it with
        :func:`flowrob.training.fit`, which does so.

    Raises:
        ValueError: sizes that are not positive, or an image that cannot be halved L times.
    """
    _check_sizes(num_levels=num_levels, num_steps=num_steps, width=width)
    generator = generator or torch.Generator().manual_seed(0)
    config = _config("glow", glow, locals())
    channels, levels = image_shape[0], []
    for level in range(1, num_levels + 1):
        channels *= 4
        half = channels // 2
        layers: list[Bijection] = [Squeeze()]
        for _ in range(num_steps):
            layers += [
                ActNorm(channels),
                InvertibleConv1x1(channels, generator),
                AffineCoupling(conv_net(half, channels, width, generator), min_scale=min_scale),
            ]
        if level < num_levels:  # half of the channels leave, standardised by a learned prior
            layers.append(AffineCoupling(ZeroConv2d(half, channels), min_scale=min_scale))
            channels = half
        levels.append(Chain(layers))
    return Flow(MultiScale(levels, image_shape), image_shape, config)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _config(kind: str, function: Callable[..., Flow], arguments: dict) -> dict:
    """The constructor call as plain data (without the generator, which only draws weights)."""
    names = [n for n in inspect.signature(function).parameters if n != "generator"]
    values = {n: arguments[n] for n in names}
    return {"kind": kind, **{n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}}
