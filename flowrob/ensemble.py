"""The strongest attack here: the worst of many, image by image, shared between models (5).

    NLL*(model, eps) = max over attacks a, models m and e <= eps of NLL(model, x + delta(a, m, e))

One attack may fail where another succeeds, and a robust row is worth what its strongest attack
leaves of it. Three things are put together: several schedules, with and without random starts;
*transfer*, the perturbations found against the other models of the table; and smaller balls, which
the greater one contains. The last makes the strongest row grow with eps by construction: whether
the density itself is flat is seen in the rows of the single attacks.

Transfer matters for mixtures: the gradient of log(p_a + p_b) is that of the greater density alone,
so an attack on the sum may never see the images at which both are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from tqdm.auto import tqdm

import flowrob
from flowrob.evaluation import (
    bits_per_dim,
    check_eps,
    check_images,
    gibbs_floor,
    mixed_mean,
    summary,
    uniform_ceiling,
)
from flowrob.objectives import Objective
from flowrob.pixels import attack_images, dequantization_noise, score_images
from flowrob.tables import Table


def schedules(steps: Iterable[int] = (20, 100), auto: bool = True) -> dict[str, dict]:
    """Attacks by name, as options of :func:`flowrob.pixels.attack_images`.

    PGD with each number of steps and, if ``auto``, Auto-PGD from a random start with the greatest.

    >>> list(schedules())
    ['pgd-20', 'pgd-100', 'auto-pgd-100']
    """
    steps = list(steps)
    attacks = {f"pgd-{n}": {"num_steps": n} for n in steps}
    longest = {"num_steps": max(steps), "schedule": "auto", "random_start": True}
    return attacks | ({f"auto-pgd-{max(steps)}": longest} if auto else {})


#: What :func:`strongest_table` tries unless told otherwise.
ATTACKS = schedules()


def strongest_table(
    models: Objective | Mapping[str, Objective],
    images: Tensor,
    eps: Iterable[int] = (0, 1, 2, 4, 8),
    *,
    generator: torch.Generator,
    attacks: Mapping[str, Mapping] | None = None,
    uniform_weight: float = 0.01,
    num_resamples: int = 1000,
    batch_size: int = 64,
    progress: bool = False,
) -> Table:
    """Bits/dim of data under each of several attacks, and under the worst of all, image by image.

    Rows per model: "clean" at eps 0; at each other eps a row per attack, then "strongest", the
    maximum over all attacks on all models at this and every smaller eps, as this model scores
    their results. Columns as in :func:`~flowrob.evaluation.robustness_table`.

    Source: Tables 1 to 3 of the paper, with one attack; Croce and Hein 2020 and Tramer et al. 2020
    for why it takes more than one.

    Args:
        models: a log_prob of x in [0, 1], from any library, or several by name.
        images: (N, C, H, W) uint8.
        eps: l_inf radii in grey levels; 0 makes the clean rows.
        generator: draws the noise that scores every row; then, alike for every model and eps,
            what each attack and the bootstrap need.
        attacks: by name, options of :func:`~flowrob.pixels.attack_images`; default
            :data:`ATTACKS`.
        uniform_weight: w of the column ``mixed``.
        num_resamples: of the bootstrap.
        batch_size: images at a time.
        progress: show a progress bar.

    Returns:
        A :class:`~flowrob.tables.Table`. ``values[model, eps, row]`` are bits/dim per image.

    Raises:
        TypeError: images are not uint8.
        ValueError: no images, models or attacks, an attack called "clean" or "strongest", eps that
            are not integers, or a weight outside (0, 1).
    """
    models = dict(models) if isinstance(models, Mapping) else {"model": models}
    attacks = dict(ATTACKS if attacks is None else attacks)
    eps = check_eps(eps)
    check_images(images)
    if not models:
        raise ValueError("models is empty; pass a log_prob, or several by name")
    if not attacks or {"clean", "strongest"} & {*attacks}:
        raise ValueError(
            f'attacks needs at least one, none of them called "clean" or "strongest", got '
            f"{sorted(attacks)}"
        )
    num_dims = math.prod(images.shape[1:])
    ceiling = uniform_ceiling(uniform_weight, num_dims)
    scoring = dequantization_noise(images, "fixed", generator)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))

    def score(name: str, levels: Tensor) -> Tensor:
        return bits_per_dim(
            score_images(models[name], levels, scoring, batch_size).double(), num_dims
        )

    values, warnings, worst = {}, [], {}
    for name in models:
        worst[name] = values[name, 0, "clean"] = score(name, images)
    radii = [e for e in eps if e]
    total = len(radii) * len(models) * sum(_cost(options) for options in attacks.values())
    with tqdm(total=total, disable=not progress, desc="attacks", leave=False) as bar:
        for e in radii:
            for victim in models:
                for attack, options in attacks.items():
                    fresh = torch.Generator().manual_seed(seed)
                    found = attack_images(
                        models[victim], images, e, batch_size=batch_size, generator=fresh, **options
                    )
                    warnings += [f"{victim}, eps {e}, {attack}: {w}" for w in found.warnings]
                    for name in models:
                        bits = score(name, found.x)
                        worst[name] = _greater(worst[name], bits)
                        if name == victim:
                            values[name, e, attack] = bits
                    bar.update(_cost(options))
            for name in models:
                values[name, e, "strongest"] = worst[name]
    rows = []
    for name in models:
        for e in eps:
            for row in (*attacks, "strongest") if e else ("clean",):
                bits = values[name, e, row]
                resampler = torch.Generator().manual_seed(seed)
                rows.append({"model": name, "eps": e, "row": row})
                rows[-1] |= summary(bits, resampler, num_resamples)
                rows[-1] |= {"floor": gibbs_floor(e, images) if e else None}
                mixed = mixed_mean(bits, uniform_weight, num_dims)
                rows[-1] |= {"mixed": mixed, "ceiling": ceiling}
    settings = {"num_images": len(images), "num_dims": num_dims, "eps": eps, "attacks": attacks}
    settings |= {"uniform_weight": uniform_weight, "num_resamples": num_resamples}
    settings |= {"seed": generator.initial_seed()}
    settings |= {"flowrob": flowrob.__version__, "torch": torch.__version__}
    caption = f"Bits/dim of {len(images)} images: each attack, and the worst of all per image"
    return Table(rows, caption, values, {}, settings, warnings)


def _cost(options: Mapping) -> int:
    """Gradient steps of an attack."""
    return options.get("num_steps", 20) * options.get("restarts", 1)


def _greater(first: Tensor, second: Tensor) -> Tensor:
    """The greater of two, image by image; NaN, which no density has, counts as the worst."""
    return torch.where(first.isnan() | (first >= second), first, second)
