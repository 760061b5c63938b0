"""CLEVR as a set of tasks: yes-or-no questions about rendered scenes.

The answers are worked out from the scene files. CLEVR: Johnson et al., CVPR 2017.
Source: Levi and Ullman, section 4.1.
Shapes: N images, T tasks.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from modlib.errors import ModlibError, unknown_name
from modlib.photographs import hold_out, packed_photographs, text_of
from modlib.task_images import UNKNOWN, TaskImages, digest

VALID_SHARE = 1 / 14  # 5,000 of the 70,000 training scenes


def two_cylinders(scene: Mapping[str, Any]) -> bool:
    """Are there exactly two cylinders in the image?"""
    return len(_all(scene, "cylinder")) == 2


def cube_right_of_sphere(scene: Mapping[str, Any]) -> bool:
    """Is there a cube right of a sphere? By the scene's own relation ``right``."""
    cubes = set(_all(scene, "cube"))
    return any(cubes & set(scene["relationships"]["right"][sphere])
               for sphere in _all(scene, "sphere"))


def red_sphere(scene: Mapping[str, Any]) -> bool:
    """Is there a red sphere?"""
    return any(scene["objects"][sphere]["color"] == "red" for sphere in _all(scene, "sphere"))


def leftmost_sphere_large(scene: Mapping[str, Any]) -> bool | None:
    """Is the leftmost sphere, by its pixels, large? None where there is no sphere."""
    spheres = [scene["objects"][sphere] for sphere in _all(scene, "sphere")]
    if not spheres:
        return None
    return min(spheres, key=lambda sphere: sphere["pixel_coords"][0])["size"] == "large"


WORDS = {"shape": ("cube", "sphere", "cylinder"), "size": ("small", "large"),
         "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")}
QUESTIONS = {"two cylinders": two_cylinders, "cube right of sphere": cube_right_of_sphere,
             "red sphere": red_sphere, "leftmost sphere large": leftmost_sphere_large}


@lru_cache(maxsize=4)
def load_clevr(
    root: str | Path, tasks: tuple[str, ...], image_size: int = 224, cache_dir: str | None = None,
    skip_broken: bool = False,
) -> TaskImages:
    """CLEVR v1.0 as it is unpacked, or any part of its images; read once a process.

    The official validation scenes are for testing, as those for testing come without scenes; a
    fourteenth of the training scenes is for validation. A question about a sphere that is not
    there is not asked. The whole image is squeezed into a square.

    Args:
        root: the folder with ``images/train``, ``images/val`` and ``scenes``.
        tasks: names of ``QUESTIONS``.
        image_size: side in pixels.
        cache_dir: folder of the decoded images; None: see :func:`modlib.datasets.load_celeba`.
        skip_broken: leave out images that cannot be decoded.

    Raises:
        ModlibError: an unknown question, a missing or foreign scene file, or no images.
    """
    root = Path(root)
    for task in tasks:
        if task not in QUESTIONS:
            raise unknown_name("task", task, QUESTIONS, "the questions about CLEVR")
    names, answers, testing = [], [], []
    for part in ("train", "val"):
        folder = root / "images" / part
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for name, of_scene in _answered_scenes(root, part):
            if name in there:
                names.append(f"images/{part}/{name}")
                answers.append(of_scene)
                testing.append(part == "val")
    if len(set(names)) != len(names):
        raise ModlibError(f"a scene file of {root} describes some image twice")
    if not names:
        raise ModlibError(f"no image of CLEVR's scenes is in {root / 'images'}")
    rows = {"labels": np.array(answers, np.int64),
            "split": hold_out(np.array(testing), VALID_SHARE)}
    packed = packed_photographs(root, "clevr", names, rows, image_size, cache_dir, skip_broken)
    labels_NT = packed.rows["labels"][:, [list(QUESTIONS).index(task) for task in tasks]]
    split_N = packed.rows["split"]
    return TaskImages(
        packed.images_NCHW, labels_NT, tasks, 2, split_N,
        digest(packed.pixel_digest, labels_NT, split_N, *tasks), f"CLEVR ({root.name})")


def _all(scene: Mapping[str, Any], shape: str) -> list[int]:
    """The numbers of the objects of a shape."""
    return [n for n, one in enumerate(scene["objects"]) if one["shape"] == shape]


def _answers(scene: Mapping[str, Any]) -> list[int]:
    answers = [question(scene) for question in QUESTIONS.values()]
    return [UNKNOWN if answer is None else int(answer) for answer in answers]


def _answered_scenes(root: Path, part: str) -> list[tuple[str, list[int]]]:
    """The name of every scene's image, and the answers to all questions."""
    name = f"scenes/CLEVR_{part}_scenes.json"
    try:
        scenes = json.loads(text_of(root, [name]), parse_constant=_refuse_constant)["scenes"]
        return [(_checked(scene)["image_filename"], _answers(scene)) for scene in scenes]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        if type(error) is ModlibError:
            raise
        raise ModlibError(f"{name} in {root} is no scene file of CLEVR "
                          f"({type(error).__name__}: {error})") from error


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _checked(scene: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scene, when the questions can tell its objects apart; a misspelt shape is no shape."""
    if not isinstance(scene["image_filename"], str):
        raise ValueError(f"image_filename is {scene['image_filename']!r}, no name")
    for one in scene["objects"]:
        for kind, allowed in WORDS.items():
            if one[kind] not in allowed:
                raise ValueError(f"in {scene['image_filename']}: {kind} is {one[kind]!r}; allowed: "
                                 f"{', '.join(allowed)}")
        if not isinstance(one["pixel_coords"][0], int | float):
            raise ValueError(f"in {scene['image_filename']}: pixel_coords are no numbers")
    count = len(scene["objects"])
    right = scene["relationships"]["right"]
    if len(right) != count or not all(
            isinstance(n, int) and 0 <= n < count for of_object in right for n in of_object):
        raise ValueError(f"in {scene['image_filename']}: right must name, for each of the {count} "
                         "objects, some of them")
    return scene
