"""The update compliance probes: their cost in training steps, and whether they agree.

*The plain loop* takes the gradient of each of the 20 task losses over all shared parameters, one
backward pass a task through the joint graph, keeps all of them, and multiplies (`plain_loop`
below). *The exact probe* is `task_gradients` and `gramian`, as training calls it; every one of the
190 signs of each probed batch is compared with the plain loop's. Batching the backward passes by
vmap is timed beside it. *The trunk-output probe*
(`trunk_output_gramian`) is another metric: gradients over the trunk's output, from one backward
pass through what follows it. How often its signs agree with the exact ones is counted on batches
early and late in a training of 240 steps. A probe's forward pass counts as its own where it needs
one of its own. Peak memory is the rise of the resident set during the probe, in a process of its
own for each.
"""

import json
import os
import subprocess
import sys
from itertools import combinations

import torch
from common import SIZES, TASKS, Trainer, data_of, ratios, settings_of
from memory import GIVE_BACK, peak_of
from torch.utils.flop_counter import FlopCounterMode

from modlib.gradients import gramian, task_gradients, trunk_output_gramian
from modlib.losses import task_losses_in_batch
from modlib.speed import row, side_by_side
from modlib.training import batch_task_losses
from modlib.triplets import triplets_in_batch

REPEATS, STAGES = 3, (10, 30, 60, 120, 240)  # steps of training at which signs are compared


def plain_loop(losses_T, parameters) -> torch.Tensor:
    """A backward pass a task; all gradients kept; their products."""
    rows = []
    for loss in losses_T:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        rows.append(torch.cat([gradient.flatten().float() for gradient in gradients]))
    gradients_TP = torch.stack(rows)
    return gradients_TP @ gradients_TP.T


class Probes:
    """A network in training, and the three probes on its next batch."""

    def __init__(self, data_root: str | None, kept: bool = True):
        settings = settings_of(data_root)
        self.trainer = Trainer(
            settings, data_of(settings, data_root), STAGES[-1] // 2, kept)
        self.network, self.settings = self.trainer.network, settings
        self.parameters = self.network.shared_parameters()

    def losses(self) -> torch.Tensor:
        """The task losses of the next batch, by a forward pass."""
        images_BCHW, labels_BT, generator = self.batch()
        return batch_task_losses(self.network, images_BCHW, labels_BT, self.settings, generator)

    def batch(self):
        """The next batch, with a generator that is the same at every call."""
        images_BCHW, labels_BT, _ = self.trainer.batches[
            self.trainer.taken % len(self.trainer.batches)]
        return images_BCHW, labels_BT, torch.Generator().manual_seed(self.trainer.taken)

    def trunk_output(self) -> torch.Tensor:
        """The trunk-output probe on the next batch."""
        images_BCHW, labels_BT, generator = self.batch()
        triplets = triplets_in_batch(labels_BT, self.settings.samples_per_anchor, "holders",
                                     generator)

        def in_float32(embeddings_TBD):  # as in training: only the network is autocast
            with torch.autocast("cpu", enabled=False):
                return task_losses_in_batch(embeddings_TBD, triplets, self.settings.margin)

        with torch.autocast("cpu", torch.bfloat16):
            return trunk_output_gramian(self.network, images_BCHW, in_float32)


def batched(losses_T, parameters, count: int) -> None:
    """The backward passes of the first tasks at once, by torch's vmap."""
    selected = torch.eye(len(losses_T))[:count]
    torch.autograd.grad(losses_T, parameters, selected, retain_graph=True, is_grads_batched=True)


def peak_memory(which: str, data_root: str | None) -> float:
    """MB that one probe adds to the forward pass's graph, at its highest."""
    probes = Probes(data_root, kept=False)
    for _ in range(2):
        probes.trainer.step()
    losses_T = probes.losses()
    if which == "loop":
        return peak_of(lambda: plain_loop(losses_T, probes.parameters))
    return peak_of(lambda: gramian(task_gradients(losses_T, probes.parameters)))


def operations(call) -> int:
    """Multiply-adds of convolutions and matrix products, twice."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(data_root: str | None) -> dict:
    """Medians of three repeats; signs on one batch at each of five stages of training."""
    probes = Probes(data_root)
    for _ in range(3):
        probes.trainer.step()
    losses: list[torch.Tensor] = []

    def prepare() -> None:  # a step changes the weights, and with them the graph
        losses[:] = [probes.losses()]

    seconds = side_by_side({
        "step": probes.trainer.step,
        "loop": lambda: plain_loop(losses[0], probes.parameters),
        "exact": lambda: gramian(task_gradients(losses[0], probes.parameters)),
        "trunk": probes.trunk_output,
    }, REPEATS, prepare=prepare)
    four = side_by_side({
        "batched": lambda: batched(losses[0], probes.parameters, 4),
        "one by one": lambda: task_gradients(losses[0][:4], probes.parameters),
    }, REPEATS, prepare=prepare)
    arithmetic = operations(lambda: task_gradients(losses[0], probes.parameters)) / operations(
        probes.trainer.step)
    pairs = torch.tensor(list(combinations(range(len(TASKS)), 2))).T
    same, agree = [], []
    for stage in STAGES:
        while probes.trainer.taken < stage:
            probes.trainer.step()
        losses_T = probes.losses()
        plain, exact = (
            call(losses_T, probes.parameters).sign()[pairs[0], pairs[1]] for call in
            (plain_loop, lambda losses, shared: gramian(task_gradients(losses, shared))))
        cheap = probes.trunk_output().sign()[pairs[0], pairs[1]]
        same.append(float((plain == exact).float().mean()) * 100)
        agree.append(float((cheap == exact).float().mean()) * 100)
    peaks = {which: float(subprocess.run(
        [sys.executable, __file__, which, json.dumps(data_root)], check=True, capture_output=True,
        text=True, env=os.environ | GIVE_BACK).stdout) for which in ("loop", "exact")}
    how = f"{SIZES}, 190 pairs, joint batch norm"
    stages = f"a batch after each of {', '.join(map(str, STAGES))} steps, 190 pairs each"
    return {"rows": [
        row("UCR: the plain loop over a training step", ratios(seconds["loop"], seconds["step"]),
            how),
        row("UCR: the exact probe over a training step", ratios(seconds["exact"], seconds["step"]),
            how, at_most=8, key="exact probe"),
        row("UCR: four backward passes batched by vmap over one after the other",
            ratios(four["batched"], four["one by one"]), how),
        row("UCR: the arithmetic of the exact probe over that of a step", [arithmetic],
            f"{how}; operations of convolutions and matrix products, counted",
            key="exact probe, arithmetic"),
        row("UCR: peak memory of the exact probe over the loop's",
            [peaks["exact"] / peaks["loop"]], f"{how}; {peaks['loop']:.0f} MB in the loop",
            at_most=1.5),
        row("UCR: signs of the exact probe that are the loop's", same,
            stages, at_least=100, unit="%"),
        row("UCR: the trunk-output probe over a training step",
            ratios(seconds["trunk"], seconds["step"]), how, key="trunk-output probe"),
        row("UCR: signs of the trunk-output probe that are the exact probe's", agree,
            f"{stages}, {probes.settings.dataset}", unit="%", key="trunk-output signs")]}


if __name__ == "__main__":
    print(peak_memory(sys.argv[1], json.loads(sys.argv[2])))
