"""MultiMNIST: two to four digits on one image; each task reads the digit in one corner.

Source: Levi and Ullman, section 4.1; Sener and Koltun, NeurIPS 2018, after Sabour et al., NeurIPS
2017: two digits of 28×28 pixels overlap on a canvas of 36×36, which is then scaled to 28×28.
Shapes: N composed images, D digits, T tasks (corners), B batch.
"""

import gzip
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from modlib.datasets import SPLITS
from modlib.errors import ModlibError, unknown_name
from modlib.task_images import TaskImages, digest

SIDE = 28  # pixels, of a digit and of a composed image
CLASSES = 10
# The corner that each task reads: whether it is at the bottom, whether it is at the right.
CORNERS = {"LU": (0, 0), "RL": (1, 1), "LL": (1, 0), "RU": (0, 1)}
FILES = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
         for part in ("train", "t10k")}
MOST_BYTES = 2**26  # of an idx file; MNIST's largest has 47 million
SPLIT_SEED, COMPOSITION_SEED = 20_17, 20_18  # the same digits and images for every run


@dataclass(frozen=True)
class Digits:
    """Single digits and the split that each belongs to.

    Attributes:
        images_DHW: uint8 (D, 28, 28), 0 to 255.
        labels_D: int64, 0 to 9.
        split_D: uint8; 0 train, 1 valid, 2 test.
        source: one line for people.
    """

    images_DHW: np.ndarray
    labels_D: np.ndarray
    split_D: np.ndarray
    source: str


def embedded_digits() -> Digits:
    """scikit-learn's 1,797 scanned digits of 8×8 pixels, scaled to 20×20 within 28×28 as MNIST's.

    They are always there and need no download. Split 80/10/10 by digit.
    """
    digits = load_digits()
    small_D1HW = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    scaled_D1HW = F.interpolate(small_D1HW, (20, 20), mode="bilinear")
    images_DHW = F.pad(scaled_D1HW, (4, 4, 4, 4))[:, 0].round().byte().numpy()
    return Digits(images_DHW, digits.target.astype(np.int64), _split(len(images_DHW), (0.1, 0.1)),
                  "scikit-learn's embedded digits, 8×8 pixels scaled up")


def read_mnist(root: str | Path) -> Digits:
    """MNIST as torchvision or its authors leave it on disk, or one of its two parts alone.

    With both parts the official test digits are for testing, and a twelfth of the others for
    validation. With one part it is split 80/10/10. The split is by digit image, so that no digit
    is in two splits, whatever is composed of it.

    Args:
        root: a folder that holds the four idx files, gzipped or not, itself or in ``raw`` or
            ``MNIST/raw``; two of them, of one part, are enough.

    Raises:
        ModlibError: no such folder or files, a file that cannot be read, or files that do not
            belong together.
    """
    folder = _folder_of_idx_files(Path(root))
    parts = {part: _read_part(folder, *names) for part, names in FILES.items()
             if _idx_file(folder, names[0])}
    splits = {part: _split(len(labels_D), (0.1, 0.1)) for part, (_, labels_D) in parts.items()}
    if len(parts) == 2:
        splits = {"train": _split(len(parts["train"][1]), (1 / 12, 0)),
                  "t10k": np.full(len(parts["t10k"][1]), SPLITS.index("test"), np.uint8)}
    which = "both parts" if len(parts) == 2 else f"the part {next(iter(parts))!r} alone"
    return Digits(
        np.concatenate([images_DHW for images_DHW, _ in parts.values()]),
        np.concatenate([labels_D for _, labels_D in parts.values()]),
        np.concatenate(list(splits.values())), f"MNIST, {which}")


def compose(
    digits: Digits, tasks: Sequence[str], counts: Mapping[str, int], canvas: int = 36
) -> TaskImages:
    """Put digits that are drawn at random into the corners of a canvas and scale it to 28×28.

    Where digits overlap, the brighter pixel shows. The digit in a corner does not depend on which
    other corners hold one.

    Args:
        digits: what is drawn from; each image takes digits of its own split only.
        tasks: different names of ``CORNERS``, one at least.
        counts: how many images of each of ``SPLITS``, 0 or more, and one in all.
        canvas: its side in pixels, 28 (all digits lie on each other) to 56 (none do).

    Returns:
        images of one channel. ``places`` gives the pixels of each task's own digit, 0 or 1;
        ``parts_NM`` are the digits.

    Raises:
        ModlibError: an unknown corner, none, or one twice; a canvas or a count outside the range;
            or a split without digits.
    """
    if not tasks or len(set(tasks)) != len(tasks):
        raise ModlibError(f"tasks must be one or more different corners; given {tuple(tasks)!r}")
    for task in tasks:
        if task not in CORNERS:
            raise unknown_name("task", task, CORNERS, "the corners of MultiMNIST")
    if not SIDE <= canvas <= 2 * SIDE:
        raise ModlibError(f"canvas must be from {SIDE} to {2 * SIDE} pixels; given {canvas}")
    if set(counts) != set(SPLITS) or min(counts.values()) < 0 or not any(counts.values()):
        raise ModlibError(f"counts must name a number of images, 0 or more and one in all, for "
                          f"each of {', '.join(SPLITS)}; given {dict(counts)!r}")
    columns = [list(CORNERS).index(task) for task in tasks]
    drawn_NT = _draw(digits, counts)[:, columns]

    def alone(indices_B: np.ndarray) -> Tensor:
        return _in_corners(digits.images_DHW[drawn_NT[indices_B]], tasks, canvas)

    def places(indices_B: np.ndarray) -> np.ndarray:
        return (_to_side(alone(indices_B)) >= 127.5).float().numpy()

    every_part = np.array_split(np.arange(len(drawn_NT)), -(-len(drawn_NT) // 4096))
    images_N1HW = np.concatenate([
        _to_side(alone(part).amax(1, keepdim=True)).round().byte().numpy() for part in every_part])
    labels_NT = digits.labels_D[drawn_NT]
    split_N = np.repeat(np.arange(3, dtype=np.uint8), [counts[split] for split in SPLITS])
    return TaskImages(
        images_N1HW, labels_NT, tuple(tasks), CLASSES, split_N,
        digest(images_N1HW, labels_NT, " ".join(tasks)),
        f"MultiMNIST of {digits.source}, on a canvas of {canvas}×{canvas}", places, drawn_NT)


@lru_cache(maxsize=4)
def load_multi_mnist(
    root: str | Path | None, tasks: tuple[str, ...], train_images: int, test_images: int,
    canvas: int,
) -> TaskImages:
    """Composed images of the digits in a folder, or of the embedded ones; composed once a process.

    Args:
        root: see :func:`read_mnist`; None: :func:`embedded_digits`.
        tasks, canvas: see :func:`compose`.
        train_images: how many to train on.
        test_images: how many to test on, and as many to validate on.

    Raises:
        ModlibError: see :func:`read_mnist` and :func:`compose`.
    """
    digits = embedded_digits() if root is None else read_mnist(root)
    counts = {"train": train_images, "valid": test_images, "test": test_images}
    return compose(digits, tasks, counts, canvas)


def _draw(digits: Digits, counts: Mapping[str, int]) -> np.ndarray:
    """Which digit every image has in each of the four corners: int64 (N, 4)."""
    drawn = []
    for number, split in enumerate(SPLITS):
        there = np.flatnonzero(digits.split_D == number)
        if not len(there) and counts[split]:
            raise ModlibError(f"{digits.source}: there are no digits in the {split} split")
        rng = np.random.default_rng([COMPOSITION_SEED, number])
        drawn.append(there[rng.integers(0, max(1, len(there)), (counts[split], len(CORNERS)))])
    return np.concatenate(drawn)


def _in_corners(digits_BTHW: np.ndarray, tasks: Sequence[str], canvas: int) -> Tensor:
    """Every digit alone on its canvas, in its corner: float32 (B, T, canvas, canvas)."""
    canvas_BTHW = torch.zeros(*digits_BTHW.shape[:2], canvas, canvas)
    for t, task in enumerate(tasks):
        top, left = (far * (canvas - SIDE) for far in CORNERS[task])
        canvas_BTHW[:, t, top:top + SIDE, left:left + SIDE] = torch.from_numpy(digits_BTHW[:, t])
    return canvas_BTHW


def _to_side(canvas_BCHW: Tensor) -> Tensor:
    return F.interpolate(canvas_BCHW, (SIDE, SIDE), mode="bilinear", antialias=True)


def _split(count: int, shares: tuple[float, float]) -> np.ndarray:
    """A split of so many digits, drawn once: shares to validate and to test on."""
    split_D = np.zeros(count, np.uint8)
    order, start = np.random.default_rng(SPLIT_SEED).permutation(count), 0
    for number, share in enumerate(shares, 1):
        end = start + round(share * count)
        split_D[order[start:end]] = number
        start = end
    return split_D


def _folder_of_idx_files(root: Path) -> Path:
    looked_in = [root, root / "raw", root / "MNIST" / "raw"]
    for folder in looked_in:
        if any(_idx_file(folder, images) for images, _ in FILES.values()):
            return folder
    raise ModlibError(
        f"no MNIST in {root}: looked for {' or '.join(images for images, _ in FILES.values())}, "
        f"with or without .gz, in {', '.join(map(str, looked_in))}")


def _idx_file(folder: Path, name: str) -> Path | None:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    return found[0] if found else None


def _read_part(folder: Path, images_name: str, labels_name: str) -> tuple[np.ndarray, np.ndarray]:
    images_DHW = _read_idx(folder, images_name, read_image_file)
    labels_D = _read_idx(folder, labels_name, read_label_file)
    if images_DHW.shape[1:] != (SIDE, SIDE) or len(images_DHW) != len(labels_D):
        raise ModlibError(f"{images_name} and {labels_name} in {folder} do not belong together: "
                          f"images {images_DHW.shape}, {len(labels_D)} labels")
    if len(labels_D) < CLASSES or labels_D.max() >= CLASSES:
        raise ModlibError(f"{labels_name} in {folder} must hold ten or more digits from 0 to 9; "
                          f"given {len(labels_D)} up to {labels_D.max(initial=0)}")
    return images_DHW, labels_D


def _read_idx(folder: Path, name: str, read: Callable[[str], Tensor]) -> np.ndarray:
    """What torchvision's reader makes of an idx file; it only reads those that are not gzipped."""
    path = _idx_file(folder, name)
    if path is None:
        raise ModlibError(f"{name}, with or without .gz, is missing in {folder}")
    try:
        if path.suffix != ".gz":
            return read(str(path)).numpy()
        with gzip.open(path) as packed, tempfile.NamedTemporaryFile() as plain:
            content = packed.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ValueError(f"it would unpack to more than {MOST_BYTES:,} bytes")
            plain.write(content)
            plain.flush()
            return read(plain.name).numpy()
    except Exception as error:  # torchvision's reader raises whatever comes of a foreign file
        raise ModlibError(f"{path} cannot be read as an idx file of MNIST "
                          f"({type(error).__name__}: {error}); fetch it again") from error
