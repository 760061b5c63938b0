"""Classifiers trained, tested and recorded: the modulation module under another loss and network.

Source: Zhao et al., ECCV 2018, section 5.1: the module suits any loss and any network.
Shapes: B batch, T tasks, N images, C channels, H W height and width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from modlib.batches import batches_in_round, flip_some, image_getter, random_indices
from modlib.classifiers import (
    ClassifierSettings,
    bce_losses,
    build_classifier,
    shared_parameters,
    task_logits,
)
from modlib.datasets import AttributeImages
from modlib.epochs import epoch_metrics, every_epoch, train_epochs
from modlib.errors import ModlibError
from modlib.experiments import load_data
from modlib.gradients import UcrCounter, gramian, task_gradients
from modlib.held_out import SPLITS
from modlib.kept_runs import kept_record
from modlib.optimisers import build_optimiser, set_rates
from modlib.settings import Places
from modlib.task_networks import count_parameters


def train_classifier(
    model: nn.Module,
    data: AttributeImages,
    settings: ClassifierSettings,
    checkpoint: Path | None = None,
    get_images: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch; see :func:`modlib.training.train`.

    Yields:
        one dictionary an epoch, with ``epoch``, ``loss``, ``task_losses``, ``valid_accuracy`` and
        ``valid_auc`` by task, ``ucr`` counts by pair, ``images``, ``seconds``.
    """
    return train_epochs(
        model, build_optimiser(model, settings), data, settings, checkpoint, get_images,
        train_one_epoch, validate)


def validate(model, data, get_images, settings) -> dict[str, Any]:
    """``valid_accuracy`` and ``valid_auc`` by task."""
    return evaluate(model, data, "valid", get_images, settings, "valid_")


def random_batches(
    data: AttributeImages, get_images: Callable[[Tensor], Tensor], settings, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch's batches, drawn from (seed, epoch) alone.

    See :func:`modlib.batches.shuffled_batches`.

    Yields:
        images_BCHW uint8, and labels_BT bool, on the images' device.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    for indices_B in random_indices(data, settings, rng):
        images_BCHW = get_images(indices_B)
        if settings.horizontal_flip:
            images_BCHW = flip_some(images_BCHW, rng)
        yield images_BCHW, torch.from_numpy(data.labels_NT[indices_B.numpy()]).to(
            images_BCHW.device)


def train_one_epoch(
    model: nn.Module, optimiser: torch.optim.Optimizer, data: AttributeImages,
    get_images: Callable[[Tensor], Tensor], settings, epoch: int,
    shared: Callable[[nn.Module], list[nn.Parameter]] = shared_parameters,
    gradient_clip: float = math.inf,
    after_step: Callable[[int, Tensor, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Take a step a batch of random images; probe every ``ucr_every``-th batch.

    Args:
        epoch: from 0.
        shared: what a batch is probed over; where it gives nothing, the batch is not probed.
        gradient_clip: the largest norm of all gradients together.
        after_step: called after each step with the batch's number, its logits_BT and labels_BT.
    """
    counter = UcrCounter(len(settings.tasks))
    loss_sum_T, images = torch.zeros(len(settings.tasks)), 0
    batches = batches_in_round(data, settings)
    model.train()
    for number, (images_BCHW, labels_BT) in enumerate(
            random_batches(data, get_images, settings, epoch)):
        set_rates(optimiser, settings, epoch, number, batches)
        with autocast(images_BCHW, settings):
            logits_BT = task_logits(model, images_BCHW)
        losses_T = bce_losses(logits_BT, labels_BT)
        probed = settings.ucr_every and number % settings.ucr_every == 0
        if probed and (of_all := shared(model)):
            counter.add(gramian(task_gradients(losses_T, of_all)))
        optimiser.zero_grad(set_to_none=True)
        losses_T.mean().backward()
        if gradient_clip < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        optimiser.step()
        loss_sum_T += losses_T.detach().cpu()
        images += len(images_BCHW)
        if after_step:
            after_step(number, logits_BT, labels_BT)
    return (epoch_metrics(loss_sum_T / batches, images, settings, epoch)
            | counter.metrics(settings.tasks))


def check_split(data: AttributeImages, split: str) -> None:
    """Refuse a split that cannot be scored: each task needs holders and others in it."""
    if data.labels_NT.dtype != bool:
        raise ModlibError("a classifier's tasks are attributes, which an image has or has not; "
                          f"given tasks of categories: {', '.join(data.tasks)}")
    labels_NT = data.labels_NT[data.indices(split)]
    for task, held in zip(data.tasks, labels_NT.T, strict=True):
        if held.all() or not held.any():
            raise ModlibError(f"attribute {task!r} in the {split} split: images with and without "
                              f"it are needed; given {held.sum()} with, of {len(held)}")


@torch.no_grad()
def split_logits(
    model, data, split: str, get_images, settings, batch_size: int = 512
) -> np.ndarray:
    """Every task's logit for every image of one split, in eval mode: float32 (N, T).

    Raises:
        ModlibError: a logit is not finite.
    """
    model.eval()
    parts = []
    for part in torch.from_numpy(data.indices(split)).split(batch_size):
        images_BCHW = get_images(part)
        with autocast(images_BCHW, settings):
            parts.append(task_logits(model, images_BCHW).cpu())
    logits_NT = torch.cat(parts).numpy()
    if not np.isfinite(logits_NT).all():
        raise ModlibError(f"logits are not finite; a lower learning_rate than "
                          f"{settings.learning_rate} may help")
    return logits_NT


def evaluate(
    model, data, split: str, get_images, settings, prefix: str, batch_size: int = 512
) -> dict[str, Any]:
    """Accuracy and AUC of every task on one split, in eval mode; see :func:`scores`."""
    check_split(data, split)
    logits_NT = split_logits(model, data, split, get_images, settings, batch_size)
    return scores(logits_NT, data.labels_NT[data.indices(split)], settings.tasks, prefix)


def scores(
    logits_NT: np.ndarray, labels_NT: np.ndarray, tasks: Sequence[str], prefix: str
) -> dict[str, Any]:
    """Accuracy and AUC of every task.

    The area under the ROC curve (AUC) is the chance that a random holder of the attribute gets a
    higher logit than a random other image; guessing gives 50 %, however rare the attribute is.

    Args:
        logits_NT: float.
        labels_NT: bool; each task has holders and others.
        tasks: T names.
        prefix: of the keys.

    Returns:
        ``{prefix + "accuracy": {task: share}, prefix + "auc": {task: share}}``.
    """
    labels_NT, accuracy, auc = labels_NT.astype(bool), {}, {}
    for t, task in enumerate(tasks):
        held = labels_NT[:, t]
        u = mannwhitneyu(logits_NT[held, t], logits_NT[~held, t], method="asymptotic").statistic
        accuracy[task] = float(((logits_NT[:, t] > 0) == held).mean())
        auc[task] = float(u / (held.sum() * (~held).sum()))
    return {prefix + "accuracy": accuracy, prefix + "auc": auc}


def run_classifier(
    settings: ClassifierSettings,
    places: Places,
    on_epoch: Callable[[ClassifierSettings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test one classifier and return its record; see :func:`modlib.experiments.run`."""
    data = load_data(settings, places)

    def work(checkpoint: Path, device: torch.device) -> tuple[list, dict[str, Any]]:
        for split in SPLITS:  # before training: what cannot be trained or scored is told now
            check_split(data, split)
        model, get_images = build_classifier(settings).to(device), image_getter(data, device)
        epochs = every_epoch(
            train_classifier(model, data, settings, checkpoint, get_images), settings, on_epoch)
        total = count_parameters(model.parameters())
        shared = count_parameters(shared_parameters(model))
        counts = {"total": total, "shared": shared, "task": total - shared}
        tested = evaluate(model, data, "test", get_images, settings, "test_")
        return epochs, tested | {"parameters": counts}

    return kept_record(settings, places, data, work)


def autocast(images_BCHW: Tensor, settings) -> torch.autocast:
    """The settings' precision for what runs on the images' device."""
    return torch.autocast(
        images_BCHW.device.type, torch.bfloat16, settings.precision == "bfloat16")
