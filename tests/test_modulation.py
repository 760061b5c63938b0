"""Scales and projections against loops, alone and inserted into networks that are already there.

Slow references go image by image and channel by channel. Of an insertion it is also tested what is
shared between tasks, what is left as it was, what is refused and why, and how it goes together with
state dicts, copies, compilation, autocast and per-sample gradients.
"""

import copy
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from modlib.errors import ModlibError
from modlib.insertion import insert_modulation
from modlib.modulated_network import ModulatedNetwork
from modlib.modulation import (
    ChannelProjection,
    ChannelScale,
    LowRankProjection,
    check_task_indices,
    patches,
)

TASKS = ("Smiling", "Young", "Bald")
FEATURES = [(5, 4), (5, 4, 3, 2)]  # (B, C) and (B, C, H, W)
PROJECTED = [(4, 4), (4, 6), (4, 2)]  # C and D


def scale_of(weight: Tensor, signed: bool = False) -> ChannelScale:
    scale = ChannelScale(*weight.shape, signed)
    scale.weight = nn.Parameter(weight.clone())
    return scale


def random_scale(dtype: torch.dtype = torch.float32, signed: bool = False) -> ChannelScale:
    """Three tasks, four channels; scales of both signs, none near the kink at 0."""
    weight = torch.tensor([[0.5, 1.5, -0.7, 2.0], [1.1, -0.2, 0.9, 0.3], [0.6, 0.4, 1.3, -1.0]])
    return scale_of(weight.to(dtype), signed)


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


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_patches_equal_a_loop_over_positions(size):
    features_BHWC = random_features((2, 4, 5, 3))
    given = patches(features_BHWC, size)
    assert given.shape == (2, 5 - size, 6 - size, size * size * 3)
    for b, y, x in product(*map(range, given.shape[:3])):
        window = [features_BHWC[b, y + row, x + column, c]
                  for row, column, c in product(range(size), range(size), range(3))]
        assert given[b, y, x].tolist() == window


def random_convolution(kernel: int, dtype: torch.dtype = torch.float64) -> nn.Conv2d:
    convolution = nn.Conv2d(4, 7, kernel, bias=False, dtype=dtype)
    nn.init.normal_(convolution.weight, generator=torch.Generator().manual_seed(1))
    return convolution


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_scaling_the_filters_equals_scaling_what_they_meet(kernel, channels_last):
    scale, convolution = random_scale(torch.float64), random_convolution(kernel)
    features = random_features((5, 4, 6, 5), torch.float64)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    inputs = (convolution.weight, scale.weight, features.requires_grad_())
    given = scale.for_all_tasks_then(convolution, features)
    expected = convolution(scale.for_all_tasks(features))
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    assert given.is_contiguous(memory_format=torch.channels_last)
    mix = random_features(tuple(given.shape), torch.float64)
    gradients = torch.autograd.grad((given * mix).sum(), inputs)
    for g, e in zip(gradients, torch.autograd.grad((expected * mix).sum(), inputs), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)
    assert torch.equal(gradients[1] == 0, scale.weight <= 0)  # dead scales, and no others


@pytest.mark.parametrize("kernel", [1, 3])
def test_scaled_filters_compute_in_the_features_bfloat16(kernel):
    """Weights stay float32, as under autocast; within 2 % of the largest float32 result."""
    scale, convolution = random_scale(), random_convolution(kernel, torch.float32)
    features = random_features((5, 4, 6, 5))
    given = scale.for_all_tasks_then(convolution, features.bfloat16())
    expected = convolution(scale.for_all_tasks(features))
    assert given.dtype == torch.bfloat16
    assert (given - expected).abs().max() <= 0.02 * expected.abs().max()


def random_projection(
    channels: int, out: int, dtype: torch.dtype = torch.float32,
) -> ChannelProjection:
    projection = ChannelProjection(3, channels, out)
    nn.init.normal_(projection.weight, generator=torch.Generator().manual_seed(1))
    return projection.to(dtype)


def vector_times_matrix(vector_C: Tensor, matrix_CD: Tensor) -> Tensor:
    """x' = x · W, term by term."""
    channels, out = matrix_CD.shape
    return torch.stack([
        sum(vector_C[c] * matrix_CD[c, d] for c in range(channels)) for d in range(out)])


def project_one_image(features: Tensor, matrix_CD: Tensor) -> Tensor:
    """A vector (C,), or a map (C, H, W) position by position."""
    if features.ndim == 1:
        return vector_times_matrix(features, matrix_CD)
    _, height, width = features.shape
    return torch.stack([
        torch.stack([vector_times_matrix(features[:, y, x], matrix_CD) for x in range(width)], 1)
        for y in range(height)], 1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "out"), PROJECTED)
@pytest.mark.parametrize("shape", FEATURES)
def test_a_projection_multiplies_each_position_by_its_tasks_matrix(
    shape, channels, out, channels_last,
):
    projection, features = random_projection(channels, out), random_features(shape)
    if channels_last and features.ndim == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    tasks = [2, 0, 1, 1, 0]
    loop = torch.stack([project_one_image(image, projection.weight[task])
                        for image, task in zip(features, tasks, strict=True)])
    given = projection(features, torch.tensor(tasks))
    assert given.shape == (5, out, *shape[2:])
    torch.testing.assert_close(given, loop)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "out"), PROJECTED)
@pytest.mark.parametrize("shape", FEATURES)
def test_a_projection_for_all_tasks_equals_a_loop_over_tasks_and_images(
    shape, channels, out, channels_last,
):
    projection, features = random_projection(channels, out), random_features(shape)
    if channels_last and features.ndim == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    loop = torch.stack([project_one_image(image, projection.weight[task])
                        for task in range(3) for image in features])
    given = projection.for_all_tasks(features)
    assert given.shape == (15, out, *shape[2:])
    torch.testing.assert_close(given, loop)


def test_projected_images_are_channels_last():
    projection, features = random_projection(4, 6), random_features((5, 4, 3, 2))
    for given in (projection(features, torch.tensor([2, 0, 1, 1, 0])),
                  projection.for_all_tasks(features)):
        assert given.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", FEATURES)
def test_a_new_projection_changes_nothing(shape):
    projection, features = ChannelProjection(3, 4), random_features(shape)
    assert torch.equal(projection.weight, torch.stack([torch.eye(4)] * 3))
    assert torch.equal(projection(features, torch.tensor([2, 0, 1, 1, 0])), features)
    assert torch.equal(projection.for_all_tasks(features), torch.cat([features] * 3))


@pytest.mark.parametrize("out", [4, 3])
@pytest.mark.parametrize("shape", FEATURES)
def test_gradients_of_a_projection(shape, out):
    projection = random_projection(4, out, torch.float64)
    features, task_B = random_features(shape, torch.float64), torch.tensor([2, 0, 1, 1, 0])
    inputs = (features.requires_grad_(), projection.weight)
    assert torch.autograd.gradcheck(lambda x, _: projection(x, task_B), inputs)
    assert torch.autograd.gradcheck(lambda x, _: projection.for_all_tasks(x), inputs)


@pytest.mark.parametrize("shape", FEATURES)
def test_a_matrix_whose_task_has_no_images_gets_no_gradient(shape):
    projection = random_projection(4, 3)
    projection(random_features(shape), torch.tensor([1] * 5)).square().sum().backward()
    assert torch.count_nonzero(projection.weight.grad[[0, 2]]) == 0
    assert torch.count_nonzero(projection.weight.grad[1]) == 12


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", FEATURES)
def test_a_projection_computes_in_bfloat16(shape, autocast):
    """With matrices in bfloat16, and with float32 ones under autocast."""
    features, task_B = random_features(shape, torch.bfloat16), torch.tensor([2, 0, 1, 1, 0])
    projection = random_projection(4, 6, torch.float32 if autocast else torch.bfloat16)
    exact = random_projection(4, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        forward, every = projection(features, task_B), projection.for_all_tasks(features)
    for given, expected in ((forward, exact(features.float(), task_B)),
                            (every, exact.for_all_tasks(features.float()))):
        assert given.dtype == torch.bfloat16
        torch.testing.assert_close(given.float(), expected, rtol=0.03, atol=0.05)


def test_a_projections_state_survives_the_round_trip():
    projection, loaded = random_projection(4, 6), ChannelProjection(3, 4, 6)
    assert list(projection.state_dict()) == ["weight"]
    loaded.load_state_dict(projection.state_dict())
    features, task_B = random_features((5, 4)), torch.tensor([2, 0, 1, 1, 0])
    assert torch.equal(loaded(features, task_B), projection(features, task_B))


@pytest.mark.parametrize(("task_B", "message"), [
    (torch.tensor([0, 1]), "int64, one an image, shape (3,); given int64 (2,)"),
    (torch.tensor([[0], [1], [2]]), "shape (3,); given int64 (3, 1)"),
    (torch.tensor(1), "shape (3,); given int64 ()"),
    (torch.tensor([0, 1, 2], dtype=torch.int32), "must be int64, one an image, shape (3,); "
                                                 "given int32 (3,)"),
    (torch.tensor([0.0, 1.0, 2.0]), "given float32 (3,)"),
    (torch.tensor([True, False, True]), "given bool (3,)"),
    (torch.tensor([0, 1, 4]), "must be 0 to 3; given 0 to 4"),
    (torch.tensor([2, -1, 3]), "must be 0 to 3; given -1 to 3"),
])
def test_wrong_task_indices_are_refused_and_the_allowed_ones_named(task_B, message):
    with pytest.raises(ModlibError, match=re.escape(message)):
        check_task_indices(task_B, 4, 3)


@pytest.mark.parametrize("task_B", [
    torch.tensor([0, 3, 1]), torch.tensor([3, 3, 3]), torch.tensor([0, 0, 0]),
    torch.tensor([0, 3, 1, 3, 2, 3])[::2], torch.tensor([], dtype=torch.int64),
])
def test_right_task_indices_are_accepted(task_B):
    check_task_indices(task_B, 4, len(task_B))


def test_task_indices_of_another_device_are_not_looked_at(monkeypatch):
    """It would have to be waited for."""
    monkeypatch.setattr(Tensor, "min", lambda _: pytest.fail("looked at"))
    check_task_indices(torch.full((3,), 9, device="meta"), 4, 3)
    with pytest.raises(ModlibError, match="given int64"):
        check_task_indices(torch.full((3,), 9, device="meta"), 4, 2)


def test_task_indices_are_not_looked_at_inside_vmap_and_compiled_code():
    def doubled(task_B):
        check_task_indices(task_B, 4, len(task_B))
        return 2 * task_B

    task_B = torch.tensor([0, 3, 1])
    assert torch.equal(vmap(doubled)(task_B[:, None]), 2 * task_B[:, None])
    compiled = torch.compile(doubled, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(task_B), 2 * task_B)


class Case(NamedTuple):
    """A network with random scales, and the plain model that it was made of."""

    plain: nn.Module  # the same parameters, and no hooks
    network: ModulatedNetwork
    dims: dict[str, int]  # where each output that is scaled has its channels
    once: bool  # no connection leads around the first scale
    at_start: Tensor  # the output for IMAGES and TASK_B while the scales were new


class Around(nn.Module):
    """A connection leads around ``inside``."""

    def __init__(self):
        super().__init__()
        self.before, self.inside, self.last = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        x = self.before(x)
        return factor * self.last(torch.tanh(x + self.inside(x)))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Sure(Around):
    """Asserts that nobody changes the batch."""

    def forward(self, x: Tensor) -> Tensor:
        inside = self.inside(x)
        assert len(inside) == len(x)
        return self.last(inside)


class Unfit(nn.Module):
    """Submodules that no scale can follow, for all kinds of reasons; takes (B, 4)."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.pair = Apply(lambda x: (x, x))
        self.indices = Apply(lambda x: x.argsort(1))
        self.turned = Apply(lambda x: x.T)
        self.joined = Apply(lambda x: torch.cat([x, x]))
        self.vector = Apply(lambda x: x.sum(1))
        self.number = Apply(torch.sum)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for module in (self.pair, self.indices, self.turned, self.joined, self.vector, self.number):
            module(x)
        return x


def random_images(batch: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return random_features((batch, 3, side, side), dtype)


IMAGES, TASK_B = random_images(4, 32), torch.tensor([2, 0, 1, 2])
SMALL_IMAGES, SMALL_TASK_B = random_images(5, 6), torch.tensor([2, 0, 1, 2, 0])
FOUR = torch.eye(4)[:2]  # an example of two images that are vectors


def twin(model: nn.Module) -> nn.Module:
    """The same modules again, on the very same parameters and buffers."""
    kept = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in kept})


def seasoned(model: nn.Module) -> nn.Module:
    """In eval mode; no layer multiplies by 0, and no running statistic is at its start."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if not parameter.count_nonzero():  # as a vision transformer's head
            nn.init.normal_(parameter, std=0.02, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.uniform_(buffer, -0.2, 0.2, generator=generator)
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 1.5, generator=generator)
    return model.eval()


def with_random_scales(network: ModulatedNetwork) -> ModulatedNetwork:
    """Scales of both signs, none near the kink at 0."""
    generator = torch.Generator().manual_seed(2)
    for weight in network.task_parameters():
        nn.init.uniform_(weight, 0.3, 2.0, generator=generator)
        with torch.no_grad():
            weight[torch.rand(weight.shape, generator=generator) < 0.1] *= -1
    return network


def resnet18() -> nn.Module:
    return seasoned(torchvision.models.resnet18(weights=None, num_classes=10))


def small_model() -> nn.Module:
    """Smooth, so that gradients can be checked; takes (B, 3, 6, 6)."""
    return seasoned(nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), tanh=nn.Tanh(), conv2=nn.Conv2d(4, 5, 3),
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(5, 2))))


def small_network(dtype: torch.dtype = torch.float32) -> ModulatedNetwork:
    network = insert_modulation(small_model(), ["norm", "conv2"], TASKS, SMALL_IMAGES)
    return with_random_scales(network).to(dtype)


def around_network() -> ModulatedNetwork:
    network = insert_modulation(Around(), ["inside"], TASKS, FOUR)
    return with_random_scales(network)


def case_of(model: nn.Module, dims: dict[str, int], once: bool = True, **options) -> Case:
    plain, network = twin(model), insert_modulation(model, list(dims), TASKS, IMAGES, **options)
    with torch.no_grad():
        at_start = network(IMAGES, TASK_B)
    return Case(plain, with_random_scales(network), dims, once, at_start)


CASES = {
    "resnet18": lambda: case_of(resnet18(), {"layer3": 1, "layer4": 1, "avgpool": 1}),
    "resnet18, inside a block": lambda: case_of(
        resnet18(), {"layer3.0.conv1": 1, "layer4": 1}, once=False),
    "vgg11": lambda: case_of(
        seasoned(torchvision.models.vgg11(weights=None, num_classes=10)),
        {"features.7": 1, "avgpool": 1, "classifier.3": 1}),
    "vit_b_16": lambda: case_of(
        seasoned(torchvision.models.vit_b_16(weights=None, num_classes=10, image_size=32)),
        {"encoder.layers.encoder_layer_9": 2, "encoder.layers.encoder_layer_10.mlp": 2,
         "encoder.ln": 2}),
    "swin_t": lambda: case_of(
        seasoned(torchvision.models.swin_t(weights=None, num_classes=10)),
        {"features.3": 3, "features.5.2": 3, "avgpool": 1},
        channel_dims={"features.3": 3, "features.5.2": 3}),
}


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    torch.manual_seed(0)
    return CASES[request.param]()


def channel_by_channel(weight_C: Tensor, dim: int) -> Callable:
    """A hook that multiplies every channel of one image by its own number."""
    def hook(_module, _inputs, output):
        return torch.stack([channel * max(0.0, w) for channel, w in zip(
            output.unbind(dim), weight_C.tolist(), strict=True)], dim)
    return hook


def reference(
    plain: nn.Module, network: ModulatedNetwork, dims: dict[str, int], images: Tensor,
    task_B: Tensor,
) -> Tensor:
    """One image after the other through the plain model, with its task's scales."""
    outputs = []
    for image, task in zip(images, task_B.tolist(), strict=True):
        handles = [
            plain.get_submodule(name).register_forward_hook(
                channel_by_channel(weights_of(network, name)[task], dim))
            for name, dim in dims.items()]
        outputs.append(plain(image[None]))
        for handle in handles:
            handle.remove()
    return torch.cat(outputs)


def weights_of(network: ModulatedNetwork, name: str) -> nn.Parameter:
    [weight] = [own.scale.weight for own in network.modulation.values() if own.name == name]
    return weight


def task_by_task(network: ModulatedNetwork, images: Tensor) -> Tensor:
    """A call per task, (T, B, …)."""
    return torch.stack([
        network(images, torch.full((len(images),), task)) for task in range(len(network.tasks))])


def repeated(images: Tensor) -> tuple[Tensor, Tensor]:
    """Every image once per task, tasks outermost, and those tasks."""
    pairs = [(image, task) for task in range(len(TASKS)) for image in images]
    return torch.stack([image for image, _ in pairs]), torch.tensor([task for _, task in pairs])


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def assert_near(given: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, next to the largest expected number, which is not 0."""
    assert given.shape == expected.shape
    assert 0 < expected.abs().max() < torch.inf
    assert (given - expected).abs().max() <= tolerance * expected.abs().max()


def assert_tells_apart(network: ModulatedNetwork, images: Tensor) -> None:
    """No two images or tasks have about the same output: being equal to a loop says something."""
    rows = task_by_task(network, images).flatten(0, 1).flatten(1)
    distances = torch.cdist(rows, rows) + torch.diag(torch.full((len(rows),), torch.inf))
    assert distances.min() > 0.005 * rows.norm(dim=1).max()


@torch.no_grad()
def test_new_scales_leave_the_function_unchanged(case):
    assert torch.equal(case.at_start, case.plain(IMAGES))


@torch.no_grad()
def test_inserted_scales_multiply_each_images_channels_by_its_tasks_scales(case):
    expected = reference(case.plain, case.network, case.dims, IMAGES, TASK_B)
    assert_near(case.network(IMAGES, TASK_B), expected)
    assert_tells_apart(case.network, IMAGES)


@torch.no_grad()
def test_a_batch_of_mixed_tasks_equals_a_call_per_task(case):
    given = case.network(IMAGES, TASK_B)
    for task in range(len(TASKS)):
        own = task == TASK_B
        assert_near(case.network(IMAGES[own], TASK_B[own]), given[own])


@torch.no_grad()
def test_a_network_for_all_tasks_equals_a_call_per_task(case):
    assert case.network.once is case.once
    assert_near(case.network.for_all_tasks(IMAGES), task_by_task(case.network, IMAGES))


@torch.no_grad()
def test_what_precedes_the_first_scale_runs_once_an_image(case):
    """And T times where a connection leads around it."""
    rows: list = []
    model, first = case.network.model, next(iter(case.dims))
    handles = [module.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
               for module in model.modules() if not list(module.children())]
    handles.append(model.get_submodule(first).register_forward_hook(
        lambda *_: rows.append("first scale")))
    case.network.for_all_tasks(IMAGES)
    for handle in handles:
        handle.remove()
    before, after = rows[:rows.index("first scale")], rows[rows.index("first scale") + 1:]
    assert set(before) == {len(IMAGES) if case.once else 3 * len(IMAGES)}
    assert set(after) == {3 * len(IMAGES)}


@torch.no_grad()
def test_the_small_networks_tell_images_and_tasks_apart():
    assert_tells_apart(small_network(), SMALL_IMAGES)
    assert_tells_apart(around_network(), random_features((5, 4)))


@pytest.mark.parametrize(("module", "shape", "channel_dims", "dim"), [
    (nn.Conv1d(3, 4, 3), (2, 3, 8), {}, 1),
    (nn.BatchNorm1d(3), (2, 3, 8), {}, 1),
    (nn.BatchNorm1d(3), (2, 3), {}, 1),
    (nn.Linear(5, 4), (2, 5), {}, 1),
    (nn.Linear(5, 4), (2, 3, 5), {}, 2),
    (nn.Linear(5, 4), (2, 3, 6, 5), {}, 3),
    (nn.LayerNorm(5), (2, 3, 5), {}, 2),
    (nn.ReLU(), (2, 3, 5, 6), {}, 1),
    (nn.Conv3d(3, 4, 2), (2, 3, 5, 6, 7), {}, 1),
    (nn.Conv1d(3, 4, 3), (2, 3, 8), {"0": 2}, 2),
    (nn.LayerNorm(5), (2, 3, 6, 5), {}, 3),
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), (2, 3, 8), {}, 1),
    (nn.Sequential(nn.Linear(5, 4), nn.ReLU()), (2, 3, 5), {}, 2),
    (nn.ReLU(), (2, 3, 5), {"0": 1}, 1),
])
@torch.no_grad()
def test_channels_are_found_or_told_in_outputs_of_every_shape(module, shape, channel_dims, dim):
    example = random_features(shape)
    model = nn.Sequential(module, nn.Tanh()).eval()
    plain = twin(model)
    network = insert_modulation(model, ["0"], TASKS, example, channel_dims)
    assert torch.equal(weights_of(network, "0"), torch.ones(3, plain[0](example).shape[dim]))
    with_random_scales(network)
    images, task_B = random_features((5, *shape[1:])), torch.tensor([2, 0, 1, 2, 0])
    assert_near(network(images, task_B), reference(plain, network, {"0": dim}, images, task_B))
    assert network.once
    assert_near(network.for_all_tasks(images), task_by_task(network, images))


def test_scales_keep_the_memory_layout_of_images():
    network = small_network()
    network.model.conv2.register_forward_hook(lambda _, __, output: outputs.append(output))
    for layout in (torch.contiguous_format, torch.channels_last):
        outputs: list[Tensor] = []
        network.to(memory_format=layout)(SMALL_IMAGES.to(memory_format=layout), SMALL_TASK_B)
        assert outputs[0].is_contiguous(memory_format=layout)


def test_without_an_example_two_rgb_images_of_224_pixels_go_through():
    model, seen = small_model().double(), []
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0].shape, inputs[0].dtype, torch.is_grad_enabled())))
    insert_modulation(model, ["conv2"], TASKS)
    assert set(seen) == {((b, 3, 224, 224), torch.float64, False) for b in (2, 4)}


@torch.no_grad()
def test_one_task_is_enough():
    network = with_random_scales(insert_modulation(Around(), ["inside"], ["Bald"], FOUR))
    features, task_B = random_features((5, 4)), torch.zeros(5, dtype=torch.long)
    assert torch.equal(network.for_all_tasks(features), network(features, task_B)[None])


@torch.no_grad()
@pytest.mark.parametrize("once", [True, False])
def test_any_number_of_images_can_be_given(once):
    network, images = ((small_network(), random_images(12, 6)) if once else
                       (around_network(), random_features((12, 4))))
    assert network.once is once
    for batch in (1, 2, 3, 12):  # B = 1 broadcasts, B = T mistakes one for the other
        assert_near(network.for_all_tasks(images[:batch]), task_by_task(network, images[:batch]))


@torch.no_grad()
@pytest.mark.parametrize("after", ["inside", "last"])
def test_what_else_the_model_takes_is_passed_on(after):
    network = with_random_scales(insert_modulation(Around(), [after], TASKS, FOUR))
    assert network.once is (after == "last")
    features = random_features((5, 4))
    one, every = network(features, SMALL_TASK_B), network.for_all_tasks(features)
    assert torch.equal(network(features, SMALL_TASK_B, 2.0), 2 * one)
    assert torch.equal(network(features, SMALL_TASK_B, factor=2.0), 2 * one)
    assert torch.equal(network.for_all_tasks(features, 2.0), 2 * every)
    assert torch.equal(network.for_all_tasks(features, factor=2.0), 2 * every)


@pytest.mark.parametrize("after", [["layer3", "avgpool"], ["layer3.0.conv1"]])
def test_in_train_mode_a_network_for_all_tasks_equals_forward_on_repeated_images(after):
    """Whatever the batch statistics are made of, they are the same."""
    network = with_random_scales(insert_modulation(resnet18(), after, TASKS, IMAGES)).double()
    network.train()
    other, images = copy.deepcopy(network), IMAGES.double()
    every, expected = network.for_all_tasks(images), other(*repeated(images))
    assert_near(every.flatten(0, 1), expected, 1e-9)
    every.square().sum().backward()
    expected.square().sum().backward()
    for own, others in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, others.grad, rtol=1e-6, atol=1e-9)
    assert_near(network.model.bn1.running_mean, other.model.bn1.running_mean, 1e-9)


def test_gradients_of_a_network():
    network, images = small_network(torch.float64), SMALL_IMAGES[:3].double()
    inputs = (images.requires_grad_(), *network.parameters())  # gradcheck moves them in place
    task_B = torch.tensor([2, 0, 2])
    assert torch.autograd.gradcheck(lambda x, *_: network(x, task_B), inputs)


def test_gradients_of_a_network_for_all_tasks():
    network, images = small_network(torch.float64), SMALL_IMAGES[:2].double()
    assert network.once
    inputs = (images.requires_grad_(), *network.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: network.for_all_tasks(x), inputs)


@pytest.mark.parametrize("seed", range(6))
def test_images_of_one_task_leave_the_other_tasks_scales_without_gradient(seed):
    generator, network = torch.Generator().manual_seed(seed), small_network(torch.float64)
    images = torch.randn(7, 3, 6, 6, generator=generator, dtype=torch.float64)
    task_B = torch.randint(0, 1 + seed % 3, (7,), generator=generator)
    network(images, task_B).square().sum().backward()
    joint = [weight.grad.clone() for weight in network.task_parameters()]
    for task in range(len(TASKS)):
        own = task_B == task
        network.zero_grad(set_to_none=True)
        network(images[own], task_B[own]).square().sum().backward()
        for weight, gradient_TC in zip(network.task_parameters(), joint, strict=True):
            assert bool(weight.grad.any()) is bool(gradient_TC[task].any()) is bool(own.any())
            assert not weight.grad[[t for t in range(len(TASKS)) if t != task]].any()
            torch.testing.assert_close(weight.grad[task], gradient_TC[task])


def test_parameters_are_the_models_own_and_the_scales():
    model = small_model()
    own = list(model.parameters())
    network = insert_modulation(model, ["norm", "conv2"], TASKS, SMALL_IMAGES)
    scales = [weights_of(network, name) for name in ("norm", "conv2")]
    assert [id(p) for p in network.shared_parameters()] == [id(p) for p in own]
    assert [id(p) for p in network.task_parameters()] == [id(p) for p in scales]
    assert [id(p) for p in network.parameters()] == [id(p) for p in own + scales]
    assert all(p.requires_grad for p in scales)


def test_the_state_keeps_the_models_keys_below_model():
    model = resnet18()
    keys = list(model.state_dict())
    network = insert_modulation(model, ["avgpool", "layer4.1", "layer3"], TASKS, IMAGES)
    assert list(network.state_dict()) == [f"model.{key}" for key in keys] + [
        f"modulation.{name}.scale.weight" for name in ("layer3", "layer4/1", "avgpool")]
    assert network.tasks == TASKS


def test_a_networks_state_survives_the_round_trip(tmp_path):
    network, loaded = small_network(), small_network()
    for parameter in loaded.parameters():
        nn.init.normal_(parameter)
    before = loaded(SMALL_IMAGES, SMALL_TASK_B)
    torch.save(network.state_dict(), tmp_path / "state.pt")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    expected = network(SMALL_IMAGES, SMALL_TASK_B)
    assert torch.equal(loaded(SMALL_IMAGES, SMALL_TASK_B), expected)
    assert torch.equal(loaded.for_all_tasks(SMALL_IMAGES), network.for_all_tasks(SMALL_IMAGES))
    assert not torch.allclose(before, expected)


@torch.no_grad()
def test_a_plain_checkpoint_loads_into_the_model():
    plain, network = small_model(), small_network()
    nn.init.normal_(plain.conv1.weight)
    network.model.load_state_dict(plain.state_dict())
    expected = reference(plain, network, {"norm": 1, "conv2": 1}, SMALL_IMAGES, SMALL_TASK_B)
    assert_near(network(SMALL_IMAGES, SMALL_TASK_B), expected)


@torch.no_grad()
@pytest.mark.parametrize("copied", [
    copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))], ids=["copy", "pickle"])
def test_a_copy_is_independent_and_its_own_scales_act(copied):
    network = small_network()
    before, every = network(SMALL_IMAGES, SMALL_TASK_B), network.for_all_tasks(SMALL_IMAGES)
    other = copied(network)
    assert torch.equal(other(SMALL_IMAGES, SMALL_TASK_B), before)
    assert torch.equal(other.for_all_tasks(SMALL_IMAGES), every)
    for weight in other.task_parameters():
        weight *= 0.5
    dims = {"norm": 1, "conv2": 1}
    plain = copied(network).remove()
    assert_near(other(SMALL_IMAGES, SMALL_TASK_B),
                reference(plain, other, dims, SMALL_IMAGES, SMALL_TASK_B))
    assert not torch.allclose(other(SMALL_IMAGES, SMALL_TASK_B), before)
    assert torch.equal(network(SMALL_IMAGES, SMALL_TASK_B), before)
    assert hooks(other.remove()) == 0
    assert torch.equal(network(SMALL_IMAGES, SMALL_TASK_B), before)


@torch.no_grad()
def test_removal_gives_back_the_very_same_model_and_it_can_be_modulated_again():
    model = small_model()
    before, keys = model(SMALL_IMAGES), list(model.state_dict())
    model.conv1.register_forward_hook(lambda *_: None)  # one that is not ours stays
    network = with_random_scales(
        insert_modulation(model, ["norm", "conv2"], TASKS, SMALL_IMAGES))
    assert network.model is model
    assert hooks(model) == 3
    assert network.remove() is model
    assert network.remove() is model  # twice does no harm
    assert hooks(model) == 1
    assert torch.equal(model(SMALL_IMAGES), before)
    assert list(model.state_dict()) == keys
    again = insert_modulation(model, ["conv2"], TASKS[:2], SMALL_IMAGES)
    assert torch.equal(again(SMALL_IMAGES, torch.tensor([0, 1, 1, 0, 1])), before)
    assert torch.equal(again.for_all_tasks(SMALL_IMAGES), torch.stack([before] * 2))


@pytest.mark.parametrize("after", ["layer3", "layer3.0.conv1"])
def test_insertion_does_not_disturb_the_model(after):
    model = resnet18().train()
    model.layer2.eval()
    model.conv1.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5) if parameter.requires_grad else None
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    network = insert_modulation(model, [after], TASKS, IMAGES)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for parameter in model.parameters():
        assert parameter.grad is None or bool((parameter.grad == 0.5).all())
        assert parameter.requires_grad is (parameter is not model.conv1.weight)
    assert torch.equal(weights_of(network, after), torch.ones(3, 256))
    assert weights_of(network, after).grad is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("network_of", [small_network, around_network])
def test_a_compiled_network_equals_itself(network_of):
    network, once = network_of(), network_of is small_network
    images = SMALL_IMAGES if once else random_features((5, 4))
    torch.compiler.reset()
    forward = torch.compile(network, backend="aot_eager", fullgraph=True)
    every = torch.compile(network.for_all_tasks, backend="aot_eager", fullgraph=True)
    for compiled, eager in ((lambda: forward(images, SMALL_TASK_B),
                             lambda: network(images, SMALL_TASK_B)),
                            (lambda: every(images), lambda: network.for_all_tasks(images))):
        gradients = []
        for call in (compiled, eager):
            output = call()
            gradients.append(torch.autograd.grad(output.square().sum(), network.parameters()))
        assert_near(output, compiled(), 1e-6)
        for given, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(given, expected)
    assert_near(forward(images, SMALL_TASK_B.flip(0)), network(images, SMALL_TASK_B.flip(0)), 1e-6)
    with pytest.raises(ModlibError, match="needs a task"):
        network.model(images)


@torch.no_grad()
def test_autocast_computes_in_bfloat16():
    network = small_network()
    exact, every = network(SMALL_IMAGES, SMALL_TASK_B), network.for_all_tasks(SMALL_IMAGES)
    dtypes: list[torch.dtype] = []
    network.model.conv2.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(network(SMALL_IMAGES, SMALL_TASK_B).float(), exact, 0.03)
        assert_near(network.for_all_tasks(SMALL_IMAGES).float(), every, 0.03)
        again = insert_modulation(small_model(), ["conv2"], TASKS, SMALL_IMAGES)
        assert again.once
    assert dtypes == [torch.bfloat16] * 2
    assert {p.dtype for p in again.parameters()} == {torch.float32}


@torch.no_grad()
def test_a_network_in_bfloat16_gives_bfloat16():
    network = insert_modulation(small_model().bfloat16(), ["conv2"], TASKS, SMALL_IMAGES.bfloat16())
    assert {p.dtype for p in network.task_parameters()} == {torch.float32}
    assert network(SMALL_IMAGES.bfloat16(), SMALL_TASK_B).dtype == torch.bfloat16
    assert network.for_all_tasks(SMALL_IMAGES.bfloat16()).dtype == torch.bfloat16


def test_per_sample_gradients_equal_a_loop():
    network = small_network(torch.float64)
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters, image, task):
        output = functional_call(network, parameters, (image[None], task[None]))
        return output.square().sum()

    images = SMALL_IMAGES.double()
    given = vmap(grad(loss), (None, 0, 0))(parameters, images, SMALL_TASK_B)
    for b in range(len(images)):
        network.zero_grad()
        network(images[b:b + 1], SMALL_TASK_B[b:b + 1]).square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(given[name][b], parameter.grad)
    assert given["modulation.conv2.scale.weight"].any()


def test_other_parameters_can_take_the_scales_place():
    network, others = small_network(), small_network()
    for weight in others.task_parameters():
        nn.init.uniform_(weight, 0.5, 1.5)
    swapped = {f"modulation.{name}": p for name, p in others.modulation.named_parameters()}
    given = functional_call(network, swapped, (SMALL_IMAGES, SMALL_TASK_B))
    others.model.load_state_dict(network.model.state_dict())
    assert torch.equal(given, others(SMALL_IMAGES, SMALL_TASK_B))


def tiny_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16)


CANNOT = "cannot be scaled: "
REFUSED = {
    "an unknown name": (
        small_model, {"after": ["conv1", "conv3"]}, SMALL_IMAGES,
        "submodule 'conv3' is not in this Sequential; did you mean 'conv2'? Allowed: conv1, norm"),
    "the model itself": (
        small_model, {"after": [""]}, SMALL_IMAGES, "submodule '' is not in this Sequential"),
    "no names": (
        small_model, {"after": []}, SMALL_IMAGES,
        "after must be a list of distinct names of submodules; given []"),
    "one name, bare": (
        small_model, {"after": "conv2"}, SMALL_IMAGES,
        "distinct names of submodules; given 'conv2'"),
    "a name twice": (
        small_model, {"after": ["conv2", "conv2"]}, SMALL_IMAGES,
        "distinct names of submodules; given ['conv2', 'conv2']"),
    "no tasks": (
        small_model, {"after": ["conv2"], "tasks": []}, SMALL_IMAGES,
        "tasks must be one or more distinct names; given []"),
    "a task twice": (
        small_model, {"after": ["conv2"], "tasks": ["Bald", "Bald"]}, SMALL_IMAGES,
        "tasks must be one or more distinct names; given ['Bald', 'Bald']"),
    "one task, bare": (
        small_model, {"after": ["conv2"], "tasks": "Bald"}, SMALL_IMAGES,
        "tasks must be one or more distinct names; given 'Bald'"),
    "called twice": (
        resnet18, {"after": ["layer3", "layer1.0.relu"]}, IMAGES,
        f"the output of 'layer1.0.relu' (ReLU) {CANNOT}the forward pass calls it 2 times"),
    "never called": (
        Unfit, {"after": ["first", "unused"]}, FOUR,
        f"the output of 'unused' (Linear) {CANNOT}the forward pass never calls it as a module"),
    "used, but not called": (
        tiny_vit, {"after": ["encoder.layers.encoder_layer_0.self_attention.out_proj"]}, IMAGES,
        "the forward pass never calls it as a module"),
    "a tuple": (
        Unfit, {"after": ["pair"]}, FOUR,
        f"the output of 'pair' (Apply) {CANNOT}it is a tuple, not a tensor"),
    "a tuple of attention": (
        tiny_vit, {"after": ["encoder.layers.encoder_layer_0.self_attention"]}, IMAGES,
        "it is a tuple, not a tensor"),
    "integers": (
        Unfit, {"after": ["indices"]}, FOUR,
        f"the output of 'indices' (Apply) {CANNOT}it holds int64, not floating-point numbers"),
    "the batch elsewhere": (
        Unfit, {"after": ["turned"]}, FOUR,
        "its shape is (4, 2), and the first dimension must be the batch, 2, with at least one "
        "more"),
    "more rows than the batch": (
        Unfit, {"after": ["joined"]}, FOUR, "its shape is (4, 4), and the first dimension must be"),
    "no channels": (
        Unfit, {"after": ["vector"]}, FOUR, "its shape is (2,), and the first dimension must be"),
    "no dimensions": (
        Unfit, {"after": ["number"]}, FOUR, "its shape is (), and the first dimension must be"),
    "a dimension too many": (
        small_model, {"after": ["conv2"], "channel_dims": {"conv2": 4}}, SMALL_IMAGES,
        f"the output of 'conv2' (Conv2d) {CANNOT}channel_dims gives dimension 4, and its shape is "
        "(5, 5, 2, 2)"),
    "the batch as channels": (
        small_model, {"after": ["conv2"], "channel_dims": {"conv2": 0}}, SMALL_IMAGES,
        "channel_dims gives dimension 0"),
    "a dimension from behind": (
        small_model, {"after": ["conv2"], "channel_dims": {"conv2": -1}}, SMALL_IMAGES,
        "channel_dims gives dimension -1"),
    "an unknown name's dimension": (
        small_model, {"after": ["conv2"], "channel_dims": {"conv": 1}}, SMALL_IMAGES,
        "submodule of channel_dims 'conv' is not in after; did you mean 'conv2'"),
    "an example of another shape": (
        small_model, {"after": ["conv2"]}, torch.zeros(2, 5, 6, 6),
        "Sequential does not take the example, (2, 5, 6, 6) float32: "),
    "an example of another kind": (
        small_model, {"after": ["conv2"]}, SMALL_IMAGES.to(torch.uint8),
        "Sequential does not take the example, (5, 3, 6, 6) uint8: "),
    "no example where one is needed": (
        Around, {"after": ["inside"]}, None,
        "Around does not take the example, (2, 3, 224, 224) float32: "),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_cannot_be_inserted_is_refused_with_the_reason(refused):
    build, options, example, message = REFUSED[refused]
    model = build().train()
    with pytest.raises(ModlibError, match=re.escape(message)):
        insert_modulation(model, **({"tasks": TASKS, "example": example} | options))
    assert hooks(model) == 0
    assert all(module.training for module in model.modules())


def test_an_unfit_model_is_modulated_where_it_can_be():
    network = insert_modulation(Unfit(), ["first"], TASKS, FOUR)
    assert network.once
    assert network(FOUR, torch.tensor([2, 0])).shape == FOUR.shape


def test_a_modulated_model_is_not_called_bare():
    network = small_network()
    message = ("the output of 'norm' is modulated and needs a task: call the network that "
               "insert_modulation returned, with a task per image, or remove() the modulation")
    for _ in range(2):
        with pytest.raises(ModlibError, match=re.escape(message)):
            network.model(SMALL_IMAGES)
        network(SMALL_IMAGES, SMALL_TASK_B)
        network.for_all_tasks(SMALL_IMAGES)


@pytest.mark.parametrize("after", ["conv1", "norm", "conv2", "fc"])
def test_a_modulated_model_is_not_modulated_again(after):
    network = small_network()
    expected = network(SMALL_IMAGES, SMALL_TASK_B)
    with pytest.raises(ModlibError, match=r"^the output of 'norm' is modulated and needs"):
        insert_modulation(network.model, [after], TASKS, SMALL_IMAGES)
    with pytest.raises(ModlibError, match="ModulatedNetwork does not take the example"):
        insert_modulation(network, [f"model.{after}"], TASKS, SMALL_IMAGES)
    assert hooks(network.model) == 2
    assert torch.equal(network(SMALL_IMAGES, SMALL_TASK_B), expected)


@pytest.mark.parametrize(("task_B", "message"), [
    (torch.tensor([0, 1, 2, 0]), "shape (5,); given int64 (4,)"),
    (torch.tensor([[0, 1, 2, 0, 1]]), "shape (5,); given int64 (1, 5)"),
    (torch.tensor(0), "shape (5,); given int64 ()"),
    (torch.tensor([0, 1, 2, 0, 1], dtype=torch.int32), "shape (5,); given int32 (5,)"),
    (torch.zeros(5), "shape (5,); given float32 (5,)"),
    (torch.tensor([0, 1, 3, 0, 1]), "must be 0 to 2; given 0 to 3"),
    (torch.tensor([0, 1, 2, 0, -1]), "must be 0 to 2; given -1 to 2"),
])
def test_a_network_refuses_wrong_task_indices(task_B, message):
    network = small_network()
    with pytest.raises(ModlibError, match=re.escape(message)):
        network(SMALL_IMAGES, task_B)
    network(SMALL_IMAGES, SMALL_TASK_B)


@torch.no_grad()
@pytest.mark.parametrize("call", ["forward", "for_all_tasks"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_after_an_error_the_network_still_works(call, where):
    """Before the first scale and after it, where the tasks are known already."""
    network = small_network()
    forward = network(SMALL_IMAGES, SMALL_TASK_B)
    every = network.for_all_tasks(SMALL_IMAGES)
    bad = SMALL_IMAGES[:, :2] if where == "before" else SMALL_IMAGES[:, :, :4, :4]
    with pytest.raises(RuntimeError):  # two colours; smaller than the kernel of conv2
        network(bad, SMALL_TASK_B) if call == "forward" else network.for_all_tasks(bad)
    with pytest.raises(ModlibError, match="needs a task"):
        network.model(SMALL_IMAGES)
    assert torch.equal(network(SMALL_IMAGES, SMALL_TASK_B), forward)
    assert torch.equal(network.for_all_tasks(SMALL_IMAGES), every)
    assert torch.equal(network(SMALL_IMAGES, SMALL_TASK_B), forward)


@pytest.mark.parametrize("name", ["keys", "values"])
def test_a_submodule_may_be_called_as_a_dicts_method(name):
    model = nn.Sequential(OrderedDict([("first", nn.Linear(4, 4)), (name, nn.Linear(4, 4))]))
    plain = twin(model)
    network = with_random_scales(insert_modulation(model, ["first", name], TASKS, FOUR))
    task_B, loaded = torch.tensor([2, 0]), copy.deepcopy(network)
    expected = reference(plain, network, {"first": 1, name: 1}, FOUR, task_B)
    assert_near(network(FOUR, task_B), expected)
    nn.init.ones_(weights_of(loaded, name))
    loaded.load_state_dict(network.state_dict())
    assert_near(loaded(FOUR, task_B), expected)


def test_a_model_that_asserts_its_batch_size_takes_the_images_once_per_task():
    network = with_random_scales(insert_modulation(Sure(), ["inside"], TASKS, FOUR))
    assert not network.once
    features = random_features((5, 4))
    assert_near(network.for_all_tasks(features), task_by_task(network, features))


@pytest.mark.parametrize("output", [lambda x: (x, x), lambda x: {"out": x}], ids=["tuple", "dict"])
def test_a_model_whose_output_is_no_tensor_takes_a_task_per_image_alone(output):
    network = insert_modulation(
        nn.Sequential(nn.Linear(4, 4), Apply(output)), ["0"], TASKS, FOUR)
    assert type(network(FOUR, torch.zeros(len(FOUR), dtype=torch.long))) in (tuple, dict)
    with pytest.raises(ModlibError, match=r"one tensor; Sequential gives a (tuple|dict)"):
        network.for_all_tasks(FOUR)


def test_an_insertion_that_fails_leaves_no_hooks():
    def only_once(x: Tensor) -> Tensor:
        calls.append(x)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return x

    calls: list[Tensor] = []
    model = nn.Sequential(nn.Linear(4, 4), Apply(only_once)).train()
    with pytest.raises(KeyboardInterrupt):
        insert_modulation(model, ["0"], TASKS, FOUR)
    assert len(calls) == 2
    assert hooks(model) == 0
    assert model.training


def test_an_example_of_one_image_is_refused():
    with pytest.raises(ModlibError, match="two images or more; given 1"):
        insert_modulation(Around(), ["inside"], TASKS, FOUR[:1])


def test_scales_are_asked_for_by_the_submodules_name():
    network = insert_modulation(Around(), ["inside"], TASKS, FOUR)
    assert network.scale_after("inside") is next(iter(network.modulation.values())).scale
    with pytest.raises(ModlibError, match="'insde' is not known; did you mean 'inside'"):
        network.scale_after("insde")


@pytest.mark.parametrize("call", ["forward", "for_all_tasks"])
def test_a_network_whose_scales_were_removed_says_so(call):
    network = insert_modulation(Around(), ["inside"], TASKS, FOUR)
    network.remove()
    with pytest.raises(ModlibError, match="the modulation was removed"):
        network.for_all_tasks(FOUR) if call == "for_all_tasks" else network(
            FOUR, torch.zeros(len(FOUR), dtype=torch.long))


@pytest.mark.parametrize("last", [lambda x: x > 0, lambda x: x[:, :0]], ids=["bool", "empty"])
def test_an_output_that_cannot_be_compared_is_computed_once_per_task(last):
    network = insert_modulation(nn.Sequential(nn.Linear(4, 4), Apply(last)), ["0"], TASKS, FOUR)
    assert network.for_all_tasks(FOUR).shape[:2] == (3, len(FOUR))


def test_projections_take_features_of_another_precision():
    projection = ChannelProjection(2, 4)
    features = torch.ones(3, 4, dtype=torch.bfloat16)
    for given in (projection(features, torch.tensor([0, 1, 0])),
                  projection.for_all_tasks(features)):
        assert given.dtype == torch.bfloat16 and torch.equal(given, torch.ones_like(given))


def test_task_indices_that_are_no_tensor_are_refused():
    with pytest.raises(ModlibError, match=r"int64 tensor; given \[0, 1\]"):
        check_task_indices([0, 1], 2, 2)


@pytest.mark.parametrize(("module", "shape"), [
    (nn.ReLU(), (2, 3, 5)),
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.LayerNorm(6)), (2, 3, 8)),
], ids=["no layer that tells", "layers that disagree"])
def test_channels_that_cannot_be_told_are_asked_for(module, shape):
    with pytest.raises(ModlibError, match=r"dimension 1 or 2; say which with channel_dims"):
        insert_modulation(nn.Sequential(module), ["0"], TASKS, random_features(shape))


def test_a_first_dimension_that_only_happens_to_be_as_long_as_the_batch_is_refused():
    model = nn.Sequential(Apply(lambda x: x.transpose(0, 1)), nn.Linear(4, 4))
    with pytest.raises(ModlibError, match=r"the first dimension must be the batch, 3"):
        insert_modulation(model, ["1"], TASKS, random_features((3, 3, 4)))


@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("kind", ["scale", "projection"])
def test_for_each_task_equals_a_call_with_every_tasks_indices(shape, kind):
    own = random_scale() if kind == "scale" else ChannelProjection(3, 4, 6)
    if kind == "projection":
        nn.init.normal_(own.weight, generator=torch.Generator().manual_seed(1))
    features = torch.cat([random_features(shape) + t for t in range(3)])
    torch.testing.assert_close(
        own.for_each_task(features), own(features, torch.arange(3).repeat_interleave(5)))


# Scales with a sign


@pytest.mark.parametrize("shape", FEATURES)
def test_new_signed_scales_change_nothing(shape):
    scale, features = ChannelScale(3, 4, signed=True), random_features(shape)
    assert torch.equal(scale(features, torch.tensor([0, 1, 2, 1, 0])), features)
    assert torch.equal(scale.for_all_tasks(features), torch.cat([features] * 3))


def signed_image(scale: ChannelScale, image: Tensor, task: int) -> Tensor:
    return torch.stack([channel * w for channel, w in
                        zip(image, scale.weight[task].tolist(), strict=True)])


@pytest.mark.parametrize("shape", FEATURES)
def test_signed_scales_multiply_each_channel_by_what_they_are(shape):
    scale, features, tasks = random_scale(signed=True), random_features(shape), [2, 0, 1, 1, 0]
    assert (scale.weight < 0).any()
    assert torch.equal(scale.scales(), scale.weight)
    loop = torch.stack([signed_image(scale, image, task)
                        for image, task in zip(features, tasks, strict=True)])
    torch.testing.assert_close(scale(features, torch.tensor(tasks)), loop)
    every = torch.stack([signed_image(scale, image, task)
                         for task in range(3) for image in features])
    torch.testing.assert_close(scale.for_all_tasks(features), every)
    own = random_features((15, *shape[1:]))  # other features for each task
    loop = torch.stack([signed_image(scale, image, b // 5) for b, image in enumerate(own)])
    torch.testing.assert_close(scale.for_each_task(own), loop)


@pytest.mark.parametrize("call", ["forward", "for_all_tasks", "for_each_task"])
def test_signed_weights_of_0_and_below_have_gradients_and_none_is_dead(call):
    scale = scale_of(torch.tensor([[1.0, 0.0, -2.0]]), signed=True)
    features = torch.ones(2, 3)
    given = (scale(features, torch.tensor([0, 0])) if call == "forward"
             else getattr(scale, call)(features))
    given.sum().backward()
    assert torch.equal(given, torch.tensor([[1.0, 0.0, -2.0]] * 2))
    assert torch.equal(scale.weight.grad, torch.tensor([[2.0, 2.0, 2.0]]))
    assert scale.dead() == 0


@pytest.mark.parametrize(("signed", "expected"), [(True, 0.5), (False, 0.0)])
def test_a_signed_scale_passes_0_and_comes_back_where_another_stays(signed, expected):
    scale = ChannelScale(1, 1, signed)
    optimiser = torch.optim.SGD(scale.parameters(), lr=0.4)
    for wanted in [-1.0] * 20 + [0.5] * 20:
        output = scale(torch.ones(1, 1), torch.tensor([0]))
        optimiser.zero_grad()
        (output - wanted).square().sum().backward()
        optimiser.step()
    assert scale.scales().item() == pytest.approx(expected)
    assert scale.dead() == int(not signed)


@pytest.mark.parametrize("kernel", [1, 3])
def test_filters_take_signed_scales_too(kernel):
    scale, convolution = random_scale(torch.float64, signed=True), random_convolution(kernel)
    with torch.no_grad():
        scale.weight[1, 2] = 0
    features = random_features((5, 4, 6, 5), torch.float64)
    given = scale.for_all_tasks_then(convolution, features)
    loop = torch.cat([convolution(signed_image(scale, image, task)[None])
                      for task in range(3) for image in features])
    torch.testing.assert_close(given, loop, rtol=1e-12, atol=1e-12)
    mix = random_features(tuple(given.shape), torch.float64)
    gradient, expected = (
        torch.autograd.grad((output * mix).sum(), scale.weight)[0]
        for output in (given, convolution(features.repeat(3, 1, 1, 1) * scale.weight
                                          .repeat_interleave(5, 0)[:, :, None, None])))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert torch.count_nonzero(gradient) == 12


# Mixing of low rank


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_low_rank(rank: int, dtype: torch.dtype = torch.float32) -> LowRankProjection:
    """Three tasks, four channels; scales of both signs, so that the ReLU is seen."""
    module = LowRankProjection(3, 4, rank, seeded())
    nn.init.normal_(module.up, generator=seeded(2))
    module.scale = random_scale()
    return module.to(dtype)


def mix_one_image(module: LowRankProjection, image: Tensor, task: int) -> Tensor:
    """Its channels scaled, plus what goes down to R numbers and up again."""
    scaled = torch.stack([channel * max(0.0, w) for channel, w in
                          zip(image, module.scale.weight[task].tolist(), strict=True)])
    return scaled + project_one_image(
        project_one_image(image, module.down[task]), module.up[task])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shape", FEATURES)
def test_a_new_projection_of_low_rank_changes_nothing(shape, rank):
    module, features = LowRankProjection(3, 4, rank, seeded()), random_features(shape)
    assert torch.count_nonzero(module.down) == 3 * 4 * rank
    assert torch.equal(module(features, torch.tensor([2, 0, 1, 1, 0])), features)
    assert torch.equal(module.for_all_tasks(features), torch.cat([features] * 3))
    own = torch.cat([features, features + 1, features + 2])
    assert torch.equal(module.for_each_task(own), own)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shape", FEATURES)
def test_a_projection_of_low_rank_equals_a_loop_over_images(shape, rank, channels_last):
    module, features, tasks = random_low_rank(rank), random_features(shape), [2, 0, 1, 1, 0]
    own = random_features((15, *shape[1:]))  # other features for each task
    if channels_last and features.ndim == 4:
        features, own = (x.contiguous(memory_format=torch.channels_last) for x in (features, own))
    for given, images, tasks_of_images in (
        (module(features, torch.tensor(tasks)), features, tasks),
        (module.for_all_tasks(features), torch.cat([features] * 3), [0] * 5 + [1] * 5 + [2] * 5),
        (module.for_each_task(own), own, [0] * 5 + [1] * 5 + [2] * 5),
    ):
        loop = torch.stack([mix_one_image(module, image, task)
                            for image, task in zip(images, tasks_of_images, strict=True)])
        torch.testing.assert_close(given, loop)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_matrix_less_its_scales_has_rank_r(rank):
    module = LowRankProjection(3, 6, rank, seeded())
    nn.init.normal_(module.up, generator=seeded(2))
    nn.init.uniform_(module.scale.weight, 0.5, 2.0, generator=seeded(3))
    matrices_TCC = module.matrices().detach().double()
    assert matrices_TCC.shape == (3, 6, 6)
    for matrix_CC, scale_C in zip(matrices_TCC, module.scale.weight.detach(), strict=True):
        # U · V was rounded to float32.
        mixing_CC = matrix_CC - torch.diag(scale_C.double())
        assert torch.linalg.matrix_rank(mixing_CC, atol=1e-5) == rank
        assert torch.linalg.matrix_rank(matrix_CC, atol=1e-5) > rank


def test_low_rank_takes_a_scale_and_two_times_r_numbers_a_channel():
    sizes = {name: tuple(p.shape) for name, p in random_low_rank(2).named_parameters()}
    assert sizes == {"scale.weight": (3, 4), "down": (3, 4, 2), "up": (3, 2, 4)}


def test_low_rank_draws_its_first_factor_from_the_generator():
    torch.manual_seed(1)
    first = LowRankProjection(20, 64, 8, seeded()).down
    torch.manual_seed(2)
    again, other = (LowRankProjection(20, 64, 8, seeded(seed)).down for seed in (1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert first.std().item() == pytest.approx(1 / 8, rel=0.03)
    assert first.mean().item() == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("shape", FEATURES)
def test_gradients_of_a_projection_of_low_rank(shape):
    module = random_low_rank(2, torch.float64)
    features, task_B = random_features(shape, torch.float64), torch.tensor([2, 0, 1, 1, 0])
    inputs = (features.requires_grad_(), *module.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: module(x, task_B), inputs)
    assert torch.autograd.gradcheck(lambda x, *_: module.for_all_tasks(x), inputs)
    own = random_features((6, *shape[1:]), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, *_: module.for_each_task(x), (own, *module.parameters()))


@pytest.mark.parametrize("shape", FEATURES)
def test_what_mixes_for_a_task_without_images_gets_no_gradient(shape):
    module = random_low_rank(2)
    module(random_features(shape), torch.tensor([1] * 5)).square().sum().backward()
    for parameter in (module.down, module.up, module.scale.weight):
        assert torch.count_nonzero(parameter.grad[[0, 2]]) == 0
        assert torch.count_nonzero(parameter.grad[1]) > 0
    assert torch.equal(module.scale.weight.grad[1] == 0, module.scale.weight[1] <= 0)
