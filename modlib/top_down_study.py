"""The study of the top-down network: its rows on three data sets and its records.

Source: Levi and Ullman, Tables 1 to 5.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from modlib.backbones import lenet, vgg_11
from modlib.clevr import QUESTIONS
from modlib.cub_200 import PARTS
from modlib.errors import unknown_name
from modlib.missing_records import not_run_yet, some_not_run_yet
from modlib.results import paper_tables
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study, accuracies
from modlib.tables import mean_and_spread, runs_in_words, versions_in_words
from modlib.task_readers import ReaderSettings, operations
from modlib.top_down import TopDownNetwork, weight_counts

NOTEBOOK = "10"
SYSTEMS = {"single": "single task", "uniform": "uniform scaling", "moo": "MOO",
           "channel": "channel modulation", "top_down": "top-down"}
CORNERS = ("LU", "RL", "LL", "RU")  # in the order in which the paper adds them
TWO, FOUR = ({"system": "top_down", "tasks": CORNERS[:count]} for count in (2, 4))
# Weights of a backbone with one classifier, without biases: the units of the paper's multiples.
LENET_WEIGHTS, VGG_11_WEIGHTS = 24_250, 14_921_408
UNITS = {"digits": LENET_WEIGHTS, "mnist": LENET_WEIGHTS, "clevr": VGG_11_WEIGHTS}
WIDTHS = (10, 6, 2, 1)
NOT_USED = ("toy_images", "width", "test_triplets", "precision")  # in smoke.yml

FAST = ", scales at 20 times the rate"  # of a row of channel modulation, as in notebook 02
COUNTS = (2, 3, 4)
CHANNELS, FAST_CHANNELS, OURS = (
    {count: f"{count} tasks, {label}" for count in COUNTS}
    for label in (SYSTEMS["channel"], SYSTEMS["channel"] + FAST, SYSTEMS["top_down"]))
TABLE_1 = {name: changes for count in COUNTS for name, changes in (
    *((f"{count} tasks, {label}", {"system": system, "tasks": CORNERS[:count]})
      for system, label in SYSTEMS.items()),
    (FAST_CHANNELS[count],
     {"system": "channel", "tasks": CORNERS[:count], "scale_rate_factor": 20.0}))}
ABLATIONS = {  # Table 2, a to d
    "a": {
        "channels alone, image seen": FOUR | {"spatial": False},
        "places, image not seen": FOUR | {"image_aware": False},
    },
    "b": {f"top-down maps of {width}": TWO | {"td_channels": width} for width in WIDTHS},
    "c": {
        "+ into TD, + into BU2": TWO | {"into_bu2": "add"},
        "+ into TD, × into BU2": TWO | {"into_bu2": "multiply"},
        "× into TD, ⊗ into BU2": TWO | {"into_td": "multiply"},
        "⊗ into TD, ⊗ into BU2": TWO | {"into_td": "gate_sigmoid"},
        "+ into TD, ⊗ with tanh": TWO | {"into_bu2": "gate_tanh"},
    },
    "d": {
        "with a loss on BU1": TWO | {"bu1_weight": 1.0},
        "with a loss on TD": TWO | {"td_weight": 1.0},
        "with both losses": TWO | {"bu1_weight": 1.0, "td_weight": 1.0},
    },
}
OURS_2, OURS_4 = OURS[2], OURS[4]
REFERENCES = {"a": (CHANNELS[4], FAST_CHANNELS[4], OURS_4),
              "b": (OURS_2,), "c": (OURS_2,), "d": (OURS_2,)}
OWN_REFERENCE = {*ABLATIONS["b"], *ABLATIONS["d"]}  # rows whose tables print another OURS_2

MULTI_MNIST = Study("top_down", TABLE_1 | {
    name: changes for part in ABLATIONS.values() for name, changes in part.items()},
    quick=len(SYSTEMS), settings=ReaderSettings)
CLEVR = Study("top_down_clevr", {
    f"{count} tasks, {SYSTEMS[system]}": {"system": system, "tasks": tuple(QUESTIONS)[:count]}
    for count in (2, 3, 4) for system in ("single", "uniform", "channel", "top_down")},
    settings=ReaderSettings)
CUB_200 = Study("top_down_cub_200", {
    SYSTEMS[system]: {"system": system, "tasks": tuple(PARTS)} for system in SYSTEMS} | {
    f"{SYSTEMS[system]} + localisation": {
        "system": system, "tasks": tuple(PARTS), "td_weight": 1.0}
    for system in ("channel", "top_down")},
    settings=ReaderSettings)
STUDIES = {"digits": MULTI_MNIST, "mnist": MULTI_MNIST, "clevr": CLEVR, "cub_200": CUB_200}


def lay_out(
    parameters: Mapping[str, Any]
) -> tuple[Study, dict[str, list[ReaderSettings]], Places]:
    """The study of the parameters' data set, its runs by row, and the places; all checked.

    What the settings files say to the triplet networks alone (``NOT_USED``) is checked and not
    used.

    Raises:
        ModlibError: an unknown data set, parameter or row, or a wrong value.
    """
    dataset = parameters.get("dataset", ReaderSettings.dataset)
    if dataset not in STUDIES:
        raise unknown_name("value of dataset:", dataset, STUDIES)
    Settings(**{name: value for name, value in parameters.items() if name in NOT_USED})
    return STUDIES[dataset], *STUDIES[dataset].lay_out(
        {name: value for name, value in parameters.items() if name not in NOT_USED})


def paper_rows(folder: str, beside: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """What the paper prints of each row: ``accuracy`` in % by task, and ``multiple``.

    It names no rate for the scales of channel modulation, so both of our rows stand beside its one.

    Args:
        beside: rows of the same table; Tables 2b and 2d print a top-down network of their own.
    """
    printed = paper_tables()["top_down"][folder]
    if folder == MULTI_MNIST.folder:
        printed |= {FAST_CHANNELS[count]: printed[CHANNELS[count]] for count in COUNTS}
        if OWN_REFERENCE & set(beside):
            printed[OURS_2] = printed["2 tasks, top-down, in Tables 2b and 2d"]
    return printed


def weight_table() -> pd.DataFrame:
    """The weights of the top-down network's parts, ours and those that the paper's Table 5 prints.

    Without biases, on LeNet for digits and on VGG-11 for CLEVR.
    """
    printed = paper_tables()["top_down"]["weights"]
    networks = {"lenet": TopDownNetwork(lenet(), 1, 10),
                "vgg11": TopDownNetwork(vgg_11(), 1, 2, embedding_channels=32)}
    names = {"backbone": "backbone", "branch": "classifier", "top_down": "top-down, with laterals",
             "embedding": "embedding of a task"}
    return pd.DataFrame(
        {(title, source): {label: f"{counts[name]:,}" for name, label in names.items()}
         for key, title in (("lenet", "LeNet"), ("vgg11", "VGG-11"))
         for source, counts in (("ours", weight_counts(networks[key])), ("paper", printed[key]))})


def by_seed(rows: Rows, name: str) -> dict[int, float]:
    """A row's mean accuracy over its tasks in %, by seed."""
    return {record["settings"]["seed"]:
            100 * float(np.mean(list(record["results"]["test_accuracy"].values())))
            for record in rows.get(name, [])}


def accuracy_table(rows: Rows, names: Sequence[str], folder: str) -> pd.DataFrame:
    """Rows for people: accuracy by task and mean, the weights, and the paper's mean and weights.

    Weights are multiples of one LeNet's (digits) or VGG-11's (scenes), of birds counts in millions.
    For digits there is *work*, the arithmetic of all tasks' answers to an image, likewise.
    """
    printed, table = paper_rows(folder, names), accuracies(rows)
    tasks = list(dict.fromkeys(table[table.row.isin(names)].task)) or list(CORNERS[:2])
    lines = []
    for name in names:
        of_row = table[table.row == name]
        paper = printed.get(name, {"accuracy": {}})
        lines.append({"": name} | {
            task: mean_and_spread(values) if len(
                values := of_row[of_row.task == task].accuracy) else "" for task in tasks} | {
            "mean": mean_and_spread(list(by_seed(rows, name).values())),
            "paper's mean": f"{np.mean(list(paper['accuracy'].values())):.1f}"
                            if paper["accuracy"] else "–",
            "weights": _weights(rows.get(name, [])),
            "paper's": f"×{paper['multiple']:g}" if "multiple" in paper else "–"}
            | ({"work": _work(rows.get(name, []))} if folder == MULTI_MNIST.folder else {}))
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def how_it_ran(rows: Rows, profile: str, folder: str, data: str) -> str:
    """What made these records, as Markdown; the box of ``not_run_yet`` when there are none.

    Args:
        data: where a reader's copy of the data may lie, for the command.
    """
    records = [record for row in rows.values() for record in row]
    if not records:
        return not_run_yet(profile, folder, NOTEBOOK, data)
    settings, about = records[0]["settings"], records[0]["data"]
    return (
        f"{runs_in_words(records)}. "
        f"{about['source']}: {about['images']['train']:,} images to train on, "
        f"{about['images']['valid']:,} to validate on, {about['images']['test']:,} to test on. "
        f"{settings['epochs']} epochs in batches of {settings['batch_size']}, "
        f"{settings['optimiser']} at {settings['learning_rate']:g}, schedule "
        f"`{settings['schedule']}`. {versions_in_words(records)}."
        + some_not_run_yet(rows, profile, NOTEBOOK, data))


def _weights(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return "–"
    weights = records[0]["results"]["parameters"]["weights"]
    unit = UNITS.get(records[0]["settings"]["dataset"])
    return f"×{weights / unit:.3f}" if unit else f"{weights / 1e6:.2f} M"


def _work(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return "–"
    settings = ReaderSettings(**records[0]["settings"])
    one = ReaderSettings(system="single", tasks=settings.tasks[:1])
    return f"×{operations(settings) / operations(one):.1f}"
