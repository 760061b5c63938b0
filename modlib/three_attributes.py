"""The three-attribute study, Table 1 of the paper: its rows, its tables and its verdicts.

Source: Zhao et al., ECCV 2018, Table 1 and section 4.2.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from modlib.errors import ModlibError
from modlib.figures import accuracy_bars
from modlib.gradients import Ratio
from modlib.results import pair_ucr, read_records, resolve
from modlib.settings import Checked, Places, Settings, split_parameters

FOLDER = "three_attributes"  # below the folder of results
SMILE, OPEN_MOUTH, YOUNG = TASKS = ("Smiling", "Mouth_Slightly_Open", "Young")
RELATED, UNRELATED = (SMILE, OPEN_MOUTH), (SMILE, YOUNG)
SHORT_NAMES = {SMILE: "smile", OPEN_MOUTH: "mouth open", YOUNG: "young"}


@dataclass(frozen=True)
class Row:
    """One row of Table 1: what is trained."""

    label: str
    system: str
    tasks: tuple[str, ...]
    regularised: bool = False


ROWS = {
    "a": Row("all three shared", "fully_shared", TASKS),
    "b": Row("smile + young shared", "fully_shared", UNRELATED),
    "c": Row("smile + mouth open shared", "fully_shared", RELATED),
    "d": Row("three independent", "independent", TASKS),
    "e": Row("modulated", "modulated", TASKS),
    "f": Row("modulated + regulariser", "modulated", TASKS, regularised=True),
}


HEADLINE_ROWS = ("a", "d", "e")


@dataclass(frozen=True)
class Study(Checked):
    """What the three-attribute notebook decides beside the settings that its runs share."""

    regulariser_weight: float = 0.001  # λ of Eq. 8, in row f alone
    seeds: tuple[int, ...] = (0,)  # one run per row and seed


def study(parameters: Mapping[str, Any]) -> tuple[dict[str, list[Settings]], Places]:
    """Check a notebook's parameters and lay out the runs of Table 1.

    Raises:
        ModlibError: an unknown parameter, a wrong value, or one that the rows decide.
    """
    for name in ("system", "tasks", "seed"):
        if name in parameters:
            raise ModlibError(f"{name} is not a parameter of this study: its rows decide the "
                              "systems and tasks, and seeds (a list) the seeds")
    own, places, shared = split_parameters(parameters, Study, Places, Settings)
    shared.pop("regulariser_weight", None)
    own = Study(**own)
    if not own.seeds or len(set(own.seeds)) != len(own.seeds) or min(own.seeds) < 0:
        raise ModlibError(f"seeds must be one or more distinct numbers from 0; given {own.seeds}")
    places = Places(**places)
    places = replace(places, results_dir=f"{places.results_dir}/{FOLDER}")
    return row_settings(Settings(**shared), own.regulariser_weight, own.seeds), places


def row_settings(
    base: Settings, regulariser_weight: float, seeds: Iterable[int]
) -> dict[str, list[Settings]]:
    """The runs of Table 1, by row: one per seed.

    Args:
        base: everything that the rows have in common.
        regulariser_weight: λ of Eq. 8 in row f; the other rows have none.
        seeds: one run per row and seed.
    """
    return {
        name: [
            replace(base, seed=seed, system=row.system, tasks=row.tasks,
                    regulariser_weight=regulariser_weight if row.regularised else 0.0)
            for seed in seeds
        ]
        for name, row in ROWS.items()
    }


def row_of(record: dict[str, Any]) -> str | None:
    """The row of Table 1 that a record belongs to, or None."""
    settings = record["settings"]
    for name, row in ROWS.items():
        if (settings["system"], tuple(settings["tasks"])) == (row.system, row.tasks) and (
            settings["regulariser_weight"] > 0) == row.regularised:
            return name
    return None


def by_row(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records sorted into the rows a to f by their settings, each row ordered by seed."""
    rows: dict[str, list] = {name: [] for name in ROWS}
    for record in sorted(records, key=lambda record: record["settings"]["seed"]):
        if name := row_of(record):
            rows[name].append(record)
    return rows


def published(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The committed records of a profile, by row; rows without records are empty lists."""
    return by_row(read_records(f"book/results/{FOLDER}", profile=profile))


def paper_table() -> dict[str, dict[str, Any]]:
    """Table 1 as the paper prints it: ``{row: {"accuracy": {task: %}, "ucr": {pair: %}}}``."""
    return json.loads(resolve("book/paper_tables.json").read_text())["table_1"]["rows"]


def accuracies(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """One line per row, seed and task: test accuracy in %."""
    lines = [
        {"row": name, "seed": record["settings"]["seed"], "task": task, "accuracy": 100 * value}
        for name, records in rows.items() for record in records
        for task, value in record["results"]["test_accuracy"].items()
    ]
    return pd.DataFrame(lines, columns=["row", "seed", "task", "accuracy"])


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
        line["seeds"] = len(records)
        line["parameters"] = f"{records[0]['results']['parameters']['total']:,}" if records else ""
        lines.append(line)
    return pd.DataFrame(lines).set_index("")


def mean_and_spread(values: Sequence[float]) -> str:
    """``mean ± sample deviation`` with one decimal; ``not run yet`` for no value."""
    if len(values) == 0:
        return "not run yet"
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


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
            "row": f"({name}) {ROWS[name].label}",
            "pair": " / ".join(SHORT_NAMES[task] for task in pair),
            "UCR %": percent(all_batches),
            "UCR %, zeros left out": percent(nonzero),
            "batches": all_batches.count,
            "zeros": all_batches.count - nonzero.count,
        } | ({"paper": "–" if printed is None else f"{printed:.2f}"} if beside_paper else {}))
    return pd.DataFrame(lines).set_index("row")


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


def percent(ratio: Ratio) -> str:
    """``value [low, high]`` in %, or ``not run yet``."""
    if ratio.count == 0:
        return "not run yet"
    return f"{100 * ratio.value:.1f} [{100 * ratio.low:.1f}, {100 * ratio.high:.1f}]"


def row_labels() -> dict[str, str]:
    """Labels of the rows for a figure, in two lines."""
    return {name: f"({name}) " + row.label.replace(" shared", "\nshared").replace(
        "three ", "three\n").replace(" + reg", "\n+ reg") for name, row in ROWS.items()}


def how_it_ran(rows: dict[str, list[dict[str, Any]]], profile: str) -> str:
    """What made these records, as Markdown; the box of :func:`not_run_yet` when there are none."""
    records = [record for row in rows.values() for record in row]
    if not records:
        return not_run_yet(profile)
    settings, run = records[0]["settings"], records[0]["run"]
    minutes = [record["run"]["training_seconds"] / 60 for record in records]
    return (
        f"{len(records)} runs, {min(minutes):.1f} to {max(minutes):.1f} minutes each, on "
        f"{run['device']}. {records[0]['data']['source']}. Width {settings['width']}, batches of "
        f"{settings['batch_size']} images, {settings['epochs']} epochs, {settings['optimiser']} at "
        f"{settings['learning_rate']} (scales at {settings['scale_rate_factor']:g} times that), "
        f"{settings['precision']}; regulariser λ = "
        f"{max(r['settings']['regulariser_weight'] for r in records)}, β = "
        f"{settings['regulariser_beta']:g}. torch {run['versions']['torch']}, commit "
        f"`{run['git_commit'][:10]}`."
    )


def headline_sentence(rows: dict[str, list[dict[str, Any]]]) -> str:
    """One sentence, as Markdown: mean accuracy of the shared, independent and modulated rows."""
    if not all(rows[name] for name in HEADLINE_ROWS):
        return not_run_yet("celeba_cpu")
    means = accuracies(rows).groupby("row").accuracy.mean()
    records = rows["e"]
    parameters = records[0]["results"]["parameters"]
    each = parameters["task"] // len(TASKS)
    return (
        f"On {sum(records[0]['data']['images'].values()):,} real photographs, mean accuracy over "
        f"three attributes and {len(records)} seeds: one network for all of them "
        f"**{means['a']:.1f} %**, a network each **{means['d']:.1f} %**, one network with "
        f"{each} scales per attribute, {100 * parameters['task'] / parameters['shared']:.1f} % "
        f"more parameters, **{means['e']:.1f} %**. Guessing gives 50 %."
    )


def draw_headline(ax: Axes, rows: dict[str, list[dict[str, Any]]]) -> Axes:
    """The book's first figure: shared, independent and modulated beside the paper's figures."""
    labels = {name: label for name, label in row_labels().items() if name in HEADLINE_ROWS}
    chosen = {name: rows[name] for name in labels}
    paper = {name: row["accuracy"] for name, row in paper_table().items()}
    return accuracy_bars(ax, accuracies(chosen), labels, SHORT_NAMES, paper)


def not_run_yet(profile: str) -> str:
    """The Markdown box for a profile without records: what is missing and how to make it."""
    return (
        f":::{{admonition}} Not run yet: `{profile}`\n"
        f"No record of this profile is in `book/results/{FOLDER}`. To make them:\n\n"
        f"    make run NB=02 SETTINGS={profile} DATA=/path/to/celeba\n"
        ":::"
    )
