"""The file of packed images: how it is laid out, written whole, and checked on opening.

File: a header block of ``HEADER_BYTES`` (magic, then JSON padded with spaces); the pixels, uint8,
``N × 3 × S × S``; then an index, an ``.npz`` of the arrays with one row an image (names, labels, …)
and of notes. The header names the source, its identity, the size, the count and the sha256 of the
pixels. The file is written under a temporary name beside its own and renamed when whole.

Shapes: N images, C=3 channels (RGB), S the side of the square image in pixels.
"""

import io
import json
import math
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modlib.errors import ModlibError

MAGIC = b"modlib images\n"
FORMAT = 1  # raise it when the layout of the file or the way an image is decoded changes
HEADER_BYTES = 4096


@dataclass(frozen=True)
class PackedImages:
    """An opened cache.

    Attributes:
        images_NCHW: read-only uint8 memory map, RGB, 0 to 255.
        rows: arrays of N rows each, as they were given to ``pack_images``.
        notes: what was given to ``pack_images``, and ``broken``: the names that were left out.
        pixel_digest: sha256 of the pixels, taken when they were packed.
    """

    images_NCHW: np.ndarray
    rows: dict[str, np.ndarray]
    notes: dict[str, Any]
    pixel_digest: str


def open_images(path: Path, identity: str, image_size: int) -> PackedImages:
    """Open a packed file if it is whole and is the one that is wanted.

    Only the header and the index are read, so this takes milliseconds whatever the count.

    Raises:
        ModlibError: there is no such file, it is torn, or it was packed from another source,
            at another size or by another version.
    """
    try:
        with open(path, "rb") as file:
            header = _parse_header(file.read(HEADER_BYTES))
            wanted = {"format": FORMAT, "identity": identity, "image_size": image_size}
            for field, value in wanted.items():
                if header[field] != value:
                    raise ModlibError(f"{path} has {field} {header[field]!r}, wanted {value!r}")
            shape = (header["count"], 3, image_size, image_size)
            index_at = HEADER_BYTES + math.prod(shape)
            if os.fstat(file.fileno()).st_size != index_at + header["index_bytes"]:
                raise ModlibError(f"{path} is torn: its length is not what its header says")
            file.seek(index_at)
            rows, notes = _parse_index(file.read())
            if any(len(array) != header["count"] for array in rows.values()):
                raise ModlibError(f"{path} is torn: its index has not a row an image")
        images_NCHW = np.memmap(path, np.uint8, "r", HEADER_BYTES, shape)
        return PackedImages(images_NCHW, rows, notes, _digest_in(header))
    except ModlibError:
        raise
    except Exception as error:  # numpy and zipfile raise nearly anything on broken bytes
        raise ModlibError(f"{path} cannot be opened as packed images "
                          f"({type(error).__name__}: {error})") from error


def release_pages(images_NCHW: np.ndarray) -> None:
    """Let go of the memory that a memory map's pages take; they are read again when needed.

    An array that is not a memory map stays as it is.
    """
    mapped = images_NCHW
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def header_bytes(header: dict[str, Any]) -> bytes:
    """The header block of a file."""
    return (MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES)


def _parse_header(block: bytes) -> dict[str, Any]:
    if len(block) != HEADER_BYTES or not block.startswith(MAGIC):
        raise ModlibError("the header is missing")
    return json.loads(block[len(MAGIC) :])


def _digest_in(header: dict[str, Any]) -> str:
    if not re.fullmatch("[0-9a-f]{64}", header["pixel_digest"]):
        raise ModlibError("the header has no digest of the pixels")
    return header["pixel_digest"]


def index_bytes(rows: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> bytes:
    """The index that follows the pixels."""
    buffer = io.BytesIO()
    np.savez(buffer, notes=np.array(json.dumps(notes)), **rows)
    return buffer.getvalue()


def _parse_index(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        rows = {name: arrays[name] for name in arrays.files}
    return rows, json.loads(str(rows.pop("notes")))
