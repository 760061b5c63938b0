"""Losses of the systems that answer every task, against loops that anyone can check."""

from math import exp, log

import numpy as np
import pytest
import torch

from modlib.reader_losses import answer_losses, place_losses, task_losses
from modlib.task_readers import ReaderSettings
from modlib.top_down import Streams


def test_answer_losses_are_those_of_a_loop_over_what_is_asked():
    logits_TBK = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels_BT = torch.tensor([[0, -1], [3, -1], [-1, -1]])
    expected = 0.0
    for image in (0, 1):
        row = logits_TBK[0, image].tolist()
        expected -= log(exp(row[labels_BT[image, 0]]) / sum(map(exp, row))) / 2
    assert answer_losses(logits_TBK, labels_BT).tolist() == pytest.approx([expected, 0.0])


def test_a_maps_loss_is_binary_cross_entropy_over_all_pixels():
    maps_TBHW = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    places_BTHW = (torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(1)) > .5).float()
    expected = [np.mean([-log(1 / (1 + exp(-m if p else m))) for m, p in zip(
        maps_TBHW[t].flatten().tolist(), places_BTHW[:, t].flatten().tolist(), strict=True)])
        for t in (0, 1)]
    assert place_losses(maps_TBHW, places_BTHW, points=False).tolist() == pytest.approx(expected)


def test_a_points_loss_is_cross_entropy_over_the_pixels_of_known_points():
    maps_TBHW = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    places_BTHW = torch.zeros(3, 2, 2, 2)
    places_BTHW[0, 0, 1, 1] = 1.0
    places_BTHW[2, 0] = torch.tensor([[0.5, 0.25], [0.25, 0.0]])
    expected = 0.0
    for image in (0, 2):
        logits = maps_TBHW[0, image].flatten().tolist()
        for logit, share in zip(logits, places_BTHW[image, 0].flatten().tolist(), strict=True):
            expected -= share * log(exp(logit) / sum(map(exp, logits))) / 2
    given = place_losses(maps_TBHW, places_BTHW, points=True)
    assert given.tolist() == pytest.approx([expected, 0.0])


def test_auxiliary_losses_are_added_by_their_weights():
    generator = torch.Generator().manual_seed(0)
    logits, maps, bu1_logits = (torch.randn(2, 3, *rest, generator=generator)
                                for rest in ((4,), (5, 5), (4,)))
    streams = Streams(logits, maps, bu1_logits=bu1_logits)
    labels_BT = torch.randint(0, 4, (3, 2), generator=generator)
    places_BTHW = torch.randint(0, 2, (3, 2, 5, 5), generator=generator).float()
    plain = answer_losses(streams.logits, labels_BT)
    given = task_losses(streams, labels_BT, places_BTHW,
                        ReaderSettings(bu1_weight=0.5, td_weight=2.0))
    expected = (plain + 0.5 * answer_losses(streams.bu1_logits, labels_BT)
                + 2.0 * place_losses(streams.maps, places_BTHW, False))
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(task_losses(streams, labels_BT, None, ReaderSettings()), plain)
