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
from modlib.studies import Rows
from modlib.table_1 import kept_distance
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


def claims(of_three: list[dict[str, Any]], of_twenty: Rows) -> list[Claim]:
    """Every claim about the scales of two tasks, and about all pairs of 20.

    The paper names no rate for the scales. So each is judged at either rate; what is not the
    paper's own question is a variant.

    Args:
        of_three: records of row (e) of Table 1.
        of_twenty: the rows of Table 3.
    """
    own, slow = of_twenty[OURS], of_twenty[ONE_RATE]
    return [*_of_pairs(of_three, own, slow), *_of_views(own, ""), *_of_views(slow, AT_ONE_RATE)]


def _of_pairs(
    of_three: list[dict[str, Any]], own: list[dict[str, Any]], slow: list[dict[str, Any]]
) -> list[Claim]:
    """From networks of three attributes, as in the paper's toy experiment, and from others of 20.

    Args:
        of_three: of three attributes.
        own: of 20, with scales at a rate of their own.
        slow: of 20, with scales at the network's.
    """
    text = ("Unrelated tasks (smile, young) differ more in their scales than related ones (smile, "
            "mouth open)")
    printed = paper_figures()["w_distance"]
    paper = printed["/".join(UNRELATED)]["mean"] - printed["/".join(RELATED)]["mean"]
    claims = []
    for said, records, distance, folder in (
            (text, of_three, kept_distance, three_attributes.FOLDER),
            (f"{text}, among 20 tasks", own, pair_distance, twenty_attributes.STUDY.folder),
            (f"{text}, among 20 tasks{AT_ONE_RATE}", slow, pair_distance,
             twenty_attributes.STUDY.folder)):
        apart = [distance(one, UNRELATED) - distance(one, RELATED) for one in records]
        judged = replace(verdicts.over_seeds(said, apart), paper=paper)
        claims.append(replace(
            of_verdict("3.3", judged, "05_w_distance", folder), paper=with_sign(paper),
            measured=points(judged.difference, judged.low, judged.high, 3) if apart else "",
            variant=said != text))
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
            measured += f" (updates of two single trainings: {with_sign(again)})"
        claims.append(Claim("3.3", text, measured, "", verdict.word, "05_w_distance",
                            twenty_attributes.STUDY.folder, variant=bool(where)))
    return claims
