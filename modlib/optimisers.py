"""The optimisers, with a learning rate of their own for the scales, and how rates fall.

Source: Zhao et al., ECCV 2018, section 4.1, and the authors' code (Adagrad); Adam beside it.
"""

import math
from typing import Any

import torch

from modlib.modulation import ChannelScale
from modlib.settings import Settings
from modlib.task_networks import Network


def build_optimiser(network: Network, settings: Settings) -> torch.optim.Optimizer:
    """Adam, or Adagrad as the authors ran it (initial accumulator 0.1).

    Scales and masks have a learning rate of their own; what is frozen is left out.
    """
    scales = [m.weight for m in network.modules() if isinstance(m, ChannelScale)]
    of_scales = {id(weight) for weight in scales}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in of_scales]
    groups: list[dict[str, Any]] = [
        {"params": params, "factor": factor}
        for params, factor in ((others, 1.0), (scales, settings.scale_rate_factor)) if params
    ]
    if settings.optimiser == "adagrad":
        return torch.optim.Adagrad(
            groups, lr=settings.learning_rate, initial_accumulator_value=0.1)
    return torch.optim.Adam(groups, lr=settings.learning_rate)


def rate_multiplier(settings: Settings, epoch: int, progress: float) -> float:
    """What the learning rate is multiplied by.

    Args:
        epoch: from 0.
        progress: the share of all batches that is done, in [0, 1).
    """
    if settings.schedule == "tenth_every_40_epochs":
        return 0.1 ** (epoch // 40)
    if settings.schedule == "tenth_every_third":
        return 0.1 ** int(3 * progress)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 0.1 if progress >= 0.7 else 1.0


def set_rates(optimiser, settings: Settings, epoch: int, number: int, batches: int) -> None:
    """Set every parameter group's learning rate for this batch."""
    progress = (epoch * batches + number) / (settings.epochs * batches)
    rate = settings.learning_rate * rate_multiplier(settings, epoch, progress)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
