"""Runs whose numbers stand here: whoever changes what a step computes sees it.

The numbers were written by the loop of 28 flat options that this one replaced, on a CPU, in one
thread. Other machines round otherwise; a change of the algorithm shows in the second decimal.
When the photographs were split anew they were written again, by a loop that had just given the old
ones on the old crops.
"""

import pytest

from flowrob.data import load
from flowrob.flows import glow
from flowrob.training import Loss, PerImage, Pool, Update, Validation, fit

ADAM, MUON = Update(warmup_steps=5), Update("muon", learning_rate=8e-3, warmup_steps=5)
WARM = Loss.of("hybrid", attack_steps=3, eps_warmup_steps=5, attack_warmup_steps=6)
REUSE = Loss.of("adversarial", attack_steps=2, memory=PerImage())
VISITS = Loss.of("hybrid", share=0.75, random_eps=0.25, attack_steps=3, memory=Pool(4))


@pytest.mark.parametrize(
    "loss, update, keep_best, losses, scores",
    [
        ("clean", MUON, True, (7.6702, 6.6459), (6.9953, 6.7665)),
        (WARM, ADAM, False, (7.6933, 7.3398), (7.4832, 7.3933)),
        (REUSE, ADAM, False, (7.9643, 7.4181), (7.5949, 7.5033)),
        (VISITS, ADAM, False, (7.8707, 7.3959), (7.5508, 7.4539)),
    ],
    ids=["clean, muon", "hybrid, warming up", "adversarial, reused", "hybrid, in visits"],
)
def test_a_short_run_gives_the_losses_it_always_gave(loss, update, keep_best, losses, scores):
    held_out = load("photos", split="test", size=16, limit=20)
    history = fit(
        glow((3, 16, 16), num_levels=2, num_steps=2, width=16),
        load("photos", size=16, limit=200),
        loss,
        num_steps=20,
        batch_size=16,
        update=update,
        validation=Validation(held_out, every=10, keep_best=keep_best),
        seed=3,
        progress=False,
    )
    assert (history.loss[0], history.loss[-1]) == pytest.approx(losses, abs=1e-3)
    assert history.validation == [
        [10, pytest.approx(scores[0], abs=1e-3)],
        [20, pytest.approx(scores[1], abs=1e-3)],
    ]
