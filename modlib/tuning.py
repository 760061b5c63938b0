"""Equal tuning: for every system the same few settings, briefly trained, judged on validation."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from modlib.comparison_figures import COLOURS
from modlib.figures import MARKERS
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study, valid_accuracy
from modlib.twenty_attributes import ONE_RATE
from modlib.twenty_attributes import STUDY as TABLE_3

RATES, MARGINS = (1e-3, 2e-3, 4e-3, 8e-3), (0.2, 0.4)
CANDIDATES = {f"rate {rate:g}, margin {margin:g}": {"learning_rate": rate, "margin": margin}
              for margin, rate in product(MARGINS, RATES)}
ALONE = "independent"
SYSTEMS = ("modulated", ONE_RATE, "branches, 25", "branches, 256", "CSN", "fully shared", ALONE)
STRIDE = 5  # a network of its own is tried for every fifth task: each is a training of its own
# A mask only starts from branches; all else is modulation.
LIKE = {"mask only": "branches, 256"} | {
    name: "fully shared" for name in TABLE_3.rows if name.startswith("fully shared")}
STUDY = Study("tuning", {
    f"{system}; {label}": TABLE_3.changes(system) | values | {"final_test": False}
    for system in SYSTEMS for label, values in CANDIDATES.items()},
    tuned=("tasks",), quick=len(RATES))


def lay_out(parameters: Mapping[str, Any]) -> tuple[dict[str, list[Settings]], Places]:
    """Every candidate of every system; see :meth:`Study.lay_out`.

    Independent networks are trained for every fifth task alone, each with the candidate. With
    fewer tasks more of a batch is drawn for each, so it is not quite the training among all.
    """
    tasks = list(parameters.get("tasks", Settings.tasks))[::STRIDE]
    return STUDY.lay_out(parameters, {
        row: {"tasks": tasks} for row in STUDY.rows if row.startswith(f"{ALONE}; ")})


def scores(rows: Rows) -> pd.DataFrame:
    """Mean validation accuracy in %, systems by candidates of these rows; nan where not run.

    The mean is over a system's own tasks: of :data:`ALONE`, over fewer.
    """
    systems, labels = (list(dict.fromkeys(name.split("; ")[part] for name in rows))
                       for part in (0, 1))
    table = pd.DataFrame(np.nan, index=systems, columns=labels)
    for name, records in rows.items():
        if records:
            system, label = name.split("; ")
            table.loc[system, label] = np.mean([valid_accuracy(record) for record in records])
    return table


def shown_names(rows: Rows) -> dict[str, str]:
    """Each system's name for people: with the number of its tasks where others have more."""
    tasks = {name.split("; ")[0]: len(records[0]["settings"]["tasks"])
             for name, records in rows.items() if records}
    return {system: f"{system} ({count} attributes)" for system, count in tasks.items()
            if count < max(tasks.values())}


def chosen(rows: Rows) -> dict[str, dict[str, Any]]:
    """The best candidate for each row of Table 3 whose system was tuned in full; else nothing.

    Scales at one rate take modulation's until they were tuned themselves.
    """
    best = {system: CANDIDATES[line.idxmax()] for system, line in scores(rows).iterrows()
            if not line.isna().any()}
    own = best.keys() | (set(SYSTEMS) - {ONE_RATE})
    return {name: best[like] for name in TABLE_3.rows
            if (like := name if name in own else LIKE.get(name, "modulated")) in best}


def edge_sentence(rows: Rows) -> str:
    """Which systems are best at an edge of the grid, where a wider one might hold a better one."""
    table = scores(rows).dropna()
    if table.empty:
        return "Not run yet."
    said = []
    for name, edges in (("learning rate", (RATES[0], RATES[-1])), ("margin", MARGINS[-1:])):
        best = {system: CANDIDATES[line.idxmax()][name.replace(" ", "_")]
                for system, line in table.iterrows()}
        named = ", ".join(f"{system} ({value:g})" for system, value in best.items()
                          if value in edges)
        said.append(f"By {name}: {named or 'none'}.")
    return (f"Systems that are best at an edge. {' '.join(said)} The smaller margin is the "
            "paper's own, so it counts as no edge.")


def takeaway(rows: Rows) -> str:
    """What a fair choice is worth to each system that was tuned in full, as Markdown."""
    table = scores(rows).dropna()
    if table.empty:
        return "Not run yet on real faces."
    worth = (table.max(axis=1) - table.min(axis=1)).sort_values(ascending=False)
    said = ", ".join(f"{system} **{value:.1f}**" for system, value in worth.items())
    return ("- So much hangs on settings alone: from a system's worst candidate to its best, in "
            f"points of mean validation accuracy, {said}.")


def tuning_table(rows: Rows) -> Any:
    """:func:`scores` for people, the best of each system in bold."""
    shown = scores(rows).rename(index=shown_names(rows))
    return shown.style.format("{:.1f}", na_rep="not run yet").highlight_max(
        axis=1, props="font-weight: bold").set_table_attributes('class="dataframe"')


def draw_scores(ax: Axes, rows: Rows) -> Axes:
    """A line a system over the candidates, its best one ringed."""
    table = scores(rows).rename(shown_names(rows))
    for number, (system, line) in enumerate(table.iterrows()):
        if line.isna().all():
            continue
        colour = COLOURS[number % len(COLOURS)]
        for start in range(0, len(line), len(RATES)):  # a line a margin: rates are in an order
            ax.plot(range(start, min(start + len(RATES), len(line))),
                    line[start:start + len(RATES)], color=colour,
                    marker=MARKERS[number % len(MARKERS)], label=None if start else system)
        ax.plot(line.argmax(), line.max(), "o", markersize=14, markerfacecolor="none",
                markeredgecolor=colour, markeredgewidth=2)
    ax.set_xticks(range(table.shape[1]), [
        f"{one['learning_rate']:g}\n{one['margin']:g}" for one in map(CANDIDATES.get, table)])
    ax.set_xlabel("learning rate; below it, the margin")
    ax.set_ylabel("mean validation accuracy, %")
    if ax.lines:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return ax
