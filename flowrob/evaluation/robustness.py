"""Robustness: tables of bits/dim of images, clean, noisy and under one attack (section 5).

Every row of a table, whatever was done to its images, is scored with the same fresh dequantisation
noise (:class:`Protocol`). One attack may fail where another succeeds: for a number that is to
count, see :func:`flowrob.evaluation.strongest_table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

import flowrob
from flowrob.attacks import LinfBall, Objective, attack_images, dequantization_noise, score_images
from flowrob.attacks.images import GOALS
from flowrob.attacks.starts import check_generator, check_integers
from flowrob.evaluation.bits import (
    check_eps,
    check_groups,
    gibbs_floor,
    integer_noise,
    mixed_mean,
    summary,
    uniform_ceiling,
)
from flowrob.evaluation.table import Table
from flowrob.units import bits_per_dim, check_images


@dataclass(frozen=True)
class Protocol:
    """What all rows of a table share: images, the noise that scores them, seeds, columns.

    Attributes:
        images: (N, C, H, W) uint8.
        scoring: the dequantisation noise of every row.
        noisy: by eps, the images under uniform integer noise; empty if the table has no such row.
        seed: of each attack and each bootstrap, alike for every model and eps.
        first_seed: what the caller's generator began with.
        uniform_weight: w of the column "mixed".
        num_resamples: of the bootstrap.
        batch_size: images at a time.
        groups: which images belong together, for the bootstrap; None: each by itself.
    """

    images: Tensor
    scoring: Tensor
    noisy: dict[int, Tensor]
    seed: int
    first_seed: int
    uniform_weight: float
    num_resamples: int
    batch_size: int
    groups: Tensor | None = None

    @classmethod
    def begin(
        cls,
        images: Tensor,
        generator: torch.Generator,
        noisy: Iterable[int] = (),
        *,
        uniform_weight: float,
        num_resamples: int,
        batch_size: int,
        groups: Tensor | None = None,
    ) -> Protocol:
        """Draw what is drawn once, for all models: scoring noise, uniform noise, seed."""
        check_images(images)
        check_generator(generator)
        check_integers(1, num_resamples=num_resamples, batch_size=batch_size)
        groups = check_groups(groups, images)
        uniform_ceiling(uniform_weight, 1)  # checks the weight
        scoring = dequantization_noise(images, "fixed", generator)
        levels = {e: integer_noise(images, e, generator) for e in noisy if e}
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        first_seed = generator.initial_seed()
        columns = (uniform_weight, num_resamples, batch_size, groups)
        return cls(images, scoring, levels, seed, first_seed, *columns)

    @property
    def num_dims(self) -> int:
        """D of one image."""
        return math.prod(self.images.shape[1:])

    def rows(self, which: Tensor) -> Protocol:
        """The same for some of the images, with their noise."""
        groups = None if self.groups is None else self.groups[which]
        images, scoring = self.images[which], self.scoring[:, which]
        return replace(self, images=images, scoring=scoring, noisy={}, groups=groups)

    def fresh(self) -> torch.Generator:
        """A generator in the state that every attack begins with."""
        return torch.Generator().manual_seed(self.seed)

    def bits(self, log_prob: Objective, levels: Tensor) -> Tensor:
        """Bits/dim of grey levels, (N,), float64."""
        nats = score_images(log_prob, levels, self.scoring, self.batch_size).double()
        return bits_per_dim(nats, self.num_dims)

    def row(self, name: str, eps: int, row: str, bits: Tensor, bounded: bool = True) -> dict:
        """The numbers of one row; ``bounded``: whether the Gibbs floor holds for it."""
        return {
            "model": name,
            "eps": eps,
            "row": row,
            **summary(bits, self.fresh(), self.num_resamples, self.groups),
            "floor": gibbs_floor(eps, self.images) if bounded else None,
            "mixed": mixed_mean(bits, self.uniform_weight, self.num_dims),
            "ceiling": uniform_ceiling(self.uniform_weight, self.num_dims),
        }

    def settings(self, eps: list[int], values: Mapping[tuple, Tensor], **own: object) -> dict:
        """How the numbers were made, as plain data."""
        precision = {str(v.dtype).removeprefix("torch.") for v in values.values()}
        return {
            "num_images": len(self.images),
            "num_dims": self.num_dims,
            "eps": eps,
            **own,
            "uniform_weight": self.uniform_weight,
            "num_resamples": self.num_resamples,
            "num_groups": None if self.groups is None else len(self.groups.unique()),
            "seed": self.first_seed,
            "flowrob": flowrob.__version__,
            "torch": torch.__version__,
            "scored_in": ", ".join(sorted(precision)),
        }


def models_by_name(models: Objective | Mapping[str, Objective]) -> dict[str, Objective]:
    """Several log_probs by name; a single one is called "model".

    Raises:
        ValueError: there is none.
        TypeError: one cannot be called.
    """
    models = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not models:
        raise ValueError("models is empty; pass a log_prob, or several by name")
    if bad := [name for name, model in models.items() if not callable(model)]:
        raise TypeError(f"models must be callables such as flow.log_prob; not so: {bad}")
    return models


def robustness_table(
    models: Objective | Mapping[str, Objective],
    images: Tensor,
    eps: Iterable[int] = (0, 1, 2, 4, 8),
    *,
    generator: torch.Generator,
    goal: str = "lower",
    noise: str = "fixed",
    uniform_weight: float = 0.01,
    num_resamples: int = 1000,
    groups: Tensor | None = None,
    batch_size: int = 64,
    attack_options: Mapping | None = None,
    progress: bool = False,
) -> Table:
    """Bits/dim of images: clean, attacked (real-valued and 8-bit), and under uniform noise.

    Columns: mean with its 95% bootstrap interval (low, high), median, quartiles, the number of
    non-finite values (they are in the mean too); ``floor``, :func:`gibbs_floor` of these images;
    ``mixed``, the mean once a uniform density is mixed in at ``uniform_weight`` (the attack is
    then still the same one, because the mixture grows with the density), which no row can lift
    above ``ceiling``, :func:`uniform_ceiling`.

    Source: Tables 1 to 3 and section 5 of the paper.

    Args:
        models: a log_prob of x in [0, 1], from any library, or several by name.
        images: (N, C, H, W) uint8.
        eps: l_inf radii in grey levels; 0 makes the clean row.
        generator: draws, once for all models: the noise that scores every row, and the uniform
            noise; then, alike for every model and eps, that of the attack and of the bootstrap.
        goal: "lower" (attack data) or "raise" (attack what is not data).
        noise: of the attack: "fixed", "midpoint" or "expected".
        uniform_weight: w of the column ``mixed``.
        num_resamples: of the bootstrap.
        groups: (N,) integers, alike for images that belong together (overlapping crops): the
            bootstrap resamples groups; see :func:`flowrob.data.photo_tiles`.
        batch_size: images at a time.
        attack_options: for :func:`flowrob.attacks.attack_images`, for example
            ``{"num_steps": 50, "schedule": "auto"}``.
        progress: show a progress bar.

    Returns:
        A :class:`Table`. ``values[model, eps, row]`` are bits/dim per image and
        ``images[model, eps, row]`` the images, with row "clean", "attacked", "attacked 8-bit" or
        "noise"; the name of a single model is "model".

    Raises:
        TypeError: images are not uint8.
        ValueError: no images or models, eps that are not integers, an unknown goal, a weight
            outside (0, 1), or a norm other than l_inf among the attack's options.
    """
    models, eps, options = models_by_name(models), check_eps(eps), dict(attack_options or {})
    if not isinstance(goal, str) or goal not in GOALS:
        raise ValueError(f'goal must be "lower" or "raise", got {goal!r}')
    if options.get("norm", LinfBall) is not LinfBall:
        raise ValueError("the rows share one l_inf ball; for another norm use attack_images")
    protocol = Protocol.begin(
        images,
        generator,
        eps,
        uniform_weight=uniform_weight,
        num_resamples=num_resamples,
        batch_size=batch_size,
        groups=groups,
    )
    rows, values, kept, warnings = [], {}, {}, []
    bar = tqdm(total=len(models) * len(eps), disable=not progress, desc="table", leave=False)
    for name, log_prob in models.items():
        for e in eps:
            inputs = {"clean": images}
            if e:
                attack = attack_images(
                    log_prob,
                    images,
                    e,
                    goal=goal,
                    noise=noise,
                    batch_size=batch_size,
                    generator=protocol.fresh(),
                    **options,
                )
                warnings += [f"{name}, eps {e}: {warning}" for warning in attack.warnings]
                rounded = images + LinfBall(float(e)).round(attack.x.float() - images)
                inputs = {"attacked": attack.x, "attacked 8-bit": rounded.to(torch.uint8)}
                inputs["noise"] = protocol.noisy[e]
            for row, levels in inputs.items():
                kept[name, e, row] = levels
                bits = values[name, e, row] = protocol.bits(log_prob, levels)
                bounded = goal == "lower" or row == "noise"
                rows.append(protocol.row(name, e, row, bits, bounded))
            if not e and not bool(values[name, 0, "clean"].isfinite().all()):
                warnings.append(f"{name}: {rows[-1]['nonfinite']} clean values are not finite")
            if e:
                of_row = {row: values[name, e, row] for row in inputs}
                of_row["clean"] = bits_per_dim(
                    attack.start_value.double() * (-1.0 if goal == "lower" else 1.0),
                    protocol.num_dims,
                )
                warnings += [f"{name}, eps {e}: {w}" for w in suspicions(of_row, rows[-1], goal)]
            bar.update()
    bar.close()
    if len(models) == 1:
        rows = [{key: value for key, value in row.items() if key != "model"} for row in rows]
    own = {"goal": goal, "noise": noise, "attack_options": options}
    settings = protocol.settings(eps, values, **own)
    caption = f"Bits/dim of {len(images)} images, attack: {goal}s the likelihood"
    return Table(rows, caption, values, kept, settings, warnings)


def suspicions(bits: Mapping[str, Tensor], noise_row: Mapping, goal: str = "lower") -> list[str]:
    """What a row of uniform noise says about the density, and about the attack.

    Args:
        bits: by "clean", "noise" and "attacked", bits/dim of each image.
        noise_row: the numbers of the noise row, with its ``floor``.
        goal: of the attack.
    """
    found = []
    if noise_row["high"] < noise_row["floor"]:
        found.append(
            "the noise row lies below its Gibbs floor: the density is not normalised, or not in "
            "nats per unit of x in [0, 1]"
        )
    drop = bits["clean"] - bits["noise"]
    if goal == "lower" and drop.mean() > 0.05 and (drop > 0).double().mean() > 0.9:
        found.append(
            f"uniform noise makes the images more likely, by {drop.mean().item():.2f} bits/dim: "
            "log_prob looks like a negative log-likelihood, whose attack then helps the model; "
            "pass lambda x: -log_prob(x)"
        )
    ahead = (bits["noise"] - bits["attacked"]) * (1.0 if goal == "lower" else -1.0)
    if beaten := int((ahead > 0).sum()):
        found.append(
            f"uniform noise beats the attack on {beaten} of {len(ahead)} images: raise num_steps, "
            "or check the gradients with flowrob.attacks.square"
        )
    return found
