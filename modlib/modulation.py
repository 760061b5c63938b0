"""The modulation module: one learned scale, or one learned projection, per task.

Source: Zhao et al., ECCV 2018, section 3.2, Eqs. 3 to 5, and the authors' code.
Shapes: B batch, T tasks, C channels in, D channels out, H W height and width.
"""

import torch
from torch import Tensor, nn

from modlib.errors import ModlibError


class ChannelScale(nn.Module):
    """Multiply every channel by the scale that the image's task has learned for it.

    Computes :eq:`eq-modulation` of the book's page on the method.

    The scale is ``W = relu(w)`` with ``w`` initialised to 1, so a new module changes nothing. A
    scale whose ``w`` falls to 0 or below has no gradient any more and stays 0: it is *dead*.

    Args:
        num_tasks: T, at least 1.
        channels: C, at least 1.
        signed: ``W = w``, without the ReLU, so that a scale may pass 0 and come back.

    Attributes:
        weight: the parameter ``w``, float (T, C).
    """

    def __init__(self, num_tasks: int, channels: int, signed: bool = False):
        super().__init__()
        self.signed = signed
        self.weight = nn.Parameter(torch.ones(num_tasks, channels))

    def scales(self) -> Tensor:
        """The scales W, float (T, C), each at least 0 unless they are signed."""
        return self.weight if self.signed else torch.relu(self.weight)

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

    def for_all_tasks_then(self, convolution: nn.Conv2d, features: Tensor) -> Tensor:
        """What ``convolution(self.for_all_tasks(features))`` gives, up to rounding, for less.

        A scale on a convolution's input can as well be on its weights. So the T scaled copies of
        each image are never made: every patch of it meets T·D filters in one matrix product.

        Args:
            convolution: C to D channels, square, of stride 1, without padding and bias.
            features: (B, C, H, W), the same for every task.

        Returns:
            (T·B, D, H', W'), tasks outermost, channels-last in memory.
        """
        weight_TDCKK = convolution.weight * self.scales()[:, None, :, None, None]
        filters_NT = weight_TDCKK.to(features.dtype).permute(3, 4, 2, 0, 1).flatten(3).flatten(0, 2)
        patches_BHWN = patches(features.permute(0, 2, 3, 1), convolution.kernel_size[0])
        output_BHWTD = (patches_BHWN @ filters_NT).unflatten(3, weight_TDCKK.shape[:2])
        output_TBHWD = output_BHWTD.permute(3, 0, 1, 2, 4).contiguous()
        return output_TBHWD.flatten(0, 1).permute(0, 3, 1, 2)

    def for_each_task(self, features: Tensor) -> Tensor:
        """Scale features that are each task's own already.

        Args:
            features: (T·B, C) or (T·B, C, H, W), tasks outermost.

        Returns:
            A tensor shaped as ``features``.
        """
        tasks = len(self.weight)
        batch = features.shape[0] // tasks  # no len(): an exported network takes any batch
        task_TB = torch.arange(tasks, device=features.device)[:, None].expand(-1, batch)
        return self(features, task_TB.flatten())

    def dead(self) -> int:
        """How many of the T·C scales are 0 and can never come back."""
        return 0 if self.signed else int((self.weight <= 0).sum())


class ChannelProjection(nn.Module):
    """Mix the channels by the matrix that the image's task has learned.

    Computes :eq:`eq-projection` of the book's page on the method.

    At every position of a feature map the C channels become D by ``x' = x · W_t``. The matrices
    start as the identity, so that a new module with C = D changes nothing.

    Args:
        num_tasks: T, at least 1.
        in_channels: C, at least 1.
        out_channels: D, at least 1; None: C.

    Attributes:
        weight: the matrices, float (T, C, D).
    """

    def __init__(self, num_tasks: int, in_channels: int, out_channels: int | None = None):
        super().__init__()
        identity_CD = torch.eye(in_channels, out_channels or in_channels)
        self.weight = nn.Parameter(identity_CD.repeat(num_tasks, 1, 1))

    def matrices(self) -> Tensor:
        """Every task's matrix, float (T, C, D)."""
        return self.weight

    def forward(self, features: Tensor, task_B: Tensor) -> Tensor:
        """Project each image's channels for its own task.

        Args:
            features: (B, C) or (B, C, H, W).
            task_B: int64 (B,), task indices in [0, T).

        Returns:
            (B, D) or (B, D, H, W); 4-D results are channels-last in memory.
        """
        matrices_BCD = self.matrices()[task_B].to(features.dtype)
        if features.ndim == 2:
            return torch.bmm(features[:, None, :], matrices_BCD).squeeze(1)
        positions_BNC = features.permute(0, 2, 3, 1).flatten(1, 2)
        projected_BND = torch.bmm(positions_BNC, matrices_BCD)
        return projected_BND.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2)

    def for_all_tasks(self, features: Tensor) -> Tensor:
        """Project each image's channels once for every task.

        Args:
            features: (B, C) or (B, C, H, W), the same for every task.

        Returns:
            (T·B, D) or (T·B, D, H, W), tasks outermost; 4-D results are channels-last in memory.
        """
        matrices_TCD = self.matrices().to(features.dtype)
        if features.ndim == 2:
            return torch.matmul(features, matrices_TCD).flatten(0, 1)
        features_BHWC = features.permute(0, 2, 3, 1)
        projected_TND = torch.matmul(features_BHWC.flatten(0, 2), matrices_TCD)
        projected_TBHWD = projected_TND.unflatten(1, features_BHWC.shape[:3])
        return projected_TBHWD.flatten(0, 1).permute(0, 3, 1, 2)

    def for_each_task(self, features: Tensor) -> Tensor:
        """Project features that are each task's own already, with one matrix a task in memory.

        Args:
            features: (T·B, C) or (T·B, C, H, W), tasks outermost.

        Returns:
            (T·B, D) or (T·B, D, H, W); 4-D results are channels-last in memory.
        """
        last = features if features.ndim == 2 else features.permute(0, 2, 3, 1)
        matrices_TCD = self.matrices().to(features.dtype)
        positions_TNC = last.reshape(len(matrices_TCD), -1, last.shape[-1])
        projected_TND = torch.bmm(positions_TNC, matrices_TCD)
        projected = projected_TND.reshape(*last.shape[:-1], -1)
        return projected if features.ndim == 2 else projected.permute(0, 3, 1, 2)


class LowRankProjection(ChannelProjection):
    """A scale for every channel, and a mixing of channels of low rank: W_t = diag(s_t) + U_t · V_t.

    Computes :eq:`eq-low-rank` of the book's page on the method.

    Between :class:`ChannelScale` and :class:`ChannelProjection`: C + 2·C·R numbers a task. ``V``
    starts at 0, so that a new module changes nothing.

    Args:
        num_tasks: T, at least 1.
        channels: C, at least 1.
        rank: R, at least 1.
        generator: draws ``U`` from N(0, 1 / C).

    Attributes:
        scale: the scales s.
        down: U, float (T, C, R).
        up: V, float (T, R, C).
    """

    def __init__(self, num_tasks: int, channels: int, rank: int, generator: torch.Generator):
        nn.Module.__init__(self)
        self.scale = ChannelScale(num_tasks, channels)
        drawn = torch.randn(num_tasks, channels, rank, generator=generator)
        self.down = nn.Parameter(drawn / channels ** 0.5)
        self.up = nn.Parameter(torch.zeros(num_tasks, rank, channels))

    def matrices(self) -> Tensor:
        """Every task's matrix, float (T, C, C)."""
        return torch.diag_embed(self.scale.scales()) + self.down @ self.up


def patches(features_BHWC: Tensor, size: int) -> Tensor:
    """Every square patch of ``size`` by ``size``, flattened: (B, H', W', size·size·C)."""
    height, width = (side - size + 1 for side in features_BHWC.shape[1:3])
    shifted = [features_BHWC[:, row:row + height, column:column + width]
               for row in range(size) for column in range(size)]
    return torch.cat(shifted, dim=3)


def check_task_indices(task_B: Tensor, num_tasks: int, batch: int) -> None:
    """Refuse task indices of another shape or kind, or outside [0, T).

    The values are looked at on a CPU only: on a GPU the host would have to wait for the device
    at every step.
    """
    if not isinstance(task_B, Tensor):
        raise ModlibError(f"task indices must be an int64 tensor; given {task_B!r}")
    if task_B.dtype != torch.int64 or tuple(task_B.shape) != (batch,):
        raise ModlibError(f"task indices must be int64, one an image, shape ({batch},); given "
                          f"{str(task_B.dtype).removeprefix('torch.')} {tuple(task_B.shape)}")
    if task_B.device.type != "cpu" or batch == 0 or torch.compiler.is_compiling():
        return
    try:
        low, high = int(task_B.min()), int(task_B.max())
    except RuntimeError:  # inside torch.func.vmap there are no values to look at
        return
    if low < 0 or high >= num_tasks:
        raise ModlibError(f"task indices must be 0 to {num_tasks - 1}; given {low} to {high}")
