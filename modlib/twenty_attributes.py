"""Twenty attributes, Table 3 of the paper: its systems, what came after them, and their tables.

Source: Zhao et al., ECCV 2018, Table 3 and section 4.2.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from modlib.missing_records import not_run_yet
from modlib.results import paper_tables
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study, accuracies
from modlib.tables import mean_and_spread, with_sign
from modlib.toy_faces import TOY_FACE_ATTRIBUTES

STEP_COLUMNS = (
    "mean weight of a task", "largest weight in a step, of all, %", "cosine to the mean gradient",
    "tasks against whose gradient a step goes, %")
BUDGET = 128_000  # extra parameters: those of branches of 25 in the paper
TASKS = tuple(TOY_FACE_ATTRIBUTES[:20])  # the paper's, in its order
OURS = "modulated"
ONE_RATE = "modulated, one rate"  # scales learn as fast as the network
PAPER_NAMES = {  # our rows and the paper's
    OURS: "Ours", "independent": "ITN", "branches, 256": "IB-256", "mask only": "Only mask",
    "branches, 25": "IB-25", "CSN": "CSN", "fully shared": "FSN"}
ROWS = {
    OURS: {"system": "modulated"},
    "branches, 25": {"system": "branches", "branch_size": 25},
    "fully shared": {"system": "fully_shared"},
    "branches, 256": {"system": "branches"},
    "CSN": {"system": "csn"},
    "mask only": {"system": "mask_only"},
    "independent": {"system": "independent"},
    # What the field did after it, on the fully shared network.
    "fully shared, PCGrad": {"system": "fully_shared", "aggregation": "pcgrad"},
    "fully shared, MGDA": {"system": "fully_shared", "aggregation": "mgda"},
    "fully shared, UPGrad": {"system": "fully_shared", "aggregation": "upgrad"},
    # Beyond the paper: where the same budget of numbers may buy more.
    ONE_RATE: {"system": "modulated", "scale_rate_factor": 1.0},
    "signed scales": {"system": "modulated", "signed_scales": True},
    "scales from block 3": {"system": "modulated", "modulate_from": 3},
    "scales from block 2": {"system": "modulated", "modulate_from": 2},
    "scales and branches of 16": {"system": "modulated_branches", "branch_size": 16},
    "scales and low rank 4": {"system": "low_rank", "rank": 4},
    "projection": {"system": "projection"},
}
# Scales and masks have ten times the network's rate: at the same rate they hardly move.
STUDY = Study("twenty_attributes", {
    name: {"scale_rate_factor": 10.0} | changes for name, changes in ROWS.items()
}, tuned=("learning_rate", "margin"))
# The paper's systems by its own recipe, which settings files hold: nothing is tuned for a row.
# In its batching each image serves one task: a network of its own would see 9 of 180 images a step.
PAPER_RECIPE = Study("paper_recipe", {name: ROWS[name] for name in PAPER_NAMES},
                     tuned=("batch_size",))
OWN_BATCH = 60  # images a step of each independent network there, as in Table 3's runs


def is_papers_recipe(parameters: Mapping[str, Any]) -> bool:
    """Whether a notebook's parameters ask for the paper's recipe: its optimiser is Adagrad.

    What was chosen for Adam says nothing of it.
    """
    return parameters.get("optimiser") == "adagrad"


def with_own_batches(runs: Mapping[str, list[Settings]]) -> dict[str, list[Settings]]:
    """The runs of the paper's recipe, in which independent networks have a batch each.

    Where each image serves one task (``triplets`` batching) the batch of all of them together is
    60 images times the tasks; ``shared`` batching shows every image to each anyway.
    """
    return {name: [replace(one, batch_size=OWN_BATCH * len(one.tasks))
                   if (one.system, one.batching) == ("independent", "triplets") else one
                   for one in of_row] for name, of_row in runs.items()}


def lay_out(
    parameters: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]
) -> tuple[Study, dict[str, list[Settings]], Places]:
    """The study and its runs: by the paper's recipe where the parameters ask for it.

    See :meth:`Study.lay_out`.
    """
    if not is_papers_recipe(parameters):
        return STUDY, *STUDY.lay_out(parameters, tuned)
    runs, places = PAPER_RECIPE.lay_out(parameters)
    return PAPER_RECIPE, with_own_batches(runs), places


def paper_table() -> dict[str, Any]:
    """Table 3 as the paper prints it: ``{"rows": {system: {task: %}}, "printed_mean": …}``."""
    return paper_tables()["table_3"]


def extra_parameters(record: dict[str, Any]) -> int:
    """What a system has beyond one fully shared network, counted on its own network."""
    counts, tasks = record["results"]["parameters"], len(record["settings"]["tasks"])
    if record["settings"]["system"] == "independent":
        return counts["total"] // tasks * (tasks - 1)
    return counts["task"]


def mean_table(rows: Rows) -> pd.DataFrame:
    """Mean accuracy of every row beside the paper's: as printed, and the mean of its own rows."""
    measured, paper, lines = accuracies(rows), paper_table(), []
    for name, records in rows.items():
        means = measured[measured.row == name].groupby("seed").accuracy.mean()
        theirs = PAPER_NAMES.get(name)
        printed = theirs and paper["printed_mean"][theirs]
        own_rows = theirs and np.mean(list(paper["rows"][theirs].values()))
        lines.append({
            "": name, "measured, %": mean_and_spread(means),
            "seeds": len(means),
            "extra parameters": f"{extra_parameters(records[0]):,}" if records else "",
            "paper, mean of its rows": f"{own_rows:.2f}" if theirs else "–",
            "paper, as printed": f"{printed:.2f}" if theirs else "–",
            "paper, extra": paper["added_parameters"][theirs] if theirs else "–"})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def attribute_table(
    rows: Rows, names: Mapping[str, str] = PAPER_NAMES,
    paper: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Every attribute and system: the mean over seeds, and the paper's figure in brackets.

    A row that was not run yet says so in its heading, and has dashes.

    Args:
        names: our rows and the paper's systems.
        paper: by the paper's system, % of each attribute; None: Table 3's.
    """
    measured, paper = accuracies(rows), paper or paper_table()["rows"]
    means = measured.groupby(["task", "row"]).accuracy.mean()
    tasks = list(dict.fromkeys(measured.task)) or list(TASKS)
    columns = {}
    for name in (name for name in names if name in rows):
        printed = paper[names[name]]
        columns[name if rows[name] else f"{name}: not run yet"] = [
            (f"{means[task, name]:.1f}" if (task, name) in means.index else "–")
            + (f" ({printed[task]:.1f})" if task in printed else "") for task in tasks]
    return pd.DataFrame(columns, index=[task.replace("_", " ") for task in tasks])


def frontier(
    rows: Rows, cost: str = "extra", costs: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Mean accuracy in % against what it costs, a line a row.

    Args:
        cost: name of the column of costs.
        costs: what each row costs, rows without one are left out; None: its extra parameters.

    Returns:
        columns row, ``cost``, accuracy, and ``best``: no row that costs as little is better.
    """
    means = accuracies(rows).groupby("row").accuracy.mean()
    if costs is None:
        costs = {name: extra_parameters(records[0]) for name, records in rows.items() if records}
    table = pd.DataFrame(
        [{"row": name, cost: costs[name], "accuracy": means[name]}
         for name, records in rows.items() if records and name in costs],
        columns=["row", cost, "accuracy"])
    table["best"] = pd.Series([
        not ((table[cost] <= one[cost]) & (table.accuracy > one.accuracy)).any()
        for _, one in table.iterrows()], dtype=bool)
    return table.sort_values([cost, "accuracy"], ignore_index=True)


def headline_sentence(rows: Rows) -> str:
    """One sentence, as Markdown: mean accuracy of full sharing, branches and modulation."""
    if not (rows[OURS] and rows["fully shared"]):
        return not_run_yet("celeba_cpu_20", STUDY.folder, "03")
    means = accuracies(rows).groupby("row").accuracy.mean()
    tasks, ours = len(rows[OURS][0]["settings"]["tasks"]), extra_parameters(rows[OURS][0])
    branches = "".join(
        f"; with a branch of {outputs} outputs for each "
        f"({extra_parameters(rows[row][0]):,}) **{means[row]:.1f} %**"
        for row, outputs in (("branches, 25", 25), ("branches, 256", 256)) if rows[row])
    return (f"And over {tasks} attributes: one network for all of them "
            f"**{means['fully shared']:.1f} %**; with {ours // tasks} scales for each ({ours:,} "
            f"numbers in all) **{means[OURS]:.1f} %**{branches}.")


def step_table(rows: Rows) -> pd.DataFrame:
    """What the conflict-aware optimisers make of the tasks' gradients, for people.

    Means over training and seeds (:class:`modlib.aggregation.StepLog`); rows without records, or
    that step by the mean, are left out.
    """
    lines = []
    for name, records in rows.items():
        epochs = [epoch for record in records for epoch in record["epochs"]
                  if "task_weights" in epoch]
        if epochs:
            weights_T = np.mean([list(epoch["task_weights"].values()) for epoch in epochs], axis=0)
            largest, cosine, uphill = (np.mean([epoch[key] for epoch in epochs]) for key in (
                "largest_weight", "cosine_to_mean", "tasks_uphill"))
            lines.append({"": name} | dict(zip(STEP_COLUMNS, (
                f"{weights_T.min():.3f} to {weights_T.max():.3f} "
                f"(equal: {1 / len(weights_T):.3f})",
                f"{100 * largest:.0f}", with_sign(cosine), f"{100 * uphill:.0f}"), strict=True)))
    return pd.DataFrame(lines, columns=["", *STEP_COLUMNS]).set_index("").rename_axis(None)
