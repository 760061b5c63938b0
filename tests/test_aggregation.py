"""Conflict-aware weights against projections of vectors that are written out, and by hand."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modlib.aggregation import WEIGHTINGS, StepLog, aggregate_gradients, task_weights
from modlib.errors import ModlibError
from modlib.gradients import gramian

ORTHOGONAL = [[2.0, 0.0], [0.0, 3.0]]
ALIKE = [[2.0, 0.0], [1.0, 1.0]]  # product 2
CONFLICT = [[2.0, 0.0], [-1.0, 1.0]]  # product −2; squared lengths 4 and 2
OPPOSITE = [[2.0, 0.0], [-1.0, 0.0]]
# Products −1 (of 0 and 1), 1 (of 0 and 2), −4 (of 1 and 2); squared lengths 5, 3 and 6.
THREE = [[1.0, 2.0, 0.0], [1.0, -1.0, 1.0], [-1.0, 1.0, -2.0]]


def weights_of(name: str, gradients, seed: int = 0) -> Tensor:
    return task_weights(name, gramian(torch.tensor(gradients)),
                        torch.Generator().manual_seed(seed))


def step_of(name: str, gradients, seed: int = 0) -> Tensor:
    return weights_of(name, gradients, seed) @ torch.tensor(gradients)


def dot(one, other) -> float:
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True))


def pcgrad(gradients, orders) -> list[float]:
    """Yu et al., 2020, Algorithm 1, for each task's own order of the others; the mean of it."""
    step = [0.0] * len(gradients[0])
    for i, order in enumerate(orders):
        projected = list(gradients[i])
        for j in order:
            product = dot(projected, gradients[j])
            if product < 0:
                share = product / dot(gradients[j], gradients[j])
                projected = [p - share * g for p, g in zip(projected, gradients[j], strict=True)]
        step = [s + p / len(gradients) for s, p in zip(step, projected, strict=True)]
    return step


def others(i: int) -> list[tuple[int, ...]]:
    return list(permutations([j for j in range(3) if j != i]))


def random_gradients(seed: int, tasks: int = 3, size: int = 5) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, size, generator=generator).tolist()


# PCGrad


def test_pcgrad_of_two_conflicting_gradients_is_their_mean_after_projection():
    # (2, 0) less −2/2 · (−1, 1) is (1, 1); (−1, 1) less −2/4 · (2, 0) is (0, 1).
    assert weights_of("pcgrad", CONFLICT).tolist() == pytest.approx([0.75, 1.0])
    assert step_of("pcgrad", CONFLICT).tolist() == pytest.approx([0.5, 1.0])
    assert pcgrad(CONFLICT, [[1], [0]]) == pytest.approx([0.5, 1.0])


def test_pcgrad_of_opposite_gradients_is_nothing():
    assert step_of("pcgrad", OPPOSITE).tolist() == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("gradients", [ALIKE, ORTHOGONAL])
def test_pcgrad_without_conflict_is_the_mean(gradients):
    assert weights_of("pcgrad", gradients).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("draw", [None, 0, 1, 2, 3])
def test_pcgrad_of_three_gradients_is_the_algorithm_in_one_of_its_orders(draw):
    gradients = THREE if draw is None else random_gradients(draw)
    possible = [pcgrad(gradients, [first, second, third])
                for first in others(0) for second in others(1) for third in others(2)]
    seen = set()
    for seed in range(12):
        step = step_of("pcgrad", gradients, seed).tolist()
        near = [n for n, one in enumerate(possible) if step == pytest.approx(one, abs=1e-5)]
        assert near
        seen.add(near[0])
    distinct = {tuple(round(x, 4) for x in one) for one in possible}
    assert len(distinct) == 1 or len(seen) > 1  # the order is drawn


# MGDA


@pytest.mark.parametrize(("gradients", "shares", "shortest"), [
    (ORTHOGONAL, [9 / 13, 4 / 13], [18 / 13, 12 / 13]),
    (CONFLICT, [0.4, 0.6], [0.2, 0.6]),  # ⟨g1 − g0, g1⟩ / |g0 − g1|² = (2 + 2) / (4 + 4 + 2)
    (OPPOSITE, [1 / 3, 2 / 3], [0.0, 0.0]),
    (ALIKE, [0.0, 1.0], [1.0, 1.0]),  # the nearest point of the segment is its end
    ([[1.0, 1.0], [3.0, 1.5]], [1.0, 0.0], [1.0, 1.0]),
])
def test_mgda_of_two_gradients_is_the_shortest_vector_between_them(gradients, shares, shortest):
    assert weights_of("mgda", gradients).tolist() == pytest.approx(shares, abs=1e-5)
    assert step_of("mgda", gradients).tolist() == pytest.approx(shortest, abs=1e-5)


def test_mgda_of_three_orthogonal_gradients_weighs_them_by_their_inverse_squares():
    weights = weights_of("mgda", [[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    assert weights.tolist() == pytest.approx([36 / 49, 9 / 49, 4 / 49], abs=0.01)


@pytest.mark.parametrize("draw", range(4))
def test_mgda_of_three_gradients_is_as_short_as_the_shortest_on_a_grid(draw):
    gradients = random_gradients(draw)
    weights = weights_of("mgda", gradients)
    assert weights.min() >= 0
    assert weights.sum().item() == pytest.approx(1)
    grid = [torch.tensor([a, b, 50 - a - b]) / 50 for a in range(51) for b in range(51 - a)]
    shortest = min(float((one @ torch.tensor(gradients)).norm()) for one in grid)
    # The solver (Frank-Wolfe) stops at a step of a thousandth.
    assert float((weights @ torch.tensor(gradients)).norm()) <= 1.03 * shortest


# UPGrad


def test_upgrad_of_two_conflicting_gradients_is_the_mean_after_projection():
    assert weights_of("upgrad", CONFLICT).tolist() == pytest.approx([0.75, 1.0], rel=1e-3)


@pytest.mark.parametrize("gradients", [ALIKE, ORTHOGONAL])
def test_upgrad_without_conflict_is_the_mean(gradients):
    assert weights_of("upgrad", gradients).tolist() == pytest.approx([0.5, 0.5], rel=1e-3)


@pytest.mark.parametrize("draw", [None, *range(6)])
def test_a_step_of_upgrad_goes_against_no_task(draw):
    gradients = THREE if draw is None else random_gradients(draw, tasks=3, size=4)
    step = step_of("upgrad", gradients).tolist()
    lengths = [dot(one, one) ** 0.5 for one in gradients]
    for one, length in zip(gradients, lengths, strict=True):
        assert dot(step, one) >= -1e-3 * length * max(lengths)


def test_the_mean_goes_against_some_task_where_upgrad_does_not():
    mean = [sum(column) / 3 for column in zip(*THREE, strict=True)]
    assert min(dot(mean, one) for one in THREE) < 0


# All of them


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_tasks_that_ask_for_the_same_get_it(name):
    weights = weights_of(name, [[1.0, 2.0]] * 3)
    assert weights.sum().item() == pytest.approx(1, rel=1e-3)
    assert weights.dtype == torch.float32


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_of_two_do_not_depend_on_their_order(name):
    forward, backward = weights_of(name, CONFLICT), weights_of(name, CONFLICT[::-1])
    assert forward.tolist() == pytest.approx(backward.tolist()[::-1], rel=1e-5)


def test_every_aggregation_is_held_against_its_algorithm_here():
    assert set(WEIGHTINGS) == {"pcgrad", "mgda", "upgrad"}


@pytest.mark.parametrize("length", [1e-4, 1e-2, 1e3])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_do_not_depend_on_how_long_all_gradients_are(name, length):
    longer = [[length * number for number in one] for one in CONFLICT]
    assert weights_of(name, longer).tolist() == pytest.approx(
        weights_of(name, CONFLICT).tolist(), rel=1e-3)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_that_asks_for_nothing_is_left_out_and_the_others_are_weighed_without_it(name):
    with_nothing = [CONFLICT[0], [0.0, 0.0], CONFLICT[1]]
    weights = weights_of(name, with_nothing)
    assert weights[1] == 0
    # Two of three ask: a third of the sum of what two of two get by halves.
    assert weights[[0, 2]].tolist() == pytest.approx(
        (weights_of(name, CONFLICT) * 2 / 3).tolist())
    assert weights[[0, 2]].min() > 0  # MGDA too: it does not stand still


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("tasks", [1, 3])
def test_where_no_task_asks_for_anything_all_weights_are_0(name, tasks):
    assert weights_of(name, [[0.0, 0.0]] * tasks).tolist() == [0.0] * tasks


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_task_that_asks_alone_has_its_share_of_the_mean(name):
    assert weights_of(name, [[3.0, -4.0]]).tolist() == pytest.approx([1.0], rel=1e-3)
    assert weights_of(name, [[0.0, 0.0], [3.0, -4.0]]).tolist() == pytest.approx(
        [0.0, 0.5], rel=1e-3)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_generator_alone_decides_and_the_global_one_is_left_alone(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights_of(name, THREE, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weights_of(name, THREE, seed=7), first)


def test_successive_steps_of_one_generator_are_drawn_anew():
    generator = torch.Generator().manual_seed(0)
    gradients = gramian(torch.tensor(random_gradients(1)))
    drawn = [tuple(task_weights("pcgrad", gradients, generator).tolist()) for _ in range(12)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(("given", "words"), [
    ("pcgrd", ["aggregation 'pcgrd'", "did you mean 'pcgrad'"]),
    ("mean", ["aggregation 'mean'", "pcgrad, mgda, upgrad"]),
])
def test_an_unknown_name_is_refused(given, words):
    with pytest.raises(ModlibError) as error:
        weights_of(given, CONFLICT)
    assert [word for word in words if word not in str(error.value)] == []


# In the place of the mean


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_gradients_become_the_weighted_sum(name):
    gradients_TP = torch.tensor(random_gradients(3, tasks=3, size=7))
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    told = aggregate_gradients(name, gradients_TP, gramian(gradients_TP), parameters,
                               torch.Generator().manual_seed(4))
    weights = weights_of(name, gradients_TP.tolist(), seed=4).tolist()
    assert told.tolist() == weights
    expected = [sum(w * float(gradients_TP[t, p]) for t, w in enumerate(weights))
                for p in range(7)]
    given = [*parameters[0].grad.flatten().tolist(), *parameters[1].grad.tolist()]
    assert given == pytest.approx(expected, abs=1e-5)
    assert (parameters[0].grad.shape, parameters[1].grad.shape) == ((2, 2), (3,))


def test_a_log_of_steps_is_what_plain_arithmetic_says():
    log, expected = StepLog(), {"largest": [], "cosine": [], "uphill": []}
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradients_TP = rng.normal(size=(3, 8)) + 0.3
        weights_T, change_P = rng.random(3), rng.normal(size=8)
        log.add(*(torch.tensor(one, dtype=torch.float32) for one in (
            weights_T, gradients_TP @ gradients_TP.T, gradients_TP @ change_P)))
        step_P, mean_P = weights_T @ gradients_TP, gradients_TP.mean(0)
        expected["largest"].append(weights_T.max() / weights_T.sum())
        expected["cosine"].append(
            step_P @ mean_P / np.linalg.norm(step_P) / np.linalg.norm(mean_P))
        expected["uphill"].append(np.mean([one @ change_P > 0 for one in gradients_TP]))
    found = log.metrics(("a", "b", "c"))
    assert [found[name] for name in ("largest_weight", "cosine_to_mean", "tasks_uphill")] == [
        pytest.approx(np.mean(values), abs=1e-5) for values in expected.values()]
    assert StepLog().metrics(("a",)) == {}


def test_a_step_of_nothing_has_no_direction():
    log = StepLog()
    log.add(torch.zeros(2), torch.zeros(2, 2), torch.zeros(2))
    assert log.metrics(("a", "b")) == {
        "task_weights": {"a": 0.0, "b": 0.0}, "largest_weight": 0.0, "cosine_to_mean": 0.0,
        "tasks_uphill": 0.0}


def test_gradients_of_channels_last_parameters_keep_their_places():
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    gradients_TP = torch.randn(2, 24, generator=generator)
    weight.grad = gradients_TP.mean(0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    aggregate_gradients("mgda", gradients_TP, gramian(gradients_TP), [weight], generator)
    expected = weights_of("mgda", gradients_TP.tolist()) @ gradients_TP
    torch.testing.assert_close(weight.grad.contiguous(), expected.reshape(2, 3, 2, 2))
