"""A thin network's first weights: the filters of a trained wide one that best span all of its.

Source: Lu et al., "Fully-adaptive Feature Sharing in Multi-Task Networks", CVPR 2017, section 3.1
and Algorithm 2: simultaneous orthogonal matching pursuit (Tropp, Gilbert and Strauss, 2006).
Shapes: F filters, I inputs of a filter, T tasks.
"""

import numpy as np
import torch
from torch import Tensor

from modlib.errors import ModlibError, unknown_name
from modlib.thin_vgg import LAYERS, BranchingVgg

FILTERS = ("somp", "random", "all")
PICKS = 20  # choices at random that SOMP's is compared with


def select_filters(weight_FI: Tensor, count: int) -> list[int]:
    """Greedily choose the rows that best reconstruct all rows (Eq. 2).

    Approximates the solution of :eq:`eq-somp` on the book's page on the method.

    Each step takes the row, scaled to length 1, that has the largest sum of absolute inner
    products with what is left of all rows, and takes its direction out of them.

    Args:
        weight_FI: float; a row is a filter.
        count: how many to choose, from 1 to F.

    Returns:
        the rows' indices, in the order of choice.

    Raises:
        ModlibError: ``count`` is out of range.
    """
    _check_count(count, len(weight_FI))
    left_FI = weight_FI.detach().double().cpu()
    lengths_F1 = left_FI.norm(dim=1, keepdim=True)
    unit_FI = left_FI / lengths_F1.clamp_min(1e-300)
    chosen: list[int] = []
    for _ in range(count):
        scores_F = (unit_FI @ left_FI.T).abs().sum(1)
        scores_F[chosen] = -1
        chosen.append(int(scores_F.argmax()))
        # What is left of the chosen row is at right angles to all that were chosen before it.
        direction_I = left_FI[chosen[-1]]
        length = direction_I.norm()
        if length > 1e-9 * lengths_F1.max():
            direction_I = direction_I / length
            left_FI = left_FI - (left_FI @ direction_I)[:, None] * direction_I
    return chosen


def _check_count(count: int, filters: int) -> None:
    if not 1 <= count <= filters:
        raise ModlibError(f"count must be from 1 to {filters} filters; given {count}")


def reconstruction_error(weight_FI: Tensor, chosen: list[int]) -> float:
    """What the chosen rows cannot reconstruct of all rows, relative: 0 to 1 (Eq. 2 over ‖W‖)."""
    weight_FI = weight_FI.detach().double().cpu()
    basis_FI = weight_FI[chosen]
    mix_CF = torch.linalg.lstsq(basis_FI.T, weight_FI.T, driver="gelsd").solution
    return float((weight_FI - mix_CF.T @ basis_FI).norm() / weight_FI.norm())


def random_filters(filters: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw some of so many filters at random, without repetition.

    Args:
        filters: F, how many there are.
        count: how many to draw, from 1 to F.

    Returns:
        their indices.

    Raises:
        ModlibError: ``count`` is out of range.
    """
    _check_count(count, filters)
    return rng.permutation(filters)[:count].tolist()


def random_error(weight_FI: Tensor, count: int, seed: int, picks: int = PICKS) -> float:
    """The mean :func:`reconstruction_error` of some choices at random, the same for a seed."""
    rng = np.random.default_rng(seed)
    return float(np.mean([
        reconstruction_error(weight_FI, random_filters(len(weight_FI), count, rng))
        for _ in range(picks)]))


@torch.no_grad()
def start_from_wide(
    thin: BranchingVgg, wide: BranchingVgg, seed: int = 0, filters: str = "somp"
) -> tuple[dict[str, float], dict[str, float]] | None:
    """Give a thin network the chosen filters of a trained wide one, layer by layer (Algorithm 2).

    Each chosen filter brings its batch norm along, and keeps of its inputs those that were chosen
    in the layer below; so do the rows of the output layer.

    Args:
        thin: changed in place.
        wide: the same layers and tasks, none of them narrower.
        seed: of what is chosen at random.
        filters: ``"somp"``; to compare with, ``"random"``: as many at random; or ``"all"``, in
            their order: the thin network is as wide as the wide one, and computes the same.

    Returns:
        of SOMP, the relative reconstruction error of each layer, and the mean of as many filters
        of it at random; of other filters, None.

    Raises:
        ModlibError: unknown ``filters``, a network with branches, of other tasks or another image
            size, a layer that is narrower in ``wide``, or of another width with ``"all"``.
    """
    if any(len(layer) > 1 for network in (thin, wide) for layer in network.layers):
        raise ModlibError("start_from_wide needs networks that are not split yet")
    if (thin.num_tasks, thin.side) != (wide.num_tasks, wide.side):
        raise ModlibError(
            f"thin and wide must be for the same tasks and image size; given {thin.num_tasks} and "
            f"{wide.num_tasks} tasks, {thin.side} and {wide.side} pixels before fc6")
    if filters not in FILTERS:
        raise unknown_name("value of filters:", filters, FILTERS)
    errors, by_chance, rng = {}, {}, np.random.default_rng(seed)
    kept = torch.arange(3)  # the inputs of conv1_1 are the three colours
    for name, [branch], [of_wide] in zip(LAYERS, thin.layers, wide.layers, strict=True):
        state, given = of_wide.state_dict(), branch.state_dict()
        for key, value in state.items():
            if value.ndim > 1:  # the weights come first: they choose the filters
                inputs = _inputs(kept, wide.side**2) if name == "fc6" else kept
                weight = value[:, inputs]
                if filters == "random":
                    chosen = random_filters(len(weight), len(given[key]), rng)
                elif filters == "all":
                    chosen = _all_filters(name, len(weight), len(given[key]))
                else:
                    chosen = select_filters(weight.flatten(1), len(given[key]))
                    errors[name] = reconstruction_error(weight.flatten(1), chosen)
                    by_chance[name] = random_error(weight.flatten(1), len(chosen), seed)
                kept, state[key] = torch.tensor(chosen), weight[chosen]
            elif value.ndim == 1:
                state[key] = value[kept]
        branch.load_state_dict(state)
    thin.output.weight.copy_(wide.output.weight[:, kept])
    thin.output.bias.copy_(wide.output.bias)
    return (errors, by_chance) if errors else None


def _all_filters(layer: str, filters: int, count: int) -> list[int]:
    if count != filters:
        raise ModlibError("filters='all' needs networks of the same widths; given "
                          f"{count} and {filters} in {layer}")
    return list(range(filters))


def _inputs(channels: Tensor, places: int) -> Tensor:
    """The inputs of fc6 that come from some channels: each fills ``places`` of them in a row."""
    return (channels[:, None] * places + torch.arange(places)).flatten()
