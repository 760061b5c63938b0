"""Networks that grow branches while they learn: settings, and training in rounds.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, Algorithm 1
and section 4.5; gradient clip and cap on branches are those of the authors' code.
Shapes: B batch, T tasks, C channels, H W height and width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modlib import classification
from modlib.arrays import to_json
from modlib.batches import batches_in_round
from modlib.datasets import AttributeImages
from modlib.epochs import train_epochs
from modlib.errors import ModlibError
from modlib.optimisers import build_optimiser
from modlib.settings import RunSettings
from modlib.somp import FILTERS
from modlib.task_grouping import TaskAffinity, branch_affinity, choose_clusters
from modlib.thin_vgg import (
    LAYERS,
    VGG16_WIDTHS,
    BranchingVgg,
    Groups,
    poolings_above,
    thin_widths,
)
from modlib.toy_faces import TOY_FACE_ATTRIBUTES

REGROWN = ("retrained", "shuffled")  # on the tree of a branched run, from the start


@dataclass(frozen=True)
class BranchingSettings(RunSettings):
    """Everything that decides the outcome of one run on given data.

    The defaults of optimisation are the paper's, but for the number of epochs: batches of 32, 1e-3
    and a tenth of it every third of the training, a branching round every 1,000 batches. The paper
    names no optimiser.
    """

    kind = "branching-"

    profile: str = "quick"  #: names the records
    #: or celeba, folder
    dataset: Literal["toy_faces", "celeba", "folder"] = "toy_faces"
    tasks: tuple[str, ...] = TOY_FACE_ATTRIBUTES[:20]  #: names of attributes
    image_size: int = 64  #: pixels
    toy_images: int = 2000  #: how many toy faces to draw
    #: wide, thin, or with a tree (grown here, another run's, or that one's with its tasks shuffled)
    system: Literal["wide", "thin", "branched", "retrained", "shuffled"] = "branched"
    thinness: int = 32  #: ω
    wide_thinness: int = 64  #: ω of the wide network that SOMP starts from
    somp: bool = True  #: False for random first weights
    #: which of the wide network's it starts with; all of them to be as wide
    filters: Literal[FILTERS] = "somp"
    scales: bool = False  #: a scale per task and channel after conv5_3, fc6 and fc7
    alpha: float = 1.0  #: branching factor α; the larger, the more branches
    round_batches: int = 1000  #: between two branching rounds
    affinity_decay: float = 0.99  #: of the running averages, a batch
    bn_decay: float = 0.9  #: of batch norm's running averages
    batch_size: int = 32  #: images
    horizontal_flip: bool = True  #: mirror every second image, at random
    epochs: int = 2  #: validation and a checkpoint after each
    batches_per_epoch: int | None = None  #: None for all whole batches
    optimiser: Literal["adam", "adagrad"] = "adam"  #: or adagrad
    learning_rate: float = 1e-3  #: at the start
    scale_rate_factor: float = 1.0  #: the scales' learning rate over the network's
    #: how the learning rate falls
    schedule: Literal["tenth_every_third", "tenth_for_last_30_percent", "tenth_every_40_epochs",
                      "cosine"] = "tenth_every_third"
    gradient_clip: float = 20.0  #: largest norm of all gradients together
    precision: Literal["bfloat16", "float32"] = "bfloat16"  #: or float32
    ucr_every: int = 0  #: probe every k-th batch; 0 for never
    seed: int = 0  #: of all that is drawn at random

    def __post_init__(self):
        super().__post_init__()
        if self.wide_thinness < self.thinness:
            raise ModlibError(f"wide_thinness must be at least thinness, {self.thinness}; given "
                              f"{self.wide_thinness}")
        if self.filters != "somp" and (self.system == "wide" or not self.somp):
            raise ModlibError(
                f"filters={self.filters!r} needs a network that starts from a wide one; given "
                f"system={self.system!r} and somp={self.somp}")

    @property
    def omega(self) -> int:
        """ω of the network itself."""
        as_wide = self.system == "wide" or self.filters == "all"
        return self.wide_thinness if as_wide else self.thinness

    @property
    def wide(self) -> "BranchingSettings | None":
        """The run of the wide network that SOMP starts from, or None; one serves every α."""
        if self.system == "wide" or not self.somp:
            return None
        return replace(self._without_scales, system="wide", alpha=BranchingSettings.alpha,
                       filters=BranchingSettings.filters)

    @property
    def trunk_from(self) -> "BranchingSettings | None":
        """The run that this one starts from, which grew the tree or is the wide one.

        It has no scales, so that one serves the runs with scales and those without.
        """
        if self.system in REGROWN:
            return replace(self._without_scales, system="branched")
        return self.wide

    @property
    def _without_scales(self) -> "BranchingSettings":
        """The same without scales, and without probes, which change nothing but the time."""
        defaults = {name: getattr(BranchingSettings, name)
                    for name in ("scales", "scale_rate_factor", "ucr_every")}
        return replace(self, **defaults)


def build_network(settings: BranchingSettings) -> BranchingVgg:
    """The settings' network with one branch a layer, freshly initialised from the seed."""
    widths = thin_widths(settings.omega)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        network = BranchingVgg(
            len(settings.tasks), settings.image_size, widths, settings.bn_decay, settings.scales)
    # In the network, so that a checkpoint holds the averages too.
    network.add_module("affinity", TaskAffinity(len(settings.tasks), settings.affinity_decay))
    if settings.system != "branched":
        network.active = -1
    return network.to(memory_format=torch.channels_last)


def _train_all(optimiser: torch.optim.Optimizer, network: BranchingVgg) -> None:
    """Hand the optimiser the network's parameters, in the network's order, but for its scales.

    These have a group of their own, which splitting a layer leaves as it is.
    """
    scales = {id(parameter) for parameter in network.modulation.parameters()}
    optimiser.param_groups[0]["params"] = [
        parameter for parameter in network.parameters() if id(parameter) not in scales]


def _fresh(optimiser: torch.optim.Optimizer, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A parameter's state as it is before the first step."""
    start = {"sum": optimiser.defaults.get("initial_accumulator_value", 0.0)}  # Adagrad's
    return {name: torch.full_like(value, start.get(name, 0.0)) for name, value in state.items()}


def branching_round(
    network: BranchingVgg, optimiser: torch.optim.Optimizer, settings: BranchingSettings
) -> dict[str, Any]:
    """Decide on the active layer and split it; its branches forget the optimiser's averages.

    These are of all tasks' gradients, where a branch gets those of its own tasks: Adam's, kept,
    would hold the branches' steps back for hundreds of batches. (The authors' code has a new
    optimiser each round.)

    Returns:
        what was decided and why, with ``layer``, ``affinity`` of the tasks (T, T),
        ``objectives`` for each number of branches, and the layer's ``groups`` of tasks.
    """
    index = network.active
    layer, above = LAYERS[index], network.branches_above(index)
    affinity_TT = network.affinity.affinity_TT.cpu().numpy().copy()  # it is reset below
    # As the authors cap it: no more filters in all than the layer has in VGG-16.
    most = max(1, VGG16_WIDTHS[layer] // thin_widths(settings.omega)[layer])
    choice = choose_clusters(branch_affinity(affinity_TT, above), settings.alpha,
                             poolings_above(layer), most, settings.seed * len(LAYERS) + index)
    for copy, original in network.widen(choice.clusters):
        for new, old in zip(copy.parameters(), original.parameters(), strict=True):
            for one in (old, new) if old in optimiser.state else ():
                optimiser.state[one] = _fresh(optimiser, optimiser.state[old])
    _train_all(optimiser, network)
    network.affinity.reset()
    return {"layer": layer, "affinity": to_json(affinity_TT.astype(np.float32)),
            "objectives": choice.objectives,
            "groups": named_groups(network.groups[index], settings.tasks)}


def named_groups(groups: Groups, tasks: tuple[str, ...]) -> list[list[str]]:
    """A layer's groups with the names of their tasks."""
    return [[tasks[task] for task in of_branch] for of_branch in groups]


def train_one_epoch(network, optimiser, data, get_images, settings, epoch) -> dict[str, Any]:
    """Take a step a batch of random images; after every ``round_batches``, split a layer.

    The rounds go from the top layer down and end at the first layer that is not split. Every
    ``ucr_every``-th batch is probed over what all tasks share at that moment, if they share any.
    """
    rounds, before = [], epoch * batches_in_round(data, settings)
    right_T, seen = torch.zeros(len(settings.tasks), dtype=torch.int64), 0

    def after_step(number: int, logits_BT: Tensor, labels_BT: Tensor) -> None:
        nonlocal seen
        right_T.add_(((logits_BT > 0) == labels_BT).sum(0).cpu())
        seen += len(labels_BT)
        if network.active < 0:
            return
        network.affinity.add(logits_BT, labels_BT)
        done = before + number + 1
        if done % settings.round_batches == 0:
            rounds.append({"batch": done} | branching_round(network, optimiser, settings))

    metrics = classification.train_one_epoch(
        network, optimiser, data, get_images, settings, epoch, BranchingVgg.shared_parameters,
        settings.gradient_clip, after_step)
    right = dict(zip(settings.tasks, (right_T / seen).tolist(), strict=True))
    return metrics | {"train_accuracy": right, "rounds": rounds}


def train_branching(
    network: BranchingVgg,
    data: AttributeImages,
    settings: BranchingSettings,
    checkpoint: Path | None = None,
    get_images: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train on the train split, epoch by epoch, splitting layers on the way (Algorithm 1).

    Yields:
        one dictionary an epoch, with ``epoch``, ``loss``, ``task_losses``, ``train_accuracy`` (of
        the batches as they come, before their step), ``valid_accuracy`` and ``valid_auc`` by task,
        ``rounds`` (as :func:`~modlib.adaptive_branching.branching_round`
        gives them, with their ``batch``), ``ucr`` counts by pair, ``images``, ``seconds``.
    """
    optimiser = build_optimiser(network, settings)
    # A checkpoint's network brings its own branches: the optimiser's averages are theirs.
    hook = network.register_load_state_dict_post_hook(lambda *_: _train_all(optimiser, network))
    try:
        yield from train_epochs(network, optimiser, data, settings, checkpoint, get_images,
                                train_one_epoch, classification.validate)
    finally:
        hook.remove()
