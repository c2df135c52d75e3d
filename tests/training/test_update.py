"""Updates: rates, clipping and averages, and that a wrong one is refused when it is made."""

import dataclasses
import math

import pytest
import torch
from small_runs import FAST, SMALL, equal, run_until, weights

from flowrob.flows import glow
from flowrob.training import Update, fit


@pytest.mark.parametrize("optimizer", ["adamax", "muon"])
def test_other_optimizers_differ_from_adam_and_resume(images, tmp_path, optimizer):
    flows, path = {}, tmp_path / "run.safetensors"
    for name in ("adam", optimizer):
        flows[name] = glow(**SMALL)
        fit(flows[name], images, num_steps=6, **{**FAST, "update": Update(name, warmup_steps=5)})
    assert not equal(weights(flows["adam"]), weights(flows[optimizer]))
    resumed, settings = glow(**SMALL), {"num_steps": 6, "checkpoint": path, **FAST}
    settings["update"] = Update(optimizer, warmup_steps=5)
    run_until(3, resumed, images, **settings)
    fit(resumed, images, **settings)
    assert equal(weights(resumed), weights(flows[optimizer]))
    other = rf"another run.*'update': \(.*'optimizer': '{optimizer}'.*, .*'optimizer': 'adam'.*\)"
    with pytest.raises(ValueError, match=other):
        fit(resumed, images, **{**settings, "update": Update("adam", warmup_steps=5)})


def test_the_rate_grows_linearly_and_falls_along_a_cosine():
    update = Update(learning_rate=0.5, warmup_steps=4)
    rates = [update.rate(step, 12) for step in range(13)]
    assert rates[:5] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert rates[8] == pytest.approx(0.25) and rates[12] == pytest.approx(0.0, abs=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert Update(warmup_steps=0).rate(0, 10) == 1e-3


def test_gradients_are_scaled_down_to_the_norm_and_never_up():
    flow, generator = glow(**SMALL), torch.Generator().manual_seed(1)
    x = torch.rand(8, 3, 8, 8, generator=generator)
    flow.initialize(x)
    for limit in (1e-3, 1e6):
        update = Update(max_grad_norm=limit)
        norm = update.differentiate(flow, update.start(flow), -flow.log_prob(x).mean())
        parts = [p.grad.norm() for p in flow.parameters() if p.grad is not None]
        assert torch.stack(parts).norm().item() == pytest.approx(min(norm, limit), rel=1e-3)
        assert norm > 1.0


def test_the_average_forgets_faster_in_the_first_steps():
    flow, update = glow(**SMALL), Update(ema_decay=0.5)
    ema = {name: torch.zeros_like(p) for name, p in flow.named_parameters()}
    with torch.no_grad():
        for p in flow.parameters():
            p.fill_(1.0)
    first = next(iter(ema))
    for step, decay in ((0, 0.1), (2, 0.25), (100, 0.5)):
        before = ema[first].flatten()[0].item()
        update.average(ema, flow, step)
        after = decay * before + (1.0 - decay)
        assert all(value.allclose(torch.tensor(after)) for value in ema.values())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"optimizer": "sgd"}, r"optimizer must be one of .*got 'sgd'"),
        ({"warmup_steps": -1}, r"warmup_steps must be at least 0, got -1"),
        ({"learning_rate": -1e-3}, r"learning_rate must be at least 0, got -0.001"),
        ({"learning_rate": math.nan}, r"learning_rate must be at least 0, got nan"),
        ({"ema_decay": 2.0}, r"ema_decay must lie in .* max_grad_norm above 0"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in .* max_grad_norm above 0"),
        ({"max_grad_norm": 0.0}, r"ema_decay must lie in .* max_grad_norm above 0"),
    ],
)
def test_a_wrong_update_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        Update(**wrong)


def test_an_update_stays_what_it_is():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Update().learning_rate = 1.0
