"""A notebook's parameters are found in its cells and sorted by what they belong to."""

import pytest

from modlib.errors import ModlibError
from modlib.parameters import notebook_parameters, split_parameters
from modlib.settings import Places, Settings


def test_parameters_go_to_the_class_that_knows_them():
    assert split_parameters({"seed": 1, "device": "cpu", "epochs": 2}, Settings, Places) == [
        {"seed": 1, "epochs": 2}, {"device": "cpu"}]


@pytest.mark.parametrize(("given", "nearest"), [
    ("learning_rat", "learning_rate"), ("Seed", "seed"), ("epoch", "epochs"),
    ("devise", "device"), ("data_rot", "data_root")])
def test_a_parameter_of_no_class_is_refused_with_the_nearest_name(given, nearest):
    with pytest.raises(ModlibError, match=rf"parameter '{given}' .*did you mean '{nearest}'"):
        split_parameters({"seed": 1, given: 1}, Settings, Places)


# In the cells of a notebook

OWN_CELL = """# Parameters: the quick profile
seed: int = 0  # of everything
epochs = 3
device = "auto"
"""


def ran(*cells: str) -> dict:
    """The namespace of a notebook that has run these cells."""
    namespace = {"In": [""]}
    for cell in cells:
        namespace["In"].append(cell)
        exec(cell, namespace)
    return namespace


def test_parameters_are_those_of_the_parameters_cell():
    namespace = ran("import os\nsecret = 1", OWN_CELL, "settings = 3\nwork = 4")
    assert notebook_parameters(namespace) == {"seed": 0, "epochs": 3, "device": "auto"}


def test_a_comment_elsewhere_makes_no_parameters_cell():
    namespace = ran(OWN_CELL, "work = 4\n# Parameters\nmore = 5", "note = '# Parameters'")
    assert notebook_parameters(namespace) == {"seed": 0, "epochs": 3, "device": "auto"}


def test_papermill_values_replace_the_notebooks_own():
    namespace = ran(OWN_CELL, "# Parameters\nseed = 7\n")
    assert notebook_parameters(namespace) == {"seed": 7, "epochs": 3, "device": "auto"}


def test_a_mistyped_papermill_parameter_is_seen():
    namespace = ran(OWN_CELL, "# Parameters\nsed = 7\n")
    assert notebook_parameters(namespace)["sed"] == 7


def test_a_parameter_that_the_notebook_does_not_know_is_refused_by_name():
    namespace = ran(OWN_CELL, "# Parameters\nepoch = 7\n")
    with pytest.raises(ModlibError, match=r"parameter 'epoch' .*did you mean 'epochs'"):
        split_parameters(notebook_parameters(namespace), Settings, Places)


def test_a_mistyped_name_is_gone_once_the_cell_is_mended_and_run_again():
    namespace = ran("# Parameters of this page\nsed = 1\n", "# Parameters of this page\nseed = 1\n")
    assert notebook_parameters(namespace) == {"seed": 1}


def test_a_cell_with_a_syntax_error_does_no_harm_once_it_is_mended():
    namespace = ran("# Parameters\nseed = 1\n")
    namespace["In"].insert(1, "# Parameters\nseed = = 1\n")
    assert notebook_parameters(namespace) == {"seed": 1}


def test_names_made_inside_a_parameters_value_are_no_parameters():
    namespace = ran("# Parameters\nsizes = [size for size in (1, 2)]\nsizes[0] = 3\n")
    assert notebook_parameters(namespace) == {"sizes": [3, 2]}


def test_without_a_history_the_plain_values_are_the_parameters():
    namespace = {"In": [""], "Out": {}, "_": 2, "sed": 1, "SMILE": "Smiling", "os": pytest}
    assert notebook_parameters(namespace) == {"sed": 1}


@pytest.mark.parametrize("namespace", [
    {}, {"In": [""]}, {"In": ["", "seed = 1"], "seed": 1}])
def test_a_notebook_whose_parameters_cell_has_not_run_is_refused(namespace):
    with pytest.raises(ModlibError, match=r"no parameters were found.*must start with '# Param"):
        notebook_parameters(namespace)
