"""Times taken side by side, the rows and the record that they become, and the table for people."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from modlib import claims, claims_answers, speed
from modlib.costs_in_use import (
    SHARED,
    apart_from_shared,
    best_within_ranges,
    costs_in_use,
    in_use_sentences,
    with_weights,
)
from modlib.errors import ModlibError
from modlib.results import write_record
from modlib.speed import (
    KEYS,
    NOT_RUN_YET,
    RECORD,
    SHARED_BATCHING,
    benchmark_table,
    growth_exponent,
    number,
    read_benchmark,
    row,
    side_by_side,
    three_figures,
)
from modlib.speed_answers import (
    ASIDE,
    LEADING,
    TAKEAWAY,
    beginning_with,
    benchmark_html,
    probe_verdict,
    takeaway,
    targets_sentence,
)
from modlib.twenty_attributes import STUDY

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


def test_a_target_that_is_called_met_and_is_not_is_refused(tmp_path):
    one = row("a over b", [9.0], "", at_most=8.0) | {"met": True}
    write_record(tmp_path / RECORD, {"version": 1, "rows": [one], "curves": {}, "run": {}})
    with pytest.raises(ModlibError, match=r"met of 'a over b' is True; but it is 9, .* at most 8"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize("rows", [5, None, {"a": 1}])
def test_rows_that_are_no_list_are_refused(tmp_path, rows):
    write_record(tmp_path / RECORD, {"version": 1, "rows": rows, "curves": {}, "run": {}})
    with pytest.raises(ModlibError, match="allowed: a list of rows"):
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
    assert list(table.columns) == [  # what is met is seen without scrolling
        "measured", "target", "met", "range over repeats", "how"]
    assert table.T.to_dict("list") == {
        "fast": ["14.2 ×", "at least 10 ×", "yes", "13.0 to 1,530", ""],
        "small": ["0.300 s", "", "", "", ""],
        "slow": ["1.28 ×", "at most 1.2 ×", "no", "1.25 to 1.31", ""],
        "share": ["99.0 %", "at least 99.5 %", "no", "", ""],
        "plain": ["5.00", "at most 5", "yes", "", ""]}


@pytest.mark.parametrize(("seconds", "measured", "spread"), [
    ([0.005, 0.00623, 0.0075], "6.23 ms", "5.00 to 7.50"),
    ([0.09, 0.0999, 0.2], "99.9 ms", "90.0 to 200"),
    ([0.1, 0.05, 0.2], "0.100 s", "0.0500 to 0.200")])
def test_short_times_are_in_milliseconds_and_so_is_their_range(seconds, measured, spread):
    table = benchmark_table([row("a", seconds, "", unit="s")])
    assert table.loc["a", ["measured", "range over repeats"]].tolist() == [measured, spread]


@pytest.mark.parametrize(("value", "text"), [
    (2, "2.00"), (0.98281, "0.983"), (14.2, "14.2"), (0.042, "0.0420"), (1530, "1,530"),
    (2083.9, "2,080"), (1234567, "1,230,000"), (99.95, "100"), (99.94, "99.9"), (9.996, "10.0"),
    (0.9996, "1.00"), (100.0, "100"), (0.0, "0"), (-14.23, "-14.2"), (-0.5, "-0.500"),
    (float("inf"), "inf"), (float("nan"), "nan")])
def test_columns_have_three_significant_figures(value, text):
    assert three_figures(value) == text


def test_three_figures_are_the_number_to_half_a_unit_of_the_third():
    for value in 10 ** np.random.default_rng(0).uniform(-5, 7, 500):
        text = three_figures(value)
        assert float(text.replace(",", "")) == float(f"{value:.3g}")
        assert len(text.replace(",", "").replace(".", "").lstrip("0")) >= 3


def test_the_leading_rows_come_first_and_all_rows_are_folded_away():
    rows = [row("plain", [1.0], ""), row(SHARED_BATCHING, [16.0], ""),
            row(LEADING["one pass"], [1.14], "")]
    first, folded = benchmark_html(rows).split("<details><summary>All 3 rows</summary>")
    assert "plain" not in first
    assert first.index(LEADING["one pass"]) < first.index(SHARED_BATCHING)
    assert all(one["question"] in folded for one in rows)
    assert folded.endswith("</table>\n</details>")
    assert first.count("wide-names") == folded.count("wide-names") == 1


def test_what_begins_with_a_question_is_found_once_and_what_does_not_is_missing():
    rows = [row("b: 75 %", [1.0], ""), row("a", [2.0], ""), row("b: 80 %", [3.0], "")]
    assert beginning_with(rows, {"first": "b: ", "none": "c"}) == {"first": rows[0]}


def test_the_projects_own_record_has_every_row_that_the_takeaway_names():
    record = read_benchmark()
    if record is None:
        pytest.skip("no record")
    named = LEADING | (ASIDE if record["run"]["data"] else {})
    assert list(beginning_with(record["rows"], named)) == list(named)


def test_the_questions_are_those_of_the_claims():
    assert (LEADING["one pass"], LEADING["one pass of 7"], LEADING["one by one"]) == (
        claims.ONE_PASS, claims.ONE_PASS_OF[7], claims_answers.ONE_BY_ONE)


# Targets


def test_the_targets_that_are_missed_are_named_with_what_was_measured():
    rows = [row("plain", [1.0], ""), row("fast", [3.0], "", at_least=2.0),
            row("slow", [12.11], "", at_most=8), row("small", [9.0], "", at_most=8, unit="MB")]
    assert targets_sentence(rows) == (
        "This record has 4 rows, 3 of them with a target: **1 met**, **2 missed**. Missed: "
        "slow (12.1 ×, the target: at most 8 ×); small (9.00 MB, the target: at most 8 MB).")
    assert targets_sentence(rows[:2]) == (
        "This record has 2 rows, 1 of them with a target: **all met**.")
    assert targets_sentence(rows[:1] * 2) == (
        "This record has 2 rows, none of them with a target.")


def test_the_sentence_on_the_projects_own_record_counts_as_a_loop_does():
    record = read_benchmark()
    if record is None:
        pytest.skip("no record")
    aimed = met = 0
    for one in record["rows"]:
        if one["at_least"] is not None or one["at_most"] is not None:
            aimed += 1
            met += one["met"]
    said = targets_sentence(record["rows"])
    assert f"{aimed} of them with a target" in said
    assert (f"**{met} met**, **{aimed - met} missed**" in said) == (met < aimed)
    assert ("all met" in said) == (met == aimed)


# Systems in use

CHANGES = {  # scales twice: once with another learning rate, which is no part of the network
    SHARED: {"system": "fully_shared", "scale_rate_factor": 20.0},
    "PCGrad": {"system": "fully_shared", "scale_rate_factor": 20.0, "aggregation": "pcgrad"},
    "scales": {"system": "modulated", "scale_rate_factor": 20.0},
    "scales, one rate": {"system": "modulated", "scale_rate_factor": 1.0},
    "branches, 25": {"system": "branches", "branch_size": 25},
    "many": {"system": "independent"},
    "not measured": {"system": "csn"}}
TIMES = {"scales": [0.9, 1.0, 1.2], "scales, one rate": [0.8, 1.1, 1.1],
         "branches, 25": [1.01, 1.02, 1.5], "many": [19.0, 20.0, 22.0]}
MEGABYTES = {SHARED: 100.0, "scales": 110.0, "scales, one rate": 100.0, "branches, 25": 90.0,
             "many": 122.0}


def in_use(times=TIMES, megabytes=MEGABYTES) -> dict:
    """A record of systems in use: ``times`` are three repeats each, median in the middle."""
    return {
        "rows": [row(f"in use: time of {name}", repeats, "", key=f"in use: {name}")
                 for name, repeats in times.items()],
        "curves": {"systems in use": {
            name: {"time": sorted(times.get(name, [1.0] * 3))[1], "megabytes": megabytes[name]}
            for name in megabytes}}}


def test_rows_of_one_network_have_the_cost_of_all_its_measurements():
    time = costs_in_use(in_use(), CHANGES)["time"]
    assert time.T.to_dict("list") == {
        SHARED: [1, 1, 1, SHARED], "PCGrad": [1, 1, 1, SHARED],
        "scales": [pytest.approx(1.05), 0.8, 1.2, "scales"],
        "scales, one rate": [pytest.approx(1.05), 0.8, 1.2, "scales"],
        "branches, 25": [1.02, 1.01, 1.5, "branches, 25"], "many": [20, 19, 22, "many"]}


def test_memorys_error_is_how_far_two_measurements_of_one_network_differ():
    memory = costs_in_use(in_use(), CHANGES)["megabytes"]
    for name, value, low, high in ((SHARED, 100, 100 / 1.1, 110), ("PCGrad", 100, 100 / 1.1, 110),
                                   ("scales", 105, 100, 110), ("scales, one rate", 105, 100, 110),
                                   ("many", 122, 122 / 1.1, 134.2)):
        assert memory.loc[name, ["value", "low", "high"]].tolist() == pytest.approx(
            [value, low, high])


def test_memory_of_networks_that_were_measured_once_has_no_range():
    once = {name: value for name, value in MEGABYTES.items() if name != "scales, one rate"}
    memory = costs_in_use(in_use(megabytes=once), CHANGES)["megabytes"]
    assert (memory.low == memory.value).all() and (memory.high == memory.value).all()
    assert memory.loc["scales, one rate"].tolist() == memory.loc["scales"].tolist()


def test_without_systems_in_use_there_are_no_costs():
    assert costs_in_use(None, CHANGES) == {}
    assert costs_in_use({"rows": [], "curves": {}}, CHANGES) == {}
    assert in_use_sentences({}) == NOT_RUN_YET


def test_a_scales_rate_and_an_aggregation_are_training_and_a_sign_is_not():
    own = in_use(megabytes=dict.fromkeys(STUDY.rows, 100.0), times={})
    network = costs_in_use(own, {name: STUDY.changes(name) for name in STUDY.rows})["time"].network
    shared = {name: first for name, first in network.items() if name != first}
    assert shared == {"modulated, one rate": "modulated", "fully shared, PCGrad": SHARED,
                      "fully shared, MGDA": SHARED, "fully shared, UPGrad": SHARED}


def points(**columns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and their costs; a column is (accuracy, low, high)."""
    table = pd.DataFrame(columns, index=["accuracy", "low", "high"]).T
    return (table[["accuracy"]].rename_axis("row").reset_index().assign(best=True),
            table[["low", "high"]])


@pytest.mark.parametrize(("systems", "best"), [
    ({"a": (80, 1, 1), "b": (90, 2, 2)}, "ab"),            # better and dearer
    ({"a": (80, 1, 2), "b": (90, 2, 3)}, "b"),             # better, and not dearer beyond them
    ({"a": (90, 1, 2), "b": (80, 3, 4)}, "a"),             # better and cheaper
    ({"a": (80, 0.5, 3), "b": (90, 1, 2), "c": (85, 2, 4)}, "b"),
    ({"a": (90, 1, 2), "b": (90, 2, 3)}, "ab"),            # as good; nobody is cheaper
    ({"a": (90, 1, 2), "b": (90, 2.5, 3)}, "a"),
    ({"a": (90, 1, 2)}, "a"), ({}, "")])
def test_who_is_the_best_follows_from_the_ranges(systems, best):
    given, costs = points(**systems)
    judged = best_within_ranges(given, costs)
    assert "".join(judged[judged.best].row) == best
    assert judged.best.dtype == bool
    assert judged[["low", "high"]].to_numpy().tolist() == [list(one[1:])
                                                           for one in systems.values()]


def test_the_best_of_many_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lows = rng.integers(0, 6, 8)
        systems = {f"s{n}": (int(rng.integers(80, 85)), int(low), int(low + rng.integers(0, 4)))
                   for n, low in enumerate(lows)}
        expected = []
        for name, (accuracy, low, high) in systems.items():
            beaten = False
            for other_accuracy, other_low, other_high in systems.values():
                overlap = other_low <= high and low <= other_high
                cheaper = other_high < low
                beaten |= other_accuracy > accuracy and (overlap or cheaper)
                beaten |= other_accuracy == accuracy and cheaper
            if not beaten:
                expected.append(name)
        judged = best_within_ranges(*points(**systems))
        assert list(judged[judged.best].row) == expected


def test_weights_lie_in_memory_too():
    """Of a million parameters of 4 bytes: 4 MB more, and so are the ends of the range."""
    memory = costs_in_use(in_use(), CHANGES)["megabytes"]
    rows = {name: [{"results": {"parameters": {"total": count}}}]
            for name, count in ((SHARED, 1_000_000), ("many", 20_000_000))}
    table = with_weights(memory, rows | {"branches, 25": []})
    assert list(table.index) == [SHARED, "many"]
    for end in ("low", "value", "high"):
        assert table[end].tolist() == pytest.approx(
            [memory[end][SHARED] + 4, memory[end]["many"] + 80])


def test_apart_are_networks_whose_ranges_do_not_meet_full_sharings():
    costs = costs_in_use(in_use(), CHANGES)
    apart, others = apart_from_shared(costs["time"])
    assert (list(apart.index), others) == (["many", "branches, 25"], ["scales"])
    apart, others = apart_from_shared(costs["megabytes"])
    assert (list(apart.index), others) == (["many"], ["scales", "branches, 25"])


def test_a_network_that_is_cheaper_beyond_its_range_is_apart_too():
    costs = costs_in_use(in_use(TIMES | {"branches, 25": [0.5, 0.6, 0.9]}), CHANGES)
    assert list(apart_from_shared(costs["time"])[0].index) == ["many", "branches, 25"]


def test_the_sentences_name_who_is_apart_and_who_is_not():
    said = in_use_sentences(costs_in_use(in_use(), CHANGES))
    for part in (
            "**Time** differs from full sharing's, beyond the ranges, for: many (20.0 times, 19.0 "
            "to 22.0); branches, 25 (1.02 times, 1.01 to 1.50). It cannot be told from full "
            "sharing's for: scales.",
            "**Peak memory** differs from full sharing's (100 MB), beyond the ranges, for: many "
            "(122 MB, 111 to 134). It cannot be told from full sharing's for: scales; branches, "
            "25.", "differ by up to 10.0 %",
            "one cost, have: *fully shared* and *PCGrad*; *scales* and *scales, one rate*."):
        assert part in said


def test_where_nobody_is_apart_the_sentences_say_so():
    once = in_use(megabytes={SHARED: 100.0, "scales": 100.0})
    few = {name: CHANGES[name] for name in (SHARED, "scales")}
    said = in_use_sentences(costs_in_use(once, few))
    assert said.count("for: none. It cannot be told from full sharing's for: scales.") == 2
    assert "a second measurement would lie is not known" in said
    assert "The same network" not in said


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


# The takeaway


def test_the_takeaway_answers_from_the_record_in_the_order_of_the_question():
    record = in_use() | {"rows": [
        *in_use()["rows"], row(SHARED_BATCHING, [15.0, 16.1, 17.0], ""),
        row(LEADING["one pass"], [1.1, 1.14, 1.5], ""), row(LEADING["one by one"], [17.7], ""),
        row(f"{LEADING['to accuracy']}75 %", [2.634], "real faces"),
        row(f"{ASIDE['accuracy']}600 s", [91.09], "", unit="%"),
        row(LEADING["bfloat16"], [2.0], "")]}
    record["curves"]["tasks"] = {
        "sizes": [1, 40], "seconds": [0.2, 0.3], "megabytes": [900.0, 1000.0]}
    said = takeaway(record, costs_in_use(record, CHANGES), "It costs nothing.").splitlines()
    assert [line.split("**")[1] for line in said] == [
        "All tasks in one pass.", "Every image for every task.", "What a system costs in use.",
        "More tasks.", "Fewer digits."]
    for line, parts in zip(said, (
            ("**1.14 times** (1.10 to 1.50)", "**17.7 times** as long"),
            ("**16.1 times** (15.0 to 17.0)", "**2.63 times** as long to 75 %", "**91.1 %** (real"),
            ("for: many (20.0 times); branches, 25 (1.02 times); peak memory of the call, without ",
             "the weights, for: many (122 MB)."),
            ("With 40 tasks instead of 1", "**1.50 times**", "**1.11 times**"),
            ("**2.00 times**", "In accuracy: It costs nothing.")), strict=True):
        assert all(part in line for part in parts)


def test_the_takeaway_leaves_out_what_was_not_measured():
    rows = [row("a", [2.0], ""), row(LEADING["bfloat16"], [2.0], "")]
    assert takeaway({"rows": rows, "curves": {}}, {}, "…").startswith("- **Fewer digits.**")
    assert takeaway({"rows": rows[:1], "curves": {}}, {}, "…") == NOT_RUN_YET
    assert takeaway(None, {}, "…") == NOT_RUN_YET


def test_the_projects_own_record_fills_every_line_of_the_takeaway():
    record = read_benchmark()
    if record is None or not record["run"]["data"]:
        pytest.skip("no record with real faces")
    costs = costs_in_use(record, {name: STUDY.changes(name) for name in STUDY.rows})
    assert len(takeaway(record, costs, "…").splitlines()) == len(TAKEAWAY)


def test_what_is_to_be_prepared_is_prepared_before_every_call():
    told = []
    side_by_side({"a": lambda: told.append("a"), "b": lambda: told.append("b")}, 1, 1,
                 lambda: told.append("-"))
    assert "".join(told) == "-b-a-a-b"
