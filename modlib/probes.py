"""The update compliance probe in several modes, on one trained network and the same batches.

With batch norm in train mode on a joint batch the tasks are coupled through the batch statistics.
Gradients from frozen statistics, or from each task's own images alone, have other signs: they are
*other metrics*, and this is where they are held beside the paper's.
Shapes: B batch, T tasks.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
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

JOINT, FROZEN, DRAWN, OWN, TRUNK = (
    "joint batch", "frozen statistics", "drawn triplets, joint batch", "drawn triplets, own batch",
    "trunk's output")


def probe_modes(
    network: SharedTrunkNetwork,
    data: AttributeImages,
    get_images: Callable[[Tensor], Tensor],
    settings: Settings,
) -> dict[str, Any]:
    """Probe ``settings.final_probes`` batches in every mode; the network stays as it is.

    - ``joint batch``: as in training, batch norm in train mode over all images and tasks.
    - ``frozen statistics``: the same losses with batch norm in eval mode.
    - ``drawn triplets, joint batch``: in the joint batch, but each task's loss over the few
      triplets alone that were drawn for it; with so few, more losses are 0.
    - ``drawn triplets, own batch``: the same triplets, each task's in a batch of their own, so
      that the statistics are the task's alone. Only these two differ by batch norm alone.
    - ``trunk's output``: :func:`modlib.gradients.trunk_output_gramian`.

    Returns:
        what a record keeps of it, with ``batches``, for each mode the ``counts`` of positive and
        of negative inner products, packed int32 (2, T, T), and the ``agreement`` with each mode:
        among the pairs and batches where neither product is 0, the share of the same sign (None:
        there is none).
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
    of_pairs = {mode: np.stack(found)[:, *pairs] for mode, found in signs.items()}
    return {"batches": settings.final_probes, "modes": {
        mode: {"counts": to_json(np.stack([(np.stack(found) > 0).sum(0),
                                           (np.stack(found) < 0).sum(0)]).astype(np.int32)),
               "agreement": {other: _agreement(of_pairs[mode], of_pairs[other])
                             for other in of_pairs}}
        for mode, found in signs.items()}}


def _agreement(signs_NP: np.ndarray, others_NP: np.ndarray) -> float | None:
    both_NP = (signs_NP != 0) & (others_NP != 0)
    return float((signs_NP == others_NP)[both_NP].mean()) if both_NP.any() else None


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
    tasks = len(settings.tasks)

    def drawn_losses(of_each: Sequence[Tensor]) -> Tensor:
        embeddings_TK3D = torch.stack(list(of_each)).unflatten(1, (-1, 3))
        return task_losses_from_triplets(embeddings_TK3D, settings.margin, settings.hinge_mean)

    with autocast():
        joint_TTBD = network.embed_all_tasks(images_BCHW).unflatten(1, (tasks, -1))
    losses_T = drawn_losses([joint_TTBD[task, task] for task in range(tasks)])
    yield DRAWN, gramian(task_gradients(losses_T, network.shared_parameters()))
    own = []
    for task, images in enumerate(images_BCHW.chunk(tasks)):
        with autocast():
            own.append(network(images, torch.full((len(images),), task, device=images.device)))
    yield OWN, gramian(task_gradients(drawn_losses(own), network.shared_parameters()))
    triplets = triplets_in_batch(labels_BT, settings.samples_per_anchor, settings.triplet_choice,
                                 generator.set_state(before))

    def in_float32(embeddings_TBD: Tensor) -> Tensor:  # as training does
        with torch.autocast(images_BCHW.device.type, enabled=False):
            return task_losses_in_batch(
                embeddings_TBD, triplets, settings.margin, settings.hinge_mean)

    with autocast():
        found_TT = trunk_output_gramian(network, images_BCHW, in_float32)
    yield TRUNK, found_TT
