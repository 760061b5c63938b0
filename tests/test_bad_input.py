"""Each thing that fuzzing found was refused badly, or not at all, by itself; and that every promise
of the book names a test that is there."""

import ast
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import small_celeba
import small_zappos
from small_celeba import kaggle, official, replace, write
from test_clevr import scene, thing
from test_cub_200 import root as birds  # noqa: F401  # a fixture

from modlib import multi_mnist
from modlib.celeba_files import read_celeba
from modlib.clevr import QUESTIONS, load_clevr
from modlib.cub_200 import PARTS, load_cub_200
from modlib.errors import ModlibError
from modlib.image_files import Files
from modlib.multi_mnist import read_mnist
from modlib.packed_images import HEADER_BYTES, MAGIC, header_bytes, index_bytes, open_images
from modlib.photographs import text_of
from modlib.settings import Settings
from modlib.zappos_files import TASKS, read_categories, read_lists

ROOT = Path(__file__).resolve().parents[1]

# CelebA


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("list_attr_celeba.txt", "24\n", "25\n", "has 24 rows, but its first line says 25"),
    ("list_attr_celeba.txt", "000024.jpg", "000024.jpg  1 1 1\n000025.jpg", "has 25 rows.* 24"),
    ("list_attr_celeba.txt", "Smiling Young", "Smiling Smiling", "'Smiling' is no name .* two"),
    ("list_attr_celeba.txt", "Smiling Young", "Smiling -1", "'-1' is no name of a column"),
    ("list_attr_celeba.txt", "000003.jpg", "000003.jpg\0", "is no text: it holds a byte of 0"),
    ("list_eval_partition.txt", "000001.jpg 0", "image 0 part\n000001.jpg 0",
     r"list_eval_partition\.txt, line 1: 3 value columns, not one: image, 0, part"),
])
def test_a_table_of_celeba_that_does_not_fit_itself(tmp_path, name, old, new, message):
    root = write(tmp_path / "root", official())
    replace(root, name, old, new)
    with pytest.raises(ModlibError, match=message):
        read_celeba(root)


def test_a_csv_without_its_header(tmp_path):
    """Its first row has as many fields as a header: attributes would be called -1 and 1."""
    root = write(tmp_path / "root", kaggle())
    path = root / "list_attr_celeba.csv"
    path.write_text(path.read_text().partition("\n")[2])
    with pytest.raises(ModlibError, match=r"line 1: '-1' is no name of a column"):
        read_celeba(root)


def test_a_partition_with_two_value_columns(tmp_path):
    root = write(tmp_path / "root", kaggle())
    path = root / "list_eval_partition.csv"
    path.write_text("image_id,fold,partition\n" + "".join(
        f"{line.replace(',', ',1,')}\n" for line in path.read_text().splitlines()[1:]))
    with pytest.raises(ModlibError, match="2 value columns, not one: fold, partition"):
        read_celeba(root)


# UT-Zappos50K


@pytest.mark.parametrize("line", ["1 2 1_0", "1 2 +3", "1 2 ٣", "1 2", "1 2 3 4",
                                  f"1 2 {'9' * 5000}"])
def test_a_line_of_a_list_that_is_not_three_plain_numbers(tmp_path, line):
    root = write(tmp_path, {name: data for name, data in small_zappos.official().items()
                            if "list" in name})
    (root / "tripletlists/class_tripletlist_train.txt").write_text(f"{line}\n")
    with pytest.raises(ModlibError, match=r"class_tripletlist_train\.txt, line 1: .*three whole"):
        read_lists(Files(root), "", small_zappos.COUNT)


@pytest.mark.parametrize(("old", "new", "message"), [
    ('"Leather;Suede",Round', "Leather,Suede,Round", r"line 2: not 9 fields"),
    (',"Leather;Suede",Round', "", "line 2: not 9 fields"),
    ("Round", '"Round', "unexpected end of data"),
    ("100007-1", "100000-0", "two rows for CID 100000-0 that differ"),
    ("SubCategory", "Category", "two columns of one name"),
])
def test_a_table_of_categories_that_does_not_fit_itself(old, new, message):
    text = small_zappos.meta_data()
    assert old in text
    text = text.replace(old, new, 1) if old != "Round" else new.join(text.rsplit(old, 1))
    with pytest.raises(ModlibError, match=message):
        read_categories(text, "meta-data.csv", small_zappos.PATHS, TASKS)


# CLEVR, CUB-200, MNIST


@pytest.fixture
def clevr(tmp_path):
    """Two scenes a part; ``spoil`` changes the first of those to train on and loads them."""
    def spoil(change, text=None):
        for part in ("train", "val"):
            scenes = [{"image_filename": f"{n}.png"} | scene(thing("sphere", n), thing("cube", 3))
                      for n in range(2)]
            if part == "train":
                change(scenes)
            content = text if text and part == "train" else json.dumps({"scenes": scenes})
            write(tmp_path, {f"scenes/CLEVR_{part}_scenes.json": content.encode()} | {
                f"images/{part}/{n}.png": small_celeba.image_bytes(n) for n in range(2)})
        load_clevr.__wrapped__(tmp_path, tuple(QUESTIONS), 16, str(tmp_path / "cache"))
    return spoil


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s[0]["objects"][0].update(shape="sphree"), "shape is 'sphree'; allowed: cube, sph"),
    (lambda s: s[0]["objects"][0].update(color="rde"), "color is 'rde'"),
    (lambda s: s[0]["objects"][0].update(size=None), "size is None"),
    (lambda s: s[0]["objects"][0].update(pixel_coords=["1", 2]), "pixel_coords are no numbers"),
    (lambda s: s[0]["objects"][0].update(pixel_coords=[float("nan")]), "NaN is no number"),
    (lambda s: s[0].update(image_filename=["0.png"]), "image_filename"),
    (lambda s: s[0]["relationships"]["right"].pop(), "right must name, for each of the 2"),
    (lambda s: s[0]["relationships"].update(right=[[-1], [0]]), "right must name"),
    (lambda s: s.append(s[0]), "describes some image twice"),
])
def test_a_scene_that_the_questions_would_misread(clevr, change, message):
    clevr(lambda scenes: None)
    with pytest.raises(ModlibError, match=message):
        clevr(change)


def test_scenes_nested_beyond_any_depth(clevr):
    with pytest.raises(ModlibError, match="is no scene file of CLEVR"):
        clevr(lambda scenes: None, "[" * 100_000)


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("train_test_split.txt", "3 1\n", "", "must have one row of 0 or 1 for each of the 12"),
    ("train_test_split.txt", "3 1\n", "3 2\n", "must have one row of 0 or 1"),
    ("train_test_split.txt", "3 1\n", "2 1\n", "image in line 3 is missing, or is there twice"),
    ("images.txt", "3 001", "2 001", "image in line 3"),
    ("attributes/attributes.txt", "2 has", "1 has", "attribute in line 2"),
    ("parts/parts.txt", "14 tail\n", "", "lacks 'tail'"),
    ("parts/part_locs.txt", "1 2 0.0 0.0 0\n", "1 1 0.0 0.0 0\n", "has a part of an image twice"),
    ("attributes/image_attribute_labels.txt", "1 15 1 3", "1 15\n1 15 1 3", "too few numbers"),
    ("attributes/image_attribute_labels.txt", "1 15", "1\0 15", "is no text"),
    ("attributes/image_attribute_labels.txt", "7.5\n1 2", "7.5 1 2", "more than 8 fields"),
    ("attributes/image_attribute_labels.txt", "7.5\n1 13", "7.5 1 13", "Expected 8 fields"),
])
def test_a_table_of_cub_that_does_not_fit_the_others(birds, name, old, new, message):  # noqa: F811
    replace(birds, name, old, new)
    with pytest.raises(ModlibError, match=message):
        load_cub_200.__wrapped__(birds, tuple(PARTS), 16, str(birds / "cache"))


def test_attributes_without_a_part(birds):  # noqa: F811
    replace(birds, "attributes/attributes.txt", "has_wing_color", "has_wng_color", -1)
    with pytest.raises(ModlibError, match="lacks has_wing_color"):
        load_cub_200.__wrapped__(birds, tuple(PARTS), 16, str(birds / "cache"))


def test_a_packed_idx_file_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(multi_mnist, "MOST_BYTES", 1000)
    content = gzip.compress(bytes(1001))
    write(tmp_path, {f"t10k-{kind}-ubyte.gz": content for kind in ("images-idx3", "labels-idx1")})
    with pytest.raises(ModlibError, match="would unpack to more than 1,000 bytes"):
        read_mnist(tmp_path)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1 2\0")
    with pytest.raises(ModlibError, match=r"a\.txt is no text: it holds a byte of 0"):
        text_of(tmp_path, ["a.txt"])


# Settings, caches


def test_a_number_too_large_for_any_number():
    with pytest.raises(ModlibError, match="learning_rate must be from"):
        Settings(learning_rate=10**400)


@pytest.mark.parametrize("header", [
    b"[" * 4082, b'{"format": 1, "identity": "it", "image_size": 16, "count": 1e400}',
    b'{"format": 1, "identity": "it", "image_size": 16, "count": 99999999999999999999999, '
    b'"index_bytes": 0}',
    b'{"format": 1, "identity": "it", "image_size": 16, "count": 0, "index_bytes": 0}', b"[]",
    b"3"])
def test_a_caches_header_that_is_none(tmp_path, header):
    (tmp_path / "a.images").write_bytes((MAGIC + header).ljust(HEADER_BYTES))
    with pytest.raises(ModlibError, match=r"a\.images"):
        open_images(tmp_path / "a.images", "it", 16)


def test_a_cache_whose_index_has_too_few_rows(tmp_path):
    index = index_bytes({"ids": np.array(["a"])}, {"broken": []})
    (tmp_path / "a.images").write_bytes(header_bytes({
        "format": 1, "identity": "it", "image_size": 16, "count": 2, "pixel_digest": "0" * 64,
        "index_bytes": len(index)}) + bytes(2 * 3 * 16 * 16) + index)
    with pytest.raises(ModlibError, match="its index has not a row an image"):
        open_images(tmp_path / "a.images", "it", 16)


# The page of promises


def test_every_promise_names_a_test_that_is_there():
    rows = [line for line in (ROOT / "book/promises.md").read_text("utf8").splitlines()
            if line.startswith("| ") and "held by" not in line]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`([^`]+)`", row.rpartition(" | ")[2])
        assert named, row
        for test in named:
            path, _, function = test.partition("::")
            assert path.startswith("tests/test_") and function.startswith("test_"), row
            code = ast.parse((ROOT / path).read_text("utf8"))
            assert function in [one.name for one in code.body if isinstance(one, ast.FunctionDef)]
