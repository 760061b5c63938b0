"""Speeds are those of the steps that were timed; a record of them is read only as it can be."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from modlib import throughput
from modlib.cost import paper_profile, paper_tables
from modlib.errors import ModlibError
from modlib.results import write_json, write_record
from modlib.throughput import (
    KEYS,
    kind,
    measure,
    read,
    read_all,
    recipe,
    time_steps,
    timed_settings,
    write,
)

CPU = torch.device("cpu")


@pytest.fixture
def separate(tiny):
    """Settings of ``triplets`` batching."""
    return replace(tiny, batching="triplets")


@pytest.fixture
def record(separate) -> dict:
    """Hand-made."""
    return {"version": 1, "recipe": recipe([separate]), "device": "NVIDIA H200",
            "processor": "a CPU",
            "systems": {"modulated": {"images_per_second": 900.5, "steps": 7, "images": 18}},
            "threads": 8, "versions": {"torch": "2.12.0"}, "seconds": 60.0, "git_commit": "c"}


@pytest.mark.parametrize(("seconds_of_steps", "limit", "median", "steps"), [
    ([9.0, 4.0, 5.0], 3.0, 4.5, 2),  # the first is left out, and two are enough, however long
    ([2.0, 1.0, 0.5, 1.5], 4.5, 1.0, 3),
])
def test_images_per_second_are_those_of_the_median_step(
        separate, monkeypatch, seconds_of_steps, limit, median, steps):
    now, left = [0.0], list(seconds_of_steps)

    def step(network, optimiser, images_BCHW, labels_BT, *_):
        assert images_BCHW.shape == (18, 3, 48, 48) and labels_BT.shape == (18, 3)
        now[0] += left.pop(0)

    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(throughput, "training_step", step)
    assert time_steps(separate, CPU, limit) == {
        "images_per_second": 18 / median, "steps": steps, "images": 18}
    assert left == []


def test_of_independent_networks_one_is_timed_on_its_share(separate):
    alone = replace(separate, system="independent")
    timed = timed_settings(alone)
    assert (timed.system, timed.tasks, timed.batch_size) == ("fully_shared", alone.tasks[:1], 6)
    assert timed.triplets_per_task == alone.triplets_per_task
    assert timed_settings(separate) == separate


def test_kinds_are_systems_and_of_independent_networks_the_batch_of_each(separate):
    assert kind(separate) == kind(replace(separate, seed=1, modulate_from=5)) == "modulated"
    assert kind(replace(separate, system="independent")) == "independent, 6 images each"


def test_the_runs_of_all_the_papers_tables_can_be_measured_together(monkeypatch):
    """Independent networks have a batch of their own there."""
    runs = [one for table in paper_tables(paper_profile()).values() for one in table.runs]
    monkeypatch.setattr(throughput, "time_steps",
                        lambda settings, *_: {"images": settings.batch_size})
    measured = measure(runs, CPU)
    assert measured["recipe"] == recipe(runs)
    assert (measured["recipe"]["batch_size"], measured["recipe"]["profile"]) == (180, "celeba_gpu")
    assert measured["systems"]["independent, 60 images each"] == {"images": 60}
    assert sum(name.startswith("independent") for name in measured["systems"]) == 1


@pytest.mark.parametrize("system", ["modulated", "csn", "mask_only", "projection", "branches"])
def test_every_system_can_be_timed(separate, system):
    timed = time_steps(replace(separate, system=system), CPU, 0.0)
    assert timed["images_per_second"] > 0 and timed["steps"] == 2


def test_what_is_measured_can_be_written_and_read(separate, tmp_path):
    measured = measure([separate, replace(separate, seed=1),
                        replace(separate, system="independent")], CPU, seconds=0.0)
    assert set(measured) == set(KEYS)
    assert list(measured["systems"]) == ["independent, 6 images each", "modulated"]
    path = write(measured, tmp_path)
    assert read(path) == measured
    assert read_all(recipe([separate]), tmp_path) == [measured]


def test_a_record_is_named_by_its_gpu_or_cpu(record, tmp_path):
    assert write(record, tmp_path).name == "throughput-nvidia-h200.json"
    on_cpu = record | {"device": "cpu (2 threads of 4 cores)", "processor": "Xeon(R) @ 2.1GHz, X"}
    assert write(on_cpu, tmp_path).name == "throughput-xeon-r-2-1ghz-x.json"
    assert read_all(record["recipe"], tmp_path) == [record, on_cpu]


@pytest.mark.parametrize("other", [
    {"batching": "shared"}, {"image_size": 64}, {"batch_size": 27},
    {"system": "independent", "image_size": 64}])
def test_runs_of_two_recipes_are_not_measured_together(separate, other):
    with pytest.raises(ModlibError, match="runs must be of one recipe with batching='triplets'"):
        measure([separate, replace(separate, **({"system": "csn"} | other))], CPU)


def test_runs_of_one_system_and_two_recipes_are_not_measured_together(separate):
    with pytest.raises(ModlibError, match="runs must be of one recipe"):
        measure([separate, replace(separate, image_size=64)], CPU)


def test_a_record_of_another_recipe_is_refused(record, separate, tmp_path):
    path = write(record, tmp_path)
    with pytest.raises(ModlibError, match=f"{path.name} is of .*measure again"):
        read_all(recipe([replace(separate, width=1.0)]), tmp_path)


@pytest.mark.parametrize("speed", [0, -1.0, None, "9", True])
def test_a_speed_that_cannot_be_is_refused(record, tmp_path, speed):
    record["systems"]["modulated"]["images_per_second"] = speed
    path = write(record, tmp_path)
    with pytest.raises(ModlibError, match=r"systems\.modulated\.images_per_second is .* above 0"):
        read(path)


@pytest.mark.parametrize("systems", [{}, [], {"modulated": 3}])
def test_a_record_without_speeds_is_refused(record, tmp_path, systems):
    path = write(record | {"systems": systems}, tmp_path)
    with pytest.raises(ModlibError, match="systems"):
        read(path)


def test_a_record_that_is_not_signed_or_lacks_a_key_is_refused(record, tmp_path):
    path = tmp_path / "throughput-a.json"
    write_json(path, record)
    with pytest.raises(ModlibError, match="has no digest"):
        read(path)
    write_record(path, {key: record[key] for key in KEYS if key != "device"})
    with pytest.raises(ModlibError, match="lacks device"):
        read(path)
