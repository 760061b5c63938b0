"""The paper's claims that scales tell how tasks relate, each beside what the records say.

Source: Zhao et al., ECCV 2018, section 3.3.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from modlib import three_attributes, twenty_attributes, verdicts
from modlib.ablations import ucr_matrix
from modlib.compliance import probed
from modlib.judged_claims import Claim, of_verdict
from modlib.tables import points, with_sign
from modlib.three_attributes import RELATED, UNRELATED
from modlib.twenty_attributes import ONE_RATE, OURS
from modlib.verdicts import Verdict
from modlib.w_distance import (
    distances,
    label_correlation,
    own_agreement,
    pair_distance,
    paper_figures,
    rank_agreement,
)

AT_ONE_RATE = " (scales that learn at the network's own rate)"


def claims() -> list[Claim]:
    """Every claim about the scales of two tasks, and about all pairs of 20, at either rate."""
    rows = twenty_attributes.STUDY.published("celeba_cpu_20")
    return [*_of_pairs(three_attributes.published("celeba_cpu")["e"], rows[ONE_RATE]),
            *_of_views(rows[OURS], ""), *_of_views(rows[ONE_RATE], AT_ONE_RATE)]


def _of_pairs(of_three: list[dict[str, Any]], of_twenty: list[dict[str, Any]]) -> list[Claim]:
    """From networks of three attributes, as in the paper's toy experiment, and from others of 20.

    The three learn their scales at many times the network's rate. The paper names no rate.
    """
    text = ("Unrelated tasks (smile, young) differ more in their scales than related ones (smile, "
            "mouth open)")
    apart = []
    for record in of_three:
        means = {frozenset(one["tasks"]): one["mean"] for one in record["results"]["w_distance"]}
        apart.append(means[frozenset(UNRELATED)] - means[frozenset(RELATED)])
    at_one_rate = [pair_distance(record, UNRELATED) - pair_distance(record, RELATED)
                   for record in of_twenty]
    printed = paper_figures()["w_distance"]
    paper = printed["/".join(UNRELATED)]["mean"] - printed["/".join(RELATED)]["mean"]
    claims = []
    for said, differences, folder in (
            (text, apart, three_attributes.FOLDER),
            (f"{text}, among 20 tasks{AT_ONE_RATE}", at_one_rate, twenty_attributes.STUDY.folder)):
        one = replace(verdicts.over_seeds(said, differences), paper=paper)
        claims.append(replace(
            of_verdict("3.3", one, "05_w_distance", folder), paper=with_sign(paper),
            measured=points(one.difference, one.low, one.high, 3) if differences else ""))
    return claims


def _of_views(records: list[dict[str, Any]], where: str) -> list[Claim]:
    """What 20 tasks' scales tell of how the tasks relate, as rank correlations over pairs."""
    claims = []
    for view, what in (("labels", "whose labels go together"),
                       ("gradients", "whose updates agree")):
        text = ("The learnt scales capture how tasks relate: they are nearer for tasks "
                f"{what}{where}")
        if not records or (view == "gradients" and not probed(records)):
            found = (np.nan,) * 3
        else:
            found = rank_agreement(distances(records), (
                1 - label_correlation(records[0]) if view == "labels"
                else 100 - ucr_matrix(records)))
        verdict = Verdict(text, *found, None)
        measured = "" if np.isnan(found[0]) else f"ρ = {points(*found)}"
        if measured and view == "gradients" and len(records) > 1:
            again = own_agreement([ucr_matrix([one]) for one in records])
            measured += f" (updates of another training agree with them by {with_sign(again)})"
        claims.append(Claim("3.3", text, measured, "", verdict.word, "05_w_distance",
                            twenty_attributes.STUDY.folder))
    return claims
