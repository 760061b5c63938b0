"""Files of a folder or a zip archive: the same names and bytes, and a torn archive by name."""

import os
import zipfile

import pytest

from modlib.errors import ModlibError
from modlib.image_files import Files


def test_names_looks_only_into_the_named_folders(tmp_path):
    for name in ("a.txt", "Img/b.jpg", "Img/img/c.jpg", "other/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert Files(tmp_path).names(["img"]) == ["Img/b.jpg", "Img/img/c.jpg", "a.txt", "other"]


def test_an_archive_reads_as_the_folder_that_it_was_made_of(tmp_path):
    folder, path = tmp_path / "folder", tmp_path / "images.zip"
    (folder / "img").mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("img")
        for name in ("img/b.png", "a.txt", "img/a.png"):
            (folder / name).write_bytes(name.encode() * 50)
            archive.write(folder / name, name)
    plain, zipped = Files(folder), Files(path)
    assert plain.names(["img"]) == zipped.names() == ["a.txt", "img/a.png", "img/b.png"]
    for name in plain.names(["img"]):
        assert plain.read(name) == zipped.read(name) == name.encode() * 50
    zipped.close()


def test_truncated_archive_is_an_error(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("000000.png", bytes(100))
    os.truncate(path, path.stat().st_size - 30)
    with pytest.raises(ModlibError, match="not a whole zip archive"):
        Files(path)
