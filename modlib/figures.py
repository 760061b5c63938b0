"""Figures: data in, matplotlib Axes out, in one style.

Colours are Okabe and Ito's, with a grey that is darker than all of them. No series is told by its
colour alone: a marker, a hatching, a kind of line or a label says the same. A page shows a figure
at most 7 inches wide, so one that is drawn wider has its letters shrunk.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from modlib.gradients import Ratio

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#4D4D4D")
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY)
TASK_COLOURS = {"Smiling": ORANGE, "Mouth_Slightly_Open": SKY, "Young": GREEN, "Wavy_Hair": PURPLE}
TASK_HATCHES = {"Mouth_Slightly_Open": "///", "Young": "..", "Wavy_Hair": "xx"}
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def use_style() -> None:
    """Set the one style of the book's figures, and show its tables whole."""
    pd.set_option("display.max_colwidth", None, "display.max_columns", None,
                  "display.max_rows", None)
    sns.set_theme(context="notebook", style="whitegrid", rc={
        "figure.figsize": (7.2, 3.8), "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "savefig.facecolor": "white",
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
        "axes.titleweight": "bold", "axes.grid.axis": "y", "grid.color": "#E5E5E5",
        "legend.frameon": False, "font.size": 11,
    })


def show_faces(axes: Sequence[Axes], images_NCHW: np.ndarray, titles: Sequence[str]) -> None:
    """Draw one image a panel with its title.

    Args:
        axes: N axes.
        images_NCHW: uint8, RGB.
        titles: N captions.
    """
    for ax, image_CHW, title in zip(axes, images_NCHW, titles, strict=True):
        ax.imshow(np.moveaxis(image_CHW, 0, -1), interpolation="lanczos")
        ax.set_title(title, loc="center", fontsize=10, fontweight="normal")
        ax.set_axis_off()


def gradient_arrows(ax: Axes, gramian_TT: np.ndarray, tasks: Sequence[str]) -> Axes:
    """Two task gradients as arrows at their true angle and relative length, and their mean.

    Args:
        gramian_TT: float (2, 2), inner products of the two gradients.
        tasks: the two tasks' names for the legend.
    """
    norms = np.sqrt(np.diag(gramian_TT))
    cosine = float(np.clip(gramian_TT[0, 1] / (norms[0] * norms[1]), -1, 1))
    angle = np.arccos(cosine)
    first = np.array([norms[0], 0.0]) / norms.max()
    second = norms[1] * np.array([cosine, np.sin(angle)]) / norms.max()
    arrows = [(first, ORANGE, "-", tasks[0]), (second, GREEN, "-", tasks[1]),
              ((first + second) / 2, GREY, "--", "their mean")]
    for end, colour, line, label in arrows:
        ax.annotate("", xy=end, xytext=(0, 0),
                    arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2.5,
                                "linestyle": line, "shrinkA": 0, "shrinkB": 0})
        ax.plot([], [], color=colour, linewidth=2.5, linestyle=line, label=label)
    arc = np.linspace(0, angle, 60)
    ax.plot(0.2 * np.cos(arc), 0.2 * np.sin(arc), color="black", linewidth=1)
    label_angle = angle / 4  # between the first arrow and the mean, clear of both
    reach = 0.34 if angle > 1 else 0.65  # a narrow angle has room for it only farther out
    ax.annotate(f"{np.degrees(angle):.0f}°", reach * np.array([np.cos(label_angle),
                np.sin(label_angle)]), ha="center", va="center", fontsize=10)
    ax.set_xlim(-1.15, 1.15)  # room for every angle, so that two panels have one scale
    ax.set_ylim(-0.12, 1.12)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=1, fontsize=10)
    return ax


def cosine_histogram(ax: Axes, cosines: Mapping[str, Sequence[float]]) -> Axes:
    """Cosines between two tasks' gradients over batches, one outline a system or pair."""
    bins = np.linspace(-1, 1, 41)
    styles = cycle([(BLUE, "-"), (VERMILION, "--"), (GREEN, ":"), (PURPLE, "-.")])
    for (label, values), (colour, line) in zip(cosines.items(), styles, strict=False):
        ax.hist(values, bins=bins, histtype="step", linewidth=2, color=colour, linestyle=line,
                label=label)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_xlabel("cosine between the two tasks' gradients")
    ax.set_ylabel("batches")
    ax.legend(loc="upper left", fontsize=10)
    return ax


def accuracy_bars(
    ax: Axes,
    measured: Any,
    row_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
    paper: Mapping[str, Mapping[str, float]] | None = None,
    measure: str = "triplet accuracy",
) -> Axes:
    """Accuracy per row and task: bars at the mean, a dot a seed, a diamond for the paper.

    Args:
        measured: a table with columns row, seed, task, accuracy (%).
        row_labels: label of each row, in order.
        task_labels: label of each task, in order.
        paper: ``{row: {task: %}}``, drawn where given.
        measure: what the vertical axis shows; guessing must give 50 %.
    """
    width = 0.8 / len(task_labels)
    for t, (task, label) in enumerate(task_labels.items()):
        look = {"color": TASK_COLOURS.get(task, BLUE), "hatch": TASK_HATCHES.get(task),
                "edgecolor": "white", "linewidth": 0}
        for r, row in enumerate(row_labels):
            values = measured.query("row == @row and task == @task").accuracy.to_numpy()
            x = r + (t - (len(task_labels) - 1) / 2) * width
            if len(values):
                ax.bar(x, values.mean(), width * 0.92, zorder=2, **look)
                ax.plot(np.full(len(values), x), values, ".", color="black", markersize=5,
                        zorder=3)
            if paper and task in paper[row]:
                ax.plot(x, paper[row][task], "D", markerfacecolor="white",
                        markeredgecolor="black", markersize=6, zorder=4)
        ax.bar(0, 0, label=label, **look)
    ax.plot([], [], ".", color="black", label="one seed")
    if paper:
        ax.plot([], [], "D", markerfacecolor="white", markeredgecolor="black",
                label="the paper (150×150 images, all of CelebA)")
    ax.axhline(50, color=GREY, linestyle="--", linewidth=1, zorder=1)
    ax.annotate("chance", (1.005, 50), xycoords=("axes fraction", "data"), va="center",
                color="#595959", fontsize=9)
    ax.set_xticks(range(len(row_labels)), list(row_labels.values()), fontsize=9.5)
    ax.set_xlim(-0.55, len(row_labels) - 0.45)
    ax.set_ylim(45, 100)
    ax.set_ylabel(f"{measure}, %")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, fontsize=9,
              columnspacing=1.2, handletextpad=0.4)
    return ax


def ucr_intervals(ax: Axes, cells: Sequence[tuple[str, Ratio, float | None]]) -> Axes:
    """UCR with its 95 % interval, a line a cell; a diamond where the paper prints a figure.

    Args:
        cells: (label, measured ratio, the paper's % or None), top to bottom.
    """
    for y, (_, ratio, printed) in enumerate(reversed(cells)):
        if ratio.count:
            ax.plot([100 * ratio.low, 100 * ratio.high], [y, y], color=BLUE, linewidth=3,
                    solid_capstyle="round")
            ax.plot(100 * ratio.value, y, "o", color=BLUE, markersize=8)
        if printed is not None:
            ax.plot(printed, y, "D", markerfacecolor="white", markeredgecolor="black",
                    markersize=7, zorder=4)
    ax.plot([], [], "o-", color=BLUE, label="measured, 95 % interval")
    if any(printed is not None for *_, printed in cells):
        ax.plot([], [], "D", markerfacecolor="white", markeredgecolor="black",
                label="the paper")
    ax.axvline(50, color=GREY, linestyle="--", linewidth=1, zorder=0)
    ax.set_yticks(range(len(cells)), [label for label, *_ in reversed(cells)])
    ax.set_xlim(0, 102)
    ax.grid(axis="x")
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("update compliance ratio, % of batches")
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, fontsize=10)
    return ax


def training_curves(ax: Axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> Axes:
    """Mean validation accuracy (%) by epoch: a line a label, a band from lowest to highest seed."""
    for number, (label, by_seed) in enumerate(curves.items()):
        values = np.asarray(by_seed, float)
        epochs = np.arange(1, values.shape[1] + 1)
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(epochs, values.mean(0), color=colour, marker=MARKERS[number % len(MARKERS)],
                markersize=5, label=label)
        ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.18,
                        linewidth=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation accuracy, %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    if curves:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return ax


def new_axes(**options: Any) -> Axes:
    """The Axes of a new figure; options go to ``plt.subplots``."""
    return plt.subplots(**options)[1]


def conflicting_triplet(
    anchor: np.ndarray, first: np.ndarray, second: np.ndarray, task: str, other_task: str
) -> Sequence[Axes]:
    """Three faces in two rows: for ``task`` the first is the positive, for the other the second.

    Args:
        anchor, first, second: uint8 (H, W, 3).
        task, other_task: the rows' labels.
    """
    axes = new_axes(nrows=2, ncols=3, figsize=(6.6, 4.9))
    pull, push = ("positive: pull nearer", GREEN), ("negative: push away", VERMILION)
    for row, (label, roles) in enumerate(((task, (pull, push)), (other_task, (push, pull)))):
        panels = [(anchor, ("anchor", "black")), (first, roles[0]), (second, roles[1])]
        for ax, (image, (role, colour)) in zip(axes[row], panels, strict=True):
            ax.imshow(image)
            ax.set_title(role, loc="center", fontsize=11)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            for side in ax.spines.values():
                side.set(visible=True, color=colour, linewidth=4)
        axes[row, 0].set_ylabel(label, fontsize=14, fontweight="bold")
    return axes
