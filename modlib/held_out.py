"""The splits, and the view of a data set that training gets: one without its test split.

Whatever trains or tunes is handed this view. Asking it for the test split, for a test image or for
where to look in one raises; the labels of test images are not in it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from modlib.errors import ModlibError, unknown_name

SPLITS = ("train", "valid", "test")  # split_N holds the index: 0, 1, 2, as list_eval_partition.txt
LOCKED = 255  # in split_N: an image of the test split, in a view that training gets

Data = TypeVar("Data")  # AttributeImages or TaskImages


def indices_of(split_N: np.ndarray, split: str) -> np.ndarray:
    """Indices (int64, ascending) of the images in a split.

    Raises:
        ModlibError: the split is none of ``SPLITS``, or it is the test split of a view that
            training gets.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if split == "test" and (split_N == LOCKED).any():
        raise _locked("the test split was asked for")
    return np.flatnonzero(split_N == SPLITS.index(split))


def without_test(
    data: Data, get_images: Callable[[Tensor], Tensor]
) -> tuple[Data, Callable[[Tensor], Tensor]]:
    """The view of a data set that training gets, and what gives the view's images.

    Args:
        data: ``AttributeImages`` or ``TaskImages``.
        get_images: from int64 indices to pixels, of all the data.

    Returns:
        the same data, where no test image has a label (False, or -1 for not known) and every
        access to the test split raises a ModlibError, its pixels in ``images_NCHW`` included; and
        ``get_images`` with the same guard.
    """
    locked_N = (data.split_N == SPLITS.index("test")) | (data.split_N == LOCKED)
    labels_NT = data.labels_NT.copy()
    labels_NT[locked_N] = False if labels_NT.dtype == bool else -1
    changes: dict[str, Any] = {
        "images_NCHW": GuardedImages(data.images_NCHW, locked_N),
        "labels_NT": labels_NT, "split_N": np.where(locked_N, np.uint8(LOCKED), data.split_N)}
    if getattr(data, "triplets", None) is not None:
        changes["triplets"] = {split: given for split, given in data.triplets.items()
                               if split != "test"}
    if getattr(data, "places", None) is not None:
        changes["places"] = _guarded(data.places, locked_N)
    return replace(data, **changes), _guarded(get_images, locked_N)


class GuardedImages:
    """The array of a view's images, not copied: an index that takes in a locked one raises.

    Args:
        images_NCHW: of all the data.
        locked_N: bool; which of them cannot be had.
    """

    def __init__(self, images_NCHW: np.ndarray, locked_N: np.ndarray) -> None:
        self._images_NCHW, self._locked_N = images_NCHW, locked_N
        self.shape, self.dtype = images_NCHW.shape, images_NCHW.dtype
        self.nbytes = images_NCHW.nbytes

    def __len__(self) -> int:
        return len(self._locked_N)

    def __getitem__(self, index: Any) -> np.ndarray:
        of_images = index[:1] if isinstance(index, tuple) else index
        if self._locked_N[of_images].any():
            raise _locked("an image of the test split was asked for")
        return self._images_NCHW[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)  # of all: refused where one of them is locked


def _guarded(get: Callable, locked_N: np.ndarray) -> Callable:
    def of_other_images(indices):
        if locked_N[indices.cpu().numpy() if isinstance(indices, Tensor) else indices].any():
            raise _locked("an image of the test split was asked for")
        return get(indices)

    return of_other_images


def _locked(what: str) -> ModlibError:
    return ModlibError(f"{what} while training or tuning; allowed: train and valid. The test split "
                       "is for the evaluation of what is trained")
