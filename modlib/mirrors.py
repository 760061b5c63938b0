"""The stages of a backbone the other way round: what a top-down stream goes through.

Source: Levi and Ullman, section 3: the top-down stream is a replica of the bottom-up stream's
layers.
Shapes: B batch, C channels, H W height and width.
"""

from torch import Tensor, nn

from modlib.backbones import Block


class ResidualMirror(nn.Module):
    """A residual block the other way round, on maps that keep their sides.

    Without the block's batch norm: where tasks are trained one at a time, it would take away each
    task's own mean, which is what tells the tasks apart here. In a network whose mirrors start
    from He weights its last convolution starts at 0 instead, so that however many blocks there
    are, at first the sum is the short cut.

    Args:
        block: what is mirrored.
        td_channels: of every map; None: the block's own, the other way round.
    """

    def __init__(self, block: Block, td_channels: int | None):
        super().__init__()
        into, out = block.convolutions[0][0], block.convolutions[-1][1]
        self.main_path = nn.Sequential(*_mirrored_layers(block, td_channels))
        self.short_cut = nn.Identity() if td_channels or into == out else nn.Conv2d(out, into, 1)

    def forward(self, td_BCHW: Tensor) -> Tensor:
        """The sum of both paths, of as many channels as the block takes; a ReLU comes after it."""
        return self.main_path(td_BCHW) + self.short_cut(td_BCHW)


def mirror(blocks: list[Block], td_channels: int | None) -> nn.Module:
    """A stage the other way round, on maps that keep their sides: the last layer comes first.

    Args:
        blocks: of the stage, in its order.
        td_channels: of every map; None: the blocks' own, the other way round.
    """
    layers: list[nn.Module] = []
    for block in reversed(blocks):
        mirrored = ([ResidualMirror(block, td_channels)] if block.residual
                    else _mirrored_layers(block, td_channels))
        layers += [nn.ReLU(), *mirrored]
    return nn.Sequential(*layers[1:])


def _mirrored_layers(block: Block, td_channels: int | None) -> list[nn.Module]:
    """A block's convolutions the other way round, with the ReLUs between them."""
    layers: list[nn.Module] = []
    for into, out, kernel in reversed(block.convolutions):
        layers += [nn.ReLU(), nn.Conv2d(td_channels or out, td_channels or into, kernel,
                                        padding=kernel // 2)]
    return layers[1:]


def start_from_he_weights(module: nn.Module) -> None:
    """First weights that keep the variance of what goes through, however many layers it passes.

    He et al., "Delving deep into rectifiers", ICCV 2015. With torch's own the task is no longer
    to be seen at the lower end of a deep stream.
    """
    for one in module.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.kaiming_normal_(one.weight, nonlinearity="relu")
            nn.init.zeros_(one.bias)
    for one in module.modules():
        if isinstance(one, ResidualMirror):
            nn.init.zeros_(one.main_path[-1].weight)
