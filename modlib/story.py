"""The first page's figure: the conflict and the remedy as drawings, and what the records say.

Source: Zhao et al., ECCV 2018, Figure 1 (the conflict) and section 3.2 (the remedy).
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from modlib import growth
from modlib.figures import BLUE, GREEN, ORANGE
from modlib.studies import accuracies
from modlib.table_1 import HEADLINE_ROWS
from modlib.tables import points
from modlib.three_attributes import paper_table

TASKS = (("smile", ORANGE), ("young", GREEN))
DARK, LIGHT = "#404040", "#D9D9D9"
# How far each task of the drawing has turned up each of six channels, from 0 to 1.
LEVELS = {"smile": (0.9, 0.15, 0.6, 0.75, 0.1, 0.5), "young": (0.2, 0.85, 0.6, 0.1, 0.7, 0.35)}
OURS = "e"
BARS = {"a": "one network,\nall shared", "d": "a network\nfor each",
        "e": "one network,\nvolume controls"}


def draw_story(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Axes]:
    """The conflict, the remedy, and below them the result; the Axes by their titles.

    Args:
        rows: the records of Table 1, by row; a row without records has no bar.
    """
    drawings, result = plt.figure(figsize=(7.6, 6.6)).subfigures(2, 1, height_ratios=(1, 1.1))
    conflict, remedy = drawings.subplots(ncols=2, gridspec_kw={"wspace": 0.12})
    axes = {"The conflict": draw_conflict(conflict), "The remedy": draw_remedy(remedy),
            "What it brings, on real photographs": draw_result(result.subplots(), rows)}
    for title, ax in axes.items():
        ax.set_title(title, fontsize=14)
    return axes


def draw_conflict(ax: Axes) -> Axes:
    """Two tasks pull one shared weight in opposite directions, and it hardly moves."""
    ax.plot([0.4, 9.6], [4, 4], color=LIGHT, linewidth=6, solid_capstyle="round", zorder=1)
    for (task, colour), end, align in zip(TASKS, (1.0, 9.0), ("left", "right"), strict=True):
        ax.annotate("", xy=(end, 4), xytext=(5, 4), zorder=2,
                    arrowprops={"arrowstyle": "-|>,head_width=0.5,head_length=0.8",
                                "color": colour, "linewidth": 4, "shrinkA": 0, "shrinkB": 0})
        ax.text(0.4 if align == "left" else 9.6, 5.3, f"“{'less' if end < 5 else 'more'}!”",
                ha=align, color=DARK, fontsize=13)
        ax.text(0.4 if align == "left" else 9.6, 6.3, task, ha=align, color="black",
                fontsize=14, fontweight="bold")
    ax.plot(5, 4, "o", markersize=24, color="white", markeredgecolor=DARK, markeredgewidth=2.5,
            zorder=3)
    ax.text(5, 2.5, "one shared weight,\ntwo wishes: it stays put", ha="center", va="top",
            color=DARK, fontsize=13)
    ax.set(xlim=(0, 10), ylim=(0, 7.4))
    ax.set_axis_off()
    return ax


def draw_remedy(ax: Axes) -> Axes:
    """Above the shared channels each task has a volume control for every one of them."""
    columns = np.linspace(3.4, 9.2, len(LEVELS["smile"]))
    ax.add_patch(FancyBboxPatch((2.8, 0.2), 7.0, 1.3, facecolor=LIGHT, edgecolor="none",
                                boxstyle="round,pad=0,rounding_size=0.2"))
    ax.text(6.3, 0.85, "shared channels", ha="center", va="center", color=DARK, fontsize=13)
    for (task, colour), bottom in zip(TASKS, (4.9, 2.1), strict=True):
        ax.text(2.4, bottom + 1.0, task, ha="right", va="center", color="black", fontsize=14,
                fontweight="bold")
        for x, level in zip(columns, LEVELS[task], strict=True):
            ax.plot([x, x], [bottom, bottom + 2], color=LIGHT, linewidth=4,
                    solid_capstyle="round", zorder=1)
            ax.add_patch(Rectangle((x - 0.38, bottom + 2 * level - 0.16), 0.76, 0.32,
                                   color=colour, zorder=2))
    ax.set(xlim=(0, 10), ylim=(0, 7.4))
    ax.set_axis_off()
    return ax


def draw_result(ax: Axes, rows: dict[str, list[dict[str, Any]]]) -> Axes:
    """Mean accuracy of the headline's systems: bars with dots for seeds, and what each costs."""
    measured = accuracies(rows).groupby(["row", "seed"]).accuracy.mean()
    paper = paper_table()
    for y, name in enumerate(HEADLINE_ROWS):
        colour = BLUE if name == OURS else "#BFBFBF"
        ax.plot(np.mean(list(paper[name]["accuracy"].values())), y, "D", markersize=7, zorder=4,
                markerfacecolor="white", markeredgecolor="black")
        if rows[name]:
            values = measured[name].to_numpy()
            ax.barh(y, values.mean(), 0.62, color=colour, zorder=2)
            ax.plot(values, np.full(len(values), y), ".", color="black", markersize=6, zorder=5)
            ax.text(101, y, f"{values.mean():.1f} %", va="bottom", fontsize=15,
                    fontweight="bold", color=BLUE if name == OURS else DARK)
            ax.text(101, y, _size(rows, name), va="top", fontsize=12, color=DARK)
    ax.plot([], [], "D", markerfacecolor="white", markeredgecolor="black",
            label="the paper (larger images, and more of them)")
    ax.plot([], [], ".", color="black", label="one seed")
    ax.legend(loc="upper center", bbox_to_anchor=(0.42, -0.26), ncols=2, fontsize=11)
    ax.set_yticks(range(len(BARS)), list(BARS.values()), fontsize=12)
    ax.invert_yaxis()
    ax.set(xlim=(50, 116), xticks=(50, 60, 70, 80, 90, 100))
    ax.set_xlabel("mean triplet accuracy of three attributes, %; guessing gives 50", loc="left",
                  fontsize=12)
    ax.grid(visible=False)
    return ax


def _size(rows: dict[str, list[dict[str, Any]]], name: str) -> str:
    """How many parameters a row has beside the shared network, where that was run."""
    if not rows["a"]:
        return ""
    of_row, shared = (rows[one][0]["results"]["parameters"]["total"] for one in (name, "a"))
    return f"size {100 * of_row / shared:.4g} %"


def gain_sentence() -> str:
    """What the volume controls add with few tasks and with many, as Markdown."""
    gains = growth.gains()
    said = " and ".join(f"**{points(*gains[tasks])}** with {tasks} attributes" for tasks in (3, 20))
    return f"In points, with 95 % intervals, the volume controls add to full sharing {said}."
