"""Systems that answer every task of an image: how they are trained and scored.

Source: Levi and Ullman, section 4.
Shapes: B batch, T tasks, K classes, N images, C channels, H W height and width.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modlib.aggregation import StepLog, aggregated_step
from modlib.batches import batches_in_round, random_indices
from modlib.epochs import epoch_metrics, train_epochs
from modlib.errors import ModlibError
from modlib.gradients import UcrCounter, gramian, task_gradients
from modlib.losses import joint_loss
from modlib.machine import to_device
from modlib.optimisers import build_optimiser, set_rates
from modlib.reader_losses import task_losses
from modlib.task_images import UNKNOWN, TaskImages
from modlib.task_readers import (
    ReaderSettings,
    all_streams,
    backbone_parameters,
    one_task_streams,
    shared_parameters,
    takes_one_task,
)

PIXELS_AT_ONCE = 500 * 28 * 28
GetImages = Callable[[Tensor], Tensor]


def train_reader(
    model: nn.Module,
    data: TaskImages,
    settings: ReaderSettings,
    checkpoint: Path | None = None,
    get_images: GetImages | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch; see :func:`modlib.training.train`.

    Yields:
        one dictionary an epoch, with ``epoch``, ``loss``, ``task_losses``, ``valid_accuracy``
        by task, ``ucr`` counts by pair, for ``"moo"`` what
        :class:`~modlib.aggregation.StepLog` has noted, ``images``, ``seconds``.
    """
    return train_epochs(
        model, build_optimiser(model, settings), data, settings, checkpoint, get_images,
        train_one_epoch, _validate)


def _validate(model, data, get_images, settings) -> dict[str, Any]:
    return {"valid_accuracy": accuracy(model, data, "valid", get_images)}


def train_one_epoch(model, optimiser, data, get_images, settings, epoch) -> dict[str, Any]:
    """Take a step a batch of random images; every task is asked about each of them.

    Every ``ucr_every``-th batch is probed over the backbone, which is what these systems share.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    draws = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    batches, images = batches_in_round(data, settings), 0
    loss_sum_T = torch.zeros(len(settings.tasks))
    counter, log = UcrCounter(len(settings.tasks)), StepLog()
    probing = settings.ucr_every > 0 and bool(backbone_parameters(model))
    model.train()
    for number, indices_B in enumerate(random_indices(data, settings, rng)):
        set_rates(optimiser, settings, epoch, number, batches)
        batch = _batch(data, indices_B, get_images, settings)
        if settings.tasks_together or not takes_one_task(model):
            losses_T = task_losses(all_streams(model, batch[0]), *batch[1:], settings)
            if probing and number % settings.ucr_every == 0:
                counter.add(gramian(task_gradients(losses_T, backbone_parameters(model))))
            take_step(model, optimiser, losses_T, settings, draws, log)
        else:
            losses_T = take_step_by_task(model, optimiser, *batch, settings)
        loss_sum_T += losses_T.detach().cpu()
        images += len(indices_B)
    metrics = epoch_metrics(loss_sum_T / batches, images, settings, epoch)
    return metrics | log.metrics(settings.tasks) | counter.metrics(settings.tasks)


def take_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, losses_T: Tensor,
    settings: ReaderSettings, draws: torch.Generator, log: StepLog | None = None,
) -> None:
    """One step on the mean of the tasks' losses; on MGDA's weighting of them for ``"moo"``.

    Separate networks take their sum: :func:`~modlib.losses.joint_loss`.

    Args:
        draws: where the weighting would draw from; MGDA does not.
        log: takes what MGDA has made of the tasks' gradients.
    """
    shared = shared_parameters(model)
    if settings.system != "moo":
        optimiser.zero_grad(set_to_none=True)
        joint_loss(losses_T, bool(shared)).backward()
        optimiser.step()
        return
    gradients_TP = task_gradients(losses_T, shared)
    gramian_TT = gramian(gradients_TP)
    optimiser.zero_grad(set_to_none=True)
    losses_T.mean().backward(inputs=list(model.heads.parameters()))
    aggregated_step("mgda", gradients_TP, gramian_TT, shared, draws, optimiser, log)


def take_step_by_task(
    model: nn.Module, optimiser: torch.optim.Optimizer, images_BCHW: Tensor, labels_BT: Tensor,
    places_BTHW: Tensor | None, settings: ReaderSettings,
) -> Tensor:
    """The step of :func:`take_step` on the mean, with no more than one task in memory at a time.

    Up to rounding it is the same step, but where there is batch norm: it then sees one task at a
    time too.

    Returns:
        every task's loss before the step, float (T,), without graph.
    """
    optimiser.zero_grad(set_to_none=True)
    losses = []
    for task in range(len(settings.tasks)):
        own = slice(task, task + 1)
        [loss] = task_losses(
            one_task_streams(model, images_BCHW, task), labels_BT[:, own],
            None if places_BTHW is None else places_BTHW[:, own], settings)
        (loss / len(settings.tasks)).backward()
        losses.append(loss.detach())
    optimiser.step()
    return torch.stack(losses)


@torch.no_grad()
def split_answers(
    model: nn.Module, data: TaskImages, split: str, get_images: GetImages,
    batch_size: int | None = None,
) -> np.ndarray:
    """Every task's answer to every image of one split: int64 (N, T), from 0 to K − 1.

    Args:
        batch_size: images that are answered at once; None: as many as have ``PIXELS_AT_ONCE``.

    Raises:
        ModlibError: logits that are not finite.
    """
    model.eval()
    batch_size = batch_size or max(1, PIXELS_AT_ONCE // data.images_NCHW.shape[-1] ** 2)
    indices = torch.from_numpy(data.indices(split))
    answers = []
    for part in indices.split(batch_size):
        logits_TBK = all_streams(model, get_images(part)).logits
        if not torch.isfinite(logits_TBK).all():
            raise ModlibError("logits are not finite; a lower learning_rate may help")
        answers.append(logits_TBK.argmax(2).T.cpu())
    return torch.cat(answers).numpy()


def accuracy(
    model: nn.Module, data: TaskImages, split: str, get_images: GetImages,
    batch_size: int | None = None,
) -> dict[str, float]:
    """The share of right answers of every task on one split; see :func:`split_answers`."""
    return share_right(split_answers(model, data, split, get_images, batch_size), data, split)


def check_asked(data: TaskImages, split: str) -> None:
    """Refuse a split without images, or with a task that asks about none of them."""
    asked_T = (data.labels_NT[data.indices(split)] != UNKNOWN).sum(0)
    for task, asked in zip(data.tasks, asked_T, strict=True):
        if asked == 0:
            raise ModlibError(f"task {task!r} asks about no image of the {split} split")


def share_right(answers_NT: np.ndarray, data: TaskImages, split: str) -> dict[str, float]:
    """The share of right answers of every task, over the images that it asks about.

    Raises:
        ModlibError: a task that asks about no image of the split.
    """
    check_asked(data, split)
    labels_NT = data.labels_NT[data.indices(split)]
    right_NT, asked_T = answers_NT == labels_NT, (labels_NT != UNKNOWN).sum(0)
    return {task: float(right / asked) for task, right, asked in
            zip(data.tasks, right_NT.sum(0), asked_T, strict=True)}


def _batch(data, indices_B, get_images, settings) -> tuple[Tensor, Tensor, Tensor | None]:
    images_BCHW = get_images(indices_B)
    labels_BT = torch.from_numpy(data.labels_NT[indices_B.numpy()])
    places_BTHW = None
    if settings.td_weight > 0:
        places_BTHW = to_device(torch.from_numpy(data.places(indices_B.numpy())),
                                images_BCHW.device)
    return images_BCHW, to_device(labels_BT, images_BCHW.device), places_BTHW
