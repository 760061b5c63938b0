"""Table 3: the paper's figures, and what the tables and sentences say of hand-made records."""

from dataclasses import replace
from itertools import combinations, product
from math import inf, sqrt

import numpy as np
import pytest
from study_records import COUNT, NETWORK, TRIPLETS, record

from modlib import twenty_attributes, twenty_verdicts
from modlib.arrays import from_json, to_json
from modlib.evaluation import parameter_counts
from modlib.networks import SYSTEMS, build_network
from modlib.studies import accuracies
from modlib.tables import with_interval, with_sign
from modlib.twenty_attributes import (
    OURS,
    PAPER_NAMES,
    PAPER_RECIPE,
    STUDY,
    TASKS,
    attribute_table,
    extra_parameters,
    frontier,
    headline_sentence,
    lay_out,
    mean_table,
    paper_table,
)
from modlib.twenty_verdicts import (
    differences,
    recipe_sentence,
    takeaway,
    verdict_table,
    verdicts,
)

NOTHING = {row: [] for row in STUDY.rows}
# % for smiling over two seeds, one below and one above; 10 less for young, so 5 less in the mean.
SMILING = {OURS: 80, "branches, 25": 79, "fully shared": 60, "independent": 96, "signed scales": 90}


def two_seeds(row, accuracy) -> list[dict]:
    return [record(STUDY, row, seed, accuracy + change) for seed, change in ((1, 1), (0, -1))]


@pytest.fixture(scope="module")
def rows():
    """Five rows of two seeds each; the others were not run."""
    return STUDY.by_row([one for row, value in SMILING.items() for one in two_seeds(row, value)])


@pytest.fixture(scope="module")
def all_rows():
    """Every row, each with two seeds."""
    return STUDY.by_row([one for number, row in enumerate(STUDY.rows)
                         for one in two_seeds(row, 60 + 2 * number)])


# The systems and the paper


def test_every_row_is_told_from_every_other():
    records = {row: record(STUDY, row) for row in STUDY.rows}
    assert STUDY.by_row(list(records.values())) == {row: [one] for row, one in records.items()}


def test_scales_have_ten_times_the_networks_rate_but_where_the_row_is_about_it():
    runs, _ = STUDY.lay_out({"tasks": ["Smiling", "Young"], "dataset": "celeba",
                             "scale_rate_factor": 5.0})
    assert {row: one.scale_rate_factor for row, [one] in runs.items()} == (
        dict.fromkeys(STUDY.rows, 10.0) | {"modulated, one rate": 1.0})
    [ours], [one_rate] = runs[OURS], runs["modulated, one rate"]
    assert replace(one_rate, scale_rate_factor=10.0) == ours


FACES = {"tasks": ["Smiling", "Young"], "dataset": "celeba", "scale_rate_factor": 3.0}


def test_the_papers_optimiser_makes_a_study_of_its_own_in_which_nothing_is_tuned():
    tuned = {OURS: {"learning_rate": 8e-3}}
    study, runs, places = lay_out(FACES | {"optimiser": "adagrad", "learning_rate": 0.01}, tuned)
    assert study is PAPER_RECIPE
    assert places.results_dir.endswith("/paper_recipe")
    assert set(runs) == set(PAPER_NAMES)
    assert {(one.scale_rate_factor, one.learning_rate) for [one] in runs.values()} == {(3.0, 0.01)}
    for size in (18, 180):  # a network of its own sees as many images a step as in Table 3's runs
        _, runs, _ = lay_out(
            FACES | {"optimiser": "adagrad", "batching": "triplets", "batch_size": size}, tuned)
        assert {name: one.batch_size for name, [one] in runs.items()} == (
            dict.fromkeys(PAPER_NAMES, size) | {"independent": 2 * 60})
    _, runs, _ = lay_out(FACES | {"optimiser": "adagrad", "batch_size": 18}, tuned)
    assert {one.batch_size for [one] in runs.values()} == {18}  # shared: each sees all of them
    for given in ({}, {"optimiser": "adam"}):
        study, runs, _ = lay_out(FACES | given, tuned)
        assert study is STUDY
        assert runs[OURS][0].learning_rate == 8e-3


def test_each_of_the_papers_systems_is_one_of_our_rows():
    paper = paper_table()
    for part in ("rows", "printed_mean", "added_parameters"):
        assert sorted(paper[part]) == sorted(PAPER_NAMES.values())
    assert set(PAPER_NAMES) <= set(STUDY.rows)


@pytest.mark.parametrize(("system", "mean"), [
    ("Ours", 87.96), ("CSN", 77.68), ("ITN", 87.44), ("FSN", 74.37), ("IB-256", 86.80),
    ("IB-25", 78.55), ("Only mask", 81.01),
])
def test_the_papers_rows_have_twenty_tasks_and_these_means(system, mean):
    row = paper_table()["rows"][system]
    assert tuple(row) == TASKS
    assert len(TASKS) == 20
    assert round(sum(row.values()) / 20, 2) == mean


# Accuracy


def test_accuracies_are_one_line_a_row_seed_and_task_in_percent():
    one, other = record(STUDY, "CSN", 0, 71), record(STUDY, "CSN", 3, 75)
    table = accuracies(NOTHING | {"CSN": [one, other]})
    assert list(table.itertuples(index=False, name=None)) == [
        ("CSN", 0, "Smiling", pytest.approx(71)), ("CSN", 0, "Young", pytest.approx(61)),
        ("CSN", 3, "Smiling", pytest.approx(75)), ("CSN", 3, "Young", pytest.approx(65))]


def test_without_records_accuracies_have_their_columns():
    assert list(accuracies(NOTHING)) == ["row", "seed", "task", "accuracy"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_extra_parameters_are_those_beyond_one_fully_shared_network(system):
    tasks = ("Smiling", "Young", "Bald")
    counts = {name: parameter_counts(build_network(
        name, tasks, image_size=48, width=0.05, embedding_size=16, branch_size=4))
        for name in {system, "fully_shared"}}
    one = {"results": {"parameters": counts[system]},
           "settings": {"system": system, "tasks": list(tasks)}}
    assert extra_parameters(one) == counts[system]["total"] - counts["fully_shared"]["total"]


def test_a_network_for_each_of_two_tasks_has_one_network_extra():
    assert extra_parameters(record(STUDY, "independent")) == NETWORK


# Tables


def test_the_mean_table_has_means_over_tasks_and_their_spread_over_seeds(rows):
    table = mean_table(rows)
    assert list(table.index) == list(STUDY.rows)
    assert table.loc[OURS].to_dict() == {
        "measured, %": "75.0 ± 1.4", "seeds": 2, "extra parameters": "40",
        "paper, mean of its rows": "87.96", "paper, as printed": "84.86", "paper, extra": "10k"}
    shown = table.loc["independent", ["measured, %", "extra parameters", "paper, extra"]]
    assert shown.tolist() == [
        "91.0 ± 1.4", "1,000,000", "51M"]
    assert set(table.loc["signed scales"].iloc[3:]) == {"–"}


def test_the_mean_table_says_what_was_not_run(rows):
    line = mean_table(rows).loc["CSN"]
    assert line.tolist() == ["not run yet", 0, "", "77.68", "72.81", "3k"]


def test_a_row_without_records_changes_no_other_line(rows):
    others = [row for row in STUDY.rows if row != "fully shared"]
    without = mean_table(rows | {"fully shared": []})
    assert without.loc["fully shared", "measured, %"] == "not run yet"
    assert without.loc[others].equals(mean_table(rows).loc[others])


def test_the_mean_table_of_all_records_has_no_gap(all_rows):
    table = mean_table(all_rows)
    means = [60 + 2 * number - 5 for number in range(len(STUDY.rows))]
    assert list(table["measured, %"]) == [f"{mean:.1f} ± 1.4" for mean in means]
    assert "" not in set(table["extra parameters"])


def test_the_attribute_table_has_the_papers_figures_in_brackets(rows):
    table = attribute_table(rows)
    assert list(table.columns) == [
        name if rows[name] else f"{name}: not run yet" for name in PAPER_NAMES]
    assert table[OURS].to_dict() == {"Smiling": "80.0 (93.8)", "Young": "70.0 (84.9)"}
    assert table["CSN: not run yet"].tolist() == ["– (75.6)", "– (60.6)"]


def test_the_attribute_table_holds_only_the_given_rows(rows):
    chosen = {row: rows[row] for row in ("fully shared", OURS, "signed scales")}
    assert list(attribute_table(chosen)) == [OURS, "fully shared"]


def test_an_attribute_that_the_paper_lacks_has_no_brackets():
    one = record(STUDY, OURS)
    one["results"]["test_accuracy"] = {"Big_Nose": 0.625, "Young": 0.75}
    assert attribute_table({OURS: [one]})[OURS].to_dict() == {
        "Big Nose": "62.5", "Young": "75.0 (84.9)"}


def test_the_attribute_table_of_no_records_has_the_papers_twenty():
    table = attribute_table(NOTHING)
    assert list(table.index) == [task.replace("_", " ") for task in TASKS]
    assert list(table) == [f"{name}: not run yet" for name in PAPER_NAMES]
    assert all(cell.startswith("– (") for cell in table.to_numpy().ravel())


# Differences


def looped_difference(first, second) -> tuple[float, float, float]:
    """The difference of two rows of two seeds, and its interval: a loop over pairs of triplets."""
    def points_of(one, other):
        return {(task, k): 100 * (int(one[task, k]) - int(other[task, k]))
                for task, k in product((0, 1), range(COUNT))}

    by_seed = [points_of(*(from_json(side[seed]["results"]["test_triplets"]["correct"])
                           for side in (first, second))) for seed in (0, 1)]
    values = {place: (by_seed[0][place] + by_seed[1][place]) / 2 for place in by_seed[0]}
    of_task = [sum(values[task, k] for k in range(COUNT)) / COUNT for task in (0, 1)]
    e = {place: (value - of_task[place[0]]) / (2 * COUNT) for place, value in values.items()}
    images = {(task, k): set(TRIPLETS[task, k].tolist()) for task, k in e}
    own = sum(value**2 for value in e.values())
    variance = max(own, own + sum(  # once for each image in common
        2 * e[one] * e[other] * len(images[one] & images[other])
        for one, other in combinations(e, 2)))
    low, high = sorted(sum(of_seed.values()) / (2 * COUNT) for of_seed in by_seed)
    # Two seeds: their mean's variance is a quarter of their squared gap; t(0.975, 1) is 12.7062.
    half = sqrt(1.959964**2 * variance + 12.706205**2 * (high - low) ** 2 / 4)
    value = (low + high) / 2
    return value, value - half, value + half


def test_a_difference_and_its_interval_equal_a_loop(rows):
    assert differences(rows)["fully shared"] == pytest.approx(
        looped_difference(rows[OURS], rows["fully shared"]), rel=1e-5)


def test_what_optimisers_make_of_gradients_is_told_where_there_are_some():
    weighed = [{"epochs": [{"task_weights": {"Smiling": low, "Young": 1 - low},
                            "largest_weight": 1 - low, "cosine_to_mean": 0.9 - low,
                            "tasks_uphill": low} for low in (seed / 10, seed / 5)]}
               for seed in (1, 2)]
    table = twenty_attributes.step_table(
        {"modulated": [{"epochs": [{}]}], "fully shared, MGDA": weighed, "CSN": []})
    assert list(table.index) == ["fully shared, MGDA"]
    assert table.iloc[0].tolist() == ["0.225 to 0.775 (equal: 0.500)", "78", "+0.68", "22"]
    assert len(twenty_attributes.step_table({"modulated": [{"epochs": [{}]}]})) == 0


def failing_on(row, *images_by_seed) -> list[dict]:
    """Records of a row in which the triplets with some images fail; for each seed its images."""
    records = []
    for seed, images in enumerate(images_by_seed):
        one = record(STUDY, row, seed)
        correct_TK = ~np.isin(TRIPLETS, images).any(2)
        one["results"]["test_triplets"]["correct"] = to_json(correct_TK)
        records.append(one)
    return records


@pytest.mark.parametrize(("images", "least"), [
    (([0, 1, 2], [0, 1, 2]), 3 * 3.5),  # seeds that agree; triplets without images: 3.5
    (([0, 1, 2], [0, 1, 2, 3, 4, 5]), 100),  # seeds that do not: Student's 12.7 for two
])
def test_errors_that_belong_to_images_widen_the_interval_as_a_loop_says(images, least):
    rows = {OURS: failing_on(OURS, [], []), "fully shared": failing_on("fully shared", *images)}
    found = differences(rows)["fully shared"]
    assert found == pytest.approx(looped_difference(*rows.values()), rel=1e-5)
    assert found[0] - found[1] > least


def test_one_common_seed_gives_a_difference_that_decides_nothing(rows):
    few = rows | {"fully shared": rows["fully shared"][1:]}
    assert differences(few)["fully shared"] == (pytest.approx(20, abs=1e-4), -inf, inf)
    assert verdict_table(few).loc["modulated − fully shared"].tolist() == [
        "+20.00 (one seed)", "+13.59", "not decided", "no"]


def test_without_a_common_seed_there_is_nothing_to_judge(rows):
    few = rows | {"fully shared": [record(STUDY, "fully shared", 7)]}
    assert np.isnan(differences(few)["fully shared"]).all()
    assert verdict_table(few).loc["modulated − fully shared"].tolist() == [
        "not run yet", "+13.59", "not run yet", "–"]


def test_differences_are_those_of_the_first_row_to_every_other(rows):
    values = {row: value for row, (value, *_) in differences(rows).items()}
    assert values == pytest.approx(
        {"branches, 25": 1, "fully shared": 20, "independent": -16, "signed scales": -10}, abs=1e-4)
    assert differences(rows, "independent")["fully shared"][0] == pytest.approx(36)


def test_there_is_no_difference_to_a_row_without_records(rows):
    assert "fully shared" not in differences(rows | {"fully shared": []})
    assert differences(rows | {OURS: []}) == {}
    assert differences(NOTHING) == {}


def test_the_papers_claims_are_judged_by_the_interval(rows):
    judged = {one.claim: one for one in verdicts(rows)}
    assert {claim.removeprefix("modulated is better than "): one.word
            for claim, one in judged.items()} == {
        "independent": "did not hold", "branches, 256": "not run yet", "mask only": "not run yet",
        "branches, 25": "not decided", "CSN": "not run yet", "fully shared": "held"}
    assert judged["modulated is better than fully shared"].paper == pytest.approx(
        87.96 - 74.37, abs=0.01)


def test_the_verdict_table_has_a_line_for_every_other_row_that_was_run(rows):
    table = verdict_table(rows)
    assert list(table.index) == [f"modulated − {row}" for row in
                                 ("branches, 25", "fully shared", "independent", "signed scales")]
    value, low, high = looped_difference(rows[OURS], rows["fully shared"])
    assert table.loc["modulated − fully shared"].tolist() == [
        with_interval(value, low, high), "+13.59", "held", "yes"]
    assert table.loc["modulated − branches, 25"].tolist()[2:] == ["not decided", "no"]
    assert table.loc["modulated − signed scales"].tolist()[1:] == ["–", "–", "–"]


def test_the_verdict_table_may_be_of_some_rows_alone(rows):
    few = {name: rows[name] for name in (OURS, "branches, 25", "fully shared")}
    assert verdict_table(few).equals(
        verdict_table(rows).loc[["modulated − branches, 25", "modulated − fully shared"]])


def test_what_one_interval_decides_six_together_may_not(monkeypatch, rows):
    asked = []

    def told(first, second, tasks=None, together=1):
        asked.append(together)
        return 1.5, 1.5 - together, 1.5 + together

    monkeypatch.setattr(twenty_verdicts, "difference", told)
    table = verdict_table(rows).loc["modulated − fully shared"]
    assert table.tolist()[2:] == ["held", "no"] and set(asked) == {1, len(PAPER_NAMES) - 1}
    assert takeaway(rows).endswith("judged together: none.")


def test_the_verdict_table_of_all_records_compares_with_all_other_rows(all_rows):
    table = verdict_table(all_rows)
    assert list(table.index) == [f"modulated − {row}" for row in STUDY.rows if row != OURS]
    assert (table["paper"] != "–").sum() == len(PAPER_NAMES) - 1


@pytest.mark.parametrize("missing", [row for row in SMILING if row != OURS])
def test_the_verdict_table_without_one_row_has_the_other_lines(rows, missing):
    whole, without = verdict_table(rows), verdict_table(rows | {missing: []})
    assert without.equals(whole.drop(f"modulated − {missing}"))


@pytest.mark.parametrize("missing", [list(STUDY.rows), [OURS]])
def test_the_verdict_table_of_nothing_to_compare_is_empty_and_has_its_columns(rows, missing):
    table = verdict_table(rows | {row: [] for row in missing})
    assert list(table) == ["points", "paper", "the paper's claim", "decided with all six"]
    assert table.empty


# Accuracy against its price


def test_the_frontier_is_what_no_other_row_beats_for_as_little(rows):
    table = frontier(rows)
    assert list(table.itertuples(index=False, name=None)) == [
        ("fully shared", 0, pytest.approx(55), True), (OURS, 40, pytest.approx(75), False),
        ("signed scales", 40, pytest.approx(85), True),
        ("branches, 25", 500, pytest.approx(74), False),
        ("independent", NETWORK, pytest.approx(91), True)]


def test_the_frontier_of_all_records_equals_a_loop(all_rows):
    lines = list(frontier(all_rows).itertuples())
    assert sorted(one.row for one in lines) == sorted(STUDY.rows)
    for one in lines:
        beaten = [other for other in lines
                  if other.extra <= one.extra and other.accuracy > one.accuracy]
        assert one.best == (not beaten)


def test_equals_are_both_on_the_frontier():
    table = frontier({OURS: [record(STUDY, OURS)], "CSN": [record(STUDY, "CSN")]})
    assert list(table.best) == [True, True]


def test_the_frontier_without_its_best_row_is_taken_by_the_next(rows):
    table = frontier(rows | {"signed scales": []}).set_index("row")
    assert table.best.to_dict() == {
        "fully shared": True, OURS: True, "branches, 25": False, "independent": True}


def test_the_frontier_of_no_records_is_empty_and_has_its_columns():
    best = frontier(NOTHING)[frontier(NOTHING).best]
    assert list(best) == ["row", "extra", "accuracy", "best"]
    assert best.empty


COSTS = {OURS: 3.5, "branches, 25": 1.5, "fully shared": 1.0, "independent": 3.5, "CSN": 0.1}


def test_the_frontier_of_given_costs_has_the_rows_that_have_one(rows):
    """Signed scales have no cost, and CSN was not run."""
    table = frontier(rows, "seconds", COSTS)
    assert list(table) == ["row", "seconds", "accuracy", "best"]
    assert list(table.itertuples(index=False, name=None)) == [
        ("fully shared", 1.0, pytest.approx(55), True),
        ("branches, 25", 1.5, pytest.approx(74), True),
        (OURS, 3.5, pytest.approx(75), False), ("independent", 3.5, pytest.approx(91), True)]


def test_other_costs_put_other_rows_on_the_frontier(rows):
    table = frontier(rows, "seconds", COSTS | {"independent": 0.5}).set_index("row")
    assert table.index[table.best].tolist() == ["independent"]


def test_without_a_cost_of_any_row_the_frontier_is_empty(rows):
    table = frontier(rows, "seconds", {"CSN": 1.0})
    assert list(table) == ["row", "seconds", "accuracy", "best"]
    assert table.empty


# Sentences


def test_the_takeaway_sorts_the_claims_by_what_became_of_them(rows):
    assert takeaway(rows).splitlines() == [
        '- "Modulated is better than …" **held** for: fully shared.',
        '- "Modulated is better than …" **did not hold** for: independent.',
        '- "Modulated is better than …" **not decided** for: branches, 25.',
        '- "Modulated is better than …" **not run yet** for: branches, 256; mask only; CSN.',
        "- Decided also when all six are judged together: independent; fully shared."]


def test_the_takeaway_of_all_records_leaves_nothing_unsaid(all_rows):
    assert "not run yet" not in takeaway(all_rows)


@pytest.mark.parametrize("few", [{}, {OURS: [record(STUDY, OURS)]}])
def test_the_takeaway_of_fewer_than_two_systems_decides_nothing(few):
    [line] = takeaway(NOTHING | few).splitlines()
    assert line == ('- "Modulated is better than …" **not run yet** for: independent; '
                    "branches, 256; mask only; branches, 25; CSN; fully shared.")


def test_hand_made_records_have_the_accuracy_that_their_triplets_say(rows):
    [first, _] = rows[OURS]
    correct_TK = from_json(first["results"]["test_triplets"]["correct"])
    assert correct_TK.sum(1).tolist() == [79 * COUNT // 100, 69 * COUNT // 100]
    assert correct_TK.shape == (2, COUNT)


@pytest.mark.parametrize(("ours", "one_rate", "words"), [
    (95, 50, ("above", "below")), (80, 80, ("not decidedly apart from",) * 2)])
def test_whether_the_order_is_a_matter_of_the_scales_rate(ours, one_rate, words):
    said = recipe_sentence(STUDY.by_row([
        one for row, value in ((OURS, ours), ("modulated, one rate", one_rate),
                               ("branches, 256", 80)) for one in two_seeds(row, value)]))
    first, second = said.split(";")
    assert f"it is **{words[0]}** them ({with_sign(ours - 80)} [" in first
    assert f"it is **{words[1]}** them ({with_sign(one_rate - 80)} [" in second


@pytest.mark.parametrize("missing", [OURS, "modulated, one rate", "branches, 256"])
def test_the_order_needs_all_three_rows(all_rows, missing):
    assert "Not run yet" not in recipe_sentence(all_rows)
    assert "Not run yet" in recipe_sentence(all_rows | {missing: []})


def test_the_headline_has_the_means_of_what_was_run(rows):
    assert headline_sentence(rows) == (
        "And over 2 attributes: one network for all of them **55.0 %**; with 20 scales for each "
        "(40 numbers in all) **75.0 %**; with a branch of 25 outputs for each (500) **74.0 %**.")


@pytest.mark.parametrize("missing", [OURS, "fully shared"])
def test_the_headline_is_not_run_yet_until_both_of_its_rows_are(rows, missing):
    assert "ot run yet: `celeba_cpu_20`" in headline_sentence(rows | {missing: []})
