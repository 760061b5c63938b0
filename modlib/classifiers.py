"""Attribute classifiers on ResNet-18: settings, network and loss.

Source: Zhao et al., ECCV 2018, section 5.1.
Shapes: B batch, T tasks, C channels, H W height and width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from modlib.insertion import insert_modulation
from modlib.modulated_network import ModulatedNetwork
from modlib.settings import RunSettings
from modlib.trunk import normalise_pixels

FEATURES = 512  # what ResNet-18 gives after its pooling


@dataclass(frozen=True)
class ClassifierSettings(RunSettings):
    """Everything that decides the outcome of training one classifier on given data."""

    kind = "classifier-"

    profile: str = "quick"  #: names the records
    dataset: Literal["toy_faces", "celeba", "folder"] = "toy_faces"  #: or celeba, folder
    #: names of attributes
    tasks: tuple[str, ...] = ("Smiling", "Mouth_Slightly_Open", "Young", "Wavy_Hair")
    image_size: int = 64  #: pixels
    toy_images: int = 2000  #: how many toy faces to draw
    #: what the tasks have of their own
    system: Literal["fully_shared", "branches", "modulated"] = "modulated"
    modulate_after: tuple[str, ...] = ("layer3", "layer4", "avgpool")  #: submodules of ResNet-18
    branch_size: int = 128  #: hidden units of a branch
    batch_size: int = 72  #: images
    horizontal_flip: bool = True  #: mirror every second image, at random
    epochs: int = 2  #: validation and a checkpoint after each
    batches_per_epoch: int | None = None  #: None for all whole batches
    optimiser: Literal["adam", "adagrad"] = "adam"  #: or adagrad
    learning_rate: float = 1e-3  #: at the start
    scale_rate_factor: float = 20.0  #: the scales' learning rate over the network's
    #: how the learning rate falls
    schedule: Literal["tenth_for_last_30_percent", "tenth_every_40_epochs", "cosine"] = "cosine"
    precision: Literal["bfloat16", "float32"] = "bfloat16"  #: or float32
    ucr_every: int = 8  #: probe every k-th batch; 0 for never
    seed: int = 0  #: of all that is drawn at random


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
        torch.default_generator.manual_seed(settings.seed)
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
    """Mean binary cross-entropy of each task, float (T,).

    Computes :eq:`eq-bce` of the book's page on the method.
    """
    return F.binary_cross_entropy_with_logits(
        logits_BT, labels_BT.float(), reduction="none").mean(0)
