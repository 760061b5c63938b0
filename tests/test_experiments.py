"""A run leaves a full record, is never done twice, survives being killed, and runs in any pool."""

import json
import platform
import re
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from modlib import experiments, kept_runs, training
from modlib.arrays import from_json
from modlib.batches import image_getter
from modlib.classification import ClassifierSettings, run_classifier
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, final_results, triplet_accuracy, triplets_digest
from modlib.experiments import load_data, new_network, run, run_many, trained_network
from modlib.kept_runs import checkpoint_path, kept_record, record_path
from modlib.later_tasks import with_added_tasks
from modlib.modulation import ChannelScale
from modlib.networks import SYSTEMS, build_network
from modlib.results import comparable, read_record, write_record
from modlib.retrieval import retrieval_scores
from modlib.settings import Places
from modlib.triplets import fixed_triplets

ARCHIVE = Path(__file__).parents[2] / "shared/data/celeba-19k.zip"
CPU = torch.device("cpu")


def elsewhere(places, tmp_path) -> Places:
    """The same places, but for records and checkpoints of their own."""
    return replace(places, results_dir=str(tmp_path / "other/records"),
                   checkpoint_dir=str(tmp_path / "other/checkpoints"))


def record_files(places) -> list[Path]:
    return list(Path(places.results_dir).glob("*"))


# Records

def test_a_run_writes_the_record_that_it_returns(loaded, tiny, places):
    record = run(tiny, places)
    [path] = record_files(places)
    assert path.name == f"{tiny.run_name(loaded.fingerprint)}.json"
    assert read_record(path) == record


def test_a_record_holds_what_was_run_on_what(loaded, tiny, places):
    record = run(tiny, places)
    assert record["status"] == "done"
    assert record["name"] == tiny.run_name(loaded.fingerprint)
    assert record["settings"] == json.loads(json.dumps(asdict(tiny)))
    assert record["settings"]["seed"] == 0
    assert record["data"] == {
        "fingerprint": loaded.fingerprint, "source": "planted images",
        "images": {"train": 30, "valid": 30, "test": 30}}


def test_a_record_holds_every_tasks_metrics_of_every_epoch(loaded, tiny, places):
    record = run(tiny, places)
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    for epoch in record["epochs"]:
        assert set(epoch["task_losses"]) == set(epoch["valid_accuracy"]) == set(tiny.tasks)
        assert [counts["positive"] + counts["negative"] + counts["zero"]
                for counts in epoch["ucr"]] == [1, 1, 1]
    assert all(0 <= record["results"]["test_accuracy"][task] <= 1 for task in tiny.tasks)


def test_a_record_says_where_and_how_fast_it_ran(loaded, tiny, places):
    ran = run(tiny, places)["run"]
    assert set(ran["versions"]) == {"python", "torch", "torchvision", "numpy", "modlib"}
    assert ran["versions"]["python"] == platform.python_version()
    assert torch.__version__.startswith(ran["versions"]["torch"])
    assert ran["device"].startswith("cpu (1 threads of ")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", ran["git_commit"])
    assert ran["last_session_seconds"] >= ran["training_seconds"] > 0


def test_a_run_asks_torch_for_the_same_result_every_time(loaded, tiny, places):
    run(tiny, places)
    assert torch.are_deterministic_algorithms_enabled()


def test_progress_is_told_as_epochs_end(loaded, tiny, places):
    told = []
    record = run(tiny, places, lambda settings, metrics: told.append((settings, metrics)))
    assert told == [(tiny, epoch) for epoch in record["epochs"]]


def test_the_same_settings_give_the_same_record_anywhere(loaded, tiny, places, tmp_path):
    one, other = run(tiny, places), run(tiny, elsewhere(places, tmp_path))
    assert comparable(one) == comparable(other)
    assert one["run"] != other["run"]  # both were really run


def test_the_network_is_built_as_the_settings_say(loaded, tiny, places, monkeypatch):
    settings = replace(tiny, modulate_from=5, bn_decay=0.5, seed=3)
    given = []

    def look(network, *_):
        given.append(network)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "train", look)
    with pytest.raises(KeyboardInterrupt):
        run(settings, places)
    expected = build_network("modulated", tiny.tasks, image_size=48, width=0.1, modulate_from=5,
                             embedding_size=16, bn_decay=0.5, seed=3)
    assert str(given[0]) == str(expected)
    torch.testing.assert_close(given[0].state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.fixture
def compilations(monkeypatch):
    """What torch.compile was asked for; nothing is compiled."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function: asked.append(function) or function)
    return asked


def test_both_ways_into_a_network_are_compiled_when_asked_for(tiny, compilations):
    new_network(tiny)
    assert compilations == []
    network = new_network(replace(tiny, compiled=True, ucr_every=0))
    assert compilations == [network.forward, network.embed_all_tasks]
    assert [function.__func__ for function in compilations] == [
        type(network).forward, type(network).embed_all_tasks]


@pytest.mark.parametrize("system", SYSTEMS)
def test_compiling_changes_no_weight_and_no_name_in_the_state(tiny, system, compilations):
    settings = replace(tiny, system=system, ucr_every=0)
    plain, compiled = (new_network(replace(settings, compiled=compiled)).state_dict()
                       for compiled in (False, True))
    assert list(compiled) == list(plain)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0)


def test_a_compiled_run_leaves_a_plain_runs_checkpoint_and_results(
        loaded, tiny, places, compilations):
    records, names = [], []
    for settings in (tiny, replace(tiny, compiled=True, ucr_every=0)):
        records.append(run(settings, places))
        checkpoint = torch.load(checkpoint_path(settings, places, loaded.fingerprint))
        names.append(list(checkpoint["network"]))
    assert len(compilations) == 2
    assert names[0] == names[1]
    assert records[0]["name"] != records[1]["name"]
    assert records[0]["results"] == records[1]["results"]


@pytest.mark.parametrize("system", ["csn", "branches", "modulated"])
def test_a_compiled_network_embeds_for_all_tasks_as_itself(tiny, system, monkeypatch):
    """By the compiler's front end alone: what follows it takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    settings, images = replace(tiny, system=system), torch.zeros(6, 3, 48, 48)
    images += torch.arange(6.0)[:, None, None, None] * torch.linspace(0, 40, 48)
    compiled, plain = (new_network(replace(settings, compiled=value, ucr_every=0)).eval()
                       for value in (True, False))
    torch.testing.assert_close(compiled.embed_all_tasks(images), plain.embed_all_tasks(images))


def test_another_seed_gives_another_record(loaded, tiny, places):
    one, other = run(tiny, places), run(replace(tiny, seed=1), places)
    assert len(record_files(places)) == 2
    assert one["epochs"][0]["loss"] != other["epochs"][0]["loss"]


def test_relative_places_start_at_the_projects_root(loaded, tiny, tmp_path, monkeypatch):
    for folder in ("modlib", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    record = run(tiny, Places(device="cpu"))
    assert (tmp_path / "runs/records" / f"{record['name']}.json").exists()
    assert (tmp_path / "runs/checkpoints" / f"{record['name']}.pt").exists()


# Final results

def results_of(network, data, settings):
    triplets = fixed_triplets(data.labels_NT, data.indices("test"), data.tasks, 40, seed=2)
    return final_results(network, data, settings, image_getter(data, CPU), triplets)


def test_test_accuracy_is_that_on_the_test_split_of_the_network_at_the_end(loaded, tiny, places):
    record = run(tiny, places)
    network = build_network("modulated", tiny.tasks, 48, 0.1, embedding_size=16)
    checkpoint = torch.load(Path(places.checkpoint_dir) / f"{record['name']}.pt")
    network.load_state_dict(checkpoint["network"])
    test = loaded.indices("test")
    triplets = fixed_triplets(loaded.labels_NT, test, loaded.tasks, 40, seed=2)
    embeddings = embed_images(network, image_getter(loaded, CPU), torch.from_numpy(test))
    accuracy = triplet_accuracy(embeddings, torch.from_numpy(triplets - test[0]))
    assert list(record["results"]["test_accuracy"].values()) == accuracy.tolist()


def test_a_split_that_cannot_be_tested_on_is_told_before_training(
        tiny, places, planted, monkeypatch):
    labels_NT = planted.labels_NT.copy()
    labels_NT[planted.indices("test"), 2] = False
    monkeypatch.setattr(
        experiments, "load_data", lambda *_: replace(planted, labels_NT=labels_NT))
    monkeypatch.setattr(experiments, "train", None)
    with pytest.raises(ModlibError, match="'Young' in the test split"):
        run(tiny, places)


def test_w_distance_is_between_the_scales_that_relu_leaves(loaded, tiny):
    network = build_network("modulated", tiny.tasks, 48, 0.1, embedding_size=16)
    scales = 13 + 13 + 16  # block4, block5, fc
    with torch.no_grad():
        network.modulation["fc"].weight[0, :4] = torch.tensor([3.0, -2.0, 0.0, 1.0])
    results = results_of(network, loaded, tiny)
    first, second, third = results["w_distance"]
    mean = (2 + 1 + 1) / scales
    assert first["tasks"] == ["Smiling", "Mouth_Slightly_Open"]
    assert first["mean"] == pytest.approx(mean)
    assert first["variance"] == pytest.approx((4 + 1 + 1) / scales - mean**2)
    assert second["mean"] == pytest.approx(mean)
    assert third == {"tasks": ["Mouth_Slightly_Open", "Young"], "mean": 0.0, "variance": 0.0}
    assert results["dead_scales"] == 2


def with_scales_of_both_signs(settings):
    network = new_network(settings)
    generator = torch.Generator().manual_seed(6)
    for module in network.modules():
        if isinstance(module, ChannelScale):
            torch.nn.init.uniform_(module.weight, -0.5, 2.0, generator=generator)
    return network


@pytest.mark.parametrize(("changes", "names"), [
    ({"system": "modulated"}, ["block4", "block5", "fc"]),
    ({"system": "modulated", "signed_scales": True}, ["block4", "block5", "fc"]),
    ({"system": "modulated", "modulate_from": 5}, ["block5", "fc"]),
    ({"system": "mask_only"}, ["block4", "block5", "fc"]), ({"system": "csn"}, ["fc"]),
    ({"system": "modulated_branches"}, ["block4", "block5"])])
def test_the_scales_that_are_kept_are_the_networks(loaded, tiny, changes, names):
    settings = replace(tiny, **changes)
    network = with_scales_of_both_signs(settings)
    results = json.loads(json.dumps(results_of(network, loaded, settings)))
    assert list(results["scales"]) == names
    dead = 0
    for name in names:
        weight = network.modulation[name].weight.detach()
        expected = weight if settings.signed_scales else weight.clamp(min=0)
        assert np.array_equal(from_json(results["scales"][name]), expected.numpy())
        dead += 0 if settings.signed_scales else int((weight <= 0).sum())
    assert results["dead_scales"] == dead
    assert (dead > 0) is not settings.signed_scales


@pytest.mark.parametrize("system", ["modulated", "branches", "independent"])
def test_the_triplets_that_are_kept_are_those_of_the_test_accuracy(loaded, tiny, system):
    settings = replace(tiny, system=system)
    network, test = with_scales_of_both_signs(settings), loaded.indices("test")
    results = json.loads(json.dumps(results_of(network, loaded, settings)))
    correct_TK = from_json(results["test_triplets"]["correct"])
    assert (correct_TK.shape, correct_TK.dtype) == ((3, 40), bool)
    assert 0 < correct_TK.mean() < 1
    assert correct_TK.mean(1).tolist() == pytest.approx(
        [results["test_accuracy"][task] for task in tiny.tasks], abs=1e-12)
    embeddings = embed_images(network, image_getter(loaded, CPU), torch.from_numpy(test))
    triplets = fixed_triplets(loaded.labels_NT, test, loaded.tasks, 40, seed=2) - test[0]
    for task, embeddings_ND in enumerate(embeddings):
        for k, (anchor, positive, negative) in enumerate(triplets[task]):
            near, far = ((embeddings_ND[anchor] - embeddings_ND[other]).square().sum()
                         for other in (positive, negative))
            assert bool(near < far) == correct_TK[task, k]
    assert results["test_triplets"]["digest"] == triplets_digest(triplets)


def test_the_labels_that_are_kept_are_the_test_splits(loaded, tiny):
    kept = results_of(new_network(tiny), loaded, tiny)["test_triplets"]["labels"]
    assert np.array_equal(from_json(kept), loaded.labels_NT[60:])


@pytest.mark.parametrize("system", ["modulated", "branches"])
def test_retrieval_is_that_of_the_whole_test_split(loaded, tiny, system):
    settings = replace(tiny, system=system)
    network, test = with_scales_of_both_signs(settings), loaded.indices("test")
    given = json.loads(json.dumps(results_of(network, loaded, settings)))["retrieval"]
    embeddings = embed_images(network, image_getter(loaded, CPU), torch.from_numpy(test))
    labels_NT = loaded.labels_NT[60:]
    assert [given[task]["queries"] for task in tiny.tasks] == labels_NT.sum(0).tolist()
    assert given == retrieval_scores(embeddings, torch.from_numpy(labels_NT), tiny.tasks)


OWN = {  # numbers a task has for itself; a trunk of width 0.1 has 13 channels, and 16 at its end
    "fully_shared": 0, "csn": 16, "branches": 16 * 256, "mask_only": 13 + 13 + 16,
    "modulated": 13 + 13 + 16, "projection": 13 * 13 + 13 * 13 + 16 * 16,
    "modulated_branches": 13 + 13 + 16 * 256, "low_rank": (1 + 2 * 4) * (13 + 13 + 16)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_parameters_are_counted_by_what_they_serve(loaded, tiny, system):
    def counted(system):
        settings = replace(tiny, system=system)
        return results_of(new_network(settings), loaded, settings)["parameters"]

    trunk = counted("fully_shared")["total"]
    if system == "independent":
        expected = {"total": 3 * trunk, "shared": 0, "task": 3 * trunk}
    else:  # a frozen trunk is shared too
        expected = {"total": trunk + 3 * OWN[system], "shared": trunk, "task": 3 * OWN[system]}
    assert counted(system) == expected


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_systems_with_scales_tell_of_scales(loaded, tiny, system):
    settings = replace(tiny, system=system)
    results = results_of(new_network(settings), loaded, settings)
    with_scales = system in ("csn", "mask_only", "modulated", "modulated_branches")
    assert set(results) == {"test_accuracy", "test_triplets", "retrieval", "parameters"} | (
        {"scales", "dead_scales", "w_distance"} if with_scales else set())


# Runs that are not tested

@pytest.fixture
def untested(tiny):
    return replace(tiny, final_test=False)


def test_without_a_final_test_the_results_are_parameters_alone_and_training_is_as_ever(
        loaded, tiny, untested, places):
    tested, record = run(tiny, places), run(untested, places)
    assert record["results"] == {"parameters": tested["results"]["parameters"]}
    assert comparable(record)["epochs"] == comparable(tested)["epochs"]
    assert record["settings"] == tested["settings"] | {"final_test": False}
    assert record["name"] != tested["name"]
    assert run(untested, places) == record


def test_without_a_final_test_probes_are_kept_too(loaded, tiny, untested, places):
    tested, record = (run(replace(one, final_probes=1), places) for one in (tiny, untested))
    assert record["results"] == {
        key: tested["results"][key] for key in ("probes", "parameters")}


def test_without_a_final_test_the_run_of_the_trunk_is_not_tested_either(loaded, untested, places):
    masks = replace(untested, system="mask_only", branch_size=8)
    branches = replace(masks, system="branches")
    record = run(masks, places)
    assert set(record["results"]) == {"parameters", "trunk_from"}
    assert record["results"]["trunk_from"] == branches.run_name(loaded.fingerprint)
    trunk = read_record(record_path(branches, places, loaded.fingerprint))
    assert set(trunk["results"]) == {"parameters"}


@pytest.mark.parametrize("changes", [
    {}, {"final_probes": 1}, {"system": "mask_only", "branch_size": 8}])
def test_without_a_final_test_the_test_split_is_never_read(
        tiny, places, planted, tmp_path, monkeypatch, changes):
    """Other images and labels in it, of which no triplet can be drawn, make no difference."""
    test, seen = planted.indices("test"), set()
    images_NCHW, labels_NT = planted.images_NCHW.copy(), planted.labels_NT.copy()
    images_NCHW[test] = 255 - images_NCHW[test]
    labels_NT[test] = ~labels_NT[test]
    labels_NT[test, 2] = False
    other = replace(planted, images_NCHW=images_NCHW, labels_NT=labels_NT)

    def getter_that_tells(data, device):
        get_images = image_getter(data, device)
        return lambda indices: seen.update(indices.tolist()) or get_images(indices)

    monkeypatch.setattr(experiments, "image_getter", getter_that_tells)
    settings, records = replace(tiny, final_test=False, **changes), []
    for data, where in ((planted, places), (other, elsewhere(places, tmp_path))):
        monkeypatch.setattr(experiments, "load_data", lambda *_, data=data: data)
        records.append(run(settings, where))
    assert comparables(records[:1]) == comparables(records[1:])
    assert not seen & set(test.tolist())
    assert seen >= set(planted.indices("valid").tolist())
    with pytest.raises(ModlibError, match="'Young' in the test split"):
        run(replace(settings, final_test=True), elsewhere(places, tmp_path))
    monkeypatch.setattr(experiments, "load_data", lambda *_: planted)
    run(replace(settings, final_test=True), places)
    assert seen >= set(test.tolist())  # a final test would have been seen


# Masks on a trained trunk

@pytest.fixture
def masks(tiny):
    return replace(tiny, system="mask_only", branch_size=8)


def weights_in(checkpoint: Path, part: str) -> dict[str, torch.Tensor]:
    network = torch.load(checkpoint)["network"]
    return {name: value for name, value in network.items() if name.startswith(part)}


def test_masks_are_learned_on_the_trunk_that_branches_trained(loaded, masks, places):
    record = run(masks, places)
    branches = replace(masks, system="branches")
    assert {path.name for path in record_files(places)} == {
        f"{one.run_name(loaded.fingerprint)}.json" for one in (masks, branches)}
    assert record["results"]["trunk_from"] == branches.run_name(loaded.fingerprint)
    own, trained = (
        checkpoint_path(one, places, loaded.fingerprint) for one in (masks, branches))
    trunk = weights_in(trained, "stages.")
    assert trunk.keys() == weights_in(own, "stages.").keys()
    for name, value in weights_in(own, "stages.").items():  # after training the masks, too
        assert torch.equal(value, trunk[name]), name
    for name, value in new_network(branches).stages.state_dict().items():
        assert not torch.equal(value, trunk[f"stages.{name}"]), name
    assert all((value != 1).any() for value in weights_in(own, "modulation.").values())


def test_the_branches_record_is_that_of_a_run_of_their_own(loaded, masks, places, tmp_path):
    run(masks, places)
    branches = replace(masks, system="branches")
    made = read_record(record_path(branches, places, loaded.fingerprint))
    assert comparable(made) == comparable(run(branches, elsewhere(places, tmp_path)))


def test_only_systems_on_a_trained_trunk_say_where_it_is_from(loaded, tiny, places):
    assert "trunk_from" not in run(replace(tiny, system="branches"), places)["results"]


@pytest.fixture
def trained_epochs(monkeypatch) -> list[tuple[str, int]]:
    """The system and number of every epoch that is really trained."""
    epochs, train_one_epoch = [], training.train_one_epoch

    def train_and_tell(*arguments):
        epochs.append((arguments[-2].system, arguments[-1]))
        return train_one_epoch(*arguments)

    monkeypatch.setattr(training, "train_one_epoch", train_and_tell)
    return epochs


MASKS, BRANCHES = ([(system, 0), (system, 1)] for system in ("mask_only", "branches"))


def test_branches_that_are_trained_are_not_trained_again(loaded, masks, places, trained_epochs):
    run(replace(masks, system="branches"), places)
    assert trained_epochs == BRANCHES
    first = run(masks, places)
    assert trained_epochs == BRANCHES + MASKS
    assert run(masks, places) == first
    assert trained_epochs == BRANCHES + MASKS


def test_branches_whose_checkpoint_is_gone_are_trained_again_to_the_same(
        loaded, masks, places, tmp_path, trained_epochs):
    branches = replace(masks, system="branches")
    first = run(branches, places)
    checkpoint_path(branches, places, loaded.fingerprint).unlink()
    record = run(masks, places)
    assert trained_epochs == BRANCHES + BRANCHES + MASKS
    assert read_record(record_path(branches, places, loaded.fingerprint)) == first
    assert comparable(record) == comparable(run(masks, elsewhere(places, tmp_path)))


def test_branches_cut_halfway_go_on_before_the_masks(
        loaded, masks, places, tmp_path, trained_epochs):
    with pytest.raises(KeyboardInterrupt):
        run(replace(masks, system="branches"), places, cut_off)
    record = run(masks, places)
    assert trained_epochs == BRANCHES + MASKS
    assert comparable(record) == comparable(run(masks, elsewhere(places, tmp_path)))


def test_masks_cut_halfway_go_on_to_the_record_of_an_unbroken_run(
        loaded, masks, places, tmp_path, trained_epochs):
    with pytest.raises(KeyboardInterrupt):
        run(masks, places, cut_off)
    assert trained_epochs == [*BRANCHES, ("mask_only", 0)]  # told of the masks' epochs alone
    record = run(masks, places)
    assert trained_epochs == [*BRANCHES, *MASKS]
    assert comparable(record) == comparable(run(masks, elsewhere(places, tmp_path)))


# Done runs, killed runs

# Tasks that are added to a modulated trunk

@pytest.fixture
def addition(tiny):
    """Young, on the trunk of a network that learned smile and mouth open."""
    return replace(tiny, system="mask_only", tasks=("Young",), trunk_system="modulated",
                   trunk_tasks=("Smiling", "Mouth_Slightly_Open"))


def data_for(loaded, settings):
    columns = [loaded.tasks.index(task) for task in settings.tasks]
    return replace(loaded, tasks=settings.tasks, labels_NT=loaded.labels_NT[:, columns])


def test_added_tasks_first_have_the_run_done_that_their_trunk_comes_from(
        loaded, addition, places, tmp_path, trained_epochs):
    record, base = run(addition, places), addition.trunk_from
    assert (base.system, base.tasks) == ("modulated", ("Smiling", "Mouth_Slightly_Open"))
    assert trained_epochs == [("modulated", 0), ("modulated", 1), *MASKS]
    assert record["results"]["trunk_from"] == base.run_name(loaded.fingerprint)
    assert list(record["results"]["test_accuracy"]) == ["Young"]
    made = read_record(record_path(base, places, loaded.fingerprint))
    assert comparable(made) == comparable(run(base, elsewhere(places, tmp_path)))


def test_the_added_runs_trunk_is_the_base_runs_to_the_last_bit(loaded, addition, places):
    run(addition, places)
    own, base = (checkpoint_path(one, places, loaded.fingerprint)
                 for one in (addition, addition.trunk_from))
    trunk = weights_in(base, "stages.")
    assert trunk.keys() == weights_in(own, "stages.").keys()
    for name, value in weights_in(own, "stages.").items():
        assert torch.equal(value, trunk[name]), name
    fresh = new_network(addition.trunk_from).state_dict()
    assert all(not torch.equal(value, fresh[name]) for name, value in trunk.items())
    scales = weights_in(own, "modulation.")
    assert all(value.shape[0] == 1 and (value != 1).any() for value in scales.values())


def test_old_and_added_tasks_have_one_network_and_the_embeddings_of_their_own_runs(
        loaded, addition, places):
    """By the trunk's last checkpoint and that of the addition, to the last bit."""
    record, base = run(addition, places), addition.trunk_from
    get_images = image_getter(loaded, CPU)
    before = trained_network(base, places, data_for(loaded, base), get_images).eval()
    data = data_for(loaded, addition)
    added = trained_network(addition, places, data, get_images).eval()
    joint = with_added_tasks(before, added).eval()
    images = get_images(torch.from_numpy(loaded.indices("test")))
    with torch.no_grad():
        for task, (network, place) in enumerate([(before, 0), (before, 1), (added, 0)]):
            expected = network(images, torch.full((len(images),), place))
            assert torch.equal(joint(images, torch.full((len(images),), task)), expected)
    triplets = fixed_triplets(data.labels_NT, data.indices("test"), data.tasks,
                              addition.test_triplets, 2)
    results = final_results(added, data, addition, get_images, triplets)
    assert {key: record["results"][key] for key in results} == results


def test_an_addition_without_its_checkpoint_is_trained_again_on_its_trunk(
        loaded, addition, places):
    run(addition, places)
    data, get_images = data_for(loaded, addition), image_getter(loaded, CPU)
    first = trained_network(addition, places, data, get_images).state_dict()
    checkpoint_path(addition, places, data.fingerprint).unlink()
    again = trained_network(addition, places, data, get_images).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_one_base_serves_many_additions(loaded, addition, places, trained_epochs):
    run(addition, places)
    run(replace(addition, tasks=("Smiling",)), places)
    assert trained_epochs == [("modulated", 0), ("modulated", 1), *MASKS, *MASKS]


def test_a_run_that_is_done_is_not_done_again(loaded, tiny, places, monkeypatch):
    first = run(tiny, places)
    monkeypatch.setattr(experiments, "train", None)
    assert run(tiny, places) == first


def test_a_broken_record_is_not_taken_for_a_done_run(loaded, tiny, places):
    run(tiny, places)
    [path] = record_files(places)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ModlibError, match=re.escape(str(path))):
        run(tiny, places)


KILLED = """
import json, os, signal, sys
import torch
from modlib import experiments, kept_runs, training
from modlib.settings import Places, Settings

set_rates = training.set_rates

def set_rates_or_die(optimiser, settings, epoch, number, batches):
    if (epoch, number) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    set_rates(optimiser, settings, epoch, number, batches)

torch.set_num_threads(1)
training.set_rates = set_rates_or_die
experiments.run(Settings(**json.loads(sys.argv[1])), Places(**json.loads(sys.argv[2])))
"""


def test_a_run_killed_midway_goes_on_to_the_record_of_an_unbroken_one(
        tiny, places, tmp_path, monkeypatch):
    """SIGKILL before the second batch of the second epoch, after the first checkpoint."""
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(asdict(tiny)), json.dumps(asdict(places))],
        cwd=Path(__file__).parents[1], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert record_files(places) == []
    unbroken = run(tiny, elsewhere(places, tmp_path))
    trained = []
    train_one_epoch = training.train_one_epoch
    monkeypatch.setattr(training, "train_one_epoch", lambda *arguments: (
        trained.append(arguments[-1]) or train_one_epoch(*arguments)))
    assert comparable(run(tiny, places)) == comparable(unbroken)
    assert trained == [1]  # the first epoch came from the checkpoint


def test_a_run_cut_after_training_needs_no_more_training(
        loaded, tiny, places, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(experiments, "final_results", cut_off)
        run(tiny, places)
    unbroken = run(tiny, elsewhere(places, tmp_path))
    monkeypatch.setattr(training, "train_one_epoch", None)
    assert comparable(run(tiny, places)) == comparable(unbroken)


def cut_off(*_):
    raise KeyboardInterrupt


# Records of any kind of work

def test_a_record_is_kept_of_the_work_that_is_done(loaded, tiny, places):
    given, epochs = [], [{"epoch": 1, "loss": 0.5, "images": 18, "seconds": 2.0}]

    def work(checkpoint, device):
        given.append((checkpoint, device))
        return epochs, {"found": 3}

    record = kept_record(tiny, places, loaded, work)
    name = tiny.run_name(loaded.fingerprint)
    assert given == [(Path(places.checkpoint_dir) / f"{name}.pt", CPU)]
    assert (record["name"], record["results"], record["epochs"]) == (name, {"found": 3}, epochs)
    assert record["run"]["training_seconds"] == 2.0
    assert read_record(record_path(tiny, places, loaded.fingerprint)) == record
    assert kept_record(tiny, places, loaded, None) == record  # read, not worked for again


def test_a_record_that_lies_in_another_runs_place_is_refused(loaded, tiny, places):
    """By its name, or, where that was changed too, by its settings."""
    other, path = replace(tiny, seed=1), record_path(tiny, places, loaded.fingerprint)
    epochs = [{"epoch": 1, "images": 18, "seconds": 2.0}]
    kept_record(other, places, loaded, lambda *_: (epochs, {}))
    record = read_record(record_path(other, places, loaded.fingerprint))
    write_record(path, record)
    with pytest.raises(ModlibError, match=f"{path.name} calls itself {record['name']}"):
        kept_record(tiny, places, loaded, None)
    write_record(path, record | {"name": path.stem})
    with pytest.raises(ModlibError, match=f"{path.stem}: by its settings .* {record['name']}"):
        kept_record(tiny, places, loaded, None)


def test_a_run_that_the_books_table_could_not_show_is_refused_before_its_work(
    loaded, untested, places, tmp_path, monkeypatch
):
    """Records of other images lie there under its profile; elsewhere, or of another, it is done."""
    monkeypatch.setattr(kept_runs, "resolve", lambda path: tmp_path / path)
    published = replace(places, results_dir="book/results/mine", checkpoint_dir="checkpoints")
    untested = replace(untested, epochs=1)
    epochs = [{"epoch": 1, "images": 18, "seconds": 2.0}]

    def work(*_):
        return epochs, {}

    kept_record(untested, published, loaded, work)
    kept_record(replace(untested, seed=1), published, loaded, work)  # of the same images
    others, seed_2 = replace(loaded, source="other faces"), replace(untested, seed=2)
    with pytest.raises(ModlibError, match=r"of other images .* yours 'other faces'"):
        kept_record(seed_2, published, others, None)
    with pytest.raises(ModlibError, match="of other pixels or labels"):
        kept_record(seed_2, published, replace(loaded, fingerprint="other"), None)
    kept_record(replace(seed_2, profile="another"), published, others, work)
    kept_record(seed_2, replace(published, results_dir="runs/records/mine"), others, work)


def test_work_that_fails_leaves_no_record(loaded, tiny, places):
    with pytest.raises(KeyboardInterrupt):
        kept_record(tiny, places, loaded, cut_off)
    assert record_files(places) == []


def test_records_and_checkpoints_are_where_places_say_under_the_runs_name(tiny, places):
    name = tiny.run_name("data")
    assert record_path(tiny, places, "data") == Path(places.results_dir) / f"{name}.json"
    assert checkpoint_path(tiny, places, "data") == Path(places.checkpoint_dir) / f"{name}.pt"


# Many runs

@pytest.fixture
def three(tiny):
    """Three short runs whose order is not that of their names."""
    return [replace(tiny, epochs=1, seed=2), replace(tiny, epochs=1, system="independent"),
            replace(tiny, epochs=1, seed=1, tasks=("Young", "Smiling"))]


def by_seed(told):
    return told[0].seed


def comparables(records):
    return [comparable(record) for record in records]


def test_many_runs_give_the_records_of_single_runs_in_order(loaded, three, places, tmp_path):
    single = [run(one, elsewhere(places, tmp_path)) for one in three]
    assert comparables(run_many(three, places)) == comparables(single)


def test_many_runs_tell_of_epochs_and_records_as_they_come(loaded, three, places):
    epochs, done = [], []
    records = run_many(iter(three), places, None,
                       lambda settings, metrics: epochs.append((settings, metrics)),
                       lambda settings, record: done.append((settings, record)))
    assert done == list(zip(three, records, strict=True))
    assert epochs == [(one, record["epochs"][0])
                      for one, record in zip(three, records, strict=True)]


def test_many_runs_on_a_given_executor_give_the_same_records(loaded, three, places, tmp_path):
    done = []
    with ThreadPoolExecutor(2) as pool:
        records = run_many(three, places, pool, on_done=lambda *told: done.append(told))
    assert comparables(records) == comparables(run_many(three, elsewhere(places, tmp_path)))
    assert sorted(done, key=by_seed) == sorted(zip(three, records, strict=True), key=by_seed)


def test_many_runs_in_worker_processes_give_the_same_records(three, places, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "available_cores", lambda: 2)  # one thread a worker, as here
    done = []
    records = run_many(
        three, replace(places, workers=2), on_done=lambda *told: done.append(told))
    assert comparables(records) == comparables(run_many(three, elsewhere(places, tmp_path)))
    assert sorted(done, key=by_seed) == sorted(zip(three, records, strict=True), key=by_seed)


def test_records_are_in_order_whichever_run_ends_first(tiny, places):
    ended = [Event() for _ in range(4)]
    ended[3].set()

    def run_after_the_next(settings, places):
        ended[settings.seed + 1].wait(30)
        ended[settings.seed].set()
        return settings.seed

    with ThreadPoolExecutor(3) as pool:
        assert run_many([replace(tiny, seed=n) for n in range(3)], places, pool,
                        runner=run_after_the_next) == [0, 1, 2]


def test_a_failing_run_in_an_executor_is_named(loaded, tiny, places):
    with ThreadPoolExecutor(1) as pool, pytest.raises(ModlibError, match="device") as caught:
        run_many([tiny, replace(tiny, seed=5)], replace(places, device="gpu"), pool)
    assert "modulated on Smiling, Mouth_Slightly_Open, Young, seed 0" in caught.value.__notes__[0]


def test_after_a_failing_run_no_other_is_begun(tiny, places):
    begun, told = [], Event()

    def fail_first(settings, places):
        begun.append(settings.seed)
        if settings.seed == 0:
            raise ModlibError("the first fails")
        told.wait(30)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ModlibError, match="the first fails"):
            run_many([replace(tiny, seed=n) for n in range(4)], places, pool, runner=fail_first)
        told.set()
    assert begun in ([0], [0, 1])  # the second may have begun before the first was missed


def names(records):
    return [record["settings"]["system"] for record in records]


def test_runs_on_another_runs_trunk_are_done_last_and_returned_in_place(
        loaded, masks, places, trained_epochs):
    runs = [masks, replace(masks, system="branches"), replace(masks, system="fully_shared")]
    done = []
    records = run_many(runs, places, on_done=lambda settings, _: done.append(settings.system))
    assert names(records) == ["mask_only", "branches", "fully_shared"]
    assert done == ["branches", "fully_shared", "mask_only"]
    assert [epoch for epoch in trained_epochs if epoch[0] == "branches"] == BRANCHES  # once
    assert [run(one, places) for one in runs] == records


def test_an_executor_begins_runs_on_another_runs_trunk_when_the_others_have_ended(
        loaded, masks, places, tmp_path):
    runs = [masks, replace(masks, system="branches"), replace(masks, seed=1),
            replace(masks, system="branches", seed=1)]
    events, executor_run = [], run

    def told(settings, places):
        events.append(("begins", settings.system))
        record = executor_run(settings, places)
        events.append(("ends", settings.system))
        return record

    with ThreadPoolExecutor(2) as pool:
        records = run_many(runs, places, pool, runner=told)
    assert names(records) == ["mask_only", "branches", "mask_only", "branches"]
    assert [record["settings"]["seed"] for record in records] == [0, 0, 1, 1]
    assert [system for _, system in events] == ["branches"] * 4 + ["mask_only"] * 4
    assert comparables(records) == comparables(run_many(runs, elsewhere(places, tmp_path)))


def test_runs_on_another_runs_trunk_need_not_be_given_with_it(loaded, masks, places):
    with ThreadPoolExecutor(1) as pool:
        [record] = run_many([masks], places, pool)
    assert record["settings"]["system"] == "mask_only"
    assert len(record_files(places)) == 2


def test_another_kind_of_run_is_done_side_by_side_too(places, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "available_cores", lambda: 1)
    classifier = ClassifierSettings(
        tasks=("Smiling", "Wavy_Hair"), image_size=48, toy_images=120, batch_size=12, epochs=1,
        batches_per_epoch=1, precision="float32", ucr_every=0)
    runs = [replace(classifier, system="fully_shared", seed=2), classifier]
    told = []
    records = run_many(runs, elsewhere(places, tmp_path), None,
                       lambda settings, metrics: told.append((settings, metrics)),
                       runner=run_classifier)
    assert told == [(one, record["epochs"][0])
                    for one, record in zip(runs, records, strict=True)]
    assert names(records) == ["fully_shared", "modulated"]
    again = run_many(runs[:1], replace(places, workers=1), runner=run_classifier)
    assert comparables(again) == comparables(records[:1])


@pytest.mark.parametrize("workers", [0, 2])
def test_no_runs_give_no_records(places, workers):
    assert run_many([], replace(places, workers=workers)) == []


# Data and devices

@pytest.mark.parametrize("dataset", ["celeba", "zappos"])
def test_real_images_without_data_root_are_refused(tiny, places, dataset):
    with pytest.raises(ModlibError, match=rf"'{dataset}' needs data_root.*given None"):
        run(replace(tiny, dataset=dataset), places)


def test_a_data_root_that_does_not_exist_is_named(tiny, places, tmp_path):
    with pytest.raises(ModlibError, match=re.escape(str(tmp_path / "nowhere"))):
        run(replace(tiny, dataset="celeba"), replace(places, data_root=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("dataset", ["celeba", "zappos"])
def test_real_images_are_asked_for_as_settings_and_places_say(
        tiny, places, tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(experiments, f"load_{dataset}", lambda root, **given: (root, given))
    settings = replace(tiny, dataset=dataset, tasks=("Bald", "Young"), image_size=150,
                       crop=0.8)
    places = replace(places, data_root=str(tmp_path / "faces.zip"), skip_broken=True)
    assert load_data(settings, places) == (tmp_path / "faces.zip", {
        "tasks": ("Bald", "Young"), "image_size": 150, "cache_dir": tmp_path / "cache",
        "skip_broken": True, "crop": 0.8})


def test_toy_faces_are_as_many_as_large_and_as_labelled_as_set(tiny, places):
    data = load_data(replace(tiny, toy_images=60, image_size=50, tasks=("Young", "Bald")), places)
    assert data.images_NCHW.shape == (60, 3, 50, 50)
    assert data.tasks == ("Young", "Bald")


def test_an_unknown_device_is_refused(loaded, tiny, places):
    with pytest.raises(ModlibError, match="device must be auto, cpu or cuda; given 'gpu'"):
        run(tiny, replace(places, device="gpu"))
    assert record_files(places) == []


# Real images

@pytest.fixture
def some_of_celeba(tmp_path) -> Path:
    """An archive of CelebA's tables and of the first 90, 40 and 40 images of its splits."""
    if not ARCHIVE.exists():
        pytest.skip(f"needs the CelebA subset at {ARCHIVE}")
    with zipfile.ZipFile(ARCHIVE) as whole, zipfile.ZipFile(tmp_path / "some.zip", "w") as some:
        partition = whole.read("celeba/list_eval_partition.txt").decode().split()
        left = {"0": 90, "1": 40, "2": 40}
        for name, split in zip(partition[::2], partition[1::2], strict=True):
            if left[split]:
                left[split] -= 1
                image = f"celeba/img_align_celeba/{Path(name).stem}.webp"
                some.writestr(image, whole.read(image))
        for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
            some.writestr(f"celeba/{name}", whole.read(f"celeba/{name}"))
    return tmp_path / "some.zip"


def test_real_images_are_run_from_archive_to_record(some_of_celeba, tiny, places):
    settings = replace(tiny, dataset="celeba", epochs=1)
    record = run(settings, replace(places, data_root=str(some_of_celeba)))
    assert record["data"]["images"] == {"train": 90, "valid": 40, "test": 40}
    assert "170 images at 48×48" in record["data"]["source"]
    assert record["epochs"][0]["images"] == 2 * 18
    assert set(record["results"]["test_accuracy"]) == set(tiny.tasks)


def test_two_threads_give_the_same_record_again(loaded, tiny, places, tmp_path):
    # Without deterministic algorithms the scales' gradients differed in most repeats.
    settings = replace(tiny, width=0.25, embedding_size=256, batch_size=72, batches_per_epoch=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one, other = run(settings, places), run(settings, elsewhere(places, tmp_path))
    finally:
        torch.set_num_threads(threads)
    assert comparable(one) == comparable(other)


@pytest.mark.parametrize(("allowed", "workers", "each"), [
    (8, 2, 4), (8, 3, 2), (8, 16, 1), (1, 2, 1), (2, 2, 2), (3, 2, 3)])
def test_workers_share_the_cores_and_take_no_more_threads_than_torch_has_here(
        monkeypatch, tiny, places, allowed, workers, each):
    """Or two calls side by side, each told to take one thread, would fight over the cores."""
    def pools(rounds, threads):
        taken.append(threads)
        rounds.end(0, {})

    taken, threads = [], torch.get_num_threads()
    monkeypatch.setattr(experiments, "in_own_pools", pools)
    monkeypatch.setattr(experiments, "available_cores", lambda: 8)
    torch.set_num_threads(allowed)
    try:
        run_many([tiny], replace(places, workers=workers))
    finally:
        torch.set_num_threads(threads)
    assert taken == [each]


def test_a_failing_run_in_a_pool_is_named_and_no_other_is_begun(loaded, tiny, places):
    begun = []

    def fail_first(settings, places):
        begun.append(settings.seed)
        raise ModlibError("a planted failure")

    runs = [replace(tiny, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(1) as pool, pytest.raises(ModlibError) as failure:
        run_many(runs, places, pool, runner=fail_first)
    assert "modulated" in failure.value.__notes__[0] and "seed 0" in failure.value.__notes__[0]
    assert len(begun) < len(runs)


def test_what_is_of_this_machine_is_kept_with_the_run_and_not_with_the_results(
        tiny, places, planted):
    record = kept_record(tiny, places, planted, lambda *_: (
        [{"epoch": 1, "images": 9, "seconds": 2.0}], {"score": 1, "run": {"milliseconds": 3}}))
    assert record["results"] == {"score": 1}
    assert (record["run"]["milliseconds"], record["run"]["training_seconds"]) == (3, 2.0)


def test_real_faces_in_categories_are_run_to_a_record(some_of_celeba, tiny, places):
    settings = replace(tiny, dataset="celeba", epochs=1, tasks=("Mouth", "Hair"))
    record = run(settings, replace(places, data_root=str(some_of_celeba)))
    labels_NT = from_json(record["results"]["test_triplets"]["labels"])
    assert labels_NT.max(0).tolist() == [2, 4]
    assert set(record["results"]["test_accuracy"]) == {"Mouth", "Hair"}


# Categories, and triplets that came with the data

def test_a_run_on_categories_leaves_a_record_with_their_retrieval(
        categorised, tiny, places, monkeypatch):
    monkeypatch.setattr(experiments, "load_data", lambda *_: categorised)
    results = run(tiny, places)["results"]
    kept = from_json(results["test_triplets"]["labels"])
    assert (kept.dtype, kept.tolist()) == (np.int16, categorised.labels_NT[60:].tolist())
    assert "given" not in results["test_triplets"]
    assert all(score["queries"] > 20 for score in results["retrieval"].values())


def test_a_run_is_tested_on_the_triplets_that_came_with_the_data(
        given, tiny, places, monkeypatch):
    """Without labels there is no retrieval to score."""
    monkeypatch.setattr(experiments, "load_data", lambda *_: given)
    settings = replace(tiny, batching="triplets")
    record = run(settings, places)
    get_images, kept = image_getter(given, CPU), record["results"]["test_triplets"]
    network = trained_network(settings, places, given, get_images)
    positions = torch.from_numpy(given.triplets["test"] - 60)
    accuracy = triplet_accuracy(
        embed_images(network, get_images, torch.arange(60, 90)), positions)
    assert list(record["results"]["test_accuracy"].values()) == accuracy.tolist()
    assert kept["given"] is True
    assert kept["digest"] == triplets_digest(positions.numpy())
    assert {score["queries"] for score in record["results"]["retrieval"].values()} == {0}
