"""Triplets hold what they promise: sides, coverage, uniform draws, independence of other tasks."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from modlib.errors import ModlibError
from modlib.triplets import (
    BatchTriplets,
    benchmark_triplets,
    draw_triplets,
    epoch_batches,
    fixed_triplets,
    triplets_in_batch,
)

CHOICES = ("holders", "symmetric")
TASKS = ("Smiling", "Young", "Bald")


def some_labels(images: int = 40, seed: int = 0) -> np.ndarray:
    """Three tasks, held by a half, three quarters and a fifth of the images."""
    return np.random.default_rng(seed).random((images, 3)) < [0.5, 0.75, 0.2]


def draw(labels_NT, task=0, count=100, choice="holders", indices=None, seed=0) -> np.ndarray:
    indices = np.arange(len(labels_NT)) if indices is None else indices
    return draw_triplets(labels_NT[:, task], indices, count, choice, np.random.default_rng(seed),
                         TASKS[task])


def assert_evenly_drawn(counts, draws: int) -> None:
    """Every outcome came up, each within five deviations of an equal share."""
    share = 1 / len(counts)
    deviation = (draws * share * (1 - share)) ** 0.5
    assert min(counts) > 0
    assert max(abs(count - draws * share) for count in counts) <= 5 * deviation


# Triplets of one task


@pytest.mark.parametrize("task", [0, 1, 2])
def test_anchor_and_positive_hold_the_attribute_and_the_negative_does_not(task):
    labels_NT = some_labels()
    for anchor, positive, negative in draw(labels_NT, task):
        assert labels_NT[anchor, task]
        assert labels_NT[positive, task]
        assert not labels_NT[negative, task]
        assert positive != anchor


@pytest.mark.parametrize(("count", "holding"), [(1, 1), (7, 4), (100, 50)])
def test_symmetric_triplets_are_half_on_either_side(count, holding):
    labels_NT = some_labels()
    sides = []
    for anchor, positive, negative in draw(labels_NT, count=count, choice="symmetric"):
        assert labels_NT[positive, 0] == labels_NT[anchor, 0] != labels_NT[negative, 0]
        assert positive != anchor
        sides.append(bool(labels_NT[anchor, 0]))
    assert len(sides) == count
    assert sum(sides) == holding


def test_symmetric_triplets_come_in_random_order():
    labels_NT = some_labels()
    sides = [labels_NT[a, 0] for a, _, _ in draw(labels_NT, count=100, choice="symmetric")]
    assert 15 <= sum(sides[:50]) <= 35


@pytest.mark.parametrize("choice", CHOICES)
def test_only_the_given_images_are_drawn(choice):
    labels_NT, indices = some_labels(), np.arange(3, 40, 2)
    drawn = draw(labels_NT, count=300, choice=choice, indices=indices)
    assert set(drawn.flatten()) == set(indices)


def test_anchors_cover_all_holders_before_any_comes_again():
    labels_NT = some_labels()
    holders = sorted(np.flatnonzero(labels_NT[:, 0]))
    anchors = list(draw(labels_NT, count=3 * len(holders) + 2)[:, 0])
    rounds = [anchors[r * len(holders):(r + 1) * len(holders)] for r in range(4)]
    assert [sorted(r) for r in rounds[:3]] == [holders] * 3
    assert len(set(rounds[3])) == 2
    assert rounds[0] != rounds[1] != holders


def test_symmetric_anchors_cover_all_images_of_both_sides():
    labels_NT = np.arange(20)[:, None] % 2 == 0
    assert sorted(draw(labels_NT, count=20, choice="symmetric")[:, 0]) == list(range(20))


def test_positives_and_negatives_are_evenly_drawn_for_every_anchor():
    labels_NT = np.array([1, 0, 1, 1, 0, 1, 0], bool)[:, None]
    drawn = draw(labels_NT, count=8000)  # four holders: 2000 triplets each
    for anchor in (0, 2, 3, 5):
        pairs = [(p, n) for a, p, n in drawn.tolist() if a == anchor]
        allowed = list(product({0, 2, 3, 5} - {anchor}, (1, 4, 6)))
        assert set(pairs) == set(allowed)
        assert_evenly_drawn([pairs.count(pair) for pair in allowed], draws=2000)


def test_two_holders_and_one_other_suffice():
    labels_NT = np.array([1, 0, 1], bool)[:, None]
    assert {tuple(t) for t in draw(labels_NT, count=10).tolist()} == {(0, 2, 1), (2, 0, 1)}


@pytest.mark.parametrize(("held", "choice", "sizes"), [
    ([0, 0, 0, 0], "holders", "given 0 and 4"),
    ([1, 0, 0, 0], "holders", "given 1 and 3"),
    ([1, 1, 1, 1], "holders", "given 4 and 0"),
    ([1, 1, 1, 0], "symmetric", "given 1 and 3"),
])
def test_too_few_images_on_a_side_are_refused_with_the_tasks_name(held, choice, sizes):
    with pytest.raises(ModlibError, match=f"'Smiling'.*two images.*{sizes}"):
        draw(np.array(held, bool)[:, None], count=2, choice=choice)


def test_a_mistyped_choice_is_refused_with_the_nearest():
    labels_NT = some_labels()
    with pytest.raises(ModlibError, match=r"'symetric'.*did you mean 'symmetric'.*holders"):
        draw(labels_NT, choice="symetric")
    with pytest.raises(ModlibError, match=r"'holder'.*did you mean 'holders'.*symmetric"):
        triplets_in_batch(torch.from_numpy(labels_NT), 2, "holder", torch.Generator())


# The fixed benchmark


@pytest.mark.parametrize("choice", CHOICES)
def test_fixed_triplets_are_the_same_at_every_call_and_change_with_the_seed(choice):
    labels_NT, indices = some_labels(), np.arange(40)
    first, again, other = (fixed_triplets(labels_NT, indices, TASKS, 50, seed, choice)
                           for seed in (7, 7, 8))
    assert first.shape == (3, 50, 3)
    assert np.array_equal(first, again)
    assert not any(np.array_equal(first[t], other[t]) for t in range(3))


def test_fixed_triplets_of_a_task_do_not_depend_on_the_other_tasks():
    labels_NT, indices = some_labels(), np.arange(40)
    together = fixed_triplets(labels_NT, indices, TASKS, 50, seed=7)
    order = [2, 0]
    fewer = fixed_triplets(labels_NT[:, order], indices, tuple(TASKS[t] for t in order), 50, seed=7)
    assert np.array_equal(fewer, together[order])


def test_tasks_with_the_same_labels_get_their_own_fixed_triplets():
    labels_NT = some_labels()[:, [0, 0]]
    one, two = fixed_triplets(labels_NT, np.arange(40), ("Smiling", "Young"), 50, seed=7)
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("choice", CHOICES)
def test_fixed_triplets_are_valid(choice):
    labels_NT, indices = some_labels(), np.arange(0, 40, 2)
    drawn = fixed_triplets(labels_NT, indices, TASKS, 50, 7, choice)
    for t, k in product(range(3), range(50)):
        anchor, positive, negative = drawn[t, k]
        assert labels_NT[anchor, t] == labels_NT[positive, t] != labels_NT[negative, t]
        assert anchor != positive
        assert choice == "symmetric" or labels_NT[anchor, t]
        assert {anchor, positive, negative} <= set(indices)


def test_a_split_is_judged_by_fixed_triplets_where_none_are_given(categorised):
    drawn = benchmark_triplets(categorised, "valid", 50, seed=4)
    assert np.array_equal(drawn, fixed_triplets(
        categorised.labels_NT, categorised.indices("valid"), categorised.tasks, 50, 4))
    nothing = replace(categorised, labels_NT=np.full((90, 3), -1, np.int16))
    with pytest.raises(ModlibError, match="'Smiling' in the test split"):
        benchmark_triplets(nothing, "test", 50, seed=4)


@pytest.mark.parametrize(("count", "used"), [(10, 10), (25, 25), (1000, 25)])
def test_a_split_is_judged_by_the_first_of_its_given_triplets(given, count, used):
    for split in ("valid", "test"):
        judged = benchmark_triplets(given, split, count, seed=4)
        assert np.array_equal(judged, given.triplets[split][:, :used])


# An epoch


def epoch(labels_NT, m=2, batches=12, choice="holders", rng=None, indices=None) -> np.ndarray:
    indices = np.arange(len(labels_NT)) if indices is None else indices
    rng = np.random.default_rng(0) if rng is None else rng
    return epoch_batches(labels_NT, indices, TASKS, m, batches, choice, rng)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_batch_has_as_many_triplets_of_each_task_and_they_are_its_own(choice):
    labels_NT = some_labels()
    batches = epoch(labels_NT, m=4, batches=5, choice=choice)
    assert batches.shape == (5, 3, 4, 3)
    for batch in batches:
        for t, m in product(range(3), range(4)):
            anchor, positive, negative = batch[t, m]
            assert labels_NT[anchor, t] == labels_NT[positive, t] != labels_NT[negative, t]
            assert choice == "symmetric" or labels_NT[anchor, t]


@pytest.mark.parametrize(("batches", "m"), [(1, 1), (4, 3), (12, 2)])
def test_an_epoch_is_as_long_as_asked(batches, m):
    assert epoch(some_labels(), m, batches).shape == (batches, 3, m, 3)


def test_an_epoch_draws_from_the_given_images_alone():
    indices = np.arange(0, 40, 2)
    assert set(epoch(some_labels(), batches=50, indices=indices).flatten()) == set(indices)


def test_rarer_tasks_go_round_again_within_an_epoch():
    labels_NT = some_labels()
    labels_NT[:, 0], labels_NT[:, 2] = np.arange(40) < 24, np.arange(40) < 5
    batches = epoch(labels_NT)
    assert sorted(batches[:, 0, :, 0].flatten()) == list(range(24))
    times = np.bincount(batches[:, 2, :, 0].flatten(), minlength=5)
    assert sorted(times) == [4, 5, 5, 5, 5]


def test_every_epoch_draws_anew_and_the_same_randomness_draws_the_same():
    labels_NT, rng = some_labels(), np.random.default_rng(0)
    first, second = epoch(labels_NT, rng=rng), epoch(labels_NT, rng=rng)
    assert first.shape == second.shape
    assert not any(np.array_equal(first[:, t], second[:, t]) for t in range(3))
    assert np.array_equal(epoch(labels_NT), first)


# Triplets inside a batch


LABELS_BT = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0],
                          [0, 1, 1]], dtype=torch.bool)


def in_batch(labels_BT=LABELS_BT, samples=6, choice="holders", seed=0) -> BatchTriplets:
    return triplets_in_batch(labels_BT, samples, choice, torch.Generator().manual_seed(seed))


def valid(labels_BT, task: int, anchor: int, choice: str) -> list[tuple[int, int]]:
    """Every (positive, negative) that the anchor may be given, found by looking at each."""
    held = [bool(row[task]) for row in labels_BT]
    if choice == "holders" and not held[anchor]:
        return []
    batch = range(len(held))
    return [(p, n) for p, n in product(batch, batch)
            if p != anchor and held[p] == held[anchor] and held[n] != held[anchor]]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_triplet_of_a_batch_is_valid_and_every_anchor_is_used(choice):
    triplets = in_batch(choice=choice)
    assert triplets.positive_TBS.shape == triplets.negative_TBS.shape == (3, 7, 6)
    for t, b in product(range(3), range(7)):
        allowed = valid(LABELS_BT, t, b, choice)
        assert bool(triplets.is_anchor_TB[t, b]) == bool(allowed)
        for s in range(6 if allowed else 0):
            pair = int(triplets.positive_TBS[t, b, s]), int(triplets.negative_TBS[t, b, s])
            assert pair in allowed


@pytest.mark.parametrize("choice", CHOICES)
def test_every_valid_pair_of_a_batch_is_evenly_drawn(choice):
    draws = 4000
    triplets = in_batch(samples=draws, choice=choice)
    for t, b in product(range(3), range(7)):
        allowed = valid(LABELS_BT, t, b, choice)
        if not allowed:
            continue
        codes = 7 * triplets.positive_TBS[t, b] + triplets.negative_TBS[t, b]
        counts = torch.bincount(codes, minlength=49)
        assert_evenly_drawn([int(counts[7 * p + n]) for p, n in allowed], draws)


def test_a_batchs_triplets_follow_the_generator():
    first, again, other = in_batch(seed=1), in_batch(seed=1), in_batch(seed=2)
    assert torch.equal(first.positive_TBS, again.positive_TBS)
    assert torch.equal(first.negative_TBS, again.negative_TBS)
    assert not torch.equal(first.positive_TBS, other.positive_TBS)
    assert not torch.equal(first.negative_TBS, other.negative_TBS)


@pytest.mark.parametrize(("holders", "choice", "anchors"), [
    (0, "holders", 0), (1, "holders", 0), (2, "holders", 2), (6, "holders", 6), (7, "holders", 0),
    (0, "symmetric", 0), (1, "symmetric", 6), (2, "symmetric", 7), (6, "symmetric", 6),
    (7, "symmetric", 0),
])
def test_tasks_with_too_few_images_on_a_side_have_no_anchor_there(holders, choice, anchors):
    labels_BT = torch.stack([torch.arange(7) < holders, torch.arange(7) % 2 == 0], dim=1)
    triplets = in_batch(labels_BT, choice=choice)
    assert int(triplets.is_anchor_TB[0].sum()) == anchors
    for positions in (triplets.positive_TBS, triplets.negative_TBS):
        assert positions.min() >= 0
        assert positions.max() < 7


def test_a_batch_of_one_image_has_no_anchor():
    triplets = in_batch(torch.tensor([[True, False]]), choice="symmetric")
    assert not triplets.is_anchor_TB.any()
    assert torch.equal(triplets.positive_TBS, torch.zeros(2, 1, 6, dtype=torch.long))
    assert torch.equal(triplets.negative_TBS, torch.zeros(2, 1, 6, dtype=torch.long))


# Categories


def categories(images: int = 60, seed: int = 0) -> np.ndarray:
    """Three tasks of two, four and eleven categories, some of them not known: int16 (N, 3)."""
    rng = np.random.default_rng(seed)
    labels_NT = rng.integers(0, [2, 4, 11], (images, 3))
    return np.where(rng.random(labels_NT.shape) < 0.15, -1, labels_NT).astype(np.int16)


def valid_among_categories(labels, anchor: int) -> list[tuple[int, int]]:
    """Every (positive, negative) that the anchor may be given, found by looking at each."""
    known = [n for n in range(len(labels)) if labels[n] >= 0]
    if anchor not in known:
        return []
    return [(p, n) for p, n in product(known, known)
            if p != anchor and labels[p] == labels[anchor] != labels[n]]


@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize("choice", CHOICES)
def test_triplets_of_categories_are_valid_and_every_possible_anchor_is_used(task, choice):
    labels_NT = categories()
    possible = {n for n in range(60) if valid_among_categories(labels_NT[:, task], n)}
    drawn = draw(labels_NT, task, count=2 * len(possible), choice=choice)
    for anchor, positive, negative in drawn.tolist():
        assert (positive, negative) in valid_among_categories(labels_NT[:, task], anchor)
    for half in (drawn[:len(possible)], drawn[len(possible):]):  # all of them before any again
        assert sorted(half[:, 0]) == sorted(possible)


def test_only_the_given_images_of_known_category_are_drawn():
    labels_NT, indices = categories(), np.arange(5, 60, 2)
    drawn = draw(labels_NT, 1, count=500, indices=indices)
    assert set(drawn.flatten()) == {n for n in indices if labels_NT[n, 1] >= 0}


def test_positives_and_negatives_of_categories_are_evenly_drawn_for_every_anchor():
    labels_NT = np.array([2, 0, 1, 2, 0, -1, 1, 2, 5], np.int16)[:, None]
    drawn = draw(labels_NT, count=14_000)  # seven anchors (5 stands alone): 2000 triplets each
    assert set(drawn[:, 0]) == {0, 1, 2, 3, 4, 6, 7}
    for anchor in (0, 1, 2, 3, 4, 6, 7):
        pairs = [(p, n) for a, p, n in drawn.tolist() if a == anchor]
        allowed = valid_among_categories(labels_NT[:, 0], anchor)
        assert set(pairs) == set(allowed)
        assert_evenly_drawn([pairs.count(pair) for pair in allowed], draws=2000)


@pytest.mark.parametrize(("labels", "given"), [
    ([-1, -1, -1], "given 0 images of 0 categories, of 3 images"),
    ([4, 4, -1], "given 2 images of 1 categories, of 3 images"),
    ([0, 1, 2], "given 3 images of 3 categories, of 3 images"),
])
def test_categories_without_a_triplet_are_refused_with_the_tasks_name(labels, given):
    with pytest.raises(ModlibError, match=f"task 'Smiling'.*one category and one of an.*{given}"):
        draw(np.array(labels, np.int16)[:, None], count=2)


def test_fixed_triplets_of_categories_do_not_depend_on_the_other_tasks():
    labels_NT, indices = categories(), np.arange(60)
    together = fixed_triplets(labels_NT, indices, TASKS, 50, seed=7)
    assert np.array_equal(fixed_triplets(labels_NT[:, [2]], indices, TASKS[2:], 50, 7),
                          together[2:])


def in_category_batch(samples: int, choice: str = "holders"):
    labels_BT = torch.from_numpy(categories(14, seed=3))
    return labels_BT, in_batch(labels_BT, samples, choice)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_triplet_of_categories_in_a_batch_is_valid_and_every_anchor_is_used(choice):
    labels_BT, triplets = in_category_batch(20, choice)
    counted = 0
    for t, b in product(range(3), range(14)):
        allowed = valid_among_categories(labels_BT[:, t].tolist(), b)
        assert bool(triplets.is_anchor_TB[t, b]) == bool(allowed)
        counted += bool(allowed)
        for s in range(20 if allowed else 0):
            pair = int(triplets.positive_TBS[t, b, s]), int(triplets.negative_TBS[t, b, s])
            assert pair in allowed
    assert 0 < counted < 3 * 14
    for positions in (triplets.positive_TBS, triplets.negative_TBS):
        assert positions.min() >= 0
        assert positions.max() < 14


def test_every_valid_pair_of_categories_in_a_batch_is_evenly_drawn():
    labels_BT, triplets = in_category_batch(8000)
    for t, b in product(range(3), range(14)):
        allowed = valid_among_categories(labels_BT[:, t].tolist(), b)
        if allowed:
            codes = 14 * triplets.positive_TBS[t, b] + triplets.negative_TBS[t, b]
            counts = torch.bincount(codes, minlength=14 * 14)
            assert_evenly_drawn([int(counts[14 * p + n]) for p, n in allowed], 8000)


@pytest.mark.parametrize("labels", [[-1] * 5, [3] * 5, [0, 1, 2, 3, -1]])
def test_a_batch_without_a_triplet_of_categories_has_no_anchor(labels):
    triplets = in_batch(torch.tensor(labels, dtype=torch.int16)[:, None])
    assert not triplets.is_anchor_TB.any()
    for positions in (triplets.positive_TBS, triplets.negative_TBS):
        assert positions.min() >= 0
        assert positions.max() < 5


def binary_triplets_in_batch(labels_BT, samples, choice, generator) -> BatchTriplets:
    """For two sides alone, each written out: what attributes were drawn by, and records rest on."""
    side_TB = labels_BT.T.long()  # 1: has the attribute, 0: has not
    tasks, batch = side_TB.shape
    order_TB = torch.argsort(side_TB, dim=1, descending=True, stable=True)
    place_TB = torch.argsort(order_TB, dim=1)
    holders_T1 = side_TB.sum(1, keepdim=True)
    start_TB = torch.where(side_TB == 1, 0, holders_T1)
    size_TB = torch.where(side_TB == 1, holders_T1, batch - holders_T1)
    other_start_TB = holders_T1 - start_TB
    other_size_TB = batch - size_TB
    uniform = torch.rand(2, tasks, batch, samples, generator=generator)
    rank_TB1 = (place_TB - start_TB)[..., None]
    positive = (uniform[0] * (size_TB[..., None] - 1)).long()
    positive += (positive >= rank_TB1).long()
    positive = (start_TB[..., None] + positive).clamp(max=batch - 1)
    negative = other_start_TB[..., None] + (uniform[1] * other_size_TB[..., None]).long()
    negative = negative.clamp(max=batch - 1)
    is_anchor_TB = (size_TB >= 2) & (other_size_TB >= 1)
    if choice == "holders":
        is_anchor_TB &= side_TB == 1
    gathered = [order_TB.gather(1, places.flatten(1)).reshape(places.shape)
                for places in (positive, negative)]
    return BatchTriplets(*gathered, is_anchor_TB)


@pytest.mark.parametrize("choice", CHOICES)
def test_attributes_are_drawn_bit_for_bit_as_by_two_sides(choice):
    """Of a task that all images of the batch hold, or none, no negative counts: it has none."""
    one_sided = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels_BT = torch.from_numpy(rng.random((rng.integers(1, 40), 5)) < rng.random(5))
        given, expected = (one(labels_BT, 4, choice, torch.Generator().manual_seed(seed))
                           for one in (triplets_in_batch, binary_triplets_in_batch))
        assert torch.equal(given.is_anchor_TB, expected.is_anchor_TB)
        assert torch.equal(given.positive_TBS, expected.positive_TBS)
        both_sides_T = labels_BT.any(0) & ~labels_BT.all(0)
        one_sided += int((~both_sides_T).sum())
        assert torch.equal(given.negative_TBS[both_sides_T], expected.negative_TBS[both_sides_T])
        assert not given.is_anchor_TB[~both_sides_T].any()
    assert one_sided > 0


def binary_draw_triplets(has_attribute_N, indices, count, choice, rng) -> np.ndarray:
    """For two sides alone: what attributes were drawn by, and records rest on."""
    def one_sided(same, other, count):
        rounds = -(-count // len(same))
        anchor = np.concatenate([rng.permutation(len(same)) for _ in range(rounds)])[:count]
        positive = rng.integers(0, len(same) - 1, count)
        positive += positive >= anchor
        negative = rng.integers(0, len(other), count)
        return np.stack([same[anchor], same[positive], other[negative]], axis=1)

    holders, others = indices[has_attribute_N[indices]], indices[~has_attribute_N[indices]]
    if choice == "holders":
        return one_sided(holders, others, count)
    halves = [one_sided(holders, others, count - count // 2)]
    if count // 2:
        halves.append(one_sided(others, holders, count // 2))
    return rng.permutation(np.concatenate(halves))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("count", [1, 7, 500])
def test_triplets_of_attributes_stay_those_that_records_were_tested_on(choice, count):
    labels_NT, indices = some_labels(80), np.arange(0, 80, 2)
    for task, seed in product(range(3), range(20)):
        given, expected = (
            one(labels_NT[:, task], indices, count, choice, np.random.default_rng(seed))
            for one in (draw_triplets, binary_draw_triplets))
        assert np.array_equal(given, expected)
