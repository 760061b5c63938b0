"""Learning rates fall as the schedule says, and the scales have a rate of their own."""

from dataclasses import replace

import pytest

from modlib.networks import build_network
from modlib.optimisers import build_optimiser, rate_multiplier, set_rates


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
