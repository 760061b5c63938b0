"""How many images a second training steps take: measured on noise, for an estimate of hours.

The images' content makes no difference to the time of a step, so noise will do, and no data
is needed. What is timed is the step alone: forward, backward, and the optimiser.

Shapes: B batch, T tasks, C channels, H W height and width.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from modlib.errors import ModlibError
from modlib.experiments import new_network
from modlib.machine import (
    device_name,
    git_commit,
    keep_freed_memory,
    make_deterministic,
    processor,
    versions,
)
from modlib.optimisers import build_optimiser
from modlib.record_fields import is_number
from modlib.results import read_with_keys, resolve, write_record
from modlib.settings import Settings
from modlib.training import training_step

FOLDER = "book/results/speed"
PATTERN = "throughput-*.json"
RECORD_VERSION = 1
KEYS = ("version", "recipe", "systems", "device", "processor", "threads", "versions", "seconds",
        "git_commit")
RECIPE = ("profile", "image_size", "width", "batch_size", "batching", "optimiser", "precision")
STEP_SECONDS = 3.0  # of steps for each system
LEAST_STEPS = 3  # the first and two more


def kind(settings: Settings) -> str:
    """What stands for a run in the record: its system; of independent networks their batch, too.

    Of these each has a batch of its own. What else tells rows apart, such as the size of branches,
    changes the work of a step by little.
    """
    if settings.system != "independent":
        return settings.system
    return f"independent, {3 * settings.triplets_per_task} images each"


def recipe(runs: Iterable[Settings]) -> dict[str, Any]:
    """The settings that speeds hold for: those of all runs.

    The batch is that of the runs in which tasks share a network; :func:`kind` has the others'.

    Args:
        runs: one or more.

    Raises:
        ModlibError: the runs are of two recipes, or of another batching than ``triplets``.
    """
    found = [{name: getattr(one, name) for name in RECIPE
              if name != "batch_size" or one.system != "independent"} for one in runs]
    whole = max(found, key=len)
    if any(not one.items() <= whole.items() or one["batching"] != "triplets" for one in found):
        raise ModlibError("runs must be of one recipe with batching='triplets'; given "
                          f"{' and '.join(sorted({str(one) for one in found}))}")
    return whole


def timed_settings(settings: Settings) -> Settings:
    """What is timed for a run in ``triplets`` batching: of independent networks one alone.

    They share nothing, and a step takes them one after the other. So the images per second of one,
    on its share of the batch, are those of all.
    """
    if settings.system != "independent":
        return settings
    return replace(settings, system="fully_shared", tasks=settings.tasks[:1],
                   batch_size=3 * settings.triplets_per_task)


def time_steps(settings: Settings, device: torch.device, seconds: float) -> dict[str, Any]:
    """Images per second over the median step, how many ``steps`` were timed, and their ``images``.

    Steps are taken until the seconds are over, and three at least. The first is left out: it also
    takes memory and chooses algorithms.

    Args:
        settings: of a run in ``triplets`` batching.
    """
    network = new_network(settings).to(device).train()
    optimiser = build_optimiser(network, settings)
    generator = torch.Generator().manual_seed(0)
    count, side = 3 * len(settings.tasks) * settings.triplets_per_task, settings.image_size
    images_BCHW = torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator).to(device)
    labels_BT = (torch.rand(count, len(settings.tasks), generator=generator) < 0.5).to(device)
    of_steps: list[float] = []
    while len(of_steps) < LEAST_STEPS or sum(of_steps) < seconds:
        started = time.perf_counter()
        training_step(network, optimiser, images_BCHW, labels_BT, settings, generator)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        of_steps.append(time.perf_counter() - started)
    kept = of_steps[1:]
    return {"images_per_second": count / median(kept), "steps": len(kept), "images": count}


def measure(
    runs: Iterable[Settings], device: torch.device, seconds: float = STEP_SECONDS
) -> dict[str, Any]:
    """A record of how fast the first run of each :func:`kind` trains on a device.

    Args:
        runs: of one recipe.
        seconds: of steps for each.

    Raises:
        ModlibError: see :func:`recipe`.
    """
    runs = list(runs)
    of_all = recipe(runs)
    first = {kind(one): one for one in reversed(runs)}
    make_deterministic()  # as in a run
    keep_freed_memory()
    started = time.perf_counter()
    systems = {name: time_steps(timed_settings(one), device, seconds)
               for name, one in sorted(first.items())}
    return {"version": RECORD_VERSION, "recipe": of_all, "systems": systems,
            "device": device_name(device), "processor": processor(),
            "threads": torch.get_num_threads(), "versions": versions(),
            "seconds": time.perf_counter() - started, "git_commit": git_commit()}


def write(record: Mapping[str, Any], folder: str | Path = FOLDER) -> Path:
    """Write a device's record, in the place of the one before."""
    of = record["processor"] if record["device"].startswith("cpu") else record["device"]
    slug = re.sub(r"[^a-z0-9]+", "-", of.lower()).strip("-")
    path = resolve(folder) / PATTERN.replace("*", slug)
    write_record(path, record)
    return path


def read(path: Path) -> dict[str, Any]:
    """A device's record.

    Raises:
        ModlibError: it cannot be read, is not what its digest says, or holds a speed that cannot
            be.
    """
    record = read_with_keys(path, KEYS, signed=True)
    if not isinstance(record["systems"], dict) or not record["systems"]:
        raise ModlibError(f"record {path}: systems is {record['systems']!r}; allowed: the speed of "
                          "one system or more")
    for name, one in record["systems"].items():
        speed = one.get("images_per_second") if isinstance(one, dict) else None
        if not is_number(speed) or not speed > 0:
            raise ModlibError(f"record {path}: systems.{name}.images_per_second is {speed!r}; "
                              "allowed: a number above 0")
    return record


def read_all(wanted: Mapping[str, Any], folder: str | Path = FOLDER) -> list[dict[str, Any]]:
    """The record of every device, ordered by the files' names.

    Args:
        wanted: the :func:`recipe` that they must be of.

    Raises:
        ModlibError: see :func:`read`; or a record is of another recipe.
    """
    records = []
    for path in sorted(resolve(folder).glob(PATTERN)):
        record = read(path)
        if record["recipe"] != wanted:
            raise ModlibError(f"record {path} is of {record['recipe']}, not of {wanted}; measure "
                              "again: .venv/bin/python -m modlib.cost --measure")
        records.append(record)
    return records
