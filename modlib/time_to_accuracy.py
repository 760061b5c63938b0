"""The study of training time: one recipe for 20 tasks, and what each of its choices is worth."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from modlib.errors import ModlibError, unknown_name
from modlib.missing_records import some_not_run_yet
from modlib.parameters import split_parameters
from modlib.record_tables import check_table, read_rows
from modlib.results import plain
from modlib.settings import Places, Settings
from modlib.studies import Seeds, enough_for_its_tasks
from modlib.tables import mean_and_spread, with_sign

FOLDER = "time_to_accuracy"  # below the folder of results
RECIPE, TRIPLETS, FLOAT32 = "the recipe", "triplets batching", "float32"
VARIANTS = {  # what each changes in the recipe
    RECIPE: {},
    TRIPLETS: {"batching": "triplets"},
    FLOAT32: {"precision": "float32"},
    "mean over active triplets": {"hinge_mean": "active"},
    "no shifts": {"shift": 0},
    "no zoom": {"zoom": 0.0},
    "no colour jitter": {"colour_jitter": 0.0},
    "no mirroring": {"horizontal_flip": False},
    "scales at the network's rate": {"scale_rate_factor": 1.0},
    "a learning rate of 0.001": {"learning_rate": 1e-3},
    "a learning rate of 0.004": {"learning_rate": 4e-3},
    "rate cut to a tenth at 70 %": {"schedule": "tenth_for_last_30_percent"},
    "symmetric triplets": {"triplet_choice": "symmetric"},
    "one sample an anchor": {"samples_per_anchor": 1},
    "batches of 180 images": {"batch_size": 180},
    "batches of any images": {"batch_images": "any", "batching": "shared"},
    "Kaiming initialisation": {"initialisation": "kaiming"},
    "quarter width": {"width": 0.25},
    "48×48 pixels": {"image_size": 48},
    "80×80 pixels": {"image_size": 80},
    "middle 80 % of the photograph": {"crop": 0.8},
}
FREE = {"seed", "batches_per_epoch", *(key for changes in VARIANTS.values() for key in changes)}


@dataclass(frozen=True)
class TimeStudy(Seeds):
    """What the notebook decides beside the settings that its runs share.

    The seeds are of the recipe and of float32; the other variants take the first.
    """

    variants: tuple[str, ...] | None = None  # None: the first two on toy faces, else all


def changes(variant: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a variant changes in the recipe's settings; an epoch has as many images as before."""
    changed = {key: value for key, value in VARIANTS[variant].items() if value != recipe.get(key)}
    if "batch_size" in changed and recipe["batches_per_epoch"]:
        images = recipe["batches_per_epoch"] * recipe["batch_size"]
        changed["batches_per_epoch"] = max(1, images // changed["batch_size"])
    return changed


def study(parameters: Mapping[str, Any]) -> tuple[dict[str, list[Settings]], Places]:
    """Check the notebook's parameters and lay out its runs: a list of seeds for each variant.

    A batch holds at least three images a task and there are at least 100 toy faces a task,
    whatever the settings say: the settings files are for three tasks too, and a split without two
    holders of a rare attribute has no triplet.

    Raises:
        ModlibError: an unknown parameter or variant, a wrong value, or one that the study decides.
    """
    for name in ("system", "seed"):
        if name in parameters:
            raise ModlibError(f"{name} is not a parameter of this study: it trains the modulated "
                              "network, and seeds (a list) are the seeds")
    own, places, shared = split_parameters(parameters, TimeStudy, Places, Settings)
    own = TimeStudy(**own)
    for name in own.variants or ():
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
    places = Places(**places)
    base = enough_for_its_tasks(shared)
    toy = base.dataset == "toy_faces"
    names = own.variants or ((RECIPE, TRIPLETS) if toy else tuple(VARIANTS))
    runs = {name: [replace(base, seed=seed, **changes(name, base.as_dict()))
                   for seed in (own.seeds if name in (RECIPE, FLOAT32) else own.seeds[:1])]
            for name in (RECIPE, *names)}
    for name in names:  # a change that changes nothing would be the recipe's run again
        if name != RECIPE and runs[name][0] == runs[RECIPE][0]:
            del runs[name]
    return runs, replace(places, results_dir=f"{places.results_dir}/{FOLDER}")


def by_variant(
    records: list[dict[str, Any]], recipe: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]] | None:
    """Records sorted by what they change in the recipe's settings, each list ordered by seed.

    None where a record changes something else, or where none has the recipe's own settings.
    """
    recipe = plain(recipe)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for record in sorted(records, key=lambda one: one["settings"]["seed"]):
        changed = {key: value for key, value in record["settings"].items()
                   if key != "seed" and value != recipe.get(key)}
        names = [name for name in VARIANTS if changed == changes(name, recipe)]
        if not names:
            return None
        rows[names[0]].append(record)
    return rows if rows[RECIPE] else None


def published(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The committed records of a profile, by variant; variants without records are empty lists.

    The recipe is the record that all others differ from by one variant's change.

    Raises:
        ModlibError: there is no such record in a profile of the folder, or records that must not
            stand in one table; see :func:`modlib.record_tables.check_table`.
    """
    folder = f"book/results/{FOLDER}"
    rows = read_rows(folder, Settings, profile, _by_profile_and_variant)
    check_table({name: row for name, row in rows.items() if row}, Settings, FREE, folder)
    return rows


def _by_profile_and_variant(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records sorted by variant, each profile's around a recipe of its own."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for profile in sorted({record["settings"]["profile"] for record in records}):
        of_profile = [one for one in records if one["settings"]["profile"] == profile]
        sorted_by = (by_variant(of_profile, record["settings"]) for record in of_profile)
        found = next((found for found in sorted_by if found), None)
        if found is None:
            raise ModlibError(
                f"the records of profile {profile} in book/results/{FOLDER} are not one recipe "
                "and its variants (modlib.time_to_accuracy.VARIANTS); keep one recipe's records "
                "there")
        for name, of_variant in found.items():
            rows[name] += of_variant
    return rows


def scores(rows: Mapping[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """One line a run: variant, seed, mean validation accuracy in %, images/s."""
    lines = []
    for name, records in rows.items():
        for record in records:
            last = record["epochs"][-1]
            lines.append({
                "variant": name, "seed": record["settings"]["seed"],
                "valid": 100 * float(np.mean(list(last["valid_accuracy"].values()))),
                "speed": record["run"]["images_per_second"]})
    return pd.DataFrame(lines, columns=["variant", "seed", "valid", "speed"])


def score_table(rows: Mapping[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Mean accuracy of every variant for people, and its difference, seed by seed, in points."""
    table = scores(rows)
    if table.empty:
        return pd.DataFrame(columns=["validation, %", "against the recipe"])
    recipe = table[table.variant == RECIPE].set_index("seed").valid
    lines = []
    for name in rows:
        of_variant = table[table.variant == name]
        by_seed = of_variant.set_index("seed").valid - recipe
        change = None if name == RECIPE or by_seed.isna().all() else by_seed.mean()
        lines.append({
            "": name, "validation, %": mean_and_spread(of_variant.valid),
            "against the recipe": "" if change is None else with_sign(change, 1)})
    return pd.DataFrame(lines).set_index("").rename_axis(None)


def missing_runs(rows: Mapping[str, list[dict[str, Any]]], profile: str) -> str:
    """A box that names what has no record: seeds of the recipe or of float32, and variants.

    The other variants take the first seed alone. As Markdown; "" where nothing is missing, or
    where nothing is there.
    """
    every = {record["settings"]["seed"] for records in rows.values() for record in records}
    several = {name: rows[name] for name in (RECIPE, FLOAT32)}
    if not every:
        return ""
    wanting = some_not_run_yet(several, profile, "08")
    never = [name for name, records in rows.items() if name not in several and not records]
    if not never:
        return wanting
    here = {name: records for name, records in rows.items() if name not in several}
    if all(not records for records in here.values()):
        here[RECIPE] = [one for one in rows[RECIPE] if one["settings"]["seed"] == min(every)]
    return wanting + some_not_run_yet(here, profile, "08", seeds=())


def what_mattered(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Which changes moved validation accuracy by more than the recipe's seeds do, as Markdown."""
    table = scores(rows)
    recipe = table[table.variant == RECIPE].set_index("seed").valid
    if len(recipe) < 2:
        return "Not run yet over several seeds: no conclusion."
    spread = recipe.max() - recipe.min()
    changed = {name: (table[table.variant == name].set_index("seed").valid - recipe).mean()
               for name in rows if name != RECIPE and (table.variant == name).any()}
    better, worse = ([f"{name} ({with_sign(change, 1)})" for name, change in ordered
                      if abs(change) > spread and (change > 0) == wanted]
                     for wanted, ordered in (
                         (True, sorted(changed.items(), key=lambda item: -item[1])),
                         (False, sorted(changed.items(), key=lambda item: item[1]))))
    within = [name for name, change in changed.items() if abs(change) <= spread]
    lines = [f"The recipe's {len(recipe)} seeds lie {spread:.1f} points apart. By more than that, "
             "in points of mean validation accuracy:", ""]
    lines += [f"- **{word}:** {'; '.join(names)}." for word, names in (
        ("Better than the recipe", better), ("Worse", worse)) if names]
    if within:
        lines.append(f"- **Within it, so undecided:** {'; '.join(within)}.")
    return "\n".join(lines)


def precision_verdict(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Whether bfloat16 costs accuracy: the difference of the means beside the seeds' spread."""
    table = scores(rows)
    low, high = (table[table.variant == name].valid for name in (RECIPE, FLOAT32))
    if min(len(low), len(high)) < 2:
        return "Not run yet over several seeds: no conclusion."
    difference = low.mean() - high.mean()
    spread = max(low.max() - low.min(), high.max() - high.min())
    within = "within" if abs(difference) <= spread else "**beyond**"
    return (f"bfloat16 minus float32: {with_sign(difference)} points of mean validation accuracy, "
            f"{within} the seeds' own range of {spread:.2f} points "
            f"({len(low)} and {len(high)} seeds).")
