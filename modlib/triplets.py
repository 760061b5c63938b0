"""Triplets (anchor, positive, negative) for every task: drawn anew each epoch, or fixed for tests.

Source: Zhao et al., ECCV 2018, section 4.1, and the authors' code. The anchor and the positive
have the attribute, the negative has not; the ``"symmetric"`` choice also draws, half of the time,
an anchor and a positive that both lack it and a negative that has it. Where labels are categories
(section 4.3), anchor and positive are of one category and the negative is of any other.
Shapes: N images, T tasks, K triplets a task, B batch, S samples an anchor.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from modlib.datasets import AttributeImages
from modlib.errors import ModlibError, unknown_name
from modlib.machine import to_device

TRIPLET_CHOICES = ("holders", "symmetric")


def draw_triplets(
    labels_N: np.ndarray,
    indices: np.ndarray,
    count: int,
    choice: str,
    rng: np.random.Generator,
    task: str = "",
    where: str = "",
) -> np.ndarray:
    """Draw ``count`` triplets of one task.

    Anchors go through all candidates in random order before any comes again; the positive is a
    random other image on the anchor's side and the negative a random image on the other side.
    Among categories the anchor's side is its category, and an image alone in it is no anchor.

    Args:
        labels_N: bool (N,), who holds the attribute; or int16 (N,), each image's category, -1
            where it is not known: such an image is in no triplet.
        indices: the images to draw from, int64 indices into N.
        count: K, at least 1.
        choice: ``"holders"`` (the paper's) or ``"symmetric"``; categories know no difference.
        rng: the source of randomness.
        task, where: the task's name and the place of the images, for messages.

    Returns:
        int64 (K, 3): anchor, positive, negative as indices into N.

    Raises:
        ModlibError: fewer than two images on an anchor's side, or none on the other; no category
            of two images with another beside it.
    """
    if choice not in TRIPLET_CHOICES:
        raise unknown_name("triplet choice", choice, TRIPLET_CHOICES)
    if count < 1:
        raise ModlibError(f"count must be at least 1 triplet; given {count}")
    if labels_N.dtype != bool:
        return _of_categories(labels_N, indices, count, rng, task, where)
    held = labels_N[indices]
    holders, others = indices[held], indices[~held]
    if choice == "holders":
        return _one_sided(holders, others, count, rng, task, where)
    halves = [_one_sided(holders, others, count - count // 2, rng, task, where)]
    if count // 2:
        halves.append(_one_sided(others, holders, count // 2, rng, task, where))
    return rng.permutation(np.concatenate(halves))


def _one_sided(same, other, count, rng, task, where) -> np.ndarray:
    if len(same) < 2 or len(other) < 1:
        raise ModlibError(
            f"attribute {task!r}{where}: a triplet needs two images on the anchor's side and one "
            f"on the other; given {len(same)} and {len(other)}"
        )
    anchor = _in_rounds(np.arange(len(same)), count, rng)
    positive = rng.integers(0, len(same) - 1, count)
    positive += positive >= anchor  # any but the anchor itself
    negative = rng.integers(0, len(other), count)
    return np.stack([same[anchor], same[positive], other[negative]], axis=1)


def _of_categories(labels_N, indices, count, rng, task, where) -> np.ndarray:
    known = indices[labels_N[indices] >= 0]
    images = known[np.argsort(labels_N[known], kind="stable")]  # category by category
    start = np.searchsorted(labels_N[images], labels_N[images])  # of each image's category
    size = np.searchsorted(labels_N[images], labels_N[images], "right") - start
    anchors = np.flatnonzero((size >= 2) & (size < len(images)))
    if len(anchors) == 0:
        raise ModlibError(
            f"task {task!r}{where}: a triplet needs two images of one category and one of another; "
            f"given {len(images)} images of {len(set(start))} categories, of {len(indices)} images")
    anchor = _in_rounds(anchors, count, rng)
    positive = start[anchor] + rng.integers(0, size[anchor] - 1)
    positive += positive >= anchor  # any but the anchor itself
    negative = rng.integers(0, len(images) - size[anchor])
    negative += np.where(negative >= start[anchor], size[anchor], 0)  # over the anchor's category
    return images[np.stack([anchor, positive, negative], axis=1)]


def _in_rounds(candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the candidates: all in random order before any comes again."""
    rounds = -(-count // len(candidates))
    return np.concatenate([rng.permutation(candidates) for _ in range(rounds)])[:count]


def fixed_triplets(
    labels_NT: np.ndarray, indices: np.ndarray, tasks: tuple[str, ...], count: int, seed: int,
    choice: str = "holders", where: str = "",
) -> np.ndarray:
    """The benchmark: ``count`` triplets a task, the same at every call with the same arguments.

    A task's triplets depend on its name and its labels, not on the other tasks, so systems
    trained on different sets of tasks are compared on the same triplets.

    Returns:
        int64 (T, K, 3), indices into N.
    """
    return np.stack([
        draw_triplets(labels_NT[:, t], indices, count, choice,
                      np.random.default_rng([seed, crc32(task.encode())]), task, where)
        for t, task in enumerate(tasks)
    ])


def benchmark_triplets(data: AttributeImages, split: str, count: int, seed: int) -> np.ndarray:
    """What a split is judged by: its first ``count`` given triplets, or else fixed ones.

    Returns:
        int64 (T, K, 3), indices into N; K is smaller than ``count`` where fewer are given.

    Raises:
        ModlibError: none are given and none can be drawn.
    """
    indices = data.indices(split)
    if data.triplets is not None:
        return data.triplets[split][:, :count]
    return fixed_triplets(data.labels_NT, indices, data.tasks, count, seed,
                          where=f" in the {split} split")


def epoch_batches(
    labels_NT: np.ndarray,
    indices: np.ndarray,
    tasks: tuple[str, ...],
    triplets_per_task: int,
    num_batches: int,
    choice: str,
    rng: np.random.Generator,
) -> np.ndarray:
    """One epoch of batches, triplets evenly over the tasks.

    Args:
        triplets_per_task: m, triplets of each task in a batch; a batch has 3·T·m images.
        num_batches: batches in the epoch; the holders of a task that is too rare for them go
            round again, as its anchors do where labels are categories.

    Returns:
        int64 (batches, T, m, 3), indices into N.
    """
    count = num_batches * triplets_per_task
    per_task = [
        draw_triplets(labels_NT[:, t], indices, count, choice, rng, task, " in the train split")
        for t, task in enumerate(tasks)
    ]
    return _in_batches(np.stack(per_task), num_batches)


def given_batches(
    given_TK3: np.ndarray, triplets_per_task: int, num_batches: int, rng: np.random.Generator
) -> np.ndarray:
    """One epoch of batches of given triplets; a task's are all used before any comes again.

    Args and returns: as :func:`epoch_batches`; ``given_TK3`` are the triplets to draw from.
    """
    count = num_batches * triplets_per_task
    per_task = [given_K3[_in_rounds(np.arange(len(given_K3)), count, rng)]
                for given_K3 in given_TK3]
    return _in_batches(np.stack(per_task), num_batches)


def _in_batches(triplets_TK3: np.ndarray, num_batches: int) -> np.ndarray:
    """An epoch's triplets shared out: (batches, T, m, 3)."""
    tasks = len(triplets_TK3)
    return triplets_TK3.reshape(tasks, num_batches, -1, 3).transpose(1, 0, 2, 3)


@dataclass(frozen=True)
class BatchTriplets:
    """Triplets formed inside a batch whose every image serves every task.

    Attributes:
        positive_TBS: int64, positions in the batch of S positives for each anchor position b.
        negative_TBS: int64, likewise S negatives.
        is_anchor_TB: bool; where False the row has no valid triplet and must not count.
    """

    positive_TBS: Tensor
    negative_TBS: Tensor
    is_anchor_TB: Tensor


def triplets_in_batch(
    labels_BT: Tensor, samples: int, choice: str, generator: torch.Generator
) -> BatchTriplets:
    """Form ``samples`` random triplets inside the batch for every anchor of every task.

    With ``"holders"`` every image that has the attribute is an anchor; with ``"symmetric"``
    every image is, with negatives from the other side. Where labels are categories every image of
    a known one is, with negatives from all the others.

    Args:
        labels_BT: the batch's labels: bool, or int16 categories with -1 where not known.
        samples: S, positives and negatives drawn for each anchor, at least 1.
        choice: ``"holders"`` or ``"symmetric"``.
        generator: a CPU generator.
    """
    if choice not in TRIPLET_CHOICES:
        raise unknown_name("triplet choice", choice, TRIPLET_CHOICES)
    if samples < 1:
        raise ModlibError(f"samples must be at least 1 per anchor; given {samples}")
    category_TB = labels_BT.T.long().contiguous()  # of an attribute 1: has it, 0: has it not
    tasks, batch = category_TB.shape
    # Images category by category, the highest first; those of unknown category come last.
    sorted_TB, order_TB = torch.sort(-category_TB, dim=1, stable=True)
    place_TB = torch.argsort(order_TB, dim=1)
    start_TB = torch.searchsorted(sorted_TB, -category_TB)
    size_TB = torch.searchsorted(sorted_TB, -category_TB, right=True) - start_TB
    known_TB = category_TB >= 0
    others_TB = (known_TB.sum(1, keepdim=True) - size_TB).clamp(min=0)

    uniform = to_device(
        torch.rand(2, tasks, batch, samples, generator=generator), category_TB.device)
    start_TB1, size_TB1 = start_TB[..., None], size_TB[..., None]
    rank_TB1 = (place_TB - start_TB)[..., None]
    positive = (uniform[0] * (size_TB1 - 1)).long()
    positive += (positive >= rank_TB1).long()  # any but the anchor itself
    positive = (start_TB1 + positive).clamp(max=batch - 1)
    negative = (uniform[1] * others_TB[..., None]).long()
    negative += size_TB1 * (negative >= start_TB1)  # over the anchor's own category
    negative = negative.clamp(max=batch - 1)
    is_anchor_TB = known_TB & (size_TB >= 2) & (others_TB >= 1)
    if choice == "holders" and labels_BT.dtype == torch.bool:
        is_anchor_TB &= labels_BT.T
    return BatchTriplets(
        _gather(order_TB, positive), _gather(order_TB, negative), is_anchor_TB
    )


def _gather(order_TB: Tensor, positions_TBS: Tensor) -> Tensor:
    return order_TB.gather(1, positions_TBS.flatten(1)).reshape(positions_TBS.shape)
