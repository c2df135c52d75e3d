"""Evaluation: numbers that can be computed by hand, and tables that drop nothing."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from flowrob.balls import L2Ball
from flowrob.bijections import ActNorm, Chain
from flowrob.evaluation import (
    _auroc,
    _quantile,
    anatomy,
    bits_per_dim,
    bootstrap_interval,
    detection_table,
    gibbs_floor,
    mixture,
    robustness_table,
    uniform,
    uniform_ceiling,
)
from flowrob.flows import Flow, realnvp
from flowrob.pixels import dequantization_noise, score_images
from flowrob.tables import Table


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def triangle(x):
    """log p of independent pixels with p(x) = 2 (1 - x): grey levels, bits and attacks by hand."""
    return (2.0 * (1.0 - x).clamp(min=1e-30)).log().flatten(1).sum(1)


def test_bits_per_dim_of_the_uniform_density_is_eight():
    x = torch.rand(3, 1, 2, 2, generator=seeded())
    assert torch.equal(bits_per_dim(uniform(x), 4), torch.full((3,), 8.0))
    assert bits_per_dim(torch.tensor(-4 * math.log(2.0)), 4).item() == pytest.approx(9.0)


@pytest.mark.parametrize("eps", [0, 1, 3, 200])
def test_gibbs_floor_is_the_entropy_of_clipped_noise(eps):
    values = torch.tensor([0, 1, 2, 100, 254, 255], dtype=torch.uint8)
    entropies = []
    for value in values.tolist():
        outcomes = (torch.arange(-eps, eps + 1) + value).clamp(0, 255)
        share = outcomes.unique(return_counts=True)[1].double() / len(outcomes)
        entropies.append(-(share * share.log2()).sum())
    expected = torch.stack(entropies).mean().item()
    assert gibbs_floor(eps, values.reshape(1, 1, 2, 3)) == pytest.approx(expected, abs=1e-12)
    grey = torch.full((2, 3), 128, dtype=torch.uint8)
    if eps < 128:
        assert gibbs_floor(eps, grey) == pytest.approx(gibbs_floor(eps), abs=1e-12)
    assert gibbs_floor(eps) == pytest.approx(math.log2(2 * eps + 1))


def test_gibbs_floor_is_reached_by_the_noise_density_itself():
    """The density that is uniform on the noisy versions of one image has exactly the floor."""
    image, eps = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8), 2

    def log_prob(x):
        inside = ((x >= 98 / 256) & (x < 103 / 256)).flatten(1).all(1)
        return torch.where(inside, 4 * math.log(256 / 5), -math.inf)

    nll = []
    for noise in itertools.product(range(-eps, eps + 1), repeat=4):
        levels = (image.int() + torch.tensor(noise).reshape(1, 1, 2, 2)).to(torch.uint8)
        u = dequantization_noise(levels, "midpoint")
        nll.append(bits_per_dim(score_images(log_prob, levels, u), 4))
    assert torch.cat(nll).mean().item() == pytest.approx(gibbs_floor(eps), abs=1e-6)


def test_uniform_ceiling_caps_every_input():
    def absurd(x):
        return torch.full((len(x),), -1e6)

    capped = mixture(absurd, uniform, 0.01)
    bits = bits_per_dim(capped(torch.rand(2, 3, 4, 4, generator=seeded())), 48)
    assert torch.allclose(bits, torch.tensor(uniform_ceiling(0.01, 48)))
    assert uniform_ceiling(0.5, 1) == 9.0
    with pytest.raises(ValueError, match=r"weight must lie in \(0, 1\), got 0"):
        uniform_ceiling(0.0, 3)


def test_quantiles_interpolate_and_survive_infinities():
    values = torch.tensor([4.0, 1.0, 2.0, 3.0])
    assert [_quantile(values, q) for q in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.75, 2.5, 4.0]
    heavy = torch.tensor([1.0, math.inf, 2.0])
    assert [_quantile(heavy, q) for q in (0.5, 0.75, 1.0)] == [2.0, math.inf, math.inf]
    assert _quantile(torch.tensor([math.inf, math.inf]), 0.5) == math.inf


def test_bootstrap_interval_has_the_width_of_the_standard_error():
    values = torch.randn(400, generator=seeded()).double()
    low, high = bootstrap_interval(values, seeded(), 4000)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert bootstrap_interval(values, seeded(), 4000) == (low, high)
    assert bootstrap_interval(torch.full((5,), 3.0), seeded()) == (3.0, 3.0)
    wide = bootstrap_interval(values, seeded(), 4000, level=0.999)
    assert wide[0] < low
    assert wide[1] > high


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
    assert table.warnings == []


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


def test_table_formats():
    table = Table(
        [{"eps": 0, "mean": 3.14159}, {"eps": 8, "mean": math.inf, "note": "<b>"}],
        "A caption",
        warnings=["watch out"],
    )
    markdown = table.to_markdown()
    assert markdown == table._repr_markdown_()
    assert markdown.splitlines() == [
        "A caption",
        "",
        "| eps | mean | note |",
        "| --- | --- | --- |",
        "| 0 | 3.14 |  |",
        "| 8 | inf | <b> |",
        "",
        "Warning: watch out",
    ]
    text = table._repr_html_()
    assert "<td>3.14</td>" in text
    assert "&lt;b&gt;" in text
    assert "<caption>A caption</caption>" in text
    assert json.loads(table.to_json())["rows"] == [
        {"eps": 0, "mean": 3.14159},
        {"eps": 8, "mean": "inf", "note": "<b>"},
    ]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"eps": (0.5,)}, ValueError, "eps must hold integers"),
        ({"eps": ()}, ValueError, "eps must hold integers"),
        ({"images": torch.zeros(1, 1, 2, 2)}, TypeError, "images must be uint8"),
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


@pytest.mark.parametrize("which", ["in_images", "out_images"])
def test_detection_takes_8_bit_images_only(which):
    black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    cases = ((black.float(), TypeError, "uint8"), (black[:0], ValueError, "empty"))
    for bad, error, words in cases:
        sets = {"in_images": black, "out_images": black} | {which: bad}
        with pytest.raises(error, match=f"{which} .*{words}"):
            detection_table(triangle, **sets, eps=(0,), generator=seeded())
    with pytest.raises(TypeError, match="images must be uint8"):
        gibbs_floor(1, black.float())


def test_anatomy_takes_flows_and_numbers(flow, images):
    x = torch.rand(2, 3, 8, 8, generator=seeded())
    with pytest.raises(TypeError, match=r"flow must be a flowrob\.flows\.Flow, got method"):
        anatomy(flow.log_prob, x, x)
    with pytest.raises(TypeError, match="x_attacked must be a floating-point tensor"):
        anatomy(flow, x, images[:2])
    with pytest.raises(ValueError, match="x must have shape"):
        anatomy(flow, x[:, :1], x[:, :1])


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


def test_anatomy_of_a_realnvp_behind_its_logit():
    flow = realnvp((3, 8, 8), num_levels=2, width=8, num_blocks=1)
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    flow.initialize(torch.rand(64, 3, 8, 8, generator=seeded(1)))
    generator = seeded(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    other = (x + 0.1 * torch.randn(x.shape, generator=seeded(1))).clamp(0, 1)
    parts = anatomy(flow, x, other)
    before, after = (bits_per_dim(flow.log_prob(v), flow.num_dims).detach() for v in (x, other))
    assert torch.allclose(parts.total.float(), after - before, rtol=1e-4, atol=1e-3)
    assert parts.layers[0] == (1, "Logit")
    assert parts.latent.shape == (2, 4)


@pytest.mark.parametrize("eps", [0.01, 0.2])
def test_anatomy_adds_up_to_the_change_of_bits_per_dim(flow, eps):
    x = torch.rand(4, 3, 8, 8, generator=seeded())
    other = (x + eps * torch.randn(x.shape, generator=seeded(1))).clamp(0, 1)
    parts = anatomy(flow, x, other)
    before, after = (bits_per_dim(flow.log_prob(v), flow.num_dims).detach() for v in (x, other))
    assert torch.allclose(parts.total.float(), after - before, atol=1e-5)
    assert torch.allclose(parts.total, parts.latent.sum(0) - parts.log_det.sum(0))
    sizes = [math.prod(shape) for shape in flow.bijection.shapes]
    energy = [
        [0.5 * z.square().sum(1) for z in flow.encode(v).detach().split(sizes, 1)]
        for v in (x, other)
    ]
    scale = flow.num_dims * math.log(2)
    for level in range(2):
        change = (energy[1][level] - energy[0][level]) / scale
        assert torch.allclose(parts.latent[level].float(), change, atol=1e-5)
    names = [name for _, name in parts.layers]
    assert names[:4] == ["Squeeze", "ActNorm", "InvertibleConv1x1", "AffineCoupling"]
    assert len(parts.layers) == len(parts.log_det) == len(parts.distance)
    flat = [i for i, name in enumerate(names) if name != "AffineCoupling"]
    assert bool((parts.log_det[flat] == 0).all())  # their volume does not depend on x
    assert parts.log_det[names.index("AffineCoupling")].abs().min() > 0
    assert torch.allclose(parts.distance[0], torch.ones(4).double())
    rows = parts.table().rows
    assert rows[-1]["latent"] + rows[-1]["volume"] == pytest.approx(parts.total.mean().item())
    assert sum(row["volume"] for row in rows[:-1]) == pytest.approx(rows[-1]["volume"])


def test_anatomy_of_a_flow_without_levels():
    flow = Flow(Chain([ActNorm(2)]), (2,))
    flow.initialize(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))  # z = (x1 - 1, (x2 - 2) / 2)
    parts = anatomy(flow, torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 2.0]]))
    assert parts.layers == [(1, "ActNorm")]
    assert parts.total.item() == pytest.approx(4.5 / (2 * math.log(2)), rel=1e-6)
    assert parts.distance.item() == pytest.approx(1.0, rel=1e-6)
    with pytest.raises(ValueError, match="x_attacked"):
        anatomy(flow, torch.zeros(1, 2), torch.zeros(2, 2))
