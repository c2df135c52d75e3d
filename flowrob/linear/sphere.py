"""Adversarial training of a sphere, in closed form: section 3.2 for K = sigma^2 I.

The truth is N(mu, sigma^2 I) in n dimensions, the model N(mu, v sigma^2 I). An attack of l2 size
eps moves a point at distance sigma chi_n from the mean out to sigma chi_n + eps; training refits
the model to the moved points, so v grows. By how much depends on which of four procedures is called
"adversarial training" (e = eps / sigma, kappa_n = E chi_n, alpha = (2 e kappa_n + e^2) / n):

    (a) "rescaled"     data redrawn from the fit, eps scaled with its sigma_k   v_m = (1 + alpha)^m
    (b) "redrawn"      data redrawn from the fit, eps fixed     v + (2 e kappa_n sqrt(v) + e^2) / n
    (c) "accumulated"  the moved points are moved again                     v_m = 1 + alpha(m eps)
    (d) "fixed"        the original data against the newest model              v_m = 1 + alpha(eps)

(a) is the paper's equation (4), (d) the usual meaning. Everything is in nats;
:mod:`flowrob.linear.adversarial_training` has the same for any covariance.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from flowrob._checks import checked, require

PROCEDURES = {"a": "rescaled", "b": "redrawn", "c": "accumulated", "d": "fixed"}


@checked
def chi_mean(n: int) -> float:
    """kappa_n = E chi_n = sqrt(2) Gamma((n + 1) / 2) / Gamma(n / 2), the mean length of N(0, I_n).

    Below n = 100 from lgamma. Above, the difference of two lgammas loses digits (5e-10 relative at
    n = 10^6), so the series sqrt(n) (1 - 1/4n + 1/32n^2 + 5/128n^3 - ...) takes over. Relative
    error below 1e-13 for every n.

    Args:
        n: number of dimensions, a Python int.

    Raises:
        ValueError: n is not a whole number of at least 1.

    >>> round(chi_mean(10), 6)
    3.084328
    """
    require(isinstance(n, int) and n >= 1, "n", n, "a whole number of dimensions, at least 1")
    if n < 100:
        return math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
    series = (1, -1 / 4, 1 / 32, 5 / 128, -21 / 2048, -399 / 8192, 869 / 65536)
    return math.sqrt(n) * sum(c / n**k for k, c in enumerate(series))


def variance_growth(eps: float, sigma: float, n: int) -> float:
    """alpha = (2 e kappa_n + e^2) / n, e = eps / sigma: one refit multiplies sigma^2 by 1 + alpha.

    Source: section 3.2 of the paper, which prints alpha without the division by sigma.
    The attack moves a point at distance sigma chi_n from the mean out to sigma chi_n + eps, and the
    refitted variance is E (sigma chi_n + eps)^2 / n.

    Args:
        eps: l2 budget in the units of the data; a number or an array.
        sigma: standard deviation of the data per coordinate, same units.
        n: number of dimensions.

    Raises:
        ValueError: a negative eps, a sigma that is not positive, or an n below 1.

    >>> round(variance_growth(eps=1.0, sigma=3.0, n=10), 4)
    0.2167
    """
    check_real(eps=eps, sigma=sigma)
    require(bool(np.all(np.asarray(eps) >= 0)), "eps", eps, "non-negative")
    require(np.ndim(sigma) == 0 and sigma > 0, "sigma", sigma, "one positive number")
    e = eps / sigma
    return (2 * e * chi_mean(n) + e * e) / n


def natural_drop(v: float, n: int) -> float:
    """L_nat_dr = n/2 (log v + 1/v - 1) = KL(N(mu, sigma^2 I) | N(mu, v sigma^2 I)), in nats.

    Source: section 3.2 of the paper. The log-likelihood that clean data lose, in the mean, when the
    variance grows v-fold.

    Args:
        v: variance of the model over that of the data; a number or an array.
        n: number of dimensions.

    >>> round(float(natural_drop(2.0, n=10)), 4)
    0.9657
    """
    check_real(v=v)
    require(bool(np.all(np.asarray(v) > 0)), "v", v, "a positive ratio of variances")
    require(isinstance(n, int) and n >= 1, "n", n, "a whole number of dimensions, at least 1")
    return n / 2 * (np.log(v) + 1 / v - 1)


def sensitivity(v: float, eps: float, sigma: float, n: int) -> float:
    """L_sen = n alpha(eps / sigma) / (2 v): the mean drop by an attack of size eps, in nats.

    Source: section 3.2 of the paper. The model has variance v sigma^2, the attacked data sigma^2.

    Args:
        v: variance of the model over that of the data; a number or an array.
        eps: l2 budget in the units of the data.
        sigma: standard deviation of the data per coordinate, same units.
        n: number of dimensions.

    >>> round(sensitivity(2.0, eps=1.0, sigma=1.0, n=10), 4)
    1.7922
    """
    check_real(v=v)
    require(bool(np.all(np.asarray(v) > 0)), "v", v, "a positive ratio of variances")
    shapes = {np.shape(value) for value in (v, eps) if np.ndim(value)}
    require(len(shapes) <= 1, "v and eps", shapes, "numbers, or arrays of one shape")
    return n * variance_growth(eps, sigma, n) / (2 * v)


@checked
def spherical_growth(
    eps: float,
    sigma: float,
    n: int,
    rounds: int,
    procedure: str = "rescaled",
    *,
    hybrid_weight: float = 0.0,
    damping: float = 0.0,
) -> np.ndarray:
    """v_{k+1} = damping v_k + (1 - damping) (h + (1 - h) refit(v_k)), v_0 = 1, h = hybrid_weight.

    Source: section 3.2 of the paper, equation (4), which is "rescaled"; the other refits are at the
    top of this module.

    Args:
        eps: l2 budget in the units of the data.
        sigma: standard deviation of the data per coordinate, same units.
        n: number of dimensions.
        rounds: m >= 0.
        procedure: a name or letter of :data:`PROCEDURES`.
        hybrid_weight: h, the share of clean data in each refit, in [0, 1]: 0 is adversarial
            training, 1/2 the one-to-one hybrid of section 4.
        damping: share of the old variance that is kept, in [0, 1).

    Returns:
        (rounds + 1,) variances, in units of sigma^2.

    >>> [round(float(spherical_growth(1, 1, 10, 5, p)[-1]), 3) for p in "abcd"]
    [14.917, 6.497, 6.584, 1.717]
    """
    name = procedure_name(procedure)
    check_mixing(rounds, hybrid_weight, damping)
    alpha, e, kappa = variance_growth(eps, sigma, n), eps / sigma, chi_mean(n)
    refit = {
        "rescaled": lambda v, k: (1 + alpha) * v,
        "redrawn": lambda v, k: v + (2 * e * kappa * math.sqrt(v) + e * e) / n,
        "accumulated": lambda v, k: 1 + variance_growth((k + 1) * eps, sigma, n),
        "fixed": lambda v, k: 1 + alpha,
    }[name]
    growth = [1.0]
    for k in range(rounds):
        mixed = hybrid_weight + (1 - hybrid_weight) * refit(growth[-1], k)
        growth.append(damping * growth[-1] + (1 - damping) * mixed)
    return np.array(growth)


@checked
def failure_probability(v: float, eps: float, sigma: float, n: int, max_drop: float) -> float:
    """P(drop > max_drop) = P(chi_n > (2 v max_drop - e^2) / (2 e)), exactly.

    Source: section 3.2 of the paper, Theorem 3.2's event. A point at distance sigma chi_n drops by
    (2 e chi_n + e^2) / (2 v) nats under a model of variance v sigma^2.

    Args:
        v: variance of the model over that of the data.
        eps: l2 budget in the units of the data.
        sigma: standard deviation of the data per coordinate, same units.
        n: number of dimensions.
        max_drop: the drop that must not be exceeded, in nats.
    """
    require(sigma > 0, "sigma", sigma, "positive")
    e = eps / sigma
    return _chi_survival((2 * v * max_drop - e * e) / (2 * e), n) if e > 0 else 0.0


@checked
def rounds_for(
    eps: float,
    sigma: float,
    n: int,
    max_drop: float,
    failure: float,
    procedure: str = "rescaled",
    *,
    quantile: str = "exact",
) -> int | None:
    """min{m : v_m >= (2 e r + e^2) / (2 max_drop)}: then P(drop > max_drop) <= failure.

    Source: section 3.2 of the paper, Theorem 3.2, with alpha(eps / sigma). r is the (1 - failure)
    quantile of chi_n (``quantile="exact"``) or the paper's bound on it (``quantile="paper"``),
    max(sqrt(20 log 1/failure), sqrt(2 n)), which is valid: P(chi_n^2 > n + 2 sqrt(n L) + 2 L) <=
    exp(-L), and t = max(20 L, 2 n) exceeds n + 2 sqrt(n L) + 2 L <= (1/2 + 1/sqrt(10) + 1/10) t.

    Args:
        eps: l2 budget in the units of the data.
        sigma: standard deviation of the data per coordinate, same units.
        n: number of dimensions.
        max_drop: the drop Delta to be guaranteed, in nats.
        failure: gamma, in (0, 1).
        procedure: a name or letter of :data:`PROCEDURES`.
        quantile: "exact" or "paper".

    Returns:
        0 if the clean model already passes, None if no number of rounds suffices ("fixed" settles
        after one round), else m. "redrawn" has no closed form and is counted in m steps.

    >>> [rounds_for(1.0, 1.0, 10, max_drop=1.0, failure=0.1, procedure=p) for p in "abcd"]
    [3, 4, 4, None]
    """
    name = procedure_name(procedure)
    alpha, e, kappa = variance_growth(eps, sigma, n), eps / sigma, chi_mean(n)
    require(max_drop > 0, "max_drop", max_drop, "positive (nats)")
    require(0 < failure < 1, "failure", failure, "a probability strictly between 0 and 1")
    require(quantile in ("exact", "paper"), "quantile", quantile, "'exact' or 'paper'")
    if quantile == "exact":
        radius = _chi_quantile(failure, n)
    else:
        radius = max(math.sqrt(20 * math.log(1 / failure)), math.sqrt(2 * n))
    target = (2 * e * radius + e * e) / (2 * max_drop)
    if target <= 1:
        return 0
    if name == "fixed":
        return 1 if 1 + alpha >= target else None
    if name == "redrawn":
        v, rounds = 1.0, 0
        while v < target:
            v, rounds = v + (2 * e * kappa * math.sqrt(v) + e * e) / n, rounds + 1
        return rounds
    if name == "rescaled":
        guess, grown = math.log(target) / math.log1p(alpha), lambda m: (1 + alpha) ** m
    else:
        guess = (math.sqrt(kappa**2 + n * (target - 1)) - kappa) / e
        grown = lambda m: 1 + variance_growth(m * eps, sigma, n)  # noqa: E731
    rounds = max(1, math.ceil(guess) - 1)  # one below, so that rounding cannot cost a round
    while grown(rounds) < target:
        rounds += 1
    return rounds


@checked
def stability_limit(n: int, hybrid_weight: float = 0.0, damping: float = 0.0) -> float:
    """The e = eps / sigma above which procedure (d) oscillates around a spherical truth.

    c(e) = 2 w / (n + 2) (e^3 E[1/chi_n] + 2 e^2 + e kappa_n) / (1 + w alpha(e)), w = 1 - h

    One refit multiplies a small trace-free error of the eigenvalues by -c, a damped one by
    damping - (1 - damping) c; it is stable while c < (1 + damping) / (1 - damping). Undamped, the
    limit is about sqrt(n) / 2; since c grows like 2 e / sqrt(n), every fixed damping has a limit.
    Beyond the paper.

    Args:
        n: number of dimensions, at least 2.
        hybrid_weight: h, the share of clean data in each refit, in [0, 1).
        damping: share of the old variance that is kept, in [0, 1).

    >>> round(stability_limit(10), 3), round(stability_limit(10, hybrid_weight=0.5), 3)
    (1.872, 2.455)
    """
    require(isinstance(n, int) and n >= 2, "n", n, "at least 2: one eigenvalue cannot oscillate")
    check_mixing(0, hybrid_weight, damping)
    require(hybrid_weight < 1, "hybrid_weight", hybrid_weight, "below 1: clean data are stable")
    w, kappa = 1 - hybrid_weight, chi_mean(n)

    def excess(e: float) -> float:
        refit = e**3 / chi_mean(n - 1) + 2 * e**2 + e * kappa  # E[1/chi_n] = 1 / kappa_{n-1}
        slope = w * 2 / (n + 2) * refit / (1 + w * variance_growth(e, 1.0, n))
        return slope - (1 + damping) / (1 - damping)

    upper = 1.0
    while excess(upper) < 0:
        upper *= 2
    return optimize.brentq(excess, 0.0, upper, xtol=1e-13)


def procedure_name(name: str) -> str:
    """A letter or a name of :data:`PROCEDURES`, as the name; ValueError for anything else."""
    full = PROCEDURES.get(name, name)
    require(full in PROCEDURES.values(), "procedure", name, f"one of {PROCEDURES}")
    return full


def check_mixing(rounds: int, hybrid_weight: float, damping: float) -> None:
    """ValueError unless rounds >= 0, 0 <= hybrid_weight <= 1 and 0 <= damping < 1."""
    require(isinstance(rounds, int) and rounds >= 0, "rounds", rounds, "a whole number >= 0")
    require(0 <= hybrid_weight <= 1, "hybrid_weight", hybrid_weight, "a share in [0, 1]")
    require(0 <= damping < 1, "damping", damping, "a share in [0, 1)")


def check_real(**values: object) -> None:
    """Raise a TypeError unless each is a real number or an array of real numbers."""
    for name, value in values.items():
        try:
            kind = np.asarray(value).dtype.kind
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be real numbers, got {value!r}") from error
        if kind not in "fiu" or isinstance(value, list | tuple):
            raise TypeError(f"{name} must be real numbers, got {value!r}")


# scipy.stats.chi says the same to the last digit, and takes a second to import.


def _chi_survival(x: float, n: int) -> float:
    """P(chi_n > x) = Q(n/2, x^2/2), the regularised incomplete gamma function; 1 where x < 0."""
    x = max(x, 0.0)
    return float(special.gammaincc(0.5 * n, 0.5 * (x * x)))


def _chi_quantile(q: float, n: int) -> float:
    """The x with P(chi_n > x) = q."""
    return math.sqrt(2 * special.gammainccinv(0.5 * n, q))
