"""CelebA in every layout it is found in, each bad argument by name, its cache; toy faces."""

import io
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_celeba import (
    ATTRIBUTES,
    IDS,
    LABELS,
    LAYOUTS,
    SPLIT,
    attribute_text,
    image_bytes,
    official,
    replace,
    two_columns,
    write,
    zipped,
)

from modlib import datasets
from modlib.celeba_files import root_identity
from modlib.datasets import SPLITS, fingerprint_of, load_celeba, load_toy_faces
from modlib.errors import ModlibError
from modlib.face_categories import FACE_CATEGORIES, face_categories
from modlib.packed_images import open_images
from modlib.toy_faces import TOY_FACE_ATTRIBUTES

ARCHIVE = Path(__file__).parents[2] / "shared/data/celeba-19k.zip"


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("MODLIB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "root", official())


def load(root, **settings):
    return load_celeba(root, **{"image_size": 16, "progress": False, **settings})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(tmp_path, layout):
    root = write(tmp_path / "root", LAYOUTS[layout])
    archives = [name for name in LAYOUTS[layout] if name in ("data.zip", "archive.zip")]
    data = load(root / archives[0] if archives else root)
    assert data.ids == tuple(IDS)
    assert data.tasks == tuple(ATTRIBUTES)
    assert data.labels_NT.dtype == bool and data.split_N.dtype == np.uint8
    np.testing.assert_array_equal(data.labels_NT, LABELS)
    np.testing.assert_array_equal(data.split_N, SPLIT)
    assert data.images_NCHW.shape == (24, 3, 16, 16) and data.images_NCHW.dtype == np.uint8
    colours = [(10 * n, 255 - 10 * n, 5 * n) for n in range(24)]
    assert np.abs(data.images_NCHW.mean((2, 3)) - colours).max() < 4
    assert "24 images at 16×16; official partition" in data.source


def test_indices_of_each_split(root):
    data = load(root)
    assert [data.indices(split).tolist() for split in SPLITS] == [
        list(range(12)), list(range(12, 18)), list(range(18, 24))]


def test_tasks_are_the_columns_in_the_order_asked(root):
    data = load(root, tasks=["Bald", "Smiling"])
    assert data.tasks == ("Bald", "Smiling")
    np.testing.assert_array_equal(data.labels_NT, np.array(LABELS)[:, [2, 0]])


# Bad input, each named before any image is decoded.

@pytest.fixture
def no_decoding(monkeypatch):
    def fail(*_, **__):
        pytest.fail("images were decoded before the mistake was said")

    monkeypatch.setattr(datasets, "pack_images", fail)


@pytest.mark.parametrize(("settings", "message"), [
    ({"tasks": ["Smilng"]},
     r"attribute 'Smilng' is not in list_attr_celeba\.txt; did you mean 'Smiling'"),
    ({"tasks": ["Smiling", "Bald", "Smiling"]}, "tasks names Smiling more than once"),
    ({"tasks": "Smiling"}, "tasks is 'Smiling'; give a list"),
    ({"tasks": []}, r"tasks is \[\]"),
    ({"image_size": 8}, "image_size is 8; allowed: an integer from 16 to 1024"),
    ({"image_size": 2000}, "image_size is 2000"),
])
def test_bad_arguments(root, no_decoding, settings, message):
    with pytest.raises(ModlibError, match=message):
        load(root, **settings)


@pytest.mark.parametrize(("value", "word"), [(True, "only"), (False, "no")])
def test_an_attribute_without_holders_or_others_in_a_split(root, no_decoding, value, word):
    labels = [[*row[:2], value if n >= 18 else row[2]] for n, row in enumerate(LABELS)]
    (root / "list_attr_celeba.txt").write_text(attribute_text(labels))
    with pytest.raises(ModlibError, match=f"the 6 test images have {word} holders of Bald"):
        load(root)


def test_a_split_without_images_is_no_error(root):
    (root / "list_eval_partition.txt").write_text(two_columns([min(s, 1) for s in SPLIT]))
    assert len(load(root).indices("test")) == 0


def test_missing_root(tmp_path, no_decoding):
    with pytest.raises(ModlibError, match=r"root .*nowhere' does not exist; give a folder"):
        load(tmp_path / "nowhere")


def test_a_cache_folder_that_cannot_be_made(root, tmp_path, no_decoding):
    with pytest.raises(ModlibError, match=r"cache_dir .* cannot be made"):
        load(root, cache_dir=root / "list_attr_celeba.txt")


def test_a_broken_image_is_named_and_may_be_skipped(root):
    path = root / "img_align_celeba/000003.jpg"
    path.write_bytes(image_bytes(2, "JPEG")[:300])
    with pytest.raises(ModlibError, match=r"cannot decode img_align_celeba/000003\.jpg"):
        load(root)
    for _ in range(2):  # packed, then reopened
        with pytest.warns(UserWarning, match=r"1 images that .* left out: .*000003\.jpg"):
            data = load(root, skip_broken=True)
        assert data.ids == tuple(i for i in IDS if i != "000003")
        np.testing.assert_array_equal(data.labels_NT, np.delete(LABELS, 2, axis=0))
        assert len(data.images_NCHW) == len(data.split_N) == 23
    with pytest.raises(ModlibError, match=r"000003\.jpg"):
        load(root)
    path.write_bytes(image_bytes(2, "JPEG"))
    assert load(root).ids == tuple(IDS)


# The cache.

def test_the_second_load_decodes_nothing(root, monkeypatch):
    first = load(root)
    monkeypatch.setattr(datasets, "pack_images", None)
    second = load(root)
    assert second.fingerprint == first.fingerprint and second.source == first.source
    np.testing.assert_array_equal(second.images_NCHW, first.images_NCHW)
    assert load(root, tasks=["Young"]).tasks == ("Young",)
    with pytest.raises(ModlibError, match="did you mean 'Young'"):
        load(root, tasks=["Yung"])


def test_each_size_has_its_own_cache(root, cache_dir):
    load(root)
    load(root, image_size=20)
    assert len(list(cache_dir.glob("*.images"))) == 2
    assert load(root).images_NCHW.shape == (24, 3, 16, 16)


def test_each_crop_has_its_own_cache_and_says_so(root, cache_dir):
    ramp = np.linspace(0, 255, 44).astype(np.uint8)[:, None, None].repeat(36, 1).repeat(3, 2)
    Image.fromarray(ramp).save(root / "img_align_celeba/000001.jpg")
    whole, middle = load(root), load(root, crop=0.8)
    assert len(list(cache_dir.glob("*.images"))) == 2
    assert middle.fingerprint != load(root).fingerprint == whole.fingerprint
    assert "at 16×16;" in whole.source
    assert "at 16×16 of the middle 80% of their centre square;" in middle.source


@pytest.mark.parametrize("crop", [0, -0.5, 1.5, float("nan")])
def test_a_crop_is_a_share(root, no_decoding, crop):
    with pytest.raises(ModlibError, match=f"crop is {crop}; allowed: above 0 and at most 1"):
        load(root, crop=crop)


def add_an_image(root):
    replace(root, "list_attr_celeba.txt", "000024.jpg", "000025.jpg -1 -1 -1\n000024.jpg")
    replace(root, "list_attr_celeba.txt", "24\n", "25\n")
    replace(root, "list_eval_partition.txt", "000024.jpg", "000025.jpg 0\n000024.jpg")
    (root / "img_align_celeba/000025.jpg").write_bytes(image_bytes(0, "JPEG"))


def remove_an_image(root):
    (root / "img_align_celeba/000005.jpg").unlink()


def change_a_label(root):
    replace(root, "list_attr_celeba.txt", "000005.jpg -1", "000005.jpg  1")


def replace_an_image(root):
    remove_an_image(root)
    (root / "img_align_celeba/000005.jpg").write_bytes(image_bytes(20, "JPEG"))


@pytest.mark.parametrize(
    "change", [add_an_image, remove_an_image, change_a_label, replace_an_image]
)
def test_a_changed_root_is_packed_again(root, cache_dir, change):
    before = load(root).fingerprint
    change(root)
    after = load(root)
    assert after.fingerprint != before
    fresh = load(root, cache_dir=cache_dir / "fresh")
    assert after.fingerprint == fresh.fingerprint
    np.testing.assert_array_equal(after.images_NCHW, fresh.images_NCHW)


def test_a_changed_archive_is_packed_again(tmp_path):
    path = tmp_path / "celeba.zip"
    path.write_bytes(zipped(official()))
    before = load(path).fingerprint
    files = official()
    files["img_align_celeba/000005.jpg"] = image_bytes(20, "JPEG")
    path.write_bytes(zipped(files))
    assert load(path).fingerprint != before


def test_a_torn_cache_is_packed_again(root, cache_dir):
    before = load(root).fingerprint
    path, = cache_dir.glob("*.images")
    os.truncate(path, path.stat().st_size // 2)
    assert load(root).fingerprint == before
    assert open_images(path, root_identity(root), 16)


def test_a_cache_inside_the_root_stays_valid(root, monkeypatch):
    load(root, cache_dir=root)
    monkeypatch.setattr(datasets, "pack_images", None)
    load(root, cache_dir=root)


def test_default_cache_folder_is_in_the_home(root, tmp_path, monkeypatch):
    monkeypatch.delenv("MODLIB_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(root)
    assert list((tmp_path / "home/.cache/modlib").iterdir())


def test_fingerprint_is_of_the_contents_alone(root, tmp_path):
    before = load(root)
    assert len(before.fingerprint) == 16
    shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    os.utime(tmp_path / "elsewhere/list_attr_celeba.txt", (0, 0))
    assert load(tmp_path / "elsewhere").fingerprint == before.fingerprint
    different = {load(root, tasks=tasks).fingerprint
                 for tasks in (["Smiling"], ["Young"], ["Smiling", "Young"], ["Young", "Smiling"])}
    different |= {before.fingerprint, load(root, image_size=20).fingerprint}
    assert len(different) == 6
    assert str(tmp_path) not in before.source


def test_given_triplets_enter_the_fingerprint_and_their_absence_does_not(given):
    def fingerprint(*triplets):
        return fingerprint_of("", given.labels_NT, given.tasks, given.split_N, given.ids, *triplets)

    other = given.triplets | {"valid": given.triplets["valid"][:, ::-1].copy()}
    assert len({fingerprint(), fingerprint(given.triplets), fingerprint(other)}) == 3
    assert fingerprint() == fingerprint(None)


def test_celeba_in_categories_made_of_its_attributes(root, monkeypatch):
    monkeypatch.setitem(FACE_CATEGORIES, "Look", ("Bald", "Smiling"))
    data = load(root, tasks=["Look"])
    expected = [[0 if bald else 1 if smiling else 2] for smiling, _, bald in LABELS]
    assert (data.labels_NT.dtype, data.labels_NT.tolist()) == (np.int16, expected)
    assert data.fingerprint != load(root, tasks=["Bald"]).fingerprint
    with pytest.raises(ModlibError, match="attribute of Mouth 'Mouth_Slightly_Open' is not known"):
        load(root, tasks=["Mouth"])


# Toy faces.

def test_toy_faces():
    data = load_toy_faces(count=100, image_size=32, seed=3)
    assert data.images_NCHW.shape == (100, 3, 32, 32) and data.images_NCHW.dtype == np.uint8
    assert data.labels_NT.shape == (100, len(TOY_FACE_ATTRIBUTES)) and data.labels_NT.dtype == bool
    assert data.tasks == tuple(TOY_FACE_ATTRIBUTES)
    assert [len(data.indices(split)) for split in SPLITS] == [70, 10, 20]
    assert (np.diff(data.split_N.astype(int)) >= 0).all()
    assert data.ids[:2] == ("toy-00000", "toy-00001")
    assert load_toy_faces(100, 32, seed=3).fingerprint == data.fingerprint
    assert load_toy_faces(100, 32, seed=4).fingerprint != data.fingerprint


def test_toy_faces_of_categories():
    whole, tasks = load_toy_faces(50, 32), ("Mouth", "Hair")
    data = load_toy_faces(50, 32, tasks=tasks)
    assert data.tasks == tasks
    assert np.array_equal(
        data.labels_NT, face_categories(whole.labels_NT, TOY_FACE_ATTRIBUTES, tasks))
    assert data.fingerprint != load_toy_faces(50, 32, tasks=["Mouth"]).fingerprint
    with pytest.raises(ModlibError, match=r"categories 'Smiling' is not known; .* Hair, Beard"):
        load_toy_faces(50, 32, tasks=["Smiling", "Hair"])


def test_toy_faces_of_some_tasks():
    whole = load_toy_faces(50, 32)
    tasks = [TOY_FACE_ATTRIBUTES[2], TOY_FACE_ATTRIBUTES[0]]
    data = load_toy_faces(50, 32, tasks=tasks)
    assert data.tasks == tuple(tasks)
    np.testing.assert_array_equal(data.labels_NT, whole.labels_NT[:, [2, 0]])
    np.testing.assert_array_equal(data.images_NCHW, whole.images_NCHW)
    with pytest.raises(ModlibError, match="attribute 'nose' is not in TOY_FACE_ATTRIBUTES"):
        load_toy_faces(50, 32, tasks=["nose"])


# The real archive.

@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not ARCHIVE.exists():
        pytest.skip("the CelebA subset is not here: it may not be redistributed")
    folder = tmp_path_factory.mktemp("real")
    return load_celeba(ARCHIVE, cache_dir=folder, progress=False), folder


def test_real_celeba_is_read_whole(real):
    data, _ = real
    assert data.images_NCHW.shape == (19000, 3, 64, 64)
    assert [len(data.indices(split)) for split in SPLITS] == [15979, 2044, 977]
    assert len(data.tasks) == 40 and data.tasks[31] == "Smiling"
    assert data.ids[0] == "000040" and list(data.ids) == sorted(data.ids)


def test_real_labels_and_pixels_are_those_of_a_plain_loop(real):
    data, _ = real
    with zipfile.ZipFile(ARCHIVE) as archive:
        lines = archive.read("celeba/list_attr_celeba.txt").decode().split("\n")
        column = lines[1].split().index("Smiling")
        smiling = {row.split()[0][:6]: row.split()[1 + column] == "1" for row in lines[2:] if row}
        smiling_N = data.labels_NT[:, data.tasks.index("Smiling")]
        assert smiling == dict(zip(data.ids, smiling_N.tolist(), strict=True))
        for n in range(0, 19000, 1000):
            name = f"celeba/img_align_celeba/{data.ids[n]}.webp"
            image = Image.open(io.BytesIO(archive.read(name)))
            assert image.size == (128, 157)
            square = image.crop((0, 14, 128, 142)).resize((64, 64), Image.Resampling.LANCZOS)
            plain = np.asarray(square).transpose(2, 0, 1)
            difference = np.abs(plain - data.images_NCHW[n].astype(int))
            assert difference.mean() < 5  # the crop of this loop is half a pixel off centre


def test_real_cache_reopens_in_under_half_a_second(real):
    data, folder = real
    start = time.perf_counter()
    again = load_celeba(ARCHIVE, cache_dir=folder, progress=False)
    assert time.perf_counter() - start < 0.5
    assert again.fingerprint == data.fingerprint
