"""Epochs: one after another, each kept in a checkpoint, and what their metrics begin with.

Shapes: T tasks.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modlib.batches import image_getter
from modlib.checkpoints import load_checkpoint, save_checkpoint
from modlib.errors import ModlibError
from modlib.held_out import without_test
from modlib.locks import one_at_a_time
from modlib.machine import make_deterministic
from modlib.settings import RunSettings


def resumable_epochs(
    one_epoch: Callable[[int], dict[str, Any]],
    epochs: int,
    checkpoint: Path | None,
    identity: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> Iterator[dict[str, Any]]:
    """Do epoch after epoch, each followed by a checkpoint; go on from the one that is there.

    Args:
        one_epoch: from the epoch's number, from 0, to its metrics.
        epochs: how many there are in all.
        checkpoint: the file; None: none is read or written.
        identity: what the checkpoint must belong to.

    Yields:
        every epoch's metrics with its ``seconds``, those of finished epochs first.

    Raises:
        ModlibError: the checkpoint cannot be read or does not fit, or belongs to another identity.
    """
    history: list[dict[str, Any]] = []
    if checkpoint is not None and checkpoint.exists():
        history = load_checkpoint(checkpoint, identity, network, optimiser)
        yield from history
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        metrics = one_epoch(epoch)
        history.append(metrics | {"seconds": time.perf_counter() - started})
        if checkpoint is not None:
            save_checkpoint(checkpoint, identity, network, optimiser, history)
        yield history[-1]


def train_epochs(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    data: Any,
    settings: RunSettings,
    checkpoint: Path | None,
    get_images: Callable[[Tensor], Tensor] | None,
    train_one_epoch: Callable[..., dict[str, Any]],
    validate: Callable[..., dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Train on the train split and validate after each epoch; the test split is out of reach.

    Args:
        network: on its device; trained in place.
        data: images, their labels and splits; ``settings.run_name`` tells what they are.
        checkpoint: a file written after every epoch and resumed from if it is there; None: none.
        get_images: as :func:`modlib.batches.image_getter` makes it; None: a new one.
        train_one_epoch: from ``(network, optimiser, data, get_images, settings, epoch)`` to the
            epoch's metrics.
        validate: from ``(network, data, get_images, settings)`` to further ones.

    Yields:
        every epoch's metrics; see :func:`resumable_epochs`.
    """
    device = next(network.parameters()).device
    data, get_images = without_test(data, get_images or image_getter(data, device))

    def one_epoch(epoch: int) -> dict[str, Any]:
        metrics = train_one_epoch(network, optimiser, data, get_images, settings, epoch)
        return metrics | validate(network, data, get_images, settings)

    yield from resumable_epochs(
        one_epoch, settings.epochs, checkpoint, settings.run_name(data.fingerprint), network,
        optimiser)


def epoch_metrics(losses_T: Tensor, images: int, settings, epoch: int) -> dict[str, Any]:
    """What every epoch's metrics begin with.

    Args:
        losses_T: the mean loss of each task over the epoch, float.
        images: how many were trained on.
        settings: with ``tasks`` and ``learning_rate``.
        epoch: from 0.

    Returns:
        ``epoch`` from 1, ``loss`` (the mean over tasks), ``task_losses`` by name, ``images``.

    Raises:
        ModlibError: a loss is not finite.
    """
    losses = losses_T.tolist()
    if not all(math.isfinite(loss) for loss in losses):
        raise ModlibError(
            f"the loss of epoch {epoch + 1} is not finite ({losses}); a lower learning_rate than "
            f"{settings.learning_rate} may help; earlier epochs are kept in the checkpoint")
    return {"epoch": epoch + 1, "loss": sum(losses) / len(losses),
            "task_losses": dict(zip(settings.tasks, losses, strict=True)), "images": images}


def every_epoch(
    epochs: Iterator[dict[str, Any]],
    settings: RunSettings,
    on_epoch: Callable[[Any, dict[str, Any]], None] | None,
) -> list[dict[str, Any]]:
    """Train to the end; ``on_epoch`` gets the settings and each epoch's metrics as they come."""
    done = []
    for metrics in epochs:
        done.append(metrics)
        if on_epoch:
            on_epoch(settings, metrics)
    return done


def train_to_the_end(epochs: Iterator[dict[str, Any]], checkpoint: Path) -> None:
    """Train to the end for the network's sake; no other process is at the checkpoint meanwhile.

    Deterministically, as for a record: the network is to be the one that the record is of.

    Args:
        epochs: as :func:`resumable_epochs` gives them, of this checkpoint; not begun yet.
    """
    make_deterministic()
    with one_at_a_time(checkpoint):
        for _ in epochs:
            pass
