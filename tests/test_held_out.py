"""Nothing that trains or tunes can reach the test split: where all of it is replaced by noise,
training gives the same weights and the same validation figures to the last bit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modlib import branching_runs, classification, experiments, reading, training
from modlib.adaptive_branching import BranchingSettings
from modlib.batches import image_getter
from modlib.branching_runs import run_branching
from modlib.classifiers import ClassifierSettings
from modlib.errors import ModlibError
from modlib.evaluation import TEST_SEED
from modlib.experiments import run
from modlib.held_out import LOCKED, SPLITS, indices_of, without_test
from modlib.reading import load_tasks, run_reader
from modlib.results import comparable
from modlib.task_readers import ReaderSettings
from modlib.thin_vgg import thin_widths
from modlib.triplets import benchmark_triplets

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
TUNING = sorted((ROOT / "book/results/tuning").glob("*.json"))


def poisoned(data):
    """The data with noise for test images and other labels, answers and triplets for them; the
    rest, and the fingerprint, as they were."""
    rng, test = np.random.default_rng(9), data.indices("test")
    images_NCHW, labels_NT = np.array(data.images_NCHW), data.labels_NT.copy()
    images_NCHW[test] = rng.integers(0, 256, images_NCHW[test].shape)
    order = rng.permuted(np.tile(test[:, None], labels_NT.shape[1]), axis=0)
    labels_NT[test] = (~labels_NT[test] if labels_NT.dtype == bool
                       else np.take_along_axis(data.labels_NT, order, axis=0))
    changes = {"images_NCHW": images_NCHW, "labels_NT": labels_NT}
    if getattr(data, "triplets", None) is not None:
        changes["triplets"] = data.triplets | {"test": data.triplets["test"][..., [2, 0, 1]]}
    if getattr(data, "places", None) is not None:
        def places(indices_B):
            return np.where(np.isin(indices_B, test)[:, None, None, None], 0.5,
                            data.places(indices_B)).astype(np.float32)
        changes["places"] = places
    return replace(data, **changes)


# The view


@pytest.fixture(params=["planted", "categorised", "given", "answers"])
def data(request, places):
    if request.param == "answers":
        return load_tasks(ReaderSettings(train_images=30, test_images=10), places)
    return request.getfixturevalue(request.param)


def test_the_view_has_all_but_the_test_split(data):
    before = data.labels_NT.copy()
    view, get_images = without_test(data, image_getter(data, CPU))
    for split in ("train", "valid"):
        indices = view.indices(split)
        assert np.array_equal(indices, data.indices(split)) and len(indices)
        assert np.array_equal(view.labels_NT[indices], data.labels_NT[indices])
        pixels = get_images(torch.from_numpy(indices))
        assert np.array_equal(pixels.numpy(), data.images_NCHW[indices])
        for mine in (image_getter(view, CPU)(torch.from_numpy(indices)), view.images_NCHW[indices]):
            assert np.array_equal(mine, data.images_NCHW[indices])
        assert np.array_equal(view.images_NCHW[indices[0], 0], data.images_NCHW[indices[0], 0])
        if getattr(data, "triplets", None) is not None:
            assert view.triplets[split] is data.triplets[split]
    assert (view.tasks, view.fingerprint) == (data.tasks, data.fingerprint)
    assert np.array_equal(data.labels_NT, before) and len(data.indices("test"))  # left alone


def test_the_test_split_of_the_view_is_out_of_reach(data):
    view, get_images = without_test(data, image_getter(data, CPU))
    test = data.indices("test")
    assert len(np.unique(view.labels_NT[test])) == 1
    reaches = [lambda: view.indices("test"), lambda: get_images(torch.from_numpy(test[-1:])),
               lambda: get_images(torch.cat([torch.zeros(5, dtype=torch.int64),
                                             torch.from_numpy(test[:1])])),
               lambda: image_getter(view, CPU)(torch.from_numpy(test[-1:])),
               lambda: view.images_NCHW[view.split_N == LOCKED], lambda: view.images_NCHW[:],
               lambda: view.images_NCHW[..., 0], lambda: view.images_NCHW[int(test[0])],
               lambda: view.images_NCHW[test, 0], lambda: view.images_NCHW[None],
               lambda: view.images_NCHW[int(test[0]), :, 1:], lambda: list(view.images_NCHW),
               lambda: view.images_NCHW[int(test[0]) - len(data.split_N)],
               lambda: np.array(view.images_NCHW), lambda: np.asarray(view.images_NCHW),
               lambda: torch.from_numpy(np.stack([*view.images_NCHW]))]
    if hasattr(data, "triplets"):
        reaches.append(lambda: benchmark_triplets(view, "test", 5, TEST_SEED))
    else:
        reaches.append(lambda: view.places(test[:1]))
    for reach in reaches:
        with pytest.raises(ModlibError, match="test split was asked for while training or tuning"):
            reach()


def test_the_pixels_of_the_view_are_not_copied(planted):
    view, _ = without_test(planted, image_getter(planted, CPU))
    train = slice(0, len(planted.indices("train")))  # they come first
    assert np.shares_memory(view.images_NCHW[train], planted.images_NCHW)
    assert (view.images_NCHW.shape, view.images_NCHW.dtype, len(view.images_NCHW)) == (
        planted.images_NCHW.shape, np.uint8, 90)
    assert view.images_NCHW.nbytes == planted.images_NCHW.nbytes


def test_without_test_images_the_view_is_an_array_as_before(planted):
    view, _ = without_test(replace(planted, split_N=planted.split_N % 2), None)
    assert np.array_equal(np.asarray(view.images_NCHW), planted.images_NCHW)


def test_a_view_of_a_view_is_the_same(planted):
    view, get_images = without_test(planted, image_getter(planted, CPU))
    again, _ = without_test(view, get_images)
    assert np.array_equal(again.split_N, view.split_N)
    assert np.array_equal(again.labels_NT, view.labels_NT)


def test_a_data_set_without_test_images_has_an_empty_test_split():
    assert indices_of(np.array([0, 1, 0], np.uint8), "test").tolist() == []


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(ModlibError, match="split 'tset' is not known; did you mean 'test'"):
        indices_of(np.zeros(3, np.uint8), "tset")


# Every kind of run


@pytest.fixture
def kinds(monkeypatch, tiny, planted, given, categorised, places):
    """By kind of run: what runs it, its settings, its data, and the modules that load these."""
    def load_from(module, name="load_data"):
        return lambda data: monkeypatch.setattr(module, name, lambda *_: data)

    monkeypatch.setattr(branching_runs, "VGG16_WIDTHS", thin_widths(4))
    triplets = load_from(experiments)
    digits = ReaderSettings(train_images=40, test_images=12, batch_size=16, epochs=2)
    found = {
        name: (run, replace(tiny, **changes), data, triplets) for name, changes, data in (
            ("triplets", {"final_probes": 1}, planted),
            ("drawn triplets", {"batching": "triplets"}, planted),
            ("given triplets", {"batching": "triplets"}, given),
            ("categories", {}, categorised),
            ("masks on a trunk", {"system": "mask_only"}, planted))}
    found["classifier"] = (
        classification.run_classifier, ClassifierSettings(
            tasks=planted.tasks, image_size=48, batch_size=10, epochs=1, batches_per_epoch=2,
            precision="float32"), planted, load_from(classification))
    found["branching"] = (run_branching, BranchingSettings(
        tasks=planted.tasks, image_size=48, thinness=3, wide_thinness=4, alpha=2.0,
        round_batches=3, batch_size=10, epochs=2, batches_per_epoch=4, precision="float32"),
        planted, load_from(branching_runs))
    found["readers"] = (run_reader, replace(digits, system="top_down", td_weight=1.0),
                        load_tasks(digits, places), load_from(reading, "load_tasks"))
    return found


KINDS = ("triplets", "drawn triplets", "given triplets", "categories", "masks on a trunk",
         "classifier", "branching", "readers")


def left_by(of_kind, data, places) -> tuple[dict, list, dict]:
    """What a run leaves: each network's weights by its checkpoint, the epochs, the results."""
    runner, settings, _, load_from = of_kind
    load_from(data)
    record = comparable(runner(settings, places))
    networks = {path.name: torch.load(path, weights_only=True)["network"]
                for path in Path(places.checkpoint_dir).glob("*.pt")}
    return networks, record["epochs"], record["results"]


@pytest.mark.parametrize("kind", KINDS)
def test_noise_in_the_test_split_changes_no_weight_and_no_validation_figure(kind, kinds, places):
    of_kind = kinds[kind]
    data, noise = of_kind[2], poisoned(of_kind[2])
    clean = left_by(of_kind, data, replace(places, results_dir=f"{places.results_dir}/clean",
                                           checkpoint_dir=f"{places.checkpoint_dir}/clean"))
    other = left_by(of_kind, noise, replace(places, results_dir=f"{places.results_dir}/noise",
                                            checkpoint_dir=f"{places.checkpoint_dir}/noise"))
    assert clean[0].keys() == other[0].keys() and clean[0]
    for name, weights in clean[0].items():
        same = [torch.equal(value, other[0][name][key]) for key, value in weights.items()
                if isinstance(value, torch.Tensor)]
        assert all(same) and len(same) > 5
    assert clean[1] == other[1] and len(clean[1]) == of_kind[1].epochs
    tested = {key for key in clean[2] if key.startswith("test_") or key in (
        "retrieval", "top_recall", "maps", "gates")}
    # The noise reaches what the test split is for, and nothing else.
    assert any(clean[2][key] != other[2][key] for key in tested)
    assert {key: clean[2][key] for key in clean[2].keys() - tested} == {
        key: other[2][key] for key in other[2].keys() - tested}


@pytest.mark.parametrize("reach", [
    lambda data, get_images: data.indices("test"),
    lambda data, get_images: get_images(torch.from_numpy(np.flatnonzero(data.split_N > 1)))])
@pytest.mark.parametrize(("module", "kind"), [
    (training, "triplets"), (classification, "classifier")])
def test_an_epoch_that_reached_for_the_test_split_would_be_stopped(
        module, kind, reach, kinds, places, monkeypatch):
    runner, settings, data, load_from = kinds[kind]
    load_from(data)
    monkeypatch.setattr(module, "train_one_epoch", lambda network, optimiser, data, get_images,
                        *_: reach(data, get_images))
    with pytest.raises(ModlibError, match="the test split was asked for while training"):
        runner(settings, places)


def test_every_split_has_noise_where_it_is_meant_to(planted):
    noise = poisoned(planted)
    for split in SPLITS:
        indices = planted.indices(split)
        assert np.array_equal(noise.images_NCHW[indices], planted.images_NCHW[indices]) == (
            split != "test")
        assert np.array_equal(noise.labels_NT[indices], planted.labels_NT[indices]) == (
            split != "test")


# Tuning


def test_a_run_for_tuning_never_looks_at_the_test_split(tiny, planted, places, monkeypatch):
    """Nor does it need one: with no test image at all it runs as well."""
    settings = replace(tiny, final_test=False)
    rest = replace(planted, split_N=np.where(planted.split_N == 2, 7, planted.split_N))
    monkeypatch.setattr(experiments, "load_data", lambda *_: rest)
    record = run(settings, places)
    assert not [key for key in record["results"] if key.startswith("test_")]
    assert record["data"]["images"]["test"] == 0


def test_committed_tuning_records_hold_nothing_of_the_test_split():
    assert TUNING
    for path in TUNING:
        record = json.loads(path.read_text())
        assert record["settings"]["final_test"] is False
        assert set(record["results"]) == {"parameters"}
