"""Arrays go into a record and come out of it as they were; what is torn is refused."""

import base64
import json
import zlib

import numpy as np
import pytest

from modlib.arrays import DTYPES, from_json, to_json
from modlib.errors import ModlibError


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (8,), (2, 5), (3, 0, 2), (4, 3, 7)])
def test_an_array_comes_back_as_it_was(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    back = from_json(json.loads(json.dumps(to_json(array))))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert np.array_equal(back, array)


def test_float32_keeps_every_bit():
    array = np.array([0.1, -0.0, 1e-40, np.inf, np.nan], np.float32)
    assert from_json(to_json(array)).tobytes() == array.tobytes()


def test_an_array_that_is_not_contiguous_comes_back():
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T
    assert np.array_equal(from_json(to_json(array)), array)


def test_what_comes_back_can_be_written_to():
    for dtype in DTYPES:
        from_json(to_json(np.zeros(3, dtype)))[0] = 1


@pytest.mark.parametrize("dtype", ["float64", "int64", "object", "<U3"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ModlibError, match="one of bool, uint8, int16, int32, float32"):
        to_json(np.zeros(2).astype(dtype))


GOOD = to_json(np.arange(6, dtype=np.int32))


@pytest.mark.parametrize("changes", [
    {"dtype": "object"}, {"dtype": "float64"}, {"shape": [7]}, {"shape": [5]}, {"shape": [-6]},
    {"shape": ["6"]}, {"shape": None}, {"data": "!"}, {"data": GOOD["data"][:-8]}, {"data": None},
    {"data": base64.b64encode(b"not compressed").decode()},
    {"data": base64.b64encode(zlib.compress(bytes(25))).decode()}])
def test_what_is_torn_is_refused(changes):
    with pytest.raises(ModlibError, match="a record's array cannot be read"):
        from_json(GOOD | changes)


@pytest.mark.parametrize("value", [None, [], "text", {}, {"dtype": "bool"}])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(ModlibError, match="a record's array cannot be read"):
        from_json(value)


def test_no_more_is_unpacked_than_the_shape_asks_for():
    huge = base64.b64encode(zlib.compress(bytes(10**8))).decode()
    with pytest.raises(ModlibError, match="5 bytes in the place of 4"):
        from_json({"dtype": "int32", "shape": [1], "data": huge})
