"""UT-Zappos50K: catalogue images of shoes, in four tasks of several categories each.

Images: Yu and Grauman, CVPR 2014. Splits and triplets: those of Veit, Belongie and Karaletsos,
"Conditional Similarity Networks", CVPR 2017, which Zhao et al., ECCV 2018, section 4.3, train and
test on too.

Shapes: N images, T tasks, K triplets a task, P lines of filenames.json.
"""

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from modlib.datasets import (
    SPLITS,
    AttributeImages,
    cache_path,
    checked_source,
    checked_tasks,
    fingerprint_of,
    images_of_size,
)
from modlib.errors import ModlibError, unknown_name
from modlib.image_cache import open_or_pack, pack_images
from modlib.image_files import Files
from modlib.packed_images import PackedImages
from modlib.zappos_files import (
    FOLDERS,
    IMAGES,
    LAYOUT,
    TASKS,
    Lists,
    folder_of,
    read_categories,
    read_lists,
    read_text,
    splits_of,
)


def load_zappos(
    root: str | Path,
    tasks: Sequence[str] | None = None,
    image_size: int = 112,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    progress: bool = True,
    crop: float = 1.0,
) -> AttributeImages:
    """UT-Zappos50K as the triplet lists use it: their images, splits and triplets.

    An image belongs to the split whose lists name it, whatever the task; images in no list are
    left out. The categories come from ``meta-data.csv``; without that file no image has a label,
    and there are the triplets alone. Images are decoded once into a cache.

    Args:
        root: see ``LAYOUT``.
        tasks: some of class, closure, gender and heel, in the order wanted; None: all four.
        image_size: side in pixels; the centre square of each image is resized to it.
        cache_dir, workers, progress, crop: see :func:`modlib.datasets.load_celeba`.
        skip_broken: the same; with an image that is left out go the triplets that it is in.

    Returns:
        ``labels_NT`` int16, -1 where a category is not known; ``triplets`` as many of each task as
        the shortest of a split's lists has, the first ones.

    Raises:
        ModlibError: no such root, or a file is missing; an unknown task; a line of a list that is
            not three places in filenames.json, by its number; an image in two splits; a column
            that meta-data.csv lacks; an image that cannot be read.
    """
    root = checked_source(root, image_size, crop, LAYOUT)
    tasks = checked_tasks(tasks) or TASKS
    for task in tasks:
        if task not in TASKS:
            raise unknown_name("task", task, TASKS, "UT-Zappos50K")
    with closing(Files(root)) as texts:
        names = texts.names(FOLDERS)
        folder = folder_of(names, "filenames.json", root)
        paths = [line.strip() for line in read_text(texts, f"{folder}filenames.json").splitlines()]
        lists = read_lists(texts, folder, len(paths))
        split_P = splits_of(lists, paths)
        path = cache_path(cache_dir, "zappos", root, image_size, crop)
        images, within = _where_images_are(root, folder, names)
        used = np.flatnonzero(split_P >= 0)
        wanted = [f"{within}{paths[place]}" for place in used]
        identity = _identity(images, wanted, crop)

        def pack() -> PackedImages:
            with closing(Files(images if images.is_file() else root)) as files:
                return pack_images(
                    files, wanted, path, image_size, crop=crop, identity=identity,
                    source=str(root.resolve()), rows={"place": used}, notes={}, workers=workers,
                    skip_broken=skip_broken, progress=progress)

        packed = open_or_pack(path, identity, image_size, skip_broken, root.name, pack)
        used = packed.rows["place"]  # without those that are broken
        ids = tuple(paths[place] for place in used)
        labels_NT, note = _labels(texts, folder, names, ids, tasks)
    split_N = split_P[used].astype(np.uint8)
    triplets = _triplets_of_images(lists, tasks, used, len(paths))
    return AttributeImages(
        packed.images_NCHW, labels_NT, tasks, split_N, ids,
        fingerprint=fingerprint_of(
            packed.pixel_digest, labels_NT, tasks, split_N, ids, triplets),
        source=f"UT-Zappos50K ({root.name}), {images_of_size(len(ids), image_size, crop)}; splits "
        f"and triplets of the CSN lists; {note}",
        triplets=triplets,
    )


def _where_images_are(root: Path, folder: str, names: Sequence[str]) -> tuple[Path, str]:
    """The folder of the images, or the archive that they are in; and what is before their paths."""
    if root.is_file():
        return root, f"{folder}{IMAGES}/"
    if (root / IMAGES).is_dir():
        return root / IMAGES, f"{IMAGES}/"
    if f"{IMAGES}.zip" in names:
        return root / f"{IMAGES}.zip", f"{IMAGES}/"
    raise ModlibError(f"{root} holds no {IMAGES}; give {LAYOUT}")


def _identity(images: Path, wanted: Sequence[str], crop: float) -> str:
    """Digest of what tells, without reading the images, whether they are what they were.

    An image rewritten in place goes unnoticed.
    """
    stat = images.stat()
    kept = (wanted, crop, stat.st_size, stat.st_mtime_ns)
    return hashlib.sha256(repr(kept).encode()).hexdigest()


def _labels(
    texts: Files, folder: str, names: Sequence[str], ids: Sequence[str], tasks: Sequence[str]
) -> tuple[np.ndarray, str]:
    """labels_NT, int16, and one line that says where they came from."""
    for table in (f"{folder}meta-data.csv", f"{folder}ut-zap50k-data/meta-data.csv"):
        if table in names:
            return read_categories(read_text(texts, table), table, ids, tasks), "meta-data.csv"
    return np.full((len(ids), len(tasks)), -1, np.int16), "no meta-data.csv, so no categories"


def _triplets_of_images(
    lists: Lists, tasks: Sequence[str], used: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """Each split's triplets, int64 (T, K, 3), as places among the images that are used."""
    image_P = np.full(count, -1, np.int64)
    image_P[used] = np.arange(len(used))
    triplets = {}
    for split in SPLITS:
        of_tasks = [image_P[lists[split][task]] for task in tasks]
        whole = [of_task[(of_task >= 0).all(1)] for of_task in of_tasks]
        shortest = min(map(len, whole))
        if shortest == 0:  # the lists are never empty
            raise ModlibError(f"no triplet of the {split} split has all its images: too many are "
                              "broken")
        longest = max(len(lists[split][task]) for task in tasks)
        if shortest < longest:
            warnings.warn(
                f"UT-Zappos50K: of the {split} split {shortest:,} triplets a task are used, "
                f"as many as the shortest list has left; the longest has {longest:,}",
                stacklevel=3)
        triplets[split] = np.stack([of_task[:shortest] for of_task in whole])
    return triplets
