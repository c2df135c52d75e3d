"""Figures: every function takes arrays and an ``ax``, and returns the ``ax``.

Colours carry meaning and are the same in every notebook: ``DATA`` is clean data, ``ATTACK`` is
what an attack does to it, ``NOISE`` is the random baseline of the same size, ``THEORY`` is a
closed form or a bound.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

DATA, ATTACK, NOISE, THEORY = "#2b6cb0", "#c0392b", "#7f8c8d", "#1a1a1a"
HYBRID, RAISE = "#2f855a", "#b7791f"


def use_style() -> None:
    """The notebooks' look: set once, in a notebook's first cell."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e2e8f0",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "image.interpolation": "nearest",
        }
    )


def _numpy(x) -> np.ndarray:
    """A tensor or an array, as numpy."""
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


def image(ax: Axes, x, title: str = "") -> Axes:
    """One image x, (C, H, W) in [0, 1] or uint8, without axes."""
    pixels = np.moveaxis(_numpy(x), 0, -1)
    if pixels.shape[-1] == 1:
        ax.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
    else:
        ax.imshow(pixels if pixels.dtype == np.uint8 else pixels.clip(0, 1))
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def image_grid(ax: Axes, images, columns: int = 8, title: str = "", pad: int = 1) -> Axes:
    """Many images (N, C, H, W) as one picture with ``columns`` columns."""
    images = _numpy(images)
    if images.dtype == np.uint8:
        images = images / 255.0
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.ones((c, rows * (h + pad) - pad, columns * (w + pad) - pad))
    for k, picture in enumerate(images):
        top, left = (k // columns) * (h + pad), (k % columns) * (w + pad)
        sheet[:, top : top + h, left : left + w] = picture
    return image(ax, sheet, title)
