"""Attacks: which small change costs, or gains, the most likelihood (sections 2.2 and 4).

=================  ==============================================================================
``likelihood``     the named attacks: lower, raise, one perturbation for all images, the linear
``images``         the same on 8-bit images, whose dequantisation noise is part of the objective
``gradient``       projected gradient ascent; ``auto_pgd`` chooses its own steps
``random_search``  the square attack, which needs no gradient
``balls``          l_inf and l_2, with the box around them
``objectives``     what is maximised; ``starts``: where from; ``outcome``: what was found
=================  ==============================================================================
"""

from flowrob.attacks.balls import Ball, L2Ball, LinfBall
from flowrob.attacks.gradient import pgd
from flowrob.attacks.images import attack_images, dequantization_noise, score_images
from flowrob.attacks.likelihood import (
    Universal,
    linear_attack,
    lower_likelihood,
    raise_likelihood,
    uniform_noise,
    universal_perturbation,
)
from flowrob.attacks.objectives import Objective
from flowrob.attacks.outcome import Attack
from flowrob.attacks.random_search import square

__all__ = [
    "Attack",
    "Ball",
    "L2Ball",
    "LinfBall",
    "Objective",
    "Universal",
    "attack_images",
    "dequantization_noise",
    "linear_attack",
    "lower_likelihood",
    "pgd",
    "raise_likelihood",
    "score_images",
    "square",
    "uniform_noise",
    "universal_perturbation",
]
