"""The chosen filters span the others ever better, and a thin network gets the right weights."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from modlib.errors import ModlibError
from modlib.somp import random_error, reconstruction_error, select_filters, start_from_wide
from modlib.thin_vgg import LAYERS, BranchingVgg, thin_widths

FILTERS, INPUTS, RANK = 24, 40, 10


def weights(seed: int = 0, noise: float = 0.1) -> Tensor:
    """Rows near a space of ten dimensions, as filters of a trained layer are near a smaller one."""
    generator = torch.Generator().manual_seed(seed)
    mix, basis = (torch.randn(shape, generator=generator)
                  for shape in ((FILTERS, RANK), (RANK, INPUTS)))
    return mix @ basis + noise * torch.randn(FILTERS, INPUTS, generator=generator)


def select_by_least_squares(weight: Tensor, count: int) -> list[int]:
    """SOMP as it is defined: project on all that was chosen, afresh in every step."""
    weight, chosen = weight.double(), []
    for _ in range(count):
        residual = weight
        if chosen:
            basis = weight[chosen]
            residual = weight - (torch.linalg.lstsq(basis.T, weight.T).solution.T @ basis)
        scores = [sum(abs(float(row @ other)) for other in residual) / float(row.norm())
                  for row in weight]
        chosen.append(max((n for n in range(len(weight)) if n not in chosen),
                          key=lambda n: scores[n]))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_equals_least_squares_in_every_step(seed):
    assert select_filters(weights(seed), 12) == select_by_least_squares(weights(seed), 12)


@pytest.mark.parametrize("seed", range(3))
def test_the_error_falls_with_every_filter_down_to_nothing(seed):
    chosen = select_filters(weights(seed), FILTERS)
    errors = [reconstruction_error(weights(seed), chosen[:n + 1]) for n in range(FILTERS)]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[0] < 1 and errors[-1] < 1e-6
    assert sorted(chosen) == list(range(FILTERS))


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_beats_nine_of_ten_random_choices(seed, count):
    weight = weights(seed)
    ours = reconstruction_error(weight, select_filters(weight, count))
    generator = torch.Generator().manual_seed(9)
    others = [reconstruction_error(weight, torch.randperm(FILTERS, generator=generator)[:count]
                                   .tolist()) for _ in range(40)]
    assert sum(other > ours for other in others) >= 36


def test_the_choice_is_among_the_best_of_all_choices():
    weight = weights()[:9]
    errors = sorted(reconstruction_error(weight, list(chosen))
                    for chosen in combinations(range(9), 4))
    ours = reconstruction_error(weight, select_filters(weight, 4))
    assert errors[0] <= ours < errors[len(errors) // 4]


def test_rows_that_are_the_same_or_zero_are_chosen_last():
    weight = torch.eye(4)[[0, 0, 1, 2]]
    weight = torch.cat([weight, torch.zeros(1, 4)])
    chosen = select_filters(weight, 5)
    assert set(chosen[:3]) in ({0, 2, 3}, {1, 2, 3})
    assert sorted(chosen) == list(range(5))


def test_the_error_is_what_lies_outside_the_span():
    weight = torch.tensor([[3.0, 0, 0], [0, 4, 0], [5, 0, 0]])
    assert reconstruction_error(weight, [0]) == pytest.approx(4 / 50**0.5)
    assert reconstruction_error(weight, [1]) == pytest.approx(34**0.5 / 50**0.5)
    assert reconstruction_error(weight, [0, 1]) == pytest.approx(0, abs=1e-12)


def test_chance_is_the_mean_of_choices_that_a_seed_decides():
    weight = torch.tensor([[3.0, 0, 0], [0, 4, 0], [0, 0, 0]])
    of_each = [4 / 5, 3 / 5, 1.0]  # what one row alone cannot explain
    few = random_error(weight, 1, seed=2, picks=1)
    assert min(abs(few - one) for one in of_each) < 1e-9
    assert random_error(weight, 1, seed=2, picks=600) == pytest.approx(0.8, abs=0.03)
    assert random_error(weights(), 5, seed=2) == random_error(weights(), 5, seed=2)
    assert random_error(weights(), 5, seed=2) != random_error(weights(), 5, seed=3)
    assert random_error(weights(), FILTERS, seed=2) < 1e-6


@pytest.mark.parametrize("count", [0, FILTERS + 1])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(ModlibError, match=f"count must be from 1 to 24 filters; given {count}"):
        select_filters(weights(), count)


# A network

def network(thinness: int, seed: int = 0, tasks: int = 5, image_size: int = 64) -> BranchingVgg:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BranchingVgg(tasks, image_size, thin_widths(thinness))
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_()
    return model


@torch.no_grad()
def test_a_network_of_the_same_width_computes_what_the_wide_one_does():
    """All filters are chosen, in another order, and every layer follows it."""
    thin, wide = network(6, 1).eval(), network(6).eval()
    errors, by_chance = start_from_wide(thin, wide)
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(thin(pixels), wide(pixels), rtol=1e-4, atol=1e-5)
    assert not torch.equal(thin.layers[3][0][0].weight, wide.layers[3][0][0].weight)
    assert list(errors) == list(LAYERS) and max(errors.values()) < 1e-6
    assert max(by_chance.values()) < 1e-6  # all filters at random are all filters


def test_all_filters_make_the_same_network():
    thin, wide = network(6, 1).eval(), network(6).eval()
    assert start_from_wide(thin, wide, filters="all") is None
    assert thin.state_dict().keys() == wide.state_dict().keys()
    for name, value in wide.state_dict().items():
        if not name.endswith("extra_state"):
            assert torch.equal(thin.state_dict()[name], value), name


def test_a_thin_networks_filters_are_the_wide_ones_with_their_inputs_cut():
    thin, wide = network(4, 1), network(8)
    errors, by_chance = start_from_wide(thin, wide, seed=5)
    first = select_filters(wide.layers[0][0][0].weight.flatten(1), 4)
    cut = wide.layers[1][0][0].weight[:, first]
    second = select_filters(cut.flatten(1), 4)
    assert torch.equal(thin.layers[0][0][0].weight, wide.layers[0][0][0].weight[first])
    assert torch.equal(thin.layers[1][0][0].weight, cut[second])
    assert torch.equal(thin.layers[1][0][1].running_mean, wide.layers[1][0][1].running_mean[second])
    assert errors["conv1_2"] == pytest.approx(reconstruction_error(cut.flatten(1), second))
    assert by_chance["conv1_2"] == random_error(cut.flatten(1), 4, seed=5) > errors["conv1_2"]
    assert list(by_chance) == list(LAYERS)
    assert thin.output.weight.shape == (5, 8)


def test_filters_by_chance_are_the_wide_ones_too():
    wide, starts = network(8), []
    for seed in (5, 5, 6):
        thin = network(4, 1)
        assert start_from_wide(thin, wide, seed, "random") is None
        starts.append(thin.layers[0][0][0].weight)
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    of_wide = {tuple(row.tolist()) for row in wide.layers[0][0][0].weight.flatten(1)}
    assert {tuple(row.tolist()) for row in starts[0].flatten(1)} <= of_wide
    with pytest.raises(ModlibError, match="count must be from 1 to 4 filters; given 8"):
        start_from_wide(network(8), network(4), filters="random")
    with pytest.raises(ModlibError, match="filters='all' needs networks of the same widths; given "
                                          "4 and 8 in conv1_1"):
        start_from_wide(network(4), network(8), filters="all")
    with pytest.raises(ModlibError, match="value of filters: 'sompp' is not known; did you mean"):
        start_from_wide(network(4), wide, filters="sompp")


@pytest.mark.parametrize(("thin", "wide", "said"), [
    (lambda: network(8), lambda: network(4), "count must be from 1 to 4 filters; given 8"),
    (lambda: network(4), lambda: network(8, tasks=3), "given 5 and 3 tasks"),
    (lambda: network(4), lambda: network(8, image_size=96), "2 and 3 pixels before fc6")])
def test_networks_that_do_not_fit_are_refused(thin, wide, said):
    with pytest.raises(ModlibError, match=said):
        start_from_wide(thin(), wide())


def test_a_split_network_is_refused():
    split = network(4)
    split.widen([[0, 1], [2, 3, 4]])
    with pytest.raises(ModlibError, match="networks that are not split yet"):
        start_from_wide(split, network(8))
