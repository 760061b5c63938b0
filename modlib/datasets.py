"""Attribute-labelled images, from CelebA on disk or from the procedural toy faces.

CelebA: Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

Shapes: N images, C=3 channels (RGB), H W height and width, T tasks (attributes),
A all the attributes of a file.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from modlib.celeba_files import LAYOUTS, read_celeba, root_identity
from modlib.errors import ModlibError, unknown_name
from modlib.face_categories import FACE_CATEGORIES, face_categories
from modlib.held_out import SPLITS, indices_of
from modlib.image_cache import check_image_size, open_or_pack, pack_images
from modlib.packed_images import PackedImages
from modlib.toy_faces import TOY_FACE_ATTRIBUTES, make_toy_faces, sample_attributes


@dataclass(frozen=True)
class AttributeImages:
    """Images, their attributes or categories, and the split that each belongs to.

    Attributes:
        images_NCHW: uint8 array or read-only memory map, RGB, 0 to 255, square.
        labels_NT: bool array; ``labels_NT[n, t]`` says whether image n has attribute t. Or, for
            tasks of several categories, int16 array of each image's category: 0 and up, or -1
            where it is not known.
        tasks: the T names of attributes or tasks, in the order of the columns of ``labels_NT``.
        split_N: uint8 array; 0 train, 1 valid, 2 test.
        ids: the N image names, such as ``"000040"``.
        fingerprint: hexadecimal digest of all of it; part of a record's name.
        source: one line for people: where the images and the split came from.
        triplets: by split, int64 (T, K, 3): triplets that came with the data, as indices of
            anchor, positive and negative into N, all of that split. None: they are drawn from the
            labels.
    """

    images_NCHW: np.ndarray
    labels_NT: np.ndarray
    tasks: tuple[str, ...]
    split_N: np.ndarray
    ids: tuple[str, ...]
    fingerprint: str
    source: str
    triplets: Mapping[str, np.ndarray] | None = None

    def indices(self, split: str) -> np.ndarray:
        """Indices (int64, ascending) of the images in ``split``: train, valid or test."""
        return indices_of(self.split_N, split)


def load_celeba(
    root: str | Path,
    tasks: Sequence[str] | None = None,
    image_size: int = 64,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    progress: bool = True,
    crop: float = 1.0,
) -> AttributeImages:
    """CelebA, or any subset of it, as it lies on disk: unpacked or zipped, official or Kaggle's.

    The images are decoded once into a cache and memory-mapped after that; a cache that does not
    match ``root`` is rebuilt. The images used are those that are there and have an attribute row,
    in the order of their names. The split is the official partition; where that file is missing,
    80/10/10 by a hash of the identity, or of the image name where that file is missing too.

    Args:
        root: a folder or a zip archive; see ``celeba_files.LAYOUTS``.
        tasks: the attributes wanted, in the order wanted; None: all of the file. Or tasks of
            several categories, some of ``FACE_CATEGORIES``.
        image_size: side in pixels, 16 to 1024; the centre square of each image is resized to it.
        cache_dir: folder of the cache; None: what ``MODLIB_CACHE_DIR`` names in
            the environment, or else ~/.cache/modlib.
        workers: decoding threads; None: one a core.
        skip_broken: leave out images that cannot be decoded, with a warning that names them.
        progress: show a progress bar while decoding.
        crop: side of what is kept of each image over its centre square's, above 0 and at most 1.

    Raises:
        ModlibError: no such root, or a layout not understood; an attribute that does not exist, is
            given twice, or has no holder (or only holders) in a split; a label, a row or an image
            that is broken, named; a bad size; a cache folder that cannot be written.
    """
    root = checked_source(root, image_size, crop, LAYOUTS)
    tasks = checked_tasks(tasks)
    identity = root_identity(root) + ("" if crop == 1 else f", crop {crop!r}")
    path = cache_path(cache_dir, "celeba", root, image_size, crop)

    def pack() -> PackedImages:
        rows, notes, files, names = read_celeba(root)
        try:
            _choose(rows, notes, tasks)  # a mistake in tasks is said before the long work
            return pack_images(
                files, names, path, image_size, crop=crop, identity=identity,
                source=str(root.resolve()), rows=rows, notes=notes, workers=workers,
                skip_broken=skip_broken, progress=progress,
            )
        finally:
            files.close()

    packed = open_or_pack(path, identity, image_size, skip_broken, root.name, pack)
    tasks, labels_NT = _choose(packed.rows, packed.notes, tasks)
    split_N, ids = packed.rows["split"], tuple(packed.rows["ids"].tolist())
    return AttributeImages(
        packed.images_NCHW, labels_NT, tasks, split_N, ids,
        fingerprint=fingerprint_of(packed.pixel_digest, labels_NT, tasks, split_N, ids),
        source=f"CelebA ({root.name}), {images_of_size(len(ids), image_size, crop)}; "
        f"{packed.notes['split']}",
    )


def images_of_size(count: int, image_size: int, crop: float) -> str:
    """How many images there are and what is seen of each, in words, for ``source``."""
    seen = "" if crop == 1 else f" of the middle {crop:.0%} of their centre square"
    return f"{count:,} images at {image_size}×{image_size}{seen}"


def load_toy_faces(
    count: int = 4000, image_size: int = 64, tasks: Sequence[str] | None = None, seed: int = 0
) -> AttributeImages:
    """Procedural faces, split 70/10/20 into train, valid and test by index.

    Args:
        count: number of images.
        image_size: side in pixels.
        tasks: the attributes wanted, in the order wanted; None: all of ``TOY_FACE_ATTRIBUTES``.
            Or tasks of several categories, some of ``FACE_CATEGORIES``.
        seed: seed of the faces.

    Raises:
        ModlibError: an attribute that does not exist or is given twice, or stands beside
            categories.
    """
    tasks = checked_tasks(tasks) or TOY_FACE_ATTRIBUTES
    labels_NT = _labels_of_tasks(
        sample_attributes(count, seed), TOY_FACE_ATTRIBUTES, tasks, "TOY_FACE_ATTRIBUTES")
    images_NCHW = _toy_faces(count, image_size, seed)
    ends = [count * 7 // 10, count * 8 // 10]
    split_N = np.searchsorted(ends, np.arange(count), side="right").astype(np.uint8)
    ids = tuple(f"toy-{n:05d}" for n in range(count))
    pixel_digest = hashlib.sha256(np.ascontiguousarray(images_NCHW)).hexdigest()
    return AttributeImages(
        images_NCHW, labels_NT, tasks, split_N, ids,
        fingerprint=fingerprint_of(pixel_digest, labels_NT, tasks, split_N, ids),
        source=f"toy faces, {count:,} images at {image_size}×{image_size}, seed {seed}; "
        "split 70/10/20 by index",
    )


@lru_cache(maxsize=1)
def _toy_faces(count: int, image_size: int, seed: int) -> np.ndarray:
    """The last set of faces is kept: runs on other tasks of the same faces follow each other."""
    images_NCHW, _ = make_toy_faces(count, image_size, seed)
    images_NCHW.setflags(write=False)
    return images_NCHW


def checked_source(root: str | Path, image_size: int, crop: float, layouts: str) -> Path:
    """The root of a data set; a ModlibError unless it is there, and size and crop are allowed."""
    check_image_size(image_size)
    if not 0 < crop <= 1:
        raise ModlibError(f"crop is {crop!r}; allowed: above 0 and at most 1")
    root = Path(root).expanduser()
    if not root.exists():
        raise ModlibError(f"root {str(root)!r} does not exist; give {layouts}")
    return root


def checked_tasks(tasks: Sequence[str] | None) -> tuple[str, ...] | None:
    """The tasks as a tuple, or None; a ModlibError unless they are a list of distinct names."""
    if tasks is None:
        return None
    if isinstance(tasks, str) or not tasks:
        raise ModlibError(f"tasks is {tasks!r}; give a list of attribute names, or None for all")
    twice = sorted({task for task in tasks if list(tasks).count(task) > 1})
    if twice:
        raise ModlibError(f"tasks names {', '.join(map(str, twice))} more than once")
    return tuple(tasks)


def _labels_of_tasks(
    labels_NA: np.ndarray, attributes: Sequence[str], tasks: Sequence[str], where: str
) -> np.ndarray:
    """labels_NT: the tasks' columns, or, where there are tasks of several categories, int16."""
    if any(task in FACE_CATEGORIES for task in tasks):
        return face_categories(labels_NA, attributes, tasks)
    for task in tasks:
        if task not in attributes:
            raise unknown_name("attribute", task, attributes, where)
    return np.ascontiguousarray(labels_NA[:, [attributes.index(task) for task in tasks]])


def _choose(
    rows: dict[str, np.ndarray], notes: dict, tasks: tuple[str, ...] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """The tasks and their labels_NT, when each attribute has holders and others in every split."""
    tasks = tasks or tuple(notes["attributes"])
    labels_NT = _labels_of_tasks(
        rows["labels"], notes["attributes"], tasks, notes["attribute_file"])
    if labels_NT.dtype != bool:
        return tasks, labels_NT
    for index, split in enumerate(SPLITS):
        labels_KT = labels_NT[rows["split"] == index]
        for wrong, word in ((labels_KT.any(0), "no"), (~labels_KT.all(0), "only")):
            if len(labels_KT) and not wrong.all():
                bad = ", ".join(np.array(tasks)[~wrong])
                raise ModlibError(
                    f"the {len(labels_KT)} {split} images have {word} holders of {bad}: no triplet "
                    "can be drawn; name other tasks, or give more images"
                )
    return tasks, labels_NT


def fingerprint_of(pixel_digest: str, labels_NT, tasks, split_N, ids, triplets=None) -> str:
    """The digest that :class:`AttributeImages` has; given triplets enter it where there are any."""
    digest = hashlib.sha256(repr((pixel_digest, labels_NT.shape, tasks)).encode())
    given = [triplets[split] for split in SPLITS] if triplets else []
    for part in (labels_NT, split_N, "\n".join(ids).encode(), *given):
        digest.update(part)
    return digest.hexdigest()[:16]


def cache_path(
    cache_dir: str | Path | None, dataset: str, root: Path, image_size: int, crop: float = 1.0
) -> Path:
    """Where the packed images of a data set are, or will be; the folder is made if need be.

    Raises:
        ModlibError: the folder cannot be made.
    """
    folder = Path(cache_dir or os.environ.get("MODLIB_CACHE_DIR") or "~/.cache/modlib").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModlibError(f"cache_dir {str(folder)!r} cannot be made: {error.strerror}") from error
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    size = f"{image_size}" if crop == 1 else f"{image_size}-crop{crop:g}"
    return folder / f"{dataset}-{name}-{size}.images"
