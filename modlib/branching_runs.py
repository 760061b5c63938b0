"""Runs of networks that grow branches: what they start from, what is measured, their records.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, sections 3.1
and 4.
Shapes: B batch, N images, T tasks, K highest logits, C channels, H W height and width.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modlib.adaptive_branching import (
    REGROWN,
    BranchingSettings,
    build_network,
    named_groups,
    train_branching,
)
from modlib.answers import kept_answers
from modlib.arrays import to_json
from modlib.batches import image_getter
from modlib.classification import check_split, scores, split_logits
from modlib.datasets import AttributeImages
from modlib.epochs import every_epoch, train_to_the_end
from modlib.evaluation import scale_results
from modlib.experiments import load_data
from modlib.held_out import SPLITS
from modlib.kept_runs import checkpoint_path, kept_record
from modlib.machine import choose_device
from modlib.record_checks import ANSWERS, TOP
from modlib.settings import Places
from modlib.somp import start_from_wide
from modlib.speed import side_by_side
from modlib.task_grouping import co_difficulty
from modlib.task_networks import count_parameters
from modlib.thin_vgg import (
    LAYERS,
    VGG16_WIDTHS,
    BranchingVgg,
    count_layer_weights,
    without_batch_norm,
)

RECALL_DEPTH = 10


def in_top(logits_NT: np.ndarray, count: int = RECALL_DEPTH) -> np.ndarray:
    """Which attributes are among the so many of highest logit in their image: bool (N, T).

    Of equal logits the first task's counts as higher.
    """
    highest_NK = np.argsort(-logits_NT, axis=1, kind="stable")[:, :count]
    top_NT = np.zeros(logits_NT.shape, bool)
    np.put_along_axis(top_NT, highest_NK, True, axis=1)
    return top_NT


def top_recall(top_NT: np.ndarray, labels_NT: np.ndarray) -> float:
    """Top-k recall: of an attribute's holders, the share that have it among their k highest logits.

    The mean over attributes that someone has. The paper reports the measure (Table 1) and does not
    define it; this is what the authors' public code computes.

    Args:
        top_NT: from :func:`in_top`; k is 10 in the paper.
        labels_NT: bool.

    Returns:
        a share from 0 to 1.
    """
    holders_T = labels_NT.sum(0)
    return float(((top_NT & labels_NT).sum(0)[holders_T > 0] / holders_T[holders_T > 0]).mean())


@torch.no_grad()
def milliseconds_per_image(network: BranchingVgg, image_size: int) -> dict[str, float]:
    """Median time of one image through the network, and through a whole VGG-16 beside it.

    Both in float32, without batch norm (section 4.5), timed in turn on the network's device.
    """
    device = network.output.weight.device
    vgg16 = BranchingVgg(network.num_tasks, image_size, VGG16_WIDTHS).to(
        device, memory_format=torch.channels_last)
    pixels_BCHW = torch.zeros(1, 3, image_size, image_size, device=device).to(
        memory_format=torch.channels_last)

    def once(timed: BranchingVgg) -> Callable[[], None]:
        folded = without_batch_norm(timed)
        return lambda: folded(pixels_BCHW).cpu()  # which waits for the device

    seconds = side_by_side({"network": once(network), "vgg16": once(vgg16)}, repeats=11, warm_up=2)
    return {name: 1000 * median(each) for name, each in seconds.items()}


def run_branching(
    settings: BranchingSettings,
    places: Places,
    on_epoch: Callable[[BranchingSettings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Do one run and return its record; see :func:`modlib.experiments.run`.

    A run that starts from another's network or tree first does that run, or reads its record.
    """
    data = load_data(settings, places)

    def work(checkpoint: Path, device: torch.device) -> tuple[list, dict[str, Any]]:
        for split in SPLITS:  # before training: what cannot be trained or scored is told now
            check_split(data, split)
        get_images = image_getter(data, device)
        network, origin = _untrained_network(settings, places, data, get_images)
        epochs = every_epoch(
            train_branching(network, data, settings, checkpoint, get_images), settings, on_epoch)
        return epochs, origin | _results(network, data, settings, get_images)

    return kept_record(settings, places, data, work)


def _results(network, data, settings, get_images) -> dict[str, Any]:
    """What a trained network achieves, how it sees its tasks relate, and what it costs."""
    def logits_and_labels(split: str) -> tuple[np.ndarray, np.ndarray]:
        return (split_logits(network, data, split, get_images, settings),
                data.labels_NT[data.indices(split)])

    affinity_TT, hard_T = co_difficulty(*logits_and_labels("valid"))
    logits_NT, labels_NT = logits_and_labels("test")
    top_NT = in_top(logits_NT)
    tested = scores(logits_NT, labels_NT, settings.tasks, "test_")
    return tested | scale_results(network.modulation, settings.tasks) | {
        ANSWERS: kept_answers(((logits_NT > 0) == labels_NT).T),
        "top_recall": top_recall(top_NT, labels_NT),
        TOP: kept_answers(top_NT.T, labels_NT.T),
        "affinity": to_json(affinity_TT.astype(np.float32)),
        "hard": dict(zip(settings.tasks, hard_T.tolist(), strict=True)),
        "groups": {name: named_groups(groups, settings.tasks)
                   for name, groups in zip(LAYERS, network.groups, strict=True)},
        "parameters": _counts(network),
        "run": {"milliseconds": milliseconds_per_image(network, settings.image_size)}}


def _counts(network: BranchingVgg) -> dict[str, int]:
    total = count_parameters(network.parameters())
    shared = count_parameters(network.shared_parameters())
    return {"total": total, "shared": shared, "task": total - shared,
            "weights": count_layer_weights(network)}


def _untrained_network(settings, places, data, get_images) -> tuple[BranchingVgg, dict[str, Any]]:
    """A run's network before its training, and for its record what it started from."""
    network, origin = build_network(settings).to(choose_device(places.device)), {}
    if settings.trunk_from:
        before = run_branching(settings.trunk_from, places)
        origin["trunk_from"] = before["name"]
    if settings.wide:
        wide = trained_network(settings.wide, places, data, get_images)
        errors = start_from_wide(network, wide, settings.seed, settings.filters)
        if errors:
            origin["somp_errors"], origin["random_errors"] = errors
    if settings.system in REGROWN:
        network.take_groups(_tree(before, settings))
    return network, origin


def _tree(record: dict[str, Any], settings: BranchingSettings) -> list[list[list[int]]]:
    """The tree that a branched run has grown; for ``"shuffled"`` with its tasks at random places.

    The shuffled tree has the same shape, so that it costs the same.
    """
    places_T = np.arange(len(settings.tasks))
    if settings.system == "shuffled":
        places_T = np.random.default_rng(settings.seed).permutation(len(settings.tasks))
    place = dict(zip(settings.tasks, places_T.tolist(), strict=True))
    return [[[place[task] for task in tasks] for tasks in record["results"]["groups"][name]]
            for name in LAYERS]


def trained_network(
    settings: BranchingSettings,
    places: Places,
    data: AttributeImages,
    get_images: Callable[[Tensor], Tensor],
) -> BranchingVgg:
    """The network of a run, from its last checkpoint; what the checkpoint lacks is trained again.

    Args:
        data: the run's data; images and network are on the device of ``places``.
        get_images: as :func:`modlib.batches.image_getter` makes it.
    """
    network, _ = _untrained_network(settings, places, data, get_images)
    checkpoint = checkpoint_path(settings, places, data.fingerprint)
    train_to_the_end(train_branching(network, data, settings, checkpoint, get_images), checkpoint)
    return network
