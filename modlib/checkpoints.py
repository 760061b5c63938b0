"""Checkpoints: all that a training run needs to go on, written whole or not at all."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modlib.errors import ModlibError
from modlib.whole_files import written_whole

CONTENTS = {"identity", "network", "optimiser", "history"}


def save_checkpoint(path: Path, identity: str, network: nn.Module, optimiser, history) -> None:
    """Write everything that resuming needs, whole or not at all."""
    state = {"identity": identity, "network": network.state_dict(),
             "optimiser": optimiser.state_dict(), "history": history}
    serialised = io.BytesIO()  # in memory: of a full disk torch.save says "unexpected pos 64 vs 0"
    torch.save(state, serialised)
    with written_whole(path, "the checkpoint") as file:
        file.write(serialised.getbuffer())


def read_checkpoint(path: Path, identity: str) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU: see ``CONTENTS``. Nothing is unpickled but tensors.

    Raises:
        ModlibError: it cannot be read, a bit of it has changed, or it belongs to another identity.
    """
    state = _read_file(path)
    if state["identity"] != identity:
        raise ModlibError(
            f"checkpoint {path} belongs to {state['identity']}, not to {identity}; "
            "delete it or name another")
    return state


def _read_file(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        if not mmap:  # which is for a look at what is no tensor
            _check_sums(path)
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except Exception as error:  # torch raises several kinds for a torn or foreign file
        # Its first sentence: the next ones tell how to load a file that runs what it likes.
        raise ModlibError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: "
            f"{str(error).partition('. ')[0]}); delete it, and the run starts afresh") from error
    if not isinstance(state, dict) or CONTENTS - state.keys():
        raise ModlibError(f"{path} is no checkpoint of a run; delete it, and the run starts afresh")
    return state


def _check_sums(path: Path) -> None:
    """Compare all contents with their CRC-32, which torch writes and does not look at again."""
    with zipfile.ZipFile(path) as opened:
        if damaged := opened.testzip():
            raise zipfile.BadZipFile(f"{damaged} is not what its checksum says")


def finished_epochs(path: Path) -> int:
    """How many epochs a run goes on after, by its checkpoint; 0 where there is none.

    Raises:
        ModlibError: the checkpoint cannot be read.
    """
    return len(_read_file(path, mmap=True)["history"]) if path.exists() else 0


def load_checkpoint(path: Path, identity: str, network: nn.Module, optimiser) -> list[dict]:
    """Restore network and optimiser in place; return the finished epochs' metrics.

    Raises:
        ModlibError: see :func:`read_checkpoint`; or it holds another network or optimiser.
    """
    state = read_checkpoint(path, identity)
    for name, restored in (("network", network), ("optimiser", optimiser)):
        try:
            restored.load_state_dict(state[name])
        except Exception as error:  # torch raises nearly any kind for what is no state of it
            said = " ".join(str(error).split())
            raise ModlibError(
                f"checkpoint {path} does not fit: its {name} is not this run's ({said[:300]}); "
                "delete it, and the run starts afresh") from error
    return state["history"]
