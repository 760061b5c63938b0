"""What the paper's tables would cost at its own scale: a calculation from measured throughput.

A run's work is counted, not guessed: the operations of one forward pass are those that torch
dispatches for the network on images without content, a backward pass takes twice as many, and the
images are those of all epochs. The speed comes from committed records.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from modlib import ablations, three_attributes, twenty_attributes
from modlib.errors import ModlibError
from modlib.experiments import new_network
from modlib.machine import cpu_threads
from modlib.results import read_records
from modlib.settings import Settings
from modlib.tables import not_run_yet
from modlib.toy_faces import STATISTICS_PATH

CELEBA_TRAIN = 162_770  # images of the train split in CelebA's list_eval_partition.txt
PASSES = 3  # a forward pass, and a backward pass to the activations and to the weights


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        folder: of its records, below ``book/results``.
        notebook: the number that begins the name of the notebook that makes it.
        runs: its runs at the paper's scale.
    """

    folder: str
    notebook: str
    runs: tuple[Settings, ...]


def paper_tables(profile: Mapping[str, Any]) -> dict[str, Table]:
    """The runs of the paper's tables about faces.

    Args:
        profile: the parameters of a settings file for CelebA by the paper's recipe.
    """
    def flat(runs: Mapping[str, Iterable[Settings]]) -> tuple[Settings, ...]:
        return tuple(one for of_row in runs.values() for one in of_row)

    three, _ = three_attributes.study(profile)
    study, twenty, _ = twenty_attributes.lay_out(
        {**profile, "tasks": list(twenty_attributes.TASKS)}, {})
    seven, _ = ablations.STUDY.lay_out({**profile, "tasks": list(ablations.TASKS)})
    return {"Table 1": Table(three_attributes.FOLDER, "02", flat(three)),
            "Table 3": Table(study.folder, "03", flat(twenty)),
            "Tables 4 and 5": Table(ablations.STUDY.folder, "04", flat(seven))}


def forward_operations(settings: Settings) -> float:
    """Floating-point operations of one image's forward pass in training, for all that it serves.

    An image serves one task in ``triplets`` batching, and goes through the trunk once; in
    ``shared`` batching it serves every task. A multiplication and an addition count as two.
    """
    if settings.batching == "triplets":
        settings = replace(settings, system="fully_shared", trunk_system="branches",
                           trunk_tasks=(), regulariser_weight=0.0, embedding_norm_weight=0.0,
                           mask_norm_weight=0.0)
    return _forward_operations(replace(settings, seed=0))


@lru_cache(maxsize=256)
def _forward_operations(settings: Settings) -> float:
    images, side = 2, settings.image_size
    with torch.device("meta"):  # shapes alone: nothing is computed, and no memory is taken
        network = new_network(replace(settings, compiled=False))
        pixels_BCHW = torch.empty(images, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        network.embed_all_tasks(pixels_BCHW)
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
    return PASSES * forward_operations(settings) * training_images(settings)


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
        operations += PASSES * images * forward_operations(Settings(**record["settings"]))
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


def gpu_hours(tables: Mapping[str, Table], profile: str) -> str:
    """GPU hours of each table as Markdown: from its records of a GPU, or how to make them."""
    said = []
    for name, table in tables.items():
        records = [record for record in read_records(f"book/results/{table.folder}",
                                                     profile=profile)
                   if cpu_threads(record["run"]["device"]) is None]
        if not records:
            said.append(f"**{name}**\n\n" + not_run_yet(profile, table.folder, table.notebook))
            continue
        mean = sum(record["run"]["training_seconds"] for record in records) / len(records) / 3600
        said.append(f"**{name}**: {len(table.runs)} runs of {mean:.2f} hours on "
                    f"{records[0]['run']['device']}, the mean of {len(records)}: "
                    f"{len(table.runs) * mean:,.1f} GPU hours.")
    return "\n\n".join(said)
