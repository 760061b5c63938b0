"""The losses against obvious loops, in float32 and float64, and by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modlib.losses import (
    csn_penalty,
    joint_loss,
    relevance_regulariser,
    task_losses_from_triplets,
    task_losses_in_batch,
    triplet_losses,
)
from modlib.triplets import BatchTriplets, triplets_in_batch

DTYPES = [torch.float32, torch.float64]
MARGINS = [0.0, 0.2, 1.0, 4.0]


def unit_vectors(*shape: int, dtype=torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=dtype), dim=-1)


def loss_of_one(anchor, positive, negative, margin: float) -> float:
    to_positive = sum((float(a) - float(p)) ** 2 for a, p in zip(anchor, positive, strict=True))
    to_negative = sum((float(a) - float(n)) ** 2 for a, n in zip(anchor, negative, strict=True))
    return max(0.0, to_positive + margin - to_negative)


def batch_triplets(samples: int = 3, choice: str = "holders") -> BatchTriplets:
    """Six images; the third task has one holder, so no anchor by the holders' choice."""
    labels_BT = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]],
                             dtype=torch.bool)
    generator = torch.Generator().manual_seed(4)
    return triplets_in_batch(labels_BT, samples, choice, generator)


# Triplet losses


def test_hinge_by_hand():
    anchor, positive = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.6, 0.8]] * 3)
    negative = torch.tensor([[0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
    # |a − p|² = 0.16 + 0.64 = 0.8; |a − n|² = 2, 0.04 + 0.36 = 0.4, 4.
    expected = torch.tensor([0.0, 0.6, 0.0])
    torch.testing.assert_close(triplet_losses(anchor, positive, negative, 0.2), expected)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_triplet_losses_equal_a_loop(dtype, margin):
    anchor, positive, negative = unit_vectors(3, 8, 5, dtype=dtype)
    given = triplet_losses(anchor, positive, negative, margin)
    expected = [loss_of_one(anchor[k], positive[k], negative[k], margin) for k in range(8)]
    assert given.dtype == dtype
    torch.testing.assert_close(given, torch.tensor(expected, dtype=dtype))


def test_an_exact_tie_costs_the_margin():
    anchor, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert triplet_losses(anchor, other, other, 0.2).item() == pytest.approx(0.2)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_task_losses_from_triplets_are_each_tasks_mean(dtype, margin):
    embeddings_TK3D = unit_vectors(4, 6, 3, 5, dtype=dtype)
    given = task_losses_from_triplets(embeddings_TK3D, margin)
    expected = [sum(loss_of_one(*embeddings_TK3D[t, k], margin) for k in range(6)) / 6
                for t in range(4)]
    torch.testing.assert_close(given, torch.tensor(expected, dtype=dtype))


# Triplets inside a batch


def loop_over_batch(embeddings_TBD, triplets: BatchTriplets, margin: float) -> list[float]:
    task_losses = []
    for embeddings, positives, negatives, is_anchor in zip(
        embeddings_TBD, triplets.positive_TBS, triplets.negative_TBS, triplets.is_anchor_TB,
        strict=True,
    ):
        anchor_losses = []
        for b in range(len(embeddings)):
            if is_anchor[b]:
                losses = [loss_of_one(embeddings[b], embeddings[p], embeddings[n], margin)
                          for p, n in zip(positives[b], negatives[b], strict=True)]
                anchor_losses.append(sum(losses) / len(losses))
        task_losses.append(sum(anchor_losses) / len(anchor_losses) if anchor_losses else 0.0)
    return task_losses


@pytest.mark.parametrize("choice", ["holders", "symmetric"])
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_task_losses_in_batch_equal_a_loop(dtype, margin, choice):
    embeddings_TBD, triplets = unit_vectors(3, 6, 5, dtype=dtype), batch_triplets(3, choice)
    given = task_losses_in_batch(embeddings_TBD, triplets, margin)
    expected = loop_over_batch(embeddings_TBD, triplets, margin)
    assert given.dtype == dtype
    torch.testing.assert_close(given, torch.tensor(expected, dtype=dtype))


def test_one_embedding_for_all_tasks_may_be_an_expanded_view():
    embeddings_TBD, triplets = unit_vectors(1, 6, 5).expand(3, 6, 5), batch_triplets()
    torch.testing.assert_close(task_losses_in_batch(embeddings_TBD, triplets, 0.2),
                               task_losses_in_batch(embeddings_TBD.clone(), triplets, 0.2))


def test_both_ways_of_batching_give_the_same_loss_for_the_same_triplets():
    embeddings_TBD, triplets = unit_vectors(3, 6, 5), batch_triplets(samples=1)
    anchors = triplets.is_anchor_TB[0].nonzero().flatten()
    own = embeddings_TBD[0]
    embedded_1K3D = torch.stack([own[anchors], own[triplets.positive_TBS[0, anchors, 0]],
                                 own[triplets.negative_TBS[0, anchors, 0]]], dim=1)[None]
    torch.testing.assert_close(task_losses_in_batch(embeddings_TBD, triplets, 0.2)[0],
                               task_losses_from_triplets(embedded_1K3D, 0.2)[0])


def test_a_task_without_anchors_has_loss_0_and_gradient_0():
    embeddings_TBD = unit_vectors(3, 6, 5).requires_grad_()
    losses_T = task_losses_in_batch(embeddings_TBD, batch_triplets(), margin=4.0)
    losses_T.sum().backward()
    assert losses_T[2] == 0
    assert torch.equal(embeddings_TBD.grad[2], torch.zeros(6, 5, dtype=torch.float64))
    assert embeddings_TBD.grad[:2].abs().sum() > 0
    assert embeddings_TBD.grad.isfinite().all()


def test_a_tasks_loss_reaches_its_own_embeddings_alone():
    embeddings_TBD = unit_vectors(3, 6, 5).requires_grad_()
    task_losses_in_batch(embeddings_TBD, batch_triplets(), margin=4.0)[0].backward()
    assert embeddings_TBD.grad[0].abs().sum() > 0
    assert embeddings_TBD.grad[1:].abs().sum() == 0


def test_triplets_further_apart_than_the_margin_cost_nothing():
    labels_BT = torch.tensor([[1], [1], [0]], dtype=torch.bool)
    triplets = triplets_in_batch(labels_BT, 2, "holders", torch.Generator())
    embeddings_TBD = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert task_losses_in_batch(embeddings_TBD, triplets, margin=0.2).tolist() == [0.0]
    assert task_losses_in_batch(embeddings_TBD, triplets, margin=2.5).tolist() == [0.5]


# The mean over the triplets whose hinge is above 0


def mean_above_0(losses: list[float]) -> float:
    active = [loss for loss in losses if loss > 0]
    return sum(active) / len(active) if active else 0.0


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_active_mean_of_given_triplets_equals_a_loop(dtype, margin):
    embeddings_TK3D = unit_vectors(4, 6, 3, 5, dtype=dtype)
    given = task_losses_from_triplets(embeddings_TK3D, margin, mean="active")
    expected = [mean_above_0([loss_of_one(*embeddings_TK3D[t, k], margin) for k in range(6)])
                for t in range(4)]
    assert given.dtype == dtype
    torch.testing.assert_close(given, torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("choice", ["holders", "symmetric"])
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_active_mean_in_a_batch_equals_a_loop(dtype, margin, choice):
    embeddings_TBD, triplets = unit_vectors(3, 6, 5, dtype=dtype), batch_triplets(3, choice)
    given = task_losses_in_batch(embeddings_TBD, triplets, margin, mean="active")
    expected = []
    for t, own in enumerate(embeddings_TBD):
        expected.append(mean_above_0([
            loss_of_one(own[b], own[p], own[n], margin)
            for b in range(6) if triplets.is_anchor_TB[t, b]
            for p, n in zip(triplets.positive_TBS[t, b], triplets.negative_TBS[t, b],
                            strict=True)]))
    assert given.dtype == dtype
    torch.testing.assert_close(given, torch.tensor(expected, dtype=dtype))


def test_both_means_are_one_where_every_triplet_is_active_and_two_where_some_are_not():
    in_batch, given = unit_vectors(3, 6, 5), unit_vectors(4, 6, 3, 5)
    for losses in (lambda *rest: task_losses_in_batch(in_batch, batch_triplets(), *rest),
                   lambda *rest: task_losses_from_triplets(given, *rest)):
        torch.testing.assert_close(losses(4.0, "active"), losses(4.0, "all"))
        active, every = losses(0.2, "active"), losses(0.2, "all")
        assert (active >= every).all()
        assert (active > every).any()


@pytest.mark.parametrize("margin", MARGINS)
def test_the_mean_is_over_all_triplets_unless_told_otherwise(margin):
    in_batch, given = unit_vectors(3, 6, 5), unit_vectors(4, 6, 3, 5)
    assert torch.equal(task_losses_in_batch(in_batch, batch_triplets(), margin),
                       task_losses_in_batch(in_batch, batch_triplets(), margin, "all"))
    assert torch.equal(task_losses_from_triplets(given, margin),
                       task_losses_from_triplets(given, margin, "all"))


@pytest.mark.parametrize("mean", ["all", "active"])
def test_where_every_triplet_is_right_already_the_loss_is_0_and_so_is_the_gradient(mean):
    labels_BT = torch.tensor([[1], [1], [0]], dtype=torch.bool)
    triplets = triplets_in_batch(labels_BT, 2, "holders", torch.Generator())
    raw_TBD = torch.tensor([[[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]]]).requires_grad_()
    embeddings_TBD = F.normalize(raw_TBD, dim=-1)
    in_batch = task_losses_in_batch(embeddings_TBD, triplets, 0.2, mean)
    given = task_losses_from_triplets(embeddings_TBD[:, None], 0.2, mean)
    assert in_batch.tolist() == given.tolist() == [0.0]
    (in_batch + given).sum().backward()
    assert torch.equal(raw_TBD.grad, torch.zeros(1, 3, 2))


def test_gradients_of_the_active_mean():
    raw_TBD, triplets = unit_vectors(3, 6, 5).requires_grad_(), batch_triplets()
    assert torch.autograd.gradcheck(lambda x: task_losses_in_batch(
        F.normalize(x, dim=-1), triplets, 1.0, "active"), (raw_TBD,))


# Gradients


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_gradients_of_triplet_losses(margin):
    inputs = [vectors.clone().requires_grad_() for vectors in unit_vectors(3, 4, 5)]
    assert torch.autograd.gradcheck(lambda a, p, n: triplet_losses(a, p, n, margin), inputs)


@pytest.mark.parametrize("choice", ["holders", "symmetric"])
def test_gradients_of_task_losses_in_batch(choice):
    raw_TBD = unit_vectors(3, 6, 5).requires_grad_()
    triplets = batch_triplets(choice=choice)
    assert torch.autograd.gradcheck(
        lambda x: task_losses_in_batch(F.normalize(x, dim=-1), triplets, 1.0), (raw_TBD,))


def test_gradients_in_batch_equal_those_of_squared_distances():
    """The product form holds on the unit sphere; its gradient is the same through F.normalize."""
    raw_TBD, triplets = 3 * unit_vectors(1, 6, 5), batch_triplets(samples=2)

    def by_distances(x):
        own, losses = F.normalize(x[0], dim=-1), []
        for b in triplets.is_anchor_TB[0].nonzero().flatten():
            for p, n in zip(triplets.positive_TBS[0, b], triplets.negative_TBS[0, b], strict=True):
                losses.append(triplet_losses(own[b], own[p], own[n], 1.0))
        return torch.stack(losses).mean()

    first_task = BatchTriplets(triplets.positive_TBS[:1], triplets.negative_TBS[:1],
                               triplets.is_anchor_TB[:1])
    x, y = raw_TBD.clone().requires_grad_(), raw_TBD.clone().requires_grad_()
    task_losses_in_batch(F.normalize(x, dim=-1), first_task, 1.0).sum().backward()
    by_distances(y).backward()
    assert y.grad.abs().max() > 0.01
    torch.testing.assert_close(x.grad, y.grad)


# Eq. 8

SCALES_TC = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 1.0], [0.0, 2.0, 3.0]])
# |W_0 − W_1|² = 0 + 4 + 1 = 5; |W_0 − W_2|² = 1 + 0 + 9 = 10; |W_1 − W_2|² = 1 + 4 + 4 = 9.


@pytest.mark.parametrize(("related", "unrelated", "beta", "expected"), [
    ((0, 1), 2, 0.0, 0.0),
    ((0, 1), 2, 6.5, 1.5),
    ((0, 2), 1, 0.0, 5.0),
    ((0, 2), 1, 1.0, 6.0),
    ((1, 0), 2, 5.0, 1.0),
    ((2, 1), 0, 0.5, 0.0),
])
def test_equation_8_by_hand(related, unrelated, beta, expected):
    loss = relevance_regulariser(SCALES_TC, related, unrelated, beta)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)


def test_gradient_of_equation_8_by_hand():
    scales_TC = SCALES_TC.clone().requires_grad_()
    relevance_regulariser(scales_TC, (0, 1), 2, beta=6.0).backward()
    w_i, w_j, w_k = SCALES_TC
    expected = torch.stack([2 * (w_k - w_j), 2 * (w_j - w_i), 2 * (w_i - w_k)])
    torch.testing.assert_close(scales_TC.grad, expected)


def test_equation_8_at_rest_has_no_gradient():
    scales_TC = SCALES_TC.clone().requires_grad_()
    relevance_regulariser(scales_TC, (0, 1), 2, beta=4.0).backward()
    assert torch.equal(scales_TC.grad, torch.zeros(3, 3))


# The penalties of CSN

UNMASKED_BD = torch.tensor([[1.0, 2.0], [0.0, 4.0], [2.0, 0.0], [3.0, 1.0]])
# ‖E‖² = 1 + 4 + 16 + 4 + 9 + 1 = 35, of four images
MASKS_TD = torch.tensor([[0.5, 1.0], [0.0, 2.0], [0.25, 0.75]])  # sums 1.5, 2 and 1


@pytest.mark.parametrize(("length", "sparsity", "expected"), [
    (1.0, 0.0, 35 ** 0.5 / 2), (0.0, 1.0, 1.5), (0.5, 2.0, 35 ** 0.5 / 4 + 3.0), (0.0, 0.0, 0.0),
])
def test_penalties_of_csn_by_hand(length, sparsity, expected):
    penalty = csn_penalty(UNMASKED_BD, MASKS_TD, length, sparsity)
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(expected)


@pytest.mark.parametrize(("images", "tasks", "size"), [(1, 1, 1), (3, 4, 5), (8, 2, 3)])
def test_penalties_of_csn_equal_a_loop(images, tasks, size):
    generator = torch.Generator().manual_seed(images)
    unmasked_BD = torch.randn(images, size, generator=generator)
    masks_TD = torch.randn(tasks, size, generator=generator)
    squares = sum(float(number) ** 2 for image in unmasked_BD for number in image)
    of_masks = [sum(abs(float(number)) for number in mask) for mask in masks_TD]
    expected = 0.3 * (squares / images) ** 0.5 + 0.7 * sum(of_masks) / tasks
    assert csn_penalty(unmasked_BD, masks_TD, 0.3, 0.7).item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_on_length_does_not_depend_on_how_often_a_batch_is_repeated():
    once, twice = (csn_penalty(UNMASKED_BD.repeat(times, 1), MASKS_TD, 1.0, 0.0).item()
                   for times in (1, 2))
    assert once == pytest.approx(twice)


def test_gradient_of_the_penalties_of_csn_by_hand():
    unmasked_BD, masks_TD = UNMASKED_BD.clone().requires_grad_(), MASKS_TD.clone().requires_grad_()
    csn_penalty(unmasked_BD, masks_TD, 0.5, 3.0).backward()
    torch.testing.assert_close(unmasked_BD.grad, 0.5 * UNMASKED_BD / 35 ** 0.5 / 2)
    torch.testing.assert_close(masks_TD.grad, MASKS_TD.sign())


def test_penalties_of_csn_are_float32_of_bfloat16_embeddings():
    exact = csn_penalty(UNMASKED_BD, MASKS_TD, 1.0, 1.0)
    given = csn_penalty(UNMASKED_BD.bfloat16(), MASKS_TD, 1.0, 1.0)
    assert given.dtype == torch.float32
    assert given.item() == pytest.approx(exact.item())  # these numbers are exact in bfloat16


@pytest.mark.parametrize(("shared", "expected"), [(True, [0.5, 0.5]), (False, [1.0, 1.0])])
def test_tasks_that_share_nothing_learn_as_if_alone(shared, expected):
    """Each loss then moves its own network as far as it would with one task."""
    losses_T = torch.tensor([3.0, 5.0], requires_grad=True)
    joint_loss(losses_T, shared).backward()
    assert losses_T.grad.tolist() == expected
