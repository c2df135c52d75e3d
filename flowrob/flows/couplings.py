"""Couplings: half of an input moves the other half, through a network that is never inverted (2.1).

    z_a = x_a,      z_b = (x_b + t(x_a)) s(x_a),      log|det dz/dx| = sum log s(x_a)

Which half is which, the channels say (:class:`AffineCoupling`) or a mask (:class:`MaskedCoupling`).
They obey the laws of :mod:`flowrob.flows.bijections`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowrob._checks import checked, require
from flowrob.flows.bijections import Bijection, sum_per_sample
from flowrob.units import check_number


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
        check_number(min_scale=min_scale, log_range=1.0 if log_range is None else log_range)
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
        """z_a = x_a,  z_b = (x_b + t(x_a)) s(x_a),  log|det dz/dx| = sum log s(x_a)."""
        kept, moved = self._split(x)
        shift, scale, log_scale = self._shift_and_scale(kept)
        return self._merge(kept, (moved + shift) * scale), sum_per_sample(log_scale)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x_a = z_a,  x_b = z_b / s(z_a) - t(z_a),  log|det dx/dz| = -sum log s(z_a)."""
        kept, moved = self._split(z)
        shift, scale, log_scale = self._shift_and_scale(kept)
        return self._merge(kept, moved / scale - shift), -sum_per_sample(log_scale)


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

    mask: Tensor

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
        """z = m x + (1 - m)(x + t(m x)) s(m x),  log|det dz/dx| = sum (1 - m) log s(m x)."""
        shift, scale, log_scale = self._shift_and_scale(self.mask * x)
        moved = 1.0 - self.mask
        z = self.mask * x + moved * ((x + shift) * scale)
        return z, sum_per_sample(moved * log_scale)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = m z + (1 - m)(z / s(m z) - t(m z)),  log|det dx/dz| = -sum (1 - m) log s(m z)."""
        shift, scale, log_scale = self._shift_and_scale(self.mask * z)
        moved = 1.0 - self.mask
        x = self.mask * z + moved * (z / scale - shift)
        return x, -sum_per_sample(moved * log_scale)


@checked
def checkerboard(height: int, width: int, parity: int = 0) -> Tensor:
    """A (1, height, width) mask of ones where row + column + parity is even.

    Args:
        height: H.
        width: W.
        parity: 0 or 1; the two masks add up to one.

    >>> checkerboard(2, 2)
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    require(height >= 1, "height", height, "at least 1")
    require(width >= 1, "width", width, "at least 1")
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    return ((rows + columns + parity) % 2 == 0)[None].to(torch.get_default_dtype())
