"""Checkpoints: all that a training run needs to go on, written whole or not at all."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from modlib.errors import ModlibError

CONTENTS = {"identity", "network", "optimiser", "history"}


def save_checkpoint(path: Path, identity: str, network: nn.Module, optimiser, history) -> None:
    """Write everything that resuming needs, to a temporary file that is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    state = {"identity": identity, "network": network.state_dict(),
             "optimiser": optimiser.state_dict(), "history": history}
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, identity: str, network: nn.Module, optimiser) -> list[dict]:
    """Restore network and optimiser in place; return the finished epochs' metrics."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises several kinds for a torn or foreign file
        # Its first sentence: the next ones tell how to load a file that runs what it likes.
        raise ModlibError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: "
            f"{str(error).partition('. ')[0]}); delete it, and the run starts afresh") from error
    if not isinstance(state, dict) or CONTENTS - state.keys():
        raise ModlibError(f"{path} is no checkpoint of a run; delete it, and the run starts afresh")
    if state["identity"] != identity:
        raise ModlibError(
            f"checkpoint {path} belongs to {state['identity']}, not to {identity}; "
            "delete it or name another")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return state["history"]


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
        ModlibError: the checkpoint cannot be read, or belongs to another identity.
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
