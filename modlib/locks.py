"""One worker at a time: a lock file that frees itself when its holder ends, however it ends.

On one machine the kernel holds the lock (``flock``), and a process that is killed lets go of it.
On a network file system it holds between machines where the server passes locks on: NFS from
version 4, Lustre mounted with ``flock``. Where it holds within each machine only, two machines may
do the same run; then each writes whole files of its own, and the last one stays. Where the file
system refuses locks nothing fails: a warning says so, and even two processes of one machine may do
the same run, with the same outcome. Where it does not know ``flock`` at all, filelock warns and
takes a file that is there for a lock: of a killed holder's, remove the ``.lock`` by hand.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

WAITING_SECONDS = 1.0  # between two looks at the bar; the lock itself is tried more often


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold ``path``'s lock in the block; first wait while another process or thread holds it.

    A bar says that it waits, and for how long. The lock file, ``path`` with ``.lock``, is empty and
    stays: were it removed, one that waits for the old file and one that makes a new file would
    both go on. The lock is not for the holder to take again: it would wait for itself.

    Args:
        path: the file that one alone may make; its folder is made where it is missing.
    """
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _wait_for(lock, path.stem)
    except OSError as error:
        warnings.warn(f"{path} cannot be locked ({error}): if another process does the same work, "
                      "both do all of it", stacklevel=4)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, name: str) -> None:
    try:
        lock.acquire(timeout=0)
        return
    except Timeout:
        pass
    with tqdm(desc=f"Another process is at {name}: waiting", bar_format="{desc} {elapsed}",
              leave=False) as bar:
        while not lock.is_locked:
            bar.update(0)  # a line when its interval has passed, also in a log
            try:
                lock.acquire(timeout=WAITING_SECONDS)
            except Timeout:
                continue
