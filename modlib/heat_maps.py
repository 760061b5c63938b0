"""Heat maps of what relates tasks, and of their scales; the style is that of :mod:`modlib.figures`.

Shapes: T tasks, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from modlib.arrays import from_json
from modlib.figures import GREY, new_axes


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
