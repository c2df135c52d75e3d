"""The strongest attack: the worst of many, image by image, shared between models (section 5).

    NLL*(model, eps) = max over attacks a, models m and e <= eps of NLL(model, x + delta(a, m, e))

One attack may fail where another succeeds, and a robust row is worth what its strongest attack
leaves of it. Three things are put together: several schedules, with and without random starts;
*transfer*, the perturbations found against the other models of the table; and smaller balls, which
the greater one contains. The last makes the strongest row grow with eps by construction: whether
the density itself is flat is seen in the rows of the single attacks.

Transfer matters for mixtures: the gradient of log(p_a + p_b) is that of the greater density alone,
so an attack on the sum may never see the images at which both are small.

With a :class:`~flowrob.evaluation.Budget` the attack goes on from there until more steps find no
more, and its rows say whether they did. A :func:`~flowrob.evaluation.mixture` of models in the same
table is not searched where the settled searches of its parts leave no room
(:func:`~flowrob.evaluation.mixture_bound`).

Of a randomised log_prob the maximum over many evaluations is the luck of the attacker: such a model
has no strongest row, but one called "redrawn", the points that were kept, evaluated anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from flowrob._checks import checked, require
from flowrob.attacks import Objective, attack_images
from flowrob.attacks.starts import check_integers
from flowrob.evaluation.bits import check_eps, integer_noise
from flowrob.evaluation.convergence import Budget, Search, converge
from flowrob.evaluation.defences import Mixture, mixture_bound
from flowrob.evaluation.robustness import Protocol, models_by_name, suspicions
from flowrob.evaluation.table import Table
from flowrob.units import check_images


@checked
def schedules(steps: Iterable[int] = (20, 100), auto: bool | int = True) -> dict[str, dict]:
    """Attacks by name, as options of :func:`flowrob.attacks.attack_images`.

    PGD with each number of steps and, unless ``auto`` is False, Auto-PGD from a random start, with
    ``auto`` steps; True: with the greatest of those.

    >>> list(schedules())
    ['pgd-20', 'pgd-100', 'auto-pgd-100']
    >>> list(schedules([20], auto=50))
    ['pgd-20', 'auto-pgd-50']
    """
    steps = list(steps)
    for n in steps:
        check_integers(1, steps=n)
    check_integers(0, auto=int(auto))
    require(steps or auto is not True, "steps", steps, "at least one number")
    attacks = {f"pgd-{n}": {"num_steps": n} for n in steps}
    longest = max(steps) if auto is True else int(auto)
    options = {"num_steps": longest, "schedule": "auto", "start": "random"}
    return attacks | ({f"auto-pgd-{longest}": options} if auto else {})


REDRAWN = "redrawn"  # the row of a randomised log_prob, in the place of the strongest

#: What :func:`strongest_table` tries unless told otherwise.
ATTACKS = schedules()


@checked
def strongest_table(
    models: Objective | Mapping[str, Objective],
    images: Tensor,
    eps: Iterable[int] = (0, 1, 2, 4, 8),
    *,
    generator: torch.Generator,
    attacks: Mapping[str, Mapping] | None = None,
    budget: Budget | None = None,
    noise: bool = False,
    uniform_weight: float = 0.01,
    num_resamples: int = 1000,
    groups: Tensor | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Table:
    """Bits/dim of data under each of several attacks, and under the worst of all, image by image.

    Rows per model: "clean" at eps 0; at each other eps a row per attack, then "strongest", the
    maximum over all attacks on all models at this and every smaller eps, as this model scores
    their results; of a randomised log_prob "redrawn" in its place. With a budget, that is where
    each model's search begins, and "strongest" is what it ended with; ``status`` says "converged"
    or ">=". Columns as in :func:`robustness_table`.

    Source: Tables 1 to 3 of the paper, with one attack; Croce and Hein 2020 and Tramer et al. 2020
    for why it takes more than one.

    Args:
        models: a log_prob of x in [0, 1], from any library, or several by name.
        images: (N, C, H, W) uint8.
        eps: l_inf radii in grey levels; 0 makes the clean rows.
        generator: draws the noise that scores every row; then, alike for every model and eps,
            what each attack and the bootstrap need.
        attacks: by name, options of :func:`~flowrob.attacks.attack_images`; default
            :data:`ATTACKS`.
        budget: when the search after these attacks has converged, and when it gives up; None: no
            search, and a lower bound without a status.
        noise: add a row "noise", uniform integers of the same size, which no maximum counts.
        uniform_weight: w of the column ``mixed``.
        num_resamples: of the bootstrap.
        groups: (N,) integers, alike for images that belong together: resampled together.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        A :class:`Table`. ``values[model, eps, row]`` are bits/dim per image; with a budget,
        ``settings["curves"]`` holds, per "model, eps", what was found against what it cost.

    Raises:
        TypeError: images are not uint8.
        ValueError: no images, models or attacks, an attack with the name of another row,
            eps that are not integers, or a weight outside (0, 1).
    """
    attacks = dict(ATTACKS if attacks is None else attacks)
    if not attacks or {"clean", "strongest", "noise", REDRAWN} & {*attacks}:
        raise ValueError(
            'attacks needs at least one, none of them called "clean", "noise", "strongest" or '
            f'"{REDRAWN}", got {sorted(attacks)}'
        )
    check_images(images)
    caption = f"Bits/dim of {len(images)} images: each attack, and the worst of all per image"
    hunt = _Hunt.begin(
        models,
        images,
        eps,
        generator,
        attacks,
        budget,
        noise=noise,
        uniform_weight=uniform_weight,
        num_resamples=num_resamples,
        groups=groups,
        batch_size=batch_size,
    )
    return hunt.run(progress).table("strongest", caption)


@checked
def converged_table(
    models: Objective | Mapping[str, Objective],
    images: Tensor,
    eps: Iterable[int] = (0, 1, 2, 4, 8),
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 (frozen)
    uniform_weight: float = 0.01,
    num_resamples: int = 1000,
    groups: Tensor | None = None,
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
        groups: (N,) integers, alike for images that belong together: resampled together.
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
    check_images(images)
    caption = f"Bits/dim of {len(images)} images, attacked until longer ascents find no more"
    hunt = _Hunt.begin(
        models,
        images,
        eps,
        generator,
        {},
        budget,
        uniform_weight=uniform_weight,
        num_resamples=num_resamples,
        groups=groups,
        batch_size=batch_size,
    )
    return hunt.run(progress).table("attacked", caption)


@dataclass
class _Hunt:
    """Attacks on several models that share what they find, from small balls to great ones."""

    models: dict[str, Objective]
    eps: list[int]
    protocol: Protocol
    attacks: dict[str, Mapping]
    budget: Budget | None
    mixtures: dict[str, list[str]]
    values: dict[tuple, Tensor] = field(default_factory=dict)
    searches: dict[tuple[str, int], Search] = field(default_factory=dict)
    randomised: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        models: Objective | Mapping[str, Objective],
        images: Tensor,
        eps: Iterable[int],
        generator: torch.Generator,
        attacks: dict[str, Mapping],
        budget: Budget | None,
        noise: bool = False,
        **columns: Any,
    ) -> _Hunt:
        """Check what the caller gave; draw what all models share."""
        models, eps = models_by_name(models), check_eps(eps)
        mixtures = {}
        for name, model in models.items():
            of = model.parts if isinstance(model, Mixture) else ()
            known = [next((n for n, m in models.items() if m == part), None) for part in of]
            parts = [part for part in known if part is not None]
            if parts and len(parts) == len(known):
                mixtures[name] = parts
        protocol = Protocol.begin(images, generator, eps if noise else (), **columns)
        return cls(models, eps, protocol, attacks, budget, mixtures)

    def run(self, progress: bool) -> _Hunt:
        """Attack; values and searches by model and eps."""
        radii, images = [e for e in self.eps if e], self.protocol.images
        worst: dict[str, Search] = {}
        for name, log_prob in self.models.items():
            bits, again = (self.protocol.bits(log_prob, images) for _ in range(2))
            self.values[name, 0, "clean"] = bits
            if bool(((bits - again).abs() > 1e-6 * (1.0 + bits.abs())).any()):
                self.randomised.add(name)
                self.warnings.append(
                    f"{name}: log_prob is randomised, two evaluations of the clean images differ: "
                    f'its rows "{REDRAWN}" are fresh evaluations of the worst points; fix the '
                    "noise inside it (model.eval()?), or average over more of it"
                )
            for e, levels in self.protocol.noisy.items():
                self.values[name, e, "noise"] = self.protocol.bits(log_prob, levels)
            worst[name] = Search.begin(bits, images.float())
        total = len(radii) * len(self.models) * (len(self.attacks) + (self.budget is not None))
        with tqdm(total=total, disable=not progress, desc="attacks", leave=False) as bar:
            for e in radii:
                worst = {name: search.again() for name, search in worst.items()}
                self.searches |= {(name, e): search for name, search in worst.items()}
                for victim in self.models:
                    for attack, options in self.attacks.items():
                        self._attack(victim, e, attack, options)
                        bar.update()
                if self.budget is not None:
                    for victim in sorted(self.models, key=self.mixtures.__contains__):
                        self._converge(victim, e, self.budget)
                        bar.update()
                for name in self.models:
                    self._against_noise(name, e)
        return self

    def _against_noise(self, name: str, e: int) -> None:
        """Whether uniform noise says that something is wrong with the density, or the attack."""
        images, found = self.protocol.images, self.searches[name, e]
        noise = integer_noise(images, e, self.protocol.fresh())
        bits = self.protocol.bits(self.models[name], noise)
        row = self.protocol.row(name, e, "noise", bits)
        of_row = {"clean": self.values[name, 0, "clean"], "noise": bits, "attacked": found.bits}
        self.warnings += [f"{name}, eps {e}: {w}" for w in suspicions(of_row, row)]

    def _attack(self, victim: str, e: int, attack: str, options: Mapping) -> None:
        protocol = self.protocol
        found = attack_images(
            self.models[victim],
            protocol.images,
            e,
            batch_size=protocol.batch_size,
            generator=protocol.fresh(),
            **options,
        )
        self.warnings += [f"{victim}, eps {e}, {attack}: {w}" for w in found.warnings]
        for name, log_prob in self.models.items():
            bits = protocol.bits(log_prob, found.x)
            self.searches[name, e].offer(bits, found.x)
            if name == victim:
                self.values[name, e, attack] = bits
        search, steps = self.searches[victim, e], options.get("num_steps", 20)
        search.cost += steps * options.get("restarts", 1)
        search.longest = max(search.longest, steps)

    def _converge(self, victim: str, e: int, budget: Budget) -> None:
        """The victim's own search; then what it found is tried on all the others."""
        search = self.searches[victim, e]
        ceiling = self._ceiling(victim, e, budget.enough)
        found = converge(self.models[victim], self.protocol, e, search, budget, ceiling)
        self.warnings += [f"{victim}, eps {e}: {w}" for w in found]
        for name, log_prob in self.models.items():
            if name != victim:
                other = self.searches[name, e]
                before = other.bits.clone()
                other.offer(self.protocol.bits(log_prob, search.levels), search.levels)
                if not budget.calm(other.bits - before):
                    other.converged = False  # others found what its own search missed

    def _ceiling(self, victim: str, e: int, enough: float) -> Tensor | None:
        """What the settled searches of a mixture's parts leave of it, image by image."""
        parts = [self.searches[part, e] for part in self.mixtures.get(victim, ())]
        if not parts:
            return None
        bits = torch.stack([search.bits.cpu() for search in parts])
        settled = torch.stack([search.settled for search in parts])
        known = bits.masked_fill(~settled | (bits > enough), math.inf)
        model = self.models[victim]
        weights = model.log_weights.exp().tolist() if isinstance(model, Mixture) else None
        return mixture_bound(known, self.protocol.num_dims, weights)

    def _verdict(self, name: str, e: int) -> dict:
        """That of the search. A mixture is as open as the part that bounds it from above.

        Its value is that part's wherever the part is the likeliest, so that what would lift the
        one may lift the other.
        """
        search = self.searches[name, e]
        parts = [self.searches[part, e] for part in self.mixtures.get(name, ())]
        if parts and not min(parts, key=lambda part: part.bits.mean().item()).converged:
            search = replace(search, converged=False)
        return search.verdict()

    def table(self, last: str, caption: str) -> Table:
        """The rows; ``last`` is what the worst of all is called."""
        under = (*self.attacks, *(["noise"] if self.protocol.noisy else []))
        of_worst, kept = {}, {}
        for (name, e), search in self.searches.items():
            worst, bits = last, search.bits
            if name in self.randomised:  # the greatest of many draws is the luck of the attacker
                worst, bits = REDRAWN, self.protocol.bits(self.models[name], search.levels)
            of_worst[name, e, worst], kept[name, e, worst] = bits, search.levels
        values, rows = self.values | of_worst, []
        for name, e in ((name, e) for name in self.models for e in self.eps):
            worst = REDRAWN if name in self.randomised else last
            for row in (*under, worst) if e else ("clean",):
                rows.append(self.protocol.row(name, e, row, values[name, e, row], bounded=e > 0))
            if e and self.budget is not None and name not in self.randomised:
                rows[-1] |= self._verdict(name, e)
        own: dict[str, Any] = {"attacks": self.attacks} if self.attacks else {}
        if self.budget is not None:
            curves = {f"{name}, {e}": search.curve for (name, e), search in self.searches.items()}
            own |= {"budget": asdict(self.budget), "curves": curves}
        settings = self.protocol.settings(self.eps, values, **own)
        return Table(rows, caption, values, kept, settings, self.warnings)
