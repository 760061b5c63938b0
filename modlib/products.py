"""Product retrieval, Table 6 of the paper: four systems, tasks of several categories each.

Source: Zhao et al., ECCV 2018, Table 6 and section 4.3.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from modlib.arrays import from_json
from modlib.datasets import AttributeImages
from modlib.face_categories import FACE_CATEGORIES
from modlib.intervals import difference, record_triplets
from modlib.results import paper_tables
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study, accuracies
from modlib.tables import mean_and_spread
from modlib.twenty_attributes import (
    OURS,
    PAPER_NAMES,
    extra_parameters,
    is_papers_recipe,
    with_own_batches,
)
from modlib.twenty_attributes import ROWS as TABLE_3
from modlib.verdicts import Verdict, row_verdict, summary_of
from modlib.zappos_files import TASKS

SYSTEMS = (OURS, "CSN", "independent", "fully shared")  # from the paper's best to its worst
STUDY = Study("products", {name: TABLE_3[name] for name in SYSTEMS},
              tuned=("learning_rate", "margin", "batch_size"), quick=len(SYSTEMS))
# What the paper says of the mean over tasks: the better one, then the worse one.
ORDER = ((OURS, "CSN"), (OURS, "independent"), (OURS, "fully shared"), ("CSN", "independent"),
         ("independent", "fully shared"))


def lay_out(
    parameters: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, list[Settings]], Places]:
    """The runs; on CelebA each system has the settings that were chosen for it there, by Adam.

    Nothing was tuned on shoes, nor for Adagrad. See :meth:`Study.lay_out`.
    """
    if is_papers_recipe(parameters):
        runs, places = STUDY.lay_out(parameters)
        return with_own_batches(runs), places
    return STUDY.lay_out(parameters, tuned if parameters.get("dataset") == "celeba" else None)


def paper_table() -> dict[str, Any]:
    """Table 6 as the paper prints it: ``{"rows": {system: {task: %}}, "printed_mean": …}``."""
    return paper_tables()["table_6"]


def paper_rows() -> dict[str, dict[str, float]]:
    """The paper's accuracies in % by our names of the systems, then by task."""
    printed = paper_table()["rows"]
    return {name: printed[PAPER_NAMES[name]] for name in SYSTEMS}


def category_name(task: str, category: int) -> str:
    """What a category is called; those of shoes have numbers alone."""
    if task not in FACE_CATEGORIES:
        return f"category {category}"
    return [*FACE_CATEGORIES[task], "none of these"][category].replace("_", " ")


def category_table(data: AttributeImages) -> pd.DataFrame:
    """Each task's categories among the train images, for people: how many, and how unequal."""
    lines = []
    for task, labels_K in zip(data.tasks, data.labels_NT[data.indices("train")].T, strict=True):
        known_K = labels_K[labels_K >= 0]
        shares = np.unique(known_K, return_counts=True)[1] / max(1, len(known_K))
        names = [category_name(task, n) for n in range(len(FACE_CATEGORIES.get(task, ())) + 1)]
        lines.append({
            "": task, "categories": len(shares),
            "the largest holds": f"{shares.max():.1%}" if len(shares) else "–",
            "the smallest holds": f"{shares.min():.1%}" if len(shares) else "–",
            "not known": f"{np.mean(labels_K < 0):.0%}",
            "which": ", ".join(names) if task in FACE_CATEGORIES else "of meta-data.csv"})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def task_table(rows: Rows) -> pd.DataFrame:
    """Accuracy of every task and their mean, and in brackets the paper's where it has the task."""
    measured, printed, lines = accuracies(rows), paper_rows(), []
    for name, records in rows.items():
        own = measured[measured.row == name]
        line = {"": name}
        for task in tasks_of(rows):
            line[task] = _beside(own[own.task == task].accuracy, printed[name].get(task))
        means = own.groupby("seed").accuracy.mean()
        of_paper = set(tasks_of(rows)) == set(TASKS)
        line["mean"] = _beside(means, np.mean(list(printed[name].values())) if of_paper else None)
        if of_paper:
            as_printed = paper_table()["printed_mean"][PAPER_NAMES[name]]
            line["paper's mean, as printed"] = f"{as_printed:.2f}"
        line["seeds"] = len(means)
        line["extra parameters"] = f"{extra_parameters(records[0]):,}" if records else ""
        lines.append(line)
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def tasks_of(rows: Rows) -> list[str]:
    """The tasks of the records; the paper's where there is none."""
    return list(dict.fromkeys(accuracies(rows).task)) or list(TASKS)


def _beside(values: pd.Series, paper: float | None) -> str:
    measured = mean_and_spread(values) if len(values) or paper is None else "–"
    return measured + ("" if paper is None else f" ({paper:.1f})")


def balanced_table(rows: Rows) -> pd.DataFrame:
    """Balanced accuracy, where each category of anchors counts alike, for people, in %.

    A task most of whose images are of one category asks about that one, mostly.
    """
    lines = []
    for name, records in rows.items():
        found = [balanced_accuracies(record) for record in records]
        lines.append({"": name} | {
            task: mean_and_spread([one[task] for one in found]) for task in tasks_of(rows)} | {
            "mean": mean_and_spread([float(np.mean(list(one.values()))) for one in found])})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def balanced_accuracies(record: Mapping[str, Any]) -> dict[str, float]:
    """Each task's balanced accuracy in %: the mean over the categories that its anchors are of."""
    kept, tasks = record["results"]["test_triplets"], record["settings"]["tasks"]
    correct_TK, labels_NT = from_json(kept["correct"]), from_json(kept["labels"])
    anchors_TK = record_triplets(record)[:, :, 0]
    found = {}
    for t, task in enumerate(tasks):
        of_anchors = labels_NT[anchors_TK[t], t]
        found[task] = 100 * float(np.mean(
            [correct_TK[t][of_anchors == category].mean() for category in np.unique(of_anchors)]))
    return found


def _given(rows: Rows) -> bool:
    """Whether the records' triplets came with the data, and cannot be drawn again."""
    return any(record["results"]["test_triplets"].get("given") for records in rows.values()
               for record in records if "test_triplets" in record["results"])


def verdicts(rows: Rows) -> list[Verdict]:
    """The order of the systems in Table 6, and the gain on heels.

    Judged over images and seeds where the triplets were drawn from labels; where they came with
    the data, seed by seed with Student's interval. On other tasks than the paper's there is no
    figure of the paper, and nothing is said of heels.
    """
    measured, printed = accuracies(rows), paper_rows()
    of_paper = set(tasks_of(rows)) == set(TASKS)

    def judged(better: str, worse: str, tasks: list[str], where: str) -> Verdict:
        differences = [printed[better][task] - printed[worse][task] for task in tasks
                       if of_paper]
        claim = f"{better} is better than {worse}{where}"
        paper = float(np.mean(differences)) if of_paper else None
        if not _given(rows):
            return Verdict(claim, *difference(rows[better], rows[worse], tasks), paper)
        return row_verdict(claim, measured[measured.task.isin(tasks)], better, worse, paper)

    claims = [judged(better, worse, tasks_of(rows), "") for better, worse in ORDER]
    return claims + ([judged(OURS, "CSN", ["heel"], ", on heels")] if of_paper else [])


def takeaway(shoes: Rows, faces: Rows) -> str:
    """What the records of shoes say, and those of faces in categories, as Markdown."""
    said = []
    for rows, about in ((shoes, "Table 6, on real shoes"),
                        (faces, "the order of Table 6, tried on real faces")):
        said.append(summary_of(verdicts(rows), about) if any(rows.values()) else
                    f"{about[0].upper()}{about[1:]}: not run yet, so no claim is judged.")
    return "\n\n".join(said)
