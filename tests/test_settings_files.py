"""What a settings file asks for is read from it; a file that cannot be read asks for nothing."""

import pytest

from modlib.errors import ModlibError
from modlib.settings_files import read_changes, read_settings, seeds_of, settings_file


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The path of a settings file of a project of its own, not there yet."""
    folder = tmp_path / "notebooks/settings"
    folder.mkdir(parents=True)
    monkeypatch.setattr("modlib.results.project_root", lambda start=None: tmp_path)
    return folder / "mine.yml"


@pytest.mark.parametrize(("text", "seeds"), [
    ("seeds: [0, 3]\nepochs: 2\n", {0, 3}), ("epochs: 2\n", set()), ("# none\n", set()),
    ("seeds:\n", set()), ("seeds: 3\n", set()), ("seeds: [0, a]\n", {0}), ("seeds: [\n", set())])
def test_the_seeds_are_those_of_the_file(mine, text, seeds):
    mine.write_text(text)
    assert seeds_of("mine") == seeds


def test_where_there_is_no_file_no_seeds_are_asked_for(mine):
    assert seeds_of("mine") == set()
    with pytest.raises(ModlibError, match="settings 'mine' is not known"):
        settings_file("mine")


def test_files_and_single_settings_are_read_alike(mine):
    mine.write_text("epochs: 2\nseeds: [0]\n")
    assert read_settings(settings_file("mine")) == read_changes("{epochs: 2, seeds: [0]}")
