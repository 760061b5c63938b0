"""An address, once there is one, reaches every page's buttons and every notebook's first cell."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONFIG = (ROOT / "_config.yml").read_text("utf8")
ADDRESS = "https://github.com/someone/something"
sys.path.insert(0, str(ROOT / "tools"))

from write_address import CELL_ID, config_with, notebook_with  # noqa: E402


def address_of(config: str) -> str:
    return yaml.safe_load(config)["repository"]["url"]


# What is committed

@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_begins_as_the_tool_writes_it(path):
    text = path.read_text("utf8")
    assert notebook_with(text, address_of(CONFIG)) == text, "run python tools/write_address.py"
    first = next(cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code")
    assert first.id == CELL_ID and first.metadata.tags == ["remove-cell"]


def test_an_address_can_be_written_and_taken_away_again():
    there = config_with(CONFIG, ADDRESS, "trunk")
    assert yaml.safe_load(there)["repository"] == {"url": ADDRESS, "branch": "trunk"}
    assert config_with(there, address_of(CONFIG)) == CONFIG
    elsewhere = yaml.safe_load(config_with(CONFIG, "https://gitlab.com/someone/something"))
    assert elsewhere["launch_buttons"]["colab_url"] == ""
    text = NOTEBOOKS[0].read_text("utf8")
    assert ADDRESS in notebook_with(text, ADDRESS)
    assert notebook_with(notebook_with(text, ADDRESS), address_of(CONFIG)) == text


# The buttons

@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Build a book of one notebook with our addresses; return its page."""
    def build(address: str) -> str:
        book, ours = tmp_path_factory.mktemp("book"), yaml.safe_load(config_with(CONFIG, address))
        kept = {key: ours[key] for key in ("repository", "launch_buttons", "title")}
        (book / "_config.yml").write_text(yaml.safe_dump(
            kept | {"execute": {"execute_notebooks": "off"}}))
        (book / "_toc.yml").write_text("format: jb-book\nroot: page\n")
        notebook = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            cells=[nbformat.v4.new_markdown_cell("# A page?")])
        nbformat.write(notebook, book / "page.ipynb")
        jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
        done = subprocess.run([*jupyter_book, "build", str(book), "-W"],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return (book / "_build/html/page.html").read_text("utf8")
    return build


def test_with_an_address_a_page_opens_in_colab_and_in_jupyterlab(build):
    page = build(ADDRESS)
    assert ('href="https://colab.research.google.com/github/someone/something/blob/main/page.ipynb"'
            in page)
    assert ('href="https://mybinder.org/v2/gh/someone/something/main?urlpath=lab/tree/page.ipynb"'
            in page)


def test_without_an_address_there_is_no_button(build):
    page = build("")
    assert "colab.research" not in page and "mybinder" not in page and "launch-buttons" not in page


# The cell

@pytest.fixture
def run_cell(tmp_path, monkeypatch):
    """Run a notebook's first code cell in an empty folder; return the commands that it gave."""
    monkeypatch.chdir(tmp_path)
    given = []

    def run(command: list[str], check: bool) -> None:
        assert check
        given.append(command)
        if command[:2] == ["git", "clone"]:
            (tmp_path / "project/modlib").mkdir(parents=True)

    monkeypatch.setattr(subprocess, "run", run)

    def run_cell(address: str) -> list[list[str]]:
        text = notebook_with(NOTEBOOKS[0].read_text("utf8"), address)
        first = next(cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code")
        exec(first.source, {})
        return given
    return run_cell


def test_elsewhere_than_on_colab_the_cell_does_nothing(run_cell, tmp_path):
    assert run_cell(ADDRESS) == run_cell("") == []
    assert Path.cwd() == tmp_path


def test_on_colab_the_cell_fetches_the_project_once(run_cell, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    fetched = [["git", "clone", "--depth", "1", ADDRESS, "project"],
               [sys.executable, "-m", "pip", "install", "--quiet", "-e", ".[all]"]]
    assert run_cell(ADDRESS) == fetched
    assert Path.cwd() == tmp_path / "project"
    assert run_cell(ADDRESS) == fetched  # run again, it finds all there


def test_on_colab_without_an_address_the_cell_says_what_to_do(run_cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    with pytest.raises(AssertionError, match=r"no public address yet: upload the project, %cd"):
        run_cell("")
