"""Every figure draws what it was given, all of it, and nothing else."""

import re
import warnings
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Annotation, Text

from modlib import figures
from modlib.gradients import Ratio, wilson

ROW_LABELS = {"a": "(a) shared", "d": "(d) independent"}
TASK_LABELS = {"Smiling": "smile", "Young": "young"}
MEASURED = pd.DataFrame(
    [("a", 0, "Smiling", 60.0), ("a", 1, "Smiling", 64.0), ("a", 0, "Young", 55.0),
     ("a", 1, "Young", 58.0), ("d", 0, "Smiling", 80.0), ("d", 0, "Young", 71.5)],
    columns=["row", "seed", "task", "accuracy"])
PAPER = {"a": {"Smiling": 84.71, "Young": 71.60}, "d": {"Young": 84.90}}
CELLS = [("(b) smile / young", wilson(30, 80), 22.10), ("(a) smile / young", wilson(9, 12), None),
         ("(e) smile / young", wilson(0, 0), 43.71)]
CURVES = {"(a) shared": [[50.0, 60.0, 70.0], [54.0, 62.0, 71.0]], "(e) modulated": [[55, 70, 80]]}


@pytest.fixture(autouse=True)
def canvas():
    """A backend without a screen, the book's style, and no figure or style left behind."""
    plt.switch_backend("Agg")
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


@pytest.fixture
def ax() -> Axes:
    return figures.new_axes()


def drawn(ax, marker) -> list[tuple[float, float]]:
    """Where a marker is, from left to right; those of the legend are nowhere."""
    return sorted((round(float(x), 6), float(y)) for line in ax.lines
                  if line.get_marker() == marker
                  for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


def bars(ax) -> dict[float, float]:
    """Height of every bar by its middle; the legend's have no height."""
    return {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height()
            for bar in ax.patches if bar.get_height()}


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# Accuracy

def test_bars_are_means_over_seeds_and_dots_the_seeds(ax):
    assert figures.accuracy_bars(ax, MEASURED, ROW_LABELS, TASK_LABELS) is ax
    assert bars(ax) == pytest.approx({-0.2: 62.0, 0.2: 56.5, 0.8: 80.0, 1.2: 71.5})
    assert drawn(ax, ".") == [
        (-0.2, 60), (-0.2, 64), (0.2, 55), (0.2, 58), (0.8, 80), (1.2, 71.5)]
    assert drawn(ax, "D") == []
    assert sorted(legend(ax)) == ["one seed", "smile", "young"]


def test_bars_have_their_tasks_colour(ax):
    figures.accuracy_bars(ax, MEASURED, ROW_LABELS, TASK_LABELS)
    colours = {round(bar.get_x() + bar.get_width() / 2, 6): to_hex(bar.get_facecolor()).upper()
               for bar in ax.patches if bar.get_height()}
    smile, young = figures.TASK_COLOURS["Smiling"], figures.TASK_COLOURS["Young"]
    assert colours == {-0.2: smile, 0.2: young, 0.8: smile, 1.2: young}


def test_accuracy_diamonds_are_where_the_paper_prints_a_value(ax):
    figures.accuracy_bars(ax, MEASURED, ROW_LABELS, TASK_LABELS, PAPER)
    assert drawn(ax, "D") == [(-0.2, 84.71), (0.2, 71.60), (1.2, 84.90)]
    assert any("the paper" in label for label in legend(ax))


def test_a_row_without_records_has_a_place_and_its_diamond_but_no_bar(ax):
    figures.accuracy_bars(
        ax, MEASURED.query("row == 'a'"), ROW_LABELS, TASK_LABELS, PAPER)
    assert bars(ax) == pytest.approx({-0.2: 62.0, 0.2: 56.5})
    assert len(drawn(ax, "D")) == 3
    assert [label.get_text() for label in ax.get_xticklabels()] == list(ROW_LABELS.values())


def test_rows_and_tasks_stand_in_the_order_of_their_labels(ax):
    figures.accuracy_bars(ax, MEASURED, dict(reversed(ROW_LABELS.items())),
                          dict(reversed(TASK_LABELS.items())))
    assert bars(ax) == pytest.approx({-0.2: 71.5, 0.2: 80.0, 0.8: 56.5, 1.2: 62.0})
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "(d) independent", "(a) shared"]


def test_chance_is_at_50(ax):
    figures.accuracy_bars(ax, MEASURED, ROW_LABELS, TASK_LABELS)
    [line] = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [50, 50]
    [chance] = [text for text in ax.texts if text.get_text() == "chance"]
    assert chance.xy[1] == 50


# Update compliance ratio

def test_intervals_end_where_they_end(ax):
    assert figures.ucr_intervals(ax, CELLS) is ax
    lines = [line for line in ax.lines if line.get_linewidth() == 3 and len(line.get_xdata()) == 2]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in lines] == [
        (100 * ratio.low, 100 * ratio.high, y, y) for ratio, y in ((CELLS[1][1], 1),
                                                                  (CELLS[0][1], 2))]
    assert drawn(ax, "o") == [(37.5, 2), (75.0, 1)]


def test_cells_are_named_from_top_to_bottom(ax):
    figures.ucr_intervals(ax, CELLS)
    by_height = dict(zip(ax.get_yticks(), [t.get_text() for t in ax.get_yticklabels()],
                         strict=True))
    assert [by_height[y] for y in (2, 1, 0)] == [label for label, *_ in CELLS]


def test_ucr_diamonds_are_where_the_paper_prints_a_value(ax):
    figures.ucr_intervals(ax, CELLS)
    assert drawn(ax, "D") == [(22.10, 2), (43.71, 0)]
    assert legend(ax) == ["measured, 95 % interval", "the paper"]


def test_without_the_paper_no_diamond_is_explained(ax):
    figures.ucr_intervals(ax, [(label, ratio, None) for label, ratio, _ in CELLS])
    assert drawn(ax, "D") == []
    assert legend(ax) == ["measured, 95 % interval"]


# Gradients

def arrows(ax) -> list[np.ndarray]:
    """The ends of the arrows; all start at the origin."""
    found = [text for text in ax.texts if isinstance(text, Annotation) and text.arrow_patch]
    assert all(text.xyann == (0, 0) for text in found)
    return [np.array(text.xy) for text in found]


@pytest.mark.parametrize("cosine", [-1.0, -0.6, 0.0, 0.3, 0.999])
def test_the_angle_between_the_arrows_is_the_gradients(ax, cosine):
    gramian = np.array([[4.0, 6.0 * cosine], [6.0 * cosine, 9.0]])
    assert figures.gradient_arrows(ax, gramian, ("smile", "young")) is ax
    first, second, _ = arrows(ax)
    between = np.arctan2(second[1], second[0]) - np.arctan2(first[1], first[0])
    assert between == pytest.approx(np.arccos(cosine), abs=1e-6)
    assert f"{np.degrees(np.arccos(cosine)):.0f}°" in [text.get_text() for text in ax.texts]


def test_the_arrows_lengths_are_in_proportion_and_the_step_is_their_mean(ax):
    figures.gradient_arrows(ax, np.array([[4.0, -3.0], [-3.0, 9.0]]), ("smile", "young"))
    first, second, step = arrows(ax)
    assert np.hypot(*first) / np.hypot(*second) == pytest.approx(2 / 3)
    assert step == pytest.approx((first + second) / 2)
    assert legend(ax) == ["smile", "young", "their mean"]


def test_all_arrows_are_in_view(ax):
    figures.gradient_arrows(ax, np.array([[4.0, -5.9], [-5.9, 9.0]]), ("smile", "young"))
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for x, y in arrows(ax):
        assert left <= x <= right and bottom <= y <= top


def test_the_cosines_histogram_counts_batches(ax):
    cosines = {"one": [-0.99, -0.99, 0.51], "other": [0.01, 0.02, 0.03, 0.04]}
    assert figures.cosine_histogram(ax, cosines) is ax
    outlines = {outline.get_label(): outline.get_xy() for outline in ax.patches}
    assert {label: outline[:, 1].max() for label, outline in outlines.items()} == {
        "one": 2, "other": 4}
    heights = {tuple(point) for point in outlines["one"].round(6)}
    assert {(-1.0, 2.0), (-0.95, 2.0), (0.5, 1.0), (0.55, 1.0)} <= heights
    assert sorted(legend(ax)) == ["one", "other"]


def test_every_given_cosine_is_drawn(ax):
    figures.cosine_histogram(ax, {str(number): [0.1] for number in range(4)})
    assert len(ax.patches) == 4


# Training curves

def test_curves_are_means_and_bands_run_from_the_lowest_to_the_highest_seed(ax):
    assert figures.training_curves(ax, CURVES) is ax
    shared, modulated = ax.lines
    assert shared.get_xydata().tolist() == [[1, 52], [2, 61], [3, 70.5]]
    assert modulated.get_ydata().tolist() == [55, 70, 80]
    band = ax.collections[0].get_paths()[0].vertices
    for epoch, low, high in ((1, 50, 54), (2, 60, 62), (3, 70, 71)):
        at_epoch = band[band[:, 0] == epoch][:, 1]
        assert (at_epoch.min(), at_epoch.max()) == (low, high)
    assert legend(ax) == list(CURVES)


def test_six_curves_can_be_told_apart(ax):
    figures.training_curves(ax, {str(number): [[50, 60]] for number in range(6)})
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 6


# Faces

def test_faces_are_shown_with_their_titles():
    images_NCHW = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    axes = figures.new_axes(ncols=2)
    figures.show_faces(axes, images_NCHW, ("one", "other"))
    for ax, image_CHW, title in zip(axes, images_NCHW, ("one", "other"), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image_CHW.transpose(1, 2, 0))
        assert ax.get_title() == title


def test_faces_and_titles_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        figures.show_faces(figures.new_axes(ncols=2), np.zeros((2, 3, 4, 4), np.uint8), ("one",))


def test_in_a_conflicting_triplet_the_other_two_faces_change_sides():
    anchor, first, second = (np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30))
    axes = figures.conflicting_triplet(anchor, first, second, "smile", "young")
    assert np.shape(axes) == (2, 3)
    for row in axes:
        shown = [int(ax.images[0].get_array()[0, 0, 0]) for ax in row]
        assert shown == [10, 20, 30]
    pull, push = "positive: pull nearer", "negative: push away"
    assert [[ax.get_title() for ax in row] for row in axes] == [
        ["anchor", pull, push], ["anchor", push, pull]]
    assert [row[0].get_ylabel() for row in axes] == ["smile", "young"]


# All

DRAWINGS = {
    "accuracy_bars": lambda ax: figures.accuracy_bars(
        ax, MEASURED, ROW_LABELS, TASK_LABELS, PAPER),
    "accuracy_bars, no records": lambda ax: figures.accuracy_bars(
        ax, MEASURED[:0], ROW_LABELS, TASK_LABELS, PAPER),
    "ucr_intervals": lambda ax: figures.ucr_intervals(ax, CELLS),
    "ucr_intervals, no records": lambda ax: figures.ucr_intervals(
        ax, [(label, Ratio(float("nan"), 0, 1, 0), None) for label, *_ in CELLS]),
    "gradient_arrows": lambda ax: figures.gradient_arrows(
        ax, np.array([[1, -0.5], [-0.5, 1]]), ("smile", "young")),
    "cosine_histogram": lambda ax: figures.cosine_histogram(ax, {"one": [0.5]}),
    "training_curves": lambda ax: figures.training_curves(ax, CURVES),
    "training_curves, no records": lambda ax: figures.training_curves(ax, {}),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_rendered_without_a_warning(name, ax):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DRAWINGS[name](ax)
        ax.figure.canvas.draw()
    assert np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].std() > 0  # not a blank sheet


def test_new_axes_take_the_options_of_a_figure():
    axes = figures.new_axes(nrows=2, ncols=3, figsize=(5, 4))
    assert axes.shape == (2, 3)
    assert tuple(axes[0, 0].figure.get_size_inches()) == (5, 4)


def test_the_style_is_the_same_however_often_it_is_set():
    once = dict(mpl.rcParams)
    figures.use_style()
    assert dict(mpl.rcParams) == once
    assert tuple(mpl.rcParams["figure.figsize"]) == (7.2, 3.8)


# For those who see few colours or none

# Machado, Oliveira & Fernandes 2009, Table 1, severity 1.0: on linear RGB.
VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}
# sRGB (linear) to XYZ over the white point D65
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                   [0.0193339, 0.1191920, 0.9503041]]) / [[0.95047], [1.0], [1.08883]]


def lab(colour, seen=VISION["all cones"]) -> np.ndarray:
    """L*, a*, b* of a colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(seen @ linear, 0, 1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_are_measured_as_their_authors_define_them():
    assert lab("white") == pytest.approx([100, 0, 0], abs=0.1)
    assert lab("#FF0000") == pytest.approx([53.2, 80.1, 67.2], abs=0.1)


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_differ_for_people_who_see_fewer(vision):
    near = [(one, other) for one, other in combinations(figures.COLOURS, 2)
            if np.linalg.norm(lab(one, VISION[vision]) - lab(other, VISION[vision])) < 17]
    assert near == []  # about 2 can just be told apart side by side


def test_every_colour_of_a_task_is_of_the_palette_and_its_own():
    assert len(set(figures.TASK_COLOURS.values())) == len(figures.TASK_COLOURS)
    assert set(figures.TASK_COLOURS.values()) < set(figures.COLOURS)


def test_bars_of_tasks_are_told_apart_by_their_hatching_alone():
    looks = [figures.TASK_HATCHES.get(task) for task in figures.TASK_COLOURS]
    assert len(set(looks)) == len(looks)


def test_bars_are_hatched_as_the_legend_says(ax):
    figures.accuracy_bars(ax, MEASURED, ROW_LABELS, TASK_LABELS)
    hatches = [bar.get_hatch() for bar in ax.patches if bar.get_height()]
    assert set(hatches) == {None, figures.TASK_HATCHES["Young"]}
    assert [bar.get_hatch() for bar in ax.get_legend().get_patches()] == [
        None, figures.TASK_HATCHES["Young"]]


def test_outlines_and_arrows_are_told_apart_by_more_than_their_colour(ax):
    figures.cosine_histogram(ax, {str(number): [0.1 * number] for number in range(4)})
    assert len({outline.get_linestyle() for outline in ax.patches}) == 4
    ax = figures.gradient_arrows(figures.new_axes(), np.eye(2), ("smile", "young"))
    first, second, mean = ax.get_legend().get_lines()
    assert mean.get_linestyle() == "--" != first.get_linestyle()
    assert abs(lab(first.get_color())[0] - lab(second.get_color())[0]) > 10


def test_curves_and_their_legend_have_a_marker_each(ax):
    figures.training_curves(ax, {str(number): [[50, 60]] for number in range(7)})
    assert len({line.get_marker() for line in ax.get_legend().get_lines()}) == 7


# Letters

PAGE_INCHES = 7.0  # a figure is drawn with 100 dots an inch, and its column is 700 wide
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", DRAWINGS)
def test_letters_are_no_smaller_than_7_points_on_the_page(name, ax):
    DRAWINGS[name](ax)
    sizes = [text.get_fontsize() for text in ax.figure.findobj(Text) if text.get_text()]
    assert min(sizes) * min(1, PAGE_INCHES / ax.figure.get_figwidth()) >= 7


@pytest.mark.parametrize("path", sorted(
    [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]), ids=lambda p: p.stem)
def test_no_figure_of_a_page_is_so_wide_that_its_letters_shrink(path):
    widths = re.findall(r"figsize=\(([0-9.]+),", path.read_text("utf8"))
    assert [width for width in widths if float(width) > 7.6] == []


def test_no_table_of_a_page_is_cut_short():
    long = pd.DataFrame({n: ["a long name " * 20] * 70 for n in range(30)})
    limits = [part for name in ("colwidth", "columns", "rows")
              for part in (f"display.max_{name}", 20)]  # as in a notebook, or narrower
    with pd.option_context(*limits):
        assert long._repr_html_().count("a long name") < 1000
        figures.use_style()
        shown = long._repr_html_()
    assert shown.count("<td>") == 70 * 30 and shown.count("a long name") == 70 * 30 * 20
