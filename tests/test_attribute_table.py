"""A reader's CSV is read however a program writes it; a mistake is told with its row."""

import csv
import io
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modlib.attribute_table import labels_of, parse_table, shuffled_split, split_of
from modlib.errors import ModlibError

PLAIN = """image,Smiling,Young,Hair,split
b.jpg,1,-1,bangs,train
a.jpg,0,1,wavy,test
c/d.jpg,1,1,bald,valid
"""


def parse(text: str):
    return parse_table(text, "attributes.csv")


# What is read

def test_rows_are_in_the_order_of_the_names_and_know_their_place():
    table = parse(PLAIN)
    assert dict(table.rows) == {"a.jpg": 3, "b.jpg": 2, "c/d.jpg": 4}
    assert list(table.columns) == ["Smiling", "Young", "Hair"]
    assert table.columns["Hair"] == ["wavy", "bangs", "bald"]
    assert table.split == ["test", "train", "valid"]


@pytest.mark.parametrize("text", [
    PLAIN.replace("\n", "\r\n"),
    PLAIN.replace("\n", "\r"),
    PLAIN.replace("\n", "\r\n", 2),
    PLAIN.rstrip("\n"),
    PLAIN.replace(",", ";"),
    PLAIN.replace(",", "\t"),
    PLAIN.replace(",", " , "),
    PLAIN + ",,,,\n" + " , ,,,\n",
    PLAIN.replace("c/d.jpg", '"c/d.jpg"'),
    PLAIN.replace("c/d.jpg", "c\\d.jpg"),
    PLAIN.replace("a.jpg", "./a.jpg"),
    PLAIN.replace("image", "IMAGE").replace("split", "Split"),
    PLAIN.replace("image", "file"),  # the first column
])
def test_ends_of_lines_separators_and_blanks_make_no_difference(text):
    assert parse(text) == parse(PLAIN)


def test_a_column_image_may_stand_anywhere():
    moved = "\n".join(",".join([*cells[1:], cells[0]])
                      for cells in (line.split(",") for line in PLAIN.splitlines()))
    assert parse(moved) == parse(PLAIN)


def test_a_cell_in_quotes_may_hold_the_separator_and_a_line_end():
    table = parse('image,Where\n"a, b.jpg","in\nside"\nc.jpg,outside\n')
    assert dict(table.rows) == {"a, b.jpg": 2, "c.jpg": 3}
    assert table.columns["Where"] == ["in\nside", "outside"]


@pytest.mark.parametrize("pair", [("1", "0"), ("1", "-1"), ("true", "false"), ("TRUE", "False"),
                                  ("1.0", "0.0"), ("true", "0")])
def test_yes_and_no_are_written_in_several_ways(pair):
    table = parse(f"image,Hat\na,{pair[0]}\nb,{pair[1]}\nc,{pair[0]}\n")
    labels_NT, categories = labels_of(table, ("Hat",))
    assert not categories and labels_NT.dtype == bool
    assert labels_NT[:, 0].tolist() == [True, False, True]


def test_names_are_categories_in_the_order_of_the_alphabet_and_an_empty_cell_is_unknown():
    table = parse("image,Hair,Hat\na,wavy,1\nb,bald,0\nc,,1\nd,wavy,0\n")
    labels_NT, categories = labels_of(table, ("Hat", "Hair"))
    assert categories and labels_NT.dtype == np.int16
    assert labels_NT.tolist() == [[1, 1], [0, 0], [1, -1], [0, 1]]


def test_an_empty_cell_of_yes_or_no_is_unknown_and_makes_categories():
    table = parse("image,Hat,Tie\na,1,0\nb,,1\nc,0,1\n")
    labels_NT, categories = labels_of(table, ("Hat", "Tie"))
    assert categories and labels_NT.tolist() == [[1, 0], [-1, 1], [0, 1]]
    labels_NT, categories = labels_of(table, ("Tie",))  # alone it is yes or no
    assert not categories and labels_NT[:, 0].tolist() == [False, True, True]


def test_the_split_is_that_of_the_column():
    split_N, note = split_of(parse(PLAIN.replace("valid", "Val")))
    assert split_N.tolist() == [2, 0, 1] and split_N.dtype == np.uint8
    assert note == "split by its column"


@pytest.mark.parametrize("count", [10, 60, 1000])
def test_without_a_column_the_split_is_by_name_in_fixed_shares(count):
    names = [f"{n}.jpg" for n in range(count)]
    split_N, note = split_of(parse("image,Hat\n" + "".join(f"{name},1\n" for name in names)))
    assert note == "no column split: 70/10/20 by a hash of the name"
    assert np.bincount(split_N).tolist() == [7 * count // 10, count // 10, 2 * count // 10]
    again_N = shuffled_split(names[::-1])
    assert dict(zip(names[::-1], again_N, strict=True)) == dict(
        zip(sorted(names), split_N, strict=True))


# What is wrong

@pytest.mark.parametrize(("text", "message"), [
    ("", "has no rows of images"),
    ("image,Hat\n", "has no rows of images"),
    ("\n\n,,\n", "has no rows of images"),
    ("image\na.jpg\n", "has no column of an attribute"),
    ("image,split\na.jpg,test\n", "has no column of an attribute"),
    (",image,Hat\n0,a.jpg,1\n", "column 1 has no name; .*pandas without its index"),
    ("image,Hat,hat\na.jpg,1,1\n", "has two columns 'hat'"),
    ("image,Hat\na.jpg,1\nb.jpg\n", "row 3: 1 cells; the header has 2: image, Hat"),
    ("image,Hat\na.jpg,1,0\n", "row 2: 3 cells"),
    ("image,Hat\na.jpg,1\n\nb.jpg,1\na.jpg,0\n", r"row 5: image 'a\.jpg' has row 2 already"),
    ("image,Hat\na.jpg,1\n./a.jpg,0\n", r"row 3: image 'a\.jpg' has row 2 already"),
    ("image,Hat\n,1\n", "row 2: '' is no image"),
    ("image,Hat\n../a.jpg,1\n", r"row 2: '\.\./a\.jpg' is no image"),
    ("image,Hat\n/a.jpg,1\n", r"row 2: '/a\.jpg' is no image"),
    ('image,Hat\n"a.jpg,1\n', "cannot be read, near line 2"),
])
def test_a_table_that_is_wrong_is_named_with_its_row(text, message):
    with pytest.raises(ModlibError, match=rf"^attributes\.csv.*{message}"):
        parse(text)


@pytest.mark.parametrize(("cells", "message"), [
    (["yes", "no", "Yes"], "row 4: Hat is 'Yes', and 'yes' in row 2; write each category in one"),
    (["no", "yes", "NO", "no"], "row 4: Hat is 'NO', and 'no' in row 2"),
    (["dark  blue", "dark blue"], "row 3: Hat is 'dark blue', and 'dark  blue' in row 2"),
    (["caf\u00e9", "cafe\u0301"], "row 3"),
    *(([word, "1"], f"row 2: Hat is '{word}'; leave the cell empty") for word in
      ("nan", "NaN", "NA", "n/a", "N/A", "null", "None")),
    (["wavy", "NA"], "row 3: Hat is 'NA'; leave the cell empty"),
    (["0.9", "0.1"], "row 2: Hat is '0.9'; allowed in a column of categories: names, and whole"),
    (["2", "2.5"], r"row 3: Hat is '2\.5'"), (["wavy", ".5"], "row 3"), (["2", "1e3"], "row 3"),
    (["1", "0.9"], r"row 3: Hat is '0\.9'; allowed in this column: 0 and 1"),
    ([f"x{n}" for n in range(32768)], "Hat has 32768 categories; allowed: up to 32767"),
])
def test_a_label_that_could_be_meant_otherwise_is_refused(cells, message):
    table = parse("image,Hat\n" + "".join(f"{n:05d},{cell}\n" for n, cell in enumerate(cells)))
    with pytest.raises(ModlibError, match=rf"^attributes\.csv.*{message}"):
        labels_of(table, ("Hat",))


def test_a_decimal_comma_is_no_category():
    with pytest.raises(ModlibError, match="row 2: Hat is '0,9'; allowed in a column"):
        labels_of(parse("image;Hat\na;0,9\nb;0,1\n"), ("Hat",))


def test_a_whole_number_is_one_category_however_it_is_written():
    labels_NT, _ = labels_of(parse("image,Hat\na,2\nb,3.0\nc,2.0\nd,+3\ne,-7\nf,02\ng,\n"),
                             ("Hat",))
    assert labels_NT[:, 0].tolist() == [1, 2, 1, 2, 0, 1, -1]


# Against a slow parser

def slowly_labelled(cells: list[str]) -> list[int] | None:
    """What the cells of a column say, one by one; None: they must be refused."""
    cells = [cell.strip() for cell in cells]
    names = []
    for cell in cells:
        try:
            names.append(str(int(float(cell))))
        except (ValueError, OverflowError):
            names.append(cell)
    for cell in cells:
        if cell.lower() in ("nan", "na", "n/a", "null", "none"):
            return None
    yes, no, minus = ("1", "1.0", "true"), ("0", "0.0", "false"), ("-1", "-1.0")
    if any(cell.lower() in yes + no + minus for cell in cells):
        labels = []
        for cell in cells:
            if cell.lower() not in (*yes, *no, *minus, ""):
                return None
            labels.append(1 if cell.lower() in yes else 0 if cell else -1)
        both = any(cell.lower() in no for cell in cells) and any(cell in minus for cell in cells)
        return None if both else labels
    for cell, name in zip(cells, names, strict=True):
        if name != cell and float(cell) != int(float(cell)):
            return None
        if any(name.lower() == other.lower() and name != other for other in names):
            return None
    return [sorted({*names} - {""}).index(name) if name else -1 for name in names]


WORDS = ["1", "0", "-1", "true", "FALSE", "1.0", "", "yes", "Yes", "no", "NA", "nan", "None", "2",
         "2.0", "10", "0.9", "wavy", " wavy ", "bald"]
def assert_labelled_as_slowly(cells: Sequence[str], names: Sequence[str], separator: str) -> None:
    """The cells' labels, or their refusal, are those of the slow parser."""
    table = parse("".join(f"{name}{separator}{cell}\n" for name, cell in
                          [("image", "Hat"), *zip(names, cells, strict=True)]))
    wanted = slowly_labelled([cell for _, cell in sorted(zip(names, cells, strict=True))])
    try:
        labels_NT, categories = labels_of(table, ("Hat",))
    except ModlibError:
        assert wanted is None, cells
    else:
        assert labels_NT[:, 0].tolist() == wanted, cells
        assert categories or "" not in [cell.strip() for cell in cells]


def test_every_short_columns_labels_are_those_of_a_slow_parser():
    for cells in product(WORDS, repeat=3):
        assert_labelled_as_slowly(cells, "abc", ",")


@given(cells=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), data=st.data())
def test_a_columns_labels_are_those_of_a_slow_parser(cells, data):
    names = data.draw(st.permutations([f"{n}.jpg" for n in range(len(cells))]))
    assert_labelled_as_slowly(cells, names, data.draw(st.sampled_from(",;\t")))


CELLS = ["image", "Hat", "split", "test", "a.jpg", "b.jpg", "1", "-1", "true", "", '"', " ", "..",
         "\x00", "é", "wavy", "Wavy", "NA", "2", "2.0", "0.5"]


@given(st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=4), max_size=6),
       st.sampled_from(["\n", "\r\n", "\r"]))
def test_whatever_the_text_it_is_a_table_or_a_refusal(rows, end):
    text = end.join(",".join(cells) for cells in rows)
    try:
        table = parse(text)
        labels_NT, _ = labels_of(table, tuple(table.columns))
        split_N, _ = split_of(table)
    except ModlibError as error:
        assert "attributes.csv" in str(error)
    else:
        read = [[cell.strip() for cell in line] for line in csv.reader(io.StringIO(text, ""))]
        [header] = [line for line in read if any(line)][:1]
        for t, column in enumerate(table.columns):
            cells = [read[number - 1][header.index(column)] for number in table.rows.values()]
            assert labels_NT[:, t].tolist() == slowly_labelled(cells)
        assert labels_NT.shape == (len(table.rows), len(table.columns))
        assert len(split_N) == len(table.rows)


@pytest.mark.parametrize(("cells", "row", "value"), [
    (["1", "0", "maybe"], 4, "maybe"), (["maybe", "0", "1"], 2, "maybe"),
    (["1", "2", "0"], 3, "2"), (["0", "1", "-1"], 4, "-1"), (["false", "-1", "true"], 3, "-1")])
def test_a_value_that_does_not_fit_its_column_is_named_with_its_row(cells, row, value):
    table = parse("image,Hat\n" + "".join(f"{n}.jpg,{cell}\n" for n, cell in enumerate(cells)))
    with pytest.raises(ModlibError, match=(
            rf"^attributes\.csv, row {row}: Hat is '{value}'; allowed in this column: 0 and 1")):
        labels_of(table, ("Hat",))


def test_an_unknown_attribute_is_refused_with_the_nearest():
    with pytest.raises(ModlibError, match=r"'Smilng' is not in attributes\.csv; .*'Smiling'"):
        labels_of(parse(PLAIN), ("Smilng",))


@pytest.mark.parametrize("value", ["tests", "", "0"])
def test_a_split_that_is_none_is_named_with_its_row(value):
    table = parse(PLAIN.replace("valid", value))
    with pytest.raises(ModlibError, match=rf"row 4: split is '{value}'; allowed: train, valid"):
        split_of(table)
