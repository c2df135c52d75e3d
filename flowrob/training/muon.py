"""Muon: momentum whose matrices are made orthogonal, for the kernels of convolutions.

    W <- W - lr * 0.2 sqrt(max(rows, columns)) * U V^T,      momentum G = U S V^T

A step of ordinary gradient descent follows the few directions in which the gradient is great; with
all singular values set to 1 every direction learns alike. At equal numbers of steps a small Glow
gets much further with it than with Adam. Biases, gains and 1x1 matrices in LU form are no kernels:
they go on with Adam, at the same rate; the factor 0.2 sqrt(...) gives both kinds of steps the
size that Adam's have.

``torch.optim.Muon`` takes matrices only, one by one; this one takes the kernels of a flow as they
are and orthogonalises all of equal shape in one batch.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (the
iteration and its coefficients); Liu et al. 2025, "Muon is scalable for LLM training" (the factor).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from flowrob._checks import checked, require

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, num_steps: int = 5) -> Tensor:
    """U V^T of each G = U S V^T, nearly: the singular values end between 0.6 and 1.3.

    X <- a X + (b A + c A^2) X with A = X X^T, from X = G / |G|_F: a quintic in the singular values
    that pushes all of them towards 1.

    Args:
        matrices: (batch, rows, columns); a matrix of zeros stays one.
        num_steps: of the iteration.

    >>> values = torch.linalg.svdvals(orthogonalize(torch.diag(torch.tensor([9.0, 1.0]))[None]))
    >>> bool(((values > 0.6) & (values < 1.3)).all())
    True
    """
    a, b, c = COEFFICIENTS
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    wide = x.shape[-1] >= x.shape[-2]
    x = x if wide else x.mT
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.mT


class Muon(torch.optim.Adam):
    """Muon for the convolutions' kernels, Adam for all other parameters.

    Args:
        params: parameters; those with four axes and more than one number per output channel are
            kernels, seen as matrices (out_channels, in_channels * height * width).
        lr: the rate of both.
        momentum: of the kernels, in Nesterov's form.
    """

    @checked
    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95):
        params = [*params]
        leaves = all(getattr(p, "is_leaf", True) for p in params)
        require(params and leaves, "params", params, "parameters, at least one")
        require(0 <= lr < math.inf, "lr", lr, "finite and non-negative")
        require(0 <= momentum < 1, "momentum", momentum, "a share in [0, 1)")
        super().__init__(params, lr=lr)
        self.momentum = momentum

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        """One step of both, with the gradients in ``.grad``."""
        kernels = defaultdict(list)  # by shape: rate, parameter, its gradient
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() == 4 and p[0].numel() > 1 and p.grad is not None:
                    shape = (len(p), p[0].numel())
                    kernels[shape].append((group["lr"], p, p.grad))
                    p.grad = None  # hides it from Adam
        super().step()
        for shape, entries in kernels.items():
            directions = []
            for _, p, gradient in entries:
                p.grad, state = gradient, self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["momentum"] = torch.zeros_like(p)
                state["step"] += 1
                state["momentum"].mul_(self.momentum).add_(gradient)
                directions.append((gradient + self.momentum * state["momentum"]).reshape(shape))
            unit = orthogonalize(torch.stack(directions))
            for (rate, p, _), direction in zip(entries, unit, strict=True):
                p.sub_(0.2 * max(shape) ** 0.5 * rate * direction.reshape(p.shape))
