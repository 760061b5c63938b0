"""What ``make soak`` found last: its record, and the sentence that the book shows of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modlib.errors import ModlibError
from modlib.machine import processor
from modlib.record_fields import is_number
from modlib.results import read_with_keys, resolve, write_record
from modlib.tables import short_commit

FOLDER = "book/results/soak"
NAME = "soak.json"
RECORD_VERSION = 2
FLOORS = {"kills": 200, "cases": 10_000}  # with less it has not passed, whatever the tests say
FIGURES = {"kills": "kills survived", "full_disks": "full disks", "cases": "random cases",
           "records": "records checked"}
KEYS = ("version", *FIGURES, "tests", "failed", "passed", "seconds", "processor", "git_commit",
        "last_passed")


def shortfalls(figures: Mapping[str, int]) -> list[str]:
    """Which figures are below their floors, in words."""
    return [f"{figures[name]:,} {FIGURES[name]}, at least {floor:,} wanted"
            for name, floor in FLOORS.items() if figures[name] < floor]


def write_soak(
    figures: Mapping[str, int], tests: Sequence[str], failed: Sequence[str], seconds: float,
    commit: str, folder: str | Path = FOLDER,
) -> dict[str, Any]:
    """Write the record of one ``make soak``, in the place of the one before, and return it.

    It passed where nothing failed and every figure reaches its floor. One that has not passed is
    written too, for it is the last: it says what failed, and keeps the last that passed within it.

    Args:
        figures: ``kills``, processes that were killed and whose runs came to the right record;
            ``full_disks``, writes at which the disk was full; ``cases``, random cases of the
            property tests; ``records``, committed records that were read and checked.
        tests: what was run, in words or as files.
        failed: what of it failed.
        seconds: that all of it took.
        commit: what was tested, as :func:`modlib.machine.git_commit` gives it.
    """
    path = resolve(folder) / NAME
    try:
        before = last_soak(folder)
    except ModlibError:  # it is overwritten: hours of tests must not be lost with it
        before = None
    failed = [*failed, *shortfalls(figures)]
    record = {
        "version": RECORD_VERSION, **{name: figures[name] for name in FIGURES},
        "tests": list(tests), "failed": failed, "passed": not failed, "seconds": seconds,
        "processor": processor(), "git_commit": commit,
        "last_passed": _last_that_passed(before) if failed else None}
    write_record(path, record)
    return record


def _last_that_passed(before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if before is None or not before["passed"]:
        return before and before["last_passed"]
    return {key: before[key] for key in (*FIGURES, "git_commit")}


def read(path: Path) -> dict[str, Any]:
    """A record of ``make soak``.

    Raises:
        ModlibError: it cannot be read, is not what its digest says, is of another version, or
            calls itself passed with something that failed, or with figures below their floors.
    """
    record = read_with_keys(path, KEYS, signed=True)
    if record["version"] != RECORD_VERSION:
        raise ModlibError(f"record {path} has version {record['version']}; this modlib reads "
                          f"{RECORD_VERSION}; run make soak again")
    for name in FIGURES:
        if not is_number(record[name]) or record[name] < 0:
            raise ModlibError(f"record {path}: {name} is {record[name]!r}; allowed: a number from "
                              "0 up")
    if not isinstance(record["failed"], list):
        raise ModlibError(f"record {path}: failed is {record['failed']!r}; allowed: a list")
    wrong = [*record["failed"], *shortfalls(record)]
    if record["passed"] is not (not wrong):
        raise ModlibError(f"record {path}: passed is {record['passed']}; but what failed is "
                          f"{wrong}; run make soak again")
    return record


def last_soak(folder: str | Path = FOLDER) -> dict[str, Any] | None:
    """The record of the last ``make soak``, or None where there is none."""
    path = resolve(folder) / NAME
    return read(path) if path.exists() else None


def soak_sentence(folder: str | Path = FOLDER) -> str:
    """What the last ``make soak`` found, as Markdown, or that it was not run yet."""
    record = last_soak(folder)
    if record is None:
        return "> **Not run yet: the long tests.** To run them:\n>\n>     make soak\n"
    said = (f"The last `make soak`: {_figures(record)}, in {record['seconds'] / 60:.0f} minutes on "
            f"{record['processor']}, commit `{short_commit(record['git_commit'])}`. It ran "
            f"{', '.join(record['tests'])}; ")
    if record["passed"]:
        return f"{said}all of these passed."
    said += f"**not all of it passed**: {'; '.join(record['failed'])}."
    if good := record["last_passed"]:
        said += (f" The last that passed was of commit `{short_commit(good['git_commit'])}`: "
                 f"{_figures(good)}.")
    return said


def _figures(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{record[name]:,} {words}" for name, words in FIGURES.items())
