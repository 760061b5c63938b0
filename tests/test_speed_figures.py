"""The figures of the page on speed draw what a benchmark's record holds."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from modlib import figures, speed_figures

POINTS = {"shared": {"seconds": [40.0, 80.0], "accuracy": [80.0, 90.5]},
          "triplets": {"seconds": [30.0], "accuracy": [60.0]}}
GROWTH = {"tasks": {"sizes": [1, 10, 100], "seconds": [0.1, 0.2, 0.4], "megabytes": [10, 20, 30],
                    "seconds exponent": 0.3, "megabytes exponent": 0.24}}


@pytest.fixture(autouse=True)
def canvas():
    """A backend without a screen, the book's style, and no figure or style left behind."""
    plt.switch_backend("Agg")
    with mpl.rc_context():
        figures.use_style()
        yield
    plt.close("all")


def drawn(ax) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
            for line in ax.lines]


def test_accuracy_is_drawn_over_seconds_with_the_last_value_at_the_lines_end():
    ax = speed_figures.accuracy_over_time(figures.new_axes(), POINTS)
    assert drawn(ax) == [[(40, 80), (80, 90.5)], [(30, 60)]]
    assert {(text.get_text(), text.xy) for text in ax.texts} == {
        ("shared\n90.5 %", (80, 90.5)), ("triplets\n60.0 %", (30, 60))}


def test_a_curve_without_points_is_no_error():
    ax = speed_figures.accuracy_over_time(
        figures.new_axes(), {"shared": {"seconds": [], "accuracy": []}})
    assert not ax.texts


def test_growth_is_drawn_in_milliseconds_and_megabytes_with_its_exponents():
    ax = figures.new_axes()
    speed_figures.growth_curves([ax], GROWTH)
    assert drawn(ax) == [[(1, pytest.approx(100)), (10, pytest.approx(200)),
                          (100, pytest.approx(400))], [(1, 10), (10, 20), (100, 30)]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "time of a step, ms (exponent 0.30)", "peak memory, MB (exponent 0.24)"]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "tasks")


def test_each_curve_has_a_panel_of_its_own():
    with pytest.raises(ValueError, match="zip"):
        speed_figures.growth_curves([figures.new_axes()], {})
