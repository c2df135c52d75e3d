"""Certificates: attack <= truth <= certificate, where the truth of the smoothed score is known.

For a sphere N(0, s^2 I) the NLL under noise is a constant plus sigma^2 / (2 s^2) times a
noncentral chi-square of n degrees, noncentrality |x + delta|^2 / sigma^2. Its median grows with
|x + delta|: the worst delta leads outwards, as in the special case of section 3.1, and scipy knows
the quantiles.
"""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch
from scipy.stats import binom, ncx2, norm
from small_tables import seeded

from flowrob.attacks import L2Ball, lower_likelihood
from flowrob.evaluation import certificates, certify_median, order_statistic
from flowrob.linear import GaussianFlow, worst_case

N, SPREAD, SIGMA = 12, 0.5, 0.25
SPHERE = GaussianFlow(torch.zeros(N), SPREAD**2 * torch.eye(N))


def quantile(x, p: float, moved: float = 0.0) -> float:
    """The p-quantile of bits/dim under noise, at x moved outwards."""
    length = x.double().norm().item() + moved
    nats = 0.5 * (SIGMA / SPREAD) ** 2 * ncx2.ppf(p, N, (length / SIGMA) ** 2)
    nats += 0.5 * N * math.log(2 * math.pi * SPREAD**2)
    return nats / (N * math.log(2)) + 8


def test_attack_below_truth_below_certificate():
    x = SPHERE.sample(6, seeded(1))
    eps = (0.0, 0.1, 0.4)
    options = {"num_samples": 4000, "confidence": 1 - 0.01 / 36}  # 36 bounds at once
    found = certify_median(SPHERE.log_prob, x, SIGMA, eps, generator=seeded(2), **options)
    assert found.upper.shape == found.lower.shape == (3, 6) and found.nan == 0
    for e, upper, lower in zip(eps, found.upper, found.lower, strict=True):
        delta = worst_case(SPHERE, x, e).delta
        inside = lower_likelihood(SPHERE.log_prob, x, L2Ball(e), num_steps=20, box=None).x
        assert (inside - x - delta).norm(dim=1).max() < 1e-6, "Theorem 3.1's step, found by PGD"
        for k in range(len(x)):
            truth = quantile(x[k], 0.5, e)
            attack = quantile(x[k] + delta[k], 0.5)
            assert attack <= truth + 1e-9
            assert lower[k] <= quantile(x[k], 0.5, -min(e, x[k].norm().item()))
            assert truth <= upper[k]
            assert upper[k] == pytest.approx(quantile(x[k], norm.cdf(e / SIGMA)), abs=0.05)
    assert (found.upper.diff(dim=0) > 0).all() and (found.lower.diff(dim=0) < 0).all()


def covered(repeats: int, confidence: float) -> float:
    """How often the bound lies above the quantile that it bounds."""
    x = torch.full((1, N), 0.3, dtype=torch.float64)
    target, rng = quantile(x[0], norm.cdf(1.0)), seeded(3)
    options = {"num_samples": 40, "confidence": confidence, "generator": rng}
    bounds = (certify_median(SPHERE.log_prob, x, SIGMA, SIGMA, **options).upper
              for _ in range(repeats))  # fmt: skip
    return mean(float(bound >= target) for bound in bounds)


def test_bounds_hold_as_often_as_they_say():
    assert covered(400, 0.9) > 0.87
    exact = binom.cdf(order_statistic(norm.cdf(1.0), 40, 0.9) - 1, 40, norm.cdf(1.0))
    assert covered(400, 0.9) == pytest.approx(exact, abs=0.04), "and not idly often"


def test_a_wrong_order_statistic_is_seen(monkeypatch):
    """The plain sample quantile, without the price of not knowing it, is too low too often."""
    monkeypatch.setattr(certificates, "order_statistic", lambda p, n, confidence: math.ceil(p * n))
    assert covered(200, 0.9) < 0.75


def test_order_statistics_are_the_least_that_do():
    for p, n, confidence in (
        (0.5, 100, 0.95),
        (0.841, 30, 0.99),
        (0.05, 10, 0.9),
        (0.999, 9000, 0.99),
    ):
        k = order_statistic(p, n, confidence)
        assert binom.sf(k - 1, n, p) <= 1 - confidence < binom.sf(k - 2, n, p) or k == 1
    needed = 459  # 0.99^458 > 1/100 >= 0.99^459
    assert order_statistic(0.99, needed, 0.99) == needed
    with pytest.raises(ValueError, match=f"too few .* at least {needed}"):
        order_statistic(0.99, needed - 1, 0.99)
    with pytest.raises(ValueError, match="smaller eps"):
        order_statistic(1.0, 10, 0.9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        order_statistic(0.5, 10, 1.0)


def test_where_the_density_ends_the_bound_may_be_infinite():
    """A density on [0, 1]: noise leads out. Clipped to the box it has a finite bound."""

    def inside(x):
        return torch.where(((x >= 0) & (x <= 1)).all(1), 0.0, -math.inf)

    x = torch.full((1, 2), 0.9)
    plain = certify_median(inside, x, 0.3, (0.0, 0.3), num_samples=200, generator=seeded())
    assert plain.upper[1].item() == math.inf and plain.lower[1].item() == 8.0
    boxed = certify_median(inside, x, 0.3, 0.3, num_samples=200, generator=seeded(), box=(0, 1))
    assert boxed.upper.item() == boxed.lower.item() == boxed.median.item() == 8.0
    broken = certify_median(lambda x: inside(x) * math.nan, x, 0.3, 0.0, generator=seeded(),
                            num_samples=20)  # fmt: skip
    assert broken.nan == 20 and broken.median.item() == broken.lower.item() == math.inf


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sigma": 0.0}, ValueError, "sigma must be positive"),
        ({"sigma": "1"}, TypeError, "sigma"),
        ({"eps": -0.1}, ValueError, "radii"),
        ({"eps": ()}, ValueError, "radii"),
        ({"eps": 1.0}, ValueError, "too few"),
        ({"confidence": 1.5}, ValueError, "confidence"),
        ({"num_samples": 0}, ValueError, "num_samples"),
        ({"x": torch.zeros(0, N)}, ValueError, "no images"),
        ({"x": torch.zeros(1, N, dtype=torch.uint8)}, TypeError, "floating"),
        ({"generator": None}, TypeError, "generator"),
    ],
)
def test_errors_come_early(change, error, words):
    def never(x):
        raise AssertionError("called before its arguments were looked at")

    given = {"x": torch.zeros(1, N), "sigma": 0.25, "eps": 0.25, "generator": seeded()} | change
    with pytest.raises(error, match=words):
        certify_median(never, given.pop("x"), given.pop("sigma"), given.pop("eps"),
                       **{"num_samples": 100} | given)  # fmt: skip


def test_nan_is_announced():
    options = {"num_samples": 20, "confidence": 0.5, "generator": torch.Generator().manual_seed(0)}
    x = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    found = certify_median(lambda y: y.sum(1) * math.nan, x, 0.1, 0.01, **options)
    assert found.nan == 40 and "40 of 40 scores are NaN" in " ".join(found.warnings)
    assert not certify_median(lambda y: -y.square().sum(1), x, 0.1, 0.01, **options).warnings


def test_a_model_in_train_mode_is_met_with_a_warning_and_left_as_it_was():
    class Density(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(4)

        def forward(self, y):
            return -self.norm(y).square().sum(1)

    model, x = Density().train(), torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    found = certify_median(model, x, 0.1, 0.01, num_samples=20, confidence=0.5, generator=generator)
    assert "train mode" in " ".join(found.warnings) and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model = model.eval().double()
    found = certify_median(model, x, 0.1, 0.01, num_samples=20, confidence=0.5, generator=generator)
    assert "x is float32 and the model float64: x is cast" in " ".join(found.warnings)


def test_a_score_of_another_shape_is_refused():
    x, generator = torch.rand(2, 4, generator=torch.Generator()), torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="must return one value per sample"):
        certify_median(lambda y: y.sum(), x, 0.1, 0.01, num_samples=20, confidence=0.5,
                       generator=generator)  # fmt: skip
