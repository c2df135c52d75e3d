"""Runs whose numbers stand here: whoever changes what a step computes sees it.

The numbers were written by the loop of 28 flat options that this one replaced, on a CPU, in one
thread. Other machines round otherwise; a change of the algorithm shows in the second decimal.
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
        ("clean", MUON, True, (7.6128, 6.7119), (6.9000, 6.6619)),
        (WARM, ADAM, False, (7.6389, 7.3992), (7.3945, 7.3005)),
        (REUSE, ADAM, False, (7.9462, 7.4757), (7.5090, 7.4137)),
        (VISITS, ADAM, False, (7.8516, 7.3915), (7.4481, 7.3577)),
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
