"""The classifiers' study: its runs, what is published, and what its tables and sentences say."""

from math import inf, isnan

import pytest
import yaml

from modlib import any_network
from modlib.any_network import (
    by_system,
    difference_table,
    differences,
    how_it_ran,
    published,
    score_table,
    study,
    takeaway,
    ucr_cells,
    ucr_sentence,
)
from modlib.classification import ClassifierSettings
from modlib.errors import ModlibError
from modlib.gradients import wilson
from modlib.results import resolve, write_record
from modlib.studies import accuracies

TASKS = ("Smiling", "Young")
OWN = {"fully_shared": 1_026, "branches": 131_842, "modulated": 2_306}
NOTHING = {system: [] for system in OWN}


def record(system, seed, auc, profile="celeba_cpu", **changes) -> dict:
    """A hand-made record: ``auc`` in % for smiling, 10 less for young; accuracy 5 below each."""
    settings = ClassifierSettings(profile=profile, system=system, seed=seed, tasks=TASKS,
                                  batches_per_epoch=7, **changes)
    values = {"Smiling": auc / 100, "Young": (auc - 10) / 100}
    return {
        "version": 1, "name": settings.run_name("f"), "status": "done",
        "settings": settings.as_dict(),
        "data": {"fingerprint": "f", "source": "photographs of a test",
                 "images": {"train": 1000, "valid": 200, "test": 300}},
        "results": {
            "test_auc": values, "test_accuracy": {k: v - 0.05 for k, v in values.items()},
            "parameters": {"total": 900_000, "shared": 900_000 - OWN[system], "task": OWN[system]}},
        "epochs": [{"epoch": 1, "images": 504, "ucr_batches": 4, "ucr": [
            {"tasks": list(TASKS), "positive": 3, "negative": 1, "zero": 0}]},
            *({"epoch": n, "images": 504, "ucr": []} for n in range(2, settings.epochs + 1))],
        "run": {"training_seconds": 120.0, "device": "a test's device",
                "versions": {"torch": "2.12.0"}, "git_commit": "0123456789abcdef"},
    }


@pytest.fixture
def rows():
    """Two seeds: branches 1 and 3 points above fully shared, modulated always 5 above."""
    return by_system([
        record("fully_shared", 1, 72), record("fully_shared", 0, 70),
        record("branches", 0, 71), record("branches", 1, 75),
        record("modulated", 0, 75), record("modulated", 1, 77)])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """From records to a project in which they are published."""
    def publish(records):
        (tmp_path / "modlib").mkdir(exist_ok=True)
        (tmp_path / "_toc.yml").touch()
        folder = tmp_path / "book/results" / any_network.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(records):
            write_record(folder / f"{number}.json", one)
        monkeypatch.chdir(tmp_path)
    return publish


# Runs


def test_the_study_runs_every_system_with_every_seed_and_otherwise_alike():
    runs, places = study({"profile": "quick", "seeds": [0, 5], "epochs": 4, "results_dir": "r"})
    assert list(runs) == ["fully_shared", "branches", "modulated"]
    assert places.results_dir == "r/any_network"
    for system, of_system in runs.items():
        assert of_system == [ClassifierSettings(system=system, seed=s, epochs=4) for s in (0, 5)]


@pytest.mark.parametrize("profile", ["quick", "smoke", "celeba_cpu", "celeba_gpu"])
def test_the_settings_files_fit(profile):
    values = yaml.safe_load(resolve(f"notebooks/settings/{profile}.yml").read_text("utf8"))
    runs, _ = study(values)
    for name in ("image_size", "batch_size", "learning_rate", "schedule"):
        if name in values:
            assert getattr(runs["modulated"][0], name) == values[name]


@pytest.mark.parametrize(("parameters", "words"), [
    ({"system": "modulated"}, ["system", "every system"]), ({"seed": 1}, ["seed", "seeds"]),
    ({"seeds": []}, ["seeds", "one or more"]), ({"seeds": [1, 1]}, ["seeds", "distinct", "(1, 1)"]),
    ({"seeds": [-1]}, ["seeds", "from 0"]), ({"epoch": 1}, ["'epoch'", "'epochs'"]),
    ({"branch_size": 0}, ["branch_size", "1", "given 0"]),
    ({"modulate_after": ["layer5"]}, ["'layer5'", "did you mean 'layer"]),
    ({"aggregation": "pcgrad"}, ["'aggregation'"]), ({"modulate_from": 2}, ["'modulate_from'"]),
    ({"width": "wide"}, ["width", "'wide'"]),
])
def test_wrong_parameters_are_refused_by_name(parameters, words):
    with pytest.raises(ModlibError) as error:
        study(parameters)
    assert [word for word in words if word not in str(error.value)] == []


# What is published


def test_published_are_the_records_of_one_profile_by_system_and_seed(project):
    records = [record("modulated", 1, 80), record("modulated", 0, 81), record("branches", 0, 82),
               record("modulated", 0, 83, profile="celeba_gpu")]
    project(records)
    assert published("celeba_cpu") == NOTHING | {
        "modulated": [records[1], records[0]], "branches": [records[2]]}


def test_a_profile_without_records_is_empty():
    assert published("no_such_profile") == NOTHING


def test_records_of_other_settings_are_refused(project):
    project([record("modulated", 0, 80), record("branches", 0, 80, epochs=9)])
    with pytest.raises(ModlibError, match=r"differ in epochs: 9 and 2.*book/results/any_network"):
        published("celeba_cpu")


def test_a_record_older_than_a_setting_has_its_default(project):
    older = record("branches", 0, 80)
    del older["settings"]["modulate_after"]
    project([record("modulated", 0, 80), older])
    assert len(published("celeba_cpu")["branches"]) == 1


def test_a_record_of_no_system_of_the_table_is_refused(project, monkeypatch):
    monkeypatch.setattr(any_network, "LABELS", {"modulated": "modulated"})
    project([record("modulated", 0, 80), record("branches", 0, 80, profile="another")])
    with pytest.raises(ModlibError, match=r"another-classifier-branches.* belongs to no row"):
        published("celeba_cpu")


def test_two_records_of_one_seed_are_refused(project):
    project([record("modulated", 0, 80), record("modulated", 0, 81)])
    with pytest.raises(ModlibError, match="row modulated of profile celeba_cpu has two records"):
        published("celeba_cpu")


# Tables and sentences


def test_scores_are_one_line_a_system_seed_and_task(rows):
    table = accuracies(rows, "auc")
    assert len(table) == 12
    [value] = table.query("row == 'modulated' and seed == 1 and task == 'Young'").accuracy
    assert value == pytest.approx(67)
    [value] = accuracies(rows).query(
        "row == 'modulated' and seed == 1 and task == 'Young'").accuracy
    assert value == pytest.approx(62)


def test_the_score_table_has_means_with_their_spread(rows):
    line = score_table(rows).loc["a branch each"]
    assert line.to_dict() == {
        "smile": "73.0 ± 2.8", "young": "63.0 ± 2.8", "mean AUC": "68.0 ± 2.8",
        "mean accuracy": "63.0 ± 2.8", "task parameters": "131,842"}


def test_a_system_without_records_is_not_run_yet_and_changes_nothing_else(rows):
    without = score_table(rows | {"branches": []})
    assert set(without.loc["a branch each"]) == {"not run yet", ""}
    others = ["fully shared", "modulated"]
    assert without.loc[others].equals(score_table(rows).loc[others])


def test_differences_are_taken_seed_by_seed(rows):
    table = differences(rows)
    assert list(table.index) == ["a branch each − fully shared", "modulated − fully shared",
                                 "modulated − a branch each"]
    # Differences 1 and 3: mean 2, deviation √2, so the half-width is 12.706 · √2 / √2.
    branches, modulated, between = (line for _, line in table.iterrows())
    assert (branches.points, branches.low, branches.high) == pytest.approx(
        (2, 2 - 12.706, 2 + 12.706), abs=1e-3)
    assert (modulated.points, modulated.low, modulated.high) == pytest.approx((5, 5, 5))
    assert between.points == pytest.approx(3)


def test_what_the_differences_decide(rows):
    table = difference_table(rows)
    assert list(table["the first is"]) == ["not decided", "higher", "not decided"]
    worse = by_system([record(system, seed, auc) for seed in (0, 1) for system, auc in
                       (("fully_shared", 80), ("branches", 80), ("modulated", 70 + seed / 100))])
    assert difference_table(worse)["the first is"].iloc[1] == "lower"


def test_one_seed_decides_nothing_and_none_is_not_run_yet(rows):
    one = by_system([record(system, 0, 80 + n) for n, system in enumerate(OWN)])
    assert set(difference_table(one)["the first is"]) == {"not decided"}
    assert set(differences(one).low) == {-inf}
    assert set(difference_table(NOTHING)["the first is"]) == {"not run yet"}
    assert all(isnan(points) for points in differences(NOTHING).points)


def test_ucr_stands_for_each_pair_shared_beside_modulated(rows):
    (shared, first, _), (modulated, second, _) = ucr_cells(rows)
    assert (shared, modulated) == ("smile / young, fully shared", "smile / young, modulated")
    assert (first.value, first.count, second.count) == (0.75, 8, 8)
    assert ucr_cells(NOTHING) == []


def test_how_it_ran_says_what_made_the_records(rows):
    said = how_it_ran(rows)
    for part in ("6 runs, 2 seeds, 2.0 to 2.0 minutes", "a test's device", "photographs of a test",
                 "1,000 to train on", "300 to test on", "504 images in batches of 72",
                 "`0123456789`"):
        assert part in said


def test_it_is_told_in_how_many_pairs_modulation_raises_the_ucr(rows, monkeypatch):
    ratios = {"a / b": ((40, 100), (80, 100)), "a / c": ((50, 100), (49, 100)),
              "b / c": ((50, 100), (0, 0))}
    cells = [(f"{pair}, {name}", wilson(*counts), None) for pair, both in ratios.items()
             for name, counts in zip(("fully shared", "modulated"), both, strict=True)]
    monkeypatch.setattr(any_network, "ucr_cells", lambda rows: cells)
    assert ucr_sentence(rows) == (
        "Modulation raises it in **1 of 2** pairs of attributes. The difference, up or down, is "
        "larger than chance over batches allows in 1 of them.")
    monkeypatch.undo()
    assert ucr_sentence(NOTHING) == "Not run yet."


def test_the_takeaway_says_what_is_decided(rows):
    said = takeaway(rows)
    assert "*fully shared* to *modulated* raises the mean AUC (+5.00 points" in said
    assert "*fully shared* to *a branch each* does not decidedly change" in said
    assert "scales are 1,280 numbers and the branches 130,816." in said
    assert "over 2 seeds, and 3 comparisons were made" in said


def test_no_conclusion_is_drawn_from_one_seed(rows):
    one = {system: records[:1] for system, records in rows.items()}
    assert "draws no conclusion" in takeaway(one)


@pytest.mark.parametrize("missing", list(OWN))
def test_no_conclusion_is_drawn_from_an_incomplete_table(rows, missing):
    assert "draws no conclusion" in takeaway(rows | {missing: []})
