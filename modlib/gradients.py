"""Per-task gradients over the shared parameters, their Gramian, and the update compliance ratio.

Source: Zhao et al., ECCV 2018, section 3.1, Eq. 2. For a pair of tasks the
UCR is the share of mini-batches whose two task gradients have a positive inner product.
Shapes: B batch, T tasks, P shared parameters, D embedding, S stages of the trunk, N mini-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modlib.errors import ModlibError
from modlib.task_networks import SharedTrunkNetwork


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
    sizes = [parameter.numel() for parameter in shared]
    gradients_TP = torch.zeros(len(losses_T), sum(sizes), device=losses_T.device)
    for loss, row_P in zip(losses_T, gradients_TP, strict=True):
        gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        for place, gradient in zip(row_P.split(sizes), gradients, strict=True):
            if gradient is not None:
                place.copy_(gradient.flatten())
    return gradients_TP


def gramian(gradients_TP: Tensor) -> Tensor:
    """All inner products of the task gradients: float32 (T, T), under autocast too.

    Its signs are those of :eq:`eq-conflict` on the book's page on the method.
    """
    with torch.autocast(gradients_TP.device.type, enabled=False):
        return gradients_TP @ gradients_TP.T


def stage_gramians(gradients_TP: Tensor, sizes: Sequence[int]) -> Tensor:
    """The Gramian's summands: inner products over the parameters of each stage alone.

    Args:
        gradients_TP: from :func:`task_gradients`.
        sizes: how many of the P parameters each of the S stages has, in order.

    Returns:
        float32 (S, T, T); up to rounding their sum is :func:`gramian`.
    """
    return torch.stack([gramian(part_TK) for part_TK in gradients_TP.split(list(sizes), dim=1)])


def trunk_output_gramian(
    network: SharedTrunkNetwork, images_BCHW: Tensor, losses: Callable[[Tensor], Tensor]
) -> Tensor:
    """Inner products of the tasks' gradients over the trunk's output instead of its parameters.

    Each task gets a copy of the trunk's output, and one backward pass of the summed losses, no
    further than these copies, gives the gradient of each. It costs a part of a step, where
    :func:`modlib.gradients.task_gradients` goes through the whole network once a task. It is
    *another metric* than the paper's: it does not see what the weights below make of the
    gradients, and what reaches a copy through the batch statistics comes from all tasks' losses.

    Args:
        network: in train mode; its running averages stay as they are.
        images_BCHW: pixels 0 to 255.
        losses: from embeddings_TBD to one loss a task, (T,).

    Returns:
        float32 (T, T).
    """
    averages = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with torch.no_grad():
            features = network.trunk_output(images_BCHW)
        copies = features.repeat(network.num_tasks, *[1] * (features.ndim - 1)).requires_grad_()
        losses_T = losses(network.embed_features(copies, copies=True))
        (gradients,) = torch.autograd.grad(losses_T.sum(), copies)
    finally:
        for buffer, before in averages:
            buffer.copy_(before)
    return gramian(gradients.unflatten(0, (network.num_tasks, -1)).flatten(1).float())


def cosines(gramian_TT: Tensor) -> Tensor:
    """Cosines of the angles between task gradients, (T, T); 0 where a gradient is zero."""
    norms_T = gramian_TT.diagonal().clamp(min=0).sqrt()
    scale_TT = norms_T[:, None] * norms_T[None, :]
    cosines_TT = gramian_TT / torch.where(scale_TT > 0, scale_TT, 1.0)
    return torch.where(scale_TT > 0, cosines_TT, 0.0).clamp(-1, 1)


class UcrCounter:
    """Counts, over mini-batches, the signs of the inner products of every pair of tasks.

    The Gramians stay on their device until a count is asked for, so that training on a GPU does
    not wait for them.

    Attributes:
        gramians: one (T, T) a mini-batch.
        stages: likewise one (S, T, T), where stages were counted.
    """

    def __init__(self, num_tasks: int):
        self.num_tasks = num_tasks
        self.gramians: list[Tensor] = []
        self.stages: list[Tensor] = []

    def add(self, gramian_TT: Tensor, stages_STT: Tensor | None = None) -> None:
        """Count one mini-batch, and the stages of the trunk apart where they are given."""
        self.gramians.append(gramian_TT.detach())
        if stages_STT is not None:
            self.stages.append(stages_STT.detach())

    @property
    def batches(self) -> int:
        """How many mini-batches were counted."""
        return len(self.gramians)

    @property
    def signs_NTT(self) -> np.ndarray:
        """The signs of the inner products in each of the N mini-batches.

        Raises:
            ModlibError: a Gramian is not finite.
        """
        if not self.gramians:
            return np.zeros((0, self.num_tasks, self.num_tasks))
        gramians_NTT = torch.stack(self.gramians)
        if not torch.isfinite(gramians_NTT).all():
            raise ModlibError("a task's gradient is not finite; a lower learning_rate may help")
        return gramians_NTT.sign().cpu().numpy()

    @property
    def positive_TT(self) -> np.ndarray:
        """In how many mini-batches the inner product is positive, int64."""
        return (self.signs_NTT > 0).sum(0)

    @property
    def negative_TT(self) -> np.ndarray:
        """In how many mini-batches the inner product is negative, int64."""
        return (self.signs_NTT < 0).sum(0)

    @property
    def zero_TT(self) -> np.ndarray:
        """In how many mini-batches the inner product is exactly 0, int64."""
        return (self.signs_NTT == 0).sum(0)

    def stage_counts(self) -> np.ndarray:
        """In how many mini-batches a stage's inner product is positive, negative: (2, S, T, T)."""
        signs_NSTT = torch.stack(self.stages).sign().cpu().numpy()
        return np.stack([(signs_NSTT > 0).sum(0), (signs_NSTT < 0).sum(0)])

    @property
    def cosine_sum_TT(self) -> np.ndarray:
        """The cosines of every pair of task gradients, added up over the mini-batches, float64."""
        total_TT = np.zeros((self.num_tasks, self.num_tasks))
        for gramian_TT in self.gramians:
            total_TT += cosines(gramian_TT).double().cpu().numpy()
        return total_TT

    def metrics(self, tasks: tuple[str, ...]) -> dict[str, Any]:
        """What an epoch's metrics hold: ``ucr_batches``, and ``ucr`` counts where there are any."""
        return {"ucr_batches": self.batches, "ucr": self.pairs(tasks) if self.batches else []}

    def pairs(self, tasks: tuple[str, ...]) -> list[dict]:
        """One plain dictionary a pair of tasks, for a record."""
        positive_TT, negative_TT, zero_TT = self.positive_TT, self.negative_TT, self.zero_TT
        cosine_sum_TT = self.cosine_sum_TT
        return [
            {
                "tasks": [tasks[i], tasks[j]],
                "positive": int(positive_TT[i, j]),
                "negative": int(negative_TT[i, j]),
                "zero": int(zero_TT[i, j]),
                "mean_cosine": float(cosine_sum_TT[i, j] / max(1, self.batches)),
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


def wilson(successes: float, trials: int, z: float = 1.959964) -> Ratio:
    """A proportion and its Wilson score interval (Wilson, 1927).

    Computes :eq:`eq-wilson` of the book's page on the method.

    Args:
        successes: 0 to ``trials``; not whole where it is the mean of several counts.
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

    Computes :eq:`eq-ucr` of the book's page on the method.

    Args:
        positive: mini-batches with a positive inner product.
        negative: those with a negative one.
        zero: those where it is exactly 0.
        with_zeros: whether batches with an inner product of exactly 0 (a task whose hinge losses
            are all zero) count among the batches. The paper leaves it open.
    """
    return wilson(positive, positive + negative + (zero if with_zeros else 0))
