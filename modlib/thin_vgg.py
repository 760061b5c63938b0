"""Thin VGG-16 networks whose layers are widened into branches, from the top layer down.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, sections 3.1
and 3.2; scales inside the branches: Zhao et al., ECCV 2018, section 2.1.
Shapes: B batch, T tasks, K tasks of one branch, C channels, H W height and width.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from modlib.errors import ModlibError
from modlib.modulation import ChannelScale
from modlib.trunk import conv_bn_relu

VGG16_WIDTHS = {
    "conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128,
    "conv3_1": 256, "conv3_2": 256, "conv3_3": 256, "conv4_1": 512, "conv4_2": 512,
    "conv4_3": 512, "conv5_1": 512, "conv5_2": 512, "conv5_3": 512, "fc6": 4096, "fc7": 4096}
LAYERS = tuple(VGG16_WIDTHS)
BEFORE_POOLING = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
SCALED = LAYERS[-3:]  # conv5_3, fc6 and fc7: scales may follow them
Groups = list[list[int]]  # the tasks of every branch of a layer


def thin_widths(thinness: int) -> dict[str, int]:
    """The width of every layer of thin-ω: at most ω for convolutions, 2ω for fc6 and fc7."""
    return {name: 2 * thinness if name.startswith("fc") else min(thinness, width)
            for name, width in VGG16_WIDTHS.items()}


def poolings_above(layer: str) -> int:
    """How many pooling layers lie between a layer and the output: p of Eq. 9."""
    return sum(LAYERS.index(layer) <= LAYERS.index(name) for name in BEFORE_POOLING)


class BranchingVgg(nn.Module):
    """A VGG-16 of any width, a tree of branches: every branch of a layer serves a group of tasks.

    It starts with one branch a layer. :meth:`widen` splits one layer at a time, from the top down.
    The tree is part of the ``state_dict``; loading one grows, or cuts back, the branches first.

    Args:
        num_tasks: T; each has a logit of its own.
        image_size: side of the input in pixels, at least 32.
        widths: the width of every layer, as :func:`~modlib.thin_vgg.thin_widths` or
            ``VGG16_WIDTHS`` gives them.
        bn_decay: of batch norm's running averages.
        scales: whether each task has scales after conv5_3 (its pooled maps), fc6 and fc7, so that
            tasks of one branch have features of their own there. They start at 1.

    Attributes:
        groups: for every layer, from conv1_1 to fc7, the tasks of each of its branches.
        active: the index of the layer that may be widened next; -1: the tree is finished.
        modulation: the scales by the layer that they follow; empty without scales.
    """

    def __init__(
        self, num_tasks: int, image_size: int, widths: Mapping[str, int], bn_decay: float = 0.9,
        scales: bool = False,
    ):
        super().__init__()
        if image_size < 32:
            raise ModlibError(f"image_size must be at least 32, as five poolings halve it; given "
                              f"{image_size}")
        self.num_tasks, self.side = num_tasks, image_size // 32
        self.layers = nn.ModuleList()
        inputs = 3
        for name, width in widths.items():
            if name == "fc6":
                inputs *= self.side**2
            self.layers.append(nn.ModuleList([_layer(name, inputs, width, bn_decay)]))
            inputs = width
        self.output = nn.Linear(inputs, num_tasks)  # row t is task t's
        nn.init.zeros_(self.output.bias)
        self.modulation = nn.ModuleDict({
            name: ChannelScale(num_tasks, widths[name]) for name in SCALED if scales})
        self.groups: list[Groups] = [[list(range(num_tasks))] for _ in LAYERS]
        self.active = len(LAYERS) - 1

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Every task's logit for every image, (B, T).

        Args:
            pixels_BCHW: float, as :func:`modlib.trunk.normalise_pixels` gives them.
        """
        # A branch computes what lies below the first scales once for all of its tasks.
        last = LAYERS.index(SCALED[0] if self.modulation else LAYERS[-1])
        branches = [pixels_BCHW]
        for index, layer in enumerate(self.layers[:last + 1]):
            branches = [branch(branches[below]) for branch, below in
                        zip(layer, self.parents(index), strict=True)]
        features = torch.stack([branches[n] for n in self._branch_of_task(last)])
        features_TBC = self._with_scales(features) if self.modulation else features
        # Not a matrix product: one adds up in an order that depends on how many rows it is given,
        # and the logits must not change by a bit when a layer is split.
        products_TBC = features_TBC * self.output.weight[:, None]
        return (products_TBC.sum(-1) + self.output.bias[:, None]).T

    def _with_scales(self, maps_TBCHW: Tensor) -> Tensor:
        """What each task's scales make of conv5_3's maps, and of the layers above: (T, B, C)."""
        features = self._scaled(SCALED[0], maps_TBCHW)
        for name in SCALED[1:]:
            index, of_task = LAYERS.index(name), {}
            for branch, tasks in zip(self.layers[index], self.groups[index], strict=True):
                of_task |= zip(tasks, _for_tasks_of_branch(branch, features[tasks]), strict=True)
            features = self._scaled(
                name, torch.stack([of_task[task] for task in range(self.num_tasks)]))
        return features

    def _scaled(self, name: str, features: Tensor) -> Tensor:
        """Features of each task's own, (T, B, …), by the scales that follow a layer."""
        scaled = self.modulation[name].for_each_task(features.flatten(0, 1))
        return scaled.unflatten(0, features.shape[:2])

    def parents(self, index: int) -> list[int]:
        """For each branch of a layer, which branch of the layer below it reads."""
        if index == 0:
            return [0] * len(self.groups[0])
        below = self._branch_of_task(index - 1)
        return [below[tasks[0]] for tasks in self.groups[index]]

    def branches_above(self, index: int) -> Groups:
        """The tasks of each branch that reads a layer; above fc7 every task is alone."""
        if index == len(LAYERS) - 1:
            return [[task] for task in range(self.num_tasks)]
        return self.groups[index + 1]

    def widen(self, clusters: Sequence[Sequence[int]]) -> list[tuple[nn.Module, nn.Module]]:
        """Split the active layer: a copy of it for each cluster of the branches above (Eq. 5).

        The network computes what it did before, to the last bit; the layer below is active then.
        (With scales in eval mode only: in training a branch's batch norm then sees fewer tasks.)
        One cluster leaves everything as it is and finishes the tree.

        Args:
            clusters: indices of the branches above; each is in one cluster.

        Returns:
            each new branch with the branch that it is a copy of.

        Raises:
            ModlibError: the tree is finished, or a branch is in no cluster or in two.
        """
        if self.active < 0:
            raise ModlibError("the tree is finished: no layer is left to widen")
        above = self.branches_above(self.active)
        if sorted(branch for cluster in clusters for branch in cluster) != list(range(len(above))):
            raise ModlibError(f"clusters must hold each of the {len(above)} branches above "
                              f"{LAYERS[self.active]} once; given {clusters!r}")
        if len(clusters) == 1:
            self.active = -1
            return []
        layer = self.layers[self.active]
        self.groups[self.active] = sorted(
            sorted(task for branch in cluster for task in above[branch]) for cluster in clusters)
        layer.extend(deepcopy(layer[0]) for _ in clusters[1:])
        self.active -= 1
        return [(copy, layer[0]) for copy in list(layer)[1:]]

    def take_groups(self, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        """Grow the branches of a whole tree at once, and finish it: each is a copy.

        Args:
            groups: as the attribute.

        Raises:
            ModlibError: not as many layers as the network has; a layer does not hold each task
                once; or a branch reads two branches.
        """
        if len(groups) != len(LAYERS):
            raise ModlibError(f"groups must be of the {len(LAYERS)} layers {LAYERS[0]} to "
                              f"{LAYERS[-1]}; given {len(groups)}")
        for index, (name, of_layer) in enumerate(zip(LAYERS, groups, strict=True)):
            if sorted(task for tasks in of_layer for task in tasks) != list(range(self.num_tasks)):
                raise ModlibError(f"groups of {name} must hold each of {self.num_tasks} tasks "
                                  f"once; given {of_layer!r}")
            below = groups[index - 1] if index else [range(self.num_tasks)]
            if not all(any(set(tasks) <= set(other) for other in below) for tasks in of_layer):
                raise ModlibError(f"groups of {name} must each lie in one group of the layer "
                                  f"below; given {of_layer!r} above {below!r}")
        self.set_extra_state({"groups": groups, "active": -1})

    def get_extra_state(self) -> dict[str, Any]:
        """The tree, for the ``state_dict``."""
        return {"groups": deepcopy(self.groups), "active": self.active}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the tree of a ``state_dict``: torch loads this before it goes into the layers."""
        self.groups = [[list(tasks) for tasks in of_layer] for of_layer in state["groups"]]
        self.active = state["active"]
        for layer, of_layer in zip(self.layers, self.groups, strict=True):
            del layer[len(of_layer):]
            layer.extend(deepcopy(layer[0]) for _ in range(len(of_layer) - len(layer)))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of the layers that have one branch for all tasks."""
        return [parameter for layer in self.layers if len(layer) == 1
                for parameter in layer.parameters()]

    def _branch_of_task(self, index: int) -> list[int]:
        branch_of_task = [0] * self.num_tasks
        for number, tasks in enumerate(self.groups[index]):
            for task in tasks:
                branch_of_task[task] = number
        return branch_of_task


def _layer(name: str, inputs: int, width: int, bn_decay: float) -> nn.Sequential:
    if name.startswith("fc"):
        flatten = [nn.Flatten()] if name == "fc6" else []
        return nn.Sequential(
            *flatten, nn.Linear(inputs, width, bias=False),
            nn.BatchNorm1d(width, eps=1e-3, momentum=1 - bn_decay), nn.ReLU())
    conv, bn, relu = conv_bn_relu(inputs, width, 1, bn_decay)
    # The maximum of four ReLUs is the ReLU of the maximum, and there is a quarter as much to do.
    pooling = [nn.MaxPool2d(2)] if name in BEFORE_POOLING else []
    return nn.Sequential(conv, bn, *pooling, relu)


def _for_tasks_of_branch(branch: nn.Sequential, features: Tensor) -> Tensor:
    """fc6 or fc7 on the features of all of a branch's tasks, (K, B, …): (K, B, C).

    Batch norm sees all of them as one batch, as it does in a trunk that tasks share.
    """
    parts = list(branch)
    first = next(n for n, part in enumerate(parts) if isinstance(part, nn.Linear)) + 1
    # One product a task: a larger one may add up in another order, and the logits must not change
    # by a bit when the layer is split.
    products = [nn.Sequential(*parts[:first])(own) for own in features]
    outputs = nn.Sequential(*parts[first:])(torch.cat(products))
    return outputs.unflatten(0, features.shape[:2])


def count_layer_weights(network: nn.Module) -> int:
    """Weights of convolutions and linear layers, as the paper counts parameters: no biases."""
    return sum(module.weight.numel() for module in network.modules()
               if isinstance(module, nn.Conv2d | nn.Linear))


def without_batch_norm(network: BranchingVgg) -> BranchingVgg:
    """A copy for inference: every layer scaled and shifted in the place of its batch norm (4.5)."""
    folded = deepcopy(network).eval()
    for layer in folded.layers:
        for number, branch in enumerate(layer):
            layer[number] = _folded(branch)
    return folded


def _folded(branch: nn.Sequential) -> nn.Sequential:
    parts = list(branch)
    [at] = [n for n, part in enumerate(parts) if isinstance(part, nn.Conv2d | nn.Linear)]
    fuse = fuse_conv_bn_eval if isinstance(parts[at], nn.Conv2d) else fuse_linear_bn_eval
    return nn.Sequential(*parts[:at], fuse(parts[at], parts[at + 1]), *parts[at + 2:])
