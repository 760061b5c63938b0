"""The records that the book shows: the kinds there are, and each of them read and checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modlib import soak, speed, throughput
from modlib.adaptive_branching import BranchingSettings
from modlib.classifiers import ClassifierSettings
from modlib.errors import ModlibError
from modlib.record_checks import check_name, check_record
from modlib.results import read_record, resolve
from modlib.settings import RunSettings, Settings
from modlib.task_readers import ReaderSettings

FOLDER = "book/results"
KINDS = (BranchingSettings, ClassifierSettings, ReaderSettings, Settings)
# Of the records that no run wrote: how each is read, by a pattern of its name.
OF_NO_RUN: dict[str, Callable[[Path], dict[str, Any]]] = {
    Path(speed.RECORD).name: speed.read, soak.NAME: soak.read, throughput.PATTERN: throughput.read}


def is_of_a_run(path: Path) -> bool:
    """Whether a run wrote the record, by its name."""
    return not any(path.match(pattern) for pattern in OF_NO_RUN)


def settings_class(record: dict[str, Any]) -> type[RunSettings]:
    """The dataclass of a run's settings, by what stands in its record's name after the profile."""
    rest = record["name"].removeprefix(f"{record['settings'].get('profile')}-")
    return next(kind for kind in sorted(KINDS, key=lambda one: -len(one.kind))
                if rest.startswith(kind.kind))


def read_committed(path: Path) -> dict[str, Any]:
    """A record of the book, of whatever kind, signed and checked.

    Raises:
        ModlibError: it cannot be read, has no digest or not its own, holds a figure that cannot
            be, or is not named by settings that exist.
    """
    for pattern, read in OF_NO_RUN.items():
        if path.match(pattern):
            return read(path)
    record = read_record(path, signed=True)
    check_record(record)
    if record["name"] != path.stem:
        raise ModlibError(f"record {path} calls itself {record['name']}: rename the file")
    check_name(record, settings_class(record))
    return record


def all_committed(folder: str | Path = FOLDER) -> dict[Path, dict[str, Any]]:
    """Every record below a folder, by its path; see :func:`read_committed`."""
    return {path: read_committed(path) for path in sorted(resolve(folder).rglob("*.json"))}
