"""Table 1 for people: tables, sentences and the headline figure, drawn from records.

Source: Zhao et al., ECCV 2018, Table 1 and sections 3.1 to 3.3.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from modlib import tables
from modlib.figures import accuracy_bars
from modlib.gradients import Ratio
from modlib.missing_records import not_run_yet
from modlib.results import pair_ucr
from modlib.studies import accuracies
from modlib.tables import mean_and_spread, percent, points
from modlib.three_attributes import (
    FOLDER,
    RELATED,
    ROWS,
    SHORT_NAMES,
    TASKS,
    UNRELATED,
    paper_table,
)
from modlib.verdicts import seed_verdict

HEADLINE_ROWS = ("a", "d", "e")
FIGURE_LABELS = {
    "a": "all three\nshared", "b": "smile +\nyoung", "c": "smile +\nmouth open",
    "d": "three\nindependent", "e": "modulated", "f": "with\nregulariser",
}


def accuracy_table(
    rows: dict[str, list[dict[str, Any]]], beside_paper: bool = True
) -> pd.DataFrame:
    """Table 1's accuracies for people: mean ± deviation over seeds, the paper's beside them."""
    measured, paper = accuracies(rows), paper_table()
    lines = []
    for name, row in ROWS.items():
        line = {"": f"({name}) {row.label}"}
        for task in TASKS:
            values = measured.query("row == @name and task == @task").accuracy
            line[SHORT_NAMES[task]] = mean_and_spread(values) if task in row.tasks else "–"
            if beside_paper:
                printed = paper[name]["accuracy"].get(task)
                line[f"{SHORT_NAMES[task]}, paper"] = "–" if printed is None else f"{printed:.2f}"
        records = rows[name]
        line["parameters"] = f"{records[0]['results']['parameters']['total']:,}" if records else ""
        lines.append(line)
    return pd.DataFrame(lines).set_index("").rename_axis(None)


UCR_CELLS = (("b", UNRELATED), ("c", RELATED), ("a", UNRELATED), ("a", RELATED),
             ("e", UNRELATED), ("e", RELATED), ("f", UNRELATED), ("f", RELATED))


def ucr_table(
    rows: dict[str, list[dict[str, Any]]], beside_paper: bool = True
) -> pd.DataFrame:
    """UCR of both pairs, with and without batches of inner product 0, and the paper's."""
    paper, lines = paper_table(), []
    for name, pair in UCR_CELLS:
        all_batches = pair_ucr(rows[name], pair)
        nonzero = pair_ucr(rows[name], pair, with_zeros=False)
        printed = paper[name]["ucr"].get("/".join(pair))
        lines.append({
            "row": f"({name})",
            "pair": " / ".join(SHORT_NAMES[task] for task in pair),
            "UCR %": percent(all_batches),
            "UCR %, zeros left out": percent(nonzero, "–"),
            "batches": all_batches.count,
            "zeros": all_batches.count - nonzero.count,
        } | ({"paper": "–" if printed is None else f"{printed:.2f}"} if beside_paper else {}))
    return pd.DataFrame(lines).set_index("row").rename_axis(None)


def ucr_cells(
    rows: dict[str, list[dict[str, Any]]], beside_paper: bool = True
) -> list[tuple[str, Ratio, float | None]]:
    """(label, measured UCR, the paper's % or None) for the UCR figure."""
    paper = paper_table() if beside_paper else None
    return [
        (f"({name}) {' / '.join(SHORT_NAMES[task] for task in pair)}", pair_ucr(rows[name], pair),
         paper[name]["ucr"].get("/".join(pair)) if paper else None)
        for name, pair in UCR_CELLS
    ]


def row_labels() -> dict[str, str]:
    """Labels of the rows for a figure, in two lines."""
    return {name: f"({name}) " + FIGURE_LABELS[name] for name in ROWS}


def how_it_ran(rows: dict[str, list[dict[str, Any]]], profile: str) -> str:
    """What made these records, as Markdown; the box of :func:`not_run_yet` when there are none."""
    records = [record for row in rows.values() for record in row]
    weights = [record["settings"]["regulariser_weight"] for record in records]
    regulariser = (f"; regulariser λ = {max(weights)}, β = "
                   f"{records[0]['settings']['regulariser_beta']:g}" if records else "")
    return tables.how_it_ran(rows, profile, FOLDER, "02", regulariser)


def headline_sentence(rows: dict[str, list[dict[str, Any]]]) -> str:
    """What was asked and what came out, as Markdown: the shared, independent and modulated rows."""
    if not all(rows[name] for name in HEADLINE_ROWS):
        return not_run_yet("celeba_cpu", FOLDER, "02")
    means = accuracies(rows).groupby("row").accuracy.mean()
    records = rows["e"]
    parameters, images = records[0]["results"]["parameters"], records[0]["data"]["images"]
    each = parameters["task"] // len(TASKS)
    return (
        "Given a face, one that is like it in an attribute and one that is not: how often is the "
        f"like one nearer? Trained on {images['train']:,} real photographs and tested on "
        f"{images['test']:,} others, mean over three attributes and {len(records)} seeds: one "
        f"network for all of them **{means['a']:.1f} %**, a network each **{means['d']:.1f} %**, "
        f"one network with {each} scales per attribute (numbers by which it multiplies the "
        f"channels), {100 * parameters['task'] / parameters['shared']:.1f} % more parameters, "
        f"**{means['e']:.1f} %**. Guessing gives 50 %."
    )


def draw_headline(ax: Axes, rows: dict[str, list[dict[str, Any]]]) -> Axes:
    """The book's first figure: shared, independent and modulated beside the paper's figures."""
    labels = {name: label for name, label in row_labels().items() if name in HEADLINE_ROWS}
    chosen = {name: rows[name] for name in labels}
    paper = {name: row["accuracy"] for name, row in paper_table().items()}
    return accuracy_bars(ax, accuracies(chosen), labels, SHORT_NAMES, paper)


def scale_table(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """What became of the scales in rows e and f: how many died, and how far tasks are apart."""
    lines = []
    for name in ("e", "f"):
        for record in rows[name]:
            results = record["results"]
            line = {"row": f"({name})", "seed": record["settings"]["seed"],
                    "dead scales": f"{results['dead_scales']} of {results['parameters']['task']}"}
            for pair in results["w_distance"]:
                label = " / ".join(SHORT_NAMES[task] for task in pair["tasks"])
                mean, variance = pair["mean"], pair["variance"]
                line[f"|Wᵢ − Wⱼ|, {label}"] = f"{mean:.2f} (variance {variance:.2f})"
            lines.append(line)
    return pd.DataFrame(lines).set_index("row").rename_axis(None) if lines else pd.DataFrame()


def regulariser_table(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """What the regulariser does to the distances of scales: row f minus row e, over the seeds."""
    lines = []
    for pair in (RELATED, UNRELATED):
        by_seed = [{one["settings"]["seed"]: kept_distance(one, pair) for one in rows[name]}
                   for name in ("f", "e")]
        found = seed_verdict("", *by_seed, None)
        lines.append({"": f"|Wᵢ − Wⱼ|, {' / '.join(SHORT_NAMES[task] for task in pair)}",
                      "with the regulariser − without":
                      points(found.difference, found.low, found.high)})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def kept_distance(record: dict[str, Any], pair: tuple[str, str]) -> float:
    """Mean ``|W_i − W_j|`` of one pair of three attributes, as the record holds it."""
    return next(one["mean"] for one in record["results"]["w_distance"]
                if set(one["tasks"]) == set(pair))
