"""Small arrays inside records: compressed, as text that JSON can hold."""

import base64
import binascii
import zlib
from typing import Any

import numpy as np

from modlib.errors import ModlibError

DTYPES = ("bool", "uint8", "int16", "int32", "float32")


def to_json(array: np.ndarray) -> dict[str, Any]:
    """A plain dictionary that :func:`from_json` turns back into the same array.

    Args:
        array: bool (kept as bits), uint8, int16, int32 or float32.

    Raises:
        ModlibError: another dtype.
    """
    if array.dtype.name not in DTYPES:
        raise ModlibError(f"an array in a record is one of {', '.join(DTYPES)}; "
                          f"given {array.dtype.name}")
    content = np.packbits(array) if array.dtype == bool else np.ascontiguousarray(array)
    return {"dtype": array.dtype.name, "shape": list(array.shape),
            "data": base64.b64encode(zlib.compress(content.tobytes(), 9)).decode("ascii")}


def from_json(value: Any) -> np.ndarray:
    """The array of a dictionary that :func:`to_json` made.

    Raises:
        ModlibError: it is not such a dictionary, or its data do not fill its shape.
    """
    try:
        dtype, shape = value["dtype"], tuple(value["shape"])
        if dtype not in DTYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"dtype {dtype!r} and shape {shape!r}")
        count = int(np.prod(shape, dtype=np.int64))
        size = -(-count // 8) if dtype == "bool" else count * np.dtype(dtype).itemsize
        # No more than is wanted is ever unpacked, whatever the text holds.
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(value["data"], validate=True), size + 1)
        if len(content) != size:
            raise ValueError(f"{len(content)} bytes in the place of {size}")
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise ModlibError(f"a record's array cannot be read: {error}") from error
    if dtype == "bool":
        bits = np.unpackbits(np.frombuffer(content, np.uint8), count=count)
        return bits.astype(bool).reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape).copy()
