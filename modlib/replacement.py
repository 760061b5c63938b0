"""What should take the place of the paper's module, at no more numbers than branches of 25 have?

The candidate is chosen on the validation split: the best of many on the test split would be its
luckiest. The test split then says how far it is from the module.
"""

import numpy as np

from modlib.intervals import difference
from modlib.retrieval_comparison import retrieval_verdict
from modlib.speed import number, read_benchmark
from modlib.studies import Rows, valid_accuracy
from modlib.tables import points
from modlib.twenty_attributes import BUDGET, ONE_RATE, OURS, PAPER_NAMES, STUDY, extra_parameters

TOO_LARGE = ("projection",)  # more than the budget at any width of this book
SAME_MODULE = (ONE_RATE,)  # it asks about a learning rate


def challengers() -> list[str]:
    """The rows beyond the paper that may take the module's place."""
    return [name for name in STUDY.rows
            if name not in (*PAPER_NAMES, *TOO_LARGE, *SAME_MODULE)]


def candidates(rows: Rows) -> dict[str, int]:
    """Extra parameters of each row that was run, is within the budget, and may be chosen."""
    counted = {name: extra_parameters(records[0]) for name, records in rows.items()
               if records and name not in SAME_MODULE}
    return {name: count for name, count in counted.items() if count <= BUDGET}


def chosen(rows: Rows) -> str | None:
    """The best candidate by mean validation accuracy; None of fewer than two."""
    within = candidates(rows)
    if len(within) < 2:
        return None
    return max(within, key=lambda name: np.mean([valid_accuracy(one) for one in rows[name]]))


def in_use() -> dict[str, str]:
    """By row, the time of all tasks of an image over that of the fully shared network, for people.

    The range over repeats stands beside it: rows of the same work differ by as much.
    """
    benchmark, asked = read_benchmark(), "in use: "
    return {row["key"].removeprefix(asked):
            f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"
            for row in benchmark["rows"] if row["key"].startswith(asked)} if benchmark else {}


def headline_sentence(rows: Rows) -> str:
    """The candidate beside the module in one sentence, as Markdown; "" where it is the module."""
    best = chosen(rows)
    if best in (None, OURS) or not rows[OURS]:
        return ""
    within = candidates(rows)
    return (f"With at most {BUDGET:,} extra numbers for all attributes, the best of "
            f"{len(within)} systems by validation is *{best}* ({within[best]:,}; "
            "[what that is](book/method.md)). It has "
            f"**{_test_accuracy(rows, best):.1f} %** on the test split, "
            f"{points(*difference(rows[best], rows[OURS]))} points above the scales alone.")


def answer(rows: Rows) -> str:
    """The candidate, its distance from the module and its price; as one point of a list."""
    best, waiting = chosen(rows), [name for name in challengers() if not rows[name]]
    if best is None:
        return "- What should replace it: not run yet."
    within = candidates(rows)
    said = (f"- With at most {BUDGET:,} extra parameters, the best of the {len(within)} systems "
            f"here by validation is **{best}**: {_test_accuracy(rows, best):.1f} % on the test "
            f"split, with {within[best]:,} of them."
            + f" (*{SAME_MODULE[0]}* is the same module, and is not counted.)"
            * bool(rows[SAME_MODULE[0]]))
    if best != OURS and rows[OURS]:
        said += f" {_against_the_module(rows, best)}"
    elif best == OURS and not waiting:
        said += " So nothing here should replace the paper's module."
    if waiting:
        said += f" Not run yet, so this may change: {'; '.join(waiting)}."
    return said


def _test_accuracy(rows: Rows, name: str) -> float:
    """The mean over tasks and seeds, in %."""
    return 100 * float(np.mean(
        [list(one["results"]["test_accuracy"].values()) for one in rows[name]]))


def _against_the_module(rows: Rows, best: str) -> str:
    value, low, high = difference(rows[best], rows[OURS])
    word = ("so on these attributes it should take the module's place, for "
            f"{extra_parameters(rows[best][0]) / extra_parameters(rows[OURS][0]):.0f} times the "
            f"numbers. {_in_searches(rows, best)}" if low > 0 else
            "so it should not replace the module." if high < 0 else
            "which decides nothing: no reason yet to replace the module.")
    times = in_use()
    price = (f" In use it takes {times[best]} times as long as full sharing, the module "
             f"{times[OURS]} times." if {best, OURS} <= times.keys() else "")
    return f"Against the module: {points(value, low, high)} points, {word}{price}"


def _in_searches(rows: Rows, best: str) -> str:
    """Whether the candidate's searches are better than the module's too."""
    found = retrieval_verdict("", rows[best], rows[OURS])
    word = {"held": "it is better", "did not hold": "it is worse"}.get(
        found.word, "the two are not decidedly apart")
    return f"By search (mAP) {word}: {points(found.difference, found.low, found.high)} points."
