"""Which tasks share a branch: affinities between tasks, and the number of branches to make.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, sections 3.3
and 3.4; L0, the five clusterings and the cap on branches are those of the authors' code.
Shapes: B batch, N images, T tasks, K branches above the layer that is split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.cluster import SpectralClustering
from torch import Tensor, nn

from modlib.errors import ModlibError

UNIT_COST = 1 / 64  # L0 of Eq. 9
CLUSTERINGS = 5  # that are tried for each number of branches


class TaskAffinity(nn.Module):
    """Running affinity of every pair of tasks: how often both find an example hard, or both easy.

    Computes :eq:`eq-affinity` of the book's page on the method.

    An example is hard for a task when its error margin, ``|label − probability|``, reaches the
    task's mean margin. Both means are weighted averages of the batches' means; a batch's weight
    falls by ``decay`` with each later one (section 3.3). They are buffers, as batch norm's averages
    are, so that a checkpoint holds them.

    Args:
        num_tasks: T, at least 1.
        decay: from 0, the last batch alone, to 1, all batches alike.

    Raises:
        ModlibError: a decay outside that range.
    """

    def __init__(self, num_tasks: int, decay: float = 0.99):
        super().__init__()
        if not 0 <= decay <= 1:
            raise ModlibError(f"decay must be from 0 to 1; given {decay}")
        self.decay = decay
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("margins_T", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer(
            "affinity_TT", torch.zeros(num_tasks, num_tasks, dtype=torch.float64))

    @torch.no_grad()
    def add(self, logits_BT: Tensor, labels_BT: Tensor) -> None:
        """Take one batch into the averages.

        Args:
            logits_BT: float.
            labels_BT: bool.
        """
        margins_BT = (labels_BT.double() - logits_BT.double().sigmoid()).abs()
        share = 1 / (self.decay * self.weight + 1)  # of this batch in the weighted averages
        self.weight.mul_(self.decay).add_(1)
        self.margins_T.lerp_(margins_BT.mean(0), share)
        hard_BT = (margins_BT >= self.margins_T).double()
        easy_BT = 1 - hard_BT
        both_TT = (hard_BT.T @ hard_BT + easy_BT.T @ easy_BT) / len(margins_BT)
        self.affinity_TT.lerp_(both_TT, share)

    def reset(self) -> None:
        """Forget every batch: what comes next is another network."""
        for buffer in self.buffers():
            buffer.zero_()


def co_difficulty(logits_NT: np.ndarray, labels_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often two tasks both find an image hard, or both easy, in a network that stays as it is.

    Computes :eq:`eq-affinity` of the book's page on the method.

    This is :class:`~modlib.task_grouping.TaskAffinity` with all images in one batch (section 3.3,
    Eq. 6).

    Args:
        logits_NT: float.
        labels_NT: bool.

    Returns:
        float64 (T, T), from 0 to 1, symmetric, 1 on the diagonal; and how often an image is hard
        for each task, float64 (T,): two tasks that hardly ever find one hard agree by chance.
    """
    margins_NT = np.abs(labels_NT - expit(logits_NT.astype(np.float64)))
    hard_NT = (margins_NT >= margins_NT.mean(0)).astype(np.float64)
    easy_NT = 1 - hard_NT
    return (hard_NT.T @ hard_NT + easy_NT.T @ easy_NT) / len(logits_NT), hard_NT.mean(0)


def branch_affinity(affinity_TT: np.ndarray, branches: Sequence[Sequence[int]]) -> np.ndarray:
    """Affinity of every pair of branches (Eq. 7 and 8): float64 (K, K), symmetric.

    Computes :eq:`eq-branch-affinity` of the book's page on the method.

    A task's affinity to a branch is the smallest to any of its tasks; a branch's affinity to
    another is the mean over its own tasks, and the two directions are averaged.

    Args:
        affinity_TT: float, symmetric.
        branches: the tasks of each.
    """
    to_branch_TK = np.stack([affinity_TT[:, list(tasks)].min(1) for tasks in branches], axis=1)
    one_way_KK = np.stack([to_branch_TK[list(tasks)].mean(0) for tasks in branches])
    return (one_way_KK + one_way_KK.T) / 2


def separation_cost(affinity_KK: np.ndarray, clusters: Sequence[Sequence[int]]) -> float:
    """How dissimilar the branches are that share a cluster (Eq. 10 and 11), from 0 to 1."""
    costs = [1 - affinity_KK[np.ix_(cluster, cluster)].min(1).mean() for cluster in clusters]
    return float(np.mean(costs))


@dataclass(frozen=True)
class LayerClusters:
    """A decision on one layer.

    Attributes:
        clusters: the chosen clusters of the branches above.
        objectives: for each number of branches d, what Eq. 9 adds up: ``branches`` d,
            ``complexity``, ``separation`` (before α) and ``loss``.
    """

    clusters: list[list[int]]
    objectives: list[dict[str, Any]]


def choose_clusters(
    affinity_KK: np.ndarray, alpha: float, poolings_above: int, most: int, seed: int
) -> LayerClusters:
    """The number of branches, and the clusters, of the smallest loss (Eq. 9).

    Computes :eq:`eq-branching` of the book's page on the method.

    The loss is (d − 1) · L0 · 2^p + α · separation; for each d the best of five spectral
    clusterings counts. Of equal losses the one with fewer branches is taken.

    Args:
        affinity_KK: of the branches above; see :func:`~modlib.task_grouping.branch_affinity`.
        alpha: α, at least 0; the larger, the more branches.
        poolings_above: p, pooling layers between this layer and the output.
        most: the largest d allowed, at least 1.
        seed: of the clusterings.

    Raises:
        ModlibError: a negative α, no branch allowed, or affinities that are not finite.
    """
    if alpha < 0:
        raise ModlibError(f"alpha must be at least 0; given {alpha}")
    if most < 1:
        raise ModlibError(f"most must be at least 1 branch; given {most}")
    if not np.isfinite(affinity_KK).all():
        raise ModlibError(f"affinities must be finite; given {affinity_KK.tolist()}")
    best, objectives = [], []
    for count in range(1, min(most, len(affinity_KK)) + 1):
        found = _best_clusters(affinity_KK, count, seed)
        complexity = (len(found) - 1) * UNIT_COST * 2**poolings_above
        separation = separation_cost(affinity_KK, found)
        loss = complexity + alpha * separation
        if not objectives or loss < min(one["loss"] for one in objectives):
            best = found
        objectives.append({"branches": len(found), "complexity": complexity,
                           "separation": separation, "loss": loss})
    return LayerClusters(best, objectives)


def _best_clusters(affinity_KK: np.ndarray, count: int, seed: int) -> list[list[int]]:
    """Of five spectral clusterings the one with the smallest separation cost."""
    branches = len(affinity_KK)
    if count in (1, branches):  # there is only one way
        labels_K = np.arange(branches) if count == branches else np.zeros(branches)
        return _members(labels_K)
    tried = []
    for attempt in range(CLUSTERINGS):
        state = (seed * CLUSTERINGS + attempt) % 2**32  # scikit-learn takes no larger ones
        clustering = SpectralClustering(
            count, affinity="precomputed", random_state=state, n_init=1)
        tried.append(_members(clustering.fit_predict(affinity_KK)))
    return min(tried, key=lambda clusters: separation_cost(affinity_KK, clusters))


def _members(labels_K: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(labels_K == label).tolist() for label in np.unique(labels_K)]
