"""A trained network as one ONNX file: every task's embeddings in a single pass, for ONNX Runtime.

Shapes: B batch, T tasks, C channels, H W height and width, D embedding.
"""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.results import resolve
from modlib.task_networks import Network
from modlib.weights import TrainedNetwork, preprocessing
from modlib.whole_files import written_whole

OPSET = 18  # that torch's exporter translates to itself; ONNX Runtime reads it since 1.14
INPUT, OUTPUT = "images_BCHW", "embeddings_TBD"
# Of embeddings of length 1, between torch and ONNX Runtime. Both compute in float32 (rounding to
# 6e-8 of a value) but add up hundreds of products a unit in another order, layer after layer;
# differences were at most 4e-5 in networks with random batch statistics, 1e-6 in trained ones.
TOLERANCE = 1e-4


class _AllTasks(nn.Module):
    """What is exported: the network's single pass."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.network.embed_all_tasks(images_BCHW)


def export_onnx(trained: TrainedNetwork, path: str | Path) -> Path:
    """Write ``embed_all_tasks`` of a network, for any number of images, as one ONNX file.

    Its input ``images_BCHW`` is uint8, RGB, 0 to 255, (B, 3, S, S) with the S that the network was
    built for: the normalisation of pixels is part of the file. Its output ``embeddings_TBD`` is
    float32, of length 1, and within ``TOLERANCE`` of what the network gives. The file's metadata
    hold ``tasks``, the T names, and ``preprocessing``, as JSON.

    Args:
        trained: a network on the CPU, of any system of :mod:`modlib.networks`.
        path: the file, ``.onnx`` is added where it is missing; relative ones start at the project's
            root. A file of that name is replaced whole.

    Returns:
        the file.

    Raises:
        ModlibError: the packages that export are not installed; the file cannot be written.
    """
    path = resolve(path)
    path = path if path.suffix == ".onnx" else Path(f"{path}.onnx")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModlibError(f"the folder {path.parent} cannot be made: {error.strerror}") from error
    program = _exported(trained)
    program.model.metadata_props.update({
        "tasks": json.dumps(trained.settings.tasks),
        "preprocessing": json.dumps(preprocessing(trained.settings))})
    with written_whole(path, "the ONNX file") as file:
        file.write(program.model_proto.SerializeToString())
    return path


def _exported(trained: TrainedNetwork) -> torch.onnx.ONNXProgram:
    side, network = trained.settings.image_size, trained.network
    # Neither 1, which torch would keep fixed, nor a number that anything else has.
    example_BCHW = torch.zeros(7, 3, side, side, dtype=torch.uint8)
    modes = {module: module.training for module in network.modules()}
    try:
        wrapped = _AllTasks(network).eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, of its own modules
            wrapped(example_BCHW)  # what is kept between calls is made before it is traced
            # First by itself: torch.onnx.export would fall back to a fixed number of images.
            program = torch.export.export(
                wrapped, (example_BCHW,), strict=False,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}})
            return torch.onnx.export(
                program, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
                dynamo=True, verbose=False)
    except ImportError as error:
        raise ModlibError(f"to export, the packages onnx and onnxscript are needed ({error}); "
                          "install modlib[all]") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
