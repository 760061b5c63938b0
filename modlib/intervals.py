"""Intervals for differences between systems that were tested on the same triplets.

A test image stands in many triplets, so triplets are not independent of each other. The variance
over images is that of sums over overlapping clusters, one an image (Cameron, Gelbach and Miller,
2011; Aronow, Samii and Assenova, 2015, for pairs); the variance over trainings comes from the
seeds, with Student's quantile.
Shapes: T tasks, K triplets a task, N test images, R seeds.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf, sqrt
from typing import Any

import numpy as np
from scipy import stats

from modlib.arrays import from_json
from modlib.errors import ModlibError, unknown_name
from modlib.evaluation import TEST_SEED, triplets_digest
from modlib.triplets import fixed_triplets


def record_triplets(record: Mapping[str, Any]) -> np.ndarray:
    """The triplets that a record was tested on, drawn again.

    Returns:
        int64 (T, K, 3), positions in the test split.

    Raises:
        ModlibError: the record does not hold its test labels, or its triplets were others, or
            they came with the data and cannot be drawn.
    """
    kept = _kept(record)
    if kept.get("given"):
        raise ModlibError(f"record {record['name']} was tested on triplets that came with the "
                          "data; they are not in the record and cannot be drawn again")
    triplets_TK3 = _drawn(json.dumps(kept["labels"], sort_keys=True),
                          tuple(record["settings"]["tasks"]), kept["correct"]["shape"][1])
    if triplets_digest(triplets_TK3) != kept["digest"]:
        raise ModlibError(f"record {record['name']}: its test triplets cannot be drawn again; they "
                          "were drawn by another version of numpy or of modlib")
    return triplets_TK3


@lru_cache(maxsize=8)
def _drawn(labels: str, tasks: tuple[str, ...], count: int) -> np.ndarray:
    labels_NT = from_json(json.loads(labels))
    return fixed_triplets(labels_NT, np.arange(len(labels_NT)), tasks, count, TEST_SEED)


def difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]],
    tasks: Sequence[str] | None = None, together: int = 1,
) -> tuple[float, float, float]:
    """Mean accuracy of one system minus another's, in points, with its 95 % interval.

    Args:
        first, second: the records of each, one a seed; seeds that only one of them has are left
            out, as the same seed has the same initial weights.
        tasks: which tasks to average over; None: all that both were tested on.
        together: how many such intervals are to hold at once at 95 % (Bonferroni).

    Returns:
        the difference and the ends of its interval over images and seeds, which are infinite
        where there are fewer than two common seeds, and nan where there is none.

    Raises:
        ModlibError: records that were tested on other triplets, or on unknown ones.
    """
    sides = of_common_seeds(first, second)
    if not sides[0]:
        return float("nan"), float("nan"), float("nan")
    reference = sides[0][0]
    if tasks is None:
        others = set(sides[1][0]["settings"]["tasks"])
        tasks = [task for task in reference["settings"]["tasks"] if task in others]
    correct = [np.stack([_correct(record, tasks, reference) for record in side])
               for side in sides]
    difference_RTK = 100 * (correct[0].astype(np.float32) - correct[1])
    triplets_TK3 = record_triplets(reference)[_places(reference, tasks)]
    of_images = variance_over_images(difference_RTK.mean(0), triplets_TK3)
    return over_images_and_seeds(difference_RTK.mean((1, 2)), of_images, together)


def of_common_seeds(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The records of the seeds that both sides have, one a seed, each side ordered by seed."""
    by_seed = [{record["settings"]["seed"]: record for record in side} for side in (first, second)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    return [by_seed[0][seed] for seed in seeds], [by_seed[1][seed] for seed in seeds]


def over_images_and_seeds(
    values_R: np.ndarray, of_images: float, together: int = 1
) -> tuple[float, float, float]:
    """The mean of one value a seed with its 95 % interval, which is infinite of one seed.

    Args:
        of_images: the variance of the mean as test images are drawn.
        together: how many such intervals are to hold at once at 95 % (Bonferroni).
    """
    value, seeds = float(values_R.mean()), len(values_R)
    if seeds < 2:
        return value, -inf, inf
    of_seeds = float(values_R.var(ddof=1)) / seeds
    end = 1 - 0.025 / together
    student, normal = stats.t.ppf(end, seeds - 1), stats.norm.ppf(end)
    half = sqrt(normal**2 * of_images + student**2 * of_seeds)
    return value, value - half, value + half


def variance_over_images(values_TK: np.ndarray, triplets_TK3: np.ndarray) -> float:
    """The variance of a mean over tasks and triplets, as test images are drawn.

    Computes :eq:`eq-variance` of the book's page on the method.

    Args:
        values_TK: float, one a triplet.
        triplets_TK3: int64, the images of each.
    """
    e_TK = (values_TK - values_TK.mean(1, keepdims=True)) / values_TK.size
    return clustered_variance(e_TK.reshape(-1), triplets_TK3.reshape(-1, 3))


def clustered_variance(e_K: np.ndarray, parts_KM: np.ndarray) -> float:
    """The variance of the sum of e, where summands with a part in common are not independent.

    The sum of e·e' over all pairs of summands that have a part in common. Summing e by part and
    squaring counts each summand's own square M times, once a part, so M − 1 of them are taken
    off. (Pairs with two parts in common are rare and count twice.)

    Args:
        e_K: float; their mean is 0.
        parts_KM: int from 0, the M parts of each (a triplet's images, an image's digits).
    """
    parts = parts_KM.shape[1]
    of_parts = np.bincount(parts_KM.reshape(-1), np.repeat(e_K, parts))
    own = float(np.square(e_K).sum())
    return max(own, float(np.square(of_parts).sum()) - (parts - 1) * own)


def _correct(
    record: Mapping[str, Any], tasks: Sequence[str], reference: Mapping[str, Any]
) -> np.ndarray:
    """Which triplets of some tasks succeeded, bool (T, K); they must be the reference's."""
    places = _places(record, tasks)
    if not np.array_equal(record_triplets(record)[places],
                          record_triplets(reference)[_places(reference, tasks)]):
        raise ModlibError(f"records {reference['name']} and {record['name']} were tested on other "
                          "triplets and cannot be compared image by image")
    return from_json(_kept(record)["correct"])[places]


def _places(record: Mapping[str, Any], tasks: Sequence[str]) -> list[int]:
    own = list(record["settings"]["tasks"])
    for task in tasks:
        if task not in own:
            raise unknown_name("task", task, own, f"record {record['name']}")
    return [own.index(task) for task in tasks]


def _kept(record: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return record["results"]["test_triplets"]
    except KeyError:
        raise ModlibError(f"record {record['name']} is of a version that did not keep its test "
                          "triplets one by one; delete it and run again") from None
