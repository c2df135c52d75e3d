"""Detection: AUROC by hand, and where likelihoods are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from small_tables import seeded, triangle

from flowrob.evaluation import detection_table, gibbs_floor
from flowrob.evaluation.detection import _auroc


def test_detection_by_hand():
    """Dark images are likely under p = 2 (1 - x): detection is perfect until the attack crosses."""
    dark = torch.full((4, 1, 2, 2), 100, dtype=torch.uint8)
    light = torch.full((3, 1, 2, 2), 110, dtype=torch.uint8)
    table = detection_table(triangle, dark, light, (0, 2, 8, 20), generator=seeded())
    auroc = {(row["eps"], row["in"], row["out"]): row["auroc"] for row in table.rows}
    assert auroc[0, "in clean", "out clean"] == 1.0
    assert auroc[2, "in attacked", "out attacked"] == 1.0
    assert auroc[8, "in attacked", "out clean"] == 1.0
    assert auroc[8, "in attacked", "out attacked"] == 0.0
    assert auroc[20, "in attacked", "out clean"] == 0.0
    assert auroc[20, "in clean", "out attacked"] == 0.0
    assert auroc[8, "in clean", "in attacked"] == 1.0
    assert table.values[8, "out attacked"].shape == (3,)
    swapped = detection_table(triangle, light, dark, (0,), generator=seeded())
    assert swapped.rows[0]["auroc"] == 0.0


def test_auroc_agrees_with_sklearn_and_ranks_non_finite_values():
    a, b = torch.randn(20, generator=seeded()) + 1, torch.randn(30, generator=seeded(1))
    expected = roc_auc_score([1] * 20 + [0] * 30, torch.cat((a, b)).tolist())
    assert _auroc(a, b) == pytest.approx(expected)
    bad = torch.tensor([-math.inf, math.nan])
    assert _auroc(torch.tensor([1.0, math.inf]), bad) == 1.0
    assert _auroc(bad, torch.tensor([math.nan])) == 0.5


@pytest.mark.parametrize("which", ["in_images", "out_images"])
def test_detection_takes_8_bit_images_only(which):
    black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    cases = ((black.float(), TypeError, "uint8"), (black[:0], ValueError, "empty"))
    for bad, error, words in cases:
        sets = {"in_images": black, "out_images": black} | {which: bad}
        with pytest.raises(error, match=f"{which} .*{words}"):
            detection_table(triangle, **sets, eps=(0,), generator=seeded())
    with pytest.raises(TypeError, match="images must be a uint8 tensor"):
        gibbs_floor(1, black.float())


def test_a_model_of_nan_is_announced_beside_its_auroc():
    images = torch.full((4, 1, 2, 2), 100, dtype=torch.uint8)
    broken = lambda x: triangle(x) * math.nan  # noqa: E731
    table = detection_table(broken, images, images, (0,), generator=seeded())
    assert table.rows[0]["auroc"] == 0.5
    for which in ("in clean", "out clean"):
        assert any(f"4 of 4 likelihoods of {which!r}" in line for line in table.warnings)
