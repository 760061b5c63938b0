"""The toy faces: labels as on CelebA, each attribute visible where it belongs, all repeatable."""

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from modlib import toy_faces
from modlib.errors import ModlibError
from modlib.toy_face_canvas import Scene
from modlib.toy_faces import (
    STATISTICS_PATH,
    TOY_FACE_ATTRIBUTES,
    draw_face,
    make_toy_faces,
    sample_attributes,
)

PROJECT = Path(__file__).parents[1]
CELEBA = Path(__file__).parents[2] / "shared/data/celeba-19k.zip"
TABLE = json.loads(STATISTICS_PATH.read_text())
T = len(TOY_FACE_ATTRIBUTES)

# The band of the picture, as shares of its height, that an attribute may change.
MOUTH, EYES, JAW, HEAD = (0.58, 0.88), (0.32, 0.68), (0.45, 1), (0, 1)
BANDS = {
    "Smiling": (0.3, 0.88), "5_o_Clock_Shadow": JAW, "Bald": HEAD, "Arched_Eyebrows": (0.28, 0.55),
    "Chubby": HEAD, "Double_Chin": (0.65, 1), "High_Cheekbones": (0.48, 0.78),
    "Goatee": (0.68, 1), "Mustache": (0.58, 0.82), "No_Beard": JAW, "Sideburns": (0.3, 0.72),
    "Bangs": (0.08, 0.5), "Straight_Hair": HEAD, "Wavy_Hair": HEAD, "Receding_Hairline": HEAD,
    "Bags_Under_Eyes": EYES, "Bushy_Eyebrows": (0.28, 0.55), "Young": HEAD, "Oval_Face": HEAD,
    "Mouth_Slightly_Open": MOUTH, "Big_Lips": MOUTH, "Big_Nose": (0.42, 0.74),
}  # fmt: skip


@pytest.fixture(scope="module")
def faces():
    return make_toy_faces(count=40, image_size=64, seed=3)


def test_shapes_and_types(faces):
    images, labels = faces
    assert images.shape == (40, 3, 64, 64) and images.dtype == np.uint8
    assert labels.shape == (40, T) and labels.dtype == bool
    assert T == len(set(TOY_FACE_ATTRIBUTES)) == 22
    np.testing.assert_array_equal(labels, sample_attributes(40, seed=3))


def test_same_seed_same_faces_whatever_the_count(faces):
    images, labels = faces
    for count in (1, 17):  # batches of other lengths, so other array shapes throughout
        fewer, fewer_labels = make_toy_faces(count=count, image_size=64, seed=3)
        np.testing.assert_array_equal(fewer, images[:count])
        np.testing.assert_array_equal(fewer_labels, labels[:count])


def test_drawing_only_a_layers_rows_changes_nothing(faces, monkeypatch):
    monkeypatch.setattr(Scene, "band", lambda self, top, bottom: self)
    np.testing.assert_array_equal(make_toy_faces(count=40, image_size=64, seed=3)[0], faces[0])


def test_other_seed_other_faces(faces):
    other, _ = make_toy_faces(count=40, image_size=64, seed=4)
    assert np.abs(other.astype(int) - faces[0]).mean() > 15


@pytest.mark.parametrize("size", [32, 100, 256])
def test_sizes_show_the_same_face(size):
    attributes = {"Smiling": True, "Bangs": True}
    face = draw_face(attributes, identity_seed=5, size=size)
    assert face.shape == (size, size, 3) and face.dtype == np.uint8
    images, _ = make_toy_faces(count=2, image_size=size)
    assert images.shape == (2, 3, size, size)
    # Colours of a 4 x 4 grid of cells do not depend on the resolution.
    reference = draw_face(attributes, identity_seed=5, size=64)
    np.testing.assert_allclose(_cells(face), _cells(reference), atol=6)


def _cells(face: np.ndarray) -> np.ndarray:
    step = len(face) // 4
    return face.reshape(4, step, 4, step, 3).mean((1, 3))


def test_marginals_and_correlations_are_those_of_the_table():
    labels = sample_attributes(40_000, seed=0)
    np.testing.assert_allclose(labels.mean(0), TABLE["marginals"][:T], atol=0.01)
    error = np.abs(np.corrcoef(labels.T) - np.array(TABLE["phi_correlations"])[:T, :T])
    # No set of normals has exactly CelebA's pairs; stubble with other beards is furthest off.
    assert error.max() < 0.11 and error.mean() < 0.015
    name = TOY_FACE_ATTRIBUTES.index
    assert (labels[:, name("Bald")] & labels[:, name("Bangs")]).mean() < 0.002
    assert (labels[:, name("Straight_Hair")] & labels[:, name("Wavy_Hair")]).mean() < 0.01


@pytest.mark.parametrize("name", TOY_FACE_ATTRIBUTES)
def test_attribute_is_visible_where_it_belongs(name):
    for identity in range(100, 116):
        male = identity % 2 == 0
        without, with_it = (draw_face({name: value, "Male": male}, identity).astype(int)
                            for value in (False, True))
        change_HW = np.abs(with_it - without).max(2)
        top, bottom = (round(share * 64) for share in BANDS[name])
        # The grain is the same in both and at most 9 levels, so any change is the attribute's.
        assert (change_HW > 12).sum() >= 12, f"identity {identity}"
        assert change_HW[top:bottom].sum() >= 0.9 * change_HW.sum(), f"identity {identity}"


def test_named_attributes_are_all_that_differs_from_a_plain_face():
    plain = draw_face({}, identity_seed=9)
    np.testing.assert_array_equal(plain, draw_face({"Young": True, "No_Beard": True}, 9))
    assert (plain != draw_face({}, identity_seed=10)).mean() > 0.5


@pytest.mark.parametrize("call, message", [
    (lambda: make_toy_faces(count=0), "count is 0; it must be a whole number at least 1"),
    (lambda: make_toy_faces(count=2.5), "count is 2.5"),
    (lambda: make_toy_faces(count=1, image_size=31), "image_size is 31.*from 32 to 1024"),
    (lambda: make_toy_faces(count=1, seed=-1), "seed is -1"),
    (lambda: sample_attributes(True, 0), "count is True"),
    (lambda: draw_face({"Smilng": True}), "'Smilng'.*did you mean 'Smiling'"),
    (lambda: draw_face({"Smiling": "yes"}), "'Smiling' is 'yes'; it must be True or False"),
    (lambda: draw_face({}, size=8), "size is 8"),
])  # fmt: skip
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ModlibError, match=message):
        call()


@pytest.fixture(scope="module")
def measuring():
    path = PROJECT / "tools/measure_attribute_statistics.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_is_what_the_tool_measures(measuring):
    if not CELEBA.is_file():
        pytest.skip(f"CelebA's attributes are not at {CELEBA.name} beside the project")
    names = tuple(TABLE["attributes"])
    labels = measuring.read_attributes(CELEBA, names)
    table = measuring.measure(labels, names)
    assert table["provenance"] == TABLE["provenance"]
    assert names == (*TOY_FACE_ATTRIBUTES, "Male")
    np.testing.assert_allclose(table["marginals"], TABLE["marginals"], atol=2e-6)
    for key, tolerance in (("phi_correlations", 2e-6), ("latent_correlations", 0.01)):
        np.testing.assert_allclose(table[key], TABLE[key], atol=tolerance)
    assert measuring.to_json(TABLE) == STATISTICS_PATH.read_text()


def test_latent_correlations_are_recovered_from_thresholded_normals(measuring):
    latent = np.array([[1, 0.6, -0.4], [0.6, 1, 0.1], [-0.4, 0.1, 1]])
    normals = np.random.default_rng(0).multivariate_normal(np.zeros(3), latent, 200_000)
    table = measuring.measure(normals < [0.0, -0.8, 0.5], ("a", "b", "c"))
    np.testing.assert_allclose(table["latent_correlations"], latent, atol=0.02)


def test_bivariate_normal_agrees_with_the_quadrant_formula(measuring):
    rho = np.array([-0.99, -0.5, 0.0, 0.3, 0.99])
    value, slope = measuring.bivariate_normal(np.zeros(5), np.zeros(5), rho)
    np.testing.assert_allclose(value, 0.25 + np.arcsin(rho) / (2 * np.pi), atol=1e-12)
    np.testing.assert_allclose(slope, 1 / (2 * np.pi * np.sqrt(1 - rho**2)), atol=1e-12)


def test_attribute_file_is_read_alone_and_zipped_and_missing_names_are_told(measuring, tmp_path):
    text = "2\nSmiling Young\n000001.jpg  1 -1\n000002.jpg -1 -1\n"
    plain, zipped = tmp_path / "list_attr_celeba.txt", tmp_path / "celeba.zip"
    plain.write_text(text)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("celeba/list_attr_celeba.txt", text)
    for path in (plain, zipped):
        labels = measuring.read_attributes(path, ("Young", "Smiling"))
        np.testing.assert_array_equal(labels, [[False, True], [False, False]])
    with pytest.raises(ModlibError, match="'Bald' is not in list_attr_celeba"):
        measuring.read_attributes(plain, ("Bald",))
    with pytest.raises(ModlibError, match="is not a file"):
        measuring.read_attributes(tmp_path / "none.txt", ("Bald",))


def test_sampling_root_reproduces_the_latent_correlations():
    root, _ = toy_faces._copula()
    np.testing.assert_allclose(root @ root.T, TABLE["latent_correlations"], atol=1e-4)
