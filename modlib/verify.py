"""Committed records run again, and compared: ``python -m modlib.verify``.

On the same kind of device a record must come out the same to the last digit: the same CPU model
and vector instructions (or GPU), as many threads, the same versions of torch, torchvision and
numpy. Elsewhere sums are added up in another order. That changes a last digit, training makes more
of it with every step, and where two numbers are nearly equal a decision turns round: which of two
images is nearer, which sign a product of gradients has. So on another kind numbers are held to
tolerances, and all else, such as settings, images and counted parameters, must still be equal.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from modlib.arrays import from_json
from modlib.classification import run_classifier
from modlib.classifiers import ClassifierSettings
from modlib.errors import ModlibError
from modlib.experiments import run
from modlib.machine import cpu_threads, git_commit
from modlib.results import comparable, read_records
from modlib.settings import Places, Settings

FOLDER = "book/results/quick"
TASKS = ("Smiling", "Mouth_Slightly_Open", "Young")
# Small toy runs of a few seconds: three systems on triplets, and a classifier. The low learning
# rate keeps the last digits, in which kinds of device differ, from growing with every step.
TRIPLETS = Settings(
    profile="verify", tasks=TASKS, image_size=48, toy_images=300, width=0.1, embedding_size=32,
    batch_size=36, epochs=2, batches_per_epoch=3, learning_rate=1e-4, ucr_every=1,
    precision="float32", test_triplets=500)
SAMPLE = (
    TRIPLETS, replace(TRIPLETS, system="fully_shared"), replace(TRIPLETS, system="independent"),
    ClassifierSettings(
        profile="verify", tasks=TASKS, image_size=48, toy_images=300, batch_size=24, epochs=2,
        batches_per_epoch=2, learning_rate=1e-4, ucr_every=1, precision="float32"))
RUNNERS = {Settings: run, ClassifierSettings: run_classifier}

# What another kind of device may change, and by how much: measured on one CPU by holding torch to
# the vector instructions of older ones (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA). There no loss
# moved by more than 2e-5, no cosine by more than 3e-3, and in retrieval one query of 51 turned.
SHARES = {"test_accuracy", "valid_accuracy", "test_auc", "valid_auc", "retrieval"}
COUNTS = {"ucr", "ucr_stages", "dead_scales"}
SHARE_TOLERANCE, COUNT_TOLERANCE, TOLERANCE = 0.05, 2, 0.01


@dataclass(frozen=True)
class Difference:
    """A value of a record that came out otherwise: where it stands, what was wanted, what came."""

    where: str
    wanted: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.where}: {self.wanted!r} in the record, {self.found!r} here"


def same_kind(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records' ``run`` sections tell of one kind of device, with the same versions.

    Records that do not name their processor are of no kind that is known.
    """
    def kind(run: Mapping[str, Any]) -> tuple:
        versions = (run["versions"].get(name) for name in ("torch", "torchvision", "numpy"))
        return run.get("processor"), cpu_threads(run["device"]) or run["device"], *versions

    return "processor" in one and kind(one) == kind(other)


def differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], exactly: bool
) -> list[Difference]:
    """Where two records are not the same, but for what is of the machine alone.

    Args:
        exactly: to the last digit; else numbers may differ by the tolerances of this module.
    """
    one, other = (dict(_leaves(comparable(record))) for record in (wanted, found))
    return [Difference("/".join(where), one.get(where), other.get(where))
            for where in dict.fromkeys([*one, *other])
            if where not in one or where not in other
            or not _alike(where, one[where], other[where], exactly)]


def _leaves(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value.keys() != {"dtype", "shape", "data"}:
        for key, inner in value.items():
            yield from _leaves(inner, (*where, str(key)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*where, str(number)))
    else:
        yield where, value


def _alike(where: tuple[str, ...], one: Any, other: Any, exactly: bool) -> bool:
    if exactly or where[0] in ("settings", "data", "name", "version", "status"):
        return type(one) is type(other) and one == other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        arrays = from_json(one), from_json(other)
        if arrays[0].shape != arrays[1].shape or arrays[0].dtype != arrays[1].dtype:
            return False
        one, other = (array.astype(np.float64) for array in arrays)
        if arrays[0].dtype == bool:  # which test triplets are right: a share of them
            return np.abs(one - other).mean() <= SHARE_TOLERANCE
    counted = bool(COUNTS & set(where)) and where[-1] != "mean_cosine"
    measured = float | np.ndarray | (int if counted else float)
    if not isinstance(one, measured) or not isinstance(other, measured):
        return one == other
    tolerance = (COUNT_TOLERANCE if counted else
                 SHARE_TOLERANCE if SHARES & set(where) else TOLERANCE)
    return bool(np.all(np.abs(one - other) <= tolerance))


def settings_of(record: Mapping[str, Any]) -> Settings | ClassifierSettings:
    """The settings that a record was made with.

    Raises:
        ModlibError: they are of another kind of run than this module can repeat.
    """
    for kind in RUNNERS:
        if record["settings"].keys() <= {field.name for field in fields(kind)}:
            return kind(**record["settings"])
    raise ModlibError(f"{record['name']} cannot be run again: it is of no kind among "
                      f"{', '.join(kind.__name__ for kind in RUNNERS)}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def verify(record: Mapping[str, Any]) -> tuple[bool, list[Difference]]:
    """Run a record's settings again, with as many threads, and compare what comes out.

    Returns:
        whether it was compared to the last digit, and the differences.

    Raises:
        ModlibError: the record is of a kind of run that cannot be repeated, or of data that are
            not drawn here, or of a GPU where there is none.
    """
    settings, threads = settings_of(record), cpu_threads(record["run"]["device"])
    if settings.dataset != "toy_faces":
        raise ModlibError(f"{record['name']} needs data: {settings.dataset!r}; allowed: toy_faces")
    with TemporaryDirectory() as folder, _threads(threads or torch.get_num_threads()):
        again = RUNNERS[type(settings)](settings, Places(
            results_dir=folder, checkpoint_dir=folder, device="cpu" if threads else "cuda"))
    exactly = same_kind(record["run"], again["run"])
    return exactly, differences(record, again, exactly)


def write_sample(folder: str | Path = FOLDER) -> None:
    """Write the records of ``SAMPLE`` that are missing, each made with one thread.

    Raises:
        ModlibError: modlib has no commit, or is not as it was committed, so that the records could
            not say what they were made by.
    """
    commit = git_commit()
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ModlibError(f"records are written from a clean commit of modlib; this is {commit!r}")
    with TemporaryDirectory() as checkpoints, _threads(1):
        for settings in SAMPLE:
            RUNNERS[type(settings)](settings, Places(
                results_dir=str(folder), checkpoint_dir=checkpoints, device="cpu"))


def main() -> None:
    """Run the sample of committed records again; exit with 1 where one comes out otherwise."""
    parser = argparse.ArgumentParser(prog="python -m modlib.verify", description=main.__doc__)
    parser.add_argument("--folder", default=FOLDER, help="of the records")
    parser.add_argument("--write", action="store_true",
                        help="first make the records that are missing; from a clean commit")
    arguments = parser.parse_args()
    wrong, lines = [], []
    try:
        if arguments.write:
            write_sample(arguments.folder)
        records = read_records(arguments.folder)
        if not records:
            raise ModlibError(f"no records in {arguments.folder}; make them with --write")
        for record in records:
            exactly, found = verify(record)
            wrong += [f"{record['name']}/{one}" for one in found]
            lines.append({
                "record": record["name"],
                "compared": "to the last digit" if exactly else "within tolerances: other device",
                "differences": len(found)})
    except ModlibError as error:
        parser.exit(2, f"{error}\n")
    print(pd.DataFrame(lines).to_string(index=False))
    parser.exit(bool(wrong), "".join(f"{line}\n" for line in wrong))


if __name__ == "__main__":
    main()
