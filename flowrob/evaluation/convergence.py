"""Convergence: attacks whose budget doubles until more of it finds nothing more (section 5).

    n, 2 n, 4 n, ... steps, each from several starts;  stop once the mean gains less than 0.01
    bits/dim, and no image more than 0.05, twice in a row

A number under attack is a lower bound: it says what was found, not what there is. A model that
hides looks robust after a hundred steps and is not after a thousand. So :func:`converged_table`
goes on until doubling the budget changes nothing, or says ``>=`` where it gave up, with the curve
of what was found against what it cost.

Starts: the image, uniform noise, random corners, chequerboards, and the best point so far, which is
also that of smaller balls and of the other models of the table. Steps: long and short ones that
fall along a cosine, and Auto-PGD. Images that have settled drop out, so that a model which does not
hide costs little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from flowrob.attacks import Objective, attack_images
from flowrob.attacks.balls import column
from flowrob.evaluation.bits import check_eps
from flowrob.evaluation.robustness import Protocol, models_by_name
from flowrob.evaluation.table import Table


@dataclass(frozen=True)
class Budget:
    """When an attack has converged, and when it gives up.

    Attributes:
        first_steps: gradient steps of every ascent of the first round; each round has twice as many
            as the one before.
        max_steps: of the longest ascent; a round with more is not begun.
        mean_gain: bits/dim that the mean must gain in a round, or it is quiet.
        image_gain: bits/dim that some image must gain, or the round is quiet.
        patience: so many quiet rounds in a row mean that the attack has converged.

    Raises:
        ValueError: a count below 1, max_steps below first_steps, or a gain that is not positive.
    """

    first_steps: int = 10
    max_steps: int = 1280
    mean_gain: float = 0.01
    image_gain: float = 0.05
    patience: int = 2

    def __post_init__(self) -> None:
        if min(self.first_steps, self.patience) < 1 or self.max_steps < self.first_steps:
            raise ValueError(
                "first_steps and patience must be at least 1 and max_steps at least first_steps, "
                f"got {self.first_steps}, {self.patience}, {self.max_steps}"
            )
        if not (self.mean_gain > 0.0 and self.image_gain > 0.0):
            raise ValueError(
                f"mean_gain and image_gain must be positive, got {self.mean_gain}, "
                f"{self.image_gain}"
            )

    def calm(self, gain: Tensor) -> bool:
        """Whether so little was gained, (N,) bits/dim, that a round counts as quiet."""
        return bool(gain.mean() < self.mean_gain and gain.max() < self.image_gain)

    def rounds(self) -> Iterator[int]:
        """The steps of each round: n, 2 n, 4 n, ..., at most ``max_steps``.

        >>> list(Budget(10, 45).rounds())
        [10, 20, 40]
        """
        steps = self.first_steps
        while steps <= self.max_steps:
            yield steps
            steps *= 2


@dataclass
class Search:
    """The worst images of one ball that were found so far, and how much they cost.

    Attributes:
        bits: bits/dim of each image, (N,).
        levels: the grey levels where they were found, (N, C, H, W).
        settled: which images gained nothing any more, (N,).
        converged: whether the last rounds were quiet.
        curve: per round: steps of an ascent, gradient evaluations per image so far (mean over all
            images), mean and greatest bits/dim.
    """

    bits: Tensor
    levels: Tensor
    settled: Tensor
    converged: bool = False
    curve: list[dict] = field(default_factory=list)

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


def _ascents(
    images: Tensor, best: Tensor, eps: int, steps: int, generator: torch.Generator
) -> list[dict[str, Any]]:
    """The options of each ascent of a round."""
    made = _starts(images, eps, generator)
    short: dict[str, Any] = {"schedule": "cosine", "step_size": eps / 8}
    return [
        {"num_steps": steps},
        {"num_steps": steps, "start": "random", "schedule": "cosine", "step_size": float(eps)},
        {"num_steps": steps, "start": "random", "schedule": "auto"},
        {"num_steps": steps, "start": made["corners"], **short},
        {"num_steps": steps, "start": made["chequerboard"], **short},
        {"num_steps": steps, "start": best, **short},
        {"num_steps": steps, "start": best, "schedule": "auto", "step_size": eps / 2},
    ]


def converge(
    log_prob: Objective, protocol: Protocol, eps: int, search: Search, budget: Budget
) -> list[str]:
    """Attack the images of one ball until the search has converged, or the budget is spent.

    Args:
        log_prob: of x in [0, 1].
        protocol: the images, the noise that scores them, the seed.
        eps: radius of the l_inf ball, in grey levels.
        search: what is known before: the clean images, or more; changed in place.
        budget: when to stop.

    Returns:
        Warnings of the attacks, each kind once.
    """
    generator, cost, quiet = protocol.fresh(), 0.0, 0
    warnings: dict[str, None] = {}
    search.settled = torch.zeros(len(search.bits), dtype=torch.bool)
    search.converged = False
    gains = torch.full((budget.patience, len(search.bits)), math.inf)
    for steps in budget.rounds():
        active = (~search.settled).nonzero().flatten()
        before = search.bits.clone()
        part = protocol.rows(active)
        for options in _ascents(part.images, search.levels[active], eps, steps, generator):
            found = attack_images(
                log_prob,
                part.images,
                eps,
                batch_size=protocol.batch_size,
                generator=generator,
                **options,
            )
            search.offer(part.bits(log_prob, found.x), found.x, active)
            cost += steps * len(active) / len(before)
            warnings |= dict.fromkeys(w for w in found.warnings if "nothing was gained" not in w)
        gain = (search.bits - before).nan_to_num(0.0, posinf=math.inf, neginf=0.0)
        gains = torch.cat((gains[1:], gain[None].cpu()))
        quiet = quiet + 1 if budget.calm(gain) else 0
        search.curve.append(
            {
                "steps": steps,
                "evaluations": round(cost, 1),
                "mean": search.bits.mean().item(),
                "greatest": search.bits.max().item(),
            }
        )
        search.converged = quiet >= budget.patience
        search.settled = (gains < budget.mean_gain).all(0)
        if search.converged or bool(search.settled.all()):
            search.converged = True
            break
    return list(warnings)


def converged_table(
    models: Objective | Mapping[str, Objective],
    images: Tensor,
    eps: Iterable[int] = (0, 1, 2, 4, 8),
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),
    uniform_weight: float = 0.01,
    num_resamples: int = 1000,
    batch_size: int = 64,
    progress: bool = False,
) -> Table:
    """Bits/dim of images under attacks that go on until more steps find nothing more.

    One row per model and eps: "clean" at 0, else "attacked", with ``status`` "converged" or ">=",
    the steps of the longest ascent and the gradient evaluations per image that were spent. Each
    search begins with what was found in the smaller ball, and with what the models before it in the
    table yielded to in this one; in the end every model is scored on what was found against any.

    Source: Tables 1 to 3 of the paper, whose attacks for the evaluation have a length that is not
    stated; Croce and Hein 2020 and Tramer et al. 2020 for why one attack is not enough.

    Args:
        models: a log_prob of x in [0, 1], from any library, or several by name.
        images: (N, C, H, W) uint8.
        eps: l_inf radii in grey levels; 0 makes the clean rows.
        generator: draws the noise that scores every row, and the seed of all attacks.
        budget: when an attack has converged, and when it gives up.
        uniform_weight: w of the column ``mixed``.
        num_resamples: of the bootstrap.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        A :class:`Table`. ``values[model, eps, row]`` are bits/dim per image,
        ``images[model, eps, row]`` the images, and ``settings["curves"]`` holds, per "model, eps",
        what was found against what it cost.

    Raises:
        TypeError: images are not uint8.
        ValueError: no images or models, eps that are not integers, a weight outside (0, 1).
    """
    models, eps = models_by_name(models), check_eps(eps)
    protocol = Protocol.begin(
        images,
        generator,
        uniform_weight=uniform_weight,
        num_resamples=num_resamples,
        batch_size=batch_size,
    )
    searches: dict[tuple[str, int], Search] = {}
    rows, warnings, radii = [], [], [e for e in eps if e]
    clean = {name: protocol.bits(log_prob, images) for name, log_prob in models.items()}
    none = torch.zeros(len(images), dtype=torch.bool)
    begun = {name: Search(bits, images.float(), none) for name, bits in clean.items()}
    with tqdm(total=len(radii) * len(models), disable=not progress, leave=False) as bar:
        for e in radii:
            for name, log_prob in models.items():
                last = begun[name]
                search = Search(last.bits.clone(), last.levels.clone(), none)
                for other in (searches[o, e] for o in models if (o, e) in searches):
                    search.offer(protocol.bits(log_prob, other.levels), other.levels)
                found = converge(log_prob, protocol, e, search, budget)
                warnings += [f"{name}, eps {e}: {w}" for w in found]
                searches[name, e] = begun[name] = search
                bar.update()
            for name, log_prob in models.items():
                before = searches[name, e].bits.clone()
                for other in (searches[o, e] for o in models if o != name):
                    searches[name, e].offer(protocol.bits(log_prob, other.levels), other.levels)
                if not budget.calm(searches[name, e].bits - before):
                    searches[name, e].converged = False  # others found what its own search missed
    values = {(name, 0, "clean"): bits for name, bits in clean.items()}
    values |= {(name, e, "attacked"): search.bits for (name, e), search in searches.items()}
    for name, e in ((name, e) for name in models for e in eps):
        row = "attacked" if e else "clean"
        rows.append(protocol.row(name, e, row, values[name, e, row], bounded=e > 0))
        if e:
            search = searches[name, e]
            spent = {key: search.curve[-1][key] for key in ("steps", "evaluations")}
            rows[-1] |= {"status": "converged" if search.converged else ">=", **spent}
    kept = {(name, e, "attacked"): search.levels for (name, e), search in searches.items()}
    curves = {f"{name}, {e}": search.curve for (name, e), search in searches.items()}
    settings = protocol.settings(eps, values, budget=asdict(budget), curves=curves)
    caption = f"Bits/dim of {len(images)} images, attacked until twice the steps find no more"
    return Table(rows, caption, values, kept, settings, warnings)
