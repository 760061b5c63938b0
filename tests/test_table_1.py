"""Table 1's tables, sentences and headline say what the records hold, and what is missing."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from table_1_records import (
    MEANS,
    MOUTH,
    NO_ROWS,
    PAPER_ACCURACY,
    PAPER_UCR,
    SMILE,
    YOUNG,
    record,
    rows_of_two_seeds,
)

from modlib.missing_records import not_run_yet
from modlib.table_1 import (
    accuracy_table,
    draw_headline,
    headline_sentence,
    how_it_ran,
    regulariser_table,
    row_labels,
    scale_table,
    ucr_cells,
    ucr_table,
)
from modlib.three_attributes import FOLDER, ROWS, SHORT_NAMES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rows() -> dict:
    return rows_of_two_seeds()


def test_the_accuracy_table_has_means_spreads_and_the_papers_numbers(rows):
    table = accuracy_table(rows)
    assert list(table.index) == [f"({name}) {row.label}" for name, row in ROWS.items()]
    assert table.loc["(e) modulated"].to_dict() == {
        "smile": "76.0 ± 1.4", "smile, paper": "94.03",
        "mouth open": "74.0 ± 1.4", "mouth open, paper": "95.31",
        "young": "72.0 ± 1.4", "young, paper": "86.20",
        "parameters": "4,120",
    }
    assert table.loc["(b) smile + young"].to_dict() == {
        "smile": "64.0 ± 1.4", "smile, paper": "83.85",
        "mouth open": "–", "mouth open, paper": "–",
        "young": "60.0 ± 1.4", "young, paper": "74.71",
        "parameters": "4,000",
    }


def test_the_accuracy_table_prints_every_number_of_the_paper():
    table = accuracy_table(NO_ROWS)
    short = {SMILE: "smile", MOUTH: "mouth open", YOUNG: "young"}
    for (name, row), (_, line) in zip(ROWS.items(), table.iterrows(), strict=True):
        assert {task: line[f"{short[task]}, paper"] for task in short} == {
            task: f"{PAPER_ACCURACY[name][task]:.2f}" if task in row.tasks else "–"
            for task in short}


def test_one_seed_has_no_spread(rows):
    table = accuracy_table(rows | {"a": rows["a"][:1]})
    assert table.loc["(a) all three shared", ["smile", "mouth open", "young"]].tolist() \
        == ["59.0", "57.0", "55.0"]


@pytest.mark.parametrize("missing", list("abcdef"))
def test_a_missing_row_is_not_run_yet_and_changes_nothing_else(rows, missing):
    whole, table = accuracy_table(rows), accuracy_table(rows | {missing: []})
    label = f"({missing}) {ROWS[missing].label}"
    pd.testing.assert_frame_equal(table.drop(label), whole.drop(label))
    changed = {column: value for column, value in table.loc[label].items()
               if value != whole.loc[label, column]}
    own = {SHORT_NAMES[task]: "not run yet" for task in ROWS[missing].tasks}
    assert changed == own | {"parameters": ""}


@pytest.mark.parametrize("missing", ["b", "c", "e"])
def test_a_missing_rows_ucr_is_not_run_yet_and_changes_nothing_else(rows, missing):
    whole, table = ucr_table(rows), ucr_table(rows | {missing: []})
    label = f"({missing})"
    pd.testing.assert_frame_equal(table.drop(label), whole.drop(label))
    for _, line in table.loc[[label]].iterrows():
        assert (line["UCR %"], line["UCR %, zeros left out"], line["batches"], line["zeros"]) == (
            "not run yet", "–", 0, 0)
    assert table.paper.tolist() == whole.paper.tolist()


def test_the_ucr_table_counts_all_seeds_with_and_without_zeros(rows):
    table = ucr_table(rows)
    assert len(table) == 8
    # Wilson's interval of 6 of 16, and of 6 of 8.
    assert table.loc["(b)"].to_dict() == {
        "pair": "smile / young", "UCR %": "37.5 [18.5, 61.4]",
        "UCR %, zeros left out": "75.0 [40.9, 92.9]", "batches": 16, "zeros": 8,
        "paper": "22.10"}


def test_the_ucr_table_prints_every_ucr_of_the_paper():
    table = ucr_table(NO_ROWS)
    printed = {(label[1], pair): value for label, pair, value in
               zip(table.index, table["pair"], table["paper"], strict=True)}
    assert {cell: value for cell, value in printed.items() if value != "–"} == {
        cell: f"{value:.2f}" for cell, value in PAPER_UCR.items()}
    assert set(printed) == set(PAPER_UCR) | {
        (name, pair) for name in "aef" for pair in ("smile / young", "smile / mouth open")}


@pytest.mark.parametrize("table", [accuracy_table, ucr_table])
def test_without_the_paper_its_columns_are_absent_and_the_rest_is_the_same(rows, table):
    beside, alone = table(rows), table(rows, beside_paper=False)
    papers = [column for column in beside.columns if "paper" in column]
    assert len(papers) == (3 if table is accuracy_table else 1)
    pd.testing.assert_frame_equal(alone, beside.drop(columns=papers))


def test_the_ucr_figures_cells_are_those_of_the_table(rows):
    cells = ucr_cells(rows)
    assert {(label[1], label[4:]): printed for label, _, printed in cells
            if printed is not None} == PAPER_UCR
    assert len(cells) == 8
    assert {(ratio.value, ratio.count) for _, ratio, _ in cells} == {(0.375, 16)}
    assert [printed for *_, printed in ucr_cells(rows, beside_paper=False)] == [None] * 8


# Sentences

def test_how_it_ran_says_what_made_the_records(rows):
    said = how_it_ran(rows, "celeba_cpu")
    for part in ("12 runs, 2 seeds, 2.0 to 3.5 minutes each by the clock, pauses included "
                 "(median 2.8), on a test's device.",
                 "photographs of a test: 1,000 to train on, 200 to choose settings on, 300",
                 "Width 0.25", "batches of 180 images", "8 epochs",
                 "adam, learning rate 0.001 (of scales 20 times that), margin ", "bfloat16",
                 "λ = 0.25", "β = 1", "torch 2.12.0", "commit `0123456789`"):
        assert part in said


def test_how_it_ran_says_when_the_code_was_not_the_commits(rows):
    for one in (one for records in rows.values() for one in records):
        one["run"]["git_commit"] = "0123456789abcdef0123456789abcdef01234567-dirty"
    assert "dirty" in how_it_ran(rows, "celeba_cpu")


def test_how_it_ran_of_some_rows_speaks_of_those(rows):
    said = how_it_ran(NO_ROWS | {"c": rows["c"][1:]}, "celeba_cpu")
    assert said.startswith("1 run, 1 seed, 3.5 to 3.5 minutes")
    assert "λ = 0.0" in said


@pytest.mark.parametrize("profile", ["celeba_cpu", "celeba_gpu"])
def test_what_is_missing_comes_with_a_command_that_makes_it(profile):
    said = how_it_ran(NO_ROWS, profile)
    assert said == not_run_yet(profile, FOLDER, "02")
    assert all(line.startswith(">") for line in said.splitlines())  # a quote everywhere
    assert f"ot run yet: `{profile}`" in said
    [command] = [line for line in said.splitlines() if "make run" in line]
    assert command.strip("> ") == (
        f"make run NB=02 SETTINGS={profile} DATA=/path/to/celeba RESULTS=book/results")
    assert (ROOT / f"notebooks/settings/{profile}.yml").exists()
    [notebook] = ROOT.glob("notebooks/02*.ipynb")
    assert "three_attributes.study" in notebook.read_text("utf8")


def test_the_headline_is_the_mean_of_three_rows(rows):
    said = headline_sentence(rows)  # each row's mean over tasks is 2 below smile's
    assert "Trained on 1,000 real photographs and tested on 300 others" in said
    assert "over three attributes and 2 seeds" in said
    for part in ("for all of them **58.0 %**", "a network each **70.0 %**",
                 "40 scales per attribute (numbers by which it multiplies the channels), 3.0 % "
                 "more parameters, **74.0 %**"):
        assert part in said


@pytest.mark.parametrize("missing", ["a", "d", "e"])
def test_the_headline_is_not_run_yet_until_its_three_rows_are(rows, missing):
    assert headline_sentence(rows | {missing: []}) == not_run_yet("celeba_cpu", FOLDER, "02")


def test_the_headline_does_not_wait_for_the_other_rows(rows):
    assert headline_sentence(rows | {"b": [], "c": [], "f": []}) == headline_sentence(rows)


@pytest.mark.parametrize("with_records", [True, False])
def test_the_headlines_figure_shows_its_three_rows_beside_the_papers(rows, with_records):
    plt.switch_backend("Agg")
    ax = draw_headline(plt.subplots()[1], rows if with_records else NO_ROWS)
    assert [label.get_text()[:3] for label in ax.get_xticklabels()] == ["(a)", "(d)", "(e)"]
    bars = sorted(bar.get_height() for bar in ax.patches if bar.get_height())
    means = [MEANS[row] - below for row in "ade" for below in (4, 2, 0)]
    assert bars == pytest.approx(sorted(means) if with_records else [])
    diamonds = sorted(line.get_ydata()[0] for line in ax.lines
                      if line.get_marker() == "D" and len(line.get_ydata()))
    assert diamonds == sorted(value for row in "ade" for value in PAPER_ACCURACY[row].values())
    plt.close("all")


def test_a_figures_labels_name_the_rows():
    labels = row_labels()
    assert [label[:4] for label in labels.values()] == [f"({name}) " for name in "abcdef"]
    assert list(labels) == list("abcdef")
    assert max(label.count("\n") for label in labels.values()) == 1


def test_the_scale_table_counts_dead_scales_and_differences(rows):
    for one in [*rows["e"], *rows["f"]]:
        one["results"] |= {"dead_scales": 7, "w_distance": [
            {"tasks": [SMILE, YOUNG], "mean": 0.236, "variance": 0.047}]}
    table = scale_table(rows)
    assert list(table.index) == ["(e)", "(e)", "(f)", "(f)"]
    assert table["dead scales"].tolist() == ["7 of 120"] * 4
    assert table["|Wᵢ − Wⱼ|, smile / young"].tolist() == ["0.24 (variance 0.05)"] * 4


def test_the_scale_table_without_records_is_empty():
    assert scale_table(NO_ROWS).empty


def test_the_regularisers_effect_is_compared_seed_by_seed():
    """Of 1, 2 and 3 hundredths: the mean, and t(0.975, 2) = 4.303 deviations of 0.01 / √3."""
    rows = dict(NO_ROWS)
    for name, nearer in (("e", (0, 0, 0)), ("f", (0.01, 0.02, 0.03))):
        rows[name] = [record(name, seed, 80) for seed in range(3)]
        for one, by in zip(rows[name], nearer, strict=True):
            one["results"]["w_distance"] = [
                {"tasks": [SMILE, MOUTH], "mean": 0.2 - by, "variance": 0.0},
                {"tasks": [SMILE, YOUNG], "mean": 0.3, "variance": 0.0}]
    table = regulariser_table(rows).iloc[:, 0]
    assert table["|Wᵢ − Wⱼ|, smile / mouth open"] == "−0.02 [−0.04, +0.00]"
    assert table["|Wᵢ − Wⱼ|, smile / young"] == "+0.00 [+0.00, +0.00]"
    assert set(regulariser_table(NO_ROWS).iloc[:, 0]) == {"not run yet"}
