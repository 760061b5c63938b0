"""CelebA's text files as they are found, the splits, and each bad file by name."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_celeba import (
    IDS,
    LABELS,
    SPLIT,
    image_bytes,
    kaggle,
    official,
    replace,
    write,
    zipped,
)

from modlib.celeba_files import read_celeba
from modlib.errors import ModlibError


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "root", official())


def contents(root) -> tuple:
    """All that is read, as what can be compared."""
    rows, notes, _, names = read_celeba(root)
    return {name: array.tolist() for name, array in rows.items()}, notes, names


@pytest.mark.parametrize("change", [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "  \n"),
    lambda text: text + "\n\n",
    lambda text: text.split("\n", 1)[1],  # without the count
    lambda text: text.replace("-1", "0"),
], ids=["BOM", "CRLF", "trailing spaces", "empty lines", "no count", "0/1"])
def test_text_files_as_they_are_found(root, change):
    plain = contents(root)
    path = root / "list_attr_celeba.txt"
    path.write_bytes(change(path.read_text()).encode())
    assert contents(root) == plain


@pytest.mark.parametrize("change", [
    lambda text: text.replace(",", ", "),
    lambda text: "".join('"' + line.replace(",", '","') + '"\n' for line in text.splitlines()),
], ids=["spaces", "quotes"])
def test_csv_files_as_they_are_found(tmp_path, change):
    root = write(tmp_path / "root", kaggle())
    plain = contents(root)
    for name in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        (root / name).write_text(change((root / name).read_text()))
    assert contents(root) == plain


def test_any_subset_of_the_images_is_read(root):
    for i in IDS[1::3]:
        (root / f"img_align_celeba/{i}.jpg").unlink()
    (root / "img_align_celeba/Thumbs.db").touch()
    (root / "img_align_celeba/999999.jpg").touch()  # has no row
    rows, _, _, names = read_celeba(root)
    kept = [n for n in range(24) if n % 3 != 1]
    assert rows["ids"].tolist() == [IDS[n] for n in kept]
    assert names == [f"img_align_celeba/{IDS[n]}.jpg" for n in kept]
    np.testing.assert_array_equal(rows["labels"], np.array(LABELS)[kept])
    np.testing.assert_array_equal(rows["split"], np.array(SPLIT)[kept])


def test_rows_may_be_in_any_order(root):
    plain = contents(root)
    for name, head in (("list_attr_celeba.txt", 2), ("list_eval_partition.txt", 0)):
        lines = (root / name).read_text().splitlines()
        (root / name).write_text("\n".join([*lines[:head], *lines[:head - 1 if head else None:-1]]))
    assert contents(root) == plain


def many_people(tmp_path, identities=True) -> Path:
    """600 images of 200 people, without a partition."""
    names = [f"{n:06d}" for n in range(600)]
    rows = [f"{i}.jpg {1 if n % 2 else -1}" for n, i in enumerate(names)]
    files = {"list_attr_celeba.txt": "\n".join(["Smiling", *rows]).encode()}
    if identities:
        people = [f"{i}.jpg {n // 3}" for n, i in enumerate(names)]
        files["identity_CelebA.txt"] = "\n".join(people).encode()
    image = image_bytes(3)
    return write(tmp_path / "root", files | {f"img_align_celeba/{i}.png": image for i in names})


def test_without_a_partition_the_split_is_by_identity(tmp_path):
    rows, notes, _, _ = read_celeba(many_people(tmp_path))
    assert notes["split"] == "no partition file: split 80/10/10 by a hash of the identity"
    by_person = rows["split"].reshape(200, 3)
    assert (by_person == by_person[:, :1]).all()
    np.testing.assert_allclose(np.bincount(rows["split"]) / 600, [0.8, 0.1, 0.1], atol=0.06)
    again, _, _, _ = read_celeba(tmp_path / "root")
    np.testing.assert_array_equal(again["split"], rows["split"])


def test_without_partition_and_identity_the_split_is_by_image(tmp_path):
    rows, notes, _, _ = read_celeba(many_people(tmp_path, identities=False))
    assert "no partition, no identity file" in notes["split"]
    np.testing.assert_allclose(np.bincount(rows["split"]) / 600, [0.8, 0.1, 0.1], atol=0.06)


# Bad input, each named.

@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg  7",
     r"list_attr_celeba\.txt: image 000003 has Smiling = '7'; allowed: -1 or 1"),
    ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg  0",
     r"image 000003 has Smiling = '0'; allowed: -1 or 1 in this file"),
    ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg -1 1",
     r"list_attr_celeba\.txt, line 5: 5 columns, not 4"),
    ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", "line 5: 3 columns, not 4"),
    ("list_attr_celeba.txt", "000003.jpg", "000002.jpg", "line 5: image 000002 has a row already"),
    ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg 3",
     r"list_eval_partition\.txt: image 000003 is in '3'; allowed: 0, 1 or 2"),
    ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg",
     r"list_eval_partition\.txt, line 3: 1 columns, not 2"),
    ("list_eval_partition.txt", "000003.jpg 0\n", "",
     r"list_eval_partition\.txt has no row for 1 of the images, such as 000003"),
    ("list_eval_partition.txt", "000003.jpg", "000002.jpg", "line 3: image 000002 has a row"),
])
def test_bad_rows(root, name, old, new, message):
    replace(root, name, old, new)
    with pytest.raises(ModlibError, match=message):
        read_celeba(root)


def test_an_attribute_file_that_is_no_text(root):
    (root / "list_attr_celeba.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModlibError, match=r"list_attr_celeba\.txt in .* cannot be read"):
        read_celeba(root)


@pytest.mark.parametrize("archive", [True, False])
def test_root_without_an_attribute_file(tmp_path, archive):
    files = {"img_align_celeba/000001.jpg": image_bytes(1)}
    root = write(tmp_path / "root", {"a.zip": zipped(files)} if archive else files)
    message = r"holds no list_attr_celeba\.txt or \.csv; give a folder, or a zip .* \(Kaggle\)"
    with pytest.raises(ModlibError, match=message):
        read_celeba(root / "a.zip" if archive else root)


def test_no_image_matches(root):
    for i in IDS:
        (root / f"img_align_celeba/{i}.jpg").rename(root / f"img_align_celeba/x{i}.jpg")
    with pytest.raises(ModlibError, match=r"no image in .* has a row in list_attr_celeba"):
        read_celeba(root)


def test_an_image_that_is_there_twice(root):
    (root / "img_align_celeba/000003.webp").write_bytes(image_bytes(2, "WEBP"))
    with pytest.raises(ModlibError, match=r"image 000003 twice: .*000003\.jpg and .*\.webp"):
        read_celeba(root)


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
def test_a_truncated_archive(tmp_path, keep):
    whole = zipped(official())
    root = write(tmp_path, {"celeba.zip": whole[: int(keep * len(whole))]})
    with pytest.raises(ModlibError, match="not a whole zip archive"):
        read_celeba(root / "celeba.zip")


# Rows that lie beside the wrong images

ARCHIVE = Path(__file__).parents[2] / "shared/data/celeba-19k.zip"
COUNT, MALE = 600, 1  # images of 200 people, in no order; the column of what stays
DRAWS = np.random.default_rng(4)
PERSON_N = DRAWS.permutation(np.repeat(np.arange(200), COUNT // 200))
LABELS_NA = np.stack([DRAWS.random(COUNT) < 0.5, (DRAWS.random(200) < 0.4)[PERSON_N]], axis=1)
NAMES = [f"{n:06d}.jpg" for n in range(COUNT)]


def people(root: Path, labels_NA=LABELS_NA, names=NAMES, identity=PERSON_N) -> Path:
    """A CelebA without pixels; ``identity`` None: without the file of identities."""
    lines = [f"{name} " + " ".join("1" if label else "-1" for label in row)
             for name, row in zip(names, labels_NA, strict=True)]
    files = {"list_attr_celeba.txt": "\n".join([str(COUNT), "Smiling Male", *lines]),
             **{f"img_align_celeba/{name}": "" for name in NAMES}}
    if identity is not None:
        files["identity_CelebA.txt"] = "".join(
            f"{name} {one}\n" for name, one in zip(NAMES, identity, strict=True))
    return write(root, {name: text.encode() for name, text in files.items()})


def shifted(rows, by: int = 1, first: int = 0):
    """From ``first`` on, each image has the row of the image ``by`` places before."""
    moved = rows.copy()
    moved[first:] = np.roll(rows, by, axis=0)[first:]
    return moved


SHUFFLED = [NAMES[n] for n in np.random.default_rng(5).permutation(COUNT)]
MIXED_UP = {
    "shifted by one": {"labels_NA": shifted(LABELS_NA)},
    "shifted back by one": {"labels_NA": shifted(LABELS_NA, -1)},
    "shifted from the middle on": {"labels_NA": shifted(LABELS_NA, first=COUNT // 2)},
    "shuffled names": {"names": SHUFFLED},
    "identities shifted": {"identity": shifted(PERSON_N)},
}


def test_labels_of_the_same_people_are_read(tmp_path):
    rows, notes, _, _ = read_celeba(people(tmp_path))
    assert np.array_equal(rows["labels"], LABELS_NA) and notes["attributes"][MALE] == "Male"


@pytest.mark.parametrize("how", MIXED_UP)
def test_rows_beside_the_wrong_images_are_found_out_by_identities(tmp_path, how):
    root = people(tmp_path, **MIXED_UP[how])
    with pytest.raises(ModlibError, match=(
            r"^list_attr_celeba\.txt: of 400 pairs of images of one person by identity_CelebA\.txt,"
            r" \d\d\.\d% agree in Male; by chance 5\d\.\d% would, and at least 90\.\d% are exp")):
        read_celeba(root)


@pytest.mark.parametrize("how", ["shifted by one", "shuffled names"])
def test_without_identities_they_are_not_found_out(tmp_path, how):
    """As the book's page of promises says."""
    rows, _, _, _ = read_celeba(people(tmp_path, identity=None, **MIXED_UP[how]))
    assert not np.array_equal(rows["labels"], LABELS_NA)


def test_a_few_labels_that_differ_are_no_shift(tmp_path):
    noisy = LABELS_NA.copy()
    noisy[::50, MALE] ^= True
    assert len(read_celeba(people(tmp_path, noisy))[0]["ids"]) == COUNT


@pytest.mark.parametrize("undecided", [
    {"identity": np.arange(COUNT)},  # nobody twice
    {"identity": np.where(np.arange(COUNT) < 100, 7, np.arange(COUNT))},  # 99 pairs
    {"labels_NA": np.ones((COUNT, 2), bool)}])  # chance alone agrees always
def test_with_too_little_to_tell_nothing_is_refused(tmp_path, undecided):
    assert len(read_celeba(people(tmp_path, **undecided))[0]["ids"]) == COUNT


@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs the tests' part of CelebA")
@pytest.mark.parametrize("how", ["as it is", "shifted", "shuffled"])
def test_real_labels_are_right_as_they_are_and_refused_when_they_are_moved(tmp_path, how):
    with zipfile.ZipFile(ARCHIVE) as archive:
        texts = {Path(name).name: archive.read(name) for name in archive.namelist()
                 if name.endswith(".txt")}
        images = [name for name in archive.namelist() if "img_align" in name]
    count, header, *lines = texts["list_attr_celeba.txt"].decode().splitlines()
    names, values = zip(*(line.split(maxsplit=1) for line in lines), strict=True)
    order = np.arange(len(lines))
    order = {"as it is": order, "shifted": np.roll(order, 1),
             "shuffled": np.random.default_rng(6).permutation(order)}[how]
    texts["list_attr_celeba.txt"] = "\n".join(
        [count, header, *(f"{name} {values[n]}" for name, n in zip(names, order, strict=True))]
    ).encode()
    write(tmp_path, {"a.zip": zipped(texts | dict.fromkeys(images, b""))})
    if how == "as it is":
        assert len(read_celeba(tmp_path / "a.zip")[0]["ids"]) == len(images)
    else:
        with pytest.raises(ModlibError, match=r"5\d\.\d% agree in Male; .* are expected"):
            read_celeba(tmp_path / "a.zip")
