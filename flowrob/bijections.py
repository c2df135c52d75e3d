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
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bijection(nn.Module):
    """An invertible map with a tractable log-determinant; the base class of this module."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to noise: ``(z, log|det dz/dx|)``."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise to data: ``(x, log|det dx/dz|)``."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> Tensor:
        """Set data-dependent parameters from clean data ``x``; returns ``forward(x)[0]``."""
        return self.forward(x)[0]


def _num_pixels(x: Tensor) -> int:
    return math.prod(x.shape[2:])


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
        RuntimeError: used before ``initialize`` (or before trained weights were loaded).
    """

    def __init__(self, num_channels: int):
        super().__init__()
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
                raise RuntimeError(
                    "ActNorm is not initialised: call flow.initialize(x) once on clean data, "
                    "or load trained weights"
                )
            self._ready = True

    def initialize(self, x: Tensor) -> Tensor:
        dims = [d for d in range(x.dim()) if d != 1]
        with torch.no_grad():
            std, mean = torch.std_mean(x, dims, correction=0)
            self.bias.copy_(-mean)
            self.log_scale.copy_(-std.clamp_min(1e-6).log())
            self.initialized.fill_(True)
        return self.forward(x)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check_ready()
        z = (x + _per_channel(self.bias, x)) * _per_channel(self.log_scale.exp(), x)
        return z, (_num_pixels(x) * self.log_scale.sum()).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
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

    def __init__(self, num_channels: int, generator: torch.Generator | None = None):
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
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
        """W = P L U, shape (C, C)."""
        lower, upper = self._factors()
        return self.permutation @ (lower @ upper)

    def inverse_matrix(self) -> Tensor:
        """W^-1 = U^-1 L^-1 P^T by two triangular solves, shape (C, C)."""
        lower, upper = self._factors()
        right = torch.linalg.solve_triangular(
            lower, self.permutation.mT, upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(upper, right, upper=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _pixelwise(x, self.matrix()), self._log_det(x)

    def forward_after(self, actnorm: ActNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """``self(actnorm(x))`` as one convolution: z = (W diag e^s) x + W (e^s b)."""
        actnorm._check_ready()
        matrix = self.matrix() * actnorm.log_scale.exp()
        log_det = _num_pixels(x) * (self.log_scale + actnorm.log_scale).sum()
        return _pixelwise(x, matrix, matrix @ actnorm.bias), log_det.expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
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
        n, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ValueError(f"Squeeze needs even height and width, got {h}x{w}; crop or pad")
        blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)  # (n, c, row, i, column, j)
        z = blocks.permute(0, 2, 4, 1, 3, 5).reshape(n, h // 2, w // 2, 4 * c)
        return z.permute(0, 3, 1, 2), x.new_zeros(n)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = z.shape
        if c % 4:
            raise ValueError(f"Squeeze.inverse needs channels divisible by 4, got {c}")
        blocks = z.reshape(n, c // 4, 2, 2, h, w)  # (n, c, i, j, row, column)
        x = blocks.permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
        return x, z.new_zeros(n)


class _Coupling(Bijection):
    """What the couplings share: a conditioner's output h turned into (shift, log_scale).

    Glow:     log s = log(m + (1 - m) sigmoid(h + 2))    in (log m, 0), m = ``min_scale``
    RealNVP:  log s = r tanh(h / r)                      in (-r, r),    r = ``log_range``

    With m > 0, or finite r, one layer can scale no input by more than a known factor, however
    absurd that input; m = 0 is Glow as published, and r = infinity the plain exponential s = e^h.
    """

    def __init__(
        self, conditioner: nn.Module, min_scale: float = 0.01, log_range: float | None = None
    ):
        super().__init__()
        if not 0.0 <= min_scale < 1.0:
            raise ValueError(f"min_scale must lie in [0, 1), got {min_scale}")
        if log_range is not None and not log_range > 0.0:
            raise ValueError(f"log_range must be positive, got {log_range}")
        self.conditioner = conditioner
        self.min_scale = min_scale
        self.log_range = log_range

    def _shift_and_scale(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shift, h = self.conditioner(condition).chunk(2, dim=1)
        if self.log_range is not None:
            r = self.log_range
            log_scale = h if r == math.inf else r * torch.tanh(h / r)
            return shift, log_scale.exp(), log_scale
        if self.min_scale == 0.0:
            log_scale = F.logsigmoid(h + 2.0)
            return shift, log_scale.exp(), log_scale
        scale = self.min_scale + (1.0 - self.min_scale) * torch.sigmoid(h + 2.0)
        return shift, scale, scale.log()


class AffineCoupling(_Coupling):
    r"""Half of the channels moves the other half: z_a = x_a, z_b = (x_b + t(x_a)) s(x_a).

    log|det| = sum log s(x_a). The inverse needs no inverse of the network: x_b = z_b / s - t.
    The same map with a one-layer conditioner is the learned conditional prior of a multi-scale
    flow: it standardises the latents that leave, given the channels that stay.

    Source: RealNVP (Dinh et al. 2017), section 3.2, with Glow's scale.

    Args:
        conditioner: network from C/2 channels to C (first half shift t, second half h of s).
        flip: transform the first half given the second instead.
        min_scale: lower bound m of s = m + (1 - m) sigmoid(h + 2); 0 is Glow as published.
        log_range: if given, log s = r tanh(h / r) instead, with r = log_range (inf: log s = h).
    """

    def __init__(
        self,
        conditioner: nn.Module,
        flip: bool = False,
        min_scale: float = 0.01,
        log_range: float | None = None,
    ):
        super().__init__(conditioner, min_scale, log_range)
        self.flip = flip

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] % 2:
            raise ValueError(f"AffineCoupling needs an even number of channels, got {x.shape[1]}")
        first, second = x.chunk(2, dim=1)
        return (second, first) if self.flip else (first, second)

    def _merge(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, kept) if self.flip else (kept, moved), dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(x)
        shift, scale, log_scale = self._shift_and_scale(kept)
        return self._merge(kept, (moved + shift) * scale), _sum(log_scale)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(z)
        shift, scale, log_scale = self._shift_and_scale(kept)
        return self._merge(kept, moved / scale - shift), -_sum(log_scale)


def _sum(x: Tensor) -> Tensor:
    """Sum over all but the batch dimension, without the copy that ``flatten`` would need."""
    return x.sum(dim=tuple(range(1, x.dim())))


class MaskedCoupling(_Coupling):
    r"""The coupling for any binary mask m: z = m x + (1 - m)(x + t(m x)) s(m x).

    With a checkerboard mask it couples neighbouring pixels (RealNVP); with mask (1, 0) or (0, 1)
    it is the coupling of a flow on the plane. log|det| = sum (1 - m) log s(m x).

    Source: RealNVP (Dinh et al. 2017), section 3.4.

    Args:
        conditioner: network from C channels to 2C, or from n features to 2n.
        mask: zeros and ones, broadcastable to one input (without the batch dimension).
        min_scale: lower bound of s, as in :class:`AffineCoupling`.
        log_range: if given, log s = r tanh(h / r) instead, with r = log_range.
    """

    def __init__(
        self,
        conditioner: nn.Module,
        mask: Tensor,
        min_scale: float = 0.01,
        log_range: float | None = None,
    ):
        super().__init__(conditioner, min_scale, log_range)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"mask must hold only zeros and ones, got {mask.unique().tolist()}")
        self.register_buffer("mask", mask.to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, log_scale = self._shift_and_scale(self.mask * x)
        moved = 1.0 - self.mask
        z = self.mask * x + moved * ((x + shift) * scale)
        return z, _sum(moved * log_scale)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, log_scale = self._shift_and_scale(self.mask * z)
        moved = 1.0 - self.mask
        x = self.mask * z + moved * (z / scale - shift)
        return x, -_sum(moved * log_scale)


def checkerboard(height: int, width: int, parity: int = 0) -> Tensor:
    """A (1, height, width) mask of ones where row + column + parity is even.

    >>> checkerboard(2, 2)
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    return ((rows + columns + parity) % 2 == 0)[None].to(torch.get_default_dtype())


class Logit(Bijection):
    r"""From [0, 1] to the line: z = logit(alpha + (1 - 2 alpha) x), elementwise.

    log|dz/dx| = log(1 - 2 alpha) - log y - log(1 - y) with y = alpha + (1 - 2 alpha) x; alpha keeps
    the ends finite.

    Source: RealNVP (Dinh et al. 2017), section 4.1, which uses alpha = 0.05.
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        if not 0.0 < alpha < 0.5:
            raise ValueError(f"alpha must lie in (0, 0.5), got {alpha}")
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.alpha + (1.0 - 2.0 * self.alpha) * x
        log_y, log_1my = y.log(), (1.0 - y).log()
        return log_y - log_1my, _sum(math.log(1.0 - 2.0 * self.alpha) - log_y - log_1my)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = (torch.sigmoid(z) - self.alpha) / (1.0 - 2.0 * self.alpha)
        log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1.0 - 2.0 * self.alpha)
        return x, _sum(log_det)


class Chain(Bijection):
    """Bijections one after the other: z = f_k(... f_1(x)); the log-determinants add up.

    An :class:`ActNorm` followed by an :class:`InvertibleConv1x1` is applied as one convolution.
    """

    def __init__(self, bijections: Iterable[Bijection]):
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def __iter__(self):
        return iter(self.bijections)

    def initialize(self, x: Tensor) -> Tensor:
        for bijection in self.bijections:
            x = bijection.initialize(x)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        pending = None  # an ActNorm waiting to be folded into the convolution behind it
        behind = [*list(self.bijections)[1:], None]
        for bijection, following in zip(self.bijections, behind, strict=False):
            if isinstance(bijection, ActNorm) and isinstance(following, InvertibleConv1x1):
                pending = bijection
                continue
            if pending is not None:
                x, term = bijection.forward_after(pending, x)
                pending = None
            else:
                x, term = bijection(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(len(z))
        for bijection in reversed(self.bijections):
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

    def initialize(self, x: Tensor) -> Tensor:
        latents = []
        for level in self.levels[:-1]:
            x, leaving = level.initialize(x).chunk(2, dim=1)
            latents.append(leaving.flatten(1))
        latents.append(self.levels[-1].initialize(x).flatten(1))
        return torch.cat(latents, dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_det = [], x.new_zeros(len(x))
        for level in self.levels:
            x, term = level(x)
            log_det = log_det + term
            if level is not self.levels[-1]:
                x, leaving = x.chunk(2, dim=1)
                latents.append(leaving.flatten(1))
        latents.append(x.flatten(1))
        return torch.cat(latents, dim=1), log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes]
        latents = [
            part.reshape(len(z), *shape)
            for part, shape in zip(z.split(sizes, dim=1), self.shapes, strict=True)
        ]
        x, log_det = self.levels[-1].inverse(latents[-1])
        for level, leaving in zip(self.levels[-2::-1], latents[-2::-1], strict=True):
            x, term = level.inverse(torch.cat((x, leaving), dim=1))
            log_det = log_det + term
        return x, log_det
