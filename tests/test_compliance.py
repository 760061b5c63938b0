"""Does what the tasks gain go with updates that agree: hand-made records, figures by hand."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from study_records import wide_record

from modlib.compliance import (
    agreement,
    angles_verdict,
    compliance_table,
    compliance_verdict,
    draw_gains,
    gains_by_task,
    mean_cosines,
    mean_ucr,
    probed,
    tasks_verdict,
)
from modlib.twenty_attributes import STUDY
from modlib.w_distance import rank_correlation

TASKS = ("Smiling", "Bald", "Young", "Bangs")
PAIRS = [(one, other) for n, one in enumerate(TASKS) for other in TASKS[:n]]


def trained(row: str, seed: int, accuracy, positive, cosines=(0.1, 0.2)) -> dict:
    """Of 100 probes an epoch: the positive ones by pair, or of every pair; a cosine an epoch."""
    of_tasks = accuracy if isinstance(accuracy, dict) else dict.fromkeys(TASKS, accuracy)
    counts = positive if isinstance(positive, dict) else dict.fromkeys(PAIRS, positive)
    one = wide_record(STUDY, row, of_tasks, seed)
    one["epochs"] = [
        {"epoch": n, "ucr": [
            {"tasks": list(pair), "positive": counts[pair], "negative": 100 - counts[pair],
             "zero": 0, "mean_cosine": cosine} for pair in PAIRS]}
        for n, cosine in enumerate(cosines, 1)]
    return one


def seeds(row: str, *of_seeds) -> list[dict]:
    return [trained(row, seed, *of_seed) for seed, of_seed in enumerate(of_seeds)]


def test_records_without_probes_are_not_probed():
    one = trained("modulated", 0, 80, 50)
    assert probed([one]) and not probed([])
    one["epochs"][1]["ucr"] = []
    assert not probed([one])


def test_the_mean_ratio_counts_each_pair_once():
    counts = dict.fromkeys(PAIRS, 40) | {PAIRS[0]: 100}
    assert mean_ucr(trained("modulated", 0, 80, counts)) == pytest.approx((5 * 40 + 100) / 6)


def test_ratios_are_compared_seed_by_seed():
    """2, 4 and 6 points: the mean is 4, and t(0.975, 2) = 4.303 deviations of 2 / √3 are 4.97."""
    ours = seeds("modulated", (80, 52), (80, 54), (80, 56))
    shared = seeds("fully shared", (70, 50), (70, 50), (70, 50))
    found = compliance_verdict("", ours, shared)
    assert (found.difference, found.low, found.high) == pytest.approx((4, -0.968, 8.968), abs=1e-3)
    assert found.word == "not decided"
    assert compliance_verdict("", ours, []).word == "not run yet"


def test_products_of_zero_count_as_no_agreement_or_are_left_out():
    ours, shared = seeds("modulated", (80, 40)), seeds("fully shared", (70, 50))
    for pair in (pair for epoch in ours[0]["epochs"] for pair in epoch["ucr"]):
        pair |= {"negative": 10, "zero": 50}
    assert compliance_verdict("", ours, shared).difference == pytest.approx(40 - 50)
    assert compliance_verdict("", ours, shared, False).difference == pytest.approx(80 - 50)


def test_where_every_product_is_zero_nothing_is_left_to_agree():
    [one] = seeds("modulated", (80, 40))
    assert agreement([one], with_zeros=False) == agreement([one])  # no product is 0 yet
    for pair in (pair for epoch in one["epochs"] for pair in epoch["ucr"]):
        pair |= {"positive": 0, "negative": 0, "zero": 100}
    assert agreement([one]) == "0.0" and agreement([one], with_zeros=False) == "–"


def test_without_one_system_nothing_is_compared():
    shared = seeds("fully shared", (70, 50))
    assert compliance_verdict("", [], shared).word == "not run yet"


def test_each_tasks_gains_are_means_over_seeds_and_over_its_pairs():
    counts = dict.fromkeys(PAIRS, 50) | {("Bald", "Smiling"): 80}
    accuracy = dict.fromkeys(TASKS, 70) | {"Young": 90}
    ours = seeds("modulated", (accuracy, counts), (80, counts))
    gained = gains_by_task(ours, seeds("fully shared", (60, 50), (60, 50)))
    assert list(gained.index) == list(TASKS)
    assert gained.ucr.tolist() == pytest.approx([10, 10, 0, 0])  # 30 points in one of three pairs
    assert gained.accuracy.tolist() == pytest.approx([15, 15, 25, 15])
    assert gains_by_task(ours, []).empty


def test_each_task_is_drawn_at_its_gains_with_its_name_beside():
    counts = dict.fromkeys(PAIRS, 50) | {("Bald", "Smiling"): 80}
    gained = gains_by_task(seeds("modulated", (70, counts)), seeds("fully shared", (60, 50)))
    ax = draw_gains(plt.figure().add_subplot(), gained)
    numbers = {text.get_text(): tuple(text.xy) for text in ax.texts if hasattr(text, "xy")}
    listed = [text for text in ax.texts if not hasattr(text, "xy")]
    drawn = dict(text.get_text().split("  ")[::-1] for text in listed)
    assert {task: numbers[number] for task, number in drawn.items()} == {
        task: pytest.approx((one.ucr, one.accuracy)) for task, one in gained.iterrows()}
    heights = [text.get_position()[1] for text in listed]
    assert min(one - other for one, other in pairwise(heights)) > 0.04


def test_tasks_that_gain_both_agree():
    counts = {(one, other): 50 + 5 * (TASKS.index(one) + TASKS.index(other))
              for one, other in PAIRS}
    ours = seeds("modulated", (
        {task: 70 + 5 * n for n, task in enumerate(TASKS)}, counts))
    found = tasks_verdict("", ours, seeds("fully shared", (60, 50)))
    assert found.difference == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1, 1))
    assert tasks_verdict("", ours, []).word == "not run yet"


def test_a_rank_correlation_has_an_interval_over_tasks():
    """Spearman's of two orders that differ in one neighbouring swap of five: 1 − 6·2 / 120."""
    first, second = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 2, 3, 5, 4])
    value, low, high = rank_correlation(first, second)
    assert value == pytest.approx(0.9)
    assert -1 <= low < 0.9 < high <= 1
    assert np.isnan(rank_correlation(first, np.ones(5))).all()


def test_cosines_are_followed_from_the_first_epoch_to_the_last():
    records = seeds("modulated", (80, 50, (0.1, 0.5, 0.2)), (80, 50, (0.0, 0.9, 0.3)))
    assert mean_cosines(records[0]) == pytest.approx([0.1, 0.5, 0.2])
    assert angles_verdict("", records).difference == pytest.approx(0.2)
    assert angles_verdict("", seeds("modulated", (80, 50, (0.1,)))).word == "not run yet"
    assert angles_verdict("", []).word == "not run yet"


def test_the_table_says_what_was_not_run():
    ours = seeds("modulated", (80, 52), (80, 54))
    table = compliance_table(ours, [])
    assert table.measured.tolist()[:3] == ["not run yet"] * 3
    assert table.measured.iloc[3].startswith("+0.10 [")
    assert compliance_table(ours, seeds("fully shared", (70, 50), (70, 50))).measured.iloc[0] == (
        "+3.00 [−9.71, +15.71]")
