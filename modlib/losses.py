"""The triplet loss, the relevance regulariser, and the penalties of CSN.

Source: Zhao et al., ECCV 2018, Eqs. 6 and 7 (triplet loss) and Eq. 8 (regulariser); Veit et al.,
CVPR 2017, and its code (penalties); Hermans et al., 2017 (the mean over active triplets).
Shapes: B batch, T tasks, D embedding, K triplets a task, S samples an anchor.
"""

import torch
from torch import Tensor

from modlib.triplets import BatchTriplets


def triplet_losses(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Hinge on squared Euclidean distances: max(0, ‖a − p‖² + margin − ‖a − n‖²).

    Computes :eq:`eq-triplet` of the book's page on the method.

    Args:
        anchor, positive, negative: float (..., D), embeddings of length 1.
        margin: at least 0; the paper's is 0.2.

    Returns:
        float (...): one loss a triplet.
    """
    to_positive = (anchor - positive).square().sum(-1)
    to_negative = (anchor - negative).square().sum(-1)
    return torch.relu(to_positive + margin - to_negative)


def task_losses_from_triplets(
    embeddings_TK3D: Tensor, margin: float, mean: str = "all"
) -> Tensor:
    """Mean triplet loss of each task, float (T,), from embedded triplets (anchor, pos., neg.).

    ``mean``: see :func:`task_losses_in_batch`.
    """
    losses_TK = triplet_losses(*embeddings_TK3D.unbind(2), margin)
    return losses_TK.mean(1) if mean == "all" else _mean_where(losses_TK, losses_TK > 0)


def task_losses_in_batch(
    embeddings_TBD: Tensor, triplets: BatchTriplets, margin: float, mean: str = "all"
) -> Tensor:
    """Mean triplet loss of each task when every image serves every task.

    Computes :eq:`eq-triplet` of the book's page on the method.

    A task with no anchor in the batch has loss 0.

    Args:
        embeddings_TBD: float, of length 1 along D.
        triplets: from :func:`modlib.triplets.triplets_in_batch`.
        margin: at least 0.
        mean: ``"all"``: the hinge is averaged over an anchor's S samples, then over the task's
            anchors. ``"active"``: over the task's triplets whose hinge is above 0, so that those
            that are right already do not shrink the step (Hermans et al., 2017).

    Returns:
        float (T,).
    """
    # Between unit vectors ‖a − b‖² = 2 − 2·a·b: all distances of a batch are one product.
    similarity_TBB = embeddings_TBD @ embeddings_TBD.transpose(1, 2)
    difference_TBS = (
        similarity_TBB.gather(2, triplets.negative_TBS)
        - similarity_TBB.gather(2, triplets.positive_TBS)
    )
    hinge_TBS = torch.relu(2 * difference_TBS + margin)
    if mean == "active":
        active_TBS = (hinge_TBS > 0) & triplets.is_anchor_TB[..., None]
        return _mean_where(hinge_TBS.flatten(1), active_TBS.flatten(1))
    return _mean_where(hinge_TBS.mean(2), triplets.is_anchor_TB)


def _mean_where(losses_TK: Tensor, counts_TK: Tensor) -> Tensor:
    weight_TK = counts_TK.to(losses_TK.dtype)
    return (losses_TK * weight_TK).sum(1) / weight_TK.sum(1).clamp(min=1)


def relevance_regulariser(
    scales_TC: Tensor, related: tuple[int, int], unrelated: int, beta: float
) -> Tensor:
    """Eq. 8: max(0, ‖W_i − W_j‖² + β − ‖W_i − W_k‖²).

    Computes :eq:`eq-regulariser` of the book's page on the method.

    It asks that the scales of task i be nearer to those of its related task j than to those of
    the less related task k, by β.

    Args:
        scales_TC: every task's scales over all modulated layers.
        related: (i, j), task indices; in the paper smile and mouth open.
        unrelated: k; in the paper young.
        beta: margin on squared distances, at least 0. The paper does not give its value.

    Returns:
        a scalar.
    """
    i, j = related
    near = (scales_TC[i] - scales_TC[j]).square().sum()
    far = (scales_TC[i] - scales_TC[unrelated]).square().sum()
    return torch.relu(near + beta - far)


def csn_penalty(
    unmasked_BD: Tensor, masks_TD: Tensor, embedding_norm_weight: float, mask_norm_weight: float
) -> Tensor:
    """What a conditional similarity network adds to its loss: short embeddings, sparse masks.

    Computes :eq:`eq-csn` of the book's page on the method.

    ``embedding_norm_weight · ‖E‖_F / √B + mask_norm_weight · mean over tasks of ‖mask‖₁``. The
    authors' code uses 5e-3 and 5e-4.

    Args:
        unmasked_BD: float, the embeddings before the masks.
        masks_TD: float, every task's mask.

    Returns:
        a scalar, at least 0.
    """
    length = unmasked_BD.float().norm() / len(unmasked_BD) ** 0.5
    return embedding_norm_weight * length + mask_norm_weight * masks_TD.abs().sum(1).mean()


def joint_loss(losses_T: Tensor, shared: bool) -> Tensor:
    """The tasks' losses in one: their mean, or, where they share nothing, their sum.

    So each of separate networks sees its own mean loss, as if alone.

    Args:
        losses_T: every task's loss, float (T,).
        shared: whether the tasks share any parameters.

    Returns:
        a scalar, with its graph.
    """
    return losses_T.mean() if shared else losses_T.sum()
