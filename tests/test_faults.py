"""Whatever breaks midway, nothing is torn, and the run goes on to the record of an unbroken one.

The short form is a sample of what ``make soak`` does in full.
"""

import random
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import fault_runs
import nbformat
import pytest
import torch
from fault_runs import (
    DONE,
    FACES,
    Calls,
    Fault,
    assert_nothing_is_torn,
    do,
    fresh_places,
    killed_until_done,
    moments,
    outcome,
    records,
    seconds_of,
    start,
)
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from modlib import training
from modlib.errors import ModlibError
from modlib.experiments import run, run_many
from modlib.results import comparable

SEED = 20260101
SOAK_KILLS = 130  # at random moments, beside those at every call that writes


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return fault_runs.write_faces(tmp_path_factory.mktemp("faces") / "celeba")


@pytest.fixture(scope="module")
def unbroken(faces, tmp_path_factory):
    """From a kind of run to the records of an unbroken one, and its calls that write."""
    known = {}

    def of(kind):
        if kind not in known:
            places = fresh_places(tmp_path_factory.mktemp("unbroken"), faces)
            said, counts = do(kind, places)
            assert said == DONE
            known[kind] = records(places), counts
        return known[kind]
    return of


@pytest.fixture
def places(tmp_path, faces):
    return fresh_places(tmp_path, faces)


# Kills


def survives(kind: str, fault: Fault, places, expected) -> None:
    """A run that a fault kills leaves nothing torn, and comes to the record of an unbroken one."""
    assert do(kind, places, fault) is None, fault
    assert_nothing_is_torn(places)
    assert do(kind, places)[0] == DONE, fault
    assert records(places) == expected, fault


@pytest.mark.parametrize("fault", [
    Fault("kill", "write", 3),  # in the middle of a chunk of packed images
    Fault("kill", "replace", 1),  # packed, not yet under its name
    Fault("kill", "replace", 1, after=True),
    Fault("kill", "fsync", 2),  # the first checkpoint
    Fault("kill", "replace", 3),  # the second one, over the first
    Fault("kill", "write", 9),  # in the middle of the record
    Fault("kill", "replace", 4),
    Fault("kill", "replace", 4, after=True),
], ids=lambda fault: f"{'after' if fault.after else 'at'} {fault.call} {fault.number}")
def test_a_run_killed_at_a_write_goes_on(fault, places, unbroken):
    expected, counts = unbroken("triplets")
    assert counts == {"write": 9, "fsync": 4, "replace": 4}  # as the faults are numbered
    survives("triplets", fault, places, expected)


@pytest.mark.parametrize("kind", ["triplets", "masks on a trunk"])
def test_a_run_killed_at_random_moments_goes_on(kind, places, unbroken, tmp_path, faces):
    expected, _ = unbroken(kind)
    seconds = seconds_of(kind, fresh_places(tmp_path / "timed", faces))
    killed_until_done(kind, places, random.Random(SEED), seconds, kills=3)
    assert records(places) == expected, f"seed {SEED}, {seconds} s"


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["triplets", "masks on a trunk", "classifier"])
def test_a_run_killed_at_any_write_goes_on(kind, tmp_path, faces, unbroken, soak_figures):
    expected, counts = unbroken(kind)
    faults = moments(counts if kind != "classifier" else {"replace": counts["replace"]})
    for number, fault in enumerate(faults):
        survives(kind, fault, fresh_places(tmp_path / str(number), faces), expected)
        soak_figures("kills", 1)


@pytest.mark.soak
def test_runs_killed_at_random_moments_many_times_go_on(tmp_path, faces, unbroken, soak_figures):
    rng, kills, number = random.Random(SEED), 0, 0
    while kills < SOAK_KILLS:
        number += 1
        kind = rng.choice(["triplets", "masks on a trunk"])
        expected, _ = unbroken(kind)
        seconds = seconds_of(kind, fresh_places(tmp_path / f"timed {number}", faces))
        places = fresh_places(tmp_path / str(number), faces)
        survived = killed_until_done(kind, places, rng, seconds, kills=SOAK_KILLS - kills)
        assert records(places) == expected, f"seed {SEED}, {kind} number {number}, {seconds} s"
        soak_figures("kills", survived)
        kills += survived


# Full disks

FILES = r"the (image cache|checkpoint|record) .*\.(images|pt|json) cannot be written: "


def full_then_free(fault: Fault, places, expected) -> None:
    calls = Calls(fault)
    with pytest.MonkeyPatch.context() as patch:
        calls.plant(patch.setattr)
        try:
            with pytest.raises(ModlibError, match=FILES + ".*No space left on device"):
                run(FACES, places)
        finally:
            calls.remove()
    assert_nothing_is_torn(places)
    assert not list(Path(places.results_dir).parent.glob("**/*.tmp"))
    run(FACES, places)
    assert records(places) == expected


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_is_said_and_when_there_is_room_it_goes_on(
        call, number, places, unbroken):
    full_then_free(Fault("full", call, number), places, unbroken("triplets")[0])


@pytest.mark.soak
def test_a_disk_that_fills_up_at_any_write_is_said(tmp_path, faces, unbroken, soak_figures):
    expected, counts = unbroken("triplets")
    for number in range(1, counts["write"] + 1):
        full_then_free(Fault("full", "write", number), fresh_places(
            tmp_path / str(number), faces), expected)
        soak_figures("full_disks", 1)


@pytest.mark.parametrize(("kept", "limit", "what"), [
    (0, 200_000, "image cache"), (1, 20_000, "checkpoint"), (3, 1000, "record")])
def test_the_systems_own_refusal_of_a_long_file_is_said(
        kept, limit, what, places, unbroken):
    """No patch: the kernel stops each of the files at so many bytes."""
    do("triplets", places, Fault("kill", "replace", kept, after=True) if kept else Fault(
        "kill", "write", 1))
    said, _ = do("triplets", places, Fault("limit", "", limit))
    assert re.search(rf"the {what} .* cannot be written: .*File too large", said)
    assert_nothing_is_torn(places)
    assert do("triplets", places)[0] == DONE
    assert records(places) == unbroken("triplets")[0]


@pytest.mark.parametrize("name", ["results_dir", "checkpoint_dir"])
def test_a_folder_that_cannot_be_written_to_is_said_before_training(
        name, places, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr(training, "training_step", None)
    with pytest.raises(ModlibError, match=r"the folder of .*taken/deeper cannot be written"):
        run(FACES, replace(places, **{name: str(tmp_path / "taken/deeper")}))


@pytest.fixture
def mount(tmp_path):
    """A results folder on a mount of its own, and a function that lets it be written to or not."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def call(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    try:
        call("mount", "--bind", str(folder), str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount; a file in the folder's place is tried elsewhere")
    try:
        yield folder, lambda how: call("mount", "-o", f"remount,bind,{how}", str(folder))
    finally:
        call("umount", str(folder))


def test_a_read_only_results_folder_is_said_before_training(places, mount, monkeypatch):
    folder, remount = mount
    remount("ro")
    monkeypatch.setattr(training, "training_step", None)
    with pytest.raises(ModlibError, match=r"the folder of records .* cannot be written: .*Read-"):
        run(FACES, replace(places, results_dir=str(folder)))
    assert list(folder.iterdir()) == []


def test_a_results_folder_that_becomes_read_only_costs_no_epoch(
        places, mount, unbroken, monkeypatch):
    folder, remount = mount
    places = replace(places, results_dir=str(folder))
    with pytest.raises(ModlibError, match=r"the record .* cannot be written: .*Read-only"):
        run(FACES, places, on_epoch=lambda *_: remount("ro"))
    assert list(folder.iterdir()) == []
    remount("rw")
    monkeypatch.setattr(training, "training_step", None)  # both epochs are there
    run(FACES, places)
    assert records(places) == unbroken("triplets")[0]


# Several at once


def test_of_two_processes_with_one_run_one_does_it(places, unbroken):
    expected, counts = unbroken("triplets")
    both = [start("triplets", places) for _ in range(2)]
    ends = [outcome(*one) for one in both]
    assert [said for said, _ in ends] == [DONE, DONE]
    assert {call: sum(made[call] for _, made in ends) for call in counts} == counts
    assert records(places) == expected


def test_when_the_one_is_killed_the_other_does_it(places, unbroken):
    expected, _ = unbroken("triplets")
    first, _ = start("triplets", places, Fault("kill", "fsync", 3))
    second = start("triplets", places)
    first.join(120)
    assert first.exitcode in (0, -signal.SIGKILL)  # 0: it was the second to come
    assert outcome(*second)[0] == DONE
    assert records(places) == expected


def test_two_runs_on_one_trunk_train_it_once(places, unbroken):
    both = [start(kind, places) for kind in ("masks on a trunk", "other masks on it")]
    ends = [outcome(*one) for one in both]
    assert [said for said, _ in ends] == [DONE, DONE]
    # The images, the trunk's checkpoint and record, and as many of each masks.
    assert sum(made["replace"] for _, made in ends) == 1 + 2 + 2 + 2
    assert unbroken("masks on a trunk")[0].items() <= records(places).items()


# Clocks and devices


def test_a_clock_that_jumps_changes_nothing(places, unbroken, monkeypatch):
    jumps = random.Random(SEED)
    monkeypatch.setattr(time, "time", lambda: jumps.uniform(-1e9, 4e9))
    record = run(FACES, places)
    seconds = [epoch["seconds"] for epoch in record["epochs"]]
    assert all(0 < one < 600 for one in [*seconds, record["run"]["training_seconds"],
                                         record["run"]["last_session_seconds"]])
    assert comparable(record) in unbroken("triplets")[0].values()


@pytest.mark.parametrize(("error", "said"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
     "the device is out of memory; try batch_size=6 in the place of 12"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
     "the device is out of memory; try batch_size=6 in the place of 12"),
    (MemoryError(), "the device is out of memory; try batch_size=6 in the place of 12"),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
     "the device failed; start a new process"),
    (RuntimeError("CUDA error: device-side assert triggered"),
     "the device failed; start a new process"),
], ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "")
def test_a_device_that_fails_is_said_and_the_run_goes_on(
        error, said, places, unbroken, monkeypatch):
    """In the second epoch, when the first one's checkpoint is there."""
    steps, step = [], training.training_step

    def fails_at_the_third(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise error
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "training_step", fails_at_the_third)
        with pytest.raises(ModlibError, match=f"{said}.* goes on from there"):
            run(FACES, places)
        run(FACES, places)
    assert len(steps) == 3 + 2  # the first epoch's two were not taken again
    assert records(places) == unbroken("triplets")[0]


def test_another_error_of_torchs_stays_as_it_is(places, monkeypatch):
    def mistaken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(training, "training_step", mistaken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(FACES, places)


# Notebooks

CELL = """
import torch
from modlib.experiments import run
from modlib.settings import Places, Settings
torch.set_num_threads(1)
run(Settings(**{settings!r}), Places(**{places!r}), {on_epoch});
"""


def test_a_notebook_whose_kernel_dies_goes_on_when_it_is_run_again(places, unbroken):
    def client(on_epoch: str) -> NotebookClient:
        source = CELL.format(settings=FACES.as_dict(), places=vars(places), on_epoch=on_epoch)
        return NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]),
                              kernel_name="python3", timeout=300)

    # After its first epoch the cell waits to be killed.
    doomed = client("lambda *_: __import__('time').sleep(600)")
    killer = Thread(target=kill_at_first_checkpoint, daemon=True,
                    args=(doomed, Path(places.checkpoint_dir)))
    killer.start()
    with pytest.raises(DeadKernelError):
        doomed.execute()
    killer.join()
    assert records(places) == {}
    client("None").execute()
    assert records(places) == unbroken("triplets")[0]


def kill_at_first_checkpoint(client: NotebookClient, folder: Path) -> None:
    while not list(folder.glob("*.pt")):
        time.sleep(0.05)
    client.km.provisioner.process.kill()


# Sweeps


def test_a_sweep_that_fails_at_one_run_keeps_the_others(places, monkeypatch):
    settings = [replace(FACES, seed=seed, epochs=1) for seed in range(3)]
    with monkeypatch.context() as patch, pytest.raises(ModlibError, match="batch_size"):
        patch.setattr(training, "train_one_epoch", out_of_memory_at_seed_1)
        run_many(settings, places)
    assert len(records(places)) == 1
    assert len(run_many(settings, places)) == len(records(places)) == 3


train_one_epoch = training.train_one_epoch


def out_of_memory_at_seed_1(*arguments):
    if arguments[-2].seed == 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return train_one_epoch(*arguments)
