"""What the record of ``make bench`` answers: its leading rows, its targets, and the takeaway."""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

import pandas as pd

from modlib.costs_in_use import apart_from_shared
from modlib.speed import (
    NOT_RUN_YET,
    RANGE,
    SHARED_BATCHING,
    benchmark_table,
    target_of,
    three_figures,
)

LEADING = {  # rows that are shown first, by how their questions begin
    "one pass": "inference: the time of all 20 tasks over that of one",
    "one pass of 7": "inference: the time of all 7 tasks over that of one",
    "one by one": "inference: 20 separate passes over all 20 tasks at once",
    "shared": SHARED_BATCHING,
    "to accuracy": "time to accuracy: triplets over shared, seconds to ",
    "bfloat16": "training: bfloat16 over float32, steps per second",
    "compiled": "training: compiled by torch.compile over eager, steps per second",
    "memory kept": "training: freed memory kept, in large pages, over given back",
    "exact probe": "UCR: the exact probe over a training step",
    "cheap probe": "UCR: the trunk-output probe over a training step",
}
ASIDE = {  # what it says beside them
    "first steps": "training: the first three compiled steps",
    "accuracy": "time to accuracy: test accuracy of shared batching within ",
    "cheap signs": "UCR: signs of the trunk-output probe that are the exact probe's",
}
TAKEAWAY = (  # each line needs all that it names
    "**All tasks in one pass.** To embed images for all 20 tasks takes {one pass} as long as for "
    "one. One task at a time, in 20 passes, takes {one by one} as long as the one pass.",
    "**Every image for every task.** Shared batching trains {shared} as many task-embeddings a "
    "second as triplets batching. In time to accuracy: triplets batching takes {to accuracy} as "
    "long to {level}, the best that it reached; shared batching went on to {accuracy} ({how}).",
    "**What a system costs in use.** Beyond the ranges, time differs from full sharing's for: "
    "{apart in time}; peak memory of the call, without the weights, for: {apart in megabytes}. All "
    "others cannot be told from it.",
    "**More tasks.** With {most} tasks instead of {fewest} a training step takes **{more seconds} "
    "times** as long and **{more megabytes} times** the memory.",
    "**Fewer digits.** In bfloat16 training takes {bfloat16} as many steps a second as in float32. "
    "In accuracy: {precision}",
    "**On the record's processor** a network compiled by `torch.compile` trains {compiled} as many "
    "steps a second, after {first steps} for its first three; with memory kept for the next step "
    "instead of given back (`modlib.machine.keep_freed_memory`) it is {memory kept} as many.",
    "**Measuring conflict.** The exact probe of the update compliance ratio takes {exact probe} as "
    "long as a training step, the probe at the trunk's output {cheap probe}; of the latter's signs "
    "{cheap signs} are those of the exact one.",
)


def beginning_with(
    rows: Sequence[Mapping[str, Any]], questions: Mapping[str, str]
) -> dict[str, Mapping[str, Any]]:
    """The first row whose question begins so, for each name that has one."""
    found = {name: [one for one in rows if one["question"].startswith(question)]
             for name, question in questions.items()}
    return {name: some[0] for name, some in found.items() if some}


def benchmark_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of ``LEADING`` as a table, and all rows in one that is folded away, as HTML."""
    leading = list(beginning_with(rows, LEADING).values())
    first, every = (benchmark_table(some).to_html(classes="wide-names") for some in (leading, rows))
    return f"{first}\n<details><summary>All {len(rows)} rows</summary>\n{every}\n</details>"


def targets_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many of their targets the rows meet, and which they miss, as Markdown."""
    aimed = [one for one in rows if target_of(one)]
    missed = [f"{one['question']} ({three_figures(one['value'])} {one['unit']}, the target: "
              f"{target_of(one)})" for one in aimed if not one["met"]]
    said = f"This record has {len(rows)} rows, {len(aimed) or 'none'} of them with a target"
    if not missed:
        return f"{said}{': **all met**' * bool(aimed)}."
    return (f"{said}: **{len(aimed) - len(missed)} met**, **{len(missed)} missed**. Missed: "
            f"{'; '.join(missed)}.")


def takeaway(
    record: Mapping[str, Any] | None, costs: Mapping[str, pd.DataFrame], precision: str
) -> str:
    """What the record answers to the page's question, as Markdown: the lines of ``TAKEAWAY``.

    Args:
        record: of ``make bench``.
        costs: of :func:`costs_in_use`, from that record.
        precision: a sentence on what bfloat16 costs in accuracy.
    """
    if not record:
        return NOT_RUN_YET
    found = beginning_with(record["rows"], LEADING | ASIDE)
    told = {"precision": precision} | {name: _told(one) for name, one in found.items()}
    if "to accuracy" in found:
        told["level"] = found["to accuracy"]["question"].removeprefix(LEADING["to accuracy"])
        told["how"] = found["to accuracy"]["how"]
    if "tasks" in record["curves"]:
        grown = record["curves"]["tasks"]
        told |= {"fewest": f"{grown['sizes'][0]}", "most": f"{grown['sizes'][-1]}"}
        told |= {f"more {key}": three_figures(grown[key][-1] / grown[key][0])
                 for key in ("seconds", "megabytes")}
    if costs:
        told |= {f"apart in {what}": "; ".join(
            f"{name} ({three_figures(value)} {unit})"
            for name, value in apart_from_shared(costs[what])[0].value.items()) or "none"
            for what, unit in (("time", "times"), ("megabytes", "MB"))}
    lines = [line for line in TAKEAWAY
             if {name for _, name, _, _ in Formatter().parse(line) if name} <= told.keys()]
    return "\n".join(f"- {line.format_map(told)}" for line in lines) or NOT_RUN_YET


def _told(one: Mapping[str, Any]) -> str:
    low, value, high = (three_figures(one[key]) for key in RANGE)
    return (f"**{value} {'times' if one['unit'] == '×' else one['unit']}**"
            + f" ({low} to {high})" * (one["repeats"] > 1))


def probe_verdict(record: Mapping[str, Any] | None) -> str:
    """What the record says about the cost of the UCR probes, as Markdown."""
    rows = {one["key"]: one for one in record["rows"]} if record else {}
    keys = ("exact probe", "exact probe, arithmetic", "trunk-output probe", "trunk-output signs")
    if not set(keys) <= rows.keys():
        return NOT_RUN_YET
    exact, arithmetic, cheap, agree = (rows[key]["value"] for key in keys)
    target = rows["exact probe"]["at_most"]
    reached = "met" if rows["exact probe"]["met"] else "**not reached**"
    return (
        f"The exact probe costs **{exact:.1f} steps**: the target of {target:g} is {reached}. In "
        f"multiply-adds it is {arithmetic:.1f} steps: each pass needs the gradient of the "
        "activations and of the weights, and only the forward pass is shared. So the probe already "
        f"runs at {arithmetic / exact:.2f} times the rate of the training step; to meet the target "
        f"it would have to reach {arithmetic / target:.2f} times that rate. "
        f"The trunk-output probe costs **{cheap:.2f} steps**, and {agree:.0f} % of its signs are "
        "those of the exact one.")
