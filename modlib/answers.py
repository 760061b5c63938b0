"""The answers of the test split, kept one by one in a record, and systems compared by them.

An image is asked every task's question, and images may be composed of parts that others have too
(digits), so answers are not independent. As in :mod:`modlib.intervals`, the variance over images
and that over trainings are added.
Shapes: T tasks, N test images, M parts of an image, R seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modlib.arrays import from_json, to_json
from modlib.errors import ModlibError
from modlib.intervals import clustered_variance, of_common_seeds, over_images_and_seeds
from modlib.record_checks import ANSWERS


def kept_answers(
    right_TN: np.ndarray, asked_TN: np.ndarray | None = None, parts_NM: np.ndarray | None = None
) -> dict[str, Any]:
    """What a record keeps of the answers; :func:`read_answers` reads it.

    Args:
        right_TN: bool.
        asked_TN: bool, which images a task asks about; None: all.
        parts_NM: int, what each image is composed of, by number; None: nothing that another has.
    """
    kept = {"right": to_json(right_TN)}
    if asked_TN is not None and not asked_TN.all():
        kept["asked"] = to_json(asked_TN)
    if parts_NM is not None:
        numbers = np.unique(parts_NM, return_inverse=True)[1].reshape(parts_NM.shape)
        kept["parts"] = to_json(numbers.astype(np.int32))
    return kept


def read_answers(
    record: Mapping[str, Any], key: str = ANSWERS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers of a record: right_TN and asked_TN, bool, and parts_NM, int.

    An image without parts is its own only part.

    Args:
        key: of the record's results.

    Raises:
        ModlibError: the record does not hold them.
    """
    try:
        kept = record["results"][key]
    except KeyError:
        raise ModlibError(f"record {record['name']} is of a version that did not keep {key}; "
                          "delete it and run again") from None
    right_TN = from_json(kept["right"])
    asked_TN = from_json(kept["asked"]) if "asked" in kept else np.ones_like(right_TN)
    own_N1 = np.arange(right_TN.shape[1])[:, None]
    return right_TN, asked_TN, from_json(kept["parts"]) if "parts" in kept else own_N1


def share_weights(asked_TN: np.ndarray) -> np.ndarray:
    """What each answer counts in the mean over tasks of their shares: float (T, N), sum 1.

    Args:
        asked_TN: bool, of each task one image at least.
    """
    return asked_TN / (len(asked_TN) * asked_TN.sum(1, keepdims=True))


def answer_difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], key: str = ANSWERS
) -> tuple[float, float, float]:
    """One system's mean share of right answers minus another's, in points, with its interval.

    The share is the mean over tasks of that over the images that a task asks about.

    Args:
        first, second: the records of each, one a seed; seeds that only one of them has are left
            out, as the same seed has the same initial weights.
        key: see :func:`read_answers`.

    Returns:
        the difference and the ends of its 95 % interval over images and seeds, which are infinite
        where there are fewer than two common seeds; nan where there is none.

    Raises:
        ModlibError: records of other tasks or other test images.
    """
    sides = of_common_seeds(first, second)
    if not sides[0]:
        return float("nan"), float("nan"), float("nan")
    reference = sides[0][0]
    _, asked_TN, parts_NM = read_answers(reference, key)
    weights_TN = share_weights(asked_TN)
    right = [np.stack([_right(record, reference, key) for record in side]) for side in sides]
    difference_RTN = 100 * (right[0].astype(np.float64) - right[1])
    mean_TN = difference_RTN.mean(0)
    of_tasks_T1 = (weights_TN * mean_TN).sum(1, keepdims=True) / weights_TN.sum(1, keepdims=True)
    of_images = clustered_variance((weights_TN * (mean_TN - of_tasks_T1)).sum(0), parts_NM)
    return over_images_and_seeds((weights_TN * difference_RTN).sum((1, 2)), of_images)


def _right(record: Mapping[str, Any], reference: Mapping[str, Any], key: str) -> np.ndarray:
    right_TN, *asked = read_answers(record, key)
    same = all(np.array_equal(one, other)
               for one, other in zip(asked, read_answers(reference, key)[1:], strict=True))
    tests = [f"{', '.join(one['settings']['tasks'])} on data {one['data']['fingerprint']}"
             for one in (reference, record)]
    if tests[0] != tests[1] or not same:
        raise ModlibError(
            f"records {reference['name']} ({tests[0]}) and {record['name']} ({tests[1]}) cannot be "
            "compared image by image: the tasks, the data and the test images must be the same")
    return right_TN
