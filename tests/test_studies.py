"""A study: its runs laid out, its records sorted into rows, and what one table must not mix."""

from dataclasses import replace

import pytest
from study_records import TASKS, publish, record

from modlib.adaptive_branching import BranchingSettings
from modlib.classifiers import ClassifierSettings
from modlib.errors import ModlibError
from modlib.settings import Places, Settings
from modlib.studies import Study
from modlib.task_readers import ReaderSettings

STUDY = Study("a_study", {
    "plain": {"system": "modulated"},
    "signed": {"system": "modulated", "signed_scales": True},
    "shared": {"system": "fully_shared"},
    "branches": {"system": "branches"},
    "narrow": {"system": "branches", "branch_size": 25},
}, tuned=("learning_rate", "margin"))
NOTHING = {row: [] for row in STUDY.rows}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's root with no published records yet."""
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "book/results/a_study"


# What tells the rows apart


def test_the_settings_that_some_row_names_tell_the_rows_apart():
    assert STUDY.telling == ["branch_size", "signed_scales", "system"]


def test_a_row_has_the_defaults_of_what_only_others_name():
    assert STUDY.changes("shared") == {
        "system": "fully_shared", "branch_size": 256, "signed_scales": False}
    assert STUDY.changes("narrow") == {
        "system": "branches", "branch_size": 25, "signed_scales": False}


def test_every_record_goes_to_its_own_row():
    records = {row: record(STUDY, row) for row in STUDY.rows}
    assert STUDY.by_row(list(records.values())) == {row: [one] for row, one in records.items()}


def test_settings_that_no_row_names_do_not_move_a_record():
    other = record(STUDY, "plain", width=0.5, learning_rate=3e-3, epochs=9, modulate_from=3)
    assert STUDY.by_row([other]) == NOTHING | {"plain": [other]}


@pytest.mark.parametrize("changes", [
    {"system": "csn"}, {"branch_size": 100}, {"system": "fully_shared", "signed_scales": True}])
def test_a_record_that_belongs_to_no_row_is_left_out(changes):
    assert STUDY.by_row([record(STUDY, "plain", **changes)]) == NOTHING


def test_a_record_older_than_a_telling_setting_has_its_default():
    older = record(STUDY, "plain")
    del older["settings"]["signed_scales"], older["settings"]["branch_size"]
    assert STUDY.by_row([older]) == NOTHING | {"plain": [older]}


def test_each_row_is_ordered_by_seed():
    records = [record(STUDY, row, seed) for seed in (10, 2, 0) for row in ("shared", "plain")]
    seeds = {row: [one["settings"]["seed"] for one in of_row]
             for row, of_row in STUDY.by_row(records).items()}
    assert seeds == NOTHING | {"plain": [0, 2, 10], "shared": [0, 2, 10]}


def test_without_records_every_row_is_empty():
    assert STUDY.by_row([]) == NOTHING


def test_rows_with_tasks_of_their_own_are_told_apart_as_json_keeps_them():
    study = Study("", {"one": {"tasks": ("Bald", "Young")}, "other": {"tasks": ("Bald", "Bangs")}})
    records = {row: record(study, row) for row in study.rows}
    assert records["one"]["settings"]["tasks"] == ["Bald", "Young"]
    assert study.by_row(list(records.values())) == {row: [one] for row, one in records.items()}


# The runs

CELEBA = {"tasks": list(TASKS), "dataset": "celeba"}


def test_each_row_is_run_with_every_seed_and_otherwise_alike():
    runs, _ = STUDY.lay_out(CELEBA | {"seeds": [3, 1], "width": 0.5, "batch_size": 60})
    shared = Settings(tasks=TASKS, dataset="celeba", width=0.5, batch_size=60)
    assert runs == {row: [replace(shared, seed=seed, **changes) for seed in (3, 1)]
                    for row, changes in STUDY.rows.items()}


def test_without_seeds_there_is_one_run_a_row():
    runs, _ = STUDY.lay_out(CELEBA)
    assert [[one.seed for one in of_row] for of_row in runs.values()] == [[0]] * 5


def test_the_first_rows_are_run_on_drawings_and_all_of_them_on_faces():
    drawings = {"tasks": list(TASKS)}
    assert list(STUDY.lay_out(drawings)[0]) == ["plain", "signed", "shared"]
    assert list(replace(STUDY, quick=1).lay_out(drawings)[0]) == ["plain"]
    assert list(STUDY.lay_out(CELEBA)[0]) == list(STUDY.rows)


@pytest.mark.parametrize("dataset", ["toy_faces", "celeba"])
def test_the_rows_that_are_asked_for_are_run_in_that_order(dataset):
    runs, _ = STUDY.lay_out({"tasks": list(TASKS), "dataset": dataset, "rows": ["narrow", "plain"]})
    assert list(runs) == ["narrow", "plain"]


def test_tuned_values_go_before_the_parameters_and_only_for_their_row():
    tuned = {"shared": {"learning_rate": 4e-3, "margin": 0.4}, "plain": {"margin": 0.3}}
    runs, _ = STUDY.lay_out(CELEBA | {"learning_rate": 1e-3, "margin": 0.1}, tuned)
    assert {row: (one.learning_rate, one.margin) for row, [one] in runs.items()} == {
        "plain": (1e-3, 0.3), "signed": (1e-3, 0.1), "shared": (4e-3, 0.4),
        "branches": (1e-3, 0.1), "narrow": (1e-3, 0.1)}


def test_tuned_values_are_for_faces_and_not_for_drawings():
    given = {"tasks": list(TASKS), "learning_rate": 1e-3, "margin": 0.1}
    tuned = {"plain": {"learning_rate": 4e-3, "margin": 0.4}, "shared": {"margin": 0.3}}
    for drawings in (given, given | {"dataset": "toy_faces"}):
        assert STUDY.lay_out(drawings, tuned) == STUDY.lay_out(drawings)
    faces = given | {"dataset": "celeba"}
    assert STUDY.lay_out(faces, tuned) != STUDY.lay_out(faces)


@pytest.mark.parametrize(("given", "laid_out"), [
    ({"batch_size": 18, "toy_images": 300}, (60, 2000)),
    ({"batch_size": 120, "toy_images": 3000}, (120, 3000)),
    ({"toy_images": 50}, (180, 2000)),
])
def test_a_batch_and_the_toy_faces_are_enough_for_the_tasks(given, laid_out):
    runs, _ = STUDY.lay_out({"tasks": [f"task {t}" for t in range(20)]} | given)
    assert {(one.batch_size, one.toy_images) for [one] in runs.values()} == {laid_out}


def test_a_default_batch_grows_with_the_tasks():
    runs, _ = STUDY.lay_out({"tasks": [f"task {t}" for t in range(70)]})
    assert runs["plain"][0].batch_size == 210


def test_a_batch_is_enough_for_a_rows_own_tasks_and_all_rows_have_the_same_drawings():
    study = Study("", {"few": {"tasks": TASKS}, "many": {"tasks": tuple(map(str, range(20)))}})
    runs, _ = study.lay_out({"batch_size": 18, "toy_images": 300})
    assert {row: (one.batch_size, one.toy_images) for row, [one] in runs.items()} == {
        "few": (18, 2000), "many": (60, 2000)}
    faces, _ = study.lay_out({"batch_size": 18, "toy_images": 300, "dataset": "celeba"})
    assert {row: (one.batch_size, one.toy_images) for row, [one] in faces.items()} == {
        "few": (18, 300), "many": (60, 2000)}  # a run's name has its toy_images in it


@pytest.mark.parametrize(("few", "many"), [("tasks", "trunk_tasks"), ("trunk_tasks", "tasks")])
def test_a_batch_is_enough_for_the_tasks_and_for_those_of_the_trunk(few, many):
    study = Study("", {"added": {"system": "mask_only", few: ("Young", "Bald"),
                                 many: tuple(map(str, range(20)))}})
    [one] = study.lay_out({"batch_size": 18, "toy_images": 300})[0]["added"]
    assert (one.batch_size, one.toy_images) == (60, 2000)
    assert (one.trunk_from.batch_size, one.trunk_from.toy_images) == (60, 2000)
    [one] = study.lay_out({"batch_size": 120, "toy_images": 3000})[0]["added"]
    assert (one.batch_size, one.toy_images) == (120, 3000)


def test_a_trunk_with_more_tasks_is_the_run_of_the_row_that_trains_it():
    many = tuple(map(str, range(20)))
    study = Study("", {"before": {"system": "modulated", "tasks": many}, "added": {
        "system": "mask_only", "tasks": TASKS, "trunk_system": "modulated", "trunk_tasks": many}})
    runs, _ = study.lay_out({"batch_size": 18, "toy_images": 300, "seeds": [0, 3]})
    assert [one.trunk_from for one in runs["added"]] == runs["before"]


def test_a_system_that_the_rows_leave_open_is_a_parameter():
    study = Study("", {"narrow": {"width": 0.1}, "wide": {"width": 0.5}})
    runs, _ = study.lay_out(CELEBA | {"system": "csn"})
    assert [(one.system, one.width) for [one] in runs.values()] == [("csn", 0.1), ("csn", 0.5)]


def test_tasks_that_the_rows_decide_are_no_parameter():
    with pytest.raises(ModlibError, match="tasks is not a parameter of this study"):
        Study("", {"one": {"tasks": TASKS}}).lay_out({"tasks": ["Bald"]})


def test_records_go_to_the_studys_folder():
    _, places = STUDY.lay_out(CELEBA | {"results_dir": "somewhere", "device": "cpu"})
    assert places == Places(results_dir="somewhere/a_study", device="cpu")


@pytest.mark.parametrize(("wrong", "said"), [
    ({"system": "csn"}, "system is not a parameter of this study"),
    ({"seed": 1}, "seed is not a parameter of this study"),
    ({"rows": ["plain", "narow"]}, "row 'narow' is not known; did you mean 'narrow'?"),
    ({"rows": "plain"}, "rows must be a list of str; given 'plain'"),
    ({"seeds": []}, r"seeds must be one or more distinct numbers from 0; given \(\)"),
    ({"seeds": [1, 1]}, r"seeds must be .*; given \(1, 1\)"),
    ({"seeds": [0, -1]}, r"seeds must be .*; given \(0, -1\)"),
    ({"seeds": 3}, "seeds must be a list of int; given 3"),
    ({"epoch": 1}, "parameter 'epoch' is not known; did you mean 'epochs'?"),
    ({"batch_size": "60"}, "batch_size must be a whole number; given '60'"),
    ({"batch_size": 2_000_000}, "batch_size must be from 3 to 1000000"),
    ({"margin": 9.0}, "margin must be from 0.0 to 4.0; given 9.0"),
    ({"workers": -1}, "workers must be from 0"),
])
def test_what_is_wrong_is_refused_by_name(wrong, said):
    with pytest.raises(ModlibError, match=said):
        STUDY.lay_out(CELEBA | wrong)


def test_a_study_of_another_kind_has_that_kinds_settings_and_defaults():
    study = Study("", {"one": {"system": "uniform"}, "other": {"td_channels": 2}}, quick=1,
                  settings=ReaderSettings)
    assert study.changes("one") == {"system": "uniform", "td_channels": None}
    assert study.changes("other") == {"system": "top_down", "td_channels": 2}
    runs, _ = study.lay_out({"batch_size": 3, "seeds": [2]})
    assert runs == {"one": [ReaderSettings(system="uniform", batch_size=3, seed=2)]}
    assert list(study.lay_out({"dataset": "mnist"})[0]) == ["one", "other"]
    with pytest.raises(ModlibError, match="parameter 'margin' is not known"):
        study.lay_out({"margin": 0.2})


def test_a_value_that_no_row_has_of_what_the_rows_decide_is_refused():
    study = Study("a_study", {"plain": {"alpha": 1.0}, "dear": {"alpha": 2.0}},
                  settings=BranchingSettings)
    with pytest.raises(ModlibError, match=r"alpha is 5\.0, and each row .*: 1\.0, 2\.0; choose "
                                          "among the rows by rows: plain, dear"):
        study.lay_out({"alpha": 5.0})
    study.lay_out({"alpha": 1})  # a whole number is the same value
    runs, _ = study.lay_out({"alpha": 2.0})  # as a settings file of another study may say
    assert [one.alpha for of_row in runs.values() for one in of_row] == [1.0, 2.0]


@pytest.mark.parametrize("wrong", [True, -5, 0, 2, "60"])
def test_a_batch_that_is_no_number_of_images_is_refused_and_not_made_larger(wrong):
    with pytest.raises(ModlibError, match=f"batch_size.*{wrong}"):
        STUDY.lay_out({"batch_size": wrong})


# What is published


def test_published_are_the_records_of_one_profile_by_row_and_seed(folder):
    second, first, other = (record(STUDY, "plain", 1), record(STUDY, "plain"),
                            record(STUDY, "narrow"))
    publish(folder, [second, first, other, record(STUDY, "shared", profile="another")])
    assert STUDY.published("mine") == NOTHING | {"plain": [first, second], "narrow": [other]}


def test_a_profile_or_a_folder_without_records_is_empty(folder):
    assert STUDY.published("mine") == NOTHING
    publish(folder, [record(STUDY, "plain")])
    assert STUDY.published("no_such_profile") == NOTHING


@pytest.mark.parametrize("profile", ["mine", "another"])
def test_a_published_record_of_no_row_is_refused_whatever_its_profile(folder, profile):
    stray = record(STUDY, "plain", system="csn", width=0.5, profile=profile)
    publish(folder, [record(STUDY, "plain"), stray])
    with pytest.raises(ModlibError, match=f"{stray['name']} in book/results/a_study belongs to no "
                                          r"row of its table \(plain, signed"):
        STUDY.published("mine")


def test_a_run_that_a_row_started_from_lies_among_its_records_and_is_in_no_row(folder):
    """And so does the one that this started from."""
    first = record(STUDY, "plain", system="csn", width=0.5)
    second = record(STUDY, "plain", system="csn", width=0.25)
    row = record(STUDY, "plain")
    second["results"]["trunk_from"], row["results"]["trunk_from"] = first["name"], second["name"]
    publish(folder, [first, second, row])
    assert STUDY.published("mine") == NOTHING | {"plain": [row]}
    publish(folder, [first, second, record(STUDY, "plain", 1)])  # in the place of these three
    with pytest.raises(ModlibError, match="belongs to no row"):
        STUDY.published("mine")


@pytest.mark.parametrize("changes", [{"margn": 0.2}, {"system": "gone"}, {"margin": 9.0}])
@pytest.mark.parametrize("profile", ["mine", "another"])
def test_a_published_record_whose_settings_no_longer_exist_is_refused(folder, profile, changes):
    gone = record(STUDY, "plain", 1, profile=profile)
    gone["settings"] |= changes
    publish(folder, [record(STUDY, "plain"), gone])
    with pytest.raises(ModlibError, match="its settings are none of this modlib's"):
        STUDY.published("mine")


@pytest.mark.parametrize("row", ["plain", "shared"])
def test_records_of_other_settings_are_refused(folder, row):
    publish(folder, [record(STUDY, "plain"), record(STUDY, row, 1, epochs=9)])
    with pytest.raises(ModlibError, match=r"differ in epochs: 3 and 9.*book/results/a_study"):
        STUDY.published("mine")


def test_rows_may_have_tuned_values_of_their_own(folder):
    first, second = (record(STUDY, "plain", learning_rate=2e-3, margin=0.4),
                     record(STUDY, "shared", learning_rate=4e-3))
    publish(folder, [first, second])
    assert STUDY.published("mine") == NOTHING | {"plain": [first], "shared": [second]}


@pytest.mark.parametrize("changes", [{"learning_rate": 2e-3}, {"margin": 0.4}])
def test_tuned_values_are_one_within_a_row(folder, changes):
    publish(folder, [record(STUDY, "plain"), record(STUDY, "plain", 1, **changes)])
    with pytest.raises(ModlibError, match=f"differ in {next(iter(changes))}"):
        STUDY.published("mine")


def test_what_is_not_tuned_is_one_for_all_rows(folder):
    publish(folder, [record(STUDY, "plain"), record(STUDY, "shared", learning_rate=4e-3)])
    with pytest.raises(ModlibError, match=r"differ in learning_rate: 0\.001 and 0\.004"):
        replace(STUDY, tuned=("margin",)).published("mine")


@pytest.mark.parametrize(("key", "value", "said"), [
    ("source", "elsewhere", "data source"), ("images", {"train": 8}, "images")])
def test_records_of_other_data_are_refused(folder, key, value, said):
    other = record(STUDY, "shared")
    other["data"][key] = value
    publish(folder, [record(STUDY, "plain"), other])
    with pytest.raises(ModlibError, match=f"differ in {said}"):
        STUDY.published("mine")


def test_records_of_other_pixels_of_as_many_images_are_refused_of_the_same_tasks(folder):
    first, second = record(STUDY, "plain"), record(STUDY, "shared")
    second["data"]["fingerprint"] = "other"
    second["name"] = Settings(**second["settings"]).run_name("other")
    publish(folder, [first, second])
    with pytest.raises(ModlibError, match="of one profile and of the same tasks, but not of the"):
        STUDY.published("mine")


def test_two_records_of_one_row_and_seed_are_refused(folder):
    publish(folder, [record(STUDY, "plain"), record(STUDY, "plain")])
    with pytest.raises(ModlibError, match="row plain of profile mine has two records of one seed"):
        STUDY.published("mine")


# Studies of other runs


def test_a_study_may_be_of_other_settings_and_leave_some_parameters_unused(folder):
    study = Study("a_study", {"plain": {"system": "fully_shared"}, "own": {"branch_size": 8}},
                  settings=ClassifierSettings, not_used=("width", "crop"))
    runs, _ = study.lay_out({"width": 0.5, "dataset": "celeba", "crop": 0.8, "batch_size": 12})
    plain = ClassifierSettings(dataset="celeba", batch_size=12, system="fully_shared")
    assert runs == {"plain": [plain], "own": [replace(plain, system="modulated", branch_size=8)]}
    assert study.defaults["branch_size"] == 128
    [few], _ = study.lay_out({"toy_images": 60})[0].values()
    assert few.toy_images == 400  # a hundred a task
    for wrong, said in (({"width": "wide"}, "width must be a number"),
                        ({"margin": 0.1}, "parameter 'margin' is not known")):
        with pytest.raises(ModlibError, match=said):
            study.lay_out(wrong)
