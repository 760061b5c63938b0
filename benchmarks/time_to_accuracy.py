"""Time to accuracy: mean test accuracy of 20 tasks against seconds of training, on real faces.

`shared` batching with the settings of `notebooks/settings/celeba_cpu_20.yml`, for three times its
epochs, against `triplets` batching with the same settings but the paper's batch of 180 images, for
a quarter of the images, over which its learning rate falls to 0 as well. Augmentation and learning
rate were chosen for `shared` batching. One process on all cores; the clock counts training and
validation, not the tests that draw the curve. Accuracy is over 10,000 fixed test triplets a task.
Nothing was chosen on the test split. Without CelebA there is nothing to measure.
"""

from pathlib import Path

import numpy as np
import torch
import yaml
from common import CACHE, TASKS

from modlib.batches import image_getter
from modlib.evaluation import TEST_SEED, embed_images, triplet_accuracy
from modlib.experiments import load_data, new_network
from modlib.machine import keep_freed_memory, make_deterministic
from modlib.settings import Places, Settings
from modlib.speed import row
from modlib.training import train
from modlib.triplets import fixed_triplets

FILE = Path(__file__).resolve().parents[1] / "notebooks/settings/celeba_cpu_20.yml"
BUDGET = 600  # seconds


def curve(settings: Settings, data, seconds: float) -> dict[str, list[float]]:
    """Seconds and mean test accuracy in % after each epoch, until the time is over."""
    test = data.indices("test")
    triplets = torch.from_numpy(np.searchsorted(test, fixed_triplets(
        data.labels_NT, test, data.tasks, settings.test_triplets, TEST_SEED)))
    network, get_images = new_network(settings), image_getter(data, torch.device("cpu"))
    spent, points = 0.0, {"seconds": [], "accuracy": []}
    for metrics in train(network, data, settings, None, get_images):
        spent += metrics["seconds"]
        embeddings_TND = embed_images(network, get_images, torch.from_numpy(test), "bfloat16")
        points["seconds"].append(spent)
        points["accuracy"].append(100 * float(triplet_accuracy(embeddings_TND, triplets).mean()))
        if spent >= seconds:
            break
    return points


def seconds_to(points: dict[str, list[float]], accuracy: float) -> float:
    """When the curve first reached an accuracy, between its points; infinity: never."""
    reached = [n for n, value in enumerate(points["accuracy"]) if value >= accuracy]
    if not reached:
        return float("inf")
    n = reached[0]
    low = (points["seconds"][n - 1], points["accuracy"][n - 1]) if n else (0.0, 50.0)
    high = points["seconds"][n], points["accuracy"][n]
    return low[0] + (high[0] - low[0]) * (accuracy - low[1]) / max(1e-9, high[1] - low[1])


def measure(data_root: str | None) -> dict:
    """One training of each; the seeds' spread is on the page."""
    if not data_root:
        return {"rows": []}
    make_deterministic()
    keep_freed_memory()
    values = yaml.safe_load(FILE.read_text("utf8"))
    places = Places(data_root=data_root, cache_dir=str(CACHE))
    shared = Settings(**{key: value for key, value in values.items() if key not in (
        "seeds", "workers")} | {"tasks": TASKS, "ucr_every": 0, "epochs": 3 * values["epochs"]})
    data = load_data(shared, places)
    curves = {"shared": curve(shared, data, float("inf"))}
    whole = curves["shared"]["seconds"][-1]
    triplets = Settings(**(shared.as_dict() | {
        "batching": "triplets", "batch_size": 180, "epochs": shared.epochs // 4,
        "batches_per_epoch": shared.batches_per_epoch * shared.batch_size // 180}))
    curves["triplets"] = curve(triplets, data, float("inf"))
    within = [value for when, value in zip(*curves["shared"].values(), strict=True)
              if when <= BUDGET]
    to_90 = seconds_to(curves["shared"], 90)
    best = max(curves["triplets"]["accuracy"])
    slow, fast = (seconds_to(curves[name], best) for name in ("triplets", "shared"))
    how = "real faces, 20 tasks, 64×64, one training"
    return {"rows": [
        row(f"time to accuracy: test accuracy of shared batching within {BUDGET} s",
            within[-1:] or [50.0], f"{how}, {whole:.0f} s in all", at_least=90, unit="%"),
        *([row("time to accuracy: seconds of shared batching to 90 %", [to_90], how, unit="s")]
          if to_90 < whole else []),
        row("time to accuracy: test accuracy of triplets batching",
            curves["triplets"]["accuracy"][-1:],
            f"{how}, {curves['triplets']['seconds'][-1]:.0f} s in all", unit="%"),
        row(f"time to accuracy: triplets over shared, seconds to {best:.0f} %", [slow / fast],
            how)],
        "curves": {"time to accuracy": curves}}
