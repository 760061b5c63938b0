"""Intervals for differences between systems that were tested on the same triplets.

A test image stands in many triplets, so triplets are not independent of each other: what is drawn
again is *images* (and seeds), never triplets. Efron and Tibshirani, 1993, chapter 8.
Shapes: T tasks, K triplets a task, N test images, S systems, R seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modlib.arrays import from_json, to_json
from modlib.errors import ModlibError, unknown_name
from modlib.evaluation import TEST_SEED, triplets_digest
from modlib.triplets import fixed_triplets

DRAWS = 1000


def record_triplets(record: Mapping[str, Any]) -> np.ndarray:
    """The triplets that a record was tested on, drawn again: int64 (T, K, 3), positions in the
    test split.

    Raises:
        ModlibError: the record does not hold its test labels, or its triplets were others.
    """
    kept = _kept(record)
    labels_NT, count = from_json(kept["labels"]), from_json(kept["correct"]).shape[1]
    triplets_TK3 = fixed_triplets(
        labels_NT, np.arange(len(labels_NT)), tuple(record["settings"]["tasks"]), count, TEST_SEED)
    if triplets_digest(triplets_TK3) != kept["digest"]:
        raise ModlibError(f"record {record['name']}: its test triplets cannot be drawn again; they "
                          "were drawn by another version of numpy or of modlib")
    return triplets_TK3


def restricted(record: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The record as if it had been tested on some of its tasks alone, in the order given.

    A task's triplets depend on its name and labels alone, so they stay the same.
    """
    record_triplets(record)  # what could not be drawn again must not get a new digest
    kept, own = _kept(record), list(record["settings"]["tasks"])
    for task in tasks:
        if task not in own:
            raise unknown_name("task", task, own, f"record {record['name']}")
    places = [own.index(task) for task in tasks]
    correct_TK, labels_NT = (from_json(kept[key]) for key in ("correct", "labels"))
    labels_NT = labels_NT[:, places]
    triplets_TK3 = fixed_triplets(
        labels_NT, np.arange(len(labels_NT)), tuple(tasks), correct_TK.shape[1], TEST_SEED)
    return {
        **record, "settings": {**record["settings"], "tasks": list(tasks)},
        "results": {
            "test_accuracy": {task: record["results"]["test_accuracy"][task] for task in tasks},
            "test_triplets": {
                "correct": to_json(correct_TK[places]),
                "labels": to_json(np.ascontiguousarray(labels_NT)),
                "digest": triplets_digest(triplets_TK3)}}}


def image_weights(count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of N images is drawn when N are drawn with replacement: int64 (N,)."""
    return np.bincount(rng.integers(0, count, count), minlength=count)


def triplet_weights(
    triplets_TK3: np.ndarray, images: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each triplet counts when its images are drawn again: float32 (T, K).

    Images that leave a task without any triplet are drawn afresh: few images may hold a rare one.
    """
    while True:
        weights_TK = image_weights(images, rng).astype(np.float32)[triplets_TK3].prod(2)
        if weights_TK.any(1).all():
            return weights_TK


def bootstrap_accuracies(
    records: Mapping[str, Sequence[Mapping[str, Any]]], draws: int = DRAWS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Each system's accuracy on images and seeds drawn with replacement, the same ones for all.

    A triplet counts as often as the product of how often its three images were drawn.

    Args:
        records: each system's records, one a seed, all tested on the same triplets. Seeds are
            drawn by their place, so that systems with the same seeds stay paired.
        draws: how many times.
        seed: of the draws.

    Returns:
        float64 (1 + draws, T) by system, in %: first the accuracy itself, without drawing.

    Raises:
        ModlibError: records that were tested on other triplets, or on unknown ones.
    """
    every = [record for rows in records.values() for record in rows]
    if not every:
        return {}
    first = every[0]
    for record in every[1:]:
        for key in ("digest", "labels"):
            if _kept(record)[key] != _kept(first)[key]:
                raise ModlibError(f"records {first['name']} and {record['name']} were tested on "
                                  "other triplets and cannot be compared image by image")
    triplets_TK3 = record_triplets(first)
    images = from_json(_kept(first)["labels"]).shape[0]
    correct = {name: np.stack([from_json(_kept(record)["correct"]) for record in rows])
               .astype(np.float32) for name, rows in records.items() if rows}
    results = {name: [100 * correct_RTK.mean((0, 2))] for name, correct_RTK in correct.items()}
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        weights_TK = triplet_weights(triplets_TK3, images, rng)
        places = rng.random(max(map(len, correct.values())))
        for name, correct_RTK in correct.items():
            drawn = (places[:len(correct_RTK)] * len(correct_RTK)).astype(int)
            accuracy_RT = np.einsum("rtk,tk->rt", correct_RTK, weights_TK) / weights_TK.sum(1)
            results[name].append(100 * accuracy_RT[drawn].mean(0))
    return {name: np.array(values) for name, values in results.items()}


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """The difference itself and its 95 % percentile interval, from the first and the other draws.

    Args:
        differences: float (1 + draws,).
    """
    low, high = np.quantile(differences[1:], (0.025, 0.975))
    return float(differences[0]), float(low), float(high)


def _kept(record: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return record["results"]["test_triplets"]
    except KeyError:
        raise ModlibError(f"record {record['name']} is of a version that did not keep its test "
                          "triplets one by one; delete it and run again") from None
