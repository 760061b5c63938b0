"""Systems that answer every task: their data, records and maps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_multi_mnist import write_part

from modlib import reading
from modlib.answers import read_answers
from modlib.arrays import from_json
from modlib.batches import image_getter
from modlib.errors import ModlibError
from modlib.experiments import run_many
from modlib.kept_runs import checkpoint_path
from modlib.reader_training import split_answers
from modlib.reading import (
    PIXELS,
    gate_means,
    gate_sums,
    load_tasks,
    run_reader,
    shown_maps,
    top_down_maps,
    trained_reader,
    wrong_answers,
)
from modlib.results import comparable, read_record
from modlib.task_images import UNKNOWN
from modlib.task_readers import ReaderSettings, all_streams, build_reader

TINY = ReaderSettings(train_images=60, test_images=20, batch_size=16, epochs=2, seed=1)
SYSTEMS = ("single", "uniform", "moo", "channel", "top_down")


@pytest.fixture
def data(places):
    return load_tasks(TINY, places)


# Records


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_record_is_written_once_and_read_after_that(system, places, monkeypatch):
    settings = replace(TINY, system=system, epochs=1)
    record = run_reader(settings, places)
    [path] = Path(places.results_dir).glob("*.json")
    assert read_record(path, signed=True) == record
    assert record["results"]["test_accuracy"].keys() == {"LU", "RL"}
    assert record["data"]["images"] == {"train": 60, "valid": 20, "test": 20}
    for kept in ("maps", "gates"):
        assert (kept in record["results"]) == (system == "top_down")
    for kept in ("scales", "dead_scales"):
        assert (kept in record["results"]) == (system == "channel")
    monkeypatch.setattr(reading, "train_reader", None)
    assert run_reader(settings, places) == record


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_task_that_asks_about_no_image_of_a_split_is_told_before_training(
        places, data, monkeypatch, split):
    labels_NT = data.labels_NT.copy()
    labels_NT[data.indices(split), 0] = UNKNOWN
    monkeypatch.setattr(reading, "load_tasks", lambda *_: replace(data, labels_NT=labels_NT))
    monkeypatch.setattr(reading, "train_reader", None)
    with pytest.raises(ModlibError, match=f"task 'LU' asks about no image of the {split} split"):
        run_reader(TINY, places)


def test_a_record_holds_every_answer_and_the_digits_it_was_about(places, data):
    record = run_reader(TINY, places)
    model = trained_reader(TINY, places)
    test, get_images = data.indices("test"), image_getter(data, torch.device("cpu"))
    answers_NT = split_answers(model, data, "test", get_images)
    right_TN, asked_TN, parts_NM = read_answers(record)
    assert np.array_equal(right_TN, (answers_NT == data.labels_NT[test]).T) and asked_TN.all()
    same = data.parts_NM[test][:, :, None, None] == data.parts_NM[test]
    assert np.array_equal(parts_NM[:, :, None, None] == parts_NM, same)
    assert record["results"]["test_answers"]["wrong"] == wrong_answers(
        answers_NT, data.labels_NT[test], data.tasks)


def test_wrong_answers_that_are_anothers_digit_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 10, (2, 300, 3))
    answers[:90] = labels[:90]
    found = wrong_answers(answers, labels, ("LU", "RL", "LL"))
    for t, task in enumerate(("LU", "RL", "LL")):
        count = others = chance = 0
        for answer, label in zip(answers.tolist(), labels.tolist(), strict=True):
            if answer[t] != label[t]:
                there = {label[u] for u in range(3) if u != t} - {label[t]}
                count, others = count + 1, others + (answer[t] in there)
                chance += len(there) / 9
        assert found[task] == {"count": count, "of_others": others,
                               "by_chance": pytest.approx(chance)}


def test_only_gates_have_means(places):
    added = run_reader(replace(TINY, epochs=1, into_bu2="add"), places)["results"]
    assert "maps" in added and "gates" not in added


def test_run_many_runs_readers_and_the_same_settings_give_the_same_record(places, tmp_path):
    settings = [replace(TINY, epochs=1, td_weight=0.5, bu1_weight=0.5, seed=seed)
                for seed in (0, 1)]
    records = run_many(settings, places, runner=run_reader)
    elsewhere = replace(places, results_dir=str(tmp_path / "x"), checkpoint_dir=str(tmp_path / "y"))
    assert comparable(run_reader(settings[1], elsewhere)) == comparable(records[1])
    assert records[0]["epochs"][0]["loss"] != records[1]["epochs"][0]["loss"]


def test_real_digits_are_read_side_by_side_too(places, tmp_path):
    write_part(tmp_path / "mnist", "t10k", 100)
    settings = replace(TINY, dataset="mnist", system="uniform", epochs=1)
    beside, here = (replace(places, data_root=str(tmp_path / "mnist"), workers=workers,
                            results_dir=str(tmp_path / f"records{workers}"),
                            checkpoint_dir=str(tmp_path / f"checkpoints{workers}"))
                    for workers in (1, 0))
    told = []
    records = run_many([settings], beside, None, lambda *epoch: told.append(epoch),
                       runner=run_reader, load=load_tasks)
    assert told == [(settings, epoch) for epoch in records[0]["epochs"]]
    assert comparable(records[0]) == comparable(run_reader(settings, here))


def test_the_kept_maps_are_those_of_the_trained_network(places, data):
    record = run_reader(TINY, places)
    kept = {name: from_json(value) for name, value in record["results"]["maps"].items()}
    test = data.indices("test")[:4]
    assert np.array_equal(kept["images"], data.images_NCHW[test, 0])
    assert checkpoint_path(TINY, places, data.fingerprint).exists()
    maps_TBHW = top_down_maps(trained_reader(TINY, places), data, test,
                              image_getter(data, torch.device("cpu")))
    assert kept["maps"].shape == maps_TBHW.shape == (2, 4, 28, 28)
    assert np.abs(kept["maps"] / 255 - maps_TBHW).max() <= 0.5 / 255 + 1e-6


def test_shown_maps_are_the_kept_ones_or_those_of_the_checkpoint(places):
    record = run_reader(TINY, places)
    kept = shown_maps(TINY, places, record)
    del record["results"]["maps"]
    again = shown_maps(TINY, places, record)
    for one, other in zip(kept, again, strict=True):
        assert one.dtype == np.uint8 and np.array_equal(one, other)


def test_a_taught_map_is_its_softmax_as_a_share_of_the_highest(data):
    torch.manual_seed(0)
    model, indices = build_reader(TINY, data.classes), data.indices("test")[:3]
    maps_TBHW = top_down_maps(model, data, indices, taught=True)
    with torch.no_grad():
        raw_TBHW = all_streams(model, torch.from_numpy(data.images_NCHW[indices])).maps
    shares = raw_TBHW.flatten(2).softmax(2)
    expected = (shares / shares.amax(2, keepdim=True)).view(raw_TBHW.shape)
    torch.testing.assert_close(torch.from_numpy(maps_TBHW), expected)
    assert not np.allclose(maps_TBHW, top_down_maps(model, data, indices), atol=0.1)


def test_where_points_were_taught_the_taught_map_is_shown(places, data, monkeypatch):
    """For a record of photographs, which keeps no maps."""
    told = []
    monkeypatch.setattr(reading, "trained_reader", lambda *_: None)
    monkeypatch.setattr(reading, "load_tasks", lambda *_: data)
    monkeypatch.setattr(reading, "top_down_maps", lambda _, __, indices, taught: told.append(taught)
                        or np.zeros((2, len(indices), 28, 28)))
    for changes in ({"td_weight": 0.0}, {"td_weight": 1.0}, {"td_weight": 1.0, "dataset": "cub_200",
                    "tasks": ("wing", "leg")}):
        shown_maps(replace(TINY, **changes), places, {"results": {}})
    assert told == [False, False, True]


# Gates


def test_gates_are_summed_over_own_other_and_empty_pixels():
    maps_TBHW = np.array([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]], np.float32)
    places_BTHW = np.array([[[[1, 1], [0, 0]], [[0, 1], [1, 0]]]], np.float32)
    sums_T3, counts_T3 = gate_sums(maps_TBHW, places_BTHW)
    assert sums_T3.tolist() == [[1 + 2, 3, 4], [6 + 7, 5, 8]]
    assert counts_T3.tolist() == [[2, 1, 1], [2, 1, 1]]


def test_gate_means_are_those_of_the_whole_test_split(places, data, monkeypatch):
    """By hand-made maps: high on a task's own pixels, and a little higher with every image."""
    def of_data(_, data, indices, __):
        own_TBHW = data.places(indices).transpose(1, 0, 2, 3)
        return 0.5 * own_TBHW + 0.01 * (indices - 80)[None, :, None, None]

    monkeypatch.setattr(reading, "top_down_maps", of_data)
    test = data.indices("test")
    assert test.tolist() == list(range(80, 100))
    own_TBHW = data.places(test).transpose(1, 0, 2, 3) > 0
    expected = {}
    for task, own_BHW, other_BHW in zip(data.tasks, own_TBHW, own_TBHW[::-1], strict=True):
        kinds = (own_BHW, other_BHW & ~own_BHW, ~own_BHW & ~other_BHW)
        expected[task] = {
            name: pytest.approx((np.arange(20) * kind.sum((1, 2))).sum() / kind.sum() / 100
                                + (0.5 if name == "own digit" else 0))
            for name, kind in zip(PIXELS, kinds, strict=True)}
    assert gate_means(None, data, None, images_at_once=7) == expected


def test_a_record_keeps_the_gates_of_its_network(places, data):
    record = run_reader(TINY, places)
    again = gate_means(trained_reader(TINY, places), data,
                       image_getter(data, torch.device("cpu")))
    assert record["results"]["gates"] == {task: pytest.approx(of) for task, of in again.items()}
    assert all(0 < value < 1 for of_task in again.values() for value in of_task.values())


def test_real_digits_need_a_folder(places):
    with pytest.raises(ModlibError, match="dataset 'mnist' needs data_root"):
        load_tasks(replace(TINY, dataset="mnist"), places)
