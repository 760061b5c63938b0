"""What records say of where a top-down network looks: its gate on each kind of pixel.

Source: Levi and Ullman, Eq. 3.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from modlib.reading import PIXELS
from modlib.studies import Rows
from modlib.tables import points
from modlib.top_down_study import COUNTS, OURS, OURS_4
from modlib.verdicts import Verdict, over_seeds

OWN, OTHERS, _ = PIXELS
BLIND = "places, image not seen"  # of four tasks


def gate_table(rows: Rows) -> pd.DataFrame:
    """Mean gate in % by number of tasks, task and kind of pixel, and how far a task's own digit
    lies above the others, in points with Student's 95 % interval over seeds.

    The last lines are of the network whose top-down stream does not see the image: what it knows
    is the corner alone.
    """
    lines, blind = [], rows.get(BLIND, [])
    for records in (*_top_down(rows), *([blind] if blind and rows.get(OURS_4) else [])):
        for task in records[0]["settings"]["tasks"]:
            above = _own_above_others(records, task)
            count = len(records[0]["settings"]["tasks"])
            lines.append({
                "tasks": count if records is not blind else f"{count}, image not seen",
                "task": task} | {
                pixels: f"{sum(_gates(records, task, pixels)) / len(records):.1f}"
                for pixels in PIXELS} | {
                "own above others": points(above.difference, above.low, above.high)})
    return pd.DataFrame(lines, columns=["tasks", "task", *PIXELS, "own above others"]).set_index(
        ["tasks", "task"])


def gate_sentence(rows: Rows) -> str:
    """For how many tasks the gate is higher on their own digit, as Markdown; nothing of one seed.

    A task counts where the interval over seeds leaves no doubt of the sign.
    """
    words = [_own_above_others(records, task).word for records in _top_down(rows)
             if len(records) > 1 for task in records[0]["settings"]["tasks"]]
    if not words:
        return "Nothing is concluded before two seeds have told."
    return (f"Of {len(words)} gates, one for each task and number of tasks, **"
            f"{words.count('held')}** let the pixels of the task's own digit through more strongly "
            f"than those of the other digits, **{words.count('did not hold')}** less strongly, and "
            f"for **{words.count('not decided')}** the interval over the seeds leaves it open.")


def _top_down(rows: Rows) -> list[Sequence[dict[str, Any]]]:
    """The records of the whole top-down network on two, three and four tasks, where there are."""
    return [rows[OURS[count]] for count in COUNTS if rows.get(OURS[count])]


def _gates(records: Sequence[dict[str, Any]], task: str, pixels: str) -> list[float]:
    return [100 * record["results"]["gates"][task][pixels] for record in records]


def _own_above_others(records: Sequence[dict[str, Any]], task: str) -> Verdict:
    own, others = (_gates(records, task, pixels) for pixels in (OWN, OTHERS))
    return over_seeds("", [one - other for one, other in zip(own, others, strict=True)])
