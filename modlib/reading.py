"""Systems that answer every task of an image: from settings to a record and its maps.

Source: Levi and Ullman, section 4.
Shapes: B batch, T tasks, N images, H W height and width.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modlib.answers import kept_answers
from modlib.arrays import from_json, to_json
from modlib.batches import image_getter
from modlib.clevr import load_clevr
from modlib.cub_200 import load_cub_200
from modlib.epochs import every_epoch, train_to_the_end
from modlib.errors import ModlibError
from modlib.evaluation import scale_results
from modlib.held_out import SPLITS
from modlib.kept_runs import checkpoint_path, kept_record
from modlib.machine import choose_device
from modlib.modulated_network import ModulatedNetwork
from modlib.multi_mnist import CLASSES, load_multi_mnist
from modlib.reader_losses import POINTS
from modlib.reader_training import (
    GetImages,
    check_asked,
    share_right,
    split_answers,
    train_reader,
)
from modlib.record_checks import ANSWERS
from modlib.results import resolve
from modlib.settings import Places
from modlib.task_images import UNKNOWN, TaskImages
from modlib.task_readers import ReaderSettings, all_streams, build_reader
from modlib.top_down import TopDownNetwork, count_weights

SHOWN = 4  # test images whose top-down maps a record keeps
PIXELS = ("own digit", "other digits", "background")  # of an image, as a task sees it


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


@torch.no_grad()
def top_down_maps(
    model: TopDownNetwork, data: TaskImages, indices: np.ndarray,
    get_images: GetImages | None = None, taught: bool = False,
) -> np.ndarray:
    """Where each task looks, from 0 to 1: float32 (T, B, H, W).

    Args:
        taught: False: what modulates the image, through a sigmoid. True: the last top-down map, as
            the loss on blurred points sees it (:func:`~modlib.reader_losses.place_losses`): its
            softmax over the pixels, as a share of the highest.
    """
    model.eval()
    get_images = get_images or image_getter(data, next(model.parameters()).device)
    streams = all_streams(model, get_images(torch.from_numpy(indices)))
    if not taught:
        return torch.sigmoid(streams.image_z).cpu().numpy()
    maps_TBHW = streams.maps.float()
    return torch.exp(maps_TBHW - maps_TBHW.amax((2, 3), keepdim=True)).cpu().numpy()


def gate_sums(maps_TBHW: np.ndarray, places_BTHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each task's map over its own digit's pixels, the other digits' and the rest.

    A pixel where digits overlap belongs to each task's own.

    Args:
        maps_TBHW: float.
        places_BTHW: 1 on the pixels of each task's own digit, else 0.

    Returns:
        the sums, float (T, 3), and how many pixels they are over, int (T, 3); in the order of
        ``PIXELS``.
    """
    own_TBHW = places_BTHW.transpose(1, 0, 2, 3) > 0
    background_TBHW = np.broadcast_to(~own_TBHW.any(0), own_TBHW.shape)
    parts = (own_TBHW, ~own_TBHW & ~background_TBHW, background_TBHW)
    return (np.stack([(maps_TBHW * part).sum((1, 2, 3), dtype=np.float64) for part in parts], 1),
            np.stack([part.sum((1, 2, 3)) for part in parts], 1))


def gate_means(
    model: TopDownNetwork, data: TaskImages, get_images: GetImages, images_at_once: int = 500
) -> dict[str, dict[str, float]]:
    """The mean of the gate σ(Z) over each kind of ``PIXELS`` in the test split, by task.

    Args:
        data: with ``places`` of 0 and 1.
    """
    indices, sums_T3, counts_T3 = data.indices("test"), 0.0, 0
    for start in range(0, len(indices), images_at_once):
        part = indices[start:start + images_at_once]
        more = gate_sums(top_down_maps(model, data, part, get_images), data.places(part))
        sums_T3, counts_T3 = sums_T3 + more[0], counts_T3 + more[1]
    return {task: {pixels: float(total / count) for pixels, total, count in
                   zip(PIXELS, sums_3, counts_3, strict=True) if count}
            for task, sums_3, counts_3 in zip(data.tasks, sums_T3, counts_T3, strict=True)}


def run_reader(
    settings: ReaderSettings,
    places: Places,
    on_epoch: Callable[[ReaderSettings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test one system and return its record; see :func:`modlib.experiments.run`."""
    data = load_tasks(settings, places)

    def work(checkpoint: Path, device: torch.device) -> tuple[list, dict[str, Any]]:
        for split in SPLITS:  # before training: what cannot be trained or scored is told now
            check_asked(data, split)
        model = build_reader(settings, data.classes).to(device)
        get_images = image_getter(data, device)
        epochs = every_epoch(
            train_reader(model, data, settings, checkpoint, get_images), settings, on_epoch)
        answers_NT = split_answers(model, data, "test", get_images)
        return epochs, {"test_accuracy": share_right(answers_NT, data, "test"),
                        ANSWERS: _kept(answers_NT, data),
                        "parameters": {"weights": count_weights(model)},
                        **_of_system(model, data, get_images, settings)}

    return kept_record(settings, places, data, work)


def trained_reader(settings: ReaderSettings, places: Places) -> nn.Module:
    """The model of a run, from its last checkpoint; what the checkpoint lacks is trained again."""
    data, device = load_tasks(settings, places), choose_device(places.device)
    model = build_reader(settings, data.classes).to(device)
    checkpoint = checkpoint_path(settings, places, data.fingerprint)
    train_to_the_end(train_reader(model, data, settings, checkpoint), checkpoint)
    return model


def shown_maps(
    settings: ReaderSettings, places: Places, record: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Some test images, as grey ones, and where each task looks: uint8 (B, H, W) and (T, B, H, W).

    From the record where it kept them; else from the trained network, as :func:`trained_reader`
    gives it. Where the network was taught the place of points, it is the taught map.

    Args:
        settings, places: of a run of ``"top_down"``.
        record: the run's.
    """
    if kept := record["results"].get("maps"):
        return from_json(kept["images"]), from_json(kept["maps"])
    data = load_tasks(settings, places)
    indices, model = data.indices("test")[:SHOWN], trained_reader(settings, places)
    taught = settings.td_weight > 0 and settings.dataset in POINTS
    return (data.images_NCHW[indices].mean(1).astype(np.uint8),
            _as_bytes(top_down_maps(model, data, indices, taught=taught)))


def _as_bytes(shares: np.ndarray) -> np.ndarray:
    return np.round(255 * shares).astype(np.uint8)


def _kept(answers_NT: np.ndarray, data: TaskImages) -> dict[str, Any]:
    """The answers of the test split for the record."""
    test = data.indices("test")
    labels_NT, parts_NM = data.labels_NT[test], data.parts_NM
    kept = kept_answers((answers_NT == labels_NT).T, (labels_NT != UNKNOWN).T,
                        None if parts_NM is None else parts_NM[test])
    return kept if parts_NM is None else kept | {
        "wrong": wrong_answers(answers_NT, labels_NT, data.tasks)}


def wrong_answers(
    answers_NT: np.ndarray, labels_NT: np.ndarray, tasks: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How many answers of each task are wrong, and how many of these are another task's digit.

    Args:
        answers_NT, labels_NT: int64, digits from 0 to 9.

    Returns:
        by task ``count``, ``of_others``, and ``by_chance``: how many would be another's if each
        wrong answer were any of the nine wrong digits, at random.
    """
    found = {}
    for t, task in enumerate(tasks):
        wrong_N = answers_NT[:, t] != labels_NT[:, t]
        others = [set(row) for row in np.delete(labels_NT, t, axis=1)[wrong_N].tolist()]
        answered, own = answers_NT[wrong_N, t].tolist(), labels_NT[wrong_N, t].tolist()
        found[task] = {
            "count": len(others),
            "of_others": sum(one in there for one, there in zip(answered, others, strict=True)),
            "by_chance": sum(len(there - {right}) for right, there in
                             zip(own, others, strict=True)) / (CLASSES - 1)}
    return found


def _of_system(
    model: nn.Module, data: TaskImages, get_images: GetImages, settings: ReaderSettings
) -> dict[str, Any]:
    """What only some systems have, for the record: channel modulation's scales; on digits, whose
    pixels are known, where a top-down network looks.

    Of the latter the means of its gates where it has some, and some test images with their maps:
    digits are small and free.
    """
    if isinstance(model, ModulatedNetwork):
        return scale_results({name: inserted.scale for name, inserted in model.modulation.items()},
                             settings.tasks)
    if not isinstance(model, TopDownNetwork) or data.images_NCHW.shape[1] > 1:
        return {}
    indices = data.indices("test")[:SHOWN]
    maps_TBHW = _as_bytes(top_down_maps(model, data, indices, get_images))
    maps = {"maps": {"images": to_json(data.images_NCHW[indices, 0]), "maps": to_json(maps_TBHW)}}
    if settings.into_bu2 != "gate_sigmoid":
        return maps
    return maps | {"gates": gate_means(model, data, get_images)}
