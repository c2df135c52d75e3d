r"""Mixtures of flows: one density made of several, each part a flow (section 4).

    q(x) = sum_k w_k p_k(x)        NLL_q(x) <= min_k [NLL_k(x) + log 1/w_k]

Whatever x is, and so whatever an attack makes of it: the mixture is at most log 1/w_k nats behind
its part k. K parts of equal weight, each robust at a radius of its own (a *ladder*), are therefore
robust at all radii, up to log(K) nats: log2(5) / 3072 = 0.0008 bits/dim for five parts on 32x32
images in colour. It can be trusted because the parts can be attacked one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flowrob._checks import checked, require
from flowrob.flows.models import Flow
from flowrob.units import bits_per_dim


def log_mixture(log_probs: Tensor, log_weights: Tensor) -> Tensor:
    """log sum_k w_k p_k for log_probs (K, batch) and log w (K,), shape (batch,)."""
    return torch.logsumexp(log_probs + log_weights.to(log_probs)[:, None], 0)


def log_of_weights(weights: Sequence[float] | None, count: int) -> Tensor:
    """log w, (count,), float64; alike for all parts if no weights are given.

    Raises:
        ValueError: not one positive weight per part, or a sum that is not 1.
    """
    if count < 1:
        raise ValueError("a mixture needs at least one part (bits: one row each)")
    try:
        shares = [1.0 / count] * count if weights is None else [float(w) for w in weights]
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"weights must hold one number per part, got {weights!r}") from error
    if len(shares) != count or min(shares) <= 0.0 or abs(sum(shares) - 1.0) > 1e-6:
        raise ValueError(
            f"weights must hold {count} positive numbers that sum to 1, one per part, got "
            f"{shares}; leave out a part of weight 0"
        )
    return torch.tensor(shares, dtype=torch.float64).log()


class FlowMixture(nn.Module):
    """q(x) = sum_k w_k p_k(x), the p_k flows on the same space.

    It has what a :class:`~flowrob.flows.Flow` has, as far as a mixture can: no latents, hence no
    encode and decode.

    Args:
        parts: the flows, by name or in order.
        weights: w, positive, summing to 1; default: alike.

    Raises:
        TypeError: a part that is no Flow.
        ValueError: no parts, parts of different shapes, or wrong weights.

    Attributes:
        parts: the flows, an ``nn.ModuleList``.
        names: of the parts, in order.
    """

    log_weights: Tensor

    def __init__(
        self, parts: Mapping[str, Flow] | Sequence[Flow], weights: Sequence[float] | None = None
    ):
        super().__init__()
        if not isinstance(parts, Mapping | Sequence | nn.ModuleList) or isinstance(
            parts, str | bytes
        ):
            raise TypeError(f"parts must be flows, in a list or by name, got {parts!r}")
        if not isinstance(parts, Mapping):
            parts = {str(index): part for index, part in enumerate(parts)}
        log_weights = log_of_weights(weights, len(parts))
        for name, part in parts.items():
            if not isinstance(part, Flow):
                raise TypeError(f"part {name!r} must be a Flow, got {type(part).__name__}")
        shapes = {name: part.event_shape for name, part in parts.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"all parts must be densities on one space, got shapes {shapes}")
        self.names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())
        self.register_buffer("log_weights", log_weights)

    def _flows(self) -> list[Flow]:
        return [part for part in self.parts if isinstance(part, Flow)]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x."""
        return self._flows()[0].event_shape

    @property
    def num_dims(self) -> int:
        """D, the number of dimensions of one x."""
        return math.prod(self.event_shape)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained, in all parts together."""
        return sum(part.num_parameters for part in self._flows())

    def log_probs(self, x: Tensor) -> Tensor:
        """log p_k(x) of every part, shape (K, batch), nats."""
        return torch.stack([part.log_prob(x) for part in self._flows()])

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) = log sum_k w_k p_k(x) in nats, per unit of x, shape (batch,).

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x has another shape than ``(batch, *event_shape)``.
        """
        return log_mixture(self.log_probs(x), self.log_weights)

    def forward(self, x: Tensor) -> Tensor:
        """log q(x), as :meth:`log_prob`."""
        return self.log_prob(x)

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """-log2 q(x) / D + 8, shape (batch,); lower is more likely."""
        return bits_per_dim(self.log_prob(x), self.num_dims)

    def posterior(self, x: Tensor) -> Tensor:
        """p(k | x) = w_k p_k(x) / q(x), shape (batch, K), rows sum to 1.

        Of a ladder it says which radius x looks as if it had been attacked with. It is an
        estimate that an attack can fool as well.
        """
        return (self.log_probs(x) + self.log_weights.to(x)[:, None]).softmax(0).T

    @checked
    def sample(
        self, num_samples: int, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """Draw a part for each sample, then x from it; shape ``(num_samples, *event_shape)``.

        Args:
            num_samples: how many.
            generator: the only source of randomness; may live on another device than the flows.
            temperature: standard deviation of the latents; 1 samples the mixture itself.
        """
        require(num_samples >= 0, "num_samples", num_samples, "at least 0")
        shares = self.log_weights.exp().to(generator.device, torch.float32)
        some = max(num_samples, 1)  # it draws no fewer
        which = torch.multinomial(shares, some, replacement=True, generator=generator)[:num_samples]
        reference = next(self.parameters())
        x = torch.empty(
            num_samples, *self.event_shape, dtype=reference.dtype, device=reference.device
        )
        for k, part in enumerate(self._flows()):
            chosen = (which == k).nonzero().flatten().to(reference.device)
            if len(chosen):
                x[chosen] = part.sample(len(chosen), generator, temperature)
        return x

    def __repr__(self) -> str:
        shape, shares = "x".join(map(str, self.event_shape)), self.log_weights.exp().tolist()
        parts = ", ".join(
            f"{share:.3g} {name}" for share, name in zip(shares, self.names, strict=True)
        )
        head = f"FlowMixture on {shape}: D = {self.num_dims:,}"
        return f"{head}, {self.num_parameters:,} parameters\n  {parts}"
