"""CUB-200: colours and places from files of the official layout, and a training on a few birds."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
from PIL import Image

from modlib.cub_200 import CLASSES, COLOURS, PARTS, blurred_points, load_cub_200
from modlib.errors import ModlibError
from modlib.reading import run_reader
from modlib.task_readers import ReaderSettings

TASKS = tuple(PARTS)
POINTS = ["back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg",
          "left wing", "nape", "right eye", "right leg", "right wing", "tail", "throat"]
KINDS = [kind for kind, _ in PARTS.values()]
ATTRIBUTES = ["has_bill_shape::curved_(up_or_down)",
              *(f"{kind}::{colour}" for kind in KINDS for colour in COLOURS)]


def number(kind, colour):
    return 1 + ATTRIBUTES.index(f"{kind}::{colour}")


@pytest.fixture
def root(tmp_path):
    """12 images of 60×40 pixels, those of odd numbers to train on; more is told of the first."""
    folder = tmp_path / "CUB_200_2011"
    for name in ("images/001.Bird", "parts", "attributes"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"001.Bird/Bird_{n:04d}.jpg" for n in range(1, 13)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(
            folder / "images" / name)

    def write(name, lines):
        (folder / name).write_text("\n".join(lines) + "\n")
    write("images.txt", [f"{n} {name}" for n, name in enumerate(names, 1)])
    write("train_test_split.txt", [f"{n} {n % 2}" for n in range(1, 13)])
    write("parts/parts.txt", [f"{n} {name}" for n, name in enumerate(POINTS, 1)])
    located = {"left wing": "0.0 0.0 0", "right wing": "30.0 10.0 1", "left eye": "15.0 30.0 1",
               "right eye": "45.0 30.0 1", "throat": "60.0 40.0 1"}
    write("parts/part_locs.txt", [
        f"{image} {n} " + (located.get(name, "0.0 0.0 0") if image == 1 else "12.0 20.0 1")
        for image in range(1, 13) for n, name in enumerate(POINTS, 1)])
    write("attributes/attributes.txt", [f"{n} {name}" for n, name in enumerate(ATTRIBUTES, 1)])
    wing, eye, leg, bill = (PARTS[part][0] for part in ("wing", "eye", "leg", "bill"))
    marks = {1: {(wing, "red"): (1, 3), (wing, "blue"): (1, 4), (wing, "black"): (0, 4),
                 (eye, "grey"): (1, 2), (eye, "pink"): (1, 2), (leg, "buff"): (1, 1)},
             2: {(bill, "buff"): (1, 4)}}
    write("attributes/image_attribute_labels.txt", [
        f"{image} {number(kind, colour)} {present} {certainty} 7.5"
        + (" 0 1.0" if colour == "grey" else "")  # some rows have fields too many
        for image, of_image in marks.items()
        for (kind, colour), (present, certainty) in of_image.items()])
    load_cub_200.cache_clear()
    return folder


def colour_of(data, image, part):
    label = data.labels_NT[image, data.tasks.index(part)]
    return "unknown" if label == CLASSES - 1 else COLOURS[label]


def test_the_surest_colour_counts_then_the_first_and_else_none(root, tmp_path):
    data = load_cub_200(root, TASKS, 48, str(tmp_path / "cache"))
    assert data.classes == 16 and data.images_NCHW.shape == (12, 3, 48, 48)
    assert {part: colour_of(data, 0, part) for part in ("wing", "eye", "leg", "bill")} == {
        "wing": "blue", "eye": "grey", "leg": "unknown", "bill": "unknown"}
    assert colour_of(data, 1, "bill") == "buff"
    assert (data.labels_NT[2:] == CLASSES - 1).all()


def test_the_split_is_the_official_one(root, tmp_path):
    data = load_cub_200(root, TASKS, 48, str(tmp_path / "cache"))
    assert data.indices("test").tolist() == [1, 3, 5, 7, 9, 11]
    assert len(data.indices("valid")) == 1


def test_places_are_around_the_first_visible_point_of_the_part(root, tmp_path):
    data = load_cub_200(root, ("wing", "eye", "throat", "crown"), 48, str(tmp_path / "cache"))
    wing, eye, throat, crown = data.places(np.array([0]))[0]
    assert np.unravel_index(eye.argmax(), eye.shape) in ((35, 11), (36, 11), (35, 12), (36, 12))
    assert wing[11:13, 23:25].min() == wing.max()  # (30, 10) of 60×40 is (24, 12) of 48
    assert throat.argmax() == 48 * 48 - 1 and throat.sum() == pytest.approx(1)
    assert not crown.any()


def test_a_blurred_point_is_a_gaussian_of_three_pixels_that_adds_up_to_one():
    [[given]] = blurred_points(np.array([[[10.5 / 32, 16.5 / 32]]]), 32)
    loop = np.array([[exp(-((x - 10) ** 2 + (y - 16) ** 2) / 18) for x in range(32)]
                     for y in range(32)])
    np.testing.assert_allclose(given, loop / loop.sum(), atol=1e-7)


def test_a_point_that_is_not_known_has_no_place_and_one_at_the_edge_adds_up_to_1():
    maps_BTHW = blurred_points(np.array([[[np.nan, 0.5], [np.nan, np.nan], [0.0, 1.0]]]), 16)
    assert maps_BTHW.dtype == np.float32
    assert not maps_BTHW[0, :2].any()
    assert maps_BTHW[0, 2].sum() == pytest.approx(1, abs=1e-6)
    assert np.unravel_index(maps_BTHW[0, 2].argmax(), (16, 16)) == (15, 0)


@pytest.mark.parametrize("beside", [True, False])
def test_the_names_of_attributes_may_lie_where_the_archive_puts_them(root, tmp_path, beside):
    names = root / "attributes/attributes.txt"
    names.rename(root.parent / names.name if beside else root / names.name)
    data = load_cub_200(root, TASKS, 48, str(tmp_path / "cache"))
    assert colour_of(data, 0, "wing") == "blue"


@pytest.mark.parametrize(("name", "content", "said"), [
    ("parts/part_locs.txt", None, r"parts/part_locs\.txt is missing in"),
    ("attributes/image_attribute_labels.txt", "1 wing 1 4", "is not as CUB-200-2011 has it"),
    ("attributes/attributes.txt", "", "is not as CUB-200-2011 has it: it holds no line"),
    ("train_test_split.txt", "one 1", r"train_test_split\.txt in .* is not as CUB-200-2011"),
    ("images.txt", "1 002.Other/none.jpg", r"no image of images\.txt is in")])
def test_what_is_missing_or_foreign_is_said(root, tmp_path, name, content, said):
    (root / name).unlink()
    if content is not None:
        (root / name).write_text(content + "\n")
    with pytest.raises(ModlibError, match=said):
        load_cub_200(root, TASKS, 48, str(tmp_path / "cache"))


def test_an_unknown_part_is_refused(root):
    with pytest.raises(ModlibError, match="task 'beak' is not in the parts of CUB-200"):
        load_cub_200(root, ("beak",))


def test_a_broken_image_is_named_or_left_out(root, tmp_path):
    (root / "images/001.Bird/Bird_0003.jpg").write_bytes(b"no image")
    with pytest.raises(ModlibError, match=r"cannot decode images/001\.Bird/Bird_0003\.jpg"):
        load_cub_200(root, TASKS, 48, str(tmp_path / "cache"))
    data = load_cub_200(root, TASKS, 48, str(tmp_path / "cache"), skip_broken=True)
    assert len(data.images_NCHW) == 11


@pytest.mark.parametrize("system", ["top_down", "moo"])
def test_systems_are_trained_on_it_with_the_localisation_loss_where_there_is_a_map(
        root, places, system):
    settings = ReaderSettings(dataset="cub_200", tasks=TASKS[:2], image_size=48, batch_size=4,
                              epochs=1, batches_per_epoch=1, system=system)
    if system == "top_down":
        settings = replace(settings, td_weight=1.0, td_channels=2, tasks_together=False)
    record = run_reader(settings, replace(places, data_root=str(root)))
    assert record["results"]["test_accuracy"].keys() == set(TASKS[:2])
    assert record["epochs"][0]["loss"] > (np.log(48 * 48) if system == "top_down" else 1)
