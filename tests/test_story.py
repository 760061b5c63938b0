"""The first page's figure draws the conflict and the remedy, and shows what the records say."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from table_1_records import MEANS, NO_ROWS, PAPER_ACCURACY, rows_of_two_seeds

from modlib import figures, growth
from modlib.story import (
    BARS,
    LEVELS,
    TASKS,
    draw_conflict,
    draw_remedy,
    draw_result,
    draw_story,
    gain_sentence,
)
from modlib.table_1 import HEADLINE_ROWS


@pytest.fixture(autouse=True)
def canvas():
    plt.switch_backend("Agg")
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_story_has_a_conflict_a_remedy_and_a_result_that_fit_their_figure():
    axes = draw_story(rows_of_two_seeds())
    assert [ax.get_title("left") for ax in axes.values()] == list(axes)
    assert [title.split()[1] for title in axes] == ["conflict", "remedy", "it"]
    figure = axes["The conflict"].get_figure(root=True)
    figure.canvas.draw()
    page = figure.bbox
    for ax in axes.values():
        drawn = ax.get_tightbbox(figure.canvas.get_renderer())
        assert page.x0 <= drawn.x0 and drawn.x1 <= page.x1, ax.get_title("left")


def test_the_two_tasks_pull_in_opposite_directions_as_far():
    ax = draw_conflict(figures.new_axes())
    arrows = [text for text in ax.texts if isinstance(text, Annotation)]
    colours = [to_hex(arrow.arrow_patch.get_facecolor()) for arrow in arrows]
    first, second = (arrow.xy[0] - arrow.xyann[0] for arrow in arrows)
    assert first < 0 and second == -first
    assert colours == [to_hex(colour) for _, colour in TASKS]
    assert {task for task, _ in TASKS} <= set(texts(ax))


def test_each_task_has_a_control_for_every_channel_and_sets_it_its_own_way():
    ax = draw_remedy(figures.new_axes())
    knobs = [patch for patch in ax.patches if type(patch) is Rectangle]
    for task, colour in TASKS:
        own = [knob for knob in knobs if to_hex(knob.get_facecolor()) == to_hex(colour)]
        heights = [knob.get_y() for knob in own]
        levels = LEVELS[task]
        assert sorted(range(6), key=heights.__getitem__) == sorted(range(6), key=levels.__getitem__)
    smile, young = (LEVELS[task] for task, _ in TASKS)
    assert smile != young


def test_the_result_has_means_seeds_sizes_and_the_papers_means():
    ax = draw_result(figures.new_axes(), rows_of_two_seeds())
    bars = [patch.get_width() for patch in ax.patches]
    means = [MEANS[row] - 2 for row in HEADLINE_ROWS]  # of smile, and of two tasks below it
    assert bars == pytest.approx(means)
    said = " ".join(texts(ax))
    assert all(f"{mean:.1f} %" in said for mean in means)
    assert texts(ax)[1::2] == ["size 100 %", "size 100 %", "size 103 %"]
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "."]
    assert [values for values in dots if values] == [
        pytest.approx([mean - 1, mean + 1]) for mean in means]
    diamonds = [line.get_xdata()[0] for line in ax.lines
                if line.get_marker() == "D" and len(line.get_xdata())]
    assert diamonds == pytest.approx(
        [sum(PAPER_ACCURACY[row].values()) / 3 for row in HEADLINE_ROWS])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(BARS.values())


def test_without_records_there_is_no_bar_and_no_number():
    ax = draw_result(figures.new_axes(), NO_ROWS)
    assert list(ax.patches) == [] and texts(ax) == []


def test_the_gain_is_told_with_intervals_and_missing_runs_are_named(monkeypatch):
    nan = float("nan")
    monkeypatch.setattr(growth, "gains", lambda: {
        3: (10.6, 10.05, 11.15), 7: (1, 1, 1), 20: (nan, nan, nan), 40: (1, 1, 1)})
    said = gain_sentence()
    assert "**+10.60 [+10.05, +11.15]** with 3 attributes" in said
    assert "**not run yet** with 20 attributes" in said
