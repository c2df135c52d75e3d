"""Convergence: attacks that grow longer until more of them finds nothing more (section 5).

    a round that gains      in the next one Auto-PGD from a fresh start is four times as long, and
                            the kind that found most beside it is tried again, as long as before
    a round that does not   the next one tries every kind, none shorter than the longest so far
    the end                 twice in a row the mean gains less than 0.01 bits/dim per doubling and
                            no image more than 0.05, the last time with every kind of ascent, each
                            of at least 80 steps and none shorter than the longest so far
    the cap                 a search that still gains and may not grow has one last round with every
                            kind, and stays a lower bound even if that one finds nothing

A number under attack is a lower bound: it says what was found, not what there is. A model that
hides looks robust after a hundred steps and is not after a thousand, so most of the gradients go
into long ascents as long as length is what helps; many kinds and starts are what tells that nothing
is left. Where the budget ends first the row says ``>=``, with the curve of what was found against
what it cost. That short ascents find nothing proves nothing: a search that begins with what a
longer attack found ends only with a longer one.

Starts: the image, uniform noise, random corners, chequerboards, and the best point so far, which is
also that of smaller balls and of the other models of the table. Steps: long and short ones that
fall along a cosine, and Auto-PGD. Images that have settled drop out, so that a model which does not
hide costs little. So do the images of a mixture whose parts leave no room: what they have is within
0.01 bits/dim of :func:`flowrob.evaluation.mixture_bound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowrob.attacks import Objective, attack_images
from flowrob.attacks.balls import column
from flowrob.attacks.starts import check_integers
from flowrob.evaluation.robustness import Protocol
from flowrob.units import check_number


@dataclass(frozen=True)
class Budget:
    """When an attack has converged, and when it gives up.

    Attributes:
        first_steps: gradient steps of every ascent of the first round.
        max_steps: of the longest ascent. A search that still gains there ends with a round of all
            seven kinds, each that long.
        least_steps: of the ascents of a search's last round. Shorter rounds find things, but that
            they find nothing is no sign; with ``max_steps`` below, every row is a lower bound.
        mean_gain: bits/dim that the mean must gain in a round, or it is quiet; twice as much where
            the ascents are four times as long as before, for that is two doublings.
        image_gain: bits/dim that some image must gain, or the round is quiet; likewise.
        patience: so many quiet rounds in a row mean that the attack has converged.
        enough: bits/dim; an image beyond that is found out, and attacked no further, so that its
            row is a lower bound. Far above the 8 bits/dim of knowing nothing: what a density makes
            of such images is not worth hours.

    Raises:
        ValueError: a count below 1, ``max_steps`` below ``first_steps``, or a gain or ``enough``
            that is not positive.
    """

    first_steps: int = 5
    max_steps: int = 1280
    least_steps: int = 80
    mean_gain: float = 0.01
    image_gain: float = 0.05
    patience: int = 2
    enough: float = 32.0

    def __post_init__(self) -> None:
        counts = (self.first_steps, self.least_steps, self.patience)
        gains = {"mean_gain": self.mean_gain, "image_gain": self.image_gain, "enough": self.enough}
        check_number(max_steps=self.max_steps, **gains)
        for name in ("first_steps", "least_steps", "patience"):
            check_integers(1, **{name: getattr(self, name)})
        if min(counts) < 1 or self.max_steps < self.first_steps:
            raise ValueError(
                "first_steps, least_steps and patience must be at least 1 and max_steps at least "
                f"first_steps, got {', '.join(map(str, counts))}, {self.max_steps}"
            )
        if not min(self.mean_gain, self.image_gain, self.enough) > 0.0:
            raise ValueError(
                f"mean_gain, image_gain and enough must be positive, got {self.mean_gain}, "
                f"{self.image_gain}, {self.enough}"
            )

    def calm(self, gain: Tensor) -> bool:
        """Whether so little was gained, (N,) bits/dim, that a round counts as quiet."""
        return bool(gain.mean() < self.mean_gain and gain.max() < self.image_gain)

    def after(self, steps: int, gained: bool, longest: int = 0) -> int:
        """The steps of the round after one of so many, where the longest ascent had ``longest``.

        >>> Budget(max_steps=100).after(5, True), Budget(max_steps=100).after(40, True)
        (20, 100)
        >>> Budget(max_steps=100).after(5, False), Budget(max_steps=100).after(5, False, 90)
        (80, 90)
        """
        longer = 4 * steps if gained else max(steps, self.least_steps, longest)
        return min(longer, self.max_steps)


@dataclass
class Search:
    """The worst images of one ball that were found so far, and how much they cost.

    Attributes:
        bits: bits/dim of each image, (N,).
        levels: the grey levels where they were found, (N, C, H, W).
        settled: which images gained nothing any more, (N,).
        converged: whether the last rounds were quiet.
        longest: steps of the longest attack that was tried in this ball.
        cost: gradient evaluations per image so far, the mean over all images.
        curve: per round: number and steps of its ascents, cost, mean and greatest bits/dim.
    """

    bits: Tensor
    levels: Tensor
    settled: Tensor
    converged: bool = False
    longest: int = 0
    cost: float = 0.0
    curve: list[dict] = field(default_factory=list)

    @classmethod
    def begin(cls, bits: Tensor, levels: Tensor) -> Search:
        """Nothing is known but these images and what they have."""
        return cls(bits, levels, torch.zeros(len(bits), dtype=torch.bool))

    def again(self) -> Search:
        """A search of a greater ball, which holds what was found in this one."""
        return Search.begin(self.bits.clone(), self.levels.clone())

    def verdict(self) -> dict:
        """ "converged" or ">=", the steps of the longest attack, the gradient evaluations."""
        status = "converged" if self.converged else ">="
        return {"status": status, "steps": self.longest, "evaluations": round(self.cost, 1)}

    def offer(self, bits: Tensor, levels: Tensor, which: Tensor | slice = slice(None)) -> None:
        """Keep what is worse for the model; NaN, which no density has, counts as the worst."""
        old = self.bits[which]
        better = (bits > old) | (bits.isnan() & ~old.isnan())
        kept = self.levels[which]
        self.bits[which] = torch.where(better, bits, old)
        self.levels[which] = torch.where(column(better, kept), levels.to(kept), kept)


def _starts(images: Tensor, eps: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Grey levels to begin at, beside the image and uniform noise."""
    y = images.float()
    signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
    rows, columns = (torch.arange(n) for n in y.shape[-2:])
    board = ((rows[:, None] + columns[None, :]) % 2 * 2 - 1).to(y)
    turned = torch.randint(0, 2, (len(y), y.shape[1], 1, 1), generator=generator).to(y) * 2 - 1
    moved = {"corners": y + eps * signs, "chequerboard": y + eps * turned * board}
    return {name: levels.clamp(0, 255) for name, levels in moved.items()}


FRESH = "auto"  # the ascent that every round makes: it owes nothing to what was found before


def _ascents(
    images: Tensor, best: Tensor, eps: int, steps: int, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """The options of each kind of ascent."""
    made = _starts(images, eps, generator)
    short: dict[str, Any] = {"schedule": "cosine", "step_size": eps / 8}
    kinds: dict[str, dict[str, Any]] = {
        "image": {},
        "noise": {"start": "random", "schedule": "cosine", "step_size": float(eps)},
        FRESH: {"start": "random", "schedule": "auto"},
        "corners": {"start": made["corners"], **short},
        "chequerboard": {"start": made["chequerboard"], **short},
        "onward": {"start": best, **short},
        "auto, onward": {"start": best, "schedule": "auto", "step_size": eps / 2},
    }
    return {name: {"num_steps": steps, **options} for name, options in kinds.items()}


def converge(
    log_prob: Objective,
    protocol: Protocol,
    eps: int,
    search: Search,
    budget: Budget,
    ceiling: Tensor | None = None,
) -> list[str]:
    """Attack the images of one ball until the search has converged, or the budget is spent.

    Args:
        log_prob: of x in [0, 1].
        protocol: the images, the noise that scores them, the seed.
        eps: radius of the l_inf ball, in grey levels.
        search: what is known before: the clean images, or more; changed in place.
        budget: when to stop.
        ceiling: (N,) bits/dim that nothing can lift an image above, infinite where none is known:
            one that is within ``mean_gain`` of it has settled.

    Returns:
        Warnings of the attacks, each kind once.
    """
    generator, warnings = protocol.fresh(), dict[str, None]()
    gains = torch.full((budget.patience, len(search.bits)), math.inf)
    ceiling = torch.full((len(search.bits),), math.inf) if ceiling is None else ceiling.cpu()
    search.settled |= ceiling - search.bits.cpu() < budget.mean_gain
    steps, quiet, kinds, doublings = budget.first_steps, 0, None, 1.0
    last_word = False
    while True:
        found_out = search.bits.cpu() > budget.enough
        active = (~(search.settled | found_out)).nonzero().flatten()
        if not len(active):
            break
        before = search.bits.clone()
        best, said = _round(log_prob, protocol, eps, search, active, steps, kinds, generator)
        warnings |= dict.fromkeys(said)
        gain = (search.bits - before).nan_to_num(0.0, posinf=math.inf, neginf=0.0).cpu()
        gains = torch.cat((gains[1:], gain[None]))
        quiet = quiet + 1 if budget.calm(gain / doublings) else 0
        long_enough = steps >= max(budget.least_steps, search.longest)
        if kinds is None and long_enough and not last_word:
            search.settled |= (gains < budget.mean_gain).all(0)  # else its silence proves nothing
            search.settled[:] |= quiet >= budget.patience
        search.settled |= ceiling - search.bits.cpu() < budget.mean_gain
        search.longest = max(search.longest, steps)
        at_the_cap = steps == budget.max_steps
        if last_word or (at_the_cap and kinds is None and not 0 < quiet < budget.patience):
            break
        last_word = at_the_cap and not quiet
        previous, steps = steps, budget.after(steps, quiet == 0, search.longest)
        kinds = None if quiet or at_the_cap else {FRESH: steps, best: previous}
        doublings = 1.0 if quiet else max(1.0, math.log2(steps / previous))
    given_up = search.bits.cpu() > budget.enough  # found out, and attacked no further
    search.converged = bool((search.settled & ~given_up).all())
    return list(warnings)


def _round(
    log_prob: Objective,
    protocol: Protocol,
    eps: int,
    search: Search,
    active: Tensor,
    steps: int,
    kinds: dict[str, int] | None,
    generator: torch.Generator,
) -> tuple[str, list[str]]:
    """Ascents of each kind with so many steps, or of all; the best but the fresh; warnings."""
    part, warnings = protocol.rows(active), list[str]()
    worst: dict[str, Tensor] = {}
    ascents = _ascents(part.images, search.levels[active], eps, steps, generator)
    for kind in ascents if kinds is None else kinds:
        options = ascents[kind] if kinds is None else ascents[kind] | {"num_steps": kinds[kind]}
        found = attack_images(
            log_prob,
            part.images,
            eps,
            batch_size=protocol.batch_size,
            generator=generator,
            **options,
        )
        worst[kind] = part.bits(log_prob, found.x)
        search.offer(worst[kind], found.x, active)
        search.cost += options["num_steps"] * len(active) / len(search.bits)
        warnings += [w for w in found.warnings if "nothing was gained" not in w]
    search.curve.append(
        {
            "ascents": len(worst),
            "steps": steps,
            "evaluations": round(search.cost, 1),
            "mean": search.bits.mean().item(),
            "greatest": search.bits.max().item(),
        }
    )
    others = [kind for kind in worst if kind != FRESH]
    won = torch.stack([worst[kind] for kind in others]).nan_to_num(math.inf).argmax(0)
    return others[int(won.mode().values)], warnings
