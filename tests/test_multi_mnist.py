"""MultiMNIST: digits are read, split by digit, and composed as a plain loop would compose them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modlib.errors import ModlibError
from modlib.multi_mnist import (
    CORNERS,
    Digits,
    compose,
    embedded_digits,
    load_multi_mnist,
    read_mnist,
)
from modlib.results import project_root

REAL = project_root(Path(__file__)).parent / "shared/data/MNIST"
COUNTS = {"train": 30, "valid": 10, "test": 12}


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">I", 0x0800 + array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_part(folder: Path, part: str, count: int, suffix: str = "", first: int = 0) -> None:
    """``count`` digits, the n-th of which is filled with the value n; its label is n modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.arange(first, first + count)
    write_idx(folder / f"{part}-images-idx3-ubyte{suffix}",
              np.broadcast_to(values[:, None, None], (count, 28, 28)))
    write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", values % 10)


@pytest.fixture
def digits() -> Digits:
    """40 digits of noise, each of one of the splits."""
    rng = np.random.default_rng(3)
    return Digits(rng.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40) % 10,
                  (np.arange(40) % 3).astype(np.uint8), "noise")


# Reading


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_idx_files_are_read_wherever_torchvision_or_their_authors_leave_them(
        tmp_path, below, suffix):
    write_part(tmp_path / below, "t10k", 50, suffix)
    found = read_mnist(tmp_path)
    assert found.images_DHW[7].tolist() == np.full((28, 28), 7).tolist()
    assert found.labels_D.tolist() == [n % 10 for n in range(50)]
    assert np.bincount(found.split_D).tolist() == [40, 5, 5]
    assert "'t10k' alone" in found.source


def test_with_both_parts_the_official_test_digits_are_for_testing(tmp_path):
    write_part(tmp_path, "train", 120)
    write_part(tmp_path, "t10k", 30, first=200)
    found = read_mnist(tmp_path)
    assert (found.images_DHW[found.split_D == 2, 0, 0] >= 200).all()
    assert np.bincount(found.split_D).tolist() == [110, 10, 30]


def test_the_split_of_digits_is_always_the_same(tmp_path):
    write_part(tmp_path, "t10k", 50)
    assert np.array_equal(read_mnist(tmp_path).split_D, read_mnist(tmp_path).split_D)


def broken(folder: Path, what: str) -> None:
    write_part(folder, "t10k", 50)
    images, labels = (folder / f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    if what == "no labels":
        labels.unlink()
    elif what == "fewer labels":
        write_idx(labels, np.zeros(49))
    elif what == "small":
        write_idx(images, np.zeros((50, 8, 8)))
    elif what == "letters":
        write_idx(labels, np.full(50, 11))
    elif what == "torn":
        images.write_bytes(images.read_bytes()[:5000])
    elif what == "foreign":
        images.write_bytes(b"<html>not found</html>")
    elif what == "torn gzip":
        (folder / (images.name + ".gz")).write_bytes(gzip.compress(images.read_bytes())[:-12])
        images.unlink()


@pytest.mark.parametrize(("what", "said"), [
    ("no labels", "t10k-labels-idx1-ubyte, with or without .gz, is missing"),
    ("fewer labels", "do not belong together: images .50, 28, 28., 49 labels"),
    ("small", "do not belong together"), ("letters", "digits from 0 to 9; given 50 up to 11"),
    ("torn", "cannot be read as an idx file"), ("foreign", "cannot be read as an idx file"),
    ("torn gzip", r"\.gz cannot be read as an idx file"),
])
def test_files_that_are_no_mnist_are_refused_with_the_reason(tmp_path, what, said):
    broken(tmp_path, what)
    with pytest.raises(ModlibError, match=said):
        read_mnist(tmp_path)


def test_a_folder_without_mnist_is_refused_with_where_was_looked(tmp_path):
    with pytest.raises(ModlibError, match=r"no MNIST in .*train-images-idx3-ubyte.*MNIST/raw"):
        read_mnist(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="no ../shared/data/MNIST beside the project")
def test_the_real_test_digits_are_split_by_digit():
    found = read_mnist(REAL)
    assert np.bincount(found.split_D).tolist() == [8000, 1000, 1000]
    assert np.bincount(found.labels_D).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of MNIST's test part


def test_the_embedded_digits_have_mnists_shape_margin_and_range():
    found = embedded_digits()
    assert found.images_DHW.shape == (1797, 28, 28) and found.images_DHW.dtype == np.uint8
    assert found.images_DHW[:, :4].max() == 0 and found.images_DHW[:, :, 24:].max() == 0
    assert found.images_DHW.max() > 240
    assert set(found.labels_D) == set(range(10)) and set(found.split_D) == {0, 1, 2}


# Composing


@pytest.mark.parametrize("tasks", [("LU", "RL"), ("LU", "RL", "LL"), ("LU", "RL", "LL", "RU")])
@pytest.mark.parametrize("canvas", [28, 36, 56])
def test_images_are_those_of_a_plain_loop(digits, tasks, canvas):
    data = compose(digits, tasks, COUNTS, canvas)
    near, far = slice(0, 28), slice(canvas - 28, canvas)
    where = {"LU": (near, near), "RL": (far, far), "LL": (far, near), "RU": (near, far)}
    of_label = {tuple(image.flat): label for image, label in
                zip(digits.images_DHW, digits.labels_D, strict=True)}
    drawn = _drawn(digits, tasks, canvas)
    assert np.array_equal(digits.labels_D[data.parts_NM], data.labels_NT)
    assert (digits.split_D[data.parts_NM] == data.split_N[:, None]).all()
    for n in (0, 17, 35, 51):
        brightest = np.zeros((canvas, canvas), np.float32)
        for t, task in enumerate(tasks):
            digit = digits.images_DHW[drawn[n, t]]
            brightest[where[task]] = np.maximum(brightest[where[task]], digit)
            assert data.labels_NT[n, t] == of_label[tuple(digit.flat)]
        scaled = F.interpolate(torch.from_numpy(brightest)[None, None], (28, 28),
                               mode="bilinear", antialias=True)[0]
        assert np.abs(data.images_NCHW[n].astype(float) - scaled.numpy()).max() <= 0.5


def _drawn(digits, tasks, canvas):
    """Which digits were drawn, found by composing digits whose labels are their numbers."""
    numbered = Digits(digits.images_DHW, np.arange(len(digits.labels_D)), digits.split_D, "")
    return compose(numbered, tasks, COUNTS, canvas).labels_NT


def test_no_digit_is_in_two_splits_and_all_corners_take_all_digits(digits):
    numbered = Digits(digits.images_DHW, np.arange(40), digits.split_D, "")
    data = compose(numbered, tuple(CORNERS), {"train": 400, "valid": 300, "test": 300})
    for number, split in enumerate(("train", "valid", "test")):
        mine = set(np.flatnonzero(digits.split_D == number))
        for drawn_N in data.labels_NT[data.indices(split)].T:
            assert set(drawn_N) == mine


def test_the_corners_digits_are_independent(digits):
    labels_NT = compose(digits, ("LU", "RL"), {"train": 4000, "valid": 1, "test": 1}).labels_NT
    assert abs(np.corrcoef(labels_NT.T)[0, 1]) < 0.05


def test_a_corner_has_the_same_digit_whatever_the_other_corners_hold(digits):
    two, four = (compose(digits, tasks, COUNTS) for tasks in (("LU", "RL"), tuple(CORNERS)))
    assert np.array_equal(two.labels_NT, four.labels_NT[:, :2])


def test_composing_again_gives_the_same_and_other_tasks_another_fingerprint(digits):
    one, again = compose(digits, ("LU", "RL"), COUNTS), compose(digits, ("LU", "RL"), COUNTS)
    assert np.array_equal(one.images_NCHW, again.images_NCHW)
    assert one.fingerprint == again.fingerprint
    others = [compose(digits, ("LU",), COUNTS), compose(digits, ("LU", "RL"), COUNTS, 40),
              compose(digits, ("LU", "RL"), COUNTS | {"train": 31})]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_places_are_the_bright_pixels_of_each_tasks_own_digit():
    square = np.zeros((1, 28, 28), np.uint8)
    square[0, 8:20, 8:20] = 255
    one = Digits(np.repeat(square, 3, 0), np.arange(3), np.arange(3, dtype=np.uint8), "squares")
    data = compose(one, ("LU", "RL"), COUNTS, 56)
    places_BTHW = data.places(np.array([0, 5]))
    expected = np.zeros((2, 28, 28))
    expected[0, 4:10, 4:10] = 1
    expected[1, 18:24, 18:24] = 1
    assert places_BTHW.shape == (2, 2, 28, 28)
    assert np.array_equal(places_BTHW[0], expected) and np.array_equal(places_BTHW[1], expected)


@pytest.mark.parametrize(("tasks", "canvas", "said"), [
    (("LU", "RR"), 36, "task 'RR' is not in the corners of MultiMNIST"),
    (("LU", "RL"), 27, "canvas must be from 28 to 56 pixels; given 27"),
    (("LU", "RL"), 57, "given 57"), ((), 36, r"one or more different corners; given \(\)"),
    (("LU", "LU"), 36, r"different corners; given \('LU', 'LU'\)")])
def test_wrong_compositions_are_refused(digits, tasks, canvas, said):
    with pytest.raises(ModlibError, match=said):
        compose(digits, tasks, COUNTS, canvas)


@pytest.mark.parametrize("counts", [{"train": 5}, COUNTS | {"test": -1}, dict.fromkeys(COUNTS, 0)])
def test_wrong_counts_are_refused(digits, counts):
    with pytest.raises(ModlibError, match="one in all, for each of train, valid, test; given"):
        compose(digits, ("LU", "RL"), counts)


def test_a_split_without_digits_is_refused(digits):
    alone = Digits(digits.images_DHW, digits.labels_D, np.zeros(40, np.uint8), "noise")
    with pytest.raises(ModlibError, match="noise: there are no digits in the valid split"):
        compose(alone, ("LU", "RL"), COUNTS)


def test_loading_takes_the_embedded_digits_or_those_of_a_folder(tmp_path):
    write_part(tmp_path, "train", 100)
    embedded = load_multi_mnist(None, ("LU", "RL"), 20, 8, 36)
    of_folder = load_multi_mnist(tmp_path, ("LU", "RL"), 20, 8, 36)
    assert "scikit-learn" in embedded.source and "MNIST, the part 'train'" in of_folder.source
    for data in (embedded, of_folder):
        assert [len(data.indices(split)) for split in ("train", "valid", "test")] == [20, 8, 8]
        assert data.images_NCHW.shape == (36, 1, 28, 28) and data.images_NCHW.dtype == np.uint8
