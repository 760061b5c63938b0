"""The figures of the long tests are those that were counted; without them the page says so."""

import sys
from pathlib import Path

import pytest

from modlib.errors import ModlibError
from modlib.soak import last_soak, soak_sentence, write_soak

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import soak


def test_without_a_record_it_was_not_run_yet(tmp_path):
    assert last_soak(tmp_path) is None
    assert "Not run yet" in soak_sentence(tmp_path) and "make soak" in soak_sentence(tmp_path)


@pytest.mark.parametrize("passed", [True, False])
def test_the_sentence_says_what_the_record_holds(tmp_path, passed):
    write_soak(212, 9, 10_400, passed, 660.0, "a" * 40, tmp_path)
    said = soak_sentence(tmp_path)
    for part in ("212 kills", "9 full disks", "10,400 random cases", "11 minutes", "`aaaaaaaaaa`"):
        assert part in said
    assert ("not every test passed" in said) is not passed


def test_a_record_that_lacks_a_figure_is_named(tmp_path):
    write_soak(1, 1, 1, True, 1.0, "a" * 40, tmp_path)
    path = tmp_path / "soak.json"
    path.write_text(path.read_text().replace('"kills"', '"skills"'))
    with pytest.raises(ModlibError, match=r"soak\.json lacks kills"):
        soak_sentence(tmp_path)


PROPERTY = """
from hypothesis import given, settings, strategies as st

@given(st.integers())
@settings(max_examples=37, database=None)
def test_of_numbers(n):
    assert n == n
"""


def test_random_cases_are_counted_as_hypothesis_tells_them(tmp_path, capsys):
    (tmp_path / "test_property.py").write_text(PROPERTY)
    code, printed = soak.pytest(str(tmp_path), "-p", "no:cacheprovider", "-m", "hypothesis",
                                "--hypothesis-show-statistics", f"--rootdir={tmp_path}")
    assert code == 0
    assert soak.counted_cases(printed) == 37
    assert printed in capsys.readouterr().out
