"""Triplet accuracy on a fixed benchmark, and what a finished run reports.

Source: Zhao et al., ECCV 2018, section 4.1: a triplet succeeds when the positive is strictly
nearer to the anchor than the negative is.
Shapes: N images, T tasks, D embedding, K triplets a task.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from traceback import clear_frames
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modlib.arrays import to_json
from modlib.datasets import AttributeImages
from modlib.errors import ModlibError, unknown_name
from modlib.machine import is_out_of_memory
from modlib.modulation import ChannelScale
from modlib.retrieval import retrieval_scores
from modlib.settings import Settings
from modlib.task_networks import Network, count_parameters

TEST_SEED = 2  # of the benchmark's triplets; the validation split has a seed of its own
FEW_IMAGES = 16  # at a time, below which no smaller batch is tried
PRECISIONS = ("float32", "bfloat16")


@torch.no_grad()
def embed_images(
    network: Network,
    get_images: Callable[[Tensor], Tensor],
    indices: Tensor,
    precision: str = "float32",
    batch_size: int = 512,
) -> Tensor:
    """Embed images for every task in eval mode; each image goes through the trunk once.

    Where the device has too little memory for a batch, half as many images are tried, and so on:
    in eval mode an image's embedding does not depend on the others, but for rounding.

    Args:
        network: its mode is restored afterwards.
        get_images: from int64 indices to a batch of pixels on the network's device.
        indices: int64 (N,), the images to embed.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).

    Returns:
        embeddings_TND, float32, on the network's device.

    Raises:
        ModlibError: no such precision, no images, or too little memory even for few of them.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if len(indices) == 0:
        raise ModlibError("indices must name at least one image; given none")
    was_training = network.training
    network.eval()
    try:
        while True:
            try:
                return _embed(network, get_images, indices, precision, batch_size)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if batch_size <= FEW_IMAGES:
                    raise ModlibError(
                        f"the device is out of memory for embeddings of {len(indices):,} images, "
                        f"{batch_size} at a time, whatever the batch_size of the training: try a "
                        "device that nothing else uses, or a smaller image_size or width, which "
                        "is another run") from error
                clear_frames(error.__traceback__)  # they hold what did not fit
            batch_size //= 2
    finally:
        network.train(was_training)


def _embed(network, get_images, indices, precision: str, batch_size: int) -> Tensor:
    parts = []
    for start in range(0, len(indices), batch_size):
        images_BCHW = get_images(indices[start:start + batch_size])
        with torch.autocast(images_BCHW.device.type, torch.bfloat16, precision == "bfloat16"):
            parts.append(network.embed_all_tasks(images_BCHW))
    return torch.cat(parts, dim=1)


def triplet_accuracy(embeddings_TND: Tensor, triplets_TK3: Tensor) -> Tensor:
    """The share of triplets whose positive is strictly nearer than the negative; a tie fails.

    Computes :eq:`eq-accuracy` of the book's page on the method.

    Args:
        embeddings_TND: float32.
        triplets_TK3: int64 positions along N.

    Returns:
        float64 (T,), each in [0, 1].
    """
    return triplet_successes(embeddings_TND, triplets_TK3).double().mean(1)


def triplet_successes(embeddings_TND: Tensor, triplets_TK3: Tensor) -> Tensor:
    """Which triplets have a positive that is strictly nearer than the negative: bool (T, K)."""
    correct = []
    for embeddings_ND, triplets_K3 in zip(embeddings_TND, triplets_TK3, strict=True):
        anchor, positive, negative = embeddings_ND[triplets_K3].unbind(1)
        to_positive = (anchor - positive).square().sum(-1)
        to_negative = (anchor - negative).square().sum(-1)
        correct.append(to_positive < to_negative)
    return torch.stack(correct)


def final_results(
    network: Network,
    data: AttributeImages,
    settings: Settings,
    get_images: Callable[[Tensor], Tensor],
    triplets_TK3: np.ndarray,
) -> dict[str, Any]:
    """What the test split says of a network, and what became of its scales, for a record.

    Accuracy on the fixed triplets, task by task and triplet by triplet, so that two runs can be
    compared image by image (:mod:`modlib.intervals`); retrieval over the whole test split;
    parameter counts, where shared are all that no task has for itself, frozen or not; the scales.
    """
    test = data.indices("test")
    embeddings_TND = embed_images(
        network, get_images, torch.from_numpy(test), settings.precision)
    positions = torch.from_numpy(np.searchsorted(test, triplets_TK3)).to(embeddings_TND.device)
    correct_TK = triplet_successes(embeddings_TND, positions)
    labels_NT = torch.from_numpy(data.labels_NT[test])
    results = {
        "test_accuracy": dict(zip(
            settings.tasks, correct_TK.double().mean(1).tolist(), strict=True)),
        "test_triplets": {
            "correct": to_json(correct_TK.cpu().numpy()), "labels": to_json(labels_NT.numpy()),
            "digest": triplets_digest(positions.cpu().numpy())}
        | ({} if data.triplets is None else {"given": True}),
        "retrieval": retrieval_scores(
            embeddings_TND, labels_NT.to(embeddings_TND.device), settings.tasks),
        "parameters": parameter_counts(network),
    }
    return results | scale_results(getattr(network, "modulation", {}), settings.tasks)


def scale_results(
    modulation: Mapping[str, nn.Module], tasks: Sequence[str]
) -> dict[str, Any]:
    """What became of a network's scales, for a record; of a network without scales, nothing.

    Args:
        modulation: what the tasks have of their own after each stage; what is no
            :class:`~modlib.modulation.ChannelScale` is left out.
        tasks: T names.

    Returns:
        ``scales`` of each stage, how many are dead, and ``w_distance``: mean and variance of
        ``|W_i − W_j|`` of each pair of tasks over all stages (section 3.3).
    """
    of_stages = {name: module for name, module in modulation.items()
                 if isinstance(module, ChannelScale)}
    if not of_stages:
        return {}
    scales = {name: module.scales().detach().cpu() for name, module in of_stages.items()}
    scales_TC = torch.cat(list(scales.values()), dim=1)
    return {
        "scales": {name: to_json(of_stage.numpy()) for name, of_stage in scales.items()},
        "dead_scales": sum(module.dead() for module in of_stages.values()),
        "w_distance": [
            {"tasks": [tasks[i], tasks[j]],
             "mean": float((scales_TC[i] - scales_TC[j]).abs().mean()),
             "variance": float((scales_TC[i] - scales_TC[j]).abs().var(unbiased=False))}
            for i in range(len(scales_TC)) for j in range(i + 1, len(scales_TC))
        ]}


def triplets_digest(positions_TK3: np.ndarray) -> str:
    """What tells whether triplets drawn again are those that a record was tested on."""
    return hashlib.sha256(positions_TK3.astype(np.int32).tobytes()).hexdigest()[:16]


def parameter_counts(network: Network) -> dict[str, int]:
    """How many parameters there are, how many of them no task has for itself, and how many do."""
    total = count_parameters(network.parameters())
    task = count_parameters(network.task_parameters())
    return {"total": total, "shared": total - task, "task": task}
