"""What the records of the top-down network say of the paper's claims.

Source: Levi and Ullman, Tables 1 to 4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from modlib.answers import answer_difference
from modlib.studies import Rows
from modlib.tables import NOT_COMPLETE, points
from modlib.top_down_study import (
    ABLATIONS,
    CHANNELS,
    COUNTS,
    FAST,
    FAST_CHANNELS,
    LENET_WEIGHTS,
    OURS,
    OURS_2,
    OURS_4,
    SYSTEMS,
    WIDTHS,
    accuracy_table,
    paper_rows,
)
from modlib.verdicts import Verdict, verdict_counts

# The paper's claims: what it says, the row that is better by it, and the other.
CLAIMS = {
    "top_down": [
        *((f"Top-down modulation passes {what}, {count} tasks", f"{count} tasks, top-down",
           f"{count} tasks, {SYSTEMS[system]}")
          for system, what in (("single", "networks of their own"),
                               ("channel", "channel modulation"), ("uniform", "uniform scaling"),
                               ("moo", "MOO"))
          for count in COUNTS),
        *((f"Top-down modulation passes channel modulation{FAST}, {count} tasks", OURS[count],
           FAST_CHANNELS[count]) for count in COUNTS),
        *((f"{what} adds to channel modulation{said}", row, rows[4])
          for said, rows in (("", CHANNELS), (FAST, FAST_CHANNELS))
          for what, row in (("Seeing the image", "channels alone, image seen"),
                            ("Modulating places", "places, image not seen"))),
        ("Seeing the image adds to modulating places", OURS_4, "places, image not seen"),
        ("Top-down maps of 10 channels pass the full width", "top-down maps of 10", OURS_2),
        *((f"Top-down maps of {width} lose accuracy", OURS_2, f"top-down maps of {width}")
          for width in WIDTHS[1:]),
        *((f"Into TD, + is better than {sign}", OURS_2, f"{sign} into TD, ⊗ into BU2")
          for sign in "×⊗"),
        *((f"Into BU2, ⊗ is better than {sign}", OURS_2, f"+ into TD, {sign} into BU2")
          for sign in "+×"),
        *((f"Accuracy is higher without auxiliary losses than {row}", OURS_2, row)
          for row in ABLATIONS["d"]),
    ],
    "top_down_clevr": [
        (f"Top-down modulation passes {SYSTEMS[system]}, {count} questions",
         f"{count} tasks, top-down", f"{count} tasks, {SYSTEMS[system]}")
        for system in ("single", "uniform", "channel") for count in (2, 3, 4)],
    "top_down_cub_200": [
        (f"Top-down modulation with the localisation loss passes {row}",
         "top-down + localisation", row)
        for row in (*list(SYSTEMS.values())[:4], "channel modulation + localisation")],
}


def verdicts(rows: Rows, folder: str) -> list[Verdict]:
    """The paper's claims about a data set, each judged over images and seeds."""
    judged = []
    for claim, better, worse in CLAIMS[folder]:
        printed = paper_rows(folder, (better, worse))
        judged.append(Verdict(claim, *answer_difference(rows.get(better, []), rows.get(worse, [])),
                              _mean(printed[better]) - _mean(printed[worse])))
    return judged


def weight_sentence(rows: Rows) -> str:
    """Whether top-down modulation has fewer weights than networks of their own, as Markdown."""
    both = [(count, *(records[0]["results"]["parameters"]["weights"] / LENET_WEIGHTS
                      for records in (rows[OURS[count]], rows[f"{count} tasks, single task"])))
            for count in COUNTS
            if rows.get(OURS[count]) and rows.get(f"{count} tasks, single task")]
    if not both:
        return "Whether it has fewer weights than networks of their own, records will tell."
    listed = "; ".join(f"×{ours:.2f} against ×{single:.2f} for {count} tasks"
                       for count, ours, single in both)
    fewer = sum(ours < single for _, ours, single in both)
    return ("The paper also claims that top-down modulation has fewer weights than networks of "
            f"their own: so it is in {fewer} of {len(both)} cases ({listed}).")


def takeaway(rows: Rows) -> str:
    """What the records of digits say, as Markdown; nothing is concluded from an open table."""
    if any(len(records) < 2 for records in rows.values()):
        return NOT_COMPLETE
    others = {SYSTEMS["single"]: "a network for each task", SYSTEMS["uniform"]: "uniform scaling",
              SYSTEMS["moo"]: "MOO", SYSTEMS["channel"]: "channel modulation",
              SYSTEMS["channel"] + FAST: f"channel modulation{FAST}"}
    no_places, no_image = "channels alone, image seen", "places, image not seen"
    return "\n".join([
        "- **Should the task tell the network where to look?** Top-down modulation with two, three "
        "and four tasks, in points of accuracy (bold: zero is outside the interval)",
        *(f"  - over {name}: " + ", ".join(
            _apart(rows, OURS[count], f"{count} tasks, {row}") for count in COUNTS)
          for row, name in others.items()),
        f"  - So it is ahead of channel modulation {_ahead(rows, SYSTEMS['channel'])}, of scales "
        f"at 20 times the rate {_ahead(rows, SYSTEMS['channel'] + FAST)}, and of a network for "
        f"each task {_ahead(rows, SYSTEMS['single'])}.",
        f"- **Is it the places, or the image?** With four tasks, without places (a scale a "
        f"channel, from the image) it differs by {_apart(rows, no_places, OURS_4)} points; "
        f"{_helps(rows, no_places, 'modulating places')}. Without seeing the image it differs by "
        f"{_apart(rows, no_image, OURS_4)}; {_helps(rows, no_image, 'seeing the image')}.",
        f"- **What does it cost?** {_cost_sentence(rows)}",
        verdict_counts(verdicts(rows, "top_down"), "about digits")])


def _apart(rows: Rows, one: str, other: str) -> str:
    value, low, high = answer_difference(rows[one], rows[other])
    said = points(value, low, high)
    return f"**{said}**" if low > 0 or high < 0 else said


def _ahead(rows: Rows, row: str) -> str:
    lows = [answer_difference(rows[OURS[count]], rows[f"{count} tasks, {row}"])[1]
            for count in COUNTS]
    return f"in {sum(low > 0 for low in lows)} of {len(lows)} cases"


def _helps(rows: Rows, without: str, what: str) -> str:
    _, low, high = answer_difference(rows[without], rows[OURS_4])
    if high < 0:
        return f"so {what} helps"
    return f"so it is better without {what}" if low > 0 else f"that {what} helps is not shown"


def _cost_sentence(rows: Rows) -> str:
    """Weights and arithmetic for four tasks, beside two rivals."""
    names = {OURS_4: "top-down modulation", CHANNELS[4]: "channel modulation",
             f"4 tasks, {SYSTEMS['single']}": "a network for each task"}
    table = accuracy_table(rows, list(names), "top_down")
    costs = [f"{name} has {table.weights[row]} the weights of one LeNet and does "
             f"{table.work[row]} its work" for row, name in names.items()]
    return f"For four tasks, {costs[0]}; {costs[1]}; {costs[2]}."


def _mean(printed: Mapping[str, Any]) -> float:
    return float(np.mean(list(printed["accuracy"].values())))
