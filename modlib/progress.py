"""A progress bar over runs: what is done, what is left, and when it will be finished."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from tqdm import tqdm

from modlib.experiments import load_data, record_path
from modlib.settings import Places, RunSettings


class RunBar(tqdm):
    """A ``tqdm`` bar over runs; give its ``done`` to :func:`modlib.experiments.run_many`.

    Runs that have their record before it starts are counted as done, and left out of the rate.

    Args:
        runs, places: as ``run_many`` is given them.
        load: from a run's settings and the places to its data, which have a ``fingerprint``.
        more: ``tqdm``'s own.
    """

    def __init__(
        self, runs: Sequence[RunSettings], places: Places,
        load: Callable[[Any, Places], Any] = load_data, **more: Any,
    ) -> None:
        self.waiting = [one for one in runs if not record_path(
            one, places, load(one, places).fingerprint).exists()]
        there = len(runs) - len(self.waiting)
        super().__init__(total=len(runs), initial=there, unit="run", **more)
        self._time = time.monotonic  # tqdm's own clock jumps when somebody sets the machine's
        self.start_t = self.last_print_t = self._time()
        if self.waiting and not self.disable:
            self.set_postfix_str(f"{there} done before, {len(self.waiting)} left")

    def done(self, settings: RunSettings, record: dict[str, Any]) -> None:
        """Count a run that has just ended, and say when the last one will have."""
        if self.disable or settings not in self.waiting:  # not waiting: it was read, not run
            return
        self.waiting.remove(settings)
        per_run = self.format_dict["elapsed"] / (self.n + 1 - self.initial)
        end = datetime.now() + timedelta(seconds=per_run * len(self.waiting))
        self.set_postfix_str(f"{len(self.waiting)} left, until about {end:%a %H:%M}"
                             if self.waiting else "all done", refresh=False)
        self.update()
