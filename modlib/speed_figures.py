"""Figures of the page on speed; the style is that of :mod:`modlib.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from modlib.figures import BLUE, GREEN, MARKERS, ORANGE, PURPLE

SIZES = {"images": "images in the data set", "image size": "image size, pixels"}


def accuracy_over_time(ax: Axes, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Axes:
    """Accuracy (%) against seconds of training: a line a label, its last value written at its end.

    Args:
        curves: for each label ``seconds`` and ``accuracy``.
    """
    for number, (label, points) in enumerate(curves.items()):
        colour = (BLUE, ORANGE, GREEN, PURPLE)[number % 4]
        ax.plot(points["seconds"], points["accuracy"], color=colour, marker=MARKERS[number],
                markersize=5, label=label)
        if points["seconds"]:
            ax.annotate(f"{label}\n{points['accuracy'][-1]:.1f} %", fontsize=10,
                        xy=(points["seconds"][-1], points["accuracy"][-1]), xytext=(6, 0),
                        textcoords="offset points", va="center")
    ax.margins(x=0.15)
    ax.set_xlabel("seconds of training")
    ax.set_ylabel("mean test accuracy, %")
    return ax


def growth_curves(axes: Sequence[Sequence[Axes]], curves: Mapping[str, Mapping[str, Any]]) -> None:
    """Time of a step and peak memory against a size: a line of two panels for each size.

    All axes are logarithmic, with plain numbers. Panels of one column have one vertical axis, so
    that what is steeper grows faster; the exponent stands above.

    Args:
        axes: two for each curve.
        curves: by what grows, as ``benchmarks/growth.py`` measures them.
    """
    columns = [("seconds", "time of a step, ms", 1000, BLUE),
               ("megabytes", "peak memory, MB", 1, ORANGE)]
    for column, ((key, label, factor, colour), marker) in enumerate(
            zip(columns, MARKERS, strict=False)):
        every = [factor * value for curve in curves.values() for value in curve[key]]
        for line, (what, curve) in zip(axes, curves.items(), strict=True):
            ax = line[column]
            ax.plot(curve["sizes"], [factor * value for value in curve[key]], color=colour,
                    marker=marker, markersize=5)
            ax.set(xscale="log", yscale="log", xlabel=SIZES.get(what, what), ylabel=label,
                   ylim=(min(every) / 1.3, max(every) * 1.3))
            ax.set_title(f"exponent {curve[f'{key} exponent']:.2f}", fontsize=10)
            ax.set_xticks(curve["sizes"], [f"{size:,}" for size in curve["sizes"]], fontsize=9)
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:,g}")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_minor_locator(NullLocator())
