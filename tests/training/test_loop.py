"""fit(): what it optimises, what it leaves alone, and what it refuses."""

import itertools

import pytest
import torch
from small_runs import FAST, SMALL, equal, weights

from flowrob.data import load
from flowrob.flows import glow
from flowrob.training import Checkpoint, Guard, Loss, Update, Validation, fit
from flowrob.training.batches import Batches, step_generator
from flowrob.units import bits_per_dim, dequantize


def test_clean_training_lowers_held_out_bits_per_dim(images):
    held_out = load("photos", split="test", size=8)
    x = dequantize(held_out, torch.Generator().manual_seed(9))
    flow, generator = glow(**SMALL), step_generator(0, 2)
    chosen = images[torch.randperm(len(images), generator=generator)[:256]]
    flow.initialize(dequantize(chosen, generator))  # as fit() would do it
    with torch.no_grad():
        before = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    history = fit(flow, images, num_steps=60, validation=Validation(held_out, every=30), **FAST)
    with torch.no_grad():
        after = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    assert after < before - 0.2
    assert [step for step, _ in history.validation] == [30, 60]
    assert history.validation[-1][1] == pytest.approx(after, abs=0.02)  # the averaged weights
    assert not flow.training


def test_a_flow_that_never_was_is_initialised_on_clean_data(images):
    ours, theirs, generator = glow(**SMALL), glow(**SMALL), step_generator(0, 2)
    chosen = images[torch.randperm(len(images), generator=generator)[:256]]
    theirs.initialize(dequantize(chosen, generator))
    still = {**FAST, "update": Update(learning_rate=0.0)}
    fit(ours, images, Loss.of("adversarial", attack_steps=1), num_steps=1, **still)
    assert equal(weights(ours), weights(theirs))


def test_a_warm_start_keeps_the_weights_and_actnorms_it_is_given(images):
    flow = glow(**SMALL)
    fit(flow, images, num_steps=5, **FAST)
    before = weights(flow)
    dark = images // 4  # on these, ActNorm would choose other scales
    still = {**FAST, "update": Update(learning_rate=0.0, warmup_steps=5)}
    fit(flow, dark, Loss.of("hybrid", attack_steps=1), num_steps=2, **still)
    assert equal(weights(flow), before)


def test_the_images_given_stay_as_they_are(images):
    before = images.clone()
    fit(glow(**SMALL), images, Loss.of("hybrid", attack_steps=1), num_steps=2, **FAST)
    assert torch.equal(images, before)


def test_same_seed_same_weights_other_seed_others(images):
    runs, loss = [], Loss.of("hybrid", attack_steps=2)
    for seed in (0, 0, 1):
        flow = glow(**SMALL)
        fit(flow, images, loss, num_steps=4, seed=seed, **FAST)
        runs.append(weights(flow))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


@pytest.mark.parametrize("loss", ["clean", "hybrid", "adversarial"])
def test_a_name_and_the_loss_of_that_name_are_the_same_run(images, tmp_path, loss):
    """Also the defaults spelt out: a checkpoint of the one is one of the other."""
    path, flows = tmp_path / "run.safetensors", [glow(**SMALL), glow(**SMALL)]
    plain = fit(flows[0], images, loss, num_steps=2, validation=images[:8], checkpoint=path, **FAST)
    spelt = {
        "validation": Validation(images[:8], every=500, keep_best=False),
        "update": Update("adam", 1e-3, 5, 100.0, 0.99),
        "guard": Guard(10.0),
    }
    settings = {"num_steps": 2, **FAST, **spelt}
    again = fit(flows[1], images, Loss.of(loss), **settings)
    assert again.loss == plain.loss and again.validation == plain.validation
    assert equal(*(weights(flow) for flow in flows))
    before = path.read_bytes()
    fit(glow(**SMALL), images, Loss.of(loss), checkpoint=Checkpoint(path), **settings)
    assert path.read_bytes() == before  # taken up, and nothing was left to do


def test_options_of_another_kind_are_refused(images):
    flow = glow(**SMALL)
    with pytest.raises(TypeError, match=r"update must be a flowrob\.training\.Update, got dict"):
        fit(flow, images, update={"learning_rate": 1e-3})
    with pytest.raises(TypeError, match=r"guard must be a flowrob\.training\.Guard, got float"):
        fit(flow, images, guard=10.0)
    with pytest.raises(TypeError, match=r"flow must be a flowrob\.flows\.Flow, got Linear"):
        fit(torch.nn.Linear(2, 2), images)
    with pytest.raises(ValueError, match=r"loss must be one of .*got 'robust'"):
        fit(flow, images, "robust")
    for gone in ("learning_rate", "eps", "keep_best", "checkpoint_every", "explode_above"):
        with pytest.raises(TypeError, match=gone):
            fit(flow, images, **{gone: 1})


def test_images_of_another_kind_or_too_few_are_refused(images):
    with pytest.raises(TypeError, match=r"images must be a uint8 tensor.*got .*torch\.float32"):
        fit(glow(**SMALL), images / 256)
    with pytest.raises(ValueError, match="images is empty"):
        fit(glow(**SMALL), images[:0])
    with pytest.raises(ValueError, match="batch_size=64 images, got 10"):
        fit(glow(**SMALL), images[:10])


def test_counts_below_1_are_refused_before_the_flow_is_touched(images):
    flow = glow(**SMALL)
    before = weights(flow)
    for name, value in itertools.product(("num_steps", "batch_size"), (0, -1)):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
            fit(flow, images, **{name: value})
    assert equal(weights(flow), before)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"flips": "no"}, TypeError, "flips must be True or False, got 'no'"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 1.5}, TypeError, "seed must be"),
        ({"validation": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, ValueError,
         r"validation images must be of the flow's shape \(3, 8, 8\), got \(1, 8, 8\)"),
    ],
)  # fmt: skip
def test_options_that_would_fail_late_or_mean_nothing_are_refused_at_once(
    wrong, error, match, images, monkeypatch
):
    monkeypatch.setattr(Batches, "draw", lambda *args: pytest.fail("began"))
    with pytest.raises(error, match=match):
        fit(glow(**SMALL), images, num_steps=10**9, **{**FAST, **wrong})


def test_a_choice_that_is_no_truth_value_is_refused(images):
    with pytest.raises(TypeError, match="keep_best must be True or False, got 'maybe'"):
        Validation(images, keep_best="maybe")
