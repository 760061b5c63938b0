"""Distances between tasks' scales by hand and by loops; rank agreement against its definition."""

import numpy as np
import pytest

from modlib.arrays import to_json
from modlib.w_distance import (
    agreement_sentence,
    agreement_table,
    all_pairs_table,
    distances,
    label_correlation,
    own_agreement,
    pair_distance,
    pair_table,
    rank_agreement,
    rate_sentence,
    repeat_table,
    scales,
)

SMILE, MOUTH, YOUNG = TASKS = ("Smiling", "Mouth_Slightly_Open", "Young")
RELATED, UNRELATED = (SMILE, MOUTH), (SMILE, YOUNG)
BLOCK5 = np.array([[1.0, 2.0], [0.0, 2.0], [1.0, 5.0]], np.float32)
FC = np.array([[1.0, 1.0, 1.0], [1.0, 3.0, 1.0], [0.0, 1.0, 1.0]], np.float32)


def record(tasks=TASKS, factor=10.0, **of_stages) -> dict:
    return {"settings": {"tasks": list(tasks), "scale_rate_factor": factor}, "results": {
        "scales": {name: to_json(scales_TC) for name, scales_TC in of_stages.items()}}}


def random_records() -> list[dict]:
    rng = np.random.default_rng(0)
    return [record(block5=rng.random((3, 4), np.float32), fc=rng.random((3, 6), np.float32))
            for _ in range(2)]


def random_table(tasks: int, seed: int) -> np.ndarray:
    table = np.random.default_rng(seed).random((tasks, tasks))
    return table + table.T


# Scales and their distances


def test_scales_stand_side_by_side_in_the_order_of_the_stages():
    one = record(block5=BLOCK5, fc=FC)
    assert scales(one).tolist() == [
        [1, 2, 1, 1, 1], [0, 2, 1, 3, 1], [1, 5, 0, 1, 1]]
    assert np.array_equal(scales(one, "block5"), BLOCK5)
    assert np.array_equal(scales(one, "fc"), FC)


def test_distances_by_hand():
    one = record(block5=BLOCK5, fc=FC)
    assert distances([one]) == pytest.approx(np.array(
        [[0, 3 / 5, 4 / 5], [3 / 5, 0, 7 / 5], [4 / 5, 7 / 5, 0]]))
    assert distances([one], "block5")[0].tolist() == [0, 0.5, 1.5]


def test_distances_are_averaged_over_records_as_a_loop_would():
    records = random_records()
    given = distances(records)
    for i in range(3):
        for j in range(3):
            of_records = [np.mean([abs(a - b) for a, b in zip(*scales(one)[[i, j]].tolist(),
                                                               strict=True)]) for one in records]
            assert given[i, j] == pytest.approx(np.mean(of_records), rel=1e-6)


def test_the_pair_table_has_every_layer_and_all_of_them():
    rows = {"modulated": [record(block5=BLOCK5, fc=FC)], "not run": []}
    table = pair_table(rows, [RELATED, UNRELATED])
    assert set(table.index.get_level_values(0)) == {"10 times the network's rate"}
    table = table.droplevel(0)
    assert list(table.index) == [
        (f"Smiling / {other}", layer) for other in ("Mouth Slightly Open", "Young")
        for layer in ("block5", "fc", "all")]
    # |difference|: 1, 0 | 0, 2, 0; its mean 0.6, its variance (1 + 4) / 5 − 0.36
    assert table.loc["Smiling / Mouth Slightly Open"].to_numpy().tolist() == [
        ["0.500", "0.250", "+0.500", "–"], ["0.667", "0.889", "−0.667", "–"],
        ["0.600", "0.640", "−0.200", "0.18 (variance 0.03)"]]
    assert table.loc[("Smiling / Young", "all")].tolist() == [
        "0.800", "1.360", "−0.400", "0.24 (variance 0.047)"]


def test_the_pair_table_averages_records_and_finds_tasks_by_name():
    there = record(block5=BLOCK5)
    turned = record((YOUNG, MOUTH, SMILE), block5=np.zeros((3, 2), np.float32))
    shown = pair_table({"modulated": [there, turned]}, [UNRELATED]).droplevel(0)
    assert shown.loc[("Smiling / Young", "all")].tolist() == [
        "0.750", "1.125", "−0.750", "0.24 (variance 0.047)"]
    shown = pair_table({"modulated": [there]}, [(YOUNG, MOUTH)]).droplevel(0)
    assert shown.loc[("Young / Mouth Slightly Open", "all"), "paper"] == "–"


def test_the_pair_table_of_no_records_is_empty_and_has_its_columns():
    table = pair_table({"modulated": []}, [RELATED])
    assert table.empty
    assert list(table) == ["mean", "variance", "signed mean", "paper"]


def test_a_line_a_rate_and_the_rate_whose_distances_are_nearest_to_the_papers():
    fast = record(block5=BLOCK5)  # 0.5 and 1.5 apart, by pair; the paper: 0.18 and 0.24
    slow = record(factor=1.0, block5=BLOCK5 / 5)
    rows = {"modulated": [fast, fast], "one rate": [slow]}
    assert pair_distance(fast, RELATED) == 0.5 and pair_distance(fast, UNRELATED) == 1.5
    table = pair_table(rows, [RELATED])
    assert table.xs("all", level="layer")["mean"].tolist() == ["0.500", "0.100"]
    said = rate_sentence(rows, [RELATED, UNRELATED])
    assert "at 10 times the network's rate 0.50 and 1.50; at the network's own rate 0.1" in said
    assert said.startswith("The means over all layers, of smiling / mouth slightly open and of ")
    assert said.endswith("nearest by ratio to those at **the network's own rate**.")
    assert rate_sentence({"modulated": [fast], "one rate": []}, [RELATED]) == ""


def test_labels_are_correlated_by_the_phi_coefficient():
    labels_NT = np.random.default_rng(3).random((50, 3)) < [0.2, 0.5, 0.8]
    labels_NT[:25, 1] = labels_NT[:25, 0]
    given = label_correlation({"results": {"test_triplets": {"labels": to_json(labels_NT)}}})
    for i in range(3):
        for j in range(3):
            a, b = labels_NT[:, i], labels_NT[:, j]
            both, neither = (a & b).sum(), (~a & ~b).sum()
            first, second = (a & ~b).sum(), (~a & b).sum()
            phi = (both * neither - first * second) / np.sqrt(
                float(a.sum() * (~a).sum() * b.sum() * (~b).sum()))
            assert given[i, j] == pytest.approx(phi)


# Rank agreement


@pytest.mark.parametrize(("sign", "said"), [
    (1, "**rank the pairs of tasks alike**: rank correlation +1.00 [+1.00, +1.00]"),
    (-1, "**rank the pairs of tasks in opposite orders**: rank correlation −1.00 [−1.00, −1.00]")])
def test_a_sentence_says_whether_two_views_agree(sign, said):
    table = np.random.default_rng(2).random((6, 6))
    table = table + table.T
    assert agreement_sentence(("scales", table), ("labels", sign * table)) == (
        f"- scales and labels {said}.")


def test_views_that_agree_a_little_are_said_to_agree_weakly():
    """Of 30 tasks, half of the noise in common: surely alike, and far from the same."""
    common, *own = np.random.default_rng(5).normal(size=(3, 30, 30))
    first, second = (0.6 * common + one for one in own)
    said = agreement_sentence(("scales", first + first.T), ("labels", second + second.T))
    assert "**rank the pairs of tasks alike, but weakly**: rank correlation +0." in said


def test_views_that_may_have_nothing_in_common_do_not_decidedly_agree():
    tables = np.random.default_rng(3).random((2, 5, 5))
    first, second = tables + tables.transpose(0, 2, 1)
    assert "**do not decidedly agree on the pairs of tasks**" in agreement_sentence(
        ("scales", first), ("labels", second))


def spearman(first, second) -> float:
    """Pearson's correlation of ranks; equal values share the mean of their ranks."""
    def ranks(values):
        return np.array([np.mean([place for place, other in enumerate(sorted(values))
                                  if other == value]) for value in values])

    a, b = (ranks(values) - ranks(values).mean() for values in (first, second))
    return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def looped_agreement(first, second, draws: int, seed: int) -> tuple[float, ...]:
    count, rng, drawn = len(first), np.random.default_rng(seed), []

    def over(tasks):
        pairs = [(tasks[m], tasks[n]) for m in range(count) for n in range(m + 1, count)
                 if tasks[m] != tasks[n]]
        return [[float(table[pair]) for pair in pairs] for table in (first, second)]

    for _ in range(draws):
        values = over(rng.integers(0, count, count).tolist())
        if all(len(set(of_table)) > 1 for of_table in values):
            drawn.append(spearman(*values))
    return (spearman(*over(range(count))), *np.percentile(drawn, (2.5, 97.5)))


@pytest.mark.parametrize("tasks", [3, 8])
def test_rank_agreement_and_its_interval_equal_a_loop(tasks):
    first, second = (random_table(tasks, seed) for seed in (1, 2))
    given = rank_agreement(first, second, draws=100, seed=4)
    assert given == pytest.approx(looped_agreement(first, second, 100, 4))
    assert -1 <= given[1] <= given[0] <= given[2] <= 1


def test_the_order_of_pairs_is_compared_and_not_their_values():
    table = random_table(8, 0)
    assert rank_agreement(table, np.exp(3 * table), 50) == pytest.approx((1, 1, 1))
    assert rank_agreement(table, -table, 50) == pytest.approx((-1, -1, -1))


def test_what_is_on_the_diagonal_does_not_count():
    first, second = (random_table(6, seed) for seed in (1, 2))
    there = rank_agreement(first, second, 50)
    assert rank_agreement(first + np.diag(np.full(6, np.nan)), second + 9 * np.eye(6), 50) == there


def test_draws_are_the_same_for_the_same_seed():
    tables = random_table(8, 1), random_table(8, 2)
    first, again, other = (rank_agreement(*tables, 50, seed) for seed in (0, 0, 1))
    assert first == again
    assert first[0] == other[0] and first[1:] != other[1:]


def test_an_unknown_pair_leaves_all_unknown():
    table = random_table(4, 0)
    holed = table.copy()
    holed[1, 2] = holed[2, 1] = np.nan
    for pair in ((table, holed), (holed, table)):
        assert np.isnan(rank_agreement(*pair)).all()


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_constant_table_agrees_with_nothing():
    assert np.isnan(rank_agreement(random_table(4, 0), np.ones((4, 4)), 20)).all()


def test_the_agreement_table_has_every_two_tables():
    table, unknown = random_table(8, 0), np.full((8, 8), np.nan)
    shown = agreement_table({"scales": table, "labels": -table, "gradients": unknown})
    assert shown["rank correlation"].to_dict() == {
        "scales and labels": "−1.00 [−1.00, −1.00]", "scales and gradients": "not run yet",
        "labels and gradients": "not run yet"}


def test_the_agreement_table_can_be_against_others_alone():
    table = random_table(8, 0)
    shown = agreement_table({"block5": table, "fc": -table}, {"labels": table})
    assert list(shown.index) == ["block5 and labels", "fc and labels"]
    assert shown["rank correlation"].str[:5].tolist() == ["+1.00", "−1.00"]


def test_every_pair_has_its_mean_and_variance_in_each_layer():
    one = record(block5=BLOCK5, fc=FC)
    shown = all_pairs_table([one, one])
    assert list(shown.columns) == [(layer, measure) for layer in ("all layers", "block5", "fc")
                                   for measure in ("mean", "variance")]
    assert len(shown) == 3
    line = shown.loc["Smiling / Mouth Slightly Open"]  # 1, 0 and 0, 2, 0 apart
    assert line["block5"].tolist() == ["0.500", "0.250"]
    assert line["fc"].tolist() == ["0.667", "0.889"]
    assert line["all layers"].tolist() == ["0.600", "0.640"]
    assert shown["all layers", "mean"].is_monotonic_increasing
    assert all_pairs_table([]).empty


def test_a_view_agrees_with_itself_as_far_as_its_trainings_do():
    one, unknown = random_table(8, 0), np.full((8, 8), np.nan)
    shown = repeat_table({"same": [one, one, one], "turned": [one, -one], "once": [one],
                          "unknown": [one, unknown]})
    assert shown["rank correlation"].tolist() == ["+1.00", "−1.00", "not run yet", "not run yet"]
    assert shown.index[0] == "same, trained again"
    assert own_agreement([one, one, -one]) == pytest.approx(-1 / 3)
    assert np.isnan(own_agreement([one]))
