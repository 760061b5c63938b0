"""Single fields of a record, each of the kind that it has to be, or refused by its place.

All raise :class:`~modlib.errors.ModlibError` with the record's name, the place within it, what is
there and what is allowed. ``where`` is the place, such as ``results.test_accuracy``; ``found`` is
what stands there; ``tasks`` are the names of the record's tasks.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from modlib.arrays import from_json
from modlib.errors import ModlibError

INFINITY, LARGEST = math.inf, sys.float_info.max


def entry(
    holder: Mapping[str, Any], key: str, kind: type, record: Mapping[str, Any] | None = None,
    where: str = "", default: Any = None,
) -> Any:
    """An entry of a kind; the default where it is not there and may be missing.

    Args:
        record: the record that the holder is a part of; None where the holder is the record.
        where: the place of the holder within it, which ends in a dot.
    """
    found = holder.get(key, default)
    if not isinstance(found, kind):
        refuse(record or holder, f"{where}{key}", found, f"a {kind.__name__}")
    return found


def check_number(
    record: Mapping[str, Any], where: str, found: Any, low: float = -INFINITY,
    high: float = INFINITY, above: float = -INFINITY,
) -> None:
    """Refuse what is no finite number from ``low`` to ``high``, larger than ``above``."""
    real = is_number(found) and -LARGEST <= found <= LARGEST
    if not real or not low <= found <= high or found <= above:
        limits = (f" above {above:g}" if above > -INFINITY else
                  f" from {low:g}" + (f" to {high:g}" if high < INFINITY else " up"))
        refuse(record, where, found, f"a number{limits}")


def is_number(found: Any) -> bool:
    """Whether a value of a record is a number, and not true or false."""
    return isinstance(found, int | float) and not isinstance(found, bool)


def check_whole(record: Mapping[str, Any], where: str, found: Any, low: int) -> None:
    """Refuse what is no whole number from ``low`` up."""
    if not isinstance(found, int) or isinstance(found, bool) or found < low:
        refuse(record, where, found, f"a whole number from {low} up")


def check_shares(record: Mapping[str, Any], where: str, found: Any, tasks: list) -> None:
    """Refuse what is not a share from 0 to 1 for each task; None was not measured, and passes."""
    if found is None:
        return
    if not isinstance(found, dict) or found.keys() != set(tasks):
        refuse(record, where, found, f"one share for each of {', '.join(tasks)}")
    for task, share in found.items():
        check_number(record, f"{where}.{task}", share, 0, 1)


def check_pair(record: Mapping[str, Any], where: str, found: Any, tasks: list) -> None:
    """Refuse what does not name two different tasks."""
    pair = found.get("tasks") if isinstance(found, dict) else None
    two = isinstance(pair, list) and len(pair) == 2 and pair[0] != pair[1]
    if not two or not all(task in tasks for task in pair):
        refuse(record, f"{where}.tasks", pair, f"two of {', '.join(tasks)}")


def read_array(
    record: Mapping[str, Any], where: str, found: Any, shape: tuple[int | None, ...]
) -> np.ndarray:
    """A packed array, unpacked; refused unless of the shape, where None is any length."""
    try:
        array = from_json(found)
    except ModlibError as error:
        refuse(record, where, error, "a packed array")
    wanted = tuple(any_of if one is None else one
                   for one, any_of in zip(shape, array.shape, strict=False))
    if len(array.shape) != len(shape) or array.shape != wanted:
        refuse(record, where, f"of shape {array.shape}",
               f"shape {str(shape).replace('None', 'any')}")
    return array


def check_sign_counts(
    record: Mapping[str, Any], where: str, found: Any, shape: tuple[int, ...], probes: int
) -> None:
    """Refuse counts of signs that cannot be.

    Positive, then negative products of each pair of tasks: together at most the probes.
    """
    counts = read_array(record, where, found, shape)
    if counts.dtype == bool or counts.min() < 0 or counts.sum(0).max() > probes:
        refuse(record, where, f"{counts.min()} to {counts.sum(0).max()} a pair",
               f"0 to {probes}, the probes")


def refuse(record: Mapping[str, Any], where: str, found: Any, allowed: str) -> NoReturn:
    """Raise the error that says what a record has in a place, and what is allowed there."""
    raise ModlibError(f"record {record['name']}: {where} is {str(found)[:100]}; allowed: {allowed}")
