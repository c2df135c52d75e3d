"""The numbers the paper prints, each with the place where it prints them.

Source of all: Pope, Balaji, Feizi, "Adversarial Robustness of Flow-Based Generative Models",
AISTATS 2020. Negative log-likelihoods are said to be in bits/dim ("in the units of bits per
dimension", section 5), eps counts grey levels. Tables hold means over images; Figures 1, 4 and 5
label single images.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowrob._checks import checked


@dataclass(frozen=True)
class Row:
    """One printed row, or column, of Tables 1 and 2: mean NLL in bits/dim at each eps.

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
WIDE_EPS = (*EPS, 16, 32)

#: Of training, section 5: "Adversarial and hybrid models were trained with eps = 8 and m = 10".
TRAINING_EPS, TRAINING_ATTACK_STEPS = 8, 10

TABLE_1 = (
    Row("Glow", "CIFAR-10", "clean", EPS, (3.4, 6.3, 14.0, 320.0, 2.0e6), "Table 1"),
    Row("Glow", "CIFAR-10", "adversarial", EPS, (4.7, 4.9, 5.0, 5.3, 5.8), "Table 1"),
    Row("Glow", "CIFAR-10", "hybrid", EPS, (3.6, 4.7, 5.0, 5.3, 5.9), "Table 1"),
)

_LSUN = "LSUN Bedroom"
TABLE_2 = (
    Row("Glow", _LSUN, "clean", WIDE_EPS, (2.4, 5.5, 8.5, 15.2, 27.0, 35.8, 36.4), "Table 2"),
    Row("Glow", _LSUN, "adversarial", WIDE_EPS, (4.4, 4.5, 4.7, 5.0, 5.5, 6.6, 7.7), "Table 2"),
    Row("Glow", _LSUN, "hybrid", WIDE_EPS, (2.9, 4.7, 4.6, 5.0, 5.6, 6.6, 8.1), "Table 2"),
)


@dataclass(frozen=True)
class Iterations:
    """One column of Table 3: mean NLL in bits/dim over the iterations of the attack.

    Attributes:
        model: which model, trained clean.
        data: on which data.
        eps: of all attacks, and of the noise, in grey levels.
        iterations: of the attack; 0 is none.
        nll: bits/dim, mean over images, one per number of iterations.
        noise: the same under uniform noise.
        source: where the paper prints it.
    """

    model: str
    data: str
    eps: int
    iterations: tuple[int, ...]
    nll: tuple[float, ...]
    noise: float
    source: str


_ITERATIONS = (0, 10, 20, 50)
TABLE_3 = (
    Iterations("RealNVP", "CelebA", 8, _ITERATIONS, (2.9, 14.3, 17.9, 24.9), 5.8, "Table 3"),
    Iterations("RealNVP", _LSUN, 8, _ITERATIONS, (2.7, 10.9, 14.4, 19.8), 4.8, "Table 3"),
)


@dataclass(frozen=True)
class Figure:
    """The labels of Figure 4 or 5: the NLL of one image per eps, eps = 0 for "Normal".

    Attributes:
        model: which model, trained clean.
        data: on which data.
        eps: grey levels.
        attacked: of an image of the data under the in-distribution attack.
        noise: of one under uniform noise.
        raised: of a uniform noise image under the out-of-distribution attack.
        source: where the paper prints it.
    """

    model: str
    data: str
    eps: tuple[int, ...]
    attacked: tuple[float, ...]
    noise: tuple[float, ...]
    raised: tuple[float, ...]
    source: str


FIGURE_4 = Figure(
    "Glow",
    "CIFAR-10",
    EPS,
    (1.7, 2.8, 4.9, 17.3, 958.2),
    (1.4, 1.9, 2.2, 2.6, 3.2),
    (17.7, 11.5, 10.1, 8.6, 6.8),
    "Figure 4",
)
FIGURE_5 = Figure(
    "Glow",
    _LSUN,
    WIDE_EPS,
    (1.1, 2.6, 3.9, 7.0, 12.2, 16.5, 16.9),
    (1.1, 1.9, 2.3, 2.6, 2.9, 3.3, 4.0),
    (5.8, 5.6, 5.3, 4.9, 4.5, 4.1, 3.8),
    "Figure 5",
)

#: Figure 1's caption: a frog clean and attacked at eps 8, and a noise image after its attack.
FIGURE_1 = {"frog": 1.6, "frog attacked, eps 8": 150.0, "noise raised": 4.2}

# Single values that no normalised density in bits/dim can have as a mean (see
# evaluation.gibbs_floor); the Tables have no such value.
FIGURE_UNIFORM_NOISE_EPS_8 = FIGURE_4.noise[-1]
FIGURE_PURE_NOISE = FIGURE_5.raised[0]


@checked
def table_1(training: str) -> Row:
    """The row of Table 1 for ``training``: clean, adversarial or hybrid.

    >>> table_1("clean").nll[0]
    3.4
    """
    return _row(TABLE_1, training)


@checked
def table_2(training: str) -> Row:
    """The row of Table 2 for ``training``: clean, adversarial or hybrid.

    >>> table_2("hybrid").nll[-1]
    8.1
    """
    return _row(TABLE_2, training)


def _row(table: tuple[Row, ...], training: str) -> Row:
    for row in table:
        if row.training == training:
            return row
    raise ValueError(f"training must be one of {[row.training for row in table]}, got {training!r}")
