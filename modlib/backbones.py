"""Recognition networks cut in two: convolutional stages, and what comes after them.

Source: Levi and Ullman, section 4.2 and Table 5: LeNet (Sener and Koltun's), VGG-11 and ResNet-18.
Shapes: B batch, C channels, H W height and width, F features, K classes, S stages.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vgg11
from torchvision.models.resnet import BasicBlock

from modlib.trunk import normalise_pixels


class Block(NamedTuple):
    """What a top-down stream mirrors of a stage, or of a residual block in it.

    Attributes:
        convolutions: (channels in, channels out, kernel size) of those on the main path, in order.
        residual: the block adds its input, through a 1×1 convolution where the channels differ.
    """

    convolutions: list[tuple[int, int, int]]
    residual: bool


class Backbone(nn.Module):
    """The stages of a network, the features after them, and how a classifier on these looks.

    Attributes:
        stages: S modules; each halves the sides, or nearly so.
        neck: from the last stage's output to F features a image.
        new_head: from K to a classifier of F features, freshly initialised.
        blocks: for each stage what a top-down stream mirrors, in order.
        he_weights: whether what mirrors the stages starts from He et al.'s weights, as
            torchvision's deep networks do; else from torch's own.
        sides: of the image and of every stage's output, in pixels; S + 1 numbers.
        channels: likewise.
    """

    def __init__(
        self, stages: list[nn.Module], neck: nn.Module, new_head: Callable[[int], nn.Module],
        image_shape: tuple[int, int], he_weights: bool = False,
    ):
        super().__init__()
        self.stages, self.neck, self.new_head = nn.ModuleList(stages), neck, new_head
        self.blocks, self.he_weights = [_blocks(stage) for stage in stages], he_weights
        maps = [torch.zeros(1, image_shape[0], image_shape[1], image_shape[1])]
        mode, _ = self.training, self.eval()  # batch norm shall not count these zeros
        with torch.no_grad():
            for stage in self.stages:
                maps.append(stage(maps[-1]))
        self.train(mode)
        self.channels = tuple(one.shape[1] for one in maps)
        self.sides = tuple(one.shape[2] for one in maps)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Features (B, F) of what :func:`pixels` gives."""
        features = pixels_BCHW
        for stage in self.stages:
            features = stage(features)
        return self.neck(features)


def pixels(images_BCHW: Tensor) -> Tensor:
    """What a backbone takes: grey images 0 to 1, photographs centred as in the other networks.

    Args:
        images_BCHW: 0 to 255, uint8 or float, of one channel or RGB.
    """
    return images_BCHW.float() / 255 if images_BCHW.shape[1] == 1 else normalise_pixels(images_BCHW)


def lenet(image_size: int = 28) -> Backbone:
    """LeNet as in the MultiMNIST experiments: two 5×5 convolutions and a fully connected layer.

    Weights without biases, for 28×28 pixels: 21,250; its head for 10 classes has 3,000.
    """
    def stage(in_channels: int, out_channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 5), nn.MaxPool2d(2), nn.ReLU())

    side = ((image_size - 4) // 2 - 4) // 2
    neck = nn.Sequential(nn.Flatten(), nn.Linear(20 * side * side, 50), nn.ReLU())
    return Backbone(
        [stage(1, 10), stage(10, 20)], neck,
        lambda classes: nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, classes)),
        (1, image_size))


def vgg_11(image_size: int = 224) -> Backbone:
    """torchvision's VGG-11 with 128 channels in its last convolution, as in the CLEVR experiments.

    Weights without biases: 7,448,256; its head for 2 classes has 7,473,152.
    """
    layers = list(vgg11(weights=None).features)
    last = max(n for n, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    layers[last] = nn.Conv2d(layers[last].in_channels, 128, 3, padding=1)
    ends = [n + 1 for n, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    stages = [nn.Sequential(*layers[start:end]) for start, end in pairwise([0, *ends])]
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten())
    return Backbone(
        stages, neck,
        lambda classes: nn.Sequential(
            nn.Linear(128 * 49, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(),
            nn.Linear(1024, classes)),
        (3, image_size), he_weights=True)


def resnet_18(image_size: int = 224) -> Backbone:
    """torchvision's ResNet-18, as in the CUB-200 experiments, untrained; the head is one layer."""
    model = resnet18(weights=None)
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    neck = nn.Sequential(model.avgpool, nn.Flatten())
    return Backbone([stem, model.layer1, model.layer2, model.layer3, model.layer4], neck,
                    lambda classes: nn.Linear(512, classes), (3, image_size), he_weights=True)


BACKBONES = {"lenet": lenet, "vgg11": vgg_11, "resnet18": resnet_18}


def _blocks(stage: nn.Module) -> list[Block]:
    """Its residual blocks, or the whole stage as one block."""
    residual = [one for one in stage.children() if isinstance(one, BasicBlock)]
    return [_block(one) for one in residual or [stage]]


def _block(part: nn.Module) -> Block:
    convolutions = [(one.in_channels, one.out_channels, one.kernel_size[0])
                    for one in part.modules()  # a short cut's has a kernel of 1×1
                    if isinstance(one, nn.Conv2d) and one.kernel_size[0] > 1]
    return Block(convolutions, isinstance(part, BasicBlock))
