"""What records say of conflict between tasks that are read off one image.

How often the tasks' gradients over the backbone agree, how MOO weighs them, what became of channel
modulation's scales, and how often a task answers with the digit of another.

Sources: Zhao et al., ECCV 2018, section 3.1 (update compliance ratio); Levi and Ullman, section 4
(the systems).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from modlib.arrays import from_json
from modlib.compliance import agreement
from modlib.record_checks import ANSWERS
from modlib.studies import Rows
from modlib.tables import mean_and_spread
from modlib.top_down_study import CHANNELS, COUNTS, FAST, FAST_CHANNELS, SYSTEMS, TABLE_1

SHARING = (*(label for system, label in SYSTEMS.items() if system != "single"),
           SYSTEMS["channel"] + FAST)

MOO_COLUMNS = ["", "weights of the tasks", "equal weights", "largest in a step",
               "tasks against whose gradient a step goes, %"]


def agreement_table(rows: Rows) -> pd.DataFrame:
    """In % of probed batches, how often two tasks' gradients over the backbone agree, for people.

    The update compliance ratio, a mean over all pairs of tasks, by system and number of tasks.
    """
    return pd.DataFrame(
        {f"{count} tasks": [agreement(rows.get(f"{count} tasks, {label}", []))
                            for label in SHARING] for count in COUNTS}, index=list(SHARING))


def moo_table(rows: Rows) -> pd.DataFrame:
    """How MOO has weighed the tasks, for people: means over training and seeds.

    See :class:`modlib.aggregation.StepLog`.
    """
    lines = []
    for count in COUNTS:
        epochs = [epoch for record in rows.get(f"{count} tasks, MOO", [])
                  for epoch in record["epochs"]]
        if epochs:
            weights_T = np.mean([list(epoch["task_weights"].values()) for epoch in epochs], axis=0)
            largest, uphill = (np.mean([epoch[key] for epoch in epochs])
                               for key in ("largest_weight", "tasks_uphill"))
            lines.append({
                "": f"{count} tasks, MOO",
                "weights of the tasks": ", ".join(f"{one:.2f}" for one in weights_T),
                "equal weights": f"{1 / count:.2f}", "largest in a step": f"{largest:.2f}",
                "tasks against whose gradient a step goes, %": f"{100 * uphill:.0f}"})
    return pd.DataFrame(lines, columns=MOO_COLUMNS).set_index("").rename_axis(None)


def scale_sentence(rows: Rows) -> str:
    """How far channel modulation's scales went from 1 and how many died, as Markdown."""
    listed = []
    for rate, names in (("at the network's rate", CHANNELS), ("at 20 times that", FAST_CHANNELS)):
        records = [record for name in names.values() for record in rows.get(name, [])]
        if records:
            scales = np.concatenate([from_json(one).ravel() for record in records
                                     for one in record["results"]["scales"].values()])
            dead = sum(record["results"]["dead_scales"] for record in records)
            listed.append(f"{rate} they are {np.abs(scales - 1).mean():.2f} away from 1 on average,"
                          f" and {100 * dead / scales.size:.1f} % of them are 0 for good")
    return f"Channel modulation's scales: {'; '.join(listed) or 'not run yet'}."


def mistake_table(rows: Rows) -> pd.DataFrame:
    """Table 1's rows for people: wrong answers, and how many of them are another task's digit.

    *By chance*: were each wrong answer any of the nine wrong digits at random.
    """
    lines = [{"": name} | {title: mean_and_spread([_of_wrong(record, *keys) for record in
                                                   rows.get(name, [])])
                           for title, keys in (
                               ("wrong answers, %", ("count", None)),
                               ("of these another corner's digit, %", ("of_others", "count")),
                               ("by chance, %", ("by_chance", "count")))} for name in TABLE_1]
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def _of_wrong(record: Mapping[str, Any], key: str, over: str | None) -> float:
    """A count of wrong answers in %, over all tasks: of another count, or of all answers."""
    of_tasks = record["results"][ANSWERS]["wrong"].values()
    total = (sum(one[over] for one in of_tasks) if over else
             len(of_tasks) * record["data"]["images"]["test"])
    return 100 * sum(one[key] for one in of_tasks) / max(1, total)
