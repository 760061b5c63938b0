"""A face's category is that of the first attribute in a task's list, by a plain loop."""

import numpy as np
import pytest

from modlib.errors import ModlibError
from modlib.face_categories import FACE_CATEGORIES, face_categories
from modlib.toy_faces import TOY_FACE_ATTRIBUTES, sample_attributes

LABELS = sample_attributes(400, 3)


def test_a_category_is_that_of_the_first_attribute_of_the_tasks_list():
    tasks = tuple(reversed(FACE_CATEGORIES))
    given_NT = face_categories(LABELS, TOY_FACE_ATTRIBUTES, tasks)
    assert given_NT.dtype == np.int16
    assert given_NT.shape == (400, len(tasks))
    for t, task in enumerate(tasks):
        attributes = FACE_CATEGORIES[task]
        for n in range(400):
            held = [k for k, name in enumerate(attributes)
                    if LABELS[n, TOY_FACE_ATTRIBUTES.index(name)]]
            assert given_NT[n, t] == (held[0] if held else len(attributes))
        assert set(given_NT[:, t]) == set(range(len(attributes) + 1))


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(ModlibError, match="categories 'Hairs' is not known; did you mean 'Hair'"):
        face_categories(LABELS, TOY_FACE_ATTRIBUTES, ["Hairs"])


def test_an_attribute_that_the_data_set_lacks_is_named():
    fewer = [name for name in TOY_FACE_ATTRIBUTES if name != "Bangs"]
    with pytest.raises(ModlibError, match="attribute of Hair 'Bangs' is not known"):
        face_categories(LABELS[:, :len(fewer)], fewer, ["Beard", "Hair"])
