"""Figures: every function takes arrays and an ``ax``, and returns the ``ax``.

Colours carry meaning and are the same in every notebook: ``DATA`` is clean data, ``ATTACK`` is
what an attack does to it, ``NOISE`` is the random baseline of the same size, ``THEORY`` is a
closed form or a bound. ``DASH`` and ``MARK`` give each colour its own dash and marker, so that
lines stay apart without colour.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from flowrob._checks import check_all, entries, numbers, require

# Chosen to stay apart under deuteranopia and protanopia, too.
DATA, ATTACK, NOISE, THEORY = "#2b6cb0", "#b5271a", "#66707a", "#1a1a1a"
HYBRID, RAISE = "#2bb58f", "#d69e2e"
MARK = {DATA: "v", ATTACK: "o", NOISE: "s", THEORY: "D", HYBRID: "P", RAISE: "^"}
DASH = {DATA: (0, (6, 1.5)), ATTACK: "-", NOISE: (0, (1, 1)), THEORY: "-",
        HYBRID: (0, (4, 1, 1, 1)), RAISE: (0, (2.5, 1))}  # fmt: skip


def use_style() -> None:
    """The notebooks' look: set once, in a notebook's first cell."""
    plt.rc("figure", dpi=100, facecolor="white", **{"constrained_layout.use": True})  # opaque
    plt.rc("savefig", facecolor="auto", transparent=False)
    plt.rc("font", size=11)
    plt.rc("axes", titlesize=12, grid=True, axisbelow=True)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("grid", color="#e2e8f0", linewidth=0.8)
    plt.rc("legend", frameon=False)
    plt.rc("lines", linewidth=2.0)
    plt.rc("image", interpolation="nearest")


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, with a text for those who do not see it.

    The picture carries ``alt`` as ``image/png`` metadata, which nbconvert and others write into the
    page, as its plain text and, for JupyterLab, which takes it from HTML alone, as an ``<img alt>``
    (the build takes that copy out again, since hosts drop it). Outside IPython, where no figure can
    be shown, ``alt`` is printed, and that it was not.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    require(len(alt.split()) >= 5, "alt", alt, "longer: say in a sentence what it shows")
    if not InteractiveShell.initialized():
        plt.close(figure)
        print(f"{alt}\n(No notebook to show this figure in: keep it with figure.savefig(path).)")
        return
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    text = base64.b64encode(png.getvalue()).decode()
    tag = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{text}">'
    data = {"image/png": text, "text/plain": alt, "text/html": tag}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def label_ends(ax: Axes, gap: float = 0.075) -> Axes:
    """Every labelled line's label at its right end, in its colour, instead of a legend."""
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    ends, _ = [], (ax.get_xlim(), ax.get_ylim())  # asked for, the limits are up to date
    for line in lines:
        points = np.column_stack(line.get_data())
        place = ax.transData.transform(points[np.isfinite(points).all(axis=1)][-1])
        ends.append(min(max(ax.transAxes.inverted().transform(place)[1], 0.02), 0.98))
    low = -1.0
    for k in np.argsort(ends):
        low, line = max(ends[k], low + gap), lines[k]
        label, color = line.get_label(), line.get_color()
        ax.text(1.02, low, label, color=color, transform=ax.transAxes, va="center")
    return ax


def image(ax: Axes, x, title: str = "") -> Axes:
    """One image x, (C, H, W) in [0, 1] or uint8, without axes."""
    pixels = np.moveaxis(numbers("x", x, None, None, None), 0, -1)
    require(pixels.shape[-1] in (1, 3), "x", pixels.shape, "of 1 or 3 channels, (C, H, W)")
    if pixels.shape[-1] == 1:
        ax.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
    else:
        ax.imshow(pixels if pixels.dtype == np.uint8 else pixels.clip(0, 1))
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def image_grid(ax: Axes, images: Iterable, columns: int = 8, title: str = "", pad: int = 1) -> Axes:
    """Many images (N, C, H, W) as one picture with ``columns`` columns."""
    images = [numbers("images", x, None, None, None) for x in images]
    require(len({x.shape for x in images}) == 1, "images", len(images), "some, of one shape")
    require(columns >= 1 and pad >= 0, "columns and pad", (columns, pad), "at least 1 and 0")
    images = np.stack(images) / (255.0 if images[0].dtype == np.uint8 else 1.0)
    n, c, h, w = images.shape
    sheet = np.ones((c, -(-n // columns) * (h + pad) - pad, columns * (w + pad) - pad))
    for k, picture in enumerate(images):
        top, left = (k // columns) * (h + pad), (k % columns) * (w + pad)
        sheet[:, top : top + h, left : left + w] = picture
    return image(ax, sheet, title)


# The Gaussian: a density in the plane, its attacks, and the curves behind them (section 3.1) ---
def level_sets(ax: Axes, mean, covariance, radii=(1, 2, 3)) -> Axes:
    """Ellipses (y - mean)^T K^-1 (y - mean) = radius^2 of a density in the plane, and its mean."""
    mean = numbers("mean", mean, 2, finite=True)
    covariance = numbers("covariance", covariance, 2, 2, finite=True)
    require(np.linalg.eigvalsh(covariance)[0] > 0, "covariance", covariance, "positive definite")
    angle = np.linspace(0.0, 2 * np.pi, 181)
    unit = np.linalg.cholesky(covariance) @ np.stack([np.cos(angle), np.sin(angle)])
    for radius in numbers("radii", radii, None, finite=True):
        ax.plot(*(mean[:, None] + radius * unit), color=DATA, lw=1.1, alpha=0.55, zorder=1)
    ax.plot(*mean, "+", color=DATA, ms=9, mew=2, zorder=2)
    ax.set_aspect("equal", adjustable="box")
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    return ax


def perturbations(ax: Axes, x, radius: float, steps: Iterable) -> Axes:
    """The point x, the ball around it, and one arrow per step (label, delta, colour)."""
    x = numbers("x", x, 2, finite=True)
    angle = np.linspace(0.0, 2 * np.pi, 181)
    circle = x + float(radius) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ax.fill(*circle.T, facecolor="#e2e8f0", zorder=0.5)
    ax.plot(*circle.T, color=NOISE, lw=1.2, zorder=1.5)
    arrow = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.011, "zorder": 4}
    for label, delta, color in entries("steps", steps, 3):
        delta = numbers("steps", delta, 2)
        tip = x + (1 + 0.3 / max(np.linalg.norm(delta), 1e-9)) * delta
        ax.quiver(*x, *delta, color=color, **arrow)
        side = {"ha": "left" if tip[0] >= x[0] else "right", "va": "center", "zorder": 6}
        white = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}
        ax.text(*tip, label, color=color, fontsize=10, bbox=white if label else None, **side)
    ax.plot(*x, "o", color=DATA, ms=7, mec="white", zorder=5)
    return ax


def plane(ax: Axes, mean, covariance, x, radius: float, steps, half_width: float = 3.5) -> Axes:
    """Level sets, the point x with its ball, and the steps (label, delta, colour), together."""
    require(0 < half_width < np.inf, "half_width", half_width, "positive and finite")
    level_sets(ax, mean, covariance)
    perturbations(ax, x, radius, steps)
    ax.set(xlim=(-half_width, half_width), ylim=(-0.85 * half_width, 0.85 * half_width))
    return ax


def legend_above(ax: Axes) -> Axes:
    """The legend in one row over the axes, where it covers no data."""
    count = len(ax.get_legend_handles_labels()[0])
    if count:
        tight = {"columnspacing": 1.0, "handletextpad": 0.6, "handlelength": 1.2}
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=count, **tight)
    return ax


def drop_by_angle(ax: Axes, degrees: Iterable, drop, marks: Iterable = ()) -> Axes:
    """The drop (nats) along the ball's boundary, and marks (label, delta, drop, colour) on it."""
    degrees, drop = numbers("degrees", degrees, None), numbers("drop", drop, len(degrees))
    ax.plot(degrees, drop, color=THEORY, lw=1.6, zorder=2)
    dot = {"ms": 9, "mec": "white", "zorder": 3, "clip_on": False, "ls": ""}
    for label, delta, value, color in entries("marks", marks, 4):
        angle = np.degrees(np.arctan2(*numbers("marks", delta, 2)[::-1])) % 360
        ax.plot(angle, float(value), MARK.get(color, "o"), color=color, label=label, **dot)
    ax.axhline(0.0, color=NOISE, lw=0.8)
    ax.set(xlabel="direction of $\\delta$ (degrees)", ylabel="drop (nats)", xlim=(0, 360))
    ax.set_xticks(range(0, 361, 90))
    return legend_above(ax)


def secular(ax: Axes, eta, length, radius: float, poles, roots, colors: Sequence) -> Axes:
    """``|delta(eta)|`` against the multiplier: its poles, the radius, and where the two meet."""
    require(0 < radius < np.inf, "radius", radius, "positive and finite")
    eta = numbers("eta", eta).reshape(-1)
    ax.plot(eta, numbers("length", length, len(eta)), color=THEORY, lw=1.6)
    for pole in numbers("poles", poles, None):
        ax.axvline(pole, color=NOISE, lw=1.0, ls=":")
    ax.axhline(radius, color=DATA, lw=1.4)
    for root, color in zip(numbers("roots", roots, len(colors)), colors, strict=True):
        ax.plot(root, radius, MARK.get(color, "o"), color=color, ms=9, mec="white", zorder=5)
    ax.set(xlabel="multiplier $\\eta$", ylabel="$|\\delta(\\eta)|$", ylim=(0, 4 * radius))
    return ax


def curves(ax: Axes, x, lines: Iterable, *, xlabel: str, ylabel: str, log: str = "") -> Axes:
    """Lines (label, y, colour) over one x; ``log`` names the logarithmic axes, as in "xy"."""
    x = numbers("x", x, None)
    for label, y, color in entries("lines", lines, 3):
        ax.plot(x, numbers("lines", y, len(x)), color=color, ls=DASH.get(color, "-"), label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if "x" in log else ax.get_xscale())
    if "y" in log:
        ax.set_yscale("log")
        _plain_log_ticks(ax.yaxis)
    return ax


def signed(x, scale: float | None = None) -> np.ndarray:
    """Perturbations as pictures: 0 becomes mid-grey, +-scale (default: 3 rms) white and black."""
    x = np.asarray(numbers("x", x), dtype=np.float64)  # which holds any scale
    scale = (3.0 * float(np.sqrt(np.mean(x**2))) or 1.0) if scale is None else scale
    require(0 < scale < np.inf, "scale", scale, "positive and finite")
    return 0.5 + 0.5 * np.clip(x, -scale, scale) / scale


def histogram(ax: Axes, values, mark: float, *, xlabel: str) -> Axes:
    """How the values of a random baseline are spread, and where the attack stands (``mark``)."""
    ax.hist(numbers("values", values, None, finite=True), bins=60, color=NOISE, label="random")
    ax.axvline(float(mark), color=ATTACK, label="worst")
    ax.set(xlabel=xlabel, ylabel="count")
    return legend_above(ax)


def gaps(ax: Axes, groups: dict, floor: float = 1e-15) -> Axes:
    """What an attack still misses (nats): groups are label -> ((steps + 1, samples), colour)."""
    for label, (gap, color) in zip(groups, entries("groups", groups.values(), 2), strict=True):
        gap = np.maximum(numbers("groups", gap, None, None), floor)
        ax.plot(gap[:, :1], color=color, label=label)
        ax.plot(gap[:, 1:], color=color, lw=0.8, alpha=0.4)
    ax.set(xlabel="step", ylabel="missing (nats)", yscale="log")
    return legend_above(ax)


# One perturbation for all points (section 3.3) ---
def cloud(ax: Axes, points, color: str) -> Axes:
    """Points (N, 2) of a sample, small enough to lie under level sets and arrows."""
    points = numbers("points", points, None, 2)
    ax.plot(*points.T, ".", color=color, ms=5, mew=0, alpha=0.5, zorder=0.8)
    return ax


def bars_and_theory(ax: Axes, labels: Sequence, parts: Sequence, theory, *, ylabel: str) -> Axes:
    """Measured bars, parts (label, values, colour), and ticks where theory (parts, labels) is."""
    stacked_bars(ax, labels, parts, ylabel=ylabel)
    theory = numbers("theory", theory, len(ax.containers), len(labels))
    for bars, expected in zip(ax.containers, theory, strict=True):
        middle = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        ax.plot(middle, expected, "_", color=THEORY, ms=20, mew=2)
    return ax


def water(ax: Axes, before, after) -> Axes:
    """Water-filling: the eigenvalues ``before``, and on top what raises them to ``after``."""
    before = numbers("before", before, None, finite=True)
    after = numbers("after", after, len(before), finite=True)
    place, width = np.arange(1, len(before) + 1), 0.8 if len(before) < 20 else 1.0
    ax.bar(place, before, width, color=DATA, label="eigenvalues")
    ax.bar(place, after - before, width, bottom=before, color="#90cdf4", label="water")
    ax.axhline(after.min(), color=THEORY, lw=1.0, ls="--", label="level")
    ax.set(xlabel="eigenvalue, smallest first", ylabel="variance")
    ax.set(xlim=(0.4, len(before) + 0.6), ylim=(0, 1.06 * after.max()))
    if len(before) < 20:
        ax.set_xticks(place)
    ax.grid(axis="x", visible=False)
    return legend_above(ax)


# Deep flows: images under attack, and the curves behind the tables (sections 4 and 5) ---
def before_after(ax: Axes, groups: dict, colors=(DATA, NOISE, ATTACK), log: bool = False) -> Axes:
    """One row of marks per group (label -> one value per image), with a bar at its median."""
    for row, ((_, values), color) in enumerate(zip(groups.items(), colors, strict=False)):
        values = numbers("groups", values, None)
        height = row + np.linspace(-0.22, 0.22, len(values))
        ax.plot(values, height, MARK.get(color, "o"), color=color, ms=4, alpha=0.5, mew=0)
        ax.plot([np.median(values)] * 2, [row - 0.38, row + 0.38], color=color, lw=3)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    if log:
        ax.set_xscale("log")
        _plain_log_ticks(ax.xaxis)
    return ax


def _plain_log_ticks(axis) -> None:
    """Ticks at 1, 2, 5 times powers of ten, over many decades at 1 alone, as plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 2000 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def attacked_rows(axes, rows: dict, values: dict, columns: int = 8) -> None:
    """One row of images per label, each with its value (bits/dim) above it."""
    fits = isinstance(axes, np.ndarray) and axes.dtype == object and axes.ndim == 2
    require(fits and len(axes) == len(rows), "axes", axes, f"{len(rows)} rows of Axes")
    require(values.keys() >= rows.keys(), "values", [*values], f"numbers for {[*rows]}")
    for row, (label, images) in zip(axes, rows.items(), strict=True):
        for ax, picture, value in zip(row, images[:columns], values[label], strict=False):
            text = f"{value:.1f}" if value < 100 else f"{value:,.0f}"
            image(ax, picture).set_title(text, fontsize=9, pad=2)
        row[0].text(-0.12, 0.5, label, transform=row[0].transAxes, ha="right", va="center")


def nll_against_eps(ax: Axes, eps: Sequence, lines: Iterable, floor=None, bands=()) -> Axes:
    """Bits/dim over eps (grey levels): lines (label, values, colour, style), logarithmic in both.

    ``floor`` is a bound that no normalised density can go below for uniform noise; ``bands`` are
    (low, high, colour).
    """
    place = np.arange(len(eps))
    for *ends, color in entries("bands", bands, 3):
        low, high = (numbers("bands", end, len(eps)) for end in ends)
        ax.fill_between(place, low, high, color=color, alpha=0.15, lw=0)
    for label, values, color, style in entries("lines", lines, 4):
        ax.plot(place, numbers("lines", values, len(eps)), style, color=color, label=label, ms=6)
    if floor is not None:
        floor = numbers("floor", floor, len(eps))
        ax.plot(place[1:], floor[1:], ":", color=THEORY, label="Gibbs floor of the noise")
    ax.set_xticks(place, [str(e) for e in eps])
    ax.set(yscale="log", xlabel="eps (grey levels)", ylabel="NLL (bits/dim)")
    ax.legend(loc="upper left")
    return ax


def stacked_bars(ax: Axes, labels: Sequence, parts: Iterable, *, ylabel: str) -> Axes:
    """Parts (label, values, colour) side by side for every label: what a sum is made of."""
    parts = entries("parts", parts, 3)
    place, width = np.arange(len(labels)), 0.8 / max(len(parts), 1)
    for k, (label, values, color) in enumerate(parts):
        values, shift = numbers("parts", values, len(labels)), (k - (len(parts) - 1) / 2) * width
        ax.bar(place + shift, values, width, color=color, label=label)
    ax.axhline(0.0, color=THEORY, lw=0.8)
    ax.set(ylabel=ylabel, xticks=place, xticklabels=labels)
    ax.grid(axis="x", visible=False)
    return legend_above(ax)


def overlaid(ax: Axes, groups: Iterable, *, xlabel: str, bins: int = 40) -> Axes:
    """Histograms (label, values, colour) over one axis, on common bins."""
    groups = entries("groups", groups, 3)
    require(groups and 1 <= bins <= 10_000, "groups and bins", bins, "some, and 1 to 10,000")
    values = [numbers("groups", entry[1], None, finite=True) for entry in groups]
    edges = np.histogram_bin_edges(np.concatenate(values), bins)
    for (label, _, color), one in zip(groups, values, strict=True):
        ax.hist(one, edges, color=color, alpha=0.55, label=label)
    ax.set(xlabel=xlabel, ylabel="images")
    return legend_above(ax)


# The exchange: likelihood paid for robustness (section 3.2) ---

PROCEDURE = {"a": "#6b46c1", "b": "#0987a0", "c": "#b7791f", "d": ATTACK}  # colours
PROCEDURE_STYLE = {"a": "o-", "b": "s-", "c": "x--", "d": "D-"}


def by_round(ax: Axes, lines: Iterable, *, ylabel: str, log: bool = True) -> Axes:
    """Lines (label, values, colour, style), one value per round of training, from round 0."""
    for label, values, color, style in entries("lines", lines, 4):
        ax.plot(numbers("lines", values, None), style, color=color, label=label, ms=5, lw=1.6)
    ax.set(xlabel="round m", ylabel=ylabel, yscale="log" if log else "linear")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def exchange(ax: Axes, frontier: Sequence, paths: Iterable = (), xlim=None) -> Axes:
    """Natural drop (x) against sensitivity (y, logarithmic), both in nats.

    ``frontier`` is the pair (natural drop, sensitivity) of the best models, drawn in black; every
    path is (label, (natural drop, sensitivity), colour, style). Lower left is better.
    """
    best = tuple(numbers("frontier", values, None, finite=True) for values in frontier)
    lengths = [*map(len, best)]
    require(len(best) == 2 and len({*lengths}) == 1, "frontier", lengths, "a pair of one length")
    ax.plot(*best, color=THEORY, lw=1.4, zorder=1.5)
    ax.fill_between(*best, 1e-9, color="#e2e8f0", lw=0, zorder=0.5)
    for label, pair, color, style in entries("paths", paths, 4):
        ax.plot(
            *(numbers("paths", values) for values in pair),
            style,
            color=color,
            label=label,
            ms=6,
            lw=1.0,
        )
    ax.set(xlabel="natural drop (nats)", ylabel="sensitivity (nats)", yscale="log", xlim=xlim)
    ax.set_ylim(0.8 * best[1][best[0] <= (xlim[1] if xlim else np.inf)].min(), 1.3 * best[1].max())
    _plain_log_ticks(ax.yaxis)
    return ax


def rounds_needed(ax: Axes, x, lines: Iterable, *, xlabel: str) -> Axes:
    """Stairs (label, rounds, colour, style) over x; where rounds are None, no number suffices."""
    x = numbers("x", x, None)
    for label, rounds, color, style in entries("lines", lines, 4):
        heights = numbers("lines", [np.nan if m is None else m for m in rounds], len(x))
        ax.plot(x, heights, style, color=color, label=label, drawstyle="steps-mid", lw=1.8)
    ax.set(xlabel=xlabel, ylabel="rounds needed")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


# A flow, piece by piece: maps, densities in the plane and the field of worst steps (2.1) ---
def strips(ax: Axes, x, density, edges) -> Axes:
    """A density on the line, cut at ``edges`` (ascending) into numbered strips, dark to light."""
    x, edges = numbers("x", x, None), numbers("edges", edges, None, finite=True)
    density = numbers("density", density, len(x), finite=True)
    rises = len(edges) > 1 and (np.diff(edges) > 0).all()
    require(rises and (density >= 0).all(), "edges", edges, "ascending, and density at least 0")
    shades = plt.get_cmap("cividis")(np.linspace(0.0, 0.75, len(edges) - 1))
    for k, (left, right) in enumerate(itertools.pairwise(edges)):
        inside = np.concatenate([[left], x[(x > left) & (x < right)], [right]])
        height = np.interp(inside, x, density)
        ax.fill_between(inside, height, color=shades[k], lw=0)
        paper = {"ha": "center", "fontsize": 7, "color": "white", "va": "bottom"}
        ax.text(np.average(inside, weights=height + 1e-300), 0.0, k, **paper)
    ax.plot(x, density, color=THEORY, lw=1.4)
    return ax


def lines_in_plane(ax: Axes, lines) -> Axes:
    """Lines (count, points, 2), the first half of them blue and the second amber."""
    lines = numbers("lines", lines, None, None, 2)
    for k, line in enumerate(lines):
        ax.plot(*line.T, color=DATA if k < len(lines) / 2 else RAISE, lw=1.1)
    ax.grid(visible=False)
    return ax


def density(ax: Axes, x1, x2, values) -> Axes:
    """A density in the plane, values (len(x1), len(x2)) on a regular grid: the darker, the more."""
    x1, x2 = numbers("x1", x1, None, finite=True), numbers("x2", x2, None, finite=True)
    (left, right), (bottom, top) = x1[[0, -1]], x2[[0, -1]]
    shades = LinearSegmentedColormap.from_list("density", ["white", "#90cdf4", "#1a365d"])
    image = {"origin": "lower", "extent": (left, right, bottom, top), "interpolation": "bilinear"}
    ax.imshow(numbers("values", values, len(x1), len(x2)).T, cmap=shades, vmin=0.0, **image)
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.grid(visible=False)
    return ax


def field(ax: Axes, points, steps, color: str) -> Axes:
    """One arrow per point (N, 2), from the point to where its step (N, 2) ends."""
    arrow = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.0022, "zorder": 4}
    points = numbers("points", points, None, 2)
    ax.quiver(*points.T, *numbers("steps", steps, len(points), 2).T, color=color, **arrow)
    return ax


check_all(globals())  # every function above holds its arguments against its annotations
