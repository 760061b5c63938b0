"""Training to the end for a network's sake, as for a record; the view without the test split."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modlib.epochs import train_epochs, train_to_the_end
from modlib.networks import build_network


def test_a_network_is_trained_again_deterministically_as_for_its_record(tmp_path):
    asked = []

    def epochs():
        asked.append(torch.are_deterministic_algorithms_enabled())
        yield {"epoch": 1}

    assert not torch.are_deterministic_algorithms_enabled()
    train_to_the_end(epochs(), tmp_path / "a.pt")
    assert asked == [True]


def test_each_epoch_is_trained_then_validated_on_a_view_without_the_test_split(planted, tiny):
    network = build_network("fully_shared", tiny.tasks, width=0.1, embedding_size=16)
    optimiser, calls = torch.optim.SGD(network.parameters(), 0.1), []

    def train_one_epoch(*given):
        calls.append(("train", *given))
        return {"epoch": given[-1] + 1}

    def validate(*given):
        calls.append(("validate", *given))
        return {"valid": len(given[1].indices("valid"))}

    found = list(train_epochs(network, optimiser, planted, replace(tiny, epochs=2), None, None,
                              train_one_epoch, validate))
    assert [{key: one[key] for key in ("epoch", "valid")} for one in found] == [
        {"epoch": 1, "valid": 30}, {"epoch": 2, "valid": 30}]
    assert [call[0] for call in calls] == ["train", "validate"] * 2
    data, get_images = calls[0][3:5]
    assert torch.equal(get_images(torch.tensor([3])),
                       torch.from_numpy(np.array(planted.images_NCHW[[3]])))
    with pytest.raises(Exception, match="test"):
        data.indices("test")
