"""What systems cost in use, by the record of ``make bench``: time and memory.

What lies within the range of its repeats is not told apart.
"""

import inspect
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from modlib.networks import build_network
from modlib.speed import NOT_RUN_YET, RANGE, three_figures

IN_USE = "in use: "  # begins the keys of its rows
SHARED = "fully shared"  # what the others are held beside


def costs_in_use(
    record: Mapping[str, Any] | None, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, pd.DataFrame]:
    """What systems cost in use, with ranges: time over full sharing's, and peak memory in MB.

    Rows that differ in their training alone are one network: what was measured of any is theirs.
    A time has the range of its repeats. Memory was measured once a row: the factor by which two
    measurements of one network differ at most is taken for the error of each.

    Args:
        record: of ``make bench``.
        changes: what each row sets, see :meth:`modlib.studies.Study.changes`.

    Returns:
        ``time`` and ``megabytes``, a line a row: value, low, high, and ``network``, the first row
        that has the same. Rows whose network was not measured are left out; nothing is returned
        where full sharing was not.
    """
    measured = record["curves"].get("systems in use", {}) if record else {}
    if SHARED not in measured:
        return {}
    of_network = inspect.signature(build_network).parameters
    own = {row: {key: value for key, value in changed.items() if key in of_network}
           for row, changed in changes.items()}
    network = {row: next(first for first in own if own[first] == own[row]) for row in own}
    ranges = {one["key"].removeprefix(IN_USE): [one[key] for key in RANGE]
              for one in record["rows"] if one["key"].startswith(IN_USE)}
    times: dict[str, list[list[float]]] = {}
    megabytes: dict[str, list[float]] = {}
    for row in (row for row in measured if row in network):
        times.setdefault(network[row], []).append(ranges.get(row, [measured[row]["time"]] * 3))
        megabytes.setdefault(network[row], []).append(measured[row]["megabytes"])
    error = max(max(some) / min(some) for some in megabytes.values())
    lines = {
        "time": {name: (median(value for _, value, _ in some), min(low for low, _, _ in some),
                        max(high for _, _, high in some)) for name, some in times.items()},
        "megabytes": {name: (median(some), max(some) / error, min(some) * error)
                      for name, some in megabytes.items()}}
    return {what: pd.DataFrame.from_dict(
        {row: (*of_what[name], name) for row, name in network.items() if name in of_what},
        orient="index", columns=["value", "low", "high", "network"])
        for what, of_what in lines.items()}


def with_weights(
    megabytes: pd.DataFrame, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> pd.DataFrame:
    """Memory of systems in use and of their weights, which lie there before the call.

    Args:
        megabytes: of :func:`costs_in_use`.
        rows: records, by row, of the same networks: 4 bytes a parameter. Rows without a record are
            left out.
    """
    weights = pd.Series({name: 4e-6 * records[0]["results"]["parameters"]["total"]
                         for name, records in rows.items() if records}, dtype=float)
    table = megabytes.loc[[name for name in megabytes.index if name in weights]].copy()
    ends = ["value", "low", "high"]
    table[ends] = table[ends].add(weights[table.index], axis=0)
    return table


def best_within_ranges(points: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Systems with the ranges of what they cost, and who is ``best`` by these ranges.

    A system is not the best if another is more accurate and not dearer beyond their ranges, or as
    accurate and cheaper beyond them.

    Args:
        points: columns row and accuracy, and what else there is.
        costs: one of :func:`costs_in_use`; it has every row of the points.
    """
    table = points.drop(columns=["low", "high"], errors="ignore").join(
        costs[["low", "high"]], on="row")
    return table.assign(best=pd.Series([
        not (((table.accuracy > one.accuracy) & (table.low <= one.high))
             | ((table.accuracy == one.accuracy) & (table.high < one.low))).any()
        for one in table.itertuples()], index=table.index, dtype=bool))


def apart_from_shared(costs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Networks that cost more or less than full sharing beyond their ranges, the dearest first.

    Args:
        costs: one of :func:`costs_in_use`.

    Returns:
        their costs, and the names of all others.
    """
    shared = costs.loc[SHARED]
    others = costs[(costs.index == costs.network) & (costs.network != shared.network)]
    apart = (others.low > shared.high) | (others.high < shared.low)
    return others[apart].sort_values("value", ascending=False), list(others[~apart].index)


def in_use_sentences(costs: Mapping[str, pd.DataFrame]) -> str:
    """Which systems differ from full sharing in use beyond the ranges, and what these are.

    Args:
        costs: of :func:`costs_in_use`.
    """
    if not costs:
        return NOT_RUN_YET
    said = []
    for what, title, unit in (("time", "Time", "times"), ("megabytes", "Peak memory", "MB")):
        apart, others = apart_from_shared(costs[what])
        named = [f"{name} ({three_figures(one.value)} {unit}, {three_figures(one.low)} to "
                 f"{three_figures(one.high)})" for name, one in apart.iterrows()]
        shared = f" ({three_figures(costs[what].value[SHARED])} MB)" * (what == "megabytes")
        said.append(
            f"- **{title}** differs from full sharing's{shared}, beyond the ranges, for: "
            f"{'; '.join(named) or 'none'}. It cannot be told from full sharing's for: "
            f"{'; '.join(others) or 'none'}.")
    alike = costs["time"].groupby("network", sort=False).groups.values()
    same = "; ".join(" and ".join(f"*{row}*" for row in rows) for rows in alike if len(rows) > 1)
    error = (costs["megabytes"].high / costs["megabytes"].value).max()
    told = (f"two measurements of one network differ by up to {100 * (error - 1):.1f} %, and so "
            "much is taken for the error of each" if error > 1 else
            "how far a second measurement would lie is not known")
    return "\n".join([*said, "", "A time's range is over its repeats. Memory was measured once a "
                      f"row; {told}." + f" One network, and so one cost, have: {same}."
                      * bool(same)])
