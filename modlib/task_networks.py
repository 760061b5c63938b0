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
from modlib.trunk import Block, normalise_pixels


class SharedTrunkNetwork(nn.Module):
    """One trunk for all tasks, with something of each task's own after some of its stages.

    Without any such stage this is the fully shared network: one embedding for all tasks.

    Args:
        num_tasks: T, at least 1.
        image_size: side of the input in pixels.
        stages: the trunk, as :func:`modlib.trunk.trunk` builds it.
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
        return self.embed_features(self.trunk_output(images_BCHW))

    def trunk_output(self, images_BCHW: Tensor) -> Tensor:
        """The last features that no task has changed yet, (B, C, H, W), or (B, D) after fc."""
        _check_images(images_BCHW, self.image_size)
        x = normalise_pixels(images_BCHW)
        for name in self._stage_names()[0]:
            x = self.stages[name](x)
        return x

    def embed_features(self, features: Tensor, copies: bool = False) -> Tensor:
        """Embed the trunk's output for every task: embeddings_TBD, float32, of length 1.

        Args:
            features: from :meth:`trunk_output`.
            copies: whether they are (T·B, …), tasks outermost: a copy for each task.
        """
        (*_, last), later = self._stage_names()
        own = self.modulation[last] if last in self.modulation else None  # noqa: SIM401  # no dict
        x, convolve = features, None
        if own and copies:
            x = own.for_each_task(x)
        elif isinstance(own, ChannelScale) and later and isinstance(self.stages[later[0]], Block):
            convolve = partial(own.for_all_tasks_then, self.stages[later[0]].conv[0])
        elif own:
            x = own.for_all_tasks(x)
        for name in later:
            x = self.stages[name](x, convolve) if convolve else self.stages[name](x)
            convolve = None
            if name in self.modulation:
                x = self.modulation[name].for_each_task(x)
        embeddings = F.normalize(x.float(), dim=1)
        if not copies and not self.modulation:
            return embeddings.expand(self.num_tasks, -1, -1)
        return embeddings.unflatten(0, (self.num_tasks, -1))

    def _stage_names(self) -> tuple[list[str], list[str]]:
        """The stages up to the first one with something of the tasks' own, and the later ones."""
        names = list(self.stages)
        first = next((n for n, name in enumerate(names) if name in self.modulation), len(names) - 1)
        return names[:first + 1], names[first + 1:]

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
