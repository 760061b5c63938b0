"""Worker processes tell of their epochs, hear no interrupt, and do not outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modlib import experiments
from modlib.experiments import run_many
from modlib.results import comparable
from modlib.workers import WorkerProcesses

WAITS = """
import signal, sys, time
from pathlib import Path
from modlib.workers import WorkerProcesses

def sleep(folder):
    import os
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    # A shell starts what it puts in the background with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with WorkerProcesses(["cpu", "cpu"], 1) as pool:
        for future in [pool.submit(sleep, sys.argv[1]) for _ in range(2)]:
            future.result()
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_every_epoch_is_told_before_its_run_is_done(tiny, places, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "available_cores", lambda: 2)  # one thread a worker, as here
    runs, told = [tiny, replace(tiny, seed=1)], []
    records = run_many(
        runs, replace(places, workers=2),
        on_epoch=lambda settings, metrics: told.append((settings.seed, metrics["epoch"])),
        on_done=lambda settings, record: told.append((settings.seed, "done")))
    for seed in (0, 1):
        assert [what for of, what in told if of == seed] == [1, 2, "done"]
    here = replace(places, results_dir=str(tmp_path / "a"), checkpoint_dir=str(tmp_path / "b"))
    assert [*map(comparable, records)] == [*map(comparable, run_many(runs, here))]


def test_an_error_waits_for_the_runs_at_work():
    with pytest.raises(ModuleNotFoundError), WorkerProcesses(["cpu", "cpu"], 1) as pool:
        at_work = pool.submit(time.sleep, 1)
        pool.submit(__import__, "no_such_module").result()
    assert at_work.result() is None


def tells_a_lot(settings, places, on_epoch) -> dict:
    """A run that tells of more than a pipe holds; the other one fails meanwhile."""
    if settings.seed == 1:
        time.sleep(0.5)
        raise ValueError("it failed")
    for epoch in range(40):
        on_epoch(settings, {"epoch": epoch, "much": "x" * 20_000})
        time.sleep(0.05)
    Path(places.results_dir).mkdir(parents=True, exist_ok=True)
    (Path(places.results_dir) / "ended").touch()
    return {}


def test_after_an_error_a_run_that_tells_more_than_a_pipe_holds_still_ends(tiny, places):
    with pytest.raises(ValueError, match="it failed"):
        run_many([tiny, replace(tiny, seed=1)], replace(places, workers=2), runner=tells_a_lot)
    assert (Path(places.results_dir) / "ended").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells what is alive")
@pytest.mark.parametrize(("how", "whole_group"), [
    (signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGKILL, False)])
def test_no_worker_outlives_an_interrupt_or_its_parent(tmp_path, how, whole_group):
    script, begun = tmp_path / "waits.py", tmp_path / "begun"
    script.write_text(WAITS)
    begun.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(begun)], start_new_session=True,
                              stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: parent.poll() is not None or len(list(begun.iterdir())) == 2)
        workers = [int(path.name) for path in begun.iterdir()]
        assert len(workers) == 2 and all(map(alive, workers))
        (os.killpg if whole_group else os.kill)(parent.pid, how)
        _, said = parent.communicate(timeout=60)
        until(lambda: not any(map(alive, workers)), 60)
    finally:
        parent.kill()
    assert said.count("Traceback") == (how == signal.SIGINT)  # the parent's own, and no other
