"""What the systems that answer every task are trained by: their answers, and auxiliary losses.

Source: Levi and Ullman, section 3.3 ("auxiliary losses"), Table 2d and section 4.3.4.
Shapes: B batch, T tasks, K classes, H W height and width.
"""

import torch.nn.functional as F
from torch import Tensor

from modlib.task_images import UNKNOWN
from modlib.task_readers import ReaderSettings
from modlib.top_down import Streams

POINTS = ("cub_200",)  # data sets whose places are blurred points, not maps of 0 and 1


def answer_losses(logits_TBK: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy of each task over the images that it asks about, float (T,).

    A task that asks about none of them has 0.
    """
    losses_TB = F.cross_entropy(
        logits_TBK.flatten(0, 1), labels_BT.T.flatten(), ignore_index=UNKNOWN,
        reduction="none").view(labels_BT.T.shape)
    return losses_TB.sum(1) / (labels_BT != UNKNOWN).sum(0).clamp(min=1)


def place_losses(maps_TBHW: Tensor, places_BTHW: Tensor, points: bool) -> Tensor:
    """How far the last top-down maps are from where each task has to look, float (T,).

    Args:
        maps_TBHW: any real numbers.
        places_BTHW: from 0 to 1.
        points: True: a place is a blurred point and adds up to 1, and the loss is the
            cross-entropy of the map's softmax over all pixels; places of 0 throughout are not
            known and do not count. False: it says pixel by pixel what belongs, and the loss is
            the mean binary cross-entropy.
    """
    places_TBHW = places_BTHW.transpose(0, 1)
    if not points:
        return F.binary_cross_entropy_with_logits(
            maps_TBHW, places_TBHW, reduction="none").mean((1, 2, 3))
    losses_TB = -(maps_TBHW.flatten(2).log_softmax(2) * places_TBHW.flatten(2)).sum(2)
    known_T = places_TBHW.flatten(2).any(2).sum(1)
    return losses_TB.sum(1) / known_T.clamp(min=1)


def task_losses(
    streams: Streams, labels_BT: Tensor, places_BTHW: Tensor | None, settings: ReaderSettings
) -> Tensor:
    """What each task is trained by, float (T,): its answers and the auxiliary losses switched on.

    Args:
        places_BTHW: needed where ``td_weight`` is above 0.
    """
    losses_T = answer_losses(streams.logits, labels_BT)
    if settings.bu1_weight > 0:
        losses_T = losses_T + settings.bu1_weight * answer_losses(streams.bu1_logits, labels_BT)
    if settings.td_weight > 0:
        losses_T = losses_T + settings.td_weight * place_losses(
            streams.maps, places_BTHW, settings.dataset in POINTS)
    return losses_T
