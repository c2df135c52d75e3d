"""Bijections: the layers of a flow, each a map x <-> z with its log-determinant (section 2.1).

A flow is a chain of invertible maps, and its density follows from the change of variables

    log p(x) = log p(z) + log |det dz/dx|,        z = f(x).

The laws, which every class here obeys and which one test checks over a list of all of them:

1. ``forward(x) -> (z, log_det)`` goes from data to noise; ``inverse(z) -> (x, log_det)`` is its
   exact, differentiable inverse.
2. ``log_det`` has shape (batch,), in nats, and belongs to the map that was just applied.
3. The output is a deterministic function of the input, in train and in eval mode: no noise and
   no batch statistics inside. Sample i never depends on sample j.
4. No latent is thrown away: ``inverse(forward(x)) == x``.
5. :class:`ActNorm` is initialised by an explicit ``initialize(x)`` on clean data, remembered in a
   buffer; used before that, it raises.

Tensors are (batch, channels, height, width), or (batch, features) where a class says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowrob._checks import checked


def default_generator(generator: torch.Generator | None) -> torch.Generator:
    """What draws initial weights: by default a generator of seed 0, never the global one."""
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be torch.Generator().manual_seed(...), got {generator!r}")
    return generator


class Bijection(nn.Module):
    """An invertible map with a tractable log-determinant; the base class of the chapter."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to noise: z = f(x),  log|det dz/dx|."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise to data: x = f^-1(z),  log|det dx/dz|."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> Tensor:
        """Set data-dependent parameters from clean data x; returns z = f(x)."""
        return self.forward(x)[0]


def _num_pixels(x: Tensor) -> int:
    return math.prod(x.shape[2:])


def sum_per_sample(x: Tensor) -> Tensor:
    """Sum over all but the batch dimension, without the copy that ``flatten`` would need."""
    return x.sum(dim=tuple(range(1, x.dim())))


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    return v.view(1, -1, *[1] * (x.dim() - 2))


def _pixelwise(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply every pixel's channel vector by ``matrix``: (batch, C, ...) -> (batch, C, ...)."""
    if x.dim() == 2:
        return F.linear(x, matrix, bias)
    return F.conv2d(x, matrix[:, :, None, None], bias)


class ActNorm(Bijection):
    r"""One shift and one scale per channel: z_c = (x_c + b_c) exp(s_c).

    log|det| = (number of pixels) * sum_c s_c. ``initialize`` chooses b and s so that every
    channel of the data it is given comes out with mean 0 and variance 1.

    Source: Glow (Kingma and Dhariwal 2018), section 3.1.

    Args:
        num_channels: C. Accepts (batch, C) and (batch, C, height, width).

    Raises:
        ValueError: used before ``initialize`` (or before trained weights were loaded).
    """

    initialized: Tensor

    @checked
    def __init__(self, num_channels: int):
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.log_scale = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False  # host copy of the buffer: reading that on a GPU would stall it

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._ready = False

    def _check_ready(self) -> None:
        if not self._ready:
            if not self.initialized:
                raise ValueError(
                    "ActNorm is not initialised: call flow.initialize(x) once on clean data, "
                    "or load trained weights"
                )
            self._ready = True

    def initialize(self, x: Tensor) -> Tensor:
        """b_c = -mean x_c,  s_c = -log std x_c, over the batch and the pixels; returns z."""
        dims = [d for d in range(x.dim()) if d != 1]
        with torch.no_grad():
            std, mean = torch.std_mean(x, dims, correction=0)
            self.bias.copy_(-mean)
            self.log_scale.copy_(-std.clamp_min(1e-6).log())
            self.initialized.fill_(True)
        return self.forward(x)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = (x + b) e^s,  log|det dz/dx| = H W sum_c s_c."""
        self._check_ready()
        z = (x + _per_channel(self.bias, x)) * _per_channel(self.log_scale.exp(), x)
        return z, (_num_pixels(x) * self.log_scale.sum()).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = z e^-s - b,  log|det dx/dz| = -H W sum_c s_c."""
        self._check_ready()
        x = z * _per_channel((-self.log_scale).exp(), z) - _per_channel(self.bias, z)
        return x, (-_num_pixels(z) * self.log_scale.sum()).expand(len(z))


class InvertibleConv1x1(Bijection):
    r"""A learned change of basis of the channels: z = W x at every pixel, W = P L (U + diag d).

    L is unit lower and U strictly upper triangular, P a fixed permutation and d = sign * exp(s),
    so log|det| = (number of pixels) * sum_c s_c costs nothing. W starts as a random rotation. L and
    U share the matrix ``lower_upper``, each its side of the diagonal; the diagonal is unused.

    Source: Glow (Kingma and Dhariwal 2018), section 3.2.

    Args:
        num_channels: C. Accepts (batch, C) and (batch, C, height, width).
        generator: draws the rotation; default: seed 0.
    """

    permutation: Tensor
    sign: Tensor

    @checked
    def __init__(self, num_channels: int, generator: torch.Generator | None = None):
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        generator = default_generator(generator)
        gaussian = torch.randn(num_channels, num_channels, generator=generator, dtype=torch.float64)
        permutation, lower, upper = torch.linalg.lu(torch.linalg.qr(gaussian).Q)
        diagonal = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("permutation", permutation.to(dtype))
        self.register_buffer("sign", diagonal.sign().to(dtype))
        self.lower_upper = nn.Parameter((lower.tril(-1) + upper.triu(1)).to(dtype))
        self.log_scale = nn.Parameter(diagonal.abs().log().to(dtype))

    def _factors(self) -> tuple[Tensor, Tensor]:
        eye = torch.eye(len(self.sign), dtype=self.sign.dtype, device=self.sign.device)
        lower = self.lower_upper.tril(-1) + eye
        upper = self.lower_upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())
        return lower, upper

    def matrix(self) -> Tensor:
        """W = P L (U + diag d), shape (C, C)."""
        lower, upper = self._factors()
        return self.permutation @ (lower @ upper)

    def inverse_matrix(self) -> Tensor:
        """W^-1 = (U + diag d)^-1 L^-1 P^T by two triangular solves, shape (C, C)."""
        lower, upper = self._factors()
        right = torch.linalg.solve_triangular(
            lower, self.permutation.mT, upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(upper, right, upper=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = W x at every pixel,  log|det dz/dx| = H W sum_c log|d_c|."""
        return _pixelwise(x, self.matrix()), self._log_det(x)

    def forward_after(self, actnorm: ActNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """``self(actnorm(x))`` as one convolution: z = (W diag e^s) x + W (e^s b).

        log|det dz/dx| = H W sum_c (s_c + log|d_c|), the sum of both.

        Args:
            actnorm: holds b and s; it must be initialised.
            x: what goes into it.
        """
        actnorm._check_ready()
        matrix = self.matrix() * actnorm.log_scale.exp()
        log_det = _num_pixels(x) * (self.log_scale + actnorm.log_scale).sum()
        return _pixelwise(x, matrix, matrix @ actnorm.bias), log_det.expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = W^-1 z at every pixel,  log|det dx/dz| = -H W sum_c log|d_c|."""
        return _pixelwise(z, self.inverse_matrix()), -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (_num_pixels(x) * self.log_scale.sum()).expand(len(x))


class Squeeze(Bijection):
    """Trade space for channels: each 2x2 block of pixels becomes four channels; log|det| = 0.

    (batch, C, H, W) <-> (batch, 4C, H/2, W/2). The result is stored channels-last, the layout in
    which convolutions run fastest on a CPU.

    Source: RealNVP (Dinh et al. 2017), section 3.6.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z[4c + 2i + j, h, w] = x[c, 2h + i, 2w + j],  log|det dz/dx| = 0."""
        n, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ValueError(f"Squeeze needs even height and width, got {h}x{w}; crop or pad")
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)  # (n, c, row, i, column, j)
        z = blocks.permute(0, 2, 4, 1, 3, 5).reshape(n, h // 2, w // 2, 4 * c)
        return z.permute(0, 3, 1, 2), x.new_zeros(n)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x[c, 2h + i, 2w + j] = z[4c + 2i + j, h, w],  log|det dx/dz| = 0."""
        n, c, h, w = z.shape
        if c % 4:
            raise ValueError(f"Squeeze.inverse needs channels divisible by 4, got {c}")
        blocks = z.reshape(n, c // 4, 2, 2, h, w)  # (n, c, i, j, row, column)
        x = blocks.permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
        return x, z.new_zeros(n)


class Logit(Bijection):
    r"""From [0, 1] to the line: z = logit(alpha + (1 - 2 alpha) x), elementwise.

    log|dz/dx| = log(1 - 2 alpha) - log y - log(1 - y) with y = alpha + (1 - 2 alpha) x; alpha keeps
    the ends finite.

    Source: RealNVP (Dinh et al. 2017), section 4.1, which uses alpha = 0.05.
    """

    @checked
    def __init__(self, alpha: float = 0.05):
        super().__init__()
        if not 0.0 < alpha < 0.5:
            raise ValueError(f"alpha must lie in (0, 0.5), got {alpha}")
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = log y - log(1 - y),  log|det| = sum(log(1 - 2 alpha) - log y - log(1 - y))."""
        y = self.alpha + (1.0 - 2.0 * self.alpha) * x
        log_y, log_1my = y.log(), (1.0 - y).log()
        return log_y - log_1my, sum_per_sample(math.log(1.0 - 2.0 * self.alpha) - log_y - log_1my)

    def outside(self, x: Tensor) -> Tensor:
        """Which samples have a y outside (0, 1), where the density is 0; (batch,), NaN not."""
        y = self.alpha + (1.0 - 2.0 * self.alpha) * x
        return ((y <= 0.0) | (y >= 1.0)).flatten(1).any(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = (y - alpha) / (1 - 2 alpha),  y = sigmoid(z).

        log|det dx/dz| = sum(log y + log(1 - y) - log(1 - 2 alpha)).
        """
        x = (torch.sigmoid(z) - self.alpha) / (1.0 - 2.0 * self.alpha)
        log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1.0 - 2.0 * self.alpha)
        return x, sum_per_sample(log_det)


class Chain(Bijection):
    """Bijections one after the other: z = f_k(... f_1(x)); the log-determinants add up.

    An :class:`ActNorm` followed by an :class:`InvertibleConv1x1` is applied as one convolution.
    """

    def __init__(self, bijections: Iterable[Bijection]):
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def __iter__(self) -> Iterator[Bijection]:
        return cast(Iterator[Bijection], iter(self.bijections))

    def initialize(self, x: Tensor) -> Tensor:
        """x_i = f_i(x_{i-1}), each initialised on what reaches it; returns z = x_k."""
        for bijection in self:
            x = bijection.initialize(x)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f_k(... f_1(x)),  log|det dz/dx| = sum_i log|det df_i|."""
        log_det = x.new_zeros(len(x))
        pending: ActNorm | None = None  # waiting to be folded into the convolution behind it
        behind = [*list(self)[1:], None]
        for bijection, following in zip(self, behind, strict=False):
            if isinstance(bijection, ActNorm) and isinstance(following, InvertibleConv1x1):
                pending = bijection
                continue
            if pending is not None and isinstance(bijection, InvertibleConv1x1):
                x, term = bijection.forward_after(pending, x)
                pending = None
            else:
                x, term = bijection(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = f_1^-1(... f_k^-1(z)),  log|det dx/dz| = sum_i log|det df_i^-1|."""
        log_det = z.new_zeros(len(z))
        for bijection in reversed(list(self)):
            z, term = bijection.inverse(z)
            log_det = log_det + term
        return z, log_det


class MultiScale(Bijection):
    """Levels of a flow; after each level but the last, half of the channels leave as latents.

    (batch, C, H, W) <-> (batch, C H W): the latents of all levels, flattened and concatenated in
    the order in which they leave. Nothing is thrown away.

    Source: RealNVP (Dinh et al. 2017), section 3.6.

    Args:
        levels: chains, each with at most one :class:`Squeeze`: first in Glow, in the middle of a
            level in RealNVP, whose last level has none.
        image_shape: (C, H, W); H and W must be divisible by 2^(number of squeezes).
    """

    def __init__(self, levels: Iterable[Bijection], image_shape: tuple[int, int, int]):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        channels, height, width = image_shape
        squeezes = [any(isinstance(m, Squeeze) for m in level.modules()) for level in self.levels]
        factor = 2 ** sum(squeezes)
        if height % factor or width % factor:
            raise ValueError(
                f"image_shape {tuple(image_shape)}: height and width must be divisible by "
                f"{factor} for {len(self.levels)} levels; resize the images or use fewer levels"
            )
        self.shapes = []  # of the latents that leave at each level
        for level, squeeze in enumerate(squeezes, 1):
            if squeeze:
                channels, height, width = 4 * channels, height // 2, width // 2
            if level < len(squeezes):
                channels //= 2
            self.shapes.append((channels, height, width))

    def __iter__(self) -> Iterator[Bijection]:
        return cast(Iterator[Bijection], iter(self.levels))

    def initialize(self, x: Tensor) -> Tensor:
        """z as :meth:`forward` has it, each level initialised on what reaches it."""
        latents = []
        *inner, last = self
        for level in inner:
            x, leaving = level.initialize(x).chunk(2, dim=1)
            latents.append(leaving.flatten(1))
        latents.append(last.initialize(x).flatten(1))
        return torch.cat(latents, dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = (z_1, ..., z_L),  (x_l, z_l) = f_l(x_{l-1}),  z_L = f_L(x_{L-1}).

        log|det dz/dx| = sum_l log|det df_l|.
        """
        latents, log_det = [], x.new_zeros(len(x))
        for level in self:
            x, term = level(x)
            log_det = log_det + term
            if level is not self.levels[-1]:
                x, leaving = x.chunk(2, dim=1)
                latents.append(leaving.flatten(1))
        latents.append(x.flatten(1))
        return torch.cat(latents, dim=1), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x_{L-1} = f_L^-1(z_L),  x_{l-1} = f_l^-1(x_l, z_l),  x = x_0.

        log|det dx/dz| = sum_l log|det df_l^-1|.
        """
        sizes = [math.prod(shape) for shape in self.shapes]
        latents = [
            part.reshape(len(z), *shape)
            for part, shape in zip(z.split(sizes, dim=1), self.shapes, strict=True)
        ]
        *inner, last = self
        x, log_det = last.inverse(latents[-1])
        for level, leaving in zip(inner[::-1], latents[-2::-1], strict=True):
            x, term = level.inverse(torch.cat((x, leaving), dim=1))
            log_det = log_det + term
        return x, log_det
