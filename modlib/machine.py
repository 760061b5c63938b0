"""What a run runs on: the device, how torch is asked for the same result again, and the facts."""

import ctypes
import os
import platform
import re
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from modlib.errors import ModlibError


def choose_device(name: str) -> torch.device:
    """``"auto"`` is CUDA where there is one, else the CPU; anything else as torch names it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModlibError(f"device must be auto, cpu or cuda; given {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ModlibError(f"device must be auto, cpu or cuda; given {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModlibError(f"device {name!r} was asked for, but torch sees no CUDA device here")
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small CPU tensor on the device; on a GPU without waiting for what it is busy with."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def run_facts(
    epochs: list[dict], device: torch.device, seconds: float, commit: str
) -> dict[str, Any]:
    """How the run went on this machine: times, speed, device, versions, commit.

    The times and the images per second count training and validation.
    """
    training_seconds = sum(epoch["seconds"] for epoch in epochs)
    return {
        "training_seconds": training_seconds,
        "last_session_seconds": seconds,
        "images_per_second": sum(epoch["images"] for epoch in epochs) / training_seconds,
        "device": device_name(device),
        "processor": processor(),
        "versions": versions(),
        "git_commit": commit,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or how many threads of how many cores a CPU has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads of {os.cpu_count()} cores)"


def versions() -> dict[str, str]:
    """Those of Python and of what results rest on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "modlib")}


def processor() -> str:
    """The CPU's model and the vector instructions that torch uses on it."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines
                     if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a CPU that tells no name
        pass
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def device_in_words(device: str) -> str:
    """A record's ``device`` as a sentence names it: one thread is no "threads"."""
    return device.replace("(1 threads", "(1 thread")


def cpu_threads(device: str) -> int | None:
    """How many threads a record's ``device`` had, or None where it was no CPU."""
    found = re.match(r"cpu \((\d+) threads of", device)
    return int(found[1]) if found else None


def git_commit(*folders: str) -> str:
    """modlib's commit, with ``-dirty`` when its files differ; ``unknown`` outside its checkout.

    Args:
        folders: what else must not differ, below the project's root.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], check=True,
                              capture_output=True, text=True).stdout.strip()
    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "unknown"
        changed = git("status", "--porcelain", "--", "modlib", *folders)
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def make_deterministic() -> None:
    """Ask torch for the same result at every run on one device with one number of threads.

    On a CPU too: the gradient of an indexed tensor is otherwise added up by several threads in
    whatever order they come.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True, warn_only=True)


# What torch passes on as a plain RuntimeError. Each alternative is of one library, the first one of
# the CPU's allocator.
OUT_OF_MEMORY = re.compile(r"can't allocate memory"
                           r"|CUDA (driver )?error: (CUBLAS_STATUS_ALLOC_FAILED|out of memory)"
                           r"|CUDNN_STATUS_(\w+_)?ALLOC(ATION)?_FAILED")
# Of cuDNN not what it says of a call that it cannot do: BAD_PARAM and NOT_SUPPORTED.
DEVICE_FAILED = re.compile(r"CUDA (driver )?error|No CUDA GPUs are available"
                           r"|CUDNN_STATUS_(\w+_FAILED|\w+_ERROR|NOT_INITIALIZED)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's or Python's says that memory has run out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None)


def _with_less_memory(batch_size: int, smallest: int) -> str:
    """What a training that ran out of memory can try."""
    half = max(smallest, batch_size // 2)
    if half >= batch_size:
        return (f"its batch_size of {batch_size} is the smallest for its tasks, so try a smaller "
                "image_size or width, which is another run, or a device that nothing else uses")
    return (f"try batch_size={half} in the place of {batch_size}, which is another run, or a "
            "device that nothing else uses")


@contextmanager
def device_failures(batch_size: int, smallest: int, checkpoint: Path) -> Iterator[None]:
    """Say of a device that runs out of memory, or fails, what can be done.

    Args:
        batch_size: of the run in the block.
        smallest: batch that its tasks allow.
        checkpoint: where its finished epochs are.

    Raises:
        ModlibError: in the place of torch's error, or of Python's ``MemoryError``.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            said = f"the device is out of memory; {_with_less_memory(batch_size, smallest)}"
        elif isinstance(error, torch.AcceleratorError) or DEVICE_FAILED.search(str(error)):
            said = "the device failed; start a new process, as this one cannot use it any more"
        else:
            raise
        # A notebook keeps the last error, and with it every tensor of the frames it went through.
        traceback.clear_frames(error.__traceback__)
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise ModlibError(
            f"{said}. Nothing is lost: finished epochs are in {checkpoint}, and a run with the "
            f"same settings goes on from there ({first_line})") from error


HEAP_BYTES = 2**32  # of address space, not of memory: that is taken as it is touched


@lru_cache(maxsize=1)  # once a process
def keep_freed_memory() -> None:
    """Ask glibc's allocator to keep what is freed, for the next step, and to use large pages.

    A training step frees and takes anew hundreds of megabytes, and every page of 4 KB that was
    given back costs a fault when it is touched again. So nothing is given back, and the heap lies
    in pages of 2 MB; ``benchmarks/allocator.py`` measures what that is worth. Results are the same.
    The process then holds on to the most memory it ever had. Elsewhere than on Linux with glibc
    nothing happens.
    """
    mmap_max, trim_threshold, top_pad, hugepage = -4, -1, -2, 14  # malloc.h and mman.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt, libc.madvise  # noqa: B018  # absent elsewhere
    except (OSError, AttributeError):
        return
    for parameter, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2**26)):
        libc.mallopt(parameter, value)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(HEAP_BYTES)
    if start:  # refused where the address space is limited
        page = os.sysconf("SC_PAGESIZE")
        libc.madvise(-(-start // page) * page, HEAP_BYTES - page, hugepage)
        libc.free(start)
