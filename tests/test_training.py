"""fit(): what it optimises, and that interrupted runs continue as if nothing had happened."""

import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowrob import adversary, checkpoints, training
from flowrob.adversary import Adversary
from flowrob.bijections import ActNorm
from flowrob.data import dequantize, load
from flowrob.evaluation import bits_per_dim
from flowrob.flows import glow
from flowrob.training import TrainingDiverged, batch_indices, fit, step_generator

SMALL = {"image_shape": (3, 8, 8), "num_levels": 2, "num_steps": 2, "width": 8}
FAST = {"batch_size": 16, "warmup_steps": 5, "progress": False}


@pytest.fixture(scope="module")
def images():
    return load("photos", size=8, limit=400)


def weights(flow):
    return {name: value.clone() for name, value in flow.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    steps = [batch_indices(40, 10, step, seed=3) for step in range(8)]
    first, second = torch.cat(steps[:4]), torch.cat(steps[4:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert first.tolist() != second.tolist()


def test_randomness_depends_on_seed_and_key_alone():
    def draw(*key):
        return torch.rand(4, generator=step_generator(*key))

    assert torch.equal(draw(0, 1, 5), draw(0, 1, 5))
    different = [draw(0, 1, 5), draw(0, 1, 6), draw(1, 1, 5), draw(0, 2, 5)]
    assert len({tuple(d.tolist()) for d in different}) == 4


def test_clean_training_lowers_held_out_bits_per_dim(images):
    held_out = load("photos", split="test", size=8)
    x = dequantize(held_out, torch.Generator().manual_seed(9))
    flow = glow(**SMALL)
    training._initialize(flow, images, 0)
    with torch.no_grad():
        before = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    history = fit(flow, images, num_steps=60, validation=held_out, validate_every=30, **FAST)
    with torch.no_grad():
        after = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    assert after < before - 0.2
    assert [step for step, _ in history.validation] == [30, 60]
    assert history.validation[-1][1] == pytest.approx(after, abs=0.02)  # the averaged weights
    assert not flow.training


@pytest.mark.parametrize("loss, attacked", [("clean", 0), ("hybrid", 8), ("adversarial", 16)])
def test_each_loss_attacks_its_share_of_the_batch(images, monkeypatch, loss, attacked):
    seen = []
    original = adversary.lower_likelihood

    def spy(log_prob, x, ball, **options):
        attack = original(log_prob, x, ball, **options)
        seen.append((len(x), (attack.x - x).abs().max().item(), options["num_steps"]))
        return attack

    monkeypatch.setattr(adversary, "lower_likelihood", spy)
    history = fit(glow(**SMALL), images, loss, num_steps=2, eps=4.0, attack_steps=3, **FAST)
    if attacked:
        assert [n for n, *_ in seen] == [attacked, attacked]
        assert all(0.9 * 4 / 256 < size < 4 / 256 + 1e-6 for _, size, _ in seen)
        assert {steps for *_, steps in seen} == {3}
    else:
        assert seen == []
    assert [math.isnan(v) for v in history.clean] == [attacked == 16] * 2
    assert [math.isnan(v) for v in history.adversarial] == [attacked == 0] * 2


def test_eps_warms_up_linearly(images, monkeypatch):
    radii = []
    original = adversary.lower_likelihood

    def spy(log_prob, x, ball, **options):
        radii.append(ball.radius * 256)
        return original(log_prob, x, ball, **options)

    monkeypatch.setattr(adversary, "lower_likelihood", spy)
    options = {"num_steps": 5, "eps": 8.0, "attack_steps": 1, "eps_warmup_steps": 4}
    fit(glow(**SMALL), images, "adversarial", **options, **FAST)
    assert radii == pytest.approx([2.0, 4.0, 6.0, 8.0, 8.0])


@pytest.fixture
def attacks(monkeypatch):
    """Every call of Adversary.attack: (x, radius, num_steps, start, found, reach)."""
    calls, original = [], Adversary.attack

    def spy(self, flow, x, radius, num_steps, start=None, reach=1.0):
        found = original(self, flow, x, radius, num_steps, start, reach)
        calls.append((x, radius, num_steps, start, found, reach))
        return found

    monkeypatch.setattr(Adversary, "attack", spy)
    return calls


def test_a_hybrid_of_any_ratio_attacks_its_share_on_average(images, attacks):
    options = {"num_steps": 8, "attack_steps": 1, "adversarial_share": 0.15, **FAST}
    history = fit(glow(**SMALL), images, "hybrid", **options)
    sizes = [len(x) for x, *_ in attacks]
    assert set(sizes) == {2, 3} and sum(sizes) == round(0.15 * 8 * 16)
    shares = [
        (n * a + (16 - n) * c) / 16
        for n, a, c in zip(sizes, history.adversarial, history.clean, strict=True)
    ]
    assert history.loss == pytest.approx(shares, rel=1e-5)  # every image weighs the same


def test_random_eps_draws_a_radius_per_image_that_the_attack_exhausts(images, attacks):
    options = {"num_steps": 20, "attack_steps": 1, "random_eps": True, "eps_warmup_steps": 10}
    fit(glow(**SMALL), images, "adversarial", **options, **FAST)
    for x, radius, _, _, found, _ in attacks:
        reached = (found - x).abs().flatten(1).amax(1)
        assert bool((reached <= radius + 1e-6).all() and (reached > 0.9 * radius).any())
    eps = 256 * torch.cat([radius for _, radius, *_ in attacks[10:]])
    assert len(eps) == 160 and 0 < eps.min() < 1 and 7 < eps.max() <= 8
    assert eps.mean() == pytest.approx(4.0, abs=4 * 8 / math.sqrt(12 * 160))  # four sigma
    assert max(256 * radius.max() for _, radius, *_ in attacks[:3]) <= 0.3 * 8


def test_random_eps_may_be_the_share_of_some(images, attacks):
    options = {"num_steps": 20, "attack_steps": 1, "random_eps": 0.25}
    fit(glow(**SMALL), images, "adversarial", **options, **FAST)
    eps = 256 * torch.cat([radius for _, radius, *_ in attacks])
    full = (eps > 8 - 1e-4).float().mean().item()
    assert len(eps) == 320 and full == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 320))
    drawn = eps[eps <= 8 - 1e-4]
    assert drawn.mean() == pytest.approx(4.0, abs=4 * 8 / math.sqrt(12 * len(drawn)))


def test_validation_spaces_the_share_of_radii_evenly():
    def radii(random_eps):
        adversary = Adversary(1.0, 8.0, random_eps, 0, 1, 0, None)
        return (256 * adversary.validation_radius(8)).tolist()

    assert radii(0.0) == [8.0] * 8
    assert radii(0.5) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    assert radii(1.0) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


def test_attack_steps_grow_over_their_warm_up(images, attacks):
    options = {"num_steps": 6, "attack_steps": 4, "attack_warmup_steps": 5, **FAST}
    fit(glow(**SMALL), images, "adversarial", **options)
    assert [num_steps for _, _, num_steps, *_ in attacks] == [1, 2, 3, 4, 4, 4]


def test_perturbations_are_reused_mirrored_with_their_image_and_survive_a_resume(
    images, attacks, tmp_path
):
    few = images[:32]
    settings = {"num_steps": 6, "attack_steps": 2, "reuse_perturbations": True, **FAST}
    path = tmp_path / "run.safetensors"
    straight, resumed = glow(**SMALL), glow(**SMALL)
    fit(straight, few, "adversarial", **settings)
    left, kept, moved = few.to(torch.float32), torch.zeros(few.shape), 0
    for step, (x, radius, _, start, found, _) in enumerate(attacks):
        chosen = batch_indices(32, 16, step, seed=0)
        levels = (x * 256).floor()
        turned = (levels != left[chosen]).flatten(1).any(1)  # mirrored images
        assert torch.equal(
            levels, torch.where(turned[:, None, None, None], left[chosen].flip(-1), left[chosen])
        )
        moved += int(turned.sum())
        expected = kept[chosen]
        expected = torch.where(turned[:, None, None, None], expected.flip(-1), expected)
        assert (start - expected).abs().max() <= 0.5 / 127 + 1e-5
        delta = (found - x) / radius
        kept[chosen] = torch.where(turned[:, None, None, None], delta.flip(-1), delta)
    assert 0 < moved < 6 * 16 and start.abs().mean() > 0.5
    run_until(3, resumed, few, checkpoint=path, loss="adversarial", **settings)
    fit(resumed, few, "adversarial", checkpoint=path, **settings)
    assert equal(weights(resumed), weights(straight))


def test_a_pool_of_attacks_renews_one_place_a_round_and_holds_attacks_of_all_ages():
    plan = Adversary(1.0, 8.0, 0.0, 0, 1, 0, None, attack_visits=4)
    visits = [plan.visit(step) for step in range(40)]
    assert [place for place, *_ in visits] == [0, 1, 2, 3] * 10
    drawn = {}
    for step, (place, drawn_at, age) in enumerate(visits):
        drawn[place] = step if age == 0 else drawn[place]
        assert drawn_at == drawn[place] == step - 4 * age
    for round_ in range(3, 10):  # once the pool is full
        assert sorted(age for *_, age in visits[4 * round_ : 4 * round_ + 4]) == [0, 1, 2, 3]
    assert [Adversary(1.0, 8.0, 0.0, 0, 1, 0, None).visit(step) for step in range(2)] == [
        (0, 0, 0),
        (0, 1, 0),
    ]


def test_visits_go_on_from_the_last_perturbation_of_the_same_images_and_survive_a_resume(
    images, attacks, tmp_path
):
    settings = {"num_steps": 11, "attack_steps": 2, "attack_visits": 3, "random_eps": 0.5, **FAST}
    settings |= {"adversarial_share": 0.3, "eps_warmup_steps": 4}  # 4 or 5 of 16
    path = tmp_path / "run.safetensors"
    straight, resumed = glow(**SMALL), glow(**SMALL)
    fit(straight, images, "hybrid", **settings)
    plan, last = Adversary(0.3, 8.0, 0.5, 4, 2, 0, None, 3), {}
    starts, first_reaches = [], []
    for step, (x, radius, _, start, found, reach) in enumerate(attacks):
        place, _, age = plan.visit(step)
        assert len(x) == plan.count(step - 3 * age, 16) == len(radius) == len(reach)
        assert (found - x).abs().amax((1, 2, 3)).le(radius + 1e-6).all()
        if age:
            before, delta, share = last[place]
            assert torch.equal(x, before)  # dequantisation noise and all
            assert (start - delta).abs().max() <= 0.5 / 127 + 1e-4
            ramp = min(1.0, (step + 1) / 4)
            assert torch.allclose(radius / ramp, share)
            assert bool(((reach >= 0.125) & (reach <= 2.0)).all()) and len(set(reach.tolist())) > 1
            first_reaches.append(float(reach[0]))
        else:
            assert place not in last or not torch.equal(x[:4], last[place][0][:4])
            assert reach.tolist() == [2.0] * len(x)
            starts += start.abs().amax((1, 2, 3)).tolist()
        ramp = min(1.0, (step + 1) / 4)
        last[place] = x, plan.in_radii(found - x, radius), radius / ramp
    assert 0 < sum(s == 0 for s in starts) < len(starts) and max(starts) > 0.9
    assert len(set(first_reaches)) == len(first_reaches) > 3  # every visit draws anew
    run_until(7, resumed, images, checkpoint=path, loss="hybrid", **settings)
    assert checkpoints.read(path)[1]["perturbations"].abs().max() == 127
    fit(resumed, images, "hybrid", checkpoint=path, **settings)
    assert equal(weights(resumed), weights(straight))


def test_the_first_step_is_as_long_as_its_reach(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=20, **FAST)
    x = dequantize(images[:4] // 2 + 64, torch.Generator().manual_seed(1))  # far from 0 and 1
    plan, reach = Adversary(1.0, 8.0, 0.0, 0, 1, 0, None), torch.tensor([0.125, 0.25, 0.5, 2.0])
    found = plan.attack(flow, x, 8 / 256, 1, torch.zeros_like(x), reach)
    moved = (found - x).abs().amax((1, 2, 3)) * 256 / 8
    assert moved.tolist() == pytest.approx([0.125, 0.25, 0.5, 1.0], abs=1e-4)


def test_later_visits_find_more(images):
    """On weights that stand still, 6 visits of 3 steps beat their first, and 3 steps anew."""
    flow = glow(**SMALL)
    fit(flow, images, num_steps=60, **FAST)
    x = dequantize(images[:16], torch.Generator().manual_seed(1))
    plan, generator = Adversary(1.0, 8.0, 0.0, 0, 3, 0, None, 6), torch.Generator().manual_seed(2)
    kept, found = torch.zeros_like(x), []
    for age in range(6):
        moved = plan.attack(flow, x, 8 / 256, 3, *plan.begin(kept, age, generator))
        kept = plan.in_radii(moved - x, 8 / 256)
        with torch.no_grad():
            found.append(-flow.log_prob(moved))
    assert all(bool((b >= a - 1e-2).all()) for a, b in itertools.pairwise(found))
    with torch.no_grad():
        fresh = -flow.log_prob(plan.attack(flow, x, 8 / 256, 3))
    assert (found[-1] - fresh).mean() > 1.0


def test_an_attack_that_starts_from_a_perturbation_is_no_worse_than_it(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=20, **FAST)
    x = dequantize(images[:16], torch.Generator().manual_seed(1))
    plan = Adversary(1.0, 8.0, False, 0, 10, 0, None)
    far = plan.attack(flow, x, 8 / 256, 20)
    again = plan.attack(flow, x, 8 / 256, 1, plan.in_radii(far - x, 8 / 256))
    fresh = plan.attack(flow, x, 8 / 256, 1)
    with torch.no_grad():
        before, after, single = (-flow.log_prob(y) for y in (far, again, fresh))
    assert bool((after >= before - 1e-2).all()) and after.mean() > single.mean() + 1.0
    assert (again - x).abs().max() <= 8 / 256 + 1e-6 and again.min() >= 0 and again.max() <= 1


def test_bfloat16_touches_the_networks_only_and_only_while_attacking(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=20, **FAST)
    x = dequantize(images[:16], torch.Generator().manual_seed(1))
    seen, narrow, full = [], *(Adversary(1.0, 8.0, False, 0, 5, 0, d) for d in ("bfloat16", None))
    convolution = next(m for m in flow.modules() if isinstance(m, torch.nn.Conv2d))
    hook = convolution.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    found = narrow.attack(flow, x, 8 / 256, 5)
    assert set(seen) == {torch.bfloat16} and found.dtype == torch.float32
    seen.clear()
    with torch.no_grad():
        low, exact = (-flow.log_prob(y) for y in (found, full.attack(flow, x, 8 / 256, 5)))
        start = -flow.log_prob(x)
    hook.remove()
    assert set(seen) == {torch.float32} and not any("forward" in vars(m) for m in flow.modules())
    assert not torch.equal(low, exact)
    assert (low - start).mean() > 0.9 * (exact - start).mean() > 0


def test_a_warm_start_keeps_the_weights_and_actnorms_it_is_given(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=5, **FAST)
    before = weights(flow)
    dark = images // 4  # on these, ActNorm would choose other scales
    fit(flow, dark, "hybrid", num_steps=2, attack_steps=1, learning_rate=0.0, **FAST)
    assert equal(weights(flow), before)


@pytest.mark.parametrize("optimizer", ["adamax", "muon"])
def test_other_optimizers_differ_from_adam_and_resume(images, tmp_path, optimizer):
    flows = {}
    for name in ("adam", optimizer):
        flows[name] = glow(**SMALL)
        fit(flows[name], images, num_steps=6, optimizer=name, **FAST)
    assert not equal(weights(flows["adam"]), weights(flows[optimizer]))
    resumed, path = glow(**SMALL), tmp_path / "run.safetensors"
    settings = {"num_steps": 6, "optimizer": optimizer, "checkpoint": path, **FAST}
    run_until(3, resumed, images, loss="clean", **settings)
    fit(resumed, images, **settings)
    assert equal(weights(resumed), weights(flows[optimizer]))
    with pytest.raises(ValueError, match=rf"another run.*'optimizer': \('{optimizer}', 'adam'\)"):
        fit(resumed, images, **{**settings, "optimizer": "adam"})


def test_keep_best_ends_with_the_weights_that_validated_best(images, tmp_path):
    """On 16 images a big rate overfits: the last validation is not the best."""
    held_out = load("photos", split="test", size=8)[:64]
    settings = {"num_steps": 60, "learning_rate": 0.03, "validation": held_out}
    settings |= {"validate_every": 6, **FAST}
    best, last, resumed = glow(**SMALL), glow(**SMALL), glow(**SMALL)
    history = fit(best, images[:16], keep_best=True, **settings)
    assert fit(last, images[:16], **settings).validation == history.validation
    scores = [score for _, score in history.validation]
    assert scores[-1] > min(scores) + 0.05
    x = dequantize(held_out, step_generator(0, 3))
    with torch.no_grad():
        ends = [bits_per_dim(f.log_prob(x), f.num_dims).mean().item() for f in (best, last)]
    assert ends == pytest.approx([min(scores), scores[-1]], rel=1e-5)
    path = tmp_path / "run.safetensors"
    stop = 1 + int(history.validation[scores.index(min(scores))][0])  # the best lies behind
    options = {"checkpoint": path, "keep_best": True, **settings}
    run_until(stop, resumed, images[:16], loss="clean", **options)
    fit(resumed, images[:16], **options)
    assert equal(weights(resumed), weights(best))


def test_validation_scores_the_loss_that_is_trained(images):
    held_out = load("photos", split="test", size=8)[:20]
    scores = {}
    for loss in ("clean", "hybrid", "adversarial"):
        flow = glow(**SMALL)
        options = {"num_steps": 1, "learning_rate": 0.0, "attack_steps": 3, **FAST}
        ((_, scores[loss]),) = fit(flow, images, loss, validation=held_out, **options).validation
    assert scores["adversarial"] > scores["clean"] + 0.1
    mean = 0.5 * (scores["adversarial"] + scores["clean"])
    assert scores["hybrid"] == pytest.approx(mean, rel=1e-5)


def test_the_images_given_stay_as_they_are(images):
    before = images.clone()
    fit(glow(**SMALL), images, "hybrid", num_steps=2, attack_steps=1, **FAST)
    assert torch.equal(images, before)


def test_same_seed_same_weights_other_seed_others(images):
    runs = []
    for seed in (0, 0, 1):
        flow = glow(**SMALL)
        fit(flow, images, "hybrid", num_steps=4, attack_steps=2, seed=seed, **FAST)
        runs.append(weights(flow))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


KILLED = """
import torch
from flowrob.data import load
from flowrob.flows import glow
from flowrob.training import fit
torch.set_num_threads(1)
fit(glow(**{small}), load("photos", size=8, limit=400), "hybrid", num_steps={steps},
    attack_steps=2, checkpoint={path!r}, checkpoint_every=3, **{fast})
"""


def test_a_run_killed_mid_way_resumes_bit_for_bit(images, tmp_path):
    path = tmp_path / "run.safetensors"
    steps = 2_000  # far more than the process is given time for
    code = textwrap.dedent(KILLED.format(small=SMALL, steps=steps, path=str(path), fast=FAST))
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(checkpoints.read(path)[0]["step"])
    assert 0 < reached < steps

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, straight = glow(**SMALL), glow(**SMALL)
        settings = {"num_steps": steps, "attack_steps": 2, **FAST}
        stop = reached + 4
        run_until(stop, resumed, images, checkpoint=path, checkpoint_every=3, **settings)
        run_until(stop, straight, images, **settings)
    finally:
        torch.set_num_threads(threads)
    assert equal(weights(resumed), weights(straight))


def run_until(stop, flow, images, loss="hybrid", **settings):
    """Train, and press Ctrl-C during the step that completes ``stop`` steps."""
    original, calls = training.batch_indices, []

    def press(num_images, batch_size, step, seed):
        if step == stop - 1 and step not in calls:
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(step)
        return original(num_images, batch_size, step, seed)

    training.batch_indices = press
    try:
        history = fit(flow, images, loss, **settings)
    finally:
        training.batch_indices = original
    assert history.interrupted and max(calls) == stop - 1 and len(history.clean) == stop
    return history


def test_ctrl_c_ends_after_the_step_and_the_run_can_go_on(images, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"num_steps": 12, "attack_steps": 1, **FAST}
    stopped, straight = glow(**SMALL), glow(**SMALL)
    handler = signal.getsignal(signal.SIGINT)
    run_until(5, stopped, images, checkpoint=path, **settings)
    assert signal.getsignal(signal.SIGINT) is handler and not stopped.training
    history = fit(stopped, images, "hybrid", checkpoint=path, **settings)
    fit(straight, images, "hybrid", **settings)
    assert not history.interrupted and len(history.clean) == 12
    assert equal(weights(stopped), weights(straight))


def test_a_loss_that_is_nan_stops_the_run(images, tmp_path):
    path = tmp_path / "run.safetensors"
    flow = glow(**SMALL)
    fit(flow, images, num_steps=3, **FAST)
    first = next(flow.parameters())
    with torch.no_grad():
        first.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 0.*nothing was saved"):
        fit(flow, images, num_steps=3, checkpoint=path, **FAST)
    assert not path.exists()


def after(step, change):
    """Calls ``change`` in every training step from ``step`` on."""
    original = training.batch_indices

    def watched(num_images, batch_size, now, seed):
        if now >= step:
            change()
        return original(num_images, batch_size, now, seed)

    return watched


def test_an_exploding_loss_stops_and_the_checkpoint_is_from_before(images, tmp_path, monkeypatch):
    path, flow = tmp_path / "run.safetensors", glow(**SMALL)

    def push():
        with torch.no_grad():
            next(m for m in flow.modules() if isinstance(m, ActNorm)).bias.fill_(1e4)

    monkeypatch.setattr(training, "batch_indices", after(65, push))
    settings = {"num_steps": 200, "checkpoint": path, "checkpoint_every": 20, **FAST}
    with pytest.raises(TrainingDiverged, match=r"exploded.*step 99.*is .*run\.safetensors"):
        fit(flow, images, **settings)
    metadata, _ = checkpoints.read(path)
    assert metadata["step"] == "60"  # not 80, when the loss was already high
    patient = {**settings, "explode_above": math.inf, "num_steps": 110, "checkpoint": None}
    assert len(fit(flow, images, **patient).loss) == 110


def test_single_spikes_are_no_explosion(images, monkeypatch):
    flow, calls = glow(**SMALL), []
    original = training.bits_per_dim

    def spiky(log_prob, num_dims):
        calls.append(1)
        return original(log_prob, num_dims) * (1000.0 if len(calls) % 3 == 0 else 1.0)

    monkeypatch.setattr(training, "bits_per_dim", spiky)
    history = fit(flow, images, num_steps=101, **FAST)
    assert max(history.loss) > 1000 > 8 > np.median(history.loss)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=2, **FAST)
    before = weights(flow)
    next(flow.parameters()).register_hook(lambda grad: grad * math.inf)
    with pytest.raises(TrainingDiverged, match=r"at step 0 \(norm of its gradient: (inf|nan)\)"):
        fit(flow, images, num_steps=3, **FAST)
    assert equal(weights(flow), before)


def test_truncated_foreign_and_mismatched_checkpoints_are_refused(images, tmp_path):
    path = tmp_path / "run.safetensors"
    fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)
    assert list(tmp_path.iterdir()) == [path]  # no partial file is left behind
    with pytest.raises(ValueError, match=r"another run.*'seed': \(0, 1\)"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, seed=1, **FAST)
    with pytest.raises(ValueError, match=r"another run.*'flow'"):
        other = glow(**{**SMALL, "width": 4})
        fit(other, images, num_steps=2, checkpoint=path, **FAST)
    with pytest.raises(ValueError, match=r"another run.*'images_crc32'"):
        fit(glow(**SMALL), images.flip(0), num_steps=2, checkpoint=path, **FAST)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(path), foreign)
    with pytest.raises(ValueError, match="not a flowrob checkpoint"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    metadata, tensors = checkpoints.read(path)
    renamed = {k.replace("log_scale", "logs"): v for k, v in tensors.items()}
    save_file(renamed, foreign, metadata)
    with pytest.raises(ValueError, match="names other weights than this flow"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=foreign, **FAST)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        fit(glow(**SMALL), images, num_steps=2, checkpoint=path, **FAST)


def test_wrong_arguments(images):
    for wrong in ({"random_eps": 1.5}, {"random_eps": -0.1}):
        with pytest.raises(ValueError, match=rf"random_eps is a share.*got {wrong['random_eps']}"):
            fit(glow(**SMALL), images, "hybrid", **wrong)
    for wrong in ({"loss": "robust"}, {"optimizer": "sgd"}, {"attack_dtype": "float16"}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} must be one of .*got {value!r}"):
            fit(glow(**SMALL), images, **wrong)
    with pytest.raises(ValueError, match=r"adversarial_share=0\.5 with loss='clean'"):
        fit(glow(**SMALL), images, adversarial_share=0.5)
    with pytest.raises(ValueError, match=r"adversarial_share=1\.5 .*in \(0, 1\)"):
        fit(glow(**SMALL), images, "hybrid", adversarial_share=1.5)
    with pytest.raises(ValueError, match="keep_best=True needs validation"):
        fit(glow(**SMALL), images, keep_best=True)
    with pytest.raises(ValueError, match="explode_above must be greater than 1, got 1"):
        fit(glow(**SMALL), images, explode_above=1.0)
    with pytest.raises(TypeError, match=r"images must be a uint8 tensor.*got torch\.float32"):
        fit(glow(**SMALL), images / 256)
    with pytest.raises(TypeError, match="flow must be a flowrob"):
        fit(torch.nn.Linear(2, 2), images)
    with pytest.raises(ValueError, match="attack_visits=3 with reuse_perturbations=True"):
        fit(glow(**SMALL), images, "hybrid", attack_visits=3, reuse_perturbations=True)
    counts = ("num_steps", "batch_size", "validate_every", "checkpoint_every", "attack_visits")
    for name in counts:
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            fit(glow(**SMALL), images, **{name: 0})
    for wrong in ({"ema_decay": 2.0}, {"max_grad_norm": 0.0}):
        with pytest.raises(ValueError, match=r"ema_decay must lie in .* max_grad_norm above 0"):
            fit(glow(**SMALL), images, **wrong)
    with pytest.raises(ValueError, match="validation is empty"):
        fit(glow(**SMALL), images, validation=images[:0])
    with pytest.raises(ValueError, match="batch_size=64 images, got 10"):
        fit(glow(**SMALL), images[:10])
