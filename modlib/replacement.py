"""What should take the place of the paper's module, at no more numbers than branches of 25 have?

The candidate is chosen on the validation split: the best of many on the test split would be its
luckiest. The test split then says how far it is from the module.
"""

import numpy as np

from modlib.intervals import difference
from modlib.speed import read_benchmark
from modlib.studies import Rows, valid_accuracy
from modlib.tables import points
from modlib.twenty_attributes import BUDGET, OURS, PAPER_NAMES, extra_parameters, frontier


def challengers(rows: Rows) -> list[str]:
    """The rows beyond the paper that may take the module's place: all but other steps."""
    return [name for name in rows if name not in PAPER_NAMES and "fully shared" not in name]


def chosen(rows: Rows) -> str | None:
    """The best row within the budget by mean validation accuracy; None of fewer than two."""
    within = [name for name, records in rows.items()
              if records and extra_parameters(records[0]) <= BUDGET]
    if len(within) < 2:
        return None
    return max(within, key=lambda name: np.mean([valid_accuracy(one) for one in rows[name]]))


def times_in_use() -> dict[str, float]:
    """By row, the time of all tasks of an image over that of the fully shared network."""
    benchmark, asked = read_benchmark(), "in use: "
    return {row["key"].removeprefix(asked): row["value"] for row in benchmark["rows"]
            if row["key"].startswith(asked)} if benchmark else {}


def answer(rows: Rows) -> str:
    """The candidate, its distance from the module and its price; as one point of a list."""
    best, waiting = chosen(rows), [name for name in challengers(rows) if not rows[name]]
    if best is None:
        return "- What should replace it: not run yet."
    table = frontier(rows).set_index("row")
    within = table[table.extra <= BUDGET]
    said = (f"- With at most {BUDGET:,} extra parameters, the best of the {len(within)} systems "
            f"here by validation is **{best}**: {within.accuracy[best]:.1f} % on the test split, "
            f"with {within.extra[best]:,} of them.")
    if best != OURS and rows[OURS]:
        said += f" {_against_the_module(rows, best)}"
    elif best == OURS and not waiting:
        said += " So nothing here should replace the paper's module."
    if waiting:
        said += f" Not run yet, so this may change: {'; '.join(waiting)}."
    return said


def _against_the_module(rows: Rows, best: str) -> str:
    value, low, high = difference(rows[best], rows[OURS])
    times = times_in_use()
    price = (f" It takes {times[best] / times[OURS]:.2f} times the module's time in use."
             if {best, OURS} <= times.keys() else "")
    word = ("so it is what should replace the module" if low > 0 else
            "so it should not replace the module" if high < 0 else
            "which decides nothing: no reason yet to replace the module")
    return f"Against the module: {points(value, low, high)} points, {word}.{price}"
