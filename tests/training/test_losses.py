"""Losses: whom a step attacks, how far and how hard; what a name means, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from small_runs import FAST, SMALL

from flowrob.attacks import LinfBall, lower_likelihood, pgd
from flowrob.attacks.objectives import Negative
from flowrob.flows import glow
from flowrob.training import Fresh, Loss, PerImage, Pool, fit
from flowrob.units import dequantize

RADIUS = 8 / 256


@pytest.fixture(scope="module")
def trained(images):
    """A flow after 20 clean steps, and 16 images in [0, 1)."""
    flow = glow(**SMALL)
    fit(flow, images, num_steps=20, **FAST)
    return flow, dequantize(images[:16], torch.Generator().manual_seed(1))


@pytest.mark.parametrize("loss, attacked", [("clean", 0), ("hybrid", 8), ("adversarial", 16)])
def test_each_loss_attacks_its_share_of_the_batch(images, attacks, loss, attacked):
    how = Loss.of(loss, eps=4.0, attack_steps=3) if attacked else loss
    history = fit(glow(**SMALL), images, how, num_steps=2, **FAST)
    if attacked:
        sizes = [(call.found - call.x).abs().max().item() for call in attacks]
        assert [len(call.x) for call in attacks] == [attacked, attacked]
        assert all(0.9 * 4 / 256 < size < 4 / 256 + 1e-6 for size in sizes)
        assert {call.num_steps for call in attacks} == {3}
    else:
        assert attacks == []
    assert [math.isnan(v) for v in history.clean] == [attacked == 16] * 2
    assert [math.isnan(v) for v in history.adversarial] == [attacked == 0] * 2


def test_eps_warms_up_linearly(images, attacks):
    loss = Loss.of("adversarial", eps=8.0, attack_steps=1, eps_warmup_steps=4)
    fit(glow(**SMALL), images, loss, num_steps=5, **FAST)
    radii = [set((call.radius * 256).tolist()) for call in attacks]
    assert all(len(radius) == 1 for radius in radii)
    assert [max(radius) for radius in radii] == pytest.approx([2.0, 4.0, 6.0, 8.0, 8.0])


def test_attack_steps_grow_over_their_warm_up(images, attacks):
    loss = Loss.of("adversarial", attack_steps=4, attack_warmup_steps=5)
    fit(glow(**SMALL), images, loss, num_steps=6, **FAST)
    assert [call.num_steps for call in attacks] == [1, 2, 3, 4, 4, 4]


def test_a_hybrid_of_any_ratio_attacks_its_share_on_average(images, attacks):
    loss = Loss.of("hybrid", share=0.15, attack_steps=1)
    history = fit(glow(**SMALL), images, loss, num_steps=8, **FAST)
    sizes = [len(call.x) for call in attacks]
    assert set(sizes) == {2, 3} and sum(sizes) == round(0.15 * 8 * 16)
    shares = [
        (n * a + (16 - n) * c) / 16
        for n, a, c in zip(sizes, history.adversarial, history.clean, strict=True)
    ]
    assert history.loss == pytest.approx(shares, rel=1e-5)  # every image weighs the same


def test_random_eps_draws_a_radius_per_image_that_the_attack_exhausts(images, attacks):
    loss = Loss.of("adversarial", attack_steps=1, random_eps=1.0, eps_warmup_steps=10)
    fit(glow(**SMALL), images, loss, num_steps=20, **FAST)
    for call in attacks:
        reached = (call.found - call.x).abs().flatten(1).amax(1)
        assert bool((reached <= call.radius + 1e-6).all() and (reached > 0.9 * call.radius).any())
    eps = 256 * torch.cat([call.radius for call in attacks[10:]])
    assert len(eps) == 160 and 0 < eps.min() < 1 and 7 < eps.max() <= 8
    assert eps.mean() == pytest.approx(4.0, abs=4 * 8 / math.sqrt(12 * 160))  # four sigma
    assert max(256 * call.radius.max() for call in attacks[:3]) <= 0.3 * 8


def test_random_eps_may_be_the_share_of_some(images, attacks):
    loss = Loss.of("adversarial", attack_steps=1, random_eps=0.25)
    fit(glow(**SMALL), images, loss, num_steps=20, **FAST)
    eps = 256 * torch.cat([call.radius for call in attacks])
    full = (eps > 8 - 1e-4).float().mean().item()
    assert len(eps) == 320 and full == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 320))
    drawn = eps[eps <= 8 - 1e-4]
    assert drawn.mean() == pytest.approx(4.0, abs=4 * 8 / math.sqrt(12 * len(drawn)))


def test_bfloat16_touches_the_networks_only_and_only_while_attacking(trained):
    flow, x = trained
    seen, radius = [], torch.full((16,), RADIUS)
    narrow, full = (Loss.of("adversarial", attack_dtype=dtype) for dtype in ("bfloat16", None))
    convolution = next(m for m in flow.modules() if isinstance(m, torch.nn.Conv2d))
    hook = convolution.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    found = narrow.perturb(flow, x, radius, 5)
    assert set(seen) == {torch.bfloat16} and found.dtype == torch.float32
    seen.clear()
    with torch.no_grad():
        low, exact = (-flow.log_prob(y) for y in (found, full.perturb(flow, x, radius, 5)))
        start = -flow.log_prob(x)
    hook.remove()
    assert set(seen) == {torch.float32} and not any("forward" in vars(m) for m in flow.modules())
    assert not torch.equal(low, exact)
    assert (low - start).mean() > 0.9 * (exact - start).mean() > 0


@pytest.mark.parametrize("started", [False, True])
def test_the_attack_of_training_is_the_pgd_of_the_attacks(trained, started):
    flow, x = trained
    generator = torch.Generator().manual_seed(2)
    radius, reach = torch.linspace(2, 8, 16) / 256, 0.5 + torch.rand(16, generator=generator)
    start = 2.0 * torch.rand(x.shape, generator=generator) - 1.0 if started else None
    found = Loss.of("adversarial").perturb(flow, x, radius, 6, start, reach)
    begin = x + start * radius[:, None, None, None] if started else "x"
    options = {"num_steps": 6, "schedule": "cosine", "step_size": reach * radius, "start": begin}
    expected = pgd(Negative(flow.log_prob), x, LinfBall(radius), **options)
    assert torch.equal(found, expected.x) and bool((expected.value > expected.start_value).all())


def test_by_default_it_is_the_in_distribution_attack(trained):
    flow, x = trained
    flow.zero_grad()
    found = Loss.of("hybrid").perturb(flow, x, torch.full((16,), RADIUS), 5)
    expected = lower_likelihood(flow.log_prob, x, LinfBall(RADIUS), num_steps=5)
    assert torch.equal(found, expected.x)
    assert all(p.grad is None for p in flow.parameters())  # attacks leave the weights alone
    assert len(Loss.of("hybrid").perturb(flow, x[:0], torch.zeros(0), 5)) == 0


def test_names_mean_shares_and_defaults_are_the_papers():
    shares = {name: Loss.of(name).share for name in ("clean", "hybrid", "adversarial")}
    assert shares == {"clean": 0.0, "hybrid": 0.5, "adversarial": 1.0}
    assert [Loss.of(name).name for name in shares] == [*shares]
    assert Loss(0.15).name == "hybrid" and Loss.of("hybrid", share=0.15) == Loss(0.15)
    paper = Loss.of("adversarial")
    assert (paper.eps, paper.attack_steps, paper.memory) == (8.0, 10, Fresh())
    changed = Loss.of(Loss.of("hybrid", eps=4.0), attack_steps=3)
    assert changed == Loss(0.5, eps=4.0, attack_steps=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.eps = 8.0


def test_a_share_that_the_name_has_anyway_is_no_contradiction():
    assert Loss.of("adversarial", share=1.0) == Loss(1.0)
    assert Loss.of("hybrid", share=0.5) == Loss(0.5)


@pytest.mark.parametrize("loss, share", [("adversarial", 0.5), ("hybrid", 1.5), ("hybrid", 0.0)])
def test_a_share_that_the_name_contradicts_is_refused(loss, share):
    with pytest.raises(ValueError, match=rf"share={share} .*in \(0, 1\) and needs"):
        Loss.of(loss, share=share)


@pytest.mark.parametrize("options", [{"share": 0.5}, {"eps": 4.0}, {"memory": Pool(3)}])
def test_a_clean_loss_takes_no_options(options):
    with pytest.raises(ValueError, match=rf"attacks nobody: it takes no {next(iter(options))}"):
        Loss.of("clean", **options)


@pytest.mark.parametrize("wrong", ["robust", None, {"name": "clean"}, 0.5])
def test_a_loss_of_no_known_name_is_refused(wrong):
    with pytest.raises(ValueError, match=r"loss must be one of .*'hybrid'.* or a Loss, got"):
        Loss.of(wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"random_eps": 1.5}, r"random_eps is a share.*got 1\.5"),
        ({"random_eps": -0.1}, r"random_eps is a share.*got -0\.1"),
        ({"eps": -1.0}, r"eps must lie in \[0, 256\].*got -1"),
        ({"eps": 256.5}, r"eps must lie in \[0, 256\].*got 256\.5"),
        ({"eps": math.nan}, r"eps must lie in \[0, 256\].*got nan"),
        ({"attack_steps": 0}, r"attack_steps must be at least 1, got 0"),
        ({"eps_warmup_steps": -1}, r"eps_warmup_steps must be at least 0, got -1"),
        ({"attack_warmup_steps": -2}, r"attack_warmup_steps must be at least 0, got -2"),
        ({"attack_dtype": "float16"}, r"attack_dtype must be one of .*got 'float16'"),
    ],
)
def test_options_out_of_range_are_refused_when_the_loss_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        Loss.of("hybrid", **wrong)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Loss.of("hybrid"), **wrong)


def test_a_share_out_of_range_is_refused_by_the_loss_itself():
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"share is a share, and must lie in \[0, 1\]"):
            Loss(share)


def test_other_kinds_of_memory_and_unknown_options_are_refused():
    for wrong in (20, "pool", Pool):
        with pytest.raises(TypeError, match=r"memory must be Fresh\(\), PerImage\(\) or Pool\(\)"):
            Loss.of("hybrid", memory=wrong)
    with pytest.raises(TypeError, match="attack_visits"):
        Loss.of("hybrid", attack_visits=3)


def test_the_record_tells_losses_apart_that_train_differently():
    memories = (Fresh(), PerImage(), Pool(3), Pool(4))
    losses = [Loss.of("hybrid", memory=memory) for memory in memories]
    losses += [Loss.of("hybrid", eps=4.0), Loss.of("clean"), Loss.of("adversarial")]
    records = [loss.record() for loss in losses]
    assert all(records.count(record) == 1 for record in records)
    assert Loss.of("clean").record() == {"name": "clean"}
    assert losses[2].record()["memory"] == {"kind": "pool", "visits": 3}
