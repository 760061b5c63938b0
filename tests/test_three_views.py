"""Three views of task relation by hand, the runs of the study, and what is said of its records."""

from itertools import combinations
from math import isnan

import numpy as np
import pytest
import yaml
from hand_made_answers import IMAGES, first_right
from study_records import publish

from modlib import w_distance
from modlib.adaptive_branching import BranchingSettings
from modlib.arrays import to_json
from modlib.errors import ModlibError
from modlib.results import plain, resolve
from modlib.tables import with_interval
from modlib.thin_vgg import LAYERS
from modlib.three_views import (
    DIFFERENCES,
    FOUND,
    FOUND_SCALES,
    NOT_PROBED,
    SCALES,
    STUDY,
    THIN,
    VIEWS,
    chance_free_distances,
    difficulty_distances,
    disagreement_table,
    gradient_distances,
    how_it_ran,
    queue,
    repeats,
    result_table,
    scale_count,
    takeaway,
    verdict_table,
    verdicts,
    views,
)
from modlib.twenty_attributes import TASKS as PAPERS

TASKS = ("Smiling", "Young", "Bald", "Bangs")
PAIRS = list(combinations(range(4), 2))
NOTHING = {row: [] for row in STUDY.rows}
NEAR = [1, 2, 3, 4, 5, 6]  # distances of the pairs, in the order of PAIRS


def table(of_pairs) -> np.ndarray:
    """A symmetric table of distances from those of the pairs."""
    distance_TT = np.zeros((4, 4))
    for (i, j), value in zip(PAIRS, of_pairs, strict=True):
        distance_TT[i, j] = distance_TT[j, i] = value
    return distance_TT


def record(row, seed=0, accuracy=80.0, positive=(5, 4, 3, 2, 1, 0), affinity=None) -> dict:
    """A hand-made record; of five probed batches so many had positive inner products, by pair."""
    settings = BranchingSettings(**{
        "profile": "mine", "tasks": TASKS, "seed": seed, "thinness": 4, "wide_thinness": 8,
        "epochs": 1, "scale_rate_factor": 10.0, "ucr_every": 15} | STUDY.changes(row)
        | NOT_PROBED.get(row, {}))
    groups = {name: [list(TASKS)] for name in LAYERS}
    if settings.system == "retrained":
        groups["fc7"] = [["Smiling", "Young"], ["Bald", "Bangs"]]
    own = {THIN: 40, SCALES: 100, FOUND: 240, FOUND_SCALES: 300}[row]
    results = {
        "test_accuracy": dict.fromkeys(TASKS, accuracy / 100),
        "test_answers": first_right([accuracy / 100] * 4), "groups": groups,
        "affinity": to_json((1 - table(affinity or NEAR) / 10).astype(np.float32)),
        "hard": dict.fromkeys(TASKS, 0.5),
        "parameters": {"total": 1000 + own, "shared": 1000, "task": own, "weights": 900 + own}}
    if settings.scales:
        scales_TC = np.random.default_rng(seed).random((4, 15), np.float32)
        results["scales"] = {"fc6": to_json(scales_TC[:, :5]), "fc7": to_json(scales_TC[:, 5:])}
    ucr = [{"tasks": [TASKS[i], TASKS[j]], "positive": count, "negative": 5 - count, "zero": 0}
           for (i, j), count in zip(PAIRS, positive, strict=True)]
    return {
        "version": 1, "name": settings.run_name("data"), "status": "done",
        "settings": plain(settings.as_dict()),
        "data": {"fingerprint": "data", "source": "photographs of a test",
                 "images": {"train": 1000, "valid": 200, "test": IMAGES}},
        "results": results,
        "epochs": [{"epoch": 1, "images": 640, "rounds": [], "ucr_batches": 5 * (row == SCALES),
                    "ucr": ucr if row == SCALES else []}],
        "run": {"training_seconds": 90.0, "device": "a test's device",
                "versions": {"torch": "2.12.0"}, "git_commit": "0123456789abcdef"},
    }


@pytest.fixture
def rows():
    """Three seeds: scales and branches each add three points, and together no more than one does,
    but for noise."""
    return {row: [record(row, seed, accuracy + noise * sign)
                  for seed, noise in enumerate((-0.1, 0.0, 0.1))]
            for row, accuracy, sign in (
                (THIN, 80, 0), (SCALES, 83, 1), (FOUND, 83, -1), (FOUND_SCALES, 84, 1))}


# Runs

def test_the_study_runs_every_row_with_every_seed():
    runs, places = STUDY.lay_out({"dataset": "celeba", "tasks": list(TASKS), "seeds": [0, 4]})
    assert places.results_dir == "runs/records/three_views"
    assert {name: [(one.system, one.scales, one.seed) for one in of_row]
            for name, of_row in runs.items()} == {
        THIN: [("thin", False, 0), ("thin", False, 4)],
        SCALES: [("thin", True, 0), ("thin", True, 4)],
        FOUND: [("retrained", False, 0), ("retrained", False, 4)],
        FOUND_SCALES: [("retrained", True, 0), ("retrained", True, 4)]}
    assert {one.alpha for one in runs[FOUND] + runs[FOUND_SCALES]} == {2.0}


def test_the_queue_names_every_run_that_others_start_from_once():
    runs, _ = STUDY.lay_out({"dataset": "celeba", "tasks": list(TASKS), "seeds": [0, 1],
                             "scale_rate_factor": 10.0, "ucr_every": 15})
    every = queue(runs)
    assert len(every) == len(set(every)) == 2 * 6
    assert [one.system for one in every if one.seed == 1] == [
        "wide", "thin", "thin", "branched", "retrained", "retrained"]
    for one in every:
        assert one.trunk_from is None or every.index(one.trunk_from) < every.index(one)


def test_without_somp_thin_networks_start_from_nothing():
    runs, _ = STUDY.lay_out({"somp": False})
    assert list(runs) == [THIN, SCALES] and queue(runs) == [runs[THIN][0], runs[SCALES][0]]


def test_the_settings_file_is_the_papers_attributes_and_probes_a_hundred_batches():
    path = resolve("notebooks/settings/celeba_cpu_three_views.yml")
    values = yaml.safe_load(path.read_text("utf8"))
    runs, _ = STUDY.lay_out(values, NOT_PROBED)
    assert {name: of_row[0].ucr_every for name, of_row in runs.items()} == {
        THIN: 0, SCALES: 30, FOUND: 0, FOUND_SCALES: 0}
    one = runs[SCALES][2]
    assert one.tasks == PAPERS and (one.scale_rate_factor, one.seed) == (10.0, 2)
    assert one.epochs * len(range(0, one.batches_per_epoch, one.ucr_every)) == 102
    branching = yaml.safe_load(
        resolve("notebooks/settings/celeba_cpu_branching.yml").read_text("utf8"))
    own = {"profile", "tasks", "scale_rate_factor", "ucr_every"}
    runs = [BranchingSettings(**{key: value for key, value in one.items()
                                 if key not in own | {"seeds", "workers"}})
            for one in (values, branching)]
    assert runs[0] == runs[1]


def test_rows_that_are_not_probed_stand_in_one_table_with_the_one_that_is(
        rows, tmp_path, monkeypatch):
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path)
    publish(tmp_path / "book/results/three_views", [one for of_row in rows.values()
                                                    for one in of_row])
    published = STUDY.published("mine")
    assert {name: len(of_row) for name, of_row in published.items()} == dict.fromkeys(rows, 3)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"system": "thin"}, "system is not a parameter of this study"),
    ({"ucr_evry": 3}, "parameter 'ucr_evry' is not known; did you mean 'ucr_every'"),
    ({"scale_rate_factor": "fast"}, "scale_rate_factor must be a number; given 'fast'")])
def test_wrong_parameters_are_refused_by_name(wrong, said):
    with pytest.raises(ModlibError, match=said):
        STUDY.lay_out(wrong)


def test_every_record_goes_to_its_own_row(rows):
    records = [one for of_row in rows.values() for one in of_row]
    assert STUDY.by_row(list(reversed(records))) == rows


# Views

def test_distances_of_gradients_and_of_difficulty_by_hand():
    one, other = record(SCALES), record(SCALES, 1, positive=[0] * 6, affinity=[3] * 6)
    off = ~np.eye(4, dtype=bool)
    assert gradient_distances([one])[off] == pytest.approx(
        table([0, 20, 40, 60, 80, 100])[off])
    assert gradient_distances([one, other])[off] == pytest.approx(
        table([50, 60, 70, 80, 90, 100])[off])
    assert difficulty_distances([one]) == pytest.approx(table(NEAR) / 10, abs=1e-6)
    assert difficulty_distances([one, other]) == pytest.approx(
        table([2, 2.5, 3, 3.5, 4, 4.5]) / 10, abs=1e-6)


def test_the_affinity_without_chance_is_the_correlation_of_hard_images():
    rng = np.random.default_rng(3)
    hard = rng.random((500, 4)) < (0.05, 0.1, 0.4, 0.5)
    hard[:, 1] |= hard[:, 0]
    affinity = (hard[:, :, None] == hard[:, None]).mean(0)
    one = record(SCALES)
    one["results"] |= {"affinity": to_json(affinity.astype(np.float32)),
                       "hard": dict(zip(TASKS, hard.mean(0).tolist(), strict=True))}
    expected = 1 - np.corrcoef(hard.astype(float).T)
    assert chance_free_distances([one]) == pytest.approx(expected, abs=1e-5)
    assert chance_free_distances([one, one]) == pytest.approx(expected, abs=1e-5)


def test_all_views_are_of_the_same_records(rows):
    seen = views(rows[SCALES])
    assert list(seen) == list(VIEWS)
    assert np.array_equal(seen["W-distance"], w_distance.distances(rows[SCALES]))
    assert [[np.array_equal(one, VIEWS[name]([each]), equal_nan=True) for one, each in
             zip(tables, rows[SCALES], strict=True)]
            for name, tables in repeats(rows[SCALES]).items()] == [[True] * 3] * 3


def test_a_view_that_was_not_measured_is_left_out(rows):
    for one in rows[SCALES]:
        one["epochs"][0]["ucr"] = []
    assert list(views(rows[SCALES])) == ["W-distance", "1 − affinity"]
    assert repeats(rows[SCALES])["100 − UCR"] == []
    assert views([]) == {} and repeats([]) == {name: [] for name in VIEWS}


def test_pairs_on_which_the_views_disagree_are_ranked_by_how_far():
    given = disagreement_table(
        {"first": table([1, 2, 3, 4, 5, 6]), "second": table([60, 20, 30, 40, 50, 10]),
         "third": table([1, 2, 2, 4, 5, 6])}, TASKS, count=3)
    assert list(given) == ["first", "second", "third", "apart"]
    assert list(given.index) == ["Smiling / Young", "Bald / Bangs", "Smiling / Bald"]
    assert given.values.tolist() == [["1", "6", "1", "5"], ["6", "1", "6", "5"],
                                     ["2", "2", "2", "0"]]


# Tables and verdicts

def test_the_result_table_counts_what_each_network_costs(rows):
    given = result_table(rows | {FOUND: []})
    assert given.loc[SCALES].to_dict() == {
        "accuracy, %": "83.0 ± 0.1", "branches in all 15 layers": "15", "weights": "1,000",
        "task parameters": "100", "of these, scales": "60"}
    assert given.loc[THIN, "of these, scales"] == "0"
    assert given.loc[FOUND_SCALES, "branches in all 15 layers"] == "16"
    assert given.loc[FOUND, ["accuracy, %", "weights"]].tolist() == ["not run yet", ""]
    assert [scale_count(of_row[0]) for of_row in rows.values()] == [0, 60, 0, 60]


def test_every_claim_is_judged_over_images_and_seeds(rows):
    first, of_thin, branches, either, both = verdicts(rows)
    assert first.claim == "Scales inside the found branches raise the accuracy"
    assert [one.word for one in verdicts(rows)] == [
        "held", "held", "held", "not decided", "held"]
    # Of a thousand images the same ten gain, whatever the task.
    of_images = 100 * (0.01 * 0.99 / IMAGES) ** 0.5
    half = ((1.96 * of_images) ** 2 + (4.303 * 0.2) ** 2 / 3) ** 0.5
    assert (first.low, first.high) == pytest.approx((1 - half, 1 + half), abs=3e-2)
    assert (of_thin.difference, branches.difference, either.difference, both.difference) == (
        pytest.approx((3, 3, 0, 1)))


def test_one_seed_decides_nothing_and_none_is_not_run_yet(rows):
    one = {name: records[:1] for name, records in rows.items()}
    assert {verdict.word for verdict in verdicts(one)} == {"not decided"}
    assert all(isnan(verdict.difference) for verdict in verdicts(NOTHING))
    assert verdict_table(NOTHING).values.tolist() == [
        ["not run yet", "not run yet", "–"]] * len(DIFFERENCES)


def test_the_verdict_table_shows_what_a_difference_costs(rows):
    given = verdict_table(rows)
    of_thin = verdicts(rows)[1]
    assert given.iloc[1].to_dict() == {
        "points": with_interval(3, of_thin.low, of_thin.high),
        "extra task parameters": "+60", "verdict": "held"}
    assert given["extra task parameters"].tolist() == ["+60", "+60", "+200", "−140", "+200"]


def test_the_takeaway_says_which_views_agree_and_what_helps(rows):
    lines = takeaway(rows).splitlines()
    assert len(lines) == 3 + 2 + len(DIFFERENCES)
    assert [line.split(" **")[0] for line in lines[3:5]] == [
        "- W-distance and 1 − φ", "- 100 − UCR and 1 − φ"]
    assert lines[2].startswith("- 100 − UCR and 1 − affinity **rank the pairs of tasks alike**: "
                               "rank correlation +1.00")
    first = verdicts(rows)[0]
    assert lines[5] == (
        "- Scales inside the found branches raise the accuracy: **yes** "
        f"({with_interval(1, first.low, first.high)} points, for +60 task parameters).")
    assert "**not decided**" in lines[8]
    worse = rows | {FOUND_SCALES: [record(FOUND_SCALES, seed, 70) for seed in range(3)]}
    assert "**no, the opposite**" in takeaway(worse).splitlines()[5]


@pytest.mark.parametrize("missing", list(STUDY.rows))
def test_no_conclusion_is_drawn_from_an_incomplete_table(rows, missing):
    assert "draws no conclusion" in takeaway(rows | {missing: []})
    assert "draws no conclusion" in takeaway(rows | {missing: rows[missing][:1]})


def test_how_it_ran_says_what_made_the_records_or_how_to_make_them(rows):
    said = how_it_ran(rows, "mine")
    for part in ("12 runs, 3 seeds", "(scales at 10 times that)", "one batch in 15 probed"):
        assert part in said
    assert "NB=13 SETTINGS=mine" in how_it_ran(NOTHING, "mine")
    assert "book/results/three_views" in how_it_ran(NOTHING, "mine")
    assert "NB=13" in how_it_ran(rows | {FOUND: rows[FOUND][1:]}, "mine")
