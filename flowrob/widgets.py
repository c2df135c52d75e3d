"""Sliders over :mod:`flowrob.plots`: what the figures of the notebooks show, moved by hand.

Each function returns a widget: a picture, a line of numbers, and sliders. Moving a slider draws
the picture again once it is let go; nothing is trained or fitted then. Needs ipywidgets, which
``pip install "flowrob[notebooks]"`` brings.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flowrob import data, lessons, plots
from flowrob._checks import checked, numbers, require
from flowrob.attacks import uniform_noise
from flowrob.evaluation import activations
from flowrob.flows import Flow
from flowrob.linear import (
    PROCEDURES,
    GaussianFlow,
    best_case,
    natural_drop,
    sensitivity,
    spherical_growth,
    worst_case,
)
from flowrob.records import digest, read_tensors
from flowrob.units import dequantize


class Explorer(widgets.VBox):
    """A picture over a caption over sliders: ``draw(figure, **values) -> caption``.

    Args:
        draw: draws on an empty figure and returns the caption, as HTML.
        sliders: by the names of draw's arguments.
        figsize: inches, at 100 dots each.

    Attributes:
        image: the picture, a PNG.
        caption: the line of numbers under it.
        sliders: as given.
    """

    def __init__(
        self,
        draw: Callable[..., str],
        sliders: dict[str, widgets.Widget],
        figsize: tuple[float, float],
    ) -> None:
        self.draw, self.sliders, self.figsize = draw, sliders, figsize
        self.image, self.caption = widgets.Image(format="png"), widgets.HTML()
        for slider in sliders.values():
            slider.continuous_update = False
            slider.style.description_width = "15em"
            slider.layout.width = "36em"
            slider.observe(self._redraw, names="value")
        self._redraw()
        super().__init__([self.image, self.caption, *sliders.values()])

    def _redraw(self, change=None) -> None:
        figure = Figure(self.figsize, dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        caption = self.draw(figure, **{name: s.value for name, s in self.sliders.items()})
        png = io.BytesIO()
        figure.savefig(png, format="png")
        self.image.value, self.caption.value = png.getvalue(), caption

    def __repr__(self) -> str:
        count = len(self.sliders)
        return f"{count} slider{'s'[: count != 1]} and a picture: run this cell in JupyterLab"


def worst_case_explorer() -> Explorer:
    """Worst and best perturbation of a point under a Gaussian in the plane (section 3.1).

    Left the plane, in the middle the drop by direction, right the secular equation: as the radius
    grows, the arrow swings and the root slides down to the last pole.

    The long axis has variance 2, the short one 2 / condition. The point is set by its two
    distances from the mean, along and across the long axis; across = 0 is where the hard case is.
    """
    slider = widgets.FloatSlider
    return Explorer(
        _draw_worst_case,
        {
            "degrees": slider(value=25, min=0, max=180, step=5, description="angle, long axis"),
            "condition": widgets.FloatLogSlider(
                value=10, min=0, max=2, step=0.1, description="condition of K", readout_format=".1f"
            ),
            "along": slider(value=1.5, min=-3, max=3, description="x along the long axis"),
            "across": slider(value=0.3, min=-1.5, max=1.5, description="x across it"),
            "radius": slider(value=1.0, min=0.1, max=3, description="radius"),
        },
        figsize=(13.0, 4.2),
    )


def _draw_worst_case(
    figure: Figure, degrees: float, condition: float, along: float, across: float, radius: float
) -> str:
    angle = math.radians(degrees)
    long, short = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    axes = torch.tensor([short, long], dtype=torch.float64).T
    variances = torch.tensor([2.0 / condition, 2.0], dtype=torch.float64)
    flow = GaussianFlow.from_eigen(torch.zeros(2), variances, axes)
    x = (axes @ torch.tensor([across, along], dtype=torch.float64))[None]
    worst, best = worst_case(flow, x, radius), best_case(flow, x, radius)

    turn = torch.linspace(0, 360, 361, dtype=torch.float64)
    circle = radius * torch.stack([turn.deg2rad().cos(), turn.deg2rad().sin()], dim=1)
    drop = flow.log_prob(x) - flow.log_prob(x + circle)
    left, right, below = figure.subplots(1, 3)
    steps = [("worst", worst, plots.ATTACK), ("best", best, plots.RAISE)]
    arrows = [(name, found.delta[0], color) for name, found, color in steps]
    plots.plane(left, flow.mean, flow.covariance, x[0], radius, arrows, half_width=5.5)
    # The best step stops at the mean if the ball reaches it: then it is not on the circle.
    on_circle = [step for step in steps if step[1].delta.norm() > 0.999 * radius]
    marks = [(name, found.delta[0], found.drop[0], color) for name, found, color in on_circle]
    plots.drop_by_angle(right, turn, drop, marks)
    poles, root = 1 / (2 * flow.eigenvalues), worst.multiplier
    far = max(1.6 * poles.max().item(), 1.1 * root.item())
    eta = torch.linspace(-0.3 * far, far, 2000, dtype=torch.float64)[:, None]
    length = ((x - flow.mean) @ flow.eigenvectors / (2 * eta * flow.eigenvalues - 1)).norm(dim=1)
    plots.secular(below, eta, length, radius, poles, root, [plots.ATTACK])
    below.set_ylim(0, 6)
    hard = "yes: two optima" if worst.hard_case.item() else "no"
    return (
        f"worst drop <b>{worst.drop.item():.3f}</b> nats, best <b>{best.drop.item():.3f}</b>, "
        f"multiplier η = <b>{worst.multiplier.item():.3f}</b>, hard case: <b>{hard}</b>"
    )


def trade_off_explorer() -> Explorer:
    """Rounds of adversarial training of a sphere in 10 dimensions, and their price (section 3.2).

    Left: the variance by round, for the four procedures; right: the exchange, with the model after
    m rounds and, for comparison, with the one-to-one hybrid. All of it is closed form.
    """
    names = [(f"({letter}) {name}", letter) for letter, name in PROCEDURES.items()]
    return Explorer(
        _draw_trade_off,
        {
            "eps": widgets.FloatSlider(
                value=1.0, min=0.1, max=3, step=0.1, description="eps / sigma"
            ),
            "rounds": widgets.IntSlider(value=3, min=0, max=10, description="rounds m"),
            "procedure": widgets.SelectionSlider(options=names, value="a", description="procedure"),
        },
        figsize=(10.0, 4.2),
    )


def _draw_trade_off(figure: Figure, eps: float, rounds: int, procedure: str) -> str:
    n, left, right = 10, *figure.subplots(1, 2)
    growth = {letter: spherical_growth(eps, 1.0, n, 10, letter) for letter in PROCEDURES}
    for letter, v in growth.items():
        chosen = {"lw": 2.5, "zorder": 3} if letter == procedure else {"lw": 1.0, "alpha": 0.6}
        chosen["ls"] = "--" if letter == "c" else "-"  # (b) and (c) nearly coincide
        left.plot(v, color=plots.PROCEDURE[letter], label=f"({letter})", **chosen)
    v, color = growth[procedure][rounds], plots.PROCEDURE[procedure]
    hybrid = spherical_growth(eps, 1.0, n, rounds, procedure, hybrid_weight=0.5)[-1]
    left.plot(rounds, v, "o", color=color, ms=10, mec="white", zorder=4)
    left.set(xlabel="round m", ylabel="variance $v_m$", yscale="log", ylim=(0.8, 1e6))
    plots.legend_above(left)

    both = lambda v: (natural_drop(v, n), sensitivity(v, eps, 1.0, n))  # noqa: E731
    models = [("trained", both(v), color, "o"), ("hybrid", both(hybrid), plots.HYBRID, "D")]
    frontier = np.geomspace(1.0, max(20.0, 2 * v), 400)
    plots.exchange(right, both(frontier), models)
    plots.legend_above(right)
    return (
        f"({procedure}) after {rounds} rounds: variance <b>{v:.2f}</b>, natural drop "
        f"<b>{natural_drop(v, n):.2f}</b> nats, sensitivity "
        f"<b>{sensitivity(v, eps, 1.0, n):.2f}</b> nats; hybrid: variance <b>{hybrid:.2f}</b>"
    )


ATTACK_EPS = (0, 1, 2, 4, 8)
_STORED = Path(__file__).parent / "attack_a_flow.safetensors"


def _moved(x: torch.Tensor, steps: torch.Tensor, eps: int) -> torch.Tensor:
    """x after a change in whole numbers from -127, which is -eps grey levels, to 127."""
    return (x + steps * (eps / 127 / 256)).clamp(0, 1)


def _attacked(recipe: Mapping) -> tuple[torch.Tensor, str]:
    """The images that a recipe names, and the digest of their pixels."""
    images = data.load("photos", split=recipe["split"])
    noise = torch.Generator().manual_seed(recipe["noise_seed"])
    chosen = recipe["photographs"]
    return dequantize(images, noise)[chosen], digest({"images": images[chosen]})


def stored_attacks(path: str | os.PathLike = _STORED) -> dict:
    """The grid of notebook 00: six photographs under attack, read from a file in no time.

    The models are ``glow-photos-published-clean`` ("clean") and ``glow-photos-adversarial``
    ("robust"); the file says how long the attacks were (:func:`stored_recipe`), and is made by
    ``benchmarks/attack_a_flow.py``.

    Args:
        path: of another file that this script wrote.

    Returns:
        A grid for :func:`attack_explorer`.

    Raises:
        ValueError: no such file, or a damaged one; or the photographs are others than those that
            were attacked.
    """
    words, tensors = read_tensors(path, "attack grid", ["recipe"])
    recipe = json.loads(words["recipe"])
    x, pixels = _attacked(recipe)
    if pixels != recipe["images"]:
        raise ValueError(f"the photographs installed here are not those attacked in {path}")
    grid = {}
    for key in recipe["keys"]:
        name, change, eps = key
        bits = tensors[f"{name}/{change}/{eps}/bits"]
        noise = torch.Generator().manual_seed(recipe["seed"])
        if eps == 0:
            moved = x
        elif change == "chosen":
            moved = _moved(x, tensors[f"{name}/{change}/{eps}/steps"], eps)
        else:
            moved = uniform_noise(x, eps / 256, noise)
        grid[name, change, eps] = moved, bits
    return grid


def stored_recipe(path: str | os.PathLike = _STORED) -> dict:
    """How the grid of :func:`stored_attacks` was made: weights, photographs, steps, seeds.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    return json.loads(read_tensors(path, "attack grid", ["recipe"])[0]["recipe"])


@checked
def attack_explorer(grid: dict) -> Explorer:
    """Attack a flow: every photograph at every eps, already attacked; the sliders only choose.

    Args:
        grid: (model, change, eps) -> (images, their bits/dim), for all of ``ATTACK_EPS``; eps 0
            holds the photographs themselves.
    """
    require(grid, "grid", grid, "a setting or more: (model, change, eps) -> (images, bits/dim)")
    models, changes = (list(dict.fromkeys(key[k] for key in grid)) for k in (0, 1))
    count = len(next(iter(grid.values()))[0])
    photographs = [(str(k + 1), k) for k in range(count)]
    return Explorer(
        lambda figure, **chosen: draw_attack(figure, grid, **chosen),
        {
            "photograph": widgets.ToggleButtons(
                options=photographs, description="photograph", style={"button_width": "3em"}
            ),
            "eps": widgets.SelectionSlider(
                options=ATTACK_EPS, value=1, description="eps (grey levels)"
            ),
            "change": widgets.ToggleButtons(options=changes, description="the change is"),
            "model": widgets.ToggleButtons(options=models, description="the model is"),
        },
        figsize=(11.0, 4.2),
    )


@checked
def draw_attack(
    figure: Figure, grid: dict, photograph: int, eps: int, change: str, model: str
) -> str:
    """Draw one setting of :func:`attack_explorer`; the caption says how much less probable."""
    require(
        (model, change, eps) in grid, "grid", [*grid], f"a dict that has {(model, change, eps)}"
    )
    require((model, change, 0) in grid, "grid", [*grid], f"a dict that has {(model, change, 0)}")
    clean, before = grid[model, change, 0]
    require(0 <= photograph < len(clean), "photograph", photograph, f"0 to {len(clean) - 1}")
    moved, after = grid[model, change, eps]
    x, result = clean[photograph], moved[photograph]
    old, new = before[photograph].item(), after[photograph].item()
    places = figure.subplot_mosaic(
        [["x", "delta", "result", "column"], ["strip"] * 3 + ["column"]],
        width_ratios=(1, 1, 1, 1.1), height_ratios=(2.6, 1),
    )  # fmt: skip
    plots.image(places["x"], x, "photograph")
    plots.image(
        places["delta"], plots.signed(result - x, max(eps, 1) / 256), "the change, amplified"
    )
    plots.image(places["result"], result, f"photograph + {eps}/256")
    plots.image_grid(places["strip"], clean, len(clean), pad=3)
    size = clean.shape[-1] + 3
    frame, left = {"fill": False, "ec": plots.ATTACK, "lw": 3}, photograph * size + 0.5
    places["strip"].add_patch(Rectangle((left, 0.5), size - 5, size - 5, **frame))
    landmarks = {"this photograph": round(old, 1), "knowing nothing": 8}
    thermometer(places["column"], new, landmarks, top=5e5)
    places["column"].set_title(f"{lessons.rounded(new)} bits/dim", loc="left", fontweight="bold")
    odds = lessons.times_less_probable(new - old, x.numel())
    return f"{model} Glow, {change} change of at most {eps}/256: <b>{odds}</b>"


@checked
def thermometer(ax: Axes, value: float, landmarks: dict[str, float], top: float = 1e5) -> Axes:
    """NLL (bits/dim) as the height of a column, logarithmic, beside named landmarks."""
    require(2 < top < np.inf, "top", top, "above 2, and finite")
    color = plots.ATTACK if value > 8 else plots.DATA
    ax.bar(0, np.clip(value, 2, top) - 2, 0.5, bottom=2, color=color)
    ax.bar(0, top - 2, 0.5, bottom=2, facecolor="none", edgecolor=plots.THEORY, lw=1.2)
    for text, height in landmarks.items():
        ax.plot([-0.25, 0.4], [height] * 2, color=plots.THEORY, lw=1.2)
        ax.text(0.45, height, f"{height:g} {text}", va="center", fontsize=9)
    ax.set(yscale="log", ylim=(2, top), xlim=(-0.3, 3.2), xticks=[], ylabel="bits/dim")
    ax.yaxis.set_major_formatter("{x:,g}")
    ax.grid(visible=False)
    return ax


@checked
def layer_explorer(flow: Flow, x: torch.Tensor, attacked: torch.Tensor) -> Explorer:
    """Walk through a flow, layer by layer, with an image and what an attack made of it.

    Above the activations of both and their difference, below how far the two have come apart. The
    flow is run once, here; the slider only redraws.

    Args:
        flow: a :class:`~flowrob.flows.Flow` on images.
        x: one image, ``(1, C, H, W)``.
        attacked: the same, attacked.

    Raises:
        ValueError: not one image each, or two equal ones.
    """
    walk = layer_walk(flow, x, attacked)
    slider = widgets.IntSlider(value=1, min=1, max=len(walk.layers), description="layer")
    return Explorer(
        lambda figure, layer: draw_layer(figure, walk, layer - 1),
        {"layer": slider},
        figsize=(11.0, 6.4),
    )


@dataclass(frozen=True)
class LayerWalk:
    """What the layers make of an image and of an attacked one; see :func:`layer_walk`.

    Attributes:
        layers: (level, name) of every layer.
        clean: the image's activation after each of them, (C, H, W).
        attacked: the attacked image's.
        drift: the distance between the two over that at the input, one number per layer.
    """

    layers: list[tuple[int, str]]
    clean: list[torch.Tensor]
    attacked: list[torch.Tensor]
    drift: list[float]


@checked
def layer_walk(flow: Flow, x: torch.Tensor, attacked: torch.Tensor) -> LayerWalk:
    """Run one image and its attacked form through a flow, keeping every activation.

    Raises:
        ValueError: not one image each, or two equal ones.
    """
    if x.ndim != 4 or len(x) != 1 or attacked.shape != x.shape:
        shapes = f"{tuple(x.shape)} and {tuple(attacked.shape)}"
        raise ValueError(f"x and attacked must be one image each, (1, C, H, W), got {shapes}")
    apart = (attacked - x).double().norm().item()
    if apart == 0:
        raise ValueError("x and attacked are equal: there is nothing to follow")
    layers, both = activations(flow, torch.cat((x, attacked)))
    clean, moved = ([h[k].cpu() for h in both] for k in (0, 1))
    drift = [(b - a).norm().item() / apart for a, b in zip(clean, moved, strict=True)]
    return LayerWalk(layers, clean, moved, drift)


@checked
def tiled(ax: Axes, h: torch.Tensor, scale: float | None = None, title: str = "") -> Axes:
    """The channels of one activation h, (C, H, W), side by side in grey: 0 is mid-grey."""
    require(h.ndim == 3 and h.numel(), "h", tuple(h.shape), "one activation, (C, H, W)")
    rows = max(r for r in range(1, int(np.sqrt(len(h))) + 1) if len(h) % r == 0)
    pad = max(1, h.shape[-1] // 12)
    return plots.image_grid(ax, plots.signed(h, scale)[:, None], len(h) // rows, title, pad)


@checked
def drift(ax: Axes, levels, distance, chosen: int | None = None) -> Axes:
    """How far two inputs have come apart after each layer, relative to the input.

    Args:
        ax: drawn on.
        levels: the level of each layer, ascending; its boundaries are marked.
        distance: one value per layer, logarithmic.
        chosen: a layer to put a mark on.
    """
    levels = numbers("levels", levels, None)
    distance = numbers("distance", distance, len(levels))
    require(chosen is None or 0 <= chosen < len(levels), "chosen", chosen, "the index of a layer")
    ax.plot(np.arange(1, len(distance) + 1), distance, color=plots.ATTACK, marker=".", ms=5, lw=1.4)
    ax.set(xlabel="layer", ylabel="distance / distance at the input", yscale="log")
    for level in np.unique(levels):
        inside = np.flatnonzero(levels == level) + 1
        if level > levels.min():
            ax.axvline(inside[0] - 0.5, color=plots.THEORY, lw=1.2, ls=":")
        place = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text(inside.mean(), 1.01, f"level {level}", **place)
    if chosen is not None:
        dot = {"ms": 11, "mec": plots.THEORY, "mew": 1.5, "zorder": 4}
        ax.plot(chosen + 1, distance[chosen], "o", color=plots.RAISE, **dot)
    ax.yaxis.set_major_formatter("{x:g}")
    return ax


@checked
def draw_layer(figure: Figure, walk: LayerWalk, layer: int) -> str:
    """Draw one position of :func:`layer_explorer`; the caption says how far the two are apart."""
    places = figure.subplot_mosaic(
        [["clean", "attacked", "difference"], ["drift"] * 3], height_ratios=(1.5, 1)
    )
    count = len(walk.layers)
    require(0 <= layer < count, "layer", layer, f"the index of one of the {count} layers")
    before, after = walk.clean[layer], walk.attacked[layer]
    scale = 3 * before.square().mean().sqrt().item()
    pictures = {"clean": before, "attacked": after, "difference": after - before}
    for name, h in pictures.items():
        tiled(places[name], h, scale, name)
    drift(places["drift"], [level for level, _ in walk.layers], walk.drift, layer)
    level, name = walk.layers[layer]
    size = " x ".join(map(str, before.shape))
    return (
        f"layer {layer + 1} of {len(walk.layers)}, level {level}, {name}, {size}: apart by "
        f"<b>{lessons.rounded(walk.drift[layer])}</b> times what went in"
    )
