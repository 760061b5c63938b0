"""Searches of two systems, measure by measure: intervals by hand, and words that follow."""

import pytest

from modlib.retrieval import MEASURES
from modlib.retrieval_comparison import (
    difference_table,
    mean_score,
    retrieval_verdict,
    takeaway,
)


def record(seed: int, **measures: float) -> dict:
    """Of two tasks, one of them 10 points better, and a third that nobody holds."""
    found = dict.fromkeys(MEASURES, 0.5) | {
        name.replace("recall", "recall@"): value for name, value in measures.items()}
    return {"settings": {"seed": seed}, "results": {"retrieval": {
        "Smiling": {"queries": 9} | found,
        "Young": {"queries": 5} | {name: value + 0.1 for name, value in found.items()},
        "Bald": {"queries": 0} | dict.fromkeys(MEASURES)}}}


ROWS = {  # three seeds: mAP better by 1, 2 and 3 points, recall at 5 worse by as much
    "modulated": [record(seed, mAP=0.5 + gain, recall5=0.5 - gain)
                  for seed, gain in enumerate((0.01, 0.02, 0.03))],
    "not run": [],
    "CSN": [record(seed) for seed in (0, 1, 2)],
    "branches": [record(7, mAP=0.9)]}


def test_a_score_is_the_mean_of_the_tasks_that_have_queries():
    assert mean_score(ROWS["branches"][0]) == pytest.approx(95)
    assert mean_score(ROWS["branches"][0], "recall@5") == pytest.approx(55)


def test_where_seeds_differ_more_than_tasks_the_interval_is_over_common_seeds():
    """Of 1, 2 and 3: the mean is 2, and t(0.975, 2) = 4.303 deviations of 1 / √3 are 2.48."""
    found = retrieval_verdict("", ROWS["modulated"], ROWS["CSN"])
    assert (found.difference, found.low, found.high) == pytest.approx((2, -0.484, 4.484), abs=1e-3)
    assert retrieval_verdict("", ROWS["modulated"], ROWS["branches"]).word == "not run yet"


def test_where_tasks_differ_more_than_seeds_the_interval_is_over_tasks():
    """Every seed gains 4 points on smiles and 2 on youth, which are two tasks' worth of luck: the
    mean is 3, and t(0.975, 1) = 12.706 deviations of √2 / √2 are 12.706."""
    ours = [record(seed, mAP=0.5) for seed in (0, 1)]
    for one in ours:
        for task, gain in (("Smiling", 0.04), ("Young", 0.02)):
            one["results"]["retrieval"][task]["mAP"] += gain
    found = retrieval_verdict("", ours, ROWS["CSN"])
    assert (found.difference, found.low, found.high) == pytest.approx((3, -9.706, 15.706), abs=1e-3)
    assert found.word == "not decided"


def test_the_table_has_every_measure_of_each_other_row_that_was_run():
    table = difference_table(ROWS)
    assert list(table.index) == ["CSN", "branches"]
    assert table.loc["CSN"].to_dict() == {
        "recall@1": "+0.00 [+0.00, +0.00]", "recall@5": "−2.00 [−4.48, +0.48]",
        "recall@10": "+0.00 [+0.00, +0.00]", "mAP": "+2.00 [−0.48, +4.48]"}
    assert set(table.loc["branches"]) == {"not run yet"}  # no common seed


def test_the_table_of_nothing_to_compare_has_its_columns():
    for rows in ({"modulated": [], "CSN": ROWS["CSN"]}, {"modulated": ROWS["modulated"]}):
        assert difference_table(rows).empty
        assert list(difference_table(rows)) == list(MEASURES)


def test_the_takeaway_says_of_each_measure_who_is_better():
    surely = ROWS | {"CSN": [record(0), record(1), record(2)], "modulated": [
        record(seed, mAP=0.6 + gain, recall1=0.4 + gain) for seed, gain in
        enumerate((0, 0.001, 0.002))]}
    lines = takeaway(surely).splitlines()
    assert [line.split(" over ")[0] for line in lines[:4]] == [f"- {one}" for one in MEASURES]
    assert lines[0].endswith("modulated **45.1 %**, CSN **55.0 %**: **worse**, "
                             "−9.90 [−10.15, −9.65] points.")
    assert lines[1].endswith("modulated **55.0 %**, CSN **55.0 %**: **not decided**, "
                             "+0.00 [+0.00, +0.00] points.")
    assert lines[3].endswith("modulated **65.1 %**, CSN **55.0 %**: **better**, "
                             "+10.10 [+9.85, +10.35] points.")


def test_the_takeaway_ends_with_all_other_rows_by_every_measure():
    near = {"near": [record(0, mAP=0.611), record(1, mAP=0.6), record(2, mAP=0.6)]}
    ours = {"modulated": [record(seed, mAP=0.6 + seed / 1000, recall1=0.4 + seed / 1000)
                          for seed in (0, 1, 2)]}
    lines = takeaway(ROWS | ours | near).splitlines()
    assert len(lines) == 2 * len(MEASURES)
    assert lines[4 + MEASURES.index("mAP")] == (
        "- Against all that were run, by mAP: **better than** *CSN* (+10.1). **not decided "
        "against** *near* (−0.3).")
    assert lines[4 + MEASURES.index("recall@1")] == (
        "- Against all that were run, by recall@1: **worse than** *CSN* (−9.9); *near* (−9.9).")


@pytest.mark.parametrize("missing", ["modulated", "CSN"])
def test_the_takeaway_needs_both_systems(missing):
    assert takeaway(ROWS | {missing: []}) == "Not run yet on real faces."
