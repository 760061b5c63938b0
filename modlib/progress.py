"""A progress bar over runs: what is done, what is left, and when it will be finished."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any

from tqdm import tqdm

from modlib.bars import bar_file
from modlib.checkpoints import finished_epochs
from modlib.experiments import load_data
from modlib.kept_runs import checkpoint_path, record_path
from modlib.settings import Places, RunSettings


class Stopped(KeyboardInterrupt):
    """Training was interrupted; the message says what is kept, and how it goes on."""

    def _render_traceback_(self) -> list[str]:  # IPython's hook: what a cell shows of an error
        return [str(self)]


class RunBar(tqdm):
    """A ``tqdm`` bar over the epochs of many runs, for :func:`modlib.experiments.run_many`.

    Give it :meth:`epoch` as ``on_epoch`` and :meth:`done` as ``on_done``. What was there before it
    starts, records and checkpoints, is counted as done, and left out of the rate.

    Args:
        runs, places: as ``run_many`` is given them.
        load: from a run's settings and the places to its data, which have a ``fingerprint``.
        more: ``tqdm``'s own.

    Raises:
        Stopped: at the end of the ``with``, in the place of an interrupt.
    """

    def __init__(
        self, runs: Sequence[RunSettings], places: Places,
        load: Callable[[Any, Places], Any] = load_data, **more: Any,
    ) -> None:
        prints = {one: load(one, places).fingerprint for one in runs}
        self.records = {one: record_path(one, places, of) for one, of in prints.items()}
        self.checkpoints = {one: checkpoint_path(one, places, of) for one, of in prints.items()}
        self.epochs = self._kept_epochs()
        self.waiting = [one for one in prints if not self.records[one].exists()]
        names = [f"{places.results_dir}/{path.name}" for path in self.records.values()]
        super().__init__(total=sum(one.epochs for one in prints), unit="epoch", **{
            "initial": sum(self.epochs.values()), "smoothing": 0,
            "postfix": self._runs_left() if self.waiting else "all runs were done before",
            "file": bar_file({"modlib": {"records": names}})} | more)
        self._time = time.monotonic  # tqdm's own clock jumps when somebody sets the machine's
        self.start_t = self.last_print_t = self._time()

    def _kept_epochs(self) -> dict[RunSettings, int]:
        """How many epochs of every run are on the disk."""
        return {one: one.epochs if self.records[one].exists()
                else finished_epochs(self.checkpoints[one]) for one in self.records}

    def _runs_left(self) -> str:
        return f"{len(self.waiting)} of {len(self.records)} runs left"

    def epoch(self, settings: RunSettings, metrics: dict[str, Any]) -> None:
        """Count an epoch that has just ended; show its loss and its mean validation accuracy."""
        if metrics["epoch"] <= self.epochs[settings]:  # it was there before
            return
        self.epochs[settings] = metrics["epoch"]
        accuracy = 100 * fmean(metrics["valid_accuracy"].values())
        self._count(1, f"{settings.system}: loss {metrics['loss']:.3f}, accuracy {accuracy:.1f} %")

    def done(self, settings: RunSettings, record: dict[str, Any]) -> None:
        """Count a run that has just ended, with those of its epochs that were not told of."""
        if settings in self.waiting:  # else it was read, not run
            self.waiting.remove(settings)
            untold = settings.epochs - self.epochs[settings]
            self.epochs[settings] = settings.epochs
            self._count(untold, f"{settings.system}: done")

    def _count(self, epochs: int, said: str) -> None:
        if self.disable:
            return
        rest = self._runs_left() if self.waiting else "all runs done"
        if self.waiting and (now_done := self.n + epochs - self.initial):
            seconds = self.format_dict["elapsed"] * (self.total - self.n - epochs) / now_done
            rest += f", until about {datetime.now() + timedelta(seconds=seconds):%a %H:%M}"
        self.set_postfix_str(f"{said}; {rest}", refresh=False)
        self.update(epochs)

    def __exit__(self, kind, error, trace) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            raise Stopped(self._how_it_goes_on()) from None

    def _how_it_goes_on(self) -> str:
        kept = self._kept_epochs()
        there = sum(path.exists() for path in self.records.values())
        begun = [f"{one.system}, seed {one.seed}, goes on after epoch {kept[one]} of {one.epochs}"
                 for one, path in self.records.items() if kept[one] and not path.exists()]
        return (f"Stopped. {there} of {len(self.records)} runs are done and kept. Run this cell "
                f"again to go on: {'; '.join(begun) or 'the next run starts at its beginning'}.")
