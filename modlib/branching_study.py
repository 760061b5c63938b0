"""The study of adaptive branching: its runs, tables, the paper's claims, and what is concluded.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, Tables 1 and
3, Figures 3 to 5.
Shapes: T tasks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from modlib.adaptive_branching import BranchingSettings
from modlib.answers import read_answers
from modlib.missing_records import not_run_yet, some_not_run_yet
from modlib.record_checks import TOP
from modlib.results import paper_tables
from modlib.studies import Rows, Study
from modlib.tables import mean_and_spread, runs_in_words, versions_in_words
from modlib.thin_vgg import LAYERS, VGG16_WIDTHS, BranchingVgg, count_layer_weights, thin_widths

THIN, LOW, HIGH = "thin", "branched, α = 1", "branched, α = 2"
FOUND, SHUFFLED = "found grouping, from the start", "shuffled grouping, from the start"
WIDE, RANDOM, BY_CHANCE = "wide", "thin, random start", "thin, filters by chance"
# It keeps all filters of the wide network, and learns for as long again.
TRAINED_ON = "wide, trained on"
NOT_USED = (  # in settings files, for triplets
    "width", "crop", "batching", "test_triplets", "hinge_mean", "shift", "zoom", "colour_jitter",
    "batch_images", "initialisation", "final_probes")
STUDY = Study("adaptive_branching", {
    WIDE: {"system": "wide"},
    THIN: {"system": "thin"},
    LOW: {"system": "branched", "alpha": 1.0},
    HIGH: {"system": "branched", "alpha": 2.0},
    FOUND: {"system": "retrained", "alpha": 2.0},
    SHUFFLED: {"system": "shuffled", "alpha": 2.0},
    RANDOM: {"system": "thin", "somp": False},
    BY_CHANCE: {"system": "thin", "filters": "random"},
    TRAINED_ON: {"system": "thin", "filters": "all"},
}, quick=4, settings=BranchingSettings, not_used=(*NOT_USED, "scale_rate_factor", "ucr_every"))
PAPER_NAMES = {THIN: "thin-32", LOW: "Branch-32-1.0", HIGH: "Branch-32-2.0"}
PAPER_SIZE = 224  # pixels, VGG-16's input


def paper_table() -> dict[str, dict[str, float]]:
    """Table 1's rows on CelebA as the paper prints them."""
    tables = paper_tables()["adaptive_branching"]
    return tables["table_1"]["rows"]


def mean_accuracy(record: dict[str, Any]) -> float:
    """Mean test accuracy over the tasks, in %."""
    return 100 * float(np.mean(list(record["results"]["test_accuracy"].values())))


def recall(record: dict[str, Any]) -> float:
    """Top-10 recall on the test split, in %; see :func:`modlib.branching_runs.top_recall`."""
    return 100 * record["results"]["top_recall"]


def majority_sentence(rows: Rows) -> str:
    """What answering every task with its more frequent answer would score, as Markdown."""
    records = [record for of_row in rows.values() for record in of_row]
    if not records:
        return "What the more frequent answers would score: not run yet."
    held_T = read_answers(records[0], TOP)[1].mean(1)
    return ("Giving every image each attribute's more frequent answer would score "
            f"{100 * np.maximum(held_T, 1 - held_T).mean():.1f} %.")


def branches(record: dict[str, Any]) -> int:
    """How many branches all layers have together; 15 where none is split."""
    return sum(len(groups) for groups in record["results"]["groups"].values())


def weights_at(record: dict[str, Any], image_size: int = PAPER_SIZE) -> int:
    """Weights of a record's tree for another image size, as the paper counts them."""
    settings = BranchingSettings(**record["settings"])
    place = {task: number for number, task in enumerate(settings.tasks)}
    with torch.device("meta"):  # nothing is computed
        network = BranchingVgg(len(place), image_size, thin_widths(settings.omega))
        network.take_groups([[[place[task] for task in tasks] for tasks in groups]
                             for groups in record["results"]["groups"].values()])
    return count_layer_weights(network)


def vgg16_weights(num_tasks: int, image_size: int = PAPER_SIZE) -> int:
    """Weights of the whole VGG-16 with an output for each task."""
    with torch.device("meta"):
        return count_layer_weights(BranchingVgg(num_tasks, image_size, VGG16_WIDTHS))


def speed_up(record: dict[str, Any]) -> float:
    """How many times as long VGG-16 takes for an image, timed in the same minute."""
    times = record["run"]["milliseconds"]
    return times["vgg16"] / times["network"]


def result_table(rows: Rows, beside_paper: bool = True) -> pd.DataFrame:
    """Table 1 for people: what each network scores and costs; the paper's row beside it or not."""
    paper, lines = paper_table(), []
    for name, records in rows.items():
        printed = paper.get(PAPER_NAMES.get(name, ""))
        line = {
            "": name,
            "accuracy, %": mean_and_spread([mean_accuracy(one) for one in records]),
            "top-10 recall, %": mean_and_spread([recall(one) for one in records]),
            "branches in all 15 layers": mean_count([branches(one) for one in records]),
            "million weights at 224×224": _means(records, weights_at, 1e-6),
            "ms an image": _means(records, lambda one: one["run"]["milliseconds"]["network"]),
            "VGG-16 takes": f"× {_geometric_mean(records, speed_up):.1f}" if records else ""}
        if beside_paper:
            line["the paper's accuracy, recall, million weights"] = "–" if printed is None else (
                f"{printed['accuracy']:.2f}, {printed['top_10_recall']:.2f}, "
                f"{printed['million_parameters']:.2f}")
        lines.append(line)
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def mean_count(counts: Sequence[int]) -> str:
    """The mean of whole numbers for people: one alone is whole, and several have their spread."""
    return str(counts[0]) if len(set(counts)) == 1 else mean_and_spread(counts)


def _means(records: list[dict[str, Any]], measure: Callable, factor: float = 1.0) -> str:
    return f"{factor * np.mean([measure(one) for one in records]):.2f}" if records else ""


def _geometric_mean(records: list[dict[str, Any]], measure: Callable) -> float:
    return float(np.exp(np.mean([np.log(measure(one)) for one in records])))


def paired(
    rows: Rows, better: str, worse: str, measure: Callable[[dict[str, Any]], float]
) -> list[float]:
    """Differences of a measure between two rows, one for each seed that both have."""
    first, second = ({one["settings"]["seed"]: measure(one) for one in rows[name]}
                     for name in (better, worse))
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def how_it_ran(
    rows: Rows, profile: str, folder: str = STUDY.folder, notebook: str = "11"
) -> str:
    """What made these records, as Markdown; how to make them where there are none.

    Args:
        folder, notebook: see :func:`modlib.missing_records.not_run_yet`.
    """
    records = [record for of_row in rows.values() for record in of_row]
    if not records:
        return not_run_yet(profile, folder, notebook)
    settings, data = records[0]["settings"], records[0]["data"]
    images = records[0]["epochs"][0]["images"]
    return (
        f"{runs_in_words(records)}. "
        f"{data['source']}: {data['images']['train']:,} to train on, {data['images']['test']:,} to "
        f"test on. {len(settings['tasks'])} attributes, {settings['image_size']}×"
        f"{settings['image_size']} pixels; thin: ω = {settings['thinness']}, wide: ω = "
        f"{settings['wide_thinness']}. {settings['epochs']} epochs of {images:,} images in batches "
        f"of {settings['batch_size']}, a branching round every {settings['round_batches']} "
        f"batches; {settings['optimiser']} at {settings['learning_rate']}"
        f"{_of_scales(records)}, {settings['precision']}. {versions_in_words(records)}."
        + some_not_run_yet(rows, profile, notebook))


def _of_scales(records: list[dict[str, Any]]) -> str:
    """What the settings say of scales and probes, where any of them says anything."""
    factor, every = (max(one["settings"].get(name, 0) for one in records)
                     for name in ("scale_rate_factor", "ucr_every"))
    return ((f" (scales at {factor:g} times that)" if factor not in (0, 1.0) else "")
            + (f", one batch in {every} probed where scales are" if every else ""))


def fit_table(rows: Rows) -> pd.DataFrame:
    """Accuracy in % on the last epoch's training batches and on validation, for people."""
    return pd.DataFrame([
        {"": name} | {title: mean_and_spread(
            [100 * float(np.mean(list(one["epochs"][-1][key].values()))) for one in records])
            for title, key in (("training, last epoch, %", "train_accuracy"),
                               ("validation, %", "valid_accuracy"))}
        for name, records in rows.items()]).set_index("").rename_axis(None)


def rounds(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every branching round of a run, in order: what was decided and why."""
    return [one for epoch in record["epochs"] for one in epoch["rounds"]]


def round_table(record: dict[str, Any]) -> pd.DataFrame:
    """The rounds for people: each layer, how many branches it got, and the losses beside that."""
    lines = []
    for one in rounds(record):
        best = min(one["objectives"], key=lambda objective: objective["loss"])
        single = one["objectives"][0]
        lines.append({"layer": one["layer"], "after batch": one["batch"],
                      "branches": len(one["groups"]), "of at most": len(one["objectives"]),
                      "loss": f"{best['loss']:.3f}", "with one branch": f"{single['loss']:.3f}"})
    return pd.DataFrame(lines, columns=["layer", "after batch", "branches", "of at most", "loss",
                                        "with one branch"]).set_index("layer").rename_axis(None)


def somp_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """What the kept filters cannot explain of all of the wide network's, in %, layer by layer.

    Args:
        records: of runs that start by SOMP, one a seed.
    """
    return pd.DataFrame([
        {"layer": name} | {
            label: mean_and_spread([100 * one["results"][key][name] for one in records])
            for label, key in (("SOMP", "somp_errors"), ("at random", "random_errors"))}
        for name in LAYERS]).set_index("layer").rename_axis(None)


def split_layers(record: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The groups of the layers that have branches, from the lowest up."""
    return {name: record["results"]["groups"][name] for name in LAYERS
            if len(record["results"]["groups"][name]) > 1}
