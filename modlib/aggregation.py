"""Conflict-aware optimisers: one step for the shared parameters out of conflicting gradients.

The weights come from TorchJD, from the Gramian of the task gradients alone.

Source: Yu et al., NeurIPS 2020 (PCGrad); Désidéri, 2012, and Sener and Koltun, NeurIPS 2018
(MGDA, "MOO" in the top-down modulation paper); Quinton and Rey, 2024 (UPGrad and TorchJD).
Shapes: T tasks, P shared parameters.
"""

from collections.abc import Sequence
from typing import Any

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


class StepLog:
    """What an epoch's steps have made of the tasks' gradients.

    Attributes:
        weights: of each step, float32 (T,).
        cosines: of the angle between the step's weighted sum and the plain mean of the gradients.
        uphill: the share of the tasks against whose gradient the parameters went. It is of what
            the optimiser has really done, with its momentum and its scales.
    """

    def __init__(self):
        self.weights: list[Tensor] = []
        self.cosines: list[Tensor] = []
        self.uphill: list[Tensor] = []

    def add(self, weights_T: Tensor, gramian_TT: Tensor, changes_T: Tensor) -> None:
        """Note one step.

        Args:
            weights_T: from :func:`task_weights`.
            gramian_TT: inner products of the task gradients.
            changes_T: of each task, its gradient times the change of the parameters.
        """
        together_T = gramian_TT @ weights_T
        length = (weights_T @ together_T * gramian_TT.sum()).clamp(min=0).sqrt()
        cosine = together_T.sum() / length.clamp(min=torch.finfo(length.dtype).tiny)
        self.weights.append(weights_T)
        self.cosines.append(cosine.clamp(-1, 1))
        self.uphill.append((changes_T > 0).float().mean())

    def metrics(self, tasks: Sequence[str]) -> dict[str, Any]:
        """What an epoch's metrics hold, means over its steps; nothing where there were none.

        ``task_weights`` by task; the ``largest_weight`` as a share of all; ``cosine_to_mean``; and
        ``tasks_uphill``, from 0 to 1.
        """
        if not self.weights:
            return {}
        weights_NT = torch.stack(self.weights)
        shares_N = weights_NT.amax(1) / weights_NT.sum(1).clamp(min=torch.finfo().tiny)
        return {
            "task_weights": dict(zip(tasks, weights_NT.mean(0).tolist(), strict=True)),
            "largest_weight": float(shares_N.mean()),
            "cosine_to_mean": float(torch.stack(self.cosines).mean()),
            "tasks_uphill": float(torch.stack(self.uphill).mean())}


def flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The values of some parameters one after the other, as in ``gradients_TP``; a copy."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


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


def aggregated_step(
    name: str,
    gradients_TP: Tensor,
    gramian_TT: Tensor,
    shared: list[nn.Parameter],
    generator: torch.Generator,
    optimiser: torch.optim.Optimizer,
    log: StepLog | None = None,
) -> None:
    """One step of the optimiser on the weighted sum; see :func:`aggregate_gradients`.

    Args:
        log: takes what became of the tasks' gradients.
    """
    weights_T = aggregate_gradients(name, gradients_TP, gramian_TT, shared, generator)
    before_P = flat(shared)
    optimiser.step()
    if log is not None:
        log.add(weights_T, gramian_TT, gradients_TP @ (flat(shared) - before_P))
