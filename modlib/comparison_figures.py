"""Figures that compare many systems or many tasks; the style is that of :mod:`modlib.figures`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from modlib.figures import COLOURS, GREEN, GREY, MARKERS, ORANGE, VERMILION, new_axes

FAR_BELOW = 8.0  # points of accuracy


def accuracy_by_attribute(
    ax: Axes, measured: pd.DataFrame, rows: Sequence[str],
    paper: Mapping[str, Mapping[str, float]] | None = None,
) -> Axes:
    """A line an attribute, a mark a system at its mean over seeds; hollow marks are the paper's.

    Args:
        measured: a table with columns row, seed, task, accuracy (%).
        rows: the systems, in the order of the legend.
        paper: ``{row: {task: %}}``, drawn where given.
    """
    means = measured.groupby(["task", "row"]).accuracy.mean().unstack("row")
    rows = [row for row in rows if row in means]
    means = means.sort_values(rows[0]) if rows else means
    for number, row in enumerate(rows):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        # Those drawn first are larger, so that a mark on the same spot does not hide them.
        size = 6 + (len(rows) - 1 - number)
        ax.plot(means[row], range(len(means)), marker, color=colour, label=row, markersize=size,
                zorder=3)
        if paper and row in paper:
            printed = [paper[row].get(task, np.nan) for task in means.index]
            ax.plot(printed, range(len(means)), marker, markerfacecolor="none",
                    markeredgecolor=colour, markersize=6, alpha=0.8, zorder=2)
    if paper:
        ax.plot([], [], "o", markerfacecolor="none", markeredgecolor=GREY, label="the paper's")
    ax.set_yticks(range(len(means)), [task.replace("_", " ") for task in means.index], fontsize=9)
    ax.grid(axis="y", visible=True)
    ax.axvline(50, color=GREY, linestyle="--", linewidth=1, zorder=1)
    ax.set_xlim(right=100)
    ax.set_xlabel("triplet accuracy, %")
    if rows or paper:
        ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), fontsize=9, columnspacing=1.0,
                  handletextpad=0.2, ncols=min(5, len(rows) + bool(paper)))
    return ax


def cost_frontier(ax: Axes, table: pd.DataFrame, cost: str, label: str) -> Axes:
    """Accuracy against a cost, a named point a system; a step line through the best ones.

    A system more than ``FAR_BELOW`` points below the best one would squeeze all others together: it
    stands as a triangle on the lower edge. Every name carries its number. Where costs have ranges
    each is a bar; where those of the best overlap all over there is no line.

    Args:
        table: columns row, accuracy (%), best (bool), and ``cost``; also low and high where the
            cost has a range.
        cost: the column of the horizontal axis, at least 0.
        label: of the horizontal axis.
    """
    ranges = {"low", "high"} <= set(table)
    table = table.sort_values("accuracy", ascending=False)
    if not ranges:
        table = table.assign(low=table[cost], high=table[cost])
    far_below = table.accuracy < table.accuracy.max() - FAR_BELOW
    low, high = table[~far_below].accuracy.agg(["min", "max"]) if len(table) else (0, 100)
    margin = 0.1 * max(high - low, 1.0)
    low, high = low - (3 if far_below.any() else 1) * margin, high + margin
    table = table.assign(
        height=table.accuracy.where(~far_below, low + margin), beside=range(len(table)))
    best = table[table.best].sort_values(cost)
    if best.low.max() <= best.high.min():
        ax.plot([], [], "o", color=ORANGE, markersize=7,
                label="no cheaper system has a higher mean")
    else:
        ax.step([*best[cost], table[cost].max()], [*best.height, best.height.max()],
                where="post", color=ORANGE, linewidth=2, zorder=1,
                label="no cheaper system has a higher mean")
    beside = spread_apart([(height - low) / (high - low) for height in table.height], gap=0.062)
    for one, far in zip(table.itertuples(), far_below, strict=True):
        x, colour = getattr(one, cost), ORANGE if one.best else GREY
        if ranges:
            ax.errorbar(x, one.height, xerr=[[x - one.low], [one.high - x]], fmt="none",
                        ecolor=colour, elinewidth=1.2, capsize=3, zorder=2)
        ax.plot(x, one.height, "v" if far else "o" if one.best else "s", color=colour,
                markersize=7, zorder=3)
        ax.annotate(f"{one.row}  {one.accuracy:.1f}{' ↓' if far else ''}", (x, one.height),
                    (1.02, beside[one.beside]), textcoords="axes fraction", va="center",
                    fontsize=9, arrowprops={"arrowstyle": "-", "color": GREY, "alpha": 0.6,
                                            "linewidth": 0.7, "linestyle": ":"})
    ax.margins(x=0.1)
    _cost_axis(ax, table.low.min(), table.high.max())
    ax.set_ylim(low, high)
    ax.set_xlabel(label)
    ax.set_ylabel("mean test accuracy, %")
    ax.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], nbins=6))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)  # clear of bars and points
    return ax


def _cost_axis(ax: Axes, least: float, most: float) -> None:
    """A straight axis, or one on which costs that are far apart can all be seen.

    From 0, or over more than two decades, it is logarithmic above 1,000 and straight below; from
    a cost to more than four times as much it is logarithmic with plain numbers.
    """
    if least == 0 or most > 100 * max(1, least):
        ax.set_xscale("symlog", linthresh=1000)
        ax.set_xticks([0, *(10**n for n in range(3, 12) if 10**n <= most)])
    elif most > 4 * least:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:,g}")
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], nbins=6))


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as a walk down and a walk up need to be ``gap`` apart.

    Args:
        heights: from the highest to the lowest, from 0 to 1.
        gap: at least this far apart; the lowest may end below 0 where there are too many.
    """
    moved: list[float] = []
    for height in heights:
        moved.append(min(height, moved[-1] - gap) if moved else height)
    for n in range(len(moved) - 1, -1, -1):  # who was pushed below the edge pushes back
        floor = gap / 2 if n == len(moved) - 1 else moved[n + 1] + gap
        moved[n] = max(moved[n], floor)
    return moved


def maps_over_images(
    images_BHW: np.ndarray, maps_TBHW: np.ndarray, tasks: Sequence[str]
) -> None:
    """Grey images, a column each, and below them the same with each task's map in colour over it.

    Args:
        images_BHW: uint8.
        maps_TBHW: from 0 to 1, or uint8; every map is drawn from its lowest to its highest value.
        tasks: T names.
    """
    axes = new_axes(nrows=len(tasks) + 1, ncols=len(images_BHW), squeeze=False,
                    figsize=(1.5 * len(images_BHW) + 0.6, 1.5 * (len(tasks) + 1)))
    labels = ["image", *(f"map of {task}" for task in tasks)]
    for axes_of_line, label, maps_BHW in zip(axes, labels, [None, *maps_TBHW], strict=True):
        for n, (ax, image_HW) in enumerate(zip(axes_of_line, images_BHW, strict=True)):
            ax.imshow(image_HW, cmap="gray")
            if maps_BHW is not None:
                ax.imshow(maps_BHW[n], cmap="inferno", alpha=0.7)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
        axes_of_line[0].set_ylabel(label, fontsize=9)


def neighbour_grid(
    images_NCHW: np.ndarray, query: int | Sequence[int],
    lines: Mapping[str, tuple[Sequence[int], Sequence[bool | None]]],
) -> None:
    """A query and its neighbours, a line a system and task; wrong ones are crossed.

    Args:
        images_NCHW: uint8.
        query: which image is asked with, or one for each line.
        lines: label → the neighbours, nearest first, and which of them are right: None where that
            is not known.
    """
    queries = [query] * len(lines) if isinstance(query, int) else query
    count = max(len(found) for found, _ in lines.values())
    axes = new_axes(nrows=len(lines), ncols=count + 1, squeeze=False,
                    figsize=(0.72 * (count + 2), 0.9 * len(lines)))
    for axes_of_line, one, (label, (found, right)) in zip(
            axes, queries, lines.items(), strict=True):
        for ax, n, good in zip(axes_of_line, (one, *found), (None, *right), strict=True):
            ax.imshow(np.moveaxis(images_NCHW[n], 0, -1), interpolation="lanczos")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            colour = {None: "black", True: GREEN, False: VERMILION}[good]
            for side in ax.spines.values():
                side.set(visible=ax is not axes_of_line[0], color=colour, linewidth=3)
            if good is False:  # not by colour alone
                ax.plot([0.78, 0.96], [0.96, 0.78], color=VERMILION, linewidth=3,
                        transform=ax.transAxes)
                ax.plot([0.78, 0.96], [0.78, 0.96], color=VERMILION, linewidth=3,
                        transform=ax.transAxes)
        axes_of_line[0].set_ylabel(label, fontsize=8)
    axes[0, 0].set_title("query", loc="center", fontsize=9, fontweight="normal")
    axes[0, 1].set_title("nearest →", loc="center", fontsize=9, fontweight="normal")
