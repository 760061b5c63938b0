"""Triplet accuracy against a loop; embedding in batches against embedding at once."""

from hashlib import sha256

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.evaluation import (
    embed_images,
    triplet_accuracy,
    triplet_successes,
    triplets_digest,
)
from modlib.networks import SYSTEMS, build_network
from modlib.task_networks import Network

TASKS = ("Smiling", "Young")
IMAGES = torch.randint(
    0, 256, (7, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
EVERY = torch.arange(7)


def small(system: str = "modulated") -> Network:
    """A small network that has seen a batch and whose tasks' scales differ."""
    network = build_network(
        system, TASKS, image_size=48, width=0.15, embedding_size=12, branch_size=12, bn_decay=0.5)
    if system == "modulated":
        nn.init.constant_(network.modulation["fc"].weight[1, :6], 0.2)
    with torch.no_grad():
        network.embed_all_tasks(IMAGES)
    return network


def from_memory(indices: Tensor) -> Tensor:
    return IMAGES[indices]


# Embedding


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("system", SYSTEMS)
def test_embedding_in_batches_equals_one_big_batch(system, batch_size):
    network = small(system)
    given = embed_images(network, from_memory, EVERY, batch_size=batch_size)
    with torch.no_grad():
        expected = network.eval().embed_all_tasks(IMAGES)
    assert given.shape == (2, 7, 12)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def out_of_memory_above(most: int, seen: list[int]):
    """As ``from_memory`` of 64 images, on a device with room for so many at a time."""
    def get_images(indices: Tensor) -> Tensor:
        seen.append(len(indices))
        if len(indices) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return from_memory(indices % 7)

    return get_images


def test_with_too_little_memory_smaller_batches_are_embedded():
    network, seen = small().train(), []
    every = embed_images(network, lambda indices: from_memory(indices % 7), torch.arange(64))
    given = embed_images(network, out_of_memory_above(20, seen), torch.arange(64), batch_size=64)
    assert seen == [64, 32, 16, 16, 16, 16]
    torch.testing.assert_close(given, every, rtol=1e-4, atol=1e-5)
    assert network.training


def test_with_too_little_for_a_few_images_it_is_said_with_what_helps():
    network, seen = small().train(), []
    with pytest.raises(ModlibError, match="out of memory for embeddings of 64 images, 16 at a time,"
                                          " whatever the batch_size of the training: try a device"):
        embed_images(network, out_of_memory_above(7, seen), torch.arange(64), batch_size=64)
    assert seen == [64, 32, 16] and network.training


def test_another_error_is_not_tried_again():
    def broken(indices):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        embed_images(small(), broken, EVERY)


def test_embeddings_follow_the_order_of_the_indices():
    network, indices = small(), torch.tensor([5, 0, 5, 2, 6])
    every = embed_images(network, from_memory, EVERY)
    given = embed_images(network, from_memory, indices, batch_size=2)
    torch.testing.assert_close(given, every[:, indices], rtol=1e-4, atol=1e-5)


def test_images_are_fetched_batch_by_batch_each_once():
    fetched = []

    def get_images(indices):
        fetched.append(indices.tolist())
        return IMAGES[indices]

    embed_images(small(), get_images, EVERY, batch_size=3)
    assert fetched == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_networks_mode_is_restored(system, training):
    network = small(system).train(training)
    before = [module.training for module in network.modules()]
    embed_images(network, from_memory, EVERY)
    assert network.training is training
    assert [module.training for module in network.modules()] == before


@pytest.mark.parametrize("system", SYSTEMS)
def test_running_statistics_and_weights_are_left_alone(system):
    network = small(system)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    embed_images(network, from_memory, EVERY, batch_size=3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_embeddings_carry_no_graph():
    assert not embed_images(small(), from_memory, EVERY).requires_grad


def test_bfloat16_rounds_inside_and_gives_float32_of_length_1():
    network = small()
    exact = embed_images(network, from_memory, EVERY, "float32")
    rounded = embed_images(network, from_memory, EVERY, "bfloat16")
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=-1), torch.ones(2, 7))
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.05


# Accuracy


def random_case() -> tuple[Tensor, Tensor, list[list[bool]]]:
    """Embeddings, triplets, and which of them a loop finds correct."""
    generator = torch.Generator().manual_seed(1)
    embeddings_TND = torch.randn(3, 8, 4, generator=generator)
    triplets_TK3 = torch.randint(0, 8, (3, 50, 3), generator=generator)
    correct = []
    for embeddings, triplets in zip(embeddings_TND.tolist(), triplets_TK3.tolist(), strict=True):
        correct.append([])
        for a, p, n in triplets:
            to_positive = sum((x - y) ** 2 for x, y in zip(embeddings[a], embeddings[p],
                                                           strict=True))
            to_negative = sum((x - y) ** 2 for x, y in zip(embeddings[a], embeddings[n],
                                                           strict=True))
            correct[-1].append(to_positive < to_negative)
    return embeddings_TND, triplets_TK3, correct


def test_triplet_accuracy_equals_a_loop():
    embeddings_TND, triplets_TK3, correct = random_case()
    expected = [sum(of_task) / 50 for of_task in correct]
    given = triplet_accuracy(embeddings_TND, triplets_TK3)
    assert given.dtype == torch.float64
    assert given.tolist() == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1


def test_triplet_successes_equal_a_loop():
    embeddings_TND, triplets_TK3, correct = random_case()
    given = triplet_successes(embeddings_TND, triplets_TK3)
    assert given.dtype == torch.bool
    assert given.tolist() == correct


def test_a_tie_fails():
    embeddings_TND = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]])
    triplets = [[0, 1, 2], [0, 2, 1], [0, 1, 1]]  # all at distance 1
    assert triplet_accuracy(embeddings_TND, torch.tensor([triplets])).tolist() == [0.0]
    triplets += [[0, 1, 3]]  # 1 against 2
    assert triplet_accuracy(embeddings_TND, torch.tensor([triplets])).tolist() == [0.25]


def test_embeddings_that_are_all_alike_score_0():
    triplets_TK3 = torch.tensor([[[0, 1, 2], [1, 2, 3]]])
    assert triplet_accuracy(torch.ones(1, 4, 5), triplets_TK3).tolist() == [0.0]


def test_each_task_is_judged_on_its_own_embeddings_and_triplets():
    near, far = [[0.0], [1.0], [5.0]], [[0.0], [5.0], [1.0]]
    triplets = [[0, 1, 2]]
    given = triplet_accuracy(torch.tensor([near, far, near]),
                             torch.tensor([triplets, triplets, [[0, 2, 1]]]))
    assert given.tolist() == [1.0, 0.0, 0.0]


# The triplets' digest

TRIPLETS = [[[0, 1, 2], [3, 0, 1]], [[4, 2, 0], [2, 4, 70_000]]]


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_the_digest_is_of_the_positions_as_four_bytes_each(dtype):
    positions = [n for of_task in TRIPLETS for triplet in of_task for n in triplet]
    content = b"".join(n.to_bytes(4, "little") for n in positions)
    assert triplets_digest(np.array(TRIPLETS, dtype)) == sha256(content).hexdigest()[:16]


def test_the_digest_that_records_hold_does_not_change():
    assert triplets_digest(np.array([[[0, 1, 2], [3, 0, 1]]])) == "dd901e55986d7c90"


def test_another_image_or_order_is_another_digest():
    triplets_TK3 = np.array(TRIPLETS)
    replaced = triplets_TK3.copy()
    replaced[1, 1, 2] += 1
    others = [triplets_TK3, replaced, triplets_TK3[::-1], triplets_TK3[:, ::-1],
              triplets_TK3[:, :, [0, 2, 1]]]
    assert len({triplets_digest(other) for other in others}) == 5
