"""The square attack: inside the ball, without gradients, and weaker than ascent where those are."""

from __future__ import annotations

import pytest
import torch
from small_attacks import seeded, warned

from flowrob.attacks import L2Ball, LinfBall, lower_likelihood, pgd, square


@pytest.mark.parametrize("ball", [LinfBall(0.05), L2Ball(0.3)])
@pytest.mark.parametrize("shape", [(4, 3, 6, 6), (4, 10)])
def test_square_stays_inside_and_rises_without_gradients(ball, shape):
    x = torch.rand(shape, generator=seeded())
    target = torch.rand(shape[1:], generator=seeded(1))

    @torch.no_grad()
    def objective(y):
        assert bool((ball.size(y.to(x) - x) <= ball.radius + 1e-6).all())
        assert bool(((y >= 0) & (y <= 1)).all())
        return (target * y).flatten(1).sum(1)

    attack = square(objective, x, ball, num_steps=150, generator=seeded())
    best = pgd(lambda y: (target * y).flatten(1).sum(1), x, ball, num_steps=50)
    share = (attack.value - attack.start_value) / (best.value - best.start_value)
    assert bool((share > 0.5).all())
    assert bool((share <= 1 + 1e-5).all())
    assert attack.history.shape == (151, len(x))
    assert bool((attack.history.diff(dim=0) >= 0).all())
    with pytest.raises(ValueError, match="generator"):
        square(objective, x, ball)


def test_square_is_weaker_than_ascent_on_a_flow(flow, x):
    ascent = lower_likelihood(flow.log_prob, x, LinfBall(0.03), num_steps=20)
    search = lower_likelihood(
        flow.log_prob, x, LinfBall(0.03), num_steps=60, using=square, against=ascent,
        generator=seeded(),
    )  # fmt: skip
    assert bool((search.value > search.start_value).all())
    assert bool((search.value < ascent.value).all())
    assert not warned(search, "beats")
