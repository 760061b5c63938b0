"""What the paper's tables would cost at its own scale: a calculation from measured throughput.

The call ::

    python -m modlib.cost --measure

times training steps of each system at the paper's size on the device that is there, and writes a
record of it (:mod:`modlib.throughput`); hours are the images of all runs over images per second.
Beside that a run's work is counted: the operations of one step are those that torch dispatches for
the network on images without content, forward and back, and the images are those of all epochs.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from modlib import ablations, three_attributes, throughput, twenty_attributes
from modlib.errors import ModlibError
from modlib.experiments import new_network
from modlib.machine import choose_device, cpu_threads, device_in_words
from modlib.networks import TRUNK_FROM
from modlib.results import read_records
from modlib.settings import Settings
from modlib.settings_files import read_settings, settings_file
from modlib.tables import short_commit
from modlib.toy_faces import STATISTICS_PATH

PROFILE = "celeba_gpu"
MEASURE = ".venv/bin/python -m modlib.cost --measure"
CELEBA_TRAIN = 162_770  # images of the train split in CelebA's list_eval_partition.txt
PASSES = 3  # of one step: forward, and back to the activations and to the weights


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        runs: its runs at the paper's scale.
    """

    runs: tuple[Settings, ...]


def paper_profile() -> dict[str, Any]:
    """The parameters of the settings file of the paper's recipe."""
    return read_settings(settings_file(PROFILE))


def paper_tables(profile: Mapping[str, Any]) -> dict[str, Table]:
    """The runs of the paper's tables about faces.

    Args:
        profile: the parameters of a settings file for CelebA by the paper's recipe.
    """
    def flat(runs: Mapping[str, Iterable[Settings]]) -> tuple[Settings, ...]:
        return tuple(one for of_row in runs.values() for one in of_row)

    three, _ = three_attributes.study(profile)
    _, twenty, _ = twenty_attributes.lay_out(
        {**profile, "tasks": list(twenty_attributes.TASKS)}, {})
    _, seven, _ = ablations.lay_out({**profile, "tasks": list(ablations.TASKS),
                                     "rows": list(ablations.PAPER_NAMES)})
    return {"Table 1": Table(flat(three)), "Table 3": Table(flat(twenty)),
            "Tables 4 and 5": Table(flat(seven))}


def step_operations(settings: Settings) -> float:
    """Floating-point operations of one image in a training step, for all tasks that it serves.

    An image serves one task in ``triplets`` batching, as in a network of one task; in ``shared``
    batching it serves every task. A multiplication and an addition count as two. Nothing goes back
    to what learns nothing: neither to the pixels nor through a frozen trunk's first stages.
    """
    tasks = settings.tasks[:1] if settings.batching == "triplets" else settings.tasks
    return _step_operations(replace(settings, tasks=tasks, seed=0, regulariser_weight=0.0))


@lru_cache(maxsize=256)
def _step_operations(settings: Settings) -> float:
    images, side = 2, settings.image_size
    with torch.device("meta"):  # shapes alone: nothing is computed, and no memory is taken
        network = new_network(replace(settings, compiled=False))
        pixels_BCHW = torch.empty(images, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        network.embed_all_tasks(pixels_BCHW).sum().backward()
    return counter.get_total_flops() / images


def training_images(settings: Settings) -> int:
    """Images of all batches of a run on the whole of CelebA.

    Where the settings leave an epoch's length open it lasts as long as the first task's holders,
    whose share of CelebA was measured.
    """
    batches = settings.batches_per_epoch
    if batches is None:
        measured = json.loads(STATISTICS_PATH.read_text())
        shares = dict(zip(measured["attributes"], measured["marginals"], strict=True))
        if settings.tasks[0] not in shares:
            raise ModlibError(f"the share of {settings.tasks[0]!r} on CelebA was not measured; "
                              f"measured: {', '.join(shares)}")
        batches = int(shares[settings.tasks[0]] * CELEBA_TRAIN) // settings.triplets_per_task
    return settings.epochs * batches * 3 * len(settings.tasks) * settings.triplets_per_task


def training_operations(settings: Settings) -> float:
    """Floating-point operations of a run's training on the whole of CelebA."""
    return step_operations(settings) * training_images(settings)


def core_rate(records: Iterable[Mapping[str, Any]]) -> float:
    """Operations of training per second and core, over records of CPUs; the seconds also validate.

    Raises:
        ModlibError: no record is of a CPU.
    """
    operations = core_seconds = 0.0
    for record in records:
        threads = cpu_threads(record["run"]["device"])
        if threads is None:
            continue
        images = sum(epoch["images"] for epoch in record["epochs"])
        operations += images * step_operations(Settings(**record["settings"]))
        core_seconds += threads * record["run"]["training_seconds"]
    if not core_seconds:
        raise ModlibError("no record tells how fast a CPU trains; allowed: one of a CPU, or more")
    return operations / core_seconds


def committed_rates(folders: Iterable[str]) -> dict[str, float]:
    """:func:`core_rate` of the committed records in each folder below ``book/results`` with any."""
    found = {folder: read_records(f"book/results/{folder}") for folder in folders}
    return {folder: core_rate(records) for folder, records in found.items() if records}


def core_hours_table(tables: Mapping[str, Table], rates: Mapping[str, float]) -> pd.DataFrame:
    """Every table's runs, work, and core-hours at each of the rates, with their sum.

    Args:
        tables: as :func:`paper_tables` gives them.
        rates: from what was measured to operations per second and core.
    """
    lines = []
    for name, table in tables.items():
        operations = sum(map(training_operations, table.runs))
        lines.append({"": name, "runs": len(table.runs),
                      "million images": sum(map(training_images, table.runs)) / 1e6,
                      "exaFLOP": operations / 1e18}
                     | {f"core-hours, {of}": operations / rate / 3600
                        for of, rate in rates.items()})
    table = pd.DataFrame(lines).set_index("").rename_axis(None)
    table.loc["all"] = table.sum()
    return table.map(lambda value: f"{value:,.0f}")


def training_hours(settings: Settings, speeds: Mapping[str, Mapping[str, Any]]) -> float:
    """Hours of a run's training steps at the speeds of a device; without probes or validation.

    Raises:
        ModlibError: the run's system was not timed there.
    """
    kind = throughput.kind(settings)
    if kind not in speeds:
        raise ModlibError(f"{kind!r} was not timed; timed: {', '.join(speeds)}; measure again: "
                          f"{MEASURE}")
    return training_images(settings) / speeds[kind]["images_per_second"] / 3600


def probe_factor(settings: Settings) -> float:
    """How many times longer training takes with its probes of the update compliance ratio.

    A probed batch has one more backward pass for each task, and a backward pass is two of the
    three passes of a step. Where nothing is shared and trained nothing is probed.
    """
    if not settings.ucr_every or settings.system in ("independent", *TRUNK_FROM):
        return 1.0
    return 1 + len(settings.tasks) * (PASSES - 1) / PASSES / settings.ucr_every


def hours_table(tables: Mapping[str, Table], record: Mapping[str, Any]) -> pd.DataFrame:
    """Every table's runs, images and hours on the device of a record, with their sum.

    Args:
        tables: as :func:`paper_tables` gives them.
        record: as :func:`modlib.throughput.read` gives it.
    """
    lines = []
    for name, table in tables.items():
        hours = [training_hours(one, record["systems"]) for one in table.runs]
        probed = [one * probe_factor(run) for one, run in zip(hours, table.runs, strict=True)]
        lines.append({"": name, "runs": len(table.runs),
                      "million images": sum(map(training_images, table.runs)) / 1e6,
                      "hours": sum(hours), "hours with probes": sum(probed)})
    table = pd.DataFrame(lines).set_index("").rename_axis(None)
    table.loc["all"] = table.sum()
    hours = table.columns.str.startswith("hours")
    return table.map(lambda value: f"{value:,.0f}").where(
        ~hours | (table >= 10), table.map(lambda value: f"{value:.1f}"))


def speed_sentence(record: Mapping[str, Any]) -> str:
    """What was timed on a device, and how fast it was, as Markdown."""
    shown = {"csn": "CSN"}
    speeds = "; ".join(f"{shown.get(name, name.replace('_', ' '))} {one['images_per_second']:,.0f}"
                       for name, one in record["systems"].items())
    where = device_in_words(record["device"]) + (
        f", {record['processor']}" if cpu_threads(record["device"]) else "")
    return (f"**{where}**: images a second in training, {speeds}. Timed in "
            f"{record['seconds']:.0f} seconds, torch {record['versions']['torch']}, commit "
            f"`{short_commit(record['git_commit'])}`.")


def no_gpu_yet(records: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown box where no GPU was timed; else nothing. The page has the call above it."""
    if any(cpu_threads(record["device"]) is None for record in records):
        return ""
    return ("> **Not run yet: the speed of a GPU.** Each system is timed for a few seconds. The "
            "next `make book` shows its hours here.")


def main() -> None:
    """Time training steps at the paper's size on this device, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m modlib.cost", description=main.__doc__)
    parser.add_argument("--measure", action="store_true", required=True)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--folder", default=throughput.FOLDER, help="of the record")
    arguments = parser.parse_args()
    try:
        runs = [run for table in paper_tables(paper_profile()).values() for run in table.runs]
        record = throughput.measure(runs, choose_device(arguments.device))
        path = throughput.write(record, arguments.folder)
    except ModlibError as error:
        parser.exit(2, f"{error}\n")
    print(f"{speed_sentence(record)}\n{path}")


if __name__ == "__main__":
    main()
