"""An epoch's batches: drawn from seed and epoch alone, labelled as the data are, half mirrored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modlib import batches
from modlib.batches import (
    batches_in_epoch,
    draw_batches,
    flip_some,
    image_getter,
    jitter_colours,
    shift_images,
    shuffled_batches,
    zoom_images,
)
from modlib.errors import ModlibError
from modlib.packed_images import release_pages
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


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_images_that_do_not_fit_on_a_gpu_are_said_with_what_helps(planted, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(ModlibError, match=r"the 90 images of 48×48 pixels, 0\.0 GB .* no "
                                          r"batch_size changes that: try a smaller image_size"):
        image_getter(planted, torch.device("meta"))


def test_another_error_of_the_move_stays_as_it_is(planted, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.Tensor, "to", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        image_getter(planted, torch.device("meta"))


def mapped(images: np.ndarray, path: Path, mode: str = "r") -> np.memmap:
    """The images in a file, as a memory map."""
    path.write_bytes(images.tobytes())
    return np.memmap(path, images.dtype, mode, shape=images.shape)


def test_pages_of_a_memory_map_are_let_go_after_every_batch(planted, tmp_path, monkeypatch):
    data = replace(planted, images_NCHW=mapped(planted.images_NCHW, tmp_path / "images"))
    let_go = []
    monkeypatch.setattr(
        batches, "release_pages", lambda images: let_go.append(images) or release_pages(images))
    get_images = image_getter(data, CPU)
    for first in range(0, 90, 2):
        images = get_images(torch.tensor([first, 89 - first]))
        assert np.array_equal(images, planted.images_NCHW[[first, 89 - first]])
        assert len(let_go) == first // 2 + 1
    assert all(images is data.images_NCHW for images in let_go)


def test_images_that_were_read_outlast_the_pages_they_came_from(planted, tmp_path):
    data = replace(planted, images_NCHW=mapped(planted.images_NCHW, tmp_path / "images"))
    images = image_getter(data, CPU)(torch.arange(90))
    release_pages(data.images_NCHW)
    assert np.array_equal(images, planted.images_NCHW)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_memory_map_keeps_its_contents_when_its_pages_are_let_go(planted, tmp_path, mode):
    images = mapped(planted.images_NCHW, tmp_path / "images", mode)
    expected = planted.images_NCHW.copy()
    if mode == "r+":
        images[3] = expected[3] = 7
    for view in (images, images[10:20], images):
        release_pages(view)
        assert np.array_equal(images, expected)


def test_an_array_in_memory_stays_as_it_is(planted):
    images = planted.images_NCHW.copy()
    for array in (images, images[5:], images[::2, 1]):
        release_pages(array)
    assert np.array_equal(images, planted.images_NCHW)


STATUS = Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is looked up in Linux's /proc")
def test_pages_that_are_let_go_take_no_memory(tmp_path):
    def resident() -> int:
        """kB of files' pages."""
        [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("RssFile")]
        return int(line.split()[1])

    images, before = mapped(np.ones((2**24,), np.uint8), tmp_path / "images"), resident()
    assert images.sum(dtype=np.int64) == 2**24
    assert resident() > before + 12_000
    release_pages(images)
    assert resident() < before + 4_000


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


# Colours

def noise(batch: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, 5, 6), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_jitter_of_strength_0_changes_no_pixel(dtype):
    images = noise().to(dtype)
    jittered = jitter_colours(images, 0.0, np.random.default_rng(0))
    assert jittered.dtype == torch.float32
    assert torch.equal(jittered, images.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_jittered_pixels_equal_a_loop(strength, dtype):
    images = noise().to(dtype)
    given = jitter_colours(images, strength, np.random.default_rng(3))
    assert torch.equal(images, noise().to(dtype))  # not changed in place
    draws = strength * (2 * np.random.default_rng(3).random((4, 5), np.float32) - 1)
    for image, jittered, (contrast, brightness, *tints) in zip(
            images.double(), given, draws.tolist(), strict=True):
        mean = image.mean()
        for channel, jittered_channel, tint in zip(image, jittered, tints, strict=True):
            expected = (mean * (1 + brightness) + (channel - mean) * (1 + contrast) + 30 * tint)
            np.testing.assert_allclose(jittered_channel, expected.clamp(0, 255), atol=1e-3)


def test_jittered_pixels_are_kept_within_0_and_255():
    jittered = jitter_colours(noise(50), 1.0, np.random.default_rng(0))
    assert jittered.dtype == torch.float32
    assert (jittered.min(), jittered.max()) == (0, 255)


def test_every_image_is_jittered_by_its_own_draw():
    jittered = jitter_colours(noise(1).repeat(6, 1, 1, 1), 0.3, np.random.default_rng(0))
    assert not any(torch.equal(jittered[a], jittered[b]) for a in range(6) for b in range(a))


def test_jitter_depends_on_the_random_state_alone():
    first, again, other = (
        jitter_colours(noise(), 0.3, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


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


def test_without_jitter_a_batch_is_drawn_and_mirrored_and_no_more(tiny, planted, monkeypatch):
    monkeypatch.setattr(batches, "jitter_colours", None)
    rng = np.random.default_rng([0, 3])
    triplets = epoch_batches(
        planted.labels_NT, planted.indices("train"), tiny.tasks, 2, 2, "holders", rng)
    images, _, _ = drawn(planted, tiny, 3)
    assert images.dtype == torch.uint8
    for batch in range(2):
        plain = torch.from_numpy(planted.images_NCHW[triplets[batch].reshape(-1)])
        assert torch.equal(images[batch], flip_some(plain, rng))


def test_jitter_changes_images_and_neither_their_choice_nor_their_labels(tiny, planted):
    settings = replace(tiny, colour_jitter=0.4, horizontal_flip=False)
    jittered, *others = drawn(planted, settings, 0)
    plain, *same_others = drawn(planted, replace(settings, colour_jitter=0.0), 0)
    assert (jittered.dtype, plain.dtype) == (torch.float32, torch.uint8)
    for other, same in zip(others, same_others, strict=True):
        assert torch.equal(other, same)
    rng = np.random.default_rng([0, 0])
    epoch_batches(planted.labels_NT, planted.indices("train"), tiny.tasks, 2, 2, "holders", rng)
    for batch in range(2):
        assert torch.equal(jittered[batch], jitter_colours(plain[batch], 0.4, rng))


def test_jittered_batches_are_the_same_for_the_same_seed_and_epoch(tiny, planted):
    settings = replace(tiny, colour_jitter=0.4)
    first, again, next_epoch, other_seed = (
        drawn(planted, replace(settings, seed=seed), epoch)[0]
        for seed, epoch in ((0, 3), (0, 3), (0, 4), (1, 3)))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_epoch)
    assert not torch.equal(first, other_seed)


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


def test_an_epoch_of_categories_is_as_long_as_the_first_tasks_known_images_last(
        tiny, categorised):
    known = sum(categorised.labels_NT[n, 0] >= 0 for n in categorised.indices("train"))
    assert batches_in_epoch(categorised, replace(tiny, batches_per_epoch=None)) == known // 2


def test_an_epoch_of_given_triplets_is_as_long_as_they_last(tiny, given):
    assert batches_in_epoch(given, replace(tiny, batches_per_epoch=None)) == 25 // 2


def test_given_triplets_are_all_drawn_before_any_comes_again(tiny, given):
    """25 triplets a task in batches of two: 27 batches show each twice, and four a third time."""
    settings = replace(tiny, batching="triplets", horizontal_flip=False, batches_per_epoch=27)
    images, _, _ = drawn(given, settings, 0)
    pixels = given.images_NCHW.reshape(90, -1)
    found = np.array([[int((pixels == image.numpy().reshape(-1)).all(1).argmax())
                       for image in batch] for batch in images])
    seen_TK3 = found.reshape(27, 3, 2, 3).transpose(1, 0, 2, 3).reshape(3, 54, 3)
    for seen_K3, given_K3 in zip(seen_TK3, given.triplets["train"], strict=True):
        expected = sorted(given_K3.tolist())
        for start in (0, 25):
            assert sorted(seen_K3[start:start + 25].tolist()) == expected
            assert seen_K3[start:start + 25].tolist() != given_K3.tolist()
        assert all(triplet in expected for triplet in seen_K3[50:].tolist())


def test_every_epoch_draws_given_triplets_in_another_order(tiny, given):
    settings = replace(tiny, batching="triplets")
    first, again, other = (drawn(given, settings, epoch)[0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_has_one_batch_where_there_are_fewer_holders_than_triplets(tiny, planted):
    assert batches_in_epoch(planted, replace(tiny, batches_per_epoch=None, batch_size=900)) == 1


def test_batches_of_any_images_show_all_before_any_comes_again(tiny, planted):
    settings = replace(tiny, batch_images="any", horizontal_flip=False, batches_per_epoch=5)
    seen = []
    for images, labels, _ in draw_batches(planted, image_getter(planted, CPU), settings, 0):
        size = 3 * len(tiny.tasks) * tiny.triplets_per_task
        assert len(images) == size
        found = [int((planted.images_NCHW == image.numpy()).all((1, 2, 3)).argmax())
                 for image in images]
        assert np.array_equal(labels, planted.labels_NT[found])
        seen += found
    train = planted.indices("train")
    for start in range(0, len(seen), len(train)):
        part = seen[start:start + len(train)]
        assert len(set(part)) == len(part) and set(part) <= set(train)
    assert len(seen) > len(train)


def test_batches_of_any_images_differ_by_epoch_and_seed(tiny, planted):
    settings = replace(tiny, batch_images="any")
    first = drawn(planted, settings, 0)[0]
    assert torch.equal(first, drawn(planted, settings, 0)[0])
    assert not torch.equal(first, drawn(planted, settings, 1)[0])
    assert not torch.equal(first, drawn(planted, replace(settings, seed=1), 0)[0])


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


def test_zoomed_images_are_sampled_as_a_plain_loop_samples_them():
    images_BCHW = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    zoomed = zoom_images(images_BCHW, 0.3, 2, np.random.default_rng(5))
    draws_B3 = np.random.default_rng(5).random((3, 3), np.float32) * 2 - 1

    for b, (zoom, across, down) in enumerate(draws_B3):
        for row in range(8):
            for column in range(8):
                y = (row - 3.5) * (1 + 0.3 * zoom) + 2 * down + 3.5
                x = (column - 3.5) * (1 + 0.3 * zoom) + 2 * across + 3.5
                y, x = (min(max(-1 - v, v), 15 - v) for v in (y, x))  # mirrored, then kept inside
                y, x = min(max(y, 0), 7), min(max(x, 0), 7)
                top, left = int(y), int(x)
                expected = sum(
                    abs(1 - abs(y - i)) * abs(1 - abs(x - j)) * images_BCHW[b, :, i, j].double()
                    for i in {top, min(top + 1, 7)} for j in {left, min(left + 1, 7)})
                assert torch.allclose(zoomed[b, :, row, column].double(), expected, atol=0.01)


def test_no_zoom_and_no_shift_leave_images_as_they_are():
    images_BCHW = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8)
    same = zoom_images(images_BCHW, 0.0, 0, np.random.default_rng(0))
    assert same.dtype == torch.float32 and torch.allclose(same, images_BCHW.float(), atol=1e-3)


def test_a_rounds_last_batch_starts_near_its_start_where_too_few_images_are_left():
    """Rounds of 10 images in batches of 3: one image is not shown in each."""
    def batches():
        return [one.tolist() for one in shuffled_batches(
            np.arange(10, 20), 3, 8, np.random.default_rng(4))]
    rng = np.random.default_rng(4)
    expected = []
    for _ in range(2):
        order = rng.permutation(np.arange(10, 20)).tolist()
        expected += [order[0:3], order[3:6], order[6:9], order[1:4]]
    assert batches() == expected == batches()


def test_a_shuffled_batch_may_be_all_images():
    [first, second] = shuffled_batches(np.arange(4), 4, 2, np.random.default_rng(0))
    assert sorted(first.tolist()) == sorted(second.tolist()) == [0, 1, 2, 3]
    assert first.dtype == torch.int64
