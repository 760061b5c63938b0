"""The study of three views of task relation, and of scales inside branches that were found.

Sources: Zhao et al., ECCV 2018, sections 2.1 (scales in the network of Lu et al.), 3.1 (update
compliance ratio) and 3.3 (W-distance); Lu et al., CVPR 2017, section 3.3 (affinity of tasks).
Shapes: T tasks, V views, P pairs of tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from modlib import branching_study, w_distance
from modlib.ablations import ucr_matrix
from modlib.adaptive_branching import BranchingSettings
from modlib.answers import answer_difference
from modlib.arrays import from_json
from modlib.branching_study import branches, mean_accuracy, mean_count, paired
from modlib.studies import Rows, Study
from modlib.tables import NOT_COMPLETE, mean_and_spread, points, with_sign
from modlib.verdicts import Verdict

AFFINITY, CHANCE_FREE = "1 − affinity", "1 − φ"
THIN, SCALES = "thin", "thin, scales"
FOUND, FOUND_SCALES = "found branches", "found branches, scales"
STUDY = Study("three_views", {
    THIN: {"system": "thin"},
    SCALES: {"system": "thin", "scales": True},
    FOUND: {"system": "retrained", "alpha": 2.0},
    FOUND_SCALES: {"system": "retrained", "alpha": 2.0, "scales": True},
}, tuned=("ucr_every",), quick=2, settings=BranchingSettings, not_used=branching_study.NOT_USED)
# The views read one row: where training takes long, the others are not probed.
NOT_PROBED = {row: {"ucr_every": 0} for row in STUDY.rows if row != SCALES}
DIFFERENCES = (  # what is claimed, the row that is to be better, the other; the paper's comes first
    ("Scales inside the found branches raise the accuracy", FOUND_SCALES, FOUND),
    ("Scales raise the accuracy of the thin network", SCALES, THIN),
    ("Found branches raise the accuracy of the thin network", FOUND, THIN),
    ("Scales alone are better than branches alone", SCALES, FOUND),
    ("Scales and branches are better than scales alone", FOUND_SCALES, SCALES))


def queue(runs: Mapping[str, Sequence[BranchingSettings]]) -> list[BranchingSettings]:
    """The runs of all rows with those that they start from, each once.

    Named in the queue, a run that two others start from is not trained by two processes at once.
    """
    every = []
    for one in (one for of_row in runs.values() for one in of_row):
        before = [one]
        while before[0].trunk_from is not None:
            before.insert(0, before[0].trunk_from)
        every += before
    return list(dict.fromkeys(every))


# Three views of how the tasks of some records relate, each a table of distances, float (T, T)


def gradient_distances(records: list[dict[str, Any]]) -> np.ndarray:
    """100 − update compliance ratio in %, over all records and epochs; nan where not probed."""
    return 100 - ucr_matrix(records)


def difficulty_distances(records: list[dict[str, Any]]) -> np.ndarray:
    """1 − affinity: how often one task finds an image hard that the other finds easy.

    On the validation split, averaged over the records.
    """
    return 1 - np.mean([from_json(one["results"]["affinity"]) for one in records], axis=0)


def chance_free_distances(records: list[dict[str, Any]]) -> np.ndarray:
    """1 − φ, the correlation of *hard* between two tasks: affinity without what chance gives.

    Two tasks that find few images hard agree on most, whatever else they have in common. With the
    affinity A and the shares h of hard images, P(both hard) = (A − 1 + h_i + h_j) / 2, and φ is
    that less h_i·h_j, over the product of the standard deviations √(h·(1 − h)).
    """
    distances = []
    for one in records:
        affinity_TT = from_json(one["results"]["affinity"]).astype(np.float64)
        hard_T = np.array([one["results"]["hard"][task] for task in one["settings"]["tasks"]])
        both_TT = (affinity_TT - 1 + hard_T[:, None] + hard_T) / 2
        deviation_T = np.sqrt(hard_T * (1 - hard_T))
        distances.append(1 - (both_TT - np.outer(hard_T, hard_T))
                         / np.outer(deviation_T, deviation_T))
    return np.mean(distances, axis=0)


VIEWS: dict[str, Callable[[list[dict[str, Any]]], np.ndarray]] = {
    "W-distance": w_distance.distances,
    "100 − UCR": gradient_distances,
    AFFINITY: difficulty_distances}


def views(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Each view's distances between the tasks of records with scales; none without records.

    A view in which a pair was not measured, as when nothing was probed, is left out.
    """
    if not records:
        return {}
    found = {name: view(records) for name, view in VIEWS.items()}
    return {name: distance_TT for name, distance_TT in found.items()
            if np.isfinite(_of_pairs(distance_TT)).all()}


def repeats(records: list[dict[str, Any]]) -> dict[str, list[np.ndarray]]:
    """Each view's distances in each record, for :func:`~modlib.w_distance.repeat_table`."""
    of_records = [views([record]) for record in records]
    return {name: [found[name] for found in of_records if name in found] for name in VIEWS}


def disagreement_table(
    distances: Mapping[str, np.ndarray], tasks: Sequence[str], count: int = 8
) -> pd.DataFrame:
    """The pairs of tasks that the views rank most differently, for people.

    Args:
        distances: by view, float (T, T).
        tasks: T names.
        count: how many pairs, at most.

    Returns:
        for each pair its rank in every view, 1 for the most alike of all pairs (equal distances
        have their mean rank), and how far the ranks are ``apart``; the furthest apart first.
    """
    ranks_VP = np.stack([rankdata(_of_pairs(distance_TT)) for distance_TT in distances.values()])
    table = pd.DataFrame(dict(zip(distances, ranks_VP, strict=True)), index=[
        f"{first} / {second}".replace("_", " ") for first, second in combinations(tasks, 2)])
    table["apart"] = np.ptp(ranks_VP, axis=0)
    return table.sort_values("apart", ascending=False, kind="stable")[:count].map("{:.0f}".format)


def _of_pairs(distance_TT: np.ndarray) -> np.ndarray:
    """The distances of every two tasks, in the order of ``itertools.combinations``."""
    return distance_TT[np.triu_indices(len(distance_TT), 1)]


# What scales do in each network, and at what cost


def scale_count(record: dict[str, Any]) -> int:
    """How many scales all tasks have together; 0 in a network without."""
    packed = record["results"].get("scales", {}).values()
    return sum(from_json(scales_TC).size for scales_TC in packed)


def task_parameters(record: dict[str, Any]) -> int:
    """How many parameters are not every task's: outputs, branches where there are some, scales."""
    return record["results"]["parameters"]["task"]


def result_table(rows: Rows) -> pd.DataFrame:
    """What each network scores and costs, for people: means over seeds.

    *Weights* are those of convolutions and linear layers, as the branching paper counts them.
    """
    lines = [{
        "": name,
        "accuracy, %": mean_and_spread([mean_accuracy(one) for one in records]),
        "branches in all 15 layers": mean_count([branches(one) for one in records]),
        "weights": _mean_count([one["results"]["parameters"]["weights"] for one in records]),
        "task parameters": _mean_count([task_parameters(one) for one in records]),
        "of these, scales": _mean_count([scale_count(one) for one in records]),
    } for name, records in rows.items()]
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def _mean_count(counts: Sequence[int]) -> str:
    return f"{np.mean(counts):,.0f}" if counts else ""


def verdicts(rows: Rows) -> list[Verdict]:
    """Each of ``DIFFERENCES`` in mean test accuracy, in points, over images and seeds.

    The paper proposes the first and prints no number.
    """
    return [Verdict(claim, *answer_difference(rows[better], rows[worse]), None)
            for claim, better, worse in DIFFERENCES]


def added_parameters(rows: Rows, better: str, worse: str) -> float:
    """How many task parameters one row has more than another, mean over seeds; nan without runs."""
    added = paired(rows, better, worse, task_parameters)
    return float(np.mean(added)) if added else float("nan")


def verdict_table(rows: Rows) -> pd.DataFrame:
    """The verdicts for people, with the task parameters that each difference costs."""
    lines = []
    for one, (_, better, worse) in zip(verdicts(rows), DIFFERENCES, strict=True):
        added = added_parameters(rows, better, worse)
        lines.append({"": one.claim, "verdict": one.word,
                      "points": points(one.difference, one.low, one.high),
                      "extra task parameters": "–" if np.isnan(added) else with_sign(added, 0)})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def how_it_ran(rows: Rows, profile: str) -> str:
    """What made these records, as Markdown; how to make them where there are none."""
    return branching_study.how_it_ran(rows, profile, STUDY.folder, "13")


def takeaway(rows: Rows) -> str:
    """What the records say, as Markdown; nothing is concluded from one seed or an open table."""
    if any(len(records) < 2 for records in rows.values()):
        return NOT_COMPLETE
    seen, free = views(rows[SCALES]), (CHANCE_FREE, chance_free_distances(rows[SCALES]))
    pairs = [*combinations(seen.items(), 2),
             *((one, free) for one in seen.items() if one[0] != AFFINITY)]
    lines = [w_distance.agreement_sentence(*pair) for pair in pairs]
    for one, (_, better, worse) in zip(verdicts(rows), DIFFERENCES, strict=True):
        said = {"held": "yes", "did not hold": "no, the opposite"}.get(one.word, one.word)
        lines.append(
            f"- {one.claim}: **{said}** ({points(one.difference, one.low, one.high)} points, for "
            f"{with_sign(added_parameters(rows, better, worse), 0)} task parameters).")
    return "\n".join(lines)
