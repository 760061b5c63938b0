"""Systems that answer every task of an image: trained, tested and recorded.

Source: Levi and Ullman, section 4.
Shapes: B batch, T tasks, K classes, N images, C channels, H W height and width.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modlib.aggregation import aggregate_gradients
from modlib.arrays import from_json, to_json
from modlib.batches import image_getter, shuffled_batches
from modlib.checkpoints import resumable_epochs
from modlib.clevr import load_clevr
from modlib.cub_200 import load_cub_200
from modlib.errors import ModlibError
from modlib.experiments import checkpoint_path, kept_record
from modlib.gradients import gramian, task_gradients
from modlib.machine import choose_device, to_device
from modlib.multi_mnist import load_multi_mnist
from modlib.optimisers import build_optimiser, set_rates
from modlib.results import resolve
from modlib.settings import Places
from modlib.task_images import UNKNOWN, TaskImages
from modlib.task_readers import (
    ReaderSettings,
    all_streams,
    build_reader,
    one_task_streams,
    shared_parameters,
    takes_one_task,
    task_losses,
)
from modlib.top_down import TopDownNetwork, count_weights

PIXELS_AT_ONCE = 500 * 28 * 28
SHOWN = 4  # test images whose top-down maps a record keeps
GetImages = Callable[[Tensor], Tensor]


def load_tasks(settings: ReaderSettings, places: Places) -> TaskImages:
    """The images and the answers to ``settings.tasks``.

    Raises:
        ModlibError: the data set needs ``data_root`` and there is none, or it cannot be read.
    """
    root = places.data_root and resolve(places.data_root)
    if settings.dataset == "digits":
        root = None
    elif root is None:
        raise ModlibError(f"dataset {settings.dataset!r} needs data_root: the folder that holds "
                          "it; given None")
    if load := {"clevr": load_clevr, "cub_200": load_cub_200}.get(settings.dataset):
        cache_dir = places.cache_dir and str(resolve(places.cache_dir))
        return load(root, settings.tasks, settings.image_size, cache_dir, places.skip_broken)
    return load_multi_mnist(
        root, settings.tasks, settings.train_images, settings.test_images, settings.canvas)


def train_reader(
    model: nn.Module,
    data: TaskImages,
    settings: ReaderSettings,
    checkpoint: Path | None = None,
    get_images: GetImages | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch; see :func:`modlib.training.train`.

    Yields:
        one dictionary an epoch: ``epoch``, ``loss``, ``task_losses``, ``valid_accuracy`` by task,
        ``images``, ``seconds``.
    """
    optimiser = build_optimiser(model, settings)
    get_images = get_images or image_getter(data, next(model.parameters()).device)

    def one_epoch(epoch: int) -> dict[str, Any]:
        metrics = train_one_epoch(model, optimiser, data, get_images, settings, epoch)
        return metrics | {"valid_accuracy": accuracy(model, data, "valid", get_images)}

    yield from resumable_epochs(
        one_epoch, settings.epochs, checkpoint, settings.run_name(data.fingerprint), model,
        optimiser)


def train_one_epoch(model, optimiser, data, get_images, settings, epoch) -> dict[str, Any]:
    """Take a step a batch of random images; every task is asked about each of them."""
    rng, train = np.random.default_rng([settings.seed, epoch]), data.indices("train")
    draws = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    size = min(settings.batch_size, len(train))
    batches = settings.batches_per_epoch or len(train) // size
    loss_sum_T = torch.zeros(len(settings.tasks))
    model.train()
    for number, indices_B in enumerate(shuffled_batches(train, size, batches, rng)):
        set_rates(optimiser, settings, epoch, number, batches)
        batch = _batch(data, indices_B, get_images, settings)
        if settings.tasks_together or not takes_one_task(model):
            losses_T = task_losses(all_streams(model, batch[0]), *batch[1:], settings)
            take_step(model, optimiser, losses_T, settings, draws)
        else:
            losses_T = take_step_by_task(model, optimiser, *batch, settings)
        loss_sum_T += losses_T.detach().cpu()
    losses = (loss_sum_T / batches).tolist()
    if not all(math.isfinite(loss) for loss in losses):
        raise ModlibError(
            f"the loss of epoch {epoch + 1} is not finite ({losses}); a lower learning_rate than "
            f"{settings.learning_rate} may help; earlier epochs are kept in the checkpoint")
    return {"epoch": epoch + 1, "loss": sum(losses) / len(losses),
            "task_losses": dict(zip(settings.tasks, losses, strict=True)),
            "images": batches * size}


def take_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, losses_T: Tensor,
    settings: ReaderSettings, draws: torch.Generator,
) -> None:
    """One step on the mean of the tasks' losses; on MGDA's weighting of them for ``"moo"``.

    Separate networks take their sum, so that each sees its own mean loss, as if alone.

    Args:
        draws: where the weighting would draw from; MGDA does not.
    """
    shared = shared_parameters(model)
    if settings.system == "moo":
        gradients_TP = task_gradients(losses_T, shared)
    optimiser.zero_grad(set_to_none=True)
    (losses_T.mean() if shared else losses_T.sum()).backward()
    if settings.system == "moo":
        aggregate_gradients("mgda", gradients_TP, gramian(gradients_TP), shared, draws)
    optimiser.step()


def take_step_by_task(
    model: nn.Module, optimiser: torch.optim.Optimizer, images_BCHW: Tensor, labels_BT: Tensor,
    places_BTHW: Tensor | None, settings: ReaderSettings,
) -> Tensor:
    """The step of :func:`take_step` on the mean, with no more than one task in memory at a time.

    Up to rounding it is the same step, but where there is batch norm: it then sees one task at a
    time too.

    Returns:
        every task's loss before the step, float (T,), without graph.
    """
    optimiser.zero_grad(set_to_none=True)
    losses = []
    for task in range(len(settings.tasks)):
        own = slice(task, task + 1)
        [loss] = task_losses(
            one_task_streams(model, images_BCHW, task), labels_BT[:, own],
            None if places_BTHW is None else places_BTHW[:, own], settings)
        (loss / len(settings.tasks)).backward()
        losses.append(loss.detach())
    optimiser.step()
    return torch.stack(losses)


@torch.no_grad()
def accuracy(
    model: nn.Module, data: TaskImages, split: str, get_images: GetImages,
    batch_size: int | None = None,
) -> dict[str, float]:
    """The share of right answers of every task on one split, over the images that it asks about.

    Args:
        batch_size: images that are answered at once; None: as many as have ``PIXELS_AT_ONCE``.

    Raises:
        ModlibError: a task that asks about no image of the split, or logits that are not finite.
    """
    model.eval()
    batch_size = batch_size or max(1, PIXELS_AT_ONCE // data.images_NCHW.shape[-1] ** 2)
    indices = torch.from_numpy(data.indices(split))
    answers = []
    for part in indices.split(batch_size):
        logits_TBK = all_streams(model, get_images(part)).logits
        if not torch.isfinite(logits_TBK).all():
            raise ModlibError("logits are not finite; a lower learning_rate may help")
        answers.append(logits_TBK.argmax(2).T.cpu())
    right_NT = torch.cat(answers).numpy() == data.labels_NT[indices.numpy()]
    asked_T = (data.labels_NT[indices.numpy()] != UNKNOWN).sum(0)
    for task, asked in zip(data.tasks, asked_T, strict=True):
        if asked == 0:
            raise ModlibError(f"task {task!r} asks about no image of the {split} split")
    return {task: float(right / asked) for task, right, asked in
            zip(data.tasks, right_NT.sum(0), asked_T, strict=True)}


@torch.no_grad()
def top_down_maps(
    model: TopDownNetwork, data: TaskImages, indices: np.ndarray,
    get_images: GetImages | None = None,
) -> np.ndarray:
    """Where each task looks: what modulates the image, through a sigmoid, float32 (T, B, H, W)."""
    model.eval()
    get_images = get_images or image_getter(data, next(model.parameters()).device)
    return torch.sigmoid(all_streams(model, get_images(torch.from_numpy(indices))).image_z
                         ).cpu().numpy()


def run_reader(
    settings: ReaderSettings,
    places: Places,
    on_epoch: Callable[[ReaderSettings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test one system and return its record; see :func:`modlib.experiments.run`."""
    data = load_tasks(settings, places)

    def work(checkpoint: Path, device: torch.device) -> tuple[list, dict[str, Any]]:
        model = build_reader(settings, data.classes).to(device)
        get_images, epochs = image_getter(data, device), []
        for metrics in train_reader(model, data, settings, checkpoint, get_images):
            epochs.append(metrics)
            if on_epoch:
                on_epoch(settings, metrics)
        return epochs, {"test_accuracy": accuracy(model, data, "test", get_images),
                        "parameters": {"weights": count_weights(model)},
                        **_kept_maps(model, data, get_images)}

    return kept_record(settings, places, data, work)


def trained_reader(settings: ReaderSettings, places: Places) -> nn.Module:
    """The model of a run, from its last checkpoint; what the checkpoint lacks is trained again."""
    data, device = load_tasks(settings, places), choose_device(places.device)
    model = build_reader(settings, data.classes).to(device)
    for _ in train_reader(
            model, data, settings, checkpoint_path(settings, places, data.fingerprint)):
        pass
    return model


def shown_maps(
    settings: ReaderSettings, places: Places, record: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Some test images, as grey ones, and where each task looks: uint8 (B, H, W) and (T, B, H, W).

    From the record where it kept them; else from the trained network, as :func:`trained_reader`
    gives it.

    Args:
        settings, places: of a run of ``"top_down"``.
        record: the run's.
    """
    if kept := record["results"].get("maps"):
        return from_json(kept["images"]), from_json(kept["maps"])
    data = load_tasks(settings, places)
    indices, model = data.indices("test")[:SHOWN], trained_reader(settings, places)
    return (data.images_NCHW[indices].mean(1).astype(np.uint8),
            _as_bytes(top_down_maps(model, data, indices)))


def _as_bytes(shares: np.ndarray) -> np.ndarray:
    return np.round(255 * shares).astype(np.uint8)


def _batch(data, indices_B, get_images, settings) -> tuple[Tensor, Tensor, Tensor | None]:
    images_BCHW = get_images(indices_B)
    labels_BT = torch.from_numpy(data.labels_NT[indices_B.numpy()])
    places_BTHW = None
    if settings.td_weight > 0:
        places_BTHW = to_device(torch.from_numpy(data.places(indices_B.numpy())),
                                images_BCHW.device)
    return images_BCHW, to_device(labels_BT, images_BCHW.device), places_BTHW


def _kept_maps(model: nn.Module, data: TaskImages, get_images: GetImages) -> dict[str, Any]:
    """Some test images and their maps for the record; only of digits, which are small and free."""
    if not isinstance(model, TopDownNetwork) or data.images_NCHW.shape[1] > 1:
        return {}
    indices = data.indices("test")[:SHOWN]
    maps_TBHW = _as_bytes(top_down_maps(model, data, indices, get_images))
    return {"maps": {"images": to_json(data.images_NCHW[indices, 0]), "maps": to_json(maps_TBHW)}}
