"""Two systems compared by their searches, with intervals over seeds and tasks.

Source: Zhao et al., ECCV 2018, Figure 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from modlib.intervals import of_common_seeds
from modlib.retrieval import MEASURES
from modlib.tables import points, with_sign
from modlib.verdicts import Verdict, over_seeds, student


def mean_score(record: Mapping[str, Any], measure: str = "mAP") -> float:
    """One of ``MEASURES`` in %, averaged over the tasks that have queries."""
    return 100 * float(np.mean([score[measure] for score in record["results"]["retrieval"].values()
                                if score["queries"]]))


def retrieval_verdict(
    claim: str, better: Sequence[Mapping[str, Any]], worse: Sequence[Mapping[str, Any]],
    measure: str = "mAP",
) -> Verdict:
    """Whether one system's searches are better than another's by a measure, seed by seed.

    Records keep a score a task, not a query. So the luck of the queries is told by how far tasks,
    whose queries are other faces, differ in what they gain. Student's intervals over seeds and
    over tasks are taken together: the root of the sum of their squares.
    """
    sides = of_common_seeds(better, worse)
    over = [[mean_score(first, measure) - mean_score(second, measure)
             for first, second in zip(*sides, strict=True)],
            [100 * float(np.mean(gains)) for gains in zip(*(
                _gains_by_task(first, second, measure)
                for first, second in zip(*sides, strict=True)), strict=True)]]
    verdict = over_seeds(claim, over[0])
    if len(over[0]) < 2 or len(over[1]) < 2:
        return verdict
    mean, of_seeds = student(over[0])
    half = float(np.hypot(of_seeds, student(over[1])[1]))
    return replace(verdict, low=mean - half, high=mean + half)


def _gains_by_task(
    better: Mapping[str, Any], worse: Mapping[str, Any], measure: str
) -> list[float]:
    """One record's score minus the other's, a share, of each task that has queries."""
    first, second = (record["results"]["retrieval"] for record in (better, worse))
    return [first[task][measure] - second[task][measure] for task in first
            if first[task]["queries"]]


def difference_table(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], first: str = "modulated"
) -> pd.DataFrame:
    """One row's scores minus each other's, in points with its interval."""
    lines = []
    for name, records in rows.items():
        if name != first and records and rows[first]:
            found = {measure: retrieval_verdict("", rows[first], records, measure)
                     for measure in MEASURES}
            lines.append({"": name} | {
                measure: points(one.difference, one.low, one.high)
                for measure, one in found.items()})
    if not lines:
        return pd.DataFrame(columns=list(MEASURES))
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def takeaway(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """The modulated network's searches beside CSN's and all others', as Markdown."""
    if not (rows["modulated"] and rows["CSN"]):
        return "Not run yet on real faces."
    lines = []
    for measure in MEASURES:
        ours, csn = (float(np.mean([mean_score(record, measure) for record in rows[name]]))
                     for name in ("modulated", "CSN"))
        found = retrieval_verdict("", rows["modulated"], rows["CSN"], measure)
        said = {"held": "better", "did not hold": "worse",
                "not run yet": "no seed in common"}.get(found.word, "not decided")
        lines.append(
            f"- {measure} over the attributes: modulated **{ours:.1f} %**, CSN **{csn:.1f} %**: "
            f"**{said}**, {points(found.difference, found.low, found.high)} points.")
    return "\n".join([*lines, *(_against_all(rows, measure) for measure in MEASURES)])


def _against_all(rows: Mapping[str, Sequence[Mapping[str, Any]]], measure: str) -> str:
    """Which other rows the modulated network's searches are better and worse than."""
    found = {name: retrieval_verdict("", rows["modulated"], records, measure)
             for name, records in rows.items() if name != "modulated" and records}
    said = []
    for word, about in (("held", "better than"), ("did not hold", "worse than"),
                        ("not decided", "not decided against")):
        names = [f"*{name}* ({with_sign(one.difference, 1)})" for name, one in found.items()
                 if one.word == word]
        if names:
            said.append(f"**{about}** {'; '.join(names)}")
    return f"- Against all that were run, by {measure}: {'. '.join(said)}."
