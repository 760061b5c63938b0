"""The figures of branching draw every branch, every task and every decision they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from modlib.branching_figures import grouping_tree, objective_curves, tree_order
from modlib.figures import new_axes

LAYERS = {"conv5_3": [["a", "c", "e"], ["b", "d_x"]], "fc7": [["a", "e"], ["c"], ["b", "d_x"]]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_every_group_of_every_layer_is_in_one_piece():
    order = tree_order(LAYERS)
    assert sorted(order) == ["a", "b", "c", "d_x", "e"]
    for groups in LAYERS.values():
        for tasks in groups:
            places = sorted(order.index(task) for task in tasks)
            assert places == list(range(places[0], places[0] + len(tasks)))


def test_the_tree_has_a_bar_a_branch_and_the_names_of_layers_and_tasks():
    ax = grouping_tree(new_axes(), LAYERS)
    bars = [line for line in ax.lines if line.get_linewidth() == 6]
    assert len(bars) == 5
    order = tree_order(LAYERS)
    reaches = sorted((line.get_xdata()[0], line.get_ydata()[1] - line.get_ydata()[0] - 0.6)
                     for line in bars)
    np.testing.assert_allclose(reaches, [(0, 1), (0, 2), (1, 0), (1, 1), (1, 1)], atol=1e-12)
    words = [text.get_text() for text in ax.texts]
    assert words == [*(task.replace("_", " ") for task in order), "conv5_3", "fc7",
                     "shared layers"]


def test_what_grew_from_one_branch_has_its_colour_in_every_layer():
    ax, order = grouping_tree(new_axes(), LAYERS), tree_order(LAYERS)
    bars = [line for line in ax.lines if line.get_linewidth() == 6]
    colours = {}
    for bar in bars:
        low, high = (round(y) for y in bar.get_ydata())
        for task in order[low:high + 1]:
            colours.setdefault(task, set()).add(bar.get_color())
    assert colours["a"] == colours["c"] == colours["e"] != colours["b"] == colours["d_x"]
    assert all(len(found) == 1 for found in colours.values())


def test_a_tree_that_is_split_from_the_first_layer_starts_at_the_image():
    ax = grouping_tree(new_axes(), {"conv1_1": [["a"], ["b"]]})
    assert ax.texts[-1].get_text() == "the image"


def test_every_branch_is_tied_to_the_one_it_reads():
    ax = grouping_tree(new_axes(), LAYERS)
    ties = [line for line in ax.lines if len(line.get_xdata()) == 4]
    order = tree_order(LAYERS)
    middle = {x: {tuple(tasks): sum(map(order.index, tasks)) / len(tasks) for tasks in groups}
              for x, groups in enumerate(LAYERS.values())}
    ends = sorted((tie.get_xdata()[-1], tie.get_ydata()[0], tie.get_ydata()[-1]) for tie in ties)
    expected = [(0, 2, y) for y in middle[0].values()] + [
        (1, middle[0][tuple(below)], y) for tasks, y in middle[1].items()
        for below in LAYERS["conv5_3"] if set(tasks) <= set(below)]
    np.testing.assert_allclose(ends, sorted(expected))


def test_without_branches_the_tree_says_so():
    ax = grouping_tree(new_axes(), {})
    assert [text.get_text() for text in ax.texts] == ["no layer was split"]


def test_the_smallest_loss_of_every_round_is_marked():
    rounds = [{"layer": layer, "objectives": [{"branches": d + 1, "loss": loss}
                                              for d, loss in enumerate(losses)]}
              for layer, losses in (("fc7", [3.0, 1.0, 2.0]), ("fc6", [1.5, 1.6]))]
    ax = objective_curves(new_axes(), rounds)
    assert [tuple(line.get_xydata()[line.get_markevery()[0]]) for line in ax.lines] == [
        (2, 1.0), (1, 1.5)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fc7", "fc6"]
    assert not objective_curves(new_axes(), []).lines
