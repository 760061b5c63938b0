"""Attribute classification on ResNet-18: the modulation module under another loss and network.

Source: Zhao et al., ECCV 2018, section 5.1: the module suits any loss and any network.
Shapes: B batch, T tasks, N images, C channels, H W height and width.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torchvision.models import resnet18

from modlib.batches import flip_some, image_getter
from modlib.checkpoints import resumable_epochs
from modlib.datasets import AttributeImages
from modlib.errors import ModlibError
from modlib.experiments import kept_record, load_data
from modlib.gradients import UcrCounter, gramian, task_gradients
from modlib.insertion import insert_modulation
from modlib.modulated_network import ModulatedNetwork
from modlib.optimisers import build_optimiser, set_rates
from modlib.settings import Places, RunSettings
from modlib.task_networks import count_parameters
from modlib.trunk import normalise_pixels

FEATURES = 512  # what ResNet-18 gives after its pooling


@dataclass(frozen=True)
class ClassifierSettings(RunSettings):
    """Everything that decides the outcome of training one classifier on given data."""

    kind = "classifier-"

    profile: str = "quick"
    dataset: Literal["toy_faces", "celeba"] = "toy_faces"
    tasks: tuple[str, ...] = ("Smiling", "Mouth_Slightly_Open", "Young", "Wavy_Hair")
    image_size: int = 64  # pixels
    toy_images: int = 2000  # how many toy faces to draw
    system: Literal["fully_shared", "branches", "modulated"] = "modulated"
    modulate_after: tuple[str, ...] = ("layer3", "layer4", "avgpool")  # submodules of ResNet-18
    branch_size: int = 128  # hidden units of a branch
    batch_size: int = 72  # images
    horizontal_flip: bool = True
    epochs: int = 2
    batches_per_epoch: int | None = None  # None: every image once
    optimiser: Literal["adam", "adagrad"] = "adam"
    learning_rate: float = 1e-3
    scale_rate_factor: float = 20.0  # the scales' learning rate over the network's
    schedule: Literal["tenth_for_last_30_percent", "tenth_every_40_epochs", "cosine"] = "cosine"
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    ucr_every: int = 8  # probe every k-th batch; 0: never
    seed: int = 0


class Branches(nn.Module):
    """A branch of two layers per task: C features to ``size`` hidden units to one logit."""

    def __init__(self, num_tasks: int, size: int):
        super().__init__()
        self.tasks = nn.ModuleList([
            nn.Sequential(nn.Linear(FEATURES, size), nn.ReLU(), nn.Linear(size, 1))
            for _ in range(num_tasks)])

    def forward(self, features_BC: Tensor) -> Tensor:
        return torch.cat([task(features_BC) for task in self.tasks], dim=1)


def build_classifier(settings: ClassifierSettings) -> nn.Module:
    """A ResNet-18 that gives each task a logit, freshly initialised from the seed.

    ``"fully_shared"``: everything is shared up to the last layer, whose row t belongs to task t.
    ``"branches"``: two layers of its own for each task. ``"modulated"``: as fully shared, with
    scales after ``modulate_after``.
    """
    tasks = len(settings.tasks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = resnet18(num_classes=tasks)
        if settings.system == "branches":
            model.fc = Branches(tasks, settings.branch_size)
    model = model.to(memory_format=torch.channels_last)
    if settings.system != "modulated":
        return model
    side = settings.image_size
    example = torch.zeros(2, 3, side, side).to(memory_format=torch.channels_last)
    return insert_modulation(model, settings.modulate_after, settings.tasks, example)


def task_logits(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Every task's logit for every image, float32 (B, T).

    In a modulated network task t reads output t of the pass that its own scales made.

    Args:
        images_BCHW: pixels 0 to 255, uint8 or float, RGB.
    """
    pixels = normalise_pixels(images_BCHW)
    if isinstance(model, ModulatedNetwork):
        return model.for_all_tasks(pixels).diagonal(dim1=0, dim2=2).float()
    return model(pixels).float()


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What all tasks train: all but the scales, the branches and the last layer's rows."""
    network = model.model if isinstance(model, ModulatedNetwork) else model
    return [p for name, p in network.named_parameters() if not name.startswith("fc.")]


def bce_losses(logits_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean binary cross-entropy of each task, float (T,)."""
    return F.binary_cross_entropy_with_logits(
        logits_BT, labels_BT.float(), reduction="none").mean(0)


def train_classifier(
    model: nn.Module,
    data: AttributeImages,
    settings: ClassifierSettings,
    checkpoint: Path | None = None,
    get_images: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch; see :func:`modlib.training.train`.

    Yields:
        one dictionary an epoch: ``epoch``, ``loss``, ``task_losses``, ``valid_accuracy`` and
        ``valid_auc`` by task, ``ucr`` counts by pair, ``images``, ``seconds``.
    """
    optimiser = build_optimiser(model, settings)
    get_images = get_images or image_getter(data, next(model.parameters()).device)

    def one_epoch(epoch: int) -> dict[str, Any]:
        metrics = train_one_epoch(model, optimiser, data, get_images, settings, epoch)
        return metrics | evaluate(model, data, "valid", get_images, settings, "valid_")

    yield from resumable_epochs(
        one_epoch, settings.epochs, checkpoint, settings.run_name(data.fingerprint), model,
        optimiser)


def train_one_epoch(model, optimiser, data, get_images, settings, epoch) -> dict[str, Any]:
    """Take a step a batch of random images; probe every ``ucr_every``-th batch."""
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(data.indices("train"))
    size = min(settings.batch_size, len(order))
    batches = settings.batches_per_epoch or len(order) // size
    counter, shared = UcrCounter(len(settings.tasks)), shared_parameters(model)
    loss_sum_T = torch.zeros(len(settings.tasks))
    model.train()
    for number in range(batches):
        set_rates(optimiser, settings, epoch, number, batches)
        first = number * size % (len(order) - size + 1)  # round again in a long epoch
        indices_B = torch.from_numpy(order[first:first + size])
        images_BCHW = get_images(indices_B)
        if settings.horizontal_flip:
            images_BCHW = flip_some(images_BCHW, rng)
        labels_BT = torch.from_numpy(data.labels_NT[indices_B.numpy()]).to(images_BCHW.device)
        with _autocast(images_BCHW, settings):
            logits_BT = task_logits(model, images_BCHW)
        losses_T = bce_losses(logits_BT, labels_BT)
        if settings.ucr_every and number % settings.ucr_every == 0:
            counter.add(gramian(task_gradients(losses_T, shared)))
        optimiser.zero_grad(set_to_none=True)
        losses_T.mean().backward()
        optimiser.step()
        loss_sum_T += losses_T.detach().cpu()
    losses = (loss_sum_T / batches).tolist()
    if not all(math.isfinite(loss) for loss in losses):
        raise ModlibError(
            f"the loss of epoch {epoch + 1} is not finite ({losses}); a lower learning_rate than "
            f"{settings.learning_rate} may help; earlier epochs are kept in the checkpoint")
    return {
        "epoch": epoch + 1, "loss": sum(losses) / len(losses),
        "task_losses": dict(zip(settings.tasks, losses, strict=True)), "images": batches * size,
        "ucr_batches": counter.batches,
        "ucr": counter.pairs(settings.tasks) if counter.batches else [],
    }


@torch.no_grad()
def evaluate(
    model, data, split: str, get_images, settings, prefix: str, batch_size: int = 512
) -> dict[str, Any]:
    """Accuracy and AUC of every task on one split, in eval mode.

    The area under the ROC curve (AUC) is the chance that a random holder of the attribute gets a
    higher logit than a random other image; guessing gives 50 %, however rare the attribute is.

    Returns:
        ``{prefix + "accuracy": {task: share}, prefix + "auc": {task: share}}``.
    """
    model.eval()
    indices, parts = torch.from_numpy(data.indices(split)), []
    for part in indices.split(batch_size):
        images_BCHW = get_images(part)
        with _autocast(images_BCHW, settings):
            parts.append(task_logits(model, images_BCHW).cpu())
    logits_NT, labels_NT = torch.cat(parts).numpy(), data.labels_NT[indices.numpy()].astype(bool)
    if not np.isfinite(logits_NT).all():
        raise ModlibError(f"logits are not finite; a lower learning_rate than "
                          f"{settings.learning_rate} may help")
    accuracy, auc = {}, {}
    for t, task in enumerate(settings.tasks):
        held = labels_NT[:, t]
        if held.all() or not held.any():
            raise ModlibError(f"attribute {task!r} in the {split} split: images with and without "
                              f"it are needed; given {held.sum()} with, of {len(held)}")
        u = mannwhitneyu(logits_NT[held, t], logits_NT[~held, t], method="asymptotic").statistic
        accuracy[task] = float(((logits_NT[:, t] > 0) == held).mean())
        auc[task] = float(u / (held.sum() * (~held).sum()))
    return {prefix + "accuracy": accuracy, prefix + "auc": auc}


def run_classifier(
    settings: ClassifierSettings,
    places: Places,
    on_epoch: Callable[[ClassifierSettings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test one classifier and return its record; see :func:`modlib.experiments.run`."""
    data = load_data(settings, places)

    def work(checkpoint: Path, device: torch.device) -> tuple[list, dict[str, Any]]:
        model, get_images = build_classifier(settings).to(device), image_getter(data, device)
        epochs = []
        for metrics in train_classifier(model, data, settings, checkpoint, get_images):
            epochs.append(metrics)
            if on_epoch:
                on_epoch(settings, metrics)
        total = count_parameters(model.parameters())
        shared = count_parameters(shared_parameters(model))
        counts = {"total": total, "shared": shared, "task": total - shared}
        tested = evaluate(model, data, "test", get_images, settings, "test_")
        return epochs, tested | {"parameters": counts}

    return kept_record(settings, places, data, work)


def _autocast(images_BCHW: Tensor, settings: ClassifierSettings) -> torch.autocast:
    return torch.autocast(
        images_BCHW.device.type, torch.bfloat16, settings.precision == "bfloat16")
