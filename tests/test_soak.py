"""The figures of the long tests are those that were counted; without them the page says so."""

import sys
from functools import partial
from pathlib import Path

import pytest

from modlib.errors import ModlibError
from modlib.results import write_record
from modlib.soak import FLOORS, last_soak, soak_sentence, write_soak

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import soak


def test_without_a_record_it_was_not_run_yet(tmp_path):
    assert last_soak(tmp_path) is None
    assert "Not run yet" in soak_sentence(tmp_path) and "make soak" in soak_sentence(tmp_path)


FIGURES = {"kills": 212, "full_disks": 9, "cases": 10_400, "records": 115}
TESTS = ["tests/test_faults.py", "every property test"]


def write(folder, failed=(), commit="a" * 40, **changes) -> dict:
    return write_soak(FIGURES | changes, TESTS, failed, 660.0, commit, folder)


def test_the_sentence_says_what_the_record_holds(tmp_path):
    assert write(tmp_path)["passed"] is True
    said = soak_sentence(tmp_path)
    for part in ("212 kills", "9 full disks", "10,400 random cases", "115 records checked",
                 "11 minutes", "`aaaaaaaaaa`", "tests/test_faults.py, every property test",
                 "all of these passed"):
        assert part in said


def test_what_failed_is_said(tmp_path):
    assert write(tmp_path, ["tests/test_faults.py::test_a", "other"])["passed"] is False
    said = soak_sentence(tmp_path)
    assert "**not all of it passed**: tests/test_faults.py::test_a; other." in said
    assert "The last that passed" not in said


@pytest.mark.parametrize(("changes", "said"), [
    ({"kills": 199}, "199 kills survived, at least 200 wanted"),
    ({"cases": 9_999}, "9,999 random cases, at least 10,000 wanted")])
def test_with_too_few_it_has_not_passed_though_every_test_did(tmp_path, changes, said):
    assert write(tmp_path, **changes)["passed"] is False
    assert said in soak_sentence(tmp_path)


def test_the_page_of_promises_has_the_same_floors():
    page = (soak.ROOT / "book/promises.md").read_text("utf8")
    assert f"at least {FLOORS['kills']:,} kills, at least {FLOORS['cases']:,} random cases" in page


def test_what_reaches_the_floors_has_passed(tmp_path):
    assert write(tmp_path, kills=200, cases=10_000)["passed"] is True


def test_the_last_that_passed_is_kept_through_those_that_do_not(tmp_path):
    write(tmp_path, commit="b" * 40)
    for _ in range(2):
        write(tmp_path, ["a test"], kills=3)
        said = soak_sentence(tmp_path)
        assert "3 kills survived" in said.partition("The last that passed")[0]
        assert "The last that passed was of commit `bbbbbbbbbb`: 212 kills survived" in said
    assert write(tmp_path)["last_passed"] is None


@pytest.mark.parametrize(("change", "said"), [
    ({"passed": True}, "passed is True; but what failed is"), ({"kills": None}, "kills is None"),
    ({"cases": -1}, "cases is -1"), ({"failed": None}, "failed is None; allowed: a list"),
    ({"version": 1}, "has version 1")])
def test_a_record_that_cannot_be_is_refused(tmp_path, change, said):
    write_record(tmp_path / "soak.json", write(tmp_path, ["a test"]) | change)
    with pytest.raises(ModlibError, match=said):
        soak_sentence(tmp_path)


def test_a_record_that_lacks_a_figure_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "soak.json"
    path.write_text(path.read_text().replace('"kills"', '"skills"'))
    with pytest.raises(ModlibError, match=r"soak\.json lacks kills"):
        soak_sentence(tmp_path)


# What the tool does


def test_a_record_before_that_cannot_be_read_does_not_lose_the_new_one(tmp_path):
    (tmp_path / "soak.json").write_text("{}")
    assert write(tmp_path, ["a test"])["last_passed"] is None
    assert last_soak(tmp_path)["failed"] == ["a test"]


def test_the_tests_that_it_runs_are_there():
    assert all((soak.ROOT / name).exists() for name in soak.FILES)


@pytest.mark.parametrize(("status", "printed", "failed"), [
    (0, "30 passed", []), (5, "no tests ran", ["it (status 5)"]), (2, "", ["it (status 2)"]),
    (1, "FAILED tests/a.py::test_b[1 2] - x\nERROR tests/c.py\n",
     ["tests/a.py::test_b[1", "tests/c.py"])])
def test_what_failed_is_named_by_pytests_summary(status, printed, failed):
    assert soak.what_failed(status, printed, "it") == failed


def test_every_committed_record_is_counted(monkeypatch):
    count, failed = soak.checked_records()
    assert count >= 100 and failed == []

    def refuse():
        raise ModlibError("record a: no")

    monkeypatch.setattr(soak, "all_committed", refuse)
    assert soak.checked_records() == (0, ["record a: no"])


@pytest.mark.parametrize("statuses", [(0, 0), (1, 0), (0, 5)])
def test_all_parts_decide_whether_it_has_passed(monkeypatch, tmp_path, statuses):
    """With stand-ins for the tests themselves; figures that were reached are kept in any case."""
    left = list(statuses)

    def stand_in(*arguments):
        if "--soak" in arguments:
            Path(arguments[-1]).write_text('{"kills": 201, "full_disks": 9}')
        return left.pop(0), "- during generate phase: 10001 passing examples, 0 failing examples"

    monkeypatch.setattr(soak, "pytest", stand_in)
    monkeypatch.setattr(soak, "checked_records", lambda: (115, []))
    for name in ("write_soak", "soak_sentence"):
        monkeypatch.setattr(soak, name, partial(getattr(soak, name), folder=tmp_path))
    assert soak.main() == int(any(statuses))
    record = last_soak(tmp_path)
    assert {name: record[name] for name in FIGURES} == {
        "kills": 201, "full_disks": 9, "cases": 10_001, "records": 115}
    assert record["passed"] is not any(statuses)


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
