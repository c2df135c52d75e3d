"""Outcomes: an attack that failed says so, and gains that were luck or rounding are given back."""

from __future__ import annotations

import torch
from small_attacks import quiet, seeded, warned
from torch import nn

from flowrob.attacks import L2Ball, LinfBall, pgd, square


def test_a_good_attack_warns_of_nothing():
    assert pgd(quiet, torch.rand(3, 4, generator=seeded()), LinfBall(0.1)).warnings == []


def test_warning_steps_that_cannot_reach_the_boundary():
    x = torch.full((2, 3), 0.5)
    attack = pgd(quiet, x, LinfBall(0.1), num_steps=5, step_size=0.01)
    assert warned(attack, "reach only 0.05")
    assert not warned(pgd(quiet, x, LinfBall(0.1), num_steps=5, step_size=0.03), "reach only")


def test_warning_objective_still_rising():
    x = torch.full((2, 3), 0.5)
    attack = pgd(lambda y: y.sum(1).exp(), x, LinfBall(0.1), num_steps=20, step_size=0.005)
    assert warned(attack, "still rising at the end for 2 of 2")
    done = pgd(lambda y: y.sum(1).exp(), x, LinfBall(0.1), num_steps=20, step_size=0.05)
    assert not warned(done, "still rising")


def test_warning_zero_gradients_and_the_square_attack_that_sees_through_them():
    def masked(y):
        return ((y * 20).round() + 0.0 * y).flatten(1).sum(1)

    x = torch.full((3, 2, 4, 4), 0.51)
    ascent = pgd(masked, x, LinfBall(0.2))
    assert warned(ascent, "zero or non-finite gradients at some iterate of 3 of 3")
    search = square(masked, x, LinfBall(0.2), num_steps=100, generator=seeded(), against=ascent)
    assert warned(search, "beats the gradient attack on 3 of 3")
    assert bool((search.value > 32 * 13).all())


def test_warning_randomised_objective():
    generator = seeded()
    x = torch.full((3, 2), 0.5)
    attack = pgd(lambda y: y.sum(1) + torch.rand(3, generator=generator), x, LinfBall(0.1))
    assert warned(attack, "randomised objective")
    dropout = nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1), nn.Flatten(0))
    assert warned(pgd(dropout, x, LinfBall(0.1)), "randomised objective")
    assert not warned(pgd(dropout.eval(), x, LinfBall(0.1)), "randomised objective")


def test_gains_that_a_second_look_does_not_confirm_are_given_back():
    generator, x = seeded(), torch.full((64, 2), 0.5)

    def lucky(y):
        return torch.rand(64, generator=generator) - (y - 0.5).square().sum(1)

    attack = pgd(lucky, x, LinfBall(0.1), start="random", generator=seeded(1))
    assert bool((attack.value >= attack.start_value).all())
    back = (attack.x == x).all(1)
    assert 10 < int(back.sum()) < 54
    assert torch.equal(attack.value[back], attack.start_value[back])


def test_an_attack_that_gains_nothing_says_so():
    def hill(x):  # a start at the top: no step gains
        return -x.square().flatten(1).sum(1)

    start = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    attack = pgd(hill, start, L2Ball(0.1), box=None)
    assert any("nothing was gained on 1 of 2 samples" in warning for warning in attack.warnings)
    moved = pgd(hill, start[1:], L2Ball(0.1), box=None)
    assert not any("nothing was gained" in warning for warning in moved.warnings)
