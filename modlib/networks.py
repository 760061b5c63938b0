"""The systems that are compared on one trunk: what is shared, and what belongs to a task.

Source: Zhao et al., ECCV 2018, section 4.1.
Shapes: B batch, T tasks, C channels, H W height and width, D embedding.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.errors import ModlibError, unknown_name
from modlib.modulation import ChannelScale
from modlib.trunk import (
    BLOCK_CHANNELS,
    SMALLEST_IMAGE,
    initialise_weights,
    normalise_pixels,
    trunk,
)

SYSTEMS = ("fully_shared", "independent", "modulated")


class SharedTrunkNetwork(nn.Module):
    """One trunk for all tasks, with a :class:`ChannelScale` after some of its stages.

    Without any modulated stage this is the fully shared network: one embedding for all tasks.

    Args:
        num_tasks: T.
        image_size: side of the input in pixels.
        stages: the trunk, as :func:`trunk` builds it.
        modulated: ``{stage name: its output channels}`` for the stages to modulate.
    """

    def __init__(
        self, num_tasks: int, image_size: int, stages: nn.ModuleDict, modulated: dict[str, int]
    ):
        super().__init__()
        self.num_tasks, self.image_size = num_tasks, image_size
        self.stages = stages
        self.modulation = nn.ModuleDict(
            {name: ChannelScale(num_tasks, channels) for name, channels in modulated.items()}
        )

    def forward(self, images_BCHW: Tensor, task_B: Tensor) -> Tensor:
        """Embed each image for its own task.

        Args:
            images_BCHW: pixels 0 to 255, uint8 or float, RGB.
            task_B: int64 (B,), task indices in [0, T).

        Returns:
            embeddings_BD, float32, normalised to length 1 after the modulation. (Zero where
            all of a task's last scales are dead.)

        Raises:
            ModlibError: images of another shape, or a task index outside [0, T).
        """
        _check_images(images_BCHW, self.image_size)
        _check_task_indices(task_B, self.num_tasks)
        x = normalise_pixels(images_BCHW)
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.modulation:
                x = self.modulation[name](x, task_B)
        return F.normalize(x.float(), dim=1)

    def embed_all_tasks(self, images_BCHW: Tensor) -> Tensor:
        """Embed each image for every task; what no task changes is computed once.

        In train mode the batch statistics after the first modulated stage span all tasks, as
        they do when :meth:`forward` is given every image once per task.

        Args:
            images_BCHW: pixels 0 to 255, uint8 or float, RGB.

        Returns:
            embeddings_TBD, float32, of length 1.
        """
        _check_images(images_BCHW, self.image_size)
        x = normalise_pixels(images_BCHW)
        batch, task_TB = len(x), None
        for name, stage in self.stages.items():
            x = stage(x)
            if name not in self.modulation:
                continue
            if task_TB is None:
                x = self.modulation[name].for_all_tasks(x)
                task_TB = torch.arange(self.num_tasks, device=x.device).repeat_interleave(batch)
            else:
                x = self.modulation[name](x, task_TB)
        embeddings = F.normalize(x.float(), dim=1)
        if task_TB is None:
            return embeddings.expand(self.num_tasks, -1, -1)
        return embeddings.reshape(self.num_tasks, batch, -1)

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that every task trains: all but the modulation."""
        return list(self.stages.parameters())

    def task_parameters(self) -> list[nn.Parameter]:
        """The parameters that belong to single tasks: the modulation weights."""
        return list(self.modulation.parameters())

    def task_scales(self) -> Tensor:
        """Every task's scales over all modulated stages, side by side: float (T, ΣC)."""
        if not self.modulation:
            raise ModlibError("a fully shared network has no scales; build system='modulated'")
        return torch.cat([scale.scales() for scale in self.modulation.values()], dim=1)


class IndependentNetworks(nn.Module):
    """A separate network per task: nothing is shared, so nothing can interfere."""

    def __init__(self, networks: Iterable[SharedTrunkNetwork]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.num_tasks = len(self.networks)

    def forward(self, images_BCHW: Tensor, task_B: Tensor) -> Tensor:
        """Embed each image with its task's network; see :meth:`SharedTrunkNetwork.forward`."""
        _check_task_indices(task_B, self.num_tasks)
        parts, positions = [], []
        for task, network in enumerate(self.networks):
            rows = torch.nonzero(task_B == task).flatten()
            if len(rows):
                parts.append(network(images_BCHW[rows], torch.zeros_like(rows)))
                positions.append(rows)
        return torch.cat(parts)[torch.argsort(torch.cat(positions))]

    def embed_all_tasks(self, images_BCHW: Tensor) -> Tensor:
        """Embed each image with every network: embeddings_TBD."""
        return torch.cat([network.embed_all_tasks(images_BCHW) for network in self.networks])

    def shared_parameters(self) -> list[nn.Parameter]:
        """Nothing is shared: the empty list."""
        return []

    def task_parameters(self) -> list[nn.Parameter]:
        """All parameters of all networks."""
        return list(self.parameters())


Network = SharedTrunkNetwork | IndependentNetworks


def build_network(
    system: str,
    tasks: Sequence[str],
    image_size: int = 150,
    width: float = 1.0,
    modulate_from: int = 4,
    embedding_size: int = 256,
    bn_decay: float = 0.995,
    seed: int = 0,
) -> Network:
    """Build one of the compared systems on the Table 2 network, freshly initialised.

    Weights are drawn from a normal with σ = 0.1 truncated at 2σ; scales start at 1.

    Args:
        system: ``"fully_shared"``, ``"independent"`` (a network per task) or ``"modulated"``.
        tasks: the T task names, distinct.
        image_size: side of the square input in pixels, at least 48; the paper's is 150.
        width: multiplies every convolution's channels; 1.0 is the paper's network.
        modulate_from: first modulated block, 2 to 5; every later one and fc follow.
        embedding_size: D, the output of fc, whatever the width.
        bn_decay: decay of batch norm's running averages, in (0, 1).
        seed: fixes the initial weights; the same for every system with one trunk.

    Raises:
        ModlibError: an unknown system, or a value outside what is said above.
    """
    _check(system, tasks, image_size, width, modulate_from, embedding_size, bn_decay)

    def one_network(num_tasks: int, modulated: dict[str, int]) -> SharedTrunkNetwork:
        stages = trunk(image_size, width, embedding_size, bn_decay)
        network = SharedTrunkNetwork(num_tasks, image_size, stages, modulated)
        initialise_weights(network, generator)
        return network.to(memory_format=torch.channels_last)

    generator = torch.Generator().manual_seed(seed)
    if system == "independent":
        return IndependentNetworks([one_network(1, {}) for _ in tasks])
    modulated = {}
    if system == "modulated":
        blocks = {name: max(1, round(BLOCK_CHANNELS[name] * width))
                  for name in list(BLOCK_CHANNELS)[modulate_from - 1:]}
        modulated = {**blocks, "fc": embedding_size}
    return one_network(len(tasks), modulated)


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers the parameters hold."""
    return sum(parameter.numel() for parameter in parameters)


def _check_images(images_BCHW: Tensor, image_size: int) -> None:
    if images_BCHW.ndim != 4 or tuple(images_BCHW.shape[1:]) != (3, image_size, image_size):
        raise ModlibError(
            f"images must be (B, 3, {image_size}, {image_size}), as the network was built; "
            f"given {tuple(images_BCHW.shape)}")


def _check_task_indices(task_B: Tensor, num_tasks: int) -> None:
    # On a GPU the check would make the host wait for the device at every step.
    if task_B.device.type == "cpu" and len(task_B):
        low, high = int(task_B.min()), int(task_B.max())
        if low < 0 or high >= num_tasks:
            raise ModlibError(f"task indices must be 0 to {num_tasks - 1}; given {low} to {high}")


def _check(system, tasks, image_size, width, modulate_from, embedding_size, bn_decay) -> None:
    if system not in SYSTEMS:
        raise unknown_name("system", system, SYSTEMS)
    for name, value in (("image_size", image_size), ("embedding_size", embedding_size)):
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
    if embedding_size < 1:
        raise ModlibError(f"embedding_size must be at least 1; given {embedding_size}")
    if not 0 < bn_decay < 1:
        raise ModlibError(f"bn_decay must be between 0 and 1; given {bn_decay}")
