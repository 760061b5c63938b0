"""The table of a reader's own images: a CSV with a line an image and a column an attribute.

Shapes: N images, T tasks.
"""

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from modlib.errors import ModlibError, unknown_name
from modlib.image_files import Files

TABLE = "attributes.csv"
LAYOUT = (
    f"a folder, or a zip archive of one, that holds the images and {TABLE} (or one .csv of another "
    "name): a line an image, its file name first, then a column an attribute")
BINARY = {"1": 1, "true": 1, "1.0": 1, "0": 0, "false": 0, "0.0": 0, "-1": 0, "-1.0": 0}
NEGATIVE = {"-1", "-1.0"}
NOT_KNOWN = {"nan", "na", "n/a", "null", "none"}  # as programs write what an empty cell says
WHOLE = re.compile(r"([+-]?)0*([0-9]+?)(?:\.0*)?")
NUMBER = re.compile(r"[+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)
MOST_CATEGORIES = np.iinfo(np.int16).max
SPLIT_NAMES = {"train": 0, "valid": 1, "val": 1, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Table:
    """The CSV, checked.

    Attributes:
        name: the file's, for messages.
        rows: where each image's line is, the header's being 1, by the image's name from the
            folder of the CSV; in the order of these names.
        columns: the cells of every attribute, in the order of ``rows``.
        split: the cells of the column ``split``; None: there is no such column.
    """

    name: str
    rows: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    split: Sequence[str] | None


def read_table(files: Files) -> tuple[str, Table]:
    """The CSV's folder, with its final "/", and what it says.

    It is the ``attributes.csv`` nearest to the root, or else the only other ``.csv`` that is as
    near as any.

    Raises:
        ModlibError: there is none, or there are several; see also :func:`parse_table`.
    """
    found = [name for name in files.names()
             if name.lower().endswith(".csv") and not name.startswith("__MACOSX/")]
    level = min((name.count("/") for name in found), default=0)
    nearest = [name for name in found if name.count("/") == level]
    named = [name for name in found if PurePosixPath(name).name == TABLE]
    chosen = sorted(named, key=lambda name: name.count("/"))[:1] or nearest
    if len(chosen) != 1:
        what = f"several: {', '.join(chosen)}" if chosen else "no .csv file"
        raise ModlibError(f"{files.path} holds {what}; name the one of attributes {TABLE}")
    [name] = chosen
    try:
        text = files.read(name).decode("utf-8-sig")
    except Exception as error:  # of a broken or locked archive there are several kinds
        raise ModlibError(f"{name} in {files.path} cannot be read as text in UTF-8 ({error}); "
                          "save it as CSV UTF-8") from error
    return name.removesuffix(PurePosixPath(name).name), parse_table(text, name)


def parse_table(text: str, name: str) -> Table:
    """The rows of a CSV, sorted by image; cells are stripped, and rows of empty cells left out.

    Cells are parted by commas, or by semicolons or tabs where the header has more of these.

    Raises:
        ModlibError: no rows or no attribute, columns without a name or of one name, a row that is
            too short or too long, a file name that is none or stands twice; with the row, the
            header's being 1.
    """
    header, rows = _header_and_rows(text, name)
    lowered = [column.lower() for column in header]
    at = lowered.index("image") if "image" in lowered else 0
    number_of: dict[str, int] = {}
    for number, cells in rows.items():
        image = _image_name(cells[at], name, number)
        if image in number_of:
            raise ModlibError(f"{name}, row {number}: image {image!r} has row {number_of[image]} "
                              "already")
        number_of[image] = number
    ordered = {image: number_of[image] for image in sorted(number_of)}
    columns = {column: [rows[number][place] for number in ordered.values()]
               for place, column in enumerate(header) if place != at}
    split = next((column for column in columns if column.lower() == "split"), None)
    split_cells = columns.pop(split) if split else None
    if not columns:
        raise ModlibError(f"{name} has no column of an attribute; give {LAYOUT}")
    return Table(name, ordered, columns, split_cells)


def _header_and_rows(text: str, name: str) -> tuple[list[str], dict[int, list[str]]]:
    """The names of the columns, and every row's cells, as many, by its number."""
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        read = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, 1)]
    except csv.Error as error:
        raise ModlibError(f"{name} cannot be read, near line {lines.line_num}: {error}") from error
    read = [(number, cells) for number, cells in read if any(cells)]
    if len(read) < 2:
        raise ModlibError(f"{name} has no rows of images; give {LAYOUT}")
    (_, header), *rows = read
    _check_header(header, name)
    for number, cells in rows:
        if len(cells) != len(header):
            raise ModlibError(f"{name}, row {number}: {len(cells)} cells; the header has "
                              f"{len(header)}: {', '.join(header)}")
    return header, dict(rows)


def _check_header(header: Sequence[str], name: str) -> None:
    for place, column in enumerate(header):
        if not column:
            raise ModlibError(f"{name}: column {place + 1} has no name; give each one, and write "
                              "a table of pandas without its index")
        if column.lower() in [other.lower() for other in header[:place]]:
            raise ModlibError(f"{name} has two columns {column!r}; give each its own name")


def _image_name(cell: str, name: str, number: int) -> str:
    path = PurePosixPath(cell.replace("\\", "/"))
    if not cell or path.is_absolute() or ".." in path.parts:
        raise ModlibError(f"{name}, row {number}: {cell!r} is no image; allowed: a file name from "
                          "the folder of the CSV, such as 'cats/1.jpg'")
    return str(path)


def labels_of(table: Table, tasks: Sequence[str]) -> tuple[np.ndarray, bool]:
    """labels_NT, and whether they are categories (int16, -1 where not known) and not bool.

    Raises:
        ModlibError: an unknown attribute, a cell that does not fit its column, a word for what is
            not known, a number with decimals, or a category that is written in two ways.
    """
    for task in tasks:
        if task not in table.columns:
            raise unknown_name("attribute", task, table.columns, table.name)
    numbered = [_numbers(table, task) for task in tasks]
    categories = any(named or -1 in labels_N for labels_N, named in numbered)
    labels_NT = np.stack([labels_N for labels_N, _ in numbered], axis=1)
    return labels_NT.astype(np.int16 if categories else bool), categories


def _numbers(table: Table, task: str) -> tuple[list[int], bool]:
    """One column's labels, and whether they are of categories that have names."""
    cells, numbers = table.columns[task], list(table.rows.values())
    for cell, number in zip(cells, numbers, strict=True):
        if cell.lower() in NOT_KNOWN:
            raise ModlibError(
                f"{table.name}, row {number}: {task} is {cell!r}; leave the cell empty where it is "
                f"not known. (No category may be called {', '.join(sorted(NOT_KNOWN))}.)")
    known = {cell.lower() for cell in cells if cell}
    if not known & BINARY.keys():
        names = _category_names(table, task)
        named = {name: n for n, name in enumerate(sorted({*names} - {""}))}
        if len(named) > MOST_CATEGORIES:
            raise ModlibError(f"{table.name}: {task} has {len(named)} categories; allowed: up to "
                              f"{MOST_CATEGORIES}")
        return [named.get(name, -1) for name in names], True
    mixed = known & NEGATIVE and known & {"0", "0.0", "false"}
    for cell, number in zip(cells, numbers, strict=True):
        value = cell.lower()
        if value and (value not in BINARY or (mixed and value in NEGATIVE)):
            raise ModlibError(
                f"{table.name}, row {number}: {task} is {cell!r}; allowed in this column: 0 and 1, "
                "or -1 and 1, or true and false, or an empty cell. (A category needs a name that "
                "is none of these, in every row.)")
    return [BINARY.get(cell.lower(), -1) for cell in cells], False


def _category_names(table: Table, task: str) -> list[str]:
    """A column's cells, with each whole number written in one way, as programs turn 2 into 2.0."""
    names, seen = [], {}  # seen: a name and its row, by what all the ways to write it have alike
    for cell, number in zip(table.columns[task], table.rows.values(), strict=True):
        whole = WHOLE.fullmatch(cell)
        if not whole and NUMBER.fullmatch(cell):
            raise ModlibError(
                f"{table.name}, row {number}: {task} is {cell!r}; allowed in a column of "
                "categories: names, and whole numbers such as 2. (A number that was measured is no "
                "label: make it 0 and 1, or name its classes.)")
        name = whole[1].replace("+", "") + whole[2] if whole else cell
        alike = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        other, row = seen.setdefault(alike, (name, number))
        if other != name:
            raise ModlibError(f"{table.name}, row {number}: {task} is {name!r}, and {other!r} in "
                              f"row {row}; write each category in one way")
        names.append(name)
    return names


def split_of(table: Table) -> tuple[np.ndarray, str]:
    """split_N, uint8, and one line that says where it came from.

    Raises:
        ModlibError: a cell of the column ``split`` that names none.
    """
    if table.split is None:
        return shuffled_split(list(table.rows)), "no column split: 70/10/20 by a hash of the name"
    for cell, number in zip(table.split, table.rows.values(), strict=True):
        if cell.lower() not in SPLIT_NAMES:
            raise ModlibError(f"{table.name}, row {number}: split is {cell!r}; allowed: "
                              f"{', '.join(SPLIT_NAMES)}")
    split_N = np.array([SPLIT_NAMES[cell.lower()] for cell in table.split], np.uint8)
    return split_N, "split by its column"


def shuffled_split(names: Sequence[str]) -> np.ndarray:
    """split_N, uint8: 70 % train, 10 % valid, 20 % test, as nearly as whole images allow.

    The images are put in the order of a hash of their names, so that a split depends on nothing
    but them, and small folders have their share of each split, too.
    """
    place_N = np.argsort(np.argsort([hashlib.sha256(name.encode()).hexdigest() for name in names]))
    ends = [round(0.7 * len(names)), round(0.8 * len(names))]
    return np.searchsorted(ends, place_N, side="right").astype(np.uint8)
