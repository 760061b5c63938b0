"""A folder of one's own images with a CSV: read, split, cached, trained on; mistakes are named."""

import io
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_celeba import write, zipped

from modlib import image_folder
from modlib.attribute_table import shuffled_split
from modlib.errors import ModlibError
from modlib.experiments import run
from modlib.image_cache import decode_image
from modlib.image_folder import attribute_names, load_image_folder
from modlib.settings import Settings

COUNT = 90
NAMES = [f"cats/{n:02d}.png" if n % 2 else f"{n:02d}.png" for n in range(COUNT)]
RNG = np.random.default_rng(5)
HAT, KIND = RNG.random(COUNT) < 0.5, RNG.integers(0, 3, COUNT)
KINDS = ("cat", "dog", "owl")
SPLIT = [("train", "valid", "test")[n % 3] for n in range(COUNT)]


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("MODLIB_CACHE_DIR", str(tmp_path / "cache"))


def picture(n: int) -> bytes:
    pixels = RNG.integers(0, 60, (50, 70, 3)).astype(np.uint8)
    pixels[..., 0] += np.uint8(150 * HAT[n])
    pixels[..., 1] += np.uint8(80 * KIND[n])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {name: picture(n) for n, name in enumerate(NAMES)}
TABLE = "image,Hat,Kind,split\n" + "".join(
    f"{name},{int(HAT[n])},{KINDS[KIND[n]]},{SPLIT[n]}\n" for n, name in enumerate(NAMES))
CONTENT = {"attributes.csv": TABLE.encode(), **PICTURES}


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "photos", CONTENT)


@pytest.fixture
def no_decoding(monkeypatch):
    """Whatever is wrong with the CSV must be told before the long work."""
    monkeypatch.setattr(image_folder, "pack_images", None)


def load(root, tasks=("Hat",), **more):
    return load_image_folder(root, tasks, **{"image_size": 16, "progress": False, **more})


# What is read

def test_images_labels_and_split_are_those_of_the_table(root):
    data = load(root, ("Hat", "Kind"))
    assert data.ids == tuple(sorted(NAMES)) and data.tasks == ("Hat", "Kind")
    for n, name in enumerate(data.ids):
        place = NAMES.index(name)
        assert np.array_equal(data.images_NCHW[n], decode_image(PICTURES[name], 16))
        assert data.labels_NT[n].tolist() == [int(HAT[place]), KIND[place]]
        assert ("train", "valid", "test")[data.split_N[n]] == SPLIT[place]
    assert data.labels_NT.dtype == np.int16
    assert data.source == ("photos (attributes.csv), 90 images at 16×16; split by its column; "
                           "all tasks taken as categories")


def test_attributes_alone_are_yes_or_no(root):
    data = load(root)
    assert data.labels_NT.dtype == bool
    assert data.labels_NT[:, 0].tolist() == [bool(HAT[NAMES.index(name)]) for name in data.ids]
    assert data.source.endswith("split by its column")


def test_without_tasks_all_attributes_are_read(root):
    assert load(root, None).tasks == attribute_names(root) == ("Hat", "Kind")


def test_a_zip_archive_of_it_or_of_its_folder_reads_the_same(root, tmp_path):
    expected = load(root, None).fingerprint
    for within in ("", "photos/"):
        content = CONTENT | {"__MACOSX/._attributes.csv": b"\x00\xff"}
        path = tmp_path / f"of{len(within)}.zip"
        path.write_bytes(zipped({within + name: data for name, data in content.items()}))
        assert load(path, None).fingerprint == expected
        assert attribute_names(path) == ("Hat", "Kind")


def test_one_table_of_another_name_will_do_and_of_several_attributes_csv_is_taken(root):
    expected = load(root).fingerprint
    (root / "other.csv").write_text("name,x\n")
    assert load(root).fingerprint == expected
    (root / "other.csv").unlink()
    (root / "attributes.csv").rename(root / "labels.CSV")
    assert load(root).fingerprint == expected
    (root / "other.csv").write_text("name,x\n")
    with pytest.raises(ModlibError, match=r"holds several: labels\.CSV, other\.csv; name the one"):
        load(root)


def test_a_byte_order_mark_and_windows_line_ends_make_no_difference(root):
    expected = load(root).fingerprint
    (root / "attributes.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    assert load(root).fingerprint == expected


def test_without_a_split_column_the_split_is_by_name_and_the_source_says_so(root):
    lines = [line.rpartition(",")[0] for line in TABLE.splitlines()]
    (root / "attributes.csv").write_text("\n".join(lines))
    data = load(root)
    assert np.array_equal(data.split_N, shuffled_split(sorted(NAMES)))
    assert data.source.endswith("no column split: 70/10/20 by a hash of the name")


def test_a_name_that_is_too_long_for_a_file_is_one_that_is_not_there(root):
    long = "x" * 3000 + ".png"
    (root / "attributes.csv").write_text(TABLE.replace(NAMES[3], long))
    with pytest.raises(ModlibError, match=r"image 'xxx.*' is not in "):
        load(root)


def test_images_that_the_table_does_not_name_are_left_out(root):
    write(root, {"extra.png": PICTURES[NAMES[0]], "notes.txt": b"no image"})
    assert "extra.png" not in load(root).ids


def test_images_are_decoded_once_and_again_when_one_changes(root, monkeypatch):
    before = load(root)
    with monkeypatch.context() as patched:
        patched.setattr(image_folder, "pack_images", None)
        assert load(root).fingerprint == before.fingerprint
        labels = load(root, ("Kind",)).labels_NT  # other columns, and other labels, need no pixels
        assert len(np.unique(labels)) == 3
    (root / NAMES[0]).write_bytes(PICTURES[NAMES[2]])
    os.utime(root / NAMES[0], (1, 1))
    assert load(root).fingerprint != before.fingerprint


def test_a_changed_label_changes_the_fingerprint(root):
    before = load(root).fingerprint
    (root / "attributes.csv").write_text(TABLE.replace(f"{NAMES[0]},{int(HAT[0])}",
                                                       f"{NAMES[0]},{int(not HAT[0])}"))
    assert load(root).fingerprint != before


# What is wrong

def test_a_folder_that_is_not_there_or_holds_no_table_is_named(tmp_path, root):
    with pytest.raises(ModlibError, match=r"nowhere' does not exist; give a folder, or a zip arch"):
        load(tmp_path / "nowhere")
    (root / "attributes.csv").unlink()
    with pytest.raises(ModlibError, match=r"photos holds no \.csv file; name the one of"):
        load(root)


def test_a_table_that_is_no_text_is_named(root):
    (root / "attributes.csv").write_bytes(b"image,H\xe4t\na.png,1\n")
    with pytest.raises(ModlibError, match=r"attributes\.csv .*cannot be read as text in UTF-8"):
        load(root)


def test_a_missing_image_is_named_with_its_row(root, tmp_path, no_decoding):
    for name in (NAMES[3], NAMES[10]):
        (root / name).unlink()
    message = rf"^attributes\.csv, row 5: image '{NAMES[3]}' is not in .*{{}} \(nor are 1 more\)"
    with pytest.raises(ModlibError, match=message.format("photos")):
        load(root)
    some = {name: data for name, data in CONTENT.items() if name not in (NAMES[3], NAMES[10])}
    (tmp_path / "some.zip").write_bytes(zipped(some))
    with pytest.raises(ModlibError, match=message.format("some.zip")):
        load(tmp_path / "some.zip")


def test_a_file_that_is_no_image_is_named(root):
    (root / NAMES[4]).write_bytes(b"no image at all")
    with pytest.raises(ModlibError, match=rf"cannot decode {NAMES[4]} .*skip_broken=True"):
        load(root)


def test_missing_and_broken_images_may_be_left_out_and_are_listed(root):
    (root / NAMES[3]).unlink()
    (root / NAMES[4]).write_bytes(b"no image at all")
    with pytest.warns(UserWarning, match=rf"2 images .*left out: {NAMES[4]}, {NAMES[3]}"):
        data = load(root, None, skip_broken=True)
    assert set(NAMES) - set(data.ids) == {NAMES[3], NAMES[4]}
    for n, name in enumerate(data.ids):
        assert data.labels_NT[n, 1] == KIND[NAMES.index(name)]
        assert np.array_equal(data.images_NCHW[n], decode_image(PICTURES[name], 16))
    with pytest.raises(ModlibError, match="row 5: image"):
        load(root)


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text.replace(",0,", ",1,"),
     r"'Hat' in the train split.*given 30 and 0; give more images, name other tasks, or say"),
    (lambda text: text.replace("valid", "train"), r"'Hat' in the valid split.*given 0 and 0"),
])
def test_an_attribute_with_too_few_holders_is_named(root, no_decoding, change, message):
    (root / "attributes.csv").write_text(change(TABLE))
    with pytest.raises(ModlibError, match=message):
        load(root)


def test_a_category_of_single_images_is_named(root, no_decoding):
    lines = TABLE.splitlines()
    named = [lines[0], *(line.replace(f",{KINDS[KIND[n]]},", f",name{n},")
                         for n, line in enumerate(lines[1:]))]
    (root / "attributes.csv").write_text("\n".join(named))
    with pytest.raises(ModlibError, match=r"'Kind' in the train split.*of 30 categories"):
        load(root, ("Kind",))


# What it is for

def test_a_run_on_a_folder_learns_and_says_what_it_learned_on(root, tiny, places):
    settings = replace(tiny, dataset="folder", tasks=("Hat", "Kind"), epochs=1)
    record = run(settings, replace(places, data_root=str(root)))
    assert set(record["results"]["test_accuracy"]) == {"Hat", "Kind"}
    assert record["data"]["images"] == {"train": 30, "valid": 30, "test": 30}
    assert record["data"]["source"].startswith("photos (attributes.csv), 90 images at 48×48; split")


def test_a_run_on_a_folder_needs_to_know_where_it_is(places):
    with pytest.raises(ModlibError, match="dataset 'folder' needs data_root"):
        run(Settings(dataset="folder", tasks=("Hat",)), places)
