"""Runs of branching networks: what they start from, what they measure, what their records hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_celeba
import torch

from modlib import branching_runs
from modlib.adaptive_branching import BranchingSettings
from modlib.answers import read_answers
from modlib.arrays import from_json
from modlib.batches import image_getter
from modlib.branching_runs import (
    in_top,
    milliseconds_per_image,
    run_branching,
    top_recall,
    trained_network,
)
from modlib.branching_study import weights_at
from modlib.classification import evaluate, split_logits
from modlib.classifiers import task_logits
from modlib.errors import ModlibError
from modlib.experiments import run_many
from modlib.results import RECORD_KEYS, comparable, read_record
from modlib.somp import start_from_wide
from modlib.task_grouping import TaskAffinity
from modlib.thin_vgg import LAYERS, BranchingVgg, count_layer_weights, thin_widths
from modlib.tidy import tidy_table

CPU = torch.device("cpu")


@pytest.fixture
def settings(planted) -> BranchingSettings:
    """Two epochs of four batches of 10 planted images, a round every third; all layers narrow."""
    return BranchingSettings(
        tasks=planted.tasks, image_size=48, thinness=3, wide_thinness=4, alpha=2.0,
        round_batches=3, batch_size=10, epochs=2, batches_per_epoch=4, precision="float32",
        learning_rate=0.01)


@pytest.fixture(autouse=True)
def small(monkeypatch, planted):
    """The planted images in the place of any data, and a narrow VGG-16 to time."""
    monkeypatch.setattr(branching_runs, "load_data", lambda *_: planted)
    monkeypatch.setattr(branching_runs, "VGG16_WIDTHS", thin_widths(4))


def recall_by_loops(logits, labels, count) -> float:
    found, held_by = [0] * logits.shape[1], [0] * logits.shape[1]
    for row, held in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(len(row)), key=lambda t: -row[t])[:count]
        for t, has in enumerate(held):
            held_by[t] += has
            found[t] += has and t in ranked
    shares = [one / of for one, of in zip(found, held_by, strict=True) if of]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("count", [1, 4, 10, 99])
def test_top_recall_equals_a_loop_over_images(count):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 12)), rng.random((50, 12)) < 0.15
    labels[:, 5] = False  # an attribute that no image has
    assert not labels.any(1).all()  # some images have no attribute at all
    assert top_recall(in_top(logits, count), labels) == pytest.approx(
        recall_by_loops(logits, labels, count))


def test_top_recall_by_hand():
    logits = np.array([[3.0, 2.0, 1.0], [0.0, 0.0, 5.0], [1.0, 2.0, 3.0]])
    labels = np.array([[True, False, True], [False, True, False], [False, False, False]])
    top = in_top(logits, 2)
    assert top.tolist() == [[True, True, False], [True, False, True], [False, True, True]]
    assert top_recall(top, labels) == pytest.approx((1 / 1 + 0 / 1 + 0 / 1) / 3)


def test_times_are_of_the_network_and_of_vgg_16():
    network = BranchingVgg(3, 48, thin_widths(4)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()
              if not name.endswith("extra_state")}
    times = milliseconds_per_image(network, 48)
    assert list(times) == ["network", "vgg16"] and min(times.values()) > 0
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_a_run_writes_the_record_that_it_returns(settings, places, planted):
    told = []
    record = run_branching(settings, places, lambda *each: told.append(each))
    assert read_record(Path(places.results_dir) / f"{record['name']}.json") == record
    assert run_branching(settings, places) == record  # read, not run again
    assert tuple(record) == RECORD_KEYS
    assert told == [(settings, epoch) for epoch in record["epochs"]]
    results = record["results"]
    assert set(results) == {
        "trunk_from", "somp_errors", "random_errors", "test_accuracy", "test_auc", "test_answers",
        "top_recall", "test_top", "affinity", "hard", "groups", "parameters"}
    assert list(results["groups"]) == list(results["somp_errors"]) == list(LAYERS)
    assert list(results["random_errors"]) == list(LAYERS)
    rounds = [one for epoch in record["epochs"] for one in epoch["rounds"]]
    assert len(rounds) == 2
    assert all(results["groups"][one["layer"]] == one["groups"] for one in rounds)
    assert set(record["run"]["milliseconds"]) == {"network", "vgg16"}
    assert record["results"]["trunk_from"] == settings.wide.run_name(planted.fingerprint)


def test_the_record_is_of_the_trained_network(settings, places, planted):
    record = run_branching(settings, places)
    get_images = image_getter(planted, CPU)
    network = trained_network(settings, places, planted, get_images)
    tested = evaluate(network, planted, "test", get_images, settings, "test_")
    assert tested.items() <= record["results"].items()
    labels_TN = planted.labels_NT[planted.indices("test")].T
    logits_NT = split_logits(network, planted, "test", get_images, settings)
    right_TN, asked_TN, _ = read_answers(record)
    assert asked_TN.all() and np.array_equal(right_TN, (logits_NT.T > 0) == labels_TN)
    top_TN, held_TN, _ = read_answers(record, "test_top")
    assert np.array_equal(held_TN, labels_TN) and np.array_equal(top_TN, in_top(logits_NT).T)
    assert record["results"]["top_recall"] == top_recall(top_TN.T, labels_TN.T)
    counts = record["results"]["parameters"]
    assert counts["weights"] == count_layer_weights(network)
    assert counts["total"] == counts["shared"] + counts["task"] == sum(
        p.numel() for p in network.parameters())
    assert counts["task"] > 0


@pytest.mark.parametrize("system", ["thin", "retrained"])
def test_a_record_holds_what_became_of_the_scales(settings, places, planted, system):
    settings = replace(settings, system=system, scales=True, scale_rate_factor=10.0, ucr_every=2)
    record = run_branching(settings, places)
    network = trained_network(settings, places, planted, image_getter(planted, CPU))
    results = record["results"]
    assert list(results["scales"]) == ["conv5_3", "fc6", "fc7"]
    for name, packed in results["scales"].items():
        weight = network.modulation[name].weight.detach()
        assert np.array_equal(from_json(packed), weight.clamp(min=0).numpy())
    scales_TC = np.concatenate([from_json(one) for one in results["scales"].values()], axis=1)
    assert not np.array_equal(scales_TC, np.ones_like(scales_TC))
    assert results["w_distance"][1] == {
        "tasks": ["Smiling", "Young"],
        "mean": pytest.approx(np.abs(scales_TC[0] - scales_TC[2]).mean()),
        "variance": pytest.approx(np.abs(scales_TC[0] - scales_TC[2]).var(), rel=1e-4)}
    assert results["dead_scales"] == (scales_TC == 0).sum()
    assert results["parameters"]["task"] >= scales_TC.size
    assert [epoch["ucr_batches"] for epoch in record["epochs"]] == [2, 2]
    assert [len(epoch["ucr"]) for epoch in record["epochs"]] == [3, 3]


def test_the_affinity_is_of_the_trained_network_on_the_validation_split(settings, places, planted):
    record = run_branching(settings, places)
    get_images = image_getter(planted, CPU)
    network = trained_network(settings, places, planted, get_images).eval()
    valid = planted.indices("valid")
    with torch.no_grad():
        logits = task_logits(network, get_images(torch.from_numpy(valid)))
    running = TaskAffinity(3)
    running.add(logits, torch.from_numpy(planted.labels_NT[valid]))
    np.testing.assert_allclose(
        from_json(record["results"]["affinity"]), running.affinity_TT, rtol=1e-6)


def test_one_tree_serves_the_run_with_scales_and_the_run_without(settings, places):
    plain, with_scales = (
        run_branching(replace(settings, system="retrained", scales=scales), places)["results"]
        for scales in (False, True))
    assert plain["trunk_from"] == with_scales["trunk_from"]
    assert plain["groups"] == with_scales["groups"]
    assert len(list(Path(places.results_dir).iterdir())) == 4  # these, the tree's, the wide one's


@pytest.mark.parametrize("system", ["branched", "shuffled"])
def test_a_run_that_is_cut_goes_on_to_the_record_of_an_unbroken_one(
        settings, places, tmp_path, system):
    settings = replace(settings, system=system, epochs=3, round_batches=3)

    def cut_after_the_second(_, metrics):
        if metrics["epoch"] == 2:
            raise KeyboardInterrupt

    elsewhere = replace(places, results_dir=str(tmp_path / "other/records"),
                        checkpoint_dir=str(tmp_path / "other/checkpoints"))
    with pytest.raises(KeyboardInterrupt):
        run_branching(settings, places, cut_after_the_second)
    resumed, unbroken = (run_branching(settings, where) for where in (places, elsewhere))
    assert comparable(resumed) == comparable(unbroken)
    assert resumed["run"] != unbroken["run"]


# What runs start from

def first_network(settings, places, data):
    return branching_runs._untrained_network(settings, places, data, image_getter(data, CPU))[0]


def test_a_thin_network_starts_from_the_trained_wide_one(settings, places, planted):
    settings = replace(settings, system="thin")
    wide = trained_network(settings.wide, places, planted, image_getter(planted, CPU))
    expected = BranchingVgg(3, 48, thin_widths(3))
    start_from_wide(expected, wide)
    given = first_network(settings, places, planted).state_dict()
    for name, value in expected.state_dict().items():
        if not name.endswith("extra_state"):
            assert torch.equal(given[name], value), name


def test_filters_by_chance_come_from_the_same_wide_network(settings, places):
    ours = run_branching(replace(settings, system="thin"), places)
    by_chance = run_branching(replace(settings, system="thin", filters="random"), places)
    assert by_chance["results"]["trunk_from"] == ours["results"]["trunk_from"]
    assert by_chance["epochs"][0]["loss"] != ours["epochs"][0]["loss"]
    assert not {"somp_errors", "random_errors"} & set(by_chance["results"])


def test_the_wide_network_can_be_trained_on(settings, places):
    ours = run_branching(replace(settings, system="thin"), places)
    on = run_branching(replace(settings, system="thin", filters="all"), places)
    wide = settings.wide
    assert on["results"]["trunk_from"] == ours["results"]["trunk_from"]
    assert weights_at(on) == weights_at(run_branching(wide, places)) > weights_at(ours)
    assert not {"somp_errors", "random_errors"} & set(on["results"])


def test_without_somp_no_wide_network_is_trained(settings, places):
    record = run_branching(replace(settings, system="thin", somp=False), places)
    assert not {"trunk_from", "somp_errors", "random_errors"} & set(record["results"])
    assert len(list(Path(places.results_dir).iterdir())) == 1


def test_retrained_starts_as_the_branched_run_did_on_the_tree_that_it_grew(
        settings, places, planted):
    grown = run_branching(settings, places)["results"]["groups"]
    thin = first_network(replace(settings, system="thin"), places, planted).eval()
    again = first_network(replace(settings, system="retrained"), places, planted).eval()
    names = {name: [[planted.tasks[t] for t in tasks] for tasks in groups]
             for name, groups in zip(LAYERS, again.groups, strict=True)}
    assert names == grown and len(grown["fc7"]) > 1 and again.active == -1
    pixels = torch.randn(4, 3, 48, 48)
    assert torch.equal(again(pixels), thin(pixels))


def test_shuffled_is_the_same_tree_with_its_tasks_at_other_places():
    tasks = tuple("abcdefgh")
    groups = {name: [list(tasks)] for name in LAYERS} | {
        "fc6": [["a", "b", "c"], ["d", "e", "f", "g", "h"]],
        "fc7": [["a", "c"], ["b"], ["d", "e", "f", "g", "h"]]}
    record = {"results": {"groups": groups}}
    settings = BranchingSettings(tasks=tasks, system="retrained")
    found = branching_runs._tree(record, settings)
    assert found[-1] == [[0, 2], [1], [3, 4, 5, 6, 7]]
    shuffled = [branching_runs._tree(record, replace(settings, system="shuffled", seed=seed))
                for seed in range(3)]
    for tree in shuffled:
        assert [[len(one) for one in layer] for layer in tree] == [
            [len(one) for one in layer] for layer in found]
        BranchingVgg(8, 48, thin_widths(2)).take_groups(tree)  # it is a tree
    assert len({str(tree) for tree in [found, *shuffled]}) == 4


def test_run_many_trains_each_run_once_and_first_what_others_start_from(settings, places):
    order = []
    queue = [replace(settings, system=system) for system in
             ("shuffled", "branched", "thin", "retrained", "wide")]
    queue[-1] = queue[0].wide
    records = run_many(queue, places, runner=run_branching,
                       on_done=lambda done, _: order.append(done.system))
    assert order == ["wide", "branched", "thin", "shuffled", "retrained"]
    assert [record["settings"]["system"] for record in records] == [
        "shuffled", "branched", "thin", "retrained", "wide"]
    assert len(list(Path(places.results_dir).iterdir())) == 5


def test_runs_on_files_are_done_side_by_side_too(settings, places, tmp_path):
    root = small_celeba.write(tmp_path / "celeba", small_celeba.official())
    settings = replace(settings, dataset="celeba", tasks=tuple(small_celeba.ATTRIBUTES[:2]),
                       system="thin", scales=True, epochs=1, batches_per_epoch=1, ucr_every=1)
    records = run_many([settings, settings.wide], replace(places, data_root=str(root), workers=2),
                       runner=run_branching)
    assert [one["settings"]["system"] for one in records] == ["thin", "wide"]
    assert records[0]["results"]["trunk_from"] == records[1]["name"]
    assert records[0]["data"]["images"] == {"train": 12, "valid": 6, "test": 6}


def test_a_record_enters_the_table_of_all_measurements(settings, places):
    record = run_branching(settings, places)
    table = tidy_table(places.results_dir)
    table = table[table.record == record["name"]]
    [value] = table.query("measure == 'top_recall'").value
    assert value == record["results"]["top_recall"]
    assert {"test_accuracy", "parameters_weights", "milliseconds_vgg16"} <= set(table.measure)


def test_a_split_that_cannot_be_scored_is_refused_before_training(
        settings, places, planted, monkeypatch):
    labels_NT = planted.labels_NT.copy()
    labels_NT[planted.indices("test"), 1] = True
    monkeypatch.setattr(branching_runs, "load_data",
                        lambda *_: replace(planted, labels_NT=labels_NT))
    with pytest.raises(ModlibError, match="'Mouth_Slightly_Open' in the test split"):
        run_branching(settings, places)
    assert not list(Path(places.checkpoint_dir).glob("*.pt"))
