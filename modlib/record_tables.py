"""Which records may stand in one table: read by profile and row, and refused where they differ."""

import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import fields
from typing import Any

from modlib.errors import ModlibError
from modlib.record_checks import check_name
from modlib.results import plain, read_records

TELL_IMAGES = ("tasks", "image_size", "crop", "toy_images")  # alike, so is the fingerprint


def read_rows(
    folder: str, settings_class: type, profile: str,
    by_row: Callable[[list[dict[str, Any]]], dict[str, list[dict[str, Any]]]],
) -> dict[str, list[dict[str, Any]]]:
    """A profile's records in the folder of one table, by row; no record is left out in silence.

    A run of no row may lie there too, where a run of a row started from it.

    Args:
        folder: of the records of all the table's profiles.
        settings_class: the dataclass of their settings.
        by_row: sorts records into rows, and leaves out those of no row.

    Raises:
        ModlibError: a record, of whatever profile, cannot be read or shown, has settings that no
            longer exist, or belongs to no row.
    """
    records = read_records(folder)
    for record in records:
        check_name(record, settings_class)
    rows = by_row(records)
    placed = {record["name"] for row in rows.values() for record in row}
    started_from = {record["name"]: record["results"].get("trunk_from") for record in records}
    starts = {started_from[name] for name in placed}
    while more := {started_from.get(name) for name in starts} - starts:
        starts |= more
    for record in records:
        if record["name"] not in placed | starts:
            raise ModlibError(
                f"record {record['name']} in {folder} belongs to no row of its table "
                f"({', '.join(rows)}): no page would show it; move it away, or delete it")
    return by_row([one for one in records if one["settings"].get("profile") == profile])


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
        ModlibError: two records differ in a setting that is not free, or in their images, or two
            of one row have the same seed; or a record's settings no longer exist, or its name is
            that of other settings or data.
    """
    defaults = {field.name: field.default for field in fields(settings_class)}

    def must_agree(record: dict[str, Any]) -> dict[str, Any]:
        settings = plain(defaults | record["settings"])
        return {key: value for key, value in settings.items() if key not in free} | images_of(
            record["data"])

    records = [record for row in rows.values() for record in row]
    for record in records:
        check_name(record, settings_class)
    for record in records[1:]:
        first, here = must_agree(records[0]), must_agree(record)
        for key in first:
            if first[key] != here[key]:
                raise ModlibError(
                    f"the records {records[0]['name']} and {record['name']} are of one profile "
                    f"but differ in {key}: {first[key]!r} and {here[key]!r}; keep one kind in "
                    f"{folder}, or name the other profile differently")
    first_of: dict[Any, dict[str, Any]] = {}
    for record in records:
        first = first_of.setdefault(told_apart(record["settings"]), record)
        if first["data"]["fingerprint"] != record["data"]["fingerprint"]:
            raise ModlibError(
                f"the records {first['name']} and {record['name']} are of one profile and of the "
                f"same tasks, but not of the same images: keep one kind in {folder}")
    for name, row in rows.items():
        seeds = [record["settings"]["seed"] for record in row]
        if len(set(seeds)) != len(seeds):
            raise ModlibError(
                f"row {name} of profile {row[0]['settings']['profile']} has two records of one "
                f"seed: {', '.join(record['name'] for record in row)}")


def told_apart(settings: Mapping[str, Any]) -> str:
    """What of a run's settings tells its images: where it is alike, the fingerprint must be."""
    return json.dumps([plain(settings).get(key) for key in TELL_IMAGES])


def images_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the records of one table have in common of their images, whatever size and tasks."""
    source = re.sub(r" at \d+×\d+[^;]*", "", data["source"])  # settings tell the size
    return {"data source": source, "images": data["images"]}
