"""The study of another network and loss: three classifiers on ResNet-18, and their records.

Source: Zhao et al., ECCV 2018, section 5.1.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from modlib.classifiers import ClassifierSettings, build_classifier
from modlib.errors import ModlibError
from modlib.gradients import Ratio
from modlib.missing_records import some_not_run_yet
from modlib.parameters import split_parameters
from modlib.record_tables import check_table, read_rows
from modlib.results import pair_ucr
from modlib.settings import Places, Settings
from modlib.studies import Seeds, accuracies
from modlib.tables import (
    NOT_COMPLETE,
    mean_and_spread,
    runs_in_words,
    versions_in_words,
    with_sign,
)
from modlib.three_attributes import SHORT_NAMES
from modlib.verdicts import newcombe, student

FOLDER = "any_network"  # below the folder of results
LABELS = {"fully_shared": "fully shared", "branches": "a branch each", "modulated": "modulated"}
NAMES = SHORT_NAMES | {"Wavy_Hair": "wavy hair"}
FREE = {"system", "seed"}
NOT_USED = {  # in settings files, for triplets
    "width", "bn_decay", "batching", "test_triplets", "hinge_mean", "shift", "zoom",
    "colour_jitter", "crop", "batch_images", "initialisation", "final_probes"}


def study(parameters: Mapping[str, Any]) -> tuple[dict[str, list[ClassifierSettings]], Places]:
    """Check the notebook's parameters and lay out its runs: a list of seeds for each system.

    What the settings files say to the triplet networks alone (``NOT_USED``) is checked and not
    used.

    Raises:
        ModlibError: an unknown parameter, a wrong value, or one that the study decides.
    """
    for name in ("system", "seed"):
        if name in parameters:
            raise ModlibError(f"{name} is not a parameter of this study: it trains every system, "
                              "and seeds (a list) are the seeds")
    own, places, shared = split_parameters(
        {name: value for name, value in parameters.items() if name not in NOT_USED},
        Seeds, Places, ClassifierSettings)
    Settings(**{name: value for name, value in parameters.items()
                if name in NOT_USED or name == "dataset"})
    own = Seeds(**own)
    places = Places(**places)
    base = ClassifierSettings(**shared)
    runs = {system: [replace(base, system=system, seed=seed) for seed in own.seeds]
            for system in LABELS}
    build_classifier(runs["modulated"][0])  # a wrong modulate_after is told before any training
    return runs, replace(places, results_dir=f"{places.results_dir}/{FOLDER}")


def by_system(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records sorted by their system, each list ordered by seed."""
    ordered = sorted(records, key=lambda record: record["settings"]["seed"])
    return {system: [record for record in ordered if record["settings"]["system"] == system]
            for system in LABELS}


def published(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The committed records of a profile, by system; systems without records are empty lists.

    Raises:
        ModlibError: records that must not stand in one table; see :func:`check_table`; or a record
            of no system of the table lies in the folder.
    """
    folder = f"book/results/{FOLDER}"
    rows = read_rows(folder, ClassifierSettings, profile, by_system)
    check_table(rows, ClassifierSettings, FREE, folder)
    return rows


def score_table(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """AUC by task, the means of AUC and accuracy, and each task's own parameters, for people."""
    auc, accuracy = accuracies(rows, "auc"), accuracies(rows)
    lines = []
    for system, label in LABELS.items():
        line = {"": label}
        for task, name in task_names(rows).items():
            values = auc[(auc.row == system) & (auc.task == task)].accuracy
            line[name] = mean_and_spread(values)
        for name, table in (("mean AUC", auc), ("mean accuracy", accuracy)):
            line[name] = mean_and_spread(
                table.query("row == @system").groupby("seed").accuracy.mean())
        line["task parameters"] = (
            f"{rows[system][0]['results']['parameters']['task']:,}" if rows[system] else "")
        lines.append(line)
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def differences(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Mean AUC of each pair of systems, seed by seed: the difference in points with its interval.

    The interval is Student's over seeds: it speaks of the randomness of training.
    """
    means = accuracies(rows, "auc").groupby(["row", "seed"]).accuracy.mean().unstack("row")
    lines = []
    for worse, better in combinations(LABELS, 2):
        both = means[[better, worse]].dropna() if {better, worse} <= set(means) else []
        line = {"difference": f"{LABELS[better]} − {LABELS[worse]}", "points": np.nan,
                "low": -np.inf, "high": np.inf, "seeds": len(both)}
        if len(both):
            line["points"] = float((both[better] - both[worse]).mean())
        if len(both) > 1:
            mean, half = student((both[better] - both[worse]).to_numpy())
            line |= {"low": mean - half, "high": mean + half}
        lines.append(line)
    return pd.DataFrame(lines).set_index("difference").rename_axis(None)


def difference_table(rows: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """The differences for people, with what they decide."""
    lines = []
    for label, line in differences(rows).iterrows():
        decided = "higher" if line.low > 0 else "lower" if line.high < 0 else "not decided"
        missing = np.isnan(line.points)
        lines.append({
            "mean AUC": label,
            "points": "–" if missing else with_sign(line.points),
            "95 % interval": (f"[{with_sign(line.low)}, {with_sign(line.high)}]" if line.seeds > 1
                              else "–"),
            "the first is": "not run yet" if missing else decided})
    return pd.DataFrame(lines).set_index("mean AUC").rename_axis(None)


def task_names(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The tasks of the records with their short names, for figures."""
    return {task: NAMES.get(task, task.replace("_", " ").lower())
            for task in dict.fromkeys(accuracies(rows, "auc").task)}


def ucr_cells(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, Ratio, None]]:
    """(label, UCR, None) of every pair of tasks, fully shared beside modulated, for the figure."""
    names = task_names(rows)
    return [
        (f"{names[one]} / {names[other]}, {LABELS[system]}",
         pair_ucr(rows[system], (one, other)), None)
        for one, other in combinations(names, 2) for system in ("fully_shared", "modulated")
    ]


def ucr_sentence(rows: dict[str, list[dict[str, Any]]]) -> str:
    """In how many pairs of tasks modulation raises the UCR, and lowers it, as Markdown."""
    shared, ours = ([ratio for label, ratio, _ in ucr_cells(rows) if label.endswith(LABELS[name])]
                    for name in ("fully_shared", "modulated"))
    both = [(one, other) for one, other in zip(ours, shared, strict=True)
            if one.count and other.count]
    if not both:
        return "Not run yet."
    raised = sum(one.value > other.value for one, other in both)
    sure = sum(low > 0 or high < 0 for low, high in (newcombe(*pair) for pair in both))
    return (f"Modulation raises it in **{raised} of {len(both)}** pairs of attributes. The "
            f"difference, up or down, is larger than chance over batches allows in {sure} of them.")


def how_it_ran(rows: dict[str, list[dict[str, Any]]]) -> str:
    """What made these records, as Markdown; there must be one."""
    records = [record for row in rows.values() for record in row]
    settings, images = records[0]["settings"], records[0]["data"]
    return (
        f"{runs_in_words(records)}. "
        f"{images['source']}: {images['images']['train']:,} to train on, "
        f"{images['images']['test']:,} to test on. {settings['epochs']} epochs of "
        f"{records[0]['epochs'][0]['images']:,} images in batches of {settings['batch_size']}, "
        f"{settings['image_size']}×{settings['image_size']} pixels, {settings['optimiser']} at "
        f"{settings['learning_rate']} (scales at {settings['scale_rate_factor']:g} times that), "
        f"{settings['precision']}. {versions_in_words(records)}."
        + some_not_run_yet(rows, settings["profile"], "07"))


def takeaway(rows: dict[str, list[dict[str, Any]]]) -> str:
    """What the records say about the claim that the module suits any network and loss."""
    if not all(len(records) > 1 for records in rows.values()):
        return NOT_COMPLETE
    table = differences(rows)
    own = {system: records[0]["results"]["parameters"]["task"] for system, records in rows.items()}
    said = []
    seeds = min(table.seeds)
    for label, line in table.iterrows():
        word = ("raises" if line.low > 0 else "lowers" if line.high < 0 else
                "does not decidedly change")
        better, worse = label.split(" − ")
        said.append(f"- Going from *{worse}* to *{better}* {word} the mean AUC "
                    f"({with_sign(line.points)} points, interval {with_sign(line.low)} to "
                    f"{with_sign(line.high)}).")
    said.append(f"- The intervals are over {seeds} seeds, and {len(table)} comparisons were made: "
                "read them as hints.")
    scales = own["modulated"] - own["fully_shared"]
    said.append(f"- Beyond the fully shared network, the scales are {scales:,} numbers and the "
                f"branches {own['branches'] - own['fully_shared']:,}.")
    return "\n".join(said)
