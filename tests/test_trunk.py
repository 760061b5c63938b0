"""Tiny maps by a matrix product against the convolution; a block with another first convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.trunk import Block, SmallMapConv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]
MANY = 25  # images: more than twice the 3 × 2 × 2 numbers of a map


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def small_map_convolution(dtype: torch.dtype = torch.float64) -> SmallMapConv2d:
    convolution = SmallMapConv2d(3, 5, 3, padding=1, bias=False, dtype=dtype)
    nn.init.normal_(convolution.weight, generator=torch.Generator().manual_seed(1))
    return convolution


# Convolutions of 2×2 maps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images", [MANY, 70])
def test_many_2x2_maps_meet_a_matrix_that_does_what_the_convolution_does(images, layout, convolved):
    convolution = small_map_convolution()
    x = drawn(images, 3, 2, 2).contiguous(memory_format=layout).requires_grad_()
    given = convolution(x)
    assert convolved == [(convolution, 12)]  # the unit vectors, and no image
    expected = F.conv2d(x, convolution.weight, padding=1)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    mix, inputs = drawn(*given.shape), (convolution.weight, x)
    for g, e in zip(torch.autograd.grad((given * mix).sum(), inputs),
                    torch.autograd.grad((expected * mix).sum(), inputs), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_matrixs_product_is_channels_last_in_memory(layout):
    x = drawn(MANY, 3, 2, 2).contiguous(memory_format=layout)
    given = small_map_convolution()(x)
    assert given.shape == (MANY, 5, 2, 2)
    assert given.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [
    (1, 3, 2, 2), (MANY - 1, 3, 2, 2), (70, 3, 1, 1), (70, 3, 2, 3), (70, 3, 3, 2), (70, 3, 4, 4)])
def test_few_maps_and_other_maps_are_convolved_to_the_last_bit(shape, layout, dtype, convolved):
    convolution = small_map_convolution(dtype)
    plain = nn.Conv2d(3, 5, 3, padding=1, bias=False, dtype=dtype)
    plain.load_state_dict(convolution.state_dict())
    x, gradients = drawn(*shape, dtype=dtype).contiguous(memory_format=layout), []
    outputs = [layer(x) for layer in (convolution, plain)]
    assert convolved == [(convolution, shape[0]), (plain, shape[0])]
    assert torch.equal(*outputs)
    for layer, output in zip((convolution, plain), outputs, strict=True):
        gradients += torch.autograd.grad(output.square().sum(), layer.weight)
    assert torch.equal(*gradients)


def test_channels_last_maps_stay_channels_last_where_they_are_convolved():
    x = drawn(70, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert small_map_convolution()(x).is_contiguous(memory_format=torch.channels_last)


def test_autocast_computes_the_product_in_bfloat16():
    """Within 2 % of the largest float32 result."""
    convolution, x = small_map_convolution(torch.float32), drawn(MANY, 3, 2, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        given = convolution(x)
    expected = F.conv2d(x, convolution.weight, padding=1)
    assert given.dtype == torch.bfloat16
    assert (given - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("side", [2, 4])
def test_no_maps_give_no_maps(side):
    assert small_map_convolution()(drawn(0, 3, side, side)).shape == (0, 5, side, side)


# Blocks


@pytest.mark.parametrize("side", [6, 9])
def test_a_block_does_what_it_is_given_in_place_of_its_first_convolution(side, convolved):
    block, x = Block(3, 5, bn_decay=0.9).eval().double(), drawn(4, 3, side, side)
    other = nn.Conv2d(3, 5, 3, bias=False, dtype=torch.float64)
    given, own = block(x, other), block.conv[0]
    assert own not in [layer for layer, _ in convolved]
    assert not torch.equal(given, block(x))
    own.load_state_dict(other.state_dict())
    assert torch.equal(given, block(x))
