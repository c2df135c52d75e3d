"""The figures draw the numbers they are given: read back from the artists, not from the pixels."""

from __future__ import annotations

import base64
import io

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from flowrob import plots, widgets

MEAN, COVARIANCE = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.6], [0.6, 0.5]])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()  # what cannot be rendered fails here
    plt.close(figure)


def drawn(ax) -> dict[str, np.ndarray]:
    """The (x, y) of every labelled line, by label."""
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_an_image_is_shown_as_given(ax):
    x = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert plots.image(ax, x) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), x.permute(1, 2, 0))


def test_a_grid_puts_every_image_in_its_place(ax):
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 2, 3) * 50
    sheet = plots.image_grid(ax, images, columns=3).images[0].get_array()
    assert sheet.shape == (2 * 2 + 1, 3 * 3 + 2)
    np.testing.assert_allclose(sheet[0, [0, 4, 8]], [0, 50 / 255, 100 / 255])
    np.testing.assert_allclose(sheet[3, [0, 4, 8]], [150 / 255, 200 / 255, 1.0])


def test_level_sets_lie_at_their_mahalanobis_radius(ax):
    plots.level_sets(ax, MEAN, COVARIANCE, radii=(1, 3))
    for line, radius in zip(ax.lines, (1, 3), strict=False):
        offset = line.get_xydata() - MEAN.numpy()
        square = np.einsum("ki,ij,kj->k", offset, np.linalg.inv(COVARIANCE.numpy()), offset)
        np.testing.assert_allclose(square, radius**2, rtol=1e-5)
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), MEAN[None])
    assert ax.get_aspect() == 1.0


def test_arrows_start_at_x_and_end_at_x_plus_delta(ax):
    x, delta = torch.tensor([0.5, 1.5]), torch.tensor([-1.0, 0.25])
    plots.perturbations(ax, x, 2.0, [("step", delta, plots.ATTACK)])
    (quiver,) = (artist for artist in ax.collections if hasattr(artist, "U"))
    assert [quiver.U.item(), quiver.V.item()] == delta.tolist()
    np.testing.assert_array_equal(quiver.XY, x[None])
    assert (quiver.angles, quiver.scale, quiver.scale_units) == ("xy", 1, "xy")
    np.testing.assert_array_equal(quiver.get_facecolor()[0], to_rgba(plots.ATTACK))
    ball = ax.patches[0].get_xy() - x.numpy()
    np.testing.assert_allclose(np.linalg.norm(ball, axis=1), 2.0, rtol=1e-6)


def test_plane_sets_its_window_and_labels_every_step(ax):
    steps = [("worst", torch.ones(2), plots.ATTACK), ("", -torch.ones(2), plots.ATTACK)]
    plots.plane(ax, MEAN, COVARIANCE, MEAN, 1.0, steps, half_width=4.0)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-4.0, 4.0), (-3.4, 3.4))
    labels = [(text.get_text(), text.get_color()) for text in ax.texts]
    assert labels == [("worst", plots.ATTACK), ("", plots.ATTACK)]


def test_drop_by_angle_marks_a_step_at_its_direction(ax):
    degrees = torch.arange(361.0)
    drop = torch.sin(degrees.deg2rad())
    marks = [("down", torch.tensor([0.0, -2.0]), torch.tensor([-1.0]), plots.RAISE)]
    lines = drawn(plots.drop_by_angle(ax, degrees, drop, marks))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), torch.stack([degrees, drop], dim=1))
    np.testing.assert_allclose(lines["down"], [[270.0, -1.0]])


def test_secular_draws_poles_roots_and_radius(ax):
    eta = torch.linspace(0, 3, 7)
    plots.secular(ax, eta, eta**2, 1.5, torch.tensor([0.5]), torch.tensor([2.0]), [plots.ATTACK])
    curve, pole, radius, root = (line.get_xydata() for line in ax.lines)
    np.testing.assert_array_equal(curve, torch.stack([eta, eta**2], dim=1))
    assert set(pole[:, 0]) == {0.5} and set(radius[:, 1]) == {1.5}
    np.testing.assert_array_equal(root, [[2.0, 1.5]])


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_curves_draw_their_lines_on_the_axes_named(ax, log: str):
    x, y = torch.tensor([1.0, 10.0, 100.0]), torch.tensor([5.0, 50.0, 500.0])
    line = plots.curves(ax, x, [("y", y, plots.DATA)], xlabel="a", ylabel="b", log=log).lines[0]
    np.testing.assert_array_equal(line.get_xydata(), torch.stack([x, y], dim=1))
    assert ax.get_xscale() == ("log" if "x" in log else "linear")
    assert ax.get_yscale() == ("log" if "y" in log else "linear")
    assert line.get_color() == plots.DATA


def test_histogram_counts_every_value_and_marks_the_attack(ax):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    plots.histogram(ax, values, 4.0, xlabel="drop")
    assert sum(bar.get_height() for bar in ax.patches) == 1000
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [4.0, 4.0])


def test_gaps_draw_one_line_per_sample_and_stay_positive_on_a_log_axis(ax):
    gap = torch.tensor([[1.0, 2.0, 3.0], [0.1, -1e-17, 0.3]])
    lines = plots.gaps(ax, {"run": (gap, plots.ATTACK)}, floor=1e-12).lines
    assert sorted(line.get_ydata()[0] for line in lines) == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(sorted(line.get_ydata()[1] for line in lines), [1e-12, 0.1, 0.3])


def test_signed_pictures_have_mid_grey_at_zero_and_the_scale_at_the_ends():
    delta = torch.tensor([0.0, 0.1, -0.1, 0.05, 7.0])
    np.testing.assert_allclose(plots.signed(delta, 0.1), [0.5, 1.0, 0.0, 0.75, 1.0], atol=1e-6)
    delta = torch.tensor([3.0, -3.0])  # rms 3, so the default scale is 9
    np.testing.assert_allclose(plots.signed(delta), [0.5 + 1 / 6, 0.5 - 1 / 6])
    with np.errstate(all="raise"):  # scales that float32 does not hold
        for scale, ends in ((1e300, 0.0), (1e-300, 0.5)):
            np.testing.assert_allclose(plots.signed(delta, scale), [0.5 + ends, 0.5 - ends])


def test_a_cloud_puts_every_point_in_its_place(ax):
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    line = plots.cloud(ax, points, plots.NOISE).lines[0]
    np.testing.assert_array_equal(line.get_xydata(), points)
    assert (line.get_color(), line.get_linestyle()) == (plots.NOISE, "None")


def test_theory_ticks_sit_on_the_bars_they_belong_to(ax):
    parts = [("same", torch.tensor([3.0, -1.0]), plots.NOISE), ("other", [2.0, 4.0], plots.DATA)]
    theory = torch.tensor([[3.1, -0.9], [2.1, 3.9]])
    plots.bars_and_theory(ax, ["clean", "trained"], parts, theory, ylabel="nats")
    ticks = [line for line in ax.lines if line.get_marker() == "_"]
    for bars, (_, values, _), expected, tick in zip(
        ax.containers, parts, theory, ticks, strict=True
    ):
        np.testing.assert_allclose([bar.get_height() for bar in bars], values)
        np.testing.assert_allclose(tick.get_ydata(), expected)
        for bar, x in zip(bars, tick.get_xdata(), strict=True):
            assert bar.get_x() < x < bar.get_x() + bar.get_width()


@pytest.mark.parametrize("count", [4, 30])
def test_water_stands_on_the_eigenvalues_and_reaches_its_level(ax, count: int):
    before = torch.linspace(0.1, 2.0, count)
    after = before.clamp(min=0.7)
    plots.water(ax, before, after)
    ground, filled = ax.containers
    np.testing.assert_allclose([bar.get_height() for bar in ground], before)
    np.testing.assert_allclose([bar.get_y() for bar in filled], before)
    tops = [bar.get_y() + bar.get_height() for bar in filled]
    np.testing.assert_allclose(tops, after, rtol=1e-6)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 0.7, rtol=1e-6)


def test_rounds_are_counted_from_0(ax):
    plots.by_round(ax, [("v", torch.tensor([1.0, 2.0, 4.0]), plots.DATA, "o-")], ylabel="v")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 1], [1, 2], [2, 4]])
    assert ax.get_yscale() == "log" and all(tick % 1 == 0 for tick in ax.get_xticks())


def test_the_exchange_has_its_paths_and_shades_what_is_below_the_frontier(ax):
    frontier = torch.tensor([0.0, 1.0, 4.0]), torch.tensor([8.0, 2.0, 0.5])
    path = ("(a)", (torch.tensor([0.0, 2.0]), torch.tensor([8.0, 1.5])), plots.ATTACK, "o-")
    lines = drawn(plots.exchange(ax, frontier, [path], xlim=(0, 2)))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), torch.stack(frontier, dim=1))
    np.testing.assert_array_equal(lines["(a)"], [[0.0, 8.0], [2.0, 1.5]])
    (shade,) = ax.collections
    assert shade.get_paths()[0].contains_point((1.0, 1.9))
    assert not shade.get_paths()[0].contains_point((1.0, 2.1))
    assert ax.get_xlim() == (0, 2) and ax.get_ylim() == pytest.approx((0.8 * 2.0, 1.3 * 8.0))


def test_stairs_end_where_no_number_of_rounds_suffices(ax):
    x = np.array([1.0, 2.0, 3.0])
    plots.rounds_needed(ax, x, [("(d)", [None, 1, 0], plots.ATTACK, "-")], xlabel="Delta")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [np.nan, 1.0, 0.0])
    assert ax.lines[0].get_drawstyle() == "steps-mid"


def test_each_procedure_has_a_colour_and_a_style_of_its_own():
    for table in (plots.PROCEDURE, plots.PROCEDURE_STYLE):
        assert list(table) == list("abcd") and len(set(table.values())) == 4


def test_strips_follow_the_density_between_their_edges(ax):
    x = np.linspace(0.0, 4.0, 41)
    plots.strips(ax, x, 2.0 * x, [0.5, 1.0, 3.05])
    boxes = [c.get_paths()[0].get_extents() for c in ax.collections]
    np.testing.assert_allclose([(b.x0, b.x1) for b in boxes], [(0.5, 1.0), (1.0, 3.05)])
    np.testing.assert_allclose([(b.y0, b.y1) for b in boxes], [(0.0, 2.0), (0.0, 6.1)])
    shades = {tuple(c.get_facecolor()[0]) for c in ax.collections}
    assert len(shades) == 2
    assert [text.get_text() for text in ax.texts] == ["0", "1"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([x, 2.0 * x], axis=1))


def test_lines_in_the_plane_are_drawn_half_in_each_colour(ax):
    lines = torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(0))
    plots.lines_in_plane(ax, lines)
    np.testing.assert_array_equal([line.get_xydata() for line in ax.lines], lines)
    assert [line.get_color() for line in ax.lines] == [plots.DATA] * 3 + [plots.RAISE] * 3


def test_a_density_in_the_plane_lies_where_its_grid_says(ax):
    x1, x2 = torch.linspace(-1, 3, 5), torch.linspace(0, 1, 3)
    values = torch.arange(15.0).reshape(5, 3)
    (shown,) = plots.density(ax, x1, x2, values).images
    np.testing.assert_array_equal(shown.get_array(), values.T)  # rows are x2, from the bottom up
    assert (shown.origin, shown.get_extent()) == ("lower", [-1, 3, 0, 1])
    assert shown.get_clim() == (0.0, 14.0)


def test_a_field_draws_every_step_at_its_true_length(ax):
    points, steps = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(0))
    (quiver,) = plots.field(ax, points, steps, plots.ATTACK).collections
    np.testing.assert_array_equal(quiver.XY, points)
    np.testing.assert_array_equal(np.stack([quiver.U, quiver.V], axis=1), steps)
    assert (quiver.angles, quiver.scale, quiver.scale_units) == ("xy", 1, "xy")


def test_a_figure_is_shown_once_with_its_alt_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell.initialized", lambda: True)
    figure, ax = plt.subplots(figsize=(2, 1), dpi=50)
    ax.plot([0, 1])
    alt = 'A line that rises, "steeply", to <1>.'
    plots.show(figure, alt)
    ((bundle,), options), *others = shown
    assert not others and not plt.fignum_exists(figure.number)
    assert options == {"raw": True, "metadata": {"image/png": {"alt": alt}}}
    assert bundle["text/plain"] == alt
    assert bundle["text/html"].startswith(
        '<img alt="A line that rises, &quot;steeply&quot;, to &lt;1'
    )
    assert bundle["image/png"] in bundle["text/html"]
    with pytest.raises(ValueError, match="say in a sentence"):
        plots.show(figure, "a figure")


def test_labels_stand_at_the_ends_of_their_lines_and_keep_apart(ax):
    ax.plot([0, 1], [0, 1.0], label="up")
    ax.plot([0, 1], [0, 0.98], label="nearly")
    ax.plot([0, 1, 2], [1, 0, np.nan], label="down")
    ax.plot([0, 1], [0.5, 0.5])
    plots.label_ends(ax, gap=0.1)
    height = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert set(height) == {"up", "nearly", "down"}
    assert height["up"] - height["nearly"] >= 0.1 - 1e-9 and height["down"] < 0.1


def test_every_colour_has_its_own_dash_or_marker():
    colours = {plots.DATA, plots.ATTACK, plots.NOISE, plots.THEORY, plots.HYBRID, plots.RAISE}
    assert {*plots.MARK} == {*plots.DASH} == colours
    assert len({*plots.MARK.values()}) == len(colours)


def test_a_thermometer_stands_at_its_value(ax):
    widgets.thermometer(ax, 100.0, {"knowing nothing": 8})
    column = ax.patches[0]
    assert column.get_y() + column.get_height() == pytest.approx(100)
    assert ax.texts[0].get_text() == "8 knowing nothing"


def test_figures_are_opaque_so_that_dark_pages_do_not_swallow_their_labels(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(a[0]))
    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell.initialized", lambda: True)
    with plt.rc_context({"savefig.transparent": True, "figure.facecolor": "none"}):
        plots.use_style()
        figure, _ = plt.subplots(figsize=(2, 1), dpi=50)
        plots.show(figure, "Two axes without a line on them.")
    png = io.BytesIO(base64.b64decode(shown[0]["image/png"]))
    pixels = matplotlib.image.imread(png, format="png")
    assert pixels.shape[-1] == 3 or pixels[..., 3].min() == 1
    assert pixels[0, 0, :3].min() == 1  # white, in the margin
