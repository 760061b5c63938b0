"""The study of branching: its runs, and what its tables and verdicts say of hand-made records."""

import json
import re
from math import inf, isnan

import numpy as np
import pytest
import torch
import yaml
from hand_made_answers import IMAGES, first_right

from modlib import branching_sentences, branching_study, branching_verdicts
from modlib.adaptive_branching import BranchingSettings, build_network
from modlib.answers import answer_difference
from modlib.arrays import to_json
from modlib.branching_sentences import takeaway
from modlib.branching_study import (
    BY_CHANCE,
    FOUND,
    HIGH,
    LOW,
    RANDOM,
    SHUFFLED,
    STUDY,
    THIN,
    TRAINED_ON,
    WIDE,
    branches,
    how_it_ran,
    paired,
    paper_table,
    result_table,
    round_table,
    split_layers,
    vgg16_weights,
    weights_at,
)
from modlib.branching_verdicts import costs, verdict_table, verdicts
from modlib.errors import ModlibError
from modlib.results import plain, resolve
from modlib.settings import Places
from modlib.studies import learning_curves
from modlib.tables import points, with_interval
from modlib.thin_vgg import LAYERS, count_layer_weights

TASKS = ("Smiling", "Young", "Bald")
SHARED = [list(TASKS)]
SPLIT = {"fc6": [["Smiling"], ["Young", "Bald"]], "fc7": [["Smiling"], ["Young"], ["Bald"]]}
NOTHING = {row: [] for row in STUDY.rows}
HELD = np.arange(3 * IMAGES).reshape(3, IMAGES) % 5 < 2  # 40 % of the images have an attribute


def record(row, seed=0, accuracy=80.0, split=None, milliseconds=5.0, first=50.0, **changes) -> dict:
    """A hand-made record: ``accuracy`` in % for every task, recall 20 points below."""
    settings = BranchingSettings(**{"profile": "mine", "tasks": TASKS, "seed": seed, "thinness": 4,
                                    "wide_thinness": 8} | STUDY.changes(row) | changes)
    objectives = [{"branches": d, "complexity": 0.0, "separation": 0.0, "loss": loss}
                  for d, loss in ((1, 0.9), (2, 0.4), (3, 0.5))]
    round_ = {"batch": 30, "layer": "fc7", "objectives": objectives, "groups": [["Smiling"], ["x"]],
              "affinity": to_json(torch.eye(3).numpy())}
    epochs = [{"epoch": n + 1, "images": 640, "rounds": [round_] if split and n == 0 else [],
               "train_accuracy": dict.fromkeys(TASKS, value / 100 + 0.05),
               "valid_accuracy": dict.fromkeys(TASKS, value / 100)}
              for n, value in enumerate((first, accuracy))]
    return {
        "version": 1, "name": settings.run_name("data"), "status": "done",
        "settings": plain(settings.as_dict()),
        "data": {"fingerprint": "data", "source": "photographs of a test",
                 "images": {"train": 1000, "valid": 200, "test": IMAGES}},
        "results": {"test_accuracy": dict.fromkeys(TASKS, accuracy / 100),
                    "test_answers": first_right([accuracy / 100] * 3),
                    "top_recall": accuracy / 100 - 0.2,
                    "test_top": first_right([accuracy / 100 - 0.2] * 3, asked_TN=HELD),
                    "groups": {name: (split or {}).get(name, SHARED) for name in LAYERS}},
        "epochs": epochs,
        "run": {"training_seconds": 90.0, "device": "a test's device",
                "versions": {"torch": "2.12.0"}, "git_commit": "0123456789abcdef",
                "milliseconds": {"network": milliseconds, "vgg16": 40.0}},
    }


@pytest.fixture
def rows():
    """Three seeds: thin 80, α = 1 three points above, α = 2 level with it, and so on."""
    table = {name: [] for name in STUDY.rows}
    for seed, noise in enumerate((-0.1, 0.0, 0.1)):
        for row, accuracy, split in (
                (WIDE, 84, None), (THIN, 80, None), (LOW, 83 + noise, {"fc7": SPLIT["fc7"]}),
                (HIGH, 83 - noise, SPLIT), (FOUND, 82, SPLIT), (SHUFFLED, 83 + noise, SPLIT),
                (RANDOM, 79, None), (BY_CHANCE, 79.9, None), (TRAINED_ON, 81, None)):
            table[row].append(record(row, seed, accuracy, split,
                                     first=60 if row == RANDOM else 55 + noise))
    return table


# Runs

def test_the_study_runs_every_row_with_every_seed():
    runs, places = STUDY.lay_out({"dataset": "celeba", "tasks": list(TASKS), "seeds": [0, 4],
                                  "thinness": 16, "results_dir": "r"})
    assert list(runs) == list(STUDY.rows) and places.results_dir == "r/adaptive_branching"
    assert [(one.system, one.alpha, one.somp, one.seed) for one in runs[HIGH]] == [
        ("branched", 2.0, True, 0), ("branched", 2.0, True, 4)]
    assert {one.thinness for of_row in runs.values() for one in of_row} == {16}


def test_what_runs_start_from_are_rows_of_the_study():
    """So that nothing is trained twice."""
    runs, _ = STUDY.lay_out({"dataset": "celeba", "tasks": list(TASKS), "round_batches": 7,
                             "affinity_decay": 0.9, "thinness": 8, "seeds": [3]})
    for row in (THIN, LOW, HIGH):
        assert [one.trunk_from for one in runs[row]] == runs[WIDE]
    for row in (FOUND, SHUFFLED):
        assert [one.trunk_from for one in runs[row]] == runs[HIGH]
    assert runs[RANDOM][0].trunk_from is None


def test_toy_faces_are_enough_for_rare_attributes_and_fewer_rows_are_run():
    runs, _ = STUDY.lay_out({"toy_images": 300})
    assert list(runs) == [WIDE, THIN, LOW, HIGH]
    assert {one.toy_images for [one] in runs.values()} == {2000}


def test_the_settings_file_fits_and_ends_the_rounds_before_the_rate_falls():
    path = resolve("notebooks/settings/celeba_cpu_branching.yml")
    values = yaml.safe_load(path.read_text("utf8"))
    runs, places = STUDY.lay_out(values)
    assert places.workers == 2 and len(runs[LOW]) == 3
    one = runs[LOW][0]
    assert len(one.tasks) == 40 and (one.image_size, one.precision) == (64, "bfloat16")
    assert len(LAYERS) * one.round_batches <= one.epochs * one.batches_per_epoch / 3


@pytest.mark.parametrize(("wrong", "said"), [
    ({"system": "thin"}, "system is not a parameter of this study"),
    ({"thinnes": 3}, "parameter 'thinnes' is not known; did you mean 'thinness'"),
    ({"width": "wide"}, "width must be a number; given 'wide'"),
    ({"thinness": 0}, "thinness must be from 1")])
def test_wrong_parameters_are_refused_by_name(wrong, said):
    with pytest.raises(ModlibError, match=said):
        STUDY.lay_out(wrong)


def test_every_record_goes_to_its_own_row(rows):
    records = [one for of_row in rows.values() for one in of_row]
    assert STUDY.by_row(list(reversed(records))) == rows


def test_places_are_plain_places():
    assert STUDY.lay_out({"device": "cpu"})[1] == Places(
        device="cpu", results_dir="runs/records/adaptive_branching")


# Counts

def test_weights_are_those_of_the_tree_at_the_papers_size():
    one = record(HIGH, split=SPLIT)
    thin = 27 * 4 + 12 * 16 * 9 + 49 * 4 * 8 + 8 * 8 + 8 * 3
    assert weights_at(one) == thin + 49 * 4 * 8 + 2 * 8 * 8  # one more fc6 and two more fc7
    assert branches(one) == 13 + 2 + 3
    wide = record(WIDE)
    settings = BranchingSettings(**wide["settings"])
    assert weights_at(wide, 64) == count_layer_weights(build_network(settings))


def test_vgg_16_has_the_weights_that_the_paper_prints():
    assert vgg16_weights(40) / 1e6 == pytest.approx(
        paper_table()["VGG-16"]["million_parameters"], abs=0.005)


def test_the_papers_rows_are_those_of_its_table():
    shared = resolve("../shared/papers/tables.json")
    if not shared.exists():
        pytest.skip("the transcribed tables are not here")
    printed = {line[0]: [float(cell) for cell in line[1:5]] for line in
               json.loads(shared.read_text())["lu"]["T1"]
               if line[0].startswith("Our ") and "Joint" not in line[0]}
    for name, row in paper_table().items():
        [same] = [cells for label, cells in printed.items() if label.endswith(name) or (
            name in ("VGG-16", "low-rank") and name.lower() in label.lower())]
        assert list(row.values()) == same


# Tables and verdicts

def test_differences_are_taken_seed_by_seed(rows):
    assert paired(rows, LOW, THIN, branching_study.mean_accuracy) == pytest.approx([2.9, 3, 3.1])
    assert paired(rows | {LOW: rows[LOW][1:]}, LOW, THIN, branches) == [2, 2]


def test_tasks_that_gain_and_lose_are_counted_seed_by_seed(rows):
    better, worse = record(FOUND, 0, 80), record(SHUFFLED, 0, 80)
    better["results"]["test_accuracy"] = {"Smiling": 0.9, "Young": 0.7, "Bald": 0.5}
    worse["results"]["test_accuracy"] = {"Smiling": 0.8, "Young": 0.7, "Bald": 0.4}
    one = {FOUND: [better], SHUFFLED: [record(SHUFFLED, 1), worse]}
    assert branching_verdicts.tasks_gained(one, FOUND, SHUFFLED) == [2]
    assert branching_verdicts.tasks_gained(rows, SHUFFLED, FOUND) == [3, 3, 3]
    assert branching_verdicts.tasks_gained(NOTHING, FOUND, SHUFFLED) == []


def test_every_claim_is_judged(rows):
    words = [one.word for one in verdicts(rows)]
    assert words == ["held", "held", "held", "held", "held", "not decided", "not decided",
                     "did not hold", "did not hold", "did not hold", "held", "did not hold",
                     "not decided"]
    first, second, _, recalled, more, level, recall_level = verdicts(rows)[:7]
    assert (second.difference, second.paper) == pytest.approx((3, 0.94))
    # Of a thousand images the same 30 gain, whatever the task.
    of_images = 100 * (0.03 * 0.97 / IMAGES) ** 0.5
    half = ((1.96 * of_images) ** 2 + (4.303 * 0.1) ** 2 / 3) ** 0.5
    assert (first.low, first.high) == pytest.approx((3 - half, 3 + half), abs=2e-2)
    assert (first.paper, level.paper) == pytest.approx((0.78, 0.16))
    assert (more.difference, more.paper) == (1, None)
    assert recalled.difference == pytest.approx(3, abs=0.1)  # of some hundred holders
    assert recalled.paper == pytest.approx(71.08 - 65.95)
    assert recall_level.paper == pytest.approx(71.08 - 69.95)


@pytest.mark.parametrize(("milliseconds", "word"), [(5.0, "held"), (20.0, "did not hold")])
def test_costs_are_ratios_judged_against_what_far_means(rows, milliseconds, word):
    for one in rows[LOW]:
        one["run"]["milliseconds"]["network"] = milliseconds + one["settings"]["seed"] / 100
    (weights, far), (time, _) = costs(rows)
    assert far * np.exp(weights.difference) == pytest.approx(
        vgg16_weights(3) / weights_at(rows[LOW][0]))
    assert weights.word == "held" and weights.paper == pytest.approx(134.41 / 1.49)
    assert time.word == word


def test_the_interval_of_a_ratio_cannot_reach_below_zero(rows):
    """Of 4 and 9 times: the geometric mean 6, and by t(0.975, 1) = 12.706 in logarithms."""
    for one, milliseconds in zip(rows[LOW][:2], (1.0, 2.25), strict=True):
        one["run"]["milliseconds"] = {"network": milliseconds, "vgg16": 9.0}
    two = rows | {LOW: rows[LOW][:2]}
    time, far = costs(two)[1]
    half = 12.706 * np.log(9 / 4) / 2
    assert np.log(far) + np.array([time.difference, time.low, time.high]) == pytest.approx(
        [np.log(6), np.log(6) - half, np.log(6) + half], rel=1e-3)
    assert verdict_table(two).iloc[-1]["measured"].startswith("× 6.0 [0.0, ")


def test_one_seed_decides_nothing_and_none_is_not_run_yet(rows):
    one = {name: records[:1] for name, records in rows.items()}
    assert {verdict.word for verdict in verdicts(one)} == {"not decided"}
    assert {verdict.low for verdict in verdicts(one)} == {-inf}
    assert set(verdict_table(NOTHING).verdict) == {"not run yet"}
    assert all(isnan(verdict.difference) for verdict in verdicts(NOTHING))


def test_the_verdict_table_shows_numbers_beside_the_papers(rows):
    table = verdict_table(rows)
    first = verdicts(rows)[0]
    line = table.loc["Branching makes the thin network more accurate (α = 1)"]
    assert line.to_dict() == {
        "paper": "+0.78", "measured": with_interval(3, first.low, first.high),
        "verdict": "held"}
    assert table.iloc[-1].to_dict() == {"paper": "× 3.5", "measured": "× 8.0 [8.0, 8.0]",
                                        "verdict": "held"}


def test_the_result_table_has_the_papers_rows_beside_ours(rows):
    table = result_table(rows | {SHUFFLED: []})
    assert table.loc[LOW, "accuracy, %"] == "83.0 ± 0.1"
    assert table.loc[LOW, "top-10 recall, %"] == "63.0 ± 0.1"
    assert table.loc[LOW, "the paper's accuracy, recall, million weights"] == "90.74, 69.95, 1.49"
    assert table.loc[HIGH, ["branches in all 15 layers", "ms an image"]].tolist() == ["18", "5.00"]
    assert table.loc[HIGH, "VGG-16 takes"] == "× 8.0"
    assert table.loc[SHUFFLED, "VGG-16 takes"] == ""
    assert table.loc[SHUFFLED, "accuracy, %"] == "not run yet"
    assert list(result_table(rows, beside_paper=False)) == list(table)[:-1]


def test_the_takeaway_answers_and_counts_the_verdicts(rows):
    branches, who, start, claims, of_cost = takeaway(rows).splitlines()
    for line, pairs in ((branches, [(LOW, THIN), (LOW, TRAINED_ON)]),
                        (who, [(FOUND, THIN), (SHUFFLED, THIN)]),
                        (start, [(THIN, RANDOM), (THIN, BY_CHANCE)])):
        differences = [points(*answer_difference(rows[one], rows[other])) for one, other in pairs]
        assert re.findall(r"\*\*([+−][^*]*)\*\* points", line) == differences
    assert branches.endswith("So branches bring more than weights without branches do.")
    assert who.endswith(
        "So chance does better than the method, against the paper's central idea.")
    assert claims == ("- Of the 13 claims about accuracy, recall and branches: **6 held**, "
                      "**4 did not hold**, **3 not decided**.")
    assert of_cost == "- Of the 2 claims about cost: **2 held**."


@pytest.mark.parametrize(("accuracy", "said"), [
    (83, "So no gain over weights without branches is shown."),
    (86, "So weights without branches bring more than branches do.")])
def test_branches_are_judged_against_weights_without_them(rows, accuracy, said):
    again = rows | {TRAINED_ON: [record(TRAINED_ON, seed, accuracy) for seed in range(3)]}
    assert takeaway(again).splitlines()[0].endswith(said)


@pytest.mark.parametrize(("found", "said"), [
    (86, "So it does."), (83, "that it matters *who* shares one, the paper's central idea, is not "
                              "shown. A gain of the found grouping above ")])
def test_what_follows_from_the_two_groupings_is_told(rows, found, said):
    again = rows | {FOUND: [record(FOUND, seed, found, SPLIT) for seed in range(3)]}
    assert said in takeaway(again).splitlines()[1]


def test_a_tree_that_helps_nobody_is_no_reason_for_branches(rows):
    level = rows | {row: [record(row, seed, 80, SPLIT) for seed in range(3)]
                    for row in (FOUND, SHUFFLED)}
    who = takeaway(level).splitlines()[1]
    assert "branches help" not in who and "A gain of the found grouping above 0.00 points" in who


@pytest.mark.parametrize("missing", list(STUDY.rows))
def test_no_conclusion_is_drawn_from_an_incomplete_table(rows, missing):
    assert "draws no conclusion" in takeaway(rows | {missing: []})
    assert "draws no conclusion" in takeaway(rows | {missing: rows[missing][:1]})


def test_how_it_ran_says_what_made_the_records(rows):
    said = how_it_ran(rows, "mine")
    for part in ("27 runs, 3 seeds, 1.5 to 1.5 minutes", "a test's device", "1,000 to train on",
                 "3 attributes", "ω = 4", "ω = 8", "640 images in batches of 32", "`0123456789`"):
        assert part in said
    assert "Not run yet" not in said
    assert "Not run yet:** *shuffled" in how_it_ran(rows | {SHUFFLED: rows[SHUFFLED][1:]}, "mine")
    assert "NB=11 SETTINGS=mine" in how_it_ran(NOTHING, "mine")


def test_what_trees_are_worth_from_the_start_is_told(rows):
    said = branching_sentences.tree_sentence(rows)
    for part in ("the thin network by **+2.00 [", "shuffled tree it differs by **+3.00 [",
                 "grew the tree, the first differs by **−1.00 [", "the second by **+0.00 ["):
        assert part in said
    assert branching_sentences.tree_sentence(NOTHING) == ""


def test_branches_are_compared_with_weights_alone(rows):
    said = branching_sentences.weight_sentence(rows)
    of_low, on = (weights_at(rows[name][0]) / 1e6 for name in (LOW, TRAINED_ON))
    assert f"{on:.2f} million weights" in said and f"which has {of_low:.2f} million" in said
    assert "ahead of it by **+2.00 [" in said
    assert branching_sentences.weight_sentence(NOTHING) == ""


def test_it_is_told_whether_networks_learn_their_images_by_heart(rows):
    said = branching_sentences.fit_sentence(rows)  # training is 5 points above in every record
    assert "furthest ahead of validation, by +5.0 points." in said and "by heart" not in said
    for records in rows.values():
        for one in records:
            one["epochs"][-1]["train_accuracy"] = one["epochs"][-1]["valid_accuracy"]
    assert "None has learnt its images by heart" in branching_sentences.fit_sentence(rows)
    assert branching_sentences.fit_sentence(NOTHING) == ""


def test_groups_are_compared_from_seed_to_seed():
    """One pair of three in each tree: {a, b}, {a, b} and {b, c}. Of six ordered pairs of seeds, two
    find it again; by chance a third would."""
    trees = [[["a", "b"], ["c"]], [["c"], ["b", "a"]], [["a"], ["b", "c"]]]
    rows = {HIGH: [{"settings": {"tasks": ["a", "b", "c"]}, "results": {"groups": {"fc7": tree}}}
                   for tree in trees]}
    assert branching_sentences.repeat_sentence(rows) == (
        "Of two attributes that share a branch of fc7 with one seed, 33 % share one with another "
        "seed; by chance it would be 33 %.")
    assert branching_sentences.repeat_sentence({HIGH: rows[HIGH][:1]}).endswith("not run yet.")
    for one in rows[HIGH]:
        one["results"]["groups"]["fc7"] = [["a"], ["b"], ["c"]]
    assert branching_sentences.repeat_sentence(rows) == (
        "No two tasks share a branch of fc7.")


def test_the_fit_to_training_batches_stands_beside_validation(rows):
    table = branching_study.fit_table(rows | {SHUFFLED: []})
    assert table.loc[LOW].tolist() == ["88.0 ± 0.1", "83.0 ± 0.1"]
    assert table.loc[SHUFFLED].tolist() == ["not run yet", "not run yet"]


def test_what_no_skill_would_score_is_told(rows):
    assert branching_study.majority_sentence(rows).endswith("would score 60.0 %.")
    assert branching_study.majority_sentence(NOTHING).endswith("not run yet.")


def test_learning_curves_are_the_validation_accuracy_of_every_epoch(rows):
    curves = learning_curves(rows | {THIN: []}, (THIN, LOW))
    assert list(curves) == [LOW]
    assert curves[LOW][1] == pytest.approx([55, 83])


def test_what_kept_filters_cannot_explain_is_told_by_layer(rows):
    for seed, one in enumerate(rows[THIN]):
        one["results"] |= {"somp_errors": {name: 0.2 + seed / 10 for name in LAYERS},
                           "random_errors": dict.fromkeys(LAYERS, 0.5)}
    table = branching_study.somp_table(rows[THIN])
    assert list(table.index) == list(LAYERS)
    assert table.loc["fc7"].tolist() == ["30.0 ± 10.0", "50.0 ± 0.0"]
    assert set(branching_study.somp_table([]).SOMP) == {"not run yet"}


def test_rounds_and_split_layers_are_told_in_order():
    one = record(HIGH, split=SPLIT)
    table = round_table(one)
    assert table.loc["fc7"].to_dict() == {
        "after batch": 30, "branches": 2, "of at most": 3, "loss": "0.400",
        "with one branch": "0.900"}
    assert split_layers(one) == SPLIT
    assert len(round_table(record(THIN))) == 0 and split_layers(record(THIN)) == {}
