"""Figures of adaptive branching; the style is that of :mod:`modlib.figures`."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from modlib.figures import COLOURS, GREY, MARKERS
from modlib.thin_vgg import LAYERS


def tree_order(layers: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """The tasks in an order in which every group of every layer is in one piece.

    Args:
        layers: the groups of tasks of each layer, from the lowest up; each lies in one below.
    """
    def path(task: str) -> list[int]:
        return [next(n for n, tasks in enumerate(groups) if task in tasks)
                for groups in layers.values()]

    tasks = [task for group in next(iter(layers.values())) for task in group]
    return sorted(tasks, key=path)


def grouping_tree(ax: Axes, layers: Mapping[str, Sequence[Sequence[str]]]) -> Axes:
    """A network's branches as a tree: the image comes in at the left, the tasks are at the right.

    A bar is a branch and reaches over the tasks that it serves; a line leads to what it reads.
    What grew from one branch of the lowest layer shown has one colour; after six, they repeat.

    Args:
        layers: the groups of tasks of each layer that has branches, from the lowest up.
    """
    ax.set_axis_off()
    if not layers:
        ax.text(0.5, 0.5, "no layer was split", ha="center", transform=ax.transAxes)
        return ax
    order = tree_order(layers)
    row = {task: number for number, task in enumerate(order)}
    middles = {(-1, task): (len(order) - 1) / 2 for task in order}
    colours = cycle(colour for colour in COLOURS if colour != GREY)  # the lines are grey
    colour_of = {task: colour for tasks, colour in
                 zip(next(iter(layers.values())), colours, strict=False) for task in tasks}
    for x, groups in enumerate(layers.values()):
        for tasks in groups:
            ends = min(row[task] for task in tasks), max(row[task] for task in tasks)
            middle, before = sum(ends) / 2, middles[x - 1, tasks[0]]
            ax.plot([x - 1, x - 0.75, x - 0.25, x], [before, before, middle, middle], color=GREY,
                    linewidth=1, zorder=1)
            ax.plot([x, x], [ends[0] - 0.3, ends[1] + 0.3], color=colour_of[tasks[0]], linewidth=6,
                    solid_capstyle="round", zorder=2)
            middles |= {(x, task): middle for task in tasks}
    top = len(layers) - 1
    for task, y in row.items():
        ax.plot([top, top + 0.3], [y, y], color=GREY, linewidth=1, zorder=1)
        ax.text(top + 0.36, y, task.replace("_", " "), va="center", fontsize=8.5)
    for x, name in enumerate(layers):
        ax.text(x, -1.2, name, ha="center", fontsize=9, rotation=40)
    root = "the image" if LAYERS[0] in layers else "shared layers"
    ax.text(-1.05, (len(order) - 1) / 2, root, ha="right", va="center", fontsize=9)
    ax.set_xlim(-2.2, top + 2.4)
    ax.set_ylim(len(order) - 0.3, -2.6)
    return ax


def objective_curves(ax: Axes, rounds: Sequence[Mapping[str, Any]]) -> Axes:
    """What each number of branches would cost (Eq. 9), a line a round, its smallest value marked.

    Args:
        rounds: with ``layer`` and ``objectives``, as records keep them.
    """
    for number, one in enumerate(rounds):
        counts = [objective["branches"] for objective in one["objectives"]]
        losses = [objective["loss"] for objective in one["objectives"]]
        colour = COLOURS[number % len(COLOURS)]
        best = min(range(len(losses)), key=losses.__getitem__)
        ax.plot(counts, losses, color=colour, label=one["layer"], markersize=9,
                marker=MARKERS[number % len(MARKERS)], markevery=[best])
    ax.set_xlabel("branches d")
    ax.set_ylabel("loss of the round")
    ax.xaxis.get_major_locator().set_params(integer=True)
    if rounds:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return ax
