"""The systems that are compared on one trunk: what is shared, and what belongs to a task.

A system is a function from a :class:`Plan` to the modules of the tasks' own, by the stage that
they follow. A new one needs its function and its name in ``SYSTEMS``; the rest reads them there.

Source: Zhao et al., ECCV 2018, sections 4.1 and 4.2; CSN: Veit et al., CVPR 2017, and its code.
Shapes: T tasks, C channels, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modlib.errors import ModlibError, unknown_name
from modlib.modulation import ChannelProjection, ChannelScale, LowRankProjection
from modlib.task_networks import IndependentNetworks, Network, SharedTrunkNetwork
from modlib.trunk import BLOCK_CHANNELS, INITIALISATIONS, SMALLEST_IMAGE, initialise_weights, trunk

MASK_INITIALISATIONS = ("slices", "normal")


@dataclass(frozen=True)
class Plan:
    """What a system is built from: the sizes of :func:`build_network`, checked."""

    num_tasks: int
    channels: dict[str, int]  # of every stage's output, in order; fc last
    modulate_from: int
    branch_size: int
    mask_initialisation: str
    signed_scales: bool
    rank: int
    generator: torch.Generator

    def modulated_stages(self) -> dict[str, int]:
        """The stages from block ``modulate_from`` on, fc included, with their channels."""
        names = list(self.channels)[self.modulate_from - 1:]
        return {name: self.channels[name] for name in names}


def fully_shared(plan: Plan) -> dict[str, nn.Module]:
    """One embedding for all tasks (the paper's FSN)."""
    return {}


def modulated(plan: Plan) -> dict[str, nn.Module]:
    """A scale per task and channel after each stage from ``modulate_from`` on (ours)."""
    return {name: ChannelScale(plan.num_tasks, channels, plan.signed_scales)
            for name, channels in plan.modulated_stages().items()}


def modulated_branches(plan: Plan) -> dict[str, nn.Module]:
    """Scales as in :func:`modulated`, and after fc a branch per task in the place of scales."""
    return modulated(plan) | branches(plan)


def low_rank(plan: Plan) -> dict[str, nn.Module]:
    """Scales and a mixing of ``rank`` directions where :func:`modulated` has scales alone."""
    return {name: LowRankProjection(plan.num_tasks, channels, plan.rank, plan.generator)
            for name, channels in plan.modulated_stages().items()}


def projection(plan: Plan) -> dict[str, nn.Module]:
    """A C×C matrix per task where :func:`modulated` has scales; it starts as the identity."""
    return {name: ChannelProjection(plan.num_tasks, channels)
            for name, channels in plan.modulated_stages().items()}


def csn(plan: Plan) -> dict[str, nn.Module]:
    """A learned mask per task on the embedding alone (conditional similarity network).

    ``"slices"``: each mask starts at 1 on its own D // T numbers of the embedding and at 0.1 on
    the rest. ``"normal"``: from N(0.9, 0.7²); one in ten starts dead under the ReLU.
    """
    masks = ChannelScale(plan.num_tasks, plan.channels["fc"])
    with torch.no_grad():
        if plan.mask_initialisation == "normal":
            masks.weight.normal_(0.9, 0.7, generator=plan.generator)
        else:
            masks.weight.fill_(0.1)
            size = plan.channels["fc"] // plan.num_tasks
            for task in range(plan.num_tasks):
                masks.weight[task, task * size:(task + 1) * size] = 1
    return {"fc": masks}


def branches(plan: Plan) -> dict[str, nn.Module]:
    """A linear branch per task after fc, without bias (IB-256, IB-25): drawn as the trunk is."""
    heads = ChannelProjection(plan.num_tasks, plan.channels["fc"], plan.branch_size)
    nn.init.trunc_normal_(heads.weight, std=0.1, a=-0.2, b=0.2, generator=plan.generator)
    return {"fc": heads}


# "independent" is a fully shared network for each task; "mask_only" is "modulated" on the frozen
# trunk of a trained network of another system.
SYSTEMS = {
    "fully_shared": fully_shared, "independent": fully_shared, "csn": csn, "branches": branches,
    "mask_only": modulated, "modulated": modulated, "projection": projection,
    "modulated_branches": modulated_branches, "low_rank": low_rank,
}
TRUNK_FROM = {"mask_only": "branches"}  # on a trunk from elsewhere: usually from that system


def build_network(
    system: str,
    tasks: Sequence[str],
    image_size: int = 150,
    width: float = 1.0,
    modulate_from: int = 4,
    embedding_size: int = 256,
    bn_decay: float = 0.995,
    branch_size: int = 256,
    mask_initialisation: str = "slices",
    initialisation: str = "normal",
    signed_scales: bool = False,
    rank: int = 4,
    seed: int = 0,
) -> Network:
    """Build one of the compared systems on the Table 2 network, freshly initialised.

    Scales start at 1.

    Args:
        system: ``"fully_shared"``, ``"independent"`` (a network per task), ``"csn"``,
            ``"branches"``, ``"mask_only"``, ``"modulated"``, ``"projection"``,
            ``"modulated_branches"`` or ``"low_rank"``. The trunk of
            ``"mask_only"`` is frozen; :func:`take_trunk` gives it a trained one.
        tasks: the T task names, distinct.
        image_size: side of the square input in pixels, at least 48; the paper's is 150.
        width: multiplies every convolution's channels; 1.0 is the paper's network.
        modulate_from: first modulated block, 2 to 5; every later one and fc follow.
        embedding_size: D, the output of fc, whatever the width.
        bn_decay: decay of batch norm's running averages, in (0, 1).
        branch_size: outputs of each task's branch where there are branches: the paper's 256 or 25.
        mask_initialisation: of ``"csn"``: ``"slices"`` or ``"normal"``.
        initialisation: of the weights: ``"normal"`` (the authors') or ``"kaiming"``.
        signed_scales: scales without the ReLU, see :class:`modlib.modulation.ChannelScale`.
        rank: of ``"low_rank"``, see :class:`modlib.modulation.LowRankProjection`.
        seed: fixes the initial weights; the same for every system with one trunk.

    Raises:
        ModlibError: an unknown system, or a value outside what is said above.
    """
    _check(system, tasks, image_size, width, modulate_from, embedding_size, bn_decay, branch_size,
           mask_initialisation, initialisation, rank)
    generator = torch.Generator().manual_seed(seed)

    def one_network(num_tasks: int) -> SharedTrunkNetwork:
        stages = trunk(image_size, width, embedding_size, bn_decay)
        initialise_weights(stages, generator, initialisation)
        channels = {name: max(1, round(count * width)) for name, count in BLOCK_CHANNELS.items()}
        plan = Plan(num_tasks, channels | {"fc": embedding_size}, modulate_from, branch_size,
                    mask_initialisation, signed_scales, rank, generator)
        network = SharedTrunkNetwork(num_tasks, image_size, stages, SYSTEMS[system](plan))
        return network.to(memory_format=torch.channels_last)

    if system == "independent":
        return IndependentNetworks([one_network(1) for _ in tasks])
    network = one_network(len(tasks))
    if system in TRUNK_FROM:
        network.freeze()
    return network


def take_trunk(network: SharedTrunkNetwork, trained: SharedTrunkNetwork) -> None:
    """Copy the trunk's weights and batch statistics from a trained network of the same sizes."""
    network.stages.load_state_dict(trained.stages.state_dict())


def _check(system, tasks, image_size, width, modulate_from, embedding_size, bn_decay, branch_size,
           mask_initialisation, initialisation, rank) -> None:
    if system not in SYSTEMS:
        raise unknown_name("system", system, SYSTEMS)
    if mask_initialisation not in MASK_INITIALISATIONS:
        raise unknown_name("mask_initialisation", mask_initialisation, MASK_INITIALISATIONS)
    if initialisation not in INITIALISATIONS:
        raise unknown_name("initialisation", initialisation, INITIALISATIONS)
    for name, value in (("image_size", image_size), ("embedding_size", embedding_size),
                        ("branch_size", branch_size), ("rank", rank)):
        if not isinstance(value, int):
            raise ModlibError(f"{name} must be a whole number; given {value!r}")
    for name, value in (("width", width), ("bn_decay", bn_decay)):
        if not isinstance(value, int | float):
            raise ModlibError(f"{name} must be a number; given {value!r}")
    if not isinstance(tasks, list | tuple) or not tasks or len(set(tasks)) != len(tasks):
        raise ModlibError(f"tasks must be one or more distinct names; given {tasks!r}")
    if image_size < SMALLEST_IMAGE:
        raise ModlibError(f"image_size must be at least {SMALLEST_IMAGE}; given {image_size}")
    if not 0 < width <= 8:
        raise ModlibError(f"width must be above 0 and at most 8; given {width}")
    if modulate_from not in (2, 3, 4, 5):
        raise ModlibError(f"modulate_from must be a block, 2 to 5; given {modulate_from!r}")
    for name, value in (("embedding_size", embedding_size), ("branch_size", branch_size),
                        ("rank", rank)):
        if value < 1:
            raise ModlibError(f"{name} must be at least 1; given {value}")
    if not 0 < bn_decay < 1:
        raise ModlibError(f"bn_decay must be between 0 and 1; given {bn_decay}")
    if system == "csn" and embedding_size < len(tasks):
        raise ModlibError(f"csn needs an embedding_size of at least one number a task, "
                          f"{len(tasks)}; given {embedding_size}")
