"""ONNX Runtime gives every system's embeddings, whatever the number of images."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from slow_networks import SMALL, TASKS, pixels, small

from modlib import onnx_export
from modlib.errors import ModlibError
from modlib.networks import SYSTEMS
from modlib.onnx_export import OPSET, TOLERANCE, export_onnx
from modlib.settings import Settings
from modlib.weights import TrainedNetwork, preprocessing

BATCHES = (1, 5)


def trained(system="modulated", modulate_from=4, image_size=48) -> TrainedNetwork:
    """A small network of which nothing is at its initial value, with its settings."""
    sizes = SMALL | {"image_size": image_size}
    return TrainedNetwork(
        small(system, modulate_from=modulate_from, image_size=image_size).eval(),
        Settings(system=system, tasks=TASKS, modulate_from=modulate_from, **sizes))


def by_runtime(path, images_BCHW: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [embeddings_TBD] = session.run(["embeddings_TBD"], {"images_BCHW": images_BCHW.numpy()})
    return embeddings_TBD


def assert_same(path, network, side: int = 48) -> None:
    for batch in BATCHES:
        images_BCHW = pixels(batch, side, seed=batch)
        with torch.no_grad():
            expected_TBD = network.embed_all_tasks(images_BCHW).numpy()
        found_TBD = by_runtime(path, images_BCHW)
        assert found_TBD.dtype == np.float32 and found_TBD.shape == expected_TBD.shape
        np.testing.assert_allclose(found_TBD, expected_TBD, rtol=0, atol=TOLERANCE)
        if batch > 1:  # the comparison means something: images are apart by far more
            assert expected_TBD.std(1).max() > 100 * TOLERANCE


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_runtime_gives_the_embeddings_of_every_system(tmp_path, system):
    one = trained(system)
    assert_same(export_onnx(one, tmp_path / "mine"), one.network)


def test_maps_of_2_by_2_need_no_fixed_number_of_images(tmp_path):
    """There a convolution is done in one of two ways, by how many images there are."""
    one = trained(modulate_from=2, image_size=64)
    assert_same(export_onnx(one, tmp_path / "mine"), one.network, side=64)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    one = trained()
    return one, export_onnx(one, tmp_path_factory.mktemp("exported") / "mine")


def test_the_file_is_one_valid_onnx_file_of_the_chosen_opset(exported):
    _, path = exported
    assert path.name == "mine.onnx" and [p.name for p in path.parent.iterdir()] == ["mine.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {one.domain: one.version for one in model.opset_import}[""] == OPSET


def test_input_and_output_are_as_documented(exported):
    one, path = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given], [found] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images_BCHW", "tensor(uint8)",
                                                         [3, 48, 48])
    assert (found.name, found.type) == ("embeddings_TBD", "tensor(float)")
    assert isinstance(given.shape[0], str) and found.shape == [3, given.shape[0], 16]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["tasks"]) == list(TASKS)
    assert json.loads(metadata["preprocessing"]) == preprocessing(one.settings)


def test_the_normalisation_of_pixels_is_part_of_the_file(exported):
    """Black and white differ by what the mean and the scale make of them, in both alike."""
    one, path = exported
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 48, 48)
    with torch.no_grad():
        expected_TBD = one.network.embed_all_tasks(ends).numpy()
    np.testing.assert_allclose(by_runtime(path, ends.contiguous()), expected_TBD, atol=TOLERANCE)
    assert np.abs(expected_TBD[:, 0] - expected_TBD[:, 1]).max() > 100 * TOLERANCE


def test_embeddings_are_of_length_1(exported):
    lengths_TB = np.linalg.norm(by_runtime(exported[1], pixels(4)), axis=2)
    np.testing.assert_allclose(lengths_TB, 1, atol=1e-5)


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 48, 48), pixels(2, side=64)])
def test_the_runtime_refuses_floats_and_other_sizes(exported, wrong):
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        by_runtime(exported[1], wrong)


def test_a_network_in_train_mode_is_exported_in_eval_mode_and_stays_as_it_was(tmp_path, exported):
    _, path = exported
    other = trained()
    other.network.train()
    before = {name: tensor.clone() for name, tensor in other.network.state_dict().items()}
    found = export_onnx(other, tmp_path / "other.onnx")
    assert found == tmp_path / "other.onnx" and other.network.training
    assert all(torch.equal(tensor, before[name])
               for name, tensor in other.network.state_dict().items())
    assert np.array_equal(by_runtime(found, pixels(3)), by_runtime(path, pixels(3)))


def test_after_an_export_the_network_and_new_ones_work_on(exported):
    """Nothing of the tracing stays behind in what modlib keeps between calls."""
    one, _ = exported
    with torch.no_grad():
        assert torch.equal(one.network.embed_all_tasks(pixels(3)),
                           trained().network.embed_all_tasks(pixels(3)))


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(onnx_export.torch.onnx, "export", missing)
    with pytest.raises(ModlibError, match=r"onnxscript.*install modlib\[all\]"):
        export_onnx(trained(), tmp_path / "mine")


def test_a_file_that_cannot_be_written_is_named(tmp_path, exported, monkeypatch):
    nothing = SimpleNamespace(model=SimpleNamespace(metadata_props={}),
                              model_proto=onnx.ModelProto())
    monkeypatch.setattr(onnx_export, "_exported", lambda _: nothing)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModlibError, match=r"the folder .*file cannot be made"):
        export_onnx(exported[0], tmp_path / "file" / "mine")
    (tmp_path / "mine.onnx").mkdir()
    with pytest.raises(ModlibError, match=r"the ONNX file .*mine\.onnx cannot be written"):
        export_onnx(exported[0], tmp_path / "mine")
