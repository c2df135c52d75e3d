"""The linear flow: a Gaussian density with its exact worst, best and universal perturbations.

A linear flow x = mu + A z with z ~ N(0, I) is the Gaussian N(mu, K), K = A A^T: the one flow whose
attacks have a closed form. Source: Pope, Balaji and Feizi, "Adversarial Robustness of Flow-Based
Generative Models" (AISTATS 2020), sections 3, 3.1 (Theorem 3.1) and 3.3.

Notation. K = U diag(lam) U^T with lam_1 the smallest eigenvalue, a = U^T (x - mu), d = U^T delta,
s_i = lam_1 / lam_i, b_i = s_i a_i. The *drop* of delta is what it takes off the log-likelihood,

    drop = log p(x) - log p(x + delta) = sum_i d_i (a_i + d_i / 2) / lam_i      (nats).

At the largest and at the smallest drop in the ball |delta| <= radius there is a multiplier eta,

    K^-1 (x + delta - mu) = 2 eta delta,    so that    d drop / d radius = 2 eta radius,

and one secular equation, sum_i b_i^2 / (w_i + t)^2 = radius^2 for t >= 0, finds both:

    worst case    d_i = +b_i / (w_i + t),    w_i = 1 - s_i,    2 eta lam_1 = 1 + t    (Theorem 3.1)
    best case     d_i = -b_i / (w_i + t),    w_i = s_i,        2 eta lam_1 = -t       (its twin)

The *hard case*, which the theorem as printed leaves out: if x - mu has no part in the eigenspace
of lam_1, the equation may have no root t > 0. Then t = 0, and what is left of the radius goes along
any unit vector of that eigenspace: two optima, or a sphere of them where lam_1 repeats.

Why a Newton iteration of our own, and not ``scipy.optimize.elementwise.find_root``: it takes 2 to 4
steps on most points where the bracketing solver takes 5 to 8, and 40 against 94 at the edge of the
hard case. The whole attack is 3.5 times as fast at n = 10, and 1.2 times at n = 1000, where matrix
products dominate (benchmarks/worst_case.py). And the points stay on their device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from flowrob._checks import checked, require

EPS = torch.finfo(torch.float64).eps
TINY = 1e-290  # stands for t = 0 in 1 / (w_i + t), where b_i = w_i = 0 may meet
CHUNK = 2**19  # numbers per work array: large enough for fast matrix products, small in memory


class GaussianFlow(torch.nn.Module):
    """log p(x) = -1/2 (x - mu)^T K^-1 (x - mu) - 1/2 log det K - n/2 log(2 pi).

    Source: section 3 of the paper, which prints the last term without its sign.
    The buffers ``mean``, ``covariance``, ``eigenvalues`` (ascending) and ``eigenvectors`` (columns)
    are float64 whatever comes in, and stay so: ``.to(device)`` moves them, ``.float()`` rounds
    nothing. Points x have shape (batch, n), or (batch, ...) with n numbers each, such as images.

    Args:
        mean: mu, of shape (n,).
        covariance: K, of shape (n, n), symmetric positive definite.

    Raises:
        ValueError: a shape does not fit, a number is not finite, the covariance is not symmetric,
            or its smallest eigenvalue is not above rounding error.
    """

    mean: Tensor
    covariance: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, mean, covariance) -> None:
        super().__init__()
        mean, covariance = _real(mean, "mean"), _real(covariance, "covariance")
        _check_shapes(mean, covariance, "covariance")
        rounding = 100 * max(EPS, torch.finfo(covariance.dtype).eps)
        covariance = covariance.to(torch.float64)
        asymmetry = (covariance - covariance.T).abs().max().item()
        if asymmetry > rounding * covariance.abs().max().item():
            raise ValueError(
                f"covariance must be symmetric, but |K - K^T| reaches {asymmetry:.3g}: "
                "if that is rounding, pass (covariance + covariance.T) / 2"
            )
        covariance = (covariance + covariance.T) / 2
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        smallest, largest = eigenvalues[0].item(), eigenvalues[-1].item()
        if smallest <= len(eigenvalues) * EPS * abs(largest):
            raise ValueError(
                f"covariance must be positive definite, but its eigenvalues go from {smallest:.3g} "
                f"to {largest:.3g}, at or below rounding error: add a ridge, covariance + ridge * "
                "torch.eye(n), or use .fit or .from_eigen, which keep small eigenvalues"
            )
        self._set(mean, covariance, eigenvalues, eigenvectors)

    @classmethod
    def from_eigen(cls, mean, eigenvalues, eigenvectors) -> GaussianFlow:
        """K = U diag(lam) U^T, taken as given: no digit of a small eigenvalue is lost.

        Args:
            mean: mu, shape (n,).
            eigenvalues: lam, shape (n,), in any order.
            eigenvectors: U, shape (n, n), columns in that order.

        Raises:
            ValueError: a shape does not fit, lam is not positive or U^T U is not I.
        """
        mean, eigenvectors = _real(mean, "mean"), _real(eigenvectors, "eigenvectors")
        _check_shapes(mean, eigenvectors, "eigenvectors")
        eigenvalues, order = _real(eigenvalues, "eigenvalues").to(torch.float64).sort()
        if eigenvalues.shape != mean.shape or eigenvalues[0] <= 0:
            raise ValueError(
                f"eigenvalues must be {len(mean)} positive numbers, not {tuple(eigenvalues.shape)} "
                f"with smallest {eigenvalues.min().item():.3g}: add a ridge to make them positive"
            )
        eigenvectors = eigenvectors.to(torch.float64)[:, order]
        error = (eigenvectors.T @ eigenvectors - torch.eye(len(mean)).to(eigenvectors)).abs().max()
        if error > 1e-12 * len(mean) ** 0.5:
            raise ValueError(
                "eigenvectors must be orthonormal columns, but |U^T U - I| reaches "
                f"{error.item():.3g}: compute them in float64, or pass torch.linalg.qr(...).Q"
            )
        covariance = eigenvectors * eigenvalues @ eigenvectors.T
        flow = cls.__new__(cls)
        torch.nn.Module.__init__(flow)
        flow._set(mean, (covariance + covariance.T) / 2, eigenvalues, eigenvectors)
        return flow

    @classmethod
    def fit(cls, x, *, ridge: float = 0.0) -> GaussianFlow:
        """mu = 1/N sum_j x_j,  K = 1/N sum_j (x_j - mu)(x_j - mu)^T + ridge I: maximum likelihood.

        Source: section 3 of the paper, which prints 1/N in K twice. The eigenvalues are squared
        singular values of the centred data: K itself, once rounded, has lost the small ones.

        Args:
            x: points of shape (N, n) or (N, ...).
            ridge: a variance in units of x^2.

        Raises:
            ValueError: K is singular: N <= n, or constant or dependent features.
        """
        x = _real(_points(x), "x").to(torch.float64)
        require(0 <= ridge < math.inf, "ridge", ridge, "finite and >= 0: it is a variance")
        require(x.dim() >= 2 and x.numel() > 0, "x", tuple(x.shape), "points, shape (N, n)")
        x = x.flatten(1)
        count, n = x.shape
        mean = x.mean(0)
        mean = mean + (x - mean).mean(0)  # once more: the first mean was rounded
        centred = x - mean
        _, singular, rows = torch.linalg.svd(torch.linalg.qr(centred / count**0.5, mode="r").R)
        if ridge == 0 and (count <= n or singular[-1] <= max(count, n) * EPS * singular[0]):
            constant = (centred.abs().amax(0) <= 8 * EPS * mean.abs()).nonzero().flatten().tolist()
            raise ValueError(
                f"x has a singular covariance ({count} points in {n} dimensions, rank "
                f"{int((singular > max(count, n) * EPS * singular[0]).sum())}, {len(constant)} "
                f"constant features {constant[:5]}): pass ridge=, a variance to add in every "
                f"direction, such as ridge={1e-6 * centred.square().mean().item() or 1e-6:.1g}"
            )
        variances = torch.nn.functional.pad(singular.square(), (0, n - len(singular)))
        return cls.from_eigen(mean, variances + ridge, rows.T)

    def _set(self, mean: Tensor, covariance: Tensor, eigenvalues: Tensor, vectors: Tensor) -> None:
        if not (eigenvalues.isfinite().all() and covariance.isfinite().all()):
            raise ValueError("covariance is too large for float64: measure x in larger units")
        largest = vectors.abs().argmax(0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()  # the same U on every machine
        self.register_buffer("mean", mean.detach().to(torch.float64, copy=True))
        self.register_buffer("covariance", covariance.detach())
        self.register_buffer("eigenvalues", eigenvalues.detach())
        self.register_buffer("eigenvectors", vectors.detach().contiguous())

    def _apply(self, fn, recurse=True):  # follow .to(device), but never leave float64
        return super()._apply(lambda tensor: tensor.to(fn(tensor.new_empty(0)).device), recurse)

    def _flat(self, x: Tensor, name: str = "x") -> Tensor:
        x, n = _points(x, name), len(self.mean)
        if x.dim() == 0 or math.prod(x.shape[1:]) != n:
            raise ValueError(
                f"{name} must have shape (batch, {n}), or (batch, ...) with {n} numbers per point, "
                f"not {tuple(x.shape)}: a single point is {name}[None]"
            )
        return x.reshape(len(x), n)

    def encode(self, x: Tensor) -> Tensor:
        """z = diag(lam)^-1/2 U^T (x - mu), standard normal if x ~ p. Shape of x, float64."""
        centred = self._flat(x).to(torch.float64) - self.mean
        return (centred @ self.eigenvectors / self.eigenvalues.sqrt()).reshape(x.shape)

    def decode(self, z: Tensor) -> Tensor:
        """x = mu + U diag(lam)^1/2 z, the inverse of :meth:`encode`. Shape of z, float64."""
        scaled = self._flat(z, "z").to(torch.float64) * self.eigenvalues.sqrt()
        return (self.mean + scaled @ self.eigenvectors.T).reshape(z.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of every point in nats, (batch,), differentiable in x; nan gives nan."""
        square = self._flat(self.encode(x)).square().sum(1)
        log_volume = self.eigenvalues.log().sum() + len(self.mean) * math.log(2 * math.pi)
        return -0.5 * (square + log_volume)

    @checked
    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        """x = mu + U diag(lam)^1/2 z, z ~ N(0, I): (num_samples, n), float64.

        Args:
            num_samples: how many.
            generator: the only source of randomness; draws on its own device.
        """
        require(num_samples >= 0, "num_samples", num_samples, "at least 0")
        return self.decode(_normal(num_samples, len(self.mean), generator).to(self.mean.device))


@dataclass(frozen=True)
class Perturbation:
    """One perturbation per point, with the proof that it is optimal.

    Attributes:
        delta: in the shape of x, float64, ``|delta| <= radius``.
        drop: log p(x) - log p(x + delta) in nats, (batch,); negative where the likelihood rose.
        multiplier: the paper's eta, in K^-1 (x + delta - mu) = 2 eta delta, (batch,): worst case
            (1 + t) / (2 lam_1), best case -t / (2 lam_1). Infinite at radius 0.
        hard_case: whether the optimum is not unique to float64's resolution, (batch,).
        certificate: Lagrange's dual bound at the multiplier, (batch,). No perturbation of at most
            this radius has a drop above it (best case: below it), and delta attains it.
    """

    delta: Tensor
    drop: Tensor
    multiplier: Tensor
    hard_case: Tensor
    certificate: Tensor


def worst_case(
    flow: GaussianFlow, x: Tensor, radius: float | Tensor, *, generator: Generator | None = None
) -> Perturbation:
    """``delta = argmax log p(x) - log p(x + delta)`` over ``|delta|_2 <= radius``, for every point.

        U^T delta = b_i / (w_i + t),   sum_i b_i^2 / (w_i + t)^2 = radius^2,   w_i = 1 - lam_1/lam_i
        drop <= 1/2 (1 + t) radius^2 / lam_1 + 1/2 sum_i b_i^2 / (lam_1 (w_i + t))   for any t > 0

    Source: section 3.1 of the paper, Theorem 3.1 (with c = U^T (mu - x) as a vector, and with the
    hard case). The second line is the ``certificate``; at the root it is an equality.

    Args:
        flow: the density.
        x: points, shape (batch, n) or (batch, ...), of floating point.
        radius: l2 radius in units of x, a number or one per point, (batch,). 0 gives delta = 0.
        generator: draws the direction in the hard case, uniformly among the optima. Without one it
            is +u_1, or the side x is on where that still changes the drop.

    Returns:
        A :class:`Perturbation`. Given U^T (x - mu), its drop is exact to about 1e-14 relative;
        rounding U^T (x - mu) itself is like moving x by a few units in its last place.

    Raises:
        TypeError: flow is no GaussianFlow, or x not of floating point.
        ValueError: a shape does not fit, x is not finite, or radius is negative or not finite.

    >>> flow = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    >>> worst = worst_case(flow, torch.tensor([[0.0, 1.0]]), 1.0)     # a hard case: 13/24 nats
    >>> worst.drop.item() * 24, worst.hard_case.item()
    (13.0, True)
    """
    return _extreme(flow, x, radius, best=False, generator=generator)


def best_case(flow: GaussianFlow, x: Tensor, radius: float | Tensor) -> Perturbation:
    """``delta = argmin log p(x) - log p(x + delta)`` over ``|delta|_2 <= radius``: it raises p.

        U^T delta = -b_i / (w_i + t),   sum_i b_i^2 / (w_i + t)^2 = radius^2,   w_i = lam_1/lam_i
        delta = mu - x where the ball reaches the mean

    Source: not in the paper; section 3.1 with the other sign. The problem is convex: no hard case.

    Args:
        flow: the density.
        x: points, as for :func:`worst_case`.
        radius: as there.

    Returns:
        A :class:`Perturbation` with drop <= 0, and no drop in the ball below ``certificate``.

    Raises:
        TypeError: as :func:`worst_case`.
        ValueError: as there.

    >>> flow = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    >>> best_case(flow, torch.tensor([[0.0, 1.0]]), 2.0).drop         # at the mean: -1/2 * 1/4
    tensor([-0.1250], dtype=torch.float64)
    """
    return _extreme(flow, x, radius, best=True, generator=None)


def universal(flow: GaussianFlow, radius: float | Tensor) -> Perturbation:
    """delta = +-radius u_min,  E drop = 1/2 delta^T K^-1 delta = radius^2 / (2 lam_1).

    Source: section 3.3 of the paper. (The optimum is the eigenvector, not the eigenvalue; its sign
    is free, so ``hard_case`` is True.) The average over x leaves the term at x = mu: the worst case
    there.

    Args:
        flow: the density.
        radius: l2 radius in units of x, a number or several, shape (k,).

    Returns:
        A :class:`Perturbation` with the expected drop in nats and delta of shape (n,) or (k, n).

    Raises:
        TypeError: as :func:`worst_case`.
        ValueError: as there.
    """
    _check_flow(flow)
    radius = _real(radius, "radius")
    worst = vars(worst_case(flow, flow.mean.expand(radius.numel(), -1), radius))
    return Perturbation(*(part.reshape(radius.shape + part.shape[1:]) for part in worst.values()))


@torch.no_grad()
def _extreme(flow, x, radius, *, best: bool, generator: Generator | None) -> Perturbation:
    """Either optimum, a chunk of points at a time, as columns of (n, chunk) arrays."""
    _check_flow(flow)
    points = flow._flat(x)
    lam, mean, (count, n) = flow.eigenvalues, flow.mean, points.shape
    radius = _radius(radius, count, lam.device)
    sign, s = -1.0 if best else 1.0, lam[0] / lam
    w = s if best else (lam - lam[0]) / lam
    bottom = 0 if best else int((w <= 8 * EPS).sum())  # multiplicity of lam_1: the hard case's room
    to_b = (flow.eigenvectors * s).T
    delta = lam.new_empty(count, n)
    excess, drop, bound = lam.new_empty(3, count)
    hard = torch.zeros(count, dtype=torch.bool, device=lam.device)
    size = max(64, CHUNK // n)
    for rows in (slice(start, start + size) for start in range(0, count, size)):
        unit = torch.where(radius[rows] > 0, radius[rows], 1.0)  # of all lengths from here on
        centred = (points[rows].to(torch.float64) - mean).div_(unit[:, None])
        length = torch.linalg.vector_norm(centred, dim=1)
        if not length.isfinite().all():
            bad = rows.start + length.isfinite().logical_not().nonzero()[0].item()
            raise ValueError(f"x must be finite, but x[{bad}] is not: remove such points")
        beta = to_b @ centred.T
        if bottom:
            reach = length + torch.linalg.vector_norm(mean) / unit + 1
            hard[rows], free = _hard_case(beta, w, bottom, reach, generator is not None)
        t = _secular_root(beta, w)
        u = beta / (w[:, None] + t)
        if bottom and len(free):
            rest = (1 - u[:, free].square().sum(0)).clamp_(min=0).sqrt_()
            side = _normal(bottom, len(free), generator) if generator else torch.eye(bottom, 1)
            u[:bottom, free] = rest * (side / torch.linalg.vector_norm(side, dim=0)).to(u)
        square = u.square()
        scale = square.sum(0).rsqrt().clamp_(max=1.0 if best else math.inf)  # to the sphere
        dual = (beta * u).sum(0)
        excess[rows] = torch.where(t > TINY, t, 0.0)
        drop[rows] = 2 * dual * scale + sign * (s @ square) * scale.square()
        bound[rows] = dual + excess[rows] + (not best)
        torch.mm(u.mul_(sign * radius[rows] * scale).T, flow.eigenvectors.T, out=delta[rows])
    eta = torch.where(radius > 0, excess + (not best), math.inf) * (sign / (2 * lam[0]))
    nats = radius.square() * (sign / (2 * lam[0]))
    parts = drop * nats + 0.0, eta + 0.0, hard & (radius > 0), bound * nats + 0.0  # no -0.0
    if not (parts[0].isfinite().all() and parts[3].isfinite().all()):
        raise ValueError(f"radius must be less, got {radius.max():.3g}: the drop overflows")
    return Perturbation(delta.reshape(x.shape), *parts)


def _secular_root(beta: Tensor, w: Tensor) -> Tensor:
    """t with sum_i beta_i^2 / (w_i + t)^2 = 1, for every column of beta; TINY where that has none.

    f(t) = 1 / sqrt(sum) is concave and increasing, so Newton's steps on f = 1 from the left never
    pass the root. Its tangent at infinity gives one start on the left, each single term another.
    Should rounding put the start on the right, one step brings it back, at most to ``lower``. It
    ends when the next step, quadratically shorter, would be rounding.
    """
    w, smallest = w[:, None], w.min()
    square = beta.square()
    norm = square.sum(0).sqrt_()
    lower = (beta.abs() - w * (1 + 8 * EPS)).amax(0).clamp_(min=TINY)
    t = torch.maximum(norm - square.mul_(w).sum(0) / norm.square().clamp_(min=TINY), lower)
    root, todo = torch.empty_like(t), torch.arange(len(t), device=t.device)
    for _ in range(100):
        inverse = (w + t).reciprocal_()
        square = (beta * inverse).square_()
        sum2 = square.sum(0)
        sum3 = square.mul_(inverse).sum(0)
        step = sum2 / sum3.clamp_(min=TINY) * (sum2.sqrt() - 1)
        last, t = t, torch.maximum(t + step, lower)
        left = ((t - last).abs() > 1e-7 * (t + smallest)) & ((sum2 - 1).abs() > 1e-14)
        root[todo] = t
        if not left.any():
            return root
        if 2 * left.sum() < len(todo):  # go on with the columns that need it
            todo, t, lower, beta = todo[left], t[left], lower[left], beta[:, left]
    raise RuntimeError(f"no root of the secular equation in 100 steps, at t={t[left][0].item()}")


def _hard_case(beta: Tensor, w: Tensor, bottom: int, reach: Tensor, any_side: bool):
    """Which columns are hard, and the indices of those whose bottom part is free to choose.

    Hard: the part in the bottom eigenspace is rounding error of x or of U^T (x - mu), and at t = 0
    the other directions do not use up the radius. Turning it round changes the drop by a factor of
    1 - 4 |part| at worst: if that is 1, or any side will do, it leaves beta. Else it sets the side.
    """
    part = torch.linalg.vector_norm(beta[:bottom], dim=0)
    hard = part <= 8 * len(w) ** 0.5 * EPS * reach
    candidates = hard.nonzero().flatten()
    rest = beta[bottom:, candidates] / w[bottom:, None]
    hard[candidates] = rest.square().sum(0) < 1
    free = (hard & ((part <= 16 * EPS) | any_side)).nonzero().flatten()
    beta[:bottom, free] = 0.0
    return hard, free


def _normal(rows: int, columns: int, generator: Generator) -> Tensor:
    device = generator.device
    return torch.randn(rows, columns, generator=generator, device=device, dtype=torch.float64)


def _real(value, name: str) -> Tensor:
    """A finite floating-point tensor; anything but a floating-point array becomes float64."""
    try:
        tensor = torch.as_tensor(value, dtype=None if hasattr(value, "dtype") else torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers or a tensor, not {value!r}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_meta or tensor.is_sparse:
        raise TypeError(f"{name} must be real numbers, dense, not {tensor.dtype}, {tensor.layout}")
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.float64)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, not {tensor[~tensor.isfinite()][0].item()}")
    return tensor


def _points(x, name: str = "x") -> Tensor:
    if isinstance(x, Tensor) and x.is_floating_point() and not (x.is_meta or x.is_sparse):
        return x
    found = f"{x.dtype}, {x.layout}" if isinstance(x, Tensor) else type(x).__name__
    raise TypeError(f"{name} must be a floating-point tensor, not {found}: dequantise images first")


def _radius(radius, count: int, device: torch.device) -> Tensor:
    radius = _real(radius, "radius").to(device, torch.float64)
    one_each = radius.shape in ((), (count,))
    require(one_each, "radius", tuple(radius.shape), f"a number or one per point, shape ({count},)")
    require(not (radius < 0).any(), "radius", radius.tolist(), ">= 0, a length")
    return radius.expand(count)


def _check_flow(flow) -> None:
    if not isinstance(flow, GaussianFlow):
        raise TypeError(f"flow must be a GaussianFlow, not {type(flow)}: try flowrob.attacks")


def _check_shapes(mean: Tensor, matrix: Tensor, name: str) -> None:
    n, shapes = len(mean) if mean.dim() == 1 else 0, (tuple(mean.shape), tuple(matrix.shape))
    fits = n > 0 and shapes[1] == (n, n)
    require(fits, f"mean and {name}", shapes, "of shapes (n,) and (n, n), n >= 1")
