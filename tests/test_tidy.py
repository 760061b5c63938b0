"""Every measurement of every record is a line of one table, which can be written as CSV."""

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modlib.arrays import to_json
from modlib.results import RECORD_VERSION, read_record, write_record
from modlib.tidy import TIDY, main, tidy_table, time_table


@pytest.fixture
def two_runs(tmp_path):
    """A folder with two runs of two tasks, one of which has no queries."""
    for seed, share in ((0, 0.5), (1, 0.75)):
        name = f"mine-modulated-2tasks-seed{seed}-abc"
        write_record(tmp_path / "study/inner" / f"{name}.json", {
            "version": RECORD_VERSION, "name": name, "status": "done", "data": {},
            "epochs": [{
                "epoch": n // 2, "valid_accuracy": {"Smiling": 0.5, "Bald": 0.5},
                "loss": n / 8, "task_losses": {"Smiling": 0.5, "Bald": n / 4},
                "task_weights": {"Smiling": 0.5, "Bald": 0.5},
                "largest_weight": 0.5,
                "ucr_batches": n + 1, "ucr": [{
                    "tasks": ["Smiling", "Bald"], "positive": n, "negative": 1, "zero": 0}]}
                for n in (2, 4)],
            "run": {"training_seconds": 60.0, "images_per_second": 9.0},
            "settings": {"profile": "mine", "system": "modulated", "seed": seed, "rank": seed,
                         "width": 0.5, "epochs": 2, "tasks": ["Smiling", "Bald"]},
            "results": {
                "test_accuracy": {"Smiling": share, "Bald": 1.0}, "parameters": {"total": 3},
                "test_triplets": {
                    "correct": to_json(np.arange(4) < [[4 * share], [4]]),
                    "labels": to_json(np.zeros((5, 2), bool)), "digest": "0"},
                "gates": {"LU": {"own digit": 0.75}}, "somp_errors": {"fc6": 0.5},
                "hard": {"Smiling": 0.125, "Bald": 0.5},
                "retrieval": {"Smiling": {"queries": 3, "mAP": 0.25},
                              "Bald": {"queries": 0, "mAP": None}}}})
    return tmp_path


def test_what_probes_say_is_there_by_stage_epoch_and_mode(two_runs):
    [path, _] = sorted(two_runs.rglob("*.json"))
    record = read_record(path)
    for epoch, cosine in zip(record["epochs"], (0.1, 0.3), strict=True):
        epoch["ucr"][0]["mean_cosine"] = cosine
        counts_2STT = np.zeros((2, 1, 2, 2), np.int32)
        counts_2STT[0, 0, 0, 1] = counts_2STT[0, 0, 1, 0] = 1
        epoch["ucr_stages"] = {"stages": ["fc"], "counts": to_json(counts_2STT)}
    counts_2TT = np.array([[[4, 3], [3, 4]], [[0, 1], [1, 0]]], np.int32)
    record["results"]["probes"] = {"batches": 4, "modes": {
        mode: {"counts": to_json(counts_2TT), "agreement": {mode: 1.0, other: None}}
        for mode, other in (("joint", "own"), ("own", "joint"))}}
    write_record(path, record)
    table = tidy_table(two_runs).query("seed == 0")
    found = dict(zip(table.measure, table.value, strict=True))
    assert (found["mean cosine in epoch 1"], found["mean cosine in epoch 2"]) == (0.1, 0.3)
    assert found["ucr of fc"] == pytest.approx(2 / 8)  # of the probes of both epochs, 3 and 5
    assert found["ucr, joint"] == 3 / 4
    assert found["same sign: joint and joint"] == 1 and "same sign: joint and own" not in found


def test_the_benchmark_is_there_with_its_units(two_runs):
    write_record(two_runs / "speed/benchmark.json", {
        "version": 1, "run": {}, "rows": [
            {"question": "how fast", "value": 2.5, "low": 2, "high": 3, "unit": "s", "repeats": 3},
            {"question": "how many", "value": 4, "low": 4, "high": 4, "unit": "MB", "repeats": 1}],
        "curves": {"tasks": {"sizes": [1, 40], "exponent": 0.5}}})
    lines = tidy_table(two_runs).query("study == 'speed'")
    assert lines[["measure", "value", "changed"]].values.tolist() == [
        ["how fast", 2.5, '{"unit": "s"}'], ["how fast, least", 2, '{"unit": "s"}'],
        ["how fast, largest", 3, '{"unit": "s"}'], ["how many", 4, '{"unit": "MB"}'],
        ["tasks: sizes: 1", 1, "{}"], ["tasks: sizes: 2", 40, "{}"],
        ["tasks: exponent", 0.5, "{}"]]


def test_every_measurement_is_a_line(two_runs):
    table = tidy_table(two_runs)
    assert set(table.study) == {"study/inner"}
    assert table.query("seed == 1 and measure == 'test_accuracy'").value.tolist() == [0.75, 1.0]
    assert table.query("measure == 'mAP'")[["task", "value"]].values.tolist() == [
        ["Smiling", 0.25]] * 2
    assert set(table.measure) == {
        "test_accuracy", "mAP", "parameters_total", "gate of LU, own digit", "somp_error of fc6",
        "hard", "valid_accuracy", "loss", "task_losses", "task_weights", "largest_weight",
        "ucr", "ucr, zeros left out", "training_seconds", "images_per_second"}
    assert len(table) == 2 * 20
    last = table.query("seed == 0 and measure in ('loss', 'task_losses')")
    assert last[["task", "value"]].values.tolist() == [["Smiling", 0.5], ["Bald", 1.0], ["", 0.5]]


def test_the_ratio_without_zeros_is_there_where_any_is_left(two_runs):
    [path, _] = sorted(two_runs.rglob("*.json"))
    record = read_record(path)
    for epoch, counts in zip(record["epochs"], ((3, 0, 0), (0, 1, 4)), strict=True):
        epoch["ucr"][0] |= dict(zip(("positive", "negative", "zero"), counts, strict=True))
    write_record(path, record)
    found = tidy_table(two_runs).query("seed == 0").set_index("measure").value
    assert (found["ucr"], found["ucr, zeros left out"]) == (3 / 8, 3 / 4)
    for epoch in record["epochs"]:
        epoch["ucr"][0] |= {"positive": 0, "negative": 0, "zero": epoch["ucr_batches"]}
    write_record(path, record)
    found = tidy_table(two_runs).query("seed == 0").set_index("measure").value
    assert found["ucr"] == 0 and "ucr, zeros left out" not in found


def test_the_hours_are_of_all_runs_on_cpus_two_at_a_time(tmp_path):
    """Of one profile 10, 20 and 60 minutes; runs of seconds, and on a GPU, are left out."""
    def write(name, profile, minutes, device="cpu (1 thread)"):
        write_record(tmp_path / "a" / f"{name}-seed0.json", {
            "version": RECORD_VERSION, "name": name, "status": "done", "data": {}, "results": {},
            "settings": {"profile": profile}, "epochs": [],
            "run": {"training_seconds": 60 * minutes, "device": device}})

    assert len(time_table(tmp_path)) == 0
    for name, minutes in (("one", 10), ("two", 20), ("three", 60)):
        write(name, "mine", minutes)
    write("four", "quick", 0.1)
    write("five", "large", 90, "cuda")
    assert time_table(tmp_path).T.to_dict() == {
        "mine": {"runs": 3, "minutes a run": "20", "hours in all": "0.8"}}


def test_the_ratio_of_a_pair_is_over_all_epochs(two_runs):
    [first, second] = tidy_table(two_runs).query("measure == 'ucr'")[["task", "value"]].values
    assert list(first) == list(second) == ["Smiling/Bald", 6 / 8]


def test_what_tells_runs_apart_is_said(two_runs):
    table = tidy_table(two_runs).query("measure == 'training_seconds'")
    assert [json.loads(changed) for changed in table.changed] == [{"rank": 0}, {"rank": 1}]
    (two_runs / "empty").mkdir()
    assert set(tidy_table(two_runs / "empty").columns) == set(TIDY)


def test_the_command_writes_a_csv_that_holds_the_table(two_runs, monkeypatch, capsys):
    path = two_runs / "numbers.csv"
    monkeypatch.setattr("sys.argv", ["tidy", "--folder", str(two_runs), "--csv", str(path)])
    main()
    assert pd.read_csv(path, keep_default_na=False).equals(tidy_table(two_runs))
    said = capsys.readouterr().out
    assert "40 measurements of 2 runs, and 0 of the benchmark; written to" in said


@pytest.mark.parametrize("arguments", [
    ["--folder", "nowhere at all"], ["--folder", ".", "--csv", "taken/not_a_folder/x.csv"],
    ["--folder", ".", "--csv", "study"], ["--folder", ".", "--csv", "/dev/null"]])
def test_the_command_says_what_is_wrong(two_runs, monkeypatch, capsys, arguments):
    monkeypatch.chdir(two_runs)
    (two_runs / "taken").touch()
    arguments = [str(two_runs) if one == "." else one for one in arguments]
    monkeypatch.setattr("sys.argv", ["tidy", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert arguments[-1].removeprefix("--folder") in said and "Traceback" not in said
    assert Path("/dev/null").is_char_device()


def test_a_table_that_breaks_off_leaves_the_one_before(two_runs, monkeypatch, capsys):
    path = two_runs / "numbers.csv"
    path.write_text("before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("sys.argv", ["tidy", "--folder", str(two_runs), "--csv", str(path)])
    with pytest.raises(SystemExit):
        main()
    assert f"the table {path} cannot be written" in capsys.readouterr().err
    assert path.read_text() == "before"
