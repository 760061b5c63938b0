"""Per-task gradients over the shared parameters, their Gramian, and the update compliance ratio.

Source: Zhao et al., ECCV 2018, section 3.1, Eq. 2. For a pair of tasks the
UCR is the share of mini-batches whose two task gradients have a positive inner product.
Shapes: T tasks, P shared parameters.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn

from modlib.errors import ModlibError


def task_gradients(losses_T: Tensor, shared: list[nn.Parameter]) -> Tensor:
    """The gradient of every task's loss over the shared parameters.

    All losses come from one forward pass over the joint batch, with batch norm in train mode:
    the tasks are coupled through the batch statistics, as they are in training. The graph is
    kept, so the caller can go on to the training step.

    Args:
        losses_T: one loss a task, from one graph.
        shared: the parameters that all tasks train; must not be empty.

    Returns:
        gradients_TP, float32; zeros where a loss does not depend on a parameter.
    """
    if not shared:
        raise ModlibError("there are no shared parameters: independent networks have no UCR")
    rows = []
    for loss in losses_T:
        gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([
            (torch.zeros_like(p) if g is None else g).float().flatten()
            for g, p in zip(gradients, shared, strict=True)
        ]))
    return torch.stack(rows)


def gramian(gradients_TP: Tensor) -> Tensor:
    """All inner products of the task gradients: float32 (T, T)."""
    return gradients_TP @ gradients_TP.T


def cosines(gramian_TT: Tensor) -> Tensor:
    """Cosines of the angles between task gradients, (T, T); 0 where a gradient is zero."""
    norms_T = gramian_TT.diagonal().clamp(min=0).sqrt()
    scale_TT = norms_T[:, None] * norms_T[None, :]
    cosines_TT = gramian_TT / torch.where(scale_TT > 0, scale_TT, 1.0)
    return torch.where(scale_TT > 0, cosines_TT, 0.0).clamp(-1, 1)


class UcrCounter:
    """Counts, over mini-batches, the signs of the inner products of every pair of tasks.

    Attributes:
        positive_TT, negative_TT, zero_TT: int64 counts; symmetric; they add up to ``batches``.
        cosine_sum_TT: float64 sums of the cosines.
        norm_sum_T: float64 sums of the gradients' norms.
        batches: how many mini-batches were counted.
    """

    def __init__(self, num_tasks: int):
        self.positive_TT = np.zeros((num_tasks, num_tasks), np.int64)
        self.negative_TT = np.zeros((num_tasks, num_tasks), np.int64)
        self.zero_TT = np.zeros((num_tasks, num_tasks), np.int64)
        self.cosine_sum_TT = np.zeros((num_tasks, num_tasks))
        self.norm_sum_T = np.zeros(num_tasks)
        self.batches = 0

    def add(self, gramian_TT: Tensor) -> None:
        """Count one mini-batch; a Gramian that is not finite is refused."""
        if not torch.isfinite(gramian_TT).all():
            raise ModlibError("a task's gradient is not finite; a lower learning_rate may help")
        signs_TT = gramian_TT.sign().cpu().numpy()
        self.positive_TT += signs_TT > 0
        self.negative_TT += signs_TT < 0
        self.zero_TT += signs_TT == 0
        self.cosine_sum_TT += cosines(gramian_TT).double().cpu().numpy()
        self.norm_sum_T += gramian_TT.diagonal().clamp(min=0).sqrt().double().cpu().numpy()
        self.batches += 1

    def pairs(self, tasks: tuple[str, ...]) -> list[dict]:
        """One plain dictionary a pair of tasks, for a record."""
        return [
            {
                "tasks": [tasks[i], tasks[j]],
                "positive": int(self.positive_TT[i, j]),
                "negative": int(self.negative_TT[i, j]),
                "zero": int(self.zero_TT[i, j]),
                "mean_cosine": float(self.cosine_sum_TT[i, j] / max(1, self.batches)),
            }
            for i in range(len(tasks)) for j in range(i + 1, len(tasks))
        ]


@dataclass(frozen=True)
class Ratio:
    """A proportion with its 95 % Wilson interval; ``value`` is nan when nothing was counted."""

    value: float
    low: float
    high: float
    count: int


def wilson(successes: int, trials: int, z: float = 1.959964) -> Ratio:
    """A proportion and its Wilson score interval (Wilson, 1927).

    Args:
        successes: 0 to ``trials``.
        trials: at least 0.
        z: the normal quantile; the default gives 95 %.
    """
    if not 0 <= successes <= trials:
        raise ModlibError(f"successes must be 0 to {trials}; given {successes}")
    if trials == 0:
        return Ratio(float("nan"), 0.0, 1.0, 0)
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    low = centre - half if successes else 0.0
    high = centre + half if successes < trials else 1.0
    return Ratio(p, low, high, trials)


def update_compliance_ratio(positive: int, negative: int, zero: int, with_zeros: bool) -> Ratio:
    """The UCR of one pair of tasks from its counts.

    Args:
        positive, negative, zero: mini-batches by the sign of the inner product.
        with_zeros: whether batches with an inner product of exactly 0 (a task whose hinge losses
            are all zero) count among the batches. The paper leaves it open.
    """
    return wilson(positive, positive + negative + (zero if with_zeros else 0))
