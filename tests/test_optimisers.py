"""Learning rates fall as the schedule says, and the scales have a rate of their own."""

import re
from dataclasses import replace

import pytest
import torch

from modlib.adaptive_branching import BranchingSettings
from modlib.experiments import new_network
from modlib.networks import SYSTEMS, build_network
from modlib.optimisers import build_optimiser, rate_multiplier, set_rates

SCALES = {  # their parameters' names
    "csn": r"modulation\.fc\.weight", "mask_only": r"modulation\.(block4|block5|fc)\.weight",
    "modulated": r"modulation\.(block4|block5|fc)\.weight",
    "modulated_branches": r"modulation\.(block4|block5)\.weight",
    "low_rank": r"modulation\.(block4|block5|fc)\.scale\.weight"}


@pytest.mark.parametrize(("schedule", "epoch", "progress", "expected"), [
    ("tenth_for_last_30_percent", 0, 0.0, 1.0),
    ("tenth_for_last_30_percent", 6, 0.699, 1.0),
    ("tenth_for_last_30_percent", 7, 0.7, 0.1),
    ("tenth_for_last_30_percent", 9, 0.999, 0.1),
    ("tenth_every_40_epochs", 0, 0.0, 1.0),
    ("tenth_every_40_epochs", 39, 0.99, 1.0),
    ("tenth_every_40_epochs", 40, 0.5, 0.1),
    ("tenth_every_40_epochs", 80, 0.5, 0.01),
    ("cosine", 0, 0.0, 1.0),
    ("cosine", 0, 1 / 3, 0.75),
    ("cosine", 0, 0.5, 0.5),
    ("cosine", 0, 2 / 3, 0.25),
])
def test_rates_follow_their_schedule(tiny, schedule, epoch, progress, expected):
    settings = replace(tiny, schedule=schedule)
    assert rate_multiplier(settings, epoch, progress) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [
    (0.0, 1.0), (0.333, 1.0), (0.334, 0.1), (0.666, 0.1), (0.667, 0.01), (0.999, 0.01)])
def test_a_tenth_every_third_of_the_training(progress, expected):
    settings = BranchingSettings(schedule="tenth_every_third")
    assert rate_multiplier(settings, 0, progress) == pytest.approx(expected)


@pytest.mark.parametrize(("epoch", "number", "multiplier"), [
    (0, 0, 1.0), (1, 3, 1.0), (1, 4, 0.1), (1, 9, 0.1)])
def test_the_last_30_percent_are_counted_in_batches(tiny, epoch, number, multiplier):
    """Of two epochs of ten batches the fifth batch of the second is the first at a tenth."""
    settings = replace(tiny, epochs=2, learning_rate=0.01, scale_rate_factor=20.0)
    network = build_network("modulated", settings.tasks, settings.image_size, settings.width)
    optimiser = build_optimiser(network, settings)
    set_rates(optimiser, settings, epoch, number, batches=10)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx(
        [0.01 * multiplier, 0.2 * multiplier])


# Who is trained at which rate

def ids(parameters):
    return sorted(id(parameter) for parameter in parameters)


@pytest.mark.parametrize("system", SYSTEMS)
def test_scales_and_masks_and_only_they_have_their_own_rate(tiny, system):
    network = new_network(replace(tiny, system=system))
    groups = {group["factor"]: group["params"]
              for group in build_optimiser(network, tiny).param_groups}
    scales = [parameter for name, parameter in network.named_parameters()
              if re.fullmatch(SCALES.get(system, ""), name)]
    assert bool(scales) == (system in SCALES)
    assert ids(groups.get(tiny.scale_rate_factor, [])) == ids(scales)
    others = ids(p for p in network.parameters() if id(p) not in ids(scales))
    assert ids(groups.get(1.0, [])) == ([] if system == "mask_only" else others)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
def test_all_that_is_trained_is_in_one_group_and_no_group_is_empty(tiny, optimiser, system):
    settings = replace(tiny, system=system, optimiser=optimiser)
    network = new_network(settings)
    groups = build_optimiser(network, settings).param_groups
    assert all(group["params"] for group in groups)
    assert ids(p for group in groups for p in group["params"]) == ids(
        p for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "kind"), [
    ("adam", torch.optim.Adam), ("adagrad", torch.optim.Adagrad)])
def test_the_optimiser_is_the_one_that_is_named(tiny, name, kind):
    settings = replace(tiny, optimiser=name, learning_rate=0.25)
    optimiser = build_optimiser(new_network(settings), settings)
    assert type(optimiser) is kind
    assert optimiser.defaults["lr"] == 0.25


def test_adagrad_accumulates_from_a_tenth(tiny):
    settings = replace(tiny, optimiser="adagrad")
    network = new_network(settings)
    optimiser = build_optimiser(network, settings)
    for parameter in network.parameters():
        assert (optimiser.state[parameter]["sum"] == 0.1).all()
