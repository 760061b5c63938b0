"""Photographs and scenes of a data set in a folder: split, packed once, labelled for several tasks.

Shapes: N images, T tasks, S side of the square image in pixels.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from modlib.datasets import SPLITS, cache_path
from modlib.errors import ModlibError
from modlib.image_cache import open_or_pack, pack_images
from modlib.image_files import Files
from modlib.packed_images import PackedImages
from modlib.task_images import digest

SPLIT_SEED = 20_19


def text_of(root: Path, names: Sequence[str]) -> str:
    """The text of the first of some files, named from ``root``, that is there.

    Raises:
        ModlibError: none of them is, or it is no text.
    """
    found = [root / name for name in names if (root / name).is_file()]
    if not found:
        raise ModlibError(f"{' or '.join(names)} is missing in {root}")
    try:
        text = found[0].read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModlibError(f"{found[0]} is no text: {error}") from error
    if "\0" in text:
        raise ModlibError(f"{found[0]} is no text: it holds a byte of 0")
    return text


def hold_out(testing_N: np.ndarray, share: float) -> np.ndarray:
    """A split: what is for testing, and of the rest a share, and one at least, for validation.

    Args:
        testing_N: bool.
        share: from 0 to 1.

    Returns:
        uint8 (N,); 0 train, 1 valid, 2 test.

    Raises:
        ModlibError: there are fewer than two images to train on, or none to test on.
    """
    split_N = np.where(testing_N, SPLITS.index("test"), SPLITS.index("train")).astype(np.uint8)
    rest = np.flatnonzero(~testing_N)
    if len(rest) < 2 or not testing_N.any():
        raise ModlibError("two images or more to train on and one to test on are needed; given "
                          f"{len(rest)} and {testing_N.sum()}")
    kept = max(1, round(share * len(rest)))
    split_N[np.random.default_rng(SPLIT_SEED).permutation(rest)[:kept]] = SPLITS.index("valid")
    return split_N


def packed_photographs(
    root: Path, kind: str, names: Sequence[str], rows: Mapping[str, np.ndarray], image_size: int,
    cache_dir: str | Path | None = None, skip_broken: bool = False,
) -> PackedImages:
    """The whole images squeezed into squares, decoded once into a cache; see ``pack_images``.

    Args:
        root: the folder that ``names`` start from.
        kind: begins the cache's name.
        names: of the N images.
        rows: arrays with a row an image. With the names they tell whether a cache is still the
            one that is wanted; an image rewritten in place goes unnoticed.

    Raises:
        ModlibError: an image cannot be decoded and ``skip_broken`` is false, or see
            ``pack_images``.
    """
    identity = digest(*names, *rows, *rows.values())
    path = cache_path(cache_dir, kind, root, image_size)

    def pack() -> PackedImages:
        with closing(Files(root)) as files:
            return pack_images(
                files, names, path, image_size, crop=None, identity=identity,
                source=str(root.resolve()), rows=rows, notes={}, skip_broken=skip_broken)

    return open_or_pack(path, identity, image_size, skip_broken, root.name, pack)
