"""Small shared fixtures: settings that train in a moment, planted images, places in a folder."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings as hypothesis_settings
from torch import nn

from modlib.datasets import SPLITS, AttributeImages
from modlib.settings import Places, Settings
from modlib.triplets import fixed_triplets

# A few cases of each fuzzing test, the same at every run; `--hypothesis-profile=soak` tries
# thousands of new ones.
hypothesis_settings.register_profile(
    "few", max_examples=40, derandomize=True, database=None, deadline=None)
hypothesis_settings.register_profile("soak", max_examples=1500, deadline=None)
hypothesis_settings.load_profile("few")

TASKS = ("Smiling", "Mouth_Slightly_Open", "Young")


def pytest_addoption(parser):
    parser.addoption("--soak", metavar="FIGURES", default=None,
                     help="run the long forms too, and add their figures to this JSON file")


def pytest_collection_modifyitems(config, items):
    if config.getoption("soak") is None:
        skip = pytest.mark.skip(reason="a long form: make soak")
        for item in items:
            if item.get_closest_marker("soak"):  # not its keywords: a folder's name is one too
                item.add_marker(skip)


@pytest.fixture
def soak_figures(request):
    """Add so many to a figure of ``make soak``."""
    path = Path(request.config.getoption("soak"))

    def add(name: str, count: int) -> None:
        figures = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(figures | {name: figures.get(name, 0) + count}))
    return add


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from more threads, and the cores may be busy."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """A run asks torch for deterministic algorithms: no other test shall inherit that."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def convolved(monkeypatch) -> list[tuple[nn.Conv2d, int]]:
    """Filled as the test goes on: every convolution that is really done, and of how many images."""
    done, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, x: done.append((self, len(x))) or forward(self, x))
    return done


@pytest.fixture
def tiny() -> Settings:
    """Two epochs of two batches of 18 images on a narrow network, in float32."""
    return Settings(
        tasks=TASKS, image_size=48, toy_images=150, width=0.1, embedding_size=16, batch_size=18,
        samples_per_anchor=2, epochs=2, batches_per_epoch=2, precision="float32", ucr_every=2,
        test_triplets=40,
    )


@pytest.fixture
def planted() -> AttributeImages:
    """90 noise images of 48 × 48 pixels; attribute t brightens the t-th colour of its holders."""
    rng = np.random.default_rng(7)
    labels_NT = rng.random((90, len(TASKS))) < [0.5, 0.5, 0.7]
    images_NCHW = rng.integers(0, 160, (90, 3, 48, 48)) + 60 * labels_NT[:, :, None, None]
    images_NCHW = images_NCHW.astype(np.uint8)
    images_NCHW.setflags(write=False)  # as a read-only memory map
    return AttributeImages(
        images_NCHW, labels_NT, TASKS, np.repeat([0, 1, 2], 30).astype(np.uint8),
        tuple(f"{n:03d}" for n in range(90)), hashlib.sha256(images_NCHW).hexdigest()[:16],
        "planted images",
    )


@pytest.fixture
def categorised() -> AttributeImages:
    """90 noise images of 48 × 48 pixels; of task t they are in three categories, by the brightness
    of the t-th colour, or, a few of them, in none that is known."""
    rng = np.random.default_rng(8)
    category_NT = rng.integers(0, 3, (90, len(TASKS)))
    images_NCHW = rng.integers(0, 120, (90, 3, 48, 48)) + 60 * category_NT[:, :, None, None]
    images_NCHW = images_NCHW.astype(np.uint8)
    labels_NT = np.where(rng.random(category_NT.shape) < 0.1, -1, category_NT).astype(np.int16)
    return AttributeImages(
        images_NCHW, labels_NT, TASKS, np.repeat([0, 1, 2], 30).astype(np.uint8),
        tuple(f"{n:03d}" for n in range(90)), hashlib.sha256(images_NCHW).hexdigest()[:16],
        "planted categories",
    )


@pytest.fixture
def given(categorised) -> AttributeImages:
    """The same images with 25 triplets a task and split, and without a label."""
    triplets = {split: fixed_triplets(categorised.labels_NT, categorised.indices(split), TASKS,
                                      25, seed=9) for split in SPLITS}
    return replace(categorised, labels_NT=np.full((90, len(TASKS)), -1, np.int16),
                   triplets=triplets)


@pytest.fixture
def places(tmp_path) -> Places:
    """Records and checkpoints under the test's own folder, on the CPU."""
    return Places(
        cache_dir=str(tmp_path / "cache"), results_dir=str(tmp_path / "records"),
        checkpoint_dir=str(tmp_path / "checkpoints"), device="cpu",
    )


@pytest.fixture
def loaded(monkeypatch, planted) -> AttributeImages:
    """The planted images in place of every data set that ``modlib.experiments`` would load."""
    def load_data(settings, places):
        columns = [planted.tasks.index(task) for task in settings.tasks]
        return replace(planted, tasks=settings.tasks, labels_NT=planted.labels_NT[:, columns])

    monkeypatch.setattr("modlib.experiments.load_data", load_data)
    return planted
