"""The table of one attack: rows by hand, one noise for all, nothing dropped."""

from __future__ import annotations

import json
import math

import pytest
import torch
from small_tables import seeded, triangle

from flowrob.attacks import L2Ball, dequantization_noise
from flowrob.evaluation import gibbs_floor, robustness_table


def test_robustness_table_by_hand():
    """Pixels with p(x) = 2 (1 - x): the worst image is brighter by eps, exactly."""
    images = torch.tensor([[10, 200], [250, 100], [0, 128]], dtype=torch.uint8)
    images = images.reshape(3, 1, 1, 2)
    table = robustness_table(triangle, images, (0, 4), generator=seeded(), batch_size=2)
    u = dequantization_noise(images, "fixed", seeded())[0]

    def bits(levels):
        x = (levels + u).double().flatten(1) / 256
        return 8 - (2 * (1 - x)).log2().mean(1)

    expected = {"clean": bits(images), "attacked": bits(images.int() + 4)}
    assert [(row["eps"], row["row"]) for row in table.rows] == [
        (0, "clean"),
        (4, "attacked"),
        (4, "attacked 8-bit"),
        (4, "noise"),
    ]
    for key in (("model", 4, "attacked"), ("model", 4, "attacked 8-bit")):
        assert torch.equal(table.images[key].int(), images.int() + 4)
        assert torch.allclose(table.values[key], expected["attacked"], rtol=1e-9)
    assert torch.allclose(table.values["model", 0, "clean"], expected["clean"], rtol=1e-9)
    noise = table.images["model", 4, "noise"]
    assert noise.dtype == torch.uint8
    assert 0 < (noise.int() - images.int()).abs().max() <= 4
    assert torch.allclose(table.values["model", 4, "noise"], bits(noise), rtol=1e-9)
    row, values = table.rows[1], expected["attacked"].sort().values
    assert row["mean"] == pytest.approx(values.mean().item())
    assert row["median"] == pytest.approx(values[1].item())
    assert row["q25"] == pytest.approx(values[:2].mean().item())
    assert row["q75"] == pytest.approx(values[1:].mean().item())
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["floor"] == pytest.approx(gibbs_floor(4, images))
    assert row["ceiling"] == pytest.approx(8 + math.log2(100) / 2)
    mixed = 8 - (0.99 * 4.0 ** (8 - values) + 0.01).log2() / 2
    assert row["mixed"] == pytest.approx(mixed.mean().item(), rel=1e-9)
    assert row["mixed"] <= row["ceiling"]
    assert row["nonfinite"] == 0
    assert table.settings["scored_in"] == "float64"
    (warning,) = table.warnings  # these pixels are bright, where the density is low
    assert "the clean images cost 8.58 bits/dim" in warning


def test_raising_goes_the_other_way():
    images = torch.tensor([[10, 200]], dtype=torch.uint8).reshape(1, 1, 1, 2)
    table = robustness_table(triangle, images, [3], generator=seeded(), goal="raise")
    assert torch.equal(table.images["model", 3, "attacked"].int(), images.int() - 3)
    assert not any("beats" in warning for warning in table.warnings)
    assert table.rows[0]["floor"] is None
    assert table.rows[2]["floor"] is not None


def test_rows_share_their_noise_and_do_not_depend_on_models_or_batches(flow, images):
    options = {"attack_options": {"num_steps": 4}}
    both = robustness_table(
        {"a": flow.log_prob, "b": flow.log_prob}, images, (1,), generator=seeded(), **options
    )
    alone = robustness_table(flow.log_prob, images, (1,), generator=seeded(), **options)
    chunked = robustness_table(
        flow.log_prob, images, (1,), generator=seeded(), batch_size=4, **options
    )
    for kind in ("attacked", "attacked 8-bit", "noise"):
        assert torch.equal(both.values["a", 1, kind], both.values["b", 1, kind])
        assert torch.equal(both.values["a", 1, kind], alone.values["model", 1, kind])
        assert torch.allclose(
            chunked.values["model", 1, kind], alone.values["model", 1, kind], rtol=1e-3
        )
    assert bool((alone.values["model", 1, "attacked"] > alone.values["model", 1, "noise"]).all())
    assert "model" in both.columns
    assert "model" not in alone.columns


def test_infinite_values_stay_in_the_mean_and_are_counted():
    def log_prob(x):
        return torch.where((x > 200 / 256).flatten(1).any(1), -math.inf, triangle(x))

    images = torch.tensor([[10, 100], [150, 199], [30, 40]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    table = robustness_table(log_prob, images, (0, 8), generator=seeded())
    clean, attacked = table.rows[0], table.rows[1]
    assert clean["nonfinite"] == 0
    assert attacked["nonfinite"] == 1
    assert attacked["mean"] == attacked["high"] == math.inf
    assert math.isfinite(attacked["median"])
    assert attacked["mixed"] <= attacked["ceiling"]
    assert any("non-finite" in warning for warning in table.warnings)
    assert json.loads(table.to_json())["rows"][1]["mean"] == "inf"


def test_a_density_that_is_not_normalised_is_found_out(images):
    def liar(x):
        return triangle(x) + 192 * 6.5 * math.log(2)

    table = robustness_table(liar, images, (8,), generator=seeded())
    assert any("below its Gibbs floor" in warning for warning in table.warnings)
    honest = robustness_table(triangle, images, (8,), generator=seeded())
    assert not any("Gibbs" in warning for warning in honest.warnings)


def test_noise_that_beats_the_attack_is_reported(images):
    def masked(x):
        return -(256 * x).round().flatten(1).var(1) + 0.0 * x.flatten(1).sum(1)

    def blind(x):
        return masked(x.detach()) + 0.0 * x.flatten(1).sum(1)

    table = robustness_table(blind, images, (8,), generator=seeded())
    assert any("uniform noise beats the attack" in warning for warning in table.warnings)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"eps": (0.5,)}, ValueError, "eps must hold integers"),
        ({"eps": ()}, ValueError, "eps must hold integers"),
        ({"images": torch.zeros(1, 1, 2, 2)}, TypeError, "images must be a uint8 tensor"),
        ({"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, ValueError, "images is empty"),
        ({"noise": "none"}, ValueError, "noise must be"),
        ({"goal": "up"}, ValueError, "goal must be"),
        ({"goal": "up", "eps": (0,)}, ValueError, "goal must be"),
        ({"eps": (math.inf,)}, ValueError, "eps must hold integers"),
        ({"models": {}}, ValueError, "models is empty"),
        ({"uniform_weight": 2.0}, ValueError, r"weight must lie in \(0, 1\), got 2"),
        ({"attack_options": {"norm": L2Ball}}, ValueError, "l_inf ball"),
    ],
)
def test_errors_name_the_argument(changes, error, words):
    black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    arguments = {"models": triangle, "images": black, "eps": (1,)} | changes
    with pytest.raises(error, match=words):
        robustness_table(generator=seeded(), **arguments)


def test_an_attack_that_returns_8_bit_images_makes_both_rows():
    grey = torch.full((2, 1, 2, 2), 100, dtype=torch.uint8)

    def density(x):  # prefers light: the attack goes down, where uint8 differences would wrap
        return triangle(1.0 - x)

    options = {"attack_options": {"quantize": True}, "generator": seeded()}
    table = robustness_table(density, grey, (4,), **options)
    for row in ("attacked", "attacked 8-bit"):
        assert torch.equal(table.images["model", 4, row], grey - 4)


def test_a_negative_log_likelihood_and_a_model_of_nan_are_found_out():
    images = torch.randint(60, 140, (8, 1, 8, 8), generator=seeded()).to(torch.uint8)

    def density(x):  # narrow around the grey levels that the images have
        return -((x - 0.4) / 0.02).abs().flatten(1).sum(1)

    def warnings(log_prob):
        eps, options = (0, 40), {"num_steps": 1}
        return robustness_table(
            log_prob, images, eps, generator=seeded(), attack_options=options
        ).warnings

    assert not any("more likely" in line for line in warnings(density))
    assert any("noise makes the images more likely" in w for w in warnings(lambda x: -density(x)))
    broken = warnings(lambda x: density(x) * math.nan)
    assert any("8 clean values are not finite" in line for line in broken)
