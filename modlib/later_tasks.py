"""A task that comes later: the network and its statistics are frozen, only its scales are learned.

The trunk is that of a network trained on other tasks (``trunk_tasks``). Batch norm stays in eval
mode, so tasks that are added together do not see each other: it is nearly as if each came alone
(the others only choose which images are in the batch). What is added has an epoch of its own for
each epoch of the trunk, in which twice as many images of a batch are drawn for each task as where
all twenty are trained together.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from modlib import studies, twenty_attributes
from modlib.errors import ModlibError
from modlib.intervals import difference
from modlib.modulation import ChannelScale
from modlib.record_tables import check_table
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study
from modlib.tables import mean_and_spread, points
from modlib.task_networks import SharedTrunkNetwork
from modlib.twenty_attributes import OURS, TASKS, is_papers_recipe

KEPT, HELD_OUT = TASKS[::2], TASKS[1::2]  # as many: each network sees as many images a batch
BEFORE, ADDED, TOGETHER = "before", "added later", "trained with the rest"
STUDY = Study("later_tasks", {
    BEFORE: {"system": "modulated", "tasks": KEPT},
    ADDED: {"system": "mask_only", "tasks": HELD_OUT, "trunk_system": "modulated",
            "trunk_tasks": KEPT},
    TOGETHER: {"system": "modulated", "tasks": TASKS},
}, tuned=("learning_rate", "margin"))


def lay_out(
    parameters: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, list[Settings]], Places]:
    """The runs: each row has what was chosen for the modulated network of twenty attributes.

    So the row that is trained together is the modulated network of Table 3, to the last setting;
    by the paper's recipe too, where nothing was chosen. See :meth:`Study.lay_out`.
    """
    chosen = {} if is_papers_recipe(parameters) else tuned.get(OURS, {})
    return STUDY.lay_out(parameters, dict.fromkeys(STUDY.rows, chosen))


def published(profile: str) -> Rows:
    """The committed records of a profile; those trained together may lie among Table 3's.

    Table 3's of the paper's recipe lie in a folder of their own.

    Raises:
        ModlibError: see :meth:`Study.published`; or the rows differ in more than their tasks.
    """
    rows = STUDY.published(profile)
    for study in (twenty_attributes.STUDY, twenty_attributes.PAPER_RECIPE):
        rows[TOGETHER] = rows[TOGETHER] or study.published(profile)[OURS]
    check_table(rows, Settings, {"seed", *STUDY.telling}, f"book/results/{STUDY.folder}")
    return rows


def with_added_tasks(
    network: SharedTrunkNetwork, added: SharedTrunkNetwork
) -> SharedTrunkNetwork:
    """One network for the old tasks and the added ones: the trunk, and the scales of both.

    Args:
        network: a modulated network of T tasks.
        added: one with the same trunk, frozen, and scales for other tasks after the same stages.

    Raises:
        ModlibError: their trunks or their modulated stages differ.
    """
    old, new = network.stages.state_dict(), added.stages.state_dict()
    if old.keys() != new.keys() or not all(torch.equal(old[key], new[key]) for key in old):
        raise ModlibError("tasks can only be added to the trunk that they were trained on; "
                          "the two networks' trunks differ")
    if list(network.modulation) != list(added.modulation) or not all(
            isinstance(one, ChannelScale) and isinstance(other, ChannelScale)
            and one.signed == other.signed
            for one, other in zip(network.modulation.values(), added.modulation.values(),
                                  strict=True)):
        raise ModlibError("both networks must have scales after the same stages, signed or not; "
                          f"given {list(network.modulation)} and {list(added.modulation)}")
    joint = copy.deepcopy(network)
    joint.num_tasks = network.num_tasks + added.num_tasks
    for name, scale in joint.modulation.items():
        weights = [scale.weight.detach(), added.modulation[name].weight.detach()]
        scale.weight = torch.nn.Parameter(torch.cat(weights))
    return joint


def accuracies(rows: Rows) -> pd.DataFrame:
    """One line per row, seed and held-out task: test accuracy in %."""
    table = studies.accuracies(rows)
    return table[table.task.isin(HELD_OUT)]


def added_table(rows: Rows) -> pd.DataFrame:
    """Each held-out task: added later, trained with the rest, the difference with its interval."""
    if not (rows[ADDED] or rows[TOGETHER]):
        return pd.DataFrame(columns=[ADDED, TOGETHER, "difference"])
    lines = [{"": label} | {
        name: mean_and_spread([100 * np.mean([record["results"]["test_accuracy"][task]
                                              for task in tasks]) for record in rows[name]])
        for name in (ADDED, TOGETHER)} | {
        "difference": points(*difference(rows[ADDED], rows[TOGETHER], tasks))}
        for label, tasks in [*((task.replace("_", " "), [task]) for task in HELD_OUT),
                             ("mean", list(HELD_OUT))]]
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def takeaway(rows: Rows) -> str:
    """What the records say of adding tasks later, as Markdown."""
    if not (rows[ADDED] and rows[TOGETHER]):
        return "Not run yet on real faces."
    table = added_table(rows).loc["mean"]
    return (f"- {len(HELD_OUT)} attributes that the network had never seen reach a mean of "
            f"**{table[ADDED]} %** with nothing but their own scales; trained with the rest from "
            f"the start, {table[TOGETHER]} %. The difference: {table['difference']} points.")
