"""How time and memory grow with tasks, images and image size.

Each point is a process of its own: seconds of a training step in `shared` batching, drawing the
batches included (an epoch of 4 steps, over 4, the median of 2 after one of warm-up), and by how
much training raises the resident set at its highest. 240 images a batch; tasks from 1 to 40 (labels
drawn at random, as the toy faces have fewer), image sizes from 48 to 150, and the number of images
from 1,000 to 200,000, the same ones repeated in a file on the disk. An exponent of 1 means twice as
much for twice as many.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import Trainer, settings_of
from memory import resident

from modlib.batches import draw_batches, image_getter
from modlib.datasets import AttributeImages
from modlib.speed import growth_exponent, side_by_side
from modlib.training import training_step

EPOCH = 4  # steps
SIZES = {"tasks": (1, 2, 5, 10, 20, 40), "images": (1_000, 10_000, 50_000, 200_000),
         "image size": (48, 64, 96, 128, 150)}


def noise(tasks: int, side: int, count: int, folder: Path) -> AttributeImages:
    """1,000 images of noise, repeated to ``count`` in a file; a third holds each attribute."""
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (1000, 3, side, side), np.uint8)
    path = folder / "noise"
    with path.open("wb") as file:
        for _ in range(count // 1000):
            some.tofile(file)
    images_NCHW = np.memmap(path, np.uint8, "r", 0, (count, 3, side, side))
    return AttributeImages(
        images_NCHW, rng.random((count, tasks)) < 1 / 3, tuple(f"task {t}" for t in range(tasks)),
        np.zeros(count, np.uint8), (), "", "noise")


def point(what: str, size: int) -> dict[str, float]:
    """Seconds of a step and MB at the highest, for one size."""
    tasks, side, count = (size if what == name else default for name, default in
                          (("tasks", 20), ("image size", 64), ("images", 2000)))
    with tempfile.TemporaryDirectory() as folder:
        data = noise(tasks, side, count, Path(folder))
        settings = replace(settings_of(None), tasks=data.tasks, image_size=side, batch_size=240,
                           batches_per_epoch=EPOCH)
        before = resident()["VmRSS"]
        trainer = Trainer(settings, data, batches=2)
        get_images, epochs = image_getter(data, torch.device("cpu")), iter(range(100))

        def epoch() -> None:
            for images_BCHW, labels_BT, generator in draw_batches(
                    data, get_images, settings, next(epochs)):
                training_step(trainer.network, trainer.optimiser, images_BCHW, labels_BT,
                              settings, generator)

        trainer.step()
        seconds = median(side_by_side({"epoch": epoch}, 2)["epoch"]) / EPOCH
    return {"seconds": seconds, "megabytes": resident()["VmHWM"] - before}


def measure(data_root: str | None) -> dict:
    """The three curves, with exponents fitted to their three largest sizes."""
    curves = {}
    for what, sizes in SIZES.items():
        points = [json.loads(subprocess.run(
            [sys.executable, __file__, what, str(size)], check=True, capture_output=True,
            text=True).stdout) for size in sizes]
        columns = {key: [one[key] for one in points] for key in ("seconds", "megabytes")}
        curves[what] = {"sizes": list(sizes)} | columns | {
            f"{key} exponent": growth_exponent(sizes[-3:], values[-3:])
            for key, values in columns.items()}
    return {"rows": [], "curves": curves}


if __name__ == "__main__":
    print(json.dumps(point(sys.argv[1], int(sys.argv[2]))))
