"""One training loop for every system; it yields metrics and resumes from its checkpoints.

Shapes: B batch, T tasks, C channels, H W height and width, D embedding, m triplets a task.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modlib.checkpoints import load_checkpoint, save_checkpoint
from modlib.datasets import AttributeImages
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, triplet_accuracy
from modlib.gradients import UcrCounter, gramian, task_gradients
from modlib.losses import (
    relevance_regulariser,
    task_losses_from_triplets,
    task_losses_in_batch,
)
from modlib.networks import IndependentNetworks, Network
from modlib.optimisers import build_optimiser, set_rates
from modlib.settings import Settings
from modlib.triplets import epoch_batches, fixed_triplets, triplets_in_batch

VALID_SEED = 1  # the validation triplets; the test benchmark has a seed of its own


def image_getter(data: AttributeImages, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From int64 indices to pixels (B, C, H, W) uint8 on the device.

    On a GPU all images are moved there once; on a CPU they stay in their memory map.
    """
    if device.type == "cpu":
        return lambda indices: torch.from_numpy(data.images_NCHW[indices.numpy()])
    images_NCHW = torch.from_numpy(np.array(data.images_NCHW)).to(device)
    return lambda indices: images_NCHW[indices.to(device)]


def flip_some(images_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flip_B = torch.from_numpy(rng.random(len(images_BCHW)) < 0.5).to(images_BCHW.device)
    return torch.where(flip_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)


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
        labels_BT: bool.
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
        return task_losses_from_triplets(embeddings_TK3D, settings.margin)
    triplets = triplets_in_batch(
        labels_BT, settings.samples_per_anchor, settings.triplet_choice, generator)
    with autocast:
        embeddings_TBD = network.embed_all_tasks(images_BCHW)
    return task_losses_in_batch(embeddings_TBD, triplets, settings.margin)


def total_loss(network: Network, losses_T: Tensor, settings: Settings) -> Tensor:
    """What the optimiser minimises: the mean over tasks, plus λ times the regulariser.

    Independent networks take the sum, so that each sees its own mean loss, as if alone.
    """
    if isinstance(network, IndependentNetworks):
        return losses_T.sum()
    loss = losses_T.mean()
    if settings.regulariser_weight > 0:
        loss = loss + settings.regulariser_weight * relevance_regulariser(
            network.task_scales(), (0, 1), 2, settings.regulariser_beta)
    return loss


def train(
    network: Network,
    data: AttributeImages,
    settings: Settings,
    checkpoint: Path | None = None,
    get_images: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch.

    Randomness comes from (seed, epoch) alone, so a run that goes on from its checkpoint gives
    what an unbroken run gives, to the last bit.

    Args:
        network: on its device; trained in place.
        data: its tasks must be ``settings.tasks``.
        settings: as checked by :class:`Settings`.
        checkpoint: a file written after every epoch and resumed from if it is there; None: none.
        get_images: as :func:`image_getter` makes it, to share one between callers; None: a new one.

    Yields:
        one dictionary an epoch (the resumed ones first): ``epoch``, ``loss``, ``task_losses``,
        ``valid_accuracy`` by task, ``ucr`` counts by pair, ``images`` seen, ``seconds`` of
        training and validation.

    Raises:
        ModlibError: the loss is no longer finite, or the checkpoint belongs to other settings.
    """
    device = next(network.parameters()).device
    optimiser = build_optimiser(network, settings)
    get_images = get_images or image_getter(data, device)
    valid = data.indices("valid")
    valid_triplets = fixed_triplets(
        data.labels_NT, valid, data.tasks, settings.test_triplets, VALID_SEED,
        where=" in the valid split")
    history: list[dict[str, Any]] = []
    identity = settings.run_name(data.fingerprint)
    if checkpoint is not None and checkpoint.exists():
        history = load_checkpoint(checkpoint, identity, network, optimiser)
        yield from history
    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        metrics = train_one_epoch(network, optimiser, data, get_images, settings, epoch)
        embeddings_TND = embed_images(
            network, get_images, torch.from_numpy(valid), settings.precision)
        if not torch.isfinite(embeddings_TND).all():
            raise ModlibError(
                f"the network's embeddings are not finite after epoch {epoch + 1}; a lower "
                f"learning_rate than {settings.learning_rate} may help; earlier epochs are kept")
        positions = torch.from_numpy(np.searchsorted(valid, valid_triplets)).to(device)
        accuracy_T = triplet_accuracy(embeddings_TND, positions)
        metrics["valid_accuracy"] = dict(zip(settings.tasks, accuracy_T.tolist(), strict=True))
        metrics["seconds"] = time.perf_counter() - started
        history.append(metrics)
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity, network, optimiser, history)
        yield metrics


def draw_batches(
    data: AttributeImages, get_images: Callable[[Tensor], Tensor], settings: Settings, epoch: int
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """One epoch's batches, drawn from (seed, epoch) alone.

    Yields:
        images_BCHW uint8, labels_BT bool, and the generator for the triplets formed inside
        the batch. There are :func:`batches_in_epoch` of them.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    for triplets_Tm3 in epoch_batches(
            data.labels_NT, data.indices("train"), settings.tasks, settings.triplets_per_task,
            batches_in_epoch(data, settings), settings.triplet_choice, rng):
        indices_B = torch.from_numpy(triplets_Tm3.reshape(-1))
        images_BCHW = get_images(indices_B)
        if settings.horizontal_flip:
            images_BCHW = flip_some(images_BCHW, rng)
        labels_BT = torch.from_numpy(data.labels_NT[indices_B.numpy()]).to(images_BCHW.device)
        yield images_BCHW, labels_BT, generator


def training_step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    images_BCHW: Tensor,
    labels_BT: Tensor,
    settings: Settings,
    generator: torch.Generator,
    counter: UcrCounter | None = None,
) -> Tensor:
    """One step of the optimiser; with a counter, the gradients' signs are counted before it.

    Returns:
        every task's loss before the step, float32 (T,), without graph.
    """
    losses_T = batch_task_losses(network, images_BCHW, labels_BT, settings, generator)
    if counter is not None:
        counter.add(gramian(task_gradients(losses_T, network.shared_parameters())))
    optimiser.zero_grad(set_to_none=True)
    total_loss(network, losses_T, settings).backward()
    optimiser.step()
    return losses_T.detach()


def train_one_epoch(network, optimiser, data, get_images, settings, epoch) -> dict[str, Any]:
    """Take a step a batch; probe every ``ucr_every``-th for the update compliance ratio."""
    counter = UcrCounter(len(settings.tasks))
    probing = settings.ucr_every > 0 and bool(network.shared_parameters())
    batches = batches_in_epoch(data, settings)
    images_seen, loss_sum_T = 0, 0.0
    network.train()
    for number, batch in enumerate(draw_batches(data, get_images, settings, epoch)):
        set_rates(optimiser, settings, epoch, number, batches)
        probed = counter if probing and number % settings.ucr_every == 0 else None
        loss_sum_T += training_step(network, optimiser, *batch[:2], settings, batch[2], probed)
        images_seen += len(batch[0])
    task_losses = (loss_sum_T / batches).tolist()
    if not all(math.isfinite(loss) for loss in task_losses):
        raise ModlibError(
            f"the loss of epoch {epoch + 1} is not finite ({task_losses}); a lower learning_rate "
            f"than {settings.learning_rate} may help; earlier epochs are kept in the checkpoint")
    return {
        "epoch": epoch + 1,
        "loss": sum(task_losses) / len(task_losses),
        "task_losses": dict(zip(settings.tasks, task_losses, strict=True)),
        "images": images_seen,
        "ucr_batches": counter.batches,
        "ucr": counter.pairs(settings.tasks) if counter.batches else [],
    }


def batches_in_epoch(data: AttributeImages, settings: Settings) -> int:
    """How many batches an epoch has; the authors' rule where the settings leave it open."""
    if settings.batches_per_epoch is not None:
        return settings.batches_per_epoch
    first_holders = int(data.labels_NT[data.indices("train"), 0].sum())
    return max(1, first_holders // settings.triplets_per_task)
