"""Speed as ratios: calls timed side by side in one run, and the record that `make bench` writes.

A ratio of two times from one run says more than either: machines differ, and so does one machine
from hour to hour.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from modlib.errors import ModlibError
from modlib.record_checks import is_number
from modlib.results import read_with_keys, resolve

RECORD = "speed/benchmark.json"  # below the folder of results
KEYS = ("version", "rows", "curves", "run")
RANGE = ("low", "value", "high")  # of a row
ABOVE_0 = ("×", "s")  # units of what is never 0: ratios of times, and times
SHARED_BATCHING = "training: shared batching over triplets batching, task-embeddings per second"


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
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {
        "key": key, "question": question, "value": value, "low": min(ratios), "high": max(ratios),
        "repeats": len(ratios), "unit": unit, "at_least": at_least, "at_most": at_most, "met": met,
        "how": how}


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
            figure that cannot be: ratios and seconds are above 0, no measure is below 0, and the
            median lies within its range.
    """
    record = read_with_keys(path, KEYS, signed=True)
    for one in record["rows"]:
        row = one if isinstance(one, dict) else {}
        found = [row.get(key) for key in RANGE]
        above = row.get("unit") in ABOVE_0
        if not all(map(is_number, found)) or not found[0] <= found[1] <= found[2] or (
                found[0] < 0 or (above and found[0] == 0)):
            raise ModlibError(
                f"record {path}: {', '.join(RANGE)} of {row.get('question', one)!r} are {found}; "
                f"allowed: numbers {'above' if above else 'from'} 0, the median within its range")
    return record


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The benchmark's rows for people: the median, its range over repeats, the target."""
    lines = []
    for one in rows:
        target = " and ".join(
            f"{key.replace('_', ' ')} {one[key]:g}" for key in ("at_least", "at_most")
            if one[key] is not None)
        spread = f"{number(one['low'])} to {number(one['high'])}" if one["repeats"] > 1 else ""
        lines.append({
            "": one["question"], "measured": f"{number(one['value'])} {one['unit']}".strip(),
            "range over repeats": spread, "target": target and f"{target} {one['unit']}".strip(),
            "met": ("yes" if one["met"] else "no") if target else "",
            "how": one["how"],
        })
    columns = ["", "measured", "range over repeats", "target", "met", "how"]
    return pd.DataFrame(lines, columns=columns).set_index("").rename_axis(None)


def takeaway(record: Mapping[str, Any] | None) -> str:
    """What the record says of shared batching, as Markdown."""
    found = [one for one in record["rows"] if one["question"] == SHARED_BATCHING] if record else []
    if not found:
        return "Not run yet: `make bench`."
    return (f"- Let every image serve every task: that is **{number(found[0]['value'])} times** as "
            "many task-embeddings a second in training. The trunk is paid for once.")


def probe_verdict(record: Mapping[str, Any] | None) -> str:
    """What the record says about the cost of the UCR probes, as Markdown."""
    rows = {one["key"]: one for one in record["rows"]} if record else {}
    keys = ("exact probe", "exact probe, arithmetic", "trunk-output probe", "trunk-output signs")
    if not set(keys) <= rows.keys():
        return "Not run yet: `make bench`."
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


def number(value: float) -> str:
    """Three figures: 14.2, 1.31, 0.042, 1,530."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.3g}"
