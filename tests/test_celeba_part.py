"""The published part of CelebA, picked out of a whole copy into one archive."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_celeba import IDS, LABELS, LAYOUTS, SPLIT, official, write

from modlib import celeba_part
from modlib.celeba_part import part_ids, write_part
from modlib.datasets import load_celeba
from modlib.errors import ModlibError

ARCHIVE = Path(__file__).parents[2] / "shared/data/celeba-19k.zip"
SOME = [4, 5, 8, 9, 12, 13, 16, 19, 20, 21]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_archive_reads_as_the_part_of_every_layout(tmp_path, layout):
    files = LAYOUTS[layout]
    root = write(tmp_path / "root", files)
    archives = [name for name in files if name in ("data.zip", "archive.zip")]
    target = write_part(root / archives[0] if archives else root, tmp_path / "part.zip",
                        [IDS[n] for n in SOME])
    data = load_celeba(target, image_size=16, progress=False, cache_dir=tmp_path / "cache",
                       tasks=["Smiling"])
    assert data.ids == tuple(IDS[n] for n in SOME)
    np.testing.assert_array_equal(data.labels_NT[:, 0], np.array(LABELS)[SOME, 0])
    np.testing.assert_array_equal(data.split_N, np.array(SPLIT)[SOME])


def test_the_images_are_those_of_the_copy_byte_by_byte_and_the_archive_is_the_same_again(tmp_path):
    root, ids = write(tmp_path / "root", official()), [IDS[n] for n in SOME]
    one, two = (write_part(root, tmp_path / name, ids) for name in ("one.zip", "two.zip"))
    with zipfile.ZipFile(one) as archive:
        for name in (f"img_align_celeba/{of}.jpg" for of in ids):
            assert archive.read(name) == (root / name).read_bytes()
    assert one.read_bytes() == two.read_bytes()


def test_a_copy_that_lacks_images_is_refused_and_nothing_is_written(tmp_path):
    root = write(tmp_path / "root", official())
    with pytest.raises(ModlibError, match="lacks 2 of the 3 images, such as 000500"):
        write_part(root, tmp_path / "part.zip", [IDS[0], "000500", "000600"])
    assert list(tmp_path.glob("part*")) == []


@pytest.mark.parametrize(("target", "there"), [("part", False), ("part.zip", True)])
def test_the_target_must_be_a_new_zip(tmp_path, target, there):
    root = write(tmp_path / "root", official())
    if there:
        (tmp_path / target).write_text("mine")
    with pytest.raises(ModlibError, match=f"{target}: give the name of a new archive"):
        write_part(root, tmp_path / target, IDS[:3])
    assert not there or (tmp_path / target).read_text() == "mine"


def test_from_the_command_line_an_error_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["celeba_part", str(tmp_path / "no"), str(tmp_path / "a.zip")])
    with pytest.raises(SystemExit) as stopped:
        celeba_part.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'no'} does not exist; give a copy of CelebA, a folder or an archive\n")


@pytest.mark.skipif(not ARCHIVE.exists(), reason="no shared/data/celeba-19k.zip beside the project")
def test_the_list_names_the_images_of_the_published_runs():
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".webp")]
    assert part_ids() == sorted(Path(name).stem for name in names)


def test_the_list_has_19000_images_each_once_in_order():
    ids = part_ids()
    assert len(ids) == 19_000 and ids == sorted(set(ids))
    assert all(len(one) == 6 and 1 <= int(one) <= 202_599 for one in ids)
