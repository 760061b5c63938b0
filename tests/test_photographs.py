"""Photographs in a folder: split, packed once into squares, and refused with the reason."""

import numpy as np
import pytest
from PIL import Image

from modlib import photographs
from modlib.errors import ModlibError
from modlib.photographs import hold_out, packed_photographs, text_of


@pytest.fixture
def root(tmp_path):
    """Five images of 40×20 pixels: the left half dark, the right half of a colour of its own."""
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(5):
        pixels = np.zeros((20, 40, 3), np.uint8)
        pixels[:, 20:] = 50 * number
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


NAMES = [f"{number}.png" for number in range(5)]
ROWS = {"labels": np.arange(5)}


def test_the_whole_image_is_squeezed_into_the_square(root, tmp_path):
    packed = packed_photographs(root, "test", NAMES, ROWS, 16, tmp_path / "cache")
    assert packed.images_NCHW.shape == (5, 3, 16, 16)
    assert np.array_equal(packed.images_NCHW[4, :, 8, 2], [0, 0, 0])
    assert np.array_equal(packed.images_NCHW[:, 0, 8, 13], 50 * np.arange(5))
    assert np.array_equal(packed.rows["labels"], np.arange(5))


def test_images_are_decoded_once_unless_names_or_labels_change(root, tmp_path, monkeypatch):
    packed_photographs(root, "test", NAMES, ROWS, 16, tmp_path / "cache")
    calls, pack = [], photographs.pack_images
    monkeypatch.setattr(photographs, "pack_images",
                        lambda *args, **more: calls.append(1) or pack(*args, **more))
    packed_photographs(root, "test", NAMES, ROWS, 16, tmp_path / "cache")
    assert calls == []
    other = packed_photographs(root, "test", NAMES, {"labels": np.ones(5)}, 16, tmp_path / "cache")
    assert len(calls) == 1 and other.rows["labels"].sum() == 5
    packed_photographs(root, "test", NAMES[:3], {"labels": np.ones(3)}, 16, tmp_path / "cache")
    assert len(calls) == 2


def test_a_broken_image_is_named_or_left_out_with_its_rows(root, tmp_path):
    (root / "2.png").write_bytes(b"no image")
    with pytest.raises(ModlibError, match=r"cannot decode 2\.png"):
        packed_photographs(root, "test", NAMES, ROWS, 16, tmp_path / "cache")
    packed = packed_photographs(root, "test", NAMES, ROWS, 16, tmp_path / "cache",
                                skip_broken=True)
    assert packed.rows["labels"].tolist() == [0, 1, 3, 4]


def test_hold_out_takes_a_share_of_what_is_not_for_testing():
    testing_N = np.arange(100) % 5 == 0
    split_N = hold_out(testing_N, 0.1)
    assert (split_N[testing_N] == 2).all()
    assert np.bincount(split_N).tolist() == [72, 8, 20]
    assert np.array_equal(split_N, hold_out(testing_N, 0.1))
    assert np.bincount(hold_out(np.array([False, False, True]), 0.1)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("testing", [[False, True], [False, False, False]])
def test_too_few_images_are_refused(testing):
    with pytest.raises(ModlibError, match="two images or more to train on and one to test on"):
        hold_out(np.array(testing), 0.1)


def test_the_first_file_that_is_there_is_read(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    assert text_of(tmp_path, ["a.txt", "b.txt"]) == "second"
    with pytest.raises(ModlibError, match=r"a\.txt or c\.txt is missing in"):
        text_of(tmp_path, ["a.txt", "c.txt"])
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ModlibError, match=r"c\.txt is no text"):
        text_of(tmp_path, ["c.txt"])
