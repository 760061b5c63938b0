"""The figures of the page on speed draw what a benchmark's record holds."""

import re

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


def test_growth_is_drawn_in_milliseconds_beside_megabytes_with_its_exponents():
    time, memory = axes = figures.new_axes(ncols=2)
    speed_figures.growth_curves([axes], GROWTH)
    assert drawn(time) == [[(1, pytest.approx(100)), (10, pytest.approx(200)),
                            (100, pytest.approx(400))]]
    assert drawn(memory) == [[(1, 10), (10, 20), (100, 30)]]
    assert [(ax.get_ylabel(), ax.get_title(loc="left")) for ax in axes] == [
        ("time of a step, ms", "exponent 0.30"), ("peak memory, MB", "exponent 0.24")]
    for ax in axes:
        assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "tasks")


def test_panels_of_one_column_have_one_vertical_axis():
    axes = figures.new_axes(nrows=2, ncols=2)
    more = GROWTH["tasks"] | {"seconds": [1.0, 2.0, 4.0], "megabytes": [100, 200, 5000]}
    speed_figures.growth_curves(axes, GROWTH | {"image size": more})
    for column, (low, high) in enumerate([(100, 4000), (10, 5000)]):
        assert axes[0, column].get_ylim() == axes[1, column].get_ylim()
        assert axes[0, column].get_ylim() == pytest.approx((low / 1.3, high * 1.3))


def test_ticks_of_growth_are_plain_numbers():
    axes = figures.new_axes(ncols=2)
    curve = GROWTH["tasks"] | {"seconds": [0.322, 0.35, 0.421], "megabytes": [600, 2000, 5400],
                               "sizes": [1000, 50_000, 200_000]}
    speed_figures.growth_curves([axes], {"images": curve})
    axes[0].figure.canvas.draw()
    for ax in axes:  # of which one spans less than an octave
        low, high = ax.get_ylim()
        shown = [label.get_text() for label, place in zip(
            ax.get_yticklabels(), ax.get_yticks(), strict=True) if low <= place <= high]
        assert len(shown) > 2
        assert all(re.fullmatch(r"[\d,]+", text) for text in shown)
        assert [label.get_text() for label in ax.get_xticklabels()] == [
            "1,000", "50,000", "200,000"]
        assert not [*ax.get_xticklabels(minor=True), *ax.get_yticklabels(minor=True)]


def test_each_curve_has_panels_of_its_own():
    with pytest.raises(ValueError, match="zip"):
        speed_figures.growth_curves([figures.new_axes(ncols=2)], {})
