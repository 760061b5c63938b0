"""The modulation module: one learned scale per task and channel.

Source: Zhao et al., ECCV 2018, section 3.2, Eqs. 3 and 5, and the authors' code.
Shapes: B batch, T tasks, C channels, H W height and width.
"""

import torch
from torch import Tensor, nn


class ChannelScale(nn.Module):
    """Multiply every channel by the scale that the image's task has learned for it.

    The scale is ``W = relu(w)`` with ``w`` initialised to 1, so a new module changes nothing. A
    scale whose ``w`` falls to 0 or below has no gradient any more and stays 0: it is *dead*.

    Args:
        num_tasks: T, at least 1.
        channels: C, at least 1.

    Attributes:
        weight: the parameter ``w``, float (T, C).
    """

    def __init__(self, num_tasks: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tasks, channels))

    def scales(self) -> Tensor:
        """The scales W = relu(w), float (T, C), each at least 0."""
        return torch.relu(self.weight)

    def forward(self, features: Tensor, task_B: Tensor) -> Tensor:
        """Scale each image's channels for its own task.

        Args:
            features: (B, C) or (B, C, H, W).
            task_B: int64 (B,), task indices in [0, T).

        Returns:
            A tensor shaped as ``features``.
        """
        scales_BC = self.scales()[task_B].to(features.dtype)
        return features * scales_BC.reshape(scales_BC.shape + (1,) * (features.ndim - 2))

    def for_all_tasks(self, features: Tensor) -> Tensor:
        """Scale each image's channels once for every task.

        Args:
            features: (B, C) or (B, C, H, W), the same for every task.

        Returns:
            (T·B, C) or (T·B, C, H, W), tasks outermost; 4-D results are channels-last in memory.
        """
        scales_TC = self.scales().to(features.dtype)
        if features.ndim == 2:
            return (features * scales_TC[:, None, :]).flatten(0, 1)
        # Channels innermost, so that the convolutions that follow need no layout copy.
        features_BHWC = features.permute(0, 2, 3, 1).contiguous()
        scaled_TBHWC = features_BHWC * scales_TC[:, None, None, None, :]
        return scaled_TBHWC.flatten(0, 1).permute(0, 3, 1, 2)

    def dead(self) -> int:
        """How many of the T·C scales are 0 and can never come back."""
        return int((self.weight <= 0).sum())
