"""A reader's own images: the runs of notebook 15, the example that it makes, its tables and lines.

Source of the measures: Zhao et al., ECCV 2018, sections 3.1 and 4.1 and Figure 4.
Shapes: N images, T tasks, D embedding, Q queries, K neighbours.
"""

import csv
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats
from torch import Tensor

from modlib.attribute_table import TABLE
from modlib.datasets import AttributeImages, load_toy_faces
from modlib.face_categories import FACE_CATEGORIES
from modlib.gradients import wilson
from modlib.image_folder import attribute_names
from modlib.intervals import difference
from modlib.results import pair_ucr, resolve, ucr_counts
from modlib.retrieval import nearest_neighbours
from modlib.settings import Places, Settings
from modlib.studies import Rows, Study, accuracies
from modlib.tables import percent, points
from modlib.twenty_attributes import OURS
from modlib.whole_files import cannot_be_written

SHARED, NONZERO = "fully shared", ", zeros left out"
STUDY = Study("your_own_data", {OURS: {"system": "modulated"}, SHARED: {"system": "fully_shared"}},
              quick=2)
EXAMPLE_TASKS = ("Smiling", "Young")  # yes or no; beside them the example has categories of hair


def lay_out(parameters: Mapping[str, Any]) -> tuple[dict[str, list[Settings]], Places]:
    """The runs of each row and their places, from a notebook's parameters.

    Where ``data_root`` is None, ``dataset: folder`` is an example that is written beside
    ``results_dir``. Where ``tasks`` is None, they are all attributes of the CSV.

    Raises:
        ModlibError: see :meth:`modlib.studies.Study.lay_out` and
            :func:`modlib.image_folder.load_image_folder`.
    """
    values = {"toy_images": Settings.toy_images, "image_size": Settings.image_size,
              "results_dir": Places.results_dir, "tasks": None} | dict(parameters)
    is_folder = values.get("dataset") == "folder"
    if is_folder and values.get("data_root") is None:
        home, size = resolve(values["results_dir"]).parent, values["image_size"]
        example = home / f"example_photos_{values['toy_images']}_at_{size}"
        write_example(example, values["toy_images"], size)
        values |= {"data_root": str(example),
                   "cache_dir": values.get("cache_dir") or str(home / "example_cache")}
    if values["tasks"] is None:
        del values["tasks"]
        if is_folder:
            values["tasks"] = attribute_names(resolve(values["data_root"]))
    return STUDY.lay_out(values)


def write_example(folder: Path, count: int, image_size: int) -> None:
    """Toy faces as PNG files with an ``attributes.csv``; a folder that is there stays as it is.

    It has two columns of yes and no, each written in another way, and one of categories.

    Raises:
        ModlibError: it cannot be written; no part of it is left.
    """
    if folder.exists():
        return
    faces = load_toy_faces(count, image_size, EXAMPLE_TASKS)
    hair_N1 = load_toy_faces(count, image_size, ("Hair",)).labels_NT
    named = [name.removesuffix("_Hair").lower() for name in FACE_CATEGORIES["Hair"]] + ["other"]
    rows = [("image", *EXAMPLE_TASKS, "Hair")]
    for number, (smiling, young) in zip(faces.ids, faces.labels_NT, strict=True):
        hair = named[hair_N1[len(rows) - 1, 0]]
        rows.append((f"faces/{number}.png", int(smiling), str(young).lower(), hair))
    try:
        _write_whole(folder, rows, faces.images_NCHW)
    except OSError as error:
        if not folder.exists():  # else another process has finished the same one meanwhile
            raise cannot_be_written("the example", folder, error) from error


def _write_whole(folder: Path, rows: Sequence[tuple], images_NCHW: np.ndarray) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary, "whole")
        (whole / "faces").mkdir(parents=True)
        for (name, *_), image_CHW in zip(rows[1:], images_NCHW, strict=True):
            Image.fromarray(image_CHW.transpose(1, 2, 0)).save(whole / name)
        with (whole / TABLE).open("w", newline="", encoding="utf8") as file:
            csv.writer(file).writerows(rows)
        os.replace(whole, folder)


def ucr_table(rows: Rows) -> pd.DataFrame:
    """Every pair's update compliance ratio in %, with its interval; the most at odds first.

    Of all batches, and with those left out whose inner product is exactly 0: there a task has
    learnt the batch and asks for nothing, which is no conflict. The order is by the latter.
    """
    records = [record for of_row in rows.values() for record in of_row]
    pairs = combinations(records[0]["settings"]["tasks"], 2) if records else ()
    ratios = {f"{one} / {other}".replace("_", " "): {
        name + words: pair_ucr(of_row, (one, other), with_zeros)
        for name, of_row in rows.items() for words, with_zeros in (("", True), (NONZERO, False))}
        for one, other in pairs}
    ordered = sorted(ratios, key=lambda pair: (
        np.isnan(found := ratios[pair][SHARED + NONZERO].value), found))
    return pd.DataFrame({name + words: {
        pair: percent(ratios[pair][name + words], nothing) for pair in ordered}
        for name in rows for words, nothing in (("", "not run yet"), (NONZERO, "–"))})


def queries_of(labels_NT: np.ndarray, count: int) -> list[int]:
    """The first images whose every label is known, those with the most attributes before others."""
    known = np.flatnonzero((labels_NT >= 0).all(1))
    held_N = labels_NT.sum(1) if labels_NT.dtype == bool else np.zeros(len(labels_NT))
    return known[np.argsort(-held_N[known], kind="stable")][:count].tolist()


def neighbour_lines(
    embeddings_TND: Tensor, labels_NT: np.ndarray, tasks: Sequence[str], queries: Sequence[int],
    count: int,
) -> tuple[list[int], dict[str, tuple[list[int], list[bool | None]]]]:
    """What every query finds under every task, for ``comparison_figures.neighbour_grid``.

    Args:
        embeddings_TND: of the gallery, of length 1.
        labels_NT: bool, or int16 categories with -1 where not known.
        queries: Q images of the gallery.
        count: K neighbours.

    Returns:
        the query of each line, and by its label the neighbours and whether each has the query's
        label: None where that is not known.
    """
    asked, lines = [], {}
    for number, query in enumerate(queries, 1):
        for task, embeddings_ND, labels_N in zip(tasks, embeddings_TND, labels_NT.T, strict=True):
            found = nearest_neighbours(embeddings_ND, query, count).tolist()
            right = [bool(labels_N[n] == labels_N[query]) if labels_N[n] >= 0 else None
                     for n in found]
            asked.append(query)
            lines[f"{number}: {task}".replace("_", " ")] = found, right
    return asked, lines


def takeaway(rows: Rows, data: AttributeImages) -> str:
    """What the records say about these images, as Markdown."""
    if not (rows[OURS] and rows[SHARED]):
        return "Not run yet: both rows are needed."
    means = accuracies(rows).groupby("row").accuracy.mean()
    found = difference(rows[OURS], rows[SHARED])
    word = ("one seed gives no verdict" if np.isinf(found[1]) else
            "modulation is ahead" if found[1] > 0 else
            "modulation is behind" if found[2] < 0 else "neither is decidedly ahead")
    said = [f"- The images: {data.source}.",
            f"- Mean triplet accuracy: with scales for each task **{means[OURS]:.1f} %**, with one "
            f"embedding for all **{means[SHARED]:.1f} %**. The difference is {points(*found)} "
            f"points: **{word}**. Guessing gives 50 %."]
    if rows[SHARED][0]["settings"]["ucr_every"]:
        said += _at_odds(rows[SHARED])
    return "\n".join(said)


def _at_odds(shared: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pair with the lowest ratio, zeros left out, and whether it is decidedly below a half."""
    pairs = ucr_table({SHARED: shared})
    every = list(combinations(shared[0]["settings"]["tasks"], 2))
    if not every:
        return []
    z = float(stats.norm.ppf(1 - 0.025 / len(every)))  # Bonferroni: the lowest of many
    ratios = [wilson(counts["positive"], counts["positive"] + counts["negative"], z)
              for counts in (ucr_counts(shared, pair) for pair in every)]
    if not any(ratio.count for ratio in ratios):
        return ["- No probed batch had two tasks that both asked for something."]
    lowest = min(ratio.high for ratio in ratios)
    return [f"- In the fully shared network the pair with the lowest ratio is "
            f"**{pairs.index[0]}**: where both tasks ask for something, their updates agree on "
            f"{pairs[SHARED + NONZERO].iloc[0]} % of the batches. " + (
                "At least one pair is decidedly at odds" if lowest < 0.5 else
                "No pair is decidedly at odds: all intervals reach 50 %")
            + ", with intervals that hold for all pairs together."]
