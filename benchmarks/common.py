"""What the benchmarks share: a network of 20 tasks at half width, and data to feed it."""

from pathlib import Path

import numpy as np
import torch

from modlib.batches import draw_batches, image_getter
from modlib.datasets import AttributeImages
from modlib.experiments import load_data, new_network
from modlib.machine import keep_freed_memory, make_deterministic
from modlib.optimisers import build_optimiser
from modlib.settings import Places, Settings
from modlib.toy_faces import TOY_FACE_ATTRIBUTES
from modlib.training import training_step

TASKS = TOY_FACE_ATTRIBUTES[:20]  # the paper's 20; the other two are of its 7-attribute tables
CACHE = Path(__file__).resolve().parents[1] / "runs" / "cache"
SIZES = "20 tasks, 180 images of 64×64, half width, bfloat16"


def settings_of(data_root: str | None, **changes) -> Settings:
    """20 tasks at half width, with the paper's 180 images a batch, so that batchings compare."""
    values = {"tasks": TASKS, "width": 0.5, "ucr_every": 0, "toy_images": 2000,
              "dataset": "celeba" if data_root else "toy_faces", "bn_decay": 0.99}
    return Settings(**(values | changes))


def data_of(settings: Settings, data_root: str | None) -> AttributeImages:
    """CelebA where a root is given, else toy faces."""
    return load_data(settings, Places(data_root=data_root, cache_dir=str(CACHE)))


class Trainer:
    """A network with its optimiser, and batches that are drawn before the clock starts."""

    def __init__(
        self, settings: Settings, data: AttributeImages, batches: int = 8, kept: bool = True
    ):
        make_deterministic()
        if kept:
            keep_freed_memory()
        self.settings = settings
        self.network = new_network(settings).train()
        self.optimiser = build_optimiser(self.network, settings)
        get_images = image_getter(data, torch.device("cpu"))
        drawn = Settings(**(settings.as_dict() | {"batches_per_epoch": batches}))
        self.batches = list(draw_batches(data, get_images, drawn, 0))
        self.taken = 0

    def step(self) -> None:
        """One training step on the next batch."""
        batch = self.batches[self.taken % len(self.batches)]
        self.taken += 1
        training_step(self.network, self.optimiser, *batch[:2], self.settings, batch[2])


def ratios(slow: list[float], fast: list[float], factor: float = 1.0) -> list[float]:
    """How many times as fast, repeat by repeat."""
    return (factor * np.array(slow) / np.array(fast)).tolist()
