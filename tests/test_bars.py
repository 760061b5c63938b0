"""In a notebook a bar is one line that is replaced; elsewhere it is tqdm's own."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from modlib.bars import bar_file

BAR = """
from tqdm import tqdm
from modlib.bars import bar_file
print("before")
file = bar_file({"modlib": {"records": []}})
for number in tqdm(range(200), mininterval=0, miniters=1, file=file):
    pass
"""


def executed(source: str) -> list:
    """The outputs that a saved notebook holds of a cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    return notebook.cells[0].outputs


def test_a_saved_notebook_holds_the_last_line_alone():
    [output] = executed(BAR)
    assert output.output_type == "display_data"
    assert output.data["text/plain"].startswith("100%|") and "200/200" in output.data["text/plain"]
    assert "\r" not in output.data["text/plain"]
    assert output.metadata == {"modlib": {"records": []}}


def test_what_comes_after_the_bar_stays():
    assert [output.output_type for output in executed(BAR + "print('after')")] == [
        "display_data", "stream"]


def test_an_error_comes_below_the_bar():
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(BAR + "1 / 0")


def test_outside_a_notebook_tqdm_decides(capsys):
    assert bar_file() is None
    list(tqdm(range(3), file=bar_file()))
    assert "3/3" in capsys.readouterr().err
