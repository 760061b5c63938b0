"""The answers in short on the page of claims: does modulation work, when, how much, at what cost?

Source: Zhao et al., ECCV 2018.
"""

from typing import Any

import numpy as np

from modlib import any_network, later_tasks, replacement, twenty_attributes, twenty_verdicts
from modlib.claims import ONE_PASS
from modlib.compliance import compliance_verdict
from modlib.growth import gains
from modlib.intervals import difference
from modlib.speed import read_benchmark
from modlib.studies import Rows, accuracies
from modlib.tables import commits_in_words, count_seeds, points, with_sign

ONE_BY_ONE = "inference: 20 separate passes over all 20 tasks at once"


def answers() -> str:
    """Does modulation work, when, by how much and at what cost: from the records, as Markdown."""
    rows = twenty_attributes.STUDY.published("celeba_cpu_20")
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    if not (ours and shared):
        return "Not run yet on 20 attributes."
    of_systems = [one for name in twenty_attributes.PAPER_NAMES for one in rows[name]]
    lines = [*_does_it_work(rows), *_is_it_the_module(rows), *_when(rows), _why(ours, shared),
             *_cost(ours), *_something_better(rows), *_later(), *_in_classifiers()]
    return "\n".join([*lines, f"\nThe records of Table 3's systems are of "
                      f"{commits_in_words(of_systems)}, {_seeds(rows)}; "
                      "all others stand at the end of this page."])


def _seeds(rows: Rows) -> str:
    """How many seeds Table 3's systems have that were run: of all, or from the fewest on."""
    every = [rows[name] for name in twenty_attributes.PAPER_NAMES if rows[name]]
    few, most = min(every, key=len), max(every, key=len)
    return (f"{len(few)} to " if len(few) < len(most) else "") + count_seeds(most)


def _something_better(rows: Rows) -> list[str]:
    """What passes the module at no more numbers than branches of 25 have; nothing undecided."""
    best = replacement.chosen(rows)
    if best in (None, twenty_attributes.OURS):
        return []
    value, low, high = difference(rows[best], rows[twenty_attributes.OURS])
    if low <= 0:
        return []
    return [f"- **Is there something better?** *{best.capitalize()}*, chosen on the validation "
            f"split, is **{points(value, low, high)}** points above the module on the test split, "
            f"with {replacement.candidates(rows)[best]:,} numbers for all tasks."]


def _later() -> list[str]:
    said = later_tasks.takeaway(later_tasks.published("celeba_cpu_20"))
    return [said.replace("-", "- **Can a task come later?**", 1)] if said[0] == "-" else []


def _in_classifiers() -> list[str]:
    rows = any_network.published("celeba_cpu")
    if not (rows["modulated"] and rows["fully_shared"]):
        return []
    line = any_network.differences(rows).loc["modulated − fully shared"]
    word = "more" if line.low > 0 else "less" if line.high < 0 else "not decided"
    return ["- **In classifiers too?** Where each task has a row of the last layer to itself, on "
            f"ResNet-18, mean AUC changes by {points(line.points, line.low, line.high)} points "
            f"({word})."]


def _does_it_work(rows: Rows) -> list[str]:
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    means = accuracies(rows).groupby("row").accuracy.mean()
    value, low, high = difference(ours, shared)
    word = "Yes" if low > 0 else "No" if high < 0 else "Not decided"
    return [
        f"- **Does it work?** {word}, against full sharing: mean triplet accuracy on "
        f"{len(ours[0]['settings']['tasks'])} attributes of real faces goes from "
        f"{means['fully shared']:.1f} to {means[twenty_attributes.OURS]:.1f} %, by "
        f"**{points(value, low, high)}** points."]


def _is_it_the_module(rows: Rows) -> list[str]:
    """How far other ways to give each task something of its own come, and what is left."""
    ours, shared = rows[twenty_attributes.OURS], rows["fully shared"]
    others = [name for name in ("branches, 256", "branches, 25", "CSN", "independent")
              if rows[name]]
    if not others:
        return []
    gain = difference(ours, shared)[0]
    said = {name: name.replace(", ", " of ") for name in others}
    reached = ", ".join(f"{said[name]} {100 * difference(rows[name], shared)[0] / gain:.0f} %"
                        for name in others).replace("-", "−")
    paper = {one.claim: one.paper for one in twenty_verdicts.verdicts(rows)}
    left = "; ".join(
        f"{said[name]} **{points(*difference(ours, rows[name]))}** (paper: "
        f"{with_sign(paper[f'{twenty_attributes.OURS} is better than {name}'], 1)})"
        for name in others)
    return [f"- **Is it this module?** Other systems give each task something of its own too, and "
            f"reach this share of that gain: {reached}. In points, modulated minus each: {left}."
            f"{_at_one_rate(rows)}"]


def _at_one_rate(rows: Rows) -> str:
    """Whether the order of scales and wide branches hangs on the rate at which scales learn."""
    if not (rows[twenty_attributes.ONE_RATE] and rows["branches, 256"]):
        return ""
    found = difference(rows[twenty_attributes.ONE_RATE], rows["branches, 256"])
    ours, slow = (rows[name][0]["settings"] for name in (
        twenty_attributes.OURS, twenty_attributes.ONE_RATE))
    same = all(ours[key] == slow[key] for key in twenty_attributes.STUDY.tuned)
    tuned = "the rest of the settings the same" if same else "the rest chosen again"
    return (f" These scales learn {ours['scale_rate_factor']:g} times as fast as the network; "
            f"branches learn at its rate. With scales at that rate too, {tuned}, modulated minus "
            f"branches of 256 is **{points(*found)}**.")


def _when(rows: Rows) -> list[str]:
    """The gain by the number of tasks, and by the attribute."""
    by_tasks = ", ".join(f"{points(*found)} with {tasks} tasks" for tasks, found in gains().items()
                         if not np.isnan(found[0]))
    means = accuracies(rows).groupby(["row", "task"]).accuracy.mean()
    gained = (means[twenty_attributes.OURS] - means["fully shared"]).sort_values()
    most, least = (f"{task.replace('_', ' ')} {with_sign(gained[task], 1)}"
                   for task in (gained.index[-1], gained.index[0]))
    return [f"- **When?** The gain over full sharing, in points: {by_tasks}. Of the {len(gained)} "
            f"attributes {most} gains most, {least} least."]


def _why(ours: list[dict[str, Any]], shared: list[dict[str, Any]]) -> str:
    """What the records say of the paper's reason, which hangs on how products of 0 are counted."""
    found = [compliance_verdict("", ours, shared, with_zeros) for with_zeros in (True, False)]
    if found[0].word == "not run yet":
        return "- **Why?** Not run yet: no training of 20 tasks was probed."
    said = [f"{points(one.difference, one.low, one.high)} points ({one.word})" for one in found]
    return ("- **Why?** The paper's reason is that updates agree more often. The update compliance "
            f"ratio changes by {said[0]} over all pairs, or by {said[1]} where inner products of 0 "
            "are left out. <a href='../notebooks/03_twenty_attributes.html'>More on this</a>.")


def _cost(ours: list[dict[str, Any]]) -> list[str]:
    counts, benchmark = ours[0]["results"]["parameters"], read_benchmark()
    times = {row["question"]: row for row in benchmark["rows"]} if benchmark else {}
    in_time = ""
    if {ONE_PASS, ONE_BY_ONE} <= times.keys():
        at_once, apart = times[ONE_PASS], times[ONE_BY_ONE]
        in_time = (f" All 20 tasks of an image take {at_once['value']:.2f} times the time of one "
                   f"({at_once['low']:.2f} to {at_once['high']:.2f} over repeats), where 20 passes "
                   f"take {apart['value'] * at_once['value']:.0f} times.")
    return [f"- **At what cost?** {counts['task']:,} numbers for all tasks of our narrow network, "
            f"{100 * counts['task'] / counts['shared']:.1f} % of the shared ones.{in_time}"]
