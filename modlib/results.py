"""Records: one JSON file per finished run; reading, writing, and adding up their counts.

Each file ends in a digest of everything else in it, so that a number changed by hand is found out
when it is read. It guards against slips, not against someone who computes a new digest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modlib.errors import ModlibError
from modlib.gradients import update_compliance_ratio
from modlib.record_checks import check_record
from modlib.whole_files import written_whole

RECORD_VERSION = 1
RECORD_KEYS = ("version", "name", "status", "settings", "data", "results", "epochs", "run")
WITH_RECORD, LATER = "with the record", "later, by tools/sign_records.py"  # when it was digested


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upwards that holds ``_toc.yml`` and ``modlib``.

    Outside any such folder it is the one that modlib was imported from, if that is a checkout;
    else the start itself.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "_toc.yml").exists() and (folder / "modlib").is_dir():
            return folder
    return start


def relative_to_root(path: Path) -> str:
    """An absolute path as people are told it: from the project's root; ValueError outside it."""
    return str(path.relative_to(project_root()))


def resolve(path: str | Path) -> Path:
    """An absolute path; relative ones start at the project's root, ``~`` at the user's home.

    The environment variable ``MODLIB_RUNS`` names another folder in the place of ``runs``: the book
    is built in one of its own, which may be thrown away without loss of anybody's runs.
    """
    path, elsewhere = Path(path).expanduser(), os.environ.get("MODLIB_RUNS")
    if elsewhere and path.parts[:1] == ("runs",):
        path = Path(elsewhere, *path.parts[1:])
    return project_root() / path


def paper_tables() -> dict[str, Any]:
    """The figures that the papers print, by table: ``book/paper_tables.json``."""
    return json.loads(resolve("book/paper_tables.json").read_text("utf8"))


def write_json(path: Path, content: Any) -> None:
    """Write a record, whole or not at all; see :func:`modlib.whole_files.written_whole`."""
    text = json.dumps(content, indent=1, allow_nan=False)
    with written_whole(path, "the record") as file:
        file.write(f"{text}\n".encode())


def digest_of(content: Mapping[str, Any], written: str) -> dict[str, str]:
    """The last entry of a record's file: SHA-256 of all the others, as JSON with sorted keys.

    Args:
        content: the record.
        written: when the digest was made, ``WITH_RECORD`` or ``LATER``; part of what is digested.
    """
    text = json.dumps([written, content], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "written": written}


def write_record(path: Path, content: Mapping[str, Any], written: str = WITH_RECORD) -> None:
    """Write a record with its digest; see :func:`write_json`."""
    write_json(path, {**content, "digest": digest_of(content, written)})


def read_with_keys(path: Path, keys: Iterable[str], signed: bool = False) -> dict[str, Any]:
    """Read a JSON file that must have these keys, and return it without its digest.

    Args:
        signed: refuse a file without a digest; one that is there must fit in any case.

    Raises:
        ModlibError: the file is not JSON, lacks a key, or is not what its digest says.
    """
    try:
        record = json.loads(path.read_text("utf8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ModlibError(f"record {path} cannot be read: {error}") from error
    missing = [key for key in keys if not isinstance(record, dict) or key not in record]
    if missing:
        raise ModlibError(f"record {path} lacks {', '.join(missing)}; delete it and run again")
    digest = record.pop("digest", None)
    if digest is None and signed:
        raise ModlibError(f"record {path} has no digest, so nobody can tell whether it is as its "
                          "run wrote it; if it is, call: python tools/sign_records.py")
    if digest is not None and not _fits_digest(record, digest):
        raise ModlibError(f"record {path} was changed after it was written: it is not what its "
                          "digest says; fetch the file anew, or delete it and run again")
    return record


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number that a record can hold")


def _fits_digest(record: dict[str, Any], digest: Any) -> bool:
    written = digest.get("written") if isinstance(digest, dict) else None
    try:
        return written in (WITH_RECORD, LATER) and digest == digest_of(record, written)
    except ValueError:  # a number so large that it was read as infinite
        return False


def read_record(path: Path, signed: bool = False) -> dict[str, Any]:
    """Read one record.

    Args:
        signed: see :func:`read_with_keys`.

    Raises:
        ModlibError: the file is not JSON, lacks a key, has another version, or is not what its
            digest says.
    """
    record = read_with_keys(path, RECORD_KEYS, signed)
    if record["version"] != RECORD_VERSION:
        raise ModlibError(
            f"record {path} has version {record['version']}; this modlib reads {RECORD_VERSION}")
    return record


def read_records(folder: str | Path, **wanted: Any) -> list[dict[str, Any]]:
    """All records in a folder whose settings have the wanted values, ordered by name.

    A folder that does not exist holds no records: the empty list.

    Raises:
        ModlibError: a record cannot be read, has no digest or not its own, or holds a figure that
            cannot be; see :func:`~modlib.record_checks.check_record`.
    """
    folder = resolve(folder)
    records = [read_record(path, signed=True) for path in sorted(folder.glob("*.json"))]
    for record in records:
        check_record(record)
    return [
        record for record in records
        if all(record["settings"].get(key) == value for key, value in plain(wanted).items())
    ]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back: lists in the place of tuples."""
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in settings.items()}


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that the same settings, seed and device must give again."""
    epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in record["epochs"]]
    return {k: v for k, v in record.items() if k != "run"} | {"epochs": epochs}


def ucr_counts(
    records: Iterable[dict[str, Any]], pair: tuple[str, str], epochs: slice = slice(None)
) -> dict[str, int]:
    """UCR counts of one pair of tasks, added up over records and epochs."""
    total = {"positive": 0, "negative": 0, "zero": 0}
    for record in records:
        for epoch in record["epochs"][epochs]:
            for counts in epoch["ucr"]:
                if set(counts["tasks"]) == set(pair):
                    total = {sign: total[sign] + counts[sign] for sign in total}
    return total


def pair_ucr(
    records: Iterable[dict[str, Any]], pair: tuple[str, str], with_zeros: bool = True,
    epochs: slice = slice(None),
):
    """The UCR of one pair with its interval.

    See :func:`modlib.gradients.update_compliance_ratio`.
    """
    return update_compliance_ratio(**ucr_counts(records, pair, epochs), with_zeros=with_zeros)
