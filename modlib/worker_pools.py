"""Runs in worker processes: by any executor, or in pools of our own, one worker a GPU."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from modlib.errors import ModlibError
from modlib.settings import Places, RunSettings
from modlib.workers import WorkerProcesses, run_and_tell

POOLS = 3  # that may break before a run ends: one that takes each worker down is given up


@dataclass
class Rounds:
    """Runs that come in rounds, each when the one before has ended, and the records so far.

    Attributes:
        settings: all runs.
        numbers: of each round, the places of its runs in ``settings``.
        places, runner, on_epoch, on_done: see :func:`modlib.experiments.run_many`.
        records: by place in ``settings``; what is there is not run again.
    """

    settings: Sequence[RunSettings]
    numbers: Sequence[Sequence[int]]
    places: Places
    runner: Callable[..., dict[str, Any]]
    on_epoch: Callable[[RunSettings, dict[str, Any]], None] | None = None
    on_done: Callable[[RunSettings, dict[str, Any]], None] | None = None
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def end(self, number: int, record: dict[str, Any]) -> None:
        """Keep a record and tell of it."""
        self.records[number] = record
        if self.on_done:
            self.on_done(self.settings[number], record)


def in_executor(
    executor: Executor, rounds: Rounds,
    as_they_end: Callable[[Iterable[Future]], Iterable[Future]] = as_completed,
) -> None:
    """Do the runs that have no record yet; after one that fails no other is begun.

    Args:
        as_they_end: yields a round's futures as they end.
    """
    for numbers in rounds.numbers:
        futures = {executor.submit(rounds.runner, rounds.settings[n], rounds.places): n
                   for n in numbers if n not in rounds.records}
        for future in as_they_end(futures):
            number = futures[future]
            try:
                record = future.result()
            except Exception as error:
                for other in futures:  # those that run end and keep their records; none is begun
                    other.cancel()
                of = rounds.settings[number]
                error.add_note(f"in the run of {of.system} on {', '.join(of.tasks)}, "
                               f"seed {of.seed}")
                raise
            rounds.end(number, record)


def in_given_executor(executor: Executor, rounds: Rounds) -> None:
    """As :func:`in_executor`, in an executor of the caller's, which nobody but the caller replaces.

    Raises:
        ModlibError: the executor is broken, as a pool of processes is when one is killed.
    """
    try:
        in_executor(executor, rounds)
    except BrokenExecutor as error:
        raise ModlibError(
            f"a worker of the given {type(executor).__name__} died, perhaps for want of memory. "
            "Runs that ended are kept; the others go on from their checkpoints: call again with a "
            "new one, or give none and set workers, as a pool of modlib's own is replaced"
        ) from error


def in_own_pools(rounds: Rounds, threads: int) -> None:
    """As :func:`in_executor`, in ``places.workers`` processes of our own.

    When a worker is killed, its whole pool is lost: what has no record yet goes on in a fresh one,
    from its checkpoints.

    Raises:
        ModlibError: ``POOLS`` pools one after the other have lost a worker before any run ended.
    """
    workers = worker_devices(rounds.places, torch.cuda.device_count())
    telling = replace(rounds, runner=partial(run_and_tell, rounds.runner))  # the same records
    broken, ended = 0, len(rounds.records)  # pools since the last run that ended, and its number
    while True:
        try:
            with WorkerProcesses(workers, threads) as pool:
                return in_executor(
                    pool, telling, partial(pool.as_completed, on_epoch=rounds.on_epoch))
        except BrokenProcessPool as error:
            broken = broken + 1 if len(rounds.records) == ended else 1
            ended = len(rounds.records)
            if broken == POOLS:
                raise ModlibError(
                    f"a worker process was killed in each of {POOLS} tries, and no run ended "
                    "meanwhile; perhaps for want of memory: try fewer workers than "
                    f"{rounds.places.workers}. Runs that ended are kept; the others go on from "
                    "their checkpoints") from error


def worker_devices(places: Places, gpus: int) -> list[str]:
    """The device of each worker: one GPU after another, or all the very device that was named.

    ``"auto"`` and ``"cuda"`` name no GPU in particular, so workers are spread over all of them.

    Args:
        gpus: how many this machine has.
    """
    if places.device not in ("auto", "cuda") or gpus == 0:
        return [places.device] * places.workers
    return [f"cuda:{worker % gpus}" for worker in range(places.workers)]
