"""One training loop for every system; it yields metrics and resumes from its checkpoints.

Shapes: B batch, T tasks, C channels, H W height and width, D embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modlib.aggregation import StepLog, aggregated_step
from modlib.arrays import to_json
from modlib.batches import batches_in_epoch, draw_batches, image_getter
from modlib.datasets import AttributeImages
from modlib.epochs import epoch_metrics, train_epochs
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, triplet_accuracy
from modlib.gradients import UcrCounter, gramian, stage_gramians, task_gradients
from modlib.held_out import without_test
from modlib.losses import (
    csn_penalty,
    joint_loss,
    relevance_regulariser,
    task_losses_from_triplets,
    task_losses_in_batch,
)
from modlib.optimisers import build_optimiser, set_rates
from modlib.settings import Settings
from modlib.task_networks import Network, count_parameters
from modlib.triplets import benchmark_triplets, triplets_in_batch

VALID_SEED = 1  # the validation triplets; the test benchmark has a seed of its own


def batch_task_losses(
    network: Network,
    images_BCHW: Tensor,
    labels_BT: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    """Every task's mean triplet loss on one batch, float32 (T,).

    Args:
        images_BCHW: pixels in the order of the batch's triplets: task, triplet, then anchor,
            positive, negative.
        labels_BT: bool, or int16 categories.
        settings: ``batching`` decides: with ``"triplets"`` each image serves the one task that
            it was drawn for; with ``"shared"`` every image serves every task.
        generator: a CPU generator, for the triplets formed inside the batch.
    """
    tasks = len(settings.tasks)
    autocast = torch.autocast(
        images_BCHW.device.type, torch.bfloat16, settings.precision == "bfloat16")
    if settings.batching == "triplets":
        task_B = torch.arange(tasks, device=images_BCHW.device)
        task_B = task_B.repeat_interleave(len(images_BCHW) // tasks)
        with autocast:
            embeddings_BD = network(images_BCHW, task_B)
        embeddings_TK3D = embeddings_BD.reshape(tasks, -1, 3, embeddings_BD.shape[-1])
        return task_losses_from_triplets(
            embeddings_TK3D, settings.margin, settings.hinge_mean)
    triplets = triplets_in_batch(
        labels_BT, settings.samples_per_anchor, settings.triplet_choice, generator)
    with autocast:
        embeddings_TBD = network.embed_all_tasks(images_BCHW)
    return task_losses_in_batch(embeddings_TBD, triplets, settings.margin, settings.hinge_mean)


def total_loss(
    network: Network, losses_T: Tensor, settings: Settings, unmasked_BD: Tensor | None = None
) -> Tensor:
    """What the optimiser minimises: the tasks' losses in one, plus the penalties switched on.

    Args:
        unmasked_BD: the embeddings before the masks, for CSN's penalty on their length.
    """
    loss = joint_loss(losses_T, bool(network.shared_parameters()))
    if settings.regulariser_weight > 0:
        loss = loss + settings.regulariser_weight * relevance_regulariser(
            network.task_scales(), (0, 1), 2, settings.regulariser_beta)
    if settings.has_csn_penalty:
        loss = loss + csn_penalty(unmasked_BD, network.task_scales(),
                                  settings.embedding_norm_weight, settings.mask_norm_weight)
    return loss


def train(
    network: Network,
    data: AttributeImages,
    settings: Settings,
    checkpoint: Path | None = None,
    get_images: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch; of the test split nothing is within reach.

    Randomness comes from (seed, epoch) alone, so a run that goes on from its checkpoint gives
    what an unbroken run gives, to the last bit.

    Args:
        network: on its device; trained in place.
        data: its tasks must be ``settings.tasks``.
        settings: as checked by :class:`Settings`.
        checkpoint: a file written after every epoch and resumed from if it is there; None: none.
        get_images: as :func:`modlib.batches.image_getter` makes it, to share one between
            callers; None: a new one.

    Yields:
        one dictionary an epoch (the resumed ones first), with ``epoch``, ``loss``, ``task_losses``,
        ``valid_accuracy`` by task, ``ucr`` counts by pair, with an aggregation what
        :class:`~modlib.aggregation.StepLog` has noted, ``images`` seen, ``seconds`` of training
        and validation.

    Raises:
        ModlibError: the loss is no longer finite, the checkpoint belongs to other settings, or a
            task without labels is to be trained in ``shared`` batching.
    """
    device = next(network.parameters()).device
    data, get_images = without_test(data, get_images or image_getter(data, device))
    check_labels(data, settings)
    valid_triplets = benchmark_triplets(data, "valid", settings.test_triplets, VALID_SEED)
    yield from train_epochs(
        network, build_optimiser(network, settings), data, settings, checkpoint, get_images,
        train_one_epoch, partial(_validate, triplets=valid_triplets))


def _validate(
    network: Network, data: AttributeImages, get_images: Callable[[Tensor], Tensor],
    settings: Settings, triplets: np.ndarray,
) -> dict[str, Any]:
    """Every task's triplet accuracy on the validation split."""
    valid = data.indices("valid")
    embeddings_TND = embed_images(network, get_images, torch.from_numpy(valid), settings.precision)
    if not torch.isfinite(embeddings_TND).all():
        raise ModlibError(
            "the network's embeddings are not finite; a lower learning_rate than "
            f"{settings.learning_rate} may help; earlier epochs are kept")
    positions = torch.from_numpy(np.searchsorted(valid, triplets)).to(embeddings_TND.device)
    accuracy_T = triplet_accuracy(embeddings_TND, positions)
    return {"valid_accuracy": dict(zip(settings.tasks, accuracy_T.tolist(), strict=True))}


def check_labels(data: AttributeImages, settings: Settings) -> None:
    """Refuse ``shared`` batching for tasks without a label: it forms triplets from labels."""
    labelled_T = (data.labels_NT[data.indices("train")] >= 0).any(0)
    if settings.batching == "shared" and not labelled_T.all():
        without = ", ".join(np.array(data.tasks)[~labelled_T])
        raise ModlibError(f"batching='shared' forms triplets from labels, and no train image has "
                          f"one for {without}; use batching='triplets'")


def training_step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    images_BCHW: Tensor,
    labels_BT: Tensor,
    settings: Settings,
    generator: torch.Generator,
    counter: UcrCounter | None = None,
    log: StepLog | None = None,
) -> Tensor:
    """One step of the optimiser; with a counter, the gradients' signs are counted before it.

    Args:
        log: takes what an aggregation has made of the tasks' gradients.

    Returns:
        every task's loss before the step, float32 (T,), without graph.
    """
    with _unmasked_embeddings(network, settings) as unmasked:
        losses_T = batch_task_losses(network, images_BCHW, labels_BT, settings, generator)
    shared, aggregated = network.shared_parameters(), settings.aggregation != "mean"
    if counter is not None or aggregated:
        gradients_TP = task_gradients(losses_T, shared)
        gramian_TT = gramian(gradients_TP)
    if counter is not None:
        counter.add(gramian_TT, stage_gramians(
            gradients_TP, stage_sizes(network).values()))
    optimiser.zero_grad(set_to_none=True)
    loss = total_loss(network, losses_T, settings, *unmasked)
    if not aggregated:
        loss.backward()
        optimiser.step()
        return losses_T.detach()
    if own := [one for one in network.task_parameters() if one.requires_grad]:
        loss.backward(inputs=own)
    # A copy: the triplets of the next batch shall be those of training without aggregation.
    draws = torch.Generator()
    draws.set_state(generator.get_state())
    aggregated_step(
        settings.aggregation, gradients_TP, gramian_TT, shared, draws, optimiser, log)
    return losses_T.detach()


def stage_sizes(network: Network) -> dict[str, int]:
    """How many shared parameters each stage of the trunk has, in the order of the stages."""
    return {name: count_parameters(stage.parameters()) for name, stage in network.stages.items()}


@contextmanager
def _unmasked_embeddings(network: Network, settings: Settings) -> Iterator[list[Tensor]]:
    """Where CSN's penalty asks for them: the embeddings before the masks of the next call."""
    seen: list[Tensor] = []
    if not settings.has_csn_penalty:
        yield seen
        return
    hook = network.stages["fc"].register_forward_hook(
        lambda _, __, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()


def train_one_epoch(network, optimiser, data, get_images, settings, epoch) -> dict[str, Any]:
    """Take a step a batch; probe every ``ucr_every``-th for the update compliance ratio."""
    counter = UcrCounter(len(settings.tasks))
    probing = settings.ucr_every > 0 and bool(network.shared_parameters())
    batches = batches_in_epoch(data, settings)
    images_seen, loss_sum_T, log = 0, 0.0, StepLog()
    network.train()
    for number, batch in enumerate(draw_batches(data, get_images, settings, epoch)):
        set_rates(optimiser, settings, epoch, number, batches)
        probed = counter if probing and number % settings.ucr_every == 0 else None
        loss_sum_T += training_step(
            network, optimiser, *batch[:2], settings, batch[2], probed, log)
        images_seen += len(batch[0])
    metrics = epoch_metrics(loss_sum_T / batches, images_seen, settings, epoch)
    by_stage = {}
    if counter.batches:
        counts_2STT = counter.stage_counts().astype(np.int32)
        by_stage = {"ucr_stages": {"stages": list(stage_sizes(network)),
                                   "counts": to_json(counts_2STT)}}
    return metrics | log.metrics(settings.tasks) | counter.metrics(settings.tasks) | by_stage
