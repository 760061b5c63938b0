"""Attribute-labelled images, from CelebA on disk or from the procedural toy faces.

CelebA: Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

Shapes: N images, C=3 channels (RGB), H W height and width, T tasks (attributes),
A all the attributes of a file.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from modlib.errors import ModlibError, unknown_name
from modlib.image_cache import (
    Files,
    broken_images,
    check_image_size,
    open_images,
    pack_images,
)
from modlib.toy_faces import TOY_FACE_ATTRIBUTES, make_toy_faces

SPLITS = ("train", "valid", "test")  # split_N holds the index: 0, 1, 2, as list_eval_partition.txt

ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")
IDENTITY = ("identity_CelebA.txt", "identity_CelebA.csv")
FOLDERS = ("celeba", "anno", "eval", "img", "img_align_celeba", "img_align_celeba_png")
LAYOUTS = (
    "a folder, or a zip archive of one, that holds list_attr_celeba.txt (official) or "
    "list_attr_celeba.csv (Kaggle), with the images in img_align_celeba/ or, beside the text "
    "files, in img_align_celeba.zip; list_eval_partition and identity_CelebA are read when there"
)


@dataclass(frozen=True)
class AttributeImages:
    """Images, their binary attributes and the split that each belongs to.

    Attributes:
        images_NCHW: uint8 array or read-only memory map, RGB, 0 to 255, square.
        labels_NT: bool array; ``labels_NT[n, t]`` says whether image n has attribute t.
        tasks: the T attribute names, in the order of the columns of ``labels_NT``.
        split_N: uint8 array; 0 train, 1 valid, 2 test.
        ids: the N image names, such as ``"000040"``.
        fingerprint: hexadecimal digest of everything above; part of a record's name.
        source: one line for people: where the images and the split came from.
    """

    images_NCHW: np.ndarray
    labels_NT: np.ndarray
    tasks: tuple[str, ...]
    split_N: np.ndarray
    ids: tuple[str, ...]
    fingerprint: str
    source: str

    def indices(self, split: str) -> np.ndarray:
        """Indices (int64, ascending) of the images in ``split``: train, valid or test."""
        return np.flatnonzero(self.split_N == SPLITS.index(split))


def load_celeba(
    root: str | Path,
    tasks: Sequence[str] | None = None,
    image_size: int = 64,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    progress: bool = True,
) -> AttributeImages:
    """CelebA, or any subset of it, as it lies on disk: unpacked or zipped, official or Kaggle's.

    The images are decoded once into a cache and memory-mapped after that; a cache that does not
    match ``root`` is rebuilt. The images used are those that are there and have an attribute row,
    in the order of their names. The split is the official partition; where that file is missing,
    80/10/10 by a hash of the identity, or of the image name where that file is missing too.

    Args:
        root: a folder or a zip archive; see ``LAYOUTS``.
        tasks: the attributes wanted, in the order wanted; None: all of the file.
        image_size: side in pixels, 16 to 1024; the centre square of each image is resized to it.
        cache_dir: folder of the cache; None: $MODLIB_CACHE_DIR, or else ~/.cache/modlib.
        workers: decoding threads; None: one a core.
        skip_broken: leave out images that cannot be decoded, with a warning that names them.
        progress: show a progress bar while decoding.

    Raises:
        ModlibError: no such root, or a layout not understood; an attribute that does not exist, is
            given twice, or has no holder (or only holders) in a split; a label, a row or an image
            that is broken, named; a bad size; a cache folder that cannot be written.
    """
    check_image_size(image_size)
    tasks = _checked_tasks(tasks)
    root = Path(root).expanduser()
    if not root.exists():
        raise ModlibError(f"root {str(root)!r} does not exist; give {LAYOUTS}")
    identity = _identity(root)
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    path = _cache_folder(cache_dir) / f"celeba-{name}-{image_size}.images"
    try:
        packed = open_images(path, identity, image_size)
        if packed.notes["broken"] and not skip_broken:  # perhaps mended since
            raise broken_images(packed.notes["broken"], root.name)
    except ModlibError:  # not there, torn, or packed from what root was before
        rows, notes, files, names = _read_celeba(root)
        try:
            _choose(rows, notes, tasks)  # a mistake in tasks is said before the long work
            packed = pack_images(
                files, names, path, image_size, identity=identity, source=str(root.resolve()),
                rows=rows, notes=notes, workers=workers, skip_broken=skip_broken,
                progress=progress,
            )
        finally:
            files.close()
    if broken := packed.notes["broken"]:
        warnings.warn(f"{root.name}: {len(broken)} images that cannot be decoded are left out: "
                      f"{', '.join(broken)}", stacklevel=2)
    tasks, labels_NT = _choose(packed.rows, packed.notes, tasks)
    split_N, ids = packed.rows["split"], tuple(packed.rows["ids"].tolist())
    return AttributeImages(
        packed.images_NCHW, labels_NT, tasks, split_N, ids,
        fingerprint=_fingerprint(packed.pixel_digest, labels_NT, tasks, split_N, ids),
        source=f"CelebA ({root.name}), {len(ids):,} images at {image_size}×{image_size}; "
        f"{packed.notes['split']}",
    )


def load_toy_faces(
    count: int = 4000, image_size: int = 64, tasks: Sequence[str] | None = None, seed: int = 0
) -> AttributeImages:
    """Procedural faces, split 70/10/20 into train, valid and test by index.

    Args:
        count: number of images.
        image_size: side in pixels.
        tasks: the attributes wanted, in the order wanted; None: all of ``TOY_FACE_ATTRIBUTES``.
        seed: seed of the faces.

    Raises:
        ModlibError: an attribute that does not exist or is given twice.
    """
    attributes = tuple(TOY_FACE_ATTRIBUTES)
    tasks = _checked_tasks(tasks) or attributes
    columns = _columns(tasks, attributes, "TOY_FACE_ATTRIBUTES")
    images_NCHW, labels_NA = make_toy_faces(count, image_size, seed)
    labels_NT = np.ascontiguousarray(labels_NA[:, columns])
    ends = [count * 7 // 10, count * 8 // 10]
    split_N = np.searchsorted(ends, np.arange(count), side="right").astype(np.uint8)
    ids = tuple(f"toy-{n:05d}" for n in range(count))
    pixel_digest = hashlib.sha256(np.ascontiguousarray(images_NCHW)).hexdigest()
    return AttributeImages(
        images_NCHW, labels_NT, tasks, split_N, ids,
        fingerprint=_fingerprint(pixel_digest, labels_NT, tasks, split_N, ids),
        source=f"toy faces, {count:,} images at {image_size}×{image_size}, seed {seed}; "
        "split 70/10/20 by index",
    )


def _checked_tasks(tasks: Sequence[str] | None) -> tuple[str, ...] | None:
    if tasks is None:
        return None
    if isinstance(tasks, str) or not tasks:
        raise ModlibError(f"tasks is {tasks!r}; give a list of attribute names, or None for all")
    twice = sorted({task for task in tasks if list(tasks).count(task) > 1})
    if twice:
        raise ModlibError(f"tasks names {', '.join(map(str, twice))} more than once")
    return tuple(tasks)


def _columns(tasks: Sequence[str], attributes: Sequence[str], where: str) -> list[int]:
    for task in tasks:
        if task not in attributes:
            raise unknown_name("attribute", task, attributes, where)
    return [attributes.index(task) for task in tasks]


def _choose(
    rows: dict[str, np.ndarray], notes: dict, tasks: tuple[str, ...] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """The tasks and their labels_NT, when each has holders and non-holders in every split."""
    tasks = tasks or tuple(notes["attributes"])
    labels_NT = rows["labels"][:, _columns(tasks, notes["attributes"], notes["attribute_file"])]
    for index, split in enumerate(SPLITS):
        labels_KT = labels_NT[rows["split"] == index]
        for wrong, word in ((labels_KT.any(0), "no"), (~labels_KT.all(0), "only")):
            if len(labels_KT) and not wrong.all():
                bad = ", ".join(np.array(tasks)[~wrong])
                raise ModlibError(
                    f"the {len(labels_KT)} {split} images have {word} holders of {bad}: no triplet "
                    "can be drawn; name other tasks, or give more images"
                )
    return tasks, np.ascontiguousarray(labels_NT)


def _fingerprint(pixel_digest: str, labels_NT, tasks, split_N, ids) -> str:
    digest = hashlib.sha256(repr((pixel_digest, labels_NT.shape, tasks)).encode())
    for part in (labels_NT, split_N, "\n".join(ids).encode()):
        digest.update(part)
    return digest.hexdigest()[:16]


def _cache_folder(cache_dir: str | Path | None) -> Path:
    folder = Path(cache_dir or os.environ.get("MODLIB_CACHE_DIR") or "~/.cache/modlib").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModlibError(f"cache_dir {str(folder)!r} cannot be made: {error.strerror}") from error
    return folder


def _identity(root: Path) -> str:
    """Digest of what tells, without reading the images, whether ``root`` is what it was.

    For an archive its size and time; for a folder the names of the images, and the sizes and times
    of the image folders and of the other files. An image rewritten in place goes unnoticed.
    """
    names, kept = [], [root]
    if root.is_dir():
        listed = Files(root).names(FOLDERS)
        names = [name for name in listed if _in_image_folder(name)]
        kept = [root / folder for folder in sorted({name.rpartition("/")[0] for name in names})]
        kept += [root / name for name in listed if name.lower().endswith((".txt", ".csv", ".zip"))]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in kept]
    return hashlib.sha256(repr((stats, "\n".join(names))).encode()).hexdigest()


def _in_image_folder(name: str) -> bool:
    return "img_align_celeba" in name.rpartition("/")[0].lower()


def _read_celeba(root: Path) -> tuple[dict[str, np.ndarray], dict, Files, list[str]]:
    """The rows and notes of the images that are there, and the files and names to read them by."""
    texts = Files(root)
    names = texts.names(FOLDERS)
    attribute_file = _find(names, *ATTRIBUTES)
    if attribute_file is None:
        raise ModlibError(f"{root} holds no list_attr_celeba.txt or .csv; give {LAYOUTS}")
    header, table = _read_table(texts, attribute_file, header=True)
    images = _match(filter(_in_image_folder, names), table, root)
    files = texts
    zipped = _find(names, "img_align_celeba.zip")
    if not images and zipped and root.is_dir():
        files = Files(root / zipped)
        images = _match(files.names(), table, root / zipped)
    if not images:
        raise ModlibError(f"no image in {root} has a row in {attribute_file}; give {LAYOUTS}")
    ids = sorted(images)
    split_N, split_note = _split(texts, names, ids)
    where = PurePosixPath(attribute_file).name
    rows = {"ids": np.array(ids), "split": split_N, "labels": _labels(table, header, ids, where)}
    notes = {"attributes": header, "attribute_file": where, "split": split_note}
    return rows, notes, files, [images[name] for name in ids]


def _find(names: Iterable[str], *basenames: str) -> str | None:
    """The file of one of these names that lies nearest to the root; the first name wins."""
    found = [(name.count("/"), basenames.index(base), name) for name in names
             if (base := name.rpartition("/")[2]) in basenames]
    return min(found)[2] if found else None


def _match(names: Iterable[str], table: dict, where: Path) -> dict[str, str]:
    """Image name without its suffix → file name, for the images that have a row."""
    images = {}
    for name in names:
        stem = PurePosixPath(name).stem
        if stem in table and images.setdefault(stem, name) is not name:
            raise ModlibError(f"{where} has image {stem} twice: {images[stem]} and {name}")
    return images


def _read_table(files: Files, name: str, header: bool) -> tuple[list[str], dict[str, list[str]]]:
    """Value columns and ``{image name without suffix: values}`` of a .txt or .csv file.

    Args:
        files: where the file is read from.
        name: the file.
        header: the first row surely names the columns; else only if it ends in no number.
    """
    try:
        lines = files.read(name).decode("utf-8-sig").splitlines()
    except Exception as error:
        raise ModlibError(f"{name} in {files.path} cannot be read: {error}") from error
    comma = "," if name.lower().endswith(".csv") else None
    columns, table = None, {}
    for number, line in enumerate(lines, start=1):
        values = [value.strip(' "') for value in line.strip().split(comma)]
        if not line.strip() or (number == 1 and len(values) == 1 and values[0].isdigit()):
            continue  # an empty line, or the count with which the official file opens
        if columns is None:
            named = header or not values[-1].isdigit()
            columns = values[bool(comma) :] if named else ["value"]
            if named:
                continue
        if len(values) != len(columns) + 1:
            raise ModlibError(f"{name}, line {number}: {len(values)} columns, not "
                              f"{len(columns) + 1} (image name, then {len(columns)} values)")
        stem = values[0].rpartition(".")[0] or values[0]
        if stem in table:
            raise ModlibError(f"{name}, line {number}: image {stem} has a row already")
        table[stem] = values[1:]
    return columns or [], table


def _labels(table: dict, attributes: list[str], ids: list[str], where: str) -> np.ndarray:
    """labels_NA, bool, from −1/1 or 0/1, whichever the file uses."""
    labels_NA = np.array([table[name] for name in ids])
    negative = "-1" if (labels_NA == "-1").any() else "0"
    wrong = np.argwhere((labels_NA != "1") & (labels_NA != negative))
    if len(wrong):
        n, a = wrong[0]
        raise ModlibError(f"{where}: image {ids[n]} has {attributes[a]} = {str(labels_NA[n, a])!r};"
                          f" allowed: {negative} or 1 in this file (−1/1, or 0/1 throughout)")
    return labels_NA == "1"


def _split(texts: Files, names: list[str], ids: list[str]) -> tuple[np.ndarray, str]:
    """split_N and one line that says where it came from."""
    by_identity = "no partition file: split 80/10/10 by a hash of the identity"
    for basenames, note in ((PARTITION, "official partition"), (IDENTITY, by_identity)):
        name = _find(names, *basenames)
        if name is None:
            continue
        _, table = _read_table(texts, name, header=False)
        missing = [i for i in ids if i not in table]
        if missing:
            raise ModlibError(f"{name} has no row for {len(missing)} of the images, "
                              f"such as {missing[0]}")
        values = [table[i][0] for i in ids]
        if basenames == IDENTITY:
            return _hashed_split(values), note
        for image, value in zip(ids, values, strict=True):
            if value not in ("0", "1", "2"):
                raise ModlibError(f"{name}: image {image} is in {value!r}; allowed: 0, 1 or 2")
        return np.array(values).astype(np.uint8), note
    return _hashed_split(ids), "no partition, no identity file: split 80/10/10 by a hash of the id"


def _hashed_split(keys: list[str]) -> np.ndarray:
    tenths = [hashlib.sha256(key.encode()).digest()[0] * 10 // 256 for key in keys]
    return np.searchsorted([8, 9], tenths, side="right").astype(np.uint8)
