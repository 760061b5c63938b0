"""UT-Zappos50K's text files as they lie on disk: the triplet lists and the table of categories.

Images and ``meta-data.csv``: Yu and Grauman, CVPR 2014. Lists: Veit, Belongie and Karaletsos,
"Conditional Similarity Networks", CVPR 2017.

Shapes: N images, T tasks, K triplets of a task, P lines of filenames.json.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from modlib.datasets import SPLITS
from modlib.errors import ModlibError, unknown_name
from modlib.image_files import Files

COLUMNS = {  # of meta-data.csv, by task
    "class": "Category", "closure": "Closure", "gender": "Gender", "heel": "HeelHeight"}
TASKS = tuple(COLUMNS)
LISTS = {"train": "train", "valid": "val", "test": "test"}  # how the lists call our splits
IMAGES = "ut-zap50k-images"
FOLDERS = ("tripletlists", "ut-zap50k-data")
LAYOUT = (
    "a folder or a zip archive that holds filenames.json, the lists "
    "tripletlists/{class,closure,gender,heel}_tripletlist_{train,val,test}.txt and the images in "
    f"{IMAGES}/ (or, in a folder, in {IMAGES}.zip); meta-data.csv is read when it is there or in "
    "ut-zap50k-data/")

# By split and task, int64 (K, 3): anchor, positive and negative as places in filenames.json.
Lists = dict[str, dict[str, np.ndarray]]


def folder_of(names: Sequence[str], wanted: str, root: Path) -> str:
    """The folder, with its final "/", that holds a file: "" or, in an archive, any."""
    found = [name.removesuffix(wanted) for name in names if PurePosixPath(name).name == wanted]
    if not found:
        raise ModlibError(f"{root} holds no {wanted}; give {LAYOUT}")
    return min(found, key=len)


def read_text(files: Files, name: str) -> str:
    """A text file; a ModlibError where it is not there or is no text."""
    try:
        return files.read(name).decode("utf-8-sig")
    except (OSError, KeyError) as error:  # KeyError: an archive's
        raise ModlibError(f"{files.path} holds no {name}; give {LAYOUT}") from error
    except ModlibError:
        raise
    except Exception as error:  # no text, or nearly anything that zipfile raises on broken bytes
        raise ModlibError(f"{name} in {files.path} cannot be read: {error}") from error


def read_lists(files: Files, folder: str, count: int) -> Lists:
    """All twelve lists: a split is the same whichever tasks are asked for."""
    lists: Lists = {}
    for split, theirs in LISTS.items():
        names = {task: f"{folder}tripletlists/{task}_tripletlist_{theirs}.txt" for task in TASKS}
        lists[split] = {task: _read_triplets(read_text(files, name), name, count)
                        for task, name in names.items()}
    return lists


def _read_triplets(text: str, name: str, count: int) -> np.ndarray:
    """int64 (K, 3): anchor, positive, negative, from lines of "anchor far close"."""
    triplets = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split()
        # int() would take 1_0 for 10, +1 for 1, -0 for 0; a longer number is no line of any file.
        if len(fields) != 3 or not all(
                re.fullmatch("(?!-0+$)-?[0-9]{1,9}", one) for one in fields):
            raise ModlibError(f"{name}, line {number}: {line.strip()[:100]!r}; a line is three "
                              "whole numbers: anchor, far, close")
        anchor, far, close = map(int, fields)
        for place in (anchor, far, close):
            if not 0 <= place < count:
                raise ModlibError(f"{name}, line {number}: {place} is no line of filenames.json; "
                                  f"allowed: 0 to {count - 1}")
        triplets.append((anchor, close, far))
    if not triplets:
        raise ModlibError(f"{name} holds no triplet")
    return np.array(triplets, np.int64)


def splits_of(lists: Lists, paths: Sequence[str]) -> np.ndarray:
    """int8 (P,), one a line of filenames.json: the split whose lists name it, -1 for none."""
    split_P = np.full(len(paths), -1, np.int8)
    for index, split in enumerate(SPLITS):
        for task, triplets_K3 in lists[split].items():
            named = np.unique(triplets_K3)
            twice = named[(split_P[named] != -1) & (split_P[named] != index)]
            if len(twice):
                raise ModlibError(
                    f"image {paths[twice[0]]} ({twice[0]} in filenames.json) is in two splits: in "
                    f"{SPLITS[split_P[twice[0]]]} and, by the lists of {task}, in {split}")
            split_P[named] = index
    return split_P


def read_categories(
    text: str, name: str, ids: Sequence[str], tasks: Sequence[str]
) -> np.ndarray:
    """int16 (N, T): each task's categories in the order of the alphabet, -1 for an empty cell.

    A cell with several values, such as two kinds of closure, is a category of its own.
    Image ``…/100627.72.jpg`` is CID ``100627-72``. Column names may have dots: Heel.Height.
    """
    header, rows = _read_csv(text, name)
    columns = {_plain(column): column for column in header}
    if len(columns) != len(header):
        raise ModlibError(f"{name} has two columns of one name: {', '.join(header)}")
    for wanted in ("CID", *(COLUMNS[task] for task in tasks)):
        if _plain(wanted) not in columns:
            raise unknown_name("column", wanted, columns.values(), name)
    cells = {row[columns["cid"]].strip(): row for row in rows}
    for row in rows:
        if row != cells[row[columns["cid"]].strip()]:
            raise ModlibError(f"{name} has two rows for CID {row[columns['cid']]} that differ; "
                              "remove one of them")
    cids = [PurePosixPath(one).stem.replace(".", "-") for one in ids]
    if not any(cid in cells for cid in cids):
        raise ModlibError(f"{name} has a row for none of the images, such as CID {cids[0]!r}")
    labels_NT = np.full((len(ids), len(tasks)), -1, np.int16)
    for t, task in enumerate(tasks):
        column = columns[_plain(COLUMNS[task])]
        value = {cid: row[column].strip() for cid, row in cells.items()}
        number = {category: n for n, category in enumerate(sorted({*value.values()} - {""}))}
        labels_NT[:, t] = [number.get(value.get(cid, ""), -1) for cid in cids]
    return labels_NT


def _read_csv(text: str, name: str) -> tuple[list[str], list[dict[str, str]]]:
    """The column names and the rows; each row must have as many fields as there are names."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ModlibError(f"{name}, line {reader.line_num}: not {len(reader.fieldnames)} "
                                  "fields, as many as the first line names")
            rows.append(row)
        return list(reader.fieldnames or ()), rows
    except csv.Error as error:
        raise ModlibError(f"{name}, line {reader.line_num}: {error}") from error


def _plain(column: str) -> str:
    """How columns are compared: without dots and spaces, in small letters."""
    return str(column).replace(".", "").replace(" ", "").lower()
