"""Times taken side by side, the rows and the record that they become, and the table for people."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from modlib import speed
from modlib.errors import ModlibError
from modlib.results import write_record
from modlib.speed import (
    KEYS,
    RECORD,
    SHARED_BATCHING,
    benchmark_table,
    growth_exponent,
    number,
    probe_verdict,
    read_benchmark,
    row,
    side_by_side,
    takeaway,
)

# Side by side


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands still unless it is put forward."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.mark.parametrize(("warm_up", "order"), [
    (0, "abc cba abc"), (1, "cba abc cba abc"), (2, "abc cba abc cba abc")])
def test_calls_are_made_in_turn_and_every_other_repeat_backwards(warm_up, order):
    called = []
    side_by_side({name: lambda name=name: called.append(name) for name in "abc"}, 3, warm_up)
    assert "".join(called) == order.replace(" ", "")


@pytest.mark.parametrize("warm_up", [0, 1, 3])
@pytest.mark.parametrize("repeats", [1, 2, 5])
def test_every_repeat_is_timed_and_the_warm_up_is_not(clock, repeats, warm_up):
    calls = Counter()

    def call(name, seconds):
        calls[name] += 1
        clock.now += 1000 if calls[name] <= warm_up else seconds

    seconds = side_by_side(
        {"a": lambda: call("a", 2.0), "b": lambda: call("b", 0.5)}, repeats, warm_up)
    assert seconds == {"a": [2.0] * repeats, "b": [0.5] * repeats}
    assert calls == {"a": repeats + warm_up, "b": repeats + warm_up}


def test_one_call_of_each_warms_up_unless_told_otherwise():
    calls = Counter()
    side_by_side({"a": lambda: calls.update("a"), "b": lambda: calls.update("b")}, 2)
    assert calls == {"a": 3, "b": 3}


# Rows


@pytest.mark.parametrize(("ratios", "value"), [
    ([3.0], 3.0), ([1.0, 9.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 8.0], 3.0)])
def test_a_row_tells_the_median_and_the_range_of_its_repeats(ratios, value):
    made = row("a over b", ratios, "20 tasks", unit="s")
    assert made == {
        "key": "", "question": "a over b", "value": value, "low": min(ratios), "high": max(ratios),
        "repeats": len(ratios), "unit": "s", "at_least": None, "at_most": None, "met": True,
        "how": "20 tasks"}


@pytest.mark.parametrize(("target", "met"), [
    ({}, True), ({"at_least": 2.0}, True), ({"at_least": 2.01}, False), ({"at_most": 2.0}, True),
    ({"at_most": 1.99}, False), ({"at_least": 1.0, "at_most": 3.0}, True),
    ({"at_least": 1.0, "at_most": 1.5}, False), ({"at_least": 2.5, "at_most": 3.0}, False)])
def test_a_target_is_met_up_to_its_boundary_by_the_median(target, met):
    assert row("a over b", [0.1, 2.0, 50.0], "", **target)["met"] is met


@pytest.mark.parametrize("target", [{"at_least": 0.0}, {"at_most": 9.0}])
def test_what_is_not_a_number_meets_no_target(target):
    assert row("a over b", [float("nan")], "", **target)["met"] is False


def test_a_row_without_measurements_is_refused_by_its_question():
    with pytest.raises(ModlibError, match="'a over b' has no measurement"):
        row("a over b", [], "20 tasks")


# Growth


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_growth_exponent_of_a_power_law_is_its_power(exponent):
    sizes = [1, 5, 10, 20, 40]
    values = [0.3 * size**exponent for size in sizes]
    assert growth_exponent(sizes, values) == pytest.approx(exponent, abs=1e-12)


def test_growth_exponent_is_a_least_squares_slope():
    # On logarithmic axes 0, 2, 2 over 0, 1, 2.
    assert growth_exponent([1, 10, 100], [1, 100, 100]) == pytest.approx(1.0)


# The record


def write(folder, text: str) -> str:
    """Write what stands for the record; return how an error names it."""
    path = folder / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return f"record .*{RECORD}"


def test_without_a_record_there_is_none_to_read(tmp_path):
    assert read_benchmark(tmp_path) is None


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = {"version": 1, "rows": [row("a", [1.0, 2.0], "")], "curves": {}, "run": {"seconds": 1}}
    write_record(tmp_path / RECORD, record)
    assert read_benchmark(tmp_path) == read_benchmark(str(tmp_path)) == record


@pytest.mark.parametrize(("unit", "changes"), [
    ("×", {"low": 0.0}), ("×", {"low": -1.0}), ("s", {"low": 0}), ("%", {"low": -0.1}),
    ("×", {"low": 1.6}), ("×", {"high": 1.4}), ("×", {"value": None}), ("×", {"value": "1.5"}),
    ("×", {"value": True})])
def test_a_figure_that_cannot_be_is_refused_with_its_row(tmp_path, unit, changes):
    one = row("a over b", [1.0, 2.0], "", unit=unit) | changes
    write_record(tmp_path / RECORD, {"version": 1, "rows": [one], "curves": {}, "run": {}})
    with pytest.raises(ModlibError, match=r"low, value, high of 'a over b' are .*; allowed:"):
        read_benchmark(tmp_path)


def test_a_share_of_nothing_can_be(tmp_path):
    one = row("signs that agree", [0.0, 50.0], "", unit="%")
    write_record(tmp_path / RECORD, {"version": 1, "rows": [one], "curves": {}, "run": {}})
    assert read_benchmark(tmp_path)["rows"] == [one]


@pytest.mark.parametrize("text", ["", "{", '{"version": 1, "rows": ['])
def test_a_broken_record_is_refused_by_its_name(tmp_path, text):
    with pytest.raises(ModlibError, match=f"{write(tmp_path, text)} cannot be read"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize("key", KEYS)
def test_a_record_that_lacks_a_key_is_refused_by_its_name_and_the_key(tmp_path, key):
    content = json.dumps({name: [] for name in KEYS if name != key})
    with pytest.raises(ModlibError, match=f"{write(tmp_path, content)} lacks {key};"):
        read_benchmark(tmp_path)


def test_a_record_that_is_no_dictionary_lacks_every_key(tmp_path):
    with pytest.raises(ModlibError, match=f"{write(tmp_path, '[]')} lacks {', '.join(KEYS)};"):
        read_benchmark(tmp_path)


def test_the_projects_own_record_can_be_read_where_there_is_one():
    record = read_benchmark()
    assert record is None or len(benchmark_table(record["rows"])) == len(record["rows"])


# The table


def test_the_table_has_a_line_a_row_with_range_and_target_where_there_is_one():
    table = benchmark_table([
        row("fast", [14.21, 13.0, 1530.0], "", at_least=10), row("small", [0.3], "", unit="s"),
        row("slow", [1.3149, 1.25], "", at_most=1.2), row("share", [99.0], "", 99.5, unit="%"),
        row("plain", [5.0], "", at_most=5.0, unit="")])
    assert list(table.columns) == [
        "measured", "range over repeats", "target", "met", "how"]
    assert table.T.to_dict("list") == {
        "fast": ["14.2 ×", "13.0 to 1,530", "at least 10 ×", "yes", ""],
        "small": ["0.3 s", "", "", "", ""],
        "slow": ["1.28 ×", "1.25 to 1.31", "at most 1.2 ×", "no", ""],
        "share": ["99.0 %", "", "at least 99.5 %", "no", ""],
        "plain": ["5", "", "at most 5", "yes", ""]}


@pytest.mark.parametrize(("value", "text"), [
    (14.2, "14.2"), (1.31, "1.31"), (0.042, "0.042"), (1530.0, "1,530"), (0.0, "0"), (1, "1"),
    (9.876, "9.88"), (10, "10.0"), (99.94, "99.9"), (100.4, "100"), (1234567, "1,234,567"),
    (-14.23, "-14.2"), (-0.5, "-0.5"), (-1530, "-1,530")])
def test_numbers_have_three_figures(value, text):
    assert number(value) == text


# The probes


def test_the_probes_verdict_takes_its_numbers_from_the_rows():
    rows = [row("a", [10.0], "", at_most=8, key="exact probe"),
            row("b", [13.0], "", key="exact probe, arithmetic"),
            row("c", [0.3], "", key="trunk-output probe"),
            row("d", [71.0], "", unit="%", key="trunk-output signs")]
    said = probe_verdict({"rows": rows})
    for part in ("**10.0 steps**", "target of 8 is **not reached**", "13.0 steps",
                 "1.30 times", "1.62 times", "**0.30 steps**", "71 %"):
        assert part in said
    assert "is met" in probe_verdict({"rows": [row("a", [7.0], "", at_most=8, key="exact probe"),
                                               *rows[1:]]})
    assert "Not run yet" in probe_verdict({"rows": rows[1:]})
    assert "Not run yet" in probe_verdict(None)


def test_the_takeaway_has_the_ratio_of_shared_batching():
    rows = [row("a", [2.0], ""), row(SHARED_BATCHING, [15.0, 16.1, 17.0], "")]
    assert "**16.1 times** as many" in takeaway({"rows": rows})
    assert takeaway({"rows": rows[:1]}) == takeaway(None) == "Not run yet: `make bench`."


def test_what_is_to_be_prepared_is_prepared_before_every_call():
    told = []
    side_by_side({"a": lambda: told.append("a"), "b": lambda: told.append("b")}, 1, 1,
                 lambda: told.append("-"))
    assert "".join(told) == "-b-a-a-b"
