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
from torch import Tensor, nn

from flowrob._checks import checked, require
from flowrob.flows.bijections import (
    ActNorm,
    Bijection,
    Chain,
    InvertibleConv1x1,
    Logit,
    MultiScale,
    Squeeze,
    default_generator,
)
from flowrob.flows.conditioners import ResidualNet, ZeroConv2d, conv_net, mlp
from flowrob.flows.couplings import AffineCoupling, MaskedCoupling, checkerboard
from flowrob.units import bits_per_dim, check_dense


class Flow(nn.Module):
    """A density on images or vectors: a bijection to a standard normal.

        log p(x) = -1/2 |z|^2 - (D/2) log(2 pi) + log_det,   (z, log_det) = bijection(x)

    Args:
        bijection: maps ``(batch, *event_shape)`` to latents.
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
        if isinstance(x, Tensor):
            check_dense(x, name)
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{name} must be a floating-point tensor, got {kind}; "
                "turn uint8 images into x with flowrob.units.dequantize(images, generator)"
            )
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"{name} must have shape (batch, {', '.join(map(str, self.event_shape))}), "
                f"got {tuple(x.shape)}"
            )
        return x

    def _map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, log_det) of x, and a word about precisions that do not go together."""
        try:
            return self.bijection(self._check(x))
        except RuntimeError as error:
            own = {weight.dtype for weight in self.parameters()}
            if own <= {x.dtype}:
                raise
            raise TypeError(
                f"x is {x.dtype}, the flow has {', '.join(map(str, own))}: pass both in one "
                f"precision, such as flow.to({x.dtype}) ({error})"
            ) from error

    def initialize(self, x: Tensor) -> None:
        """Data-dependent initialisation (ActNorm) on one clean batch ``x``; call it once.

        Raises:
            ValueError: x is empty, not finite, or of another shape than ``(batch, *event_shape)``.
        """
        if not self._check(x).numel() or not bool(x.isfinite().all()):
            raise ValueError("x must hold at least one sample and only finite numbers")
        with torch.no_grad():
            self.bijection.initialize(x)

    def forward(self, x: Tensor) -> Tensor:
        """log p(x), as :meth:`log_prob`, so that wrappers such as DistributedDataParallel work."""
        return self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, per unit of x.

        Args:
            x: ``(batch, *event_shape)``, floating point; images in [0, 1].

        Returns:
            (batch,) log-densities; -inf where the density is 0 (RealNVP, well outside [0, 1]).

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x has another shape than ``(batch, *event_shape)``.
        """
        z, log_det = self._map(x)
        return self._supported(x, standard_normal_log_prob(z) + log_det)

    def _supported(self, x: Tensor, log_prob: Tensor) -> Tensor:
        """-inf where a leading logit has no value for x: there the density is 0."""
        layers = (m for m in self.modules() if not isinstance(m, Flow | Chain | nn.ModuleList))
        first = next(layers, None)
        outside = first.outside(x) if isinstance(first, Logit) else None
        return log_prob if outside is None else log_prob.masked_fill(outside, -math.inf)

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """-log2 p(x) / D + 8: the bits that one of an 8-bit image's D numbers costs.

        Args:
            x: as for :meth:`log_prob`; images in [0, 1].

        Returns:
            (batch,) bits/dim, lower is more likely; 8 says nothing about the grey levels.

        Raises:
            TypeError: as :meth:`log_prob`.
            ValueError: as there.
        """
        return bits_per_dim(self.log_prob(x), self.num_dims)

    def encode(self, x: Tensor) -> Tensor:
        """z = f(x), all latents, none dropped: ``decode(encode(x)) == x``."""
        return self._map(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """x = f^-1(z), the input whose latents are z.

        Raises:
            ValueError: z is not of the shape and precision that :meth:`encode` returns.
        """
        check_dense(z, "z")
        if math.prod(z.shape[1:]) != self.num_dims:
            raise ValueError(f"z must hold {self.num_dims} latents per sample, got {[*z.shape]}")
        try:
            return self.bijection.inverse(z)[0]
        except (RuntimeError, ValueError):
            wanted, got = ((tuple(t.shape[1:]), t.dtype) for t in (self._latents(), z))
            require(got == wanted, "z of a sample", got, f"like encode(x), {wanted}")
            raise

    def _latents(self) -> Tensor:
        """Those of one input of zeros: their shape, precision and device."""
        own = next(self.parameters())
        with torch.no_grad():
            return self.encode(torch.zeros(1, *self.event_shape, dtype=own.dtype).to(own.device))

    @checked
    def sample(
        self, num_samples: int, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """Draw ``x = f^-1(temperature * noise)``, shape ``(num_samples, *event_shape)``.

        Args:
            num_samples: how many.
            generator: the only source of randomness; may live on another device than the flow.
            temperature: standard deviation of the latents; 1 samples the model itself.
        """
        require(num_samples >= 0, "num_samples", num_samples, "at least 0")
        like, device = self._latents(), generator.device
        with torch.no_grad():
            noise = torch.randn(num_samples, *like.shape[1:], generator=generator, device=device)
            return self.decode(temperature * noise.to(like))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.event_shape))
        lines = [f"Flow on {shape}: D = {self.num_dims:,}, {self.num_parameters:,} parameters"]
        whole = self.bijection
        parts = whole if isinstance(whole, Chain) and _holds_levels(whole) else [whole]
        for part in parts:
            if isinstance(part, MultiScale):
                for index, (level, latents) in enumerate(zip(part, part.shapes, strict=True), 1):
                    out = "x".join(map(str, latents))
                    lines.append(f"level {index}: {_draw(level)} => {out} latents")
            else:
                lines.append(_draw(part))
        return "\n  ".join(lines)


def _holds_levels(chain: Chain) -> bool:
    return any(isinstance(bijection, MultiScale) for bijection in chain)


@checked
def standard_normal_log_prob(z: Tensor) -> Tensor:
    """``log N(z; 0, I) = -1/2 |z|^2 - (D/2) log(2 pi)``, shape (batch,)."""
    require(z.dim() >= 2, "z", tuple(z.shape), "of shape (batch, ...)")
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


def glow(
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_levels: int = 3,
    num_steps: int = 8,
    width: int = 64,
    *,
    min_scale: float = 0.01,
    published_prior: bool = False,
    generator: torch.Generator | None = None,
) -> Flow:
    """Glow: per level a squeeze and K steps of ActNorm, 1x1 convolution and affine coupling.

    Source: Kingma and Dhariwal 2018, with K = 32, L = 3, width 512 on CIFAR-10; section 5 of the
    paper, whose main text gives no sizes. Three deviations, for numerical safety: coupling scales
    are bounded below by ``min_scale``, the learned prior of the latents that leave has the
    couplings' bounded scale, and there is no ActNorm inside the conditioner (it could be folded
    into the convolutions).

    Args:
        image_shape: (C, H, W), H and W divisible by 2^num_levels.
        num_levels: L.
        num_steps: K, flow steps per level.
        width: channels inside each conditioner.
        min_scale: lower bound of every coupling's scale; 0 is Glow as published.
        published_prior: latents leave through log s = h, unbounded, and the last ones through one
            more ActNorm (Glow's learned prior), as published.
        generator: draws the initial weights; default: seed 0.

    Returns:
        A :class:`Flow`; call ``initialize(x)`` once on clean data, or train it with
        :func:`flowrob.training.fit`, which does so.

    Raises:
        ValueError: sizes that are not positive, or an image that cannot be halved L times.
    """
    _check_sizes(num_levels=num_levels, num_steps=num_steps, width=width)
    _check_image_shape(image_shape, halvings=num_levels)
    if not isinstance(published_prior, bool):
        raise TypeError(f"published_prior must be True or False, got {published_prior!r}")
    generator = default_generator(generator)
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
            prior = ZeroConv2d(half, channels)
            layers.append(
                AffineCoupling(prior, log_range=math.inf)
                if published_prior
                else AffineCoupling(prior, min_scale=min_scale)
            )
            channels = half
        elif published_prior:
            layers.append(ActNorm(channels))
        levels.append(Chain(layers))
    return Flow(MultiScale(levels, image_shape), image_shape, config)


def realnvp(
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_levels: int = 3,
    width: int = 14,
    num_blocks: int = 1,
    *,
    log_range: float = 2.0,
    generator: torch.Generator | None = None,
) -> Flow:
    """RealNVP: logits; per level 3 checkerboard couplings, a squeeze, 3 channel-wise couplings.

    Half of the channels leave after each level; the last level is 4 checkerboard couplings. The
    conditioners' width doubles with every squeeze.

    Source: Dinh et al. 2017, sections 3.4 to 3.6 and 4.1. Three deviations: ActNorm in front of
    each coupling in place of batch norm behind it (a density that depends on the rest of the
    batch cannot be attacked image by image), no batch norm inside the conditioner, and
    log s = r tanh(h / r) with fixed r = ``log_range`` in place of a learned, unbounded one.

    Args:
        image_shape: (C, H, W), H and W divisible by 2^(num_levels - 1).
        num_levels: L, the last one included.
        width: channels inside the conditioners at full resolution.
        num_blocks: residual blocks per conditioner.
        log_range: bound r of every coupling's ``|log s|``.
        generator: draws the initial weights; default: seed 0.

    Returns:
        A :class:`Flow` on images in [0, 1]; initialise or train it as :func:`glow`.

    Raises:
        ValueError: sizes that are not positive, or an image that cannot be halved L - 1 times.
    """
    _check_sizes(num_levels=num_levels, width=width, num_blocks=num_blocks)
    _check_image_shape(image_shape, halvings=num_levels - 1)
    generator = default_generator(generator)
    config = _config("realnvp", realnvp, locals())
    (channels, height, width_px), levels = image_shape, []

    def masked(parity: int) -> list[Bijection]:
        net = ResidualNet(channels, 2 * channels, width, num_blocks, generator)
        mask = checkerboard(height, width_px, parity)
        return [ActNorm(channels), MaskedCoupling(net, mask, log_range=log_range)]

    def channelwise(flip: bool) -> list[Bijection]:
        net = ResidualNet(channels // 2, channels, width, num_blocks, generator)
        return [ActNorm(channels), AffineCoupling(net, flip, log_range=log_range)]

    for _ in range(num_levels - 1):
        layers = [*masked(0), *masked(1), *masked(0), Squeeze()]
        channels, height, width_px, width = 4 * channels, height // 2, width_px // 2, 2 * width
        layers += [*channelwise(False), *channelwise(True), *channelwise(False)]
        levels.append(Chain(layers))
        channels //= 2
    levels.append(Chain([*masked(0), *masked(1), *masked(0), *masked(1)]))
    return Flow(Chain([Logit(), MultiScale(levels, image_shape)]), image_shape, config)


def plane_flow(
    num_steps: int = 8, width: int = 32, *, generator: torch.Generator | None = None
) -> Flow:
    """A flow on the plane, Glow's step for two numbers: ActNorm, 2x2 matrix, affine coupling.

    One coordinate moves the other through a small smooth network; the matrix turns the plane in
    between. Trains in seconds.

    >>> plane_flow(num_steps=3, width=8)
    Flow on 2: D = 2, 348 parameters
      3 x [ActNorm -> InvertibleConv1x1 -> AffineCoupling]

    Args:
        num_steps: flow steps.
        width: hidden units of each conditioner, 1 -> width -> width -> 2.
        generator: draws the initial weights; default: seed 0.

    Returns:
        A :class:`Flow` on (batch, 2) points; call ``initialize(x)`` once on the data.

    Raises:
        ValueError: sizes that are not positive.
    """
    _check_sizes(num_steps=num_steps, width=width)
    generator = default_generator(generator)
    config = _config("plane_flow", plane_flow, locals())
    layers: list[Bijection] = []
    for _ in range(num_steps):
        net = mlp(1, 2, width, generator)
        layers += [ActNorm(2), InvertibleConv1x1(2, generator), AffineCoupling(net)]
    return Flow(Chain(layers), (2,), config)


_PLAIN = {"min_scale": 0.0, "published_prior": True}  # without this package's deviations
#: Glow and RealNVP at the sizes that their authors published: name -> (builder, its arguments).
PUBLISHED: dict[str, tuple[Callable[..., Flow], dict]] = {
    "glow-cifar10": (
        glow,
        {"image_shape": (3, 32, 32), "num_levels": 3, "num_steps": 32, "width": 512, **_PLAIN},
    ),
    "glow-64": (  # CelebA and LSUN; four levels, as Kingma and Dhariwal use at 64 x 64
        glow,
        {"image_shape": (3, 64, 64), "num_levels": 4, "num_steps": 48, "width": 512, **_PLAIN},
    ),
    "realnvp-cifar10": (  # section 4.1: 8 residual blocks, 64 feature maps, downscaled once
        realnvp,
        {"image_shape": (3, 32, 32), "num_levels": 2, "width": 64, "num_blocks": 8},
    ),
    "realnvp-64": (  # section 4.1: 2 residual blocks, 32 maps, down to a last level of 4 x 4
        realnvp,
        {"image_shape": (3, 64, 64), "num_levels": 5, "width": 32, "num_blocks": 2},
    ),
}


@checked
def published(name: str, generator: torch.Generator | None = None) -> Flow:
    """Glow or RealNVP at a size that its authors published, untrained.

    Args:
        name: a key of :data:`PUBLISHED`; ValueError if it is none.
        generator: draws the initial weights; default: seed 0.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published size {name!r}: choose one of {sorted(PUBLISHED)}")
    builder, arguments = PUBLISHED[name]
    return builder(**arguments, generator=generator)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_image_shape(image_shape: tuple[int, int, int], halvings: int) -> None:
    sizes = tuple(image_shape) if isinstance(image_shape, tuple | list) else (image_shape,)
    if len(sizes) != 3 or not all(type(n) is int and n > 0 for n in sizes):
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape!r}")
    factor = 2 ** min(halvings, 64)  # checked here, before anything grows with it
    if any(n % factor for n in sizes[1:]):
        raise ValueError(
            f"image_shape {tuple(image_shape)}: height and width must be divisible by {factor}, "
            f"to be halved {halvings} times; resize the images or use fewer levels"
        )


def _config(kind: str, function: Callable[..., Flow], arguments: dict) -> dict:
    """The constructor call as plain data (without the generator, which only draws weights)."""
    names = [n for n in inspect.signature(function).parameters if n != "generator"]
    values = {n: arguments[n] for n in names}
    return {"kind": kind, **{n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}}
