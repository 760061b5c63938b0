"""Networks for several tasks: one trunk with a module per task after some stages, or many networks.

Source: Zhao et al., ECCV 2018, sections 3.2 and 5.2.
Shapes: B batch, T tasks, C channels, H W height and width, D embedding.
"""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.modulation import ChannelProjection, ChannelScale, check_task_indices
from modlib.trunk import BLOCK_CHANNELS, normalise_pixels

CONVOLUTION_FOLLOWS = tuple(BLOCK_CHANNELS)[:-1]  # the stages that a block comes after


class SharedTrunkNetwork(nn.Module):
    """One trunk for all tasks, with something of each task's own after some of its stages.

    Without any such stage this is the fully shared network: one embedding for all tasks.

    Args:
        num_tasks: T.
        image_size: side of the input in pixels.
        stages: the trunk, as :func:`trunk` builds it.
        modulation: ``{stage name: the tasks' scales or projections}``.
    """

    def __init__(
        self, num_tasks: int, image_size: int, stages: nn.ModuleDict,
        modulation: Mapping[str, ChannelScale | ChannelProjection],
    ):
        super().__init__()
        self.num_tasks, self.image_size = num_tasks, image_size
        self.stages = stages
        self.modulation = nn.ModuleDict(modulation)
        self.frozen = False

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
        check_task_indices(task_B, self.num_tasks, len(images_BCHW))
        x = normalise_pixels(images_BCHW)
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.modulation:
                x = self.modulation[name](x, task_B)
        return F.normalize(x.float(), dim=1)

    def embed_all_tasks(self, images_BCHW: Tensor) -> Tensor:
        """Embed each image for every task; what no task changes is computed once.

        The stages up to the first one with something of the tasks' own run once an image, the
        later ones once an image and task. In train mode the batch statistics of these later
        stages span all tasks, as they do when :meth:`forward` is given every image once per
        task: tasks are coupled through them.

        Args:
            images_BCHW: pixels 0 to 255, uint8 or float, RGB.

        Returns:
            embeddings_TBD, float32, of length 1.
        """
        _check_images(images_BCHW, self.image_size)
        x = normalise_pixels(images_BCHW)
        batch, once_a_task, waiting = len(x), False, None
        for name, stage in self.stages.items():
            if waiting:
                x = stage(x, partial(waiting.for_all_tasks_then, stage.conv[0]))
                waiting = None
            else:
                x = stage(x)
            if name not in self.modulation:
                continue
            own = self.modulation[name]
            if once_a_task:
                x = own.for_each_task(x)
            elif isinstance(own, ChannelScale) and name in CONVOLUTION_FOLLOWS:
                waiting = own  # until the next stage's convolution, whose weights it scales
            else:
                x = own.for_all_tasks(x)
            once_a_task = True
        embeddings = F.normalize(x.float(), dim=1)
        if not once_a_task:
            return embeddings.expand(self.num_tasks, -1, -1)
        return embeddings.reshape(self.num_tasks, batch, -1)

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that every task trains: the trunk's, or none where it is frozen."""
        return [] if self.frozen else list(self.stages.parameters())

    def task_parameters(self) -> list[nn.Parameter]:
        """The parameters that belong to single tasks."""
        return list(self.modulation.parameters())

    def task_scales(self) -> Tensor:
        """Every task's scales over all modulated stages, side by side: float (T, ΣC)."""
        scales = [module for module in self.modulation.values() if isinstance(module, ChannelScale)]
        if not scales:
            raise ModlibError("this network has no scales; build system='modulated'")
        return torch.cat([scale.scales() for scale in scales], dim=1)

    def freeze(self) -> None:
        """Keep the trunk as it is from now on: its weights and its batch statistics."""
        self.frozen = True
        self.stages.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SharedTrunkNetwork":
        """Set train or eval mode; a frozen trunk stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.stages.eval()
        return self


class IndependentNetworks(nn.Module):
    """A separate network per task: nothing is shared, so nothing can interfere."""

    def __init__(self, networks: Iterable[SharedTrunkNetwork]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.num_tasks = len(self.networks)

    def forward(self, images_BCHW: Tensor, task_B: Tensor) -> Tensor:
        """Embed each image with its task's network; see :meth:`SharedTrunkNetwork.forward`."""
        check_task_indices(task_B, self.num_tasks, len(images_BCHW))
        parts, positions = [], []
        for task, network in enumerate(self.networks):
            rows = torch.nonzero(task_B == task).flatten()
            if len(rows):
                parts.append(network(images_BCHW[rows], torch.zeros_like(rows)))
                positions.append(rows)
        if sum(map(len, parts)) != len(images_BCHW):  # values were not checked on a GPU
            raise ModlibError(f"task indices must be 0 to {self.num_tasks - 1}")
        return torch.cat(parts)[torch.argsort(torch.cat(positions))]

    def embed_all_tasks(self, images_BCHW: Tensor) -> Tensor:
        """Embed each image with every network: embeddings_TBD.

        Nothing is common to two tasks, so nothing can be computed once; in train mode each
        network's batch statistics are those of its own task alone.
        """
        return torch.cat([network.embed_all_tasks(images_BCHW) for network in self.networks])

    def shared_parameters(self) -> list[nn.Parameter]:
        """Nothing is shared: the empty list."""
        return []

    def task_parameters(self) -> list[nn.Parameter]:
        """All parameters of all networks."""
        return list(self.parameters())


Network = SharedTrunkNetwork | IndependentNetworks


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers the parameters hold."""
    return sum(parameter.numel() for parameter in parameters)


def _check_images(images_BCHW: Tensor, image_size: int) -> None:
    if images_BCHW.ndim != 4 or tuple(images_BCHW.shape[1:]) != (3, image_size, image_size):
        raise ModlibError(
            f"images must be (B, 3, {image_size}, {image_size}), as the network was built; "
            f"given {tuple(images_BCHW.shape)}")
