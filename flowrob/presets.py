"""Presets: what ``python -m flowrob train`` knows by name, and which of them make up each table.

A robust row of a table has three models. All start from one base, trained clean, and go on for the
same number of steps: clean, adversarial and hybrid. What tells them apart is their loss alone.

Each preset says which images (of a set: a split and a range of it, for each use), which builder of
:mod:`flowrob.flows` with which arguments, which arguments of :func:`flowrob.training.fit`, and, as
``start``, the preset whose weights it goes on from.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowrob import flows
from flowrob.ensemble import schedules

# For each use a split and a range [first, last) of it (None: all of it). Models are trained on
# "train", chosen by "tune" where there is one, and reported on "report".
USES = ("train", "tune", "report")
PHOTOS = {"data": "photos", "train": ("train", None), "tune": None, "report": ("test", None)}
CIFAR10 = {
    "data": "cifar10",
    "train": ("train", (0, 3200)),
    "tune": ("train", (3200, 3400)),
    "report": ("train", (3400, 3600)),
}
CELEBA = {
    "data": "celeba",
    "train": ("train", (0, 9000)),
    "tune": ("train", (9000, 9250)),
    "report": ("train", (9250, 9500)),
}
WHOLE_CIFAR10 = {
    "data": "cifar10",
    "train": ("train", (0, 48000)),
    "tune": ("train", (48000, 50000)),
    "report": ("test", None),
}
WHOLE_CELEBA = {
    "data": "celeba",
    "train": ("train", None),
    "tune": ("valid", (0, 2000)),
    "report": ("test", (0, 10000)),
}
LSUN = {
    "data": "lsun_bedroom",
    "train": ("train", (0, 100_000)),
    "tune": ("train", (100_000, 102_000)),
    "report": ("test", None),
}

GLOW, REALNVP = ("glow", {}), ("realnvp", {})
TINY = ("glow", {"image_shape": (3, 16, 16), "num_levels": 2, "num_steps": 4, "width": 32})

CHOSEN = {"keep_best": True, "validate_every": 250}
MUON = {"optimizer": "muon", "learning_rate": 8e-3}
# What the models of a row that are attacked while they train add to the clean one's arguments. An
# adversarial model is robust after short attacks. A hybrid one, which may tell clean images from
# attacked ones, learns to hide from those: it needs the long ones, in many visits. These do not
# cure it: attacks that are longer still reach further (docs/benchmarks.md).
ROBUST = {
    "adversarial": {"attack_steps": 4, "reuse_perturbations": True},
    "hybrid": {
        "adversarial_share": 0.75,
        "random_eps": 0.25,
        "attack_steps": 8,
        "attack_visits": 20,
    },
}
AS_PUBLISHED = {"validate_every": 2500, "keep_best": True, "checkpoint_every": 500}


def _row(
    name: str,
    images: dict,
    model: tuple[str, dict],
    steps: tuple[int, int],
    robust: dict[str, dict],
    eps_warmup_steps: int = 200,
    **fit,
) -> dict[str, dict]:
    """A base trained clean, and the three models that go on from it."""
    first, then = ({**fit, "num_steps": n} for n in steps)
    then["learning_rate"] = 0.6 * fit.get("learning_rate", 1e-3)  # they start from what is good
    losses = {"clean": {}} | {
        loss: {"loss": loss, "eps_warmup_steps": eps_warmup_steps, **options}
        for loss, options in robust.items()
    }
    start = {"start": f"{name}-base"}
    return {f"{name}-base": {**images, "model": model, "fit": first}} | {
        f"{name}-{loss}": {**images, "model": model, "fit": {**then, **options}, **start}
        for loss, options in losses.items()
    }


PUBLISHED = {name: (build.__name__, how) for name, (build, how) in flows.PRESETS.items()}
PAPER_STEPS = {"warmup_steps": 1000, **AS_PUBLISHED}  # with Adam, at its default rate
# fit's defaults are the paper's: eps 8, 10 steps, one half attacked
PAPER_ROBUST = {"adversarial": {}, "hybrid": {"random_eps": 0.5}}

#: What ``train`` knows by name: images, (builder, its arguments), arguments of ``fit``, start.
PRESETS: dict[str, dict] = {
    **_row("glow-cifar10", CIFAR10, GLOW, (2500, 1600), ROBUST, **MUON, **CHOSEN),
    **_row("glow-celeba", CELEBA, GLOW, (1200, 600), ROBUST, **MUON, **CHOSEN),
    **_row("glow-photos", PHOTOS, GLOW, (1500, 800), ROBUST, **MUON),
    # Adam, and three times as many steps as the base above has: less likely data, more fragile
    "glow-photos-adam": {**PHOTOS, "model": GLOW, "fit": {"num_steps": 4500}},
    "realnvp-photos-clean": {**PHOTOS, "model": REALNVP, "fit": {"num_steps": 4000}},
    "realnvp-celeba-clean": {
        **CELEBA,
        "model": REALNVP,
        "fit": {"num_steps": 1500, **MUON, "learning_rate": 4e-3, **CHOSEN},
    },
    # 16x16: minutes, on any machine
    **_row("tiny", PHOTOS, TINY, (200, 200), ROBUST, 50, **MUON),
    # The paper's sizes, on whole data sets: days on a GPU
    **_row(
        "paper-glow-cifar10",
        WHOLE_CIFAR10,
        PUBLISHED["glow-cifar10"],
        (75_000, 25_000),
        PAPER_ROBUST,
        1000,
        **PAPER_STEPS,
    ),
    **_row(
        "paper-glow-celeba",
        WHOLE_CELEBA,
        PUBLISHED["glow-64"],
        (75_000, 25_000),
        PAPER_ROBUST,
        1000,
        **PAPER_STEPS,
    ),
    **_row(
        "paper-glow-lsun",
        LSUN,
        PUBLISHED["glow-64"],
        (75_000, 25_000),
        PAPER_ROBUST,
        1000,
        **PAPER_STEPS,
    ),
    "paper-realnvp-celeba-clean": {
        **WHOLE_CELEBA,
        "model": PUBLISHED["realnvp-64"],
        "fit": {"num_steps": 100_000, **PAPER_STEPS},
    },
    "paper-realnvp-lsun-clean": {
        **LSUN,
        "model": PUBLISHED["realnvp-64"],
        "fit": {"num_steps": 100_000, **PAPER_STEPS},
    },
}


@dataclass(frozen=True)
class Plan:
    """A table: the models in it, and how they are attacked.

    Attributes:
        title: what it shows.
        models: presets, in the order of the rows. Those of a robust row (clean, adversarial,
            hybrid) are held against their baselines; of a single model per data set, none.
        eps: grey levels.
        steps: iterations of projected gradient ascent, one row for each.
        auto: whether to attack by Auto-PGD from a random start as well, in as many iterations as
            the longest of those.
    """

    title: str
    models: tuple[str, ...]
    eps: tuple[int, ...] = (0, 1, 2, 4, 8)
    steps: tuple[int, ...] = (20, 100)
    auto: bool = True

    @property
    def attacks(self) -> dict[str, dict]:
        """By name, options of :func:`flowrob.pixels.attack_images`."""
        return schedules(self.steps, self.auto)

    @property
    def robust(self) -> bool:
        return len(self.models) == 3


def _trio(name: str) -> tuple[str, ...]:
    return tuple(f"{name}-{loss}" for loss in ("clean", "adversarial", "hybrid"))


#: (which table, at which scale) -> its plan.
TABLES: dict[tuple[str, str], Plan] = {
    ("1", "laptop"): Plan("Table 1: Glow on CIFAR-10", _trio("glow-cifar10")),
    ("1", "paper"): Plan("Table 1: Glow on CIFAR-10", _trio("paper-glow-cifar10")),
    ("2", "laptop"): Plan("Beside Table 2: Glow on CelebA", _trio("glow-celeba"), steps=(20, 50)),
    ("2", "paper"): Plan("Table 2: Glow on LSUN Bedroom", _trio("paper-glow-lsun")),
    ("3", "laptop"): Plan(
        "Table 3: RealNVP, over attack iterations",
        ("realnvp-celeba-clean", "realnvp-photos-clean"),
        eps=(0, 8),
        steps=(10, 20, 50),
        auto=False,
    ),
    ("3", "paper"): Plan(
        "Table 3: RealNVP, over attack iterations",
        ("paper-realnvp-celeba-clean", "paper-realnvp-lsun-clean"),
        eps=(0, 8),
        steps=(10, 20, 50),
        auto=False,
    ),
    ("tiny", "laptop"): Plan("Glow on 16x16 photographs", _trio("tiny"), steps=(20, 50)),
    ("photos", "laptop"): Plan("Glow on photographs", _trio("glow-photos"), steps=(20, 50)),
}
