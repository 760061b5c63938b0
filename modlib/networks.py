"""The embedding network of Table 2 and the systems that are compared on it.

Source: Zhao et al., ECCV 2018, section 4.1 and Table 2, settled by the authors' code.
Shapes: B batch, T tasks, C channels, H W height and width, D embedding.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.errors import ModlibError, unknown_name
from modlib.modulation import ChannelScale

SYSTEMS = ("fully_shared", "independent", "modulated")
BLOCK_CHANNELS = {"conv1": 32, "block2": 64, "block3": 128, "block4": 128, "block5": 128}
PIXEL_MEAN_RGB = (122.77, 115.95, 102.98)
PIXEL_SCALE = 128.0
SMALLEST_IMAGE = 48  # below this the last 2×2 pooling has nothing to pool


def conv_bn_relu(
    in_channels: int, out_channels: int, padding: int, bn_decay: float
) -> nn.Sequential:
    """3×3 convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=padding, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=1 - bn_decay),
        nn.ReLU(inplace=True),
    )


class Block(nn.Module):
    """Unpadded convolution, batch norm, ReLU, 2×2 max-pooling, then a residual block.

    The residual block is two padded convolutions; its output is added to its input after the
    second ReLU, and no ReLU follows the sum. The first ReLU is applied after the pooling: the
    maximum of four ReLUs is the ReLU of the maximum, and there is a quarter as much to do.
    """

    def __init__(self, in_channels: int, out_channels: int, bn_decay: float):
        super().__init__()
        conv, bn, relu = conv_bn_relu(in_channels, out_channels, 0, bn_decay)
        self.conv = nn.Sequential(conv, bn, nn.MaxPool2d(2, stride=2), relu)
        self.residual = nn.Sequential(
            conv_bn_relu(out_channels, out_channels, 1, bn_decay),
            conv_bn_relu(out_channels, out_channels, 1, bn_decay),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.residual(x)


def trunk(image_size: int, width: float, embedding_size: int, bn_decay: float) -> nn.ModuleDict:
    """The stages of Table 2 in order: conv1, block2 to block5, fc."""
    channels = {name: max(1, round(count * width)) for name, count in BLOCK_CHANNELS.items()}
    stages = nn.ModuleDict({"conv1": conv_bn_relu(3, channels["conv1"], 0, bn_decay)})
    previous, side = "conv1", image_size - 2
    for name in list(channels)[1:]:
        stages[name] = Block(channels[previous], channels[name], bn_decay)
        previous, side = name, (side - 2) // 2
    stages["fc"] = nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels[previous] * side * side, embedding_size, bias=False),
        nn.BatchNorm1d(embedding_size, eps=1e-3, momentum=1 - bn_decay),
        nn.ReLU(),
    )
    return stages


def normalise_pixels(images_BCHW: Tensor) -> Tensor:
    """Pixels 0 to 255 (uint8 or float) to float32, channels-last: minus the mean, over 128."""
    mean_C11 = torch.tensor(PIXEL_MEAN_RGB, device=images_BCHW.device)[:, None, None]
    pixels = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
    return (pixels - mean_C11) / PIXEL_SCALE


class SharedTrunkNetwork(nn.Module):
    """One trunk for all tasks, with a :class:`ChannelScale` after some of its stages.

    Without any modulated stage this is the fully shared network: one embedding for all tasks.

    Args:
        num_tasks: T.
        stages: the trunk, as :func:`trunk` builds it.
        modulated: ``{stage name: its output channels}`` for the stages to modulate.
    """

    def __init__(self, num_tasks: int, stages: nn.ModuleDict, modulated: dict[str, int]):
        super().__init__()
        self.num_tasks = num_tasks
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
            embeddings_BD, float32, of length 1: normalised after the modulation.
        """
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
        network = SharedTrunkNetwork(num_tasks, stages, modulated)
        initialise_weights(network, generator)
        return network.to(memory_format=torch.channels_last)

    generator = torch.Generator().manual_seed(seed)
    if system == "independent":
        return IndependentNetworks(one_network(1, {}) for _ in tasks)
    modulated = {}
    if system == "modulated":
        blocks = {name: max(1, round(BLOCK_CHANNELS[name] * width))
                  for name in list(BLOCK_CHANNELS)[modulate_from - 1:]}
        modulated = {**blocks, "fc": embedding_size}
    return one_network(len(tasks), modulated)


@torch.no_grad()
def initialise_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every convolution and linear weight from N(0, 0.1²) truncated at two deviations."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2, generator=generator)


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers the parameters hold."""
    return sum(parameter.numel() for parameter in chain(parameters))


def _check(system, tasks, image_size, width, modulate_from, embedding_size, bn_decay) -> None:
    if system not in SYSTEMS:
        raise unknown_name("system", system, SYSTEMS)
    if isinstance(tasks, str) or not len(tasks) or len(set(tasks)) != len(tasks):
        raise ModlibError(f"tasks must be one or more distinct names; given {tasks!r}")
    if image_size < SMALLEST_IMAGE:
        raise ModlibError(f"image_size must be at least {SMALLEST_IMAGE}; given {image_size}")
    if not 0 < width <= 8:
        raise ModlibError(f"width must be above 0 and at most 8; given {width}")
    if modulate_from not in (2, 3, 4, 5):
        raise ModlibError(f"modulate_from must be a block, 2 to 5; given {modulate_from}")
    if embedding_size < 1:
        raise ModlibError(f"embedding_size must be at least 1; given {embedding_size}")
    if not 0 < bn_decay < 1:
        raise ModlibError(f"bn_decay must be between 0 and 1; given {bn_decay}")
