"""Figures of the page on speed; the style is that of :mod:`modlib.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from modlib.figures import BLUE, GREEN, MARKERS, ORANGE, PURPLE


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


def growth_curves(axes: Sequence[Axes], curves: Mapping[str, Mapping[str, Any]]) -> None:
    """Time of a step and peak memory against a size, on logarithmic axes, a panel a size.

    Args:
        axes: one for each curve.
        curves: by what grows, as ``benchmarks/growth.py`` measures them.
    """
    for ax, (what, curve) in zip(axes, curves.items(), strict=True):
        lines = [("seconds", "time of a step, ms", 1000, BLUE),
                 ("megabytes", "peak memory, MB", 1, ORANGE)]
        for (key, label, factor, colour), marker in zip(lines, MARKERS, strict=False):
            ax.plot(curve["sizes"], [factor * value for value in curve[key]], color=colour,
                    marker=marker, markersize=5,
                    label=f"{label} (exponent {curve[f'{key} exponent']:.2f})")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(curve["sizes"], [f"{size:,}" for size in curve["sizes"]], minor=False)
        ax.xaxis.set_minor_locator(plt.NullLocator())
        ax.set_ylim(bottom=None, top=ax.get_ylim()[1] * 3)
        ax.set_xlabel(what)
        ax.legend(loc="upper left", fontsize=9)
        ax.set_ylabel("ms, MB")
