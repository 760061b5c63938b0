"""The Table 2 network as a slow reference, and small networks of every system to hold against it.

Shapes: B batch, T tasks, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modlib.modulation import ChannelProjection, ChannelScale, LowRankProjection
from modlib.networks import build_network
from modlib.task_networks import Network

TASKS = ("Smiling", "Young", "Bald")
SMALL = {"image_size": 48, "width": 0.2, "embedding_size": 16, "branch_size": 7}
STAGES = ("conv1", "block2", "block3", "block4", "block5", "fc")
# Every system, and modulation from every block.
EVERY = [
    ("fully_shared", 4), ("independent", 4), ("csn", 4), ("branches", 4), ("mask_only", 4),
    ("projection", 4), ("modulated_branches", 4), ("modulated_branches", 3), ("low_rank", 4),
    ("low_rank", 5), ("modulated", 2), ("modulated", 3), ("modulated", 4), ("modulated", 5),
]
OF_TASKS = {"csn", "branches", "mask_only", "projection", "modulated", "modulated_branches",
            "low_rank"}  # on one trunk


def stages_of_tasks(system: str, modulate_from: int) -> tuple[str, ...]:
    """The stages that something of the tasks' own follows."""
    return {
        "fully_shared": (), "independent": (), "csn": ("fc",), "branches": ("fc",),
    }.get(system, STAGES[modulate_from - 1:])


def small(system: str, tasks=TASKS, **changes) -> Network:
    """A small network of which nothing that is learned or averaged is at its initial value."""
    network = build_network(system, tasks, **(SMALL | changes))
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, ChannelScale):
            nn.init.uniform_(module.weight, -0.3, 2.0, generator=generator)
        if isinstance(module, LowRankProjection):
            nn.init.normal_(module.up, std=0.3, generator=generator)
        elif isinstance(module, ChannelProjection):
            with torch.no_grad():
                module.weight += 0.3 * torch.randn(module.weight.shape, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
    return network


def in_float64(network: Network) -> Network:
    """Compute in float64, so that a difference is a mistake and not rounding at a ReLU's kink."""
    for stages in [network.stages] if hasattr(network, "stages") else [
            own.stages for own in network.networks]:
        stages["conv1"].register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    return network.double()


def pixels(batch: int, side: int = 48, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


def reference(
    network: nn.Module, images: Tensor, task_B: Tensor, stages: tuple[str, ...] = (),
    frozen: bool = False,
) -> Tensor:
    """Table 2 word for word: conv, bn, relu, *then* pool; sum after the block's second ReLU.

    After each of ``stages`` every image meets what its task has there: a mask, channel by
    channel, or a matrix, position by position.
    """
    layers = iter([m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)])
    of_tasks = iter(network.modulation.values())

    def conv_bn_relu(x, padding):
        weight, norm = next(layers).weight, next(norms)
        x = F.conv2d(x, weight, padding=padding) if x.ndim == 4 else F.linear(x, weight)
        return F.relu(F.batch_norm(
            x, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias,
            training=network.training and not frozen, eps=1e-3))

    def task_specific(x, stage):
        if stage not in stages:
            return x
        module = next(of_tasks)
        return torch.stack([of_one_image(module, image, t)
                            for image, t in zip(x, task_B.tolist(), strict=True)])

    mean = torch.tensor([122.77, 115.95, 102.98]).reshape(1, 3, 1, 1)
    x = ((images.float() - mean) / 128).to(next(network.parameters()).dtype)
    x = task_specific(conv_bn_relu(x, padding=0), "conv1")
    for stage in STAGES[1:-1]:
        x = F.max_pool2d(conv_bn_relu(x, padding=0), 2)
        after_second_relu = conv_bn_relu(conv_bn_relu(x, padding=1), padding=1)
        x = task_specific(x + after_second_relu, stage)
    x = task_specific(conv_bn_relu(x.reshape(len(x), -1), padding=0), "fc")
    assert next(of_tasks, None) is None
    return (x / x.square().sum(1, keepdim=True).sqrt()).float()


def of_one_image(module: nn.Module, image: Tensor, task: int) -> Tensor:
    if isinstance(module, LowRankProjection):  # scaled, plus what went through R numbers
        narrow = projected(image, module.down[task])
        return masked(image, module.scale.weight[task]) + projected(narrow, module.up[task])
    if isinstance(module, ChannelProjection):
        return projected(image, module.weight[task])
    if module.signed:
        return torch.stack([channel * w for channel, w in
                            zip(image, module.weight[task], strict=True)])
    return masked(image, module.weight[task])


def masked(image: Tensor, weight_C: Tensor) -> Tensor:
    return torch.stack([channel * F.relu(w) for channel, w in zip(image, weight_C, strict=True)])


def projected(image: Tensor, weight_CD: Tensor) -> Tensor:
    vectors = image.flatten(1).unbind(1) if image.ndim == 3 else [image]
    projected_DN = torch.stack([weight_CD.T @ vector for vector in vectors], dim=1)
    return projected_DN.reshape(-1, *image.shape[1:])


def reference_of_system(network, system, modulate_from, images, task_B) -> Tensor:
    if system != "independent":
        return reference(network, images, task_B, stages_of_tasks(system, modulate_from),
                         frozen=system == "mask_only")
    embeddings: dict[int, Tensor] = {}
    for task in task_B.unique().tolist():
        rows = [b for b in range(len(images)) if task_B[b] == task]
        of_task = reference(network.networks[task], images[rows], task_B[rows])
        embeddings |= dict(zip(rows, of_task, strict=True))
    return torch.stack([embeddings[b] for b in range(len(images))])


def assert_near(given: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to the rounding of the float32 embeddings, next to the largest expected number."""
    assert given.shape == expected.shape
    assert (given - expected).abs().max() <= tolerance * expected.abs().max()


def gradients(network: nn.Module, embeddings: Tensor) -> list[Tensor]:
    """Of an arbitrary smooth function of the embeddings, for every parameter that is trained;
    zeros for what it does not reach."""
    mix = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(3))
    trained = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad((embeddings * mix).sum(), trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g
            for g, p in zip(found, trained, strict=True)]


def batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)}
