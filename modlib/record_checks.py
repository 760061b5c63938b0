"""What the figures of a record can be: a record that says something else is not shown.

Shares are from 0 to 1; the share of right triplets is the accuracy; times and network sizes are
above 0; and the epochs are as :mod:`modlib.epoch_checks` says.

Shapes: T tasks, K triplets a task, N images of the test split.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from modlib.epoch_checks import SHARES, check_epochs
from modlib.errors import ModlibError
from modlib.record_fields import (
    check_number,
    check_pair,
    check_shares,
    check_sign_counts,
    check_whole,
    entry,
    read_array,
    refuse,
)

ROUNDING = 1e-6
ANSWERS, TOP = "test_answers", "test_top"  # answers of the test split, see modlib.answers


def check_record(record: Mapping[str, Any]) -> None:
    """Refuse a record with a figure that cannot be.

    Measures that a kind of run does not have may be missing; what is there must be right.

    Args:
        record: as :func:`modlib.results.read_record` gives it.

    Raises:
        ModlibError: with the place within the record, what is there and what is allowed.
    """
    tasks = entry(record, "settings", dict).get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(t, str) for t in tasks):
        refuse(record, "settings.tasks", tasks, "a list of names")
    if record["status"] != "done":
        refuse(record, "status", record["status"], "'done'")
    images = entry(entry(record, "data", dict), "images", dict, record, "data.", {})
    for split, count in images.items():
        check_whole(record, f"data.images.{split}", count, 0)
    _check_results(record, entry(record, "results", dict), tasks)
    check_epochs(record, entry(record, "epochs", list), tasks)
    run = entry(record, "run", dict)
    milliseconds = entry(run, "milliseconds", dict, record, "run.") if "milliseconds" in run else {}
    for where, found in (
            *((f"run.{key}", run[key]) for key in ("training_seconds", "images_per_second")
              if key in run),
            *((f"run.milliseconds.{key}", value) for key, value in milliseconds.items())):
        check_number(record, where, found, above=0)
    _check_speed(record, run)


def _check_speed(record: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Images a second are the images of all epochs over the seconds of training."""
    images = [epoch.get("images") for epoch in record["epochs"]]
    if None in images or not {"training_seconds", "images_per_second"} <= run.keys():
        return
    wanted = sum(images) / run["training_seconds"]
    if not math.isclose(run["images_per_second"], wanted, rel_tol=ROUNDING):
        refuse(record, "run.images_per_second", run["images_per_second"],
               f"{sum(images)} images over {run['training_seconds']} seconds, {wanted:.1f}")


def check_name(record: Mapping[str, Any], settings_class: type) -> None:
    """Refuse a record whose settings no longer exist, or whose name is not theirs.

    Args:
        record: as :func:`modlib.results.read_record` gives it.
        settings_class: the dataclass of its settings. Those that are younger than the record have
            their defaults, which do not enter a name.

    Raises:
        ModlibError: a setting is unknown or has a value that is not allowed any more, or the name
            is not that of the settings and the data's fingerprint.
    """
    try:
        name = settings_class(**record["settings"]).run_name(record["data"]["fingerprint"])
    except (TypeError, KeyError, ModlibError) as error:
        raise ModlibError(f"record {record['name']}: its settings are none of this modlib's: "
                          f"{error}; delete it and run again") from error
    if name != record["name"]:
        raise ModlibError(f"record {record['name']}: by its settings and data its name is {name}; "
                          "one of them was changed: delete it and run again")


def _check_results(record: Mapping[str, Any], results: Mapping[str, Any], tasks: list) -> None:
    for measure in SHARES:
        check_shares(record, f"results.test_{measure}", results.get(f"test_{measure}"), tasks)
    if record["settings"].get("final_test") and not any(f"test_{one}" in results for one in SHARES):
        refuse(record, "results.test_accuracy", None, "a share for each task: final_test was set")
    if "top_recall" in results:
        check_number(record, "results.top_recall", results["top_recall"], 0, 1)
    for task, scores in entry(results, "retrieval", dict, record, "results.", {}).items():
        where = f"results.retrieval.{task}"
        if task not in tasks or not isinstance(scores, dict):
            refuse(record, where, scores, f"the scores of one of {', '.join(tasks)}")
        check_whole(record, f"{where}.queries", scores.get("queries"), 0)
        for measure, value in scores.items():
            if measure != "queries" and (scores["queries"] or value is not None):
                check_number(record, f"{where}.{measure}", value, 0, 1)
    counts = entry(results, "parameters", dict, record, "results.", {})
    for part, count in counts.items():
        check_whole(record, f"results.parameters.{part}", count,
                    0 if part in ("shared", "task") else 1)
    if {"total", "shared", "task"} <= counts.keys() and (
            counts["total"] != counts["shared"] + counts["task"]):
        refuse(record, "results.parameters.total", counts["total"],
               f"the sum of shared and task, {counts['shared'] + counts['task']}")
    if "dead_scales" in results:
        check_whole(record, "results.dead_scales", results["dead_scales"], 0)
    check_shares(record, "results.hard", results.get("hard"), tasks)
    for n, pair in enumerate(entry(results, "w_distance", list, record, "results.", [])):
        check_pair(record, f"results.w_distance[{n}]", pair, tasks)
        for measure in ("mean", "variance"):
            check_number(record, f"results.w_distance[{n}].{measure}", pair.get(measure), 0)
    _check_triplets(record, results, tasks)
    _check_answers(record, results, tasks)
    _check_probes(record, results, tasks)


def _check_triplets(record: Mapping[str, Any], results: Mapping[str, Any], tasks: list) -> None:
    if "test_triplets" not in results:
        return
    kept, where = entry(results, "test_triplets", dict, record, "results."), "results.test_triplets"
    correct_TK = read_array(record, f"{where}.correct", kept.get("correct"), (len(tasks), None))
    if correct_TK.dtype != bool or not correct_TK.size:
        refuse(record, f"{where}.correct", correct_TK.dtype, "bool, one triplet a task or more")
    images = entry(record, "data", dict).get("images", {}).get("test")
    read_array(record, f"{where}.labels", kept.get("labels"), (images, len(tasks)))
    for task, share in zip(tasks, correct_TK.mean(1), strict=True):
        stated = (results.get("test_accuracy") or {}).get(task)
        if stated is None or abs(stated - share) > ROUNDING:
            refuse(record, f"results.test_accuracy.{task}", stated,
                   f"the share of its triplets that are correct, {share:.6f}")


def _check_answers(record: Mapping[str, Any], results: Mapping[str, Any], tasks: list) -> None:
    """The shares of right answers are the accuracies; those of the highest logits, the recall."""
    images = entry(record, "data", dict).get("images", {}).get("test")
    for key in (key for key in (ANSWERS, TOP) if key in results):
        kept, where = entry(results, key, dict, record, "results."), f"results.{key}"
        right_TN = read_array(record, f"{where}.right", kept.get("right"), (len(tasks), images))
        asked_TN = np.ones(right_TN.shape, bool)
        if "asked" in kept:
            asked_TN = read_array(record, f"{where}.asked", kept["asked"], right_TN.shape)
        if "parts" in kept:
            read_array(record, f"{where}.parts", kept["parts"], (images, None))
        for part, array in (("right", right_TN), ("asked", asked_TN)):
            if array.dtype != bool:
                refuse(record, f"{where}.{part}", array.dtype, "bool")
        for task, asked_N in zip(tasks, asked_TN, strict=True):
            if not asked_N.any():
                refuse(record, f"{where}.asked", f"no image for {task}",
                       "one image a task or more")
        shares_T = (right_TN & asked_TN).sum(1) / asked_TN.sum(1)
        stated = results.get("test_accuracy") or {}
        pairs = ([("top_recall", results.get("top_recall"), shares_T.mean())] if key == TOP else
                 [(f"test_accuracy.{task}", stated.get(task), share)
                  for task, share in zip(tasks, shares_T, strict=True)])
        for name, found, share in pairs:
            if found is None or abs(found - share) > ROUNDING:
                refuse(record, f"results.{name}", found,
                       f"the share that {where} holds, {share:.6f}")
        for task, wrong in entry(kept, "wrong", dict, record, f"{where}.", {}).items():
            _check_wrong(record, f"{where}.wrong.{task}", wrong,
                         int((~right_TN[[task == one for one in tasks]]).sum()))


def _check_wrong(record: Mapping[str, Any], where: str, found: Any, count: int) -> None:
    """What wrong answers are: no more of them are another task's digit than there are."""
    if not isinstance(found, dict) or found.get("count") != count:
        refuse(record, where, found, f"a count of {count}, the wrong answers")
    for part in ("of_others", "by_chance"):
        check_number(record, f"{where}.{part}", found.get(part), 0, count)


def _check_probes(record: Mapping[str, Any], results: Mapping[str, Any], tasks: list) -> None:
    if "probes" not in results:
        return
    probes = entry(results, "probes", dict, record, "results.")
    check_whole(record, "results.probes.batches", probes.get("batches"), 1)
    modes = entry(probes, "modes", dict, record, "results.probes.")
    for mode, found in modes.items():
        where = f"results.probes.modes.{mode}"
        if not isinstance(found, dict):
            refuse(record, where, found, "a mode's counts and agreement")
        check_sign_counts(record, f"{where}.counts", found.get("counts"),
                          (2, len(tasks), len(tasks)), probes["batches"])
        agreement = found.get("agreement")
        if not isinstance(agreement, dict) or agreement.keys() != modes.keys():
            refuse(record, f"{where}.agreement", agreement, f"a share for {', '.join(modes)}")
        for other, share in agreement.items():
            if share is not None:
                check_number(record, f"{where}.agreement.{other}", share, 0, 1)
