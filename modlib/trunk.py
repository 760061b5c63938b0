"""The trunk: the network of Table 2, stage by stage.

Source: Zhao et al., ECCV 2018, section 4.1 and Table 2, settled by the authors' code.
Shapes: B batch, C channels, H W height and width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

BLOCK_CHANNELS = {"conv1": 32, "block2": 64, "block3": 128, "block4": 128, "block5": 128}
PIXEL_MEAN_RGB = (122.77, 115.95, 102.98)
PIXEL_SCALE = 128.0
_PIXEL_MEANS: dict[torch.device, Tensor] = {}  # kept, as a GPU waits for each it is sent
INITIALISATIONS = ("normal", "kaiming")
SMALLEST_IMAGE = 48  # below this the last 2×2 pooling has nothing to pool


class SmallMapConv2d(nn.Conv2d):
    """A 3×3 convolution, padding 1, no bias, that is one matrix product on 2×2 maps of many images.

    On such a map every output sees every input, so the convolution is a dense matrix: what it
    does to the unit vectors. One large product takes the place of many tiny convolutions.
    """

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:].numel()
        # An exported network takes any number of images: it cannot go one of two ways by it.
        if torch.compiler.is_exporting() or x.shape[2:] != (2, 2) or len(x) <= 2 * size:
            return super().forward(x)
        # Rows and columns in the order of channels-last memory: row, column, channel.
        unit = torch.eye(size, dtype=x.dtype, device=x.device).unflatten(1, (2, 2, -1))
        matrix = super().forward(unit.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1)
        product = x.permute(0, 2, 3, 1).flatten(1) @ matrix
        return product.unflatten(1, (2, 2, -1)).permute(0, 3, 1, 2)


def conv_bn_relu(
    in_channels: int, out_channels: int, padding: int, bn_decay: float
) -> nn.Sequential:
    """3×3 convolution without bias, batch norm, ReLU."""
    convolution = SmallMapConv2d if padding else nn.Conv2d
    return nn.Sequential(
        convolution(in_channels, out_channels, 3, padding=padding, bias=False),
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

    def forward(self, x: Tensor, convolve: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The block's output; ``convolve`` takes the place of its first convolution."""
        convolution, *others = self.conv
        x = convolve(x) if convolve else convolution(x)
        for layer in others:
            x = layer(x)
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
    pixels = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
    return (pixels - _pixel_mean(images_BCHW.device)) / PIXEL_SCALE


def _pixel_mean(device: torch.device) -> Tensor:
    if device not in _PIXEL_MEANS:
        with torch.inference_mode(False):
            _PIXEL_MEANS[device] = torch.tensor(PIXEL_MEAN_RGB, device=device)[:, None, None]
    return _PIXEL_MEANS[device]


@torch.no_grad()
def initialise_weights(
    module: nn.Module, generator: torch.Generator, initialisation: str = "normal"
) -> None:
    """Draw every convolution and linear weight.

    ``"normal"``: the authors', N(0, 0.1²) truncated at two deviations. ``"kaiming"``: a variance
    of 2 over the inputs of a unit (He et al., ICCV 2015).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if initialisation == "kaiming":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2, generator=generator)
