"""A reader's own images: a folder, or a zip archive of one, with a CSV of attributes.

Shapes: N images, T tasks.
"""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from modlib.attribute_table import LAYOUT, Table, labels_of, read_table, split_of
from modlib.datasets import (
    SPLITS,
    AttributeImages,
    cache_path,
    checked_source,
    checked_tasks,
    fingerprint_of,
    images_of_size,
)
from modlib.errors import ModlibError
from modlib.image_cache import open_or_pack, pack_images
from modlib.image_files import Files
from modlib.packed_images import PackedImages
from modlib.triplets import fixed_triplets


def load_image_folder(
    root: str | Path,
    tasks: Sequence[str] | None = None,
    image_size: int = 64,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    progress: bool = True,
    crop: float = 1.0,
) -> AttributeImages:
    """Images in a folder with a CSV of attributes; those that the CSV does not name are left out.

    The CSV's column ``image``, or else its first one, holds file names from the CSV's own folder.
    A column ``split`` says train, valid or test; without it images are split 70/10/20 by a hash of
    the name. Every other column is an attribute: 0 and 1, -1 and 1, true and false, or the names
    of categories. An empty cell is not known. Where a column among the tasks has names or empty
    cells, all tasks are taken as categories, and to lack an attribute is one.

    Args:
        root: see ``attribute_table.LAYOUT``.
        tasks: the columns wanted, in the order wanted; None: all attributes.
        image_size: side in pixels, 16 to 1024; the centre square of each image is resized to it.
        cache_dir, workers, progress, crop: see :func:`modlib.datasets.load_celeba`.
        skip_broken: leave out images that are missing or cannot be decoded, with a warning that
            names them.

    Returns:
        ``labels_NT`` bool, or int16 categories: of names in the order of the alphabet.

    Raises:
        ModlibError: no such root, no CSV or several; a row, a cell, a name or a split that is
            wrong, with its row in the CSV (the header is row 1); an image that is not there or
            cannot be decoded; an unknown attribute; one of which a split has too few images to
            draw a triplet.
    """
    root = checked_source(root, image_size, crop, LAYOUT)
    wanted = checked_tasks(tasks)
    with closing(Files(root)) as files:
        within, table = read_table(files)
        tasks = wanted or tuple(table.columns)
        labels_NT, categories = labels_of(table, tasks)
        split_N, note = split_of(table)
        check_triplets(labels_NT, split_N, tasks)
        names = [f"{within}{image}" for image in table.rows]
        identity = _identity(files, names, table, crop, skip_broken)
        path = cache_path(cache_dir, "folder", root, image_size, crop)

        def pack() -> PackedImages:
            return pack_images(
                files, names, path, image_size, crop=crop, identity=identity,
                source=str(root.resolve()), rows={"place": np.arange(len(names))}, notes={},
                workers=workers, skip_broken=skip_broken, progress=progress)

        packed = open_or_pack(path, identity, image_size, skip_broken, root.name, pack)
    used = packed.rows["place"]  # without those that are broken
    labels_NT, split_N = labels_NT[used], split_N[used]
    ids = tuple(np.array(list(table.rows))[used].tolist())
    return AttributeImages(
        packed.images_NCHW, labels_NT, tasks, split_N, ids,
        fingerprint=fingerprint_of(packed.pixel_digest, labels_NT, tasks, split_N, ids),
        source=f"{root.name} ({table.name}), {images_of_size(len(ids), image_size, crop)}; {note}"
        f"{'; all tasks taken as categories' if categories else ''}",
    )


def attribute_names(root: str | Path) -> tuple[str, ...]:
    """The attributes that the CSV of a folder or zip archive has, in its order.

    Raises:
        ModlibError: see :func:`load_image_folder`.
    """
    with closing(Files(checked_source(root, 64, 1.0, LAYOUT))) as files:
        return tuple(read_table(files)[1].columns)


def check_triplets(labels_NT: np.ndarray, split_N: np.ndarray, tasks: tuple[str, ...]) -> None:
    """Refuse tasks of which some split has too few images to draw a triplet of it."""
    for number, split in enumerate(SPLITS):
        try:
            fixed_triplets(labels_NT, np.flatnonzero(split_N == number), tasks, 1, 0,
                           where=f" in the {split} split")
        except ModlibError as error:
            raise ModlibError(f"{error}; give more images, name other tasks, or say in a column "
                              "split which images are train, valid and test") from error


def _identity(
    files: Files, names: Sequence[str], table: Table, crop: float, skip_broken: bool
) -> str:
    """Digest of what tells, without reading the images, whether they are what they were.

    Their names, and their sizes and times, or those of the archive that they are in.
    """
    if files.path.is_dir():
        stats = [_stat(files.path / name) for name in names]
    else:
        there = set(files.names())
        stats = [_stat(files.path) if name in there else None for name in names]
    missing = sorted((row, image) for (image, row), stat in zip(
        table.rows.items(), stats, strict=True) if stat is None)
    if missing and not skip_broken:
        more = f" (nor are {len(missing) - 1} more)" if missing[1:] else ""
        raise ModlibError(
            f"{table.name}, row {missing[0][0]}: image {missing[0][1]!r} is not in "
            f"{files.path}{more}; correct the name, or leave such rows out with skip_broken=True")
    return hashlib.sha256(repr((names, stats, crop)).encode()).hexdigest()


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat() if path.is_file() else None
    except OSError:  # such as a name that is too long
        return None
    return stat and (stat.st_size, stat.st_mtime_ns)
