"""Processes that train side by side, tell of their epochs, and end when nobody waits for them."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.queues import SimpleQueue
from threading import Thread
from typing import Any

import torch

from modlib.settings import Places, RunSettings

POLL_SECONDS = 0.5  # between two looks at what the workers have told
_to_parent: SimpleQueue | None = None  # in a worker process: where it tells of its epochs
_device = "auto"  # in a worker process: where it trains


class WorkerProcesses(ProcessPoolExecutor):
    """A pool whose processes an interrupt ends at once, and the end of this process too.

    Each worker holds one end of a pipe and ends when the other is closed, which the system does
    for a process that is killed. After an error the pool waits for the runs at work, as any does.

    Args:
        devices: of each worker, as :class:`modlib.settings.Places` names them; 1 or more.
        threads: of torch, in each.
    """

    def __init__(self, devices: Sequence[str], threads: int) -> None:
        context = get_context("spawn")
        self._told, free = context.SimpleQueue(), context.SimpleQueue()
        for device in devices:
            free.put(device)
        theirs, self._ours = context.Pipe(duplex=False)
        super().__init__(
            len(devices), context, _start_worker, (threads, free, theirs, self._told))

    def submit(self, call: Callable, /, *arguments: Any) -> Future:
        """As any executor's; a process that is begun for it hears no interrupt of its own."""
        with _interrupts_blocked():
            return super().submit(call, *arguments)

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._ours.close()
        elif kind is not None:  # nobody reads what is told any more: a full pipe stops its writers
            Thread(target=self._read_on, daemon=True).start()
        try:
            super().__exit__(kind, error, trace)  # waits
        finally:
            self._ours.close()

    def _read_on(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                self._told.get()

    def as_completed(
        self, futures: Iterable[Future],
        on_epoch: Callable[[RunSettings, dict[str, Any]], None] | None = None,
    ) -> Iterator[Future]:
        """Futures as they end; meanwhile every epoch that a worker tells of is handed on."""
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            while not self._told.empty():  # all of a run's epochs come before its end
                told = self._told.get()
                if on_epoch:
                    on_epoch(*told)
            yield from ended


def run_and_tell(
    runner: Callable[..., dict[str, Any]], settings: RunSettings, places: Places
) -> dict[str, Any]:
    """In a worker: do one run on its own device, and tell the parent of each epoch."""
    return runner(
        settings, replace(places, device=_device), lambda *epoch: _to_parent.put(epoch))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes begun here hear no Ctrl-C or stop button, which go to a whole group of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(
    threads: int, devices: SimpleQueue, parent: Connection, to_parent: SimpleQueue
) -> None:
    global _device, _to_parent
    _device, _to_parent = devices.get(), to_parent
    torch.set_num_threads(threads)

    def end_with_parent() -> None:
        wait_for_end([parent])
        os._exit(1)  # in the middle of a step: files are written whole or not at all

    Thread(target=end_with_parent, daemon=True).start()
