"""The numbers the paper prints, each with the place where it prints them.

Source of all: Pope, Balaji, Feizi, "Adversarial Robustness of Flow-Based Generative Models",
AISTATS 2020. Negative log-likelihoods are in bits/dim, eps in grey levels. Only numbers checked
against the paper are here; a table of which no entry is known to us is absent, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One printed row: mean NLL in bits/dim at each eps.

    Attributes:
        model: which model.
        data: on which data.
        training: clean, adversarial or hybrid.
        eps: grey levels.
        nll: bits/dim, mean over images, one per eps.
        source: where the paper prints it.
    """

    model: str
    data: str
    training: str
    eps: tuple[int, ...]
    nll: tuple[float, ...]
    source: str


EPS = (0, 1, 2, 4, 8)

TABLE_1 = (
    Row("Glow", "CIFAR-10", "clean", EPS, (3.4, 6.3, 14.0, 320.0, 2.0e6), "Table 1"),
    Row("Glow", "CIFAR-10", "adversarial", EPS, (4.7, 4.9, 5.0, 5.3, 5.8), "Table 1"),
    Row("Glow", "CIFAR-10", "hybrid", EPS, (3.6, 4.7, 5.0, 5.3, 5.9), "Table 1"),
)

# Figures 4 and 5 print single values that no normalised density in bits/dim can have as a mean
# (see evaluation.gibbs_floor); Table 1 has no such value.
FIGURE_UNIFORM_NOISE_EPS_8 = 3.2
FIGURE_PURE_NOISE = 5.8


def table_1(training: str) -> Row:
    """The row of Table 1 for ``training``: clean, adversarial or hybrid.

    >>> table_1("clean").nll[0]
    3.4
    """
    for row in TABLE_1:
        if row.training == training:
            return row
    raise ValueError(
        f"training must be one of {[row.training for row in TABLE_1]}, got {training!r}"
    )
