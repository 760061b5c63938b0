"""Channel scales against loops: their gradients, dead scales, memory layout."""

import pytest
import torch
from torch import Tensor, nn

from modlib.modulation import ChannelScale

FEATURES = [(5, 4), (5, 4, 3, 2)]  # (B, C) and (B, C, H, W)


def scale_of(weight: Tensor) -> ChannelScale:
    scale = ChannelScale(*weight.shape)
    scale.weight = nn.Parameter(weight.clone())
    return scale


def random_scale(dtype: torch.dtype = torch.float32) -> ChannelScale:
    """Three tasks, four channels; scales of both signs, none near the kink at 0."""
    weight = torch.tensor([[0.5, 1.5, -0.7, 2.0], [1.1, -0.2, 0.9, 0.3], [0.6, 0.4, 1.3, -1.0]])
    return scale_of(weight.to(dtype))


def random_features(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("shape", FEATURES)
def test_a_new_module_changes_nothing(shape):
    features = random_features(shape)
    assert torch.equal(ChannelScale(3, 4)(features, torch.tensor([0, 1, 2, 1, 0])), features)


@pytest.mark.parametrize("shape", FEATURES)
def test_forward_multiplies_each_channel_by_its_tasks_scale(shape):
    scale, features, tasks = random_scale(), random_features(shape), [2, 0, 1, 1, 0]
    given = scale(features, torch.tensor(tasks))
    assert given.shape == features.shape
    for b, task in enumerate(tasks):
        for c in range(4):
            w = max(0.0, scale.weight[task, c].item())
            torch.testing.assert_close(given[b, c], w * features[b, c])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", FEATURES)
def test_for_all_tasks_equals_a_loop_over_tasks(shape, channels_last):
    scale, features = random_scale(), random_features(shape)
    if channels_last and features.ndim == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    loop = torch.cat([scale(features, torch.full((5,), task)) for task in range(3)])
    torch.testing.assert_close(scale.for_all_tasks(features), loop)


@pytest.mark.parametrize("channels_last", [False, True])
def test_for_all_tasks_gives_channels_last_images(channels_last):
    features = random_features((5, 4, 3, 2))
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    assert random_scale().for_all_tasks(features).is_contiguous(memory_format=torch.channels_last)


def test_forward_keeps_the_memory_layout():
    features = random_features((5, 4, 3, 2)).contiguous(memory_format=torch.channels_last)
    scaled = random_scale()(features, torch.zeros(5, dtype=torch.long))
    assert scaled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", FEATURES)
def test_results_have_the_features_dtype(shape):
    features = random_features(shape, torch.bfloat16)
    assert random_scale()(features, torch.zeros(5, dtype=torch.long)).dtype == torch.bfloat16
    assert random_scale().for_all_tasks(features).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", FEATURES)
def test_gradients_of_forward(shape):
    scale, features = random_scale(torch.float64), random_features(shape, torch.float64)
    task_B = torch.tensor([2, 0, 1, 1, 0])
    inputs = (features.requires_grad_(), scale.weight)  # gradcheck moves the weight in place
    assert torch.autograd.gradcheck(lambda x, _: scale(x, task_B), inputs)


@pytest.mark.parametrize("shape", FEATURES)
def test_gradients_of_for_all_tasks(shape):
    scale, features = random_scale(torch.float64), random_features(shape, torch.float64)
    inputs = (features.requires_grad_(), scale.weight)
    assert torch.autograd.gradcheck(lambda x, _: scale.for_all_tasks(x), inputs)


@pytest.mark.parametrize("call", ["forward", "for_all_tasks"])
def test_weights_of_0_and_below_give_scale_0_and_no_gradient(call):
    scale = scale_of(torch.tensor([[1.0, 0.0, -2.0]]))
    features = torch.ones(2, 3)
    given = (scale(features, torch.tensor([0, 0])) if call == "forward"
             else scale.for_all_tasks(features))
    given.sum().backward()
    assert torch.equal(given, torch.tensor([[1.0, 0.0, 0.0]] * 2))
    assert torch.equal(scale.weight.grad, torch.tensor([[2.0, 0.0, 0.0]]))


def test_dead_counts_the_scales_that_are_0():
    assert ChannelScale(3, 4).dead() == 0
    assert random_scale().dead() == 3
    assert scale_of(torch.tensor([[1.0, 0.0, -2.0]])).dead() == 2


def test_scales_are_the_weights_positive_part():
    expected = torch.tensor([[1.0, 0.0, 0.0, 0.5]])
    assert torch.equal(scale_of(torch.tensor([[1.0, 0.0, -2.0, 0.5]])).scales(), expected)


def test_a_task_without_images_gets_no_gradient():
    scale = random_scale()
    scale(random_features((2, 4)), torch.tensor([1, 1])).square().sum().backward()
    assert scale.weight.grad[[0, 2]].abs().sum() == 0
    assert scale.weight.grad[1].abs().sum() > 0


def test_state_survives_the_round_trip():
    scale, loaded = random_scale(), ChannelScale(3, 4)
    assert list(scale.state_dict()) == ["weight"]
    loaded.load_state_dict(scale.state_dict())
    features, task_B = random_features((5, 4)), torch.tensor([2, 0, 1, 1, 0])
    assert torch.equal(loaded(features, task_B), scale(features, task_B))
