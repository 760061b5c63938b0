"""Runs in workers: each is done once, whoever is killed; every worker has a GPU to itself."""

import ast
import os
import re
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import dask
import pytest
import torch
from distributed import Client, LocalCluster
from fault_runs import SERVER, Calls, Fault

from modlib import experiments, worker_pools, workers
from modlib.errors import ModlibError
from modlib.experiments import run, run_many
from modlib.results import comparable
from modlib.worker_pools import worker_devices

KILLED_AT = Fault("kill", "replace", 2)  # the second checkpoint of the worker's first run


@pytest.fixture
def three(tiny):
    return [replace(tiny, seed=seed) for seed in range(3)]


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Workers that are forked from a process which has imported torch: they start at once.

    (``test_experiments.py`` has pools of new interpreters.)
    """
    monkeypatch.setattr(workers, "get_context", lambda _: SERVER)
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def killed_once(settings, places, on_epoch=None) -> dict:
    """A run; the worker that is the first to begin is killed in its second epoch."""
    torch.set_num_threads(1)  # as here: with more the last digits are others
    try:
        (Path(places.results_dir).parent / "killed").touch(exist_ok=False)
    except FileExistsError:
        return run(settings, places, on_epoch)
    Calls(KILLED_AT).plant()
    return run(settings, places, on_epoch)


def killed_once_each(settings, places, on_epoch=None) -> dict:
    """A run that takes its worker down the first time, and is done the second."""
    mark = Path(places.results_dir) / f"killed-{settings.seed}"
    if mark.exists():
        return {"seed": settings.seed}
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_seed_1(settings, places) -> dict:
    if settings.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(settings, places)


def killed_always(settings, places, on_epoch) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def device_of_each(settings, places, on_epoch) -> dict:
    """Where a run would be; it waits until two workers have one."""
    here = Path(places.results_dir) / str(os.getpid())
    here.touch()
    while len(list(here.parent.iterdir())) < 2:
        time.sleep(0.02)
    return {"worker": os.getpid(), "device": places.device}


def assert_each_once(records, settings, places, tmp_path) -> None:
    """The records are those of one process after another, one file each."""
    assert (tmp_path / "killed").exists()
    elsewhere = replace(places, results_dir=str(tmp_path / "other/records"),
                        checkpoint_dir=str(tmp_path / "other/checkpoints"))
    alone = run_many(settings, elsewhere)
    assert [comparable(one) for one in records] == [comparable(one) for one in alone]
    files = sorted(path.stem for path in Path(places.results_dir).iterdir()
                   if path.suffix == ".json")
    assert files == sorted(one["name"] for one in records)


def test_a_killed_worker_is_replaced_and_its_run_goes_on(three, places, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "available_cores", lambda: 2)  # one thread a worker, as here
    told = []
    records = run_many(three, replace(places, workers=2), runner=killed_once,
                       on_done=lambda settings, record: told.append(settings.seed))
    assert_each_once(records, three, places, tmp_path)
    assert sorted(told) == [0, 1, 2]


def test_a_run_that_takes_its_worker_down_every_time_is_given_up(three, places, monkeypatch):
    monkeypatch.setattr(worker_pools, "POOLS", 2)
    with pytest.raises(ModlibError, match=r"killed in each of 2 tries.*fewer workers than 1"):
        run_many(three[:1], replace(places, workers=1), runner=killed_always)


def test_a_sweep_goes_on_as_long_as_runs_end_between_the_kills(tiny, places, tmp_path):
    """More pools break than a run that gets nowhere is given."""
    four = [replace(tiny, seed=seed) for seed in range(4)]
    records = run_many(four, replace(places, workers=1, results_dir=str(tmp_path)),
                       runner=killed_once_each)
    assert records == [{"seed": seed} for seed in range(4)]
    assert len(list(tmp_path.glob("killed-*"))) == 4 > worker_pools.POOLS


def test_a_given_pool_whose_worker_dies_is_said_to_and_keeps_what_ended(three, places):
    with (ProcessPoolExecutor(1, SERVER) as pool,
          pytest.raises(ModlibError, match=r"given ProcessPoolExecutor died.*set workers")):
        run_many(three, places, pool, runner=killed_at_seed_1)
    [kept] = Path(places.results_dir).glob("*.json")
    with ProcessPoolExecutor(1, SERVER) as pool:
        records = run_many(three, places, pool)
    assert [one["settings"]["seed"] for one in records] == [0, 1, 2]
    assert records[0]["name"] == kept.stem


def test_dask_does_again_what_a_killed_worker_was_at(three, places, tmp_path):
    with (LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
          as cluster, Client(cluster) as client):
        records = run_many(three, places, client.get_executor(), runner=killed_once)
    assert_each_once(records, three, places, tmp_path)


PAGE = (Path(__file__).resolve().parents[1] / "book/many_machines.md").read_text("utf8")


def test_the_commands_that_the_page_names_are_dasks_own():
    """As entry points of what is installed here, with the options that it gives them."""
    scripts = {one.name for one in entry_points(group="console_scripts")}
    commands = {one.name: one.load() for one in entry_points(group="dask_cli")}
    named = [ast.literal_eval(found) for found in re.findall(r'\["dask".*?\]', PAGE)]
    assert {command[1] for command in named} == {"worker", "scheduler"}
    for script, command, *options in named:
        assert script in scripts
        known = {option for one in commands[command].params for option in one.opts}
        assert {option for option in options if option.startswith("-")} <= known
    assert not {"dask-worker", "dask-scheduler"} & scripts  # as the page says


def test_the_code_on_the_page_is_python():
    blocks = re.findall(r"```\{code-block\} python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        ast.parse(block)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_every_worker_has_a_gpu_of_its_own(three, places, tmp_path, monkeypatch, device):
    monkeypatch.setattr(worker_pools.torch.cuda, "device_count", lambda: 2)
    results = run_many(three, replace(places, workers=2, device=device,
                                      results_dir=str(tmp_path)), runner=device_of_each)
    of_worker = {(one["worker"], one["device"]) for one in results}
    assert sorted(device for _, device in of_worker) == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(("device", "gpus", "workers", "expected"), [
    ("auto", 4, 3, ["cuda:0", "cuda:1", "cuda:2"]),
    ("auto", 2, 4, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
    ("auto", 0, 2, ["auto", "auto"]),
    ("cuda", 2, 3, ["cuda:0", "cuda:1", "cuda:0"]),
    ("cuda", 1, 2, ["cuda:0", "cuda:0"]),
    ("cuda", 0, 2, ["cuda", "cuda"]),  # each says that there is none
    ("cuda:1", 2, 2, ["cuda:1", "cuda:1"]),
    ("cpu", 2, 2, ["cpu", "cpu"]),
])
def test_devices_are_handed_out_in_turn_unless_one_was_asked_for(
        places, device, gpus, workers, expected):
    assert worker_devices(replace(places, device=device, workers=workers), gpus) == expected
