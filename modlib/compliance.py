"""Do updates that agree explain the accuracy? What probed trainings say of the paper's reason.

The paper holds that modulation works because it lets the tasks' updates agree: the update
compliance ratio (UCR) rises with the accuracy, and training makes the angles between the tasks'
gradients smaller.

Source: Zhao et al., ECCV 2018, sections 3.1 and 3.2.
Shapes: T tasks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from modlib.ablations import ucr_matrix
from modlib.figures import BLUE, GREY
from modlib.tables import mean_and_spread, points
from modlib.verdicts import Verdict, over_seeds, seed_verdict
from modlib.w_distance import rank_correlation

Records = Sequence[Mapping[str, Any]]


def probed(records: Records) -> bool:
    """Whether there are records, and their trainings were probed."""
    return bool(records) and all(
        epoch.get("ucr") for record in records for epoch in record["epochs"])


def mean_ucr(record: Mapping[str, Any], with_zeros: bool = True) -> float:
    """The UCR of a training in %, averaged over all pairs of tasks.

    Args:
        with_zeros: whether inner products of exactly 0 count, as products that do not agree.
    """
    matrix_TT = ucr_matrix([record], with_zeros)
    return float(np.nanmean(matrix_TT[np.triu_indices(len(matrix_TT), 1)]))


def agreement(records: Records, with_zeros: bool = True) -> str:
    """:func:`mean_ucr` for people: mean and spread over seeds, or that nothing was probed."""
    if records and not probed(records):
        return "not probed"
    if not with_zeros and any(not np.isfinite(ucr_matrix([one], False)).any() for one in records):
        return "–"  # every inner product is 0
    return mean_and_spread([mean_ucr(record, with_zeros) for record in records])


def agreement_table(rows: Mapping[str, Records]) -> pd.DataFrame:
    """:func:`agreement` of every row; networks of their own share nothing and are not probed."""
    return pd.DataFrame({label: {
        name: agreement(records, with_zeros) for name, records in rows.items()}
        for label, with_zeros in (("update compliance ratio, %", True),
                                  ("zeros left out, %", False))})


def compliance_verdict(
    claim: str, ours: Records, shared: Records, with_zeros: bool = True
) -> Verdict:
    """Whether the updates of the first system agree more often, over all pairs, seed by seed.

    ``with_zeros``: see :func:`mean_ucr`. It matters: a task that is learnt has gradients of 0, and
    a better network has more of them.
    """
    if not (probed(ours) and probed(shared)):
        return over_seeds(claim, [])
    by_seed = [{record["settings"]["seed"]: mean_ucr(record, with_zeros) for record in records}
               for records in (ours, shared)]
    return seed_verdict(claim, *by_seed, None)


def gains_by_task(ours: Records, shared: Records) -> pd.DataFrame:
    """What each task has gained: accuracy, and the mean UCR of its pairs with all others.

    Args:
        ours, shared: probed records of two systems, of the same tasks.

    Returns:
        columns ``accuracy`` and ``ucr``, both in points, a line a task; empty where one system
        has no probed records.
    """
    if not (probed(ours) and probed(shared)):
        return pd.DataFrame(columns=["accuracy", "ucr"])
    tasks = ours[0]["settings"]["tasks"]
    accuracy, ucr = ([measure(records, tasks) for records in (ours, shared)]
                     for measure in (_accuracies, _compliances))
    return pd.DataFrame({"accuracy": accuracy[0] - accuracy[1], "ucr": ucr[0] - ucr[1]},
                        index=list(tasks))


def _accuracies(records: Records, tasks: Sequence[str]) -> np.ndarray:
    return 100 * np.mean([[record["results"]["test_accuracy"][task] for task in tasks]
                          for record in records], axis=0)


def _compliances(records: Records, tasks: Sequence[str]) -> np.ndarray:
    """Of each task with all others."""
    matrix_TT = ucr_matrix(list(records))
    return (matrix_TT.sum(1, where=~np.eye(len(tasks), dtype=bool))) / (len(tasks) - 1)


def tasks_verdict(claim: str, ours: Records, shared: Records) -> Verdict:
    """Whether the tasks that gained more accuracy gained more UCR, as a rank correlation.

    The interval comes from drawing tasks again.
    """
    gained = gains_by_task(ours, shared)
    if gained.empty:
        return over_seeds(claim, [])
    return Verdict(claim, *rank_correlation(gained.accuracy.to_numpy(), gained.ucr.to_numpy()),
                   None)


def mean_cosines(record: Mapping[str, Any]) -> list[float]:
    """The cosine of two tasks' gradients, averaged over all pairs, epoch by epoch."""
    return [float(np.mean([pair["mean_cosine"] for pair in epoch["ucr"]]))
            for epoch in record["epochs"]]


def angles_verdict(claim: str, records: Records) -> Verdict:
    """Whether cosines between the tasks' gradients rise in training, from first epoch to last."""
    if not probed(records):
        return over_seeds(claim, [])
    courses = [mean_cosines(record) for record in records]
    return over_seeds(claim, [course[-1] - course[0] for course in courses if len(course) > 1])


def compliance_table(ours: Records, shared: Records) -> pd.DataFrame:
    """The same reason asked in three ways, for people."""
    lines = {
        "UCR over all pairs, modulated − fully shared, points":
            compliance_verdict("", ours, shared),
        "the same, inner products of 0 left out":
            compliance_verdict("", ours, shared, with_zeros=False),
        "tasks that gain more accuracy gain more UCR: rank correlation":
            tasks_verdict("", ours, shared),
        "cosine of two tasks' gradients, last epoch − first, modulated": angles_verdict("", ours),
        "cosine of two tasks' gradients, last epoch − first, fully shared":
            angles_verdict("", shared)}
    return pd.DataFrame([
        {"": asked, "measured": points(found.difference, found.low, found.high)}
        for asked, found in lines.items()]).set_index("").rename_axis(None)


def draw_gains(ax: Axes, gained: pd.DataFrame) -> Axes:
    """A numbered point for each line of :func:`gains_by_task`; beside them stands who is who."""
    gained = gained.sort_values("accuracy", ascending=False)
    ax.axvline(0, color=GREY, linewidth=1, linestyle="--")
    ax.plot(gained.ucr, gained.accuracy, "o", color=BLUE, markersize=13, markeredgecolor="white")
    for number, (task, one) in enumerate(gained.iterrows(), start=1):
        ax.annotate(f"{number}", (one.ucr, one.accuracy), ha="center", va="center_baseline",
                    fontsize=8, fontweight="bold", color="white")
        ax.text(1.03, 1 - (number - 0.5) / len(gained), f"{number}  {task.replace('_', ' ')}",
                transform=ax.transAxes, va="center", fontsize=8.5)
    ax.margins(0.08)
    ax.set_xlabel("gain in UCR with all other tasks, points")
    ax.set_ylabel("gain in accuracy, points")
    return ax
