"""Moving a slider draws a new picture, and the numbers under it are the closed form's."""

from __future__ import annotations

import io
import math
import re

import ipywidgets
import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scripts import load_script

from flowrob import lessons, plots, zoo
from flowrob.attacks import LinfBall, lower_likelihood
from flowrob.evaluation import anatomy
from flowrob.linear import GaussianFlow, best_case, worst_case
from flowrob.records import digest, read_tensors, write_tensors
from flowrob.widgets import (
    ATTACK_EPS,
    Explorer,
    attack_explorer,
    draw_layer,
    layer_explorer,
    layer_walk,
    stored_attacks,
    stored_recipe,
    trade_off_explorer,
    worst_case_explorer,
)


def shown(explorer: Explorer) -> list[str]:
    """The numbers and words set in bold in the caption."""
    return re.findall(r"<b>(.*?)</b>", explorer.caption.value)


def picture(explorer: Explorer) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(explorer.image.value), format="png")


def by_hand(degrees: float, condition: float, along: float, across: float):
    """The density and the point, from the covariance itself, written out."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    long, short = torch.tensor([c, s]).double(), torch.tensor([-s, c]).double()
    covariance = 2.0 * torch.outer(long, long) + 2.0 / condition * torch.outer(short, short)
    return GaussianFlow(torch.zeros(2), covariance), (along * long + across * short)[None]


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return worst_case_explorer()


@pytest.mark.parametrize(
    ("name", "value"),
    [("degrees", 90), ("condition", 3.0), ("along", -2.0), ("across", 0.8), ("radius", 2.2)],
)
def test_each_slider_redraws_and_shows_the_closed_form(explorer, name: str, value: float):
    before = explorer.image.value
    explorer.sliders[name].value = value
    assert explorer.image.value != before
    values = {name: slider.value for name, slider in explorer.sliders.items()}
    radius = values.pop("radius")
    flow, x = by_hand(**values)
    worst, best = worst_case(flow, x, radius), best_case(flow, x, radius)
    numbers = [found.item() for found in (worst.drop, best.drop, worst.multiplier)]
    assert [float(text) for text in shown(explorer)[:3]] == pytest.approx(numbers, abs=6e-4)


def test_the_density_is_drawn_at_the_angle_set(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "plane", lambda ax, *arrays, **options: drawn.append(arrays))
    worst_case_explorer()
    flow, x = by_hand(degrees=25, condition=10, along=1.5, across=0.3)
    for array, expected in zip(drawn[0], (flow.mean, flow.covariance, x[0]), strict=False):
        torch.testing.assert_close(array, expected)


def test_a_point_on_the_long_axis_is_called_hard():
    explorer = worst_case_explorer()
    assert shown(explorer)[3] == "no"
    explorer.sliders["across"].value = 0.0
    assert shown(explorer)[3] == "yes: two optima"


def test_the_best_step_may_stop_at_the_mean_inside_the_ball():
    explorer = worst_case_explorer()
    for name, value in {"along": 0.5, "across": 0.0, "radius": 3.0}.items():
        explorer.sliders[name].value = value
    assert float(shown(explorer)[1]) == pytest.approx(-0.5 * 0.5**2 / 2.0, abs=6e-4)


def test_the_picture_is_a_png_with_content(explorer):
    assert bytes(explorer.image.value[:4]) == b"\x89PNG"
    pixels = picture(explorer)
    assert pixels.shape[:2] == (420, 1300)
    assert np.ptp(pixels[..., :3]) > 0.5


def test_sliders_wait_until_they_are_let_go_and_all_are_on_show(explorer):
    assert not any(slider.continuous_update for slider in explorer.sliders.values())
    children = (explorer.image, explorer.caption, *explorer.sliders.values())
    assert explorer.children == children
    assert not any(isinstance(child, ipywidgets.Output) for child in children)


def test_a_setting_once_seen_is_drawn_the_same_again():
    explorer = worst_case_explorer()
    first = explorer.image.value
    explorer.sliders["radius"].value = 2.0
    explorer.sliders["radius"].value = 1.0
    assert explorer.image.value == first


def test_the_text_twin_is_the_same_in_every_run(explorer):
    assert repr(explorer) == "5 sliders and a picture: run this cell in JupyterLab"
    (radius, slider), *_ = explorer.sliders.items()
    one = Explorer(lambda figure, **_: "", {radius: slider}, (1, 1))
    assert repr(one) == "1 slider and a picture: run this cell in JupyterLab"


def test_an_explorer_hands_all_values_to_draw_by_name():
    calls = []

    def draw(figure, **values) -> str:
        calls.append(values)
        return "caption"

    slider = ipywidgets.IntSlider(value=3)
    explorer = Explorer(draw, {"k": slider}, figsize=(1, 1))
    slider.value = 5
    assert calls == [{"k": 3}, {"k": 5}]
    assert explorer.caption.value == "caption"


def trained_by_hand(eps: float, rounds: int, procedure: str, clean_share: float = 0.0) -> float:
    """The variance after training, written out."""
    e, kappa, v = eps, math.sqrt(2) * math.gamma(5.5) / math.gamma(5), 1.0
    for k in range(1, rounds + 1):
        attacked = {
            "a": v * (1 + (2 * e * kappa + e**2) / 10),
            "b": v + (2 * e * kappa * math.sqrt(v) + e**2) / 10,
            "c": 1 + (2 * k * e * kappa + (k * e) ** 2) / 10,
            "d": 1 + (2 * e * kappa + e**2) / 10,
        }[procedure]
        v = clean_share + (1 - clean_share) * attacked
    return v


@pytest.mark.parametrize(
    ("name", "value"),
    [("eps", 2.5), ("rounds", 7), ("procedure", "b"), ("procedure", "c"), ("procedure", "d")],
)
def test_the_trade_off_explorer_shows_the_closed_form(name: str, value: float | str):
    explorer = trade_off_explorer()
    before = explorer.image.value
    explorer.sliders[name].value = value
    assert explorer.image.value != before
    eps, rounds, procedure = (slider.value for slider in explorer.sliders.values())
    v = trained_by_hand(eps, rounds, procedure)
    hybrid = trained_by_hand(eps, rounds, procedure, clean_share=0.5)
    drop = 5 * (math.log(v) + 1 / v - 1)
    sensitivity = 10 * (trained_by_hand(eps, 1, "d") - 1) / (2 * v)
    assert [float(text) for text in shown(explorer)] == pytest.approx(
        [v, drop, sensitivity, hybrid], abs=6e-3
    )


@pytest.mark.parametrize("rounds", [0, 10])
@pytest.mark.parametrize("eps", [0.1, 3.0])
def test_the_trade_off_explorer_draws_at_the_ends_of_its_sliders(eps: float, rounds: int):
    explorer = trade_off_explorer()
    explorer.sliders["eps"].value, explorer.sliders["rounds"].value = eps, rounds
    assert not any(slider.continuous_update for slider in explorer.sliders.values())
    assert np.ptp(picture(explorer)[..., :3]) > 0.5
    assert (float(shown(explorer)[0]) == 1.0) == (rounds == 0)


def test_the_attack_explorer_shows_what_was_computed_before():
    photographs = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    grid = {
        (model, change, eps): (photographs, torch.full((3,), 4.0 + factor * eps))
        for model, factor in (("clean", 1.0), ("robust", 0.1))
        for change in ("chosen", "random")
        for eps in ATTACK_EPS
    }
    explorer = attack_explorer(grid)
    assert shown(explorer) == ["10^58 times less probable"]  # 1 bit/dim in 192 dimensions
    before = explorer.image.value
    for name, value in (("eps", 8), ("model", "robust"), ("photograph", 2), ("change", "random")):
        explorer.sliders[name].value = value
        assert explorer.image.value != before or name == "change"
        before = explorer.image.value
    assert shown(explorer) == ["10^46 times less probable"]


def test_the_layer_explorer_walks_through_what_the_anatomy_measures(flow):
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    attacked = (x + 8 / 256).clamp(0, 1)
    report, explorer = anatomy(flow, x, attacked), layer_explorer(flow, x, attacked)
    slider = explorer.sliders["layer"]
    assert (slider.min, slider.max) == (1, len(report.layers))
    assert not slider.continuous_update
    for layer in (1, 4, len(report.layers)):
        slider.value = layer
        assert shown(explorer) == [lessons.rounded(report.distance[layer - 1, 0])]
        assert f"level {report.layers[layer - 1][0]}, {report.layers[layer - 1][1]}" in (
            explorer.caption.value
        )
        assert np.ptp(picture(explorer)[..., :3]) > 0.5


def test_moving_the_layer_slider_runs_no_flow(flow, monkeypatch):
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    explorer, before = layer_explorer(flow, x, 1 - x), None
    monkeypatch.setattr("flowrob.widgets.activations", None)
    for layer in (2, 3):
        explorer.sliders["layer"].value = layer
        assert explorer.image.value != before
        before = explorer.image.value


def test_the_drawn_layer_is_the_chosen_one(flow):
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    walk = layer_walk(flow, x, 1 - x)
    figure = Figure((8, 5))
    draw_layer(figure, walk, 2)
    (mark,) = (line for line in figure.axes[-1].get_lines() if len(line.get_xdata()) == 1)
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (3, walk.drift[2])
    edges = [line for line in figure.axes[-1].get_lines() if line.get_linestyle() == ":"]
    assert len(edges) == len({level for level, _ in walk.layers}) - 1


def test_the_layer_explorer_takes_one_image_and_a_changed_one(flow):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="one image each"):
        layer_explorer(flow, x, 1 - x)
    with pytest.raises(ValueError, match="one image each"):
        layer_explorer(flow, x[:1], x)
    with pytest.raises(ValueError, match="equal"):
        layer_explorer(flow, x[:1], x[:1])


# The attacks that notebook 00 reads ---


@pytest.fixture(scope="module")
def stored() -> dict:
    return stored_attacks()


def test_the_stored_attacks_were_made_on_the_weights_that_ship():
    recipe = stored_recipe()
    for name, weights in recipe["models"].items():
        now = digest(zoo.load(weights).state_dict())
        assert recipe["weights"][name] == now, "run benchmarks/attack_a_flow.py"


def test_the_stored_scores_are_what_the_models_say_today(stored):
    for name, weights in stored_recipe()["models"].items():
        flow = zoo.load(weights)
        for change, eps in (("chosen", 0), ("chosen", 1), ("random", 4)):
            images, bits = stored[name, change, eps]
            torch.testing.assert_close(flow.bits_per_dim(images).detach(), bits, rtol=1e-3, atol=0)
    wild, bits = stored["clean", "chosen", 8]  # far off the data float32 has few digits left
    flow = zoo.load(stored_recipe()["models"]["clean"])
    torch.testing.assert_close(flow.bits_per_dim(wild).detach(), bits, rtol=0.05, atol=0)


def test_the_stored_changes_stay_in_the_ball_and_beat_a_short_attack(stored):
    for (name, _, eps), (images, _) in stored.items():
        x = stored[name, "chosen", 0][0]
        assert images.min() >= 0 and images.max() <= 1
        assert (images - x).abs().max() * 256 <= eps + 1e-4
    x, found = stored["clean", "chosen", 0][0][:2], stored["clean", "chosen", 1][1][:2]
    flow = zoo.load(stored_recipe()["models"]["clean"])
    short = lower_likelihood(flow.log_prob, x, LinfBall(1 / 256), num_steps=3).x
    assert (found >= flow.bits_per_dim(short)).all()


def test_the_script_writes_what_is_read(tmp_path, stored):
    path = tmp_path / "own.safetensors"
    load_script("benchmarks/attack_a_flow.py").main(
        ["--steps", "1", "--limit", "1", "--out", str(path)]
    )
    own = stored_attacks(path)
    assert list(own) == list(stored)
    flow = zoo.load(stored_recipe(path)["models"]["clean"])
    for change in ("chosen", "random"):
        images, bits = own["clean", change, 2]
        torch.testing.assert_close(flow.bits_per_dim(images).detach(), bits, rtol=1e-4, atol=0)
        assert (bits > own["clean", change, 0][1]).all()

    words, tensors = read_tensors(path, "attack grid", ["recipe"])
    words["recipe"] = words["recipe"].replace('"photographs": [27]', '"photographs": [28]')
    write_tensors(path, "attack grid", tensors, words)
    with pytest.raises(ValueError, match="photographs installed here are not those attacked"):
        stored_attacks(path)


def test_without_the_file_it_is_said_which(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.safetensors' is no regular file"):
        stored_attacks(tmp_path / "absent.safetensors")
