"""Runs that are kept: where their record and checkpoint are, and how a record comes to be.

For every kind of settings and network alike.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modlib.datasets import AttributeImages
from modlib.errors import ModlibError
from modlib.held_out import SPLITS
from modlib.locks import one_at_a_time
from modlib.machine import (
    choose_device,
    device_failures,
    git_commit,
    keep_freed_memory,
    make_deterministic,
    run_facts,
)
from modlib.record_checks import check_name
from modlib.record_tables import images_of, told_apart
from modlib.results import RECORD_VERSION, read_record, read_records, resolve, write_record
from modlib.settings import Places, RunSettings, Settings
from modlib.whole_files import check_writable, remove_abandoned


def record_path(settings: RunSettings, places: Places, fingerprint: str) -> Path:
    """Where the record of this run is, or will be."""
    return resolve(places.results_dir) / f"{settings.run_name(fingerprint)}.json"


def checkpoint_path(settings: RunSettings, places: Places, fingerprint: str) -> Path:
    """Where the checkpoint of this run is, or will be."""
    return resolve(places.checkpoint_dir) / f"{settings.run_name(fingerprint)}.pt"


def kept_record(
    settings: RunSettings,
    places: Places,
    data: AttributeImages,
    work: Callable[[Path, torch.device], tuple[list[dict[str, Any]], dict[str, Any]]],
) -> dict[str, Any]:
    """The record of a run: read where it is there, else written when the work is done.

    Where another process is at the same run, this one waits and reads what that one has written.

    Args:
        work: from the checkpoint's path and the device to every epoch's metrics and the final
            results. What these hold under ``"run"`` is a fact of this machine, as the seconds are.

    Raises:
        ModlibError: records or checkpoints cannot be written, or the book's records of this profile
            are of other images, which is tried before the work; the device runs out of memory, or
            fails.
    """
    path = record_path(settings, places, data.fingerprint)
    checkpoint = checkpoint_path(settings, places, data.fingerprint)
    if path.exists():
        return _kept(path, settings)
    check_writable(path.parent, "the folder of records")
    check_writable(checkpoint.parent, "the folder of checkpoints")
    check_published(path.parent, settings, _facts_of(data))
    with one_at_a_time(checkpoint):
        if path.exists():  # written while this process waited
            return _kept(path, settings)
        remove_abandoned(checkpoint)
        remove_abandoned(path)
        smallest = 3 * len(settings.tasks) if isinstance(settings, Settings) else 1
        with device_failures(settings.batch_size, smallest, checkpoint):
            record = _new_record(settings, places, data, work, checkpoint, path.stem)
        write_record(path, record)
        return record


def check_published(folder: Path, settings: RunSettings, data: dict[str, Any]) -> None:
    """Refuse a run that no table of the book could show, before hours of work.

    Args:
        folder: where its record would go; only below ``book/results`` is anything refused.
        settings: of the run.
        data: its images, as a record describes them.

    Raises:
        ModlibError: records of its profile are there, and of other images.
    """
    if not folder.is_relative_to(resolve("book/results")):
        return
    for record in read_records(folder, profile=settings.profile):
        here, there = images_of(data), images_of(record["data"])
        for key in here:
            if here[key] != there[key]:
                raise ModlibError(
                    f"{folder} holds records of profile {settings.profile} of other images than "
                    f"yours, and one table cannot show both: the {key} of {record['name']} is "
                    f"{there[key]!r}, yours {here[key]!r}. Name another results_dir (the default "
                    "is runs/records), or first move the records of this profile away")
        if told_apart(settings.as_dict()) == told_apart(record["settings"]) and (
                data["fingerprint"] != record["data"]["fingerprint"]):
            raise ModlibError(
                f"{folder} holds {record['name']}, of the same tasks and of as many images as "
                "yours, but of other pixels or labels, and one table cannot show both. Name "
                "another results_dir (the default is runs/records), or first move the records of "
                "this profile away")


def _kept(path: Path, settings: RunSettings) -> dict[str, Any]:
    """The record of a run, from its file."""
    record = read_record(path)
    if record["name"] != path.stem:
        raise ModlibError(f"record {path} calls itself {record['name']}: it was put in this "
                          "run's place; delete it and run again")
    check_name(record, type(settings))
    return record


def _facts_of(data: AttributeImages) -> dict[str, Any]:
    """The images of a run, as its record describes them."""
    return {"fingerprint": data.fingerprint, "source": data.source,
            "images": {split: len(data.indices(split)) for split in SPLITS}}


def _new_record(settings, places, data, work, checkpoint: Path, name: str) -> dict[str, Any]:
    device, commit = choose_device(places.device), git_commit()
    make_deterministic()
    keep_freed_memory()
    started = time.perf_counter()
    epochs, results = work(checkpoint, device)
    return {
        "version": RECORD_VERSION,
        "name": name,
        "status": "done",
        "settings": settings.as_dict(),
        "data": _facts_of(data),
        "results": {key: value for key, value in results.items() if key != "run"},
        "epochs": epochs,
        "run": run_facts(epochs, device, time.perf_counter() - started, commit)
        | results.get("run", {}),
    }
