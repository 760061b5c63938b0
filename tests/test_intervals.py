"""Differences on the same triplets: images are drawn again, pairs stay pairs."""

import numpy as np
import pytest
import torch

from modlib.arrays import from_json, to_json
from modlib.batches import image_getter
from modlib.errors import ModlibError
from modlib.evaluation import TEST_SEED, final_results, triplets_digest
from modlib.experiments import new_network
from modlib.intervals import (
    bootstrap_accuracies,
    image_weights,
    interval,
    record_triplets,
    restricted,
    triplet_weights,
)
from modlib.triplets import fixed_triplets

TASKS = ("Smiling", "Young")
IMAGES, COUNT = 40, 300
LABELS = np.random.default_rng(5).random((IMAGES, 2)) < 0.4
TRIPLETS = fixed_triplets(LABELS, np.arange(IMAGES), TASKS, COUNT, TEST_SEED)


def record(correct_TK: np.ndarray, name: str = "one", labels=LABELS) -> dict:
    triplets = fixed_triplets(labels, np.arange(IMAGES), TASKS, correct_TK.shape[1], TEST_SEED)
    return {"name": name, "settings": {"tasks": list(TASKS)}, "results": {"test_triplets": {
        "correct": to_json(correct_TK), "labels": to_json(labels),
        "digest": triplets_digest(triplets)}}}


def chance(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((2, COUNT)) < share


def test_a_records_triplets_are_drawn_again(tiny, planted):
    network = new_network(tiny)
    test = planted.indices("test")
    drawn = fixed_triplets(planted.labels_NT, test, tiny.tasks, tiny.test_triplets, TEST_SEED)
    results = final_results(
        network, planted, tiny, image_getter(planted, torch.device("cpu")), drawn)
    again = record_triplets({"name": "", "settings": tiny.as_dict(), "results": results})
    assert np.array_equal(test[again], drawn)


def test_triplets_of_another_version_are_found_out():
    one = record(chance(0, 0.8))
    one["results"]["test_triplets"]["digest"] = "0" * 16
    with pytest.raises(ModlibError, match="record one: its test triplets cannot be drawn again"):
        record_triplets(one)


def test_an_old_record_is_refused_by_name():
    with pytest.raises(ModlibError, match="record old is of a version that did not keep"):
        record_triplets({"name": "old", "settings": {"tasks": TASKS}, "results": {}})


# Some of a record's tasks


def whole_record() -> dict:
    one = record(chance(1, 0.8))
    one["results"] |= {"test_accuracy": {"Smiling": 0.75, "Young": 0.5}, "retrieval": {}}
    return one


@pytest.mark.parametrize("tasks", [("Young",), ("Young", "Smiling"), TASKS])
def test_a_restricted_record_has_the_triplets_and_outcomes_of_its_tasks(tasks):
    one, places = whole_record(), [TASKS.index(task) for task in tasks]
    some = restricted(one, tasks)
    assert some["settings"]["tasks"] == list(tasks)
    assert np.array_equal(record_triplets(some), TRIPLETS[places])
    kept = some["results"]["test_triplets"]
    assert np.array_equal(from_json(kept["correct"]), chance(1, 0.8)[places])
    assert np.array_equal(from_json(kept["labels"]), LABELS[:, places])
    assert list(some["results"]["test_accuracy"].items()) == [
        (task, {"Smiling": 0.75, "Young": 0.5}[task]) for task in tasks]


def test_a_restricted_record_is_one_that_was_tested_on_these_tasks_alone():
    alone = record(chance(2, 0.6)[1:], "alone")
    alone["settings"]["tasks"] = ["Young"]
    labels_N1 = LABELS[:, 1:].copy()
    alone["results"]["test_triplets"] |= {
        "labels": to_json(labels_N1),
        "digest": triplets_digest(
            fixed_triplets(labels_N1, np.arange(IMAGES), ("Young",), COUNT, TEST_SEED))}
    given = bootstrap_accuracies({"a": [restricted(whole_record(), ["Young"])], "b": [alone]}, 20)
    both = bootstrap_accuracies({"a": [record(chance(1, 0.8))], "b": [record(chance(2, 0.6))]}, 20)
    for name in ("a", "b"):
        assert given[name][:, 0] == pytest.approx(both[name][:, 1])


def test_restricting_leaves_the_record_as_it_is():
    one, untouched = whole_record(), whole_record()
    restricted(one, ["Young"])
    assert one == untouched


def test_only_a_records_own_tasks_can_be_chosen():
    with pytest.raises(ModlibError, match=r"'Yung'.*did you mean 'Young'"):
        restricted(whole_record(), ["Yung"])


def test_what_cannot_be_drawn_again_gets_no_new_digest():
    one = whole_record()
    one["results"]["test_triplets"]["digest"] = "0" * 16
    with pytest.raises(ModlibError, match="cannot be drawn again"):
        restricted(one, ["Young"])


# Draws


def test_as_many_images_are_drawn_as_there_are():
    weights_N = image_weights(50, np.random.default_rng(0))
    assert (len(weights_N), weights_N.sum()) == (50, 50)
    assert weights_N.max() > 1


def test_a_triplet_counts_as_often_as_the_product_of_its_images():
    weights_TK = triplet_weights(TRIPLETS, IMAGES, np.random.default_rng(3))
    assert (weights_TK.shape, weights_TK.dtype) == ((2, COUNT), np.float32)
    drawn = np.random.default_rng(3).integers(0, IMAGES, IMAGES).tolist()
    for task in range(2):
        for k, (anchor, positive, negative) in enumerate(TRIPLETS[task].tolist()):
            assert weights_TK[task, k] == (
                drawn.count(anchor) * drawn.count(positive) * drawn.count(negative))
    assert weights_TK.min() == 0 and weights_TK.max() > 1


def test_no_task_is_left_without_a_triplet():
    """Each has one: of 26 draws of five images one holds all that the two ask for."""
    triplets_TK3 = np.array([[[0, 1, 2]], [[2, 3, 4]]])
    rng = np.random.default_rng(0)
    drawn = [triplet_weights(triplets_TK3, 5, rng) for _ in range(20)]
    assert np.min(drawn) >= 1


def test_draws_equal_a_loop_over_triplets():
    correct = {"a": [chance(1, 0.8), chance(2, 0.7)], "b": [chance(3, 0.6)]}
    given = bootstrap_accuracies(
        {name: [record(one) for one in many] for name, many in correct.items()}, 3, seed=4)
    rng = np.random.default_rng(4)
    for draw in range(3):
        weights_N = image_weights(IMAGES, rng)
        places = rng.random(2)
        for name, many in correct.items():
            expected = []
            for task in range(2):
                of_seeds = []
                for place in places[:len(many)]:
                    right = total = 0
                    for k, triplet in enumerate(TRIPLETS[task]):
                        weight = np.prod(weights_N[triplet])
                        right += weight * many[int(place * len(many))][task, k]
                        total += weight
                    of_seeds.append(100 * right / total)
                expected.append(np.mean(of_seeds))
            assert given[name][1 + draw] == pytest.approx(expected, rel=1e-5)
    for name, many in correct.items():
        assert given[name][0] == pytest.approx(100 * np.mean(many, (0, 2)), rel=1e-6)


def test_a_draw_that_leaves_a_task_without_triplets_is_drawn_afresh():
    labels = LABELS.copy()
    labels[:, 0] = np.arange(IMAGES) < 2  # two holders: half of the draws lack one of them
    correct = chance(0, 0.8)
    draws = bootstrap_accuracies({"a": [record(correct, labels=labels)]}, 50)["a"]
    assert np.isfinite(draws).all()


def test_equal_systems_differ_by_nothing_in_every_draw():
    draws = bootstrap_accuracies({"a": [record(chance(1, 0.8))], "b": [record(chance(1, 0.8))]}, 20)
    assert np.array_equal(draws["a"], draws["b"])
    assert interval((draws["a"] - draws["b"]).mean(1)) == (0.0, 0.0, 0.0)


def test_the_interval_is_wider_where_errors_belong_to_images():
    """The same share of errors, spread over triplets or heaped on the triplets of a few images."""
    bad = set(range(6))
    heaped = np.array([[not bad & set(triplet) for triplet in of_task] for of_task in TRIPLETS])
    spread = np.stack([np.random.default_rng(t).permutation(row) for t, row in enumerate(heaped)])
    draws = bootstrap_accuracies({"heaped": [record(heaped)], "spread": [record(spread)]}, 300)
    (_, low, high), (_, low_spread, high_spread) = (
        interval(draws[name].mean(1)) for name in ("heaped", "spread"))
    assert high - low > 2 * (high_spread - low_spread)


def test_the_interval_of_means_agrees_with_theory():
    draws = np.concatenate([[0.0], np.random.default_rng(0).normal(3, 1, 100_000)])
    value, low, high = interval(draws)
    assert value == 0
    assert (low, high) == pytest.approx((3 - 1.96, 3 + 1.96), abs=0.05)


def test_records_of_other_triplets_are_not_compared():
    other = LABELS.copy()
    other[0] = ~other[0]
    with pytest.raises(ModlibError, match="records one and two were tested on other triplets"):
        bootstrap_accuracies({"a": [record(chance(0, 0.9))],
                              "b": [record(chance(0, 0.9), "two", other)]})


def test_nothing_to_compare_gives_nothing():
    assert bootstrap_accuracies({}) == {}
    assert list(bootstrap_accuracies({"a": [], "b": [record(chance(0, 0.9))]}, 2)) == ["b"]


def test_draws_are_the_same_for_the_same_seed():
    records = {"a": [record(chance(1, 0.8)), record(chance(2, 0.8))]}
    first, again, other = (bootstrap_accuracies(records, 5, seed)["a"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
