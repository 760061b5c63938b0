"""Affinities equal loops over examples, clusters find planted groups, d balances the two costs."""

from itertools import product
from math import exp

import numpy as np
import pytest
import torch

from modlib.errors import ModlibError
from modlib.task_grouping import (
    TaskAffinity,
    branch_affinity,
    choose_clusters,
    co_difficulty,
    separation_cost,
)

PLANTED = [[0, 3, 5], [1, 4], [2, 6, 7]]  # eight tasks in three groups


def batches(count: int, size: int = 9, tasks: int = 4):
    generator = torch.Generator().manual_seed(3)
    return [(2 * torch.randn(size, tasks, generator=generator),
             torch.rand(size, tasks, generator=generator) < 0.4) for _ in range(count)]


def affinity_by_loops(all_batches, decay):
    """Section 3.3 in words: weighted means over batches, each weight decay^(batches since)."""
    tasks = all_batches[0][0].shape[1]
    margins = [[[abs(float(labels[b, t]) - 1 / (1 + exp(-float(logits[b, t]))))
                 for t in range(tasks)] for b in range(len(logits))]
               for logits, labels in all_batches]
    agreements = []
    for number, batch in enumerate(margins):
        weights = [decay ** (number - n) for n in range(number + 1)]
        means = [sum(w * np.mean([row[t] for row in one])
                     for w, one in zip(weights, margins[:number + 1], strict=True)) / sum(weights)
                 for t in range(tasks)]
        hard = [[row[t] >= means[t] for t in range(tasks)] for row in batch]
        agreements.append([[np.mean([row[i] == row[j] for row in hard]) for j in range(tasks)]
                           for i in range(tasks)])
    weights = [decay ** (len(margins) - 1 - n) for n in range(len(margins))]
    return sum(w * np.array(a) for w, a in zip(weights, agreements, strict=True)) / sum(weights)


def planted_affinity(noise: float = 0.03) -> np.ndarray:
    """0.9 within a planted group and 0.5 between them, less some noise."""
    group = {task: n for n, tasks in enumerate(PLANTED) for task in tasks}
    same = np.array([[group[i] == group[j] for j in range(8)] for i in range(8)])
    jitter = np.random.default_rng(0).random((8, 8)) * noise
    affinity = np.where(same, 0.9, 0.5) - (jitter + jitter.T)
    np.fill_diagonal(affinity, 1)
    return affinity


# Affinity

@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 5])
def test_affinity_equals_loops_over_batches_and_examples(decay, count):
    running = TaskAffinity(4, decay)
    for logits, labels in batches(count):
        running.add(logits, labels)
    np.testing.assert_allclose(running.affinity_TT, affinity_by_loops(batches(count), decay))


def test_affinity_by_hand():
    """Probabilities are the labels, or their opposite: the margins are 0 and 1."""
    running = TaskAffinity(3)
    wrong = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])
    running.add(200.0 * (2 * wrong - 1), torch.zeros(4, 3, dtype=torch.bool))
    assert running.affinity_TT.tolist() == [[1, 0.75, 0], [0.75, 1, 0.25], [0, 0.25, 1]]


def test_co_difficulty_is_the_affinity_of_all_images_in_one_batch():
    [(logits, labels)] = batches(1, size=200, tasks=7)
    running = TaskAffinity(7)
    running.add(logits, labels)
    given, _ = co_difficulty(logits.numpy(), labels.numpy())
    np.testing.assert_allclose(given, running.affinity_TT, rtol=1e-12)
    assert given.dtype == np.float64 and len(np.unique(given)) > 10


def test_co_difficulty_by_hand():
    """Probabilities are the labels, or their opposite; what all find hard is hard."""
    wrong = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]], bool)
    given, hard = co_difficulty(np.where(wrong, 200.0, -200.0), np.zeros((4, 3), bool))
    assert given.tolist() == [[1, 0.75, 0], [0.75, 1, 0.25], [0, 0.25, 1]]
    assert hard.tolist() == [0.5, 0.25, 0.5]


def test_affinity_is_symmetric_and_one_with_itself():
    running = TaskAffinity(4)
    for logits, labels in batches(3):
        running.add(logits, labels)
    assert torch.equal(running.affinity_TT, running.affinity_TT.T)
    assert running.affinity_TT.diagonal().tolist() == pytest.approx([1] * 4)
    assert 0 <= running.affinity_TT.min() < running.affinity_TT.max() <= 1 + 1e-12


def test_after_a_reset_nothing_is_remembered():
    first, second = TaskAffinity(4), TaskAffinity(4)
    first.add(*batches(2)[0])
    first.reset()
    for running in (first, second):
        running.add(*batches(2)[1])
    assert torch.equal(first.affinity_TT, second.affinity_TT)


def test_averages_are_kept_with_the_networks_state():
    first, second = TaskAffinity(4), TaskAffinity(4)
    first.add(*batches(2)[0])
    second.load_state_dict(first.state_dict())
    for running in (first, second):
        running.add(*batches(2)[1])
    assert torch.equal(first.affinity_TT, second.affinity_TT)


def test_branch_affinity_equals_loops_over_tasks():
    affinity, branches = planted_affinity(), [[0, 1, 7], [2], [3, 4], [5, 6]]
    given = branch_affinity(affinity, branches)
    for (k, one), (m, other) in product(enumerate(branches), repeat=2):
        there = np.mean([min(affinity[i][j] for j in other) for i in one])
        back = np.mean([min(affinity[i][j] for i in one) for j in other])
        assert given[k, m] == pytest.approx((there + back) / 2)


def test_affinity_of_branches_of_one_task_is_the_tasks():
    affinity = planted_affinity()
    np.testing.assert_allclose(branch_affinity(affinity, [[t] for t in range(8)]), affinity)


# Clusters and their number

def test_separation_equals_a_loop_over_clusters():
    affinity = planted_affinity()
    clusters = [[0, 1, 2], [3], [4, 5, 6, 7]]
    expected = np.mean([1 - np.mean([min(affinity[k][m] for m in cluster) for k in cluster])
                        for cluster in clusters])
    assert separation_cost(affinity, clusters) == pytest.approx(expected)
    assert separation_cost(affinity, [[n] for n in range(8)]) == pytest.approx(0)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 2**40])
def test_planted_groups_are_found(seed):
    """Three groups: 2/64 + 0.14/4. Each task alone would cost 7/64, two groups 1/64 + 0.33/4."""
    assert sorted(choose_clusters(planted_affinity(), 0.25, 0, 8, seed).clusters) == PLANTED


def test_the_objective_is_eq_9_for_every_number_of_branches():
    choice = choose_clusters(planted_affinity(), 1.5, 2, 8, 0)
    assert [one["branches"] for one in choice.objectives] == list(range(1, 9))
    for one in choice.objectives:
        assert one["complexity"] == (one["branches"] - 1) / 64 * 4
        assert one["loss"] == pytest.approx(one["complexity"] + 1.5 * one["separation"])
    best = min(choice.objectives, key=lambda one: one["loss"])
    assert len(choice.clusters) == best["branches"]
    assert separation_cost(planted_affinity(), choice.clusters) == pytest.approx(best["separation"])


def test_more_alpha_makes_more_branches_and_more_poolings_fewer():
    def count(alpha, poolings):
        return len(choose_clusters(planted_affinity(0.1), alpha, poolings, 8, 0).clusters)

    by_alpha = [count(alpha, 0) for alpha in (0.0, 0.3, 1.0, 20.0)]
    assert by_alpha == sorted(by_alpha) and by_alpha[0] == 1 and by_alpha[-1] == 8
    by_poolings = [count(1.0, poolings) for poolings in range(6)]
    assert by_poolings == sorted(by_poolings, reverse=True) and by_poolings[-1] == 1


def test_there_are_at_most_as_many_branches_as_allowed():
    choice = choose_clusters(planted_affinity(), 20.0, 0, 2, 0)
    assert len(choice.objectives) == len(choice.clusters) == 2


def test_one_branch_above_gives_one_below():
    assert choose_clusters(np.ones((1, 1)), 5.0, 0, 4, 0).clusters == [[0]]


def test_one_seed_gives_one_choice():
    one, again = (choose_clusters(planted_affinity(0.4), 1.0, 0, 8, 7) for _ in range(2))
    assert one == again


@pytest.mark.parametrize(("alpha", "most", "worst", "said"), [
    (-1, 8, 0, "alpha must be at least 0; given -1"), (1, 0, 0, "at least 1 branch; given 0"),
    (1, 8, np.nan, "affinities must be finite")])
def test_what_cannot_be_clustered_is_refused(alpha, most, worst, said):
    with pytest.raises(ModlibError, match=said):
        choose_clusters(planted_affinity() + worst, alpha, 0, most, 0)


@pytest.mark.parametrize("decay", [-0.1, 2])
def test_a_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ModlibError, match=f"decay must be from 0 to 1; given {decay}"):
        TaskAffinity(3, decay)
