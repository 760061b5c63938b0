"""Bad input is refused with modlib's own error, or read rightly; never a traceback from the depths,
never a wrong label. Wherever an answer comes, an obvious slow parser gives the same.

A few hundred cases here; `pytest tests/test_fuzz.py --hypothesis-profile=soak` tries thousands.
"""

import csv
import gzip
import io
import json
import os
import struct
from dataclasses import fields
from pathlib import Path, PurePosixPath
from unittest.mock import patch

import numpy as np
import pytest
import small_celeba
import small_zappos
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mutations import VALUES, mutated, mutated_json
from test_clevr import scene, thing
from test_cub_200 import root as cub_root  # a fixture

from modlib import any_network, three_attributes, twenty_attributes
from modlib.batch import notebooks_for, read_settings
from modlib.celeba_files import read_celeba
from modlib.clevr import QUESTIONS, load_clevr
from modlib.cub_200 import CLASSES, COLOURS, PARTS, load_cub_200
from modlib.errors import ModlibError
from modlib.executed_copies import status_table
from modlib.image_cache import pack_images
from modlib.image_files import Files
from modlib.multi_mnist import read_mnist
from modlib.packed_images import HEADER_BYTES, open_images
from modlib.record_checks import check_name
from modlib.results import plain, read_record, read_records, write_record
from modlib.settings import Places, Settings
from modlib.zappos_files import (
    COLUMNS,
    LISTS,
    TASKS,
    read_categories,
    read_lists,
    read_text,
    splits_of,
)

ROOT = Path(__file__).resolve().parents[1]


def cases(valid: dict[str, bytes], files=None):
    """Which file of a data set is changed, and its new bytes."""
    return st.sampled_from(sorted(files or valid)).flatmap(
        lambda name: st.tuples(st.just(name), mutated(valid[name])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# CelebA


def slow_table(data: bytes, csv_file: bool) -> list[list[str]]:
    """A list of rows, each a list of fields; blank lines and a count in front are left out."""
    rows = [[field.strip(' "') for field in (line.split(",") if csv_file else line.split())]
            for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    return rows[1:] if len(rows[0]) == 1 and rows[0][0].isdigit() else rows


def slow_celeba(root: Path, ids: list[str], suffix: str) -> tuple[list, list]:
    """Labels and splits of some images, by looking through every row for each of them."""
    header, *rows = slow_table((root / f"list_attr_celeba.{suffix}").read_bytes(), suffix == "csv")
    partition = slow_table((root / f"list_eval_partition.{suffix}").read_bytes(), suffix == "csv")
    labels, splits = [], []
    for name in ids:
        [row] = [row for row in rows if row[0].split(".")[0] == name]
        assert len(row) == len(header) + (suffix == "txt")
        assert set(row[1:]) <= {"1", "-1", "0"}
        labels.append([value == "1" for value in row[1:]])
        [row] = [row for row in partition if row[0].split(".")[0] == name]
        [value] = row[1:]
        splits.append(int(value))
    return labels, splits


CELEBA = {
    suffix: {name: data if name.endswith(suffix) else b"" for name, data in files.items()}
    for suffix, files in (("txt", small_celeba.official()), ("csv", small_celeba.kaggle()))}


@pytest.mark.parametrize("suffix", ["txt", "csv"])
@given(data=st.data())
def test_celebas_tables_are_refused_or_read_as_they_stand(folder, suffix, data):
    files = CELEBA[suffix]
    root = small_celeba.write(folder / suffix, files)
    names = [f"list_attr_celeba.{suffix}", f"list_eval_partition.{suffix}"]
    name, content = data.draw(cases(files, names))
    (root / name).write_bytes(content)
    try:
        rows, notes, _, _ = read_celeba(root)
    except ModlibError:
        return
    labels, splits = slow_celeba(root, rows["ids"].tolist(), suffix)
    assert rows["labels"].tolist() == labels
    assert rows["split"].tolist() == splits
    assert len(set(notes["attributes"])) == len(notes["attributes"]) == len(labels[0])


@given(content=mutated(small_celeba.official()["identity_CelebA.txt"]))
def test_an_identity_file_is_refused_or_keeps_people_together(folder, content):
    files = {name: data for name, data in CELEBA["txt"].items() if "partition" not in name}
    root = small_celeba.write(folder / "people", files | {"identity_CelebA.txt": content})
    try:
        rows = read_celeba(root)[0]
    except ModlibError:
        return
    person = {row[0].split(".")[0]: row[1] for row in slow_table(content, False)}
    split_of: dict[str, int] = {}
    for name, split in zip(rows["ids"].tolist(), rows["split"].tolist(), strict=True):
        assert split_of.setdefault(person[name], split) == split


@given(content=mutated(small_celeba.zipped(CELEBA["txt"])))
def test_an_archive_with_other_bytes_is_refused_or_read_as_it_was(folder, content):
    small_celeba.write(folder, {"whole.zip": small_celeba.zipped(CELEBA["txt"]), "a.zip": content})
    try:
        rows, _, files, _ = read_celeba(folder / "a.zip")
    except ModlibError:
        return
    files.close()
    whole = read_celeba(folder / "whole.zip")[0]
    kept = np.isin(whole["ids"], rows["ids"])
    assert all(np.array_equal(rows[key], whole[key][kept]) for key in ("ids", "labels"))


# UT-Zappos50K

ZAPPOS = {name: data for name, data in small_zappos.official().items()
          if not name.endswith(".jpg")}


def slow_triplets(data: bytes) -> list[list[int]]:
    """Anchor, positive, negative of each line of "anchor far close"."""
    rows = [line.split() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    assert all(field.isascii() and field.isdigit() for row in rows for field in row)
    return [[int(anchor), int(close), int(far)] for anchor, far, close in rows]


@given(case=cases(ZAPPOS, [name for name in ZAPPOS if "list" in name]))
def test_zappos_lists_are_refused_or_read_as_they_stand(folder, case):
    name, content = case
    root = small_celeba.write(folder / "zappos", ZAPPOS | {name: content})
    try:
        lists = read_lists(Files(root), "", len(small_zappos.PATHS))
        split_P = splits_of(lists, small_zappos.PATHS)
    except ModlibError:
        return
    for number, (split, theirs) in enumerate(LISTS.items()):
        for task in TASKS:
            path = root / f"tripletlists/{task}_tripletlist_{theirs}.txt"
            assert lists[split][task].tolist() == slow_triplets(path.read_bytes())
            assert (split_P[lists[split][task]] == number).all()


@given(content=mutated(ZAPPOS["ut-zap50k-data/meta-data.csv"]))
def test_zappos_categories_are_refused_or_read_as_they_stand(folder, content):
    root = small_celeba.write(folder / "table", {"meta-data.csv": content})
    try:
        labels_NT = read_categories(
            read_text(Files(root), "meta-data.csv"), "meta-data.csv", small_zappos.PATHS, TASKS)
    except ModlibError:
        return
    header, *rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
                     if row]
    plain_header = [name.replace(".", "").replace(" ", "").lower() for name in header]
    for t, task in enumerate(TASKS):
        column = plain_header.index(COLUMNS[task].lower())
        values = {row[plain_header.index("cid")].strip(): row[column].strip() for row in rows}
        ordered = sorted({value for value in values.values() if value})
        for n, path in enumerate(small_zappos.PATHS):
            value = values.get(PurePosixPath(path).stem.replace(".", "-"), "")
            assert labels_NT[n, t] == (ordered.index(value) if value else -1)


# Records

SETTINGS = Settings(tasks=("Smiling", "Young"), epochs=2)
PAIR = {"tasks": ["Smiling", "Young"], "positive": 1, "negative": 2, "zero": 0}
RECORD = {
    "version": 1, "name": SETTINGS.run_name("data"), "status": "done",
    "settings": plain(SETTINGS.as_dict()),
    "data": {"fingerprint": "data", "source": "drawn", "images": {"train": 9}},
    "results": {"test_accuracy": {"Smiling": 1.0, "Young": 0.5},
                "retrieval": {"Smiling": {"queries": 3, "mAP": 0.5},
                              "Young": {"queries": 0, "mAP": None}},
                "parameters": {"total": 12, "shared": 10, "task": 2}, "dead_scales": 0,
                "w_distance": [{"tasks": ["Young", "Smiling"], "mean": 0.5, "variance": 0.0}]},
    "epochs": [{"epoch": n, "loss": 0.5, "task_losses": {"Smiling": 0.0, "Young": 1.0},
                "images": 9, "seconds": 0.1, "ucr_batches": 3, "ucr": [PAIR],
                "valid_accuracy": {"Smiling": 0.5, "Young": 0.5}} for n in (1, 2)],
    "run": {"training_seconds": 0.2, "images_per_second": 8.0}}


@given(data=st.data())
def test_a_record_with_other_bytes_is_refused_or_read_as_it_was(folder, data):
    path = folder / "bytes" / f"{RECORD['name']}.json"
    write_record(path, RECORD)
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    try:
        assert read_record(path, signed=True) == RECORD
    except ModlibError as error:
        assert str(path) in str(error)


def shares_in(record: dict) -> list:
    return [share for measures in (record["results"], *record["epochs"])
            for key, found in measures.items() if key.endswith("_accuracy") and found is not None
            for share in found.values()]


@given(content=mutated_json(RECORD))
def test_a_signed_record_of_other_content_is_refused_or_can_be(folder, content):
    path = folder / "content" / "a.json"
    try:
        write_record(path, content)
    except ValueError:  # a number that JSON does not know
        return
    try:
        [record] = read_records(path.parent)
        check_name(record, Settings)
    except ModlibError:
        return
    assert all(0 <= share <= 1 for share in shares_in(record))
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert plain(record["settings"]) == plain(RECORD["settings"]) or record["name"] == Settings(
        **record["settings"]).run_name(record["data"]["fingerprint"])


# Settings

PARAMETERS = sorted({field.name for cls in (Settings, Places) for field in fields(cls)}
                    | {"seeds", "rows", "variants", "epoch", "widht"})
STUDIES = (three_attributes.study, any_network.study, twenty_attributes.STUDY.lay_out)
FILES = {f"{name}.yml": (ROOT / f"notebooks/settings/{name}.yml").read_bytes()
         for name in ("quick", "celeba_cpu", "celeba_cpu_20")}


def refused_or_as_given(study, parameters: dict) -> None:
    try:
        runs, places = study(parameters)[:2]
    except ModlibError:
        return
    for settings in (one for of_row in runs.values() for one in of_row):
        for name in ("learning_rate", "epochs", "batches_per_epoch", "horizontal_flip", "schedule",
                     "image_size", "profile"):
            if name in parameters:
                assert getattr(settings, name) == parameters[name]
                assert type(getattr(settings, name)) in (type(parameters[name]), float)
    for name in ("data_root", "device", "workers", "skip_broken"):
        if name in parameters:
            assert getattr(places, name) == parameters[name]


@pytest.mark.parametrize("study", STUDIES)
@given(parameters=st.dictionaries(st.sampled_from(PARAMETERS), VALUES, max_size=3))
def test_parameters_are_refused_or_taken_as_given(study, parameters):
    refused_or_as_given(study, parameters)


@given(case=cases(FILES))
def test_settings_files_are_refused_or_taken_as_given(folder, case):
    (folder / case[0]).write_bytes(case[1])
    try:
        parameters = read_settings(folder / case[0])
    except ModlibError as error:
        assert str(folder / case[0]) in str(error)
        return
    assert parameters == (yaml.safe_load(case[1]) or {})
    for study in STUDIES:
        refused_or_as_given(study, parameters)


@given(case=cases(FILES))
def test_the_notebooks_of_a_settings_file_are_told_or_it_is_refused(folder, case):
    (folder / case[0]).write_bytes(case[1])
    try:
        told = notebooks_for(folder / case[0])
    except ModlibError as error:
        assert case[0] in str(error)
    else:
        assert set(told) <= set((ROOT / "notebooks").glob("*.ipynb"))


COPY = {"metadata": {"papermill": {"end_time": "2030-01-01"}}, "cells": [
    {"outputs": [{"output_type": "error", "ename": "OSError", "evalue": "é"}]},
    {"outputs": [{"output_type": "display_data", "metadata": {"modlib": {"records": ["a"]}}}]}]}


@given(content=st.one_of(mutated(json.dumps(COPY, ensure_ascii=False).encode()),
                         mutated_json(COPY).map(lambda copy: json.dumps(copy).encode())))
def test_the_state_of_an_executed_copy_is_told_or_it_is_named(folder, content):
    copy = folder / "02.two.ipynb"
    copy.write_bytes(content)
    try:
        with patch("modlib.results.project_root", lambda: folder):
            [state] = status_table([copy]).state
    except ModlibError as error:
        assert str(copy) in str(error) or "record" in str(error)
    else:
        assert state in ("done", "failed", "stopped", "not finished")


# Packed images


@pytest.fixture(scope="module")
def packed(folder):
    """A cache of six images, and its pixels' place in the file."""
    root = small_celeba.write(folder / "pack", {
        f"{n}.png": small_celeba.image_bytes(n) for n in range(6)})
    rows = {"ids": np.array([f"{n}" for n in range(6)]), "labels": np.eye(6, dtype=bool)}
    pack_images(Files(root), [f"{n}.png" for n in range(6)], folder / "good.images", 16,
                identity="it", source="s", rows=rows, notes={"a": [1]}, progress=False)
    return (folder / "good.images").read_bytes(), HEADER_BYTES, HEADER_BYTES + 6 * 3 * 16 * 16, rows


@given(data=st.data())
def test_a_cache_with_another_header_or_index_is_refused_or_read_as_it_was(folder, packed, data):
    content, start, end, rows = packed
    if data.draw(st.booleans()):
        block = data.draw(st.one_of(
            mutated(content[:start].rstrip()), mutated_json(json.loads(content[14:start])).map(
                lambda header: b"modlib images\n" + json.dumps(header).encode()),
            st.just(b"modlib images\n" + b"[" * 4082)))
        content = block.ljust(HEADER_BYTES)[:HEADER_BYTES] + content[start:]
    else:
        content = content[:end] + data.draw(mutated(content[end:]))
    (folder / "bad.images").write_bytes(content)
    try:
        opened = open_images(folder / "bad.images", "it", 16)
    except ModlibError:
        return
    assert all(np.array_equal(opened.rows[name], rows[name]) for name in rows)
    assert (opened.images_NCHW.shape, opened.notes) == ((6, 3, 16, 16), {"a": [1], "broken": []})


# MNIST


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


RNG = np.random.default_rng(3)
MNIST = {"t10k-images-idx3-ubyte": idx(RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8)),
         "t10k-labels-idx1-ubyte": idx(RNG.integers(0, 10, 20, dtype=np.uint8))}
HEADERS = {"t10k-images-idx3-ubyte": 16, "t10k-labels-idx1-ubyte": 8}


@given(data=st.data())
def test_mnists_files_are_refused_or_read_as_they_stand(folder, data):
    name, content = data.draw(st.one_of(cases(MNIST), st.sampled_from(sorted(MNIST)).flatmap(
        lambda name: st.tuples(st.just(name), mutated(MNIST[name][:HEADERS[name]]).map(
            lambda head: head + MNIST[name][HEADERS[name]:])))))
    files = MNIST | {name: content}
    for other in (folder / "mnist").glob("*"):
        other.unlink()
    if packed := data.draw(st.booleans()):
        files = {f"{name}.gz": gzip.compress(data, 1) for name, data in files.items()}
        if data.draw(st.booleans()):
            files[f"{name}.gz"] = data.draw(mutated(files[f"{name}.gz"]))
    small_celeba.write(folder / "mnist", files)
    try:
        digits = read_mnist(folder / "mnist")
    except ModlibError:
        return
    images, labels = (gzip.decompress(files[f"{name}.gz"]) if packed else files[name]
                      for name in sorted(MNIST))
    count = struct.unpack(">I", labels[4:8])[0]
    assert struct.unpack(">4I", images[:16])[1:] == (count, 28, 28)
    assert digits.labels_D.tolist() == list(labels[8:8 + count])
    assert digits.images_DHW.tobytes() == images[16:16 + count * 784]


# CLEVR and CUB-200

SCENES = {part: {"scenes": [
    {"image_filename": f"CLEVR_{part}_{n}.png"} | scene(
        thing("sphere", 5 * n, "red" if n % 2 else "blue", "large"), thing("cube", 7, "gray"),
        *[thing("cylinder", 9)] * (n % 3)) for n in range(4)]} for part in ("train", "val")}


def slow_answers(one: dict) -> list[int]:
    shapes = [thing["shape"] for thing in one["objects"]]
    spheres = [thing for thing in one["objects"] if thing["shape"] == "sphere"]
    right = any(shapes[n] == "sphere" and shapes[other] == "cube"
                for n, others in enumerate(one["relationships"]["right"]) for other in others)
    first = sorted(spheres, key=lambda sphere: sphere["pixel_coords"][0])[:1]
    return [shapes.count("cylinder") == 2, right,
            any(sphere["color"] == "red" for sphere in spheres),
            first[0]["size"] == "large" if first else -1]


@given(part=st.sampled_from(["train", "val"]), data=st.data())
def test_clevrs_scenes_are_refused_or_answered_as_they_stand(folder, part, data):
    root = folder / "clevr"
    contents = {name: json.dumps(scenes).encode() for name, scenes in SCENES.items()}
    contents[part] = data.draw(st.one_of(
        mutated(contents[part]), mutated_json(SCENES[part]).map(lambda c: json.dumps(c).encode()),
        st.just(b"[" * 100_000)))
    for name, content in contents.items():
        small_celeba.write(root, {f"scenes/CLEVR_{name}_scenes.json": content} | {
            f"images/{name}/{one['image_filename']}": small_celeba.image_bytes(n)
            for n, one in enumerate(SCENES[name]["scenes"])})
    try:
        found = load_clevr.__wrapped__(root, tuple(QUESTIONS), 16, str(folder / "cache"))
    except ModlibError:
        return
    asked = [one for name in ("train", "val") for one in json.loads(contents[name])["scenes"]
             if one["image_filename"] in {path.name for path in (root / "images" / name).iterdir()}]
    assert found.labels_NT.tolist() == [slow_answers(one) for one in asked]


def cub_file(root: Path, name: str, fields: int = 99) -> list[list[str]]:
    lines = (root / name).read_text("utf-8-sig").splitlines()
    return [line.strip().split(maxsplit=fields - 1) for line in lines if line.strip()]


def slow_colour(root: Path, image: str, kind: str) -> int:
    """The colour of a part that is marked as surest; of equally sure ones the first."""
    names = {float(number): name for number, name in cub_file(root, "attributes/attributes.txt", 2)}
    best, found = 1.0, CLASSES - 1
    for line in cub_file(root, "attributes/image_attribute_labels.txt"):
        part, _, colour = names.get(float(line[1]), "").partition("::")
        if float(line[0]) == float(image) and part == kind and colour in COLOURS and (
                float(line[2]) == 1 and float(line[3]) > best):
            best, found = float(line[3]), COLOURS.index(colour)
    return found


@given(data=st.data())
def test_cubs_tables_are_refused_or_read_as_they_stand(folder, cub_files, data):
    root = small_celeba.write(folder / "cub", cub_files)
    names = ("images.txt", "train_test_split.txt", "parts/parts.txt", "parts/part_locs.txt",
             "attributes/attributes.txt", "attributes/image_attribute_labels.txt")
    name, content = data.draw(cases(cub_files, names))
    (root / name).write_bytes(content)
    try:
        found = load_cub_200.__wrapped__(root, tuple(PARTS), 16, str(folder / "cache"))
    except ModlibError:
        return
    training = {float(image): float(value)
                for image, value in cub_file(root, "train_test_split.txt")}
    there = [(image, name) for image, name in cub_file(root, "images.txt", 2)
             if os.path.isfile(root / "images" / name)]  # a name may be too long to ask pathlib of
    assert [training[float(image)] == 0 for image, _ in there] == (found.split_N == 2).tolist()
    assert found.labels_NT.tolist() == [
        [slow_colour(root, image, kind) for kind, _ in PARTS.values()] for image, _ in there]


@pytest.fixture(scope="module")
def cub_files(tmp_path_factory):
    root = cub_root.__wrapped__(tmp_path_factory.mktemp("birds"))
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*") if path.is_file()}
