"""Tasks of several categories, made of a face's binary attributes.

With them an experiment on such tasks (section 4.3 of Zhao et al., ECCV 2018, has shoes) runs on toy
faces and on CelebA alike.
Shapes: N images, A all the attributes of a data set, T tasks, K attributes of one task.
"""

from collections.abc import Sequence

import numpy as np

from modlib.errors import unknown_name

FACE_CATEGORIES = {  # by task: the attributes that give a category each; the last one is "none"
    "Hair": ("Bald", "Bangs", "Wavy_Hair", "Straight_Hair"),
    "Beard": ("Goatee", "Mustache", "Sideburns", "5_o_Clock_Shadow"),
    "Mouth": ("Smiling", "Mouth_Slightly_Open"),
    "Brows": ("Bushy_Eyebrows", "Arched_Eyebrows"),
}


def face_categories(
    labels_NA: np.ndarray, attributes: Sequence[str], tasks: Sequence[str]
) -> np.ndarray:
    """The category of each face in some tasks of ``FACE_CATEGORIES``.

    It is the place of the first attribute of the task's list that the face has, or the length of
    the list for a face with none of them.

    Args:
        labels_NA: bool, all attributes of the data set.
        attributes: their A names.
        tasks: the T tasks wanted, in the order wanted.

    Returns:
        int16 (N, T).

    Raises:
        ModlibError: an unknown task, or an attribute of it that the data set lacks.
    """
    return np.stack([_category(labels_NA, list(attributes), task) for task in tasks], axis=1)


def _category(labels_NA: np.ndarray, attributes: list[str], task: str) -> np.ndarray:
    if task not in FACE_CATEGORIES:
        raise unknown_name("task of several categories", task, FACE_CATEGORIES)
    listed = FACE_CATEGORIES[task]
    for name in listed:
        if name not in attributes:
            raise unknown_name(f"attribute of {task}", name, attributes)
    held_NK = labels_NA[:, [attributes.index(name) for name in listed]]
    return np.where(held_NK.any(1), held_NK.argmax(1), len(listed)).astype(np.int16)
