"""The top-down modulation network: an image is seen, looked at for a task, and seen again.

A bottom-up stream (BU1) goes through the stages of a backbone. A top-down stream (TD) starts from
the task's embedding and mirrors the stages; BU1's maps enter it sideways. A second bottom-up stream
(BU2) goes through the same stages with the same weights, and the TD maps modulate what it sees.
Nothing but the embedding belongs to a task.

Source: Levi and Ullman, section 3, Eqs. 2 and 3, Figs. 1d and 3c, Table 5.
Shapes: B batch, T tasks, C channels, H W height and width, K classes, S stages.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.backbones import Backbone, pixels
from modlib.errors import ModlibError, unknown_name
from modlib.mirrors import mirror, start_from_he_weights
from modlib.modulation import check_task_indices

# How a stream's map X takes in another's map Z; the last two are the paper's ⊗, Eq. 3.
CONNECTIONS = {
    "add": lambda x, z: x + z,
    "multiply": lambda x, z: x * z,
    "gate_sigmoid": lambda x, z: x + x * torch.sigmoid(z),
    "gate_tanh": lambda x, z: x + x * torch.tanh(z),
}


class Streams(NamedTuple):
    """What the streams give.

    Attributes:
        logits: BU2's, (B, K), or (T, B, K) for all tasks.
        maps: the last TD map, averaged over its channels: (B, H, W), or (T, B, H, W); None where
            nothing of the kind is there.
        image_z: what modulates the image, Z of Eq. 3, likewise averaged and of the same shape. A
            map that is trained for the answer alone may be high where the task looks, or low;
            this has passed the 1×1 convolution that knows which.
        bu1_logits: of the auxiliary heads on BU1, a head a task: (T, B, K); None without them.
    """

    logits: Tensor
    maps: Tensor | None = None
    image_z: Tensor | None = None
    bu1_logits: Tensor | None = None


class TopDownNetwork(nn.Module):
    """A backbone that is gone through twice, the second time modulated from the top down.

    Modulates by :eq:`eq-top-down` on the book's page on the method.

    Levels go from 0 (the image) to S (the last stage's output). On every level but 0 a 1×1
    convolution leads from BU1 into TD, on every level another from TD into BU2, and one from the
    embedding into the top of TD. (The paper gives their count alone: on LeNet three of 20 channels,
    two of 10 and one of 1, which is what this placing has.)

    Args:
        backbone: its parameters are BU1's and BU2's.
        num_tasks: T, at least 1.
        classes: K, of every task.
        td_channels: of every TD map; None: as the backbone's on the same level.
        embedding_channels: of the embedding, which has the top level's sides; None: the top TD
            map's.
        into_td, into_bu2: names of ``CONNECTIONS``.
        image_aware: False: nothing leads from BU1 into TD (Table 2a).
        spatial: False: what modulates BU2 is averaged over height and width first (Table 2a).
        bu1_heads: a classifier a task on BU1, for the auxiliary loss.

    Raises:
        ModlibError: an unknown connection, or a count below 1.
    """

    def __init__(
        self, backbone: Backbone, num_tasks: int, classes: int, td_channels: int | None = None,
        embedding_channels: int | None = None, into_td: str = "add",
        into_bu2: str = "gate_sigmoid", image_aware: bool = True, spatial: bool = True,
        bu1_heads: bool = False,
    ):
        super().__init__()
        for place in (into_td, into_bu2):
            if place not in CONNECTIONS:
                raise unknown_name("connection", place, CONNECTIONS)
        for name, count in (("num_tasks", num_tasks), ("classes", classes),
                            ("td_channels", td_channels),
                            ("embedding_channels", embedding_channels)):
            if count is not None and count < 1:
                raise ModlibError(f"{name} must be at least 1; given {count}")
        self.num_tasks, self.spatial = num_tasks, spatial
        self.into_td, self.into_bu2 = CONNECTIONS[into_td], CONNECTIONS[into_bu2]
        self.backbone, self.bu1_stages = backbone, _same_weights(backbone.stages)
        self.head = backbone.new_head(classes)
        self.bu1_heads = nn.ModuleList(
            backbone.new_head(classes) for _ in range(num_tasks if bu1_heads else 0))
        channels, top = backbone.channels, backbone.sides[-1]
        td = [td_channels or count for count in channels]
        embedded = embedding_channels or td[-1]
        self.embedding = nn.Embedding(num_tasks, embedded * top * top)
        self.embedding_lateral = nn.Conv2d(embedded, td[-1], 1)
        self.laterals_in = nn.ModuleList(
            nn.Conv2d(channels[level], td[level], 1)
            for level in (range(1, len(channels)) if image_aware else ()))
        self.laterals_out = nn.ModuleList(
            nn.Conv2d(td[level], channels[level], 1) for level in range(len(channels)))
        self.mirrors = nn.ModuleList(
            mirror(blocks, td_channels) for blocks in backbone.blocks)
        if backbone.he_weights:
            start_from_he_weights(self.mirrors)

    def forward(self, images_BCHW: Tensor, task_B: Tensor) -> Streams:
        """Answer one task an image.

        Args:
            images_BCHW: 0 to 255, uint8 or float.
            task_B: int64 (B,), task indices in [0, T).

        Raises:
            ModlibError: task indices of another shape or kind, or outside [0, T).
        """
        check_task_indices(task_B, self.num_tasks, len(images_BCHW))
        pixels_BCHW = pixels(images_BCHW)
        from_bu1, bu1_logits = self._first_bottom_up(pixels_BCHW)
        last_map, modulators = self._top_down(task_B, from_bu1)
        return Streams(self._second_bottom_up(pixels_BCHW, modulators), last_map.mean(1),
                       modulators[0].mean(1).expand_as(last_map[:, 0]), bu1_logits)

    def for_all_tasks(self, images_BCHW: Tensor) -> Streams:
        """Answer every task; BU1, which no task changes, is computed once."""
        pixels_BCHW, tasks = pixels(images_BCHW), self.num_tasks
        from_bu1, bu1_logits = self._first_bottom_up(pixels_BCHW)
        task_TB = torch.arange(tasks, device=images_BCHW.device).repeat_interleave(len(images_BCHW))
        last_map, modulators = self._top_down(
            task_TB, [one.repeat(tasks, 1, 1, 1) for one in from_bu1])
        logits = self._second_bottom_up(pixels_BCHW.repeat(tasks, 1, 1, 1), modulators)
        image_z = modulators[0].mean(1).expand_as(last_map[:, 0])
        logits, maps, image_z = (one.unflatten(0, (tasks, len(images_BCHW)))
                                 for one in (logits, last_map.mean(1), image_z))
        return Streams(logits, maps, image_z, bu1_logits)

    def _first_bottom_up(self, pixels_BCHW: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """What BU1 sends into TD, from level 1 to S, and the logits of its auxiliary heads."""
        if not self.laterals_in and not self.bu1_heads:
            return [], None
        seen = [pixels_BCHW]
        for stage in self.bu1_stages:
            seen.append(stage(seen[-1]))
        sent = [lateral(one) for lateral, one in zip(self.laterals_in, seen[1:], strict=False)]
        if not self.bu1_heads:
            return sent, None
        features_BF = self.backbone.neck(seen[-1])
        return sent, torch.stack([head(features_BF) for head in self.bu1_heads])

    def _top_down(
        self, task_B: Tensor, from_bu1: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The TD map of level 0, and what modulates BU2, from level 0 to S."""
        top = self.backbone.sides[-1]
        td = self.embedding_lateral(self.embedding(task_B).unflatten(1, (-1, top, top)))
        modulators = []
        for level in reversed(range(1, len(self.laterals_out))):
            if from_bu1:
                td = self.into_td(td, from_bu1[level - 1])
            modulators.append(self._modulator(level, td))
            below = self.backbone.sides[level - 1]
            td = F.interpolate(torch.relu(td), (below, below), mode="bilinear")
            td = self.mirrors[level - 1](td)
        return td, [self._modulator(0, td), *reversed(modulators)]

    def _modulator(self, level: int, td_BCHW: Tensor) -> Tensor:
        z_BCHW = self.laterals_out[level](td_BCHW)
        return z_BCHW if self.spatial else z_BCHW.mean((2, 3), keepdim=True)

    def _second_bottom_up(self, pixels_BCHW: Tensor, modulators: list[Tensor]) -> Tensor:
        """BU2's logits; each of its maps is modulated from the top-down map of the same level."""
        seen = self.into_bu2(pixels_BCHW, modulators[0])
        for stage, z_BCHW in zip(self.backbone.stages, modulators[1:], strict=True):
            seen = self.into_bu2(stage(seen), z_BCHW)
        return self.head(self.backbone.neck(seen))


def count_weights(module: nn.Module) -> int:
    """How many weights, without biases and batch norm's, as the paper's Table 5 counts."""
    return sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)


def weight_counts(network: TopDownNetwork) -> dict[str, int]:
    """The counts of Table 5: ``backbone``, ``branch``, ``top_down`` and ``embedding`` a task."""
    return {
        "backbone": count_weights(network.backbone), "branch": count_weights(network.head),
        "top_down": sum(count_weights(part) for part in (
            network.mirrors, network.laterals_in, network.laterals_out,
            network.embedding_lateral)),
        "embedding": network.embedding.embedding_dim,
    }


def _same_weights(stages: nn.ModuleList) -> nn.ModuleList:
    """Stages with the same parameters but running averages of their own.

    What BU1 and BU2 see differs by the modulation, and so do the averages that batch norm keeps.
    """
    again = copy.deepcopy(stages)
    for one, other in zip(again.modules(), stages.modules(), strict=True):
        for name, parameter in other.named_parameters(recurse=False):
            setattr(one, name, parameter)
    return again
