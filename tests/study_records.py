"""Hand-made records of a study, as its runs would leave them, for the tests of what they say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from modlib.arrays import to_json
from modlib.evaluation import TEST_SEED, triplets_digest
from modlib.results import plain, write_record
from modlib.retrieval import MEASURES
from modlib.settings import Settings
from modlib.studies import Study
from modlib.triplets import fixed_triplets

TASKS = ("Smiling", "Young")
IMAGES, COUNT = 40, 300  # of the test split, and of its triplets for each task
LABELS = np.random.default_rng(5).random((IMAGES, 2)) < 0.4
TRIPLETS = fixed_triplets(LABELS, np.arange(IMAGES), TASKS, COUNT, TEST_SEED)
NETWORK = 1_000_000  # parameters of a fully shared network of these records
OWN = {"fully_shared": 0, "branches": 500}  # parameters of the tasks' own, by system; else 40


def record(study: Study, row: str, seed: int = 0, accuracy: int = 80, valid: float = 70,
           **changes) -> dict:
    """A record with an ``accuracy`` of that many % for smiling on the test split, 10 less for
    young, and a mean accuracy of ``valid`` % on the validation split; other settings may change."""
    values = {"profile": "mine", "tasks": TASKS, "seed": seed} | study.changes(row) | changes
    settings = Settings(**values)
    rng = np.random.default_rng([seed, crc32(row.encode())])
    correct_TK = np.stack([100 * rng.permutation(COUNT) < right * COUNT
                           for right in (accuracy, accuracy - 10)])
    own = OWN.get(settings.system, 40)
    parameters = {"total": NETWORK + own, "shared": NETWORK, "task": own}
    if settings.system == "independent":
        parameters = {"total": 2 * NETWORK, "shared": 0, "task": 2 * NETWORK}
    return {
        "version": 1, "name": settings.run_name("data"), "status": "done",
        "settings": plain(settings.as_dict()),
        "data": {"fingerprint": "data", "source": "drawn", "images": {"train": 9}},
        "results": {
            "test_accuracy": {"Smiling": accuracy / 100, "Young": (accuracy - 10) / 100},
            "test_triplets": {"correct": to_json(correct_TK), "labels": to_json(LABELS),
                              "digest": triplets_digest(TRIPLETS)},
            "retrieval": {"Smiling": {"queries": 12} | dict.fromkeys(MEASURES, accuracy / 100),
                          "Young": {"queries": 0} | dict.fromkeys(MEASURES)},
            "parameters": parameters},
        "epochs": [
            *({"epoch": n, "ucr": [], "valid_accuracy": dict.fromkeys(TASKS, 0.99)}
              for n in range(1, settings.epochs)),
            {"epoch": settings.epochs, "ucr": [],
             "valid_accuracy": {"Smiling": valid / 100 + 0.01, "Young": valid / 100 - 0.01}}],
        "run": {"training_seconds": 120.0},
    }


def labels_of(tasks: Sequence[str]) -> np.ndarray:
    """Of the test images; an attribute's labels depend on its name alone."""
    return np.stack([np.random.default_rng([5, crc32(task.encode())]).random(IMAGES) < 0.4
                     for task in tasks], axis=1)


def wide_record(study: Study, row: str, accuracy: Mapping[str, int], seed: int = 0,
                **changes) -> dict:
    """A record of other tasks: ``accuracy`` in % of each on the test split, in their order."""
    tasks, labels_NT = tuple(accuracy), labels_of(tuple(accuracy))
    one = record(study, row, seed, **({"tasks": tasks} | changes))
    rng = np.random.default_rng([seed, crc32(row.encode())])
    correct_TK = np.stack([100 * rng.permutation(COUNT) < right * COUNT
                           for right in accuracy.values()])
    triplets = fixed_triplets(labels_NT, np.arange(IMAGES), tasks, COUNT, TEST_SEED)
    one["results"] |= {
        "test_accuracy": {task: right / 100 for task, right in accuracy.items()},
        "retrieval": {task: {"queries": 12} | dict.fromkeys(MEASURES, right / 100)
                      for task, right in accuracy.items()},
        "test_triplets": {"correct": to_json(correct_TK), "labels": to_json(labels_NT),
                          "digest": triplets_digest(triplets)}}
    for epoch in one["epochs"]:
        epoch["valid_accuracy"] = dict.fromkeys(tasks, 0.7)
    return one


def publish(folder: Path, records: list[dict]) -> None:
    """Write records into a folder, each in a file of its own."""
    for number, one in enumerate(records):
        write_record(folder / f"{number}.json", one)
