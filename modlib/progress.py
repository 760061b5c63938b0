"""A progress bar over runs: what is done, what is left, and when it will be finished."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tqdm import tqdm

from modlib.experiments import load_data, record_path
from modlib.settings import Places, Settings


class RunBar(tqdm):
    """A ``tqdm`` bar over runs; give its ``done`` to :func:`modlib.experiments.run_many`.

    Runs that have their record before it starts are counted as done, and left out of the rate.
    """

    def __init__(self, runs: Sequence[Settings], places: Places, **more: Any) -> None:
        self.waiting = [one for one in runs if not record_path(
            one, places, load_data(one, places).fingerprint).exists()]
        there = len(runs) - len(self.waiting)
        super().__init__(total=len(runs), initial=there, unit="run", **more)
        if self.waiting and not self.disable:
            self.set_postfix_str(f"{there} done before, {len(self.waiting)} left")

    def done(self, settings: Settings, record: dict[str, Any]) -> None:
        """Count a run that has just ended, and say when the last one will have."""
        if self.disable or settings not in self.waiting:  # not waiting: it was read, not run
            return
        self.waiting.remove(settings)
        per_run = self.format_dict["elapsed"] / (self.n + 1 - self.initial)
        end = datetime.now() + timedelta(seconds=per_run * len(self.waiting))
        self.set_postfix_str(f"{len(self.waiting)} left, until about {end:%a %H:%M}"
                             if self.waiting else "all done", refresh=False)
        self.update()
