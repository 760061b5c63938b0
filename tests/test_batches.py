"""An epoch's batches: drawn from seed and epoch alone, labelled as the data are, half mirrored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modlib import batches
from modlib.batches import (
    batches_in_epoch,
    draw_batches,
    flip_some,
    image_getter,
    shift_images,
)
from modlib.triplets import epoch_batches

CPU = torch.device("cpu")


def drawn(data, settings, epoch):
    """An epoch's images and labels, and the state that its in-batch triplets are drawn from."""
    every = list(draw_batches(data, image_getter(data, CPU), settings, epoch))
    return (torch.stack([images for images, _, _ in every]),
            torch.stack([labels for _, labels, _ in every]), every[0][2].get_state())


# Images

def test_pixels_come_in_the_order_asked_for(planted):
    images = image_getter(planted, CPU)(torch.tensor([5, 2, 5]))
    assert np.array_equal(images.numpy(), planted.images_NCHW[[5, 2, 5]])


def test_pixels_moved_to_a_device_are_the_same(planted):
    get_images = image_getter(planted, torch.device("meta"))  # any that is not the CPU
    images = get_images(torch.tensor([5, 2, 5]))
    assert (images.device.type, images.shape, images.dtype) == ("meta", (3, 3, 48, 48), torch.uint8)


def test_a_flipped_image_is_its_mirror_and_the_others_stay(planted):
    images = torch.from_numpy(planted.images_NCHW.copy())
    flipped = flip_some(images, np.random.default_rng(0))
    stayed = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    assert [a != b for a, b in zip(stayed, mirrored, strict=True)] == [True] * 90
    assert 30 < sum(mirrored) < 60


def test_flips_depend_on_the_random_state_alone(planted):
    images = torch.from_numpy(planted.images_NCHW.copy())
    first, again, other = (flip_some(images, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_flipped_only_when_asked_for(tiny, planted, monkeypatch, flip):
    flipped = []
    monkeypatch.setattr(
        batches, "flip_some", lambda images, rng: flipped.append(len(images)) or images)
    drawn(planted, replace(tiny, horizontal_flip=flip), 0)
    assert flipped == ([18] * 2 if flip else [])


# Batches

@pytest.mark.parametrize("epoch", [0, 3])
def test_a_batch_is_the_images_and_labels_of_its_triplets_in_their_order(tiny, planted, epoch):
    """Task by task, triplet by triplet: anchor, positive, negative."""
    settings = replace(tiny, seed=5, horizontal_flip=False)
    rng = np.random.default_rng([5, epoch])
    triplets = epoch_batches(
        planted.labels_NT, planted.indices("train"), tiny.tasks, 2, 2, "holders", rng)
    images, labels, _ = drawn(planted, settings, epoch)
    for batch in range(2):
        rows = [int(n) for task in triplets[batch] for triplet in task for n in triplet]
        assert len(rows) == 18
        for b, n in enumerate(rows):
            assert np.array_equal(images[batch, b], planted.images_NCHW[n])
            assert labels[batch, b].tolist() == planted.labels_NT[n].tolist()
        held = labels[batch].reshape(3, 2, 3, 3)
        for task in range(3):
            assert held[task, :, :, task].tolist() == [[True, True, False]] * 2


def test_mirroring_changes_images_and_neither_their_choice_nor_their_labels(tiny, planted):
    mirrored, labels, state = drawn(planted, replace(tiny, batches_per_epoch=1), 0)
    plain, same_labels, same_state = drawn(
        planted, replace(tiny, batches_per_epoch=1, horizontal_flip=False), 0)
    assert torch.equal(labels, same_labels)
    assert torch.equal(state, same_state)
    changed = [not torch.equal(a, b) for a, b in zip(mirrored[0], plain[0], strict=True)]
    assert 2 < sum(changed) < 16
    for a, b in zip(mirrored[0], plain[0], strict=True):
        assert torch.equal(a, b) or torch.equal(a, b.flip(2))


def test_an_epochs_batches_can_be_drawn_again(tiny, planted):
    for one, again in zip(drawn(planted, tiny, 3), drawn(planted, tiny, 3), strict=True):
        assert torch.equal(one, again)


def test_every_epoch_draws_anew(tiny, planted):
    for one, other in zip(drawn(planted, tiny, 0), drawn(planted, tiny, 1), strict=True):
        assert not torch.equal(one, other)


def test_another_seed_draws_other_batches(tiny, planted):
    other_seed = replace(tiny, seed=1)
    for one, other in zip(drawn(planted, tiny, 0), drawn(planted, other_seed, 0), strict=True):
        assert not torch.equal(one, other)


def test_no_two_of_the_first_seeds_and_epochs_draw_the_same(tiny, planted):
    states = [drawn(planted, replace(tiny, seed=seed, batches_per_epoch=1), epoch)[2].tolist()
              for seed in range(3) for epoch in range(4)]
    assert len({tuple(state) for state in states}) == 12


# How many

def test_an_epoch_has_as_many_batches_as_are_set(tiny, planted):
    settings = replace(tiny, batches_per_epoch=7)
    assert batches_in_epoch(planted, settings) == 7
    assert len(drawn(planted, settings, 0)[0]) == 7


def test_an_epoch_is_as_long_as_the_first_tasks_holders_last(tiny, planted):
    settings = replace(tiny, batches_per_epoch=None)
    holders = sum(bool(planted.labels_NT[n, 0]) for n in planted.indices("train"))
    assert batches_in_epoch(planted, settings) == holders // 2  # triplets of a task in a batch
    assert len(drawn(planted, settings, 0)[0]) == holders // 2


def test_an_epoch_has_one_batch_where_there_are_fewer_holders_than_triplets(tiny, planted):
    assert batches_in_epoch(planted, replace(tiny, batches_per_epoch=None, batch_size=900)) == 1


def test_shifted_images_are_windows_of_the_mirrored_image():
    images_BCHW = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    shifted = shift_images(images_BCHW, 2, np.random.default_rng(4))
    offsets = np.random.default_rng(4).integers(0, 5, (2, 2))
    for b, (row, column) in enumerate(offsets.T):
        padded = np.pad(images_BCHW[b].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        assert shifted[b].tolist() == padded[:, row:row + 5, column:column + 5].tolist()


def test_no_shift_leaves_images_as_they_are():
    images_BCHW = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8)
    assert torch.equal(shift_images(images_BCHW, 0, np.random.default_rng(0)), images_BCHW)
