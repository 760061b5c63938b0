"""Figures that compare many systems or many tasks; the style is that of :mod:`modlib.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from modlib.arrays import from_json
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
        ax.plot([], [], "o", color=ORANGE, markersize=7, label="no cheaper system is better")
    else:
        ax.step([*best[cost], table[cost].max()], [*best.height, best.height.max()],
                where="post", color=ORANGE, linewidth=2, zorder=1,
                label="no cheaper system is better")
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


def split_heat_map(
    ax: Axes, upper_TT: np.ndarray, lower_TT: np.ndarray, tasks: Sequence[str],
    labels: tuple[str, str], centre: float = 50.0, unit: str = "%",
) -> Axes:
    """Two symmetric tables of pairs in one square: one above the diagonal, one below.

    Args:
        upper_TT, lower_TT: float (T, T); nan where nothing was measured.
        tasks: T names.
        labels: what the upper and the lower half show.
        centre: the value that is drawn white.
        unit: of the values, for the colour bar.
    """
    joint = np.where(np.triu(np.ones_like(upper_TT), 1) > 0, upper_TT, lower_TT)
    np.fill_diagonal(joint, np.nan)
    names = [task.replace("_", " ") for task in tasks]
    spread = np.nanmax(np.abs(joint - centre)) if np.isfinite(joint).any() else 1.0
    # without colours both ends of the map are alike: the values are written
    sns.heatmap(joint, ax=ax, cmap="vlag_r", center=centre, vmin=centre - spread,
                vmax=centre + spread, square=True, annot=True, fmt=".0f",
                annot_kws={"fontsize": 10 if len(tasks) <= 8 else 7.5},
                xticklabels=names, yticklabels=names, linewidths=0.5,
                cbar_kws={"label": unit, "shrink": 0.8})
    for text, cell in zip(ax.texts, joint[np.isfinite(joint)], strict=True):
        red, green, blue, _ = colormaps["vlag_r"]((cell - centre) / (2 * (spread or 1)) + 0.5)
        bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.46
        text.set_color("black" if bright else "white")  # seaborn's own choice is hard to read
    ax.set_facecolor("0.85")  # the diagonal is no value, so it is not white
    ax.grid(visible=False)
    ax.set_title(f"above the diagonal: {labels[0]}; below: {labels[1]}", fontsize=10)
    ax.tick_params(axis="x", rotation=90, labelsize=9)
    ax.tick_params(axis="y", rotation=0, labelsize=9)
    return ax


def task_order(distance_TT: np.ndarray) -> np.ndarray:
    """Average-linkage clusters of the tasks, as ``scipy.cluster.hierarchy.linkage`` gives them."""
    symmetric = (distance_TT + distance_TT.T) / 2
    np.fill_diagonal(symmetric, 0)
    return linkage(squareform(symmetric, checks=False), "average", optimal_ordering=True)


def clustered_heat_map(
    tree_ax: Axes, ax: Axes, distance_TT: np.ndarray, tasks: Sequence[str], label: str
) -> list[int]:
    """Distances between tasks, in the order of their dendrogram, which is drawn beside them.

    Both axes should be of one height, so that each branch stands beside its row.

    Returns:
        the order of the tasks, from the top.
    """
    names = [task.replace("_", " ") for task in tasks]
    drawn = dendrogram(task_order(distance_TT.copy()), ax=tree_ax, orientation="left",
                       labels=names, color_threshold=0, above_threshold_color=GREY)
    order = drawn["leaves"][::-1]
    tree_ax.set_axis_off()
    shown = distance_TT[np.ix_(order, order)].copy()
    np.fill_diagonal(shown, np.nan)
    sns.heatmap(shown, ax=ax, cmap="viridis",
                cbar_kws={"label": label, "location": "top", "shrink": 0.6, "pad": 0.02},
                xticklabels=[names[n] for n in order], yticklabels=[names[n] for n in order])
    ax.grid(visible=False)
    ax.yaxis.tick_right()  # the tree is on the left
    ax.tick_params(axis="x", rotation=90, labelsize=9)
    ax.tick_params(axis="y", rotation=0, labelsize=9)
    return order


def clustered_heat_maps(distances: Mapping[str, np.ndarray], tasks: Sequence[str]) -> None:
    """Several tables of distances between the same tasks, one below the other.

    Each stands in the order of a dendrogram of its own; see :func:`clustered_heat_map`.

    Args:
        distances: by the label of the colour bar, float (T, T); at least one.
        tasks: T names.
    """
    axes = new_axes(nrows=len(distances), ncols=2, squeeze=False, width_ratios=(1, 5),
                    figsize=(7.2, 6.8 * len(distances)))
    for (tree_ax, ax), (label, distance_TT) in zip(axes, distances.items(), strict=True):
        clustered_heat_map(tree_ax, ax, distance_TT, tasks, label)


def scale_map(ax: Axes, scales: Mapping[str, Any], tasks: Sequence[str]) -> Axes:
    """Every task's scales, a line a task and a column a channel, layer beside layer.

    The brighter the larger; 1 is in the middle of the colour bar, which leaves out the farthest 2 %
    at each end.

    Args:
        scales: packed arrays (T, C) by stage, as a record holds them.
        tasks: T names.
    """
    by_stage = {name: from_json(packed) for name, packed in scales.items()}
    sns.heatmap(np.concatenate(list(by_stage.values()), axis=1), ax=ax, cmap="viridis", center=1,
                robust=True, cbar_kws={"label": "scale", "extend": "both"}, xticklabels=False,
                yticklabels=[task.replace("_", " ") for task in tasks])
    start = 0
    for name, scales_TC in by_stage.items():
        ax.axvline(start, color="white", linewidth=2)
        ax.text(start + scales_TC.shape[1] / 2, -0.4, name, ha="center", fontsize=9)
        start += scales_TC.shape[1]
    ax.tick_params(axis="y", rotation=0, labelsize=9)
    return ax


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
