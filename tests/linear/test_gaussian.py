"""The linear flow and its exact perturbations, against 50-digit references and other libraries."""

from __future__ import annotations

import dataclasses
import math
import random

import mpmath as mp
import pytest
import torch

from flowrob.linear import GaussianFlow, best_case, universal, worst_case

DIGITS = 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=torch.float64)).Q


def dense_flow(n: int, condition: float, seed: int = 0) -> GaussianFlow:
    mean = torch.randn(n, generator=generator(seed + 1), dtype=torch.float64)
    eigenvalues = torch.logspace(-math.log10(condition), 0, n, dtype=torch.float64)
    return GaussianFlow.from_eigen(mean, eigenvalues, orthogonal(n, seed))


def diagonal_flow(eigenvalues) -> GaussianFlow:
    """U = I and mu = 0: then U^T (x - mu) = x without rounding."""
    n = len(eigenvalues)
    return GaussianFlow.from_eigen([0.0] * n, eigenvalues, torch.eye(n))


def drop_of(flow: GaussianFlow, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    return flow.log_prob(x) - flow.log_prob(x + delta)


def feasible(like: torch.Tensor, radius: float, count: int, seed: int) -> torch.Tensor:
    """Random points of the ball, half of them on its sphere: (count, batch, n)."""
    z = torch.randn(count, *like.shape, generator=generator(seed), dtype=torch.float64)
    lengths = torch.rand(count, 1, 1, generator=generator(seed + 1), dtype=torch.float64)
    lengths[: count // 2] = 1.0
    return radius * lengths * z / z.norm(dim=-1, keepdim=True)


# ------------------------------------------------------------------- 50-digit references


def log_bisection(too_small, low, high):
    """The root of a decreasing function of a positive number, to 50 digits."""
    low, high = mp.log(low), mp.log(high)
    while high - low > mp.mpf(10) ** -52:
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(mp.exp(middle)) else (low, middle)
    return mp.exp(low)


def mp_drop(lam, a, d):
    return mp.fsum(di * (ai + di / 2) / li for di, ai, li in zip(d, a, lam, strict=True))


def mp_worst(lam, a, radius):
    """(drop, 2 eta lam_1 - 1) from d_i = a_i / (2 eta lam_i - 1), bisected in 2 eta lam_1 - 1."""
    lam, a, radius = [mp.mpf(v) for v in lam], [mp.mpf(v) for v in a], mp.mpf(radius)
    smallest = min(lam)

    def step(excess):
        ratio = [(li - smallest) / smallest + excess * li / smallest for li in lam]
        return [ai / ri if ri else mp.mpf(0) for ai, ri in zip(a, ratio, strict=True)]

    def length2(excess):
        return mp.fsum(di**2 for di in step(excess))

    bottom = mp.sqrt(mp.fsum(ai**2 for ai, li in zip(a, lam, strict=True) if li == smallest))
    if bottom == 0 and length2(mp.mpf(0)) <= radius**2:
        d = step(mp.mpf(0))
        d[lam.index(smallest)] = mp.sqrt(radius**2 - length2(mp.mpf(0)))
        return mp_drop(lam, a, d), mp.mpf(0)
    low = bottom / radius if bottom else mp.mpf(10) ** -40
    high = mp.sqrt(mp.fsum(ai**2 for ai in a)) / radius
    excess = log_bisection(lambda e: length2(e) > radius**2, low / 2, 2 * high)
    return mp_drop(lam, a, step(excess)), excess


def mp_best(lam, a, radius):
    lam, a, radius = [mp.mpf(v) for v in lam], [mp.mpf(v) for v in a], mp.mpf(radius)

    def step(nu):
        return [-ai / (1 + nu * li) for ai, li in zip(a, lam, strict=True)]

    def length2(nu):
        return mp.fsum(di**2 for di in step(nu))

    if length2(mp.mpf(0)) <= radius**2:
        return mp_drop(lam, a, step(mp.mpf(0))), mp.mpf(0)
    high = mp.sqrt(length2(mp.mpf(0))) / (radius * min(lam))
    nu = log_bisection(lambda v: length2(v) > radius**2, mp.mpf(10) ** -40, high)
    return mp_drop(lam, a, step(nu)), nu


def relative(value: torch.Tensor, exact) -> float:
    return abs(float((mp.mpf(value.item()) - exact) / exact))


def draw_case(kind: str, rng: random.Random):
    """Eigenvalues, a = U^T (x - mu) and a radius: n 2..50, condition to 1e12, radius 1e-6..1e3."""
    n = rng.choice([2, 3, 5, 10, 50])
    decades, scale, radius = rng.uniform(0, 12), 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-6, 3)
    lam = sorted(scale * 10 ** rng.uniform(0, decades) for _ in range(n))
    if n > 2:
        lam[1] = rng.choice([lam[0], lam[0] * (1 + 4e-16), lam[0] * (1 + 1e-9), lam[1]])
    if kind in ("typical", "far"):
        reach = 1.0 if kind == "typical" else 10 ** rng.uniform(-8, 6)
        return lam, [reach * rng.gauss(0, 1) * math.sqrt(li) for li in lam], radius
    # |d| of the other directions at t = 0 is used * radius; bottom is all that is left
    used = {
        "hard": rng.uniform(0.1, 0.999),
        "near hard": rng.uniform(0.1, 1.1),
        "cusp": 1 + rng.choice([-1, 0, 1]) * 10 ** rng.uniform(-16, -2),
    }[kind]
    bottom = 0.0 if kind == "hard" else rng.choice([-1, 1]) * radius * 10 ** rng.uniform(-30, -2)
    part = [rng.gauss(0, 1) if li > lam[0] else 0.0 for li in lam]
    norm = math.hypot(*part) or 1.0
    others = [used * radius * p / norm * (li - lam[0]) / lam[0] for p, li in zip(part, lam)]  # noqa: B905
    return lam, [o if li > lam[0] else bottom for o, li in zip(others, lam)], radius  # noqa: B905


@pytest.mark.parametrize("kind", ["typical", "far", "hard", "near hard", "cusp"])
def test_worst_case_is_exact_to_12_digits(kind):
    rng = random.Random(kind)
    with mp.workdps(DIGITS):
        for _ in range(20):
            lam, a, radius = draw_case(kind, rng)
            worst = worst_case(diagonal_flow(lam), torch.tensor([a], dtype=torch.float64), radius)
            exact, excess = mp_worst(lam, a, radius)
            delta = [mp.mpf(v) for v in worst.delta[0].tolist()]
            attained = mp_drop([mp.mpf(v) for v in lam], [mp.mpf(v) for v in a], delta)
            length = mp.sqrt(mp.fsum(v**2 for v in delta))
            assert relative(worst.drop, exact) < 5e-14, (lam, a, radius)
            assert relative(worst.certificate, exact) < 5e-14, (lam, a, radius)
            assert abs(attained / exact - 1) < 5e-14, (lam, a, radius)
            assert abs(length / mp.mpf(radius) - 1) < 1e-14, (lam, a, radius)
            # at the cusp t is a double root: it is good to half the digits, the drop to all
            eta = (1 + excess) / (2 * mp.mpf(lam[0]))
            assert relative(worst.multiplier, eta) < (1e-8 if kind == "cusp" else 1e-13)
            if kind == "hard":
                assert worst.hard_case.item()
            if kind in ("typical", "far"):
                assert not worst.hard_case.item()


def test_best_case_is_exact_to_12_digits():
    rng = random.Random("best")
    with mp.workdps(DIGITS):
        for index in range(30):
            lam, a, radius = draw_case("typical", rng)
            if index % 2:  # the sphere just before, on or just beyond the mean
                radius = math.hypot(*a) * (1 + rng.choice([-1, 0, 1]) * 10 ** rng.uniform(-16, 0))
                radius = radius or 1.0
            best = best_case(diagonal_flow(lam), torch.tensor([a], dtype=torch.float64), radius)
            exact, nu = mp_best(lam, a, radius)
            assert relative(best.drop, exact) < 1e-14, (lam, a, radius)
            assert relative(best.certificate, exact) < 1e-14, (lam, a, radius)
            error = abs(mp.mpf(-2 * best.multiplier.item()) - nu)
            assert error < 1e-12 * nu + 1e-14 / lam[-1], (lam, a, radius)


@pytest.mark.parametrize("condition", [1e2, 1e12])
@pytest.mark.parametrize("radius", [1e-6, 1e-2, 1e3])
def test_rotation_adds_no_more_than_the_rounding_of_x(condition, radius):
    n = 10
    flow = dense_flow(n, condition)
    x = flow.sample(3, generator(5))
    worst = worst_case(flow, x, radius)
    precision = flow.eigenvectors / flow.eigenvalues @ flow.eigenvectors.T
    sensitivity = (worst.delta @ precision).norm(dim=1)  # |d drop / d x|
    rounding = 2 * n**0.5 * 2.0**-53 * sensitivity * (x.norm(dim=1) + flow.mean.norm())
    with mp.workdps(DIGITS):
        vectors = mp.matrix(flow.eigenvectors.tolist())
        for j in range(len(x)):
            centred = mp.matrix(x[j].tolist()) - mp.matrix(flow.mean.tolist())
            a = vectors.T * centred
            exact, _ = mp_worst(flow.eigenvalues.tolist(), list(a), radius)
            error = abs(mp.mpf(worst.drop[j].item()) - exact)
            assert error <= mp.mpf(1e-14) * exact + mp.mpf(rounding[j].item())
            if condition == 1e2:
                assert error < mp.mpf(1e-12) * exact
    torch.testing.assert_close(
        worst.delta.norm(dim=1) / radius, torch.ones_like(worst.drop), rtol=0, atol=1e-14
    )


# ------------------------------------------------------------------- Theorem 3.1


def test_the_hard_case_that_the_printed_theorem_misses():
    flow = GaussianFlow([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]])
    x = torch.tensor([[0.0, 1.0]])
    worst = worst_case(flow, x, 1.0)
    assert worst.hard_case.item() and worst.multiplier.item() == 0.5  # eta = 1 / (2 lam_1)
    assert worst.drop.item() == pytest.approx(13 / 24, rel=1e-15)
    expected = torch.tensor([[math.sqrt(8) / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(worst.delta.abs(), expected)
    # the printed equation's one root with a_1 = 0 moves along the second axis only
    assert drop_of(flow, x, torch.tensor([[0.0, 1.0]])).item() == pytest.approx(3 / 8)
    # two optima: the mirrored one is as good
    mirrored = worst.delta * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(drop_of(flow, x, mirrored), worst.drop)


def test_hard_case_survives_a_rotation_and_an_offset():
    flow = GaussianFlow.from_eigen([5.0, -3.0, 2.0], [1.0, 4.0, 9.0], orthogonal(3))
    inside, outside = (flow.mean + k * flow.eigenvectors[:, 1] for k in (1.0, 8.0))
    just_off = inside + 1e-9 * flow.eigenvectors[:, 0]
    worst = worst_case(flow, torch.stack([inside, outside, just_off]), 1.0)
    assert worst.hard_case.tolist() == [True, False, False]
    assert worst.drop[0].item() == pytest.approx(13 / 24, rel=1e-13)
    assert worst.drop[1].item() == pytest.approx((8 + 0.5) / 4, rel=1e-13)
    assert worst.drop[2].item() == pytest.approx(13 / 24 + 1e-9 * math.sqrt(8) / 3, rel=1e-13)
    # far from the origin x itself is rounded to 1e-10, and so is its part along u_1
    far = GaussianFlow.from_eigen([5e6, -3e6, 2e6], [1.0, 4.0, 9.0], orthogonal(3))
    worst = worst_case(far, far.mean[None] + far.eigenvectors[:, 1], 1.0)
    assert worst.hard_case.item() and worst.drop.item() == pytest.approx(13 / 24, rel=1e-8)


def test_hard_case_direction_is_deterministic_or_drawn():
    flow = GaussianFlow.from_eigen([1.0] * 4, [1.0, 1.0, 1.0, 4.0], orthogonal(4))
    x = (flow.mean + flow.eigenvectors[:, 3]).expand(4000, -1)
    fixed = worst_case(flow, x[:2], 1.0)
    along = fixed.delta @ flow.eigenvectors
    expected = torch.tensor([math.sqrt(8) / 3, 0.0, 0.0, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(along, expected.expand(2, -1), rtol=0, atol=1e-13)
    drawn = worst_case(flow, x, 1.0, generator=generator(3))
    again = worst_case(flow, x, 1.0, generator=generator(3))
    assert torch.equal(drawn.delta, again.delta)
    torch.testing.assert_close(drawn.drop, fixed.drop[:1].expand(4000))
    torch.testing.assert_close(drop_of(flow, x, drawn.delta), drawn.drop)
    side = (drawn.delta @ flow.eigenvectors)[:, :3] / (math.sqrt(8) / 3)
    # uniform on the sphere: mean 0 and second moment I / 3, each within five standard errors
    assert side.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 4000)
    moment = side.T @ side / 4000 - torch.eye(3, dtype=torch.float64) / 3
    assert moment.abs().max() < 5 * math.sqrt(4 / 45 / 4000)


def test_a_side_that_is_rounding_error_still_counts_where_it_changes_the_drop():
    """|x - mu| is 10^6 radii, so a_1 = -1e-15 |x - mu| is worth 2e-9 of the drop."""
    flow, a, radius = diagonal_flow([1e-12, 1.0]), [-1e-15, 1.0], 1e-6
    x = torch.tensor([a], dtype=torch.float64)
    worst = worst_case(flow, x, radius)
    assert worst.hard_case.item() and worst.delta[0, 0] < 0
    with mp.workdps(DIGITS):
        assert relative(worst.drop, mp_worst([1e-12, 1.0], a, radius)[0]) < 5e-14
    drawn = worst_case(flow, x.expand(100, -1), radius, generator=generator())
    assert 30 < (drawn.delta[:, 0] > 0).sum() < 70  # to x's own precision, either side will do
    torch.testing.assert_close(drawn.drop, worst.drop.expand(100), rtol=1e-8, atol=0)


def test_generator_changes_only_hard_points():
    flow = dense_flow(5, 1e3)
    x = flow.sample(50, generator(1))
    plain, drawn = worst_case(flow, x, 0.3), worst_case(flow, x, 0.3, generator=generator(2))
    assert torch.equal(plain.delta, drawn.delta)


@pytest.mark.parametrize("attack", [worst_case, best_case])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 30.0])
def test_multiplier_satisfies_the_optimality_conditions(attack, radius):
    flow = dense_flow(8, 1e4)
    x = flow.sample(40, generator(2))
    found = attack(flow, x, radius)
    gradient = torch.linalg.solve(flow.covariance, (x + found.delta - flow.mean).T).T
    torch.testing.assert_close(
        gradient, 2 * found.multiplier[:, None] * found.delta, rtol=0, atol=1e-9 * radius * 1e4
    )
    if attack is worst_case:  # the second-order condition of a global maximum
        assert (2 * found.multiplier * flow.eigenvalues[0] > 1).all()
    else:
        assert (found.multiplier <= 0).all()
    # and the multiplier is the price of the radius: d drop / d radius = 2 eta radius
    step = 1e-5 * radius
    difference = attack(flow, x, radius + step).drop - attack(flow, x, radius - step).drop
    torch.testing.assert_close(
        difference / (2 * step), 2 * found.multiplier * radius, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("radius", [0.01, 0.5, 20.0])
def test_no_feasible_perturbation_crosses_the_certificate(radius):
    flow = dense_flow(6, 1e2)
    x = flow.sample(30, generator(4))
    x[0] = flow.mean  # hard
    worst, best = worst_case(flow, x, radius), best_case(flow, x, radius)
    for found in (worst, best):
        torch.testing.assert_close(drop_of(flow, x, found.delta), found.drop, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.certificate, found.drop, rtol=1e-13, atol=0)
    for shift in feasible(x, radius, 200, seed=6):
        drop = drop_of(flow, x, shift)
        assert (drop <= worst.certificate + 1e-9).all()
        assert (drop >= best.certificate - 1e-9).all()
    # nor one just beside the optimum, on the sphere
    for found, sign in ((worst, 1), (best, -1)):
        beside = found.delta + 0.1 * feasible(x, radius, 1, seed=8)[0]
        beside = beside / beside.norm(dim=1, keepdim=True) * found.delta.norm(dim=1, keepdim=True)
        assert (sign * (found.drop - drop_of(flow, x, beside)) > 0)[1:].all()  # x[0] is the mean


@pytest.mark.parametrize("excess", [1e-3, 0.1, 3.0])
def test_the_dual_bound_holds_at_any_multiplier_and_the_bounds_on_t_hold(excess):
    """The formulas the docstrings state, written out in a = U^T (x - mu)."""
    flow, radius = dense_flow(6, 1e2), 0.3
    x = flow.sample(20, generator(4))
    worst, lam = worst_case(flow, x, radius), flow.eigenvalues
    b = (x - flow.mean) @ flow.eigenvectors * (lam[0] / lam)
    w = 1 - lam[0] / lam
    dual = (1 + excess) * radius**2 + (b.square() / (w + excess)).sum(1)
    assert (dual / (2 * lam[0]) > worst.drop).all()
    t, beta = 2 * worst.multiplier * lam[0] - 1, b / radius
    torch.testing.assert_close((beta / (w + t[:, None])).norm(dim=1), torch.ones_like(t))
    assert (t <= beta.norm(dim=1)).all()
    assert (t >= beta.norm(dim=1) - w.max()).all()
    assert (t >= beta.norm(dim=1) - (beta.square() @ w) / beta.square().sum(1) - 1e-12).all()
    assert (t >= (beta.abs() - w).amax(1)).all() and (t >= beta[:, 0].abs()).all()


def test_special_cases():
    n, radius = 7, 0.4
    spherical = GaussianFlow(torch.zeros(n), 2.25 * torch.eye(n))
    x = torch.randn(5, n, generator=generator(), dtype=torch.float64)
    away = x / x.norm(dim=1, keepdim=True)
    worst = worst_case(spherical, x, radius)
    torch.testing.assert_close(worst.delta, radius * away)  # straight away from the mean
    torch.testing.assert_close(worst.drop, (radius * x.norm(dim=1) + radius**2 / 2) / 2.25)
    torch.testing.assert_close(best_case(spherical, x, radius).delta, -radius * away)
    flow = dense_flow(n, 1e3)
    x = flow.sample(5, generator(1))
    slope = torch.linalg.solve(flow.covariance, (x - flow.mean).T).T
    tiny = worst_case(flow, x, 1e-9).delta / 1e-9  # the gradient, to first order
    torch.testing.assert_close(tiny, slope / slope.norm(dim=1, keepdim=True), rtol=0, atol=1e-5)
    huge = worst_case(flow, x, 1e6).delta / 1e6  # the direction of least variance
    cosine = (huge @ flow.eigenvectors[:, 0]).abs()
    torch.testing.assert_close(cosine, torch.ones(5, dtype=torch.float64))


def test_best_case_stops_at_the_mean():
    flow = dense_flow(6, 1e4)
    x = flow.sample(20, generator(3))
    distance = (x - flow.mean).norm(dim=1)
    best = best_case(flow, x, distance * 1.5)
    torch.testing.assert_close(best.delta, flow.mean - x)
    assert (best.multiplier == 0).all() and not best.hard_case.any()
    torch.testing.assert_close(flow.log_prob(x) - best.drop, flow.log_prob(x + best.delta))
    short = best_case(flow, x, distance * 0.999)
    torch.testing.assert_close(short.delta.norm(dim=1), distance * 0.999, rtol=1e-13, atol=0)
    assert (short.drop > best.drop).all() and (short.drop < 0).all()


def test_universal_is_the_direction_of_least_variance():
    flow, radius = dense_flow(5, 1e2), 0.2
    found = universal(flow, radius)
    u_min = flow.eigenvectors[:, 0]
    assert found.delta.shape == (5,) and found.drop.shape == ()
    torch.testing.assert_close(found.delta * (found.delta @ u_min).sign(), radius * u_min)
    assert found.drop.item() == pytest.approx(radius**2 / (2 * flow.eigenvalues[0].item()))
    assert found.multiplier.item() == pytest.approx(1 / (2 * flow.eigenvalues[0].item()))
    assert found.hard_case.item()  # the sign is free
    # the expected drop: on any sample with mean mu the average is exact, whatever the shape
    half = flow.sample(500, generator(7))
    x = torch.cat([half, 2 * flow.mean - half])
    torch.testing.assert_close(drop_of(flow, x, found.delta).mean(), found.drop)
    for shift in feasible(x[:1], radius, 200, seed=1)[:, 0]:
        assert drop_of(flow, x, shift).mean() < found.drop
    several = universal(flow, torch.tensor([0.0, 0.2, 0.4]))
    assert several.delta.shape == (3, 5)
    torch.testing.assert_close(several.drop, found.drop * torch.tensor([0.0, 1.0, 4.0]).double())


# ------------------------------------------------------------------- shapes, types, batches


@pytest.mark.parametrize("attack", [worst_case, best_case])
def test_radius_zero_is_the_identity(attack):
    flow = dense_flow(4, 1e2)
    x = torch.cat([flow.sample(3, generator()), flow.mean[None]])
    found = attack(flow, x, 0.0)
    assert torch.equal(found.delta.abs(), torch.zeros_like(x))
    assert torch.equal(found.drop.abs(), torch.zeros(4, dtype=torch.float64))
    assert torch.equal(found.certificate.abs(), torch.zeros(4, dtype=torch.float64))
    assert found.multiplier.isinf().all() and not found.hard_case.any()


@pytest.mark.parametrize("attack", [worst_case, best_case])
def test_points_do_not_influence_each_other(attack):
    flow = dense_flow(6, 1e3)
    x = flow.sample(30_000, generator(1))  # several chunks
    radius = torch.logspace(-4, 1, 30_000, dtype=torch.float64)
    radius[::1000] = 0.0
    found = attack(flow, x, radius)
    order = torch.randperm(30_000, generator=generator(2))
    permuted = attack(flow, x[order], radius[order])
    torch.testing.assert_close(permuted.drop, found.drop[order], rtol=1e-11, atol=0)
    torch.testing.assert_close(permuted.delta, found.delta[order], rtol=1e-9, atol=1e-12)
    for j in (0, 7, 12_345, 29_999):
        alone = attack(flow, x[j : j + 1], radius[j].item())
        torch.testing.assert_close(alone.drop[0], found.drop[j], rtol=1e-11, atol=0)
    torch.testing.assert_close(
        found.delta.norm(dim=1)[1:999],
        radius[1:999].minimum(
            (x - flow.mean).norm(dim=1)[1:999] if attack is best_case else radius[1:999]
        ),
        rtol=1e-13,
        atol=0,
    )


def test_images_other_float_types_and_no_points():
    flow = dense_flow(12, 1e2)
    flat = flow.sample(5, generator()).float()
    images = flat.reshape(5, 3, 2, 2)
    for attack in (worst_case, best_case):
        one, two = attack(flow, flat.double(), 0.1), attack(flow, images, 0.1)
        assert two.delta.shape == images.shape and two.delta.dtype == torch.float64
        assert torch.equal(one.delta, two.delta.reshape(5, 12))
        empty = attack(flow, images[:0], 0.1)
        assert empty.delta.shape == (0, 3, 2, 2) and empty.drop.shape == (0,)
    assert flow.log_prob(images).dtype == torch.float64
    assert torch.equal(flow.log_prob(images), flow.log_prob(flat.double()))
    assert flow.log_prob(images[:0]).shape == (0,)
    z = flow.encode(images)
    assert z.shape == images.shape
    torch.testing.assert_close(flow.decode(z), images.double())
    assert flow.encode(images[:0]).shape == flow.decode(images[:0]).shape == (0, 3, 2, 2)


def test_nothing_is_mutated_and_gradients_stay_outside():
    flow = dense_flow(4, 1e2)
    x = flow.sample(6, generator()).requires_grad_()
    radius = torch.full((6,), 0.3)
    before = (x.detach().clone(), radius.clone(), flow.mean.clone(), flow.eigenvectors.clone())
    found = worst_case(flow, x, radius)
    for kept, now in zip(before, (x.detach(), radius, flow.mean, flow.eigenvectors), strict=True):
        assert torch.equal(kept, now)
    assert not found.delta.requires_grad and x.grad is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.drop = 0
    mean, covariance = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    own = GaussianFlow(mean, covariance)
    mean += 1
    covariance *= 2
    assert own.mean.tolist() == [0.0, 0.0] and own.covariance[0, 0] == 1.0


# ------------------------------------------------------------------- the density


def test_log_prob_agrees_with_torch_and_has_the_right_gradient():
    flow = dense_flow(6, 1e3)
    x = flow.sample(20, generator()).requires_grad_()
    other = torch.distributions.MultivariateNormal(flow.mean, flow.covariance)
    torch.testing.assert_close(flow.log_prob(x), other.log_prob(x))
    (gradient,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    expected = -torch.linalg.solve(flow.covariance, (x.detach() - flow.mean).T).T
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.gradcheck(flow.log_prob, x)
    hessian = torch.func.hessian(lambda point: flow.log_prob(point[None])[0])(x[0].detach())
    torch.testing.assert_close(hessian, -torch.linalg.inv(flow.covariance))
    batched = torch.func.vmap(lambda point: flow.log_prob(point[None])[0])(x.detach())
    torch.testing.assert_close(batched, flow.log_prob(x).detach())


def test_encode_whitens_and_decode_inverts():
    flow = dense_flow(5, 1e6)
    x = flow.sample(50, generator())
    z = flow.encode(x)
    torch.testing.assert_close(flow.decode(z), x, rtol=0, atol=1e-13)
    log_volume = -0.5 * flow.eigenvalues.log().sum()  # log |det dz/dx|
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(flow.log_prob(x), standard + log_volume)


def test_samples_have_the_moments_within_five_standard_errors():
    flow, count = dense_flow(4, 1e2), 50_000
    x = flow.sample(count, generator(11))
    assert torch.equal(x, flow.sample(count, generator(11)))
    variances = flow.covariance.diagonal()
    assert ((x.mean(0) - flow.mean).abs() < 5 * (variances / count).sqrt()).all()
    error = ((variances[:, None] * variances + flow.covariance.square()) / count).sqrt()
    assert ((x.T.cov(correction=0) - flow.covariance).abs() < 5 * error).all()


def test_fit_is_maximum_likelihood():
    x = dense_flow(4, 1e2).sample(300, generator())
    flow = GaussianFlow.fit(x)
    torch.testing.assert_close(flow.mean, x.mean(0))
    torch.testing.assert_close(flow.covariance, x.T.cov(correction=0))  # 1/N, once
    best = flow.log_prob(x).sum()
    for scale in (0.99, 1.01):
        assert GaussianFlow(flow.mean, flow.covariance * scale).log_prob(x).sum() < best
        assert GaussianFlow(flow.mean * scale, flow.covariance).log_prob(x).sum() < best
    images = GaussianFlow.fit(x.reshape(300, 1, 2, 2))
    torch.testing.assert_close(images.covariance, flow.covariance)
    ridged = GaussianFlow.fit(x, ridge=0.5)
    torch.testing.assert_close(ridged.covariance, flow.covariance + 0.5 * torch.eye(4))


def test_fit_keeps_small_eigenvalues_that_the_covariance_has_lost():
    n, count = 6, 2000
    z = torch.randn(count, n, generator=generator(), dtype=torch.float64)
    z = z - z.mean(0)
    q = torch.linalg.qr(z).Q * count**0.5  # exactly white, so the eigenvalues are known
    lam = torch.logspace(-12, 0, n, dtype=torch.float64)
    x = 3.0 + q * lam.sqrt() @ orthogonal(n).T
    smallest = GaussianFlow.fit(x).eigenvalues[0].item()
    lost = torch.linalg.eigh(x.T.cov(correction=0)).eigenvalues[0].item()
    assert abs(smallest / 1e-12 - 1) < 1e-8
    assert abs(lost / 1e-12 - 1) > 1e-6


def test_fit_of_degenerate_data_needs_a_ridge():
    few = torch.randn(5, 10, generator=generator(), dtype=torch.float64)
    constant = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    constant[:, 1] = 0.1
    copied = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    copied[:, 2] = copied[:, 0] + copied[:, 1]
    reasons = (r"5 points in 10.*rank 4", r"1 constant features \[1\]", r"rank 2, 0 constant")
    for x, reason in zip((few, constant, copied), reasons, strict=True):
        with pytest.raises(ValueError, match=reason + r".*ridge="):
            GaussianFlow.fit(x)
        flow = GaussianFlow.fit(x, ridge=1e-3)
        expected = x.T.cov(correction=0) + 1e-3 * torch.eye(x.shape[1])
        torch.testing.assert_close(flow.covariance, expected)
        assert flow.eigenvalues[0].item() == pytest.approx(1e-3)
        assert worst_case(flow, flow.mean[None], 1.0).hard_case.item()
    with pytest.raises(ValueError, match="ridge="):
        GaussianFlow.fit(torch.full((20, 2), 0.3))


def test_eigenvalues_ascend_and_rebuild_the_covariance():
    root = torch.randn(5, 5, generator=generator(), dtype=torch.float64)
    covariance = root @ root.T + torch.eye(5)
    flow = GaussianFlow(torch.zeros(5), covariance)
    assert torch.equal(flow.covariance, (covariance + covariance.T) / 2)
    assert (flow.eigenvalues.diff() > 0).all()
    rebuilt = flow.eigenvectors * flow.eigenvalues @ flow.eigenvectors.T
    torch.testing.assert_close(rebuilt, covariance)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = GaussianFlow.from_eigen(
        flow.mean, flow.eigenvalues[order], -flow.eigenvectors[:, order]
    )
    torch.testing.assert_close(shuffled.eigenvalues, flow.eigenvalues)
    torch.testing.assert_close(shuffled.eigenvectors, flow.eigenvectors)  # signs are normalised
    torch.testing.assert_close(shuffled.covariance, covariance)


def test_state_dict_round_trip_and_float64_for_good():
    flow = dense_flow(4, 1e12)
    other = GaussianFlow(torch.zeros(4), torch.eye(4))
    other.load_state_dict(flow.state_dict())
    x = flow.sample(3, generator())
    assert torch.equal(other.log_prob(x), flow.log_prob(x))
    assert torch.equal(worst_case(other, x, 0.1).delta, worst_case(flow, x, 0.1).delta)
    eigenvalues = flow.eigenvalues.clone()
    for converted in (flow.float(), flow.to(torch.float16), flow.to("cpu")):
        assert torch.equal(converted.eigenvalues, eigenvalues)
    assert not list(flow.parameters()) and set(flow.state_dict()) == {
        "mean", "covariance", "eigenvalues", "eigenvectors"
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_answers_on_a_gpu():
    flow = dense_flow(20, 1e6)
    x = flow.sample(500, generator())
    x[0] = flow.mean
    here = worst_case(flow, x, 0.1)
    there = worst_case(flow.to("cuda"), x.cuda(), 0.1, generator=generator())
    assert there.delta.is_cuda
    torch.testing.assert_close(there.drop.cpu(), here.drop, rtol=1e-9, atol=0)


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("mean", "covariance", "error", "message"),
    [
        (
            [0.0],
            [[1.0, 0.0], [0.0, 1.0]],
            ValueError,
            r"covariance must be .*\(n, n\).*\(1,\).*\(2, 2\)",
        ),
        ([[0.0]], [[1.0]], ValueError, r"mean and .*shapes \(n,\).*\(1, 1\)"),
        ([], torch.zeros(0, 0), ValueError, r"n >= 1"),
        ([0.0, math.nan], [[1.0, 0.0], [0.0, 1.0]], ValueError, "mean must be finite, not nan"),
        ([0.0], [[math.inf]], ValueError, "covariance must be finite, not inf"),
        ([0.0, 0.0], [[1.0, 0.5], [0.2, 1.0]], ValueError, r"symmetric.*0\.3.*covariance\.T"),
        ([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], ValueError, "positive definite.* -1 to 3.*ridge"),
        ([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]], ValueError, "positive definite.*ridge"),
        ([0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]], ValueError, "positive definite.*ridge"),
        ("zero", [[1.0]], TypeError, "mean must be numbers"),
        (None, [[1.0]], TypeError, "mean must be numbers"),
        ([0.0], torch.ones(1, 1, dtype=torch.complex64), TypeError, "real"),
    ],
)
def test_constructor_refuses(mean, covariance, error, message):
    with pytest.raises(error, match=message):
        GaussianFlow(mean, covariance)


def test_constructor_accepts_integers_and_rounded_float32():
    assert GaussianFlow([0, 0], [[1, 0], [0, 4]]).eigenvalues.tolist() == [1.0, 4.0]
    root = torch.randn(5, 5, generator=generator())
    covariance = (root @ root.T + torch.eye(5)).contiguous()
    covariance[0, 1] *= 1 + 1e-6
    assert GaussianFlow(torch.zeros(5), covariance).covariance.dtype == torch.float64


@pytest.mark.parametrize(
    ("eigenvalues", "eigenvectors", "message"),
    [
        ([1.0, 0.0], torch.eye(2), "2 positive numbers.*smallest 0.*ridge"),
        ([1.0, 2.0, 3.0], torch.eye(2), r"2 positive numbers, not \(3,\)"),
        ([1.0, 2.0], torch.tensor([[1.0, 0.1], [0.0, 1.0]]), r"orthonormal.*0\.1.*qr"),
        ([1.0, 2.0], torch.eye(3), r"eigenvectors must be of shapes .*\(n, n\)"),
    ],
)
def test_from_eigen_refuses(eigenvalues, eigenvectors, message):
    with pytest.raises(ValueError, match=message):
        GaussianFlow.from_eigen([0.0, 0.0], eigenvalues, eigenvectors)


@pytest.mark.parametrize("attack", [worst_case, best_case])
@pytest.mark.parametrize(
    ("x", "radius", "error", "message"),
    [
        (torch.zeros(3, 4), 1.0, ValueError, r"x must have shape \(batch, 2\).*\(3, 4\)"),
        (torch.zeros(2), 1.0, ValueError, r"single point is x\[None\]"),
        (torch.tensor([[0.0, 0.0], [0.0, math.nan]]), 1.0, ValueError, r"x\[1\] is not"),
        (torch.tensor([[math.inf, 0.0]]), 1.0, ValueError, r"x must be finite"),
        (torch.zeros(3, 2), -0.5, ValueError, r"radius must be >= 0, a length, got -0\.5"),
        (torch.zeros(3, 2), math.nan, ValueError, "radius must be finite, not nan"),
        (torch.zeros(3, 2), torch.ones(2), ValueError, r"radius .*shape \(3,\), got \(2,\)"),
        (torch.zeros(3, 2), "far", TypeError, "radius must be numbers"),
        (torch.zeros(3, 2, dtype=torch.uint8), 1.0, TypeError, "uint8.*dequantise"),
        ([[0.0, 0.0]], 1.0, TypeError, "x must be a floating-point tensor, not list"),
    ],
)
def test_attacks_refuse(attack, x, radius, error, message):
    with pytest.raises(error, match=message):
        attack(GaussianFlow([0.0, 0.0], torch.eye(2)), x, radius)


def test_other_refusals():
    flow = GaussianFlow([0.0, 0.0], torch.eye(2))
    for call in (lambda: worst_case("flow", torch.zeros(1, 2), 1.0), lambda: universal(None, 1.0)):
        with pytest.raises(TypeError, match=r"GaussianFlow, not.*flowrob\.attacks"):
            call()
    with pytest.raises(ValueError, match="radius must be >= 0"):
        universal(flow, -1.0)
    for method, name in ((flow.log_prob, "x"), (flow.encode, "x"), (flow.decode, "z")):
        with pytest.raises(ValueError, match=rf"{name} must have shape \(batch, 2\)"):
            method(torch.zeros(3, 5))
    with pytest.raises(TypeError, match="uint8"):
        flow.log_prob(torch.zeros(3, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="x must be finite"):
        GaussianFlow.fit(torch.tensor([[0.0], [math.nan], [1.0]]))
    with pytest.raises(ValueError, match=r"shape \(N, n\), got \(3,\)"):
        GaussianFlow.fit(torch.zeros(3))
    with pytest.raises(ValueError, match=r"ridge must be finite and >= 0.*got -1"):
        GaussianFlow.fit(torch.randn(9, 2, generator=generator()), ridge=-1)
    assert flow.log_prob(torch.tensor([[0.0, math.nan], [0.0, 0.0]])).isnan().tolist() == [
        True,
        False,
    ]
