"""Visits: attacks that go on where earlier ones ended, of an image or of a place in the pool."""

import itertools

import pytest
import torch
from small_runs import FAST, SMALL, equal, run_until, weights

from flowrob.attacks.balls import column
from flowrob.flows import glow
from flowrob.training import Fresh, Loss, PerImage, Pool, checkpoints, fit
from flowrob.training.batches import batch_indices, mirror
from flowrob.training.visits import Visit
from flowrob.units import dequantize

RADIUS = 8 / 256


def in_radii(found, x, radius):
    """The perturbation in units of its radius, (batch,): what an attack takes for its start."""
    return (found - x) / column(radius, x)


@pytest.fixture(scope="module")
def trained(images):
    """A flow after 20 clean steps, and 16 images in [0, 1)."""
    flow = glow(**SMALL)
    fit(flow, images, num_steps=20, **FAST)
    return flow, dequantize(images[:16], torch.Generator().manual_seed(1))


def test_perturbations_are_reused_mirrored_with_their_image_and_survive_a_resume(
    images, attacks, tmp_path
):
    few, path = images[:32], tmp_path / "run.safetensors"
    loss, settings = Loss.of("adversarial", attack_steps=2, memory=PerImage()), {"num_steps": 6}
    straight, resumed = glow(**SMALL), glow(**SMALL)
    fit(straight, few, loss, **settings, **FAST)
    left, kept, moved = few.to(torch.float32), torch.zeros(few.shape), 0
    for step, call in enumerate(attacks):
        chosen = batch_indices(32, 16, step, seed=0)
        levels = (call.x * 256).floor()
        turned = (levels != left[chosen]).flatten(1).any(1)  # mirrored images
        assert torch.equal(levels, mirror(left[chosen], turned))
        moved += int(turned.sum())
        assert (call.start - mirror(kept[chosen], turned)).abs().max() <= 0.5 / 127 + 1e-5
        assert set(call.reach.tolist()) == {1.0}
        kept[chosen] = mirror(in_radii(call.found, call.x, call.radius), turned)
    assert 0 < moved < 6 * 16 and call.start.abs().mean() > 0.5
    run_until(3, resumed, few, loss, checkpoint=path, **settings, **FAST)
    fit(resumed, few, loss, checkpoint=path, **settings, **FAST)
    assert equal(weights(resumed), weights(straight))


def test_a_pool_of_attacks_renews_one_place_a_round_and_holds_attacks_of_all_ages():
    visits = [Pool(4).visit(step) for step in range(40)]
    assert [visit.place for visit in visits] == [0, 1, 2, 3] * 10
    drawn = {}
    for step, (place, drawn_at, age) in enumerate(visits):
        drawn[place] = step if age == 0 else drawn[place]
        assert drawn_at == drawn[place] == step - 4 * age
    for round_ in range(3, 10):  # once the pool is full
        ages = [visit.age for visit in visits[4 * round_ : 4 * round_ + 4]]
        assert sorted(ages) == [0, 1, 2, 3]
    for memory in (Fresh(), PerImage()):
        assert [memory.visit(step) for step in range(2)] == [(0, 0, 0), (0, 1, 0)]


def test_visits_go_on_from_the_last_perturbation_of_the_same_images_and_survive_a_resume(
    images, attacks, tmp_path
):
    pool, path = Pool(3), tmp_path / "run.safetensors"
    loss = Loss.of(  # attacks 4 or 5 of 16
        "hybrid", share=0.3, random_eps=0.5, eps_warmup_steps=4, attack_steps=2, memory=pool
    )
    straight, resumed = glow(**SMALL), glow(**SMALL)
    fit(straight, images, loss, num_steps=11, **FAST)
    last, starts, first_reaches = {}, [], []
    for step, (x, radius, _, start, reach, found) in enumerate(attacks):
        place, _, age = pool.visit(step)
        assert len(x) == loss.count(step - 3 * age, 16) == len(radius) == len(reach)
        assert (found - x).abs().amax((1, 2, 3)).le(radius + 1e-6).all()
        ramp = min(1.0, (step + 1) / 4)
        if age:
            before, delta, share = last[place]
            assert torch.equal(x, before)  # dequantisation noise and all
            assert (start - delta).abs().max() <= 0.5 / 127 + 1e-4
            assert torch.allclose(radius / ramp, share)
            assert bool(((reach >= 0.125) & (reach <= 2.0)).all()) and len(set(reach.tolist())) > 1
            first_reaches.append(float(reach[0]))
        else:
            assert place not in last or not torch.equal(x[:4], last[place][0][:4])
            assert reach.tolist() == [2.0] * len(x)
            starts += start.abs().amax((1, 2, 3)).tolist()
        last[place] = x, in_radii(found, x, radius), radius / ramp
    assert 0 < sum(s == 0 for s in starts) < len(starts) and max(starts) > 0.9
    assert len(set(first_reaches)) == len(first_reaches) > 3  # every visit draws anew
    run_until(7, resumed, images, loss, num_steps=11, checkpoint=path, **FAST)
    assert checkpoints.read(path)[1]["perturbations"].abs().max() == 127
    fit(resumed, images, loss, num_steps=11, checkpoint=path, **FAST)
    assert equal(weights(resumed), weights(straight))


def test_the_first_step_is_as_long_as_its_reach(trained, images):
    flow, _ = trained
    x = dequantize(images[:4] // 2 + 64, torch.Generator().manual_seed(1))  # far from 0 and 1
    reach, radius = torch.tensor([0.125, 0.25, 0.5, 2.0]), torch.full((4,), RADIUS)
    found = Loss.of("adversarial").perturb(flow, x, radius, 1, torch.zeros_like(x), reach)
    moved = (found - x).abs().amax((1, 2, 3)) * 256 / 8
    assert moved.tolist() == pytest.approx([0.125, 0.25, 0.5, 1.0], abs=1e-4)


def test_later_visits_find_more(images):
    """On weights that stand still, 6 visits of 3 steps beat their first, and 3 steps anew."""
    flow = glow(**SMALL)
    fit(flow, images, num_steps=60, **FAST)
    x, radius = dequantize(images[:16], torch.Generator().manual_seed(1)), torch.full((16,), RADIUS)
    pool, generator = Pool(6), torch.Generator().manual_seed(2)
    loss = Loss.of("adversarial", attack_steps=3, memory=pool)
    kept, found = torch.zeros_like(x), []
    for age in range(6):
        start, reach = pool.begin(kept, Visit(0, 0, age), generator)
        moved = loss.perturb(flow, x, radius, 3, start, reach)
        kept = in_radii(moved, x, radius)
        with torch.no_grad():
            found.append(-flow.log_prob(moved))
    assert all(bool((b >= a - 1e-2).all()) for a, b in itertools.pairwise(found))
    with torch.no_grad():
        fresh = -flow.log_prob(loss.perturb(flow, x, radius, 3))
    assert (found[-1] - fresh).mean() > 1.0


def test_an_attack_that_starts_from_a_perturbation_is_no_worse_than_it(trained):
    flow, x = trained
    loss, radius = Loss.of("adversarial"), torch.full((16,), RADIUS)
    far = loss.perturb(flow, x, radius, 20)
    again = loss.perturb(flow, x, radius, 1, in_radii(far, x, radius), reach=1.0)
    fresh = loss.perturb(flow, x, radius, 1)
    with torch.no_grad():
        before, after, single = (-flow.log_prob(y) for y in (far, again, fresh))
    assert bool((after >= before - 1e-2).all()) and after.mean() > single.mean() + 1.0
    assert (again - x).abs().max() <= RADIUS + 1e-6 and again.min() >= 0 and again.max() <= 1


def test_each_memory_keeps_what_it_needs_and_no_more():
    assert [m.room(400, 16) for m in (Fresh(), PerImage(), Pool(3))] == [0, 400, 48]
    indices = torch.tensor([7, 5, 300])
    visit = Visit(place=2, drawn_at=5, age=1)
    assert PerImage().places(visit, indices, 16).tolist() == [7, 5, 300]
    assert Pool(3).places(visit, indices, 16).tolist() == [32, 33, 34]


@pytest.mark.parametrize("visits", [1, 0, -3, 2.5, True, "20"])
def test_a_pool_of_one_visit_or_less_is_refused(visits):
    with pytest.raises(ValueError, match=rf"visits must be at least 2, got {visits!r}; one is"):
        Pool(visits)
