"""Conflict-aware optimisers: one step for the shared parameters out of conflicting gradients.

The weights come from TorchJD, from the Gramian of the task gradients alone.

Source: Yu et al., NeurIPS 2020 (PCGrad); Désidéri, 2012, and Sener and Koltun, NeurIPS 2018
(MGDA, "MOO" in the top-down modulation paper); Quinton and Rey, 2024 (UPGrad and TorchJD).
Shapes: T tasks, P shared parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modlib.errors import unknown_name

WEIGHTINGS = {"pcgrad": "PCGradWeighting", "mgda": "MGDAWeighting", "upgrad": "UPGradWeighting"}


def task_weights(name: str, gramian_TT: Tensor, generator: torch.Generator) -> Tensor:
    """The weight of each task's gradient in the shared step, float32 (T,).

    Tasks whose gradient is exactly 0 ask for nothing and are left out: MGDA would otherwise
    stand still as soon as one task's hinges are all 0. The weights are on the scale of the mean:
    where no tasks conflict, ``"pcgrad"`` and ``"upgrad"`` give each that asks 1 / T, and those of
    ``"mgda"`` add up to the share of the tasks that ask. (PCGrad's paper takes the sum.)

    Args:
        name: ``"pcgrad"``, ``"mgda"`` or ``"upgrad"``.
        gramian_TT: inner products of the task gradients.
        generator: fixes the random order in which PCGrad goes through the tasks.

    Raises:
        ModlibError: an unknown name.
    """
    if name not in WEIGHTINGS:
        raise unknown_name("aggregation", name, WEIGHTINGS)
    from torchjd import aggregation  # here, as most runs do without it and it takes half a second

    asking = torch.nonzero(gramian_TT.diagonal() > 0).flatten()
    weights_T = torch.zeros(len(gramian_TT), device=gramian_TT.device)
    if len(asking) == 0:
        return weights_T
    asking_gramian = gramian_TT[asking][:, asking]
    # The weights do not depend on the gradients' common length, but TorchJD takes small Gramians
    # for 0.
    asking_gramian = asking_gramian / asking_gramian.diagonal().mean()
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # TorchJD draws from the CPU's global generator
        torch.default_generator.manual_seed(seed)
        weights_T[asking] = getattr(aggregation, WEIGHTINGS[name])()(asking_gramian)
    return weights_T * (1 if name == "pcgrad" else len(asking)) / len(weights_T)


def weight_metrics(weights: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """What an epoch's metrics hold of its steps' weights, (T,) each: ``task_weights``, the means.

    Nothing where no step had any.
    """
    if not weights:
        return {}
    mean_T = torch.stack(list(weights)).mean(0).tolist()
    return {"task_weights": dict(zip(tasks, mean_T, strict=True))}


def aggregate_gradients(
    name: str,
    gradients_TP: Tensor,
    gramian_TT: Tensor,
    shared: list[nn.Parameter],
    generator: torch.Generator,
) -> Tensor:
    """Put the weighted sum of the task gradients in the place of their mean, in place.

    Computes :eq:`eq-aggregation` of the book's page on the method.

    Args:
        name: see :func:`task_weights`.
        gradients_TP: from :func:`modlib.gradients.task_gradients`.
        gramian_TT: their inner products.
        shared: the parameters, in the order of ``gradients_TP``; their ``grad`` is replaced.
        generator: see :func:`task_weights`.

    Returns:
        the weights, float32 (T,).
    """
    weights_T = task_weights(name, gramian_TT, generator)
    step_P = weights_T @ gradients_TP
    for parameter, step in zip(shared, step_P.split([p.numel() for p in shared]), strict=True):
        parameter.grad = step.view_as(parameter).clone()
    return weights_T
