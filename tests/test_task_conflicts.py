"""What is said of conflict between tasks in hand-made records."""

from itertools import combinations

import numpy as np
import pytest
from test_top_down_study import record

from modlib.arrays import to_json
from modlib.task_conflicts import (
    agreement_table,
    mistake_table,
    moo_table,
    scale_sentence,
)
from modlib.top_down_study import CHANNELS, FAST_CHANNELS, MULTI_MNIST, OURS


def probed(row: str, seed: int, positive: int) -> dict:
    """Two probes an epoch; so many of all eight were positive for each pair, but for the first."""
    one = record(row, seed, 90)
    pairs = list(combinations(one["settings"]["tasks"], 2))
    for n, epoch in enumerate(one["epochs"]):
        counts = [min(2, max(0, (8 if p == 0 else positive) - 2 * n)) for p in range(len(pairs))]
        epoch |= {"ucr_batches": 2, "ucr": [
            {"tasks": list(pair), "positive": count, "negative": 2 - count, "zero": 0}
            for pair, count in zip(pairs, counts, strict=True)]}
    return one


def test_agreement_is_a_mean_over_pairs_with_its_spread_over_seeds():
    rows = MULTI_MNIST.by_row([probed(OURS[3], seed, count) for seed, count in ((0, 4), (1, 6))]
                              + [record("2 tasks, MOO", 0, 90)])
    table = agreement_table(rows)
    # Pairs of 100, 50, 50 %, then of 100, 75, 75 %.
    means = (200 / 3, 250 / 3)
    assert table.loc["top-down", "3 tasks"] == (
        f"{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}")
    assert table.loc["MOO", "2 tasks"] == "not probed"
    assert table.loc["uniform scaling", "4 tasks"] == "not run yet"
    assert list(table.index) == ["uniform scaling", "MOO", "channel modulation", "top-down",
                                 "channel modulation, scales at 20 times the rate"]
    assert set(agreement_table({}).to_numpy().ravel()) == {"not run yet"}


def test_moos_weights_are_a_mean_over_epochs_and_seeds():
    assert len(moo_table({})) == 0
    rows = {"2 tasks, MOO": [record("2 tasks, MOO", seed, 90) for seed in (0, 1)]}
    for seed, one in enumerate(rows["2 tasks, MOO"]):
        for n, epoch in enumerate(one["epochs"]):
            epoch |= {"task_weights": {"LU": 0.2 + 0.1 * n + 0.1 * seed,
                                       "RL": 0.8 - 0.1 * n - 0.1 * seed},
                      "largest_weight": 0.7 + seed / 5, "tasks_uphill": 0.2}
    assert moo_table(rows).loc["2 tasks, MOO"].tolist() == ["0.40, 0.60", "0.50", "0.80", "20"]


def test_scales_are_told_at_both_rates():
    assert scale_sentence({}) == "Channel modulation's scales: not run yet."
    slow, fast = (record(names[2], 0, 90) for names in (CHANNELS, FAST_CHANNELS))
    for one, far in ((slow, 0.1), (fast, 1.0)):
        one["results"] |= {"dead_scales": round(4 * far), "scales": {
            "one": to_json(np.full((2, 10), 1 - far, np.float32)),
            "two": to_json(np.full((2, 30), 1 + far, np.float32))}}
    said = scale_sentence({CHANNELS[2]: [slow], FAST_CHANNELS[2]: [fast]})
    assert "at the network's rate they are 0.10 away from 1 on average, and 0.0 % of them" in said
    assert "at 20 times that they are 1.00 away from 1 on average, and 5.0 % of them" in said


def test_mistakes_are_counted_over_tasks_beside_what_chance_would_make():
    one = record(OURS[2], 0, 90)
    one["results"]["test_answers"]["wrong"] = {
        "LU": {"count": 100, "of_others": 50, "by_chance": 10.0},
        "RL": {"count": 60, "of_others": 30, "by_chance": 6.0}}
    table = mistake_table({OURS[2]: [one]})
    assert table.loc[OURS[2]].tolist() == ["8.0", "50.0", "10.0"]
    assert table.loc["2 tasks, MOO"].tolist() == ["not run yet"] * 3
    assert len(table) == 18


@pytest.mark.parametrize("count", [0, 3])
def test_mistakes_that_are_no_others_digit_are_none(count):
    one = record(OURS[2], 0, 90)
    one["results"]["test_answers"]["wrong"] = {
        task: {"count": count, "of_others": 0, "by_chance": 0.0} for task in ("LU", "RL")}
    assert mistake_table({OURS[2]: [one]}).iloc[:, 1].tolist()[4] == "0.0"
