"""Images of which each task asks another question, with its answer among K classes.

Shapes: N images, T tasks, M parts of an image, B batch, C channels, H W height and width.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modlib.held_out import indices_of

UNKNOWN = -1  # the label of an image that a task does not ask about


@dataclass(frozen=True)
class TaskImages:
    """Images, every task's answer and the split that each image belongs to.

    Attributes:
        images_NCHW: uint8 array or read-only memory map, 0 to 255, square.
        labels_NT: int64; from 0 to ``classes`` − 1, or ``UNKNOWN``.
        tasks: the T names, in the order of the columns of ``labels_NT``.
        classes: how many answers a task has.
        split_N: uint8; 0 train, 1 valid, 2 test.
        fingerprint: hexadecimal digest of the data; part of a record's name.
        source: one line for people: where the images and the split came from.
        places: from B indices to where each task has to look, float32 (B, T, H, W), all 0 where
            nobody knows; None where the data do not tell.
        parts_NM: int64, numbers of what each image is composed of, which other images may hold
            too; None where images have nothing in common.
    """

    images_NCHW: np.ndarray
    labels_NT: np.ndarray
    tasks: tuple[str, ...]
    classes: int
    split_N: np.ndarray
    fingerprint: str
    source: str
    places: Callable[[np.ndarray], np.ndarray] | None = None
    parts_NM: np.ndarray | None = None

    def indices(self, split: str) -> np.ndarray:
        """Indices (int64, ascending) of the images in ``split``: train, valid or test."""
        return indices_of(self.split_N, split)


def digest(*parts: np.ndarray | str) -> str:
    """16 hexadecimal digits that change with any of the arrays or texts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
        found.update(b"|")
    return found.hexdigest()[:16]
