"""The files of a folder or of a zip archive, listed and read by name alike."""

import os
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from modlib.errors import ModlibError

MOST_BYTES = 2**28  # of one file of an archive; the largest text of CelebA has 27 MB


class Files:
    """The files of a folder or of a zip archive, read by name, from any thread.

    Args:
        path: a folder, or a zip archive (which is opened here and closed by ``close``).

    Raises:
        ModlibError: the archive is truncated or is no zip archive.
    """

    def __init__(self, path: Path):
        self.path = path
        self._archive = None if path.is_dir() else _open_archive(path)
        self._lock = threading.Lock()  # one directory in memory: opening it again a thread is slow

    def names(self, folders: Sequence[str] = ()) -> list[str]:
        """Names of the files, with "/" between folders, sorted; ``folders`` as ``list_folders``."""
        if self._archive is not None:
            return sorted(name for name in self._archive.namelist() if not name.endswith("/"))
        listing = list_folders(self.path, folders)
        return sorted(folder + name for folder, names in listing.items() for name in names)

    def read(self, name: str) -> bytes:
        """The bytes of one file; the archive's checksum is verified.

        Raises:
            ModlibError: the name leads out of the folder, or an archive's file would unpack to
                more than ``MOST_BYTES``, which no file of a data set has.
            OSError, KeyError, zipfile.BadZipFile: the file is not there, or is broken.
        """
        parts = PureWindowsPath(name)  # which knows drives, and both kinds of slashes
        if parts.anchor or ".." in parts.parts:
            raise ModlibError(f"{name!r} leads out of {self.path}; allowed: names below it")
        if self._archive is None:
            return (self.path / name).read_bytes()
        size = self._archive.getinfo(name).file_size  # zipfile unpacks no more than this
        if size > MOST_BYTES:
            raise ModlibError(f"{name} in {self.path} would unpack to {size / 1e9:.1f} GB; "
                              f"allowed: {MOST_BYTES / 1e9:.1f} GB")
        with self._lock:
            return self._archive.read(name)

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()


def list_folders(root: Path, folders: Sequence[str] = ()) -> dict[str, list[str]]:
    """What lies in ``root`` and in some of the folders under it.

    Args:
        root: a folder.
        folders: lower-case names of the sub-folders to look into, at any depth. Looking into no
            other keeps a mistaken ``root`` from walking a whole disk.

    Returns:
        folder, relative and with its final "/" (``""`` for root itself) → sorted names.
    """
    folders, listing, waiting = frozenset(folders), {}, [""]
    while waiting:
        folder = waiting.pop()
        names = sorted(os.listdir(root / folder))
        inner = [n for n in names if n.lower() in folders and (root / folder / n).is_dir()]
        waiting += [f"{folder}{name}/" for name in inner]
        listing[folder] = [name for name in names if name not in inner]
    return listing


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises nearly anything on broken bytes
        raise ModlibError(
            f"{path} is not a whole zip archive ({error}); a download that was cut short looks "
            "like this: fetch it again, or give the unpacked folder"
        ) from error
