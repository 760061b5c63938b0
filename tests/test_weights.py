"""Weights come back to the last bit; what is missing, torn or does not fit is named."""

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fault_runs import SERVER, Calls, Fault
from safetensors.torch import load_file, save_file
from slow_networks import EVERY, SMALL, TASKS, pixels, small
from torchvision.models import resnet18

from modlib import packed_images, weights
from modlib.batches import image_getter
from modlib.classification import run_classifier
from modlib.classifiers import ClassifierSettings
from modlib.errors import ModlibError
from modlib.experiments import run, trained_network
from modlib.insertion import insert_modulation
from modlib.kept_runs import checkpoint_path
from modlib.settings import Settings
from modlib.trunk import PIXEL_MEAN_RGB, PIXEL_SCALE
from modlib.weights import (
    TrainedNetwork,
    load,
    load_inserted,
    network_of,
    save,
    save_inserted,
)


def trained(system="modulated", modulate_from=4, **changes) -> TrainedNetwork:
    """A small network of which nothing is at its initial value, with its settings."""
    network = small(system, modulate_from=modulate_from, **changes).eval()
    settings = Settings(system=system, tasks=TASKS, modulate_from=modulate_from,
                        bn_decay=0.995, **(SMALL | changes))
    return TrainedNetwork(network, settings, {"test_accuracy": {"Smiling": 0.5}})


def embeddings(network) -> torch.Tensor:
    with torch.no_grad():
        return network.embed_all_tasks(pixels(5))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(tensors: Path, change) -> None:
    """Change the tensors, with the digest in the JSON that belongs to what they are now."""
    state = load_file(tensors)
    change(state)
    save_file(state, tensors)
    edit(tensors.with_suffix(".json"),
         tensors_sha256=hashlib.sha256(tensors.read_bytes()).hexdigest())


@pytest.fixture
def saved(tmp_path):
    return save(trained(), tmp_path / "mine")


# There and back

@pytest.mark.parametrize(("system", "modulate_from"), EVERY)
def test_every_system_embeds_as_before_to_the_last_bit(tmp_path, system, modulate_from):
    before = trained(system, modulate_from)
    save(before, tmp_path / "mine")
    after = load(tmp_path / "mine")
    assert after.settings == before.settings and after.about == before.about
    assert not after.network.training
    assert torch.equal(embeddings(after.network), embeddings(before.network))
    assert embeddings(before.network).std(1).max() > 1e-3  # they tell images apart


@pytest.mark.parametrize("changes", [
    {"signed_scales": True}, {"system": "low_rank", "rank": 2}, {"width": 0.1},
    {"system": "branches", "branch_size": 3}, {"embedding_size": 5}, {"image_size": 64}])
def test_sizes_are_kept(tmp_path, changes):
    before = trained(**changes) if "image_size" not in changes else TrainedNetwork(
        weights.new_network(Settings(**SMALL | changes)).eval(), Settings(**SMALL | changes))
    save(before, tmp_path / "mine")
    assert load(tmp_path / "mine").settings == before.settings


def test_the_json_tells_what_the_network_is_and_what_it_takes(saved):
    about = json.loads(saved[1].read_text())
    assert (about["format"], about["kind"]) == (1, "network")
    assert about["settings"]["system"] == "modulated"
    assert about["settings"]["tasks"] == list(TASKS)
    assert about["preprocessing"] == {
        "input": "uint8 (B, 3, H, W), RGB, 0 to 255", "image_size": 48, "crop": 1.0,
        "resampling": "lanczos", "pixel_mean_rgb": list(PIXEL_MEAN_RGB),
        "pixel_scale": PIXEL_SCALE, "normalised_by": "the network"}
    assert about["test_accuracy"] == {"Smiling": 0.5}
    assert set(about["versions"]) == {"modlib", "torch", "safetensors"}


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".json"])
def test_either_file_names_the_pair(saved, suffix):
    assert load(saved[0].with_suffix(suffix)).settings == trained().settings


def test_a_dot_in_the_name_is_kept(tmp_path):
    files = save(trained(), tmp_path / "some" / "mine.v1")
    assert [file.name for file in files] == ["mine.v1.safetensors", "mine.v1.json"]
    assert load(tmp_path / "some" / "mine.v1").about == trained().about


def test_a_setting_that_is_newer_than_the_files_has_its_default(saved):
    settings = json.loads(saved[1].read_text())["settings"]
    edit(saved[1], settings={k: v for k, v in settings.items() if k != "signed_scales"})
    assert load(saved[0]).settings == trained().settings


def test_a_compiled_runs_network_is_saved_and_loaded_uncompiled(tmp_path):
    before = trained()
    compiled = replace(before.settings, compiled=True, ucr_every=0)
    save(TrainedNetwork(before.network, compiled), tmp_path / "mine")
    assert torch.equal(embeddings(load(tmp_path / "mine").network), embeddings(before.network))


# From a finished run

@pytest.mark.parametrize("system", ["modulated", "independent", "mask_only"])
def test_a_finished_runs_network_is_that_of_its_last_epoch(
        loaded, tiny, places, tmp_path, system):
    settings = replace(tiny, system=system)
    record = run(settings, places)
    found = network_of(json.loads(json.dumps(record)), places)
    expected = trained_network(settings, places, loaded,
                               image_getter(loaded, torch.device("cpu")))
    assert torch.equal(embeddings(found.network), embeddings(expected.eval()))
    assert found.about == {"record": record["name"], "data": record["data"],
                           "test_accuracy": record["results"]["test_accuracy"],
                           "git_commit": record["run"]["git_commit"]}
    save(found, tmp_path / "mine")
    again = load(tmp_path / "mine")
    assert torch.equal(embeddings(again.network), embeddings(found.network))
    assert (again.settings, again.about) == (settings, found.about)


def test_a_runs_weights_need_its_checkpoint_of_its_last_epoch(loaded, tiny, places):
    record = run(tiny, places)
    longer = replace(tiny, epochs=3)
    path = checkpoint_path(tiny, places, loaded.fingerprint)
    state = torch.load(path)
    other = checkpoint_path(longer, places, loaded.fingerprint)
    torch.save(state | {"identity": other.stem}, other)
    with pytest.raises(ModlibError, match=r"ends after epoch 2 of 3; run the same settings again"):
        network_of(record | {"name": other.stem, "settings": longer.as_dict()}, places)
    path.unlink()
    with pytest.raises(ModlibError, match=r"is not there; name the folder .*trained_network"):
        network_of(record, places)


def test_a_checkpoint_of_other_tensors_is_named(loaded, tiny, places):
    record = run(tiny, places)
    path = checkpoint_path(tiny, places, loaded.fingerprint)
    state = torch.load(path)
    state["network"].popitem()
    torch.save(state, path)
    with pytest.raises(ModlibError, match=r"^checkpoint .*\.pt lacks 1 tensors, .* its settings"):
        network_of(record, places)


def test_a_record_that_was_changed_or_is_of_another_kind_is_refused(loaded, tiny, places):
    record = run(tiny, places)
    with pytest.raises(ModlibError, match=r"the record of these settings and data is called"):
        network_of(record | {"settings": record["settings"] | {"seed": 9}}, places)
    classifier = run_classifier(ClassifierSettings(
        tasks=tiny.tasks, system="fully_shared", image_size=48, toy_images=150, batch_size=6,
        epochs=1, batches_per_epoch=1), places)
    with pytest.raises(ModlibError, match=r"classifier-.*: parameter 'modulate_after'"):
        network_of(classifier, places)


# What does not fit

@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_file_is_named(saved, which):
    saved[which].unlink()
    with pytest.raises(ModlibError, match=rf"^there is no file .*{saved[which].name}; a saved"):
        load(saved[0])


@pytest.mark.parametrize("name", ["", "nowhere", "nowhere/mine"])
def test_a_wrong_path_is_named(tmp_path, name):
    with pytest.raises(ModlibError, match=r"^there is no file .*safetensors"):
        load(tmp_path / name)


def test_a_missing_tensor_is_named(saved):
    edit_tensors(saved[0], lambda state: state.pop("stages.fc.1.weight"))
    with pytest.raises(ModlibError, match=r"lacks 1 tensors, such as stages\.fc\.1\.weight"):
        load(saved[0])


def test_a_tensor_too_many_is_named(saved):
    edit_tensors(saved[0], lambda state: state.update(extra=torch.zeros(1)))
    with pytest.raises(ModlibError, match=r"has, and should not have, 1 tensors, such as extra"):
        load(saved[0])


@pytest.mark.parametrize("wrong", [torch.zeros(3, 5), torch.zeros(3, 16, dtype=torch.float64)])
def test_a_misshapen_tensor_is_named_with_what_is_needed(saved, wrong):
    edit_tensors(saved[0], lambda state: state.update({"modulation.fc.weight": wrong}))
    with pytest.raises(ModlibError, match=(
            r"tensor modulation\.fc\.weight is float(32|64) \(3, (5|16)\); .* needs float32 "
            r"\(3, 16\)")):
        load(saved[0])


@pytest.mark.parametrize(("changes", "message"), [
    ({"system": "modulatd"}, r"mine\.json: value of system: 'modulatd'.*'modulated'"),
    ({"widht": 1.0}, r"mine\.json: parameter 'widht' is not known; did you mean 'width'"),
    ({"width": "wide"}, r"mine\.json: width must be a number"),
    ({"image_size": 64}, r"prepares pixels by .*'image_size': 48"),
])
def test_a_setting_that_does_not_fit_is_named(saved, changes, message):
    edit(saved[1], settings=json.loads(saved[1].read_text())["settings"] | changes)
    with pytest.raises(ModlibError, match=message):
        load(saved[0])


@pytest.mark.parametrize("changes", [{"system": "csn"}, {"width": 0.3}, {"tasks": ["Smiling"]}])
def test_settings_of_another_network_do_not_fit_the_tensors(saved, changes):
    edit(saved[1], settings=json.loads(saved[1].read_text())["settings"] | changes)
    with pytest.raises(ModlibError, match=r"mine\.safetensors.* the JSON beside it"):
        load(saved[0])


@pytest.mark.parametrize(("changes", "message"), [
    ({"format": 2}, r"mine\.json has format 2; allowed here: 1"),
    ({"kind": "inserted modulation"}, r"has kind 'inserted modulation'; allowed here: 'network'"),
    ({"settings": [1]}, r"mine\.json: settings must be names with values; given \[1\]"),
])
def test_a_json_of_another_kind_is_refused(saved, changes, message):
    edit(saved[1], **changes)
    with pytest.raises(ModlibError, match=message):
        load(saved[0])


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"format": 1, "kind": "network"}',
                                  "[" * 10**6, '{"a":' * 10**6])
def test_a_json_that_is_none_or_is_empty_is_refused(saved, text):
    saved[1].write_text(text)
    with pytest.raises(ModlibError, match=r"mine\.json (cannot be read|has format|lacks)"):
        load(saved[0])


def test_tensors_and_json_of_two_networks_are_not_mixed(saved, tmp_path):
    other = save(trained(seed=3), tmp_path / "other")
    saved[0].write_bytes(other[0].read_bytes())
    with pytest.raises(ModlibError, match=r"mine\.safetensors is not what was saved with mine\.js"):
        load(saved[0])


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x80\x04pickle"])
def test_a_file_that_holds_no_tensors_is_refused(saved, content):
    saved[0].write_bytes(content)
    edit(saved[1], tensors_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ModlibError, match=r"mine\.safetensors cannot be read"):
        load(saved[0])


def test_a_network_that_its_settings_do_not_build_is_not_saved(tmp_path):
    with pytest.raises(ModlibError, match=r"the network.* its settings"):
        save(replace(trained(), settings=trained("csn").settings), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_no_part_of_a_file(saved, monkeypatch):
    before = [file.read_bytes() for file in saved]

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(packed_images.os, "fsync", full)
    with pytest.raises(ModlibError, match=r"^the file of weights .*mine.*cannot be written: no sp"):
        save(trained(seed=3), saved[0])
    assert sorted(saved[0].parent.iterdir()) == sorted(saved)
    assert [file.read_bytes() for file in saved] == before


def save_with(fault: Fault, one: TrainedNetwork, path: Path) -> None:
    """Save in this process, where a call of it fails."""
    calls = Calls(fault).plant()
    try:
        save(one, path)
    finally:
        calls.remove()


def current(path: Path) -> int | None:
    """The seed of the network that is loaded; None: there is no file, and that is said."""
    if not path.with_suffix(".json").exists():
        with pytest.raises(ModlibError, match="there is no file"):
            load(path)
        return None
    found = load(path)
    [seed] = [seed for seed in (0, 3) if found.settings.seed == seed and torch.equal(
        embeddings(found.network), embeddings(trained(seed=seed).network))]
    return seed


def do_in_a_process(fault: Fault | None, path: Path) -> None:
    process = SERVER.Process(target=save_with, args=(fault, trained(seed=3), path))
    process.start()
    process.join(120)
    assert process.exitcode == (-signal.SIGKILL if fault else 0)


WRITES, RENAMES = 2, 3  # the tensors and the JSON; these, and the tensors to their own name
MOMENTS = [Fault("kill", "write", 2), *(Fault("kill", "replace", number, after) for number in
                                        range(1, RENAMES + 1) for after in (False, True))]


def fault_name(fault: Fault) -> str:
    return f"{'after' if fault.after else 'at'} {fault.call} {fault.number}"


@pytest.mark.parametrize(("fault", "before"), [
    *((fault, 0) for fault in MOMENTS), (MOMENTS[3], None), (MOMENTS[4], None)],
    ids=lambda one: fault_name(one) if isinstance(one, Fault) else str(one))
def test_a_save_that_is_killed_leaves_the_old_network_or_the_new_one(tmp_path, fault, before):
    path = tmp_path / "mine"
    if before is not None:
        save(trained(seed=before), path)
    do_in_a_process(fault, path)
    json_is_new = fault.call == "replace" and (fault.number, fault.after) >= (2, True)
    assert current(path) == (3 if json_is_new else before)
    # A second save that fails takes nothing away, be it of the same tensors or of others.
    for seed in (3, 0):
        for call in ("fsync", "replace"):
            with pytest.raises(ModlibError, match="No space left"):
                save_with(Fault("full", call, 1), trained(seed=seed), path)
            assert current(path) == (3 if json_is_new else before)
    save(trained(seed=0), path)
    assert current(path) == 0


@pytest.mark.parametrize(("call", "number"), [
    *(("write", n) for n in range(1, WRITES + 1)), *(("fsync", n) for n in range(1, WRITES + 1)),
    *(("replace", n) for n in range(1, RENAMES + 1))])
def test_a_disk_that_is_full_leaves_the_old_network_or_the_new_one(saved, call, number):
    with pytest.raises(ModlibError, match=r"the file of weights .*mine.* cannot be written: .*No"):
        save_with(Fault("full", call, number), trained(seed=3), saved[0])
    is_new = (call, number) == ("replace", RENAMES)
    assert current(saved[0]) == (3 if is_new else 0)
    assert is_new or sorted(saved[0].parent.iterdir()) == sorted(saved)
    save(trained(seed=3), saved[0])
    assert current(saved[0]) == 3
    assert sorted(saved[0].parent.iterdir()) == sorted(saved)


def test_what_killed_saves_left_goes_after_an_hour(saved):
    do_in_a_process(Fault("kill", "replace", 2), saved[0])
    left = set(saved[0].parent.iterdir()) - set(saved)
    assert len(left) == 2
    for one in left:
        os.utime(one, (0, 0))
    save(trained(), saved[0])
    assert sorted(saved[0].parent.iterdir()) == sorted(saved)


def test_tensors_that_wait_must_have_the_whole_digest(saved):
    digest = json.loads(saved[1].read_text())["tensors_sha256"]
    Path(f"{saved[0]}.{digest[:16]}.tmp").write_bytes(b"others")
    saved[0].unlink()
    with pytest.raises(ModlibError, match=r"^there is no file .*mine\.safetensors; a saved"):
        load(saved[0])


def test_a_folder_that_cannot_be_made_is_named(saved):
    with pytest.raises(ModlibError, match=r"the file of weights .*mine\.json/mine.* cannot be w"):
        save(trained(), saved[1] / "mine")


# A network that modulation was put into

def inserted(after=("layer3", "avgpool"), tasks=("Smiling", "Young"), seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = insert_modulation(resnet18(num_classes=2), after, tasks,
                                    torch.rand(2, 3, 32, 32)).eval()
        for weight in network.task_parameters():
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return network


def test_a_modulated_network_of_the_readers_own_comes_back_to_the_last_bit(tmp_path):
    before, after = inserted(), inserted(seed=1)
    images = torch.rand(2, 3, 32, 32)
    save_inserted(before, tmp_path / "mine")
    assert load_inserted(after, tmp_path / "mine") is after
    with torch.no_grad():
        assert torch.equal(after.for_all_tasks(images), before.for_all_tasks(images))


@pytest.mark.parametrize(("other", "message"), [
    ({"tasks": ("Smiling", "Bald")}, r"has tasks \['Smiling', 'Young'\]; the network"),
    ({"after": ("layer4", "avgpool")}, r"has modulated \['layer3', 'avgpool'\]; the network"),
])
def test_a_network_that_was_modulated_otherwise_stays_as_it_was(tmp_path, other, message):
    save_inserted(inserted(), tmp_path / "mine")
    network = inserted(**other)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModlibError, match=message):
        load_inserted(network, tmp_path / "mine")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_two_kinds_of_files_are_told_apart(tmp_path, saved):
    with pytest.raises(ModlibError, match=r"has kind 'network'; allowed here: 'inserted modulati"):
        load_inserted(inserted(), saved[0])
