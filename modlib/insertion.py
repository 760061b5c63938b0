"""Put modulation into a network that is already there, whatever its architecture.

Source: Zhao et al., ECCV 2018, section 5.1: the module suits any network.
Shapes: B batch, T tasks, C channels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modlib.errors import ModlibError, unknown_name
from modlib.modulated_network import ModulatedNetwork

# Layers that tell where the channels are in what they give.
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def insert_modulation(
    model: nn.Module,
    after: Sequence[str],
    tasks: Sequence[str],
    example: Tensor | None = None,
    channel_dims: Mapping[str, int] | None = None,
) -> ModulatedNetwork:
    """Put a scale per task and channel after some submodules of a network.

    New scales are 1, so the function is unchanged until they are trained. The model is not
    copied: it trains along, and ``remove()`` gives it back. Scales inside a part that is computed
    anew in the backward pass (activation checkpointing) do not work.

    Args:
        model: any module whose first input has the batch as its first dimension.
        after: names of submodules, as ``model.named_modules()`` prints them.
        tasks: the T task names, distinct.
        example: a small batch that the model takes, of two or more, to see the outputs' shapes;
            None: two random RGB images of 224×224 pixels.
        channel_dims: ``{name: dimension}`` of the channels. Where it does not say, they are
            dimension 1 of a submodule with convolutions, the last dimension of one with linear
            layers or layer norms, and dimension 1 of other 2-D and 4-D outputs.

    Raises:
        ModlibError: no such submodule, one whose output cannot be scaled (not called, called
            more than once, no floating-point tensor, its first dimension not the batch), or an
            example that the model does not take.
    """
    if not isinstance(tasks, list | tuple) or not tasks or len(set(tasks)) != len(tasks):
        raise ModlibError(f"tasks must be one or more distinct names; given {tasks!r}")
    if isinstance(after, str) or not after or len(set(after)) != len(after):
        raise ModlibError(f"after must be a list of distinct names of submodules; given {after!r}")
    submodules = dict(model.named_modules())
    submodules.pop("", None)
    for name in after:
        if name not in submodules:
            raise unknown_name("submodule", name, submodules, f"this {type(model).__name__}")
    for name in channel_dims or {}:
        if name not in after:
            raise unknown_name("submodule of channel_dims", name, after, "after")
    if example is None:
        first = next((p for p in model.parameters()), torch.empty(0))
        generator = torch.Generator().manual_seed(0)
        example = torch.rand(2, 3, 224, 224, generator=generator).to(first)
    if not isinstance(example, Tensor):
        raise ModlibError("example must be one tensor, the model's first input; given a "
                          f"{type(example).__name__}")
    if len(example) < 2:  # one image would be broadcast over all tasks where shapes ought to clash
        raise ModlibError(f"example must hold two images or more; given {len(example)}")
    outputs = _outputs(model, after, example)
    longer = _outputs(model, after, torch.cat([example, example]))
    places = {
        name: _channels(name, submodules[name], outputs[name], longer[name], len(example),
                        channel_dims or {})
        for name in sorted(after, key=list(outputs).index)
    }
    network = ModulatedNetwork(model, tasks, places)
    network.modulation.to(example.device)
    try:
        network.once = _prefix_can_be_shared(network, example)
    except BaseException:
        network.remove()
        raise
    return network


def _eval_call(network: nn.Module, call) -> Tensor:
    """Call in eval mode and without gradients, so that nothing of the network changes."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return call()
    finally:
        for module, mode in modes.items():
            module.training = mode


def _outputs(model: nn.Module, after: Sequence[str], example: Tensor) -> dict[str, list]:
    """What each submodule gives in one forward pass, in the order of their first calls."""
    outputs: dict[str, list] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: outputs.setdefault(name, []).append(output))
        for name in after
    ]
    try:
        _eval_call(model, lambda: model(example))
    except ModlibError:  # the model is modulated already, and says so
        raise
    except Exception as error:
        raise ModlibError(
            f"{type(model).__name__} does not take the example, {tuple(example.shape)} "
            f"{str(example.dtype).removeprefix('torch.')}: {error}; give example=, a small batch "
            "that it takes") from error
    finally:
        for handle in handles:
            handle.remove()
    for name in after:
        outputs.setdefault(name, [])
    return outputs


def _channels(name, submodule, outputs, longer, batch, channel_dims) -> tuple[int, int]:
    """How many channels an output has and in which dimension, or why it cannot be scaled."""
    def refusal(reason: str) -> ModlibError:
        return ModlibError(f"the output of {name!r} ({type(submodule).__name__}) cannot be scaled: "
                           f"{reason}")
    if len(outputs) != 1:
        raise refusal("the forward pass never calls it as a module" if not outputs else
                      f"the forward pass calls it {len(outputs)} times, and one set of scales "
                      "would act at each")
    [output] = outputs
    if not isinstance(output, Tensor):
        raise refusal(f"it is a {type(output).__name__}, not a tensor")
    if not output.is_floating_point():
        raise refusal(f"it holds {str(output.dtype).removeprefix('torch.')}, not floating-point "
                      "numbers")
    if output.ndim < 2 or (len(output), len(longer[0])) != (batch, 2 * batch):
        raise refusal(f"its shape is {tuple(output.shape)}, and the first dimension must be the "
                      f"batch, {batch}, with at least one more")
    dim = channel_dims.get(name, 1 if output.ndim == 2 else _channel_dim(submodule, output.ndim))
    if dim is None:
        raise refusal(f"in its shape {tuple(output.shape)} the channels may be dimension 1 or "
                      f"{output.ndim - 1}; say which with channel_dims={{{name!r}: …}}")
    if dim not in range(1, output.ndim):
        raise refusal(f"channel_dims gives dimension {dim}, and its shape is {tuple(output.shape)}")
    return output.shape[dim], dim


def _channel_dim(submodule: nn.Module, ndim: int) -> int | None:
    """Where a submodule's layers put the channels; None where they do not tell."""
    layers = list(submodule.modules())
    first = any(isinstance(layer, CHANNELS_FIRST) for layer in layers)
    last = any(isinstance(layer, CHANNELS_LAST) for layer in layers)
    if first == last:
        return 1 if ndim == 4 and not first else None
    return 1 if first else ndim - 1


def _prefix_can_be_shared(network: ModulatedNetwork, example: Tensor) -> bool:
    """Whether expanding at the first scale gives what a call per task gives, tried out.

    Compared is what the last scale gives: a model's own output may be 0 before it is trained.
    """
    weights = network.task_parameters()
    kept = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    tasks, batch = len(network.tasks), len(example)
    seen: list[Tensor] = []
    handle = network.last_submodule().register_forward_hook(
        lambda _, __, output: seen.append(output))
    try:
        for weight in weights:
            weight.data.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
        task_B = torch.full((batch,), tasks - 1, device=example.device)
        _eval_call(network, lambda: network(example, task_B))
        try:
            _eval_call(network, lambda: network.for_all_tasks(example))
            one, every = seen[0], seen[1].unflatten(0, (tasks, batch))
            return torch.allclose(every[-1], one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
        except Exception:  # whatever a model does where B and T·B images meet
            return False
    finally:
        handle.remove()
        for weight, before in zip(weights, kept, strict=True):
            weight.data.copy_(before)
