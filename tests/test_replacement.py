"""What should replace the module: chosen by validation, judged by the test split's interval."""

import inspect

import pytest
import torch
from study_records import record

from modlib import replacement
from modlib.evaluation import parameter_counts
from modlib.networks import build_network
from modlib.replacement import (
    TOO_LARGE,
    answer,
    candidates,
    challengers,
    chosen,
    headline_sentence,
    in_use,
)
from modlib.results import write_record
from modlib.tables import with_sign
from modlib.twenty_attributes import BUDGET, OURS, STUDY, TASKS

NOTHING = {row: [] for row in STUDY.rows}
WAITING = (" Not run yet, so this may change: fully shared, PCGrad; fully shared, MGDA; fully "
           "shared, UPGrad; scales from block 3; scales from block 2; scales and branches of 16; "
           "scales and low rank 4.")
SIGNED = "signed scales"


def rows_of(**rows) -> dict:
    """By row, (accuracy, validation accuracy) in % of each of two seeds."""
    named = {"ours": OURS, "signed": SIGNED, "shared": "fully shared", "projection": "projection"}
    return NOTHING | {named[name]: [record(STUDY, named[name], seed, accuracy + seed, valid)
                                    for seed in (0, 1)]
                      for name, (accuracy, valid) in rows.items()}


@pytest.fixture
def times(monkeypatch):
    monkeypatch.setattr(replacement, "in_use", lambda: {OURS: "1.1 [1, 1.2]", SIGNED: "2.2 [2, 3]"})


def test_validation_chooses_whatever_the_test_split_says():
    assert chosen(rows_of(ours=(80, 70), signed=(60, 71), shared=(90, 60))) == SIGNED
    assert chosen(rows_of(ours=(80, 70))) is None
    assert answer(NOTHING) == "- What should replace it: not run yet."


def test_what_costs_more_than_the_budget_is_no_candidate():
    rows = rows_of(ours=(80, 70), projection=(90, 90), signed=(60, 60))
    for one in rows["projection"]:
        one["results"]["parameters"]["task"] = 128_001
    assert chosen(rows) == OURS
    assert "best of the 2 systems here" in answer(rows)


def test_the_headline_has_what_validation_chose_and_how_far_it_is():
    said = headline_sentence(rows_of(ours=(80, 70), signed=(95, 71), shared=(60, 60)))
    assert said.startswith("With at most 128,000 extra numbers for all attributes, the best of 3 "
                           f"systems by validation is *{SIGNED}* (40; [what that "
                           "is](book/method.md)). It has **90.5 %** on the test split, +15.00 [")
    assert said.endswith("] points above the scales alone.")


@pytest.mark.parametrize("rows", [
    {}, {"ours": (80, 70)}, {"ours": (80, 70), "signed": (95, 60)},
    {"signed": (80, 70), "shared": (60, 60)}])
def test_the_headline_is_silent_where_there_is_nothing_better_to_tell(rows):
    assert headline_sentence(rows_of(**rows)) == ""


@pytest.mark.parametrize(("accuracy", "word"), [
    (95, "so on these attributes it should take the module's place, for 1 times the numbers. By "
         "search (mAP) it is better: +15.00 [+15.00, +15.00] points."),
    (60, "so it should not replace the module."),
    (80, "which decides nothing: no reason yet to replace the module.")])
def test_the_word_follows_from_the_interval_on_the_test_split(times, accuracy, word):
    said = answer(rows_of(ours=(80, 70), signed=(accuracy, 80)))
    assert f"**{SIGNED}**: {accuracy - 4.5:.1f} % on the test split, with 40 of them" in said
    assert f"Against the module: {with_sign(accuracy - 80)} [" in said and word in said
    assert said.endswith("In use it takes 2.2 [2, 3] times as long as full sharing, the module "
                         "1.1 [1, 1.2] times." + WAITING)


def test_while_challengers_wait_it_is_said_that_they_do():
    said = answer(rows_of(ours=(80, 90), signed=(80, 80)))
    assert said.endswith(WAITING)
    assert "nothing here should replace" not in said


def test_where_all_ran_and_the_module_is_best_nothing_should_replace_it():
    every = {row: [record(STUDY, row, seed, 80, 90 if row == OURS else 80) for seed in (0, 1)]
             for row in STUDY.rows}
    assert answer(every).endswith("So nothing here should replace the paper's module.")


def test_another_rate_of_the_same_module_is_no_replacement():
    rows = rows_of(ours=(80, 70), shared=(60, 60))
    rows["modulated, one rate"] = [record(STUDY, "modulated, one rate", 0, 90, 90)]
    assert chosen(rows) == OURS and "modulated, one rate" not in candidates(rows)


def test_what_is_waited_for_is_within_the_budget_and_what_is_left_out_is_not():
    """Counted on the paper's own network, which is the widest of the book."""
    named = set(inspect.signature(build_network).parameters)
    with torch.device("meta"):
        for row in (*challengers(), *TOO_LARGE):
            changes = {key: value for key, value in STUDY.rows[row].items() if key in named}
            network = build_network(tasks=TASKS, **changes)
            own = parameter_counts(network)["task"]
            assert (own <= BUDGET) == (row not in TOO_LARGE), row
    assert not {OURS, "CSN", "modulated, one rate"} & set(challengers())


def test_times_in_use_are_the_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setattr("modlib.results.project_root", lambda start=None: tmp_path)
    assert in_use() == {}
    write_record(tmp_path / "book/results/speed/benchmark.json", {
        "version": 1, "curves": [], "run": {}, "rows": [
            {"key": "in use: CSN", "value": 1.5, "low": 1, "high": 2},
            {"key": "another", "value": 3, "low": 1, "high": 4}]})
    assert in_use() == {"CSN": "1.5 [1, 2]"}
