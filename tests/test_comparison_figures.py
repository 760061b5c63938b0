"""Every figure that compares draws what it was given, also where there are gaps or nothing."""

import itertools
import warnings
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy.cluster.hierarchy import leaves_list, linkage

from modlib import figures
from modlib.arrays import to_json
from modlib.comparison_figures import (
    accuracy_by_attribute,
    cost_frontier,
    neighbour_grid,
    spread_apart,
)
from modlib.heat_maps import (
    clustered_heat_map,
    clustered_heat_maps,
    scale_map,
    split_heat_map,
    task_order,
)
from modlib.twenty_attributes import frontier

MEASURED = pd.DataFrame(
    [("ours", 0, "Smiling", 90.0), ("ours", 1, "Smiling", 94.0), ("ours", 0, "Young", 80.0),
     ("ours", 0, "Wavy_Hair", 85.0), ("shared", 0, "Smiling", 70.0), ("shared", 0, "Young", 60.0)],
    columns=["row", "seed", "task", "accuracy"])
PAPER = {"ours": {"Smiling": 93.77, "Young": 84.87}, "shared": {"Young": 61.55}}
POINTS = pd.DataFrame(
    [("shared", 0, 74.0, True), ("masks", 5_000, 73.0, False), ("scales", 10_000, 88.0, True),
     ("networks", 51_000_000, 87.0, False)], columns=["row", "extra", "accuracy", "best"])
UPPER = np.array([[0, 51.0, 68.0], [51.0, 0, 55.0], [68.0, 55.0, 0]])
LOWER = np.array([[0, 48.0, 26.0], [48.0, 0, 45.0], [26.0, 45.0, 0]])
TASKS = ("Smiling", "Wavy_Hair", "Young")
# Two pairs that are near each other, {0, 3} and {1, 4}, and one task far from all.
DISTANCE = np.array([
    [0.0, 5.0, 9.0, 1.0, 6.0],
    [5.0, 0.0, 9.5, 5.5, 2.0],
    [9.0, 9.5, 0.0, 8.0, 8.5],
    [1.0, 5.5, 8.0, 0.0, 4.0],
    [6.0, 2.0, 8.5, 4.0, 0.0]])
FIVE = ("Smiling", "Wavy_Hair", "Young", "Mouth_Slightly_Open", "Bangs")


@pytest.fixture(autouse=True)
def canvas():
    """A backend without a screen, the book's style, and no figure or style left behind."""
    plt.switch_backend("Agg")
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return figures.new_axes()


def drawn(ax, marker, filled) -> list[tuple[float, float]]:
    """Where a marker is, from bottom to top, hollow or filled; the legend's are nowhere."""
    points = [point for line in ax.lines
              if line.get_marker() == marker and (line.get_markerfacecolor() != "none") == filled
              for point in line.get_xydata()]
    return [tuple(point) for point in sorted(points, key=lambda point: point[1])]


def names(labels) -> list[str]:
    return [label.get_text() for label in labels]


def legend(ax) -> list[str]:
    return names(ax.get_legend().get_texts())


def cells(ax) -> np.ma.MaskedArray:
    """The values of a square heat map, row by row from the top."""
    values = ax.collections[0].get_array()
    side = round(values.size ** 0.5)
    return values.reshape(side, side)


# Accuracy by attribute


def test_marks_are_means_over_seeds_in_the_order_of_the_first_row(ax):
    assert accuracy_by_attribute(ax, MEASURED, ["ours", "shared"]) is ax
    assert names(ax.get_yticklabels()) == ["Young", "Wavy Hair", "Smiling"]
    assert drawn(ax, "o", True) == [(80, 0), (85, 1), (92, 2)]
    [young, (unknown, _), smiling] = drawn(ax, "s", True)
    assert (young, smiling) == ((60, 0), (70, 2))
    assert np.isnan(unknown)  # the shared row has no accuracy for wavy hair
    assert legend(ax) == ["ours", "shared"]


def test_the_first_row_that_was_run_sorts_the_attributes(ax):
    accuracy_by_attribute(ax, MEASURED, ["not run", "shared", "ours"])
    assert names(ax.get_yticklabels())[:2] == ["Young", "Smiling"]
    assert legend(ax) == ["shared", "ours"]
    assert drawn(ax, "o", True)[:2] == [(60, 0), (70, 1)]


def test_only_the_rows_that_are_asked_for_are_drawn(ax):
    accuracy_by_attribute(ax, MEASURED, ["shared"])
    assert legend(ax) == ["shared"]


def test_hollow_marks_are_where_the_paper_prints_a_value(ax):
    accuracy_by_attribute(ax, MEASURED, ["ours", "shared"], PAPER)
    assert drawn(ax, "o", False)[::2] == [(84.87, 0), (93.77, 2)]
    assert drawn(ax, "s", False)[0] == (61.55, 0)
    assert np.isnan([drawn(ax, "o", False)[1][0], *(x for x, _ in drawn(ax, "s", False)[1:])]).all()
    assert legend(ax) == ["ours", "shared", "the paper's"]


def test_a_row_that_the_paper_lacks_has_no_hollow_marks(ax):
    accuracy_by_attribute(ax, MEASURED, ["ours", "shared"], {"ours": PAPER["ours"]})
    assert drawn(ax, "s", False) == []


def test_guessing_is_at_50(ax):
    accuracy_by_attribute(ax, MEASURED, ["ours"])
    [line] = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == [50, 50]


# Accuracy against a cost


def test_every_system_is_a_named_point_where_it_belongs(ax):
    assert cost_frontier(ax, POINTS, "extra", "numbers") is ax
    near = POINTS[POINTS.accuracy > 80]
    assert {text.get_text(): text.xy for text in ax.texts if "↓" not in text.get_text()} == {
        f"{one.row}  {one.accuracy:.1f}": (one.extra, one.accuracy) for one in near.itertuples()}
    points = {marker: {tuple(line.get_xydata()[0]) for line in ax.lines
                       if line.get_marker() == marker} for marker in ("o", "s")}
    assert points == {"o": {(10_000, 88)}, "s": {(51_000_000, 87)}}
    assert ax.get_xlabel() == "numbers"


def test_a_system_far_below_stands_on_the_lower_edge_with_its_number(ax):
    cost_frontier(ax, POINTS, "extra", "")
    low = ax.get_ylim()[0]
    assert 85 < low < 87  # the two good ones are a point apart: they are not squeezed
    below = {text.get_text(): text.xy for text in ax.texts if "↓" in text.get_text()}
    assert set(below) == {"shared  74.0 ↓", "masks  73.0 ↓"}
    assert {x for x, _ in below.values()} == {0, 5_000}
    assert all(low < height < 87 for _, height in below.values())
    assert {tuple(line.get_xydata()[0]) for line in ax.lines
            if line.get_marker() == "v"} == set(below.values())


def test_the_step_goes_through_the_best_from_left_to_right(ax):
    points = POINTS.assign(accuracy=[84.0, 83.0, 88.0, 87.0])
    cost_frontier(ax, points[::-1], "extra", "")
    [step] = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert step.get_xydata().tolist() == [[0, 84], [10_000, 88], [points.extra.max(), 88]]


@pytest.mark.parametrize("accuracies", [
    [88.0] * 12, list(np.linspace(82, 88, 12)), [81.0] * 5 + [88.0] * 7, [88.0, 87.99, 70.0, 60.0]])
def test_no_name_lies_on_another(ax, accuracies):
    table = pd.DataFrame({"row": [f"system {n}" for n in range(len(accuracies))],
                          "extra": range(len(accuracies)), "accuracy": accuracies, "best": False})
    cost_frontier(ax, table, "extra", "")
    ax.figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_what_is_spread_apart_already_stays():
    assert spread_apart([0.9, 0.5, 0.1], gap=0.1) == [0.9, 0.5, 0.1]
    assert np.allclose(spread_apart([0.5, 0.5, 0.45], gap=0.1), [0.5, 0.4, 0.3])
    assert np.allclose(spread_apart([0.2, 0.1, 0.1], gap=0.1), [0.25, 0.15, 0.05])  # the edge


def test_names_of_points_that_are_near_each_other_do_not_overlap(ax):
    crowd = POINTS.assign(extra=[110.0, 110.2, 110.1, 120.0], accuracy=[88.0, 88.2, 88.1, 70.0])
    cost_frontier(ax, crowd, "extra", "MB")
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize(("costs", "scale"), [
    ([0, 1, 2, 3], "symlog"), ([1, 2, 3, 101], "symlog"), ([2, 3, 4, 150], "log"),
    ([1, 2, 3, 4], "linear"), ([1, 2, 3, 4.1], "log"), ([0.9, 1.0, 1.1, 19.9], "log")])
def test_costs_far_apart_or_of_nothing_have_a_logarithmic_axis(ax, costs, scale):
    cost_frontier(ax, POINTS.assign(extra=costs), "extra", "")
    assert ax.get_xscale() == scale


def test_a_logarithmic_axis_of_costs_has_plain_numbers(ax):
    cost_frontier(ax, POINTS.assign(extra=[112.0, 113.0, 168.0, 1804.0]), "extra", "MB")
    ax.figure.canvas.draw()
    shown = [label.get_text() for label, place in zip(
        ax.get_xticklabels(), ax.get_xticks(), strict=True) if 112 <= place <= 1804]
    assert shown == ["200", "500", "1,000"]
    assert names(ax.get_xticklabels(minor=True)) == []


RANGES = pd.DataFrame(
    [("shared", 1.0, 84.0, True, 1.0, 1.0), ("masks", 0.9, 83.0, False, 0.7, 1.2),
     ("scales", 2.2, 88.0, True, 2.0, 2.9), ("networks", 19.9, 87.0, False, 19.0, 21.0)],
    columns=["row", "time", "accuracy", "best", "low", "high"])


def bars(ax) -> list[tuple[float, float, float]]:
    """The horizontal bars, from the lowest up: height, left end, right end."""
    ends = [segment for collection in ax.collections for segment in collection.get_segments()]
    return sorted((one[0][1], one[0][0], one[1][0]) for one in ends)


def test_each_point_has_a_bar_from_the_lowest_to_the_highest_of_its_cost(ax):
    cost_frontier(ax, RANGES, "time", "")
    assert bars(ax) == [pytest.approx(bar) for bar in (
        (83, 0.7, 1.2), (84, 1, 1), (87, 19, 21), (88, 2, 2.9))]


def test_without_ranges_there_are_no_bars(ax):
    cost_frontier(ax, POINTS, "extra", "")
    assert bars(ax) == []


def steps(ax) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for line in ax.lines
            if line.get_drawstyle() == "steps-post"]


def test_the_step_goes_through_the_best_where_their_ranges_are_apart(ax):
    cost_frontier(ax, RANGES, "time", "")
    assert steps(ax) == [[[1, 84], [2.2, 88], [RANGES.time.max(), 88]]]


@pytest.mark.parametrize("table", [
    RANGES.assign(low=0.5, high=30.0),                        # all ranges overlap
    RANGES.assign(best=[False, False, True, False]),          # one is the best
    RANGES.assign(best=[True, True, False, False])])
def test_where_the_ranges_of_the_best_overlap_all_over_there_is_no_step(ax, table):
    cost_frontier(ax, table, "time", "")
    assert steps(ax) == []
    # the colour still says who they are
    assert legend(ax) == ["no cheaper system has a higher mean"]


def test_the_legend_of_costs_lies_above_the_points(ax):
    cost_frontier(ax, RANGES, "time", "")
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1


# Pairs of tasks


def test_one_table_is_above_the_diagonal_and_one_below(ax):
    assert split_heat_map(ax, UPPER, LOWER, TASKS, ("ours", "shared")) is ax
    shown = cells(ax)
    assert np.array_equal(np.ma.getmaskarray(shown), np.eye(3, dtype=bool))
    for i in range(3):
        for j in range(3):
            if i != j:
                assert shown[i, j] == (UPPER if i < j else LOWER)[i, j]
    assert ax.get_title(loc="left") == "above the diagonal: ours; below: shared"
    assert names(ax.get_yticklabels()) == ["Smiling", "Wavy Hair", "Young"]


def test_the_colours_reach_as_far_on_both_sides_of_the_centre(ax):
    split_heat_map(ax, UPPER, LOWER, TASKS, ("", ""))
    norm = ax.collections[0].norm
    assert (norm.vmin, norm.vmax) == (26, 74)  # 26 is the farthest from 50


def test_a_pair_that_was_not_measured_is_left_blank(ax):
    upper = UPPER.copy()
    upper[0, 2] = np.nan
    split_heat_map(ax, upper, LOWER, TASKS, ("", ""))
    blank = np.ma.getmaskarray(cells(ax))
    assert np.argwhere(blank).tolist() == [[0, 0], [0, 2], [1, 1], [2, 2]]


@pytest.mark.parametrize(("count", "written"), [(8, 56), (20, 380)])
def test_values_are_written_for_those_who_see_no_colours(ax, count, written):
    table = np.full((count, count), 60.0)
    split_heat_map(ax, table, table, [str(n) for n in range(count)], ("", ""))
    assert len(ax.texts) == written


# Clusters of tasks


def condensed(distance_TT) -> list[float]:
    count = len(distance_TT)
    return [distance_TT[i, j] for i in range(count) for j in range(i + 1, count)]


def test_clusters_are_those_of_scipy():
    expected = linkage(condensed(DISTANCE), "average", optimal_ordering=True)
    assert np.array_equal(task_order(DISTANCE), expected)


def test_the_order_of_the_tasks_is_scipys_leaves_from_the_top():
    tree, ax = figures.new_axes(ncols=2)
    order = clustered_heat_map(tree, ax, DISTANCE, FIVE, "distance")
    assert order == leaves_list(
        linkage(condensed(DISTANCE), "average", optimal_ordering=True))[::-1].tolist()
    assert {frozenset(order[n:n + 2]) for n in range(4)} >= {frozenset({0, 3}), frozenset({1, 4})}
    assert 2 in (order[0], order[-1])


def test_the_heat_map_has_the_given_distances_in_that_order():
    tree, ax = figures.new_axes(ncols=2)
    order = clustered_heat_map(tree, ax, DISTANCE, FIVE, "distance")
    shown = cells(ax)
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            assert shown[row, column] == DISTANCE[i, j] or (row == column and shown.mask[row, row])
    assert names(ax.get_yticklabels()) == [FIVE[n].replace("_", " ") for n in order]
    assert names(ax.get_xticklabels()) == names(ax.get_yticklabels())


def test_the_tree_stands_beside_the_rows_of_its_tasks():
    tree, ax = figures.new_axes(ncols=2)
    clustered_heat_map(tree, ax, DISTANCE, FIVE, "distance")
    assert names(tree.get_yticklabels())[::-1] == names(ax.get_yticklabels())
    assert tree.get_ylim()[0] < tree.get_ylim()[1]  # its first leaf is at the bottom,
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the heat map's first row at the top


def test_several_heat_maps_stand_one_below_the_other():
    other = DISTANCE[::-1, ::-1]
    clustered_heat_maps({"one distance": DISTANCE, "another": other}, FIVE)
    trees_and_maps = plt.gcf().axes[:4]
    for together, distance in zip(trees_and_maps[1::2], (DISTANCE, other), strict=True):
        tree, alone = figures.new_axes(ncols=2)
        clustered_heat_map(tree, alone, distance, FIVE, "")
        assert np.array_equal(cells(together).filled(-1), cells(alone).filled(-1))
        assert names(together.get_yticklabels()) == names(alone.get_yticklabels())
    tops = [ax.get_position().y0 for ax in trees_and_maps[1::2]]
    assert tops[0] > tops[1]


def test_what_is_given_is_left_as_it_was(ax):
    given = [array + np.eye(len(array)) for array in (UPPER, LOWER, DISTANCE)]
    kept = [array.copy() for array in given]
    split_heat_map(ax, given[0], given[1], TASKS, ("", ""))
    clustered_heat_map(*figures.new_axes(ncols=2), given[2], FIVE, "")
    task_order(given[2])
    for array, before in zip(given, kept, strict=True):
        assert np.array_equal(array, before)


# Scales

BLOCK5 = np.array([[1.0, 0.5], [2.0, 0.0], [1.0, 1.0]], np.float32)
FC = np.array([[0.25, 1.0, 1.5], [1.0, 1.0, 1.0], [3.0, 1.0, 0.75]], np.float32)
SCALES = {"block5": to_json(BLOCK5), "fc": to_json(FC)}


def test_scales_are_a_line_a_task_and_a_column_a_channel(ax):
    assert scale_map(ax, SCALES, TASKS) is ax
    shown = ax.collections[0].get_array().reshape(3, 5)
    for t in range(3):
        assert shown[t].tolist() == [*BLOCK5[t], *FC[t]]
    assert names(ax.get_yticklabels()) == ["Smiling", "Wavy Hair", "Young"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first task at the top


def test_a_larger_scale_is_brighter_and_1_is_in_the_middle(ax):
    mesh = scale_map(ax, SCALES, TASKS).collections[0]
    brightness = [mpl.colors.rgb_to_hsv(mesh.cmap(mesh.norm(scale))[:3])[2]
                  for scale in (0, 1, 2)]
    assert brightness == sorted(set(brightness))
    assert mesh.cmap(mesh.norm(1.0)) == pytest.approx(mpl.colormaps["viridis"](0.5), abs=0.02)


def test_each_layer_begins_at_a_line_and_is_named_over_its_middle(ax):
    scale_map(ax, SCALES, TASKS)
    assert [line.get_xdata()[0] for line in ax.lines] == [0, 2]
    assert {text.get_text(): text.get_position()[0] for text in ax.texts} == {
        "block5": 1, "fc": 3.5}


# Neighbours

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
FOUND = {"Smiling\nours": ([4, 1, 0], [True, False, True]),
         "Smiling\nCSN": ([5, 4, 3], [False, False, True])}


@pytest.fixture
def grid():
    """The panels of ``FOUND``, asked with image 2, line by line."""
    neighbour_grid(IMAGES, 2, FOUND)
    panels = plt.gcf().axes
    return [panels[:4], panels[4:]]


def crosses(ax) -> int:
    return sum(line.get_transform() == ax.transAxes for line in ax.lines)


def test_each_line_is_the_query_and_its_neighbours_nearest_first(grid):
    for line, (found, _) in zip(grid, FOUND.values(), strict=True):
        for panel, n in zip(line, (2, *found), strict=True):
            [image] = panel.images
            for channel in range(3):
                assert np.array_equal(image.get_array()[..., channel], IMAGES[n, channel])


def test_wrong_neighbours_are_crossed_and_framed_in_another_colour(grid):
    for line, (_, right) in zip(grid, FOUND.values(), strict=True):
        assert [crosses(panel) for panel in line] == [0, *(0 if good else 2 for good in right)]
        frames = [{mpl.colors.to_hex(side.get_edgecolor()) for side in panel.spines.values()}
                  for panel in line]
        assert frames == [{"#000000"}, *(
            {(figures.GREEN if good else figures.VERMILION).lower()} for good in right)]
        for panel in line:  # the query is neither right nor wrong
            assert {side.get_visible() for side in panel.spines.values()} == {panel is not line[0]}


def test_lines_and_columns_are_named_once(grid):
    assert [line[0].get_ylabel() for line in grid] == list(FOUND)
    titles = [[panel.get_title() for panel in line] for line in grid]
    assert titles == [["query", "nearest →", "", ""], ["", "", "", ""]]


def test_one_line_with_one_neighbour_is_a_grid_too():
    neighbour_grid(IMAGES, 0, {"": ([3], [True])})
    assert len(plt.gcf().axes) == 2


def test_each_line_may_have_a_query_of_its_own_and_what_is_not_known_is_neither():
    neighbour_grid(IMAGES, [2, 5], {"a": ([1, 0], [None, False]), "b": ([3, 4], [True, None])})
    panels = plt.gcf().axes
    for panel, n in zip(panels, (2, 1, 0, 5, 3, 4), strict=True):
        assert np.array_equal(panel.images[0].get_array(), np.moveaxis(IMAGES[n], 0, -1))
    assert [crosses(panel) for panel in panels] == [0, 0, 2, 0, 0, 0]
    assert {mpl.colors.to_hex(side.get_edgecolor())
            for side in panels[1].spines.values()} == {"#000000"}


# All

NAN = np.full((3, 3), np.nan)
DRAWINGS = {
    "accuracy_by_attribute": lambda ax: accuracy_by_attribute(
        ax, MEASURED, ["ours", "shared"], PAPER),
    "accuracy_by_attribute, no records": lambda ax: accuracy_by_attribute(
        ax, MEASURED[:0], ["ours", "shared"]),
    "accuracy_by_attribute, no records, the paper": lambda ax: accuracy_by_attribute(
        ax, MEASURED[:0], ["ours", "shared"], PAPER),
    "cost_frontier": lambda ax: cost_frontier(ax, POINTS, "extra", "numbers"),
    "cost_frontier, no records": lambda ax: cost_frontier(
        ax, frontier({}), "extra", "numbers"),
    "cost_frontier, ranges": lambda ax: cost_frontier(ax, RANGES, "time", "times"),
    "split_heat_map": lambda ax: split_heat_map(ax, UPPER, LOWER, TASKS, ("", "")),
    "split_heat_map, no records": lambda ax: split_heat_map(ax, NAN, NAN, TASKS, ("", "")),
    "split_heat_map, all at the centre": lambda ax: split_heat_map(
        ax, np.full((3, 3), 50.0), np.full((3, 3), 50.0), TASKS, ("", "")),
    "clustered_heat_map": lambda ax: clustered_heat_map(
        ax, ax.figure.add_subplot(), DISTANCE, FIVE, "distance"),
    "clustered_heat_map, two tasks": lambda ax: clustered_heat_map(
        ax, ax.figure.add_subplot(), DISTANCE[:2, :2], FIVE[:2], "distance"),
    "scale_map": lambda ax: scale_map(ax, SCALES, TASKS),
    "scale_map, all at 1": lambda ax: scale_map(ax, {"fc": to_json(np.ones_like(FC))}, TASKS),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_rendered_without_a_warning(name, ax):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of seaborn's own making
        DRAWINGS[name](ax)
        ax.figure.canvas.draw()
    assert np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].std() > 0  # not a blank sheet


def test_letters_are_no_smaller_than_7_points_on_the_page():
    twenty = [f"task_{n}" for n in range(20)]
    table = np.random.default_rng(0).random((20, 20))
    clustered_heat_maps({"distance": table + table.T}, twenty)
    split_heat_map(figures.new_axes(figsize=(7.2, 6)), table, table, twenty, ("", ""), 0.5)
    neighbour_grid(IMAGES, 0, {"": (range(6), [True] * 6)})
    scale_map(figures.new_axes(), SCALES, TASKS)
    cost_frontier(figures.new_axes(figsize=(7.6, 4.6)), POINTS, "extra", "numbers")
    for number in plt.get_fignums():
        figure = plt.figure(number)
        smallest = min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text())
        assert smallest * min(1, 7.0 / figure.get_figwidth()) >= 7
