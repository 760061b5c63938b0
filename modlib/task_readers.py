"""The compared systems that answer every task of an image: settings and networks.

Source: Levi and Ullman, section 4.2 ("baselines").
Shapes: B batch, T tasks, K classes, H W height and width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modlib.backbones import BACKBONES, Backbone, pixels
from modlib.errors import ModlibError
from modlib.insertion import insert_modulation
from modlib.modulated_network import ModulatedNetwork
from modlib.settings import RunSettings
from modlib.top_down import CONNECTIONS, Streams, TopDownNetwork

BACKBONE_OF = {"digits": "lenet", "mnist": "lenet", "clevr": "vgg11", "cub_200": "resnet18"}
# As CLEVR's task embedding of 1,568 numbers (Table 5) has; on digits it is TD's own 20.
EMBEDDING_CHANNELS = {"clevr": 32}
TOP_DOWN_ONLY = ("td_channels", "into_td", "into_bu2", "image_aware", "spatial", "bu1_weight")


@dataclass(frozen=True)
class ReaderSettings(RunSettings):
    """Everything that decides the outcome of training one of these systems on given data."""

    kind = "reader-"

    profile: str = "quick"  #: names the records
    #: a name of ``BACKBONE_OF``
    dataset: Literal[tuple(BACKBONE_OF)] = "digits"
    tasks: tuple[str, ...] = ("LU", "RL")  #: names of what is read
    train_images: int = 2000  #: composed of digits
    test_images: int = 500  #: composed of digits to test on, and as many to validate on
    canvas: int = 36  #: pixels; the side on which digits are put together
    image_size: int = 224  #: pixels, of photographs and rendered scenes
    #: a row of the paper's Table 1, or our channel modulation
    system: Literal["single", "uniform", "moo", "channel", "top_down"] = "top_down"
    td_channels: int | None = None  #: of every top-down map; None for the backbone's
    #: how BU1's maps enter the top-down stream, a name of ``modlib.top_down.CONNECTIONS``
    into_td: Literal[tuple(CONNECTIONS)] = "add"
    #: likewise how the top-down maps enter the second bottom-up stream
    into_bu2: Literal[tuple(CONNECTIONS)] = "gate_sigmoid"
    image_aware: bool = True  #: whether BU1 leads into the top-down stream
    spatial: bool = True  #: whether modulation differs from place to place
    tasks_together: bool = True  #: False for task after task, to save memory
    ucr_every: int = 0  #: probe every k-th batch over the backbone; 0 for never
    bu1_weight: float = 0.0  #: of the auxiliary loss on BU1
    td_weight: float = 0.0  #: of the loss on the last top-down map, or on "channel"'s last stage
    batch_size: int = 64  #: images
    epochs: int = 4  #: validation and a checkpoint after each
    batches_per_epoch: int | None = None  #: None for all whole batches
    optimiser: Literal["adam", "adagrad"] = "adam"  #: or adagrad
    learning_rate: float = 1e-3  #: at the start
    scale_rate_factor: float = 1.0  #: the learning rate of "channel"'s scales over the network's
    #: how the learning rate falls
    schedule: Literal["tenth_for_last_30_percent", "tenth_every_40_epochs", "cosine"] = (
        "tenth_every_40_epochs")
    seed: int = 0  #: of all that is drawn at random

    def __post_init__(self):
        super().__post_init__()
        changed = [name for name in TOP_DOWN_ONLY
                   if getattr(self, name) != getattr(ReaderSettings, name)]
        if changed and self.system != "top_down":
            raise ModlibError(f"{changed[0]} is of system='top_down'; given "
                              f"{getattr(self, changed[0])!r} with system={self.system!r}")
        if self.ucr_every and not self.tasks_together:
            raise ModlibError("ucr_every above 0 needs tasks_together=True: the gradients of all "
                              f"tasks come from one pass; given ucr_every={self.ucr_every}")
        if self.td_weight > 0 and self.system not in ("channel", "top_down"):
            raise ModlibError("td_weight above 0 needs system='top_down' or 'channel', which have "
                              f"a map for each task; given system={self.system!r}")
        if self.td_weight > 0 and self.dataset == "clevr":
            raise ModlibError("td_weight above 0 needs a dataset that tells where each task has to "
                              "look; dataset='clevr' does not")


class BranchedNetwork(nn.Module):
    """One backbone with a classifier a task: "uniform scaling", and "MOO" by how it is trained."""

    def __init__(self, backbone: Backbone, num_tasks: int, classes: int):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(backbone.new_head(classes) for _ in range(num_tasks))

    def for_all_tasks(self, images_BCHW: Tensor) -> Tensor:
        """Every task's logits, (T, B, K), of pixels from 0 to 255."""
        features_BF = self.backbone(pixels(images_BCHW))
        return torch.stack([head(features_BF) for head in self.heads])


class SeparateNetworks(nn.Module):
    """A backbone and a classifier for each task: "single task"."""

    def __init__(self, backbones: list[Backbone], classes: int):
        super().__init__()
        self.networks = nn.ModuleList(Reader(backbone, classes) for backbone in backbones)

    def for_all_tasks(self, images_BCHW: Tensor) -> Tensor:
        """Every task's logits, (T, B, K), of pixels from 0 to 255."""
        return torch.stack([network(images_BCHW) for network in self.networks])


class Reader(nn.Module):
    """One backbone with one classifier."""

    def __init__(self, backbone: Backbone, classes: int):
        super().__init__()
        self.backbone, self.head = backbone, backbone.new_head(classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of pixels from 0 to 255."""
        return self.head(self.backbone(pixels(images_BCHW)))


def build_reader(settings: ReaderSettings, classes: int) -> nn.Module:
    """The settings' system, freshly initialised from the seed.

    ``"single"``: a network a task. ``"uniform"`` and ``"moo"``: one backbone and a classifier a
    task. ``"channel"``: one network with our modulation module after every stage and after the
    neck. ``"top_down"``: the top-down network.
    """
    tasks, make = len(settings.tasks), BACKBONES[BACKBONE_OF[settings.dataset]]
    sides = () if make is BACKBONES["lenet"] else (settings.image_size,)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        backbone = make(*sides)
        if settings.system == "single":
            others = [make(*sides) for _ in settings.tasks[1:]]
            model = SeparateNetworks([backbone, *others], classes)
        elif settings.system in ("uniform", "moo"):
            model = BranchedNetwork(backbone, tasks, classes)
        elif settings.system == "channel":
            model = Reader(backbone, classes)
        else:
            model = TopDownNetwork(
                backbone, tasks, classes, settings.td_channels,
                settings.td_channels or EMBEDDING_CHANNELS.get(settings.dataset),
                settings.into_td, settings.into_bu2, settings.image_aware, settings.spatial,
                settings.bu1_weight > 0)
    model = model.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    if settings.system != "channel":
        return model
    after = [*(f"backbone.stages.{n}" for n in range(len(backbone.stages))), "backbone.neck"]
    example = torch.zeros(2, backbone.channels[0], backbone.sides[0], backbone.sides[0])
    return insert_modulation(model, after, settings.tasks, example)


def operations(settings: ReaderSettings, classes: int = 10) -> float:
    """The arithmetic of every task's answer to one image, in floating-point operations.

    A multiply-add is two of them; what is not multiplied is not counted.
    """
    return _operations(replace(settings, profile="any", seed=0), classes)


@lru_cache(maxsize=256)
def _operations(settings: ReaderSettings, classes: int) -> float:
    model = build_reader(settings, classes).to("meta")  # shapes alone: nothing is computed
    backbone = BACKBONES[BACKBONE_OF[settings.dataset]]
    channels, side = (1, 28) if backbone is BACKBONES["lenet"] else (3, settings.image_size)
    with FlopCounterMode(display=False) as counter:
        all_streams(model, torch.empty(1, channels, side, side, device="meta"))
    return float(counter.get_total_flops())


def all_streams(model: nn.Module, images_BCHW: Tensor) -> Streams:
    """What any of the systems answers to every task of every image.

    The maps of channel modulation are its last stage's, modulated and averaged over channels, as
    large as the image by bilinear upsampling ("ch-mod + loc" of Table 4).
    """
    if isinstance(model, ModulatedNetwork):
        with _last_stage(model) as seen:
            logits_TBK = model.for_all_tasks(images_BCHW)
        return Streams(logits_TBK, _coarse_maps(seen, images_BCHW).unflatten(
            0, logits_TBK.shape[:2]))
    given = model.for_all_tasks(images_BCHW)
    return given if isinstance(given, Streams) else Streams(given)


@contextmanager
def _last_stage(model: ModulatedNetwork) -> Iterator[list[Tensor]]:
    """Filled as the model is called: what its last stage gives, modulated."""
    seen: list[Tensor] = []
    hook = model.model.backbone.stages[-1].register_forward_hook(
        lambda _, __, output: seen.append(output))  # comes after that of the scales
    try:
        yield seen
    finally:
        hook.remove()


def _coarse_maps(seen: list[Tensor], images_BCHW: Tensor) -> Tensor:
    [features] = seen
    coarse = features.mean(1, keepdim=True)
    return F.interpolate(coarse, images_BCHW.shape[2:], mode="bilinear").squeeze(1)


def takes_one_task(model: nn.Module) -> bool:
    """Whether the system does one task at a time, so that :func:`one_task_streams` is for it."""
    return isinstance(model, TopDownNetwork | ModulatedNetwork)


def one_task_streams(model: nn.Module, images_BCHW: Tensor, task: int) -> Streams:
    """What the system answers to one task of every image: as ``all_streams``, with T = 1."""
    task_B = torch.full((len(images_BCHW),), task, device=images_BCHW.device)
    if isinstance(model, ModulatedNetwork):
        with _last_stage(model) as seen:
            logits_BK = model(images_BCHW, task_B)
        return Streams(logits_BK[None], _coarse_maps(seen, images_BCHW)[None])
    given = model(images_BCHW, task_B)
    bu1_logits = None if given.bu1_logits is None else given.bu1_logits[task:task + 1]
    return Streams(given.logits[None], given.maps[None], given.image_z[None], bu1_logits)


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What all tasks train; none of separate networks."""
    if isinstance(model, SeparateNetworks):
        return []
    if isinstance(model, BranchedNetwork):
        return list(model.backbone.parameters())
    if isinstance(model, ModulatedNetwork):
        return model.shared_parameters()
    return [weight for name, weight in model.named_parameters()
            if not name.startswith(("embedding.", "bu1_heads."))]


def backbone_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The weights that every system with a shared network has in common; none of separate ones."""
    if isinstance(model, SeparateNetworks):
        return []
    return list((model.model if isinstance(model, ModulatedNetwork) else model)
                .backbone.parameters())
