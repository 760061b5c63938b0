"""Images decoded once, in parallel, into one file of packed images.

Shapes: N images, C=3 channels (RGB), K images of a chunk.
"""

import hashlib
import io
import math
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from modlib.bars import bar_file
from modlib.errors import ModlibError
from modlib.image_files import Files
from modlib.locks import one_at_a_time
from modlib.packed_images import (
    FORMAT,
    HEADER_BYTES,
    PackedImages,
    header_bytes,
    index_bytes,
    open_images,
)
from modlib.whole_files import remove_abandoned, written_whole

IMAGE_SIZES = (16, 1024)
CHUNK = 64  # images a worker decodes at a time


def check_image_size(image_size: int) -> None:
    """Raise a ModlibError unless ``image_size`` is an int within ``IMAGE_SIZES``."""
    low, high = IMAGE_SIZES
    if not isinstance(image_size, int) or not low <= image_size <= high:
        raise ModlibError(f"image_size is {image_size!r}; allowed: an integer from {low} to {high}")


def decode_image(data: bytes, image_size: int, crop: float | None = 1.0) -> np.ndarray:
    """Decode one image: its centre square, the middle of that, or the whole of it, resized, RGB.

    A photograph that says how it was held (EXIF orientation) is turned upright.

    Args:
        data: the file's bytes, in any format Pillow reads.
        image_size: side of the result in pixels.
        crop: side of what is kept over the centre square's, above 0 and at most 1; None: the whole
            image, squeezed into a square.

    Returns:
        uint8 array of shape ``(3, image_size, image_size)``.
    """
    with Image.open(io.BytesIO(data)) as image:
        # A JPEG decodes at 1/2, 1/4 or 1/8 when twice the wanted size is still left after it.
        wanted = math.ceil(2 * image_size / (crop or 1))
        image.draft("RGB", (wanted, wanted))
        ImageOps.exif_transpose(image, in_place=True)
        width, height = kept_width, kept_height = image.size
        if crop is not None:
            kept_width = kept_height = crop * min(width, height)
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        square = image.convert("RGB").resize(
            (image_size, image_size),
            Image.Resampling.LANCZOS,
            box=(left, top, left + kept_width, top + kept_height),
            reducing_gap=2.0,
        )
    return np.asarray(square).transpose(2, 0, 1)


def pack_images(
    files: Files,
    names: Sequence[str],
    path: Path,
    image_size: int,
    *,
    crop: float | None = 1.0,
    identity: str,
    source: str,
    rows: Mapping[str, np.ndarray],
    notes: Mapping[str, Any],
    workers: int | None = None,
    skip_broken: bool = False,
    progress: bool = True,
) -> PackedImages:
    """Decode images in parallel into one file at ``path``, then open it.

    Args:
        files: where the images are read from.
        names: the N image names in ``files``, in the order in which they are packed.
        path: the cache file; replaced whole, or left as it was if anything fails.
        image_size: side of the packed images, 16 to 1024 pixels.
        crop: see :func:`decode_image`.
        identity: what ``open_images`` must be given to accept the file.
        source: where the images came from, for people who read the header.
        rows: arrays with one row an image, kept beside the pixels.
        notes: anything else to keep, as JSON holds it.
        workers: threads (Pillow decodes without the interpreter's lock); None: one a core.
        skip_broken: leave out images that cannot be decoded, and their rows, rather than stop.
        progress: show a progress bar (never where TQDM_DISABLE is set).

    Raises:
        ModlibError: an image cannot be decoded and ``skip_broken`` is false; none can be;
            a bad ``image_size`` or ``workers``; no room on the disk, or it cannot be written to.
    """
    check_image_size(image_size)
    workers = available_cores() if workers is None else workers
    if workers < 1:
        raise ModlibError(f"workers is {workers!r}; allowed: 1 or more, or None for one a core")
    _check_room(path.parent, len(names) * 3 * image_size**2)
    remove_abandoned(path)
    good_N, broken, digest = np.ones(len(names), bool), [], hashlib.sha256()
    with written_whole(path, "the image cache") as file, _progress_bar(len(names), progress) as bar:
        file.write(bytes(HEADER_BYTES))
        starts = range(0, len(names), CHUNK)
        chunks = _in_order(
            lambda start: _decode_chunk(files, names[start : start + CHUNK], image_size, crop),
            starts, workers,
        )
        with closing(chunks):
            for start, (pixels_KCHW, errors) in zip(starts, chunks, strict=True):
                for offset, reason in errors.items():
                    if not skip_broken:
                        raise broken_images([names[start + offset]], files.path.name, reason)
                    good_N[start + offset] = False
                    broken.append(names[start + offset])
                file.write(pixels_KCHW)
                digest.update(pixels_KCHW)
                bar.update(len(pixels_KCHW) + len(errors))
        if not good_N.any():
            raise ModlibError(f"none of the {len(names)} images in {files.path} can be decoded")
        index = index_bytes({name: array[good_N] for name, array in rows.items()},
                             {**notes, "broken": broken})
        file.write(index)
        file.seek(0)
        file.write(header_bytes({
            "format": FORMAT, "source": source[-1000:], "identity": identity,
            "image_size": image_size, "count": int(good_N.sum()),
            "pixel_digest": digest.hexdigest(), "index_bytes": len(index),
        }))
    return open_images(path, identity, image_size)


def open_or_pack(
    path: Path, identity: str, image_size: int, skip_broken: bool, where: str,
    pack: Callable[[], PackedImages],
) -> PackedImages:
    """The packed images at ``path``, packed first where they are not, or are not those wanted.

    Of several processes that find them missing one packs, and the others wait.

    Args:
        path, identity, image_size: see ``open_images``.
        skip_broken: accept that images which cannot be decoded are left out, with a warning that
            names them.
        where: the name of the data set on disk, for messages.
        pack: packs the images into ``path`` and opens it.
    """
    def open_wanted() -> PackedImages:
        packed = open_images(path, identity, image_size)
        if packed.notes["broken"] and not skip_broken:  # perhaps mended since
            raise broken_images(packed.notes["broken"], where)
        return packed

    def open_if_wanted() -> PackedImages | None:
        try:
            return open_wanted()
        except ModlibError:  # not there, torn, or packed from what was there before
            return None

    packed = open_if_wanted()
    if packed is None:
        with one_at_a_time(path):
            packed = open_if_wanted()  # another process may have packed them meanwhile
            if packed is None:
                packed = pack()
    if broken := packed.notes["broken"]:
        warnings.warn(f"{where}: {len(broken)} images that cannot be decoded are left out: "
                      f"{', '.join(broken)}", stacklevel=3)
    return packed


def broken_images(names: Sequence[str], where: str, reason: str = "") -> ModlibError:
    """The error for images that cannot be decoded."""
    return ModlibError(
        f"{where}: cannot decode {', '.join(names)}{f' ({reason})' if reason else ''}; "
        "replace or remove the file, or leave such images out with skip_broken=True"
    )


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_chunk(
    files: Files, names: Sequence[str], image_size: int, crop: float | None
) -> tuple[np.ndarray, dict[int, str]]:
    pixels_KCHW = np.empty((len(names), 3, image_size, image_size), np.uint8)
    errors = {}
    for offset, name in enumerate(names):
        try:
            pixels_KCHW[offset - len(errors)] = decode_image(
                files.read(name), image_size, crop)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on broken bytes
            errors[offset] = f"{type(error).__name__}: {error}"
    return pixels_KCHW[: len(names) - len(errors)], errors


def _in_order(call: Callable, items: Iterable, workers: int) -> Iterator:
    """``map(call, items)`` on threads, with few results waiting at any time."""
    pool, pending = ThreadPoolExecutor(workers), deque()
    try:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModlibError(
            f"the image cache needs {needed / 1e9:.2f} GB in {folder}, which has {free / 1e9:.2f} "
            "GB free; choose another cache_dir or a smaller image_size"
        )


def _progress_bar(total: int, progress: bool) -> tqdm:
    off = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(total=total, desc="Decoding images", unit="image", disable=off or not progress,
                file=bar_file())
