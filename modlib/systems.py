"""The compared systems for people: a sketch of each, and what each adds to the shared network.

Source: Zhao et al., ECCV 2018, section 4.2 and Table 3.
"""


import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from modlib.figures import BLUE, GREEN, GREY, ORANGE
from modlib.modulation import ChannelScale
from modlib.networks import SYSTEMS, build_network
from modlib.results import paper_tables
from modlib.task_networks import IndependentNetworks, Network, count_parameters

TASK_COLOURS = (ORANGE, BLUE, GREEN)  # a sketch has three tasks
STAGE_NAMES = {"conv1": "1", "block2": "2", "block3": "3", "block4": "4", "block5": "5",
               "fc": "fc"}
# Label, what build_network is asked for, and the row of the paper that it is.
VARIANTS = [
    ("fully shared", {"system": "fully_shared"}, "FSN"),
    ("independent", {"system": "independent"}, "ITN"),
    ("modulated", {"system": "modulated"}, "Ours"),
    ("mask only", {"system": "mask_only"}, "Only mask"),
    ("CSN", {"system": "csn"}, "CSN"),
    ("branches, 256", {"system": "branches", "branch_size": 256}, "IB-256"),
    ("branches, 25", {"system": "branches", "branch_size": 25}, "IB-25"),
    ("projection", {"system": "projection"}, "channel-wise projection"),
]
# A system that is new in SYSTEMS is drawn and counted under its own name.
VARIANTS += [(name.replace("_", " "), {"system": name}, "–") for name in SYSTEMS
             if name not in {arguments["system"] for _, arguments, _ in VARIANTS}]


def extra_parameter_table(num_tasks: int = 20) -> pd.DataFrame:
    """How many parameters each system has beyond one fully shared network, counted.

    Returns:
        one line a system: ``system`` (the arguments of :func:`build_network`), ``paper's name``,
        ``extra`` (counted on the full-width network), ``paper`` (what Table 3 prints).
    """
    tasks = [f"task {t}" for t in range(num_tasks)]
    printed = paper_tables()["table_3"]
    with torch.device("meta"):  # to count parameters they need not be drawn
        one = count_parameters(build_network("fully_shared", tasks).parameters())
        lines = [
            {"": label, "paper's name": name,
             "extra": count_parameters(build_network(tasks=tasks, **arguments).parameters()) - one,
             "paper": printed["added_parameters"].get(name, "–")}
            for label, arguments, name in VARIANTS
        ]
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def draw_system(ax: Axes, label: str, network: Network) -> Axes:
    """Sketch a network of three tasks: grey is shared, a colour is a task's own, hatched is frozen.

    Bars after a stage are scales or masks, squares are matrices; what is drawn is read off the
    network.
    """
    if isinstance(network, IndependentNetworks):
        for task, one in enumerate(network.networks):
            _stages(ax, one.stages, 0.36 - 0.36 * task, 0.3, TASK_COLOURS[task])
        x_end, heights = 6.0, [0.36, 0, -0.36]
    else:
        _stages(ax, network.stages, 0, 0.9, "#D9D9D9", hatch="////" if network.frozen else None)
        x_end, heights = 6.0, [0.0]
        for name, module in network.modulation.items():
            centre = list(STAGE_NAMES).index(name) + 0.83
            heights = [0.3, 0, -0.3]
            for height, colour in zip(heights, TASK_COLOURS, strict=True):
                wide = 0.1 if isinstance(module, ChannelScale) else 0.22
                ax.add_patch(Rectangle(
                    (centre - wide / 2, height - 0.12), wide, 0.24, color=colour, zorder=3))
    for height, colour in zip(heights, TASK_COLOURS if len(heights) > 1 else [GREY], strict=True):
        ax.annotate("", xy=(x_end + 0.75, height), xytext=(x_end + 0.2, height),
                    arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
    ax.text(-0.25, 0, label, ha="right", va="center", fontsize=11, fontweight="bold")
    ax.set(xlim=(-3.2, 7.0), ylim=(-0.62, 0.62))
    ax.set_axis_off()
    return ax


def _stages(ax, stages, y, height, colour, hatch=None) -> None:
    for x, name in enumerate(stages):
        ax.add_patch(FancyBboxPatch(
            (x, y - height / 2), 0.66, height, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour, edgecolor="white" if hatch is None else GREY, hatch=hatch))
        if height > 0.5:
            ax.text(x + 0.33, y, STAGE_NAMES[name], ha="center", va="center", fontsize=11,
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5})
