"""Task gradients against separate backward passes; UCR and its interval by hand."""

from math import isnan, sqrt

import numpy as np
import pytest
import torch
from slow_networks import EVERY, in_float64, pixels, small, stages_of_tasks

from modlib.errors import ModlibError
from modlib.gradients import (
    UcrCounter,
    cosines,
    gramian,
    stage_gramians,
    task_gradients,
    trunk_output_gramian,
    update_compliance_ratio,
    wilson,
)
from modlib.losses import task_losses_in_batch
from modlib.networks import build_network
from modlib.triplets import BatchTriplets, triplets_in_batch

TASKS = ("Smiling", "Young", "Bald")
# parallel to the first, opposite to it, orthogonal to it, zero
GRADIENTS_TP = torch.tensor(
    [[3.0, 0.0, 4.0], [6.0, 0.0, 8.0], [-3.0, 0.0, -4.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])


# Task gradients


def joint_batch_losses(system: str):
    """A small network in train mode and its task losses on one batch, the same at every call."""
    network = build_network(system, TASKS, image_size=48, width=0.15, embedding_size=12, seed=1)
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (10, 3, 48, 48), generator=generator, dtype=torch.uint8)
    labels_BT = torch.rand(10, 3, generator=generator) < 0.5
    triplets = triplets_in_batch(labels_BT, 4, "holders", generator)
    return network, task_losses_in_batch(network.embed_all_tasks(images), triplets, margin=1.0)


@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_task_gradients_equal_a_backward_pass_a_task(system):
    network, losses_T = joint_batch_losses(system)
    given = task_gradients(losses_T, network.shared_parameters())
    for task in range(3):
        fresh, losses = joint_batch_losses(system)
        losses[task].backward()
        expected = torch.cat([p.grad.flatten() for p in fresh.stages.parameters()])
        assert expected.norm() > 0
        assert (given[task] - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("system", ["fully_shared", "modulated"])
def test_task_gradients_are_a_plain_loops_to_the_last_bit(system):
    network, losses_T = joint_batch_losses(system)
    shared, rows = network.shared_parameters(), []
    for loss in losses_T:
        gradients = torch.autograd.grad(loss, shared, retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert torch.equal(task_gradients(losses_T, shared), torch.stack(rows))


def test_task_gradients_sum_to_the_gradient_of_the_summed_loss():
    network, losses_T = joint_batch_losses("modulated")
    given = task_gradients(losses_T, network.shared_parameters()).sum(0)
    losses_T.sum().backward()
    expected = torch.cat([p.grad.flatten() for p in network.shared_parameters()])
    assert (given - expected).norm() <= 1e-5 * expected.norm()


def test_task_gradients_leave_grad_alone_and_the_graph_usable():
    network, losses_T = joint_batch_losses("modulated")
    task_gradients(losses_T, network.shared_parameters())
    assert all(p.grad is None for p in network.parameters())
    losses_T.mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_gradient_is_zero_where_a_loss_does_not_depend_on_a_parameter():
    a, b, unused = (torch.nn.Parameter(torch.tensor(values))
                    for values in ([1.0, 2.0], [[3.0]], [4.0, 5.0]))
    losses_T = torch.stack([a.square().sum(), (a[0] * b).sum(), b.sum()])
    expected = torch.tensor([[2.0, 4, 0, 0, 0], [3, 0, 0, 0, 1], [0, 0, 0, 0, 1]])
    assert torch.equal(task_gradients(losses_T, [a, unused, b]), expected)


def test_task_gradients_are_float32():
    a = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert task_gradients(a.sum()[None], [a]).dtype == torch.float32


def test_independent_networks_have_no_task_gradients_to_compare():
    network, losses_T = joint_batch_losses("independent")
    with pytest.raises(ModlibError, match=r"no shared parameters.*independent"):
        task_gradients(losses_T, network.shared_parameters())


# Gradients over the trunk's output

LABELS_BT = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]]) == 1


def losses_in_batch(embeddings_TBD: torch.Tensor, tasks: slice = slice(None)) -> torch.Tensor:
    """The losses of some tasks on six images, with the same triplets at every call."""
    drawn = triplets_in_batch(LABELS_BT, 3, "holders", torch.Generator().manual_seed(4))
    triplets = BatchTriplets(
        drawn.positive_TBS[tasks], drawn.negative_TBS[tasks], drawn.is_anchor_TB[tasks])
    return task_losses_in_batch(embeddings_TBD, triplets, margin=1.0)


def embed_for_one_task(network, features, task: int, stages_of_tasks: tuple[str, ...]):
    """From the trunk's output on, stage by stage, as ``forward`` goes for images of one task."""
    task_B, names = torch.full((len(features),), task), list(network.stages)
    first, x = names.index((*stages_of_tasks, "fc")[0]), features
    for name in names[first:]:
        x = x if name == names[first] else network.stages[name](x)
        x = network.modulation[name](x, task_B) if name in stages_of_tasks else x
    return torch.nn.functional.normalize(x.float(), dim=1)


@pytest.mark.parametrize(("system", "modulate_from"), [
    (system, block) for system, block in EVERY if system != "independent"])
def test_trunk_output_gramian_in_eval_mode_equals_a_task_at_a_time(system, modulate_from):
    network, images = in_float64(small(system, modulate_from=modulate_from)).eval(), pixels(6)
    given = trunk_output_gramian(network, images, losses_in_batch)
    rows = []
    for task in range(3):
        features = network.trunk_output(images).detach().requires_grad_()
        embeddings = embed_for_one_task(
            network, features, task, stages_of_tasks(system, modulate_from))
        [loss] = losses_in_batch(embeddings[None], slice(task, task + 1))
        rows.append(torch.autograd.grad(loss, features)[0].flatten().float())
    expected = gramian(torch.stack(rows))
    assert expected.diagonal().min() > 0
    assert given.dtype == torch.float32
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_trunk_output_gramian_leaves_no_gradient_on_parameters(mode):
    network = small("modulated").train(mode == "train")
    given = trunk_output_gramian(network, pixels(6), losses_in_batch)
    assert given.diagonal().min() > 0
    assert all(p.grad is None for p in network.parameters())


# Gramian and cosines


def test_gramian_equals_a_double_loop():
    rows = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    expected = [[sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) for b in rows]
                for a in rows]
    given = gramian(torch.from_numpy(rows))
    assert given.dtype == torch.float32
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_gramian_and_cosines_by_hand():
    expected = torch.tensor([[25.0, 50, -25, 0, 0], [50, 100, -50, 0, 0], [-25, -50, 25, 0, 0],
                             [0, 0, 0, 4, 0], [0, 0, 0, 0, 0]])
    assert torch.equal(gramian(GRADIENTS_TP), expected)
    assert torch.equal(cosines(expected), expected.sign())


def test_cosine_of_45_degrees():
    given = cosines(gramian(torch.tensor([[1.0, 0.0], [5.0, 5.0]])))
    assert given[0, 1].item() == pytest.approx(sqrt(0.5))
    assert given[1, 0] == given[0, 1]


def test_cosines_of_large_and_small_gradients_are_finite_and_within_1():
    rows = torch.tensor([[1e6, 1e6, 1e5], [1e-6, 1e-6, 1e-7], [-1e-6, -1e-6, -1e-7]])
    given = cosines(gramian(rows))
    assert given.abs().max() <= 1
    torch.testing.assert_close(given, torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]))


# The Gramian's summands, stage by stage


def test_stage_gramians_by_hand():
    given = stage_gramians(GRADIENTS_TP, [1, 2])
    first = [[9.0, 18, -9, 0, 0], [18, 36, -18, 0, 0], [-9, -18, 9, 0, 0],
             [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    second = [[16.0, 32, -16, 0, 0], [32, 64, -32, 0, 0], [-16, -32, 16, 0, 0],
              [0, 0, 0, 4, 0], [0, 0, 0, 0, 0]]
    assert torch.equal(given, torch.tensor([first, second]))


@pytest.mark.parametrize("sizes", [[50], [7, 1, 30, 12], (20, 30), {"a": 49, "b": 1}.values()])
def test_the_sum_over_stages_is_the_gramian(sizes):
    gradients_TP = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    given = stage_gramians(gradients_TP, sizes)
    assert (given.shape, given.dtype) == ((len(sizes), 4, 4), torch.float32)
    torch.testing.assert_close(given.sum(0), gramian(gradients_TP), rtol=1e-5, atol=1e-5)


def test_stage_gramians_equal_a_loop_over_the_stages_parameters():
    rows, sizes = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32), [5, 12, 3]
    given, start = stage_gramians(torch.from_numpy(rows), sizes), 0
    for stage, size in enumerate(sizes):
        own = rows[:, start:start + size].tolist()
        expected = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in own] for a in own]
        np.testing.assert_allclose(given[stage].numpy(), expected, rtol=1e-5, atol=1e-5)
        start += size


# Counting


def counted() -> UcrCounter:
    """Four batches of three tasks; the third task's gradient is zero in two of them."""
    counter = UcrCounter(3)
    for rows in (
        [[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]],  # 01: +, 02: −, 12: 0 at a right angle
        [[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]],  # 01: −, 02: 0, 12: 0
        [[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]],  # 01: +, 02: 0, 12: 0
        [[1.0, 0.0], [2.0, 0.0], [2.0, 0.0]],  # 01: +, 02: +, 12: +
    ):
        counter.add(gramian(torch.tensor(rows)))
    return counter


def test_counts_by_hand():
    counter = counted()
    assert counter.positive_TT.tolist() == [[4, 3, 1], [3, 4, 1], [1, 1, 2]]
    assert counter.negative_TT.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert counter.zero_TT.tolist() == [[0, 0, 2], [0, 0, 3], [2, 3, 2]]


def test_counts_add_up_to_the_batches():
    counter = counted()
    assert counter.batches == 4
    total = counter.positive_TT + counter.negative_TT + counter.zero_TT
    assert total.tolist() == [[4] * 3] * 3


def test_cosines_are_summed_over_batches():
    counter = counted()
    assert counter.cosine_sum_TT[0, 1] == pytest.approx(sqrt(0.5) - 1 + 1 + 1)
    assert counter.cosine_sum_TT[1, 2] == pytest.approx(1)


def test_pairs_are_listed_once_with_names_counts_and_mean_cosine():
    pairs = counted().pairs(TASKS)
    assert [pair["tasks"] for pair in pairs] == [
        ["Smiling", "Young"], ["Smiling", "Bald"], ["Young", "Bald"]]
    assert [(p["positive"], p["negative"], p["zero"]) for p in pairs] == [
        (3, 1, 0), (1, 1, 2), (1, 0, 3)]
    assert [p["mean_cosine"] for p in pairs] == pytest.approx(
        [(sqrt(0.5) + 1) / 4, (1 - sqrt(0.5)) / 4, 1 / 4])


def test_pairs_of_nothing_counted_are_zeros():
    assert UcrCounter(2).pairs(("a", "b")) == [
        {"tasks": ["a", "b"], "positive": 0, "negative": 0, "zero": 0, "mean_cosine": 0.0}]


def test_an_epochs_metrics_hold_the_pairs_where_there_are_any():
    assert counted().metrics(TASKS) == {"ucr_batches": 4, "ucr": counted().pairs(TASKS)}
    assert UcrCounter(3).metrics(TASKS) == {"ucr_batches": 0, "ucr": []}


def test_a_task_without_anchors_counts_as_zero():
    network, losses_T = joint_batch_losses("modulated")
    counter = UcrCounter(3)
    losses_T = losses_T * torch.tensor([1.0, 1.0, 0.0])
    counter.add(gramian(task_gradients(losses_T, network.shared_parameters())))
    assert counter.zero_TT.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("ask", [
    lambda counter: counter.positive_TT, lambda counter: counter.negative_TT,
    lambda counter: counter.zero_TT, lambda counter: counter.pairs(TASKS)])
def test_a_gramian_that_is_not_finite_is_refused_when_counts_are_asked_for(number, ask):
    counter = counted()
    counter.add(torch.full((3, 3), number))
    assert counter.batches == 5
    with pytest.raises(ModlibError, match="gradient is not finite"):
        ask(counter)


def counted_by_stage() -> UcrCounter:
    """Three batches of two tasks on two stages of one and two parameters."""
    counter = UcrCounter(2)
    for rows in (
        [[1.0, 2.0, 0.0], [1.0, -3.0, 0.0]],  # 01: 1 and −6
        [[1.0, 2.0, 1.0], [0.0, 1.0, 1.0]],  # 01: 0 and 3; the second task's first is zero
        [[1.0, 1.0, 1.0], [2.0, 1.0, -2.0]],  # 01: 2 and −1
    ):
        gradients_TP = torch.tensor(rows)
        counter.add(gramian(gradients_TP), stage_gramians(gradients_TP, [1, 2]))
    return counter


def test_stage_counts_by_hand():
    positive_STT, negative_STT = counted_by_stage().stage_counts()
    assert positive_STT.tolist() == [[[3, 2], [2, 2]], [[3, 1], [1, 3]]]
    assert negative_STT.tolist() == [[[0, 0], [0, 0]], [[0, 2], [2, 0]]]


def test_counting_stages_apart_leaves_the_counts_of_the_whole_as_they_are():
    counter = counted_by_stage()  # 01: −5, 3 and 1
    assert counter.batches == 3
    assert counter.positive_TT.tolist() == [[3, 2], [2, 3]]
    assert counter.negative_TT.tolist() == [[0, 1], [1, 0]]
    assert counted().stages == []


# The ratio and its interval


def test_ucr_with_and_without_zeros():
    with_zeros = update_compliance_ratio(positive=3, negative=1, zero=4, with_zeros=True)
    without = update_compliance_ratio(positive=3, negative=1, zero=4, with_zeros=False)
    assert (with_zeros.value, with_zeros.count) == (3 / 8, 8)
    assert (without.value, without.count) == (3 / 4, 4)
    assert with_zeros == wilson(3, 8)
    assert without == wilson(3, 4)


def test_ucr_of_zeros_alone_is_0_with_them_and_nan_without():
    assert update_compliance_ratio(0, 0, 5, with_zeros=True).value == 0
    without = update_compliance_ratio(0, 0, 5, with_zeros=False)
    assert isnan(without.value)
    assert (without.low, without.high, without.count) == (0, 1, 0)


@pytest.mark.parametrize(("successes", "trials", "low", "high"), [
    (0, 10, 0.0, 0.2775),
    (5, 10, 0.2366, 0.7634),
    (10, 10, 0.7225, 1.0),
    # Newcombe, 1998, Table I, method 3
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
])
def test_wilson_interval_equals_published_values(successes, trials, low, high):
    ratio = wilson(successes, trials)
    assert (ratio.value, ratio.count) == (successes / trials, trials)
    assert ratio.low == pytest.approx(low, abs=5e-5)
    assert ratio.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("z", [1.0, 1.959964, 2.575829])
@pytest.mark.parametrize(("successes", "trials"), [(1, 1), (3, 8), (7, 50), (499, 500)])
def test_wilson_bounds_lie_z_deviations_from_the_observed_share(successes, trials, z):
    ratio = wilson(successes, trials, z)
    for bound in {ratio.low, ratio.high} - {0.0, 1.0}:
        deviation = sqrt(bound * (1 - bound) / trials)
        assert abs(ratio.value - bound) == pytest.approx(z * deviation)
    assert ratio.low < ratio.high


@pytest.mark.parametrize("trials", [1, 2, 7, 30, 1000])
def test_wilson_interval_holds_its_value_and_stays_within_0_and_1(trials):
    for successes in range(trials + 1):
        ratio = wilson(successes, trials)
        assert 0 <= ratio.low <= ratio.value <= ratio.high <= 1


def test_nothing_counted_gives_nan_and_the_widest_interval():
    ratio = wilson(0, 0)
    assert isnan(ratio.value)
    assert (ratio.low, ratio.high, ratio.count) == (0, 1, 0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 10), (11, 10), (1, 0)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ModlibError, match=f"successes must be 0 to {trials}; given {successes}"):
        wilson(successes, trials)
