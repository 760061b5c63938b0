"""One epoch's batches: which images, mirrored or not, with the labels of all their tasks.

Source: Zhao et al., ECCV 2018, section 4.1, and the authors' code.
Shapes: B batch, T tasks, C channels, H W height and width, N images, m triplets a task.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modlib.datasets import AttributeImages
from modlib.errors import ModlibError
from modlib.machine import is_out_of_memory, to_device
from modlib.packed_images import release_pages
from modlib.settings import Settings
from modlib.triplets import epoch_batches, given_batches


def image_getter(data: AttributeImages, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From int64 indices to pixels (B, C, H, W) uint8 on the device.

    On a GPU all images are moved there once. On a CPU they stay in their memory map, and what was
    read is let go again, so that resident memory does not grow with the number of images.

    Raises:
        ModlibError: the images do not fit into the GPU's memory.
    """
    if device.type == "cpu":
        def get_images(indices: Tensor) -> Tensor:
            images_BCHW = torch.from_numpy(data.images_NCHW[indices.numpy()])
            release_pages(data.images_NCHW)
            return images_BCHW

        return get_images
    try:
        images_NCHW = torch.from_numpy(np.array(data.images_NCHW)).to(device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        count, *_, side = data.images_NCHW.shape
        raise ModlibError(
            f"the {count:,} images of {side}×{side} pixels, {data.images_NCHW.nbytes / 1e9:.1f} GB "
            f"that are moved to {device} before the training, do not fit there; no batch_size "
            "changes that: try a smaller image_size, a part of the images, a GPU that nothing "
            "else uses, or device='cpu', which reads them from disk") from error
    return lambda indices: images_NCHW[to_device(indices, device)]


def flip_some(images_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flip_B = to_device(torch.from_numpy(rng.random(len(images_BCHW)) < 0.5), images_BCHW.device)
    return torch.where(flip_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)


def shuffled_batches(
    indices_N: np.ndarray, size: int, batches: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Images in random order, round by round.

    In a round each image comes once, but where too few are left to fill the last batch: those are
    not shown in this round, and the last batch starts anew near the round's start. Each round is
    shuffled when it begins, so the generator may be used in between.

    Args:
        indices_N: int64, what is drawn from.
        size: images a batch, at most N.
        batches: how many.

    Yields:
        int64 (size,).
    """
    for number in range(batches):
        place = number % -(-len(indices_N) // size)
        if place == 0:
            order_N = rng.permutation(indices_N)
        first = place * size % (len(indices_N) - size + 1)
        yield torch.from_numpy(order_N[first:first + size])


def batches_in_round(data: AttributeImages, settings) -> int:
    """How many batches of :func:`random_indices` an epoch has.

    Where the settings leave it open, as many whole batches as the train split fills.
    """
    train = len(data.indices("train"))
    return settings.batches_per_epoch or train // min(settings.batch_size, train)


def random_indices(
    data: AttributeImages, settings, rng: np.random.Generator
) -> Iterator[Tensor]:
    """One epoch's batches of the train split's images: :func:`batches_in_round` of them.

    Yields:
        int64 (B,), as :func:`shuffled_batches` draws them.
    """
    train = data.indices("train")
    return shuffled_batches(train, min(settings.batch_size, len(train)),
                            batches_in_round(data, settings), rng)


def shift_images(images_BCHW: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Move each image by up to ``most`` pixels along each side; the border is mirrored."""
    last = images_BCHW.shape[-1] - 1
    places = torch.arange(-most, last + 1 + most, device=images_BCHW.device).abs()
    places = last - (last - places).abs()
    padded = images_BCHW[:, :, places][..., places]
    windows = padded.unfold(2, last + 1, 1).unfold(3, last + 1, 1)
    rows_B, columns_B = to_device(
        torch.from_numpy(rng.integers(0, 2 * most + 1, (2, len(images_BCHW)))), images_BCHW.device)
    return windows[torch.arange(len(images_BCHW), device=images_BCHW.device), :, rows_B, columns_B]


def zoom_images(
    images_BCHW: Tensor, zoom: float, shift: int, rng: np.random.Generator
) -> Tensor:
    """Enlarge or shrink each image at random, and move it, by bilinear sampling.

    Args:
        images_BCHW: pixels, uint8 or float, square.
        zoom: from 0 to below 1; sides are divided by 1 − zoom to 1 + zoom.
        shift: pixels, at most, along each side; the border is mirrored.

    Returns:
        float32 pixels.
    """
    draws_B3 = torch.from_numpy(rng.random((len(images_BCHW), 3), np.float32) * 2 - 1)
    theta_B23 = torch.zeros(len(images_BCHW), 2, 3)
    theta_B23[:, 0, 0] = theta_B23[:, 1, 1] = 1 + zoom * draws_B3[:, 0]
    theta_B23[:, :, 2] = draws_B3[:, 1:] * 2 * shift / images_BCHW.shape[-1]
    grid_BHW2 = F.affine_grid(
        to_device(theta_B23, images_BCHW.device), list(images_BCHW.shape), align_corners=False)
    pixels = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
    return F.grid_sample(pixels, grid_BHW2, padding_mode="reflection", align_corners=False)


def jitter_colours(images_BCHW: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change each image's contrast, brightness and tint at random.

    Contrast and brightness are multiplied by a factor from 1 − strength to 1 + strength each, and
    each channel is shifted by up to 30 · strength of 255.

    Args:
        images_BCHW: pixels 0 to 255, uint8 or float.
        strength: from 0, which changes nothing, to 1.

    Returns:
        float32 pixels, kept within 0 to 255.
    """
    draws_B5 = torch.from_numpy(rng.random((len(images_BCHW), 5), np.float32) * 2 - 1)
    draws_B511 = to_device(strength * draws_B5, images_BCHW.device)[..., None, None]
    pixels = images_BCHW.float()
    contrast, brightness, tint = draws_B511.split((1, 1, 3), dim=1)
    mean_B111 = pixels.mean((1, 2, 3), keepdim=True)
    shift = mean_B111 * (brightness - contrast) + 30 * tint
    return torch.addcmul(shift, pixels, 1 + contrast).clamp_(0, 255)


def batches_in_epoch(data: AttributeImages, settings: Settings) -> int:
    """How many batches an epoch has; the authors' rule where the settings leave it open.

    By it an epoch is as long as the first task's holders last, or its images of known category, or
    the triplets that are given for it.
    """
    if settings.batches_per_epoch is not None:
        return settings.batches_per_epoch
    if data.triplets is not None:
        anchors = data.triplets["train"].shape[1]
    else:
        labels_K = data.labels_NT[data.indices("train"), 0]
        anchors = int((labels_K if labels_K.dtype == bool else labels_K >= 0).sum())
    return max(1, anchors // settings.triplets_per_task)


def _images_of_batches(
    data: AttributeImages, settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """Which images each batch of an epoch holds: int64 (batches, B)."""
    train, batches = data.indices("train"), batches_in_epoch(data, settings)
    if settings.batch_images == "any":  # all images once, in random order, before any comes again
        size = 3 * len(settings.tasks) * settings.triplets_per_task
        rounds = [rng.permutation(train) for _ in range(-(-batches * size // len(train)))]
        return np.concatenate(rounds)[:batches * size].reshape(batches, size)
    if data.triplets is not None:
        return given_batches(
            data.triplets["train"], settings.triplets_per_task, batches, rng).reshape(batches, -1)
    return epoch_batches(
        data.labels_NT, train, settings.tasks, settings.triplets_per_task, batches,
        settings.triplet_choice, rng).reshape(batches, -1)


def draw_batches(
    data: AttributeImages, get_images: Callable[[Tensor], Tensor], settings: Settings, epoch: int
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """One epoch's batches, drawn from (seed, epoch) alone.

    Yields:
        images_BCHW (uint8, or float32 with zoom or colour jitter), labels_BT, and the
        generator for the triplets formed inside the batch. There are :func:`batches_in_epoch` of
        them.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    labels_NT = torch.from_numpy(data.labels_NT)
    for indices_B in torch.from_numpy(_images_of_batches(data, settings, rng)):
        images_BCHW = get_images(indices_B)
        if settings.horizontal_flip:
            images_BCHW = flip_some(images_BCHW, rng)
        if settings.zoom > 0:
            images_BCHW = zoom_images(images_BCHW, settings.zoom, settings.shift, rng)
        elif settings.shift > 0:
            images_BCHW = shift_images(images_BCHW, settings.shift, rng)
        if settings.colour_jitter > 0:
            images_BCHW = jitter_colours(images_BCHW, settings.colour_jitter, rng)
        yield images_BCHW, to_device(labels_NT[indices_B], images_BCHW.device), generator
