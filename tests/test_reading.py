"""Systems that answer every task: their data, records and maps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_multi_mnist import write_part

from modlib import reading
from modlib.arrays import from_json
from modlib.batches import image_getter
from modlib.errors import ModlibError
from modlib.experiments import checkpoint_path, run_many
from modlib.reading import load_tasks, run_reader, shown_maps, top_down_maps, trained_reader
from modlib.results import comparable, read_record
from modlib.task_readers import ReaderSettings

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
    assert ("maps" in record["results"]) == (system == "top_down")
    monkeypatch.setattr(reading, "train_reader", None)
    assert run_reader(settings, places) == record


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


def test_real_digits_need_a_folder(places):
    with pytest.raises(ModlibError, match="dataset 'mnist' needs data_root"):
        load_tasks(replace(TINY, dataset="mnist"), places)
