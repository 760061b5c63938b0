"""Speed as ratios: calls timed side by side in one run, and the record that ``make bench`` writes.

A ratio of two times from one run says more than either: machines differ, and so does one machine
from hour to hour.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from modlib.errors import ModlibError
from modlib.record_fields import is_number
from modlib.results import read_with_keys, resolve

RECORD = "speed/benchmark.json"  # below the folder of results
KEYS = ("version", "rows", "curves", "run")
RANGE = ("low", "value", "high")  # of a row
ABOVE_0 = ("×", "s")  # units of what is never 0: ratios of times, and times
SHARED_BATCHING = "training: shared batching over triplets batching, task-embeddings per second"
NOT_RUN_YET = "Not run yet: `make bench`."


def side_by_side(
    calls: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1,
    prepare: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Time calls in turn, each once a repeat, every other repeat in the opposite order.

    What slows the machine for a while then slows all of them.

    Args:
        calls: what to time, by name.
        repeats: at least 1.
        warm_up: untimed calls of each before.
        prepare: done before every call, untimed.

    Returns:
        seconds of every repeat, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-warm_up, repeats):
        order = list(calls) if repeat % 2 == 0 else list(reversed(calls))
        for name in order:
            prepare()
            started = time.perf_counter()
            calls[name]()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def row(
    question: str,
    ratios: Sequence[float],
    how: str,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "×",
    key: str = "",
) -> dict[str, Any]:
    """One line of the benchmark's table.

    Args:
        question: what is compared with what.
        ratios: one a repeat.
        how: sizes and settings, for people.
        at_least, at_most: the target, where there is one.
        unit: of the ratios.
        key: a short name, for what reads this line from the record.
    """
    if not len(ratios):
        raise ModlibError(f"{question!r} has no measurement")
    value = median(ratios)
    met = meets(value, at_least, at_most)
    return {
        "key": key, "question": question, "value": value, "low": min(ratios), "high": max(ratios),
        "repeats": len(ratios), "unit": unit, "at_least": at_least, "at_most": at_most, "met": met,
        "how": how}


def meets(value: float, at_least: float | None, at_most: float | None) -> bool:
    """Whether a value meets its target; one without a target is met."""
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of values over sizes on logarithmic axes, by least squares; 1: proportional."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def read_benchmark(folder: str | Path = "book/results") -> dict[str, Any] | None:
    """The record of `make bench` below a folder of results; None where there is none.

    Raises:
        ModlibError: see :func:`read`.
    """
    path = resolve(folder) / RECORD
    return read(path) if path.exists() else None


def read(path: Path) -> dict[str, Any]:
    """The record of `make bench` in a file.

    Raises:
        ModlibError: it cannot be read, lacks a key, is not what its digest says, or holds a
            figure that cannot be: ratios and seconds are above 0, no measure is below 0, the
            median lies within its range, and a target is met if the median meets it.
    """
    record = read_with_keys(path, KEYS, signed=True)
    if not isinstance(record["rows"], list):
        raise ModlibError(f"record {path}: rows is {record['rows']!r:.99}; allowed: a list of rows")
    for one in record["rows"]:
        row = one if isinstance(one, dict) else {}
        found = [row.get(key) for key in RANGE]
        above = row.get("unit") in ABOVE_0
        if not all(map(is_number, found)) or not found[0] <= found[1] <= found[2] or (
                found[0] < 0 or (above and found[0] == 0)):
            raise ModlibError(
                f"record {path}: {', '.join(RANGE)} of {row.get('question', one)!r} are {found}; "
                f"allowed: numbers {'above' if above else 'from'} 0, the median within its range")
        if "met" in row and row["met"] is not meets(
                row["value"], row.get("at_least"), row.get("at_most")):
            raise ModlibError(
                f"record {path}: met of {row.get('question', one)!r} is {row['met']}; but it is "
                f"{row['value']:g}, and its target {target_of(row) or 'none'}")
    return record


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The benchmark's rows for people: the median, its target, its range over repeats.

    What was measured has three figures; times below a tenth of a second are in ms.
    """
    lines = []
    for one in rows:
        factor, unit = ((1000, "ms") if one["unit"] == "s" and one["value"] < 0.1
                        else (1, one["unit"]))
        low, value, high = (three_figures(factor * one[key]) for key in RANGE)
        target = target_of(one)
        lines.append({
            "": one["question"], "measured": f"{value} {unit}".strip(), "target": target,
            "met": ("yes" if one["met"] else "no") if target else "",
            "range over repeats": f"{low} to {high}" if one["repeats"] > 1 else "",
            "how": one["how"],
        })
    columns = ["", "measured", "target", "met", "range over repeats", "how"]
    return pd.DataFrame(lines, columns=columns).set_index("").rename_axis(None)


def target_of(one: Mapping[str, Any]) -> str:
    """A row's target for people, ``at most 8 ×``; nothing where it has none."""
    bounds = " and ".join(f"{key.replace('_', ' ')} {one[key]:g}"
                          for key in ("at_least", "at_most") if one.get(key) is not None)
    return bounds and f"{bounds} {one['unit']}".strip()


def three_figures(value: float) -> str:
    """Three significant figures, as in a column: 14.2, 2.00, 0.0420, 1,530, 2,080."""
    rounded = float(f"{value:.3g}")
    if not rounded or not math.isfinite(rounded):
        return f"{rounded:g}"
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def number(value: float) -> str:
    """At most three figures, as in a sentence: 14.2, 1.31, 0.042, 1,530."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.3g}"
