"""Files that are written whole or not at all, and folders that are tried before hours of work."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from modlib.errors import ModlibError

ABANDONED_SECONDS = 3600  # a living run writes all the time: after an hour of silence it is dead


@contextmanager
def written_whole(path: Path, what: str) -> Iterator[BinaryIO]:
    """A new file beside ``path`` that takes its name when the block ends well.

    Whoever reads ``path`` sees the old file or the new one, never a part, whenever this process
    is killed. Its folder is made where it is missing.

    Args:
        path: the file; replaced whole, or left as it was if anything fails.
        what: what is being written, for the message.

    Raises:
        ModlibError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_be_written(what, path, error) from error
    finally:
        with suppress(OSError):  # it is not there, or cannot be: that was said already
            temporary.unlink()


def check_writable(folder: Path, what: str) -> None:
    """Raise a ModlibError unless a file can be made in ``folder``, which is made if it is missing.

    Args:
        folder: where something will be written, perhaps hours from now.
        what: what that will be, for the message.
    """
    probe = folder / f"{uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise cannot_be_written(what, folder, error) from error


def cannot_be_written(what: str, path: Path, error: OSError) -> ModlibError:
    """The error for a file, or a folder for files, that the system refuses."""
    return ModlibError(
        f"{what} {path} cannot be written: {error}; what was there before is whole. Make room, or "
        "name another folder, and start again: it goes on from there")


def remove_abandoned(path: Path) -> None:
    """Remove what writers of ``path`` left behind when they were killed, an hour ago or more."""
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(FileNotFoundError):  # another run removed or renamed it meanwhile
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                leftover.unlink()
