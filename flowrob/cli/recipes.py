"""Recipes: what ``flowrob train`` knows by name, and which of them make up each table.

The models of a robust row start from one base, trained clean, and go on for the same number of
steps: clean, adversarial and hybrid. From the clean one others go on for some steps more: hybrid by
the paper's own recipe, and the parts of the ladder, the mixture of adversarial models at eps 0, 1,
2, 4 and 8, between its first, the clean model, and its last, the adversarial one.

Each recipe says which images (of a set: a split and a range of it, for each use), which builder of
:mod:`flowrob.flows` with which arguments, what :func:`flowrob.training.fit` is told, and, as
``start``, the recipe whose weights it goes on from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace

import torch
from torch import Tensor

from flowrob import data, flows
from flowrob.evaluation import Budget, schedules
from flowrob.training import Fresh, Guard, Loss, PerImage, Pool, Update

#: Models are trained on "train", chosen by "tune" where there is one, and reported on "report".
USES = ("train", "tune", "report")
Part = tuple[str | None, tuple[int, int] | None]  # a split, and a range [first, last) or all of it


@dataclass(frozen=True)
class Images:
    """Which images a model is trained, tuned and reported on.

    Attributes:
        data: a set's name, or a path, as :func:`flowrob.data.load` takes it.
        train: a split and a range of it.
        tune: the same, or None if nothing is tuned.
        report: the same.
        download: fetch the set if it is not here.
    """

    data: str
    train: Part
    tune: Part | None
    report: Part
    download: bool = False

    def elsewhere(
        self, data_: str | None, download: bool, ranges: Mapping[str, tuple[int, int] | None]
    ) -> Images:
        """The same uses of other images: a set, folder or file, or other ranges.

        Raises:
            ValueError: no such path, or a path, which has no splits, and no range for one of the
                uses.
        """
        new = replace(self, data=self.data if data_ is None else data_, download=download)
        has_splits = new.data in data.SPLITS
        for use, given in ranges.items():
            if not (part := getattr(self, use)) and not given:
                continue
            split, limits = part or self.train
            if not has_splits and not (given or limits):
                if not os.path.exists(new.data):
                    known = ", ".join(data.SPLITS)
                    raise ValueError(f"--data {new.data!r}: neither {known}, nor a path")
                raise ValueError(
                    f"{new.data} has no splits: say which images to {use} on, --{use} A:B"
                )
            new = replace(new, **{use: (split if has_splits else None, given or limits)})
        return new

    def load(self, use: str, flow: flows.Flow, limit: int | None = None) -> Tensor:
        """The images for "train", "tune" or "report", in the size of the flow."""
        split, limits = getattr(self, use)
        if len(flow.event_shape) != 3:
            raise ValueError(f"a model of images is needed, this one has shape {flow.event_shape}")
        channels, size, _ = flow.event_shape
        return data.load(
            self.data,
            split=split,
            size=size,
            channels=channels,
            indices=None if limits is None else slice(*limits),
            limit=limit,
            download=self.download,
        )

    def groups(self, use: str, flow: flows.Flow, limit: int | None = None) -> Tensor | None:
        """Which of those images overlap, for an interval that knows it; None: none do."""
        split, limits = getattr(self, use)
        if self.data != "photos" or split == "train":
            return None
        tiles = data.photo_tiles(split, flow.event_shape[1])
        return tiles[slice(*limits) if limits else slice(None)][:limit]

    def describe(self, use: str) -> str | None:
        """Which images those are, in words."""
        if (part := getattr(self, use)) is None:
            return None
        split, limits = part
        which = "all" if limits is None else f"{limits[0]}..{limits[1] - 1}"
        return f"{os.path.basename(self.data)}, {split or 'images'} {which}"


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Attributes:
        images: what it is trained, tuned and reported on.
        model: builder in :mod:`flowrob.flows`, and its arguments.
        loss: whom training attacks.
        num_steps: optimiser steps.
        update: how a step changes the weights.
        batch_size: images per step.
        flips: whether images are mirrored at random.
        validate_every: steps between validations on the tuning images.
        keep_best: whether to end with the weights that validated best.
        checkpoint_every: steps between checkpoints.
        guard: when to stop a run that explodes.
        start: the recipe whose weights it goes on from, or None.
    """

    images: Images
    model: tuple[str, dict]
    num_steps: int
    loss: Loss = field(default_factory=lambda: Loss.of("clean"))
    update: Update = Update()  # noqa: RUF009 (frozen, as the guard is)
    batch_size: int = 64
    flips: bool = True
    validate_every: int = 500
    keep_best: bool = False
    checkpoint_every: int = 200
    guard: Guard = Guard()  # noqa: RUF009
    start: str | None = None

    def build(self, generator: torch.Generator | None = None) -> flows.Flow:
        """The untrained flow; the generator draws its first weights (default: seed 0)."""
        builder, options = self.model
        return getattr(flows, builder)(**options, generator=generator)

    def settings(self) -> dict:
        """What training is told, defaults included: one number or word per option."""
        memory = self.loss.memory
        own = {name: getattr(self, name) for name in OPTIONS if OPTIONS[name] == "recipe"}
        attack = {k: v for k, v in asdict(self.loss).items() if k != "memory"}
        attack |= {"memory": MEMORIES[type(memory)], "visits": getattr(memory, "visits", 1)}
        attack = attack if self.loss.share else {"share": 0.0}
        return {
            "loss": self.loss.name,
            **own,
            **attack,
            **asdict(self.update),
            **asdict(self.guard),
        }

    def changed(self, settings: Iterable[tuple[str, object]]) -> Recipe:
        """The recipe with other values of :data:`OPTIONS`; attacks are none of a clean recipe.

        Raises:
            ValueError: a value that the option does not take.
        """
        recipe = self
        for name, value in sorted(settings, key=lambda pair: pair[0] != "loss"):  # the loss first
            of = OPTIONS[name]
            if of == "recipe":
                recipe = replace(recipe, **{name: value})
            elif of != "loss":
                recipe = replace(recipe, **{of: replace(getattr(recipe, of), **{name: value})})
            elif name == "loss":
                recipe = replace(recipe, loss=Loss.of(value))
            elif recipe.loss.share:
                recipe = replace(recipe, loss=_attack(recipe.loss, name, value))
            else:
                _attack(Loss.of("hybrid"), name, value)  # ignored, but not if it is wrong
        return recipe


def _attack(loss: Loss, name: str, value: object) -> Loss:
    if name == "visits":
        return replace(loss, memory=Pool(value))
    if name == "memory":
        kinds = {kind: make for make, kind in MEMORIES.items()}
        if not isinstance(value, str) or value not in kinds:
            raise ValueError(f"memory must be one of {[*kinds]}, got {value!r}")
        if type(loss.memory) is kinds[value]:
            return loss  # with its visits, whichever was said first
        return replace(loss, memory=kinds[value]())
    if name == "share":
        Loss.of(loss.name, share=value)  # refuses one that the name contradicts
    return replace(loss, **{name: value})


MEMORIES = {Fresh: "fresh", PerImage: "per-image", Pool: "pool"}

#: What --set may change -> the part of a recipe that it belongs to.
OPTIONS: dict[str, str] = {
    **dict.fromkeys(("num_steps", "batch_size", "flips"), "recipe"),
    **dict.fromkeys(("validate_every", "keep_best", "checkpoint_every"), "recipe"),
    **dict.fromkeys(("loss", *(f.name for f in fields(Loss)), "visits"), "loss"),
    **{f.name: "update" for f in fields(Update)},
    **{f.name: "guard" for f in fields(Guard)},
}

PHOTOS = Images("photos", ("train", None), ("valid", None), ("test", None))
# 3400..3599 of CIFAR-10, and 9250..9499 of CelebA, were looked at while the recipes were chosen
CIFAR10 = Images("cifar10", ("train", (0, 3200)), ("train", (3200, 3400)), ("train", (3600, 3800)))
CELEBA = Images("celeba", ("train", (0, 9000)), ("train", (9000, 9250)), ("train", (9500, 9750)))
WHOLE_CIFAR10 = Images("cifar10", ("train", (0, 48000)), ("train", (48000, 50000)), ("test", None))
WHOLE_CELEBA = Images("celeba", ("train", None), ("valid", (0, 2000)), ("test", (0, 10000)))
LSUN = Images(
    "lsun_bedroom", ("train", (0, 100_000)), ("train", (100_000, 102_000)), ("test", None)
)

GLOW, REALNVP = ("glow", {}), ("realnvp", {})
# No bound on the scales of couplings and priors, as Kingma and Dhariwal have it
UNBOUNDED = ("glow", {"min_scale": 0.0, "published_prior": True})
TINY = ("glow", {"image_shape": (3, 16, 16), "num_levels": 2, "num_steps": 4, "width": 32})
PUBLISHED = {name: (build.__name__, how) for name, (build, how) in flows.PUBLISHED.items()}

CHOSEN = {"keep_best": True, "validate_every": 250}
SMALL = CHOSEN | {"batch_size": 32}
WIDE = (0, 1, 2, 4, 8, 16, 32)  # of the paper's Table 2
MUON = Update("muon", learning_rate=8e-3)
# An adversarial model is robust after short attacks. A hybrid one, which may tell clean images from
# attacked ones, learns to hide from those: its attacks last for many visits. These do not cure it:
# attacks that are longer still reach further (docs/benchmarks.md).
ROBUST = {
    "adversarial": Loss.of("adversarial", attack_steps=4, memory=PerImage()),
    "hybrid": Loss.of("hybrid", share=0.75, random_eps=0.25, attack_steps=8, memory=Pool(20)),
}
# Loss's defaults are the paper's: eps 8, 10 fresh steps, one half attacked
FRESH = {"hybrid-fresh": Loss.of("hybrid")}
#: Radii of a ladder's parts between its first, the clean model, and its last, the adversarial one.
RUNGS = (1, 2, 4)
LADDER = {
    f"eps{eps}": Loss.of("adversarial", eps=eps, attack_steps=2, memory=PerImage()) for eps in RUNGS
}
FURTHER = FRESH | LADDER
PAPER_ROBUST = {"adversarial": Loss.of("adversarial"), "hybrid": Loss.of("hybrid", random_eps=0.5)}


def _row(
    name: str,
    base: Recipe,
    more_steps: int,
    robust: Mapping[str, Loss] = ROBUST,
    warmup_steps: int = 200,
    further_steps: int = 0,
) -> dict[str, Recipe]:
    """A base trained clean, the models that go on from it, and those that go on from the clean one.

    Adversarial ones begin with ``warmup_steps`` of rising eps, those that go on from the clean one,
    none if ``further_steps`` is 0, with a quarter of theirs.
    """
    slower = replace(base.update, learning_rate=0.6 * base.update.learning_rate)
    then = replace(base, num_steps=more_steps, update=slower, start=f"{name}-base")
    last = replace(then, num_steps=further_steps, start=f"{name}-clean")
    further = FURTHER if further_steps else {}

    def attacked(recipe: Recipe, losses: Mapping[str, Loss], warmup_steps: int) -> dict:
        return {
            f"{name}-{loss}": replace(recipe, loss=replace(how, eps_warmup_steps=warmup_steps))
            for loss, how in losses.items()
        }

    return {
        f"{name}-base": base,
        f"{name}-clean": then,
        **attacked(then, robust, warmup_steps),
        **attacked(last, further, further_steps // 4),
    }


def _paper(images: Images, model: str, num_steps: int) -> Recipe:
    """Glow's and RealNVP's published sizes, whole data sets, Adam's default rate: GPU days."""
    slow = {"validate_every": 2500, "keep_best": True, "checkpoint_every": 500}
    return Recipe(images, PUBLISHED[model], num_steps, update=Update(warmup_steps=1000), **slow)


def _paper_row(name: str, images: Images, model: str) -> dict[str, Recipe]:
    return _row(name, _paper(images, model, 75_000), 25_000, PAPER_ROBUST, 1000)


#: What ``train`` knows by name.
RECIPES: dict[str, Recipe] = {
    **_row(
        "glow-cifar10", Recipe(CIFAR10, GLOW, 2500, update=MUON, **CHOSEN), 1600, further_steps=400
    ),
    **_row(
        "glow-celeba", Recipe(CELEBA, GLOW, 1200, update=MUON, **CHOSEN), 600, further_steps=300
    ),
    **_row(
        "glow-photos",
        Recipe(PHOTOS, GLOW, 1000, update=MUON, **SMALL),
        400,
        warmup_steps=100,
        further_steps=200,
    ),
    **_row(
        "glow-cifar10-published", Recipe(CIFAR10, UNBOUNDED, 2500, update=MUON, **CHOSEN), 1600, {}
    ),
    **_row("glow-photos-published", Recipe(PHOTOS, UNBOUNDED, 1000, update=MUON, **SMALL), 400, {}),
    "realnvp-photos-clean": Recipe(
        PHOTOS, REALNVP, 1000, update=replace(MUON, learning_rate=4e-3), **SMALL
    ),
    "realnvp-celeba-clean": Recipe(
        CELEBA, REALNVP, 1500, update=replace(MUON, learning_rate=4e-3), **CHOSEN
    ),
    # 16x16: minutes, on any machine; nothing is tuned
    **_row(
        "tiny",
        Recipe(replace(PHOTOS, tune=None), TINY, 200, update=MUON),
        200,
        warmup_steps=50,
        further_steps=100,
    ),
    **_paper_row("paper-glow-cifar10", WHOLE_CIFAR10, "glow-cifar10"),
    **_paper_row("paper-glow-celeba", WHOLE_CELEBA, "glow-64"),
    **_paper_row("paper-glow-lsun", LSUN, "glow-64"),
    "paper-realnvp-celeba-clean": _paper(WHOLE_CELEBA, "realnvp-64", 100_000),
    "paper-realnvp-lsun-clean": _paper(LSUN, "realnvp-64", 100_000),
}


def rungs(name: str) -> dict[str, str]:
    """The parts of a row's ladder: label -> recipe, from eps 0, the clean model, to eps 8."""
    between = {f"eps {eps}": f"{name}-eps{eps}" for eps in RUNGS}
    return {"eps 0": f"{name}-clean", **between, "eps 8": f"{name}-adversarial"}


#: What ``train`` knows beside the recipes: mixtures of models of one row, by the same name.
LADDERS: dict[str, dict[str, str]] = {
    f"{name}-ladder": rungs(name) for name in ("glow-cifar10", "glow-celeba", "glow-photos", "tiny")
}


@dataclass(frozen=True)
class Plan:
    """A table: the models in it, and how they are attacked.

    Attributes:
        title: what it shows.
        models: label in the table -> recipe.
        baselines: whether "clean", "adversarial" and the others are one robust row, held against
            its rivals on the same images; else each is attacked by itself, on its own images.
        ladder: the labels of the models whose mixture is attacked beside them, in order; none for
            no ladder.
        eps: grey levels.
        steps: iterations of projected gradient ascent, one row for each.
        auto: iterations of Auto-PGD from a random start, which attacks as well; True: as many as
            the longest of those; False: it does not.
        budget: of the search that goes on from there until it has converged; None: no search.
        noise: whether to add a row of uniform noise.
        num_images: reporting images that are attacked unless another number is asked for; None:
            all of them.
    """

    title: str
    models: dict[str, str]
    baselines: bool
    ladder: tuple[str, ...] = ()
    eps: tuple[int, ...] = (0, 1, 2, 4, 8)
    steps: tuple[int, ...] = (20, 100)
    auto: bool | int = True
    budget: Budget | None = None
    noise: bool = False
    num_images: int | None = None

    @property
    def attacks(self) -> dict[str, dict]:
        """By name, options of :func:`flowrob.attacks.attack_images`."""
        return schedules(self.steps, self.auto)

    def among(self, names: Iterable[str]) -> Plan:
        """The plan of those of its models whose recipes are among these names."""
        names = {*names}
        return replace(self, models={k: v for k, v in self.models.items() if v in names})

    def searching(self, max_steps: int) -> Plan:
        """The plan with ascents of at most so many steps in its search; 0: without a search.

        Raises:
            ValueError: a negative number.
        """
        if not max_steps:
            return replace(self, budget=None)
        budget = self.budget or Budget()
        first = min(budget.first_steps, max(max_steps, 1))
        return replace(self, budget=replace(budget, first_steps=first, max_steps=max_steps))


PUBLISHED_CLEAN = "clean (published)"  # no bound on the scales of its couplings and priors
FRESH_HYBRID = "hybrid (1:1, fresh)"  # the paper's own recipe


def _robust(title: str, name: str, eps: tuple[int, ...] = (0, 1, 2, 4, 8)) -> Plan:
    """A robust row whose attacks converge: all that goes on from one base, and the ladder.

    Few images and short searches, so that a table makes itself from nothing in hours.
    """
    labels = {PUBLISHED_CLEAN: f"{name}-published-clean", "clean": f"{name}-clean"}
    labels |= {loss: f"{name}-{loss}" for loss in ("adversarial", "hybrid")}
    labels |= {FRESH_HYBRID: f"{name}-hybrid-fresh"}
    labels |= {f"eps {eps}": f"{name}-eps{eps}" for eps in RUNGS}
    models = {label: recipe for label, recipe in labels.items() if recipe in RECIPES}
    ladder = ("clean", *(f"eps {eps}" for eps in RUNGS), "adversarial")
    return Plan(
        title,
        models,
        baselines=True,
        ladder=ladder,
        eps=eps,
        steps=(20,),
        auto=100,
        budget=Budget(25, 100, enough=12.0),
        num_images=8,
    )


def _at_scale(title: str, name: str) -> Plan:
    """The same at the paper's size, where a search would take weeks: attacks of fixed length."""
    models = {loss: f"{name}-{loss}" for loss in ("clean", "adversarial", "hybrid")}
    return Plan(title, models, baselines=True)


def _iterations(*names: str, num_images: int | None = None) -> Plan:
    title, models = "Table 3: RealNVP, over attack iterations", {name: name for name in names}
    how = {"steps": (10, 20, 50), "auto": False, "noise": True, "num_images": num_images}
    return Plan(title, models, baselines=False, eps=(0, 8), **how)


#: (which table, at which scale) -> its plan.
TABLES: dict[tuple[str, str], Plan] = {
    ("1", "laptop"): _robust("Table 1: Glow on CIFAR-10", "glow-cifar10"),
    ("1", "paper"): _at_scale("Table 1: Glow on CIFAR-10", "paper-glow-cifar10"),
    ("2", "laptop"): _robust("Beside Table 2: Glow on CelebA", "glow-celeba", WIDE),
    ("2", "paper"): _at_scale("Table 2: Glow on LSUN Bedroom", "paper-glow-lsun"),
    ("3", "laptop"): _iterations("realnvp-celeba-clean", "realnvp-photos-clean", num_images=64),
    ("3", "paper"): _iterations("paper-realnvp-celeba-clean", "paper-realnvp-lsun-clean"),
    ("tiny", "laptop"): _robust("Glow on 16x16 photographs", "tiny"),
    ("photos", "laptop"): _robust("Glow on photographs", "glow-photos"),
}
