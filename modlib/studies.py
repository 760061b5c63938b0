"""A study: a table whose rows differ in some settings, each row run with several seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from modlib.errors import ModlibError, unknown_name
from modlib.parameters import split_parameters
from modlib.record_tables import check_table, read_rows
from modlib.results import plain
from modlib.settings import RANGES, Checked, Places, RunSettings, Settings

Rows = dict[str, list[dict[str, Any]]]  # a study's records, by row, ordered by seed
# What settings files say for other studies too; rows that decide it pass over it.
OF_OTHERS = {"final_test", "learning_rate", "margin", "scale_rate_factor"}
FACES_A_TASK = 100  # toy faces at least: rare attributes are to be in every split


@dataclass(frozen=True)
class Seeds(Checked):
    """The seeds of a study's rows: one or more distinct numbers from 0."""

    seeds: tuple[int, ...] = (0,)  # one run a row and seed

    def __post_init__(self):
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ModlibError(
                f"seeds must be one or more distinct numbers from 0; given {self.seeds}")


@dataclass(frozen=True)
class Choice(Seeds):
    """What a notebook decides beside the settings that its runs share."""

    rows: tuple[str, ...] | None = None  # None: all, or the first ones on the default data


@dataclass(frozen=True)
class Study:
    """A table of runs.

    Attributes:
        folder: of its records, below a folder of results.
        rows: what each row sets. A setting that some row names and another does not has its
            default there: these settings tell the rows apart.
        tuned: settings that a row may have of its own beside these, chosen on the validation split.
        quick: how many rows, from the first, are run on the default data (toy faces, mostly) unless
            asked for more.
        settings: the dataclass of its runs' settings.
        not_used: settings of triplet networks that settings files name and these runs do not know:
            they are checked and not used.
    """

    folder: str
    rows: Mapping[str, Mapping[str, Any]]
    tuned: tuple[str, ...] = ()
    quick: int = 3
    settings: type[RunSettings] = Settings
    not_used: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of every setting of its runs."""
        return {one.name: one.default for one in fields(self.settings)}

    @property
    def telling(self) -> list[str]:
        """The settings that tell the rows apart."""
        return sorted({key for changes in self.rows.values() for key in changes})

    def changes(self, row: str) -> dict[str, Any]:
        """All that a row sets: every setting that tells rows apart."""
        return {key: self.defaults[key] for key in self.telling} | dict(self.rows[row])

    def lay_out(
        self, parameters: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]] | None = None
    ) -> tuple[dict[str, list[RunSettings]], Places]:
        """Check a notebook's parameters and lay out the runs: a list of seeds for each row.

        Args:
            parameters: the notebook's.
            tuned: what was chosen for each row on real faces; there it goes before the parameters.

        A batch holds at least three images a task and there are at least 100 toy faces a task,
        whatever the settings say: settings files are for three tasks too. All rows have the same
        toy faces, so that they can be compared image by image.

        Raises:
            ModlibError: an unknown parameter or row, a wrong value, or ``seed``, or a system or
                tasks that the rows decide, or another value of what they decide than any of them
                has.
        """
        for name in ("seed", "system", "tasks"):
            decided = all(name in changes for changes in self.rows.values())
            if name in parameters and (name == "seed" or decided):
                raise ModlibError(f"{name} is not a parameter of this study: its rows decide "
                                  "what is trained, and seeds (a list) are the seeds")
        Settings(**{name: value for name, value in parameters.items()
                    if name in self.not_used or (self.not_used and name == "dataset")})
        own, places, shared = split_parameters(
            {name: value for name, value in parameters.items() if name not in self.not_used},
            Choice, Places, self.settings)
        own, places = Choice(**own), Places(**places)
        for name in own.rows or ():
            if name not in self.rows:
                raise unknown_name("row", name, self.rows)
        for name in set(self.telling) & shared.keys() - OF_OTHERS:
            decided = [plain(self.changes(row))[name] for row in self.rows]
            if plain(shared)[name] not in decided:
                values = ", ".join(sorted({str(one) for one in decided}))
                raise ModlibError(
                    f"{name} is {shared[name]!r}, and each row of this study decides it: {values}; "
                    f"choose among the rows by rows: {', '.join(self.rows)}")
        toy = shared.get("dataset", self.settings.dataset) == self.settings.dataset
        tuned = {} if toy or tuned is None else tuned
        names = own.rows or tuple(self.rows)[:self.quick if toy else None]
        laid_out = {name: self._settings(shared | self.changes(name) | tuned.get(name, {}))
                    for name in names}
        if toy and "toy_images" in self.defaults:
            most = max(one.toy_images for one in laid_out.values())
            laid_out = {name: replace(one, toy_images=most) for name, one in laid_out.items()}
        runs = {name: [replace(one, seed=seed) for seed in own.seeds]
                for name, one in laid_out.items()}
        return runs, replace(places, results_dir=f"{places.results_dir}/{self.folder}")

    def _settings(self, values: Mapping[str, Any]) -> RunSettings:
        if self.settings is Settings:
            return enough_for_its_tasks(values)
        one = self.settings(**values)
        if "toy_images" not in self.defaults:
            return one
        return replace(one, toy_images=max(one.toy_images, FACES_A_TASK * len(one.tasks)))

    def by_row(self, records: list[dict[str, Any]]) -> Rows:
        """Records sorted into rows by the telling settings, each row ordered by seed."""
        rows: Rows = {name: [] for name in self.rows}
        for record in sorted(records, key=lambda one: one["settings"]["seed"]):
            settings = plain(self.defaults | record["settings"])
            for name in self.rows:
                if all(settings[key] == value for key, value in plain(self.changes(name)).items()):
                    rows[name].append(record)
                    break
        return rows

    def published(self, profile: str) -> Rows:
        """The committed records of a profile, by row; rows without records are empty lists.

        Raises:
            ModlibError: records of other settings or other data lie among them, or two of one row
                and seed: they must not be averaged; or a record of no row lies in the folder.
        """
        folder = f"book/results/{self.folder}"
        rows = read_rows(folder, self.settings, profile, self.by_row)
        check_table(rows, self.settings, {"seed", *self.telling, *self.tuned}, folder)
        for name, records in rows.items():
            check_table({name: records}, self.settings, {"seed"}, folder)
        return rows


def valid_accuracy(record: Mapping[str, Any]) -> float:
    """Mean validation accuracy after the last epoch, in %."""
    return 100 * float(np.mean(list(record["epochs"][-1]["valid_accuracy"].values())))


def accuracies(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], measure: str = "accuracy"
) -> pd.DataFrame:
    """One line per row, seed and task, in %.

    Args:
        measure: of the test split, ``accuracy`` or ``auc``; the column is ``accuracy`` always.
    """
    lines = [{"row": name, "seed": record["settings"]["seed"], "task": task, "accuracy": 100 * one}
             for name, records in rows.items() for record in records
             for task, one in record["results"][f"test_{measure}"].items()]
    return pd.DataFrame(lines, columns=["row", "seed", "task", "accuracy"])


def learning_curves(rows: Rows, names: Iterable[str]) -> dict[str, list[list[float]]]:
    """Mean validation accuracy in % by epoch, a list a seed, of the rows that were run."""
    return {name: [[valid_accuracy({"epochs": [epoch]}) for epoch in record["epochs"]]
                   for record in rows[name]] for name in names if rows.get(name)}


def enough_for_its_tasks(shared: Mapping[str, Any]) -> Settings:
    """Settings whose batch, and whose number of toy faces, are enough for all of their tasks."""
    least, most = RANGES["batch_size"]
    base = Settings(**{**shared, "batch_size": most})  # checks all the rest
    images = shared.get("batch_size", Settings.batch_size)
    tasks = max(len(base.tasks), len(base.trunk_tasks))
    if isinstance(images, int) and not isinstance(images, bool) and images >= least:
        images = max(images, 3 * tasks)
    return replace(base, batch_size=images,
                   toy_images=max(base.toy_images, FACES_A_TASK * tasks))
