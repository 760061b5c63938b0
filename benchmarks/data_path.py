"""Packing images, opening them again, and what training keeps of them in memory.

*Packing*: `load_celeba` on the archive decodes every image once, on all cores, into one file;
against it a plain loop in one process, in which Pillow opens, crops and resizes each image of the
same archive (2,000 of them, spread evenly). *Opening*: the second call, which finds the file.
*Memory*: batches are read at random from an array of 200,000 images of 128×128 that lies sparse on
the disk, as training reads them, and from one of 2,000; by how much the resident set grows at its
highest. Without CelebA the first two are left out.
"""

import io
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from memory import peak_of
from PIL import Image

from modlib.batches import image_getter
from modlib.datasets import AttributeImages, load_celeba
from modlib.packed_images import HEADER_BYTES
from modlib.speed import row

REPEATS, LOOPED = 3, 2000
IMAGES = (".webp", ".jpg", ".jpeg", ".png")


def pillow_images_per_second(archive: Path) -> float:
    """One process, one image after the other."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if Path(name).suffix in IMAGES]
        chosen = names[::max(1, len(names) // LOOPED)]
        started = time.perf_counter()
        for name in chosen:
            image = Image.open(io.BytesIO(file.read(name))).convert("RGB")
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            np.asarray(image.crop((left, top, left + side, top + side)).resize(
                (64, 64), Image.Resampling.LANCZOS))
    return len(chosen) / (time.perf_counter() - started)


def packing(data_root: str) -> list[dict]:
    """Images per second of both, in turn, and the seconds of opening again."""
    ours, plain, opening = [], [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            data = load_celeba(data_root, cache_dir=folder, progress=False)
            ours.append(len(data.ids) / (time.perf_counter() - started))
            plain.append(pillow_images_per_second(Path(data_root)))
            started = time.perf_counter()
            load_celeba(data_root, cache_dir=folder, progress=False)
            opening.append(time.perf_counter() - started)
    how = f"{len(data.ids):,} images of the archive to 64×64"
    return [
        row("data: packing over Pillow in one process, images per second",
            (np.array(ours) / np.array(plain)).tolist(), how),
        row("data: packing", ours, how, unit="images per second"),
        row("data: opening the packed images again", opening, how, unit="s")]


def memory_of_reading(count: int, folder: Path, batches: int = 400) -> float:
    """MB by which the resident set grows at most while batches of 180 images are read."""
    size, path = 128, folder / f"{count}.images"
    with path.open("wb") as file:
        file.truncate(HEADER_BYTES + count * 3 * size * size)
    images_NCHW = np.memmap(path, np.uint8, "r", HEADER_BYTES, (count, 3, size, size))
    data = AttributeImages(images_NCHW, np.zeros((count, 1), bool), ("any",),
                           np.zeros(count, np.uint8), (), "", "")
    get_images, rng = image_getter(data, torch.device("cpu")), np.random.default_rng(0)
    get_images(torch.arange(180))

    def read() -> None:
        for _ in range(batches):
            get_images(torch.from_numpy(rng.integers(0, count, 180)))

    return peak_of(read)


def measure(data_root: str | None) -> dict:
    """Medians of three repeats; memory once each."""
    rows = packing(data_root) if data_root and Path(data_root).is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        few, many = (memory_of_reading(count, Path(folder)) for count in (2_000, 200_000))
    how = "400 random batches of 180 images of 128×128 from a sparse file"
    return {"rows": [*rows,
        row("data: memory that reading 2,000 images takes", [few], f"{how} of 98 MB", unit="MB"),
        row("data: memory that reading 200,000 images takes", [many], f"{how} of 9.8 GB",
            at_most=100, unit="MB")]}
