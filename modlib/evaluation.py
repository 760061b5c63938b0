"""Triplet accuracy on a fixed benchmark, and what a finished run reports.

Source: Zhao et al., ECCV 2018, section 4.1: a triplet succeeds when the positive is strictly
nearer to the anchor than the negative is.
Shapes: N images, T tasks, D embedding, K triplets a task.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modlib.datasets import AttributeImages
from modlib.errors import ModlibError, unknown_name
from modlib.modulation import ChannelScale
from modlib.settings import Settings
from modlib.task_networks import Network, count_parameters

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

    Args:
        network: its mode is restored afterwards.
        get_images: from int64 indices to a batch of pixels on the network's device.
        indices: int64 (N,), the images to embed.
        precision: ``"float32"`` or ``"bfloat16"`` (autocast).

    Returns:
        embeddings_TND, float32, on the network's device.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if len(indices) == 0:
        raise ModlibError("indices must name at least one image; given none")
    was_training = network.training
    network.eval()
    parts = []
    try:
        for start in range(0, len(indices), batch_size):
            images_BCHW = get_images(indices[start:start + batch_size])
            with torch.autocast(images_BCHW.device.type, torch.bfloat16, precision == "bfloat16"):
                parts.append(network.embed_all_tasks(images_BCHW))
    finally:
        network.train(was_training)
    return torch.cat(parts, dim=1)


def triplet_accuracy(embeddings_TND: Tensor, triplets_TK3: Tensor) -> Tensor:
    """The share of triplets whose positive is strictly nearer than the negative; a tie fails.

    Args:
        embeddings_TND: float32.
        triplets_TK3: int64 positions along N.

    Returns:
        float64 (T,), each in [0, 1].
    """
    correct = []
    for embeddings_ND, triplets_K3 in zip(embeddings_TND, triplets_TK3, strict=True):
        anchor, positive, negative = embeddings_ND[triplets_K3].unbind(1)
        to_positive = (anchor - positive).square().sum(-1)
        to_negative = (anchor - negative).square().sum(-1)
        correct.append((to_positive < to_negative).double().mean())
    return torch.stack(correct)


def final_results(
    network: Network,
    data: AttributeImages,
    settings: Settings,
    get_images: Callable[[Tensor], Tensor],
    triplets_TK3: np.ndarray,
) -> dict[str, Any]:
    """Test accuracy on the fixed triplets, parameter counts, and what became of the scales.

    Shared parameters are all that no task has for itself, frozen or not.
    """
    test = data.indices("test")
    embeddings_TND = embed_images(
        network, get_images, torch.from_numpy(test), settings.precision)
    positions = torch.from_numpy(np.searchsorted(test, triplets_TK3)).to(embeddings_TND.device)
    accuracy_T = triplet_accuracy(embeddings_TND, positions)
    results = {
        "test_accuracy": dict(zip(settings.tasks, accuracy_T.tolist(), strict=True)),
        "parameters": parameter_counts(network),
    }
    if any(isinstance(module, ChannelScale) for module in network.modules()):
        scales_TC = network.task_scales().detach().cpu()
        results["dead_scales"] = sum(
            m.dead() for m in network.modules() if isinstance(m, ChannelScale))
        results["w_distance"] = [
            {"tasks": [settings.tasks[i], settings.tasks[j]],
             "mean": float((scales_TC[i] - scales_TC[j]).abs().mean()),
             "variance": float((scales_TC[i] - scales_TC[j]).abs().var(unbiased=False))}
            for i in range(len(scales_TC)) for j in range(i + 1, len(scales_TC))
        ]
    return results


def parameter_counts(network: Network) -> dict[str, int]:
    """How many parameters there are, how many of them no task has for itself, and how many do."""
    total = count_parameters(network.parameters())
    task = count_parameters(network.task_parameters())
    return {"total": total, "shared": total - task, "task": task}
