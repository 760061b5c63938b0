"""Equal tuning: the candidates, what is chosen on the validation split, and where it is shown."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from study_records import record

from modlib import twenty_attributes
from modlib.comparison_figures import COLOURS
from modlib.figures import new_axes
from modlib.record_tables import check_table
from modlib.studies import valid_accuracy
from modlib.tuning import (
    CANDIDATES,
    STUDY,
    SYSTEMS,
    chosen,
    draw_scores,
    edge_sentence,
    lay_out,
    scores,
    takeaway,
    tuning_table,
)

NOTHING = {row: [] for row in STUDY.rows}
LABELS = list(CANDIDATES)
FULL = {"modulated": [70, 71, 72, 69, 73, 75, 74, 68],
        "fully shared": [66, 65, 64, 63, 62, 61, 60, 59]}
PART = {"CSN": [80, 79]}  # of the first two candidates only
BEST = {"modulated": {"learning_rate": 2e-3, "margin": 0.4},
        "fully shared": {"learning_rate": 1e-3, "margin": 0.2}}


def of(system, values, seed=0) -> list[dict]:
    """Records of a system's first candidates with these validation accuracies in %.

    As of all runs with ``final_test=False``, their results are counts of parameters alone.
    """
    records = [record(STUDY, f"{system}; {label}", seed, valid=value)
               for label, value in zip(LABELS, values, strict=False)]
    return [one | {"results": {"parameters": one["results"]["parameters"]}} for one in records]


@pytest.fixture
def rows():
    """Two systems run in full, one in part, two not at all."""
    return STUDY.by_row([one for system, values in (FULL | PART).items()
                         for one in of(system, values)])


@pytest.fixture
def ax():
    plt.switch_backend("Agg")
    yield new_axes()
    plt.close("all")


# The candidates


def test_the_candidates_are_four_rates_by_two_margins():
    assert [(one["learning_rate"], one["margin"]) for one in CANDIDATES.values()] == [
        (1e-3, 0.2), (2e-3, 0.2), (4e-3, 0.2), (8e-3, 0.2),
        (1e-3, 0.4), (2e-3, 0.4), (4e-3, 0.4), (8e-3, 0.4)]
    assert CANDIDATES["rate 0.004, margin 0.4"] == {"learning_rate": 4e-3, "margin": 0.4}


def test_every_system_has_every_candidate_and_is_otherwise_as_in_table_3():
    runs, _ = lay_out({"tasks": ["Smiling", "Young"], "dataset": "celeba"})
    table_3, _ = twenty_attributes.STUDY.lay_out(
        {"tasks": ["Smiling", "Young"], "dataset": "celeba"},
        {system: CANDIDATES["rate 0.004, margin 0.4"] for system in SYSTEMS})
    assert len(runs) == len(SYSTEMS) * 8
    for system in SYSTEMS:
        [one], [final] = runs[f"{system}; rate 0.004, margin 0.4"], table_3[system]
        tasks = ("Smiling",) if system == "independent" else ("Smiling", "Young")
        assert one == replace(final, final_test=False, tasks=tasks)
        assert one != final


def test_independent_networks_are_tried_on_every_fifth_task():
    runs, _ = lay_out({"tasks": list(twenty_attributes.TASKS), "dataset": "celeba"})
    tasks = {one.system: one.tasks for of_row in runs.values() for one in of_row}
    assert tasks["independent"] == ("Smiling", "Double_Chin", "Sideburns", "Bags_Under_Eyes")
    assert {of for system, of in tasks.items() if system != "independent"} == {
        twenty_attributes.TASKS}
    assert lay_out({})[0].keys() <= runs.keys()


def test_records_of_fewer_tasks_stand_among_the_others(rows):
    alone = [record(STUDY, f"independent; {label}", tasks=("Smiling",)) for label in LABELS]
    records = [one for of_row in rows.values() for one in of_row] + alone
    check_table(STUDY.by_row(records), STUDY.settings, {"seed", *STUDY.telling, *STUDY.tuned}, "")


def test_no_candidate_is_tested_on_the_test_split():
    runs, _ = STUDY.lay_out({"tasks": ["Smiling", "Young"], "dataset": "celeba", "seeds": [0, 1],
                             "final_test": True})
    assert {one.final_test for of_row in runs.values() for one in of_row} == {False}


def test_on_drawings_the_first_system_is_tried_at_every_rate():
    runs, _ = STUDY.lay_out({"tasks": ["Smiling", "Young"]})
    assert [(one.system, one.learning_rate, one.margin) for [one] in runs.values()] == [
        ("modulated", rate, 0.2) for rate in (1e-3, 2e-3, 4e-3, 8e-3)]


def test_every_record_goes_to_its_own_row():
    records = {row: record(STUDY, row) for row in STUDY.rows}
    assert STUDY.by_row(list(records.values())) == {row: [one] for row, one in records.items()}


# Scores


def test_a_score_is_the_mean_over_tasks_after_the_last_epoch():
    one = {"epochs": [{"valid_accuracy": {"Smiling": 0.9, "Young": 0.9}},
                      {"valid_accuracy": {"Smiling": 0.8, "Young": 0.5}}]}
    assert valid_accuracy(one) == pytest.approx(65)


def test_scores_are_systems_by_candidates_with_gaps_where_nothing_was_run(rows):
    table = scores(rows)
    assert (list(table.index), list(table)) == (list(SYSTEMS), LABELS)
    for system in SYSTEMS:
        values = (FULL | PART).get(system, [])
        assert table.loc[system].tolist() == pytest.approx(
            values + [np.nan] * (8 - len(values)), nan_ok=True)


def test_a_score_is_the_mean_over_seeds():
    rows = STUDY.by_row(of("CSN", [70, 60]) + of("CSN", [74, 61], seed=1))
    assert scores(rows).loc["CSN"].tolist()[:2] == pytest.approx([72, 60.5])


# What is chosen


def test_the_best_candidate_is_chosen_for_the_rows_of_the_systems_run_in_full(rows):
    found = chosen(rows)
    modulated = ["modulated", "modulated, one rate", "signed scales", "scales from block 3",
                 "scales from block 2", "scales and branches of 16", "scales and low rank 4",
                 "projection"]
    shared = ["fully shared", "fully shared, PCGrad", "fully shared, MGDA", "fully shared, UPGrad"]
    assert found == (dict.fromkeys(modulated, BEST["modulated"])
                     | dict.fromkeys(shared, BEST["fully shared"]))


def test_a_system_run_in_part_is_not_chosen_for_until_its_last_candidate(rows):
    assert "CSN" not in chosen(rows)
    all_but_last, whole = (
        {row: many for row, many in STUDY.by_row(of("CSN", values)).items() if many}
        for values in (range(60, 67), range(60, 68)))
    assert "CSN" not in chosen(rows | all_but_last)
    assert chosen(rows | whole)["CSN"] == {"learning_rate": 8e-3, "margin": 0.4}


def test_scales_at_one_rate_take_their_own_settings_once_they_were_tuned(rows):
    whole = {row: many for row, many in STUDY.by_row(
        of("modulated, one rate", range(60, 68))).items() if many}
    found = chosen(rows | whole)
    assert found["modulated, one rate"] == {"learning_rate": 8e-3, "margin": 0.4}
    assert found["modulated"] == found["projection"] == BEST["modulated"]


def test_a_mask_on_trained_branches_takes_the_settings_of_branches():
    values = {"branches, 256": [1, 2, 3, 4, 9, 5, 6, 7], "branches, 25": [1, 2, 3, 9, 4, 5, 6, 7]}
    found = chosen(STUDY.by_row([one for system in values for one in of(system, values[system])]))
    assert found == {
        "branches, 25": {"learning_rate": 8e-3, "margin": 0.2},
        "branches, 256": {"learning_rate": 1e-3, "margin": 0.4},
        "mask only": {"learning_rate": 1e-3, "margin": 0.4}}


def test_the_test_split_decides_nothing(rows):
    for label, accuracy in zip(LABELS, (50, 60, 20, 95, 70, 10, 80, 90), strict=True):
        for one in rows[f"modulated; {label}"]:
            one["results"]["test_accuracy"] = {"Smiling": accuracy / 100, "Young": accuracy / 100}
    assert chosen(rows)["modulated"] == BEST["modulated"]


def test_nothing_is_chosen_from_nothing():
    assert chosen(NOTHING) == {}
    assert scores(NOTHING).isna().all(axis=None)


def test_table_3_is_run_with_what_was_chosen(rows):
    runs, _ = twenty_attributes.STUDY.lay_out(
        {"tasks": ["Smiling", "Young"], "dataset": "celeba", "learning_rate": 3e-3, "margin": 0.3},
        chosen(rows))
    used = {row: (one.learning_rate, one.margin) for row, [one] in runs.items()}
    assert (used["fully shared, MGDA"], used["projection"], used["CSN"]) == (
        (1e-3, 0.2), (2e-3, 0.4), (3e-3, 0.3))


# The edge of the grid


@pytest.mark.parametrize(("best", "said"), [
    (0, "By learning rate: modulated (0.001). By margin: none."),
    (7, "By learning rate: modulated (0.008). By margin: modulated (0.4)."),
    (5, "By learning rate: none. By margin: modulated (0.4)."),
    (2, "By learning rate: none. By margin: none.")])
def test_a_best_candidate_at_the_edge_of_the_grid_is_named(best, said):
    valid = [70.0] * 8
    valid[best] = 75.0
    assert said in edge_sentence(STUDY.by_row(of("modulated", valid)))


def test_the_edge_of_what_was_not_run_is_not_known():
    assert edge_sentence(NOTHING) == "Not run yet."


def test_what_tuning_is_worth_is_told_of_systems_that_were_tuned_in_full(rows):
    said = takeaway(rows)  # of CSN and branches, 25 some candidates or all are missing
    assert "modulated **7.0**" in said and "CSN" not in said and "branches, 25" not in said
    assert takeaway(NOTHING) == "Not run yet on real faces."


# Shown


def cells(rows) -> dict[str, list[str]]:
    """The cells of the table by system, as LaTeX: public, and it says what is bold."""
    lines = tuning_table(rows).to_latex(convert_css=True).splitlines()
    split = [[cell.strip() for cell in line.removesuffix(r" \\").split(" & ")] for line in lines]
    return {first: others for first, *others in split if first in SYSTEMS}


def test_the_table_has_one_decimal_and_each_systems_best_in_bold(rows):
    shown = cells(rows)
    assert shown["modulated"] == ["70.0", "71.0", "72.0", "69.0", "73.0", r"\bfseries 75.0", "74.0",
                                  "68.0"]
    assert shown["fully shared"][:2] == [r"\bfseries 66.0", "65.0"]
    assert shown["CSN"] == [r"\bfseries 80.0", "79.0", *["not run yet"] * 6]
    assert shown["branches, 25"] == ["not run yet"] * 8


def test_the_table_of_nothing_says_so():
    assert cells(NOTHING) == {system: ["not run yet"] * 8 for system in SYSTEMS}


def drawn(ax) -> dict[str, list[float]]:
    """The values of each system: a line at the smaller margin, and one at the larger."""
    lines = [line for line in ax.lines if line.get_markersize() != 14]
    return {one.get_label(): [*one.get_ydata(), *other.get_ydata()]
            for one, other in zip(lines[::2], lines[1::2], strict=True)}


def test_a_line_a_system_is_drawn_with_a_ring_around_its_best(ax, rows):
    assert draw_scores(ax, rows) is ax
    values = drawn(ax)
    assert values.keys() == FULL.keys() | PART.keys()
    for system, expected in (FULL | PART).items():
        assert values[system][:len(expected)] == pytest.approx(expected)
        assert np.isnan(values[system][len(expected):]).all()
    rings = sorted(tuple(point) for line in ax.lines if line.get_markersize() == 14
                   for point in line.get_xydata())
    assert rings == [pytest.approx((0, 66)), pytest.approx((0, 80)), pytest.approx((5, 75))]


def test_the_candidates_stand_below_the_axis(ax, rows):
    draw_scores(ax, rows)
    assert list(ax.get_xticks()) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert ax.get_xticklabels()[5].get_text() == "0.002\n0.4"


def test_of_some_candidates_only_these_are_drawn(ax):
    every = STUDY.by_row(of("modulated", FULL["modulated"]))
    asked = {row: records for row, records in every.items()
             if row.startswith("modulated; ") and "margin 0.2" in row}
    draw_scores(ax, asked)
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "0.001\n0.2", "0.002\n0.2", "0.004\n0.2", "0.008\n0.2"]
    assert list(ax.lines[0].get_ydata()) == pytest.approx(FULL["modulated"][:4])


def test_a_system_keeps_its_colour_when_others_are_not_run(ax):
    draw_scores(ax, STUDY.by_row(of("fully shared", FULL["fully shared"])))
    assert {line.get_color() for line in ax.lines if line.get_markersize() != 14} == {
        COLOURS[SYSTEMS.index("fully shared")]}


def test_a_system_with_fewer_tasks_says_how_many(ax, rows):
    """Or its mean would seem to be of the same tasks as the others'."""
    alone = {f"independent; {label}": [record(STUDY, f"independent; {label}", tasks=("Smiling",))]
             for label in LABELS}
    draw_scores(ax, rows | alone)
    assert "independent (1 attributes)" in drawn(ax) and "modulated" in drawn(ax)
    assert "independent (1 attributes) & " in tuning_table(rows | alone).to_latex()


def test_rows_that_are_not_given_have_no_line_in_the_table():
    asked = {row: records for row, records in STUDY.by_row(of("CSN", [70, 71])).items()
             if row.startswith("CSN; ") and "margin 0.2" in row}
    table = scores(asked)
    assert (list(table.index), len(table.columns)) == (["CSN"], 4)


@pytest.mark.filterwarnings("error")
def test_nothing_is_drawn_of_nothing(ax):
    draw_scores(ax, NOTHING)
    ax.figure.canvas.draw()
    assert len(ax.lines) == 0


def test_the_books_rows_have_the_settings_that_its_tuning_chose():
    """Another choice needs these rows run again, in the place of their records."""
    best = chosen(STUDY.published("celeba_cpu_20_tuning"))
    used = {row: {(one["settings"]["learning_rate"], one["settings"]["margin"]) for one in records}
            for row, records in twenty_attributes.STUDY.published("celeba_cpu_20").items()}
    expected = {row: {(one["learning_rate"], one["margin"])} for row, one in best.items()}
    assert {row: values for row, values in used.items() if values} == {
        row: values for row, values in expected.items() if used[row]}
