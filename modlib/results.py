"""Records: one JSON file per finished run; reading, writing, and adding up their counts."""

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from modlib.errors import ModlibError
from modlib.gradients import update_compliance_ratio
from modlib.whole_files import written_whole

RECORD_VERSION = 1
RECORD_KEYS = ("version", "name", "status", "settings", "data", "results", "epochs", "run")


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


def resolve(path: str | Path) -> Path:
    """An absolute path; relative ones start at the project's root, ``~`` at the user's home."""
    return project_root() / Path(path).expanduser()


def write_json(path: Path, content: Any) -> None:
    """Write a record, whole or not at all; see :func:`modlib.whole_files.written_whole`."""
    text = json.dumps(content, indent=1, allow_nan=False)
    with written_whole(path, "the record") as file:
        file.write(f"{text}\n".encode())


def read_with_keys(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read a JSON file that must have these keys.

    Raises:
        ModlibError: the file is not JSON or lacks a key.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModlibError(f"record {path} cannot be read: {error}") from error
    missing = [key for key in keys if not isinstance(record, dict) or key not in record]
    if missing:
        raise ModlibError(f"record {path} lacks {', '.join(missing)}; delete it and run again")
    return record


def read_record(path: Path) -> dict[str, Any]:
    """Read one record.

    Raises:
        ModlibError: the file is not JSON, lacks a key, or has another version.
    """
    record = read_with_keys(path, RECORD_KEYS)
    if record["version"] != RECORD_VERSION:
        raise ModlibError(
            f"record {path} has version {record['version']}; this modlib reads {RECORD_VERSION}")
    return record


def read_records(folder: str | Path, **wanted: Any) -> list[dict[str, Any]]:
    """All records in a folder whose settings have the wanted values, ordered by name.

    A folder that does not exist holds no records: the empty list.
    """
    folder = resolve(folder)
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return [
        record for record in records
        if all(record["settings"].get(key) == value for key, value in plain(wanted).items())
    ]


def check_table(
    rows: Mapping[str, list[dict[str, Any]]], settings_class: type, free: Container[str],
    folder: str,
) -> None:
    """Refuse records that must not stand in one table, or be averaged in one row.

    Args:
        rows: the table's records, by row.
        settings_class: the dataclass of their settings. A record that is older than one of its
            settings was made with what is now that setting's default.
        free: the settings that may differ.
        folder: where the records lie, for the message.

    Raises:
        ModlibError: two records differ in a setting that is not free, or in their data, or two
            of one row have the same seed.
    """
    defaults = {field.name: field.default for field in fields(settings_class)}

    def must_agree(record: dict[str, Any]) -> dict[str, Any]:
        settings = plain(defaults | record["settings"])
        source = re.sub(r" at \d+×\d+[^;]*", "", record["data"]["source"])  # settings tell the size
        return {key: value for key, value in settings.items() if key not in free} | {
            "data source": source, "images": record["data"]["images"]}

    records = [record for row in rows.values() for record in row]
    for record in records[1:]:
        first, here = must_agree(records[0]), must_agree(record)
        for key in first:
            if first[key] != here[key]:
                raise ModlibError(
                    f"the records {records[0]['name']} and {record['name']} are of one profile "
                    f"but differ in {key}: {first[key]!r} and {here[key]!r}; keep one kind in "
                    f"{folder}, or name the other profile differently")
    for name, row in rows.items():
        seeds = [record["settings"]["seed"] for record in row]
        if len(set(seeds)) != len(seeds):
            raise ModlibError(
                f"row {name} of profile {row[0]['settings']['profile']} has two records of one "
                f"seed: {', '.join(record['name'] for record in row)}")


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
