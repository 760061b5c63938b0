"""Differences on the same triplets: images and seeds vary, records are checked."""

from itertools import product
from math import inf, isnan

import numpy as np
import pytest
import torch
from scipy import stats

from modlib.arrays import to_json
from modlib.batches import image_getter
from modlib.errors import ModlibError
from modlib.evaluation import TEST_SEED, final_results, triplets_digest
from modlib.experiments import new_network
from modlib.intervals import (
    difference,
    over_images_and_seeds,
    record_triplets,
    variance_over_images,
)
from modlib.triplets import fixed_triplets

TASKS = ("Smiling", "Young")
IMAGES, COUNT = 40, 300
LABELS = np.random.default_rng(5).random((IMAGES, 2)) < 0.4
TRIPLETS = fixed_triplets(LABELS, np.arange(IMAGES), TASKS, COUNT, TEST_SEED)


def record(correct_TK: np.ndarray, seed: int = 0, name: str = "one", labels=LABELS,
           tasks=TASKS) -> dict:
    triplets = fixed_triplets(labels, np.arange(IMAGES), tasks, correct_TK.shape[1], TEST_SEED)
    return {"name": name, "settings": {"tasks": list(tasks), "seed": seed}, "results": {
        "test_triplets": {"correct": to_json(correct_TK), "labels": to_json(labels),
                          "digest": triplets_digest(triplets)}}}


def chance(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((2, COUNT)) < share


# The triplets

def test_a_records_triplets_are_drawn_again(tiny, planted):
    network = new_network(tiny)
    test = planted.indices("test")
    drawn = fixed_triplets(planted.labels_NT, test, tiny.tasks, tiny.test_triplets, TEST_SEED)
    results = final_results(
        network, planted, tiny, image_getter(planted, torch.device("cpu")), drawn)
    again = record_triplets({"name": "", "settings": tiny.as_dict(), "results": results})
    assert np.array_equal(test[again], drawn)


def test_a_records_triplets_of_categories_are_drawn_again(tiny, categorised):
    test = categorised.indices("test")
    drawn = fixed_triplets(categorised.labels_NT, test, tiny.tasks, tiny.test_triplets, TEST_SEED)
    results = final_results(
        new_network(tiny), categorised, tiny, image_getter(categorised, torch.device("cpu")), drawn)
    again = record_triplets({"name": "", "settings": tiny.as_dict(), "results": results})
    assert np.array_equal(test[again], drawn)


def test_triplets_that_came_with_the_data_cannot_be_drawn_again(tiny, given):
    results = final_results(new_network(tiny), given, tiny,
                            image_getter(given, torch.device("cpu")), given.triplets["test"])
    with pytest.raises(ModlibError, match="record one was tested on triplets that came with"):
        record_triplets({"name": "one", "settings": tiny.as_dict(), "results": results})


def test_triplets_of_another_version_are_found_out():
    one = record(chance(0, 0.8))
    one["results"]["test_triplets"]["digest"] = "0" * 16
    with pytest.raises(ModlibError, match="record one: its test triplets cannot be drawn again"):
        record_triplets(one)


def test_an_old_record_is_refused_by_name():
    with pytest.raises(ModlibError, match="record old is of a version that did not keep"):
        record_triplets({"name": "old", "settings": {"tasks": TASKS}, "results": {}})


# The difference

def sides(shares=(0.9, 0.7), seeds=(0, 1, 2)) -> list[list[dict]]:
    return [[record(chance(10 * side + seed, share), seed) for seed in seeds]
            for side, share in enumerate(shares)]


def test_the_difference_is_that_of_the_mean_accuracies():
    first, second = ([chance(10 * side + seed, share) for seed in range(3)]
                     for side, share in enumerate((0.9, 0.7)))
    value, low, high = difference(*sides())
    assert value == pytest.approx(100 * (np.mean(first) - np.mean(second)), rel=1e-5)
    assert low < value < high and value - low == pytest.approx(high - value)


def test_the_order_of_the_two_only_turns_the_sign():
    value, low, high = difference(*sides())
    assert difference(*reversed(sides())) == pytest.approx((-value, -high, -low))


def test_a_system_does_not_differ_from_itself():
    first, _ = sides()
    assert difference(first, first) == (0.0, 0.0, 0.0)


def test_one_common_seed_gives_a_difference_without_an_interval():
    first, second = sides()
    value, low, high = difference(first, second[1:2])
    expected = 100 * (chance(1, 0.9).mean() - chance(11, 0.7).mean())
    assert (value, low, high) == (pytest.approx(expected, rel=1e-5), -inf, inf)


def test_seeds_are_paired_by_their_number_and_not_by_their_place():
    first, second = sides()
    assert difference([first[0], first[2]], second) == difference(
        [first[2], first[0]], [second[0], second[2]])


def test_without_a_common_seed_there_is_no_difference():
    first, second = sides()
    assert all(map(isnan, difference(first[:1], second[1:])))
    assert all(map(isnan, difference([], second)))


def test_some_tasks_are_compared_as_if_there_were_no_others():
    first, second = sides()
    alone = [[record(chance(10 * side + seed, share)[1:], seed, labels=LABELS[:, 1:],
                     tasks=("Young",)) for seed in range(3)]
             for side, share in enumerate((0.9, 0.7))]
    assert difference(first, second, ["Young"]) == pytest.approx(difference(*alone))
    assert difference(first, alone[1]) == pytest.approx(difference(*alone))  # what both have


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(ModlibError, match=r"task 'Yung' is not in record one.*mean 'Young'"):
        difference(*sides(), ["Yung"])


def test_records_of_other_triplets_are_not_compared():
    other = LABELS.copy()
    other[0] = ~other[0]
    with pytest.raises(ModlibError, match="records one and two were tested on other triplets"):
        difference([record(chance(0, 0.9))], [record(chance(0, 0.9), 0, "two", other)])


def test_the_interval_adds_the_variance_of_seeds_with_students_quantile():
    first, second = sides()
    per_seed = [100 * (chance(seed, 0.9).mean() - chance(10 + seed, 0.7).mean())
                for seed in range(3)]
    mean_TK = np.mean([100.0 * chance(seed, 0.9) - 100.0 * chance(10 + seed, 0.7)
                       for seed in range(3)], axis=0)
    half = np.sqrt(1.959964**2 * variance_over_images(mean_TK, TRIPLETS)
                   + stats.t.ppf(0.975, 2) ** 2 * np.var(per_seed, ddof=1) / 3)
    value, _, high = difference(first, second)
    assert high - value == pytest.approx(half, rel=1e-4)


def test_intervals_that_are_to_hold_together_are_as_wide_as_bonferroni_says():
    """Of 5 at once, each at 99 %."""
    value, low, high = over_images_and_seeds(np.array([1.0, 2.0, 3.0]), 0.25, together=5)
    assert (value, high - 2) == (2, pytest.approx(np.sqrt(
        stats.norm.ppf(0.995) ** 2 * 0.25 + stats.t.ppf(0.995, 2) ** 2 / 3)))
    assert value - low == pytest.approx(high - value)


# The variance over images

def test_the_variance_is_the_sum_over_pairs_of_triplets_with_a_common_image():
    """Where no two triplets have two images in common, exactly."""
    triplets = np.array([[[0, 1, 2], [2, 3, 4], [5, 6, 7], [0, 5, 8]], [[1, 3, 5], [2, 6, 8],
                          [9, 10, 11], [4, 7, 9]]])
    values = np.random.default_rng(0).normal(size=(2, 4))
    e = (values - values.mean(1, keepdims=True)) / 8
    flat = [(e[t, k], set(triplets[t, k])) for t in range(2) for k in range(4)]
    assert max(len(a & b) for n, (_, a) in enumerate(flat) for _, b in flat[n + 1:]) == 1
    expected = sum(x * y for (x, a), (y, b) in product(flat, flat) if a & b)
    own = sum(x * x for x, _ in flat)
    assert variance_over_images(values, triplets) == pytest.approx(max(own, expected))
    assert expected > own


def test_triplets_without_a_common_image_have_the_variance_of_a_mean():
    values = np.random.default_rng(0).normal(size=(1, 50))
    triplets = np.arange(150).reshape(1, 50, 3)
    assert variance_over_images(values, triplets) == pytest.approx(values.var() / 50)


def test_the_variance_is_larger_where_errors_belong_to_images():
    """The same share of errors, spread over triplets or heaped on the triplets of a few images."""
    bad = set(range(6))
    heaped = np.array([[not bad & set(triplet) for triplet in of_task] for of_task in TRIPLETS])
    spread = np.stack([np.random.default_rng(t).permutation(row) for t, row in enumerate(heaped)])
    assert variance_over_images(heaped, TRIPLETS) > 3 * variance_over_images(spread, TRIPLETS)


def test_the_estimate_is_the_variance_over_new_images():
    """Difficulty belongs to images: draw them 300 times, and hold the estimate to the truth."""
    rng, means, estimates = np.random.default_rng(0), [], []
    for _ in range(300):
        hard_N = rng.normal(size=IMAGES)
        values = hard_N[TRIPLETS].sum(2) + rng.normal(size=TRIPLETS.shape[:2])
        means.append(values.mean())
        estimates.append(variance_over_images(values, TRIPLETS))
    assert np.mean(estimates) == pytest.approx(np.var(means), rel=0.25)
