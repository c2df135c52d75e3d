"""Validation: the loss that is trained, on other images, and the best weights of a run."""

import math

import pytest
import torch
from small_runs import FAST, SMALL, equal, run_until, weights

from flowrob.data import load
from flowrob.distributed import Group
from flowrob.flows import glow
from flowrob.training import Loss, Update, Validation, fit
from flowrob.training.batches import step_generator
from flowrob.units import bits_per_dim, dequantize

STILL = {**FAST, "update": Update(learning_rate=0.0, warmup_steps=5)}


@pytest.fixture(scope="module")
def held_out():
    """Photographs that no run is trained on."""
    return load("photos", split="test", size=8)


def test_keep_best_ends_with_the_weights_that_validated_best(images, held_out, tmp_path):
    """On 16 images a big rate overfits: the last validation is not the best."""
    held_out, path = held_out[:64], tmp_path / "run.safetensors"
    update = Update(learning_rate=0.03, warmup_steps=5)
    settings = {"num_steps": 60, **FAST, "update": update}
    choosing = Validation(held_out, every=6, keep_best=True)
    best, last, resumed = glow(**SMALL), glow(**SMALL), glow(**SMALL)
    history = fit(best, images[:16], validation=choosing, **settings)
    other = fit(last, images[:16], validation=Validation(held_out, every=6), **settings)
    assert other.validation == history.validation
    scores = [score for _, score in history.validation]
    assert scores[-1] > min(scores) + 0.05
    x = dequantize(held_out, step_generator(0, 3))
    with torch.no_grad():
        ends = [bits_per_dim(f.log_prob(x), f.num_dims).mean().item() for f in (best, last)]
    assert ends == pytest.approx([min(scores), scores[-1]], rel=1e-5)
    stop = 1 + int(history.validation[scores.index(min(scores))][0])  # the best lies behind
    run_until(stop, resumed, images[:16], checkpoint=path, validation=choosing, **settings)
    fit(resumed, images[:16], checkpoint=path, validation=choosing, **settings)
    assert equal(weights(resumed), weights(best))


def test_validation_scores_the_loss_that_is_trained(images, held_out):
    scores = {}
    for loss in ("clean", "hybrid", "adversarial"):
        how = loss if loss == "clean" else Loss.of(loss, attack_steps=3)
        history = fit(glow(**SMALL), images, how, num_steps=1, validation=held_out[:20], **STILL)
        ((_, scores[loss]),) = history.validation
    assert scores["adversarial"] > scores["clean"] + 0.1
    mean = 0.5 * (scores["adversarial"] + scores["clean"])
    assert scores["hybrid"] == pytest.approx(mean, rel=1e-5)


def test_validation_spaces_the_share_of_radii_evenly():
    def radii(random_eps):
        return (256 * Loss.of("adversarial", random_eps=random_eps).validation_radius(8)).tolist()

    assert radii(0.0) == [8.0] * 8
    assert radii(0.5) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    assert radii(1.0) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


def test_validation_draws_nothing_that_training_would_have_drawn(images, held_out):
    flows = [glow(**SMALL), glow(**SMALL)]
    loss = Loss.of("hybrid", attack_steps=1, random_eps=1.0)
    for flow, validation in zip(flows, (None, Validation(held_out[:8], every=1)), strict=True):
        history = fit(flow, images, loss, num_steps=4, validation=validation, **FAST)
    assert [step for step, _ in history.validation] == [1, 2, 3, 4]
    assert equal(*(weights(flow) for flow in flows))


def test_plain_images_are_a_validation_at_the_default_interval(held_out):
    validation = Validation.of(held_out)
    assert validation.images is held_out
    assert (validation.every, validation.keep_best) == (500, False)
    assert Validation.of(validation) is validation and Validation.of(None) is None
    assert [step for step in range(1, 1203) if validation.due(step, 1202)] == [500, 1000, 1202]


def test_a_wrong_validation_is_refused_when_it_is_made(held_out):
    with pytest.raises(ValueError, match="validation images is empty"):
        Validation(held_out[:0])
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Validation(held_out, every=0)
    with pytest.raises(TypeError, match=r"validation images must be a uint8 .*torch\.float32"):
        Validation(held_out / 256)
    with pytest.raises(TypeError, match=r"validation images must be a uint8 .*got str"):
        Validation("photos")
    with pytest.raises(TypeError, match="images"):
        Validation(keep_best=True)  # the best by what?


def test_fit_refuses_such_images_before_it_draws_or_writes(images, tmp_path):
    flow, path = glow(**SMALL), tmp_path / "run.safetensors"
    before = weights(flow)
    for wrong, error in ((images[:0], ValueError), (images / 256, TypeError), ("all", TypeError)):
        with pytest.raises(error, match="validation images"):
            fit(flow, images, num_steps=1, validation=wrong, checkpoint=path, **FAST)
    assert equal(weights(flow), before) and not path.exists()


def test_the_score_is_that_of_the_weights_given_and_the_flows_own_come_back(images, held_out):
    flow, x = glow(**SMALL), dequantize(held_out[:20], step_generator(7, 3))
    fit(flow, images, num_steps=3, **FAST)
    before = weights(flow)
    other = {name: p.detach() * 0.9 for name, p in flow.named_parameters()}
    score = Validation(held_out[:20]).score(flow, other, Loss.of("clean"), 7, Group())
    assert equal(weights(flow), before)
    flow.load_state_dict({**before, **other})
    with torch.no_grad():
        expected = bits_per_dim(flow.log_prob(x), flow.num_dims).mean().item()
    assert math.isfinite(score) and score == pytest.approx(expected, rel=1e-6)
