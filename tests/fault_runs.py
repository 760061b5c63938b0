"""Runs in processes of their own that are killed, or whose disk fills up, at a chosen moment.

A process is forked from one that has imported torch already: that takes a tenth of a second, where
a new interpreter takes several.
"""

import errno
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modlib import whole_files
from modlib.classification import ClassifierSettings, run_classifier
from modlib.errors import ModlibError
from modlib.experiments import run
from modlib.packed_images import open_images
from modlib.results import comparable, read_record
from modlib.settings import Places, Settings

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["modlib.experiments", "modlib.classification", "torchmetrics.functional.retrieval"])

TASKS = ("Smiling", "Young")
FACES = Settings(
    dataset="celeba", tasks=TASKS, image_size=48, width=0.1, embedding_size=16, batch_size=12,
    samples_per_anchor=2, epochs=2, batches_per_epoch=2, precision="float32", ucr_every=2,
    test_triplets=40)
KINDS = {
    "triplets": (run, FACES),
    "masks on a trunk": (run, replace(FACES, system="mask_only", ucr_every=0, epochs=1)),
    "other masks on it": (run, replace(FACES, system="mask_only", ucr_every=0, epochs=1,
                                       modulate_from=5)),
    "classifier": (run_classifier, ClassifierSettings(
        dataset="celeba", tasks=TASKS, image_size=48, batch_size=12, epochs=2,
        batches_per_epoch=1, precision="float32", ucr_every=0)),
}
DONE = "done"


def write_faces(root: Path, count: int = 150) -> Path:
    """A CelebA of noise, whose decoding takes a noticeable part of a run's time."""
    (root / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(3)
    labels, splits = [], []
    for n in range(count):
        name = f"{n + 1:06d}.jpg"
        pixels = rng.integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(pixels).save(root / "img_align_celeba" / name)
        values = rng.choice([-1, 1], len(TASKS))
        labels.append(f"{name} " + " ".join(f"{value:2d}" for value in values))
        splits.append(f"{name} {n % 3}")
    (root / "list_attr_celeba.txt").write_text(
        "\n".join([str(count), " ".join(TASKS), *labels, ""]))
    (root / "list_eval_partition.txt").write_text("\n".join([*splits, ""]))
    return root


def fresh_places(folder: Path, root: Path) -> Places:
    return Places(data_root=str(root), cache_dir=str(folder / "cache"), device="cpu",
                  results_dir=str(folder / "records"), checkpoint_dir=str(folder / "checkpoints"))


# Faults


@dataclass(frozen=True)
class Fault:
    """What happens at the ``number``-th call, from 1, of ``write``, ``fsync`` or ``replace``.

    ``"kill"``: SIGKILL, before it (in the middle of a write), or after it. ``"full"``: the disk is.
    ``"limit"``: the kernel lets no file grow past ``number`` bytes.
    """

    action: str
    call: str
    number: int
    after: bool = False


class Calls:
    """Counts the calls that write, in the process in which it is planted, and lets one fail."""

    def __init__(self, fault: Fault | None = None):
        self.fault = fault
        self.counts = dict.fromkeys(("write", "fsync", "replace"), 0)

    def plant(self, patch=setattr) -> "Calls":
        patch(os, "fsync", self._counted("fsync", os.fsync))
        patch(os, "replace", self._counted("replace", os.replace))
        # A name of the module hides the built-in one.
        whole_files.open = lambda path, mode: io.BufferedWriter(_Raw(path, mode, self))
        return self

    @staticmethod
    def remove() -> None:
        del whole_files.open

    def _counted(self, name, call):
        def counted(*arguments):
            self.at(name)
            result = call(*arguments)
            self.at(name, after=True)
            return result
        return counted

    def at(self, name: str, after: bool = False, half=lambda: None) -> None:
        self.counts[name] += not after
        fault = self.fault
        if fault is None or (fault.call, fault.number, fault.after) != (
                name, self.counts[name], after):
            return
        half()
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, "No space left on device")


class _Raw(io.FileIO):
    def __init__(self, path, mode, calls: Calls):
        super().__init__(path, mode)
        self.calls = calls

    def write(self, data) -> int:
        self.calls.at("write", half=lambda: io.FileIO.write(self, data[:len(data) // 2]))
        written = super().write(data)
        self.calls.at("write", after=True)
        return written


# Processes


def _in_child(pipe, kind: str, places: Places, fault: Fault | None) -> None:
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    runner, settings = KINDS[kind]
    calls = Calls(fault).plant()
    if fault and fault.action == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.number, fault.number))
    try:
        runner(settings, places)
        pipe.send((DONE, calls.counts))
    except ModlibError as error:
        pipe.send((str(error), calls.counts))


def start(kind: str, places: Places, fault: Fault | None = None):
    """A process that does a run, and the end of a pipe that its outcome comes from."""
    ours, theirs = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_in_child, args=(theirs, kind, places, fault))
    process.start()
    theirs.close()
    return process, ours


def outcome(process, pipe) -> tuple[str, dict[str, int]] | None:
    """DONE, or the error's message, with the calls that wrote; None: it was killed."""
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return pipe.recv() if process.exitcode == 0 else None


def do(kind: str, places: Places, fault: Fault | None = None):
    return outcome(*start(kind, places, fault))


def do_for(seconds: float, kind: str, places: Places):
    """As :func:`do`, with SIGKILL after so many seconds."""
    process, pipe = start(kind, places)
    process.join(seconds)
    process.kill()
    return outcome(process, pipe)


def seconds_of(kind: str, places: Places) -> float:
    """How long an unbroken run takes here and now."""
    started = time.perf_counter()
    assert do(kind, places)[0] == DONE
    return time.perf_counter() - started


# What is left behind


def records(places: Places) -> dict[str, dict]:
    """What must be the same of every record that is there; a torn one raises."""
    return {path.name: comparable(read_record(path))
            for path in sorted(Path(places.results_dir).glob("*.json"))}


def assert_nothing_is_torn(places: Places) -> None:
    """Whatever has a final name is whole."""
    records(places)
    for path in Path(places.checkpoint_dir).glob("*.pt"):
        torch.load(path, weights_only=True)
    for path in Path(places.cache_dir).glob("*.images"):
        header = json.loads(path.read_bytes()[len(b"modlib images\n"):4096])
        open_images(path, header["identity"], header["image_size"])


def killed_until_done(
    kind: str, places: Places, rng: random.Random, seconds: float, kills: int
) -> int:
    """Kill a run at random moments, at most so often, and let it come to its end; how often."""
    for done in range(kills):
        if do_for(rng.uniform(0, seconds), kind, places) is not None:
            return done
        assert_nothing_is_torn(places)
    assert do(kind, places)[0] == DONE
    return kills


def moments(counts: dict[str, int]) -> list[Fault]:
    """Before, or in the middle of, and after every call that writes."""
    return [Fault("kill", call, number, after) for call, count in counts.items()
            for number, after in itertools.product(range(1, count + 1), (False, True))]
