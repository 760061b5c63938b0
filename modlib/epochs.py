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

from modlib.checkpoints import load_checkpoint, save_checkpoint
from modlib.errors import ModlibError
from modlib.locks import one_at_a_time
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

    Args:
        epochs: as :func:`resumable_epochs` gives them, of this checkpoint.
    """
    with one_at_a_time(checkpoint):
        for _ in epochs:
            pass
