"""Detection: can a likelihood tell data from what is not data, clean or attacked? (section 5)

AUROC = P(log p(in) > log p(out)) + P(equal) / 2
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flowrob.attacks import Objective, attack_images, dequantization_noise, score_images
from flowrob.attacks.objectives import check_callable
from flowrob.attacks.starts import check_generator, check_integers
from flowrob.evaluation.bits import check_eps, integer_noise
from flowrob.evaluation.table import Table
from flowrob.units import check_images


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
        attack_options: for :func:`flowrob.attacks.attack_images`.

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
    check_callable(log_prob)
    check_generator(generator)
    check_integers(1, batch_size=batch_size)
    sets = {"in": in_images, "out": out_images}
    scoring = {k: dequantization_noise(v, "fixed", generator) for k, v in sets.items()}
    goals = {"in": "lower", "out": "raise"}
    rows, values, warnings = [], {}, []
    for e in eps:
        inputs = {f"{k} clean": v for k, v in sets.items()}
        pairs = [("in clean", "out clean")]
        if e:
            inputs["in noise"] = integer_noise(in_images, e, generator)
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
            scores = values[e, which] = score_images(log_prob, levels, scoring[of], batch_size)
            if bad := int((~scores.isfinite()).sum()):
                warnings.append(
                    f"eps {e}: {bad} of {len(scores)} likelihoods of {which!r} are not finite; NaN "
                    "ranks lowest, so an AUROC of 0.5 may mean a broken model"
                )
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
