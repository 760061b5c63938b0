"""UT-Zappos50K from lists, table and pictures as they lie on disk; what is broken is named."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_celeba import write, zipped
from small_zappos import (
    COUNT,
    LABELS,
    OF_SPLIT,
    PATHS,
    PER_SPLIT,
    TASKS,
    TRIPLETS,
    UNUSED,
    VALUES,
    official,
    picture,
    triplets,
)

from modlib import zappos
from modlib.datasets import SPLITS
from modlib.errors import ModlibError
from modlib.experiments import run
from modlib.image_cache import decode_image
from modlib.zappos import load_zappos

LISTED = {"train": "train", "valid": "val", "test": "test"}
META = "ut-zap50k-data/meta-data.csv"
LIST = "tripletlists/closure_tripletlist_val.txt"


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("MODLIB_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "root", official())


@pytest.fixture
def no_decoding(monkeypatch):
    """Whatever is wrong must be told before the long work."""
    monkeypatch.setattr(zappos, "pack_images", None)


def load(root, **settings):
    return load_zappos(root, **{"image_size": 16, "progress": False, **settings})


def edit(root: Path, name: str, change) -> None:
    (root / name).write_text(change((root / name).read_text()))


def images_zipped() -> dict[str, bytes]:
    files = official()
    images = {name: files.pop(name) for name in list(files) if name.endswith("jpg")}
    return {**files, "ut-zap50k-images.zip": zipped(images)}


def table_at_the_root() -> dict[str, bytes]:
    files = official()
    return {**files, "meta-data.csv": files.pop(META)}


def dotted_columns() -> dict[str, bytes]:
    files = official()
    return {**files, META: files[META].replace(b"HeelHeight", b"Heel.Height")}


LAYOUTS = {
    "official": official(), "images in a zip": images_zipped(),
    "table at the root": table_at_the_root(), "Heel.Height": dotted_columns(),
    "archive": {"data.zip": zipped(official())},
    "archive of a folder": {"data.zip": zipped(official("zappos/"))},
}


# What is read

@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(tmp_path, root, layout):
    files = LAYOUTS[layout]
    other = write(tmp_path / "other", files)
    data = load(other / "data.zip" if "data.zip" in files else other)
    assert data.fingerprint == load(root).fingerprint


def test_images_are_those_of_the_lists_each_in_the_split_whose_lists_name_it(root):
    data = load(root)
    assert len(data.ids) == COUNT - UNUSED == 3 * PER_SPLIT
    for split in SPLITS:
        named = {PATHS[n] for t in range(4) for n in triplets(LISTED[split], t).flatten()}
        assert {data.ids[n] for n in data.indices(split)} == named
        assert named <= {PATHS[n] for n in OF_SPLIT[LISTED[split]]}
    for n, path in enumerate(data.ids):
        expected = decode_image(picture(PATHS.index(path)), 16)
        assert np.array_equal(data.images_NCHW[n], expected)


def test_triplets_are_those_of_the_lists_with_far_last(root):
    """The lists have 40 to 43 lines: the first 40 of each are used."""
    data = load(root)
    for split in SPLITS:
        assert data.triplets[split].shape == (4, TRIPLETS, 3)
        for t in range(4):
            found = [[data.ids[n] for n in triplet] for triplet in data.triplets[split][t]]
            assert found == [[PATHS[n] for n in triplet]
                             for triplet in triplets(LISTED[split], t)[:TRIPLETS]]
            labels_K3 = data.labels_NT[data.triplets[split][t], t]
            assert (labels_K3[:, 0] == labels_K3[:, 1]).all()
            assert (labels_K3[:, 0] != labels_K3[:, 2]).all()


def test_labels_are_the_tables_categories_in_the_order_of_the_alphabet(root):
    assert all(list(values) == sorted(values) for values in VALUES.values())
    data = load(root)
    assert data.labels_NT.dtype == np.int16
    for n, path in enumerate(data.ids):
        assert data.labels_NT[n].tolist() == LABELS[PATHS.index(path)].tolist()


def test_an_empty_cell_and_a_missing_row_are_not_known(root):
    first, second = load(root).ids[:2]
    cids = [Path(path).stem.replace(".", "-") for path in (first, second)]

    def change(text):
        kept = [line for line in text.splitlines() if not line.startswith(f"{cids[1]},")]
        cells = [line.split(",") for line in kept]
        for row in cells:
            if row[0] == cids[0]:
                row[3] = " "  # HeelHeight
        return "\n".join(",".join(row) for row in cells)

    edit(root, META, change)
    data = load(root)
    place = PATHS.index(first)
    assert data.labels_NT[0].tolist() == [*LABELS[place][:3], -1]
    assert data.labels_NT[1].tolist() == [-1] * 4
    assert (data.labels_NT[2:] >= 0).all()


def test_without_the_table_there_are_the_triplets_alone(root):
    whole = load(root)
    (root / META).unlink()
    data = load(root)
    assert (data.labels_NT == -1).all()
    assert data.labels_NT.dtype == np.int16
    assert np.array_equal(data.triplets["test"], whole.triplets["test"])
    assert "no meta-data.csv" in data.source
    assert "no meta-data.csv" not in whole.source


def test_tasks_are_those_asked_for_in_their_order(root):
    whole, data = load(root), load(root, tasks=["heel", "class"])
    assert data.tasks == ("heel", "class")
    assert np.array_equal(data.labels_NT, whole.labels_NT[:, [3, 0]])
    assert np.array_equal(data.split_N, whole.split_N)
    assert data.triplets["valid"].shape == (2, TRIPLETS, 3)
    assert np.array_equal(data.triplets["valid"][0], whole.triplets["valid"][3])


def test_images_are_decoded_once(root, monkeypatch):
    before = load(root)
    monkeypatch.setattr(zappos, "pack_images", None)
    assert load(root).fingerprint == before.fingerprint
    assert load(root, tasks=["gender"]).tasks == ("gender",)


def test_a_crop_is_cut_from_the_middle(root):
    data = load(root, crop=0.5)
    place = PATHS.index(data.ids[0])
    assert np.array_equal(data.images_NCHW[0], decode_image(picture(place), 16, 0.5))
    assert data.fingerprint != load(root).fingerprint


def test_the_fingerprint_is_of_the_contents_alone(root, tmp_path):
    before = load(root)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").fingerprint == before.fingerprint
    edit(root, LIST, lambda text: "\n".join(reversed(text.splitlines())))
    assert load(root).fingerprint != before.fingerprint
    assert str(tmp_path) not in before.source


# What is refused

@pytest.mark.parametrize("name", [
    "filenames.json", LIST, "tripletlists/class_tripletlist_train.txt"])
def test_a_missing_file_is_named(root, no_decoding, name):
    (root / name).unlink()
    with pytest.raises(ModlibError, match=f"holds no {name}; give a folder or a zip archive"):
        load(root)


def test_missing_images_are_named(root, no_decoding):
    shutil.rmtree(root / "ut-zap50k-images")
    with pytest.raises(ModlibError, match="holds no ut-zap50k-images; give"):
        load(root)


def test_a_root_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ModlibError, match=r"nowhere' does not exist; give a folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(("line", "message"), [
    ("1 2", r"line 3: '1 2'; a line is three whole numbers: anchor, far, close"),
    ("-0 1 2", r"line 3: '-0 1 2'; a line is three whole numbers"),
    ("1 2 3 4", "line 3: '1 2 3 4'; a line is three"),
    ("1 two 3", "line 3: '1 two 3'; a line is three"),
    (f"1 {COUNT} 3", f"line 3: {COUNT} is no line of filenames.json; allowed: 0 to {COUNT - 1}"),
    ("1 2 -1", "line 3: -1 is no line of filenames.json"),
])
def test_a_bad_line_of_a_list_is_told_by_its_number(root, no_decoding, line, message):
    def change(text):
        lines = text.splitlines()
        return "\n".join([lines[0], "", line, *lines[1:]])

    edit(root, LIST, change)
    with pytest.raises(ModlibError, match=f"^{LIST}, {message}"):
        load(root)


def test_a_list_without_a_triplet_is_refused(root, no_decoding):
    (root / LIST).write_text("\n")
    with pytest.raises(ModlibError, match=f"^{LIST} holds no triplet"):
        load(root)


def test_an_image_in_two_splits_is_named(root, no_decoding):
    place = triplets("train", 2)[0, 0]
    edit(root, LIST, lambda text: f"{text}{place} {place} {place}\n")
    with pytest.raises(ModlibError, match=(
            rf"^image {PATHS[place]} \({place} in filenames.json\) is in two splits: in train and, "
            "by the lists of closure, in valid")):
        load(root)


def test_an_unknown_task_is_refused_with_the_nearest(root, no_decoding):
    with pytest.raises(ModlibError, match="'clas' is not in UT-Zappos50K; did you mean 'class'"):
        load(root, tasks=["clas"])


def test_a_missing_column_is_named(root):
    edit(root, META, lambda text: text.replace("HeelHeight", "Heels"))
    with pytest.raises(ModlibError, match="column 'HeelHeight' is not in ut-zap50k-data/meta-data"):
        load(root)
    assert load(root, tasks=["class"]).tasks == ("class",)


def test_a_table_of_other_images_is_refused(root):
    edit(root, META, lambda text: text.replace("\n1", "\n9"))
    with pytest.raises(ModlibError, match=r"meta-data\.csv has a row for none of the images, such"):
        load(root)


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_an_image_that_cannot_be_read_is_named_or_left_out_with_its_triplets(root, how):
    whole = load(root)
    path = whole.ids[3]
    file = root / "ut-zap50k-images" / path
    file.unlink() if how == "missing" else file.write_bytes(b"\xff\xd8 torn")
    (root / "ut-zap50k-images" / "new").touch()  # a change that the cache notices
    with pytest.raises(ModlibError, match=f"cannot decode ut-zap50k-images/{path}"):
        load(root)
    with pytest.warns(UserWarning, match=f"1 images that cannot be decoded are left out: .*{path}"):
        data = load(root, skip_broken=True)
    assert data.ids == tuple(one for one in whole.ids if one != path)
    split = SPLITS[whole.split_N[3]]
    for t in range(4):
        kept = [[PATHS[n] for n in triplet] for triplet in triplets(LISTED[split], t)]
        kept = [triplet for triplet in kept if path not in triplet]
        given = [[data.ids[n] for n in triplet] for triplet in data.triplets[split][t]]
        assert given == kept[:len(given)]
    assert min(len(data.triplets[split][0]), TRIPLETS) == data.triplets[split].shape[1] > 0


def test_triplets_that_are_left_out_are_told_and_those_of_other_tasks_do_not_count(root):
    lengths = [len(triplets(LISTED["test"], t)) for t in range(4)]
    with pytest.warns(UserWarning, match=f"of the test split {min(lengths)} triplets a task are "
                                         f"used.*the longest has {max(lengths)}"):
        load(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = load(root, tasks=TASKS[-1:])
    assert alone.triplets["test"].shape[1] == lengths[-1]


# Trained on

@pytest.fixture
def small(tiny):
    """One epoch of two batches of two triplets a task."""
    return replace(tiny, dataset="zappos", tasks=TASKS, batching="triplets", batch_size=24,
                   epochs=1)


@pytest.mark.parametrize("layout", ["official", "archive"])
def test_it_is_run_from_disk_to_record(tmp_path, small, places, layout):
    root = write(tmp_path / "root", LAYOUTS[layout])
    file = root / "data.zip" if layout == "archive" else root
    record = run(small, replace(places, data_root=str(file)))
    assert record["data"]["images"] == {"train": 24, "valid": 24, "test": 24}
    assert set(record["results"]["test_accuracy"]) == set(TASKS)
    assert record["results"]["test_triplets"]["correct"]["shape"] == [4, TRIPLETS]
    assert all(score["queries"] > 0 for score in record["results"]["retrieval"].values())


def test_without_the_table_it_is_run_in_triplets_batching_alone(root, small, places):
    (root / META).unlink()
    places = replace(places, data_root=str(root))
    record = run(small, places)
    assert {score["queries"] for score in record["results"]["retrieval"].values()} == {0}
    shared = replace(small, batching="shared")
    with pytest.raises(ModlibError, match="no train image has one for class, closure, gender, he"):
        run(shared, places)


def test_shared_batching_forms_triplets_from_the_tables_categories(root, small, places):
    shared = replace(small, batching="shared")
    assert run(shared, replace(places, data_root=str(root)))["epochs"][0]["loss"] > 0
