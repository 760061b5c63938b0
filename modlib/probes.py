"""The update compliance probe in several modes, on one trained network and the same batches.

With batch norm in train mode on a joint batch the tasks are coupled through the batch statistics.
Gradients from frozen statistics, or from each task's own images alone, have other signs: they are
*other metrics*, and this is where they are held beside the paper's.
Shapes: B batch, T tasks.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modlib.arrays import to_json
from modlib.batches import draw_batches
from modlib.datasets import AttributeImages
from modlib.gradients import gramian, task_gradients, trunk_output_gramian
from modlib.losses import task_losses_from_triplets, task_losses_in_batch
from modlib.settings import Settings
from modlib.task_networks import SharedTrunkNetwork
from modlib.training import batch_task_losses
from modlib.triplets import triplets_in_batch

JOINT, FROZEN, OWN, TRUNK = "joint batch", "frozen statistics", "own images", "trunk's output"


def probe_modes(
    network: SharedTrunkNetwork,
    data: AttributeImages,
    get_images: Callable[[Tensor], Tensor],
    settings: Settings,
) -> dict[str, Any]:
    """Probe ``settings.final_probes`` batches in every mode; the network stays as it is.

    - ``joint batch``: as in training, batch norm in train mode over all images and tasks.
    - ``frozen statistics``: the same losses with batch norm in eval mode.
    - ``own images``: each task's triplets from the images that were drawn for it alone.
    - ``trunk's output``: :func:`modlib.gradients.trunk_output_gramian`.

    Returns:
        for a record: ``batches``, for each mode the ``counts`` of positive and of negative inner
        products, packed int32 (2, T, T), and the ``agreement``: the share of pairs and batches
        whose sign is that of the joint batch.
    """
    probed = replace(settings, batching="shared", batch_images="triplets",
                     batches_per_epoch=settings.final_probes)
    signs: dict[str, list[np.ndarray]] = {}
    # Copies: train mode moves the running averages, and the frozen ones must not have been moved.
    network, frozen = copy.deepcopy(network).train(), copy.deepcopy(network).eval()
    # An epoch after the last: batches that training has not drawn.
    for batch in draw_batches(data, get_images, probed, settings.epochs):
        for mode, gramian_TT in _gramians(network, frozen, *batch, probed):
            signs.setdefault(mode, []).append(gramian_TT.sign().cpu().numpy())
    pairs = np.triu_indices(len(settings.tasks), 1)
    joint_NP = np.stack(signs[JOINT])[:, *pairs]
    return {"batches": settings.final_probes, "modes": {
        mode: {"counts": to_json(np.stack([(np.stack(found) > 0).sum(0),
                                           (np.stack(found) < 0).sum(0)]).astype(np.int32)),
               "agreement": float((np.stack(found)[:, *pairs] == joint_NP).mean())}
        for mode, found in signs.items()}}


def _gramians(
    network: SharedTrunkNetwork, frozen: SharedTrunkNetwork, images_BCHW: Tensor,
    labels_BT: Tensor, generator: torch.Generator, settings: Settings,
) -> Iterator[tuple[str, Tensor]]:
    before = generator.get_state()
    for mode, one in ((JOINT, network), (FROZEN, frozen)):
        losses_T = batch_task_losses(
            one, images_BCHW, labels_BT, settings, generator.set_state(before))
        yield mode, gramian(task_gradients(losses_T, one.shared_parameters()))
    autocast = partial(torch.autocast, images_BCHW.device.type, torch.bfloat16,
                       settings.precision == "bfloat16")
    losses = []
    for task, images in enumerate(images_BCHW.chunk(len(settings.tasks))):
        task_B = torch.full((len(images),), task, device=images.device)
        with autocast():
            embeddings_BD = network(images, task_B)
        losses.append(task_losses_from_triplets(
            embeddings_BD.reshape(1, -1, 3, embeddings_BD.shape[-1]), settings.margin,
            settings.hinge_mean)[0])
    yield OWN, gramian(task_gradients(torch.stack(losses), network.shared_parameters()))
    triplets = triplets_in_batch(labels_BT, settings.samples_per_anchor, settings.triplet_choice,
                                 generator.set_state(before))

    def in_float32(embeddings_TBD: Tensor) -> Tensor:  # as training does
        with torch.autocast(images_BCHW.device.type, enabled=False):
            return task_losses_in_batch(
                embeddings_TBD, triplets, settings.margin, settings.hinge_mean)

    with autocast():
        found_TT = trunk_output_gramian(network, images_BCHW, in_float32)
    yield TRUNK, found_TT
