"""Evaluation: bits/dim, what an attack does to it, and where inside the flow it happens (5).

    bits/dim = -log2 p(x) / D + 8

Every row of a table here, clean, noisy or attacked, is scored with the same fresh dequantisation
noise, and every image counts: infinite values stay in the mean and are counted beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm.auto import tqdm

import flowrob
from flowrob.balls import LinfBall
from flowrob.bijections import Bijection, Chain, MultiScale
from flowrob.flows import Flow
from flowrob.objectives import Objective, in_double, mixture, rebased, uniform
from flowrob.pixels import GOALS, attack_images, dequantization_noise, score_images
from flowrob.tables import Table

__all__ = [
    "Anatomy",
    "Table",
    "anatomy",
    "bits_per_dim",
    "bootstrap_interval",
    "detection_table",
    "gibbs_floor",
    "mixture",
    "rebased",
    "robustness_table",
    "uniform",
    "uniform_ceiling",
]


def bits_per_dim(log_prob: Tensor, num_dims: int) -> Tensor:
    """Negative log-likelihood per dimension of 8-bit data: -log2 p(x) / D + 8.

    The 8 turns the density of x in [0, 1] into the probability of a grey level of width 1/256.

    Args:
        log_prob: log-densities in nats, per unit of x.
        num_dims: D.

    Returns:
        Bits/dim, same shape; lower is more likely.

    >>> bits_per_dim(torch.tensor([0.0]), 12)
    tensor([8.])
    """
    return 8.0 - log_prob / (num_dims * math.log(2.0))


def gibbs_floor(eps: int, images: Tensor | None = None) -> float:
    """No density gives noisy images fewer bits/dim, on average over the noise: log2(2 eps + 1).

    The noise is uniform on the integers {-eps, ..., eps}, independent per pixel. The bound is its
    entropy (Gibbs' inequality), so it holds for every normalised density, even one trained on
    these very images. The worst image of the ball is worse than the average one: the floor bounds
    the optimal attack too.

    Args:
        eps: grey levels.
        images: (N, C, H, W) uint8. If given, the noisy images are clipped to 0..255, which takes
            entropy from pixels near the ends; the mean over pixels and images is returned.

    Raises:
        ValueError: eps is not an integer in 0..255.
        TypeError: images are not uint8.

    >>> [round(gibbs_floor(eps), 2) for eps in (0, 1, 2, 4, 8)]
    [0.0, 1.58, 2.32, 3.17, 4.09]
    """
    if eps != int(eps) or not 0 <= eps <= 255:
        raise ValueError(f"eps must be an integer number of grey levels in 0..255, got {eps}")
    count = 2 * int(eps) + 1
    if images is None:
        return math.log2(count)
    check_images(images)
    level = torch.arange(256, dtype=torch.float64, device=images.device)
    at_ends = (eps + 1 - torch.stack((level, 255 - level))).clamp(min=1)  # outcomes that merge
    entropy = math.log2(count) - (at_ends * at_ends.log2()).sum(0) / count
    return entropy[images.long()].mean().item()


def uniform_ceiling(weight: float, num_dims: int) -> float:
    """With a uniform density mixed in at weight w, no x has more bits/dim than 8 + log2(1/w) / D.

    The certificate for ``mixture(flow.log_prob, uniform, w)``, which costs every x of the flow's
    own at most log2(1/(1 - w)) / D bits/dim.

    >>> round(uniform_ceiling(0.01, 3072), 4)
    8.0022
    """
    if not 0.0 < weight < 1.0:
        raise ValueError(f"weight must lie in (0, 1), got {weight}")
    return 8.0 - math.log2(weight) / num_dims


def _quantile(values: Tensor, share: float) -> float:
    """Linear interpolation between order statistics, also where some are infinite (NaN: last)."""
    ordered, place = values.sort().values, share * (len(values) - 1)
    low, high = ordered[math.floor(place)].item(), ordered[math.ceil(place)].item()
    part = place - math.floor(place)
    return low if low == high or part == 0.0 else (1.0 - part) * low + part * high


def bootstrap_interval(
    values: Tensor, generator: torch.Generator, num_resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: resample images, average, take quantiles.

    With few images and a heavy tail it is too narrow, as every interval is that has not seen the
    tail; read the median beside it.

    Args:
        values: (N,).
        generator: draws the resamples.
        num_resamples: how many.
        level: of confidence, in (0, 1).
    """
    size = (num_resamples, len(values))
    chosen = torch.randint(len(values), size, generator=generator, device=generator.device)
    means = values[chosen.to(values.device)].mean(1)
    return _quantile(means, 0.5 - 0.5 * level), _quantile(means, 0.5 + 0.5 * level)


def mixed_mean(bits: Tensor, weight: float, num_dims: int) -> float:
    """Mean of ``bits``, bits/dim per image, once a uniform density is mixed in at ``weight``."""
    nats = (8.0 - bits) * num_dims * math.log(2.0)
    uniform_part = torch.full_like(nats, math.log(weight))
    mixed = torch.logaddexp(nats + math.log1p(-weight), uniform_part)
    return bits_per_dim(mixed, num_dims).mean().item()


def summary(values: Tensor, generator: torch.Generator, num_resamples: int) -> dict:
    """Mean with its 95% bootstrap interval, median, quartiles, number of non-finite values."""
    low, high = bootstrap_interval(values, generator, num_resamples)
    return {
        "mean": values.mean().item(),
        "low": low,
        "high": high,
        "median": _quantile(values, 0.5),
        "q25": _quantile(values, 0.25),
        "q75": _quantile(values, 0.75),
        "nonfinite": int((~values.isfinite()).sum()),
    }


def _integer_noise(images: Tensor, eps: int, generator: torch.Generator) -> Tensor:
    """8-bit images plus uniform integers of {-eps..eps}, clipped to 0..255."""
    size = tuple(images.shape)
    noise = torch.randint(-eps, eps + 1, size, generator=generator, device=generator.device)
    return (images.int() + noise.to(images.device)).clamp(0, 255).to(torch.uint8)


def check_images(images: Tensor, name: str = "images") -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8, got {getattr(images, 'dtype', type(images))}")
    if not len(images):
        raise ValueError(f"{name} is empty; pass at least one")


def check_eps(eps: Iterable[int]) -> list[int]:
    eps = list(eps)
    if not eps or any(not 0 <= e <= 255 or e != int(e) for e in eps):
        raise ValueError(f"eps must hold integers in 0..255 (grey levels), got {eps}")
    return sorted({int(e) for e in eps})


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
        batch_size: images at a time.
        attack_options: for :func:`flowrob.pixels.attack_images`, for example
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
    models = dict(models) if isinstance(models, Mapping) else {"model": models}
    options, eps = dict(attack_options or {}), check_eps(eps)
    check_images(images)
    if not models:
        raise ValueError("models is empty; pass a log_prob, or several by name")
    if goal not in GOALS:
        raise ValueError(f'goal must be "lower" or "raise", got {goal!r}')
    if options.get("norm", LinfBall) is not LinfBall:
        raise ValueError("the rows share one l_inf ball; for another norm use pixels.attack_images")
    uniform_ceiling(uniform_weight, 1)  # checks the weight
    num_dims = math.prod(images.shape[1:])
    scoring = dequantization_noise(images, "fixed", generator)
    noisy = {e: _integer_noise(images, e, generator) for e in eps if e}
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    rows, values, kept, warnings = [], {}, {}, []
    bar = tqdm(total=len(models) * len(eps), disable=not progress, desc="table", leave=False)
    for name, log_prob in models.items():
        for e in eps:
            inputs = {"clean": images}
            if e:
                fresh = torch.Generator().manual_seed(seed)
                attack = attack_images(
                    log_prob,
                    images,
                    e,
                    goal=goal,
                    noise=noise,
                    batch_size=batch_size,
                    generator=fresh,
                    **options,
                )
                warnings += [f"{name}, eps {e}: {warning}" for warning in attack.warnings]
                rounded = images + LinfBall(float(e)).round(attack.x.float() - images)
                inputs = {"attacked": attack.x, "attacked 8-bit": rounded.to(torch.uint8)}
                inputs["noise"] = noisy[e]
            for row, levels in inputs.items():
                nats = score_images(log_prob, levels, scoring, batch_size).double()
                bits = bits_per_dim(nats, num_dims)
                values[name, e, row], kept[name, e, row] = bits, levels
                resampler = torch.Generator().manual_seed(seed)
                numbers = summary(bits, resampler, num_resamples)
                floor = gibbs_floor(e, images) if goal == "lower" or row == "noise" else None
                ceiling = uniform_ceiling(uniform_weight, num_dims)
                rows.append({"model": name, "eps": e, "row": row, **numbers, "floor": floor})
                rows[-1] |= {"mixed": mixed_mean(bits, uniform_weight, num_dims)}
                rows[-1] |= {"ceiling": ceiling}
                if row == "noise" and numbers["high"] < floor:
                    warnings.append(
                        f"{name}, eps {e}: the noise row lies below its Gibbs floor: the density "
                        "is not normalised, or not in nats per unit of x in [0, 1]"
                    )
            if e:
                sign = 1.0 if goal == "lower" else -1.0
                ahead = sign * (values[name, e, "noise"] - values[name, e, "attacked"])
                if beaten := int((ahead > 0).sum()):
                    warnings.append(
                        f"{name}, eps {e}: uniform noise beats the attack on {beaten} of "
                        f"{len(images)} images: raise num_steps, or check the gradients with "
                        "flowrob.blackbox.square"
                    )
            bar.update()
    bar.close()
    if len(models) == 1:
        for row in rows:
            del row["model"]
    settings = {"num_images": len(images), "num_dims": num_dims, "eps": eps, "goal": goal}
    settings |= {"noise": noise, "uniform_weight": uniform_weight, "attack_options": options}
    settings |= {"seed": generator.initial_seed(), "num_resamples": num_resamples}
    settings |= {"flowrob": flowrob.__version__, "torch": torch.__version__}
    precision = {str(v.dtype).removeprefix("torch.") for v in values.values()}
    caption = f"Bits/dim of {len(images)} images, attack: {goal}s the likelihood"
    settings["scored_in"] = ", ".join(sorted(precision))
    return Table(rows, caption, values, kept, settings, warnings)


def detection_table(
    log_prob: Objective,
    in_images: Tensor,
    out_images: Tensor,
    eps: Iterable[int] = (0, 1, 2, 4, 8),
    *,
    generator: torch.Generator,
    noise: str = "fixed",
    batch_size: int = 64,
    attack_options: Mapping | None = None,
) -> Table:
    """AUROC of telling in-distribution images from others by their likelihood.

    AUROC = P(log p(in) > log p(out)) + P(equal) / 2: 1 is perfect, 1/2 is chance, 0 is always
    wrong. Rows: the data clean, noisy or attacked (likelihood lowered) against the others, clean or
    attacked (likelihood raised); and the data against their own noisy and attacked versions, where
    1 means that likelihood gives the perturbation away. Of non-finite likelihoods -inf and NaN rank
    lowest, +inf highest.

    Source: section 5 of the paper (its two attacks and the noise baseline).

    Args:
        log_prob: of x in [0, 1]; maps (batch, C, H, W) to (batch,), nats.
        in_images: (N, C, H, W) uint8, of the data the model was trained on.
        out_images: (M, C, H, W) uint8, of something else, for example uniform noise.
        eps: l_inf radii in grey levels.
        generator: draws dequantisation and uniform noise, and what the attacks need.
        noise: of the attack: "fixed", "midpoint" or "expected".
        batch_size: images at a time.
        attack_options: for :func:`flowrob.pixels.attack_images`.

    Returns:
        A :class:`Table`. ``values[eps, which]`` are log-likelihoods in nats per image, with which
        "in clean", "in noise", "in attacked", "out clean" or "out attacked".

    Raises:
        TypeError: images are not uint8.
        ValueError: no images, or eps that are not integers.
    """
    options, eps = dict(attack_options or {}), check_eps(eps)
    check_images(in_images, "in_images")
    check_images(out_images, "out_images")
    sets = {"in": in_images, "out": out_images}
    scoring = {k: dequantization_noise(v, "fixed", generator) for k, v in sets.items()}
    goals = {"in": "lower", "out": "raise"}
    rows, values, warnings = [], {}, []
    for e in eps:
        inputs = {f"{k} clean": v for k, v in sets.items()}
        pairs = [("in clean", "out clean")]
        if e:
            inputs["in noise"] = _integer_noise(in_images, e, generator)
            for k, v in sets.items():
                attack = attack_images(
                    log_prob,
                    v,
                    e,
                    goal=goals[k],
                    noise=noise,
                    batch_size=batch_size,
                    generator=generator,
                    **options,
                )
                inputs[f"{k} attacked"] = attack.x
                warnings += [f"{k}, eps {e}: {warning}" for warning in attack.warnings]
            pairs = [
                ("in noise", "out clean"),
                ("in attacked", "out clean"),
                ("in clean", "out attacked"),
                ("in attacked", "out attacked"),
                ("in clean", "in noise"),
                ("in clean", "in attacked"),
            ]
        for which, levels in inputs.items():
            of = which.split()[0]
            values[e, which] = score_images(log_prob, levels, scoring[of], batch_size)
        for first, second in pairs:
            auroc = _auroc(values[e, first], values[e, second])
            rows.append({"eps": e, "in": first, "out": second, "auroc": auroc})
    settings = {"num_in": len(in_images), "num_out": len(out_images), "eps": eps, "noise": noise}
    settings |= {"attack_options": options, "seed": generator.initial_seed()}
    caption = "AUROC of detection by likelihood"
    return Table(rows, caption, values, {}, settings, warnings)


def _auroc(inside: Tensor, outside: Tensor) -> float:
    scores = torch.cat((inside, outside)).double()
    ranks = rankdata(scores.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).cpu())
    labels = [1] * len(inside) + [0] * len(outside)
    return float(roc_auc_score(labels, ranks))


@dataclass(frozen=True)
class Anatomy:
    """The change of bits/dim between two inputs, split into the terms of the change of variables.

        total = sum_levels latent - sum_layers log_det

    Attributes:
        layers: (level, name) of every layer, in the order in which they are applied.
        latent: (levels, batch), the change of 1/2 |z_level|^2, in bits/dim.
        log_det: (layers, batch), the change of each layer's log|det|, in bits/dim.
        distance: (layers, batch), |h' - h| / |h' - h at the input| after each layer: how much the
            difference between the two inputs has grown on its way.
        total: (batch,), the change of bits/dim.
    """

    layers: list[tuple[int, str]]
    latent: Tensor
    log_det: Tensor
    distance: Tensor
    total: Tensor

    def table(self) -> Table:
        """Means over the batch: a row per level."""
        rows = []
        for level in range(1, len(self.latent) + 1):
            mine = [i for i, (of, _) in enumerate(self.layers) if of == level]
            latent, volume = self.latent[level - 1].mean(), -self.log_det[mine].sum(0).mean()
            rows.append({"level": level, "latent": latent.item(), "volume": volume.item()})
        rows.append({"level": "total", "latent": self.latent.sum(0).mean().item()})
        rows[-1]["volume"] = -self.log_det.sum(0).mean().item()
        return Table(rows, "Where the bits/dim come from: mean change, latent norm and log-det")


def anatomy(flow: Flow, x: Tensor, x_attacked: Tensor) -> Anatomy:
    """Where inside the flow an attack acts: NLL = 1/2 |z|^2 + (D/2) log(2 pi) - log|det|, by term.

    Computed in float64, on a copy of the flow, layer by layer.

    Source: section 2.1 of the paper for the decomposition.

    Args:
        flow: a :class:`~flowrob.flows.Flow`; the levels of a multi-scale flow are kept apart.
        x: (batch, *event_shape).
        x_attacked: the same shape.

    Returns:
        An :class:`Anatomy`, in bits/dim.

    Raises:
        TypeError: flow is not a Flow, or an input not of floating point.
        ValueError: the two inputs differ in shape, or do not fit the flow.
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowrob.flows.Flow, got {type(flow).__name__}")
    if x.shape != x_attacked.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}, x_attacked {tuple(x_attacked.shape)}")
    both = torch.cat((flow._check(x), flow._check(x_attacked, "x_attacked"))).detach().double()
    walk = _Walk(both)
    with torch.no_grad():
        rest = walk.visit(in_double(flow).bijection, both)
    energies = [0.5 * z.flatten(1).square().sum(1) for z in (*walk.leaving, rest)]
    scale = 1.0 / (flow.num_dims * math.log(2.0))
    latent, log_det = (
        torch.stack([scale * (after - before) for before, after in map(_halves, terms)])
        for terms in (energies, walk.log_dets)
    )
    total = latent.sum(0) - log_det.sum(0)
    return Anatomy(walk.layers, latent, log_det, torch.stack(walk.distances), total)


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    return both.chunk(2)


class _Walk:
    """One pass through a flow that keeps what every layer does to a batch of two halves."""

    def __init__(self, both: Tensor):
        self.level, self.start = 1, self._distance(both)
        self.layers: list[tuple[int, str]] = []
        self.leaving: list[Tensor] = []
        self.log_dets: list[Tensor] = []
        self.distances: list[Tensor] = []

    def _distance(self, both: Tensor) -> Tensor:
        before, after = _halves(both.flatten(1))
        return (after - before).norm(dim=1)

    def visit(self, bijection: Bijection, h: Tensor) -> Tensor:
        """bijection(h)[0] without the latents that left, layer by layer."""
        if isinstance(bijection, Chain):
            for layer in bijection:
                h = self.visit(layer, h)
            return h
        if isinstance(bijection, MultiScale):
            for self.level, level in enumerate(bijection.levels, 1):
                h = self.visit(level, h)
                if self.level < len(bijection.levels):
                    h, leaving = h.chunk(2, dim=1)
                    self.leaving.append(leaving)
            return h
        h, log_det = bijection(h)
        self.layers.append((self.level, type(bijection).__name__))
        self.log_dets.append(log_det)
        self.distances.append(self._distance(h) / self.start)
        return h
