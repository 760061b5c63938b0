"""What ``make soak`` found last: its record, and the sentence that the book shows of it."""

from pathlib import Path
from typing import Any

from modlib.machine import processor
from modlib.results import read_with_keys, resolve, write_record
from modlib.tables import short_commit

FOLDER = "book/results/soak"
NAME = "soak.json"
RECORD_VERSION = 1
KEYS = ("version", "kills", "full_disks", "cases", "passed", "seconds", "processor", "git_commit")


def write_soak(
    kills: int, full_disks: int, cases: int, passed: bool, seconds: float, commit: str,
    folder: str | Path = FOLDER,
) -> Path:
    """Write the record of one ``make soak``, in the place of the one before.

    Args:
        kills: processes that were killed, and whose runs came to the right record.
        full_disks: writes at which the disk was full.
        cases: random cases of the property tests.
        passed: whether every test did.
        seconds: that all of it took.
        commit: what was tested, as :func:`modlib.machine.git_commit` gives it.
    """
    path = resolve(folder) / NAME
    write_record(path, {
        "version": RECORD_VERSION, "kills": kills, "full_disks": full_disks, "cases": cases,
        "passed": passed, "seconds": seconds, "processor": processor(), "git_commit": commit})
    return path


def last_soak(folder: str | Path = FOLDER) -> dict[str, Any] | None:
    """The record of the last ``make soak``, or None where there is none."""
    path = resolve(folder) / NAME
    return read_with_keys(path, KEYS, signed=True) if path.exists() else None


def soak_sentence(folder: str | Path = FOLDER) -> str:
    """What the last ``make soak`` found, as Markdown, or that it was not run yet."""
    record = last_soak(folder)
    if record is None:
        return "> **Not run yet: the long tests.** To run them:\n>\n>     make soak\n"
    verdict = ("every test passed" if record["passed"] else
               "**not every test passed**, so these figures are of what was reached")
    return (f"The last `make soak`: {record['kills']:,} kills survived, {record['full_disks']:,} "
            f"full disks, {record['cases']:,} random cases, in {record['seconds'] / 60:.0f} "
            f"minutes on {record['processor']}, commit `{short_commit(record['git_commit'])}`; "
            f"{verdict}.")
