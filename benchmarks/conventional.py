"""The conventional triplet code against ours, end to end: task-embeddings per second.

The conventional code, written plainly below, is what one finds in most repositories: one task at a
time; a DataLoader with two workers that opens and decodes the three images of each triplet every
time they are drawn; three forward passes, of the anchors, the positives and the negatives; float32.
It has the same network, the same number of images a step, and the same optimiser. Ours draws its
batches from the packed images and trains all 20 tasks on each, in bfloat16. Each repeat times 8
steps of either, one after the other; the workers' start is not timed, packing the images neither.
"""

import io
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from common import TASKS, Trainer, data_of, ratios, settings_of
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

from modlib.batches import draw_batches, image_getter
from modlib.datasets import AttributeImages
from modlib.experiments import new_network
from modlib.image_cache import decode_image
from modlib.optimisers import build_optimiser
from modlib.speed import row
from modlib.training import training_step

STEPS, REPEATS, BATCH, MARGIN = 8, 3, 60, 0.2


class TripletFiles(Dataset):
    """Random triplets of one task, decoded from their files each time."""

    def __init__(self, data: AttributeImages, archive: Path, task: int, count: int):
        self.archive, self.zip = archive, None
        self.files = {Path(name).stem: name for name in zipfile.ZipFile(archive).namelist()}
        train = data.indices("train")
        has_T = data.labels_NT[train, task]
        self.ids, self.holders, self.others = data.ids, train[has_T], train[~has_T]
        self.count, self.task, self.rng = count, task, None

    def __len__(self):
        return self.count

    def __getitem__(self, _):
        if self.zip is None:  # one a worker
            self.zip = zipfile.ZipFile(self.archive)
            self.rng = np.random.default_rng([self.task, get_worker_info().id])
        chosen = [*self.rng.choice(self.holders, 2, replace=False), self.rng.choice(self.others)]
        return [torch.from_numpy(decode_image(self.zip.read(self.files[self.ids[n]]), 64).copy())
                for n in chosen]


def conventional_seconds(data, archive, network, optimiser, task: int) -> float:
    """Seconds of ``STEPS`` steps of one task."""
    loader = iter(DataLoader(TripletFiles(data, archive, task, BATCH * (STEPS + 1)),
                             batch_size=BATCH, num_workers=2))
    task_B = torch.full((BATCH,), task)
    batch, started = next(loader), time.perf_counter()  # workers and network warm
    for _ in range(STEPS):
        batch = next(loader)
        anchor, positive, negative = (network(images, task_B) for images in batch)
        near = (anchor - positive).square().sum(1)
        far = (anchor - negative).square().sum(1)
        loss = torch.relu(near - far + MARGIN).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.perf_counter() - started


def our_seconds(data, trainer: Trainer, epoch: int) -> float:
    """Seconds of ``STEPS`` steps of all tasks, drawing the batches included."""
    settings = trainer.settings
    get_images = image_getter(data, torch.device("cpu"))
    started = time.perf_counter()
    for images_BCHW, labels_BT, generator in draw_batches(data, get_images, settings, epoch):
        training_step(trainer.network, trainer.optimiser, images_BCHW, labels_BT, settings,
                      generator)
    return time.perf_counter() - started


def toy_archive(data: AttributeImages, folder: Path) -> Path:
    """The images as JPEG files in a zip archive, where there is none: toy faces, or a folder."""
    path = folder / "toy.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, image_CHW in zip(data.ids, data.images_NCHW, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image_CHW.transpose(1, 2, 0)).resize((178, 178)).save(buffer, "jpeg")
            archive.writestr(f"{name}.jpg", buffer.getvalue())
    return path


def measure(data_root: str | None) -> dict:
    """Median of three repeats, each of another task."""
    ours = settings_of(data_root, batches_per_epoch=STEPS)
    data = data_of(ours, data_root)
    plain = settings_of(data_root, precision="float32")
    network = new_network(plain).train()
    optimiser, trainer = build_optimiser(network, plain), Trainer(ours, data)
    slow, fast = [], []
    with tempfile.TemporaryDirectory() as folder:
        is_archive = data_root and Path(data_root).is_file()
        archive = Path(data_root) if is_archive else toy_archive(data, Path(folder))
        our_seconds(data, trainer, 0)  # warm-up
        conventional_seconds(data, archive, network, optimiser, REPEATS)
        for repeat in range(REPEATS):
            slow.append(conventional_seconds(data, archive, network, optimiser, repeat))
            fast.append(our_seconds(data, trainer, repeat + 1))
    return {"rows": [row(
        "training, end to end: ours over the conventional triplet code, task-embeddings per second",
        ratios(slow, fast, len(TASKS)), "20 tasks, 180 images of 64×64 a step, half width; "
        "float32 and decoding every time, against bfloat16 and packed images", at_least=20)]}
