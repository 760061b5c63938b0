"""The three-attribute study, Table 1 of the paper: its rows, their runs and their records.

Source: Zhao et al., ECCV 2018, Table 1 and section 4.2.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modlib.errors import ModlibError
from modlib.parameters import split_parameters
from modlib.record_tables import check_table, read_rows
from modlib.results import paper_tables
from modlib.settings import Places, Settings
from modlib.studies import Seeds

FOLDER = "three_attributes"  # below the folder of results
SMILE, OPEN_MOUTH, YOUNG = TASKS = ("Smiling", "Mouth_Slightly_Open", "Young")
RELATED, UNRELATED = (SMILE, OPEN_MOUTH), (SMILE, YOUNG)
SHORT_NAMES = {SMILE: "smile", OPEN_MOUTH: "mouth open", YOUNG: "young"}


@dataclass(frozen=True)
class Row:
    """One row of Table 1: what is trained."""

    label: str
    system: str
    tasks: tuple[str, ...]
    regularised: bool = False


ROWS = {
    "a": Row("all three shared", "fully_shared", TASKS),
    "b": Row("smile + young", "fully_shared", UNRELATED),
    "c": Row("smile + mouth", "fully_shared", RELATED),
    "d": Row("three independent", "independent", TASKS),
    "e": Row("modulated", "modulated", TASKS),
    "f": Row("with regulariser", "modulated", TASKS, regularised=True),
}


@dataclass(frozen=True)
class Table1Study(Seeds):
    """What the three-attribute notebook decides beside the settings that its runs share."""

    regulariser_weight: float = 0.001  # λ of Eq. 8, in row f alone


def study(parameters: Mapping[str, Any]) -> tuple[dict[str, list[Settings]], Places]:
    """Check a notebook's parameters and lay out the runs of Table 1.

    Raises:
        ModlibError: an unknown parameter, a wrong value, or one that the rows decide.
    """
    for name in ("system", "tasks", "seed"):
        if name in parameters:
            raise ModlibError(f"{name} is not a parameter of this study: its rows decide the "
                              "systems and tasks, and seeds (a list) the seeds")
    if parameters.get("aggregation", "mean") != "mean":
        raise ModlibError("aggregation is not a parameter of this study: all its rows take the "
                          f"mean, as the paper does; given {parameters['aggregation']!r}")
    own, places, shared = split_parameters(parameters, Table1Study, Places, Settings)
    shared.pop("regulariser_weight", None)
    own = Table1Study(**own)
    if own.regulariser_weight <= 0:
        raise ModlibError("regulariser_weight must be above 0, or row f would be row e again; "
                          f"given {own.regulariser_weight}")
    places = Places(**places)
    places = replace(places, results_dir=f"{places.results_dir}/{FOLDER}")
    return row_settings(Settings(**shared), own.regulariser_weight, own.seeds), places


def row_settings(
    base: Settings, regulariser_weight: float, seeds: Iterable[int]
) -> dict[str, list[Settings]]:
    """The runs of Table 1, by row: one per seed.

    Args:
        base: everything that the rows have in common.
        regulariser_weight: λ of Eq. 8 in row f; the other rows have none.
        seeds: one run per row and seed.
    """
    return {
        name: [
            replace(base, seed=seed, system=row.system, tasks=row.tasks,
                    regulariser_weight=regulariser_weight if row.regularised else 0.0)
            for seed in seeds
        ]
        for name, row in ROWS.items()
    }


def row_of(record: dict[str, Any]) -> str | None:
    """The row of Table 1 that a record belongs to, or None."""
    settings = record["settings"]
    for name, row in ROWS.items():
        if (settings["system"], tuple(settings["tasks"])) == (row.system, row.tasks) and (
            settings["regulariser_weight"] > 0) == row.regularised:
            return name
    return None


def by_row(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records sorted into the rows a to f by their settings, each row ordered by seed."""
    rows: dict[str, list] = {name: [] for name in ROWS}
    for record in sorted(records, key=lambda record: record["settings"]["seed"]):
        if name := row_of(record):
            rows[name].append(record)
    return rows


# What may differ between the records of one table.
FREE = {"system", "tasks", "seed", "regulariser_weight"}


def published(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The committed records of a profile, by row; rows without records are empty lists.

    Raises:
        ModlibError: records of other settings or other data lie among them, or two of one row
            and seed: they must not be averaged; or a record of no row lies in the folder.
    """
    folder = f"book/results/{FOLDER}"
    rows = read_rows(folder, Settings, profile, by_row)
    check_table(rows, Settings, FREE, folder)
    for name, records in rows.items():
        check_table({name: records}, Settings, {"seed"}, folder)
    return rows


def paper_table() -> dict[str, dict[str, Any]]:
    """Table 1 as the paper prints it: ``{row: {"accuracy": {task: %}, "ucr": {pair: %}}}``."""
    return paper_tables()["table_1"]["rows"]
