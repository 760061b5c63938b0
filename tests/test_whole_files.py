"""A file is whole or not there; what cannot be written is named, and before the work."""

import os
import tempfile
from pathlib import Path

import pytest

from modlib.errors import ModlibError
from modlib.whole_files import check_writable, remove_abandoned, written_whole


def write(path: Path, content: bytes = b"whole") -> None:
    with written_whole(path, "the note") as file:
        file.write(content)


@pytest.fixture
def read_only():
    """A folder that this process may not write to, though it may be root's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "kept"
        folder.mkdir()
        (folder / "note").write_bytes(b"before")
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a/folder/note"
    with written_whole(path, "the note") as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "note"
    write(path, b"before")
    with pytest.raises(KeyError), written_whole(path, "the note") as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_folder_is_named(read_only):
    with pytest.raises(ModlibError, match=r"the note .*kept/note cannot be written: .*denied"):
        write(read_only / "note")
    with pytest.raises(ModlibError, match=r"the notes .*kept cannot be written: .*denied"):
        check_writable(read_only, "the notes")
    assert (read_only / "note").read_bytes() == b"before"
    assert [path.name for path in read_only.iterdir()] == ["note"]


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_folder_that_is_a_file_is_named(tmp_path, below):
    taken = tmp_path / "taken"
    taken.write_bytes(b"a file")
    with pytest.raises(ModlibError, match=r"the notes .*taken.* cannot be written"):
        check_writable(taken / below, "the notes")
    with pytest.raises(ModlibError, match=r"the note .*taken.* cannot be written"):
        write(taken / below / "note")
    assert taken.read_bytes() == b"a file"


def test_a_folder_that_is_missing_is_made_and_the_probe_leaves_nothing(tmp_path):
    check_writable(tmp_path / "some/folder", "the notes")
    assert list((tmp_path / "some/folder").iterdir()) == []


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path):
    names = ["note.1.tmp", "note.2.tmp", "other.1.tmp", "note"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "note.2.tmp")  # a living one has written just now
    remove_abandoned(tmp_path / "note")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
