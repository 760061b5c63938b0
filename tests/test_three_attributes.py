"""The study lays out the rows of Table 1, sorts records into them, and refuses to mix kinds."""

import json
from pathlib import Path

import pytest
from table_1_records import (
    MOUTH,
    NO_ROWS,
    PAPER_ACCURACY,
    PAPER_UCR,
    SMILE,
    YOUNG,
    changed,
    record,
    rows_of_two_seeds,
)

from modlib.errors import ModlibError
from modlib.results import write_record
from modlib.settings import Settings
from modlib.studies import accuracies
from modlib.three_attributes import ROWS, by_row, paper_table, published, row_of, study

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rows() -> dict:
    return rows_of_two_seeds()


# The rows

def test_the_rows_are_those_of_table_1():
    three = (SMILE, MOUTH, YOUNG)
    assert {name: (row.system, row.tasks, row.regularised) for name, row in ROWS.items()} == {
        "a": ("fully_shared", three, False),
        "b": ("fully_shared", (SMILE, YOUNG), False),
        "c": ("fully_shared", (SMILE, MOUTH), False),
        "d": ("independent", three, False),
        "e": ("modulated", three, False),
        "f": ("modulated", three, True),
    }


def test_the_papers_accuracies_are_those_it_prints():
    assert {name: row["accuracy"] for name, row in paper_table().items()} == PAPER_ACCURACY


def test_the_papers_ucrs_are_those_it_prints():
    short = {SMILE: "smile", MOUTH: "mouth open", YOUNG: "young"}
    assert {
        (name, " / ".join(short[task] for task in pair.split("/"))): value
        for name, row in paper_table().items() for pair, value in row["ucr"].items()
    } == PAPER_UCR


# Laying out the runs

@pytest.mark.parametrize(("given", "nearest"), [
    ("epoch", "epochs"), ("learning_rat", "learning_rate"),  # of Settings
    ("result_dir", "results_dir"),  # of Places
    ("sedes", "seeds"), ("regularizer_weight", "regulariser_weight"),  # of Study
])
def test_an_unknown_parameter_is_refused_with_the_nearest(given, nearest):
    with pytest.raises(ModlibError, match=f"parameter '{given}' .* did you mean '{nearest}'"):
        study({"epochs": 2, given: 1})


@pytest.mark.parametrize("parameters", [
    {"system": "modulated"}, {"tasks": [SMILE, YOUNG]}, {"seed": 0}, {"seed": 0, "seeds": [0]}])
def test_what_the_rows_decide_is_no_parameter(parameters):
    [name, *_] = parameters
    with pytest.raises(ModlibError, match=(
            f"^{name} is not a parameter of this study: its rows decide the systems and tasks, "
            r"and seeds \(a list\) the seeds")):
        study(parameters)


@pytest.mark.parametrize("seeds", [[], [0, 0], [2, 1, 2], [-1], [0, -3]])
def test_seeds_are_one_or_more_distinct_numbers_from_0(seeds):
    with pytest.raises(ModlibError, match="seeds must be one or more distinct numbers from 0"):
        study({"seeds": seeds})


@pytest.mark.parametrize("seeds", [0, "0", [0.5], ["0"], [True], None])
def test_seeds_are_a_list_of_whole_numbers(seeds):
    with pytest.raises(ModlibError, match="seeds must be a list of int"):
        study({"seeds": seeds})


def test_the_runs_are_rows_times_seeds():
    rows, _ = study({"seeds": [4, 0, 7]})
    assert {name: [settings.seed for settings in runs] for name, runs in rows.items()} == {
        name: [4, 0, 7] for name in "abcdef"}
    for name, runs in rows.items():
        assert {(run.system, run.tasks) for run in runs} == {(ROWS[name].system, ROWS[name].tasks)}
    assert len({run for runs in rows.values() for run in runs}) == 18


def test_without_parameters_there_is_one_run_a_row():
    rows, _ = study({})
    assert {name: [settings.seed for settings in runs] for name, runs in rows.items()} == {
        name: [0] for name in "abcdef"}


@pytest.mark.parametrize(("parameters", "weight"), [({"regulariser_weight": 0.25}, 0.25),
                                                    ({}, 0.001)])
def test_the_regulariser_is_in_row_f_alone(parameters, weight):
    rows, _ = study(parameters | {"regulariser_beta": 7.0})
    assert {name: run.regulariser_weight for name, [run] in rows.items()} == {
        "a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": weight}
    assert rows["f"][0].regulariser_beta == 7.0


def test_a_regulariser_weight_of_0_is_refused():
    with pytest.raises(ModlibError, match="regulariser_weight"):
        study({"regulariser_weight": 0.0})


def test_all_rows_share_the_other_settings():
    rows, _ = study({"epochs": 5, "width": 0.5, "profile": "mine"})
    for [run] in rows.values():
        assert (run.epochs, run.width, run.profile) == (5, 0.5, "mine")


def test_a_wrong_value_is_refused():
    with pytest.raises(ModlibError, match="epochs must be from 1"):
        study({"epochs": 0})
    with pytest.raises(ModlibError, match="regulariser_weight must be a number"):
        study({"regulariser_weight": "1e-3"})


def test_records_go_to_the_studys_own_folder():
    _, places = study({"results_dir": "somewhere", "device": "cpu", "workers": 2})
    assert (places.results_dir, places.device, places.workers) == (
        "somewhere/three_attributes", "cpu", 2)
    assert study({})[1].results_dir == "runs/records/three_attributes"


# Sorting records

@pytest.mark.parametrize("name", list("abcdef"))
def test_the_records_of_a_row_are_sorted_into_it(name):
    rows, _ = study({"seeds": [0, 5]})
    for settings in rows[name]:
        written = json.loads(json.dumps({"settings": settings.as_dict()}))
        assert row_of(written) == name


@pytest.mark.parametrize("other", [
    {"system": "modulated", "tasks": [SMILE, YOUNG]},
    {"system": "independent", "tasks": [SMILE, YOUNG]},
    {"system": "fully_shared", "tasks": [MOUTH, YOUNG]},
    {"system": "fully_shared", "tasks": [SMILE]},
    {"system": "fully_shared", "tasks": [SMILE, MOUTH, "Bald"]},
    {"system": "channel_projection", "tasks": [SMILE, MOUTH, YOUNG]},
])
def test_a_record_of_no_row_is_sorted_into_none(other):
    settings = Settings().as_dict() | other
    assert row_of({"settings": settings}) is None
    assert by_row([{"settings": settings}]) == NO_ROWS


def test_rows_are_ordered_by_seed():
    mixed = [record(row, seed, 60) for row, seed in (("e", 10), ("a", 2), ("e", 9), ("a", 0))]
    sorted_rows = by_row(mixed)
    assert list(sorted_rows) == list("abcdef")
    assert {name: [one["settings"]["seed"] for one in records]
            for name, records in sorted_rows.items() if records} == {"a": [0, 2], "e": [9, 10]}
    assert [one["settings"]["regulariser_weight"] for one in sorted_rows["e"]] == [0, 0]


def test_a_profile_without_records_has_empty_rows():
    assert published("no_such_profile") == NO_ROWS


def test_published_are_the_committed_records_of_one_profile(tmp_path, monkeypatch):
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").touch()
    for seed, profile in ((1, "celeba_cpu"), (0, "celeba_cpu"), (0, "celeba_gpu")):
        one = record("c", seed, 60, profile=profile)
        write_record(tmp_path / f"book/results/three_attributes/{one['name']}.json", one)
    monkeypatch.chdir(tmp_path)
    assert {name: [one["name"] for one in records]
            for name, records in published("celeba_cpu").items()} == NO_ROWS | {
                "c": [record("c", seed, 60)["name"] for seed in (0, 1)]}


def test_accuracies_have_a_line_for_every_row_seed_and_task(rows):
    measured = accuracies(rows)
    assert list(measured.columns) == ["row", "seed", "task", "accuracy"]
    assert len(measured) == 2 * (3 + 2 + 2 + 3 + 3 + 3)
    [value] = measured.query("row == 'b' and seed == 1 and task == @YOUNG").accuracy
    assert value == pytest.approx(61)


def test_accuracies_without_records_have_the_same_columns():
    empty = accuracies(NO_ROWS)
    assert list(empty.columns) == ["row", "seed", "task", "accuracy"]
    assert len(empty) == 0


def publish(tmp_path, monkeypatch, records) -> None:
    """Make ``tmp_path`` a project in which these records are published."""
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").touch()
    for number, one in enumerate(records):
        write_record(tmp_path / f"book/results/three_attributes/{number}.json", one)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("part", "key", "value"), [
    ("settings", "epochs", 9), ("settings", "regulariser_beta", 2.0),
    ("data", "source", "another data set"), ("data", "images", {"train": 1}),
])
def test_records_of_another_kind_are_refused_not_averaged(tmp_path, monkeypatch, part, key, value):
    one, other = record("c", 0, 60), record("c", 1, 60)
    other = changed(other, **{key: value}) if part == "settings" else other | {
        part: other[part] | {key: value}}
    if key == "epochs":
        other["epochs"].append({"epoch": value})
    publish(tmp_path, monkeypatch, [one, other])
    with pytest.raises(ModlibError, match=f"{one['name']} and {other['name']}.*{key}"):
        published("celeba_cpu")


@pytest.mark.parametrize("older", [0, 1])
def test_a_record_older_than_a_setting_was_made_with_its_default(tmp_path, monkeypatch, older):
    records = [record("c", 0, 60), record("c", 1, 60)]
    for name in ("aggregation", "branch_size", "mask_norm_weight"):
        del records[older]["settings"][name]
    publish(tmp_path, monkeypatch, records)
    assert [one["name"] for one in published("celeba_cpu")["c"]] == [
        one["name"] for one in records]


@pytest.mark.parametrize("older", [0, 1])
@pytest.mark.parametrize(("key", "value"), [
    ("aggregation", "mgda"), ("branch_size", 25), ("mask_initialisation", "normal")])
def test_a_record_older_than_a_setting_is_not_averaged_with_another_value(
        tmp_path, monkeypatch, older, key, value):
    records = [record("c", 0, 60), record("c", 1, 60)]
    del records[older]["settings"][key]
    records[1 - older] = changed(records[1 - older], **{key: value})
    publish(tmp_path, monkeypatch, records)
    first, second = (one["name"] for one in records)
    with pytest.raises(ModlibError, match=f"{first} and {second}.*{key}.*{value}"):
        published("celeba_cpu")


@pytest.mark.parametrize("profile", ["celeba_cpu", "another"])
def test_a_record_of_no_row_is_refused_whatever_its_profile(tmp_path, monkeypatch, profile):
    stray = changed(record("c", 0, 60), system="csn", profile=profile)
    publish(tmp_path, monkeypatch, [record("c", 0, 60), stray])
    with pytest.raises(ModlibError, match=f"{stray['name']} in .* belongs to no row of its table "):
        published("celeba_cpu")


def test_a_record_whose_settings_no_longer_exist_is_refused(tmp_path, monkeypatch):
    gone = record("c", 0, 60, profile="another")
    gone["settings"] |= {"system": "gone"}
    publish(tmp_path, monkeypatch, [record("c", 0, 60), gone])
    with pytest.raises(ModlibError, match="its settings are none of this modlib's"):
        published("celeba_cpu")


def test_one_row_has_one_weight_of_the_regulariser(tmp_path, monkeypatch):
    one, other = record("f", 0, 60), changed(record("f", 1, 61), regulariser_weight=0.5)
    publish(tmp_path, monkeypatch, [record("e", 0, 60), one, other])
    with pytest.raises(ModlibError, match="differ in regulariser_weight"):
        published("celeba_cpu")


def test_two_records_of_one_row_and_seed_are_refused(tmp_path, monkeypatch):
    one, other = record("f", 0, 60), changed(record("f", 0, 61), regulariser_weight=0.5)
    publish(tmp_path, monkeypatch, [one, other])
    with pytest.raises(ModlibError, match=r"row f .* two records of one seed"):
        published("celeba_cpu")
